"""The registry: which driver speaks what, and the checks that every instrument goes through."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from config.load import require_site
from config.model import EquipmentTags
from config.site import Site
from drivers.registry import (
    PROTOCOLS,
    SEED_NAMES,
    check_demands,
    check_instrument,
    check_instruments,
    protocol_of,
)
from tests.drivers.instruments import REPOSITORY, instrument, modbus

OPTO = {"Type": "Analog", "DataType": "float32", "Module": 1, "Channel": 1}


def test_every_communication_name_has_one_driver_and_none_is_a_seed_name_without() -> None:
    names = [name for protocol in PROTOCOLS for name in protocol.names]
    assert len(names) == len(set(names))
    assert not set(names) & SEED_NAMES
    assert all(protocol_of(name) in PROTOCOLS for name in names)
    assert protocol_of("SingleModbusTcp") is None


# Libraries that a field process only loads for a device that needs them: memory, start-up time.
HEAVY = (
    "aiomqtt",
    "asyncpg",
    "asyncua",
    "cryptography",
    "paho",
    "pymodbus",
    "pyvisa",
    "pyvisa_py",
    "rich",
    "serial",
    "sunspec2",
    "typer",
    "usb",
)


def test_the_registry_loads_no_library_of_a_single_protocol() -> None:
    program = f"import sys, drivers.registry; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert done.stdout == b"[]\n"


@pytest.mark.parametrize("name", sorted(SEED_NAMES))
def test_a_communication_of_the_seed_without_a_driver_is_named_as_such(name: str) -> None:
    (finding,) = check_instrument(instrument({}, Communication=name))
    assert (finding.key, finding.rule) == ("EquipmentTags.Communication", "driver-missing")
    assert f"'{name}' has no driver yet" in finding.message
    assert all(name in finding.message for name in ("ModbusTcpGeneric", "SCPI", "Opto"))


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
        Communication="SingleModbusTcp",
    )
    missing, shared = check_instrument(device)
    assert missing.rule == "driver-missing"
    assert (shared.file, shared.rule, shared.severity) == ("Dev.json", "address-shared", "error")
    assert shared.key == "Channels.Cell_Voltage"
    assert "Cell_Voltage, SOEC_Temp_Setpoint and Control_Valve" in shared.message
    assert "Analog Module 1 Channel 1" in shared.message


def test_an_output_and_its_read_back_may_share_a_module() -> None:
    pair = {"Out": OPTO | {"ReadWrite": "W", "ReadBack": "Shown"}, "Shown": OPTO}
    assert check_instrument(instrument(pair, Communication="Opto")) == []
    third = pair | {"Third": OPTO}
    (shared,) = check_instrument(instrument(third, Communication="Opto"))
    assert "Out, Shown and Third" in shared.message


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
        "EquipmentTags": {"EquipmentName": "Opto", "Communication": "Carrier pigeon"},
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


def writing_site(folder: Path, controls: dict[str, Any]) -> Site:
    """A site with these channels and this file of controls."""
    keys = {"ReadWrite": "RW", "Tags": ["Fast"]}
    tags = {"EquipmentName": "Opto", "Communication": "ModbusTcp", "Connection": {"IP": "::1"}}
    opto = {"EquipmentTags": tags, "Channels": {n: {**w, **keys} for n, w in WRITABLE.items()}}
    folder = write_site(folder, opto)
    root = json.loads((folder / "T-Config.json").read_text())
    root["SystemTags"]["Personality"] = "P.json"
    (folder / "T-Config.json").write_text(json.dumps(root))
    (folder / "P.json").write_text(json.dumps({"Components": {"ControlStates": "C.json"}}))
    (folder / "C.json").write_text(json.dumps(controls))
    return require_site(folder)


def test_values_of_controls_states_and_functions_are_checked_too(tmp_path: Path) -> None:
    valve = {"Opto.Valve": 5}
    ramp = {"Segments": [{"To": 300}, {"To": 400}]}
    limit = {"Role": "Maximum", "Value": "5", "Output": "Opto.Setpoint"}
    site = writing_site(
        tmp_path,
        {
            "Automatic_Controls": {"C": {"When": "Gateway.E_Stop", "Effects": valve}},
            "Control_States": {
                "M": {
                    "Initial": "A",
                    "States": {"A": {"Hold": valve, "Ramps": {"Opto.Setpoint": ramp}},
                               "B": {"Set": valve}},
                }
            },
            "Grid_Functions": {
                "F": {**limit, "BadValue": 400},
                "G": {**limit, "BadValue": 300},
                "H": {**limit, "BadValue": 400, "Role": "Offset"},
            },
        },
    )  # fmt: skip
    assert [f.key for f in check_demands(site) if f.rule == "value-not-settable"] == [
        "Automatic_Controls.C.Effects.Opto.Valve",
        "Control_States.M.States.A.Hold.Opto.Valve",
        "Control_States.M.States.A.Ramps.Opto.Setpoint.Segments[1].To",
        "Control_States.M.States.B.Set.Opto.Valve",
        "Grid_Functions.F.BadValue",
    ]


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
    step = {"Topic": "Relay/Request/Opto", "Payload": {"Channels": {channel: wanted}}}
    other = {"Topic": "Relay/Request/Gone", "Payload": {"Channels": {channel: wanted}}}
    site = writing_site(tmp_path, {"Control_Methods": {"Stop": [other, step]}})
    assert check_instruments(site) == check_demands(site)
    found = [(f.file, f.key, f.rule, f.severity) for f in check_demands(site)]
    if not message:
        assert found == []
        return
    key = f"Control_Methods.Stop[1].Payload.Channels.{channel}"
    assert found == [("C.json", key, "value-not-settable", "error")]
    assert message in check_demands(site)[0].message


# ---------------------------------------------------------------- keys without effect


def told(communication: str, **tags: Any) -> list[str]:
    """Keys of which the check says that they have no effect."""
    found = check_instrument(instrument({}, Communication=communication, **tags))
    return [f.key.removeprefix("EquipmentTags.") for f in found if f.rule == "key-without-effect"]


@pytest.mark.parametrize(
    ("communication", "tags", "keys"),
    [
        ("SunSpec", {"Depth": 4, "GapMax": 0, "BlockMax": 60}, ["Depth", "GapMax"]),
        ("Opto", {"Depth": 4, "GapMax": 0, "WordOrder": "Little"}, ["Depth", "WordOrder"]),
        ("SCPI", {"BlockMax": 60, "SingleRequests": True}, ["BlockMax", "SingleRequests"]),
        (
            "ModbusRTU",
            {"Depth": 4, "Transport": "UDP", "PortNum": 1},
            ["Depth", "PortNum", "Transport"],
        ),
        ("MQTT", {"Connection": {"IP": "10.0.0.1"}, "PortNum": 1883}, ["Connection", "PortNum"]),
        ("ModbusTcp", {"Payload": "Plain", "Server": "mqtt://a"}, ["Payload", "Server"]),
        ("Virtual", {"ReplyDelay": 0.1, "TargetIP": "10.0.0.1"}, ["ReplyDelay", "TargetIP"]),
        ("Ping", {"VISA_address": "ASRL1::INSTR", "Security": "None"}, ["VISA_address"]),
    ],
)
def test_a_key_that_the_driver_does_not_read_is_told(
    communication: str, tags: dict[str, Any], keys: list[str]
) -> None:
    assert told(communication, **tags) == keys


def test_what_says_no_more_than_the_default_is_not_told() -> None:
    """The instrument files of the seed have such keys for all protocols."""
    plain = {"Depth": 1, "GapMax": 8, "ByteOrder": "Big", "Payload": "JSON", "VISA_address": ""}
    for protocol in PROTOCOLS:
        assert told(protocol.names[0], **plain) == []


def test_the_message_names_whom_the_key_is_for() -> None:
    found = check_instrument(instrument({}, Communication="Opto", Payload="Plain"))
    (finding,) = [f for f in found if f.rule == "key-without-effect"]
    assert finding.severity == "warning"
    assert finding.message.startswith("Payload has no effect with Opto; it is for MQTT.")


def test_every_key_of_a_protocol_is_one_of_the_configuration_and_is_read_by_its_driver() -> None:
    source = "".join(
        file.read_text(encoding="utf-8") for file in (REPOSITORY / "drivers").rglob("*.py")
    )
    for protocol in PROTOCOLS:
        for key in protocol.keys:
            assert key in EquipmentTags.model_fields
            assert f"tags.{key}" in source or key == "ReplyDelay", "the plan reads ReplyDelay"
