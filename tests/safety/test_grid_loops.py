"""Grid functions around a site of numbers: polled meters, slow equipment, batteries that run full.

Virtual time: a scan every 100 ms, measurements that are as old as their poll.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.safety.sites import EVALUATORS, MS, Plant, make_site

DAY = Path(__file__).parents[1] / "cases" / "grid" / "pymfm-balance" / "day.csv"
STEP_S = 0.1
CHANNELS: dict[str, dict[str, Any]] = {
    "Meter.P": {"Units": "kW"},
    "Unit.P": {"Units": "kW"},
    "Unit.Charge": {"Units": "%"},
    "Unit.Setpoint": {"ReadWrite": "RW", "Units": "kW", "SafeValue": 0.0},
}


@dataclass
class Unit:
    """A generator (what it could give) or a battery (`available` None), behind one meter.

    Powers are positive where they are injected. The unit follows its command with a lag; commands
    arrive `write_s` late.
    """

    plant: Plant
    field_of_output: str
    exchange_period_s: float
    power_period_s: float
    lag_s: float = 0.5
    write_s: float = 0.1
    power: float = 0.0
    soc: float = 50.0
    capacity_kwh: float = math.inf
    time_s: float = 0.0
    commands: list[float] = field(default_factory=list)
    powers: list[float] = field(default_factory=list)
    imports: list[float] = field(default_factory=list)

    def run(self, seconds: float, load: Callable[[float], float], available: float = 1e9) -> None:
        """Let time pass."""
        for _ in range(round(seconds / STEP_S)):
            self.step(load(self.time_s), available)

    def step(self, load: float, available: float) -> None:
        """One scan: the world moves, polls land, the functions decide."""
        late = self.commands[-1 - round(self.write_s / STEP_S)] if len(self.commands) > 5 else 0.0
        wanted = min(late, available)
        self.power += (wanted - self.power) * STEP_S / (self.lag_s + STEP_S)
        self.soc -= self.power * STEP_S / 36.0 / self.capacity_kwh
        self.time_s += STEP_S
        if self._due(self.exchange_period_s, 0.0):
            self.plant.set("Meter.P", load - self.power)
        if self._due(self.power_period_s, 0.37):  # polls are not in step with one another
            self.plant.set("Unit.P", self.power)
            self.plant.set("Unit.Charge", self.soc)
        self.plant.scan(100 * MS)
        command = float(self.plant.engine.outputs[self.field_of_output][0])
        self.commands.append(command if math.isfinite(command) else 0.0)
        self.powers.append(self.power)
        self.imports.append(load - self.power)

    def _due(self, period_s: float, phase: float) -> bool:
        ticks = round(period_s / STEP_S)
        return len(self.powers) % ticks == int(ticks * phase)

    def swing(self, seconds: float) -> float:
        """How far the power moved within the last seconds."""
        last = self.powers[-round(seconds / STEP_S) :]
        return max(last) - min(last)


def unit(
    function: dict[str, Any], role: str, exchange_s: float, power_s: float, **keys: Any
) -> Unit:
    """A unit with one function at its setpoint or limit."""
    site = make_site(CHANNELS, functions={"F": {"Output": "Unit.Setpoint", **function}})
    plant = Plant(site, EVALUATORS["kernel"])
    plant.set("Meter.P", 0.0)
    plant.set("Unit.P", 0.0)
    plant.set("Unit.Charge", keys.get("soc", 50.0))
    return Unit(plant, role, exchange_s, power_s, **keys)


def export_limit(exchange_s: float, power_s: float, constant_s: float, **keys: Any) -> Unit:
    """A PV inverter that may export 5 kW."""
    function = {
        "Function": "ExportLimit",
        "Exchange": "Meter.P",
        "Power": "Unit.P",
        "Limit": 5.0,
        "TimeConstant": constant_s,
        **keys,
    }
    return unit(function, "high", exchange_s, power_s)


def constant(load: float, _time_s: float) -> float:
    """A load that does not change."""
    return load


PERIODS = list(product((0.2, 1.0, 2.0, 5.0), repeat=2))


@pytest.mark.parametrize(("exchange_s", "power_s"), PERIODS)
def test_an_export_limit_holds_and_comes_to_rest(exchange_s: float, power_s: float) -> None:
    constant_s = 2 * max(exchange_s, power_s)
    pv = export_limit(exchange_s, power_s, constant_s)
    pv.run(20 * constant_s, lambda _: 3.0, available=20.0)
    assert -pv.imports[-1] == pytest.approx(5.0, abs=0.01)
    pv.run(20 * constant_s, lambda _: 0.5, available=20.0)  # the load goes: 7.5 kW are exported
    after = [-power for power in pv.imports[-round(20 * constant_s / STEP_S) :]]
    assert max(after) == pytest.approx(7.5, abs=0.01)
    assert pv.swing(5 * constant_s) < 0.005
    assert -pv.imports[-1] == pytest.approx(5.0, abs=0.005)
    assert min(after) > 4.5  # nor does it swing below


def test_a_time_constant_below_the_polls_swings() -> None:
    """What the check function-too-fast warns of."""
    pv = export_limit(5.0, 0.2, 1.0)
    pv.run(600, lambda _: 3.0, available=20.0)
    assert pv.swing(20) > 5.0


def test_with_a_share_the_delays_of_both_polls_count() -> None:
    pv = export_limit(2.0, 2.0, 8.0, Share=0.5)
    pv.run(300, lambda _: 3.0, available=20.0)
    assert -pv.imports[-1] == pytest.approx(5.0, abs=0.05)
    assert pv.swing(60) < 0.05


def test_an_export_limit_lets_the_sun_in_where_the_limit_is_far() -> None:
    pv = export_limit(1.0, 1.0, 2.0)
    pv.run(60, lambda _: 3.0, available=4.0)
    assert pv.power == pytest.approx(4.0, abs=0.001)
    pv.run(60, lambda _: 3.0, available=20.0)
    assert pv.power == pytest.approx(8.0, abs=0.01)


def test_a_lost_meter_holds_a_generator_to_the_limit_itself() -> None:
    pv = export_limit(1.0, 1.0, 2.0)
    pv.run(60, lambda _: 3.0, available=20.0)
    pv.plant.worsen("Meter.P")
    pv.exchange_period_s = 1e6
    pv.run(60, lambda _: 3.0, available=20.0)
    assert pv.power == pytest.approx(5.0, abs=0.001)
    assert -pv.imports[-1] < 5.0


def battery(function: dict[str, Any], exchange_s: float, power_s: float, **keys: Any) -> Unit:
    """A battery of 100 kW."""
    common = {
        "Exchange": "Meter.P",
        "Power": "Unit.P",
        "StateOfCharge": "Unit.Charge",
        "DischargePower": 100.0,
        "ChargePower": 100.0,
        "TimeConstant": 2 * max(exchange_s, power_s),
    }
    return unit({**common, **function}, "auto", exchange_s, power_s, **keys)


@pytest.mark.parametrize(("exchange_s", "power_s"), PERIODS)
def test_a_balanced_site_exchanges_nothing(exchange_s: float, power_s: float) -> None:
    bess = battery({"Function": "Balance"}, exchange_s, power_s)
    constant_s = 2 * max(exchange_s, power_s)
    for load in (40.0, -60.0, 10.0):
        bess.run(20 * constant_s, partial(constant, load))
        assert bess.imports[-1] == pytest.approx(0.0, abs=0.1)
        assert bess.swing(5 * constant_s) < 0.1


def test_a_peak_is_shaved_until_the_battery_is_empty() -> None:
    shave = {"Function": "PeakShaving", "Limit": 30.0, "ChargeBelow": 20.0}
    bess = battery(shave, 1.0, 1.0, soc=20.0, capacity_kwh=5.0)
    bess.run(60, lambda _: 50.0)
    assert bess.imports[-1] == pytest.approx(30.0, abs=0.1)
    bess.run(600, lambda _: 50.0)
    assert bess.soc == pytest.approx(10.0, abs=0.05)
    assert abs(bess.power) < 1.5  # it ends softly, not by a switch
    assert bess.swing(30) < 0.5
    bess.run(600, lambda _: 5.0)  # charges, and imports no more than ChargeBelow for it
    assert max(bess.imports[-5000:]) <= 20.1
    assert bess.soc > 40.0
    bess.run(3000, lambda _: 5.0)
    assert bess.soc == pytest.approx(90.0, abs=0.05)


def test_two_batteries_that_share_one_site_come_to_rest() -> None:
    """Each takes half of the deviation; together they balance, and neither fights the other."""
    halves = [
        battery({"Function": "Balance", "Share": 0.5, "TimeConstant": 4.0}, 1.0, 1.0)
        for _ in range(2)
    ]
    for _ in range(3000):
        # Each sees what the other gives as load less.
        powers = [one.power for one in halves]
        halves[0].step(50.0 - powers[1], 1e9)
        halves[1].step(50.0 - powers[0], 1e9)
    assert sum(one.power for one in halves) == pytest.approx(50.0, abs=0.2)
    assert all(one.swing(60) < 0.2 for one in halves)


def test_a_ramp_limit_lets_power_rise_at_its_rate() -> None:
    function = {"Function": "RampLimit", "Power": "Unit.P", "Up": 0.1, "Margin": 1.0}
    pv = unit(function, "high", 1.0, 1.0)
    pv.run(120, lambda _: 0.0, available=20.0)
    # The margin at once, then 0.1 kW a second.
    assert pv.power == pytest.approx(1.0 + 0.1 * 120, abs=0.5)
    risen = pv.power
    pv.run(10, lambda _: 0.0, available=2.0)  # a cloud: falling is free
    assert pv.power < 2.1
    pv.run(50, lambda _: 0.0, available=20.0)
    assert pv.power == pytest.approx(2.0 + 1.0 + 0.1 * 50, abs=0.5)
    assert pv.power < risen


def test_the_day_of_pymfm_comes_out_as_pymfm_has_it() -> None:
    function = {
        "Function": "Balance",
        "Exchange": "Meter.P",
        "Power": "0",  # the day's net power is that without the battery
        "StateOfCharge": "Unit.Charge",
        "DischargePower": 300.0,
        "ChargePower": 300.0,
        "StateOfChargeMin": 8.75,
        "StateOfChargeMax": 87.5,
        "Taper": 9.375,
        "TimeConstant": 0.0,
        "Positive": "absorbs",  # pymfm counts charging positive
    }
    bess = unit(function, "auto", 1.0, 1.0)
    soc = 8.75
    with DAY.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 96
    for row in rows:
        bess.plant.set("Meter.P", float(row["net_before_kw"]))
        bess.plant.set("Unit.Charge", soc)
        bess.plant.scan(900_000 * MS)
        power = float(bess.plant.engine.outputs["auto"][0])
        soc += power * 0.25 / 800.0 * 100.0
        assert power == pytest.approx(float(row["battery_kw"]), abs=1e-6), row["time"]
        assert soc == pytest.approx(float(row["soc_percent"]), abs=1e-6), row["time"]
        after = float(row["net_before_kw"]) + power
        assert after == pytest.approx(float(row["net_after_kw"]), abs=1e-6), row["time"]
