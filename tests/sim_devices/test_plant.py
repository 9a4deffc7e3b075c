"""The plant model: what operators and faults do to it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest

from drivers.sim.plant import ACTUATORS, SCENARIOS, START_MINUTE, Plant
from drivers.sim.replay import Replay, Series
from drivers.sim.stack import hydrogen_slpm


def replay_of(**values: float) -> Replay:
    return Replay({name: Series((0,), (value,)) for name, value in values.items()})


@pytest.fixture
def plant() -> Plant:
    return Plant(replay_of(pv_power_w=3000.0, wind_speed_m_per_s=2.5))


def run(plant: Plant, seconds: float) -> Mapping[str, float]:
    plant.step(seconds)
    return plant.sensors()


def test_hot_standby_holds_its_temperature(plant: Plant) -> None:
    assert run(plant, 20)["stack_temperature_degc"] == pytest.approx(800.0, abs=2.0)


def test_normal_operation_runs_near_thermoneutral(plant: Plant) -> None:
    plant.set({"supply_output": 1, "supply_current_setpoint_a": 30})
    seen = run(plant, 5)
    assert seen["stack_current_a"] == pytest.approx(30.0)
    assert seen["cell_voltage_v"] == pytest.approx(1.29, abs=0.03)
    assert seen["supply_voltage_v"] == pytest.approx(10 * seen["cell_voltage_v"], abs=0.02)
    assert seen["hydrogen_production_slpm"] == pytest.approx(hydrogen_slpm(30.0, 10))


def test_overheating_passes_900_degc_within_eight_seconds_and_the_contactor_stops_it(
    plant: Plant,
) -> None:
    plant.switch("overheat", True)
    plant.set({"temperature_setpoint_degc": 25.0})  # the fault doesn't care for the setpoint
    assert run(plant, 8)["stack_temperature_degc"] > 900.0
    plant.set({"heater_enable": 0})
    hottest = run(plant, 0.1)["stack_temperature_degc"]
    assert run(plant, 5)["stack_temperature_degc"] < hottest - 20.0
    assert plant.sensors()["furnace_power_w"] == 0.0


def test_without_the_fault_the_stack_never_passes_its_setpoint_by_much(plant: Plant) -> None:
    plant.set({"temperature_setpoint_degc": 850.0})
    assert run(plant, 60)["stack_temperature_degc"] < 853.0


def test_lost_steam_takes_the_current_down_and_the_voltage_to_its_limit(plant: Plant) -> None:
    plant.set({"supply_output": 1, "supply_current_setpoint_a": 30})
    run(plant, 2)
    plant.switch("steam_loss", True)
    seen = run(plant, 5)
    assert seen["steam_flow_slpm"] < 0.2
    assert seen["stack_current_a"] < 1.0
    assert seen["supply_voltage_v"] == pytest.approx(ACTUATORS["supply_voltage_limit_v"], abs=0.1)


def test_the_supply_never_passes_its_voltage_limit(plant: Plant) -> None:
    plant.set({"supply_output": 1, "supply_current_setpoint_a": 50, "supply_voltage_limit_v": 11.0})
    seen = run(plant, 2)
    assert seen["supply_voltage_v"] <= 11.0 + 0.01
    assert 0 < seen["stack_current_a"] < 50


def test_a_broken_belt_stops_the_air_but_not_the_motor(plant: Plant) -> None:
    plant.switch("ventilation_loss", True)
    seen = run(plant, 4)
    assert seen["ventilation_m3_per_h"] < 10.0
    assert seen["fan_frequency_hz"] == pytest.approx(50.0)


def test_the_fan_ramps_and_its_flow_is_proportional(plant: Plant) -> None:
    plant.set({"fan_setpoint_hz": 20.0})
    assert 40.0 < run(plant, 0.5)["fan_frequency_hz"] < 50.0
    assert run(plant, 10)["ventilation_m3_per_h"] == pytest.approx(20.0 * 24.0, abs=5.0)
    plant.set({"fan_run": 0})
    assert run(plant, 10)["ventilation_m3_per_h"] == pytest.approx(0.0, abs=0.1)
    assert plant.sensors()["ventilation_m3_per_h"] >= 0.0


def test_a_closed_valve_stops_the_hydrogen(plant: Plant) -> None:
    plant.set({"hydrogen_valve": 0})
    assert run(plant, 4)["hydrogen_flow_slpm"] < 0.02


@pytest.mark.parametrize(
    ("scenario", "contact"),
    [("fire", "hydrogen_fire"), ("leak", "gas_leak"), ("estop", "estop_pressed")],
)
def test_a_contact_closes_with_its_scenario_only(plant: Plant, scenario: str, contact: str) -> None:
    assert run(plant, 0.1)[contact] == 0.0
    plant.switch(scenario, True)
    assert run(plant, 0.1)[contact] == 1.0
    plant.switch(scenario, False)
    assert run(plant, 0.1)[contact] == 0.0


def test_the_inverter_is_cut_at_its_limit(plant: Plant) -> None:
    assert run(plant, 0.1)["pv_state"] == 4.0
    plant.set({"pv_power_limit_percent": 10.0})
    seen = run(plant, 0.1)
    assert seen["pv_power_w"] == 600.0
    assert seen["pv_state"] == 5.0


def test_a_minute_of_weather_passes_in_half_a_second(plant: Plant) -> None:
    plant.step(0.5)
    assert plant.minute == pytest.approx(START_MINUTE + 1.0)


def test_the_same_steps_give_the_same_plant() -> None:
    def drive() -> Mapping[str, float]:
        plant = Plant(replay_of(pv_power_w=1.0))
        plant.set({"supply_output": 1, "supply_current_setpoint_a": 20})
        for _ in range(50):
            plant.step(0.02)
            plant.sensors()
        return plant.sensors()

    assert drive() == drive()


def test_every_quantity_stays_finite_in_every_scenario(plant: Plant) -> None:
    plant.set({"supply_output": 1, "supply_current_setpoint_a": 50})
    for scenario in SCENARIOS:
        plant.switch(scenario, True)
        plant.step(30.0)
        assert all(math.isfinite(value) for value in plant.sensors().values()), scenario
    assert plant.temperature_degc < 3000.0


def test_unknown_actuators_and_scenarios_and_values_that_are_no_numbers_are_refused(
    plant: Plant,
) -> None:
    with pytest.raises(KeyError, match="no actuator heater"):
        plant.set({"heater": 1})
    with pytest.raises(ValueError, match="heater_enable can't be nan"):
        plant.set({"heater_enable": math.nan})
    with pytest.raises(KeyError, match="no scenario is called flood"):
        plant.switch("flood", True)
