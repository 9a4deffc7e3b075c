"""ReadRaw: what was recorded, in either direction of time (OPC 10000-11, 4.6 and 6.5.3).

A read is a walk: perhaps a bound, the rows between two times, perhaps a bound. The walk can be
interrupted anywhere and gone on with, and holds no rows meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from asyncua import ua
from numpy.typing import NDArray

from gateway.opcua.history.requests import RawDetails
from gateway.opcua.history.series import BAD_BOUND_NOT_FOUND, HISTORY, TICK_NS, empty
from gateway.opcua.history.source import TIME_MAX, TIME_MIN, Source
from gateway.opcua.service import Fault

_S_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Walk:
    """Where a read stands.

    origin_ns, until_ns  times from and to which it goes; `until_ns` None = as far as it takes
    limit      rows of each answer, 0 = as many as the server gives
    left       rows that are still to come where only one time was given, else None
    begun      the first bound is done
    at_ns      go on with the rows from here, after `skip` of them
    rows_done  all rows between the times are given, the last bound is not
    last_ns    time of the row that was given last
    """

    tag: str
    backward: bool
    origin_ns: int
    until_ns: int | None
    bounds: bool
    limit: int
    left: int | None
    begun: bool
    at_ns: int
    skip: int = 0
    rows_done: bool = False
    last_ns: int | None = None


def walk_of(details: RawDetails, tag: str) -> Walk:
    """The walk of a request. Raises Fault where its times say nothing."""
    if details.modified:
        raise Fault(ua.StatusCodes.BadHistoryOperationUnsupported)
    start, end = details.start_ns, details.end_ns
    one_only = start is None or end is None
    if (start is None and end is None) or (one_only and not details.limit):
        raise Fault(ua.StatusCodes.BadInvalidTimestampArgument)
    origin, until = (end, None) if start is None else (start, end)
    assert origin is not None
    backward = start is None or (until is not None and until < origin)
    return Walk(
        tag=tag,
        backward=backward,
        origin_ns=origin,
        until_ns=until,
        bounds=details.bounds,
        limit=0 if one_only else details.limit,
        left=details.limit if one_only else None,
        begun=False,
        at_ns=origin,
    )


def _marker(time_ns: int) -> NDArray[np.void]:
    """What stands for a bound that there is none of."""
    row = np.zeros(1, dtype=HISTORY)
    row["utc_ns"], row["status"] = time_ns, BAD_BOUND_NOT_FOUND
    return row


def _span(walk: Walk) -> tuple[int, int]:
    """The times of the rows still to come, from and before; the walk's end is not among them."""
    if walk.backward:
        low = TIME_MIN if walk.until_ns is None else walk.until_ns + TICK_NS
        return low, walk.at_ns + TICK_NS
    if walk.until_ns is None:
        return walk.at_ns, TIME_MAX
    # One instant has its own rows.
    return walk.at_ns, max(walk.until_ns, walk.origin_ns + TICK_NS)


async def _first_bound(walk: Walk, source: Source) -> NDArray[np.void]:
    """The row before the first one, or none where a row has the time itself."""
    at = walk.origin_ns
    if len(await source.rows(walk.tag, at, at + TICK_NS, 1)):
        return empty()
    if walk.backward:
        found = await source.rows(walk.tag, at + TICK_NS, TIME_MAX, 1)
    else:
        found = await source.rows(walk.tag, TIME_MIN, at, 1, reverse=True)
    return found if len(found) else _marker(at)


async def _last_bound(walk: Walk, source: Source) -> NDArray[np.void]:
    """The row at the end or the first one beyond."""
    until = walk.until_ns
    found = empty()
    if until is not None and walk.backward:
        found = await source.rows(walk.tag, TIME_MIN, until + TICK_NS, 1, reverse=True)
    elif until is not None:
        low = max(until, walk.origin_ns + TICK_NS)
        found = await source.rows(walk.tag, low, TIME_MAX, 1)
    if len(found):
        return found
    if until is not None:
        return _marker(until)
    last = walk.origin_ns if walk.last_ns is None else walk.last_ns
    return _marker(last - _S_NS if walk.backward else last + _S_NS)


def _passed(walk: Walk, rows: NDArray[np.void]) -> Walk:
    """The walk behind (n,) rows, n > 0."""
    last = int(rows["utc_ns"][-1])
    same = int((rows["utc_ns"] == last).sum())
    skip = walk.skip + same if last == walk.at_ns else same
    return replace(walk, at_ns=last, skip=skip, last_ns=last)


async def step(walk: Walk, source: Source, budget: int) -> tuple[NDArray[np.void], Walk | None]:
    """Up to `budget` rows, at least 1, and the walk from there; None where it is at its end."""
    room = min(budget, walk.limit or budget)
    if walk.left is not None:
        room = min(room, walk.left)
    given = empty()
    if walk.bounds and not walk.begun:
        given = await _first_bound(walk, source)
        if len(given):
            walk = replace(walk, last_ns=int(given["utc_ns"][-1]))
    walk = replace(walk, begun=True)
    if not walk.rows_done:
        room_left = room - len(given)
        rows = await source.rows(
            walk.tag, *_span(walk), room_left + 1, skip=walk.skip, reverse=walk.backward
        )
        walk = replace(walk, rows_done=len(rows) <= room_left)
        rows = rows[:room_left]
        if len(rows):
            walk = _passed(walk, rows)
        given = np.concatenate((given, rows))
    left = None if walk.left is None else walk.left - len(given)
    walk = replace(walk, left=left)
    if walk.rows_done and walk.bounds and len(given) < room:
        return np.concatenate((given, await _last_bound(walk, source))), None
    at_end = (walk.rows_done and not walk.bounds) or left == 0
    return given, None if at_end else walk
