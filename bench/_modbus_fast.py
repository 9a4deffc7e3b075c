"""A Modbus TCP device that costs little: answers come from one table of bytes.

    python -m bench._modbus_fast --port 0 [--devices 10]

prints its ports in one line, separated by spaces, and ends with its standard input. A line on
standard input is answered with the number of requests served so far. It knows functions 3 and 4
of any unit and answers anything else with exception 1 or 2.

Every register changes at every reading. Each fifth one (address 0, 5, 10, ...) carries the
moment of the answer, so that whoever receives it knows its age:
`milliseconds of the monotonic clock + 31 * address`, modulo 65536. The others carry a level of
their own and ten bits of noise, which no compression takes off. With `--count` every register
holds the number of the answer instead, modulo 65536, so that a reading that is lost leaves a hole.
"""

from __future__ import annotations

import argparse
import asyncio
import struct
import sys
import time
from functools import partial
from typing import Any, Final, cast

import numpy as np
import uvloop
from numpy.typing import NDArray

HOST: Final = "127.0.0.1"
REGISTERS: Final = 8_000
REGISTERS_READ_MAX: Final = 125
MARK_EVERY: Final = 5
MARK_STEP: Final = 31
REST_BYTES_MAX: Final = 65_536  # of requests whose end has not come yet
_NOISE: Final = 4_096
_REQUEST: Final = struct.Struct(">HHHBBHH")  # transaction, protocol, length, unit, function, ...
_HEADER: Final = struct.Struct(">HHHBBB")


def is_mark(addresses: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which registers carry the moment of the answer."""
    return cast(NDArray[np.bool_], addresses % MARK_EVERY == 0)


def age_ms(values: NDArray[np.int64], addresses: NDArray[np.int64], now_ms: int) -> NDArray[Any]:
    """Ages of values of marked registers at a moment of the monotonic clock; up to 65 s."""
    return (now_ms - values + MARK_STEP * addresses) % 65_536


class Table:
    """The registers' bytes, big endian, made anew at most once a millisecond."""

    def __init__(self, device: int) -> None:
        chance = np.random.default_rng(device)
        self._level = chance.integers(0, 60_000, REGISTERS).astype(np.uint16)
        self._noise = chance.integers(0, 1024, REGISTERS + _NOISE).astype(np.uint16)
        marks = np.arange(0, REGISTERS, MARK_EVERY)
        self._marks = (MARK_STEP * marks).astype(np.uint16)
        self._words = np.zeros(REGISTERS, dtype=np.uint16)
        self._made_ms = -1
        self._bytes = b""

    def bytes_now(self) -> bytes:
        """All registers as they are at this moment."""
        now_ms = time.monotonic_ns() // 1_000_000
        if now_ms != self._made_ms:
            self._made_ms = now_ms
            start = now_ms * 97 % _NOISE
            np.add(self._level, self._noise[start : start + REGISTERS], out=self._words)
            self._words[::MARK_EVERY] = self._marks + np.uint16(now_ms % 65_536)
            self._bytes = self._words.astype(">u2").tobytes()
        return self._bytes


class CountingTable:
    """Every register holds the number of the answer."""

    def bytes_now(self) -> bytes:
        """All registers of the next answer."""
        return np.full(REGISTERS, (Session.served + 1) % 65_536, dtype=">u2").tobytes()


class Session(asyncio.Protocol):
    """One connection; answers whatever came in with one write."""

    served = 0  # requests, of all connections

    def __init__(self, table: Table | CountingTable) -> None:
        self._table = table
        self._rest = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        assert self._transport is not None
        if self._rest:
            data = self._rest + data
        registers = self._table.bytes_now()
        answers = []
        at = 0
        while len(data) - at >= _REQUEST.size:
            number, _, length, unit, function, first, count = _REQUEST.unpack_from(data, at)
            if len(data) - at < 6 + length:
                break
            at += 6 + length
            if function not in (3, 4):
                answers.append(_HEADER.pack(number, 0, 3, unit, function | 0x80, 1))
            elif not 1 <= count <= REGISTERS_READ_MAX or first + count > REGISTERS:
                answers.append(_HEADER.pack(number, 0, 3, unit, function | 0x80, 2))
            else:
                answers.append(_HEADER.pack(number, 0, 3 + 2 * count, unit, function, 2 * count))
                answers.append(registers[2 * first : 2 * (first + count)])
            Session.served += 1
        self._rest = data[at:]
        if len(self._rest) > REST_BYTES_MAX:
            self._transport.abort()
        elif answers:
            self._transport.write(b"".join(answers))


async def _serve(port: int, devices: int, *, count: bool) -> None:
    loop = asyncio.get_running_loop()
    ports = []
    for number in range(devices):
        at = port + number if port else 0
        table = CountingTable() if count else Table(number)
        server = await loop.create_server(partial(Session, table), HOST, at)
        ports.append(server.sockets[0].getsockname()[1])
    print(*ports, flush=True)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.readline():
        print(Session.served, flush=True)


def main() -> int:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--port", type=int, default=0, help="first port; 0 = any free ones")
    parser.add_argument("--devices", type=int, default=1, help="how many ports")
    parser.add_argument("--count", action="store_true", help="registers hold the answer's number")
    given = parser.parse_args()
    uvloop.run(_serve(given.port, given.devices, count=given.count))
    return 0


if __name__ == "__main__":
    sys.exit(main())
