"""Calculated points: what the rule program writes into the point table."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from config import status
from safety.compile import compile_site
from tests.safety.sites import EVALUATORS, Plant, errors, make_site


@pytest.fixture(params=list(EVALUATORS))
def evaluate(request: pytest.FixtureRequest) -> Callable[..., int]:
    """The kernel, the linked kernel, then the reference."""
    return EVALUATORS[request.param]


def channels(**expressions: str) -> dict[str, dict[str, Any]]:
    """Two measured points, and calculated ones of an instrument ``V``."""
    made: dict[str, dict[str, Any]] = {"Stack.U": {}, "Stack.I": {}}
    return made | {f"V.{name}": {"Expression": text} for name, text in expressions.items()}


def shown(plant: Plant, tag: str) -> tuple[float, int]:
    """Value and status of a point."""
    row = plant.rows[plant.site.index[tag]]
    return float(row["value"]), int(row["status"])


def test_a_point_is_calculated_in_every_scan(evaluate: Callable[..., int]) -> None:
    plant = Plant(make_site(channels(Power="Stack.U * Stack.I / 1000")), evaluate)
    plant.scan()
    assert shown(plant, "V.Power")[1] == status.BAD_WAITING_FOR_INITIAL_DATA
    plant.set("Stack.U", 50.0)
    plant.set("Stack.I", 200.0)
    plant.scan()
    assert shown(plant, "V.Power") == (10.0, status.GOOD)
    assert plant.rows[plant.site.index["V.Power"]]["mono_ns"] == plant.now_ns
    plant.set("Stack.I", 100.0)
    plant.scan()
    assert shown(plant, "V.Power") == (5.0, status.GOOD)


def test_the_quality_of_the_inputs_is_that_of_the_result(evaluate: Callable[..., int]) -> None:
    plant = Plant(make_site(channels(Sum="Stack.U + Stack.I", Part="Stack.U / 0")), evaluate)
    plant.set("Stack.U", 1.0)
    plant.set("Stack.I", 2.0, status.UNCERTAIN_LAST_USABLE)
    plant.scan()
    assert shown(plant, "V.Sum") == (3.0, status.UNCERTAIN_SUB_NORMAL)
    value, code = shown(plant, "V.Part")
    assert math.isnan(value)
    assert code == status.BAD
    plant.worsen("Stack.I")
    plant.scan()
    assert shown(plant, "V.Sum")[1] == status.BAD


def test_points_and_rules_use_calculated_points_of_the_same_scan(
    evaluate: Callable[..., int],
) -> None:
    site = make_site(
        # In the file the sum stands in front of what it needs.
        channels(Twice="V.Power + V.Power", Power="Stack.U * Stack.I", Hot="alarm(High) != null"),
        alarms={"High": {"When": "V.Twice > 30"}},
    )
    plant = Plant(site, evaluate)
    plant.set("Stack.U", 4.0)
    plant.set("Stack.I", 5.0)
    assert plant.scan() == ["High"]
    assert shown(plant, "V.Twice") == (40.0, status.GOOD)
    assert shown(plant, "V.Hot") == (1.0, status.GOOD)


def test_trips_on_a_calculated_point_watch_what_it_is_calculated_from() -> None:
    site = make_site(
        channels(Power="Stack.U * Stack.I") | {"Gas.Valve": {"ReadWrite": "RW", "SafeValue": 0}},
        controls={"E_Stop": {"When": "V.Power > 30", "Method": "Close"}},
        methods={"Close": [{"Topic": "Relay/Request/Gas", "Payload": {"Channels": {"Valve": 0}}}]},
    )
    plant = Plant(site)
    assert plant.program.protective[site.index["Stack.U"]]
    assert plant.program.protective[site.index["Stack.I"]]
    plant.set("Stack.U", 10.0)
    plant.set("Stack.I", 5.0)
    plant.scan()
    assert plant.demand("Gas.Valve") == (0.0, 2, "E_Stop")


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("Stack.U *", "rule-syntax"),
        ("Stack.X + 1", "reference-undefined"),
        ("if(Stack.U > 1, 'Hot', 'Cold')", "rule-type"),
        ("V.Wrong + 1", "rule-cycle"),
        ("age(V.Other)", "rule-type"),
    ],
)
def test_a_wrong_expression_is_a_finding_that_names_the_channel(text: str, rule: str) -> None:
    program, findings = compile_site(make_site(channels(Wrong=text, Other="Stack.U")))
    assert program is None
    assert errors(findings) == [rule]
    assert findings[0].file == "V.json"
    assert findings[0].key == "Channels.Wrong.Expression"


def test_a_result_beyond_all_numbers_is_bad(evaluate: Callable[..., int]) -> None:
    site = make_site(channels(Huge="Stack.U * Stack.I", Less="0 - V.Huge"))
    plant = Plant(site, evaluate)
    plant.set("Stack.U", 1e200)
    plant.set("Stack.I", 1e200)
    plant.scan()
    for tag in ("V.Huge", "V.Less"):
        value, code = shown(plant, tag)
        assert math.isnan(value)
        assert code == status.BAD


def test_a_calculated_point_is_no_emergency_stop() -> None:
    outputs = {"Gas.Valve": {"ReadWrite": "RW", "SafeValue": 0}}
    site = make_site(channels(E_Stop="Stack.U > 1") | outputs)
    _, findings = compile_site(site)
    assert "estop-missing" in [finding.rule for finding in findings]
