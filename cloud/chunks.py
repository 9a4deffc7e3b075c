"""Chunks: how the historian keeps values, many rows of one gateway and epoch in one record. Pure.

A chunk grows from frames: the newest ones are small, and neighbours of like size are joined, so
that a row is written a few times over its life and a query opens few chunks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cloud.spans import Span
from gateway.core.records import RECORD
from sync import columns

CHUNK_ROWS_MAX: Final = 16_384
_JOIN_RATIO: Final = 2  # the older neighbour may be so much larger


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows as the file keeps them; `status` is that of all rows, None where they differ."""

    first: int
    last: int
    rows: int
    utc_min: int
    utc_max: int
    status: int | None
    body: bytes
    codec: int = columns.CODEC


def pack(rows: NDArray[np.void]) -> Chunk:
    """(n,) RECORD rows, ascending in their numbers, n > 0; `point` is the historian's own."""
    status, utc = rows["status"], rows["utc_ns"]
    constant = int(status[0]) if bool((status == status[0]).all()) else None
    return Chunk(
        first=int(rows["seq"][0]),
        last=int(rows["seq"][-1]),
        rows=len(rows),
        utc_min=int(utc.min()),
        utc_max=int(utc.max()),
        status=constant,
        body=columns.encode(rows, constant, numbered=True),
    )


def unpack(rows: int, status: int | None, body: bytes, codec: int) -> NDArray[np.void]:
    """The inverse of `pack`. Raises WireError where the record is damaged."""
    found = np.zeros(rows, dtype=RECORD)
    columns.decode(body, found, status, numbered=True, codec=codec)
    return found


def joined(older: NDArray[np.void], newer: NDArray[np.void]) -> NDArray[np.void]:
    """The rows of two chunks in the order of their numbers."""
    both = np.concatenate((older, newer))
    if len(older) and len(newer) and older["seq"][-1] > newer["seq"][0]:
        both = both[np.argsort(both["seq"], kind="stable")]
    return both


def to_join(older_rows: int, newer_rows: int) -> bool:
    """True where an older neighbour is to be joined with a newer chunk."""
    return older_rows <= _JOIN_RATIO * newer_rows and older_rows + newer_rows <= CHUNK_ROWS_MAX


def pieces(rows: NDArray[np.void]) -> list[NDArray[np.void]]:
    """The rows in parts of a chunk's size."""
    return [rows[at : at + CHUNK_ROWS_MAX] for at in range(0, len(rows), CHUNK_ROWS_MAX)]


def outside(numbers: NDArray[np.uint64], held: Iterable[Span]) -> NDArray[np.bool_]:
    """Which of the numbers lie in none of the spans, which are sorted and disjoint."""
    spans = list(held)
    if not spans or not len(numbers):
        return np.ones(len(numbers), dtype=np.bool_)
    firsts = np.array([first for first, _ in spans], dtype=np.uint64)
    lasts = np.array([last for _, last in spans], dtype=np.uint64)
    at = np.searchsorted(firsts, numbers, side="right") - 1
    found: NDArray[np.bool_] = (at < 0) | (numbers > lasts[np.maximum(at, 0)])
    return found


def islands(numbers: NDArray[np.uint64]) -> list[Span]:
    """The runs of consecutive numbers in an ascending array."""
    if not len(numbers):
        return []
    breaks = np.flatnonzero(np.diff(numbers) != 1)
    starts = [int(numbers[0]), *(int(n) for n in numbers[breaks + 1])]
    ends = [*(int(n) for n in numbers[breaks]), int(numbers[-1])]
    return list(zip(starts, ends, strict=True))
