"""Blocks of the archive: what came within some minutes, by point and then by time. Pure.

A block is cut into parts of about `PART_ROWS` rows, at the border of two points where it can be, so
that one point is read without the others, and a point of few values shares its part with others.
Each part stands as the columns of a frame do (`sync.columns`), behind its checksum.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gateway.core.records import RECORD
from sync import columns
from sync.plain import WireError

PART_ROWS: Final = 2048
_PART: Final = np.dtype(
    [("first", "<u4"), ("last", "<u4"), ("rows", "<u4"), ("utc_min", "<i8"), ("utc_max", "<i8")]
)
_HEAD: Final = struct.Struct("<IBBI")  # CRC-32 of the rest, codec, 1 = one status for all, status
_CRC_BYTES: Final = 4
_RADIX_POINTS: Final = 65_536  # numpy sorts numbers of 16 bits in one pass


@dataclass(frozen=True, slots=True)
class Directory:
    """What a block holds without its parts.

    points  (m,) numbers of its points, ascending
    parts   (k,) points and times of each part, and how many rows it has
    """

    points: NDArray[np.uint32]
    parts: NDArray[np.void]

    def holds(self, point: int) -> bool:
        """True where the block has values of a point."""
        at = int(np.searchsorted(self.points, point))
        return at < len(self.points) and int(self.points[at]) == point

    def parts_of(self, point: int, start_ns: int, end_ns: int) -> list[int]:
        """Which parts may hold values of a point with start <= time < end."""
        if not self.holds(point):
            return []
        parts = self.parts
        fits = (parts["first"] <= point) & (parts["last"] >= point)
        fits &= (parts["utc_max"] >= start_ns) & (parts["utc_min"] < end_ns)
        return [int(at) for at in np.flatnonzero(fits)]


@dataclass(frozen=True, slots=True)
class Block:
    """A block as it is written.

    utc_mid  the middle one of its times: a clock that is wrong does not make it older or younger
    """

    rows: int
    utc_min: int
    utc_max: int
    utc_mid: int
    points: bytes
    parts: bytes
    bodies: tuple[bytes, ...]


def ordered(rows: NDArray[np.void]) -> NDArray[np.void]:
    """(n,) RECORD rows by point and time; equal times keep their order."""
    points = rows["point"]
    small = len(points) and int(points.max()) < _RADIX_POINTS
    order = np.argsort(points.astype(np.uint16) if small else points, kind="stable")
    found: NDArray[np.void] = rows[order]
    points, times = found["point"], found["utc_ns"]
    if bool(((points[1:] == points[:-1]) & (times[1:] < times[:-1])).any()):
        found = rows[np.lexsort((rows["utc_ns"], rows["point"]))]
    return found


def pack(rows: NDArray[np.void]) -> Block:
    """A block of (n,) RECORD rows, n > 0, whose `point` is the archive's number."""
    rows = ordered(rows)
    times = rows["utc_ns"]
    cuts = _cuts(rows["point"])
    parts = np.zeros(len(cuts), dtype=_PART)
    bodies = []
    for at, (low, high) in enumerate(cuts):
        piece = rows[low:high]
        own = piece["utc_ns"]
        parts[at] = (piece["point"][0], piece["point"][-1], high - low, own.min(), own.max())
        bodies.append(_pack_part(piece))
    middle = len(times) // 2
    points = np.unique(rows["point"])
    return Block(
        len(rows),
        int(times.min()),
        int(times.max()),
        int(np.partition(times, middle)[middle]),
        zlib.compress(np.diff(points, prepend=np.uint32(0)).astype("<u4").tobytes(), 1),
        zlib.compress(parts.tobytes(), 1),
        tuple(bodies),
    )


def directory(points: bytes, parts: bytes) -> Directory:
    """The inverse for what stands beside the parts. Raises WireError."""
    try:
        steps = np.frombuffer(zlib.decompress(points), dtype="<u4")
        table = np.frombuffer(zlib.decompress(parts), dtype=_PART)
    except (zlib.error, ValueError) as error:
        raise WireError(f"history: a directory is damaged: {error}") from None
    return Directory(np.cumsum(steps, dtype=np.uint32), table)


def unpack(body: bytes, rows: int) -> NDArray[np.void]:
    """The (n,) RECORD rows of a part, without their sequences. Raises WireError."""
    if len(body) < _HEAD.size or rows < 1:
        raise WireError("history: a part is too short")
    crc, codec, same, status = _HEAD.unpack_from(body)
    if zlib.crc32(body[_CRC_BYTES:]) != crc:
        raise WireError("history: a part is damaged")
    found = np.zeros(rows, dtype=RECORD)
    columns.decode(body[_HEAD.size :], found, status if same else None, codec=codec)
    return found


def _pack_part(rows: NDArray[np.void]) -> bytes:
    status = rows["status"]
    same = bool((status == status[0]).all())
    constant = int(status[0]) if same else None
    block = columns.encode(rows, constant)
    body = _HEAD.pack(0, columns.CODEC, same, constant or 0) + block
    return struct.pack("<I", zlib.crc32(body[_CRC_BYTES:])) + body[_CRC_BYTES:]


def _cuts(points: NDArray[np.uint32]) -> list[tuple[int, int]]:
    """Where parts begin and end in rows by point."""
    found = []
    at, count = 0, len(points)
    while at < count:
        end = at + PART_ROWS
        if end >= count:
            end = count
        else:
            low = int(np.searchsorted(points, points[end], side="left"))
            high = int(np.searchsorted(points, points[end], side="right"))
            if low > at + PART_ROWS // 2:
                end = low
            elif high <= at + 2 * PART_ROWS:
                end = high
        found.append((at, end))
        at = end
    return found
