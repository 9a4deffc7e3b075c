"""The simulated disk loses what was not flushed, and whoever does not flush is found out."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.core.files import replace_file, sync_folder
from sync.store.store import Store
from tests.crash.power_cuts import Broken, cut
from tests.crash.power_disk import (
    Disk,
    FolderSync,
    Mark,
    Name,
    Recorder,
    Rename,
    Sync,
    Write,
    recording,
)
from tests.crash.power_files import KeeperLife
from tests.sync import support


@dataclass
class Ledger:
    """How many rows were committed, and how many were begun."""

    durable: int = 0
    begun: int = 0


class LedgerLife:
    """A table of SQLite, flushed as much as `synchronous` says."""

    def __init__(self, synchronous: str) -> None:
        self.name = f"ledger {synchronous}"
        self._synchronous = synchronous

    def begin(self, folder: Path, chance: random.Random) -> tuple[dict[str, bytes], Ledger]:
        return {}, Ledger()

    def _open(self, folder: Path) -> sqlite3.Connection:
        conn = sqlite3.connect(folder / "ledger.db", isolation_level=None)
        conn.execute("PRAGMA journal_mode=WAL").fetchall()
        conn.execute(f"PRAGMA synchronous={self._synchronous}")
        conn.execute("CREATE TABLE IF NOT EXISTS rows (number INTEGER PRIMARY KEY, text)")
        return conn

    def live(self, folder: Path, truth: Ledger, chance: random.Random, recorder: Recorder) -> None:
        with contextlib.closing(self._open(folder)) as conn:
            for _ in range(10):
                truth.durable += 1
                recorder.mark("begun", truth.durable)
                conn.execute("INSERT INTO rows VALUES (?, ?)", (truth.durable, "x" * 3000))
                recorder.mark("durable", truth.durable)

    def promise(self, truth: Ledger, mark: Mark) -> None:
        setattr(truth, mark.what, mark.value)

    def check(self, folder: Path, truth: Ledger, chance: random.Random) -> None:
        try:
            with contextlib.closing(self._open(folder)) as conn:
                count = conn.execute("SELECT count(text) FROM rows").fetchone()[0]
                sound = conn.execute("PRAGMA quick_check").fetchone()[0]
        except sqlite3.Error as error:
            raise Broken(str(error)) from error
        if sound != "ok" or not truth.durable <= count <= truth.begun:
            raise Broken(f"{count} rows of {truth.durable}: {sound}")
        truth.durable = count


def test_a_database_that_flushes_each_commit_loses_none(tmp_path: Path) -> None:
    assert cut(LedgerLife("FULL"), tmp_path, cuts=200, seed=1).cuts == 200


@pytest.mark.parametrize("synchronous", ["NORMAL", "OFF"])
def test_a_database_that_does_not_is_found_out(tmp_path: Path, synchronous: str) -> None:
    with pytest.raises(Broken, match=r"seed 1, cut \d+"):
        cut(LedgerLife(synchronous), tmp_path, cuts=200, seed=1)


# ------------------------------------------------------------------------ files


def without_flush(path: Path, text: str) -> None:
    beside = path.with_suffix(".new")
    beside.write_text(text)
    beside.replace(path)
    sync_folder(path.parent)


def without_folder(path: Path, text: str) -> None:
    beside = path.with_suffix(".new")
    written(beside, text)
    beside.replace(path)


def in_place(path: Path, text: str) -> None:
    written(path, text)
    sync_folder(path.parent)


def written(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


class TextKeeper:
    """A text of several sectors in one file, put there by a function."""

    names = ("text",)

    def __init__(self, put: Callable[[Path, str], None]) -> None:
        self.name = put.__name__
        self._put = put

    def save(self, folder: Path, name: str, version: int) -> None:
        self._put(folder / "text.txt", f"{version} " * 1000)

    def load(self, folder: Path) -> dict[str, int]:
        path = folder / "text.txt"
        words = path.read_text().split() if path.exists() else ["0"] * 1000
        if len(words) != 1000 or len(set(words)) != 1:
            raise Broken("the text is torn")
        return {"text": int(words[0])}


def test_a_file_that_is_replaced_whole_is_always_whole(tmp_path: Path) -> None:
    assert cut(KeeperLife(TextKeeper(replace_file)), tmp_path, cuts=100, seed=1).cuts == 100


@pytest.mark.parametrize("put", [without_flush, without_folder, in_place])
def test_a_step_left_out_is_found_out(tmp_path: Path, put: Callable[[Path, str], None]) -> None:
    with pytest.raises(Broken, match=r"seed 1, cut \d+"):
        cut(KeeperLife(TextKeeper(put)), tmp_path, cuts=200, seed=1)


# ------------------------------------------------------------------------ the disk


def test_what_was_flushed_is_there_and_what_was_not_is_anybody_s_guess() -> None:
    disk = Disk({"a": b"old."})
    disk.apply(Write(1, 0, b"new!"))
    disk.apply(Sync(1))
    disk.apply(Write(1, 4, b"x" * 1024))
    found = {disk.cut(random.Random(seed))[1]["a"] for seed in range(200)}
    assert all(content.startswith(b"new!") for content in found)
    assert b"new!" in found
    assert b"new!" + b"x" * 1024 in found
    assert any(b"\0" in content for content in found)  # a later sector without the one before
    assert len(found) > 4


def test_names_come_in_their_order_and_all_of_them_with_the_folder_s_flush() -> None:
    disk = Disk({"a": b"1", "b": b"2"})
    disk.apply(Rename("a", "b"))
    disk.apply(Name("c", 3))
    found = {tuple(sorted(disk.cut(random.Random(seed))[1])) for seed in range(100)}
    assert found == {("a", "b"), ("b",), ("b", "c")}
    disk.apply(FolderSync())
    assert all(set(disk.cut(random.Random(seed))[1]) == {"b", "c"} for seed in range(20))


def test_the_same_seed_makes_the_same_cuts(tmp_path: Path) -> None:
    first = cut(LedgerLife("FULL"), tmp_path, cuts=30, seed=9)
    assert cut(LedgerLife("FULL"), tmp_path, cuts=30, seed=9) == first
    assert cut(LedgerLife("FULL"), tmp_path, cuts=30, seed=10) != first


def test_a_recording_ends_with_its_block(tmp_path: Path) -> None:
    flush = os.fsync
    with recording(tmp_path) as recorder:
        written(tmp_path / "a", "1")
    count = len(recorder.ops)
    assert count
    written(tmp_path / "b", "1")
    sqlite3.connect(tmp_path / "c").execute("CREATE TABLE t (x)").connection.close()
    assert len(recorder.ops) == count
    assert os.fsync is flush


# ------------------------------------------------------------------------ a find of these cuts


def test_the_journal_of_a_file_begun_in_a_salvage_never_rolls_the_damaged_one_back(
    tmp_path: Path,
) -> None:
    path = tmp_path / "link.sqlite"
    with contextlib.closing(Store(path, quota_bytes=10**9)) as store:
        store.put_birth(support.BIRTH, support.birth_bytes())
        store.append(support.batch(1, 100))
    path.rename(tmp_path / "link.sqlite.salvaging")
    # The power went while SQLite made the new file: it is empty, and its journal says so.
    with recording(tmp_path) as recorder, contextlib.closing(sqlite3.connect(path)) as conn:
        conn.execute("PRAGMA journal_mode=WAL")
    disk = Disk(recorder.found)
    for op in recorder.ops:
        if isinstance(op, Sync):
            break
        disk.apply(op)
    journal = tmp_path / "link.sqlite-journal"
    left = (disk.cut(random.Random(seed))[1] for seed in range(100))
    journal.write_bytes(next(names[journal.name] for names in left if names.get(journal.name)))
    path.write_bytes(b"")
    with contextlib.closing(Store(path, quota_bytes=10**9)) as store:
        assert store.cursor() == (support.EPOCH, 100)
