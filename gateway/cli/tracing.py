"""What ``gatepost trace`` does: polls one device as the gateway does, and shows its frames."""

from __future__ import annotations

import asyncio
import json
import math
import signal
from collections.abc import Collection
from typing import IO, Any, Final

import numpy as np

from config.site import Instrument, Site
from drivers.contract import DriverProtocol, Surroundings
from drivers.sim.recording import FILE_BYTES_MAX, MARK, VERSION, data_keys
from gateway.cli.output import console, number, printable
from gateway.commands import Write
from gateway.core.clock import SystemClock
from gateway.core.table import PointTable
from gateway.poll import DevicePoller, PollStatistics

DATA_BYTES_SHOWN: Final = 64
VALUES_SHOWN: Final = 12


async def follow(
    site: Site,
    instrument: Instrument,
    protocol: DriverProtocol,
    file: IO[str] | None,
    seconds: float | None,
) -> bool:
    """Poll the device and print its frames until a signal, or for some time.

    True where the device answered. `file` is None where nothing is recorded.
    """
    clock = SystemClock()
    table = PointTable(site.points)
    view = Trace(instrument, table, clock, file)
    poller = DevicePoller(
        instrument,
        protocol,
        dict(site.scan_classes),
        table,
        np.zeros(len(site.points) + 1, dtype=bool),
        view,
        Surroundings(clock, tap=view),
    )
    view.statistics = poller.statistics
    polling = asyncio.create_task(poller.run())
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sign in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(sign, asked.set)
    waiting = asyncio.create_task(asked.wait())
    try:
        await asyncio.wait({polling, waiting}, timeout=seconds, return_when="FIRST_COMPLETED")
        if polling.done():
            polling.result()
    finally:
        for task in (polling, waiting):
            task.cancel()
        await asyncio.gather(polling, waiting, return_exceptions=True)
        for sign in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(sign)
    return view.answers > 0


class Trace:
    """Prints and records what the poller does; its tap (drivers.contract) and its listener."""

    def __init__(
        self, instrument: Instrument, table: PointTable, clock: SystemClock, file: IO[str] | None
    ) -> None:
        self.answers = 0
        self.statistics = PollStatistics()  # the poller's, from `follow` on
        self._errors = 0
        self._complaint = ""
        self._points = list(instrument.points.values())
        self._table = table
        self._clock = clock
        self._file = file
        self._room = FILE_BYTES_MAX
        self._begun_ns = clock.monotonic_ns()
        self._seen_ns: dict[int, int] = {}
        self._out = console()
        head = {"recording": MARK, "version": VERSION, "device": instrument.name}
        self._keep(head | {"protocol": instrument.tags.Communication, "utc_ns": clock.utc_ns()})

    def frame(self, sent: bool, data: bytes, meaning: str) -> None:
        """See drivers.contract.Tap."""
        self._complain()
        t_ms = self._t_ms()
        self.answers += not sent
        arrow = "->" if sent else "<-"
        self._print(f"{t_ms:11.1f} ms {arrow} {meaning}{': ' * bool(data)}{shown(data)}")
        self._keep({"t_ms": t_ms, "sent": sent, **data_keys(data), "meaning": meaning})

    def on_block(self, protective: bool) -> None:
        """Values are in the table: those that are new since the last time."""
        self._complain()
        rows, values = self._table.rows, {}
        for point in self._points:
            stamp_ns = int(rows["mono_ns"][point.index])
            if stamp_ns and stamp_ns != self._seen_ns.get(point.index):
                self._seen_ns[point.index] = stamp_ns
                values[point] = float(rows["value"][point.index])
        if not values:
            return
        self.answers += 1
        t_ms = self._t_ms()
        texts = [
            f"{point.channel} = {number(value, point.states)} {point.units}".rstrip()
            for point, value in values.items()
        ]
        more = f", and {len(texts) - VALUES_SHOWN} more" if len(texts) > VALUES_SHOWN else ""
        self._print(f"{t_ms:11.1f} ms    {', '.join(texts[:VALUES_SHOWN])}{more}")
        plain = {p.tag: v if math.isfinite(v) else None for p, v in values.items()}
        self._keep({"t_ms": t_ms, "values": plain})

    def on_device(self, name: str, up: bool, reason: str) -> None:
        """The device came or went."""
        self._errors, self._complaint = self.statistics.errors, self.statistics.last_error
        self._note(f"{name} answers" if up else f"{name} is lost: {reason}", "" if up else "!")

    def on_refused(self, name: str, labels: Collection[str]) -> None:
        """The device refuses these blocks and answers parts of them."""
        self._note(f"{name} refuses {', '.join(labels)} as a whole; read in parts")

    def on_written(self, write: Write, now_mono_ns: int) -> None:
        """A trace writes nothing."""

    def on_write_failed(self, write: Write, reason: str) -> None:
        """A trace writes nothing."""

    def _complain(self) -> None:
        """Say what the poller has against the device, where it was not said."""
        told = (self._errors, self._complaint)
        self._errors, self._complaint = self.statistics.errors, self.statistics.last_error
        if self._complaint and told != (self._errors, self._complaint):
            self._note(self._complaint)

    def _print(self, line: str) -> None:
        self._out.print(printable(line, ""))  # what comes from the device stays on its line

    def _note(self, text: str, mark: str = "!") -> None:
        t_ms = self._t_ms()
        self._print(f"{t_ms:11.1f} ms  {mark or ' '} {text}")
        self._keep({"t_ms": t_ms, "note": text})

    def _t_ms(self) -> float:
        return round((self._clock.monotonic_ns() - self._begun_ns) / 1e6, 3)

    def _keep(self, line: dict[str, Any]) -> None:
        if self._file is None:
            return
        text = json.dumps(line, allow_nan=False) + "\n"
        self._room -= len(text)
        if self._room >= 0:
            self._file.write(text)
            return
        self._file = None
        self._note(f"the recording is full, {FILE_BYTES_MAX} bytes; it ends here")


def shown(data: bytes) -> str:
    """Bytes for people: as text where they are some, else in hex; long ones cut, none as none."""
    if not data:
        return ""
    keys = data_keys(data[:DATA_BYTES_SHOWN])
    text = repr(keys["text"]) if "text" in keys else data[:DATA_BYTES_SHOWN].hex(" ")
    return text if len(data) <= DATA_BYTES_SHOWN else f"{text} ... ({len(data)} bytes)"
