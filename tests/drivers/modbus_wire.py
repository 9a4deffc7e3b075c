"""A Modbus TCP connection without a socket: what the driver sends is here, answers are pushed."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sequence

from drivers.contract import Part
from drivers.errors import DriverError
from drivers.modbus.cycle import ModbusCycle
from drivers.modbus.link import ModbusLink
from drivers.modbus.tcp import plan
from gateway.core.clock import ManualClock, SystemClock
from tests.drivers.instruments import modbus

TIMEOUT_S = 60.0  # never passes by itself: `Wire.pass_time` ends waits


class Wire(asyncio.Transport):
    """The transport of a link; `requests` are those that nothing was pushed for yet."""

    def __init__(self, depth: int, timeout_s: float = TIMEOUT_S) -> None:
        super().__init__()
        self.requests: list[bytes] = []
        self.sent = 0
        self.clock = ManualClock()
        self.clock.advance(10**9)
        clock = self.clock if timeout_s == TIMEOUT_S else SystemClock()
        self.link = ModbusLink(timeout_s, depth, clock)
        self.link.connection_made(self)

    def get_extra_info(self, name: str, default: object = None) -> object:
        return default

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        for at in range(0, len(data), 12):
            self.requests.append(bytes(data[at : at + 12]))
            self.sent += 1

    def close(self) -> None:
        pass

    abort = close

    def push(self, *frames: bytes) -> None:
        """The device sends, in one piece."""
        self.link.data_received(b"".join(frames))

    def pass_time(self, share: float) -> None:
        """A share of Timeout passes."""
        self.clock.advance(round(share * TIMEOUT_S * 1e9))
        self.link._expire()

    async def settle(self) -> None:
        """Let the tasks run that something was pushed for."""
        for _ in range(5):
            await asyncio.sleep(0)


def first_of(request: bytes) -> int:
    return int.from_bytes(request[8:10], "big")


def answer(request: bytes, *values: int) -> bytes:
    """A well-formed answer; each register is its own address plus 1000 unless told."""
    number, _, _, unit, function, first, count = struct.unpack(">HHHBBHH", request)
    words = values or range(first + 1000, first + 1000 + count)
    head = struct.pack(">HHHBBB", number, 0, 3 + 2 * len(words), unit, function, 2 * len(words))
    return head + struct.pack(f">{len(words)}H", *words)


def exception(request: bytes, code: int) -> bytes:
    return request[:4] + b"\x00\x03" + request[6:7] + bytes((request[7] | 0x80, code))


def blocks_of(count: int, registers: Sequence[int] = (1,)) -> ModbusCycle:
    """A cycle of blocks at 0, 100, 200, ...; block b has registers[b % len] values."""
    keys = {"Type": "HRegister", "DataType": "uint16"}
    channels = {
        f"R{b}_{i}": keys | {"IOPoint": 100 * b + i}
        for b in range(count)
        for i in range(registers[b % len(registers)])
    }
    return ModbusCycle(plan(modbus(channels)))


class Reader:
    """Reads a cycle in a task and keeps the parts."""

    def __init__(self, link: ModbusLink, cycle: ModbusCycle) -> None:
        self.parts: list[Part] = []
        self.end: DriverError | None = None
        self._link = link
        self._cycle = cycle
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            async for part in self._link.read(self._cycle):
                self.parts.append(part)
        except DriverError as error:
            self.end = error

    @property
    def values(self) -> list[float]:
        return [value for part in self.parts for value in part.values.tolist()]

    @property
    def spans(self) -> list[tuple[int, int]]:
        return [(part.first, part.last) for part in self.parts]
