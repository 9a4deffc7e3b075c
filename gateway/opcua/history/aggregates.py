"""The aggregates of OPC 10000-13, 5.4.3, over many intervals at once.

Pure: arrays in, arrays out. Where text and examples of the standard differ, the examples of its
Annex A count, because clients were tested against them; each such place says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from asyncua import ua
from numpy.typing import NDArray

from config import status as codes
from gateway.opcua.history.series import (
    BAD_NO_DATA,
    CALCULATED,
    MULTIPLE_VALUES,
    PARTIAL,
    UNCERTAIN_DATA_SUB_NORMAL,
    Codes,
    Flags,
    Numbers,
    Series,
    Times,
    interpolated,
    simple,
)

Positions = NDArray[np.intp]
Chosen = Callable[[Numbers, Codes], Flags]  # which values with their codes count
# What an aggregate's values travel as: as the point's, as numbers of the point's kind with a sign,
# Double, or Int32.
Form = Literal["source", "signed", "double", "count"]


@dataclass(frozen=True, slots=True)
class Found:
    """(k,) results: time stamps, values, codes. A bad code has no value."""

    time: Times
    value: Numbers
    status: Codes


class Intervals:
    """(k,) neighbouring intervals of a series, k > 0, in time order.

    edges     (k + 1,) times, rising
    backward  time flows backward: an interval has its later edge instead of its earlier one, and
              its time stamp is the later one (OPC 10000-13, 5.4.2.2)
    """

    def __init__(self, series: Series, edges: Times, *, backward: bool = False) -> None:
        self.series = series
        self.edges = edges
        self.low, self.high = edges[:-1], edges[1:]
        self.stamp = self.high if backward else self.low
        self._side: Literal["left", "right"] = "right" if backward else "left"
        places = np.searchsorted(series.time, edges, side=self._side)
        self.first, self.last = places[:-1], places[1:]  # rows first <= i < last
        count = len(series)
        # Before the first row of the point, or behind its last one.
        self.outside: Flags = (self.last == 0) | (self.first == count)
        self.partial: Flags = np.zeros(len(self.low), dtype=np.bool_)
        if count:
            self.partial = (series.time[0] > self.low) | (series.time[-1] < self.high)
        self.goods = self.only(series.good)
        self.bads = self.count(series.bad)
        self.uncertains = self.count(series.uncertain)

    def only(self, chosen: Flags) -> tuple[Positions, Positions, Positions]:
        """Positions of chosen rows, and of the first and behind the last of each interval."""
        rows = np.flatnonzero(chosen)
        return rows, np.searchsorted(rows, self.first), np.searchsorted(rows, self.last)

    def count(self, chosen: Flags) -> NDArray[np.int64]:
        """How many chosen rows each interval has."""
        _, first, last = self.only(chosen)
        return (last - first).astype(np.int64)

    def found(
        self, value: Numbers, status: Codes, known: Flags, time: Times | None = None
    ) -> Found:
        """Results; not `known` = BadNoData at the interval's own time."""
        known = known & ~self.outside
        return Found(
            self.stamp if time is None else np.where(known, time, self.stamp),
            np.where(known, value, np.nan),
            np.where(known, status, BAD_NO_DATA).astype(np.uint32),
        )

    def marked(self, status: Any) -> Codes:
        """Codes with the bit of intervals that are not complete."""
        marked: Codes = np.where(self.partial, status | PARTIAL, status).astype(np.uint32)
        return marked


def _reduced(ufunc: Any, values: Any, first: Positions, last: Positions, without: float) -> Any:
    """`ufunc` over each of neighbouring slices; `without` for empty ones."""
    found = np.full(len(first), without)
    some = last > first
    if some.any():
        found[some] = ufunc.reduceat(values[: last[some][-1]], first[some])
    return found


def _sub_normal(where: Flags) -> Codes:
    quality: Codes = np.where(where, UNCERTAIN_DATA_SUB_NORMAL, codes.GOOD).astype(np.uint32)
    return quality


def _by_values(of: Intervals) -> Codes:
    """The code by how many values are good and bad ("PercentValues", OPC 10000-13, 5.4.3.2).

    Annex A decides on good before bad: half good and half bad, with 50 % asked for both, is good.
    Uncertain values that are not to count as bad keep the result uncertain.
    """
    configuration = of.series.configuration
    good = (of.goods[2] - of.goods[1]).astype(np.float64)
    bad, uncertain = of.bads.astype(np.float64), of.uncertains.astype(np.float64)
    total = np.maximum(good + bad + uncertain, 1.0)
    poor = bad + uncertain if configuration.treat_uncertain_as_bad else bad
    is_good = (total - poor) * 100.0 >= configuration.percent_good * total
    is_bad = ~is_good & (poor * 100.0 >= configuration.percent_bad * total)
    if not configuration.treat_uncertain_as_bad:
        is_good &= uncertain == 0
    empty = (good + bad + uncertain) == 0
    status = np.where(is_bad, codes.BAD, _sub_normal(~(is_good | empty)) | CALCULATED)
    return status.astype(np.uint32)


def _average(of: Intervals) -> Found:
    """Mean of the good values. Never partial (OPC 10000-13, 5.4.3.5)."""
    rows, first, last = of.goods
    total = _reduced(np.add, of.series.value[rows], first, last, 0.0)
    count = last - first
    return of.found(total / np.maximum(count, 1), _by_values(of), count > 0)


def _count(of: Intervals) -> Found:
    """How many values are good (5.4.3.21); a bad result has no number."""
    status = _by_values(of)
    status = np.where(status == codes.BAD, status, of.marked(status)).astype(np.uint32)
    count = (of.goods[2] - of.goods[1]).astype(np.float64)
    return of.found(count, status, np.ones(len(count), dtype=np.bool_))


class _Extreme:
    """Minimum or maximum of the good values, with where it stands and how often."""

    def __init__(self, of: Intervals, ufunc: Any, *, least: bool) -> None:
        rows, first, last = of.goods
        values = of.series.value[rows]
        self.known: Flags = last > first
        self.value: Numbers = _reduced(ufunc, values, first, last, np.nan)
        equal = np.zeros(len(rows), dtype=np.bool_)
        if len(rows) and self.known.any():
            begin, end = int(first[0]), int(last[-1])
            equal[begin:end] = values[begin:end] == np.repeat(self.value, last - first)
        places = np.flatnonzero(equal)
        one = np.searchsorted(places, first)
        self.several: Flags = np.searchsorted(places, last) - one > 1
        self.time: Times = of.stamp.copy()
        if len(places):
            self.time = of.series.time[rows[places[np.minimum(one, len(places) - 1)]]]
        # An uncertain value beyond the good one makes it uncertain; so does any bad one.
        rows, first, last = of.only(of.series.uncertain)
        beyond = _reduced(ufunc, of.series.value[rows], first, last, np.nan)
        exceeded = beyond < self.value if least else beyond > self.value
        poor = (of.bads > 0) | exceeded
        if of.series.configuration.treat_uncertain_as_bad:
            poor |= of.uncertains > 0
        self.poor: Flags = poor


def _least(of: Intervals) -> _Extreme:
    return _Extreme(of, np.minimum, least=True)


def _most(of: Intervals) -> _Extreme:
    return _Extreme(of, np.maximum, least=False)


def _extreme(of: Intervals, extreme: _Extreme) -> Found:
    """With the interval's time (5.4.3.10, 5.4.3.11): calculated where it stands elsewhere."""
    status = _sub_normal(extreme.poor)
    moved = extreme.poor | (extreme.time != of.stamp)
    status = np.where(moved, status | CALCULATED, status)
    status = np.where(extreme.several, status | MULTIPLE_VALUES, status)
    return of.found(extreme.value, of.marked(status), extreme.known)


def _extreme_time(of: Intervals, extreme: _Extreme) -> Found:
    """With its own time (5.4.3.12, 5.4.3.13); Annex A never sets the bit Calculated."""
    status = _sub_normal(extreme.poor)
    status = np.where(extreme.several, status | MULTIPLE_VALUES, status)
    return of.found(extreme.value, of.marked(status), extreme.known, extreme.time)


def _range(of: Intervals) -> Found:
    """Greatest less smallest good value (5.4.3.14)."""
    least, most = _least(of), _most(of)
    status = of.marked(_sub_normal(least.poor | most.poor) | CALCULATED)
    return of.found(most.value - least.value, status, least.known)


def _delta(of: Intervals) -> Found:
    """Last less first good value; uncertain where others were skipped to find them (5.4.3.27)."""
    rows, first, last = of.goods
    known = last > first
    if not len(rows):
        return of.found(np.zeros(len(known)), of.marked(codes.GOOD), known)
    one = rows[np.minimum(first, len(rows) - 1)]
    other = rows[np.maximum(last - 1, 0)]
    skipped = (one != of.first) | (other != of.last - 1)
    value = of.series.value[other] - of.series.value[one]
    return of.found(value, of.marked(_sub_normal(skipped) | CALCULATED), known)


def _raw_at(of: Intervals, places: Positions) -> Found:
    """A raw value with its own time and code (5.4.3.25, 5.4.3.26)."""
    known = of.last > of.first
    if not len(of.series):
        return of.found(np.zeros(len(known)), of.marked(codes.GOOD), known)
    rows = np.clip(places, 0, len(of.series) - 1)
    status = of.marked(of.series.status[rows])
    return of.found(of.series.value[rows], status, known, of.series.time[rows])


def _start(of: Intervals) -> Found:
    return _raw_at(of, of.first)


def _end(of: Intervals) -> Found:
    return _raw_at(of, of.last - 1)


def _interpolative(of: Intervals) -> Found:
    """The value at the interval's time (5.4.3.4); behind the last value it is extrapolated."""
    return Found(of.stamp, *interpolated(of.series, of.stamp))


def _area(of: Intervals) -> tuple[Numbers, NDArray[np.float64], Flags]:
    """(area in value x ns, covered ns, sound) of the lines in each interval (5.4.3.6).

    Straight lines even where values are stepped: so do the examples of Annex A.
    """
    series = of.series
    begin = series.used_time[0]
    edges = np.maximum(of.edges, begin)
    # Edges and rows in one order, an edge before the rows of its time.
    time = np.concatenate((edges, series.used_time))
    value = np.concatenate((series.line(edges), series.used_value))
    order = np.argsort(time, kind="stable")
    place = np.empty(len(order), dtype=np.intp)
    place[order] = np.arange(len(order))
    place = place[: len(edges)]
    time, value = time[order], value[order]
    width = np.diff(time).astype(np.float64)
    area = (value[:-1] + value[1:]) * 0.5 * width
    segment = np.cumsum(order >= len(edges))[:-1] - 1
    joined = np.append(series.joined, False)[np.maximum(segment, 0)]
    lost = np.where(joined, 0.0, width)
    first, last = place[:-1], place[1:]
    covered = _reduced(np.add, width, first, last, 0.0)
    sound = _reduced(np.add, lost, first, last, 0.0) == 0.0
    sound &= covered == (of.high - of.low)
    return _reduced(np.add, area, first, last, 0.0), covered, sound


def _time_average(of: Intervals) -> Found:
    """Mean of the lines by time, over the part of the interval that has data (5.4.3.6)."""
    if not len(of.series.used):
        return of.found(np.zeros(len(of.low)), of.marked(codes.GOOD), of.high < of.low)
    area, covered, sound = _area(of)
    status = of.marked(_sub_normal(~sound) | CALCULATED)
    return of.found(area / np.maximum(covered, 1.0), status, covered > 0)


def _total(of: Intervals) -> Found:
    """TimeAverage times the interval in seconds (5.4.3.8)."""
    mean = _time_average(of)
    return Found(mean.time, mean.value * ((of.high - of.low) / 1e9), mean.status)


def _duration(of: Intervals, chosen: Chosen) -> Numbers:
    """ms of each interval in which the data are as chosen (5.4.3.31).

    A row holds until the next row; at the interval's begin stands the simple bounding value.
    Nothing holds behind the last row.
    """
    series = of.series
    if not len(series):
        return np.zeros(len(of.low))
    end = series.time[-1]
    missing = of.low < series.time[0]
    row_at = np.minimum(of.first, len(series) - 1)
    until = np.where(of.first < of.last, series.time[row_at], np.minimum(of.high, end))
    head = np.maximum(until - of.low, 0)
    head = np.where(chosen(*simple(series, of.low)) & ~missing, head, 0).astype(np.float64)
    # From each row to the next one, cut at the end of its interval.
    follows = np.append(series.time[1:], end)
    total = np.zeros(len(of.low))
    some = of.last > of.first
    if some.any():
        owner = np.repeat(np.arange(len(of.low)), of.last - of.first)
        rows = np.arange(int(of.first[0]), int(of.last[-1]))
        held = np.maximum(np.minimum(follows[rows], of.high[owner]) - series.time[rows], 0)
        held = np.where(chosen(series.value[rows], series.status[rows]), held, 0)
        base = int(of.first[0])
        total = _reduced(np.add, held.astype(np.float64), of.first - base, of.last - base, 0.0)
    return (head + total) / 1e6


def _is_good(value: Numbers, status: Codes) -> Flags:
    chosen: Flags = status >> 30 == 0
    return chosen


def _is_bad(value: Numbers, status: Codes) -> Flags:
    chosen: Flags = status >> 30 >= 2
    return chosen


def _is_uncertain(value: Numbers, status: Codes) -> Flags:
    chosen: Flags = status >> 30 == 1
    return chosen


def _durations(of: Intervals, value: Numbers) -> Found:
    status = of.marked(np.full(len(value), codes.GOOD | CALCULATED, dtype=np.uint32))
    return of.found(value, status, np.ones(len(value), dtype=np.bool_))


def _percent(of: Intervals, chosen: Chosen) -> Found:
    return _durations(of, _duration(of, chosen) * 100.0 / ((of.high - of.low) / 1e6))


def _in_state(of: Intervals, *, zero: bool) -> Found:
    """ms in which the value is zero, or is not (5.4.3.22, 5.4.3.23).

    The code goes by the time that the data can be used ("PercentTime"), as in `_by_values`.
    """
    how = of.series.configuration

    def usable(value: Numbers, status: Codes) -> Flags:
        return _is_good(value, status) if how.treat_uncertain_as_bad else ~_is_bad(value, status)

    def chosen(value: Numbers, status: Codes) -> Flags:
        return usable(value, status) & ((value == 0) == zero)

    length = (of.high - of.low) / 1e6
    good = _duration(of, usable)
    is_good = good * 100.0 >= how.percent_good * length
    is_bad = ~is_good & ((length - good) * 100.0 >= how.percent_bad * length)
    if not how.treat_uncertain_as_bad:
        is_good &= _duration(of, _is_uncertain) == 0
    status = of.marked(_sub_normal(~is_good) | CALCULATED)
    status = np.where(is_bad, codes.BAD, status).astype(np.uint32)
    return of.found(_duration(of, chosen), status, np.ones(len(good), dtype=np.bool_))


@dataclass(frozen=True, slots=True)
class Aggregate:
    """An aggregate: what its values travel as, and how it is calculated."""

    name: str
    form: Form
    run: Callable[[Intervals], Found]


_ALL: Final = (
    Aggregate("Interpolative", "source", _interpolative),
    Aggregate("Average", "double", _average),
    Aggregate("TimeAverage", "double", _time_average),
    Aggregate("Total", "double", _total),
    Aggregate("Minimum", "source", lambda of: _extreme(of, _least(of))),
    Aggregate("Maximum", "source", lambda of: _extreme(of, _most(of))),
    Aggregate("MinimumActualTime", "source", lambda of: _extreme_time(of, _least(of))),
    Aggregate("MaximumActualTime", "source", lambda of: _extreme_time(of, _most(of))),
    Aggregate("Range", "signed", _range),
    Aggregate("Delta", "signed", _delta),
    Aggregate("Count", "count", _count),
    Aggregate("Start", "source", _start),
    Aggregate("End", "source", _end),
    Aggregate("DurationGood", "double", lambda of: _durations(of, _duration(of, _is_good))),
    Aggregate("DurationBad", "double", lambda of: _durations(of, _duration(of, _is_bad))),
    Aggregate("DurationInStateZero", "double", lambda of: _in_state(of, zero=True)),
    Aggregate("DurationInStateNonZero", "double", lambda of: _in_state(of, zero=False)),
    Aggregate("PercentGood", "double", lambda of: _percent(of, _is_good)),
    Aggregate("PercentBad", "double", lambda of: _percent(of, _is_bad)),
)
# By the number of the aggregate's NodeId in namespace 0.
AGGREGATES: Final[Mapping[int, Aggregate]] = {
    int(getattr(ua.ObjectIds, f"AggregateFunction_{one.name}")): one for one in _ALL
}
