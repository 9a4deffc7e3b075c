"""Every site in tests/cases/prove: the wrong ones are refuted, the right ones proved."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from config import status
from config.load import require_site
from config.site import Site
from safety import layout
from safety.compile import compile_site
from safety.layout import Program
from safety.prove import Counterexample, Report, Task, prove
from safety.prove_whole import Table
from tests.safety.sites import EVALUATORS, MS, Plant, case_site

CASES = Path(__file__).parents[1] / "cases" / "prove"
FOLDERS = sorted(path.parent.name for path in CASES.glob("*/rules.json"))
LAB = Path("config/sites/soec-lab")


def compiled(site: Site) -> Program:
    program, findings = compile_site(site)
    assert program is not None, "\n".join(map(str, findings))
    return program


def proved(
    site: Site,
    program: Program,
    within_s: float,
    ticks: int,
    evaluate: Callable[..., int] = EVALUATORS["native"],
    asked: list[float] | None = None,
) -> Report:
    """A proof whose clock counts questions, so that it ends at the same place on any machine."""
    times = asked if asked is not None else []

    def spent_s() -> float:
        times.append(len(times) + 1.0)
        return times[-1]

    return prove(
        Task(
            program=program,
            points={point.index: point for point in site.points},
            evaluate=evaluate,
            scan_period_ns=100 * MS,
            draw=np.random.default_rng(1),
            spent_s=spent_s,
            budget_s=float(ticks),
            tell=lambda text: None,
            within_ns=round(within_s * 1e9),
        )
    )


def last(table: Table) -> dict[str, str]:
    return dict(zip(table.columns, table.rows[-1][1], strict=True))


def replayed(site: Site, table: Table, tag: str) -> list[tuple[float, int, str]]:
    """What is demanded of an output in every scan, by a plant that knows no proof."""
    plant = Plant(site, EVALUATORS["native"])
    demands: list[tuple[float, int, str]] = []
    before_ns, reset = 0, False
    for time_ns, cells in table.rows:
        while demands and time_ns - before_ns > 100 * MS:
            before_ns += 100 * MS
            plant.scan(100 * MS, reset)
            demands.append(plant.demand(tag))
        reset = False
        for column, cell in zip(table.columns, cells, strict=True):
            if column == "Gateway.Reset":
                reset = cell == "1"
            elif cell == "bad":
                plant.worsen(column)
            elif cell == "never":
                plant.worsen(column, status.BAD_WAITING_FOR_INITIAL_DATA)
            else:
                plant.set(column, float(cell))
        plant.scan(time_ns - before_ns, reset)
        demands.append(plant.demand(tag))
        before_ns = time_ns
    return demands


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_site_is_judged_as_expected(folder: str) -> None:
    wanted = json.loads((CASES / folder / "expected.json").read_text())
    site = case_site(CASES / folder)
    # Drawn histories have no end; where they decide nothing, a few will do.
    ticks = 150 if wanted["result"] == "sampled" else 1_000
    report = proved(site, compiled(site), wanted["within_s"], ticks)
    verdict = next(verdict for verdict in report.outputs if verdict.tag == "O.p")
    assert verdict.result == wanted["result"], report
    if wanted["result"] == "refuted":
        check_counterexample(site, report.counterexamples[0], wanted)
    else:
        assert not report.counterexamples
    if "stated_s" in wanted:
        assert verdict.stated_ns / 1e9 == pytest.approx(wanted["stated_s"])
    if "together" in wanted:
        assert wanted["together"] in [sorted(part.rules) for part in verdict.causes]
    if "why" in wanted:
        assert any(wanted["why"] in why for part in verdict.causes for why in part.why)


def check_counterexample(site: Site, found: Counterexample, wanted: dict[str, Any]) -> None:
    """It is the one that was meant, it is short, and it happens on the site."""
    assert found.claim == wanted["claim"]
    assert found.rule == wanted["rule"]
    assert "O.p" in found.outputs
    assert len(found.table.rows) <= wanted["steps_max"] + 1
    if found.claim != "loss":
        return
    assert found.known is not None
    lost, known = last(found.table), last(found.known)
    differ = {tag: cell for tag, cell in lost.items() if cell != known[tag]}
    assert len(differ) == wanted.get("lost_count", len(wanted.get("lost", differ)))
    for tag, cells in wanted.get("lost", {}).items():
        assert differ[tag] in cells
    if any("old" in note for note in found.table.notes):
        return  # a table can't say how old a value is
    assert found.rule in [cause for _, _, cause in replayed(site, found.known, "O.p")]
    value, _, _ = replayed(site, found.table, "O.p")[-1]
    assert value != 0.0
    assert value == wanted.get("demanded", value) or math.isnan(value)


def test_the_demo_site_is_proved() -> None:
    site = require_site(LAB)
    report = proved(site, compiled(site), 0.0, ticks=3_000)
    assert not report.counterexamples
    assert {verdict.result for verdict in report.outputs} <= {"proved", "start-up only"}
    assert sum(verdict.result == "proved" for verdict in report.outputs) >= 7


def test_every_trip_of_the_demo_site_is_needed_as_it_is() -> None:
    """The check checks: a trip that ignores bad inputs is found, whichever it is."""
    site = require_site(LAB)
    program = compiled(site)
    trips = np.flatnonzero(program.rules["kind"] == layout.KIND_TRIP).tolist()
    rules = program.rules.copy()
    rules["on_bad"][trips] = layout.ON_BAD_IGNORE
    report = proved(site, dataclasses.replace(program, rules=rules), 0.0, ticks=2_000)
    assert {found.rule for found in report.counterexamples} == {program.info[t].name for t in trips}


def bypassed_vote() -> tuple[Site, Program]:
    """2oo3 for 1s, with a bypass of an hour."""
    site = case_site(CASES / "right-vote-bypass")
    return site, compiled(site)


def test_a_bypass_of_an_hour_takes_as_few_states_as_one_of_a_second() -> None:
    site, program = bypassed_vote()
    report = proved(site, program, 0.0, ticks=1_000)
    (hot,) = [p for p in report.outputs[0].causes if p.rules == ("Control/Hot",)]
    assert hot.is_proof and hot.bypass
    assert 29 < hot.effort.states < 100


def test_a_bypass_that_goes_on_after_its_end_is_found() -> None:
    site, program = bypassed_vote()

    def broken(rows: Any, *arguments: Any) -> int:
        named = [a for a in arguments if getattr(a, "dtype", None) is not None]
        (state,) = [a for a in named if "bypassed" in (a.dtype.names or ())]
        was = state["bypassed"].copy()
        done = int(EVALUATORS["native"](rows, *arguments))
        state["bypassed"] |= was
        return done

    report = proved(site, program, 0.0, ticks=1_000, evaluate=broken)
    found = next(found for found in report.counterexamples if found.claim == "bypass")
    assert found.rule == "Control/Hot"
    assert [note for note in found.table.notes if note] == [
        "bypass of Control/Hot",
        "the bypass of Control/Hot ends",
    ]


def test_a_proof_goes_on_where_its_share_was_over(tmp_path: Path) -> None:
    """The vote needs more than half of the time, and the cause behind it only a little."""
    rules = json.loads((CASES / "right-vote-bypass" / "rules.json").read_text())
    rules["Channels"]["A.w"] = {"Units": "degC"}
    every = " and ".join(f"A.{name} >= 900" for name in "tuvw")
    rules["Automatic_Controls"]["Control/All"] = {"When": every, "Method": "Off"}
    (tmp_path / "rules.json").write_text(json.dumps(rules))
    site = case_site(tmp_path)
    report = proved(site, compiled(site), 0.0, ticks=550)
    assert [v.result for v in report.outputs if v.causes] == ["proved"], report
    assert [part.rules for part in report.outputs[0].causes] == [
        ("Control/E_Stop",),
        ("Control/All",),
        ("Control/Hot",),
    ]


def test_what_is_refuted_does_not_wait_for_the_budget() -> None:
    site = case_site(CASES / "wrong-on-bad-ignore")
    asked: list[float] = []
    report = proved(site, compiled(site), 0.0, ticks=100_000, asked=asked)
    assert [v.result for v in report.outputs if v.causes] == ["refuted"]
    assert len(asked) < 1_000
