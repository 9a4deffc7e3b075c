"""Kernel and reference over random programs of arrays: machines, functions, ramps, bypasses."""

from __future__ import annotations

import numpy as np
import pytest

from safety import reference
from safety.engine import BypassRefused, Engine
from safety.layout import ASKER_NAMES
from tests.safety.programs import (
    CODES,
    POINTS,
    VALUES,
    check_finite,
    point_table,
    random_program,
)
from tests.safety.sites import EVALUATORS, MS

SCANS = 30
STEPS_NS = (0, 50 * MS, 100 * MS, 100 * MS, 300 * MS, 1000 * MS, 60_000 * MS, -400 * MS, 2**60)


def disturb(random: np.random.Generator, engines: list[Engine], rows: np.ndarray) -> None:
    """New values, bypasses and requests, the same for all engines."""
    for _ in range(int(random.integers(5))):
        row = rows[random.integers(1, POINTS + 1)]
        row["value"], row["status"] = random.choice(VALUES), random.choice(CODES)
        row["mono_ns"] = random.integers(0, 10**12)
    program = engines[0].program
    rule = int(random.integers(len(program.info)))
    bypass_ns = int(random.choice([-1, -1, -1, 0, 1, 150 * MS, 2000 * MS]))
    for engine in engines:
        try:
            if bypass_ns > 0:
                engine.bypass(rule, bypass_ns)
            elif bypass_ns == 0:
                engine.end_bypass(rule)
        except BypassRefused:
            assert program.info[rule].kind not in ("interlock", "trip")
    for machine, info in enumerate(program.machine_info):
        if random.random() < 0.5:
            position, asker = (
                int(random.integers(len(info.states))),
                str(random.choice(ASKER_NAMES)),
            )
            words = {engine.refusal(machine, position, asker) for engine in engines}
            assert len(words) == 1
            for engine in engines:
                engine.request(machine, position, asker)


@pytest.mark.parametrize("seed", range(60))
def test_kernel_and_reference_agree_in_every_byte(seed: int) -> None:
    program = random_program(seed)
    evaluators = [EVALUATORS["kernel"], EVALUATORS["native"], reference.evaluate]
    engines = [Engine(program, evaluate) for evaluate in evaluators]
    tables = [point_table(program) for _ in engines]
    random = np.random.default_rng(1000 + seed)
    now_ns = 5000 * MS
    for scan in range(SCANS):
        disturb(random, engines, tables[0])
        tables[1][:] = tables[2][:] = tables[0]
        now_ns = min(max(now_ns + int(random.choice(STEPS_NS)), 0), 2**62)
        reset = bool(random.random() < 0.3)
        changed = [
            engine.scan(rows, now_ns, reset).tolist()
            for engine, rows in zip(engines, tables, strict=True)
        ]
        assert changed[0] == changed[1] == changed[2], scan
        assert len({rows.tobytes() for rows in tables}) == 1, scan
        assert len({engine.snapshot() for engine in engines}) == 1, scan
        check_finite(engines[0])
