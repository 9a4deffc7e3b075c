"""OptoMMP: three analog channels on three modules, so that each is a block of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from config.site import Instrument
from drivers.sim.opto_server import OptoServer
from tests.conformance.rigs import TIMEOUT_S
from tests.drivers.instruments import opto


class OptoRig:
    """See tests.conformance.rigs.Rig."""

    communication: ClassVar[str] = "Opto"
    exempt: ClassVar[Mapping[str, str]] = {}

    def __init__(self) -> None:
        self.server = OptoServer({0: "analog", 1: "analog", 2: "analog"})

    def instrument(self, port: int) -> Instrument:
        """See tests.conformance.rigs.Rig."""
        keys = {"Type": "Analog", "DataType": "float32", "Channel": 0}
        channels = {
            "First": keys | {"Module": 0},
            "Second": keys | {"Module": 1},
            "Out": keys | {"Module": 2, "ReadWrite": "RW"},
        }
        return opto(channels, port, Timeout=TIMEOUT_S)

    def set(self, first: float, second: float) -> None:
        """See tests.conformance.rigs.Rig."""
        self.server.set_analog(0, 0, first)
        self.server.set_analog(1, 0, second)

    def output(self) -> float:
        """See tests.conformance.rigs.Rig."""
        return self.server.analog(2, 0)


RIGS = (OptoRig,)
