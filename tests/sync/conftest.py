"""A store, and a far side behind a broker of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from sync.store.async_store import AsyncStore
from tests.sync import support
from tests.sync.far_side import FarSide


@pytest.fixture
async def far(tmp_path: Path, free_port: Callable[[], int]) -> AsyncIterator[FarSide]:
    broker = support.Mosquitto(free_port(), tmp_path / "broker", persistent=False)
    broker.start()
    try:
        await broker.wait_ready()
        side = FarSide(broker.url)
        async with side.session:
            await side.session.subscribe(
                [f"gatepost/lab/{name}" for name in ("birth", "frames", "backlog")]
            )
            async with support.running(side.read()):
                yield side
    finally:
        broker.kill()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[AsyncStore]:
    made = await AsyncStore.open(tmp_path / "store.db", quota_bytes=10**9)
    await made.put_birth(support.BIRTH, support.birth_bytes())
    yield made
    await made.close()
