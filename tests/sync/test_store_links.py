"""Several links share a store: each goes its own way, and a frame stays until all have it."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from sync import wire
from sync.store import links
from sync.store.links import Ranges, common
from sync.store.store import Store
from tests.sync import support

LINKS = ("cloud", "customer")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    made = Store(path, quota_bytes=10**9, links=LINKS)
    for first in (1, 11, 21, 31):
        made.append(support.batch(first, 10, events=(first,)))
    yield made
    made.close()


def firsts(store: Store, link: str, **how: object) -> list[int]:
    return [frame.first for frame in store.pending(link, 0, 100, **how)]  # type: ignore[arg-type]


def bases(store: Store, link: str) -> set[int]:
    return {wire.decode_frame(frame.payload).base for frame in store.pending(link, 0, 100)}


def rows_in_file(store: Store) -> int:
    found: int = store._file.rows("SELECT count(*) FROM frames")[0][0]
    return found


def test_a_link_that_is_done_holds_nothing_back_and_nothing_away(store: Store) -> None:
    assert store.acknowledge("cloud", 7, 20) == 20
    assert firsts(store, "cloud") == [21, 31]
    assert firsts(store, "customer") == [1, 11, 21, 31]
    assert bases(store, "cloud") == {21}
    assert bases(store, "customer") == {1}
    assert store.backlog("cloud").records == 20
    assert store.backlog("customer").records == store.backlog().records == 40
    assert store.acknowledge("customer", 7, 30) == 30
    assert store.backlog().records == 20
    store.append(support.batch(41, 10))
    assert rows_in_file(store) == 3


def test_frames_let_go_one_by_one_leave_holes_that_are_kept(path: Path, store: Store) -> None:
    ids = [frame.id for frame in store.pending("customer", 0, 100)]
    assert store.discard("customer", [ids[3], ids[1]]) == 20
    assert firsts(store, "customer") == [1, 21]
    assert firsts(store, "customer", newest_first=True) == [21, 1]
    store.close()
    again = Store(path, quota_bytes=10**9, links=LINKS)
    assert firsts(again, "customer") == [1, 21]
    assert firsts(again, "cloud") == [1, 11, 21, 31]
    assert again.backlog("customer").records == 20
    assert again.discard("customer", ids) == 20
    assert firsts(again, "customer") == []
    again.close()


def test_frames_come_from_either_end_and_between_two_ids(store: Store) -> None:
    ids = [frame.id for frame in store.pending("cloud", 0, 100)]
    assert firsts(store, "cloud", newest_first=True) == [31, 21, 11, 1]
    assert firsts(store, "cloud", before_id=ids[2]) == [1, 11]
    assert [f.first for f in store.pending("cloud", ids[0], 1, newest_first=True)] == [31]
    assert [f.id for f in store.pending("cloud", ids[0], 9, before_id=ids[3])] == ids[1:3]
    store.append(support.batch(41, 10))
    assert firsts(store, "cloud", events=True) == [1, 11, 21, 31]


def test_a_new_link_begins_at_the_oldest_frame_that_is_there(path: Path, store: Store) -> None:
    for link in LINKS:
        store.acknowledge(link, 7, 10)
    store.acknowledge("cloud", 7, 30)
    store.close()
    again = Store(path, quota_bytes=10**9, links=(*LINKS, "market"))
    assert firsts(again, "market") == firsts(again, "customer") == [11, 21, 31]
    assert firsts(again, "cloud") == [31]
    again.close()


def test_a_link_that_is_configured_no_longer_lets_go_of_all(
    path: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store.acknowledge("cloud", 7, 30)
    store.close()
    again = Store(path, quota_bytes=10**9, links=("cloud",))
    assert "the link customer is configured no longer" in caplog.text
    assert again.backlog().records == 10
    again.append(support.batch(41, 10))
    assert rows_in_file(again) == 2
    again.close()
    # Another link's place did not move, and a link that comes back is a new one.
    third = Store(path, quota_bytes=10**9, links=LINKS)
    assert firsts(third, "cloud") == firsts(third, "customer") == [31, 41]
    third.close()


def test_a_rename_of_one_link_does_not_touch_another(path: Path, store: Store) -> None:
    store.acknowledge("cloud", 7, 20)
    store.close()
    again = Store(path, quota_bytes=10**9, links=("cloud", "client"))
    assert firsts(again, "cloud") == [21, 31]
    assert firsts(again, "client") == [1, 11, 21, 31]
    again.close()


def test_what_a_link_is_done_with_survives_a_salvage(path: Path) -> None:
    store = Store(path, quota_bytes=10**9, links=LINKS)
    for number in range(20):
        store.append(support.batch(number * 10 + 1, 10, events=(number * 10 + 1,)))
    store.acknowledge("cloud", 7, 100)
    store.append(support.batch(201, 10))
    store.recover()
    assert store.backlog("cloud").records == 110
    assert store.backlog("customer").records == 210
    store.close()


def test_an_acknowledgement_costs_no_commit_of_its_own(store: Store) -> None:
    before = store._file._connection().total_changes
    store.acknowledge("cloud", 7, 20)
    store.acknowledge("customer", 7, 20)
    assert store._file._connection().total_changes == before
    for link in LINKS:
        assert store.backlog(link).records == 20


def test_a_file_of_the_first_schema_is_brought_over(path: Path) -> None:
    conn = sqlite3.connect(path)
    conn.executescript(
        "CREATE TABLE frames (id INTEGER PRIMARY KEY AUTOINCREMENT, epoch INTEGER NOT NULL,"
        " first INTEGER NOT NULL, last INTEGER NOT NULL, records INTEGER NOT NULL,"
        " events INTEGER NOT NULL, birth TEXT NOT NULL, utc_ns INTEGER NOT NULL,"
        " bytes INTEGER NOT NULL);"
        "CREATE TABLE bodies (id INTEGER PRIMARY KEY, crc INTEGER, body BLOB);"
        "CREATE TABLE births (turn INTEGER PRIMARY KEY, hash TEXT, body BLOB);"
        "CREATE TABLE cursors (epoch INTEGER PRIMARY KEY, seq INTEGER, turn INTEGER);"
        "PRAGMA user_version = 1;"
    )
    for number in range(600):
        batch = support.batch(number * 10 + 1, 10, events=(number * 10 + 1,))
        body = wire.encode_body(batch)
        conn.execute(
            "INSERT INTO frames VALUES (NULL, 7, ?, ?, 10, 1, ?, 5, 9)",
            (batch.first, batch.last, batch.birth),
        )
        conn.execute("INSERT INTO bodies VALUES (?, ?, ?)", (number + 1, zlib.crc32(body), body))
    conn.execute("INSERT INTO births VALUES (1, ?, ?)", (support.BIRTH, support.birth_bytes()))
    conn.execute("INSERT INTO cursors VALUES (6, 44, 1), (7, 6000, 2)")
    conn.commit()
    conn.close()
    store = Store(path, quota_bytes=10**9)
    assert store.salvaged is None
    assert store.cursor() == (7, 6000)
    assert store.backlog().records == 6000
    assert store.birth(support.BIRTH) == support.birth_bytes()
    assert firsts(store, "cloud") == list(range(1, 1001, 10))
    store.append(support.batch(40, 5, epoch=6))
    assert store.backlog().records == 6000, "numbers of an epoch that had ended came twice"
    assert store.acknowledge("cloud", 7, 6000) == 6000
    store.close()


# ------------------------------------------------------------------------ ranges


def test_ranges_hold_what_was_put_in() -> None:
    ranges = Ranges([(5, 7), (1, 2)])
    ranges.add(10, 10)
    assert ranges.pairs() == [(1, 2), (5, 7), (10, 10)]
    ranges.add(3, 4)
    ranges.add(7, 9)
    assert ranges.pairs() == [(1, 10)]
    ranges.add(20, 30)
    assert list(ranges.outside(0, 40)) == [(0, 0), (11, 19), (31, 40)]
    assert list(ranges.outside(5, 25)) == [(11, 19)]
    assert list(ranges.inside(5, 25)) == [(5, 10), (20, 25)]
    assert list(Ranges().outside(3, 4)) == [(3, 4)]
    assert common([ranges, Ranges([(8, 22)])]) == [(8, 10), (20, 22)]
    ranges.forget_below(11)
    assert ranges.pairs() == [(20, 30)]
    assert 25 in ranges
    assert 31 not in ranges


def test_a_link_with_too_many_holes_needs_again_what_it_can_not_keep(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "RANGES_MAX", 3)
    store = Store(path, quota_bytes=10**9, links=LINKS)
    for first in range(1, 200, 10):
        store.append(support.batch(first, 10))
    ids = [frame.id for frame in store.pending("cloud", 0, 100)]
    store.discard("cloud", ids[1::2])
    assert len(firsts(store, "cloud")) == store.backlog("cloud").frames == 17
    assert bases(store, "cloud") == {1}
    assert store.acknowledge("cloud", 7, 190) == 170
    assert firsts(store, "cloud") == []
    assert store.backlog("cloud").records == 0
    assert len(firsts(store, "customer")) == store.backlog().frames == 20
    store.close()
