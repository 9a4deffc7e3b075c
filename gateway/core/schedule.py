"""A schedule: values of points over slots of time, and its forms on the way to the field process.

It comes as the payload of a signed message or from a file of the command line; `schedule_of` reads
that once. From there on the slots are columns of bytes: a thousand points times 96 quarter-hours
cross the local stream and the disk without a Python object a slot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

KINDS: Final = ("intraday", "day-ahead")  # in the order of their rank
SLOTS_MAX: Final = 110_000  # of one schedule: 1,000 points times a day of quarter-hours, and more
POINTS_MAX: Final = 5_000
PACKED_BYTES_MAX: Final = 980_000  # of the columns; a request of the local stream is 1,000,000
NAME_CHARS_MAX: Final = 160  # a service's schedules have the name of its key in front
TEXT_CHARS_MAX: Final = 256  # id, source and tags
TIME_NS_MAX: Final = 2**62


class ScheduleError(ValueError):
    """Something is no schedule; the message says what is wrong with it."""


class Slots(NamedTuple):
    """The slots of one point, each up to the start of the next, the last up to the schedule's end.

    starts  (n,) i8, nanoseconds since 1970 in UTC, ascending
    values  (n,) f8, engineering units; NaN = the schedule says nothing in this slot
    """

    starts: NDArray[np.int64]
    values: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Schedule:
    """One version of a schedule.

    id         of the message that brought it; a second one with it changes nothing
    name       what a newer version replaces, together with `kind`
    kind       one of KINDS; intraday wins for the slots that it covers
    issued_ns  wall time of its issue; the version with the later one is the newer
    end_ns     end of every point's last slot, wall time
    source     who sent it, for the audit
    points     tag -> its slots; none = nothing is scheduled any more
    """

    id: str
    name: str
    kind: str
    issued_ns: int
    end_ns: int
    source: str
    points: Mapping[str, Slots]

    @property
    def start_ns(self) -> int:
        """When its first slot starts; its end where it has none."""
        starts = (int(slots.starts[0]) for slots in self.points.values())
        return min(starts, default=self.end_ns)

    @property
    def count(self) -> int:
        """How many slots it has."""
        return sum(len(slots.starts) for slots in self.points.values())


def schedule_of(
    message_id: str, issued_ns: int, source: str, payload: Mapping[str, Any]
) -> Schedule:
    """The schedule of a message. Raises ScheduleError where its payload is none.

    payload  ``{"schedule": name, "kind": kind, "points": {tag: [[start_utc_ns, value], ...]},
             "end_utc_ns": end}``; a value of None: nothing is said in this slot
    """
    if not isinstance(payload, Mapping):
        raise ScheduleError("the payload is no map")
    points = payload.get("points")
    if not isinstance(points, Mapping):
        raise ScheduleError("points: expected a map of tags")
    if sum(len(pairs) if isinstance(pairs, list | tuple) else 1 for pairs in points.values()) > (
        SLOTS_MAX
    ):
        raise ScheduleError(f"more than {SLOTS_MAX} slots; send it as several schedules")
    return checked(
        Schedule(
            id=message_id,
            name=_text(payload, "schedule"),
            kind=_text(payload, "kind"),
            issued_ns=issued_ns,
            end_ns=_whole(payload, "end_utc_ns"),
            source=source,
            points={str(tag): _slots(str(tag), pairs) for tag, pairs in points.items()},
        )
    )


def _slots(tag: str, pairs: Any) -> Slots:
    try:
        rows = [(start, np.nan if value is None else value) for start, value in pairs]
        if any(type(start) is not int for start, _ in rows):
            raise TypeError("a start is no whole number of nanoseconds")
        if any(type(value) not in (int, float) for _, value in rows):
            raise TypeError("a value is no number")
        starts = np.array([start for start, _ in rows], dtype=np.int64)
        return Slots(starts, np.array([value for _, value in rows], dtype=np.float64))
    except (TypeError, ValueError, OverflowError) as error:
        raise ScheduleError(f"{tag[:TEXT_CHARS_MAX]}: not slots of [start, value]: {error}") from (
            None
        )


def checked(schedule: Schedule) -> Schedule:
    """`schedule` where it is one. Raises ScheduleError: sizes, kinds, times out of order."""
    for name, text, longest in (
        ("id", schedule.id, TEXT_CHARS_MAX),
        ("schedule", schedule.name, NAME_CHARS_MAX),
    ):
        if not 0 < len(text) <= longest or not text.isprintable():
            raise ScheduleError(f"{name}: expected 1 to {longest} printable characters")
    if len(schedule.source) > TEXT_CHARS_MAX:
        raise ScheduleError(f"source: more than {TEXT_CHARS_MAX} characters")
    if schedule.kind not in KINDS:
        raise ScheduleError(f"kind {schedule.kind!r}: there are {' and '.join(KINDS)}")
    if not 0 < schedule.issued_ns < TIME_NS_MAX or not 0 < schedule.end_ns < TIME_NS_MAX:
        raise ScheduleError("times are nanoseconds since 1970, up to 2116")
    if len(schedule.points) > POINTS_MAX or schedule.count > SLOTS_MAX:
        raise ScheduleError(
            f"more than {POINTS_MAX} points or {SLOTS_MAX} slots; send it as several schedules"
        )
    for tag, slots in schedule.points.items():
        _check_slots(tag, slots, schedule.end_ns)
    return schedule


def _check_slots(tag: str, slots: Slots, end_ns: int) -> None:
    starts, values = slots
    if not 0 < len(tag) <= TEXT_CHARS_MAX:
        raise ScheduleError(f"a tag has 1 to {TEXT_CHARS_MAX} characters")
    if not len(starts) or len(starts) != len(values):
        raise ScheduleError(f"{tag}: no slots")
    if starts[0] < 0 or np.any(starts[1:] <= starts[:-1]):
        raise ScheduleError(f"{tag}: the starts of its slots don't ascend")
    if starts[-1] >= end_ns:
        raise ScheduleError(f"{tag}: its last slot starts at or behind the schedule's end")
    if np.any(np.isinf(values)):
        raise ScheduleError(f"{tag}: a value is not finite")


def later(old: Schedule, new: Schedule, now_ns: int) -> Schedule:
    """`new`, and in front of its first slot what `old` says of the same points from now on.

    So a version that begins with the next quarter-hour leaves the running one alone.
    """
    points: dict[str, Slots] = {}
    for tag, slots in new.points.items():
        first_ns = int(slots.starts[0])
        before = old.points.get(tag)
        points[tag] = slots
        if before is None or first_ns <= now_ns:
            continue
        begin = max(0, int(np.searchsorted(before.starts, now_ns, side="right")) - 1)
        end = int(np.searchsorted(before.starts, first_ns))
        starts, values = before.starts[begin:end], before.values[begin:end]
        if not len(starts):
            continue
        if old.end_ns < first_ns:  # a hole between the two
            starts, values = np.append(starts, old.end_ns), np.append(values, np.nan)
        points[tag] = Slots(
            np.concatenate((starts, slots.starts)), np.concatenate((values, slots.values))
        )
    return Schedule(new.id, new.name, new.kind, new.issued_ns, new.end_ns, new.source, points)


def pack_schedule(schedule: Schedule) -> dict[str, Any]:
    """A schedule as msgpack-able map of columns. Raises ScheduleError where it is too large.

    Points that share their starts, as they mostly do, share one column of them.
    """
    grids: dict[bytes, int] = {}
    points = {}
    size = 0
    for tag, (starts, values) in schedule.points.items():
        grid = grids.setdefault(starts.astype("<i8").tobytes(), len(grids))
        column = values.astype("<f8").tobytes()
        points[tag] = [grid, column]
        size += len(tag) + len(column) + 16
    if size + sum(map(len, grids)) > PACKED_BYTES_MAX:
        raise ScheduleError(
            f"more than {PACKED_BYTES_MAX} bytes of slots; send it as several schedules"
        )
    return {
        "id": schedule.id,
        "schedule": schedule.name,
        "kind": schedule.kind,
        "issued_ns": schedule.issued_ns,
        "end_ns": schedule.end_ns,
        "source": schedule.source,
        "grids": list(grids),
        "points": points,
    }


def unpack_schedule(packed: Any) -> Schedule:
    """The inverse of `pack_schedule`. Raises ScheduleError on anything else."""
    if not isinstance(packed, Mapping):
        raise ScheduleError("a packed schedule is a map")
    try:
        grids = [np.frombuffer(grid, dtype="<i8") for grid in packed["grids"]]
        points = {
            str(tag): Slots(grids[grid], np.frombuffer(values, dtype="<f8"))
            for tag, (grid, values) in packed["points"].items()
        }
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ScheduleError(f"not a packed schedule ({type(error).__name__})") from None
    return checked(
        Schedule(
            id=_text(packed, "id"),
            name=_text(packed, "schedule"),
            kind=_text(packed, "kind"),
            issued_ns=_whole(packed, "issued_ns"),
            end_ns=_whole(packed, "end_ns"),
            source=_text(packed, "source"),
            points=points,
        )
    )


def _text(message: Mapping[str, Any], name: str) -> str:
    value = message.get(name)
    if not isinstance(value, str):
        raise ScheduleError(f"{name}: expected a text")
    return value


def _whole(message: Mapping[str, Any], name: str) -> int:
    value = message.get(name)
    if type(value) is not int:
        raise ScheduleError(f"{name}: expected a whole number of nanoseconds")
    return value


class Cover:
    """What a schedule says of one point, ready to be asked: slots without those of no value."""

    def __init__(self, schedule: Schedule, slots: Slots) -> None:
        """`slots` is one of `schedule.points`."""
        self.schedule = schedule
        said = ~np.isnan(slots.values)
        ends = np.append(slots.starts[1:], schedule.end_ns)
        self.starts = slots.starts[said]
        self.ends = ends[said]
        self.values = slots.values[said]
        # The end of the run of slots without a hole that each slot belongs to.
        last = np.ones(len(self.ends), dtype=np.bool_)
        last[:-1] = self.ends[:-1] != self.starts[1:]
        runs = np.flatnonzero(last)
        self._run_ends = self.ends[runs[np.searchsorted(runs, np.arange(len(last)))]]

    def at(self, now_ns: int) -> int:
        """The slot that covers a moment, or -1."""
        found = int(np.searchsorted(self.starts, now_ns, side="right")) - 1
        return found if found >= 0 and now_ns < self.ends[found] else -1

    def next_start_ns(self, now_ns: int) -> int:
        """When the next slot behind a moment starts; far away where none does."""
        found = int(np.searchsorted(self.starts, now_ns, side="right"))
        return int(self.starts[found]) if found < len(self.starts) else TIME_NS_MAX

    def run_end_ns(self, now_ns: int) -> int:
        """Until when it covers without a hole from a moment on; that moment where it doesn't."""
        found = self.at(now_ns)
        return int(self._run_ends[found]) if found >= 0 else now_ns


class Slot(NamedTuple):
    """What is to be done in a piece of time."""

    schedule: Schedule
    start_ns: int
    end_ns: int
    value: float


def slot_at(covers: list[Cover], now_ns: int) -> tuple[Slot | None, int]:
    """The slot in force, best of `covers` (in the order of their rank), and when to look again."""
    until_ns = TIME_NS_MAX
    for cover in covers:
        at = cover.at(now_ns)
        if at >= 0:
            until_ns = min(until_ns, int(cover.ends[at]))
            start_ns, value = int(cover.starts[at]), float(cover.values[at])
            return Slot(cover.schedule, start_ns, until_ns, value), until_ns
        until_ns = min(until_ns, cover.next_start_ns(now_ns))
    return None, until_ns


def covered_until_ns(covers: list[Cover], now_ns: int) -> int:
    """Until when some of `covers` says something, without a hole from now on."""
    until_ns = now_ns
    while True:
        reached_ns = max((cover.run_end_ns(until_ns) for cover in covers), default=until_ns)
        if reached_ns <= until_ns:
            return until_ns
        until_ns = reached_ns


def slots_between(covers: list[Cover], now_ns: int, count_max: int) -> list[Slot]:
    """The slots in force from now on, one behind the other, at most `count_max`."""
    found: list[Slot] = []
    while len(found) < count_max and now_ns < TIME_NS_MAX:
        slot, until_ns = slot_at(covers, now_ns)
        if slot is not None:
            start_ns = max(slot.start_ns, now_ns) if found else slot.start_ns
            found.append(slot._replace(start_ns=start_ns))
        now_ns = until_ns
    return found


def rank(schedule: Schedule) -> tuple[int, int, str]:
    """A key that sorts schedules of one point: the best first; of a kind the newest issue."""
    return KINDS.index(schedule.kind), -schedule.issued_ns, schedule.id
