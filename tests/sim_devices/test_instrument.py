"""The SCPI side of a simulated instrument, message by message."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from drivers.sim.instrument import ERRORS_MAX, Instrument, short_form
from drivers.sim.registers import Device, DeviceFileError

CHANNELS: dict[str, dict[str, Any]] = {
    "Voltage": {"RequestText": "MEAS:VOLT?"},
    "Output": {"RequestText": "OUTP?", "WriteText": "OUTP {value}", "Minimum": 0, "Maximum": 1},
    "Setpoint": {
        "RequestText": "SOUR:CURR?",
        "WriteText": "SOUR:CURR {value}",
        "Minimum": 0,
        "Maximum": 50,
    },
}


def device_of(channels: dict[str, dict[str, Any]]) -> Device:
    return Device("PSU", Path("PSU.json"), "SCPI", "127.0.0.1", 0, 1, {}, channels)


@pytest.fixture
def done() -> list[tuple[str, float]]:
    return []


@pytest.fixture
def supply(done: list[tuple[str, float]]) -> Instrument:
    return Instrument(device_of(CHANNELS), lambda channel, value: done.append((channel, value)))


def test_a_query_answers_the_value_that_stands(supply: Instrument) -> None:
    supply.values["Voltage"] = 12.94
    assert supply.handle("MEAS:VOLT?") == "12.94"


def test_long_forms_and_lower_case_are_the_same_message(supply: Instrument) -> None:
    supply.values["Voltage"] = 2.5
    assert supply.handle("measure:voltage?") == "2.5"
    assert short_form(":SOURce:CURRent?") == "SOUR:CURR?"
    assert short_form("OUTPut") == "OUTP"


def test_a_setting_is_answered_at_once_and_handed_on(
    supply: Instrument, done: list[tuple[str, float]]
) -> None:
    assert supply.handle("SOUR:CURR 12.5") is None
    assert supply.handle("SOUR:CURR?") == "12.5"
    assert done == [("Setpoint", 12.5)]


@pytest.mark.parametrize(("word", "value"), [("ON", 1.0), ("off", 0.0), ("1", 1.0), ("0", 0.0)])
def test_an_output_takes_words_and_numbers(
    supply: Instrument, done: list[tuple[str, float]], word: str, value: float
) -> None:
    supply.handle(f"OUTP {word}")
    assert done == [("Output", value)]


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("FOO:BAR 1", "-113"),
        ("FOO?", "-113"),
        ("SOUR:CURR", "-109"),
        ("SOUR:CURR much", "-120"),
        ("SOUR:CURR 51", "-222"),
        ("SOUR:CURR nan", "-222"),
        ("MEAS:VOLT 5", "-113"),
        ("", "-113"),
    ],
)
def test_a_message_that_is_wrong_changes_nothing_and_stands_in_the_error_queue(
    supply: Instrument, done: list[tuple[str, float]], message: str, error: str
) -> None:
    assert supply.handle(message) is None
    assert done == []
    assert str(supply.handle("SYST:ERR?")).startswith(error)
    assert supply.handle("SYSTem:ERRor?") == '0,"No error"'


def test_the_error_queue_is_bounded_and_says_so(supply: Instrument) -> None:
    for _ in range(ERRORS_MAX + 5):
        supply.handle("FOO 1")
    errors = [str(supply.handle("SYST:ERR?")) for _ in range(ERRORS_MAX)]
    assert errors[-1].startswith("-350")
    assert supply.handle("SYST:ERR?") == '0,"No error"'


def test_reset_takes_every_setting_to_zero(
    supply: Instrument, done: list[tuple[str, float]]
) -> None:
    supply.handle("*RST")
    assert sorted(done) == [("Output", 0.0), ("Setpoint", 0.0)]


def test_it_says_who_it_is(supply: Instrument) -> None:
    assert "PSU" in str(supply.handle("*IDN?"))


def test_what_has_no_value_is_scpis_not_a_number(supply: Instrument) -> None:
    supply.values["Voltage"] = math.nan
    assert supply.handle("MEAS:VOLT?") == "9.91E37"


def test_channels_of_one_query_stand_at_their_places() -> None:
    meter = Instrument(
        device_of(
            {
                "P": {"RequestText": "MEAS:ALL?", "ArrayPos": 2},
                "U": {"RequestText": "MEAS:ALL?", "ArrayPos": 0},
            }
        ),
        lambda channel, value: None,
    )
    meter.values.update(U=230.5, P=1200.0)
    assert meter.handle("MEAS:ALL?") == "230.5,0,1200"


def test_two_channels_at_one_place_are_refused() -> None:
    with pytest.raises(DeviceFileError, match="has the same place"):
        Instrument(
            device_of({"A": {"RequestText": "X?"}, "B": {"RequestText": "X?"}}),
            lambda channel, value: None,
        )


def test_a_write_text_without_a_place_for_the_number_is_refused() -> None:
    with pytest.raises(DeviceFileError, match="WriteText"):
        Instrument(device_of({"A": {"WriteText": "OUTP ON"}}), lambda channel, value: None)
