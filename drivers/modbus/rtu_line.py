"""One serial line and the units behind it: one exchange at a time, in fair order.

The frames and the port are pymodbus's (AsyncModbusSerialClient over pyserial). What it does not
do is here: turns, silence between frames, time-outs by device, and late answers. An RTU answer
carries no number of its question, so the answer that comes after its time-out looks like the
answer to the next question of that kind. Units answer in order, therefore: after a time-out the
next answer that is taken is one of a length that no missing answer has (`guard_of`). When it has
come, nothing older can follow, and after `LATE_MAX_S` nothing is expected any more.

Some adapters hear what they send. The answer to a read never looks like the question, so reads tell
whether the adapter is one of these; the answer to a write often is the question itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import logging
import os
from collections.abc import AsyncIterator, Collection
from typing import Final

import serial
from pymodbus.client import AsyncModbusSerialClient
from pymodbus.exceptions import ModbusException
from pymodbus.pdu import ModbusPDU

from drivers.contract import Tap
from drivers.errors import NoAnswer, NotConnected, Refused
from drivers.modbus.rtu_frame import (
    ADU_BYTES,
    BYTESIZE,
    READS,
    Expected,
    LineSettings,
    crc16,
    frame,
    guard_of,
)
from drivers.modbus.serial_port import OPEN_ERRORS, PortOpener
from drivers.modbus.words import answer_words, refusal, request_words
from gateway.core.clock import Clock

WAITING_MAX: Final = 1024  # questions that wait for their turn on one line
HEARD_BYTES_MAX: Final = 1024  # bytes of one exchange in which an answer is looked for
OWED_MAX: Final = 16  # missing answers of one unit that are remembered
LATE_MAX_S: Final = 10.0  # behind a time-out; nothing answers later
OPEN_MAX_S: Final = 5.0
LOUD_MAX_S: Final = 1.0  # a line that is not silent for so long carries something else
NS_PER_S: Final = 1_000_000_000

# Everything that pymodbus logs comes back to us as an error, with the port and the reason.
logging.getLogger("pymodbus.logging").setLevel(logging.CRITICAL)


class _Question(ModbusPDU):
    """A request whose bytes are ready."""

    def __init__(self, unit: int, pdu: bytes) -> None:
        super().__init__(dev_id=unit)
        self.function_code = pdu[0]
        self._data = pdu[1:]

    def encode(self) -> bytes:
        """What follows the function code."""
        return self._data


class RtuLine:
    """A serial line; `ask` raises DriverError and nothing else.

    Opened for its first user and closed with its last. A user is whatever object `enter` was
    given.
    """

    def __init__(self, settings: LineSettings, clock: Clock) -> None:
        self.settings = settings
        # unit -> openings of missing answers, each with the time when it is given up
        self.owed: dict[int, dict[bytes, int]] = {}
        self.strangers = 0  # answers to nothing that was asked: late ones, mostly
        self._clock = clock
        self._users: dict[object, Tap | None] = {}
        self._client: AsyncModbusSerialClient | None = None
        self._opening = asyncio.Lock()
        self._opener = PortOpener()
        self._failures = 0  # to open the port
        self._made = asyncio.Event()
        self._why = "not connected"
        # turns: writes first, then in the order of coming
        self._waiting: list[tuple[int, int, asyncio.Future[None], object]] = []
        self._tickets = 0
        self._busy = False
        # the exchange under way
        self._asking: object = None
        self._outcome: asyncio.Future[bytes | NotConnected] | None = None
        self._expected: Expected | None = None
        self._sent = b""
        self._heard = b""
        self._echoes: bool | None = None  # what is sent is heard; None = no read has told yet
        self._asked_ns = 0
        self._loud_ns = clock.monotonic_ns()  # when the line was last heard or used

    @property
    def is_open(self) -> bool:
        """True while the port is open."""
        return self._client is not None

    # ------------------------------------------------------------ users

    async def enter(self, user: object, settings: LineSettings, tap: Tap | None) -> None:
        """Open the port where it is not. Raises NotConnected."""
        failures = self._failures
        async with self._opening:
            if self._users and settings != self.settings:
                raise NotConnected(f"{settings}: the port is in use as {self.settings}")
            if self._client is None:
                if failures != self._failures:  # somebody tried while this user waited
                    raise NotConnected(self._why)
                self.settings = settings
                try:
                    await self._open()
                except NotConnected as error:
                    self._failures += 1
                    self._why = str(error)
                    raise
            self._users[user] = tap

    def leave(self, user: object) -> None:
        """A user goes, and ends what it is asking; the last one closes the port."""
        if user not in self._users:
            return
        del self._users[user]
        if self._asking is user:
            self._end(NotConnected("the connection was closed"))
        if not self._users:
            self._shut("the line was closed")

    async def _open(self) -> None:
        settings = self.settings
        self._made.clear()
        client = AsyncModbusSerialClient(
            settings.port,
            baudrate=settings.baudrate,
            bytesize=BYTESIZE,
            parity=settings.parity,
            stopbits=settings.stopbits,
            retries=0,
            reconnect_delay=0,  # the poll engine's back-off opens it again
            trace_packet=self._passes,
            trace_connect=self._connection,
        )
        client.ctx.max_buffer_size = HEARD_BYTES_MAX
        try:
            async with asyncio.timeout(OPEN_MAX_S):
                await self._opener.open(client.ctx, settings)
                await self._made.wait()
        except TimeoutError:
            client.close()
            raise NotConnected(f"{settings}: the port does not open") from None
        except OPEN_ERRORS as error:
            reason = why_not(settings.port) if isinstance(error, OSError) else error
            raise NotConnected(f"{settings}: {reason}") from error
        except asyncio.CancelledError:
            asyncio.get_running_loop().call_soon(client.close)  # when it is set up
            raise
        self._echoes = None
        self._client = client

    def _connection(self, made: bool) -> None:
        """pymodbus's word on the port."""
        if made:
            self._made.set()
        else:
            self._shut(f"{self.settings.port} is gone")

    def _shut(self, why: str) -> None:
        client, self._client = self._client, None
        self._why = why
        if client is None:
            return
        port = _serial(client)
        if port is not None:
            with contextlib.suppress(*OPEN_ERRORS):
                port.reset_output_buffer()  # or closing waits until all is sent
        client.close()
        self._end(NotConnected(f"{self.settings.port}: {why}"))

    def _end(self, outcome: bytes | NotConnected) -> None:
        """End the exchange under way, with its answer or without."""
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_result(outcome)

    # ------------------------------------------------------------ turns

    def hurry(self, user: object) -> None:
        """Whatever waits for that user goes ahead of reads."""
        self._waiting = [
            (0 if who is user else rank, ticket, turn, who)
            for rank, ticket, turn, who in self._waiting
        ]
        heapq.heapify(self._waiting)

    async def ask(
        self,
        user: object,
        timeout_s: float,
        unit: int,
        pdu: bytes,
        size: int,
        opening: bytes,
        *,
        first: bool = False,
    ) -> tuple[bytes, int]:
        """Send a request; returns the PDU of its answer, and when it was asked (monotonic ns).

        timeout_s  from the end of the request to the beginning of the answer
        size       exact length of the answer's PDU
        opening    bytes that the PDU must begin with
        first      ahead of reads that wait, as everything is that is no read
        Raises NotConnected, NoAnswer, or Refused (an exception answer).
        """
        async with self._turn(user, first or pdu[0] not in READS):
            self._asking = user
            expected = Expected(unit, size, opening)
            sure = opening not in self._owed_by(unit)
            if not sure and pdu[0] in READS:
                await self._guard(expected, pdu, timeout_s)
                sure = True
            answer = await self._exchange(expected, pdu, timeout_s)
            if sure:
                self.owed.pop(unit, None)
            return answer, self._asked_ns

    @contextlib.asynccontextmanager
    async def _turn(self, user: object, first: bool) -> AsyncIterator[None]:
        if self._busy:
            if len(self._waiting) >= WAITING_MAX:
                raise NotConnected(f"{self.settings.port}: too many questions wait for the line")
            turn = asyncio.get_running_loop().create_future()
            self._tickets += 1
            heapq.heappush(self._waiting, (0 if first else 1, self._tickets, turn, user))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():  # its turn came in this very moment
                    self._next()
                raise
        self._busy = True
        try:
            yield
        finally:
            self._asking = None
            self._next()

    def _next(self) -> None:
        """Hand the line to whoever waits first."""
        while self._waiting:
            turn = heapq.heappop(self._waiting)[2]
            if not turn.done():
                turn.set_result(None)
                return  # the line stays busy: nobody can come between
        self._busy = False

    # ------------------------------------------------------------ one exchange

    async def _guard(self, expected: Expected, pdu: bytes, timeout_s: float) -> None:
        """Have the unit answer something that can't be mistaken for what it owes.

        Raises NoAnswer where it does not. A refusal counts as an answer: some devices never read
        a part of a value. That leaves one gap: a refusal that is late as well.
        """
        guard = guard_of(pdu, self._owed_by(expected.unit))
        if guard is None:
            return
        question, opening = guard
        with contextlib.suppress(Refused):
            await self._exchange(
                Expected(expected.unit, 2 + opening[1], opening), question, timeout_s
            )

    async def _exchange(self, expected: Expected, pdu: bytes, timeout_s: float) -> bytes:
        await self._silence()
        client = self._connected()
        self._expected, self._heard = expected, b""
        self._sent = frame(expected.unit, pdu)
        self._outcome = asyncio.get_running_loop().create_future()
        # The bytes take their time on the line, which is not the device's fault.
        on_line_s = 2 * self.settings.silence_s
        on_line_s += (len(pdu) + expected.size + 2 * ADU_BYTES) * self.settings.character_s
        self._asked_ns = self._clock.monotonic_ns()
        answered = False
        try:
            async with asyncio.timeout(timeout_s + on_line_s):
                await client.execute(True, _Question(expected.unit, pdu))
                outcome = await self._outcome
            answered = not isinstance(outcome, NotConnected)
        except TimeoutError:
            answered = not self._owed_by(expected.unit) and expected.spoiled(self._heard)
            raise self._unanswered(expected, timeout_s) from None
        except ModbusException as error:
            raise NotConnected(f"{self.settings.port}: {error}") from error
        finally:
            self._outcome = self._expected = None
            if not answered:
                self._owe(expected)
        if isinstance(outcome, NotConnected):
            raise outcome
        answer = outcome[1:-2]
        if answer[0] != expected.opening[0]:
            if self._owed_by(expected.unit):  # it may be the refusal of something older
                self._owe(expected)
            raise refusal(expected.opening[0], answer[1])
        return answer

    def _unanswered(self, expected: Expected, timeout_s: float) -> NoAnswer:
        text = f"no answer from unit {expected.unit} on {self.settings} within {timeout_s:g} s"
        if self._heard:
            shown = self._heard[:16].hex(" ")
            text += (
                f", but {len(self._heard)} bytes that are none: {shown}; where that happens "
                "often, compare Baudrate, Parity and Stopbits with the device and look at the "
                "wiring"
            )
        return NoAnswer(text)

    def _owe(self, expected: Expected) -> None:
        """The answer may still come."""
        owed = self.owed.setdefault(expected.unit, {})
        owed.pop(expected.opening, None)
        owed[expected.opening] = self._clock.monotonic_ns() + round(LATE_MAX_S * NS_PER_S)
        if len(owed) > OWED_MAX:
            del owed[next(iter(owed))]

    def _owed_by(self, unit: int) -> Collection[bytes]:
        """Openings of answers of a unit that may still come."""
        now_ns = self._clock.monotonic_ns()
        owed = self.owed.get(unit, {})
        for opening in [opening for opening, until_ns in owed.items() if until_ns < now_ns]:
            del owed[opening]
        return owed

    async def _silence(self) -> None:
        """Wait until the line has been silent for as long as frames must stand apart."""
        silence_ns = round(self.settings.silence_s * NS_PER_S)
        patience_ns = self._clock.monotonic_ns() + round(LOUD_MAX_S * NS_PER_S)
        while True:
            client = self._connected()
            now_ns = self._clock.monotonic_ns()
            try:
                port = _serial(client)
                if port is not None and port.in_waiting:  # the loop was late to fetch it
                    self._loud_ns = max(self._loud_ns, now_ns)
            except OSError as error:
                self._shut(f"{self.settings.port} is gone ({error})")
                continue
            wait_ns = self._loud_ns + silence_ns - now_ns
            if wait_ns <= 0:
                return
            if now_ns > patience_ns:
                raise NoAnswer(f"{self.settings} is never silent: something else sends there")
            await asyncio.sleep(wait_ns / NS_PER_S)

    def _connected(self) -> AsyncModbusSerialClient:
        if self._client is None or self._asking not in self._users:
            raise NotConnected(f"{self.settings.port}: {self._why}")
        return self._client

    def _passes(self, sending: bool, data: bytes) -> bytes:
        """Sees every byte, what came since the question together; pymodbus gets none of it."""
        self._loud_ns = self._clock.monotonic_ns()
        if sending:
            self._loud_ns += round(len(data) * self.settings.character_s * NS_PER_S)
            self._show(True, data)
            return data
        if self._expected is None or self._outcome is None:
            self.strangers += 1
            self._show(False, data)
        elif not self._outcome.done():  # what comes behind an answer is noise
            answer = self._find(self._expected, data)
            if answer:
                self._show(False, self._heard)
                self._end(answer)
        return b""

    def _find(self, expected: Expected, data: bytes) -> bytes:
        """The answer in what was heard; what the adapter sent itself is none."""
        is_read = self._sent[1] in READS
        before, echo, behind = data.partition(self._sent)
        if echo and (self._echoes or (is_read and self._echoes is None)):
            self._heard = before + behind
            answer = expected.find(behind)
            # 17 to 24 bits from 0x300 on are the one read whose answer may be the question.
            if answer or not expected.find(echo):
                self._echoes = True
            return answer
        self._heard = data
        if self._echoes:
            return b""
        answer = expected.find(data)
        if answer and is_read:
            self._echoes = False
        return answer

    def _show(self, sent: bool, data: bytes) -> None:
        tap = self._users.get(self._asking)
        if tap is not None:
            tap.frame(sent, data, _words(data, sent))


def _serial(client: AsyncModbusSerialClient) -> serial.Serial | None:
    """pyserial's object below pymodbus's client, while it is open."""
    return getattr(client.ctx.transport, "sync_serial", None)


def _words(data: bytes, sent: bool) -> str:
    """What a frame says, in words; any bytes may be given."""
    if len(data) <= ADU_BYTES or crc16(data[:-2]) != data[-2:]:
        return f"{len(data)} bytes that are no frame"
    return (request_words if sent else answer_words)(data[0], data[1:-2])


def why_not(port: str) -> str:
    """Why a port can't be opened; pymodbus does not say."""
    if not os.path.exists(port):
        return "there is no such port; is the adapter plugged in?"
    if not os.access(port, os.R_OK | os.W_OK):
        return "no right to use the port; the user must be in its group, dialout mostly"
    return "the port can't be opened; another program may hold it, or it is no serial port"
