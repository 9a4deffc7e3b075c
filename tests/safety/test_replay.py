"""The replay's loop, beside scanning one by one over the same history."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from config import status
from config.site import Site
from gateway.core.table import PointTable
from safety import kernel, layout, reference
from safety.compile import compile_site
from safety.engine import Engine
from safety.layout import Program
from safety.replay import NO_TIME, Block, Notes, Replay, Timing
from safety.replay_kernel import (
    FLAG_ACTIVE,
    FLAG_BAD,
    FLAG_CAUSE,
    FLAG_LATCHED,
    NOTE_MACHINE,
    NOTE_OUTPUT,
    NOTE_RULE,
    NOTE_STARTUP,
)
from tests.safety.sites import MS, S, make_site
from tests.safety.test_oracle import ANALOG, CHANNELS, DISCRETE, METHODS, codes, programs, values

TAGS = [*ANALOG, *DISCRETE, "Gateway.E_Stop", "Gateway.Reset"]
BEGIN_NS = 1_000_000 * S
Sample = tuple[str, float, int]
Row = tuple[int, list[Sample]]  # time, samples


def block(rows: Sequence[Row]) -> Block:
    """Rows of different, ascending times as a block."""
    samples = [sample for _, row in rows for sample in row]
    return Block(
        times=np.array([time for time, _ in rows], dtype=np.int64),
        starts=np.cumsum([0, *(len(row) for _, row in rows)]).astype(np.int64),
        columns=np.array([TAGS.index(tag) for tag, _, _ in samples], dtype=np.int32),
        values=np.array([value for _, value, _ in samples], dtype=np.float64),
        codes=np.array([code for _, _, code in samples], dtype=np.uint32),
        done=0.0,
    )


def compiled(site: Site) -> Program:
    """The program of a site that has no errors."""
    program, findings = compile_site(site)
    assert program is not None, findings
    return program


def flat(notes: Notes) -> list[tuple[Any, ...]]:
    """Notes with the inputs they refer to."""
    found = []
    inputs = notes.inputs.tolist()
    for row in notes.rows.tolist():
        first, count, before = row[-3:]
        found.append((*row[:-3], before, tuple(inputs[first : first + count])))
    return found


def replayed(
    site: Site,
    program: Program,
    rows: Sequence[Row],
    timing: Timing,
    cuts: Sequence[int] = (),
    **options: Any,
) -> list[tuple[Any, ...]]:
    """The notes of a replay; `cuts` are where the history is cut into blocks."""
    replay = Replay(program, site.points, TAGS, timing, **options)
    found = []
    edges = [0, *sorted(cuts), len(rows)]
    blocks = [block(rows[a:b]) for a, b in itertools.pairwise(edges) if a < b]
    for piece in (*blocks, None):
        for notes in replay.feed(piece):
            found += flat(notes)
    return found


# ---------------------------------------------------------------- the same, one by one


def scan_times(times: Sequence[int], timing: Timing) -> Iterator[int]:
    """When a replay scans, as docs/replay.md says it."""
    now = times[0] if timing.start_ns == NO_TIME else timing.start_ns
    if now > times[-1]:
        return
    yield now
    while later := [time for time in times if time > now]:
        if timing.every_ns:
            now += timing.every_ns
        else:
            now = min(max(later[0], now + timing.period_ns), now + timing.gap_ns)
        yield now


class OneByOne:
    """The same history with a point table, an engine, and Python between all scans."""

    def __init__(self, site: Site, program: Program, evaluate: Callable[..., int]) -> None:
        self.engine = Engine(program, evaluate)
        self.table = PointTable(site.points)
        for point in site.points:
            if point.source == "gateway":
                self.table.put_one(point.index, 0.0, status.GOOD, 0, 0)
            if point.source not in ("device", "gateway"):
                self.table.age_ns_max[point.index] = 0
        self.notes: list[tuple[Any, ...]] = []
        self._gone: dict[int, int] = {}
        self._reset = self._was_reset = False
        outputs = self.engine.outputs
        self._demands = [tuple(row[n] for n in ("rank", "cause", "value")) for row in outputs]
        self._startup = True

    def run(self, rows: Sequence[Row], timing: Timing) -> list[tuple[Any, ...]]:
        """The notes of the whole history."""
        left = list(rows)
        for now in scan_times([time for time, _ in rows], timing):
            while left and left[0][0] <= now:
                time, samples = left.pop(0)
                for tag, value, code in samples:
                    bad = math.isnan(value) and code < status.BAD
                    code = status.BAD if bad else code
                    self.table.put_one(self.table.index[tag], value, code, time, time)
            self.table.age(now, now)
            self._scan(now, timing.reset_after_ns)
        return self.notes

    def _scan(self, now: int, reset_after_ns: int) -> None:
        row = self.table.rows[self.table.index["Gateway.Reset"]]
        asked = row["status"] < status.BAD and row["value"] != 0
        reset = bool(asked) or (self._reset and not self._was_reset)
        changed = self.engine.scan(self.table.rows, now, reset)
        self._was_reset = reset
        for rule in changed.tolist():
            self._note_rule(now, rule)
        for at, machine in enumerate(self.engine.machine_now):
            if machine["changed"]:
                by = int(machine["by"])
                guard = int(self.engine.program.transitions[by]["guard"]) if by >= 0 else -1
                note = (NOTE_MACHINE, at, int(machine["mode"]), by, int(machine["before"]))
                self._note(now, math.nan, *note, guard)
        for at, output in enumerate(self.engine.outputs):
            rank, cause, value = (output[name] for name in ("rank", "cause", "value"))
            before = self._demands[at]
            moved = (rank, cause) != before[:2]
            machine = layout.CAUSE_MACHINE_FROM - cause
            entered = machine >= 0 and self.engine.machine_now[machine]["changed"]
            if cause >= layout.CAUSE_STARTUP and rank:
                moved |= bool(value != before[2])
            self._demands[at] = (rank, cause, value)
            if moved or (entered and rank):
                held = (NOTE_OUTPUT, at, int(rank), int(cause), 0, -1)
                self._note(now, float(value), *held, before=float(before[2]))
        if self._startup and not self.engine.startup:
            self._startup = False
            self._note(now, math.nan, NOTE_STARTUP, 0, 0, 0, 0, -1)
        self._follow_latches(now, reset_after_ns)

    def _follow_latches(self, now: int, reset_after_ns: int) -> None:
        self._reset = False
        for rule, state in enumerate(self.engine.state):
            if not state["latched"]:
                self._gone.pop(rule, None)
            elif state["condition"] == 0 and state["quality"] < layout.QUALITY_BAD_FROM:
                if rule not in self._gone:
                    self._gone[rule] = now
                    self._note_rule(now, rule)
                waited = now - self._gone[rule] >= reset_after_ns
                self._reset |= reset_after_ns >= 0 and waited
            elif state["condition"] != 0 and rule in self._gone:
                del self._gone[rule]
                self._note_rule(now, rule)

    def _note_rule(self, now: int, rule: int) -> None:
        state = self.engine.state[rule]
        flags = (
            FLAG_ACTIVE * bool(state["active"])
            + FLAG_LATCHED * bool(state["latched"])
            + FLAG_BAD * bool(state["quality"] >= layout.QUALITY_BAD_FROM)
            + FLAG_CAUSE * bool(state["condition"])
        )
        inputs = rule if state["condition"] else -1
        level, first_out = int(state["level"]), int(state["first_out"])
        self._note(now, math.nan, NOTE_RULE, rule, level, first_out, flags, inputs)

    def _note(
        self, now: int, value: float, what: int, row: int, *rest: int, before: float = math.nan
    ) -> None:
        *numbers, rule = rest
        inputs = ()
        if rule >= 0:
            rows = self.table.rows
            inputs = tuple(
                (float(rows["value"][at]), at, int(rows["status"][at]))
                for at in self.engine.program.info[rule].inputs[:16]
            )
        self.notes.append((now, value, what, row, *numbers, before, inputs))


def same(left: Sequence[tuple[Any, ...]], right: Sequence[tuple[Any, ...]]) -> bool:
    """Equal notes, where NaN equals NaN."""
    return repr(left) == repr(right)


# ---------------------------------------------------------------- properties

samples = st.lists(st.tuples(st.sampled_from(TAGS), values, codes), max_size=5)
steps = st.tuples(
    st.sampled_from([MS, 50 * MS, 100 * MS, 100 * MS, 300 * MS, 1000 * MS, 5000 * MS]), samples
)


@st.composite
def histories(draw: st.DrawFn) -> list[Row]:
    """Rows at uneven times."""
    now = BEGIN_NS
    rows = []
    for step, row in draw(st.lists(steps, min_size=1, max_size=14)):
        now += step
        rows.append((now, row))
    return rows


timings = st.builds(
    Timing,
    every_ns=st.sampled_from([0, 0, 100 * MS, 700 * MS]),
    period_ns=st.just(100 * MS),
    gap_ns=st.sampled_from([100 * MS, 500 * MS, 60_000 * MS]),
    start_ns=st.sampled_from([NO_TIME, NO_TIME, BEGIN_NS + 400 * MS, BEGIN_NS + 10_000 * MS]),
    reset_after_ns=st.sampled_from([-1, 0, 250 * MS]),
)

cuttings = st.lists(st.integers(0, 14), max_size=4)


@pytest.mark.timeout(180)  # compiles, and runs every scan three times
@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    programs(), histories(), timings, st.lists(st.integers(0, 14), max_size=4), st.integers(1, 9)
)
def test_a_replay_is_the_scans_one_by_one(
    rules: dict[str, dict[str, Any]],
    rows: list[Row],
    timing: Timing,
    cuts: list[int],
    notes_max: int,
) -> None:
    given = {"channels": CHANNELS, "methods": METHODS} | rules
    channels = {
        tag: keys if "Expression" in keys else {**keys, "AgeLimit": 0.8}
        for tag, keys in given.pop("channels").items()
    }
    site = make_site(channels, **given)
    program, _ = compile_site(site)
    assume(program is not None)  # the checks refuse some of the drawn rules
    assert program is not None
    found = replayed(site, program, rows, timing, cuts, notes_max=notes_max)
    for evaluate in (kernel.evaluate, reference.evaluate):
        assert same(found, OneByOne(site, program, evaluate).run(rows, timing))


# ---------------------------------------------------------------- one thing at a time


def second(values: Sequence[float], tag: str = "A.a") -> list[Row]:
    """One value a second."""
    return [(BEGIN_NS + at * S, [(tag, value, 0)]) for at, value in enumerate(values)]


def noted(site: Site, rows: Sequence[Row], **options: Any) -> list[tuple[int, int, int]]:
    """(second, what, level) of each note; at the times of the data."""
    timing = Timing(period_ns=100 * MS, gap_ns=S)
    found = replayed(site, compiled(site), rows, timing, **options)
    return [((note[0] - BEGIN_NS) // S, note[2], note[4]) for note in found]


def trip_site(**keys: Any) -> Site:
    return make_site(
        {"A.a": {}, "O.p": {"ReadWrite": "RW", "SafeValue": 0}},
        controls={"Control/Hot": {"When": "A.a > 900", "Effects": {"O.p": 0}, **keys}},
    )


def test_the_smallest_buffer_loses_nothing() -> None:
    rows = second([880.0, 950.0] * 2000)
    large = noted(trip_site(Latch=False), rows, notes_max=100_000)
    assert noted(trip_site(Latch=False), rows, notes_max=1) == large
    assert sum(what == NOTE_RULE for _, what, _ in large) == 3999


def test_values_that_were_read_are_counted() -> None:
    site = make_site({"A.a": {"Minimum": 0, "Maximum": 100, "AgeLimit": 2}, "A.b": {}})
    replay = Replay(compiled(site), site.points, TAGS, Timing(gap_ns=S))
    values = [50.0, 101.0, -1.0, math.nan, 100.0]
    late = [(BEGIN_NS + 20 * S, [("A.a", 1.0, status.BAD_TIMEOUT)])]
    for piece in (block(second(values)), block(late), None):
        assert list(replay.feed(piece)) == [] or piece is not None
    assert replay.tally[0].tolist() == [6, 2, 2]
    assert replay.tally[1].tolist() == [0, 0, 0]
    assert replay.silent.tolist()[:3] == [0, 1, 0]
    assert replay.scans == 5 + 16


def test_a_point_that_is_held_takes_no_values() -> None:
    rows = second([950.0] * 3)
    assert NOTE_RULE not in {what for _, what, _ in noted(trip_site(), rows, held={"A.a": 20.0})}


def test_a_machine_follows_the_states_that_the_data_show() -> None:
    site = make_site(
        {"A.a": {}},
        machines={
            "M": {
                "Initial": "Off",
                "States": {"Off": {}, "On": {}, "Never": {}},
                "Transitions": [
                    {"From": "Off", "To": "On", "By": ["schedule"], "When": "A.a > 10"},
                    {"From": "On", "To": "Off", "By": ["operator", "remote"]},
                ],
            }
        },
    )
    program = compiled(site)
    columns = ["A.a", "States.M"]
    # The state is asked for at 2 s; its guard lets it be taken at 4 s, or up to 2 s later, because
    # everybody is asked in turn. At 8 s a state is shown that nobody can ask for.
    shown = {2: 2.0, 8: 3.0, 12: 1.0}
    values = [(at, 0, 20.0 if at >= 4 else 1.0) for at in range(20)]
    cells = sorted(values + [(at, 1, state) for at, state in shown.items()])
    times = sorted({at for at, _, _ in cells})
    counts = [sum(at == time for at, _, _ in cells) for time in times]
    piece = Block(
        np.array(times, dtype=np.int64) * S + BEGIN_NS,
        np.cumsum([0, *counts]).astype(np.int64),
        np.array([column for _, column, _ in cells], dtype=np.int32),
        np.array([value for _, _, value in cells]),
        np.zeros(len(cells), dtype=np.uint32),
        1.0,
    )
    entered = {}
    for follow in (False, True):
        replay = Replay(program, site.points, columns, Timing(gap_ns=S), follow_states=follow)
        notes = [note for part in (piece, None) for n in replay.feed(part) for note in flat(n)]
        entered[follow] = [
            ((note[0] - BEGIN_NS) // S, note[4]) for note in notes if note[2] == NOTE_MACHINE
        ]
    assert entered[False] == [(0, 0)]
    (start, *rest) = entered[True]
    assert start == (0, 0)
    assert [mode for _, mode in rest] == [1, 0]
    assert 4 <= rest[0][0] <= 6 and 12 <= rest[1][0] <= 14


def test_a_cause_that_comes_after_a_reset_is_no_return() -> None:
    found = noted(trip_site(), second([800.0, 950.0, 800.0, 800.0, 800.0, 950.0, 950.0]))
    rule = [(at, level) for at, what, level in found if what == NOTE_RULE]
    assert rule == [(1, 1), (2, 1), (3, 0), (5, 1)]  # came, cause gone, reset, came
