"""The scan: from the program's arrays to outputs, events and the gateway's own points."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from config import status
from gateway.commands import GATEWAY_WRITES_MAX
from gateway.scan import AT_ONCE_MAX, NAMED_MAX
from tests.gateway.plant import Plant, setpoint
from tests.gateway.sites import ALARMS
from tests.gateway.test_requests import CONTROLS


def plant_with(folder: Path, **sections: Any) -> Plant:
    """A plant that runs, with further sections of the controls' file."""
    made = Plant(folder, {**CONTROLS, **sections})
    made.land("Rig.Pressure", 5.0)
    made.run(1.5)
    return made


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    """A plant that runs."""
    return plant_with(tmp_path)


# ---------------------------------------------------------------- the stop


def stopped(folder: Path, tag: str, **channel: Any) -> Plant:
    """A plant that stops while an interlock holds `Rig.Power` at 20."""
    plant = Plant(folder, CONTROLS, {"Power": setpoint(0, **channel)})
    plant.land("Rig.Pressure", 5.0)
    plant.run(0.3)
    plant.land(tag, 950.0)
    plant.run()
    plant.scan.stopping = True
    plant.run(0.3)
    return plant


def test_a_stop_drives_outputs_safe_and_an_interlock_does_not_keep_it(tmp_path: Path) -> None:
    assert stopped(tmp_path, "Rig.Pressure", SafeValue=3).desired("Rig.Power") == 3.0


def test_a_stop_undoes_no_trip(tmp_path: Path) -> None:
    assert stopped(tmp_path, "Rig.Temperature", SafeValue=3).desired("Rig.Power") == 0.0


def test_a_stop_undoes_no_interlock_of_an_output_without_a_safe_value(tmp_path: Path) -> None:
    assert stopped(tmp_path, "Rig.Pressure", SafeValue=None).desired("Rig.Power") == 20.0


def test_a_trip_during_a_stop_still_trips(plant: Plant) -> None:
    plant.scan.stopping = True
    plant.run(0.2)
    plant.land("Rig.Temperature", 950.0)
    plant.run()
    assert plant.events("trip", name="Control/OverTemp", active=True)
    assert plant.commands.outputs[plant.table.index["Rig.Power"]].demand is not None


# ---------------------------------------------------------------- gateway points


def test_a_reset_that_is_taken_back_at_once_is_one_all_the_same(plant: Plant) -> None:
    plant.land("Rig.Temperature", 950.0)
    plant.run()
    plant.land("Rig.Temperature", 20.0)
    plant.run()
    plant.send("Gateway.Reset", 1.0)
    plant.send("Gateway.Reset", 0.0)
    plant.run()
    assert plant.value("Controls.OverTemp") == 0.0
    assert plant.steps(tag="Gateway.Reset") == ["accepted", "accepted", "verified", "verified"]


def test_a_reset_behind_a_reset_is_one_of_its_own(plant: Plant) -> None:
    plant.land("Rig.Temperature", 950.0)
    plant.run()
    plant.send("Gateway.Reset", 1.0)
    plant.run()  # too early
    plant.land("Rig.Temperature", 20.0)
    plant.send("Gateway.Reset", 1.0)
    plant.run(0.3)
    assert plant.value("Controls.OverTemp") == 0.0
    assert plant.steps(tag="Gateway.Reset") == ["accepted", "failed", "accepted", "verified"]


def test_a_reset_is_seen_at_its_point_for_a_scan(plant: Plant) -> None:
    seen = []
    plant.send("Gateway.Reset", 1.0)
    plant.send("Gateway.Reset", 1.0)
    plant.send("Gateway.Reset", 0.0)
    for _ in range(4):
        plant.run()
        seen.append(plant.value("Gateway.Reset"))
    assert seen == [1.0, 0.0, 0.0, 0.0]


def test_two_resets_before_one_scan_are_both_answered(plant: Plant) -> None:
    plant.send("Gateway.Reset", 1.0)
    plant.send("Gateway.Reset", 1.0)
    plant.run()
    assert plant.steps(tag="Gateway.Reset", command="c1") == ["accepted", "verified"]
    assert plant.steps(tag="Gateway.Reset", command="c2") == ["accepted", "verified"]


def test_a_reset_of_many_trips_names_some_of_them(tmp_path: Path) -> None:
    hot = {"When": "Rig.Temperature >= 900", "Effects": {"Rig.Power": 0}}
    controls = {f"Control/T{n}": hot for n in range(NAMED_MAX + 7)}
    plant = plant_with(tmp_path, Automatic_Controls=CONTROLS["Automatic_Controls"] | controls)
    plant.land("Rig.Temperature", 950.0)
    plant.run()
    plant.send("Gateway.Reset", 1.0)
    plant.run()
    (told,) = plant.events("receipt", tag="Gateway.Reset", step="failed")
    assert told["reason"].startswith("still active: Control/OverTemp, ")
    assert told["reason"].endswith(" and 8 more")


def test_an_emergency_stop_that_is_taken_back_at_once_stops_all_the_same(plant: Plant) -> None:
    plant.send("Gateway.E_Stop", 1.0)
    plant.send("Gateway.E_Stop", 0.0)
    plant.run(0.3)
    assert plant.value("Gateway.E_Stop") == 0.0
    assert plant.value("Controls.E_Stop") == 1.0
    assert plant.steps(tag="Gateway.E_Stop") == ["accepted", "accepted", "verified", "verified"]


def test_writes_to_gateway_points_between_two_scans_are_bounded(plant: Plant) -> None:
    refusals = [plant.send("Gateway.E_Stop", 1.0) for _ in range(GATEWAY_WRITES_MAX + 1)]
    assert refusals[-1] == "too many writes wait for the scan"
    assert not any(refusals[:-1])
    plant.run()
    assert plant.steps(tag="Gateway.E_Stop").count("verified") == GATEWAY_WRITES_MAX


@pytest.mark.parametrize("crowd", ["Gateway.E_Stop", "Gateway.Reset"])
def test_an_emergency_stop_is_never_refused_and_waits_for_nothing(plant: Plant, crowd: str) -> None:
    for _ in range(GATEWAY_WRITES_MAX):
        assert plant.send(crowd, 0.0) == ""
    asked: list[bool] = []
    plant.commands.stop_asked = lambda: asked.append(True)
    assert plant.send("Gateway.E_Stop", 1.0, id="stop") == ""
    assert asked  # for a scan at once
    plant.run()
    assert plant.value("Controls.E_Stop") == 1.0
    assert plant.steps(command="stop") == ["accepted", "verified"]
    plant.run(1)
    assert plant.value("Gateway.E_Stop") == 1.0


def test_what_would_take_an_emergency_stop_back_before_it_came_is_told(plant: Plant) -> None:
    plant.send("Gateway.E_Stop", 0.0, id="early")
    plant.send("Gateway.E_Stop", 1.0, id="stop")
    (told,) = plant.events("receipt", command="early", step="failed")
    assert told["reason"] == "an emergency stop came behind it, stop"


def test_the_alarms_of_a_flood_are_told_behind_the_writes_and_before_the_next_scan(
    tmp_path: Path,
) -> None:
    hot = {"When": "Rig.Temperature >= 900"}
    flood = {"AlarmStates": {f"Alarms/A{n}": hot for n in range(AT_ONCE_MAX)}}
    alarms = {"AlarmStates": ALARMS["AlarmStates"] | flood["AlarmStates"]}
    plant = Plant(tmp_path, CONTROLS, {"Power": setpoint(0, Fallback=9)}, alarms)
    plant.land("Rig.Pressure", 5.0)
    plant.run(0.3)
    plant.land("Rig.Temperature", 950.0)
    plant.scan.run()
    assert [(w.point.tag, w.value) for w in plant.writes] == [("Rig.Power", 0.0)]
    assert not plant.events("alarm", active=True)
    at_ns = plant.clock.utc_ns()
    plant.run()
    told = [e for e in plant.journal.events(0, "alarm") if e.body["active"]]
    assert len(told) == AT_ONCE_MAX + 1 and {e.utc_ns for e in told} == {at_ns}


# ---------------------------------------------------------------- functions

LIMIT = {
    "Export_Limit": {
        "Function": "Expression",
        "Role": "Maximum",
        "Output": "Rig.Power",
        "Value": "60 - Rig.Pressure",
    }
}
DROOP = {
    "Droop": {
        "Function": "Expression",
        "Role": "Setpoint",
        "Output": "Rig.Power",
        "Value": "Rig.Temperature / 10",
        "When": "Rig.Temperature > 100",
    }
}


def test_a_limit_holds_a_command_down_and_the_receipt_names_it(tmp_path: Path) -> None:
    plant = plant_with(tmp_path, Grid_Functions=LIMIT)
    plant.send("Rig.Power", 80.0)
    plant.run(0.3)
    assert plant.desired("Rig.Power") == 55.0
    (told,) = plant.events("receipt", step="limited")
    assert (told["command"], told["reason"]) == ("c1", "held to 55 by Export_Limit")


def test_a_function_drives_its_output_below_setpoints_and_lets_go(tmp_path: Path) -> None:
    plant = plant_with(tmp_path, Grid_Functions=DROOP)
    plant.land("Rig.Temperature", 200.0)
    plant.run(0.3)
    assert plant.desired("Rig.Power") == 20.0
    assert plant.value("Functions.Droop") == 20.0
    assert plant.steps(tag="Rig.Power", cause="Droop") == ["driven", "verified"]
    plant.send("Rig.Power", 33.0)
    plant.run(0.2)
    assert plant.desired("Rig.Power") == 33.0
    plant.land("Rig.Temperature", 50.0)
    plant.send("Rig.Power", release=True)
    plant.run(0.2)
    assert plant.desired("Rig.Power") == 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_function_of_a_number_that_is_none_lets_go(tmp_path: Path, bad: float) -> None:
    plant = plant_with(tmp_path, Grid_Functions=DROOP | LIMIT)
    plant.land("Rig.Temperature", 200.0)
    plant.run(0.2)
    plant.land("Rig.Temperature", bad)
    plant.run(0.2)
    assert plant.desired("Rig.Power") == 0.0


def test_the_reaction_of_a_trip_counts_from_its_first_cause(tmp_path: Path) -> None:
    plant = plant_with(tmp_path, Grid_Functions=LIMIT)
    plant.land("Rig.Temperature", 950.0)
    plant.run()
    output = plant.commands.outputs[plant.table.index["Rig.Power"]]
    assert output.demand is not None
    first_ns = output.demand.source_ns
    plant.run()
    plant.land("Rig.Pressure", 6.0)  # the limit moves: the output is looked at again
    plant.run()
    assert output.demand.source_ns == first_ns


def test_the_point_of_a_function_has_the_time_of_its_scan(tmp_path: Path) -> None:
    plant = plant_with(tmp_path, Grid_Functions=LIMIT)
    row = plant.table.rows[plant.table.index["Functions.Export_Limit"]]
    assert row["utc_ns"] > 0 and row["status"] == status.GOOD


# ---------------------------------------------------------------- rules as events


def test_a_permissive_is_an_event_of_its_kind(plant: Plant) -> None:
    (given,) = plant.events("trip", name="Control/May_Start")
    assert (given["kind"], given["active"]) == ("permissive", True)


def test_a_bypass_is_no_event_of_its_rule(plant: Plant) -> None:
    keys: dict[str, Any] = {"action": "bypass", "lease_ns": 10**9, "comment": "sensor is changed"}
    plant.send("Controls.OverTemp", **keys)
    before = plant.events("trip")
    plant.run(2)
    assert plant.events("trip") == before
