"""The registry: which driver speaks what, and the checks that every instrument goes through."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from config.load import require_site
from drivers.registry import (
    PROTOCOLS,
    SEED_NAMES,
    check_instrument,
    check_instruments,
    check_methods,
    protocol_of,
)
from tests.drivers.instruments import REPOSITORY, instrument, modbus

OPTO = {"Type": "Analog", "DataType": "float32", "Module": 1, "Channel": 1}


def test_every_communication_name_has_one_driver_and_none_is_a_seed_name_without() -> None:
    names = [name for protocol in PROTOCOLS for name in protocol.names]
    assert len(names) == len(set(names))
    assert not set(names) & SEED_NAMES
    assert all(protocol_of(name) in PROTOCOLS for name in names)
    assert protocol_of("Opto") is None


@pytest.mark.parametrize("name", sorted(SEED_NAMES))
def test_a_communication_of_the_seed_without_a_driver_is_named_as_such(name: str) -> None:
    (finding,) = check_instrument(instrument({}, Communication=name))
    assert (finding.key, finding.rule) == ("EquipmentTags.Communication", "driver-missing")
    assert f"'{name}' has no driver yet" in finding.message
    assert "ModbusTcpGeneric, ModbusTcp, SCPI" in finding.message


@pytest.mark.parametrize("name", ["modbustcp", "Carrier pigeon", ""])
def test_a_mistyped_communication_is_unknown(name: str) -> None:
    (finding,) = check_instrument(instrument({}, Communication=name))
    assert finding.rule == "driver-missing"
    assert "no Communication that we know" in finding.message


def test_three_channels_on_one_module_are_one_finding_without_a_driver_too() -> None:
    device = instrument(
        {
            "Cell_Temperature": OPTO | {"Channel": 0},
            "Cell_Voltage": OPTO,
            "SOEC_Temp_Setpoint": OPTO | {"ReadWrite": "W"},
            "Control_Valve": OPTO | {"ReadWrite": "W", "DataType": "bool"},
            "Other_Type": OPTO | {"Type": "Digital"},
            "Other_Module": OPTO | {"Module": 2},
        },
        Communication="Opto",
    )
    missing, shared = check_instrument(device)
    assert missing.rule == "driver-missing"
    assert (shared.file, shared.rule, shared.severity) == ("Dev.json", "address-shared", "error")
    assert shared.key == "Channels.Cell_Voltage"
    assert "Cell_Voltage, SOEC_Temp_Setpoint and Control_Valve" in shared.message
    assert "Analog Module 1 Channel 1" in shared.message


def test_an_output_and_its_read_back_may_share_a_module() -> None:
    pair = {"Out": OPTO | {"ReadWrite": "W", "ReadBack": "Shown"}, "Shown": OPTO}
    assert [f.rule for f in check_instrument(instrument(pair, Communication="Opto"))] == [
        "driver-missing"
    ]
    third = pair | {"Third": OPTO}
    rules = check_instrument(instrument(third, Communication="Opto"))
    assert "Out, Shown and Third" in rules[1].message


def test_modules_are_compared_for_a_driver_that_exists_as_well() -> None:
    channels = {
        name: {"Type": "HRegister", "IOPoint": 10 * i, "Module": 1, "Channel": 1}
        for i, name in enumerate(("A", "B"))
    }
    assert [f.rule for f in check_instrument(modbus(channels))] == ["address-shared"]


def test_the_demonstration_site_has_no_finding() -> None:
    assert check_instruments(require_site(REPOSITORY / "config" / "sites" / "soec-lab")) == []


def write_site(folder: Path, opto: dict[str, Any]) -> Path:
    system = {
        "SystemTags": {"SystemName": "T"},
        "Equipment": {
            "Opto": {"Config": "Opto.json"},
            "Off": {"Config": "Off.json", "Active": False},
        },
        "DataSampling": {"Fast": {"FilterKey": "Fast", "Rate": 1}},
    }
    off = {"EquipmentTags": {"EquipmentName": "Off", "Communication": "Nothing"}, "Channels": {}}
    for name, content in (("T-Config", system), ("Opto", opto), ("Off", off)):
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def test_only_active_instruments_and_channels_are_checked(tmp_path: Path) -> None:
    keys = OPTO | {"Tags": ["Fast"]}
    opto = {
        "EquipmentTags": {"EquipmentName": "Opto", "Communication": "Opto"},
        "Channels": {"A": keys, "B": keys | {"Active": False}},
    }
    findings = check_instruments(require_site(write_site(tmp_path, opto)))
    assert [(f.file, f.rule) for f in findings] == [("Opto.json", "driver-missing")]


WRITABLE = {
    "Valve": {"Type": "Coil", "DataType": "bool", "IOPoint": 1},
    "Setpoint": {"Type": "HRegister", "DataType": "int16", "IOPoint": 1, "Scalar": 0.01},
    "Mode": {
        "Type": "HRegister",
        "DataType": "bit",
        "IOPoint": 2,
        "BitStart": 0,
        "States": ["Off", "On", "Purge"],
    },
}


@pytest.mark.parametrize(
    ("channel", "wanted", "message"),
    [
        ("Valve", 5, "5 can't be written to this channel"),
        ("Setpoint", 400, "raw number 40000 is outside -32768 to 32767 (int16)"),
        ("Mode", "Purge", "2 can't be written to this channel"),
        ("Valve", 1, ""),
        ("Valve", True, ""),
        ("Valve", "ON", ""),
        ("Mode", "On", ""),
        ("Setpoint", -300, ""),
        ("Nothing", 5, ""),  # safety/effects.py finds it
    ],
)
def test_a_value_that_a_trip_could_never_write_is_found_before_the_start(
    tmp_path: Path, channel: str, wanted: float | str, message: str
) -> None:
    keys = {"ReadWrite": "RW", "Tags": ["Fast"]}
    tags = {"EquipmentName": "Opto", "Communication": "ModbusTcp", "Connection": {"IP": "::1"}}
    opto = {"EquipmentTags": tags, "Channels": {n: {**w, **keys} for n, w in WRITABLE.items()}}
    step = {"Topic": "Relay/Request/Opto", "Payload": {"Channels": {channel: wanted}}}
    other = {"Topic": "Relay/Request/Gone", "Payload": {"Channels": {channel: wanted}}}
    folder = write_site(tmp_path, opto)
    root = json.loads((folder / "T-Config.json").read_text())
    root["SystemTags"]["Personality"] = "P.json"
    (folder / "T-Config.json").write_text(json.dumps(root))
    (folder / "P.json").write_text(json.dumps({"Components": {"ControlStates": "C.json"}}))
    (folder / "C.json").write_text(json.dumps({"Control_Methods": {"Stop": [other, step]}}))
    site = require_site(folder)
    assert check_instruments(site) == check_methods(site)
    found = [(f.file, f.key, f.rule, f.severity) for f in check_methods(site)]
    if not message:
        assert found == []
        return
    key = f"Control_Methods.Stop[1].Payload.Channels.{channel}"
    assert found == [("C.json", key, "value-not-settable", "error")]
    assert message in check_methods(site)[0].message
