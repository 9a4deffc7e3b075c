"""What waits to be fetched: the newest value of each row, scaled, stamped, bounded."""

from __future__ import annotations

import math

import numpy as np
import pytest

from config import status
from drivers.inbox import (
    Inbox,
    plausible_utc_ns,
    readable,
    text_number,
    unscaled_value,
)
from gateway.core.clock import ManualClock
from tests.drivers.instruments import instrument


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def inbox(clock: ManualClock) -> Inbox:
    made = instrument(
        {
            "Hidden": {"ReadWrite": "W"},
            "A": {"Scalar": 0.1, "Decimal": 1},
            "B": {"DataType": "bool", "Scalar": 0.1},
            "C": {"Sentinels": [-1.0]},
        }
    )
    channels = readable(made)
    assert list(channels) == ["A", "B", "C"]
    points = [made.points[name] for name in channels]
    return Inbox(points, list(channels.values()), clock)


def test_values_are_scaled_stamped_and_go_out_once(inbox: Inbox, clock: ManualClock) -> None:
    inbox.put(0, 12.34)
    inbox.put(1, 1.0, status.UNCERTAIN_LAST_USABLE, 77)
    inbox.put(2, -1.0)
    update = inbox.take()
    assert update is not None
    assert update.index.tolist() == [2, 3, 4]
    assert update.values[:2].tolist() == [1.2, 1.0]
    assert math.isnan(update.values[2])
    assert update.codes is not None
    assert update.codes.tolist() == [0, status.UNCERTAIN_LAST_USABLE, 0]
    assert np.asarray(update.utc_ns).tolist() == [clock.utc_ns(), 77, clock.utc_ns()]
    assert inbox.take() is None


def test_the_newest_value_of_each_row_stays(inbox: Inbox) -> None:
    for number in range(10_000):
        inbox.put(0, float(number))
    update = inbox.take()
    assert update is not None
    assert update.values.tolist() == [999.9]


def test_a_value_goes_out_again_with_its_stamp(inbox: Inbox, clock: ManualClock) -> None:
    inbox.put(0, 5.0, status.GOOD, 77)
    inbox.take()
    clock.advance(10)
    inbox.again([0, 1])  # B never had a value
    update = inbox.take()
    assert update is not None
    assert (update.index.tolist(), np.asarray(update.utc_ns).tolist()) == ([2], [77])


def test_a_stamp_from_the_future_or_from_before_2000_is_the_time_of_arrival(
    inbox: Inbox, clock: ManualClock
) -> None:
    now_ns = clock.utc_ns()
    for stamp, shown in (
        (now_ns + 1, now_ns),
        (now_ns - 86_400_000_000_000, now_ns - 86_400_000_000_000),
    ):
        inbox.put(0, 1.0, utc_ns=stamp)
        update = inbox.take()
        assert update is not None
        assert update.utc_ns.tolist() == [shown]  # type: ignore[union-attr]
    assert plausible_utc_ns(300 * 1_000_000_000) is None  # a clock without a battery
    assert plausible_utc_ns(1 << 63) is None


def test_a_new_session_knows_nothing(inbox: Inbox) -> None:
    inbox.put(0, 5.0)
    inbox.clear()
    assert inbox.take() is None
    inbox.again([0])
    assert inbox.take() is None


def test_large_numbers_are_written_as_they_are() -> None:
    channel = instrument({"A": {"ReadWrite": "RW"}}).channels["A"]
    assert unscaled_value(channel, 2.0**63, text=False) == 2.0**63
    scaled = channel.model_copy(update={"Scalar": 0.1})
    assert unscaled_value(scaled, 12.3, text=False) == 123.0


@pytest.mark.parametrize(
    ("text", "number"),
    [("1e3", 1000.0), ("TRUE", 1.0), ("Open", 1.0), (" open ", 1.0), ("x", None), ("1_0", None)],
)
def test_texts_are_numbers_switches_or_states(text: str, number: float | None) -> None:
    assert text_number(text, ["closed", "Open"]) == number
