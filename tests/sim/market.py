"""A service of the cloud that commands with signed messages, and an enemy who sends them again."""

from __future__ import annotations

import asyncio
import base64
import json
from collections import deque
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloud.commands import CommandClient, Message, Signer
from sync import topics
from sync.errors import LinkError
from sync.link.mqtt import parse_url
from sync.remote.signed import COMMAND
from tests.sim.checks import Checks, Order
from tests.sim.plant import SITE
from tests.sim.processes import BROKER_URL, SimClock
from tests.sim.trace import Trace

HOST: Final = "market"
KEY: Final = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PAUSE_S: Final = (4.0, 30.0)
WAIT_S: Final = 15.0
FIRST_VALUE: Final = 50_000  # above those of the operator
SENT_MAX: Final = 20  # messages that the enemy has recorded


def write_keys(folder: Path) -> None:
    """``keys.json`` with the key of this service."""
    public = base64.b64encode(KEY.public_key().public_bytes_raw()).decode()
    entry: dict[str, Any] = {"Name": "market", "PublicKey": public, "Points": ["Rig.*"]}
    entry["Types"] = ["command", "schedule"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "keys.json").write_text(json.dumps({"Keys": [entry]}), encoding="utf-8")


class Market:
    """Sends for ever; every setpoint is a number of its own."""

    def __init__(
        self,
        connect: Callable[..., Any],
        clock: SimClock,
        checks: Checks,
        trace: Trace,
        seed: int,
    ) -> None:
        self._connect = connect
        self._clock = clock
        self._checks = checks
        self._trace = trace
        self._random = Random(f"{seed}:market")
        self._address = parse_url(BROKER_URL)
        self._count = 0
        self._sent: deque[Message] = deque(maxlen=SENT_MAX)

    async def run(self) -> None:
        """Command until cancelled."""
        while True:
            await asyncio.sleep(self._random.uniform(*PAUSE_S))
            try:
                draw = self._random.random()
                if draw < 0.3 and self._sent:
                    await self._again(self._random.choice(self._sent).data)
                elif draw < 0.4:
                    await self._forge()
                else:
                    await self._command()
            except LinkError as error:
                self._trace("market", f"{type(error).__name__}: {error}")

    def _order(self, client: CommandClient) -> tuple[Message, Order]:
        """A new command, and what is to be known of it."""
        self._count += 1
        value = FIRST_VALUE + self._count * 0.5
        lease_ns, life_ns = (round(self._random.uniform(2, 60) * 1e9) for _ in range(2))
        payload = {"tag": "Rig.Setpoint", "value": value, "lease_ns": lease_ns}
        message = client.message(SITE, COMMAND, payload, life_ns=life_ns)
        expires_ns = message.envelope.expires_ns
        name = message.parts[0]
        now_ns = self._clock.monotonic_ns()
        order = Order(name, "Rig.Setpoint", value, now_ns, expires_ns, lease_ns)
        order.signed = True
        self._checks.orders[name] = order
        return message, order

    def _client(self) -> CommandClient:
        signer = Signer("market", KEY, "sim")
        return CommandClient(self._address, signer, self._clock, connect=self._connect)

    async def _command(self) -> None:
        async with self._client() as client:
            message, order = self._order(client)
            self._sent.append(message)
            steps = [str(r["step"]) async for r in client.send(message, wait_s=WAIT_S)]
        self._trace("market", f"{order.value:g}: {', '.join(steps)}")

    async def _again(self, data: bytes) -> None:
        """Somebody who can publish sends a message once more."""
        async with self._connect(self._address, client_id="enemy") as session:
            await session.publish(topics.topic(SITE, "commands"), data)
        self._trace("market", "a message goes out again")

    async def _forge(self) -> None:
        """A message with a bit changed must do nothing."""
        async with self._client() as client:
            message, order = self._order(client)
        order.forged = True
        data = bytearray(message.data)
        data[self._random.randrange(len(data) // 2, len(data))] ^= 1 << self._random.randrange(8)
        await self._again(bytes(data))
