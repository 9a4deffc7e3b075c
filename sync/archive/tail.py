"""What the archive has taken and not yet written. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gateway.core.clock import UTC_PLAUSIBLE_NS
from gateway.core.records import Batch, Event
from sync.archive.accounts import Accounts, Life, Missing

TABLES_MAX: Final = 16  # point tables whose numbering is remembered
REASON_TABLE: Final = "its point table is lost"


@dataclass(frozen=True, slots=True)
class Piece:
    """What of one batch is new; `rows` are RECORD rows with the archive's numbers of points."""

    number: int
    epoch: int
    rows: NDArray[np.void]
    events: tuple[Event, ...]


class Learned(NamedTuple):
    """What a point table brings: its numbering, new numbers, and what has changed of its points."""

    table: NDArray[np.uint32]
    numbers: dict[str, int]
    definitions: dict[int, tuple[str, str]]
    changed: list[tuple[int, str, int, str, str]]


class Points:
    """The archive's numbers of points. A tag keeps its number, whatever becomes of the table."""

    def __init__(
        self, numbers: Mapping[str, int], definitions: Mapping[int, tuple[str, str]]
    ) -> None:
        self.numbers = dict(numbers)
        self._definitions = dict(definitions)
        self._next = max(self.numbers.values(), default=0) + 1
        self._tables: dict[str, NDArray[np.uint32]] = {}
        self._changed: list[tuple[int, str, int, str, str]] = []

    def knows(self, birth: str) -> bool:
        """True where a birth's table has been learned."""
        return birth in self._tables

    def numbering(self, points: Sequence[Mapping[str, Any]], utc_ns: int) -> Learned:
        """Numbers the points of a table; what is new about them counts from a time on.

        Changes nothing, and may run in a thread while no other table is learned.
        """
        size = max((point["index"] for point in points), default=0) + 1
        learned = Learned(np.zeros(size, dtype=np.uint32), {}, {}, [])
        for point in points:
            tag = str(point["tag"])
            number = self.numbers.get(tag) or learned.numbers.get(tag, 0)
            if not number:
                number = learned.numbers[tag] = self._next + len(learned.numbers)
            about = (str(point.get("units", "")), str(point.get("kind", "")))
            if self._definitions.get(number) != about:
                learned.definitions[number] = about
                learned.changed.append((number, tag, utc_ns, *about))
            learned.table[point["index"]] = number
        return learned

    def learn(self, birth: str, learned: Learned) -> None:
        """Takes over the table of a birth."""
        self.numbers.update(learned.numbers)
        self._next += len(learned.numbers)
        self._definitions.update(learned.definitions)
        self._changed += learned.changed
        while len(self._tables) >= TABLES_MAX:
            del self._tables[next(iter(self._tables))]
        self._tables[birth] = learned.table

    def numbered(self, birth: str, rows: NDArray[np.void]) -> NDArray[np.void]:
        """(n,) RECORD rows with the archive's numbers; rows outside of the table are left out."""
        table = self._tables[birth]
        rows = rows[rows["point"] < len(table)]
        numbers = table[rows["point"]]
        found = rows.copy()
        found["point"] = numbers
        return found[numbers > 0]

    def changes(self) -> list[tuple[int, str, int, str, str]]:
        """(number, tag, time, units, kind) of points that are new or have changed since."""
        found, self._changed = self._changed, []
        return found

    def everything(self) -> list[tuple[int, str, int, str, str]]:
        """As `changes`, of every point; for a file that has lost them."""
        about = self._definitions
        return [(n, tag, 0, *about.get(n, ("", ""))) for tag, n in list(self.numbers.items())]


class Tail:
    """Pieces in the order in which they came, and the accounts of all that has come."""

    def __init__(
        self,
        turn: int,
        points: Points,
        lives: Sequence[Life],
        missing: Sequence[Missing],
    ) -> None:
        self.points = points
        self.accounts = Accounts(lives, missing)
        self._pieces: list[Piece] = []
        self.rows = 0
        self.size = 0  # rows and events
        self._number = turn

    def take(self, batch: Batch) -> None:
        """Takes what is new of a batch. The table of its birth is known, or its rows are lost."""
        first = self.accounts.take(batch)
        if first > batch.last:
            return
        rows = batch.records[batch.records["seq"] >= first]
        if len(rows) and not self.points.knows(batch.birth):
            times = rows["utc_ns"]
            self.accounts.lose(REASON_TABLE, int(times.min()), int(times.max()))
            rows = rows[:0]
        elif len(rows):
            rows = self.points.numbered(batch.birth, rows)
        events = tuple(event for event in batch.events if event.seq >= first)
        self._number += 1
        self._pieces.append(Piece(self._number, batch.epoch, rows, events))
        self.rows += len(rows)
        self.size += len(rows) + len(events) + 1

    def drop(self, number: int) -> None:
        """Forgets pieces up to a number: they are written."""
        self._pieces = [piece for piece in self._pieces if piece.number > number]
        self.rows = sum(len(piece.rows) for piece in self._pieces)
        self.size = self.rows + sum(len(piece.events) + 1 for piece in self._pieces)

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """What is not yet written, in the order in which it came."""
        return tuple(self._pieces)

    def kept(self) -> tuple[int, int]:
        """First and last time of a value; (0, 0) where there is none."""
        times = [piece.rows["utc_ns"] for piece in self._pieces]
        whole = np.concatenate(times) if times else np.zeros(0, dtype=np.int64)
        whole = whole[whole >= UTC_PLAUSIBLE_NS]
        return (int(whole.min()), int(whole.max())) if len(whole) else (0, 0)
