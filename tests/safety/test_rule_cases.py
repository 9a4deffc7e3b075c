"""The tables of tests/cases/rules, line by line; README.md there says what they mean."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest

from config.findings import Finding
from safety import infix, jsonlogic
from safety.compile import compile_site
from safety.terms import RuleSyntaxError
from tests.safety.sites import EVALUATORS, Plant, make_site

CASES = Path(__file__).parents[1] / "cases" / "rules"
CHANNELS: dict[str, dict[str, Any]] = {
    "Stack.T": {"Units": "degC"},
    "Stack.T2": {"Units": "degC"},
    "Stack.Door": {"Type": "Digital", "States": ["Closed", "Open"]},
    "Stack.Run": {"Type": "Digital"},
    "Room.T": {"Units": "K"},
    "Roof.T": {"Units": "degF"},
    "Gas.Flow": {"Units": "l/min"},
    "Gas.Std": {"Units": "SLPM"},
    "Gas.Set": {"ReadWrite": "W", "SafeValue": 0},
    "Grid.P": {"Units": "kW"},
    "Pump.P": {"Units": "W"},
    "Meter.E": {"Units": "kWh"},
    "Bat.SoC": {"Units": "%"},
    "Free.x": {},
    "Free.y": {},
    "Calc.Sum": {"Expression": "Grid.P + 1", "Units": "kW"},
}
RULES: dict[str, Any] = {
    "alarms": {"Alarms/Hot": {"When": "if(Stack.T > 9, 'HH', if(Stack.T > 8, 'High', null))"}},
    "states": {"Heat": {"State": "if(Stack.T > 9, 'Hot', 'Cold')"}},
    "controls": {"E_Stop": {"When": "Gateway.E_Stop", "Effects": {"Gas.Set": 0}}},
    "machines": {
        "Operation": {
            "Initial": "Off",
            "States": {"Off": {}, "Run": {}},
            "Transitions": [
                {"From": "Off", "To": "Run", "By": ["operator"]},
                {"From": "Run", "To": "Off", "By": ["operator"]},
            ],
        }
    },
}
DATA = {"x": "$LiveData/A/x", "y": "$LiveData/A/y", "fire": "$AlarmState/Alarms/Fire"}


def table(name: str) -> list[tuple[str, ...]]:
    """The lines of a table, its head left out."""
    with (CASES / name).open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert all(len(row) == len(rows[0]) for row in rows)
    return [tuple(row) for row in rows[1:]]


def findings_of(condition: str) -> list[Finding]:
    """The findings of a control with this condition on the plant of the tables."""
    control = {"When": condition, "Effects": {"Gas.Set": 0}}
    rules = {**RULES, "controls": {**RULES["controls"], "C": control}}
    _, found = compile_site(make_site(CHANNELS, **rules))
    return [finding for finding in found if ".C" in finding.key]


@pytest.mark.parametrize(("text", "character", "message"), table("syntax.csv"))
def test_a_text_that_is_no_rule_is_pointed_at(text: str, character: str, message: str) -> None:
    with pytest.raises(RuleSyntaxError) as caught:
        infix.parse(text)
    assert message in caught.value.message
    place = len(text) if character == "end" else int(character) - 1
    assert caught.value.position == place


@pytest.mark.parametrize(("rule", "place", "message"), table("jsonlogic.csv"))
def test_jsonlogic_that_is_refused_says_where(rule: str, place: str, message: str) -> None:
    with pytest.raises(RuleSyntaxError) as caught:
        jsonlogic.parse(json.loads(rule), DATA)
    assert message in caught.value.message
    assert caught.value.path == place


@pytest.mark.parametrize(
    ("condition", "rule", "message"), [*table("checks.csv"), *table("units.csv")]
)
def test_a_condition_that_is_wrong_has_one_finding(condition: str, rule: str, message: str) -> None:
    found = findings_of(condition)
    assert [finding.rule for finding in found] == ([rule] if rule else []), found
    if rule:
        assert message in found[0].message
        assert found[0].key == "Automatic_Controls.C.When"
        assert found[0].severity == ("warning" if rule == "rate-window-short" else "error")


@pytest.mark.parametrize("evaluator", ["kernel", "reference"])
def test_every_rule_gives_its_result(evaluator: str) -> None:
    for rule, values, result in table("results.csv"):
        channels = {**CHANNELS, "R.r": {"Expression": rule}}
        plant = Plant(make_site(channels, **RULES), EVALUATORS[evaluator])
        for pair in values.split():
            tag, _, value = pair.partition("=")
            plant.set(tag, math.nan if value == "bad" else float(value))
        plant.scan()
        row = plant.rows[plant.site.index["R.r"]]
        shown = "bad" if row["status"] >> 31 else float(row["value"])
        assert shown == (result if result == "bad" else pytest.approx(float(result))), rule


def test_the_example_of_the_page_is_whole() -> None:
    page = (CASES.parents[2] / "docs" / "rules.md").read_text(encoding="utf-8")
    alarms, controls, *_ = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    channels: dict[str, dict[str, Any]] = {
        **{f"Stack.T{at}": {"Units": "degC"} for at in (1, 2, 3)},
        "Stack.Door": {"Type": "Digital", "States": ["Closed", "Open"]},
        "Stack.Gas_Valve": {"Type": "Digital", "ReadWrite": "RW", "SafeValue": 0},
    }
    rules = json.loads(alarms)["AlarmStates"]
    acting = json.loads(controls)["Automatic_Controls"]
    program, found = compile_site(make_site(channels, rules, controls=acting))
    assert program is not None and found == []
    rules["Alarms/Stack_Hot"]["When"] = rules["Alarms/Stack_Hot"]["When"].replace("degC", "kW")
    _, [finding] = compile_site(make_site(channels, rules, controls=acting))
    shown = f"error: Lab_{finding}".replace("character 38: ", "character 38:\n")
    assert shown in page
