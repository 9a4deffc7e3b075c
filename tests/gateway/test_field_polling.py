"""Polling inside the field process: holes over a restart, calculated points, defects of a scan."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from config import status
from gateway.core.paths import StatePaths
from gateway.field import REFUSED_SHOWN_MAX
from tests.gateway.running import Running
from tests.gateway.sites import CONFIG, Rig, eventually

REGISTER: dict[str, Any] = {"Type": "HRegister", "DataType": "uint16", "Tags": ["Fast"]}
HOLED = {f"R{i}": {**REGISTER, "IOPoint": 100 + i} for i in range(8)}


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """A device whose holding register 105 does not exist."""
    made = Rig(tmp_path)
    await made.start()
    made.write(channels=HOLED)
    made.bank.allow_only("holding", [(0, 105), (106, 100)])
    yield made
    await made.stop()


async def test_a_hole_is_learned_once_and_known_in_the_next_life(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Running(rig)
    await first.ready()
    # the two sides of the hole are read by separate requests, so either can be good first
    sound = [f"Rig.R{i}" for i in range(8) if i != 5]
    await eventually(lambda: all(first.status(name) == status.GOOD for name in sound))
    assert first.status("Rig.R5") != status.GOOD
    await eventually(lambda: "refuses" in first.events("device", device="Rig")[-1])
    learned = StatePaths(rig.state).learned
    await eventually(learned.exists)
    await first.end()

    refused: list[int] = []
    check = rig.bank.check_range

    def watched(kind: str, start: int, count: int) -> None:
        if kind == "holding" and start <= 105 < start + count:
            refused.append(count)
        check(kind, start, count)

    monkeypatch.setattr(rig.bank, "check_range", watched)
    second = Running(rig)
    await second.ready()
    await eventually(lambda: second.status("Rig.R7") == status.GOOD)
    assert set(refused) == {1}  # the register itself, never a block that has it
    await second.end()


async def test_a_damaged_memory_of_holes_is_no_reason_not_to_start(rig: Rig) -> None:
    paths = StatePaths(rig.state)
    paths.make()
    paths.learned.write_text("{")
    field = Running(rig)
    await field.ready()
    await eventually(lambda: field.status("Rig.R7") == status.GOOD)
    await field.end()


async def test_a_defect_in_the_scan_ends_the_process_and_is_not_blamed_on_a_device(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    field = Running(rig)
    await field.ready()

    def broken() -> None:
        raise ZeroDivisionError("a defect in the scan")

    monkeypatch.setattr(field.field.scan, "run", broken)
    with pytest.raises(ZeroDivisionError):
        await field.finished()


async def test_the_event_of_refused_blocks_is_short(rig: Rig) -> None:
    field = Running(rig)
    field.field.on_refused("Rig", [f"registers {i}" for i in range(4_000)])
    (body,) = field.events("device", device="Rig")
    assert body["refused_blocks"] == 4_000
    assert len(body["refuses"]) == REFUSED_SHOWN_MAX
    await eventually(StatePaths(rig.state).learned.exists)
    field.field.on_refused("Rig", ["one more"])  # too soon behind the first to be written at once
    await field.end()
    assert "one more" in StatePaths(rig.state).learned.read_text(encoding="utf-8")


CALCULATED: dict[str, Any] = {
    "EquipmentTags": {"EquipmentName": "Calc", "Communication": "Virtual"},
    "Channels": {
        "Kelvin": {"Expression": "Rig.Temperature + 273.15", "Units": "K"},
        "Nothing": {"Expression": "Rig.Temperature / 0"},
    },
}


async def test_a_calculated_point_is_reported_when_it_changes_and_not_in_every_scan(
    rig: Rig,
) -> None:
    with_calc = CONFIG | {"Equipment": {"Calc": {"Config": "Calc.json"}, **CONFIG["Equipment"]}}
    (rig.folder / "Small-Config.json").write_text(json.dumps(with_calc), encoding="utf-8")
    (rig.folder / "Calc.json").write_text(json.dumps(CALCULATED), encoding="utf-8")
    field = Running(rig)
    await field.ready()
    await eventually(lambda: field.value("Calc.Kelvin") == 293.15)
    assert field.status("Calc.Kelvin") == status.GOOD
    assert field.status("Calc.Nothing") == status.BAD
    scans = field.field.statistics.count
    await eventually(lambda: field.field.statistics.count > scans + 20)
    index = field.field.table.index["Calc.Kelvin"]
    batch = field.field.journal.after(0, 10**6)
    assert batch is not None
    reported = batch.records[batch.records["point"] == index]
    assert reported["status"].tolist() == [status.BAD_WAITING_FOR_INITIAL_DATA, status.GOOD]
    rig.temperature(30.0)
    await eventually(lambda: field.value("Calc.Kelvin") == 303.15)
    await rig.stop()
    await eventually(lambda: field.status("Calc.Kelvin") == status.BAD)
    await field.end()
