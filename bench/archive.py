"""Benchmark of the archive: what a value costs, and how long a day of one point takes to read.

``python -m bench.archive [--json] [--quick]``
"""

from __future__ import annotations

import asyncio
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import numpy as np

from bench._report import Report, arguments, say
from gateway.core.records import RECORD, Batch, Birth
from sync import wire
from sync.archive.archive import AsyncArchive
from sync.archive.feed import WAITS_MAX, WRITE_ROWS_MIN, Feed
from sync.store.async_store import AsyncStore
from sync.store.links import HISTORY

BASE_NS: Final = 1_763_700_000_000_000_000
SECOND_NS: Final = 1_000_000_000
POINTS: Final = 1000
DEVICE_POINTS: Final = 20  # that are read at once
DAY_S: Final = 86_400
INTERVAL_S: Final = 60
QUICK_S: Final = 14_400
QUOTA_BYTES: Final = 2_000_000_000
BIRTH: Final = "0123456789abcdef"


def values(points: int, first_s: int, seconds: int) -> Batch:
    """One value a second of each point: a wandering number of one decimal, times with jitter."""
    rng = np.random.default_rng(first_s)
    rows = np.zeros(points * seconds, dtype=RECORD)
    rows["seq"] = np.arange(first_s * points + 1, (first_s + seconds) * points + 1)
    rows["point"] = np.tile(np.arange(1, points + 1), seconds)
    devices = np.arange(points) // DEVICE_POINTS
    late_ms = rng.integers(0, 15, size=(seconds, devices[-1] + 1)) + np.arange(devices[-1] + 1) * 5
    at = BASE_NS + (first_s + np.arange(seconds)) * SECOND_NS
    rows["utc_ns"] = (at[:, None] + late_ms[:, devices] * 1_000_000).ravel()
    moved = np.cumsum(rng.normal(0, 0.3, size=(seconds, points)), axis=0)
    rows["value"] = np.round(50 + moved, 1).ravel()
    return Batch(1, int(rows["seq"][0]), int(rows["seq"][-1]), BIRTH, rows)


def birth(points: int) -> Birth:
    """The table of the points."""
    table = tuple({"index": n, "tag": f"P.{n}", "kind": "analog"} for n in range(1, points + 1))
    return Birth("bench", 1, 0, BIRTH, "", BASE_NS, table)


def processor_s() -> float:
    """Time of the processor that this process has taken."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def day(report: Report, folder: Path, seconds: int) -> None:
    """A day of 1,000 points; then one of them is read."""
    archive = await AsyncArchive.open(folder / "day", quota_bytes=QUOTA_BYTES)
    await archive.learn(BIRTH, lambda: birth(POINTS).points)
    for first in range(0, seconds, 240):
        await archive.add([values(POINTS, first, min(240, seconds - first))])
        await archive.flush()
        if first % 14_400 == 0:
            say(f"{first} s of {seconds}")
    end_ns = BASE_NS + (seconds + 1) * SECOND_NS
    taken = []
    for tag in ("P.1", "P.500", "P.999"):
        start = time.perf_counter()
        found = await archive.read(tag, BASE_NS, end_ns)
        taken.append(time.perf_counter() - start)
        assert len(found) == seconds
    start = time.perf_counter()
    await archive.read("P.7", BASE_NS + seconds * SECOND_NS // 2, end_ns, 1000)
    page_ms = (time.perf_counter() - start) * 1e3
    rows = seconds * POINTS
    report.figure("day_values", rows)
    report.figure("day_bytes_a_value", (await archive.state()).data_bytes / rows)
    report.check("day_of_one_point_s", max(taken) * DAY_S / seconds, "<=", 1.0)
    report.figure("thousand_values_from_the_middle_ms", page_ms)
    await archive.close()


def pause_s(points: int) -> int:
    """What lies between two writes at one value a second of each point, see `Feed`."""
    minutes = -(-WRITE_ROWS_MIN // (points * INTERVAL_S))
    return min(minutes, WAITS_MAX + 1) * INTERVAL_S


async def turns(report: Report, folder: Path, points: int, count: int) -> None:
    """Turns as they come at one value a second, merges among them: what the disk gets and keeps."""
    every_s = pause_s(points)
    archive = await AsyncArchive.open(folder / f"turns{points}", quota_bytes=QUOTA_BYTES)
    await archive.learn(BIRTH, lambda: birth(points).points)
    spent = 0.0
    for n in range(count):
        batch = values(points, n * every_s, every_s)
        before = processor_s()
        await archive.add([batch])
        await archive.flush()
        spent += processor_s() - before
    state = await archive.state()
    rows = points * every_s * count
    name = f"{points}_points"
    report.figure(f"{name}_kept_bytes_a_value", state.data_bytes / rows)
    report.figure(f"{name}_written_bytes_a_value", state.written_bytes / rows)
    report.figure(f"{name}_written_mb_a_day", state.written_bytes / count * (DAY_S / every_s) / 1e6)
    report.figure(f"{name}_cpu_us_a_value", spent / rows * 1e6)
    await archive.close()


async def fast(report: Report, folder: Path, frames: int) -> None:
    """100,000 points at one value a second, out of the store."""
    points = 100_000
    store = await AsyncStore.open(
        folder / "link.sqlite", quota_bytes=QUOTA_BYTES, links=("cloud", HISTORY)
    )
    archive = await AsyncArchive.open(folder / "fast", quota_bytes=QUOTA_BYTES)
    await store.put_birth(BIRTH, wire.encode_birth(birth(points)))
    feed = Feed(store, archive, INTERVAL_S)
    rows = values(points, 0, frames // 20).records
    for at in range(0, len(rows), 5000):
        piece = rows[at : at + 5000]
        first, last = int(piece["seq"][0]), int(piece["seq"][-1])
        await store.append(Batch(1, first, last, BIRTH, piece))
        if not at:
            await feed.commit()  # the table of points, once
    before = processor_s()
    await feed.commit()
    spent = processor_s() - before
    report.figure("from_the_store_cpu_us_a_value", spent / len(rows) * 1e6)
    report.check("cpu_percent_at_100000_a_s", spent / len(rows) * 1e5 * 100, "<=", 15)
    await archive.close()
    await store.close()


async def measure(quick: bool) -> Report:
    """All of it."""
    report = Report("archive")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        say("turns")
        await turns(report, folder, POINTS, 17 if quick else 49)
        await turns(report, folder, 20, 17 * 15)
        await turns(report, folder, 1, 17 * 15)
        say("from the store")
        await fast(report, folder, 200 if quick else 400)
        await day(report, folder, QUICK_S if quick else DAY_S)
    return report


def main() -> int:
    """Run it; the exit status is 1 where a limit is missed."""
    options = arguments(__doc__)
    return asyncio.run(measure(options.quick)).print(options.json)


if __name__ == "__main__":
    sys.exit(main())
