"""The store of frames: what the link process holds until everybody has it who gets it.

One SQLite file in WAL mode with `synchronous=FULL`: an `append` that returned survives a power
cut. The API blocks and belongs to one thread; `async_store` wraps it for asyncio. What
stands in the file and who needs it is kept by `frame_table`, room and age by `quota`.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from gateway.core.records import Batch, Gap
from sync import gaps, wire
from sync.errors import StoreDamaged, StoreError, StoreFull
from sync.store.database import Database
from sync.store.frame_table import FrameTable, drop_births
from sync.store.quota import REASON_DAMAGED, Quota
from sync.store.rows import Row
from sync.store.salvage import Found, SalvageReport, move_aside, park, read_damaged, unpark
from sync.store.written import written_bytes

PENDING_MAX: Final = 1000

REASON_HOLE: Final = "hole in local stream"


@dataclass(frozen=True, slots=True)
class StoredFrame:
    """A frame as it stands in the store; `payload` is ready to be published.

    `records` counts rows and events. `base` in the payload is the lowest sequence of the epoch
    that the link still needs.
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
    """What is stored and not let go; `oldest_utc_ns` is 0 where nothing is."""

    frames: int
    records: int
    bytes: int
    oldest_utc_ns: int


@dataclass(frozen=True, slots=True)
class Usage:
    """What the store takes and what it had to give up.

    used_bytes     of all its files on the disk, the reserve for a full disk included
    data_bytes     of that, what a new frame can't take the place of; it grows with a backlog
    quota_bytes    what all its files may take
    written_bytes  handed to the disk since the store was opened
    thinned        values given up since then for want of room
    aged           values given up since then because of their age
    """

    used_bytes: int
    data_bytes: int
    quota_bytes: int
    written_bytes: int
    thinned: int
    aged: int


class Store:
    """Frames, births and the cursor of the local stream in one file."""

    def __init__(
        self,
        path: Path,
        *,
        quota_bytes: int,
        links: Sequence[str] = ("cloud",),
        age_max_ns: int = 0,
    ) -> None:
        """Opens the file or makes it. Raises StoreError.

        quota_bytes  what all files of the store may take
        links        who gets the frames; a new one begins at the oldest frame that is there, one
                     that is missing here lets go of everything
        age_max_ns   measurements older than that are given up; 0 = never

        A damaged file is moved aside and salvaged; `salvaged` then says what was found.
        """
        self.path = path
        self.salvaged: SalvageReport | None = None
        self._written_before = written_bytes()
        self._file = Database(path, quota_bytes)
        self._table = FrameTable(self._file, links)
        self._quota = Quota(
            self._file, self._table, self.birth, quota_bytes=quota_bytes, age_max_ns=age_max_ns
        )
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
            return
        with contextlib.suppress(StoreFull):  # a smaller quota than before
            self._quota.make_room(0)
            self._file.shrink(self._file.room_bytes(self._quota.quota_bytes))

    def _look(self) -> None:
        self._table.look()
        self._quota.reset()

    def close(self) -> None:
        """Ends the session; everything is on disk already. May be called twice."""
        if self._file.is_open:
            with contextlib.suppress(StoreError):  # what is let go comes again in the worst case
                self._table.flush()
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
            with self._file.transaction() as conn:
                for name, data in found.births.items():
                    conn.execute("INSERT OR IGNORE INTO births VALUES (NULL, ?, ?)", (name, data))
            ready = True
        finally:
            if not ready:
                self._file.disconnect()
                unpark(self.path)
        # Until the end the damaged file is the safe one, so not every frame needs a flush.
        self._file.rows("PRAGMA synchronous=NORMAL")
        adopted, lost, complete = self._adopt(found)
        self._file.rows("PRAGMA synchronous=FULL")
        with contextlib.suppress(StoreError):
            self._file.checkpoint()
        moved = move_aside(self.path, parked)
        self._file.keep_reserve()
        return SalvageReport(
            moved, problem, adopted[0], adopted[1], len(found.births), tuple(lost), complete
        )

    def _adopt(self, found: Found) -> tuple[tuple[int, int], list[tuple[int, int, int]], bool]:
        """Takes over what was salvaged; returns (frames, records), lost ranges, complete."""
        frames = records = 0
        lost: list[tuple[int, int, int]] = []
        ends: dict[int, int] = {}
        try:
            for place, batch in found.frames():
                end = ends.get(batch.epoch)
                if end is not None and batch.first > end + 1:
                    lost.append((batch.epoch, end + 1, batch.first - 1))
                    self._declare(*lost[-1])
                rows = self._append(batch)
                for link in self._table.links:
                    if link in found.done and place in found.done[link]:
                        self._table.release(link, rows)
                ends[batch.epoch] = max(batch.last, end or 0)
                frames += 1
                records += len(batch.records) + len(batch.events)
            for epoch, seq in found.cursors:  # the newest epoch counts, not which has frames
                end = ends.get(epoch)
                if end is not None and seq > end:
                    lost.append((epoch, end + 1, seq))
                    self._declare(*lost[-1])
                self._table.set_cursor(epoch, seq)
        except StoreError:
            return (frames, records), lost, False
        return (frames, records), lost, True

    def _declare(self, epoch: int, first: int, last: int) -> None:
        self._append(gaps.gap_batch(epoch, first, last, REASON_DAMAGED))

    # ------------------------------------------------------------ appending

    def append(self, batch: Batch) -> int:
        """Stores a batch and moves the cursor in one transaction; returns the newest id.

        Numbers at or below the epoch's cursor are skipped, so appending twice changes nothing. A
        hole between cursor and batch becomes a gap. Raises StoreError, and WireError for a batch
        that is none; then nothing is stored.
        """
        self._append(batch)
        return self._table.given

    def _append(self, batch: Batch) -> list[Row]:
        end = self._table.ends.get(batch.epoch)
        if end is not None and batch.last <= end:
            return []
        if end is not None and batch.first <= end:
            batch = gaps.split_batch(batch, end + 1)[1]
        elif end is not None and batch.first > end + 1:
            hole = Gap(end + 1, batch.first - 1, REASON_HOLE)
            batch = replace(batch, first=end + 1, gaps=(hole, *batch.gaps))
        parts = list(gaps.bodies(batch))
        self._file.check_log()
        self._quota.make_room(sum(len(body) for _, body in parts))
        try:
            rows = self._table.append(parts)
        except StoreFull:
            # What is let go may free what is missing; its deletion has a reserve.
            self._table.flush_with_reserve()
            rows = self._table.append(parts)
        with contextlib.suppress(StoreFull):  # the frame itself is stored
            self._quota.appended(rows, batch.records["utc_ns"])
        return rows

    def cursor(self) -> tuple[int, int] | None:
        """Epoch and sequence of what was appended last; None in a new store."""
        rows = self._file.rows("SELECT epoch FROM cursors ORDER BY turn DESC LIMIT 1")
        return (rows[0][0], self._table.ends[rows[0][0]]) if rows else None

    # ------------------------------------------------------------ births

    def put_birth(self, name: str, body: bytes) -> None:
        """Keeps a birth under its hash; the last one put is the current one."""
        with self._file.transaction() as conn:
            conn.execute("DELETE FROM births WHERE hash = ?", (name,))
            conn.execute("INSERT INTO births VALUES (NULL, ?, ?)", (name, body))
            drop_births(conn)

    def birth(self, name: str) -> bytes | None:
        """The birth of a hash, or None where it isn't known."""
        rows = self._file.rows("SELECT body FROM births WHERE hash = ?", (name,))
        return rows[0][0] if rows else None

    @property
    def current_birth(self) -> str | None:
        """Hash of the birth that was put last."""
        rows = self._file.rows("SELECT hash FROM births ORDER BY turn DESC LIMIT 1")
        return rows[0][0] if rows else None

    def declare_birth_lost(self, name: str) -> int:
        """Turns the rows that need a birth nobody has into gaps; returns how many rows.

        Without it these frames would wait for ever, and everything behind them too. Events stay.
        """
        ids = [row[0] for row in self._file.rows("SELECT id FROM frames WHERE birth = ?", (name,))]
        return sum(self._quota.without_birth(row) for row in self._table.by_ids(ids))

    # ------------------------------------------------------------ sending

    @property
    def newest(self) -> int:
        """The highest id that a frame was given; 0 in a new store."""
        return self._table.given

    @property
    def renumbered(self) -> int:
        """How often since the opening frames became one, with an id behind those of all of them.

        Whoever walks over the ids may have passed that id, and not what the frame holds.
        """
        return self._quota.renumbered

    def pending(
        self,
        link: str,
        after_id: int,
        limit: int,
        *,
        before_id: int | None = None,
        newest_first: bool = False,
        events: bool = False,
    ) -> list[StoredFrame]:
        """Up to `limit` frames that a link still needs, ready to be published.

        before_id, after_id  their ids lie between the two, both left out
        newest_first         the newest come first, not the oldest
        events               only frames with events

        A body whose bytes have changed on the disk becomes a declared gap.
        """
        high = self._table.given if before_id is None else before_id - 1
        limit = min(limit, PENDING_MAX)
        sql = (
            "SELECT id, epoch, first, last, records, birth, crc, body FROM frames"
            f" WHERE id BETWEEN ? AND ? {'AND events > 0' if events else ''}"
            f" ORDER BY id {'DESC' if newest_first else 'ASC'} LIMIT ?"
        )
        rows: list[Any] = []
        spans = self._table.needed(link, after_id + 1, high, newest_first=newest_first)
        for first, last in spans:
            rows += self._file.rows(sql, (first, last, limit - len(rows)))
            if len(rows) == limit:
                break
        damaged = [row[0] for row in rows if zlib.crc32(row[7]) != row[6]]
        if damaged:
            for row in self._table.by_ids(damaged):
                self._quota.blank(row)
            return self.pending(
                link,
                after_id,
                limit,
                before_id=before_id,
                newest_first=newest_first,
                events=events,
            )
        return list(self._wrap(link, rows))

    def peek(self, link: str, after_id: int, limit: int) -> list[tuple[int, bytes]]:
        """(id, body) of up to `limit` frames that a link still needs, oldest first.

        Unlike with `pending` they are not on their way: frames that wait may still become one. A
        body whose bytes have changed on the disk becomes a declared gap.
        """
        found: list[tuple[int, bytes]] = []
        sql = "SELECT id, crc, body FROM frames WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?"
        for span in self._table.needed(link, after_id + 1, self._table.given):
            for number, crc, body in self._file.rows(sql, (*span, limit - len(found))):
                if zlib.crc32(body) != crc:
                    self._quota.blank(self._table.by_ids([number])[0])
                    return self.peek(link, after_id, limit)
                found.append((number, body))
            if len(found) == limit:
                break
        return found

    def _wrap(self, link: str, rows: Sequence[Any]) -> Iterator[StoredFrame]:
        bases = {epoch: self._table.base(link, epoch) for epoch in {row[1] for row in rows}}
        for number, epoch, first, last, records, birth, _, body in rows:
            self._quota.handed_out(number)
            payload = wire.wrap_body(body, base=bases[epoch])
            yield StoredFrame(number, epoch, first, last, records, birth, payload)

    def acknowledge(self, link: str, epoch: int, seq: int) -> int:
        """A link lets go of the frames of an epoch that end at or below `seq`.

        Returns their records. Frames of other epochs stay: each is acknowledged by itself. A frame
        that no link needs any more is deleted, at the latest with the next append; after a crash
        in between it may come again.
        """
        return self._table.release_until(link, epoch, seq)

    def discard(self, link: str, ids: Sequence[int]) -> int:
        """A link lets go of frames by their ids; returns their records."""
        return self._table.release(link, self._table.by_ids(ids))

    def backlog(self, link: str | None = None) -> Backlog:
        """What a link still needs; without a name, what any of them but the history does."""
        frames, records, size = self._table.left(link)
        return Backlog(frames, records, size, self._table.oldest_ns(link) if frames else 0)

    def checkpoint(self) -> None:
        """Moves the log into the file, as SQLite does by itself from time to time."""
        self._file.checkpoint()

    def usage(self) -> Usage:
        """What the store takes, has written and has given up. Raises StoreError."""
        return Usage(
            used_bytes=self._file.disk_bytes(),
            data_bytes=self._file.used_bytes(),
            quota_bytes=self._quota.quota_bytes,
            written_bytes=written_bytes() - self._written_before,
            thinned=self._quota.given_up.thinned,
            aged=self._quota.given_up.aged,
        )
