"""A historian in one SQLite file: for a site, a demonstration, a test."""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgpack
import numpy as np
from numpy.typing import NDArray

from cloud import accounts, chunks, spans
from cloud.historian import (
    QUERY_ROWS_MAX,
    AuditReport,
    EpochAudit,
    HistorianBusy,
    HistorianDamaged,
    HistorianError,
    HistorianFull,
    Sample,
    StoredEvent,
    UnknownBirth,
)
from cloud.selection import Selection
from cloud.spans import Span
from cloud.version_1 import samples_of_version_1
from gateway.core.records import Birth, Gap
from sync.wire import Frame, WireError, encode_birth

SCHEMA_VERSION: Final = 3
BUSY_TIMEOUT_S: Final = 1.0
NUMBERINGS_MAX: Final = 64  # point tables whose numbering is kept in memory

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS gateways (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, online INTEGER NOT NULL DEFAULT 0,
    birth TEXT NOT NULL DEFAULT '');
CREATE TABLE IF NOT EXISTS births (
    gateway INTEGER NOT NULL, hash TEXT NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (gateway, hash)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS points (
    id INTEGER PRIMARY KEY, gateway INTEGER NOT NULL, tag TEXT NOT NULL, units TEXT NOT NULL,
    kind TEXT NOT NULL, description TEXT NOT NULL, UNIQUE (gateway, tag));
CREATE TABLE IF NOT EXISTS numbering (
    gateway INTEGER NOT NULL, hash TEXT NOT NULL, number INTEGER NOT NULL, point INTEGER NOT NULL,
    PRIMARY KEY (gateway, hash, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS chunks (
    id INTEGER PRIMARY KEY, gateway INTEGER NOT NULL, epoch INTEGER NOT NULL,
    first INTEGER NOT NULL, last INTEGER NOT NULL, rows INTEGER NOT NULL,
    utc_min INTEGER NOT NULL, utc_max INTEGER NOT NULL, status INTEGER, body BLOB NOT NULL,
    codec INTEGER NOT NULL DEFAULT 2,
    UNIQUE (gateway, epoch, first));
CREATE INDEX IF NOT EXISTS chunks_by_time ON chunks (utc_min, utc_max);
CREATE TABLE IF NOT EXISTS events (
    gateway INTEGER NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL,
    utc_ns INTEGER NOT NULL, kind TEXT NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (gateway, epoch, seq)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS gaps (
    gateway INTEGER NOT NULL, epoch INTEGER NOT NULL, first INTEGER NOT NULL,
    last INTEGER NOT NULL, reason TEXT NOT NULL,
    PRIMARY KEY (gateway, epoch, first)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS spans (
    gateway INTEGER NOT NULL, epoch INTEGER NOT NULL, first INTEGER NOT NULL,
    last INTEGER NOT NULL, PRIMARY KEY (gateway, epoch, first)) WITHOUT ROWID;
"""

# SQLite's primary result codes, https://www.sqlite.org/rescode.html
_ERRORS: Final = {
    sqlite3.SQLITE_BUSY: HistorianBusy,
    sqlite3.SQLITE_LOCKED: HistorianBusy,
    sqlite3.SQLITE_FULL: HistorianFull,
    sqlite3.SQLITE_CORRUPT: HistorianDamaged,
    sqlite3.SQLITE_NOTADB: HistorianDamaged,
}


class SqliteHistorian:
    """`cloud.historian.Historian` over SQLite; WAL and `synchronous=FULL`.

    It belongs to one thread at a time; other processes may read the file meanwhile.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Opens the file or makes it. Raises HistorianError."""
        self.path = path
        self._numbering: dict[tuple[int, str], dict[int, int]] = {}
        with self._errors():
            uri = f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}"
            self._conn = sqlite3.connect(
                uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
        ready = False
        try:
            with self._errors():
                self._prepare(read_only)
            ready = True
        finally:
            if not ready:
                self._conn.close()

    def _prepare(self, read_only: bool) -> None:
        version = self._conn.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise HistorianError(f"historian {self.path}: written by a newer version")
        if read_only:
            if 0 < version < SCHEMA_VERSION:
                raise HistorianError(
                    f"historian {self.path}: written by an older version; start ingest on it once"
                )
            return
        self._conn.execute("PRAGMA journal_mode=WAL")
        self._conn.execute("PRAGMA synchronous=FULL")
        if version < SCHEMA_VERSION:
            self._conn.executescript(_SCHEMA)
            with self._transaction() as conn:
                version = conn.execute("PRAGMA user_version").fetchone()[0]  # somebody was faster?
                if version == 2:
                    conn.execute("ALTER TABLE chunks ADD COLUMN codec INTEGER NOT NULL DEFAULT 2")
                elif version == 1:
                    for key, rows in samples_of_version_1(conn):
                        self._insert_chunk(conn, key, rows)
                    conn.execute("DROP TABLE samples")
                conn.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
            kind = _ERRORS.get(code, HistorianError)
            raise kind(f"historian {self.path}: {error}") from error

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        done = False
        try:
            with self._errors():
                self._conn.execute("BEGIN IMMEDIATE")
                yield self._conn
                self._conn.execute("COMMIT")
            done = True
        finally:
            if not done and self._conn.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    self._conn.execute("ROLLBACK")

    def _rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        with self._errors():
            return self._conn.execute(sql, parameters).fetchall()

    def close(self) -> None:
        """Ends the session; everything is on disk already."""
        self._conn.close()

    # ------------------------------------------------------------ writing

    def _gateway(self, gateway: str) -> int:
        """The number of a gateway; makes it where it is new."""
        self._conn.execute("INSERT OR IGNORE INTO gateways (name) VALUES (?)", (gateway,))
        return self._number_of(gateway)

    def store_birth(self, gateway: str, birth: Birth) -> None:
        """Keeps a point table; the same one again changes nothing."""
        body = encode_birth(birth)
        with self._transaction() as conn:
            number = self._gateway(gateway)
            conn.execute("UPDATE gateways SET birth = ? WHERE id = ?", (birth.hash, number))
            known = conn.execute(
                "INSERT OR IGNORE INTO births VALUES (?, ?, ?)", (number, birth.hash, body)
            )
            if known.rowcount == 0:
                return
            for point in birth.points:
                self._number_point(conn, number, birth.hash, point["index"], point)

    def _number_point(
        self, conn: sqlite3.Connection, gateway: int, name: str, index: int, point: Any
    ) -> int:
        """The id of a point of a table; a tag keeps its id over all tables of a gateway."""
        tag = str(point["tag"])
        about = [str(point.get(key, "")) for key in ("units", "kind", "description")]
        conn.execute(
            "INSERT INTO points (gateway, tag, units, kind, description) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (gateway, tag) DO UPDATE SET units = excluded.units,"
            " kind = excluded.kind, description = excluded.description",
            (gateway, tag, *about),
        )
        row = conn.execute(
            "SELECT id FROM points WHERE gateway = ? AND tag = ?", (gateway, tag)
        ).fetchone()
        conn.execute(
            "INSERT OR IGNORE INTO numbering VALUES (?, ?, ?, ?)", (gateway, name, index, row[0])
        )
        return row[0]

    def set_online(self, gateway: str, online: bool) -> None:
        """Notes whether a gateway holds a session with the broker."""
        with self._transaction() as conn:
            number = self._gateway(gateway)
            conn.execute("UPDATE gateways SET online = ? WHERE id = ?", (int(online), number))

    def commit_frame(self, gateway: str, frame: Frame) -> None:
        """Makes a frame durable. Raises UnknownBirth where its point table is not known."""
        self.commit_frames([(gateway, frame)])

    def commit_frames(self, frames: Sequence[tuple[str, Frame]]) -> None:
        """Makes (gateway, frame) pairs durable in one commit; all of them or none."""
        fresh: dict[tuple[int, int], list[NDArray[np.void]]] = {}
        done = False
        try:
            with self._transaction() as conn:
                for gateway, frame in frames:
                    self._commit(conn, gateway, frame, fresh)
                for key, parts in fresh.items():
                    self._keep(conn, key, parts)
            done = True
        finally:
            if not done:
                self._numbering.clear()  # it may hold points that were rolled back

    def _commit(
        self,
        conn: sqlite3.Connection,
        gateway: str,
        frame: Frame,
        fresh: dict[tuple[int, int], list[NDArray[np.void]]],
    ) -> None:
        """Events, spans and gaps of a frame; its new rows are added to `fresh`."""
        number, batch = self._gateway(gateway), frame.batch
        if len(batch.records) and not self._birth_known(number, batch.birth):
            raise UnknownBirth(gateway, batch.birth)
        held = self._account(conn, number, frame)
        rows = batch.records[chunks.outside(batch.records["seq"], held)]
        if len(rows):
            rows = rows.copy()
            rows["point"] = self._points(conn, number, batch.birth, rows["point"])
            fresh.setdefault((number, batch.epoch), []).append(rows)
        numbers = np.array([event.seq for event in batch.events], dtype=np.uint64)
        new = chunks.outside(numbers, held)
        conn.executemany(
            f"INSERT OR IGNORE INTO events VALUES ({number}, {batch.epoch}, ?, ?, ?, ?)",
            [
                (e.seq, e.utc_ns, e.kind, msgpack.packb(dict(e.body)))
                for e, is_new in zip(batch.events, new.tolist(), strict=True)
                if is_new
            ],
        )

    def _points(
        self, conn: sqlite3.Connection, number: int, name: str, used: NDArray[np.uint32]
    ) -> NDArray[np.uint32]:
        """The historian's points of the indexes of a birth's table."""
        table = self._numbering.get((number, name))
        if table is None:
            if len(self._numbering) >= NUMBERINGS_MAX:
                self._numbering.clear()
            sql = "SELECT number, point FROM numbering WHERE gateway = ? AND hash = ?"
            table = dict(conn.execute(sql, (number, name)).fetchall())
            self._numbering[number, name] = table
        indexes, inverse = np.unique(used, return_inverse=True)
        # A row that points outside of its table is kept under a name that shows it: refusing it
        # would hold up everything behind it for ever.
        for index in indexes.tolist():
            if index not in table:
                about = {"tag": f"?.{index}"}
                table[index] = self._number_point(conn, number, name, index, about)
        points = np.array([table[index] for index in indexes.tolist()], dtype=np.uint32)
        found: NDArray[np.uint32] = points[inverse]
        return found

    def _keep(
        self, conn: sqlite3.Connection, key: tuple[int, int], parts: list[NDArray[np.void]]
    ) -> None:
        """New rows of one gateway and epoch, joined with the chunk before where that is small."""
        rows = np.concatenate(parts)
        rows = rows[np.argsort(rows["seq"], kind="stable")]
        for piece in chunks.pieces(rows):
            while (before := self._chunk_before(conn, key, int(piece["seq"][0]))) is not None:
                number, packed = before[0], before[1:]
                if not chunks.to_join(packed[0], len(piece)):
                    break
                piece = chunks.joined(self._unpack(*packed), piece)
                conn.execute("DELETE FROM chunks WHERE id = ?", (number,))
            self._insert_chunk(conn, key, piece)

    def _chunk_before(
        self, conn: sqlite3.Connection, key: tuple[int, int], first: int
    ) -> tuple[int, int, int | None, bytes, int] | None:
        found: tuple[int, int, int | None, bytes, int] | None = conn.execute(
            "SELECT id, rows, status, body, codec FROM chunks WHERE gateway = ? AND epoch = ?"
            " AND first < ? ORDER BY first DESC LIMIT 1",
            (*key, first),
        ).fetchone()
        return found

    def _insert_chunk(
        self, conn: sqlite3.Connection, key: tuple[int, int], rows: NDArray[np.void]
    ) -> None:
        chunk = chunks.pack(rows)
        conn.execute(
            "INSERT INTO chunks (gateway, epoch, first, last, rows, utc_min, utc_max, status, body,"
            " codec) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*key, *dataclasses.astuple(chunk)),
        )

    def _unpack(self, rows: int, status: int | None, body: bytes, codec: int) -> NDArray[np.void]:
        try:
            return chunks.unpack(rows, status, body, codec)
        except WireError as error:
            raise HistorianDamaged(f"historian {self.path}: a chunk is damaged: {error}") from error

    def _account(self, conn: sqlite3.Connection, number: int, frame: Frame) -> list[Span]:
        """Brings spans and gaps up to date; which of the frame's numbers were data before."""
        batch = frame.batch
        key = (number, batch.epoch)
        held = self._spans(*key)
        # Only the gaps that the frame touches are looked at: an outage may have left thousands.
        near = self._gaps_near(*key, (batch.first, batch.last))
        account = accounts.reckon(frame, held, near)
        conn.executemany(
            "DELETE FROM gaps WHERE gateway = ? AND epoch = ? AND first = ?",
            [(*key, gap.first) for gap in set(near) - account.gaps],
        )
        conn.executemany(
            "INSERT INTO gaps VALUES (?, ?, ?, ?, ?)",
            [(*key, gap.first, gap.last, gap.reason) for gap in account.gaps - set(near)],
        )
        if account.spans != held:
            conn.execute("DELETE FROM spans WHERE gateway = ? AND epoch = ?", key)
            conn.executemany(
                "INSERT INTO spans VALUES (?, ?, ?, ?)",
                [(*key, first, last) for first, last in account.spans],
            )
        return account.data

    # ------------------------------------------------------------ reading

    def _spans(self, number: int, epoch: int) -> list[Span]:
        return self._rows(
            "SELECT first, last FROM spans WHERE gateway = ? AND epoch = ? ORDER BY first",
            (number, epoch),
        )

    def _gaps(self, number: int, epoch: int) -> list[Gap]:
        rows = self._rows(
            "SELECT first, last, reason FROM gaps WHERE gateway = ? AND epoch = ? ORDER BY first",
            (number, epoch),
        )
        return [Gap(*row) for row in rows]

    def _gaps_near(self, number: int, epoch: int, window: Span) -> list[Gap]:
        """The gaps that share a number with the window; gaps never overlap each other."""
        of = "SELECT first, last, reason FROM gaps WHERE gateway = ? AND epoch = ?"
        before = self._rows(
            f"{of} AND first < ? ORDER BY first DESC LIMIT 1", (number, epoch, window[0])
        )
        rows = [row for row in before if (row[1] or row[0]) >= window[0]]
        rows += self._rows(f"{of} AND first BETWEEN ? AND ?", (number, epoch, *window))
        return [Gap(*row) for row in rows]

    def _number_of(self, gateway: str) -> int:
        rows = self._rows("SELECT id FROM gateways WHERE name = ?", (gateway,))
        return rows[0][0] if rows else 0

    def _birth_known(self, number: int, name: str) -> bool:
        sql = "SELECT 1 FROM births WHERE gateway = ? AND hash = ?"
        return bool(self._rows(sql, (number, name)))

    def knows_birth(self, gateway: str, name: str) -> bool:
        """True where the point table of this hash is known."""
        return self._birth_known(self._number_of(gateway), name)

    def contiguous(self, gateway: str, epoch: int) -> int:
        """The highest sequence up to which nothing is missing; 0 where nothing is held."""
        return spans.contiguous(self._spans(self._number_of(gateway), epoch))

    def gateways(self) -> list[str]:
        """The names of all gateways."""
        return [row[0] for row in self._rows("SELECT name FROM gateways ORDER BY name")]

    def query(
        self,
        tags: Sequence[str] | None = None,
        *,
        gateway: str | None = None,
        from_ns: int | None = None,
        to_ns: int | None = None,
        limit: int = 1000,
        newest_first: bool = False,
    ) -> list[Sample]:
        """Values of some or all tags, `from_ns` <= time < `to_ns`, in the order of time."""
        names = self._names(tags, gateway)
        order = "c.utc_max DESC" if newest_first else "c.utc_min"
        where, values = _conditions(
            ("g.name = ?", gateway), ("c.utc_max >= ?", from_ns), ("c.utc_min < ?", to_ns)
        )
        selection = Selection(
            np.array(sorted(names), dtype=np.uint32),
            from_ns,
            to_ns,
            max(0, min(limit, QUERY_ROWS_MAX)),
            newest_first,
        )
        sql = (
            "SELECT c.epoch, c.utc_min, c.utc_max, c.rows, c.status, c.body, c.codec FROM chunks c"
            f" JOIN gateways g ON g.id = c.gateway WHERE {where} ORDER BY {order}"
        )
        with self._errors():
            for epoch, low, high, *packed in self._conn.execute(sql, values):
                if not names or selection.is_done(low, high):
                    break
                selection.add(epoch, self._unpack(*packed))
        return [
            Sample(*names[point], epoch, seq, value, status, utc_ns)
            for point, epoch, seq, value, status, utc_ns in selection.rows()
        ]

    def _names(self, tags: Sequence[str] | None, gateway: str | None) -> dict[int, tuple[str, str]]:
        """Point -> (gateway, tag), of some tags or all."""
        where, values = _conditions(("g.name = ?", gateway))
        if tags is not None:
            where += f" AND p.tag IN ({', '.join('?' * len(tags))})"
            values += list(tags)
        rows = self._rows(
            "SELECT p.id, g.name, p.tag FROM points p JOIN gateways g ON g.id = p.gateway"
            f" WHERE {where}",
            values,
        )
        return {point: (name, tag) for point, name, tag in rows}

    def events(
        self,
        *,
        gateway: str | None = None,
        kind: str | None = None,
        limit: int = 1000,
        newest_first: bool = False,
    ) -> list[StoredEvent]:
        """Events of one kind or all, in the order of epoch and sequence."""
        where, values = _conditions(("g.name = ?", gateway), ("e.kind = ?", kind))
        order = "DESC" if newest_first else "ASC"
        rows = self._rows(
            "SELECT g.name, e.epoch, e.seq, e.utc_ns, e.kind, e.body FROM events e"
            f" JOIN gateways g ON g.id = e.gateway WHERE {where}"
            f" ORDER BY e.epoch {order}, e.seq {order} LIMIT ?",
            (*values, max(0, min(limit, QUERY_ROWS_MAX))),
        )
        return [
            StoredEvent(name, epoch, seq, utc_ns, what, msgpack.unpackb(body))
            for name, epoch, seq, utc_ns, what, body in rows
        ]

    def audit(self, gateway: str) -> AuditReport:
        """Counts what is held of a gateway, and what is missing, from the rows themselves."""
        number = self._number_of(gateway)
        epochs = self._rows(
            "SELECT DISTINCT epoch FROM spans WHERE gateway = ? ORDER BY epoch", (number,)
        )
        return AuditReport(gateway, tuple(self._audit(number, epoch) for (epoch,) in epochs))

    def _audit(self, number: int, epoch: int) -> EpochAudit:
        key = (number, epoch)
        chunk = "SELECT rows, status, body, codec FROM chunks WHERE gateway = ? AND epoch = ?"
        rows, pieces = 0, []
        with self._errors():
            for packed in self._conn.execute(chunk, key):
                pieces += chunks.islands(self._unpack(*packed)["seq"])
                rows += packed[0]
        events = self._rows(
            "SELECT seq FROM events WHERE gateway = ? AND epoch = ? ORDER BY seq", key
        )
        pieces += chunks.islands(np.array([seq for (seq,) in events], dtype=np.uint64))
        gaps = self._gaps(number, epoch)
        pieces += [accounts.span(gap) for gap in gaps]
        last = max((high for _, high in pieces), default=0)
        total = sum(high - low + 1 for low, high in pieces)
        merged = spans.union(pieces)
        return EpochAudit(
            epoch=epoch,
            first=merged[0][0] if merged else 0,
            last=last,
            rows=rows,
            events=len(events),
            contiguous=spans.contiguous(self._spans(number, epoch)),
            duplicates=total - sum(high - low + 1 for low, high in merged),
            missing=tuple(spans.subtract([(1, last)], merged)) if last else (),
            gaps=tuple(gaps),
        )


def _conditions(*terms: tuple[str, Any]) -> tuple[str, list[Any]]:
    used = [(sql, value) for sql, value in terms if value is not None]
    return " AND ".join(["1", *(sql for sql, _ in used)]), [value for _, value in used]
