"""From the notes of a replay to what people ask for: alarms, trips and states with time and cause.

An `Occurrence` is one time that a rule was active, a machine was in a state, or protection
demanded a value of an output.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from config import status
from config.points import PointDef
from gateway.cli.output import number
from safety import layout
from safety.alarm_figures import CHATTER_NS, CHATTER_TIMES, FLOOD_MORE_THAN
from safety.engine import Engine
from safety.replay import Notes
from safety.replay_kernel import (
    FLAG_ACTIVE,
    FLAG_BAD,
    FLAG_CAUSE,
    FLAG_SUPPRESSED,
    NOTE_MACHINE,
    NOTE_OUTPUT,
    NOTE_RULE,
)

OCCURRENCES_MAX: Final = 200_000  # of one site that are kept whole; all are counted
WINDOW_NS: Final = 600_000_000_000  # ten minutes, in which EEMUA 191 counts alarms
_RANKS: Final = {layout.RANK_INTERLOCK: "interlock", layout.RANK_TRIP: "trip"}


@dataclass(slots=True)
class Occurrence:
    """One time that something was the case.

    kind         of the rule; ``machine``, ``output``
    what         level, state, or the value that an output was driven to
    to           the last value, where a control state moved the output along a ramp
    end_ns       0 = still so at the end of the history
    cause_ns     of what latched: when its cause was gone, 0 = it is not, or it did not latch
    again        how often the cause came back while it was latched
    first_out    its first-out number, 0 = none
    cause        the rule in words, or what demands
    inputs       (tag, value in words) of the moment it began
    """

    kind: str
    name: str
    what: str
    start_ns: int
    end_ns: int = 0
    cause_ns: int = 0
    again: int = 0
    first_out: int = 0
    suppressed: bool = False
    on_bad: bool = False
    priority: str = ""
    cause: str = ""
    inputs: tuple[tuple[str, str], ...] = ()
    to: str = ""

    @property
    def from_to(self) -> str:
        """What, and up to which value."""
        return f"{self.what} to {self.to}" if self.to else self.what

    def length_ns(self, last_ns: int) -> int:
        """How long it lasted, up to the end of the history."""
        return (self.end_ns or last_ns) - self.start_ns


@dataclass(slots=True)
class Total:
    """All occurrences of one rule, machine's state or output."""

    kind: str
    name: str
    count: int = 0
    first_ns: int = 0
    last_ns: int = 0
    longest_ns: int = 0
    active_ns: int = 0

    def begin(self, start_ns: int) -> None:
        """Count one."""
        self.count += 1
        self.first_ns = self.first_ns or start_ns
        self.last_ns = start_ns

    def end(self, length_ns: int) -> None:
        """Add its length."""
        self.longest_ns = max(self.longest_ns, length_ns)
        self.active_ns += length_ns


@dataclass(slots=True)
class AlarmLoad:
    """How many alarms an operator would have heard, as EEMUA 191 counts them."""

    announced: int = 0
    windows: dict[int, int] = field(default_factory=dict)  # number of the ten minutes -> alarms
    chattering: dict[str, int] = field(default_factory=dict)  # alarm -> how often it began to
    _recent: dict[str, list[int]] = field(default_factory=dict)

    def announce(self, name: str, time_ns: int) -> None:
        """Count one announcement."""
        self.announced += 1
        window = time_ns // WINDOW_NS
        self.windows[window] = self.windows.get(window, 0) + 1
        recent = self._recent.setdefault(name, [])
        chattered = len(recent) == CHATTER_TIMES and recent[-1] - recent[0] <= CHATTER_NS
        recent.append(time_ns)
        del recent[:-CHATTER_TIMES]
        chatters = len(recent) == CHATTER_TIMES and recent[-1] - recent[0] <= CHATTER_NS
        if chatters and not chattered:
            self.chattering[name] = self.chattering.get(name, 0) + 1

    def figures(self, first_ns: int, last_ns: int) -> dict[str, Any]:
        """The figures of a history that began and ended at these times."""
        windows = last_ns // WINDOW_NS - first_ns // WINDOW_NS + 1
        floods = sum(count > FLOOD_MORE_THAN for count in self.windows.values())
        return {
            "announced": self.announced,
            "per_ten_minutes": self.announced / windows,
            "peak_in_ten_minutes": max(self.windows.values(), default=0),
            "flood_share": floods / windows,
            "chattering": self.chattering,
        }


class Tracker:
    """Follows the notes of one site's replay."""

    def __init__(self, engine: Engine, points: Sequence[PointDef]) -> None:
        self._engine = engine
        self._program = engine.program
        self._points = points
        self.occurrences: list[Occurrence] = []
        self.left_out = 0  # occurrences beyond OCCURRENCES_MAX
        self.load = AlarmLoad()
        self.startup_end_ns = 0
        self.first_ns = 0
        self._totals: dict[tuple[str, str], Total] = {}
        self._open: dict[tuple[int, int], Occurrence] = {}

    def take(self, notes: Notes) -> None:
        """Follow the next notes."""
        for note, inputs in zip(notes.rows.tolist(), _parts(notes), strict=True):
            time_ns, value, what, row, level, cause, flags, _, _, before = note
            if what == NOTE_RULE:
                self._rule(time_ns, row, level, cause, flags, inputs)
            elif what == NOTE_MACHINE:
                self._machine(time_ns, row, level, cause, inputs)
            elif what == NOTE_OUTPUT:
                self._ramped(row, before)
                self._output(time_ns, row, value, level, cause)
            else:
                self.startup_end_ns = time_ns

    def finish(self, last_ns: int) -> None:
        """The history ended: what is still so has lasted until now."""
        for (what, row), occurrence in self._open.items():
            if what == NOTE_OUTPUT:
                self._ramped(row, float(self._engine.outputs["value"][row]))
            self._total(occurrence).end(occurrence.length_ns(last_ns))
        self._open.clear()

    @property
    def totals(self) -> list[Total]:
        """The totals in the order of the rules, then machines, then outputs."""
        return sorted(self._totals.values(), key=lambda total: (_ORDER.index(total.kind),))

    def _total(self, occurrence: Occurrence) -> Total:
        name = occurrence.name
        if occurrence.kind in ("state", "machine"):
            name = f"{name}: {occurrence.what}"
        key = (occurrence.kind, name)
        return self._totals.setdefault(key, Total(*key))

    def _begin(self, key: tuple[int, int], occurrence: Occurrence) -> None:
        self._end(key, occurrence.start_ns)
        self._open[key] = occurrence
        self._total(occurrence).begin(occurrence.start_ns)
        if len(self.occurrences) < OCCURRENCES_MAX:
            self.occurrences.append(occurrence)
        else:
            self.left_out += 1

    def _end(self, key: tuple[int, int], time_ns: int) -> None:
        occurrence = self._open.pop(key, None)
        if occurrence is not None:
            occurrence.end_ns = time_ns
            self._total(occurrence).end(time_ns - occurrence.start_ns)

    # ------------------------------------------------------------ the kinds of notes

    def _rule(
        self, time_ns: int, row: int, level: int, first_out: int, flags: int, inputs: Any
    ) -> None:
        info = self._program.info[row]
        key = (NOTE_RULE, row)
        what = self._program.strings[level] if level else ""
        now = self._open.get(key)
        if not flags & FLAG_ACTIVE:
            self._end(key, time_ns)
        elif now is not None and now.what == what:
            if not flags & FLAG_CAUSE:
                now.cause_ns = time_ns
            elif now.cause_ns:
                now.cause_ns, now.again = 0, now.again + 1
        else:
            self._begin(
                key,
                Occurrence(
                    info.kind,
                    info.name,
                    what,
                    time_ns,
                    first_out=first_out,
                    suppressed=bool(flags & FLAG_SUPPRESSED),
                    on_bad=bool(flags & FLAG_BAD),
                    priority=info.priority,
                    cause=info.text,
                    inputs=self._words(inputs),
                ),
            )
            if info.kind == "alarm" and not flags & FLAG_SUPPRESSED:
                self.load.announce(info.name, time_ns)

    def _machine(self, time_ns: int, row: int, mode: int, by: int, inputs: Any) -> None:
        machine, info = self._program.machines[row], self._program.machine_info[row]
        if by >= 0:
            way = info.transitions[by - int(machine["transition"])]
            cause = f"from {way.origin}" + (f": {way.guard}" if way.guard else "")
            if not way.automatic:
                cause += f" (asked for by {' or '.join(way.askers)})"
        else:
            cause = "longest time is over" if by == layout.BY_TIMEOUT else "initial state"
        state = info.states[mode - int(machine["mode"])]
        occurrence = Occurrence("machine", info.name, state, time_ns, cause=cause)
        occurrence.inputs = self._words(inputs)
        self._begin((NOTE_MACHINE, row), occurrence)

    def _output(self, time_ns: int, row: int, value: float, rank: int, cause: int) -> None:
        key = (NOTE_OUTPUT, row)
        if rank == layout.RANK_NONE:
            self._end(key, time_ns)
            return
        point = self._output_point(row)
        how = "held by state" if cause <= layout.CAUSE_MACHINE_FROM else _RANKS.get(rank, "demand")
        told = f"{self._cause_name(cause)} ({how})"
        self._begin(key, Occurrence("output", point.tag, _text(value, point), time_ns, cause=told))

    def _output_point(self, row: int) -> PointDef:
        return self._points[int(self._program.outputs[row]) - 1]

    def _ramped(self, row: int, last: float) -> None:
        """The demand that is there now ends at this value."""
        now = self._open.get((NOTE_OUTPUT, row))
        if now is not None:
            text = _text(last, self._output_point(row))
            now.to = text if text != now.what else ""

    def _cause_name(self, cause: int) -> str:
        """The engine's own name is that of now, and the notes are older."""
        machine = layout.CAUSE_MACHINE_FROM - cause
        state = self._open.get((NOTE_MACHINE, machine))
        return f"{state.name}: {state.what}" if state else self._engine.cause_name(cause)

    def _words(self, inputs: Any) -> tuple[tuple[str, str], ...]:
        found = []
        for value, index, code in inputs:
            point = self._points[index - 1]
            text = _text(value, point)
            if math.isnan(value) or not status.is_good(code):
                name = status.name_of(code)
                text = name if status.is_bad(code) else f"{text} ({name})"
            found.append((point.tag, text))
        return tuple(found)


def _text(value: float, point: PointDef) -> str:
    return f"{number(value, point.states)} {point.units}".strip()


_ORDER: Final = (
    *("trip", "interlock", "alarm", "permissive", "state", "machine", "output"),
    *("value", "guard", "function"),
)


def _parts(notes: Notes) -> list[Any]:
    """The inputs of each note."""
    inputs = notes.inputs.tolist()
    firsts, counts = notes.rows["first"].tolist(), notes.rows["count"].tolist()
    return [inputs[at : at + n] for at, n in zip(firsts, counts, strict=True)]
