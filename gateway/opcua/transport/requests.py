"""Requests of one connection: who serves them, and how they are answered (OPC 10000-4, 5.3)."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import Any, Final, Protocol

from asyncua import ua
from asyncua.ua import ua_binary
from asyncua.ua.ua_binary import nodeid_from_binary, struct_from_binary, struct_to_binary

from gateway.core.clock import Clock
from gateway.opcua.service import Call, Fault, Services
from gateway.opcua.transport.bounded import Bounded, request_header
from gateway.opcua.transport.channel import Channel, utc_time
from gateway.opcua.transport.discovery import find_servers, get_endpoints
from gateway.opcua.transport.gate import Gate
from gateway.opcua.transport.limits import (
    IN_WORK_MAX,
    PARKED_MAX,
    READS_MAX,
    STRANGER_READS_MAX,
)
from gateway.opcua.transport.openings import Openings
from gateway.opcua.transport.session import Session
from gateway.opcua.transport.sessions import Sessions
from gateway.opcua.transport.shares import Account, Shares

log = logging.getLogger("gatepost.link")

_IDS: Final = ua.ObjectIds
_CODES: Final = ua.StatusCodes
_CREATE: Final = _IDS.CreateSessionRequest_Encoding_DefaultBinary
_ACTIVATE: Final = _IDS.ActivateSessionRequest_Encoding_DefaultBinary
_CLOSE: Final = _IDS.CloseSessionRequest_Encoding_DefaultBinary
_CANCEL: Final = _IDS.CancelRequest_Encoding_DefaultBinary
_ENDPOINTS: Final = _IDS.GetEndpointsRequest_Encoding_DefaultBinary
_SERVERS: Final = _IDS.FindServersRequest_Encoding_DefaultBinary
_DECODERS: Final = frozenset(("decode", "decode_union", "deserialize", "_deserialize", "unpack"))
_FAULTS_LOGGED_MAX: Final = 100


class Hub:
    """What all connections share.

    services  who serves which request; set before the first connection
    url       the server's address
    """

    def __init__(self, gate: Gate, sessions: Sessions, openings: Openings, clock: Clock) -> None:
        self.gate = gate
        self.sessions = sessions
        self.openings = openings
        self.clock = clock
        self.services: Services = {}
        self.url = ""
        self._logged: set[str] = set()

    @property
    def shares(self) -> Shares:
        """Computing time."""
        return self.sessions.shares

    def log_fault(self, number: int, error: Exception) -> None:
        """A fault of ours: told once for each kind, not as often as clients like.

        number  of the request's encoding that met it; 0 = the connection's own work did
        """
        key = f"{number} {type(error).__name__}"
        if key not in self._logged and len(self._logged) < _FAULTS_LOGGED_MAX:
            self._logged.add(key)
            log.error("OPC UA: a request of type %d can't be served", number, exc_info=error)


class Line(Protocol):
    """The connection."""

    channel: Channel
    account: Account
    is_admitted: bool

    def admitted(self) -> None:
        """A session is active on it."""

    def left(self, session: Session) -> None:
        """A session goes on on another connection."""

    def send(self, request_id: int, body: bytes) -> None:
        """Send an answer."""

    def again(self) -> None:
        """There is room for a request once more."""


class _Pending:
    """A request that is not answered yet."""

    def __init__(self, requests: Requests, request_id: int, header: ua.RequestHeader) -> None:
        self.header = header
        self.done = False
        self.parked = False  # its service answers later
        self.call: Call | None = None
        self.bytes_max = 0
        self._requests = requests
        self._id = request_id

    def end(self) -> None:
        """No answer any more."""
        self.done = True
        if self.call is not None:
            self.call.done = True

    def answer(self, response: Any) -> None:
        """Send a response, once."""
        if not self.done:
            body = response if isinstance(response, bytes) else self._encoded(response)
            self._send(body)

    def fault(self, code: int) -> None:
        """Send a ServiceFault."""
        if not self.done:
            self._send(self._encoded(_fault(code)))

    def _encoded(self, response: Any) -> bytes:
        head = response.ResponseHeader
        head.RequestHandle = self.header.RequestHandle
        head.Timestamp = utc_time(self._requests.hub.clock.utc_ns())
        return struct_to_binary(response)

    def _send(self, body: bytes) -> None:
        self.end()
        fits = self._requests.line.channel.fits(len(body))
        if not fits or (self.bytes_max and len(body) > self.bytes_max):
            body = self._encoded(_fault(_CODES.BadResponseTooLarge))
        self._requests.answered(self._id)
        self._requests.line.send(self._id, body)


class Requests:
    """The requests of one connection."""

    def __init__(self, hub: Hub, line: Line) -> None:
        self.hub = hub
        self.line = line
        self._pending: dict[int, _Pending] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def has_room(self) -> bool:
        """True where one more may be begun."""
        return len(self._tasks) < IN_WORK_MAX

    def answered(self, request_id: int) -> None:
        """A request is off the list."""
        self._pending.pop(request_id, None)

    def start(self, request_id: int, body: bytes) -> None:
        """Begin with a request; its first step comes with the loop's next turn."""
        data = Bounded(body, READS_MAX if self.line.is_admitted else STRANGER_READS_MAX)
        try:
            kind = nodeid_from_binary(data)
            header = request_header(data)
        except (Fault, ua.UaError, ValueError):
            header = ua.RequestHeader()
            _Pending(self, request_id, header).fault(_CODES.BadDecodingError)
            return
        pending = _Pending(self, request_id, header)
        if len(self._pending) >= PARKED_MAX + IN_WORK_MAX or request_id in self._pending:
            pending.fault(_CODES.BadTooManyOperations)
            return
        self._pending[request_id] = pending
        own = not kind.NamespaceIndex and isinstance(kind.Identifier, int)
        number = int(kind.Identifier) if own else 0
        work = self.hub.shares.metered(self._serve(pending, number, data), self.line.account)
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self.line.again()

    async def _serve(self, pending: _Pending, number: int, body: Bounded) -> None:
        """The supervisor of a request: whatever happens, it has one answer."""
        try:
            response = await self._response(pending, number, body)
            if response is None:
                pending.parked = True
            else:
                pending.answer(response)
        except Fault as fault:
            pending.fault(fault.code)
        except Exception as error:
            if _is_decoding(error):
                pending.fault(_CODES.BadDecodingError)
            else:
                self.hub.log_fault(number, error)
                pending.fault(_CODES.BadInternalError)

    async def _response(self, pending: _Pending, number: int, body: Bounded) -> Any:
        hub, header, line = self.hub, pending.header, self.line
        token = header.AuthenticationToken
        if number == _ENDPOINTS:
            return get_endpoints(hub.gate, hub.url, body)
        if number == _SERVERS:
            return find_servers(hub.gate, hub.url, body)
        if number == _CREATE:
            return await hub.sessions.create(line, body, hub.url)
        if number == _ACTIVATE:
            return await hub.sessions.activate(line, token, body)
        if number == _CLOSE:
            return hub.sessions.close(line, token, body)
        entry = hub.sessions.entry(token, line.channel)
        pending.bytes_max = entry.response_bytes_max
        if number == _CANCEL:
            return self._cancel(token, struct_from_binary(ua.CancelParameters, body))
        service = hub.services.get(number)
        if service is None:
            raise Fault(_CODES.BadServiceUnsupported)
        pending.call = Call(entry.session, header, body, pending.answer, pending.fault)
        pending.call.meter = partial(hub.shares.metered, account=line.account)
        limits = (pending.bytes_max, line.channel.bytes_max)
        pending.call.bytes_max = min((one for one in limits if one), default=0)
        return await service(pending.call)

    def _cancel(self, token: ua.NodeId, asked: ua.CancelParameters) -> ua.CancelResponse:
        """Cancel (OPC 10000-4, 5.7.5): what waits is answered now, what is done is done."""
        found = [
            pending
            for pending in self._pending.values()
            if pending.header.RequestHandle == asked.RequestHandle
            and pending.header.AuthenticationToken == token
            and pending.call is not None
        ]
        for pending in found:
            pending.fault(_CODES.BadRequestCancelledByClient)
        answer = ua.CancelResponse()
        answer.Parameters.CancelCount = ua.UInt32(len(found))
        return answer

    def left(self, session: Session) -> None:
        """A session moved to another connection: what it parked here is answered, and no more."""
        for pending in list(self._pending.values()):
            if pending.parked and pending.call is not None and pending.call.session is session:
                pending.fault(_CODES.BadSecureChannelIdInvalid)

    def stop(self) -> None:
        """The connection is gone."""
        for pending in self._pending.values():
            pending.end()
        self._pending.clear()
        for task in self._tasks:
            task.cancel()


def _fault(code: int) -> ua.ServiceFault:
    fault = ua.ServiceFault()
    fault.ResponseHeader.ServiceResult = ua.StatusCode(ua.UInt32(code))
    return fault


def _is_decoding(error: Exception) -> bool:
    """True where the library's decoder raised it: the message is wrong, not we."""
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        known = code.co_name in _DECODERS or code.co_name.endswith("from_binary")
        if known and code.co_filename == ua_binary.__file__:
            return True
        trace = trace.tb_next
    return False
