"""The codes of refusals: each receipt that says no says why in a word, for programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.core.refusals import REFUSALS
from tests.gateway.plant import SECOND_NS, Plant, setpoint
from tests.gateway.test_requests import CONTROLS, MACHINE, TAG

CHANNELS = {
    "Slow": setpoint(20, RateMax=10),
    "Leased": setpoint(22, Lease=60),
}
MINUTE: dict[str, Any] = {"lease_ns": 60 * SECOND_NS}
NOTE: dict[str, Any] = {"comment": "the sensor is being changed"}
ALARM = "Alarms.Hot"
CAUSE = "Controls.OverTemp"


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    """Running, start-up over, 5 bar."""
    made = Plant(tmp_path, CONTROLS, CHANNELS)
    made.land("Rig.Pressure", 5.0)
    made.run(0.3)
    return made


def code(plant: Plant) -> str:
    """Of the newest receipt that says no; "" where there is none."""
    said = [r for r in plant.events("receipt") if r["step"] in ("refused", "failed")]
    return str(said[-1].get("code", "without a code")) if said else ""


@pytest.mark.parametrize(
    ("tag", "value", "more", "word"),
    [
        ("Rig.Nonsense", 1.0, {}, "no-point"),
        ("Rig.Temperature", 1.0, {}, "read-only"),
        (CAUSE, 1.0, {}, "read-only"),
        ("Rig.Power", 101.0, {}, "range"),
        ("Rig.Power", float("nan"), {}, "range"),
        ("Rig.Valve", 2.0, {}, "range"),
        ("Rig.Slow", 90.0, {}, "rate"),
        ("Rig.Leased", 1.0, {"lease_ns": 61 * SECOND_NS}, "lease"),
        ("Rig.Power", 1.0, {"origin": "remote"}, "lease"),
        ("Rig.Power", 1.0, {"origin": "nobody"}, "not-yours"),
        ("Rig.Power", 1.0, {"expires_ns": 1}, "expired"),
        ("Rig.Power", 0.0, {"release": True}, "nothing"),
        ("Rig.Power", 0.0, {"action": "shelve"}, "action"),
        ("Gateway.Reset", 1.0, {"origin": "remote", **MINUTE}, "not-yours"),
        ("Rig.Heater", 1.0, {}, "held"),
        (TAG, 0.0, {}, "range"),
        (TAG, 9.0, {}, "range"),
        (TAG, 3.0, {}, "state"),
        (CAUSE, 0.0, {"action": "bypass", **MINUTE}, "comment"),
        (CAUSE, 0.0, {"action": "bypass", **NOTE}, "duration"),
        (CAUSE, 0.0, {"action": "bypass", "origin": "remote", **MINUTE, **NOTE}, "not-yours"),
        ("Controls.E_Stop", 0.0, {"action": "bypass", **MINUTE, **NOTE}, "not-bypassable"),
        ("Controls.High_Pressure", 0.0, {"action": "bypass", **MINUTE, **NOTE}, "not-bypassable"),
        ("Controls.May_Start", 0.0, {"action": "bypass", **MINUTE, **NOTE}, "action"),
        (CAUSE, 0.0, {"action": "end-bypass"}, "nothing"),
        (ALARM, 0.0, {"action": "acknowledge"}, "acknowledged"),
        (ALARM, 0.0, {"action": "acknowledge", "seen_utc_ns": 1}, "announced"),
        (ALARM, 0.0, {"action": "unshelve"}, "not-shelved"),
        (ALARM, 0.0, {"action": "shelve", **MINUTE}, "comment"),
        (ALARM, 0.0, {"action": "shelve", **NOTE}, "shelve-time"),
        (ALARM, 0.0, {"action": "in-service"}, "alarm-state"),
        (ALARM, 0.0, {"action": "out-of-service", "origin": "remote", **NOTE}, "not-yours"),
        (CAUSE, 0.0, {"action": "acknowledge"}, "action"),
    ],
)
def test_a_refusal_has_its_word(
    plant: Plant, tag: str, value: float, more: dict[str, Any], word: str
) -> None:
    assert plant.send(tag, value, **more)
    assert code(plant) == word
    assert word in REFUSALS


def test_an_id_counts_once(plant: Plant) -> None:
    plant.send("Rig.Power", 1.0, id="same")
    plant.send("Rig.Power", 2.0, id="same")
    assert code(plant) == "repeated"


def test_a_permissive_and_a_trip_have_words(plant: Plant) -> None:
    plant.land("Rig.Pressure", 0.0)
    plant.run()
    plant.send("Rig.Valve", 1.0)
    assert code(plant) == "permissive"
    assert not plant.send("Rig.Power", 10.0)
    plant.run()
    plant.land("Rig.Temperature", 950.0)
    plant.run()
    (ended,) = plant.events("receipt", step="released")
    assert ended["code"] == "held"
    plant.send("Rig.Power", 10.0)
    assert code(plant) == "held"
    plant.send("Gateway.Reset", 1.0)
    plant.run()
    assert code(plant) == "still-active"


def test_an_alarm_that_is_set_aside_refuses_what_does_not_fit(plant: Plant) -> None:
    assert not plant.send(ALARM, action="out-of-service", **NOTE)
    plant.send(ALARM, action="shelve", **MINUTE, **NOTE)
    assert code(plant) == "alarm-state"
    plant.send(ALARM, action="acknowledge")
    assert code(plant) == "alarm-state"


def test_a_device_that_does_not_follow_has_a_word(plant: Plant) -> None:
    plant.takes = lambda write: False
    plant.send("Rig.Power", 10.0)
    plant.run(0.3)
    assert code(plant) == "device"
    plant.takes, plant.shows = lambda write: True, lambda value: value + 50
    plant.run(10)
    assert code(plant) == "read-back"


def test_what_goes_well_has_no_code(plant: Plant) -> None:
    assert not plant.send("Rig.Power", 10.0)
    assert not plant.ask(MACHINE, "Heat_Up")
    plant.run(0.3)
    assert plant.steps(tag="Rig.Power")[-1] == "verified"
    assert not [body for body in plant.events("receipt") if "code" in body]


def test_an_emergency_stop_overtakes_what_would_take_it_back(plant: Plant) -> None:
    plant.send("Gateway.E_Stop", 0.0)
    plant.send("Gateway.E_Stop", 1.0)
    assert code(plant) == "overtaken"
