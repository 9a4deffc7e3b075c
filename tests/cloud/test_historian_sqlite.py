"""The SQLite historian: idempotent, indifferent to order, honest about what is missing."""

from __future__ import annotations

import math
import random
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloud.historian import (
    REASON_BELOW_BASE,
    Historian,
    HistorianBusy,
    HistorianDamaged,
    HistorianError,
    HistorianFull,
    UnknownBirth,
)
from cloud.historian_sqlite import SqliteHistorian
from gateway.core.records import Batch, Gap
from sync.wire import Frame
from tests.sync import support

LAB = "lab"


@pytest.fixture
def historian(tmp_path: Path) -> Iterator[SqliteHistorian]:
    made = SqliteHistorian(tmp_path / "historian.db")
    made.store_birth(LAB, support.birth())
    yield made
    made.close()


def commit(historian: Historian, *batches: Batch, base: int = 1) -> None:
    for batch in batches:
        historian.commit_frame(LAB, Frame(batch, base))


def seqs(historian: Historian) -> list[int]:
    return sorted(s.seq for s in historian.query(limit=10**6))


def test_it_is_a_historian(historian: SqliteHistorian) -> None:
    port: Historian = historian
    assert port.gateways() == [LAB]


def test_frames_in_order_are_held_whole(historian: SqliteHistorian) -> None:
    commit(historian, support.batch(1, 10), support.batch(11, 10, events=(12,)))
    assert historian.contiguous(LAB, support.EPOCH) == 20
    report = historian.audit(LAB)
    assert (report.rows, report.events, report.missing, report.duplicates) == (19, 1, 0, 0)
    (event,) = historian.events(kind="gateway")
    assert (event.seq, event.body) == (12, {"number": 12})
    (sample,) = historian.query(["Device.Channel_4"], limit=1, newest_first=True)
    assert (sample.seq, sample.value, sample.tag) == (13, 13.0, "Device.Channel_4")


def test_a_frame_that_comes_twice_or_overlaps_changes_nothing(historian: SqliteHistorian) -> None:
    commit(historian, support.batch(1, 10, events=(3,)))
    once = historian.query(limit=100), historian.audit(LAB)
    other = support.batch(1, 10, events=(3,))
    other.records["value"] += 1000
    commit(historian, support.batch(1, 10, events=(3,)), other, support.batch(4, 5))
    assert (historian.query(limit=100), historian.audit(LAB)) == once
    commit(historian, support.batch(8, 10))
    assert seqs(historian) == [n for n in range(1, 18) if n != 3]


def test_live_frames_before_their_backlog_wait_for_it(historian: SqliteHistorian) -> None:
    commit(historian, support.batch(1, 10), support.batch(31, 10), support.batch(21, 10))
    assert historian.contiguous(LAB, support.EPOCH) == 10
    (epoch,) = historian.audit(LAB).epochs
    assert epoch.missing == ((11, 20),)
    commit(historian, support.batch(11, 10))
    assert historian.contiguous(LAB, support.EPOCH) == 40
    assert historian.audit(LAB).missing == 0


def test_a_fresh_historian_starts_at_the_senders_base(historian: SqliteHistorian) -> None:
    commit(historian, support.batch(100, 10), base=80)
    assert historian.contiguous(LAB, support.EPOCH) == 79
    commit(historian, support.batch(80, 20), base=80)
    assert historian.contiguous(LAB, support.EPOCH) == 109
    (epoch,) = historian.audit(LAB).epochs
    assert epoch.gaps == (Gap(1, 79, REASON_BELOW_BASE),)
    assert epoch.missing == ()


def test_a_base_declares_only_what_is_not_held(historian: SqliteHistorian) -> None:
    commit(historian, support.batch(1, 10), support.batch(21, 10))
    commit(historian, support.batch(51, 10), base=41)
    (epoch,) = historian.audit(LAB).epochs
    assert epoch.gaps == (Gap(11, 20, REASON_BELOW_BASE), Gap(31, 40, REASON_BELOW_BASE))
    assert epoch.missing == ((41, 50),)
    assert epoch.contiguous == 40


def test_declared_gaps_count_as_delivered(historian: SqliteHistorian) -> None:
    commit(historian, support.batch(1, 10, gaps=(Gap(4, 6, "full"),)))
    assert historian.contiguous(LAB, support.EPOCH) == 10
    (epoch,) = historian.audit(LAB).epochs
    assert (epoch.rows, epoch.gaps, epoch.missing) == (7, (Gap(4, 6, "full"),), ())


def test_rows_that_come_after_their_gap_fill_it(historian: SqliteHistorian) -> None:
    commit(historian, support.batch(1, 20, gaps=(Gap(1, 20, "full"),)))
    commit(historian, support.batch(6, 10))
    (epoch,) = historian.audit(LAB).epochs
    assert epoch.gaps == (Gap(1, 5, "full"), Gap(16, 20, "full"))
    assert (epoch.rows, epoch.duplicates, epoch.contiguous) == (10, 0, 20)


def test_a_gap_over_rows_that_are_held_leaves_them(historian: SqliteHistorian) -> None:
    commit(historian, support.batch(6, 10), support.batch(1, 20, gaps=(Gap(1, 20, "full"),)))
    (epoch,) = historian.audit(LAB).epochs
    assert epoch.gaps == (Gap(1, 5, "full"), Gap(16, 20, "full"))
    assert epoch.duplicates == 0


def test_gaps_that_are_held_cost_the_next_frame_nothing(historian: SqliteHistorian) -> None:
    # What the quota of a store leaves of a long outage: events, and gaps between them.
    odd = tuple(range(1, 10_000, 2))
    holes = tuple(Gap(n + 1, n + 1, "full") for n in odd)
    commit(historian, support.batch(1, 10_000, events=odd, gaps=holes))
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    historian._conn.set_progress_handler(step, 1000)
    commit(historian, support.batch(10_001, 2, gaps=(Gap(10_002, 10_002, "full"),)))
    historian._conn.set_progress_handler(None, 0)
    assert steps < 5
    (epoch,) = historian.audit(LAB).epochs
    assert (len(epoch.gaps), epoch.events, epoch.rows) == (5001, 5000, 1)
    assert (epoch.contiguous, epoch.missing, epoch.duplicates) == (10_002, (), 0)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, 2**32))
def test_gaps_and_data_in_any_order_count_each_number_once(tmp_path: Path, seed: int) -> None:
    """Against sets: data holds, then the gap declared first; the base declares the rest."""
    chance = random.Random(seed)
    historian = SqliteHistorian(tmp_path / f"{seed}-{chance.random()}.db")
    historian._conn.execute("PRAGMA synchronous = OFF")
    historian.store_birth(LAB, support.birth())
    data: set[int] = set()
    gaps: dict[int, str] = {}
    for turn in range(12):
        first = chance.randint(1, 60)
        last = first + chance.randint(0, 20)
        holes, at = [], first
        while at <= last:
            end = min(last, at + chance.randint(0, 6))
            if chance.random() < 0.4:
                holes.append(Gap(at, end, f"reason {turn}"))
            at = end + 1
        base = chance.choice([1, chance.randint(1, first)])
        batch = support.batch(first, last + 1 - first, gaps=tuple(holes))
        commit(historian, batch, base=base)
        lost = {n: g.reason for g in holes for n in range(g.first, g.last + 1)}
        data |= set(range(first, last + 1)) - lost.keys()
        below = dict.fromkeys(range(1, base), REASON_BELOW_BASE)
        gaps = {n: why for n, why in {**below, **lost, **gaps}.items() if n not in data}
        (epoch,) = historian.audit(LAB).epochs
        found = {n: g.reason for g in epoch.gaps for n in range(g.first, g.last + 1)}
        assert found == gaps
        assert set(seqs(historian)) == data
        assert epoch.duplicates == 0
        held = data | gaps.keys()
        assert epoch.contiguous == next(n for n in range(100) if n + 1 not in held)
    historian.close()


def test_an_epoch_that_ended_without_farewell_stays_open(historian: SqliteHistorian) -> None:
    commit(historian, support.batch(1, 10), support.batch(11, 1, gaps=(Gap(11, 0, "killed"),)))
    (epoch,) = historian.audit(LAB).epochs
    assert epoch.gaps == (Gap(11, 0, "killed"),)
    assert (epoch.contiguous, epoch.missing) == (11, ())


def test_epochs_are_apart(historian: SqliteHistorian) -> None:
    commit(historian, support.batch(1, 10), support.batch(1, 5, epoch=8))
    assert historian.contiguous(LAB, 7) == 10
    assert historian.contiguous(LAB, 8) == 5
    assert historian.contiguous(LAB, 9) == 0
    assert [epoch.epoch for epoch in historian.audit(LAB).epochs] == [7, 8]


def test_gateways_are_apart(historian: SqliteHistorian) -> None:
    historian.store_birth("barn", support.birth(site="barn"))
    commit(historian, support.batch(1, 10))
    historian.commit_frame("barn", Frame(support.batch(1, 4), 1))
    assert len(historian.query(gateway="barn")) == 4
    assert len(historian.query(["Device.Channel_2"])) == 2
    assert historian.audit("nobody").epochs == ()


def test_an_unknown_birth_is_asked_for_and_nothing_is_kept(historian: SqliteHistorian) -> None:
    good = Frame(support.batch(1, 10), 1)
    bad = Frame(support.batch(11, 10, birth="unseen"), 1)
    with pytest.raises(UnknownBirth) as caught:
        historian.commit_frames([(LAB, good), (LAB, bad)])
    assert (caught.value.gateway, caught.value.name) == (LAB, "unseen")
    assert historian.contiguous(LAB, support.EPOCH) == 0
    assert not historian.knows_birth(LAB, "unseen")
    historian.store_birth(LAB, support.birth("unseen"))
    historian.commit_frames([(LAB, good), (LAB, bad)])
    assert historian.contiguous(LAB, support.EPOCH) == 20


def test_a_tag_keeps_its_history_when_the_table_is_numbered_anew(
    historian: SqliteHistorian,
) -> None:
    commit(historian, support.batch(1, 10))
    table = support.birth("new")
    points = tuple({**point, "index": 11 - point["index"]} for point in table.points)
    historian.store_birth(LAB, replace(table, points=points))
    commit(historian, support.batch(11, 10, birth="new"))
    assert [s.seq for s in historian.query(["Device.Channel_1"])] == [10, 19]


def test_a_row_outside_of_its_table_is_kept_visibly(historian: SqliteHistorian) -> None:
    batch = support.batch(1, 3)
    batch.records["point"][1] = 4_000_000_000
    commit(historian, batch)
    assert [s.seq for s in historian.query(["?.4000000000"])] == [2]


def test_every_value_comes_back_as_it_was(historian: SqliteHistorian) -> None:
    batch = support.batch(1, 4)
    batch.records["value"] = [math.nan, math.inf, -math.inf, 5e-324]
    batch.records["status"] = [0x80320000, 0, 0xFFFFFFFF, 0]
    commit(historian, batch)
    got = historian.query()
    assert math.isnan(got[0].value)
    assert [s.value for s in got[1:]] == [math.inf, -math.inf, 5e-324]
    assert [s.status for s in got] == [0x80320000, 0, 0xFFFFFFFF, 0]


def test_a_query_is_bounded_by_tag_time_and_number(historian: SqliteHistorian) -> None:
    commit(historian, support.batch(1, 100))
    start = int(support.batch(1, 1).records["utc_ns"][0])
    rows = historian.query(from_ns=start + 10_000_000, to_ns=start + 20_000_000)
    assert [s.seq for s in rows] == list(range(11, 21))
    assert [s.seq for s in historian.query(limit=3, newest_first=True)] == [100, 99, 98]
    assert historian.query([]) == []
    assert historian.query(["No.Such"]) == []
    assert historian.query(limit=0) == []
    assert historian.query(["x' OR 1=1 --"]) == []


def test_what_was_committed_is_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    first = SqliteHistorian(path)
    first.store_birth(LAB, support.birth())
    commit(first, support.batch(1, 10), support.batch(21, 10))
    first.close()
    again = SqliteHistorian(path)
    commit(again, support.batch(11, 10))
    assert again.contiguous(LAB, support.EPOCH) == 30
    reader = SqliteHistorian(path, read_only=True)
    assert len(reader.query()) == 30
    with pytest.raises(HistorianError):
        reader.set_online(LAB, True)
    reader.close()
    again.close()


def test_locked_full_and_damaged_files_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    historian = SqliteHistorian(path)
    historian.store_birth(LAB, support.birth())
    historian._conn.execute("PRAGMA busy_timeout = 20")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(HistorianBusy):
        commit(historian, support.batch(1, 10))
    other.execute("ROLLBACK")
    other.close()
    support.fill(historian._conn)
    with pytest.raises(HistorianFull):
        commit(historian, support.batch(1, 5000, events=tuple(range(1, 5000, 2))))
    assert historian.contiguous(LAB, support.EPOCH) == 0
    historian.close()
    path.write_bytes(b"garbage" * 10_000)
    with pytest.raises(HistorianDamaged):
        SqliteHistorian(path)
    with pytest.raises(HistorianError):
        SqliteHistorian(tmp_path / "no" / "such" / "folder.db")
    with pytest.raises(HistorianError):
        SqliteHistorian(tmp_path / "missing.db", read_only=True)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.integers(0, 2**32))
def test_any_order_with_repetitions_ends_in_the_same_history(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    total, batches, at = 300, [], 1
    while at <= total:
        count = min(chance.randint(1, 40), total + 1 - at)
        events = tuple(n for n in range(at, at + count) if chance.random() < 0.1)
        batches.append(support.batch(at, count, events=events))
        at += count
    deliveries = [*batches, *chance.choices(batches, k=len(batches))]
    chance.shuffle(deliveries)
    path = tmp_path / f"{seed}-{chance.random()}.db"
    historian = SqliteHistorian(path)
    historian._conn.execute("PRAGMA synchronous = OFF")
    historian.store_birth(LAB, support.birth())
    came: set[int] = set()
    for batch in deliveries:
        commit(historian, batch)
        came |= set(range(batch.first, batch.last + 1))
        expected = next(n for n in range(total + 2) if n + 1 not in came)
        assert historian.contiguous(LAB, support.EPOCH) == expected
    report = historian.audit(LAB)
    assert (report.missing, report.duplicates) == (0, 0)
    assert report.rows + report.events == total
    values = np.array([[s.seq, s.value] for s in historian.query(limit=10**6)])
    assert (values[:, 0] == values[:, 1]).all()
    historian.close()
    path.unlink()


VERSION_1 = """
CREATE TABLE gateways (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,
    online INTEGER NOT NULL DEFAULT 0, birth TEXT NOT NULL DEFAULT '');
CREATE TABLE points (id INTEGER PRIMARY KEY, gateway INTEGER NOT NULL, tag TEXT NOT NULL,
    units TEXT NOT NULL, kind TEXT NOT NULL, description TEXT NOT NULL, UNIQUE (gateway, tag));
CREATE TABLE samples (gateway INTEGER NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL,
    point INTEGER NOT NULL, value REAL, status INTEGER NOT NULL, utc_ns INTEGER NOT NULL,
    PRIMARY KEY (gateway, epoch, seq)) WITHOUT ROWID;
CREATE TABLE spans (gateway INTEGER NOT NULL, epoch INTEGER NOT NULL, first INTEGER NOT NULL,
    last INTEGER NOT NULL, PRIMARY KEY (gateway, epoch, first)) WITHOUT ROWID;
INSERT INTO gateways (name) VALUES ('lab');
INSERT INTO points VALUES (1, 1, 'Device.Channel_1', '', '', ''),
    (2, 1, 'Device.Channel_2', '', '', '');
INSERT INTO spans VALUES (1, 7, 1, 40000);
PRAGMA user_version = 1;
"""


def test_a_file_of_version_1_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    old = sqlite3.connect(path)
    old.executescript(VERSION_1)
    rows = [
        (1, 7, n, n % 2 + 1, None if n == 9 else n / 4, n % 3, n * 10) for n in range(1, 40_001)
    ]
    old.executemany("INSERT INTO samples VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    old.commit()
    old.close()
    with pytest.raises(HistorianError, match="older version"):
        SqliteHistorian(path, read_only=True)
    historian = SqliteHistorian(path)
    found = historian.query(limit=10**6)
    assert [(s.seq, s.status, s.utc_ns) for s in found] == [(r[2], r[5], r[6]) for r in rows]
    assert math.isnan(found[8].value)
    assert [s.value for s in found[9:20]] == [r[4] for r in rows[9:20]]
    assert found[0].tag == "Device.Channel_2"
    assert (historian.audit(LAB).rows, historian.audit(LAB).missing) == (40_000, 0)
    historian.close()
    SqliteHistorian(path, read_only=True).close()


# The columns of numbers 10, 11 and 13 of tests/cases/wire/frame-codec-2.json, sequences in front.
CODEC_2 = bytes.fromhex(
    "0a0000000000000001010204"
    "01000000000000000101020100405b36ceeb79180400000100ca01009a01003b"
    "0100020301049a01101701000301003200"
)


def test_chunks_of_version_2_are_read_beside_new_ones(tmp_path: Path) -> None:
    path = tmp_path / "h.db"
    historian = SqliteHistorian(path)
    historian.store_birth(LAB, support.birth())
    commit(historian, support.batch(1, 9))
    sql = "UPDATE chunks SET rows = 3, first = 10, last = 13, body = ?"
    historian._conn.execute(sql, [CODEC_2])
    historian._conn.execute("ALTER TABLE chunks DROP COLUMN codec")
    historian._conn.execute("PRAGMA user_version = 2")
    historian.close()
    with pytest.raises(HistorianError, match="older version"):
        SqliteHistorian(path, read_only=True)
    again = SqliteHistorian(path)
    assert [(s.seq, s.value) for s in again.query()] == [(10, 20.5), (11, 1013.25), (13, 20.75)]
    commit(again, support.batch(14, 10))
    assert sorted(s.seq for s in again.query()) == [10, 11, 13, *range(14, 24)]
    again.close()


def test_small_frames_grow_into_few_chunks(historian: SqliteHistorian) -> None:
    for first in range(1, 4001, 10):
        commit(historian, support.batch(first, 10))
    (count,) = historian._conn.execute("SELECT count(*) FROM chunks").fetchone()
    assert count <= 12
    assert seqs(historian) == list(range(1, 4001))


def test_a_query_opens_only_the_chunks_that_it_needs(historian: SqliteHistorian) -> None:
    for part in range(20):
        commit(historian, support.batch(1 + 20_000 * part, 20_000))
    opened = 0
    unpack = historian._unpack

    def counted(*record: Any) -> Any:
        nonlocal opened
        opened += 1
        return unpack(*record)

    historian._unpack = counted  # type: ignore[method-assign]
    assert [s.seq for s in historian.query(limit=5)] == [1, 2, 3, 4, 5]
    assert [s.seq for s in historian.query(limit=2, newest_first=True)] == [400_000, 399_999]
    assert opened <= 6
    assert len(historian.query(["Device.Channel_2"], limit=100)) == 100
    assert opened <= 9


def test_a_damaged_chunk_is_told(historian: SqliteHistorian) -> None:
    commit(historian, support.batch(1, 10))
    historian._conn.execute("UPDATE chunks SET body = x'0102'")
    with pytest.raises(HistorianDamaged, match="chunk"):
        historian.query()
