"""The archive: what it keeps, what it gives back, and in which order."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gateway.core.records import Batch, Event, Gap
from sync.archive import reading
from sync.archive.accounts import REASON_HOLE, REASON_OFF
from sync.archive.archive import TIME_MAX, TIME_MIN, AsyncArchive
from sync.archive.file import Head, Turn
from tests.sync.archive_case import (
    BASE_NS,
    POINTS,
    SECOND_NS,
    as_list,
    everything,
    expected,
    opened,
    rows_of,
)
from tests.sync.support import BIRTH, EPOCH, batch, birth


async def test_values_come_back_from_memory_and_from_the_file(tmp_path: Path) -> None:
    parts = [rows_of(1, 500), rows_of(501, 700), rows_of(1201, 300)]
    async with opened(tmp_path / "h") as archive:
        await archive.add(parts[:2])
        assert await everything(archive, 3) == expected(parts[:2], 3)
        await archive.flush()
        await archive.add(parts[2:])
        assert await everything(archive, 3) == expected(parts, 3)
        assert await everything(archive, 99) == []
        await archive.flush()
    async with opened(tmp_path / "h") as archive:
        for point in range(1, POINTS + 1):
            assert await everything(archive, point) == expected(parts, point)


async def test_what_came_before_is_left_out(tmp_path: Path) -> None:
    async with opened(tmp_path / "h") as archive:
        await archive.add([rows_of(1, 300)])
        await archive.flush()
        await archive.add([rows_of(1, 300), rows_of(201, 200)])
        assert await everything(archive, 1) == expected([rows_of(1, 400)], 1)
    async with opened(tmp_path / "h") as archive:
        await archive.add([rows_of(101, 500)])
        await archive.flush()
        assert await everything(archive, 1) == expected([rows_of(1, 600)], 1)


async def test_range_limit_skip_and_reverse_against_a_plain_list(tmp_path: Path) -> None:
    rng = random.Random(5)
    whole = rows_of(1, 4000)
    times = whole.records["utc_ns"]
    times[:] = BASE_NS + np.array([rng.randrange(300) for _ in times]) * SECOND_NS
    async with opened(tmp_path / "h") as archive:
        for first in range(1, 4000, 250):
            await archive.add([_part(whole, first, 250)])
            if rng.random() < 0.7:
                await archive.flush()
        for _ in range(60):
            point = rng.randrange(1, POINTS + 1)
            start, end = sorted(BASE_NS + rng.randrange(-10, 310) * SECOND_NS for _ in "ab")
            limit, skip = rng.choice([0, 1, 7, 50]), rng.choice([0, 0, 3, 20])
            reverse = rng.random() < 0.5
            wanted = [row for row in expected([whole], point) if start <= row[0] < end]
            wanted = (wanted[::-1] if reverse else wanted)[skip:][: limit or None]
            found = await archive.read(
                f"Device.Channel_{point}", start, end, limit, skip=skip, reverse=reverse
            )
            assert as_list(found) == wanted


def _part(whole: Batch, first: int, count: int) -> Batch:
    rows = whole.records[first - 1 : first - 1 + count]
    return replace(whole, first=first, last=first + count - 1, records=rows)


async def test_bounds_are_the_values_next_to_a_range(tmp_path: Path) -> None:
    async with opened(tmp_path / "h") as archive:
        await archive.add([rows_of(1, 1000)])
        await archive.flush()
        await archive.add([rows_of(1001, 1000)])
        values = expected([rows_of(1, 2000)], 4)
        for at in (0, 5, 99, 100, 150, 199):
            time = values[at][0]
            before, after = await archive.bounds("Device.Channel_4", time, time + 1)
            assert as_list(before) == values[max(at - 1, 0) : at]
            assert as_list(after) == values[at + 1 : at + 2]


async def test_small_blocks_become_few_and_sparse_points_cost_no_row_each(tmp_path: Path) -> None:
    parts = [rows_of(1 + n * 20, 20) for n in range(70)]
    async with opened(tmp_path / "h") as archive:
        for part in parts:
            await archive.add([part])
            await archive.flush()
        for point in (1, 7):
            assert await everything(archive, point) == expected(parts, point)
    with sqlite3.connect(tmp_path / "h") as conn:
        assert conn.execute("SELECT count(*) FROM blocks").fetchone()[0] < 20
        assert conn.execute("SELECT count(*) FROM parts").fetchone()[0] < 20


def test_which_blocks_are_merged() -> None:
    def heads(*levels_rows: tuple[int, int]) -> list[Head]:
        return [Head(n, level, rows, 0, 0, 0, n) for n, (level, rows) in enumerate(levels_rows)]

    assert reading.to_merge(heads(*[(0, 10)] * 15), 1000) == []
    assert len(reading.to_merge(heads(*[(0, 10)] * 20), 1000)) == 16
    assert len(reading.to_merge(heads(*[(0, 240)] * 9), 1000)) == 4
    assert reading.to_merge(heads(*[(0, 400)] * 9), 1000) == []
    mixed = heads(*[(1, 10)] * 5, *[(0, 10)] * 16)
    assert [head.id for head in reading.to_merge(mixed, 1000)] == list(range(5, 21))


async def test_events_by_time_and_kind(tmp_path: Path) -> None:
    def told(first: int, *kinds: str) -> Batch:
        events = tuple(
            Event(first + n, BASE_NS + (first + n) * SECOND_NS, kind, {"n": first + n})
            for n, kind in enumerate(kinds)
        )
        empty = rows_of(1, 1).records[:0]
        return Batch(EPOCH, first, first + len(kinds) - 1, BIRTH, empty, events)

    async with opened(tmp_path / "h") as archive:
        await archive.add([told(1, "alarm", "trip", "alarm")])
        await archive.flush()
        await archive.add([told(4, "alarm", "state")])

        async def numbers(*args: object, **how: object) -> list[int]:
            found = await archive.events(TIME_MIN, TIME_MAX, *args, **how)  # type: ignore[arg-type]
            assert all(entry.epoch == EPOCH and entry.event.body["n"] for entry in found)
            return [entry.event.seq for entry in found]

        assert await numbers(0) == [1, 2, 3, 4, 5]
        assert await numbers(3) == [1, 2, 3]
        assert await numbers(2, ("alarm",), skip=1) == [3, 4]
        assert await numbers(2, reverse=True) == [5, 4]
        found = await archive.events(BASE_NS + 2 * SECOND_NS, BASE_NS + 4 * SECOND_NS, 10)
        assert [entry.event.seq for entry in found] == [2, 3]


async def test_gaps_are_spans_of_time(tmp_path: Path) -> None:
    def at(number: int) -> int:
        return 1_763_700_000_000_000_000 + number * 1_000_000

    async with opened(tmp_path / "h") as archive:
        await archive.add([batch(1, 100, gaps=(Gap(41, 50, "journal"),))])
        await archive.add([batch(151, 50)])  # a hole in the numbers
        other = batch(1, 10, epoch=9)
        other.records["utc_ns"] += 5_000_000_000
        await archive.add([other])
        await archive.flush()
        gaps = await archive.gaps(TIME_MIN, TIME_MAX)
        assert gaps == [
            (at(40), at(51), "journal"),
            (at(100), at(151), REASON_HOLE),
            (at(200), at(5001), REASON_OFF),
        ]
        assert await archive.gaps(at(45), at(48)) == [(at(45), at(48), "journal")]
        assert await archive.gaps(at(60), at(90)) == []
    async with opened(tmp_path / "h") as archive:
        assert await archive.gaps(TIME_MIN, TIME_MAX) == gaps
        assert await archive.kept() == (at(1), at(5010))


async def test_a_gap_without_an_end_ends_when_something_comes(tmp_path: Path) -> None:
    async with opened(tmp_path / "h") as archive:
        await archive.add([batch(1, 100)])
        empty = batch(101, 1, gaps=(Gap(101, 0, "field died"),))
        await archive.add([empty])
        await archive.flush()
        last = 1_763_700_000_000_000_000 + 100 * 1_000_000
        later = last + 10 * SECOND_NS
        assert await archive.gaps(last, later) == [(last, later, "field died")]
    async with opened(tmp_path / "h") as archive:
        other = batch(1, 10, epoch=9)
        other.records["utc_ns"] += SECOND_NS
        await archive.add([other])
        end = int(other.records["utc_ns"][0])
        assert (last, end, "field died") in await archive.gaps(last, later)


async def test_what_was_lost_before_anything_was_kept_is_no_gap(tmp_path: Path) -> None:
    async with opened(tmp_path / "h") as archive:
        await archive.add([batch(1, 1, epoch=3, gaps=(Gap(1, 0, "field died"),))])
        await archive.add([batch(1, 100, gaps=(Gap(1, 10, "journal"),))])
        assert await archive.gaps(TIME_MIN, TIME_MAX) == []


async def test_a_tag_keeps_its_history_over_a_new_table(tmp_path: Path) -> None:
    async with opened(tmp_path / "h") as archive:
        await archive.add([rows_of(1, 100)])
        turned = [dict(point, index=11 - point["index"]) for point in birth(points=10).points]
        turned[3]["units"] = "degC"
        await archive.learn("other", lambda: turned, BASE_NS)
        await archive.flush()
        await archive.add([replace(rows_of(101, 100), birth="other")])
        await archive.flush()
        found = await everything(archive, 3)
        assert found == expected([rows_of(1, 100)], 3) + expected([rows_of(101, 100)], 8)
    with sqlite3.connect(tmp_path / "h") as conn:
        sql = (
            "SELECT units FROM definitions JOIN points ON id = point WHERE tag = ? ORDER BY utc_ns"
        )
        assert conn.execute(sql, ("Device.Channel_4",)).fetchall() == [("K",), ("degC",)]
        assert conn.execute(sql, ("Device.Channel_5",)).fetchall() == [("K",)]


async def test_the_oldest_goes_when_the_quota_is_full(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    async with opened(tmp_path / "h", quota_bytes=1_000_000) as archive:
        for n in range(60):
            part = rows_of(1 + n * 4000, 4000)
            part.records["value"] = rng.normal(size=4000)
            await archive.add([part])
            await archive.flush()
            state = await archive.state()
            assert state.used_bytes <= 1_000_000
        first, last = await archive.kept()
        assert BASE_NS + 10 * SECOND_NS < first < last == BASE_NS + 60 * 4000 * 100_000_000
        values = await everything(archive, 1)
        assert values[0][0] >= first and len(values) == (last - first) // SECOND_NS + 1


async def test_a_smaller_quota_gives_room_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    for quota in (8_000_000, 1_000_000):
        async with opened(tmp_path / "h", quota_bytes=quota) as archive:
            for n in range(20) if quota > 1_000_000 else (20,):
                part = rows_of(1 + n * 10000, 10000)
                part.records["value"] = rng.normal(size=10000)
                await archive.add([part])
                await archive.flush()
        assert (tmp_path / "h").stat().st_size <= quota


async def test_what_is_too_old_goes_but_a_wrong_clock_makes_nothing_old(tmp_path: Path) -> None:
    async with opened(tmp_path / "h", age_s=100) as archive:
        for n in range(30):
            part = rows_of(1 + n * 100, 100)  # ten seconds
            if n == 20:
                part.records["utc_ns"][:40] += 10**18  # a device is thirty years ahead
            await archive.add([part])
            await archive.flush()
        values = await everything(archive, 1)
        newest = BASE_NS + 300 * SECOND_NS
        assert newest - 140 * SECOND_NS < values[0][0] < newest - 90 * SECOND_NS


async def test_a_clock_that_was_not_set_holds_nothing_back(tmp_path: Path) -> None:
    async with opened(tmp_path / "h", age_s=100) as archive:
        for n in range(30):
            part = rows_of(1 + n * 100, 100)  # ten seconds
            if n < 3:
                part.records["utc_ns"] -= BASE_NS  # booted in 1970
            await archive.add([part])
            await archive.flush()
        values = await everything(archive, 1)
        assert BASE_NS + 140 * SECOND_NS < values[0][0] < BASE_NS + 210 * SECOND_NS


async def test_a_device_without_a_clock_hides_no_history(tmp_path: Path) -> None:
    async with opened(tmp_path / "h") as archive:
        part = rows_of(1, 100)
        part.records["utc_ns"][part.records["point"] == 1] -= BASE_NS
        await archive.add([part])
        await archive.flush()
        first, last = await archive.kept()
        assert BASE_NS < first <= BASE_NS + 5 * SECOND_NS + SECOND_NS // 10
        assert last == BASE_NS + 10 * SECOND_NS - SECOND_NS // 10


async def test_every_gap_without_an_end_ends_when_something_comes(tmp_path: Path) -> None:
    async with opened(tmp_path / "h") as archive:
        await archive.add([rows_of(1, 100)])
        lost = replace(rows_of(101, 100), birth="?", last=300, gaps=(Gap(201, 300, "died"),))
        await archive.add([lost])
        await archive.add([rows_of(301, 100)])
        first = BASE_NS + 301 * SECOND_NS // 10
        assert {end for _, end, why in await archive.gaps(TIME_MIN, TIME_MAX) if why == "died"} == {
            first
        }


async def test_reads_and_writes_at_the_same_time_tell_everything_once(tmp_path: Path) -> None:
    parts = [rows_of(1 + n * 100, 100) for n in range(60)]
    async with opened(tmp_path / "h") as archive:
        found: list[int] = []

        async def look() -> None:
            while not found or found[-1] < 600:
                values = [row[0] for row in await everything(archive, 1)]
                assert len(values) == len(set(values))
                found.append(len(values))

        looking = asyncio.create_task(look())
        for part in parts:
            await archive.add([part])
            await archive.flush()
        await looking
        assert found == sorted(found)


async def test_a_flush_that_is_cancelled_writes_everything_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path / "h") as archive:
        begun, go_on = threading.Event(), threading.Event()
        write = archive._file.write

        def slow(turn: Turn) -> None:
            begun.set()
            assert go_on.wait(20)
            write(turn)

        with monkeypatch.context() as patch:
            patch.setattr(archive._file, "write", slow)
            await archive.add([rows_of(1, 100)])
            flushing = asyncio.create_task(archive.flush())
            await asyncio.to_thread(begun.wait, 20)
            flushing.cancel()
            await asyncio.gather(flushing, return_exceptions=True)
            await archive.add([rows_of(101, 100)])
            go_on.set()
            await archive.flush()
        assert archive.rows_waiting == 0
    async with opened(tmp_path / "h") as archive:
        assert await everything(archive, 1) == expected([rows_of(1, 200)], 1)


async def test_a_damaged_block_that_is_to_be_merged_goes_and_the_others_stay(
    tmp_path: Path,
) -> None:
    parts = [rows_of(1 + n * 20, 20) for n in range(20)]
    async with opened(tmp_path / "h") as archive:
        for n, part in enumerate(parts):
            if n == 10:
                with sqlite3.connect(tmp_path / "h") as conn:
                    conn.execute(
                        "UPDATE parts SET body = zeroblob(length(body)) WHERE rowid ="
                        " (SELECT min(id) + (1 << 20) FROM parts)"
                    )
            await archive.add([part])
            await archive.flush()
        assert await everything(archive, 1) == expected([parts[0], *parts[2:]], 1)
        assert (await archive.state()).damaged.endswith("h.damaged-1")
        assert "damaged in the history" in [
            gap[2] for gap in await archive.gaps(TIME_MIN, TIME_MAX)
        ]
        assert not (await archive.state()).problem
    async with opened(tmp_path / "h") as archive:
        assert "damaged in the history" in [
            gap[2] for gap in await archive.gaps(TIME_MIN, TIME_MAX)
        ]


async def test_rows_without_a_table_are_declared_missing(tmp_path: Path) -> None:
    archive = await AsyncArchive.open(tmp_path / "h", quota_bytes=10_000_000)
    await archive.add([rows_of(1, 10)])
    assert [gap[2] for gap in await archive.gaps(TIME_MIN, TIME_MAX)] == ["its point table is lost"]
    await archive.close()
