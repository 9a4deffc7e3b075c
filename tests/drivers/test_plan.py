"""The plan: every value once, no request too large, none too many."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.modbus.plan import Place, Span, divide, plan_spans

SIZES = {1: 40, 3: 12}


def places() -> st.SearchStrategy[list[Place]]:
    return st.lists(
        st.builds(
            Place,
            function=st.sampled_from((1, 3)),
            unit=st.sampled_from((1, 2)),
            scan_class=st.sampled_from(("Fast", "Slow")),
            first=st.integers(0, 60),
            count=st.integers(1, 4),
        ),
        max_size=40,
    )


def alike(span: Span) -> tuple[str, int, int]:
    return span.scan_class, span.unit, span.function


def cuts_needed(group: list[Place], size_max: int, gap_max: int) -> int:
    """The fewest requests for places sorted by address, by trying every cut (dynamic program)."""
    best = [0] + [len(group)] * len(group)
    for end in range(1, len(group) + 1):
        for start in range(end):
            part = group[start:end]
            reach, legal = part[0].first + part[0].count, True
            for place in part[1:]:
                legal = legal and place.first - reach <= gap_max
                reach = max(reach, place.first + place.count)
            if legal and reach - part[0].first <= size_max:
                best[end] = min(best[end], best[start] + 1)
    return best[-1]


@settings(deadline=None)
@given(places(), st.integers(0, 10))
def test_every_place_is_in_exactly_one_span_and_whole(given_places, gap_max) -> None:
    spans = plan_spans(given_places, SIZES, gap_max)
    assert sorted(m for span in spans for m in span.members) == list(range(len(given_places)))
    for span in spans:
        for member in span.members:
            place = given_places[member]
            assert (place.scan_class, place.unit, place.function) == alike(span)
            assert span.first <= place.first
            assert place.first + place.count <= span.first + span.count


@settings(deadline=None)
@given(places(), st.integers(0, 10))
def test_no_span_is_over_its_limit_or_has_a_gap_over_the_limit(given_places, gap_max) -> None:
    for span in plan_spans(given_places, SIZES, gap_max):
        assert span.count <= SIZES[span.function]
        for address, following in pairwise(used(span, given_places)):
            assert following - address - 1 <= gap_max


@settings(deadline=None)
@given(places(), st.integers(0, 10))
def test_no_span_could_be_merged_with_its_neighbour(given_places, gap_max) -> None:
    for one, other in pairwise(plan_spans(given_places, SIZES, gap_max)):
        if alike(one) != alike(other):
            continue
        end = max(one.first + one.count, other.first + other.count)
        too_large = end - one.first > SIZES[one.function]
        assert too_large or other.first - one.first - one.count > gap_max


@settings(deadline=None)
@given(places(), st.integers(0, 10))
def test_there_are_as_few_spans_as_possible(given_places, gap_max) -> None:
    spans = plan_spans(given_places, SIZES, gap_max)
    for key in {alike(span) for span in spans}:
        group = [p for p in given_places if (p.scan_class, p.unit, p.function) == key]
        group.sort(key=lambda p: (p.first, p.count))
        made = sum(alike(span) == key for span in spans)
        assert made == cuts_needed(group, SIZES[key[2]], gap_max)


def used(span: Span, given_places: list[Place]) -> list[int]:
    """The addresses that the members of a span really use."""
    mine = [given_places[member] for member in span.members]
    return sorted({a for p in mine for a in range(p.first, p.first + p.count)})


@settings(deadline=None)
@given(places(), st.integers(0, 10))
def test_a_span_begins_and_ends_with_a_value(given_places, gap_max) -> None:
    for span in plan_spans(given_places, SIZES, gap_max):
        addresses = used(span, given_places)
        assert (span.first, span.first + span.count) == (addresses[0], addresses[-1] + 1)


@settings(deadline=None)
@given(places(), st.integers(0, 10))
def test_single_requests_hold_one_place_each(given_places, gap_max) -> None:
    spans = plan_spans(given_places, SIZES, gap_max, single=True)
    assert sorted(m for span in spans for m in span.members) == list(range(len(given_places)))
    for span in spans:
        assert {(p.first, p.count) for p in (given_places[m] for m in span.members)} == {
            (span.first, span.count)
        }
    assert len(spans) == len(set(given_places))


# ---------------------------------------------------------------- parts of a refused span


@settings(deadline=None)
@given(places(), st.integers(0, 10))
def test_parts_hold_every_member_once_and_become_single_places(given_places, gap_max) -> None:
    for span in plan_spans(given_places, SIZES, gap_max):
        left = [[given_places[member] for member in span.members]]
        ends = []
        while left:
            mine = left.pop()
            groups = divide(mine)
            if not groups:
                assert len({(p.first, p.count) for p in mine}) == 1
                ends += mine
                continue
            assert [m for group in groups for m in group] == list(range(len(mine)))
            assert all(groups)
            left += [[mine[m] for m in group] for group in groups]
        assert sorted(map(repr, ends)) == sorted(repr(given_places[m]) for m in span.members)


def test_parts_have_no_gaps_first_and_are_halves_then() -> None:
    assert divide([place(0), place(2), place(3), place(9)]) == [[0], [1, 2], [3]]
    assert divide([place(0), place(1), place(2), place(3)]) == [[0, 1], [2, 3]]
    assert divide([place(0, 4), place(1), place(3, 2)]) == [[0], [1, 2]]
    assert divide([place(0), place(0), place(0)]) == []
    assert divide([place(0), place(0), place(0), place(0, 2)]) == [[0, 1, 2], [3]]
    assert divide([place(0), place(0), place(0, 2), place(0, 2)]) == [[0, 1], [2, 3]]


def place(first: int, count: int = 1, scan_class: str = "Fast") -> Place:
    return Place(3, 1, scan_class, first, count)


def test_a_gap_up_to_the_limit_is_read_along() -> None:
    assert len(plan_spans([place(0), place(9)], {3: 125}, 8)) == 1
    assert len(plan_spans([place(0), place(10)], {3: 125}, 8)) == 2
    assert len(plan_spans([place(0), place(1)], {3: 125}, 0)) == 1


def test_a_value_that_would_cross_the_limit_begins_the_next_span() -> None:
    spans = plan_spans([place(0, 124), place(124, 2)], {3: 125}, 8)
    assert [(s.first, s.count) for s in spans] == [(0, 124), (124, 2)]


def test_scan_classes_do_not_share_a_request() -> None:
    spans = plan_spans([place(0), place(1, scan_class="Slow"), place(2)], {3: 125}, 8)
    assert [(s.scan_class, s.members) for s in spans] == [("Fast", (0, 2)), ("Slow", (1,))]


def test_a_value_larger_than_a_request_is_a_programming_error() -> None:
    with pytest.raises(AssertionError, match="larger than a request"):
        plan_spans([place(0, 4)], {3: 2}, 8)


def test_a_value_inside_another_does_not_shorten_the_span() -> None:
    within = [place(0, 4), place(1)]
    assert len(plan_spans([*within, place(12)], {3: 125}, 8)) == 1
    spans = plan_spans([*within, place(13)], {3: 125}, 8)
    assert [(s.first, s.count) for s in spans] == [(0, 4), (13, 1)]
