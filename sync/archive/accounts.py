"""What of each life of the field process is kept, and when data are missing. Pure.

Frames are numbered, history is asked for by time: so each hole in the numbers becomes a span of
time here, from the value before it to the value behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gateway.core.clock import UTC_PLAUSIBLE_NS
from gateway.core.records import Batch, Gap

LIVES_MAX: Final = 10_000  # that are remembered; the oldest go
MISSING_MAX: Final = 10_000

REASON_HOLE: Final = "not in the history"
REASON_OFF: Final = "the field process did not run"


@dataclass
class Life:
    """A life of the field process: up to which number it is kept, and its times.

    The times are those of its first and last value; 0 = it has none with a time that can be true.
    """

    epoch: int
    seq: int = 0
    first_ns: int = 0
    last_ns: int = 0


@dataclass
class Missing:
    """A span of time in which data are missing; `end_ns` 0 = until something comes."""

    id: int
    start_ns: int
    end_ns: int
    reason: str


class Accounts:
    """Lives in the order in which they began, and what is missing of them."""

    def __init__(self, lives: Sequence[Life] = (), missing: Sequence[Missing] = ()) -> None:
        self.lives = {life.epoch: life for life in lives}
        self.missing = list(missing)
        self._open = [entry for entry in missing if not entry.end_ns]
        self._given = max((entry.id for entry in missing), default=0)
        self._changed: dict[int, Missing] = {}
        self._lived: dict[int, Life] = {}

    def take(self, batch: Batch) -> int:
        """Counts a batch in; returns the first of its numbers that is new, `last` + 1 for none."""
        life = self.lives.get(batch.epoch)
        before_ns = 0
        if life is None:
            before_ns = max((other.last_ns for other in self.lives.values()), default=0)
            life = self.lives[batch.epoch] = Life(batch.epoch, batch.first - 1)
            while len(self.lives) > LIVES_MAX:
                del self.lives[next(iter(self.lives))]
        if batch.last <= life.seq:
            return batch.last + 1
        first = max(batch.first, life.seq + 1)
        gaps = [gap for gap in batch.gaps if not gap.last or gap.last >= first]
        if batch.first > life.seq + 1:
            gaps.insert(0, Gap(life.seq + 1, batch.first - 1, REASON_HOLE))
        rows = batch.records[batch.records["seq"] >= first]
        rows = rows[rows["utc_ns"] >= UTC_PLAUSIBLE_NS]
        if len(rows):
            self._close(int(rows["utc_ns"][0]))
        for gap in gaps:
            self._lost(gap, rows, life.last_ns or before_ns)
        if len(rows):
            life.first_ns = life.first_ns or int(rows["utc_ns"][0])
            life.last_ns = int(rows["utc_ns"][-1])
        life.seq = batch.last
        self._lived[life.epoch] = life
        return first

    def _close(self, utc_ns: int) -> None:
        """Something came: what was missing until then ends."""
        for entry in self._open:
            entry.end_ns = max(utc_ns, entry.start_ns)
            self._changed[entry.id] = entry
        self._open.clear()

    def _lost(self, gap: Gap, rows: NDArray[np.void], last_ns: int) -> None:
        """Notes a gap, between the (n,) rows around it or behind the last time known."""
        low = int(np.searchsorted(rows["seq"], gap.first))
        high = int(np.searchsorted(rows["seq"], gap.last or 2**63, side="right"))
        start_ns = int(rows["utc_ns"][low - 1]) if low else last_ns
        end_ns = int(rows["utc_ns"][high]) if high < len(rows) else 0
        if not start_ns:
            return  # it lies before everything that is kept
        if end_ns:
            start_ns = min(start_ns, end_ns)
        last = self.missing[-1] if self.missing else None
        if last and last.reason == gap.reason and start_ns <= (last.end_ns or start_ns):
            last.start_ns = min(last.start_ns, start_ns)
            last.end_ns = max(last.end_ns, end_ns) if end_ns else 0
            self._changed[last.id] = last
            if not end_ns and last not in self._open:
                self._open.append(last)
            return
        self.lose(gap.reason, start_ns, end_ns)

    def lose(self, reason: str, start_ns: int, end_ns: int) -> None:
        """Notes that what was between two times is missing; an end of 0 = until something comes."""
        self._given += 1
        entry = Missing(self._given, start_ns, end_ns, reason)
        self.missing.append(entry)
        self._changed[entry.id] = entry
        if not end_ns:
            self._open.append(entry)
        del self.missing[:-MISSING_MAX]

    def changes(self) -> tuple[list[Life], list[Missing]]:
        """Copies of what has changed since the last time this was asked; for the file."""
        lives = [replace(life) for life in self._lived.values()]
        found = [replace(entry) for entry in self._changed.values()]
        self._lived, self._changed = {}, {}
        return lives, found

    def everything(self) -> tuple[list[Life], list[Missing]]:
        """As `changes`, but all of it; for a file that has lost it."""
        return [replace(e) for e in list(self.lives.values())], [replace(e) for e in self.missing]

    def gaps(self, start_ns: int, end_ns: int) -> list[tuple[int, int, str]]:
        """(from, to, why) of the times in which data are missing, cut to start and end, in order.

        Between two lives of the field process nothing was measured. A gap without an end reaches
        up to `end_ns`.
        """
        spans = [(e.start_ns, e.end_ns or end_ns, e.reason) for e in self.missing]
        told = [life for life in self.lives.values() if life.last_ns]
        for before, after in pairwise(told):
            if before.last_ns < after.first_ns:
                spans.append((before.last_ns, after.first_ns, REASON_OFF))
        found = [
            (max(first, start_ns), min(last, end_ns), reason)
            for first, last, reason in spans
            if first < end_ns and last > start_ns
        ]
        return sorted(found)
