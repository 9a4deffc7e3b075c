"""Commands and outputs: who decides what an output is driven to, once a scan.

    trip > interlock > local operator > remote lease > schedule > fallback

A setpoint is a lease: it ends, and the next rank follows. A trip also ends the setpoints below
it, so that after a reset nothing jumps back to what was asked for before the trip.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from config import status
from config.points import PointDef
from gateway.core.records import Command

ORIGINS: Final = ("operator", "remote", "schedule")  # in the order of their rank
IDS_SEEN_MAX: Final = 10_000
REDRIVE_NS: Final = 1_000_000_000  # a failed or undone write is repeated at most this often
RATE_WINDOW_NS: Final = 1_000_000_000  # RateMax is the largest step in this time
VERIFY_NS: Final = 5_000_000_000  # what no read-back confirms by then has failed

Receipt = Callable[[Mapping[str, Any]], None]


class CommandRefused(Exception):
    """A command was not accepted; the message is the reason that its origin is told."""


@dataclass(frozen=True, slots=True)
class Setpoint:
    """An accepted command: its value holds until `until_ns` (monotonic; 0 = no end)."""

    value: float
    command: Command
    accepted_ns: int
    until_ns: int


@dataclass(frozen=True, slots=True)
class Demand:
    """What protection wants of an output; `value` NaN = nothing.

    cause      name of the rule, or ``start-up``, ``stop``
    trip       True for a trip: it ends setpoints; an interlock only holds them down
    source_ns  monotonic source time of the input that made the cause, for the reaction time
    """

    value: float
    cause: str
    trip: bool
    source_ns: int


@dataclass(frozen=True, slots=True)
class Write:
    """One value for a driver to write; an urgent one (protection) goes ahead of the others."""

    point: PointDef
    value: float
    urgent: bool = False


@dataclass(slots=True)
class Output:
    """The life of one output point."""

    point: PointDef
    setpoints: dict[str, Setpoint] = field(default_factory=dict)
    demand: Demand | None = None
    desired: float = math.nan
    reason: Mapping[str, Any] = field(default_factory=dict)  # command or cause of `desired`
    since_ns: int = 0  # source time of the reason
    in_flight: bool = False  # a write of `asked` waits or is under way
    asked: float = math.nan  # what the newest write asks for
    attempt_ns: int = -REDRIVE_NS
    driven: float = math.nan  # what the device last accepted
    driven_ns: int = 0
    verified: bool = False
    doubted: bool = False  # the read-back says something else than `driven`
    unproven_ns: int = 0  # since when a read-back could have confirmed `desired`
    changed_ns: int = -RATE_WINDOW_NS  # when the last setpoint was accepted
    told: set[str] = field(default_factory=set)  # what was reported of `desired`: each once


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
        self.outputs = {p.index: Output(p) for p in points if p.is_output}
        self.gateway_writes: list[tuple[Command, PointDef]] = []  # E_Stop, Reset: scan takes them
        self._inert = frozenset(inert)
        self._receipt = receipt
        self._seen: OrderedDict[str, None] = OrderedDict()

    # ------------------------------------------------------------ acceptance

    def submit(self, command: Command, now_mono_ns: int, now_utc_ns: int) -> bool:
        """Accept or refuse a command; the receipt says which and why. True = accepted."""
        try:
            self._accept(command, now_mono_ns, now_utc_ns)
        except CommandRefused as refusal:
            self.report(command, "refused", str(refusal))
            return False
        self.report(command, "accepted", "")
        return True

    def report(self, command: Command, step: str, reason: str) -> None:
        """A receipt for one step of a command."""
        self._receipt(
            {
                "command": command.id,
                "tag": command.tag,
                "value": command.value,
                "origin": command.origin,
                "source": command.source,
                "step": step,
                "reason": reason,
            }
        )

    def _accept(self, command: Command, now_mono_ns: int, now_utc_ns: int) -> None:
        if not command.id or command.id in self._seen:
            raise CommandRefused("a command with this id was handled before")
        self._seen[command.id] = None
        if len(self._seen) > IDS_SEEN_MAX:
            self._seen.popitem(last=False)
        if command.expires_ns and now_utc_ns > command.expires_ns:
            raise CommandRefused("expired")
        if command.origin not in ORIGINS:
            raise CommandRefused(f"unknown origin {command.origin!r}")
        point = self.points.get(command.tag)
        if point is None:
            raise CommandRefused("no such point")
        if not point.writable:
            raise CommandRefused("the point is read only (ReadWrite)")
        output = self.outputs.get(point.index)
        if command.release:
            if output is None or command.origin not in output.setpoints:
                raise CommandRefused("no setpoint of this origin to release")
            del output.setpoints[command.origin]
            return
        check_value(point, command.value)
        if output is None:
            self._accept_gateway(point, command)
            return
        self._accept_output(output, command, now_mono_ns)

    def _accept_gateway(self, point: PointDef, command: Command) -> None:
        if command.origin != "operator":
            raise CommandRefused("only a local operator may write this point")
        if point.tag in self._inert:
            raise CommandRefused("no rule of this site reads this point, so nothing would happen")
        self.gateway_writes.append((command, point))

    def _accept_output(self, output: Output, command: Command, now_ns: int) -> None:
        point, demand = output.point, output.demand
        if demand is not None:
            kind = "trip" if demand.trip else "interlock"
            raise CommandRefused(f"held by {kind} {demand.cause}")
        if command.origin == "remote" and command.lease_ns <= 0:
            raise CommandRefused("a remote setpoint needs a lease")
        if command.lease_ns < 0 or 0 < point.lease_ns < command.lease_ns:
            raise CommandRefused(f"lease outside 0 to {point.lease_ns / 1e9:g} s")
        _check_rate(output, command.value, now_ns)
        output.changed_ns = now_ns
        until_ns = now_ns + command.lease_ns if command.lease_ns else 0
        output.setpoints[command.origin] = Setpoint(command.value, command, now_ns, until_ns)

    # ------------------------------------------------------------ arbitration

    def arbitrate(
        self, demands: Mapping[int, Demand], rows: NDArray[np.void], now_ns: int
    ) -> list[Write]:
        """Decide every output once, verify what was written, return what is to be written.

        demands  index of the output -> what protection wants
        rows     (P,) POINT, the point table
        """
        writes = []
        for index, output in self.outputs.items():
            self._decide(output, demands.get(index), now_ns)
            self._verify(output, rows, now_ns)
            if self._due(output, now_ns):
                output.in_flight, output.asked = True, output.desired
                output.attempt_ns = now_ns
                urgent = output.demand is not None
                writes.append(Write(output.point, output.desired, urgent))
        return writes

    def _decide(self, output: Output, demand: Demand | None, now_ns: int) -> None:
        for origin, setpoint in list(output.setpoints.items()):
            if setpoint.until_ns and now_ns >= setpoint.until_ns:
                del output.setpoints[origin]
                self._step(output, "released", command=setpoint.command.id, reason="lease ended")
        if demand is not None and demand.trip:
            for setpoint in output.setpoints.values():
                self._step(output, "released", command=setpoint.command.id, reason=demand.cause)
            output.setpoints.clear()
        output.demand = demand
        value, reason, since_ns = self._wanted(output, demand)
        if reason == output.reason and _same(value, output.desired):
            return
        output.desired, output.reason, output.since_ns = value, reason, since_ns
        output.attempt_ns = -REDRIVE_NS  # a new wish doesn't wait for the repetition of an old one
        output.unproven_ns = now_ns
        output.verified = output.doubted = False
        output.told.clear()

    def _wanted(
        self, output: Output, demand: Demand | None
    ) -> tuple[float, Mapping[str, Any], int]:
        if demand is not None:
            return demand.value, {"cause": demand.cause}, demand.source_ns
        for origin in ORIGINS:
            if origin in output.setpoints:
                setpoint = output.setpoints[origin]
                return setpoint.value, {"command": setpoint.command.id}, setpoint.accepted_ns
        return output.point.fallback, {"cause": "fallback"}, 0

    def _due(self, output: Output, now_ns: int) -> bool:
        if math.isnan(output.desired):
            return False
        if output.in_flight:
            return output.desired != output.asked  # the newer write replaces or follows the older
        wrong = output.desired != output.driven or output.doubted
        return wrong and now_ns - output.attempt_ns >= REDRIVE_NS

    # ------------------------------------------------------------ what became of a write

    def written(self, index: int, value: float, now_ns: int) -> None:
        """The device accepted a write."""
        output = self.outputs[index]
        if value != output.driven:
            output.unproven_ns = now_ns
        output.driven, output.driven_ns = value, now_ns
        output.verified = output.doubted = False
        if value != output.asked:
            return  # a newer write is behind it
        output.in_flight = False
        if value == output.desired:
            self._once("driven", output, "driven", now_ns=now_ns)

    def write_failed(self, index: int, value: float, reason: str) -> None:
        """The device did not take a write; it is repeated as long as it is wanted."""
        output = self.outputs[index]
        output.driven = math.nan
        if value != output.asked:
            return  # a newer write is behind it
        output.in_flight = False
        self._once("write failed", output, "failed", reason=reason)

    def device_lost(self, indexes: Sequence[int]) -> None:
        """What these outputs hold is unknown from now on; they are driven again."""
        for index in indexes:
            output = self.outputs.get(index)
            if output is not None:
                output.driven = math.nan
                output.attempt_ns = -REDRIVE_NS
                output.verified = False
                output.told.clear()

    def _verify(self, output: Output, rows: NDArray[np.void], now_ns: int) -> None:
        """Compare the read-back with what was driven, where it was read after the write.

        An output may take a moment to arrive: until `VERIFY_NS` another value is no failure yet,
        but it is driven again. One that was verified and then leaves its value fails at once.
        """
        point = output.point
        if output.in_flight or point.read_back == 0 or output.driven != output.desired:
            return
        row = rows[point.read_back]
        value = float(row["value"])
        fresh = row["mono_ns"] >= output.driven_ns and not status.is_bad(int(row["status"]))
        if fresh and abs(value - output.driven) <= point.tolerance:
            output.doubted = False
            if not output.verified:
                output.verified = True
                self._once("verified", output, "verified", now_ns=now_ns)
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
        self._once("not verified", output, "failed", reason=f"{shown}, driven {output.driven:g}")

    def _once(self, what: str, output: Output, step: str, **more: Any) -> None:
        if what not in output.told:
            output.told.add(what)
            self._step(output, step, **more)

    def _step(
        self,
        output: Output,
        step: str,
        *,
        command: str | None = None,
        reason: str = "",
        now_ns: int = 0,
    ) -> None:
        """A receipt for one step of an output; the reaction time where a cause made it."""
        body: dict[str, Any] = {"tag": output.point.tag, "value": output.desired, "step": step}
        body.update({"command": command} if command else output.reason)
        body["reason"] = reason
        if now_ns and output.since_ns:
            body["reaction_ms"] = round((now_ns - output.since_ns) / 1e6, 3)
        self._receipt(body)


def check_value(point: PointDef, value: float) -> None:
    """Raise CommandRefused where a point can't take a value."""
    if not math.isfinite(value):
        raise CommandRefused("not a finite number")
    if point.kind == "discrete":
        highest = len(point.states) - 1 if point.states else None
        if value != int(value) or value < 0 or (highest is not None and value > highest):
            raise CommandRefused("not one of the point's discrete values")
    if value < point.value_min or value > point.value_max:  # False where none is declared (NaN)
        raise CommandRefused(
            f"outside {point.value_min:g} to {point.value_max:g} {point.units}".rstrip()
        )


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
            f"faster than RateMax {point.rate_max_per_s:g} {point.units}/s: from {now:g}, "
            f"{now - step:g} to {now + step:g} is allowed now"
        )


def _same(first: float, second: float) -> bool:
    return first == second or (math.isnan(first) and math.isnan(second))
