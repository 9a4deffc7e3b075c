"""Polling: holes, resting blocks, scan classes, devices that send by themselves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import numpy as np
from numpy.typing import NDArray

from config import status
from drivers.contract import (
    Update,
)
from drivers.errors import NoAnswer, NotConnected, Refused
from tests.gateway.poll_bench import Bench

# ---------------------------------------------------------------- holes


def hole_in(*refused: int) -> Callable[[str], float]:
    """A device that refuses a block where one of these rows is in it."""

    def answer(label: str) -> float:
        rows = [1, 2, 3] if label == "all" else [int(label.rpartition(".")[2])]
        if set(rows) & set(refused):
            raise Refused("illegal data address", code=2, permanent=True)
        return 5.0

    return answer


ALL = (Bench.block("all", "Fast", 1, 2, 3),)


async def test_a_refused_address_costs_its_own_value_only_and_the_block_is_remembered() -> None:
    bench = Bench(ALL)
    await bench.until(lambda: bench.status(3) == status.GOOD)
    bench.script.log.clear()
    bench.script.answer = hole_in(2)
    await bench.until(lambda: bench.script.log.count("read all.3") > 3)
    assert bench.heard.refused == ["all"]
    assert bench.script.log.count("read all") == 1
    assert bench.script.log.count("read all.2") == 1  # it rests for long
    codes = [bench.status(i) for i in (1, 2, 3)]
    assert codes == [status.GOOD, status.BAD_CONFIGURATION_ERROR, status.GOOD]


async def test_what_was_learned_in_another_life_is_not_asked_again() -> None:
    bench = Bench(ALL, refused=["all"])
    bench.script.answer = hole_in(2)
    await bench.until(lambda: bench.status(3) == status.GOOD)
    assert "read all" not in bench.script.log


async def test_a_device_that_refuses_everything_has_no_hole() -> None:
    bench = Bench(ALL)
    bench.script.answer = hole_in(1, 2, 3)
    await bench.until(lambda: bench.poller.statistics.errors == 4)
    assert bench.heard.refused == []
    bench.script.answer = hole_in()
    await bench.until(lambda: bench.status(1) == status.GOOD)  # with the next connection
    assert bench.script.log[-1] == "read all"


async def test_a_block_that_is_not_answered_rests_and_the_others_are_read_on() -> None:
    bench = Bench(Retries=0)

    def answer(label: str) -> float:
        if label == "slow":
            raise NoAnswer("silent")
        return 1.0

    bench.script.answer = answer
    await bench.until(lambda: bench.script.log.count("read out") >= 5)
    assert bench.script.log.count("read slow") == 1
    assert bench.script.open_count == 1


async def test_a_device_that_answers_nothing_any_more_is_lost_and_asked_once_a_connection() -> None:
    blocks = [Bench.block(f"b{i}", "Fast", i) for i in (1, 2, 3)]
    bench = Bench(blocks, Retries=0)
    await bench.until(lambda: bench.status(3) == status.GOOD)

    def silent(label: str) -> float:
        raise NoAnswer("silent")

    bench.script.answer = silent
    bench.script.log.clear()
    opened = bench.script.open_count + 1
    await bench.until(lambda: bench.script.open_count >= opened + 4)
    assert bench.script.log[:3] == ["read b1", "read b2", "read b3"]
    # Each connection one question: at first what was answered last, then all in turn.
    assert bench.script.log[3:6] == ["read b3", "read b1", "read b2"]


# ---------------------------------------------------------------- scan classes


async def test_a_faster_class_has_its_turn_inside_a_long_poll_of_a_slower_one() -> None:
    slow = [Bench.block(f"slow{i}", "Slow", 2) for i in range(100)]
    bench = Bench([Bench.block("fast", "Fast", 1), *slow])
    await bench.until(lambda: "read slow99" in bench.script.log)
    first = bench.script.log.index("read slow0")
    last = bench.script.log.index("read slow99")
    assert bench.script.log[first:last].count("read fast") >= 3


# ---------------------------------------------------------------- devices that send


def rows(*index: int) -> NDArray[np.int32]:
    return np.array(index, dtype=np.int32)


async def test_what_a_device_sends_lands_with_its_own_status_and_time() -> None:
    bench = Bench([Bench.block("sent", "Fast", 1, 2, 3, pushed=True)])
    codes = np.array([status.GOOD, status.BAD_DEVICE_FAILURE, status.GOOD], dtype=np.uint32)
    values = np.array([49.0, 2.0, np.nan])
    bench.script.pushed.put_nowait(Update(rows(1, 2, 3), values, codes, 1_700_000_000_000_000_000))
    await bench.until(lambda: bench.poller.statistics.updates == 1)
    assert [bench.status(i) for i in (1, 2, 3)] == [
        status.GOOD,
        status.BAD_DEVICE_FAILURE,
        status.BAD_SENSOR_FAILURE,
    ]
    assert bench.table.rows["utc_ns"][1] == 1_700_000_000_000_000_000
    assert bench.heard.blocks == [True]
    assert bench.script.log == []  # nothing was asked


async def test_the_end_of_a_stream_ends_the_session_although_nothing_is_polled() -> None:
    bench = Bench([Bench.block("sent", "Fast", 1, pushed=True)])

    async def ends() -> AsyncIterator[Update]:
        yield Update(rows(1), np.array([1.0]))
        raise NotConnected("the broker went away")

    bench.script.updates = ends  # type: ignore[method-assign]
    await bench.until(lambda: bench.script.open_count >= 3)
    assert (False, "the broker went away") in bench.heard.devices
    # Each session gives one good value and ends: the end is to be seen between two of them.
    await bench.until(lambda: bench.status(1) == status.UNCERTAIN_NO_COMMUNICATION)
