"""The course of a demonstration: start everything, let it run, end everything in order.

Order of the start: broker, ingest, plant, devices, gateway. Order of the end: the gateway (its
outputs go to their safe values while the devices still listen, its last records are forwarded
while the broker still runs), devices, plant, ingest, broker. Only then are the journal's numbers
compared with the historian's rows.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import Awaitable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cloud.historian import HistorianError
from gateway import retain
from gateway.cli.children import Children
from gateway.cli.demo_report import Outage, Report, trips_of
from gateway.cli.demo_site import DemoSite
from gateway.cli.demo_view import DemoView
from gateway.cli.farside import FarSide
from gateway.cli.operation import OperationFailed, Operator, start_electrolysis
from gateway.cli.output import EXIT_BAD, CommandFailed, typed, typed_command
from gateway.core.clock import SystemClock
from gateway.core.paths import StatePaths
from gateway.local import LocalError
from gateway.supervisor import Supervisor, SupervisorError
from sync.errors import StoreError
from sync.store.reader import StoreReader

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # the last: terminal closed
SAMPLE_S: Final = 0.25
UP_S: Final = 60.0  # a first start compiles the safety kernel
TRIP_S: Final = 30.0
DRAIN_S: Final = 30.0
OUTAGE_BEGIN: Final = 0.35  # of --for
OUTAGE_BEGIN_S: Final = 10.0  # without --for
TRIP_BEGIN: Final = 0.2
TRIP_TAG: Final = "Stack.Heater_Enable"
LOG_LINES_MAX: Final = 50
PLANT_S: Final = 10.0
SETTLE_S: Final = 1.0  # the last receipts of a trip


async def _together(*works: Coroutine[Any, Any, None]) -> None:
    """Await all; where one fails, the others end too, so that none starts a broker behind it."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for; `seconds` None = until Ctrl-C."""

    seconds: float | None = None
    outage_s: float | None = None
    trip: bool = False


class Demo:
    """One demonstration in `folder`, which holds the site's copy, the state and the logs."""

    def __init__(self, site: DemoSite, folder: Path, options: Options) -> None:
        self._site = site
        self._options = options
        self._paths = StatePaths(folder)
        self._paths.make()
        self._clock = SystemClock()
        self._children = Children(self._paths.logs)
        self._far = FarSide(folder, site.broker_port, self._children)
        self._operator = Operator(self._paths.field_socket, self._clock)
        self._plant_socket = self._paths.field_socket.with_name(
            self._paths.field_socket.stem + "-plant.sock"
        )
        self._view = DemoView()
        self._stop = asyncio.Event()
        self._stop_gateway = asyncio.Event()
        self._asked = 0
        self._failure: CommandFailed | None = None
        self._gateway: asyncio.Task[int] | None = None
        self._supervisor: Supervisor | None = None
        self._status: Mapping[str, Any] | None = None
        self._newest: dict[int, int] = {}  # epoch -> newest number seen
        self._backlog_max = 0
        self._begin_ns = 0
        self._report = Report(site.name, broker_url=site.broker_url, opcua_url=site.opcua_url)

    async def run(self) -> Report:
        """Run it all; raises CommandFailed where something does not even start."""
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._ask_to_stop)
        self._view.start()
        try:
            with (self._paths.logs / "gateway.log").open("ab") as log:
                self._supervisor = Supervisor(
                    self._site.folder,
                    self._paths.folder,
                    tell=self._view.note,
                    output=log.fileno(),
                )
                await self._live()
        finally:
            self._view.stop()
            for number in SIGNALS:
                loop.remove_signal_handler(number)
        if self._failure is not None:
            raise self._failure
        if self._asked > 1:
            raise CommandFailed("ended without waiting for anything", EXIT_BAD)
        self._audit()
        return self._report

    def _ask_to_stop(self) -> None:
        """The first time in order; the second time everything is killed."""
        self._asked += 1
        self._stop.set()
        if self._asked == 1:
            self._view.note("ending in order; Ctrl-C again kills")
        elif self._supervisor is not None:
            self._supervisor.kill()

    async def _live(self) -> None:
        complete = False
        try:
            await self._unless_stopped(self._course())
            complete = self._failure is None
        finally:
            try:
                await self._end(drain=complete)
            finally:
                await self._clear_away()

    async def _unless_stopped(self, course: Coroutine[Any, Any, None]) -> None:
        """Await `course`, or cancel it when the demonstration is asked to stop."""
        task = asyncio.create_task(course)
        stopped = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in (task, stopped):
                each.cancel()
            await asyncio.gather(task, stopped, return_exceptions=True)
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error

    # ------------------------------------------------------------ the course

    async def _course(self) -> None:
        await self._start()
        sampler = asyncio.create_task(self._sample())
        try:
            self._begin_ns = self._clock.monotonic_ns()
            if self._options.trip and TRIP_TAG not in await self._operator.tags():
                raise CommandFailed(f"--trip: the site has no {TRIP_TAG} to take off")
            if lacking := await start_electrolysis(self._operator):
                self._view.note(
                    f"the site runs; {len(lacking)} outputs of the laboratory are not there, "
                    "and other outputs were not commanded"
                )
            else:
                self._view.note("the laboratory runs: hot, ventilated, electrolysis at 30 A")
            await _together(self._last(), self._cut(), self._overheat())
        except (OperationFailed, LocalError) as error:
            raise CommandFailed(f"{error}{self._why()}", EXIT_BAD) from error
        finally:
            sampler.cancel()
            await asyncio.gather(sampler, return_exceptions=True)

    def _why(self) -> str:
        ended = self._children.ended()
        return f" ({'; '.join(ended)})" if ended else ""

    async def _start(self) -> None:
        site, view = self._site, self._view
        view.note("starting broker, ingest, plant and devices")
        await self._far.start()
        plant = ("drivers.sim.plant_server", str(self._plant_socket), "--with-parent")
        await self._children.start("plant", *plant, ready=True)
        await asyncio.gather(*(self._start_device(name) for name in site.instruments))
        assert self._supervisor is not None
        self._gateway = asyncio.create_task(self._supervisor.run(self._stop_gateway))
        await self._wait_up()
        view.addresses(
            f"OPC UA {site.opcua_url}" if site.opcua_url else "",
            f"MQTT {site.broker_url} topic gatepost/{site.name}/#",
            f"historian {self._far.historian_file}",
            f"try: {typed_command()} status {typed(site.folder)} "
            f"--state {typed(self._paths.folder)}",
        )

    async def _start_device(self, name: str) -> None:
        command = ("drivers.sim.device", str(self._site.folder), name)
        plant = ("--plant", str(self._plant_socket), "--with-parent")
        await self._children.start(name, *command, *plant, ready=True)

    async def _wait_up(self) -> None:
        """Wait for the first scans with every device connected."""
        try:
            async with asyncio.timeout(UP_S):
                while True:
                    self._check_gateway()
                    with contextlib.suppress(LocalError):
                        status = await self._operator.status()
                        up = [device["connected"] for device in status["devices"].values()]
                        if status["scan"]["count"] and all(up) and not status["startup"]:
                            return
                    await asyncio.sleep(0.1)
        except TimeoutError as error:
            raise CommandFailed(
                f"not every device came up:\n{self._log_end()}", EXIT_BAD
            ) from error

    def _check_gateway(self) -> None:
        """Raise CommandFailed where the supervisor gave up."""
        if self._gateway is None or not self._gateway.done():
            return
        try:
            self._gateway.result()
        except SupervisorError as error:
            raise CommandFailed(str(error), EXIT_BAD) from error
        raise CommandFailed(f"the gateway refuses the site:\n{self._log_end()}", EXIT_BAD)

    def _log_end(self) -> str:
        """What the gateway said last; its log may be gone with the temporary folder."""
        log = (self._paths.logs / "gateway.log").read_text(encoding="utf-8", errors="replace")
        return "\n".join(log.strip().splitlines()[-LOG_LINES_MAX:])

    async def _last(self) -> None:
        """The time that was asked for, or for ever."""
        if self._options.seconds is None:
            await asyncio.Event().wait()
        else:
            await asyncio.sleep(max(0.0, self._options.seconds - self._elapsed_s()))

    def _elapsed_s(self) -> float:
        return (self._clock.monotonic_ns() - self._begin_ns) / 1e9

    async def _until(self, moment_s: float) -> None:
        await asyncio.sleep(max(0.0, moment_s - self._elapsed_s()))

    async def _cut(self) -> None:
        """Stop the broker, start it again, and measure how long the backlog takes."""
        seconds, outage_s = self._options.seconds, self._options.outage_s
        if outage_s is None:
            return
        begin_s = OUTAGE_BEGIN_S
        if seconds is not None:
            begin_s = max(0.0, min(OUTAGE_BEGIN * seconds, seconds - outage_s - 2.0))
        await self._until(begin_s)
        self._backlog_max = 0
        begin_ns = self._clock.monotonic_ns()
        await self._far.stop_broker()
        self._view.note(f"the broker is stopped for {outage_s:g} s")
        outage = Outage(outage_s)
        self._report.outages.append(outage)
        await asyncio.sleep(outage_s)
        outage.seconds = (self._clock.monotonic_ns() - begin_ns) / 1e9
        back_ns = self._clock.monotonic_ns()
        await self._far.start_broker()
        self._view.note("the broker is back")
        drained = await self._drained(DRAIN_S)
        outage.backlog_max_records = self._backlog_max
        if drained:
            outage.drain_s = (self._clock.monotonic_ns() - back_ns) / 1e9
            self._view.note(f"the backlog is drained after {outage.drain_s:.1f} s")

    async def _drained(self, seconds: float) -> bool:
        """Wait until the historian confirmed everything that the journal holds now."""
        try:
            async with asyncio.timeout(seconds):
                target: tuple[int, int] | None = None
                while True:
                    with contextlib.suppress(LocalError):
                        status = await self._operator.status()
                        self._note_status(status)
                        if target is None:
                            target = (status["epoch"], status["seq"])
                        link = status["link"] or {}
                        if tuple(link.get("acknowledged") or (0, 0)) >= target:
                            return True
                    await asyncio.sleep(0.1)
        except TimeoutError:
            return False

    async def _overheat(self) -> None:
        """Let the furnace controller fail, and wait until the trip has taken the heater off."""
        if not self._options.trip:
            return
        await self._until(TRIP_BEGIN * (self._options.seconds or 0.0))
        await self._scenario("overheat", on=True)
        self._view.note("the furnace controller fails: full power, whatever the setpoint")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TRIP_S):
                while not await self._tripped():
                    await asyncio.sleep(0.1)
                self._view.note("tripped: the heater is off, shown by its read-back")
                await asyncio.sleep(SETTLE_S)
        await self._scenario("overheat", on=False)

    async def _tripped(self) -> bool:
        active = any(rule["kind"] == "trip" for rule in (self._status or {}).get("rules", ()))
        return active and (await self._operator.read(TRIP_TAG))[0] == 0.0

    async def _scenario(self, name: str, *, on: bool) -> None:
        try:
            async with asyncio.timeout(PLANT_S):
                reader, writer = await asyncio.open_unix_connection(str(self._plant_socket))
                with contextlib.closing(writer):
                    writer.write(json.dumps({"scenario": name, "on": on}).encode() + b"\n")
                    answer = json.loads(await reader.readline() or b"{}")
        except (OSError, ValueError) as error:
            raise CommandFailed(f"the plant does not answer: {error}{self._why()}") from error
        assert name in answer.get("scenarios", {}), answer

    async def _sample(self) -> None:
        """Keep the newest status, show it, and remember extremes; a dead gateway ends it all."""
        while self._failure is None:
            with contextlib.suppress(LocalError):
                self._note_status(await self._operator.status())
            try:
                self._check_gateway()
            except CommandFailed as error:
                self._failure = error
                self._stop.set()
            await asyncio.sleep(SAMPLE_S)

    def _note_status(self, status: Mapping[str, Any]) -> None:
        epoch = int(status["epoch"])
        if self._status is not None and epoch != self._status["epoch"]:
            self._view.note(
                f"the field process was started anew (epoch {epoch}): outputs went to their safe "
                "values, the setpoints given before are ended"
            )
        self._status = status
        self._newest[epoch] = max(self._newest.get(epoch, 0), int(status["seq"]))
        backlog = (status["link"] or {}).get("backlog", 0)
        self._backlog_max = max(self._backlog_max, int(backlog))
        self._view.update(status, self._elapsed_s(), self._options.seconds)

    # ------------------------------------------------------------ the end

    async def _end(self, *, drain: bool) -> None:
        """Let the backlog drain, stop the gateway, then what it speaks to."""
        if self._gateway is None or self._gateway.done():
            return
        self._report.seconds = self._elapsed_s() if self._begin_ns else 0.0
        if self._begin_ns and drain:
            if not self._far.broker.running:
                await self._patiently(self._far.start_broker())
            await self._patiently(self._drained(DRAIN_S))
        self._view.note("stopping the gateway: outputs go to their safe values")
        self._stop_gateway.set()
        await asyncio.wait((self._gateway,))
        if self._status is not None:
            self._report.take_status(self._status)

    async def _patiently(self, work: Awaitable[Any]) -> None:
        """Await `work` unless the second Ctrl-C comes."""
        task = asyncio.ensure_future(work)
        while not task.done() and self._asked < 2:
            await asyncio.wait((task,), timeout=0.1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def _clear_away(self) -> None:
        """End every process that is left, whatever happened before."""
        if self._gateway is not None:
            self._stop_gateway.set()
            if self._asked > 1 and self._supervisor is not None:
                self._supervisor.kill()
            await asyncio.wait((self._gateway,))
        try:
            for name in self._site.instruments:
                await self._children.end(name)
            await self._children.end("plant")
        finally:
            await self._far.stop()
            await self._children.end_all()

    # ------------------------------------------------------------ the verdict

    def _audit(self) -> None:
        """Compare the journal's numbers with the historian's rows."""
        report = self._report
        try:
            last = retain.load(self._paths.retain)
            self._newest[last.epoch] = max(self._newest.get(last.epoch, 0), last.last)
        except retain.RetainError as error:
            self._view.note(f"the journal's last number is not known: {error}")
        with contextlib.suppress(StoreError):
            report.stored = self._stored_by_link()
        try:
            held = self._far.held()
        except HistorianError as error:
            report.records = report.missing = sum(self._newest.values())
            self._view.note(f"the historian can't be read: {error}")
            return
        report.take_audit(held.audit, self._newest)
        report.trips = trips_of(held.receipts)

    def _stored_by_link(self) -> int:
        """The newest number that the link's store took. Raises StoreError."""
        with StoreReader(self._paths.store) as store:
            return next(reversed(store.ends().values()), 0)
