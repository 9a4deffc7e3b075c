"""The scan: what protection wants of outputs while the process stops."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from config.points import GATEWAY_POINTS
from gateway.commands import Commands
from gateway.core.clock import ManualClock
from gateway.core.records import Command
from gateway.core.table import PointTable
from gateway.journal import Journal
from gateway.scan import Scan
from safety.layout import RANK_INTERLOCK, RANK_TRIP
from tests.gateway.points import output, point


class Protection:
    """An engine with one rule, which drives the first output to 7."""

    startup = False

    def __init__(self, rank: int) -> None:
        info = SimpleNamespace(name="Rule", kind="trip", point=2)
        self.program = SimpleNamespace(info=[info], outputs=np.array([1]))
        self.rank, self.cause = np.array([rank]), np.array([0])
        self.demand = np.array([7.0])

    def scan(self, rows: Any, now_mono_ns: int, reset: bool) -> Any:
        return np.zeros(0, dtype=np.int32)

    def rule_points(self) -> Any:
        return np.zeros(1), np.zeros(1, dtype=np.uint32)

    def inputs_mono_ns(self, rule: int, rows: Any) -> int:
        return 0


def stopping(rank: int, **more: float) -> Commands:
    """The outputs of a site that stops while a rule is active."""
    points = [output(1, **more), point(2, "Controls.Rule")] + [
        point(number, f"Gateway.{channel}")
        for number, (channel, *_) in enumerate(GATEWAY_POINTS, start=3)
    ]
    table, clock = PointTable(points), ManualClock()
    journal = Journal(points, 1, "b" * 16)
    commands = Commands(points, lambda body: None)
    site: Any = SimpleNamespace(points=points)
    engine: Any = Protection(rank)
    scan = Scan(site, table, engine, commands, journal, clock, lambda writes: None)
    commands.submit(Command("c", "Dev.Out", 50.0), 0, 0)
    scan.run()
    scan.stopping = True
    scan.run()
    return commands


@pytest.mark.parametrize("rank", [RANK_TRIP, RANK_INTERLOCK])
def test_a_stop_undoes_no_trip_and_no_interlock_of_an_output_without_a_safe_value(
    rank: int,
) -> None:
    assert stopping(rank, safe_value=math.nan, fallback=30.0).outputs[1].desired == 7.0


def test_a_trip_says_more_than_the_safe_value_of_a_stop_and_an_interlock_less() -> None:
    assert stopping(RANK_TRIP).outputs[1].desired == 7.0
    assert stopping(RANK_INTERLOCK).outputs[1].desired == 0.0
