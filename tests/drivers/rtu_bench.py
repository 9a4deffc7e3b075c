"""Instruments on a serial line, for the tests of Modbus RTU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from config.site import Instrument
from drivers.contract import Block, Driver, Surroundings, read_block
from drivers.modbus.rtu import PROTOCOL
from drivers.sim.modbus_server import RegisterBank
from drivers.sim.rtu_server import RtuServer
from gateway.core.clock import SystemClock
from tests.drivers.instruments import instrument

FLOATS = 8  # channels F0 to F7, each of them a block of its own


def rtu(port: str, unit: int = 1, **keys: Any) -> Instrument:
    """Floats 100 registers apart, an output and a flag."""
    holding = {"Type": "HRegister", "DataType": "float32"}
    channels: dict[str, dict[str, Any]] = {
        f"F{at}": holding | {"IOPoint": 100 * at} for at in range(FLOATS)
    }
    channels["Out"] = holding | {"IOPoint": 2000, "ReadWrite": "RW"}
    channels["Flag"] = {
        "Type": "HRegister", "DataType": "bit", "BitStart": 3, "IOPoint": 3000, "ReadWrite": "RW",
    }  # fmt: skip
    place = {"Port": port, "Unit": unit, "Parity": "N", "Baudrate": keys.pop("Baudrate", 19_200)}
    tags = {"Communication": "ModbusRTU", "Connection": place, "Timeout": 5.0} | keys
    return instrument(channels, **tags)


def bank_of(unit: int) -> RegisterBank:
    """Its registers: channel F<n> of unit u is 10 u + n."""
    bank = RegisterBank()
    for at in range(FLOATS):
        bank.put_float32("holding", 100 * at, 10.0 * unit + at)
    return bank


def server_of(units: Sequence[int]) -> RtuServer:
    """A line with these units, the first of them first; not started."""
    made = RtuServer(bank_of(units[0]))
    for unit in units[1:]:
        made.banks[unit] = bank_of(unit)
    return made


class Device:
    """An instrument, its driver and its blocks by channel."""

    def __init__(self, made: Instrument, surroundings: Surroundings | None = None) -> None:
        self.instrument = made
        self.surroundings = surroundings or Surroundings(SystemClock())
        self.driver: Driver = PROTOCOL.open(made, self.surroundings)
        names = list(made.points)
        plan = PROTOCOL.plan(made)
        self.blocks: dict[str, Block] = {names[int(b.index[0]) - 1]: b for b in plan}

    async def value(self, channel: str) -> float:
        """The only value of a block."""
        (value,) = await read_block(PROTOCOL, self.driver, self.blocks[channel])
        return float(value)

    async def write(self, channel: str, value: float) -> None:
        """Set a channel."""
        await self.driver.write(self.instrument.points[channel], value)
