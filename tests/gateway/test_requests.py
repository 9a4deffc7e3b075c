"""What commands ask of the rule program: control states, bypasses, permission."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.requests import PENDING_MAX
from tests.gateway.plant import SECOND_NS, Plant

CONTROLS: dict[str, Any] = {
    "Automatic_Controls": {
        "Control/E_Stop": {
            "When": "alarm('Alarms/E_Stop')",
            "Effects": {"Rig.Power": 0, "Rig.Valve": "closed"},
        },
        "Control/OverTemp": {
            "When": "Rig.Temperature >= 900",
            "Effects": {"Rig.Power": 0},
            "BypassMax": 3600,
        },
        "Control/High_Pressure": {
            "When": "Rig.Pressure > 10",
            "Kind": "Interlock",
            "Effects": {"Rig.Power": 20},
        },
        "Control/May_Start": {
            "When": "Rig.Pressure > 1",
            "Kind": "Permissive",
            "Permits": ["Rig.Valve"],
        },
    },
    "Control_States": {
        "Stack/Operation": {
            "Initial": "Off",
            "States": {
                "Off": {"Hold": {"Rig.Heater": 0}},
                "Heat_Up": {"MaxTime": 60, "OnTimeout": "Off"},
                "Running": {"Set": {"Rig.Heater": 200}},
            },
            "Transitions": [
                {
                    "From": "Off",
                    "To": "Heat_Up",
                    "By": ["operator", "schedule"],
                    "When": "Rig.Pressure > 2",
                },
                {"From": "Heat_Up", "To": "Running", "When": "Rig.Temperature > 50"},
                {"To": "Off", "By": ["operator", "remote"]},
            ],
        }
    },
}
MACHINE = "Stack_Operation"
TAG = f"States.{MACHINE}"


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    """Running, start-up over, 5 bar."""
    made = Plant(tmp_path, CONTROLS)
    made.land("Rig.Pressure", 5.0)
    made.run(0.3)
    return made


# ---------------------------------------------------------------- control states


def test_a_machine_shows_its_state_and_its_point_names_it(plant: Plant) -> None:
    assert plant.shown(TAG) == "Off"
    assert plant.events("state", machine="Stack/Operation") == [
        {"machine": "Stack/Operation", "state": "Off", "before": "", "by": "start"}
    ]


def test_a_request_is_accepted_and_verified_when_the_state_is_entered(plant: Plant) -> None:
    assert plant.ask(MACHINE, "Heat_Up", source="somebody") == ""
    plant.run()
    assert plant.shown(TAG) == "Heat_Up"
    assert plant.steps(tag=TAG) == ["accepted", "verified"]
    assert plant.events("state")[-1] == {
        "machine": "Stack/Operation",
        "state": "Heat_Up",
        "before": "Off",
        "by": "operator",
        "when": "Rig.Pressure > 2",
        "command": "c1",
        "source": "somebody",
    }


@pytest.mark.parametrize(
    ("state", "origin", "words"),
    [
        ("Off", "operator", "Off already"),
        ("Running", "operator", "no transition"),
        ("Heat_Up", "remote", "operator, schedule"),
    ],
)
def test_a_request_that_cannot_be_taken_is_refused_with_what_is_missing(
    plant: Plant, state: str, origin: str, words: str
) -> None:
    refusal = plant.ask(MACHINE, state, origin=origin)
    assert words in refusal
    plant.run()
    assert plant.shown(TAG) == "Off"
    assert plant.steps(tag=TAG) == ["refused"]


def test_a_guard_that_is_not_true_is_named(plant: Plant) -> None:
    plant.land("Rig.Pressure", 1.5)
    plant.run()
    assert plant.ask(MACHINE, "Heat_Up") == "not true: Rig.Pressure > 2"


def test_a_schedule_is_an_asker_of_its_own(plant: Plant) -> None:
    assert plant.ask(MACHINE, "Heat_Up", origin="schedule") == ""
    plant.run()
    assert plant.events("state")[-1]["by"] == "schedule"


def test_a_request_whose_guard_goes_before_the_scan_fails_with_the_reason(plant: Plant) -> None:
    assert plant.ask(MACHINE, "Heat_Up") == ""
    plant.land("Rig.Pressure", 1.5)
    plant.run()
    assert plant.shown(TAG) == "Off"
    (failed,) = plant.events("receipt", tag=TAG, step="failed")
    assert "not true: Rig.Pressure > 2" in failed["reason"]


def test_of_two_requests_before_one_scan_the_higher_rank_counts(plant: Plant) -> None:
    plant.ask(MACHINE, "Heat_Up")
    plant.run()
    assert plant.ask(MACHINE, "Off", origin="operator") == ""
    assert "higher rank" in plant.ask(MACHINE, "Off", origin="remote")


def test_automatic_transitions_and_timeouts_say_what_led_there(plant: Plant) -> None:
    plant.ask(MACHINE, "Heat_Up")
    plant.run()
    plant.land("Rig.Temperature", 60.0)
    plant.run(0.2)
    entered = plant.events("state")[-1]
    assert (entered["state"], entered["by"]) == ("Running", "automatic")
    assert entered["when"] == "Rig.Temperature > 50"
    plant.ask(MACHINE, "Off")
    plant.run()
    plant.land("Rig.Temperature", 20.0)
    plant.run()
    plant.ask(MACHINE, "Heat_Up")
    plant.run(62)
    entered = plant.events("state")[-1]
    assert (entered["state"], entered["before"], entered["by"]) == ("Off", "Heat_Up", "timeout")


@pytest.mark.parametrize("value", [0.0, 4.0, -1.0, 1.5])
def test_a_number_that_is_no_state_is_refused(plant: Plant, value: float) -> None:
    assert plant.send(TAG, value)
    plant.run()
    assert plant.shown(TAG) == "Off"


def test_a_state_is_no_lease(plant: Plant) -> None:
    assert "no setpoint" in plant.send(TAG, 2.0, release=True)


def test_what_a_state_holds_refuses_commands_by_its_name_and_what_it_sets_does_not(
    plant: Plant,
) -> None:
    assert plant.send("Rig.Heater", 100.0) == "held by state Stack/Operation: Off"
    plant.ask(MACHINE, "Heat_Up")
    plant.land("Rig.Temperature", 60.0)
    plant.run(0.3)
    assert plant.desired("Rig.Heater") == 200.0
    plant.run(1)  # causes below setpoints are told once a second
    assert plant.events("receipt", tag="Rig.Heater", cause="Stack/Operation: Running")
    assert plant.send("Rig.Heater", 100.0) == ""
    plant.run()
    assert plant.desired("Rig.Heater") == 100.0


def test_two_states_that_hold_the_same_value_are_two_causes(tmp_path: Path) -> None:
    states = {
        "Initial": "A",
        "States": {"A": {"Hold": {"Rig.Heater": 5}}, "B": {"Hold": {"Rig.Heater": 5}}},
        "Transitions": [{"From": "A", "To": "B", "By": ["operator"]}],
    }
    plant = Plant(tmp_path, {**CONTROLS, "Control_States": {"M": states}})
    plant.run(0.3)
    plant.send("States.M", 2.0)
    plant.run(0.3)
    assert plant.send("Rig.Heater", 1.0) == "held by state M: B"


def test_a_point_of_a_rule_that_is_no_machine_is_read_only(plant: Plant) -> None:
    assert "read only" in plant.send("Controls.OverTemp", 1.0)


def test_the_answer_to_a_question_for_states_says_what_is_missing(plant: Plant) -> None:
    plant.run(2)
    (machine,) = plant.scan.requests.machines({})["machines"]
    assert (machine["name"], machine["tag"], machine["state"]) == ("Stack/Operation", TAG, "Off")
    assert 2.0 <= machine["since_s"] <= 2.5
    missing = {state["state"]: state["refusal"] for state in machine["states"]}
    assert missing["Heat_Up"] == ""
    assert "already" in missing["Off"] and "no transition" in missing["Running"]


# ---------------------------------------------------------------- permissives


def test_a_command_without_its_permissive_is_refused_with_name_and_text(plant: Plant) -> None:
    plant.land("Rig.Pressure", 0.5)
    plant.run()
    refusal = plant.send("Rig.Valve", 1.0)
    assert refusal == "not permitted by Control/May_Start: Rig.Pressure > 1"
    assert plant.send("Rig.Valve", 0.0) == ""  # the way to the safe value is always free
    plant.land("Rig.Pressure", 5.0)
    plant.run()
    assert plant.send("Rig.Valve", 1.0) == ""


def test_an_input_that_is_bad_permits_nothing(plant: Plant) -> None:
    plant.land("Rig.Pressure", 5.0, 0x80050000)
    plant.run()
    assert plant.send("Rig.Valve", 1.0)


def test_a_permissive_that_goes_leaves_what_was_set(plant: Plant) -> None:
    plant.send("Rig.Valve", 1.0)
    plant.run()
    plant.land("Rig.Pressure", 0.5)
    plant.run(0.3)
    assert plant.desired("Rig.Valve") == 1.0


# ---------------------------------------------------------------- bypasses


def bypass(plant: Plant, tag: str = "Controls.OverTemp", **more: Any) -> str:
    keys = {"action": "bypass", "lease_ns": 10 * SECOND_NS, "comment": "sensor is changed"}
    return plant.send(tag, **(keys | more))


def test_a_bypassed_cause_does_not_trip_and_its_life_is_told(plant: Plant) -> None:
    assert bypass(plant, source="somebody") == ""
    plant.land("Rig.Temperature", 950.0)
    plant.run(0.3)
    assert plant.value("Controls.OverTemp") == 0.0
    assert plant.value("Gateway.Bypasses") == 1.0
    assert plant.send("Rig.Power", 50.0) == ""
    (shown,) = plant.scan.requests.bypasses()
    assert shown["name"] == "Control/OverTemp"
    assert shown["held_back"] is True and 9.0 < shown["left_s"] < 10.0
    assert (shown["comment"], shown["source"]) == ("sensor is changed", "somebody")
    plant.land("Rig.Temperature", 20.0)
    plant.run(10)
    assert plant.value("Gateway.Bypasses") == 0.0
    told = [event["what"] for event in plant.events("bypass", name="Control/OverTemp")]
    assert told == ["begin", "cause holds", "cause gone", "expired"]
    assert plant.steps(tag="Controls.OverTemp") == ["accepted", "verified"]
    assert not plant.events("trip", name="Control/OverTemp", active=True)


def test_a_bypass_that_expires_while_its_cause_holds_trips(plant: Plant) -> None:
    bypass(plant)
    plant.land("Rig.Temperature", 950.0)
    plant.send("Rig.Power", 50.0)
    plant.run(11)
    assert plant.desired("Rig.Power") == 0.0
    assert plant.events("trip", name="Control/OverTemp", active=True)
    told = [event["what"] for event in plant.events("bypass")]
    assert told == ["begin", "cause holds", "expired"]


def test_a_bypass_can_be_ended(plant: Plant) -> None:
    bypass(plant)
    plant.run()
    assert plant.send("Controls.OverTemp", action="end-bypass") == ""
    plant.run()
    assert plant.value("Gateway.Bypasses") == 0.0
    assert [event["what"] for event in plant.events("bypass")] == ["begin", "end"]
    assert "is not bypassed" in plant.send("Controls.OverTemp", action="end-bypass")


def test_a_bypass_that_is_renewed_is_told_again(plant: Plant) -> None:
    bypass(plant)
    plant.run(5)
    bypass(plant, comment="takes longer")
    plant.run(6)
    assert plant.value("Gateway.Bypasses") == 1.0
    comments = [event["comment"] for event in plant.events("bypass", what="begin")]
    assert comments == ["sensor is changed", "takes longer"]


def test_a_bypass_and_its_end_before_one_scan_end_without_a_bypass(plant: Plant) -> None:
    bypass(plant)
    plant.send("Controls.OverTemp", action="end-bypass")
    plant.run()
    assert plant.value("Gateway.Bypasses") == 0.0
    assert plant.scan.requests.bypasses() == []


def test_a_bypass_that_is_over_before_the_scan_is_told_and_forgotten(plant: Plant) -> None:
    assert bypass(plant, lease_ns=1) == ""
    plant.run()
    assert plant.scan.requests.bypasses() == []
    assert [event["what"] for event in plant.events("bypass")] == ["begin", "expired"]
    assert plant.steps(tag="Controls.OverTemp") == ["accepted", "failed"]


@pytest.mark.parametrize(
    ("tag", "more", "words"),
    [
        ("Controls.OverTemp", {"comment": ""}, "comment"),
        ("Controls.OverTemp", {"comment": "  \n "}, "comment"),
        ("Controls.OverTemp", {"lease_ns": 0}, "at most 3600 s"),
        ("Controls.OverTemp", {"lease_ns": -1}, "at most 3600 s"),
        ("Controls.OverTemp", {"lease_ns": 3601 * SECOND_NS}, "at most 3600 s"),
        ("Controls.OverTemp", {"lease_ns": 2**70}, "at most 3600 s"),
        ("Controls.OverTemp", {"origin": "remote"}, "local operator"),
        ("Controls.OverTemp", {"origin": "schedule"}, "local operator"),
        ("Controls.OverTemp", {"action": "dance"}, "knows no action 'dance'"),
        ("Controls.OverTemp", {"release": True}, "no setpoint"),
        ("Controls.High_Pressure", {}, "no BypassMax"),
        ("Controls.E_Stop", {}, "emergency stop"),
        ("Controls.May_Start", {}, "only trips and interlocks"),
        (TAG, {}, "only trips and interlocks"),
        ("Rig.Power", {}, "knows no action 'bypass'"),
        ("Gateway.Reset", {}, "knows no action 'bypass'"),
        ("Controls.Nothing", {}, "no such point"),
    ],
)
def test_a_bypass_that_must_not_be_is_refused(
    plant: Plant, tag: str, more: dict[str, Any], words: str
) -> None:
    assert words in bypass(plant, tag, **more)
    plant.run()
    assert plant.value("Gateway.Bypasses") == 0.0


def test_requests_between_two_scans_are_bounded(plant: Plant) -> None:
    refusals = [bypass(plant) for _ in range(PENDING_MAX + 1)]
    assert refusals[:PENDING_MAX] == [""] * PENDING_MAX
    assert "too many" in refusals[-1]
