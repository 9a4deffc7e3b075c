"""The scan: one pass over the point table, in a fixed order, and nothing in it waits.

    age -> protection (derived points, interlocks, alarms, states) -> commands -> outputs -> journal

It runs on a fixed grid and at once when a block with protective points lands. Being a plain
`def` on one event loop, it can't be interleaved with a poll: the point table never changes
under it (DESIGN section 3).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from config import status
from config.points import GATEWAY_EQUIPMENT
from config.site import Site
from gateway.commands import Commands, Demand, Write
from gateway.core.clock import Clock
from gateway.core.records import Command
from gateway.core.table import PointTable
from gateway.journal import Journal
from safety.engine import Engine
from safety.layout import CAUSE_STARTUP, RANK_TRIP

LATENESS_SAMPLES_MAX: Final = 65_536
_EVENT_OF_KIND: Final = {"alarm": "alarm", "state": "state", "trip": "trip", "interlock": "trip"}


class ScanStatistics:
    """Counts and lateness of the periodic scans; the newest samples are kept."""

    def __init__(self) -> None:
        self.count = 0  # periodic scans
        self.extra = 0  # scans at the landing of a protective block
        self.overruns = 0  # periods that were skipped because the scan before was late
        self._lateness_ns = np.zeros(LATENESS_SAMPLES_MAX, dtype=np.int64)
        self._recent_ns = 0

    def late(self, lateness_ns: int) -> None:
        """Note how late one periodic scan started."""
        self._lateness_ns[self.count % LATENESS_SAMPLES_MAX] = lateness_ns
        self._recent_ns = max(self._recent_ns, lateness_ns)
        self.count += 1

    def take_recent_ms(self) -> float:
        """The largest lateness since the last call."""
        recent, self._recent_ns = self._recent_ns, 0
        return recent / 1e6

    def percentile_ms(self, percent: float) -> float:
        """A percentile of the kept samples; 0 before the first scan."""
        samples = self._lateness_ns[: min(self.count, LATENESS_SAMPLES_MAX)]
        return float(np.percentile(samples, percent)) / 1e6 if len(samples) else 0.0


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
        self.statistics = ScanStatistics()
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
        self._shown = np.array([n for n, i in enumerate(info) if i.kind != "value"], dtype=np.intp)
        self._rule_rows = np.array([info[n].point for n in self._shown], dtype=np.int32)
        calculated = [i.point for i in info if i.kind == "value"]
        self._calculated = np.array(calculated, dtype=np.int32)
        self._startup = True
        self._stop_demands = {
            p.index: Demand(p.safe_value, "stop", trip=True, source_ns=0)
            for p in table.points
            if p.is_output and not math.isnan(p.safe_value)
        }
        for channel in ("E_Stop", "Reset", "Scan_Overruns", "Link_Connected", "Backlog"):
            self.set_gateway_point(channel, 0.0)

    def set_gateway_point(self, channel: str, value: float, code: int = status.GOOD) -> None:
        """Write one of the gateway's own points; the next scan reports it."""
        now_utc_ns, now_mono_ns = self._clock.utc_ns(), self._clock.monotonic_ns()
        index = self._gateway[channel]
        self._table.put_one(index, value, code, now_utc_ns, now_mono_ns)

    def run(self) -> None:
        """One scan."""
        now_mono_ns, now_utc_ns = self._clock.monotonic_ns(), self._clock.utc_ns()
        reset = self._take_gateway_writes()
        self._table.age(now_mono_ns, now_utc_ns)
        rows = self._table.rows
        latched = None if reset is None else self._engine.latched.copy()
        for rule in self._engine.scan(rows, now_mono_ns, reset is not None):
            self._rule_changed(int(rule), now_mono_ns, now_utc_ns)
        rows["utc_ns"][self._calculated] = now_utc_ns
        if reset is not None and latched is not None:
            self._tell_reset(reset, latched)
        self._show_rules(now_mono_ns, now_utc_ns)
        if self._startup and not self._engine.startup:
            self._startup = False
            self._event("gateway", {"what": "start-up trip released"}, now_utc_ns)
        writes = self._commands.arbitrate(self._demands(rows), rows, now_mono_ns)
        if writes:
            self._write(writes)
        self._journal.report(self._table, now_mono_ns)

    def _event(self, kind: str, body: dict[str, Any], utc_ns: int) -> None:
        self._journal.event(kind, body, utc_ns)

    def _take_gateway_writes(self) -> Command | None:
        """Carry out commands on the gateway's own points; returns the one that asks for a reset."""
        reset = None
        for command, point in self._commands.gateway_writes:
            if point.channel == "Reset":
                reset = command if command.value else reset
            else:
                self.set_gateway_point(point.channel, command.value)
                self._commands.report(command, "verified", "")
        self._commands.gateway_writes.clear()
        return reset

    def _tell_reset(self, command: Command, latched: NDArray[np.bool_]) -> None:
        """What a reset released, and what stays because its cause is still there."""
        names = [info.name for info in self._engine.program.info]
        stays = [names[rule] for rule in np.flatnonzero(self._engine.latched)]
        gone = [names[rule] for rule in np.flatnonzero(latched & ~self._engine.latched)]
        parts = [f"released: {', '.join(gone)}"] if gone else []
        parts += [f"still active: {', '.join(stays)}"] if stays else []
        reason = "; ".join(parts) or "nothing was latched"
        self._commands.report(command, "failed" if stays else "verified", reason)

    def _rule_changed(self, rule: int, now_mono_ns: int, now_utc_ns: int) -> None:
        engine = self._engine
        info = engine.program.info[rule]
        level = int(engine.level[rule])
        body: dict[str, Any] = {
            "name": info.name,
            "level": engine.program.strings[level] if level else "",
            "active": bool(engine.active[rule]),
            "latched": bool(engine.latched[rule]),
        }
        if info.kind in ("trip", "interlock"):
            body |= {"kind": info.kind, "first_out": int(engine.first_out[rule])}
        elif info.kind == "alarm":
            body["priority"] = info.priority
        self._event(_EVENT_OF_KIND[info.kind], body, now_utc_ns)
        if info.latch:
            self.latches_changed = True

    def _show_rules(self, now_mono_ns: int, now_utc_ns: int) -> None:
        """Rule points carry the rules' values and status; only what differs is written."""
        values, codes = self._engine.rule_points()
        values, codes = values[self._shown], codes[self._shown]
        rows = self._table.rows[self._rule_rows]
        moved = np.flatnonzero((rows["value"] != values) | (rows["status"] != codes))
        if len(moved):
            index = self._rule_rows[moved]
            self._table.put(index, values[moved], codes[moved], now_utc_ns, now_mono_ns)

    def _demands(self, rows: np.ndarray) -> dict[int, Demand]:
        """What protection wants, by the index of the output."""
        engine = self._engine
        demands = {}
        for output in np.flatnonzero(engine.rank):
            cause = int(engine.cause[output])
            if cause == CAUSE_STARTUP:
                name, source_ns = "start-up", 0
            else:
                name = engine.program.info[cause].name
                source_ns = engine.inputs_mono_ns(cause, rows)
            index = int(engine.program.outputs[output])
            before = self._commands.outputs[index].demand
            if before is not None and before.cause == name:
                source_ns = before.source_ns  # the reaction counts from the first cause
            trip = int(engine.rank[output]) == RANK_TRIP
            demands[index] = Demand(float(engine.demand[output]), name, trip, source_ns)
        if self.stopping:
            # A stop undoes no trip, nor an interlock of an output that has no safe value.
            trips = {index: demand for index, demand in demands.items() if demand.trip}
            return demands | self._stop_demands | trips
        return demands
