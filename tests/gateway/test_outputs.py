"""What an output is driven to: proposals, limits, ramps; and how often it is written and told."""

from __future__ import annotations

import math
from typing import Any

import pytest

from gateway.outputs import MOVE_NS, REDRIVE_NS, RENAME_NS, VERIFY_NS, Demand, Proposal
from tests.gateway.points import land, output
from tests.gateway.test_commands import SECOND_NS, Bench

SCAN_NS = SECOND_NS // 10


def auto(bench: Bench, value: float, cause: str = "Droop", **more: Any) -> None:
    bench.proposals = {1: Proposal(value, cause, **more)}


def limit(bench: Bench, **limits: Any) -> None:
    bench.proposals = {1: Proposal(**limits)}


# ---------------------------------------------------------------- rank and limits


def test_a_proposal_stands_below_every_setpoint_and_above_the_fallback() -> None:
    bench = Bench(output(fallback=5.0))
    assert bench.values() == [5.0]
    auto(bench, 20.0)
    assert bench.values() == [20.0]
    bench.send(30.0, origin="schedule", lease_ns=SECOND_NS)
    assert bench.values() == [30.0]
    bench.now_ns += SECOND_NS
    assert bench.values() == [20.0]
    bench.proposals = {}
    assert bench.values() == [5.0]


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("trip", "held by trip X"),
        ("interlock", "held by interlock X"),
        ("state", "held by state X"),
    ],
)
def test_protection_goes_before_proposals_and_limits_and_refuses_by_its_name(
    kind: str, told: str
) -> None:
    bench = Bench()
    bench.proposals = {1: Proposal(50.0, "Droop", 3.0, 10.0, 20.0, "Low", "High")}
    bench.demands = {1: Demand(90.0, "X", kind)}
    assert bench.values() == [90.0]
    assert not bench.send(1.0)
    assert bench.last_reason() == told


@pytest.mark.parametrize(
    ("asked", "limits", "driven"),
    [
        (50.0, {}, 50.0),
        (50.0, {"offset": -7.5}, 42.5),
        (50.0, {"high": 40.0}, 40.0),
        (50.0, {"low": 60.0}, 60.0),
        (50.0, {"low": 45.0, "high": 55.0}, 50.0),
        (50.0, {"low": 60.0, "high": 40.0}, 40.0),  # where they contradict, high wins
        (50.0, {"offset": 20.0, "high": 60.0}, 60.0),
        (50.0, {"offset": 90.0}, 100.0),  # the point's Maximum
        (50.0, {"offset": -90.0}, 0.0),  # and Minimum
        (50.0, {"high": -5.0}, 0.0),
    ],
)
def test_offset_then_limits_then_the_points_range(
    asked: float, limits: dict[str, float], driven: float
) -> None:
    bench = Bench()
    limit(bench, **limits)
    bench.send(asked)
    assert bench.values() == [driven]


def test_a_fallback_is_held_to_a_limit_too() -> None:
    bench = Bench(output(fallback=80.0))
    limit(bench, high=60.0, high_cause="Export_Limit")
    assert bench.values() == [60.0]


def test_an_output_that_nothing_wants_is_driven_to_its_upper_limit_only() -> None:
    bench = Bench(output(safe_value=math.nan, fallback=math.nan))
    limit(bench, low=10.0, low_cause="Reserve")
    assert bench.values() == []
    limit(bench, high=60.0, high_cause="Export_Limit")
    assert bench.values() == [60.0]
    bench.cycle()
    assert bench.steps(cause="Export_Limit") == ["driven", "verified"]


def test_a_discrete_output_takes_whole_numbers_whatever_is_proposed() -> None:
    bench = Bench(output(kind="discrete", states=("off", "on")))
    auto(bench, 0.7)
    assert bench.values() in ([1.0], [])
    assert bench.commands.outputs[1].desired == 1.0


def test_a_command_that_a_limit_holds_is_told_once_for_each_limit() -> None:
    bench = Bench()
    bench.cycle()
    limit(bench, high=7.5, high_cause="Export_Limit")
    bench.send(10.0)
    for high in (7.5, 7.4, 7.3):
        limit(bench, high=high, high_cause="Export_Limit")
        bench.cycle()
        bench.cycle()
    told = [r["reason"] for r in bench.receipts if r["step"] == "limited"]
    assert told == ["held to 7.5 by Export_Limit"]
    limit(bench, high=5.0, high_cause="Volt_Watt")
    bench.cycle()
    told = [r["reason"] for r in bench.receipts if r["step"] == "limited"]
    assert told[1:] == ["held to 5 by Volt_Watt"]
    limit(bench, low=60.0, low_cause="Reserve")
    bench.cycle()
    told = [r["reason"] for r in bench.receipts if r["step"] == "limited"]
    assert told[2:] == ["held to 60 by Reserve"]
    assert bench.steps(command="c1")[:4] == ["accepted", "limited", "driven", "verified"]


# ---------------------------------------------------------------- what moves in every scan


def test_a_value_that_moves_in_every_scan_is_told_once_a_cause() -> None:
    bench = Bench()
    for step in range(100):
        auto(bench, 20.0 + 0.1 * step)
        bench.cycle(SCAN_NS)
    assert bench.steps(cause="Droop") == ["driven", "verified"]


def test_a_small_move_is_written_once_a_second_and_a_large_one_at_once() -> None:
    bench = Bench(output(deadband=1.0))
    auto(bench, 20.0)
    bench.cycle(SCAN_NS)
    writes = 0
    for step in range(100):
        auto(bench, 20.0 + 0.001 * step)
        writes += len(bench.cycle(SCAN_NS))
    assert 9 <= writes <= 11
    auto(bench, 30.0)
    assert bench.values() == [30.0]


def test_a_number_is_rewritten_at_most_ten_times_a_second() -> None:
    bench = Bench()
    writes = 0
    for step in range(1000):
        auto(bench, 20.0 + 0.1 * step)
        writes += len(bench.cycle(SECOND_NS // 1000))
    assert writes <= SECOND_NS // MOVE_NS + 1


def test_a_slow_device_has_one_write_of_a_moving_value_under_way() -> None:
    bench = Bench()
    auto(bench, 20.0)
    assert len(bench.scan()) == 1
    for step in range(50):
        bench.now_ns += SCAN_NS
        auto(bench, 21.0 + step)
        assert bench.scan() == []
    bench.commands.written(1, 20.0, bench.now_ns)
    assert [w.value for w in bench.scan()] == [70.0]


def test_a_trip_replaces_a_moving_value_that_is_under_way() -> None:
    bench = Bench()
    auto(bench, 20.0)
    bench.scan()
    bench.demands = {1: Demand(0.0, "Fire")}
    assert [(w.value, w.urgent) for w in bench.scan()] == [(0.0, True)]


def test_a_ramp_that_a_control_state_holds_floods_neither_device_nor_receipts() -> None:
    bench = Bench(output(deadband=1.0))
    writes = []
    for step in range(100):
        bench.demands = {1: Demand(0.1 * step, "Stack: Heat_Up", "state")}
        writes += bench.cycle(SCAN_NS)
    assert 9 <= len(writes) <= 11
    assert not any(write.urgent for write in writes[1:])
    assert bench.steps(cause="Stack: Heat_Up") == ["driven", "verified"]


def test_causes_that_take_turns_are_told_once_a_second_and_the_last_one_in_the_end() -> None:
    bench = Bench()
    for step in range(100):
        auto(bench, 20.0, "Volt_Watt" if step % 2 else "Droop")
        bench.cycle(SCAN_NS)
    assert len(bench.receipts) <= 2 * (100 * SCAN_NS // RENAME_NS + 1)
    auto(bench, 20.0, "Peak_Shaving")
    for _ in range(12):
        bench.cycle(SCAN_NS)
    assert bench.steps(cause="Peak_Shaving") == ["verified"]


def test_a_moving_value_that_the_device_shows_later_is_followed() -> None:
    bench = Bench()
    shown: list[float] = []
    for step in range(200):
        auto(bench, 0.5 * step)
        for write in bench.scan():
            bench.commands.written(1, write.value, bench.now_ns)
            shown.append(write.value)
        if len(shown) > 10:
            land(bench.table, 1, shown[-10], bench.now_ns)  # a second behind
        bench.now_ns += SCAN_NS
    assert "failed" not in bench.steps()


def test_a_moving_value_that_the_device_ignores_fails() -> None:
    bench = Bench()
    for step in range(200):
        auto(bench, 20.0 + 0.5 * step)
        for write in bench.scan():
            bench.commands.written(1, write.value, bench.now_ns)
        land(bench.table, 1, 3.0, bench.now_ns)
        bench.now_ns += SCAN_NS
    assert bench.steps(cause="Droop") == ["driven", "failed"]


def test_a_device_that_stops_on_its_way_fails_although_it_followed_at_first() -> None:
    bench = Bench()
    for step in range(150):
        auto(bench, min(20.0 + step, 60.0))
        for write in bench.scan():
            bench.commands.written(1, write.value, bench.now_ns)
        land(bench.table, 1, min(20.0 + step, 40.0), bench.now_ns)
        bench.now_ns += SCAN_NS
    assert bench.steps(cause="Droop").count("failed") == 1


def test_a_step_of_an_automatic_value_has_time_to_arrive() -> None:
    bench = Bench()
    auto(bench, 20.0)
    for _ in range(200):
        bench.cycle(SCAN_NS)
    auto(bench, 60.0)
    for write in bench.scan():
        bench.commands.written(1, write.value, bench.now_ns)
    for shown in (15.0, 15.0, 60.0):  # it swings before it rises
        bench.now_ns += VERIFY_NS // 4
        land(bench.table, 1, shown, bench.now_ns)
        bench.scan()
    assert "failed" not in bench.steps()


def test_writes_that_fail_are_told_again_after_they_worked() -> None:
    bench = Bench()
    auto(bench, 20.0)
    bench.cycle()
    bench.cycle()
    for value in (21.0, 22.0):
        auto(bench, value)
        for write in bench.scan():
            bench.commands.write_failed(1, write.value, "no answer")
        bench.now_ns += REDRIVE_NS
        bench.cycle()
        bench.cycle()
    assert bench.steps(cause="Droop").count("failed") == 2
    assert bench.steps(cause="Droop")[-1] == "verified"


# ---------------------------------------------------------------- setpoints


def test_a_setpoint_that_is_replaced_or_given_back_leaves_a_receipt() -> None:
    bench = Bench(output(fallback=5.0))
    bench.send(30.0)
    bench.send(40.0)
    ended = [r for r in bench.receipts if r["step"] == "released"]
    assert [(r["command"], r["value"], r["reason"]) for r in ended] == [
        ("c1", 30.0, "replaced by c2")
    ]
    bench.cycle()
    bench.send(0.0, release=True)
    assert bench.receipts[-2]["reason"] == "given back by c3"
    assert bench.receipts[-2]["command"] == "c2"


def test_a_reserved_output_refuses_commands() -> None:
    bench = Bench()
    bench.commands.reserve(1, "the watchdog toggles this output")
    assert not bench.send(1.0)
    assert "watchdog" in bench.last_reason()


def test_an_output_that_rests_wakes_up_when_its_lease_ends() -> None:
    bench = Bench(output(fallback=5.0))
    bench.send(40.0, lease_ns=10 * SECOND_NS)
    for _ in range(20):
        bench.cycle()
    assert not bench.commands._busy.any()
    bench.now_ns += 10 * SECOND_NS
    assert bench.values() == [5.0]


def test_an_output_that_rests_wakes_up_when_its_read_back_leaves() -> None:
    bench = Bench()
    bench.send(40.0)
    for _ in range(20):
        bench.cycle()
    land(bench.table, 1, math.nan, bench.now_ns)
    bench.scan()
    assert bench.steps(command="c1")[-1] == "failed"
