"""A store read by a tool: read-only, beside the link process that owns it or without one.

Nothing is ever held open for long: each look takes some frames in a transaction of its own, because
a reader that stays would keep the owner's log from going into the file, and it would grow.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import sqlite3
import tempfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from gateway.core.records import Batch
from sync import wire
from sync.errors import StoreDamaged, StoreFailed, StoreFull, StoreReadOnly, store_error
from sync.store.database import BUSY_TIMEOUT_S, ID_BITS, SCHEMA_VERSION
from sync.store.links import Ranges, common
from sync.store.salvage import read_damaged

PIECE_FRAMES: Final = 64  # of one look
_SQLITE: Final = b"SQLite format 3\x00"
_FILES: Final = {"store": "", "log": "-wal", "reserve": ".reserve"}


@dataclass(frozen=True, slots=True)
class Kept:
    """A frame as it stands in the file; `batch` is None where its bytes are damaged.

    place  in the order of frames
    level  how far it is thinned out; 0 = it is as it was taken
    """

    place: int
    epoch: int
    first: int
    last: int
    level: int
    birth: str
    size: int
    batch: Batch | None


@dataclass(frozen=True, slots=True)
class Left:
    """What a link has yet to let go of; times are 0 where there is nothing."""

    frames: int
    records: int
    bytes: int
    oldest_ns: int
    newest_ns: int


class StoreReader:
    """One store's file. Every method raises StoreError and nothing else.

    in_use   a link process owns it now
    copied   the disk can't be written, so that what the log holds is read from a copy
    damaged  why `readable` had to look for frames as a salvage does
    schema   version of its tables; 1 is what older gateways wrote
    """

    def __init__(self, path: Path) -> None:
        """Opens the file; never makes or changes one."""
        self.path = path
        self.copied = False
        self.damaged = ""
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        self._conn: sqlite3.Connection | None = None
        try:
            with path.open("rb") as file:
                head = file.read(len(_SQLITE))
        except OSError as error:
            raise StoreFailed(f"store {path}: {error.strerror}") from None
        if head and head != _SQLITE:
            raise StoreDamaged(f"store {path}: it is no SQLite database")
        self.in_use = _is_locked(path)
        opened = False
        try:
            self._open()
            self.schema = self._rows("PRAGMA user_version")[0][0]
            self._know()
            opened = True
        finally:
            if not opened:
                self.close()

    def _open(self) -> None:
        """As it is; where the disk is read-only, without a log or from a copy."""
        log = self._beside("-wal")
        try:
            self._connect(self.path, "mode=ro")
            return
        except (StoreReadOnly, StoreFailed, StoreFull):
            self._disconnect()
            if self.in_use:
                raise
        if not log.exists() or not log.stat().st_size:
            self._connect(self.path, "mode=ro&immutable=1")
            return
        self._copy = tempfile.TemporaryDirectory(prefix="gatepost-store-")
        self.copied = True
        copy = Path(self._copy.name) / self.path.name
        try:
            shutil.copyfile(self.path, copy)
            shutil.copyfile(log, copy.with_name(log.name))
        except OSError as error:
            raise StoreFull(f"store {self.path}: can't be copied to be read ({error})") from None
        self._connect(copy, "mode=rw")

    def _connect(self, path: Path, mode: str) -> None:
        try:
            self._conn = sqlite3.connect(
                f"{path.absolute().as_uri()}?{mode}",
                uri=True,
                timeout=BUSY_TIMEOUT_S,
                isolation_level=None,
                check_same_thread=False,
            )
        except sqlite3.Error as error:
            raise store_error(self.path, error) from error
        self._rows("SELECT count(*) FROM sqlite_master")

    def _know(self) -> None:
        if self.schema > SCHEMA_VERSION:
            raise StoreFailed(
                f"store {self.path}: written by a newer version (schema {self.schema}, this one "
                f"knows {SCHEMA_VERSION})"
            )
        names = {row[0] for row in self._rows("SELECT name FROM sqlite_master")}
        if not {"frames", "births", "cursors"} <= names:
            raise StoreFailed(f"store {self.path}: an SQLite file, but no store of a gateway")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the look. May be called twice."""
        self._disconnect()
        if self._copy is not None:
            self._copy.cleanup()
            self._copy = None

    def _disconnect(self) -> None:
        if self._conn is not None:
            self._conn.close()
            self._conn = None

    def _rows(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        if self._conn is None:
            raise StoreFailed(f"store {self.path}: it is closed")
        try:
            return self._conn.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise store_error(self.path, error) from error

    def _beside(self, suffix: str) -> Path:
        return self.path.with_name(self.path.name + suffix)

    # ------------------------------------------------------------ what there is

    def files(self) -> dict[str, int]:
        """Bytes of the store's files: ``store``, ``log`` and ``reserve``."""
        found = {}
        for what, suffix in _FILES.items():
            with contextlib.suppress(OSError):
                found[what] = self._beside(suffix).stat().st_size
        return found

    def births(self) -> dict[str, bytes]:
        """Point tables by their hash, the one in force last; of a damaged file what is left."""
        try:
            return dict(self._rows("SELECT hash, body FROM births ORDER BY turn"))
        except StoreDamaged:
            return read_damaged(self.path).births

    def ends(self) -> dict[int, int]:
        """Epoch -> its last number, the running epoch last."""
        found = dict(self._rows("SELECT epoch, seq FROM cursors ORDER BY turn"))
        for epoch, last in self._rows("SELECT epoch, max(last) FROM frames GROUP BY epoch"):
            found[epoch] = max(last, found.get(epoch, 0))
        return found

    def links(self) -> dict[str, Ranges]:
        """Name of a link -> places of frames that it is done with."""
        if self.schema == 1:
            return {}
        found: dict[str, Ranges] = {}
        for name, first, last in self._rows("SELECT name, first, last FROM links"):
            done = found.setdefault(name, Ranges())
            if last:
                done.add(first, last)
        return found

    def left(self, done: Ranges | None = None) -> Left:
        """What the file holds; with `done`, what a link has yet to let go of."""
        if done is None:
            return self._held([(0, 2**62)])
        top = self._rows("SELECT coalesce(max(id), 0) FROM frames")[0][0] >> ID_BITS
        return self._held(_ids(done.outside(0, top)))

    def let_go(self) -> Left:
        """What every link has let go of and the file still holds: the next append deletes it."""
        every = self.links().values()
        return self._held(_ids(common(every)) if every else [])

    def _held(self, spans: Sequence[tuple[int, int]]) -> Left:
        sums = [0, 0, 0]
        times: list[int] = []
        oldest, newest, size = _COLUMNS[self.schema]
        for span in spans:
            row = self._rows(
                f"SELECT count(*), coalesce(sum(records), 0), coalesce(sum({size}), 0),"
                f" min(nullif({oldest}, 0)), max({newest}) FROM frames WHERE id BETWEEN ? AND ?",
                span,
            )[0]
            sums = [a + b for a, b in zip(sums, row[:3], strict=True)]
            times += [time for time in row[3:] if time]
        return Left(sums[0], sums[1], sums[2], min(times, default=0), max(times, default=0))

    def thinned(self) -> int:
        """How many frames are thinned out, or have nothing left but gaps."""
        where = "level > 0 AND records > events" if self.schema > 1 else "records = 0"
        return int(self._rows(f"SELECT count(*) FROM frames WHERE {where}")[0][0])

    def problem(self) -> str:
        """What is wrong with the structure of the file; empty where nothing is. Reads all of it."""
        try:
            found = str(self._rows("PRAGMA quick_check(1)")[0][0])
        except StoreDamaged as error:
            return str(error)
        return "" if found == "ok" else found

    # ------------------------------------------------------------ frames

    def frames(self) -> Iterator[Kept]:
        """Every frame in order. Raises StoreDamaged where a page can't be read."""
        at = -1
        while rows := self._rows(_FRAMES[self.schema], (at, PIECE_FRAMES)):
            for number, epoch, first, last, level, birth, crc, body in rows:
                place = number >> ID_BITS if self.schema > 1 else number
                batch = None
                if isinstance(body, bytes) and zlib.crc32(body) == crc:
                    with contextlib.suppress(wire.WireError):
                        batch = wire.decode_body(body)
                size = len(body or b"")
                yield Kept(place, epoch, first, last, level, birth, size, batch)
            at = rows[-1][0]

    def readable(self) -> Iterator[Batch]:
        """The contents of every frame that can be read, in order, whatever is damaged.

        What stands behind a page that can't be read is found as a salvage finds it.
        """
        place = -1
        try:
            for frame in self.frames():
                place = frame.place
                if frame.batch is not None:
                    yield frame.batch
        except StoreDamaged as error:
            self.damaged = str(error)
            for found, batch in read_damaged(self.path).frames():
                if found > place:
                    yield batch


_FRAMES: Final = {
    1: "SELECT f.id, f.epoch, f.first, f.last, f.records = f.events, f.birth, b.crc, b.body"
    " FROM frames f LEFT JOIN bodies b ON b.id = f.id WHERE f.id > ? ORDER BY f.id LIMIT ?",
    2: "SELECT id, epoch, first, last, level, birth, crc, body FROM frames WHERE id > ?"
    " ORDER BY id LIMIT ?",
}
_COLUMNS: Final = {1: ("utc_ns", "utc_ns", "bytes"), 2: ("oldest_ns", "newest_ns", "length(body)")}


def _ids(places: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges of places -> ranges of the ids of their frames."""
    return [(first << ID_BITS, ((last + 1) << ID_BITS) - 1) for first, last in places]


def _is_locked(path: Path) -> bool:
    """True where a link process holds the store."""
    try:
        with path.with_name(path.name + ".lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
