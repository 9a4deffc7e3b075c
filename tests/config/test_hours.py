"""Spans of the day."""

from __future__ import annotations

import pytest

from config.hours import DAY_NS, HOUR_NS, opens_in_ns, parse_span


@pytest.mark.parametrize(
    ("text", "start", "length"),
    [
        ("22:00-06:00", 22, 8),
        ("00:00-24:00", 0, 24),
        ("06:30-07:00", 6.5, 0.5),
        ("23:00-24:00", 23, 1),
        ("12:00-00:00", 12, 12),
    ],
)
def test_a_span_has_a_start_and_a_length(text: str, start: float, length: float) -> None:
    assert parse_span(text) == (round(start * HOUR_NS), round(length * HOUR_NS))


@pytest.mark.parametrize("text", ["", "22:00", "25:00-26:00", "2:00-3:00", "06:00-06:00", "a-b"])
def test_what_is_no_span_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="write"):
        parse_span(text)


def test_of_several_spans_the_next_one_counts() -> None:
    spans = [parse_span("22:00-06:00"), parse_span("12:00-13:00")]
    assert opens_in_ns(spans, 5 * DAY_NS + 7 * HOUR_NS) == 5 * HOUR_NS
    assert opens_in_ns(spans, 5 * DAY_NS + 12 * HOUR_NS) == 0
    assert opens_in_ns((), 7) == 0
