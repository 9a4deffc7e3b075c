"""Polling: one task a device, scan classes on a fixed grid, writes ahead of reads.

The only writer of device rows in the point table. A device that is dead, slow or insane costs
the others nothing: each has its own task, its own back-off and never more requests in flight
than its `Depth`. What a device sends by itself lands here too.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from config import status
from config.site import Instrument, ScanClass
from drivers.contract import (
    Block,
    Driver,
    DriverProtocol,
    Part,
    PushDriver,
    SharingDriver,
    Surroundings,
    Update,
)
from drivers.errors import DriverError, Garbled, NoAnswer, Refused
from gateway.blocks import Batch, ScanBlocks
from gateway.commands import Write
from gateway.core.table import PointTable
from gateway.landing import Landing

WRITES_MAX: Final = 1_000
BACKOFF_FIRST_S: Final = 0.25
BACKOFF_MAX_S: Final = 10.0
SILENT_MAX: Final = 3  # blocks without an answer in a row, then the device counts as lost


class Listener(Protocol):
    """What the poller tells the rest of the field process; none of it waits."""

    def on_block(self, protective: bool) -> None:
        """Values are in the table; `protective` where trips read them."""

    def on_written(self, write: Write, now_mono_ns: int) -> None:
        """The device accepted a write."""

    def on_write_failed(self, write: Write, reason: str) -> None:
        """The device did not take a write."""

    def on_device(self, name: str, up: bool, reason: str) -> None:
        """The device came or went."""

    def on_refused(self, name: str, labels: Collection[str]) -> None:
        """The device refuses these blocks and answers parts of them: to be remembered."""


@dataclass(slots=True)
class PollStatistics:
    """Counters of one device, since the start."""

    polls: int = 0  # blocks read
    updates: int = 0  # messages that the device sent by itself
    errors: int = 0  # requests that failed
    skipped: int = 0  # polls of a scan class that were overdue and left out
    writes: int = 0
    reconnects: int = 0
    connected: bool = False
    last_error: str = ""
    poll_ms: float = 0.0  # duration of the last poll of a scan class
    late_ms_max: float = 0.0  # largest lateness of a poll against its grid


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
        surroundings: Surroundings,
        refused: Collection[str] = (),
    ) -> None:
        """`protective` (P,) marks the rows that trips and interlocks read.

        `refused` are the labels of blocks that this device refused in earlier lives.
        """
        self.instrument = instrument
        self.statistics = PollStatistics()
        self.backoff_s = 0.0  # the pause before the next connection
        self.indexes = [p.index for p in instrument.points.values()]
        self._protocol = protocol
        self._listener = listener
        self._surroundings = surroundings
        self._clock = surroundings.clock
        self._wake = asyncio.Event()
        self._urgent = asyncio.Event()
        self._hurry: Callable[[], None] | None = None  # on a line that other devices use, too
        self._writes: dict[int, Write] = {}  # by output, the newest one of each
        self._under_way: Write | None = None
        self._told: str | None = None  # of the device: why it is down, "" = that it is up
        self._silent_row = 0  # blocks without an answer since the last answer
        self._answering: Block | None = None  # what the device answered last
        self._probes = 0  # questions to a lost device
        self._proved: list[str] = []  # labels of refused blocks, to be told at the end of a poll
        self._shown: dict[Block, ScanBlocks] = {}  # what shows an output that was just written
        blocks = protocol.plan(instrument)
        self._landing = Landing(table, protective, blocks, self._clock)
        asked = [b for b in blocks if not b.pushed]
        classes = [scan_classes[name] for name in dict.fromkeys(b.scan_class for b in asked)]
        depth = protocol.depth(instrument)
        fastest_ns = min((c.period_ns for c in classes), default=0)
        self._classes = [
            ScanBlocks(
                c.period_ns,
                [b for b in asked if b.scan_class == c.name],
                protocol,
                refused,
                self._landing.batch,
                # A slower class is read in small batches, between which a faster one has its turn.
                None if c.period_ns == fastest_ns else depth,
            )
            for c in classes
        ]

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
        if self._hurry is not None:
            self._hurry()
        if write.urgent:
            self._urgent.set()

    async def run(self) -> None:
        """Poll until cancelled."""
        while True:
            await self._pause()
            started_ns = self._clock.monotonic_ns()
            try:
                await self._session()
            except DriverError as error:
                self._lost(error)
            except Exception as error:
                # A supervisor: a defect in one driver must not take the other devices down.
                # It is reported like a loss, with its type, so that it can't be overlooked.
                self._lost(Garbled(f"defect in the driver: {type(error).__name__}: {error}"))
            if self._clock.monotonic_ns() - started_ns > BACKOFF_MAX_S * 1e9:
                self.backoff_s = 0.0
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
        driver = self._protocol.open(self.instrument, self._surroundings)
        listening: asyncio.Task[None] | None = None
        try:
            await driver.connect()
            self._hurry = driver.hurry if isinstance(driver, SharingDriver) else None
            self._connected()
            if self._protocol.pushes:
                listening = asyncio.create_task(self._listen(cast(PushDriver, driver)))
                listening.add_done_callback(lambda _: self._wake.set())
            await self._serve(driver, listening)
        finally:
            if listening is not None:
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)
            self._hurry = None
            await driver.close()

    # ------------------------------------------------------------ connection

    def _connected(self) -> None:
        self.statistics.connected = True
        self.statistics.reconnects += 1
        self.statistics.last_error = ""
        self._silent_row = 0
        self._shown.clear()
        now_ns = self._clock.monotonic_ns()
        for scan_class in self._classes:
            scan_class.next_ns = max(scan_class.next_ns, now_ns)
            scan_class.wake()
        if not self._classes:
            self._answered()

    def _answered(self) -> None:
        """The device is back: many a dead one, or its gateway, still takes connections."""
        self._silent_row = 0
        if self._classes:  # one that is not asked may end every connection: see `run`
            self.backoff_s = 0.0
        if self._told != "":
            self._told = ""
            self._listener.on_device(self.instrument.name, True, "")

    def _lost(self, error: DriverError) -> None:
        self.statistics.connected = False
        self.statistics.errors += 1
        reason = str(error) or type(error).__name__
        self.statistics.last_error = reason
        self._landing.silent(self._landing.rows, error)
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

    async def _listen(self, driver: PushDriver) -> None:
        """Land what the device sends, until the connection ends."""
        async for update in driver.updates():
            self._answered()
            self._take_update(update)
        raise Garbled("defect in the driver: its updates ended without a reason")

    def _take_update(self, update: Update) -> None:
        self.statistics.updates += 1
        if update.reason:
            self.statistics.last_error = update.reason
        self._listener.on_block(self._landing.update(update))

    # ------------------------------------------------------------ the grid

    async def _serve(self, driver: Driver, listening: asyncio.Task[None] | None) -> None:
        while True:
            self._wake.clear()
            if listening is not None and listening.done():
                listening.result()
            await self._write_waiting(driver)
            if not self._classes:
                await self._wake.wait()
                continue
            if self._told:
                await self._probe(driver)
            due = min(self._classes, key=lambda c: c.next_ns)
            wait_ns = due.next_ns - self._clock.monotonic_ns()
            if wait_ns > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_ns / 1e9):
                        await self._wake.wait()
                continue
            await self._poll_class(driver, due)

    async def _probe(self, driver: Driver) -> None:
        """Ask a lost device one question; raises where that is not answered.

        A serial line that it shares with others is not to wait for it longer than that. At first
        what it answered last, then all blocks in turn: behind one that stays silent, such as a
        dead unit of a gateway, others may be alive.
        """
        groups = {block: group for group in self._classes for block in group.blocks}
        block, self._answering = self._answering, None
        if block not in groups:
            block = list(groups)[self._probes % len(groups)]
            self._probes += 1
        await self._read_batch(driver, groups[block], groups[block].batch([block]), {})

    async def _poll_class(self, driver: Driver, due: ScanBlocks) -> None:
        """Read what is due of a scan class, each block once.

        What is not answered is asked again, up to `Retries` times, and then rests. What is refused
        is read in parts.
        """
        started_ns = self._clock.monotonic_ns()
        self.statistics.late_ms_max = max(
            self.statistics.late_ms_max, (started_ns - due.next_ns) / 1e6
        )
        tries: dict[Block, int] = {}
        waiting = list(due.batches(started_ns))
        while waiting:
            await self._poll_faster(driver, due)
            again = await self._read_batch(driver, due, waiting.pop(0), tries)
            waiting[:0] = due.chunks(again)
        if self._proved:
            self._listener.on_refused(self.instrument.name, self._proved)
            self._proved = []
        now_ns = self._clock.monotonic_ns()
        self.statistics.poll_ms = (now_ns - started_ns) / 1e6
        due.next_ns += due.period_ns
        missed = max(0, now_ns - due.next_ns) // due.period_ns
        self.statistics.skipped += missed
        due.next_ns += missed * due.period_ns

    async def _poll_faster(self, driver: Driver, slow: ScanBlocks) -> None:
        """Between two batches of a slow class: a faster one that is due has its turn."""
        if slow.batch_blocks is None:
            return
        for fast in self._classes:
            if fast.period_ns < slow.period_ns and fast.next_ns <= self._clock.monotonic_ns():
                await self._poll_class(driver, fast)

    # ------------------------------------------------------------ one exchange

    async def _read_batch(
        self, driver: Driver, group: ScanBlocks, batch: Batch, tries: dict[Block, int]
    ) -> list[Block]:
        """Read each block of a batch once; returns what is to be read again, or in its place.

        Raises only what ends the connection.
        """
        again: list[Block] = []
        blocks, done = batch.cycle.blocks, 0
        parts = cast(Any, driver.read(batch.cycle))
        async with contextlib.aclosing(parts):
            while True:
                try:
                    part: Part | None = await anext(parts, None)
                except Garbled:
                    if done < len(blocks):  # the block that it was to answer, most likely
                        self._landing.bad(blocks[done].index, status.BAD_DECODING_ERROR)
                        group.garbled(blocks[done], self._clock.monotonic_ns())
                    raise
                if part is None:
                    break
                done = part.last
                again += self._take_part(group, batch, part, tries)
                if self._writes or self._shown:
                    await self._write_waiting(driver)
        if done < len(blocks):
            raise Garbled(f"defect in the driver: no part for {blocks[done].label}")
        return again

    def _take_part(
        self, group: ScanBlocks, batch: Batch, part: Part, tries: dict[Block, int]
    ) -> list[Block]:
        blocks = batch.cycle.blocks[part.first : part.last]
        if isinstance(part.error, Refused):
            self._answered()
            return self._refused(group, blocks[0], part.error)
        if part.error is not None:
            return self._silent(group, blocks[0], part.error, tries)
        self._answered()
        self.statistics.polls += len(blocks)
        self._listener.on_block(self._landing.part(batch, part))
        self._answering = blocks[-1]
        if group.disturbed:
            for block in blocks:
                self._proved += group.answered(block)
        return []

    def _refused(self, group: ScanBlocks, block: Block, error: Refused) -> list[Block]:
        """What to read in place of a refused block."""
        self._note(error)
        if error.permanent:
            parts = group.refused(block, self._clock.monotonic_ns())
            if parts:
                return parts
        code = status.BAD_CONFIGURATION_ERROR if error.permanent else status.BAD_DEVICE_FAILURE
        self._landing.bad(block.index, code)
        self._listener.on_block(self._landing.guards(block.index))
        return []

    def _silent(
        self, group: ScanBlocks, block: Block, error: NoAnswer, tries: dict[Block, int]
    ) -> list[Block]:
        """A block was not answered: ask again behind what is to be written, or let it rest.

        Raises where the device is lost.
        """
        self._note(error)
        if self._told:
            raise error
        tries[block] = tries.get(block, 0) + 1
        if tries[block] <= self.instrument.tags.Retries:
            return [block]
        self._silent_row += 1
        if self._silent_row >= SILENT_MAX:
            raise error
        self._landing.silent(block.index, error)
        group.silent(block, self._clock.monotonic_ns())
        return []

    async def _write_waiting(self, driver: Driver) -> None:
        """Write what waits, then read what shows it.

        What comes meanwhile goes ahead of the rest of that reading, but its own reading has to
        let a poll pass.
        """
        await self._write_all(driver)
        shown, self._shown = self._shown, {}
        for group in self._classes:
            blocks = [b for b, owner in shown.items() if owner is group and b in group.blocks]
            if blocks:
                await self._read_back(driver, group.batch(blocks))

    async def _write_all(self, driver: Driver) -> None:
        """Write what waits, urgent first."""
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
        for group in self._classes:
            for block in group.blocks:
                if write.point.read_back in block.index and not group.rests(block):
                    self._shown[block] = group

    async def _read_back(self, driver: Driver, batch: Batch) -> None:
        """Read what writes changed; silence is left to the next poll."""
        parts = cast(Any, driver.read(batch.cycle))
        async with contextlib.aclosing(parts):
            async for part in parts:
                if part.error is None:
                    self._answered()
                    self.statistics.polls += part.last - part.first
                    self._listener.on_block(self._landing.part(batch, part))
                else:
                    self._note(part.error)
                if self._writes:
                    await self._write_all(driver)

    def _note(self, error: DriverError) -> None:
        self.statistics.errors += 1
        self.statistics.last_error = str(error) or type(error).__name__
