"""The archive's file: blocks of values, events, and up to where each life is kept.

SQLite in WAL mode with `synchronous=FULL`, as the store; a page that each turn changes goes from
the log into the file once for many turns. The API blocks and belongs to one thread.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgpack
import numpy as np
from numpy.typing import NDArray

from gateway.core.clock import UTC_PLAUSIBLE_NS
from gateway.core.records import Event
from sync.archive import blocks
from sync.archive.accounts import Life, Missing
from sync.archive.blocks import Block, Directory
from sync.errors import StoreDamaged, StoreFailed, store_error
from sync.plain import WireError
from sync.store.salvage import move_aside, park, unpark

SCHEMA_VERSION: Final = 1
BUSY_TIMEOUT_S: Final = 2.0
PAGE_BYTES: Final = 4096
PART_BITS: Final = 20  # of a part's id: its place in its block
CHECK_BYTES_MAX: Final = 32_000_000  # a larger file is not checked as a whole at the start
SHRINK_PAGES: Final = 256  # given back to the file system at a time
# The log goes into the file when it is so long; it counts towards the quota.
LOG_BYTES_MIN: Final = 65_536
LOG_BYTES_MAX: Final = 4_000_000
LOG_SHARE: Final = 16  # of the quota
SPARE_LOGS: Final = 3  # so many logs' room is left: one log, its index, and the next block

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS points (
    id INTEGER PRIMARY KEY, tag TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS definitions (
    point INTEGER NOT NULL, utc_ns INTEGER NOT NULL, units TEXT NOT NULL, kind TEXT NOT NULL,
    PRIMARY KEY (point, utc_ns)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS blocks (
    id INTEGER PRIMARY KEY, level INTEGER NOT NULL, rows INTEGER NOT NULL,
    utc_min INTEGER NOT NULL, utc_max INTEGER NOT NULL, utc_mid INTEGER NOT NULL,
    last INTEGER NOT NULL, points BLOB NOT NULL, parts BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS blocks_by_time ON blocks (utc_min, utc_max);
CREATE TABLE IF NOT EXISTS parts (
    id INTEGER PRIMARY KEY, rows INTEGER NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY, block INTEGER NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL,
    utc_ns INTEGER NOT NULL, kind TEXT NOT NULL, body BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS events_by_time ON events (utc_ns, id);
CREATE TABLE IF NOT EXISTS lives (
    id INTEGER PRIMARY KEY, epoch INTEGER NOT NULL UNIQUE, seq INTEGER NOT NULL,
    first_ns INTEGER NOT NULL, last_ns INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS missing (
    id INTEGER PRIMARY KEY, start_ns INTEGER NOT NULL, end_ns INTEGER NOT NULL,
    reason TEXT NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Head:
    """A block without what is in it. `last` is the number of the newest turn that is in it."""

    id: int
    level: int
    rows: int
    utc_min: int
    utc_max: int
    utc_mid: int
    last: int


@dataclass
class Turn:
    """What is written at once.

    number  rises with each turn
    points  (number, tag, time, units, kind) of points that are new or have changed
    events  (epoch, event)
    """

    number: int
    block: Block | None = None
    points: list[tuple[int, str, int, str, str]] = field(default_factory=list)
    events: list[tuple[int, Event]] = field(default_factory=list)
    lives: list[Life] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)


class ArchiveFile:
    """One file. Raises StoreError and nothing else.

    turn      number of the last turn that is in it
    salvaged  where a damaged file was moved to, or None
    lost      first and last time of each block that a salvage could not read
    """

    def __init__(self, path: Path, quota_bytes: int) -> None:
        """Opens the file or makes it; a damaged one is moved aside, and what is whole saved."""
        self.path = path
        self.quota_bytes = quota_bytes
        self._log_bytes = min(max(quota_bytes // LOG_SHARE, LOG_BYTES_MIN), LOG_BYTES_MAX)
        self.salvaged: Path | None = None
        self.lost: list[tuple[int, int]] = []
        self.turn = 0
        self._conn: sqlite3.Connection | None = None
        ready = False
        try:
            with self._errors():
                path.parent.mkdir(parents=True, exist_ok=True)
                unpark(path)
            try:
                self._connect()
            except StoreDamaged:
                self.recover()
            ready = True
        except OSError as error:
            raise StoreFailed(f"store {path}: {error}") from error
        finally:
            if not ready:
                self.close()

    def _connect(self) -> None:
        with self._errors():
            conn = self._conn = sqlite3.connect(
                self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            conn.execute(f"PRAGMA page_size={PAGE_BYTES}")
            conn.execute("PRAGMA auto_vacuum=INCREMENTAL")  # both where the file is new
            conn.execute("PRAGMA journal_mode=WAL")
            conn.execute("PRAGMA synchronous=FULL")
            conn.execute(f"PRAGMA journal_size_limit={self._log_bytes}")
            conn.execute(f"PRAGMA wal_autocheckpoint={self._log_bytes // PAGE_BYTES}")
            if self.path.stat().st_size <= CHECK_BYTES_MAX:
                found = conn.execute("PRAGMA quick_check(1)").fetchone()[0]
                if found != "ok":
                    raise StoreDamaged(f"store {self.path}: {found}")
            version = conn.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA_VERSION:
                raise StoreFailed(f"store {self.path}: written by a newer version: move it aside")
            if version < SCHEMA_VERSION:
                conn.executescript(
                    f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;"
                )
        self._look()

    def _look(self) -> None:
        sql = (
            "SELECT coalesce(max(last), 0) FROM blocks"
            " UNION SELECT coalesce(max(block), 0) FROM events"
        )
        self.turn = max(row[0] for row in self._rows(sql))

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise store_error(self.path, error) from error
        except WireError as error:
            raise StoreDamaged(f"store {self.path}: {error}") from error

    def _rows(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        if self._conn is None:
            raise StoreFailed(f"store {self.path}: it is closed")
        with self._errors():
            return self._conn.execute(sql, values).fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        conn = self._conn
        if conn is None:
            raise StoreFailed(f"store {self.path}: it is closed")
        done = False
        try:
            with self._errors():
                conn.execute("BEGIN IMMEDIATE")
                yield conn
                conn.execute("COMMIT")
            done = True
        finally:
            if not done and conn.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    conn.execute("ROLLBACK")

    def close(self) -> None:
        """Ends the session; what was written is on disk. May be called twice."""
        if self._conn is not None:
            with contextlib.suppress(sqlite3.Error):
                self._conn.close()
            self._conn = None

    # ------------------------------------------------------------ writing

    def write(self, turn: Turn) -> None:
        """Keeps a turn, all of it or nothing; survives a power cut once it has returned.

        The same turn again changes nothing.
        """
        fresh = turn.number > self.turn
        with self._transaction() as conn:
            for number, tag, utc_ns, units, kind in turn.points:
                conn.execute("INSERT OR IGNORE INTO points VALUES (?, ?)", (number, tag))
                conn.execute(
                    "INSERT OR REPLACE INTO definitions VALUES (?, ?, ?, ?)",
                    (number, utc_ns, units, kind),
                )
            if turn.block is not None and fresh:
                self._insert(conn, turn.number, 0, turn.number, turn.block)
            conn.executemany(
                "INSERT INTO events VALUES (NULL, ?, ?, ?, ?, ?, ?)",
                [
                    (turn.number, epoch, e.seq, e.utc_ns, e.kind, msgpack.packb(dict(e.body)))
                    for epoch, e in turn.events
                    if fresh
                ],
            )
            conn.executemany(
                "INSERT INTO lives VALUES (NULL, ?, ?, ?, ?) ON CONFLICT (epoch) DO UPDATE SET"
                " seq = excluded.seq, first_ns = excluded.first_ns, last_ns = excluded.last_ns",
                [(e.epoch, e.seq, e.first_ns, e.last_ns) for e in turn.lives],
            )
            conn.executemany(
                "INSERT OR REPLACE INTO missing VALUES (?, ?, ?, ?)",
                [(e.id, e.start_ns, e.end_ns, e.reason) for e in turn.missing],
            )
        self.turn = turn.number

    def _insert(
        self, conn: sqlite3.Connection, number: int, level: int, last: int, block: Block
    ) -> None:
        times = (block.utc_min, block.utc_max, block.utc_mid)
        conn.execute(
            "INSERT INTO blocks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (number, level, block.rows, *times, last, block.points, block.parts),
        )
        parts = blocks.directory(block.points, block.parts).parts["rows"].tolist()
        conn.executemany(
            "INSERT INTO parts VALUES (?, ?, ?)",
            [
                (number << PART_BITS | at, rows, body)
                for at, (rows, body) in enumerate(zip(parts, block.bodies, strict=True))
            ],
        )

    def replace(self, run: Sequence[Head], block: Block) -> None:
        """One block takes the place of a run of neighbours."""
        with self._transaction() as conn:
            for head in run:
                self._delete(conn, head.id)
            self._insert(conn, run[0].id, run[0].level + 1, run[-1].last, block)

    def _delete(self, conn: sqlite3.Connection, number: int) -> None:
        conn.execute("DELETE FROM blocks WHERE id = ?", (number,))
        span = (number << PART_BITS, (number + 1) << PART_BITS)
        conn.execute("DELETE FROM parts WHERE id >= ? AND id < ?", span)

    # ------------------------------------------------------------ room and age

    def used_bytes(self) -> int:
        """What the pages in use take."""
        pages = self._rows("PRAGMA page_count")[0][0] - self._rows("PRAGMA freelist_count")[0][0]
        return int(pages) * int(self._rows("PRAGMA page_size")[0][0])

    def disk_bytes(self) -> int:
        """What the file and its log take."""
        found = 0
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(OSError):
                found += self.path.with_name(self.path.name + suffix).stat().st_size
        return found

    def room_bytes(self) -> int:
        """What the pages in use may take of the quota."""
        return self.quota_bytes - SPARE_LOGS * self._log_bytes

    def let_go(self, until_ns: int) -> bool:
        """Drops the oldest block over the quota or older than a time; False where there is none."""
        over = self.used_bytes() > self.room_bytes()
        heads = self.heads("ORDER BY id LIMIT 1")
        if not heads and over:
            sql = "DELETE FROM events WHERE id IN (SELECT id FROM events ORDER BY id LIMIT 1000)"
            with self._transaction() as conn:
                return conn.execute(sql).rowcount > 0
        # A block of a clock that was not set goes when the first behind it would.
        aged = self.heads("WHERE utc_mid >= ? ORDER BY id LIMIT 1", (UTC_PLAUSIBLE_NS,))
        if not heads or not (over or (aged and aged[0].utc_mid < until_ns)):
            return False
        head = heads[0]
        with self._transaction() as conn:
            self._delete(conn, head.id)
            conn.execute("DELETE FROM events WHERE block <= ?", (head.last,))
            conn.execute(
                "DELETE FROM missing WHERE end_ns > 0 AND end_ns < ? AND id <"
                " (SELECT max(id) FROM missing)",
                (head.utc_mid,),
            )
        return True

    def shrink(self) -> bool:
        """Gives some room back where the file is larger than its quota; False: there is none."""
        pages = int(self._rows("PRAGMA page_count")[0][0]) * PAGE_BYTES
        if pages <= self.room_bytes() or not self._rows("PRAGMA freelist_count")[0][0]:
            return False
        self._rows(f"PRAGMA incremental_vacuum({SHRINK_PAGES})")
        return True

    # ------------------------------------------------------------ reading

    def points(self) -> dict[str, int]:
        """Number of each tag."""
        return dict(self._rows("SELECT tag, id FROM points"))

    def definitions(self) -> dict[int, tuple[str, str]]:
        """Units and kind of each point, as they were last."""
        sql = "SELECT point, units, kind FROM definitions ORDER BY utc_ns"
        return {point: (units, kind) for point, units, kind in self._rows(sql)}

    def lives(self) -> list[Life]:
        """Lives in the order in which they began."""
        sql = "SELECT epoch, seq, first_ns, last_ns FROM lives ORDER BY id"
        return [Life(*row) for row in self._rows(sql)]

    def missing(self) -> list[Missing]:
        """What is missing, in the order in which it was found out."""
        sql = "SELECT id, start_ns, end_ns, reason FROM missing ORDER BY id"
        return [Missing(*row) for row in self._rows(sql)]

    def heads(self, how: str, values: Sequence[int] = ()) -> list[Head]:
        """Blocks that a condition and an order in SQL choose."""
        columns = "id, level, rows, utc_min, utc_max, utc_mid, last"
        return [Head(*row) for row in self._rows(f"SELECT {columns} FROM blocks {how}", values)]

    def directory(self, number: int) -> Directory | None:
        """What is in a block; None where it is gone."""
        rows = self._rows("SELECT points, parts FROM blocks WHERE id = ?", (number,))
        with self._errors():
            return blocks.directory(*rows[0]) if rows else None

    def part(self, number: int, at: int) -> NDArray[np.void]:
        """(n,) RECORD rows of a part of a block."""
        sql = "SELECT body, rows FROM parts WHERE id = ?"
        rows = self._rows(sql, (number << PART_BITS | at,))
        if not rows:
            raise StoreDamaged(f"store {self.path}: a part of a block is missing")
        with self._errors():
            return blocks.unpack(*rows[0])

    def block(self, number: int) -> list[tuple[bytes, int]]:
        """(body, rows) of all parts of a block."""
        span = (number << PART_BITS, (number + 1) << PART_BITS)
        return self._rows("SELECT body, rows FROM parts WHERE id >= ? AND id < ? ORDER BY id", span)

    def check(self, number: int) -> None:
        """Reads all of a block. Raises StoreDamaged where that fails; one that is gone is well."""
        directory = self.directory(number)
        for at in range(len(directory.parts) if directory else 0):
            self.part(number, at)

    def kept(self) -> tuple[int, int]:
        """First and last time of a value; (0, 0) where there is none.

        The middle one of a block's times stands for a first one that can't be true.
        """
        sql = (
            "SELECT min(CASE WHEN utc_min >= ?1 THEN utc_min ELSE utc_mid END), max(utc_max)"
            " FROM blocks WHERE utc_mid >= ?1"
        )
        row = self._rows(sql, (UTC_PLAUSIBLE_NS,))[0]
        return (row[0] or 0, row[1] or 0)

    def events(
        self, start_ns: int, end_ns: int, limit: int, kinds: Sequence[str], *, reverse: bool
    ) -> list[tuple[int, Event]]:
        """(epoch, event) with start <= time < end in time order; no kinds = all of them."""
        chosen = f"AND kind IN ({', '.join('?' * len(kinds))})" if kinds else ""
        order = "DESC" if reverse else "ASC"
        rows = self._rows(
            f"SELECT epoch, seq, utc_ns, kind, body FROM events WHERE utc_ns >= ? AND utc_ns < ?"
            f" {chosen} ORDER BY utc_ns {order}, id {order} LIMIT ?",
            (start_ns, end_ns, *kinds, limit or -1),
        )
        try:
            return [
                (epoch, Event(seq, utc_ns, kind, msgpack.unpackb(body)))
                for epoch, seq, utc_ns, kind, body in rows
            ]
        except (TypeError, ValueError) as error:
            raise StoreDamaged(f"store {self.path}: an event can't be read ({error})") from error

    # ------------------------------------------------------------ damage

    def recover(self) -> None:
        """Moves a damaged file aside and begins anew with what of it is whole."""
        self.close()
        parked = park(self.path)
        ready = False
        try:
            self._connect()
            self._adopt(parked)
            ready = True
        finally:
            if not ready:
                self.close()
                unpark(self.path)
        self.salvaged = move_aside(self.path, parked)

    def _adopt(self, parked: Path) -> None:
        """Takes over what can be read of a damaged file; a block is taken whole or not at all."""
        self._rows("PRAGMA synchronous=NORMAL")  # until the end the damaged file is the safe one
        conn = sqlite3.connect(f"{parked.absolute().as_uri()}?mode=ro", uri=True)
        with contextlib.closing(conn):
            with self._transaction() as new:
                for table in ("points", "definitions", "lives", "missing", "events"):
                    for row in _readable(conn, f"SELECT * FROM {table}"):
                        marks = ", ".join("?" * len(row))
                        new.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", row)
                known = {row[0] for row in new.execute("SELECT id FROM points")}
            for row in _readable(conn, "SELECT * FROM blocks"):
                with self._transaction() as new:
                    self._adopt_block(conn, new, row, known)
        self._rows("PRAGMA synchronous=FULL")
        self._look()

    def _adopt_block(
        self,
        old: sqlite3.Connection,
        new: sqlite3.Connection,
        block: Sequence[Any],
        known: set[int],
    ) -> None:
        span = (block[0] << PART_BITS, (block[0] + 1) << PART_BITS)
        sql = "SELECT * FROM parts WHERE id >= ? AND id < ? ORDER BY id"
        parts = list(_readable(old, sql, span))
        if _whole(block, parts, known):
            new.execute("INSERT INTO blocks VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", block)
            new.executemany("INSERT INTO parts VALUES (?, ?, ?)", parts)
        elif isinstance(block[3], int) and isinstance(block[4], int):
            self.lost.append((block[3], block[4]))


def _readable(conn: sqlite3.Connection, sql: str, values: Iterable[int] = ()) -> Iterator[Any]:
    """Rows up to the first that can't be read."""
    with contextlib.suppress(sqlite3.Error):
        yield from conn.execute(sql, tuple(values))


def _whole(block: Sequence[Any], parts: Sequence[Any], known: set[int]) -> bool:
    """True where every part can be read, and every point's tag is known."""
    try:
        directory = blocks.directory(block[-2], block[-1])
        rows = [len(blocks.unpack(body, count)) for _, count, body in parts]
    except (WireError, TypeError, ValueError):
        return False
    return rows == directory.parts["rows"].tolist() and known.issuperset(directory.points.tolist())
