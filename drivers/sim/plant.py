"""The plant behind the simulated devices: a small solid-oxide electrolysis laboratory.

A pure model, moved on by `step(dt_s)`; it reads no clock. The furnace, the stack and the weather
run `TIME_SCALE` times faster than the wall clock, because a hot box needs hours to move. Valves,
flows, fan and power supply run in real time. So a minute of measured weather passes in half a
second, and the overheated stack climbs from 800 to 900 degC in six seconds instead of twelve
minutes. The physics of the stack and its sources are in drivers/sim/stack.py.

Actuators and sensors are named quantities with units last; drivers/sim/signals.py says which
channel of which instrument carries them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from drivers.sim.replay import Replay
from drivers.sim.stack import (
    KELVIN,
    NORM_LITRE_PER_MOL,
    Stack,
    hydrogen_slpm,
    open_circuit_v,
    resistance_ohm_cm2,
    steam_limit_a,
)

TIME_SCALE: Final = 120.0  # of furnace, stack and weather
START_MINUTE: Final = 9 * 60.0  # of the replayed day
ROOM_DEGC: Final = 22.0
OXYGEN_IN_AIR: Final = 0.21
STEP_S_MAX: Final = 0.05  # longer steps are divided

FLOW_LAG_S: Final = 0.4  # mass-flow controllers and the evaporator behind the steam valve
FAN_RAMP_HZ_PER_S: Final = 10.0
FAN_FLOW_M3_PER_H_HZ: Final = 24.0  # ventilation per hertz of the fan (affinity law: linear)
SUPPLY_PSIA: Final = 30.0  # hydrogen supply, at no flow
SUPPLY_DROP_PSI_PER_SLPM: Final = 0.2
PV_RATING_W: Final = 6_000.0
PV_EFFICIENCY: Final = 0.96  # AC over DC power; the AC power is measured

THERMOCOUPLE_OFFSETS_K: Final = (0.0, 1.4, -1.9)  # where the three sit in the stack
# Noise of the measurements, uniform within +/- these.
NOISE: Final[Mapping[str, float]] = {
    "stack_temperature_degc": 0.3,
    "stack_temperature_2_degc": 0.3,
    "stack_temperature_3_degc": 0.3,
    "cell_voltage_v": 0.001,
    "steam_flow_slpm": 0.04,
    "hydrogen_flow_slpm": 0.01,
    "air_flow_slpm": 0.1,
    "hydrogen_pressure_psia": 0.03,
    "ventilation_m3_per_h": 3.0,
    "supply_current_a": 0.005,
    "supply_voltage_v": 0.003,
    "pv_voltage_v": 0.3,
    "pv_frequency_hz": 0.01,
}

SLEEPING, RUNNING, THROTTLED = 2.0, 4.0, 5.0  # inverter states, as SunSpec numbers them

SCENARIOS: Final[Mapping[str, str]] = {
    "overheat": "the furnace controller fails and heats with full power, whatever the setpoint",
    "leak": "the gas detector of the enclosure sees hydrogen",
    "fire": "the hydrogen flame detector of the enclosure reports a fire",
    "estop": "somebody presses the emergency stop",
    "ventilation_loss": "the fan's belt breaks: it turns, and moves no air",
    "steam_loss": "the evaporator runs dry: no steam, whatever the setpoint",
}

# What devices can set, and the state in which the model starts: hot standby, current off.
ACTUATORS: Final[Mapping[str, float]] = {
    "heater_enable": 1.0,
    "temperature_setpoint_degc": 800.0,
    "steam_setpoint_slpm": 20.0,
    "hydrogen_valve": 1.0,
    "hydrogen_setpoint_slpm": 5.0,
    "purge_valve": 0.0,
    "air_setpoint_slpm": 50.0,
    "fan_run": 1.0,
    "fan_setpoint_hz": 50.0,
    "supply_output": 0.0,
    "supply_current_setpoint_a": 0.0,
    "supply_voltage_limit_v": 16.0,
    "pv_power_limit_percent": 100.0,
}


@dataclass
class Plant:
    """The state of the model. Temperatures in degC, flows in norm litres a minute (slpm)."""

    replay: Replay
    stack: Stack = field(default_factory=Stack)
    actuators: dict[str, float] = field(default_factory=lambda: dict(ACTUATORS))
    scenarios: dict[str, bool] = field(default_factory=lambda: dict.fromkeys(SCENARIOS, False))
    temperature_degc: float = 800.0
    furnace_w: float = 0.0
    steam_slpm: float = 20.0
    hydrogen_slpm: float = 5.0
    air_slpm: float = 50.0
    fan_hz: float = 50.0
    ventilation_m3_per_h: float = 50.0 * FAN_FLOW_M3_PER_H_HZ
    current_a: float = 0.0
    supply_v: float = 0.0
    cell_v: float = 0.0
    minute: float = START_MINUTE
    energy_wh: float = 12_345_000.0  # counter of the PV inverter
    noise: int = 1  # state of the generator of measurement noise

    def set(self, values: Mapping[str, float]) -> None:
        """Set actuators. Unknown names and values that are not finite are the caller's mistake."""
        for name, value in values.items():
            if name not in self.actuators:
                raise KeyError(f"the plant has no actuator {name}")
            if not math.isfinite(value):
                raise ValueError(f"actuator {name} can't be {value}")
            self.actuators[name] = float(value)

    def switch(self, scenario: str, on: bool) -> None:
        """Switch a scenario on or off; KeyError for a name that is none."""
        if scenario not in self.scenarios:
            raise KeyError(f"no scenario is called {scenario}; there are {', '.join(SCENARIOS)}")
        self.scenarios[scenario] = on

    def step(self, dt_s: float) -> None:
        """Move the model on by `dt_s` seconds of the wall clock."""
        steps = max(1, math.ceil(dt_s / STEP_S_MAX))
        for _ in range(steps):
            self._flows(dt_s / steps)
            self._electricity()
            self._heat(dt_s / steps)
            self._sun(dt_s / steps)

    def _flows(self, dt_s: float) -> None:
        wanted = self.actuators
        steam = wanted["steam_setpoint_slpm"]
        if self.scenarios["steam_loss"]:
            steam = 0.0
        share = 1 - math.exp(-dt_s / FLOW_LAG_S)
        self.steam_slpm += share * (steam - self.steam_slpm)
        hydrogen = wanted["hydrogen_setpoint_slpm"] * (wanted["hydrogen_valve"] > 0.5)
        self.hydrogen_slpm += share * (hydrogen - self.hydrogen_slpm)
        self.air_slpm += share * (wanted["air_setpoint_slpm"] - self.air_slpm)
        wanted_hz = wanted["fan_setpoint_hz"] * (wanted["fan_run"] > 0.5)
        ramp_hz = FAN_RAMP_HZ_PER_S * dt_s
        self.fan_hz += min(max(wanted_hz - self.fan_hz, -ramp_hz), ramp_hz)
        moved = 0.0 if self.scenarios["ventilation_loss"] else self.fan_hz * FAN_FLOW_M3_PER_H_HZ
        self.ventilation_m3_per_h += share * (moved - self.ventilation_m3_per_h)

    def _electricity(self) -> None:
        """The supply holds its current until the voltage limit; the steam limits it as well."""
        stack, wanted = self.stack, self.actuators
        temperature_k = self.temperature_degc + KELVIN
        steam_mol_per_s = self.steam_slpm / 60 / NORM_LITRE_PER_MOL
        hydrogen_mol_per_s = self.hydrogen_slpm / 60 / NORM_LITRE_PER_MOL
        steam, hydrogen = stack.mole_fractions(steam_mol_per_s, hydrogen_mol_per_s, self.current_a)
        open_v = open_circuit_v(temperature_k, steam, hydrogen, OXYGEN_IN_AIR)
        cell_ohm = (
            resistance_ohm_cm2(temperature_k, stack.resistance_1100_k_ohm_cm2) / stack.area_cm2
        )
        current_a = 0.0
        if wanted["supply_output"] > 0.5:
            limit_v = wanted["supply_voltage_limit_v"] / stack.cells
            possible_a = max(0.0, (limit_v - open_v) / cell_ohm)
            starved_a = steam_limit_a(steam_mol_per_s, stack.cells)
            current_a = max(
                0.0, min(wanted["supply_current_setpoint_a"], possible_a, 0.98 * starved_a)
            )
            starving = current_a < wanted["supply_current_setpoint_a"]
            self.cell_v = limit_v if starving else open_v + current_a * cell_ohm
        else:
            self.cell_v = open_v
        self.current_a = current_a
        self.supply_v = self.cell_v * stack.cells if wanted["supply_output"] > 0.5 else 0.0

    def _heat(self, dt_s: float) -> None:
        stack, wanted = self.stack, self.actuators
        setpoint_degc = wanted["temperature_setpoint_degc"]
        self.furnace_w = stack.furnace_w(self.temperature_degc, setpoint_degc, ROOM_DEGC)
        if self.scenarios["overheat"]:
            self.furnace_w = stack.furnace_w_max
        if wanted["heater_enable"] <= 0.5:  # the contactor is upstream of the controller
            self.furnace_w = 0.0
        heating = stack.heating_k_per_s(
            self.temperature_degc, ROOM_DEGC, self.furnace_w, self.current_a, self.cell_v
        )
        self.temperature_degc += heating * dt_s * TIME_SCALE

    def _sun(self, dt_s: float) -> None:
        self.minute += dt_s * TIME_SCALE / 60
        self.energy_wh += max(0.0, self._pv_w()) * dt_s * TIME_SCALE / 3600

    def _pv_w(self) -> float:
        """Measured power, cut at the inverter's limit."""
        measured_w = self.replay.series["pv_power_w"].at(self.minute)
        return min(measured_w, self._pv_limit_w())

    def _pv_limit_w(self) -> float:
        return self.actuators["pv_power_limit_percent"] / 100 * PV_RATING_W

    def _noise(self, span: float) -> float:
        """Uniform within +/- span: D. E. Knuth's linear congruential generator (MMIX)."""
        self.noise = (self.noise * 6364136223846793005 + 1442695040888963407) % 2**64
        return (self.noise / 2**63 - 1.0) * span

    def sensors(self) -> dict[str, float]:
        """Everything that can be measured now, by quantity. NaN where nothing was measured."""
        values = {**self.replay.at(self.minute), **self.actuators, **self._process(), **self._pv()}
        for name, span in NOISE.items():
            if values[name] > 10 * span:  # transmitters cut off what is close to nothing
                values[name] += self._noise(span)
        return values

    def _process(self) -> dict[str, float]:
        fan_load = (self.fan_hz / 50.0) ** 3
        near, far, edge = (self.temperature_degc + offset for offset in THERMOCOUPLE_OFFSETS_K)
        return {
            "stack_temperature_degc": near,
            "stack_temperature_2_degc": far,
            "stack_temperature_3_degc": edge,
            "cell_voltage_v": self.cell_v,
            "stack_current_a": self.current_a,
            "furnace_power_w": self.furnace_w,
            "hydrogen_production_slpm": hydrogen_slpm(self.current_a, self.stack.cells),
            "steam_flow_slpm": self.steam_slpm,
            "hydrogen_flow_slpm": self.hydrogen_slpm,
            "hydrogen_pressure_psia": SUPPLY_PSIA - SUPPLY_DROP_PSI_PER_SLPM * self.hydrogen_slpm,
            "air_flow_slpm": self.air_slpm,
            "ventilation_m3_per_h": self.ventilation_m3_per_h,
            "fan_frequency_hz": self.fan_hz,
            "fan_current_a": 0.6 * (self.fan_hz > 0) + 2.0 * fan_load,
            "supply_voltage_v": self.supply_v,
            "supply_current_a": self.current_a,
            "hydrogen_fire": float(self.scenarios["fire"]),
            "gas_leak": float(self.scenarios["leak"]),
            "estop_pressed": float(self.scenarios["estop"]),
        }

    def _pv(self) -> dict[str, float]:
        power_w = self._pv_w()
        limited = power_w >= self._pv_limit_w()
        return {
            "pv_power_w": power_w,
            "pv_dc_power_w": max(0.0, power_w) / PV_EFFICIENCY,
            "pv_energy_wh": self.energy_wh,
            "pv_voltage_v": 240.0,
            "pv_frequency_hz": 60.0,
            "pv_state": SLEEPING if not power_w > 10.0 else THROTTLED if limited else RUNNING,
        }
