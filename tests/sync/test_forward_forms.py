"""What a link keeps whatever its form is: births in their order, and a death at every end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiomqtt
import pytest

from config.link import LinkEntry
from gateway.core.clock import SystemClock
from sync import wire
from sync.errors import StoreFailed
from sync.forms.formats import form_of
from sync.link import tables
from sync.link.forward import Forwarder
from sync.link.latest import Latest
from sync.store.async_store import AsyncStore
from tests.sync import support

FreePort = Callable[[], int]


class Lab:
    """A store, a broker, and who reads everything on it."""

    def __init__(self, store: AsyncStore, broker: support.Mosquitto, folder: Path) -> None:
        self.store = store
        self.broker = broker
        self.folder = folder
        self.last = 0
        self.listens = asyncio.Event()
        self.heard: list[tuple[str, bytes]] = []

    def link(self, form: str, url: str = "") -> Forwarder:
        entry = LinkEntry.model_validate({"URL": url or self.broker.url, "Format": form})
        clock = SystemClock()
        made = form_of("other", entry, "lab", clock, Latest(), self.folder)
        return Forwarder(self.store, "other", entry, "lab", clock, form=made, timing=support.QUICK)

    async def listen(self) -> None:
        async with aiomqtt.Client("127.0.0.1", self.broker.port) as client:
            await client.subscribe("#", qos=1)
            self.listens.set()
            async for message in client.messages:
                assert isinstance(message.payload, bytes)
                self.heard.append((message.topic.value, message.payload))

    async def append(self, birth: str) -> None:
        """Two frames with a table of their own: one of two rows, one of an event."""
        await self.store.put_birth(birth, support.birth_bytes(birth))
        await self.store.append(support.batch(self.last + 1, 2, birth=birth))
        last = self.last + 3
        await self.store.append(support.batch(last, 1, birth=birth, events=(last,)))
        self.last = last

    def topics(self, words: str) -> list[str]:
        return [topic for topic, _ in self.heard if words in topic]

    def json(self, words: str) -> list[dict[str, Any]]:
        return [json.loads(payload) for topic, payload in self.heard if words in topic]


@pytest.fixture
async def lab(tmp_path: Path, free_port: FreePort) -> AsyncIterator[Lab]:
    store = await AsyncStore.open(tmp_path / "store.db", quota_bytes=10**9, links=("other",))
    await store.put_birth(support.BIRTH, support.birth_bytes())
    broker = support.Mosquitto(free_port(), tmp_path / "broker", persistent=False)
    broker.start()
    try:
        await broker.wait_ready()
        made = Lab(store, broker, tmp_path)
        async with support.running(made.listen()):
            await made.listens.wait()
            yield made
    finally:
        broker.kill()
        await store.close()


@pytest.mark.parametrize(
    ("form", "begin", "death"),
    [
        ("gatepost", "gatepost/lab/birth", "gatepost/lab/birth"),
        ("json", "lab/state", "lab/state"),
        ("opcua", "opcua/json/status/lab", "opcua/json/status/lab"),
        ("sparkplug", "NBIRTH", "NDEATH"),
    ],
)
async def test_a_session_that_ends_by_our_own_fault_leaves_nothing_looking_current(
    lab: Lab, form: str, begin: str, death: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker publishes no last will where the connection is closed in order."""

    async def broken(*_: object, **__: object) -> None:
        raise StoreFailed("the disk is gone")

    link = lab.link(form)
    async with support.running(link.run()):
        await support.eventually(lambda: lab.topics(begin))
        already = len(lab.topics(death))
        for name in ("pending", "newest"):
            monkeypatch.setattr(lab.store, name, broken)
        await support.eventually(lambda: len(lab.topics(death)) > already)
        await support.eventually(lambda: "the disk is gone" in link.status()["last_error"])
        assert not link.status()["connected"]
    if form == "json":
        assert lab.json("lab/state")[-1]["online"] is False


async def test_a_backlog_of_more_tables_than_a_form_remembers_arrives_whole(lab: Lab) -> None:
    for number in range(2 * tables.TABLES_MAX):
        await lab.append(f"table{number}")
    await lab.store.put_birth(support.BIRTH, support.birth_bytes())
    async with support.running(lab.link("json").run()):
        async with asyncio.timeout(20):
            while (await lab.store.backlog("other")).frames:
                await asyncio.sleep(0.02)
        wanted = {n for n in range(1, lab.last + 1) if n % 3}
        await support.eventually(lambda: wanted <= {_seq(d) for d in lab.json("lab/Device")})
        assert not lab.json("lab/gaps")


def _seq(document: dict[str, Any]) -> int:
    (value,) = document["values"]
    return int(value["seq"])


async def test_a_table_that_is_in_force_again_is_told_again(lab: Lab) -> None:
    link = lab.link("json")

    def hashes() -> list[str]:
        return [document["hash"] for document in lab.json("lab/points")]

    async with support.running(link.run()):
        await support.eventually(hashes)
        for name in ("other", support.BIRTH, "other"):
            await lab.store.put_birth(name, support.birth_bytes(name))
            link.notify_appended()
            await support.eventually(lambda wanted=name: hashes()[-1] == wanted)
        assert hashes() == [support.BIRTH, "other", support.BIRTH, "other"]


@pytest.mark.parametrize(
    ("form", "topic"),
    [
        ("gatepost", "gatepost/lab/birth"),
        ("json", "lab/points/Device"),
        ("opcua", "opcua/json/metadata/lab/gatepost-backlog/Device"),
        ("sparkplug", "spBv1.0/lab/NBIRTH/gatepost"),
    ],
)
async def test_a_message_that_is_too_large_for_the_broker_is_named(
    lab: Lab, free_port: FreePort, form: str, topic: str
) -> None:
    """MQTT 3.1.1 has no word for it: the broker just closes the connection."""
    body = wire.encode_birth(support.birth(points=200))
    await lab.store.put_birth(support.BIRTH, body)
    broker = support.Mosquitto(
        free_port(),
        lab.folder / "narrow",
        persistent=False,
        extra="allow_anonymous true\nmax_packet_size 500",
    )
    broker.start()
    try:
        await broker.wait_ready()
        link = lab.link(form, broker.url)
        async with support.running(link.run()):
            await support.eventually(lambda: "more than this broker" in link.status()["last_error"])
            assert f"bytes on {topic}:" in link.status()["last_error"]
    finally:
        broker.kill()
