"""What the inbox has handled: ids of messages, durable before anything is passed on.

One small SQLite file beside the store. An id that stands here is never carried out again, over
restarts, kills and power cuts: `admit` returns after the disk has it. The file is bounded: ids go a
day after their message expired, and whatever went raises `floor_ns`; a message that expires no
later than that is refused unseen, so that no clock that steps back can let an old one in again.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import sqlite_utils

from sync.errors import StoreDamaged, StoreFailed, store_error
from sync.store.salvage import rename_database

SCHEMA_VERSION: Final = 1
IDS_PER_KEY_MAX: Final = 5_000  # that have not expired; about 1 MB
KEEP_NS: Final = 24 * 3_600 * 10**9  # how long an id is kept behind its expiry, for queries
PURGE_PERIOD_NS: Final = 60 * 10**9
REASON_CHARS_MAX: Final = 400
BUSY_TIMEOUT_S: Final = 2.0
WAL_BYTES_MAX: Final = 1_000_000
DAMAGED_FILES_MAX: Final = 100

TAKEN: Final = "taken"  # durable, and not yet known to be with the field process
PASSED: Final = "passed"  # the field process answered
REFUSED: Final = "refused"
FAILED: Final = "failed"  # taken, and not or perhaps not passed on

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """One message.

    key     identity of the key that signed it (config.command_keys.CommandKey.identity)
    writes  how many wishes it has; 0 = it is no command
    utc_ns  when it came
    state   one of TAKEN, PASSED, REFUSED, FAILED
    reason  why it was refused or failed, or what the field process answered
    """

    id: str
    key: str
    name: str
    type: str
    writes: int
    expires_ns: int
    utc_ns: int
    state: str
    reason: str = ""

    def outcome(self, now_ns: int) -> str:
        """What became of it, in words; `now_ns` as `utc_ns`."""
        ago_s = (now_ns - self.utc_ns) / 1e9
        reason = f" ({self.reason})" if self.reason else ""
        return f"its id was {self.state} {ago_s:.3g} s ago{reason}"


@dataclass(frozen=True, slots=True)
class Admission:
    """What became of an entry: it is new and durable now, or it was there, or there is no room."""

    new: bool
    earlier: Entry | None = None


class Handled:
    """The file. Every method may raise StoreError and nothing else."""

    def __init__(self, path: Path) -> None:
        """Opens or makes the file; a damaged one is set aside and a new one begun.

        floor_ns   a message that expires at or before this may have been forgotten
        newest_ns  the latest signed time of a message: it is no earlier than that
        since_ns   a message that was issued before this may have been forgotten; 0 = not set yet
        lost       ids were lost with a damaged file, so `since_ns` has to be set
        """
        self.path = path
        self.floor_ns = self.newest_ns = self.since_ns = 0
        self.lost = False
        self._counts: Counter[str] = Counter()
        self._purged_ns = 0
        self._conn: sqlite3.Connection | None = None
        try:
            self._open()
        except StoreDamaged as error:
            log.error("%s; it is set aside, and what was issued before now is refused", error)
            self._set_aside()
            self._open()

    def _open(self) -> None:
        opened = False
        try:
            # A file that somebody else holds is waited for; the link process is the only one.
            self._conn = sqlite3.connect(
                self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            self._prepare(self._conn)
            opened = True
        except sqlite3.Error as error:
            raise store_error(self.path, error) from error
        finally:
            if not opened:
                self.close()

    def _prepare(self, conn: sqlite3.Connection) -> None:
        conn.execute("PRAGMA journal_mode=WAL")
        conn.execute("PRAGMA synchronous=FULL")
        conn.execute(f"PRAGMA journal_size_limit={WAL_BYTES_MAX}")
        found = conn.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise StoreDamaged(f"inbox {self.path}: {found}")
        version = conn.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise StoreFailed(
                f"inbox {self.path}: written by a newer version (schema {version}, this one "
                f"knows {SCHEMA_VERSION}): start that version, or move the file aside"
            )
        if version < SCHEMA_VERSION:
            _make(conn)
        marks = dict(conn.execute("SELECT name, ns FROM marks").fetchall())
        self.floor_ns = marks.get("floor", 0)
        self.newest_ns = marks.get("newest", 0)
        self.since_ns = marks.get("since", 0)
        # Cut short between setting one aside and `set_since`, the next life must not begin at once.
        self.lost = not self.since_ns and self._aside(1).exists()
        self._counts = Counter(dict(conn.execute("SELECT key, count(*) FROM ids GROUP BY key")))

    def _set_aside(self) -> None:
        for number in range(1, DAMAGED_FILES_MAX + 1):
            aside = self._aside(number)
            if not aside.exists():
                break
        try:
            rename_database(self.path, aside)
        except OSError as error:
            raise StoreFailed(f"inbox {self.path}: can't be set aside: {error}") from None

    def _aside(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.damaged-{number}")

    def close(self) -> None:
        """Closes the file. May be called twice."""
        if self._conn is not None:
            with contextlib.suppress(sqlite3.Error):
                self._conn.close()
            self._conn = None

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        if self._conn is None:
            raise StoreFailed(f"inbox {self.path}: it is closed")
        done = False
        try:
            self._conn.execute("BEGIN IMMEDIATE")
            yield self._conn
            self._conn.execute("COMMIT")
            done = True
        except sqlite3.Error as error:
            raise store_error(self.path, error) from error
        finally:
            if not done and self._conn.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    self._conn.execute("ROLLBACK")

    # ------------------------------------------------------------ what is asked

    def admit(self, entries: Sequence[Entry], newest_ns: int, now_ns: int) -> list[Admission]:
        """Make what is new durable, in one transaction; what becomes of each, in order.

        now_ns     UTC as the inbox believes it
        newest_ns  the latest signed time among them
        """
        counts = self._counts.copy()
        floor_ns = self.floor_ns
        with self._transaction() as conn:
            if now_ns - self._purged_ns > PURGE_PERIOD_NS or now_ns < self._purged_ns:
                floor_ns = _purge(conn, floor_ns, counts, "expires < ?", now_ns - KEEP_NS)
                self._purged_ns = now_ns
            found = []
            for entry in entries:
                if counts[entry.key] >= IDS_PER_KEY_MAX:
                    gone = "expires < ? AND key = ?"
                    floor_ns = _purge(conn, floor_ns, counts, gone, now_ns, entry.key)
                found.append(_insert(conn, entry, counts))
            newest_ns = max(newest_ns, self.newest_ns)
            _mark(conn, "floor", floor_ns)
            _mark(conn, "newest", newest_ns)
        self._counts, self.floor_ns, self.newest_ns = counts, floor_ns, newest_ns
        return found

    def settle(self, outcomes: Sequence[tuple[str, str, str]]) -> None:
        """Note what became of taken messages: (id, state, reason) each."""
        with self._transaction() as conn:
            conn.executemany(
                "UPDATE ids SET state = ?, reason = ? WHERE id = ?",
                [(state, reason[:REASON_CHARS_MAX], name) for name, state, reason in outcomes],
            )

    def set_since(self, since_ns: int) -> None:
        """From now on refuse what was issued before `since_ns`."""
        with self._transaction() as conn:
            _mark(conn, "since", since_ns)
        self.since_ns, self.lost = since_ns, False

    def find(self, names: Sequence[str]) -> dict[str, Entry]:
        """The messages with these ids that are still known."""
        with self._transaction() as conn:
            rows = [_select(conn, name) for name in names]
        return {row.id: row for row in rows if row is not None}

    def recent(self, count_max: int) -> list[str]:
        """Ids of the newest messages that were not refused, oldest first."""
        with self._transaction() as conn:
            sql = "SELECT id FROM ids WHERE state <> ? ORDER BY utc_ns DESC LIMIT ?"
            return [name for (name,) in conn.execute(sql, (REFUSED, count_max))][::-1]

    def unsettled(self) -> list[Entry]:
        """What was taken and is not known to be with the field process, oldest first."""
        with self._transaction() as conn:
            sql = f"SELECT {_COLUMNS} FROM ids WHERE state = ? ORDER BY utc_ns"
            return [Entry(*row) for row in conn.execute(sql, (TAKEN,))]


_COLUMNS: Final = "id, key, name, type, writes, expires, utc_ns, state, reason"


def _make(conn: sqlite3.Connection) -> None:
    """The tables of a new file; the version is written last, so that it may be run again."""
    db = sqlite_utils.Database(conn, recursive_triggers=False, execute_plugins=False)
    columns = {"id": str, "key": str, "name": str, "type": str, "writes": int, "expires": int}
    columns |= {"utc_ns": int, "state": str, "reason": str}
    ids = db.create_table("ids", columns, pk="id", if_not_exists=True)
    ids.create_index(["key", "expires"], if_not_exists=True)
    db.create_table("marks", {"name": str, "ns": int}, pk="name", if_not_exists=True)
    conn.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _mark(conn: sqlite3.Connection, name: str, ns: int) -> None:
    conn.execute("INSERT OR REPLACE INTO marks VALUES (?, ?)", (name, ns))


def _purge(
    conn: sqlite3.Connection, floor_ns: int, counts: Counter[str], where: str, *arguments: int | str
) -> int:
    """Forget ids that are settled; the floor that lies above all of them."""
    chosen = f"FROM ids WHERE state <> '{TAKEN}' AND {where}"
    sql = f"SELECT key, count(*), max(expires) {chosen} GROUP BY key"
    for key, count, expires_ns in conn.execute(sql, arguments).fetchall():
        counts[key] -= count
        floor_ns = max(floor_ns, expires_ns)
    conn.execute(f"DELETE {chosen}", arguments)
    return floor_ns


def _insert(conn: sqlite3.Connection, entry: Entry, counts: Counter[str]) -> Admission:
    earlier = _select(conn, entry.id)
    if earlier is not None:
        return Admission(new=False, earlier=earlier)
    if counts[entry.key] >= IDS_PER_KEY_MAX:
        return Admission(new=False)
    values = (entry.id, entry.key, entry.name, entry.type, entry.writes, entry.expires_ns)
    conn.execute(
        f"INSERT INTO ids ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (*values, entry.utc_ns, entry.state, entry.reason[:REASON_CHARS_MAX]),
    )
    counts[entry.key] += 1
    return Admission(new=True)


def _select(conn: sqlite3.Connection, name: str) -> Entry | None:
    row = conn.execute(f"SELECT {_COLUMNS} FROM ids WHERE id = ?", (name,)).fetchone()
    return None if row is None else Entry(*row)
