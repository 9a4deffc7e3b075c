"""SCPI in text: queries and commands out of channels, numbers out of answers.

Sources: IEEE 488.2 sections 8.7.2 to 8.7.4 (the numbers NR1, NR2, NR3), SCPI-1999 volume 1
sections 7.2.1.4 and 7.2.1.5 (9.9E37 is infinity, 9.91E37 is not a number) and section 21.8
(the error queue).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from config.model import Channel, EquipmentTags
from drivers.codec import Coding, Scaling, unscaled
from drivers.errors import Garbled, OutOfRange, Refused

PORT: Final = 5025  # the port of raw SCPI sockets, registered as "scpi-raw"
VALUE: Final = "{value}"
INFINITY_FROM: Final = 9.9e37
INT16_MIN: Final = -32768
INT16_MAX: Final = 32767

# DataType in lower case -> what the text must be. Float types are decimal numbers of any form.
TYPES: Final = {
    "nr1": "whole",
    "int16": "whole",
    "nr2": "decimal",
    "nr3": "decimal",
    "float32": "decimal",
    "float64": "decimal",
    "bool": "switch",
}
DATA_TYPES: Final = ("NR1", "NR2", "NR3", "Bool", "int16", "float32", "float64")

_NUMBER: Final = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_NO_NUMBERS: Final = frozenset(("NAN", "INF", "+INF", "-INF", "NINF", "INFINITY"))
_ERROR: Final = re.compile(r'([+-]?\d+)\s*,\s*"(.*)"', re.ASCII)
_VISA: Final = re.compile(
    r"TCPIP\d*::(?P<host>\[[^\]]+\]|[^:]+)::(?P<port>\d{1,5})::SOCKET", re.IGNORECASE
)
_SWITCHES: Final = {"1": 1.0, "0": 0.0, "ON": 1.0, "OFF": 0.0}


class Query(NamedTuple):
    """A question, and which item of its comma-separated answer is meant (from 0)."""

    text: str
    item: int


def host_and_port(tags: EquipmentTags) -> tuple[str, int] | None:
    """Where the instrument listens; None where neither key says so in a form we speak."""
    if tags.VISA_address is not None:
        match = _VISA.fullmatch(tags.VISA_address.strip())
        if match is None or not 1 <= int(match["port"]) <= 65535:
            return None
        return match["host"].strip("[]"), int(match["port"])
    if tags.Connection is not None and tags.Connection.IP:
        return tags.Connection.IP, tags.PortNum or PORT
    return None


def terminator(declared: str | None) -> str | None:
    r"""A terminator as characters; None where it is none. Takes ``\n`` spelled out as well."""
    if declared is None:
        return "\n"
    text = declared.replace("\\n", "\n").replace("\\r", "\r")
    text = {"LF": "\n", "CR": "\r", "CRLF": "\r\n", "CR+LF": "\r\n"}.get(text.upper(), text)
    return text if text in ("\n", "\r", "\r\n") else None


def header_of(channel: Channel) -> str:
    """The seeds put a query together from `RequestText` and the text in `IOPoint`."""
    point = "" if channel.IOPoint is None else str(channel.IOPoint)
    return ((channel.RequestText or "") + point).strip()


def query_of(channel: Channel) -> Query | None:
    """What reads the channel; a question mark is added where there is none, as the seeds do."""
    header = header_of(channel)
    if not header:
        return None
    return Query(header if "?" in header else header + "?", channel.ArrayPos or 0)


def first_query_of(channel: Channel) -> str | None:
    """The seeds' `Init_Func`: the text that begins a pass, `Init_Text` in place of RequestText."""
    if str(channel.Init_Func).lower() not in ("true", "1") or not channel.Init_Text:
        return None
    point = "" if channel.IOPoint is None else str(channel.IOPoint)
    text = (channel.Init_Text + point).strip()
    return text if "?" in text else text + "?"


def command_of(channel: Channel) -> str | None:
    """What writes the channel, with ``{value}`` for the number; None where nothing is declared."""
    if channel.WriteText is not None:
        return channel.WriteText.strip() if VALUE in channel.WriteText else None
    header = header_of(channel)
    if not header or "?" in header:
        return None
    return f"{header} {VALUE}"


def coding_of(channel: Channel) -> Coding:
    """Scaling and sentinels of a channel; a switch is not scaled."""
    switch = TYPES[channel.DataType.lower()] == "switch"
    return Coding(
        data_type="bool" if switch else "float64",
        words=4,
        scalar=channel.Scalar,
        offset=channel.Offset,
        decimal=channel.Decimal,
        sentinels=tuple(channel.Sentinels),
    )


def number_text(channel: Channel, value: float) -> str:
    """The text that stands for {value}: the inverse of the scaling, in the channel's type.

    Raises OutOfRange for NaN, infinity, and what the type can't hold.
    """
    data_type = channel.DataType.lower()
    if TYPES[data_type] == "switch":
        if value not in (0.0, 1.0):
            raise OutOfRange(f"{value} is neither 0 nor 1 (Bool)")
        return "1" if value else "0"
    if not math.isfinite(value):
        raise OutOfRange(f"{value} is no number to send")
    raw = unscaled(coding_of(channel), value)
    if abs(raw) >= INFINITY_FROM:
        raise OutOfRange(f"raw number {raw:g} means infinity in SCPI")
    if TYPES[data_type] == "decimal":
        return f"{raw:.12g}"  # twelve digits: what the division adds in noise stays out
    number = round(raw)
    if data_type == "int16" and not INT16_MIN <= number <= INT16_MAX:
        raise OutOfRange(f"raw number {number} is outside {INT16_MIN} to {INT16_MAX} (int16)")
    return str(number)


def number_of(text: str, data_type: str) -> float:
    """One item of an answer -> its number; NaN where the instrument marks no value.

    Raises Garbled where the text is no number of that type.
    """
    item = text.strip(" \t\r\n\x00")
    form = TYPES[data_type.lower()]
    if form == "switch" and item.upper() in _SWITCHES:
        return _SWITCHES[item.upper()]
    if form != "switch" and item.upper() in _NO_NUMBERS:
        return math.nan
    if not _NUMBER.fullmatch(item):
        raise Garbled(f"no {data_type}: {_short(text)}")
    number = float(item)
    if abs(number) >= INFINITY_FROM:
        return math.nan
    if form == "decimal":
        return number
    if number != math.floor(number) or (form == "switch" and number not in (0.0, 1.0)):
        raise Garbled(f"no {data_type}: {_short(text)}")
    if data_type.lower() == "int16" and not INT16_MIN <= number <= INT16_MAX:
        raise Garbled(f"no int16: {_short(text)}")
    return number


class AnswerDecoder:
    """Decodes the answer to one query for the channels that share it."""

    def __init__(self, channels: Sequence[Channel], items: Sequence[int]) -> None:
        """`items` are the positions of the channels' values in the comma-separated answer."""
        self._types = [channel.DataType for channel in channels]
        self._items = list(items)
        self._scaling = Scaling([coding_of(channel) for channel in channels])

    def __call__(self, answer: str) -> NDArray[np.float64]:
        """One line without its terminator -> (N,) engineering units, NaN = no value.

        Raises Garbled where an item is missing or no number.
        """
        parts = answer.split(",")
        if max(self._items) >= len(parts):
            raise Garbled(f"{len(parts)} items, {max(self._items) + 1} expected: {_short(answer)}")
        pairs = zip(self._items, self._types, strict=True)
        raw = np.array([number_of(parts[item], data_type) for item, data_type in pairs])
        return self._scaling(raw)


def judge_confirmation(answer: str) -> None:
    """The answer to a command that asks a question of its own, e.g. ``VOLT 5;:SYST:ERR?``.

    An entry of the error queue with the number 0, a number or ``OK`` is well. Raises Refused for
    another entry of the error queue, Garbled for anything else.
    """
    for part in re.split(r';(?=(?:[^"]*"[^"]*")*[^"]*$)', answer):
        text = part.strip()
        entry = _ERROR.fullmatch(text)
        if entry is not None:
            code = int(entry[1])
            if code != 0:
                # -100 to -199 are command errors: the text itself is wrong, and will stay so.
                raise Refused(
                    f"error {code}: {entry[2]}", code=code, permanent=-199 <= code <= -100
                )
        elif text.upper() != "OK" and not _NUMBER.fullmatch(text):
            raise Garbled(f"no confirmation: {_short(answer)}")


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "...")
