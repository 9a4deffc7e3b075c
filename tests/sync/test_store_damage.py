"""A damaged store is salvaged, never deleted; a killed one loses nothing."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gateway.core.records import Batch, Gap
from sync.errors import StoreDamaged, StoreFull
from sync.store import database, quota
from sync.store import store as store_module
from sync.store.async_store import AsyncStore
from sync.store.salvage import SalvageReport
from sync.store.store import Store
from tests.crash.power_migration import FRAMES, NUMBERS, write_schema_1
from tests.sync import support
from tests.sync.holding import declared, held, numbers, spans

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


# ------------------------------------------------------------------------ damage


PAGE = 1024


def noisy(first: int, count: int, epoch: int = support.EPOCH) -> Batch:
    """Rows whose values take eight bytes each, so that a frame takes several pages."""
    made = support.batch(first, count, epoch=epoch)
    made.records["value"] = np.random.default_rng(first).random(count)
    return made


def fill(path: Path, frames: int = 200) -> None:
    store = Store(path, quota_bytes=10**9)
    store.put_birth(support.BIRTH, support.birth_bytes())
    for number in range(frames):
        store.append(noisy(number * 200 + 1, 200))
    store.close()


def root_of(path: Path, table: str) -> int:
    """The page from which all of a table is found, counted from 0."""
    conn = sqlite3.connect(path)
    sql = "SELECT rootpage FROM sqlite_master WHERE name = ?"
    found: int = conn.execute(sql, (table,)).fetchone()[0] - 1
    conn.close()
    return found


def tear(path: Path) -> None:
    """Zeroes four pages in the middle of the file."""
    data = bytearray(path.read_bytes())
    middle = len(data) // 2 // PAGE * PAGE
    data[middle : middle + 4 * PAGE] = bytes(4 * PAGE)
    path.write_bytes(data)


def test_garbage_is_moved_aside_and_a_new_store_begins(path: Path) -> None:
    path.write_bytes(b"this is no database" * 1000)
    store = Store(path, quota_bytes=10**9)
    report = store.salvaged
    assert report is not None
    assert report.frames == 0
    assert report.moved_to.name == "store.db.damaged-1"
    assert report.moved_to.read_bytes().startswith(b"this is no database")
    store.append(support.batch(1, 10))
    store.close()
    path.write_bytes(b"and again" * 1000)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    again = Store(path, quota_bytes=10**9)
    assert again.salvaged is not None
    assert again.salvaged.moved_to.name == "store.db.damaged-2"
    again.close()


def test_a_sound_store_is_not_salvaged(path: Path) -> None:
    fill(path, 3)
    store = Store(path, quota_bytes=10**9)
    assert store.salvaged is None
    store.close()


def test_a_body_with_a_flipped_bit_becomes_a_declared_gap(path: Path) -> None:
    fill(path, 3)
    conn = sqlite3.connect(path)
    ids = [row[0] for row in conn.execute("SELECT id FROM frames ORDER BY id")]
    body = bytearray(conn.execute("SELECT body FROM frames WHERE id = ?", ids[1:2]).fetchone()[0])
    body[len(body) // 2] ^= 0x10
    conn.execute("UPDATE frames SET body = ? WHERE id = ?", (bytes(body), ids[1]))
    conn.commit()
    conn.close()
    store = Store(path, quota_bytes=10**9)
    assert numbers(store) == [*range(1, 201), *range(401, 601)]
    assert declared(store) == [Gap(201, 400, quota.REASON_DAMAGED)]
    store.close()


@pytest.mark.parametrize("seed", range(8))
def test_torn_pages_cost_what_stood_on_them_and_no_more(path: Path, seed: int) -> None:
    fill(path)
    chance = random.Random(seed)
    data = bytearray(path.read_bytes())
    pages = len(data) // PAGE
    for page in chance.sample(range(10, pages), 8):
        data[page * PAGE : (page + 1) * PAGE] = chance.randbytes(PAGE)
    path.write_bytes(data)
    store = Store(path, quota_bytes=10**9)
    report = store.salvaged
    assert report is not None, "damage in four pages went unnoticed"
    assert report.moved_to.read_bytes() == bytes(data), "the damaged file was changed"
    got = numbers(store)
    assert got == sorted(set(got))
    lost = [n for gap in declared(store) for n in range(gap.first, gap.last + 1)]
    assert not set(lost) & set(got)
    if got:
        # From the first number that survived on, every number is there or declared.
        assert sorted([*got, *lost]) == list(range(min([*got, *lost]), max([*got, *lost]) + 1))
        assert store.birth(support.BIRTH) is not None or report.births == 0
    store.append(support.batch(40_001, 10))
    store.close()


def test_most_frames_survive_a_torn_page(path: Path) -> None:
    fill(path)
    tear(path)
    store = Store(path, quota_bytes=10**9)
    assert store.salvaged is not None
    assert store.salvaged.complete
    assert store.salvaged.records > 24_000
    assert store.birth(support.BIRTH) is not None
    assert store.cursor() == (7, 40_000)
    store.close()


@pytest.mark.parametrize("what", ["the header", "the root of the frames", "an inner page"])
def test_a_torn_page_of_a_tree_hides_none_of_what_stands_below_it(path: Path, what: str) -> None:
    fill(path)
    root = root_of(path, "frames")
    data = bytearray(path.read_bytes())
    inner = [at for at in range(len(data) // PAGE) if data[at * PAGE] == 5]
    page = {"the header": 0, "the root of the frames": root, "an inner page": inner[-1]}[what]
    data[page * PAGE : (page + 1) * PAGE] = bytes(PAGE)
    path.write_bytes(data)
    store = Store(path, quota_bytes=10**9)
    assert store.salvaged is not None
    assert numbers(store) == list(range(1, 40_001))
    assert store.birth(support.BIRTH) == support.birth_bytes()
    assert store.cursor() == (7, 40_000)
    store.close()


def test_damage_that_a_migration_meets_costs_what_stood_there_and_no_more(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "CHECK_BYTES_MAX", 0)  # as for a large file
    monkeypatch.setattr(database, "_MOVE_FRAMES", 8)
    write_schema_1(path)
    wal = sqlite3.connect(path)
    wal.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    wal.close()
    data = bytearray(path.read_bytes())
    leaves = [at for at in range(len(data) // 4096) if data[at * 4096] == 13]
    page = leaves[len(leaves) // 2]
    data[page * 4096 : (page + 1) * 4096] = bytes(4096)
    path.write_bytes(data)
    store = Store(path, quota_bytes=10**9)
    assert store.salvaged is not None
    assert store.salvaged.frames >= FRAMES - 4
    got = [n for _, first, last in spans(store) for n in range(first, last + 1)]
    assert got == list(range(1, FRAMES * NUMBERS + 1)), "what is lost is not declared"
    store.close()


def test_frames_that_were_let_go_do_not_come_back_from_free_pages(path: Path) -> None:
    store = Store(path, quota_bytes=10**9)
    store.put_birth(support.BIRTH, support.birth_bytes())
    for number in range(200):
        store.append(noisy(number * 200 + 1, 200))
        if number == 150:
            store.acknowledge("cloud", 7, 20_000)
    kept = numbers(store)
    store.close()
    root = root_of(path, "frames")
    data = bytearray(path.read_bytes())
    data[root * PAGE : (root + 1) * PAGE] = bytes(PAGE)
    path.write_bytes(data)
    again = Store(path, quota_bytes=10**9)
    assert numbers(again)[-len(kept) :] == kept
    assert len(numbers(again)) < len(kept) + 10_000
    again.close()


def test_the_newest_epoch_is_the_cursor_after_a_salvage_too(path: Path) -> None:
    store = Store(path, quota_bytes=10**9)
    store.append(support.batch(1, 10, epoch=6))
    for number in range(100):
        store.append(noisy(number * 200 + 1, 200))
    store.acknowledge("cloud", 6, 10)
    assert store.cursor() == (7, 20_000)
    store.close()
    tear(path)
    again = Store(path, quota_bytes=10**9)
    assert again.salvaged is not None
    assert again.cursor() == (7, 20_000)
    # Epoch 6 is known still: what comes a second time is skipped.
    again.append(support.batch(1, 10, epoch=6))
    assert {epoch for epoch, _, _ in spans(again)} == {7}
    again.close()


@pytest.mark.parametrize("moment", ["_look", "_adopt", "move_aside"])
def test_a_salvage_that_is_cut_short_begins_anew(
    path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    fill(path)
    tear(path)

    class PowerCut(BaseException):
        pass

    def cut(*_: object) -> None:
        raise PowerCut

    with monkeypatch.context() as patch:
        if moment == "_look":  # the first look at the new file; the damaged one has been parked
            seen: list[object] = []
            patch.setattr(Store, "_look", lambda _: seen.append(0) or cut())
        elif moment == "_adopt":
            patch.setattr(Store, "_adopt", cut)
        else:
            patch.setattr(store_module, "move_aside", cut)
        with pytest.raises(PowerCut):
            Store(path, quota_bytes=10**9)
    store = Store(path, quota_bytes=10**9)
    assert store.salvaged is not None
    assert store.salvaged.moved_to.name == "store.db.damaged-1"
    assert store.salvaged.records > 24_000
    assert store.cursor() == (7, 40_000)
    store.close()
    assert not [name for name in path.parent.iterdir() if "salvaging" in name.name]
    again = Store(path, quota_bytes=10**9)
    assert again.salvaged is None
    assert again.cursor() == (7, 40_000)
    again.close()


def test_an_id_from_before_a_salvage_is_nobodys_afterwards(path: Path) -> None:
    fill(path, 5)
    store = Store(path, quota_bytes=10**9)
    store.append(noisy(1001, 200))
    ids = [frame.id for frame in store.pending("cloud", 0, 10)]
    assert store.recover().frames == len(ids) == 6
    assert store.discard("cloud", ids) == 0, "a frame that nobody took was deleted"
    assert numbers(store) == list(range(1, 1201))
    assert store.newest > ids[-1]
    store.close()


async def test_two_calls_that_meet_the_same_damage_salvage_it_once(path: Path) -> None:
    fill(path)
    store = await AsyncStore.open(path, quota_bytes=10**9)
    await store._call(store._store._file.rows, "PRAGMA cache_size = 1")
    await store._call(store._store._file.rows, "PRAGMA shrink_memory")
    data = bytearray(path.read_bytes())
    for page in range(20, len(data) // PAGE, 28):
        data[page * PAGE : (page + 1) * PAGE] = bytes(PAGE)
    path.write_bytes(data)
    await asyncio.gather(*(store.pending("cloud", 0, 200) for _ in range(8)))
    assert store.salvages == 1
    await store.close()


async def test_a_salvage_that_fails_is_tried_again_with_the_next_call(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(path)
    store = await AsyncStore.open(path, quota_bytes=10**9)

    def full(_: object) -> None:
        raise StoreFull("no room")

    def damaged() -> None:
        raise StoreDamaged("torn")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "_look", full)
        for _ in range(2):
            with pytest.raises(StoreFull):
                await store._call(damaged)
            with pytest.raises(StoreFull):
                await store.cursor()
    assert store.salvages == 0
    assert await store.cursor() == (7, 40_000)
    assert (await store.backlog()).records == 40_000
    assert store.salvages == 1
    await store.close()


async def test_damage_while_in_use_is_salvaged_and_the_call_goes_on(path: Path) -> None:
    fill(path)
    store = await AsyncStore.open(path, quota_bytes=10**9)
    reports: list[SalvageReport] = []
    store.on_salvage = reports.append
    await store._call(store._store._file.rows, "PRAGMA cache_size = 1")
    await store._call(store._store._file.rows, "PRAGMA shrink_memory")
    data = bytearray(path.read_bytes())
    for page in range(20, len(data) // PAGE, 28):
        data[page * PAGE : (page + 1) * PAGE] = bytes(PAGE)
    path.write_bytes(data)
    after = 0
    while frames := await store.pending("cloud", after, 50):
        after = frames[-1].id
    await store.append(support.batch(40_001, 10))
    assert len(reports) == store.salvages == 1
    assert await store.cursor() == (7, 40_010)
    await store.close()
    await store.close()


# ------------------------------------------------------------------------ kill -9


def test_kill_9_while_appending_loses_nothing_that_was_committed(path: Path) -> None:
    committed = 0
    chance = random.Random(3)
    for _ in range(4):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.sync.appender", str(path)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for _ in range(chance.randint(3, 60)):
            committed = int(process.stdout.readline())
        process.kill()
        process.wait()
        rest = process.stdout.read().split()
        committed = int(rest[-1]) if rest and rest[-1].isdigit() else committed
        process.stdout.close()
    store = Store(path, quota_bytes=10**9)
    assert store.salvaged is None
    cursor = store.cursor()
    assert cursor is not None
    assert cursor[1] >= committed
    covered = [n for f in held(store) for n in range(f.batch.first, f.batch.last + 1)]
    assert covered == list(range(1, cursor[1] + 1))
    assert declared(store) == []
    store.close()
