"""The archive for asyncio: what was measured and what happened, by point and time.

Whoever reads sees everything that the store of frames holds, written to the archive or not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, ParamSpec, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from gateway.core.clock import UTC_PLAUSIBLE_NS
from gateway.core.records import Batch, Event
from sync.archive import blocks
from sync.archive.file import ArchiveFile, Turn
from sync.archive.reading import LOOK_BLOCKS, VALUE, Wish, read, to_merge
from sync.archive.tail import Piece, Points, Tail
from sync.errors import StoreDamaged, StoreError
from sync.plain import WireError
from sync.store.written import written_bytes

P = ParamSpec("P")
T = TypeVar("T")

BLOCK_ROWS_MAX: Final = 262_144
BLOCK_ROWS_MIN: Final = 4_096
# A block is a small part of the quota, because it goes as a whole.
BLOCK_SHARE_BYTES: Final = 64
# By how much one turn may bring forward the time against which ages count, see `sync.store.quota`.
AGE_STEP_NS: Final = 3_600_000_000_000
REASON_DAMAGED: Final = "damaged in the history"
TIME_MIN: Final = -(2**63)
TIME_MAX: Final = 2**63 - 1

log = logging.getLogger(__name__)


class KeptEvent(NamedTuple):
    """An event with the life it happened in; (epoch, event.seq) names it for ever."""

    epoch: int
    event: Event


class ArchiveState(NamedTuple):
    """How the archive does; for `gatepost status`.

    used_bytes     of its files on the disk
    data_bytes     of that, what is in use
    written_bytes  handed to the disk since it was opened
    rows_waiting   values that are not yet written
    first_ns       time of the first value that is kept; 0 = there is none
    problem        why nothing is written at the moment, or ""
    damaged        where the last damaged file was moved to, or ""
    """

    used_bytes: int
    data_bytes: int
    quota_bytes: int
    written_bytes: int
    rows_waiting: int
    first_ns: int
    problem: str
    damaged: str


class AsyncArchive:
    """One archive file, a thread for it, and what is not yet written.

    source  is awaited before each look, so that what has just been stored is seen
    """

    def __init__(self, file: ArchiveFile, pool: ThreadPoolExecutor, age_max_ns: int) -> None:
        self._file = file
        self._pool = pool
        self._work = ThreadPoolExecutor(1, thread_name_prefix="history merge")
        self._age_max_ns = age_max_ns
        self._now_ns = 0
        self._rows_max = min(
            max(file.quota_bytes // BLOCK_SHARE_BYTES, BLOCK_ROWS_MIN), BLOCK_ROWS_MAX
        )
        points = Points(file.points(), file.definitions())
        self._tail = Tail(file.turn, points, file.lives(), file.missing())
        self._turn: Turn | None = None  # that could not be written yet
        self._writing = asyncio.Lock()
        self._written_bytes = 0
        self._problem = ""
        self._damaged = str(file.salvaged or "")
        self.source: Callable[[], Awaitable[None]] | None = None
        self._note_lost()

    @classmethod
    async def open(cls, path: Path, *, quota_bytes: int, age_max_ns: int = 0) -> Self:
        """Opens or makes the file. Raises StoreError.

        quota_bytes  what the file may take; the oldest goes first
        age_max_ns   what is older goes; 0 = never
        """
        pool = ThreadPoolExecutor(1, thread_name_prefix="history")
        opened = False
        try:
            loop = asyncio.get_running_loop()
            file = await loop.run_in_executor(pool, ArchiveFile, path, quota_bytes)
            opened = True
        finally:
            if not opened:
                pool.shutdown(wait=False)
        return cls(file, pool, age_max_ns)

    async def _call(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._pool, self._run, partial(work, *args, **kwargs))
        finally:
            self._note_lost()

    def _note_lost(self) -> None:
        """What a salvage could not read is missing; the next turn brings that into the file."""
        lost, self._file.lost = self._file.lost, []
        for start_ns, end_ns in lost:
            self._tail.accounts.lose(REASON_DAMAGED, start_ns, end_ns)

    def _run(self, work: Callable[[], T]) -> T:
        """On the thread; a damaged file is begun anew with what of it is whole, and tried again."""
        before = written_bytes()
        try:
            return work()
        except StoreDamaged as error:
            log.error("%s: the history is begun anew with what of it is whole", error)
            self._file.recover()
            self._damaged = str(self._file.salvaged or "")
            lives, missing = self._tail.accounts.everything()
            points = self._tail.points.everything()
            self._file.write(Turn(self._file.turn, None, points, [], lives, missing))
            return work()
        finally:
            self._written_bytes += written_bytes() - before

    # ------------------------------------------------------------ taking

    @property
    def rows_waiting(self) -> int:
        """Values that are not yet written."""
        return self._tail.rows

    @property
    def is_full(self) -> bool:
        """True where so much is not yet written that no more should be added."""
        return self._tail.size >= self._rows_max

    def knows(self, birth: str) -> bool:
        """True where the point table of a birth is known."""
        return self._tail.points.knows(birth)

    async def learn(
        self, birth: str, points: Callable[[], Sequence[Mapping[str, Any]]], utc_ns: int = 0
    ) -> None:
        """Takes the point table of a birth; its points count from a time on, ns UTC.

        points  gives the table, in a thread: thousands of points take tens of milliseconds. What it
                raises is raised here. One table is learned at a time.
        """
        known = self._tail.points
        loop = asyncio.get_running_loop()
        learned = await loop.run_in_executor(self._work, lambda: known.numbering(points(), utc_ns))
        known.learn(birth, learned)

    async def add(self, batches: Sequence[Batch]) -> None:
        """Takes batches, whose point tables have been learned; what is known is left out."""
        for batch in batches:
            self._tail.take(batch)

    async def flush(self) -> None:
        """Writes what was taken; it survives a power cut then. Raises StoreError.

        A caller that is cancelled meanwhile leaves the writing to go on.
        """
        writing = asyncio.ensure_future(self._flush())
        writing.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(writing)

    async def _flush(self) -> None:
        async with self._writing:
            try:
                # A turn that could not be written is tried again as it is, then what came since.
                while (turn := await self._next_turn()) is not None:
                    await self._write(turn)
                self._problem = ""
            except StoreError as error:
                if not self._problem:
                    log.error("history: %s; what comes waits in the store", error)
                self._problem = str(error)
                raise

    async def _next_turn(self) -> Turn | None:
        if self._turn is not None:
            return self._turn
        pieces = self._tail.pieces
        lives, missing = self._tail.accounts.changes()
        points = self._tail.points.changes()
        if not (pieces or lives or missing or points):
            return None
        number = max((piece.number for piece in pieces), default=self._file.turn)
        self._turn = Turn(number, None, points, [], lives, missing)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._work, _fill, self._turn, pieces)
        return self._turn

    async def _write(self, turn: Turn) -> None:
        try:
            await self._call(self._file.write, turn)
        except StoreError:
            await self._let_go(turn)  # a full disk may have room then
            raise
        self._turn = None
        self._tail.drop(turn.number)
        await self._let_go(turn)
        await self._merge()

    async def _let_go(self, turn: Turn) -> None:
        if turn.block is not None and turn.block.utc_mid >= UTC_PLAUSIBLE_NS:
            now_ns = turn.block.utc_mid
            if not self._now_ns:
                sql = "WHERE utc_mid >= ? ORDER BY id LIMIT 1"
                heads = await self._call(self._file.heads, sql, (UTC_PLAUSIBLE_NS,))
                self._now_ns = heads[0].utc_mid if heads else now_ns
                newest = await self._call(self._file.heads, "ORDER BY id DESC LIMIT 2")
                if len(newest) > 1:
                    self._now_ns = max(self._now_ns, min(newest[1].utc_mid, now_ns))
            self._now_ns = min(max(now_ns, self._now_ns), self._now_ns + AGE_STEP_NS)
        until_ns = self._now_ns - self._age_max_ns if self._age_max_ns else 0
        while await self._call(self._file.let_go, until_ns):
            pass
        while await self._call(self._file.shrink):
            pass

    async def _merge(self) -> None:
        """Makes few large blocks of many small ones."""
        loop = asyncio.get_running_loop()
        while True:
            sql = f"ORDER BY id DESC LIMIT {LOOK_BLOCKS}"
            heads = await self._call(self._file.heads, sql)
            run = to_merge(heads[::-1], self._rows_max)
            if not run:
                return
            bodies = [body for head in run for body in await self._call(self._file.block, head.id)]
            try:
                merged = await loop.run_in_executor(self._work, _merged, bodies)
            except WireError:
                for head in run:
                    await self._call(self._file.check, head.id)
                continue
            await self._call(self._file.replace, run, merged)

    # ------------------------------------------------------------ reading

    async def _up_to_date(self) -> None:
        if self.source is not None:
            await self.source()

    async def read(
        self,
        tag: str,
        start_ns: int,
        end_ns: int,
        limit: int = 0,
        *,
        skip: int = 0,
        reverse: bool = False,
    ) -> NDArray[np.void]:
        """(n,) VALUE rows (utc_ns, value, status) of a point with start <= time < end.

        limit    at most so many; 0 = all
        skip     leaves out so many at the beginning: to go on where equal times were cut
        reverse  the newest come first

        Equal times keep the order in which they came (reversed with `reverse`). A tag that is not
        known has no values. Raises StoreError.
        """
        await self._up_to_date()
        point = self._tail.points.numbers.get(tag, 0)
        if not point:
            return np.zeros(0, dtype=VALUE)
        wish = Wish(point, start_ns, end_ns, limit, skip, reverse)
        return await self._call(read, self._file, wish, self._tail.pieces)

    async def bounds(
        self, tag: str, start_ns: int, end_ns: int
    ) -> tuple[NDArray[np.void], NDArray[np.void]]:
        """The last value with time < start and the first with time >= end; each (1,) or (0,)."""
        before = await self.read(tag, TIME_MIN, start_ns, 1, reverse=True)
        return before, await self.read(tag, end_ns, TIME_MAX, 1)

    async def events(
        self,
        start_ns: int,
        end_ns: int,
        limit: int,
        kinds: Sequence[str] = (),
        *,
        skip: int = 0,
        reverse: bool = False,
    ) -> list[KeptEvent]:
        """Events with start <= time < end in time order; see `read` for limit, skip and reverse.

        kinds  names of `gateway.core.records.EVENT_KINDS`; none = all
        """
        await self._up_to_date()
        pieces = self._tail.pieces
        found = await self._call(
            self._events, start_ns, end_ns, limit and limit + skip, tuple(kinds), reverse, pieces
        )
        return found[skip:]

    def _events(
        self,
        start_ns: int,
        end_ns: int,
        limit: int,
        kinds: Sequence[str],
        reverse: bool,
        pieces: Sequence[Piece],
    ) -> list[KeptEvent]:
        kept = self._file.events(start_ns, end_ns, limit, kinds, reverse=reverse)
        tail = [
            (piece.epoch, event)
            for piece in pieces
            if piece.number > self._file.turn
            for event in piece.events
            if start_ns <= event.utc_ns < end_ns and (not kinds or event.kind in kinds)
        ]
        whole = [*tail[::-1], *kept] if reverse else [*kept, *tail]
        whole.sort(key=lambda entry: entry[1].utc_ns, reverse=reverse)
        return [KeptEvent(*entry) for entry in whole[: limit or None]]

    async def gaps(self, start_ns: int, end_ns: int) -> list[tuple[int, int, str]]:
        """(from, to, why) of the times in which data are missing, cut to start and end, in order.

        What lies before the first value that is kept (`kept`) is not among them.
        """
        await self._up_to_date()
        return self._tail.accounts.gaps(start_ns, end_ns)

    async def kept(self) -> tuple[int, int]:
        """First and last time of which there are values; (0, 0) where there are none."""
        await self._up_to_date()
        tail = self._tail.kept()
        found = await self._call(self._file.kept)
        firsts = [first for first, _ in (tail, found) if first]
        return (min(firsts, default=0), max(tail[1], found[1]))

    def tags(self) -> list[str]:
        """Every tag that was ever kept; in no order."""
        return list(self._tail.points.numbers)

    async def state(self) -> ArchiveState:
        """How the archive does. Raises StoreError."""
        return ArchiveState(
            await self._call(self._file.disk_bytes),
            await self._call(self._file.used_bytes),
            self._file.quota_bytes,
            self._written_bytes,
            self._tail.rows,
            (await self._call(self._file.kept))[0],
            self._problem,
            self._damaged,
        )

    async def close(self) -> None:
        """Ends the session; what was not flushed is the store's to give again."""
        loop = asyncio.get_running_loop()
        async with self._writing:
            await loop.run_in_executor(self._pool, self._file.close)
        self._pool.shutdown(wait=True)
        self._work.shutdown(wait=True)


def _fill(turn: Turn, pieces: Sequence[Piece]) -> None:
    """Packs what a turn writes."""
    rows = [piece.rows for piece in pieces if len(piece.rows)]
    if rows:
        turn.block = blocks.pack(np.concatenate(rows))
    turn.events = [(piece.epoch, event) for piece in pieces for event in piece.events]


def _merged(bodies: Sequence[tuple[bytes, int]]) -> blocks.Block:
    return blocks.pack(np.concatenate([blocks.unpack(body, rows) for body, rows in bodies]))
