"""The engine's questions and orders about bypasses, control states, proposals and snapshots."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from safety import kernel
from safety.engine import BypassRefused, Engine
from safety.layout import CAUSE_MACHINE_FROM, CAUSE_NONE, CAUSE_STARTUP
from tests.safety.programs import point_table, random_program
from tests.safety.sites import EVALUATORS, MS, Plant, S, make_site

CHANNELS: dict[str, dict[str, Any]] = {
    "Stack.T": {},
    "Gas.P": {},
    "Gas.Valve": {"Type": "Digital", "ReadWrite": "RW", "SafeValue": 0},
    "Heater.T": {"ReadWrite": "RW", "SafeValue": 20},
}
CONTROLS: dict[str, Any] = {
    "E_Stop": {"When": "Gateway.E_Stop", "Effects": {"Gas.Valve": 0}},
    "Hot": {"When": "Stack.T > 900", "Effects": {"Gas.Valve": 0}, "BypassMax": 60},
    "Inhibit": {"When": "Gas.P < 1", "Effects": {"Heater.T": 20}, "Kind": "Interlock"},
    "Ready": {"When": "Gas.P > 2", "Kind": "Permissive", "Permits": ["Heater.T"]},
}
MACHINE: dict[str, Any] = {
    "Initial": "Off",
    "States": {
        "Off": {"Hold": {"Heater.T": 20}, "MinTime": 10},
        "Heat_Up": {"Set": {"Heater.T": 700}},
        "Running": {},
    },
    "Transitions": [
        {"From": "Off", "To": "Heat_Up", "By": ["operator", "schedule"], "When": "Gas.P > 2"},
        {"From": "Heat_Up", "To": "Running", "When": "Stack.T > 700"},
        {"To": "Off", "By": ["operator", "remote"], "Urgent": True},
    ],
}
FUNCTIONS = {
    "Cap": {"Output": "Heater.T", "Role": "Maximum", "Value": "800 + Gas.P", "BadValue": 500},
    "Floor": {"Output": "Heater.T", "Role": "Minimum", "Value": "15", "BadValue": 15},
}


@pytest.fixture(params=list(EVALUATORS))
def plant(request: pytest.FixtureRequest) -> Plant:
    """A running plant with a machine, functions, and causes of every kind."""
    site = make_site(CHANNELS, controls=CONTROLS, machines={"Plant": MACHINE}, functions=FUNCTIONS)
    plant = Plant(site, EVALUATORS[request.param])
    for tag, value in (("Stack.T", 20), ("Gas.P", 3), ("Heater.T", 20), ("Gas.Valve", 0)):
        plant.set(tag, value)
    plant.scan()
    assert not plant.engine.startup
    return plant


def refusal(plant: Plant, state: str, asker: str = "operator") -> str:
    """Why a request would be refused."""
    position = plant.program.machine_info[0].states.index(state)
    return plant.engine.refusal(0, position, asker)


# ---------------------------------------------------------------- bypasses


@pytest.mark.parametrize(
    ("rule", "duration_s", "message"),
    [
        ("E_Stop", 1, "E_Stop can't be bypassed: it has no BypassMax"),
        ("Inhibit", 1, "Inhibit can't be bypassed"),
        ("Ready", 1, "Ready is neither a trip nor an interlock"),
        ("Hot", 61, "Hot can be bypassed for at most 60 s"),
        ("Hot", 0, "Hot can be bypassed for at most 60 s"),
        ("Hot", -5, "Hot can be bypassed for at most 60 s"),
    ],
)
def test_a_bypass_that_is_not_allowed_is_refused(
    plant: Plant, rule: str, duration_s: int, message: str
) -> None:
    with pytest.raises(BypassRefused, match=message):
        plant.engine.bypass(plant.rule(rule), duration_s * S)
    plant.set("Gateway.E_Stop", 1)
    plant.set("Stack.T", 901)
    plant.scan()
    assert plant.level("E_Stop")
    assert plant.level("Hot")
    assert not plant.engine.bypassed.any()


def test_a_bypass_tells_how_long_it_lasts_and_when_it_changes(plant: Plant) -> None:
    engine, hot = plant.engine, plant.rule("Hot")
    engine.bypass(hot, 60 * S)
    assert engine.bypass_left_ns(hot) == 60 * S
    assert not engine.bypassed[hot]  # from the next scan on
    assert plant.scan() == ["Hot"]
    assert engine.bypassed[hot]
    assert engine.bypass_left_ns(hot) == 60 * S - 100 * MS
    assert plant.scan() == []
    plant.set("Stack.T", 901)
    assert plant.scan() == ["Hot"]
    assert engine.held_back[hot]
    assert plant.scan() == []
    plant.set("Stack.T", 20)
    assert plant.scan() == ["Hot"]
    assert plant.scan(58 * S) == []
    assert plant.scan(2 * S) == ["Hot"]
    assert not engine.bypassed[hot]
    assert engine.bypass_left_ns(hot) == 0


def test_ending_a_bypass_that_is_none_changes_nothing(plant: Plant) -> None:
    plant.engine.end_bypass(plant.rule("Hot"))
    assert plant.scan() == []


def test_a_restart_ends_bypasses_and_keeps_the_latch_behind_them(plant: Plant) -> None:
    hot = plant.rule("Hot")
    plant.set("Stack.T", 901)
    plant.scan()
    plant.engine.bypass(hot, 60 * S)
    plant.set("Stack.T", 20)
    plant.scan()
    assert plant.level("Hot") is None
    kept = plant.engine.retained()
    assert kept["Hot"]["level"] == "Trip"
    after = Plant(plant.site, plant.engine._evaluate)
    after.engine.restore(kept)
    after.scan()
    assert after.level("Hot") == "Trip"
    assert not after.engine.bypassed.any()
    assert after.engine.mode(0) == "Off"


# ---------------------------------------------------------------- control states


def test_a_refusal_says_what_is_missing(plant: Plant) -> None:
    assert refusal(plant, "Heat_Up") == "Off lasts at least 10 s, 10.0 s are left"
    plant.set("Gas.P", 1)
    plant.scan(4 * S)
    assert refusal(plant, "Heat_Up") == (
        "not true: Gas.P > 2 and Off lasts at least 10 s, 6.0 s are left"
    )
    plant.scan(6 * S)
    assert refusal(plant, "Heat_Up") == "not true: Gas.P > 2"
    assert refusal(plant, "Off") == "Plant is in Off already"
    assert refusal(plant, "Heat_Up", "remote") == (
        "from Off to Heat_Up: who may ask for it: operator, schedule; "
        "remote may now ask for: nothing"
    )
    assert refusal(plant, "Running") == (
        "from Off to Running: no transition leads there; operator may now ask for: Heat_Up"
    )
    assert plant.engine.refusal(0, 3, "operator") == "Plant has 3 states, none of them number 4"
    assert plant.engine.refusal(0, -1, "operator") == "Plant has 3 states, none of them number 0"
    plant.set("Gas.P", 3)
    plant.scan()
    assert refusal(plant, "Heat_Up") == ""
    plant.engine.request(0, 1, "operator")
    plant.scan()
    assert refusal(plant, "Running") == (
        "from Heat_Up to Running: who may ask for it: nobody, it comes by itself; "
        "operator may now ask for: Off"
    )


def test_nothing_can_be_asked_for_during_the_start_up() -> None:
    site = make_site(CHANNELS, controls=CONTROLS, machines={"Plant": MACHINE})
    plant = Plant(site)
    plant.scan(20 * S)
    assert (
        refusal(plant, "Heat_Up") == "the start-up is not over: a protective input is not good yet"
    )
    plant.engine.request(0, 1, "operator")
    plant.scan()
    assert plant.engine.mode(0) == "Off"
    assert plant.engine.machine_now["request"].tolist() == [-1]


def test_a_request_is_taken_in_the_next_scan_or_forgotten(plant: Plant) -> None:
    engine = plant.engine
    plant.scan(10 * S)
    assert engine.machine_values().tolist() == [1.0]
    assert engine.machines_changed().tolist() == []
    assert engine.request(0, 1, "operator")
    plant.scan()
    assert engine.mode(0) == "Heat_Up"
    assert engine.machine_values().tolist() == [2.0]
    assert engine.machines_changed().tolist() == [0]
    engine.request(0, 2, "operator")  # nobody may ask for it
    plant.set("Stack.T", 701)
    plant.worsen("Stack.T")
    plant.scan()
    plant.set("Stack.T", 20)
    plant.scan()
    assert engine.mode(0) == "Heat_Up"


def test_of_two_requests_the_one_of_the_higher_rank_counts(plant: Plant) -> None:
    engine = plant.engine
    plant.scan(10 * S)
    assert engine.request(0, 1, "operator")
    assert not engine.request(0, 0, "remote")
    plant.scan()
    assert engine.mode(0) == "Heat_Up"
    assert engine.request(0, 2, "schedule")
    assert engine.request(0, 0, "remote")
    plant.scan()
    assert engine.mode(0) == "Off"


# ---------------------------------------------------------------- outputs


def test_causes_have_names(plant: Plant) -> None:
    engine = plant.engine
    heater = plant.program.outputs.tolist().index(plant.site.index["Heater.T"])
    assert engine.demand[heater] == 20
    assert engine.cause[heater] == CAUSE_MACHINE_FROM
    assert engine.cause_name(int(engine.cause[heater])) == "Plant: Off"
    assert engine.cause_name(CAUSE_STARTUP) == "start-up"
    assert engine.cause_name(CAUSE_NONE) == ""
    assert engine.cause_name(int(engine.high_cause[heater])) == "Cap"
    assert (engine.low[heater], engine.high[heater]) == (15, 803)
    plant.scan(10 * S)
    engine.request(0, 1, "operator")
    plant.scan()
    assert math.isnan(engine.demand[heater])
    assert engine.auto[heater] == 700
    assert engine.cause_name(int(engine.auto_cause[heater])) == "Plant: Heat_Up"
    plant.set("Gas.P", 0.5)
    plant.scan()
    assert engine.cause_name(int(engine.cause[heater])) == "Inhibit"


def test_before_the_first_scan_nothing_is_proposed_or_limited() -> None:
    engine = Plant(make_site(CHANNELS, controls=CONTROLS, functions=FUNCTIONS)).engine
    assert np.isnan(engine.auto).all()
    assert (engine.low == -np.inf).all()
    assert (engine.high == np.inf).all()
    assert (engine.high_cause == CAUSE_NONE).all()
    assert (engine.offset == 0).all()


# ---------------------------------------------------------------- the whole state


@pytest.mark.parametrize("seed", range(5))
def test_a_snapshot_brings_back_the_whole_state(seed: int) -> None:
    program = random_program(seed)
    engine, rows = Engine(program, kernel.evaluate), point_table(program)
    random = np.random.default_rng(seed)

    def scans(count: int, start_ns: int) -> list[Any]:
        found = []
        for scan in range(count):
            rows["value"] = random.normal(900, 5, len(rows))
            rows["status"] = 0
            engine.scan(rows, start_ns + scan * 100 * MS, scan % 5 == 0)
            values, codes = engine.rule_points()
            found.append((engine.snapshot(), values.tobytes(), codes.tobytes()))
        return found

    scans(20, S)
    kept = engine.snapshot(), rows.copy(), random.bit_generator.state
    first = scans(20, 10 * S)
    engine.restore_snapshot(kept[0])
    rows[:], random.bit_generator.state = kept[1], kept[2]
    assert engine.snapshot() == kept[0]
    assert scans(20, 10 * S) == first
    assert len({snapshot for snapshot, _, _ in first}) == 20


def test_evaluate_can_be_called_with_the_arguments_of_an_engine() -> None:
    program = random_program(0)
    by_itself, by_scan = Engine(program), Engine(program)
    rows = point_table(program)
    rows["value"], rows["status"] = 900.5, 0
    for scan in range(5):
        count = kernel.evaluate(rows, *by_itself.arguments, scan * S, False)
        changed = by_itself.changed[:count].tolist()
        assert changed == by_scan.scan(rows, scan * S, False).tolist()
    assert any(by_itself.level)
    by_itself.refresh()
    assert by_itself.snapshot() == by_scan.snapshot()
    assert by_itself.rule_points()[0].tolist() == by_scan.rule_points()[0].tolist()
