"""Reading code back: every word is accounted for, and a slice does what the whole does."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from safety import layout as lay
from safety.decode import References, Slice, cut, instructions
from safety.engine import Engine
from safety.layout import Program
from tests.safety.programs import CODES, POINTS, VALUES, point_table, random_program
from tests.safety.sites import EVALUATORS, MS

SCANS = 25
STEPS_NS = (0, 50 * MS, 100 * MS, 1000 * MS, 60_000 * MS)


@pytest.mark.parametrize("seed", range(20))
def test_every_word_of_the_code_belongs_to_one_instruction(seed: int) -> None:
    program = random_program(seed)
    for rule in program.rules:
        start, stop = int(rule["start"]), int(rule["stop"])
        steps = list(instructions(program.code, start, stop))
        assert steps[0].at == start and steps[-1].stop == stop
        assert all(left.stop == right.at for left, right in itertools.pairwise(steps))
        words = [word for step in steps for word in (step.op, *step.operands)]
        assert words == program.code[start:stop].tolist()


def without_startup(seed: int) -> Program:
    """A random program whose start-up ends at once: in a slice it would end earlier."""
    return replace(random_program(seed), watch=np.zeros(0, dtype=lay.WATCH))


def check_same(whole: Engine, part: Engine, piece: Slice) -> None:
    for row, rule in enumerate(piece.rules):
        if whole.program.rules[rule]["kind"] == lay.KIND_FUNCTION:
            continue  # the first function of an output decides, and the slice may not hold it
        for name in ("level", "condition", "latched", "quality", "bypassed", "since_ns"):
            assert whole.state[name][rule] == part.state[name][row], (rule, name)
    for row, machine in enumerate(piece.machines):
        first, own = (
            int(engine.program.machines["mode"][at])
            for engine, at in ((whole, machine), (part, row))
        )
        assert whole.machine_now["mode"][machine] - first == part.machine_now["mode"][row] - own


@pytest.mark.parametrize("seed", range(30))
def test_a_slice_does_what_the_whole_program_does(seed: int) -> None:
    program = without_startup(seed)
    random = np.random.default_rng(seed)
    rules = random.choice(len(program.info), size=2, replace=False).tolist()
    piece = cut(program, rules)
    whole, part = Engine(program, EVALUATORS["native"]), Engine(piece.program, EVALUATORS["native"])
    rows = point_table(program)
    own = np.zeros(len(piece.points), dtype=rows.dtype)
    now_ns = 5000 * MS
    for _ in range(SCANS):
        for _ in range(int(random.integers(5))):
            row = rows[random.integers(1, POINTS + 1)]
            row["value"], row["status"] = random.choice(VALUES), random.choice(CODES)
            row["mono_ns"] = random.integers(0, 10**12)
        now_ns += int(random.choice(STEPS_NS))
        own[:] = rows[list(piece.points)]
        reset = bool(random.random() < 0.3)
        whole.scan(rows, now_ns, reset)
        part.scan(own, now_ns, reset)
        check_same(whole, part, piece)


def test_a_slice_is_as_small_as_it_can_be() -> None:
    program = without_startup(3)
    references = References(program)
    for rule in range(len(program.info)):
        rules, machines, points = references.closure([rule])
        assert rule in rules
        piece = cut(program, [rule])
        assert (list(piece.rules), list(piece.machines)) == (rules, machines)
        inputs = [piece.points[row] for row in piece.inputs]
        assert set(points) <= set(inputs)
        assert len(piece.program.info) == len(rules)
