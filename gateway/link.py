"""The link process: store, forwarder, OPC UA. ``python -m gateway.link``.

It takes the field's numbered stream, makes it durable, and only then tells the field and the
outside. It may crash, hang or be attacked: the field does not notice, and a restarted link
resumes at the cursor of its store.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np

from config.load import require_site
from config.points import POINT
from config.site import Site
from config.site_bus import served
from gateway import process
from gateway.core.clock import Clock, SystemClock
from gateway.core.paths import StatePaths
from gateway.core.records import RECORD, Batch, Birth, Gap, unpack_batch
from gateway.frames import FrameBuilder
from gateway.history import History, places
from gateway.links import Links
from gateway.local import LocalClient, LocalError
from gateway.mirror import FieldDesk, Mirror
from gateway.opcua.model import SiteModel, model_of
from gateway.outside import Outside
from gateway.remote import Remote
from gateway.renewal import Renewal
from gateway.store_health import StoreHealth
from sync.errors import StoreError
from sync.link.latest import Latest
from sync.link.mqtt import MqttSession
from sync.store.async_store import AsyncStore
from sync.wire import WireError, encode_birth

log = logging.getLogger("gatepost.link")

RECONNECT_S: Final = 0.2
DIALS_MAX: Final = 32  # links, site bus and both ends of bridges; threads begin as they are needed
HEALTH_PERIOD_S: Final = 0.5
STORE_RETRY_S: Final = 1.0
FIELD_SILENT_S: Final = 4.0  # the field speaks every second; silent for this long, it hangs
FAULT_PAUSE_S: Final = 30.0  # of OPC UA behind a fault of ours
DRAIN_S: Final = 5.0  # how long an orderly stop waits for the historian's acknowledgement


class Link:
    """The parts of the link process and how they are joined."""

    def __init__(
        self,
        site: Site,
        paths: StatePaths,
        store: AsyncStore,
        clock: Clock,
        *,
        on_bus: Sequence[str] = (),
        model: SiteModel | None = None,
        connect: Callable[..., MqttSession] = MqttSession,
    ) -> None:
        """`on_bus` is the equipment that the site bus serves; `connect` makes sessions.

        `model` is what OPC UA shows, taken while `site` had its instruments; else it has them yet.
        """
        self.clock = clock
        self._paths = paths
        self.store = store
        self._latest = Latest()
        self.remote = Remote(site, paths, clock)
        self.links = Links(
            site.link,
            site.name,
            store,
            clock,
            latest=self._latest,
            folder=paths.folder,
            incoming=self.remote.incoming(),
            connect=connect,
        )
        self.remote.say = self.links.say
        self._outside = Outside(site, on_bus, clock, self.remote.pass_on, self.remote.journal)
        self._renewal = Renewal(paths.tls, clock)
        self._frames = FrameBuilder(
            int(site.link.Store.FrameInterval * 1e9), site.link.Store.FrameRecordsMax
        )
        self._client: LocalClient | None = None
        self._store_health = StoreHealth(store, paths.store, clock)
        self.history = History(site.link, paths.archive, store)
        self._mirror = Mirror(
            site, model or model_of(site), paths, clock, self._desk(), self.history.opened
        )
        self._store_error = ""
        self._refused_until_ns = 0
        self._ended: set[int] = set()  # earlier epochs of this field, declared over
        self._last_problem = ""

    def _desk(self) -> FieldDesk:
        """How OPC UA clients' commands and questions reach the field process."""
        remote = self.remote
        return FieldDesk(
            self._paths.field_socket, lambda: remote.ready, remote.pass_on, remote.journal
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop`, then store what arrived and give the forwarder time to drain."""
        tasks = [
            asyncio.create_task(self._follow_field(), name="local stream"),
            asyncio.create_task(self.links.run(), name="links"),
            asyncio.create_task(self._tell_health(), name="health"),
            asyncio.create_task(self._show(), name="OPC UA"),
            asyncio.create_task(self.remote.run(), name="inbox"),
            asyncio.create_task(self._renewal.run(), name="certificate"),
            asyncio.create_task(self._outside.run(), name="site bus and bridges"),
            asyncio.create_task(self.history.run(), name="history"),
        ]
        stopped = asyncio.create_task(stop.wait())
        try:
            done, _ = await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopped}:
                task.result()
            await self._drain()
        finally:
            for task in (*tasks, stopped):
                task.cancel()
            await asyncio.gather(*tasks, stopped, return_exceptions=True)
            await self._mirror.stop()
            await self.history.close()

    async def _show(self) -> None:
        """Serve OPC UA. A fault in there costs OPC UA, never the store."""
        while True:
            try:
                await self._mirror.run()
            except Exception as error:
                self._mirror.failed(error)
                await asyncio.sleep(FAULT_PAUSE_S)

    async def _drain(self) -> None:
        """What is stored is safe; waiting only spares the cloud a pause."""
        try:
            async with asyncio.timeout(DRAIN_S):
                while (await self.store.backlog()).frames and self.links.connected:
                    await asyncio.sleep(0.05)
        except (TimeoutError, StoreError):
            pass

    # ------------------------------------------------------------ field -> store

    async def _follow_field(self) -> None:
        """Listen to the field process, again and again."""
        while True:
            client = LocalClient(self._paths.field_socket)
            resume = False
            try:
                await client.connect()
                resume = await self._follow(client)
            except LocalError as error:
                self._note(str(error))
                await self._store_frames()  # a field that died can't be asked for it again
            except StoreError as error:
                self._store_refused(error)
                resume = True
            finally:
                self._client = None
                self.remote.left()
                await client.close()
            if not resume:
                self._mirror.lost(self.clock.utc_ns())
                self._latest.lost(self.clock.utc_ns())
                self._outside.lost()
                self.links.notify_appended()
            await asyncio.sleep(RECONNECT_S)

    async def _follow(self, client: LocalClient) -> bool:
        """Take the stream. Returns True where it is to be resumed at the store's cursor."""
        cursor = await self.store.cursor()
        self._frames.clear()
        hello = {"type": "hello", "role": "link", "cursor": list(cursor) if cursor else None}
        await client.send(hello)
        receiving = asyncio.create_task(client.receive())
        heard_ns = self.clock.monotonic_ns()
        try:
            while True:
                now_ns = self.clock.monotonic_ns()
                if self._refused_until_ns and now_ns >= self._refused_until_ns:
                    self._refused_until_ns = 0
                    return True
                # A receive that is under way is never cancelled: it may hold half a message.
                wait_s = min(self._frames.due_in_ns(now_ns) / 1e9, STORE_RETRY_S)
                await asyncio.wait({receiving}, timeout=max(wait_s, 0))
                if receiving.done():
                    message = receiving.result()
                    heard_ns = self.clock.monotonic_ns()
                    receiving = asyncio.create_task(client.receive())
                    await self._take(client, message, cursor)
                    if message["type"] == "birth":  # thousands of points as Python objects
                        message = {}
                        process.give_back_memory()
                elif now_ns - heard_ns > FIELD_SILENT_S * 1e9:
                    raise LocalError(f"the field process hangs: silent for {FIELD_SILENT_S:g} s")
                if self._frames.due_in_ns(self.clock.monotonic_ns()) <= 0:
                    await self._append(client)
        finally:
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)

    async def _take(
        self, client: LocalClient, message: Mapping[str, Any], cursor: tuple[int, int] | None
    ) -> None:
        if message["type"] == "birth":
            await self._born(client, message, cursor)
        elif message["type"] == "data":
            try:
                batch = unpack_batch(message["batch"])
            except (KeyError, TypeError, ValueError) as error:
                raise LocalError(f"not a batch: {error}") from error
            self._mirror.heard(batch)
            self.remote.heard(batch)
            self._outside.heard(batch)
            if not self._refused_until_ns:
                self._frames.add(batch, self.clock.monotonic_ns())
        elif message["type"] == "error":
            raise LocalError(str(message["reason"]))

    async def _born(
        self, client: LocalClient, message: Mapping[str, Any], cursor: tuple[int, int] | None
    ) -> None:
        birth = Birth(**message["birth"])
        self._client = client
        rows = np.frombuffer(message["rows"], dtype=POINT)
        self._mirror.born(birth, rows)
        self._latest.born(birth, rows)
        self._outside.born(birth, rows)
        try:
            await self.store.put_birth(birth.hash, encode_birth(birth))
            if cursor is None or cursor[0] != birth.epoch:
                await self._end_epochs(cursor or (0, 0), message["past"], birth)
        except (StoreError, WireError) as error:  # WireError: the point table is too large
            self._store_refused(error)
        self.links.notify_appended()
        await self.remote.joined(client)

    async def _end_epochs(
        self, cursor: tuple[int, int], past: Sequence[Sequence[int]], birth: Birth
    ) -> None:
        """The field process began anew: declare what of its past lives can't come any more.

        Of some of them no link may have taken anything. To declare one again changes nothing.
        """
        ended: dict[int, int] = {life[0]: life[1] for life in past}
        if cursor[0]:
            ended.setdefault(cursor[0], 0)
        self._ended &= ended.keys()
        for epoch, last in sorted(ended.items()):
            seq = cursor[1] if cursor[0] == epoch else 0
            if epoch not in self._ended and not 0 < last <= seq:
                await self._declare(epoch, seq + 1, last, birth)
            self._ended.add(epoch)

    async def _declare(self, epoch: int, first: int, last: int, birth: Birth) -> None:
        reason = "field process ended before the link took it"
        await self.store.append(
            Batch(
                epoch=epoch,
                first=first,
                last=max(last, first),
                birth=birth.hash,
                records=np.empty(0, dtype=RECORD),
                gaps=(Gap(first, last, reason),),
            )
        )

    async def _append(self, client: LocalClient) -> None:
        batch = await self._store_frames()
        if batch is not None:
            await client.send({"type": "taken", "epoch": batch.epoch, "seq": batch.last})

    async def _store_frames(self) -> Batch | None:
        """Store what arrived; None where that is nothing, or the store refuses."""
        batch = self._frames.take()
        if batch is None:
            return None
        try:
            await self.store.append(batch)
        except (StoreError, WireError) as error:
            self._store_refused(error)
            return None
        if self._store_error:
            log.info("the store takes frames again")
            self._store_error = ""
        self._latest.appended(batch)
        self.history.appended(batch)
        self.links.notify_appended()
        return batch

    def _store_refused(self, error: StoreError | WireError) -> None:
        """Nothing is lost yet: the field's journal still holds what was not stored.

        Values are shown on; after a pause the stream is resumed at the store's cursor.
        """
        if not self._store_error:
            log.error("store: %s", error)
        self._store_error = str(error)
        self._frames.clear()
        self._refused_until_ns = self.clock.monotonic_ns() + int(STORE_RETRY_S * 1e9)

    # ------------------------------------------------------------ health

    def _note(self, problem: str) -> None:
        """Log a problem once, not every time it is met again."""
        if problem != self._last_problem:
            log.info("local stream: %s", problem)
        self._last_problem = problem

    async def _tell_health(self) -> None:
        """Tell the field how the link does; its points and `gatepost status` show it."""
        while True:
            await asyncio.sleep(HEALTH_PERIOD_S)
            store = await self._store_health.look()
            if self._client is None:  # nothing waits between this and the sending
                continue
            links = self.links.status()
            health = {
                "type": "health",
                **links,
                "store_ok": not self._store_error,
                "store_error": self._store_error,
                "store": store,
                "reason": self._store_error or self._mirror.error or links["last_error"],
                "inbox": self.remote.status(),
                **self._outside.status(),
                **self._mirror.status(),
                **self._renewal.status(),
                **self.history.status(),
            }
            with contextlib.suppress(LocalError):  # _follow_field meets it too and says so
                await self._client.send(health)


async def _open_store(site: Site, path: Path, stop: asyncio.Event) -> AsyncStore | None:
    """Open the store, again and again while the disk refuses; None where `stop` came first."""
    said = ""
    while not stop.is_set():
        try:
            return await AsyncStore.open(
                path,
                quota_bytes=site.link.Store.QuotaBytes,
                links=places(site.link),
                age_max_ns=round((site.link.Store.AgeMax or 0) * 1e9),
            )
        except StoreError as error:
            if str(error) != said:
                log.error("store: %s; the field's journal holds what it can", error)
            said = str(error)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STORE_RETRY_S):
                await stop.wait()
    return None


async def run(folder: Path, state: Path, stop: asyncio.Event) -> None:
    """The link process of the site in `folder`."""
    site = require_site(folder)
    # A connection is made on a thread, and one that gets no answer keeps it for seconds: brokers
    # that are away must leave threads for the others.
    dials = ThreadPoolExecutor(DIALS_MAX, thread_name_prefix="dial")
    asyncio.get_running_loop().set_default_executor(dials)
    on_bus = served(site)
    model = model_of(site)
    # Devices and points come with the field's birth; thousands of them are not held twice.
    site = dataclasses.replace(site, instruments={}, points=())
    paths = process.open_state(state)
    process.give_back_memory()
    store = await _open_store(site, paths.store, stop)
    if store is None:
        return
    try:
        await Link(site, paths, store, SystemClock(), on_bus=on_bus, model=model).run(stop)
    finally:
        await store.close()


if __name__ == "__main__":
    sys.exit(process.main("link", run))
