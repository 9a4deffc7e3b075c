"""The store for asyncio: every call runs on one thread of its own, in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, ParamSpec, Self, TypeVar

from gateway.core.records import Batch
from sync.errors import StoreDamaged
from sync.store.salvage import SalvageReport
from sync.store.store import Backlog, Store, StoredFrame, Usage

P = ParamSpec("P")
T = TypeVar("T")

CALLS_MAX: Final = 64  # waiting calls; beyond them the callers wait

log = logging.getLogger(__name__)


class AsyncStore:
    """`Store` behind a thread. A damaged file is salvaged, and the call tried once more.

    `on_salvage` is called on the loop with each report; `salvages` counts them, and `births` how
    often a birth was put.
    """

    def __init__(self, store: Store, pool: ThreadPoolExecutor) -> None:
        self._store = store
        self._pool = pool
        self._calls = asyncio.Semaphore(CALLS_MAX)
        self._sound = True  # belongs to the thread
        self.salvages = 0
        self.births = 0
        self.on_salvage: Callable[[SalvageReport], None] | None = None

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        quota_bytes: int,
        links: Sequence[str] = ("cloud",),
        age_max_ns: int = 0,
    ) -> Self:
        """Opens or makes the store; see `Store`. Raises StoreError."""
        pool = ThreadPoolExecutor(1, thread_name_prefix="store")
        loop = asyncio.get_running_loop()
        opened = False
        try:
            make = partial(Store, path, quota_bytes=quota_bytes, links=links, age_max_ns=age_max_ns)
            store = await loop.run_in_executor(pool, make)
            opened = True
        finally:
            if not opened:
                pool.shutdown(wait=False)
        made = cls(store, pool)
        if store.salvaged is not None:
            made._report(store.salvaged)
        return made

    @property
    def salvaged(self) -> SalvageReport | None:
        """The last salvage, or None."""
        return self._store.salvaged

    @property
    def renumbered(self) -> int:
        """See `Store.renumbered`."""
        return self._store.renumbered

    @property
    def given(self) -> int:
        """As `newest`, without a turn of the store's thread; it rises with every frame."""
        return self._store.newest

    def _report(self, report: SalvageReport) -> None:
        self.salvages += 1
        log.error(
            "the store was damaged (%s): %d frames saved, %d ranges lost, file kept as %s",
            report.problem,
            report.frames,
            len(report.lost),
            report.moved_to,
        )
        if self.on_salvage is not None:
            self.on_salvage(report)

    async def _call(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        async with self._calls:
            return await loop.run_in_executor(
                self._pool, self._run, loop, partial(work, *args, **kwargs)
            )

    def _run(self, loop: asyncio.AbstractEventLoop, work: Callable[[], T]) -> T:
        """On the store's thread, so that calls behind this one find the file salvaged already."""
        if self._sound:
            try:
                return work()
            except StoreDamaged:
                self._sound = False
        report = self._store.recover()  # where it fails, the next call tries again
        self._sound = True
        loop.call_soon_threadsafe(self._report, report)
        return work()

    async def append(self, batch: Batch) -> int:
        """See `Store.append`."""
        return await self._call(self._store.append, batch)

    async def cursor(self) -> tuple[int, int] | None:
        """See `Store.cursor`."""
        return await self._call(self._store.cursor)

    async def put_birth(self, name: str, body: bytes) -> None:
        """See `Store.put_birth`."""
        await self._call(self._store.put_birth, name, body)
        self.births += 1

    async def birth(self, name: str) -> bytes | None:
        """See `Store.birth`."""
        return await self._call(self._store.birth, name)

    async def current_birth(self) -> str | None:
        """See `Store.current_birth`."""
        return await self._call(lambda: self._store.current_birth)

    async def declare_birth_lost(self, name: str) -> int:
        """See `Store.declare_birth_lost`."""
        return await self._call(self._store.declare_birth_lost, name)

    async def newest(self) -> int:
        """See `Store.newest`."""
        return await self._call(lambda: self._store.newest)

    async def pending(
        self,
        link: str,
        after_id: int,
        limit: int,
        *,
        before_id: int | None = None,
        newest_first: bool = False,
        events: bool = False,
    ) -> list[StoredFrame]:
        """See `Store.pending`."""
        return await self._call(
            self._store.pending,
            link,
            after_id,
            limit,
            before_id=before_id,
            newest_first=newest_first,
            events=events,
        )

    async def peek(self, link: str, after_id: int, limit: int) -> list[tuple[int, bytes]]:
        """See `Store.peek`."""
        return await self._call(self._store.peek, link, after_id, limit)

    async def acknowledge(self, link: str, epoch: int, seq: int) -> int:
        """See `Store.acknowledge`."""
        return await self._call(self._store.acknowledge, link, epoch, seq)

    async def discard(self, link: str, ids: Sequence[int]) -> int:
        """See `Store.discard`."""
        return await self._call(self._store.discard, link, ids)

    async def backlog(self, link: str | None = None) -> Backlog:
        """See `Store.backlog`."""
        return await self._call(self._store.backlog, link)

    async def usage(self) -> Usage:
        """See `Store.usage`."""
        return await self._call(self._store.usage)

    async def close(self) -> None:
        """Ends the session and the thread. May be called twice."""
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._pool, self._store.close)
        except RuntimeError:
            return  # closed before: the pool takes no more work
        self._pool.shutdown(wait=True)
