"""The table of frames: what stands in it, what each link still needs of it, and what goes.

Every change is one transaction, and what is known in memory follows it. Frames that no link needs
any more are deleted together with the next append, so that an acknowledgement costs no write of
its own; after a crash they are sent once more.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Final

from gateway.core.records import Batch
from sync.errors import StoreFull
from sync.store.database import ID_BITS, Database
from sync.store.links import HISTORY, Ranges, common
from sync.store.rows import Row, Totals
from sync.store.thin import GONE

DELETE_FRAMES_MAX: Final = 64  # let go, but not deleted yet; also of one transaction
CURSORS_MAX: Final = 64  # epochs without frames whose end is remembered
EPOCHS_MAX: Final = 1000  # in memory

_VERSION: Final = (1 << ID_BITS) - 1  # of an id: how often frames at its place became one

log = logging.getLogger(__name__)


_ROW: Final = (
    "id, epoch, first, last, records, events, level, birth, oldest_ns, newest_ns, length(body)"
)


_SUMS: Final = "count(*), coalesce(sum(records), 0), coalesce(sum(length(body)), 0)"


def _ids(first: int, last: int) -> tuple[int, int]:
    """The ids that frames at some places may have."""
    return first << ID_BITS, last << ID_BITS | _VERSION


def last_id(number: int) -> int:
    """The highest id that the frame at the place of this one may ever have."""
    return number | _VERSION


class Change:
    """A transaction under way: which rows went, and which came."""

    def __init__(self, conn: sqlite3.Connection) -> None:
        self.conn = conn
        self.removed: list[Row] = []
        self.added: list[Row] = []

    def delete(self, rows: Iterable[Row]) -> None:
        """Takes frames out."""
        for row in rows:
            self.conn.execute("DELETE FROM frames WHERE id = ?", (row.id,))
            self.removed.append(row)

    def insert(self, number: int, batch: Batch, body: bytes, level: int) -> None:
        """Puts a frame in. `level` says how far it is thinned out."""
        times = batch.records["utc_ns"]
        if len(times):
            oldest_ns, newest_ns = int(times.min()), int(times.max())
        else:
            oldest_ns = newest_ns = min((e.utc_ns for e in batch.events), default=0)
        events = len(batch.events)
        row = Row(
            number,
            batch.epoch,
            batch.first,
            batch.last,
            len(times) + events,
            events,
            level,
            batch.birth,
            oldest_ns,
            newest_ns,
            len(body),
        )
        self.conn.execute(
            "INSERT INTO frames VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*row[:-1], zlib.crc32(body), body),
        )
        self.added.append(row)


class FrameTable:
    """Frames by their ids, which rise in the order in which they were appended."""

    def __init__(self, file: Database, links: Sequence[str]) -> None:
        self._file = file
        self.links = tuple(dict.fromkeys(links))
        self.outward = tuple(name for name in self.links if name != HISTORY)
        self.given = 0  # the highest id that was ever given here
        self.totals = Totals()  # of what any link needs, or the history
        self._kept_back = Totals()  # of that, what the history alone needs
        self.thinnable = [0] * GONE  # bytes by level of what could be thinned out
        self.ends: dict[int, int] = {}  # epoch -> its last number
        self._done = {name: Ranges() for name in self.links}
        self._done_totals = {name: Totals() for name in self.links}
        self._kept: dict[str, list[tuple[int, int]]] = {}  # `_done` as it stands in the file
        self._unkept = 0  # frames let go since then
        self._low: dict[tuple[str, int], int] = {}  # a link needs none of an epoch below this id
        self._gone: dict[int, Row] = {}  # needed by nobody, still in the file

    def look(self) -> None:
        """Begins with what the file holds. Raises StoreError."""
        self.given = max(self.given, self.newest)
        self.totals, self.thinnable = Totals(), [0] * GONE
        self._kept_back = Totals()
        self._gone.clear()
        self._unkept = 0
        self.ends = dict(self._file.rows("SELECT epoch, seq FROM cursors ORDER BY turn"))
        self._low.clear()
        found = self._file.rows("SELECT epoch, min(id), max(last) FROM frames GROUP BY epoch")
        for epoch, low, last in found:
            self.ends[epoch] = max(last, self.ends.get(epoch, 0))
            self._low.update({(name, epoch): low for name in self.links})
        self._look_at_links()
        # Counted in the file, which reads the leading columns only and holds no row in memory.
        for level, *counts in self._file.rows(f"SELECT level, {_SUMS} FROM frames GROUP BY level"):
            self.totals.sum(counts)
            if level < GONE:
                self.thinnable[level] += counts[2]
        for name, done in self._done.items():
            for first, last in done.pairs():
                self._done_totals[name].sum(self._sums(first, last))
        for first, last in common(self._done.values()):
            for row in self._select("id BETWEEN ? AND ?", *_ids(first, last)):
                self.totals.add(row, -1)
                if row.level < GONE:
                    self.thinnable[row.level] -= row.size
                for totals in self._done_totals.values():
                    totals.add(row, -1)
                self._gone[row.id] = row
        for first, last in self._only_kept():
            self._kept_back.sum(self._sums(first, last))

    def _sums(self, first: int, last: int) -> list[int]:
        sql = f"SELECT {_SUMS} FROM frames WHERE id BETWEEN ? AND ?"
        return list(self._file.rows(sql, _ids(first, last))[0])

    def _look_at_links(self) -> None:
        known: dict[str, list[tuple[int, int]]] = {}
        for name, first, last in self._file.rows("SELECT name, first, last FROM links"):
            known.setdefault(name, [])
            if last:
                known[name].append((first, last))
        gone = sorted(known.keys() - set(self.links))
        for name in gone:
            what = "the history" if name == HISTORY else f"the link {name}"
            log.warning("store: %s is configured no longer and lets go of all", what)
        self._done = {name: Ranges(known.get(name, ())) for name in self.links}
        self._done_totals = {name: Totals() for name in self.links}
        self._kept = {name: done.pairs() for name, done in self._done.items()}
        if gone or set(self.links) - known.keys():
            with self._file.transaction() as conn:
                conn.executemany("DELETE FROM links WHERE name = ?", [(name,) for name in gone])
                conn.executemany(
                    "INSERT OR IGNORE INTO links VALUES (?, 0, 0)", [(n,) for n in self.links]
                )

    # ------------------------------------------------------------ counting

    def _count(self, row: Row, sign: int) -> None:
        """Counts a frame in or out, by who needs it."""
        done = [name for name in self.links if row.place in self._done[name]]
        if len(done) == len(self.links):
            if sign > 0:
                self._gone[row.id] = row
            else:
                self._gone.pop(row.id, None)
            return
        self.totals.add(row, sign)
        if set(done).issuperset(self.outward):
            self._kept_back.add(row, sign)
        if row.level < GONE:
            self.thinnable[row.level] += sign * row.size
        for name in done:
            self._done_totals[name].add(row, sign)

    def left(self, link: str | None) -> tuple[int, int, int]:
        """Frames, records and bytes that a link needs; None: that any link but the history does."""
        all_ = self.totals
        done = self._kept_back if link is None else self._done_totals[link]
        return all_.frames - done.frames, all_.records - done.records, all_.bytes - done.bytes

    @property
    def newest(self) -> int:
        """The id of the newest frame, which always stays in the file; 0 in a new store."""
        return self._file.rows("SELECT max(id) FROM frames")[0][0] or 0

    # ------------------------------------------------------------ changing

    @contextlib.contextmanager
    def change(self) -> Iterator[Change]:
        """One transaction; the counts follow once it is committed."""
        with self._file.transaction() as conn:
            change = Change(conn)
            yield change
        for row in change.removed:
            self._count(row, -1)
        for row in change.added:
            self.given = max(self.given, row.id)
            self.ends[row.epoch] = max(row.last, self.ends.get(row.epoch, 0))
            self._came(row)

    def append(self, parts: Sequence[tuple[Batch, bytes]]) -> list[Row]:
        """Stores batches as new frames, deletes what nobody needs; one transaction."""
        epoch = parts[0][0].epoch
        if epoch not in self.ends and len(self.ends) >= EPOCHS_MAX:
            self.look()  # which forgets what the file has forgotten
        kept = self._done_pairs()
        with self.change() as change:
            self._sweep(change, epoch)
            if epoch not in self.ends:
                self._begin_epoch(change.conn, epoch)
            for at, (batch, body) in enumerate(parts, 1):
                number = ((self.given >> ID_BITS) + at) << ID_BITS
                change.insert(number, batch, body, 0 if len(batch.records) else GONE)
            self._keep_links(change.conn, kept)
        self._kept, self._unkept = kept, 0
        return change.added

    def _begin_epoch(self, conn: sqlite3.Connection, epoch: int) -> None:
        conn.execute(
            "INSERT OR IGNORE INTO cursors SELECT ?, 0, coalesce(max(turn), 0) + 1 FROM cursors",
            (epoch,),
        )
        conn.execute(
            "DELETE FROM cursors WHERE turn <= (SELECT max(turn) FROM cursors) - ?"
            " AND epoch NOT IN (SELECT epoch FROM frames)",
            (CURSORS_MAX,),
        )

    def set_cursor(self, epoch: int, seq: int) -> None:
        """Notes the end of an epoch that has no frames, as the newest of all epochs."""
        with self._file.transaction() as conn:
            self._begin_epoch(conn, epoch)
            conn.execute(
                "UPDATE cursors SET seq = max(seq, ?), turn = (SELECT max(turn) + 1 FROM cursors)"
                " WHERE epoch = ?",
                (seq, epoch),
            )
        self.ends[epoch] = max(seq, self.ends.get(epoch, 0))

    def _sweep(self, change: Change, epoch: int | None, but: int = 0) -> None:
        """Deletes frames that nobody needs; `epoch` goes on, `but` stays."""
        rows = [row for row in islice(self._gone.values(), DELETE_FRAMES_MAX) if row.id != but]
        change.delete(rows)
        for row in rows:
            if row.epoch != epoch and row.last >= self.ends.get(row.epoch, 0):
                change.conn.execute(
                    "UPDATE cursors SET seq = ? WHERE epoch = ?", (row.last, row.epoch)
                )
        self._drop_births(change.conn, {row.birth for row in rows})

    def _drop_births(self, conn: sqlite3.Connection, births: set[str]) -> None:
        # The search for a birth's last frame goes through the whole backlog. It is spared while
        # the oldest frame needs that birth, and for the one in force.
        oldest = conn.execute("SELECT birth FROM frames ORDER BY id LIMIT 1").fetchone()
        current = conn.execute("SELECT hash FROM births ORDER BY turn DESC LIMIT 1").fetchone()
        if births - {"", oldest and oldest[0], current and current[0]}:
            drop_births(conn)

    def flush(self) -> None:
        """Deletes what nobody needs and keeps what each link is done with. Raises StoreError."""
        while len(self._gone) > 1 or self._unkept:
            before = len(self._gone)
            kept = self._done_pairs()
            with self.change() as change:
                self._sweep(change, None, but=self.newest)
                self._keep_links(change.conn, kept)
            self._kept, self._unkept = kept, 0
            if len(self._gone) == before:
                return

    def _done_pairs(self) -> dict[str, list[tuple[int, int]]]:
        oldest = self._file.rows("SELECT min(id) FROM frames")[0][0] or self.given + 1
        for done in self._done.values():
            done.forget_below(oldest >> ID_BITS)
        return {name: done.pairs() for name, done in self._done.items()}

    def _keep_links(self, conn: sqlite3.Connection, kept: dict[str, list[tuple[int, int]]]) -> None:
        # A frame that is deleted in this transaction may stand in a range for a while: harmless.
        for name in self.links:
            if kept[name] != self._kept.get(name):
                conn.execute("DELETE FROM links WHERE name = ? AND last > 0", (name,))
                conn.executemany(
                    "INSERT INTO links VALUES (?, ?, ?)", [(name, *pair) for pair in kept[name]]
                )

    # ------------------------------------------------------------ letting go

    def release(self, link: str, rows: Iterable[Row]) -> int:
        """A link is done with frames; returns their records."""
        records = 0
        done = self._done[link]
        for row in rows:
            if row.place in done:
                continue
            self._count(row, -1)
            done.add(row.place, row.place)
            self._count(row, 1)
            records += row.records
            self._unkept += 1
        while (span := done.excess()) is not None:  # not before: neighbours are one range now
            self._forget(link, span)
        if self._unkept >= DELETE_FRAMES_MAX:
            self.flush_with_reserve()
        return records

    def _forget(self, link: str, span: tuple[int, int]) -> None:
        """A link needs again what is still there of a range, since it has too many of them."""
        rows = self._select("id BETWEEN ? AND ?", *_ids(*span))
        for row in rows:
            self._count(row, -1)
        self._done[link].forget(span)
        for row in rows:
            self._came(row)

    def _came(self, row: Row) -> None:
        """A frame that links need: counts it in, and begins with it where none is older."""
        for name in self.links:
            if row.place not in self._done[name]:
                low = min(row.id, self._low.get((name, row.epoch), row.id))
                self._low[name, row.epoch] = low
        self._count(row, 1)

    def flush_with_reserve(self) -> None:
        """`flush`, on a full disk as well. Raises StoreError."""
        try:
            self.flush()
        except StoreFull:
            self._file.release_reserve()
            self.flush()
            self._file.checkpoint()
        self._file.keep_reserve()

    def release_until(self, link: str, epoch: int, seq: int) -> int:
        """A link is done with the frames of an epoch that end at or below `seq`."""
        low = self._low.get((link, epoch))
        if low is None:
            return 0
        records = 0
        while True:
            rows = self._select(
                f"id >= ? AND epoch = ? ORDER BY id LIMIT {DELETE_FRAMES_MAX}", low, epoch
            )
            ended = [row for row in rows if row.last <= seq]
            if ended:
                if self._low[link, epoch] == low:  # else `release` went back behind it
                    self._low[link, epoch] = ended[-1].id + 1
                low = ended[-1].id + 1
                records += self.release(link, ended)
            if len(ended) < DELETE_FRAMES_MAX:
                return records

    # ------------------------------------------------------------ reading

    def _select(self, where: str, *values: Any) -> list[Row]:
        sql = f"SELECT {_ROW} FROM frames WHERE {where}"
        return [Row(*row) for row in self._file.rows(sql, values)]

    def _only_kept(self) -> list[tuple[int, int]]:
        """Places that the history alone isn't done with; frames of all of them may be gone."""
        if HISTORY not in self._done:
            return []
        done = [self._done[name] for name in self.outward]
        spans = common(done) if done else [(0, self.given >> ID_BITS)]
        return [part for span in spans for part in self._done[HISTORY].outside(*span)]

    def give_up_history(self) -> bool:
        """The history lets go of some frames that no link needs; False where there are none.

        It finds the hole in the numbers and declares it.
        """
        for first, last in self._only_kept():
            where = f"id BETWEEN ? AND ? ORDER BY id LIMIT {DELETE_FRAMES_MAX}"
            rows = self._select(where, *_ids(first, last))
            if rows:
                self.release(HISTORY, rows)
                return True
        return False

    def by_ids(self, ids: Iterable[int]) -> list[Row]:
        """The frames of these ids; what is gone is left out."""
        return [row for number in ids for row in self._select("id = ?", number)]

    def from_id(self, low: int, limit: int, where: str = "1") -> list[Row]:
        """Frames from an id on, oldest first, that a condition in SQL chooses."""
        return self._select(f"id >= ? AND {where} ORDER BY id LIMIT {limit}", low)

    def before(self, number: int) -> list[Row]:
        """The frame in front of an id, or nothing."""
        return self._select("id < ? ORDER BY id DESC LIMIT 1", number)

    def body(self, number: int) -> bytes | None:
        """The body of a frame; None where its bytes have changed on the disk."""
        rows = self._file.rows("SELECT crc, body FROM frames WHERE id = ?", (number,))
        if not rows or zlib.crc32(rows[0][1]) != rows[0][0]:
            return None
        found: bytes = rows[0][1]
        return found

    def needs(self, row: Row) -> tuple[bool, ...]:
        """Which links still need a frame, and whether the history does."""
        return tuple(row.place not in self._done[name] for name in self.links)

    def is_sent(self, row: Row) -> bool:
        """True where no link needs a frame any more."""
        return all(row.place in self._done[name] for name in self.outward)

    def needed(
        self, link: str, low: int, high: int, *, newest_first: bool = False
    ) -> list[tuple[int, int]]:
        """Ranges of ids from `low` to `high` that a link isn't done with, in order."""
        spans = [
            (max(low, _ids(first, last)[0]), min(high, _ids(first, last)[1]))
            for first, last in self._done[link].outside(low >> ID_BITS, high >> ID_BITS)
        ]
        return spans[::-1] if newest_first else spans

    def base(self, link: str, epoch: int) -> int:
        """The lowest number of an epoch that a link still needs; there is one."""
        low = self._low.get((link, epoch), 0)
        for first, last in self.needed(link, low, self.given):
            rows = self._file.rows(
                "SELECT id, first FROM frames WHERE id BETWEEN ? AND ? AND epoch = ?"
                " ORDER BY id LIMIT 1",
                (first, last, epoch),
            )
            if rows:
                self._low[link, epoch] = rows[0][0]
                return rows[0][1]
        raise AssertionError("a frame was asked for that nobody needs")

    def oldest_ns(self, link: str | None) -> int:
        """The oldest time that a link needs, or any link; 0 where it needs none."""
        found = []
        for name in self.outward if link is None else (link,):
            for first, last in self.needed(name, 0, self.given):
                rows = self._select("id BETWEEN ? AND ? ORDER BY id LIMIT 1", first, last)
                if rows:
                    found.append((rows[0].id, rows[0].oldest_ns))
                    break
        return min(found)[1] if found else 0

    def next_id(self, row: Row) -> int | None:
        """The id of a frame that takes the place of `row` and frames in front of it."""
        return row.id + 1 if row.id & _VERSION < _VERSION else None


def drop_births(conn: sqlite3.Connection) -> None:
    """Deletes the births that no frame needs, but for the one in force."""
    if conn.execute("SELECT count(*) FROM births").fetchone()[0] > 1:
        conn.execute(
            "DELETE FROM births WHERE turn < (SELECT max(turn) FROM births)"
            " AND hash NOT IN (SELECT birth FROM frames)"
        )
