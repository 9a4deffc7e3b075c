"""A site with alarms of every kind, its conditions, and a field process that is only played."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

from config.model import AlarmRule
from config.points import PointDef
from gateway.core.clock import SystemClock
from gateway.core.records import RECORD, Batch, Event, Gap
from gateway.opcua.conditions.conditions import Conditions
from gateway.opcua.desk import NotPassedOn
from gateway.opcua.event import UaEvent
from gateway.opcua.library import standard_space
from gateway.opcua.model import EquipmentModel, SiteModel
from gateway.opcua.names import CONDITION, member_id, standard_id
from gateway.opcua.nodes.diagnostics import Diagnostics
from gateway.opcua.nodes.space import Space
from gateway.opcua.values import Values
from tests.gateway.points import point

NOW_NS = 1_790_000_000_123_456_000
EPOCH = 77
RULES: Mapping[str, AlarmRule] = {
    "Alarms.Hot": AlarmRule(
        When="Oven.Temperature >= 900 hysteresis 10 for 5s",
        Level="High",
        Priority="high",
        Description="The oven is too hot",
        Cause="a door that stands open",
        Action="look at the door",
        ShelveMax=3600,
    ),
    "Alarms.Levels": AlarmRule(
        Rule={"if": [{">=": [{"var": "t"}, 950]}, "Top", {">=": [{"var": "t"}, 900]}, "Up", None]},
        Data={"t": "$LiveData/Oven/Temperature"},
        Priority="urgent",
    ),
    "Alarms.Cold": AlarmRule(When="20 [degC] > Oven.Temperature", Level="Low", Priority="low"),
    "Alarms.Door": AlarmRule(When="Oven.Door == 'Open'", Latch=True),
    "Alarms.Valve": AlarmRule(When="Oven.Valve == 2"),
    "Alarms.Differ": AlarmRule(When="Oven.Temperature - Tank.Temperature > 25", ShelveMax=0),
    "Alarms.Both": AlarmRule(When="Oven.Temperature > 1 and Oven.Door == 1"),
}


def points(rules: Mapping[str, AlarmRule] = RULES) -> tuple[PointDef, ...]:
    given: list[tuple[str, dict[str, Any]]] = [
        ("Oven.Temperature", {"units": "degC"}),
        ("Tank.Temperature", {"units": "degC"}),
        ("Oven.Door", {"kind": "discrete", "states": ("Closed", "Open")}),
        ("Oven.Valve", {"kind": "discrete", "states": ("Closed", "Open", "Stuck")}),
        ("Controls.Over", {"kind": "discrete", "source": "rule"}),
        *((tag, {"kind": "discrete", "source": "rule", "states": ("", "x")}) for tag in rules),
    ]
    return tuple(point(at + 1, tag, **more) for at, (tag, more) in enumerate(given))


def model(rules: Mapping[str, AlarmRule] = RULES) -> SiteModel:
    equipment = {
        name: EquipmentModel(name, "Hall 2", "oven", "Modbus", "", "") for name in ("Oven", "Tank")
    }
    return SiteModel(site="Lab", hash="1", equipment=equipment, alarms=dict(rules))


class PlayedDesk:
    """Answers with `rows`, and keeps what is journaled."""

    def __init__(self) -> None:
        self.ready = True
        self.rows: list[dict[str, Any]] = []
        self.asked = 0
        self.journaled: list[Mapping[str, Any]] = []

    async def pass_on(self, message: Mapping[str, Any]) -> None:
        raise NotPassedOn("nobody")

    async def journal(self, body: Mapping[str, Any]) -> None:
        self.journaled.append(body)

    async def ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(0)
        self.asked += 1
        if not self.ready:
            raise NotPassedOn("nobody is there")
        start = message["start"]
        rest = start + 3 if start + 3 < len(self.rows) else 0
        return {"alarms": self.rows[start : start + 3], "next": rest}


class Stand:
    """Conditions in an address space, with what they told."""

    def __init__(self, rules: Mapping[str, AlarmRule] = RULES) -> None:
        self.clock = SystemClock()
        self.aspace = standard_space()
        self.values = Values(self.clock)
        self.desk = PlayedDesk()
        diagnostics = Diagnostics(self.clock, self.values, "urn:test", "urn:gatepost:Lab")
        self.space = Space(self.aspace, self.values, self.clock, diagnostics)
        self.conditions = Conditions(self.aspace, self.desk, self.clock)
        self.told: list[UaEvent] = []
        self.conditions.emit = self.told.append
        self.space.builders.append(self.conditions.build)
        self.seq = 0
        self.show(rules)

    def show(self, rules: Mapping[str, AlarmRule]) -> None:
        """Take another configuration over."""
        shown = points(rules)
        prepared = self.space.prepare(model(rules), shown)
        self.values.replace(shown)
        self.space.take_over(prepared)
        self.conditions.take_over()

    def hear(self, *bodies: Mapping[str, Any], kind: str = "alarm", gap: str = "") -> None:
        """Events of the field process."""
        events = []
        for body in bodies:
            self.seq += 1
            events.append(Event(self.seq, NOW_NS + self.seq, kind, body))
        gaps = (Gap(1, 2, gap),) if gap else ()
        none = np.zeros(0, dtype=RECORD)
        first = self.seq - len(events) + 1
        self.conditions.heard(Batch(EPOCH, first, self.seq, "b", none, tuple(events), gaps))

    async def settle(self) -> None:
        """Until everything that was heard is told."""
        task = asyncio.create_task(self.conditions.run())
        try:
            async with asyncio.timeout(20):
                while self.conditions.busy:
                    await asyncio.sleep(0)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def fields(self, tag: str) -> dict[str, Any]:
        """What the condition of an alarm shows: path to value."""
        found = self.conditions.condition(member_id(tag, CONDITION))
        assert found is not None
        return {path: variant.Value for path, variant in found.event().values().items()}


def body(state: str, what: str = "activated", **more: Any) -> dict[str, Any]:
    """The body of an alarm's event."""
    active = state in ("unacknowledged", "acknowledged") or state.startswith("latched")
    return {
        "name": "Alarms/Hot",
        "what": what,
        "state": state,
        "level": "High" if active else "",
        "active": active,
        "latched": False,
        "priority": "high",
        "quality": "good",
        "announced": state == "unacknowledged",
        **more,
    }


def row(tag: str, state: str, **more: Any) -> dict[str, Any]:
    """A row of the field's table."""
    made = body(state, "")
    made = {key: made[key] for key in ("state", "level", "active", "latched", "quality")}
    return {**made, "tag": tag, "since_utc_ns": NOW_NS, **more}


def session(name: str = "shift") -> Any:
    """A session as methods see it."""
    return SimpleNamespace(
        id=standard_id(1), user=SimpleNamespace(name=name), client="test", secured=True
    )
