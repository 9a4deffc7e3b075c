"""A site bus on a real broker, with a field process that a test plays."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from config import status
from config.link import SiteBusEntry
from config.points import POINT, PointDef
from gateway.core.clock import SystemClock
from gateway.core.records import RECORD, Birth, Command, Event
from sync.bus.relay import SiteBus
from sync.errors import LinkError
from sync.link.mqtt import MqttSession, parse_url
from tests.sync import support

UTC_NS = 1_760_442_704_000_000_000  # 2025-10-14 11:51:44 UTC
TIME = "2025-10-14 11:51:44"
POINTS = (
    PointDef(1, "Opto.Cell_Temperature", "Opto", "Cell_Temperature", units="degC"),
    PointDef(
        2,
        "Opto.Control_Valve",
        "Opto",
        "Control_Valve",
        kind="discrete",
        writable=True,
        read_back=2,
        lease_ns=30_000_000_000,
    ),
    PointDef(3, "Opto.Setpoint", "Opto", "Setpoint", readable=False, writable=True, read_back=1),
    PointDef(4, "Opto.Horn", "Opto", "Horn", readable=False, writable=True),
    PointDef(5, "Meter.Power", "Meter", "Power", units="kW"),
)
VALUES = (751.3, 0.0, 5.0, 0.0, 12.5)


def birth(points: tuple[PointDef, ...] = POINTS) -> Birth:
    plain = tuple({name: getattr(p, name) for name in PointDef.__slots__} for p in points)
    return Birth("lab", 7, 10, "hash", "config", UTC_NS, plain)


def rows(points: tuple[PointDef, ...] = POINTS) -> np.ndarray[Any, np.dtype[np.void]]:
    made = np.zeros(len(points) + 1, dtype=POINT)
    made["value"][1:] = VALUES[: len(points)]
    made["utc_ns"] = UTC_NS
    made["seq"] = 10
    return made


def records(*changes: tuple[int, float, int]) -> np.ndarray[Any, np.dtype[np.void]]:
    """(point, value, status) each, newer than the birth."""
    made = np.zeros(len(changes), dtype=RECORD)
    for row, (point, value, code) in zip(made, changes, strict=True):
        row["seq"], row["point"], row["value"], row["status"] = 11, point, value, code
        row["utc_ns"] = UTC_NS
    return made


@dataclass
class PlayedField:
    """Takes commands; `answer` decides which receipts follow."""

    commands: list[Command] = field(default_factory=list)
    journal: list[Mapping[str, Any]] = field(default_factory=list)
    steps: tuple[tuple[str, str], ...] = (("accepted", ""), ("verified", ""))
    gone: str = ""
    bus: SiteBus | None = None

    async def submit(self, command: Command) -> str:
        if self.gone:
            return self.gone
        self.commands.append(command)
        for step, reason in self.steps:
            self.receipt(command, step, reason)
        return ""

    def receipt(self, command: Command, step: str, reason: str = "") -> None:
        assert self.bus is not None
        index = next(p.index for p in POINTS if p.tag == command.tag)
        shown = POINTS[index - 1].read_back
        if step == "verified":
            self.bus.update(records((shown, command.value, status.GOOD)))
        body = {"command": command.id, "tag": command.tag, "value": command.value}
        event = Event(12, UTC_NS, "receipt", {**body, "step": step, "reason": reason})
        asyncio.get_running_loop().call_soon(self.bus.event, event)

    async def report(self, body: Mapping[str, Any]) -> None:
        self.journal.append(body)


@dataclass
class Ear:
    """What a client of the bus hears, and how it speaks."""

    session: MqttSession
    heard: list[tuple[str, Any]] = field(default_factory=list)

    def of(self, front: str) -> list[Any]:
        return [body for topic, body in self.heard if topic.startswith(front)]

    async def say(self, topic: str, body: Any, *, retain: bool = False) -> None:
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        await self.session.publish(topic, payload, retain=retain)

    async def ask(self, kind: str, **channels: Any) -> None:
        await self.say("Relay/Request/Opto", {"Read/Write": kind, "Channels": channels})

    async def follow(self) -> None:
        with contextlib.suppress(LinkError):  # a broker that a test ended
            async for message in self.session.messages():
                if not message.topic.startswith(("Relay/Request/", "Relay/PoisonPill/")):
                    self.heard.append((message.topic, json.loads(message.payload)))


@asynccontextmanager
async def ear(url: str, name: str = "ear", topic: str = "Relay/#") -> AsyncIterator[Ear]:
    async with MqttSession(parse_url(url), client_id=name) as session:
        made = Ear(session)
        await session.subscribe([topic])
        async with support.running(made.follow()):
            yield made


@dataclass
class Playing:
    """A bus, its field, and somebody who listens."""

    bus: SiteBus
    field: PlayedField
    ear: Ear


def bus_of(
    url: str,
    played: PlayedField,
    equipment: tuple[str, ...],
    *,
    connect: Callable[..., MqttSession] = MqttSession,
    **keys: Any,
) -> SiteBus:
    entry, clock = SiteBusEntry(URL=url, **keys), SystemClock()
    made = SiteBus(entry, "lab", equipment, clock, played.submit, played.report, connect=connect)
    played.bus = made
    return made


@asynccontextmanager
async def playing(
    url: str, equipment: tuple[str, ...] = ("Opto",), **more: Any
) -> AsyncIterator[Playing]:
    """A bus that has connected, with the birth above; it says its values once an hour."""
    played = PlayedField()
    keys: dict[str, Any] = {"Period": 3600, "Writes": ["Opto.*"], **more}
    bus = bus_of(url, played, equipment, **keys)
    bus.born(birth(), rows())
    async with ear(url) as listener, support.running(bus.run()):
        await support.eventually(lambda: len(listener.of("Relay/Data/")) >= len(equipment))
        yield Playing(bus, played, listener)
