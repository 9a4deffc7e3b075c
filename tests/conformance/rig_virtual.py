"""Virtual: memory in this process; no socket, so nothing of what happens on one applies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

from config.site import Instrument
from drivers.sim.faults import Faults
from tests.drivers.instruments import instrument

NO_SOCKET: Final = "there is no device and no connection"
CONSTANT: Final = "a constant does not change"


class NoServer:
    """Nothing to start or stop."""

    port = 0
    requests = 0

    def __init__(self) -> None:
        self.sessions: list[object] = []
        self.faults = Faults()

    async def start(self) -> int:
        """See tests.conformance.rigs.Server."""
        return 0

    async def stop(self) -> None:
        """See tests.conformance.rigs.Server."""


class VirtualRig:
    """Two constants and one memory."""

    communication: ClassVar[str] = "Virtual"
    exempt: ClassVar[Mapping[str, str]] = {
        "test_it_reads_what_the_device_measures": CONSTANT,
        "test_what_is_written_arrives_and_reads_back": "the memory is the driver's own",
        "test_closing_twice_and_closing_unconnected_is_harmless": NO_SOCKET,
        "test_connecting_again_leaves_one_connection": NO_SOCKET,
        "test_without_a_connection_nothing_is_read_or_written": NO_SOCKET,
        "test_a_value_that_does_not_fit_is_refused_unsent": "memory holds every number",
        "test_a_refused_connection_is_no_connection": NO_SOCKET,
        "test_a_peer_that_accepts_no_connection_is_no_connection": NO_SOCKET,
        "test_a_restarted_device_is_read_again_after_connecting": NO_SOCKET,
        "test_a_device_that_vanishes_during_the_wait_is_noticed_at_once": NO_SOCKET,
        "test_a_device_that_hangs_up_behind_each_answer_is_reached_again": NO_SOCKET,
        "test_closing_ends_a_read_that_waits": NO_SOCKET,
        "test_silence_is_no_answer_and_passes": NO_SOCKET,
        "test_silence_of_one_block_is_its_part_and_the_others_follow": NO_SOCKET,
        "test_a_late_answer_never_becomes_the_answer_to_the_next_question": NO_SOCKET,
        "test_an_answer_just_in_time_counts": NO_SOCKET,
        "test_a_cancelled_read_leaves_nothing_behind": NO_SOCKET,
        "test_what_breaks_the_protocol_is_garbled_and_never_a_value": NO_SOCKET,
        "test_errors_say_what_happened": NO_SOCKET,
    }

    def __init__(self) -> None:
        self.server = NoServer()

    def instrument(self, port: int) -> Instrument:
        """See tests.conformance.rigs.Rig."""
        channels = {
            "First": {"SafeValue": 11.5, "Class": "A"},
            "Second": {"SafeValue": 22.25, "Class": "B"},
            "Out": {"ReadWrite": "RW", "Class": "C"},
        }
        return instrument(channels, Communication="Virtual")

    def set(self, first: float, second: float) -> None:
        """See tests.conformance.rigs.Rig."""

    def output(self) -> float:
        """See tests.conformance.rigs.Rig."""
        raise AssertionError("not asked")


RIGS = (VirtualRig,)
