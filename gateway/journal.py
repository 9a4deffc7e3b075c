"""The journal: the numbered stream of everything that happened in this epoch.

Values are reported by exception: a change of status, a change beyond the deadband, or the
heartbeat. Events take numbers of the same sequence, so their order against values is never in
doubt. The journal is a ring in memory; what falls out before the link took it becomes a
declared gap, never silence (DESIGN section 3, steps 5 and 6).
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from config.points import PointDef
from gateway.core.records import EVENT_KINDS, RECORD, Batch, Event, Gap
from gateway.core.table import PointTable

RING_RECORDS_MAX: Final = 200_000  # 6.4 MB; 200 changes a second for 1,000 s without a link
RING_EVENTS_MAX: Final = 20_000
BATCH_RECORDS_MAX: Final = 20_000

EventListener = Callable[[Event], None]


class Journal:
    """Numbers changes and events of one epoch and keeps the newest of them."""

    def __init__(
        self,
        points: Sequence[PointDef],
        epoch: int,
        birth: str,
        *,
        ring_records_max: int = RING_RECORDS_MAX,
    ) -> None:
        """`birth` is the hash of the point table that the rows' indexes refer to."""
        self.epoch = epoch
        self.birth = birth
        self.last = 0  # the newest number given out
        self._capacity = ring_records_max
        self._ring = np.zeros(ring_records_max, dtype=RECORD)
        self._bytes = self._ring.view(f"V{RECORD.itemsize}")  # copied faster than rows of fields
        self._events: deque[Event] = deque(maxlen=RING_EVENTS_MAX)
        self._event_lost = 0  # the newest event that fell out of the ring
        self._listeners: list[EventListener] = []
        self._watchers: list[Callable[[], object]] = []
        size = len(points) + 1
        self._deadband = np.array([0.0] + [p.deadband for p in points])
        self._heartbeat_ns = np.array([2**61] + [p.heartbeat_ns for p in points], dtype=np.int64)
        self._value = np.full(size, np.nan)
        self._nan = np.ones(size, dtype=np.bool_)
        self._status = np.zeros(size, dtype=np.uint32)
        self._due_ns = np.full(size, -(2**62), dtype=np.int64)  # of the next heartbeat
        # Number 0 of the ring is no record; events fill their slot with a row of point 0.

    def listen(self, listener: EventListener) -> None:
        """Call `listener` with every later event, on the loop, before anything is awaited."""
        self._listeners.append(listener)

    def unlisten(self, listener: EventListener) -> None:
        """Stop calling `listener`."""
        self._listeners.remove(listener)

    def watch(self, watcher: Callable[[], object]) -> None:
        """Call `watcher` whenever new numbers were given out; it must not wait."""
        self._watchers.append(watcher)

    def unwatch(self, watcher: Callable[[], object]) -> None:
        """Stop calling `watcher`."""
        self._watchers.remove(watcher)

    def report(self, table: PointTable, now_mono_ns: int) -> int:
        """Number what is worth reporting since the last call; returns how many rows that were."""
        rows = table.rows
        value, code = rows["value"], rows["status"]
        nan = np.isnan(value)
        with np.errstate(invalid="ignore"):
            changed = np.abs(value - self._value) > self._deadband
        changed |= nan != self._nan
        changed |= code != self._status
        changed |= self._due_ns <= now_mono_ns
        changed[0] = False
        index = np.flatnonzero(changed)
        if len(index) == 0:
            return 0
        values, codes = value[index], code[index]
        self._value[index] = values
        self._nan[index] = nan[index]
        self._status[index] = codes
        self._due_ns[index] = now_mono_ns + self._heartbeat_ns[index]
        numbers = np.arange(self.last + 1, self.last + 1 + len(index), dtype=np.uint64)
        rows["seq"][index] = numbers
        columns = {
            "seq": numbers,
            "point": index,
            "status": codes,
            "value": values,
            "utc_ns": rows["utc_ns"][index],
        }
        for piece, start, end in self._pieces(self.last + 1, self.last + len(index)):
            for name, column in columns.items():
                self._ring[piece][name] = column[start:end]
        self.last += len(index)
        self._grew()
        return len(index)

    def _pieces(self, first: int, last: int) -> list[tuple[slice, int, int]]:
        """Where the numbers `first` to `last` stand in the ring, in order.

        Each piece: slice of the ring, and which of the numbers it holds, counted from `first`.
        The journal may be asked to number more than the ring holds; then the newest stay.
        """
        skipped = max(0, last - first + 1 - self._capacity)
        pieces = []
        at, left = (first + skipped) % self._capacity, last - first + 1 - skipped
        while left:
            size = min(left, self._capacity - at)
            pieces.append((slice(at, at + size), skipped, skipped + size))
            skipped += size
            left -= size
            at = 0
        return pieces

    def _grew(self) -> None:
        for watcher in self._watchers:
            watcher()

    def event(self, kind: str, body: Mapping[str, Any], utc_ns: int) -> Event:
        """Number an event of one of the kinds in `EVENT_KINDS`."""
        assert kind in EVENT_KINDS, kind
        self.last += 1
        event = Event(self.last, utc_ns, kind, body)
        row = self._ring[self.last % self._capacity]
        row["seq"], row["point"] = self.last, 0
        if len(self._events) == RING_EVENTS_MAX:
            self._event_lost = self._events[0].seq
        self._events.append(event)
        for listener in tuple(self._listeners):
            listener(event)
        self._grew()
        return event

    @property
    def first_event_kept(self) -> int:
        """Behind this number every event is still there; 0 where none was lost."""
        return self._event_lost

    def events(self, after: int, kind: str = "") -> list[Event]:
        """The events that are kept behind number `after`, of one kind or of all, oldest first."""
        newer = itertools.takewhile(lambda e: e.seq > after, reversed(self._events))
        return [event for event in newer if not kind or event.kind == kind][::-1]

    def first_kept(self) -> int:
        """The oldest number that can still be delivered whole."""
        return max(self._event_lost + 1, self.last - self._capacity + 1)

    def after(self, seq: int, records_max: int = BATCH_RECORDS_MAX) -> Batch | None:
        """The next batch behind number `seq`, or None where there is nothing newer.

        What the ring no longer holds is declared as a gap at the head of the batch.
        """
        if seq >= self.last:
            return None
        kept = self.first_kept()
        gaps = (Gap(seq + 1, kept - 1, "journal overflow"),) if seq + 1 < kept else ()
        start = max(seq + 1, kept)
        stop = min(self.last, start + records_max - 1)
        pieces = [self._bytes[piece] for piece, _, _ in self._pieces(start, stop)]
        rows = np.concatenate(pieces).view(RECORD)
        # From the newest on: a link that keeps up asks for the last few of thousands.
        newer = itertools.takewhile(lambda e: e.seq >= start, reversed(self._events))
        events = tuple(e for e in newer if e.seq <= stop)[::-1]
        return Batch(
            epoch=self.epoch,
            first=seq + 1,
            last=stop,
            birth=self.birth,
            records=rows[rows["point"] != 0] if events else rows,
            events=events,
            gaps=gaps,
        )
