"""A PMU or PDC that speaks IEEE C37.118 over TCP or UDP, to several clients at once.

It answers commands, sends data frames at the rate of its configuration, can send by itself to
places that never asked (UDP), and can change its configuration as the standard says: bit 10 of
STAT announces it, and the change is in force when the bit falls.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any, Final

from drivers.errors import Garbled
from drivers.pmu.data import CHANGES, DataLayout, Measured, encode_data
from drivers.pmu.frames import (
    Command,
    Configuration,
    Cutter,
    FrameType,
    decode_command,
    decode_frame,
    encode_configuration,
    encode_frame,
)
from drivers.sim.listener import Listener, Session
from gateway.core.clock import Clock, SystemClock

CLIENTS_MAX: Final = 64
UNSENT_BYTES_MAX: Final = 1 << 20  # of a client that doesn't read: it is dropped
PIECE_BYTES_MAX: Final = 60_000  # of a configuration 3, a frame
NS_PER_S: Final = 1_000_000_000

Address = tuple[Any, ...]


class PmuServer(Listener):
    """The device. Change `measured` (one a PMU) and the next frames carry it.

    cfg3     the configuration that is told as CFG-3; None: that command is not answered
    bad_crc  data frames have a wrong check sum
    split    every frame leaves in pieces of 7 bytes, each a segment of its own (TCP)
    joined   so many data frames leave in one piece (TCP)
    quality  time quality in FRACSEC, 0 to 15
    """

    def __init__(
        self,
        configuration: Configuration,
        measured: Sequence[Measured],
        *,
        cfg3: Configuration | None = None,
        transport: str = "TCP",
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(host=host, port=port)
        self.layout = DataLayout(configuration)
        self.measured = list(measured)
        self.cfg3 = cfg3
        self.header = "Simulated PMU"
        self.bad_crc = self.split = False
        self.joined = 1
        self.quality = 0
        self.targets: list[Address] = []  # UDP: told everything without asking
        self.sent = 0  # data frames
        self._waiting: list[bytes] = []  # joined later
        self._udp = transport == "UDP"
        self._endpoint: asyncio.DatagramTransport | None = None
        self._clients: set[Address] = set()  # UDP: those that asked for data
        self._clock = clock or SystemClock()
        self._ticking: asyncio.Task[None] | None = None

    @property
    def configuration(self) -> Configuration:
        """What is in force."""
        return self.layout.configuration

    def session(self) -> Session:
        """The protocol object of a new connection."""
        return _PmuSession(self)

    async def start(self) -> int:
        """Listen and begin to measure; returns the port."""
        if self._udp:
            loop = asyncio.get_running_loop()
            self._endpoint, _ = await loop.create_datagram_endpoint(
                lambda: _Datagrams(self), local_addr=(self.host, self.port)
            )
            self.port = int(self._endpoint.get_extra_info("sockname")[1])
        else:
            await super().start()
        self._ticking = asyncio.create_task(self._tick())
        return self.port

    async def stop(self) -> None:
        """Stop sending, close the port and every connection; may be called twice."""
        ticking, self._ticking = self._ticking, None
        if ticking is not None:
            ticking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await ticking
        if self._endpoint is not None:
            self._endpoint.close()
            self._endpoint = None
            await asyncio.sleep(0)
        self._clients.clear()
        await super().stop()

    # ------------------------------------------------------------ frames

    def frame(self, kind: FrameType, body: bytes) -> bytes:
        """A frame with the time of now."""
        now_ns = self._clock.utc_ns()
        base = self.configuration.time_base
        fraction = now_ns % NS_PER_S * base // NS_PER_S
        return encode_frame(
            kind,
            self.configuration.idcode,
            body,
            soc=now_ns // NS_PER_S & 0xFFFFFFFF,
            fracsec=self.quality << 24 | fraction,
            version=2 if kind == FrameType.CFG3 else 1,
        )

    def answers(self, command: int) -> list[bytes]:
        """What is sent for a command; starting and stopping the data is the session's."""
        if command == Command.SEND_HEADER:
            return [self.frame(FrameType.HEADER, self.header.encode())]
        if command in (Command.SEND_CFG1, Command.SEND_CFG2):
            kind = FrameType.CFG1 if command == Command.SEND_CFG1 else FrameType.CFG2
            return [self.frame(kind, encode_configuration(self.configuration))]
        if command == Command.SEND_CFG3 and self.cfg3 is not None:
            return [self.frame(FrameType.CFG3, body) for body in pieces(self.cfg3)]
        return []

    def send(self) -> None:
        """Send one data frame to everyone who wants data, now."""
        frame = bytearray(self.frame(FrameType.DATA, encode_data(self.layout, self.measured)))
        if self.bad_crc:
            frame[-1] ^= 0x55
        self.sent += 1
        if self._udp:
            for address in [*self._clients, *self.targets]:
                self.datagram(bytes(frame), address)
            return
        self._waiting.append(bytes(frame))
        if len(self._waiting) < self.joined:
            return
        data, self._waiting = b"".join(self._waiting), []
        for session in list(self.sessions):
            assert isinstance(session, _PmuSession)
            if session.wants_data and not self.faults.silent:
                session.deliver(data)

    def tell_configuration(self) -> None:
        """UDP: what a device that sends by itself does once a minute."""
        for address in self.targets:
            for data in self.answers(Command.SEND_CFG2) + self.answers(Command.SEND_CFG3):
                self.datagram(data, address)

    async def change(self, configuration: Configuration, measured: Sequence[Measured]) -> None:
        """Announce a change of the configuration for two frames, and make it."""
        for each in self.measured:
            each.stat |= CHANGES
        for _ in range(2):
            self.send()
            await asyncio.sleep(0)
        self.layout, self.measured = DataLayout(configuration), list(measured)
        self._waiting.clear()

    def datagram(self, data: bytes, address: Address) -> None:
        """Send one datagram, spoilt where a fault says so."""
        if self._endpoint is not None and not self.faults.silent:
            self._endpoint.sendto(self.faults.spoil(data), address)

    def datagram_came(self, data: bytes, address: Address) -> None:
        """A command in a datagram."""
        try:
            command = self._command(data)
        except Garbled:
            return
        if command == Command.ON and len(self._clients) < CLIENTS_MAX:
            self._clients.add(address)
        elif command == Command.OFF:
            self._clients.discard(address)
        for answer in self.answers(command):
            self.datagram(answer, address)

    def _command(self, data: bytes) -> int:
        """The command in a frame; 0 for a frame of another kind or to another stream."""
        frame = decode_frame(data)
        if frame.kind != FrameType.COMMAND or frame.idcode != self.configuration.idcode:
            return 0
        self.requests += 1
        return decode_command(frame.body)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(self.configuration.period_s)
            self.send()


def pieces(configuration: Configuration) -> list[bytes]:
    """The bodies of the frames that tell a configuration 3, CONT_IDX in front."""
    body = encode_configuration(configuration)
    if len(body) <= PIECE_BYTES_MAX:
        return [bytes(2) + body]
    parts = [body[i : i + PIECE_BYTES_MAX] for i in range(0, len(body), PIECE_BYTES_MAX)]
    numbers = [*range(1, len(parts)), 0xFFFF]
    return [n.to_bytes(2, "big") + part for n, part in zip(numbers, parts, strict=True)]


class _PmuSession(Session):
    """One TCP client."""

    def __init__(self, server: PmuServer) -> None:
        super().__init__(server)
        self.server = server
        self.wants_data = False
        self._cutter = Cutter()

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._cutter.feed(data):
                self._take(self.server._command(frame))
        except Garbled:
            self.drop()

    def _take(self, command: int) -> None:
        if self.server.faults.silent:
            return
        if command in (Command.ON, Command.OFF):
            self.wants_data = command == Command.ON
        for answer in self.server.answers(command):
            self.deliver(answer)

    def deliver(self, data: bytes) -> None:
        """Send in one piece or in many."""
        if self.transport is not None and (
            self.transport.get_write_buffer_size() > UNSENT_BYTES_MAX
        ):
            self.drop()
            return
        if self.server.split:
            for start in range(0, len(data), 7):
                self.answer(data[start : start + 7])
        else:
            self.answer(data)


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: PmuServer) -> None:
        self.server = server

    def datagram_received(self, data: bytes, addr: Address) -> None:
        """One frame of a client."""
        self.server.datagram_came(data, addr)
