"""Batches and their gaps: thinning, joining and cutting to the size of a frame. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from gateway.core.records import RECORD, Batch, Gap
from sync import wire


def gap_batch(epoch: int, first: int, last: int, reason: str) -> Batch:
    """A batch that holds nothing but one gap."""
    rows = np.zeros(0, dtype=RECORD)
    return Batch(epoch, first, last, "", rows, (), (Gap(first, last, reason),))


def merge(gaps: list[Gap]) -> tuple[Gap, ...]:
    """Gaps in order, neighbours of the same reason made one; an open end stays by itself."""
    merged: list[Gap] = []
    for gap in sorted(gaps, key=lambda gap: gap.first):
        before = merged[-1] if merged else None
        if before and gap.last and before.last + 1 == gap.first and before.reason == gap.reason:
            merged[-1] = replace(before, last=gap.last)
        else:
            merged.append(gap)
    return tuple(merged)


def join(batches: Sequence[Batch]) -> Batch:
    """One batch of several that follow each other in one epoch, and have one birth or no rows."""
    births = {batch.birth for batch in batches if len(batch.records)} or {
        batch.birth for batch in batches if batch.events
    }
    joined = [_closed(gap, batches[-1].last) for batch in batches for gap in batch.gaps]
    return Batch(
        epoch=batches[0].epoch,
        first=batches[0].first,
        last=batches[-1].last,
        birth=max(births, default=""),
        records=np.concatenate([batch.records for batch in batches]),
        events=tuple(event for batch in batches for event in batch.events),
        gaps=merge(joined),
    )


def _closed(gap: Gap, last: int) -> Gap:
    """An open end is the last number; an epoch that was ended again has another behind it."""
    return gap if gap.last or gap.first == last else replace(gap, last=gap.first)


def split_batch(batch: Batch, at: int) -> tuple[Batch, Batch]:
    """Two batches: the numbers below `at`, and those from `at` on. Needs first < at <= last."""
    assert batch.first < at <= batch.last
    return _part(batch, batch.first, at - 1), _part(batch, at, batch.last)


def _part(batch: Batch, first: int, last: int) -> Batch:
    seq = batch.records["seq"]
    low, high = np.searchsorted(seq, np.array([first, last + 1], dtype=np.uint64))
    gaps = tuple(
        gap if gap.last == 0 else Gap(max(gap.first, first), min(gap.last, last), gap.reason)
        for gap in batch.gaps
        if gap.first <= last and (gap.last or gap.first) >= first
    )
    events = tuple(event for event in batch.events if first <= event.seq <= last)
    return Batch(batch.epoch, first, last, batch.birth, batch.records[low:high], events, gaps)


def bodies(batch: Batch) -> Iterator[tuple[Batch, bytes]]:
    """The batch in as many parts as it takes for each to fit into a frame, with its bytes.

    Raises WireError where the batch is none, or one number alone is too large.
    """
    try:
        yield batch, wire.encode_body(batch)
        return
    except wire.FrameTooLarge:
        if batch.first == batch.last:
            raise
    for part in split_batch(batch, _middle(batch)):
        yield from bodies(part)


def _middle(batch: Batch) -> int:
    """A number that cuts the batch's contents, not its range, into halves."""
    numbers = [int(n) for n in batch.records["seq"][len(batch.records) // 2 :][:1]]
    if not numbers:
        things = sorted([e.seq for e in batch.events] + [g.first for g in batch.gaps])
        numbers = things[len(things) // 2 :][:1]
    middle = numbers[0] if numbers else batch.first + 1
    return min(max(middle, batch.first + 1), batch.last)
