"""The semantics of a program in plain Python: the oracle that safety/kernel.py must equal.

It reads like the documentation (docs/safety.md) and makes no attempt to be fast. Tests run both
over the same histories and compare every number. The opcodes stand in safety/reference_cells.py,
what follows from the rules in safety/reference_states.py.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from config import status
from safety import layout as lay
from safety import reference_states
from safety.reference_cells import Cell, StackMachine, read_point, usable


def evaluate(
    rows: NDArray[np.void],
    rules: NDArray[np.void],
    code: NDArray[np.int32],
    consts: NDArray[np.float64],
    effects: NDArray[np.void],
    watch: NDArray[np.void],
    machines: NDArray[np.void],
    modes: NDArray[np.void],
    transitions: NDArray[np.void],
    actions: NDArray[np.void],
    segments: NDArray[np.void],
    state: NDArray[np.void],
    slots: NDArray[np.int64],
    floats: NDArray[np.float64],
    memory: NDArray[np.int64],
    outputs: NDArray[np.void],
    machine_now: NDArray[np.void],
    ramp_now: NDArray[np.void],
    cells: NDArray[np.void],
    changed: NDArray[np.int32],
    now_ns: int,
    reset: bool,
) -> int:
    """One scan; the same arguments and effects as `safety.kernel.evaluate`."""
    time_ns = _advance(memory, now_ns)
    edge = reset and memory[lay.MEMORY_RESET] == 0
    memory[lay.MEMORY_RESET] = int(reset)
    if memory[lay.MEMORY_STARTUP] and all(_is_ready(rows, state, w, time_ns) for w in watch):
        memory[lay.MEMORY_STARTUP] = 0
    times_ns = now_ns, time_ns, int(memory[lay.MEMORY_STEP])
    levels = [int(modes[now["mode"]]["level"]) for now in machine_now]
    states = reference_states.States(
        machines, modes, transitions, actions, segments, state, outputs, machine_now, ramp_now
    )
    states.clear()
    startup = bool(memory[lay.MEMORY_STARTUP])
    count = 0
    for number, rule in enumerate(rules):
        words = code[rule["start"] : rule["stop"]].tolist()
        cell = StackMachine(rows, consts, levels, state, slots, floats, times_ns).run(words)
        if rule["kind"] in (lay.KIND_VALUE, lay.KIND_FUNCTION):
            _show_value(rows[rule["point"]], cell, now_ns)
            if rule["kind"] == lay.KIND_FUNCTION:
                states.act(number, rule, cell, startup)
        elif _settle(rule, state[number], cell, time_ns, edge) and rule["kind"] != lay.KIND_GUARD:
            changed[count] = number
            count += 1
    _number_first_out(rules, state, memory)
    states.move_machines(time_ns, startup)
    if not startup:
        states.move_ramps(rows, time_ns, times_ns[2])
    states.drive(effects, startup)
    return count


def _advance(memory: NDArray[np.int64], now_ns: int) -> int:
    """Engine time: it stands still where the clock steps back, and never overflows."""
    step_ns = 0
    if memory[lay.MEMORY_TIME] == 0:
        memory[lay.MEMORY_TIME] = 1
    else:
        left_ns = min(lay.STEP_NS_MAX, lay.TIME_NS_MAX - int(memory[lay.MEMORY_TIME]))
        step_ns = min(max(now_ns - int(memory[lay.MEMORY_NOW]), 0), left_ns)
    memory[lay.MEMORY_STEP] = step_ns
    memory[lay.MEMORY_TIME] += step_ns
    memory[lay.MEMORY_NOW] = now_ns
    return int(memory[lay.MEMORY_TIME])


def _is_ready(rows: NDArray[np.void], state: NDArray[np.void], watch: Any, time_ns: int) -> bool:
    """Whether a protective input lets the start-up end: it is usable, or its rule is bypassed."""
    bypassed = int(state[watch["rule"]]["bypass_ns"]) > time_ns
    return bypassed or usable(read_point(rows, watch["point"]))


def _settle(rule: Any, state: Any, cell: Cell, time_ns: int, edge: bool) -> bool:
    """From a rule's result to what it shows: bad policy, delays, latch, bypass. True = changed."""
    shown = ("level", "latched", "bypassed", "held_back")
    before = [int(state[name]) for name in shown]
    bypassed = int(state["bypass_ns"]) > time_ns
    own = "held" if state["bypassed"] else "level"
    level = int(state[own])  # what it would show without a bypass
    wanted = _wanted(rule, state, cell, level)
    state["seen"] |= usable(cell)
    _delayed(rule, state, wanted, time_ns)
    if rule["latch"]:
        holds = wanted != 0 and state["condition"] != 0 and cell[1] != lay.QUALITY_NEVER
        if holds and not bypassed:
            state["latched"] = True
        elif edge and (bypassed or (wanted == 0 and usable(cell))):
            state["latched"] = False
    if state["condition"] or not state["latched"]:
        level = int(state["condition"])
    if not bypassed:
        state["bypass_ns"] = 0
    state["bypassed"] = bypassed
    state["level"], state["held"] = (0, level) if bypassed else (level, 0)
    state["quality"] = lay.QUALITY_GOOD if bypassed else cell[1]
    state["held_back"] = state["held"] != 0
    state["active"] = state["level"] != 0
    return before != [int(state[name]) for name in shown]


def _wanted(rule: Any, state: Any, cell: Cell, level: int) -> int:
    """The level that a result asks for."""
    if usable(cell):
        if rule["level_true"]:
            return int(rule["level_true"]) if cell[0] != 0 else 0
        return int(cell[0])
    if rule["on_bad"] == lay.ON_BAD_HOLD:
        return int(state["condition"])
    if rule["on_bad"] == lay.ON_BAD_TRIP:
        return level or int(rule["level_first"])
    return 0


def _delayed(rule: Any, state: Any, wanted: int, time_ns: int) -> None:
    """On-delay and off-delay. A state waits for any change, an alarm or control only for the
    change between active and inactive: a higher level of an active alarm shows at once."""
    shown = int(state["condition"])
    if wanted == shown:
        state["since_ns"] = 0
        return
    if wanted and shown and rule["kind"] != lay.KIND_STATE:
        state["since_ns"] = 0
        state["condition"] = wanted
        return
    restarts = rule["kind"] == lay.KIND_STATE and state["pending"] != wanted
    if state["since_ns"] == 0 or restarts:
        state["since_ns"] = time_ns
        state["pending"] = wanted
    delay_ns = rule["on_delay_ns"] if wanted else rule["off_delay_ns"]
    if time_ns - int(state["since_ns"]) >= delay_ns:
        state["since_ns"] = 0
        state["condition"] = wanted


def _show_value(row: Any, cell: Cell, now_ns: int) -> None:
    """A calculated value into its row of the point table."""
    codes = {
        lay.QUALITY_GOOD: status.GOOD,
        lay.QUALITY_UNCERTAIN: status.UNCERTAIN_SUB_NORMAL,
        lay.QUALITY_NEVER: status.BAD_WAITING_FOR_INITIAL_DATA,
        lay.QUALITY_BAD: status.BAD,
    }
    row["value"], row["status"], row["mono_ns"] = cell[0], codes[cell[1]], now_ns
    if not math.isfinite(cell[0]):
        row["value"] = math.nan
        if usable(cell):
            row["status"] = status.BAD


def _number_first_out(
    rules: NDArray[np.void], state: NDArray[np.void], memory: NDArray[np.int64]
) -> None:
    """Number the causes of a kind in the order they came; all are forgotten when all are clear."""
    for kind in (lay.KIND_ALARM, lay.KIND_INTERLOCK, lay.KIND_TRIP):
        members = [n for n, rule in enumerate(rules) if rule["kind"] == kind]
        word = lay.MEMORY_ORDER + kind
        if not any(state[n]["active"] for n in members):
            memory[word] = 0
            for n in members:
                state[n]["first_out"] = 0
            continue
        new = [
            n
            for n in members
            if state[n]["active"]
            and state[n]["first_out"] == 0
            and (state[n]["latched"] or state[n]["quality"] != lay.QUALITY_NEVER)
        ]
        if new:
            memory[word] += 1
            for n in new:
                state[n]["first_out"] = memory[word]
