"""The site bus of a real gateway: a real device moves, and a second gateway hangs on the bus."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from config import status
from config.load import require_site
from config.site_bus import behind_relay, served
from gateway.core.clock import SystemClock
from gateway.core.paths import StatePaths
from gateway.link import Link
from sync.store.async_store import AsyncStore
from tests.gateway.running import Running
from tests.gateway.sites import CONFIG, Rig
from tests.sync import support
from tests.sync.relaying import Ear, ear
from tests.sync.support import eventually

FreePort = Callable[[], int]
REQUEST = "Relay/Request/Rig"


@pytest.fixture
async def broker(tmp_path: Path, free_port: FreePort) -> AsyncIterator[support.Mosquitto]:
    made = support.Mosquitto(free_port(), tmp_path / "broker", persistent=False)
    made.start()
    try:
        await made.wait_ready()
        yield made
    finally:
        made.kill()


def link_file(url: str, **bus: Any) -> dict[str, Any]:
    return {
        "Broker": {"Active": False},
        "OpcUa": {"Active": False},
        "SiteBus": {"URL": url, "Period": 0.1, **bus},
    }


@asynccontextmanager
async def link_of(folder: Path, state: Path) -> AsyncIterator[Link]:
    site, paths = require_site(folder), StatePaths(state)
    paths.make()
    store = await AsyncStore.open(paths.store, quota_bytes=10_000_000)
    made = Link(site, paths, store, SystemClock(), on_bus=served(site))
    stop = asyncio.Event()
    task = asyncio.create_task(made.run(stop))
    try:
        yield made
    finally:
        stop.set()
        await task
        await store.close()


@asynccontextmanager
async def plant(folder: Path, url: str, **bus: Any) -> AsyncIterator[tuple[Rig, Running, Ear]]:
    """A device, its gateway of two processes, and somebody on the bus."""
    rig = Rig(folder)
    await rig.start()
    rig.write(link=link_file(url, **bus))
    running = Running(rig)
    try:
        async with link_of(rig.folder, rig.state), ear(url) as heard:
            await running.ready()
            await eventually(lambda: heard.of("Relay/Data/Rig"))
            yield rig, running, heard
    finally:
        await running.crash()
        await rig.stop()


async def ask(heard: Ear, kind: str, **channels: Any) -> None:
    await heard.say(REQUEST, {"Read/Write": kind, "Channels": channels})


def shown(heard: Ear, channel: str) -> float | None:
    values = heard.of("Relay/Data/Rig")[-1]["Rig"]
    return values[channel]["Value"] if channel in values else None


async def test_a_request_moves_the_device_and_the_answer_is_its_read_back(
    tmp_path: Path, broker: support.Mosquitto
) -> None:
    async with plant(tmp_path, broker.url, Writes=["Rig.Valve"], Period=60) as (
        rig,
        running,
        heard,
    ):
        before = len(heard.of("Relay/Data/Rig"))
        await ask(heard, "W", Valve="ON")
        await eventually(lambda: len(heard.of("Relay/Data/Rig")) > before)
        assert rig.valve
        answer = heard.of("Relay/Data/Rig")[before]
        assert list(answer["Rig"]) == ["Valve"]
        assert answer["Rig"]["Valve"]["Value"] == 1
        steps = [e["step"] for e in running.events("receipt", tag="Rig.Valve", origin="remote")]
        assert steps == ["accepted"]
        assert running.events("receipt", tag="Rig.Valve", step="verified")


async def test_what_the_bus_may_not_write_is_refused_and_recorded_for_good(
    tmp_path: Path, broker: support.Mosquitto
) -> None:
    async with plant(tmp_path, broker.url, Writes=["Rig.Valve"]) as (rig, running, heard):
        await ask(heard, "W", Setpoint=99, Temperature=1)
        await eventually(lambda: len(heard.of("Relay/CommIssue/Rig")) == 2)
        await eventually(lambda: len(running.events("receipt", step="refused")) == 2)
        refused = {e["tag"]: e for e in running.events("receipt", step="refused")}
        assert set(refused) == {"Rig.Setpoint", "Rig.Temperature"}
        assert refused["Rig.Setpoint"]["source"] == "site bus"
        await heard.say("Relay/PoisonPill/Rig", "die")
        await eventually(lambda: running.events("receipt", reason="poison pill"))
        await ask(heard, "W", Valve=1)
        await eventually(lambda: rig.valve)


async def test_a_write_below_an_operators_setpoint_is_told_and_answered_with_its_read_back(
    tmp_path: Path, broker: support.Mosquitto
) -> None:
    bus = plant(tmp_path, broker.url, Writes=["Rig.Valve"], Period=60)
    async with bus as (_, running, heard):
        assert running.send("Rig.Valve", 1)
        await eventually(lambda: running.events("receipt", tag="Rig.Valve", step="verified"))
        before = len(heard.of("Relay/Data/Rig"))
        await ask(heard, "W", Valve="OFF")
        await eventually(lambda: len(heard.of("Relay/Data/Rig")) > before)
        assert heard.of("Relay/Data/Rig")[before]["Rig"]["Valve"]["Value"] == 1
        assert heard.of("Relay/CommIssue/Rig") == [
            "Issue with Rig Write Valve: accepted, but another setpoint ranks higher (operator)"
        ]


async def test_the_setpoint_is_a_lease(tmp_path: Path, broker: support.Mosquitto) -> None:
    bus = plant(tmp_path, broker.url, Writes=["Rig.*"], Lease=0.5)
    async with bus as (rig, running, heard):
        await ask(heard, "W", Valve=True)
        await eventually(lambda: rig.valve)
        await eventually(lambda: not rig.valve)
        ended = running.events("receipt", tag="Rig.Valve", step="released")
        assert ended[0]["reason"] == "lease ended"


async def test_what_the_field_refuses_is_told_with_the_channel(
    tmp_path: Path, broker: support.Mosquitto
) -> None:
    async with plant(tmp_path, broker.url, Writes=["Rig.*"]) as (rig, running, heard):
        await ask(heard, "W", Setpoint=1000)
        await eventually(lambda: heard.of("Relay/CommIssue/Rig"))
        assert heard.of("Relay/CommIssue/Rig") == [
            "Issue with Rig Write Setpoint: outside 0 to 100 degC"
        ]


# ---------------------------------------------------------------- a device behind Relay


def second_site(folder: Path, url: str) -> Path:
    """A gateway whose only device is the first one's, through the bus; it has the bus itself."""
    folder.mkdir()
    rig = {
        "EquipmentTags": {
            "EquipmentName": "Rig",
            "Communication": "MQTT",
            "Server": url,
            "DataReadTopic": "Relay/Data/Rig",
            "DataWriteTopic": REQUEST,
        },
        "Channels": {
            "Temperature": {"Units": "degC", "Tags": ["Fast"], "AgeLimit": 2},
            "Valve": {"ReadWrite": "RW", "DataType": "bool", "SafeValue": 0, "Tags": ["Fast"]},
        },
    }
    tags = {"SystemName": "Second"}
    files = {
        "Second-Config.json": CONFIG | {"SystemTags": tags},
        "Rig.json": rig,
        "link.json": link_file(url, Writes=[]),
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder


async def test_another_gateway_reads_and_writes_the_device_through_the_bus(
    tmp_path: Path, broker: support.Mosquitto
) -> None:
    second = Rig(tmp_path / "second")
    second.folder.parent.mkdir()
    second_site(second.folder, broker.url)
    async with plant(tmp_path, broker.url, Writes=["Rig.Valve"]) as (rig, first, heard):
        other = Running(second)
        try:
            async with link_of(second.folder, second.state):
                rig.temperature(321.5)
                await eventually(lambda: other.value("Rig.Temperature") == 321.5)
                assert other.status("Rig.Temperature") == status.GOOD
                await eventually(lambda: other.send("Rig.Valve", 1.0))
                await eventually(lambda: rig.valve)
                await eventually(
                    lambda: other.events("receipt", tag="Rig.Valve", step="verified", value=1.0)
                )
                await first.crash()  # its field: what it served is not shown as good any more
                await eventually(lambda: other.status("Rig.Temperature") >= status.BAD)
        finally:
            await other.crash()


async def test_a_gateway_does_not_serve_what_it_reads_on_a_bus(
    tmp_path: Path, broker: support.Mosquitto
) -> None:
    """It would take its own answers for the device's: a dead device would look alive."""
    second = Rig(tmp_path)
    second_site(second.folder, broker.url)
    site = require_site(second.folder)
    assert behind_relay(site) == {"Rig": "Rig"}
    assert served(site) == []
    running = Running(second)
    try:
        async with link_of(second.folder, second.state), ear(broker.url) as heard:
            await heard.say("Relay/Data/Rig", {"Rig": {"Temperature": {"Value": 5.0}}})
            await eventually(lambda: running.value("Rig.Temperature") == 5.0)
            # Its own requests go on, nobody answers, and the value gets old.
            await eventually(lambda: running.status("Rig.Temperature") >= status.BAD)
            assert len(heard.of("Relay/Data/")) == 1
            assert not heard.of("Relay/Alive/")
    finally:
        await running.crash()
