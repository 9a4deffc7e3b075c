"""The figures of the alarm system, against plain counting."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from safety import alarm_states as s
from safety.alarm_figures import BINS, CHATTER_TIMES, FREQUENT_MAX
from tests.safety.alarm_rules import AlarmRules, S

DAY_S = 86_400.0


def figures(rules: AlarmRules) -> Any:
    return rules.table.figures(rules.mono_ns)


def test_states_are_counted() -> None:
    rules = AlarmRules(8)
    for alarm in range(6):
        rules.come(alarm=alarm)
    rules.act(s.ACKNOWLEDGES, 0)
    rules.act(s.SHELVES, 1, seconds=60)
    rules.act(s.REMOVES, 2)
    rules.guard(True, 3)
    rules.come("", 4)
    now = figures(rules)
    assert (now.active, now.standing, now.unacknowledged) == (5, 2, 2)
    assert (now.shelved, now.suppressed, now.out_of_service) == (1, 1, 1)


def test_the_rate_is_of_ten_minutes_and_a_flood_is_more_than_ten() -> None:
    rules = AlarmRules(11)
    for alarm in range(10):
        rules.come(alarm=alarm)
    assert (figures(rules).rate, figures(rules).flood) == (10, False)
    rules.come(alarm=10)
    assert (figures(rules).rate, figures(rules).flood) == (11, True)
    rules.scan(590)
    assert figures(rules).rate <= 2
    rules.scan(20)
    now, day = figures(rules), rules.table.day(rules.mono_ns)
    assert (now.rate, now.flood) == (0, False)
    assert (day.rate_peak, day.announced) == (11, 11)
    assert day.priorities == {"urgent": 0, "high": 11, "medium": 0, "low": 0}
    assert 0.9 < day.flood_share < 1
    rules.scan(DAY_S)
    day = rules.table.day(rules.mono_ns)
    assert (day.rate_peak, day.announced, day.flood_share) == (0, 0, 0.0)


def test_the_rate_of_any_minute_of_a_day_is_that_of_a_list_of_all_announcements() -> None:
    """Against the plain count of what was announced in the bins of the last ten minutes."""
    rules, times = AlarmRules(), []
    draw = np.random.default_rng(4)
    for gap_s in draw.exponential(40, 2_000):
        rules.come("High")
        times.append(rules.mono_ns)
        rules.come("")
        rules.scan(float(gap_s))
        newest = rules.mono_ns // (10 * S)
        window = range(newest - 59, newest + 1)
        assert figures(rules).rate == sum(t // (10 * S) in window for t in times)
    day = rules.table.day(rules.mono_ns)
    newest = rules.mono_ns // (10 * S)
    bins = Counter(t // (10 * S) for t in times)
    oldest = max(newest - BINS + 1, times[0] // (10 * S))
    assert day.announced == sum(bins[at] for at in range(oldest, newest + 1))
    rates = [
        sum(bins[at] for at in range(max(end - 59, oldest), end + 1))
        for end in range(oldest, newest + 1)
    ]
    assert day.rate_peak == max(rates)
    assert day.flood_share == pytest.approx(sum(rate > 10 for rate in rates) / len(rates))


def test_three_bad_inputs_are_counted_whatever_the_states_are() -> None:
    rules = AlarmRules(5)
    for alarm, quality in enumerate((0, 1, 2, 3, 3)):
        rules.shows("", alarm, quality=quality)
    rules.scan()
    rules.act(s.REMOVES, 4)
    assert figures(rules).bad_input == (2, 3, 4)


def test_three_times_in_a_minute_is_chattering() -> None:
    rules = AlarmRules(2)
    for at in range(CHATTER_TIMES):
        rules.come()
        rules.come("")
        assert figures(rules).chattering == ((0,) if at == CHATTER_TIMES - 1 else ())
    rules.scan(60)
    assert figures(rules).chattering == ()


def test_what_is_set_aside_is_not_announced_and_not_counted() -> None:
    rules = AlarmRules()
    rules.act(s.SHELVES, seconds=3600)
    for _ in range(5):
        rules.come()
        rules.come("")
    assert (figures(rules).rate, figures(rules).chattering) == (0, ())


def test_an_alarm_is_stale_behind_a_day_and_not_while_it_is_set_aside() -> None:
    rules = AlarmRules()
    rules.come()
    rules.scan(DAY_S)
    assert figures(rules).stale == ()
    rules.scan(1)
    assert figures(rules).stale == (0,)
    rules.act(s.REMOVES)
    assert figures(rules).stale == ()


def test_the_most_frequent_alarms_are_named_first_and_few() -> None:
    rules = AlarmRules(FREQUENT_MAX + 5)
    for alarm in range(FREQUENT_MAX + 5):
        for _ in range(2 if alarm == 7 else 1):
            rules.come(alarm=alarm)
            rules.come("", alarm)
    frequent = rules.table.day(rules.mono_ns).frequent
    assert frequent[0] == (7, 2)
    assert len(frequent) == FREQUENT_MAX


def test_a_site_without_alarms_has_figures() -> None:
    rules = AlarmRules(0)
    assert rules.scan() == []
    assert (figures(rules).rate, rules.table.day(rules.mono_ns).announced) == (0, 0)
