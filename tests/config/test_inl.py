"""The published configuration of the seed system loads, and its real defects are reported."""

from __future__ import annotations

from pathlib import Path

from config.check import check_site
from config.load import load_site, require_site
from drivers.registry import check_instruments
from safety.compile import compile_site

INL = Path(__file__).parents[1] / "cases" / "inl"
ROOT = "DESKTOP-R1LQ301-Config.json"
CONTROLS = "SOEC_Personality_ControlStates.json"


def test_it_loads_unchanged() -> None:
    site = require_site(INL)
    assert site.name == "soec"
    periods = {name: c.period_ns // 1_000_000_000 for name, c in site.scan_classes.items()}
    assert periods == {"HighSpeed": 2, "MediumSpeed": 10, "LowSpeed": 30}
    points = {point.tag: point for point in site.points}
    temperature = points["Opto.Cell_Temperature"]
    assert (temperature.units, temperature.scan_class) == ("degC", "MediumSpeed")
    assert temperature.age_ns_max == 31_000_000_000
    assert points["Opto.Control_Valve"].kind == "analog", "its Type is Analog, whatever DataType is"
    assert points["Opto.Control_Valve"].is_output
    rules = [point.tag for point in site.points if point.source == "rule"]
    assert rules == [
        "Alarms.Cell_OverTemp",
        "Alarms.Cell_Overvoltage",
        "States.Opto_SystemState",
        "Controls.Hydrogen_Fire",
    ]


def test_the_whole_check_reports_exactly_its_defects() -> None:
    site, findings = load_site(INL)
    assert site is not None
    _, from_rules = compile_site(site)
    findings = findings + check_site(site) + check_instruments(site) + from_rules
    found = {(f.severity, f.rule, f.file, f.key): f.message for f in findings}
    assert len(found) == len(findings), "no finding twice"
    valve, setpoint = "Channels.Control_Valve", "Channels.SOEC_Temp_Setpoint"
    fire = "Automatic_Controls.Control/Hydrogen_Fire"
    shut = "Control_Methods.GasShutOff[0].Payload.Channels.Control_Valve"
    assert sorted(found) == sorted(
        [
            # the defects of the published action against a hydrogen fire
            ("error", "reference-undefined", CONTROLS, f"{fire}.Data.Hydrogen_Fire_Alarm"),
            ("error", "level-unreachable", CONTROLS, f"{fire}.Rule"),
            ("error", "value-not-settable", CONTROLS, shut),
            ("error", "address-shared", "Opto.json", "Channels.Cell_Voltage"),
            ("warning", "file-missing", ROOT, "SystemTags.Database"),
            # what it lacks
            ("warning", "estop-missing", CONTROLS, "Automatic_Controls.E_Stop"),
            ("warning", "output-unverifiable", "Opto.json", f"{valve}.ReadBack"),
            ("warning", "output-unverifiable", "Opto.json", f"{setpoint}.ReadBack"),
            ("warning", "safe-value-missing", "Opto.json", f"{valve}.SafeValue"),
            ("warning", "safe-value-missing", "Opto.json", f"{setpoint}.SafeValue"),
            ("warning", "secret-inside", "SOEC_Database.json", "DatabaseDetails.Server"),
        ]
    )
    text = {rule: message for (_, rule, _, _), message in found.items()}
    assert "SOEC_Database.json" in text["file-missing"], "it suggests the file that is there"
    for name in ("Cell_Voltage", "SOEC_Temp_Setpoint", "Control_Valve"):
        assert name in text["address-shared"]
    assert '"OFF"' in text["value-not-settable"]
    assert "REDACTED" not in text["secret-inside"], "a password is not printed"
