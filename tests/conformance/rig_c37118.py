"""C37.118: a PMU with two analogs that sends 100 frames a second."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from config.site import Instrument
from drivers.pmu.data import Measured
from drivers.pmu.frames import AnalogUnit, Configuration, FrameType, Pmu
from drivers.sim.pmu_server import PmuServer
from tests.conformance.rigs import TIMEOUT_S
from tests.drivers.instruments import instrument

IDCODE = 7734


class C37118Rig:
    """See tests.conformance.rigs.Rig."""

    communication: ClassVar[str] = "C37118"
    exempt: ClassVar[Mapping[str, str]] = dict.fromkeys(
        (
            "test_what_is_written_arrives_and_reads_back",
            "test_without_a_connection_nothing_is_read_or_written",
            "test_a_value_that_does_not_fit_is_refused_unsent",
        ),
        "nothing can be written to a stream",
    ) | dict.fromkeys(
        (
            "test_a_cycle_reads_every_block_once_and_in_order",
            "test_a_write_between_two_parts_goes_ahead_of_what_was_not_sent",
            "test_a_cycle_that_is_left_early_leaves_nothing_behind",
            "test_silence_of_one_block_is_its_part_and_the_others_follow",
            "test_a_device_that_vanishes_during_the_wait_is_noticed_at_once",
            "test_a_device_that_hangs_up_behind_each_answer_is_reached_again",
            "test_closing_ends_a_read_that_waits",
            "test_silence_is_no_answer_and_passes",
            "test_a_late_answer_never_becomes_the_answer_to_the_next_question",
            "test_a_cancelled_read_leaves_nothing_behind",
        ),
        "a stream is not asked; tests/drivers/test_pmu.py has its silence, loss and closing",
    )

    def __init__(self) -> None:
        pmu = Pmu(
            station="Station A",
            idcode=IDCODE,
            analogs=("First", "Second"),
            analog_units=(AnalogUnit(), AnalogUnit()),
            float_analogs=True,
        )
        self.measured = Measured(analogs=[0.0, 0.0])
        configuration = Configuration(FrameType.CFG2, IDCODE, 1_000_000, (pmu,), 100)
        self.server = PmuServer(configuration, [self.measured])

    def instrument(self, port: int) -> Instrument:
        """See tests.conformance.rigs.Rig."""
        channels = {
            "First": {"IOPoint": "ANALOG:First", "Class": "Fast"},
            "Second": {"IOPoint": "Station A/ANALOG:Second", "Class": "Slow"},
        }
        place = {"IP": "127.0.0.1", "Unit": IDCODE}
        return instrument(
            channels, Communication="C37118", Connection=place, PortNum=port, Timeout=TIMEOUT_S
        )

    def set(self, first: float, second: float) -> None:
        """See tests.conformance.rigs.Rig."""
        self.measured.analogs = [first, second]

    def output(self) -> float:
        """See tests.conformance.rigs.Rig."""
        raise AssertionError("nothing can be written to a PMU stream")


RIGS = (C37118Rig,)
