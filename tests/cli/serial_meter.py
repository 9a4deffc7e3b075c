"""A Modbus RTU meter at the end of a pseudo-terminal: unit 3, holding registers 10 to 13.

    python -m tests.cli.serial_meter DESCRIPTOR

Answers function 3 only; everything else is an illegal function.
"""

from __future__ import annotations

import os
import struct
import sys
import tty

UNIT = 3
REGISTERS = range(10, 14)


def crc(data: bytes) -> bytes:
    """The checksum of Modbus over Serial Line V1.02, section 6.2.2."""
    value = 0xFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0xA001 if value & 1 else 0)
    return struct.pack("<H", value)


def answer(request: bytes) -> bytes:
    """The answer to one request without its checksum; empty for another unit's."""
    unit, function = request[0], request[1]
    if unit != UNIT:
        return b""
    if function != 3:
        return bytes((unit, function | 0x80, 1))
    first, count = struct.unpack(">HH", request[2:6])
    if first not in REGISTERS or first + count - 1 not in REGISTERS:
        return bytes((unit, function | 0x80, 2))
    values = range(100 + first, 100 + first + count)
    return bytes((unit, function, 2 * count)) + struct.pack(f">{count}H", *values)


def main() -> None:
    """Serve until killed. All requests that a scan sends, but for one, are 8 bytes long."""
    descriptor = int(sys.argv[1])
    tty.setraw(descriptor)
    while True:
        request = os.read(descriptor, 256)
        if len(request) >= 4 and crc(request[:-2]) == request[-2:]:
            reply = answer(request)
            if reply:
                os.write(descriptor, reply + crc(reply))


if __name__ == "__main__":
    main()
