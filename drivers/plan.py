"""Addresses to requests: the fewest blocks that read every value once and split none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    pieces    (first, count) of what the members really cover, the gaps left out
    """

    function: int
    unit: int
    scan_class: str
    first: int
    count: int
    members: tuple[int, ...]
    pieces: tuple[tuple[int, int], ...]


def plan_spans(places: Sequence[Place], sizes_max: Mapping[int, int], gap_max: int) -> list[Span]:
    """The fewest spans that cover all places, in the order of their first appearance.

    sizes_max  function -> registers or bits of one request at most
    gap_max    unused registers or bits that are read along to save a request

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
        spans += _fill(places, positions, sizes_max[function], gap_max)
    return spans


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
    pieces: list[tuple[int, int]] = []
    for member in members:
        first, count = places[member].first, places[member].count
        if pieces and first <= sum(pieces[-1]):
            start = pieces[-1][0]
            pieces[-1] = (start, max(sum(pieces[-1]), first + count) - start)
        else:
            pieces.append((first, count))
    one = places[members[0]]
    start = pieces[0][0]
    return Span(
        function=one.function,
        unit=one.unit,
        scan_class=one.scan_class,
        first=start,
        count=sum(pieces[-1]) - start,
        members=tuple(members),
        pieces=tuple(pieces),
    )
