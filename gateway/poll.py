"""Polling: one task a device, scan classes on a fixed grid, writes ahead of reads.

The only writer of device rows in the point table. A device that is dead, slow or insane costs
the others nothing: each has its own task, its own back-off and never more requests in flight
than its `Depth`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from config import status
from config.points import PointDef
from config.site import Instrument, ScanClass
from drivers.contract import Block, Driver, DriverProtocol
from drivers.errors import DriverError, Garbled, NoAnswer, Refused
from gateway.commands import Write
from gateway.core.clock import Clock
from gateway.core.table import PointTable

WRITES_MAX: Final = 1_000
BACKOFF_FIRST_S: Final = 0.25
BACKOFF_MAX_S: Final = 10.0


class Listener(Protocol):
    """What the poller tells the rest of the field process; none of it waits."""

    def on_block(self, protective: bool) -> None:
        """A block is in the table; `protective` where trips read it."""

    def on_written(self, write: Write, now_mono_ns: int) -> None:
        """The device accepted a write."""

    def on_write_failed(self, write: Write, reason: str) -> None:
        """The device did not take a write."""

    def on_device(self, name: str, up: bool, reason: str) -> None:
        """The device came or went."""


@dataclass(slots=True)
class PollStatistics:
    """Counters of one device, since the start."""

    polls: int = 0  # blocks read
    errors: int = 0  # requests that failed
    skipped: int = 0  # polls that were overdue and left out
    writes: int = 0
    reconnects: int = 0
    connected: bool = False
    last_error: str = ""
    poll_ms: float = 0.0  # duration of the last block


@dataclass(slots=True)
class _Class:
    """The blocks of one scan class and when they are due."""

    period_ns: int
    blocks: list[Block]
    next_ns: int = 0


class DevicePoller:
    """Polls one device."""

    def __init__(
        self,
        instrument: Instrument,
        protocol: DriverProtocol,
        scan_classes: dict[str, ScanClass],
        table: PointTable,
        protective: NDArray[np.bool_],
        listener: Listener,
        clock: Clock,
    ) -> None:
        """`protective` (P,) marks the rows that trips and interlocks read."""
        self.instrument = instrument
        self.statistics = PollStatistics()
        self._protocol = protocol
        self._table = table
        self._listener = listener
        self._clock = clock
        self.backoff_s = 0.0  # the pause before the next connection
        self._wake = asyncio.Event()
        self._urgent = asyncio.Event()
        self._writes: dict[int, Write] = {}  # by output, the newest one of each
        self._under_way: Write | None = None
        self._told: str | None = None  # of the device: why it is down, "" = that it is up
        self._blocks = protocol.plan(instrument)
        self._protective = {id(b): bool(protective[b.index].any()) for b in self._blocks}
        self._block_of = {int(i): b for b in self._blocks for i in b.index}
        self._classes = [
            _Class(scan_classes[name].period_ns, [b for b in self._blocks if b.scan_class == name])
            for name in dict.fromkeys(b.scan_class for b in self._blocks)
        ]
        self._limits = _limits(table.points)
        self.indexes = [p.index for p in instrument.points.values()]
        self._all_rows = np.array(sorted(self._block_of), dtype=np.int32)

    def enqueue(self, write: Write) -> None:
        """Write soon, ahead of the next read; replaces a write of the same output that waits.

        A full queue refuses instead of forgetting.
        """
        index = write.point.index
        if len(self._writes) >= WRITES_MAX and index not in self._writes:
            self._listener.on_write_failed(write, "too many writes are waiting for the device")
            return
        self._writes[index] = write
        self._wake.set()
        if write.urgent:
            self._urgent.set()

    async def run(self) -> None:
        """Poll until cancelled."""
        while True:
            await self._pause()
            try:
                await self._session()
            except DriverError as error:
                self._lost(error)
            except Exception as error:
                # A supervisor: a defect in one driver must not take the other devices down.
                # It is reported like a loss, with its type, so that it can't be overlooked.
                self._lost(Garbled(f"defect in the driver: {type(error).__name__}: {error}"))
            self.backoff_s = min(max(self.backoff_s * 2, BACKOFF_FIRST_S), BACKOFF_MAX_S)

    async def _pause(self) -> None:
        """Wait before the next connection; what protection wants to write cuts it short."""
        pause_s = self.backoff_s * (0.8 + 0.4 * self._clock.random())
        first_s = min(pause_s, BACKOFF_FIRST_S)
        await asyncio.sleep(first_s)
        if pause_s > first_s:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s - first_s):
                    await self._urgent.wait()

    async def _session(self) -> None:
        """One connection; ends by what ended it."""
        driver = self._protocol.open(self.instrument)
        try:
            await driver.connect()
            self._connected()
            await self._serve(driver)
        finally:
            await driver.close()

    # ------------------------------------------------------------ connection

    def _connected(self) -> None:
        self.statistics.connected = True
        self.statistics.reconnects += 1
        self.statistics.last_error = ""
        now_ns = self._clock.monotonic_ns()
        for scan_class in self._classes:
            scan_class.next_ns = max(scan_class.next_ns, now_ns)
        if not self._blocks:
            self._answered()

    def _answered(self) -> None:
        """The device is back: many a dead one, or its gateway, still takes connections."""
        self.backoff_s = 0.0
        if self._told != "":
            self._told = ""
            self._listener.on_device(self.instrument.name, True, "")

    def _lost(self, error: DriverError) -> None:
        self.statistics.connected = False
        self.statistics.errors += 1
        reason = str(error) or type(error).__name__
        self.statistics.last_error = reason
        self._silent(self._all_rows, error)
        failed = [self._under_way, *self._writes.values()]
        self._under_way = None
        self._writes.clear()
        self._urgent.clear()
        for write in failed:
            if write is not None:
                self._listener.on_write_failed(write, reason)
        if reason != self._told:
            self._told = reason
            self._listener.on_device(self.instrument.name, False, reason)  # once a reason

    # ------------------------------------------------------------ the grid

    async def _serve(self, driver: Driver) -> None:
        while True:
            self._wake.clear()
            await self._write_waiting(driver)
            if not self._classes:
                await self._wake.wait()
                continue
            due = min(self._classes, key=lambda c: c.next_ns)
            wait_ns = due.next_ns - self._clock.monotonic_ns()
            if wait_ns > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_ns / 1e9):
                        await self._wake.wait()
                continue
            await self._poll_class(driver, due)

    async def _poll_class(self, driver: Driver, due: _Class) -> None:
        depth = self.instrument.tags.Depth
        for start in range(0, len(due.blocks), depth):
            await self._write_waiting(driver)
            chunk = due.blocks[start : start + depth]
            if len(chunk) == 1:
                await self._read(driver, chunk[0])
                continue
            reads = (self._read(driver, block) for block in chunk)
            for outcome in await asyncio.gather(*reads, return_exceptions=True):
                if isinstance(outcome, BaseException):
                    raise outcome
        due.next_ns += due.period_ns
        late_ns = self._clock.monotonic_ns() - due.next_ns
        if late_ns > 0:
            missed = late_ns // due.period_ns
            self.statistics.skipped += missed
            due.next_ns += missed * due.period_ns

    # ------------------------------------------------------------ one exchange

    async def _read(self, driver: Driver, block: Block) -> None:
        """Read one block into the table; raises only what ends the connection."""
        for attempt in range(self.instrument.tags.Retries + 1):
            mono_ns, utc_ns = self._clock.monotonic_ns(), self._clock.utc_ns()
            try:
                raw = await driver.read(block)
                values = block.decode(raw)
            except Refused as error:
                self._answered()
                self._note(error)
                code = (
                    status.BAD_CONFIGURATION_ERROR if error.permanent else status.BAD_DEVICE_FAILURE
                )
                self._bad(block.index, code, utc_ns)
                return
            except NoAnswer as error:
                self._note(error)
                if attempt < self.instrument.tags.Retries and not self._writes:
                    continue
                self._silent(block.index, error)
                return
            except Garbled:
                self._bad(block.index, status.BAD_DECODING_ERROR, utc_ns)
                raise
            self._answered()
            self._land(block, values, mono_ns, utc_ns)
            return

    def _land(self, block: Block, values: NDArray[np.float64], mono_ns: int, utc_ns: int) -> None:
        codes = np.zeros(len(values), dtype=np.uint32)
        low, high = self._limits
        outside = (values < low[block.index]) | (values > high[block.index])
        codes[outside] = status.UNCERTAIN_UNITS_EXCEEDED
        codes[~np.isfinite(values)] = status.BAD_SENSOR_FAILURE
        # Stamped with the time of the question: the age is never understated.
        self._table.put(block.index, values, codes, utc_ns, mono_ns)
        self.statistics.polls += 1
        self.statistics.poll_ms = (self._clock.monotonic_ns() - mono_ns) / 1e6
        self._listener.on_block(self._protective[id(block)])

    async def _write_waiting(self, driver: Driver) -> None:
        """Write what waits, urgent first. What comes meanwhile has to let a read pass."""
        for _ in range(len(self._writes)):
            urgent = (index for index, write in self._writes.items() if write.urgent)
            await self._write(driver, self._writes.pop(next(urgent, next(iter(self._writes)))))

    async def _write(self, driver: Driver, write: Write) -> None:
        self.statistics.writes += 1
        self._under_way = write  # told as failed by `_lost` where the connection ends over it
        try:
            await driver.write(write.point, write.value)
        except (Refused, NoAnswer) as error:
            self._under_way = None
            self._note(error)
            self._listener.on_write_failed(write, str(error) or type(error).__name__)
            return
        self._under_way = None
        self._answered()
        self._listener.on_written(write, self._clock.monotonic_ns())
        shown = self._block_of.get(write.point.read_back)
        if shown is not None:
            await self._read(driver, shown)

    # ------------------------------------------------------------ errors to status

    def _note(self, error: DriverError) -> None:
        self.statistics.errors += 1
        self.statistics.last_error = str(error) or type(error).__name__

    def _bad(self, index: NDArray[np.int32], code: int, utc_ns: int) -> None:
        self._table.set_status(index, code, utc_ns)
        self._listener.on_block(any(self._protective.values()))

    def _silent(self, index: NDArray[np.int32], error: DriverError) -> None:
        """No answer: the last value stays usable until its age limit, then the scan ends it."""
        if len(index) == 0:
            return
        utc_ns = self._clock.utc_ns()
        codes = self._table.rows["status"][index]
        usable = index[codes < 0x80000000]
        self._table.set_status(usable, status.UNCERTAIN_NO_COMMUNICATION, utc_ns)
        code = status.BAD_TIMEOUT if isinstance(error, NoAnswer) else status.BAD_NOT_CONNECTED
        if isinstance(error, Garbled):
            code = status.BAD_DECODING_ERROR
        self._table.set_status(index[codes >= 0x80000000], code, utc_ns)


def _limits(points: Sequence[PointDef]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(P,) lowest and (P,) highest value; infinite where none is declared."""
    low = np.array([-np.inf] + [p.value_min for p in points])
    high = np.array([np.inf] + [p.value_max for p in points])
    return np.nan_to_num(low, nan=-np.inf), np.nan_to_num(high, nan=np.inf)
