"""What single conditions show: channels that vote twice, limits out of range, lost channels.

Each condition is walked through once, so that ten thousand rules stay quick.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from config import units
from config.findings import Finding
from config.points import PointDef
from config.site import Site
from safety import layout, measures
from safety.rows import Row, data_key
from safety.shadow import limit
from safety.terms import Compare, Negative, Number, Point, Term, Vote, children, show

_MIRRORED: Final = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_UPWARDS: Final = (">", ">=")
_DOWNWARDS: Final = ("<", "<=")

_LOST: Final = "gatepost prove shows how"


def check_conditions(site: Site, rows: Sequence[Row]) -> Iterator[Finding]:
    """Warnings about the conditions of rules, guards and functions."""
    points = {point.tag: point for point in site.points}
    protecting = _protecting(rows)
    for row in rows:
        if row.term is None:
            continue
        if row.rule_kind == layout.KIND_TRIP and row.on_bad != layout.ON_BAD_TRIP:
            yield _trip_on_bad(row)
        for term in _parts(row.term):
            if isinstance(term, Vote):
                yield from _vote(row, term, row in protecting)
            elif isinstance(term, Compare):
                yield from _range(row, term, points)


def _parts(term: Term) -> Iterator[Term]:
    ahead = [term]
    while ahead:
        found = ahead.pop()
        yield found
        ahead += children(found)


def _protecting(rows: Sequence[Row]) -> set[Row]:
    """Trips, and what they refer to."""
    found: set[Row] = set()
    ahead = [row for row in rows if row.rule_kind == layout.KIND_TRIP]
    while ahead:
        row = ahead.pop()
        if row not in found:
            found.add(row)
            ahead += row.uses
    return found


# ---------------------------------------------------------------- lost channels


def _trip_on_bad(row: Row) -> Finding:
    name = layout.ON_BAD_NAMES[row.on_bad]
    message = (
        f'OnBad "{name}": a lost channel makes this trip less safe; {_LOST}. Remove OnBad, or see '
        "that something else acts on the loss."
    )
    return row.finding("trip-on-bad", message, "OnBad", "warning")


def _vote(row: Row, vote: Vote, protects: bool) -> Iterator[Finding]:
    # `none` gives bad where it could decide, and a bad result trips, or is told as trip-on-bad.
    if protects and vote.degrade == "drop":
        message = (
            f"degrade drop: a lost channel makes this trip less safe; {_LOST}. Write degrade trip, "
            "or accept that fewer channels must agree on the others."
        )
        yield row.finding("vote-degrade", message, severity="warning")
    groups: defaultdict[object, list[Term]] = defaultdict(list)
    for term in vote.terms:
        groups[limit(term)].append(term)
    for group in groups.values():
        if len(group) > 1:
            yield row.finding(
                "vote-duplicate",
                f"{show(group[0])} stands {_times(len(group))} in one vote, so that one channel "
                f"votes {_times(len(group))}. Name each channel once.",
                data_key(row, group[0]),
                "warning",
            )


def _times(count: int) -> str:
    return "twice" if count == 2 else f"{count} times"


# ---------------------------------------------------------------- limits


def _range(row: Row, term: Compare, points: Mapping[str, PointDef]) -> Iterator[Finding]:
    op, point, value = _limit_of(term, points)
    if point is None:
        return
    low, high = point.value_min, point.value_max  # NaN where none is declared
    if not (value < low or value > high):
        return
    always = op == "!=" or op in (_UPWARDS if value < low else _DOWNWARDS)
    between = " and ".join(
        f"{key} {edge:g}"
        for key, edge in (("Minimum", low), ("Maximum", high))
        if not math.isnan(edge)
    )
    yield row.finding(
        "limit-outside-range",
        f"Within {between} of {point.tag}, {show(term)} is {'always' if always else 'never'} true. "
        "Correct the limit or the range.",
        data_key(row, term),
        "warning",
    )


def _limit_of(term: Compare, points: Mapping[str, PointDef]) -> tuple[str, PointDef | None, float]:
    """Operator, point and limit of a comparison, in the unit of the point; no point where the
    comparison is another one."""
    op, left, right = term.op, term.left, term.right
    if isinstance(right, Point):
        op, left, right = _MIRRORED.get(op, op), right, left
    sign = 1.0
    if isinstance(right, Negative):
        sign, right = -1.0, right.term
    if not (isinstance(left, Point) and isinstance(right, Number)):
        return op, None, 0.0
    point, value = points.get(left.tag), sign * right.value
    unit = units.unit_of(right.unit)
    if point is not None and unit is not None:
        converted = measures.convert(value, unit, measures.measure_of(point.units))
        return (op, None, 0.0) if converted is None else (op, point, converted)
    return op, point, value
