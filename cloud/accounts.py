"""What a frame changes in the account of an epoch: spans held, gaps declared. Pure.

Data holds against a gap, and the gap that was declared first against a later one.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cloud import spans
from cloud.historian import REASON_BELOW_BASE
from cloud.spans import Span
from gateway.core.records import Gap
from sync.wire import Frame


@dataclass(frozen=True, slots=True)
class Account:
    """The account behind a frame.

    data   which of the frame's numbers were data before it came
    gaps   the gaps that the frame touches, and those that it declares, as they are now
    spans  everything that is held or declared now
    """

    data: list[Span]
    gaps: frozenset[Gap]
    spans: list[Span]


def reckon(frame: Frame, held: Sequence[Span], near: Sequence[Gap]) -> Account:
    """From what is `held` and the gaps `near` the frame to the account behind it."""
    batch = frame.batch
    window = (batch.first, batch.last)
    below = [(1, frame.base - 1)] if frame.base > 1 else []
    missing = spans.subtract(below, [*held, window])
    taken = [span(gap) for gap in near]
    came = spans.subtract([window], [span(gap) for gap in batch.gaps])
    inside = [(max(low, batch.first), min(high, batch.last)) for low, high in held]
    data = spans.subtract([pair for pair in inside if pair[0] <= pair[1]], taken)
    gaps = {*_less(near, came), *_less(batch.gaps, [*data, *taken])}
    gaps |= {Gap(first, last, REASON_BELOW_BASE) for first, last in missing}
    return Account(data, frozenset(gaps), spans.union([*held, window, *missing]))


def span(gap: Gap) -> Span:
    """The numbers of a gap; one whose end is unknown has its first only."""
    return gap.first, gap.last or gap.first


def _less(gaps: Iterable[Gap], taken: Iterable[Span]) -> list[Gap]:
    """The gaps less what is taken."""
    cuts = spans.union(taken)
    kept: list[Gap] = []
    for gap in gaps:
        first, last = span(gap)
        low = bisect.bisect_left(cuts, first, key=lambda cut: cut[1])
        high = bisect.bisect_right(cuts, last, key=lambda cut: cut[0])
        for begin, end in spans.subtract([(first, last)], cuts[low:high]):
            kept.append(Gap(begin, end if gap.last else 0, gap.reason))
    return kept
