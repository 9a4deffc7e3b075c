"""What only the whole program shows: shadowed rules, unreachable states, functions, outputs."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from config.findings import Finding
from config.model import WatchdogEntry
from config.site import Site
from safety.compile import compile_site
from safety.infix import parse
from safety.shadow import limit
from tests.safety.sites import errors, make_site

CHANNELS: dict[str, dict[str, Any]] = {
    "Stack.T": {},
    "Stack.P": {},
    "Stack.Door": {"Type": "Digital"},
    "Gas.Valve": {"Type": "Digital", "ReadWrite": "RW", "SafeValue": 0},
    "Gas.Lamp": {"Type": "Digital", "ReadWrite": "RW", "SafeValue": 0},
    "Bat.Power": {"ReadWrite": "RW", "SafeValue": 0, "Minimum": -50, "Maximum": 50},
}
CLOSE = {"Gas.Valve": 0}
STOP = {"Control/E_Stop": {"When": "Gateway.E_Stop", "Effects": CLOSE}}


def site_of(**rules: Any) -> Site:
    """A site that has an E_Stop."""
    return make_site(CHANNELS, **{**rules, "controls": {**STOP, **rules.get("controls", {})}})


def told(site: Site) -> list[tuple[str, str]]:
    """Rule and key of every finding; the program must be whole all the same."""
    program, found = compile_site(site)
    assert program is not None, "\n".join(map(str, found))
    return [(finding.rule, finding.key) for finding in found]


def only(found: list[Finding]) -> Finding:
    """The one finding there is."""
    assert len(found) == 1, "\n".join(map(str, found))
    return found[0]


# ---------------------------------------------------------------- shadowed rules


def trip(when: str, **keys: Any) -> dict[str, Any]:
    """A trip that closes the valve."""
    return {"When": when, "Effects": CLOSE, **keys}


SHADOWED = [
    (trip("Stack.T > 900"), trip("Stack.T > 950")),
    (trip("Stack.T > 950"), trip("Stack.T > 900")),
    (trip("Stack.T >= 900"), trip("Stack.T > 900")),
    (trip("Stack.T < 10"), trip("5 >= Stack.T")),
    (trip("Stack.T > -5"), trip("Stack.T > 0 for 5s")),
    (trip("Stack.T > 900 for 5s", OnDelay=6.0), trip("Stack.T > 950 for 5s", OnDelay=6.0)),
    (trip("Stack.T > 900 hysteresis 20"), trip("Stack.T > 950 hysteresis 10")),
    (trip("Stack.T > 900"), trip("Stack.T > 950", Kind="Interlock")),
    (trip("Stack.T > 900"), trip("Stack.T > 950", BypassMax=5.0)),
    (trip("Stack.Door and Stack.T > 5"), trip("Stack.Door and Stack.T > 5")),
    (trip("Stack.Door"), trip("Stack.Door for 5s")),
]


@pytest.mark.parametrize(("one", "other"), SHADOWED)
def test_a_rule_that_never_acts_alone_is_warned_of(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    found = told(site_of(controls={"One": one, "Other": other}))
    rule, key = only_pair(found)
    assert rule == "rule-shadowed"
    assert key in ("Automatic_Controls.One.When", "Automatic_Controls.Other.When")


def only_pair(found: list[tuple[str, str]]) -> tuple[str, str]:
    """The one finding there is."""
    assert len(found) == 1, found
    return found[0]


def test_the_stronger_limit_is_the_one_that_is_shadowed() -> None:
    controls = {"High": trip("Stack.T > 950"), "Low": trip("Stack.T > 900")}
    _, found = compile_site(site_of(controls=controls))
    assert only(found).key == "Automatic_Controls.High.When"
    assert "Whenever it is active, Low is too" in only(found).message
    assert "Stack.T > 900" in only(found).message


NOT_SHADOWED = [
    (trip("Stack.T > 900"), trip("Stack.P > 950")),
    (trip("Stack.T > 900"), trip("Stack.T < 950")),
    (trip("Stack.T > 900 for 5s"), trip("Stack.T > 950")),
    (trip("Stack.T > 900", OnDelay=5.0), trip("Stack.T > 950")),
    # A bad value starts `for` anew, but not OnDelay.
    (trip("Stack.T > 900 for 5s"), trip("Stack.T > 950", OnDelay=6.0)),
    (trip("Stack.T > 900"), trip("Stack.T > 910 hysteresis 20")),
    (trip("Stack.T > 900", Latch=False), trip("Stack.T > 950")),
    (trip("Stack.T > 900", OnBad="ignore"), trip("Stack.T > 950")),
    (trip("Stack.T > 900", BypassMax=5.0), trip("Stack.T > 950")),
    (trip("Stack.T > 900", Kind="Interlock", Latch=True), trip("Stack.T > 950")),
    (trip("Stack.T > 900"), trip("Stack.T > 950", Effects={"Gas.Lamp": 0})),
    (trip("Stack.T > 900"), trip("Stack.T > 950", Latch=False, OffDelay=5.0)),
    (trip("Stack.T == 900"), trip("Stack.T == 950")),
    (trip("Stack.Door"), trip("Stack.Door and Stack.T > 5")),
]


@pytest.mark.parametrize(("one", "other"), NOT_SHADOWED)
def test_rules_that_differ_are_not_shadowed(one: dict[str, Any], other: dict[str, Any]) -> None:
    found = told(site_of(controls={"One": one, "Other": other}))
    assert "rule-shadowed" not in dict(found)


def test_alarms_are_shadowed_where_they_say_the_same() -> None:
    low, high = {"When": "Stack.T > 900"}, {"When": "Stack.T > 950"}
    assert told(site_of(alarms={"A": low, "B": high})) == [("rule-shadowed", "AlarmStates.B.When")]
    assert told(site_of(alarms={"A": low, "B": {**high, "Priority": "high"}})) == []
    assert told(site_of(alarms={"A": low, "B": {**high, "Level": "HighHigh"}})) == []
    assert told(site_of(alarms={"A": {**low, "SuppressWhen": "Stack.Door"}, "B": high})) == []
    both = {"SuppressWhen": "Stack.Door"}
    found = told(site_of(alarms={"A": {**low, **both}, "B": {**high, **both}}))
    assert found == [("rule-shadowed", "AlarmStates.B.When")]
    used = {"C": {"When": "alarm(B)", "Effects": {"Gas.Lamp": 0}}}
    assert told(site_of(alarms={"A": low, "B": high}, controls=used)) == []


def test_limits_in_different_units_are_not_compared() -> None:
    assert limit(parse("A.x > 900 [degC]"))[0] != limit(parse("A.x > 900 [K]"))[0]
    assert limit(parse("A.x > 900 [K]"))[0] == limit(parse("A.x > 950 [K]"))[0]


def test_json_logic_and_infix_are_compared() -> None:
    rule = {
        "Rule": {"if": [{">": [{"var": "T"}, 950]}, "Close", None]},
        "Data": {"T": "$LiveData/Stack/T"},
    }
    methods = {"Close": [{"Topic": "Relay/Request/Gas", "Payload": {"Channels": {"Valve": 0}}}]}
    controls = {"Seed": rule, "Ours": {"When": "Stack.T > 900", "Method": "Close"}}
    found = told(site_of(controls=controls, methods=methods))
    assert found == [("rule-shadowed", "Automatic_Controls.Seed.Rule")]


# ---------------------------------------------------------------- outputs and inputs


def test_a_trip_away_from_the_safe_value_is_warned_of() -> None:
    controls = {"C": {"When": "Stack.T > 1", "Effects": {"Gas.Lamp": 1}}}
    assert told(site_of(controls=controls)) == [
        ("trip-not-safe", "Automatic_Controls.C.Effects.Gas.Lamp")
    ]
    controls["C"]["Kind"] = "Interlock"
    assert told(site_of(controls=controls)) == []


def test_protection_without_an_age_limit_is_warned_of() -> None:
    site = site_of(
        alarms={"A": {"When": "Stack.P > 1"}}, controls={"C": trip("Stack.T > 1 and alarm(A)")}
    )
    points = tuple(dataclasses.replace(point, age_ns_max=0) for point in site.points)
    found = told(dataclasses.replace(site, points=points))
    assert found == [("age-limit-missing", "Channels.T.AgeLimit")]
    _, findings = compile_site(dataclasses.replace(site, points=points))
    assert "Stack.T, Stack.P, and" in findings[0].message


def test_a_grid_function_without_an_age_limit_is_warned_of() -> None:
    site = site_of(functions={"F": function(Value="Stack.T", Role="Maximum")})
    points = tuple(dataclasses.replace(point, age_ns_max=0) for point in site.points)
    assert ("age-limit-missing", "Channels.T.AgeLimit") in told(
        dataclasses.replace(site, points=points)
    )


@pytest.mark.parametrize(
    ("name", "priority", "rule"),
    [("A", "urgent", "suppress-urgent"), ("E_Stop", "low", "suppress-urgent"), ("A", "high", None)],
)
def test_an_urgent_alarm_is_not_suppressed(name: str, priority: str, rule: str | None) -> None:
    alarm = {"When": "Stack.T > 1", "SuppressWhen": "Stack.Door", "Priority": priority}
    assert [found for found, _ in told(site_of(alarms={name: alarm}))] == ([rule] if rule else [])


@pytest.mark.parametrize(
    ("text", "rule", "key"),
    [
        ("Stack.Q > 1", "reference-undefined", "SuppressWhen"),
        ("Stack.T", "rule-type", "SuppressWhen"),
        ("(", "rule-syntax", "SuppressWhen"),
        ("alarm(B)", "rule-cycle", "SuppressWhen"),
    ],
)
def test_a_wrong_suppression_is_found(text: str, rule: str, key: str) -> None:
    alarms = {
        "A": {"When": "Stack.T > 1", "SuppressWhen": text},
        "B": {"When": "alarm(B)" if rule == "rule-cycle" else "Stack.P > 1"},
    }
    _, found = compile_site(site_of(alarms=alarms))
    assert errors(found) == [rule]
    if rule != "rule-cycle":
        assert only(found).key == f"AlarmStates.A.{key}"


def test_a_suppression_may_read_its_own_alarm_and_data() -> None:
    alarm = {
        "When": "t > 1", "SuppressWhen": "alarm(A) and t > 5", "Data": {"t": "$LiveData/Stack/T"}
    }  # fmt: skip
    assert told(site_of(alarms={"A": alarm})) == []


def watched(outputs: list[str], **rules: Any) -> Site:
    """A site with a watchdog."""
    site = site_of(**rules)
    entry = WatchdogEntry(Outputs=outputs)
    return dataclasses.replace(site, system=site.system.model_copy(update={"Watchdog": entry}))


LIT = {"Initial": "On", "States": {"On": {"Set": {"Gas.Lamp": 1}}}}


@pytest.mark.parametrize(
    ("rules", "key"),
    [
        ({"controls": {"C": trip("Stack.Door", Effects={"Gas.Lamp": 0})}},
         "Automatic_Controls.C.Effects.Gas.Lamp"),
        ({"machines": {"M": LIT}}, "Control_States.M.States.On.Set.Gas.Lamp"),
        ({"functions": {"F": {"Output": "Gas.Lamp", "Role": "Setpoint", "Value": "1"}}},
         "Grid_Functions.F.Output"),
    ],
)  # fmt: skip
def test_what_a_watchdog_toggles_nothing_else_drives(rules: dict[str, Any], key: str) -> None:
    assert told(watched(["Gas.Lamp"], **rules)) == [("watchdog-driven", key)]
    assert told(watched([], **rules)) == []


# ---------------------------------------------------------------- grid functions


def function(**keys: Any) -> dict[str, Any]:
    """A function that limits the battery."""
    declared = {"Output": "Bat.Power", "BadValue": 0.0}
    expression = {} if "Function" in keys else {"Role": "Maximum", "Value": "Stack.T"}
    return {**declared, **expression, **keys}


FUNCTION_FAULTS = [
    ({"Value": "Stack.Q"}, "reference-undefined", "Value"),
    ({"Value": "'x'"}, "rule-type", "Value"),
    ({"Value": "("}, "rule-syntax", "Value"),
    ({"When": "("}, "rule-syntax", "When"),
    ({"When": "Stack.T"}, "rule-type", "When"),
    ({"When": "alarm(S)"}, "reference-undefined", "When"),
    (
        {"Function": "VoltVar", "Voltage": "abs(Stack.Q)", "Nominal": 400.0, "Rated": 50.0},
        "reference-undefined",
        "Voltage",
    ),
    ({"Output": "Bat.Powr"}, "reference-undefined", "Output"),
    ({"Output": "Stack.T"}, "not-an-output", "Output"),
    ({"Output": "Bat.Power", "BadValue": 51.0}, "value-out-of-range", "BadValue"),
    ({"Output": "Gas.Lamp", "BadValue": 1.0}, "function-discrete", "Output"),
    ({"Value": "Functions.F + 1"}, "rule-cycle", "Value"),
]


@pytest.mark.parametrize(("keys", "rule", "key"), FUNCTION_FAULTS)
def test_a_wrong_function_is_found(keys: dict[str, Any], rule: str, key: str) -> None:
    program, found = compile_site(site_of(functions={"F": function(**keys)}))
    assert program is None
    assert errors(found) == [rule]
    assert only(found).key == f"Grid_Functions.F.{key}"


def test_a_function_becomes_a_rule_behind_its_guard() -> None:
    functions = {
        "Late": function(Value="Functions.First * 2", Role="Offset", BadValue=None),
        "First": function(When="alarm(A) and Stack.Door"),
    }
    site = site_of(functions=functions, alarms={"A": {"When": "Stack.P > 1"}})
    program, found = compile_site(site)
    assert found == []
    assert program is not None
    names = [info.name for info in program.info]
    assert names == ["Control/E_Stop", "A", "First: When", "First", "Late"]
    first, late = program.rules[3], program.rules[4]
    assert (first["enable"], late["enable"]) == (2, -1)
    assert (first["role"], late["role"]) == (1, 3)
    assert first["bad_value"] == 0.0
    assert late["bad_value"] != late["bad_value"]
    assert program.outputs[first["output"]] == site.index["Bat.Power"]
    assert first["point"] == program.info[3].point == site.index["Functions.First"]
    assert program.info[4].inputs == (site.index["Stack.T"],)


def test_a_limit_that_lets_go_on_bad_inputs_is_warned_of() -> None:
    for role, warned in (("Maximum", 1), ("Minimum", 1), ("Setpoint", 0), ("Offset", 0)):
        found = told(site_of(functions={"F": function(Role=role, BadValue=None)}))
        assert found == warned * [("function-fails-open", "Grid_Functions.F.BadValue")]


def test_two_functions_that_set_one_output_are_warned_of() -> None:
    one, other = function(Role="Setpoint"), function(Role="Setpoint", Value="Stack.P")
    shadowed = [("function-shadowed", "Grid_Functions.B.Output")]
    assert told(site_of(functions={"A": one, "B": other})) == shadowed
    day, night = {**one, "When": "Stack.Door"}, {**other, "When": "not Stack.Door"}
    assert told(site_of(functions={"A": day, "B": night})) == []
    assert told(site_of(functions={"A": day, "B": other})) == []
    assert told(site_of(functions={"A": one, "B": night})) == shadowed
    assert told(site_of(functions={"A": day, "B": {**other, "When": "Stack.Door"}})) == shadowed


# ---------------------------------------------------------------- control states


def ways(*transitions: dict[str, Any], **states: dict[str, Any]) -> list[tuple[str, str]]:
    """What is told of a machine of the states A, B and C, without the machine's name."""
    declared = {
        "Initial": "A",
        "States": {"A": {}, "B": {}, "C": {}, **states},
        "Transitions": list(transitions),
    }
    found = told(site_of(machines={"M": declared}))
    return [(rule, key.removeprefix("Control_States.M.")) for rule, key in found]


def way(origin: str | list[str], to: str, when: str | None = None, **keys: Any) -> dict[str, Any]:
    """A transition; without a guard the operator asks for it."""
    by = {} if when else {"By": ["operator"]}
    return {"From": origin, "To": to, "When": when, **by, **keys}


ROUND = (way("A", "B"), way("B", "C"), way("C", "A"))


def test_a_state_that_is_never_reached_is_found() -> None:
    assert ways(*ROUND) == []
    assert ways(way("A", "B"), way("B", "A"), way("C", "A")) == [("state-unreachable", "States.C")]
    assert ways(way("*", "B"), way("*", "A"), way("*", "C")) == []
    after = {"MaxTime": 5.0, "OnTimeout": "C"}
    assert ways(way("A", "B"), way("C", "A"), B=after) == []
    # States that lead to each other only are reached by nobody.
    assert ways(way("B", "C"), way("C", "B"), way("A", "A2"), way("A2", "A"), A2={}) == [
        ("state-unreachable", "States.B"),
        ("state-unreachable", "States.C"),
    ]


def test_a_state_that_nothing_leaves_is_warned_of() -> None:
    assert ways(way("A", "B"), way("B", "C")) == [("state-without-exit", "States.C")]
    assert ways(way("A", "B"), way("B", "C"), way("*", "C")) == [("state-without-exit", "States.C")]
    assert ways(way("A", "B"), way("B", "C"), C={"MaxTime": 5.0, "OnTimeout": "A"}) == []


def test_an_automatic_transition_without_a_guard_is_immediate() -> None:
    at_once = way("A", "B", By=["automatic"])
    assert ways(at_once, *ROUND[1:]) == [("transition-immediate", "Transitions[0].By")]
    assert ways(at_once, *ROUND[1:], A={"MinTime": 5.0}) == []
    urgent = {**at_once, "Urgent": True}
    assert ways(urgent, *ROUND[1:], A={"MinTime": 5.0}) == [
        ("transition-immediate", "Transitions[0].By")
    ]
    waits = {"MinTime": 5.0}
    anywhere = way("*", "B", By=["automatic"])
    assert ways(anywhere, way("B", "C"), A=waits, C=waits) == []
    assert ways(anywhere, way("B", "C"), A=waits) == [("transition-immediate", "Transitions[0].By")]


HOT = "Stack.T > 900"
BOTH = ["automatic", "operator"]
ALWAYS_LATER = [
    (way("A", "B"), way("A", "B")),
    (way("A", "B", HOT), way("A", "C", HOT)),
    (way("A", "B", HOT), way("A", "C", "Stack.T > 950")),
    (way("A", "B", HOT), way("A", "C", "Stack.T > 950 for 5s")),
    (way("A", "B", HOT, By=BOTH), way("A", "C", "Stack.T > 950", By=["operator"])),
    (way("*", "B", HOT), way("A", "C", HOT)),
    (way("*", "B", HOT), way("*", "B", "Stack.T > 950")),
    (way("A", "B", By=["operator", "remote"]), way("A", "B", HOT, By=["remote"])),
]
BACK = (way("*", "A", "Stack.Door"), way("*", "C", "Stack.P > 1"), way("*", "B", "Stack.P < 0"))


@pytest.mark.parametrize(("first", "later"), ALWAYS_LATER)
def test_a_transition_that_never_comes_is_warned_of(first: dict, later: dict) -> None:
    assert ways(first, later, *BACK) == [("transition-shadowed", "Transitions[1]")]


SOMETIMES = [
    (way("A", "B"), way("A", "C")),
    (way("A", "B"), way("A", "B", By=["remote"])),
    (way("A", "B"), way("A", "B", HOT)),
    (way("A", "B", HOT), way("B", "C", HOT)),
    (way("A", "B", HOT), way("*", "C", HOT)),
    (way("A", "B", "Stack.T > 950"), way("A", "C", HOT)),
    (way("A", "B", HOT), way("A", "C", "Stack.P > 900")),
    (way("*", "B", HOT), way("*", "C", HOT)),
    (way("*", "B", HOT), way("B", "C", HOT)),
    (way("A", "B", HOT, By=["operator"]), way("A", "C", HOT)),
]


@pytest.mark.parametrize(("first", "later"), SOMETIMES)
def test_a_transition_that_may_come_is_not_warned_of(first: dict, later: dict) -> None:
    assert ways(first, later, *BACK) == []


def test_an_urgent_transition_comes_while_another_one_waits() -> None:
    first, urgent = way("A", "B", HOT), way("A", "C", HOT, Urgent=True)
    waits = {"MinTime": 5.0}
    assert ways(first, urgent, *BACK, A=waits) == []
    assert ways(first, urgent, *BACK) == [("transition-shadowed", "Transitions[1]")]
    assert ways({**first, "Urgent": True}, urgent, *BACK, A=waits) == [
        ("transition-shadowed", "Transitions[1]")
    ]


def test_machines_that_drive_one_output_differently_are_warned_of() -> None:
    def one(**action: Any) -> dict[str, Any]:
        return {"Initial": "S", "States": {"S": action}}

    def between(first: dict[str, Any], second: dict[str, Any]) -> list[tuple[str, str]]:
        return told(site_of(machines={"First": first, "Second": second}))

    lit, dark = one(Hold={"Gas.Lamp": 1}), one(Hold={"Gas.Lamp": 0})
    assert between(lit, dark) == [
        ("effect-contradiction", "Control_States.Second.States.S.Hold.Gas.Lamp")
    ]
    assert between(lit, lit) == []
    assert between(lit, one(Set={"Gas.Lamp": 0})) == []
    ramp = one(Ramps={"Bat.Power": {"Segments": [{"To": 5, "Rate": 1.0}]}})
    assert between(one(Hold={"Bat.Power": 5}), ramp) == [
        ("effect-contradiction", "Control_States.Second.States.S.Ramps.Bat.Power")
    ]


# ---------------------------------------------------------------- size


def test_ten_thousand_rules_on_one_point_are_compared_by_subject_not_by_pairs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Counts comparisons: pairs would be fifty million."""
    from safety.shadow import Limit

    compared = 0
    covers = Limit.covers

    def counted(self: Limit, other: Limit) -> bool:
        nonlocal compared
        compared += 1
        return covers(self, other)

    monkeypatch.setattr(Limit, "covers", counted)
    # The weaker the limit, the longer the delay: none is shadowed.
    alarms = {
        f"A{at}": {"When": f"Stack.T > {at}", "OnDelay": float(3000 - at)} for at in range(3000)
    }
    assert told(site_of(alarms=alarms)) == []
    assert compared <= 16 * 3000
