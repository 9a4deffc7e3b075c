"""The OPC UA status codes that Gatepost uses, one row each.

Source: OPC 10000-4 section 7.39 and OPC 10000-8 (data access codes); the numbers are those of
the OPC Foundation's ``StatusCode.csv``. The severity is in the top two bits: 00 good,
01 uncertain, 10 bad.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class StatusRow:
    """A status code: its number, its OPC UA name, and what it means in Gatepost."""

    code: int
    name: str
    meaning: str


GOOD: Final = 0x00000000
GOOD_LOCAL_OVERRIDE: Final = 0x00960000
UNCERTAIN_LAST_USABLE: Final = 0x40900000
UNCERTAIN_NO_COMMUNICATION: Final = 0x408F0000
UNCERTAIN_SENSOR_NOT_ACCURATE: Final = 0x40930000
UNCERTAIN_UNITS_EXCEEDED: Final = 0x40940000
UNCERTAIN_SUB_NORMAL: Final = 0x40950000
BAD: Final = 0x80000000  # status codes from here on are bad
BAD_COMMUNICATION_ERROR: Final = 0x80050000
BAD_DECODING_ERROR: Final = 0x80070000
BAD_TIMEOUT: Final = 0x800A0000
BAD_NO_COMMUNICATION: Final = 0x80310000
BAD_WAITING_FOR_INITIAL_DATA: Final = 0x80320000
BAD_OUT_OF_RANGE: Final = 0x803C0000
BAD_CONFIGURATION_ERROR: Final = 0x80890000
BAD_NOT_CONNECTED: Final = 0x808A0000
BAD_DEVICE_FAILURE: Final = 0x808B0000
BAD_SENSOR_FAILURE: Final = 0x808C0000
BAD_OUT_OF_SERVICE: Final = 0x808D0000

STATUS_ROWS: Final[tuple[StatusRow, ...]] = (
    StatusRow(GOOD, "Good", "read within its age limit"),
    StatusRow(GOOD_LOCAL_OVERRIDE, "GoodLocalOverride", "set by hand at the gateway"),
    StatusRow(
        UNCERTAIN_NO_COMMUNICATION,
        "UncertainNoCommunicationLastUsableValue",
        "the device is silent; the last value is younger than its age limit",
    ),
    StatusRow(UNCERTAIN_LAST_USABLE, "UncertainLastUsableValue", "kept from before a restart"),
    StatusRow(
        UNCERTAIN_SENSOR_NOT_ACCURATE, "UncertainSensorNotAccurate", "at the edge of its span"
    ),
    StatusRow(
        UNCERTAIN_UNITS_EXCEEDED,
        "UncertainEngineeringUnitsExceeded",
        "outside the declared Minimum and Maximum of an input",
    ),
    StatusRow(
        UNCERTAIN_SUB_NORMAL,
        "UncertainSubNormal",
        "calculated, and an input of the expression is uncertain; an alarm decided on a bad one",
    ),
    StatusRow(BAD, "Bad", "calculated from a bad input, or the result is no number"),
    StatusRow(BAD_COMMUNICATION_ERROR, "BadCommunicationError", "the exchange failed"),
    StatusRow(BAD_DECODING_ERROR, "BadDecodingError", "the device answered garbage"),
    StatusRow(BAD_TIMEOUT, "BadTimeout", "the device did not answer in time"),
    StatusRow(BAD_NO_COMMUNICATION, "BadNoCommunication", "silent for longer than the age limit"),
    StatusRow(
        BAD_WAITING_FOR_INITIAL_DATA, "BadWaitingForInitialData", "never read since the start"
    ),
    StatusRow(BAD_OUT_OF_RANGE, "BadOutOfRange", "the value can't be represented"),
    StatusRow(BAD_CONFIGURATION_ERROR, "BadConfigurationError", "the device refuses this address"),
    StatusRow(BAD_NOT_CONNECTED, "BadNotConnected", "no connection to the device"),
    StatusRow(BAD_DEVICE_FAILURE, "BadDeviceFailure", "the device reports a failure of its own"),
    StatusRow(BAD_SENSOR_FAILURE, "BadSensorFailure", "the device marks the value as not there"),
    StatusRow(BAD_OUT_OF_SERVICE, "BadOutOfService", "the channel is not active"),
)

_NAMES: Final = {row.code: row.name for row in STATUS_ROWS}


def is_good(status: int) -> bool:
    """True where the two severity bits say good."""
    return status >> 30 == 0


def is_bad(status: int) -> bool:
    """True where the two severity bits say bad."""
    return status >> 30 >= 2


def worst(first: int, second: int) -> int:
    """The status of the higher severity; the first where both are equal."""
    return second if second >> 30 > first >> 30 else first


def name_of(status: int) -> str:
    """The OPC UA name of a status code, or its number in hex where it is none of ours."""
    return _NAMES.get(status, f"0x{status:08X}")
