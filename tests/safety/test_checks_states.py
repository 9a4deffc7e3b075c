"""What is told of control states: permissives that they don't ask, and one mistake once."""

from __future__ import annotations

from typing import Any

import pytest

from config.site import Site
from safety.compile import compile_site
from tests.safety.test_checks import only, site_of, told

# ---------------------------------------------------------------- permissives and control states

ASK = "Controls.Shut"


def pumping(
    into: str | None,
    what: dict[str, Any],
    permissive: str = "Stack.Door",
    off: dict[str, Any] | None = None,
) -> Site:
    """A machine whose state On drives the permitted output."""
    transition = {"From": "Off", "To": "On", "By": ["operator"], "When": into}
    machine = {
        "Initial": "Off",
        "States": {"Off": {"Hold": {"Bat.Power": 0}, **(off or {})}, "On": what},
        "Transitions": [
            {key: value for key, value in transition.items() if value is not None},
            {"From": "On", "To": "Off", "When": "Stack.T < 4"},
        ],
    }
    controls = {
        "Control/Shut": {"When": permissive, "Kind": "Permissive", "Permits": ["Bat.Power"]}
    }
    return site_of(controls=controls, machines={"Pump": machine})


DRIVES: list[dict[str, Any]] = [
    {"Hold": {"Bat.Power": 5}},
    {"Set": {"Bat.Power": 5}},
    {"Ramps": {"Bat.Power": {"Segments": [{"To": 0, "Rate": 1}]}}},
]


@pytest.mark.parametrize("what", DRIVES)
@pytest.mark.parametrize("into", [None, "Stack.T > 5"])
def test_a_state_that_does_not_ask_a_permissive_is_warned_of(
    into: str | None, what: dict[str, Any]
) -> None:
    _, found = compile_site(pumping(into, what))
    assert only(found).rule == "permissive-not-asked"
    assert only(found).key == f"Control_States.Pump.States.On.{next(iter(what))}.Bat.Power"
    assert "State On drives Bat.Power, which Control/Shut permits" in only(found).message
    assert "Put Controls.Shut into the When" in only(found).message


@pytest.mark.parametrize("what", DRIVES)
def test_a_state_whose_guards_ask_the_permissive_is_left_alone(what: dict[str, Any]) -> None:
    assert told(pumping(f"{ASK} and Stack.T > 5", what)) == []


def test_a_permissive_that_asks_for_the_state_is_left_alone() -> None:
    assert told(pumping(None, DRIVES[0], "state(Pump) == 'On'")) == []


def test_the_safe_value_needs_no_permissive() -> None:
    assert told(pumping(None, {"Hold": {"Bat.Power": 0}})) == []


def test_a_timeout_asks_no_permissive() -> None:
    site = pumping(ASK, DRIVES[0], off={"MaxTime": 60.0, "OnTimeout": "On"})
    assert told(site) == [("permissive-not-asked", "Control_States.Pump.States.On.Hold.Bat.Power")]


# ---------------------------------------------------------------- one mistake, one finding


@pytest.mark.parametrize("wrong", [{"To": "Onn"}, {"From": "Of"}])
def test_a_wrong_name_of_a_state_is_told_once(wrong: dict[str, str]) -> None:
    machine = {
        "Initial": "Off",
        "States": {"Off": {}, "On": {}},
        "Transitions": [
            {"From": "Off", "To": "On", "When": "Stack.T > 5", **wrong},
            {"From": "On", "To": "Off", "When": "Stack.T < 4"},
        ],
    }
    _, found = compile_site(site_of(machines={"Pump": machine}))
    assert only(found).rule == "state-undefined"


def test_a_ramp_of_a_discrete_output_is_told_once() -> None:
    ramp = {"Ramps": {"Gas.Valve": {"Segments": [{"To": 0.5, "Rate": 1}]}}}
    machine = {"Initial": "Off", "States": {"Off": ramp}}
    _, found = compile_site(site_of(machines={"Pump": machine}))
    assert only(found).rule == "ramp-discrete"
    assert "Ramps are for analog outputs" in only(found).message
