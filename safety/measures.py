"""What the numbers of a rule measure: units followed through the operators.

A point has the unit of its channel, a number the one in its brackets. Plain numbers take any
unit, and where a unit isn't known nothing is checked.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, Literal

from config import units
from config.units import Unit

SYMBOL_CHARS_MAX: Final = 40
MEASURES_MAX: Final = 1024  # spellings that are kept
_CLOSE: Final = 1e-9  # relative; scales of one unit written in two ways
# Factors by which people convert units where the table has none: 1000 and its like, parts of
# time, m/s to km/h.
_CONVERSIONS: Final = (3.6, 24.0, 60.0, 3600.0, 86400.0, *(10.0**n for n in range(1, 13)))


@dataclass(frozen=True, slots=True)
class Measure:
    """What a number measures.

    unit        None where it isn't known
    plain       a pure number, e.g. a constant or a count
    difference  of two values on a scale with its own zero, such as degC
    converted   multiplied by a plain number that may have changed the unit's scale, e.g. 1000
    moved       on a scale with its own zero, but reckoned with plain numbers: where its zero lies
                now isn't known, so that no number on another scale can be brought to it
    """

    unit: Unit | None = None
    plain: bool = False
    difference: bool = False
    converted: bool = False
    moved: bool = False

    @property
    def is_known(self) -> bool:
        """Whether there is a unit in the table to check against."""
        return self.unit is not None and self.unit.dimension is not None

    @property
    def zero(self) -> float:
        """SI value at its zero."""
        return 0.0 if self.unit is None or self.difference else self.unit.zero


UNKNOWN: Final = Measure()
PLAIN: Final = Measure(plain=True)
SECONDS: Final = Measure(units.UNITS["s"])


@lru_cache(maxsize=MEASURES_MAX)
def measure_of(text: str) -> Measure:
    """The measure of a point whose channel has these units."""
    return Measure(units.unit_of(text))


Clash = Literal["", "dimension", "scale"]


def clash(left: Measure, right: Measure, op: str = "") -> Clash:
    """Why two numbers can't be compared, or joined by `op` (``+`` and ``-``); '' where they can."""
    if left.unit is None or right.unit is None or not (left.is_known and right.is_known):
        return ""
    if left.unit.dimension != right.unit.dimension:
        return "dimension"
    if left.converted or right.converted:
        return ""
    if not math.isclose(left.unit.scale, right.unit.scale, rel_tol=_CLOSE):
        return "scale"
    if op == "+" or (op == "-" and not right.zero):
        return ""  # a difference is added to a temperature, or taken from it
    return "" if left.zero == right.zero else "scale"


def joined(left: Measure, right: Measure, op: str = "") -> Measure:
    """The measure of what two numbers give that don't clash: a sum, the greater of both, ..."""
    if op == "-" and left.zero and right.zero:
        return replace(left, difference=True, converted=left.converted or right.converted)
    if left.is_known and not (left.converted and right.is_known):
        return right if op == "+" and right.zero and not left.zero else left
    return right if right.unit is not None or left.plain else left


def product(left: Measure, right: Measure, op: str) -> Measure:
    """The measure of `left * right` or `left / right`."""
    if left.plain and right.plain:
        return PLAIN
    one = units.UNITS["1"]
    upper = one if left.plain else left.unit
    lower = one if right.plain else right.unit
    if upper is None or lower is None:
        return UNKNOWN
    converted = left.converted or right.converted
    if right.plain:
        return moved(replace(left, converted=converted))
    if left.plain and op == "*":
        return moved(replace(right, converted=converted))
    symbol = _symbol(upper.symbol, lower.symbol, op)
    unit = units.combined(upper, lower, 1 if op == "*" else -1, symbol)
    return Measure(unit, converted=converted)


def _symbol(left: str, right: str, op: str) -> str:
    if op == "/":
        right = right.translate({ord("*"): "/", ord("/"): "*"})
    symbol = _cancelled(right if left == "1" and op == "*" else f"{left}{op}{right}")
    return symbol if len(symbol) <= SYMBOL_CHARS_MAX else "a product of units"


def _cancelled(symbol: str) -> str:
    """The symbol without what stands above and below: ``kW*W/kW`` is ``W``."""
    first, *rest = re.split(r"([*/])", symbol)
    above: list[str] = [first]
    below: list[str] = []
    for op, factor in zip(rest[::2], rest[1::2], strict=True):
        here, there = (above, below) if op == "*" else (below, above)
        if factor in there:
            there.remove(factor)
        else:
            here.append(factor)
    if len(above) + len(below) == 1 + len(rest) // 2:
        return symbol  # nothing to take out
    return "/".join(["*".join(above) or "1", *below])


def moved(measure: Measure) -> Measure:
    """The measure after plain numbers or a change of sign: on a scale with a zero it is `moved`."""
    return replace(measure, moved=True) if measure.zero else measure


def per_second(measure: Measure) -> Measure:
    """The measure of a change a second."""
    return UNKNOWN if measure.unit is None else product(measure, SECONDS, "/")


def scaled(measure: Measure, factor: float) -> Measure:
    """The measure times a plain number, which people also convert units by."""
    if (
        measure.unit is None
        or measure.unit.dimension is None
        or not _converts(measure.unit, factor)
    ):
        return measure
    return replace(measure, converted=True)


def _converts(unit: Unit, factor: float) -> bool:
    factor = abs(factor)
    if factor in (0.0, 1.0) or not math.isfinite(factor) or unit.dimension is None:
        return False
    known = (unit.scale / scale for scale in units.scales_of(unit.dimension))
    generic = (each for number in _CONVERSIONS for each in (number, 1 / number))
    return any(math.isclose(factor, each, rel_tol=1e-6) for each in (*known, *generic))


def convert(value: float, unit: Unit, to: Measure, difference: bool = False) -> float | None:
    """A written number in the unit of `to`; None where that can't be done.

    difference  a band or a step, for which the zero of a scale doesn't count
    """
    if to.unit is None or to.converted:
        return None
    if unit.symbol == to.unit.symbol:
        return value
    if unit.dimension is None or unit.dimension != to.unit.dimension:
        return None
    zero = unit.zero - to.zero
    if zero and to.moved and not difference:
        return None
    if difference or to.difference:
        zero = 0.0
    # Fifteen digits: 50 % are 500000 ppm, not 500000.00000000006.
    return float(f"{(value * unit.scale + zero) / to.unit.scale:.15g}")


def describe(measure: Measure) -> str:
    """The measure in a message, e.g. ``kW`` or ``differences of degC``."""
    if measure.unit is None:
        return "a unit that is not known"
    return f"differences of {measure.unit.symbol}" if measure.difference else measure.unit.symbol
