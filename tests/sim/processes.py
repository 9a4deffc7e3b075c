"""The processes of a site and its cloud, which can be killed between any two of their steps."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, Final, Literal

from cloud.historian import HistorianError
from cloud.historian_sqlite import SqliteHistorian
from cloud.ingest import Ingest
from config.link import LinkFile
from gateway.core.paths import StatePaths
from gateway.field import Field
from gateway.link import Link
from safety.engine import Engine
from sync.errors import StoreError
from sync.store.async_store import AsyncStore
from tests.sim import broker, plant
from tests.sim.broker import CUSTOMER
from tests.sim.disk import Disk, give_disk
from tests.sim.loop import Process, SimLoop
from tests.sim.network import Network

UTC_NS: Final = 1_790_000_000_000_000_000  # when the virtual time was 0
GATEWAY: Final = "gateway"
INGEST: Final = "ingest"
BROKER_URL: Final = "mqtt://127.0.0.1:1883"
RETRY_S: Final = 0.5


class SimClock:
    """A clock of one host: virtual time, and a wall clock that may step."""

    def __init__(self, loop: SimLoop, seed: str) -> None:
        self._loop = loop
        self._random = Random(seed)
        self.step_ns = 0

    def monotonic_ns(self) -> int:
        """Virtual nanoseconds."""
        return self._loop.now_ns

    def utc_ns(self) -> int:
        """Virtual wall time."""
        return UTC_NS + self._loop.now_ns + self.step_ns

    def random(self) -> float:
        """A number in [0, 1) from the seed."""
        return self._random.random()

    def new_id(self) -> str:
        """An identity from the seed."""
        return f"{self._random.getrandbits(128):032x}"


class Node:
    """A process that comes back after its end, as a supervisor brings it back."""

    name = ""
    host = GATEWAY

    def __init__(self, loop: SimLoop, network: Network, folder: Path, clock: SimClock) -> None:
        self.loop = loop
        self.network = network
        self.folder = folder
        self.clock = clock
        self.process: Process | None = None
        self.disk: Disk | None = None
        self.fault = ""  # of the disk, over restarts
        self.lives = 0
        self.buried: list[Process] = []
        self.on_death: Callable[[Node], None] = lambda node: None
        self.ended_itself: list[str] = []
        self._task: asyncio.Task[Any] | None = None
        self._stop = asyncio.Event()
        self._asked = False  # to end; a frozen process does not know of it yet

    @property
    def up(self) -> bool:
        """True while it lives and is not frozen."""
        return self.process is not None and self.process.alive and not self.process.frozen

    @property
    def stopping(self) -> bool:
        """True where it was asked to end."""
        return self.process is not None and self._asked

    def start(self) -> None:
        """Begin a life."""
        assert self.process is None
        self.lives += 1
        self.process = Process(self.loop, self.name, self.host)
        self.disk = give_disk(self.process, f"{self.name}:{self.lives}:{self.loop.now_ns}")
        self.disk.set_fault(self.fault)
        self.disk.blown = lambda: self.loop.world.run(self.kill)
        self._stop = asyncio.Event()
        self._asked = False
        self._task = self.process.spawn(self.live(self._stop))

    def set_fault(self, fault: str) -> None:
        """How its disk does from now on."""
        self.fault = fault
        if self.disk is not None:
            self.disk.set_fault(fault)

    def kill(self) -> None:
        """kill -9."""
        if self.process is None:
            return
        process, self.process = self.process, None
        assert self.disk is not None
        self.on_death(self)
        process.kill()
        self.network.process_died(process)
        self.disk.release()
        self.disk = None
        self.buried.append(process)

    async def stop(self, patience_s: float = 30.0) -> None:
        """SIGTERM, then kill -9 where it does not end."""
        process, task = self.process, self._task
        if process is None or task is None or not process.alive:
            return
        self._asked = True
        process.run(self._stop.set)
        await asyncio.wait({task}, timeout=patience_s)
        if task.done() and not task.cancelled() and task.exception() is not None:
            self.ended_itself.append(f"{self.name} failed in its stop: {task.exception()!r}")
        if self.process is process:
            self.kill()

    def look(self) -> None:
        """Note where it ended by itself: no process may."""
        task = self._task
        if self.process is None or task is None or not task.done() or self._asked:
            return
        error = None if task.cancelled() else task.exception()
        self.ended_itself.append(f"{self.name} ended by itself: {error!r}")
        self.kill()

    async def live(self, stop: asyncio.Event) -> None:
        """One life."""


class FieldNode(Node):
    """The field process. `born` is called with every new Field before it runs."""

    name = "field"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.field: Field | None = None
        self.born: Callable[[Field], None] = lambda field: None

    async def live(self, stop: asyncio.Event) -> None:
        """As gateway.field.run."""
        paths = StatePaths(self.folder)
        paths.make()
        site, program, evaluate = plant.prepared()
        self.field = Field(site, Engine(program, evaluate), paths, self.clock)
        self.born(self.field)
        await self.field.run(stop)

    def kill(self) -> None:
        """kill -9."""
        super().kill()
        self.field = None


class LinkNode(Node):
    """The link process."""

    name = "link"

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.link: Link | None = None
        self.store: AsyncStore | None = None
        self.format: Literal["json", "gatepost"] = "json"  # of the second link
        self.quota_bytes = plant.prepared()[0].link.Store.QuotaBytes

    def _link_file(self) -> LinkFile:
        kept = plant.prepared()[0].link
        entry = kept.Links[CUSTOMER].model_copy(update={"Format": self.format})
        return kept.model_copy(update={"Links": {CUSTOMER: entry}})

    async def live(self, stop: asyncio.Event) -> None:
        """As gateway.link.run."""
        link = self._link_file()
        folder = self.folder.parent / "site"
        site = dataclasses.replace(plant.prepared()[0], folder=folder, link=link)
        paths = StatePaths(self.folder)
        paths.make()
        self.store = None
        while self.store is None and not stop.is_set():
            with contextlib.suppress(StoreError):
                self.store = await AsyncStore.open(
                    paths.store, quota_bytes=self.quota_bytes, links=tuple(site.link.links())
                )
            if self.store is None:
                await asyncio.sleep(RETRY_S)
        if self.store is None:
            return
        connect = broker.connector(self.network)
        self.link = Link(site, paths, self.store, self.clock, connect=connect)
        await self.link.run(stop)
        await self.store.close()

    def kill(self) -> None:
        """kill -9."""
        super().kill()
        self.link = self.store = None


class IngestNode(Node):
    """Ingest and its historian."""

    name = "ingest"
    host = INGEST

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.ingest: Ingest | None = None
        self.historian: SqliteHistorian | None = None

    @property
    def path(self) -> Path:
        """The historian's file."""
        return self.folder / "historian.sqlite"

    async def live(self, stop: asyncio.Event) -> None:
        """As cloud.ingest.main."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.historian = None
        while self.historian is None and not stop.is_set():
            with contextlib.suppress(HistorianError):
                self.historian = SqliteHistorian(self.path)
            if self.historian is None:
                await asyncio.sleep(RETRY_S)
        if self.historian is None:
            return
        connect = broker.connector(self.network)
        self.ingest = Ingest(self.historian, BROKER_URL, self.clock, connect=connect)
        running = asyncio.create_task(self.ingest.run())
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({running, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        running.cancel()
        stopped.cancel()
        await asyncio.gather(running, stopped, return_exceptions=True)
        self.historian.close()

    def kill(self) -> None:
        """kill -9."""
        super().kill()
        self.ingest = self.historian = None
