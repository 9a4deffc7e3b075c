"""Every truth table in tests/cases/safety, with the kernel and with the reference."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest

from config import status
from tests.safety.sites import EVALUATORS, MS, Plant, make_site

CASES = Path(__file__).parents[1] / "cases" / "safety"
FOLDERS = sorted(path.parent.name for path in CASES.glob("*/rules.json"))


def table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file, strict=True))


def write(plant: Plant, tag: str, cell: str) -> None:
    """Put one cell of inputs.csv into the plant."""
    if cell == "bad":
        plant.worsen(tag)
    elif cell == "never":
        plant.set(tag, math.nan, status.BAD_WAITING_FOR_INITIAL_DATA)
    elif cell.startswith("uncertain "):
        plant.set(tag, float(cell.split()[1]), status.UNCERTAIN_NO_COMMUNICATION)
    elif cell:
        plant.set(tag, float(cell))


def shown(plant: Plant, column: str) -> str:
    """What expected.csv says in a column, taken from the plant."""
    name, _, what = column.partition(" ")
    if "." not in name:
        if what == "latched":
            return "yes" if plant.latched(name) else "no"
        if what == "first-out":
            return str(plant.first_out(name))
        assert not what, f"unknown column {column}"
        return plant.level(name) or "-"
    value, _, cause = plant.demand(name)
    if what == "cause":
        return cause or "-"
    assert not what, f"unknown column {column}"
    return "-" if math.isnan(value) else f"{value:g}"


def test_the_cases_are_there() -> None:
    assert len(FOLDERS) >= 10
    for name in FOLDERS:
        assert (CASES / name / "README.md").read_text().startswith("# ")


@pytest.mark.parametrize("evaluator", EVALUATORS)
@pytest.mark.parametrize("folder", FOLDERS)
def test_the_truth_table_holds(folder: str, evaluator: str) -> None:
    rules = json.loads((CASES / folder / "rules.json").read_text())
    site = make_site(
        rules.pop("Channels"),
        rules.pop("AlarmStates", None),
        rules.pop("SystemStates", None),
        rules.pop("Automatic_Controls", None),
        rules.pop("Control_Methods", None),
    )
    assert not rules, f"unknown keys {list(rules)}"
    plant = Plant(site, EVALUATORS[evaluator])
    inputs, expected = table(CASES / folder / "inputs.csv"), table(CASES / folder / "expected.csv")
    assert [row["t_ms"] for row in inputs] == [row["t_ms"] for row in expected]
    time_ms, reset = 0, False
    for cells, wanted in zip(inputs, expected, strict=True):
        step_ns = (int(cells["t_ms"]) - time_ms) * MS
        time_ms = int(cells.pop("t_ms"))
        pressed = cells.pop("Reset", "")
        reset = bool(int(pressed)) if pressed else reset
        for tag, cell in cells.items():
            write(plant, tag, cell)
        plant.scan(step_ns, reset)
        wanted.pop("t_ms")
        got = {column: shown(plant, column) for column in wanted}
        assert got == wanted, f"{folder} at {time_ms} ms"
