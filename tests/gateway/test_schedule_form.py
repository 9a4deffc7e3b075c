"""The forms of a schedule: a message's payload, columns, and what is none."""

from __future__ import annotations

import random
from typing import Any

import msgpack
import numpy as np
import pytest

from gateway.core.schedule import (
    PACKED_BYTES_MAX,
    POINTS_MAX,
    SLOTS_MAX,
    ScheduleError,
    pack_schedule,
    schedule_of,
    unpack_schedule,
)
from tests.gateway.test_schedule_files import same

GOOD: dict[str, Any] = {
    "schedule": "site",
    "kind": "day-ahead",
    "points": {"Dev.A": [[1000, 1.5], [2000, None]], "Dev.B": [[1000, 2], [2000, 3]]},
    "end_utc_ns": 3000,
}


def made(**changed: Any) -> Any:
    return schedule_of("m1", 500, "market", GOOD | changed)


def test_a_payload_becomes_columns_and_crosses_the_local_stream() -> None:
    one = made()
    assert one.points["Dev.A"].starts.tolist() == [1000, 2000]
    assert np.isnan(one.points["Dev.A"].values[1])
    assert (one.start_ns, one.count) == (1000, 4)
    packed = msgpack.unpackb(msgpack.packb(pack_schedule(one)))
    assert len(packed["grids"]) == 1  # both points have the same slots
    assert same(unpack_schedule(packed), one)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"schedule": ""}, "schedule: expected 1 to 160"),
        ({"schedule": 5}, "schedule: expected a text"),
        ({"schedule": "a\nb"}, "printable"),
        ({"kind": "weekly"}, "there are intraday and day-ahead"),
        ({"end_utc_ns": 2000}, "behind the schedule's end"),
        ({"end_utc_ns": 3000.0}, "whole number"),
        ({"end_utc_ns": 2**63}, "nanoseconds since 1970"),
        ({"points": []}, "points: expected a map"),
        ({"points": {"Dev.A": []}}, "Dev.A: no slots"),
        ({"points": {"Dev.A": 7}}, "Dev.A: not slots"),
        ({"points": {"Dev.A": [[1000]]}}, "Dev.A: not slots"),
        ({"points": {"Dev.A": [[1000.5, 1]]}}, "no whole number"),
        ({"points": {"Dev.A": [[True, 1]]}}, "no whole number"),
        ({"points": {"Dev.A": [[2**70, 1]]}}, "Dev.A: not slots"),
        ({"points": {"Dev.A": [[-1, 1]]}}, "don't ascend"),
        ({"points": {"Dev.A": [[1000, "1"]]}}, "no number"),
        ({"points": {"Dev.A": [[1000, True]]}}, "no number"),
        ({"points": {"Dev.A": [[1000, 1e999]]}}, "not finite"),
        ({"points": {"Dev.A": [[1000, 1], [1000, 2]]}}, "don't ascend"),
        ({"points": {"": [[1000, 1]]}}, "a tag has"),
        ({"points": {f"Dev.P{at}": [[1000, 1]] for at in range(POINTS_MAX + 1)}}, "more than"),
        ({"points": {"Dev.A": [[at, 1] for at in range(SLOTS_MAX + 1)]}}, "more than"),
    ],
)
def test_what_is_no_schedule_is_refused_with_the_reason(
    changed: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ScheduleError, match=reason):
        made(**changed)


def test_a_thousand_points_of_a_day_of_quarter_hours_fit_one_message_of_the_local_stream() -> None:
    slots = [[at * 900 * 10**9, float(at)] for at in range(96)]
    one = made(points={f"Battery{at:04}.Setpoint": slots for at in range(1000)}, end_utc_ns=10**14)
    packed = msgpack.packb({"type": "schedule", "schedule": pack_schedule(one)})
    assert len(packed) < 1_000_000


def test_columns_that_are_too_large_are_refused_with_the_remedy() -> None:
    # Each point has starts of its own: twice the bytes.
    points = {f"P.{at}": [[at + 1 + s * 10**6, 1] for s in range(96)] for at in range(1000)}
    with pytest.raises(ScheduleError, match="several schedules"):
        pack_schedule(made(points=points, end_utc_ns=10**9))
    assert PACKED_BYTES_MAX < 1_000_000


def test_columns_of_anything_else_are_refused_and_nothing_else_is_raised() -> None:
    chance = random.Random(5)
    good = pack_schedule(made())
    values: list[Any] = [None, 0, -1, "", b"", b"123", [], {}, [b"1"], {"Dev.A": 1}, 2**62, 1e300]
    values += [{"Dev.A": [9, b"12345678"]}, {"Dev.A": [-1, b"1234567"]}, {"Dev.A": ["x", 3]}]
    refused = 0
    for _ in range(2000):
        bad = dict(good) | {chance.choice(list(good)): chance.choice(values)}
        try:
            unpack_schedule(bad)
        except ScheduleError:
            refused += 1
    assert refused > 1500
    for nonsense in (None, 5, [], {}):
        with pytest.raises(ScheduleError):
            unpack_schedule(nonsense)
