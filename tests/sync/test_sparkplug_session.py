"""A Sparkplug link over a real broker to a host that is not ours: nothing is lost, all is said."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import aiomqtt
import numpy as np
import pytest

from config.link import LinkEntry
from config.points import POINT
from gateway.core.clock import SystemClock
from sync.forms import sparkplug
from sync.forms.formats import form_of
from sync.link.forward import Forwarder
from sync.link.latest import Latest
from sync.store.async_store import AsyncStore
from tests.sync import support
from tests.sync.sparkplug_host import Host, Peer, peer

FreePort = Callable[[], int]
STATE = "spBv1.0/STATE/SCADA"
FRAME = 10  # rows of a frame


@pytest.fixture(scope="module")
def library() -> Iterator[Peer]:
    with peer() as found:
        yield found


class LiveHost:
    """A primary host as a client of the broker; `errors` has what broke a rule."""

    def __init__(self, library: Peer, port: int) -> None:
        self.host = Host(library, "lab", "edge")
        self.errors: list[BaseException] = []
        self.order: list[str] = []  # verbs as they came
        self.connected = asyncio.Event()
        self._port = port
        self._session = 0
        self._client: aiomqtt.Client | None = None

    def _state(self, online: bool) -> bytes:
        return json.dumps({"online": online, "timestamp": self._session}).encode()

    async def run(self) -> None:
        while True:
            self._session += 1
            will = aiomqtt.Will(STATE, self._state(False), 1, True)
            try:
                async with aiomqtt.Client("127.0.0.1", self._port, will=will, timeout=1) as client:
                    self._client = client
                    await client.subscribe("spBv1.0/lab/#", qos=1)
                    await client.publish(STATE, self._state(True), qos=1, retain=True)
                    self.connected.set()
                    async for message in client.messages:
                        self._take(message)
            except aiomqtt.MqttError:
                self.connected.clear()
                await asyncio.sleep(0.05)

    def _take(self, message: aiomqtt.Message) -> None:
        verb = message.topic.value.split("/")[2]
        if verb == "NCMD":
            return
        self.order.append(verb)
        try:
            assert isinstance(message.payload, bytes)
            self.host.take(message.topic.value, message.payload, message.qos, message.retain)
        except AssertionError as error:
            self.errors.append(error)

    async def say(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        assert self._client is not None
        await self._client.publish(topic, payload, qos=1, retain=retain)

    def numbers(self) -> set[int]:
        """The rows that came: their value is their number."""
        return {int(c.value) for c in self.host.changes if c.name.startswith("Device/")}


class Lab:
    """Store, link, broker and host, each of which the test may stop."""

    def __init__(self, store: AsyncStore, folder: Path, port: int, library: Peer) -> None:
        self.store = store
        self.broker = support.Mosquitto(port, folder / "broker", persistent=False)
        self.live = LiveHost(library, port)
        self.latest = Latest()
        self.folder = folder
        self.last = 0
        self.forwarder = self.make()

    def make(self) -> Forwarder:
        """A link as a process that has just begun makes it."""
        entry = LinkEntry(
            URL=self.broker.url, Format="sparkplug", Node="edge", PrimaryHost="SCADA", KeepAlive=2
        )
        form = form_of("scada", entry, "lab", SystemClock(), self.latest, self.folder)
        timing = replace(support.QUICK, silence_s=600, resend_s=60)
        made = Forwarder(self.store, "scada", entry, "lab", SystemClock(), form=form, timing=timing)
        self.forwarder = made
        return made

    async def append(self, frames: int) -> None:
        for _ in range(frames):
            batch = support.batch(self.last + 1, FRAME)
            await self.store.append(batch)
            self.latest.appended(batch)
            self.last += FRAME
            self.forwarder.notify_appended()

    @property
    def all(self) -> set[int]:
        return set(range(1, self.last + 1))

    async def empty(self) -> None:
        """Waits until the store has let go of everything, and the host has it all."""
        async with asyncio.timeout(20):
            while (await self.store.backlog("scada")).frames or self.live.numbers() != self.all:
                await asyncio.sleep(0.02)
        assert self.live.errors == []


@pytest.fixture
async def lab(tmp_path: Path, free_port: FreePort, library: Peer) -> AsyncIterator[Lab]:
    store = await AsyncStore.open(tmp_path / "store.db", quota_bytes=10**9, links=("scada",))
    await store.put_birth(support.BIRTH, support.birth_bytes())
    made = Lab(store, tmp_path, free_port(), library)
    made.latest.born(support.birth(), np.zeros(11, dtype=POINT))
    made.broker.start()
    try:
        await made.broker.wait_ready()
        yield made
    finally:
        made.broker.kill()
        await store.close()


async def test_frames_wait_for_the_primary_host_and_come_as_history(lab: Lab) -> None:
    await lab.append(3)
    async with support.running(lab.forwarder.run()):
        await support.eventually(lambda: "SCADA" in lab.forwarder.status()["held_back"])
        await lab.append(2)
        assert (await lab.store.backlog("scada")).frames == 5
        async with support.running(lab.live.run()):
            await lab.empty()
            assert lab.live.host.births == 1 and lab.live.order[0] == "NBIRTH"
            assert all(change.historical for change in lab.live.host.changes)
            await lab.append(5)
            await lab.empty()
            assert not any(change.historical for change in lab.live.host.changes[-FRAME:])


async def test_an_outage_of_the_broker_costs_nothing(lab: Lab) -> None:
    async with support.running(lab.forwarder.run(), lab.live.run()):
        for births in range(1, 4):
            await lab.append(3)
            await lab.empty()  # what a broker has taken dies with it
            assert lab.live.host.births == births
            lab.broker.kill()
            await lab.append(5)
            lab.broker.start()
            await lab.broker.wait_ready()
            await lab.append(2)
        await lab.empty()


async def test_a_broker_that_hangs_and_then_dies_costs_nothing(lab: Lab) -> None:
    async with support.running(lab.forwarder.run(), lab.live.run()):
        await lab.append(2)
        await lab.empty()
        await support.freeze(lab.broker.pid)
        await lab.append(10)  # the kernel takes the bytes, the broker never reads them
        await support.eventually(lambda: lab.forwarder.status()["in_flight"] == 10)
        assert (await lab.store.backlog("scada")).frames == 10
        lab.broker.kill()
        lab.broker.start()
        await lab.broker.wait_ready()
        await lab.empty()


async def test_a_broker_that_hangs_and_wakes_up_confirms(lab: Lab) -> None:
    async with support.running(lab.forwarder.run(), lab.live.run()):
        await lab.append(1)
        await lab.empty()
        await support.freeze(lab.broker.pid)
        await lab.append(3)
        await support.eventually(lambda: lab.forwarder.status()["in_flight"] == 3)
        os.kill(lab.broker.pid, signal.SIGCONT)
        await lab.empty()
        assert lab.live.host.births == 1


async def test_a_host_that_dies_leaves_a_death_and_gets_the_rest_as_history(lab: Lab) -> None:
    async with support.running(lab.forwarder.run()):
        async with support.running(lab.live.run()):
            await lab.append(3)
            await lab.empty()
            # A host's session is over: the broker tells it as its last will would.
            offline = json.dumps({"online": False, "timestamp": 10}).encode()
            await lab.live.say(STATE, offline, retain=True)
            await support.eventually(lambda: lab.live.host.deaths == [0])
        assert lab.live.order[-1] == "NDEATH"
        await support.eventually(lambda: "SCADA" in lab.forwarder.status()["held_back"])
        await lab.append(3)
        lab.live._session = 20
        async with support.running(lab.live.run()):
            await lab.empty()
            assert lab.live.host.births == 2
            assert all(change.historical for change in lab.live.host.changes[-3 * FRAME :])


async def test_a_host_that_leaves_in_the_midst_of_a_backlog_sees_a_death(lab: Lab) -> None:
    await lab.append(200)
    offline = json.dumps({"online": False, "timestamp": 10}).encode()
    async with support.running(lab.make().run(), lab.live.run()):
        await support.eventually(lambda: "NDATA" in lab.live.order)
        await lab.live.say(STATE, offline, retain=True)
        await support.eventually(lambda: lab.live.host.deaths == [0])
        assert (await lab.store.backlog("scada")).frames > 0
        assert lab.live.order[-1] == "NDEATH" and lab.live.errors == []


async def test_a_rebirth_is_given_in_the_session(
    lab: Lab, library: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sparkplug, "REBIRTH_PAUSE_NS", 0)
    async with support.running(lab.forwarder.run(), lab.live.run()):
        await lab.append(2)
        await lab.empty()
        await lab.live.say("spBv1.0/lab/NCMD/edge", library.rebirth())
        await support.eventually(lambda: lab.live.host.births == 2)
        await lab.append(2)
        await lab.empty()
        assert lab.live.host.number == 0 and lab.live.host.deaths == []


async def test_an_edge_that_loses_its_connection_is_dead_until_its_next_birth(lab: Lab) -> None:
    async with support.running(lab.forwarder.run(), lab.live.run()):
        await lab.append(2)
        await lab.empty()
        session = lab.forwarder._session
        assert session is not None
        session._connection._drop()  # no DISCONNECT: the broker publishes the last will
        await support.eventually(lambda: lab.live.host.births == 2)
        assert lab.live.host.deaths == [0] and lab.live.host.number == 1
        assert lab.live.order.index("NDEATH") < len(lab.live.order) - lab.live.order[::-1].index(
            "NBIRTH"
        )
        await lab.append(2)
        await lab.empty()


async def test_a_clean_end_is_a_death_and_nothing_is_retained(lab: Lab) -> None:
    async with support.running(lab.live.run()):
        for number in range(2):
            async with support.running(lab.make().run()):
                await lab.append(2)
                await lab.empty()
            await support.eventually(lambda: not lab.live.host.online)
            assert lab.live.host.deaths == [*range(number + 1)]
        assert lab.live.order[-1] == "NDEATH"
        async with aiomqtt.Client("127.0.0.1", lab.broker.port) as client:
            await client.subscribe("spBv1.0/#", qos=1)
            await client.publish("spBv1.0/last", b"", qos=1)
            async for message in client.messages:
                if message.topic.value == "spBv1.0/last":
                    break
                assert message.topic.value == STATE
