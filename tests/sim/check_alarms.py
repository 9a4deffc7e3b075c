"""What must hold of alarms over restarts: what people acknowledged or shelved stays so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.field import Field
from tests.sim.loop import SimLoop
from tests.sim.processes import SimClock

KEPT_S: Final = (
    5.0  # what was older at its death stands in the retain file, where the disk takes it
)
ACKNOWLEDGED: Final = ("acknowledged", "latched acknowledged")
CALLING: Final = ("unacknowledged", "latched unacknowledged", "returned unacknowledged")


@dataclass(frozen=True)
class Shown:
    """What the last life said of an alarm."""

    state: str
    since_ns: int
    until_utc_ns: int  # of a shelving
    step_ns: int  # of the wall clock: its expiry follows it


class AlarmChecks:
    """Follows the events of the journal and compares each new life with them."""

    def __init__(
        self, loop: SimLoop, clock: SimClock, fail: Callable[[str], None], seen: Counter[str]
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._fail = fail
        self._seen = seen
        self._shown: dict[str, Shown] = {}
        self._died_ns = self._undone_ns = 0

    def event(self, body: Mapping[str, Any]) -> None:
        """An event of an alarm was journalled."""
        state, now_ns = str(body["state"]), self._loop.now_ns
        before = self._shown.get(body["name"])
        since_ns = before.since_ns if before and before.state == state else now_ns
        until_ns = int(body.get("until_utc_ns", before.until_utc_ns if before else 0))
        self._shown[body["name"]] = Shown(state, since_ns, until_ns, self._clock.step_ns)

    def died(self, undone_ns: int) -> None:
        """The field process was killed; until `undone_ns` it did not run, or its disk refused."""
        self._died_ns = self._loop.now_ns
        self._undone_ns = undone_ns

    def born(self, made: Field) -> None:
        """A field process begins a life, before its first scan."""
        utc_ns = self._clock.utc_ns()
        for row in made.scan.alarms.answer({"all": True})["alarms"]:
            name, state = row["name"], row["state"]
            before = self._shown.pop(name, None)
            if before is None:
                continue
            if self._died_ns - max(before.since_ns, self._undone_ns) < KEPT_S * 1e9:
                continue
            said = f"alarm: {name} was {before.state}, and is {state} after a restart"
            if before.state in ACKNOWLEDGED:
                self._seen["acknowledged"] += 1
                if state in CALLING:
                    self._fail(said)
            elif before.state in CALLING and state in (*ACKNOWLEDGED, "shelved"):
                self._fail(said)
            elif before.state == "shelved" and before.step_ns == self._clock.step_ns:
                self._seen["shelved"] += 1
                if utc_ns < before.until_utc_ns and state != "shelved":
                    self._fail(said)
