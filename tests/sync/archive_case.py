"""An archive beside a store, fed as the link process does it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gateway.core.records import RECORD, Batch
from sync import wire
from sync.archive.archive import TIME_MAX, TIME_MIN, AsyncArchive
from sync.archive.feed import Feed
from sync.store.async_store import AsyncStore
from sync.store.links import HISTORY
from tests.sync.support import BIRTH, EPOCH, birth

BASE_NS = 1_763_700_000_000_000_000
SECOND_NS = 1_000_000_000
POINTS = 10
QUOTA = 100_000_000


def rows_of(first: int, count: int, *, points: int = POINTS, every_ns: int = 100_000_000) -> Batch:
    """`count` numbers from `first` on, one value each, round the points."""
    rows = np.zeros(count, dtype=RECORD)
    rows["seq"] = np.arange(first, first + count)
    rows["point"] = 1 + rows["seq"] % points
    rows["value"] = rows["seq"] / 4
    rows["utc_ns"] = BASE_NS + rows["seq"].astype(np.int64) * every_ns
    rows["status"] = np.where(rows["seq"] % 50 == 0, 0x80000000, 0)
    return Batch(EPOCH, first, first + count - 1, BIRTH, rows)


def expected(batches: Sequence[Batch], point: int) -> list[tuple[int, float, int]]:
    """What an archive has to tell of a point, in time order."""
    rows = np.concatenate([batch.records for batch in batches])
    rows = rows[rows["point"] == point]
    rows = rows[np.argsort(rows["utc_ns"], kind="stable")]
    return as_list(rows)


def as_list(rows: NDArray[np.void]) -> list[tuple[int, float, int]]:
    """Rows as (time, value, status)."""
    names = ("utc_ns", "value", "status")
    return list(zip(*(rows[name].tolist() for name in names), strict=True))


async def everything(archive: AsyncArchive, point: int) -> list[tuple[int, float, int]]:
    """All that is kept of a point of the test's table."""
    return as_list(await archive.read(f"Device.Channel_{point}", TIME_MIN, TIME_MAX))


@asynccontextmanager
async def opened(
    path: Path, quota_bytes: int = QUOTA, age_s: float = 0
) -> AsyncIterator[AsyncArchive]:
    """An archive that knows the test's table."""
    archive = await AsyncArchive.open(path, quota_bytes=quota_bytes, age_max_ns=int(age_s * 1e9))
    await archive.learn(BIRTH, lambda: birth(points=POINTS).points)
    try:
        yield archive
    finally:
        await archive.close()


@asynccontextmanager
async def fed(
    folder: Path, links: Sequence[str] = ("cloud",), *, store_bytes: int = QUOTA
) -> AsyncIterator[tuple[AsyncStore, AsyncArchive, Feed]]:
    """A store with a place for the archive, the archive and what feeds it."""
    store = await AsyncStore.open(
        folder / "link.sqlite", quota_bytes=store_bytes, links=(*links, HISTORY)
    )
    archive = await AsyncArchive.open(folder / "history.sqlite", quota_bytes=QUOTA)
    await store.put_birth(BIRTH, wire.encode_birth(birth(points=POINTS)))
    try:
        yield store, archive, Feed(store, archive, 60.0)
    finally:
        await archive.close()
        await store.close()
