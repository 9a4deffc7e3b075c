"""Any sequence of what callers and power do keeps each number once, or in a gap, for each link."""

from __future__ import annotations

import contextlib
import random
import sqlite3
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from gateway.core.records import RECORD, Batch, Birth, Event
from sync import wire
from sync.store import frame_table, links, quota, thin
from sync.store.store import Store

NAMES = ("cloud", "customer", "market")
BIRTH = "0123456789abcdef"
BEGIN_NS = 1_763_700_000_000_000_000
QUOTA_BYTES = 460_000  # with some 130 kB for frames
COUNTERS, DISCRETE = (1, 2), (3, 4)


def birth() -> bytes:
    points = tuple(
        {
            "index": n,
            "tag": f"Plant.Point_{n}",
            "kind": "discrete" if n in DISCRETE else "analog",
            "counter": n in COUNTERS,
        }
        for n in range(1, 21)
    )
    return wire.encode_birth(Birth("lab", 1, 0, BIRTH, "c0ffee", BEGIN_NS, points))


class Life:
    """A store, and a model of what each link has let go of."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        self.chance = random.Random(seed)
        self.values = np.random.default_rng(seed)
        self.names: tuple[str, ...] = NAMES[:2]
        self.next = {1: 1}  # epoch -> the next number; the last one goes on
        self.let_go: dict[str, set[tuple[int, int]]] = {name: set() for name in NAMES}
        self.precious: set[tuple[int, int]] = set()  # events and counters
        self.handed: dict[str, list[tuple[int, int, int, int]]] = {name: [] for name in NAMES}
        self.now_ns = BEGIN_NS
        self.store = self.open()
        self.store.put_birth(BIRTH, birth())

    def open(self) -> Store:
        return Store(self.path, quota_bytes=QUOTA_BYTES, links=self.names, age_max_ns=10**12)

    def close(self) -> None:
        self.store.close()

    # what happens

    def append(self) -> None:
        epoch = list(self.next)[-1]
        count = self.chance.choice((1, 3, 20, 200))
        first = self.next[epoch]
        self.now_ns += self.chance.choice((0, 1, 30, 3_000)) * 10**9
        rows = np.zeros(count, dtype=RECORD)
        rows["seq"] = np.arange(first, first + count)
        rows["point"] = self.values.integers(1, 21, count)
        rows["value"] = self.values.random(count)
        rows["utc_ns"] = self.now_ns + self.values.integers(-(10**10), 10**10, count)
        rows["status"] = np.where(self.values.random(count) < 0.1, 0x80000000, 0)
        events = []
        if self.chance.random() < 0.3:
            events = [Event(first + count, self.now_ns, "alarm", {"rule": "x"})]
        last = first + count - 1 + len(events)
        self.store.append(Batch(epoch, first, last, BIRTH, rows, tuple(events)))
        counted = rows["seq"][np.isin(rows["point"], COUNTERS)]
        self.precious |= {(epoch, int(n)) for n in counted}
        self.precious |= {(epoch, event.seq) for event in events}
        self.next[epoch] = last + 1

    def begin_epoch(self) -> None:
        self.next[max(self.next) + 1] = 1

    def take(self) -> None:
        link = self.chance.choice(self.names)
        after = self.chance.choice((0, self.store.newest // 2))
        how = {"newest_first": self.chance.random() < 0.3, "events": self.chance.random() < 0.3}
        for frame in self.store.pending(link, after, self.chance.choice((1, 5, 50)), **how):
            self.handed[link].append((frame.id, frame.epoch, frame.first, frame.last))

    def discard(self) -> None:
        """The far side has some of what was handed out, late and in any order."""
        link = self.chance.choice(self.names)
        self.chance.shuffle(self.handed[link])
        chosen, self.handed[link] = self.handed[link][:7], self.handed[link][7:]
        self.store.discard(link, [number for number, *_ in chosen])
        for _, epoch, first, last in chosen:
            self.let_go[link] |= {(epoch, n) for n in range(first, last + 1)}

    def acknowledge(self) -> None:
        link = self.chance.choice(self.names)
        epoch = self.chance.choice([*self.next])
        seq = self.chance.randrange(self.next[epoch])
        self.store.acknowledge(link, epoch, seq)
        self.let_go[link] |= {(epoch, n) for n in range(1, seq + 1)}

    def begin_again(self) -> None:
        """A restart, in order or not, perhaps with other links."""
        if self.chance.random() < 0.5:
            self.store._file.close()  # a kill: nothing of what is in memory is kept
        self.store.close()
        if self.chance.random() < 0.3:
            names = tuple(name for name in NAMES if self.chance.random() < 0.7) or NAMES[:1]
            for name in {*self.names} - {*names}:
                self.let_go[name] = {(e, n) for e, end in self.next.items() for n in range(1, end)}
            for name in {*names} - {*self.names}:
                self.let_go[name] = self.everything() - self.in_file()
            self.names = names
        self.handed = {name: [] for name in NAMES}
        self.store = self.open()

    # what is asked

    def everything(self) -> set[tuple[int, int]]:
        return {(epoch, n) for epoch, end in self.next.items() for n in range(1, end)}

    def in_file(self) -> set[tuple[int, int]]:
        rows = spans_in(self.path)
        return {(epoch, n) for epoch, first, last in rows for n in range(first, last + 1)}

    def check(self) -> None:
        for link in self.names:
            pending = self.pending(link)
            found: Counter[tuple[int, int]] = Counter()
            kept: set[tuple[int, int]] = set()
            for frame in pending:
                batch = frame.batch
                found.update((batch.epoch, n) for n in range(batch.first, batch.last + 1))
                kept |= {(batch.epoch, int(n)) for n in batch.records["seq"]}
                kept |= {(batch.epoch, event.seq) for event in batch.events}
                lost = {(batch.epoch, n) for g in batch.gaps for n in range(g.first, g.last + 1)}
                whole = {(batch.epoch, n) for n in range(batch.first, batch.last + 1)}
                inside = {x for x in kept if x[0] == batch.epoch and x in whole}
                assert inside | lost == whole and not inside & lost
                oldest = min(f.batch.first for f in pending if f.batch.epoch == batch.epoch)
                assert frame.base <= oldest, "a base above what is still to come"
            assert not [n for n, times in found.items() if times > 1]
            needed = self.everything() - self.let_go[link]
            assert needed <= set(found), f"{link}: {sorted(needed - set(found))[:5]}"
            assert needed & self.precious <= kept, "an event or a counter was given up"
            backlog = self.store.backlog(link)
            counts = [len(f.batch.records) + len(f.batch.events) for f in pending]
            assert (backlog.frames, backlog.records) == (len(pending), sum(counts))
        assert self.store.usage().used_bytes <= QUOTA_BYTES * 1.01
        self.check_counts()

    def check_counts(self) -> None:
        """What is counted in memory is what the file says."""
        table = self.store._table
        rows = [row for row in table.from_id(0, 100_000) if any(table.needs(row))]
        assert table.totals.bytes == sum(row.size for row in rows)
        for level in range(thin.GONE):
            assert table.thinnable[level] == sum(r.size for r in rows if r.level == level)

    def pending(self, link: str) -> list[wire.Frame]:
        frames, after = [], 0
        while pieces := self.store.pending(link, after, 50):
            frames += [wire.decode_frame(piece.payload) for piece in pieces]
            after = pieces[-1].id
        return frames


def spans_in(path: Path) -> list[tuple[int, int, int]]:
    conn = sqlite3.connect(path)
    rows = conn.execute("SELECT epoch, first, last FROM frames").fetchall()
    conn.close()
    return rows


DOES = {
    Life.append: 60,
    Life.take: 12,
    Life.discard: 10,
    Life.acknowledge: 2,
    Life.begin_epoch: 1,
    Life.begin_again: 3,
}


@pytest.mark.parametrize("seed", range(4))
def test_each_number_is_there_once_or_in_a_gap(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quota, "JOIN_FRAMES", 8)
    monkeypatch.setattr(links, "RANGES_MAX", 6)
    monkeypatch.setattr(frame_table, "DELETE_FRAMES_MAX", 5)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        life = Life(Path(folder) / "store.db", seed)
        with contextlib.closing(life):
            for step in range(250):
                life.chance.choices(list(DOES), list(DOES.values()))[0](life)
                if step % 25 == 0:
                    life.check()
            life.check()
