"""What registers mean: data types, byte and word orders, bit fields, scaling; and writing them.

Scaling is the seeds': ``value = round((raw + Offset) * Scalar, Decimal)``; a write is its inverse,
``raw = value / Scalar - Offset``. ``HEX``, ``bool`` and ``bit`` are not scaled. Everything here is
pure; floats are IEEE 754, integers two's complement. Reading is in drivers/modbus/decoder.py.
"""

from __future__ import annotations

import math
import struct
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from config.model import Channel, Order
from drivers.errors import OutOfRange

# Data type -> struct code and registers of the types with a fixed layout.
NUMBERS: Final[dict[str, tuple[str, int]]] = {
    "int16": ("h", 1),
    "uint16": ("H", 1),
    "float16": ("e", 1),
    "int32": ("i", 2),
    "uint32": ("I", 2),
    "float32": ("f", 2),
    "int64": ("q", 4),
    "uint64": ("Q", 4),
    "float64": ("d", 4),
}
# Types that are patterns of bits rather than quantities: never scaled.
PATTERNS: Final = frozenset(("hex", "bool", "bit"))
DATA_TYPES: Final = ("HEX", "bool", "bit", *NUMBERS)

_UNSIGNED: Final = frozenset(("uint16", "uint32", "uint64", "hex"))
FLOATS: Final = frozenset(("float16", "float32", "float64"))
# From here on every float64 is a whole number, so rounding can't change it (2^52).
_WHOLE_FROM: Final = 4503599627370496.0


@dataclass(frozen=True, slots=True)
class Coding:
    """How one value lies in its registers, and what it means.

    data_type            a key of `NUMBERS` or `PATTERNS` (lower case)
    words                registers it takes
    byte_order           of the two bytes within a register
    word_order           of the registers: ``Big`` has the most significant one first
    bit_start, bit_end   of ``bit``: first and last bit of the field, 0 = least significant bit of
                         the whole value
    sentinels            raw numbers that mean "no value"
    """

    data_type: str
    words: int
    byte_order: Order = "Big"
    word_order: Order = "Big"
    bit_start: int = 0
    bit_end: int = 0
    scalar: float = 1.0
    offset: float = 0.0
    decimal: int | None = None
    sentinels: tuple[float, ...] = ()

    @property
    def scaled(self) -> bool:
        """True where Scalar, Offset and Decimal apply."""
        return self.data_type not in PATTERNS


def words_of(channel: Channel) -> int | None:
    """Registers that a channel's value takes; None where its DataType is unknown.

    `Registers` counts for HEX, bool and bit only; the other types have a size of their own.
    """
    data_type = channel.DataType.lower()
    if data_type in NUMBERS:
        return NUMBERS[data_type][1]
    if data_type not in PATTERNS:
        return None
    if channel.Registers is not None:
        return channel.Registers
    if data_type == "bit" and channel.BitEnd is not None:
        return channel.BitEnd // 16 + 1
    if data_type == "bit" and channel.BitStart is not None:
        return channel.BitStart // 16 + 1
    return 1


def coding_of(channel: Channel, byte_order: Order, word_order: Order) -> Coding:
    """The coding of a channel whose keys were checked; the orders are the instrument's defaults."""
    words = words_of(channel)
    assert words is not None, f"unknown DataType {channel.DataType}"
    start = channel.BitStart or 0
    return Coding(
        data_type=channel.DataType.lower(),
        words=words,
        byte_order=channel.ByteOrder or byte_order,
        word_order=channel.WordOrder or word_order,
        bit_start=start,
        bit_end=start if channel.BitEnd is None else channel.BitEnd,
        scalar=channel.Scalar,
        offset=channel.Offset,
        decimal=channel.Decimal,
        sentinels=tuple(channel.Sentinels),
    )


# ---------------------------------------------------------------- reading


class Scaling:
    """Raw numbers to engineering units, many at once."""

    def __init__(self, codings: Sequence[Coding]) -> None:
        """`codings` in the order of the values; those of pattern types pass unchanged."""
        self._offset = _shortest([c.offset if c.scaled else 0.0 for c in codings])
        self._scalar = _shortest([c.scalar if c.scaled else 1.0 for c in codings])
        # What would change nothing is left out; adding 0.0 makes a float's -0.0 a plain 0.0.
        floats = any(c.data_type in FLOATS for c in codings)
        self._adds = floats or bool(np.any(self._offset != 0.0))
        self._scales = bool(np.any(self._scalar != 1.0))
        largest = max((_largest(c) for c in codings), default=0.0)
        self._may_overflow = not largest < math.inf
        self._rounded = [i for i, c in enumerate(codings) if c.scaled and c.decimal is not None]
        self._rounded_rows = np.array(self._rounded, dtype=np.intp)
        self._power = _shortest([10.0 ** (codings[i].decimal or 0) for i in self._rounded])
        self._whole_from = _WHOLE_FROM / self._power
        self._may_be_whole = not bool((largest < self._whole_from).all())
        marks = [(i, _as_raw(c, s)) for i, c in enumerate(codings) for s in c.sentinels]
        self._marked = [i for i, _ in marks]
        self._marked_rows = np.array(self._marked, dtype=np.intp)
        self._mark = np.array([s for _, s in marks], dtype=np.float64)

    def __call__(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N,) raw numbers -> (N,) engineering units, finite or NaN.

        A sentinel gives NaN, and so does an infinity: neither is a number to act on. Halves round
        to even after multiplication by the power of ten, as numpy does.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            return self.part(raw.copy(), 0, len(raw))

    def part(self, raw: NDArray[np.float64], start: int, end: int) -> NDArray[np.float64]:
        """The same for the values start to end - 1 alone; `raw` is used up.

        The caller lets numpy ignore overflows and invalid operations.
        """
        marked = self._sentinels(raw, start, end) if self._marked else None
        value = raw
        if self._adds:
            value += _cut(self._offset, start, end)
        if self._scales:
            value *= _cut(self._scalar, start, end)
        if self._rounded:
            self._round(value, start, end)
        if marked is not None:
            value[marked] = np.nan
        if self._may_overflow:
            finite = np.isfinite(value)
            if np.count_nonzero(finite) != len(finite):
                value[~finite] = np.nan
        return value

    def _sentinels(self, raw: NDArray[np.float64], start: int, end: int) -> NDArray[np.intp]:
        """Which of the raw numbers mean "no value"."""
        first, last = bisect_left(self._marked, start), bisect_left(self._marked, end)
        rows: NDArray[np.intp] = self._marked_rows[first:last] - start
        return rows[raw[rows] == self._mark[first:last]]

    def _round(self, value: NDArray[np.float64], start: int, end: int) -> None:
        first, last = bisect_left(self._rounded, start), bisect_left(self._rounded, end)
        power = _cut(self._power, first, last)
        every = last - first == end - start
        rows = slice(None) if every else self._rounded_rows[first:last] - start
        exact = value[rows]  # a copy, unless every value is rounded
        near = np.multiply(exact, power, out=None if self._may_be_whole else exact)
        np.rint(near, out=near)
        near /= power
        if self._may_be_whole:
            whole = np.abs(exact) >= _cut(self._whole_from, first, last)
            if np.count_nonzero(whole):
                near = np.where(whole, exact, near)
        if self._may_be_whole or not every:
            value[rows] = near


def _largest(coding: Coding) -> float:
    """No value of this coding is larger than that; infinity where it may be anything."""
    if coding.data_type in FLOATS:
        return math.inf
    raw = 2.0 ** (16 * coding.words)
    return (raw + abs(coding.offset)) * abs(coding.scalar) if coding.scaled else raw


def _shortest(numbers: Sequence[float]) -> NDArray[np.float64]:
    """(N,) numbers, or (1,) where all are the same: that one is spread over any part."""
    array = np.array(numbers, dtype=np.float64)
    return array[:1].copy() if len(array) and bool((array == array[0]).all()) else array


def _cut(numbers: NDArray[np.float64], start: int, end: int) -> NDArray[np.float64]:
    return numbers if len(numbers) == 1 else numbers[start:end]


def _as_raw(coding: Coding, sentinel: float) -> float:
    """A declared sentinel as the decoder sees it.

    Data sheets print 0x8000 for the "not implemented" of a signed register, which decodes as
    -32768, and -1 for an unsigned one: both spellings mean the same register. A float is compared
    in its own precision.
    """
    if coding.data_type in FLOATS:
        code = NUMBERS[coding.data_type][0]
        try:
            return float(struct.unpack(code, struct.pack(code, sentinel))[0])
        except OverflowError:
            return math.nan  # equals nothing
    bits = 16 * coding.words
    if coding.data_type.startswith("int") and 2.0 ** (bits - 1) <= sentinel < 2.0**bits:
        return sentinel - 2.0**bits
    if coding.data_type in _UNSIGNED and -(2.0 ** (bits - 1)) <= sentinel < 0:
        return sentinel + 2.0**bits
    return sentinel


# ---------------------------------------------------------------- writing


def encode(coding: Coding, value: float) -> tuple[int, ...]:
    """A value in engineering units -> its registers, in the order of their addresses.

    Not for ``bit``, which shares its registers: see `insert_bits`. Integers are rounded to the
    nearest. Raises OutOfRange for NaN, infinity and whatever the type can't hold; nothing wraps.
    """
    assert coding.data_type != "bit"
    if coding.scaled:
        raw = unscaled(coding, value)
        if coding.data_type in FLOATS:
            number = _float_bits(coding, raw)
        else:
            number = _integer_bits(coding, raw)
    else:
        limit = 1 if coding.data_type == "bool" else (1 << 16 * coding.words) - 1
        number = _whole(coding, value, limit)
    return _split(coding, number)


def insert_bits(coding: Coding, registers: Sequence[int], value: float) -> tuple[int, ...]:
    """The registers with the bit field set to `value`, all other bits as they were.

    Raises OutOfRange where the field can't hold the value.
    """
    field = field_mask(coding)
    number = _whole(coding, value, field >> coding.bit_start)
    whole = _join(coding, registers)
    return _split(coding, (whole & ~field) | number << coding.bit_start)


def field_masks(coding: Coding, value: float) -> tuple[int, int]:
    """AND mask and OR mask that set the field in its register (Modbus function 22).

    For fields of one register. Raises OutOfRange where the field can't hold the value.
    """
    assert coding.words == 1
    (keep,) = _split(coding, ~field_mask(coding) & 0xFFFF)
    (put,) = insert_bits(coding, (0,), value)
    return keep, put


def unscaled(coding: Coding, value: float) -> float:
    """``value / Scalar - Offset``. Raises OutOfRange where that is no finite number."""
    try:
        raw = value / coding.scalar - coding.offset
    except (ZeroDivisionError, OverflowError):
        raw = math.nan
    if not math.isfinite(raw):
        raise OutOfRange(f"{value} has no finite raw number")
    return raw


def register_bits(coding: Coding) -> list[int]:
    """The bits that a value occupies, counted from its first register: 16 * register + bit.

    Two values share an address where these meet, the registers' addresses added.
    """
    mask = field_mask(coding) if coding.data_type == "bit" else (1 << 16 * coding.words) - 1
    registers = _split(coding, mask)
    return [
        16 * place + bit
        for place, register in enumerate(registers)
        for bit in range(16)
        if register >> bit & 1
    ]


def field_mask(coding: Coding) -> int:
    """The bits of the whole value that belong to a ``bit`` field."""
    return (1 << coding.bit_end + 1) - (1 << coding.bit_start)


def significance(coding: Coding) -> range:
    """Places of the registers from the most to the least significant."""
    if coding.word_order == "Big":
        return range(coding.words)
    return range(coding.words - 1, -1, -1)


def _swapped(register: int) -> int:
    return (register & 0xFF) << 8 | register >> 8


def _split(coding: Coding, number: int) -> tuple[int, ...]:
    """A whole value as registers in the order of their addresses."""
    registers = [0] * coding.words
    for place in reversed(significance(coding)):
        registers[place] = number & 0xFFFF
        number >>= 16
    if coding.byte_order == "Little":
        return tuple(_swapped(register) for register in registers)
    return tuple(registers)


def _join(coding: Coding, registers: Sequence[int]) -> int:
    number = 0
    for place in significance(coding):
        register = registers[place]
        number = number << 16 | (_swapped(register) if coding.byte_order == "Little" else register)
    return number


def _whole(coding: Coding, value: float, limit: int) -> int:
    if not (math.isfinite(value) and value == math.floor(value) and 0 <= value <= limit):
        raise OutOfRange(f"{value} is no whole number from 0 to {limit} ({coding.data_type})")
    return int(value)


def _integer_bits(coding: Coding, raw: float) -> int:
    bits = 16 * coding.words
    signed = coding.data_type.startswith("int")
    low = -(1 << bits - 1) if signed else 0
    high = (1 << bits - 1) - 1 if signed else (1 << bits) - 1
    number = round(raw)
    if not low <= number <= high:
        raise OutOfRange(f"raw number {number} is outside {low} to {high} ({coding.data_type})")
    return number & ((1 << bits) - 1)


def _float_bits(coding: Coding, raw: float) -> int:
    code = ">" + NUMBERS[coding.data_type][0]
    try:
        return int.from_bytes(struct.pack(code, raw), "big")
    except OverflowError:
        raise OutOfRange(f"raw number {raw} is too large for {coding.data_type}") from None
