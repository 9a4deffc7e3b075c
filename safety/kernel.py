"""The evaluator: one compiled function over the point table, for all rules at once.

The semantics stand, readable, in safety/reference.py; both must agree in every bit. Here no
function allocates, raises or calls Python. The parts below and in safety/kernel_cells.py and
safety/kernel_states.py are compiled into `evaluate`, which is the only entry, so that one
specialisation is all there is to compile.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from config.status import BAD, BAD_WAITING_FOR_INITIAL_DATA, GOOD, UNCERTAIN_SUB_NORMAL
from safety.kernel_cells import (
    LEAN,
    Floats,
    Int,
    Ints,
    Record,
    Records,
    history,
    inlined,
    leaf,
    limit,
    logic,
    number,
    part,
    quality_of,
)
from safety.kernel_states import act, clear, drive, move_machines, move_ramps
from safety.layout import (
    KIND_ALARM,
    KIND_FUNCTION,
    KIND_GUARD,
    KIND_STATE,
    KIND_TRIP,
    KIND_VALUE,
    MEMORY_NOW,
    MEMORY_ORDER,
    MEMORY_RESET,
    MEMORY_STARTUP,
    MEMORY_STEP,
    MEMORY_TIME,
    ON_BAD_HOLD,
    ON_BAD_TRIP,
    OP_LIMIT,
    OP_LOGIC_FROM,
    OP_MACHINE,
    OP_NUMBER_FROM,
    OP_RATE,
    QUALITY_BAD_FROM,
    QUALITY_GOOD,
    QUALITY_NEVER,
    STEP_NS_MAX,
    TIME_NS_MAX,
)


@inlined
def _run(
    rows: Records,
    code: Ints,
    rule: Record,
    consts: Floats,
    modes: Records,
    machine_now: Records,
    state: Records,
    slots: Ints,
    floats: Floats,
    memory: Ints,
    cells: Records,
    now_ns: Int,
    time_ns: Int,
) -> None:
    """One rule's code; its result is left in cells[0]."""
    pc, stop = np.int64(rule.start), rule.stop
    top = np.int64(0)
    while pc < stop:
        op = code[pc]
        if op < OP_LOGIC_FROM:
            if op >= OP_LIMIT:
                pc = np.int64(limit(rows, code, pc, consts, slots, cells, top))
            elif op == OP_MACHINE:
                cells[top].value = modes[machine_now[code[pc + 1]].mode].level
                cells[top].quality = QUALITY_GOOD
                pc += 2
            else:
                pc = np.int64(leaf(rows, code, pc, consts, state, cells, top, now_ns))
            top += 1
        elif op < OP_NUMBER_FROM:
            pc, top = logic(code, pc, consts, slots, cells, top, time_ns)
        elif op < OP_RATE:
            pc, top = number(code, pc, consts, slots, cells, top)
        else:
            cell, step_ns = cells[top - 1], memory[MEMORY_STEP]
            pc = np.int64(history(code, pc, consts, slots, floats, cell, time_ns, step_ns))


@inlined
def _delayed(rule: Record, state: Record, wanted: Int, time_ns: Int) -> None:
    """On-delay and off-delay, into the condition."""
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


@inlined
def _settle(rule: Record, state: Record, cell: Record, time_ns: Int, edge: bool) -> bool:
    """From a rule's result to what it shows; True where that changed.

    A bypassed rule shows false and good. What it would show goes to `held`.
    """
    before, latched = state.level, state.latched
    level, bypassed = before, False
    if state.bypass_ns != 0:
        bypassed = state.bypass_ns > time_ns
        if state.bypassed:
            level = state.held
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
    _delayed(rule, state, wanted, time_ns)
    if rule.latch != 0:
        if not bypassed and wanted != 0 and state.condition != 0 and cell.quality != QUALITY_NEVER:
            state.latched = True
        elif edge and (bypassed or (wanted == 0 and usable)):
            state.latched = False
    if state.condition != 0 or not state.latched:
        level = state.condition
    changed = state.latched != latched
    if state.bypass_ns != 0:
        changed |= _hold_back(state, level, bypassed)
        if bypassed:
            level = np.int32(0)
    state.level = level
    state.active = level != 0
    return changed or before != level


@part
def _hold_back(state: Record, level: Int, bypassed: bool) -> bool:
    """What a bypassed rule would show; True where that, or the bypass itself, changed."""
    was_bypassed, was_held_back = state.bypassed, state.held_back
    state.bypassed = bypassed
    state.held = level if bypassed else 0
    state.held_back = state.held != 0
    if bypassed:
        state.quality = QUALITY_GOOD
    else:
        state.bypass_ns = 0
    return was_bypassed != bypassed or was_held_back != state.held_back


@part
def _show_value(row: Record, cell: Record, now_ns: Int) -> None:
    """A calculated value into its row of the point table."""
    row.value = cell.value
    row.mono_ns = now_ns
    row.status = GOOD if cell.quality == QUALITY_GOOD else UNCERTAIN_SUB_NORMAL
    if cell.quality >= QUALITY_BAD_FROM or not math.isfinite(cell.value):
        row.value = math.nan
        row.status = BAD_WAITING_FOR_INITIAL_DATA if cell.quality == QUALITY_NEVER else BAD


@part
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


@part
def _begin(rows: Records, watch: Records, state: Records, memory: Ints, now_ns: Int) -> Int:
    """Move engine time on and see whether the start-up ends; returns engine time."""
    memory[MEMORY_STEP] = 0
    if memory[MEMORY_TIME] == 0:
        memory[MEMORY_TIME] = 1
    elif now_ns > memory[MEMORY_NOW]:
        left_ns = min(STEP_NS_MAX, TIME_NS_MAX - memory[MEMORY_TIME])
        memory[MEMORY_STEP] = min(now_ns - memory[MEMORY_NOW], left_ns)
        memory[MEMORY_TIME] += memory[MEMORY_STEP]
    memory[MEMORY_NOW] = now_ns
    if memory[MEMORY_STARTUP] != 0:
        good = True
        for at in range(watch.size):
            bypassed = state[watch[at].rule].bypass_ns > memory[MEMORY_TIME]
            if not bypassed and quality_of(rows, watch[at].point) >= QUALITY_BAD_FROM:
                good = False
        if good:
            memory[MEMORY_STARTUP] = 0
    return memory[MEMORY_TIME]


@njit(nogil=True, **LEAN)
def evaluate(
    rows: Records,
    rules: Records,
    code: Ints,
    consts: Floats,
    effects: Records,
    watch: Records,
    machines: Records,
    modes: Records,
    transitions: Records,
    actions: Records,
    segments: Records,
    state: Records,
    slots: Ints,
    floats: Floats,
    memory: Ints,
    outputs: Records,
    machine_now: Records,
    ramp_now: Records,
    cells: Records,
    changed: Ints,
    now_ns: int,
    reset: bool,
) -> int:
    """One scan of all rules. Never allocates, never raises.

    The point table `rows` (P,) POINT is read, but for the rows of calculated points and functions.
    From `rules` to `segments` stand the arrays of a Program, in its form and only read; from
    `state` to `changed` those of an Engine (safety/engine.py), which are written.
    `now_ns` is monotonic (int64); `reset` acts on its rising edge.
    Returns how many rules changed what they show; `changed` begins with their rows.
    """
    time_ns = _begin(rows, watch, state, memory, now_ns)
    edge = reset and memory[MEMORY_RESET] == 0
    memory[MEMORY_RESET] = 1 if reset else 0
    clear(outputs)
    count = 0
    for at in range(rules.size):
        rule = rules[at]
        _run(rows, code, rule, consts, modes, machine_now, state, slots, floats, memory, cells,
             now_ns, time_ns)  # fmt: skip
        if rule.kind == KIND_VALUE:
            _show_value(rows[rule.point], cells[0], now_ns)
        elif rule.kind == KIND_FUNCTION:
            _show_value(rows[rule.point], cells[0], now_ns)
            act(at, rule, cells[0], state, outputs, memory[MEMORY_STARTUP])
        elif _settle(rule, state[at], cells[0], time_ns, edge) and rule.kind != KIND_GUARD:
            changed[count] = at
            count += 1
    _number_first_out(rules, state, memory)
    move_machines(machines, modes, transitions, state, memory, machine_now, ramp_now)
    move_ramps(
        rows, machines, modes, actions, segments, state, memory, outputs, machine_now, ramp_now
    )
    drive(effects, state, machines, modes, actions, memory, outputs, machine_now, ramp_now)
    return count
