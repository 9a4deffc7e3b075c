"""One rig a driver: a device on a real socket with two readings and one output.

A new driver adds its rig to `RIGS`; the suite in test_driver.py then runs over it.
"""

from __future__ import annotations

from typing import Final, Protocol

from config.site import Instrument
from drivers.sim.listener import Listener
from drivers.sim.modbus_server import ModbusServer, RegisterBank
from drivers.sim.scpi_server import ScpiServer
from tests.drivers.instruments import modbus, scpi

TIMEOUT_S: Final = 0.4


class Rig(Protocol):
    """What the suite asks of a device: numbers to be read, and the number that was written."""

    server: Listener
    communication: str

    def instrument(self, port: int) -> Instrument:
        """Channels ``First`` and ``Second`` (R), each a block of its own, and ``Out`` (RW)."""

    def set(self, first: float, second: float) -> None:
        """What the device measures from now on."""

    def output(self) -> float:
        """What was written last."""


class ModbusRig:
    """Three floats, far apart so that each is a block of its own."""

    communication = "ModbusTcpGeneric"

    def __init__(self) -> None:
        self.bank = RegisterBank()
        self.server: Listener = ModbusServer(self.bank)

    def instrument(self, port: int) -> Instrument:
        keys = {"Type": "HRegister", "DataType": "float32"}
        channels = {
            "First": keys | {"IOPoint": 0},
            "Second": keys | {"IOPoint": 1000},
            "Out": keys | {"IOPoint": 2000, "ReadWrite": "RW"},
        }
        return modbus(channels, port, Timeout=TIMEOUT_S)

    def set(self, first: float, second: float) -> None:
        self.bank.put_float32("holding", 0, first)
        self.bank.put_float32("holding", 1000, second)

    def output(self) -> float:
        return self.bank.get_float32("holding", 2000)


class ScpiRig:
    """A power supply with three queries and one command."""

    communication = "SCPI"

    def __init__(self) -> None:
        self.numbers = {"MEAS:VOLT": 0.0, "MEAS:CURR": 0.0, "VOLT": 0.0}
        self.server: Listener = ScpiServer(self.handle)

    def handle(self, message: str) -> str | None:
        header, _, argument = message.partition(" ")
        if argument:
            self.numbers[header] = float(argument)
            return None
        number = self.numbers.get(header.removesuffix("?"))
        return None if number is None else f"{number:.6E}"

    def instrument(self, port: int) -> Instrument:
        channels = {
            "First": {"RequestText": "MEAS:VOLT?", "DataType": "NR3"},
            "Second": {"RequestText": "MEAS:CURR?", "DataType": "NR3"},
            "Out": {"RequestText": "VOLT?", "WriteText": "VOLT {value}", "ReadWrite": "RW"},
        }
        return scpi(channels, port, Timeout=TIMEOUT_S)

    def set(self, first: float, second: float) -> None:
        self.numbers |= {"MEAS:VOLT": first, "MEAS:CURR": second}

    def output(self) -> float:
        return self.numbers["VOLT"]


RIGS: Final[tuple[type[ModbusRig] | type[ScpiRig], ...]] = (ModbusRig, ScpiRig)
