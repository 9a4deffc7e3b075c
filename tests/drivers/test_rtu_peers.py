"""Modbus RTU against programs that we did not write: pymodbus's server over socat, and mbpoll."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pymodbus.server import ModbusSerialServer
from pymodbus.simulator import DataType, SimData, SimDevice

from drivers.errors import NotConnected, Refused
from drivers.sim.modbus_server import RegisterBank
from drivers.sim.rtu_server import RtuServer
from tests.drivers.rtu_bench import FLOATS, Device, rtu


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.fail(f"{name} is not installed: run tools/system-packages, or apt install {name}")
    return found


@pytest.fixture
async def cable(tmp_path: Path) -> AsyncIterator[tuple[Path, Path, asyncio.subprocess.Process]]:
    """Two ports joined by socat."""
    ends = tmp_path / "near", tmp_path / "far"
    words = [f"pty,raw,echo=0,link={end}" for end in ends]
    socat = await asyncio.create_subprocess_exec(program("socat"), *words)
    async with asyncio.timeout(10):
        while not all(end.exists() for end in ends):
            await asyncio.sleep(0.01)
    yield (*ends, socat)
    if socat.returncode is None:
        socat.terminate()
    await socat.wait()


def their_device(unit: int) -> SimDevice:
    data = [
        SimData(100 * at, values=[10.0 * unit + at], datatype=DataType.FLOAT32)
        for at in range(FLOATS)
    ]
    data.append(SimData(2000, values=[0.0], datatype=DataType.FLOAT32))
    data.append(SimData(3000, values=[0b0101_0000], datatype=DataType.REGISTERS))
    return SimDevice(id=unit, simdata=data)


async def test_pymodbus_units_are_read_and_written(cable) -> None:
    near, far, socat = cable
    server = ModbusSerialServer(
        [their_device(1), their_device(2)], port=str(far), baudrate=19_200, reconnect_delay=0
    )
    await server.serve_forever(background=True)
    first = Device(rtu(str(near), 1, Timeout=1.0))
    second = Device(rtu(str(near), 2, Timeout=1.0), first.surroundings)
    try:
        for unit, device in ((1, first), (2, second)):
            await device.driver.connect()
            values = [await device.value(f"F{at}") for at in range(FLOATS)]
            assert values == [10.0 * unit + at for at in range(FLOATS)]
            await device.write("Out", 48.5 * unit)
            assert await device.value("Out") == 48.5 * unit
            assert await device.value("Flag") == 0
            await device.write("Flag", 1)
            assert await device.value("Flag") == 1
        socat.terminate()  # the adapter is pulled
        await socat.wait()
        with pytest.raises(NotConnected):
            await first.value("F0")
    finally:
        await first.driver.close()
        await second.driver.close()
        await server.shutdown()


async def test_a_refusal_of_pymodbus_is_its_word(cable) -> None:
    near, far, _ = cable
    data = [SimData(0, values=[1.5], datatype=DataType.FLOAT32)]
    server = ModbusSerialServer([SimDevice(id=1, simdata=data)], port=str(far))
    await server.serve_forever(background=True)
    device = Device(rtu(str(near), 1, Timeout=1.0))
    try:
        await device.driver.connect()
        assert await device.value("F0") == 1.5
        with pytest.raises(Refused, match="illegal data address"):
            await device.value("F1")
        assert await device.value("F0") == 1.5
    finally:
        await device.driver.close()
        await server.shutdown()


async def test_mbpoll_reads_and_writes_our_units() -> None:
    bank = RegisterBank()
    bank.put_float32("holding", 100, 3.25)
    server = RtuServer(bank, unit=7)
    port = await server.start()

    async def mbpoll(*arguments: str) -> str:
        words = ("-m", "rtu", "-b", "19200", "-P", "none", "-a", "7", "-0", "-1", "-o", "2")
        process = await asyncio.create_subprocess_exec(
            program("mbpoll"),
            *words,
            "-t",
            "4:float",
            "-B",
            *arguments,
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
        return output.decode()

    try:
        assert "[100]: \t3.25" in await mbpoll("-r", "100", port)
        assert "Written 1 references" in await mbpoll("-r", "102", port, "48.5")
        assert bank.get_float32("holding", 102) == 48.5
    finally:
        await server.stop()
