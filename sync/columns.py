"""The columns of a frame: what makes few bytes of many values, without losing a bit.

Most numbers of a plant have few decimals and move little. So the values of each point stand
together, as whole numbers of their last decimal where that gives back every bit, and each as the
difference to the one before; any other value as the bits in which it differs from the one before.
Times stand in the largest power of ten of nanoseconds that divides them all, and rows without a
value (NaN) take no part. What is left is cut into planes of bytes, and each plane stands in the
shortest of three ways. docs/wire.md has the form byte by byte.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sync.plain import WireError

CODEC: Final = 3  # the form that `encode` writes; `decode` reads 2 as well
RAW: Final = 255  # in the place of a number of decimals: the values stand as their bits
DECIMALS_MAX: Final = 9
TIME_ZEROS_MAX: Final = 9
_NAN: Final = np.uint64(0x7FF8_0000_0000_0000)  # the quiet NaN, which stands for "no value"
_WHOLE_MAX: Final = 2.0**53  # below it float64 holds every whole number
_POWERS: Final = 10.0 ** np.arange(DECIMALS_MAX + 1)

# How a plane stands: all its bytes are one, as they are, or deflated (RFC 1951).
_SAME: Final = 0
_PLAIN: Final = 1
_DEFLATED: Final = 2
_LENGTH: Final = struct.Struct("<I")
_FIRST: Final = struct.Struct("<Q")

# In a plane runs of one byte do most: looking for runs alone makes what level 1 makes in a half to
# a third of its time. Only of what leaves a plane large, and so isn't made of runs, more is tried.
_ZLIB_LEVEL: Final = 1
_ZLIB_STRATEGY: Final = zlib.Z_RLE
_ZLIB_LEVEL_LARGE: Final = 6
_LARGE_RATIO: Final = 0.25
_DEFLATE_FROM_BYTES: Final = 24  # a shorter plane gains nothing


# ---------------------------------------------------------------- streams of words


def _zigzag(numbers: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Small numbers of either sign to small ones without: 0, -1, 1, -2 to 0, 1, 2, 3."""
    return ((numbers << 1) ^ (numbers >> 63)).view(np.uint64)


def _unzigzag(numbers: NDArray[np.uint64]) -> NDArray[np.int64]:
    found: NDArray[np.int64] = (numbers >> np.uint64(1)).view(np.int64)
    found ^= -(numbers & np.uint64(1)).view(np.int64)
    return found


def _stream(words: NDArray[np.uint64]) -> list[bytes]:
    """A width in bytes, then so many planes: the lowest byte of every word first."""
    largest = int(np.bitwise_or.reduce(words)) if len(words) else 0
    width = (largest.bit_length() + 7) // 8
    table = np.ascontiguousarray(words).view(np.uint8).reshape(len(words), 8)
    return [bytes([width]), *(_plane(table[:, at].tobytes()) for at in range(width))]


def _plane(plane: bytes) -> bytes:
    if plane.count(plane[:1]) == len(plane):
        return bytes((_SAME, plane[0]))
    if len(plane) >= _DEFLATE_FROM_BYTES:
        packed = _deflate(plane, _ZLIB_LEVEL, _ZLIB_STRATEGY)
        if _LARGE_RATIO * len(plane) < len(packed):
            other = _deflate(plane, _ZLIB_LEVEL_LARGE, zlib.Z_DEFAULT_STRATEGY)
            packed = min(packed, other, key=len)
        if len(packed) + _LENGTH.size < len(plane):
            return bytes((_DEFLATED,)) + _LENGTH.pack(len(packed)) + packed
    return bytes((_PLAIN,)) + plane


def _deflate(plane: bytes, level: int, strategy: int) -> bytes:
    deflater = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS, 8, strategy)
    return deflater.compress(plane) + deflater.flush()


def _steps(column: NDArray[Any]) -> list[bytes]:
    """The first word of a column of whole numbers, then the stream of the steps from row to row."""
    whole = np.ascontiguousarray(column).astype(np.int64, copy=False)
    return [_FIRST.pack(int(whole[0]) & (2**64 - 1)), *_stream(_zigzag(whole[1:] - whole[:-1]))]


# ---------------------------------------------------------------- the whole block


def encode(rows: NDArray[np.void], constant: int | None, *, numbered: bool = False) -> bytes:
    """The columns of (n,) RECORD rows, n > 0; without status where all rows have `constant`.

    numbered  the rows' sequences go first; a frame's rows are numbered by its header
    """
    parts = _steps(rows["seq"]) if numbered else []
    parts += _steps(rows["point"])
    if constant is None:
        parts += _stream(rows["status"].astype(np.uint64))
    zeros = _zeros(rows["utc_ns"])
    parts += [bytes((zeros,)), *_steps(rows["utc_ns"] // 10**zeros)]
    values = np.ascontiguousarray(rows["value"])
    empty = values.view(np.uint64) == _NAN
    parts += [_plane(empty.tobytes())]
    if not empty.all():
        some = ~empty
        parts += _encode_values(_Groups.of(rows["point"][some]), values[some])
    return b"".join(parts)


def _zeros(times: NDArray[np.int64]) -> int:
    """How many decimal zeros all of the times end with."""
    for zeros in range(TIME_ZEROS_MAX, 0, -1):
        power = 10**zeros
        if int(times[0]) % power == 0 and not (times % power).any():
            return zeros
    return 0


def decode(
    block: bytes,
    rows: NDArray[np.void],
    constant: int | None,
    *,
    numbered: bool = False,
    codec: int = CODEC,
) -> None:
    """Fill in point, status, time and value of (n,) RECORD rows, n > 0. Raises WireError.

    codec  the form of the block, 2 or 3
    """
    cut = _Cut(block)
    count = len(rows)
    if numbered:
        rows["seq"] = cut.steps(count).view(np.uint64)
    points = cut.steps(count)
    if int(points.min()) < 0 or int(points.max()) > 2**32 - 1:
        raise WireError("frame: an index of a point is out of range")
    rows["point"] = points
    if constant is None:
        status = cut.stream(count)
        if int(status.max()) > 2**32 - 1:
            raise WireError("frame: a status is out of range")
        rows["status"] = status
    else:
        rows["status"] = constant
    zeros = cut.take(1)[0] if codec > 2 else 0
    if zeros > TIME_ZEROS_MAX:
        raise WireError(f"frame: times that end with {zeros} zeros")
    rows["utc_ns"] = cut.steps(count) * 10**zeros
    some = ~cut.flags(count) if codec > 2 else np.ones(count, dtype=np.bool_)
    values = np.full(count, _NAN).view(np.float64)
    if some.any():
        values[some] = _decode_values(_Groups.of(rows["point"][some]), cut)
    rows["value"] = values
    cut.end()


def encode_spans(first: int, spans: NDArray[np.int64]) -> bytes:
    """(n, 2) first and last of spans of numbers, ascending, none below `first`, n > 0."""
    before = np.concatenate(([first], spans[:-1, 1] + 1))
    parts = _stream((spans[:, 0] - before).view(np.uint64))
    return b"".join([*parts, *_stream((spans[:, 1] - spans[:, 0]).view(np.uint64))])


def decode_spans(block: bytes, first: int, last: int, count: int) -> list[tuple[int, int]]:
    """The inverse of `encode_spans`; no span ends behind `last`. Raises WireError."""
    cut = _Cut(block)
    distances, sizes = cut.stream(count), cut.stream(count)
    cut.end()
    found: list[tuple[int, int]] = []
    for distance, size in zip(distances.tolist(), sizes.tolist(), strict=True):
        begin = first + distance
        first = begin + size + 1
        found.append((begin, first - 1))
    if first - 1 > last:
        raise WireError("frame: its gaps reach beyond its last number")
    return found


class _Cut:
    """Takes a block apart from its beginning; every length is checked before it is used."""

    def __init__(self, block: bytes) -> None:
        self._rest = memoryview(block)

    def take(self, size: int) -> memoryview:
        """The next bytes."""
        if size > len(self._rest):
            raise WireError("frame: its columns are too short")
        part, self._rest = self._rest[:size], self._rest[size:]
        return part

    def stream(self, count: int) -> NDArray[np.uint64]:
        """(count,) words."""
        width = self.take(1)[0]
        if width > 8:
            raise WireError("frame: a column is wider than 8 bytes")
        table = np.zeros((count, 8), dtype=np.uint8)
        for at in range(width):
            table[:, at] = self._plane(count)
        return table.view("<u8").reshape(count)

    def _plane(self, count: int) -> NDArray[np.uint8] | int:
        form = self.take(1)[0]
        if form == _SAME:
            return self.take(1)[0]
        if form == _PLAIN:
            return np.frombuffer(self.take(count), dtype=np.uint8)
        if form != _DEFLATED:
            raise WireError(f"frame: a plane of the unknown form {form}")
        packed = self.take(_LENGTH.unpack(self.take(_LENGTH.size))[0])
        return np.frombuffer(inflate(packed, count, -zlib.MAX_WBITS), dtype=np.uint8)

    def flags(self, count: int) -> NDArray[np.bool_]:
        """(count,) bytes of 0 or 1."""
        plane = np.broadcast_to(np.asarray(self._plane(count), dtype=np.uint8), (count,))
        if int(plane.max()) > 1:
            raise WireError("frame: a mark is neither 0 nor 1")
        found: NDArray[np.bool_] = plane.astype(np.bool_)
        return found

    def steps(self, count: int) -> NDArray[np.int64]:
        """The inverse of `_steps`; sums wrap as the steps did."""
        words = np.empty(count, dtype=np.uint64)
        words[0] = _FIRST.unpack(self.take(_FIRST.size))[0]
        words[1:] = _unzigzag(self.stream(count - 1)).view(np.uint64)
        return np.cumsum(words, dtype=np.uint64).view(np.int64)

    def end(self) -> None:
        """Raises WireError where something is left."""
        if len(self._rest):
            raise WireError("frame: its columns are too long")


def inflate(data: bytes | memoryview, size: int, window: int = zlib.MAX_WBITS) -> bytes:
    """Deflated data of exactly `size` bytes; never makes more than one byte beyond it."""
    stream = zlib.decompressobj(window)
    try:
        block = stream.decompress(data, size + 1)
    except zlib.error as error:
        raise WireError(f"compressed part: {error}") from None
    if len(block) != size or not stream.eof or stream.unused_data:
        raise WireError("compressed part: its size is not the one that the header promises")
    return block


class _Groups(NamedTuple):
    """Rows by their point, in the order of the points' indexes.

    order   (n,) rows, those of one point behind one another, else as they came
    starts  (m,) where the rows of each point begin in `order`
    sizes   (m,) how many there are
    """

    order: NDArray[np.intp]
    starts: NDArray[np.intp]
    sizes: NDArray[np.intp]

    @classmethod
    def of(cls, points: NDArray[np.uint32]) -> _Groups:
        order = np.argsort(points, kind="stable")
        grouped = points[order]
        starts = np.flatnonzero(np.concatenate(([True], grouped[1:] != grouped[:-1])))
        return cls(order, starts, np.diff(np.append(starts, len(points))))


# ---------------------------------------------------------------- values


def _encode_values(groups: _Groups, values: NDArray[np.float64]) -> list[bytes]:
    grouped = values[groups.order]
    decimals = _decimals(grouped, groups)
    scaled = np.repeat(decimals != RAW, groups.sizes)
    first = np.zeros(len(grouped), dtype=np.bool_)
    first[groups.starts] = True
    words = np.zeros(len(grouped), dtype=np.uint64)
    if scaled.any():
        powers = np.repeat(_POWERS[np.where(decimals == RAW, 0, decimals)], groups.sizes)
        whole = np.rint(grouped[scaled] * powers[scaled]).astype(np.int64)
        words[scaled] = _zigzag(_against_last(whole, first[scaled], np.subtract))
    raw = ~scaled
    if raw.any():
        words[raw] = _against_last(grouped.view(np.uint64)[raw], first[raw], np.bitwise_xor)
    parts = _stream(decimals.astype(np.uint64))
    for chosen in (scaled & first, scaled & ~first, raw):
        parts += _stream(words[chosen])
    return parts


def _decode_values(groups: _Groups, cut: _Cut) -> NDArray[np.float64]:
    decimals = cut.stream(len(groups.sizes))
    if bool(((decimals > DECIMALS_MAX) & (decimals != RAW)).any()):
        raise WireError(f"frame: a value of more than {DECIMALS_MAX} decimals")
    count = len(groups.order)
    scaled = np.repeat(decimals != RAW, groups.sizes)
    first = np.zeros(count, dtype=np.bool_)
    first[groups.starts] = True
    grouped = np.zeros(count)
    words = np.zeros(count, dtype=np.uint64)
    for chosen in (scaled & first, scaled & ~first, ~scaled):
        words[chosen] = cut.stream(int(np.count_nonzero(chosen)))
    powers = np.repeat(_POWERS[np.where(decimals == RAW, 0, decimals)], groups.sizes)
    whole = _summed(_unzigzag(words[scaled]), first[scaled])
    grouped[scaled] = whole / powers[scaled]
    raw = ~scaled
    if raw.any():
        grouped[raw] = _joined(words[raw], first[raw]).view(np.float64)
    values = np.empty(count)
    values[groups.order] = grouped
    return values


def _decimals(grouped: NDArray[np.float64], groups: _Groups) -> NDArray[np.uint8]:
    """Of each point: the fewest decimals that give back every bit of its values, or RAW."""
    found = np.full(len(groups.starts), RAW, dtype=np.uint8)
    open_points = np.arange(len(groups.starts))
    for decimals in range(DECIMALS_MAX + 1):
        # The first row of a point tells most that don't fit, so the others are rarely looked at.
        likely = open_points[_fits(grouped[groups.starts[open_points]], decimals)]
        if len(likely):
            member = np.zeros(len(groups.starts), dtype=np.bool_)
            member[likely] = True
            chosen = np.repeat(member, groups.sizes)
            fits = _fits(grouped[chosen], decimals)
            starts = np.concatenate(([0], np.cumsum(groups.sizes[likely])[:-1]))
            whole = likely[np.logical_and.reduceat(fits, starts)]
            found[whole] = decimals
            open_points = open_points[found[open_points] == RAW]
        if not len(open_points):
            break
    return found


def _fits(values: NDArray[np.float64], decimals: int) -> NDArray[np.bool_]:
    power = _POWERS[decimals]
    with np.errstate(over="ignore", invalid="ignore"):
        whole = np.rint(values * power)
        back = whole / power
    same: NDArray[np.bool_] = back.view(np.uint64) == values.view(np.uint64)
    # -0.0 has no whole number of its own.
    return same & (np.abs(whole) < _WHOLE_MAX) & ~(np.signbit(values) & (values == 0))


def _against_last(numbers: NDArray[Any], first: NDArray[np.bool_], how: np.ufunc) -> NDArray[Any]:
    """Each number against the one before of its point; the first of a point stands for itself."""
    found: NDArray[Any] = numbers.copy()
    found[1:] = np.where(first[1:], numbers[1:], how(numbers[1:], numbers[:-1]))
    return found


def _summed(steps: NDArray[np.int64], first: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The inverse of `_against_last` with differences; sums wrap as the differences did."""
    if not len(steps):
        return steps
    sums = np.cumsum(steps)
    starts = np.flatnonzero(first)
    before = np.repeat(sums[starts] - steps[starts], np.diff(np.append(starts, len(steps))))
    found: NDArray[np.int64] = sums - before
    return found


def _joined(words: NDArray[np.uint64], first: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """The inverse of `_against_last` with exclusive or."""
    joined = np.bitwise_xor.accumulate(words)
    starts = np.flatnonzero(first)
    before = np.repeat(joined[starts] ^ words[starts], np.diff(np.append(starts, len(words))))
    return np.bitwise_xor(joined, before, dtype=np.uint64)


# ---------------------------------------------------------------- what older versions stored


def decode_version_1(data: bytes, rows: NDArray[np.void], constant: int | None) -> None:
    """The columns of frames without a codec: planes of point steps, status, bits, time steps."""
    count = len(rows)
    dtypes = ("<u4", *(("<u4",) if constant is None else ()), "<f8", "<u8")
    block = memoryview(inflate(data, count * sum(np.dtype(kind).itemsize for kind in dtypes)))
    found, at = [], 0
    for kind in dtypes:
        size = np.dtype(kind).itemsize
        table = np.frombuffer(block[at : at + size * count], dtype=np.uint8).reshape(size, count)
        found.append(np.ascontiguousarray(table.T).view(kind).reshape(count))
        at += size * count
    rows["point"] = np.cumsum(found[0], dtype=np.uint32)
    rows["status"] = found[1] if constant is None else constant
    rows["value"] = found[-2]
    rows["utc_ns"] = np.cumsum(found[-1], dtype=np.uint64).view(np.int64)
