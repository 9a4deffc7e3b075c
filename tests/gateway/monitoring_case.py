"""Subscriptions without a network: calls are made by hand, and time is moved by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import from_binary, nodeid_from_binary, struct_to_binary

from config.points import NO_POINT, PointDef
from gateway.core.clock import ManualClock
from gateway.opcua.event import UaEvent
from gateway.opcua.monitoring.subscriptions import Subscriptions
from gateway.opcua.names import own_id, standard_id
from gateway.opcua.service import Call, Fault
from gateway.opcua.transport.session import Session
from gateway.opcua.users import Role, User
from gateway.opcua.values import Values, data_value
from tests.gateway.opcua_case import NOW_NS, SITE, rows

MS = 1_000_000
OPERATOR = User("olga", Role.OPERATOR)
SERVER = standard_id(ua.ObjectIds.Server)


def decoded(body: bytes) -> Any:
    """An encoded response as the library's client reads it."""
    number = int(str(nodeid_from_binary(Buffer(body)).Identifier))
    kind = ua.extension_objects_by_typeid.get(ua.NodeId(number))
    if kind is None:
        name = ua.ObjectIdNames[number].removesuffix("_Encoding_DefaultBinary")
        kind = getattr(ua, name)
    rest = Buffer(body)
    made = from_binary(kind, rest)
    assert len(rest) == 0, "bytes behind the response"
    return made


class FakeReader:
    """Attributes: values of points, and what a test puts into `shown`."""

    def __init__(self, values: Values) -> None:
        self.values = values
        self.shown: dict[tuple[ua.NodeId, int], ua.DataValue] = {}
        self.denied: set[tuple[str, ua.NodeId]] = set()
        self.reads = 0

    def read(
        self, user: User, node: ua.NodeId, attribute: int, index_range: str | None
    ) -> ua.DataValue:
        self.reads += 1
        if (user.name, node) in self.denied:
            return bad(ua.StatusCodes.BadUserAccessDenied)
        if (node, attribute) in self.shown:
            return self.shown[node, attribute]
        index = self.values.index.get(str(node.Identifier), NO_POINT)
        if index == NO_POINT:
            return bad(ua.StatusCodes.BadNodeIdUnknown)
        if attribute != ua.AttributeIds.Value:
            return bad(ua.StatusCodes.BadAttributeIdInvalid)
        if index_range:
            return bad(ua.StatusCodes.BadIndexRangeNoData)
        return self.values.value(index)


def bad(code: int) -> ua.DataValue:
    made = ua.DataValue(StatusCode=ua.StatusCode(ua.UInt32(code)))
    made.Value = None
    return made


class FakeFilter:
    """Selects the message of all events; with a where clause only those that are called hot."""

    def __init__(self, only: str = "") -> None:
        self.only = only

    def encoded(self, event: UaEvent) -> bytes | None:
        if event.message == "unwanted" or self.only not in event.message:
            return None
        fields = struct_to_binary(
            ua.EventFieldList(0, [ua.Variant(event.message, ua.VariantType.String)])
        )
        return fields[4:]


def parse(asked: ua.EventFilter) -> tuple[FakeFilter | None, ua.EventFilterResult, int]:
    if not asked.SelectClauses:
        return None, ua.EventFilterResult(), ua.StatusCodes.BadEventFilterInvalid
    only = "hot" if asked.WhereClause.Elements else ""
    return FakeFilter(only), ua.EventFilterResult([ua.StatusCode()]), 0


def event(message: str) -> UaEvent:
    return UaEvent(SERVER, b"1", SERVER, "Server", (SERVER,), NOW_NS, NOW_NS, 500, message, {})


class Client:
    """A session, and what its requests were answered with."""

    def __init__(self, bench: Bench, user: User = OPERATOR, client: str = "test") -> None:
        self.bench = bench
        self.session = Session(standard_id(1), standard_id(2), client, secured=True)
        self.session.user = user
        self.answers: list[Any] = []
        self.faults: list[int] = []
        self.handle = 0

    def call(self, parameters: Any, hint_ms: int = 0) -> Call:
        return self.call_bytes(struct_to_binary(parameters), hint_ms)

    def call_bytes(self, body: bytes, hint_ms: int = 0) -> Call:
        self.handle += 1
        header = ua.RequestHeader(RequestHandle=self.handle, TimeoutHint=hint_ms)

        def answer(response: Any) -> None:
            if not made.done:
                made.done = True
                self.answers.append(decoded(response))

        def fault(code: int) -> None:
            if not made.done:
                made.done = True
                self.faults.append(code)

        made = Call(self.session, header, Buffer(body), answer, fault)
        return made

    async def ask(self, name: str, parameters: Any, hint_ms: int = 0) -> Any:
        """A request's response; None where it comes later. Raises Fault."""
        number = getattr(ua.ObjectIds, f"{name}Request_Encoding_DefaultBinary")
        call = self.call(parameters, hint_ms)
        response = await self.bench.services[number](call)
        if response is None:
            return None
        return decoded(response) if isinstance(response, bytes) else response

    async def refused(self, name: str, parameters: Any) -> int:
        try:
            await self.ask(name, parameters)
        except Fault as fault:
            return fault.code
        raise AssertionError("it was not refused")

    async def subscribe(self, interval_ms: float = 100, **more: Any) -> ua.CreateSubscriptionResult:
        asked = {"RequestedLifetimeCount": 60, "RequestedMaxKeepAliveCount": 3, **more}
        response = await self.ask(
            "CreateSubscription",
            ua.CreateSubscriptionParameters(RequestedPublishingInterval=interval_ms, **asked),
        )
        return response.Parameters

    async def monitor(
        self, subscription: int, *wanted: ua.MonitoredItemCreateRequest, stamps: int = 2
    ) -> list[ua.MonitoredItemCreateResult]:
        asked = ua.CreateMonitoredItemsParameters(
            subscription, ua.TimestampsToReturn(stamps), list(wanted)
        )
        response = await self.ask("CreateMonitoredItems", asked)
        return list(response.Results)

    async def publish(self, *acknowledged: tuple[int, int], hint_ms: int = 0) -> None:
        acks = [ua.SubscriptionAcknowledgement(*one) for one in acknowledged]
        await self.ask("Publish", ua.PublishParameters(acks), hint_ms)

    def values(self) -> list[tuple[int, Any, int]]:
        """(client handle, value, status) of all answers so far; then they are forgotten."""
        found = []
        for answer in self.answers:
            for data in answer.Parameters.NotificationMessage.NotificationData:
                for one in getattr(data, "MonitoredItems", ()):
                    shown = one.Value
                    content = shown.Value.Value if shown.Value is not None else None
                    code = shown.StatusCode.value if shown.StatusCode is not None else 0
                    found.append((one.ClientHandle, content, code))
        self.answers.clear()
        return found

    def messages(self) -> list[tuple[int, str]]:
        """(client handle, message) of all events so far; then they are forgotten."""
        found = []
        for answer in self.answers:
            for data in answer.Parameters.NotificationMessage.NotificationData:
                events = getattr(data, "Events", ())
                found += [(one.ClientHandle, one.EventFields[0].Value) for one in events]
        self.answers.clear()
        return found


class Bench:
    """Subscriptions over the points of a site."""

    def __init__(self, points: Sequence[PointDef] = SITE) -> None:
        self.clock = ManualClock(NOW_NS)
        self.values = Values(self.clock)
        self.reader = FakeReader(self.values)
        self.subscriptions = Subscriptions(self.values, self.reader, parse, self.clock)
        self.services = self.subscriptions.services()
        self.values.replace(points)

    def run(self, ms: float) -> None:
        """Let time pass, in steps of 10 ms."""
        until_ns = self.clock.monotonic_ns() + round(ms * MS)
        while self.clock.monotonic_ns() < until_ns:
            self.clock.advance(min(10 * MS, until_ns - self.clock.monotonic_ns()))
            while self.subscriptions.step() == 0:
                pass

    def change(self, *given: tuple[int, float, int]) -> None:
        self.values.update(rows(*given, utc_ns=self.clock.utc_ns()))


def item(
    tag: str | ua.NodeId, handle: int = 1, mode: int = 2, attribute: int = 13, **more: Any
) -> ua.MonitoredItemCreateRequest:
    """A request for an item. `more` goes into ReadValueId or MonitoringParameters."""
    node = own_id(tag) if isinstance(tag, str) else tag
    target = {k: more.pop(k) for k in ("IndexRange", "DataEncoding") if k in more}
    return ua.MonitoredItemCreateRequest(
        ua.ReadValueId(node, ua.AttributeIds(attribute), **target),
        ua.MonitoringMode(mode),
        ua.MonitoringParameters(ClientHandle=handle, **more),
    )


async def monitored(client: Client, *wanted: Any, interval_ms: float = 100, **more: Any) -> int:
    """A subscription with items; the first values have come."""
    made = await client.subscribe(interval_ms, RequestedMaxKeepAliveCount=100, **more)
    results = await client.monitor(made.SubscriptionId, *wanted)
    assert [result.StatusCode.value for result in results] == [0] * len(wanted)
    await client.publish()
    client.bench.run(interval_ms)
    client.answers.clear()
    return int(made.SubscriptionId)


async def came(client: Client, ms: float = 100) -> list[tuple[int, Any, int]]:
    await client.publish()
    client.bench.run(ms)
    return client.values()


def notifier(bits: int) -> ua.DataValue:
    shown = data_value(ua.VariantType.Double, 0, 0, 0, NOW_NS)
    shown.Value = ua.Variant(bits, ua.VariantType.Byte)
    return shown
