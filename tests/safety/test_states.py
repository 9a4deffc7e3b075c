"""Control states on their way into the program: what is wrong with them, and their arrays."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from config.findings import Finding
from config.model import ControlStatesFile
from config.validate import validate
from safety.compile import compile_site
from safety.layout import RANK_INTERLOCK, RANK_SETPOINT, Program
from tests.safety.sites import errors, make_site

CHANNELS: dict[str, dict[str, Any]] = {
    "Stack.T": {},
    "Stack.T_Set": {"ReadWrite": "RW", "SafeValue": 20, "Minimum": 0, "Maximum": 900},
    "Stack.Blind": {"ReadWrite": "W", "SafeValue": 0},
    "Gas.Valve": {
        "Type": "Digital", "ReadWrite": "RW", "SafeValue": 0, "States": ["Closed", "Open"]
    },
    "Gas.Low": {"Type": "Digital"},
}  # fmt: skip
STOP = {"Control/E_Stop": {"When": "Gateway.E_Stop", "Effects": {"Gas.Valve": "Closed"}}}
SLOW = {"To": 800, "Rate": 2.0}


def machine(**changes: Any) -> dict[str, Any]:
    """A machine of three states without a finding, with changes."""
    declared = {
        "Initial": "Off",
        "States": {"Off": {}, "Heat_Up": {}, "Running": {}},
        "Transitions": [
            {"From": "Off", "To": "Heat_Up", "By": ["operator"]},
            {"From": "Heat_Up", "To": "Running", "When": "Stack.T >= 790 for 5s"},
            {"To": "Off", "By": ["operator", "remote"], "Urgent": True},
        ],
    }
    return {**declared, **changes}


def states(**changes: Any) -> dict[str, Any]:
    """The three states, with changes."""
    return {"Off": {}, "Heat_Up": {}, "Running": {}, **changes}


def compiled(
    machines: dict[str, Any] | None = None, **rules: Any
) -> tuple[Program | None, list[Finding]]:
    """Program and findings of a site that has an E_Stop."""
    rules["controls"] = {**STOP, **rules.get("controls", {})}
    return compile_site(make_site(CHANNELS, machines=machines, **rules))


def program_of(machines: dict[str, Any], **rules: Any) -> Program:
    """The program of a site without errors."""
    program, found = compiled(machines, **rules)
    assert program is not None, "\n".join(map(str, found))
    return program


def test_a_machine_without_fault_has_no_findings() -> None:
    assert compiled({"Stack": machine()})[1] == []


FAULTS: list[tuple[dict[str, Any], str, str, str]] = [
    (machine(Initial="of"), "state-undefined", "Initial", 'Did you mean "Off"?'),
    (machine(Initial=""), "state-undefined", "Initial", "There are: Off, Heat_Up, Running"),
    (machine(Transitions=[{"From": "Off", "To": "Runing"}]), "state-undefined",
     "Transitions[0].To", 'Did you mean "Running"?'),
    (machine(Transitions=[{"From": "On", "To": "Running"}]), "state-undefined",
     "Transitions[0].From", 'no state "On"'),
    (machine(Transitions=[{"From": ["Off", "*"], "To": "Running"}]), "state-undefined",
     "Transitions[0].From", 'no state "*"'),
    (machine(Transitions=[{"From": ["Off", "Running"], "To": "Running"}]), "transition-to-itself",
     "Transitions[0].From", "leads back"),
    (machine(States=states(Off={"MaxTime": 5.0, "OnTimeout": "Offf"})), "state-undefined",
     "States.Off.OnTimeout", 'Did you mean "Off"?'),
    (machine(States=states(Off={"MaxTime": 5.0, "OnTimeout": "Off"})), "transition-to-itself",
     "States.Off.OnTimeout", "leads back"),
    (machine(States=states(Off={"MaxTime": 5.0})), "timeout-incomplete", "States.Off.MaxTime",
     '"OnTimeout"'),
    (machine(States=states(Off={"OnTimeout": "Running"})), "timeout-incomplete",
     "States.Off.OnTimeout", "never comes without MaxTime"),
    (machine(States=states(Off={"MinTime": 9.0, "MaxTime": 9.0, "OnTimeout": "Running"})),
     "range-reversed", "States.Off.MinTime", "MinTime 9 s is not below MaxTime 9 s"),
    (machine(States=states(off={})), "states-duplicate", "States.off", "capitals only"),
    (machine(States=states(**{"": {}})), "name-invalid", "States.", "no name of a state"),
    (machine(States=states(**{"a b": {}})), "name-invalid", "States.a b", "no name of a state"),
    (machine(States=states(Off={"Hold": {"Gas.Valv": 0}})), "reference-undefined",
     "States.Off.Hold.Gas.Valv", 'Did you mean "Valve"?'),
    (machine(States=states(Off={"Set": {"Gass.Valve": 0}})), "reference-undefined",
     "States.Off.Set.Gass.Valve", 'Did you mean "Gas"?'),
    (machine(States=states(Off={"Hold": {"Gas.Low": 0}})), "not-an-output",
     "States.Off.Hold.Gas.Low", "can't be written"),
    (machine(States=states(Off={"Hold": {"Gateway.E_Stop": 0}})), "reference-undefined",
     "States.Off.Hold.Gateway.E_Stop", "no active output Gateway.E_Stop"),
    (machine(States=states(Off={"Hold": {"Gas.Valve": "Ajar"}})), "value-not-settable",
     "States.Off.Hold.Gas.Valve", "it takes: Closed, Open"),
    (machine(States=states(Off={"Set": {"Stack.T_Set": 901}})), "value-out-of-range",
     "States.Off.Set.Stack.T_Set", "0 to 900"),
    (machine(States=states(Off={"Set": {"Stack.T_Set": True}})), "value-not-settable",
     "States.Off.Set.Stack.T_Set", "analog point"),
    (machine(States=states(Off={"Set": {"Gas.Valve": 0}, "Hold": {"Gas.Valve": 0}})),
     "output-twice", "States.Off.Set.Gas.Valve", "States.Off.Hold.Gas.Valve"),
    (machine(States=states(Off={"Set": {"Stack.T_Set": 20},
                                "Ramps": {"Stack.T_Set": {"Segments": [SLOW]}}})),
     "output-twice", "States.Off.Ramps.Stack.T_Set", "Set.Stack.T_Set"),
    (machine(States=states(Off={"Ramps": {"Stack.T_Set": {"Segments": [SLOW, {"To": 901}]}}})),
     "value-out-of-range", "Ramps.Stack.T_Set.Segments[1].To", "0 to 900"),
    (machine(States=states(Off={"Ramps": {"Gas.Valve": {"Segments": [{"To": 1}]}}})),
     "ramp-discrete", "States.Off.Ramps.Gas.Valve", "Hold or Set"),
    (machine(Transitions=[*machine()["Transitions"],
                          {"From": "Off", "To": "Running", "When": "Stack.Q > 1"}]),
     "reference-undefined", "Transitions[3].When", 'Did you mean "Stack.T"?'),
    (machine(Transitions=[*machine()["Transitions"],
                          {"From": "Off", "To": "Running", "When": "Stack.T >"}]),
     "rule-syntax", "Transitions[3].When", "at the end"),
    (machine(Transitions=[*machine()["Transitions"],
                          {"From": "Off", "To": "Running", "When": "Stack.T"}]),
     "rule-type", "Transitions[3].When", "gives a number"),
    (machine(Transitions=[*machine()["Transitions"],
                          {"From": "Off", "To": "Running", "When": "if(Gas.Low, 'x', null)"}]),
     "rule-type", "Transitions[3].When", "must be true or false"),
    (machine(States=states(Off={"Ramps": {"Stack.T_Set": {
        "Segments": [SLOW], "PauseWhen": "Stack.T_Set - Stack.Q > 50"}}})),
     "reference-undefined", "States.Off.Ramps.Stack.T_Set.PauseWhen", "Stack.Q"),
]  # fmt: skip


@pytest.mark.parametrize(("declared", "rule", "key", "message"), FAULTS)
def test_a_fault_of_a_machine_is_found(
    declared: dict[str, Any], rule: str, key: str, message: str
) -> None:
    program, found = compiled({"Stack": declared})
    assert program is None
    told = [finding for finding in found if finding.rule == rule and finding.severity == "error"]
    assert len(told) == 1, "\n".join(map(str, found))
    assert told[0].file == "ControlStates.json"
    assert told[0].key.startswith("Control_States.Stack.")
    assert told[0].key.endswith(key)
    assert message in told[0].message


def test_all_faults_of_a_machine_are_found_at_once() -> None:
    broken = machine(
        Initial="X", States=states(Off={"MaxTime": 1.0, "Hold": {"Gas.Low": 0}, "Set": {"A": 1}})
    )
    _, found = compiled({"A": broken, "B": broken})
    assert errors(found) == sorted(
        2 * ["not-an-output", "reference-undefined", "state-undefined", "timeout-incomplete"]
    )


def test_a_ramp_of_an_output_that_can_not_be_read_begins_with_a_jump() -> None:
    ramp = {"Stack.Blind": {"Segments": [SLOW]}}
    program, (found,) = compiled({"Stack": machine(States=states(Off={"Ramps": ramp}))})
    assert program is not None
    assert (found.rule, found.severity) == ("ramp-without-read-back", "warning")
    jump = {"Stack.Blind": {"Segments": [{"To": 5}, SLOW]}}
    assert compiled({"Stack": machine(States=states(Off={"Ramps": jump}))})[1] == []


# ---------------------------------------------------------------- references to states


@pytest.mark.parametrize(
    "text",
    [
        "state(Stack) == 'Running'",
        "state('Stack') != 'Off' and Stack.T > 5",
        "States.Stack == 'Heat_Up'",
        "if(state(Stack) == 'Off', Stack.T > 900, Stack.T > 950)",
    ],
)
def test_rules_can_ask_for_the_state_of_a_machine(text: str) -> None:
    controls = {"C": {"When": text, "Effects": {"Gas.Valve": 0}}}
    assert compiled({"Stack": machine()}, controls=controls)[1] == []


def test_json_logic_can_ask_for_the_state_of_a_machine() -> None:
    alarm = {
        "Rule": {"if": [{"==": [{"var": "s"}, "Running"]}, "On", None]},
        "Data": {"s": "$SystemState/Stack"},
    }
    assert compiled({"Stack": machine()}, alarms={"A": alarm})[1] == []


@pytest.mark.parametrize(
    ("text", "rule", "message"),
    [
        ("state(Stack) == 'Runing'", "level-unreachable", "Off, Heat_Up, Running"),
        ("state(Stak) == 'Running'", "reference-undefined", 'Did you mean "Stack"?'),
        ("state(Stack)", "rule-type", "always true"),
    ],
)
def test_a_wrong_question_for_a_state_is_found(text: str, rule: str, message: str) -> None:
    _, found = compiled({"Stack": machine()}, alarms={"A": {"When": text}})
    assert rule in errors(found)
    assert any(message in finding.message for finding in found)


def test_a_machine_may_wait_for_itself_and_for_what_depends_on_it() -> None:
    controls = {"C": {"When": "state(Stack) == 'Running'", "Effects": {"Gas.Valve": 0}}}
    transitions = [
        *machine()["Transitions"],
        {"From": "Running", "To": "Off", "When": "Controls.C and state(Stack) == 'Running'"},
    ]
    assert compiled({"Stack": machine(Transitions=transitions)}, controls=controls)[1] == []


def test_an_inactive_machine_is_left_out() -> None:
    program, found = compiled({"Stack": machine(Active=False, Initial="X")})
    assert found == []
    assert program is not None
    assert len(program.machines) == len(program.modes) == 0


# ---------------------------------------------------------------- arrays

HEATING = {
    "Hold": {"Gas.Valve": "Open"},
    "Ramps": {
        "Stack.T_Set": {
            "Segments": [{"To": 100, "Hold": 60.0}, {"To": 800, "Rate": 2.5}],
            "PauseWhen": "Stack.T_Set - Stack.T > 50",
            "Held": False,
        }
    },
    "MinTime": 2.5,
    "MaxTime": 90.0,
    "OnTimeout": "Off",
}


def test_a_machine_becomes_arrays() -> None:
    declared = machine(
        Initial="Heat_Up", States=states(Heat_Up=HEATING, Off={"Set": {"Stack.T_Set": 20}})
    )
    program = program_of({"First": machine(), "Stack": declared})
    name = program.strings
    first, second = program.machines.tolist()
    assert first == (0, 3, 0, 3, 0)
    assert second == (3, 3, 3, 3, 4)
    assert [name[mode["level"]] for mode in program.modes] == 2 * ["Off", "Heat_Up", "Running"]
    heat = program.modes[4]
    assert (heat["min_ns"], heat["max_ns"], heat["timeout"]) == (2_500_000_000, 90 * 10**9, 3)
    assert program.modes["timeout"].tolist() == [-1, -1, -1, -1, 3, -1]
    actions = program.actions[heat["action"] : heat["action"] + heat["actions"]]
    outputs = program.outputs.tolist()
    site = make_site(CHANNELS)
    valve, ramp = actions
    assert outputs[valve["output"]] == site.index["Gas.Valve"]
    assert (valve["value"], valve["rank"], valve["segments"]) == (1.0, RANK_INTERLOCK, 0)
    assert outputs[ramp["output"]] == site.index["Stack.T_Set"]
    assert (ramp["rank"], ramp["segments"]) == (RANK_SETPOINT, 2)
    assert program.info[ramp["pause"]].name == "Stack: Heat_Up, pause of Stack.T_Set"
    segments = program.segments[ramp["segment"] : ramp["segment"] + 2].tolist()
    assert segments == [(100.0, 0.0, 60 * 10**9), (800.0, 2.5, 0)]
    assert program.shown[ramp["output"]] == site.index["Stack.T_Set"]


def test_transitions_keep_their_order_and_share_their_guard() -> None:
    both = {"From": ["Off", "Heat_Up"], "To": "Running", "When": "Gas.Low", "By": ["schedule"]}
    declared = machine(Transitions=[*machine()["Transitions"], both])
    program = program_of({"Stack": declared})
    rows = program.transitions.tolist()
    guards = [program.info[row[2]].name if row[2] >= 0 else "" for row in rows]
    assert [(row[0], row[1], *row[3:]) for row in rows] == [
        (0, 1, 0, 1, 0),
        (1, 2, 1, 0, 0),
        (-1, 0, 0, 3, 1),
        (0, 2, 0, 4, 0),
        (1, 2, 0, 4, 0),
    ]
    shared = "Stack: Off, Heat_Up -> Running"
    assert guards == ["", "Stack: Heat_Up -> Running", "", shared, shared]
    (info,) = program.machine_info
    assert (info.name, info.states) == ("Stack", ("Off", "Heat_Up", "Running"))
    assert [(t.origin, t.target, t.guard) for t in info.transitions] == [
        ("Off", "Heat_Up", ""),
        ("Heat_Up", "Running", "Stack.T >= 790 for 5s"),
        ("*", "Off", ""),
        ("Off", "Running", "Gas.Low"),
        ("Heat_Up", "Running", "Gas.Low"),
    ]
    assert info.transitions[2].askers == ("operator", "remote")
    assert (info.transitions[2].urgent, info.transitions[1].automatic) == (True, True)


def test_guards_stand_behind_the_rules_they_use_and_start_no_plant_late() -> None:
    transitions = [*machine()["Transitions"], {"From": "Off", "To": "Running", "When": "alarm(A)"}]
    alarms = {"A": {"When": "Stack.T > 1", "SuppressWhen": "Gas.Low"}}
    program = program_of({"Stack": machine(Transitions=transitions)}, alarms=alarms)
    names = [info.name for info in program.info]
    guard = names.index("Stack: Off -> Running")
    assert names.index("A") < guard
    assert program.info[names.index("A")].suppress == names.index("A: SuppressWhen")
    assert (program.info[guard].kind, program.info[guard].point) == ("guard", 0)
    # What guards and alarms read does not hold the start-up; what protection reads does.
    site = make_site(CHANNELS)
    protected = [index for index, holds in enumerate(program.protective) if holds]
    assert protected == [site.index["Stack.T"] + 5] == [6]
    assert program.watch.tolist() == [(names.index("Control/E_Stop"), 6)]


def test_outputs_of_machines_are_outputs_of_the_program() -> None:
    channels = {"A.x": {"ReadWrite": "RW"}}
    only = {"Initial": "On", "States": {"On": {"Hold": {"A.x": 5}}}}
    site = make_site(channels, controls={}, machines={"M": only})
    program, _ = compile_site(site)
    assert program is not None
    assert program.outputs.tolist() == [1]
    assert math.isnan(program.safe[0])


# ---------------------------------------------------------------- the example of the manual

ROOT = Path(__file__).parents[2]


def test_the_example_of_the_page_is_complete_and_is_the_one_that_the_case_runs() -> None:
    page = (ROOT / "docs" / "states.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    rules = json.loads(example)
    case = ROOT / "tests" / "cases" / "safety" / "states-operation" / "rules.json"
    channels = (told := json.loads(case.read_text(encoding="utf-8"))).pop("Channels")
    assert told == rules
    for tag in channels:
        assert f"| `{tag}` |" in page
    program, found = compile_site(
        make_site(channels, controls=rules["Automatic_Controls"], machines=rules["Control_States"])
    )
    assert found == []
    assert program is not None


# ---------------------------------------------------------------- malformed files

WORDS = ("Off", "On", "*", "", "operator", "automatic", "Gas.Valve", "Stack.T_Set", "Stack.T > 1")
KEYS = (
    "Initial", "States", "Transitions", "Hold", "Set", "Ramps", "MinTime", "MaxTime", "OnTimeout",
    "From", "To", "By", "When", "Urgent", "Segments", "Rate", "PauseWhen", "Held", *WORDS,
)  # fmt: skip


def anything(chance: random.Random, depth: int = 0) -> Any:
    """A random JSON value of keys and words that mean something."""
    kinds = 6 if depth > 5 else 9
    match chance.randrange(kinds):
        case 0 | 1 | 2:
            return chance.choice(WORDS)
        case 3:
            return chance.choice([0, 1, -1, 2.5, 1e308, 1e-308, 801])
        case 4:
            return chance.choice([True, False])
        case 5:
            return None
        case 6:
            return [anything(chance, depth + 1) for _ in range(chance.randrange(3))]
        case _:
            return {chance.choice(KEYS): anything(chance, depth + 1) for _ in range(4)}


def plausible(chance: random.Random, wrong: float) -> dict[str, Any]:
    """A random machine of the right types; `wrong` is the share of names and values that aren't."""
    names = ["Off", "On", "Z", "off", "x y"][: 5 if chance.random() < wrong else 3]

    def one(right: Sequence[Any], others: Sequence[Any]) -> Any:
        return chance.choice(others if chance.random() < wrong else right)

    def name(but: str = "") -> str:
        return one([each for each in names if each != but], ["Nope", "*", "", but])

    def values() -> dict[str, Any]:
        tag = one(["Stack.T_Set", "Gas.Valve"], ["Stack.T", "Gas", "", "Gas.Valve.x", "."])
        return {tag: one([0, 1], [True, "Open", "", -5, 1e300])}

    def text() -> str:
        right = ["Stack.T > 1", "state(M) == 'Off'", "States.M != 'On' for 5s"]
        return one(right, ["(", "alarm(X)", "1", "States.M"])

    def ramps() -> dict[str, Any]:
        segments = [{"To": one([5, 800], [-1, 901]), "Rate": one([1.0, None], [1e300])}]
        tag = one(["Stack.T_Set"], ["Gas.Valve", "Stack.T", ""])
        return {tag: {"Segments": segments, "PauseWhen": text()}}

    def state(own: str) -> dict[str, Any]:
        timeout = {"MaxTime": one([5.0], [1.0]), "OnTimeout": name(own), "MinTime": 2.0}
        part = chance.choice([{"Hold": values()}, {"Set": values()}, {"Ramps": ramps()}])
        return {**part, **(timeout if chance.random() < 0.5 else {})}

    def transition() -> dict[str, Any]:
        target = name()
        by = chance.choice([["automatic"], ["operator"], ["operator", "automatic"]])
        origin = one([name(target), [name(target)], "*"], [[name(), name()]])
        return {"From": origin, "To": target, "When": text(), "By": by}

    return {
        "Initial": name(),
        "States": {each: state(each) for each in names},
        "Transitions": [transition() for _ in range(chance.randrange(8))],
    }


@pytest.mark.parametrize("seed", range(150))
def test_whatever_stands_there_ends_in_findings_and_never_in_an_exception(seed: int) -> None:
    chance = random.Random(seed)
    content = json.loads(json.dumps({"Control_States": {"M": anything(chance)}}))
    _, found = validate("ControlStates.json", content, ControlStatesFile)
    assert all(finding.key and finding.message for finding in found)
    wrong = (0.0, 0.02, 0.3)[seed % 3]
    program, found = compiled({"M": plausible(chance, wrong), "N": plausible(chance, wrong)})
    assert (program is None) <= bool(errors(found))
    assert all(finding.file and finding.key and finding.message for finding in found)
