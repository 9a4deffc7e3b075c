"""History in the link process: the archive beside the store, where OPC UA clients may read it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path
from typing import Any, Final

from config.link import LinkFile
from gateway.core.records import Batch
from sync.archive.archive import AsyncArchive
from sync.archive.feed import Feed
from sync.errors import StoreError
from sync.store.async_store import AsyncStore
from sync.store.links import HISTORY

RETRY_S: Final = 10.0
LOOK_S: Final = 2.0
FAULT_PAUSE_S: Final = 30.0  # behind a fault of ours

log = logging.getLogger("gatepost.link")


def has_history(link: LinkFile) -> bool:
    """True where a site keeps history at its gateway."""
    active = link.History.Active
    return link.OpcUa.Active if active is None else active


def places(link: LinkFile) -> tuple[str, ...]:
    """Who has a place in the store: every link, and the history where there is one."""
    return (*link.links(), HISTORY) if has_history(link) else tuple(link.links())


class History:
    """The archive of a site and what feeds it. Whatever fails here stops nothing else.

    archive  what can be read, or None: there is none, or it can't be opened
    """

    def __init__(self, link: LinkFile, path: Path, store: AsyncStore) -> None:
        self.archive: AsyncArchive | None = None
        self._active = has_history(link)
        self._config = link.History
        self._path = path
        self._store = store
        self._feed: Feed | None = None
        self._problem = ""
        self._found: dict[str, Any] = {}
        self._tried = asyncio.Event()

    async def opened(self) -> AsyncArchive | None:
        """The archive, once `run` has tried to open it; None where that failed."""
        if self._active:
            await self._tried.wait()
        return self.archive

    async def open(self) -> None:
        """Opens the archive; where it refuses, `run` tries again."""
        if not self._active or self.archive is not None:
            return
        try:
            self.archive = await AsyncArchive.open(
                self._path,
                quota_bytes=self._config.QuotaBytes,
                age_max_ns=round(self._config.AgeMax * 1e9),
            )
        except StoreError as error:
            if str(error) != self._problem:
                log.error("history: %s; what comes waits in the store", error)
            self._problem = str(error)
            return
        finally:
            self._tried.set()
        self._problem = ""
        self._feed = Feed(self._store, self.archive, self._config.Interval)

    async def run(self) -> None:
        """Keeps history until cancelled. A fault in there costs history, never the store."""
        while True:
            try:
                await self._keep()
            except Exception as error:
                log.exception("history: a fault; tried again in %g s", FAULT_PAUSE_S)
                self._problem = f"a fault: {error!r}, see the log"
                self._tried.set()
                await asyncio.sleep(FAULT_PAUSE_S)
                self._problem = ""

    async def _keep(self) -> None:
        while self._active and self._feed is None:
            await self.open()
            if self._feed is None:
                await asyncio.sleep(RETRY_S)
        if self._feed is None:
            await asyncio.Event().wait()
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(self._feed.run(), name="history feed")
            group.create_task(self._look(), name="history health")

    async def _look(self) -> None:
        while self.archive is not None:
            with contextlib.suppress(StoreError):
                self._found = (await self.archive.state())._asdict()
            await asyncio.sleep(LOOK_S)

    def appended(self, batch: Batch) -> None:
        """The store has taken a batch."""
        if self._feed is not None:
            self._feed.appended(batch)

    def status(self) -> dict[str, Any]:
        """For the link's health; empty where there is no history."""
        if not self._active:
            return {}
        return {"history": {**self._found, "problem": self._problem or self._found.get("problem")}}

    async def close(self) -> None:
        """Writes what is left and ends. What can't be written stays in the store."""
        if self.archive is None or self._feed is None:
            return
        try:
            with contextlib.suppress(StoreError):
                await self._feed.commit()
        finally:
            await self.archive.close()
            self.archive = None
