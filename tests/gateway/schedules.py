"""Schedules on a virtual clock: outputs, a device that takes every write, receipts and events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from config.points import PointDef
from gateway.core.clock import UTC_PLAUSIBLE_NS, ManualClock
from gateway.core.schedule import Schedule, schedule_of
from gateway.schedules import Schedules
from tests.gateway.points import output
from tests.gateway.test_commands import SECOND_NS, Bench

QUARTER_NS = 900 * SECOND_NS
NOON_NS = UTC_PLAUSIBLE_NS + 12 * 3600 * SECOND_NS
DAY_NS = 86_400 * SECOND_NS


def schedule(
    points: Mapping[str, Sequence[tuple[float, float | None]]],
    end_s: float,
    *,
    name: str = "site",
    kind: str = "day-ahead",
    version: int = 1,
    id: str = "",
) -> Schedule:
    """Slots in seconds behind noon; a later version was issued later."""
    return schedule_of(
        id or f"{kind}-{name}-{version}",
        NOON_NS - 3600 * SECOND_NS + version,
        "market",
        {
            "schedule": name,
            "kind": kind,
            "points": {
                tag: [[NOON_NS + round(at * SECOND_NS), value] for at, value in slots]
                for tag, slots in points.items()
            },
            "end_utc_ns": NOON_NS + round(end_s * SECOND_NS),
        },
    )


class Day(Bench):
    """It is noon; both clocks go on together until somebody sets the wall clock."""

    def __init__(self, *points: PointDef) -> None:
        super().__init__(*(points or (output(value_min=0.0, value_max=100.0, fallback=5.0),)))
        self.step_ns = NOON_NS - self.now_ns
        self.events: list[dict[str, Any]] = []
        self.schedules = Schedules(self.commands, self._event, ManualClock(), 8 * DAY_NS)

    def _event(self, kind: str, body: dict[str, Any]) -> None:
        self.events.append({"kind": kind, **body})

    @property
    def utc_ns(self) -> int:
        return self.now_ns + self.step_ns

    def take(self, *schedules: Schedule) -> None:
        for one in schedules:
            kept = self.schedules.judge(one, self.utc_ns)
            if kept is not None:
                self.schedules.put(kept)

    def after(self, seconds: float, index: int = 1) -> float:
        """What the output has some seconds behind noon, by the monotonic clock."""
        until_ns = SECOND_NS + round(seconds * SECOND_NS)
        assert until_ns >= self.now_ns, "time goes forward"
        while self.now_ns < until_ns:
            self._scan()
            step_ns = max(SECOND_NS // 2, (until_ns - self.now_ns) // 200)
            self.now_ns = min(self.now_ns + step_ns, until_ns)
        self._scan()
        return self.commands.outputs[index].desired

    def _scan(self) -> None:
        self.schedules.scan(self.now_ns, self.utc_ns)
        self.cycle(0)

    def told(self, what: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["what"] == what]
