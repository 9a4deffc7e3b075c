"""An SCPI instrument on VXI-11: links, writes and reads as remote procedure calls.

Source: VXI-11 revision 1.0 (VXIbus Consortium), section B.6, on ONC RPC version 2 (RFC 5531) with
its record marks. There is no port mapper: a client has to know the port. Locks, interrupts and the
abort channel are not offered.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Final

from drivers.sim.listener import Listener, Session
from drivers.sim.scpi_server import LINE_BYTES_MAX, Handler, split_messages

CALL_HEAD: Final = struct.Struct(">IIIIII")  # xid, call, RPC version, program, version, procedure
LAST_FRAGMENT: Final = 0x80000000
RPC_VERSION: Final = 2
DEVICE_CORE: Final = 0x0607AF

CREATE_LINK: Final = 10
WRITE: Final = 11
READ: Final = 12
CLEAR: Final = 15
DESTROY_LINK: Final = 23

ACCEPTED: Final = 0
PROGRAM_UNAVAILABLE: Final = 1
PROCEDURE_UNAVAILABLE: Final = 3

IO_TIMEOUT: Final = 15
REASON_REQUESTED: Final = 1
REASON_END: Final = 4


def opaque(data: bytes) -> bytes:
    """Bytes of variable length in XDR."""
    return struct.pack(">I", len(data)) + data + b"\0" * (-len(data) % 4)


class Vxi11Server(Listener):
    """An instrument whose behaviour is a function: message in, answer out, None for no answer."""

    def __init__(self, handler: Handler, *, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(host=host, port=port)
        self.handler = handler

    def session(self) -> Session:
        """The protocol object of a new connection."""
        return _Client(self)


class _Client(Session):
    """One connection, with one link."""

    def __init__(self, server: Vxi11Server) -> None:
        super().__init__(server)
        self.server = server
        self._output = b""
        self._reading: tuple[int, int] | None = None  # xid and size of a read that waits
        self._overdue: asyncio.TimerHandle | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget what waits."""
        if self._overdue is not None:
            self._overdue.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Cut the stream into calls; closes where it is none."""
        self.buffer += data
        while len(self.buffer) >= 4:
            (mark,) = struct.unpack_from(">I", self.buffer)
            length = mark & ~LAST_FRAGMENT
            if not mark & LAST_FRAGMENT or length > LINE_BYTES_MAX:
                self.drop()
                return
            if len(self.buffer) < 4 + length:
                return
            call = bytes(self.buffer[4 : 4 + length])
            del self.buffer[: 4 + length]
            try:
                self._take(call)
            except struct.error:
                self.drop()
                return

    def _take(self, call: bytes) -> None:
        xid, _, version, program, _, procedure = CALL_HEAD.unpack_from(call)
        at = CALL_HEAD.size
        for _ in range(2):  # credentials and verifier
            (size,) = struct.unpack_from(">I", call, at + 4)
            at += 8 + size + (-size % 4)
        if version != RPC_VERSION or program != DEVICE_CORE:
            self._reply(xid, b"", PROGRAM_UNAVAILABLE)
        elif procedure == CREATE_LINK:
            self._reply(xid, struct.pack(">IIII", 0, 1, 0, LINE_BYTES_MAX))
        elif procedure == WRITE:
            *_, size = struct.unpack_from(">IIIII", call, at)
            self._write(call[at + 20 : at + 20 + size].decode("ascii", "replace"))
            self._reply(xid, struct.pack(">II", 0, size))
        elif procedure == READ:
            _, size, timeout_ms, *_ = struct.unpack_from(">IIIIII", call, at)
            self._reading = (xid, size)
            loop = asyncio.get_running_loop()
            self._overdue = loop.call_later(timeout_ms / 1000, self._give_up)
            self._serve_read()
        elif procedure in (CLEAR, DESTROY_LINK):
            self._output = b""
            self._reply(xid, struct.pack(">I", 0))
        else:
            self._reply(xid, b"", PROCEDURE_UNAVAILABLE)

    def _write(self, text: str) -> None:
        server = self.server
        server.requests += 1
        self._output = b""
        if server.faults.silent or server.faults.exception_code:
            return
        answers = [server.handler(part) for part in split_messages(text.rstrip("\r\n"))]
        line = ";".join(answer for answer in answers if answer is not None)
        if line:
            data = line.encode("ascii", "replace") + b"\n"
            asyncio.get_running_loop().call_later(server.faults.delay_s, self._ready, data)

    def _ready(self, data: bytes) -> None:
        self._output = data
        self._serve_read()

    def _serve_read(self) -> None:
        if self._reading is None or not self._output:
            return
        xid, size = self._end_read()
        data, self._output = self._output[:size], self._output[size:]
        reason = REASON_REQUESTED if self._output else REASON_END
        self._reply(xid, struct.pack(">II", 0, reason) + opaque(data))

    def _give_up(self) -> None:
        if self._reading is not None:
            xid, _ = self._end_read()
            self._reply(xid, struct.pack(">II", IO_TIMEOUT, 0) + opaque(b""))

    def _end_read(self) -> tuple[int, int]:
        assert self._reading is not None
        reading, self._reading = self._reading, None
        if self._overdue is not None:
            self._overdue.cancel()
        return reading

    def _reply(self, xid: int, result: bytes, status: int = ACCEPTED) -> None:
        body = struct.pack(">IIIIII", xid, 1, 0, 0, 0, status) + result
        if self.transport is not None:
            mark = struct.pack(">I", LAST_FRAGMENT | len(body))
            self.transport.write(mark + self.listener.faults.spoil(body))
