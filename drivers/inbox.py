"""What devices sent by themselves and nobody fetched yet: the newest value of each row.

For protocols whose values are numbers already (or words for states), not registers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from config import status
from config.model import Channel
from config.points import PointDef, state_number
from config.site import Instrument
from drivers.codec import NUMBERS, PATTERNS, Coding, Scaling, encode, unscaled
from drivers.contract import Update
from drivers.errors import OutOfRange
from gateway.core.clock import Clock

TEXT: Final = "string"
DATA_TYPES: Final = ("bool", TEXT, *NUMBERS)

_WORDS: Final = {"on": 1.0, "off": 0.0, "true": 1.0, "false": 0.0}
_TEXT_NUMBER_MAX: Final = 64  # characters


def readable(instrument: Instrument) -> dict[str, Channel]:
    """The channels that a scan class reads."""
    return {
        name: channel
        for name, channel in instrument.channels.items()
        if channel.ReadWrite != "W" and instrument.points[name].scan_class
    }


def coding_of(channel: Channel) -> Coding:
    """Scaling and sentinels of a channel; `bool` and names of states are not scaled."""
    data_type = channel.DataType.lower()
    return Coding(
        data_type="bool" if data_type in PATTERNS or data_type == TEXT else "float64",
        words=4,
        scalar=channel.Scalar,
        offset=channel.Offset,
        decimal=channel.Decimal,
        sentinels=tuple(channel.Sentinels),
    )


def text_number(text: str, states: Sequence[str]) -> float | None:
    """What a text means: a state's name, a number, on, off, true, false; None where it is none."""
    text = text.strip()
    state = state_number(states, text)
    if state is not None:
        return float(state)
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if len(text) > _TEXT_NUMBER_MAX or "_" in text:
        return None
    try:
        return float(text)
    except ValueError:
        return None


def unscaled_value(channel: Channel, value: float, *, text: bool) -> float | str:
    """The raw number of a value, or with `text` the name of its state. Raises OutOfRange."""
    if text or channel.DataType.lower() == TEXT:
        named = math.isfinite(value) and value == math.floor(value)
        if not named or not 0 <= value < len(channel.States) or not channel.States[int(value)]:
            raise OutOfRange(f"{value:g} is no state of this channel (States)")
        return channel.States[int(value)] if text else value
    if not math.isfinite(value):
        raise OutOfRange(f"{value} is no number to send")
    coding = coding_of(channel)
    if not coding.scaled or (coding.scalar == 1 and coding.offset == 0):
        return value
    # Fifteen digits: what the division adds in noise stays out.
    return float(f"{unscaled(coding, value):.15g}")


def raw_value(channel: Channel, value: float) -> float | int | bool | str:
    """What is sent for a value in engineering units, in the channel's DataType.

    Raises OutOfRange for NaN, infinity, a state without a name and what the type can't hold.
    """
    data_type = channel.DataType.lower()
    raw = unscaled_value(channel, value, text=data_type == TEXT)
    if isinstance(raw, str):
        return raw
    if data_type == "bool":
        if raw not in (0.0, 1.0):
            raise OutOfRange(f"{value:g} is neither 0 nor 1 (bool)")
        return bool(raw)
    # Encoding proves that the declared type holds it; what is sent is the number itself.
    words = NUMBERS[data_type][1]
    encode(Coding(data_type, words, scalar=channel.Scalar, offset=channel.Offset), value)
    return round(raw) if data_type.startswith(("int", "uint")) else raw


def whole_in(value: float, bits: int, signed: bool) -> int:
    """The nearest whole number. Raises OutOfRange where `bits` can't hold it."""
    low = -(1 << bits - 1) if signed else 0
    high = (1 << bits - (1 if signed else 0)) - 1
    if not math.isfinite(value) or not low <= round(value) <= high:
        raise OutOfRange(f"{value:g} is outside {low} to {high}")
    return round(value)


class Inbox:
    """Newest raw value, status and stamp of each row; never grows.

    Places are positions in `channels`; `take` makes one Update of all that changed.
    """

    def __init__(self, points: Sequence[PointDef], channels: Sequence[Channel], clock: Clock):
        self._clock = clock
        self._index = np.array([point.index for point in points], dtype=np.int32)
        self._scaling = Scaling([coding_of(channel) for channel in channels])
        self._raw = np.full(len(points), np.nan)
        self._codes = np.zeros(len(points), dtype=np.uint32)
        self._utc_ns = np.zeros(len(points), dtype=np.int64)
        self._known: set[int] = set()  # places that have had a value
        self._waiting: dict[int, None] = {}  # places, in the order of their arrival

    def put(
        self, place: int, raw: float, code: int = status.GOOD, utc_ns: int | None = None
    ) -> None:
        """A value came; NaN = the device marks "no value".

        Without `utc_ns`, or with one from the future, it is stamped now.
        """
        now_ns = self._clock.utc_ns()
        self._raw[place] = raw
        self._codes[place] = code
        self._utc_ns[place] = now_ns if utc_ns is None else min(utc_ns, now_ns)
        self._known.add(place)
        self._waiting[place] = None

    def clear(self) -> None:
        """A new session: what came before says nothing any more."""
        self._known.clear()
        self._waiting.clear()

    def again(self, places: Sequence[int]) -> None:
        """What these places had last is still so: it goes out once more, with its old stamp."""
        self._waiting |= dict.fromkeys(place for place in places if place in self._known)

    def take(self) -> Update | None:
        """Everything that waits; None where nothing does."""
        if not self._waiting:
            return None
        places = np.fromiter(self._waiting, dtype=np.intp, count=len(self._waiting))
        self._waiting.clear()
        values = self._scaling(self._raw.copy())[places]
        return Update(self._index[places], values, self._codes[places], self._utc_ns[places])


UTC_NS_MIN: Final = 946_684_800_000_000_000  # 2000-01-01, where a clock without a time begins
UTC_NS_MAX: Final = (1 << 63) - 1


def plausible_utc_ns(utc_ns: int) -> int | None:
    """A device's own time stamp; None for times before 2000 and beyond 64 bits."""
    return utc_ns if UTC_NS_MIN <= utc_ns <= UTC_NS_MAX else None
