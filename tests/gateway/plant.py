"""A plant on a virtual clock: a site folder, its program, the scan, and a device without a wire."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from config import status
from gateway.commands import Commands, Write
from gateway.core.clock import ManualClock
from gateway.core.records import Command
from gateway.core.table import PointTable
from gateway.field import inert_points, prepare
from gateway.journal import Journal
from gateway.scan import Scan
from safety import reference
from safety.engine import Engine
from tests.gateway.sites import ALARMS, CONFIG, PERSONALITY

SECOND_NS = 1_000_000_000
SCAN_NS = SECOND_NS // 10
NUMBER = {"DataType": "float32", "Tags": ["Fast"]}


def number(place: int, **more: Any) -> dict[str, Any]:
    """An input."""
    return NUMBER | {"Type": "IRegister", "IOPoint": 2 * place} | more


def setpoint(place: int, **more: Any) -> dict[str, Any]:
    """An output from 0 to 100, safe at 0."""
    keys = {"Type": "HRegister", "IOPoint": 2 * place, "ReadWrite": "RW", "Minimum": 0}
    return NUMBER | keys | {"Maximum": 100, "SafeValue": 0} | more


def coil(place: int, **more: Any) -> dict[str, Any]:
    """A valve, safe closed."""
    keys = {"Type": "Coil", "DataType": "bool", "IOPoint": place, "ReadWrite": "RW"}
    return keys | {"SafeValue": 0, "Tags": ["Fast"]} | more


CHANNELS = {
    "Temperature": number(0),
    "Pressure": number(1),
    "Power": setpoint(0),
    "Heater": setpoint(1, Maximum=1000),
    "Valve": coil(0, States=["closed", "open"]),
    "Beat": coil(1),
}


class Plant:
    """The logic of a site, scan by scan. Devices take every write and show it, unless told else."""

    def __init__(
        self,
        folder: Path,
        controls: dict[str, Any],
        channels: dict[str, Any] | None = None,
        alarms: dict[str, Any] | None = None,
        **config: Any,
    ) -> None:
        folder.mkdir(exist_ok=True)
        rig = {
            "EquipmentTags": {
                "EquipmentName": "Rig",
                "Communication": "ModbusTcpGeneric",
                "PortNum": 502,
                "Connection": {"IP": "127.0.0.1", "Unit": "1"},
            },
            "Channels": CHANNELS | (channels or {}),
        }
        files = {
            "Small-Config.json": CONFIG | {"Scan": {"Period": 100, "Unit": "ms"}} | config,
            "Rig.json": rig,
            "Personality.json": PERSONALITY,
            "Alarms.json": alarms or ALARMS,
            "Controls.json": controls,
        }
        for name, content in files.items():
            (folder / name).write_text(json.dumps(content), encoding="utf-8")
        self.site, program = prepare(folder)
        self.engine = Engine(program, reference.evaluate)
        self.clock = ManualClock()
        self.clock.advance(SECOND_NS)
        self.table = PointTable(self.site.points)
        self.journal = Journal(self.site.points, 1, "b" * 16)
        inert = inert_points(self.site, program)
        self.commands = Commands(self.site.points, self._receipt, inert)
        self.writes: list[Write] = []
        self.takes: Callable[[Write], bool] = lambda write: True
        self.shows: Callable[[float], float] = lambda value: value
        self.scan = Scan(
            self.site,
            self.table,
            self.engine,
            self.commands,
            self.journal,
            self.clock,
            self.writes.extend,
        )
        self._ids = 0
        for point in self.site.points:
            if point.source == "device" and point.readable:
                self.land(point.tag, 0.0)

    def _receipt(self, body: Any) -> None:
        self.journal.event("receipt", body, self.clock.utc_ns())

    # ------------------------------------------------------------ the plant

    def land(self, tag: str, value: float, code: int = status.GOOD) -> None:
        """A poll of one point."""
        mono_ns, utc_ns = self.clock.monotonic_ns(), self.clock.utc_ns()
        self.table.put_one(self.table.index[tag], value, code, utc_ns, mono_ns)

    def run(self, seconds: float = 0.1) -> list[tuple[str, float]]:
        """Scan every 100 ms for some time; returns what was written."""
        found: list[tuple[str, float]] = []
        for _ in range(max(1, round(seconds * 10))):
            for point in self.site.points:
                if point.source == "device" and point.readable:
                    self.table.rows["mono_ns"][point.index] = self.clock.monotonic_ns()
            self.scan.run()
            self.scan.settle()
            found += [(w.point.tag, w.value) for w in self.writes]
            self._answer(list(self.writes))
            self.clock.advance(SCAN_NS)
        return found

    def _answer(self, writes: Sequence[Write]) -> None:
        self.writes.clear()
        for write in writes:
            if self.takes(write):
                now_ns = self.clock.monotonic_ns()
                self.commands.written(write.point.index, write.value, now_ns)
                self.land(write.point.tag, self.shows(write.value))
            else:
                self.commands.write_failed(write.point.index, write.value, "no answer")

    # ------------------------------------------------------------ people

    def send(self, tag: str, value: float = 0.0, **more: Any) -> str:
        """A command; returns the reason of its refusal, or nothing."""
        self._ids += 1
        command = Command(more.pop("id", f"c{self._ids}"), tag, value, **more)
        now_ns = self.clock.monotonic_ns()
        if self.commands.submit(command, now_ns, self.clock.utc_ns()):
            return ""
        return str(self.events("receipt")[-1]["reason"]) or "refused"

    def ask(self, machine: str, state: str, **more: Any) -> str:
        """Ask for a control state by its name."""
        point = next(p for p in self.site.points if p.tag == f"States.{machine}")
        return self.send(point.tag, float(point.states.index(state)), **more)

    # ------------------------------------------------------------ what can be seen

    def value(self, tag: str) -> float:
        return float(self.table.rows["value"][self.table.index[tag]])

    def shown(self, tag: str) -> str:
        """The name of a discrete point's value."""
        return self.site.points[self.table.index[tag] - 1].states[int(self.value(tag))]

    def desired(self, tag: str) -> float:
        return self.commands.outputs[self.table.index[tag]].desired

    def events(self, kind: str, **wanted: Any) -> list[dict[str, Any]]:
        batch = self.journal.after(0, 10**6)
        events = batch.events if batch is not None else ()
        return [
            dict(e.body)
            for e in events
            if e.kind == kind and all(e.body.get(k) == v for k, v in wanted.items())
        ]

    def steps(self, **wanted: Any) -> list[str]:
        """Steps of the receipts that match."""
        return [str(body["step"]) for body in self.events("receipt", **wanted)]
