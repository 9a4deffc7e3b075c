"""docs/grid.md names every key of every grid function with its default, and its examples work."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from config import functions
from config.functions import FunctionBase
from config.model import ControlStatesFile
from safety import grid, grid_findings, infix
from safety.compile import compile_site
from safety.terms import Point, Term, children
from tests.config.test_configuration_page import default_text
from tests.safety.sites import make_site

PAGE = Path(__file__).parents[2] / "docs" / "grid.md"
TEXT = PAGE.read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)
OUTPUTS = {"PV.Power_Limit", "PV.Reactive_Setpoint", "Battery.Setpoint", "Electrolyser.Setpoint"}


def models() -> dict[str, type[FunctionBase]]:
    return {
        name: item
        for name, item in vars(functions).items()
        if isinstance(item, type) and issubclass(item, FunctionBase)
    }


def sections() -> dict[str, dict[str, tuple[str, Any]]]:
    """Model -> key -> (default, example), as the page has them."""
    found: dict[str, dict[str, tuple[str, Any]]] = {}
    rows: dict[str, tuple[str, Any]] = {}
    for line in TEXT.splitlines():
        if line.startswith("### "):
            rows = found.setdefault(line.split("`")[1], {}) if "`" in line else {}
        elif line.startswith("| `") and found:
            key, default, _unit, _meaning, example = (c.strip() for c in line.split("|")[1:-1])
            rows[key.strip("`")] = (default, json.loads(example.strip("`") or '""'))
    return found


def own_fields(item: type[FunctionBase]) -> dict[str, Any]:
    parent = item.__mro__[1]
    shared = parent.model_fields if issubclass(parent, FunctionBase) else {}
    return {key: field for key, field in item.model_fields.items() if key not in shared}


def test_the_page_has_a_section_for_every_function() -> None:
    assert {name for name, rows in sections().items() if rows} == set(models())


@pytest.mark.parametrize("name", sorted(models()))
def test_every_key_is_documented_with_its_default(name: str) -> None:
    documented = {key: default for key, (default, _) in sections()[name].items()}
    assert documented == {k: default_text(f) for k, f in own_fields(models()[name]).items()}


@pytest.mark.parametrize("name", sorted(models()))
def test_the_examples_of_the_keys_are_valid(name: str) -> None:
    item = models()[name]
    keys: dict[str, Any] = {}
    for part in reversed(item.__mro__):
        for key, (_, example) in sections().get(part.__name__, {}).items():
            keys[key] = (
                name if example == "" else example
            )  # only the cells of `Function` may stand empty
    item.model_validate(keys)


def tags(term: Term) -> set[str]:
    found = {term.tag} if isinstance(term, Point) else set()
    return found.union(*(tags(inner) for inner in children(term)))


@pytest.mark.parametrize("text", EXAMPLES, ids=lambda text: text.split('"')[3])
def test_an_example_works(text: str) -> None:
    content = json.loads(text)
    parsed = ControlStatesFile.model_validate(content).Grid_Functions
    assert not [fault for function in parsed.values() for fault in grid.check(function)]
    used = set[str]()
    for function in parsed.values():
        used |= tags(grid.term(function))
        if function.When is not None:
            used |= tags(infix.parse(function.When))
    channels: dict[str, dict[str, Any]] = {tag: {} for tag in sorted(used)}
    channels |= {"Battery.Available": {"Type": "Digital", "DataType": "bool"}}
    channels |= {tag: {"ReadWrite": "RW", "SafeValue": 0.0} for tag in sorted(OUTPUTS)}
    program, findings = compile_site(make_site(channels, functions=content["Grid_Functions"]))
    assert program is not None, findings
    wanted = {"function-too-fast", "function-no-fallback", "curve-order"}
    assert not wanted & {finding.rule for finding in findings}
    assert grid_findings.TIME_CONSTANT_PERIODS == 2  # what the page says


def test_every_function_has_an_example() -> None:
    shown = {
        function.Function
        for text in EXAMPLES
        for function in ControlStatesFile.model_validate(json.loads(text)).Grid_Functions.values()
    }
    bases = {"FunctionBase", "ConnectionLimit", "BatteryFunction"}
    assert shown == set(models()) - bases
