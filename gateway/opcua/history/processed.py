"""ReadProcessed and ReadAtTime (OPC 10000-11, 6.5.4 and 6.5.5): which rows, in which pieces."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from asyncua import ua
from numpy.typing import NDArray

from gateway.opcua.history.aggregates import AGGREGATES, Aggregate, Found, Intervals
from gateway.opcua.history.requests import AtTimeDetails, ProcessedDetails, interval_ns
from gateway.opcua.history.series import TICK_NS, Configuration, Series, Times, interpolated, simple
from gateway.opcua.history.source import Source, TooMuch
from gateway.opcua.service import Fault

PIECE_ROWS: Final = 100_000  # that are read and computed with at once
INTERVAL_ROWS_MAX: Final = 1_000_000  # of one interval: eleven days of a value a second; 100 MB
THREAD_ROWS: Final = 2_000  # from so many on, computing is not the loop's


@dataclass(frozen=True, slots=True)
class Course:
    """Intervals that are still to be computed.

    low_ns, high_ns  the whole span, low < high; `backward`: from high to low
    length_ns        of an interval; the last of them may be shorter
    next             number of the first interval to come
    """

    tag: str
    aggregate: Aggregate
    configuration: Configuration
    low_ns: int
    high_ns: int
    backward: bool
    length_ns: int
    next: int = 0

    @property
    def count(self) -> int:
        """How many intervals there are."""
        return -(-(self.high_ns - self.low_ns) // self.length_ns)

    def edges(self, first: int, last: int) -> Times:
        """Edges of intervals first <= i < last, rising."""
        steps = np.arange(first, last + 1, dtype=np.int64) * self.length_ns
        if self.backward:
            return np.maximum(self.high_ns - steps, self.low_ns)[::-1].copy()
        return np.minimum(self.low_ns + steps, self.high_ns)


def aggregate_of(node: ua.NodeId) -> Aggregate:
    """The aggregate of a NodeId. Raises Fault(BadAggregateNotSupported)."""
    number = node.Identifier
    found = None
    if node.NamespaceIndex == 0 and isinstance(number, int):
        found = AGGREGATES.get(number)
    if found is None:
        raise Fault(ua.StatusCodes.BadAggregateNotSupported)
    return found


def course_of(
    details: ProcessedDetails, aggregate: ua.NodeId, tag: str, defaults: Configuration
) -> Course:
    """The intervals of a request. Raises Fault where it can't be answered."""
    found = aggregate_of(aggregate)
    start, end = details.start_ns, details.end_ns
    if start is None or end is None:
        raise Fault(ua.StatusCodes.BadInvalidTimestampArgument)
    if start == end:
        raise Fault(ua.StatusCodes.BadInvalidArgument)
    low, high = min(start, end), max(start, end)
    how = defaults
    if details.configuration is not None:
        how = replace(details.configuration, stepped=defaults.stepped)
    return Course(tag, found, how, low, high, end < start, interval_ns(details, high - low))


async def _computed(course: Course, series: Series, edges: Times) -> Found:
    def work() -> Found:
        return course.aggregate.run(Intervals(series, edges, backward=course.backward))

    if len(series) + len(edges) < THREAD_ROWS:
        return work()
    return await asyncio.to_thread(work)


async def _piece(course: Course, source: Source, last: int) -> tuple[Found, int]:
    """Results from the next interval on, up to `last`, and how many; at least 1."""
    edges = course.edges(course.next, last)
    rows = await _rows(course, source, edges, PIECE_ROWS)
    if len(rows) > PIECE_ROWS:
        # Intervals whose rows are all here: those that end before the row that was read last.
        reached = int(rows["utc_ns"][-1])
        if course.backward:
            done = int((edges[:-1] > reached).sum())
        else:
            done = int((edges[1:] + TICK_NS <= reached).sum())
        some = max(done, 1)
        edges = edges[-some - 1 :] if course.backward else edges[: some + 1]
        if not done:
            async with source.large:
                rows = await _rows(course, source, edges, INTERVAL_ROWS_MAX)
                if len(rows) > INTERVAL_ROWS_MAX:
                    raise TooMuch
                return await _results(course, source, rows, edges), 1
        rows = rows[(rows["utc_ns"] >= edges[0]) & (rows["utc_ns"] < edges[-1] + TICK_NS)]
    return await _results(course, source, rows, edges), len(edges) - 1


async def _rows(course: Course, source: Source, edges: Times, most: int) -> NDArray[np.void]:
    """(n,) rows from one end of the edges to the other, or `most` and one of them."""
    low, high = int(edges[0]), int(edges[-1]) + TICK_NS
    return await source.rows(course.tag, low, high, most + 1, reverse=course.backward)


async def _results(course: Course, source: Source, rows: NDArray[np.void], edges: Times) -> Found:
    """Results of intervals whose (n,) rows are there, in the course's order."""
    if course.backward:
        rows = rows[::-1]
    low, high = int(edges[0]), int(edges[-1]) + TICK_NS
    series = await source.series(course.tag, rows, low, high, course.configuration)
    found = await _computed(course, series, edges)
    if course.backward:
        return Found(found.time[::-1], found.value[::-1], found.status[::-1])
    return found


def _joined(parts: Sequence[Found]) -> Found:
    return Found(
        np.concatenate([one.time for one in parts]),
        np.concatenate([one.value for one in parts]),
        np.concatenate([one.status for one in parts]),
    )


async def step(course: Course, source: Source, budget: int) -> tuple[Found, Course | None]:
    """Up to `budget` results, at least 1, and the course from there; None where it is done.

    Raises Fault where one interval has too many rows.
    """
    last = min(course.count, course.next + budget)
    parts: list[Found] = []
    while course.next < last and not (parts and source.tired):
        try:
            found, done = await _piece(course, source, last)
        except TooMuch as error:
            raise Fault(ua.StatusCodes.BadResourceUnavailable) from error
        parts.append(found)
        course = replace(course, next=course.next + done)
    return _joined(parts), None if course.next >= course.count else course


@dataclass(frozen=True, slots=True)
class Moments:
    """Times at which values are still to be found: those that were asked for, from `next` on."""

    tag: str
    asked: AtTimeDetails
    stepped: bool
    next: int = 0


def moments_of(details: AtTimeDetails, tag: str, defaults: Configuration) -> Moments:
    """The times of a request. Raises Fault where there are none."""
    if not len(details.times_ns):
        raise Fault(ua.StatusCodes.BadInvalidTimestampArgument)
    return Moments(tag, details, defaults.stepped)


def _at(series: Series, times: Times, *, simple_bounds: bool) -> Found:
    if simple_bounds:
        return Found(times, *simple(series, times))
    value, status = interpolated(series, times)
    # What is recorded for the very time is given as it is, uncertain or not.
    if len(series):
        row = np.maximum(np.searchsorted(series.time, times, side="right") - 1, 0)
        exact = (series.time[row] == times) & ~series.bad[row]
        value = np.where(exact, series.value[row], value)
        status = np.where(exact, series.status[row], status).astype(np.uint32)
    return Found(times, value, status)


async def step_moments(
    moments: Moments, source: Source, budget: int
) -> tuple[Found, Moments | None]:
    """Values at up to `budget` times, and the moments left; None where there are none."""
    last = moments.next + budget
    asked = moments.asked.times_ns[moments.next : last]
    order = np.argsort(asked, kind="stable")
    times = asked[order]
    how = Configuration(stepped=moments.stepped)
    parts: list[Found] = []
    done = 0
    while done < len(times):
        low, high = int(times[done]), int(times[-1]) + TICK_NS
        rows = await source.rows(moments.tag, low, high, PIECE_ROWS + 1)
        count = len(times) - done
        if len(rows) > PIECE_ROWS:
            reached = int(rows["utc_ns"][-1])
            count = max(int((times[done:] + TICK_NS <= reached).sum()), 1)
            high = int(times[done + count - 1]) + TICK_NS
            rows = rows[rows["utc_ns"] < high]
        some = times[done : done + count]
        series = await source.series(moments.tag, rows, low, high, how)
        parts.append(_at(series, some, simple_bounds=moments.asked.simple_bounds))
        done += count
    found = _joined(parts)
    back = np.empty(len(order), dtype=np.intp)
    back[order] = np.arange(len(order))
    found = Found(found.time[back], found.value[back], found.status[back])
    is_done = last >= len(moments.asked.times_ns)
    return found, None if is_done else replace(moments, next=last)
