"""The compiler: order, levels, effects, and every finding that it can make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from config.findings import Finding, SiteError
from config.load import load_site
from safety.compile import compile_site, require_program
from safety.terms import NESTING_MAX
from tests.safety.sites import errors, make_site

INL = Path(__file__).parents[1] / "cases" / "inl"
CHANNELS: dict[str, dict[str, Any]] = {
    "Stack.T": {},
    "Stack.Door": {"Type": "Digital", "States": ["Closed", "Open"]},
    "Stack.Run": {"Type": "Digital"},
    "Gas.Valve": {"Type": "Digital", "ReadWrite": "RW", "SafeValue": 0},
    "Gas.Flow": {"ReadWrite": "W", "SafeValue": 0, "Minimum": 0, "Maximum": 50},
    "Gas.Mode": {
        "Type": "Digital", "ReadWrite": "RW", "SafeValue": 0, "States": ["Off", "Purge", "Run"]
    },
    "Gas.Fan": {"Type": "Digital", "ReadWrite": "RW", "States": ["ON", "OFF"]},
    "Gas.Bare": {"ReadWrite": "RW"},
}  # fmt: skip
STOP = {"Control/E_Stop": {"When": "Gateway.E_Stop", "Method": "Close"}}


def step(equipment: str = "Gas", **values: Any) -> dict[str, Any]:
    """One request of a method."""
    return {"Topic": f"Relay/Request/{equipment}", "Payload": {"Channels": values}}


METHODS = {"Close": [step(Valve="OFF")]}


def findings_of(**rules: Any) -> list[Finding]:
    """All findings of a site that has an E_Stop."""
    rules["controls"] = {**STOP, **rules.get("controls", {})}
    rules["methods"] = {**METHODS, **rules.get("methods", {})}
    program, found = compile_site(make_site(CHANNELS, **rules))
    assert (program is None) <= bool(errors(found))
    return found


def only(found: list[Finding]) -> Finding:
    """The one finding there is."""
    assert len(found) == 1, "\n".join(map(str, found))
    return found[0]


def test_a_clean_site_has_no_findings() -> None:
    assert findings_of() == []


# ---------------------------------------------------------------- findings of conditions

CONDITIONS = [
    ("Stack.Q > 5", "reference-undefined", 'Did you mean "Stack.T"?'),
    ("Stak.T > 5", "reference-undefined", 'Did you mean "Stack"?'),
    ("alarm(Fire)", "reference-undefined", 'no active alarm "Fire" in AlarmStates'),
    ("state(Fire) == null", "reference-undefined", 'no active state "Fire" in SystemStates'),
    ("Alarms.Fire == null", "reference-undefined", "no active point Alarms.Fire"),
    ("Controls.E_Stp", "reference-undefined", 'Did you mean "Controls.E_Stop"?'),
    ("Control.E_Stop", "reference-undefined", 'Did you mean "Controls"?'),
    ("Gateway.EStop", "reference-undefined", 'Did you mean "Gateway.E_Stop"?'),
    ("Temp > 5", "reference-undefined", '"Temp" is no entry of Data'),
    ("age(Temp) > 5", "reference-undefined", '"Temp" is no entry of Data'),
    ("Gas.Flow > 5", "point-not-readable", "can only be written"),
    ("Stack.T", "rule-type", "gives a number"),
    ("Stack.T and Stack.Run", "rule-type", "is a number and can't be a condition"),
    ("not Stack.T", "rule-type", "Stack.T == 1"),
    ("vote(1, Stack.T)", "rule-type", "can't be a condition"),
    ("Stack.T for 5s", "rule-type", "can't be a condition"),
    ("'x' or Stack.Run", "rule-type", "can't be a condition"),
    ("Stack.T > 'Hot'", "rule-type", "compares a number with a name"),
    ("Stack.T == true", "rule-type", "compares a number with true or false"),
    ("Stack.T == null", "rule-type", "quality(x) == 2"),
    ("Stack.Run == 'Open'", "rule-type", "compares a discrete point with a name"),
    ("Stack.Run < true", "rule-type", "compares a discrete point"),
    ("(Stack.T > 1) < (Stack.T > 2)", "rule-type", "compares true or false"),
    ("(Stack.T > 1) + 1 > 1", "rule-type", "where a number is needed"),
    ("min('x') > 1", "rule-type", "where a number is needed"),
    ("-'x' > 1", "rule-type", "where a number is needed"),
    ("abs(alarm(Hot)) > 1", "rule-type", "where a number is needed"),
    ("if(Stack.Run, 1, 'x') == 1", "rule-type", "both must be of one type"),
    ("age(Alarms.Hot) > 1", "rule-type", "age() takes a point of a device"),
    ("alarm(Hot) > 'High'", "rule-type", "names have no order"),
    ("Stack.Door > 'Open'", "rule-type", "states have no order"),
    ("alarm(Hot) == 'Critical'", "level-unreachable", "levels that it returns: HH, High"),
    ("'Critical' != Alarms.Hot", "level-unreachable", "levels that it returns: HH, High"),
    ("Stack.Door == 'Ajar'", "level-unreachable", "it can be: Closed, Open"),
    ("Stack.T > ", "rule-syntax", "at the end"),
]
HOT = {"Alarms/Hot": {"When": "if(Stack.T > 950, 'HH', if(Stack.T > 900, 'High', null))"}}


@pytest.mark.parametrize(("text", "rule", "message"), CONDITIONS)
def test_a_condition_that_is_wrong_is_found_once(text: str, rule: str, message: str) -> None:
    found = only(findings_of(alarms=HOT, controls={"C": {"When": text, "Method": "Close"}}))
    assert (found.rule, found.severity) == (rule, "error")
    assert found.file == "ControlStates.json"
    assert found.key == "Automatic_Controls.C.When"
    assert message in found.message


GOOD_CONDITIONS = [
    "Stack.Door == 'Open'",
    "'Open' == Stack.Door",
    "Stack.Door == true or Stack.Run != false",
    "Stack.Run + 1 > 1",
    "Stack.Door > 0",
    "(Stack.T > 1) == (Stack.T > 2)",
    "if(Stack.Run, Stack.Door, Stack.T > 1)",
    "if(Stack.Run, Stack.Door, 3) > 1",
    "alarm(Hot) == 'HH' or alarm('Alarms/Hot') == null",
    "Alarms.Hot",
    "alarm(Hot) and state(Heat) == 'Hot'",
    "alarm(Hot) == alarm(Hot)",
    "Controls.E_Stop",
    "quality(alarm(Hot)) == 2",
    "avg(Stack.T, Stack.Run) % 2 >= abs(-1) hysteresis 0.5 for 1s",
    "Gateway.Reset",
]


@pytest.mark.parametrize("text", GOOD_CONDITIONS)
def test_a_condition_that_is_right_is_compiled(text: str) -> None:
    states = {"Heat": {"State": "if(Stack.T > 500, 'Hot', 'Cold')"}}
    controls = {"C": {"When": text, "Method": "Close"}}
    assert findings_of(alarms=HOT, states=states, controls=controls) == []


def test_all_mistakes_of_all_rules_are_found_at_once() -> None:
    found = findings_of(
        alarms={"A": {"When": "Stack.Q > 1 and Stack.T"}, "B": {"When": "("}},
        states={"S": {"State": "Stack.T > 1"}},
        controls={"C": {"When": "alarm(B) and alarm(X)", "Method": "Open"}},
    )
    assert errors(found) == [
        "method-undefined",
        "reference-undefined",
        "reference-undefined",
        "rule-syntax",
        "rule-type",
        "rule-type",
    ]


def test_a_level_that_no_rule_makes_is_found_where_the_alarm_is_missing_too() -> None:
    alarms = {
        "Alarms/T": {"Rule": {"if": [{">=": [{"var": "T"}, 900]}, "Cell_OverTemp", None]},
                     "Data": {"T": "$LiveData/Stack/T"}},
        "Alarms/V": {"When": "Stack.T > 1"},
    }  # fmt: skip
    controls = {
        "C": {"Rule": {"if": [{"==": [{"var": "Fire"}, "Critical"]}, "Close", None]},
              "Data": {"Fire": "$AlarmState/Alarms/Fire"}},
    }  # fmt: skip
    undefined, unreachable = findings_of(alarms=alarms, controls=controls)
    assert undefined.rule == "reference-undefined"
    assert undefined.key == "Automatic_Controls.C.Data.Fire"
    assert unreachable.rule == "level-unreachable"
    assert "'Critical' is produced by no alarm rule" in unreachable.message
    assert "levels that exist: Cell_OverTemp, Alarm" in unreachable.message


@pytest.mark.parametrize(
    ("kind", "rule", "name", "key"),
    [
        ("alarms", {}, "rule-no-condition", "AlarmStates.X.When"),
        ("states", {}, "rule-no-condition", "SystemStates.X.State"),
        ("alarms", {"When": "true", "Rule": {"==": [1, 1]}}, "rule-both-forms", None),
        ("states", {"State": "'x'", "When": "true"}, "rule-both-forms", None),
        ("states", {"When": "true"}, "rule-type", "SystemStates.X.When"),
        ("states", {"Rule": {">": [1, 2]}}, "rule-type", "SystemStates.X.Rule"),
        ("alarms", {"Rule": 5}, "rule-type", "AlarmStates.X.Rule"),
        ("alarms", {"Rule": {"if": [True, None, None]}}, None, None),
        ("alarms", {"When": "if(true, '', null)"}, "rule-type", "AlarmStates.X.When"),
        ("states", {"State": "null"}, "rule-type", "SystemStates.X.State"),
        ("alarms", {"Rule": {"frob": [1]}}, "rule-syntax", "AlarmStates.X.Rule"),
        ("alarms", {"When": "t > 1", "Data": {"t": "Stack.T"}}, "rule-syntax", None),
        ("alarms", {"When": "true", "OnDelay": 1e7}, "value-out-of-range", "AlarmStates.X.OnDelay"),
        ("alarms", {"When": "(" * NESTING_MAX + "("}, "rule-syntax", None),
        ("controls", {"When": "true"}, "rule-no-condition", "Automatic_Controls.X.When"),
        ("controls", {"When": "if(true, 'Nope', null)"}, "method-undefined", None),
        (
            "controls",
            {"When": "true", "Method": "close"},
            "method-undefined",
            "Automatic_Controls.X.Method",
        ),
    ],
)
def test_a_rule_of_the_wrong_form_is_found(
    kind: str, rule: dict[str, Any], name: str | None, key: str | None
) -> None:
    found = findings_of(**{kind: {"X": rule}})
    if name is None:
        assert [finding.rule for finding in found] == []
        return
    assert name in [finding.rule for finding in found]
    if key is not None:
        assert found[0].key == key


@pytest.mark.parametrize("condition", ["Stack.T > 1", "alarm(Hot)"])
def test_a_true_condition_can_not_stand_for_an_empty_name(condition: str) -> None:
    hot = {"Hot": {"When": "Stack.T > 1"}}
    found = only(findings_of(alarms={**hot, "A": {"When": condition, "Level": ""}}))
    assert (found.key, found.rule) == ("AlarmStates.A.When", "rule-type")
    assert "can't be an empty name" in found.message
    # An empty method would be the level of every inactive rule: its outputs were driven always.
    controls = {"C": {"When": condition, "Method": ""}}
    found = only(findings_of(alarms=hot, controls=controls, methods={"": [step(Valve="OFF")]}))
    assert (found.key, found.rule) == ("Automatic_Controls.C.When", "rule-type")


def test_data_serves_the_infix_form_too() -> None:
    alarm = {"When": "temp > 900 and fire", "Data": {"temp": "$LiveData/Stack/T",
             "fire": "$AlarmState/Hot"}}  # fmt: skip
    assert findings_of(alarms={**HOT, "A": alarm}) == []


def test_a_circle_is_named_and_nothing_hangs() -> None:
    alarms = {
        "A": {"When": "alarm(B)"},
        "B": {"When": "alarm(C) and true"},
        "C": {"When": "alarm(A)"},
        "Self": {"When": "not alarm(Self)"},
    }
    found = findings_of(alarms=alarms)
    assert errors(found) == ["rule-cycle", "rule-cycle"]
    assert "A -> B -> C -> A" in found[0].message
    assert "Self -> Self" in found[1].message


@pytest.mark.parametrize("text", ["alarm(A{})", "if(true, alarm(A{}), null)"])
def test_a_long_chain_of_rules_is_no_circle_and_no_recursion(text: str) -> None:
    alarms = {f"A{at}": {"When": text.format(at + 1)} for at in range(2000)}
    alarms["A2000"] = {"When": "Stack.T > 1"}
    assert findings_of(alarms=alarms) == []
    alarms["A2000"] = {"When": text.format(0)}
    assert "rule-cycle" in errors(findings_of(alarms=alarms))


# ---------------------------------------------------------------- findings of methods

METHOD_FINDINGS = [
    ([step("Gass", Valve=0)], "equipment-undefined", '"Gas"'),
    ([{"Topic": "Relay/Data/Gas", "Payload": {"Channels": {"Valve": 0}}}], "equipment-undefined",
     "names no active equipment"),
    ([step(Valv=0)], "reference-undefined", 'Did you mean "Valve"?'),
    ([step("Stack", T=0)], "not-an-output", "can't be written"),
    ([{"Topic": "Relay/Request/Gas", "Payload": {"Read/Write": "R", "Channels": {"Valve": 0}}}],
     "not-an-output", 'set "Read/Write" to "W"'),
    ([step(Flow="OFF")], "value-not-settable", "analog point"),
    ([step(Flow=True)], "value-not-settable", "analog point"),
    ([step(Mode="Fast")], "value-not-settable", "it takes: Off, Purge, Run, ON, OFF"),
    ([step(Valve=0.5)], "value-not-settable", "whole numbers"),
    ([step(Flow=51)], "value-out-of-range", "0 to 50"),
    ([step(Mode=3)], "value-out-of-range", "0 to 2"),
    ([step(Mode=-1)], "value-out-of-range", "0 to 2"),
]  # fmt: skip


@pytest.mark.parametrize(("steps", "rule", "message"), METHOD_FINDINGS)
def test_a_method_that_is_wrong_is_found(steps: list[Any], rule: str, message: str) -> None:
    controls = {"C": {"When": "Stack.T > 1", "Method": "M"}}
    found = only(findings_of(controls=controls, methods={"M": steps}))
    assert (found.rule, found.severity) == (rule, "error")
    assert found.key.startswith("Control_Methods.M[0]")
    assert message in found.message


@pytest.mark.parametrize(
    ("channel", "wanted", "value"),
    [("Valve", "OFF", 0), ("Valve", "on", 1), ("Valve", "True", 1), ("Valve", False, 0),
     ("Mode", "Purge", 1), ("Mode", 2, 2), ("Flow", 12.5, 12.5),
     ("Mode", "run", 2), ("Fan", "off", 1), ("Fan", "OFF", 1), ("Fan", "on", 0)],
)  # fmt: skip
def test_a_payload_value_becomes_a_number(channel: str, wanted: Any, value: float) -> None:
    controls = {**STOP, "C": {"When": "Stack.T > 1", "Method": "M"}}
    methods = {**METHODS, "M": [step(**{channel: wanted})]}
    program, found = compile_site(make_site(CHANNELS, controls=controls, methods=methods))
    assert errors(found) == []
    assert program is not None
    assert program.effects["value"][1] == value


def test_type_analog_decides_whatever_the_data_type_is() -> None:
    channels = {"Opto.Valve": {"Type": "Analog", "DataType": "bool", "ReadWrite": "W"}}
    site = make_site(channels, controls=STOP, methods={"Close": [step("Opto", Valve="OFF")]})
    program, found = compile_site(site)
    assert program is None
    assert errors(found) == ["value-not-settable"]
    assert found[0].key == "Control_Methods.Close[0].Payload.Channels.Valve"


def warnings(**rules: Any) -> list[tuple[str, str]]:
    """Rule and message of all findings, which must be warnings.

    That trips drive other values than the safe ones is not what these tests are about.
    """
    found = [finding for finding in findings_of(**rules) if finding.rule != "trip-not-safe"]
    assert errors(found) == []
    return [(finding.rule, finding.message) for finding in found]


def test_a_method_that_nobody_calls_is_warned_of() -> None:
    ((rule, _),) = warnings(methods={"Spare": [step(Valve=1)]})
    assert rule == "method-unused"


def test_rules_of_one_rank_that_pull_in_two_directions_are_warned_of() -> None:
    methods = {"Open": [step(Valve="ON")]}
    controls = {"C": {"When": "Stack.T > 1", "Method": "Open"}}
    ((rule, message),) = warnings(controls=controls, methods=methods)
    assert rule == "effect-contradiction"
    assert "Control/E_Stop drives Gas.Valve to 0, C to 1" in message
    assert warnings(controls={"C": {**controls["C"], "Kind": "Interlock"}}, methods=methods) == []


def test_methods_of_one_rule_do_not_contradict_each_other() -> None:
    controls = {"C": {"When": "if(Stack.T > 5, 'Full', if(Stack.T > 1, 'Half', null))"}}
    methods = {"Full": [step(Flow=50)], "Half": [step(Flow=25)]}
    assert warnings(controls=controls, methods=methods) == []


def test_a_method_that_contradicts_itself_is_warned_of() -> None:
    controls = {"C": {"When": "Stack.T > 1", "Method": "M"}}
    ((rule, message),) = warnings(controls=controls, methods={"M": [step(Flow=1), step(Flow=2)]})
    assert rule == "effect-contradiction"
    assert "the first holds" in message


@pytest.mark.parametrize(
    ("rules", "missing"),
    [
        ({}, True),
        ({"controls": STOP, "methods": METHODS}, False),
        ({"alarms": {"Alarms/e_stop": {"When": "Gateway.E_Stop"}}}, True),
        (
            {
                "alarms": {"Alarms/e_stop": {"When": "Gateway.E_Stop"}},
                "controls": {"Halt": {"When": "alarm(e_stop)", "Method": "Close"}},
                "methods": METHODS,
            },
            False,
        ),
        ({"controls": {"Turbine_Stop": {"When": "Stack.Run", "Method": "Close"}}}, True),
        ({"states": {"E_Stop": {"State": "'x'"}}}, True),
    ],
)
def test_a_site_with_outputs_and_no_emergency_stop_is_warned_of(
    rules: dict[str, Any], missing: bool
) -> None:
    _, found = compile_site(make_site(CHANNELS, **rules))
    assert ("estop-missing" in [finding.rule for finding in found]) == missing


def test_a_site_that_only_measures_needs_no_emergency_stop() -> None:
    assert compile_site(make_site({"Stack.T": {}}, HOT))[1] == []


# ---------------------------------------------------------------- the program


def test_a_program_with_any_error_is_for_no_use() -> None:
    controls = {"C": {"When": "alarm(Hot) == 'Critical'", "Method": "Close"}}
    site = make_site(CHANNELS, HOT, controls=controls, methods=METHODS)
    program, found = compile_site(site)
    assert program is not None, "a level that never comes leaves the program whole"
    with pytest.raises(SiteError) as raised:
        require_program(site)
    assert raised.value.findings == [f for f in found if f.severity == "error"]
    assert [finding.rule for finding in raised.value.findings] == ["level-unreachable"]


def test_the_published_configuration_of_the_seed_shows_its_defects(tmp_path: Path) -> None:
    # The database file that the published configuration names is missing; that is config's to
    # find (tests/config), and here it would hide the rules.
    for file in INL.glob("*.json"):
        text = file.read_text().replace("System_Database.json", "SOEC_Database.json")
        (tmp_path / file.name).write_text(text)
    site, found = load_site(tmp_path)
    assert site is not None, "\n".join(map(str, found))
    program, found = compile_site(site)
    assert program is None
    told = {(finding.rule, finding.key) for finding in found}
    control = "Automatic_Controls.Control/Hydrogen_Fire"
    valve = "Control_Methods.GasShutOff[0].Payload.Channels.Control_Valve"
    assert told == {
        ("reference-undefined", f"{control}.Data.Hydrogen_Fire_Alarm"),
        ("level-unreachable", f"{control}.Rule"),
        ("value-not-settable", valve),
        ("estop-missing", "Automatic_Controls.E_Stop"),
    }
    (level,) = [finding.message for finding in found if finding.rule == "level-unreachable"]
    assert "'Critical' is produced by no alarm rule" in level
    assert "Cell_OverTemp, Alarm" in level
