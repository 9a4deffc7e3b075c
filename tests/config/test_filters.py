"""Topic filters against paho's own matching, and what two of them share against brute force."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import example as with_example
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import topic_matches_sub

from config.filters import LEVELS_MAX, common, example, filter_fault, levels_of, matches

NAMES = ("a", "b", "")
TOPICS = ["/".join(levels) for depth in (1, 2, 3, 4) for levels in product(NAMES, repeat=depth)]
TOPICS = [topic for topic in TOPICS if topic]

filters = st.builds(
    lambda levels, rest: "/".join((*levels, "#") if rest else levels),
    st.lists(st.sampled_from((*NAMES, "+")), min_size=1, max_size=3),
    st.booleans(),
).filter(bool)


@given(filters)
def test_a_filter_matches_what_paho_says(name: str) -> None:
    for topic in TOPICS:
        expected = topic_matches_sub(name, topic)
        assert matches(levels_of(name), levels_of(topic)) == expected, (name, topic)


@given(filters, filters)
@with_example("/#", "+")  # both match the empty text, which is no topic
def test_what_two_filters_share_is_what_both_match(first: str, second: str) -> None:
    shared = common(levels_of(first), levels_of(second))
    both = {t for t in TOPICS if topic_matches_sub(first, t) and topic_matches_sub(second, t)}
    if shared is None:
        assert not both
        return
    assert {t for t in TOPICS if matches(shared, levels_of(t))} == both
    assert topic_matches_sub(first, example(shared))
    assert topic_matches_sub(second, example(shared))


def test_a_wildcard_in_front_does_not_match_the_brokers_own_topics() -> None:
    for name in ("#", "+/broker/load"):
        assert not matches(levels_of(name), levels_of("$SYS/broker/load"))
    assert matches(levels_of("$SYS/#"), levels_of("$SYS/broker/load"))


@pytest.mark.parametrize("text", ["", "a/#/b", "a#", "a/b+", "a\x00b", "x" * 1025, "\ud800"])
def test_what_is_no_filter_is_said(text: str) -> None:
    assert filter_fault(text)


def test_depth_is_bounded() -> None:
    assert filter_fault("/".join("a" * (LEVELS_MAX + 1)))
    assert not filter_fault("/".join("a" * LEVELS_MAX))


@pytest.mark.parametrize("text", ["a", "/a", "a/", "a/+/b", "#", "+", "a/#", "$SYS/#"])
def test_what_is_one_passes(text: str) -> None:
    assert not filter_fault(text)
