"""Registers to numbers and back: data types, byte and word orders, bit fields, scaling.

Scaling is the seeds': ``value = round((raw + Offset) * Scalar, Decimal)``; a write is its inverse,
``raw = value / Scalar - Offset``. ``HEX``, ``bool`` and ``bit`` are not scaled. Everything here is
pure; floats are IEEE 754, integers two's complement.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from config.model import Channel, Order
from drivers.errors import Garbled, OutOfRange

WORDS_MAX: Final = 4  # registers of one value

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
_FLOATS: Final = frozenset(("float16", "float32", "float64"))
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
    """Raw numbers to engineering units, a whole block at once."""

    def __init__(self, codings: Sequence[Coding]) -> None:
        """`codings` in the order of the values; those of pattern types pass unchanged."""
        self._offset = np.array([c.offset if c.scaled else 0.0 for c in codings])
        self._scalar = np.array([c.scalar if c.scaled else 1.0 for c in codings])
        rounded = [i for i, c in enumerate(codings) if c.scaled and c.decimal is not None]
        self._rounded = np.array(rounded, dtype=np.intp)
        self._power = np.array([10.0 ** (codings[i].decimal or 0) for i in rounded])
        marks = [(i, _as_raw(c, s)) for i, c in enumerate(codings) for s in c.sentinels]
        self._marked = np.array([i for i, _ in marks], dtype=np.intp)
        self._mark = np.array([s for _, s in marks], dtype=np.float64)

    def __call__(self, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N,) raw numbers -> (N,) engineering units, finite or NaN.

        A sentinel gives NaN, and so does an infinity: neither is a number to act on. Halves round
        to even after multiplication by the power of ten, as numpy does.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            value = (raw + self._offset) * self._scalar
            if len(self._rounded):
                exact = value[self._rounded]
                near = np.rint(exact * self._power) / self._power
                fine = np.abs(exact) >= _WHOLE_FROM / self._power
                value[self._rounded] = np.where(fine, exact, near)
            if len(self._marked):
                value[self._marked[raw[self._marked] == self._mark]] = np.nan
            value[~np.isfinite(value)] = np.nan
        return value


def _as_raw(coding: Coding, sentinel: float) -> float:
    """A declared sentinel as the decoder sees it.

    Data sheets print 0x8000 for the "not implemented" of a signed register, which decodes as
    -32768, and -1 for an unsigned one: both spellings mean the same register. A float is compared
    in its own precision.
    """
    if coding.data_type in _FLOATS:
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


class RegisterDecoder:
    """Decodes the registers of one block; built once, called at every poll."""

    def __init__(self, codings: Sequence[Coding], places: Sequence[int], count: int) -> None:
        """`places` are the first registers of the values, relative to the block of `count`."""
        self._count = count
        self._size = len(codings)
        self._scaling = Scaling(codings)
        alike: dict[tuple[str, int, Order], list[int]] = {}
        for row, coding in enumerate(codings):
            alike.setdefault((coding.data_type, coding.words, coding.byte_order), []).append(row)
        self._groups = [
            _Group(rows, [codings[row] for row in rows], [places[row] for row in rows])
            for rows in alike.values()
        ]

    def __call__(self, data: bytes) -> NDArray[np.float64]:
        """2 * count bytes, as the device sent them -> (N,) engineering units, NaN = no value.

        Raises Garbled where the length is another one.
        """
        if len(data) != 2 * self._count:
            raise Garbled(f"{len(data)} bytes in place of {self._count} registers")
        registers = np.frombuffer(data, dtype=">u2")
        raw = np.empty(self._size, dtype=np.float64)
        with np.errstate(invalid="ignore"):  # a signalling NaN is still a NaN
            for group in self._groups:
                raw[group.rows] = group.numbers(registers)
        return self._scaling(raw)


class _Group:
    """Values of one type, size and byte order; their word orders are in the gather index."""

    def __init__(self, rows: list[int], codings: list[Coding], places: list[int]) -> None:
        self.rows = np.array(rows, dtype=np.intp)
        self._type = codings[0].data_type
        self._swap = codings[0].byte_order == "Little"
        # (n, words), most significant register first
        self._gather = np.array(
            [
                [place + k for k in _significance(coding)]
                for coding, place in zip(codings, places, strict=True)
            ],
            dtype=np.intp,
        )
        self._start = np.array([c.bit_start for c in codings], dtype=np.uint64)
        self._mask = np.array([_field_mask(c) >> c.bit_start for c in codings], dtype=np.uint64)

    def numbers(self, registers: NDArray[np.uint16]) -> NDArray[np.float64]:
        words = registers[self._gather]
        if self._swap:
            words = words.byteswap()
        if self._type in NUMBERS:
            layout = ">" + NUMBERS[self._type][0]
            numbers = words.view(layout).ravel()
        else:
            numbers = self._pattern(words)
        return numbers.astype(np.float64)

    def _pattern(self, words: NDArray[np.uint16]) -> NDArray[np.uint64]:
        whole = np.zeros(len(words), dtype=np.uint64)
        for column in range(words.shape[1]):
            whole = whole << np.uint64(16) | words[:, column].astype(np.uint64)
        if self._type == "bit":
            return whole >> self._start & self._mask
        if self._type == "bool":
            return (whole != 0).astype(np.uint64)
        return whole


class BitDecoder:
    """Decodes a block of coils or discrete inputs to 0 and 1."""

    def __init__(self, places: Sequence[int], count: int) -> None:
        """`places` are the bits of the values, relative to the block of `count` bits."""
        self._places = np.array(places, dtype=np.intp)
        self._bytes = (count + 7) // 8

    def __call__(self, data: bytes) -> NDArray[np.float64]:
        """Packed bits, the first one lowest -> (N,) 0.0 or 1.0. Raises Garbled on other lengths."""
        if len(data) != self._bytes:
            raise Garbled(f"{len(data)} bytes of bits in place of {self._bytes}")
        bits = np.unpackbits(np.frombuffer(data, dtype=np.uint8), bitorder="little")
        return bits[self._places].astype(np.float64)


# ---------------------------------------------------------------- writing


def encode(coding: Coding, value: float) -> tuple[int, ...]:
    """A value in engineering units -> its registers, in the order of their addresses.

    Not for ``bit``, which shares its registers: see `insert_bits`. Integers are rounded to the
    nearest. Raises OutOfRange for NaN, infinity and whatever the type can't hold; nothing wraps.
    """
    assert coding.data_type != "bit"
    if coding.scaled:
        raw = unscaled(coding, value)
        if coding.data_type in _FLOATS:
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
    field = _field_mask(coding)
    number = _whole(coding, value, field >> coding.bit_start)
    whole = _join(coding, registers)
    return _split(coding, (whole & ~field) | number << coding.bit_start)


def field_masks(coding: Coding, value: float) -> tuple[int, int]:
    """AND mask and OR mask that set the field in its register (Modbus function 22).

    For fields of one register. Raises OutOfRange where the field can't hold the value.
    """
    assert coding.words == 1
    (keep,) = _split(coding, ~_field_mask(coding) & 0xFFFF)
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
    mask = _field_mask(coding) if coding.data_type == "bit" else (1 << 16 * coding.words) - 1
    registers = _split(coding, mask)
    return [
        16 * place + bit
        for place, register in enumerate(registers)
        for bit in range(16)
        if register >> bit & 1
    ]


def _field_mask(coding: Coding) -> int:
    return (1 << coding.bit_end + 1) - (1 << coding.bit_start)


def _significance(coding: Coding) -> range:
    """Places of the registers from the most to the least significant."""
    if coding.word_order == "Big":
        return range(coding.words)
    return range(coding.words - 1, -1, -1)


def _swapped(register: int) -> int:
    return (register & 0xFF) << 8 | register >> 8


def _split(coding: Coding, number: int) -> tuple[int, ...]:
    """A whole value as registers in the order of their addresses."""
    registers = [0] * coding.words
    for place in reversed(_significance(coding)):
        registers[place] = number & 0xFFFF
        number >>= 16
    if coding.byte_order == "Little":
        return tuple(_swapped(register) for register in registers)
    return tuple(registers)


def _join(coding: Coding, registers: Sequence[int]) -> int:
    number = 0
    for place in _significance(coding):
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
