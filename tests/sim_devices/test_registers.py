"""Instrument files as the simulators read them, and registers as the devices show them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from drivers.sim.device import ModbusFront
from drivers.sim.modbus_server import RegisterBank
from drivers.sim.registers import DeviceFileError, Slot, get, load_device, put, slots_of

TAGS = {"EquipmentName": "Box", "Communication": "ModbusTcpGeneric", "PortNum": 15000}


def write_site(folder: Path, channels: Any, **tags: Any) -> Path:
    equipment = {"Equipment": {"Box": {"Config": "Box.json"}}}
    (folder / "lab-Config.json").write_text(json.dumps(equipment))
    content = {"EquipmentTags": {**TAGS, **tags}, "Channels": channels}
    (folder / "Box.json").write_text(json.dumps(content))
    return folder


def slot_of(folder: Path, **channel: Any) -> Slot:
    site = write_site(folder, {"X": {"Type": "HRegister", "IOPoint": 7, **channel}})
    return slots_of(load_device(site, "Box"))[0]


@pytest.mark.parametrize(
    ("channel", "value"),
    [
        ({"DataType": "float32"}, 812.5),
        ({"DataType": "float32", "WordOrder": "Little"}, -1.25),
        ({"DataType": "float64", "ByteOrder": "Little"}, 1e-3),
        ({"DataType": "int16", "Scalar": 0.01}, -50.25),
        ({"DataType": "uint16", "Scalar": 0.1, "Offset": -400}, 12.5),
        ({"DataType": "int32"}, -70000.0),
        ({"DataType": "uint32"}, 4e9),
        ({"DataType": "bool"}, 1.0),
        ({"DataType": "bit", "BitStart": 2, "BitEnd": 4}, 5.0),
    ],
)
def test_a_value_comes_back_from_its_registers(
    tmp_path: Path, channel: dict[str, Any], value: float
) -> None:
    slot, bank = slot_of(tmp_path, **channel), RegisterBank()
    put(bank, slot, value)
    assert get(bank, slot) == pytest.approx(value)


def test_a_scaled_value_stands_in_the_register_as_the_seed_has_it(tmp_path: Path) -> None:
    # value = (raw + Offset) * Scalar, so raw = 49.5 / 0.01 - 10
    slot, bank = slot_of(tmp_path, DataType="int16", Scalar=0.01, Offset=10), RegisterBank()
    put(bank, slot, 49.5)
    assert bank.holding[7] == 4940


def test_a_bit_field_leaves_its_neighbours_alone(tmp_path: Path) -> None:
    slot, bank = slot_of(tmp_path, DataType="bit", BitStart=4, BitEnd=7), RegisterBank()
    bank.holding[7] = 0xFFFF
    put(bank, slot, 2.0)
    assert bank.holding[7] == 0xFF2F


def test_what_a_type_cannot_show_becomes_its_nearest_end(tmp_path: Path) -> None:
    slot, bank = slot_of(tmp_path, DataType="uint16"), RegisterBank()
    put(bank, slot, -3.0)
    assert get(bank, slot) == 0.0
    put(bank, slot, 1e6)
    assert get(bank, slot) == 65535.0
    put(bank, slot, math.nan)
    assert get(bank, slot) == 0.0


def test_an_inactive_channel_is_not_served(tmp_path: Path) -> None:
    site = write_site(tmp_path, {"X": {"Active": False}, "Y": {"Type": "Coil", "IOPoint": 1}})
    assert [slot.channel for slot in slots_of(load_device(site, "Box"))] == ["Y"]


def test_every_channel_of_the_demonstration_site_can_be_served() -> None:
    site = Path("config/sites/soec-lab")
    for name in ("Stack", "Gas", "VFD_1", "PV_1", "Weather"):
        assert slots_of(load_device(site, name))


def broken(folder: Path, text: str) -> Path:
    site = write_site(folder, {})
    (site / "Box.json").write_text(text)
    return site


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "no JSON"),
        ("[]", "no instrument file"),
        ('{"Channels": {}}', "EquipmentTags"),
        ('{"EquipmentTags": {"EquipmentName": "B", "Communication": "x"}, "Channels": {}}', "Port"),
        ('{"EquipmentTags": {"PortNum": "a"}, "Channels": {"X": 1}}', "no instrument file"),
    ],
)
def test_a_broken_instrument_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DeviceFileError, match=message):
        load_device(broken(tmp_path, text), "Box")


def test_an_equipment_that_is_not_listed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DeviceFileError, match="lists an equipment Pump"):
        load_device(write_site(tmp_path, {}), "Pump")


def test_a_listed_file_that_is_missing_is_named(tmp_path: Path) -> None:
    site = write_site(tmp_path, {})
    (site / "Box.json").unlink()
    with pytest.raises(DeviceFileError, match=r"Box\.json: No such file"):
        load_device(site, "Box")


@pytest.mark.parametrize(
    ("channel", "message"),
    [
        ({"DataType": "complex64"}, "no register holds the data type complex64"),
        ({"IOPoint": None}, "no address"),
        ({"Scalar": "much"}, "no address, scaling or range"),
    ],
)
def test_a_channel_that_no_register_holds_is_named(
    tmp_path: Path, channel: dict[str, Any], message: str
) -> None:
    with pytest.raises(DeviceFileError, match=message):
        slot_of(tmp_path, **channel)


def test_a_device_refuses_writes_to_what_it_only_shows(tmp_path: Path) -> None:
    site = write_site(
        tmp_path,
        {
            "Shown": {"Type": "HRegister", "IOPoint": 7, "DataType": "uint16"},
            "Set": {"Type": "HRegister", "IOPoint": 8, "DataType": "uint16", "ReadWrite": "RW"},
        },
    )
    front = ModbusFront(load_device(site, "Box"))
    assert front.server.execute(1, bytes((6, 0, 7, 0, 5))) == bytes((0x86, 2))
    both = bytes((16, 0, 7, 0, 2, 4, 0, 5, 0, 6))
    assert front.server.execute(1, both) == bytes((0x90, 2))
    assert front.bank.holding[8] == 0
    assert front.changed == {}
    assert front.server.execute(1, bytes((6, 0, 8, 0, 5))) == bytes((6, 0, 8, 0, 5))
    assert front.changed == {"Set": 5.0}
