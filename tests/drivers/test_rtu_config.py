"""The configuration of Modbus RTU: lines, units, what they cost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from config.findings import SiteError
from config.model import Connection, InstrumentFile
from config.site import Instrument
from drivers.modbus.rtu import PROTOCOL, check, check_lines, cost, plan, settings_of
from drivers.registry import check_instrument, protocol_of
from tests.drivers.instruments import REPOSITORY, instrument, json_examples

FLOAT = {"Type": "HRegister", "IOPoint": 0}


def device(keys: dict[str, Any] | None = None, **place: Any) -> Instrument:
    connection = {"Port": "/dev/ttyUSB0", "Unit": "1"} | place
    tags = {"Communication": "ModbusRTU", "Connection": connection}
    return instrument({"A": FLOAT | (keys or {})}, **tags)


def found(made: Instrument) -> list[tuple[str, str, str]]:
    return [(f.key, f.rule, f.severity) for f in check(made)]


def test_the_name_of_the_seed_has_a_driver() -> None:
    assert protocol_of("ModbusRTU") is PROTOCOL


def test_the_keys_of_the_seed_are_understood() -> None:
    made = device(Stopbits=2, Bytesize=8, Parity="Odd", Baudrate=9600)
    assert found(made) == []
    assert str(settings_of(made)) == "/dev/ttyUSB0 at 9600 8O2"


def test_what_is_left_out_is_the_default_of_the_specification() -> None:
    assert str(settings_of(device())) == "/dev/ttyUSB0 at 19200 8E1"


@pytest.mark.parametrize(
    ("place", "key", "rule", "severity"),
    [
        ({"Port": None}, "Port", "connection-missing", "error"),
        ({"Port": ""}, "Port", "connection-missing", "error"),
        ({"Port": "/dev/tty\0"}, "Port", "connection-missing", "error"),
        ({"Port": "socket://10.0.0.1:502"}, "Port", "connection-missing", "error"),
        ({"Baudrate": 0}, "Baudrate", "serial-setting", "error"),
        ({"Baudrate": -9600}, "Baudrate", "serial-setting", "error"),
        ({"Baudrate": 10**12}, "Baudrate", "serial-setting", "error"),
        ({"Baudrate": 19600}, "Baudrate", "serial-setting", "warning"),
        ({"Parity": "mark"}, "Parity", "serial-setting", "error"),
        ({"Parity": ""}, "Parity", "serial-setting", "error"),
        ({"Stopbits": 1.5}, "Stopbits", "serial-setting", "error"),
        ({"Stopbits": 0.0}, "Stopbits", "serial-setting", "error"),
        ({"Bytesize": 7}, "Bytesize", "serial-setting", "error"),
        ({"Unit": 0}, "Unit", "unit-invalid", "error"),
        ({"Unit": "248"}, "Unit", "unit-invalid", "error"),
        ({"Unit": "left"}, "Unit", "unit-invalid", "error"),
    ],
)
def test_a_wrong_line_is_a_finding(
    place: dict[str, Any], key: str, rule: str, severity: str
) -> None:
    made = device(**place)
    assert found(made) == [(f"EquipmentTags.Connection.{key}", rule, severity)]
    if severity == "error":
        with pytest.raises(SiteError):
            plan(made)


def test_a_channel_may_have_a_unit_of_its_own() -> None:
    assert found(device({"Unit": 300})) == [("Channels.A.Unit", "unit-invalid", "error")]
    assert found(device({"Unit": 0})) == [("Channels.A.Unit", "unit-invalid", "error")]
    (block,) = plan(device({"Unit": 9}))
    assert block.request.unit == 9


def test_no_connection_at_all_is_a_finding() -> None:
    made = device()
    made = replace(made, tags=made.tags.model_copy(update={"Connection": None}))
    assert [rule for _, rule, _ in found(made)] == ["connection-missing"]


def other(name: str, **place: Any) -> Instrument:
    return replace(device(**place), name=name, file=f"{name}.json")


def test_two_ways_to_drive_one_line_are_a_finding() -> None:
    sites = [other("A"), other("B", Parity="E"), other("C", Baudrate=9600), other("D", Port="/x")]
    (finding,) = check_lines(sites)
    assert (finding.file, finding.rule) == ("C.json", "serial-line-settings")
    assert finding.key == "EquipmentTags.Connection.Port"
    assert "A.json drives the port as /dev/ttyUSB0 at 19200 8E1" in finding.message


def test_a_line_with_two_names_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "ttyUSB0").touch()
    (tmp_path / "by-id").symlink_to("ttyUSB0")
    first = other("A", Port=str(tmp_path / "ttyUSB0"))
    second = other("B", Port=str(tmp_path / "by-id"), Baudrate=9600)
    (finding,) = check_lines([first, second])
    assert (finding.file, finding.rule) == ("B.json", "serial-line-settings")
    assert "by-id at 9600" in finding.message
    assert cost(first, plan(first)[0]).line == cost(second, plan(second)[0]).line
    assert check_lines([first, other("C", Port=str(tmp_path / "by-id"))]) == []


def test_a_line_that_is_wrong_by_itself_is_not_compared() -> None:
    assert check_lines([other("A"), other("B", Parity="mark")]) == []


def test_a_block_costs_its_bits_and_two_silences() -> None:
    made = device({"DataType": "float64"}, Baudrate=9600)
    made = replace(made, tags=made.tags.model_copy(update={"ReplyDelay": 0.02}))
    (block,) = plan(made)
    found = cost(made, block)
    # unit, function, first, count, checksum; unit, function, byte count, 4 registers, checksum
    assert (found.request_bytes, found.answer_bytes) == (8, 13)
    assert found.line == "/dev/ttyUSB0"
    character_s = 11 / 9600
    assert found.busy_s == pytest.approx(21 * character_s + 7 * character_s + 0.02)


def test_a_connection_has_the_keys_of_the_seed() -> None:
    assert {"Port", "Stopbits", "Bytesize", "Parity", "Baudrate"} <= set(Connection.model_fields)


@pytest.mark.parametrize("example", json_examples(REPOSITORY / "docs/drivers/modbus-rtu.md"))
def test_every_example_of_the_page_is_in_order(example: str) -> None:
    content = InstrumentFile.model_validate_json(example)
    tags = content.EquipmentTags.model_dump(exclude_unset=True)
    channels = {n: c.model_dump(exclude_unset=True) for n, c in content.Channels.items()}
    made = instrument(channels, **tags)
    assert check(made) == []
    assert len(plan(made)) == 2


def test_depth_says_nothing_on_a_line() -> None:
    made = device()
    made = replace(made, tags=made.tags.model_copy(update={"Depth": 4}))
    assert [(f.key, f.rule, f.severity) for f in check_instrument(made)] == [
        ("EquipmentTags.Depth", "key-without-effect", "warning")
    ]
