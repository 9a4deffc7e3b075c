"""The end of a forwarder, at the worst moment: while its session breaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from config.link import BrokerEntry
from gateway.core.clock import ManualClock
from sync.errors import LinkLost, LinkRefused
from sync.link.forward import Forwarder
from sync.link.lanes import Timing
from sync.link.mqtt import Message
from sync.store.async_store import AsyncStore
from tests.sync import support


class Dying:
    """A session that breaks when `broken` is set, and whose parts take their time to end."""

    def __init__(self, broken: asyncio.Event, breaking: asyncio.Event) -> None:
        self.broken = broken
        self.breaking = breaking

    async def __aenter__(self) -> Dying:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def subscribe(self, topics: list[str]) -> None:
        pass

    async def publish(self, *_: Any, **__: Any) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.breaking.set()
            for _turn in range(20):
                await asyncio.sleep(0)
            raise

    async def fence(self, **_: Any) -> None:
        await asyncio.Event().wait()

    async def messages(self) -> AsyncIterator[Message]:
        await self.broken.wait()
        raise LinkLost("broken")
        yield Message("", b"", False)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[AsyncStore]:
    made = await AsyncStore.open(tmp_path / "store.db", quota_bytes=10**9)
    await made.put_birth(support.BIRTH, support.birth_bytes())
    await made.append(support.batch(1, 10))
    yield made
    await made.close()


async def test_a_forwarder_that_ends_while_its_session_breaks_ends(store: AsyncStore) -> None:
    broken, breaking = asyncio.Event(), asyncio.Event()
    sessions = 0

    def connect(*_: Any, **__: Any) -> Any:
        nonlocal sessions
        sessions += 1
        return Dying(broken, breaking)

    made = Forwarder(
        store, "cloud", BrokerEntry(), "lab", ManualClock(), timing=support.QUICK, connect=connect
    )
    running = asyncio.create_task(made.run())
    await support.eventually(lambda: made.status()["in_flight"])
    broken.set()
    await breaking.wait()
    running.cancel()
    done, _ = await asyncio.wait({running}, timeout=5)
    if not done:
        running.cancel()
        await asyncio.wait({running}, timeout=5)
    assert done and running.cancelled() and sessions == 1


async def test_a_broker_that_is_away_for_days_is_tried_for_days(store: AsyncStore) -> None:
    tries = 0

    def connect(*_: Any, **__: Any) -> Any:
        nonlocal tries
        tries += 1
        raise LinkRefused("nobody listens")

    timing = Timing(backoff_s_min=1e-9, backoff_s_max=1e-9)
    made = Forwarder(
        store, "cloud", BrokerEntry(), "lab", ManualClock(), timing=timing, connect=connect
    )
    async with support.running(made.run()):
        await support.eventually(lambda: tries > 1100)  # 2 to the power of 1024 is no float
