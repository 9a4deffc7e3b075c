"""What the tests of commands from outside share: keys, messages, and a door that notes all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from config.command_keys import KEYS_FILE, public_text
from gateway.core.clock import UTC_PLAUSIBLE_NS, ManualClock
from gateway.core.records import Event
from sync.remote import signed
from sync.remote.inbox import Inbox, NotPassedOn
from sync.remote.signed import Envelope

SITE = "lab"
KEY = "market"
S = 10**9
NOW = UTC_PLAUSIBLE_NS + 400 * 86_400 * S
PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(32, 64)))
WRITE: Mapping[str, Any] = {"tag": "Battery.Power", "value": 5.0, "lease_ns": 60 * S}


def entry(private: Ed25519PrivateKey = PRIVATE, name: str = KEY, **keys: Any) -> dict[str, Any]:
    """An entry of keys.json."""
    public = public_text(private.public_key().public_bytes_raw())
    made = {"Name": name, "PublicKey": public, "Points": ["Battery.*"]}
    return {**made, "Types": ["command", "schedule", "query"], **keys}


def write_keys(folder: Path, *entries: Mapping[str, Any]) -> None:
    """Replace a folder's keys.json."""
    folder.mkdir(exist_ok=True)
    beside = folder / "keys.new"
    beside.write_text(json.dumps({"Keys": list(entries)}), encoding="utf-8")
    beside.replace(folder / KEYS_FILE)


def envelope(name: str = "c1", now_ns: int = NOW, **other: Any) -> Envelope:
    """A command that was issued now and lives a minute."""
    usual: dict[str, Any] = {"time_ns": now_ns, "source": "bidding", "destination": SITE}
    usual |= {"type": "command", "expires_ns": now_ns + 60 * S, "payload": dict(WRITE)}
    return Envelope(id=name, **{**usual, **other})


def message(
    name: str = "c1",
    now_ns: int = NOW,
    *,
    key: str = KEY,
    private: Ed25519PrivateKey = PRIVATE,
    **other: Any,
) -> bytes:
    """The same as it comes on the topic."""
    return signed.sign(signed.encode(envelope(name, now_ns, **other)), key, private)


class Door:
    """Notes what the inbox sends; the field process behind it answers only by `answer`."""

    def __init__(self) -> None:
        self.ready = True
        self.fault: NotPassedOn | None = None
        self.passed: list[Mapping[str, Any]] = []
        self.journaled: list[Mapping[str, Any]] = []
        self.published: list[Mapping[str, Any]] = []

    async def pass_on(self, message: Mapping[str, Any]) -> None:
        if self.fault is not None:
            raise self.fault
        self.passed.append(message)

    async def journal(self, body: Mapping[str, Any]) -> None:
        self.journaled.append(body)

    def publish(self, body: Mapping[str, Any], utc_ns: int) -> None:
        self.published.append(body)

    def steps(self, name: str) -> list[str]:
        """The steps of a message that were journaled."""
        return [str(b["step"]) for b in self.journaled if b["command"].partition("/")[0] == name]

    def reasons(self, step: str = "refused") -> list[str]:
        return [str(b["reason"]) for b in self.journaled if b["step"] == step]


class Desk:
    """An inbox that runs; `kill` ends it as a kill would, and `start` begins anew on its files."""

    def __init__(self, folder: Path, clock: ManualClock | None = None, life_s: float = 600) -> None:
        self.folder = folder
        self.clock = clock or ManualClock(NOW - S)
        self.door = Door()
        self.life_s = life_s
        self.inbox: Inbox
        self._task: asyncio.Task[None] | None = None
        write_keys(folder / "site", entry())

    async def start(self) -> None:
        site, file = self.folder / "site", self.folder / "inbox.sqlite"
        self.inbox = Inbox(SITE, site, file, int(self.life_s * S), self.clock, self.door)
        self._task = asyncio.create_task(self.inbox.run())
        self.inbox.wake()
        await self.inbox.idle()
        if self.clock.utc_ns() < NOW:
            self.clock.advance(NOW - self.clock.utc_ns())

    async def kill(self) -> None:
        """The door keeps what it has heard: the world outside goes on."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._task = None

    async def put(self, *payloads: bytes, channel: str = "commands") -> None:
        """Put messages, and wait until the inbox is through with them."""
        for payload in payloads:
            self.inbox.put(channel, payload)
        await self.inbox.idle()

    async def tick(self, seconds: float = 0) -> None:
        """Move the clock, and wait until the inbox has looked."""
        self.clock.advance(int(seconds * S))
        self.inbox.wake()
        await self.inbox.idle()

    async def answer(self, name: str, step: str = "accepted", reason: str = "") -> None:
        """A receipt of the field process."""
        body = {"command": name, "step": step, "reason": reason, "origin": "remote"}
        self.inbox.heard(Event(1, self.clock.utc_ns(), "receipt", body))
        await self.tick()
