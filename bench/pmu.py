"""PMU frames: what checking, taking apart and turning one into an update costs.

The frame is that of the notes: 4 phasors, 3 analogs and a digital word, integers, polar. The link
part feeds the driver's own session, without sockets, at most as many frames as it may keep.
"""

from __future__ import annotations

import asyncio
import time
from binascii import crc_hqx
from collections.abc import Callable
from typing import Final

from bench._report import Report, arguments, say
from drivers.errors import NotConnected
from drivers.pmu.data import PARTS, DataLayout, Measured, Selection, encode_data, find_signals
from drivers.pmu.frames import (
    AnalogUnit,
    Configuration,
    FrameType,
    PhasorUnit,
    Pmu,
    encode_configuration,
    encode_frame,
)
from drivers.pmu.link import SAMPLES_MAX, PmuLink
from gateway.core.clock import SystemClock

IDCODE: Final = 1
PHASORS: Final = ("VA", "VB", "VC", "I1")
ANALOGS: Final = ("P", "Q", "S")


def stream() -> Configuration:
    """One PMU of the notes' size."""
    pmu = Pmu(
        station="PMU",
        idcode=IDCODE,
        phasors=PHASORS,
        analogs=ANALOGS,
        digitals=tuple(f"B{n}" for n in range(16)),
        phasor_units=(PhasorUnit(9.15527),) * 4,
        analog_units=(AnalogUnit(),) * 3,
        masks=((0, 0xFFFF),),
        polar=True,
    )
    return Configuration(FrameType.CFG2, IDCODE, 1_000_000, (pmu,), 50)


def wanted() -> list[str]:
    """Magnitude and angle of every phasor, and everything else once."""
    phasors = [f"{name}.{part}" for name in PHASORS for part in PARTS[:2]]
    return ["FREQ", "DFREQ", *phasors, *(f"ANALOG:{name}" for name in ANALOGS), "DIGITAL:B0"]


def seconds(work: Callable[[], object], times: int, rounds: int = 5) -> float:
    """CPU seconds of one call, the best of some rounds."""
    best = float("inf")
    for _ in range(rounds):
        start = time.process_time()
        for _ in range(times):
            work()
        best = min(best, (time.process_time() - start) / times)
    return best


async def through_link(told: bytes, data: bytes, batch: int, times: int) -> float:
    """CPU seconds a frame from the bytes of a TCP stream to its sample, `batch` frames at once."""
    link = PmuLink(
        IDCODE, wanted(), FrameType.CFG2, 1.0, listen_only=True, clock=SystemClock(), tap=None
    )
    link.data_received(told)
    piece = data * batch

    def work() -> None:
        link.data_received(piece)
        while link.take() is not None:
            pass

    each_s = seconds(work, times) / batch
    link.end(NotConnected("the bench is over"))
    return each_s


def main() -> int:
    """Run and report."""
    options = arguments(__doc__)
    times = 2_000 if options.quick else 20_000
    made = stream()
    layout = DataLayout(made)
    now = Measured([complex(1e5, 1e4)] * 4, 50.01, 0.0, [1.0, 2.0, 3.0], [1])
    data = encode_frame(FrameType.DATA, IDCODE, encode_data(layout, [now]))
    told = encode_frame(FrameType.CFG2, IDCODE, encode_configuration(made))
    signals, _ = find_signals(made, wanted())
    selection = Selection(layout, list(signals.values()))
    report = Report("pmu")
    report.figure("frame_bytes", len(data))
    report.figure("signals", len(signals))
    say("check sum and unpack")
    report.figure(
        "check_and_unpack_us",
        seconds(lambda: (crc_hqx(data, 0xFFFF), layout.unpack(data)), 10 * times) * 1e6,
    )
    say("values")
    for batch in (1, SAMPLES_MAX):
        frames = [data] * batch
        each_s = (
            seconds(lambda frames=frames: selection.samples(frames, 0), times // batch + 1) / batch
        )
        report.figure(f"values_of_{batch}_us", each_s * 1e6)
    say("the whole link")
    for batch in (1, SAMPLES_MAX):
        each_s = asyncio.run(through_link(told, data, batch, times // batch + 1))
        report.figure(f"link_of_{batch}_us", each_s * 1e6)
        report.figure(f"link_of_{batch}_cpu_percent_at_240_frames_s", each_s * 240 * 100)
    return report.print(options.json)


if __name__ == "__main__":
    raise SystemExit(main())
