"""What must hold in every run: DESIGN's invariants, against the truth that the simulation keeps.

The truth of the stream is the field's own journal, read while it lives; that of the plant are the
registers of its devices. What the gateway says is compared with both.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cloud.historian import QUERY_ROWS_MAX
from cloud.historian_sqlite import SqliteHistorian
from config import status
from gateway.core.records import Event
from gateway.field import Field
from tests.sim import plant
from tests.sim.check_alarms import AlarmChecks
from tests.sim.check_schedules import ScheduleChecks
from tests.sim.customer import Customer
from tests.sim.loop import SimLoop
from tests.sim.plant import AGE_LIMIT_S, SITE, Plant
from tests.sim.processes import SimClock

VIOLATIONS_MAX: Final = 50  # of one run; one is enough to fail it
SLACK_S: Final = 3.0  # scans, polls and timeouts between what is and what is shown
ACT_S: Final = 10.0  # within which an output that can be reached is where it must be
KEPT_S: Final = 8.0  # a latch that is older stands in the retain file: a slow disk takes 3 s a job
THAWED_S: Final = 1.5  # a field that stood still until just now has perhaps not scanned yet
TASKS_MAX: Final = 120
UNDER_WAY_BYTES_MAX: Final = 2_000_000

LOST_WITH_FIELD: Final = "field process ended"
THINNED: Final = "store over its quota"


@dataclass
class Life:
    """One life of the field process: what it numbered, and what it was told is durable."""

    epoch: int
    seen: int = 0
    taken: int = 0
    kept: bool = True  # its disk took at least its epoch
    rows: dict[int, tuple[str, bytes, int, int]] = field(default_factory=dict)
    events: dict[int, Event] = field(default_factory=dict)


@dataclass
class Order:
    """A command that the simulation gave."""

    id: str
    tag: str
    value: float
    sent_ns: int
    expires_ns: int
    lease_ns: int
    accepted_ns: int = 0
    accepted: int = 0
    reason: str = ""
    forged: bool = False
    signed: bool = False  # its id is durable; others count within a life of the field
    epoch: int = 0  # that accepted it
    action: str = "write"


class Checks:
    """Keeps the truth and holds everything against it."""

    def __init__(self, loop: SimLoop, plant_: Plant, clock: SimClock) -> None:
        self.violations: list[str] = []
        self.lives: dict[int, Life] = {}
        self.orders: dict[str, Order] = {}
        self.latched: dict[str, int] = {}  # trip -> since when it has been latched
        self.durable: set[str] = set()  # trips that have been latched long enough to be kept
        self.disk_refused_ns = 0  # when the field's disk last refused
        self.halted_ns = 0  # when no field ran last: none was there, or it was frozen
        self.unreachable_ns = 0  # when the rig was last out of reach, or late
        self.unsafe_ns: dict[str, int] = {}  # what is not as it must be -> since when
        self.seen: Counter[str] = Counter()  # what there was to check
        self.alarms = AlarmChecks(loop, clock, self.fail, self.seen)
        self.schedules = ScheduleChecks(loop, clock, self.fail, self.seen)
        self._loop = loop
        self._plant = plant_
        self._clock = clock

    def fail(self, text: str) -> None:
        """An invariant does not hold."""
        if len(self.violations) < VIOLATIONS_MAX:
            self.violations.append(f"{self._loop.time():.3f} s: {text}")

    # ------------------------------------------------------------ the stream

    def born(self, made: Field, schedules: Path) -> None:
        """A field process begins a life, with a folder of schedules."""
        now_ns = self._loop.now_ns
        for name in sorted(self.durable):
            self.seen["latches"] += 1
            if not is_latched(made, name):
                self.fail(f"latch: {name} was latched and is not after a restart")
        if made.epoch in self.lives:
            self.fail(f"epoch {made.epoch} was given twice")
        self.schedules.born(schedules)
        self.alarms.born(made)
        life = self.lives[made.epoch] = Life(made.epoch, kept=self.disk_refused_ns < now_ns)
        tags = {p.index: p.tag for p in made.site.points}
        made.journal.watch(lambda: self._grew(life, made, tags))
        self._grew(life, made, tags)

    def _grew(self, life: Life, made: Field, tags: Mapping[int, str]) -> None:
        life.taken = max(life.taken, made.server.taken)
        batch = made.journal.after(life.seen, 10**6)
        if batch is None:
            return
        life.seen = batch.last
        for seq, point, code, value, utc_ns in batch.records.tolist():
            life.rows[seq] = (tags[point], struct.pack("d", value), code, utc_ns)
        for event in batch.events:
            life.events[event.seq] = event
            if event.kind == "alarm":
                self.alarms.event(event.body)
            if event.kind == "receipt":
                self._receipt(event.body, life.epoch)
                self.schedules.receipt(event.body)

    def _receipt(self, body: Mapping[str, Any], epoch: int) -> None:
        order = self.orders.get(str(body.get("command", "")))
        if order is None:
            return
        if body["step"] == "refused":
            order.reason = str(body["reason"])
        if body["step"] != "accepted":
            return
        if not order.signed and order.epoch != epoch:
            order.accepted = 0
        order.epoch = epoch
        order.accepted += 1
        order.accepted_ns = self._loop.now_ns
        if order.forged:
            self.fail(f"command {order.id} was forged and accepted")
        if order.accepted > 1:
            self.fail(f"command {order.id} on {order.tag} was accepted twice")
        if order.expires_ns and self._clock.utc_ns() > order.expires_ns:
            self.fail(f"command {order.id} was accepted after its expiry")

    # ------------------------------------------------------------ while it runs

    def look(self, made: Field | None, *, steady: bool) -> None:
        """Compare what a running field says with the plant; `steady`: nobody disturbs the rig."""
        now_ns = self._loop.now_ns
        if not steady:
            self.unreachable_ns = now_ns
        shown = self._plant.devices["Rig"].shown("Plan")
        self.schedules.look(shown, made, self.unreachable_ns)
        if made is None:
            self.halted_ns = now_ns
            self.unsafe_ns.clear()
            return
        if now_ns - self.disk_refused_ns > KEPT_S * 1e9:
            self.lives[made.epoch].kept = True
        if now_ns - self.halted_ns > THAWED_S * 1e9:
            self._fresh(made, now_ns)
        self._latches(made, now_ns)
        self._kept(now_ns)
        self._outputs(made, now_ns)

    def _fresh(self, made: Field, now_ns: int) -> None:
        """Nothing stale is Good."""
        since_ns = now_ns - round((AGE_LIMIT_S + SLACK_S) * 1e9)
        rows = made.table.rows
        for name, device in self._plant.devices.items():
            for channel in plant.CHANNELS[name]:
                row = rows[made.table.index[f"{name}.{channel}"]]
                good = int(row["status"]) == status.GOOD
                if good and not device.held_since(channel, float(row["value"]), since_ns):
                    self.fail(f"stale: {name}.{channel} = {float(row['value']):g} is shown as good")

    def died(self, made: Field) -> None:
        """A field process was killed: how it was to the last."""
        self._latches(made, self._loop.now_ns)
        self.alarms.died(max(self.disk_refused_ns, self.halted_ns))

    def _latches(self, made: Field, now_ns: int) -> None:
        for name in [name for name in self.latched if not is_latched(made, name)]:
            del self.latched[name]
            self.durable.discard(name)
        for info in made.engine.program.info:
            if info.kind == "trip" and is_latched(made, info.name):
                self.latched.setdefault(info.name, now_ns)

    def _kept(self, now_ns: int) -> None:
        """Only a field that runs writes, and only to a disk that takes it."""
        undone_ns = max(self.disk_refused_ns, self.halted_ns)
        for name, since_ns in self.latched.items():
            if now_ns - max(since_ns, undone_ns) > KEPT_S * 1e9:
                self.durable.add(name)

    def _outputs(self, made: Field, now_ns: int) -> None:
        """Outputs that can be reached are where protection, leases and fallbacks want them."""
        rig = self._plant.devices["Rig"]
        tripped = bool(self.latched)
        state = {
            "the valve is open although a trip is active": tripped and rig.shown("Valve") != 0,
            "the setpoint is not what was decided": self._strays(made, rig.shown("Setpoint")),
        }
        for text, wrong in state.items():
            if not wrong:
                self.unsafe_ns.pop(text, None)
                continue
            since_ns = max(self.unsafe_ns.setdefault(text, now_ns), self.unreachable_ns)
            if now_ns - since_ns > ACT_S * 1e9:
                self.fail(f"output: {text} for {ACT_S:g} s, and the rig can be reached")

    def _strays(self, made: Field, shown: float) -> bool:
        """True where the rig's setpoint is of no command that is in force, and not the safe one."""
        now_ns = self._loop.now_ns
        if shown == plant.SAFE_SETPOINT:
            return False
        for order in self.orders.values():
            if order.value == shown and order.accepted:
                ends_ns = order.accepted_ns + order.lease_ns
                return order.lease_ns > 0 and now_ns > ends_ns
        return True

    # ------------------------------------------------------------ bounds

    def bounds(self, figures: Mapping[str, tuple[float, float]]) -> None:
        """(figure, its bound) by name."""
        for name, (value, bound) in figures.items():
            if value > bound:
                self.fail(f"bound: {name} is {value:g}, more than {bound:g}")

    # ------------------------------------------------------------ the end

    def delivered(self, path: Path) -> None:
        """The historian holds each number once, or in a gap that was declared with reason."""
        historian = SqliteHistorian(path, read_only=True)
        try:
            report = historian.audit(SITE)
            rows = historian.query(gateway=SITE, limit=QUERY_ROWS_MAX)
            events = historian.events(gateway=SITE, limit=QUERY_ROWS_MAX)
        finally:
            historian.close()
        held: dict[int, dict[int, Any]] = {}
        for row in rows:
            held.setdefault(row.epoch, {})[row.seq] = (
                row.tag,
                struct.pack("d", row.value),
                row.status,
                row.utc_ns,
            )
        for event in events:
            held.setdefault(event.epoch, {})[event.seq] = (event.kind, event.utc_ns, event.body)
        audits = {epoch.epoch: epoch for epoch in report.epochs}
        for number in sorted(held.keys() - self.lives.keys()):
            self.fail(f"epoch {number} was never lived")
        for number, life in self.lives.items():
            audit = audits.get(number)
            if audit is None and not life.kept and not life.taken:
                continue
            if audit is None:
                self.fail(f"epoch {number}: nothing of it arrived, and no gap says so")
                continue
            if audit.missing:
                self.fail(f"epoch {number}: missing {audit.missing[:5]}")
            if audit.duplicates:
                self.fail(f"epoch {number}: {audit.duplicates} duplicates")
            self._compare(life, held.get(number, {}), audit.gaps)

    def brought(self, customer: Customer) -> None:
        """The second link brought each number at least once, or its gap."""
        for text in customer.contradictions[:1]:
            self.fail(text)
        for number in sorted(customer.held.keys() - self.lives.keys()):
            self.fail(f"customer: epoch {number} was never lived")
        for number, life in self.lives.items():
            held, gaps = customer.held.get(number, {}), customer.gaps.get(number, ())
            if held or gaps or life.kept or life.taken:
                self._compare(life, held, gaps)

    def _compare(self, life: Life, held: Mapping[int, Any], gaps: Any) -> None:
        for seq, what in held.items():
            if seq in life.rows:
                expected: Any = life.rows[seq]
            elif seq in life.events:
                event = life.events[seq]
                expected = (event.kind, event.utc_ns, dict(event.body))
            else:
                expected = None
            if what != expected:
                self.fail(f"epoch {life.epoch}: {seq} is {what}, and was {expected}")
                return
        declared: dict[int, str] = {}
        for gap in gaps:
            last = gap.last or life.seen
            declared.update(dict.fromkeys(range(gap.first, last + 1), gap.reason))
        lost = [seq for seq in range(1, life.seen + 1) if seq not in held and seq not in declared]
        if lost:
            self.fail(
                f"epoch {life.epoch}: {len(lost)} of {life.seen} are lost without a gap, from "
                f"{lost[0]} on; taken {life.taken}"
            )
        self._reasons(life, {seq: why for seq, why in declared.items() if seq not in held})

    def _reasons(self, life: Life, declared: Mapping[int, str]) -> None:
        for seq, reason in declared.items():
            if reason.startswith(LOST_WITH_FIELD):
                if seq <= life.taken:
                    self.fail(f"epoch {life.epoch}: {seq} was taken, and is declared: {reason}")
                    return
            elif reason == THINNED:
                self.seen["thinned"] += 1
                counter = life.rows.get(seq, ("",))[0] == "Meter.Energy"
                if seq in life.events or counter:
                    self.fail(f"epoch {life.epoch}: {seq}, event or counter, is declared: {reason}")
                    return
            else:
                self.fail(f"epoch {life.epoch}: {seq} is declared for no reason: {reason}")
                return


def is_latched(made: Field, name: str) -> bool:
    """True where a rule is latched."""
    return any(
        info.name == name and bool(made.engine.latched[n])
        for n, info in enumerate(made.engine.program.info)
    )
