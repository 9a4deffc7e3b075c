"""How frames come from the store into the archive.

The archive has a place of its own in the store, as a link has: a frame stays until the archive has
committed it. So there is one way only, for what is measured now and for what a crash or an outage
of the disk left behind; and what is taken twice is found by its numbers.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Final

from gateway.core.records import Batch
from sync import wire
from sync.archive.archive import BLOCK_ROWS_MAX, AsyncArchive
from sync.errors import StoreError
from sync.store.async_store import AsyncStore
from sync.store.links import HISTORY

PIECE_FRAMES: Final = 64  # of one look into the store
RETRY_S: Final = 5.0
# A write takes some pages, whatever is in it: fewer values than these wait for more of their kind,
# in the store, for a few intervals.
WRITE_ROWS_MIN: Final = 4096
WAITS_MAX: Final = 9

log = logging.getLogger(__name__)


class Feed:
    """Brings what the store holds into the archive, and lets the store go of it."""

    def __init__(self, store: AsyncStore, archive: AsyncArchive, interval_s: float) -> None:
        """`interval_s` lies between two writes, and ten of them where little comes."""
        self._store = store
        self._archive = archive
        self._interval_s = interval_s
        self._after = 0  # frames up to this id have been taken
        self._seen = -1  # nothing of the store is new while this is its newest frame
        self._salvages = store.salvages
        self._reached: dict[int, int] = {}  # epoch -> its last number that was taken
        self._fresh = 0
        self._waits_left = 0
        self._due = asyncio.Event()
        self._pulling = asyncio.Lock()
        archive.source = self._look

    def appended(self, batch: Batch) -> None:
        """The store has taken a batch; many of them don't wait for the interval."""
        self._fresh += len(batch.records)
        if self._fresh >= BLOCK_ROWS_MAX:
            self._due.set()

    async def run(self) -> None:
        """Writes now and then, until cancelled; what fails is tried again."""
        while True:
            pause_s = self._interval_s
            try:
                if self._fresh >= WRITE_ROWS_MIN or not self._waits_left:
                    await self.commit()
                    self._waits_left = WAITS_MAX
                else:
                    self._waits_left -= 1
            except StoreError:  # the archive says so, and what comes waits in the store
                pause_s = RETRY_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._due.wait()

    async def commit(self) -> None:
        """Writes everything that the store holds. Raises StoreError."""
        self._due.clear()
        self._fresh = 0
        more = True
        while more:
            more = await self._pull()
            reached = dict(self._reached)
            await self._archive.flush()
            for epoch, seq in reached.items():
                await self._store.acknowledge(HISTORY, epoch, seq)
                if self._reached.get(epoch) == seq:
                    del self._reached[epoch]

    async def _look(self) -> None:
        """For a reader: what can't be had from the store now is not there yet."""
        with contextlib.suppress(StoreError):
            await self._pull()

    async def _pull(self) -> bool:
        """Takes what is new; True where more is there than one block shall hold."""
        async with self._pulling:
            if self._salvages != self._store.salvages:  # its frames have new ids
                self._salvages, self._after, self._seen = self._store.salvages, 0, -1
            newest = self._store.given
            if newest == self._seen:
                return False
            while not self._archive.is_full:
                frames = await self._store.peek(HISTORY, self._after, PIECE_FRAMES)
                for number, body in frames:
                    if self._archive.is_full:
                        return True
                    await self._take(number, body)
                    self._after = number
                    await asyncio.sleep(0)  # a large frame takes milliseconds
                if len(frames) < PIECE_FRAMES:
                    self._seen = newest
                    return False
            return True

    async def _take(self, number: int, body: bytes) -> None:
        try:
            batch = wire.decode_body(body)
        except wire.WireError as error:
            log.error("history: a frame of the store can't be read: %s", error)
            await self._store.discard(HISTORY, [number])
            return
        if len(batch.records) and not self._archive.knows(batch.birth):
            await self._learn(batch)
        await self._archive.add([batch])
        self._reached[batch.epoch] = batch.last

    async def _learn(self, batch: Batch) -> None:
        """Gets a point table; rows whose table is lost are declared so by the archive."""
        body = await self._store.birth(batch.birth)
        if body is None:
            log.error("history: the point table of a frame is lost")
            return
        utc_ns = int(batch.records["utc_ns"][0])
        try:
            await self._archive.learn(batch.birth, lambda: wire.decode_birth(body).points, utc_ns)
        except wire.WireError as error:
            log.error("history: the point table of a frame can't be read: %s", error)
