"""Schedules in the field process: by UTC a slot becomes a command, link or no link.

A command of origin ``schedule`` ranks below people and remote leases and goes the way of every
command: range, rate, permissives and trips apply. It is a lease that ends with its slot. Nothing
here waits or touches a disk; gateway/schedule_files.py keeps what was taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from config.points import PointDef
from gateway.commands import Commands, check_value
from gateway.core.clock import UTC_PLAUSIBLE_NS, Clock
from gateway.core.records import Command
from gateway.core.refusals import CommandRefused
from gateway.core.schedule import (
    SLOTS_MAX,
    TIME_NS_MAX,
    Cover,
    Schedule,
    ScheduleError,
    Slot,
    checked,
    covered_until_ns,
    later,
    pack_schedule,
    rank,
    slot_at,
    slots_between,
)

ORIGIN: Final = "schedule"
SCHEDULES_MAX: Final = 100
SLOTS_TOTAL_MAX: Final = 10 * SLOTS_MAX  # 18 MB
VISITS_MAX: Final = 50  # points in one scan, 2 ms; a thousand that change together take twenty
RETRY_NS: Final = 1_000_000_000  # a slot that was refused is tried again while it lasts
# A slot that another one follows is held a little longer, until the next one has its turn: the
# clocks of leases and slots differ, and the next slot may be one of a thousand.
HANDOVER_NS: Final = 30_000_000_000
STEP_NS: Final = 1_000_000_000  # a wall clock that moves by more against the monotonic one stepped
BEHIND_NS: Final = 600_000_000_000  # and no clock is that far behind the issue of what it executes
KEPT_NS: Final = 86_400_000_000_000  # how long a schedule that is over is known, against old ones
NAMED_MAX: Final = 10  # tags in one event
SHOWN_MAX: Final = 1_000  # points or slots in one answer
CHANNELS: Final = ("Schedule_Points", "Schedule_Refused", "Schedule_Left")

Tell = Callable[[str, dict[str, Any]], None]  # kind and body of an event


class ScheduleRefused(Exception):
    """A schedule was not taken; the message is the reason that its sender is told."""


class Taken(NamedTuple):
    """A schedule to be kept, and what all schedules then say of its points and those before.

    covers  tag -> the best first
    """

    schedule: Schedule
    covers: Mapping[str, list[Cover]]


class _Line:
    """One output and what schedules say of it."""

    def __init__(self, point: PointDef, position: int) -> None:
        self.point = point
        self.position = position
        self.covers: list[Cover] = []  # best first
        self.slot: Slot | None = None  # what was in force at the last look
        self.held = False  # and is the setpoint now
        self.followed = False  # by another slot, so that its lease reaches beyond its end
        self.refusal = ""  # else why not
        self.warned_ns = 0  # of which end an event told beforehand


class Schedules:
    """The schedules of one site and what becomes of them, scan by scan."""

    def __init__(self, commands: Commands, event: Tell, clock: Clock, reach_ns: int) -> None:
        """`event` records what happens; `reach_ns` is how far ahead a schedule may end."""
        self._commands = commands
        self._event = event
        self._clock = clock
        self._reach_ns = reach_ns
        self._held: dict[tuple[str, str], Schedule] = {}
        self._lines: dict[int, _Line] = {}
        self._ordered: list[_Line | None] = [None] * len(commands.outputs)
        self._due_ns = np.full(len(commands.outputs), TIME_NS_MAX, dtype=np.int64)
        self._until_ns = np.full(len(commands.outputs), TIME_NS_MAX, dtype=np.int64)
        self._next_ns = TIME_NS_MAX  # the first of `_due_ns`, or earlier
        self._offset_ns: int | None = None  # wall clock less monotonic clock
        self._mistrust = ""  # why the clock can't be true
        self._soon: dict[int, list[str]] = {}  # end -> tags that run out then, not yet told
        self._over: list[str] = []
        self._quiet_ns = 0  # when nothing waited to be told, monotonic
        commands.ended = self._setpoint_ended

    # ------------------------------------------------------------ taking a schedule

    def judge(self, schedule: Schedule, now_utc_ns: int) -> Taken | None:
        """What is to be kept in place of the older version; None where this one is here already.

        Raises ScheduleRefused; changes nothing. A thousand points take 60 ms, so it may run on a
        thread, as long as nobody calls `put` or `forget_past` meanwhile.
        """
        held = self._held.get((schedule.kind, schedule.name))
        if held is not None and held.id == schedule.id:
            return None
        if held is not None and self._void(held, now_utc_ns):
            held = None
        if held is not None and schedule.issued_ns <= held.issued_ns:
            raise ScheduleRefused("a version that was issued then or later is here")
        if schedule.points:  # what only ends a schedule needs no clock
            self._check_times(schedule, now_utc_ns)
        others = [
            s
            for key, s in self._held.items()
            if key != (schedule.kind, schedule.name) and not self._past(s, now_utc_ns)
        ]
        if len(others) >= SCHEDULES_MAX:
            raise ScheduleRefused(f"{SCHEDULES_MAX} schedules are here already")
        self._check_points(schedule)
        kept = schedule if held is None else later(held, schedule, now_utc_ns)
        if kept.count + sum(other.count for other in others) > SLOTS_TOTAL_MAX:
            raise ScheduleRefused(f"more than {SLOTS_TOTAL_MAX} slots in all schedules")
        try:
            pack_schedule(checked(kept))  # with what it keeps of the older one, it has grown
        except ScheduleError as error:
            raise ScheduleRefused(str(error)) from error
        tags = {*kept.points, *(held.points if held is not None else ())}
        return Taken(kept, self._covers(tags, [*others, kept]))

    def _check_times(self, schedule: Schedule, now_utc_ns: int) -> None:
        if reason := self._doubt(now_utc_ns):
            raise ScheduleRefused(f"the clock of the gateway can't be true: {reason}")
        if schedule.issued_ns > now_utc_ns + BEHIND_NS:
            raise ScheduleRefused("it was issued in the future")
        if schedule.end_ns <= now_utc_ns:
            raise ScheduleRefused("it is over already")
        if schedule.end_ns > now_utc_ns + self._reach_ns:
            days = self._reach_ns / 86_400e9
            raise ScheduleRefused(f"it ends more than {days:g} days ahead (Commands.ScheduleMax)")

    def _void(self, held: Schedule, now_utc_ns: int) -> bool:
        """True for what was cleared and bears an issue that only a wrong clock can have made."""
        ahead = held.issued_ns > now_utc_ns + BEHIND_NS
        return ahead and not held.points and not self._doubt(now_utc_ns)

    def _check_points(self, schedule: Schedule) -> None:
        wrong = []
        for tag, slots in schedule.points.items():
            point = self._commands.points.get(tag)
            if point is None:
                wrong.append(f"{tag}: no such point")
            elif point.index not in self._commands.outputs:
                wrong.append(f"{tag}: not an output")
            else:
                try:
                    for value in _extremes(slots.values, every=point.kind == "discrete"):
                        check_value(point, value)
                except CommandRefused as refusal:
                    wrong.append(f"{tag}: {refusal}")
        if wrong:
            more = len(wrong) - NAMED_MAX
            rest = f"; and {more} more points" if more > 0 else ""
            raise ScheduleRefused("; ".join(wrong[:NAMED_MAX]) + rest)

    def put(self, taken: Taken) -> None:
        """Execute what was judged from now on."""
        schedule = taken.schedule
        self._held[schedule.kind, schedule.name] = schedule
        self._cover(taken.covers)

    def restore(self, schedules: Iterable[Schedule]) -> list[str]:
        """Go on with what the last life kept; returns the tags that are no outputs any more."""
        lost: dict[str, None] = {}
        kept = list(schedules)
        tags = {tag: None for schedule in kept for tag in schedule.points}
        covers = self._covers(tags, kept)
        for schedule in kept:
            self.put(Taken(schedule, {tag: covers[tag] for tag in schedule.points}))
            known = (self._commands.points.get(tag) for tag in schedule.points)
            for tag, point in zip(schedule.points, known, strict=True):
                if point is None or point.index not in self._commands.outputs:
                    lost[tag] = None
        return list(lost)

    def forget_past(self, now_utc_ns: int) -> list[Schedule]:
        """Drop what was over a day ago; returns it, for its files to be deleted."""
        if self._doubt(now_utc_ns):
            return []
        past = [s for s in self._held.values() if self._past(s, now_utc_ns)]
        for schedule in past:
            del self._held[schedule.kind, schedule.name]
        tags = {tag for schedule in past for tag in schedule.points}
        self._cover(self._covers(tags, self._held.values()))
        return past

    def _past(self, schedule: Schedule, now_utc_ns: int) -> bool:
        return schedule.end_ns + KEPT_NS < now_utc_ns

    def _covers(self, tags: Iterable[str], schedules: Iterable[Schedule]) -> dict[str, list[Cover]]:
        ordered = sorted(schedules, key=rank)
        return {tag: [Cover(s, s.points[tag]) for s in ordered if tag in s.points] for tag in tags}

    def _cover(self, covers: Mapping[str, list[Cover]]) -> None:
        """Take what schedules say of these points, and look at them in the next scans."""
        for tag, ordered in covers.items():
            point = self._commands.points.get(tag)
            if point is None or point.index not in self._commands.outputs:
                continue
            line = self._lines.get(point.index)
            if line is None:
                position = self._commands.outputs[point.index].position
                line = self._lines[point.index] = _Line(point, position)
                self._ordered[position] = line
            line.covers = ordered
            self._look(line)

    def _look(self, line: _Line) -> None:
        self._due_ns[line.position] = self._next_ns = 0

    # ------------------------------------------------------------ scan

    def scan(self, now_mono_ns: int, now_utc_ns: int) -> None:
        """One scan: nothing but two comparisons while no slot begins or ends."""
        if not self._lines:
            return
        offset_ns = now_utc_ns - now_mono_ns
        stepped = self._offset_ns is None or abs(offset_ns - self._offset_ns) > STEP_NS
        if stepped or (self._mistrust and not self._doubt(now_utc_ns)):
            self._stepped(offset_ns, now_utc_ns)
        if now_utc_ns < self._next_ns:
            return
        if not (self._soon or self._over):
            self._quiet_ns = now_mono_ns
        due = np.flatnonzero(self._due_ns <= now_utc_ns)
        some = due[np.argsort(self._due_ns[due], kind="stable")][:VISITS_MAX]
        for position in some.tolist():
            line = self._ordered[position]
            assert line is not None, "only points of schedules are due"
            self._visit(line, now_mono_ns, now_utc_ns)
        self._next_ns = int(self._due_ns.min())
        # Points of one moment are told together, but no crowd that is tried again keeps it back.
        if len(due) <= VISITS_MAX or now_mono_ns - self._quiet_ns >= HANDOVER_NS:
            self._tell()

    def _stepped(self, offset_ns: int, now_utc_ns: int) -> None:
        """The wall clock was set: every lease is made anew, by what is the time now."""
        step_ns = offset_ns - self._offset_ns if self._offset_ns is not None else 0
        self._offset_ns = offset_ns
        doubt = self._doubt(now_utc_ns)
        if doubt != self._mistrust:
            what = "schedules wait" if doubt else "schedules go on"
            reason = f"the clock can't be true: {doubt}" if doubt else "the clock was set"
            self._event("gateway", {"what": what, "reason": reason, "points": len(self._lines)})
        elif step_ns:
            body = {"what": "schedules follow the clock", "step_s": round(step_ns / 1e9, 3)}
            self._event("gateway", body | {"points": len(self._lines)})
        self._mistrust = doubt
        for line in self._lines.values():
            if line.held:
                line.slot = None  # the same slot has another lease now
            self._look(line)

    def _doubt(self, now_utc_ns: int) -> str:
        """Why a wall time can't be true; empty where it can."""
        if now_utc_ns < UTC_PLAUSIBLE_NS:
            return "nobody has set it since the start"
        held = (s for s in self._held.values() if s.points)
        newest = max(held, key=lambda s: s.issued_ns, default=None)
        if newest is not None and now_utc_ns < newest.issued_ns - BEHIND_NS:
            return f"it is behind the issue of the schedule {_name(newest)}"
        return ""

    def _visit(self, line: _Line, now_mono_ns: int, now_utc_ns: int) -> None:
        """Bring one output to what is in force now."""
        found, again_ns = slot_at(line.covers, now_utc_ns)
        slot = None if self._mistrust else found
        if slot is None:
            self._none(line, now_utc_ns)
            self._due_ns[line.position] = TIME_NS_MAX if self._mistrust else again_ns
            return
        before, line.slot = line.slot, slot
        same = before is not None and before[2:] == slot[2:]
        followed, line.followed = line.followed, slot_at(line.covers, slot.end_ns)[0] is not None
        lease_ns = slot.end_ns - now_utc_ns + (HANDOVER_NS if line.followed else 0)
        if same and line.held:
            if line.followed and not followed:  # its successor came only now
                self._commands.prolong(line.point.index, ORIGIN, now_mono_ns + lease_ns)
        else:
            known = same and bool(line.refusal)
            command = self._command(line, slot, lease_ns)
            line.refusal = self._commands.offer(command, now_mono_ns, now_utc_ns, known=known)
            line.held = not line.refusal
            if line.refusal:
                again_ns = min(again_ns, now_utc_ns + RETRY_NS)
                self._commands.give_back(line.point.index, ORIGIN, "its next slot is refused")
        self._due_ns[line.position] = again_ns
        self._watch_end(line, slot, now_utc_ns)

    def _command(self, line: _Line, slot: Slot, lease_ns: int) -> Command:
        schedule = slot.schedule
        return Command(
            id=self._clock.new_id(),
            tag=line.point.tag,
            value=slot.value,
            origin=ORIGIN,
            lease_ns=lease_ns,
            source=f"{schedule.kind} {schedule.name}, {schedule.id}",
        )

    def _watch_end(self, line: _Line, slot: Slot, now_utc_ns: int) -> None:
        """In the last slot before a hole, note that it runs out."""
        until_ns = covered_until_ns(line.covers, now_utc_ns)
        self._until_ns[line.position] = until_ns
        if slot.end_ns == until_ns and line.warned_ns != until_ns:
            line.warned_ns = until_ns
            self._soon.setdefault(until_ns, []).append(line.point.tag)

    def _none(self, line: _Line, now_utc_ns: int) -> None:
        """Nothing is in force: the setpoint ends, and the output's next rank follows."""
        self._until_ns[line.position] = TIME_NS_MAX
        slot, line.slot, line.refusal = line.slot, None, ""
        why = "the clock can't be true" if self._mistrust else "schedule over"
        self._commands.give_back(line.point.index, ORIGIN, why)
        line.held = False
        if slot is not None and not self._mistrust:
            self._over.append(line.point.tag)

    def _setpoint_ended(self, index: int, origin: str) -> None:
        """See Commands.ended. A trip ended it, say: it is tried again while its slot lasts."""
        line = self._lines.get(index)
        if line is not None and origin == ORIGIN:
            line.held = False
            self._look(line)

    def _tell(self) -> None:
        """What runs out soon, and what has: an event for all points that do so together."""
        for until_ns, tags in self._soon.items():
            self._event(
                "gateway",
                {"what": "schedule runs out", "until_utc_ns": until_ns, **_named(tags)}
                | {"reason": "behind its last slot the fallback follows"},
            )
        if self._over:
            reason = "the fallback follows where nobody else has a setpoint"
            body = {"what": "schedule over", **_named(self._over), "reason": reason}
            self._event("gateway", body)
        self._soon.clear()
        self._over.clear()

    # ------------------------------------------------------------ what can be seen

    def points(self, now_utc_ns: int) -> dict[str, float]:
        """The gateway's own points about schedules: channel -> value."""
        lines = self._lines.values()
        first_ns = int(self._until_ns.min(initial=TIME_NS_MAX))
        left_ns = max(0, first_ns - now_utc_ns) if first_ns < TIME_NS_MAX else 0
        figures = (
            float(sum(line.held for line in lines)),
            float(sum(bool(line.refusal) for line in lines)),
            left_ns / 1e9,
        )
        return dict(zip(CHANNELS, figures, strict=True))

    def overview(self) -> dict[str, Any]:
        """For the status: how many schedules and points, what is refused, and the clock."""
        refused = [line for line in self._lines.values() if line.refusal]
        left = self.points(self._clock.utc_ns())
        return {
            "schedules": sum(bool(s.points) for s in self._held.values()),
            "points": int(left["Schedule_Points"]),
            "left_s": left["Schedule_Left"],
            "refused": [[line.point.tag, line.refusal] for line in refused[:NAMED_MAX]],
            "refused_more": max(0, len(refused) - NAMED_MAX),
            "waits": self._mistrust,
        }

    def answer(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Every schedule and what is in force; of the point ``tag`` its slots to come."""
        now_ns = self._clock.utc_ns()
        point = self._commands.points.get(str(message.get("tag", "")))
        if point is not None and point.index in self._lines:
            coming = slots_between(self._lines[point.index].covers, now_ns, SHOWN_MAX)
            slots = [[s.start_ns, s.end_ns, s.value, _name(s.schedule)] for s in coming]
        else:
            slots = []
        lines = [line for line in self._lines.values() if line.slot is not None]
        return {
            "type": "schedules",
            **self.overview(),
            "held": [
                {
                    "id": s.id,
                    "schedule": s.name,
                    "kind": s.kind,
                    "issued_ns": s.issued_ns,
                    "start_ns": s.start_ns,
                    "end_ns": s.end_ns,
                    "source": s.source,
                    "points": len(s.points),
                    "slots": s.count,
                }
                for s in sorted(self._held.values(), key=rank)
                if s.points
            ],
            "now": [self._shown(line) for line in lines[:SHOWN_MAX]],
            "now_more": max(0, len(lines) - SHOWN_MAX),
            "slots": slots,
        }

    def _shown(self, line: _Line) -> dict[str, Any]:
        assert line.slot is not None
        return {
            "tag": line.point.tag,
            "value": line.slot.value,
            "units": line.point.units,
            "states": line.point.states,
            "end_ns": line.slot.end_ns,
            "until_ns": int(self._until_ns[line.position]),
            "schedule": _name(line.slot.schedule),
            "refusal": line.refusal,
        }


def _extremes(values: NDArray[np.float64], *, every: bool) -> list[float]:
    """The lowest and the highest number of a column, or `every` one of its numbers."""
    numbers = values[~np.isnan(values)]
    if every or not len(numbers):
        return np.unique(numbers).tolist()
    return [float(numbers.min()), float(numbers.max())]


def _name(schedule: Schedule) -> str:
    return f"{schedule.kind} {schedule.name}"


def _named(tags: Sequence[str]) -> dict[str, Any]:
    return {"points": len(tags), "tags": list(tags[:NAMED_MAX])}
