"""What the demo site's rules do: each trip on its cause, and none in normal operation."""

from __future__ import annotations

import numpy as np
import pytest

from config import status
from config.points import POINT
from config.site import Site
from safety import layout, reference
from safety.compile import compile_site
from safety.engine import Engine
from tests.config.building import soec_lab

NORMAL = {
    "Stack.Cell_Temperature": 800.0,
    "Stack.Cell_Temperature_2": 801.0,
    "Stack.Cell_Temperature_3": 799.0,
    "Stack.Cell_Voltage": 1.3,
    "Gas.Steam_Flow": 20.0,
    "Gas.Hydrogen_Flow": 5.0,
    "Gas.Hydrogen_Pressure": 30.0,
    "VFD_1.Ventilation_Flow": 1200.0,
    "PSU.Current": 30.0,
}


class Lab:
    """The demo site's program over a table of values, a scan every 50 ms of its own time."""

    def __init__(self) -> None:
        self.site: Site = soec_lab()
        program, findings = compile_site(self.site)
        assert program is not None
        assert findings == []
        self.program = program
        self.engine = Engine(program, reference.evaluate)
        self.rows = np.zeros(len(self.site.points) + 1, dtype=POINT)
        self.rows["status"][0] = status.BAD_CONFIGURATION_ERROR
        self.now_ns = 0
        self.set(**NORMAL)

    def set(self, **values: float) -> None:
        for tag, value in values.items():
            self.rows["value"][self.site.index[tag]] = value

    def spoil(self, equipment: str) -> None:
        for point in self.site.points:
            if point.equipment == equipment:
                self.rows["status"][point.index] = status.BAD_NO_COMMUNICATION

    def run(self, seconds: float, *, reset: bool = False) -> None:
        for _ in range(round(seconds / 0.05)):
            self.now_ns += 50_000_000
            self.rows["mono_ns"] = self.now_ns
            self.engine.scan(self.rows, self.now_ns, reset)

    def active(self, kind: str) -> set[str]:
        infos = enumerate(self.program.info)
        return {info.name for i, info in infos if info.kind == kind and self.engine.active[i]}

    def demanded(self) -> dict[str, float]:
        """What trips and interlocks demand; what a control state holds is no protection."""
        engine = self.engine
        demands = zip(self.program.outputs, engine.demand, engine.cause, strict=True)
        return {
            self.site.points[index - 1].tag: float(value)
            for index, value, cause in demands
            if not np.isnan(value) and cause > layout.CAUSE_MACHINE_FROM
        }

    def ask(self, state: str) -> str:
        """Ask for a state of the machine as operator, and scan; why it was refused, or nothing."""
        position = self.program.machine_info[0].states.index(state)
        reason = self.engine.refusal(0, position, "operator")
        if not reason:
            self.engine.request(0, position, "operator")
            self.run(0.05)
        return reason

    def state(self, name: str) -> str:
        row = [info.name for info in self.program.info].index(name)
        return self.program.strings[self.engine.level[row]]


@pytest.fixture
def lab() -> Lab:
    made = Lab()
    made.run(0.1)
    return made


def test_normal_operation_raises_nothing(lab: Lab) -> None:
    lab.run(20)
    assert lab.active("trip") == lab.active("alarm") == set()
    assert lab.demanded() == {}
    assert lab.state("Stack/Thermal") == "Hot"
    assert lab.state("Stack/Flow") == "Running"


@pytest.mark.parametrize(
    ("cause", "alarm", "before_s", "after_s"),
    [
        ({"Stack.E_Stop_Button": 1.0}, "E_Stop", 0.0, 0.05),
        ({"Gateway.E_Stop": 1.0}, "E_Stop", 0.0, 0.05),
        ({"Stack.Hydrogen_Fire": 1.0}, "Hydrogen_Fire", 0.0, 0.05),
        ({"Stack.Gas_Leak": 1.0}, "Gas_Leak", 0.4, 0.2),
        ({"VFD_1.Ventilation_Flow": 399.0}, "Loss_Of_Ventilation", 1.9, 0.2),
        ({"Gas.Steam_Flow": 3.9}, "Loss_Of_Steam", 1.9, 0.2),
        (
            {"Stack.Cell_Temperature": 900.0, "Stack.Cell_Temperature_3": 900.0},
            "Stack_OverTemp",
            0.0,
            0.05,
        ),
    ],
)
def test_each_cause_trips_after_its_delay_and_latches(
    lab: Lab, cause: dict[str, float], alarm: str, before_s: float, after_s: float
) -> None:
    lab.set(**cause)
    lab.run(before_s)
    assert lab.active("trip") == set()
    lab.run(after_s)
    assert lab.active("trip") == {f"Control/{alarm}"}
    assert lab.demanded()["PSU.Output_State"] == 0.0
    lab.set(**dict.fromkeys(cause, 0.0) | {k: v for k, v in NORMAL.items() if k in cause})
    lab.run(1)
    assert lab.active("trip") == {f"Control/{alarm}"}, "a trip latches"
    lab.run(0.05, reset=True)
    lab.run(0.05)
    assert lab.active("trip") == set()
    assert lab.demanded() == {}


def test_one_thermocouple_alone_warns_and_does_not_trip(lab: Lab) -> None:
    lab.set(**{"Stack.Cell_Temperature_2": 1000.0})
    lab.run(2)
    assert lab.active("trip") == set()
    assert lab.active("alarm") == {"Alarms/Stack_HighTemp"}


def test_without_current_no_steam_is_needed(lab: Lab) -> None:
    lab.set(**{"Gas.Steam_Flow": 0.0, "PSU.Current": 0.0})
    lab.run(5)
    assert lab.active("trip") == set()


@pytest.mark.parametrize(
    ("equipment", "trips"),
    [
        ("Stack", {"E_Stop", "Hydrogen_Fire", "Gas_Leak", "Stack_OverTemp"}),
        ("Gas", {"Loss_Of_Steam"}),
        ("VFD_1", {"Loss_Of_Ventilation"}),
        ("PV_1", set()),
        ("Weather", set()),
    ],
)
def test_a_silent_device_trips_what_it_protects(lab: Lab, equipment: str, trips: set[str]) -> None:
    lab.spoil(equipment)
    lab.run(3)
    assert lab.active("trip") == {f"Control/{name}" for name in trips}


def test_it_starts_safe_until_every_protective_input_was_seen() -> None:
    lab = Lab()
    lab.rows["status"][1:] = status.BAD_WAITING_FOR_INITIAL_DATA
    lab.run(1)
    assert lab.engine.startup
    demanded = lab.demanded()
    assert demanded["PSU.Output_State"] == 0.0
    assert demanded["Stack.Hydrogen_Valve"] == 0.0
    assert demanded["Stack.Purge_Valve"] == 1.0
    assert demanded["VFD_1.RUN_STOP"] == 1.0
    assert set(lab.engine.cause[lab.engine.rank > 0]) == {layout.CAUSE_STARTUP}
    lab.rows["status"][1:] = status.GOOD
    lab.run(0.1)
    assert not lab.engine.startup
    assert lab.active("trip") == set(), "the start leaves no latch behind"
    assert lab.demanded() == {}


def test_operation_follows_heat_trips_and_the_operator(lab: Lab) -> None:
    lab.set(**{"Stack.Cell_Temperature": 25.0})
    assert lab.engine.mode(0) == "Off"
    assert lab.ask("Running")
    lab.set(**{"Stack.Cell_Temperature": 800.0})
    lab.run(1.1)
    assert lab.engine.mode(0) == "Hot_Standby"
    lab.set(**{"Gas.Steam_Flow": 2.0, "PSU.Current": 0.0})
    lab.run(0.1)
    assert lab.ask("Running")
    lab.set(**{"Gas.Steam_Flow": 20.0})
    lab.run(0.1)
    assert lab.ask("Running") == ""
    assert lab.engine.mode(0) == "Running"
    lab.set(**{"PSU.Current": 30.0})
    assert lab.ask("Controlled_Shutdown") == ""
    lab.run(5)
    assert lab.engine.mode(0) == "Controlled_Shutdown"
    lab.set(**{"PSU.Current": 0.2})
    lab.run(0.1)
    assert lab.engine.mode(0) == "Hot_Standby"
    lab.set(**{"Stack.Gas_Leak": 1.0})
    lab.run(1)
    assert lab.engine.mode(0) == "Emergency_Shutdown"
    assert lab.ask("Off")
    lab.set(**{"Stack.Gas_Leak": 0.0})
    lab.run(0.5)
    lab.run(0.05, reset=True)
    lab.run(0.1)
    assert lab.ask("Off") == ""
    assert lab.engine.mode(0) == "Off"
