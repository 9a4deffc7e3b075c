"""An SCPI instrument made from its instrument file: which message reads and sets which channel.

A channel's `RequestText` is the query that reads it, its `WriteText` the command that sets it,
with ``{value}`` for the number. Headers are compared as SCPI-1999 (volume 1, chapter 6) has them:
any case, long or short form. Errors go to the queue that ``SYST:ERR?`` empties, with the numbers
of SCPI-1999 volume 2, chapter 21.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from drivers.sim.registers import Device, DeviceFileError

ERRORS_MAX: Final = 16

UNDEFINED_HEADER: Final = '-113,"Undefined header"'
MISSING_PARAMETER: Final = '-109,"Missing parameter"'
EXECUTION_ERROR: Final = '-200,"Execution error"'
NO_NUMBER: Final = '-120,"Numeric data error"'
OUT_OF_RANGE: Final = '-222,"Data out of range"'
QUEUE_OVERFLOW: Final = '-350,"Queue overflow"'


def short_form(header: str) -> str:
    """A header in its short form, upper case: ``Source:Current?`` is ``SOUR:CURR?``."""
    query = "?" if header.endswith("?") else ""
    parts = header.removesuffix("?").upper().strip(":").split(":")
    return ":".join(_short_word(part) for part in parts) + query


def _short_word(word: str) -> str:
    """Four letters, or three where the fourth is a vowel; words of up to four stay."""
    if len(word) <= 4 or not word.isalpha():
        return word
    return word[:3] if word[3] in "AEIOU" else word[:4]


def _spoken(message: str) -> tuple[str, str]:
    """A message as header in short form and argument: ``MEAS:VOLT? (@1)`` names output 1."""
    header, _, argument = message.strip().partition(" ")
    return short_form(header), argument.replace(" ", "").upper()


@dataclass(frozen=True, slots=True)
class _Setting:
    """What sets a channel; `before` and `after` stand around the number in the argument."""

    channel: str
    before: str
    after: str
    minimum: float
    maximum: float

    def number(self, argument: str) -> str | None:
        """The text of the number; None where the argument is for another channel."""
        text = argument.replace(" ", "").upper()
        if not (text.startswith(self.before) and text.endswith(self.after)):
            return None
        return text[len(self.before) : len(text) - len(self.after)]


class Instrument:
    """Answers messages from `values` (channel -> engineering value), which the owner keeps fresh.

    on_set  called with channel and value when a client sets one
    """

    def __init__(self, device: Device, on_set: Callable[[str, float], None]) -> None:
        self.values = dict.fromkeys(device.channels, 0.0)
        self.refused: set[str] = set()  # channels that are neither read nor set now
        self._device = device
        self._on_set = on_set
        self._errors: deque[str] = deque(maxlen=ERRORS_MAX)
        self._queries: dict[tuple[str, str], dict[int, str]] = {}
        self._settings: dict[str, list[_Setting]] = {}
        for name, channel in device.channels.items():
            self._add(name, channel)

    def _add(self, name: str, channel: dict[str, Any]) -> None:
        key = f"{self._device.file.name}: Channels.{name}"
        request = channel.get("RequestText")
        if request:
            place = int(channel.get("ArrayPos") or 0)
            answers = self._queries.setdefault(_spoken(str(request)), {})
            if place in answers:
                raise DeviceFileError(f"{key}: {answers[place]} has the same place in {request}")
            answers[place] = name
        text = channel.get("WriteText")
        if text:
            header, _, argument = str(text).strip().partition(" ")
            before, found, after = argument.replace(" ", "").upper().partition("{VALUE}")
            if not found:
                raise DeviceFileError(f"{key}: WriteText has no {{value}} behind the header")
            setting = _Setting(
                name,
                before,
                after,
                float(channel.get("Minimum", -math.inf)),
                float(channel.get("Maximum", math.inf)),
            )
            self._settings.setdefault(short_form(header), []).append(setting)

    def handle(self, message: str) -> str | None:
        """One message in, its answer out; None where there is none."""
        header, _, argument = message.strip().partition(" ")
        common = self._common(header.upper())
        if common is not None:
            return common or None
        header = short_form(header)
        answers = self._queries.get(_spoken(message))
        if answers is not None:
            if not self.refused.isdisjoint(answers.values()):
                self._report(EXECUTION_ERROR)
                return None
            return ",".join(
                _number(self.values[answers[place]]) if place in answers else "0"
                for place in range(max(answers) + 1)
            )
        settings = self._settings.get(header, [])
        for setting in settings:
            number = setting.number(argument)
            if number is not None:
                self._set(setting, number)
                return None
        self._report(OUT_OF_RANGE if settings else UNDEFINED_HEADER)
        return None

    def _common(self, header: str) -> str | None:
        """The messages that every instrument knows; '' = done, None = none of them."""
        if header == "*IDN?":
            return f"Gatepost,{self._device.name} simulator,0,1"
        if header == "*OPC?":
            return "1"
        if header == "*CLS":
            self._errors.clear()
            return ""
        if header == "*RST":
            for setting in (one for group in self._settings.values() for one in group):
                self._on_set(setting.channel, max(setting.minimum, 0.0))
            return ""
        if short_form(header) in ("SYST:ERR?", "SYST:ERR:NEXT?"):
            return self._errors.popleft() if self._errors else '0,"No error"'
        return None

    def _set(self, setting: _Setting, argument: str) -> None:
        if setting.channel in self.refused:
            self._report(EXECUTION_ERROR)
            return
        if not argument:
            self._report(MISSING_PARAMETER)
            return
        switched = {"ON": 1.0, "OFF": 0.0}.get(argument.upper())
        try:
            value = float(argument) if switched is None else switched
        except ValueError:
            self._report(NO_NUMBER)
            return
        if not (math.isfinite(value) and setting.minimum <= value <= setting.maximum):
            self._report(OUT_OF_RANGE)
            return
        self.values[setting.channel] = value
        self._on_set(setting.channel, value)

    def _report(self, error: str) -> None:
        if len(self._errors) == ERRORS_MAX:
            self._errors.pop()
            error = QUEUE_OVERFLOW
        self._errors.append(error)


def _number(value: float) -> str:
    """A number as instruments print it: whole ones without a point, NaN as SCPI's 9.91E37."""
    if math.isnan(value):
        return "9.91E37"
    return str(int(value)) if value == int(value) and abs(value) < 1e9 else f"{value:.6g}"
