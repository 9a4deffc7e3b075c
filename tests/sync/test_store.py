"""The store: nothing that was committed is lost, whatever happens to process, disk and file."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.core.records import Gap
from sync import wire
from sync.errors import StoreError, StoreFailed, StoreFull, StoreLocked, StoreReadOnly
from sync.store import quota
from sync.store import store as store_module
from sync.store.store import Store
from tests.sync import support
from tests.sync.holding import declared, held, numbers, spans

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    made = Store(path, quota_bytes=10**9)
    yield made
    made.close()


# ------------------------------------------------------------------------ cursor and frames


def test_a_new_store_has_neither_cursor_nor_backlog(store: Store) -> None:
    assert store.cursor() is None
    assert store.newest == 0
    assert store.backlog() == store_module.Backlog(0, 0, 0, 0)
    assert store.pending("cloud", 0, 10) == []


def test_what_was_appended_is_there_after_a_restart(path: Path, store: Store) -> None:
    store.put_birth(support.BIRTH, b"birth")
    store.append(support.batch(1, 10))
    newest = store.append(support.batch(11, 5, events=(12,)))
    before = store.backlog()
    assert (before.frames, before.records) == (2, 15)
    store.close()
    again = Store(path, quota_bytes=10**9)
    assert again.cursor() == (support.EPOCH, 15)
    assert again.newest == newest
    assert again.backlog() == before
    assert again.birth(support.BIRTH) == b"birth"
    assert again.current_birth == support.BIRTH
    assert numbers(again) == [*range(1, 12), 13, 14, 15]
    again.close()


def test_appending_twice_changes_nothing(store: Store) -> None:
    first = store.append(support.batch(1, 10))
    assert store.append(support.batch(1, 10)) == first
    assert store.append(support.batch(3, 4)) == first
    assert spans(store) == [(7, 1, 10)]


def test_an_overlapping_batch_is_cut_at_the_cursor(store: Store) -> None:
    store.append(support.batch(1, 10))
    store.append(support.batch(8, 10, events=(9, 12), gaps=(Gap(10, 11, "x"),)))
    assert spans(store) == [(7, 1, 10), (7, 11, 17)]
    last = held(store)[-1].batch
    assert last.gaps == (Gap(11, 11, "x"),)
    assert [event.seq for event in last.events] == [12]


def test_a_hole_in_the_stream_is_declared(store: Store) -> None:
    store.append(support.batch(1, 10))
    store.append(support.batch(21, 5))
    assert spans(store) == [(7, 1, 10), (7, 11, 25)]
    assert declared(store) == [Gap(11, 20, store_module.REASON_HOLE)]


def test_the_first_batch_may_begin_anywhere(store: Store) -> None:
    store.append(support.batch(500, 10))
    assert held(store)[0].base == 500
    assert declared(store) == []


def test_each_epoch_has_its_own_numbers(store: Store) -> None:
    store.append(support.batch(1, 10))
    store.append(support.batch(1, 3, epoch=8))
    assert store.cursor() == (8, 3)
    end = support.batch(11, 1, gaps=(Gap(11, 0, "no farewell"),))
    store.append(end)
    assert spans(store) == [(7, 1, 10), (8, 1, 3), (7, 11, 11)]


def test_a_batch_too_large_for_a_message_is_stored_in_parts(store: Store) -> None:
    noise = random.Random(1)
    big = support.batch(1, 100_000, events=tuple(range(50, 100_000, 5000)))
    big.records["value"] = [noise.random() for _ in big.records]
    big.records["utc_ns"] = [noise.getrandbits(62) for _ in big.records]
    store.append(big)
    frames = held(store)
    assert len(frames) > 1
    assert numbers(store) == big.records["seq"].tolist()
    assert sum(len(f.batch.events) for f in frames) == 20
    assert all(len(p.payload) <= wire.FRAME_BYTES_MAX for p in store.pending("cloud", 0, 100))


def test_a_batch_that_is_none_leaves_the_store_as_it_was(store: Store) -> None:
    store.append(support.batch(1, 10))
    bad = support.batch(11, 10)
    bad.records["seq"][3] = 99
    with pytest.raises(wire.WireError):
        store.append(bad)
    assert store.cursor() == (7, 10)
    assert spans(store) == [(7, 1, 10)]
    store.append(support.batch(11, 10))


# ------------------------------------------------------------------------ acknowledgement


def test_an_acknowledgement_deletes_whole_frames_of_its_epoch_only(store: Store) -> None:
    store.append(support.batch(1, 10))
    store.append(support.batch(11, 10))
    store.append(support.batch(1, 10, epoch=8))
    assert store.acknowledge("cloud", 7, 15) == 10
    assert spans(store) == [(7, 11, 20), (8, 1, 10)]
    assert store.acknowledge("cloud", 8, 10) == 10
    assert spans(store) == [(7, 11, 20)]
    assert store.acknowledge("cloud", 7, 10**9) == 10
    assert store.acknowledge("cloud", 7, 10**9) == 0
    assert store.acknowledge("cloud", 99, 5) == 0
    assert store.backlog().frames == 0
    assert store.cursor() == (8, 10)


def test_the_base_is_the_lowest_number_held(store: Store) -> None:
    for first in (1, 11, 21):
        store.append(support.batch(first, 10))
    store.append(support.batch(4, 10, epoch=8))
    store.acknowledge("cloud", 7, 10)
    assert [frame.base for frame in held(store)] == [11, 11, 4]


def test_ids_are_never_given_twice(path: Path, store: Store) -> None:
    first = store.append(support.batch(1, 10))
    store.acknowledge("cloud", 7, 10)
    store.close()
    again = Store(path, quota_bytes=10**9)
    assert again.newest == first
    assert again.append(support.batch(11, 10)) > first
    again.close()


def test_thousands_of_frames_are_acknowledged_at_once(store: Store) -> None:
    for first in range(1, 601):
        store.append(support.batch(first, 1, events=(first,)))
    assert store.acknowledge("cloud", 7, 500) == 500
    assert store.backlog().frames == 100
    store.append(support.batch(601, 1))
    held_in_file = store._file.rows("SELECT count(*), sum(length(body)) FROM frames")[0]
    assert held_in_file == (101, store.backlog().bytes)


def test_a_birth_stays_while_a_frame_needs_it(store: Store) -> None:
    store.put_birth("old", b"1")
    store.append(support.batch(1, 10, birth="old"))
    store.put_birth("unused", b"2")
    store.put_birth("new", b"3")
    assert store.birth("unused") is None
    assert store.birth("old") == b"1"
    store.acknowledge("cloud", 7, 10)
    store.append(support.batch(11, 10, birth="new"))
    assert store.birth("old") is None
    assert store.current_birth == "new"
    store.put_birth("new", b"4")
    assert store.birth("new") == b"4"


def test_rows_without_their_birth_become_a_gap_and_events_stay(store: Store) -> None:
    store.append(support.batch(1, 10, birth="lost", events=(4,)))
    store.append(support.batch(11, 10, birth="known"))
    assert store.declare_birth_lost("lost") == 9
    first, second = held(store)
    assert [event.seq for event in first.batch.events] == [4]
    assert {gap.reason for gap in first.batch.gaps} == {quota.REASON_BIRTH}
    assert len(second.batch.records) == 10


def count_steps(store: Store, work: Callable[[], object]) -> int:
    """How many thousands of SQLite's own steps a call takes: what it reads, not how long."""
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    conn = store._file._connection()
    conn.set_progress_handler(step, 1000)
    work()
    conn.set_progress_handler(None, 0)
    return steps


def test_the_length_of_the_backlog_costs_an_acknowledgement_nothing(store: Store) -> None:
    store.put_birth("old", b"1")
    store.append(support.batch(1, 2, birth="old"))
    with store._file.transaction() as conn:
        conn.execute(
            "WITH RECURSIVE n (i) AS (VALUES (2) UNION ALL SELECT i + 1 FROM n WHERE i < 20000)"
            " INSERT INTO frames"
            " SELECT i << 12, 7, i + 1, i + 1, 1, 0, 0, 'old', 0, 0, 0, x'00' FROM n"
        )
    store._look()
    store.put_birth("new", b"2")
    assert store.birth("old") == b"1"
    assert count_steps(store, lambda: store.acknowledge("cloud", 7, 3)) < 20
    assert count_steps(store, lambda: store.acknowledge("cloud", 99, 3)) < 20
    store.acknowledge("cloud", 7, 20_001)
    store.append(support.batch(20_002, 2, birth="new"))
    store._table.flush()
    assert store.birth("old") is None


# ------------------------------------------------------------------------ disks


def append_until_full(store: Store) -> tuple[int, StoreFull]:
    """Appends numbers from 1 on; returns how far it came, and the refusal."""
    stored = 0
    noise = random.Random(2)
    while True:
        batch = support.batch(stored + 1, 500)
        batch.records["value"] = [noise.random() for _ in batch.records]
        try:
            store.append(batch)
        except StoreFull as error:
            return stored, error
        stored = batch.last


def test_a_full_disk_is_an_error_and_loses_nothing(store: Store) -> None:
    pages = store._file.rows("PRAGMA page_count")[0][0]
    store._file.rows(f"PRAGMA max_page_count = {pages + 6}")
    stored, error = append_until_full(store)
    assert "disk is full" in str(error)
    assert stored > 0
    assert store.cursor() == (7, stored)
    assert numbers(store) == list(range(1, stored + 1))
    # Room comes back with the acknowledgement, and the stream goes on without a hole.
    store.acknowledge("cloud", 7, stored)
    store.append(support.batch(stored + 1, 500))
    assert numbers(store) == list(range(stored + 1, stored + 501))
    assert store.backlog().frames == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)],
        check=False,
        capture_output=True,
    )
    if mounted.returncode != 0:
        pytest.skip("no right to mount a file system here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_file_system_is_drained_by_acknowledgements(small_disk: Path) -> None:
    store = Store(small_disk / "store.db", quota_bytes=10**9)
    stored, _ = append_until_full(store)
    assert stored > 0
    assert store.cursor() == (7, stored)
    # A deletion needs room in the log as well.
    assert store.acknowledge("cloud", 7, stored) == stored
    store.append(support.batch(stored + 1, 500))
    assert numbers(store) == list(range(stored + 1, stored + 501))
    store.close()
    again = Store(small_disk / "store.db", quota_bytes=10**9)
    assert again.cursor() == (7, stored + 500)
    again.close()


def fill_disk(folder: Path) -> Path:
    """Writes a file that leaves no room at all."""
    name = folder / "other"
    with name.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return name


def test_a_store_on_a_full_file_system_starts_and_is_drained(small_disk: Path) -> None:
    store = Store(small_disk / "store.db", quota_bytes=10**9)
    store.append(support.batch(1, 500))
    store.close()
    fill_disk(small_disk)
    again = Store(small_disk / "store.db", quota_bytes=10**9)
    assert numbers(again) == list(range(1, 501))
    assert again.acknowledge("cloud", 7, 500) == 500
    again.close()


@pytest.mark.parametrize("reserve", [True, False])
def test_a_damaged_store_on_a_full_file_system_keeps_its_frames(
    small_disk: Path, reserve: bool
) -> None:
    path = small_disk / "store.db"
    store = Store(path, quota_bytes=10**9)
    noise = random.Random(5)
    for first in range(1, 40_000, 200):
        batch = support.batch(first, 200)
        batch.records["value"] = [noise.random() for _ in batch.records]
        store.append(batch)
    store.close()
    data = bytearray(path.read_bytes())
    middle = len(data) // 8192 * 4096
    data[middle : middle + 4096] = bytes(4096)
    path.write_bytes(data)
    if not reserve:
        path.with_name("store.db.reserve").unlink()
    other = fill_disk(small_disk)
    if not reserve:
        with pytest.raises(StoreError):
            Store(path, quota_bytes=10**9)
        other.unlink()
    again = Store(path, quota_bytes=10**9)
    assert again.salvaged is not None
    assert again.salvaged.records > 24_000
    assert again.cursor() == (7, 40_000)
    again.close()


def test_a_file_that_turns_read_only_is_an_error_and_stays_readable(store: Store) -> None:
    store.append(support.batch(1, 10))
    store._file.rows("PRAGMA query_only = 1")
    with pytest.raises(StoreReadOnly):
        store.append(support.batch(11, 10))
    assert numbers(store) == list(range(1, 11))
    store._file.rows("PRAGMA query_only = 0")
    store.append(support.batch(11, 10))
    assert store.cursor() == (7, 20)


@pytest.mark.parametrize("place", ["/proc/store.db", "/dev/null/store.db"])
def test_a_folder_that_can_not_be_written_is_named(place: str) -> None:
    with pytest.raises(StoreReadOnly, match=place):
        Store(Path(place), quota_bytes=10**9)


def test_a_second_owner_is_refused(path: Path, store: Store) -> None:
    with pytest.raises(StoreLocked, match="another process"):
        Store(path, quota_bytes=10**9)
    store.append(support.batch(1, 10))


def test_a_file_locked_from_outside_is_an_error_and_works_again(path: Path, store: Store) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    store._file.rows("PRAGMA busy_timeout = 50")
    with pytest.raises(StoreLocked):
        store.append(support.batch(1, 10))
    other.execute("ROLLBACK")
    other.close()
    store.append(support.batch(1, 10))
    assert numbers(store) == list(range(1, 11))


def test_a_file_of_a_newer_version_is_refused_and_kept(path: Path, store: Store) -> None:
    store.append(support.batch(1, 10))
    store._file.rows("PRAGMA user_version = 99")
    store.close()
    with pytest.raises(StoreFailed, match="newer version"):
        Store(path, quota_bytes=10**9)
    with contextlib.closing(sqlite3.connect(path)) as conn:
        assert conn.execute("SELECT count(*) FROM frames").fetchone() == (1,)


def test_a_closed_store_says_so(path: Path) -> None:
    store = Store(path, quota_bytes=10**9)
    store.close()
    store.close()
    with pytest.raises(StoreFailed, match="closed"):
        store.append(support.batch(1, 10))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_a_folder_of_somebody_else_is_read_only() -> None:
    folder = Path(tempfile.mkdtemp(prefix="gatepost-"))
    try:
        folder.chmod(0o755)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.setuid(65534)
                Store(folder / "store.db", quota_bytes=10**9)
            except StoreReadOnly:
                code = 0
            except StoreError:
                code = 2
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
    finally:
        shutil.rmtree(folder)
