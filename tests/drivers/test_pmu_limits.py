"""What a PMU stream may cost: signals, changes, memory, and stamps that nobody can believe."""

from __future__ import annotations

import asyncio
import dataclasses
import struct

import pytest

from config import status
from drivers.errors import Garbled, NotConnected
from drivers.pmu import link as pmu_link
from drivers.pmu.data import DataLayout, Selection, encode_data, find_signals
from drivers.pmu.frames import Command, FrameType, decode_configuration, encode_frame
from drivers.pmu.link import PmuLink
from gateway.core.clock import ManualClock
from tests.drivers.pmu_case import IDCODE, Wire, configuration, frames_of, measured, pmu


def data_frame(soc: int, fracsec: int = 0) -> bytes:
    body = encode_data(DataLayout(configuration()), [measured()])
    return encode_frame(FrameType.DATA, IDCODE, body, soc=soc, fracsec=fracsec)


def test_a_configuration_of_far_too_many_signals_is_garbled_at_once() -> None:
    words = 13_000
    body = struct.pack(">IHBH16x4H", 1_000_000, 1, 0, 1, 0, 0, 0, words)
    body += bytes(16 * words + 4 * words + 12) + b"M" + bytes(8 + 4 + 2)
    with pytest.raises(Garbled, match="more than 20000 signals"):
        decode_configuration(FrameType.CFG3, 1, body)


DAY = 24 * 3600


@pytest.mark.parametrize(
    ("off_s", "believed"), [(DAY, True), (DAY + 1, False), (-DAY, True), (-DAY - 1, False)]
)
def test_a_stamp_far_from_now_is_not_believed(off_s: int, believed: bool) -> None:
    made = configuration()
    signals, _ = find_signals(made, ("FREQ", "STAT"))
    selection = Selection(DataLayout(made), list(signals.values()))
    soc = 1_750_000_000
    frame = data_frame(soc)
    (got,) = selection.samples([frame], (soc - off_s) * 10**9)
    assert got.utc_ns == (soc * 10**9 if believed else None)
    codes = None if got.codes is None else got.codes.tolist()
    assert codes == (None if believed else [status.UNCERTAIN_SENSOR_NOT_ACCURATE, status.GOOD])


def test_the_last_second_of_the_counter_is_no_time_either() -> None:
    made = configuration()
    frame = data_frame(0xFFFFFFFF, 999_999)
    signals, _ = find_signals(made, ("FREQ",))
    (got,) = Selection(DataLayout(made), list(signals.values())).samples([frame], 10**18)
    assert got.utc_ns is None


def link_of(*, listen_only: bool = True) -> tuple[PmuLink, Wire]:
    link, wire = (
        PmuLink(
            IDCODE,
            ("FREQ",),
            FrameType.CFG2,
            5.0,
            listen_only=listen_only,
            clock=ManualClock(),
            tap=None,
        ),
        Wire(),
    )
    link.connection_made(wire)  # type: ignore[arg-type]
    return link, wire


def told(changes: int) -> list[bytes]:
    """A configuration like the others but for its counter, and a data frame of it."""
    return frames_of(configuration(dataclasses.replace(pmu(), changes=changes)), 0)


def test_a_device_that_reads_nothing_is_left_and_its_socket_is_not_kept() -> None:
    async def run() -> None:
        link, wire = link_of(listen_only=False)
        for _ in range(1000):
            link.command(Command.SEND_CFG2)
        assert isinstance(link.ended, NotConnected)
        assert wire.waiting <= 2 * pmu_link.COMMAND_BYTES_MAX
        assert wire.aborted

    asyncio.run(run())


def test_a_device_that_tells_another_configuration_all_the_time_is_garbled() -> None:
    async def run() -> None:
        link, _ = link_of()
        for n in range(pmu_link.CHANGES_MAX):
            link.data_received(told(n)[0])
            link.data_received(told(n)[0])  # told again: no change
        assert link.ended is None
        link.data_received(told(60_000)[0])
        assert isinstance(link.ended, Garbled)

    asyncio.run(run())


def test_what_waits_holds_two_configurations_at_most() -> None:
    async def run() -> None:
        link, _ = link_of()
        for n in range(pmu_link.CHANGES_MAX):
            for frame in told(n):
                link.data_received(frame)
        assert len({id(signals) for signals, _ in link._pending}) == 2
        assert link.dropped == pmu_link.CHANGES_MAX - 2
        assert link._pending_bytes == sum(len(data) for _, data in link._pending)
        link.end(NotConnected("over"))

    asyncio.run(run())


def test_large_frames_are_decoded_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pmu_link, "SAMPLES_BYTES_MAX", 10)

    async def run() -> None:
        link, _ = link_of()
        first, data = told(0)
        link.data_received(first + data * 3)
        for _ in range(3):
            taken = link.take()
            assert taken is not None
            assert len(taken[1]) == 1
        assert link.take() is None
        link.end(NotConnected("over"))

    asyncio.run(run())
