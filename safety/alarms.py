"""Alarms after ISA-18.2: carries the state of every alarm of a program from scan to scan.

The state table is in safety/alarm_states.py, the figures are in safety/alarm_figures.py. The
alarms hear of the rules and never act on them: a trip that reads an alarm sees it, whether somebody
shelved the alarm or not.

Pure: the time is handed in. What an operator may not do raises AlarmRefused with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from config.model import AlarmRule
from safety import alarm_states as s
from safety import layout
from safety.alarm_figures import FLOOD_MORE_THAN, STALE_NS, AlarmCounts, AlarmDay, AlarmFigures
from safety.alarm_records import (
    NEVER_NS,
    AlarmEvent,
    AlarmInfo,
    AlarmRefused,
    Entry,
    Moment,
    Note,
)
from safety.layout import Program

_CLEAR, _ACTIVE, _LATCHED = range(3)  # positions in SITUATIONS; DESIGN is kept beside them

# What the change of a rule is to its alarm, by the situations before and after.
_RULE_EVENT: Final = {
    (_CLEAR, _ACTIVE): s.ACTIVATES,
    (_LATCHED, _ACTIVE): s.ACTIVATES,
    (_ACTIVE, _LATCHED): s.LATCHES,
    (_ACTIVE, _CLEAR): s.CLEARS,
    (_LATCHED, _CLEAR): s.RESETS,
}

# An alarm that was acknowledged before a restart and is active again with the same level this
# long after its rule's first result, and its on-delay, is the same alarm. Later it is a new one.
RESUME_NS: Final = 60_000_000_000
FORGET_NS: Final = 1_000_000_000
# While an alarm is shelved, what is left of it is kept anew this often: over a restart nobody can
# trust the wall clock of a computer that has none behind its power switch.
KEEP_SHELVES_NS: Final = 600_000_000_000
QUALITY_NAMES: Final = ("good", "uncertain", "bad", "bad")  # by layout.QUALITY_...
_NOTHING: Final = {  # of what operators ask for, to begin the reason of a refusal
    s.ACKNOWLEDGES: "nothing to acknowledge: ",
    s.UNSHELVES: "not shelved: ",
    s.RETURNS: "not out of service: ",
}
NOBODY: Final = Note("", "", 0)
_STANDING: Final = np.isin(np.arange(len(s.STATES)), s.STANDING_STATES)


@dataclass(frozen=True, slots=True)
class _Before:
    """An alarm that was acknowledged before a restart, and whose return is no news.

    level     string id, 0 = a level that the site no longer has
    until_ns  monotonic; NEVER_NS until the rule had its first result
    utc_ns    when the alarm had come, and since when it was acknowledged
    """

    level: int
    until_ns: int
    utc_ns: int
    since_utc_ns: int
    note: Note


class AlarmTable:
    """The alarms of a program.

    infos      (A,) in the order of the program's rules
    state      (A,) int8, position in STATES
    level      (A,) int32, string id of what each rule shows, 0 = inactive
    since_utc_ns  (A,) int64, when the alarm came into its state
    kept_changed  what `kept` gives has changed; the caller clears it
    """

    def __init__(self, program: Program, rules: Mapping[str, AlarmRule]) -> None:
        """`rules` are the site's alarms by name, for what the program does not hold."""
        self.infos = tuple(
            _info(program, row, rules) for row, i in enumerate(program.info) if i.kind == "alarm"
        )
        count = len(self.infos)
        self.state: NDArray[np.int8] = np.zeros(count, dtype=np.int8)
        self.level: NDArray[np.int32] = np.zeros(count, dtype=np.int32)
        self.since_utc_ns: NDArray[np.int64] = np.zeros(count, dtype=np.int64)
        self.kept_changed = False
        self._strings = program.strings
        self._rule_rows = np.array([info.rule for info in self.infos], dtype=np.intp)
        self._of_rule = np.full(len(program.info), -1, dtype=np.int32)
        self._of_rule[self._rule_rows] = np.arange(count)
        self._situation = np.zeros(count, dtype=np.int8)
        self._latched = np.zeros(count, dtype=np.bool_)
        self._active_since_ns = np.zeros(count, dtype=np.int64)
        guarded = [at for at, info in enumerate(self.infos) if info.suppress >= 0]
        self._guarded = np.array(guarded, dtype=np.intp)
        self._guards = np.array([self.infos[at].suppress for at in guarded], dtype=np.intp)
        self._guard_on = np.zeros(len(guarded), dtype=np.bool_)
        self._design = np.zeros(count, dtype=np.bool_)  # the guard of this alarm is on
        self._latching = np.zeros(0, dtype=np.intp)  # latching alarms that are not clear
        self._of_latching = np.zeros(0, dtype=np.intp)  # their rows of the program
        self._latching_moved = False
        self._shelves: dict[int, int] = {}  # alarm -> end on the monotonic clock
        self._shelves_kept_ns = 0
        self._expiry_ns = NEVER_NS
        self._notes: dict[int, Note] = {}
        self._before: dict[int, _Before] = {}
        self._forget_ns = 0  # when to look through them again: thousands may wait for a dead device
        self._restored: list[int] = []
        self._rules: NDArray[np.void] = np.zeros(len(program.info), dtype=layout.STATE)
        self._counts = AlarmCounts([info.priority for info in self.infos])

    # ------------------------------------------------------------ the scan

    def scan(
        self, changed: NDArray[np.int32], rules: NDArray[np.void], now: Moment
    ) -> list[AlarmEvent]:
        """Follow the rules; call it behind every scan of the engine.

        changed  rows of the rules that changed, as Engine.scan returns them
        rules    (R,) STATE, the engine's; only read, and read again by what operators do later
        """
        self._rules = rules
        events = [self._event(alarm, s.RESTORED, False) for alarm in self._restored]
        self._restored.clear()
        ended: Iterable[int] = ()
        if len(self._guards):
            on = rules["active"][self._guards]
            moved = np.flatnonzero(on != self._guard_on)
            if len(moved):
                self._guard_on[moved] = on[moved]
                self._design[self._guarded[moved]] = on[moved]
                for alarm in self._guarded[moved[on[moved]]].tolist():
                    self._step(alarm, s.SUPPRESSES, now, events)
                ended = self._guarded[moved[~on[moved]]].tolist()
        # A suppression begins before, and ends behind, what the rule does in the same scan.
        self._follow(changed, rules, now, events)
        for alarm in ended:
            self._step(alarm, s.RELEASES, now, events)
        if now.mono_ns >= self._expiry_ns:
            self._expire(now, events)
        if self._shelves and now.mono_ns - self._shelves_kept_ns >= KEEP_SHELVES_NS:
            self._shelves_kept_ns = now.mono_ns
            self.kept_changed = True
        if self._before and now.mono_ns >= self._forget_ns:
            self._forget_ns = now.mono_ns + FORGET_NS
            self._forget(rules, now)
        return events

    def _follow(
        self,
        changed: NDArray[np.int32],
        rules: NDArray[np.void],
        now: Moment,
        events: list[AlarmEvent],
    ) -> None:
        for alarm in self._of_rule[changed].tolist() if len(changed) else ():
            if alarm >= 0:
                self._observe(alarm, rules[self.infos[alarm].rule], now, events)
        if self._latching_moved:
            self._watch_latching()
        if not len(self._latching):
            return
        # The engine does not report that the cause of a latched rule went or came back.
        holds = rules["condition"][self._of_latching] != 0
        held = self._situation[self._latching] == _ACTIVE
        for alarm in self._latching[holds != held].tolist():
            self._observe(alarm, rules[self.infos[alarm].rule], now, events)

    def _observe(self, alarm: int, rule: Any, now: Moment, events: list[AlarmEvent]) -> None:
        situation = _ACTIVE if rule["condition"] else _LATCHED if rule["active"] else _CLEAR
        before, level = int(self._situation[alarm]), int(rule["level"])
        stepped = situation == before == _ACTIVE and level != self.level[alarm]
        latched = bool(rule["latched"]) != bool(self._latched[alarm])
        self._situation[alarm], self.level[alarm] = situation, level
        self._latched[alarm] = rule["latched"]
        if before == _CLEAR and situation != _CLEAR:
            self._active_since_ns[alarm] = now.mono_ns
        self._latching_moved |= self.infos[alarm].latch
        what = s.STEPS if stepped else _RULE_EVENT.get((before, situation), "")
        before_restart = self._before.pop(alarm, None) if what == s.ACTIVATES else None
        resumes = before_restart is not None and before_restart.level == level
        # Not where a suppression ended meanwhile: behind it the alarm is new.
        if before_restart is not None and resumes and self._row(alarm, s.RESUMES) is not None:
            self._step(alarm, s.RESUMES, now, events, before_restart.note)
            self._since(alarm, before_restart, now)
        elif what:
            self._step(alarm, what, now, events)
        elif latched:
            events.append(self._event(alarm, s.HOLDS, False))

    def _since(self, alarm: int, before: _Before, now: Moment) -> None:
        """An alarm that goes on behind a restart stands for as long as it does."""
        stood_ns = max(0, now.utc_ns - before.utc_ns)
        self._active_since_ns[alarm] = now.mono_ns - stood_ns
        if self.state[alarm] == s.ACKNOWLEDGED:
            self.since_utc_ns[alarm] = before.since_utc_ns

    def _watch_latching(self) -> None:
        latching = [
            at for at in np.flatnonzero(self._situation != _CLEAR).tolist() if self.infos[at].latch
        ]
        self._latching_moved = False
        self._latching = np.array(latching, dtype=np.intp)
        rows = [self.infos[at].rule for at in latching]
        self._of_latching = np.array(rows, dtype=np.intp)

    def _expire(self, now: Moment, events: list[AlarmEvent]) -> None:
        for alarm, until_ns in sorted(self._shelves.items()):
            if now.mono_ns >= until_ns:
                self._step(alarm, s.EXPIRES, now, events)
        self._set_expiry()

    def _forget(self, rules: NDArray[np.void], now: Moment) -> None:
        """What was acknowledged before a restart and stays away is no news no more."""
        for alarm, before in tuple(self._before.items()):
            info = self.infos[alarm]
            if before.until_ns == NEVER_NS and rules[info.rule]["seen"]:
                until_ns = now.mono_ns + info.on_delay_ns + RESUME_NS
                self._before[alarm] = replace(before, until_ns=until_ns)
            elif now.mono_ns >= before.until_ns:
                del self._before[alarm]
                self.kept_changed = True

    # ------------------------------------------------------------ one transition

    def _row(self, alarm: int, what: str) -> s.Transition | None:
        situation = s.DESIGN if self._design[alarm] else s.SITUATIONS[self._situation[alarm]]
        return s.transition(int(self.state[alarm]), what, situation)

    def _step(
        self,
        alarm: int,
        what: str,
        now: Moment,
        events: list[AlarmEvent],
        note: Note | None = None,
    ) -> None:
        """Make a transition where the table has one; an event without a row changes nothing."""
        row = self._row(alarm, what)
        if row is None:
            return
        kept = self._kept_form(alarm)
        if row.target != row.origin:
            self.state[alarm] = row.target
            self.since_utc_ns[alarm] = now.utc_ns
            if row.target != s.LATCHED_ACKNOWLEDGED:  # who acknowledged it stays of interest
                self._notes.pop(alarm, None)
            if row.origin == s.SHELVED:
                del self._shelves[alarm]
        if note is not None and row.target in s.OPERATOR_STATES:
            self._notes[alarm] = note
        if row.announced:
            self._counts.announce(alarm, now.mono_ns)
        self.kept_changed |= what in (s.SHELVES, s.REMOVES) or kept != self._kept_form(alarm)
        events.append(self._event(alarm, what, row.announced, note))

    def _event(
        self, alarm: int, what: str, announced: bool, note: Note | None = None
    ) -> AlarmEvent:
        rule = self._rules[self.infos[alarm].rule]
        return AlarmEvent(
            alarm=alarm,
            what=what,
            state=s.STATES[self.state[alarm]],
            level=self._strings[self.level[alarm]] if self.level[alarm] else "",
            active=bool(self._situation[alarm] != _CLEAR),
            latched=bool(self._latched[alarm]),
            quality=QUALITY_NAMES[int(rule["quality"])],
            announced=announced,
            by=note.by if note else "",
            comment=note.comment if note else "",
        )

    # ------------------------------------------------------------ what operators do

    def act(
        self, alarm: int, what: str, now: Moment, note: Note, duration_ns: int = 0
    ) -> AlarmEvent:
        """Carry out what an operator does to an alarm; raises AlarmRefused with the reason.

        what         ACKNOWLEDGES, SHELVES, UNSHELVES, REMOVES or RETURNS
        duration_ns  of a shelving
        """
        if self._row(alarm, what) is None:
            raise AlarmRefused(self._code(alarm, what), self._reason(alarm, what))
        if what in (s.SHELVES, s.REMOVES) and not note.comment.strip():
            raise AlarmRefused("comment", "a comment is needed: why is the alarm set aside?")
        if what == s.SHELVES:
            self._check_shelving(alarm, duration_ns)
            self._shelves[alarm] = now.mono_ns + duration_ns
            self._set_expiry()
        self._before.pop(alarm, None)  # whatever was before a restart, somebody acted since
        events: list[AlarmEvent] = []
        self._step(alarm, what, now, events, note)
        until_utc_ns = now.utc_ns + duration_ns if what == s.SHELVES else 0
        return events[0]._replace(until_utc_ns=until_utc_ns)

    def _code(self, alarm: int, what: str) -> str:
        """Why the state table has no row for what an operator does."""
        state = int(self.state[alarm])
        if what == s.ACKNOWLEDGES and state < s.SHELVED:
            return "acknowledged"
        return "not-shelved" if what == s.UNSHELVES else "alarm-state"

    def _reason(self, alarm: int, what: str) -> str:
        note, state = self._notes.get(alarm), s.STATES[self.state[alarm]]
        who = f", by {note.by}" if note and note.by else ""
        return f"{_NOTHING.get(what, '')}the alarm is {state}{who}"

    def _check_shelving(self, alarm: int, duration_ns: int) -> None:
        longest_ns = self.infos[alarm].shelve_max_ns
        if longest_ns == 0:
            raise AlarmRefused("not-shelvable", "the alarm can't be shelved (ShelveMax 0)")
        if duration_ns <= 0:
            raise AlarmRefused("shelve-time", "a shelving needs a duration")
        if duration_ns > longest_ns:
            raise AlarmRefused(
                "shelve-time",
                f"{duration_ns / 1e9:g} s are longer than ShelveMax, which is "
                f"{longest_ns / 1e9:g} s",
            )

    def _set_expiry(self) -> None:
        self._expiry_ns = min(self._shelves.values(), default=NEVER_NS)

    def note(self, alarm: int) -> Note | None:
        """Who acknowledged it, shelved it or took it out of service; None in other states."""
        return self._notes.get(alarm)

    def shelved_until_utc_ns(self, alarm: int, now: Moment) -> int:
        """The end of its shelving by the wall clock; 0 where it is not shelved."""
        until_ns = self._shelves.get(alarm)
        return 0 if until_ns is None else now.utc_ns + until_ns - now.mono_ns

    def event(self, alarm: int) -> AlarmEvent:
        """The alarm as it is now, in the form of an event that nothing brought about."""
        return self._event(alarm, "", False)

    def alarm_of(self, rule: int) -> int | None:
        """The alarm that a row of the program is; None where it is none."""
        alarm = int(self._of_rule[rule])
        return alarm if alarm >= 0 else None

    # ------------------------------------------------------------ over a restart

    def _kept_form(self, alarm: int) -> tuple[int, int]:
        """What of an alarm must survive a restart: a state (NORMAL = nothing), and a level.

        The same form needs no new writing.
        """
        state = int(self.state[alarm])
        if alarm in self._before and state in (s.NORMAL, s.SUPPRESSED, s.LATCHED_ACKNOWLEDGED):
            return s.ACKNOWLEDGED, self._before[alarm].level
        if state in (s.NORMAL, s.SUPPRESSED):
            return s.NORMAL, 0
        if state in s.UNACKNOWLEDGED_STATES:
            return s.RETURNED, 0
        return state, int(self.level[alarm]) if state == s.ACKNOWLEDGED else 0

    def kept(self, now: Moment) -> dict[str, dict[str, Any]]:
        """What must survive a restart, by the alarms' names; plain values for JSON."""
        found = {}
        for alarm, info in enumerate(self.infos):
            state, level = self._kept_form(alarm)
            if state == s.NORMAL:
                continue
            before = self._before.get(alarm)
            since_ns = before.since_utc_ns if before else int(self.since_utc_ns[alarm])
            entry: dict[str, Any] = {"state": s.STATES[state], "since_utc_ns": since_ns}
            if state == s.ACKNOWLEDGED:
                standing_ns = now.mono_ns - int(self._active_since_ns[alarm])
                entry["level"] = self._strings[level]
                entry["active_utc_ns"] = before.utc_ns if before else now.utc_ns - standing_ns
            if alarm in self._shelves:
                entry["until_utc_ns"] = self.shelved_until_utc_ns(alarm, now)
                entry["left_ns"] = self._shelves[alarm] - now.mono_ns
            note = before.note if before else self._notes.get(alarm, NOBODY)
            if note.utc_ns:
                entry |= {"by": note.by, "comment": note.comment, "at_utc_ns": note.utc_ns}
            found[info.name] = entry
        return found

    def restore(self, kept: Mapping[str, Any], rules: NDArray[np.void], now: Moment) -> None:
        """Take up what `kept` gave; once, before the first scan.

        rules  (R,) STATE of the engine, behind its own `restore`: latched rules are active

        A shelving goes on by the wall clock, and never longer than it still had to go, or than
        ShelveMax allows now: a clock that stepped back must not prolong it. Alarms that are gone
        and entries of another form are left out.
        """
        self._rules = rules
        for alarm, info in enumerate(self.infos):
            rule = rules[info.rule]
            if rule["active"]:
                self._situation[alarm], self.level[alarm] = _LATCHED, rule["level"]
                self._latched[alarm] = rule["latched"]
                self._active_since_ns[alarm] = now.mono_ns
                self.state[alarm] = s.LATCHED_UNACKNOWLEDGED
                self.since_utc_ns[alarm] = now.utc_ns
            entry = kept.get(info.name)
            if isinstance(entry, Mapping):
                self._restore_one(alarm, Entry(entry), now)
            if self.state[alarm] != s.NORMAL:
                self._restored.append(alarm)
        self._watch_latching()
        self._set_expiry()

    def _restore_one(self, alarm: int, entry: Entry, now: Moment) -> None:
        state, latched = entry.text("state"), self._situation[alarm] == _LATCHED
        note = Note(entry.text("by"), entry.text("comment"), entry.number("at_utc_ns"))
        if state == s.STATES[s.OUT_OF_SERVICE]:
            self.state[alarm] = s.OUT_OF_SERVICE
        elif state == s.STATES[s.SHELVED]:
            self.state[alarm] = s.SHELVED
            left_ns = min(entry.number("left_ns"), self.infos[alarm].shelve_max_ns)
            left_ns = min(entry.number("until_utc_ns") - now.utc_ns, left_ns)
            self._shelves[alarm] = now.mono_ns + max(left_ns, 0)
        elif state == s.STATES[s.ACKNOWLEDGED]:
            self.state[alarm] = s.LATCHED_ACKNOWLEDGED if latched else s.NORMAL
            level = entry.text("level")
            number = self._strings.index(level) if level in self._strings else 0
            began_ns = entry.number("active_utc_ns")
            since_ns = entry.number("since_utc_ns")
            self._before[alarm] = _Before(number, NEVER_NS, began_ns, since_ns, note)
        elif state == s.STATES[s.LATCHED_ACKNOWLEDGED] and latched:
            self.state[alarm] = s.LATCHED_ACKNOWLEDGED
        elif state in s.STATES and not latched and state != s.STATES[s.NORMAL]:
            self.state[alarm] = s.RETURNED
        if self.state[alarm] != s.NORMAL:
            self.since_utc_ns[alarm] = entry.number("since_utc_ns") or now.utc_ns
            if note.utc_ns:
                self._notes[alarm] = note

    # ------------------------------------------------------------ figures

    def figures(self, now_mono_ns: int) -> AlarmFigures:
        """The figures of this moment."""
        of = np.bincount(self.state, minlength=len(s.STATES)).tolist()
        standing = _STANDING[self.state]
        stale = standing & (now_mono_ns - self._active_since_ns > STALE_NS)
        bad = self._rules["quality"][self._rule_rows] >= layout.QUALITY_BAD_FROM
        rate = self._counts.rate(now_mono_ns)
        return AlarmFigures(
            active=int(np.count_nonzero(self._situation == _ACTIVE)),
            standing=int(np.count_nonzero(standing)),
            unacknowledged=sum(of[state] for state in s.UNACKNOWLEDGED_STATES),
            shelved=of[s.SHELVED],
            suppressed=of[s.SUPPRESSED],
            out_of_service=of[s.OUT_OF_SERVICE],
            rate=rate,
            flood=rate > FLOOD_MORE_THAN,
            chattering=tuple(self._counts.chattering(now_mono_ns).tolist()),
            stale=tuple(np.flatnonzero(stale).tolist()),
            bad_input=tuple(np.flatnonzero(bad).tolist()),
        )

    def day(self, now_mono_ns: int) -> AlarmDay:
        """The figures of the last 24 h."""
        return self._counts.day(now_mono_ns)


def _info(program: Program, row: int, rules: Mapping[str, AlarmRule]) -> AlarmInfo:
    info, rule = program.info[row], rules[program.info[row].name]
    return AlarmInfo(
        name=info.name,
        point=info.point,
        rule=row,
        suppress=info.suppress,
        priority=info.priority,
        latch=info.latch,
        on_delay_ns=int(program.rules[row]["on_delay_ns"]),
        shelve_max_ns=round(rule.ShelveMax * 1e9),
    )
