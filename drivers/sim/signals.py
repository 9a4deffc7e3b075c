"""What the channels of the demonstration site mean in the plant model.

A row a channel: the tag, the quantity of drivers/sim/plant.py, and the factor from the quantity
to the channel's units. A channel without a row is plain memory in its device.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Signal:
    """One quantity of the plant; channel value = quantity * factor."""

    quantity: str
    factor: float = 1.0


SIGNALS: Final[Mapping[str, Signal]] = {
    "Stack.Cell_Temperature": Signal("stack_temperature_degc"),
    "Stack.Cell_Temperature_2": Signal("stack_temperature_2_degc"),
    "Stack.Cell_Temperature_3": Signal("stack_temperature_3_degc"),
    "Stack.Cell_Voltage": Signal("cell_voltage_v"),
    "Stack.Cell_Current": Signal("stack_current_a"),
    "Stack.Furnace_Power": Signal("furnace_power_w", 0.001),  # kW
    "Stack.E_Stop_Button": Signal("estop_pressed"),
    "Stack.Hydrogen_Fire": Signal("hydrogen_fire"),
    "Stack.Gas_Leak": Signal("gas_leak"),
    "Stack.Heater_Enable": Signal("heater_enable"),
    "Stack.Hydrogen_Valve": Signal("hydrogen_valve"),
    "Stack.Purge_Valve": Signal("purge_valve"),
    "Stack.Furnace_Setpoint": Signal("temperature_setpoint_degc"),
    "Gas.Steam_Flow": Signal("steam_flow_slpm"),
    "Gas.Hydrogen_Flow": Signal("hydrogen_flow_slpm"),
    "Gas.Air_Flow": Signal("air_flow_slpm"),
    "Gas.Hydrogen_Pressure": Signal("hydrogen_pressure_psia"),
    "Gas.Steam_Setpoint": Signal("steam_setpoint_slpm"),
    "Gas.Hydrogen_Setpoint": Signal("hydrogen_setpoint_slpm"),
    "Gas.Air_Setpoint": Signal("air_setpoint_slpm"),
    "VFD_1.RUN_STOP": Signal("fan_run"),
    "VFD_1.FREQUENCY_SETPT": Signal("fan_setpoint_hz"),
    "VFD_1.OUTPUT_FREQUENCY": Signal("fan_frequency_hz"),
    "VFD_1.OUTPUT_CURRENT": Signal("fan_current_a"),
    "VFD_1.Ventilation_Flow": Signal("ventilation_m3_per_h"),
    "PSU.Voltage": Signal("supply_voltage_v"),
    "PSU.Current": Signal("supply_current_a"),
    "PSU.Output_State": Signal("supply_output"),
    "PSU.Current_Setpoint": Signal("supply_current_setpoint_a"),
    "PSU.Voltage_Limit": Signal("supply_voltage_limit_v"),
    "PV_1.AC_Power": Signal("pv_power_w"),
    "PV_1.DC_Power": Signal("pv_dc_power_w"),
    "PV_1.AC_Voltage": Signal("pv_voltage_v"),
    "PV_1.AC_Frequency": Signal("pv_frequency_hz"),
    "PV_1.Inverter_State": Signal("pv_state"),
    "PV_1.Energy_Total": Signal("pv_energy_wh"),
    "PV_1.Power_Limit": Signal("pv_power_limit_percent"),
    "Weather.Irradiance": Signal("global_horizontal_w_per_m2"),
    "Weather.Air_Temperature": Signal("ambient_temperature_degc"),
    "Weather.Wind_Speed": Signal("wind_speed_m_per_s"),
}
