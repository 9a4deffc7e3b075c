"""Ten thousand messages of a stranger on every topic: plant, store and historian stay."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from cloud.historian_sqlite import SqliteHistorian
from cloud.ingest import Ingest
from gateway.core.clock import SystemClock
from sync import topics, wire
from sync.link import mqtt, session
from sync.remote import inbox
from tests.gateway import fuzzing
from tests.gateway.outside import SITE, Outside
from tests.gateway.sites import eventually

COUNT = 10_000
AT_ONCE = 500  # of each topic
WAITING_MAX = 10 * AT_ONCE  # in place of the queues' own: none is to drop some here


@pytest.fixture
async def outside(
    tmp_path: Path, free_port: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Outside]:
    monkeypatch.setattr(mqtt, "INCOMING_MAX", WAITING_MAX)
    monkeypatch.setattr(session, "HEARD_MAX", WAITING_MAX)
    monkeypatch.setattr(inbox, "QUEUE_MAX", WAITING_MAX)
    made = Outside(tmp_path, free_port(), ack="historian")
    historian = SqliteHistorian(tmp_path / "historian.sqlite")
    ingest = Ingest(historian, made.broker.url, SystemClock())
    made.ingest = ingest
    try:
        await made.start()
        task = asyncio.create_task(ingest.run())
        await ingest.wait_ready()
        yield made
    finally:
        await made.end()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        historian.close()


def harmless(channel: str, payload: bytes) -> bool:
    """False for a message that any sender may send: frames and births are not signed."""
    decode: Any = {
        "frames": wire.decode_frame,
        "backlog": wire.decode_frame,
        "birth": wire.decode_presence,
        "ack": wire.decode_ack,
    }.get(channel)
    if decode is None:
        return True
    with contextlib.suppress(wire.WireError):
        decode(payload)
        return False
    return True


@pytest.mark.slow
async def test_ten_thousand_messages_on_every_topic_change_nothing(
    outside: Outside, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)  # ten thousand lines would take a third of the time
    field, link = outside.field, outside.link
    assert field is not None and link is not None
    await outside.steps(outside.write(42))
    remote = link.link.remote
    hose = fuzzing.Hose()
    await hose.open(outside.broker.port)
    now_ns = SystemClock().utc_ns()
    drawn = {
        channel: [
            payload
            for payload in fuzzing.messages(number, COUNT, SITE, now_ns)
            if harmless(channel, payload)
        ]
        for number, channel in enumerate(topics.CHANNELS)
    }
    assert all(len(payloads) > 0.8 * COUNT for payloads in drawn.values())
    expected = 0
    for first in range(0, COUNT, AT_ONCE):
        for channel, payloads in drawn.items():
            some = payloads[first : first + AT_ONCE]
            await hose.pour(f"gatepost/{SITE}/{channel}", some)
            expected += len(some) if channel in ("commands", "schedule") else 0
        await eventually(lambda wanted=expected: remote.status()["refused"] >= wanted)
    await hose.close()
    assert remote.status()["refused"] == expected  # each of them was judged
    assert remote.status()["taken"] == 1
    assert len(field.events("receipt", step="accepted")) == 1
    refusals = field.events("receipt", step="refused")
    assert len(refusals) < 60 and all(r["by"] == "inbox" for r in refusals)
    assert field.value("Rig.Setpoint") == 42
    assert field.status("Rig.Setpoint") < 0x80000000
    # The way up goes on, and what it brings is whole.
    epoch, seq = field.field.journal.epoch, field.field.journal.last
    await eventually(lambda: link.link.links.status()["acknowledged"] >= (epoch, seq))
    historian = SqliteHistorian(tmp_path / "historian.sqlite", read_only=True)
    with contextlib.closing(historian):
        assert historian.gateways() == [SITE]
        audit = historian.audit(SITE)
    assert (audit.missing, audit.duplicates) == (0, 0)
