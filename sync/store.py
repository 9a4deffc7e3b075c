"""The store of frames: what the link process holds until the historian has it.

One SQLite file in WAL mode with `synchronous=FULL`: an `append` that returned survives a power
cut. The API blocks and belongs to one thread; `sync.async_store` wraps it for asyncio. Numbers
and sizes of frames stand apart from their bodies, so that counting a backlog of gigabytes reads
megabytes, and a commit touches few pages (flash wear).
"""

from __future__ import annotations

import contextlib
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from gateway.core.records import Batch, Gap
from sync import gaps, wire
from sync.database import Database
from sync.errors import StoreDamaged, StoreError, StoreFull
from sync.salvage import SalvageReport, move_aside, park, read_damaged, unpark

FRAME_OVERHEAD_BYTES: Final = 128  # row headers, keys and page slack that a frame costs on disk
CURSORS_MAX: Final = 64  # epochs whose end is remembered
PENDING_MAX: Final = 1000
DELETE_FRAMES_MAX: Final = 256  # of one transaction: bounds what the WAL must take at once

REASON_HOLE: Final = "hole in local stream"
REASON_QUOTA: Final = "store over its quota"
REASON_DAMAGED: Final = "damaged in the store"
REASON_BIRTH: Final = "its point table is lost"


@dataclass(frozen=True, slots=True)
class StoredFrame:
    """A frame as it stands in the store; `payload` is ready to be published.

    `records` counts rows and events. `base` is the lowest sequence of the epoch in the store.
    """

    id: int
    epoch: int
    first: int
    last: int
    records: int
    birth: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Backlog:
    """What is stored and not acknowledged; `oldest_utc_ns` is 0 where nothing is."""

    frames: int
    records: int
    bytes: int
    oldest_utc_ns: int


class Store:
    """Frames, births and the cursor of the local stream in one file."""

    def __init__(self, path: Path, *, quota_bytes: int) -> None:
        """Opens the file or makes it. Raises StoreError.

        A damaged file is moved aside and salvaged; `salvaged` then says what was found.
        """
        self.path = path
        self.quota_bytes = quota_bytes
        self.salvaged: SalvageReport | None = None
        self._low: dict[int, int] = {}  # epoch -> no frame of it has a smaller id
        self._plain = 0  # no frame up to this id can be dropped whole
        self._mixed = 0  # no frame below this id has rows beside its events
        self._totals: tuple[int, int, int] | None = None  # frames, records, bytes
        self._given = 0  # the highest id that this object has given
        self._file = Database(path)
        ready = False
        try:
            self._open()
            ready = True
        finally:
            if not ready:
                self._file.close()

    # ------------------------------------------------------------ opening and closing

    def _open(self) -> None:
        try:
            unpark(self.path)
            self._file.open()
            self._look()
        except StoreDamaged as error:
            self.salvaged = self._salvage(str(error))

    def _look(self) -> None:
        self._totals = None
        self._plain = self._mixed = 0
        self._given = max(self._given, self.newest)
        self._low = dict(self._rows("SELECT epoch, min(id) FROM frames GROUP BY epoch"))
        self._count()

    def close(self) -> None:
        """Ends the session; everything is on disk already. May be called twice."""
        self._file.close()

    def recover(self) -> SalvageReport:
        """After StoreDamaged: move the file aside, salvage what can be read, open anew."""
        self.salvaged = self._salvage("damaged while in use")
        return self.salvaged

    def _salvage(self, problem: str) -> SalvageReport:
        self._file.disconnect()
        unpark(self.path)  # where the last try failed
        parked = park(self.path)
        ready = False
        try:
            self._file.open()
            self._file.release_reserve()  # what can be read shall be read on a full disk, too
            self._look()
            found = read_damaged(parked)
            with self._transaction() as conn:
                # An id that a caller holds still must not be that of another frame.
                conn.execute("INSERT INTO sqlite_sequence VALUES ('frames', ?)", (self._given,))
                for name, data in found.births.items():
                    conn.execute("INSERT OR IGNORE INTO births VALUES (NULL, ?, ?)", (name, data))
            ready = True
        finally:
            if not ready:
                self._file.disconnect()
                unpark(self.path)
        # Until the end the damaged file is the safe one, so not every frame needs a flush.
        self._rows("PRAGMA synchronous=NORMAL")
        adopted, lost, complete = self._adopt(found.bodies(), found.cursors)
        self._rows("PRAGMA synchronous=FULL")
        with contextlib.suppress(StoreError):
            self._file.checkpoint()
        moved = move_aside(self.path, parked)
        self._file.keep_reserve()
        return SalvageReport(
            moved, problem, adopted[0], adopted[1], len(found.births), tuple(lost), complete
        )

    def _adopt(
        self, batches: Iterator[Batch], cursors: Sequence[tuple[int, int]]
    ) -> tuple[tuple[int, int], list[tuple[int, int, int]], bool]:
        """Takes over salvaged batches; returns (frames, records), lost ranges, complete."""
        frames = records = 0
        lost: list[tuple[int, int, int]] = []
        ends: dict[int, int] = {}
        try:
            for batch in batches:
                end = ends.get(batch.epoch)
                if end is not None and batch.first > end + 1:
                    lost.append((batch.epoch, end + 1, batch.first - 1))
                    self.append(
                        gaps.gap_batch(batch.epoch, end + 1, batch.first - 1, REASON_DAMAGED)
                    )
                self.append(batch)
                ends[batch.epoch] = max(batch.last, end or 0)
                frames += 1
                records += len(batch.records) + len(batch.events)
            for epoch, seq in cursors:
                end = ends.get(epoch)
                if end is not None and seq > end:
                    lost.append((epoch, end + 1, seq))
                    self.append(gaps.gap_batch(epoch, end + 1, seq, REASON_DAMAGED))
                elif end is None:
                    with self._transaction() as conn:
                        self._set_cursor(conn, epoch, seq)
            with self._transaction() as conn:
                for epoch, _ in cursors:  # which epoch came last counts, not which has frames
                    conn.execute(
                        "UPDATE cursors SET turn = (SELECT max(turn) + 1 FROM cursors)"
                        " WHERE epoch = ?",
                        (epoch,),
                    )
        except StoreError:
            return (frames, records), lost, False
        return (frames, records), lost, True

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        done = False
        try:
            with self._file.transaction() as conn:
                yield conn
            done = True
        finally:
            if not done:
                self._totals = None  # what was counted inside has been rolled back
                self._plain = self._mixed = 0

    def _rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        return self._file.rows(sql, parameters)

    # ------------------------------------------------------------ appending

    def append(self, batch: Batch) -> int:
        """Stores a batch and moves the cursor in one transaction; returns the newest id.

        Numbers at or below the epoch's cursor are skipped, so appending twice changes nothing. A
        hole between cursor and batch becomes a gap. Raises StoreError, and WireError for a batch
        that is none; then nothing is stored.
        """
        end = self._cursor_of(batch.epoch)
        if end is not None and batch.last <= end:
            return self.newest
        if end is not None and batch.first <= end:
            batch = gaps.split_batch(batch, end + 1)[1]
        elif end is not None and batch.first > end + 1:
            hole = Gap(end + 1, batch.first - 1, REASON_HOLE)
            batch = replace(batch, first=end + 1, gaps=(hole, *batch.gaps))
        parts = list(gaps.bodies(batch))
        with self._transaction() as conn:
            for part, body in parts:
                self._insert(conn, part, body)
            self._set_cursor(conn, batch.epoch, batch.last)
            self._keep_quota(conn)
        return self.newest

    def _insert(self, conn: sqlite3.Connection, batch: Batch, body: bytes) -> None:
        if len(batch.records):
            oldest_ns = int(batch.records["utc_ns"].min())
        else:
            oldest_ns = min((e.utc_ns for e in batch.events), default=0)
        records = len(batch.records) + len(batch.events)
        size = len(body) + FRAME_OVERHEAD_BYTES
        frames, total, size_total = self._count()
        new = conn.execute(
            "INSERT INTO frames (epoch, first, last, records, events, birth, utc_ns, bytes)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                batch.epoch,
                batch.first,
                batch.last,
                records,
                len(batch.events),
                batch.birth,
                oldest_ns,
                size,
            ),
        ).lastrowid
        assert new is not None
        conn.execute("INSERT INTO bodies VALUES (?, ?, ?)", (new, zlib.crc32(body), body))
        self._low.setdefault(batch.epoch, new)
        self._given = max(self._given, new)
        self._totals = (frames + 1, total + records, size_total + size)

    def _set_cursor(self, conn: sqlite3.Connection, epoch: int, seq: int) -> None:
        if conn.execute("UPDATE cursors SET seq = ? WHERE epoch = ?", (seq, epoch)).rowcount:
            return
        conn.execute(
            "INSERT INTO cursors SELECT ?, ?, coalesce(max(turn), 0) + 1 FROM cursors", (epoch, seq)
        )
        conn.execute(
            "DELETE FROM cursors WHERE turn <= (SELECT max(turn) FROM cursors) - ?"
            " AND epoch NOT IN (SELECT epoch FROM frames)",
            (CURSORS_MAX,),
        )

    def _cursor_of(self, epoch: int) -> int | None:
        rows = self._rows("SELECT seq FROM cursors WHERE epoch = ?", (epoch,))
        return rows[0][0] if rows else None

    def cursor(self) -> tuple[int, int] | None:
        """Epoch and sequence of what was appended last; None in a new store."""
        rows = self._rows("SELECT epoch, seq FROM cursors ORDER BY turn DESC LIMIT 1")
        return (rows[0][0], rows[0][1]) if rows else None

    # ------------------------------------------------------------ births

    def put_birth(self, name: str, body: bytes) -> None:
        """Keeps a birth under its hash; the last one put is the current one."""
        with self._transaction() as conn:
            conn.execute("DELETE FROM births WHERE hash = ?", (name,))
            conn.execute("INSERT INTO births VALUES (NULL, ?, ?)", (name, body))
            self._drop_births(conn)

    def birth(self, name: str) -> bytes | None:
        """The birth of a hash, or None where it isn't known."""
        rows = self._rows("SELECT body FROM births WHERE hash = ?", (name,))
        return rows[0][0] if rows else None

    @property
    def current_birth(self) -> str | None:
        """Hash of the birth that was put last."""
        rows = self._rows("SELECT hash FROM births ORDER BY turn DESC LIMIT 1")
        return rows[0][0] if rows else None

    def _drop_births(self, conn: sqlite3.Connection) -> None:
        if conn.execute("SELECT count(*) FROM births").fetchone()[0] > 1:
            conn.execute(
                "DELETE FROM births WHERE turn < (SELECT max(turn) FROM births)"
                " AND hash NOT IN (SELECT birth FROM frames)"
            )

    def declare_birth_lost(self, name: str) -> int:
        """Turns the rows that need a birth nobody has into gaps; returns how many rows.

        Without it these frames would wait for ever, and everything behind them too. Events stay.
        """
        rows = self._rows("SELECT id FROM frames WHERE birth = ?", (name,))
        before = self._count()[1]
        with self._transaction() as conn:
            for (number,) in rows:
                self._thin(conn, number, REASON_BIRTH)
        return before - self._count()[1]

    # ------------------------------------------------------------ sending

    @property
    def newest(self) -> int:
        """The id of the newest frame, deleted ones included; 0 in a new store."""
        rows = self._rows("SELECT seq FROM sqlite_sequence WHERE name = 'frames'")
        return rows[0][0] if rows else 0

    def pending(self, after_id: int, limit: int) -> list[StoredFrame]:
        """Up to `limit` frames behind `after_id`, oldest first, ready to be published.

        A body whose bytes have changed on the disk becomes a declared gap.
        """
        rows = self._rows(
            "SELECT f.id, f.epoch, f.first, f.last, f.records, f.birth, b.crc, b.body"
            " FROM frames f LEFT JOIN bodies b ON b.id = f.id WHERE f.id > ? ORDER BY f.id LIMIT ?",
            (after_id, min(limit, PENDING_MAX)),
        )
        damaged = [row[0] for row in rows if row[7] is None or zlib.crc32(row[7]) != row[6]]
        if damaged:
            with self._transaction() as conn:
                for number in damaged:
                    self._blank(conn, number)
            return self.pending(after_id, limit)
        bases = {epoch: self._base(epoch) for epoch in {row[1] for row in rows}}
        return [
            StoredFrame(
                number, epoch, first, last, records, birth, wire.wrap_body(body, base=bases[epoch])
            )
            for number, epoch, first, last, records, birth, _, body in rows
        ]

    def _base(self, epoch: int) -> int:
        rows = self._rows(
            "SELECT first FROM frames WHERE id >= ? AND epoch = ? ORDER BY id LIMIT 1",
            (self._low.get(epoch, 0), epoch),
        )
        return rows[0][0]

    def acknowledge(self, epoch: int, seq: int) -> int:
        """Deletes the frames of an epoch that end at or below `seq`; returns their records.

        Frames of other epochs stay: each epoch is acknowledged by itself.
        """
        rows = []
        low = self._low.get(epoch)
        if low is None:
            return 0
        for row in self._rows_until(epoch, low, seq):
            rows.append(row[0])
            low = row[0] + 1
        return self.discard(rows, lows={epoch: low})

    def _rows_until(self, epoch: int, low: int, seq: int) -> Iterator[tuple[int, int]]:
        while True:
            rows = self._rows(
                "SELECT id, last FROM frames WHERE id >= ? AND epoch = ? ORDER BY id LIMIT 256",
                (low, epoch),
            )
            for number, last in rows:
                if last > seq:
                    return
                yield number, last
            if len(rows) < 256:
                return
            low = rows[-1][0] + 1

    def discard(self, ids: Sequence[int], *, lows: dict[int, int] | None = None) -> int:
        """Deletes frames by id; returns their records. For sites without our ingest."""
        gone = 0
        for at in range(0, len(ids), DELETE_FRAMES_MAX):
            part = ids[at : at + DELETE_FRAMES_MAX]
            try:
                gone += self._delete(part)
            except StoreFull:
                self._file.release_reserve()
                gone += self._delete(part)
                self._file.checkpoint()
        if ids:
            self._low.update(lows or {})
            self._file.keep_reserve()
        return gone

    def _delete(self, ids: Sequence[int]) -> int:
        gone = 0
        births = set()
        with self._transaction() as conn:
            for number in ids:
                records, birth = self._forget(conn, number)
                gone += records
                births.add(birth)
            # The search for a birth's last frame goes through the whole backlog. It is spared
            # while the oldest frame needs that birth, and for the one in force.
            oldest = conn.execute("SELECT birth FROM frames ORDER BY id LIMIT 1").fetchone()
            if births - {"", self.current_birth, oldest and oldest[0]}:
                self._drop_births(conn)
        return gone

    def backlog(self) -> Backlog:
        """What is stored and not acknowledged."""
        frames, records, size = self._count()
        oldest = self._rows("SELECT utc_ns FROM frames ORDER BY id LIMIT 1")
        return Backlog(frames, records, size, oldest[0][0] if oldest else 0)

    def _count(self) -> tuple[int, int, int]:
        if self._totals is None:
            row = self._rows("SELECT count(*), sum(records), sum(bytes) FROM frames")[0]
            self._totals = (row[0], row[1] or 0, row[2] or 0)
        return self._totals

    # ------------------------------------------------------------ quota

    def _keep_quota(self, conn: sqlite3.Connection) -> None:
        """Thins frames, the oldest first, until the quota is kept.

        Frames without events go before rows beside events; events stay, whatever the quota.
        """
        while self._count()[2] > self.quota_bytes:
            row = conn.execute(
                "SELECT id FROM frames WHERE id > ? AND events = 0 AND records > 0"
                " ORDER BY id LIMIT 1",
                (self._plain,),
            ).fetchone()
            self._plain = row[0] if row is not None else self.newest
            if row is None:
                row = conn.execute(
                    "SELECT id FROM frames WHERE id >= ? AND records > events ORDER BY id LIMIT 1",
                    (self._mixed,),
                ).fetchone()
                self._mixed = row[0] if row is not None else self.newest + 1
            if row is None:
                return
            self._thin(conn, row[0], REASON_QUOTA)

    def _thin(self, conn: sqlite3.Connection, number: int, reason: str) -> None:
        """Turns the rows of a frame into gaps; a gap beside another one joins it."""
        stored = conn.execute("SELECT crc, body FROM bodies WHERE id = ?", (number,)).fetchone()
        if stored is None or zlib.crc32(stored[1]) != stored[0]:
            self._blank(conn, number)
            return
        self._replace(conn, number, gaps.without_rows(wire.decode_body(stored[1]), reason))

    def _blank(self, conn: sqlite3.Connection, number: int) -> None:
        epoch, first, last = conn.execute(
            "SELECT epoch, first, last FROM frames WHERE id = ?", (number,)
        ).fetchone()
        self._replace(conn, number, gaps.gap_batch(epoch, first, last, REASON_DAMAGED))

    def _replace(self, conn: sqlite3.Connection, number: int, batch: Batch) -> None:
        """Writes `batch` in the place of a frame that spanned the same numbers."""
        before = conn.execute(
            "SELECT id, events FROM frames WHERE epoch = ? AND last = ? AND id < ? AND id >= ?"
            " AND records = 0 ORDER BY id DESC LIMIT 1",
            (batch.epoch, batch.first - 1, number, max(self._low.get(batch.epoch, 0), number - 64)),
        ).fetchone()
        if before is not None and not batch.events:
            stored = conn.execute("SELECT body FROM bodies WHERE id = ?", (before[0],)).fetchone()
            joined = gaps.join(wire.decode_body(stored[0]), batch) if stored else None
            if joined is not None:
                self._forget(conn, number)
                number, batch = before[0], joined
        body = wire.encode_body(batch)
        frames, records, size = self._count()
        was = conn.execute("SELECT records, bytes FROM frames WHERE id = ?", (number,)).fetchone()
        now = (len(batch.records) + len(batch.events), len(body) + FRAME_OVERHEAD_BYTES)
        conn.execute(
            "UPDATE frames SET first = ?, last = ?, records = ?, events = ?, bytes = ?, birth = ?"
            " WHERE id = ?",
            (batch.first, batch.last, now[0], len(batch.events), now[1], batch.birth, number),
        )
        conn.execute(
            "INSERT OR REPLACE INTO bodies VALUES (?, ?, ?)", (number, zlib.crc32(body), body)
        )
        self._totals = (frames, records - was[0] + now[0], size - was[1] + now[1])

    def _forget(self, conn: sqlite3.Connection, number: int) -> tuple[int, str]:
        """Deletes a frame; returns its records and its birth, or (0, "") where it is gone."""
        frames, records, size = self._count()
        was = conn.execute(
            "SELECT records, bytes, birth FROM frames WHERE id = ?", (number,)
        ).fetchone()
        if was is None:
            return 0, ""
        conn.execute("DELETE FROM frames WHERE id = ?", (number,))
        conn.execute("DELETE FROM bodies WHERE id = ?", (number,))
        self._totals = (frames - 1, records - was[0], size - was[1])
        return was[0], was[2]
