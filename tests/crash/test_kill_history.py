"""``kill -9`` of the link over an outage of the broker: the history is what the historian holds."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from cloud.historian_sqlite import SqliteHistorian
from sync.archive.archive import TIME_MAX, TIME_MIN, AsyncArchive
from tests.crash.town import Town

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]

Rows = dict[str, list[tuple[int, float, int]]]
Events = list[tuple[int, int, int, str]]


async def test_history_equals_the_historian_over_an_outage_and_kills(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    town = Town(tmp_path, free_port())
    town.link = {"History": {"Active": True, "Interval": 1}}
    try:
        await town.start()
        await town.until(lambda s: s["link"]["connected"])
        town.broker.kill()
        for pause_s in (0.7, 1.2):
            await asyncio.sleep(pause_s)
            town.kill("link")
            await town.until(lambda s: not s["link"])
            await town.until(lambda s: bool(s["link"]))
        town.broker.start()
        await town.broker.wait_ready()
        await town.arrived()
        town.kill("link")
        await town.until(lambda s: not s["link"])
        await town.arrived()
        shown = await town.until(lambda s: s["link"]["history"].get("first_ns"))
        assert not shown["link"]["history"]["problem"]
    finally:
        await town.end()
    archived, events = await _archived(town)
    held, told = _held(town)
    assert sum(len(rows) for rows in held.values()) > 100
    assert archived == held
    assert events == told


async def _archived(town: Town) -> tuple[Rows, Events]:
    archive = await AsyncArchive.open(town.paths.archive, quota_bytes=500_000_000)
    found = {}
    for tag in archive.tags():
        rows = await archive.read(tag, TIME_MIN, TIME_MAX)
        columns = (rows[name].tolist() for name in ("utc_ns", "value", "status"))
        found[tag] = [
            (at, _bits(value), status) for at, value, status in zip(*columns, strict=True)
        ]
    events = await archive.events(TIME_MIN, TIME_MAX, 0)
    assert await archive.gaps(TIME_MIN, TIME_MAX) == []
    await archive.close()
    return _sorted(found), sorted(
        (e.epoch, e.event.seq, e.event.utc_ns, e.event.kind) for e in events
    )


def _held(town: Town) -> tuple[Rows, Events]:
    historian = SqliteHistorian(town.historian_file, read_only=True)
    found: Rows = {}
    with contextlib.closing(historian):
        for sample in historian.query(limit=10**6):
            row = (sample.utc_ns, _bits(sample.value), sample.status)
            found.setdefault(sample.tag, []).append(row)
        events = historian.events(limit=10**6)
    return _sorted(found), sorted((e.epoch, e.seq, e.utc_ns, e.kind) for e in events)


def _sorted(found: Rows) -> Rows:
    return {tag: sorted(rows) for tag, rows in found.items() if rows}


def _bits(value: float) -> float:
    return -1e300 if value != value else value  # two NaN are no more equal than a row of them
