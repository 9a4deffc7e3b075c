"""Ingest as a process and as an object: deaf to rubbish, in order when asked to stop."""

from __future__ import annotations

import asyncio
import logging
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from cloud.historian_sqlite import SqliteHistorian
from cloud.ingest import Ingest, main
from gateway.core.clock import SystemClock
from sync import wire
from sync.link.mqtt import MqttSession, parse_url
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


class Gated(SqliteHistorian):
    """A historian that commits when the test says so, and notes what in one commit."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.began, self.may_go_on = threading.Event(), threading.Event()
        self.commits: list[list[int]] = []

    def commit_frames(self, frames: Sequence[tuple[str, wire.Frame]]) -> None:
        self.commits.append([frame.batch.first for _, frame in frames])
        self.began.set()
        assert self.may_go_on.wait(20)
        super().commit_frames(frames)


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
            assert await next_ack(sender) == wire.Ack({support.EPOCH: 10}, held=())
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
        assert await next_ack(sender) == wire.Ack({}, (support.BIRTH,), ())
        await sender.publish("gatepost/lab/birth", support.birth_bytes())
        await sender.publish("gatepost/lab/frames", frame)
        assert await next_ack(sender) == wire.Ack({support.EPOCH: 10}, held=())
    historian.close()


async def test_what_is_new_overtakes_a_backlog_that_waits(
    broker: support.AnyBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud.ingest.BACKLOG_RECORDS_MAX", 20)
    monkeypatch.setattr("cloud.ingest.ACK_INTERVAL_S", 3600.0)  # live frames don't wait for it
    historian = Gated(tmp_path / "h.db")
    ingest = Ingest(historian, broker.url, SystemClock())
    async with support.running(ingest.run()), session(broker) as sender:
        await ingest.wait_ready()
        await sender.subscribe(["gatepost/lab/ack"])
        await sender.publish("gatepost/lab/birth", support.birth_bytes())
        await support.eventually(lambda: ingest.counts["births"])
        for first in range(1, 111, 10):
            old = wire.encode_frame(support.batch(first, 10), base=1)
            await sender.publish("gatepost/lab/backlog", old)
            await asyncio.to_thread(historian.began.wait, 20)
        new = wire.encode_frame(support.batch(1001, 10), base=1)
        await sender.publish("gatepost/lab/frames", new)
        await support.eventually(lambda: ingest._live.qsize() == 1)
        historian.may_go_on.set()
        ack = await next_ack(sender)
        while (support.EPOCH, 1001, 1010) not in (ack.held or ()):
            ack = await next_ack(sender)
        await support.eventually(lambda: ingest.status()["frames"] == 12)
    # The one that was under way, what is new by itself, the rest in small commits.
    assert historian.commits == [[1], [1001], *[[n, n + 10] for n in range(11, 111, 20)]]
    historian.close()


async def test_a_backlog_for_which_there_is_no_room_holds_up_nothing_new(
    broker: support.AnyBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cloud.ingest.INCOMING_MAX", 5)
    historian = Gated(tmp_path / "h.db")
    ingest = Ingest(historian, broker.url, SystemClock())
    async with support.running(ingest.run()), session(broker) as sender:
        await ingest.wait_ready()
        await sender.publish("gatepost/lab/birth", support.birth_bytes())
        await support.eventually(lambda: ingest.counts["births"])
        for first in range(1, 101, 10):
            old = wire.encode_frame(support.batch(first, 10), base=1)
            await sender.publish("gatepost/lab/backlog", old)
            await asyncio.to_thread(historian.began.wait, 20)
        new = wire.encode_frame(support.batch(1001, 10), base=1)
        await sender.publish("gatepost/lab/frames", new)
        await support.eventually(lambda: ingest._live.qsize() == 1)
        assert ingest.status()["discarded"] == 4
        historian.may_go_on.set()
        await support.eventually(lambda: ingest.status()["frames"] == 7)
    assert historian.commits[:2] == [[1], [1001]]
    historian.close()


async def test_rubbish_of_many_invented_sites_does_not_fill_the_log(
    broker: support.AnyBroker,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cloud.ingest.TOLD_MAX", 5)
    historian = SqliteHistorian(tmp_path / "h.db")
    ingest = Ingest(historian, broker.url, SystemClock())
    with caplog.at_level(logging.WARNING):
        async with support.running(ingest.run()), session(broker) as sender:
            await ingest.wait_ready()
            for number in range(20):
                await sender.publish(f"gatepost/site-{number}/frames", b"rubbish")
            await support.eventually(lambda: ingest.status()["malformed"] == 20)
    assert len([r for r in caplog.records if r.name == "cloud.ingest"]) == 5
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
            assert await next_ack(sender) == wire.Ack({support.EPOCH: 10}, held=())
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
