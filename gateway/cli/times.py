"""Times and durations as people, options and files write them, in nanoseconds; times are UTC."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gateway.cli.output import CommandFailed

YEAR_MIN: Final = 1678  # what 64 bits of nanoseconds around 1970 hold; beyond it numpy wraps
YEAR_MAX: Final = 2261
NS_MAX: Final = 9.2e18  # since 1970
EXAMPLE: Final = "2026-03-01T12:00:00Z"
_TIME: Final = re.compile(
    r"(?P<moment>\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?)?)"
    r"\s?(?:Z|UTC|(?P<sign>[+-])(?P<hours>\d\d):?(?P<minutes>\d\d)?)?"
)
_PART: Final = r"(\d{1,9}(?:\.\d{1,9})?)\s*(ms|s|min|h|d)\s*"
_PARTS: Final = re.compile(_PART)
_DURATION: Final = re.compile(f"\\s*({_PART})+")
DURATION_NS_MAX: Final = 36_500 * 86_400_000_000_000  # what 64 bits hold, and more than a life
_UNIT_NS: Final = {
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "min": 60_000_000_000,
    "h": 3_600_000_000_000,
    "d": 86_400_000_000_000,
}
# Ticks of an epoch time in each unit; a time of this century is below the limit in one only.
_EPOCHS: Final = (
    ("s", 1e11, 1_000_000_000),
    ("ms", 1e14, 1_000_000),
    ("µs", 1e17, 1_000),
    ("ns", float("inf"), 1),
)


def time_ns(text: str) -> int:
    """ISO 8601 -> nanoseconds since 1970; a time without an offset is UTC. Raises ValueError."""
    parts = _TIME.fullmatch(text.strip())
    if parts is None:
        raise ValueError(f"no ISO 8601 time, such as {EXAMPLE}")
    if not YEAR_MIN <= int(parts["moment"][:4]) <= YEAR_MAX:
        raise ValueError(f"a year from {YEAR_MIN} to {YEAR_MAX}")
    offset_min = 0
    if parts["hours"]:
        if parts["hours"] > "23" or (parts["minutes"] or "00") > "59":
            raise ValueError(f"no ISO 8601 time, such as {EXAMPLE}")
        offset_min = int(parts["hours"]) * 60 + int(parts["minutes"] or 0)
        offset_min = -offset_min if parts["sign"] == "-" else offset_min
    try:
        moment = np.datetime64(parts["moment"], "ns")
    except ValueError:
        raise ValueError(f"no ISO 8601 time, such as {EXAMPLE}") from None
    return int(moment.astype(np.int64)) - offset_min * 60_000_000_000


def time_option(option: str, text: str | None) -> int | None:
    """The time that an option gives; None where it isn't given. Raises CommandFailed."""
    try:
        return None if text is None else time_ns(text)
    except ValueError as error:
        raise CommandFailed(f"{option} {text}: {error}") from None


def iso_utc(utc_ns: int) -> str:
    """Nanoseconds since 1970 as ISO 8601 in UTC, to the microsecond."""
    return f"{np.datetime_as_string(np.datetime64(utc_ns, 'ns'), unit='us')}Z"


def duration_ns(text: str) -> int:
    """``500ms``, ``1s``, ``10min``, ``1h 30min``, ``1d`` -> nanoseconds. Raises ValueError."""
    parts = _PARTS.findall(text) if _DURATION.fullmatch(text) else []
    units_ns = [_UNIT_NS[unit] for _, unit in parts]
    if not parts or units_ns != sorted(set(units_ns), reverse=True):
        raise ValueError("a duration such as 500ms, 1s, 10min, 1h30min or 1d")
    total_ns = sum(round(float(number) * _UNIT_NS[unit]) for number, unit in parts)
    if total_ns > DURATION_NS_MAX:
        raise ValueError(f"longer than {DURATION_NS_MAX // _UNIT_NS['d']} days")
    return total_ns


def duration_option(option: str, text: str | None, *, zero: bool = True) -> int:
    """The duration that an option gives; 0 where it isn't given. Raises CommandFailed."""
    if text is None:
        return 0
    try:
        found = duration_ns(text)
    except ValueError as error:
        raise CommandFailed(f"{option} {text}: {error}") from None
    if not found and not zero:
        raise CommandFailed(f"{option} {text}: a duration above zero")
    return found


def duration_text(ns: int) -> str:
    """A duration for people: ``350 ms``, ``12.5 s``, ``7 min 30 s``, ``3 h 5 min``, ``2 d 4 h``."""
    if ns < 1_000_000_000:
        return f"{ns / 1e6:.4g} ms"
    if ns < 60_000_000_000:
        return f"{ns / 1e9:.3g} s"
    seconds = round(ns / 1e9)
    for size, name, small, small_name in (
        (86_400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if seconds >= size:
            rest = seconds % size // small
            return f"{seconds // size} {name}" + (f" {rest} {small_name}" if rest else "")
    return f"{seconds} s"


def epoch_unit(first: float) -> tuple[str, int]:
    """The unit that an epoch time is counted in, by its size, and nanoseconds in one of it.

    Raises ValueError where it is no finite number.
    """
    for name, limit, factor in _EPOCHS:
        if abs(first) < limit:
            return name, factor
    raise ValueError("no finite number")


def epoch_ns(ticks: NDArray[Any], factor: int) -> NDArray[np.int64]:
    """(T,) numbers since 1970 of `factor` nanoseconds each -> (T,) nanoseconds.

    Raises TimeError where one is none, or beyond what 64 bits of nanoseconds hold.
    """
    odd = np.flatnonzero(~(np.abs(ticks.astype(np.float64)) < NS_MAX / factor))
    if len(odd):
        raise TimeError(int(odd[0]), str(ticks[odd[0]]), f"a year from {YEAR_MIN} to {YEAR_MAX}")
    if ticks.dtype.kind in "iu":
        return ticks.astype(np.int64) * factor
    # Whole ticks by themselves: a float of this century's nanoseconds would end at 256 ns.
    whole = np.floor(ticks.astype(np.float64))
    part = np.round((ticks.astype(np.float64) - whole) * factor)
    return whole.astype(np.int64) * factor + part.astype(np.int64)


class TimeReader:
    """The column of times of a file: ISO 8601, or a number since 1970.

    The first time decides which, and for numbers the unit.
    """

    def __init__(self) -> None:
        self._factor: int | None = None  # of epoch times; 0 = ISO 8601
        self.epoch_unit = ""

    def read(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """(T,) texts -> (T,) nanoseconds. Raises TimeError, which says which of them is wrong."""
        if self._factor is None:
            self._decide(texts[0].strip())
        return self._epoch(texts) if self._factor else _iso(texts)

    def _decide(self, text: str) -> None:
        self._factor = 0
        try:
            self.epoch_unit, self._factor = epoch_unit(float(text))
        except ValueError:
            return

    def _epoch(self, texts: Sequence[str]) -> NDArray[np.int64]:
        assert self._factor is not None
        try:
            ticks = np.array(texts, dtype=np.int64)
        except (ValueError, OverflowError):
            return self._decimals(texts, self._factor)
        return epoch_ns(ticks, self._factor)

    def _decimals(self, texts: Sequence[str], factor: int) -> NDArray[np.int64]:
        """Exactly: a float of this century's nanoseconds would end at 256 ns."""
        found = np.zeros(len(texts), dtype=np.int64)
        for at, text in enumerate(texts):
            try:
                ns = Decimal(text.strip()) * factor
            except InvalidOperation:
                ns = Decimal("nan")
            if not ns.is_finite() or abs(ns) >= NS_MAX:
                told = f"the times before are numbers ({self.epoch_unit})"
                raise TimeError(at, text, told)
            found[at] = round(ns)
        return found


def _iso(texts: Sequence[str]) -> NDArray[np.int64]:
    plain = [text.removesuffix("Z") for text in texts]
    if all(len(text) <= 29 and text[10:11] in ("T", " ") for text in plain):
        try:
            # numpy reads what has no offset; those that have one, or are wrong, go one by one.
            years = (plain[0][:4], plain[-1][:4])
            offset = any("+" in text or "-" in text[10:] for text in plain)
            if not offset and all(str(YEAR_MIN) <= year <= str(YEAR_MAX) for year in years):
                found: NDArray[np.int64] = np.array(plain, dtype="M8[ns]").astype(np.int64)
                return found
        except ValueError:
            pass
    found = np.zeros(len(texts), dtype=np.int64)
    for at, text in enumerate(texts):
        try:
            found[at] = time_ns(text)
        except ValueError as error:
            raise TimeError(at, text, str(error)) from None
    return found


class TimeError(Exception):
    """A text that is no time: its position in what was read, the text, and what it should be."""

    def __init__(self, at: int, text: str, wanted: str) -> None:
        self.at = at
        self.text = text
        self.wanted = wanted
        super().__init__(f"{text!r}: {wanted}")
