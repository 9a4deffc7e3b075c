"""The archive beside its store under power cuts: everything once, whatever was under way."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from unittest.mock import patch

import numpy as np

from gateway.core.records import RECORD, Batch
from sync import wire
from sync.archive import reading
from sync.archive.archive import TIME_MAX, TIME_MIN, AsyncArchive
from sync.archive.feed import Feed
from sync.errors import StoreError
from sync.store.async_store import AsyncStore
from sync.store.links import HISTORY
from tests.crash.power_cuts import Broken
from tests.crash.power_disk import Mark, Recorder
from tests.crash.power_store import AMPLE_BYTES, BIRTHS, EVENT_EVERY, POINTS, batch, birth

FAN: Final = 4  # so that a short life merges, too


@dataclass
class ArchiveTruth:
    """Up to which number `append` has returned, and was called."""

    durable: int = 0
    begun: int = 0


@asynccontextmanager
async def _opened(folder: Path) -> AsyncIterator[tuple[AsyncStore, AsyncArchive, Feed]]:
    store = await AsyncStore.open(
        folder / "link.sqlite", quota_bytes=AMPLE_BYTES, links=("cloud", HISTORY)
    )
    try:
        archive = await AsyncArchive.open(folder / "history.sqlite", quota_bytes=AMPLE_BYTES)
        try:
            yield store, archive, Feed(store, archive, 60.0)
        finally:
            await archive.close()
    finally:
        await store.close()


class ArchiveLife:
    """Appends, acknowledgements of the link, turns of the archive, merges, restarts."""

    name = "archive"

    def begin(self, folder: Path, chance: random.Random) -> tuple[dict[str, bytes], ArchiveTruth]:
        """Nothing is kept."""
        return {}, ArchiveTruth()

    def live(
        self, folder: Path, truth: ArchiveTruth, chance: random.Random, recorder: Recorder
    ) -> None:
        """A few sessions; the last one is not ended in order."""
        with patch.object(reading, "FAN", FAN):
            for _ in range(chance.randint(1, 3)):
                asyncio.run(self._session(folder, truth, chance, recorder))

    async def _session(
        self, folder: Path, truth: ArchiveTruth, chance: random.Random, recorder: Recorder
    ) -> None:
        async with _opened(folder) as (store, _, feed):
            await store.put_birth(BIRTHS[0], wire.encode_birth(birth(BIRTHS[0])))
            for _ in range(chance.randint(5, 15)):
                what = chance.random()
                if what < 0.5:
                    count = chance.choice((1, 20, 300, 3000))
                    last = truth.durable + count
                    recorder.mark("begun", last)
                    await store.append(batch(1, truth.durable + 1, count, BIRTHS[0]))
                    recorder.mark("durable", last)
                    truth.durable = last
                elif what < 0.75:
                    await store.acknowledge("cloud", 1, chance.randint(0, truth.durable))
                else:
                    await feed.commit()

    def promise(self, truth: ArchiveTruth, mark: Mark) -> None:
        """See `Life`."""
        if mark.what == "begun":
            truth.begun = mark.value
        else:
            truth.durable = mark.value

    def check(self, folder: Path, truth: ArchiveTruth, chance: random.Random) -> None:
        """Every number that was promised is there, once, with its value."""
        try:
            asyncio.run(self._check(folder, truth, chance))
        except StoreError as error:
            raise Broken(f"it does not open: {error!r}") from error

    async def _check(self, folder: Path, truth: ArchiveTruth, chance: random.Random) -> None:
        async with _opened(folder) as (store, archive, feed):
            if chance.random() < 0.5:
                await feed.commit()
            if (await archive.state()).damaged or store.salvaged is not None:
                raise Broken("it was salvaged")
            cursor = await store.cursor()
            last = cursor[1] if cursor else 0
            if not truth.durable <= last <= max(truth.begun, truth.durable):
                raise Broken(f"the store ends at {last}, {truth.durable} was promised")
            expected = batch(1, 1, last, BIRTHS[0]) if last else None
            for point in range(1, POINTS + 1):
                await _compare(archive, expected, point)
            events = [kept.event.seq for kept in await archive.events(TIME_MIN, TIME_MAX, 0)]
            if events != list(range(EVENT_EVERY, last + 1, EVENT_EVERY)):
                raise Broken(f"events {events} of {last} numbers")
            truth.durable = truth.begun = last


async def _compare(archive: AsyncArchive, expected: Batch | None, point: int) -> None:
    found = await archive.read(f"Rig.Point_{point}", TIME_MIN, TIME_MAX)
    rows = expected.records if expected is not None else np.zeros(0, dtype=RECORD)
    rows = rows[rows["point"] == point]
    names = ("utc_ns", "value", "status")
    if len(found) != len(rows) or any(found[n].tolist() != rows[n].tolist() for n in names):
        raise Broken(f"{len(found)} values of point {point}, not the {len(rows)} that came")
