"""The services HistoryRead and HistoryUpdate (OPC 10000-4, 5.11.3 and 5.11.5; OPC 10000-11)."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Container
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple

from asyncua import ua

from config.points import PointDef
from gateway.core.clock import Clock
from gateway.opcua.conditions.filters import EventFilter
from gateway.opcua.conditions.types import EventTypes
from gateway.opcua.event import UaEvent
from gateway.opcua.history import encoding, past, processed, raw
from gateway.opcua.history.aggregates import Form, Found
from gateway.opcua.history.continuation import Continuations
from gateway.opcua.history.past import Review
from gateway.opcua.history.processed import Course, Moments
from gateway.opcua.history.raw import Walk
from gateway.opcua.history.requests import (
    NODES_MAX,
    AtTimeDetails,
    EventDetails,
    HistoryRequest,
    ProcessedDetails,
    RawDetails,
    Wanted,
    configuration_fault,
    decode,
)
from gateway.opcua.history.series import Configuration
from gateway.opcua.history.source import Archive, Source
from gateway.opcua.names import NAMESPACE
from gateway.opcua.service import Call, Fault, Services, response_head
from gateway.opcua.users import User
from gateway.opcua.values import Values, data_type
from sync.errors import StoreError

VALUES_MAX: Final = 100_000  # of one node in one answer: more than a day of a value a second
ANSWER_VALUES_MAX: Final = 150_000  # of all nodes: 3.3 MB
EVENTS_MAX: Final = 1_000
ANSWER_EVENTS_MAX: Final = 2_000
ANSWER_BYTES_MAX: Final = 4_000_000
_HEAD_BYTES: Final = 100  # of a response, and more
_RESULT_BYTES: Final = 50  # of a result without its values or events, and more
READS_AT_ONCE: Final = 4  # requests of all clients; others wait for their turn
_TURN: Final = "history turn"
_CODES: Final = ua.StatusCodes
_READ: Final = ua.ObjectIds.HistoryReadRequest_Encoding_DefaultBinary
_READ_RESPONSE: Final = ua.ObjectIds.HistoryReadResponse_Encoding_DefaultBinary
_UPDATE: Final = ua.ObjectIds.HistoryUpdateRequest_Encoding_DefaultBinary
_UPDATE_RESPONSE: Final = ua.ObjectIds.HistoryUpdateResponse_Encoding_DefaultBinary
_NO_DIAGNOSTICS: Final = b"\xff\xff\xff\xff"
# Of a HistoryUpdateResult: no results and no diagnostics of its operations.
_NO_OPERATIONS: Final = b"\xff\xff\xff\xff" * 2

State = Walk | Course | Moments | Review


def stepped(point: PointDef) -> bool:
    """True where values hold until the next one: whole numbers, and what is set, not measured."""
    return point.kind == "discrete" or point.writable


@dataclass(frozen=True, slots=True)
class Events:
    """What reading events takes.

    types    event types, for filters
    nodes    objects whose events have a history
    teller   an event of the archive as clients see it; None = not at all
    may_see  whether a user may see an event
    """

    types: EventTypes
    nodes: Container[ua.NodeId]
    teller: Callable[[Any], UaEvent | None]
    may_see: Callable[[User, UaEvent], bool] = lambda user, event: True

    def told(self, user: User, kept: Any) -> UaEvent | None:
        """An event of the archive as a user sees it."""
        event = self.teller(kept)
        return event if event is not None and self.may_see(user, event) else None


class Share(NamedTuple):
    """What one node may have of an answer: values or events, and bytes."""

    most: int
    bytes_max: int


class _Room:
    """What an answer still has room for; what a node leaves is for those behind it.

    bytes_max  of the response, 0 = the client named no limit
    """

    def __init__(self, bytes_max: int, nodes: int, *, is_events: bool) -> None:
        self._most = EVENTS_MAX if is_events else VALUES_MAX
        self._count = ANSWER_EVENTS_MAX if is_events else ANSWER_VALUES_MAX
        size = min(bytes_max or ANSWER_BYTES_MAX, ANSWER_BYTES_MAX)
        self._size = size - _HEAD_BYTES - nodes * _RESULT_BYTES
        self._value_bytes = 1 if is_events else encoding.VALUE_BYTES_MAX

    def share(self, nodes: int) -> Share:
        """Of the next of so many nodes; at least one value or event."""
        size = max(self._size // nodes, 0)
        count = min(self._count // nodes, self._most, size // self._value_bytes)
        return Share(max(count, 1), size)

    def taken(self, count: int, result: bytes) -> None:
        """A node has had so many values or events."""
        self._count -= count
        self._size -= max(len(result) - _RESULT_BYTES, 0)


class History:
    """Answers HistoryRead out of the archive.

    archive   None = nothing is kept, and no node has a history
    may_read  whether a user may read a tag ("" = what belongs to no point)
    known     whether there is a node
    events    None = no node has a history of events
    """

    def __init__(
        self,
        archive: Archive | None,
        values: Values,
        may_read: Callable[[User, str], bool],
        known: Callable[[ua.NodeId], bool],
        clock: Clock,
        events: Events | None = None,
    ) -> None:
        self._archive = archive
        self._values = values
        self._may_read = may_read
        self._known = known
        self._clock = clock
        self._events = events
        self._turns = asyncio.Semaphore(READS_AT_ONCE)
        self._large = asyncio.Lock()
        self.continuations = Continuations()

    def services(self) -> Services:
        """The services by the numbers of their requests."""
        return {_READ: self._read, _UPDATE: self._update}

    async def _update(self, call: Call) -> bytes:
        """Nobody changes what was recorded: each operation is refused."""
        count = max(struct.unpack("<i", call.body.read(4))[0], 0)
        if not count:
            raise Fault(_CODES.BadNothingToDo)
        if count > NODES_MAX:
            raise Fault(_CODES.BadTooManyOperations)
        refused = struct.pack("<I", _CODES.BadHistoryOperationUnsupported) + _NO_OPERATIONS
        return self._answer(call, _UPDATE_RESPONSE, [refused] * count)

    def _answer(self, call: Call, number: int, results: list[bytes]) -> bytes:
        ticks = encoding.ticks_of(self._clock.utc_ns())
        head = response_head(number, call.header.RequestHandle, ticks)
        return b"".join((head, struct.pack("<i", len(results)), *results, _NO_DIAGNOSTICS))

    async def _read(self, call: Call) -> bytes | None:
        request = decode(call.body)
        if request.release:
            results = [self._release(call, wanted) for wanted in request.wanted]
            return self._answer(call, _READ_RESPONSE, results)
        details = request.details
        if isinstance(details, ProcessedDetails) and len(details.aggregates) != len(request.wanted):
            raise Fault(_CODES.BadAggregateListMismatch)
        # One at a time for each session, so that none has all the turns.
        turn = call.session.kept.setdefault(_TURN, asyncio.Lock())
        async with turn, self._turns:
            results = await self._results(call, request)
        return self._answer(call, _READ_RESPONSE, results) if results else None

    def _release(self, call: Call, wanted: Wanted) -> bytes:
        try:
            self.continuations.take(call.session, wanted.point)
        except Fault as fault:
            return encoding.result(fault.code)
        return encoding.result(0)

    async def _results(self, call: Call, request: HistoryRequest) -> list[bytes]:
        """A result for each node; nothing where nobody waits for them any more."""
        is_events = isinstance(request.details, EventDetails)
        room = _Room(call.bytes_max, len(request.wanted), is_events=is_events)
        source = None if self._archive is None else Source(self._archive, self._large, self._clock)
        results = []
        for at in range(len(request.wanted)):
            if call.done:
                return []
            if call.session.closed:
                raise Fault(_CODES.BadSessionClosed)
            share = room.share(len(request.wanted) - at)
            try:
                result, given = await self._result(call, request, at, source, share)
                room.taken(given, result)
            except Fault as fault:
                result = encoding.result(fault.code)
            except StoreError:
                result = encoding.result(_CODES.BadDataUnavailable)
            results.append(result)
        return results

    async def _result(
        self, call: Call, request: HistoryRequest, at: int, source: Source | None, share: Share
    ) -> tuple[bytes, int]:
        """The encoded result of a node, and how many values or events it has. Raises Fault."""
        wanted = request.wanted[at]
        point = self._checked(call.session.user, request, wanted, source)
        assert source is not None
        if wanted.point:
            node, state = self.continuations.take(call.session, wanted.point)
            if node != wanted.node:
                raise Fault(_CODES.BadContinuationPointInvalid)
        else:
            state = self._begin(request, at, point, source)
        count = 0
        if source.tired:
            # This request has read enough: the client goes on here with the next one.
            await asyncio.sleep(0)
            kind = encoding.HISTORY_EVENT if point is None else encoding.HISTORY_DATA
            body = encoding.events([])
        elif isinstance(state, Review):
            assert self._events is not None
            teller = partial(self._events.told, call.session.user)
            told, state = await past.step(state, source, teller, *share)
            body, count = encoding.events(told), len(told)
            kind = encoding.HISTORY_EVENT
        else:
            if point is None:
                raise Fault(_CODES.BadContinuationPointInvalid)
            body, count, state = await _stepped(state, point, source, share.most)
            kind = encoding.HISTORY_DATA
        mark = b""
        code = 0 if count else _CODES.GoodNoData
        if state is not None:
            mark = self.continuations.keep(call.session, (wanted.node, state), _large_of(state))
            code = _CODES.GoodMoreData
        return encoding.result(code, mark, body, kind), count

    def _checked(
        self, user: User, request: HistoryRequest, wanted: Wanted, source: Source | None
    ) -> PointDef | None:
        """The point of a node, None for one with events. Raises Fault where it can't be read."""
        point, node = self._point(wanted.node), wanted.node
        is_events = isinstance(request.details, EventDetails)
        if point is None and not self._known(node):
            raise Fault(_CODES.BadNodeIdUnknown)
        if is_events:
            fits = self._events is not None and node in self._events.nodes
        else:
            fits = point is not None
        if source is None or not fits:
            raise Fault(_CODES.BadHistoryOperationUnsupported)
        if not self._may_read(user, point.tag if point is not None else ""):
            raise Fault(_CODES.BadUserAccessDenied)
        if wanted.index_range:
            raise Fault(_CODES.BadIndexRangeNoData)
        if wanted.encoding not in ("", "Default Binary"):
            raise Fault(_CODES.BadDataEncodingUnsupported)
        if request.timestamps == ua.TimestampsToReturn.Server and not is_events:
            raise Fault(_CODES.BadTimestampNotSupported)
        return point

    def _point(self, node: ua.NodeId) -> PointDef | None:
        if node.NamespaceIndex != NAMESPACE or not isinstance(node.Identifier, str):
            return None
        index = self._values.index.get(node.Identifier)
        return None if index is None else self._values.points[index - 1]

    def _begin(
        self, request: HistoryRequest, at: int, point: PointDef | None, source: Source
    ) -> State:
        details = request.details
        if isinstance(details, EventDetails):
            assert self._events is not None
            if source.filter is None:
                source.filter = EventFilter.parse(details.filter, self._events.types)
            found, _, code = source.filter
            if found is None:
                raise Fault(code)
            return past.review_of(details, request.wanted[at].node, found)
        assert point is not None
        defaults = Configuration(stepped=stepped(point))
        if isinstance(details, RawDetails):
            return raw.walk_of(details, point.tag)
        if isinstance(details, AtTimeDetails):
            return processed.moments_of(details, point.tag, defaults)
        fault = configuration_fault(details.configuration)
        if fault:
            raise Fault(fault)
        return processed.course_of(details, details.aggregates[at], point.tag, defaults)


def _large_of(state: State) -> object:
    """What of a state takes more than some hundred bytes; None = nothing."""
    if isinstance(state, Moments):
        return state.asked
    return state.filter if isinstance(state, Review) else None


def _kind(form: Form, point: PointDef) -> ua.VariantType:
    """What an aggregate's values travel as."""
    own = data_type(point)
    if form == "source":
        return own
    if form == "count":
        return ua.VariantType.Int32
    if form == "signed" and own != ua.VariantType.Double:
        return ua.VariantType.Int64
    return ua.VariantType.Double


async def _stepped(
    state: Walk | Course | Moments, point: PointDef, source: Source, budget: int
) -> tuple[bytes, int, Any]:
    """Encoded values, how many, and the state behind them; None = there are no more."""
    kind = data_type(point)
    after: Walk | Course | Moments | None
    if isinstance(state, Walk):
        rows, after = await raw.step(state, source, budget)
        found = Found(rows["utc_ns"], rows["value"], rows["status"])
    elif isinstance(state, Moments):
        found, after = await processed.step_moments(state, source, budget)
    else:
        kind = _kind(state.aggregate.form, point)
        found, after = await processed.step(state, source, budget)
    arguments = (found.time, found.value, found.status, kind)
    if len(found.time) < processed.THREAD_ROWS:
        return encoding.data_values(*arguments), len(found.time), after
    body = await asyncio.to_thread(encoding.data_values, *arguments)
    return body, len(found.time), after
