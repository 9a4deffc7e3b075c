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
    cuts = union(taken)
    rest: list[Span] = []
    at = 0
    for first, last in union(spans):
        while at < len(cuts) and cuts[at][1] < first:
            at += 1
        begin, here = first, at
        while here < len(cuts) and cuts[here][0] <= last:
            low, high = cuts[here]
            if begin < low:
                rest.append((begin, low - 1))
            begin = max(begin, high + 1)
            here += 1
        if begin <= last:
            rest.append((begin, last))
    return rest


def contiguous(spans: Iterable[Span]) -> int:
    """The highest number up to which nothing is missing from 1 on; 0 where 1 is."""
    merged = union(spans)
    return merged[0][1] if merged and merged[0][0] <= 1 else 0
