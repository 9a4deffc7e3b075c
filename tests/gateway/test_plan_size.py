"""The plan of large sites: short findings, and work that grows with the site and no faster."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gateway import plan as planning
from gateway.plan import BlockPlan, ClassPlan, DevicePlan, overloads, plan_instruments
from tests.drivers.instruments import instrument


def test_a_finding_about_a_long_line_stays_short() -> None:
    channels = {
        f"C{at}": {"Type": "HRegister", "DataType": "uint16", "IOPoint": at, "Class": "Fast"}
        for at in range(50)
    }
    units = []
    for unit in range(1, 60):
        place = {"Port": "/dev/ttyS1", "Unit": unit}
        made = instrument(channels, Communication="ModbusRTU", Connection=place)
        units.append(replace(made, name=f"U{unit}"))
    (finding,) = overloads(plan_instruments(units, {"Fast": 0.1}))
    assert "(U1, U2, U3, U4, U5, U6, U7, U8, 51 more)" in finding.message


def test_ten_thousand_requests_are_planned_in_a_few_passes(monkeypatch: Any) -> None:
    seen = 0
    work_s = planning._work_s

    def count(blocks: Any, depth: int) -> float:
        nonlocal seen
        seen += len(blocks)
        return work_s(blocks, depth)

    monkeypatch.setattr(planning, "_work_s", count)
    answer = tuple(BlockPlan(f"b{at}", (f"D.b{at}",), 12, 11, 0.000_05) for at in range(5_000))
    fast, slow = ClassPlan("Fast", 1.0, answer), ClassPlan("Slow", 10.0, answer)
    device = DevicePlan("D", "D.json", "ModbusTcp", "", 1, 0.000_05, (fast, slow))
    (aged,) = planning._with_ages([device])
    assert all(c.worst_age_s is not None for c in aged.classes)
    assert seen < 20 * 10_000
