"""Every history in tests/cases/replay: what the rules would have done."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from gateway.cli.history import Columns
from gateway.cli.history_csv import CsvHistory
from gateway.cli.replay import Run, Side, Wanted
from gateway.cli.replay_events import Occurrence
from gateway.cli.times import duration_ns, iso_utc, time_ns
from safety.compile import compile_site
from tests.safety.sites import case_site

CASES = Path(__file__).parents[1] / "cases" / "replay"
FOLDERS = sorted(path.parent.name for path in CASES.glob("*/rules.json"))
COLUMNS = ["begins", "ends", "kind", "name", "what", "why"]


def side_of(folder: Path) -> Side:
    """The site of a case."""
    site = case_site(folder)
    program, findings = compile_site(site)
    assert program is not None, findings
    return Side(Path("test"), site.name, program, site.points, site.scan_period_ns)


def run_case(folder: Path) -> Run:
    """Replay a case."""
    given = folder / "options.json"
    options = json.loads(given.read_text()) if given.exists() else {}
    side = side_of(folder)
    reset = options.pop("reset-after", "0s")
    begin = options.pop("from", None)
    wanted = Wanted(
        duration_ns(options.pop("every", "0s")),
        duration_ns(options.pop("hold", "0s")),
        -1 if reset == "never" else duration_ns(reset),
        time_ns(begin) if begin else None,
        None,
        False,
    )
    history = CsvHistory(folder / "history.csv", Columns(side.points, {}, ""))
    run = Run([side], history, wanted, options.pop("set", {}), folder)
    assert not options, f"unknown options {list(options)}"
    run.go()
    return run


def row_of(one: Occurrence) -> dict[str, str]:
    """An occurrence as a row of expected.csv."""
    why = one.cause if one.kind == "output" else ", ".join(f"{t} = {v}" for t, v in one.inputs)
    end = short(one.end_ns) if one.end_ns else "-"
    cells = (short(one.start_ns), end, one.kind, one.name, one.from_to, why)
    return dict(zip(COLUMNS, cells, strict=True))


def short(utc_ns: int) -> str:
    return iso_utc(utc_ns).removesuffix(".000000Z") + "Z"


def test_the_cases_are_there() -> None:
    assert len(FOLDERS) >= 8
    for name in FOLDERS:
        assert (CASES / name / "README.md").read_text().startswith("# ")


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_history_gives_what_is_expected(folder: str) -> None:
    run = run_case(CASES / folder)
    with (CASES / folder / "expected.csv").open(newline="") as file:
        expected = list(csv.DictReader(file, strict=True))
    assert [row_of(one) for one in run.trackers[0].occurrences] == expected
