"""The scan: one pass over the point table, in a fixed order, and nothing in it waits.

    age -> protection (derived points, interlocks, alarms, states) -> commands -> outputs -> journal

It runs on a fixed grid and at once when a block with protective points lands. Being a plain
`def` on one event loop, it can't be interleaved with a poll: the point table never changes
under it (DESIGN section 3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from config import status
from config.points import GATEWAY_EQUIPMENT
from config.site import Site
from gateway.alarms import Alarms
from gateway.commands import E_STOP, Commands, Write
from gateway.core.clock import Clock, stamp
from gateway.core.records import Command
from gateway.core.table import PointTable
from gateway.event_log import WAITING
from gateway.journal import Journal
from gateway.requests import Requests
from gateway.schedules import CHANNELS as SCHEDULE_CHANNELS
from gateway.schedules import Schedules
from gateway.wishes import Wishes
from safety.engine import Engine
from safety.layout import QUALITY_NEVER

_EVENT_OF_KIND: Final = {
    "alarm": "alarm",
    "state": "state",
    "trip": "trip",
    "interlock": "trip",
    "permissive": "trip",
}
AT_ONCE_MAX: Final = 100  # rules that changed, to be told before the outputs are written
_PROTECTIVE: Final = ("trip", "interlock")
NAMED_MAX: Final = 50  # rules in one receipt
_CALCULATED: Final = ("value", "function")  # kinds whose points the program itself writes


class Scan:
    """Everything that one scan touches."""

    def __init__(
        self,
        site: Site,
        table: PointTable,
        engine: Engine,
        commands: Commands,
        journal: Journal,
        clock: Clock,
        write: Callable[[Sequence[Write]], None],
    ) -> None:
        """`write` takes what is to be written to devices; it must not wait."""
        self.stopping = False  # drive every output with a safe value to it, before the stop
        self.latches_changed = False  # the retain file is to be written; the caller clears it
        self._table = table
        self._engine = engine
        self._commands = commands
        self._journal = journal
        self._clock = clock
        self._write = write
        self._gateway = {
            p.channel: p.index for p in site.points if p.equipment == GATEWAY_EQUIPMENT
        }
        info = engine.program.info
        shown = [n for n, i in enumerate(info) if i.kind in _EVENT_OF_KIND]
        self._shown = np.array(shown, dtype=np.intp)
        machines = [machine.point for machine in engine.program.machine_info]
        self._shown_rows = np.array([info[n].point for n in shown] + machines, dtype=np.int32)
        calculated = [i.point for i in info if i.kind in _CALCULATED]
        self._calculated = np.array(calculated, dtype=np.int32)
        self._startup = True
        self._reset_before = False  # the engine acts on the rising edge
        self._stopped = False
        self._owed: tuple[NDArray[np.int32], int, int] | None = None  # alarms not yet told
        self._wishes = Wishes(engine, commands.outputs)
        self.requests = Requests(engine, commands, self._event)
        self.alarms = Alarms(site, table, engine, journal, commands, clock)
        reach_ns = round(site.link.Commands.ScheduleMax * 1e9)
        self.schedules = Schedules(commands, self._event, clock, reach_ns)
        self._bypassable = {n: self._looks(n) for n, i in enumerate(info) if i.bypass_ns_max}
        for channel in (E_STOP, "Reset", "Scan_Overruns", "Link_Connected", "Backlog"):
            self.set_gateway_point(channel, 0.0)
        for channel in ("Bypasses", *SCHEDULE_CHANNELS):
            self.set_gateway_point(channel, 0.0)

    def set_gateway_point(self, channel: str, value: float, code: int = status.GOOD) -> None:
        """Write one of the gateway's own points; the next scan reports it."""
        now_utc_ns, now_mono_ns = stamp(self._clock.utc_ns()), self._clock.monotonic_ns()
        index = self._gateway[channel]
        self._table.put_one(index, value, code, now_utc_ns, now_mono_ns)

    def run(self) -> None:
        """One scan."""
        self.settle()
        now_mono_ns, now_utc_ns = self._clock.monotonic_ns(), stamp(self._clock.utc_ns())
        resets = self._take_gateway_writes()
        if not (self.stopping or self._startup):
            self.schedules.scan(now_mono_ns, now_utc_ns)
        self._table.age(now_mono_ns, now_utc_ns)
        rows = self._table.rows
        latched = self._engine.latched.copy() if resets else None
        changed = self._engine.scan(rows, now_mono_ns, bool(resets))
        self._owed = changed.copy(), now_mono_ns, now_utc_ns
        if len(changed) <= AT_ONCE_MAX:
            self.settle()
        for rule in changed.tolist():
            self._rule_changed(rule, now_utc_ns)
        self.requests.tell(changed)
        rows["utc_ns"][self._calculated] = now_utc_ns
        if latched is not None:
            self._tell_resets(resets, latched)
        self._show_rules(now_mono_ns, now_utc_ns)
        if self._startup and not self._engine.startup:
            self._startup = False
            self._event("gateway", {"what": "start-up trip released", **self._still_active()})
        if self.stopping and not self._stopped:
            self._stopped = True
            self._wishes.stop()
        wishes = self._wishes.changed(rows, self._engine.machines_changed().tolist())
        writes = self._commands.arbitrate(wishes, rows, now_mono_ns)
        if writes:
            self._write(writes)
        self._journal.report(self._table, now_mono_ns)

    def settle(self) -> None:
        """Tell the alarms of a scan that had too many; the caller lets writes go out before.

        A flood comes with a trip, and each of its alarms takes 25 µs of the loop.
        """
        if self._owed is not None:
            self.latches_changed |= self.alarms.scan(*self._owed)
            self._owed = None

    def _event(self, kind: str, body: dict[str, Any]) -> None:
        self._journal.event(kind, body, self._clock.utc_ns())

    def _take_gateway_writes(self) -> list[Command]:
        """Carry out commands on the gateway's own points; returns those that ask for a reset.

        A point takes one value a scan, so that a rule sees a 1 that is followed by a 0 at once;
        the rest waits for the next scan. A reset waits until the one before has had its edge.
        """
        resets: list[Command] = []
        waiting = []
        done: dict[str, float] = {}
        for command, point in self._commands.gateway_writes:
            if point.channel == "Reset" and command.value:
                if self._reset_before:
                    waiting.append((command, point))
                else:
                    resets.append(command)
            elif done.setdefault(point.channel, command.value) != command.value:
                waiting.append((command, point))
            else:
                if point.channel == E_STOP:
                    self.latches_changed |= bool(command.value) != self.stop_asked
                self.set_gateway_point(point.channel, command.value)
                self._commands.report(command, "verified", "")
        self._commands.gateway_writes[:] = waiting
        if bool(resets) != self._reset_before:
            self.set_gateway_point("Reset", float(bool(resets)))  # who replays the record sees it
        self._reset_before = bool(resets)
        return resets

    @property
    def stop_asked(self) -> bool:
        """An emergency stop is asked for at the gateway: over a restart, until it is taken back."""
        return bool(self._table.rows["value"][self._gateway[E_STOP]])

    def _tell_resets(self, commands: Sequence[Command], latched: NDArray[np.bool_]) -> None:
        """What a reset released, and what stays because its cause is still there."""
        names = [info.name for info in self._engine.program.info]
        stays = [names[rule] for rule in np.flatnonzero(self._engine.latched)]
        gone = [names[rule] for rule in np.flatnonzero(latched & ~self._engine.latched)]
        parts = [f"released: {_some(gone)}"] if gone else []
        parts += [f"still active: {_some(stays)}"] if stays else []
        ended = self._commands.take_ended(forget=not stays)
        parts += (
            [f"trips ended these setpoints, command them again: {_some(ended)}"] if ended else []
        )
        reason = "; ".join(parts) or "nothing was latched"
        step, code = ("failed", "still-active") if stays else ("verified", "")
        for command in commands:
            self._commands.report(command, step, reason, code)

    def _still_active(self) -> dict[str, str]:
        """What was told as waiting for first values, and is active with them."""
        active, info = self._engine.active, self._engine.program.info
        names = [i.name for n, i in enumerate(info) if active[n] and i.kind in _PROTECTIVE]
        return {"still_active": _some(names)} if names else {}

    def _looks(self, rule: int) -> tuple[int, bool, bool]:
        engine = self._engine
        return int(engine.level[rule]), bool(engine.active[rule]), bool(engine.latched[rule])

    def _rule_changed(self, rule: int, now_utc_ns: int) -> None:
        engine = self._engine
        info = engine.program.info[rule]
        if info.kind == "alarm":
            self.latches_changed |= info.latch
            return  # the alarms tell that, with the state that they took
        level, active, latched = looks = self._looks(rule)
        if rule in self._bypassable:
            if looks == self._bypassable[rule]:
                return  # a bypass began or ended, or its cause came: requests tell that
            self._bypassable[rule] = looks
        body: dict[str, Any] = {
            "name": info.name,
            "level": engine.program.strings[level] if level else "",
            "active": active,
            "latched": latched,
        }
        if info.latch:
            self.latches_changed = True
        kind = _EVENT_OF_KIND[info.kind]
        if kind == "trip":
            body |= {"kind": info.kind, "first_out": int(engine.first_out[rule])}
            if active and engine.startup and engine.state["quality"][rule] == QUALITY_NEVER:
                body["reason"] = WAITING
        self._journal.event(kind, body, now_utc_ns)

    def _show_rules(self, now_mono_ns: int, now_utc_ns: int) -> None:
        """Points of rules and machines: value and status; only what differs is written."""
        engine = self._engine
        values, codes = engine.rule_points()
        states = engine.machine_values()
        values = np.concatenate((values[self._shown], states))
        codes = np.concatenate((codes[self._shown], np.full(len(states), status.GOOD, codes.dtype)))
        rows = self._table.rows[self._shown_rows]
        moved = np.flatnonzero((rows["value"] != values) | (rows["status"] != codes))
        if len(moved):
            index = self._shown_rows[moved]
            self._table.put(index, values[moved], codes[moved], now_utc_ns, now_mono_ns)
        bypasses = float(np.count_nonzero(engine.bypassed))
        if bypasses != self._table.rows["value"][self._gateway["Bypasses"]]:
            self.set_gateway_point("Bypasses", bypasses)


def _some(names: Sequence[str]) -> str:
    more = len(names) - NAMED_MAX
    return ", ".join(names[:NAMED_MAX]) + (f" and {more} more" if more > 0 else "")
