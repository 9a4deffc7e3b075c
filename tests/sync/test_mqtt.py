"""A session with a broker: it works, or ends in a typed error that names address and cause."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from sync import topics
from sync.errors import LinkAddress, LinkAuth, LinkError, LinkLost, LinkRefused, LinkTimeout
from sync.link.mqtt import BrokerAddress, Message, MqttSession, Will, parse_url
from tests.sync import support

FreePort = Callable[[], int]


@pytest.fixture(params=["nats", "mosquitto"])
async def broker(
    request: pytest.FixtureRequest, tmp_path: Path, free_port: FreePort
) -> AsyncIterator[support.AnyBroker]:
    made = support.make_broker(request.param, free_port(), tmp_path / "broker")
    made.start()
    try:
        await made.wait_ready()
        yield made
    finally:
        made.kill()


def session(url: str, name: str = "tester", **options: Any) -> MqttSession:
    return MqttSession(parse_url(url), client_id=name, **{"timeout_s": 10.0, **options})


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("mqtt://127.0.0.1", BrokerAddress("127.0.0.1", 1883)),
        ("mqtt://broker.example:8883", BrokerAddress("broker.example", 8883)),
        ("mqtt://me%40site@broker/", BrokerAddress("broker", 1883, "me@site")),
        ("mqtt://[::1]:1884", BrokerAddress("::1", 1884)),
    ],
)
def test_a_url_says_host_port_and_user(url: str, address: BrokerAddress) -> None:
    assert parse_url(url) == address


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1",
        "http://x",
        "mqttx://x",
        "mqtt://",
        "mqtt://x:0x",
        "mqtt://x:99999",
        "mqtt://x/path",
        "mqtt://me:secret@x",
        "mqtt://me:secret@x:99999",
        "mqtt://me:secret/more@x",
        "mqttx://me:secret@x",
        "me:secret@x",
        "mqtt://[::1",
    ],
)
def test_a_url_that_makes_no_sense_is_refused(url: str) -> None:
    with pytest.raises(LinkAddress, match="broker") as caught:
        parse_url(url)
    assert "secret" not in str(caught.value)


def test_a_password_comes_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("s3cret\n")
    address = parse_url("mqtt://me@host", str(file))
    assert address.password == "s3cret"
    assert "s3cret" not in address.url
    with pytest.raises(LinkAddress, match="PasswordFile"):
        parse_url("mqtt://me@host", str(tmp_path / "none"))
    with pytest.raises(LinkAddress, match="user"):
        parse_url("mqtt://host", str(file))


@pytest.mark.parametrize("site", ["", "a/b", "a+b", "#", "ü", "-x", "x" * 65, "a b", "$SYS"])
def test_a_site_that_can_not_stand_in_a_topic_is_refused(site: str) -> None:
    with pytest.raises(ValueError, match="Site"):
        topics.topic(site, "frames")
    assert topics.parse(f"gatepost/{site}/frames") is None


def test_topics_come_apart_as_they_were_put_together() -> None:
    for channel in topics.CHANNELS:
        assert topics.parse(topics.topic("soec-lab.1", channel)) == ("soec-lab.1", channel)
    assert topics.parse("gatepost/lab/frames/x") is None
    assert topics.parse("other/lab/frames") is None
    assert topics.parse("gatepost/lab/nothing") is None


async def first(messages: AsyncIterator[Message]) -> Message:
    async with asyncio.timeout(5):
        return await anext(messages)


async def test_what_is_published_comes_in(broker: support.AnyBroker) -> None:
    async with session(broker.url) as one, session(broker.url, "other") as other:
        await other.subscribe(["gatepost/+/frames"])
        for number in range(20):
            await one.publish("gatepost/lab/frames", bytes([number]) * 300_000)
        messages = other.messages()
        for number in range(20):
            message = await first(messages)
            assert message.topic == "gatepost/lab/frames"
            assert message.payload == bytes([number]) * 300_000


async def test_a_retained_message_waits_for_latecomers(broker: support.AnyBroker) -> None:
    async with session(broker.url) as one:
        await one.publish("gatepost/lab/birth", b"birth", retain=True)
    async with session(broker.url, "late") as late:
        await late.subscribe(["gatepost/+/birth"])
        assert await first(late.messages()) == Message("gatepost/lab/birth", b"birth", True)


async def test_a_persistent_session_gets_what_came_while_it_was_away(
    broker: support.AnyBroker,
) -> None:
    async with session(broker.url, "ingest", persistent=True) as away:
        await away.subscribe(["gatepost/+/frames"])
    async with session(broker.url) as one:
        for number in range(10):
            await one.publish("gatepost/lab/frames", bytes([number]))
    async with session(broker.url, "ingest", persistent=True) as back:
        await back.subscribe(["gatepost/+/frames"])
        messages = back.messages()
        got = {(await first(messages)).payload for _ in range(10)}
        assert got == {bytes([number]) for number in range(10)}


async def test_the_last_will_comes_when_the_session_breaks(broker: support.AnyBroker) -> None:
    async with session(broker.url, "watch") as watch:
        await watch.subscribe(["gatepost/lab/birth"])
        will = Will("gatepost/lab/birth", b"death")
        dying = session(broker.url, "dying", will=will)
        await dying.__aenter__()
        dying._drop()
        assert (await first(watch.messages())).payload == b"death"
        await dying.__aexit__(None, None, None)


async def test_a_killed_broker_ends_the_messages(broker: support.AnyBroker) -> None:
    async with session(broker.url) as one:
        await one.subscribe(["gatepost/lab/ack"])
        messages = one.messages()
        waiting = asyncio.create_task(first(messages))
        await asyncio.sleep(0.05)
        broker.kill()
        with pytest.raises(LinkLost):
            await waiting
        with pytest.raises(LinkError):
            await one.publish("gatepost/lab/frames", b"x")


async def test_a_frozen_broker_is_noticed_by_the_publication(broker: support.AnyBroker) -> None:
    pid = broker.pid
    assert pid is not None
    async with session(broker.url) as one:
        assert one._client is not None
        one._client.timeout = 0.5  # from here on; to connect may take longer
        await support.freeze(pid)
        try:
            with pytest.raises(LinkTimeout):
                await one.publish("gatepost/lab/frames", b"x")
        finally:
            os.kill(pid, signal.SIGCONT)


async def test_nobody_at_the_address_is_a_refusal(free_port: FreePort) -> None:
    with pytest.raises(LinkRefused, match="refused"):
        async with session(f"mqtt://127.0.0.1:{free_port()}"):
            pass
    with pytest.raises(LinkRefused):
        async with session("mqtt://no-such-host.invalid"):
            pass


async def test_a_server_that_never_answers_is_a_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(LinkTimeout, match="no answer"):
            async with session(f"mqtt://127.0.0.1:{port}", timeout_s=0.5):
                pass


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x20\x02\x00\x03", b""])
async def test_a_server_that_is_no_broker_is_an_error(answer: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        with pytest.raises(LinkError):
            async with session(f"mqtt://127.0.0.1:{port}", timeout_s=0.5):
                pass
    finally:
        server.close()
        await server.wait_closed()


async def test_a_wrong_password_is_an_auth_error(tmp_path: Path, free_port: FreePort) -> None:
    secrets = tmp_path / "passwords"
    secrets.touch(mode=0o600)
    subprocess.run(["mosquitto_passwd", "-b", str(secrets), "me", "right"], check=True)
    extra = f"allow_anonymous false\npassword_file {secrets}"
    broker = support.Mosquitto(free_port(), tmp_path / "b", persistent=False, extra=extra)
    broker.start()
    try:
        await broker.wait_ready()
        for password, fails in (("wrong", True), ("right", False)):
            address = BrokerAddress("127.0.0.1", broker.port, "me", password)
            made = MqttSession(address, client_id="x", timeout_s=10.0)
            if fails:
                with pytest.raises(LinkAuth, match="user or password"):
                    await made.__aenter__()
            else:
                async with made:
                    await made.publish("gatepost/lab/frames", b"x")
        with pytest.raises(LinkAuth):
            async with session(broker.url):
                pass
    finally:
        broker.kill()


async def test_a_cancelled_connection_leaves_nothing_behind() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        task = asyncio.create_task(session(f"mqtt://127.0.0.1:{port}", timeout_s=0.5).__aenter__())
        connection, _ = await asyncio.to_thread(silent.accept)
        with connection:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            connection.settimeout(5)
            while await asyncio.to_thread(connection.recv, 1000):
                pass


@pytest.mark.parametrize("turns", range(8))
async def test_a_cancellation_at_the_moment_of_an_answer_is_not_lost(
    broker: support.AnyBroker, turns: int
) -> None:
    """Whoever cancels waits for the end of the task, which would go on for ever."""

    async def speak(talker: MqttSession) -> None:
        await talker.fence()
        await asyncio.Event().wait()

    async with session(broker.url) as talker:
        assert talker._client is not None
        waiting = talker._client._pending_unsubscribes
        speaking = asyncio.create_task(speak(talker))
        while not waiting:
            await asyncio.sleep(0)
        next(iter(waiting.values())).set()  # what the library does with the broker's answer
        for _ in range(turns):
            await asyncio.sleep(0)
        speaking.cancel()
        done, _ = await asyncio.wait((speaking,), timeout=5.0)
        speaking.cancel()
        assert done
