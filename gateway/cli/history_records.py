"""What a gateway recorded as history: its store, or a historian's file.

Both hold changes and heartbeats in the order of the stream. A value's source time can lie a
little before that of the one above it, because devices are read side by side; the stream's order
counts, and time never goes back.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from gateway.cli.history import SAMPLES_MAX, Column, Columns, Names, listed
from gateway.cli.output import CommandFailed
from gateway.cli.times import duration_text
from gateway.core.records import Batch
from safety.replay import Block

if TYPE_CHECKING:
    from sync.store.reader import StoreReader

LATE_NS: Final = 60_000_000_000  # further back than this is no device's doing
_NEVER_NS: Final = -(2**62)
WARM_UP_NS: Final = 600_000_000_000  # heartbeats of every point lie within


class _Recorded:
    """What store and historian share: rows of the stream to blocks."""

    by_exception = True

    def __init__(self, path: Path, known: Columns) -> None:
        self.path = path
        self.warnings: list[str] = []
        self._names = Names(known)
        self.columns: Sequence[Column] = self._names.every
        self._now_ns: int | None = None
        self._newest_ns = np.full(len(self.columns), _NEVER_NS)  # of each point
        self._late = 0
        self._latest_ns = 0  # how far back the furthest one was

    def _positions(self, tags: dict[int, str]) -> NDArray[np.int32]:
        """Number of a point in the recording -> position of its column; the last one is none."""
        found = np.full(max(tags, default=0) + 2, -1, dtype=np.int32)
        for number, tag in tags.items():
            found[number] = self._names.find(tag)[0]
        return found

    def _block(
        self,
        ids: NDArray[np.int32],
        rows: NDArray[np.void],
        done: float,
    ) -> Block:
        """(N,) positions of columns, the (N,) RECORD rows that they are of."""
        utc_ns = rows["utc_ns"]
        first = utc_ns[0] if self._now_ns is None else self._now_ns
        times = np.maximum(np.maximum.accumulate(utc_ns), first)
        keep = ids >= 0
        self._count_late(ids[keep], utc_ns[keep], times[keep])
        self._now_ns = int(times[-1])
        starts = np.arange(int(np.count_nonzero(keep)) + 1, dtype=np.int64)
        values, codes = rows["value"][keep], rows["status"][keep]
        return Block(times[keep], starts, ids[keep], values, codes, done)

    def _count_late(
        self, ids: NDArray[np.int32], utc_ns: NDArray[np.int64], now_ns: NDArray[np.int64]
    ) -> None:
        """Count the values that are older than the one before of the same point.

        A heartbeat repeats a value that has not changed with the time since which it has been so:
        old, but never older.
        """
        if (now_ns - utc_ns > LATE_NS).any():
            behind = newest_so_far(ids, utc_ns, self._newest_ns) - utc_ns
            self._late += int(np.count_nonzero(behind > LATE_NS))
            self._latest_ns = max(self._latest_ns, int(behind.max()))
        np.maximum.at(self._newest_ns, ids, utc_ns)

    def _finish(self) -> None:
        if self._late:
            back = duration_text(self._latest_ns)
            self.warnings.append(
                f"{self._late} values are up to {back} older than those recorded before them (the "
                "clock was set back); they count as of the newest time"
            )


class StoreHistory(_Recorded):
    """The store of a gateway's link process: what its historian has not acknowledged yet."""

    def __init__(self, path: Path, known: Columns) -> None:
        """Reads the point tables. Raises CommandFailed."""
        from sync.wire import WireError, decode_birth

        super().__init__(path, known)
        self._tables: dict[str, NDArray[np.int32]] = {}
        self._frames = _count(path, "SELECT count(*) FROM frames")
        with _store(path) as reader:
            births = reader.births()
        for name, body in births.items():
            with contextlib.suppress(WireError):  # its rows are counted as lost below
                points = decode_birth(body).points
                self._tables[name] = self._positions({p["index"]: str(p["tag"]) for p in points})

    def pieces(self) -> Iterator[Block]:
        """Blocks of whole frames. Raises CommandFailed."""
        with _store(self.path) as reader:
            yield from self._pieces(reader.readable())

    def _pieces(self, batches: Iterator[Batch]) -> Iterator[Block]:
        kept: list[tuple[NDArray[np.int32], NDArray[np.void]]] = []
        size = frames = lost = gaps = 0
        for batch in batches:
            frames += 1
            gaps += len(batch.gaps)
            rows = batch.records
            table = self._tables.get(batch.birth)
            if not len(rows):
                continue
            if table is None:
                lost += len(rows)
                continue
            kept.append((_look_up(table, rows), rows))
            size += len(rows)
            if size >= SAMPLES_MAX:
                yield self._join(kept, frames)
                kept, size = [], 0
        if kept:
            yield self._join(kept, frames)
        self._finish()
        if lost:
            self.warnings.append(f"{lost} values are left out: their point table is lost")
        if gaps:
            self.warnings.append(f"the recording has {gaps} declared gaps")
        if frames < self._frames:
            self.warnings.append(f"{self._frames - frames} frames are damaged and left out")

    def _join(self, kept: list[tuple[NDArray[np.int32], NDArray[np.void]]], frames: int) -> Block:
        ids = np.concatenate([ids for ids, _ in kept])
        rows = np.concatenate([rows for _, rows in kept])
        return self._block(ids, rows, frames / max(self._frames, 1))


class HistorianHistory(_Recorded):
    """One gateway's values in a historian's file."""

    def __init__(self, path: Path, known: Columns, gateway: str, from_ns: int | None) -> None:
        """`gateway` may be empty where the file has one only. Raises CommandFailed."""
        from cloud.historian import HistorianError
        from cloud.stream import HistorianStream

        super().__init__(path, known)
        try:
            historian = HistorianStream(path)
        except HistorianError as error:
            raise CommandFailed(str(error)) from error
        self._historian = historian
        names = historian.gateways()
        if gateway not in names and (gateway or len(names) != 1):
            told = listed(names) or "none"
            raise CommandFailed(f"{path}: name a gateway with --gateway; it has {told}")
        self._gateway = gateway or names[0]
        self._from_ns = None if from_ns is None else from_ns - WARM_UP_NS

    def pieces(self) -> Iterator[Block]:
        """Blocks in the order of the stream. Raises CommandFailed."""
        from cloud.historian import HistorianError

        try:
            with contextlib.closing(self._historian):
                at = self._positions(self._historian.tags(self._gateway))
                for rows, done in self._historian.rows(self._gateway, self._from_ns):
                    yield self._block(_look_up(at, rows), rows, done)
        except HistorianError as error:
            raise CommandFailed(str(error)) from error
        self._finish()


@contextlib.contextmanager
def _store(path: Path) -> Iterator[StoreReader]:
    """A look at a store; raises CommandFailed, also for what happens inside."""
    from sync.errors import StoreError
    from sync.store.reader import StoreReader

    try:
        with StoreReader(path) as reader:
            yield reader
    except StoreError as error:
        raise CommandFailed(str(error)) from error


def newest_so_far(
    ids: NDArray[np.int32], utc_ns: NDArray[np.int64], before: NDArray[np.int64]
) -> NDArray[np.int64]:
    """(N,) the newest time of each row's own point up to it, with `before` of earlier blocks."""
    known = np.concatenate((before[ids], utc_ns))  # each row behind what was before all of them
    moments, ranks = np.unique(known, return_inverse=True)
    rows = np.tile(np.arange(len(ids)), 2)
    rows[: len(ids)] = 0
    order = np.lexsort((rows, np.tile(ids, 2)))
    offsets = np.tile(ids, 2)[order].astype(np.int64) * len(moments)
    newest = np.maximum.accumulate(ranks[order] + offsets) - offsets
    found = np.empty(len(known), dtype=np.int64)
    found[order] = moments[newest]
    return found[len(ids) :]


def _look_up(table: NDArray[np.int32], rows: NDArray[np.void]) -> NDArray[np.int32]:
    found: NDArray[np.int32] = table[np.minimum(rows["point"], len(table) - 1)]
    return found


def kind_of(path: Path) -> str:
    """``store``, ``historian``, or nothing where the file is neither."""
    for table, kind in (("frames", "store"), ("chunks", "historian"), ("samples", "historian")):
        sql = f"SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = '{table}'"
        if _count(path, sql):
            return kind
    return ""


def _count(path: Path, sql: str) -> int:
    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db,
    ):
        return int(db.execute(sql).fetchone()[0])
    return 0
