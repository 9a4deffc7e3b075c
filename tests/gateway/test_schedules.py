"""Schedules: slots become commands by UTC, intraday before day-ahead, and the fallback behind."""

from __future__ import annotations

import pytest

from gateway.core.clock import UTC_PLAUSIBLE_NS
from gateway.core.schedule import TIME_NS_MAX
from gateway.outputs import Demand
from gateway.schedules import SCHEDULES_MAX, VISITS_MAX, ScheduleRefused
from tests.gateway.points import output, point
from tests.gateway.schedules import DAY_NS, NOON_NS, QUARTER_NS, Day, schedule
from tests.gateway.test_commands import SECOND_NS

OUT = "Dev.Out"


def day_ahead(*slots: tuple[float, float | None], end: float = 3600, **more: object) -> object:
    return schedule({OUT: slots}, end, **more)  # type: ignore[arg-type]


# ---------------------------------------------------------------- execution


def test_each_slot_is_a_setpoint_to_its_end_and_behind_the_last_the_fallback_follows() -> None:
    day = Day()
    day.take(schedule({OUT: [(0, 10), (900, 20), (1800, 30)]}, 2700))
    assert day.after(1) == 10
    assert day.after(899.5) == 10
    assert day.after(900) == 20
    assert day.after(1800) == 30
    assert day.after(2699.5) == 30
    assert day.after(2700) == 5
    assert day.steps(step="accepted") == ["accepted"] * 3
    assert "refused" not in day.steps()


def test_between_two_slots_the_fallback_is_never_driven() -> None:
    day = Day()
    day.take(schedule({OUT: [(at, 10 + at % 2) for at in range(20)]}, 20))
    day.after(1)
    seen = []
    while day.now_ns < SECOND_NS + 19 * SECOND_NS:
        day.now_ns += SECOND_NS // 10
        day.schedules.scan(day.now_ns, day.utc_ns)
        seen += [write.value for write in day.cycle(0)]
    assert set(seen) == {10, 11}


def test_a_slot_may_be_of_any_length_and_a_schedule_may_have_holes() -> None:
    day = Day()
    day.take(schedule({OUT: [(0, 10), (0.5, 20), (7, None), (100, 30)]}, 50_000))
    assert day.after(0) == 10
    assert day.after(0.5) == 20
    assert day.after(7) == 5
    assert day.after(100) == 30
    assert day.after(49_000) == 30


def test_a_schedule_for_later_waits_for_its_first_slot() -> None:
    day = Day()
    day.take(schedule({OUT: [(60, 10)]}, 120))
    assert day.after(59.5) == 5
    assert day.after(60) == 10
    assert day.after(120) == 5


def test_intraday_wins_for_the_slots_that_it_covers() -> None:
    day = Day()
    day.take(schedule({OUT: [(0, 10), (900, 20), (1800, 30)]}, 2700))
    day.take(schedule({OUT: [(900, 21), (1000, None), (1200, 22)]}, 1300, kind="intraday"))
    assert day.after(899.5) == 10
    assert day.after(900) == 21
    assert day.after(1000) == 20
    assert day.after(1200) == 22
    assert day.after(1300) == 20
    assert day.after(1800) == 30


def test_a_newer_version_replaces_the_older_one_from_now_on() -> None:
    day = Day()
    day.take(schedule({OUT: [(0, 10), (900, 20)]}, 3600))
    assert day.after(100) == 10
    day.take(schedule({OUT: [(0, 11), (900, 21)]}, 1800, version=2))
    assert day.after(101) == 11
    assert day.after(900) == 21
    assert day.after(1800) == 5


def test_a_newer_version_that_starts_later_leaves_the_running_slot_alone() -> None:
    day = Day()
    day.take(schedule({OUT: [(0, 10), (900, 20)]}, 1000))
    day.after(100)
    day.take(schedule({OUT: [(1800, 30)]}, 2700, version=2))
    assert day.after(101) == 10
    assert day.after(900) == 20
    assert day.after(1000) == 5  # the older one ended here
    assert day.after(1800) == 30


def test_a_point_that_a_newer_version_leaves_out_is_scheduled_no_more() -> None:
    day = Day(output(fallback=5.0), output(2, "Dev.Two", fallback=6.0))
    day.take(schedule({OUT: [(0, 10)], "Dev.Two": [(0, 20)]}, 900))
    assert (day.after(1), day.after(1, 2)) == (10, 20)
    day.take(schedule({OUT: [(0, 10)]}, 900, version=2))
    assert (day.after(2), day.after(2, 2)) == (10, 6)


def test_a_version_without_points_clears_the_schedule_at_once() -> None:
    day = Day()
    day.take(schedule({OUT: [(0, 10)]}, 900))
    assert day.after(1) == 10
    day.take(schedule({}, 900, version=2))
    assert day.after(2) == 5
    with pytest.raises(ScheduleRefused, match="issued then or later"):
        day.take(schedule({OUT: [(0, 10)]}, 900))  # the broker delivers the old one again


def test_the_same_message_twice_changes_nothing() -> None:
    day = Day()
    one = schedule({OUT: [(0, 10)]}, 900)
    day.take(one)
    day.after(1)
    assert day.schedules.judge(one, day.utc_ns) is None
    assert day.steps() == ["accepted", "driven", "verified"]


# ---------------------------------------------------------------- ranks and refusals


def test_people_and_remote_leases_go_before_a_schedule_and_it_goes_on_below_them() -> None:
    day = Day()
    day.take(schedule({OUT: [(0, 10), (900, 20)]}, 1800))
    day.after(1)
    day.send(50.0, origin="remote", lease_ns=20 * SECOND_NS)
    assert day.after(2) == 50
    day.send(70.0)
    assert day.after(3) == 70
    day.send(0.0, release=True)
    assert day.after(4) == 50
    assert day.after(30) == 10
    day.send(70.0)
    assert day.after(900) == 70
    day.send(0.0, release=True)
    assert day.after(901) == 20


def test_a_trip_ends_the_slot_and_behind_it_the_schedule_goes_on() -> None:
    day = Day()
    day.take(schedule({OUT: [(0, 10)]}, 900))
    day.after(1)
    day.demands = {1: Demand(0.0, "Fire")}
    assert day.after(20) == 0
    assert day.steps(step="refused") == ["refused"]  # told once, tried every second
    assert day.schedules.overview()["refused"] == [[OUT, "held by trip Fire"]]
    day.demands = {}
    assert day.after(22) == 10
    assert day.schedules.overview()["refused"] == []
    assert len(day.told("schedule runs out")) == 1  # however often its last slot is tried


def test_a_slot_that_is_refused_falls_back_and_is_tried_again_while_it_lasts() -> None:
    day = Day()
    missing = ["", ""]
    day.commands.permitted = lambda index: missing[0]
    day.take(schedule({OUT: [(0, 10), (900, 20), (1800, 30)]}, 2700))
    day.after(1)
    missing[0] = "not permitted by Ready"
    assert day.after(899.5) == 10  # what was accepted stays
    assert day.after(901) == 5
    assert day.after(1000) == 5
    missing[0] = ""
    assert day.after(1002) == 20
    missing[0] = "not permitted by Ready"
    assert day.after(1801) == 5
    assert day.steps(step="refused") == ["refused"] * 2  # once a slot


def test_a_slot_is_not_held_to_the_lease_of_remote_setpoints() -> None:
    day = Day(output(lease_ns=60 * SECOND_NS, fallback=5.0))
    day.take(schedule({OUT: [(0, 10)]}, 900))
    assert day.after(1) == 10
    assert day.after(899) == 10
    assert day.steps(step="refused") == []


def test_rate_max_applies_to_the_step_from_slot_to_slot() -> None:
    day = Day(output(rate_max_per_s=10.0, fallback=5.0))
    day.take(schedule({OUT: [(0, 10), (900, 50)]}, 1800))
    assert day.after(1) == 10
    assert day.after(901) == 5
    assert "faster than RateMax" in day.schedules.overview()["refused"][0][1]


@pytest.mark.parametrize(
    ("slots", "reason"),
    [
        ({"Dev.Nope": [(0, 1)]}, "Dev.Nope: no such point"),
        ({"Dev.In": [(0, 1)]}, "Dev.In: not an output"),
        ({OUT: [(0, 1), (900, 101)]}, "Dev.Out: outside 0 to 100"),
        ({OUT: [(0, -1), (900, 1)]}, "Dev.Out: outside 0 to 100"),
        ({"Dev.Valve": [(0, 0), (900, 0.5), (1000, 1)]}, "not one of the point's discrete values"),
    ],
)
def test_a_schedule_that_can_never_be_executed_is_refused_as_a_whole(
    slots: dict[str, list[tuple[float, float]]], reason: str
) -> None:
    day = Day(
        output(value_min=0.0, value_max=100.0, fallback=5.0),
        point(2, "Dev.In"),
        output(3, "Dev.Valve", kind="discrete", states=("closed", "open")),
    )
    with pytest.raises(ScheduleRefused, match=reason):
        day.take(schedule({OUT: [(0, 10)]} | slots, 1800))
    assert day.after(1) == 5


def test_times_that_are_over_too_far_or_of_the_future_are_refused() -> None:
    day = Day()
    with pytest.raises(ScheduleRefused, match="over already"):
        day.take(schedule({OUT: [(-900, 1)]}, 0))
    with pytest.raises(ScheduleRefused, match="more than 8 days ahead"):
        day.take(schedule({OUT: [(0, 1)]}, 9 * 86_400))
    with pytest.raises(ScheduleRefused, match="in the future"):
        day.take(schedule({OUT: [(0, 1)]}, 900, version=2 * 3600 * SECOND_NS))


def test_there_is_an_end_to_how_many_schedules_are_kept() -> None:
    day = Day()
    for at in range(SCHEDULES_MAX):
        day.take(schedule({OUT: [(0, 1)]}, 900, name=f"n{at}"))
    with pytest.raises(ScheduleRefused, match="schedules are here already"):
        day.take(schedule({OUT: [(0, 1)]}, 900, name="one more"))
    day.after(1)
    day.now_ns += 2 * DAY_NS
    assert len(day.schedules.forget_past(day.utc_ns)) == SCHEDULES_MAX
    assert day.schedules.answer({})["held"] == []


# ---------------------------------------------------------------- clocks


def test_a_clock_that_is_set_forward_brings_the_slot_of_that_time() -> None:
    day = Day()
    day.take(schedule({OUT: [(0, 10), (900, 20), (1800, 30)]}, 2700))
    day.after(1)
    day.step_ns += QUARTER_NS
    assert day.after(2) == 20
    assert day.after(901) == 30
    assert day.after(1799) == 30
    assert day.after(1800) == 5
    assert day.told("schedules follow the clock")[0]["step_s"] == 900


def test_a_clock_that_is_set_back_brings_the_earlier_slot_again_and_its_whole_lease() -> None:
    day = Day()
    day.take(schedule({OUT: [(0, 10), (900, 20)]}, 1800))
    assert day.after(1000) == 20
    day.step_ns -= 300 * SECOND_NS
    assert day.after(1001) == 10
    assert day.after(1199) == 10
    assert day.after(1201) == 20
    assert day.after(2099) == 20
    assert day.after(2100) == 5


def test_a_step_inside_a_slot_makes_its_lease_anew_without_driving_the_fallback() -> None:
    day = Day()
    day.take(schedule({OUT: [(0, 10)]}, 900))
    day.after(600)
    day.step_ns -= 500 * SECOND_NS
    for second in range(601, 1399):
        assert day.after(second) == 10
    assert day.after(1400) == 5


def test_a_clock_that_can_not_be_true_executes_nothing_until_it_is_set() -> None:
    day = Day()
    day.take(schedule({OUT: [(0, 10)]}, 900))
    assert day.after(1) == 10
    true_ns, day.step_ns = day.step_ns, 0
    assert day.after(2) == 5
    assert day.after(60) == 5
    assert [event["points"] for event in day.told("schedules wait")] == [1]
    with pytest.raises(ScheduleRefused, match="the clock of the gateway"):
        day.take(schedule({OUT: [(0, 10)]}, 900, version=2))
    day.step_ns = true_ns
    assert day.after(61) == 10
    assert len(day.told("schedules go on")) == 1
    assert day.told("schedule over") == []


def test_a_clock_behind_the_issue_of_a_schedule_is_not_believed() -> None:
    day = Day()
    day.take(schedule({OUT: [(-7000, 10)]}, 900))  # issued an hour before noon
    assert day.after(1) == 10
    day.step_ns -= 3600 * SECOND_NS + 620 * SECOND_NS
    assert day.after(2) == 5
    assert day.after(30) == 10  # ten minutes behind may be the issuer's clock


# ---------------------------------------------------------------- what is told


def test_one_slot_before_the_end_an_event_warns_once_for_all_points() -> None:
    tags = [f"Dev.Out{at}" for at in range(1, 31)]
    day = Day(*(output(at, tag) for at, tag in enumerate(tags, 1)))
    day.take(schedule({tag: [(0, 10), (900, 20)] for tag in tags}, 1800))
    day.after(899)
    assert day.events == []
    day.after(901)
    (event,) = day.told("schedule runs out")
    assert event["points"] == 30
    assert event["until_utc_ns"] == NOON_NS + 1800 * SECOND_NS
    assert event["tags"] == tags[:10]
    day.after(1801)
    (event,) = day.told("schedule over")
    assert event["points"] == 30
    day.after(2000)
    assert len(day.events) == 2


def test_no_warning_where_another_schedule_follows() -> None:
    day = Day()
    day.take(schedule({OUT: [(0, 10)]}, 900))
    day.take(schedule({OUT: [(900, 20), (1800, 30)]}, 2700, name="next"))
    day.after(1700)
    assert day.events == []
    day.after(1801)
    assert len(day.told("schedule runs out")) == 1


def test_the_gateways_points_say_how_many_are_driven_refused_and_how_long_it_lasts() -> None:
    day = Day(output(), output(2, "Dev.Two"))
    assert day.schedules.points(day.utc_ns) == {
        "Schedule_Points": 0, "Schedule_Refused": 0, "Schedule_Left": 0,
    }  # fmt: skip
    day.take(schedule({OUT: [(0, 10), (900, 20)], "Dev.Two": [(0, 20)]}, 1800))
    day.demands = {2: Demand(0.0, "Fire")}
    day.after(60)
    assert day.schedules.points(day.utc_ns) == {
        "Schedule_Points": 1, "Schedule_Refused": 1, "Schedule_Left": 1740,
    }  # fmt: skip


def test_an_answer_shows_what_is_held_what_is_in_force_and_the_slots_to_come() -> None:
    day = Day()
    clock = day.schedules._clock
    clock.advance(NOON_NS - clock.utc_ns())  # type: ignore[attr-defined]
    day.take(schedule({OUT: [(0, 10), (900, 20)]}, 1800))
    day.take(schedule({OUT: [(600, 15)]}, 700, kind="intraday"))
    day.after(1)
    answer = day.schedules.answer({"tag": OUT})
    assert [(one["kind"], one["slots"]) for one in answer["held"]] == [
        ("intraday", 1), ("day-ahead", 2),
    ]  # fmt: skip
    assert answer["now"][0]["value"] == 10
    found = [((s - NOON_NS) // SECOND_NS, (e - NOON_NS) // SECOND_NS, v, name)
             for s, e, v, name in answer["slots"]]  # fmt: skip
    assert found == [
        (0, 600, 10, "day-ahead site"),
        (600, 700, 15, "intraday site"),
        (700, 900, 10, "day-ahead site"),
        (900, 1800, 20, "day-ahead site"),
    ]


# ---------------------------------------------------------------- many points


def test_a_thousand_points_change_over_some_scans_and_none_falls_back_between() -> None:
    tags = [f"Dev.Out{at}" for at in range(1, 1001)]
    day = Day(*(output(at, tag, fallback=5.0) for at, tag in enumerate(tags, 1)))
    day.take(schedule({tag: [(0, 10), (900, 20)] for tag in tags}, 1800))
    day.after(10)
    assert {o.desired for o in day.commands.outputs.values()} == {10}
    day.now_ns = SECOND_NS + QUARTER_NS
    seen = []
    for _ in range(1000 // VISITS_MAX):
        day.schedules.scan(day.now_ns, day.utc_ns)
        seen += [write.value for write in day.cycle(SECOND_NS // 10)]
        assert (
            sum(day.commands.outputs[at].desired == 20 for at in range(1, 1001)) % VISITS_MAX == 0
        )
    assert {o.desired for o in day.commands.outputs.values()} == {20}
    assert set(seen) == {20}


def test_points_that_are_refused_do_not_keep_others_from_their_slots() -> None:
    tags = [f"Dev.Out{at}" for at in range(1, 201)]
    day = Day(*(output(at, tag, fallback=5.0) for at, tag in enumerate(tags, 1)))
    day.commands.permitted = lambda index: "no" if index <= 190 else ""
    day.take(schedule({tag: [(0, 10), (900, 20)] for tag in tags}, 1800))
    day.after(10)
    assert day.commands.outputs[200].desired == 10
    day.now_ns = SECOND_NS + 899 * SECOND_NS
    assert day.after(905, 200) == 20
    assert len(day.steps(step="refused")) == 2 * 190


def test_while_no_slot_changes_a_scan_looks_at_no_point() -> None:
    day = Day()
    day.take(schedule({OUT: [(0, 10)]}, 900))
    day.after(1)
    looked = []
    day.schedules._visit = lambda *given: looked.append(given)  # type: ignore[method-assign]
    day.after(899)
    assert looked == []
    assert day.schedules._next_ns < TIME_NS_MAX


def test_plausible_is_what_the_clock_module_says() -> None:
    assert NOON_NS > UTC_PLAUSIBLE_NS
