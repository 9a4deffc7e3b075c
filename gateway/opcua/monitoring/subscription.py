"""One subscription: when its items are sampled, and what it sends when (OPC 10000-4, 5.14.1).

Nothing here waits. `step` is called when something is due; all times are monotonic ns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import numpy as np
from asyncua import ua
from numpy.typing import NDArray

from gateway.opcua.monitoring import encoding, limits
from gateway.opcua.monitoring.items import AttributeItem, EventItem
from gateway.opcua.monitoring.limits import Budget
from gateway.opcua.monitoring.points import DISABLED, SAMPLING, PointItem, PointTable
from gateway.opcua.monitoring.state import Group, Shared, State, Terms, is_denied
from gateway.opcua.users import User

if TYPE_CHECKING:
    from gateway.opcua.monitoring.publisher import Publisher

Item = PointItem | AttributeItem | EventItem

READS_AT_ONCE_MAX: Final = 200
CHECKS_AT_ONCE_MAX: Final = 500
_MS: Final = 1_000_000
_NUMBER_MAX: Final = 2**32 - 1


class Subscription:
    """One subscription with its items.

    owner     whose Publish requests it answers; None while no session has it
    user      what he may not read is not shown
    client    who made it
    enabled   publishing is on
    links     how many links items have to others that they trigger
    retained  messages that wait for their acknowledgement, by number
    """

    def __init__(
        self, identity: int, shared: Shared, terms: Terms, owner: Publisher, *, enabled: bool
    ) -> None:
        self.id = identity
        self.owner: Publisher | None = owner
        self.user: User = owner.session.user
        self.client = owner.session.client
        self.terms = terms
        self.enabled = enabled
        self.state = State.NORMAL
        self.closed = False
        self.budget = Budget(limits.QUEUED_BYTES_MAX, shared.queued)
        self.table = PointTable(shared.values, self.budget)
        self.items: dict[int, Item] = {}
        self.links = 0
        self.retained: dict[int, bytes] = {}
        self.waiting: dict[int, AttributeItem | EventItem] = {}  # with something to send
        self._shared = shared
        self._retained_budget = Budget(limits.RETAINED_BYTES_MAX, shared.retained)
        self._groups: dict[float, Group] = {}
        self._triggered: set[int] = set()
        self._fresh: list[PointItem] = []  # never sampled
        self._unchecked: list[PointItem] = []  # whose rights must be looked up for another user
        self._start_ns = shared.clock.monotonic_ns()
        self._publish_ns = self._start_ns + round(terms.interval_ms * _MS)
        self._message_sent = False
        self._lifetime_left = terms.lifetime
        self._keep_alive_left = terms.keep_alive
        self._number = 1

    # -- terms ---------------------------------------------------------------------------------

    def modify(self, terms: Terms) -> None:
        """Other terms; the next message comes an interval from now at the latest."""
        self.terms = terms
        self._publish_ns = self._shared.clock.monotonic_ns() + round(terms.interval_ms * _MS)
        self._keep_alive_left = min(self._keep_alive_left, terms.keep_alive)
        self.touch()

    def touch(self) -> None:
        """The client is there."""
        self._lifetime_left = self.terms.lifetime
        self._meet_user()

    @property
    def due_ns(self) -> int:
        """When `step` has something to do."""
        due = self._publish_ns
        for group in self._groups.values():
            if group.interval_ns and group.due_ns < due:
                due = group.due_ns
        return due

    # -- items ---------------------------------------------------------------------------------

    def add(self, item: Item, mode: int) -> None:
        """Take an item that is configured, and sample it for the first time."""
        self.items[item.id] = item
        self._shared.items += 1
        if isinstance(item, AttributeItem):
            self._shared.readers += 1
        if not isinstance(item, EventItem):
            self._join(item)
        self.set_mode(item, mode)

    def remove(self, item: Item) -> None:
        """Drop an item with all that it has queued."""
        del self.items[item.id]
        self.waiting.pop(item.id, None)
        self.links -= len(item.links)
        self._shared.items -= 1
        if isinstance(item, PointItem):
            self.table.remove(item)
        else:
            item.clear()
        if isinstance(item, AttributeItem):
            self._shared.readers -= 1
        if not isinstance(item, EventItem):
            self._leave(item)

    def resample(self, item: PointItem | AttributeItem, period_ms: float) -> None:
        """Look at an item as often as this from now on."""
        self._leave(item)
        item.period_ms = period_ms
        self._join(item)
        self.table.version += 1

    def _join(self, item: PointItem | AttributeItem) -> None:
        group = self._group(item.period_ms)
        group.members += 1
        if isinstance(item, AttributeItem):
            group.readers[item.id] = item
        self._shared.stale |= not group.interval_ns

    def _leave(self, item: PointItem | AttributeItem) -> None:
        group = self._groups[item.period_ms]
        group.members -= 1
        group.readers.pop(item.id, None)
        self._shared.stale |= not group.interval_ns
        if not group.members:
            del self._groups[item.period_ms]

    def _group(self, period_ms: float) -> Group:
        group = self._groups.get(period_ms)
        if group is None:
            interval_ns = round(period_ms * _MS)
            due_ns = self._start_ns
            if interval_ns:
                # On the grid of the publishing timer, so that what is sampled goes at once.
                due_ns = self._publish_ns
                behind = due_ns - self._shared.clock.monotonic_ns()
                due_ns -= max(0, behind // interval_ns) * interval_ns
            group = Group(interval_ns, due_ns, self._shared.batch)
            self._groups[period_ms] = group
        return group

    def set_mode(self, item: Item, mode: int) -> None:
        """Change an item's monitoring mode; what was disabled shows its value first thing."""
        if isinstance(item, PointItem):
            was = int(self.table.mode[item.row])
            self.table.set_mode(item, mode)
            if was == DISABLED != mode:
                self._fresh.append(item)
            return
        was, item.mode = item.mode, mode
        if mode == DISABLED:
            item.clear()
        elif was == DISABLED and isinstance(item, AttributeItem):
            self._read(item)
        item.ready = mode > SAMPLING and item.waits
        self._note(item)

    def settle(self) -> None:
        """Sample points that were not looked at yet, all at once."""
        rows = [item.row for item in self._fresh if self.items.get(item.id) is item]
        self._fresh.clear()
        if rows:
            # One that was switched twice stands there twice.
            self.table.sample(np.unique(np.array(rows)), self._shared.clock.utc_ns())

    def _note(self, item: AttributeItem | EventItem) -> None:
        if item.ready:
            self.waiting[item.id] = item
        else:
            self.waiting.pop(item.id, None)

    def heard(self, item: EventItem) -> None:
        """An event was queued in one of the items."""
        self._note(item)
        if item.links:
            self._triggered.add(item.id)

    def show_again(self) -> None:
        """Send the values of all reporting items once more (ResendData)."""
        self.table.show_again()
        for item in self.items.values():
            if isinstance(item, AttributeItem):
                item.show_again()
                self._note(item)

    # -- sampling ------------------------------------------------------------------------------

    def _rows(self, period_ms: float, group: Group) -> NDArray[np.int64]:
        if group.version != self.table.version:
            chosen = [
                item.row
                for item in self.table.items
                if item is not None and item.period_ms == period_ms
            ]
            group.rows = np.array(chosen, dtype=np.int64)
            group.points = self.table.point[group.rows]
            group.version = self.table.version
        return group.rows

    def eager_points(self) -> NDArray[np.int64]:
        """Points whose every change must be told to `changed`; none twice is not promised."""
        group = self._groups.get(0.0)
        if group is None:
            return np.zeros(0, dtype=np.int64)
        self._rows(0.0, group)
        return group.points

    def changed(self, at: NDArray[np.int64], records: NDArray[np.void], server_ns: int) -> None:
        """Points changed: `at` is their place in `records` by index of the point, -1 = did not."""
        group = self._groups.get(0.0)
        if group is None or self._unchecked:
            return
        self.settle()
        rows = self._rows(0.0, group)
        places = at[group.points]
        hit = places >= 0
        if hit.any():
            self.table.take(rows[hit], records[places[hit]], server_ns)

    def _sample(self, period_ms: float, group: Group, now_ns: int) -> None:
        """Look at what changed since the last time."""
        rows = self._rows(period_ms, group)
        if len(rows) and not group.to_read:
            changed = self._shared.stamps[group.points] > group.seen
            if changed.any():
                self.table.sample(rows[changed], self._shared.clock.utc_ns())
            group.seen = self._shared.batch
        if not group.to_read:
            group.to_read = list(group.readers.values())
        now = group.to_read[:READS_AT_ONCE_MAX]
        del group.to_read[:READS_AT_ONCE_MAX]
        for item in now:
            if item.id in group.readers:
                self._read(item)
        if not group.to_read:
            late = (now_ns - group.due_ns) // group.interval_ns
            group.due_ns += (late + 1) * group.interval_ns

    def _read(self, item: AttributeItem) -> None:
        shown = self._shared.reader.read(self.user, item.node, item.attribute, item.index_range)
        if item.take(shown):
            self._note(item)
            if item.links:
                self._triggered.add(item.id)

    def moved(self) -> None:
        """There is another point table."""
        self.table.relocate()
        self._sample_all()
        for group in self._groups.values():
            group.seen = self._shared.batch

    def _sample_all(self) -> None:
        rows = np.flatnonzero(self.table.mode[: self.table.count] != DISABLED)
        if len(rows):
            self.table.sample(rows, self._shared.clock.utc_ns())

    def _meet_user(self) -> None:
        """Where the session has another user, forget all that was meant for the one before."""
        if self.owner is None or self.owner.session.user == self.user:
            return
        self.user = self.owner.session.user
        for number in list(self.retained):
            self.acknowledge(number)
        self.table.forget()
        self._triggered.clear()
        self._unchecked = []
        for item in self.items.values():
            if isinstance(item, PointItem):
                self._unchecked.append(item)
                continue
            waited = item.waits
            item.clear()
            if isinstance(item, EventItem):
                item.lost = waited  # that there was something is told, as of a queue that was full
                item.ready = waited and item.mode > SAMPLING
            self._note(item)

    def _check_user(self) -> bool:
        """Look up what another user may read; True while there is more to look up."""
        self._meet_user()
        if not self._unchecked:
            return False
        now = self._unchecked[:CHECKS_AT_ONCE_MAX]
        del self._unchecked[:CHECKS_AT_ONCE_MAX]
        for item in now:
            if self.items.get(item.id) is item:
                shown = self._shared.reader.read(self.user, item.node, ua.AttributeIds.Value, None)
                self.table.denied[item.row] = is_denied(shown)
        if not self._unchecked:
            self._sample_all()
        return bool(self._unchecked)

    # -- messages ------------------------------------------------------------------------------

    def step(self, now_ns: int) -> None:
        """Do what is due, or a part of it; then it is still due."""
        if self._check_user():
            return
        self.settle()
        for period_ms, group in list(self._groups.items()):
            if group.interval_ns and group.due_ns <= now_ns:
                self._sample(period_ms, group, now_ns)
        if self._publish_ns <= now_ns:
            interval_ns = round(self.terms.interval_ms * _MS)
            late = (now_ns - self._publish_ns) // interval_ns
            self._publish_ns += (late + 1) * interval_ns
            self._expire(now_ns)

    def _expire(self, now_ns: int) -> None:
        """The publishing timer expired."""
        owner = self.owner
        served = owner is not None and owner.has_request(now_ns)
        if served:
            self.touch()
        else:
            self._lifetime_left -= 1
            if self._lifetime_left <= 0:
                self.closed = True
                return
        if self.state is State.LATE and not served:
            return
        available = self.enabled and self.has_notifications()
        if not available and self._message_sent:
            if self.state is State.NORMAL:
                self.state = State.KEEP_ALIVE
                self._keep_alive_left = self.terms.keep_alive
                return
            if self._keep_alive_left > 1:
                self._keep_alive_left -= 1
                return
        if owner is not None and served:
            owner.serve(self, now_ns)
        else:
            self.be_late()

    def be_late(self) -> None:
        """Answer the next Publish request at once."""
        self.state = State.LATE
        if self.owner is not None:
            self.owner.late[self.id] = self

    def has_notifications(self) -> bool:
        """True where there is something to send; not before the user's rights are looked up."""
        self._meet_user()
        if self._unchecked:
            return False
        self._release()
        return self.table.any_ready or bool(self.waiting)

    def _release(self) -> None:
        """Let go what triggered items are linked to."""
        triggered, self._triggered = self._triggered | self.table.triggered, set()
        self.table.triggered.clear()
        for identity in triggered:
            item = self.items.get(identity)
            for linked in item.links if item is not None else ():
                other = self.items.get(linked)
                if isinstance(other, PointItem):
                    if self.table.mode[other.row] == SAMPLING:
                        self.table.release(other)
                elif other is not None and other.mode == SAMPLING and other.waits:
                    other.ready = True
                    self._note(other)

    def next_message(self) -> tuple[bytes, bool]:
        """The message that answers a Publish request, and whether there is more to send."""
        utc_ns = self._shared.clock.utc_ns()
        self._message_sent = True
        self._keep_alive_left = self.terms.keep_alive
        limit = self.terms.notifications_max or limits.NOTIFICATIONS_PER_PUBLISH_MAX
        count = 0
        data: list[bytes] = []
        events: list[bytes] = []
        if self.enabled and self.has_notifications():
            count, data, events = self._collect(min(limit, limits.NOTIFICATIONS_PER_PUBLISH_MAX))
        content = encoding.message(self._number, utc_ns, data, count, events)
        if not count and not events:
            if self.state is State.LATE:
                self.state = State.KEEP_ALIVE
            return content, False
        self.state = State.NORMAL
        self._retain(content)
        self._number = self._number + 1 if self._number < _NUMBER_MAX else 1
        return content, self.has_notifications()

    def _collect(self, limit: int) -> tuple[int, list[bytes], list[bytes]]:
        """Up to `limit` notifications: how many of data, these, and events.

        Where values of points wait, too, they keep half of the room.
        """
        data: list[bytes] = []
        events: list[bytes] = []
        others = limit - limit // 2 if self.table.any_ready else limit
        for item in list(self.waiting.values()):
            left = others - len(data) - len(events)
            if left <= 0:
                break
            # Behind all others the next time, so that a limit starves nobody.
            del self.waiting[item.id]
            if isinstance(item, EventItem):
                events += item.collect(left, self._shared.clock)
            else:
                data += item.collect(left)
            self._note(item)
        count = len(data)
        if self.table.any_ready and count + len(events) < limit:
            points, parts = self.table.collect(limit - count - len(events))
            count += points
            data += parts
        return count, data, events

    def _retain(self, content: bytes) -> None:
        retained = self.retained
        while len(retained) >= limits.RETAINED_MESSAGES_MAX:
            self.acknowledge(next(iter(retained)))
        while not self._retained_budget.take(len(content)):
            if not retained:
                return  # too large, or others hold all: it can't be asked for again
            self.acknowledge(next(iter(retained)))
        retained[self._number] = content

    def acknowledge(self, number: int) -> bool:
        """The client has a message; False where it isn't kept."""
        content = self.retained.pop(number, None)
        if content is None:
            return False
        self._retained_budget.give(len(content))
        return True

    def closing_message(self, code: int) -> bytes:
        """The last message: why it ended."""
        return encoding.status_message(self._number, self._shared.clock.utc_ns(), code)

    def end(self) -> None:
        """Drop everything that it holds."""
        self.closed = True
        shared = self._shared
        shared.items -= len(self.items)
        shared.readers -= sum(isinstance(item, AttributeItem) for item in self.items.values())
        shared.stale = True
        self.items.clear()
        self.budget.give(limits.QUEUED_BYTES_MAX - self.budget.left_bytes)
        for number in list(self.retained):
            self.acknowledge(number)
        if self.owner is not None:
            self.owner.drop(self)
            self.owner = None

    def event_items(self) -> Iterator[EventItem]:
        """Its items on events."""
        return (item for item in self.items.values() if isinstance(item, EventItem))
