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

SCHEMA_VERSION: Final = 1
BUSY_TIMEOUT_S: Final = 2.0
# A deletion needs room in the WAL, and the checkpoint behind it room in the file. On a full disk
# both come from a reserve, or no acknowledgement could ever free the disk again. It is larger
# than the WAL between two checkpoints (1000 pages).
RESERVE_BYTES: Final = 6_291_456
WAL_BYTES_MAX: Final = 16_000_000  # the WAL is cut back to this after each checkpoint
# The file is checked page by page at the start up to this size; beyond it, each body's checksum
# is checked when it is read. A check of a gigabyte would hold up a start for many seconds.
CHECK_BYTES_MAX: Final = 32_000_000


class Database:
    """The file, its lock and its connection. Raises StoreError and nothing else."""

    def __init__(self, path: Path) -> None:
        """Takes the lock, so that a second process can't write the same store."""
        self.path = path
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
        conn.execute("PRAGMA journal_mode=WAL")
        conn.execute("PRAGMA synchronous=FULL")
        conn.execute(f"PRAGMA journal_size_limit={WAL_BYTES_MAX}")
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
            if name.exists() and name.stat().st_size >= RESERVE_BYTES:
                return
            with name.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, RESERVE_BYTES)
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
        self.rows("PRAGMA wal_checkpoint(RESTART)")

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


def migrate(conn: sqlite3.Connection) -> None:
    """Brings a file of any older schema to `SCHEMA_VERSION`; a new file starts at 0.

    Each step may be cut off and run again: the version is written last.
    """
    db = sqlite_utils.Database(conn, recursive_triggers=False, execute_plugins=False)
    version = conn.execute("PRAGMA user_version").fetchone()[0]
    if version < 1:
        # AUTOINCREMENT: an id is never given twice, also after everything was acknowledged.
        db.execute(
            "CREATE TABLE IF NOT EXISTS frames (id INTEGER PRIMARY KEY AUTOINCREMENT,"
            " epoch INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,"
            " records INTEGER NOT NULL, events INTEGER NOT NULL, birth TEXT NOT NULL,"
            " utc_ns INTEGER NOT NULL, bytes INTEGER NOT NULL)"
        )
        for name, columns, key in (
            ("bodies", {"id": int, "crc": int, "body": bytes}, "id"),
            ("births", {"turn": int, "hash": str, "body": bytes}, "turn"),
            ("cursors", {"epoch": int, "seq": int, "turn": int}, "epoch"),
        ):
            db.create_table(name, columns, pk=key, if_not_exists=True)
    conn.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
