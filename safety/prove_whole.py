"""A history of one part, on the whole program. A part of safety/prove.py.

What a part does alone counts only if nothing else on the site makes good for it: the other inputs
are set so that no other cause acts, and the history is run again on everything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from config import status
from config.points import GATEWAY_EQUIPMENT, POINT, PointDef
from safety import layout as lay
from safety.decode import References, Slice, cut
from safety.engine import Engine
from safety.layout import Program
from safety.prove_abstraction import BAD_CHOICE, NEVER_CHOICE, Choice, abstract
from safety.prove_search import Found, Window
from safety.prove_trial import START_NS, Action, Bench, Step, bypass, parts_of

TRIES_MAX: Final = 300  # of values for the inputs that a part does not read
CALM_TRIES_MAX: Final = 30
BETWEEN_MAX: Final = 200  # scans between two rows of a history
RESET: Final = "Reset"


@dataclass(frozen=True, slots=True)
class Table:
    """A history as a table: one row a scan, one column a point.

    cells     a number, ``bad`` or ``never``; of ``Reset`` 0 or 1; of a machine the number of the
              state that somebody asks for, and empty where nobody does
    notes     what somebody does before the scan, e.g. a bypass, and how old values are; same
              length as `rows`
    requests  which columns are machines
    matters   the columns that decide: what the causes in question read, and what is asked for
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[int, tuple[str, ...]], ...]  # time in ns, cells
    notes: tuple[str, ...] = ()
    requests: tuple[str, ...] = ()
    matters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Confirmed:
    """A history that breaks a claim on the whole program as well; rows of `outputs`."""

    outputs: tuple[int, ...]
    table: Table
    known: Table | None


Track = list[tuple[Step, Mapping[int, Choice]]]  # a step and the inputs by row of the whole


class Whole:
    """The whole program on a bench."""

    def __init__(
        self,
        program: Program,
        points: Mapping[int, PointDef],
        evaluate: Callable[..., int],
        scan_period_ns: int,
    ) -> None:
        self._program, self._points = program, points
        self._evaluate, self._scan_ns = evaluate, scan_period_ns
        self._references = References(program)
        self._read: dict[int, frozenset[int]] = {}
        self._bench: Bench | None = None
        self._engine = Engine(program, evaluate)
        self._first = self._engine.snapshot()
        self._rows: NDArray[np.void] = np.zeros(max(points, default=0) + 1, dtype=POINT)

    def bench(self) -> Bench:
        """Everything that acts, as one slice."""
        if self._bench is None:
            rules = {int(effect["rule"]) for effect in self._program.effects}
            rules |= {int(watch["rule"]) for watch in self._program.watch}
            piece = cut(self._program, rules, range(len(self._program.machines)))
            abstraction = abstract(piece, self._points, self._scan_ns)
            self._bench = Bench(piece, abstraction, self._evaluate, self._scan_ns)
        return self._bench

    def _good(self) -> dict[int, list[Choice]]:
        """What every input can be by its own account, by row of the whole point table."""
        bench = self.bench()
        rows = [bench.piece.points[row] for row in bench.piece.inputs]
        found = {}
        for row, choices in zip(rows, bench.abstraction.choices, strict=True):
            known = [choice for choice in choices if not choice.lost]
            states = len(self._points[row].states) or math.inf
            found[row] = [choice for choice in known if choice.value < states]
        return found

    # ------------------------------------------------------------ a history of a part

    def confirm(
        self, bench: Bench, window: Window | None, found: Found, draw: np.random.Generator
    ) -> Confirmed | int | None:
        """Run a history with all other inputs at values at which nothing else acts.

        Returns Confirmed; the row of a cause that acts on the same loss whatever the others are;
        or None where no such values were found.
        """
        if not found.known or window is None:
            return self.show(bench, window, found)
        track, known = _tracks(bench, window, found, self._scan_ns)
        piece, outputs = bench.piece, [bench.piece.outputs[o] for o in window.outputs]
        main = bench.piece.outputs[found.fault.output]
        kind = bench.engine.program.info[found.fault.rule].kind
        rank = lay.RANK_TRIP if kind == "trip" else lay.RANK_INTERLOCK
        own = {piece.points[row] for row in piece.inputs}
        free = {row: choices for row, choices in self._good().items() if row not in own}
        picks = self._calm(free, draw)
        for _ in range(TRIES_MAX):
            engine = self._run(track, piece, picks)
            if engine.startup:
                return None
            if found.fault.claim == "time":
                return self._confirmed(track, None, picks, [main], piece)
            other = self._cause_of(engine, main, rank)
            if other < 0 or other in piece.rules:
                got = float(engine.demand[main])
                missing = [o for o in outputs if self._cause_of(engine, o, rank) < 0]
                would = self._run(known, piece, picks)  # the same engine, at the other end
                safe = float(self._program.safe[main])
                if other >= 0 and got in (safe, float(would.demand[main])):
                    return None  # between the rows of the history the cause came after all
                both = [o for o in missing if self._cause_of(would, o, rank) >= 0]
                return self._confirmed(track, known, picks, [main, *both], piece)
            inputs = sorted(self._reads(other) & free.keys())
            if not inputs:
                return other
            for row in inputs:
                picks[row] = free[row][int(draw.integers(len(free[row])))]
        return None

    def _calm(
        self, free: Mapping[int, Sequence[Choice]], draw: np.random.Generator
    ) -> dict[int, Choice]:
        """Good values at which no cause acts that reads nothing else, as far as some tries go."""
        picks = {row: choices[int(draw.integers(len(choices)))] for row, choices in free.items()}
        causes = np.unique(self._program.effects["rule"])
        for _ in range(CALM_TRIES_MAX):
            engine, rows = self._engine, self._begin()
            _write(rows, picks, START_NS)
            engine.scan(rows, START_NS, False)
            acting = [self._reads(int(rule)) for rule in causes[engine.active[causes]]]
            again = {row for reads in acting if reads <= free.keys() for row in reads}
            if not again:
                break
            for row in sorted(again):
                picks[row] = free[row][int(draw.integers(len(free[row])))]
        return picks

    def _reads(self, rule: int) -> frozenset[int]:
        """The points that a rule depends on."""
        if rule not in self._read:
            self._read[rule] = frozenset(self._references.closure([rule])[2])
        return self._read[rule]

    def show(self, bench: Bench, window: Window | None, found: Found) -> Confirmed:
        """The history as it is, without looking at the rest of the site."""
        track: Track = [(step, _inputs(bench, step.picks)) for step in found.history]
        if found.known and window is not None:
            track, _ = _tracks(bench, window, found, self._scan_ns)
        output = found.fault.output
        outputs = [bench.piece.outputs[output]] if output >= 0 else []
        shown = self._confirmed(_spread(track, self._scan_ns), None, {}, outputs, bench.piece)
        if found.fault.rule < 0 or bench is not self._bench:
            return shown
        # Of the whole site only what the cause itself reads.
        read = {self._points[row].tag for row in self._reads(bench.piece.rules[found.fault.rule])}
        asked = tuple(t for t in shown.table.matters if t in read or t in shown.table.requests)
        return replace(shown, table=replace(shown.table, matters=asked))

    def _confirmed(
        self,
        track: Track,
        known: Track | None,
        picks: Mapping[int, Choice],
        outputs: Sequence[int],
        piece: Slice,
    ) -> Confirmed:
        table = self._table(track, picks, piece)
        return Confirmed(
            tuple(sorted(set(outputs))),
            table,
            None if known is None else self._table(known, picks, piece),
        )

    def _cause_of(self, engine: Engine, output: int, rank: int) -> int:
        """The row of the cause that demands an output with this rank or more; -1 = none does."""
        return int(engine.cause[output]) if engine.rank[output] >= rank else -1

    def _run(self, track: Track, piece: Slice, picks: Mapping[int, Choice]) -> Engine:
        """The whole program through a history; the engine as it is at the end."""
        engine, rows = self._engine, self._begin()
        now_ns, before, reset = START_NS, dict(picks), False
        for step, inputs in track:
            until_ns = now_ns + step.after_ns
            # On the plant scans go on while nothing changes.
            apart_ns = max(self._scan_ns, step.after_ns // BETWEEN_MAX)
            for between_ns in range(now_ns + apart_ns, until_ns if engine.time_ns else 0, apart_ns):
                _write(rows, before, between_ns)
                engine.scan(rows, between_ns, reset)
            now_ns, before, reset = until_ns, {**picks, **inputs}, step.reset
            _write(rows, before, now_ns)
            if step.action is not None:
                _act(engine, piece, step.action)
            engine.scan(rows, now_ns, step.reset)
        return engine

    def _table(self, track: Track, picks: Mapping[int, Choice], piece: Slice) -> Table:
        points = sorted({row for _, inputs in track for row in inputs} | set(picks))
        with_reset = any(step.reset for step, _ in track)
        asked = sorted({m for step, _ in track if (m := _machine_of(step, piece)) >= 0})
        tags = [self._points[row].tag for row in points]
        rows, notes, time_ns = [], [], 0
        for step, inputs in track:
            time_ns += step.after_ns
            cells = [_cell({**picks, **inputs}[row], self._points[row]) for row in points]
            if with_reset:
                cells.append(str(int(step.reset)))
            for machine in asked:
                here = step.action is not None and _machine_of(step, piece) == machine
                cells.append(str(step.action.position + 1) if step.action and here else "")
            rows.append((time_ns, tuple(cells)))
            notes.append(", ".join(self._notes(step.action, {**picks, **inputs}, piece)))
        reset = [f"{GATEWAY_EQUIPMENT}.{RESET}"] if with_reset else []
        shown = [self._points[self._program.machine_info[m].point].tag for m in asked]
        read = {piece.points[row] for row in piece.inputs}
        matters = [tag for row, tag in zip(points, tags, strict=True) if row in read]
        columns, matters = (*tags, *reset, *shown), [*matters, *reset, *shown]
        return Table(columns, tuple(rows), tuple(notes), tuple(shown), tuple(matters))

    def _notes(
        self, action: Action | None, inputs: Mapping[int, Choice], piece: Slice
    ) -> Iterator[str]:
        """What cells don't say of a row: what somebody does, and how old values are."""
        if action is not None:
            yield self._action(action, piece)
        for row, choice in sorted(inputs.items()):
            if choice.age_s:
                yield f"{self._points[row].tag} is {choice.age_s:.4g} s old"

    def _action(self, action: Action, piece: Slice) -> str:
        if action.rule >= 0:
            name = self._program.info[piece.rules[action.rule]].name
            return f"the bypass of {name} ends" if action.ends else f"bypass of {name}"
        info = self._program.machine_info[piece.machines[action.machine]]
        asker = lay.ASKER_NAMES[action.asker]
        return f"{asker} asks {info.name} for {info.states[action.position]}"

    # ------------------------------------------------------------ start-up

    def startup(self, out_of_time: Callable[[], bool]) -> tuple[int, tuple[int, str] | None]:
        """Every protective input alone, bad and never read, with all others good.

        Returns how many cases there were, and the row of an output that was not safe with a text.
        """
        engine, rows = self._engine, self._begin()
        good = {row: choices[0] for row, choices in self._good().items() if choices}
        _write(rows, good, START_NS)
        watched = sorted({int(watch["point"]) for watch in self._program.watch})
        cases = 0
        for point in watched:
            for lost in (BAD_CHOICE, NEVER_CHOICE):
                if out_of_time():
                    return cases, None
                cases += 1
                engine.restore_snapshot(self._first)
                _write(rows, {point: lost}, START_NS)
                for _ in range(2):
                    engine.scan(rows, START_NS, False)
                fault = self._unsafe(engine)
                if fault is not None or not engine.startup:
                    text = f"with {self._points[point].tag} {lost.lost} it is not held safe"
                    return cases, (fault or 0, text)
            _write(rows, {point: good[point]}, START_NS)
        return cases, None

    def _begin(self) -> NDArray[np.void]:
        """The engine at its start, and a point table that nobody has written yet."""
        self._engine.restore_snapshot(self._first)
        self._rows[:] = np.zeros(1, dtype=POINT)[0]
        self._rows["status"] = status.BAD_WAITING_FOR_INITIAL_DATA
        return self._rows

    def _unsafe(self, engine: Engine) -> int | None:
        safe = self._program.safe
        wrong = ~np.isnan(safe) & ((engine.demand != safe) | (engine.rank != lay.RANK_TRIP))
        found = np.flatnonzero(wrong)
        return int(found[0]) if found.size else None


def _write(rows: NDArray[np.void], inputs: Mapping[int, Choice], now_ns: int) -> None:
    for row, choice in inputs.items():
        age_ns = round(choice.age_s * 1e9)
        rows[row] = (choice.value, choice.status, 0, 0, now_ns - age_ns, 0)


def _act(engine: Engine, piece: Slice, action: Action) -> None:
    if action.rule >= 0:
        rule = piece.rules[action.rule]
        bypass(engine, rule, ends=action.ends)
    else:
        machine = piece.machines[action.machine]
        engine.request(machine, action.position, lay.ASKER_NAMES[action.asker])


def _inputs(bench: Bench, picks: Sequence[int]) -> dict[int, Choice]:
    piece = bench.piece
    return {
        piece.points[row]: bench.choice(at, pick)
        for at, (row, pick) in enumerate(zip(piece.inputs, picks, strict=True))
    }


def _tracks(bench: Bench, window: Window, found: Found, scan_ns: int) -> tuple[Track, Track]:
    """The history with the loss behind it, and with the lost inputs known."""
    history: Track = [(step, _inputs(bench, step.picks)) for step in found.history]
    steps_ns = [0, *window.steps_ns]
    if found.fault.claim == "time" and window.limit_ns >= window.stated_ns:
        steps_ns += window.late_ns  # later than the rules' own delays say

    def behind(picks: tuple[int, ...]) -> Iterator[tuple[Step, Mapping[int, Choice]]]:
        for after_ns in steps_ns:
            yield Step(after_ns, picks), _inputs(bench, picks)

    lost = _spread([*history, *behind(found.lost)], scan_ns)
    return lost, _spread([*history, *behind(found.known)], scan_ns)


def _spread(track: Track, scan_ns: int) -> Track:
    """No two scans at one time: on the grid of the scan period."""
    spread: Track = []
    for step, inputs in track:
        on_grid_ns = max(-(-step.after_ns // scan_ns), 1) * scan_ns
        for at, after_ns in enumerate(parts_of(on_grid_ns)):
            action = None if at else step.action
            spread.append((Step(after_ns, step.picks, step.reset, action), inputs))
    return spread


def _machine_of(step: Step, piece: Slice) -> int:
    """The row of the machine that somebody asks for a state before a scan; -1 = none."""
    action = step.action
    return piece.machines[action.machine] if action is not None and action.machine >= 0 else -1


def _cell(choice: Choice, point: PointDef) -> str:
    if choice.lost:
        return choice.lost
    return f"{choice.value:.10g}" if point.kind == "analog" else f"{choice.value:g}"
