"""What polling costs: Modbus TCP requests, read and decoded into the point table.

Each request reads 125 registers, 62 float32 and one uint16, from a server in a process of its
own. The sides take turns in one process on one loop (uvloop), so that a busy machine burdens all:

    bare      a socket loop that only moves the same bytes at the same depth
    poller    gateway/poll.py with drivers/modbus/tcp.py, values in the point table
    int16     the same with 125 int16, scaled and rounded
    pymodbus  its asyncio client, which hands over lists of registers, one request at a time

`cpu_us` is the client's processor time for one request. The checked ratios are medians over the
rounds, each of neighbours in time.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import multiprocessing
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from multiprocessing.connection import Connection
from statistics import median
from time import perf_counter, process_time
from typing import Any, Final, NamedTuple, cast

import numpy as np
import uvloop
from pymodbus.client import AsyncModbusTcpClient

from bench._report import Report, arguments, say
from config.model import InstrumentFile
from config.points import PointDef
from config.site import Instrument, ScanClass
from drivers.contract import Surroundings
from drivers.modbus.tcp import PROTOCOL
from gateway.core.clock import SystemClock
from gateway.core.table import PointTable
from gateway.poll import DevicePoller

HOST: Final = "127.0.0.1"
REGISTERS: Final = 125
FLOATS: Final = 62  # and one uint16
BLOCKS: Final = 160  # requests of a cycle: 10,080 values
DEPTH: Final = 16
ANSWER_BYTES: Final = 9 + 2 * REGISTERS
CACHE_MAX: Final = 4_096
REST_BYTES_MAX: Final = 65_536
REQUEST: Final = struct.Struct(">HHHBBHH")

# Limits of the issue.
RATIO_TO_BARE_MAX: Final = 3.0
RATE_MIN: Final = 25_000.0
TIMES_PYMODBUS_MIN: Final = 4.0


# ---------------------------------------------------------------- the device


def level(address: int) -> float:
    """What the float32 at a register shows."""
    return address / 8


class Device(asyncio.Protocol):
    """Answers whatever came in with one write, out of a cache: it must never be the slower side.

    Function 3 answers floats by pairs of registers within each 125, and the last register's own
    number; function 4 answers register a with a % 1000.
    """

    cache: Final[dict[bytes, bytes]] = {}

    def __init__(self) -> None:
        self._rest = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        assert self._transport is not None
        data = self._rest + data
        end = len(data) - len(data) % REQUEST.size
        answers: list[bytes] = []
        for at in range(0, end, REQUEST.size):
            asked = data[at + 2 : at + REQUEST.size]
            answer = self.cache.get(asked)
            if answer is None:
                answer = _answer(asked)
                if len(self.cache) < CACHE_MAX:
                    self.cache[asked] = answer
            answers += (data[at : at + 2], answer)
        self._rest = data[end:]
        self._transport.write(b"".join(answers))


def _answer(asked: bytes) -> bytes:
    _, _, _, unit, function, first, count = REQUEST.unpack(b"\0\0" + asked)
    if function == 3:
        levels = [level(first + 2 * at) for at in range(FLOATS)]
        data = struct.pack(f">{FLOATS}fH", *levels, first // REGISTERS)
    else:
        data = struct.pack(f">{count}H", *((first + at) % 1000 for at in range(count)))
    assert len(data) == 2 * count
    return struct.pack(">HHBBB", 0, 3 + len(data), unit, function, len(data)) + data


def serve(pipe: Connection) -> None:
    """The device's process: tells its port, and ends when the pipe does."""

    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(Device, HOST, 0)
        pipe.send(server.sockets[0].getsockname()[1])
        with contextlib.suppress(EOFError):
            await asyncio.to_thread(pipe.recv)
        server.close()

    uvloop.run(run())


# ---------------------------------------------------------------- the sides


class Bare(asyncio.Protocol):
    """Sends requests, counts the bytes of the answers, and does nothing with them."""

    def __init__(self, depth: int) -> None:
        self._requests = REQUEST.pack(1, 0, 6, 1, 3, 0, REGISTERS) * depth
        self._depth = depth
        self._transport: asyncio.Transport | None = None
        self._done: asyncio.Future[None] | None = None
        self._bytes = self._left = self._owed = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        assert self._transport is not None
        assert self._done is not None
        self._bytes += len(data)
        answers = self._bytes // ANSWER_BYTES
        if answers:
            self._bytes -= answers * ANSWER_BYTES
            more = min(answers, self._left)
            self._left -= more
            self._owed += more - answers
            if more:
                self._transport.write(self._requests[: more * REQUEST.size])
            elif not self._owed:
                self._done.set_result(None)

    async def run(self, requests: int) -> int:
        """Make so many requests."""
        assert self._transport is not None
        self._done = asyncio.get_running_loop().create_future()
        self._left, self._owed = requests - self._depth, self._depth
        self._transport.write(self._requests)
        await self._done
        return requests

    def close(self) -> None:
        """End the connection."""
        assert self._transport is not None
        self._transport.close()


class Nobody:
    """A listener of the poller that does nothing."""

    def on_block(self, protective: bool) -> None:
        """See gateway.poll.Listener."""

    def on_written(self, write: Any, now_mono_ns: int) -> None:
        """See gateway.poll.Listener."""

    def on_write_failed(self, write: Any, reason: str) -> None:
        """See gateway.poll.Listener."""

    def on_device(self, name: str, up: bool, reason: str) -> None:
        """See gateway.poll.Listener."""
        assert up, reason

    def on_refused(self, name: str, labels: Collection[str]) -> None:
        """See gateway.poll.Listener."""
        raise AssertionError(labels)


def instrument(port: int, depth: int, integers: bool) -> Instrument:
    """A device of `BLOCKS` full requests."""
    channels: dict[str, dict[str, Any]] = {}
    for first in range(0, BLOCKS * REGISTERS, REGISTERS):
        if integers:
            scaled = {"Type": "IRegister", "DataType": "int16", "Scalar": 0.1, "Decimal": 1}
            places = range(first, first + REGISTERS)
            channels |= {f"r{at}": scaled | {"IOPoint": at} for at in places}
        else:
            places = range(first, first + 2 * FLOATS, 2)
            real = {"Type": "HRegister", "DataType": "float32"}
            channels |= {f"r{at}": real | {"IOPoint": at} for at in places}
            number = {"Type": "HRegister", "DataType": "uint16", "IOPoint": first + 2 * FLOATS}
            channels[f"n{first // REGISTERS}"] = number
    tags = {"EquipmentName": "Dev", "Communication": "ModbusTcp", "PortNum": port}
    tags |= {"Connection": {"IP": HOST}, "Depth": depth, "Timeout": 5}
    file = InstrumentFile.model_validate({"EquipmentTags": tags, "Channels": channels})
    points = {
        name: PointDef(at, f"Dev.{name}", "Dev", name, scan_class="Fast")
        for at, name in enumerate(file.Channels, start=1)
    }
    return Instrument("Dev", "Dev.json", file.EquipmentTags, file.Channels, points)


class Polled:
    """A device under the gateway's own poller, as fast as it goes."""

    def __init__(self, port: int, depth: int, *, integers: bool = False) -> None:
        device = instrument(port, depth, integers)
        self._integers = integers
        self._table = PointTable(list(device.points.values()))
        protective = np.zeros(len(device.points) + 1, dtype=np.bool_)
        self._poller = DevicePoller(
            device,
            PROTOCOL,
            {"Fast": ScanClass("Fast", 1)},
            self._table,
            protective,
            Nobody(),
            Surroundings(SystemClock()),
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Poll, from the first full cycle on."""
        task = asyncio.create_task(self._poller.run())
        try:
            await self.run(BLOCKS)
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def run(self, requests: int) -> int:
        """Wait for so many requests, or some more; returns their number."""
        polls = self._poller.statistics.polls
        while self._poller.statistics.polls < polls + requests:
            await asyncio.sleep(0.002)
        return self._poller.statistics.polls - polls

    def check(self) -> None:
        """All values are where they belong."""
        statistics, values = self._poller.statistics, self._table.rows["value"][1:]
        assert statistics.errors == 0, statistics.last_error
        assert (self._table.rows["status"][1:] == 0).all()
        if self._integers:
            expected = [round(at % 1000 * 0.1, 1) for at in range(BLOCKS * REGISTERS)]
        else:
            expected = []
            for number in range(BLOCKS):
                expected += [level(REGISTERS * number + 2 * at) for at in range(FLOATS)]
                expected.append(number)
        np.testing.assert_array_equal(values, expected)


# ---------------------------------------------------------------- the rounds


class Cost(NamedTuple):
    """Of one side in one round."""

    rate: float  # requests a second
    cpu_us: float  # processor time of a request


async def timed(run: Callable[[int], Awaitable[int]], requests: int) -> Cost:
    """Let one side make so many requests."""
    start, cpu = perf_counter(), process_time()
    made = await run(requests)
    return Cost(made / (perf_counter() - start), (process_time() - cpu) / made * 1e6)


async def measure(port: int, rounds: int) -> dict[str, list[Cost]]:
    """Side -> its costs, round by round."""
    loop = asyncio.get_running_loop()
    bare = [
        (await loop.create_connection(lambda depth=depth: Bare(depth), HOST, port))[1]  # type: ignore[misc]
        for depth in (DEPTH, 1)
    ]
    polled = {
        "poller": (Polled(port, DEPTH), 8_000),
        "int16": (Polled(port, DEPTH, integers=True), 8_000),
        "poller_depth_1": (Polled(port, 1), 1_500),
    }
    client = AsyncModbusTcpClient(HOST, port=port, timeout=5)
    await client.connect()

    async def pymodbus(requests: int) -> int:
        for _ in range(requests):
            answer = await client.read_holding_registers(0, count=REGISTERS, device_id=1)
        assert len(answer.registers) == REGISTERS
        return requests

    gc.collect()
    gc.freeze()  # as the field process does
    costs: dict[str, list[Cost]] = {}
    for number in range(rounds + 1):
        made = {"bare": await timed(bare[0].run, 20_000)}
        for name, (side, requests) in polled.items():
            async with side.running():
                made[name] = await timed(side.run, requests)
        made["bare_depth_1"] = await timed(bare[1].run, 2_000)
        made["pymodbus"] = await timed(pymodbus, 500)
        for name, cost in made.items() if number else ():  # the first round warms up
            costs.setdefault(name, []).append(cost)
        if number % 10 == 0:
            say(f"round {number} of {rounds}")
    for side, _ in polled.values():
        side.check()
    for one in bare:
        one.close()
    client.close()
    return costs


def report(costs: dict[str, list[Cost]]) -> Report:
    """Medians, and medians of the ratios of each round."""
    told = Report("poll")

    def ratio(side: str, other: str, what: str = "cpu_us") -> float:
        pairs = zip(costs[side], costs[other], strict=True)
        return median(getattr(a, what) / getattr(b, what) for a, b in pairs)

    for name, rows in costs.items():
        told.figure(f"{name}_requests_per_s", median(row.rate for row in rows))
        told.figure(f"{name}_cpu_us", median(row.cpu_us for row in rows))
    values = (FLOATS + 1) * median(row.rate for row in costs["poller"])
    told.figure("poller_values_per_s", values)
    told.figure("poller_registers_per_s", REGISTERS * median(row.rate for row in costs["poller"]))
    told.figure("poller_depth_1_cpu_times_bare", ratio("poller_depth_1", "bare_depth_1"))
    told.figure("pymodbus_cpu_times_poller_depth_1", ratio("pymodbus", "poller_depth_1"))
    told.figure("int16_cpu_times_bare", ratio("int16", "bare"))
    told.check("poller_cpu_times_bare", ratio("poller", "bare"), "<=", RATIO_TO_BARE_MAX)
    rate = median(row.rate for row in costs["poller"])
    told.check("poller_requests_per_s_on_one_core", rate, ">=", RATE_MIN)
    times = ratio("pymodbus", "poller")
    told.check("pymodbus_cpu_times_poller", times, ">=", TIMES_PYMODBUS_MIN)
    times = ratio("poller", "pymodbus", "rate")
    told.check("poller_rate_times_pymodbus", times, ">=", TIMES_PYMODBUS_MIN)
    return told


def main() -> int:
    """Run and report."""
    given = arguments(__doc__)
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    device = context.Process(target=serve, args=(theirs,))
    device.start()
    theirs.close()
    try:
        costs = uvloop.run(measure(pipe.recv(), 25 if given.quick else 80))
    finally:
        pipe.close()
        device.join(10)
        if device.is_alive():
            device.kill()
    return report(costs).print(given.json)


if __name__ == "__main__":
    sys.exit(main())
