"""SCPI: a power supply with three queries and one command."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from config.site import Instrument
from drivers.sim.scpi_server import ScpiServer
from tests.conformance.rigs import TIMEOUT_S
from tests.drivers.instruments import scpi


class ScpiRig:
    """See tests.conformance.rigs.Rig."""

    communication: ClassVar[str] = "SCPI"
    exempt: ClassVar[Mapping[str, str]] = {}

    def __init__(self) -> None:
        self.numbers = {"MEAS:VOLT": 0.0, "MEAS:CURR": 0.0, "VOLT": 0.0}
        self.server = ScpiServer(self.handle)

    def handle(self, message: str) -> str | None:
        """The instrument's answer to one line."""
        header, _, argument = message.partition(" ")
        if argument:
            self.numbers[header] = float(argument)
            return None
        number = self.numbers.get(header.removesuffix("?"))
        return None if number is None else f"{number:.6E}"

    def instrument(self, port: int) -> Instrument:
        """See tests.conformance.rigs.Rig."""
        channels = {
            "First": {"RequestText": "MEAS:VOLT?", "DataType": "NR3"},
            "Second": {"RequestText": "MEAS:CURR?", "DataType": "NR3"},
            "Out": {"RequestText": "VOLT?", "WriteText": "VOLT {value}", "ReadWrite": "RW"},
        }
        return scpi(channels, port, Timeout=TIMEOUT_S)

    def set(self, first: float, second: float) -> None:
        """See tests.conformance.rigs.Rig."""
        self.numbers |= {"MEAS:VOLT": first, "MEAS:CURR": second}

    def output(self) -> float:
        """See tests.conformance.rigs.Rig."""
        return self.numbers["VOLT"]


RIGS = (ScpiRig,)
