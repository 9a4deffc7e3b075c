"""Ping: the loopback address, which always answers; offsets make the answers differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from config.site import Instrument
from drivers.sim.faults import Faults
from tests.conformance.rigs import TIMEOUT_S
from tests.drivers.instruments import instrument

NO_SERVER = "127.0.0.1 always answers; tests/drivers/test_ping.py has the silence and the faults"


class Loopback:
    """What looks like a server: the system itself answers."""

    def __init__(self) -> None:
        self.port = 0
        self.sessions: set[int] = set()
        self.requests = 0
        self.faults = Faults()

    async def start(self) -> int:
        """Nothing to start."""
        return self.port

    async def stop(self) -> None:
        """Nothing to stop."""


class PingRig:
    """See tests.conformance.rigs.Rig."""

    communication: ClassVar[str] = "Ping"
    exempt: ClassVar[Mapping[str, str]] = dict.fromkeys(
        (
            "test_it_reads_what_the_device_measures",
            "test_silence_of_one_block_is_its_part_and_the_others_follow",
            "test_connecting_again_leaves_one_connection",
            "test_a_refused_connection_is_no_connection",
            "test_a_peer_that_accepts_no_connection_is_no_connection",
            "test_a_restarted_device_is_read_again_after_connecting",
            "test_a_device_that_vanishes_during_the_wait_is_noticed_at_once",
            "test_a_device_that_hangs_up_behind_each_answer_is_reached_again",
            "test_closing_ends_a_read_that_waits",
            "test_silence_is_no_answer_and_passes",
            "test_a_late_answer_never_becomes_the_answer_to_the_next_question",
            "test_an_answer_just_in_time_counts",
            "test_a_cancelled_read_leaves_nothing_behind",
            "test_what_breaks_the_protocol_is_garbled_and_never_a_value",
            "test_errors_say_what_happened",
        ),
        NO_SERVER,
    ) | dict.fromkeys(
        (
            "test_what_is_written_arrives_and_reads_back",
            "test_a_write_between_two_parts_goes_ahead_of_what_was_not_sent",
            "test_without_a_connection_nothing_is_read_or_written",
            "test_a_value_that_does_not_fit_is_refused_unsent",
        ),
        "nothing can be written to a ping",
    )

    def __init__(self) -> None:
        self.server = Loopback()

    def instrument(self, port: int) -> Instrument:
        """See tests.conformance.rigs.Rig."""
        channels = {
            "First": {"DataType": "float32", "Offset": 11.5, "Class": "Fast"},
            "Second": {"DataType": "float32", "Offset": 22.25, "Class": "Slow"},
        }
        return instrument(
            channels, Communication="Ping", TargetIP="127.0.0.1", Timeout=5 * TIMEOUT_S
        )

    def set(self, first: float, second: float) -> None:
        """The offsets are what it measures."""

    def output(self) -> float:
        """See tests.conformance.rigs.Rig."""
        raise AssertionError("nothing can be written to a ping")


RIGS = (PingRig,)
