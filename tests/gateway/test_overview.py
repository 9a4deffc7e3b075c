"""What the field process says of itself stays small where much is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway import overview
from gateway.overview import Overview
from gateway.statistics import ScanStatistics
from tests.gateway.plant import Plant
from tests.gateway.test_requests import CONTROLS

ASKED = {"Alarms/E_Stop": {"When": "Gateway.E_Stop == 1"}}


def test_a_flood_shows_what_acts_first_and_how_many_there_are_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hot = {f"Alarms/A{n}": {"When": "Rig.Temperature >= 900"} for n in range(9)}
    plant = Plant(tmp_path, CONTROLS, alarms={"AlarmStates": ASKED | hot})
    plant.land("Rig.Pressure", 5.0)
    plant.run(0.3)
    plant.land("Rig.Temperature", 950.0)
    plant.run()
    made = Overview(plant.site, plant.engine, plant.table, {}, ScanStatistics(), plant.scan)
    whole = made.status()
    assert len(whole["rules"]) == 11 and whole["rules_more"] == 0
    monkeypatch.setattr(overview, "RULES_MAX", 4)
    told = made.status()
    assert [rule["name"] for rule in told["rules"][:2]] == ["Control/OverTemp", "Alarms/A0"]
    assert told["rules"] == whole["rules"][:4] and told["rules_more"] == 7
