"""Modbus RTU: the floats of rig_modbus.py, on a pty at full speed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from config.site import Instrument
from drivers.sim.modbus_server import RegisterBank
from drivers.sim.rtu_server import RtuServer
from tests.conformance.rigs import TIMEOUT_S
from tests.drivers.instruments import instrument

NO_SOCKET: Final = "a serial port is there or not; nobody accepts a connection"
NOISE: Final = (
    "silence separates frames, so a spoiled one ends nothing: it is no answer, and the text says "
    "what was heard; see tests/drivers/test_modbus_rtu.py"
)


class ModbusRtuRig:
    """See tests.conformance.rigs.Rig."""

    communication: ClassVar[str] = "ModbusRTU"
    exempt: ClassVar[Mapping[str, str]] = {
        "test_a_peer_that_accepts_no_connection_is_no_connection": NO_SOCKET,
        "test_a_device_that_hangs_up_behind_each_answer_is_reached_again": NO_SOCKET,
        "test_what_breaks_the_protocol_is_garbled_and_never_a_value": NOISE,
    }

    def __init__(self) -> None:
        self.bank = RegisterBank()
        self.server: Any = RtuServer(self.bank)

    def instrument(self, port: Any) -> Instrument:
        """See tests.conformance.rigs.Rig."""
        keys = {"Type": "HRegister", "DataType": "float32"}
        channels = {
            "First": keys | {"IOPoint": 0},
            "Second": keys | {"IOPoint": 1000},
            "Out": keys | {"IOPoint": 2000, "ReadWrite": "RW"},
        }
        place = {"Port": port, "Unit": 1, "Parity": "N"}
        return instrument(channels, Communication="ModbusRTU", Connection=place, Timeout=TIMEOUT_S)

    def set(self, first: float, second: float) -> None:
        """See tests.conformance.rigs.Rig."""
        self.bank.put_float32("holding", 0, first)
        self.bank.put_float32("holding", 1000, second)

    def output(self) -> float:
        """See tests.conformance.rigs.Rig."""
        return self.bank.get_float32("holding", 2000)


RIGS = (ModbusRtuRig,)
