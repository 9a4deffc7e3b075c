"""What must hold of schedules, against a model of docs/schedules.md that shares no code with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gateway import schedule_files
from gateway.field import Field
from tests.sim.loop import SimLoop
from tests.sim.plant import SAFE_SETPOINT
from tests.sim.processes import SimClock

ACT_S: Final = 10.0  # within which the output is where it must be
PLAUSIBLE_NS: Final = 1_735_689_600_000_000_000  # 2025-01-01
BEHIND_NS: Final = 600 * 10**9  # a clock this far behind an issue can't be true
KEPT_NS: Final = 86_400 * 10**9  # how long a schedule that is over is known


@dataclass
class Plan:
    """A version of a schedule that the simulation sent."""

    id: str
    name: str
    kind: str
    issued_ns: int
    end_ns: int
    slots: tuple[tuple[int, float | None], ...]
    forged: bool = False
    accepted: bool = False  # the field said so
    known: int = 0  # or it was seen on its disk; versions that came later have a higher number

    def at(self, utc_ns: int) -> float | None:
        """What it says of a moment."""
        ends = (*(start for start, _ in self.slots[1:]), self.end_ns)
        for (start_ns, value), end_ns in zip(self.slots, ends, strict=False):
            if start_ns <= utc_ns < end_ns:
                return value
        return None


class ScheduleChecks:
    """Keeps what was sent and accepted, and compares the output with it."""

    def __init__(
        self, loop: SimLoop, clock: SimClock, fail: Callable[[str], None], seen: Counter[str]
    ) -> None:
        self.plans: dict[str, Plan] = {}
        self._seen = seen
        self._loop = loop
        self._clock = clock
        self._fail = fail
        self._versions = 0
        self._offered = 0.0  # value of the slot that last became a command
        self._reasons = 1  # how often it may become one from here on
        self._step_ns = clock.step_ns
        self._went_back = False  # of the past of a replaced version nothing is kept
        self._wrong_ns: dict[str, int] = {}

    # ------------------------------------------------------------ what the field says

    def born(self, folder: Path) -> None:
        """A field process begins a life with what its disk holds."""
        self._offered = 0.0
        held = {schedule.id for schedule in schedule_files.load(folder)[0]}
        for plan in self.plans.values():
            if plan.id in held:
                self._learn(plan)
                if plan.forged:
                    self._fail(f"schedule {plan.id} was forged and is on the disk")
        for plan in self._current():
            kept = plan.end_ns + KEPT_NS > self._clock.utc_ns()
            if plan.accepted and kept and not self._went_back and plan.id not in held:
                self._fail(f"schedule {plan.id} was accepted and is not there after a restart")

    def receipt(self, body: Mapping[str, Any]) -> None:
        """A receipt was journalled: of a schedule, or of the command that a slot became."""
        if body["step"] != "accepted":
            return
        self._follow_clock()
        plan = self.plans.get(str(body["command"]))
        if plan is not None:
            if plan.forged:
                self._fail(f"schedule {plan.id} was forged and accepted")
            if plan.accepted and not body["reason"]:
                self._fail(f"schedule {plan.id} was accepted twice")
            plan.accepted = True
            self._learn(plan)
            self._reasons += 1
        elif body["origin"] == "schedule" and body["tag"] == "Rig.Plan":
            value = float(body["value"])
            if value != self._offered:
                self._offered, self._reasons = value, 1
            self._reasons -= 1
            if self._reasons < 0:
                self._fail(f"schedule: the slot of {value:g} became a command again and again")

    # ------------------------------------------------------------ the model

    def _learn(self, plan: Plan) -> None:
        """A version is in force; one that was issued before the one that is here is refused."""
        if plan.known:
            return
        before = {p.name: p for p in self._current() if p.kind == plan.kind}.get(plan.name)
        if before is not None and before.slots and plan.issued_ns <= before.issued_ns:
            self._fail(f"schedule {plan.id} took the place of a newer version")
        self._versions += 1
        plan.known = self._versions

    def _known(self) -> list[Plan]:
        """What was taken at any time, the newest first."""
        known = [plan for plan in self.plans.values() if plan.known]
        return sorted(known, key=lambda plan: -plan.known)

    def _current(self) -> list[Plan]:
        """The newest version of each schedule; the issue that came last first."""
        newest: dict[tuple[str, str], Plan] = {}
        for plan in self._known():
            newest.setdefault((plan.kind, plan.name), plan)
        return sorted(newest.values(), key=lambda plan: -plan.issued_ns)

    def wanted(self, utc_ns: int) -> float | None:
        """What schedules say of the output now; None where they say nothing."""
        current, known = self._current(), self._known()
        if utc_ns < PLAUSIBLE_NS:
            return None
        if any(plan.slots and utc_ns < plan.issued_ns - BEHIND_NS for plan in current):
            return None
        for kind in ("intraday", "day-ahead"):
            for name in [plan.name for plan in current if plan.kind == kind]:
                value = _said([p for p in known if (p.kind, p.name) == (kind, name)], utc_ns)
                if value is not None:
                    return value
        return None

    # ------------------------------------------------------------ the output

    def _follow_clock(self) -> None:
        step_ns = self._clock.step_ns
        if step_ns != self._step_ns:
            self._went_back |= step_ns < self._step_ns
            self._step_ns = step_ns
            self._reasons += 1

    def look(self, shown: float, made: Field | None, excused_ns: int) -> None:
        """Compare the output that schedules alone drive; `excused_ns`: out of reach until then."""
        now_ns = self._loop.now_ns
        self._follow_clock()
        if made is None:
            self._wrong_ns.clear()
            return
        wanted = self.wanted(self._clock.utc_ns())
        self._seen["slots"] += wanted is not None and shown == wanted
        said = {wanted, SAFE_SETPOINT}
        if self._went_back:
            said |= {plan.at(self._clock.utc_ns()) for plan in self._known()}
        state = {
            "the output holds what no slot of this time says": shown not in said,
            "a slot is not carried out": wanted not in (None, shown) and not self._went_back,
        }
        for text, wrong in state.items():
            if not wrong:
                self._wrong_ns.pop(text, None)
                continue
            since_ns = max(self._wrong_ns.setdefault(text, now_ns), excused_ns)
            if now_ns - since_ns > ACT_S * 1e9:
                self._fail(f"schedule: {text}: {shown:g}, and should be {wanted}")


def _said(versions: list[Plan], utc_ns: int) -> float | None:
    """What one schedule says; a newer version leaves alone what lies before its first slot."""
    for plan in versions:
        if not plan.slots or utc_ns >= plan.slots[0][0]:
            return plan.at(utc_ns)
    return None
