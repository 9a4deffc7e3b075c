"""Sets of sequence numbers as sorted, disjoint, non-adjacent (first, last) pairs. Pure."""

from __future__ import annotations

from collections.abc import Iterable

Span = tuple[int, int]


def union(spans: Iterable[Span]) -> list[Span]:
    """The spans in order; what overlaps or touches is one."""
    merged: list[Span] = []
    for first, last in sorted(spans):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return merged


def subtract(spans: Iterable[Span], taken: Iterable[Span]) -> list[Span]:
    """What is in `spans` and not in `taken`."""
    rest = union(spans)
    for low, high in union(taken):
        cut: list[Span] = []
        for first, last in rest:
            if last < low or first > high:
                cut.append((first, last))
                continue
            if first < low:
                cut.append((first, low - 1))
            if last > high:
                cut.append((high + 1, last))
        rest = cut
    return rest


def runs(numbers: Iterable[int]) -> list[Span]:
    """Ascending numbers as spans."""
    found: list[Span] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


def contiguous(spans: Iterable[Span]) -> int:
    """The highest number up to which nothing is missing from 1 on; 0 where 1 is."""
    merged = union(spans)
    return merged[0][1] if merged and merged[0][0] <= 1 else 0
