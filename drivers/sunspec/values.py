"""Registers of SunSpec points to numbers and back: types, scale factors, "no value".

``value = raw * 10^scale``, then the channel's own Scalar and Offset (the seeds' scaling).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from config.model import Channel
from drivers.codec import Coding, Scaling, unscaled
from drivers.errors import Garbled, OutOfRange
from drivers.sunspec.models import BIT_FIELDS, NUMBER_TYPES, Address, NumberType, Offset

SCALE_MAX: Final = 10  # of a scale factor, both ways
_FACTOR: Final = NUMBER_TYPES["sunssf"]
_NONE: Final = math.nan


class Decoded(NamedTuple):
    """values (N,) engineering units, NaN = no value; factors: place in the block -> power."""

    values: NDArray[np.float64]
    factors: dict[int, float]


class BlockDecoder:
    """Decodes the registers of one block; built once, called at every poll."""

    def __init__(
        self, addresses: Sequence[Address], channels: Sequence[Channel], first: Offset, count: int
    ) -> None:
        """`first` is where the block begins in its model, `count` its registers."""
        self._count = count
        fields: dict[int, NumberType] = {}
        near: set[int] = set()  # places of the scale factors in the block
        for address in addresses:
            fields[address.at.fixed - first.fixed] = address.type
            if isinstance(address.scale, Offset) and inside(address.scale, first, count):
                near.add(address.scale.fixed - first.fixed)
        fields |= dict.fromkeys(near, _FACTOR)
        order = sorted(fields)
        self._struct = struct.Struct(_layout([(place, fields[place]) for place in order], count))
        self._limits = [(fields[place].low, fields[place].high) for place in order]
        position = {place: i for i, place in enumerate(order)}
        self._near = [(place, position[place]) for place in sorted(near)]
        self._rows = [position[a.at.fixed - first.fixed] for a in addresses]
        self._bits = [(row, *a.bit) for row, a in enumerate(addresses) if a.bit is not None]
        # What scales each row: a number, a number of the block, or one from elsewhere.
        self._powers: list[tuple[int, int]] = []
        self._in_block: list[tuple[int, int]] = []
        self._elsewhere: list[tuple[int, Offset]] = []
        for row, address in enumerate(addresses):
            if isinstance(address.scale, int):
                self._powers.append((row, address.scale))
            elif address.scale is not None and inside(address.scale, first, count):
                self._in_block.append((row, position[address.scale.fixed - first.fixed]))
            elif address.scale is not None:
                self._elsewhere.append((row, address.scale))
        self.far = tuple(dict.fromkeys(offset for _, offset in self._elsewhere))
        self._scaling = Scaling([_coding(c, a) for c, a in zip(channels, addresses, strict=True)])

    def __call__(self, data: bytes, far: Mapping[Offset, float]) -> Decoded:
        """2 * count bytes as the device sent them; `far` has the scale factors of `self.far`.

        Raises Garbled where the length is another one.
        """
        if len(data) != 2 * self._count:
            raise Garbled(f"{len(data)} bytes in place of {self._count} registers")
        numbers = [
            number if low <= number <= high else _NONE
            for number, (low, high) in zip(self._struct.unpack(data), self._limits, strict=True)
        ]
        raw = [float(numbers[place]) for place in self._rows]
        for row, start, width in self._bits:
            number = numbers[self._rows[row]]
            if number == number:  # not NaN
                raw[row] = float(int(number) >> start & (1 << width) - 1)
        for row, power in self._powers:
            raw[row] = scaled(raw[row], power)
        for row, place in self._in_block:
            raw[row] = scaled(raw[row], numbers[place])
        for row, offset in self._elsewhere:
            raw[row] = scaled(raw[row], far[offset])
        factors = {place: float(numbers[position]) for place, position in self._near}
        return Decoded(self._scaling(np.array(raw)), factors)


def inside(offset: Offset, first: Offset, count: int) -> bool:
    """True where a register lies in the `count` registers from `first`, on every device."""
    return offset.varying == first.varying and first.fixed <= offset.fixed < first.fixed + count


def _layout(fields: Sequence[tuple[int, NumberType]], count: int) -> str:
    layout, here = ">", 0
    for place, kind in fields:
        layout += f"{2 * (place - here)}x{kind.code}"
        here = place + kind.words
    return layout + f"{2 * (count - here)}x"


def _coding(channel: Channel, address: Address) -> Coding:
    return Coding(
        data_type="bit" if address.bit is not None else "float64",
        words=4,
        scalar=channel.Scalar,
        offset=channel.Offset,
        decimal=channel.Decimal,
        sentinels=tuple(channel.Sentinels),
    )


def factor_of(data: bytes) -> float:
    """The power of ten in one register; NaN where it is none. Raises Garbled on another length."""
    if len(data) != 2:
        raise Garbled(f"{len(data)} bytes in place of a scale factor")
    power = int.from_bytes(data, "big", signed=True)
    return float(power) if _FACTOR.low <= power <= _FACTOR.high else _NONE


def scaled(raw: float, power: float) -> float:
    """``raw * 10^power``, divided where the power is negative: 485 and -1 are exactly 48.5."""
    if power != power:
        return _NONE
    whole = int(power)
    return raw * 10.0**whole if whole >= 0 else raw / 10.0**-whole


# ---------------------------------------------------------------- writing


def check_writable(address: Address, channel: Channel, value: float) -> None:
    """Refuses what no scale factor makes fit. Raises OutOfRange."""
    raw = _device_value(channel, value)
    if isinstance(address.scale, Offset):
        low, high = address.type.low - 1, address.type.high + 1  # what rounds to the limits
        if not low * 10.0**SCALE_MAX <= raw <= high * 10.0**SCALE_MAX:
            raise OutOfRange(f"{value:g} does not fit into {address.point.type}")
    else:
        encode(address, channel, value, address.scale or 0)


def encode(address: Address, channel: Channel, value: float, power: float) -> bytes:
    """A value in engineering units -> its registers, as they are sent.

    Whole types are rounded to the nearest. Raises OutOfRange for NaN, infinity, what the type
    can't hold, and its marks of "no value"; nothing wraps.
    """
    kind = address.type
    raw = scaled(_device_value(channel, value), -power)
    if not math.isfinite(raw):
        raise OutOfRange(f"{value:g} has no finite raw number")
    if kind.code in "fd":
        try:
            return struct.pack(">" + kind.code, raw)
        except OverflowError:
            raise OutOfRange(f"{value:g} is too large for {address.point.type}") from None
    pattern = address.point.type in BIT_FIELDS or address.point.type.startswith("enum")
    if pattern and raw != math.floor(raw):
        raise OutOfRange(f"{value:g} is no whole number ({address.point.type})")
    number = round(raw)
    if not kind.low <= number <= kind.high:
        text = f"raw number {number} is outside {kind.low:.0f} to {kind.high:.0f}"
        raise OutOfRange(f"{text} ({address.point.type}, scale factor {power:g})")
    return struct.pack(">" + kind.code, number)


def _device_value(channel: Channel, value: float) -> float:
    """What the device shows for a value of the channel: Scalar and Offset taken off."""
    if not math.isfinite(value):
        raise OutOfRange(f"{value} is no number to write")
    coding = Coding("float64", 4, scalar=channel.Scalar, offset=channel.Offset)
    return unscaled(coding, value)
