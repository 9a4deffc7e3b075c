"""``alarms``, ``ack``, ``shelve``, ``service`` and ``events`` against a field process at work."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from config import status
from gateway.cli.alarms import PARALLEL, find
from gateway.cli.output import CommandFailed
from gateway.core.clock import SystemClock
from gateway.core.records import Command
from tests.gateway.running import Running
from tests.gateway.sites import ALARMS, Rig, eventually

Gatepost = Callable[..., Any]
HOT = {
    "When": "Rig.Temperature >= 900",
    "Level": "High",
    "Priority": "urgent",
    "Description": "The furnace is too hot",
    "Cause": "Its control",
    "Consequence": "The cells crack",
    "Action": "Lower the setpoint",
    "ShelveMax": 3600,
    "SuppressWhen": "Gateway.E_Stop == 1",
}
MORE = {f"Alarms/A{at}": {"When": "Rig.Temperature >= 800"} for at in range(2 * PARALLEL)}


class Plant:
    """A field process on a loop of its own thread, for commands that have theirs."""

    def __init__(self, folder: Path) -> None:
        self.rig = Rig(folder)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.running: Running = self.do(self._start())

    def do(self, task: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(task, self._loop).result(20)

    async def _start(self) -> Running:
        await self.rig.start()
        alarms = {"AlarmStates": ALARMS["AlarmStates"] | MORE | {"Alarms/Hot": HOT}}
        (self.rig.folder / "Alarms.json").write_text(json.dumps(alarms), encoding="utf-8")
        running = Running(self.rig)
        await running.ready()
        return running

    def heat(self, temperature: float) -> None:
        """Set the temperature, and wait until the alarms have seen it."""

        async def heated() -> None:
            self.rig.temperature(temperature)
            await eventually(lambda: self.running.value("Rig.Temperature") == temperature)
            await asyncio.sleep(0.05)  # two scans

        self.do(heated())

    @property
    def words(self) -> tuple[object, ...]:
        """SITE and --state of every command."""
        return self.rig.folder, "--state", self.rig.state

    def close(self) -> None:
        """End the field process, the device and the thread."""

        async def end() -> None:
            await self.running.end()
            await self.rig.stop()

        self.do(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    made = Plant(tmp_path_factory.mktemp("plant"))
    yield made
    made.close()


@pytest.fixture
def plant(started: Plant) -> Iterator[Plant]:
    """A cold plant whose alarms are normal, in service and not shelved, before and after."""
    yield started
    field, clock = started.running.field, SystemClock()
    back = {"shelved": "unshelve", "out of service": "in-service"}

    async def put_back() -> None:
        for _ in range(2):  # what comes back into the list is not acknowledged
            for row in field.scan.alarms.answer({})["alarms"]:
                action = back.get(row["state"], "acknowledge")
                command = Command(clock.new_id(), row["tag"], 0.0, action=action)
                field.commands.submit(command, clock.monotonic_ns(), clock.utc_ns())

    started.heat(20.0)
    started.do(put_back())
    assert field.scan.alarms.answer({})["alarms"] == []


def states(gatepost: Gatepost, plant: Plant, *words: object) -> dict[str, str]:
    rows = json.loads(gatepost("alarms", *plant.words, "--json", *words).out)["alarms"]
    return {row["name"].removeprefix("Alarms/"): row["state"] for row in rows}


def test_the_list_shows_what_waits_first_and_says_when_there_is_nothing(
    gatepost: Gatepost, plant: Plant
) -> None:
    assert gatepost("alarms", *plant.words).out == "no alarm\n"
    plant.heat(950.0)
    done = gatepost("alarms", *plant.words)
    lines = done.out.splitlines()
    assert done.status == 0
    assert lines[0].split() == ["STATE", "PRIORITY", "ALARM", "LEVEL", "SINCE"]
    assert lines[1].split()[:4] == ["unacknowledged", "urgent", "Alarms/Hot", "High"]
    assert len(lines) == 2 + len(MORE)
    assert set(states(gatepost, plant, "--all")) == {"E_Stop", "Hot", *(n[7:] for n in MORE)}


def test_one_alarm_is_shown_with_its_rationalisation(gatepost: Gatepost, plant: Plant) -> None:
    for name in ("Hot", "Alarms.Hot", "Alarms/Hot", "hot"):
        said = gatepost("alarms", *plant.words, name).out
        for words in ("too hot", "Its control", "cells crack", "Lower the setpoint", "1 h"):
            assert words in said
        assert "Gateway.E_Stop == 1" in said
    done = gatepost("alarms", *plant.words, "Hott")
    assert (done.status, done.out) == (2, "")
    assert 'no such alarm: Hott. Did you mean "Hot"?' in done.err


def test_an_alarm_that_can_not_come_is_told_in_the_list_and_in_the_status(
    gatepost: Gatepost, plant: Plant
) -> None:
    plant.do(plant.rig.server.stop())
    try:
        plant.do(eventually(lambda: plant.running.status("Rig.Temperature") >= status.BAD))
        plant.do(asyncio.sleep(0.05))
        said = gatepost("alarms", *plant.words).out
        assert said.startswith("no alarm\n")
        assert f"{1 + len(MORE)} alarms can't come, an input is bad: Alarms/Hot, " in said
        said = gatepost("alarms", *plant.words, "Hot").out
        assert "an input is bad: Rig.Temperature Bad" in said
        said = gatepost("status", *plant.words).out
        assert f"; {1 + len(MORE)} with a bad input: Alarms/Hot, " in said
        assert "and 28 more" in said
    finally:
        plant.do(plant.rig.server.start())
        plant.do(eventually(lambda: plant.running.status("Rig.Temperature") == status.GOOD))


def test_status_and_explain_tell_the_state_of_an_alarm(gatepost: Gatepost, plant: Plant) -> None:
    plant.heat(950.0)
    assert gatepost("ack", *plant.words, "Hot").status == 0
    said = gatepost("status", *plant.words).out
    (line,) = (line for line in said.splitlines() if line.startswith("Alarms/Hot"))
    assert line.split() == ["Alarms/Hot", "alarm", "High", "acknowledged"]
    assert f"alarms: {len(MORE)} unacknowledged, {1 + len(MORE)} standing  ALARM FLOOD" in said
    assert "state of the alarm: acknowledged" in gatepost("explain", *plant.words, "Alarms.Hot").out


def test_figures_are_shown(gatepost: Gatepost, plant: Plant) -> None:
    plant.heat(950.0)
    said = gatepost("alarms", *plant.words, "--figures").out
    assert "ALARM FLOOD" in said
    for words in ("standing", "chattering", "priority urgent", "most frequent"):
        assert words in said
    figures = json.loads(gatepost("alarms", *plant.words, "--json").out)["figures"]
    assert figures["standing"] == figures["unacknowledged"] == 1 + len(MORE)
    assert figures["flood"] is True


def test_one_is_acknowledged_then_all(gatepost: Gatepost, plant: Plant) -> None:
    plant.heat(950.0)
    done = gatepost("ack", *plant.words, "Hot", "A1", "--comment", "seen")
    assert (done.status, done.out) == (0, "acknowledged: Alarms.Hot\nacknowledged: Alarms.A1\n")
    row = json.loads(gatepost("alarms", *plant.words, "Hot", "--json").out)["alarms"][0]
    assert (row["state"], row["comment"]) == ("acknowledged", "seen")
    assert row["by"].startswith("command line, ")
    again = gatepost("ack", *plant.words, "Hot")
    assert again.status == 1
    assert "refused: Alarms.Hot: nothing to acknowledge: the alarm is acknowledged" in again.out
    assert gatepost("ack", *plant.words, "--all").status == 0
    assert set(states(gatepost, plant).values()) == {"acknowledged"}
    assert gatepost("ack", *plant.words, "--all").out == "nothing to acknowledge\n"


def test_an_alarm_is_shelved_and_comes_back(gatepost: Gatepost, plant: Plant) -> None:
    why = ("--comment", "sensor is replaced")
    done = gatepost("shelve", *plant.words, "Hot", "--for", "30min", *why)
    assert (done.status, done.out) == (0, "shelved: Alarms.Hot\n")
    plant.heat(850.0)
    said = gatepost("alarms", *plant.words).out
    assert "sensor is replaced" in said
    assert "until 20" in said
    assert states(gatepost, plant)["Hot"] == "shelved"
    assert gatepost("shelve", *plant.words, "Hot", "--end").status == 0
    refused = gatepost("shelve", *plant.words, "Hot", "--for", "2h", *why)
    assert refused.status == 1
    assert "longer than ShelveMax, which is 3600 s" in refused.out


def test_an_alarm_is_taken_out_of_service_and_put_back(gatepost: Gatepost, plant: Plant) -> None:
    assert gatepost("service", *plant.words, "Hot", "--out", "--comment", "repair").status == 0
    plant.heat(950.0)
    assert states(gatepost, plant)["Hot"] == "out of service"
    assert gatepost("service", *plant.words, "Hot", "--in").status == 0
    assert states(gatepost, plant)["Hot"] == "unacknowledged"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("ack",), "give either an ALARM"),
        (("ack", "Hot", "--all"), "give either an ALARM"),
        (("shelve", "Hot"), "give either --for"),
        (("shelve", "Hot", "--for", "1h", "--end"), "give either --for"),
        (("shelve", "Hot", "--for", "1h"), "say why"),
        (("shelve", "Hot", "--for", "soon", "--comment", "x"), "--for soon: a duration such as"),
        (("shelve", "Hot", "--for", "9999999d", "--comment", "x"), "longer than 36500 days"),
        (("shelve", "Hot", "--for", "1h", "--comment", "\udcff"), "this can't be sent"),
        (("service", "Hot"), "give either --out or --in"),
        (("service", "Hot", "--out"), "say why"),
        (("service", "Cold", "--in"), "no such alarm: Cold"),
        (("ack", "OverTemp"), "OverTemp is no alarm but a trip or interlock"),
        (("events", "--kind", "alarms"), "--kind alarms: one of alarm"),
    ],
)
def test_wrong_words_are_answered_before_anything_happens(
    gatepost: Gatepost, plant: Plant, words: tuple[str, ...], reason: str
) -> None:
    command, *rest = words
    done = gatepost(command, *plant.words, *rest)
    assert (done.status, done.out) == (2, "")
    assert reason in done.err


def test_events_are_listed_by_kind(gatepost: Gatepost, plant: Plant) -> None:
    plant.heat(950.0)
    rows = json.loads(gatepost("events", *plant.words, "--kind", "alarm", "--json").out)
    assert {row["kind"] for row in rows} == {"alarm"}
    assert rows[-1]["body"]["what"] == "activated"
    assert [row["seq"] for row in rows] == sorted(row["seq"] for row in rows)
    lines = gatepost("events", *plant.words, "--limit", "5").out.splitlines()
    assert len(lines) == 6
    assert lines[0].split() == ["TIME", "KIND", "EVENT"]


def test_events_are_followed_until_ctrl_c(
    gatepost: Gatepost, plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = iter(range(4))
    sleep = asyncio.sleep

    async def heat_then_stop(seconds: float) -> None:
        turn = next(turns)
        if turn == 1:
            plant.rig.temperature(950.0)
        if turn == 3:
            raise KeyboardInterrupt
        await sleep(0.3)

    monkeypatch.setattr("gateway.cli.events.pause", heat_then_stop)
    done = gatepost("events", *plant.words, "--follow", "--kind", "alarm", "--json")
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert done.status == 0
    assert [row["seq"] for row in rows] == sorted({row["seq"] for row in rows})
    came = {row["body"]["name"] for row in rows if row["body"]["what"] == "activated"}
    assert came >= {"Alarms/Hot", *MORE}


def test_a_name_that_fits_several_alarms_is_not_guessed() -> None:
    rows = [{"name": n, "tag": f"Alarms.{n}"} for n in ("Hot", "HOT", "Cold")]
    assert find(rows, "Hot") is rows[0]
    assert find(rows, "COLD") is rows[2]
    with pytest.raises(CommandFailed, match="no such alarm: hot"):
        find(rows, "hot")
    rows.insert(0, {"name": "Alarms.Hot", "tag": "Alarms.Alarms_Hot"})
    assert find(rows, "Alarms.Hot") is rows[0]
