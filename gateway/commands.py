"""Commands: who may ask for what, and what became of it. Outputs are decided once a scan.

A setpoint is a lease: it ends, and the next rank follows (gateway/outputs.py). A trip also ends
the setpoints below it, so that after a reset nothing jumps back to what was asked for before.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from config import status
from config.points import PointDef
from gateway.core.records import Command
from gateway.core.refusals import CommandRefused
from gateway.outputs import (
    ORIGINS,
    RATE_WINDOW_NS,
    REDRIVE_NS,
    VERIFY_NS,
    Output,
    Setpoint,
    Wish,
)

IDS_SEEN_MAX: Final = 10_000
GATEWAY_WRITES_MAX: Final = 100  # that wait for the next scan
E_STOP: Final = "E_Stop"  # channel of the gateway's own emergency stop
END_NS_MAX: Final = 2**62  # of a lease; columns of times have 64 bits
WRITE: Final = "write"  # the action of a command that names no other

Receipt = Callable[[Mapping[str, Any]], None]
Handler = Callable[[Command, PointDef], None]


class Write(NamedTuple):
    """One value for a driver to write; an urgent one (protection) goes ahead of the others."""

    point: PointDef
    value: float
    urgent: bool = False


class Commands:
    """Outputs of a site and the commands on them."""

    def __init__(
        self, points: Sequence[PointDef], receipt: Receipt, inert: Collection[str] = ()
    ) -> None:
        """`receipt` is called with the body of every receipt event.

        `inert` are tags of the gateway's own points that no rule of the site reads: to accept a
        write to one would promise something that nobody keeps.
        """
        self.points = {p.tag: p for p in points}
        outputs = (p for p in points if p.is_output)
        self.outputs = {p.index: Output(p, position) for position, p in enumerate(outputs)}
        self.gateway_writes: list[tuple[Command, PointDef]] = []  # E_Stop, Reset: scan takes them
        self.stop_asked: Callable[[], None] = lambda: None  # an emergency stop waits for no grid
        self.permitted: Callable[[int], str] = lambda index: ""  # why an output takes no setpoint
        self.ended: Callable[[int, str], None] = lambda index, origin: None  # a setpoint of those
        self._inert = frozenset(inert)
        self._receipt = receipt
        self._handlers: dict[tuple[str, str], Handler] = {}
        self._reserved: dict[int, str] = {}
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._ended: dict[int, float] = {}  # outputs whose operator's setpoint a trip ended
        # Which outputs need a look in this scan; most of them rest (see `_attention`).
        self._in_order = list(self.outputs.values())
        count = len(self._in_order)
        self._busy = np.ones(count, dtype=np.bool_)
        self._next_end_ns = np.full(count, 2**62, dtype=np.int64)
        self._read_back = np.array([o.point.read_back for o in self._in_order], dtype=np.intp)
        self._tolerance = np.array([o.point.tolerance for o in self._in_order])
        self._driven = np.full(count, np.nan)
        self._driven_ns = np.zeros(count, dtype=np.int64)

    def handle(self, source: str, actions: Iterable[str], handler: Handler) -> None:
        """Let `handler` take commands with one of `actions` on points of this source.

        source   ``rule`` or another of config.points.PointSource
        handler  raises CommandRefused; it reports the later steps by `report`
        """
        self._handlers |= {(source, action): handler for action in actions}

    # ------------------------------------------------------------ acceptance

    def submit(self, command: Command, now_mono_ns: int, now_utc_ns: int) -> bool:
        """Accept or refuse a command; the receipt says which and why. True = accepted."""
        try:
            self._first_time(command)
            self._accept(command, now_mono_ns, now_utc_ns)
        except CommandRefused as refusal:
            self.report(command, "refused", str(refusal), refusal.code)
            return False
        self._accepted(command)
        return True

    def offer(
        self, command: Command, now_mono_ns: int, now_utc_ns: int, *, known: bool = False
    ) -> str:
        """`submit` for who sees to it that ids differ and asks again; why refused, or nothing.

        known  a refusal was told before, and is not told again
        """
        try:
            self._accept(command, now_mono_ns, now_utc_ns)
        except CommandRefused as refusal:
            if not known:
                self.report(command, "refused", str(refusal), refusal.code)
            return str(refusal)
        self._accepted(command)
        return ""

    def _accepted(self, command: Command) -> None:
        output = self.outputs.get(self.points[command.tag].index)
        self.report(command, "accepted", output.above(command) if output is not None else "")

    def give_back(self, index: int, origin: str, reason: str) -> None:
        """End the setpoint of an origin on an output, where there is one."""
        output = self.outputs[index]
        if origin in output.setpoints:
            self._end(output, origin, reason)

    def prolong(self, index: int, origin: str, until_ns: int) -> None:
        """Let the setpoint of an origin, where there is one, hold to a later moment, monotonic."""
        output = self.outputs[index]
        if origin in output.setpoints:
            output.setpoints[origin] = replace(output.setpoints[origin], until_ns=until_ns)
            self._busy[output.position] = True

    def report(self, command: Command, step: str, reason: str, code: str = "") -> None:
        """A receipt for one step of a command; `code`, one of REFUSALS, where it is none."""
        body = {
            "command": command.id,
            "tag": command.tag,
            "value": command.value,
            "origin": command.origin,
            "source": command.source,
            "step": step,
            "reason": reason,
        }
        self._receipt({**body, "code": code} if code else body)

    def _first_time(self, command: Command) -> None:
        if not command.id or command.id in self._seen:
            raise CommandRefused("repeated", "a command with this id was handled before")
        self._seen[command.id] = None
        if len(self._seen) > IDS_SEEN_MAX:
            self._seen.popitem(last=False)

    def _accept(self, command: Command, now_mono_ns: int, now_utc_ns: int) -> None:
        if command.expires_ns and now_utc_ns > command.expires_ns:
            raise CommandRefused("expired", "expired")
        if command.origin not in ORIGINS:
            raise CommandRefused("not-yours", f"unknown origin {command.origin!r}")
        point = self.points.get(command.tag)
        if point is None:
            raise CommandRefused("no-point", "no such point")
        if command.action != WRITE or (point.writable and point.source == "rule"):
            self._accept_action(point, command)
            return
        if not point.writable:
            raise CommandRefused("read-only", "the point is read only (ReadWrite)")
        output = self.outputs.get(point.index)
        if command.release:
            if output is None or command.origin not in output.setpoints:
                raise CommandRefused("nothing", "no setpoint of this origin to release")
            self._end(output, command.origin, f"given back by {command.id}")
            return
        check_value(point, command.value)
        if output is None:
            self._accept_gateway(point, command)
            return
        self._accept_output(output, command, now_mono_ns)

    def _accept_action(self, point: PointDef, command: Command) -> None:
        handler = self._handlers.get((point.source, command.action))
        if handler is None:
            raise CommandRefused("action", f"{point.tag} knows no action {command.action!r}")
        if command.release:
            raise CommandRefused("nothing", "there is no setpoint to release")
        if command.action == WRITE:
            check_value(point, command.value)
        handler(command, point)

    def _accept_gateway(self, point: PointDef, command: Command) -> None:
        if command.origin != "operator":
            raise CommandRefused("not-yours", "only a local operator may write this point")
        if point.tag in self._inert:
            why = "no rule of this site reads this point, so nothing would happen"
            raise CommandRefused("no-effect", why)
        stop = point.channel == E_STOP and bool(command.value)
        if stop:
            self._overtake(point, command)
        first = stop and all(other is not point for _, other in self.gateway_writes)
        if len(self.gateway_writes) >= GATEWAY_WRITES_MAX and not first:
            raise CommandRefused("busy", "too many writes wait for the scan")
        self.gateway_writes.append((command, point))
        if stop:
            self.stop_asked()

    def _overtake(self, stop_point: PointDef, stop: Command) -> None:
        """An emergency stop waits for nothing: what would take it back was asked for before it."""
        waiting = self.gateway_writes[:]
        self.gateway_writes[:] = [(c, p) for c, p in waiting if p is not stop_point or c.value]
        for command, point in waiting:
            if point is stop_point and not command.value:
                why = f"an emergency stop came behind it, {stop.id}"
                self.report(command, "failed", why, "overtaken")

    def _accept_output(self, output: Output, command: Command, now_ns: int) -> None:
        point, demand = output.point, output.demand
        if demand is not None:
            raise CommandRefused("held", f"held by {demand.kind} {demand.cause}")
        if point.index in self._reserved:
            raise CommandRefused("reserved", self._reserved[point.index])
        missing = self.permitted(point.index)
        if missing and command.value != point.safe_value:  # the way there is always free
            raise CommandRefused("permissive", missing)
        if command.origin == "remote" and command.lease_ns <= 0:
            raise CommandRefused("lease", "a remote setpoint needs a lease")
        # A schedule is executed here: no link can break between it and the output.
        longest_ns = point.lease_ns if command.origin != "schedule" else 0
        if command.lease_ns < 0 or 0 < longest_ns < command.lease_ns:
            raise CommandRefused("lease", f"lease outside 0 to {point.lease_ns / 1e9:g} s")
        _check_rate(output, command.value, now_ns)
        output.changed_ns = now_ns
        if command.origin == "operator":
            self._ended.pop(point.index, None)
        if command.origin in output.setpoints:
            self._end(output, command.origin, f"replaced by {command.id}")
        until_ns = min(now_ns + command.lease_ns, END_NS_MAX) if command.lease_ns else 0
        output.setpoints[command.origin] = Setpoint(command.value, command, now_ns, until_ns)
        self._busy[output.position] = True

    def _end(self, output: Output, origin: str, reason: str, code: str = "") -> None:
        setpoint = output.setpoints.pop(origin)
        self._busy[output.position] = True
        self._step(output, "released", setpoint=setpoint, reason=reason, code=code)
        self.ended(output.point.index, origin)

    # ------------------------------------------------------------ arbitration

    def arbitrate(
        self, wishes: Mapping[int, Wish], rows: NDArray[np.void], now_ns: int
    ) -> list[Write]:
        """Decide the outputs, verify what was written, return what is to be written.

        wishes  index of the output -> what the logic wants of it, where that changed
        rows    (P,) POINT, the point table
        """
        for index, wish in wishes.items():
            output = self.outputs[index]
            output.demand, output.proposal = wish
            self._busy[output.position] = True
        writes = []
        positions = self._attention(rows, now_ns)
        shown = self._read_back[positions]
        columns = [rows[name][shown].tolist() for name in ("value", "status", "mono_ns")]
        for position, *read_back in zip(positions.tolist(), *columns, strict=True):
            output = self._in_order[position]
            if output.setpoints:
                self._end_leases(output, now_ns)
            output.decide(rows, now_ns)
            if output.held:
                self._tell_held(output)
            self._verify(output, *read_back, now_ns=now_ns)
            if output.due(now_ns):
                urgent = output.ask(now_ns)
                writes.append(Write(output.point, output.desired, urgent))
            self._rest(output)
        return writes

    def _attention(self, rows: NDArray[np.void], now_ns: int) -> NDArray[np.intp]:
        """Positions of outputs that something may have changed for.

        An output rests when it has arrived: then only a new wish, the end of a lease or another
        read-back matters. The rest is compared as arrays: a thousand outputs take 0.02 ms.
        """
        shown = self._read_back
        value = rows["value"][shown]
        with np.errstate(invalid="ignore"):
            left = ~(np.abs(value - self._driven) <= self._tolerance)
        left &= rows["mono_ns"][shown] >= self._driven_ns
        left &= rows["status"][shown] < status.BAD
        return np.flatnonzero(self._busy | left | (self._next_end_ns <= now_ns))

    def _rest(self, output: Output) -> None:
        at = output.position
        output.rests = output.quiet
        if not output.rests:
            self._busy[at] = True
            return
        self._busy[at] = False
        self._next_end_ns[at] = output.next_end_ns
        self._driven[at] = output.driven
        self._driven_ns[at] = output.driven_ns if output.verified else 2**62

    def _end_leases(self, output: Output, now_ns: int) -> None:
        demand = output.demand
        for origin, setpoint in list(output.setpoints.items()):
            if demand is not None and demand.kind == "trip":
                if origin == "operator":
                    self._ended[output.point.index] = setpoint.value
                self._end(output, origin, demand.cause, "held")
            elif setpoint.until_ns and now_ns >= setpoint.until_ns:
                self._end(output, origin, "lease ended")

    def take_ended(self, *, forget: bool) -> list[str]:
        """The operator's setpoints that trips ended and nobody has commanded again, in words."""
        points = ((self.outputs[index].point, value) for index, value in self._ended.items())
        found = [f"{p.tag} = {_shown(p, value)}" for p, value in points]
        if forget:
            self._ended.clear()
        return found

    def _tell_held(self, output: Output) -> None:
        """A command that a limit holds is told so, once for each limit."""
        if "command" in output.reason:
            text = f"held to {output.target:g} by {output.held}"
            self._once(f"held by {output.held}", output, "limited", reason=text)

    def reserve(self, index: int, reason: str) -> None:
        """Refuse every command for an output that something else has, with this reason."""
        self._reserved[index] = reason

    def beat(self, index: int, value: float) -> None:
        """Drive an output of the watchdog to `value`; protection goes before it."""
        output = self.outputs[index]
        output.beat = value
        self._busy[output.position] = True

    # ------------------------------------------------------------ what became of a write

    def written(self, index: int, value: float, now_ns: int) -> None:
        """The device accepted a write."""
        output = self.outputs[index]
        self._busy[output.position] = True
        output.took(value, now_ns)
        if value != output.asked:
            return  # a newer write is behind it
        output.in_flight = False
        if output.settled and not output.new:
            self._once("driven", output, "driven", now_ns=now_ns)

    def write_failed(self, index: int, value: float, reason: str) -> None:
        """The device did not take a write; it is repeated as long as it is wanted."""
        output = self.outputs[index]
        self._busy[output.position] = True
        output.driven = math.nan
        if value != output.asked:
            return  # a newer write is behind it
        output.in_flight = False
        if "driven" in output.told:
            output.told.clear()  # it worked before: its failing is news, and so is its recovery
        self._once("write failed", output, "failed", reason=reason, code="device")

    def device_lost(self, indexes: Sequence[int]) -> None:
        """What these outputs hold is unknown from now on; they are driven again."""
        for index in indexes:
            output = self.outputs.get(index)
            if output is not None and output.up_ns:  # else: lost for another reason than before
                self._busy[output.position] = True
                output.up_ns = 0
                output.driven = math.nan
                output.attempt_ns = -REDRIVE_NS
                output.verified = False
                output.told.clear()

    def device_back(self, indexes: Sequence[int], now_ns: int) -> None:
        """The device of these outputs answers."""
        for index in indexes:
            if index in self.outputs:
                self.outputs[index].up_ns = now_ns

    def _verify(
        self, output: Output, value: float, code: int, mono_ns: int, *, now_ns: int
    ) -> None:
        """Compare the read-back with what was driven, where it was read after the write.

        An output may take a moment to arrive: until `VERIFY_NS` another value is no failure yet,
        but it is driven again. One that was verified and then leaves its value fails at once.
        """
        point = output.point
        if output.in_flight or output.beats:
            return
        if point.read_back == 0:
            if output.new and output.settled:  # the device had it before it was asked for
                self._once("driven", output, "driven")
            return
        if math.isnan(output.desired) or math.isnan(output.driven):
            return
        if output.new and output.desired != output.driven:
            return
        usable = not status.is_bad(code)
        fresh = usable and mono_ns >= output.driven_ns
        if fresh and abs(value - output.driven) <= point.tolerance:
            self._agrees(output, now_ns)
            return
        if usable and output.follows(value, mono_ns, now_ns):
            output.doubted, output.unproven_ns = False, now_ns
            return
        if output.verified and not fresh:
            return
        if output.verified:
            output.verified = False
            output.told.clear()
        elif now_ns - output.unproven_ns <= VERIFY_NS:
            output.doubted = fresh
            return
        output.doubted = True
        shown = f"read-back {value:g}" if fresh else "no read-back in time"
        reason = f"{shown}, driven {output.driven:g}"
        self._once("not verified", output, "failed", reason=reason, code="read-back")

    def _agrees(self, output: Output, now_ns: int) -> None:
        output.doubted, output.unproven_ns = False, now_ns
        if output.settled and not output.verified:
            output.verified = True
            self._once("verified", output, "verified", now_ns=now_ns)

    def _once(self, what: str, output: Output, step: str, **more: Any) -> None:
        if what not in output.told:
            output.told.add(what)
            self._step(output, step, **more)

    def _step(
        self,
        output: Output,
        step: str,
        *,
        setpoint: Setpoint | None = None,
        reason: str = "",
        code: str = "",
        now_ns: int = 0,
    ) -> None:
        """A receipt for one step of an output; the reaction time where a cause made it."""
        body: dict[str, Any] = {"tag": output.point.tag, "step": step, "reason": reason}
        if setpoint is not None:
            body |= {"value": setpoint.value, "command": setpoint.command.id}
        else:
            body |= {"value": output.desired, **output.reason}
        if code:
            body["code"] = code
        if now_ns and output.since_ns:
            body["reaction_ms"] = round((now_ns - output.since_ns) / 1e6, 3)
        self._receipt(body)


def _shown(point: PointDef, value: float) -> str:
    named = point.states and 0 <= value < len(point.states)
    return point.states[int(value)] if named else f"{value:g} {point.units}".rstrip()


def check_value(point: PointDef, value: float) -> None:
    """Raise CommandRefused where a point can't take a value."""
    if not math.isfinite(value):
        raise CommandRefused("range", "not a finite number")
    if point.kind == "discrete":
        highest = len(point.states) - 1 if point.states else None
        if value != int(value) or value < 0 or (highest is not None and value > highest):
            raise CommandRefused("range", "not one of the point's discrete values")
    if value < point.value_min or value > point.value_max:  # False where none is declared (NaN)
        span = f"outside {point.value_min:g} to {point.value_max:g} {point.units}".rstrip()
        raise CommandRefused("range", span)


def _check_rate(output: Output, value: float, now_ns: int) -> None:
    """Raise CommandRefused where a command asks for a faster change than `RateMax`.

    The step counts from what the output is at now, whoever asked for that, and a second at the
    most is credited. The way to the safe value is always free.
    """
    point, now = output.point, output.desired
    if math.isnan(point.rate_max_per_s) or math.isnan(now):
        return
    if min(now, point.safe_value) <= value <= max(now, point.safe_value):  # False without one
        return
    seconds = min(now_ns - output.changed_ns, RATE_WINDOW_NS) / 1e9
    step = point.rate_max_per_s * seconds
    if abs(value - now) > step:
        raise CommandRefused(
            "rate",
            f"faster than RateMax {point.rate_max_per_s:g} {point.units}/s: from {now:g}, "
            f"{now - step:g} to {now + step:g} is allowed now",
        )
