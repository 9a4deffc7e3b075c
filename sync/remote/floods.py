"""So many receipts of refusals as somebody reads, and of the rest a count. Pure."""

from __future__ import annotations

import math
import re
from collections import Counter, OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

GATES_MAX: Final = 200  # more than two for each key
REASONS_MAX: Final = 8  # in one count
REASON_CHARS_MAX: Final = 100

_NUMBER: Final = re.compile(r"\d+(\.\d+)?(e[+-]?\d+)?")


class Pace(NamedTuple):
    """So many at once, and then so many a second."""

    burst: float
    per_second: float


@dataclass(slots=True)
class _Gate:
    left: float
    last_ns: int
    held: Counter[str] = field(default_factory=Counter)


class Floods:
    """A gate for each of those who may cause receipts."""

    def __init__(self) -> None:
        self._gates: OrderedDict[str, _Gate] = OrderedDict()

    def let(self, who: str, pace: Pace, now_ns: int) -> bool:
        """True where one more of `who` may pass; `now_ns` is monotonic."""
        gate = self._gates.get(who)
        if gate is None:
            gate = self._gates[who] = _Gate(pace.burst, now_ns)
            if len(self._gates) > GATES_MAX:
                self._gates.popitem(last=False)
        gained = (now_ns - gate.last_ns) / 1e9 * pace.per_second
        gate.left = min(pace.burst, gate.left + gained)
        gate.last_ns = now_ns
        if gate.left < 1:
            return False
        gate.left -= 1
        return True

    def hold(self, who: str, reason: str, now_ns: int) -> None:
        """Count one that did not pass; reasons that differ in numbers only are one."""
        gate = self._gates.setdefault(who, _Gate(math.inf, now_ns))  # full at its first use
        kind = _NUMBER.sub("#", reason)[:REASON_CHARS_MAX]
        known = kind in gate.held or len(gate.held) < REASONS_MAX
        gate.held[kind if known else "other reasons"] += 1

    def counts(self) -> Iterator[tuple[str, int, str]]:
        """Of each with something held: who, how many, why; then it counts anew."""
        for who, gate in self._gates.items():
            held, gate.held = gate.held, Counter()
            if held:
                reasons = (f"{count} x {reason}" for reason, count in held.most_common())
                yield who, held.total(), "; ".join(reasons)
