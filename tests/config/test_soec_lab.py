"""The demo site is right, whole and as lively as its simulators expect."""

from __future__ import annotations

from config.check import check_site
from config.load import load_site
from config.model import SystemConfig
from drivers.registry import check_instruments, protocol_of
from safety.compile import compile_site
from tests.config.building import SOEC_LAB, soec_lab


def test_the_whole_check_finds_nothing() -> None:
    site, findings = load_site(SOEC_LAB)
    assert site is not None
    program, from_rules = compile_site(site)
    assert findings + check_site(site) + check_instruments(site) + from_rules == []
    assert program is not None
    assert program.info[0].name == "Alarms/E_Stop", "the emergency stop comes first"


def test_it_has_six_devices_over_two_protocols() -> None:
    site = soec_lab()
    assert list(site.instruments) == ["Stack", "Gas", "VFD_1", "PSU", "PV_1", "Weather"]
    protocols = {protocol_of(i.tags.Communication) for i in site.instruments.values()}
    assert None not in protocols
    assert len(protocols) == 2
    ports = [i.tags.PortNum for i in site.instruments.values()]
    assert ports == [15021, 15022, 15023, 15024, 15025, 15026]


def test_every_output_has_a_range_or_states_a_safe_value_and_a_read_back() -> None:
    outputs = [point for point in soec_lab().points if point.is_output]
    assert len(outputs) == 13
    for point in outputs:
        assert point.safe_value == point.safe_value, point.tag
        assert point.read_back == point.index, point.tag
        assert point.states or point.value_min < point.value_max, point.tag


def test_every_file_of_the_folder_is_used() -> None:
    site = soec_lab()
    named = {instrument.file for instrument in site.instruments.values()}
    rules = site.personality
    named |= {rules.alarms_file, rules.states_file, rules.controls_file}
    named |= {site.system.SystemTags.Personality, site.system.SystemTags.Database}
    named |= {"soec-lab-Config.json", "link.json"}
    assert named == {path.name for path in SOEC_LAB.iterdir()}


def test_trips_drive_what_the_laboratory_needs() -> None:
    site = soec_lab()
    program, _ = compile_site(site)
    assert program is not None
    driven: dict[str, dict[str, float]] = {}
    for effect in program.effects:
        rule = program.info[effect["rule"]].name
        tag = site.points[program.outputs[effect["output"]] - 1].tag
        driven.setdefault(rule, {})[tag] = float(effect["value"])
    power_off = {"PSU.Output_State": 0.0}
    heat_off = power_off | {"Stack.Heater_Enable": 0.0}
    gas_off = heat_off | {"Stack.Hydrogen_Valve": 0.0, "Stack.Purge_Valve": 1.0}
    assert driven == {
        "Control/E_Stop": gas_off | {"VFD_1.RUN_STOP": 1.0, "VFD_1.FREQUENCY_SETPT": 50.0},
        "Control/Hydrogen_Fire": gas_off | {"Gas.Hydrogen_Setpoint": 0.0},
        "Control/Gas_Leak": gas_off | {"Gas.Hydrogen_Setpoint": 0.0},
        "Control/Loss_Of_Ventilation": gas_off,
        "Control/Loss_Of_Steam": power_off,
        "Control/Stack_OverTemp": heat_off,
    }
    assert all(info.kind == "trip" for info in program.info if info.name.startswith("Control/"))


def test_the_system_file_is_the_model_it_claims() -> None:
    assert isinstance(soec_lab().system, SystemConfig)
    assert soec_lab().scan_period_ns == 50_000_000
    assert {c.period_ns // 1_000_000 for c in soec_lab().scan_classes.values()} == {100, 500, 2000}
