"""The link process beside a real field process: durable before taken, resumed, never silent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from asyncua import Client, ua

from config import status
from config.load import require_site
from gateway.core.clock import SystemClock
from gateway.core.paths import StatePaths
from gateway.core.records import Batch
from gateway.history import places
from gateway.link import Link
from sync.errors import StoreFull
from sync.store.async_store import AsyncStore
from sync.wire import decode_frame
from tests.gateway.running import Running
from tests.gateway.sites import Rig, eventually

QUOTA_BYTES = 100_000_000


class LinkRunning:
    """A link process on the test's loop; no broker listens, so the store keeps everything."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.paths = StatePaths(rig.state)

    async def start(self) -> None:
        self.paths.make()
        site = require_site(self.rig.folder)
        self.store = await AsyncStore.open(
            self.paths.store, quota_bytes=QUOTA_BYTES, links=places(site.link)
        )
        self.link = Link(site, self.paths, self.store, SystemClock())
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(self.link.run(self._stop))

    async def end(self) -> None:
        self._stop.set()
        await self._task
        await self.store.close()

    async def crash(self) -> None:
        """End as a kill would, as far as one process can."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self.store.close()

    async def batches(self) -> list[Batch]:
        frames = await self.store.pending("cloud", 0, 100_000)
        return [decode_frame(frame.payload).batch for frame in frames]

    async def numbers(self, epoch: int) -> list[int]:
        """Every number of an epoch that the store accounts for, in its order."""
        found: list[int] = []
        for batch in await self.batches():
            if batch.epoch == epoch:
                found += range(batch.first, batch.last + 1)
        return found


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """A device and its site; OPC UA on a free port, the broker on a port where nobody is."""
    made = Rig(tmp_path)
    await made.start()
    made.write(
        link={
            "Broker": {"URL": "mqtt://127.0.0.1:1"},
            "OpcUa": {"Endpoint": "opc.tcp://127.0.0.1:0/gatepost", "NoSecurity": True},
            "Store": {"FrameInterval": 0.1},
        }
    )
    yield made
    await made.stop()


async def follow(running: Running, link: LinkRunning) -> None:
    """Until the store holds what the journal held when this was called."""
    last = running.field.journal.last
    await eventually(lambda: running.field.server.taken >= last)


async def test_everything_the_journal_numbered_is_in_the_store_once_and_in_order(rig: Rig) -> None:
    running, link = Running(rig), LinkRunning(rig)
    await link.start()
    await running.ready()
    for step in range(20):
        rig.temperature(20.0 + step)
        await asyncio.sleep(0.03)
    await follow(running, link)
    await running.end()
    numbers = await link.numbers(running.field.epoch)
    assert numbers == list(range(1, running.field.journal.last + 1))
    await link.end()


async def test_a_link_that_crashes_resumes_without_a_hole_or_a_double(rig: Rig) -> None:
    running = Running(rig)
    await running.ready()
    for round_number in range(4):
        link = LinkRunning(rig)
        await link.start()
        rig.temperature(30.0 + round_number)
        await follow(running, link)
        await link.crash()
        rig.temperature(40.0 + round_number)
        await asyncio.sleep(0.1)
    link = LinkRunning(rig)
    await link.start()
    await running.end()  # waits for the link that is on its way back
    assert await link.numbers(running.field.epoch) == list(range(1, running.field.journal.last + 1))
    assert not [gap for batch in await link.batches() for gap in batch.gaps]
    await link.end()


async def test_a_field_that_died_leaves_a_declared_gap_and_a_stopped_one_does_not(
    rig: Rig,
) -> None:
    link = LinkRunning(rig)
    await link.start()
    first = Running(rig)
    await first.ready()
    await follow(first, link)
    await first.crash()
    second = Running(rig)
    await second.ready()
    await follow(second, link)
    await second.end()
    third = Running(rig)
    await third.ready()
    await follow(third, link)
    gaps = [(b.epoch, g) for b in await link.batches() for g in b.gaps]
    assert [(epoch, gap.last) for epoch, gap in gaps] == [(first.field.epoch, 0)]
    await third.end()
    await link.end()


async def test_a_store_that_refuses_loses_nothing_and_the_field_is_told(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, link = Running(rig), LinkRunning(rig)
    await link.start()
    await running.ready()
    await eventually(lambda: running.value("Gateway.Store_Ok") == 1)
    append = link.store.append

    async def full(batch: Batch) -> int:
        raise StoreFull("the disk is full")

    monkeypatch.setattr(link.store, "append", full)
    rig.temperature(33.0)
    await eventually(lambda: running.value("Gateway.Store_Ok") == 0)
    assert running.field.server.link_connected
    event = running.events("gateway", what="Store_Ok", value=0.0)[0]
    assert "full" in event["reason"]
    monkeypatch.setattr(link.store, "append", append)
    await eventually(lambda: running.value("Gateway.Store_Ok") == 1)
    await follow(running, link)
    await running.end()
    numbers = await link.numbers(running.field.epoch)
    assert numbers == list(range(1, running.field.journal.last + 1))
    await link.end()


async def opcua_status(url: str, tag: str) -> tuple[int, object]:
    """Status code and value that an OPC UA client reads."""
    async with Client(url, watchdog_intervall=30) as client:
        node = client.get_node(f"ns=2;s={tag}")
        value = await node.read_data_value(raise_on_bad_status=False)
        return int(value.StatusCode.value), value.Value.Value


async def test_opc_ua_shows_live_values_and_turns_bad_when_the_field_dies(rig: Rig) -> None:
    running, link = Running(rig), LinkRunning(rig)
    await link.start()
    await running.ready()
    await eventually(lambda: bool(running.field.server.health.get("opcua")))
    url = str(running.field.server.health["opcua"])
    rig.temperature(55.0)
    await eventually(lambda: running.value("Rig.Temperature") == 55.0)
    async with asyncio.timeout(15):
        while await opcua_status(url, "Rig.Temperature") != (ua.StatusCodes.Good, 55.0):
            await asyncio.sleep(0.05)
    await running.crash()
    async with asyncio.timeout(15):
        while (await opcua_status(url, "Rig.Temperature"))[0] != status.BAD_NO_COMMUNICATION:
            await asyncio.sleep(0.05)
    again = Running(rig)
    await again.ready()
    async with asyncio.timeout(15):
        while (await opcua_status(url, "Rig.Temperature"))[0] != ua.StatusCodes.Good:
            await asyncio.sleep(0.05)
    await again.end()
    await link.end()


async def test_a_field_that_hangs_is_as_good_as_gone(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.link.FIELD_SILENT_S", 0.5)
    monkeypatch.setattr("gateway.local_server.ALIVE_PERIOD_S", 0.1)
    running, link = Running(rig), LinkRunning(rig)
    await link.start()
    await running.ready()
    await eventually(lambda: bool(running.field.server.health.get("opcua")))
    url = str(running.field.server.health["opcua"])
    # The status is what a silent field no longer sends; its loop itself can't hang in this test.
    monkeypatch.setattr("gateway.local_server.send", lambda *_: asyncio.sleep(3600))
    async with asyncio.timeout(20):
        while (await opcua_status(url, "Rig.Temperature"))[0] != status.BAD_NO_COMMUNICATION:
            await asyncio.sleep(0.05)
    monkeypatch.undo()
    await running.end()
    await link.end()


async def test_a_port_in_use_costs_opc_ua_only_and_is_said(rig: Rig) -> None:
    rig.write(
        link={
            "Broker": {"URL": "mqtt://127.0.0.1:1"},
            "OpcUa": {"Endpoint": f"opc.tcp://127.0.0.1:{rig.port}/gatepost"},
        }
    )
    running, link = Running(rig), LinkRunning(rig)
    await link.start()
    await running.ready()
    await eventually(lambda: str(rig.port) in str(running.field.server.health.get("reason")))
    await follow(running, link)
    await running.end()
    await link.end()


async def test_what_arrived_before_the_field_died_is_stored(rig: Rig) -> None:
    rig.write(
        link={
            "Broker": {"URL": "mqtt://127.0.0.1:1"},
            "OpcUa": {"Active": False},
            "Store": {"FrameInterval": 60},
        }
    )
    running, link = Running(rig), LinkRunning(rig)
    await link.start()
    await running.ready()
    await asyncio.sleep(1.5)  # what the gateway tells of itself at its start has passed
    taken = running.field.server.taken
    rig.temperature(77.0)
    await eventually(lambda: running.value("Rig.Temperature") == 77.0)
    await asyncio.sleep(0.3)
    assert running.field.server.taken == taken  # the frame is still in the making
    await running.crash()

    async with asyncio.timeout(10):
        while 77.0 not in [v for batch in await link.batches() for v in batch.records["value"]]:
            await asyncio.sleep(0.05)
    await link.end()


async def test_lives_of_the_field_that_no_link_ever_saw_are_declared_gaps(rig: Rig) -> None:
    link = LinkRunning(rig)
    await link.start()
    lives = [Running(rig)]
    await lives[0].ready()
    await follow(lives[0], link)
    await link.crash()
    await lives[0].crash()
    for unseen in (1, 2):
        lives.append(Running(rig))
        await lives[unseen].ready()
        await lives[unseen].crash()
    lives.append(Running(rig))
    await lives[3].ready()
    link = LinkRunning(rig)
    await link.start()
    await follow(lives[3], link)
    gaps = [(b.epoch, g.first, g.last) for b in await link.batches() for g in b.gaps]
    assert [(epoch, last) for epoch, _, last in gaps] == [
        (life.field.epoch, 0) for life in lives[:3]
    ]
    assert [first for _, first, _ in gaps[1:]] == [1, 1]
    await lives[3].end()
    await link.end()


async def test_the_end_of_an_epoch_is_declared_once_although_the_store_refuses_next(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = LinkRunning(rig)
    await link.start()
    first = Running(rig)
    await first.ready()
    await follow(first, link)
    await first.crash()
    append, refusals = link.store.append, 0

    async def nearly_full(batch: Batch) -> int:
        nonlocal refusals
        if batch.epoch != first.field.epoch and refusals < 2:
            refusals += 1
            raise StoreFull("the disk is full")
        return await append(batch)

    monkeypatch.setattr(link.store, "append", nearly_full)
    second = Running(rig)
    await second.ready()
    await follow(second, link)
    assert refusals == 2
    assert len([gap for batch in await link.batches() for gap in batch.gaps]) == 1
    await second.end()
    assert await link.numbers(second.field.epoch) == list(range(1, second.field.journal.last + 1))
    await link.end()


async def test_a_birth_that_the_store_refuses_holds_back_its_rows_and_loses_none(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, link = Running(rig), LinkRunning(rig)
    await running.ready()
    await link.start()
    put_birth, refusals = link.store.put_birth, 0

    async def full(name: str, body: bytes) -> None:
        nonlocal refusals
        refusals += 1
        if refusals < 3:
            raise StoreFull("the disk is full")
        await put_birth(name, body)

    monkeypatch.setattr(link.store, "put_birth", full)
    await follow(running, link)
    assert refusals == 3
    await running.end()
    assert await link.numbers(running.field.epoch) == list(range(1, running.field.journal.last + 1))
    await link.end()


async def test_a_fault_in_opc_ua_costs_opc_ua_only(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> bool:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr("gateway.mirror.Mirror._serve", broken)
    running, link = Running(rig), LinkRunning(rig)
    await link.start()
    await running.ready()
    await eventually(lambda: "a fault of ours" in link.link._mirror.error)
    rig.temperature(31.0)
    await follow(running, link)
    await running.end()
    await link.end()
