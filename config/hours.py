"""Hours of the day, in UTC: when something may happen. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

HOUR_NS: Final = 3_600 * 10**9
DAY_NS: Final = 24 * HOUR_NS
_MINUTE_NS: Final = 60 * 10**9
_SPAN = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-(?:([01]\d|2[0-3]):([0-5]\d)|24:00)")


def parse_span(text: str) -> tuple[int, int]:
    """``HH:MM-HH:MM`` as the span's start and length in ns; it may go past midnight.

    The end is not part of it. Raises ValueError for anything else, and for a span of no length.
    """
    found = _SPAN.fullmatch(text)
    if found is None:
        raise ValueError(f'"{text}" is no span of a day: write "22:00-06:00" (UTC)')
    hour, minute, end_hour, end_minute = found.groups()
    start_ns = int(hour) * HOUR_NS + int(minute) * _MINUTE_NS
    end_ns = DAY_NS if end_hour is None else int(end_hour) * HOUR_NS + int(end_minute) * _MINUTE_NS
    if end_ns == start_ns:
        raise ValueError(f'"{text}" begins where it ends: write "00:00-24:00" for the whole day')
    return start_ns, (end_ns - start_ns) % DAY_NS or DAY_NS


def opens_in_ns(spans: Iterable[tuple[int, int]], utc_ns: int) -> int:
    """Nanoseconds until one of the spans holds: 0 inside of one, and where there is none."""
    now_ns = utc_ns % DAY_NS
    waits = [
        0 if (now_ns - start_ns) % DAY_NS < length_ns else (start_ns - now_ns) % DAY_NS
        for start_ns, length_ns in spans
    ]
    return min(waits, default=0)
