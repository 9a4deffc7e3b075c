"""SCPI over VISA: the power supply of rig_scpi.py, on HiSLIP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

from config.site import Instrument
from drivers.sim.hislip_server import HislipServer
from tests.conformance.rig_scpi import ScpiRig
from tests.conformance.rigs import TIMEOUT_S
from tests.drivers.instruments import scpi

LEAK: Final = (
    "PyVISA leaves the socket of a refused connection to the garbage collector, which warns; "
    "see tests/drivers/test_scpi_visa.py"
)


class HislipRig(ScpiRig):
    """See tests.conformance.rigs.Rig."""

    exempt: ClassVar[Mapping[str, str]] = {
        "test_what_breaks_the_protocol_is_garbled_and_never_a_value": (
            "PyVISA gives no half message out: it is no answer"
        ),
        "test_a_refused_connection_is_no_connection": LEAK,
        "test_a_peer_that_accepts_no_connection_is_no_connection": LEAK,
        "test_errors_say_what_happened": LEAK,
    }

    def __init__(self) -> None:
        super().__init__()
        self.server = HislipServer(self.handle)  # type: ignore[assignment]

    def instrument(self, port: int) -> Instrument:
        """See tests.conformance.rigs.Rig."""
        made = super().instrument(port)
        keys = {name: c.model_dump(exclude_unset=True) for name, c in made.channels.items()}
        address = f"TCPIP::127.0.0.1::hislip0,{port}::INSTR"
        return scpi(keys, port, VISA_address=address, Timeout=TIMEOUT_S)


RIGS = (HislipRig,)
