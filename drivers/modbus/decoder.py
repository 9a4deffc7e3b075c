"""Registers and bits to numbers: the answers to many requests at once.

Types, orders and scaling are those of drivers/codec.py. Everything here is pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from drivers.codec import NUMBERS, Coding, Scaling, field_mask, significance
from drivers.errors import Garbled


@dataclass(frozen=True, slots=True)
class Field:
    """Where one value lies in a buffer of answers.

    byte   its first register's first byte, or the byte that holds its bit
    bit    of a coil or discrete input: its place in that byte; -1 = the value has registers
    """

    coding: Coding
    byte: int
    bit: int = -1


class Decoder:
    """Decodes the answers to many requests, laid out in one buffer, in a handful of operations.

    Every value is a row of byte positions, least significant first, so that one gather puts all
    values of a type into the machine's order, whatever orders the devices have. Where the first
    blocks are all alike and hold runs of one type, these runs are read as a table, which is
    faster still.
    """

    def __init__(
        self, fields: Sequence[Field], starts: Sequence[int], buffer: NDArray[np.uint8]
    ) -> None:
        """Block b has the fields starts[b] to starts[b + 1]; the buffer's last byte is always 0."""
        self._starts = list(starts)
        self._scaling = Scaling([field.coding for field in fields])
        self._alike = _alike_blocks(fields, self._starts)
        self._width = self._starts[1] if len(self._starts) > 1 else 0
        alike: dict[tuple[str, int], list[int]] = {}
        for row, field in enumerate(fields):
            alike.setdefault(_layout(field), []).append(row)
        self._groups = [
            _Group(data_type, size, rows, fields, self._starts, buffer, self._alike)
            for (data_type, size), rows in alike.items()
        ]

    def __call__(self, first: int, last: int) -> NDArray[np.float64]:
        """The values of the blocks first to last - 1 -> (N,) engineering units, NaN = no value."""
        start, end = self._starts[first], self._starts[last]
        raw = np.empty(end - start, dtype=np.float64)
        table = raw.reshape(last - first, self._width) if last <= self._alike else None
        # A signalling NaN is still a NaN, and an infinite product is no value.
        with np.errstate(over="ignore", invalid="ignore"):
            for group in self._groups:
                if table is not None and group.table is not None:
                    table[:, group.columns] = group.table[first:last]
                    continue
                begin, stop = group.starts[first], group.starts[last]
                if stop - begin == end - start:
                    raw[:] = group.numbers(begin, stop)
                elif begin < stop:
                    raw[group.rows[begin:stop] - start] = group.numbers(begin, stop)
            return self._scaling.part(raw, start, end)


def _layout(field: Field) -> tuple[str, int]:
    """Type and bytes as which a value is gathered."""
    if field.bit >= 0:
        return "coil", 1
    data_type = field.coding.data_type
    return data_type, 2 * NUMBERS[data_type][1] if data_type in NUMBERS else 8


def _alike_blocks(fields: Sequence[Field], starts: list[int]) -> int:
    """So many blocks, from the first on, hold the same types at the same distances."""
    if len(starts) < 2 or starts[1] == 0:
        return 0
    shapes = [
        [(_layout(f), f.bit, _order(f), f.byte - fields[start].byte) for f in fields[start:end]]
        for start, end in pairwise(starts)
    ]
    count = 1
    while count < len(shapes) and shapes[count] == shapes[0]:
        distance = fields[starts[count]].byte - fields[starts[count - 1]].byte
        if distance != fields[starts[1]].byte - fields[0].byte:
            break
        count += 1
    return count


def _order(field: Field) -> Literal[">", "<", ""]:
    """The struct code of a plain order of bytes; empty where words and bytes differ in theirs."""
    coding = field.coding
    if coding.byte_order != coding.word_order and coding.words > 1:
        return ""
    return ">" if coding.byte_order == "Big" else "<"


class _Group:
    """Values of one type.

    rows     (n,) their places among all values
    starts   block b has rows[starts[b] : starts[b + 1]]
    table    (blocks that are alike, n) raw numbers, to be read from the buffer; None where they
             are not a run in each block
    columns  that run
    """

    def __init__(
        self,
        data_type: str,
        size: int,
        rows: list[int],
        fields: Sequence[Field],
        starts: list[int],
        buffer: NDArray[np.uint8],
        alike: int,
    ) -> None:
        self.rows = np.array(rows, dtype=np.intp)
        self.starts = [int(at) for at in np.searchsorted(self.rows, starts)]
        self._type = data_type
        self._size = size
        self._buffer = buffer
        mine = [fields[row] for row in rows]
        places = [_bytes_of(field, size, len(buffer) - 1) for field in mine]
        self._bytes = np.array(places, dtype=np.intp).ravel()
        self._dtype = np.dtype("<" + NUMBERS[data_type][0] if data_type in NUMBERS else f"<u{size}")
        self._shift = np.array([f.coding.bit_start for f in mine], dtype=np.uint64)
        masks = [field_mask(f.coding) >> f.coding.bit_start for f in mine]
        self._mask = np.array(masks, dtype=np.uint64)
        if data_type == "coil":
            self._shift = np.array([field.bit for field in mine], dtype=np.uint64)
        self.columns = slice(0)
        self.table: NDArray[Any] | None = None
        if alike > 1 and data_type in NUMBERS and self.starts[1]:
            self._make_table(rows[: self.starts[1]], fields, starts, alike)

    def _make_table(
        self, rows: list[int], fields: Sequence[Field], starts: list[int], alike: int
    ) -> None:
        """Find the run that the group is in the first block; all blocks up to `alike` have it."""
        first = fields[rows[0]]
        order = _order(first)
        if not order:
            return
        for step, row in enumerate(rows):
            in_run = row == rows[0] + step and fields[row].byte == first.byte + step * self._size
            if not in_run or _order(fields[row]) != order:
                return
        distance = fields[starts[1]].byte - fields[0].byte
        self.columns = slice(rows[0], rows[0] + len(rows))
        self.table = np.ndarray(
            (alike, len(rows)),
            self._dtype.newbyteorder(order),
            self._buffer.data,
            first.byte,
            (distance, self._size),
        )

    def numbers(self, start: int, end: int) -> NDArray[Any]:
        """The raw numbers of the values start to end - 1 of the group."""
        gathered = self._buffer.take(self._bytes[start * self._size : end * self._size])
        numbers: NDArray[Any] = gathered.view(self._dtype)
        if self._type == "coil":
            numbers = numbers >> self._shift[start:end] & np.uint64(1)
        elif self._type == "bit":
            numbers = numbers >> self._shift[start:end] & self._mask[start:end]
        elif self._type == "bool":
            numbers = numbers != 0
        return numbers


def _bytes_of(field: Field, size: int, zero: int) -> list[int]:
    """Positions of a value's bytes, the least significant first, filled up to `size`."""
    if field.bit >= 0:
        return [field.byte]
    coding = field.coding
    high, low = (0, 1) if coding.byte_order == "Big" else (1, 0)
    places = []
    for register in reversed(significance(coding)):
        places += [field.byte + 2 * register + low, field.byte + 2 * register + high]
    return places + [zero] * (size - len(places))


class _BlockDecoder:
    """Decodes the answers to one request; built once, called at every poll."""

    def __init__(self, fields: Sequence[Field], size: int) -> None:
        self._size = size
        self._buffer = np.zeros(size + 1, dtype=np.uint8)
        self._decoder = Decoder(fields, [0, len(fields)], self._buffer)

    def __call__(self, data: bytes) -> NDArray[np.float64]:
        """The bytes as the device sent them -> (N,) engineering units, NaN = no value.

        Raises Garbled where there are more or fewer than expected.
        """
        if len(data) != self._size:
            raise Garbled(f"{len(data)} bytes of values in place of {self._size}")
        self._buffer[:-1] = np.frombuffer(data, dtype=np.uint8)
        return self._decoder(0, 1)


class RegisterDecoder(_BlockDecoder):
    """Decodes the registers of one block."""

    def __init__(self, codings: Sequence[Coding], places: Sequence[int], count: int) -> None:
        """`places` are the first registers of the values, relative to the block of `count`."""
        fields = [Field(c, 2 * place) for c, place in zip(codings, places, strict=True)]
        super().__init__(fields, 2 * count)


class BitDecoder(_BlockDecoder):
    """Decodes a block of coils or discrete inputs, packed with the first one lowest, to 0 and 1."""

    def __init__(self, places: Sequence[int], count: int) -> None:
        """`places` are the bits of the values, relative to the block of `count` bits."""
        coil = Coding("bool", 1)
        fields = [Field(coil, place // 8, place % 8) for place in places]
        super().__init__(fields, (count + 7) // 8)
