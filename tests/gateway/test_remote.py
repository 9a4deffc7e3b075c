"""Commands from outside over a real broker to a real device, and everything that must not pass."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloud.commands import COMMAND, SCHEDULE, CommandClient, Message, QueryRefused, Signer
from gateway.core.clock import SystemClock
from sync import topics, wire
from sync.link.mqtt import MqttSession, parse_url
from sync.remote import signed
from tests.gateway.outside import KEY, MINUTE_NS, SITE, Outside, key_entry, write_keys
from tests.gateway.sites import eventually


@pytest.fixture
async def outside(tmp_path: Path, free_port: Callable[[], int]) -> AsyncIterator[Outside]:
    made = Outside(tmp_path, free_port())
    try:
        await made.start()
        yield made
    finally:
        await made.end()


def steps(receipts: list[dict[str, Any]]) -> list[str]:
    return [receipt["step"] for receipt in receipts]


async def test_a_command_moves_the_plant_and_every_step_has_a_receipt(outside: Outside) -> None:
    assert outside.field is not None
    message = outside.write(42)
    receipts = await outside.steps(message)
    assert steps(receipts) == ["taken", "accepted", "driven", "verified"]
    assert outside.field.value("Rig.Setpoint") == 42
    name = message.envelope.id
    assert [r["command"] for r in receipts] == [name, f"{name}/1", f"{name}/1", f"{name}/1"]
    journaled = [r for r in outside.field.events("receipt") if name in r.get("command", "")]
    assert steps(journaled) == steps(receipts)  # numbered and durable as well


async def test_the_receipts_go_up_in_frames_as_well(outside: Outside) -> None:
    address = parse_url(outside.broker.url)
    async with MqttSession(address, client_id="watcher") as watcher:
        await watcher.subscribe([topics.topic(SITE, "frames")])
        message = outside.write(42)
        receipts = await outside.steps(message)
        found: list[str] = []
        async with asyncio.timeout(10):
            async for frame in watcher.messages():
                events = wire.decode_frame(frame.payload).batch.events
                found += [str(e.body["step"]) for e in events if of(message, e.body)]
                if found == steps(receipts):
                    return


def of(message: Message, body: Mapping[str, Any]) -> bool:
    """Whether a receipt is one of a message's."""
    return message.envelope.id in str(body.get("command", ""))


async def test_several_points_have_receipts_of_their_own(outside: Outside) -> None:
    lease = {"lease_ns": MINUTE_NS}
    writes = [
        {"tag": "Rig.Setpoint", "value": 30, **lease},
        {"tag": "Rig.Setpoint", "value": 300, **lease},
        {"tag": "Rig.Valve", "value": 1, **lease},
    ]
    message = outside.client.message(SITE, COMMAND, writes, life_ns=MINUTE_NS)
    receipts = await outside.steps(message)
    last = {r["command"].partition("/")[2]: r["step"] for r in receipts}
    assert last == {"": "taken", "1": "verified", "2": "refused", "3": "verified"}
    assert outside.rig.valve


async def test_a_schedule_arrives_under_the_name_of_its_service(outside: Outside) -> None:
    assert outside.field is not None
    now_ns = SystemClock().utc_ns()
    slots = {"Rig.Setpoint": [[now_ns - MINUTE_NS, 33.0]]}
    payload = {"schedule": "day", "kind": "day-ahead", "points": slots}
    payload["end_utc_ns"] = now_ns + 15 * MINUTE_NS
    message = outside.client.message(SITE, SCHEDULE, payload, life_ns=MINUTE_NS)
    receipts = await outside.steps(message)
    assert steps(receipts) == ["taken", "accepted"]
    assert receipts[-1]["schedule"] == "market/day"
    field = outside.field
    await eventually(lambda: field.value("Rig.Setpoint") == 33)


async def test_what_must_not_pass_is_refused_with_receipt_and_audit_entry(outside: Outside) -> None:
    assert outside.field is not None
    good = outside.write(42)
    body = good.data
    thief = Ed25519PrivateKey.generate()
    original = signed.unwrap(body)
    cases = {
        "forged": signed.sign(original.body, KEY, thief),
        "altered": body.replace(b"Setpoint", b"Sexpoint"),
        "mis-addressed": _signed(outside, destination="harbour"),
        "expired": _signed(
            outside, time_ns=1_790_000_000 * 10**9, expires_ns=1_790_000_060 * 10**9
        ),
        "foreign point": _signed(outside, payload={"tag": "Rig.Valve", "value": 1}),
        "wrong type": _signed(outside, type="schedule", payload={"points": {}}),
    }
    write_keys(outside.rig.folder, key_entry(outside.private, Points=["Rig.Setpoint"]))
    for name, payload in cases.items():
        refused = await _refusal_of(outside, payload)
        assert refused["by"] == "inbox" and refused["reason"] and refused["key"] == KEY, name
    assert outside.field.events("receipt", step="accepted") == []
    assert steps(await outside.steps(good))[-1] == "verified"  # and nothing of it was spoilt
    assert "refused" in steps(await outside.steps(good, wait_s=3))  # a replay
    assert len(outside.field.events("receipt", step="accepted")) == 1


async def _refusal_of(outside: Outside, payload: bytes) -> dict[str, Any]:
    """The audit entry of the one refusal that a message leads to."""
    field = outside.field
    assert field is not None
    before = len(field.events("receipt", step="refused"))
    await _publish(outside, payload)
    await eventually(lambda: len(field.events("receipt", step="refused")) == before + 1)
    return field.events("receipt", step="refused")[-1]


def _signed(outside: Outside, **other: Any) -> bytes:
    now_ns = SystemClock().utc_ns()
    named: dict[str, Any] = {"id": SystemClock().new_id(), "time_ns": now_ns, "source": "test"}
    named |= {"destination": SITE, "type": "command", "expires_ns": now_ns + MINUTE_NS}
    named["payload"] = {"tag": "Rig.Setpoint", "value": 1, "lease_ns": MINUTE_NS}
    envelope = signed.Envelope(**{**named, **other})
    return signed.sign(signed.encode(envelope), KEY, outside.private)


async def _publish(outside: Outside, payload: bytes) -> None:
    await outside.client._session.publish(f"gatepost/{SITE}/commands", payload)


async def test_killed_between_any_two_steps_nothing_runs_twice(outside: Outside) -> None:
    """Link and field end as by a kill, again and again; every message is sent again and again."""
    assert outside.field is not None
    sent: list[Message] = []
    accepted: list[str] = []
    for turn in range(4):
        sent.append(outside.write(10 + turn))
        waiting = asyncio.create_task(outside.steps(sent[-1], wait_s=0.05 * turn))
        await asyncio.sleep(0.03 * turn)
        assert outside.link is not None
        await outside.link.crash()
        await waiting
        if turn == 2:
            accepted += _accepted(outside)
            await outside.field.crash()
            await outside.start_field()
        await outside.start_link()
        for message in sent:
            await _publish(outside, message.data)
        await outside.client.ask(SITE, ["anything"], wait_s=10)  # it is through with them
    accepted += _accepted(outside)
    assert len(accepted) == len(set(accepted)) >= 1
    found = await outside.client.ask(SITE, [m.envelope.id for m in sent], wait_s=5)
    assert {f["step"] for f in found.values()} <= {"passed", "taken", "failed", "unknown"}


def _accepted(outside: Outside) -> list[str]:
    assert outside.field is not None
    return [str(r["command"]) for r in outside.field.events("receipt", step="accepted")]


async def test_a_revoked_key_counts_no_more_and_its_successor_does(outside: Outside) -> None:
    other = Ed25519PrivateKey.generate()
    revoked = key_entry(outside.private, Revoked="2026-01-01T00:00:00Z")
    write_keys(outside.rig.folder, revoked, key_entry(other, "market-2", Service=KEY))
    (refused,) = await outside.steps(outside.write(42))
    assert refused["step"] == "refused"
    assert "the key was revoked" in refused["reason"]
    signer = Signer("market-2", other, "test")
    async with CommandClient(parse_url(outside.broker.url), signer, SystemClock()) as client:
        outside.client = client
        assert steps(await outside.steps(outside.write(43)))[-1] == "verified"


async def test_without_a_field_process_a_command_is_refused(outside: Outside) -> None:
    assert outside.field is not None and outside.link is not None
    await outside.field.end()
    outside.field = None
    remote = outside.link.link.remote
    await eventually(lambda: not remote.ready)
    (refused,) = await outside.steps(outside.write(42))
    assert refused["reason"] == "the field process is not running"
    await outside.start_field()
    field = outside.field
    assert field is not None
    await eventually(lambda: field.events("receipt", step="refused", by="inbox"))  # the audit


async def test_a_key_without_the_right_gets_no_answers(outside: Outside) -> None:
    write_keys(outside.rig.folder, key_entry(outside.private, Types=["command"]))
    with pytest.raises(QueryRefused, match="may not send a query"):
        await outside.client.ask(SITE, ["anything"], wait_s=5)


async def test_the_command_line_sends_and_shows_every_receipt(outside: Outside) -> None:
    key = outside.rig.folder.parent / "market.key"
    pem = outside.private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    key.touch(mode=0o600)
    key.write_bytes(pem)
    common = ("--key", str(key), "--lease", "15min", "--expires", "1min")
    site = str(outside.rig.folder)
    status, said = await _typed("send", site, *common, "Rig.Setpoint=42", "Rig.Valve=open")
    assert status == 0
    assert said.splitlines()[0] == "taken: Rig.Setpoint, Rig.Valve"
    assert "verified: Rig.Setpoint = 42 degC" in said and "verified: Rig.Valve = open (1)" in said
    far = ("--broker", outside.broker.url, "--gateway", SITE)
    status, said = await _typed("send", *far, *common, "Rig.Setpoint=420", "--as", KEY)
    assert status == 1
    assert "refused: Rig.Setpoint = 420: outside 0 to 100 degC" in said
    status, said = await _typed("send", site, "Rig.Setpoint", "--release", "--key", str(key))
    assert (status, said.splitlines()[-1][:8]) == (0, "accepted")
    stranger = key.rename(key.with_name("nobody.key"))
    unnamed = ("--key", str(stranger), "--lease", "900")
    status, said = await _typed("send", site, *unnamed, "Rig.Setpoint=1")
    assert status == 1 and "keys.json has no key 'nobody'" in said and "with --as" in said
    shown = ("status", site, "--state", str(outside.rig.state))
    async with asyncio.timeout(20):  # the link tells twice a second
        while "3 taken, 1 refused; 1 key" not in (await _typed(*shown))[1]:
            pass


async def _typed(*words: str) -> tuple[int, str]:
    """Exit status and output of the command line, in a process of its own."""
    command = (sys.executable, "-m", "gateway.cli.app", *words)
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=STDOUT)
    said, _ = await process.communicate()
    return process.returncode or 0, said.decode()
