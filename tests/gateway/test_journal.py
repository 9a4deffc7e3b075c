"""The numbered stream: what is reported, in which order, and what becomes of an overflow."""

from __future__ import annotations

import numpy as np

from config import status
from config.points import PointDef
from gateway.core.records import Batch
from gateway.core.table import PointTable
from gateway.journal import RING_EVENTS_MAX, Journal
from tests.gateway.points import land, point

SECOND_NS = 1_000_000_000


def make(*points: PointDef, **more: int) -> tuple[PointTable, Journal]:
    """A table and its journal, with the first report done."""
    table = PointTable(points)
    journal = Journal(points, epoch=7, birth="b" * 16, **more)
    journal.report(table, 0)
    return table, journal


def numbers(batch: Batch) -> list[int]:
    """Every sequence number that a batch accounts for, sorted."""
    found = [int(s) for s in batch.records["seq"]] + [e.seq for e in batch.events]
    for gap in batch.gaps:
        found += range(gap.first, gap.last + 1)
    return sorted(found)


def test_the_first_report_holds_every_point_with_its_bad_status() -> None:
    _, journal = make(point(1), point(2, "Dev.Other"))
    batch = journal.after(0)
    assert batch is not None
    assert list(batch.records["point"]) == [1, 2]
    assert set(batch.records["status"]) == {status.BAD_WAITING_FOR_INITIAL_DATA}


def test_a_change_within_the_deadband_is_not_reported_and_one_beyond_it_is() -> None:
    table, journal = make(point(deadband=0.5))
    land(table, 1, 10.0, 1)
    assert journal.report(table, 1) == 1
    land(table, 1, 10.5, 2)
    assert journal.report(table, 2) == 0
    land(table, 1, 10.51, 3)
    assert journal.report(table, 3) == 1


def test_small_steps_add_up_to_a_report_because_the_last_report_is_the_reference() -> None:
    table, journal = make(point(deadband=1.0))
    land(table, 1, 0.0, 1)
    journal.report(table, 1)
    reports = 0
    for step in range(1, 31):
        land(table, 1, step * 0.1, 1 + step)
        reports += journal.report(table, 1 + step)
    assert reports == 2


def test_a_change_of_status_alone_is_reported() -> None:
    table, journal = make(point(deadband=100.0))
    land(table, 1, 1.0, 1)
    journal.report(table, 1)
    table.set_status(np.array([1], dtype=np.int32), status.BAD_DEVICE_FAILURE, 2)
    assert journal.report(table, 2) == 1


def test_a_value_that_turns_into_nan_and_back_is_reported_both_times() -> None:
    table, journal = make(point(deadband=100.0))
    land(table, 1, 1.0, 1)
    journal.report(table, 1)
    land(table, 1, np.nan, 2)
    assert journal.report(table, 2) == 1
    assert journal.report(table, 3) == 0
    land(table, 1, 1.0, 4)
    assert journal.report(table, 4) == 1


def test_the_heartbeat_ends_a_silence() -> None:
    table, journal = make(point(heartbeat_ns=10 * SECOND_NS))
    land(table, 1, 1.0, 1)
    journal.report(table, 1)
    assert journal.report(table, 5 * SECOND_NS) == 0
    assert journal.report(table, 11 * SECOND_NS) == 1
    assert journal.report(table, 12 * SECOND_NS) == 0


def test_values_and_events_share_one_sequence_without_a_hole() -> None:
    table, journal = make(point())
    journal.event("gateway", {"what": "a"}, 1)
    land(table, 1, 5.0, 2)
    journal.report(table, 2)
    journal.event("gateway", {"what": "b"}, 3)
    batch = journal.after(0)
    assert batch is not None
    assert numbers(batch) == list(range(1, journal.last + 1))
    assert [e.body["what"] for e in batch.events] == ["a", "b"]


def test_after_resumes_exactly_behind_the_cursor_and_ends_with_none() -> None:
    table, journal = make(point())
    for step in range(1, 50):
        land(table, 1, float(step), step)
        journal.report(table, step)
    seen: list[int] = []
    cursor = 0
    while (batch := journal.after(cursor, records_max=7)) is not None:
        assert batch.first == cursor + 1
        seen += numbers(batch)
        cursor = batch.last
    assert seen == list(range(1, journal.last + 1))
    assert journal.after(journal.last) is None


def test_what_the_ring_lost_is_declared_as_a_gap_and_nothing_else_is() -> None:
    table, journal = make(point(), ring_records_max=100)
    for step in range(1, 500):
        land(table, 1, float(step), step)
        journal.report(table, step)
    batch = journal.after(10)
    assert batch is not None
    assert batch.gaps[0].first == 11
    assert batch.gaps[0].last == journal.last - 100
    assert numbers(batch) == list(range(11, batch.last + 1))
    kept = {int(r["seq"]): float(r["value"]) for r in batch.records}
    assert kept[journal.last] == 499.0


def test_events_older_than_their_ring_are_inside_the_declared_gap() -> None:
    _, journal = make(point())
    for _ in range(25_000):
        journal.event("gateway", {"what": "x"}, 1)
    batch = journal.after(0, records_max=100_000)
    assert batch is not None
    assert numbers(batch) == list(range(1, journal.last + 1))
    assert len(batch.events) == 20_000


def test_listeners_hear_every_event_until_they_leave() -> None:
    _, journal = make(point())
    heard: list[int] = []
    listener = lambda event: heard.append(event.seq)  # noqa: E731
    journal.listen(listener)
    journal.event("gateway", {}, 1)
    journal.unlisten(listener)
    journal.event("gateway", {}, 1)
    assert len(heard) == 1


def test_rows_between_a_lost_event_and_the_oldest_kept_one_are_still_delivered() -> None:
    table, journal = make(point())
    for step in range(1, 11):
        land(table, 1, float(step), step)
        journal.report(table, step)
    rows = journal.last
    for _ in range(RING_EVENTS_MAX):
        journal.event("gateway", {"what": "x"}, 1)
    batch = journal.after(0, records_max=100_000)
    assert batch is not None
    assert not batch.gaps  # the ring of events is full, and nothing fell out
    assert len(batch.records) == rows
    journal.event("gateway", {"what": "y"}, 1)
    assert journal.first_kept() == rows + 2


def test_resuming_at_the_oldest_kept_record_declares_nothing_and_one_before_it_one_number() -> None:
    table, journal = make(point(), ring_records_max=100)
    for step in range(1, 500):
        land(table, 1, float(step), step)
        journal.report(table, step)
    oldest = journal.first_kept()
    assert oldest == journal.last - 99
    exact, late = journal.after(oldest - 1), journal.after(oldest - 2)
    assert exact is not None and late is not None
    assert (exact.first, len(exact.records), exact.gaps) == (oldest, 100, ())
    assert [(gap.first, gap.last) for gap in late.gaps] == [(oldest - 1, oldest - 1)]


def test_a_report_that_meets_the_end_of_the_ring_goes_on_at_its_beginning() -> None:
    points = [point(n, f"Dev.P{n}") for n in range(1, 31)]
    table, journal = make(*points, ring_records_max=100)
    for step in range(1, 12):
        for n in range(1, 31):
            land(table, n, 100.0 * step + n, step)
        journal.report(table, step)
        batch = journal.after(journal.last - 30)
        assert batch is not None
        assert list(batch.records["value"]) == [100.0 * step + n for n in range(1, 31)]
        assert numbers(batch) == list(range(batch.first, journal.last + 1))


def test_of_a_report_that_is_larger_than_the_ring_the_newest_stay() -> None:
    points = [point(n, f"Dev.P{n}") for n in range(1, 31)]
    _, journal = make(*points, ring_records_max=7)
    batch = journal.after(0)
    assert batch is not None
    assert list(batch.records["point"]) == list(range(24, 31))
    assert [(gap.first, gap.last) for gap in batch.gaps] == [(1, 23)]
    assert numbers(batch) == list(range(1, 31))


def test_what_a_batch_holds_does_not_change_when_the_ring_is_overwritten() -> None:
    table, journal = make(point(), ring_records_max=4)
    batch = journal.after(0)
    assert batch is not None
    for step in range(1, 10):
        land(table, 1, float(step), step)
        journal.report(table, step)
    assert list(batch.records["seq"]) == [1]


def test_watchers_are_called_for_records_and_events_until_they_leave() -> None:
    table, journal = make(point())
    calls: list[int] = []
    watcher = lambda: calls.append(journal.last)  # noqa: E731
    journal.watch(watcher)
    assert journal.report(table, 1) == 0
    land(table, 1, 5.0, 2)
    journal.report(table, 2)
    journal.event("gateway", {}, 3)
    journal.unwatch(watcher)
    journal.event("gateway", {}, 4)
    assert calls == [2, 3]


def test_an_infinite_value_is_reported_once_and_so_is_its_end() -> None:
    table, journal = make(point(deadband=1.0))
    for value, reported in ((1.0, 1), (np.inf, 1), (np.inf, 0), (-np.inf, 1), (2.0, 1)):
        land(table, 1, value, 1)
        assert journal.report(table, 1) == reported
