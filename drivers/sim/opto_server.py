"""An Opto 22 controller: the memory map of OptoMMP over TCP.

Source: OptoMMP Protocol Guide (form 1465) and O22SIOMM.h. What is written to the write area of a
module shows in its read area, as on a controller whose outputs follow. After `start` the
controller has just got its power: it refuses everything until the power-up flag is cleared.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final, Literal

from drivers.sim.listener import Listener, Session

WRITE_QUADLET: Final = 0
WRITE_BLOCK: Final = 1
WRITE_ANSWER: Final = 2
READ_QUADLET: Final = 4
READ_BLOCK: Final = 5
READ_QUADLET_ANSWER: Final = 6
READ_BLOCK_ANSWER: Final = 7

NAK: Final = 7
POWER_UP_CLEAR_EXPECTED: Final = 0xE004
INVALID_ADDRESS: Final = 0xE005

STATUS: Final = 0xF0300000
POWER_UP_FLAG: Final = 0xF0300004
LAST_ERROR: Final = 0xF030000C
OPERATION: Final = 0xF0380000
READ_AREAS: Final = {"digital": 0xF01E0000, "analog": 0xF0260000}
WRITE_AREAS: Final = {"digital": 0xF0220000, "analog": 0xF02A0000}
INTEGER_PAD: Final = 0xF0D81000
FLOAT_PAD: Final = 0xF0D82000
FEATURE: Final = 0x10

MODULE_BYTES: Final = 0x1000
CHANNEL_BYTES: Final = 0x40
DATA_MAX: Final = 4096

ModuleKind = Literal["analog", "digital"]


class Refusal(Exception):
    """The controller refuses a request; `error` becomes its last error."""

    def __init__(self, error: int) -> None:
        self.error = error
        super().__init__(f"error {error:04X}")


class OptoServer(Listener):
    """A controller with some modules; the others refuse, as do addresses outside of the map."""

    def __init__(
        self, modules: Mapping[int, ModuleKind], *, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        super().__init__(host=host, port=port)
        self.modules = dict(modules)
        self.writes: list[tuple[int, bytes]] = []  # the newest ones
        self._memory: dict[int, bytearray] = {STATUS: bytearray(0x100)}
        for area, size in ((INTEGER_PAD, 0x1000), (FLOAT_PAD, 0x1000)):
            self._memory[area] = bytearray(size)
        for number, kind in self.modules.items():
            place = READ_AREAS[kind] + MODULE_BYTES * number
            self._memory[place] = bytearray(MODULE_BYTES)

    async def start(self) -> int:
        """Listen, as after a power cut: the power-up flag is set."""
        self._put(POWER_UP_FLAG, struct.pack(">I", 1))
        return await super().start()

    def session(self) -> Session:
        """The protocol object of a new connection."""
        return _OptoSession(self)

    # ------------------------------------------------------------ the points

    def set_analog(self, module: int, channel: int, value: float) -> None:
        """What an analog channel measures."""
        self._put(self._place("analog", module, channel), struct.pack(">f", value))

    def analog(self, module: int, channel: int) -> float:
        """What an analog channel shows."""
        data = self._get(self._place("analog", module, channel), 4)
        return float(struct.unpack(">f", data)[0])

    def set_digital(self, module: int, channel: int, state: int, feature: float = 0.0) -> None:
        """State and feature (counter, frequency, ...) of a digital channel."""
        place = self._place("digital", module, channel)
        self._put(place, struct.pack(">I", state))
        self._put(place + FEATURE, struct.pack(">f", feature))

    def digital(self, module: int, channel: int) -> int:
        """State of a digital channel."""
        return int.from_bytes(self._get(self._place("digital", module, channel), 4), "big")

    @staticmethod
    def _place(kind: ModuleKind, module: int, channel: int) -> int:
        return READ_AREAS[kind] + MODULE_BYTES * module + CHANNEL_BYTES * channel

    # ------------------------------------------------------------ the memory map

    @property
    def cleared(self) -> bool:
        """True once the power-up flag was cleared."""
        return not any(self._get(POWER_UP_FLAG, 4))

    def read(self, address: int, size: int) -> bytes:
        """A read request. Raises Refusal."""
        if not STATUS <= address < STATUS + 0x100:
            self._need_power()
        return self._get(address, size)

    def write(self, address: int, data: bytes) -> None:
        """A write request. Raises Refusal."""
        if address == OPERATION:
            if int.from_bytes(data, "big") != 1:
                raise Refusal(INVALID_ADDRESS)
            self._put(POWER_UP_FLAG, bytes(4))
            return
        self._need_power()
        for kind, first in WRITE_AREAS.items():
            if first <= address < first + 64 * MODULE_BYTES:
                self._put(address - first + READ_AREAS[kind], data)
                break
        else:
            if not INTEGER_PAD <= address < FLOAT_PAD + 0x1000:
                raise Refusal(INVALID_ADDRESS)
            self._put(address, data)
        self.writes = [*self.writes[-99:], (address, data)]

    def fail(self, error: int) -> None:
        """Remember why a request was refused."""
        self._put(LAST_ERROR, struct.pack(">I", error))

    def _need_power(self) -> None:
        if self.faults.exception_code:
            raise Refusal(self.faults.exception_code)
        if not self.cleared:
            raise Refusal(POWER_UP_CLEAR_EXPECTED)

    def _area(self, address: int, size: int) -> tuple[bytearray, int]:
        for first, area in self._memory.items():
            if first <= address and address + size <= first + len(area):
                return area, address - first
        raise Refusal(INVALID_ADDRESS)

    def _get(self, address: int, size: int) -> bytes:
        area, place = self._area(address, size)
        return bytes(area[place : place + size])

    def _put(self, address: int, data: bytes) -> None:
        area, place = self._area(address, len(data))
        area[place : place + len(data)] = data


class _OptoSession(Session):
    """Cuts the stream into requests; closes where none begins."""

    def __init__(self, server: OptoServer) -> None:
        super().__init__(server)
        self.server = server

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while len(self.buffer) >= 12:
            size = self._size()
            if size is None:
                self.drop()
                return
            if len(self.buffer) < size:
                return
            request = bytes(self.buffer[:size])
            del self.buffer[:size]
            self._take(request)

    def _size(self) -> int | None:
        """Bytes of the request that begins the buffer; None where none does."""
        code = self.buffer[3] >> 4
        if code == READ_QUADLET:
            return 12
        if code not in (WRITE_QUADLET, WRITE_BLOCK, READ_BLOCK):
            return None
        if code != WRITE_BLOCK or len(self.buffer) < 16:
            return 16
        length = int.from_bytes(self.buffer[12:14], "big")
        return 16 + length if length <= DATA_MAX else None

    def _take(self, request: bytes) -> None:
        server, code = self.server, request[3] >> 4
        server.requests += 1
        if server.faults.silent:
            return
        upper, address = struct.unpack(">HI", request[6:12])
        data, response = b"", 0
        try:
            if upper != 0xFFFF:
                raise Refusal(INVALID_ADDRESS)
            if code == READ_QUADLET:
                data = server.read(address, 4)
            elif code == READ_BLOCK:
                data = server.read(address, int.from_bytes(request[12:14], "big"))
            else:
                server.write(address, request[12:] if code == WRITE_QUADLET else request[16:])
        except Refusal as refusal:
            server.fail(refusal.error)
            response = NAK
        label = request[2] ^ (0x80 if server.faults.wrong_transaction else 0)
        self.answer(_answer(code, label, response, data))


def _answer(code: int, label: int, response: int, data: bytes) -> bytes:
    kinds = {READ_QUADLET: READ_QUADLET_ANSWER, READ_BLOCK: READ_BLOCK_ANSWER}
    kind = kinds.get(code, WRITE_ANSWER)
    head = struct.pack(">HBBHBBI", 0, label, kind << 4, 0, response << 4, 0, 0)
    if kind == READ_QUADLET_ANSWER:
        return head + (data or bytes(4))
    if kind == READ_BLOCK_ANSWER:
        return head + struct.pack(">HH", len(data), 0) + data
    return head
