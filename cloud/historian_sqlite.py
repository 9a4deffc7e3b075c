"""A historian in one SQLite file: for a site, a demonstration, a test."""

from __future__ import annotations

import bisect
import contextlib
import math
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgpack

from cloud import spans
from cloud.historian import (
    QUERY_ROWS_MAX,
    REASON_BELOW_BASE,
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
from cloud.spans import Span
from gateway.core.records import Birth, Gap
from sync.wire import Frame, encode_birth

SCHEMA_VERSION: Final = 1
BUSY_TIMEOUT_S: Final = 1.0

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
CREATE TABLE IF NOT EXISTS samples (
    gateway INTEGER NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL,
    point INTEGER NOT NULL, value REAL, status INTEGER NOT NULL, utc_ns INTEGER NOT NULL,
    PRIMARY KEY (gateway, epoch, seq)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS samples_by_time ON samples (point, utc_ns);
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

    It belongs to one thread at a time. Other processes may read the file meanwhile.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Opens the file or makes it. Raises HistorianError."""
        self.path = path
        with self._errors():
            if read_only:
                uri = f"{path.absolute().as_uri()}?mode=ro"
                self._conn = sqlite3.connect(
                    uri, uri=True, timeout=BUSY_TIMEOUT_S, check_same_thread=False
                )
            else:
                self._conn = sqlite3.connect(
                    path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
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
            return
        self._conn.execute("PRAGMA journal_mode=WAL")
        self._conn.execute("PRAGMA synchronous=FULL")
        if version < SCHEMA_VERSION:
            self._conn.executescript(_SCHEMA)
            self._conn.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

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
        row = self._conn.execute("SELECT id FROM gateways WHERE name = ?", (gateway,)).fetchone()
        return row[0]

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
        with self._transaction() as conn:
            for gateway, frame in frames:
                self._commit(conn, gateway, frame)

    def _commit(self, conn: sqlite3.Connection, gateway: str, frame: Frame) -> None:
        number = self._gateway(gateway)
        batch = frame.batch
        rows = batch.records
        if len(rows):
            points = self._points(conn, gateway, number, batch.birth, set(rows["point"].tolist()))
            conn.executemany(
                f"INSERT OR IGNORE INTO samples VALUES ({number}, {batch.epoch}, ?, ?, ?, ?, ?)",
                zip(
                    rows["seq"].tolist(),
                    [points[index] for index in rows["point"].tolist()],
                    rows["value"].tolist(),
                    rows["status"].tolist(),
                    rows["utc_ns"].tolist(),
                    strict=True,
                ),
            )
        conn.executemany(
            f"INSERT OR IGNORE INTO events VALUES ({number}, {batch.epoch}, ?, ?, ?, ?)",
            [(e.seq, e.utc_ns, e.kind, msgpack.packb(dict(e.body))) for e in batch.events],
        )
        self._account(conn, number, frame)

    def _points(
        self, conn: sqlite3.Connection, gateway: str, number: int, name: str, used: set[int]
    ) -> dict[int, int]:
        found = dict(
            conn.execute(
                "SELECT number, point FROM numbering WHERE gateway = ? AND hash = ?", (number, name)
            ).fetchall()
        )
        if not found and not self._birth_known(number, name):
            raise UnknownBirth(gateway, name)
        # A row that points outside of its table is kept under a name that shows it: refusing it
        # would hold up everything behind it for ever.
        for index in used - found.keys():
            found[index] = self._number_point(conn, number, name, index, {"tag": f"?.{index}"})
        return found

    def _account(self, conn: sqlite3.Connection, number: int, frame: Frame) -> None:
        """Brings spans and gaps up to date after the rows and events of a frame were written."""
        batch = frame.batch
        key = (number, batch.epoch)
        window = (batch.first, batch.last)
        held = self._spans(*key)
        below = [(1, frame.base - 1)] if frame.base > 1 else []
        missing = spans.subtract(below, [*held, window])
        # Only the gaps that the frame touches are looked at: an outage may have left thousands.
        near = self._gaps_near(*key, window)
        taken = [_span(gap) for gap in near]
        came = spans.subtract([window], [_span(gap) for gap in batch.gaps])
        inside = [(max(low, batch.first), min(high, batch.last)) for low, high in held]
        data = spans.subtract([pair for pair in inside if pair[0] <= pair[1]], taken)
        # Data holds against a gap, and the gap that was declared first against a later one.
        kept = {*_less(near, came), *_less(batch.gaps, [*data, *taken])}
        kept |= {Gap(first, last, REASON_BELOW_BASE) for first, last in missing}
        conn.executemany(
            "DELETE FROM gaps WHERE gateway = ? AND epoch = ? AND first = ?",
            [(*key, gap.first) for gap in set(near) - kept],
        )
        conn.executemany(
            "INSERT INTO gaps VALUES (?, ?, ?, ?, ?)",
            [(*key, gap.first, gap.last, gap.reason) for gap in kept - set(near)],
        )
        now = spans.union([*held, window, *missing])
        if now != held:
            conn.execute("DELETE FROM spans WHERE gateway = ? AND epoch = ?", key)
            conn.executemany(
                "INSERT INTO spans VALUES (?, ?, ?, ?)",
                [(*key, first, last) for first, last in now],
            )

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
        where, values = _conditions(
            ("g.name = ?", gateway), ("s.utc_ns >= ?", from_ns), ("s.utc_ns < ?", to_ns)
        )
        if tags is not None:
            where += f" AND p.tag IN ({', '.join('?' * len(tags))})"
            values += list(tags)
        order = "DESC" if newest_first else "ASC"
        rows = self._rows(
            "SELECT g.name, p.tag, s.epoch, s.seq, s.value, s.status, s.utc_ns FROM points p"
            " JOIN samples s ON s.point = p.id JOIN gateways g ON g.id = p.gateway"
            f" WHERE {where} ORDER BY s.utc_ns {order}, s.epoch {order}, s.seq {order} LIMIT ?",
            (*values, max(0, min(limit, QUERY_ROWS_MAX))),
        )
        return [
            # SQLite keeps NaN as NULL.
            Sample(name, tag, epoch, seq, math.nan if value is None else value, status, utc_ns)
            for name, tag, epoch, seq, value, status, utc_ns in rows
        ]

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
        # Islands: in a run of consecutive numbers, number minus rank is constant.
        island = (
            "SELECT min(seq), max(seq), count(*) FROM (SELECT seq, seq - row_number() OVER"
            " (ORDER BY seq) AS island FROM {} WHERE gateway = ? AND epoch = ?) GROUP BY island"
        )
        samples = self._rows(island.format("samples"), key)
        events = self._rows(island.format("events"), key)
        gaps = self._gaps(number, epoch)
        pieces = [(low, high) for low, high, _ in (*samples, *events)]
        pieces += [_span(gap) for gap in gaps]
        last = max((high for _, high in pieces), default=0)
        total = sum(high - low + 1 for low, high in pieces)
        merged = spans.union(pieces)
        return EpochAudit(
            epoch=epoch,
            first=merged[0][0] if merged else 0,
            last=last,
            rows=sum(row[2] for row in samples),
            events=sum(row[2] for row in events),
            contiguous=spans.contiguous(self._spans(number, epoch)),
            duplicates=total - sum(high - low + 1 for low, high in merged),
            missing=tuple(spans.subtract([(1, last)], merged)) if last else (),
            gaps=tuple(gaps),
        )


def _span(gap: Gap) -> Span:
    """The numbers of a gap; one whose end is unknown has its first only."""
    return gap.first, gap.last or gap.first


def _less(gaps: Iterable[Gap], taken: Iterable[Span]) -> list[Gap]:
    """The gaps less what is taken."""
    cuts = spans.union(taken)
    kept: list[Gap] = []
    for gap in gaps:
        first, last = _span(gap)
        low = bisect.bisect_left(cuts, first, key=lambda cut: cut[1])
        high = bisect.bisect_right(cuts, last, key=lambda cut: cut[0])
        for begin, end in spans.subtract([(first, last)], cuts[low:high]):
            kept.append(Gap(begin, end if gap.last else 0, gap.reason))
    return kept


def _conditions(*terms: tuple[str, Any]) -> tuple[str, list[Any]]:
    used = [(sql, value) for sql, value in terms if value is not None]
    return " AND ".join(["1", *(sql for sql, _ in used)]), [value for _, value in used]
