"""What the store takes and writes, as the link process reports it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.core.clock import ManualClock
from gateway.store_health import DAY_NS, LOOK_NS, SAMPLE_NS, SETTLED_NS, StoreHealth, Wear
from sync.errors import StoreFailed
from sync.store.async_store import AsyncStore
from sync.store.store import Usage
from tests.sync import support

SECOND_NS = 1_000_000_000


def test_bytes_a_day_are_those_since_the_start_and_none_in_the_first_minute() -> None:
    wear = Wear()
    assert wear.add(0, 5_000) is None
    assert wear.add(SETTLED_NS - 1, 6_000) is None
    assert wear.add(SETTLED_NS, 6_000) == pytest.approx(1_000 * 1440)
    assert wear.add(DAY_NS // 2, 105_000) == pytest.approx(200_000)


def test_only_the_last_day_counts() -> None:
    wear = Wear()
    for step in range(0, 3 * DAY_NS, SAMPLE_NS):
        found = wear.add(
            step,
            step // SECOND_NS * (100 if step < DAY_NS else 1)
            + (0 if step < DAY_NS else 99 * DAY_NS // SECOND_NS),
        )
    assert found == pytest.approx(86_400)


def test_a_count_that_begins_anew_is_no_negative_wear() -> None:
    wear = Wear()
    wear.add(0, 10**9)
    assert wear.add(SETTLED_NS, 100) is None
    assert wear.add(2 * SETTLED_NS, 200) == pytest.approx(100 * 1440)


async def test_the_figures_are_those_of_the_store(tmp_path: Path) -> None:
    clock = ManualClock()
    clock.advance(SECOND_NS)
    store = await AsyncStore.open(tmp_path / "link.sqlite", quota_bytes=2_000_000)
    health = StoreHealth(store, tmp_path / "link.sqlite", clock)
    await store.put_birth(support.BIRTH, support.birth_bytes())
    first = await health.look()
    assert 0 < first["used_percent"] < 20
    assert first["thinned"] == 0
    assert first["free_mb"] > 0
    assert first["written_mb_day"] is None
    for at in range(100):
        await store.append(support.batch(at * 1000 + 1, 1000))
    assert await health.look() is first, "the store is asked every two seconds, not at each report"
    clock.advance(LOOK_NS)
    assert (await health.look())["used_percent"] > first["used_percent"]
    clock.advance(SETTLED_NS)
    assert (await health.look())["written_mb_day"] >= 0
    await store.close()


async def test_a_store_that_refuses_to_tell_leaves_no_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock()
    clock.advance(SECOND_NS)
    store = await AsyncStore.open(tmp_path / "link.sqlite", quota_bytes=2_000_000)
    health = StoreHealth(store, tmp_path / "link.sqlite", clock)
    assert await health.look()

    async def refuse() -> Usage:
        raise StoreFailed("an I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(store, "usage", refuse)
        clock.advance(LOOK_NS)
        assert await health.look() == {}
    clock.advance(LOOK_NS)
    assert await health.look()
    await store.close()
