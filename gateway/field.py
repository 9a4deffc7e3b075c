"""The field process: drivers, point table, safety, outputs, journal. ``python -m gateway.field``.

It touches no disk in its loop (the retain file is written in a thread) and no outside network,
and it runs on when nobody listens to its journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import hashlib
import json
import logging
import os
import sys
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from config.check import check_site
from config.findings import SiteError
from config.load import require_site
from config.points import GATEWAY_EQUIPMENT, PointDef
from config.site import Site
from drivers.contract import Surroundings
from drivers.registry import check_instruments, protocol_of
from gateway import kernel_cache, process, retain
from gateway.commands import E_STOP, Commands, Write
from gateway.core.clock import Clock, SystemClock, stamp
from gateway.core.garbage import collection_paused
from gateway.core.paths import StatePaths
from gateway.core.records import Birth
from gateway.core.table import PointTable
from gateway.event_log import EventLog
from gateway.explain import Explain
from gateway.journal import Journal
from gateway.learned import Learned, LearnedError
from gateway.link_points import LinkPoints
from gateway.local_server import LocalServer
from gateway.notify import Notifier
from gateway.overview import Overview
from gateway.plan import check_plan
from gateway.poll import DevicePoller
from gateway.scan import Scan
from gateway.schedule_keeper import ScheduleKeeper
from gateway.statistics import ScanStatistics
from gateway.watchdog import Watchdog
from safety.compile import compile_site
from safety.engine import Engine
from safety.layout import Program

log = logging.getLogger("gatepost.field")

STOP_OUTPUTS_S: Final = 2.0  # how long an orderly stop waits for outputs to be safe
RETAIN_RETRY_S: Final = 1.0  # a latch that could not be kept is kept later
UNKEPT_EPOCHS: Final = 2**20  # epochs are milliseconds: 17 minutes
FAREWELL_S: Final = 3.0  # and for the link to take the last records
LEARNED_GAP_S: Final = 5.0  # between two writings of what devices refuse
REFUSED_SHOWN_MAX: Final = 10  # labels in one event
HOUSEKEEPING_S: Final = 1.0
SCAN_GAP_S: Final = 0.002  # at least, behind a scan that landing points asked for


def prepare(folder: Path) -> tuple[Site, Program]:
    """Load, check and compile a site. Raises SiteError with every error at once."""
    site = require_site(folder)
    program, findings = compile_site(site)
    findings += check_site(site) + check_instruments(site) + check_plan(site)
    errors = sorted(f for f in findings if f.severity == "error")
    if errors or program is None:
        raise SiteError(errors)
    # Rules' points get the names of their levels: 0 is "inactive", see safety/layout.py.
    names = {info.point: ("", *info.levels) for info in program.info if info.levels}
    names |= {info.point: ("", *info.states) for info in program.machine_info}
    points = tuple(
        dataclasses.replace(p, states=names[p.index]) if p.index in names else p
        for p in site.points
    )
    return dataclasses.replace(site, points=points), program


def points_hash(points: Sequence[PointDef]) -> str:
    """Names a point table: 16 hexadecimal digits over all definitions."""
    text = json.dumps([asdict(p) for p in points], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def birth_of(site: Site, epoch: int, utc_ns: int) -> Birth:
    """What a link is told first: the definitions of all points."""
    points = tuple(asdict(p) for p in site.points)
    return Birth(site.name, epoch, 0, points_hash(site.points), site.hash, utc_ns, points)


def inert_points(site: Site, program: Program) -> set[str]:
    """Tags of the gateway's writable points that no rule reads; `Reset` acts without a rule."""
    read = {index for info in program.info for index in info.inputs}
    own = [p for p in site.points if p.equipment == GATEWAY_EQUIPMENT and p.writable]
    return {p.tag for p in own if p.index not in read and p.channel != "Reset"}


class Field:
    """The parts of the field process and how they are joined."""

    def __init__(self, site: Site, engine: Engine, paths: StatePaths, clock: Clock) -> None:
        """Restores what the last life retained."""
        self.site = site
        self.engine = engine
        self.clock = clock
        self._paths = paths
        self._disk = ThreadPoolExecutor(1, "retain")  # one thread: the file is written in order
        self._latches = asyncio.Event()
        self._landed = asyncio.Event()  # protective points are new: scan before the grid says so
        self._not_kept = ""  # why the retain file could not be written, or nothing
        previous, damaged = self._restore()
        unsaved = self._begin_epoch(previous)
        birth = birth_of(site, self.epoch, clock.utc_ns())
        self.table = PointTable(site.points)
        self.table.rows["utc_ns"] = stamp(clock.utc_ns())  # "waiting for initial data" since now
        self.journal = Journal(site.points, self.epoch, birth.hash)
        self.commands = Commands(site.points, self._receipt, inert_points(site, engine.program))
        self.commands.stop_asked = self._landed.set
        self._learned = Learned(paths.learned)
        self._learned_new = asyncio.Event()
        self.pollers = self._make_pollers()
        self.scan = Scan(
            site, self.table, engine, self.commands, self.journal, clock, self._enqueue
        )
        self.scan.alarms.restore(previous.alarms)
        if previous.stop:
            self.scan.set_gateway_point(E_STOP, 1.0)
        self.statistics = ScanStatistics()
        self._overview = Overview(
            site, engine, self.table, self.pollers, self.statistics, self.scan
        )
        self._notifier = Notifier.from_environment(os.environ)
        self._ready = False
        signs = (self._give_sign,)
        self.watchdog = Watchdog(
            site.system.Watchdog, site.scan_period_ns, self.commands, self._event, signs
        )
        self.server = LocalServer(
            paths.field_socket,
            birth,
            self._past,
            self.table,
            self.journal,
            self.commands,
            self.status,
            clock,
        )
        self._link_points = LinkPoints(site.link, self.table, self.scan.set_gateway_point)
        self._keeper = ScheduleKeeper(
            self.scan.schedules, paths.schedules, self._disk, self._event, clock
        )
        self._explain = Explain(engine, self.table, self.commands, clock, self.scan.alarms.state_of)
        self._event_log = EventLog()
        self._join_tools()
        self._tell_start(previous.epoch, damaged, unsaved)

    def _join_tools(self) -> None:
        self.journal.listen(self._explain.hear)
        self.journal.listen(self._event_log.hear)
        self.server.take_schedule = self._keeper.take
        self.server.answer("schedules", self.scan.schedules.answer)
        self.server.answer("states", self.scan.requests.machines)
        self.server.answer("alarms", self.scan.alarms.answer)
        self.server.answer("explain", self._explain.answer)

    def _tell_start(self, previous_epoch: int, damaged: str, unsaved: str) -> None:
        body = {"what": "started", "epoch": self.epoch, "previous": previous_epoch}
        self._event("gateway", body)
        for what, reason in (("damaged", damaged), ("not written", unsaved)):
            if reason:
                self._event("gateway", {"what": f"retain file {what}", "reason": reason})

    def _restore(self) -> tuple[retain.Retained, str]:
        try:
            previous = retain.load(self._paths.retain)
        except retain.RetainError as error:
            # Nobody knows what was latched: everything that can latch comes up latched.
            log.error("%s; every latching rule is latched", error)
            try:
                log.error("it was moved to %s", retain.set_aside(self._paths.retain))
            except retain.RetainError as refused:
                log.error("it could not be moved away: %s", refused)
            self.engine.restore_all_latched()
            return retain.Retained(), str(error)
        self.engine.restore(previous.latched)
        return previous, ""

    def _begin_epoch(self, previous: retain.Retained) -> str:
        """Choose the epoch of this life and note it; why that failed, or nothing."""
        self.epoch = max(self.clock.utc_ns() // 1_000_000, previous.epoch + 1)
        self._past = previous.past()
        unsaved = self._keep_epoch(previous)
        if unsaved:
            # The next life may not know of this one, and must not count on its number.
            self.epoch += 1 + int(self.clock.random() * UNKEPT_EPOCHS)
            self._not_kept = unsaved
            self._latches.set()  # as soon as the disk takes it
        return unsaved

    def _keep_epoch(self, previous: retain.Retained) -> str:
        """Note that this epoch began; why that failed, or nothing. Control starts either way."""
        kept = dataclasses.replace(
            previous, epoch=self.epoch, last=0, latched=self.engine.retained(), lives=self._past
        )
        try:
            retain.save(self._paths.retain, kept)
        except retain.RetainError as error:
            log.error("%s", error)
            return str(error)
        return ""

    def _make_pollers(self) -> dict[str, DevicePoller]:
        try:
            self._learned.load()
        except LearnedError as error:
            log.warning("%s", error)
        self._learned.keep(self.site.instruments)
        surroundings = Surroundings(self.clock)
        pollers = {}
        for name, instrument in self.site.instruments.items():
            protocol = protocol_of(instrument.tags.Communication)
            assert protocol is not None, "check_instruments refuses unknown protocols"
            pollers[name] = DevicePoller(
                instrument,
                protocol,
                dict(self.site.scan_classes),
                self.table,
                self.engine.program.protective,
                self,
                surroundings,
                self._learned.labels(name),
            )
        return pollers

    # ------------------------------------------------------------ what the parts tell each other

    def _event(self, kind: str, body: dict[str, Any]) -> None:
        self.journal.event(kind, body, self.clock.utc_ns())

    def _receipt(self, body: Any) -> None:
        self.journal.event("receipt", body, self.clock.utc_ns())

    def _give_sign(self) -> None:
        """Scans are on time: to the supervisor, or to the service manager where there is none."""
        process.give_sign(process.HEALTHY)
        self._notifier.tell(*([] if self._ready else ["READY=1"]), "WATCHDOG=1")
        self._ready = True

    def _enqueue(self, writes: Sequence[Write]) -> None:
        for write in writes:
            self.pollers[write.point.equipment].enqueue(write)

    def on_block(self, protective: bool) -> None:
        """See gateway.poll.Listener. What lands together is scanned together."""
        if protective:
            self._landed.set()

    def on_written(self, write: Write, now_mono_ns: int) -> None:
        """See gateway.poll.Listener."""
        self.commands.written(write.point.index, write.value, now_mono_ns)

    def on_write_failed(self, write: Write, reason: str) -> None:
        """See gateway.poll.Listener."""
        self.commands.write_failed(write.point.index, write.value, reason)

    def on_device(self, name: str, up: bool, reason: str) -> None:
        """See gateway.poll.Listener."""
        self._event("device", {"device": name, "up": up, "reason": reason})
        if up:
            self.commands.device_back(self.pollers[name].indexes, self.clock.monotonic_ns())
        else:
            self.commands.device_lost(self.pollers[name].indexes)

    def on_refused(self, name: str, labels: Collection[str]) -> None:
        """See gateway.poll.Listener."""
        shown = list(labels)[:REFUSED_SHOWN_MAX]
        body = {"device": name, "up": True, "refuses": shown, "refused_blocks": len(labels)}
        self._event("device", body)
        self._learned.add(name, labels)
        self._learned_new.set()

    # ------------------------------------------------------------ status

    def status(self, scans: int = 0) -> dict[str, Any]:
        """What ``gatepost status`` shows; msgpack-able. See gateway/overview.py for `scans`."""
        return {
            "epoch": self.epoch,
            "seq": self.journal.last,
            "taken": self.server.taken,
            "link": dict(self.server.health) if self.server.link_connected else None,
            **self._overview.status(scans),
        }

    # ------------------------------------------------------------ tasks

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop`, then leave every output safe and say farewell."""
        self.engine.warm_up()
        await self.server.start()
        process.give_back_memory()
        gc.freeze()  # what start-up made never needs another look; shortens every later pause
        tasks = [asyncio.create_task(poller.run()) for poller in self.pollers.values()]
        keepers = (self._keep_latches, self._keep_learned, self._keep_house, self._keeper.run)
        tasks += [asyncio.create_task(part()) for part in (self._scan_forever, *keepers)]
        stopped = asyncio.create_task(stop.wait())
        try:
            done, _ = await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopped}:
                task.result()  # a task that ended by itself is a defect; end loudly
            not_safe = await self._make_safe()
            await _cancel(tasks)  # nothing is numbered behind the farewell
            self.scan.settle()
            self.watchdog.stop()
            overruns = self.statistics.overruns
            body = {"what": "stopped", "overruns": overruns, "not_safe": not_safe}
            self._event("gateway", body)
            await self._say_farewell()
        finally:
            await _cancel([*tasks, stopped])
            await self.server.stop()
            self._disk.shutdown(wait=False)

    async def _scan_forever(self) -> None:
        """Scan on a fixed grid, and between when protective points land.

        A scan that comes too late for its period is counted, not run.
        """
        clock, statistics, period_ns = self.clock, self.statistics, self.site.scan_period_ns
        due_ns = clock.monotonic_ns()
        while True:
            if await self._landed_before(due_ns):
                statistics.extra += 1
                began_ns = clock.monotonic_ns()
                self._scan_once()
                # The polls get at least as much time as these scans, and the grid its own.
                now_ns = clock.monotonic_ns()
                gap_ns = max(now_ns - began_ns, round(SCAN_GAP_S * 1e9))
                await asyncio.sleep(max(0, min(gap_ns, due_ns - now_ns)) / 1e9)
                self.scan.settle()
                continue
            began_ns = clock.monotonic_ns()
            lateness_ns = max(0, began_ns - due_ns)
            if not self.scan.stopping:
                self.watchdog.scan(began_ns, lateness_ns)
            self._scan_once()
            statistics.add(lateness_ns, clock.monotonic_ns() - began_ns)
            if statistics.count == 1:
                log.info("first scan; %d points, epoch %d", len(self.site.points), self.epoch)
            due_ns += period_ns
            behind_ns = clock.monotonic_ns() - due_ns
            if behind_ns >= period_ns:
                missed = behind_ns // period_ns
                statistics.overruns += missed
                due_ns += missed * period_ns
            await asyncio.sleep(0)
            self.scan.settle()

    async def _landed_before(self, due_ns: int) -> bool:
        """Wait for protective points or for the grid; True where the points came first."""
        wait_ns = due_ns - self.clock.monotonic_ns()
        if wait_ns <= 0:
            return False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_ns / 1e9):
                await self._landed.wait()
                return True
        return False

    def _scan_once(self) -> None:
        self._landed.clear()
        self.scan.run()
        self._explain.settle()
        if self.scan.latches_changed:
            self.scan.latches_changed = False
            self._latches.set()

    async def _keep_latches(self) -> None:
        """Write the retain file when latches changed, again while the disk refuses.

        The scan does not wait for it: a disk may take seconds, or hang.
        """
        while True:
            with contextlib.suppress(TimeoutError):  # what is new is tried at once
                async with asyncio.timeout(RETAIN_RETRY_S if self._not_kept else None):
                    await self._latches.wait()
            self._latches.clear()
            await self._retain(0)

    async def _keep_learned(self) -> None:
        """Write what devices refuse when that changed; not too often, latches go first."""
        while True:
            await self._learned_new.wait()
            await self._save_learned()
            await asyncio.sleep(LEARNED_GAP_S)

    async def _save_learned(self) -> None:
        self._learned_new.clear()
        loop, content = asyncio.get_running_loop(), self._learned.content()
        try:
            await loop.run_in_executor(self._disk, self._learned.save, content)
        except LearnedError as error:
            log.warning("%s", error)

    async def _retain(self, last: int) -> None:
        """Write the retain file in its thread; a disk that refuses is an event, not an end."""
        alarms, stop = self.scan.alarms.kept(), self.scan.stop_asked
        latched = self.engine.retained()
        kept = retain.Retained(self.epoch, last, latched, alarms, stop, self._past)
        loop, reason = asyncio.get_running_loop(), ""
        try:
            await loop.run_in_executor(self._disk, retain.save, self._paths.retain, kept)
        except retain.RetainError as error:
            reason = str(error)
        if reason and reason != self._not_kept:
            self._event("gateway", {"what": "retain file not written", "reason": reason})
        self._not_kept = reason

    async def _keep_house(self) -> None:
        """Once a second: the gateway's own points, and what had no room on the console."""
        overruns = 0
        while True:
            await asyncio.sleep(HOUSEKEEPING_S)
            self._event_log.next_second()
            recent = self.statistics.take_recent()
            now = {
                "Scan_Lateness": recent.lateness,
                "Scan_Jitter": recent.jitter,
                "Scan_Duration": recent.duration,
                "Scan_Overruns": float(self.statistics.overruns),
                **self.scan.alarms.points(),
                **self.scan.schedules.points(self.clock.utc_ns()),
            }
            if self.scan.alarms.kept_changed:  # once a second: a flood must not wear the disk
                self._latches.set()
            for channel, value in now.items():
                self.scan.set_gateway_point(channel, value)
            if overruns != self.statistics.overruns:
                overruns = self.statistics.overruns
                self._event("gateway", {"what": "Scan_Overruns", "value": float(overruns)})
            for body in self._link_points.show(self.server.health, self.server.link_connected):
                self._event("gateway", body)

    async def _make_safe(self) -> list[str]:
        """Drive every output to its safe value and wait, in bounds, until devices took it.

        Returns the tags of those that did not.
        """
        self.scan.stopping = True
        self.scan.run()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_OUTPUTS_S):
                while self._unsafe():
                    await asyncio.sleep(0.02)
        return self._unsafe()

    def _unsafe(self) -> list[str]:
        return [
            output.point.tag
            for output in self.commands.outputs.values()
            if output.demand is not None and (output.in_flight or output.driven != output.desired)
        ]

    async def _say_farewell(self) -> None:
        """Wait, in bounds, until a link holds everything; then keep how this life ended."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_S if self.server.link_seen else 0):
                while self.server.taken < self.journal.last:
                    await asyncio.sleep(0.02)
        await self._retain(self.journal.last)
        if self._learned_new.is_set():
            await self._save_learned()


async def _cancel(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def run(folder: Path, state: Path, stop: asyncio.Event) -> None:
    """The field process of the site in `folder`."""
    with collection_paused():
        site, program = prepare(folder)
    paths = process.open_state(state)
    engine = Engine(program, kernel_cache.load(paths.folder))
    await Field(site, engine, paths, SystemClock()).run(stop)


if __name__ == "__main__":
    sys.exit(process.main("field", run))
