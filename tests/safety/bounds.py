"""Proof that a program indexes nothing outside its arrays: numba checks no bounds.

Every instruction of every rule is followed with the height of the stack, and every row that one
array names of another is looked up.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from safety import layout as lay
from safety.decode import instructions
from safety.layout import Program

# How many cells an opcode takes and gives; a vote takes as many as it says.
_TAKES: Final = {
    **dict.fromkeys((lay.OP_POINT, lay.OP_CONST, lay.OP_LEVEL, lay.OP_AGE, lay.OP_MACHINE), 0),
    **dict.fromkeys((lay.OP_LIMIT, lay.OP_LIMIT_HYST), 0),
    **dict.fromkeys((lay.OP_NOT, lay.OP_TRUTH, lay.OP_QUALITY, lay.OP_DELAY), 1),
    **dict.fromkeys((lay.OP_NEG, lay.OP_ABS), 1),
    **dict.fromkeys((lay.OP_RATE, lay.OP_FILTER, lay.OP_RAMP, lay.OP_CURVE), 1),
    **dict.fromkeys((lay.OP_AND, lay.OP_OR, lay.OP_COMPARE, lay.OP_HYST), 2),
    **dict.fromkeys(range(lay.OP_ADD, lay.OP_MAX + 1), 2),
    lay.OP_SELECT: 3,
}


def check_bounds(program: Program) -> None:
    """AssertionError where the kernel could read or write outside of an array."""
    points, rules = len(program.protective), len(program.rules)
    assert len(program.info) == rules
    slots: list[int] = []
    floats: list[int] = []
    for number in range(rules):
        _check_rule(program, number, slots, floats)
    assert len(set(slots)) == len(slots) and set(slots) <= set(range(program.slots))
    assert len(set(floats)) == len(floats) and set(floats) <= set(range(program.floats))
    outputs = len(program.outputs)
    assert len(program.safe) == len(program.shown) == outputs
    for rows, below in (
        (program.outputs, points), (program.shown, points), (program.effects["rule"], rules),
        (program.effects["output"], outputs), (program.watch["rule"], rules),
        (program.watch["point"], points), (program.actions["output"], outputs),
        (program.transitions["target"], len(program.modes)),
        (program.machines["initial"], len(program.modes)),
    ):  # fmt: skip
        assert ((rows >= 0) & (rows < below)).all()
    for rows, below in (
        (program.transitions["origin"], len(program.modes)),
        (program.modes["timeout"], len(program.modes)),
        (program.transitions["guard"], rules),
        (program.actions["pause"], rules),
    ):
        assert ((rows >= -1) & (rows < below)).all()
    _check_ranges(program)


def _check_ranges(program: Program) -> None:
    for owners, first, count, owned in (
        (program.machines, "mode", "modes", program.modes),
        (program.machines, "transition", "transitions", program.transitions),
        (program.modes, "action", "actions", program.actions),
        (program.actions, "segment", "segments", program.segments),
    ):
        inside = (owners[count] >= 0) & (owners[first] + owners[count] <= len(owned))
        assert (inside & ((owners[first] >= 0) | (owners[count] == 0))).all()
    assert (program.machines["modes"] > 0).all()


def _check_rule(program: Program, number: int, slots: list[int], floats: list[int]) -> None:
    rule: Any = program.rules[number]
    below = {
        "point": len(program.protective), "const": len(program.consts), "which": 8,
        "rule": len(program.rules), "machine": len(program.machines),
    }  # fmt: skip
    start, stop, height = int(rule["start"]), int(rule["stop"]), 0
    assert 0 <= start < stop <= len(program.code)
    for step in instructions(program.code, start, stop):
        takes = step.operands[1] if step.op == lay.OP_VOTE else _TAKES[step.op]
        assert height >= takes
        height += 1 - takes
        assert height <= program.depth
        if step.op in (lay.OP_CURVE, lay.OP_VOTE):
            assert step.operands[0] > 0
        for kind, operand in zip(step.kinds, step.operands, strict=True):
            assert kind not in below or 0 <= operand < below[kind]
        if "slot" in step.kinds:
            count = lay.RATE_SLOTS if step.op == lay.OP_RATE else 1
            slots += range(step.of("slot"), step.of("slot") + count)
        if "float" in step.kinds:
            count = lay.RATE_FLOATS if step.op == lay.OP_RATE else 1
            floats += range(step.of("float"), step.of("float") + count)
        last = step.stop
    assert (last, height) == (stop, 1)
    if rule["kind"] in (lay.KIND_VALUE, lay.KIND_FUNCTION):
        assert 0 < rule["point"] < len(program.protective)
    if rule["kind"] == lay.KIND_FUNCTION:
        assert 0 <= rule["output"] < len(program.outputs)
        assert -1 <= rule["enable"] < len(program.rules)
    assert np.isfinite(program.consts).all()
