"""Ingest as a process and as an object: deaf to rubbish, in order when asked to stop."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from cloud.historian_sqlite import SqliteHistorian
from cloud.ingest import Ingest, main
from gateway.core.clock import SystemClock
from sync import wire
from sync.mqtt import MqttSession, parse_url
from tests.sync import support

FreePort = Callable[[], int]
ROOT = Path(__file__).parents[2]


@pytest.fixture
async def broker(tmp_path: Path, free_port: FreePort) -> AsyncIterator[support.AnyBroker]:
    made = support.make_broker("mosquitto", free_port(), tmp_path / "broker")
    made.start()
    try:
        await made.wait_ready()
        yield made
    finally:
        made.kill()


def session(broker: support.AnyBroker) -> MqttSession:
    return MqttSession(parse_url(broker.url), client_id="sender", timeout_s=5)


async def next_ack(sender: MqttSession) -> wire.Ack:
    async with asyncio.timeout(10):
        async for message in sender.messages():
            return wire.decode_ack(message.payload)
    pytest.fail("no acknowledgement")


async def test_rubbish_is_counted_told_once_and_harms_nobody(
    broker: support.AnyBroker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    historian = SqliteHistorian(tmp_path / "h.db")
    ingest = Ingest(historian, broker.url, SystemClock())
    good = wire.encode_frame(support.batch(1, 10), base=1)
    with caplog.at_level(logging.WARNING):
        async with support.running(ingest.run()), session(broker) as sender:
            await ingest.wait_ready()
            await sender.subscribe(["gatepost/lab/ack"])
            for _ in range(20):
                await sender.publish("gatepost/lab/frames", b"rubbish")
            await sender.publish("gatepost/lab/frames", b"")
            await sender.publish("gatepost/lab/frames", good[:-3])
            await sender.publish("gatepost/lab/backlog", b"\xff" * 1000)
            await sender.publish("gatepost/lab/birth", b"rubbish")
            await sender.publish("gatepost/lab/birth", b"")
            await sender.publish("gatepost/bad name/frames", good)
            await sender.publish("gatepost/lab/birth", support.birth_bytes())
            await sender.publish("gatepost/lab/frames", good)
            assert await next_ack(sender) == wire.Ack({support.EPOCH: 10})
    assert ingest.status()["malformed"] == 24
    assert len([r for r in caplog.records if r.name == "cloud.ingest"]) == 3
    assert historian.audit("lab").rows == 10
    historian.close()


async def test_a_frame_without_its_birth_is_asked_for_and_not_acknowledged(
    broker: support.AnyBroker, tmp_path: Path
) -> None:
    historian = SqliteHistorian(tmp_path / "h.db")
    ingest = Ingest(historian, broker.url, SystemClock())
    frame = wire.encode_frame(support.batch(1, 10), base=1)
    async with support.running(ingest.run()), session(broker) as sender:
        await ingest.wait_ready()
        await sender.subscribe(["gatepost/lab/ack"])
        await sender.publish("gatepost/lab/frames", frame)
        assert await next_ack(sender) == wire.Ack({}, (support.BIRTH,))
        await sender.publish("gatepost/lab/birth", support.birth_bytes())
        await sender.publish("gatepost/lab/frames", frame)
        assert await next_ack(sender) == wire.Ack({support.EPOCH: 10})
    historian.close()


async def test_as_a_process_it_serves_until_sigterm(
    broker: support.AnyBroker, tmp_path: Path
) -> None:
    ready = tmp_path / "ready"
    command = [sys.executable, "-m", "cloud.ingest", "--broker", broker.url]
    command += ["--historian", str(tmp_path / "h.db"), "--ready-file", str(ready)]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        await support.eventually(ready.exists)
        async with session(broker) as sender:
            await sender.subscribe(["gatepost/lab/ack"])
            await sender.publish("gatepost/lab/birth", support.birth_bytes())
            await sender.publish(
                "gatepost/lab/frames", wire.encode_frame(support.batch(1, 10), base=1)
            )
            assert await next_ack(sender) == wire.Ack({support.EPOCH: 10})
        process.send_signal(signal.SIGTERM)
        _, errors = await asyncio.to_thread(process.communicate, timeout=15)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert "Traceback" not in errors
    historian = SqliteHistorian(tmp_path / "h.db", read_only=True)
    assert historian.audit("lab").rows == 10
    historian.close()


def test_what_keeps_it_from_starting_is_said_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.db").write_bytes(b"garbage" * 1000)
    for arguments, word in (
        (["--broker", "mqtt://x", "--historian", str(tmp_path / "bad.db")], "bad.db"),
        (["--broker", "nonsense", "--historian", str(tmp_path / "h.db")], "mqtts://"),
    ):
        assert main(arguments) == 2
        said = capsys.readouterr().err
        assert word in said
        assert said.count("\n") == 1
