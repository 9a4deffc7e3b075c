"""No program indexes outside its arrays; and what checks that sees it where one does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from config.load import load_site
from config.points import POINT
from safety import layout as lay
from safety.compile import compile_site
from safety.engine import Engine
from safety.layout import Program
from safety.terms import ARGUMENTS_MAX, CURVE_POINTS_MAX
from tests.safety.bounds import check_bounds
from tests.safety.sites import EVALUATORS, MS, Plant, S, make_site

SITES = sorted(path for path in (Path(__file__).parents[2] / "config" / "sites").iterdir())


@pytest.mark.parametrize("folder", SITES, ids=lambda path: path.name)
def test_a_shipped_site_stays_inside(folder: Path) -> None:
    site, _ = load_site(folder)
    assert site is not None
    program, _ = compile_site(site)
    assert program is not None
    check_bounds(program)


@pytest.mark.parametrize("name", EVALUATORS)
def test_nothing_at_all_is_a_program(name: str) -> None:
    plant = Plant(make_site({}), EVALUATORS[name])
    assert (len(plant.program.rules), len(plant.program.outputs)) == (0, 0)
    assert plant.scan() == []
    assert not plant.engine.startup


def test_the_largest_rules_stay_inside() -> None:
    votes = ", ".join(["A.a > 1"] * ARGUMENTS_MAX)
    points = ", ".join(f"{at}, {at}" for at in range(CURVE_POINTS_MAX))
    sums = "A.a + (" * 35 + "A.a" + ")" * 35
    texts = [f"vote(1, {votes})", f"curve({sums}, {points}) > 1", f"{sums} > 1"]
    plant = Plant(make_site({"A.a": {}}, {f"R{n}": {"When": t} for n, t in enumerate(texts)}))
    assert plant.program.depth == ARGUMENTS_MAX


def program() -> Program:
    """One rule of every form."""
    texts = {
        "R": "rate(A.a, 9s) > 1 hysteresis 0.5 and filter(A.b, 1s) > 1",
        "S": "vote(1, A.a > 1, alarm(R)) for 1s and ramp(A.b, 1, 1) > 1",
    }
    channels: dict[str, Any] = {"A.a": {}, "A.b": {}, "O.p": {"ReadWrite": "RW", "SafeValue": 0}}
    controls = {"E_Stop": {"When": "alarm(S)", "Effects": {"O.p": 0}}}
    alarms = {name: {"When": text} for name, text in texts.items()}
    return Plant(make_site(channels, alarms, controls=controls)).program


def test_the_check_finds_what_is_outside() -> None:
    good = program()
    check_bounds(good)
    effects = good.effects.copy()
    effects["output"] = len(good.outputs)
    rules = good.rules.copy()
    rules["stop"][-1] += 1
    outside = [
        replace(good, depth=good.depth - 1),
        replace(good, slots=good.slots - 1),
        replace(good, floats=good.floats - 1),
        replace(good, consts=good.consts[:-1]),
        replace(good, effects=effects),
        replace(good, rules=rules),
        replace(good, watch=np.array([(0, len(good.protective))], dtype=lay.WATCH)),
    ]
    for wrong in outside:
        with pytest.raises(AssertionError):
            check_bounds(wrong)


def test_a_point_table_of_another_size_is_refused() -> None:
    engine = Engine(program())
    for size in (0, len(engine.program.protective) - 1, len(engine.program.protective) + 1):
        with pytest.raises(AssertionError):
            engine.scan(np.zeros(size, dtype=POINT), 0, False)


@pytest.mark.parametrize("name", EVALUATORS)
def test_time_ends_before_it_overflows(name: str) -> None:
    plant = Plant(make_site({"A.a": {}}, {"A": {"When": "A.a > 1 for 31h"}}), EVALUATORS[name])
    plant.set("A.a", 5)
    plant.scan(0)
    plant.engine.memory[lay.MEMORY_TIME] = lay.TIME_NS_MAX - 40 * 3600 * S
    for step_ns in (100 * MS, 2**62, 2**63, 2**70, -(2**71), 2**72):
        plant.scan(step_ns)
        assert 0 < plant.engine.time_ns <= lay.TIME_NS_MAX
    assert plant.engine.time_ns == lay.TIME_NS_MAX
    assert plant.level("A") == "Alarm"
