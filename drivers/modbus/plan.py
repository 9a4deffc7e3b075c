"""Addresses to requests: the fewest blocks that read every value once and split none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

# Limits of one request, MODBUS Application Protocol V1.1b3 sections 6.1 to 6.4.
REGISTERS_MAX: Final = 125
BITS_MAX: Final = 2000


@dataclass(frozen=True, slots=True)
class Place:
    """Where one value lives.

    function    what asks for it; values of different functions never share a request
    unit        the unit (slave) that answers
    scan_class  the class whose period polls it
    first       its first register or bit, counted from 0
    count       how many registers or bits it takes
    """

    function: int
    unit: int
    scan_class: str
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Span:
    """One request: `count` registers or bits from `first`.

    members   positions in the sequence of places that were planned, by address
    """

    function: int
    unit: int
    scan_class: str
    first: int
    count: int
    members: tuple[int, ...]


def plan_spans(
    places: Sequence[Place], sizes_max: Mapping[int, int], gap_max: int, *, single: bool = False
) -> list[Span]:
    """The fewest spans that cover all places, in the order of their first appearance.

    sizes_max  function -> registers or bits of one request at most
    gap_max    unused registers or bits that are read along to save a request
    single     nothing is read along: a span holds one value, or several that share one place

    A place is never split: `sizes_max` must not be smaller than any place (asserted).
    Taking the places by address and filling each span as far as it goes is optimal, because a
    span that ended earlier could only leave more to the next one.
    """
    alike: dict[tuple[str, int, int], list[int]] = {}
    for position, place in enumerate(places):
        assert 0 < place.count <= sizes_max[place.function], f"{place} is larger than a request"
        key = (place.scan_class, place.unit, place.function)
        alike.setdefault(key, []).append(position)
    spans = []
    for (_, _, function), positions in alike.items():
        positions.sort(key=lambda p: (places[p].first, places[p].count))
        if single:
            alone = groupby(positions, key=lambda p: (places[p].first, places[p].count))
            spans += [_span(places, list(members)) for _, members in alone]
        else:
            spans += _fill(places, positions, sizes_max[function], gap_max)
    return spans


def divide(places: Sequence[Place]) -> list[list[int]]:
    """The members of a span, by address, in smaller groups; for a span that a device refuses.

    At first what lies between unused addresses, then halves; empty where all members share one
    place. Returns positions in `places`.
    """
    groups: list[list[int]] = [[]]
    end = places[0].first
    for position, place in enumerate(places):
        if place.first > end:
            groups.append([])
        end = max(end, place.first + place.count)
        groups[-1].append(position)
    if len(groups) > 1:
        return groups
    marks = [(place.first, place.count) for place in places]
    distinct = list(dict.fromkeys(marks))
    if len(distinct) == 1:
        return []
    middle = marks.index(distinct[len(distinct) // 2])
    return [list(range(middle)), list(range(middle, len(places)))]


def _fill(places: Sequence[Place], positions: list[int], size_max: int, gap_max: int) -> list[Span]:
    """Cut places that differ by address only, sorted by it, into spans."""
    spans: list[Span] = []
    members: list[int] = []
    first = end = 0
    for position in positions:
        place = places[position]
        further = max(end, place.first + place.count)
        if members and (place.first - end > gap_max or further - first > size_max):
            spans.append(_span(places, members))
            members = []
        if not members:
            first, further = place.first, place.first + place.count
        end = further
        members.append(position)
    if members:
        spans.append(_span(places, members))
    return spans


def _span(places: Sequence[Place], members: list[int]) -> Span:
    one = places[members[0]]
    end = max(places[member].first + places[member].count for member in members)
    return Span(
        function=one.function,
        unit=one.unit,
        scan_class=one.scan_class,
        first=one.first,
        count=end - one.first,
        members=tuple(members),
    )
