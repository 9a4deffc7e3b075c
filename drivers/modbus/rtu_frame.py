"""Modbus RTU as bytes and times: checksum, silences, and the answer among what a line brings.

Source: MODBUS over Serial Line Specification and Implementation Guide V1.02, chapter 2.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final, Literal

from drivers.modbus.plan import BITS_MAX, REGISTERS_MAX

BAUDRATE: Final = 19_200  # the specification's default, with even parity and one stop bit
PARITY: Final = "E"
STOPBITS: Final = 1
BYTESIZE: Final = 8  # RTU sends whole bytes

ADU_BYTES: Final = 3  # what a frame has beside its PDU: unit and checksum
EXCEPTION_BYTES: Final = 5  # unit, function, code, checksum
FRAME_BYTES_MAX: Final = 256
SILENT_CHARACTERS: Final = 3.5  # the shortest pause between two frames
FAST_BAUDRATE: Final = 19_200  # above it the pause is a fixed time
FAST_SILENCE_S: Final = 0.00175
ADDRESSES: Final = 65_536

READS_OF_BITS: Final = (1, 2)
READS: Final = (1, 2, 3, 4)


@dataclass(frozen=True, slots=True)
class LineSettings:
    """How a serial line is driven; all units on it share it."""

    port: str = field(compare=False)  # one port may have several names
    baudrate: int = BAUDRATE
    parity: Literal["N", "E", "O"] = PARITY
    stopbits: Literal[1, 2] = STOPBITS

    @property
    def character_s(self) -> float:
        """How long one byte takes: start bit, eight data bits, parity bit, stop bits."""
        return (1 + BYTESIZE + (self.parity != "N") + self.stopbits) / self.baudrate

    @property
    def silence_s(self) -> float:
        """The pause that ends a frame, t3.5."""
        if self.baudrate > FAST_BAUDRATE:
            return FAST_SILENCE_S
        return SILENT_CHARACTERS * self.character_s

    def __str__(self) -> str:
        """``/dev/ttyUSB0 at 19200 8E1``."""
        return f"{self.port} at {self.baudrate} {BYTESIZE}{self.parity}{self.stopbits}"


def _crc_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(8):
            crc = (crc >> 1) ^ 0xA001 if crc & 1 else crc >> 1
        table.append(crc)
    return tuple(table)


_CRC_TABLE: Final = _crc_table()


def crc16(data: bytes | bytearray | memoryview) -> bytes:
    """The two bytes behind a frame: polynomial 0xA001 from 0xFFFF, low byte first."""
    crc = 0xFFFF
    for byte in data:
        crc = (crc >> 8) ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc.to_bytes(2, "little")


def frame(unit: int, pdu: bytes) -> bytes:
    """A whole frame."""
    head = bytes((unit,)) + pdu
    return head + crc16(head)


@dataclass(frozen=True, slots=True)
class Expected:
    """What the answer to a question must look like.

    size     exact length of its PDU
    opening  bytes that the PDU must begin with: function and byte count, or the echo of a write
    """

    unit: int
    size: int
    opening: bytes

    def find(self, data: bytes) -> bytes:
        """The frame that answers, wherever it stands in what the line brought; empty without one.

        A transceiver that is switched on or off adds bytes of its own, and the late answer of a
        question that timed out may come first. Neither is the answer, and neither hides it.
        """
        refusal = bytes((self.unit, self.opening[0] | 0x80))
        answer = bytes((self.unit,)) + self.opening
        for start in range(len(data) - EXCEPTION_BYTES + 1):
            if data[start] != self.unit:
                continue
            for head, length in ((answer, self.size + ADU_BYTES), (refusal, EXCEPTION_BYTES)):
                found = data[start : start + length]
                if (
                    len(found) == length
                    and found.startswith(head)
                    and crc16(found[:-2]) == found[-2:]
                ):
                    return found
        return b""

    def spoiled(self, data: bytes) -> bool:
        """True where the answer was among that, or something of its length: it came already."""
        head = bytes((self.unit,)) + self.opening
        at = data.find(head)
        return at >= 0 and len(data) - at >= self.size + ADU_BYTES


def guard_of(pdu: bytes, owed: Collection[bytes]) -> tuple[bytes, bytes] | None:
    """A read like `pdu` whose answer has a length that none of `owed` has, as PDU and opening.

    owed  openings of answers that may still come
    None for what is no read, and where there is no such length.
    """
    function = pdu[0]
    if function not in READS:
        return None
    first, count = int.from_bytes(pdu[1:3], "big"), int.from_bytes(pdu[3:5], "big")
    step, count_max = (8, BITS_MAX) if function in READS_OF_BITS else (1, REGISTERS_MAX)
    steps = -(-count // step)
    # Less is better than more: behind the last register there may be none.
    for other in [*range(steps - 1, 0, -1), *range(steps + 1, count_max // step + 1)]:
        opening = bytes((function, other if step == 8 else 2 * other))
        if opening not in owed and first + other * step <= ADDRESSES:
            return pdu[:3] + (other * step).to_bytes(2, "big"), opening
    return None
