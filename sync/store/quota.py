"""What the store does about room and age: joining small frames, thinning old ones.

Everything here works on a run of neighbouring frames at a time and is a transaction of its own, so
that it may end anywhere. What is given up is declared as gaps.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gateway.core.clock import UTC_PLAUSIBLE_NS
from gateway.core.records import Batch
from sync import gaps, wire
from sync.store import thin
from sync.store.database import ID_BITS, Database
from sync.store.frame_table import FrameTable
from sync.store.links import Ranges
from sync.store.rows import Row
from sync.store.thin import GONE, NO_KINDS, Kinds

RUN_FRAMES_MAX: Final = 512  # that become one
RUN_RECORDS_MAX: Final = 4096  # of frames that become one; bounds their gaps, too
RUN_BYTES_MAX: Final = 262_144
JOIN_BYTES_MAX: Final = 16_384  # a frame that is larger is left as it is
JOIN_FRAMES: Final = 64  # that have come since the last time
JOIN_FRAMES_MIN: Final = 4  # fewer are not worth a transaction
FREED_MIN: Final = 0.2  # of a run; what frees less goes to the next level at once
KINDS_MAX: Final = 16  # point tables that are remembered
# By how much a frame may bring forward the time against which ages count: a clock or a device that
# is wrong must not make old at once what is not. No frame is longer (FrameInterval).
AGE_STEP_NS: Final = 60_000_000_000
STEPS_MAX: Final = 2000  # of making room for one frame
OVERHEAD_BYTES: Final = 4096  # pages that an append may take beside those of its body

REASON_QUOTA: Final = "store over its quota"
REASON_AGE: Final = "older than the store keeps"
REASON_DAMAGED: Final = "damaged in the store"
REASON_BIRTH: Final = "its point table is lost"

log = logging.getLogger(__name__)


@dataclass
class GivenUp:
    """Values that were given up since the store was opened."""

    thinned: int = 0  # for want of room
    aged: int = 0


class Quota:
    """Joins, thins and ages the frames of a table."""

    def __init__(
        self,
        file: Database,
        table: FrameTable,
        birth: Callable[[str], bytes | None],
        *,
        quota_bytes: int,
        age_max_ns: int,
    ) -> None:
        self.quota_bytes = quota_bytes
        self.age_max_ns = age_max_ns
        self.given_up = GivenUp()
        self.renumbered = 0  # how often frames became one, which has an id of its own
        self._file = file
        self._table = table
        self._birth = birth
        self._kinds: OrderedDict[str, Kinds] = OrderedDict()
        self.reset()

    def reset(self) -> None:
        """The frames have new ids, or are others."""
        self._at = [0] * GONE  # no frame of a level has a smaller id
        self._now_ns = 0  # against which ages count
        self._aged_at = 0  # no frame up to here holds what may become too old
        self._loose = 0  # frames up to here have been joined, or stay as they are
        self._fresh = [0, 0]  # frames and records since then
        self._handed = Ranges()  # places of frames that are on their way to somebody

    # ------------------------------------------------------------ what the store tells

    def handed_out(self, number: int) -> None:
        """A frame is on its way; it is not joined with others unless room runs out."""
        self._handed.add(number >> ID_BITS, number >> ID_BITS)

    def appended(self, rows: Sequence[Row], times: NDArray[np.int64]) -> None:
        """Frames with values of these (n,) times have come; joins and ages what is due.

        Raises StoreError.
        """
        self._fresh[0] += len(rows)
        self._fresh[1] += sum(row.records for row in rows)
        if self._fresh[0] >= JOIN_FRAMES or (
            self._fresh[1] >= RUN_RECORDS_MAX and self._fresh[0] >= JOIN_FRAMES_MIN
        ):
            self._fresh = [0, 0]
            self._join()
        if self.age_max_ns and len(times):
            half = len(times) // 2  # a device whose clock is wrong is one of many
            self._age(int(np.partition(times, half)[half]))

    # ------------------------------------------------------------ room

    def make_room(self, size: int) -> None:
        """Thins until a body of `size` bytes fits; events and counters stay, whatever the quota."""
        room = self._file.room_bytes(self.quota_bytes) - size - size // 8 - OVERHEAD_BYTES
        room -= max(0, size - self._file.wal_bytes // 2)  # a long transaction makes a long WAL
        for _ in range(STEPS_MAX):
            if self._file.used_bytes() <= room:
                return
            self._table.flush()
            if self._file.used_bytes() <= room:
                return
            if not self._table.give_up_history() and not self._step():
                return

    def _step(self) -> bool:
        """Thins one run; False where nothing is left to thin."""
        level = thin.next_level(self._table.thinnable)
        if level is None:
            return False
        found = self._table.from_id(self._at[level], 1, f"level = {level}")
        if not found:
            self._at[level] = 0 if self._at[level] else self._table.given + 1
            return self._at[level] == 0
        run = self._run(found[0].id, level, RUN_RECORDS_MAX)
        self._at[level] = run[-1].id + 1
        self._thin(run, level + 1, REASON_QUOTA)
        return True

    def _age(self, utc_ns: int) -> None:
        """Gives up measurements that are too old now; a time that can't be true tells no age."""
        if utc_ns < UTC_PLAUSIBLE_NS:
            return
        if not self._now_ns:
            where = f"level < {GONE} AND newest_ns >= {UTC_PLAUSIBLE_NS}"
            oldest = self._table.from_id(0, 1, where)
            self._now_ns = oldest[0].newest_ns if oldest else utc_ns
        self._now_ns = min(utc_ns, self._now_ns + AGE_STEP_NS)
        until_ns = self._now_ns - self.age_max_ns
        for row in self._table.from_id(self._aged_at, RUN_FRAMES_MAX, f"level < {GONE}"):
            if UTC_PLAUSIBLE_NS <= row.newest_ns < until_ns:
                run = self._run(row.id, row.level, RUN_RECORDS_MAX)
                old = list(takewhile(lambda row: row.newest_ns < until_ns, run))
                self._aged_at = old[-1].id + 1
                self._thin(old, GONE, REASON_AGE)
                return  # the next append goes on
            if row.newest_ns >= until_ns:
                return
            self._aged_at = row.id + 1

    # ------------------------------------------------------------ runs

    def _run(self, number: int, level: int, records_max: int) -> list[Row]:
        """The frame of an id and those behind it that it can become one with."""
        rows = self._table.from_id(number, RUN_FRAMES_MAX)
        newest = self._table.newest
        run = rows[:1]
        records, size = rows[0].records, rows[0].size
        needs = self._table.needs(rows[0])
        births = {rows[0].birth} - {""}
        for row in rows[1:]:
            births |= {row.birth} - {""}
            records, size = records + row.records, size + row.size
            if (
                row.level not in (level, GONE)
                or row.id == newest
                or not _follows(run[-1], row)
                or len(births) > 1
                or records > records_max
                or size > RUN_BYTES_MAX
                or self._table.needs(row) != needs
            ):
                break
            run.append(row)
        return run

    def _thin(self, run: list[Row], level: int, reason: str) -> None:
        """Brings a run to a level, or to the next one that frees something."""
        batch = self._read(run)
        if batch is None:
            return
        kinds = self._kinds_of(batch.birth)
        most = (1 - FREED_MIN) * sum(row.size for row in run)
        try:
            thinned, body, level = _thinned(batch, kinds, level, reason, most)
        except wire.FrameTooLarge:
            if len(run) > 1:
                self._thin(run[:1], level, reason)
            return
        lost = len(batch.records) - len(thinned.records)
        if reason == REASON_QUOTA:
            self.given_up.thinned += lost
        else:
            self.given_up.aged += lost
        if level == GONE:
            run, thinned, body = self._with_before(run, thinned, body)
        self._write(run, thinned, body, level)

    def _with_before(
        self, run: list[Row], batch: Batch, body: bytes
    ) -> tuple[list[Row], Batch, bytes]:
        """With the frame in front where that one is small and thinned out as well."""
        before = self._table.before(run[0].id)
        fits = (
            before
            and before[0].level == GONE
            and before[0].size + len(body) <= RUN_BYTES_MAX
            and before[0].records + len(batch.records) + len(batch.events) <= RUN_RECORDS_MAX
            and _follows(before[0], run[0])
            and len({before[0].birth, batch.birth} - {""}) <= 1
            and self._table.needs(before[0]) == self._table.needs(run[0])
        )
        first = self._read(before) if fits else None
        if first is None or len(first.gaps) + len(batch.gaps) > wire.FRAME_GAPS_MAX:
            return run, batch, body
        joined = gaps.join([first, batch])
        return [*before, *run], joined, wire.encode_body(joined)

    def _read(self, run: list[Row]) -> Batch | None:
        """A run as one batch; None where a body is damaged, which then becomes a gap."""
        bodies = [self._table.body(row.id) for row in run]
        damaged = [row for row, body in zip(run, bodies, strict=True) if body is None]
        for row in damaged:
            self.blank(row)
        if damaged:
            return None
        return gaps.join([wire.decode_body(body) for body in bodies if body is not None])

    def _write(self, run: list[Row], batch: Batch, body: bytes, level: int) -> None:
        number = run[0].id if len(run) == 1 else self._table.next_id(run[-1])
        if number is None:
            return
        with self._table.change() as change:
            change.delete(run)
            change.insert(number, batch, body, level)
        self.renumbered += len(run) > 1

    def blank(self, row: Row) -> None:
        """A frame whose body is damaged becomes a gap."""
        batch = gaps.gap_batch(row.epoch, row.first, row.last, REASON_DAMAGED)
        self._write([row], batch, wire.encode_body(batch), GONE)

    def without_birth(self, row: Row) -> int:
        """A frame whose point table is lost keeps its events; returns how many rows go."""
        batch = self._read([row])
        if batch is None:
            return row.records - row.events
        kept = thin.keep(batch.records, NO_KINDS, GONE)
        thinned = thin.without(batch, kept, REASON_BIRTH)
        self._write([row], thinned, wire.encode_body(thinned), GONE)
        return len(batch.records)

    def _kinds_of(self, name: str) -> Kinds:
        """What is known of a birth's points; where it is lost its rows tell nothing."""
        if name not in self._kinds:
            body = self._birth(name)
            if body is None:
                return NO_KINDS
            try:
                self._kinds[name] = Kinds.of(wire.decode_birth(body).points)
            except wire.WireError:
                return NO_KINDS
            if len(self._kinds) > KINDS_MAX:
                self._kinds.popitem(last=False)
        return self._kinds[name]

    # ------------------------------------------------------------ joining

    def _join(self) -> None:
        """Joins small frames that wait: fewer bytes a value, fewer messages later.

        Frames with events stay by themselves, because those go first.
        """
        while True:
            rows = self._table.from_id(self._loose, RUN_FRAMES_MAX)[:-1]  # never the newest
            at = next((n for n, row in enumerate(rows) if self._is_loose(row)), None)
            if at is None:
                self._loose = rows[-1].id if rows else self._loose
                return
            run = self._run(rows[at].id, 0, RUN_RECORDS_MAX)
            run = list(takewhile(self._is_loose, run))
            if len(run) < JOIN_FRAMES_MIN and run[-1].id == rows[-1].id:
                return  # more will come
            self._loose = run[-1].id + 1
            if len(run) >= JOIN_FRAMES_MIN:
                batch = self._read(run)
                if batch is not None:
                    self._write(run, batch, wire.encode_body(batch), 0)
                    # What is still small becomes one with the next ones.
                    small = len(batch.records) <= RUN_RECORDS_MAX * 3 // 4
                    self._loose = run[-1].id + (1 if small else 2)
                    if small:
                        return

    def _is_loose(self, row: Row) -> bool:
        return (
            row.level == 0
            and not row.events
            and row.size <= JOIN_BYTES_MAX
            and row.place not in self._handed
            and not self._table.is_sent(row)
        )


def _follows(before: Row, row: Row) -> bool:
    return row.epoch == before.epoch and row.first == before.last + 1


def _thinned(
    batch: Batch, kinds: Kinds, level: int, reason: str, most: float
) -> tuple[Batch, bytes, int]:
    """The batch at a level, or at the next one that leaves `most` bytes; its body and level."""
    while True:
        thinned = thin.without(batch, thin.keep(batch.records, kinds, level), reason)
        if not thin.has_more(thinned.records, kinds):
            level = GONE
        body = wire.encode_body(thinned)
        if level == GONE or len(body) <= most:
            return thinned, body, level
        level += 1
