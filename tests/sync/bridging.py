"""Two real brokers with a bridge between them, and mosquitto's own programs at both sides."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cloud.broker import HOST, Broker
from config.link import BridgeEntry, BridgeTopic, BrokerConnection
from gateway.core.clock import SystemClock
from sync.bridge.bridge import Bridge, BridgeTiming
from sync.errors import LinkError
from sync.link.mqtt import MqttSession, parse_url
from tests.sync import support

PATIENT = BridgeTiming(timeout_s=20.0, backoff_s_min=0.05, backoff_s_max=0.2)
HURRIED = BridgeTiming(timeout_s=1.5, backoff_s_min=0.05, backoff_s_max=0.2)
TABLE: tuple[dict[str, Any], ...] = (
    {"From": "platone/dsotp/#", "To": "bal/"},
    {"From": "site/#", "To": "dso/site/", "Direction": "out"},
)


def bridge_of(
    local: str, remote: str, *topics: dict[str, Any], name: str = "bal", hurried: bool = False
) -> Bridge:
    entry = BridgeEntry(
        Local=BrokerConnection(URL=local, KeepAlive=2 if hurried else 60),
        Remote=BrokerConnection(URL=remote, KeepAlive=2 if hurried else 60),
        Topics=[BridgeTopic(**topic) for topic in topics or TABLE],
    )
    return Bridge(name, entry, "lab", SystemClock(), timing=HURRIED if hurried else PATIENT)


class QuickNats(Broker):
    """It sends again what was not acknowledged within a second; by default that takes thirty."""

    def _write_config(self) -> Path:
        path = super()._write_config()
        path.write_text(path.read_text().replace("max_ack", 'ack_wait: "1s", max_ack'))
        return path


@dataclass
class Pair:
    """The local and the remote broker, and the bridge that runs between them."""

    local: support.AnyBroker
    remote: support.AnyBroker
    topics: tuple[dict[str, Any], ...] = ()
    hurried: bool = False
    bridge: Bridge = field(init=False)
    _task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the bridge, as a process that begins anew would."""
        self.bridge = bridge_of(self.local.url, self.remote.url, *self.topics, hurried=self.hurried)
        self._task = asyncio.create_task(self.bridge.run())

    async def end(self) -> None:
        """End it like a process that is stopped."""
        if self._task is not None:
            await support.cancelled(self._task)
            self._task = None

    async def up(self) -> None:
        """Until both sides are connected."""
        await support.eventually(
            lambda: self.status("local")["connected"] and self.status("remote")["connected"]
        )

    def status(self, part: str) -> dict[str, Any]:
        return self.bridge.status()[part]


def broker_of(kind: str, port: int, folder: Path) -> support.AnyBroker:
    if kind == "quick nats":
        return QuickNats(port, folder)
    return support.make_broker(kind, port, folder)


@asynccontextmanager
async def pair(
    folder: Path,
    free_port: Callable[[], int],
    kinds: tuple[str, str] = ("mosquitto", "mosquitto"),
    topics: tuple[dict[str, Any], ...] = (),
    extra: str = "",
    hurried: bool = False,
) -> AsyncIterator[Pair]:
    """A local and a remote broker of these kinds; `extra` lines are mosquitto's, remote."""
    local = broker_of(kinds[0], free_port(), folder / "local")
    remote = broker_of(kinds[1], free_port(), folder / "remote")
    if extra and isinstance(remote, support.Mosquitto):
        remote.extra = f"allow_anonymous true\n{extra}"
    made = Pair(local, remote, topics, hurried)
    try:
        for broker in (local, remote):
            broker.start()
            await broker.wait_ready()
        await made.start()
        await made.up()
        yield made
    finally:
        await made.end()
        local.kill()
        remote.kill()


@dataclass
class Heard:
    """What mosquitto_sub printed: (topic, payload, retained)."""

    lines: list[tuple[str, str, bool]] = field(default_factory=list)

    @property
    def payloads(self) -> list[str]:
        return [payload for _, payload, _ in self.lines]

    def numbers(self) -> list[int]:
        """Whole numbers, each where it came first."""
        return list(dict.fromkeys(int(payload) for payload in self.payloads))


@asynccontextmanager
async def listening(port: int, name: str, topic: str = "#") -> AsyncIterator[Heard]:
    """A subscriber with a session that its broker keeps; it connects again by itself."""
    process = await asyncio.create_subprocess_exec(
        *("mosquitto_sub", "-h", HOST, "-p", str(port), "-c", "-i", name, "-q", "1"),
        *("-t", topic, "-t", "ready/#", "-F", "%r %t %p", "-k", "5"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    heard = Heard()

    async def read() -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            retained, found, payload = line.decode().rstrip("\n").split(" ", 2)
            heard.lines.append((found, payload, retained == "1"))

    reading = asyncio.create_task(read())
    try:
        async with asyncio.timeout(15):
            while not heard.lines:  # it has subscribed when it hears this
                await put(f"mqtt://{HOST}:{port}", "ready/x", b"0")
                await asyncio.sleep(0.05)
        while [line for line in heard.lines if line[0] == "ready/x"]:
            heard.lines = [line for line in heard.lines if line[0] != "ready/x"]
            await asyncio.sleep(0.1)
        yield heard
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await support.cancelled(reading)


async def put(
    url: str, topic: str, *payloads: bytes, retain: bool = False, timeout_s: float = 20.0
) -> None:
    """Publishes in order; returns when the broker has taken everything, however often it ends."""
    left = list(payloads)
    async with asyncio.timeout(30):
        while left:
            try:
                session = MqttSession(
                    parse_url(url), client_id=f"publisher-{topic}", timeout_s=timeout_s
                )
                async with session:
                    while left:
                        await session.publish(topic, left[0], retain=retain)
                        left.pop(0)
            except LinkError:
                await asyncio.sleep(0.05)
