"""A store read by a tool: read-only, in short looks, beside its owner."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from sync.errors import StoreDamaged, StoreFailed
from sync.store.reader import PIECE_FRAMES, StoreReader
from sync.store.store import Store
from tests.crash.power_store import batch
from tests.sync import support

FRAMES = 2 * PIECE_FRAMES + 2
SIZE = 2_500  # wild values: the store joins smaller frames


def fill(store: Store, frames: int, first: int = 1) -> None:
    store.put_birth(support.BIRTH, support.birth_bytes())
    for at in range(frames):
        store.append(batch(support.EPOCH, first + at * SIZE, SIZE, support.BIRTH))


def test_every_frame_is_read_in_order(tmp_path: Path) -> None:
    path = tmp_path / "link.sqlite"
    with contextlib.closing(Store(path, quota_bytes=10**9)) as store:
        fill(store, FRAMES)
    with StoreReader(path) as reader:
        kept = list(reader.frames())
        assert [frame.first for frame in kept] == [at * SIZE + 1 for at in range(FRAMES)]
        assert all(frame.batch is not None for frame in kept)
        assert [frame.place for frame in kept] == sorted(frame.place for frame in kept)
        left = reader.left()
        assert (left.frames, left.records) == (FRAMES, FRAMES * SIZE)
        assert list(reader.births()) == [support.BIRTH]
        assert reader.ends() == {support.EPOCH: FRAMES * SIZE}
        assert not reader.in_use


def test_what_a_link_needs_is_what_the_store_says_it_needs(tmp_path: Path) -> None:
    path = tmp_path / "link.sqlite"
    store = Store(path, quota_bytes=10**9, links=("cloud", "customer"))
    with contextlib.closing(store):
        fill(store, FRAMES)
        store.acknowledge("cloud", support.EPOCH, 50 * SIZE)
        ids = [frame.id for frame in store.pending("customer", 0, 10)]
        store.discard("customer", ids[3:5])
        said = {link: store.backlog(link) for link in ("cloud", "customer")}
    with StoreReader(path) as reader:
        for link, done in reader.links().items():
            left, backlog = reader.left(done), said[link]
            assert (left.frames, left.records) == (backlog.frames, backlog.records)
            assert left.oldest_ns == backlog.oldest_utc_ns


def test_a_look_beside_the_owner_does_not_hold_up_its_log(tmp_path: Path) -> None:
    path = tmp_path / "link.sqlite"
    with contextlib.closing(Store(path, quota_bytes=10**9)) as store, StoreReader(path) as reader:
        fill(store, FRAMES)
        assert reader.in_use
        with contextlib.closing(reader.frames()) as frames:
            next(frames)  # under way, with two pieces still to come
            with contextlib.closing(sqlite3.connect(path)) as other:
                found = other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            assert found == (0, 0, 0), "the reader kept the log from going into the file"
            store.append(batch(support.EPOCH, FRAMES * SIZE + 1, 20, support.BIRTH))
            assert len(list(frames)) == FRAMES  # those that were there, and the new one


def test_frames_behind_a_damaged_page_are_found(tmp_path: Path) -> None:
    path = tmp_path / "link.sqlite"
    with contextlib.closing(Store(path, quota_bytes=10**9)) as store:
        fill(store, FRAMES)
    data = bytearray(path.read_bytes())
    page = int.from_bytes(data[16:18], "big")
    middle = len(data) // 2 // page * page
    data[middle : middle + page] = bytes(page)
    path.write_bytes(data)
    with StoreReader(path) as reader:
        assert reader.problem()
        numbers = np.concatenate([batch.records["seq"] for batch in reader.readable()])
        assert reader.damaged
        with pytest.raises(StoreDamaged):
            list(reader.frames())
    assert FRAMES * SIZE * 0.9 < len(numbers) < FRAMES * SIZE
    assert np.array_equal(numbers, np.unique(numbers))
    assert path.read_bytes() == data


@pytest.mark.parametrize(
    ("content", "kind"), [(b"a text, and no database at all", StoreDamaged), (b"", StoreFailed)]
)
def test_what_is_no_store_is_a_typed_error(
    tmp_path: Path, content: bytes, kind: type[Exception]
) -> None:
    path = tmp_path / "link.sqlite"
    with pytest.raises(StoreFailed, match="No such file"):
        StoreReader(path)
    path.write_bytes(content)
    with pytest.raises(kind):
        StoreReader(path)
    assert [name.name for name in tmp_path.iterdir()] == ["link.sqlite"]


def test_a_closed_reader_says_so(tmp_path: Path) -> None:
    path = tmp_path / "link.sqlite"
    Store(path, quota_bytes=10**9).close()
    reader = StoreReader(path)
    reader.close()
    reader.close()
    with pytest.raises(StoreFailed, match="closed"):
        reader.births()
