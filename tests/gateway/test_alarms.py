"""Alarms at work in a field process: events, commands and receipts, clients, restarts."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from config import status
from gateway.core.clock import SystemClock
from gateway.core.paths import StatePaths
from gateway.core.records import Command
from gateway.local import LocalClient, LocalError
from tests.gateway.running import Running
from tests.gateway.sites import ALARMS, Rig, eventually

HOT = "Alarms.Hot"
MINUTE_NS = 60_000_000_000


def command(action: str, tag: str = HOT, **more: Any) -> Command:
    return Command(SystemClock().new_id(), tag, 0.0, action=action, source="shift", **more)


def shelving(tag: str = HOT, minutes: float = 10.0) -> Command:
    return command("shelve", tag, lease_ns=round(minutes * MINUTE_NS), comment="sensor is replaced")


def submit(running: Running, wanted: Command) -> bool:
    clock = SystemClock()
    return running.field.commands.submit(wanted, clock.monotonic_ns(), clock.utc_ns())


def alarm(running: Running, tag: str = HOT) -> dict[str, Any]:
    """One row of what every client is told."""
    rows = running.field.scan.alarms.answer({"all": True})["alarms"]
    (row,) = (row for row in rows if row["tag"] == tag)
    return dict(row)


async def hot(rig: Rig, running: Running) -> None:
    """The temperature rises, and the alarm comes."""
    rig.temperature(950.0)
    await eventually(lambda: alarm(running)["state"] == "unacknowledged")


async def test_an_alarm_tells_its_life_in_events(rig: Rig, running: Running) -> None:
    await hot(rig, running)
    (came,) = running.events("alarm", name="Alarms/Hot")
    assert came == {
        "name": "Alarms/Hot",
        "what": "activated",
        "state": "unacknowledged",
        "level": "High",
        "active": True,
        "latched": False,
        "priority": "medium",
        "quality": "good",
        "announced": True,
    }
    assert submit(running, command("acknowledge", comment="seen"))
    rig.temperature(20.0)
    await eventually(lambda: alarm(running)["state"] == "normal")
    acknowledged, cleared = running.events("alarm", name="Alarms/Hot")[1:]
    assert (acknowledged["by"], acknowledged["comment"]) == ("shift", "seen")
    assert (cleared["what"], cleared["active"], cleared["level"]) == ("cleared", False, "")
    assert "by" not in cleared


async def test_a_command_has_its_receipts(rig: Rig, running: Running) -> None:
    await hot(rig, running)
    client = LocalClient(StatePaths(rig.state).field_socket)
    await client.connect()
    wanted = {"id": "ack-1", "tag": HOT, "value": 0.0, "action": "acknowledge"}
    receipts = [receipt async for receipt in client.command(wanted)]
    assert [receipt["step"] for receipt in receipts] == ["accepted", "verified"]
    again = [receipt async for receipt in client.command({**wanted, "id": "ack-2"})]
    assert [receipt["step"] for receipt in again] == ["refused"]
    assert again[0]["reason"] == "nothing to acknowledge: the alarm is acknowledged, by operator"
    await client.close()


async def test_only_what_was_seen_is_acknowledged(rig: Rig, running: Running) -> None:
    """An acknowledgement on its way while the alarm comes anew is one of before."""
    await hot(rig, running)
    seen_utc_ns = alarm(running)["announced_utc_ns"]
    assert seen_utc_ns == running.field.journal.events(0, "alarm")[-1].utc_ns
    rig.temperature(20.0)
    await eventually(lambda: alarm(running)["state"] == "returned unacknowledged")
    assert alarm(running)["announced_utc_ns"] == seen_utc_ns
    await hot(rig, running)
    assert not submit(running, command("acknowledge", seen_utc_ns=seen_utc_ns))
    assert running.events("receipt", step="refused")[-1]["code"] == "announced"
    assert alarm(running)["state"] == "unacknowledged"
    anew_utc_ns = alarm(running)["announced_utc_ns"]
    assert anew_utc_ns > seen_utc_ns
    assert submit(running, command("acknowledge", seen_utc_ns=anew_utc_ns))
    assert alarm(running)["state"] == "acknowledged"


async def test_a_trip_acts_on_an_alarm_that_is_shelved_or_out_of_service(
    rig: Rig, running: Running
) -> None:
    assert submit(running, shelving("Alarms.E_Stop"))
    assert running.send("Rig.Valve", 1)
    await eventually(lambda: rig.valve)
    assert running.send("Gateway.E_Stop", 1)
    await eventually(lambda: not rig.valve)
    assert alarm(running, "Alarms.E_Stop")["state"] == "shelved"
    assert submit(running, command("out-of-service", "Alarms.E_Stop", comment="tests"))
    assert running.value("Controls.E_Stop") == 1
    (came,) = running.events("alarm", name="Alarms/E_Stop", what="activated")
    assert (came["state"], came["active"], came["announced"]) == ("shelved", True, False)


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (shelving("Controls.OverTemp"), "Trips can't be shelved"),
        (command("acknowledge", "Controls.OverTemp"), "is no alarm"),
        (command("shelve", lease_ns=MINUTE_NS), "a comment is needed"),
        (shelving(minutes=481), "28800 s"),
        (shelving(minutes=0), "duration"),
        (command("out-of-service"), "a comment is needed"),
        (replace(command("acknowledge"), origin="schedule"), "operator and remote only"),
        (replace(command("out-of-service"), origin="remote"), "operator only"),
        (command("silence"), "knows no action"),
        (command("shelve", "Rig.Valve"), "knows no action"),
        (command("shelve", "Alarms.Cold"), "no such point"),
    ],
)
async def test_what_an_operator_may_not_do_is_refused_with_the_reason(
    running: Running, wanted: Command, reason: str
) -> None:
    assert not submit(running, wanted)
    (receipt,) = running.events("receipt", command=wanted.id)
    assert receipt["step"] == "refused"
    assert reason in receipt["reason"]
    assert alarm(running)["state"] == "normal"


async def test_what_operators_did_survives_a_crash(rig: Rig) -> None:
    more = {
        "Alarms/Warm": {"When": "Rig.Temperature >= 800", "Level": "High"},
        "Alarms/Cool": {"When": "Rig.Temperature >= 700", "Level": "High"},
    }
    content = {"AlarmStates": ALARMS["AlarmStates"] | more}
    (rig.folder / "Alarms.json").write_text(json.dumps(content), encoding="utf-8")
    first = Running(rig)
    await first.ready()
    await hot(rig, first)
    assert submit(first, command("acknowledge", "Alarms.Hot"))
    assert submit(first, shelving("Alarms.Warm"))
    assert submit(first, command("out-of-service", "Alarms.Cool", comment="repair"))
    # All three were done between two scans: where the last one is kept, so are the others.
    await eventually(lambda: "out of service" in kept(rig))
    await first.crash()
    await Running(rig).crash()  # a life that ends before its first scan keeps it too
    after = Running(rig)
    await after.ready()
    await eventually(lambda: alarm(after, "Alarms.Hot")["active"])
    rows = {tag: alarm(after, f"Alarms.{tag}") for tag in ("Hot", "Warm", "Cool")}
    assert [row["state"] for row in rows.values()] == ["acknowledged", "shelved", "out of service"]
    assert rows["Cool"]["comment"] == "repair"
    left_ns = rows["Warm"]["shelved_until_utc_ns"] - SystemClock().utc_ns()
    assert 9 * MINUTE_NS < left_ns < 10 * MINUTE_NS
    assert after.events("alarm", name="Alarms/Hot", announced=True) == []
    await after.end()


def kept(rig: Rig) -> str:
    return StatePaths(rig.state).retain.read_text(encoding="utf-8")


async def test_the_gateway_shows_its_figures_as_points(rig: Rig, running: Running) -> None:
    await hot(rig, running)
    await eventually(lambda: running.value("Gateway.Alarms_Active") == 1)
    assert running.value("Gateway.Alarms_Unacknowledged") == 1
    assert running.value("Gateway.Alarm_Rate") == 1
    assert submit(running, shelving())
    await eventually(lambda: running.value("Gateway.Alarms_Shelved") == 1)
    assert running.value("Gateway.Alarms_Unacknowledged") == 0
    for channel in ("Alarms_Chattering", "Alarms_Stale"):
        assert running.value(f"Gateway.{channel}") == 0


async def test_an_alarm_whose_sensor_is_dead_is_seen_by_everybody(
    rig: Rig, running: Running
) -> None:
    """It is normal and can't come: silence of the plant and of the sensor must look different."""
    alarms = running.field.scan.alarms
    assert alarms.answer({})["figures"]["bad_input"] == []
    await rig.server.stop()
    await eventually(lambda: alarm(running)["quality"] == "bad")
    assert alarm(running)["state"] == "normal"
    ((tag, why),) = alarm(running)["bad_inputs"]
    assert (tag, why[:3]) == ("Rig.Temperature", "Bad")
    assert alarm(running, "Alarms.E_Stop")["bad_inputs"] == []
    assert alarms.answer({})["figures"]["bad_input"] == ["Alarms/Hot"]
    told = running.field.status()["alarms"]
    assert (told["bad_input"], told["bad_input_names"]) == (1, ["Alarms/Hot"])
    await eventually(lambda: running.value("Gateway.Alarms_Bad_Input") == 1)
    assert running.status(HOT) == status.UNCERTAIN_LAST_USABLE


async def test_the_status_tells_the_state_of_every_alarm(rig: Rig, running: Running) -> None:
    await hot(rig, running)
    assert submit(running, shelving())
    told = running.field.status()
    rules = {rule["name"]: rule["alarm"] for rule in told["rules"]}
    assert rules == {"Alarms/Hot": "shelved", "Control/OverTemp": ""}
    assert (told["alarms"]["shelved"], told["alarms"]["unacknowledged"]) == (1, 0)


async def test_what_somebody_took_back_is_kept_at_once(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash within the second must not take an alarm out of service again."""
    running = Running(rig)
    await running.ready()
    monkeypatch.setattr("gateway.field.HOUSEKEEPING_S", 3600.0)
    await asyncio.sleep(1.1)  # what began before waits no more
    assert submit(running, command("out-of-service", comment="repair"))
    await eventually(lambda: "out of service" in kept(rig))
    assert submit(running, command("in-service"))
    await eventually(lambda: "out of service" not in kept(rig))
    await running.crash()


async def test_an_answer_with_many_alarms_comes_in_parts(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.alarms.ROWS_MAX", 1)
    answer = running.field.scan.alarms.answer
    first = answer({"all": True})
    assert [row["name"] for row in first["alarms"]] == ["Alarms/E_Stop"]
    second = answer({"all": True, "start": first["next"]})
    assert [row["name"] for row in second["alarms"]] == ["Alarms/Hot"]
    assert second["next"] == 0
    assert len(answer({"all": True, "brief": True})["alarms"]) == 2
    with pytest.raises(LocalError, match="start"):
        answer({"start": "soon"})


async def test_every_client_is_told_the_same(rig: Rig, running: Running) -> None:
    await hot(rig, running)
    one, other = (LocalClient(StatePaths(rig.state).field_socket) for _ in range(2))
    await one.connect()
    await other.connect()
    wanted = {"id": "ack-1", "tag": HOT, "value": 0.0, "action": "acknowledge", "source": "one"}
    _ = [receipt async for receipt in one.command(wanted)]
    answers = [await client.request({"type": "alarms"}) for client in (one, other)]
    (row,) = answers[1]["alarms"]
    assert answers[0]["alarms"] == answers[1]["alarms"]
    assert (row["state"], row["by"]) == ("acknowledged", "one")
    assert answers[1]["figures"]["standing"] == 1
    every = await other.request({"type": "alarms", "all": True})
    assert [row["name"] for row in every["alarms"]] == ["Alarms/E_Stop", "Alarms/Hot"]
    named = {"type": "alarms", "tags": ["Alarms.E_Stop", "Alarms.Gone", 5]}
    assert (await other.request(named))["alarms"] == [every["alarms"][0]]
    brief = await other.request({"type": "alarms", "brief": True})
    assert brief["alarms"] == [{"name": "Alarms/Hot", "tag": HOT, "state": "acknowledged"}]
    assert "figures" not in brief
    await one.close()
    await other.close()


async def test_events_are_listed_newest_last_and_followed_without_a_hole(
    rig: Rig, running: Running
) -> None:
    client = LocalClient(StatePaths(rig.state).field_socket)
    await client.connect()
    start = await client.request({"type": "events"})
    assert start["epoch"] == running.field.epoch
    assert start["events"][0][2:] == ["gateway", {"what": "started", **start["events"][0][3]}]
    await hot(rig, running)
    newer = await client.request({"type": "events", "after": start["last"], "kind": "alarm"})
    assert [event[3]["what"] for event in newer["events"]] == ["activated"]
    one = await client.request({"type": "events", "count": 1})
    assert one["events"][0][0] == max(event[0] for event in one["events"])
    page = await client.request({"type": "events", "after": 1, "count": 1})
    assert page["last"] == page["events"][0][0] < newer["events"][0][0] + 1
    for wrong in ({"kind": "nonsense"}, {"after": -1}, {"count": "many"}):
        asked = LocalClient(StatePaths(rig.state).field_socket)
        await asked.connect()
        with pytest.raises(LocalError):
            await asked.request({"type": "events", **wrong})
        await asked.close()
    await client.close()
