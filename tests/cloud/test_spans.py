"""Spans behave like the sets of numbers that they stand for."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from cloud import spans

some = st.lists(
    st.tuples(st.integers(1, 60), st.integers(0, 10)).map(lambda pair: (pair[0], sum(pair))),
    max_size=8,
)


def members(pairs: list[spans.Span]) -> set[int]:
    return {number for first, last in pairs for number in range(first, last + 1)}


@given(some)
def test_a_union_is_the_same_set_in_normal_form(pairs: list[spans.Span]) -> None:
    merged = spans.union(pairs)
    assert members(merged) == members(pairs)
    assert all(one[1] + 1 < other[0] for one, other in pairwise(merged))


@given(some, some)
def test_subtraction_is_that_of_sets(pairs: list[spans.Span], taken: list[spans.Span]) -> None:
    assert members(spans.subtract(pairs, taken)) == members(pairs) - members(taken)


@given(some)
def test_contiguous_is_the_end_of_the_run_from_one(pairs: list[spans.Span]) -> None:
    held = members(pairs)
    end = spans.contiguous(pairs)
    assert set(range(1, end + 1)) <= held
    assert end + 1 not in held
