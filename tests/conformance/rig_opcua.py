"""OPC UA: asyncua's server with two readings and a setpoint, each in a scan class of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Final

from asyncua import ua

from config.site import Instrument
from drivers.sim.faults import Faults
from drivers.sim.opcua_server import OpcUaSimulator, SimNode
from tests.conformance.rigs import TIMEOUT_S
from tests.drivers.instruments import instrument

PERIOD_NS: Final = 50_000_000
PUSHED: Final = "values come by subscription; tests/drivers/test_opcua.py has the faults"
EXEMPT: Final = {
    "test_silence_of_one_block_is_its_part_and_the_others_follow": PUSHED,
    "test_a_device_that_vanishes_during_the_wait_is_noticed_at_once": PUSHED,
    "test_a_device_that_hangs_up_behind_each_answer_is_reached_again": PUSHED,
    "test_closing_ends_a_read_that_waits": PUSHED,
    "test_silence_is_no_answer_and_passes": PUSHED,
    "test_a_late_answer_never_becomes_the_answer_to_the_next_question": PUSHED,
    "test_an_answer_just_in_time_counts": PUSHED,
    "test_a_cancelled_read_leaves_nothing_behind": PUSHED,
    "test_what_breaks_the_protocol_is_garbled_and_never_a_value": PUSHED,
    "test_errors_say_what_happened": PUSHED,
}


class _Server:
    """See tests.conformance.rigs.Server."""

    def __init__(self) -> None:
        names = ("First", "Second", "Out")
        self.sim = OpcUaSimulator(
            [SimNode(name, 0.0, ua.VariantType.Float, writable=name == "Out") for name in names]
        )
        self.faults = Faults()

    @property
    def port(self) -> int:
        """Where it listens."""
        return self.sim.port

    @property
    def requests(self) -> int:
        """Values that were written."""
        return self.sim.writes

    @property
    def sessions(self) -> Sequence[Any]:
        """Open connections."""
        return self.sim.sessions

    async def start(self) -> int:
        """See tests.conformance.rigs.Server."""
        return await self.sim.start()

    async def stop(self) -> None:
        """See tests.conformance.rigs.Server."""
        await self.sim.stop()


class OpcUaRig:
    """See tests.conformance.rigs.Rig."""

    communication: ClassVar[str] = "OpcUa"
    exempt: ClassVar[Mapping[str, str]] = EXEMPT

    def __init__(self) -> None:
        self.server = _Server()

    def instrument(self, port: int) -> Instrument:
        """See tests.conformance.rigs.Rig."""
        channels = {
            "First": {"IOPoint": "ns=2;s=First", "Class": "One"},
            "Second": {"IOPoint": "nsu=urn:gatepost:simulator;s=Second", "Class": "Two"},
            "Out": {"IOPoint": "ns=2;s=Out", "ReadWrite": "RW", "Class": "Three"},
        }
        made = instrument(
            channels,
            Communication="OpcUa",
            Server=f"opc.tcp://127.0.0.1:{port}",
            Timeout=TIMEOUT_S,
        )
        return replace(made, periods_ns=dict.fromkeys(("One", "Two", "Three"), PERIOD_NS))

    def set(self, first: float, second: float) -> None:
        """See tests.conformance.rigs.Rig."""
        self.server.sim.set("First", first)
        self.server.sim.set("Second", second)

    def output(self) -> float:
        """See tests.conformance.rigs.Rig."""
        value: float = self.server.sim.get("Out")
        return value


RIGS = (OpcUaRig,)
