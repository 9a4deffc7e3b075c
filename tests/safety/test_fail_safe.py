"""Lost inputs end on the safe side: in votes that keep a trip away, limits, transitions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from safety.compile import compile_site
from tests.safety.sites import EVALUATORS, Plant, errors, make_site
from tests.safety.test_checks import CLOSE, STOP

CHANNELS: dict[str, dict[str, Any]] = {
    "Fan.A": {"Type": "Digital"},
    "Fan.B": {"Type": "Digital"},
    "Fan.C": {"Type": "Digital"},
    "Meter.Power": {"Units": "kW"},
    "Meter.Parallel": {"Type": "Digital"},
    "Gas.Valve": {"Type": "Digital", "ReadWrite": "RW", "SafeValue": 0},
    "PV.Limit": {"ReadWrite": "RW", "SafeValue": 0, "Units": "kW"},
}
FANS = ("Fan.A", "Fan.B", "Fan.C")


@pytest.fixture(params=EVALUATORS)
def evaluate(request: pytest.FixtureRequest) -> Callable[..., int]:
    """Each of the evaluators."""
    return EVALUATORS[request.param]


def site_of(**rules: Any) -> Any:
    """A site that has an E_Stop."""
    return make_site(CHANNELS, **{**rules, "controls": {**STOP, **rules.get("controls", {})}})


# ---------------------------------------------------------------- votes

HEALTHY = "vote(2, Fan.A, Fan.B, Fan.C)"
KEEPING_AWAY = [
    f"not {HEALTHY}",
    f"{HEALTHY} == false",
    f"if({HEALTHY}, null, 'Trip')",
    f"not ({HEALTHY} and true)",
    f"quality(Fan.A) == 9 or not {HEALTHY}",
]


@pytest.mark.parametrize("when", KEEPING_AWAY)
def test_a_lost_channel_never_votes_against_a_trip(when: str, evaluate: Callable[..., int]) -> None:
    method = {"Method": "Trip"} if when.startswith("if") else {"Effects": CLOSE}
    control = {"When": when, "Latch": False, **method}
    methods = {"Trip": [{"Topic": "Relay/Request/Gas", "Payload": {"Channels": {"Valve": 0}}}]}
    plant = Plant(
        site_of(controls={"Fans": control}, methods=methods if "Method" in method else {}), evaluate
    )
    for fan in FANS:
        plant.set(fan, 1)
    plant.scan()
    assert plant.level("Fans") is None
    plant.worsen("Fan.A")  # two that are good still are enough
    plant.scan()
    assert plant.level("Fans") is None
    plant.set("Fan.B", 0)
    plant.scan()
    assert plant.level("Fans") == "Trip"
    for fan in FANS:
        plant.worsen(fan)
    plant.scan()
    assert plant.level("Fans") == "Trip"


def test_two_negations_are_none(evaluate: Callable[..., int]) -> None:
    control = {"When": f"(not not {HEALTHY}) for 200ms", "Effects": CLOSE}
    plant = Plant(site_of(controls={"Fans": control}), evaluate)
    for fan in FANS:
        plant.set(fan, 0)
    plant.scan()
    plant.set("Fan.A", 1)
    plant.worsen("Fan.B")
    plant.scan()
    assert plant.level("Fans") is None  # a vote for the trip: its delay runs, it is not bad
    plant.scan()
    plant.scan()
    assert plant.level("Fans") == "Trip"


# ---------------------------------------------------------------- grid functions


def limits(plant: Plant) -> tuple[float, float, float]:
    """What functions propose for PV.Limit, and between which limits."""
    output = plant.engine.outputs[
        plant.program.outputs.tolist().index(plant.site.index["PV.Limit"])
    ]
    return float(output["auto"]), float(output["low"]), float(output["high"])


def test_a_limit_holds_while_nobody_knows_whether_it_is_on(evaluate: Callable[..., int]) -> None:
    export = {
        "Function": "ExportLimit", "Output": "PV.Limit", "Exchange": "Meter.Power",
        "Power": "PV.Limit", "Limit": 30.0, "When": "Meter.Parallel == 1",
    }  # fmt: skip
    plant = Plant(site_of(functions={"Export": export}), evaluate)
    plant.scan()
    assert limits(plant)[2] == 30.0  # nothing was read yet
    for tag, value in (("Meter.Parallel", 0), ("Meter.Power", 5.0), ("PV.Limit", 10.0)):
        plant.set(tag, value)
    plant.scan()
    assert limits(plant)[2] == math.inf
    plant.set("Meter.Parallel", 1)
    plant.scan()
    assert limits(plant)[2] == 45.0
    for tag in ("Meter.Parallel", "Meter.Power"):
        plant.worsen(tag)
    plant.scan()
    assert limits(plant)[2] == 30.0


def test_a_setpoint_lets_go_while_nobody_knows_whether_it_is_on(
    evaluate: Callable[..., int],
) -> None:
    wish = {"Role": "Setpoint", "Output": "PV.Limit", "Value": "7", "When": "Meter.Parallel == 1"}
    plant = Plant(site_of(functions={"Wish": wish}), evaluate)
    for tag in ("Meter.Parallel", *FANS):
        plant.set(tag, 1)
    plant.scan()
    assert limits(plant)[0] == 7.0
    plant.worsen("Meter.Parallel")
    plant.scan()
    assert math.isnan(limits(plant)[0])


def test_the_first_setpoint_in_the_file_counts_whatever_refers_to_others() -> None:
    wish = {"Role": "Setpoint", "Output": "PV.Limit"}
    functions = {"One": {**wish, "Value": "1"}, "Two": {**wish, "Value": "2"}}
    site = site_of(functions=functions, alarms={"A": {"When": "Functions.Two > 5"}})
    plant = Plant(site)
    plant.scan()
    plant.scan()
    assert limits(plant)[0] == 1.0


def test_a_setpoint_that_needs_a_later_one_of_its_output_is_a_circle() -> None:
    wish = {"Role": "Setpoint", "Output": "PV.Limit"}
    functions = {
        "One": {**wish, "Value": "Functions.Two + 1"},
        "Two": {**wish, "Value": "2"},
    }
    program, found = compile_site(site_of(functions=functions))
    assert program is None
    assert errors(found) == ["rule-cycle"]
    assert any("the first in the file is decided first" in finding.message for finding in found)


# ---------------------------------------------------------------- control states, permissives


@pytest.mark.parametrize("when", ["Controls.Leak", "Controls.Leak or Meter.Parallel"])
def test_a_machine_hears_of_a_trip_by_a_lost_input(when: str, evaluate: Callable[..., int]) -> None:
    machine = {
        "Initial": "Run",
        "States": {"Run": {}, "Emergency": {}},
        "Transitions": [
            {"To": "Emergency", "When": when, "Urgent": True},
            {"From": "Emergency", "To": "Run", "By": ["operator"], "When": "not Controls.Leak"},
        ],
    }
    leak = {"When": "Fan.A", "Effects": CLOSE}
    plant = Plant(site_of(controls={"Leak": leak}, machines={"M": machine}), evaluate)
    for tag in ("Meter.Parallel", "Fan.A"):
        plant.set(tag, 0)
    plant.scan()
    assert plant.engine.mode(0) == "Run"
    plant.worsen("Fan.A")
    plant.scan()
    assert plant.level("Leak") == "Trip"
    assert plant.engine.mode(0) == "Emergency"
    assert plant.engine.refusal(0, 0, "operator") != ""


def test_a_permissive_gives_no_names() -> None:
    """Of names each would permit, Denied too."""
    names = {"if": [{"var": "$LiveData/Fan/A"}, "Permitted", "Denied"]}
    permissive = {"Kind": "Permissive", "Rule": names, "Permits": ["Gas.Valve"]}
    program, found = compile_site(site_of(controls={"P": permissive}))
    assert program is None
    assert errors(found) == ["rule-type"]
