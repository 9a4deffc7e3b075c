"""Modbus TCP: three floats, far apart so that each is a block of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from config.site import Instrument
from drivers.sim.modbus_server import ModbusServer, RegisterBank
from tests.conformance.rigs import TIMEOUT_S
from tests.drivers.instruments import modbus


class ModbusRig:
    """See tests.conformance.rigs.Rig."""

    communication: ClassVar[str] = "ModbusTcpGeneric"
    exempt: ClassVar[Mapping[str, str]] = {}

    def __init__(self) -> None:
        self.bank = RegisterBank()
        self.server = ModbusServer(self.bank)

    def instrument(self, port: int) -> Instrument:
        """See tests.conformance.rigs.Rig."""
        keys = {"Type": "HRegister", "DataType": "float32"}
        channels = {
            "First": keys | {"IOPoint": 0},
            "Second": keys | {"IOPoint": 1000},
            "Out": keys | {"IOPoint": 2000, "ReadWrite": "RW"},
        }
        return modbus(channels, port, Timeout=TIMEOUT_S)

    def set(self, first: float, second: float) -> None:
        """See tests.conformance.rigs.Rig."""
        self.bank.put_float32("holding", 0, first)
        self.bank.put_float32("holding", 1000, second)

    def output(self) -> float:
        """See tests.conformance.rigs.Rig."""
        return self.bank.get_float32("holding", 2000)


RIGS = (ModbusRig,)
