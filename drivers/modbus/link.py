"""A pipelined Modbus TCP client: frames out, answers matched by transaction number.

Source: MODBUS Messaging on TCP/IP Implementation Guide V1.0b. Several transactions may be in
flight on one connection, their answers may come in any order; the late answer of one that timed
out is known by its number and dropped. A frame that can't be an answer to anything asked ends the
connection, because nothing behind it can be trusted.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Final, cast

import numpy as np
from numpy.typing import NDArray

from drivers.contract import Part, Tap
from drivers.errors import DriverError, Garbled, NoAnswer, NotConnected, Refused
from drivers.keep_alive import keep_alive
from drivers.modbus.access import at_place
from drivers.modbus.cycle import REQUEST_BYTES, ModbusCycle, Reading
from drivers.modbus.words import answer_words, refusal, request_words
from gateway.core.clock import Clock

HEADER: Final = struct.Struct(">HHHB")  # transaction, protocol, length, unit
LENGTH_MIN: Final = 3  # unit, function, one byte
LENGTH_MAX: Final = 254
LATE_MAX: Final = 256  # unanswered transactions that are remembered, a connection
SILENT_MAX: Final = 3  # transactions without an answer in a row, then the connection is given up
WAITING_MAX: Final = 1024  # single requests that wait for their turn
READINGS_MAX: Final = 16  # readings at once
TOGETHER_S: Final = 0.001  # answers that come within this time are handed over together
STALL_SHARE: Final = 0.25  # of Timeout without a byte: half a frame will not become a whole one
NS_PER_S: Final = 1_000_000_000


@dataclass(slots=True, eq=False)
class _Transaction:
    """A single request, and what its answer must look like.

    size     exact length of the answer's PDU
    opening  bytes that the PDU must begin with: function and byte count, or the echo of a write
    """

    future: asyncio.Future[bytes]
    unit: int
    pdu: bytes
    size: int
    opening: bytes
    number: int = -1
    sent_ns: int = 0


class ModbusLink(asyncio.Protocol):
    """One connection. `ask` and `read` raise DriverError and nothing else."""

    def __init__(self, timeout_s: float, depth: int, clock: Clock, tap: Tap | None = None) -> None:
        self._timeout_s = timeout_s
        self._timeout_ns = round(timeout_s * NS_PER_S)
        self._depth = depth
        self._clock = clock
        self._tap = tap
        self._transport: asyncio.Transport | None = None
        self._put: Callable[[bytes], None] = self._put_and_show
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._buffer = bytearray()  # the stream, where no reading takes it in order
        self._received_ns = 0
        self._waiting: deque[_Transaction] = deque(maxlen=WAITING_MAX)
        self._open: dict[int, _Transaction] = {}
        self._readings: list[Reading] = []  # not yet settled; the newest is sent first
        self._late: dict[int, None] = {}  # in the order of their timeouts
        self._in_flight = 0
        self._handing = False  # a timer will wake those who read
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

        It goes ahead of the requests of `read` that were not sent yet. Raises NotConnected,
        NoAnswer, Refused (an exception answer) or Garbled.
        """
        if self._transport is None:
            raise NotConnected(str(self._end))
        if len(self._waiting) >= WAITING_MAX:
            raise Refused(f"{WAITING_MAX} requests are waiting already")
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        transaction = _Transaction(future, unit, pdu, size, opening)
        self._waiting.append(transaction)
        self._send(self._clock.monotonic_ns())
        try:
            return await future
        finally:
            if transaction.number in self._open:  # cancelled while waiting
                del self._open[transaction.number]
                self._owed([transaction.number])
                self._send(self._clock.monotonic_ns())
            elif transaction in self._waiting:
                self._waiting.remove(transaction)

    async def read(self, cycle: ModbusCycle) -> AsyncIterator[Part]:
        """Read a whole cycle; see drivers.contract.Driver."""
        block = 0
        for sheet in cycle.sheets:
            if self._transport is None:
                raise NotConnected(str(self._end))
            assert len(self._readings) < READINGS_MAX, "readings inside readings"
            reading = Reading(sheet, self._numbers(len(sheet.requests)))
            self._readings.append(reading)
            try:
                self._send(self._clock.monotonic_ns())
                while True:
                    await reading.wait()
                    part = reading.part(block)
                    if part is not None:
                        yield part
                    elif reading.end is not None:
                        raise _again(reading.end)
                    if reading.is_taken:
                        break
            finally:
                self._leave(reading)
            block += reading.count

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
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for transaction in [*self._open.values(), *self._waiting]:
            if not transaction.future.done():
                transaction.future.set_exception(_again(self._end))
        for reading in self._readings:
            reading.end = self._end
            reading.wake()
        self._readings.clear()
        self._open.clear()
        self._waiting.clear()
        self._buffer.clear()
        self._late.clear()
        self._in_flight = 0

    # ------------------------------------------------------------ asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep-alive lets the system find a dead peer of an idle connection."""
        # uvloop's transports don't derive from asyncio's, whatever they do.
        self._transport = cast(asyncio.Transport, transport)
        self._put = self._put_and_show if self._tap is not None else self._transport.write
        keep_alive(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """The peer closed, or the system gave the connection up."""
        self.close(NotConnected(f"the device closed the connection{f' ({exc})' if exc else ''}"))

    def data_received(self, data: bytes) -> None:
        """Cut the stream into answers, however it was split or joined on the way."""
        if self._transport is None:
            return
        self._received_ns = now_ns = self._clock.monotonic_ns()
        reading = None if self._buffer else self._alone()
        if reading is not None:
            before = reading.settled
            data = reading.take(data)
            if reading.settled != before:
                self._in_flight -= reading.settled - before
                self._silent = 0
            if not data:
                self._send(now_ns)
                self._hand_over(reading)
                return
        else:
            for other in self._readings:
                self._buffer += other.spill()
        self._buffer += data
        if self._cut_frames():
            reading = self._alone() if self._buffer else None
            if reading is not None:  # what is left may be the beginning of the next in order
                self._buffer = bytearray(reading.take(bytes(self._buffer)))
            self._send(now_ns)
            for reading in self._readings:
                self._hand_over(reading)

    def _hand_over(self, reading: Reading) -> None:
        """Wake who reads: at the end, or soon, with what comes until then.

        With one request in flight at a time at once, so that a write goes ahead of the next.
        """
        if reading.settled == reading.count or self._depth == 1:
            reading.wake()
        elif reading.settled and not self._handing:
            self._handing = True
            self._loop.call_later(TOGETHER_S, self._wake)

    def _wake(self) -> None:
        self._handing = False
        for reading in self._readings:
            reading.wake()

    # ------------------------------------------------------------ sending

    def _send(self, now_ns: int) -> None:
        """Send as much as `Depth` allows: single requests first, then the newest reading."""
        room = self._depth - self._in_flight
        if room <= 0 or self._transport is None:
            return
        while room and self._waiting:
            transaction = self._waiting.popleft()
            if transaction.future.done():  # cancelled in this very turn of the loop
                continue
            transaction.number = number = self._next_number()
            transaction.sent_ns = now_ns
            self._open[number] = transaction
            head = HEADER.pack(number, 0, len(transaction.pdu) + 1, transaction.unit)
            self._put(head + transaction.pdu)
            room -= 1
        for reading in reversed(self._readings):
            first, last = reading.sent, min(reading.sent + room, reading.count)
            if first < last:
                reading.sent = last
                reading.sent_ns[first:last] = [now_ns] * (last - first)
                self._put(reading.frames[REQUEST_BYTES * first : REQUEST_BYTES * last])
                room -= last - first
        self._in_flight = self._depth - room
        if self._timer is None and self._in_flight:
            self._timer = self._loop.call_later(self._timeout_s, self._expire)

    def _put_and_show(self, data: bytes) -> None:
        assert self._transport is not None
        assert self._tap is not None
        self._transport.write(data)
        at = 0
        while at < len(data):
            end = at + 6 + int.from_bytes(data[at + 4 : at + 6], "big")
            unit, pdu = data[at + 6], data[at + 7 : end]
            self._tap.frame(True, data[at:end], request_words(unit, pdu))
            at = end

    def _numbers(self, count: int) -> NDArray[np.int64]:
        """The next transaction numbers that nothing else has."""
        if self._late or self._open or self._readings:
            busy = [*self._late, *self._open]
            for reading in self._readings:
                busy += reading.numbers.tolist()
            numbers = np.arange(self._number + 1, self._number + 1 + count + len(busy)) & 0xFFFF
            numbers = numbers[~np.isin(numbers, busy)][:count]
        else:
            numbers = np.arange(self._number + 1, self._number + 1 + count) & 0xFFFF
        self._number = int(numbers[-1])
        return numbers

    def _next_number(self) -> int:
        return int(self._numbers(1)[0])

    # ------------------------------------------------------------ answers

    def _alone(self) -> Reading | None:
        """The one reading there is, where its answers came in order so far."""
        if len(self._readings) != 1 or self._tap is not None:
            return None
        reading = self._readings[0]
        return reading if reading.in_order else None

    def _cut_frames(self) -> bool:
        """Take the whole frames out of the buffer; false where the connection was ended."""
        buffer, start = self._buffer, 0
        while len(buffer) - start >= HEADER.size:
            number, protocol, length, unit = HEADER.unpack_from(buffer, start)
            if protocol != 0 or not LENGTH_MIN <= length <= LENGTH_MAX:
                if self._tap is not None:
                    self._tap.frame(False, bytes(buffer[start:]), "no Modbus header")
                self.close(Garbled(f"no Modbus header: {buffer[start : start + 7].hex(' ')}"))
                return False
            end = start + 6 + length
            if len(buffer) < end:
                break
            pdu = bytes(buffer[start + HEADER.size : end])
            if self._tap is not None:
                self._tap.frame(False, bytes(buffer[start:end]), answer_words(unit, pdu))
            error = self._take(number, unit, pdu)
            if error is not None:
                self.close(error)
                return False
            start = end
        del buffer[:start]
        return True

    def _take(self, number: int, unit: int, pdu: bytes) -> Garbled | None:
        """Match one answer; returns why the connection must end over it."""
        self._silent = 0
        transaction = self._open.get(number)
        if transaction is not None:
            return self._take_single(transaction, unit, pdu)
        for reading in self._readings:
            at = reading.position(number)
            if at is not None:
                return self._take_read(reading, at, unit, pdu)
        if number in self._late:
            del self._late[number]
            self.late_dropped += 1
            return None
        return Garbled(f"an answer to transaction {number}, which nobody asked")

    def _take_single(self, asked: _Transaction, unit: int, pdu: bytes) -> Garbled | None:
        error = _fault(asked.unit, asked.pdu[0], asked.size, asked.opening, unit, pdu)
        if isinstance(error, Garbled):
            return error
        del self._open[asked.number]
        self._in_flight -= 1
        if asked.future.done():  # cancelled in this very turn of the loop
            return None
        if error is not None:
            asked.future.set_exception(error)
        else:
            asked.future.set_result(pdu)
        return None

    def _take_read(self, reading: Reading, at: int, unit: int, pdu: bytes) -> Garbled | None:
        asked = reading.sheet.requests[at]
        opening = bytes((asked.function, asked.size))
        error = _fault(asked.unit, asked.function, asked.size + 2, opening, unit, pdu)
        if isinstance(error, Garbled):
            return error
        if error is not None:
            reading.fail(at, at_place(error, asked))
        else:
            reading.put(at, pdu[2:])
        self._in_flight -= 1
        return None

    # ------------------------------------------------------------ no answer

    def _expire(self) -> None:
        """Give up what was sent `Timeout` ago; one timer for all that is in flight."""
        self._timer = None
        now_ns = self._clock.monotonic_ns()
        before_ns = now_ns - self._timeout_ns
        singles = [t for t in self._open.values() if t.sent_ns <= before_ns]
        overdue = [(reading, at) for reading in self._readings for at in reading.overdue(before_ns)]
        for reading in self._readings:
            self._buffer += reading.spill()
        stalled = now_ns - self._received_ns >= STALL_SHARE * self._timeout_ns
        if (singles or overdue) and self._buffer and stalled:
            head = bytes(self._buffer[:16]).hex(" ")
            self.close(Garbled(f"half a frame and then nothing: {head}"))
            return
        for transaction in singles:
            self._open.pop(transaction.number)
            if not transaction.future.done():
                transaction.future.set_exception(self._no_answer(transaction.unit))
            self._owed([transaction.number])
        for reading, at in overdue:
            reading.fail(at, self._no_answer(reading.sheet.requests[at].unit))
            self._owed([int(reading.numbers[at])])
        self._silent += len(singles) + len(overdue)
        if self._silent >= SILENT_MAX:
            self.close(NotConnected(f"given up after {SILENT_MAX} requests without an answer"))
            return
        self._send(now_ns)
        for reading, _ in overdue:
            reading.wake()
        self._set_timer(now_ns)

    def _set_timer(self, now_ns: int) -> None:
        """Wait for the oldest request in flight."""
        sent_ns = [t.sent_ns for t in self._open.values()]
        sent_ns += [ns for ns in (reading.oldest_ns() for reading in self._readings) if ns]
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if sent_ns:
            wait_ns = min(sent_ns) + self._timeout_ns - now_ns
            self._timer = self._loop.call_later(max(wait_ns / NS_PER_S, 0.001), self._expire)

    def _no_answer(self, unit: int) -> NoAnswer:
        return NoAnswer(f"no answer from unit {unit} within {self._timeout_s:g} s")

    def _owed(self, numbers: Sequence[int]) -> None:
        """These requests are given up; their answers may still come, and are dropped then."""
        if self._transport is None:
            return
        self._in_flight -= len(numbers)
        self._late |= dict.fromkeys(numbers)
        if len(self._late) > LATE_MAX:
            self.close(NotConnected(f"given up: {LATE_MAX} requests were never answered"))

    def _leave(self, reading: Reading) -> None:
        """Nobody reads on."""
        reading.sheet.in_use = False
        if reading in self._readings:
            self._readings.remove(reading)
            if reading.settled < reading.count:
                self._buffer += reading.spill()
                self._owed(reading.in_flight())
                self._send(self._clock.monotonic_ns())


def _fault(
    asked_unit: int, function: int, size: int, opening: bytes, unit: int, pdu: bytes
) -> Refused | Garbled | None:
    """What is wrong with an answer, or None."""
    if unit != asked_unit:
        return Garbled(f"unit {unit} answered in place of unit {asked_unit}")
    if pdu[0] == function | 0x80 and len(pdu) == 2:
        return refusal(function, pdu[1])
    if pdu[0] != function:
        return Garbled(f"an answer of function {pdu[0]} to function {function}")
    if len(pdu) != size or not pdu.startswith(opening):
        return Garbled(f"an answer of {len(pdu)} bytes that does not match: {pdu[:8].hex(' ')}")
    return None


def _again(error: DriverError) -> DriverError:
    """The same error as a new object: one exception raised twice would share its traceback."""
    return type(error)(str(error))


async def open_link(
    host: str, port: int, timeout_s: float, depth: int, clock: Clock, tap: Tap | None = None
) -> ModbusLink:
    """Connect. Raises NotConnected where that fails or takes longer than `timeout_s`."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_s):
            _, link = await loop.create_connection(
                lambda: ModbusLink(timeout_s, depth, clock, tap), host, port
            )
    except TimeoutError:
        raise NotConnected(f"{host}:{port} did not take a connection in {timeout_s:g} s") from None
    except (OSError, ValueError) as error:  # ValueError: a host name that is none
        raise NotConnected(f"{host}:{port}: {error}") from error
    return link
