"""SCPI over VISA: VXI-11, HiSLIP, USB-TMC and serial ports, by PyVISA with its own backend.

PyVISA blocks, and an instrument of it may not be used by two threads. So each session has one
thread that blocks in the loop's stead. The thread is a daemon: a call that never returns holds up
neither the loop nor the end of the process. After a time-out the session is closed and never used
again, because the late answer would be taken for the answer to the next question; on a serial
line, which knows no sessions, the new one first waits until the line is quiet.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import Queue
from types import TracebackType
from typing import Any, Final, Literal, cast

from config.model import EquipmentTags
from drivers.addresses import Fault
from drivers.contract import Surroundings
from drivers.errors import DriverError, Garbled, NoAnswer, NotConnected
from drivers.scpi.link import ANSWER_BYTES_MAX, text_of

MANAGER: Final = "visa resource manager"  # key of what `Surroundings.shared` may hold in its place
BACKEND: Final = "@py"
HUNG_MAX: Final = 3  # threads of one instrument whose call never came back
JOBS_MAX: Final = 8  # a session opens, asks one thing at a time, closes and ends its thread
GRACE_S: Final = 1.5  # PyVISA calls a connection broken 1 s behind its own time-out
QUIET_READS_MAX: Final = 50

KINDS: Final = {"TCPIPInstr": "network", "USBInstr": "usb", "ASRLInstr": "serial"}
FORMS: Final = (
    "TCPIP::<host>::<port>::SOCKET, TCPIP::<host>::inst0::INSTR (VXI-11), "
    "TCPIP::<host>::hislip0::INSTR, USB0::<maker>::<model>::<serial number>::INSTR or "
    "ASRL/dev/ttyUSB0::INSTR"
)
PARITIES: Final = {"N": 0, "O": 1, "E": 2, "M": 3, "S": 4}  # VISA's numbers
STOPBITS: Final = {1.0: 10, 1.5: 15, 2.0: 20}


@dataclass(frozen=True, slots=True)
class Place:
    """Where an instrument is: the VISA resource, its kind (see KINDS), the serial settings."""

    address: str
    kind: str
    baudrate: int = 9600
    bytesize: int = 8
    parity: str = "N"
    stopbits: float = 1.0


def place_of(tags: EquipmentTags) -> Place | None:
    """The VISA resource of an instrument; None where `VISA_address` is none that we speak."""
    from pyvisa import rname

    try:
        parsed = rname.ResourceName.from_string((tags.VISA_address or "").strip())
    except ValueError:
        return None
    kind = KINDS.get(type(parsed).__name__)
    if kind is None:
        return None
    line = tags.Connection
    if kind != "serial" or line is None:
        return Place(str(parsed), kind)
    return Place(
        str(parsed),
        kind,
        line.Baudrate or 9600,
        line.Bytesize or 8,
        (line.Parity or "N").upper()[:1],
        line.Stopbits or 1.0,
    )


def line_faults(tags: EquipmentTags) -> list[Fault]:
    """Serial settings that no line has."""
    place, faults = place_of(tags), []
    if place is None or place.kind != "serial":
        return []
    for key, wrong, text in (
        ("Baudrate", place.baudrate <= 0, "Give the line's speed, for example 9600."),
        ("Bytesize", place.bytesize not in (7, 8), "A character has 7 or 8 bits."),
        ("Parity", place.parity not in PARITIES, "Use N (none), E (even), O (odd), M or S."),
        ("Stopbits", place.stopbits not in STOPBITS, "Use 1, 1.5 or 2."),
    ):
        if wrong:
            faults.append(Fault(f"Connection.{key}", "serial-setting", text))
    return faults


# ---------------------------------------------------------------- the thread


class _Outcome:
    """What a call of the library ended with. It raises what it likes, `Exception` itself included;
    whatever it is goes to the one who waits for the call.
    """

    def __init__(self) -> None:
        self.value: Any = None
        self.error: BaseException | None = None

    def __enter__(self) -> _Outcome:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> Literal[True]:
        if error is not None:  # the library's frames hold its sockets, so they aren't kept
            self.error = error.with_traceback(None)
            error.__context__ = error.__cause__ = None
        return True


Job = Callable[[], Any]


class _Thread:
    """One thread that runs one call after the other until it is told to end."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: Queue[tuple[Job, asyncio.Future[_Outcome]] | None] = Queue(JOBS_MAX)
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """True until it has ended."""
        return self._thread.is_alive()

    def call(self, job: Job) -> asyncio.Future[_Outcome]:
        """Run `job` behind those that wait; one whose future is cancelled in time is left out."""
        future: asyncio.Future[_Outcome] = self._loop.create_future()
        self._jobs.put_nowait((job, future))
        return future

    def end(self) -> None:
        """End behind the calls that wait."""
        self._jobs.put_nowait(None)

    def _work(self) -> None:
        while (waiting := self._jobs.get()) is not None:
            job, future = waiting
            if future.cancelled():
                continue
            with _Outcome() as outcome:
                outcome.value = job()
            with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                self._loop.call_soon_threadsafe(_finish, future, outcome)


def _finish(future: asyncio.Future[_Outcome], outcome: _Outcome) -> None:
    if not future.done():
        future.set_result(outcome)


# ---------------------------------------------------------------- the session


class VisaSession:
    """A session on a VISA resource; see drivers.scpi.link.Session."""

    def __init__(
        self, place: Place, ends: tuple[str, str], timeout_s: float, surroundings: Surroundings
    ) -> None:
        self.lost: DriverError | None = None
        self._place = place
        self._read_end, self._write_end = (end.encode() for end in ends)
        self._timeout_s = timeout_s
        self._surroundings = surroundings
        self._resource: Any = None
        self._calls = _Thread(f"visa {place.address}")
        self._waiting: asyncio.Future[_Outcome] | None = None
        self._closed: asyncio.Future[_Outcome] | None = None

    @property
    def hangs(self) -> bool:
        """True where it was ended and a call of the library has not come back yet."""
        return self._closed is not None and self._calls.alive

    async def open(self, quiet: bool) -> None:
        """Open the resource. `quiet`: an answer may still be under way. Raises NotConnected."""
        try:
            patience_s = 3 * self._timeout_s if quiet else self._timeout_s
            await self._run(lambda: self._open(quiet), "opening", patience_s)
        except DriverError as error:
            self.end(error)
            text = f"{self._place.address}: {error}"
            raise NotConnected(text) from None

    async def send(self, text: str) -> None:
        """See drivers.scpi.link.Session."""
        await self._exchange(text, asks=False)

    async def ask(self, text: str) -> str:
        """See drivers.scpi.link.Session."""
        answer = await self._exchange(text, asks=True)
        line = answer.removesuffix(self._read_end).rstrip(b"\r\n\x00")
        try:
            if b"\n" in line:
                raise Garbled(f"more than was asked for: {line[:40]!r}")
            return text_of(line)
        except Garbled as error:
            self.end(error)
            raise

    async def _exchange(self, text: str, asks: bool) -> bytes:
        if self.lost is not None:
            raise self.lost
        line = text.encode() + self._write_end
        self._show(True, line, f"{'query' if asks else 'command'} {text}")
        try:
            answer = await self._run(
                lambda: self._transfer(line, asks), repr(text), self._timeout_s + GRACE_S
            )
        except DriverError as error:
            self.end(error)
            raise
        finally:
            if self._waiting is not None:  # cancelled: the answer may still come
                self._waiting = None
                self.end(NoAnswer("the session had an answer overdue"))
        if asks:
            self._show(False, answer, f"answer to {text}")
        return answer

    async def _run(self, job: Job, what: str, patience_s: float) -> bytes:
        self._waiting = waiting = self._calls.call(job)
        try:
            async with asyncio.timeout(patience_s):
                outcome = await waiting
        except TimeoutError:
            text = f"no answer to {what} within {patience_s:g} s: the VISA library does not return"
            raise NoAnswer(text) from None
        self._waiting = None
        if outcome.error is not None:
            raise self._translated(outcome.error, what)
        return cast(bytes, outcome.value)

    def end(self, reason: DriverError) -> None:
        """See drivers.scpi.link.Session."""
        if self.lost is not None:
            return
        self.lost = reason
        self._closed = self._calls.call(self._close)
        self._calls.end()
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            outcome = _Outcome()
            outcome.error = reason
            waiting.set_result(outcome)

    async def close(self) -> None:
        """See drivers.scpi.link.Session."""
        if self._closed is not None:
            await asyncio.wait({self._closed}, timeout=self._timeout_s + GRACE_S)

    def _show(self, sent: bool, data: bytes, meaning: str) -> None:
        if self._surroundings.tap is not None:
            self._surroundings.tap.frame(sent, data, meaning)

    def _translated(self, error: BaseException, what: str) -> DriverError:
        from pyvisa import errors
        from pyvisa.constants import StatusCode

        if isinstance(error, DriverError):
            return type(error)(str(error))
        if isinstance(error, errors.VisaIOError):
            if error.error_code == StatusCode.error_timeout:
                return NoAnswer(f"no answer to {what} within {self._timeout_s:g} s")
            return NotConnected(str(error.description or error))
        if isinstance(error, TimeoutError):
            return NoAnswer(f"no answer to {what} within {self._timeout_s:g} s")
        if isinstance(error, OSError | EOFError) or "dropped by server" in str(error):
            return NotConnected(f"the connection broke: {error or type(error).__name__}")
        return Garbled(" ".join(f"{type(error).__name__}: {error}".split()))

    # ------------------------------------------------------------ in the thread

    def _open(self, quiet: bool) -> None:
        from pyvisa import constants

        resource = self._manager().open_resource(self._place.address)
        if self.lost is not None:  # the one who wanted it waits no more
            resource.close()
            raise NotConnected("given up meanwhile")
        self._resource = resource
        resource.timeout = max(1, math.ceil(self._timeout_s * 1000))
        with contextlib.suppress(AttributeError):  # HiSLIP has none: messages say their ends
            resource.read_termination = self._read_end.decode()
        if self._place.kind == "serial":
            resource.baud_rate = self._place.baudrate
            resource.data_bits = self._place.bytesize
            resource.parity = constants.Parity(PARITIES[self._place.parity])
            resource.stop_bits = constants.StopBits(STOPBITS[self._place.stopbits])
            resource.set_visa_attribute(
                constants.ResourceAttribute.termchar, self._read_end[-1]
            )  # ends an answer
            if quiet:
                self._wait_for_silence()

    def _wait_for_silence(self) -> None:
        """Drop what comes until nothing has come for one time-out."""
        from pyvisa import errors

        for _ in range(QUIET_READS_MAX):
            try:
                self._read()
            except errors.VisaIOError:
                return
        raise Garbled("the instrument talks without being asked")

    def _transfer(self, line: bytes, asks: bool) -> bytes:
        resource = self._resource
        if self._place.kind == "serial" and resource.bytes_in_buffer:
            unasked = self._read()
            if unasked.strip(b"\r\n\x00 "):
                raise Garbled(f"unasked: {unasked[:40]!r}")
        resource.write_raw(line)
        return self._read() if asks else b""

    def _read(self) -> bytes:
        """One answer, of bounded length."""
        from pyvisa.constants import StatusCode

        library, session = self._resource.visalib, self._resource.session
        data, status = library.read(session, ANSWER_BYTES_MAX)
        if status == StatusCode.success_max_count_read:
            raise Garbled(f"an answer of more than {ANSWER_BYTES_MAX} bytes")
        return bytes(data)

    def _close(self) -> None:
        resource, self._resource = self._resource, None
        if resource is not None:
            resource.close()

    def _manager(self) -> Any:
        import pyvisa

        # The library logs every refused connection with its traceback; we say it in one line.
        logging.getLogger("pyvisa").setLevel(logging.CRITICAL + 1)
        return self._surroundings.shared.get(MANAGER) or pyvisa.ResourceManager(BACKEND)


class VisaSessions:
    """The sessions of one instrument, one after the other, and those that hang."""

    def __init__(self, place: Place, surroundings: Surroundings) -> None:
        self._place = place
        self._surroundings = surroundings
        self._last: VisaSession | None = None
        self._hung: list[VisaSession] = []  # at most HUNG_MAX

    async def open(self, ends: tuple[str, str], timeout_s: float) -> VisaSession:
        """A new session, where the library gave the old ones back. Raises NotConnected."""
        last = self._last
        overdue = last is not None and isinstance(last.lost, NoAnswer)
        self._hung = [session for session in self._hung if session.hangs]
        if last is not None and last.hangs and last not in self._hung:
            self._hung.append(last)
        if len(self._hung) >= HUNG_MAX:
            text = f"{HUNG_MAX} calls of the VISA library did not return"
            raise NotConnected(f"{self._place.address}: {text}")
        session = VisaSession(self._place, ends, timeout_s, self._surroundings)
        self._last = session
        await session.open(quiet=overdue)
        return session
