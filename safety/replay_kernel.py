"""The loop of a replay: samples into the point table, age, scan, note what changed.

Compiled by numba around `safety.kernel.evaluate` itself, so that a replay and a gateway can't
differ in a rule. No function allocates, raises or calls Python. The notes go into a buffer of
fixed size; where the next scan might not fit, the loop comes back, and goes on from there when it
is called again. safety/replay.py makes the arrays and drains the notes.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from config.status import BAD, BAD_NO_COMMUNICATION
from safety.kernel import evaluate
from safety.layout import (
    ASKER_NAMES,
    CAUSE_MACHINE_FROM,
    CAUSE_STARTUP,
    KIND_GUARD,
    MEMORY_STARTUP,
    QUALITY_BAD_FROM,
)

Records = Any  # structured arrays; numba reads their fields as attributes, numpy's types don't
Ints = NDArray[np.int64]

# What the loop notes.
NOTE: Final = np.dtype(
    [
        ("time_ns", "i8"),  # of the scan, on the clock of the data
        ("value", "f8"),  # of an output: what protection demands, NaN = nothing any more
        ("what", "i4"),  # one of NOTE_...
        ("row", "i4"),  # of `rules`, `machines` or `outputs`
        ("level", "i4"),  # of a rule: string id; of a machine: row of `modes`; of an output: rank
        ("cause", "i4"),  # of an output; of a machine: by which transition; of a rule: first-out
        ("flags", "i4"),  # FLAG_... of a rule; of a machine: the mode before
        ("first", "i4"),  # where the inputs of that moment begin in the values beside the notes
        ("count", "i4"),  # how many there are
        ("before", "f8"),  # of an output: what protection demanded at the scan before
    ],
    align=True,
)
NOTE_RULE: Final = 0
NOTE_MACHINE: Final = 1
NOTE_OUTPUT: Final = 2
NOTE_STARTUP: Final = 3  # the start-up trip ended

FLAG_ACTIVE: Final = 1
FLAG_LATCHED: Final = 2
FLAG_SUPPRESSED: Final = 4  # by design: an alarm that is not announced (ISA-18.2)
FLAG_BAD: Final = 8  # the rule's own result is bad; its policy decided
FLAG_CAUSE: Final = 16  # its condition holds, behind the delays; false while only the latch does

INPUT: Final = np.dtype([("value", "f8"), ("point", "i4"), ("status", "u4")])

# Why the loop came back.
CAME_FULL: Final = 0
CAME_EMPTY: Final = 1

# Words of the loop's own memory (int64).
WORD_NEXT: Final = 0  # row of `times` that is to be written next
WORD_LAST: Final = 1  # time of the last scan
WORD_WANTED: Final = 2  # time of the first sample since then, NO_TIME = none
WORD_EXPIRY: Final = 3  # no point can be too old before
WORD_NOTES: Final = 4
WORD_INPUTS: Final = 5
WORD_SCANS: Final = 6
WORD_LATCHED: Final = 7  # how many rules are latched
WORD_RESET: Final = 8  # 1 = the next scan resets
WORD_WAS_RESET: Final = 9  # 1 = the last scan did; an edge needs a scan between
WORD_STARTUP: Final = 10  # the start-up trip as of the last scan
# Set from outside.
WORD_EVERY: Final = 11
WORD_PERIOD: Final = 12
WORD_GAP: Final = 13
WORD_START: Final = 14
WORD_HORIZON: Final = 15
WORD_FINAL: Final = 16
WORD_RESET_AFTER: Final = 17
WORD_RESET_POINT: Final = 18
WORD_AGE_MIN: Final = 19  # the shortest age limit
WORDS: Final = 20
NO_TIME: Final = -(2**63)
NEVER: Final = 2**62

ASKED_NS: Final = 60_000_000_000  # how long a state that the data shows is asked for
ASKERS: Final = len(ASKER_NAMES)
_LEAN: dict[str, Any] = {"error_model": "numpy", "_nrt": False}
_part = njit(**_LEAN, no_cpython_wrapper=True, no_cfunc_wrapper=True)


@_part
def _write(at: int, block: Any, table: Any, asked: Any, words: Ints) -> None:
    """The samples of one time into the point table; of a machine's point: what was asked for."""
    times, starts, columns, values, codes = block
    rows, row_of, _, _, limits, tally, _ = table
    now_ns = times[at]
    for n in range(starts[at], starts[at + 1]):
        column = columns[n]
        index = row_of[column]
        if index > 0:
            value = values[n]
            code = codes[n]
            if math.isnan(value) and code < BAD:
                code = np.uint32(BAD)
            tally[column, 0] += 1
            tally[column, 1] += np.int64(code >= BAD)
            outside = value < limits[column, 0] or value > limits[column, 1]
            tally[column, 2] += np.int64(outside)
            row = rows[index]
            row.value = value
            row.status = code
            row.utc_ns = now_ns
            row.mono_ns = now_ns
        elif index < 0 and codes[n] < BAD and values[n] >= 1.0:
            asked[0][-1 - index] = np.int64(values[n]) - 1
            asked[1][-1 - index] = now_ns + ASKED_NS
    words[WORD_EXPIRY] = min(words[WORD_EXPIRY], now_ns + words[WORD_AGE_MIN])
    if words[WORD_WANTED] == NO_TIME:
        words[WORD_WANTED] = now_ns


@_part
def _age(table: Any, words: Ints, now_ns: int) -> None:
    """Mark as bad what is older than its age limit, as gateway.core.table does.

    Nothing needs a look before the earliest moment at which a point can be too old.
    """
    if now_ns <= words[WORD_EXPIRY]:
        return
    rows, _, aged, age_ns_max, _, _, silent = table
    earliest = np.int64(NEVER)
    for index in aged:
        row = rows[index]
        if row.status < BAD:
            expiry = row.mono_ns + age_ns_max[index]
            if now_ns > expiry:
                row.status = np.uint32(BAD_NO_COMMUNICATION)
                row.utc_ns = now_ns
                silent[index] += 1
            else:
                earliest = min(earliest, expiry)
    words[WORD_EXPIRY] = earliest


@_part
def _who_may(machine: Any, mode: int, row: int, transitions: Records, turn: int) -> int:
    """Who may ask for a state in this one; where several may, each in turn."""
    bits = 0
    for n in range(machine.transition, machine.transition + machine.transitions):
        way = transitions[n]
        if way.target == row and (way.origin == mode or way.origin < 0):
            bits |= way.askers
    found = 0
    for step in range(ASKERS):
        found = (turn + step) % ASKERS
        if (bits >> found) & 1:
            break
    return found


@_part
def _ask(asked: Any, program: Any, machine_now: Records, words: Ints, now_ns: int) -> None:
    """Ask for the states that the data shows, as one of those who may, until they are taken."""
    wanted, until_ns = asked
    transitions, machines = program[1], program[2]
    for at in range(machine_now.size):
        if wanted[at] >= 0:
            row = machines[at].mode + wanted[at]
            taken = machine_now[at].mode == row
            if taken or wanted[at] >= machines[at].modes or now_ns > until_ns[at]:
                wanted[at] = -1
            else:
                machine_now[at].request = row
                mode, turn = machine_now[at].mode, words[WORD_SCANS]
                machine_now[at].asker = _who_may(machines[at], mode, row, transitions, turn)


@_part
def _note_inputs(rule: int, rows: Records, inputs: Any, notes: Any, words: Ints) -> None:
    """The values of a rule's inputs, to the note that is being written."""
    starts, points, _ = inputs
    note = notes[0][words[WORD_NOTES]]
    note.first = words[WORD_INPUTS]
    if rule >= 0:
        for n in range(starts[rule], starts[rule + 1]):
            kept = notes[1][words[WORD_INPUTS]]
            kept.point = points[n]
            kept.value = rows[points[n]].value
            kept.status = rows[points[n]].status
            words[WORD_INPUTS] += 1
    note.count = words[WORD_INPUTS] - note.first


@_part
def _note(notes: Any, words: Ints, what: int, row: int, now_ns: int) -> Any:
    note = notes[0][words[WORD_NOTES]]
    note.time_ns = now_ns
    note.value = math.nan
    note.before = math.nan
    note.what = what
    note.row = row
    note.level = 0
    note.flags = 0
    note.cause = 0
    note.first = words[WORD_INPUTS]
    note.count = 0
    return note


@_part
def _note_rule(
    at: int, state: Records, inputs: Any, rows: Records, notes: Any, words: Ints
) -> None:
    """One rule as it is now."""
    rule = state[at]
    note = _note(notes, words, NOTE_RULE, at, words[WORD_LAST])
    note.level = rule.level
    note.cause = rule.first_out
    suppressed = inputs[2][at] >= 0 and state[inputs[2][at]].active
    note.flags = (
        FLAG_ACTIVE * np.int64(rule.active)
        + FLAG_LATCHED * np.int64(rule.latched)
        + FLAG_SUPPRESSED * np.int64(suppressed)
        + FLAG_BAD * np.int64(rule.quality >= QUALITY_BAD_FROM)
        + FLAG_CAUSE * np.int64(rule.condition != 0)
    )
    _note_inputs(at if rule.condition != 0 else -1, rows, inputs, notes, words)
    words[WORD_NOTES] += 1


@_part
def _note_rules(
    count: int, program: Any, now: Any, inputs: Any, rows: Records, gone_ns: Ints, notes: Any,
    words: Ints,
) -> None:  # fmt: skip
    """The rules that the last scan changed."""
    rules = program[0]
    state, changed = now[0], now[1]
    for n in range(count):
        at = changed[n]
        if rules[at].kind == KIND_GUARD:
            continue
        _note_rule(at, state, inputs, rows, notes, words)
        if not state[at].latched:
            gone_ns[at] = NO_TIME
    latched = np.int64(0)
    for at in range(state.size if count else 0):
        latched += np.int64(state[at].latched)
    words[WORD_LATCHED] = latched if count else words[WORD_LATCHED]


@_part
def _note_machines(
    program: Any, now: Any, inputs: Any, rows: Records, notes: Any, words: Ints
) -> None:
    """The control states that the last scan entered."""
    transitions = program[1]
    machine_now = now[3]
    for at in range(machine_now.size):
        machine = machine_now[at]
        if machine.changed:
            note = _note(notes, words, NOTE_MACHINE, at, words[WORD_LAST])
            note.level = machine.mode
            note.cause = machine.by
            note.flags = machine.before
            guard = transitions[machine.by].guard if machine.by >= 0 else -1
            _note_inputs(guard, rows, inputs, notes, words)
            words[WORD_NOTES] += 1


@_part
def _note_outputs(now: Any, before: Records, memory: Ints, notes: Any, words: Ints) -> None:
    """The demands of protection that the last scan changed, and the end of the start-up trip.

    Where a control state holds an output at a ramp, its beginning and its last value are noted.
    """
    outputs = now[2]
    for at in range(outputs.size):
        output = outputs[at]
        kept = before[at]
        moved = output.rank != kept.rank or output.cause != kept.cause
        machine = CAUSE_MACHINE_FROM - output.cause
        if output.rank != 0 and machine >= 0:
            moved = moved or bool(now[3][machine].changed)
        elif output.rank != 0 and output.cause >= CAUSE_STARTUP:
            moved = moved or output.value != kept.value
        if moved:
            note = _note(notes, words, NOTE_OUTPUT, at, words[WORD_LAST])
            note.value = output.value
            note.before = kept.value
            note.level = output.rank
            note.cause = output.cause
            words[WORD_NOTES] += 1
            kept.rank = output.rank
            kept.cause = output.cause
        kept.value = output.value
    if words[WORD_STARTUP] != 0 and memory[MEMORY_STARTUP] == 0:
        words[WORD_STARTUP] = 0
        _note(notes, words, NOTE_STARTUP, 0, words[WORD_LAST])
        words[WORD_NOTES] += 1


@_part
def _follow_latches(
    now: Any, inputs: Any, rows: Records, gone_ns: Ints, notes: Any, words: Ints
) -> None:
    """Note where the cause of a latched rule goes or comes back, which is no change of the rule.

    Asks for a reset at the next scan where a cause has been gone for long enough.
    """
    words[WORD_RESET] = 0
    if words[WORD_LATCHED] == 0:
        return
    state = now[0]
    now_ns = words[WORD_LAST]
    for at in range(state.size):
        rule = state[at]
        gone = rule.condition == 0 and rule.quality < QUALITY_BAD_FROM
        if not (rule.latched and gone):
            if rule.latched and gone_ns[at] != NO_TIME and rule.condition != 0:
                _note_rule(at, state, inputs, rows, notes, words)
                gone_ns[at] = NO_TIME
            continue
        if gone_ns[at] == NO_TIME:
            gone_ns[at] = now_ns
            _note_rule(at, state, inputs, rows, notes, words)
        if words[WORD_RESET_AFTER] >= 0 and now_ns - gone_ns[at] >= words[WORD_RESET_AFTER]:
            words[WORD_RESET] = 1


@_part
def _asks_reset(rows: Records, words: Ints) -> bool:
    """Whether the next scan resets: by the data, or because latches have waited for long enough."""
    row = rows[words[WORD_RESET_POINT]]
    if row.status < BAD and row.value != 0.0 and words[WORD_RESET_POINT] > 0:
        return True
    return words[WORD_RESET] != 0 and words[WORD_WAS_RESET] == 0


@_part
def _next_scan(times: Ints, words: Ints) -> int:
    """When to scan next; NO_TIME where the data to come decides, or where there is none."""
    at = words[WORD_NEXT]
    has_more = at < times.size
    if words[WORD_LAST] == NO_TIME:
        if words[WORD_START] != NO_TIME:
            ended_before = words[WORD_FINAL] != 0 and words[WORD_START] > words[WORD_HORIZON]
            return NO_TIME if ended_before else words[WORD_START]
        return times[at] if has_more else NO_TIME
    first = words[WORD_WANTED]
    if first == NO_TIME and has_more:
        first = times[at]
    if first == NO_TIME:
        return NO_TIME
    if words[WORD_EVERY] > 0:
        return words[WORD_LAST] + words[WORD_EVERY]
    last = words[WORD_LAST]
    return min(max(first, last + words[WORD_PERIOD]), last + words[WORD_GAP])


@njit(nogil=True, **_LEAN)
def run(
    block: Any, table: Any, arguments: Any, program: Any, now: Any, inputs: Any, asked: Any,
    before: Records, gone_ns: Ints, memory: Ints, notes: Any, room: Any, words: Ints,
) -> int:  # fmt: skip
    """Replay a block until it ends (CAME_EMPTY) or the notes are full (CAME_FULL).

    block      times, starts, columns, values, codes of a Block
    table      (P,) POINT; (C,) row of each column, negative = machine, 0 = none; the points that
               can get too old; (P,) their age limits; (C, 2) the range of each column's point;
               (C, 3) its samples, those that are bad, and those outside of the range, counted;
               (P,) how often each point got too old
    arguments  of the kernel, between the rows and the time
    program    rules, transitions, machines          now    state, changed, outputs, machine_now
    inputs     (R + 1,) starts; their points; (R,) the guard that suppresses each rule, -1 = none
    asked      (M,) states that the data shows; (M,) until when they are asked for
    before     (O,) OUTPUT as of the last scan       notes  (N,) NOTE and (M,) INPUT to write
    room       notes and inputs that one scan may need at most
    words      the loop's own memory
    """
    times = block[0]
    rows = table[0]
    while True:
        target = _next_scan(times, words)
        if target == NO_TIME:
            return CAME_EMPTY
        if target > words[WORD_HORIZON] and words[WORD_FINAL] == 0:
            while words[WORD_NEXT] < times.size:
                _write(words[WORD_NEXT], block, table, asked, words)
                words[WORD_NEXT] += 1
            return CAME_EMPTY
        full = words[WORD_NOTES] + room[0] > notes[0].size
        if full or words[WORD_INPUTS] + room[1] > notes[1].size:
            return CAME_FULL
        while words[WORD_NEXT] < times.size and times[words[WORD_NEXT]] <= target:
            _write(words[WORD_NEXT], block, table, asked, words)
            words[WORD_NEXT] += 1
        _age(table, words, target)
        _ask(asked, program, now[3], words, target)
        reset = _asks_reset(rows, words)
        count = evaluate(rows, *arguments, target, reset)
        words[WORD_WAS_RESET] = np.int64(reset)
        words[WORD_LAST] = target
        words[WORD_WANTED] = NO_TIME
        words[WORD_SCANS] += 1
        _note_rules(count, program, now, inputs, rows, gone_ns, notes, words)
        _note_machines(program, now, inputs, rows, notes, words)
        _note_outputs(now, before, memory, notes, words)
        _follow_latches(now, inputs, rows, gone_ns, notes, words)
