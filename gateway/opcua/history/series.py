"""A point's history as arrays, and its value at any time (OPC 10000-13, 3.1.5 to 3.1.9).

Pure: no clock, no archive, no loop. Times are UTC in ns, whole steps of 100 ns as on the wire.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from config import status as codes

HISTORY: Final = np.dtype([("utc_ns", "i8"), ("value", "f8"), ("status", "u4")])
TICK_NS: Final = 100

# Codes and bits that only history has (OPC 10000-11, 6.4; OPC 10000-13, 5.3.3; bits as in
# OPC 10000-4, 7.39.1: "data value" as info type, and the historian bits).
BAD_NO_DATA: Final = 0x809B0000
BAD_DATA_LOST: Final = 0x809D0000
BAD_BOUND_NOT_FOUND: Final = 0x80D70000
UNCERTAIN_DATA_SUB_NORMAL: Final = 0x40A40000
_INFO: Final = 0x400
CALCULATED: Final = _INFO | 0x01
INTERPOLATED: Final = _INFO | 0x02
PARTIAL: Final = _INFO | 0x04
MULTIPLE_VALUES: Final = _INFO | 0x10

Times = NDArray[np.int64]
Numbers = NDArray[np.float64]
Codes = NDArray[np.uint32]
Flags = NDArray[np.bool_]


def empty() -> NDArray[np.void]:
    """No rows."""
    return np.zeros(0, dtype=HISTORY)


def history_rows(found: NDArray[np.void]) -> NDArray[np.void]:
    """(n,) rows of the archive as HISTORY rows, in time order, times as they go out."""
    rows = np.empty(len(found), dtype=HISTORY)
    rows["utc_ns"] = found["utc_ns"] - found["utc_ns"] % TICK_NS
    rows["value"] = found["value"]
    rows["status"] = found["status"]
    if len(rows) > 1 and bool((np.diff(rows["utc_ns"]) < 0).any()):
        rows = rows[np.argsort(rows["utc_ns"], kind="stable")]
    return rows


@dataclass(frozen=True, slots=True)
class Configuration:
    """How aggregates treat data (AggregateConfiguration, OPC 10000-4, 7.22.4.2).

    The defaults are those of OPC 10000-13, 4.2.1.2. `stepped` is the node's own: values hold
    until the next one, instead of lying on a line between them.
    """

    treat_uncertain_as_bad: bool = True
    percent_bad: float = 100.0
    percent_good: float = 100.0
    sloped_extrapolation: bool = False
    stepped: bool = False


class Series:
    """(n,) HISTORY rows in time order, n >= 0, split into what can be used and what can't.

    The rows of a span, and behind each end as many as it takes to know the value there: where no
    row stands before the span, the point has none there.
    """

    def __init__(self, rows: NDArray[np.void], configuration: Configuration) -> None:
        self.configuration = configuration
        self.time: Times = rows["utc_ns"]
        self.value: Numbers = rows["value"]
        self.status: Codes = rows["status"]
        severity = self.status >> 30
        self.good: Flags = severity == 0
        self.bad: Flags = severity >= 2
        self.uncertain: Flags = severity == 1
        usable = self.good if configuration.treat_uncertain_as_bad else ~self.bad
        # Positions of the usable rows; `joined`: no other row lies between one and the next, and
        # both are good, so the line between them is.
        self.used: NDArray[np.intp] = np.flatnonzero(usable)
        self.used_time: Times = self.time[self.used]
        self.used_value: Numbers = self.value[self.used]
        self.used_good: Flags = self.good[self.used]
        self.joined: Flags = (
            (np.diff(self.used) == 1) & self.used_good[:-1] & self.used_good[1:]
            if len(self.used)
            else np.zeros(0, dtype=np.bool_)
        )

    def __len__(self) -> int:
        return len(self.time)

    def slope(self) -> float:
        """What the last usable value changes by in a ns, for times behind it."""
        if not self.configuration.sloped_extrapolation or len(self.used) < 2:
            return 0.0
        ns = int(self.used_time[-1] - self.used_time[-2])
        return float(self.used_value[-1] - self.used_value[-2]) / ns if ns else 0.0

    def line(self, at: Times) -> Numbers:
        """Values on the straight lines between usable rows, at times from the first of them on.

        At a row's own time its value, the first of several; behind the last row extrapolated.
        Needs a usable row.
        """
        count = len(self.used)
        after = np.searchsorted(self.used_time, at, side="left")
        inside = np.clip(after, 0, count - 1)
        before = np.clip(after - 1, 0, count - 1)
        t_before, t_after = self.used_time[before], self.used_time[inside]
        v_before, v_after = self.used_value[before], self.used_value[inside]
        width = np.maximum(t_after - t_before, 1).astype(np.float64)
        found = v_before + (v_after - v_before) * ((at - t_before) / width)
        found = np.where(at == t_after, v_after, found)
        beyond = after >= count
        last = self.used_value[-1] + self.slope() * (at - self.used_time[-1])
        return np.where(beyond, last, found)


def interpolated(series: Series, at: Times) -> tuple[Numbers, Codes]:
    """Values and codes at (k,) times by interpolated bounding values (OPC 10000-13, 3.1.8)."""
    values = np.full(len(at), np.nan)
    status = np.full(len(at), BAD_NO_DATA, dtype=np.uint32)
    if not len(series.used):
        return values, status
    count = len(series.used)
    last = np.searchsorted(series.used_time, at, side="right") - 1
    known = last >= 0
    before = np.maximum(last, 0)
    exact = known & (series.used_time[before] == at)
    if series.configuration.stepped:
        # Nothing unusable stands between the value before and the time, and data go on.
        row = np.searchsorted(series.time, at, side="right") - 1
        goes_on = row + 1 < len(series)
        sound = (row == series.used[before]) & goes_on & series.used_good[before]
        found = series.used_value[before]
    else:
        goes_on = last + 1 < count
        sound = np.append(series.joined, False)[before]
        found = series.line(at)
    beyond = series.used_value[-1] + series.slope() * (at - series.used_time[-1])
    found = np.where(goes_on, found, beyond)
    quality = np.where(sound, codes.GOOD, UNCERTAIN_DATA_SUB_NORMAL) | INTERPOLATED
    values[known] = np.where(exact, series.used_value[before], found)[known]
    status[known] = np.where(exact, series.status[series.used[before]], quality)[known]
    return values, status


def simple(series: Series, at: Times) -> tuple[Numbers, Codes]:
    """Values and codes at (k,) times by simple bounding values (OPC 10000-13, 3.1.9)."""
    values = np.full(len(at), np.nan)
    status = np.full(len(at), BAD_NO_DATA, dtype=np.uint32)
    count = len(series)
    if not count:
        return values, status
    last = np.searchsorted(series.time, at, side="right") - 1
    before = np.maximum(last, 0)
    after = np.minimum(before + 1, count - 1)
    has_after = last + 1 < count
    exact = (last >= 0) & (series.time[before] == at)
    known = exact | ((last >= 0) & ~series.bad[before])
    found = series.value[before]
    if series.configuration.stepped:
        sound = series.good[before] & has_after
    else:
        sound = series.good[before] & series.good[after] & has_after
        lined = has_after & ~series.bad[after]
        width = np.maximum(series.time[after] - series.time[before], 1).astype(np.float64)
        rise = (series.value[after] - series.value[before]) * ((at - series.time[before]) / width)
        found = np.where(lined, found + rise, found)
    quality = np.where(sound, codes.GOOD, UNCERTAIN_DATA_SUB_NORMAL) | INTERPOLATED
    values[known] = np.where(exact, series.value[before], found)[known]
    status[known] = np.where(exact, series.status[before], quality)[known]
    return values, status
