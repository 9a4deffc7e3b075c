"""A frame without its body, and sums of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sync.store.database import ID_BITS


class Row(NamedTuple):
    """A frame without its body; `size` is that of the body in bytes."""

    id: int
    epoch: int
    first: int
    last: int
    records: int
    events: int
    level: int
    birth: str
    oldest_ns: int
    newest_ns: int
    size: int

    @property
    def place(self) -> int:
        """Its place in the order of frames; that of the last one where several became one."""
        return self.id >> ID_BITS


class Totals:
    """Frames, records and bytes of bodies."""

    __slots__ = ("bytes", "frames", "records")

    def __init__(self) -> None:
        self.frames = self.records = self.bytes = 0

    def add(self, row: Row, sign: int = 1) -> None:
        """Counts a frame in, or with -1 out."""
        self.frames += sign
        self.records += sign * row.records
        self.bytes += sign * row.size

    def sum(self, counts: Sequence[int]) -> None:
        """Counts in what the file has counted."""
        self.frames += counts[0]
        self.records += counts[1]
        self.bytes += counts[2]
