"""Bytes and records a second and the hours of a backlog, in virtual time."""

from __future__ import annotations

import pytest

from gateway.core.clock import UTC_PLAUSIBLE_NS
from sync.link.pace import Pace

S = 10**9
HOUR = 3600 * S
MIDNIGHT = UTC_PLAUSIBLE_NS + 300 * 24 * HOUR


def sent_within(pace: Pace, seconds: int, *, live: int, backlog: int) -> tuple[int, int, int]:
    """Bytes of live data that is always there, of a backlog behind it, and the longest wait."""
    now = total_live = total_back = waited = 0
    while now < seconds * S:
        step = S // 100
        while live and pace.live_wait_ns(now) == 0 and total_live < live * now // S + live:
            pace.spend(live, 10, now, live=True)
            total_live += live
        if live and total_live < live * now // S + live:
            waited = max(waited, pace.live_wait_ns(now))
        while backlog and pace.backlog_wait_ns(backlog, now) == 0:
            pace.spend(backlog, 10, now, live=False)
            total_back += backlog
        now += step
    return total_live, total_back, waited


def test_without_a_limit_only_the_records_of_the_backlog_count() -> None:
    pace = Pace(None, 1000)
    pace.spend(10**9, 0, 0, live=True)
    assert pace.live_wait_ns(0) == 0
    pace.spend(10, 500, 0, live=False)
    assert pace.backlog_wait_ns(10, 0) == S // 2
    assert pace.live_wait_ns(0) == 0
    assert pace.backlog_wait_ns(10, S // 2) == 0


def test_live_and_backlog_together_keep_the_limit() -> None:
    live, back, waited = sent_within(Pace(10_000, 10**9), 100, live=2000, backlog=500)
    assert waited == 0
    assert live == pytest.approx(2000 * 100, rel=0.05)
    assert live + back == pytest.approx(10_000 * 100, rel=0.03)


def test_a_frame_of_the_backlog_that_takes_many_seconds_delays_no_live_data() -> None:
    live, back, waited = sent_within(Pace(1000, 10**9), 200, live=300, backlog=30_000)
    assert waited == 0
    assert live == pytest.approx(300 * 200, rel=0.05)
    assert 90_000 <= back <= 150_000
    assert live + back <= 1000 * 200 + 30_000


def test_live_data_that_is_too_much_is_held_to_the_limit_and_leaves_no_backlog_through() -> None:
    live, back, _ = sent_within(Pace(1000, 10**9), 100, live=3000, backlog=100)
    assert live == pytest.approx(100_000, rel=0.05)
    assert back <= 1000


@pytest.mark.parametrize(
    ("hours", "at", "wait"),
    [
        ([], 12, 0),
        (["22:00-06:00"], 12, 10),
        (["22:00-06:00"], 22, 0),
        (["22:00-06:00"], 5.99, 0),
        (["22:00-06:00"], 6, 16),
        (["12:00-13:00", "02:00-03:00"], 13, 13),
        (["12:00-13:00", "02:00-03:00"], 1.5, 0.5),
        (["00:00-24:00"], 23.99, 0),
    ],
)
def test_the_hours_open(hours: list[str], at: float, wait: float) -> None:
    pace = Pace(None, 1, hours)
    assert pace.opens_in_ns(MIDNIGHT + round(at * HOUR)) == round(wait * HOUR)


def test_a_clock_that_was_never_set_holds_nothing_back() -> None:
    assert Pace(None, 1, ["22:00-06:00"]).opens_in_ns(12 * HOUR) == 0


@pytest.mark.parametrize("text", ["", "22-6", "22:00", "24:00-06:00", "06:00-06:00", "1:00-2:00"])
def test_hours_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write"):
        Pace(None, 1, [text])
