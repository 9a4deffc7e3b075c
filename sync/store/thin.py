"""Which rows of a batch stay when room runs out, and what becomes of the others. Pure.

The oldest measurements lose resolution step by step: of each point the last value of a window of
time stays, first of ten seconds, then of a minute, then of ten. In the end the measurements go.
Counters and events never do: what they tell can't be told from later values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gateway.core.records import Batch, Gap
from sync import gaps

WINDOWS_NS: Final = (0, 10_000_000_000, 60_000_000_000, 600_000_000_000)  # by level
GONE: Final = len(WINDOWS_NS)  # the level at which nothing is left to thin
SHARES: Final = (0.5, 0.25, 0.15, 0.1)  # of the room for measurements, by level


@dataclass(frozen=True, slots=True)
class Kinds:
    """Points by what may happen to their values, as indexes of a birth's table.

    counters  every value stays
    discrete  every value stays until the last level, where they go like all others
    """

    counters: NDArray[np.uint32]
    discrete: NDArray[np.uint32]

    @classmethod
    def of(cls, points: Sequence[Mapping[str, Any]]) -> Kinds:
        """The kinds of a birth's points."""
        counters = [point["index"] for point in points if point.get("counter")]
        discrete = [point["index"] for point in points if point.get("kind") == "discrete"]
        return cls(np.array(counters, dtype=np.uint32), np.array(discrete, dtype=np.uint32))


NO_KINDS: Final = Kinds.of(())


def next_level(sizes: Sequence[int]) -> int | None:
    """The level whose oldest frames are to be thinned next; None where nothing is left.

    sizes  bytes by level of what can be thinned
    """
    total = sum(sizes)
    for level in reversed(range(1, GONE)):
        if sizes[level] > SHARES[level] * total:
            return level
    return next((level for level in range(GONE) if sizes[level]), None)


def keep(rows: NDArray[np.void], kinds: Kinds, level: int) -> NDArray[np.bool_]:
    """Which of (n,) RECORD rows stay at a level: (n,)."""
    kept: NDArray[np.bool_] = np.isin(rows["point"], kinds.counters)
    if level >= GONE or not len(rows):
        return kept
    kept |= np.isin(rows["point"], kinds.discrete)
    order = np.argsort(rows["point"], kind="stable")
    points, status = rows["point"][order], rows["status"][order]
    windows = rows["utc_ns"][order] // WINDOWS_NS[level]
    same = points[1:] == points[:-1]
    last = np.append(~same | (windows[1:] != windows[:-1]), True)
    # Where the quality changes a value says more than the next one can.
    turned = np.concatenate(([False], same & (status[1:] != status[:-1])))
    kept[order] |= last | turned
    return kept


def has_more(rows: NDArray[np.void], kinds: Kinds) -> bool:
    """True where a row could still be given up."""
    return not bool(np.isin(rows["point"], kinds.counters).all())


def without(batch: Batch, kept: NDArray[np.bool_], reason: str) -> Batch:
    """The batch with its other rows turned into gaps; a gap joins an older one of its reason."""
    seq = batch.records["seq"][~kept].astype(np.int64)
    if not len(seq):
        return batch
    breaks = np.flatnonzero(np.diff(seq) != 1)
    firsts = seq[np.concatenate(([0], breaks + 1))].tolist()
    lasts = seq[np.append(breaks, len(seq) - 1)].tolist()
    new = [Gap(first, last, reason) for first, last in zip(firsts, lasts, strict=True)]
    rows = batch.records[kept]
    birth = batch.birth if len(rows) or batch.events else ""
    return replace(batch, birth=birth, records=rows, gaps=gaps.merge([*batch.gaps, *new]))
