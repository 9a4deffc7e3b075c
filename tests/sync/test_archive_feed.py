"""The archive's place in the store: nothing missing, nothing twice, and no backlog."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
from pathlib import Path

import numpy as np
import pytest

from sync import wire
from sync.archive import feed as feed_module
from sync.archive.accounts import REASON_HOLE
from sync.archive.archive import TIME_MAX, TIME_MIN, AsyncArchive
from sync.errors import StoreFull
from sync.store.async_store import AsyncStore
from sync.store.links import HISTORY
from tests.sync.archive_case import everything, expected, fed, rows_of
from tests.sync.support import BIRTH, EPOCH, batch, birth


async def test_frames_stay_until_the_archive_has_them(tmp_path: Path) -> None:
    async with fed(tmp_path) as (store, archive, feed):
        parts = [rows_of(1 + n * 50, 50) for n in range(20)]
        for part in parts:
            await store.append(part)
            await store.acknowledge("cloud", EPOCH, part.last)
        assert (await store.backlog()).frames == 0, "what the archive waits for is no backlog"
        assert (await store.backlog(HISTORY)).frames == 20
        assert await everything(archive, 3) == expected(parts, 3), "a reader sees it already"
        assert (await store.backlog(HISTORY)).frames == 20
        await feed.commit()
        assert (await store.backlog(HISTORY)).frames == 0
        assert await everything(archive, 3) == expected(parts, 3)
    async with fed(tmp_path) as (_, archive, feed):
        await feed.commit()
        assert await everything(archive, 3) == expected(parts, 3)


async def test_a_death_between_commit_and_acknowledgement_keeps_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [rows_of(1 + n * 50, 50) for n in range(10)]
    async with fed(tmp_path) as (store, archive, feed):
        for part in parts:
            await store.append(part)

        async def dead(*_: object) -> int:
            raise StoreFull("the process died here")

        with monkeypatch.context() as patch:
            patch.setattr(store, "acknowledge", dead)
            with pytest.raises(StoreFull):
                await feed.commit()
    async with fed(tmp_path) as (store, archive, feed):
        assert (await store.backlog(HISTORY)).frames > 0
        await feed.commit()
        assert (await store.backlog(HISTORY)).frames == 0
        assert await everything(archive, 3) == expected(parts, 3)


async def test_frames_that_became_one_are_taken_once(tmp_path: Path) -> None:
    """While the broker is away small frames become one, which may straddle what was taken."""
    parts = [rows_of(1 + n * 20, 20) for n in range(300)]
    async with fed(tmp_path) as (store, archive, feed):
        for n, part in enumerate(parts):
            await store.append(part)
            if n % 37 == 0:
                await everything(archive, 1)
            if n % 101 == 0:
                await feed.commit()
        assert (await store.backlog("cloud")).frames < 150
        assert await everything(archive, 1) == expected(parts, 1)
        await feed.commit()
        assert (await store.backlog(HISTORY)).frames == 0
        assert await everything(archive, 1) == expected(parts, 1)


async def test_a_store_over_its_quota_lets_history_go_first(tmp_path: Path) -> None:
    async with fed(tmp_path, store_bytes=1_000_000) as (store, archive, feed):
        rng = np.random.default_rng(1)
        parts = [rows_of(1 + n * 2000, 2000) for n in range(80)]
        for part in parts:
            part.records["value"] = rng.normal(size=2000)
            await store.append(part)
            await store.acknowledge("cloud", EPOCH, part.last)
            if part.first == 1:
                await feed.commit()
        usage = await store.usage()
        assert usage.used_bytes <= 1_000_000 and usage.thinned == 0
        await feed.commit()
        found = await everything(archive, 1)
        assert found[:200] == expected(parts, 1)[:200]
        assert found[200:] == expected(parts, 1)[200 - len(found) :] and len(found) > 200
        (hole,) = await archive.gaps(TIME_MIN, TIME_MAX)
        assert hole[2] == REASON_HOLE and hole[0] < found[200][0] <= hole[1] + 10**9


async def test_no_links_at_all_and_no_history_any_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with fed(tmp_path, links=()) as (store, archive, feed):
        await store.append(rows_of(1, 100))
        assert (await store.backlog()).frames == 0
        await feed.commit()
        await store.append(rows_of(101, 100))
        assert await everything(archive, 2) == expected([rows_of(1, 200)], 2)
        await feed.commit()
    with caplog.at_level(logging.WARNING):
        store = await AsyncStore.open(tmp_path / "link.sqlite", quota_bytes=10_000_000)
    assert "the history is configured no longer" in caplog.text
    await store.append(rows_of(201, 50))
    await store.acknowledge("cloud", EPOCH, 250)
    assert (await store.backlog()).frames == 0
    await store.append(rows_of(251, 50))
    await store.close()
    async with fed(tmp_path) as (_, archive, feed):
        await feed.commit()
        found = await everything(archive, 2)
        assert found[:20] == expected([rows_of(1, 200)], 2)
        gaps = await archive.gaps(TIME_MIN, TIME_MAX)
        assert [gap[2] for gap in gaps] == [REASON_HOLE]


async def test_a_full_disk_of_the_archive_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fed(tmp_path) as (store, archive, feed):
        file = archive._file
        write = file.write

        def full(turn: object) -> None:
            raise StoreFull("no room")

        monkeypatch.setattr(file, "write", full)
        await store.append(rows_of(1, 100))
        with pytest.raises(StoreFull):
            await feed.commit()
        await store.append(rows_of(101, 100))
        assert (await archive.state()).problem == "no room"
        assert await everything(archive, 1) == expected([rows_of(1, 200)], 1)
        monkeypatch.setattr(file, "write", write)
        await feed.commit()
        assert archive.rows_waiting == 0, "what came after the turn that failed is written, too"
        assert (await archive.state()).problem == ""
        assert (await store.backlog(HISTORY)).frames == 0
        assert await everything(archive, 1) == expected([rows_of(1, 200)], 1)


async def test_the_feed_runs_by_itself_and_at_once_when_much_came(tmp_path: Path) -> None:
    async with fed(tmp_path) as (store, archive, feed):
        running = asyncio.create_task(feed.run())
        part = rows_of(1, 70_000)
        await store.append(part)
        for _ in range(4):
            feed.appended(part)
        async with asyncio.timeout(20):
            while (await store.backlog(HISTORY)).frames:
                await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert archive.rows_waiting == 0


async def test_few_values_wait_in_the_store_for_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_module, "WAITS_MAX", 3)
    async with fed(tmp_path) as (store, archive, _):
        waits: list[int] = []
        feed = feed_module.Feed(store, archive, 0.01)
        commit = feed.commit

        async def counted() -> None:
            waits.append(feed._waits_left)
            await commit()

        monkeypatch.setattr(feed, "commit", counted)
        running = asyncio.create_task(feed.run())
        await store.append(rows_of(1, 100))
        feed.appended(rows_of(1, 100))
        async with asyncio.timeout(20):
            while len(waits) < 4:
                await asyncio.sleep(0.005)
        assert waits == [0] * 4, "none before its time"
        assert (await store.backlog(HISTORY)).frames == 0
        await store.append(rows_of(101, 5000))
        feed.appended(rows_of(101, 5000))
        async with asyncio.timeout(20):
            while (await store.backlog(HISTORY)).frames:
                await asyncio.sleep(0.005)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_reader_asks_the_store_only_where_something_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fed(tmp_path) as (store, archive, _):
        asked = 0
        peek = store.peek

        async def counted(link: str, after_id: int, limit: int) -> list[tuple[int, bytes]]:
            nonlocal asked
            asked += 1
            return await peek(link, after_id, limit)

        monkeypatch.setattr(store, "peek", counted)
        await store.append(rows_of(1, 100))
        for _ in range(10):
            assert len(await everything(archive, 1)) == 10
        assert asked == 1
        await store.append(rows_of(101, 100))
        assert len(await everything(archive, 1)) == 20
        assert asked == 2


async def test_a_long_table_is_numbered_beside_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []
    decode = wire.decode_birth

    def seen(body: bytes) -> object:
        threads.append(threading.current_thread())
        return decode(body)

    monkeypatch.setattr(wire, "decode_birth", seen)
    async with fed(tmp_path) as (store, archive, feed):
        await store.append(rows_of(1, 100))
        await feed.commit()
        assert len(await everything(archive, 1)) == 10
    assert threads and threading.main_thread() not in threads


async def test_a_backlog_larger_than_a_small_quota_leaves_the_newest(tmp_path: Path) -> None:
    """What a small file takes at once is a small part of it."""
    rng = np.random.default_rng(1)
    quota = 1_000_000
    store = await AsyncStore.open(
        tmp_path / "link.sqlite", quota_bytes=50_000_000, links=("cloud", HISTORY)
    )
    await store.put_birth(BIRTH, wire.encode_birth(birth(points=10)))
    for n in range(60):
        part = rows_of(1 + n * 4000, 4000)
        part.records["value"] = rng.normal(size=4000)
        await store.append(part)
    archive = await AsyncArchive.open(tmp_path / "history.sqlite", quota_bytes=quota)
    await feed_module.Feed(store, archive, 60.0).commit()
    assert (await store.backlog(HISTORY)).frames == 0
    assert archive._file.disk_bytes() <= quota
    found = await everything(archive, 1)
    assert found and found[-1] == expected([part], 1)[-1]
    await archive.close()
    await store.close()


@pytest.mark.parametrize("damage", ["parts", "header", "blocks"])
async def test_a_damaged_file_is_kept_aside_and_what_is_whole_saved(
    tmp_path: Path, damage: str
) -> None:
    parts = [rows_of(1 + n * 3000, 3000) for n in range(10)]
    async with fed(tmp_path) as (store, _, feed):
        for part in parts:
            await store.append(part)
            await feed.commit()
    name = tmp_path / "history.sqlite"
    with sqlite3.connect(name) as conn:
        body = conn.execute("SELECT body FROM parts ORDER BY id LIMIT 1").fetchone()[0]
    content = bytearray(name.read_bytes())
    if damage == "header":
        content[:100] = b"\xff" * 100
    elif damage == "parts":
        at = content.index(body[200:250])
        content[at : at + 8] = b"\xa5" * 8
    else:
        content[4096:20480] = b"\0" * 16384
    name.write_bytes(content)
    async with fed(tmp_path) as (store, archive, feed):
        extra = batch(30_001, 10)
        extra.records["utc_ns"] += 10**13
        await store.append(extra)
        found = await everything(archive, 1)
        await feed.commit()
        assert await everything(archive, 1) == found
        assert len(set(found)) == len(found) > 0
        assert set(found) <= set(expected([*parts, extra], 1))
        assert (tmp_path / "history.sqlite.damaged-1").exists() == bool(
            (await archive.state()).damaged
        )
        assert (await archive.state()).damaged
