"""The OPC UA driver at work; drivers/opcua/driver.py says what it does."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from asyncua import ua
from numpy.typing import NDArray

from config import status
from config.points import PointDef
from config.site import Instrument
from drivers.codec import Scaling
from drivers.contract import Block, Cycle, Part, Surroundings, Update, one_by_one
from drivers.errors import NoAnswer, NotConnected, Refused
from drivers.inbox import Inbox, coding_of
from drivers.opcua.driver import PORT, SCHEME, Target
from drivers.opcua.session import Session, code_name
from drivers.opcua.values import reading_of, variant_of, variant_type_of
from drivers.server_url import parse_server

PERIOD_NS: Final = 1_000_000_000  # where a scan class has no period (tests)
PROBE_NS: Final = 10_000_000_000  # longest time without an answer before the server is asked
SILENT_MAX: Final = 3  # reads without an answer in a row, then the session is over
_BAD_NODE_ID_UNKNOWN: Final = 0x80340000
_NUMBER_MAX: Final = 0xFFFFFFFF  # of a notification; behind it comes 1


@dataclass(slots=True, eq=False)
class _Class:
    """The nodes of one scan class.

    first       place of the first of them in the inbox
    monitored   places that the subscription watches
    read        places that are read, because they can't be watched
    longest_ns  between two answers of the subscription
    heard_ns    when it answered last
    number      of the notification that comes next; 0 = not known
    doubtful    a notification is missing: what is monitored has to be read
    """

    period_ns: int
    first: int
    targets: Sequence[Target]
    age_ns_max: int
    monitored: list[int] = field(default_factory=list)
    read: list[int] = field(default_factory=list)
    next_ns: int = 0
    longest_ns: int = 0
    heard_ns: int = 0
    number: int = 0
    doubtful: bool = False

    def count(self, message: ua.NotificationMessage) -> None:
        """Follow the numbers of the notifications; one that is missing may have been a change.

        A keep-alive bears the number that comes next (OPC 10000-4 section 5.14.1.1).
        """
        number, changes = message.SequenceNumber, bool(message.NotificationData)
        if self.number not in (0, number):
            self.doubtful = True
        self.number = number % _NUMBER_MAX + 1 if changes else number


class OpcUaDriver:
    """A server; the contract is drivers.contract.PushDriver."""

    def __init__(
        self, instrument: Instrument, surroundings: Surroundings, blocks: Sequence[Block]
    ) -> None:
        server = parse_server(instrument.tags.Server or "", SCHEME, PORT)
        assert server is not None
        self._server = server
        self._instrument = instrument
        self._surroundings = surroundings
        self._clock = surroundings.clock
        self._timeout_ns = int(instrument.tags.Timeout * 1e9)
        self._targets: list[Target] = [target for block in blocks for target in block.request]
        by_row = {point.index: point for point in instrument.points.values()}
        points = [by_row[target.row] for target in self._targets]
        self._inbox = Inbox(points, [t.channel for t in self._targets], self._clock)
        self._classes: list[_Class] = []
        first = 0
        for block in blocks:
            ages = [by_row[t.row].age_ns_max for t in block.request if by_row[t.row].age_ns_max]
            period_ns = instrument.periods_ns.get(block.scan_class, PERIOD_NS)
            group = _Class(period_ns, first, block.request, min(ages, default=3 * period_ns))
            self._classes.append(group)
            first += len(block.request)
        self._outputs = [p for p in instrument.points.values() if p.writable]
        self._kinds: dict[int, ua.VariantType | None] = {}  # row of an output -> its type
        self._nodes: list[ua.NodeId | None] = []  # by place
        self._bell = asyncio.Event()
        self._session: Session | None = None
        self._begun = False
        self._silent = 0
        self._heard_ns = self._renew_ns = 0

    # ------------------------------------------------------------ connection

    async def connect(self) -> None:
        """A session, and the types of all outputs. Raises NotConnected, NoAnswer."""
        await self.close()
        session = Session(self._server, self._instrument.tags, self._bell.set)
        async with contextlib.AsyncExitStack() as undoing:
            undoing.push_async_callback(session.close)
            await session.connect()
            self._nodes = [session.resolve(target.node) for target in self._targets]
            await self._learn_types(session)
            undoing.pop_all()
        self._session = session
        self._begun = False
        self._silent = 0
        self._heard_ns = self._clock.monotonic_ns()
        self._renew_ns = self._heard_ns + int(session.renew_s * 1e9)
        self._inbox.clear()

    async def close(self) -> None:
        """End the session; may be called twice."""
        session, self._session = self._session, None
        self._bell.set()
        if session is not None:
            await session.close()

    def _connected(self) -> Session:
        if self._session is None:
            raise NotConnected("not connected")
        self._session.check()
        return self._session

    async def _learn_types(self, session: Session) -> None:
        """What each output takes, so that a value which does not fit is never sent."""
        self._kinds.clear()
        known = [(p, session.resolve(self._node_text(p))) for p in self._outputs]
        nodes = [(p, node) for p, node in known if node is not None]
        if not nodes:
            return
        ids = [node for _, node in nodes]
        types = await session.read(ids, ua.AttributeIds.DataType)
        values = await session.read(ids)
        for (point, _), kind, value in zip(nodes, types, values, strict=True):
            shown = kind.Value.Value if kind.Value is not None else None
            self._kinds[point.index] = variant_type_of(shown, value)

    def _node_text(self, point: PointDef) -> str:
        return str(self._instrument.channels[point.channel].IOPoint)

    # ------------------------------------------------------------ asked for

    def read(self, cycle: Cycle) -> AsyncIterator[Part]:
        """Values on demand, one request a block (more where the server limits its size)."""
        return one_by_one(cycle, self._ask, self._clock)

    async def _ask(self, block: Block) -> NDArray[np.float64]:
        session = self._connected()
        targets: Sequence[Target] = block.request
        nodes = [session.resolve(target.node) for target in targets]
        values = await session.read([node for node in nodes if node is not None])
        raw = np.full(len(targets), np.nan)
        found = iter(values)
        for place, (target, node) in enumerate(zip(targets, nodes, strict=True)):
            code = _BAD_NODE_ID_UNKNOWN
            if node is not None:
                reading = reading_of(next(found), target.channel.ArrayPos, target.channel.States)
                raw[place], code = reading.raw, reading.code
            if len(targets) == 1 and status.is_bad(code):
                raise Refused(f"{target.node}: {code_name(code)}", code=code)
        return Scaling([coding_of(target.channel) for target in targets])(raw)

    async def write(self, point: PointDef, value: float) -> None:
        """Write a node in its own type. Raises OutOfRange, Refused with the server's status."""
        session = self._connected()
        channel = self._instrument.channels[point.channel]
        node = session.resolve(self._node_text(point))
        if node is None:
            raise Refused(f"{channel.IOPoint}: the server has no such namespace", permanent=True)
        variant = variant_of(channel, self._kinds.get(point.index), value)
        index_range = None if channel.ArrayPos is None else str(channel.ArrayPos)
        if self._surroundings.tap is not None:
            meaning = f"write {channel.IOPoint} = {variant.Value!r}"
            self._surroundings.tap.frame(True, b"", meaning)
        await session.write(node, variant, index_range)

    # ------------------------------------------------------------ sent by itself

    async def updates(self) -> AsyncIterator[Update]:
        """What the server reported. Raises NotConnected when the session ends."""
        session = self._connected()
        if not self._begun:
            self._begun = True
            for group in self._classes:
                await self._begin(session, group)
        while True:
            if self._session is not session:
                raise NotConnected("the connection was closed")
            session.check()
            self._bell.clear()
            update = self._inbox.take()
            if update is not None:
                yield update
                continue
            wait_ns = self._due_ns() - self._clock.monotonic_ns()
            if wait_ns > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_ns / 1e9):
                        await self._bell.wait()
                continue
            await self._do_what_is_due(session)

    async def _begin(self, session: Session, group: _Class) -> None:
        """Watch what can be watched; the rest of the class is read."""
        places = range(group.first, group.first + len(group.targets))
        known = [place for place in places if self._nodes[place] is not None]
        for place in set(places) - set(known):
            self._inbox.put(place, math.nan, _BAD_NODE_ID_UNKNOWN)
        group.next_ns = self._clock.monotonic_ns()
        group.monitored = []
        group.read = known
        group.number, group.doubtful = 0, False
        if not known:
            return
        number = await self._subscribe(session, group)
        if number is None:
            return
        group.heard_ns = self._clock.monotonic_ns()
        nodes = [(place, node) for place in known if (node := self._nodes[place]) is not None]
        watched: list[int] = []
        slowest_ms = max(1.5 * group.period_ns, group.age_ns_max / 2) / 1e6
        try:
            found_ms = await session.monitor(number, nodes, group.period_ns / 1e6)
            watched = [p for p, ms in zip(known, found_ms, strict=True) if ms <= slowest_ms]
        except (Refused, NoAnswer):
            pass  # they are read
        group.monitored = watched
        group.read = sorted(set(known) - set(watched))
        if not watched:
            await _ignoring_refusals(session.unsubscribe(number))

    async def _subscribe(self, session: Session, group: _Class) -> int | None:
        """A subscription that is never silent for longer than a period, or not for much longer.

        Some servers answer a quiet subscription only every second interval, or every tenth: then
        a shorter interval is asked for. None where the server grants nothing that will do.
        """

        def notify(result: ua.PublishResult) -> None:
            self._notified(session, group, result)

        period_ms = interval_ms = group.period_ns / 1e6
        for _ in range(2):
            try:
                number, longest_ms = await session.subscribe(interval_ms, notify)
            except (Refused, NoAnswer):
                return None
            group.longest_ns = int(longest_ms * 1e6)
            shorter_ms = max(interval_ms * interval_ms / max(longest_ms, 1.0), period_ms / 4)
            good = longest_ms <= period_ms * 1.5
            will_do = group.longest_ns <= group.age_ns_max // 2  # a value may not age to its limit
            if good or (will_do and interval_ms < period_ms):
                return number
            await _ignoring_refusals(session.unsubscribe(number))
            interval_ms = shorter_ms
        return None

    def _notified(self, session: Session, group: _Class, result: ua.PublishResult) -> None:
        """The subscription answered: with changes, or with nothing, which is news as well."""
        self._heard_ns = group.heard_ns = self._clock.monotonic_ns()
        group.count(result.NotificationMessage)
        if not group.doubtful:
            self._inbox.again(group.monitored)
        for notification in result.NotificationMessage.NotificationData or ():
            if isinstance(notification, ua.StatusChangeNotification):
                session.fail(f"the server ended the subscription: {notification.Status.name}")
            elif isinstance(notification, ua.DataChangeNotification):
                for item in notification.MonitoredItems or ():
                    if group.first <= item.ClientHandle < group.first + len(group.targets):
                        self._put(item.ClientHandle, item.Value)
        self._bell.set()

    def _put(self, place: int, value: ua.DataValue | None) -> None:
        target = self._targets[place]
        if value is None:
            return
        reading = reading_of(value, target.channel.ArrayPos, target.channel.States)
        self._inbox.put(place, reading.raw, reading.code, reading.utc_ns)
        if self._surroundings.tap is not None:
            meaning = f"{target.node} = {reading.raw:g}, {code_name(reading.code)}"
            self._surroundings.tap.frame(False, b"", meaning)

    def _due_ns(self) -> int:
        """When the next thing is due."""
        due = [self._heard_ns + PROBE_NS, self._renew_ns]
        due += [group.next_ns for group in self._classes if group.read or group.doubtful]
        due += [self._deadline_ns(group) for group in self._classes if group.monitored]
        return min(due)

    def _deadline_ns(self, group: _Class) -> int:
        return group.heard_ns + 2 * group.longest_ns + self._timeout_ns

    async def _do_what_is_due(self, session: Session) -> None:
        now_ns = self._clock.monotonic_ns()
        for group in self._classes:
            if group.monitored and now_ns >= self._deadline_ns(group):
                raise NotConnected("the server has stopped answering the subscription")
            if (group.read or group.doubtful) and now_ns >= group.next_ns:
                await self._read_class(session, group)
        if now_ns >= self._renew_ns:
            try:
                await session.renew()
            except NoAnswer as error:
                raise NotConnected(str(error)) from None
            self._renew_ns = self._clock.monotonic_ns() + int(session.renew_s * 1e9)
        if now_ns >= self._heard_ns + PROBE_NS:
            await session.probe()
            self._heard_ns = self._clock.monotonic_ns()

    async def _read_class(self, session: Session, group: _Class) -> None:
        """Read what is not watched, or all where a change got lost, on the grid of its class."""
        places = group.read + group.monitored * group.doubtful
        nodes = [(place, node) for place in places if (node := self._nodes[place]) is not None]
        group.doubtful, doubted = False, group.doubtful
        try:
            values = await session.read([node for _, node in nodes])
        except NoAnswer as error:
            self._silent += 1
            group.doubtful = group.doubtful or doubted
            if self._silent >= SILENT_MAX:
                raise NotConnected(str(error)) from None
        except Refused as error:
            for place in places:
                self._inbox.put(place, math.nan, error.code)
        else:
            self._silent = 0
            self._heard_ns = self._clock.monotonic_ns()
            for (place, _), value in zip(nodes, values, strict=True):
                self._put(place, value)
        now_ns = self._clock.monotonic_ns()
        missed = max(0, now_ns - group.next_ns) // group.period_ns
        group.next_ns += (1 + missed) * group.period_ns


async def _ignoring_refusals(work: object) -> None:
    with contextlib.suppress(Refused, NoAnswer):
        await work  # type: ignore[misc]
