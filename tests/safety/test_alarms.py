"""The alarm table: what no sequence of events may break, restarts, figures, refusals."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from safety import alarm_states as s
from safety.alarm_records import AlarmRefused
from safety.alarms import RESUME_NS
from tests.safety.alarm_rules import OPERATOR, AlarmRules, S

DAY_S = 86_400.0
ACTIONS = (s.ACKNOWLEDGES, s.SHELVES, s.UNSHELVES, s.REMOVES, s.RETURNS)
ASIDE = (s.SHELVED, s.SUPPRESSED, s.OUT_OF_SERVICE)


def whats(events: Any) -> list[str]:
    return [event.what for event in events]


# ---------------------------------------------------------------- the table


def test_the_table_says_one_thing_about_every_event() -> None:
    keys = [
        (row.origin, row.event, when)
        for row in s.TABLE
        for when in ((row.when,) if row.when else s.SITUATIONS)
    ]
    assert len(keys) == len(set(keys))


def test_every_state_can_be_reached_and_left() -> None:
    reached, fresh = set(), {s.NORMAL}
    while fresh:
        reached |= fresh
        fresh = {row.target for row in s.TABLE if row.origin in reached} - reached
    assert reached == set(range(len(s.STATES))) == {row.origin for row in s.TABLE}


def test_no_row_takes_an_active_alarm_out_of_sight_but_by_a_person_or_by_design() -> None:
    for row in s.TABLE:
        if row.target in ASIDE and row.origin not in ASIDE:
            assert row.event in (s.SHELVES, s.REMOVES, s.SUPPRESSES)


# ---------------------------------------------------------------- any sequence of events

STEPS = st.one_of(
    st.tuples(st.just("rule"), st.sampled_from(["", "High", "High_High"]), st.booleans()),
    st.tuples(st.just("guard"), st.booleans()),
    st.tuples(st.just("act"), st.sampled_from(ACTIONS), st.sampled_from([5.0, 100.0])),
    st.tuples(st.just("wait"), st.sampled_from([1.0, 10.0, 200.0])),
    st.tuples(st.just("restart"), st.sampled_from([0.0, 50.0]), st.sampled_from([-3600.0, 0.0])),
)


class Watched:
    """Rules with one alarm, whose invariants are looked at behind every event."""

    def __init__(self, latch: bool) -> None:
        self.rules = AlarmRules(latch=latch)
        self.ends_ns = 0  # of the shelving, by the monotonic clock
        self.guard = False

    def step(self, kind: str, *parts: Any) -> None:
        rules, before = self.rules, self.rules.state()
        rule = rules.rules[0]
        was_active = bool(rule["active"])
        events = []
        if kind == "rule":
            rules.shows(parts[0], reset=parts[1])
            was_active = bool(rule["active"])
        elif kind == "guard":
            self.guard = parts[0]
            rules.guard(self.guard)
        elif kind == "act":
            events = self._act(*parts)
        elif kind == "restart":
            self._restart(*parts)
            was_active = bool(self.rules.rules[0]["active"])
        events += self.rules.scan(parts[0] if kind == "wait" else 1.0)
        assert bool(self.rules.rules[0]["active"]) == was_active, "alarms never touch a rule"
        self._look(before, whats(events), kind)

    def _act(self, what: str, seconds: float) -> list[Any]:
        try:
            event = self.rules.act(what, seconds=seconds)
        except AlarmRefused:
            return []
        if what == s.SHELVES:
            self.ends_ns = self.rules.mono_ns + round(seconds * S)
        return [event]

    def _restart(self, down_s: float, clock_step_s: float) -> None:
        left_ns = self.ends_ns - self.rules.mono_ns
        # A clock that steps back can't tell how long the gateway was away.
        away_ns = round(max(0.0, down_s + clock_step_s) * S)
        self.rules = self.rules.restarted(down_s=down_s, clock_step_s=clock_step_s)
        self.ends_ns = self.rules.mono_ns + left_ns - away_ns
        if clock_step_s:
            self.ends_ns = self.rules.mono_ns + left_ns  # never longer than it had to go
        self.guard = False

    def _look(self, before: str, events: list[str], kind: str) -> None:
        rules, state = self.rules, self.rules.state()
        rule = rules.rules[0]
        if rule["condition"] and state not in [s.STATES[aside] for aside in ASIDE]:
            assert state in ("unacknowledged", "acknowledged"), "an active alarm is shown"
        if state == "suppressed by design":
            assert self.guard
        if state == "shelved":
            assert rules.mono_ns < self.ends_ns, "a shelving ends"
        if before == "out of service" and state != "out of service":
            assert s.RETURNS in events, "only a person puts an alarm into service"
        if state in ("latched unacknowledged", "latched acknowledged"):
            assert rule["latched"]
            assert not rule["condition"]
        if before == "unacknowledged" and state == "acknowledged" and kind != "restart":
            assert s.ACKNOWLEDGES in events, "only a person acknowledges"


# Acknowledged, restarted with its latch, suppressed for a moment, active again.
SUPPRESSED_BEHIND_A_RESTART = [
    ("rule", "High_High", False),
    ("act", s.ACKNOWLEDGES, 5.0),
    ("restart", 0.0, 0.0),
    ("guard", True),
    ("guard", False),
    ("rule", "High_High", False),
]


@settings(max_examples=300, deadline=None)
@given(st.booleans(), st.lists(STEPS, max_size=40))
@example(latch=True, steps=SUPPRESSED_BEHIND_A_RESTART)
def test_any_sequence_of_events_keeps_the_invariants(latch: bool, steps: list[Any]) -> None:
    watched = Watched(latch)
    for step in steps:
        watched.step(*step)


@settings(max_examples=100, deadline=None)
@given(st.booleans(), st.lists(STEPS, max_size=25))
def test_whatever_happened_an_alarm_comes_back_into_sight(latch: bool, steps: list[Any]) -> None:
    """In service, without suppression and behind the longest shelving, an active alarm shows."""
    watched = Watched(latch)
    for step in steps:
        watched.step(*step)
    if watched.rules.state() == "out of service":
        watched.step("act", s.RETURNS, 0.0)
    watched.step("guard", False)
    watched.step("rule", "High", False)
    watched.step("wait", 8 * 3600.0 + 200.0)
    assert watched.rules.state() in ("unacknowledged", "acknowledged")


# ---------------------------------------------------------------- single lives that matter


def test_a_suppression_that_comes_with_the_alarm_comes_first_and_ends_behind_it() -> None:
    rules = AlarmRules()
    rules.guard(True)
    rules.shows("High")
    events = rules.scan()
    assert whats(events) == [s.SUPPRESSES, s.ACTIVATES]
    assert not any(event.announced for event in events)
    rules.guard(False)
    rules.shows("")
    assert whats(rules.scan()) == [s.CLEARS, s.RELEASES]
    assert rules.state() == "normal"


def test_a_shelving_that_ends_under_a_suppression_leaves_the_alarm_suppressed() -> None:
    rules = AlarmRules()
    rules.come()
    rules.act(s.SHELVES, seconds=10)
    rules.guard(True)
    rules.scan()
    assert rules.state() == "shelved"
    assert whats(rules.scan(10)) == [s.EXPIRES]
    assert rules.state() == "suppressed by design"
    rules.guard(False)
    (event,) = rules.scan()
    assert (event.what, event.state, event.announced) == (s.RELEASES, "unacknowledged", True)


def test_an_alarm_of_another_level_is_announced_again_whoever_acknowledged_the_first() -> None:
    rules = AlarmRules()
    rules.come()
    rules.act(s.ACKNOWLEDGES)
    rules.shows("High_High")
    (event,) = rules.scan()
    assert (event.what, event.state) == (s.STEPS, "unacknowledged")
    assert (event.level, event.announced) == ("High_High", True)


def test_an_event_says_that_a_level_is_held_on_a_bad_input() -> None:
    rules = AlarmRules()
    rules.come()
    rules.shows("High", quality=3)
    rules.scan()
    assert rules.act(s.ACKNOWLEDGES).quality == "bad"


def test_a_latch_that_is_set_late_is_told_and_changes_no_state() -> None:
    """A point that was never read activates a rule but does not latch it; the first value does."""
    rules = AlarmRules(latch=True)
    rules.shows("High")
    rules.rules[0]["latched"] = False
    rules.scan()
    rules.rules[0]["latched"] = True
    (event,) = rules.scan()
    assert (event.what, event.latched, event.state) == (s.HOLDS, True, "unacknowledged")


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("before", "what", "reason"),
    [
        ((), s.ACKNOWLEDGES, "nothing to acknowledge: the alarm is normal"),
        ((s.ACKNOWLEDGES,), s.ACKNOWLEDGES, "the alarm is acknowledged, by shift"),
        ((s.SHELVES,), s.ACKNOWLEDGES, "the alarm is shelved"),
        ((), s.UNSHELVES, "the alarm is normal"),
        ((), s.RETURNS, "the alarm is normal"),
        ((s.REMOVES,), s.SHELVES, "the alarm is out of service"),
        ((s.REMOVES,), s.REMOVES, "the alarm is out of service"),
    ],
)
def test_an_action_that_does_not_fit_is_refused_with_the_reason(
    before: tuple[str, ...], what: str, reason: str
) -> None:
    rules = AlarmRules()
    if before or what != s.ACKNOWLEDGES:
        rules.scan()
    if before:
        rules.come()
    for action in before:
        rules.act(action, seconds=60)
    state = rules.state()
    with pytest.raises(AlarmRefused, match=reason):
        rules.act(what, seconds=60)
    assert rules.state() == state


def test_shelving_is_bounded_by_shelve_max_and_needs_a_comment() -> None:
    rules = AlarmRules(shelve_max_s=3600)
    for seconds, reason in ((3601, "3600 s"), (0, "duration"), (-5, "duration")):
        with pytest.raises(AlarmRefused, match=reason):
            rules.act(s.SHELVES, seconds=seconds)
    with pytest.raises(AlarmRefused, match="comment"):
        rules.table.act(0, s.SHELVES, rules.now, type(OPERATOR)("shift", "  ", 1), 60 * S)
    with pytest.raises(AlarmRefused, match="ShelveMax 0"):
        AlarmRules(shelve_max_s=0).act(s.SHELVES, seconds=1)
    assert rules.state() == "normal"
    assert rules.act(s.SHELVES, seconds=3600).until_utc_ns == rules.utc_ns + 3600 * S


# ---------------------------------------------------------------- over a restart


def test_an_acknowledged_alarm_that_is_still_there_behind_a_restart_is_no_news() -> None:
    rules = AlarmRules()
    rules.come()
    rules.act(s.ACKNOWLEDGES)
    rules.scan(2 * DAY_S)
    after = rules.restarted()
    assert after.state() == "normal", "the rule was not evaluated yet"
    assert after.table.kept(after.now) == rules.table.kept(rules.now)
    after.shows("High")
    (event,) = after.scan()
    assert (event.what, event.state, event.announced) == (s.RESUMES, "acknowledged", False)
    assert event.by == "shift"
    assert after.table.figures(after.mono_ns).stale == (0,), "it stands since before the restart"


@pytest.mark.parametrize("change", ["level", "late"])
def test_another_level_or_a_later_return_is_news(change: str) -> None:
    rules = AlarmRules(on_delay_s=30)
    rules.come()
    rules.act(s.ACKNOWLEDGES)
    after = rules.restarted()
    after.shows("")
    after.scan()
    if change == "late":
        after.scan(RESUME_NS / S + 31)
        after.scan()
    after.shows("High_High" if change == "level" else "High")
    (event,) = after.scan()
    assert (event.what, event.state, event.announced) == (s.ACTIVATES, "unacknowledged", True)
    assert not after.table.kept(after.now)["Alarms/A0"].get("by")


def test_an_on_delay_does_not_make_an_acknowledged_alarm_news() -> None:
    rules = AlarmRules(on_delay_s=300)
    rules.come()
    rules.act(s.ACKNOWLEDGES)
    after = rules.restarted()
    after.shows("")  # the delay runs
    after.scan()
    after.scan(300)
    after.shows("High")
    assert whats(after.scan()) == [s.RESUMES]


def test_what_nobody_acknowledged_is_still_there_behind_a_restart() -> None:
    rules = AlarmRules()
    rules.come()
    after = rules.restarted()
    (event,) = after.scan()
    assert (event.what, event.state) == (s.RESTORED, "returned unacknowledged")
    after.act(s.ACKNOWLEDGES)
    assert after.state() == "normal"
    assert after.table.kept(after.now) == {}


@pytest.mark.parametrize("acknowledged", [True, False])
def test_a_latched_alarm_keeps_its_acknowledgement(acknowledged: bool) -> None:
    rules = AlarmRules(latch=True)
    rules.come()
    if acknowledged:
        rules.act(s.ACKNOWLEDGES)
    rules.shows("")
    rules.scan()
    after = rules.restarted()
    after.scan()
    wanted = "latched acknowledged" if acknowledged else "latched unacknowledged"
    assert after.state() == wanted
    after.shows("", reset=True)
    after.scan()
    assert after.state() == ("normal" if acknowledged else "returned unacknowledged")


def test_a_shelving_goes_on_by_the_wall_clock_and_ends_in_the_stop() -> None:
    rules = AlarmRules()
    rules.come()
    rules.act(s.SHELVES, seconds=600)
    rules.scan(99)
    after = rules.restarted(down_s=100)
    after.shows("High")
    assert whats(after.scan()) == [s.RESTORED, s.ACTIVATES]
    left_ns = after.table.shelved_until_utc_ns(0, after.now) - after.utc_ns
    assert left_ns == (600 - 99 - 100 - 1) * S
    ended = rules.restarted(down_s=700)
    ended.shows("High")
    events = ended.scan()
    assert whats(events) == [s.RESTORED, s.ACTIVATES, s.EXPIRES]
    assert [event.announced for event in events] == [False, False, True]


def test_a_clock_that_stepped_back_does_not_prolong_a_shelving() -> None:
    rules = AlarmRules()
    rules.come()
    rules.act(s.SHELVES, seconds=600)
    rules.scan(100)
    after = rules.restarted(clock_step_s=-30 * DAY_S)
    after.shows("High")
    after.scan(499)
    assert after.state() == "shelved"
    after.scan(1)
    assert after.state() == "unacknowledged"


def test_power_cuts_of_a_computer_without_a_clock_do_not_shelve_for_ever() -> None:
    """Behind every cut it is the same time again, and nothing was written at the end."""
    rules = AlarmRules()
    rules.come()
    rules.act(s.SHELVES, seconds=8 * 3600)
    started_utc_ns, kept, shelved_s = rules.utc_ns, rules.table.kept(rules.now), 0
    while rules.state() == "shelved":
        rules = AlarmRules()
        rules.utc_ns = started_utc_ns
        rules.shows("High")
        rules.table.restore(kept, rules.rules, rules.now)
        for _ in range(60):  # an hour until the next cut
            rules.scan(60)
            shelved_s += 60
            if rules.table.kept_changed:
                rules.table.kept_changed = False
                kept = rules.table.kept(rules.now)
    assert shelved_s <= 10 * 3600


def test_out_of_service_lasts_over_restarts_until_a_person_ends_it() -> None:
    rules = AlarmRules()
    rules.act(s.REMOVES)
    for _ in range(3):
        rules = rules.restarted(down_s=30 * DAY_S)
        rules.shows("High")
        rules.scan(DAY_S)
    assert rules.state() == "out of service"
    note = rules.table.note(0)
    assert note is not None
    assert (note.by, note.comment) == ("shift", "because")
    rules.act(s.RETURNS)
    assert rules.state() == "unacknowledged"


@pytest.mark.parametrize(
    "entry",
    [
        None,
        5,
        [],
        {},
        {"state": 7},
        {"state": "nonsense"},
        {"state": "shelved"},
        {"state": "shelved", "until_utc_ns": 2**80, "left_ns": "long"},
        {"state": "shelved", "until_utc_ns": 2**61, "left_ns": 2**61},
        {"state": "acknowledged", "level": ["High"], "since_utc_ns": -5},
    ],
)
def test_a_kept_entry_of_another_form_hides_no_alarm(entry: Any) -> None:
    rules = AlarmRules()
    rules.table.restore({"Alarms/A0": entry, "Alarms/Gone": {}}, rules.rules, rules.now)
    rules.shows("High")
    rules.scan()
    rules.scan(28_800)
    assert rules.state() == "unacknowledged"


def test_the_kept_form_of_a_chattering_alarm_needs_no_new_writing() -> None:
    rules = AlarmRules()
    rules.come()
    assert rules.table.kept_changed
    rules.table.kept_changed = False
    for _ in range(5):
        rules.come("")
        rules.come("High")
    assert not rules.table.kept_changed
