"""The services of monitored items (OPC 10000-4, 5.13)."""

from __future__ import annotations

import asyncio
import itertools
import operator
import re
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from asyncua import ua
from asyncua.ua.ua_binary import extensionobject_to_binary, struct_from_binary

from config.points import NO_POINT
from gateway.opcua.monitoring import limits
from gateway.opcua.monitoring.deadband import no_filter, wanted_of
from gateway.opcua.monitoring.encoding import ticks_of
from gateway.opcua.monitoring.items import AttributeItem, EventItem, Filter, Parse
from gateway.opcua.monitoring.points import PointItem
from gateway.opcua.monitoring.state import Shared, is_denied
from gateway.opcua.monitoring.subscription import Item, Subscription
from gateway.opcua.names import NAMESPACE
from gateway.opcua.service import Call, Fault, Services, response_head
from gateway.opcua.transport.bounded import Bounded

if TYPE_CHECKING:
    from gateway.opcua.monitoring.subscriptions import Subscriptions

ITEMS_AT_ONCE_MAX: Final = 100  # then other tasks of the process get their turn
ATTRIBUTE_MAX: Final = 27
_CODES: Final = ua.StatusCodes
_IDS: Final = ua.ObjectIds
_NO_FILTER_RESULT: Final = bytes(3)  # an ExtensionObject with a null TypeId and no body
_RESULT: Final = struct.Struct("<IIdI")
_CODE: Final = struct.Struct("<I")
_MODIFIED: Final = struct.Struct("<IdI")
_RANGE: Final = re.compile(r"\d{1,9}(:\d{1,9})?(,\d{1,9}(:\d{1,9})?)*")
_UNKNOWN: Final = (
    _CODES.BadNodeIdUnknown,
    _CODES.BadNodeIdInvalid,
    _CODES.BadAttributeIdInvalid,
    _CODES.BadIndexRangeInvalid,
)


class Refusal(Exception):
    """One operation of a request fails."""

    def __init__(self, code: int, result: Any = None) -> None:
        super().__init__(code)
        self.code = code
        self.result = result  # of the filter


def is_range(text: str) -> bool:
    """True for an index range as it must be written (OPC 10000-4, 7.27)."""
    if not _RANGE.fullmatch(text):
        return False
    ends = [part.split(":") for part in text.split(",")]
    return all(len(pair) == 1 or int(pair[0]) < int(pair[1]) for pair in ends)


def _read(call: Call, form: str) -> tuple[Any, ...]:
    """Numbers of the request's body. Raises Fault where it ends before."""
    try:
        return struct.unpack(form, call.body.read(struct.calcsize(form)))
    except ua.UaError as error:
        raise Fault(_CODES.BadDecodingError) from error


def _number(call: Call, form: str = "<I") -> Any:
    return _read(call, form)[0]


def _decoded(kind: Any, call: Call) -> Any:
    """The next operation; each may be made of as much as a whole message of another service."""
    if isinstance(call.body, Bounded):
        call.body.afresh()
    return struct_from_binary(kind, call.body)


def _count(call: Call) -> int:
    """The length of an array of operations. Raises Fault."""
    count: int = _number(call, "<i")
    if count <= 0:
        raise Fault(_CODES.BadNothingToDo)
    if count > limits.OPERATIONS_MAX:
        raise Fault(_CODES.BadTooManyOperations)
    return count


def _ids(call: Call) -> tuple[int, ...]:
    """An array of UInt32 that may be empty. Raises Fault."""
    count: int = _number(call, "<i")
    if count > limits.OPERATIONS_MAX:
        raise Fault(_CODES.BadTooManyOperations)
    return _read(call, f"<{max(0, count)}I")


def _codes(codes: list[int]) -> bytes:
    """Results and no diagnostics."""
    return struct.pack(f"<i{len(codes)}Ii", len(codes), *codes, 0)


class ItemServices:
    """Create, modify, delete items, their modes and their links."""

    def __init__(self, subscriptions: Subscriptions, shared: Shared, parse: Parse) -> None:
        self._subscriptions = subscriptions
        self._shared = shared
        self._parse = parse
        self._ids = itertools.count(1)

    def services(self) -> Services:
        """What is served here."""
        return {
            _IDS.CreateMonitoredItemsRequest_Encoding_DefaultBinary: self.create,
            _IDS.ModifyMonitoredItemsRequest_Encoding_DefaultBinary: self.modify,
            _IDS.DeleteMonitoredItemsRequest_Encoding_DefaultBinary: self.delete,
            _IDS.SetMonitoringModeRequest_Encoding_DefaultBinary: self.set_mode,
            _IDS.SetTriggeringRequest_Encoding_DefaultBinary: self.set_triggering,
        }

    def _head(self, call: Call, encoding: int) -> bytes:
        ticks = ticks_of(self._shared.clock.utc_ns())
        return response_head(encoding, call.header.RequestHandle, ticks)

    async def create(self, call: Call) -> bytes:
        """CreateMonitoredItems. Raises Fault."""
        subscription, stamps = self._begin(call)

        def one() -> bytes:
            request = _decoded(ua.MonitoredItemCreateRequest, call)
            try:
                return self._create(call, subscription, stamps, request)
            except Refusal as refusal:
                return _RESULT.pack(refusal.code, 0, 0.0, 0) + _filter_result(refusal.result)

        results = await self._each(subscription, _count(call), one)
        return self._head(call, _IDS.CreateMonitoredItemsResponse_Encoding_DefaultBinary) + results

    async def modify(self, call: Call) -> bytes:
        """ModifyMonitoredItems. Raises Fault."""
        subscription, stamps = self._begin(call)

        def one() -> bytes:
            request = _decoded(ua.MonitoredItemModifyRequest, call)
            try:
                item = _item(subscription, request.MonitoredItemId)
                return self._modify(subscription, item, stamps, request.RequestedParameters)
            except Refusal as refusal:
                return _MODIFIED.pack(refusal.code, 0.0, 0) + _filter_result(refusal.result)

        results = await self._each(subscription, _count(call), one)
        return self._head(call, _IDS.ModifyMonitoredItemsResponse_Encoding_DefaultBinary) + results

    def _begin(self, call: Call) -> tuple[Subscription, int]:
        """The subscription that a request names, and its TimestampsToReturn. Raises Fault."""
        subscription = self._subscriptions.of(call.session, _number(call))
        stamps: int = _number(call)
        if stamps > ua.TimestampsToReturn.Neither.value:
            raise Fault(_CODES.BadTimestampsToReturnInvalid)
        return subscription, stamps

    async def _each(
        self, subscription: Subscription, count: int, one: Callable[[], bytes]
    ) -> bytes:
        """An array of results, made one by one, and no diagnostics. Raises Fault."""
        if not count:
            raise Fault(_CODES.BadNothingToDo)
        results = [struct.pack("<i", count)]
        for done in range(count):
            if done and done % ITEMS_AT_ONCE_MAX == 0:
                subscription.settle()
                await asyncio.sleep(0)
                if subscription.closed:
                    raise Fault(_CODES.BadSubscriptionIdInvalid)
            results.append(one())
        subscription.settle()
        self._subscriptions.schedule(subscription)
        results.append(struct.pack("<i", 0))
        return b"".join(results)

    # -- create --------------------------------------------------------------------------------

    def _create(
        self,
        call: Call,
        subscription: Subscription,
        stamps: int,
        request: ua.MonitoredItemCreateRequest,
    ) -> bytes:
        self._check_room(call, subscription)
        target = request.ItemToMonitor
        _check_target(target)
        shown = self._shared.reader.read(
            call.session.user, target.NodeId, target.AttributeId, target.IndexRange or None
        )
        status = shown.StatusCode.value if shown.StatusCode is not None else 0
        if status in _UNKNOWN:
            raise Refusal(status)
        asked = request.RequestedParameters
        mode = request.MonitoringMode.value
        if target.AttributeId == ua.AttributeIds.EventNotifier and not no_filter(asked.Filter):
            return self._create_event(subscription, target, mode, asked, shown)
        tag = self._tag(target)
        if tag:
            return self._create_point(subscription, request, tag, stamps, denied=is_denied(shown))
        item = AttributeItem(
            next(self._ids),
            asked.ClientHandle,
            target.NodeId,
            target.AttributeId,
            target.IndexRange or None,
            subscription.budget,
        )
        kind = shown.Value.VariantType if shown.Value is not None else None
        self._set_attribute(subscription, item, stamps, asked, kind)
        item.period_ms = self._reading_ms(subscription, asked)
        subscription.add(item, mode)
        return _created(item.id, item.period_ms, item.queue)

    def _check_room(self, call: Call, subscription: Subscription) -> None:
        full = (
            len(subscription.items) >= limits.SUBSCRIPTION_ITEMS_MAX
            or not self._subscriptions.has_items_left(call.session.user)
            or self._subscriptions.publisher(call.session).items >= limits.SESSION_ITEMS_MAX
        )
        if full:
            raise Refusal(_CODES.BadTooManyMonitoredItems)

    def _tag(self, target: ua.ReadValueId) -> str:
        """The point whose value is asked for; "" where it is no point's."""
        node, name = target.NodeId, target.NodeId.Identifier
        is_point = (
            target.AttributeId == ua.AttributeIds.Value
            and not target.IndexRange
            and node.NamespaceIndex == NAMESPACE
            and isinstance(name, str)
            and name in self._shared.values.index
        )
        return name if is_point else ""

    def _create_point(
        self,
        subscription: Subscription,
        request: ua.MonitoredItemCreateRequest,
        tag: str,
        stamps: int,
        *,
        denied: bool,
    ) -> bytes:
        node, asked = request.ItemToMonitor.NodeId, request.RequestedParameters
        wanted = self._wanted(tag, asked.Filter)
        sampling_ms = limits.sampling_interval_ms(
            asked.SamplingInterval, subscription.terms.interval_ms
        )
        queue = limits.queue_size(asked.QueueSize, events=False)
        period_ms = limits.period_ms(sampling_ms)
        item = PointItem(next(self._ids), asked.ClientHandle, node, tag, wanted, period_ms, 0)
        table = subscription.table
        table.add(item)
        table.configure(item, stamps, wanted, queue, oldest_goes=asked.DiscardOldest)
        table.denied[item.row] = denied
        subscription.add(item, request.MonitoringMode.value)
        return _created(item.id, sampling_ms, queue)

    def _wanted(self, tag: str, given: Any) -> Any:
        """A point's filter. Raises Refusal."""
        values = self._shared.values
        index = values.index.get(tag, NO_POINT)
        point = values.points[index - 1] if index != NO_POINT else None
        wanted, code = wanted_of(given, ua.AttributeIds.Value, values.types[index], point)
        if code:
            raise Refusal(code)
        return wanted

    def _set_attribute(
        self,
        subscription: Subscription,
        item: AttributeItem,
        stamps: int,
        asked: ua.MonitoringParameters,
        kind: ua.VariantType | None,
    ) -> None:
        wanted, code = wanted_of(asked.Filter, item.attribute, kind, None)
        if code:
            raise Refusal(code)
        item.wanted = wanted
        item.handle = asked.ClientHandle
        item.stamps = stamps
        item.queue = limits.queue_size(asked.QueueSize, events=False)
        item.oldest_goes = asked.DiscardOldest
        item.trim()

    def _reading_ms(self, subscription: Subscription, asked: ua.MonitoringParameters) -> float:
        return limits.reading_interval_ms(
            asked.SamplingInterval, subscription.terms.interval_ms, self._shared.readers + 1
        )

    def _create_event(
        self,
        subscription: Subscription,
        target: ua.ReadValueId,
        mode: int,
        asked: ua.MonitoringParameters,
        shown: ua.DataValue,
    ) -> bytes:
        bits = shown.Value.Value if shown.Value is not None else 0
        if not (isinstance(bits, int) and bits & 1):
            raise Refusal(_CODES.BadAttributeIdInvalid)  # no events come from there
        own = sum(1 for _ in subscription.event_items())
        full = own >= limits.SUBSCRIPTION_EVENT_ITEMS_MAX
        if full or self._subscriptions.listening >= limits.EVENT_ITEMS_MAX:
            raise Refusal(_CODES.BadTooManyMonitoredItems)
        parsed, notices, result = self._event_filter(asked.Filter)
        item = EventItem(
            next(self._ids), asked.ClientHandle, target.NodeId, parsed, notices, subscription.budget
        )
        item.queue = limits.queue_size(asked.QueueSize, events=True)
        item.oldest_goes = asked.DiscardOldest
        subscription.add(item, mode)
        self._subscriptions.listen(subscription, item)
        return _created(item.id, 0.0, item.queue, result)

    def _event_filter(self, given: Any) -> tuple[Filter, Filter, ua.EventFilterResult]:
        """A client's filter, the same without its where clause, and what he is told of it.

        Begin and end of a refresh, and lost events, are told whatever the clause says
        (OPC 10000-4, 5.13.1.5; OPC 10000-9, 5.5.7). Raises Refusal.
        """
        if not isinstance(given, ua.EventFilter):
            raise Refusal(_CODES.BadFilterNotAllowed)
        parsed, result, code = self._parse(given)
        if code or parsed is None:
            raise Refusal(code or _CODES.BadEventFilterInvalid, result)
        if not given.WhereClause.Elements:
            return parsed, parsed, result
        notices, _, _ = self._parse(ua.EventFilter(SelectClauses=given.SelectClauses))
        return parsed, notices or parsed, result

    # -- modify --------------------------------------------------------------------------------

    def _modify(
        self,
        subscription: Subscription,
        item: Item,
        stamps: int,
        asked: ua.MonitoringParameters,
    ) -> bytes:
        if isinstance(item, EventItem):
            item.filter, item.notices, result = self._event_filter(asked.Filter)
            item.handle = asked.ClientHandle
            item.queue = limits.queue_size(asked.QueueSize, events=True)
            item.oldest_goes = asked.DiscardOldest
            item.trim()
            return _MODIFIED.pack(0, 0.0, item.queue) + _filter_result(result)
        if isinstance(item, PointItem):
            wanted = self._wanted(item.tag, asked.Filter)
            sampling_ms = limits.sampling_interval_ms(
                asked.SamplingInterval, subscription.terms.interval_ms
            )
            queue = limits.queue_size(asked.QueueSize, events=False)
            item.handle = asked.ClientHandle
            subscription.table.configure(
                item, stamps, wanted, queue, oldest_goes=asked.DiscardOldest
            )
        else:
            last = item.last.Value if item.last is not None else None
            kind = last.VariantType if last is not None else None
            self._set_attribute(subscription, item, stamps, asked, kind)
            sampling_ms, queue = self._reading_ms(subscription, asked), item.queue
        period_ms = sampling_ms
        if isinstance(item, PointItem):
            period_ms = limits.period_ms(sampling_ms)
        if period_ms != item.period_ms:
            subscription.resample(item, period_ms)
        return _MODIFIED.pack(0, sampling_ms, queue) + _NO_FILTER_RESULT

    # -- delete, modes, links ------------------------------------------------------------------

    async def delete(self, call: Call) -> bytes:
        """DeleteMonitoredItems. Raises Fault."""
        subscription = self._subscriptions.of(call.session, _number(call))
        ids = iter(_ids(call))

        def one() -> bytes:
            return _CODE.pack(self._delete(subscription, next(ids)))

        results = await self._each(subscription, operator.length_hint(ids), one)
        return self._head(call, _IDS.DeleteMonitoredItemsResponse_Encoding_DefaultBinary) + results

    def _delete(self, subscription: Subscription, identity: int) -> int:
        item = subscription.items.get(identity)
        if item is None:
            return _CODES.BadMonitoredItemIdInvalid
        if isinstance(item, EventItem):
            self._subscriptions.forget(item)
        subscription.remove(item)
        return _CODES.Good

    async def set_mode(self, call: Call) -> bytes:
        """SetMonitoringMode. Raises Fault."""
        subscription = self._subscriptions.of(call.session, _number(call))
        mode, ids = _number(call), iter(_ids(call))
        if mode > ua.MonitoringMode.Reporting.value:
            raise Fault(_CODES.BadMonitoringModeInvalid)

        def one() -> bytes:
            return _CODE.pack(_set_mode(subscription, next(ids), mode))

        results = await self._each(subscription, operator.length_hint(ids), one)
        return self._head(call, _IDS.SetMonitoringModeResponse_Encoding_DefaultBinary) + results

    async def set_triggering(self, call: Call) -> bytes:
        """SetTriggering. Raises Fault."""
        subscription = self._subscriptions.of(call.session, _number(call))
        item = subscription.items.get(_number(call))
        added, removed = _ids(call), _ids(call)
        if not added and not removed:
            raise Fault(_CODES.BadNothingToDo)
        if item is None:
            raise Fault(_CODES.BadMonitoredItemIdInvalid)
        links = dict.fromkeys(item.links)
        removals = [_unlink(links, identity) for identity in removed]
        subscription.links += len(links) - len(item.links)
        additions = [_link(subscription, links, identity) for identity in added]
        item.links = tuple(links)
        if isinstance(item, PointItem):
            subscription.table.triggers[item.row] = bool(links)
        encoding = _IDS.SetTriggeringResponse_Encoding_DefaultBinary
        return self._head(call, encoding) + _codes(additions) + _codes(removals)


def _set_mode(subscription: Subscription, identity: int, mode: int) -> int:
    item = subscription.items.get(identity)
    if item is None:
        return _CODES.BadMonitoredItemIdInvalid
    subscription.set_mode(item, mode)
    return _CODES.Good


def _unlink(links: dict[int, None], identity: int) -> int:
    if identity not in links:
        return _CODES.BadMonitoredItemIdInvalid
    del links[identity]
    return _CODES.Good


def _link(subscription: Subscription, links: dict[int, None], identity: int) -> int:
    if identity not in subscription.items:
        return _CODES.BadMonitoredItemIdInvalid
    if identity not in links:
        if subscription.links >= limits.LINKS_MAX:
            return _CODES.BadTooManyOperations
        subscription.links += 1
    links[identity] = None
    return _CODES.Good


def _item(subscription: Subscription, identity: int) -> Item:
    item = subscription.items.get(identity)
    if item is None:
        raise Refusal(_CODES.BadMonitoredItemIdInvalid)
    return item


def _check_target(target: ua.ReadValueId) -> None:
    """Raises Refusal for an attribute, index range or encoding that can't be."""
    if not 1 <= target.AttributeId <= ATTRIBUTE_MAX:
        raise Refusal(_CODES.BadAttributeIdInvalid)
    if target.IndexRange and not is_range(target.IndexRange):
        raise Refusal(_CODES.BadIndexRangeInvalid)
    encoding = target.DataEncoding
    if encoding is not None and encoding.Name:
        if target.AttributeId != ua.AttributeIds.Value:
            raise Refusal(_CODES.BadDataEncodingInvalid)
        if (encoding.NamespaceIndex, encoding.Name) != (0, "Default Binary"):
            raise Refusal(_CODES.BadDataEncodingUnsupported)


def _filter_result(result: Any) -> bytes:
    return _NO_FILTER_RESULT if result is None else extensionobject_to_binary(result)


def _created(identity: int, sampling_ms: float, queue: int, result: Any = None) -> bytes:
    return _RESULT.pack(0, identity, sampling_ms, queue) + _filter_result(result)
