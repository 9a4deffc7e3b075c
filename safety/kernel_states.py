"""What follows from the rules: functions, machines of control states, ramps and demands.

A part of safety/kernel.py, which says how its pieces are compiled.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from safety.kernel_cells import Int, Ints, Record, Records, part, quality_of
from safety.layout import (
    BY_START,
    BY_TIMEOUT,
    CAUSE_MACHINE_FROM,
    CAUSE_NONE,
    CAUSE_STARTUP,
    MEMORY_STARTUP,
    MEMORY_STEP,
    MEMORY_TIME,
    QUALITY_BAD_FROM,
    RANK_INTERLOCK,
    RANK_NONE,
    RANK_SETPOINT,
    RANK_TRIP,
    ROLE_MAXIMUM,
    ROLE_MINIMUM,
    ROLE_SETPOINT,
)

_STAYS: Final = -3  # beside the rows of transitions, BY_START and BY_TIMEOUT


@part
def clear(outputs: Records) -> None:
    """Forget what functions and control states proposed in the last scan."""
    for at in range(outputs.size):
        output = outputs[at]
        output.auto = math.nan
        output.offset = 0.0
        output.low = -math.inf
        output.high = math.inf
        output.auto_cause = CAUSE_NONE
        output.low_cause = CAUSE_NONE
        output.high_cause = CAUSE_NONE


@part
def act(
    number: Int, rule: Record, cell: Record, state: Records, outputs: Records, start: Int
) -> None:
    """A function's number into its output, by its role; `start` != 0 during the start-up."""
    own = state[number]
    own.quality = cell.quality
    own.active = False
    value = rule.bad_value
    if cell.quality < QUALITY_BAD_FROM and math.isfinite(cell.value):
        own.seen = True
        value = cell.value
    if not math.isfinite(value) or (rule.enable >= 0 and not state[rule.enable].active):
        return
    output = outputs[rule.output]
    if rule.role == ROLE_SETPOINT:
        if start != 0 or not math.isnan(output.auto):
            return
        output.auto = value
        output.auto_cause = number
    elif rule.role == ROLE_MAXIMUM:
        if value < output.high:
            output.high = value
            output.high_cause = number
    elif rule.role == ROLE_MINIMUM:
        if value > output.low:
            output.low = value
            output.low_cause = number
    else:
        total = output.offset + value
        if not math.isfinite(total):
            return
        output.offset = total
    own.active = True


@part
def _choose(
    machine: Record, now: Record, mode: Record, transitions: Records, state: Records, time_ns: Int
) -> Int:
    """The row of the transition to take, BY_TIMEOUT or _STAYS."""
    stayed_ns = time_ns - now.since_ns
    for at in range(machine.transition, machine.transition + machine.transitions):
        way = transitions[at]
        if way.origin != now.mode and (way.origin >= 0 or way.target == now.mode):
            continue
        if way.guard >= 0 and not state[way.guard].active:
            continue
        if way.urgent == 0 and stayed_ns < mode.min_ns:
            continue
        asked = now.request == way.target and ((way.askers >> now.asker) & 1) != 0
        if way.automatic != 0 or asked:
            return np.int64(at)
    if mode.max_ns > 0 and stayed_ns >= mode.max_ns and mode.timeout >= 0:
        return np.int64(BY_TIMEOUT)
    return np.int64(_STAYS)


@part
def move_machines(
    machines: Records,
    modes: Records,
    transitions: Records,
    state: Records,
    memory: Ints,
    machine_now: Records,
    ramp_now: Records,
) -> None:
    """At most one change of every machine; the ramps of the state that is entered start anew."""
    time_ns = memory[MEMORY_TIME]
    for at in range(machines.size):
        machine, now = machines[at], machine_now[at]
        by, target, before = np.int64(_STAYS), now.mode, now.mode
        if now.since_ns == 0:
            by, target, before = np.int64(BY_START), machine.initial, np.int32(-1)
        elif memory[MEMORY_STARTUP] == 0:
            by = _choose(machine, now, modes[now.mode], transitions, state, time_ns)
            if by == BY_TIMEOUT:
                target = modes[now.mode].timeout
            elif by != _STAYS:
                target = transitions[by].target
        now.request = -1
        now.changed = by != _STAYS
        if by == _STAYS:
            continue
        now.mode, now.before, now.by, now.since_ns = target, before, by, time_ns
        mode = modes[target]
        for ramp in range(mode.action, mode.action + mode.actions):
            ramp_now[ramp].value = math.nan
            ramp_now[ramp].since_ns = 0
            ramp_now[ramp].segment = 0
            ramp_now[ramp].paused = 0


@part
def _move_ramp(
    rows: Records,
    action: Record,
    segments: Records,
    state: Records,
    output: Record,
    now: Record,
    time_ns: Int,
    step_ns: Int,
) -> None:
    """One scan of one ramp."""
    if math.isnan(now.value):
        now.value = segments[action.segment].to
        shown = output.shown
        usable = shown > 0 and quality_of(rows, shown) < QUALITY_BAD_FROM
        if usable and math.isfinite(rows[shown].value):
            now.value = rows[shown].value
        step_ns = np.int64(0)
    now.paused = 0
    if action.pause >= 0 and state[action.pause].active:
        now.paused = 1
        if now.since_ns != 0:
            now.since_ns += step_ns
        return
    if now.segment >= action.segments:
        return
    segment = segments[action.segment + now.segment]
    if now.since_ns == 0:
        step = segment.rate * (step_ns / 1e9)
        if segment.rate == 0.0:
            now.value = segment.to
        elif now.value < segment.to:
            now.value = min(now.value + step, segment.to)
        else:
            now.value = max(now.value - step, segment.to)
        if now.value == segment.to:
            now.since_ns = time_ns
    if now.since_ns != 0 and time_ns - now.since_ns >= segment.hold_ns:
        now.segment += 1
        now.since_ns = 0


@part
def move_ramps(
    rows: Records,
    machines: Records,
    modes: Records,
    actions: Records,
    segments: Records,
    state: Records,
    memory: Ints,
    outputs: Records,
    machine_now: Records,
    ramp_now: Records,
) -> None:
    """The ramps of the present states; they wait for the end of the start-up."""
    if memory[MEMORY_STARTUP] != 0:
        return
    time_ns, step_ns = memory[MEMORY_TIME], memory[MEMORY_STEP]
    for at in range(machines.size):
        mode = modes[machine_now[at].mode]
        for number in range(mode.action, mode.action + mode.actions):
            action = actions[number]
            if action.segments > 0:
                output, now = outputs[action.output], ramp_now[number]
                _move_ramp(rows, action, segments, state, output, now, time_ns, step_ns)


@part
def drive(
    effects: Records,
    state: Records,
    machines: Records,
    modes: Records,
    actions: Records,
    memory: Ints,
    outputs: Records,
    machine_now: Records,
    ramp_now: Records,
) -> None:
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
    proposes = memory[MEMORY_STARTUP] == 0
    for at in range(machines.size):
        mode = modes[machine_now[at].mode]
        for number in range(mode.action, mode.action + mode.actions):
            action = actions[number]
            value = ramp_now[number].value if action.segments > 0 else action.value
            output = outputs[action.output]
            if not math.isfinite(value):
                continue
            if action.rank == RANK_INTERLOCK and output.rank == RANK_NONE:
                output.value = value
                output.rank = RANK_INTERLOCK
                output.cause = CAUSE_MACHINE_FROM - at
            elif action.rank == RANK_SETPOINT and proposes and math.isnan(output.auto):
                output.auto = value
                output.auto_cause = CAUSE_MACHINE_FROM - at
