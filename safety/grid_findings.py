"""What is wrong with grid functions beyond their own keys: poll periods, shares, fallbacks.

safety/grid.py checks the parameters of one function by itself.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator

from config.findings import Finding
from config.functions import Balance, ExportLimit, GridFunction, ImportLimit, PeakShaving
from config.points import PointDef
from config.site import Site
from config.units import NUMBER, UNITS
from safety import grid, infix
from safety.measures import Measure, describe, measure_of
from safety.terms import Point, RuleSyntaxError, Term, children, show

# A closed loop over polled values is calm where its time constant is at least this many times the
# time by which its inputs can differ in age (docs/grid.md, "Why it does not oscillate").
TIME_CONSTANT_PERIODS = 2
# What inputs measure whose unit is not that of an output: in words, and as dimensions. A share of
# the nominal value is as good, and a charger is set by its current.
_VOLTAGES = (UNITS["V"].dimension, NUMBER)
_POWERS = (UNITS["W"].dimension, UNITS["A"].dimension, NUMBER)
QUANTITIES = {
    "Voltage": ("a voltage in the unit of Nominal", _VOLTAGES),
    "Exchange": ("a power in the unit of the output", _POWERS),
    "Power": ("a power in the unit of the output", _POWERS),
    "Target": ("a power in the unit of the output", _POWERS),
}
SHARES_CLOSE = 1e-9  # 0.1 ten times is 1


def findings(site: Site) -> list[Finding]:
    """Warnings on the grid functions of a site; mistakes that keep it from starting are the
    compiler's."""
    found = []
    points = {point.tag: point for point in site.points}
    for name, function in site.personality.functions.items():
        for fault in (*_speed(site, points, function), *_letting_go(points, function)):
            key = f"Grid_Functions.{name}.{fault.key}"
            file = site.personality.controls_file
            found.append(Finding(file, key, fault.rule, fault.message, fault.severity))
    return found + list(_shares(site))


def foreign(key: str, term: Term, symbol: str, measure: Measure) -> str:
    """What is wrong with an input that measures another thing than its key takes, where no unit
    of the output says which one; '' where nothing is."""
    if key not in QUANTITIES or measure.unit is None or not measure.is_known:
        return ""
    name, taken = QUANTITIES[key]
    if measure_of(symbol).is_known or measure.unit.dimension in taken:
        return ""
    return f"{show(term)} is in {describe(measure)}, and {key} takes {name}."


def _shares(site: Site) -> Iterator[Finding]:
    """Functions of several outputs that together take more of one headroom than there is."""
    groups: defaultdict[tuple[object, ...], dict[str, tuple[str, float]]] = defaultdict(dict)
    for name, function in site.personality.functions.items():
        if isinstance(function, ExportLimit | ImportLimit | Balance):
            place = function.Function, function.Exchange, function.When
            groups[place].setdefault(function.Output, (name, function.Share))
    for members in groups.values():
        together = sum(share for _, share in members.values())
        if together <= 1.0 + SHARES_CLOSE:
            continue
        names = [name for name, _ in members.values()]
        yield Finding(
            site.personality.controls_file,
            f"Grid_Functions.{names[-1]}.Share",
            "function-shares",
            f"{', '.join(names)} share one connection point, and their Shares are {together:g} "
            "together: each gives away what the others use too, and while Exchange is bad they "
            "pass the limit. Divide 1 among them.",
            "warning",
        )


def _speed(site: Site, points: dict[str, PointDef], function: GridFunction) -> Iterator[grid.Fault]:
    if not isinstance(function, ExportLimit | ImportLimit | PeakShaving | Balance):
        return
    exchange_s = _period_s(site, points, function.Exchange)
    power_s = _period_s(site, points, function.Power)
    # A whole share cancels what both inputs have in common; a part of it feels both delays.
    whole = isinstance(function, PeakShaving) or function.Share == 1.0
    apart_s = max(exchange_s, power_s) if whole else exchange_s + power_s
    needed_s = TIME_CONSTANT_PERIODS * apart_s
    if function.TimeConstant < needed_s:
        yield grid.Fault(
            "TimeConstant",
            "function-too-fast",
            f"Exchange is polled every {exchange_s:g} s and Power every {power_s:g} s, so with a "
            f"time constant of {function.TimeConstant:g} s the output may swing. Set TimeConstant "
            f"to {needed_s:g} or more, or poll both faster.",
            "warning",
        )


def _period_s(site: Site, points: dict[str, PointDef], text: str) -> float:
    """The longest poll period of the points in an expression; 0 where none is polled."""
    try:
        used = _points(infix.parse(text))
    except RuleSyntaxError:
        return 0.0
    classes = (site.scan_classes.get(points[tag].scan_class) for tag in used if tag in points)
    return max((found.period_ns / 1e9 for found in classes if found is not None), default=0.0)


def _points(term: Term) -> set[str]:
    found = {term.tag} if isinstance(term, Point) else set()
    for inner in children(term):
        found |= _points(inner)
    return found


def _letting_go(points: dict[str, PointDef], function: GridFunction) -> Iterator[grid.Fault]:
    point = points.get(function.Output)
    if point is None or grid.role(function) != "Setpoint":
        return
    if math.isnan(grid.bad_value(function)) and math.isnan(point.fallback):
        yield grid.Fault(
            "BadValue",
            "function-no-fallback",
            f"On bad inputs the function lets go of {point.tag}, which has no Fallback and no "
            "SafeValue, so it would stay where it is. Give the function a BadValue or the channel "
            "a Fallback.",
            "warning",
        )
