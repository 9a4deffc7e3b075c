"""One SQLite file with one owner: opening, checking, transactions, schema."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import sqlite_utils

from sync.errors import (
    StoreDamaged,
    StoreFailed,
    StoreFull,
    StoreLocked,
    StoreReadOnly,
    store_error,
)
from sync.store.thin import GONE

SCHEMA_VERSION: Final = 2
# Neighbouring frames may become one, which takes an id of its own between theirs and the next: what
# is said about an id that is gone (a confirmation that was under way) means no other frame.
ID_BITS: Final = 12
BUSY_TIMEOUT_S: Final = 2.0
# Small pages: a commit writes whole ones, and most frames are smaller than a page of SQLite's
# default. A file of an older version keeps its own.
PAGE_BYTES: Final = 1024
# The WAL goes into the file when it is so long; what is deleted before then was written once. It
# counts towards the quota, so a small quota has a short one.
WAL_BYTES_MIN: Final = 65_536
WAL_BYTES_MAX: Final = 4_000_000
WAL_SHARE: Final = 20  # of the quota
# A program that reads the file for long keeps the log from going into it. The log may grow to so
# many times its length then; beyond that a frame is refused.
WAL_LATE: Final = 8
INDEX_BYTES: Final = 65_536  # of the WAL's index, at most
# A deletion needs room in the WAL, and the checkpoint behind it room in the file. On a full disk
# both come from a reserve, or no acknowledgement could ever free the disk again. So it is larger
# than the WAL.
RESERVE_EXTRA_BYTES: Final = 131_072
_WAL_HEADER_BYTES: Final = 24  # of each page in it
# The file is checked page by page at the start up to this size; beyond it, each body's checksum
# is checked when it is read. A check of a gigabyte would hold up a start for many seconds.
CHECK_BYTES_MAX: Final = 32_000_000


class Database:
    """The file, its lock and its connection. Raises StoreError and nothing else."""

    def __init__(self, path: Path, quota_bytes: int) -> None:
        """Takes the lock, so that a second process can't write the same store."""
        self.path = path
        self.wal_bytes = min(max(quota_bytes // WAL_SHARE, WAL_BYTES_MIN), WAL_BYTES_MAX)
        self.reserve_bytes = self.wal_bytes + RESERVE_EXTRA_BYTES
        self.page_bytes = PAGE_BYTES
        self._conn: sqlite3.Connection | None = None
        name = path.with_name(path.name + ".lock")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock_file = name.open("w")
        except OSError as error:
            raise StoreReadOnly(f"store {path}: {name} can't be written ({error})") from None
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock_file.close()
            raise StoreLocked(f"store {path}: another process holds it; stop that one") from None

    def open(self) -> None:
        """Opens the file, makes it where there is none, checks it and migrates its schema."""
        try:
            self._connect()
        except (StoreFull, StoreFailed):
            # A full disk has no room for the WAL and its index: the reserve has. SQLite calls the
            # one "full" and the other an I/O error.
            self.release_reserve()
            self._connect()
        self.keep_reserve()

    def _connect(self) -> None:
        opened = False
        try:
            self._conn = sqlite3.connect(
                self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            self._prepare(self._conn)
            opened = True
        except sqlite3.Error as error:
            raise store_error(self.path, error) from error
        finally:
            if not opened:
                self.disconnect()

    def _prepare(self, conn: sqlite3.Connection) -> None:
        conn.execute(f"PRAGMA page_size={PAGE_BYTES}")  # where the file is new
        conn.execute("PRAGMA journal_mode=WAL")
        conn.execute("PRAGMA synchronous=FULL")
        conn.execute(f"PRAGMA journal_size_limit={self.wal_bytes}")
        self.page_bytes = conn.execute("PRAGMA page_size").fetchone()[0]
        pages = self.wal_bytes // (self.page_bytes + _WAL_HEADER_BYTES)
        conn.execute(f"PRAGMA wal_autocheckpoint={pages}")
        if self.path.stat().st_size <= CHECK_BYTES_MAX:
            found = conn.execute("PRAGMA quick_check(1)").fetchone()[0]
            if found != "ok":
                raise StoreDamaged(f"store {self.path}: {found}")
        version = conn.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise StoreFailed(
                f"store {self.path}: written by a newer version (schema {version}, this one "
                f"knows {SCHEMA_VERSION}): start that version, or move the file aside"
            )
        if version < SCHEMA_VERSION:
            migrate(conn)

    def keep_reserve(self) -> None:
        """Makes the reserve where it is missing and there is room for it."""
        name = self._reserve()
        try:
            if name.exists() and name.stat().st_size == self.reserve_bytes:
                return
            with name.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, self.reserve_bytes)
        except OSError:
            self.release_reserve()

    def release_reserve(self) -> None:
        """Gives the reserve back to the file system."""
        with contextlib.suppress(OSError):
            self._reserve().unlink(missing_ok=True)

    def _reserve(self) -> Path:
        return self.path.with_name(self.path.name + ".reserve")

    def checkpoint(self) -> None:
        """Moves the WAL into the file, so that its room is used again."""
        self.rows("PRAGMA wal_checkpoint(TRUNCATE)")

    def check_log(self) -> None:
        """Raises StoreFull where a reader has made the WAL longer than it may be."""
        log = self.path.with_name(self.path.name + "-wal")
        try:
            length = log.stat().st_size
        except OSError:
            return
        if length > WAL_LATE * self.wal_bytes:
            _, pages, moved = self.rows("PRAGMA wal_checkpoint(PASSIVE)")[0]
            if moved < pages:
                raise StoreFull(
                    f"store {self.path}: its log has {length} bytes, because a program has been "
                    "reading the store for long: end it (fuser tells which)"
                )

    def used_bytes(self) -> int:
        """What the file's pages in use take."""
        pages = self.rows("PRAGMA page_count")[0][0] - self.rows("PRAGMA freelist_count")[0][0]
        return pages * self.page_bytes

    def room_bytes(self, quota_bytes: int) -> int:
        """What the file itself may take of a quota for everything."""
        return quota_bytes - self.wal_bytes - self.reserve_bytes - INDEX_BYTES

    def disk_bytes(self) -> int:
        """What all files of the store take on the disk."""
        found = 0
        for suffix in ("", "-wal", "-shm", ".reserve", ".lock"):
            with contextlib.suppress(OSError):
                found += self.path.with_name(self.path.name + suffix).stat().st_size
        return found

    def shrink(self, room_bytes: int) -> None:
        """Gives room back to the file system where the file is larger than it may be."""
        if self.rows("PRAGMA page_count")[0][0] * self.page_bytes > room_bytes:
            self.rows("VACUUM")
            self.checkpoint()

    def disconnect(self) -> None:
        """Closes the connection and keeps the lock."""
        if self._conn is not None:
            with contextlib.suppress(sqlite3.Error):
                self._conn.close()
            self._conn = None

    def close(self) -> None:
        """Closes the connection and releases the lock. May be called twice."""
        self.disconnect()
        self._lock_file.close()

    @property
    def is_open(self) -> bool:
        """True while there is a connection."""
        return self._conn is not None

    def _connection(self) -> sqlite3.Connection:
        if self._conn is None:
            raise StoreFailed(f"store {self.path}: it is closed")
        return self._conn

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """All rows of a query."""
        try:
            return self._connection().execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            raise store_error(self.path, error) from error

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One transaction; whatever happens inside, it is committed whole or not at all."""
        conn = self._connection()
        done = False
        try:
            conn.execute("BEGIN IMMEDIATE")
            yield conn
            conn.execute("COMMIT")
            done = True
        except sqlite3.Error as error:
            raise store_error(self.path, error) from error
        finally:
            if not done and conn.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    conn.execute("ROLLBACK")


_FRAMES: Final = {
    "id": int,  # rises with each append; a frame's place and how often it was joined
    "epoch": int,
    "first": int,
    "last": int,
    "records": int,
    "events": int,
    "level": int,  # how far it is thinned out
    "birth": str,
    "oldest_ns": int,
    "newest_ns": int,
    "crc": int,
    "body": bytes,
}
_MOVE_FRAMES: Final = 256  # of one transaction of a migration


def migrate(conn: sqlite3.Connection) -> None:
    """Brings a file of any older schema to `SCHEMA_VERSION`; a new file starts at 0.

    Each step may be cut off and run again: the version is written last.
    """
    db = sqlite_utils.Database(conn, recursive_triggers=False, execute_plugins=False)
    version = conn.execute("PRAGMA user_version").fetchone()[0]
    if version == 1 and "frames_1" not in db.table_names():
        conn.execute("ALTER TABLE frames RENAME TO frames_1")
    db.create_table("frames", _FRAMES, pk="id", if_not_exists=True)
    conn.execute("CREATE INDEX IF NOT EXISTS frames_with_events ON frames (id) WHERE events > 0")
    for name, columns, key in (
        ("births", {"turn": int, "hash": str, "body": bytes}, "turn"),
        ("cursors", {"epoch": int, "seq": int, "turn": int}, "epoch"),
        ("links", {"name": str, "first": int, "last": int}, ("name", "first")),
    ):
        db.create_table(name, columns, pk=key, if_not_exists=True)
    if version == 1:
        while _move_frames(conn):
            pass
    # All at once: a file that has only some of the old tables left could not be told from either.
    conn.execute("BEGIN IMMEDIATE")
    conn.execute("DROP TABLE IF EXISTS bodies")
    conn.execute("DROP TABLE IF EXISTS frames_1")
    conn.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    conn.execute("COMMIT")


def _move_frames(conn: sqlite3.Connection) -> bool:
    """Moves some frames of schema 1, whose bodies stood apart; the room of both is used again."""
    rows = conn.execute(
        "SELECT f.id, f.epoch, f.first, f.last, f.records, f.events, f.birth, f.utc_ns, b.crc,"
        " b.body FROM frames_1 f LEFT JOIN bodies b ON b.id = f.id ORDER BY f.id LIMIT ?",
        (_MOVE_FRAMES,),
    ).fetchall()
    conn.execute("BEGIN IMMEDIATE")
    for number, *span, records, events, birth, utc_ns, crc, body in rows:
        level = GONE if records == events else 0
        values = (number << ID_BITS, *span, records, events, level, birth, utc_ns, utc_ns)
        conn.execute(
            "INSERT INTO frames VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*values, crc or 0, body or b""),
        )
        conn.execute("DELETE FROM frames_1 WHERE id = ?", (number,))
        conn.execute("DELETE FROM bodies WHERE id = ?", (number,))
    conn.execute("COMMIT")
    return bool(rows)
