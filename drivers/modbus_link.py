"""A pipelined Modbus TCP client: frames out, answers matched by transaction number.

Source: MODBUS Messaging on TCP/IP Implementation Guide V1.0b. Several transactions may be in
flight on one connection; the late answer of one that timed out is known by its number and
dropped. A frame that can't be an answer to anything asked ends the connection, because nothing
behind it can be trusted.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass
from typing import Final, cast

from drivers.errors import DriverError, Garbled, NoAnswer, NotConnected, Refused

HEADER: Final = struct.Struct(">HHHB")  # transaction, protocol, length, unit
LENGTH_MIN: Final = 3  # unit, function, one byte
LENGTH_MAX: Final = 254
LATE_MAX: Final = 256  # unanswered transactions that are remembered, a connection
SILENT_MAX: Final = 3  # transactions without an answer in a row, then the connection is given up

EXCEPTIONS: Final[dict[int, tuple[str, bool]]] = {
    # code: (name, permanent)
    1: ("illegal function", True),
    2: ("illegal data address", True),
    3: ("illegal data value", True),
    4: ("device failure", False),
    5: ("acknowledged, still working", False),
    6: ("device busy", False),
    8: ("memory parity error", False),
    10: ("gateway path unavailable", False),
    11: ("gateway target did not respond", False),
}


@dataclass(slots=True)
class _Transaction:
    """What was asked, and what its answer must look like.

    size     exact length of the answer's PDU
    opening  bytes that the PDU must begin with: function and byte count, or the echo of a write
    """

    future: asyncio.Future[bytes]
    timer: asyncio.TimerHandle
    unit: int
    function: int
    size: int
    opening: bytes


class ModbusLink(asyncio.Protocol):
    """One connection. `ask` raises DriverError and nothing else."""

    def __init__(self, timeout_s: float, depth: int) -> None:
        self._timeout_s = timeout_s
        self._turns = asyncio.Semaphore(depth)
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._open: dict[int, _Transaction] = {}
        self._late: dict[int, None] = {}  # in the order of their timeouts
        self._number = 0
        self._silent = 0
        self._end: DriverError = NotConnected("not connected")
        self.late_dropped = 0

    @property
    def connected(self) -> bool:
        """True while requests can be sent."""
        return self._transport is not None

    async def ask(self, unit: int, pdu: bytes, size: int, opening: bytes) -> bytes:
        """Send a request and return the whole PDU of its answer, checked for size and opening.

        Raises NotConnected, NoAnswer, Refused (an exception answer) or Garbled.
        """
        async with self._turns:
            if self._transport is None:
                raise NotConnected(str(self._end))
            loop = asyncio.get_running_loop()
            number = self._next_number()
            timer = loop.call_later(self._timeout_s, self._expire, number)
            future: asyncio.Future[bytes] = loop.create_future()
            self._open[number] = _Transaction(future, timer, unit, pdu[0], size, opening)
            self._transport.write(HEADER.pack(number, 0, len(pdu) + 1, unit) + pdu)
            try:
                return await future
            finally:
                timer.cancel()
                if self._open.pop(number, None) is not None:  # cancelled while waiting
                    self._remember_late(number)

    def close(self, reason: DriverError | None = None) -> None:
        """End the connection; whoever waits gets `reason`."""
        transport, self._transport = self._transport, None
        if transport is None:
            return
        self._end = reason or NotConnected("the connection was closed")
        if transport.get_write_buffer_size():
            transport.abort()  # the peer takes nothing any more: don't wait for it
        else:
            transport.close()
        self._buffer.clear()
        self._late.clear()
        for transaction in list(self._open.values()):
            if not transaction.future.done():
                transaction.future.set_exception(_again(self._end))
        self._open.clear()

    # ------------------------------------------------------------ asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep-alive lets the system find a dead peer of an idle connection."""
        # uvloop's transports don't derive from asyncio's, whatever they do.
        self._transport = cast(asyncio.Transport, transport)
        raw = transport.get_extra_info("socket")
        if raw is not None:
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def connection_lost(self, exc: Exception | None) -> None:
        """The peer closed, or the system gave the connection up."""
        self.close(NotConnected(f"the device closed the connection{f' ({exc})' if exc else ''}"))

    def data_received(self, data: bytes) -> None:
        """Cut the stream into frames, however it was split or joined on the way."""
        if self._transport is None:
            return
        buffer = self._buffer
        buffer += data
        start = 0
        while len(buffer) - start >= HEADER.size:
            number, protocol, length, unit = HEADER.unpack_from(buffer, start)
            if protocol != 0 or not LENGTH_MIN <= length <= LENGTH_MAX:
                self.close(Garbled(f"no Modbus header: {buffer[start : start + 7].hex(' ')}"))
                return
            end = start + 6 + length
            if len(buffer) < end:
                break
            if not self._take(number, unit, bytes(buffer[start + HEADER.size : end])):
                return
            start = end
        if start:
            del buffer[:start]

    # ------------------------------------------------------------ transactions

    def _take(self, number: int, unit: int, pdu: bytes) -> bool:
        """Match one answer; false where the connection was ended over it."""
        self._silent = 0
        transaction = self._open.get(number)
        if transaction is None:
            if number in self._late:
                del self._late[number]
                self.late_dropped += 1
                return True
            self.close(Garbled(f"an answer to transaction {number}, which nobody asked"))
            return False
        error = _fault(transaction, unit, pdu)
        if isinstance(error, Garbled):
            self.close(error)
            return False
        del self._open[number]
        if transaction.future.done():  # cancelled in this very turn of the loop
            return True
        if error is not None:
            transaction.future.set_exception(error)
        else:
            transaction.future.set_result(pdu)
        return True

    def _expire(self, number: int) -> None:
        transaction = self._open.pop(number, None)
        if transaction is None:
            return
        self._silent += 1
        self._remember_late(number)
        error: DriverError = NoAnswer(
            f"no answer from unit {transaction.unit} within {self._timeout_s:g} s"
        )
        if self._buffer:
            error = Garbled(f"half a frame and then nothing: {bytes(self._buffer[:16]).hex(' ')}")
        if not transaction.future.done():
            transaction.future.set_exception(error)
        if self._buffer:
            self.close(error)
        elif self._silent >= SILENT_MAX:
            self.close(NotConnected(f"given up after {SILENT_MAX} requests without an answer"))

    def _remember_late(self, number: int) -> None:
        if self._transport is None:
            return
        self._late[number] = None
        if len(self._late) > LATE_MAX:
            self.close(NotConnected(f"given up: {LATE_MAX} requests were never answered"))

    def _next_number(self) -> int:
        """The next transaction number that no open or late transaction has."""
        while True:
            self._number = (self._number + 1) & 0xFFFF
            if self._number not in self._open and self._number not in self._late:
                return self._number


def _fault(transaction: _Transaction, unit: int, pdu: bytes) -> DriverError | None:
    """What is wrong with an answer, or None."""
    if unit != transaction.unit:
        return Garbled(f"unit {unit} answered in place of unit {transaction.unit}")
    if pdu[0] == transaction.function | 0x80 and len(pdu) == 2:
        code = pdu[1]
        name, permanent = EXCEPTIONS.get(code, ("unknown exception", False))
        text = f"function {transaction.function} refused: {name} (code {code})"
        return Refused(text, code=code, permanent=permanent)
    if pdu[0] != transaction.function:
        return Garbled(f"an answer of function {pdu[0]} to function {transaction.function}")
    if len(pdu) != transaction.size or not pdu.startswith(transaction.opening):
        return Garbled(f"an answer of {len(pdu)} bytes that does not match: {pdu[:8].hex(' ')}")
    return None


def _again(error: DriverError) -> DriverError:
    """The same error as a new object: one exception raised twice would share its traceback."""
    return type(error)(str(error))


async def open_link(host: str, port: int, timeout_s: float, depth: int) -> ModbusLink:
    """Connect. Raises NotConnected where that fails or takes longer than `timeout_s`."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_s):
            _, link = await loop.create_connection(lambda: ModbusLink(timeout_s, depth), host, port)
    except TimeoutError:
        raise NotConnected(f"{host}:{port} did not take a connection in {timeout_s:g} s") from None
    except (OSError, ValueError) as error:  # ValueError: a host name that is none
        raise NotConnected(f"{host}:{port}: {error}") from error
    return link
