"""The evaluator: one compiled function over the point table, for all rules at once.

The semantics stand, readable, in safety/reference.py; both must agree in every bit. Here no
function allocates, raises or calls Python. The parts below are inlined into `evaluate`, which is
the only entry, so that one specialisation is all there is to compile.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from config.status import BAD, BAD_WAITING_FOR_INITIAL_DATA, GOOD, UNCERTAIN_SUB_NORMAL
from safety.layout import (
    CAUSE_NONE,
    CAUSE_STARTUP,
    COMPARE_EQ,
    COMPARE_GT,
    COMPARE_LT,
    KIND_ALARM,
    KIND_STATE,
    KIND_TRIP,
    KIND_VALUE,
    MEMORY_NOW,
    MEMORY_ORDER,
    MEMORY_RESET,
    MEMORY_STARTUP,
    MEMORY_TIME,
    ON_BAD_HOLD,
    ON_BAD_TRIP,
    OP_ABS,
    OP_ADD,
    OP_AND,
    OP_COMPARE,
    OP_CONST,
    OP_DELAY,
    OP_DIV,
    OP_HYST,
    OP_LEVEL,
    OP_LIMIT,
    OP_LOGIC_FROM,
    OP_MIN,
    OP_MOD,
    OP_MUL,
    OP_NEG,
    OP_NUMBER_FROM,
    OP_OR,
    OP_POINT,
    OP_QUALITY,
    OP_SELECT,
    OP_SUB,
    OP_TRUTH,
    OP_VOTE,
    QUALITY_BAD,
    QUALITY_BAD_FROM,
    QUALITY_GOOD,
    QUALITY_NEVER,
    QUALITY_UNCERTAIN,
    RANK_NONE,
    RANK_TRIP,
    STEP_NS_MAX,
)

Records = Any  # structured arrays; numba reads their fields as attributes, numpy's types don't
Record = Any
Int = Any  # int32 or int64; numba infers which
Ints = NDArray[np.integer]
Floats = NDArray[np.float64]

# Without numba's runtime (`_nrt`) arrays are passed without counting references, which took nine
# tenths of the time. It is safe here because nothing is allocated or returned. The two `no_`
# options and one specialisation a part keep the cold compilation short.
_LEAN: dict[str, Any] = {"error_model": "numpy", "_nrt": False}
_BARE: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
_part = njit(**_LEAN, **_BARE)
_inlined = njit(forceinline=True, **_LEAN, **_BARE)


@_inlined
def _quality(rows: Records, index: Int) -> Int:
    code = rows[index].status
    if code < 0x80000000:
        if math.isnan(rows[index].value):
            return QUALITY_BAD
        return np.int64(code >> 30)
    if code == BAD_WAITING_FOR_INITIAL_DATA:
        return QUALITY_NEVER
    return QUALITY_BAD


@_inlined
def _compare(which: Int, left: float, right: float) -> bool:
    outcome = COMPARE_LT * np.int64(left < right) + COMPARE_EQ * np.int64(left == right)
    return (which & (outcome + COMPARE_GT * np.int64(left > right))) != 0


@_inlined
def _put(cells: Records, at: Int, value: float, quality: Int) -> None:
    """A cell; where the quality is bad the value is NaN."""
    cells[at].quality = quality
    if quality >= QUALITY_BAD_FROM:
        value = math.nan
    cells[at].value = value


@_inlined
def _limit(
    rows: Records, code: Ints, pc: Int, consts: Floats, slots: Ints, cells: Records, top: Int
) -> Int:
    """OP_LIMIT and OP_LIMIT_HYST; returns the next pc."""
    which, point = code[pc + 1], code[pc + 2]
    right = consts[code[pc + 3]]
    with_slot = code[pc] != OP_LIMIT
    quality = _quality(rows, point)
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


@_part
def _leaf(
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
        quality = _quality(rows, operand)
        value = rows[operand].value
    elif op == OP_CONST:
        value = consts[operand]
    elif op == OP_LEVEL:
        quality = np.int64(state[operand].quality)
        value = np.float64(state[operand].level)
    else:  # OP_AGE
        if _quality(rows, operand) == QUALITY_NEVER:
            quality = np.int64(QUALITY_NEVER)
        value = max(now_ns - rows[operand].mono_ns, 0) / 1e9
    _put(cells, top, value, quality)
    return pc + 2


@_inlined
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


@_part
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
    if ayes >= needed or (degrade != 0 and ayes + bad >= needed):
        value = 1.0
    elif ayes + bad >= needed:
        quality = np.int64(QUALITY_BAD)
    elif ayes + bad + never >= needed:
        quality = np.int64(QUALITY_NEVER)
    _put(cells, first, value, quality)


@_inlined
def _delay(cells: Records, at: Int, slots: Ints, slot: Int, delay_ns: Int, time_ns: Int) -> None:
    """On-delay of a condition, in its cell."""
    if cells[at].quality >= QUALITY_BAD_FROM or cells[at].value == 0.0:
        slots[slot] = 0
        return
    if slots[slot] == 0:
        slots[slot] = time_ns
    cells[at].value = 1.0 if time_ns - slots[slot] >= delay_ns else 0.0


@_part
def _logic(
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


@_part
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


@_part
def _number(
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


@_inlined
def _run(
    rows: Records,
    code: Ints,
    start: Int,
    stop: Int,
    consts: Floats,
    state: Records,
    slots: Ints,
    cells: Records,
    now_ns: Int,
    time_ns: Int,
) -> None:
    """One rule's code; its result is left in cells[0]."""
    pc = np.int64(start)
    top = np.int64(0)
    while pc < stop:
        op = code[pc]
        if op < OP_LOGIC_FROM:
            if op >= OP_LIMIT:
                pc = np.int64(_limit(rows, code, pc, consts, slots, cells, top))
            else:
                pc = np.int64(_leaf(rows, code, pc, consts, state, cells, top, now_ns))
            top += 1
        elif op < OP_NUMBER_FROM:
            pc, top = _logic(code, pc, consts, slots, cells, top, time_ns)
        else:
            pc, top = _number(code, pc, consts, slots, cells, top)


@_inlined
def _filter(rule: Record, state: Record, wanted: Int, time_ns: Int) -> None:
    """On-delay and off-delay."""
    shown = state.condition
    if wanted == shown:
        state.since_ns = 0
    elif wanted != 0 and shown != 0 and rule.kind != KIND_STATE:
        state.since_ns = 0
        state.condition = wanted
    else:
        if state.since_ns == 0 or (rule.kind == KIND_STATE and state.pending != wanted):
            state.since_ns = time_ns
            state.pending = wanted
        delay_ns = rule.on_delay_ns if wanted != 0 else rule.off_delay_ns
        if time_ns - state.since_ns >= delay_ns:
            state.since_ns = 0
            state.condition = wanted


@_inlined
def _settle(rule: Record, state: Record, cell: Record, time_ns: Int, edge: bool) -> bool:
    """From a rule's result to what it shows; True where that changed."""
    level, latched = state.level, state.latched
    usable = cell.quality < QUALITY_BAD_FROM
    wanted = np.int64(0)
    if usable:
        state.seen = True
        wanted = np.int64(cell.value)
        if rule.level_true != 0:
            wanted = np.int64(rule.level_true if cell.value != 0.0 else 0)
    elif rule.on_bad == ON_BAD_HOLD:
        wanted = np.int64(state.condition)
    elif rule.on_bad == ON_BAD_TRIP:
        wanted = np.int64(rule.level_first if level == 0 else level)
    state.quality = cell.quality
    _filter(rule, state, wanted, time_ns)
    if rule.latch != 0:
        if wanted != 0 and state.condition != 0 and cell.quality != QUALITY_NEVER:
            state.latched = True
        elif edge and wanted == 0 and usable:
            state.latched = False
    if state.condition != 0 or not state.latched:
        state.level = state.condition
    state.active = state.level != 0
    return state.level != level or state.latched != latched


@_part
def _show_value(row: Record, cell: Record, now_ns: Int) -> None:
    """A calculated value into its row of the point table."""
    row.value = cell.value
    row.mono_ns = now_ns
    row.status = GOOD if cell.quality == QUALITY_GOOD else UNCERTAIN_SUB_NORMAL
    if cell.quality >= QUALITY_BAD_FROM or not math.isfinite(cell.value):
        row.value = math.nan
        row.status = BAD_WAITING_FOR_INITIAL_DATA if cell.quality == QUALITY_NEVER else BAD


@_part
def _number_first_out(rules: Records, state: Records, memory: Ints) -> None:
    """Number the causes of each kind in the order they came, until all are clear."""
    for kind in range(KIND_ALARM, KIND_TRIP + 1):
        if kind == KIND_STATE:
            continue
        active = False
        number = memory[MEMORY_ORDER + kind] + 1
        given = False
        for at in range(rules.size):
            if rules[at].kind == kind and state[at].active:
                active = True
                known = state[at].latched or state[at].quality != QUALITY_NEVER
                if known and state[at].first_out == 0:
                    state[at].first_out = number
                    given = True
        if given:
            memory[MEMORY_ORDER + kind] = number
        if not active:
            if memory[MEMORY_ORDER + kind] != 0:
                for at in range(rules.size):
                    if rules[at].kind == kind:
                        state[at].first_out = 0
            memory[MEMORY_ORDER + kind] = 0


@_part
def _drive(effects: Records, state: Records, memory: Ints, outputs: Records) -> None:
    """The demand on every output: the highest rank, and among equals the first rule."""
    for at in range(outputs.size):
        outputs[at].value = math.nan
        outputs[at].rank = RANK_NONE
        outputs[at].cause = CAUSE_NONE
        if memory[MEMORY_STARTUP] != 0 and not math.isnan(outputs[at].safe):
            outputs[at].value = outputs[at].safe
            outputs[at].rank = RANK_TRIP
            outputs[at].cause = CAUSE_STARTUP
    for at in range(effects.size):
        effect = effects[at]
        if state[effect.rule].level == effect.level:
            output = outputs[effect.output]
            if effect.rank > output.rank:
                output.value = effect.value
                output.rank = effect.rank
                output.cause = effect.rule


@_part
def _begin(rows: Records, watch: Ints, memory: Ints, now_ns: Int) -> Int:
    """Move engine time on and see whether the start-up ends; returns engine time."""
    if memory[MEMORY_TIME] == 0:
        memory[MEMORY_TIME] = 1
    elif now_ns > memory[MEMORY_NOW]:
        memory[MEMORY_TIME] += min(now_ns - memory[MEMORY_NOW], STEP_NS_MAX)
    memory[MEMORY_NOW] = now_ns
    if memory[MEMORY_STARTUP] != 0:
        good = True
        for at in range(watch.size):
            if _quality(rows, watch[at]) >= QUALITY_BAD_FROM:
                good = False
        if good:
            memory[MEMORY_STARTUP] = 0
    return memory[MEMORY_TIME]


@njit(nogil=True, **_LEAN)
def evaluate(
    rows: Records,
    rules: Records,
    code: Ints,
    consts: Floats,
    effects: Records,
    watch: Ints,
    state: Records,
    slots: Ints,
    memory: Ints,
    outputs: Records,
    cells: Records,
    changed: Ints,
    now_ns: int,
    reset: bool,
) -> int:
    """One scan of all rules. Never allocates, never raises.

    rows     (P,) POINT    calculated points are written
    rules    (R,) RULE     read only
    code     (C,) int32    read only     consts   (K,) float64  read only
    effects  (E,) EFFECT   read only     watch    (W,) int32    protective points, read only
    state    (R,) STATE    updated       slots    (S,) int64    updated
    memory   (MEMORY_WORDS,) int64       outputs  (O,) OUTPUT   demands are written
    cells    (depth,) CELL scratch       changed  (R,) int32    the first n are written
    now_ns   int64, monotonic            reset    bool, acts on its rising edge
    Returns n, how many rules changed their level or latch.
    """
    time_ns = _begin(rows, watch, memory, now_ns)
    edge = reset and memory[MEMORY_RESET] == 0
    memory[MEMORY_RESET] = 1 if reset else 0
    count = 0
    for at in range(rules.size):
        rule = rules[at]
        _run(rows, code, rule.start, rule.stop, consts, state, slots, cells, now_ns, time_ns)
        if rule.kind == KIND_VALUE:
            _show_value(rows[rule.point], cells[0], now_ns)
        elif _settle(rule, state[at], cells[0], time_ns, edge):
            changed[count] = at
            count += 1
    _number_first_out(rules, state, memory)
    _drive(effects, state, memory, outputs)
    return count
