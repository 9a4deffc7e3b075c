"""An OptoMMP client over TCP: read and write the memory map of an Opto 22 controller.

Packets are IEEE 1394 asynchronous ones, big-endian, as Opto 22's OptoMMP Protocol Guide (form
1465) and its header O22SIOMM.h have them. One request is in flight; the six-bit transaction label
ties an answer to it, and the late answer of one that timed out is dropped.
"""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass
from typing import Final, cast

from drivers.contract import Tap
from drivers.errors import DriverError, Garbled, NoAnswer, NotConnected, Refused
from drivers.keep_alive import keep_alive

WRITE_QUADLET: Final = 0
WRITE_BLOCK: Final = 1
WRITE_ANSWER: Final = 2
READ_QUADLET: Final = 4
READ_BLOCK: Final = 5
READ_QUADLET_ANSWER: Final = 6
READ_BLOCK_ANSWER: Final = 7

HEAD_BYTES: Final = 12  # of every packet
LONG_HEAD_BYTES: Final = 16  # of a block: head, length, extended code
_REQUEST: Final = struct.Struct(">HBBHHI")  # destination, label, code, source, offset in two parts
_ANSWER: Final = struct.Struct(">HBBHB5x")  # destination, label, code, source, response code
_LENGTH: Final = struct.Struct(">HH")  # length, extended code
_UPPER: Final = 0xFFFF  # of the 48-bit offset
_LABELS: Final = 64

LATE_MAX: Final = 32  # unanswered requests that are remembered, a connection
SILENT_MAX: Final = 3  # requests without an answer in a row, then the connection is given up
BLOCK_BYTES_MAX: Final = 4096  # no request asks for more

LAST_ERROR: Final = 0xF030000C

# Last error of the device: (name, permanent).
ERRORS: Final[dict[int, tuple[str, bool]]] = {
    0xE001: ("undefined command", True),
    0xE002: ("invalid point type", True),
    0xE003: ("invalid float", True),
    0xE004: ("power-up clear expected", False),
    0xE005: ("invalid memory address or data", True),
    0xE006: ("invalid command length", True),
    0xE008: ("busy", False),
    0xE00E: ("not implemented", True),
    0xE00F: ("communication watchdog", False),
}
POWER_UP_CLEAR_EXPECTED: Final = 0xE004


class Nak(Exception):
    """The device answered with a response code other than 0; its last error says why."""

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(f"response code {code}")


@dataclass(slots=True)
class _Exchange:
    """What was asked: `code` and `size` (bytes of data) that its answer must have."""

    future: asyncio.Future[bytes]
    label: int
    code: int
    size: int


class OptoLink(asyncio.Protocol):
    """One connection. `read` and `write` raise DriverError and nothing else."""

    def __init__(self, timeout_s: float, tap: Tap | None) -> None:
        self._timeout_s = timeout_s
        self._tap = tap
        self._turn = asyncio.Lock()
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._open: _Exchange | None = None
        self._late: dict[int, None] = {}  # labels, in the order of their time-outs
        self._label = 0
        self._silent = 0
        self._end: DriverError = NotConnected("not connected")

    async def read(self, address: int, size: int) -> bytes:
        """`size` bytes of the memory map. A single quadlet is asked for as such."""
        assert 1 <= size <= BLOCK_BYTES_MAX
        if size == 4:
            code, answer, tail = READ_QUADLET, READ_QUADLET_ANSWER, b""
        else:
            code, answer, tail = READ_BLOCK, READ_BLOCK_ANSWER, _LENGTH.pack(size, 0)
        what = f"read {size} bytes at {address:08X}"
        async with self._turn:
            return await self._explained(code, address, tail, answer, size, what)

    async def write(self, address: int, data: bytes) -> None:
        """Put bytes into the memory map; returns after the device accepted them."""
        assert 1 <= len(data) <= BLOCK_BYTES_MAX
        code = WRITE_QUADLET if len(data) == 4 else WRITE_BLOCK
        tail = data if len(data) == 4 else _LENGTH.pack(len(data), 0) + data
        what = f"write {len(data)} bytes at {address:08X}"
        async with self._turn:
            await self._explained(code, address, tail, WRITE_ANSWER, 0, what)

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
        exchange, self._open = self._open, None
        if exchange is not None and not exchange.future.done():
            exchange.future.set_exception(type(self._end)(str(self._end)))

    # ------------------------------------------------------------ exchanges

    async def _explained(
        self, code: int, address: int, tail: bytes, answer: int, size: int, what: str
    ) -> bytes:
        """One exchange; where the device refuses it, its last error is fetched."""
        try:
            return await self._exchange(code, address, tail, answer, size, what)
        except Nak as nak:
            code = nak.code
        try:
            data = await self._exchange(
                READ_QUADLET, LAST_ERROR, b"", READ_QUADLET_ANSWER, 4, "read the last error"
            )
        except Nak:
            raise Refused(f"{what}: refused with code {code}", code=code) from None
        error = int.from_bytes(data, "big") & 0xFFFF
        name, permanent = ERRORS.get(error, ("unknown error", False))
        text = f"{what}: {name} (error {error:04X})"
        if error == POWER_UP_CLEAR_EXPECTED:
            # It lost its power and forgot its outputs: begin anew, as after any other restart.
            self.close(NotConnected(text))
            raise NotConnected(text)
        raise Refused(text, code=error, permanent=permanent)

    async def _exchange(
        self, code: int, address: int, tail: bytes, answer: int, size: int, what: str
    ) -> bytes:
        if self._transport is None:
            raise NotConnected(str(self._end))
        loop = asyncio.get_running_loop()
        label = self._next_label()
        packet = _REQUEST.pack(0, label << 2, code << 4, 0, _UPPER, address) + tail
        exchange = _Exchange(loop.create_future(), label, answer, size)
        timer = loop.call_later(self._timeout_s, self._expire, exchange)
        self._open = exchange
        if self._tap is not None:
            self._tap.frame(True, packet, f"{what}, label {label}")
        self._transport.write(packet)
        try:
            return await exchange.future
        finally:
            timer.cancel()
            if self._open is exchange:  # cancelled while waiting
                self._open = None
                self._remember_late(label)

    def _expire(self, exchange: _Exchange) -> None:
        if self._open is not exchange:
            return
        self._open = None
        self._silent += 1
        self._remember_late(exchange.label)
        error: DriverError = NoAnswer(f"no answer within {self._timeout_s:g} s")
        if self._buffer:
            error = Garbled(f"half a packet and then nothing: {bytes(self._buffer[:16]).hex(' ')}")
        if not exchange.future.done():
            exchange.future.set_exception(error)
        if self._buffer:
            self.close(error)
        elif self._silent >= SILENT_MAX:
            self.close(NotConnected(f"given up after {SILENT_MAX} requests without an answer"))

    def _remember_late(self, label: int) -> None:
        if self._transport is None:
            return
        self._late[label] = None
        if len(self._late) > LATE_MAX:
            self.close(NotConnected(f"given up: {LATE_MAX} requests were never answered"))

    def _next_label(self) -> int:
        """The next label that no late request has."""
        while True:
            self._label = (self._label + 1) % _LABELS
            if self._label not in self._late:
                return self._label

    # ------------------------------------------------------------ asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep-alive lets the system find a dead peer of an idle connection."""
        # uvloop's transports don't derive from asyncio's, whatever they do.
        self._transport = cast(asyncio.Transport, transport)
        keep_alive(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """The peer closed, or the system gave the connection up."""
        self.close(NotConnected(f"the device closed the connection{f' ({exc})' if exc else ''}"))

    def data_received(self, data: bytes) -> None:
        """Cut the stream into packets, however it was split or joined on the way."""
        if self._transport is None:
            return
        buffer = self._buffer
        buffer += data
        while len(buffer) >= HEAD_BYTES:
            try:
                size = packet_size(buffer)
            except Garbled as error:
                self.close(error)
                return
            if size is None or len(buffer) < size:
                break
            packet = bytes(buffer[:size])
            del buffer[:size]
            if not self._take(packet):
                return

    def _take(self, packet: bytes) -> bool:
        """Match one answer; false where the connection was ended over it."""
        _, label, code, _, response = _ANSWER.unpack_from(packet)
        label, code, response = label >> 2, code >> 4, response >> 4
        if self._tap is not None:
            self._tap.frame(False, packet, f"answer to label {label}, response code {response}")
        self._silent = 0
        exchange = self._open
        if exchange is None or exchange.label != label:
            if label in self._late:
                del self._late[label]
                return True
            self.close(Garbled(f"an answer with label {label}, which nobody asked"))
            return False
        if code != exchange.code:
            self.close(Garbled(f"an answer of code {code} in place of {exchange.code}"))
            return False
        data = packet[HEAD_BYTES:] if code == READ_QUADLET_ANSWER else packet[LONG_HEAD_BYTES:]
        if response == 0 and len(data) != exchange.size:
            self.close(Garbled(f"{len(data)} bytes in place of {exchange.size}"))
            return False
        self._open = None
        if not exchange.future.done():  # else cancelled in this very turn of the loop
            if response:
                exchange.future.set_exception(Nak(response))
            else:
                exchange.future.set_result(data)
        return True


def packet_size(buffer: bytes | bytearray) -> int | None:
    """Bytes of the answer that begins here; None where too few are there to tell.

    Raises Garbled where no answer begins so.
    """
    code = buffer[3] >> 4
    if code == WRITE_ANSWER:
        return HEAD_BYTES
    if code == READ_QUADLET_ANSWER:
        return HEAD_BYTES + 4
    if code != READ_BLOCK_ANSWER:
        raise Garbled(f"no OptoMMP answer: {bytes(buffer[:HEAD_BYTES]).hex(' ')}")
    if len(buffer) < LONG_HEAD_BYTES:
        return None
    length, _ = _LENGTH.unpack_from(buffer, HEAD_BYTES)
    if length > BLOCK_BYTES_MAX:
        raise Garbled(f"an answer of {length} bytes, which nobody asked for")
    return LONG_HEAD_BYTES + int(length)


async def open_link(host: str, port: int, timeout_s: float, tap: Tap | None = None) -> OptoLink:
    """Connect. Raises NotConnected where that fails or takes longer than `timeout_s`."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_s):
            _, link = await loop.create_connection(lambda: OptoLink(timeout_s, tap), host, port)
    except TimeoutError:
        raise NotConnected(f"{host}:{port} did not take a connection in {timeout_s:g} s") from None
    except (OSError, ValueError) as error:  # ValueError: a host name that is none
        raise NotConnected(f"{host}:{port}: {error}") from error
    return link
