"""Frames in the making: batches of the local stream joined until one is due for the store."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gateway.core.records import RECORD, Batch

_NEVER_NS = 3_600_000_000_000


class FrameBuilder:
    """Joins neighbouring batches; events make a frame due at once."""

    def __init__(self, interval_ns: int, records_max: int) -> None:
        self._interval_ns = interval_ns
        self._records_max = records_max
        self._batches: list[Batch] = []
        self._numbers = 0
        self._due_ns = 0

    def clear(self) -> None:
        """Forget what is not stored yet; the field's journal still has it."""
        self._batches.clear()
        self._numbers = 0

    def add(self, batch: Batch, now_ns: int) -> None:
        """Take a batch that follows the last one."""
        if not self._batches:
            self._due_ns = now_ns + self._interval_ns
        self._batches.append(batch)
        self._numbers += batch.count
        if batch.events or self._numbers >= self._records_max:
            self._due_ns = now_ns

    def due_in_ns(self, now_ns: int) -> int:
        """How long until the frame is due; zero or less = now."""
        return self._due_ns - now_ns if self._batches else _NEVER_NS

    def take(self) -> Batch | None:
        """Everything so far as one batch. All of it is of one epoch and one birth."""
        if not self._batches:
            return None
        batches, first = self._batches, self._batches[0]
        joined = Batch(
            epoch=first.epoch,
            first=first.first,
            last=batches[-1].last,
            birth=first.birth,
            records=_joined([b.records for b in batches]),
            events=tuple(e for b in batches for e in b.events),
            gaps=tuple(g for b in batches for g in b.gaps),
        )
        self.clear()
        return joined


def _joined(parts: Sequence[NDArray[np.void]]) -> NDArray[np.void]:
    """The rows of all parts; as plain bytes, which numpy copies much faster than fields."""
    whole: NDArray[np.void] = np.concatenate([p.view(f"V{RECORD.itemsize}") for p in parts])
    return whole.view(RECORD)
