"""The serial port: opened beside the loop, by its last user closed, and adapters that echo."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import serial

from drivers.contract import Surroundings, read_block
from drivers.errors import NoAnswer, NotConnected
from drivers.modbus.rtu import PROTOCOL
from drivers.sim.modbus_server import RegisterBank
from drivers.sim.rtu_server import RtuServer
from gateway.core.clock import SystemClock
from tests.drivers.instruments import instrument
from tests.drivers.rtu_bench import Device, rtu

UNITS = (1, 2, 3)
TIMEOUT_S = 0.15


@pytest.fixture
async def server() -> AsyncIterator[RtuServer]:
    """A line with one unit, whose F0 is 10."""
    made = RtuServer(RegisterBank())
    made.banks[1].put_float32("holding", 0, 10.0)
    await made.start()
    yield made
    await made.stop()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.002)


@pytest.mark.parametrize("port", ["/dev/null", "/etc/hostname", "/proc/self", "/nowhere/tty"])
async def test_what_is_no_serial_port_is_not_connected(port: str) -> None:
    device = Device(rtu(port))
    with pytest.raises(NotConnected, match=port):
        await device.driver.connect()
    await device.driver.close()


async def test_a_port_that_takes_its_time_to_open_stops_nobody(server, monkeypatch) -> None:
    """Some USB adapters hold `open` for seconds; the loop has trips to watch."""
    monkeypatch.setattr("drivers.modbus.rtu_line.OPEN_MAX_S", 0.2)
    opened, calls, open_port = threading.Event(), [], serial.serial_for_url

    def slow(*args: Any, **keys: Any) -> Any:
        calls.append(threading.get_ident())
        opened.wait(10)
        return open_port(*args, **keys)

    monkeypatch.setattr(serial, "serial_for_url", slow)
    around = Surroundings(SystemClock())
    three = [Device(rtu(server.port, unit), around) for unit in UNITS]
    try:
        done = await asyncio.gather(
            *(device.driver.connect() for device in three), return_exceptions=True
        )
        for error in done:
            assert isinstance(error, NotConnected)
            assert "does not open" in str(error)
        with pytest.raises(NotConnected):  # nor does the next try start another thread
            await three[0].driver.connect()
    finally:
        opened.set()
    assert len(calls) == 1
    assert calls[0] != threading.get_ident()
    (line,) = around.shared.values()
    await until(lambda: line._opener._ended.is_set() and not server.sessions)
    await three[0].driver.connect()
    assert await three[0].value("F0") == 10.0
    await three[0].driver.close()


async def test_a_cancelled_connect_leaves_the_port_free(server: RtuServer) -> None:
    for turns in range(6):
        device = Device(rtu(server.port))
        connecting = asyncio.create_task(device.driver.connect())
        for _ in range(turns):
            await asyncio.sleep(0)
        connecting.cancel()
        await asyncio.gather(connecting, return_exceptions=True)
        await device.driver.close()
        await until(lambda: not server.sessions)


async def test_an_echo_is_no_value(server: RtuServer) -> None:
    """17 to 24 bits from 0x300 on: the question looks like an answer."""
    channels = {f"B{at}": {"Type": "Coil", "IOPoint": 0x300 + at} for at in range(17)}
    place = {"Port": server.port, "Unit": 1, "Parity": "N"}
    made = instrument(channels, Communication="ModbusRTU", Connection=place, Timeout=TIMEOUT_S)
    (block,) = PROTOCOL.plan(made)
    driver = PROTOCOL.open(made, Surroundings(SystemClock()))
    server.line.echoes = True
    await driver.connect()
    server.faults.silent = True
    with pytest.raises(NoAnswer):
        await read_block(PROTOCOL, driver, block)
    server.faults.silent = False
    server.banks[1].coils[0x300 + 3] = True
    values = await read_block(PROTOCOL, driver, block)
    assert list(values).index(1.0) == 3
    await driver.close()
