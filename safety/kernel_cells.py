"""The opcodes of the kernel: what each does to the cells of the stack.

A part of safety/kernel.py, which says how its pieces are compiled.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from config.status import BAD_WAITING_FOR_INITIAL_DATA
from safety.layout import (
    COMPARE_EQ,
    COMPARE_GT,
    COMPARE_LT,
    DEGRADE_DROP,
    DEGRADE_TRIP,
    OP_ABS,
    OP_ADD,
    OP_AND,
    OP_COMPARE,
    OP_CONST,
    OP_CURVE,
    OP_DELAY,
    OP_DIV,
    OP_FILTER,
    OP_HYST,
    OP_LEVEL,
    OP_LIMIT,
    OP_MIN,
    OP_MOD,
    OP_MUL,
    OP_NEG,
    OP_OR,
    OP_POINT,
    OP_QUALITY,
    OP_RAMP,
    OP_RATE,
    OP_SELECT,
    OP_SUB,
    OP_TRUTH,
    OP_VOTE,
    QUALITY_BAD,
    QUALITY_BAD_FROM,
    QUALITY_GOOD,
    QUALITY_NEVER,
    QUALITY_UNCERTAIN,
    RATE_SAMPLES,
)

Records = Any  # structured arrays; numba reads their fields as attributes, numpy's types don't
Record = Any
Int = Any  # int32 or int64; numba infers which
Ints = NDArray[np.integer]
Floats = NDArray[np.float64]

# Without numba's runtime (`_nrt`) arrays are passed without counting references, which took nine
# tenths of the time. It is safe here because nothing is allocated or returned. The two `no_`
# options and one specialisation a part keep the cold compilation short.
LEAN: dict[str, Any] = {"error_model": "numpy", "_nrt": False}
_BARE: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
part = njit(**LEAN, **_BARE)
inlined = njit(forceinline=True, **LEAN, **_BARE)


@inlined
def quality_of(rows: Records, index: Int) -> Int:
    """The quality of a point; a value that is not a number is bad."""
    code = rows[index].status
    if code < 0x80000000:
        if math.isnan(rows[index].value):
            return QUALITY_BAD
        return np.int64(code >> 30)
    if code == BAD_WAITING_FOR_INITIAL_DATA:
        return QUALITY_NEVER
    return QUALITY_BAD


@inlined
def _compare(which: Int, left: float, right: float) -> bool:
    outcome = COMPARE_LT * np.int64(left < right) + COMPARE_EQ * np.int64(left == right)
    return (which & (outcome + COMPARE_GT * np.int64(left > right))) != 0


@inlined
def _put(cells: Records, at: Int, value: float, quality: Int) -> None:
    """A cell; where the quality is bad the value is NaN."""
    cells[at].quality = quality
    if quality >= QUALITY_BAD_FROM:
        value = math.nan
    cells[at].value = value


@inlined
def limit(
    rows: Records, code: Ints, pc: Int, consts: Floats, slots: Ints, cells: Records, top: Int
) -> Int:
    """OP_LIMIT and OP_LIMIT_HYST; returns the next pc."""
    which, point = code[pc + 1], code[pc + 2]
    right = consts[code[pc + 3]]
    with_slot = code[pc] != OP_LIMIT
    quality = quality_of(rows, point)
    holds = 0.0
    if quality < QUALITY_BAD_FROM:
        if with_slot and slots[code[pc + 4]] != 0:
            band = consts[code[pc + 5]]
            right = right - band if which & COMPARE_GT else right + band
        if _compare(which, rows[point].value, right):
            holds = 1.0
        if with_slot:
            slots[code[pc + 4]] = np.int64(holds)
    _put(cells, top, holds, quality)
    return pc + 6 if with_slot else pc + 4


@part
def leaf(
    rows: Records,
    code: Ints,
    pc: Int,
    consts: Floats,
    state: Records,
    cells: Records,
    top: Int,
    now_ns: Int,
) -> Int:
    """Opcodes that push one cell; returns the next pc."""
    op, operand = code[pc], code[pc + 1]
    quality = np.int64(QUALITY_GOOD)
    if op == OP_POINT:
        quality = quality_of(rows, operand)
        value = rows[operand].value
    elif op == OP_CONST:
        value = consts[operand]
    elif op == OP_LEVEL:
        quality = np.int64(state[operand].quality)
        value = np.float64(state[operand].level)
    else:  # OP_AGE
        if quality_of(rows, operand) == QUALITY_NEVER:
            quality = np.int64(QUALITY_NEVER)
        value = max(now_ns - rows[operand].mono_ns, 0) / 1e9
    _put(cells, top, value, quality)
    return pc + 2


@inlined
def _join(cells: Records, at: Int, decisive: bool) -> None:
    """Kleene's and/or of two cells into the left one: a usable decisive operand decides."""
    left, right = cells[at].quality, cells[at + 1].quality
    left_decides = left < QUALITY_BAD_FROM and (cells[at].value != 0.0) == decisive
    right_decides = right < QUALITY_BAD_FROM and (cells[at + 1].value != 0.0) == decisive
    outcome = decisive
    if left_decides and right_decides:
        quality = min(left, right)
    elif left_decides:
        quality = left
    elif right_decides:
        quality = right
    else:
        quality = max(left, right)
        outcome = not decisive
    _put(cells, at, 1.0 if outcome else 0.0, quality)


@part
def _vote(cells: Records, first: Int, needed: Int, count: Int, degrade: Int) -> None:
    """MooN of `count` cells into the first one."""
    ayes = 0
    bad = 0
    never = 0
    quality = np.int64(QUALITY_GOOD)
    for at in range(first, first + count):
        cell_quality = cells[at].quality
        if cell_quality != QUALITY_GOOD:
            quality = np.int64(QUALITY_UNCERTAIN)
        if cell_quality == QUALITY_BAD:
            bad += 1
        elif cell_quality == QUALITY_NEVER:
            never += 1
        elif cells[at].value != 0.0:
            ayes += 1
    value = 0.0
    if degrade == DEGRADE_DROP:
        usable = count - bad - never
        if usable == 0:
            quality = np.int64(QUALITY_BAD if bad != 0 else QUALITY_NEVER)
        elif ayes >= min(needed, usable):
            value = 1.0
    elif ayes >= needed or (degrade == DEGRADE_TRIP and ayes + bad >= needed):
        value = 1.0
    elif ayes + bad >= needed:
        quality = np.int64(QUALITY_BAD)
    elif ayes + bad + never >= needed:
        quality = np.int64(QUALITY_NEVER)
    _put(cells, first, value, quality)


@inlined
def _delay(cells: Records, at: Int, slots: Ints, slot: Int, delay_ns: Int, time_ns: Int) -> None:
    """On-delay of a condition, in its cell."""
    if cells[at].quality >= QUALITY_BAD_FROM or cells[at].value == 0.0:
        slots[slot] = 0
        return
    if slots[slot] == 0:
        slots[slot] = time_ns
    cells[at].value = 1.0 if time_ns - slots[slot] >= delay_ns else 0.0


@part
def logic(
    code: Ints, pc: Int, consts: Floats, slots: Ints, cells: Records, top: Int, time_ns: Int
) -> tuple[Int, Int]:
    """Opcodes on conditions; `top` is one above the highest cell. Returns the next pc, top."""
    op = code[pc]
    if op in (OP_AND, OP_OR):
        _join(cells, top - 2, op == OP_OR)
        return pc + 1, top - 1
    if op == OP_DELAY:
        _delay(cells, top - 1, slots, code[pc + 1], np.int64(consts[code[pc + 2]]), time_ns)
        return pc + 3, top
    if op == OP_VOTE:
        count = code[pc + 2]
        _vote(cells, top - count, code[pc + 1], count, code[pc + 3])
        return pc + 4, top - count + 1
    if op == OP_SELECT:
        at = top - 3
        quality = cells[at].quality
        if quality < QUALITY_BAD_FROM:
            chosen = at + 1 if cells[at].value != 0.0 else at + 2
            _put(cells, at, cells[chosen].value, max(quality, cells[chosen].quality))
        return pc + 1, top - 2
    if op == OP_QUALITY:
        cells[top - 1].value = np.float64(min(cells[top - 1].quality, 2))
        cells[top - 1].quality = QUALITY_GOOD
    elif cells[top - 1].quality < QUALITY_BAD_FROM:  # OP_NOT, OP_TRUTH
        same = (cells[top - 1].value != 0.0) == (op == OP_TRUTH)
        cells[top - 1].value = 1.0 if same else 0.0
    return pc + 1, top


@part
def _arithmetic(op: Int, left: float, right: float) -> float:
    if op == OP_ADD:
        return left + right
    if op == OP_SUB:
        return left - right
    if op == OP_MUL:
        return left * right
    if op == OP_DIV:
        return math.nan if right == 0.0 else left / right
    if op == OP_MOD:
        return np.fmod(left, right)  # NaN for x % 0 and inf % x
    if op == OP_MIN:
        return min(left, right)
    return max(left, right)


@part
def number(
    code: Ints, pc: Int, consts: Floats, slots: Ints, cells: Records, top: Int
) -> tuple[Int, Int]:
    """Opcodes on numbers; `top` is one above the highest cell. Returns the next pc, top."""
    op = code[pc]
    if op in (OP_NEG, OP_ABS):
        value = cells[top - 1].value
        cells[top - 1].value = -value if op == OP_NEG else abs(value)
        return pc + 1, top
    left, right = cells[top - 2].value, cells[top - 1].value
    quality = max(cells[top - 2].quality, cells[top - 1].quality)
    usable = quality < QUALITY_BAD_FROM
    value = math.nan
    if op in (OP_COMPARE, OP_HYST):
        which = code[pc + 1]
        if usable:
            if op == OP_HYST and slots[code[pc + 2]] != 0:
                band = consts[code[pc + 3]]
                right = right - band if which & COMPARE_GT else right + band
            value = 1.0 if _compare(which, left, right) else 0.0
            if op == OP_HYST:
                slots[code[pc + 2]] = np.int64(value)
        pc += 4 if op == OP_HYST else 2
    else:
        if usable:
            value = _arithmetic(op, left, right)
            if math.isnan(value):
                quality = QUALITY_BAD
        pc += 1
    _put(cells, top - 2, value, quality)
    return pc, top - 1


@part
def _rate(
    slots: Ints, slot: Int, floats: Floats, first: Int, window_ns: Int, cell: Record, time_ns: Int
) -> None:
    """Change per second since the newest sample that is at least a window old, in its cell.

    The samples are a ring: how many there are, where the next one goes, their times.
    """
    kept, following = slots[slot], slots[slot + 1]
    newest = (following + RATE_SAMPLES - 1) % RATE_SAMPLES
    value, rate = cell.value, math.nan
    quality = np.int64(QUALITY_NEVER)
    for back in range(kept):
        at = (newest + RATE_SAMPLES - back) % RATE_SAMPLES
        passed_ns = time_ns - slots[slot + 2 + at]
        if passed_ns >= window_ns and passed_ns > 0:
            rate = (value - floats[first + at]) / (passed_ns / 1e9)
            quality = np.int64(QUALITY_BAD if math.isnan(rate) else cell.quality)
            break
    apart_ns = (window_ns + RATE_SAMPLES - 2) // (RATE_SAMPLES - 1)
    if kept == 0 or time_ns - slots[slot + 2 + newest] >= apart_ns:
        slots[slot + 2 + following] = time_ns
        floats[first + following] = value
        slots[slot] = kept + 1 if kept < RATE_SAMPLES else kept
        slots[slot + 1] = (following + 1) % RATE_SAMPLES
    cell.value, cell.quality = rate, quality


@inlined
def _lag(before: float, value: float, constant_ns: float, step_ns: Int) -> float:
    """First-order lag, one step; where that leaves the numbers it starts anew."""
    if constant_ns > 0.0:
        after = before + (value - before) * (step_ns / (constant_ns + step_ns))
        if math.isfinite(after):
            return after
    return value


@inlined
def _slew(before: float, value: float, up: float, down: float, step_ns: Int) -> float:
    """Towards `value`, at most `up` and `down` a second."""
    if not math.isfinite(before):
        return value
    step_s = step_ns / 1e9
    if value > before:
        return min(value, before + up * step_s)
    return max(value, before - down * step_s)


@part
def _curve(code: Ints, pc: Int, consts: Floats, value: float) -> float:
    """Straight lines between the points of OP_CURVE; outside of them the value at the end."""
    count = code[pc + 1]
    x, y = consts[code[pc + 2]], consts[code[pc + 3]]
    if value <= x:
        return y
    for at in range(1, count):
        x_next, y_next = consts[code[pc + 2 + 2 * at]], consts[code[pc + 3 + 2 * at]]
        if value <= x_next:
            return y + (y_next - y) * ((value - x) / (x_next - x))
        x, y = x_next, y_next
    return y


@part
def history(
    code: Ints,
    pc: Int,
    consts: Floats,
    slots: Ints,
    floats: Floats,
    cell: Record,
    time_ns: Int,
    step_ns: Int,
) -> Int:
    """OP_RATE, OP_FILTER, OP_RAMP and OP_CURVE, in their cell; returns the next pc."""
    op = code[pc]
    usable = cell.quality < QUALITY_BAD_FROM
    if op == OP_CURVE:
        if usable:
            cell.value = _curve(code, pc, consts, cell.value)
            if math.isnan(cell.value):
                cell.quality = QUALITY_BAD
        return pc + 2 + 2 * code[pc + 1]
    slot, at = code[pc + 1], code[pc + 2]
    if not usable:
        slots[slot] = 0
        if op == OP_RATE:
            slots[slot + 1] = 0
    elif op == OP_RATE:
        _rate(slots, slot, floats, at, np.int64(consts[code[pc + 3]]), cell, time_ns)
    else:
        if slots[slot] == 0:
            floats[at] = cell.value
            slots[slot] = 1
        elif op == OP_FILTER:
            floats[at] = _lag(floats[at], cell.value, consts[code[pc + 3]], step_ns)
        else:
            up, down = consts[code[pc + 3]], consts[code[pc + 4]]
            floats[at] = _slew(floats[at], cell.value, up, down, step_ns)
        cell.value = floats[at]
    return pc + (5 if op == OP_RAMP else 4)
