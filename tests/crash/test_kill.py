"""``kill -9`` of every process, under way: nothing missing, nothing doubled, outputs safe."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

import pytest

from gateway.core.clock import SystemClock
from gateway.core.records import Command
from gateway.local import LocalClient
from tests.crash.town import Town
from tests.gateway.sites import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]


def whole(town: Town) -> Callable[[], bool]:
    """A check that nothing is missing, doubled or declared lost."""

    def check() -> bool:
        audit = town.audit()
        assert audit.duplicates == 0
        return audit.missing == 0 and not any(epoch.gaps for epoch in audit.epochs)

    return check


async def test_a_killed_link_comes_back_and_nothing_is_missing(town: Town) -> None:
    before = await town.until(lambda s: True)
    for pause_s in (0.0, 0.35, 0.8):
        await asyncio.sleep(pause_s)
        town.kill("link")
        await town.until(lambda s: not s["link"])
        await town.until(lambda s: s["link"] and s["link"]["connected"])
    after = await town.until(lambda s: True)
    assert after["epoch"] == before["epoch"]  # the field never noticed
    assert after["scan"]["count"] > before["scan"]["count"]
    await town.arrived()
    await eventually(whole(town))


async def test_broker_and_ingest_killed_under_load_lose_nothing(town: Town) -> None:
    town.broker.kill()
    await asyncio.sleep(1.0)
    await town.kill_ingest()
    town.broker.start()
    await town.broker.wait_ready()
    await asyncio.sleep(1.0)
    await town.start_ingest()
    await town.arrived()
    await town.kill_ingest()
    await asyncio.sleep(0.5)
    await town.start_ingest()
    await town.arrived()
    await eventually(whole(town))


async def test_a_killed_field_starts_safe_and_its_lost_records_are_a_declared_gap(
    town: Town,
) -> None:
    clock = SystemClock()
    client = LocalClient(town.paths.field_socket)
    await client.connect()
    command = Command(clock.new_id(), "Rig.Valve", 1.0)
    fields = {name: getattr(command, name) for name in command.__slots__}
    receipts = [receipt async for receipt in client.command(fields)]
    assert receipts[-1]["step"] == "verified"
    assert town.rig.valve
    await client.close()
    first = await town.until(lambda s: True)
    town.kill("field")
    await eventually(lambda: not town.rig.valve)  # driven safe by the new process
    second = await town.until(lambda s: s["epoch"] != first["epoch"] and not s["startup"])
    await town.arrived()

    def told() -> bool:
        audit = town.audit()
        assert audit.duplicates == 0
        ended = [e for e in audit.epochs if e.epoch == first["epoch"]]
        return audit.missing == 0 and bool(ended) and ended[0].gaps[-1:] != ()

    await eventually(told)
    gap = next(e for e in town.audit().epochs if e.epoch == first["epoch"]).gaps[-1]
    assert gap.last == 0  # nobody knows how many records the dead process still had
    assert "field process ended" in gap.reason
    assert second["epoch"] > first["epoch"]


async def test_a_field_that_hangs_is_noticed_killed_and_started_again(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.supervisor.HANG_S", 2.0)
    await asyncio.sleep(2.5)  # the patience in force is drawn at each sign of life
    first = await town.until(lambda s: True)
    os.kill(town.supervisor.status()["field"]["pid"], signal.SIGSTOP)
    await eventually(lambda: town.supervisor.status()["field"]["restarts"] == 1, 30)
    await town.until(lambda s: s["epoch"] != first["epoch"] and not s["startup"])


async def test_an_orderly_stop_hands_everything_over(town: Town) -> None:
    last = await town.until(lambda s: s["seq"] > 50)
    await town.end()
    audit = town.audit()
    assert audit.missing == audit.duplicates == 0
    assert not [gap for epoch in audit.epochs for gap in epoch.gaps]
    assert audit.epochs[-1].last > last["seq"]
