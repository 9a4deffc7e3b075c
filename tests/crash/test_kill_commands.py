"""``kill -9`` of link and field while commands come from outside: each runs once at most."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloud.commands import COMMAND, CommandClient, Message, Signer
from cloud.historian_sqlite import SqliteHistorian
from gateway.core.clock import SystemClock
from sync.link.mqtt import parse_url
from tests.crash.town import Town
from tests.gateway.outside import KEY, MINUTE_NS, SITE, key_entry, write_keys
from tests.gateway.sites import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]

TOPIC = f"gatepost/{SITE}/commands"
KILLS = ("link", "field", "link", "link")
LAST_STEPS = {"accepted", "refused", "failed"}


async def test_commands_run_once_and_what_was_taken_is_answered(town: Town) -> None:
    private = Ed25519PrivateKey.generate()
    write_keys(town.rig.folder, key_entry(private))
    signer = Signer(KEY, private, "test")
    sent: list[Message] = []
    async with CommandClient(parse_url(town.broker.url), signer, SystemClock()) as client:

        async def command(value: float, wait_s: float) -> list[str]:
            write = {"tag": "Rig.Setpoint", "value": value, "lease_ns": MINUTE_NS}
            sent.append(client.message(SITE, COMMAND, write, life_ns=10 * MINUTE_NS))
            return [r["step"] async for r in client.send(sent[-1], wait_s=wait_s)]

        async def works() -> None:
            async with asyncio.timeout(30):
                while "accepted" not in await command(50 + len(sent) % 40, 1.0):
                    for message in sent[-5:]:  # somebody repeats what he has recorded
                        await client._session.publish(TOPIC, message.data)

        await works()
        for turn, name in enumerate(KILLS):
            coming = asyncio.create_task(command(10 + turn, 0.2))
            await asyncio.sleep(0.004 * turn)  # before, while and after it passes through
            town.kill(name)
            await coming
            await town.until(lambda s: not s["startup"] and s["link"] and s["link"]["connected"])
            for message in sent:
                await client._session.publish(TOPIC, message.data)
            await works()
    await town.arrived()

    def told() -> dict[str, list[str]]:
        steps: defaultdict[str, list[str]] = defaultdict(list)
        historian = SqliteHistorian(town.historian_file, read_only=True)
        with contextlib.closing(historian):
            for event in historian.events(gateway=SITE, kind="receipt", limit=10_000):
                steps[str(event.body.get("command", ""))].append(str(event.body["step"]))
        return steps

    ids = [message.envelope.id for message in sent]

    def settled() -> bool:
        """Everything that was taken has an answer: perhaps that nobody knows."""
        steps = told()
        return all(LAST_STEPS & set(steps[f"{i}/1"]) for i in ids if "taken" in steps[i])

    await eventually(settled, 40)
    steps = told()
    assert all(steps[f"{i}/1"].count("accepted") <= 1 for i in ids)
    assert sum("accepted" in steps[f"{i}/1"] for i in ids) > len(KILLS)
    assert any("refused" in steps[i] for i in ids)  # the repetitions
