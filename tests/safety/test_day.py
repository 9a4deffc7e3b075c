"""Whole days of plausible plants, with every trouble of a day: kernel and reference stay equal."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from config import status
from config.load import load_site
from config.site import Site
from safety import layout, reference
from safety.compile import compile_site
from safety.engine import Engine
from safety.layout import ASKER_NAMES, Program
from tests.safety.programs import check_finite, point_table
from tests.safety.sites import EVALUATORS, MS, S, make_site

DAY_NS = 86_400 * S
DEMO = Path(__file__).parents[2] / "config" / "sites" / "soec-lab"

CHANNELS: dict[str, dict[str, Any]] = {
    "Stack.T1": {"Units": "degC"},
    "Stack.T2": {"Units": "degC"},
    "Stack.T3": {"Units": "degC"},
    "Stack.T": {"Expression": "filter(avg(Stack.T1, Stack.T2, Stack.T3), 30s)"},
    "Gas.P": {"Units": "bar"},
    "Grid.Hz": {},
    "Grid.P": {},
    "Heater.T": {"ReadWrite": "RW", "SafeValue": 20, "Units": "degC"},
    "Gas.Valve": {"ReadWrite": "RW", "Type": "Digital", "SafeValue": 0},
    "Inverter.P": {"ReadWrite": "RW", "SafeValue": 0},
    "Fan.Speed": {"ReadWrite": "W"},
}
HEAT_UP = [
    {"To": 300, "Rate": 0.1, "Hold": 600},
    {"To": 800, "Rate": 0.05, "Hold": 1200},
    {"To": 750},
]
MACHINE = {
    "Initial": "Off",
    "States": {
        "Off": {"Hold": {"Heater.T": 20, "Gas.Valve": 0}, "MinTime": 60},
        "Heat_Up": {
            "Ramps": {"Heater.T": {"Segments": HEAT_UP, "PauseWhen": "Stack.T < 700"}},
            "Hold": {"Gas.Valve": 0},
            "MaxTime": 28_800,
            "OnTimeout": "Shutdown",
        },
        "Running": {"Set": {"Heater.T": 750, "Fan.Speed": 80}, "MinTime": 300},
        "Shutdown": {
            "Ramps": {"Heater.T": {"Segments": [{"To": 20, "Rate": 0.2}], "Held": False}},
            "Hold": {"Gas.Valve": 0},
            "MaxTime": 7200,
            "OnTimeout": "Off",
        },
    },
    "Transitions": [
        {"To": "Shutdown", "From": ["Heat_Up", "Running"], "When": "alarm(Hot)", "Urgent": True},
        {"To": "Heat_Up", "From": "Off", "By": ["operator", "schedule"], "When": "Gas.P > 0.7"},
        {"To": "Running", "From": "Heat_Up", "When": "Stack.T > 700 for 1min"},
        {"To": "Shutdown", "By": ["operator", "remote"]},
        {"To": "Off", "From": "Shutdown", "When": "Stack.T < 650"},
    ],
}
VOTE = "vote(2, Stack.T1 > 900, Stack.T2 > 900, Stack.T3 > 900)"


def machine_site() -> Site:
    """A stack with a machine of control states, votes, bypasses and grid functions."""
    function: dict[str, Any] = {"Function": "Expression", "Output": "Inverter.P"}
    return make_site(
        CHANNELS,
        {
            "Hot": {"When": f"{VOTE} degrade drop", "OffDelay": 60},
            "Fast": {"When": "abs(rate(Stack.T1, 5min)) > 0.5", "OnDelay": 30, "Latch": True},
        },
        {"Stack": {"State": "if(Stack.T > 600, 'Warm', if(state(Plant) == 'Off', 'Idle', 'On'))"}},
        {
            "E_Stop": {"When": "Gateway.E_Stop", "Effects": {"Gas.Valve": 0, "Heater.T": 20}},
            "Over": {"When": f"{VOTE} for 10s", "Effects": {"Heater.T": 20}, "BypassMax": 3600},
            "Low_Gas": {"When": "Gas.P < 1 hysteresis 0.2", "Kind": "Interlock",
                        "Effects": {"Gas.Valve": 0}, "BypassMax": 7200, "OnDelay": 60},
            "Ready": {"When": "Gas.P > 0.9", "Kind": "Permissive", "Permits": ["Fan.Speed"]},
        },
        machines={"Plant": MACHINE},
        functions={
            "Droop": {**function, "Role": "Offset", "When": "Gas.P > 0.7",
                      "Value": "curve(Grid.Hz, 49, 10, 49.8, 0, 50.2, 0, 51, -10)"},
            "Export": {**function, "Role": "Maximum", "Value": "100 - filter(Grid.P, 10s)",
                       "BadValue": 0},
            "Follow": {**function, "Role": "Setpoint", "Value": "ramp(Grid.P / 2, 1, 5)"},
            "Least": {**function, "Role": "Minimum", "Value": "Grid.P / (Grid.Hz - 50)"},
        },
    )  # fmt: skip


def limits_of(program: Program) -> dict[int, float]:
    """The limit that each point is first compared with, where there is one."""
    found: dict[int, float] = {}
    for rule in program.rules:
        words = program.code[rule["start"] : rule["stop"]].tolist()
        for at, word in enumerate(words[:-3]):
            is_limit = word in (layout.OP_LIMIT, layout.OP_LIMIT_HYST) and words[at + 1] <= 6
            if is_limit and words[at + 3] < len(program.consts):
                found.setdefault(words[at + 2], float(program.consts[words[at + 3]]))
    return found


class Day:
    """What the inputs of a site are over a day: they wander through their limits, and fail."""

    def __init__(self, site: Site, program: Program, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.limits = limits_of(program)
        self.equipment = sorted({point.equipment for point in site.points})
        self.inputs = [p for p in site.points if p.source in ("device", "gateway")]
        self.faults: dict[int, tuple[float, int, int]] = {}  # row -> value, status, end

    def write(self, rows: NDArray[np.void], now_ns: int) -> None:
        """All inputs at one time of the day."""
        for point in self.inputs:
            row, limit = rows[point.index], self.limits.get(point.index, 50.0)
            part = self.equipment.index(point.equipment)  # its points move together
            turns = (1 + part % 5) * now_ns / DAY_NS
            value = limit * (0.8 + 0.25 * math.sin(2 * math.pi * turns + part))
            value += abs(limit) * float(self.random.normal(0, 0.02))
            if point.kind == "discrete":
                value = float(self.random.random() < 0.02)
            row["value"], row["status"], row["mono_ns"] = value, status.GOOD, now_ns
            fault = self.faults.get(point.index)
            if fault and now_ns < fault[2]:
                row["value"], row["status"] = fault[0], fault[1]

    def trouble(self, now_ns: int) -> None:
        """Now and then a sensor is lost, sticks at nonsense, or oscillates between the two."""
        if self.random.random() > 0.05:
            return
        row = self.inputs[int(self.random.integers(len(self.inputs)))].index
        value = float(self.random.choice([math.nan, math.inf, -math.inf, 1e308, -1e308, 0.0]))
        bad = [status.GOOD, status.BAD_NO_COMMUNICATION, status.UNCERTAIN_LAST_USABLE]
        end_ns = now_ns + int(self.random.integers(1, 1800)) * S
        self.faults[row] = value, int(self.random.choice(bad)), end_ns

    def step_ns(self, scan: int) -> int:
        """Mostly a minute; bursts at the scan period; a clock that steps back."""
        if self.random.random() < 0.01:
            return -int(self.random.integers(1, 600)) * S
        return 100 * MS if scan // 20 % 4 == 0 else 60 * S


def run_day(site: Site, seed: int) -> tuple[int, set[int], set[str]]:
    """A day through kernel and reference; returns scans, rules that changed, states entered."""
    program, findings = compile_site(site)
    assert program is not None, findings
    evaluators = (EVALUATORS["native"], reference.evaluate)
    engines = [Engine(program, evaluate) for evaluate in evaluators]
    tables = [point_table(program) for _ in engines]
    day, changed, states = Day(site, program, seed), set(), set()
    now_ns, scan = 0, 0
    while now_ns < DAY_NS:
        day.trouble(now_ns)
        day.write(tables[0], now_ns)
        tables[1][:] = tables[0]
        act(day.random, engines)
        reset = bool(day.random.random() < 0.02)
        told = [
            engine.scan(rows, now_ns, reset).tolist()
            for engine, rows in zip(engines, tables, strict=True)
        ]
        assert told[0] == told[1], scan
        assert len({rows.tobytes() for rows in tables}) == 1, scan
        assert len({engine.snapshot() for engine in engines}) == 1, scan
        check_finite(engines[0])
        changed.update(told[0])
        states.update(engines[0].mode(at) for at in range(len(program.machines)))
        now_ns, scan = max(now_ns + day.step_ns(scan), 0), scan + 1
    return scan, changed, states


def act(random: np.random.Generator, engines: list[Engine]) -> None:
    """What people do in a day: they bypass causes and ask for states."""
    program = engines[0].program
    for machine, info in enumerate(program.machine_info):
        if random.random() < 0.1:
            position, asker = (
                int(random.integers(len(info.states))),
                str(random.choice(ASKER_NAMES)),
            )
            for engine in engines:
                engine.request(machine, position, asker)
    for rule, about in enumerate(program.info):
        if about.bypass_ns_max and random.random() < 0.005:
            for engine in engines:
                engine.bypass(rule, about.bypass_ns_max // 4)


def test_a_day_of_the_demo_site() -> None:
    site, _ = load_site(DEMO)
    assert site is not None
    scans, changed, _ = run_day(site, seed=1)
    assert scans > 1500
    assert len(changed) > 8


def test_a_day_of_a_site_with_control_states_and_functions() -> None:
    scans, changed, states = run_day(machine_site(), seed=2)
    assert scans > 1500
    assert len(changed) > 5
    assert states == set(MACHINE["States"])  # type: ignore[call-overload]
