"""SunSpec: an inverter, a meter and a power limit, each scaled by a factor of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from config.site import Instrument
from drivers.sim.sunspec_server import SimModel, SunSpecServer
from tests.conformance.rigs import TIMEOUT_S
from tests.drivers.instruments import sunspec


class SunSpecRig:
    """See tests.conformance.rigs.Rig."""

    communication: ClassVar[str] = "SunSpec"
    exempt: ClassVar[Mapping[str, str]] = {}

    def __init__(self) -> None:
        self.server = SunSpecServer([SimModel(1), SimModel(103), SimModel(203), SimModel(704)])
        self.server.put_raw("103.W_SF", -2)
        self.server.put_raw("203.W_SF", -2)
        self.server.put_raw("704.WSet_SF", -1)
        self.server.put_raw("704.WSet", 0)

    def instrument(self, port: int) -> Instrument:
        """See tests.conformance.rigs.Rig."""
        channels = {
            "First": {"IOPoint": "103.W"},
            "Second": {"IOPoint": "203.W"},
            "Out": {"IOPoint": "704.WSet", "ReadWrite": "RW"},
        }
        return sunspec(channels, port, Timeout=TIMEOUT_S)

    def set(self, first: float, second: float) -> None:
        """See tests.conformance.rigs.Rig."""
        self.server.put("103.W", first)
        self.server.put("203.W", second)

    def output(self) -> float:
        """See tests.conformance.rigs.Rig."""
        return self.server.get("704.WSet")


RIGS = (SunSpecRig,)
