"""A device without a gateway: what ``read --direct``, ``write --direct`` and ``trace`` share.

They open the instrument's driver themselves. While they do, they hold the lock of the site's state
folder, so that no gateway of the site on this machine drives the same outputs.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, cast

import numpy as np

from config import status as codes
from config.points import PointDef
from config.site import Instrument, Site
from drivers.contract import Block, Driver, DriverProtocol, PushDriver, Surroundings
from drivers.errors import DriverError, Garbled, NoAnswer, Refused
from drivers.registry import protocol_of
from gateway.cli.output import EXIT_BAD, CommandFailed
from gateway.cli.session import live_supervisor
from gateway.cli.site import Target
from gateway.core.clock import Clock, SystemClock
from gateway.core.table import PointTable
from gateway.landing import Landing
from gateway.supervisor import StateLock, SupervisorError

PUSHED_S: Final = 10.0  # a device that sends by itself may take so long for its first values


@contextlib.contextmanager
def no_gateway(target: Target) -> Iterator[Site]:
    """The site, while no gateway of it runs on this machine. Raises CommandFailed."""
    site = target.site
    if site is None:
        raise CommandFailed("the site has errors; `gatepost check` shows them")
    lock = StateLock(target.paths, site.folder)
    try:
        taken = lock.take()
    except SupervisorError as error:
        raise CommandFailed(str(error)) from error
    if not taken:
        pid = live_supervisor(target.paths.lock)
        raise CommandFailed(
            f"a gateway of {site.name} runs on this machine (pid {pid or 'unknown'}) and has the "
            "device. Speak to the gateway (`gatepost read` and `gatepost write` without "
            "--direct), or stop it first"
        )
    try:
        yield site
    finally:
        lock.release()


def device_of(site: Site, name: str) -> tuple[Instrument, DriverProtocol]:
    """An instrument and its protocol. Raises CommandFailed where it can't be spoken to."""
    instrument = site.instruments.get(name)
    if instrument is None:
        known = ", ".join(site.instruments) or "none"
        raise CommandFailed(f"{site.name} has no active device {name}; it has {known}")
    protocol = protocol_of(instrument.tags.Communication)
    if protocol is None:
        raise CommandFailed(f"{name}: there is no driver for {instrument.tags.Communication}")
    errors = [f for f in protocol.check(instrument) if f.severity == "error"]
    if errors:
        raise CommandFailed(f"{errors[0]}. `gatepost check` shows more")
    return instrument, protocol


def points_of(site: Site, tags: Sequence[str]) -> list[PointDef]:
    """Points of devices by their tags, a device's name standing for all of its points.

    All points of all devices where no tag is given. Raises CommandFailed.
    """
    known = {point.tag: point for point in site.points if point.source == "device"}
    found: dict[str, PointDef] = {} if tags else dict(known)
    for tag in tags:
        mine = [p for p in known.values() if tag in (p.tag, p.equipment)]
        if not mine:
            if any(tag in (p.tag, p.equipment) and p.source == "virtual" for p in site.points):
                text = f"{tag} is calculated: only a running gateway has its value"
                raise CommandFailed(text)
            raise CommandFailed(f"{tag}: no point of a device of {site.name}, and no device")
        found |= {p.tag: p for p in mine}
    return list(found.values())


@dataclass(slots=True)
class Reading:
    """What reading directly gave: rows as a running gateway answers them, and what went wrong."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    faults: dict[str, str] = field(default_factory=dict)  # device or tag -> reason


class DirectReader:
    """Reads points of a site once; each device on its own, all at the same time."""

    def __init__(self, site: Site, clock: Clock | None = None) -> None:
        self._site = site
        self._clock = clock or SystemClock()
        self._table = PointTable(site.points)
        self._surroundings = Surroundings(self._clock)
        self.faults: dict[str, str] = {}

    async def read(self, points: Sequence[PointDef]) -> Reading:
        """Read points. Never raises for a device: its rows are bad and `faults` says why."""
        devices = {p.equipment: [q for q in points if q.equipment == p.equipment] for p in points}
        await asyncio.gather(*(self._device(name, mine) for name, mine in devices.items()))
        return Reading([self._row(point) for point in points], self.faults)

    async def _device(self, name: str, points: Sequence[PointDef]) -> None:
        instrument, protocol = device_of(self._site, name)
        wanted = {p.index for p in points if p.readable}
        blocks = [b for b in protocol.plan(instrument) if wanted & set(b.index.tolist())]
        if not blocks:
            return
        nobody = np.zeros(len(self._site.points) + 1, dtype=bool)
        landing = Landing(self._table, nobody, blocks, self._clock)
        driver = protocol.open(instrument, self._surroundings)
        try:
            await driver.connect()
            await self._ask(name, protocol, driver, landing, [b for b in blocks if not b.pushed])
            if any(block.pushed for block in blocks):
                await self._listen(name, cast(PushDriver, driver), landing, wanted)
        except DriverError as error:
            self.faults[name] = str(error) or type(error).__name__
            self._fail(np.array(sorted(wanted), dtype=np.int32), error, only_unread=True)
        finally:
            await driver.close()

    async def _ask(
        self,
        name: str,
        protocol: DriverProtocol,
        driver: Driver,
        landing: Landing,
        blocks: list[Block],
    ) -> None:
        """Ask for blocks, for parts of those that the device refuses, and again for the silent."""
        tries: dict[Block, int] = {}
        while blocks:
            batch = landing.batch(protocol.cycle(blocks))
            blocks = []
            parts = cast(Any, driver.read(batch.cycle))
            async with contextlib.aclosing(parts):
                async for part in parts:
                    if part.error is None:
                        landing.part(batch, part)
                        continue
                    block = batch.cycle.blocks[part.first]
                    smaller = self._smaller(protocol, block, part.error, tries)
                    blocks += smaller
                    if not smaller:
                        self.faults[f"{name}, {block.label}"] = str(part.error)
                        self._fail(block.index, part.error)

    @staticmethod
    def _smaller(
        protocol: DriverProtocol, block: Block, error: DriverError, tries: dict[Block, int]
    ) -> list[Block]:
        if isinstance(error, Refused):
            return protocol.split(block) if error.permanent else []
        tries[block] = tries.get(block, 0) + 1
        return [block] if tries[block] == 1 else []

    async def _listen(
        self, name: str, driver: PushDriver, landing: Landing, wanted: set[int]
    ) -> None:
        updates = cast(Any, driver.updates())
        waiting = np.array(sorted(wanted), dtype=np.int32)
        try:
            async with asyncio.timeout(PUSHED_S), contextlib.aclosing(updates):
                async for update in updates:
                    landing.update(update)
                    if update.reason and not wanted.isdisjoint(update.index.tolist()):
                        self.faults[name] = update.reason
                    if not self._unread(waiting).any():
                        return
        except TimeoutError:
            silent = [self._table.points[i - 1].tag for i in waiting[self._unread(waiting)]]
            told = self.faults.get(name)
            text = f"nothing came within {PUSHED_S:g} s for {', '.join(silent)}"
            self.faults[name] = f"{told}; {text}" if told else text

    def _unread(self, index: Any) -> Any:
        return self._table.rows["status"][index] == codes.BAD_WAITING_FOR_INITIAL_DATA

    def _fail(self, index: Any, error: DriverError, *, only_unread: bool = False) -> None:
        rows = index[self._unread(index)] if only_unread else index
        self._table.put(rows, np.full(len(rows), math.nan), status_of(error), 0, 0)

    def _row(self, point: PointDef) -> dict[str, Any]:
        row = self._table.rows[point.index]
        age_ns = self._clock.monotonic_ns() - int(row["mono_ns"])
        return {
            "tag": point.tag,
            "value": float(row["value"]),
            "units": point.units,
            "states": list(point.states),
            "status": int(row["status"]),
            "utc_ns": int(row["utc_ns"]),
            "age_ms": age_ns / 1e6 if row["utc_ns"] else 0.0,
        }


def status_of(error: DriverError) -> int:
    """The status of a point that was never read, by what kept it from being read."""
    if isinstance(error, Refused):
        return codes.BAD_CONFIGURATION_ERROR if error.permanent else codes.BAD_DEVICE_FAILURE
    if isinstance(error, Garbled):
        return codes.BAD_DECODING_ERROR
    return codes.BAD_TIMEOUT if isinstance(error, NoAnswer) else codes.BAD_NOT_CONNECTED


def output_of(site: Site, tag: str) -> PointDef:
    """A point that can be written to its device. Raises CommandFailed."""
    point = next((point for point in site.points if point.tag == tag), None)
    if point is None:
        raise CommandFailed(f"{site.name} has no point {tag}")
    if point.source != "device":
        raise CommandFailed(f"{tag} is no point of a device; only a gateway has it")
    if not point.writable:
        raise CommandFailed(f"{tag} can only be read: ReadWrite is R", EXIT_BAD)
    return point


def in_range(point: PointDef, value: float) -> None:
    """Raises CommandFailed for a value outside of what the point's channel declares."""
    if value < point.value_min or value > point.value_max:
        raise CommandFailed(
            f"{point.tag} = {value:g} is refused: the range is {point.value_min:g} to "
            f"{point.value_max:g} {point.units}".rstrip(),
            EXIT_BAD,
        )


async def write_direct(site: Site, point: PointDef, value: float) -> Reading:
    """Write one value and read back what shows it. Raises CommandFailed where it is not taken."""
    instrument, protocol = device_of(site, point.equipment)
    async with _connected(instrument, protocol) as driver:
        try:
            await driver.write(point, value)
        except DriverError as error:
            kind = "refused" if isinstance(error, Refused) else "failed"
            raise CommandFailed(f"{kind}: {point.tag} = {value:g}: {error}", EXIT_BAD) from error
    shown = next((p for p in site.points if p.index == point.read_back and p.readable), None)
    if shown is None:
        return Reading()
    return await DirectReader(site).read([shown])


@contextlib.asynccontextmanager
async def _connected(instrument: Instrument, protocol: DriverProtocol) -> AsyncIterator[Driver]:
    driver = protocol.open(instrument, Surroundings(SystemClock()))
    try:
        try:
            await driver.connect()
        except DriverError as error:
            raise CommandFailed(f"{instrument.name}: {error}", EXIT_BAD) from error
        yield driver
    finally:
        await driver.close()
