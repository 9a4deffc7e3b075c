"""A JSON link over a real broker, read by mosquitto_sub: nothing is lost, the state is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloud.broker import HOST
from config.link import LinkEntry
from config.points import POINT
from gateway.core.clock import SystemClock
from gateway.core.records import Gap
from sync.forms.formats import form_of
from sync.link.forward import Forwarder
from sync.link.latest import Latest
from sync.store.async_store import AsyncStore
from tests.sync import support

FreePort = Callable[[], int]


class Reader:
    """What mosquitto_sub prints, with a session that its broker keeps."""

    def __init__(self, port: int, name: str) -> None:
        self.port = port
        self.name = name
        self.found: list[tuple[str, bool, dict[str, Any]]] = []
        self.ready = asyncio.Event()

    async def run(self) -> None:
        while True:
            process = await asyncio.create_subprocess_exec(
                *("mosquitto_sub", "-h", HOST, "-p", str(self.port), "-t", "lab/#", "-t", "up"),
                *("-q", "1", "-c", "-i", self.name, "-F", "%r %t %p"),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
            assert process.stdout is not None
            try:
                async for line in process.stdout:
                    retained, topic, text = line.decode().split(" ", 2)
                    if topic == "up":
                        self.ready.set()
                    else:
                        self.found.append((topic, retained == "1", json.loads(text)))
            finally:
                if process.returncode is None:
                    process.kill()
                await process.wait()
            await asyncio.sleep(0.05)

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [document for _, _, document in self.found if document["type"] == kind]

    def rows(self) -> dict[tuple[int, int], float]:
        """Value of each record, by what names it for good."""
        out: dict[tuple[int, int], float] = {}
        for document in self.of("values"):
            for value in document["values"]:
                key = (document["epoch"], value["seq"])
                assert out.setdefault(key, value["value"]) == value["value"]
        return out


@pytest.fixture
async def broker(tmp_path: Path, free_port: FreePort) -> AsyncIterator[support.Mosquitto]:
    made = support.Mosquitto(free_port(), tmp_path / "broker", persistent=True)
    made.start()
    try:
        await made.wait_ready()
        yield made
    finally:
        made.kill()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[AsyncStore]:
    made = await AsyncStore.open(tmp_path / "store.db", quota_bytes=10**9, links=("customer",))
    await made.put_birth(support.BIRTH, support.birth_bytes())
    yield made
    await made.close()


@asynccontextmanager
async def reading(port: int, name: str = "reader") -> AsyncIterator[Reader]:
    """A reader that has subscribed."""
    reader = Reader(port, name)
    async with support.running(reader.run()):
        while not reader.ready.is_set():
            ask = ("mosquitto_pub", "-h", HOST, "-p", str(port), "-t", "up", "-m", "1", "-q", "1")
            await (await asyncio.create_subprocess_exec(*ask)).wait()
            await asyncio.sleep(0.05)
        yield reader


def link(store: AsyncStore, url: str, latest: Latest, folder: Path) -> Forwarder:
    entry = LinkEntry(URL=url, KeepAlive=2)
    clock = SystemClock()
    form = form_of("customer", entry, "lab", clock, latest, folder)
    timing = replace(support.QUICK, silence_s=600, resend_s=60)
    return Forwarder(store, "customer", entry, "lab", clock, form=form, timing=timing)


async def test_every_record_arrives_whatever_the_broker_does(
    broker: support.Mosquitto, store: AsyncStore, tmp_path: Path
) -> None:
    made = link(store, broker.url, Latest(), tmp_path)
    last = 0

    async def append(frames: int) -> None:
        nonlocal last
        for _ in range(frames):
            await store.append(support.batch(last + 1, 10))
            last += 10
            made.notify_appended()

    async def arrived(reader: Reader) -> None:
        await support.eventually(lambda: len(reader.rows()) == last)
        async with asyncio.timeout(10):
            while (await store.backlog("customer")).frames:
                await asyncio.sleep(0.02)

    await append(5)
    async with reading(broker.port) as reader, support.running(made.run()):
        await arrived(reader)
        assert all(document["backlog"] for document in reader.of("values"))
        await append(1)
        await arrived(reader)
        assert not reader.of("values")[-1]["backlog"]
        broker.stop()
        await append(5)
        broker.start()
        await broker.wait_ready()
        await arrived(reader)
        await support.freeze(broker.pid)
        await append(5)
        await support.eventually(lambda: made.status()["in_flight"] > 0)
        assert (await store.backlog("customer")).frames == 5
        broker.kill()
        broker.start()
        await broker.wait_ready()
        await arrived(reader)
        assert reader.rows() == {(support.EPOCH, n): n for n in range(1, last + 1)}


async def test_gaps_definitions_and_the_state_are_told(
    broker: support.Mosquitto, store: AsyncStore, tmp_path: Path
) -> None:
    latest = Latest()
    latest.born(support.birth(), np.zeros(11, dtype=POINT))
    gap = Gap(2, 9, "store over its quota")
    await store.append(support.batch(1, 10, events=(10,), gaps=(gap,)))
    made = link(store, broker.url, latest, tmp_path)
    async with reading(broker.port) as reader:
        async with support.running(made.run()):
            await support.eventually(lambda: reader.of("gap") and reader.of("event"))
            await support.eventually(lambda: reader.of("values"))
            assert made._session is not None
            made._session._connection._drop()  # the broker publishes the last will
            await support.eventually(lambda: len(reader.of("state")) == 3)
        await support.eventually(lambda: len(reader.of("state")) == 4)
        states = [(d["online"], d["measuring"]) for d in reader.of("state")]
        assert states == [(True, True), (False, False), (True, True), (False, False)]
        assert {(d["first"], d["last"]) for d in reader.of("gap")} == {(2, 9)}  # or twice
    async with reading(broker.port, "late") as late:
        await support.eventually(lambda: len(late.found) == 2)
        assert {(topic, retained) for topic, retained, _ in late.found} == {
            ("lab/points/Device", True),
            ("lab/state", True),
        }
        assert not late.of("state")[0]["online"]
