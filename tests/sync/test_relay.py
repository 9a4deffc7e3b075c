"""The site bus on a real broker: values, requests, writes, pills, and what it refuses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

import pytest

from config import status
from sync.bus import relay
from sync.link.mqtt import MqttSession
from tests.sync import support
from tests.sync.relaying import (
    POINTS,
    TIME,
    PlayedField,
    birth,
    bus_of,
    ear,
    playing,
    records,
    rows,
)
from tests.sync.support import eventually

FreePort = Callable[[], int]
ISSUE = "Issue with Opto"


@pytest.fixture
async def url(tmp_path: Path, free_port: FreePort) -> AsyncIterator[str]:
    made = support.Mosquitto(free_port(), tmp_path / "broker", persistent=False)
    made.start()
    try:
        await made.wait_ready()
        yield made.url
    finally:
        made.kill()


def entry(value: float) -> dict[str, object]:
    return {"Value": value, "Time": TIME}


# ---------------------------------------------------------------- values


async def test_it_says_that_it_is_alive_and_then_what_the_values_are(url: str) -> None:
    async with playing(url, ("Opto", "Meter")) as made:
        alive = [body["Instrument"] for body in made.ear.of("Relay/Alive/")]
        assert alive == ["Opto", "Meter"]
        values = {"Cell_Temperature": entry(751.3), "Control_Valve": entry(0)}
        assert made.ear.of("Relay/Data/Opto") == [{"Opto": values}]
        assert made.ear.of("Relay/Data/Meter") == [{"Meter": {"Power": entry(12.5)}}]


async def test_values_go_out_again_at_every_period(url: str) -> None:
    async with playing(url, Period=0.05) as made:
        made.bus.update(records((1, 800.0, status.GOOD)))
        await eventually(
            lambda: made.ear.of("Relay/Data/")[-1]["Opto"]["Cell_Temperature"]["Value"] == 800.0
        )


async def test_a_bad_value_is_left_out_and_told_once_with_its_channel(url: str) -> None:
    async with playing(url, Period=0.05) as made:
        made.bus.update(records((1, 1.0, status.BAD_NO_COMMUNICATION)))
        await eventually(lambda: "Cell_Temperature" not in made.ear.of("Relay/Data/")[-1]["Opto"])
        count = len(made.ear.heard)
        await eventually(lambda: len(made.ear.heard) > count + 3)
        told = made.ear.of("Relay/CommIssue/Opto")
        assert told == [f"{ISSUE} Read Cell_Temperature: BadNoCommunication"]


async def test_an_uncertain_value_is_shown_only_beside_its_quality(url: str) -> None:
    uncertain = records((1, 700.0, status.UNCERTAIN_NO_COMMUNICATION))
    async with playing(url) as made:
        made.bus.update(uncertain)
        await made.ear.ask("R", Cell_Temperature="")
        await eventually(lambda: made.ear.of("Relay/Data/")[1:] == [{"Opto": {}}])
    async with playing(url, Detail=True) as made:
        made.bus.update(uncertain)
        await made.ear.ask("R", Cell_Temperature="")
        await eventually(lambda: len(made.ear.of("Relay/Data/")) == 2)
        shown = made.ear.of("Relay/Data/")[1]["Opto"]["Cell_Temperature"]
        assert shown == {
            **entry(700.0),
            "Quality": "Uncertain",
            "Units": "degC",
            "UTC": "2025-10-14T11:51:44.000Z",
        }


async def test_without_the_field_nothing_looks_alive(url: str) -> None:
    async with playing(url, Period=0.05) as made:
        made.bus.lost()
        made.bus.lost()
        await eventually(lambda: made.ear.of("Relay/ServerIssue/Opto"))
        count = len(made.ear.of("Relay/Data/"))
        await made.ear.ask("R", Cell_Temperature="")
        await eventually(lambda: made.ear.of("Relay/Data/")[-1] == {"Opto": {}})
        assert len(made.ear.of("Relay/Data/")) == count + 1
        assert len(made.ear.of("Relay/ServerIssue/")) == 1
        made.bus._changed.set()  # a new session says it again
        await eventually(lambda: len(made.ear.of("Relay/ServerIssue/")) == 2)
        made.bus.born(birth(), rows())
        await eventually(lambda: "Control_Valve" in made.ear.of("Relay/Data/")[-1]["Opto"])


# ---------------------------------------------------------------- requests


async def test_a_request_is_answered_for_its_channels(url: str) -> None:
    async with playing(url) as made:
        await made.ear.ask("R", Control_Valve="", Nothing="", Horn="")
        await eventually(lambda: len(made.ear.of("Relay/Data/")) == 2)
        assert made.ear.of("Relay/Data/")[1] == {
            "Opto": {"Control_Valve": entry(0), "Horn": entry(0)}
        }
        told = made.ear.of("Relay/CommIssue/")
        assert told == [f"{ISSUE} Read Nothing: there is no such channel"]


async def test_nonsense_is_told_and_changes_nothing(url: str) -> None:
    async with playing(url) as made:
        for payload in (b"\xff", b"[]", b'{"Read/Write":"W","Channels":{"Horn":NaN}}'):
            await made.ear.say("Relay/Request/Opto", payload)
        await eventually(lambda: len(made.ear.of("Relay/ServerIssue/Opto")) == 3)
        assert not made.field.commands
        assert not made.field.journal


async def test_a_write_is_a_lease_of_the_origin_remote_and_is_answered_by_its_read_back(
    url: str,
) -> None:
    async with playing(url) as made:
        await made.ear.ask("W", Control_Valve="ON")
        await eventually(lambda: len(made.ear.of("Relay/Data/")) == 2)
        assert made.ear.of("Relay/Data/")[1] == {"Opto": {"Control_Valve": entry(1)}}
        (command,) = made.field.commands
        assert (command.tag, command.value, command.origin) == ("Opto.Control_Valve", 1.0, "remote")
        assert command.source == "site bus"
        assert command.lease_ns == POINTS[1].lease_ns  # shorter than the bus's
        assert command.expires_ns > 0
        assert not command.release


async def test_an_output_is_answered_by_the_point_that_shows_it(url: str) -> None:
    async with playing(url) as made:
        await made.ear.ask("W", Setpoint="700")
        await eventually(lambda: len(made.ear.of("Relay/Data/")) == 2)
        assert made.ear.of("Relay/Data/")[1] == {"Opto": {"Setpoint": entry(700.0)}}


async def test_an_output_that_nothing_shows_is_answered_when_the_device_took_it(url: str) -> None:
    async with playing(url) as made:
        made.field.steps = (("accepted", ""), ("driven", ""))
        await made.ear.ask("W", Horn=1)
        await eventually(lambda: len(made.ear.of("Relay/Data/")) == 2)
        assert made.ear.of("Relay/Data/")[1]["Opto"]["Horn"]["Value"] == 1.0


async def test_refusals_name_channel_and_reason_and_the_answer_leaves_them_out(url: str) -> None:
    async with playing(url) as made:
        made.field.steps = (("refused", "held by trip Control/Fire"),)
        await made.ear.ask("W", Control_Valve=1, Cell_Temperature=3)
        await eventually(lambda: {"Opto": {}} in made.ear.of("Relay/Data/"))
        told = made.ear.of("Relay/CommIssue/")
        assert f"{ISSUE} Write Control_Valve: held by trip Control/Fire" in told


async def test_only_named_tags_may_be_written_and_every_refusal_is_recorded(url: str) -> None:
    async with playing(url, Writes=["Opto.Set*"]) as made:
        await made.ear.ask("W", Control_Valve=1, Nothing=1, Setpoint="warm")
        await eventually(lambda: {"Opto": {}} in made.ear.of("Relay/Data/"))
        assert not made.field.commands
        recorded = {body["tag"]: (body["step"], body["reason"]) for body in made.field.journal}
        assert recorded == {
            "Opto.Control_Valve": ("refused", "the bus may not write it (SiteBus.Writes)"),
            "Opto.Nothing": ("refused", "there is no such channel"),
            "Opto.Setpoint": ("refused", "'warm' is none of its values; expected a number"),
        }
        assert len(made.ear.of("Relay/CommIssue/")) == 3


async def test_a_write_without_a_field_is_refused_at_once(url: str) -> None:
    async with playing(url) as made:
        made.field.gone = "not passed on: the field process ended"
        await made.ear.ask("W", Control_Valve=1)
        await eventually(lambda: made.ear.of("Relay/CommIssue/"))
        assert made.field.gone in made.ear.of("Relay/CommIssue/")[0]


async def test_a_write_that_nobody_answers_ends(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "WRITE_WAIT_S", 0.1)
    async with playing(url) as made:
        made.field.steps = (("accepted", ""),)
        await made.ear.ask("W", Control_Valve=1)
        await eventually(lambda: len(made.ear.of("Relay/Data/")) == 2)
        told = made.ear.of("Relay/CommIssue/")
        assert told == [f"{ISSUE} Write Control_Valve: accepted, but not confirmed within 0.1 s"]
        assert made.ear.of("Relay/Data/")[1] == {"Opto": {"Control_Valve": entry(0)}}
        made.field.steps = ()
        await made.ear.ask("W", Control_Valve=1)
        await eventually(lambda: {"Opto": {}} in made.ear.of("Relay/Data/"))
        told = made.ear.of("Relay/CommIssue/")[1:]
        assert told == [f"{ISSUE} Write Control_Valve: no receipt within 0.1 s"]


async def test_a_write_below_another_setpoint_is_answered_with_what_is_in_force(url: str) -> None:
    async with playing(url) as made:
        made.field.steps = (("accepted", "another setpoint ranks higher (operator)"),)
        await made.ear.ask("W", Control_Valve=1)
        await eventually(lambda: len(made.ear.of("Relay/Data/")) == 2)
        assert made.ear.of("Relay/Data/")[1] == {"Opto": {"Control_Valve": entry(0)}}
        told = made.ear.of("Relay/CommIssue/")
        assert told == [
            f"{ISSUE} Write Control_Valve: accepted, but another setpoint ranks higher (operator)"
        ]


async def test_a_flood_of_writes_reaches_the_field_at_a_rate(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "WRITES_BURST", 5)
    monkeypatch.setattr(relay, "WRITES_PER_S", 0)
    async with playing(url) as made:
        for _ in range(20):
            await made.ear.ask("W", Control_Valve=1)
        await eventually(lambda: len(made.ear.of("Relay/CommIssue/")) == 15)
        assert len(made.field.commands) == 5
        assert not made.field.journal  # a flood must not fill it
        assert made.bus.status()["refused"] == 15


async def test_a_flood_of_requests_is_not_read(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "REQUESTS_BURST", 5)
    monkeypatch.setattr(relay, "REQUESTS_PER_S", 0)
    async with playing(url) as made:
        for _ in range(10):
            await made.ear.ask("R", Control_Valve="")
            await made.ear.say("Relay/PoisonPill/Opto", "die")
        await eventually(lambda: made.bus.status()["dropped"] == 15)
        assert made.bus.status()["requests"] + made.bus.status()["pills"] == 5


async def test_a_retained_request_is_old_and_not_executed(url: str) -> None:
    async with ear(url, "other") as other:
        await other.say(
            "Relay/Request/Opto", {"Read/Write": "W", "Channels": {"Horn": 1}}, retain=True
        )
        await other.say("Relay/PoisonPill/Opto", "die", retain=True)
        async with playing(url, PoisonPill=True) as made:
            await eventually(lambda: len(made.ear.of("Relay/ServerIssue/Opto")) == 2)
            assert not made.field.commands
            await made.ear.ask("R", Control_Valve="")
            await eventually(lambda: len(made.ear.of("Relay/Data/")) == 2)


# ---------------------------------------------------------------- pills, equipment, broker


async def test_a_poison_pill_is_recorded_and_stops_nothing(url: str) -> None:
    async with playing(url) as made:
        await made.ear.say("Relay/PoisonPill/Opto", "die")
        await eventually(lambda: made.ear.of("Relay/ServerIssue/Opto"))
        assert "ignored" in made.ear.of("Relay/ServerIssue/Opto")[0]
        (body,) = made.field.journal
        assert (body["tag"], body["step"], body["reason"]) == ("Opto", "refused", "poison pill")
        await made.ear.ask("R", Control_Valve="")
        await eventually(lambda: len(made.ear.of("Relay/Data/")) == 2)


async def test_a_pill_that_is_allowed_ends_one_voice_on_the_bus(url: str) -> None:
    async with playing(url, ("Opto", "Meter"), PoisonPill=True, Period=0.05) as made:
        await made.ear.say("Relay/PoisonPill/Opto", "die")
        await eventually(lambda: made.ear.of("Relay/ServerIssue/Opto"))
        said = made.ear.of("Relay/ServerIssue/Opto")
        assert said == ["Poison pill arrived - server shutting down"]
        meter = len(made.ear.of("Relay/Data/Meter"))
        opto = len(made.ear.of("Relay/Data/Opto"))
        await made.ear.ask("W", Control_Valve=1)
        await eventually(lambda: len(made.ear.of("Relay/Data/Meter")) > meter + 5)
        assert len(made.ear.of("Relay/Data/Opto")) == opto
        assert not made.field.commands


async def test_what_is_not_served_is_not_heard(url: str) -> None:
    async with playing(url) as made:
        await made.ear.say("Relay/Request/Meter", {"Read/Write": "R", "Channels": {"Power": ""}})
        await made.ear.ask("R", Control_Valve="")
        await eventually(lambda: len(made.ear.of("Relay/Data/")) == 2)
        assert not made.ear.of("Relay/Data/Meter")


async def test_another_birth_serves_other_equipment(url: str) -> None:
    played = PlayedField()
    bus = bus_of(url, played, ("Opto", "Meter"), Period=0.05)
    async with ear(url) as listener, support.running(bus.run()):
        bus.born(birth(POINTS[:4]), rows(POINTS[:4]))
        await eventually(lambda: listener.of("Relay/Data/Opto"))
        bus.born(birth(), rows())
        await eventually(lambda: listener.of("Relay/Data/Meter"))


async def test_a_broker_that_comes_back_hears_the_present(
    tmp_path: Path, free_port: FreePort, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "RETRY_S_MAX", 0.2)
    broker = support.Mosquitto(free_port(), tmp_path / "broker", persistent=False)
    broker.start()
    try:
        await broker.wait_ready()
        async with playing(broker.url, Period=0.05) as made:
            broker.kill()
            await eventually(lambda: not made.bus.status()["connected"])
            made.bus.update(records((1, 900.0, status.GOOD)))
            await asyncio.sleep(0.2)
            broker.start()
            await broker.wait_ready()
            async with ear(broker.url, "second") as second:
                await eventually(lambda: second.of("Relay/Data/"))
                values = [b["Opto"]["Cell_Temperature"]["Value"] for b in second.of("Relay/Data/")]
                assert set(values) == {900.0}
    finally:
        broker.kill()


async def test_a_broker_that_hangs_is_left(tmp_path: Path, free_port: FreePort) -> None:
    """Long before the keep-alive would say so: nothing answers what was said."""
    broker = support.Mosquitto(free_port(), tmp_path / "broker", persistent=False)
    broker.start()
    try:
        await broker.wait_ready()
        hurried = partial(MqttSession, timeout_s=1.5)
        async with playing(broker.url, Period=0.05, KeepAlive=60, connect=hurried) as made:
            await support.freeze(broker.pid)
            await eventually(lambda: not made.bus.status()["connected"])
            assert made.bus.status()["last_error"]
    finally:
        broker.kill()
