"""Outputs: what each is to be driven to, how it gets there, and whether it arrived.

    trip > interlock, control state's Hold > operator > remote > schedule > auto > fallback

Auto is what grid functions and control states propose. What is no protection gets the functions'
offset and is held to their limits and to the point's range; `RampRate` bounds how fast it is
approached. Protection takes its value at once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from config import status
from config.points import PointDef
from gateway.core.records import Command

ORIGINS: Final = ("operator", "remote", "schedule")  # in the order of their rank
REDRIVE_NS: Final = 1_000_000_000  # a failed or undone write is repeated at most this often
MOVE_NS: Final = 100_000_000  # and a number that moves by itself is written at most this often
RENAME_NS: Final = 1_000_000_000  # causes that take turns are told at most this often
RAMP_STEP_NS_MAX: Final = 1_000_000_000  # a scan that comes late makes no larger step of a ramp
RATE_WINDOW_NS: Final = 1_000_000_000  # RateMax is the largest step in this time
VERIFY_NS: Final = 5_000_000_000  # what no read-back confirms by then has failed
WATCHDOG: Final = "watchdog"  # cause of an output that toggles, see gateway/watchdog.py


@dataclass(frozen=True, slots=True)
class Setpoint:
    """An accepted command: its value holds until `until_ns` (monotonic; 0 = no end)."""

    value: float
    command: Command
    accepted_ns: int
    until_ns: int


class Demand(NamedTuple):
    """What protection wants of an output.

    cause      name of the rule, ``start-up``, ``stop``, or ``<machine>: <state>``
    kind       ``trip`` (it ends setpoints), ``interlock`` or ``state`` (they hold them down)
    source_ns  monotonic source time of the input that made the cause, for the reaction time
    """

    value: float
    cause: str
    kind: str = "trip"
    source_ns: int = 0


class Proposal(NamedTuple):
    """What functions and control states want of an output, below every setpoint.

    value      NaN = nothing
    offset     added to whatever is no protection
    low, high  limits of whatever is no protection; where they contradict, `high` wins
    """

    value: float = math.nan
    cause: str = ""
    offset: float = 0.0
    low: float = -math.inf
    high: float = math.inf
    low_cause: str = ""
    high_cause: str = ""


NO_PROPOSAL: Final = Proposal()


class Wish(NamedTuple):
    """What the logic wants of an output since the last scan."""

    demand: Demand | None = None
    proposal: Proposal = NO_PROPOSAL


class Wanted(NamedTuple):
    """A value for an output, before limits and ramp; `reason` is its command or its cause."""

    value: float
    reason: Mapping[str, Any]
    since_ns: int = 0


@dataclass(slots=True)
class Output:
    """The life of one output point."""

    point: PointDef
    position: int = 0  # among the outputs
    setpoints: dict[str, Setpoint] = field(default_factory=dict)
    demand: Demand | None = None
    proposal: Proposal = NO_PROPOSAL
    beat: float = math.nan  # what the watchdog wants of it
    target: float = math.nan  # where `desired` goes, at the point's RampRate
    held: str = ""  # the limit that holds `target` down or up
    desired: float = math.nan
    reason: Mapping[str, Any] = field(default_factory=dict)  # command or cause of `desired`
    since_ns: int = 0  # source time of the reason
    protected: bool = False  # the reason is a demand
    reason_ns: int = 0  # since when it is the reason
    unnamed: bool = False  # another cause is behind `desired` and was not told yet
    new: bool = False  # nothing was written since the reason changed
    begun: bool = False  # the device took a value since then
    rests: bool = False  # it was quiet in the last scan that looked at it
    ramp_ns: int = 0  # when `desired` last moved on its ramp; 0 = it stands on none
    blind: bool = False  # nobody knows where the ramp is to start
    up_ns: int = 0  # since when its device is there; 0 = it is away
    in_flight: bool = False  # a write of `asked` waits or is under way
    asked: float = math.nan  # what the newest write asks for
    final: bool = False  # `asked` was where it was to go, no step of a ramp
    attempt_ns: int = -REDRIVE_NS
    driven: float = math.nan  # what the device last accepted
    driven_ns: int = 0
    span: tuple[float, float] = (math.nan, math.nan)  # of what was driven since `span_ns`
    span_ns: int = 0
    verified: bool = False
    doubted: bool = False  # the read-back says something else than `driven`
    unproven_ns: int = 0  # since when a read-back could have confirmed `driven`
    changed_ns: int = -RATE_WINDOW_NS  # when the last setpoint was accepted
    told: set[str] = field(default_factory=set)  # what was reported of `reason`: each once

    @property
    def step(self) -> float:
        """The smallest change of a number that is worth a write."""
        return max(self.point.tolerance, self.point.deadband)

    @property
    def settled(self) -> bool:
        """True where the device has what is wanted, as near as writes come."""
        return self.final or abs(self.driven - self.target) <= self.step

    # ------------------------------------------------------------ what it is driven to

    def decide(self, rows: NDArray[np.void], now_ns: int) -> None:
        """Find what the output is to be driven to now.

        A new reason, or another value that a trip or interlock demands, is a new wish: it is
        written at once and reported anew. A value that moves while its reason stays (functions,
        limits, ramps) is not. Causes below the setpoints that take turns in every scan are told
        once a second: the value is what counts.
        """
        wanted, demand = self._wanted(), self.demand
        moved = False
        if demand is not None or self.beats:
            target, self.held, self.ramp_ns = wanted.value, "", 0
            desired = target
            moved = demand is not None and demand.kind != "state" and not same(target, self.target)
        else:
            target, self.held = self._limited(wanted.value)
            desired = self._approached(target, rows, now_ns)
        self.target, self.desired = target, desired
        renamed = wanted.reason != self.reason
        self.unnamed = renamed and self._too_soon(wanted, now_ns)
        if moved or (renamed and not self.unnamed):
            self._begin(wanted, now_ns)

    def _too_soon(self, wanted: Wanted, now_ns: int) -> bool:
        low = self.demand is None and not self.protected and "cause" in wanted.reason
        told = bool(self.told) and "cause" in self.reason
        return low and told and now_ns - self.reason_ns < RENAME_NS

    def _begin(self, wanted: Wanted, now_ns: int) -> None:
        self.reason, self.since_ns, self.reason_ns = wanted.reason, wanted.since_ns, now_ns
        self.protected = self.demand is not None
        self.new, self.begun, self.final = True, False, False
        self.unproven_ns = now_ns
        self.verified = self.doubted = False
        self.told.clear()

    def above(self, command: Command) -> str:
        """What stands above the setpoint of a command, in words; nothing where it is in force."""
        own = self.setpoints.get(command.origin)
        if own is None or own.command is not command:
            return ""
        if self.beats:
            return f"the {WATCHDOG} drives it"
        first = next(origin for origin in ORIGINS if origin in self.setpoints)
        return "" if first == command.origin else f"another setpoint ranks higher ({first})"

    def _wanted(self) -> Wanted:
        demand, proposal = self.demand, self.proposal
        if demand is not None:
            return Wanted(demand.value, {"cause": demand.cause}, demand.source_ns)
        if not math.isnan(self.beat):
            return Wanted(self.beat, {"cause": WATCHDOG})
        for origin in ORIGINS:
            if origin in self.setpoints:
                setpoint = self.setpoints[origin]
                return Wanted(
                    setpoint.value, {"command": setpoint.command.id}, setpoint.accepted_ns
                )
        if not math.isnan(proposal.value):
            return Wanted(proposal.value, {"cause": proposal.cause})
        if math.isnan(self.point.fallback) and math.isfinite(proposal.high):
            # Nobody says what it has now, and that may be more than the limit.
            return Wanted(proposal.high, {"cause": proposal.high_cause})
        return Wanted(self.point.fallback, {"cause": "fallback"})

    def _limited(self, value: float) -> tuple[float, str]:
        """What offset, limits and range make of a value, and what holds it, if anything does."""
        point, proposal, held = self.point, self.proposal, ""
        if math.isnan(value):
            return value, ""
        value += proposal.offset
        if value < proposal.low:
            value, held = proposal.low, proposal.low_cause
        if value > proposal.high:
            value, held = proposal.high, proposal.high_cause
        if value < point.value_min:  # False where none is declared (NaN)
            value, held = point.value_min, "Minimum"
        elif value > point.value_max:
            value, held = point.value_max, "Maximum"
        if point.kind == "discrete":
            value = float(round(value))
        return value, held

    @property
    def beats(self) -> bool:
        """True while the watchdog toggles it."""
        return self.demand is None and not math.isnan(self.beat)

    def _approached(self, target: float, rows: NDArray[np.void], now_ns: int) -> float:
        """`target`, or how far the point's ramp has come on the way there.

        Where nobody knows what the device has (at first, while writes fail, when it is back) the
        ramp starts anew: at what is shown, once the device took that.
        """
        rate = self.point.ramp_rate_per_s
        if math.isnan(rate) or math.isnan(target) or self.point.kind == "discrete":
            self.ramp_ns = 0
            return target
        before_ns, self.ramp_ns = self.ramp_ns, now_ns
        if self.rests and before_ns:
            before_ns = now_ns  # the time of its rest is not credited
        self.blind = False
        if not before_ns or math.isnan(self.driven):
            shown = self._shown(rows)
            starts = (shown, self.driven, self.desired, self.point.safe_value)
            self.blind = bool(self.point.read_back) and all(map(math.isnan, starts[:2]))
            return next((value for value in starts if not math.isnan(value)), target)
        step = rate * min(now_ns - before_ns, RAMP_STEP_NS_MAX) / 1e9
        return min(max(target, self.desired - step), self.desired + step)

    def _shown(self, rows: NDArray[np.void]) -> float:
        """What the read-back shows of the last write or of a later moment, else NaN.

        One from before the last write shows what no longer is: a trip's value, say.
        """
        row = rows[self.point.read_back]
        shown = float(row["value"])
        usable = not status.is_bad(int(row["status"])) and math.isfinite(shown)
        return shown if usable and row["mono_ns"] >= self.driven_ns else math.nan

    # ------------------------------------------------------------ when it is written

    def due(self, now_ns: int) -> bool:
        """True where `desired` is to be written now.

        A ramp waits until it is known what a device has that was away: it may have restarted.
        """
        if math.isnan(self.desired):
            return False
        if self.ramp_ns and self.blind and (not self.up_ns or now_ns - self.up_ns < VERIFY_NS):
            return False
        if self.in_flight:  # a new wish replaces or follows what is under way; a move waits for it
            return self.desired != self.asked and self.new
        if self.desired == self.driven and not self.doubted:
            return False
        waited_ns = now_ns - self.attempt_ns
        if self.new or waited_ns >= REDRIVE_NS:
            return True
        if math.isnan(self.driven) or self.desired == self.asked:
            return False  # a repetition
        if self.point.kind == "discrete":
            return True
        return waited_ns >= MOVE_NS and abs(self.desired - self.driven) >= self.step

    def ask(self, now_ns: int) -> bool:
        """A write of `desired` goes to the device; True where it is to go ahead of others."""
        urgent = self.demand is not None and (self.new or self.demand.kind != "state")
        self.in_flight, self.asked = True, self.desired
        self.final = self.desired == self.target
        self.attempt_ns, self.new = now_ns, False
        return urgent

    def took(self, value: float, now_ns: int) -> None:
        """The device accepted a write."""
        if value != self.driven:
            if self.verified or not self.begun or math.isnan(self.driven):
                self.unproven_ns = now_ns
            low, high = self.span if self.begun else (value, value)
            self.span = min(low, value), max(high, value)
            self.span_ns = self.span_ns if self.begun else now_ns
        self.begun = True
        self.driven, self.driven_ns = value, now_ns
        self.verified = self.doubted = False

    # ------------------------------------------------------------ what the read-back says

    def follows(self, value: float, mono_ns: int, now_ns: int) -> bool:
        """True where a read-back shows what was driven within the last `VERIFY_NS`.

        A value that moves in every scan is never read back before the next one is written.
        """
        if now_ns - self.span_ns > VERIFY_NS:
            self.span, self.span_ns = (self.driven, self.driven), now_ns
        low, high = self.span
        if low == high or mono_ns < self.span_ns:
            return False
        return low - self.point.tolerance <= value <= high + self.point.tolerance

    @property
    def quiet(self) -> bool:
        """True where only a new wish, a lease's end or the read-back can change anything."""
        if self.in_flight or self.doubted or self.unnamed:
            return False
        if math.isnan(self.desired):
            return True
        arrived = self.desired == self.driven and self.desired == self.target
        return arrived and (self.verified or self.point.read_back == 0)

    @property
    def next_end_ns(self) -> int:
        """When the first of its leases ends; far away where none does."""
        ends = [s.until_ns for s in self.setpoints.values() if s.until_ns]
        return min(ends, default=2**62)


def same(first: float, second: float) -> bool:
    """Equality that takes NaN for NaN."""
    return first == second or (math.isnan(first) and math.isnan(second))
