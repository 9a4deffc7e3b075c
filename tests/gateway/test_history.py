"""History in the link process: whatever fails there, the store goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from config.link import LinkFile
from gateway import history as module
from gateway.history import History, places
from sync import wire
from sync.archive.archive import TIME_MAX, TIME_MIN
from sync.store.async_store import AsyncStore
from sync.store.links import HISTORY
from tests.sync.archive_case import rows_of
from tests.sync.support import BIRTH, birth, running

LINK = LinkFile.model_validate({"History": {"Interval": 1}})


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[AsyncStore]:
    made = await AsyncStore.open(
        tmp_path / "link.sqlite", quota_bytes=10**8, links=("cloud", HISTORY)
    )
    await made.put_birth(BIRTH, wire.encode_birth(birth(points=10)))
    yield made
    await made.close()


def test_who_has_a_place_in_the_store() -> None:
    def told(**keys: object) -> tuple[str, ...]:
        return places(LinkFile.model_validate(keys))

    assert told() == ("cloud", HISTORY)
    assert told(History={"Active": False}) == ("cloud",)
    assert told(OpcUa={"Active": False}) == ("cloud",)
    assert told(OpcUa={"Active": False}, History={"Active": True}) == ("cloud", HISTORY)
    assert told(Broker={"Active": False}) == (HISTORY,)


async def test_what_is_stored_is_kept_and_the_rest_is_written_at_the_end(
    tmp_path: Path, store: AsyncStore
) -> None:
    history = History(LINK, tmp_path / "history.sqlite", store)
    async with running(history.run()):
        archive = await history.opened()
        assert archive is not None
        await store.append(rows_of(1, 100))
        history.appended(rows_of(1, 100))
        async with asyncio.timeout(20):
            while (await store.backlog(HISTORY)).frames:
                await asyncio.sleep(0.02)
        await store.append(rows_of(101, 100))
    await history.close()
    assert (await store.backlog(HISTORY)).frames == 0
    again = History(LINK, tmp_path / "history.sqlite", store)
    await again.open()
    assert again.archive is not None
    assert len(await again.archive.read("Device.Channel_1", TIME_MIN, TIME_MAX)) == 20
    await again.close()


async def test_an_archive_that_can_not_be_opened_is_tried_again(
    tmp_path: Path, store: AsyncStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RETRY_S", 0.02)
    path = tmp_path / "history.sqlite"
    path.mkdir()
    history = History(LINK, path, store)
    async with running(history.run()):
        assert await history.opened() is None
        assert str(path) in history.status()["history"]["problem"]
        await store.append(rows_of(1, 100))
        path.rmdir()
        async with asyncio.timeout(20):
            while history.archive is None or (await store.backlog(HISTORY)).frames:
                await asyncio.sleep(0.02)
            while not history.status()["history"].get("first_ns"):
                await asyncio.sleep(0.02)
        assert not history.status()["history"]["problem"]
    await history.close()


async def test_a_site_without_history_has_none(tmp_path: Path, store: AsyncStore) -> None:
    link = LinkFile.model_validate({"History": {"Active": False}})
    history = History(link, tmp_path / "history.sqlite", store)
    async with running(history.run()):
        assert await history.opened() is None
        assert history.status() == {}
    await history.close()
    assert not (tmp_path / "history.sqlite").exists()


async def test_a_fault_of_ours_stops_nothing_and_is_told(
    tmp_path: Path, store: AsyncStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FAULT_PAUSE_S", 0.02)
    history = History(LINK, tmp_path / "history.sqlite", store)
    with monkeypatch.context() as patch:

        def wrong(body: bytes) -> None:
            raise KeyError("index")

        patch.setattr(wire, "decode_body", wrong)
        await store.append(rows_of(1, 100))
        task = asyncio.create_task(history.run())
        async with asyncio.timeout(20):
            while "index" not in str(history.status()["history"]["problem"]):
                await asyncio.sleep(0.005)
    async with asyncio.timeout(20):
        while (await store.backlog(HISTORY)).frames or history.status()["history"]["problem"]:
            await asyncio.sleep(0.005)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await history.close()
