"""The alarms of a site at work: joins safety/alarms.py to journal, commands and retain file.

There is one alarm state for every client: what an operator acknowledges or shelves at the command
line is so for SCADA and cloud, because everybody reads it here and changes it by a command.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from config import status
from config.points import PointDef
from config.site import Site
from gateway.commands import Commands
from gateway.core.clock import Clock
from gateway.core.records import Command
from gateway.core.refusals import CommandRefused
from gateway.core.table import PointTable
from gateway.journal import Journal
from gateway.local import whole_number
from safety import alarm_states
from safety.alarm_records import AlarmEvent, AlarmRefused, Moment, Note
from safety.alarms import AlarmTable
from safety.engine import Engine

# Action of a command -> what it does, and who may ask for it. Only somebody at the site takes an
# alarm out of service or gives it back; a schedule has no eyes to acknowledge with.
ACTIONS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "acknowledge": (alarm_states.ACKNOWLEDGES, ("operator", "remote")),
    "shelve": (alarm_states.SHELVES, ("operator", "remote")),
    "unshelve": (alarm_states.UNSHELVES, ("operator", "remote")),
    "out-of-service": (alarm_states.REMOVES, ("operator",)),
    "in-service": (alarm_states.RETURNS, ("operator",)),
}
ROWS_MAX: Final = 500  # of one answer: each takes 10 µs of the loop
BAD_INPUTS_MAX: Final = 10  # named of one alarm
COMMANDS_MAX: Final = 10_000  # that wait for the next scan: an acknowledgement of every alarm


class Alarms:
    """The alarms of one field process."""

    def __init__(
        self,
        site: Site,
        table: PointTable,
        engine: Engine,
        journal: Journal,
        commands: Commands,
        clock: Clock,
    ) -> None:
        """Takes the commands on alarms from `commands`."""
        self._rules = site.personality.alarms
        self._points = table
        self._engine = engine
        self._journal = journal
        self._commands = commands
        self._clock = clock
        self._done: list[Command] = []  # carried out; the next scan says so
        self._table = AlarmTable(engine.program, self._rules)
        self._tags = [site.points[info.point - 1].tag for info in self._table.infos]
        self._by_tag = {tag: alarm for alarm, tag in enumerate(self._tags)}
        # When each was announced last; before that, when this life began.
        self._announced_utc_ns = [clock.utc_ns()] * len(self._tags)
        commands.handle("rule", ACTIONS, self._command)

    def _now(self) -> Moment:
        return Moment(self._clock.monotonic_ns(), self._clock.utc_ns())

    # ------------------------------------------------------------ the scan

    def scan(self, changed: NDArray[np.int32], now_mono_ns: int, now_utc_ns: int) -> bool:
        """Follow the rules and record what became of the alarms; behind every Engine.scan.

        changed  rows of the rules that changed, as Engine.scan returns them
        Returns whether `kept` is to be written at once: somebody set an alarm aside or took it
        back, was told so, and a crash must not turn that round.
        """
        now = Moment(now_mono_ns, now_utc_ns)
        for event in self._table.scan(changed, self._engine.state, now):
            self._record(event, now)
        for command in self._done:
            self._commands.report(command, "verified", "")
        at_once = any(command.action != "acknowledge" for command in self._done)
        self._done.clear()
        return at_once

    def _record(self, event: AlarmEvent, now: Moment) -> None:
        info = self._table.infos[event.alarm]
        if event.announced:
            self._announced_utc_ns[event.alarm] = now.utc_ns
        body: dict[str, Any] = {
            "name": info.name,
            "what": event.what,
            "state": event.state,
            "level": event.level,
            "active": event.active,
            "latched": event.latched,
            "priority": info.priority,
            "quality": event.quality,
            "announced": event.announced,
        }
        if event.by or event.comment:
            body |= {"by": event.by, "comment": event.comment}
        if event.until_utc_ns:
            body["until_utc_ns"] = event.until_utc_ns
        self._journal.event("alarm", body, now.utc_ns)

    # ------------------------------------------------------------ commands

    def _command(self, command: Command, point: PointDef) -> None:
        """Carry out a command on an alarm's point; raises CommandRefused with the reason.

        A shelving lasts for the command's `lease_ns`.
        """
        alarm = self._by_tag.get(point.tag)
        if alarm is None:
            raise CommandRefused(
                "action",
                f"{point.tag} is no alarm. Trips can't be shelved or acknowledged; the alarm that "
                "a trip reads can, and the trip acts all the same",
            )
        what, origins = ACTIONS[command.action]
        if command.origin not in origins:
            who = " and ".join(origins)
            raise CommandRefused("not-yours", f"{command.action} is for {who} only")
        if len(self._done) >= COMMANDS_MAX:
            raise CommandRefused("busy", "too many commands wait for the scan")
        seen_utc_ns = command.seen_utc_ns or self._announced_utc_ns[alarm]
        if seen_utc_ns != self._announced_utc_ns[alarm]:
            raise CommandRefused("announced", "the alarm was announced again since it was seen")
        now = self._now()
        note = Note(command.source or command.origin, command.comment, now.utc_ns)
        try:
            event = self._table.act(alarm, what, now, note, command.lease_ns)
        except AlarmRefused as refused:
            raise CommandRefused(refused.code, str(refused)) from refused
        self._record(event, now)
        self._done.append(command)

    # ------------------------------------------------------------ over a restart

    @property
    def kept_changed(self) -> bool:
        """What `kept` gives is no longer what the retain file holds."""
        return self._table.kept_changed

    def kept(self) -> dict[str, dict[str, Any]]:
        """What the retain file must hold of the alarms; the caller writes it."""
        self._table.kept_changed = False
        return self._table.kept(self._now())

    def restore(self, kept: object) -> None:
        """Take up what `kept` gave in the last life; once, before the first scan.

        The engine has latched again what was latched. Alarms that are gone, and what has another
        form than `kept` gives, are left out.
        """
        entries = kept if isinstance(kept, Mapping) else {}
        self._table.restore(entries, self._engine.state, self._now())

    # ------------------------------------------------------------ what clients see

    def answer(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to the local message ``alarms``: rows and figures.

        ``all``    the normal ones too
        ``tags``   only the alarms with these points; unknown ones are left out
        ``brief``  rows have name, tag and state only, to look names up; no figures
        ``start``  where to go on: an answer has at most ROWS_MAX rows that are not brief, and
                   ``next`` says where the rest begins, 0 = that was all
        """
        tags, brief = message.get("tags"), bool(message.get("brief"))
        start = whole_number({"start": 0, **message}, "start")
        if isinstance(tags, list):
            known = (self._by_tag.get(tag, -1) for tag in tags if isinstance(tag, str))
            chosen = sorted(alarm for alarm in known if alarm >= start)
        elif message.get("all"):
            chosen = list(range(start, len(self._tags)))
        else:
            found = np.flatnonzero(self._table.state != alarm_states.NORMAL)
            chosen = found[found >= start].tolist()
        if brief:
            return {"type": "alarms", "alarms": [self._brief(alarm) for alarm in chosen]}
        now, rest = self._now(), chosen[ROWS_MAX:]
        return {
            "type": "alarms",
            "alarms": [self._row(alarm, now) for alarm in chosen[:ROWS_MAX]],
            "next": rest[0] if rest else 0,
            "figures": self._figures(now.mono_ns),
        }

    def _brief(self, alarm: int) -> dict[str, Any]:
        return {
            "name": self._table.infos[alarm].name,
            "tag": self._tags[alarm],
            "state": alarm_states.STATES[self._table.state[alarm]],
        }

    def _row(self, alarm: int, now: Moment) -> dict[str, Any]:
        table, info = self._table, self._table.infos[alarm]
        event, rule, note = table.event(alarm), self._rules[info.name], table.note(alarm)
        return {
            **self._brief(alarm),
            "level": event.level,
            "priority": info.priority,
            "active": event.active,
            "latched": event.latched,
            "quality": event.quality,
            "bad_inputs": self._bad_inputs(alarm) if event.quality == "bad" else [],
            "since_utc_ns": int(table.since_utc_ns[alarm]),
            "announced_utc_ns": self._announced_utc_ns[alarm],
            "shelved_until_utc_ns": table.shelved_until_utc_ns(alarm, now),
            "shelve_max_s": info.shelve_max_ns / 1e9,
            "by": note.by if note else "",
            "comment": note.comment if note else "",
            "description": rule.Description,
            "cause": rule.Cause,
            "consequence": rule.Consequence,
            "action": rule.Action,
            "suppress_when": rule.SuppressWhen or "",
        }

    def _bad_inputs(self, alarm: int) -> list[list[str]]:
        """Tags of bad inputs, with the names of their statuses."""
        inputs = self._engine.program.info[self._table.infos[alarm].rule].inputs
        rows = self._points.rows[list(inputs)]
        bad = (rows["status"] >= status.BAD) | np.isnan(rows["value"])
        found = np.flatnonzero(bad)[:BAD_INPUTS_MAX].tolist()
        return [
            [self._points.points[inputs[at] - 1].tag, status.name_of(int(rows["status"][at]))]
            for at in found
        ]

    def overview(self) -> dict[str, Any]:
        """What ``gatepost status`` says of the alarms: how many are in which state."""
        figures = self._table.figures(self._clock.monotonic_ns())
        names = [self._table.infos[alarm].name for alarm in figures.bad_input[:BAD_INPUTS_MAX]]
        return {
            "unacknowledged": figures.unacknowledged,
            "standing": figures.standing,
            "shelved": figures.shelved,
            "suppressed": figures.suppressed,
            "out_of_service": figures.out_of_service,
            "flood": figures.flood,
            "bad_input": len(figures.bad_input),
            "bad_input_names": names,
        }

    def state_of(self, rule: int) -> str:
        """The state of the alarm that a row of the program is; empty where it is none."""
        alarm = self._table.alarm_of(rule)
        return "" if alarm is None else alarm_states.STATES[self._table.state[alarm]]

    def _figures(self, now_mono_ns: int) -> dict[str, Any]:
        """The figures with the alarms' names."""
        infos = self._table.infos
        figures, day = self._table.figures(now_mono_ns), self._table.day(now_mono_ns)
        return {
            **asdict(figures),
            **asdict(day),
            "configured": len(infos),
            "chattering": [infos[alarm].name for alarm in figures.chattering],
            "stale": [infos[alarm].name for alarm in figures.stale],
            "bad_input": [infos[alarm].name for alarm in figures.bad_input],
            "frequent": [[infos[alarm].name, count] for alarm, count in day.frequent],
        }

    def points(self) -> dict[str, float]:
        """The gateway's own points about alarms: channel -> value."""
        figures = self._table.figures(self._clock.monotonic_ns())
        aside = figures.shelved + figures.suppressed + figures.out_of_service
        return {
            "Alarms_Active": float(figures.active),
            "Alarms_Unacknowledged": float(figures.unacknowledged),
            "Alarms_Shelved": float(aside),
            "Alarm_Rate": float(figures.rate),
            "Alarms_Chattering": float(len(figures.chattering)),
            "Alarms_Stale": float(len(figures.stale)),
            "Alarms_Bad_Input": float(len(figures.bad_input)),
        }
