"""The broker with TLS: a certificate is its owner's rights, and a gateway sees its site only."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from cloud.authority import GATEWAY, GATEWAY_DAYS, SERVICE, Authority, new_client
from cloud.broker import Broker, Secured
from cloud.enrol_book import Entitled
from cloud.rights import rights_of
from gateway.core.clock import SystemClock
from sync.errors import LinkAuth, LinkError, LinkLost
from sync.link.mqtt import Message, MqttSession, TlsFiles, Will, parse_url

FreePort = Callable[[], int]
# A dot in a site's name is another thing to the broker.
ALL = [Entitled("lab", GATEWAY), Entitled("wind.park", GATEWAY), Entitled("ingest", SERVICE)]


class Cloud:
    """A broker, an authority, and sessions with certificates of it."""

    def __init__(self, folder: Path, port: int) -> None:
        self.authority = Authority.create(folder / "authority", ["127.0.0.1"], self.now_ns)
        files = self.authority
        secured = Secured(files.server_file, files.server_key_file, files.file)
        self.broker = Broker(port, folder / "broker", secured, rights_of(ALL))
        self._folder = folder
        self._numbers = itertools.count()

    @property
    def now_ns(self) -> int:
        return SystemClock().utc_ns()

    def session(
        self,
        name: str,
        role: str = GATEWAY,
        *,
        client: str = "",
        will: Will | None = None,
        persistent: bool = False,
        authority: Authority | None = None,
        days: int = GATEWAY_DAYS,
        turn: int = 0,
        timeout_s: float = 5.0,
    ) -> MqttSession:
        """A session of a new certificate for a name and role."""
        number = next(self._numbers)
        path = self._folder / f"{number}.pem"
        by = authority or self.authority
        path.write_bytes(new_client(by, name, role, self.now_ns, days, turn))
        tls = TlsFiles(str(self.authority.file), str(path), str(path))
        address = parse_url(self.broker.url, None, tls)
        client_id = client or f"client-{number}"
        return MqttSession(
            address, client_id=client_id, will=will, persistent=persistent, timeout_s=timeout_s
        )


@pytest.fixture
async def cloud(tmp_path: Path, free_port: FreePort) -> AsyncIterator[Cloud]:
    """A secured broker that answers."""
    made = Cloud(tmp_path, free_port())
    made.broker.start()
    try:
        await made.broker.wait_ready()
        yield made
    finally:
        made.broker.stop()


async def hear(session: MqttSession, got: list[Message]) -> None:
    messages = session.messages()
    while True:
        got.append(await anext(messages))


@contextlib.asynccontextmanager
async def heard(session: MqttSession) -> AsyncIterator[list[Message]]:
    """What a session gets meanwhile."""
    got: list[Message] = []
    task = asyncio.create_task(hear(session, got))
    yield got
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def publish_on(session: MqttSession) -> None:
    """Until the broker ends the session."""
    async with asyncio.timeout(10):
        while True:
            await session.publish("gatepost/lab/frames", b"")
            await asyncio.sleep(0.05)


async def until(got: list[Message], *payloads: bytes) -> None:
    async with asyncio.timeout(10):
        while [message.payload for message in got] != list(payloads):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("site", ["lab", "wind.park"])
async def test_a_gateway_speaks_with_the_cloud_on_the_topics_of_its_site(
    cloud: Cloud, site: str
) -> None:
    async with cloud.session("ingest", SERVICE) as ingest, cloud.session(site) as gateway:
        await ingest.subscribe(["gatepost/+/frames"])
        await gateway.subscribe([f"gatepost/{site}/commands", f"gatepost/{site}/ack"])
        async with heard(ingest) as up, heard(gateway) as down:
            await gateway.publish(f"gatepost/{site}/frames", b"frame")
            await until(up, b"frame")
            assert up[0].topic == f"gatepost/{site}/frames"
            await ingest.publish(f"gatepost/{site}/commands", b"command")
            await until(down, b"command")


@pytest.mark.parametrize(
    "topic",
    [
        "gatepost/wind.park/commands",
        "gatepost/+/commands",
        "gatepost/#",
        "#",
        "+/+/+",
        "gatepost/wind.park/frames",
        "gatepost/lab/frames",
        "gatepost/lab/#",
        "$MQTT/sub/#",
        "$MQTT/#",
        "$JS/#",
        "$SYS/#",
    ],
)
async def test_a_gateway_can_not_listen_beyond_what_comes_down_to_its_site(
    cloud: Cloud, topic: str
) -> None:
    async with cloud.session("lab") as gateway:
        with pytest.raises(LinkAuth, match="forbids the subscription"):
            await gateway.subscribe([topic])


async def test_what_a_gateway_publishes_for_another_site_reaches_nobody(cloud: Cloud) -> None:
    async with cloud.session("ingest", SERVICE) as ingest, cloud.session("lab") as gateway:
        await ingest.subscribe([f"gatepost/+/{what}" for what in ("frames", "birth", "receipts")])
        async with cloud.session("wind.park") as other:
            await other.subscribe(["gatepost/wind.park/commands"])
            async with heard(ingest) as up, heard(other) as down:
                for topic in ("wind.park/frames", "wind.park/birth", "wind.park/commands"):
                    await gateway.publish(f"gatepost/{topic}", b"forged", retain=True)
                await gateway.publish("gatepost/lab/commands", b"to itself")
                await gateway.publish("gatepost/lab/receipts", b"true")
                await ingest.publish("gatepost/wind.park/commands", b"true")
                await until(up, b"true")
                await until(down, b"true")
    async with cloud.session("ingest", SERVICE) as later, heard(later) as got:
        await later.subscribe(["gatepost/+/frames", "gatepost/+/birth"])  # nor is any retained
        async with cloud.session("wind.park") as other:
            await other.publish("gatepost/wind.park/frames", b"true")
            await until(got, b"true")


async def test_a_last_will_for_another_site_is_thrown_away(cloud: Cloud) -> None:
    async with cloud.session("ingest", SERVICE) as ingest:
        await ingest.subscribe(["gatepost/+/birth"])
        async with heard(ingest) as up:
            for site in ("wind.park", "lab"):
                will = Will(f"gatepost/{site}/birth", b"dead")
                gateway = cloud.session("lab", will=will)
                await gateway.__aenter__()
                gateway._drop()  # without a word
                with contextlib.suppress(LinkError):
                    await gateway.__aexit__(None, None, None)
            await until(up, b"dead")
            assert up[0].topic == "gatepost/lab/birth"


async def test_a_stolen_client_id_brings_none_of_its_owners_messages(cloud: Cloud) -> None:
    topic = "gatepost/lab/commands"
    async with cloud.session("lab", client="gatepost-lab", persistent=True) as owner:
        await owner.subscribe([topic])
    async with cloud.session("ingest", SERVICE) as ingest:
        await ingest.publish(topic, b"secret")
    thief = cloud.session("wind.park", client="gatepost-lab", persistent=True)
    with contextlib.suppress(LinkError):
        async with thief, heard(thief) as got:
            await thief.subscribe(["gatepost/wind.park/commands"])
            async with cloud.session("ingest", SERVICE) as ingest:
                await ingest.publish("gatepost/wind.park/commands", b"own")
                await until(got, b"own")
    back = cloud.session("lab", client="gatepost-lab", persistent=True)
    async with back, heard(back) as got:
        await back.subscribe([topic])
        await until(got, b"secret")


async def test_who_has_no_certificate_or_one_without_rights_does_not_get_in(
    cloud: Cloud, tmp_path: Path
) -> None:
    other = Authority.create(tmp_path / "other", ["127.0.0.1"], cloud.now_ns)
    tls = TlsFiles(str(cloud.authority.file))
    address = parse_url(cloud.broker.url, None, tls)
    nobody = MqttSession(address, client_id="nobody", timeout_s=2.0)
    other_lab = cloud.session("lab", authority=other, timeout_s=2.0)
    strangers = [
        nobody,
        other_lab,
        cloud.session("stranger", timeout_s=2.0),
        cloud.session("lab", SERVICE, timeout_s=2.0),  # a gateway's name makes no service
        cloud.session("ingest", GATEWAY, timeout_s=2.0),
        cloud.session("lab", days=0, timeout_s=2.0),
    ]

    async def enters(stranger: MqttSession) -> bool:
        try:
            async with stranger:
                await stranger.subscribe(["gatepost/lab/commands"])
        except LinkError:
            return False
        return True

    assert not any(await asyncio.gather(*map(enters, strangers)))
    assert await enters(cloud.session("lab"))


async def enters_at_last(cloud: Cloud) -> None:
    """Until the broker has read its new rights."""
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(LinkError):
                async with cloud.session("lab", timeout_s=2.0) as gateway:
                    await gateway.subscribe(["gatepost/lab/ack"])
                    return
            await asyncio.sleep(0.05)


async def test_where_nobody_has_rights_nobody_gets_in(tmp_path: Path, free_port: FreePort) -> None:
    made = Cloud(tmp_path, free_port())
    made.broker = Broker(made.broker.port, made.broker.directory, made.broker.secured, [])
    made.broker.start()
    try:
        await made.broker.wait_ready()
        with pytest.raises(LinkError):
            async with made.session("lab", timeout_s=2.0) as gateway:
                await gateway.subscribe(["gatepost/lab/ack"])
        made.broker.allow(rights_of([Entitled("lab", GATEWAY)]))
        await enters_at_last(made)
        async with made.session("lab") as gateway:
            made.broker.allow([])
            with pytest.raises(LinkLost):
                await anext(gateway.messages())
        with pytest.raises(LinkError):
            async with made.session("lab", timeout_s=2.0) as gateway:
                await gateway.subscribe(["gatepost/lab/ack"])
    finally:
        made.broker.stop()


async def test_rights_change_while_it_runs(cloud: Cloud) -> None:
    async with cloud.session("lab") as gateway:
        await gateway.subscribe(["gatepost/lab/ack"])
        cloud.broker.allow(rights_of([Entitled("new", GATEWAY), Entitled("ingest", SERVICE)]))
        with pytest.raises(LinkLost):
            await anext(gateway.messages())
    with pytest.raises(LinkError):
        async with cloud.session("lab", timeout_s=2.0) as gateway:
            await gateway.subscribe(["gatepost/lab/ack"])
    async with cloud.session("new") as gateway:
        await gateway.subscribe(["gatepost/new/ack"])


async def test_a_name_that_was_revoked_and_has_rights_again_gives_none_to_its_old_certificate(
    cloud: Cloud,
) -> None:
    async with cloud.session("lab") as stolen:
        await stolen.subscribe(["gatepost/lab/ack"])
        cloud.broker.allow(rights_of([Entitled("lab", GATEWAY, 1)]))
        with pytest.raises(LinkError):
            await publish_on(stolen)
    async with cloud.session("lab", turn=1) as gateway:
        await gateway.subscribe(["gatepost/lab/ack"])
    for turn in (0, 2):
        with pytest.raises(LinkError):
            async with cloud.session("lab", turn=turn, timeout_s=2.0) as other:
                await other.subscribe(["gatepost/lab/ack"])
