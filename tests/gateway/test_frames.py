"""Frames in the making: what is joined, and when it is due."""

from __future__ import annotations

import numpy as np

from gateway.core.records import RECORD, Batch, Event, Gap
from gateway.frames import FrameBuilder

INTERVAL_NS = 500


def batch(first: int, last: int, *, events: tuple[Event, ...] = ()) -> Batch:
    """Rows for all numbers that no event takes."""
    numbers = [n for n in range(first, last + 1) if n not in {e.seq for e in events}]
    rows = np.zeros(len(numbers), dtype=RECORD)
    rows["seq"] = numbers
    rows["point"] = 1 + np.arange(len(numbers))
    rows["value"] = np.array(numbers) / 4
    rows["utc_ns"] = -np.array(numbers)
    return Batch(7, first, last, "b" * 16, rows, events)


def test_joined_rows_are_those_of_the_batches_in_order() -> None:
    builder = FrameBuilder(INTERVAL_NS, 1000)
    parts = [batch(1, 3), batch(4, 4), batch(5, 9)]
    for part in parts:
        builder.add(part, 0)
    joined = builder.take()
    assert joined is not None
    assert (joined.first, joined.last) == (1, 9)
    assert np.array_equal(joined.records, np.concatenate([p.records for p in parts]))
    assert builder.take() is None


def test_events_and_gaps_of_all_batches_travel_along() -> None:
    builder = FrameBuilder(INTERVAL_NS, 1000)
    event = Event(2, 5, "gateway", {"what": "x"})
    gap = Gap(4, 6, "journal overflow")
    builder.add(batch(1, 3, events=(event,)), 0)
    builder.add(Batch(7, 4, 6, "b" * 16, np.zeros(0, dtype=RECORD), (), (gap,)), 0)
    joined = builder.take()
    assert joined is not None
    assert (joined.events, joined.gaps) == ((event,), (gap,))
    assert list(joined.records["seq"]) == [1, 3]


def test_a_frame_is_due_after_its_interval_and_at_once_with_an_event_or_when_full() -> None:
    builder = FrameBuilder(INTERVAL_NS, 10)
    builder.add(batch(1, 3), 100)
    builder.add(batch(4, 5), 400)
    assert builder.due_in_ns(400) == INTERVAL_NS - 300
    builder.add(batch(6, 10), 420)
    assert builder.due_in_ns(420) <= 0
    builder.clear()
    builder.add(batch(1, 2, events=(Event(2, 5, "trip", {}),)), 100)
    assert builder.due_in_ns(100) <= 0
