"""Monitored items on anything but a point's value: attributes that are read, and events."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

from asyncua import ua

from gateway.core.clock import Clock
from gateway.opcua.event import UaEvent
from gateway.opcua.monitoring.deadband import Wanted, is_reportable
from gateway.opcua.monitoring.encoding import OVERFLOW, notification_of
from gateway.opcua.monitoring.events import overflow_of, refresh_required
from gateway.opcua.monitoring.limits import ENTRY_BYTES, EVENT_QUEUE_MAX, ITEM_QUEUE_MAX, Budget
from gateway.opcua.monitoring.points import DISABLED, REPORTING
from gateway.opcua.users import User

# Of work for a refresh in one message, of which many may go at once; and where nothing was found
# that the filter wants, so that what goes with the next interval is not for ever.
REFRESH_NS: Final = 2_000_000
SEARCH_NS: Final = 10_000_000
# An array or a text costs more than a number; so much is counted for each queued value.
_VALUE_BYTES: Final = 4 * ENTRY_BYTES


class Reader(Protocol):
    """Reads attributes; `gateway.opcua.attributes.Attributes`."""

    def read(
        self, user: User, node: ua.NodeId, attribute: int, index_range: str | None
    ) -> ua.DataValue:
        """An attribute as a user may see it; what is wrong is the status of the value."""


class Filter(Protocol):
    """An event filter; `gateway.opcua.conditions.filters.EventFilter`."""

    def encoded(self, event: UaEvent) -> bytes | None:
        """The selected fields as they stand in an EventFieldList; None where it doesn't want it."""


# A client's filter looked through: the filter, what the client is told, and a status code.
Parse = Callable[[ua.EventFilter], tuple[Filter | None, ua.EventFilterResult, int]]


@dataclass(slots=True, eq=False)
class AttributeItem:
    """An item that is sampled by reading an attribute.

    period_ms  revised
    queued       values with their overflow bit, oldest first
    ready        what is queued goes with the next message
    """

    id: int
    handle: int
    node: ua.NodeId
    attribute: int
    index_range: str | None
    budget: Budget
    wanted: Wanted = field(default_factory=Wanted)
    period_ms: float = 0.0
    stamps: int = 0
    queue: int = 1
    oldest_goes: bool = True
    mode: int = DISABLED
    links: tuple[int, ...] = ()
    ready: bool = False
    last: ua.DataValue | None = None
    queued: deque[tuple[ua.DataValue, int]] = field(
        default_factory=lambda: deque(maxlen=ITEM_QUEUE_MAX)
    )

    @property
    def waits(self) -> bool:
        """There is something to send."""
        return bool(self.queued)

    def take(self, shown: ua.DataValue) -> bool:
        """Queue a value where it differs enough; True where it was queued."""
        if self.mode == DISABLED or not is_reportable(self.last, shown, self.wanted):
            return False
        self.last = shown
        room = len(self.queued) < self.queue and (not self.queued or self.budget.take(_VALUE_BYTES))
        if room:
            self.queued.append((shown, 0))
        elif self.queue == 1:
            self.queued[0] = (shown, 0)
        elif self.oldest_goes and len(self.queued) > 1:
            self.queued.popleft()
            self.queued.append((shown, 0))
            self.queued[0] = (self.queued[0][0], OVERFLOW)
        else:
            self.queued[-1] = (shown, OVERFLOW)
        if self.mode == REPORTING:
            self.ready = True
        return True

    def clear(self) -> None:
        """Drop what is queued, and what was reported."""
        self.budget.give(_VALUE_BYTES * max(0, len(self.queued) - 1))
        self.queued.clear()
        self.last = None
        self.ready = False

    def trim(self) -> None:
        """Drop what a smaller queue has no room for."""
        while len(self.queued) > self.queue:
            self.queued.popleft() if self.oldest_goes else self.queued.pop()
            self.budget.give(_VALUE_BYTES)

    def show_again(self) -> None:
        """Queue the value that was shown last once more."""
        if self.mode == REPORTING and self.last is not None and not self.queued:
            self.queued.append((self.last, 0))
            self.ready = True

    def collect(self, limit: int) -> list[bytes]:
        """Take up to `limit` encoded notifications out of the queue."""
        taken: list[bytes] = []
        while self.queued and len(taken) < limit:
            shown, overflow = self.queued.popleft()
            if self.queued:
                self.budget.give(_VALUE_BYTES)
            taken.append(notification_of(self.handle, self.stamps, shown, overflow))
        self.ready = bool(self.queued)
        return taken


@dataclass(slots=True, eq=False)
class EventItem:
    """An item that is told of events.

    notices  the filter without its where clause, for what a client must be told in any case
    queued   encoded fields, oldest first
    lost     events had no room: the client is told by an overflow event
    gap      it was told so, and is to be asked for a refresh of conditions once the queue is empty
    refresh  what is left of a refresh, encoded when it is sent: the conditions as they are then,
             behind the events that told so; None of what the filter doesn't want
    """

    id: int
    handle: int
    node: ua.NodeId
    filter: Filter
    notices: Filter
    budget: Budget
    queue: int = 1
    oldest_goes: bool = True
    mode: int = DISABLED
    links: tuple[int, ...] = ()
    ready: bool = False
    lost: bool = False
    gap: bool = False
    refresh: Iterator[bytes | None] | None = None
    queued: deque[bytes] = field(default_factory=lambda: deque(maxlen=EVENT_QUEUE_MAX))

    @property
    def waits(self) -> bool:
        """There is something to send."""
        return bool(self.queued) or self.lost or self.gap or self.refresh is not None

    def take(self, event: UaEvent, *, is_notice: bool = False) -> bool:
        """Queue an event where the filter wants it; True where it was queued."""
        if self.mode == DISABLED:
            return False
        fields = (self.notices if is_notice else self.filter).encoded(event)
        if fields is None:
            return False
        if len(self.queued) >= self.queue or not self.budget.take(len(fields)):
            self.lost = True
            if not self.oldest_goes or not self.queued:
                self.ready |= self.mode == REPORTING
                return True
            self.budget.give(len(self.queued.popleft()))
            if not self.budget.take(len(fields)):
                return True
        self.queued.append(fields)
        self.ready |= self.mode == REPORTING
        return True

    def clear(self) -> None:
        """Drop what is queued."""
        self.budget.give(sum(map(len, self.queued)))
        self.queued.clear()
        self.refresh = None
        self.ready = self.lost = self.gap = False

    def trim(self) -> None:
        """Drop what a smaller queue has no room for."""
        while len(self.queued) > self.queue:
            gone = self.queued.popleft() if self.oldest_goes else self.queued.pop()
            self.budget.give(len(gone))
            self.lost = True

    def collect(self, limit: int, clock: Clock) -> list[bytes]:
        """Take up to `limit` encoded EventFieldLists out of the queue.

        Where events were lost, an event says so: before the others where the oldest went, behind
        them where the newest did (OPC 10000-4, 5.13.1.5). Then one asks for a refresh
        (OPC 10000-9, 5.11.4).
        """
        head = self.handle.to_bytes(4, "little")
        taken: list[bytes] = []
        if self.lost and self.oldest_goes:
            self._tell_lost(taken, clock)
        while self.queued and len(taken) < limit:
            fields = self.queued.popleft()
            self.budget.give(len(fields))
            taken.append(head + fields)
        if self.lost and not self.queued and len(taken) < limit:
            self._tell_lost(taken, clock)
        if self.gap and not self.queued and len(taken) < limit:
            self.gap = False
            self._tell(taken, refresh_required(clock))
        if not self.queued:
            self._refreshed(taken, limit, clock)
        self.ready = self.waits
        return taken

    def _refreshed(self, taken: list[bytes], limit: int, clock: Clock) -> None:
        """A piece of a refresh: it never takes room of the queue, and holds nobody up."""
        head, began_ns = self.handle.to_bytes(4, "little"), clock.monotonic_ns()
        while self.refresh is not None and len(taken) < limit:
            if clock.monotonic_ns() - began_ns > (REFRESH_NS if taken else SEARCH_NS):
                return
            try:
                fields = next(self.refresh)
            except StopIteration:
                self.refresh = None
            else:
                if fields is not None:
                    taken.append(head + fields)

    def _tell_lost(self, taken: list[bytes], clock: Clock) -> None:
        self.lost, self.gap = False, True
        self._tell(taken, overflow_of(clock))

    def _tell(self, taken: list[bytes], event: UaEvent) -> None:
        """An event of the item itself, whatever the where clause says."""
        fields = self.notices.encoded(event)
        if fields is not None:
            taken.append(self.handle.to_bytes(4, "little") + fields)
