"""ReadEvents: events of the archive through a client's filter (OPC 10000-11, 6.5.2)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from asyncua import ua

from gateway.opcua.conditions.filters import EventFilter
from gateway.opcua.event import UaEvent
from gateway.opcua.history.requests import EventDetails
from gateway.opcua.history.series import TICK_NS
from gateway.opcua.history.source import TIME_MAX, TIME_MIN, Source
from gateway.opcua.service import Fault

LOOK_EVENTS: Final = 200  # that are read and filtered at once: some milliseconds
SEEN_MAX: Final = 20_000  # that one answer looks through; the rest is for the next

# An event of the archive as clients see it; None = not at all.
Teller = Callable[[Any], UaEvent | None]


@dataclass(frozen=True, slots=True)
class Review:
    """Events that are still to be looked through.

    limit    events of each answer, 0 = as many as the server gives
    left     events still to come where only one time was given, else None
    skip     so many of those at the begin of the span are done
    """

    node: ua.NodeId
    filter: EventFilter
    backward: bool
    low_ns: int
    high_ns: int
    limit: int
    left: int | None
    skip: int = 0


def review_of(details: EventDetails, node: ua.NodeId, wanted: EventFilter) -> Review:
    """The events of a request. Raises Fault where its times say nothing."""
    start, end = details.start_ns, details.end_ns
    one_only = start is None or end is None
    if (start is None and end is None) or (one_only and not details.limit):
        raise Fault(ua.StatusCodes.BadInvalidTimestampArgument)
    backward = start is None or (end is not None and end < start)
    limit, left = (0, details.limit) if one_only else (details.limit, None)
    if backward:
        assert end is not None
        low, high = (TIME_MIN, end) if start is None else (end + TICK_NS, start)
        high += TICK_NS
    else:
        assert start is not None
        low, high = start, TIME_MAX if end is None else max(end, start + TICK_NS)
    return Review(node, wanted, backward, low, high, limit, left)


def _passed(review: Review, times: list[int]) -> Review:
    """The review behind events of these times, at least one."""
    last = times[-1]
    same = times.count(last)
    if review.backward:
        skip = review.skip + same if last == review.high_ns - 1 else same
        return replace(review, high_ns=last + 1, skip=skip)
    skip = review.skip + same if last == review.low_ns else same
    return replace(review, low_ns=last, skip=skip)


def _less(review: Review, given: int) -> Review:
    return review if review.left is None else replace(review, left=review.left - given)


async def step(
    review: Review, source: Source, teller: Teller, budget: int, bytes_max: int
) -> tuple[list[bytes], Review | None]:
    """Encoded fields of up to `budget` events, and the review from there; None at its end.

    bytes_max  of all of them, where there is more than one
    """
    room = min(budget, review.limit or budget)
    if review.left is not None:
        room = min(room, review.left)
    given: list[bytes] = []
    seen = size = 0
    while seen < SEEN_MAX and not (seen and source.tired):
        found = await source.archive.events(
            review.low_ns,
            review.high_ns,
            LOOK_EVENTS,
            skip=review.skip,
            reverse=review.backward,
        )
        for at, kept in enumerate(found):
            event = teller(kept)
            fields = None
            if event is not None and review.node in event.notifiers:
                fields = review.filter.encoded(event)
            if fields is None:
                continue
            size += len(fields)
            if len(given) == room or (given and size > bytes_max):
                times = [one.event.utc_ns for one in found[:at]]
                return given, _less(_passed(review, times) if times else review, len(given))
            given.append(fields)
            if review.left is not None and len(given) == review.left:
                return given, None
        if len(found) < LOOK_EVENTS:
            return given, None
        review = _passed(review, [one.event.utc_ns for one in found])
        seen += len(found)
        await asyncio.sleep(0)
    return given, _less(review, len(given))
