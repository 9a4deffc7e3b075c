"""When one condition is true wherever another one is: what that other one adds is nothing."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

from safety.terms import Choice, Compare, Delay, Negative, Null, Number, Point, Term, Text

_UPWARDS: Final = {">": 1, ">=": 0}  # 1: the limit itself doesn't count
_DOWNWARDS: Final = {"<": 1, "<=": 0}
_MIRRORED: Final = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}

Edge = tuple[float, int]  # a larger one is harder to reach


@dataclass(frozen=True, slots=True, order=True)
class Limit:
    """A condition as far as it can be compared with others.

    on, off   where it becomes true and where it lets go; equal without hysteresis. Conditions that
              are no limit of a point are (0, 0)
    delay_ns  how long it must be true
    """

    on: Edge
    off: Edge
    delay_ns: int

    def covers(self, other: Limit) -> bool:
        """True where this one is true whenever the other, of the same subject, is."""
        return self.on <= other.on and self.off <= other.off and self.delay_ns <= other.delay_ns


def limit(term: Term) -> tuple[Hashable, Limit]:
    """What a condition is about, and its limit; only those about the same can be compared."""
    if isinstance(term, Choice) and isinstance(term.value, Text) and isinstance(term.other, Null):
        term = term.condition  # if(condition, 'Name', null)
    delay_ns = 0
    while isinstance(term, Delay):
        delay_ns += term.delay_ns
        term = term.term
    found = _point_limit(term) if isinstance(term, Compare) else None
    if found is None:
        return term, Limit((0.0, 0), (0.0, 0), delay_ns)
    subject, on, off = found
    return subject, Limit(on, off, delay_ns)


def _point_limit(term: Compare) -> tuple[Hashable, Edge, Edge] | None:
    op, left, right = term.op, term.left, term.right
    if isinstance(right, Point) and term.hysteresis is None:
        op, left, right = _MIRRORED.get(op, op), right, left
    sign = 1.0
    if isinstance(right, Negative):
        sign, right = -1.0, right.term
    if not (isinstance(left, Point) and isinstance(right, Number)):
        return None
    value, back = sign * right.value, term.hysteresis
    unit = (right.unit, term.hysteresis_unit if back is not None else right.unit)
    if unit[0] != unit[1]:
        return None
    if op in _DOWNWARDS:
        value, strict = -value, _DOWNWARDS[op]
    elif op in _UPWARDS:
        strict = _UPWARDS[op]
    else:
        return None
    on = (value, strict)
    off = on if not back else (value - back, 0)
    return (left.tag, op in _UPWARDS, unit[0]), on, off
