"""The engine: start-up, latches over a restart, rules as points, clocks that misbehave."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from config import status
from config.points import POINT
from safety import kernel
from safety.layout import CAUSE_STARTUP, RANK_NONE, RANK_TRIP
from tests.safety.sites import EVALUATORS, MS, Plant, S, make_site

CHANNELS: dict[str, dict[str, Any]] = {
    "Stack.T": {},
    "Stack.P": {},
    "Gas.Valve": {"Type": "Digital", "ReadWrite": "RW", "SafeValue": 0},
    "Gas.Flow": {"ReadWrite": "RW", "SafeValue": 2.5},
}
METHODS = {
    "Close": [{"Topic": "Relay/Request/Gas", "Payload": {"Channels": {"Valve": "OFF"}}}],
    "Slow": [{"Topic": "Relay/Request/Gas", "Payload": {"Channels": {"Flow": 1}}}],
}
HOT = {"When": "Stack.T > 900", "Method": "Close"}


@pytest.fixture(params=list(EVALUATORS))
def evaluate(request: pytest.FixtureRequest) -> Callable[..., int]:
    """The kernel, then the reference."""
    return EVALUATORS[request.param]


def plant_of(evaluate: Callable[..., int], **rules: Any) -> Plant:
    """A running plant: all inputs good, start-up over."""
    plant = Plant(make_site(CHANNELS, methods=METHODS, **rules), evaluate)
    plant.set("Stack.T", 800)
    plant.set("Stack.P", 1)
    plant.scan()
    assert not plant.engine.startup
    return plant


def test_before_the_first_scan_outputs_are_demanded_at_their_safe_values() -> None:
    plant = Plant(make_site(CHANNELS, methods=METHODS, controls={"C": HOT}))
    assert plant.engine.startup
    assert plant.engine.demand.tolist() == [0.0, 2.5]
    assert plant.engine.rank.tolist() == [RANK_TRIP] * 2
    assert plant.engine.cause.tolist() == [CAUSE_STARTUP] * 2


def test_a_start_that_never_gets_good_stays_tripped(evaluate: Callable[..., int]) -> None:
    plant = Plant(make_site(CHANNELS, methods=METHODS, controls={"C": HOT}), evaluate)
    for _ in range(50):
        plant.scan()
        assert plant.engine.startup
        assert plant.demand("Gas.Flow") == (2.5, RANK_TRIP, "startup")
    assert not plant.latched("C")


def test_start_up_ends_once_for_a_program(evaluate: Callable[..., int]) -> None:
    plant = plant_of(evaluate, controls={"C": {**HOT, "OnBad": "ignore"}})
    plant.worsen("Stack.T")
    plant.scan()
    assert not plant.engine.startup
    assert plant.demand("Gas.Valve")[1] == RANK_NONE


def test_an_input_only_an_alarm_reads_does_not_hold_the_start_up(
    evaluate: Callable[..., int],
) -> None:
    alarms = {"Alarms/P": {"When": "Stack.P > 5"}}
    plant = Plant(make_site(CHANNELS, alarms, controls={"C": HOT}, methods=METHODS), evaluate)
    plant.set("Stack.T", 800)
    plant.scan()
    assert not plant.engine.startup


def test_an_input_read_through_an_alarm_holds_the_start_up(evaluate: Callable[..., int]) -> None:
    alarms = {"Alarms/P": {"When": "Stack.P > 5"}}
    controls = {"C": {"When": "alarm(P)", "Method": "Close"}}
    plant = Plant(make_site(CHANNELS, alarms, controls=controls, methods=METHODS), evaluate)
    plant.set("Stack.T", 800)
    plant.scan()
    assert plant.engine.startup
    plant.set("Stack.P", 1)
    plant.scan()
    assert not plant.engine.startup


def test_an_alarm_that_trips_on_bad_does_not_latch_on_a_point_never_read(
    evaluate: Callable[..., int],
) -> None:
    alarms = {"Alarms/P": {"When": "Stack.P > 5", "OnBad": "trip", "Latch": True}}
    plant = Plant(make_site(CHANNELS, alarms), evaluate)
    plant.scan()
    assert not plant.engine.startup
    assert plant.level("Alarms/P") == "Alarm"
    assert not plant.latched("Alarms/P")
    plant.set("Stack.P", 1)
    plant.scan()
    assert plant.level("Alarms/P") is None


# ---------------------------------------------------------------- time


def test_a_clock_that_steps_back_does_not_stop_delays(evaluate: Callable[..., int]) -> None:
    plant = plant_of(evaluate, alarms={"A": {"When": "Stack.T > 900 for 1s", "OffDelay": 1}})
    plant.set("Stack.T", 901)
    plant.scan()
    plant.scan(-500 * S)
    for _ in range(9):
        plant.scan()
        assert plant.level("A") is None
    plant.scan()
    assert plant.level("A") == "Alarm"


def test_a_clock_that_leaps_by_centuries_does_not_break_the_engine(
    evaluate: Callable[..., int],
) -> None:
    plant = plant_of(evaluate, alarms={"A": {"When": "Stack.T > 900 for 1s"}})
    for _ in range(20):
        plant.engine.scan(plant.rows, 2**62, False)
        plant.engine.scan(plant.rows, 0, False)
    plant.set("Stack.T", 901)
    plant.engine.scan(plant.rows, 5 * S, False)
    assert plant.level("A") is None
    plant.engine.scan(plant.rows, 6 * S, False)
    assert plant.level("A") == "Alarm"


def test_the_age_of_a_point_is_in_seconds_and_known_while_it_is_bad(
    evaluate: Callable[..., int],
) -> None:
    plant = plant_of(evaluate, alarms={"A": {"When": "age(Stack.T) >= 0.5"}})
    plant.set("Stack.T", 1)
    plant.worsen("Stack.T")
    plant.scan(400 * MS)
    assert plant.level("A") is None
    plant.scan(100 * MS)
    assert plant.level("A") == "Alarm"


# ---------------------------------------------------------------- latches over a restart


LATCHING: dict[str, Any] = {
    "alarms": {"Alarms/Hot": {"When": "if(Stack.T > 950, 'HH', if(Stack.T > 900, 'H', null))",
                              "Latch": True},
               "Alarms/Plain": {"When": "Stack.P > 5"}},
    "controls": {"Control/Hot": HOT, "Control/P": {"When": "Stack.P > 5", "Method": "Slow"}},
}  # fmt: skip


def test_latches_survive_a_restart_with_level_and_first_out(evaluate: Callable[..., int]) -> None:
    plant = plant_of(evaluate, **LATCHING)
    plant.set("Stack.P", 9)
    plant.scan()
    plant.set("Stack.T", 960)
    plant.scan()
    plant.set("Stack.T", 800)
    plant.set("Stack.P", 1)
    plant.scan()
    kept = plant.engine.retained()
    assert kept == {
        "Alarms/Hot": {"level": "HH", "first_out": 2},
        "Control/Hot": {"level": "Close", "first_out": 2},
        "Control/P": {"level": "Slow", "first_out": 1},
    }
    after = Plant(make_site(CHANNELS, methods=METHODS, **LATCHING), evaluate)
    after.engine.restore(kept)
    assert after.engine.point_value(after.rule("Alarms/Hot")) == 1.0
    after.set("Stack.T", 800)
    after.set("Stack.P", 1)
    assert after.scan() == []
    assert after.engine.retained() == kept
    assert after.demand("Gas.Valve") == (0.0, RANK_TRIP, "Control/Hot")
    after.scan(reset=True)
    assert after.engine.retained() == {}


def test_restore_latches_what_it_can_from_another_configuration() -> None:
    plant = plant_of(kernel.evaluate, **LATCHING)
    plant.engine.restore(
        {
            "Control/Gone": {"level": "Close", "first_out": 1},
            "Alarms/Plain": {"level": "Alarm", "first_out": 1},
            "Alarms/Hot": {"level": "Renamed", "first_out": -7},
            "Control/Hot": "garbage",  # type: ignore[dict-item]
            "Control/P": {"level": 5, "first_out": "x"},
        }
    )
    assert plant.level("Alarms/Hot") == "HH"
    assert plant.latched("Control/Hot")
    assert plant.latched("Control/P")
    assert not plant.latched("Alarms/Plain")


def test_a_damaged_record_latches_everything_that_latches(evaluate: Callable[..., int]) -> None:
    plant = Plant(make_site(CHANNELS, methods=METHODS, **LATCHING), evaluate)
    plant.engine.restore_all_latched()
    plant.set("Stack.T", 800)
    plant.set("Stack.P", 1)
    plant.scan()
    assert [plant.latched(info.name) for info in plant.program.info] == [
        info.latch for info in plant.program.info
    ]
    assert plant.demand("Gas.Valve") == (0.0, RANK_TRIP, "Control/Hot")
    plant.scan(reset=True)
    assert plant.engine.retained() == {}


def test_rules_of_one_name_keep_their_latches_apart() -> None:
    rules = {
        "alarms": {"E_Stop": {"When": "Stack.T > 900", "Latch": True}},
        "controls": {"E_Stop": {"When": "Stack.P > 5", "Method": "Close"}},
    }
    plant = plant_of(kernel.evaluate, **rules)
    plant.set("Stack.P", 9)
    plant.scan()
    kept = plant.engine.retained()
    assert list(kept) == ["E_Stop (trip)"]
    again = plant_of(kernel.evaluate, **rules)
    again.engine.restore(kept)
    assert again.engine.latched.tolist() == [False, True]


# ---------------------------------------------------------------- rules as points


def test_a_rule_shows_its_level_and_its_status_as_a_point(evaluate: Callable[..., int]) -> None:
    alarms = {
        "Held": {"When": "if(Stack.T > 950, 'HH', if(Stack.T > 900, 'H', null))"},
        "Tripping": {"When": "Stack.T > 900", "OnBad": "trip"},
    }
    plant = Plant(make_site(CHANNELS, alarms), evaluate)
    held, tripping = plant.rule("Held"), plant.rule("Tripping")

    def look() -> tuple[tuple[float, int], tuple[float, int]]:
        values, codes = plant.engine.rule_points()
        for rule in (held, tripping):
            assert plant.engine.point_value(rule) == values[rule]
        return (values[held], codes[held]), (values[tripping], codes[tripping])

    waiting = status.BAD_WAITING_FOR_INITIAL_DATA
    assert look() == ((0, waiting), (0, waiting))
    plant.scan()
    decided = status.UNCERTAIN_SUB_NORMAL  # no sensor says so
    assert look() == ((0, waiting), (1, decided))
    plant.set("Stack.T", 905)
    plant.scan()
    assert look() == ((2, status.GOOD), (1, status.GOOD))
    plant.worsen("Stack.T")
    plant.scan()
    assert look() == ((2, status.UNCERTAIN_LAST_USABLE), (1, decided))
    plant.set("Stack.T", 960)
    plant.scan()
    assert look() == ((1, status.GOOD), (1, status.GOOD))


def test_the_newest_input_is_found_through_other_rules() -> None:
    plant = plant_of(
        kernel.evaluate,
        alarms={"A": {"When": "Stack.T > 900 and Stack.P > 1"}, "B": {"When": "true"}},
        controls={"C": {"When": "alarm(A)", "Method": "Close"}},
    )
    plant.now_ns = 5000 * S
    plant.set("Stack.P", 2)
    assert plant.engine.inputs_mono_ns(plant.rule("C"), plant.rows) == 5000 * S
    assert plant.engine.inputs_mono_ns(plant.rule("B"), plant.rows) == 0


def test_scan_tells_exactly_which_rules_changed(evaluate: Callable[..., int]) -> None:
    plant = plant_of(evaluate, controls={"C": HOT, "D": {**HOT, "When": "Stack.P > 5"}})
    plant.set("Stack.T", 901)
    assert plant.scan() == ["C"]
    assert plant.scan() == []
    plant.set("Stack.T", 800)
    assert plant.scan() == []
    assert plant.scan(reset=True) == ["C"]


# ---------------------------------------------------------------- kernel and cache


def test_the_kernel_stays_at_one_specialisation() -> None:
    plant = plant_of(kernel.evaluate, controls={"C": HOT})
    plant.engine.warm_up()
    plant.engine.scan(plant.rows, np.int64(5), np.bool_(True))  # type: ignore[arg-type]
    plant.engine.scan(plant.rows, 6, 1)  # type: ignore[arg-type]
    assert len(kernel.evaluate.signatures) == 1
    frozen = plant.rows.copy()
    frozen.setflags(write=False)
    with pytest.raises(AssertionError, match="writable"):
        plant.engine.scan(frozen, 7, False)


def test_warm_up_leaves_the_state_alone() -> None:
    plant = Plant(make_site(CHANNELS, methods=METHODS, controls={"C": HOT}))
    before = plant.engine.state.tobytes(), plant.engine.memory.tobytes()
    plant.engine.warm_up()
    assert (plant.engine.state.tobytes(), plant.engine.memory.tobytes()) == before


def test_a_site_without_rules_has_an_engine_too(evaluate: Callable[..., int]) -> None:
    plant = Plant(make_site({"Stack.T": {}}), evaluate)
    assert plant.scan() == []
    assert not plant.engine.startup
    assert plant.engine.retained() == {}
    values, codes = plant.engine.rule_points()
    assert len(values) == len(codes) == 0
    assert np.zeros(3, dtype=POINT).itemsize == 40


def test_nan_and_infinity_in_good_points(evaluate: Callable[..., int]) -> None:
    plant = plant_of(evaluate, controls={"C": HOT})
    plant.set("Stack.T", math.inf)
    plant.scan()
    assert plant.level("C") == "Close"
    plant.set("Stack.T", -math.inf)
    plant.scan(reset=True)
    assert plant.level("C") is None
    plant.set("Stack.T", math.nan)
    plant.scan()
    assert plant.level("C") == "Close"


def test_division_by_zero_is_bad(evaluate: Callable[..., int]) -> None:
    plant = plant_of(
        evaluate, alarms={"D": {"When": "quality(Stack.T / (Stack.P - 1)) == 2"},
                          "M": {"When": "quality(Stack.T % (Stack.P - 1)) == 2"}}
    )  # fmt: skip
    assert [plant.level("D"), plant.level("M")] == ["Alarm", "Alarm"]
    plant.set("Stack.P", 2)
    plant.scan()
    assert [plant.level("D"), plant.level("M")] == [None, None]


def test_a_bad_channel_is_a_whole_vote_for_the_trip(evaluate: Callable[..., int]) -> None:
    # Not only bad: the vote is true, so a delay behind it runs. A vote that keeps the trip away is
    # bad instead, and the trip is active.
    vote = "vote(2, Stack.T > 900, Stack.P > 5, false)"
    controls = {
        "Delayed": {"When": f"{vote} for 200ms", "Method": "Close"},
        "Negated": {"When": f"not {vote}", "Method": "Close", "Latch": False},
        "Holding": {"When": f"{vote} for 200ms", "Method": "Close", "OnBad": "hold"},
    }
    plant = plant_of(evaluate, controls=controls)
    assert plant.level("Negated") == "Close"
    plant.set("Stack.P", 6)
    plant.worsen("Stack.T")
    plant.scan()
    assert [plant.level(name) for name in controls] == [None, "Close", None]
    plant.scan(200 * MS)
    assert [plant.level(name) for name in controls] == ["Close", "Close", None]


def test_a_trip_on_bad_keeps_the_level_that_is_shown(evaluate: Callable[..., int]) -> None:
    when = "if(Stack.T > 950, 'HH', if(Stack.T > 900, 'H', null))"
    plant = plant_of(evaluate, alarms={"A": {"When": when, "OnBad": "trip"}})
    plant.worsen("Stack.T")
    plant.scan()
    assert plant.level("A") == "HH"
    plant.set("Stack.T", 905)
    plant.scan()
    plant.worsen("Stack.T")
    plant.scan()
    assert plant.level("A") == "H"


def test_a_value_from_the_future_has_the_age_zero(evaluate: Callable[..., int]) -> None:
    plant = plant_of(evaluate, alarms={"A": {"When": "age(Stack.T) == 0"}})
    plant.scan(-300 * S)
    assert plant.level("A") == "Alarm"


def test_a_latch_waits_for_its_off_delay_after_the_reset(evaluate: Callable[..., int]) -> None:
    plant = plant_of(evaluate, controls={"C": {**HOT, "OffDelay": 1}})
    plant.set("Stack.T", 901)
    plant.scan()
    plant.set("Stack.T", 800)
    plant.scan(reset=True)
    assert (plant.latched("C"), plant.level("C")) == (False, "Close")
    plant.scan(1000 * MS)
    assert plant.level("C") is None


def test_one_switch_of_a_latched_rule_to_another_method(evaluate: Callable[..., int]) -> None:
    when = "if(Stack.T > 950, 'Close', if(Stack.T > 900, 'Slow', null))"
    plant = plant_of(evaluate, controls={"C": {"When": when}})
    for value, method in ((901, "Slow"), (960, "Close"), (901, "Slow"), (800, "Slow")):
        plant.set("Stack.T", value)
        plant.scan()
        assert plant.level("C") == method
        assert plant.latched("C")
    assert plant.demand("Gas.Flow") == (1.0, RANK_TRIP, "C")
    assert plant.demand("Gas.Valve")[1] == RANK_NONE
