"""Modbus RTU under random treatment: nothing leaks, nobody starves, no value is another one's."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import pytest

from drivers.contract import Surroundings
from drivers.errors import DriverError, NoAnswer
from drivers.modbus.rtu_line import RtuLine
from drivers.sim.faults import Faults
from drivers.sim.rtu_server import RtuServer
from gateway.core.clock import SystemClock
from tests.drivers.rtu_bench import FLOATS, Device, rtu, server_of

UNITS = (1, 2, 3, 4)
TIMEOUT_S = 0.04


@pytest.fixture
async def server() -> AsyncIterator[RtuServer]:
    made = server_of(UNITS)
    await made.start()
    yield made
    await made.stop()


async def use(device: Device, unit: int, dice: random.Random, wrong: list[str]) -> None:
    """Connect, ask, write, close, in any order, as no poll engine would."""
    written = 0.0
    while True:
        with contextlib.suppress(DriverError):
            match dice.randrange(8):
                case 0:
                    await device.driver.connect()
                case 1:
                    await device.driver.close()
                case 2:
                    written += 1.0
                    await device.write("Out", written)
                case 3:
                    await device.write("Flag", dice.randrange(2))
                case _:
                    at = dice.randrange(FLOATS)
                    value = await device.value(f"F{at}")
                    if value != 10.0 * unit + at:
                        wrong.append(f"unit {unit}, F{at} = {value}")
        await asyncio.sleep(0)


@pytest.mark.parametrize("seed", range(3))
async def test_random_users_of_a_line_leave_nothing_behind(server: RtuServer, seed: int) -> None:
    dice = random.Random(seed)
    around = Surroundings(SystemClock())
    before = asyncio.all_tasks()
    devices = {unit: Device(rtu(server.port, unit, Timeout=TIMEOUT_S), around) for unit in UNITS}
    wrong: list[str] = []
    tasks: dict[int, asyncio.Task[None]] = {}
    for step in range(60):
        unit = dice.choice(UNITS)
        if unit in tasks:
            tasks[unit].cancel()  # in the middle of whatever it is doing
            await asyncio.gather(tasks.pop(unit), return_exceptions=True)
        tasks[unit] = asyncio.create_task(use(devices[unit], unit, dice, wrong))
        server.unit_faults = {dice.choice(UNITS): Faults(silent=True)} if step % 3 == 0 else {}
        server.line.echoes = False
        server.reply_s = dice.choice((0.0, 0.0, 0.005, TIMEOUT_S * 1.5))
        if step % 15 == 14:
            await server.stop()
            await asyncio.sleep(0.01)
            await server.start()
        await asyncio.sleep(dice.random() * 0.02)
    for task in tasks.values():
        task.cancel()
    await asyncio.gather(*tasks.values(), return_exceptions=True)
    for device in devices.values():
        await device.driver.close()
    assert wrong == []
    async with asyncio.timeout(5):
        while asyncio.all_tasks() - before - {server.line._sender}:
            await asyncio.sleep(0.002)
    for line in around.shared.values():
        assert isinstance(line, RtuLine)
        assert not line.is_open
        assert not line._busy
        assert not line._users
        assert not [entry for entry in line._waiting if not entry[2].done()]
    async with asyncio.timeout(5):
        while server.sessions:
            await asyncio.sleep(0.002)
    server.unit_faults, server.reply_s = {}, 0.0
    await devices[1].driver.connect()
    for _ in range(3):
        with contextlib.suppress(NoAnswer):
            assert await devices[1].value("F1") == 11.0
            break
    else:
        raise AssertionError("the line was never understood again")
    await devices[1].driver.close()


async def test_a_dead_unit_takes_no_more_than_its_turn(server: RtuServer) -> None:
    """The dead one asks without end; between two of its questions everyone has had a turn."""
    around = Surroundings(SystemClock())
    devices = {unit: Device(rtu(server.port, unit, Timeout=TIMEOUT_S), around) for unit in UNITS}
    server.unit_faults[2] = Faults(silent=True)
    for device in devices.values():
        await device.driver.connect()

    async def ask(unit: int) -> None:
        while True:
            with contextlib.suppress(NoAnswer):
                await devices[unit].value("F0")

    tasks = [asyncio.create_task(ask(unit)) for unit in UNITS]
    async with asyncio.timeout(10):
        while server.requests < 60:
            await asyncio.sleep(0.002)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    asked = server.asked[8:]
    assert {asked[at : at + 4].count(unit) for at in range(0, 48, 4) for unit in UNITS} == {1}
    for device in devices.values():
        await device.driver.close()
