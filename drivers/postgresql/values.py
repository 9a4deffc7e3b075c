"""What a column of a query is as a number."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Final

from config.points import state_number
from drivers.errors import Refused

NUMBER_TYPES: Final = ("float32", "float64", "int16", "uint16", "int32", "uint32", "bool")
TEXT_MAX: Final = 64  # characters of a number

_NUMBER: Final = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_WORDS: Final = {"on": 1.0, "off": 0.0, "true": 1.0, "false": 0.0}


def number_of(value: Any, states: Sequence[str], column: int) -> float:
    """A value as asyncpg gives it -> a number; NaN for null, and for text that is no number.

    Text counts as a number, as one of `states` (its place), or as ON, OFF, true or false.
    Raises Refused for dates, arrays, JSON and all other types.
    """
    if value is None:
        return math.nan
    if isinstance(value, (bool, int, float)):
        return float(value)  # integers of PostgreSQL have 64 bits
    if isinstance(value, Decimal):
        return math.nan if value.is_snan() else float(value)
    if isinstance(value, str):
        return _number_of_text(value.strip(), states)
    kind = type(value).__name__
    text = f"column {column} of the query is no number but a {kind}; cast it to a number in SQL"
    raise Refused(text, permanent=True)


def _number_of_text(text: str, states: Sequence[str]) -> float:
    state = state_number(states, text) if text else None
    if state is not None:
        return float(state)
    if len(text) <= TEXT_MAX and _NUMBER.fullmatch(text):
        return float(text)
    return _WORDS.get(text.lower(), math.nan)
