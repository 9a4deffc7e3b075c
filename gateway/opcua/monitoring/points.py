"""Monitored points of one subscription: columns of numbers, a row an item.

A point's values come from one table, so that a thousand items are sampled, compared and encoded by
a few numpy calls. The newest queued value of an item stands in its row, and is at the same time
what later values are compared with; older ones, of queues longer than one, stand beside it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from asyncua import ua
from numpy.typing import NDArray

from config.points import NO_POINT
from gateway.opcua.monitoring.deadband import Wanted, forms, reportable
from gateway.opcua.monitoring.encoding import (
    BOOLEAN,
    ENTRY,
    INT64,
    OVERFLOW,
    UINT32,
    notification,
    notifications,
)
from gateway.opcua.monitoring.limits import ENTRY_BYTES, ITEM_QUEUE_MAX, Budget
from gateway.opcua.values import Values

DISABLED: Final = ua.MonitoringMode.Disabled.value
SAMPLING: Final = ua.MonitoringMode.Sampling.value
REPORTING: Final = ua.MonitoringMode.Reporting.value

_ROWS_MIN: Final = 16
_ROW: Final = np.dtype(
    [
        ("handle", "u4"),
        ("point", "i8"),
        ("mode", "u1"),
        ("stamps", "u1"),
        ("trigger", "u1"),
        ("deadband", "f8"),
        ("queue", "i4"),
        ("oldest_goes", "?"),
        ("denied", "?"),  # the session's user may not read it
        ("seen", "?"),  # `last` holds something
        ("full", "?"),  # `last` is queued
        ("over", "?"),  # and has the overflow bit
        ("ready", "?"),  # what is queued goes with the next message
        ("triggers", "?"),  # other items go when this one is queued
    ]
)
_COLUMNS: Final = tuple(_ROW.names or ())

# By built-in type: smallest and largest whole number that fits.
WHOLE_LIMITS: Final = np.full((26, 2), np.nan)
WHOLE_LIMITS[BOOLEAN] = (0.0, 1.0)
WHOLE_LIMITS[UINT32] = (0.0, 2.0**32 - 1)
WHOLE_LIMITS[INT64] = (np.nextafter(-(2.0**63), 0.0), np.nextafter(2.0**63, 0.0))


@dataclass(slots=True, eq=False)
class PointItem:
    """An item on a point's value.

    row          its row in the table
    period_ms  revised; 0 = every change
    older        queued values before the newest: entries with their overflow bit, oldest first
    """

    id: int
    handle: int
    node: ua.NodeId
    tag: str
    wanted: Wanted
    period_ms: float
    row: int
    older: deque[tuple[Any, ...]] | None = None
    links: tuple[int, ...] = ()


class PointTable:
    """Rows of a subscription's point items.

    changes of the layout (items come, go, or sample otherwise) count `version` up
    """

    def __init__(self, values: Values, budget: Budget) -> None:
        self._values = values
        self._budget = budget
        self.version = 0
        self.count = 0  # rows in use or free, from the start
        self.items: list[PointItem | None] = []
        self._free: list[int] = []
        self._cursor = 0
        self._older: dict[int, PointItem] = {}  # rows with a queue behind the newest value
        self.any_ready = False
        self.triggered: set[int] = set()  # ids of items that trigger others, and were queued
        self._grow(_ROWS_MIN)

    def _grow(self, size: int) -> None:
        for name in _COLUMNS:
            made = np.zeros(size, dtype=_ROW[name])
            if self.count:
                made[: self.count] = getattr(self, name)[: self.count]
            setattr(self, name, made)
        last = np.zeros(size, dtype=ENTRY)
        if self.count:
            last[: self.count] = self.last[: self.count]
        self.last = last

    handle: NDArray[np.uint32]
    point: NDArray[np.int64]
    mode: NDArray[np.uint8]
    stamps: NDArray[np.uint8]
    trigger: NDArray[np.uint8]
    deadband: NDArray[np.float64]
    queue: NDArray[np.int32]
    oldest_goes: NDArray[np.bool_]
    denied: NDArray[np.bool_]
    seen: NDArray[np.bool_]
    full: NDArray[np.bool_]
    over: NDArray[np.bool_]
    ready: NDArray[np.bool_]
    triggers: NDArray[np.bool_]
    last: NDArray[np.void]

    # -- rows ----------------------------------------------------------------------------------

    def add(self, item: PointItem) -> int:
        """Give an item a row; its columns are all 0."""
        if self._free:
            row = self._free.pop()
            self.items[row] = item
        else:
            row = self.count
            if row == len(self.mode):
                self._grow(2 * row)
            self.count += 1
            self.items.append(item)
        for name in _COLUMNS:
            getattr(self, name)[row] = 0
        self.last[row] = 0
        self.handle[row] = item.handle
        self.version += 1
        item.row = row
        return row

    def remove(self, item: PointItem) -> None:
        """Take an item's row back."""
        self.clear(item)
        self.mode[item.row] = DISABLED
        self.point[item.row] = NO_POINT
        self.items[item.row] = None
        self._free.append(item.row)
        self.triggered.discard(item.id)
        self.version += 1

    def clear(self, item: PointItem) -> None:
        """Drop what is queued, and what was reported."""
        row = item.row
        self._drop_older(item)
        self.full[row] = self.seen[row] = self.over[row] = False
        self._set_ready(row, ready=False)

    def forget(self) -> None:
        """Drop what all items have queued and what they reported."""
        for item in list(self._older.values()):
            self._drop_older(item)
        n = self.count
        self.full[:n] = self.seen[:n] = self.over[:n] = self.ready[:n] = False
        self.any_ready = False
        self.triggered.clear()

    def configure(
        self, item: PointItem, stamps: int, wanted: Wanted, queue: int, *, oldest_goes: bool
    ) -> None:
        """Set or change what the client asked of an item."""
        row = item.row
        item.wanted = wanted
        self.handle[row] = item.handle
        self.stamps[row] = stamps
        self.queue[row] = queue
        self.oldest_goes[row] = oldest_goes
        self._locate(item)
        older = item.older
        while older and len(older) >= queue:
            if oldest_goes:
                older.popleft()
            else:
                self.last[row] = older.pop()[:5]
            self._budget.give(ENTRY_BYTES)
        if not older:
            self._drop_older(item)
        self.version += 1

    def _locate(self, item: PointItem) -> None:
        """Find the item's point in the table of now."""
        index = self._values.index.get(item.tag, NO_POINT)
        self.point[item.row] = index
        definition = self._values.points[index - 1] if index != NO_POINT else None
        self.trigger[item.row] = item.wanted.trigger
        self.deadband[item.row] = item.wanted.on(definition)

    def set_mode(self, item: PointItem, mode: int) -> None:
        """Change an item's monitoring mode; what comes from Disabled must be sampled next."""
        row = item.row
        if mode == DISABLED:
            self.clear(item)
        self.mode[row] = mode
        self._set_ready(row, ready=mode == REPORTING and bool(self.full[row]))

    def _set_ready(self, row: int, *, ready: bool) -> None:
        was = bool(self.ready[row])
        self.ready[row] = ready
        if ready:
            self.any_ready = True
        elif was:
            self.any_ready = bool(self.ready[: self.count].any())

    def relocate(self) -> NDArray[np.int64]:
        """Find all points again in another table; returns the rows to sample."""
        for item in self.items:
            if item is not None:
                self._locate(item)
        self.version += 1
        return np.array([i.row for i in self.items if i is not None], dtype=np.int64)

    def queued(self, item: PointItem) -> int:
        """How many values an item has queued."""
        return int(self.full[item.row]) + len(item.older or ())

    # -- sampling ------------------------------------------------------------------------------

    def sample(self, rows: NDArray[np.int64], server_ns: int) -> None:
        """Look at the points of rows now, and queue what the clients want to know."""
        self.take(rows, self._values.rows[self.point[rows]], server_ns)

    def take(self, rows: NDArray[np.int64], records: NDArray[np.void], server_ns: int) -> None:
        """Queue what differs enough.

        rows     (N,) rows, none twice
        records  (N,) RECORD rows of their points
        """
        new = np.empty(len(rows), dtype=ENTRY)
        new["value"] = records["value"]
        new["status"] = records["status"]
        new["utc_ns"] = records["utc_ns"]
        new["server_ns"] = server_ns
        points, denied = self.point[rows], self.denied[rows]
        gone = points == NO_POINT
        if gone.any():
            self._without_value(new, gone, ua.StatusCodes.BadNodeIdUnknown)
        if denied.any():
            self._without_value(new, denied & ~gone, ua.StatusCodes.BadUserAccessDenied)
        forms(self._values.kinds[points], new, WHOLE_LIMITS)
        wanted = reportable(self.last[rows], new, self.trigger[rows], self.deadband[rows])
        wanted |= ~self.seen[rows]
        wanted &= self.mode[rows] != DISABLED
        if not wanted.all():
            rows, new = rows[wanted], new[wanted]
        if len(rows):
            self._queue(rows, new)

    @staticmethod
    def _without_value(new: NDArray[np.void], which: NDArray[np.bool_], code: int) -> None:
        new["status"][which] = code
        new["utc_ns"][which] = 0
        new["server_ns"][which] = 0

    def _queue(self, rows: NDArray[np.int64], new: NDArray[np.void]) -> None:
        behind = self.full[rows] & (self.queue[rows] > 1)
        kept = None
        if behind.any():
            kept = [self._push(row) for row in rows[behind].tolist()]
        else:
            self.over[rows] = False
        self.last[rows] = new
        self.seen[rows] = True
        self.full[rows] = True
        if kept is not None:
            self.over[rows] = False
            self.over[rows[behind]] = kept
        reporting = self.mode[rows] == REPORTING
        self.ready[rows] |= reporting
        self.any_ready |= bool(reporting.any())
        triggers = self.triggers[rows]
        if triggers.any():
            for row in rows[triggers].tolist():
                item = self.items[row]
                assert item is not None
                self.triggered.add(item.id)

    def _push(self, row: int) -> bool:
        """Make room for a newer value behind the newest; True where that gets the overflow bit.

        OPC 10000-4, 5.13.1.5: either the oldest goes and the next one is marked, or the newest is
        replaced and marked.
        """
        item = self.items[row]
        assert item is not None
        older = item.older
        room = (len(older) if older is not None else 0) + 1 < self.queue[row]
        if room and self._budget.take(ENTRY_BYTES):
            if older is None:
                older = item.older = deque(maxlen=ITEM_QUEUE_MAX)
                self._older[row] = item
            older.append((*self.last[row].item(), bool(self.over[row])))
            return False
        if not self.oldest_goes[row] or not older:
            return True
        older.popleft()
        older.append((*self.last[row].item(), bool(self.over[row])))
        older[0] = (*older[0][:5], True)
        return False

    def _drop_older(self, item: PointItem) -> None:
        if item.older is not None:
            self._budget.give(ENTRY_BYTES * len(item.older))
            item.older = None
            self._older.pop(item.row, None)

    def show_again(self) -> None:
        """Queue the values that reporting items showed last once more (ResendData)."""
        n = self.count
        again = (self.mode[:n] == REPORTING) & self.seen[:n] & ~self.full[:n]
        self.full[:n] |= again
        self.ready[:n] |= again
        self.any_ready |= bool(again.any())

    def release(self, item: PointItem) -> None:
        """Let a sampling item's queue go with the next message: its trigger came."""
        if self.full[item.row]:
            self._set_ready(item.row, ready=True)

    # -- messages ------------------------------------------------------------------------------

    def collect(self, limit: int) -> tuple[int, list[bytes]]:
        """Take up to `limit` notifications out of the queues: their count, encoded."""
        rows = np.flatnonzero(self.ready[: self.count])
        start = int(np.searchsorted(rows, self._cursor))
        if start:
            # Who waited longest is first, so that a limit starves nobody.
            rows = np.concatenate((rows[start:], rows[:start]))
        count = 0
        parts: list[bytes] = []
        if self._older:
            count, parts, rows = self._collect_older(rows, limit)
        whole = rows[: limit - count]
        if len(whole):
            parts.append(self._encode(whole))
            self.full[whole] = self.ready[whole] = self.over[whole] = False
        self.any_ready = len(whole) < len(rows)
        if self.any_ready:
            self._cursor = int(rows[len(whole)])
        return count + len(whole), parts

    def _encode(self, rows: NDArray[np.int64]) -> bytes:
        entries = self.last[rows]
        over = self.over[rows]
        if over.any():
            entries["status"][over] |= np.uint32(OVERFLOW)
        return notifications(self.handle[rows], self.stamps[rows], entries)

    def _collect_older(
        self, rows: NDArray[np.int64], limit: int
    ) -> tuple[int, list[bytes], NDArray[np.int64]]:
        """Older values first; returns their count, bytes, and the rows that may go on.

        Where the limit comes between an item's values, the item and all behind it wait.
        """
        count = 0
        parts: list[bytes] = []
        for place, row in enumerate(rows.tolist()):
            item = self._older.get(row)
            if item is None or item.older is None:
                continue
            handle, stamps = item.handle, int(self.stamps[row])
            # The newest of all rows up to this one must have room, too.
            while item.older and count + place < limit:
                *entry, over = item.older.popleft()
                self._budget.give(ENTRY_BYTES)
                entry[1] |= OVERFLOW if over else 0
                parts.append(notification(handle, stamps, entry))
                count += 1
            if item.older:
                return self._cut(rows, place, limit, count, parts)
            self._drop_older(item)
        return count, parts, rows

    def _cut(
        self,
        rows: NDArray[np.int64],
        place: int,
        limit: int,
        count: int,
        parts: list[bytes],
    ) -> tuple[int, list[bytes], NDArray[np.int64]]:
        """The limit is reached at row `place`: what is before it goes whole."""
        whole = rows[: min(place, limit - count)]
        if len(whole):
            parts.append(self._encode(whole))
            self.full[whole] = self.ready[whole] = self.over[whole] = False
        return limit, parts, rows[len(whole) :]
