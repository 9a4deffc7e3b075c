"""One session with a PMU or PDC: the configuration, the data frames behind it, what ended it.

Frames come from a TCP connection or in datagrams. Each data frame is tied to the configuration
that was in force when it came. While that is in doubt (a PMU said that its configuration changes,
or a frame has another size), frames are held until the device has told its configuration again.

Source: IEEE Std C37.118.2-2011, section 6.3 (STAT bit 10) and Annexes E and F (TCP and UDP).
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from drivers.contract import Tap
from drivers.errors import DriverError, Garbled, NoAnswer, NotConnected
from drivers.keep_alive import keep_alive
from drivers.pmu.data import NS_PER_S, DataLayout, Sample, Selection, find_signals
from drivers.pmu.frames import (
    Command,
    Configuration,
    Cutter,
    Frame,
    FrameType,
    Pieces,
    decode_configuration,
    decode_frame,
    encode_command,
)
from gateway.core.clock import Clock

PENDING_MAX: Final = 1024  # data frames that wait to be fetched, and as many that are held
PENDING_BYTES_MAX: Final = 4 * 1024 * 1024
CONFIGURATION_WAIT_S: Final = 130.0  # a device that is not asked tells it once a minute
SILENCE_PERIODS: Final = 3  # frames that may be missing before the session is given up
# Frames decoded in one go, and their bytes, so that other tasks get their turn.
SAMPLES_MAX: Final = 64
SAMPLES_BYTES_MAX: Final = 64 * 1024
CHANGES_MAX: Final = 8  # of the configuration within CHANGES_NS: decoding one takes a while
CHANGES_NS: Final = 10 * NS_PER_S
COMMAND_BYTES_MAX: Final = 1024  # that wait because the device doesn't read them

_ASK: Final = {FrameType.CFG2: Command.SEND_CFG2, FrameType.CFG3: Command.SEND_CFG3}
_NAMES: Final = {FrameType.CFG2: "CFG-2", FrameType.CFG3: "CFG-3"}


class Signals:
    """The wanted names as one configuration has them; `rows` are positions in what was wanted."""

    def __init__(self, configuration: Configuration, wanted: Sequence[str]) -> None:
        """Raises Garbled where its data would fit no frame."""
        self.configuration = configuration
        self.layout = DataLayout(configuration)
        signals, self.missing = find_signals(configuration, wanted)
        self.rows = [row for row, name in enumerate(wanted) if name in signals]
        self.selection = Selection(self.layout, [signals[wanted[row]] for row in self.rows])

    def samples(self, frames: Sequence[bytes], now_utc_ns: int) -> list[Sample]:
        """See Selection.samples."""
        return self.selection.samples(frames, now_utc_ns)


class PmuLink(asyncio.Protocol, asyncio.DatagramProtocol):
    """The session; `ended` says by what it ended.

    Every method is called on the loop. Datagrams that are damaged or another stream's are
    dropped: each stands alone, and anyone can send one. On TCP they end the session. Where we
    listen to whoever sends, the first one that tells a configuration is the device, and datagrams
    from other addresses are dropped as well.
    """

    def __init__(
        self,
        idcode: int,
        wanted: Sequence[str],
        kind: FrameType,
        timeout_s: float,
        *,
        listen_only: bool,
        clock: Clock,
        tap: Tap | None,
    ) -> None:
        """`listen_only` where the device sends by itself and can't be asked."""
        self._clock = clock
        self._idcode = idcode
        self._wanted = wanted
        self._kind = kind
        self._timeout_s = timeout_s
        self._listen_only = listen_only
        self._tap = tap
        self._transport: Any = None  # asyncio.Transport or asyncio.DatagramTransport
        self._datagrams = False
        self._cutter = Cutter()
        self._pieces = Pieces()
        self._sender: Any = None  # address of the datagrams' sender, once it is known
        self._body = b""  # of the configuration in force
        self._changes: deque[int] = deque(maxlen=CHANGES_MAX)  # when it changed
        self.signals: Signals | None = None
        self._announced = 0  # PMUs that announce a change, a bit each
        self._doubt = True  # is the configuration that we have the one in force?
        self._overdue: asyncio.TimerHandle | None = None
        self._held: deque[bytes] = deque(maxlen=PENDING_MAX)
        self._held_bytes = 0
        self._pending: deque[tuple[Signals, bytes]] = deque(maxlen=PENDING_MAX)
        self._pending_bytes = 0
        self._news = asyncio.Event()
        self._told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended: DriverError | None = None
        self.dropped = 0  # frames that were thrown away: damaged, foreign, or nobody fetched them
        self._last_fault = ""
        self._frames = 0  # intact data frames

    # ------------------------------------------------------------ towards the driver

    async def configure(self) -> None:
        """Ask for the configuration and start the data. Raises NoAnswer, NotConnected, Garbled."""
        if self._listen_only:
            self._wait_for_configuration(CONFIGURATION_WAIT_S)
            return
        self.command(Command.OFF)  # a stream may be running from a session that broke
        self._ask()
        await asyncio.shield(self._told)
        self.command(Command.ON)

    def take(self) -> tuple[Signals, list[Sample]] | None:
        """Decode what came, in order, some frames at a time; None where nothing waits."""
        if not self._pending:
            return None
        signals, frames, left = self._pending[0][0], list[bytes](), SAMPLES_BYTES_MAX
        while self._pending and self._pending[0][0] is signals and len(frames) < SAMPLES_MAX:
            left -= len(self._pending[0][1])
            if left < 0 and frames:
                break
            frame = self._pending.popleft()[1]
            self._pending_bytes -= len(frame)
            frames.append(frame)
        return signals, signals.samples(frames, self._clock.utc_ns())

    async def news(self) -> None:
        """Wait until something came; ends the session where the stream is silent for too long."""
        due_s = 0.0
        if self.signals is not None:
            due_s = SILENCE_PERIODS * self.signals.configuration.period_s
        good = self._frames
        try:
            async with asyncio.timeout(self._timeout_s + due_s):
                await self._news.wait()
        except TimeoutError:
            # While the configuration is awaited, its own timer counts.
            if self._frames == good and self.ended is None and not self._doubt:
                self.end(self._silence())
        self._news.clear()

    def command(self, command: Command) -> None:
        """Send a command."""
        soc = self._clock.utc_ns() // NS_PER_S & 0xFFFFFFFF
        data = encode_command(self._idcode, command, soc=soc)
        if self._transport is None or self._transport.is_closing():
            return
        if self._tap is not None:
            self._tap.frame(True, data, f"command {command.name}")
        if self._datagrams:
            self._transport.sendto(data)
        elif self._transport.get_write_buffer_size() < COMMAND_BYTES_MAX:
            self._transport.write(data)
        else:
            self.end(NotConnected("the device doesn't read what we send"))

    def close(self) -> None:
        """Stop the stream and close."""
        if not self._listen_only and self.ended is None:
            self.command(Command.OFF)
        self.end(NotConnected("the connection was closed"))

    def end(self, error: DriverError) -> None:
        """End the session; the first error counts."""
        if self.ended is not None:
            return
        self.ended = error
        if self._overdue is not None:
            self._overdue.cancel()
        self._held.clear()
        if not self._told.done():
            self._told.set_exception(error)
            self._told.exception()  # nobody may be waiting
        self._news.set()
        if self._transport is not None:
            # Closing politely would wait for ever for a device that doesn't read.
            if isinstance(error, Garbled) or self._transport.get_write_buffer_size():
                self._transport.abort()
            else:
                self._transport.close()

    # ------------------------------------------------------------ asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep-alive lets the system find a dead peer."""
        self._transport = transport
        raw = transport.get_extra_info("socket")
        self._datagrams = raw is not None and raw.type == socket.SOCK_DGRAM
        if not self._datagrams:
            keep_alive(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """The peer closed, or the system gave the connection up."""
        self.end(NotConnected(f"the device closed the connection{f' ({exc})' if exc else ''}"))

    def error_received(self, exc: Exception) -> None:
        """The system says that nobody takes our datagrams."""
        self.end(NotConnected(f"the device takes no datagrams ({exc})"))

    def data_received(self, data: bytes) -> None:
        """A piece of the TCP stream."""
        if self.ended is not None:
            return
        try:
            for frame in self._cutter.feed(data):
                self._take_frame(frame)
        except Garbled as error:
            self.end(error)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """One datagram: one frame."""
        if self.ended is not None:
            return
        if self._sender is not None and addr != self._sender:
            self.dropped += 1
            return
        before = self.signals
        try:
            self._take_frame(data)
            if self._listen_only and self.signals is not before:
                self._sender = addr
        except Garbled as error:
            self.dropped += 1
            self._last_fault = str(error)

    # ------------------------------------------------------------ frames

    def _take_frame(self, data: bytes) -> None:
        frame = decode_frame(data)
        if self._tap is not None:
            self._tap.frame(False, data, describe(frame))
        if frame.idcode != self._idcode:
            raise Garbled(f"stream {frame.idcode} sent in place of stream {self._idcode}")
        if frame.kind == FrameType.DATA:
            self._frames += 1
            self._take_data(data)
        elif frame.kind == self._kind:
            body = self._pieces.add(frame.body) if frame.kind == FrameType.CFG3 else frame.body
            if body is not None:
                self._take_configuration(frame.kind, body)

    def _take_data(self, data: bytes) -> None:
        signals = self.signals
        if signals is None:
            return  # left over from an earlier session, or the configuration is still to come
        if not self._doubt and len(data) == signals.layout.size:
            announced = signals.layout.announcing(data)
            effected = self._announced & ~announced
            self._announced = announced
            if not effected:
                self._keep(signals, data)
                return
        self._held_bytes += len(data)
        self._held.append(data)
        while self._held_bytes > PENDING_BYTES_MAX or len(self._held) == PENDING_MAX:
            self._held_bytes -= len(self._held.popleft())
            self.dropped += 1
        if not self._doubt:
            self._doubt = True
            if self._listen_only:
                self._wait_for_configuration(CONFIGURATION_WAIT_S)
            else:
                self._ask()

    def _keep(self, signals: Signals, data: bytes) -> None:
        """Where nobody fetches, the newest stay."""
        self._pending_bytes += len(data)
        self._pending.append((signals, data))
        while self._pending_bytes > PENDING_BYTES_MAX or len(self._pending) == PENDING_MAX:
            self._pending_bytes -= len(self._pending.popleft()[1])
            self.dropped += 1
        self._news.set()

    # ------------------------------------------------------------ the configuration

    def _take_configuration(self, kind: FrameType, body: bytes) -> None:
        if self.signals is None or body != self._body:
            signals = Signals(decode_configuration(kind, self._idcode, body), self._wanted)
            self._count_change()
            # A configuration can be large, so frames wait for two of them at most.
            kept = [entry for entry in self._pending if entry[0] is self.signals]
            self.dropped += len(self._pending) - len(kept)
            self._pending = deque(kept, maxlen=PENDING_MAX)
            self._pending_bytes = sum(len(data) for _, data in kept)
            self.signals, self._body = signals, body
        self._doubt, self._announced = False, 0
        if self._overdue is not None:
            self._overdue.cancel()
        if not self._told.done():
            self._told.set_result(None)
        held, self._held = self._held, deque(maxlen=PENDING_MAX)
        self._held_bytes = 0
        for data in held:
            if len(data) == self.signals.layout.size:
                self._announced = self.signals.layout.announcing(data)
                self._keep(self.signals, data)
            else:
                self.dropped += 1
        self._news.set()

    def _count_change(self) -> None:
        now_ns = self._clock.monotonic_ns()
        if len(self._changes) == CHANGES_MAX and now_ns - self._changes[0] < CHANGES_NS:
            raise Garbled(f"the configuration changed {CHANGES_MAX} times within 10 s, and again")
        self._changes.append(now_ns)

    def _ask(self) -> None:
        self.command(_ASK[self._kind])
        self._wait_for_configuration(self._timeout_s)

    def _wait_for_configuration(self, limit_s: float) -> None:
        if self._overdue is not None:
            self._overdue.cancel()
        loop = asyncio.get_running_loop()
        self._overdue = loop.call_later(limit_s, self._no_configuration, limit_s)

    def _no_configuration(self, limit_s: float) -> None:
        name = _NAMES[self._kind]
        text = f"stream {self._idcode} sent no {name} within {limit_s:g} s"
        if self._last_fault:
            text += f"; the last datagram: {self._last_fault}"
        if self._cutter.waiting:
            self.end(Garbled(f"half a frame and then nothing: {self._cutter.waiting.hex(' ')}"))
        elif self.signals is not None:
            self.end(Garbled(f"{text}, but its data don't fit the one before"))
        elif self._listen_only:
            self.end(NotConnected(text))
        else:
            self.end(NoAnswer(text))

    def _silence(self) -> DriverError:
        if self._cutter.waiting:
            return Garbled(f"half a frame and then nothing: {self._cutter.waiting.hex(' ')}")
        if self._last_fault:
            return Garbled(self._last_fault)
        text = f"stream {self._idcode} sent nothing within {self._timeout_s:g} s"
        return NotConnected(f"{text} after {SILENCE_PERIODS} frames were due")


def describe(frame: Frame) -> str:
    """What a frame is, in words."""
    if frame.kind == FrameType.HEADER:
        return f"header of stream {frame.idcode}: {frame.body.decode('utf-8', 'replace')!r}"
    return f"{frame.kind.name} of stream {frame.idcode}, {len(frame.body) + 16} bytes"


Make = Callable[[], PmuLink]


async def open_tcp(make: Make, host: str, port: int, timeout_s: float) -> PmuLink:
    """Connect. Raises NotConnected where that fails or takes longer than `timeout_s`."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_s):
            _, link = await loop.create_connection(make, host, port)
    except TimeoutError:
        raise NotConnected(f"{host}:{port} did not take a connection in {timeout_s:g} s") from None
    except (OSError, ValueError) as error:  # ValueError: a host name that is none
        raise NotConnected(f"{host}:{port}: {error}") from error
    return link


async def open_udp(make: Make, host: str | None, port: int, timeout_s: float) -> PmuLink:
    """A socket towards the device, or one that listens on `port` where `host` is None."""
    loop = asyncio.get_running_loop()
    place = f"{host}:{port}" if host is not None else f"local port {port}"
    remote = None if host is None else (host, port)
    local = ("0.0.0.0", port) if host is None else None
    try:
        async with asyncio.timeout(timeout_s):
            _, link = await loop.create_datagram_endpoint(
                make, local_addr=local, remote_addr=remote
            )
    except TimeoutError:
        raise NotConnected(f"{place} could not be opened in {timeout_s:g} s") from None
    except (OSError, ValueError) as error:
        raise NotConnected(f"{place}: {error}") from error
    return link
