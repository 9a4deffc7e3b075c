"""Every truth table in tests/cases/safety, with the kernel and with the reference."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest

from config import status
from tests.safety.sites import EVALUATORS, MS, Plant, case_site

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


def ask(plant: Plant, column: str, cell: str) -> tuple[str, str]:
    """Carry out a bypass or a request of inputs.csv; returns the machine and why it refuses."""
    what, _, name = column.partition(" ")
    if what == "Bypass":
        if float(cell):
            plant.engine.bypass(plant.rule(name), round(float(cell) * 1e9))
        else:
            plant.engine.end_bypass(plant.rule(name))
        return "", ""
    wanted, _, asker = cell.partition(" by ")
    machine = machine_of(plant, name)
    position = plant.program.machine_info[machine].states.index(wanted)
    asker = asker or "operator"
    refusal = plant.engine.refusal(machine, position, asker)
    if not refusal:
        plant.engine.request(machine, position, asker)
    return name, refusal


def machine_of(plant: Plant, name: str) -> int:
    """The row of a machine."""
    return [info.name for info in plant.program.machine_info].index(name)


def number(value: float) -> str:
    """A number as the tables write it; where there is none, `-`."""
    return f"{value + 0.0:.7g}" if math.isfinite(value) else "-"


def shown_of_rule(plant: Plant, name: str, what: str) -> str:
    """What expected.csv says of a rule or a machine."""
    match what:
        case "":
            return plant.level(name) or "-"
        case "latched":
            return "yes" if plant.latched(name) else "no"
        case "first-out":
            return str(plant.first_out(name))
        case "bypassed":
            held_back = plant.engine.held_back[plant.rule(name)]
            bypassed = plant.engine.bypassed[plant.rule(name)]
            return "held back" if held_back else "yes" if bypassed else "no"
        case "state":
            return plant.engine.mode(machine_of(plant, name))
    raise AssertionError(f"unknown column {name} {what}")


def shown_of_point(plant: Plant, tag: str, what: str) -> str:
    """What expected.csv says of an output or a calculated point."""
    if what == "value":
        row = plant.rows[plant.site.index[tag]]
        if row["status"] == status.BAD_WAITING_FOR_INITIAL_DATA:
            return "never"
        return "bad" if status.is_bad(int(row["status"])) else number(float(row["value"]))
    engine = plant.engine
    at = plant.program.outputs.tolist().index(plant.site.index[tag])
    match what:
        case "":
            return number(float(engine.demand[at]))
        case "cause":
            return engine.cause_name(int(engine.cause[at])) or "-"
        case "auto" | "offset" | "low" | "high":
            return number(float(getattr(engine, what)[at]))
        case "auto-cause" | "low-cause" | "high-cause":
            return engine.cause_name(int(getattr(engine, what.replace("-", "_"))[at])) or "-"
    raise AssertionError(f"unknown column {tag} {what}")


def shown(plant: Plant, column: str, refusals: dict[str, str]) -> str:
    """What expected.csv says in a column, taken from the plant."""
    if any(column == info.name for info in plant.program.info):
        return plant.level(column) or "-"  # a guard's name has blanks
    name, _, what = column.partition(" ")
    if what == "refused":
        return refusals.get(name) or "-"
    return shown_of_point(plant, name, what) if "." in name else shown_of_rule(plant, name, what)


def test_the_cases_are_there() -> None:
    assert len(FOLDERS) >= 10
    for name in FOLDERS:
        assert (CASES / name / "README.md").read_text().startswith("# ")


@pytest.mark.parametrize("evaluator", EVALUATORS)
@pytest.mark.parametrize("folder", FOLDERS)
def test_the_truth_table_holds(folder: str, evaluator: str) -> None:
    plant = Plant(case_site(CASES / folder), EVALUATORS[evaluator])
    inputs, expected = table(CASES / folder / "inputs.csv"), table(CASES / folder / "expected.csv")
    assert [row["t_ms"] for row in inputs] == [row["t_ms"] for row in expected]
    time_ms, reset = 0, False
    for cells, wanted in zip(inputs, expected, strict=True):
        step_ns = (int(cells["t_ms"]) - time_ms) * MS
        time_ms = int(cells.pop("t_ms"))
        pressed = cells.pop("Reset", "")
        reset = bool(int(pressed)) if pressed else reset
        refusals = {}
        for column, cell in cells.items():
            if " " not in column:
                write(plant, column, cell)
            elif cell:
                name, refusal = ask(plant, column, cell)
                refusals[name] = refusal
        plant.scan(step_ns, reset)
        wanted.pop("t_ms")
        got = {column: shown(plant, column, refusals) for column in wanted}
        assert got == wanted, f"{folder} at {time_ms} ms"
