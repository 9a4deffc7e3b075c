"""A signed schedule over a real broker: taken by the link, kept and executed by the field."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gateway.cli.schedule_send import Far, Plan, send_far
from gateway.cli.times import iso_utc
from gateway.core.clock import SystemClock
from sync.remote.signed import SCHEDULE
from tests.gateway.outside import KEY, MINUTE_NS, SITE, Outside, key_entry, write_keys
from tests.gateway.sites import eventually

FreePort = Callable[[], int]
HOUR_NS = 60 * MINUTE_NS


@pytest.fixture
async def outside(tmp_path: Path, free_port: FreePort) -> AsyncIterator[Outside]:
    """Field, link, broker, and a service with a key."""
    made = Outside(tmp_path, free_port())
    await made.start()
    yield made
    await made.end()


def payload(**points: float) -> dict[str, Any]:
    """For two hours around now; the valve is there unless it is said otherwise."""
    now_ns = SystemClock().utc_ns()
    values = points or {"Rig.Valve": 1.0}
    return {
        "schedule": "site",
        "kind": "day-ahead",
        "points": {tag: [[now_ns - HOUR_NS, value]] for tag, value in values.items()},
        "end_utc_ns": now_ns + HOUR_NS,
    }


async def test_a_signed_schedule_is_taken_accepted_and_goes_on_without_link_and_broker(
    outside: Outside,
) -> None:
    message = outside.client.message(SITE, SCHEDULE, payload(), life_ns=MINUTE_NS)
    steps = await outside.steps(message)
    assert [receipt["step"] for receipt in steps] == ["taken", "accepted"]
    await eventually(lambda: outside.rig.valve)
    assert outside.link is not None and outside.field is not None
    await outside.link.end()
    outside.link = None
    outside.broker.stop()
    await outside.field.crash()
    outside.rig.bank.coils[0] = False
    await outside.start_field()
    await eventually(lambda: outside.rig.valve)
    (receipt,) = outside.field.events("receipt", step="accepted", tag="Rig.Valve")
    assert message.envelope.id in receipt["source"]
    assert KEY in outside.field.field.scan.schedules.answer({})["held"][0]["source"]


async def test_what_the_field_refuses_and_a_key_without_right_is_a_receipt(
    outside: Outside,
) -> None:
    bad = payload(**{"Rig.Nope": 1.0})
    message = outside.client.message(SITE, SCHEDULE, bad, life_ns=MINUTE_NS)
    steps = await outside.steps(message)
    assert steps[-1]["step"] == "refused"
    assert "no such point" in steps[-1]["reason"]
    nonsense = payload() | {"kind": "weekly"}
    message = outside.client.message(SITE, SCHEDULE, nonsense, life_ns=MINUTE_NS)
    steps = await outside.steps(message)
    assert steps[-1]["step"] == "refused"
    assert "intraday and day-ahead" in steps[-1]["reason"]
    for name in (None, 5, "", "x" * 200):  # the key's name stands before one, not for one
        nameless = payload() | {"schedule": name}
        message = outside.client.message(SITE, SCHEDULE, nameless, life_ns=MINUTE_NS)
        steps = await outside.steps(message)
        assert steps[-1]["step"] == "refused", name
        assert "schedule: expected" in steps[-1]["reason"]
    write_keys(outside.rig.folder, key_entry(outside.private, Points=["Rig.Setpoint"]))
    message = outside.client.message(SITE, SCHEDULE, payload(), life_ns=MINUTE_NS)
    steps = await outside.steps(message)
    assert steps[-1]["step"] == "refused"
    assert not outside.rig.valve


async def test_the_same_message_twice_is_one_schedule(outside: Outside) -> None:
    message = outside.client.message(SITE, SCHEDULE, payload(), life_ns=MINUTE_NS)
    await outside.steps(message)
    await eventually(lambda: outside.rig.valve)
    again = await outside.steps(message, wait_s=1.5)
    assert "taken" not in [receipt["step"] for receipt in again]
    assert outside.field is not None
    assert len(outside.field.events("receipt", step="accepted", tag="Rig.Valve")) == 1


async def test_the_command_line_sends_a_signed_schedule_from_a_file(
    outside: Outside, tmp_path: Path
) -> None:
    key = tmp_path / f"{KEY}.pem"
    key.write_bytes(
        outside.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    key.chmod(0o600)
    now_ns = SystemClock().utc_ns()
    times = [iso_utc(now_ns + hours * HOUR_NS) for hours in (-1, 1, 2)]
    table = tmp_path / "plan.csv"
    rows = (f"{times[0]},1", f"{times[1]},0", f"{times[2]},")
    table.write_text("\n".join(("time,Rig.Valve", *rows)), encoding="utf-8")
    far = Far(key, KEY, None, (None,) * 4, MINUTE_NS, 10 * 10**9)
    plan = Plan(table, "market", "intraday", None)
    receipts = await send_far(outside.rig.folder, plan, far)
    assert [receipt["step"] for receipt in receipts] == ["taken", "accepted"]
    await eventually(lambda: outside.rig.valve)
