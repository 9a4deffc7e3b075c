"""An SCPI instrument on HiSLIP: a synchronous and an asynchronous channel a session.

Source: IVI-6.1, High-Speed LAN Instrument Protocol, revision 1.1 (message headers in section 2,
initialization in section 6.1, clearing in 6.12). Locks, service requests and the overlap mode are
not offered.
"""

from __future__ import annotations

import struct
from typing import Final

from drivers.sim.listener import Listener, Session
from drivers.sim.scpi_server import LINE_BYTES_MAX, Handler, split_messages

HEADER: Final = struct.Struct(">2sBBIQ")  # prologue, type, control code, parameter, length

INITIALIZE: Final = 0
INITIALIZE_RESPONSE: Final = 1
ERROR: Final = 3
DATA: Final = 6
DATA_END: Final = 7
CLEAR_COMPLETE: Final = 8
CLEAR_ACKNOWLEDGE: Final = 9
MAX_SIZE: Final = 15
MAX_SIZE_RESPONSE: Final = 16
ASYNC_INITIALIZE: Final = 17
ASYNC_INITIALIZE_RESPONSE: Final = 18
ASYNC_CLEAR: Final = 19
STATUS: Final = 21
STATUS_RESPONSE: Final = 22
ASYNC_CLEAR_ACKNOWLEDGE: Final = 23

VERSION: Final = 0x0100
UNRECOGNIZED: Final = 1


def message(kind: int, control: int = 0, parameter: int = 0, payload: bytes = b"") -> bytes:
    """One HiSLIP message."""
    return HEADER.pack(b"HS", kind, control, parameter, len(payload)) + payload


class HislipServer(Listener):
    """An instrument whose behaviour is a function: message in, answer out, None for no answer.

    `sessions` holds the synchronous channels; the asynchronous ones belong to them.
    """

    def __init__(self, handler: Handler, *, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(host=host, port=port)
        self.handler = handler
        self.numbers = 0  # sessions that were numbered
        self.asynchronous: dict[int, _Channel] = {}

    def session(self) -> Session:
        """The protocol object of a new connection."""
        return _Channel(self)

    async def stop(self) -> None:
        """Close the port and every connection; may be called twice."""
        for channel in list(self.asynchronous.values()):
            channel.drop()
        await super().stop()


class _Channel(Session):
    """One connection, of either kind."""

    def __init__(self, server: HislipServer) -> None:
        super().__init__(server)
        self.server = server
        self.number = 0
        self._text = bytearray()

    def connection_lost(self, exc: Exception | None) -> None:
        """The end of one channel is the end of both."""
        super().connection_lost(exc)
        if self.server.asynchronous.get(self.number) is self:
            del self.server.asynchronous[self.number]
        elif other := self.server.asynchronous.get(self.number):
            other.drop()

    def data_received(self, data: bytes) -> None:
        """Cut the stream into messages; closes where it is none."""
        self.buffer += data
        while len(self.buffer) >= HEADER.size:
            prologue, kind, _, parameter, length = HEADER.unpack_from(self.buffer)
            if prologue != b"HS" or length > LINE_BYTES_MAX:
                self.drop()
                return
            end = HEADER.size + length
            if len(self.buffer) < end:
                return
            payload = bytes(self.buffer[HEADER.size : end])
            del self.buffer[:end]
            self._take(kind, parameter, payload)

    def _take(self, kind: int, parameter: int, payload: bytes) -> None:
        if kind == INITIALIZE:
            self.server.numbers += 1
            self.number = self.server.numbers & 0xFFFF
            self._control(message(INITIALIZE_RESPONSE, 0, VERSION << 16 | self.number))
        elif kind == ASYNC_INITIALIZE:
            self.number = parameter
            self.server.asynchronous[parameter] = self
            self.server.sessions.discard(self)
            self._control(message(ASYNC_INITIALIZE_RESPONSE))
        elif kind == MAX_SIZE:
            self._control(message(MAX_SIZE_RESPONSE, payload=struct.pack(">Q", LINE_BYTES_MAX)))
        elif kind == STATUS:
            self._control(message(STATUS_RESPONSE))
        elif kind == ASYNC_CLEAR:
            self._control(message(ASYNC_CLEAR_ACKNOWLEDGE))
        elif kind == CLEAR_COMPLETE:
            self._text.clear()
            self._control(message(CLEAR_ACKNOWLEDGE))
        elif kind in (DATA, DATA_END):
            self._text += payload
            if len(self._text) > LINE_BYTES_MAX:
                self.drop()
            elif kind == DATA_END:
                text = self._text.decode("ascii", "replace")
                self._text.clear()
                self._answer_to(text, parameter)
        else:
            self._control(message(ERROR, UNRECOGNIZED))

    def _control(self, data: bytes) -> None:
        """Faults spoil answers, and not what the protocol itself needs."""
        if self.transport is not None:
            self.transport.write(data)

    def _answer_to(self, text: str, number: int) -> None:
        server = self.server
        server.requests += 1
        if server.faults.silent or server.faults.exception_code:
            return
        answers = [server.handler(part) for part in split_messages(text.rstrip("\r\n"))]
        line = ";".join(answer for answer in answers if answer is not None)
        if line:
            payload = line.encode("ascii", "replace") + b"\n"
            self.answer(message(DATA_END, 0, number, payload))
