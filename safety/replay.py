"""Replay: a program over recorded history, as fast as the kernel runs.

The history comes in blocks, the changes go out as notes; between them runs the compiled loop of
safety/replay_kernel.py. However small the buffer of the notes is, none is ever lost.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from config.points import GATEWAY_EQUIPMENT, NO_POINT, POINT, PointDef
from config.status import BAD_CONFIGURATION_ERROR, BAD_WAITING_FOR_INITIAL_DATA, GOOD
from safety.engine import Engine
from safety.kernel import evaluate
from safety.layout import Program
from safety.replay_kernel import (
    CAME_FULL,
    INPUT,
    NEVER,
    NO_TIME,
    NOTE,
    WORD_AGE_MIN,
    WORD_EVERY,
    WORD_EXPIRY,
    WORD_FINAL,
    WORD_GAP,
    WORD_HORIZON,
    WORD_INPUTS,
    WORD_LAST,
    WORD_NEXT,
    WORD_NOTES,
    WORD_PERIOD,
    WORD_RESET_AFTER,
    WORD_RESET_POINT,
    WORD_SCANS,
    WORD_START,
    WORD_STARTUP,
    WORD_WANTED,
    WORDS,
    run,
)

INPUTS_MAX: Final = 16  # of one note; a rule that reads more shows the first ones
NOTES_MAX: Final = 32_768
# What these points of the gateway show where the data doesn't say: its own parts are well.
_WELL: Final = ("Link_Connected", "Broker_Connected", "Store_Ok")


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of history; the pieces of one history follow each other in time.

    times    (T,) int64, ns of UTC, ascending, each once
    starts   (T + 1,) int64, the samples of times[t] are starts[t] to starts[t + 1]
    columns  (N,) int32, which column each sample is of
    values   (N,) float64; NaN is a bad value
    codes    (N,) uint32, OPC UA StatusCodes
    done     how much of the input has been read, 0 to 1
    """

    times: NDArray[np.int64]
    starts: NDArray[np.int64]
    columns: NDArray[np.int32]
    values: NDArray[np.float64]
    codes: NDArray[np.uint32]
    done: float


@dataclass(frozen=True, slots=True)
class Notes:
    """What a piece of history changed: (N,) NOTE in order, and the (M,) INPUT they refer to."""

    rows: NDArray[np.void]
    inputs: NDArray[np.void]


@dataclass(frozen=True, slots=True)
class Timing:
    """When to scan, in nanoseconds.

    every        a fixed grid; 0 = at the times of the data
    period       at the times of the data: the least time between two scans
    gap          at the times of the data: the most; where data pauses, scans go on at it
    start        of the first scan; samples before it only set the point table. NO_TIME = at the
                 first sample
    reset_after  latches are reset that long after their causes are gone; negative = never
    """

    every_ns: int = 0
    period_ns: int = 100_000_000
    gap_ns: int = 1_000_000_000
    start_ns: int = NO_TIME
    reset_after_ns: int = 0


class Replay:
    """One program over one history."""

    def __init__(
        self,
        program: Program,
        points: Sequence[PointDef],
        columns: Sequence[str],
        timing: Timing,
        *,
        hold_ns: Mapping[str, int] | None = None,
        held: Mapping[str, float] | None = None,
        follow_states: bool = False,
        notes_max: int = NOTES_MAX,
    ) -> None:
        """`points` are those of the site that `program` was compiled from.

        columns        tag of each column of the history; "" and unknown ones are left out
        hold_ns        tag -> how long a value of the history stands; default: its age limit.
                       0 = until the next one
        held           tag -> a value that never changes
        follow_states  a machine's own point asks for the states that it shows
        notes_max      size of the buffer; never less than one scan may need
        """
        self.engine = Engine(program, evaluate)
        self._points = tuple(points)
        self._rows: NDArray[np.void] = np.zeros(len(points) + 1, dtype=POINT)
        self._fill(held or {})
        self._table = self._make_table(columns, hold_ns or {}, held or {}, follow_states)
        self._inputs = _inputs(program)
        rules, machines, outputs = len(program.info), len(program.machines), len(program.outputs)
        self._room = (2 * rules + machines + outputs + 1, 3 * len(self._inputs[1]))
        self._notes = (
            np.zeros(max(notes_max, self._room[0]), dtype=NOTE),
            np.zeros(max(2 * notes_max, self._room[1]), dtype=INPUT),
        )
        self._before = self.engine.outputs.copy()
        self._asked = (np.full(machines, -1, dtype=np.int64), np.zeros(machines, dtype=np.int64))
        self._gone_ns = np.full(rules, NO_TIME, dtype=np.int64)
        self._words = self._make_words(timing)

    # ------------------------------------------------------------ making

    def _fill(self, held: Mapping[str, float]) -> None:
        """The point table before the first sample."""
        rows = self._rows
        rows["value"] = math.nan
        rows["status"] = BAD_WAITING_FOR_INITIAL_DATA
        rows["status"][NO_POINT] = BAD_CONFIGURATION_ERROR
        for point in self._points:
            row = rows[point.index]
            if point.tag in held:
                row["value"], row["status"] = held[point.tag], GOOD
            elif point.equipment == GATEWAY_EQUIPMENT:
                row["value"], row["status"] = float(point.channel.startswith(_WELL)), GOOD

    def _make_table(
        self,
        columns: Sequence[str],
        hold_ns: Mapping[str, int],
        held: Mapping[str, float],
        follow_states: bool,
    ) -> tuple[Any, ...]:
        rows = {p.tag: p.index for p in self._points if p.source in ("device", "gateway")}
        for tag in held:
            rows.pop(tag, None)
        if follow_states:
            machines = enumerate(self.engine.program.machine_info)
            rows |= {self._points[info.point - 1].tag: -1 - at for at, info in machines}
        limits = np.zeros(len(self._points) + 1, dtype=np.int64)
        for point in self._points:
            if rows.get(point.tag, 0) > 0:
                limits[point.index] = hold_ns.get(point.tag, point.age_ns_max)
        row_of = np.array([rows.get(tag, 0) for tag in columns], dtype=np.int32)
        ranges = {p.tag: (p.value_min, p.value_max) for p in self._points}
        sensible = np.array([ranges.get(tag, (math.nan, math.nan)) for tag in columns])
        aged = np.flatnonzero(limits).astype(np.int32)
        tally = np.zeros((len(columns), 3), dtype=np.int64)
        silent = np.zeros(len(self._rows), dtype=np.int64)
        return self._rows, row_of, aged, limits, sensible.reshape(-1, 2), tally, silent

    def _make_words(self, timing: Timing) -> NDArray[np.int64]:
        words = np.zeros(WORDS, dtype=np.int64)
        words[[WORD_LAST, WORD_WANTED]] = NO_TIME
        words[WORD_STARTUP] = 1
        words[WORD_EVERY] = timing.every_ns
        words[WORD_PERIOD] = timing.period_ns
        words[WORD_GAP] = max(timing.gap_ns, timing.period_ns)
        words[WORD_START] = timing.start_ns
        words[WORD_RESET_AFTER] = timing.reset_after_ns
        found = [p.index for p in self._points if p.tag == f"{GATEWAY_EQUIPMENT}.Reset"]
        words[WORD_RESET_POINT] = found[0] if found else NO_POINT
        limits = self._table[3]
        words[WORD_AGE_MIN] = limits[limits > 0].min(initial=NEVER // 2)
        words[WORD_EXPIRY] = NEVER
        return words

    # ------------------------------------------------------------ running

    @property
    def scans(self) -> int:
        """How many scans were made."""
        return int(self._words[WORD_SCANS])

    @property
    def last_ns(self) -> int:
        """The time of the last scan, NO_TIME before the first."""
        return int(self._words[WORD_LAST])

    @property
    def tally(self) -> NDArray[np.int64]:
        """(C, 3) of each column: samples, those that are bad, those outside of its range."""
        return self._table[5].copy()

    @property
    def silent(self) -> NDArray[np.int64]:
        """(P,) how often each point went bad because nothing came within its age limit."""
        return self._table[6].copy()

    def feed(self, block: Block | None) -> Iterator[Notes]:
        """Replay the next block of the history, or its end (None); yields what changed.

        The notes are copies. Take all of them before the next block is fed.
        """
        if block is None:
            none = np.zeros(0, dtype=np.int64)
            block = Block(
                none, np.zeros(1, dtype=np.int64), none.astype(np.int32),
                np.zeros(0), none.astype(np.uint32), 1.0,
            )  # fmt: skip
            self._words[WORD_FINAL] = 1
        words = self._words
        words[WORD_NEXT] = 0
        words[WORD_HORIZON] = block.times[-1] if len(block.times) else words[WORD_HORIZON]
        arrays = (block.times, block.starts, block.columns, block.values, block.codes)
        came = CAME_FULL
        while came == CAME_FULL:
            words[[WORD_NOTES, WORD_INPUTS]] = 0
            came = self._run(arrays)
            if words[WORD_NOTES]:
                notes, inputs = self._notes
                yield Notes(notes[: words[WORD_NOTES]].copy(), inputs[: words[WORD_INPUTS]].copy())

    def _run(self, arrays: tuple[Any, ...]) -> int:
        engine = self.engine
        program = engine.program
        return run(
            arrays,
            self._table,
            engine.arguments,
            (program.rules, program.transitions, program.machines),
            (engine.state, engine.changed, engine.outputs, engine.machine_now),
            self._inputs,
            self._asked,
            self._before,
            self._gone_ns,
            engine.memory,
            self._notes,
            self._room,
            self._words,
        )


def _inputs(program: Program) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Which inputs a note shows: (R + 1,) starts, their points; (R,) suppressing guards."""
    kept = [info.inputs[:INPUTS_MAX] for info in program.info]
    starts = np.cumsum([0, *map(len, kept)]).astype(np.int32)
    points = np.array([index for part in kept for index in part], dtype=np.int32)
    suppress = np.array([info.suppress for info in program.info], dtype=np.int32)
    return starts, points, suppress
