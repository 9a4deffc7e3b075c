"""The stack's physics against published values and Faraday's law."""

from __future__ import annotations

import math

import pytest

from drivers.sim.stack import (
    KELVIN,
    Stack,
    hydrogen_slpm,
    open_circuit_v,
    resistance_ohm_cm2,
    steam_limit_a,
    thermoneutral_v,
)

HOT_K = 800 + KELVIN


def test_the_thermoneutral_voltage_at_800_degc_is_the_published_one() -> None:
    assert thermoneutral_v(HOT_K) == pytest.approx(1.287, abs=0.002)


def test_the_thermoneutral_voltage_at_room_temperature_is_that_of_steam() -> None:
    # 241.83 kJ/mol over 2 F
    assert thermoneutral_v(298.15) == pytest.approx(1.2532, abs=0.0005)


def test_the_standard_voltage_falls_with_temperature_as_the_free_energy_does() -> None:
    # Equal steam and hydrogen, pure oxygen: what is left is -dG/2F, 0.969 V at 1100 K.
    assert open_circuit_v(1100.0, 0.5, 0.5, 1.0) == pytest.approx(187.033e3 / (2 * 96485.332), 1e-4)
    assert open_circuit_v(1000.0, 0.5, 0.5, 1.0) > open_circuit_v(1100.0, 0.5, 0.5, 1.0)


def test_more_steam_lowers_and_more_hydrogen_raises_the_open_circuit_voltage() -> None:
    even = open_circuit_v(HOT_K, 0.5, 0.5, 0.21)
    assert open_circuit_v(HOT_K, 0.9, 0.1, 0.21) < even < open_circuit_v(HOT_K, 0.1, 0.9, 0.21)


def test_the_resistance_takes_its_given_value_at_1100_k_and_grows_when_it_is_colder() -> None:
    assert resistance_ohm_cm2(1100.0, 0.7) == pytest.approx(0.7, abs=0.001)
    assert resistance_ohm_cm2(1000.0, 0.7) > 1.0
    assert math.isfinite(resistance_ohm_cm2(0.0, 0.7))


def test_hydrogen_follows_faradays_law() -> None:
    # One ampere through one cell for one minute: 60 / (2 * 96485) mol = 3.109e-4 mol.
    assert hydrogen_slpm(1.0, 1) == pytest.approx(3.1093e-4 * 22.414, rel=1e-4)
    assert hydrogen_slpm(30.0, 10) == pytest.approx(300 * hydrogen_slpm(1.0, 1))


def test_the_steam_limit_is_the_current_that_turns_all_steam_into_hydrogen() -> None:
    steam_slpm = 5.0
    limit_a = steam_limit_a(steam_slpm / 60 / 22.414, 10)
    assert hydrogen_slpm(limit_a, 10) == pytest.approx(steam_slpm)


def test_at_thermoneutral_voltage_the_current_neither_heats_nor_cools() -> None:
    stack = Stack()
    still = stack.heating_k_per_s(800.0, 22.0, 1000.0, 0.0, 1.0)
    assert stack.heating_k_per_s(800.0, 22.0, 1000.0, 30.0, thermoneutral_v(HOT_K)) == still
    assert stack.heating_k_per_s(800.0, 22.0, 1000.0, 30.0, 1.1) < still
    assert stack.heating_k_per_s(800.0, 22.0, 1000.0, 30.0, 1.5) > still


def test_the_furnace_holds_its_setpoint_and_stays_within_its_power() -> None:
    stack = Stack()
    held_w = stack.furnace_w(800.0, 800.0, 22.0)
    assert held_w == pytest.approx(stack.loss_w_per_k * 778.0)
    assert stack.heating_k_per_s(800.0, 22.0, held_w, 0.0, 1.0) == pytest.approx(0.0)
    assert stack.furnace_w(20.0, 800.0, 22.0) == stack.furnace_w_max
    assert stack.furnace_w(900.0, 100.0, 22.0) == 0.0
