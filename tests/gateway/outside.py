"""A gateway on the test's loop, a real broker, and a service of the cloud that commands it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloud.broker import Broker
from cloud.commands import CommandClient, Message, Signer
from config.command_keys import KEYS_FILE, public_text
from gateway.core.clock import SystemClock
from gateway.core.paths import StatePaths
from sync.link.mqtt import parse_url
from sync.remote.signed import COMMAND
from tests.gateway.running import Running
from tests.gateway.sites import Rig, eventually
from tests.gateway.test_link import LinkRunning

SITE = "small"
KEY = "market"
MINUTE_NS = 60 * 10**9


def key_entry(private: Ed25519PrivateKey, name: str = KEY, **keys: Any) -> dict[str, Any]:
    """An entry of keys.json that lets a key set everything."""
    public = public_text(private.public_key().public_bytes_raw())
    types = ["command", "schedule", "query"]
    return {"Name": name, "PublicKey": public, "Points": ["*"], "Types": types, **keys}


def write_keys(folder: Path, *entries: Mapping[str, Any]) -> None:
    """A site's keys.json."""
    text = json.dumps({"Keys": list(entries)})
    beside = folder / "keys.new"
    beside.write_text(text, encoding="utf-8")
    beside.replace(folder / KEYS_FILE)


class Outside:
    """`private` is the key of the service; field and link may be ended and started anew."""

    def __init__(self, folder: Path, port: int, ack: str = "broker") -> None:
        self.ack = ack  # "broker": an end waits for no historian
        self.rig = Rig(folder)
        self.broker = Broker(port, folder / "broker")
        self.paths = StatePaths(self.rig.state)
        self.private = Ed25519PrivateKey.generate()
        self.field: Running | None = None
        self.link: LinkRunning | None = None
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        await self.rig.start()
        broker = {"URL": self.broker.url, "Ack": self.ack}
        link = {"Broker": broker, "OpcUa": {"Active": False}}
        self.rig.write(link={**link, "Store": {"FrameInterval": 0.05}})
        write_keys(self.rig.folder, key_entry(self.private))
        self.broker.start()
        await self.broker.wait_ready()
        await self.start_field()
        await self.start_link()
        self.client = CommandClient(
            parse_url(self.broker.url), Signer(KEY, self.private, "test"), SystemClock()
        )
        await self._stack.enter_async_context(self.client)

    async def start_field(self) -> None:
        self.field = Running(self.rig)
        await self.field.ready()

    async def start_link(self) -> None:
        """Start the link; returns when it takes commands."""
        self.link = LinkRunning(self.rig)
        await self.link.start()
        remote = self.link.link.remote
        await eventually(lambda: self.link and self.link.link.links.connected)
        await eventually(lambda: remote.ready and remote.remembers)

    def write(self, value: float, tag: str = "Rig.Setpoint", **keys: Any) -> Message:
        """A command of the service."""
        payload = {"tag": tag, "value": value, "lease_ns": MINUTE_NS, **keys}
        return self.client.message(SITE, COMMAND, payload, life_ns=MINUTE_NS)

    async def steps(self, message: Message, wait_s: float = 10.0) -> list[dict[str, Any]]:
        """The receipts of a message."""
        return [receipt async for receipt in self.client.send(message, wait_s=wait_s)]

    async def end(self) -> None:
        await self._stack.aclose()
        if self.field is not None:
            await self.field.end()
        if self.link is not None:
            await self.link.end()
        self.broker.stop()
        await self.rig.stop()
