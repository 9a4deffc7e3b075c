"""What `Depth` is worth in the plan of a driver that asks one question at a time: nothing."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.plan import plan_instruments
from tests.drivers.instruments import instrument

POINTS: dict[str, dict[str, Any]] = {
    "SunSpec": {"IOPoint": "103.W"},
    "Opto": {"Type": "Analog", "Module": 0, "Channel": 0},
}


@pytest.mark.parametrize("communication", POINTS)
def test_depth_helps_no_driver_that_asks_one_question_at_a_time(communication: str) -> None:
    keys = POINTS[communication]
    made = instrument(
        {"A": keys | {"Class": "Fast"}, "B": keys | {"Class": "Middle"}},
        Communication=communication,
        Connection={"IP": "127.0.0.1"},
        ReplyDelay=0.02,
        Depth=4,
    )
    (device,) = plan_instruments([made], {"Fast": 0.1, "Middle": 0.5}).devices
    assert device.load == pytest.approx(0.02 / 0.1 + 0.02 / 0.5)
    assert device.depth == 1
