"""Schedules in a field process: accepted when durable, over a restart, with a disk that refuses."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from gateway import schedule_files
from gateway.core.clock import SystemClock
from gateway.core.paths import StatePaths
from gateway.core.schedule import Schedule, pack_schedule, schedule_of
from gateway.local import LocalClient, LocalError
from tests.gateway.running import Running
from tests.gateway.sites import Rig, eventually

TAG = "Rig.Valve"
HOUR_NS = 3_600_000_000_000


def opened(version: int = 1, **more: Any) -> Schedule:
    """The valve is open for two hours around now."""
    now_ns = SystemClock().utc_ns()
    payload: dict[str, Any] = {
        "schedule": "site",
        "kind": "day-ahead",
        "points": {TAG: [[now_ns - HOUR_NS, 1.0], [now_ns + HOUR_NS, 0.0]]},
        "end_utc_ns": now_ns + 2 * HOUR_NS,
    }
    issued_ns = now_ns - 60_000_000_000 + version
    return schedule_of(f"plan-{version}", issued_ns, "market", payload | more)


async def send(rig: Rig, schedule: Any) -> list[dict[str, Any]]:
    client = LocalClient(StatePaths(rig.state).field_socket)
    await client.connect()
    try:
        packed = pack_schedule(schedule) if isinstance(schedule, Schedule) else schedule
        return [receipt async for receipt in client.schedule(packed)]
    finally:
        await client.close()


def kept(rig: Rig) -> list[Path]:
    return sorted(StatePaths(rig.state).schedules.glob("*.schedule"))


async def test_a_schedule_is_accepted_when_it_is_on_the_disk_and_drives_its_output(
    rig: Rig, running: Running
) -> None:
    (receipt,) = await send(rig, opened())
    assert (receipt["step"], receipt["command"], receipt["schedule"]) == (
        "accepted", "plan-1", "site",
    )  # fmt: skip
    assert len(kept(rig)) == 1
    await eventually(lambda: rig.valve)
    (step,) = running.events("receipt", step="accepted", tag=TAG)
    assert step["origin"] == "schedule"
    assert step["source"] == "day-ahead site, plan-1"
    await eventually(lambda: running.value("Gateway.Schedule_Points") == 1)
    assert running.value("Gateway.Schedule_Left") > 3600
    assert running.field.status()["schedules"]["points"] == 1
    (again,) = await send(rig, opened())
    assert (again["step"], again["reason"]) == ("accepted", "it is here already")


async def test_a_schedule_goes_on_after_a_crash_without_link_or_cloud(rig: Rig) -> None:
    first = Running(rig)
    await first.ready()
    await send(rig, opened())
    await eventually(lambda: rig.valve)
    await first.crash()
    rig.bank.coils[0] = False
    second = Running(rig)
    await eventually(lambda: rig.valve)
    assert not second.field.server.link_seen
    assert second.events("receipt", step="refused") == []
    await second.end()


async def test_a_link_brings_schedules_and_what_is_none_is_a_receipt_not_an_end(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, running: Running
) -> None:
    monkeypatch.setattr("gateway.field.FAREWELL_S", 0.05)  # this link takes nothing
    client = LocalClient(StatePaths(rig.state).field_socket)
    await client.connect()
    await client.send({"type": "hello", "role": "link", "cursor": None})
    await client.send({"type": "schedule", "schedule": {"id": "m9", "points": 5}})
    await client.send({"type": "schedule", "schedule": None})
    await client.send({"type": "schedule", "schedule": pack_schedule(opened())})
    await eventually(lambda: rig.valve)
    (refused, nameless) = running.events("receipt", step="refused")
    assert (refused["command"], nameless["command"]) == ("m9", "")
    assert running.field.server.link_connected
    await client.close()


async def test_a_disk_that_refuses_refuses_the_schedule_and_changes_nothing(
    rig: Rig, running: Running
) -> None:
    folder = StatePaths(rig.state).schedules
    folder.write_text("in the way", encoding="utf-8")
    (receipt,) = await send(rig, opened())
    assert receipt["step"] == "refused"
    assert str(folder) in receipt["reason"]
    assert running.field.status()["schedules"]["schedules"] == 0
    folder.unlink()
    (receipt,) = await send(rig, opened())
    assert receipt["step"] == "accepted"
    await eventually(lambda: rig.valve)


async def test_a_refusal_names_what_is_wrong_and_a_tool_that_sends_nonsense_is_told(
    rig: Rig, running: Running
) -> None:
    now_ns = SystemClock().utc_ns()
    (receipt,) = await send(rig, opened(points={"Rig.Nope": [[now_ns, 1.0]]}))
    assert (receipt["step"], receipt["reason"]) == ("refused", "Rig.Nope: no such point")
    (receipt,) = await send(rig, {"id": "m1"})
    assert receipt["step"] == "refused"
    with pytest.raises(LocalError, match="a map with an id"):
        await send(rig, {"id": 5})
    assert kept(rig) == []


async def test_a_damaged_schedule_is_an_event_and_the_rest_of_the_gateway_runs(rig: Rig) -> None:
    first = Running(rig)
    await first.ready()
    await send(rig, opened())
    await first.end()
    (path,) = kept(rig)
    path.write_bytes(path.read_bytes()[:40])
    second = Running(rig)
    await second.ready()
    (event,) = second.events("gateway", what="schedule lost")
    assert str(path) in event["reason"]
    assert not rig.valve
    await second.end()
    shutil.rmtree(StatePaths(rig.state).schedules)


async def test_points_that_are_gone_from_the_site_are_told_at_the_start(rig: Rig) -> None:
    first = Running(rig)
    await first.ready()
    await send(rig, opened())
    await first.end()
    now_ns = SystemClock().utc_ns()
    gone = opened(2, points={TAG: [[now_ns, 1.0]], "Rig.Gone": [[now_ns, 1.0]]})
    schedule_files.save(StatePaths(rig.state).schedules, gone)
    second = Running(rig)
    await eventually(lambda: rig.valve)
    (event,) = second.events("gateway", what="schedule for points that are no outputs")
    assert event["tags"] == ["Rig.Gone"]
    await second.end()
