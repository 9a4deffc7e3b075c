"""MQTT topic filters: what one matches, and what two of them have in common. Pure.

A filter is handled as its levels: ``("platone", "dsotp", "#")``. Source: MQTT 3.1.1 (OASIS, 2014),
section 4.7.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

ONE: Final = "+"
REST: Final = "#"
TOPIC_BYTES_MAX: Final = 1024
LEVELS_MAX: Final = 64
# Brokers close the connection of whoever sends them these (MQTT 3.1.1, section 1.5.3).
_UNFIT: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef]")

Levels = tuple[str, ...]


def levels_of(text: str) -> Levels:
    """The levels of a topic or filter."""
    return tuple(text.split("/"))


def filter_fault(text: str) -> str:
    """Why a text is no filter, in words; empty where it is one."""
    levels = levels_of(text)
    if not text or len(text.encode(errors="replace")) > TOPIC_BYTES_MAX:
        return f"A topic has 1 to {TOPIC_BYTES_MAX} bytes."
    if _UNFIT.search(text) or any(ord(sign) & 0xFFFE == 0xFFFE for sign in text):
        return "A topic has no control characters and no half of a character in it."
    if len(levels) > LEVELS_MAX:
        return f"A topic has at most {LEVELS_MAX} levels."
    for position, level in enumerate(levels):
        if (ONE in level or REST in level) and level not in (ONE, REST):
            return "A wildcard, + or #, stands alone between slashes."
        if level == REST and position != len(levels) - 1:
            return "The wildcard # stands at the end."
    return ""


def is_wild(levels: Sequence[str]) -> bool:
    """True for a filter that is no single topic."""
    return ONE in levels or REST in levels


def common(first: Levels, second: Levels) -> Levels | None:
    """The filter of the topics that both match; None where there are none.

    With + and a # at the end, what two filters share is always a filter itself.
    """
    for one, other in ((first, second), (second, first)):
        if one[0] in (ONE, REST) and other[0].startswith("$"):
            return None  # a wildcard in front does not match the broker's own topics
    shared = _common(first, second)
    return None if shared == ("",) else shared  # no topic is empty


def _common(first: Levels, second: Levels) -> Levels | None:
    shared: list[str] = []
    for position in range(max(len(first), len(second))):
        one, other = first[position : position + 1], second[position : position + 1]
        if one == (REST,):
            return (*shared, *second[position:])
        if other == (REST,):
            return (*shared, *first[position:])
        if not one or not other or (ONE not in (one[0], other[0]) and one != other):
            return None
        shared.append(other[0] if one[0] == ONE else one[0])
    return tuple(shared)


def matches(levels: Levels, topic: Levels) -> bool:
    """True where the filter matches the topic."""
    return common(levels, topic) is not None


def example(levels: Levels) -> str:
    """A topic that the filter matches, as short as there is one."""
    plain = "/".join("x" if level == ONE else level for level in levels if level != REST)
    return plain or ("/x" if levels[0] == "" else "x")
