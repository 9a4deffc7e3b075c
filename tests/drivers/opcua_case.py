"""What the OPC UA tests share: instruments, what a driver yields, and a wire that can be cut."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from asyncua import ua

from config.site import Instrument
from drivers.contract import Surroundings, Update
from drivers.errors import DriverError
from drivers.opcua.client import OpcUaDriver
from drivers.opcua.driver import PROTOCOL
from drivers.sim.opcua_server import SimNode
from gateway.core.clock import SystemClock
from tests.drivers.instruments import instrument
from tests.sync import support

PERIOD_NS = 50_000_000
T = ua.VariantType
NODES = (
    SimNode("Pump.Flow", 1.5, units="m3/h", low=0.0, high=10.0),
    SimNode("Pump.Speed", 0.0, T.Float, writable=True),
    SimNode("Pump.Count", 7, T.Int16, writable=True),
    SimNode("Pump.Mode", 1, T.Int32, states=("off", "on")),
    SimNode("Pump.Label", "run", T.String, writable=True),
    SimNode("Cells", [1.0, 2.0, 3.0], T.Double),
)
FLOW = {"IOPoint": "ns=2;s=Pump.Flow"}
SPEED = {"IOPoint": "ns=2;s=Pump.Speed", "ReadWrite": "RW"}


def client(url: str, channels: dict[str, dict[str, Any]], **tags: Any) -> Instrument:
    """An instrument whose scan class has a period of 50 ms."""
    keys = {"Communication": "OpcUa", "Server": url, "Timeout": 5.0}
    made = instrument(channels, **keys | tags)
    return replace(made, periods_ns={"Fast": PERIOD_NS})


class Taken:
    """What a driver yields, by channel."""

    def __init__(self, made: Instrument) -> None:
        self.names = {point.index: name for name, point in made.points.items()}
        self.values: dict[str, tuple[float, int]] = {}
        self.utc_ns: dict[str, int] = {}
        self.count: dict[str, int] = dict.fromkeys(made.points, 0)
        self.ended: DriverError | None = None

    def add(self, update: Update) -> None:
        assert update.codes is not None
        stamps: Any = update.utc_ns
        for row, value, code, stamp in zip(
            update.index, update.values, update.codes, stamps, strict=True
        ):
            name = self.names[int(row)]
            self.values[name] = (float(value), int(code))
            self.utc_ns[name] = int(stamp)
            self.count[name] += 1

    async def follow(self, driver: OpcUaDriver) -> None:
        try:
            async for update in driver.updates():
                self.add(update)
        except DriverError as error:
            self.ended = error


def open_driver(made: Instrument) -> OpcUaDriver:
    assert [f for f in PROTOCOL.check(made) if f.severity == "error"] == []
    driver = PROTOCOL.open(made, Surroundings(SystemClock()))
    assert isinstance(driver, OpcUaDriver)
    return driver


@asynccontextmanager
async def connected(made: Instrument) -> AsyncIterator[tuple[OpcUaDriver, Taken]]:
    driver = open_driver(made)
    await driver.connect()
    taken = Taken(made)
    async with support.running(taken.follow(driver)):
        try:
            yield driver, taken
        finally:
            await driver.close()


class Wire:
    """A TCP proxy in front of a server: it can stall, and spoil what the server says."""

    def __init__(self, port: int) -> None:
        self.behind = port
        self.port = 0
        self.stalled = False
        self.spoil: Callable[[bytes], bytes] | None = None
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self.port

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            inner, outer = await asyncio.open_connection("127.0.0.1", self.behind)
            try:
                await asyncio.gather(
                    self._pass(reader, outer, None), self._pass(inner, writer, self._spoiled)
                )
            finally:
                outer.close()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self._tasks.discard(task)

    def _spoiled(self, data: bytes) -> bytes:
        return data if self.spoil is None else self.spoil(data)

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        change: Callable[[bytes], bytes] | None,
    ) -> None:
        while data := await reader.read(65536):
            while self.stalled:
                await asyncio.sleep(0.01)
            writer.write(data if change is None else change(data))
            await writer.drain()
        with contextlib.suppress(OSError):
            writer.write_eof()
        raise ConnectionResetError
