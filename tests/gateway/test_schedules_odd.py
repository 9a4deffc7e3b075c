"""Schedules in odd sequences: a successor that comes late, a poisoned clock, a merge, a crowd."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway import schedule_files
from gateway.core.schedule import SLOTS_MAX, Schedule
from gateway.outputs import Demand
from gateway.schedules import HANDOVER_NS, ScheduleRefused
from tests.gateway.points import output
from tests.gateway.schedules import DAY_NS, NOON_NS, Day, schedule
from tests.gateway.test_commands import SECOND_NS

OUT = "Dev.Out"
YEAR_S = 365 * 86_400


def test_a_successor_that_comes_in_the_last_slot_is_not_preceded_by_the_fallback() -> None:
    day = Day()
    day.take(schedule({OUT: [(0, 10)]}, 900))
    assert day.after(600) == 10
    day.take(schedule({OUT: [(900, 20)]}, 1800, name="next"))
    assert day.after(700) == 10
    day.step_ns -= SECOND_NS // 2  # too little for a step: the lease ends before the slot does
    seen = {day.after(890 + n / 10) for n in range(200)}
    assert seen == {10, 20}
    assert day.steps(step="refused") == []


def test_a_slot_is_held_no_longer_where_its_successor_is_taken_back() -> None:
    day = Day()
    day.take(schedule({OUT: [(0, 10), (900, 20)]}, 1800))
    assert day.after(600) == 10
    day.take(schedule({OUT: [(0, 10)]}, 900, version=2))
    assert day.after(899) == 10
    assert day.after(900) == 5
    assert HANDOVER_NS > SECOND_NS


def test_what_a_merge_of_two_versions_keeps_can_be_read_again(tmp_path: Path) -> None:
    tags = [f"Dev.Out{at}" for at in range(1, 101)]
    day = Day(*(output(at, tag, fallback=5.0) for at, tag in enumerate(tags, 1)))
    many = SLOTS_MAX // 100 - 10
    day.take(schedule({tag: [(n, 1) for n in range(many)] for tag in tags}, many))
    late = schedule({tag: [(many + n, 2) for n in range(60)] for tag in tags}, 5000, version=2)
    assert late.count + many * 100 > SLOTS_MAX
    with pytest.raises(ScheduleRefused, match="slots"):
        day.schedules.judge(late, day.utc_ns)
    (kept,) = day.schedules._held.values()
    schedule_files.save(tmp_path, kept)
    assert schedule_files.load(tmp_path)[1] == []  # else it is lost with the next start


def poisoned() -> tuple[Day, Schedule]:
    """A year ahead somebody on this machine gave a schedule, and then the clock was mended."""
    day = Day()
    day.take(schedule({OUT: [(0, 10)]}, 7 * 86_400, name="good"))
    assert day.after(1) == 10
    day.step_ns += YEAR_S * SECOND_NS
    ahead = YEAR_S * SECOND_NS
    bad = schedule({OUT: [(YEAR_S, 20)]}, YEAR_S + 900, name="bad", version=ahead + 3600 * 10**9)
    day.take(bad)
    assert day.after(2) == 20
    day.step_ns -= YEAR_S * SECOND_NS
    assert day.after(3) == 5
    (event,) = day.told("schedules wait")
    assert event["reason"].endswith("it is behind the issue of the schedule day-ahead bad")
    return day, bad


def test_clearing_a_schedule_of_a_wrong_clock_lets_the_others_go_on() -> None:
    day, bad = poisoned()
    day.take(Schedule("clear", bad.name, bad.kind, bad.issued_ns + 1, bad.end_ns, "me", {}))
    assert day.after(4) == 10
    assert len(day.told("schedules go on")) == 1
    day.take(schedule({OUT: [(0, 30)]}, 900, name="bad", version=7, id="new"))
    assert day.after(6) == 30  # and its name is free again: nothing that counts was issued later


def test_a_restart_knows_that_a_schedule_of_a_wrong_clock_was_cleared() -> None:
    day, bad = poisoned()
    day.take(Schedule("clear", bad.name, bad.kind, bad.issued_ns + 1, bad.end_ns, "me", {}))
    kept = list(day.schedules._held.values())
    again = Day()
    again.schedules.restore(kept)
    assert again.after(5) == 10


def test_a_version_without_points_needs_no_true_clock_but_is_no_older_one() -> None:
    day = Day()
    day.take(schedule({OUT: [(0, 10)]}, 900, version=5))
    day.after(1)
    day.step_ns = 0
    with pytest.raises(ScheduleRefused, match="issued then or later"):
        day.take(schedule({}, 900, version=4))
    day.take(schedule({}, 900, version=6))
    day.step_ns = NOON_NS - SECOND_NS
    assert day.after(3) == 5


def test_a_crowd_of_refused_points_keeps_nothing_from_being_told() -> None:
    tags = [f"Dev.Out{at}" for at in range(1, 1001)]
    day = Day(*(output(at, tag, fallback=5.0) for at, tag in enumerate(tags, 1)))
    day.demands = {at: Demand(0.0, "Fire") for at in range(2, 1001)}
    day.take(schedule({tag: [(0, 10)] for tag in tags}, 300))
    for _ in range(400):
        day.schedules.scan(day.now_ns, day.utc_ns)
        day.cycle(SECOND_NS // 10)
    (event,) = day.told("schedule runs out")
    assert event["points"] == 1000
    assert day.schedules._soon == {}


def test_many_days_of_plans_one_behind_the_other() -> None:
    day = Day()
    for at in range(3):
        slots = [(at * 86_400 + n * 900, 10 + (n + at) % 7) for n in range(96)]
        day.take(schedule({OUT: slots}, (at + 1) * 86_400, name=f"d{at}", version=at + 1))
    for second in range(450, 3 * 86_400, 900):
        n = second // 900
        assert day.after(second) == 10 + (n % 96 + n // 96) % 7
    assert day.after(3 * 86_400) == 5
    assert len(day.told("schedule runs out")) == 1
    assert day.schedules.forget_past(day.utc_ns + 2 * DAY_NS)
