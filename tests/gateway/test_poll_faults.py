"""Polling: what one sick block, stream or output must not cost the others of its device."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest

from config import status
from drivers.contract import Block, Cycle, Part, Update, one_by_one
from drivers.errors import Garbled, NoAnswer, NotConnected, Refused
from gateway.commands import Write
from gateway.core.clock import SystemClock
from tests.gateway.points import output
from tests.gateway.poll_bench import Bench


@pytest.mark.parametrize("dead", ["fast", "slow"])
async def test_a_dead_block_does_not_keep_a_device_lost(dead: str) -> None:
    """A dead unit behind a gateway: the others come back after the gateway was away."""
    bench = Bench(Retries=0)

    def answer(label: str) -> float:
        if label == dead:
            raise NoAnswer("silent")
        if away:
            raise NotConnected("gone")
        return 1.0

    away = False
    bench.script.answer = answer
    await bench.until(lambda: bench.status(3) == status.GOOD)
    away = True
    await bench.until(lambda: bench.heard.devices[-1][0] is False)
    away = False
    bench.script.log.clear()
    await bench.until(lambda: bench.script.log.count("read out") > 1)
    assert bench.heard.devices[-1] == (True, "")


async def test_a_dead_first_block_at_the_start_does_not_hide_the_others() -> None:
    bench = Bench(Retries=0)
    tries = 0

    def connects() -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise NotConnected("not yet")

    def answer(label: str) -> float:
        if label == "fast":
            raise NoAnswer("silent")
        return 1.0

    bench.script.connects, bench.script.answer = connects, answer
    await bench.until(lambda: bench.status(2) == bench.status(3) == status.GOOD)


async def test_a_block_whose_answer_is_always_garbage_does_not_starve_those_behind_it() -> None:
    bench = Bench()

    def answer(label: str) -> float:
        if label == "fast":
            raise Garbled("nonsense")
        return 1.0

    bench.script.answer = answer
    await bench.until(lambda: bench.status(2) == bench.status(3) == status.GOOD)
    assert bench.status(1) != status.GOOD


async def test_garbage_that_comes_once_costs_a_connection_and_no_rest() -> None:
    bench = Bench()
    broken = iter([True])

    def answer(label: str) -> float:
        for _ in broken:
            raise Garbled("noise")
        return 1.0

    bench.script.answer = answer
    await bench.until(lambda: bench.status(1) == status.GOOD)
    assert bench.script.log[:2] == ["read fast", "read fast"]
    assert bench.poller.statistics.reconnects == 2


async def test_garbage_behind_a_write_is_not_blamed_on_the_block_that_is_read() -> None:
    bench = Bench([Bench.block(f"b{i}", "Fast", i) for i in (1, 2, 3)])
    await bench.until(lambda: bench.status(3) == status.GOOD)

    def answer(label: str) -> float:
        if label == "b1":
            bench.poller.enqueue(Write(bench.points["Out"], 7.0))
        return 1.0

    def takes(value: float) -> None:
        raise Garbled("nonsense")

    bench.script.answer, bench.script.takes = answer, takes
    await bench.until(lambda: bool(bench.heard.failed))
    assert status.BAD_DECODING_ERROR not in [bench.status(i) for i in (1, 2, 3)]


async def test_all_that_waits_is_written_before_a_read_back() -> None:
    """A trip of many outputs doesn't wait for the read-back of the first one."""
    bench = Bench()
    for index in (11, 12):
        bench.poller.enqueue(Write(output(index), float(index)))
    bench.poller.enqueue(Write(bench.points["Out"], 0.0, urgent=True))
    await bench.until(lambda: "read out" in bench.script.log)
    assert bench.script.log[:4] == ["write 0", "write 11", "write 12", "read out"]


async def test_a_write_goes_ahead_of_the_read_backs_of_others() -> None:
    plan = [Bench.block(f"b{i}", "Fast", i) for i in (1, 2, 3)]
    bench = Bench(plan)

    def answer(label: str) -> float:
        if label == "b1" and len(bench.script.log) == 3:
            bench.poller.enqueue(Write(output(13), 13.0, urgent=True))
        return 1.0

    bench.script.answer = answer
    for index in (1, 2):
        bench.poller.enqueue(Write(output(index), float(index)))
    await bench.until(lambda: 13.0 in bench.heard.written)
    assert bench.script.log[:5] == ["write 1", "write 2", "read b1", "write 13", "read b2"]


async def test_a_resting_block_is_not_asked_behind_a_write() -> None:
    bench = Bench(Retries=0)

    def answer(label: str) -> float:
        if label == "out":
            raise NoAnswer("silent")
        return 1.0

    bench.script.answer = answer
    written = 0

    def rested() -> bool:
        nonlocal written
        if "read out" in bench.script.log and written == 0:
            written = bench.script.log.count("read out")
            bench.poller.enqueue(Write(bench.points["Out"], 1.0))
        return bool(bench.heard.written) and bench.script.log.count("read slow") > 4

    await bench.until(rested)
    assert bench.script.log.count("read out") == 1


async def test_a_faster_class_has_its_turn_between_the_retries_of_a_slower_one() -> None:
    slow = [Bench.block(f"slow{i}", "Slow", 2) for i in range(2)]
    bench = Bench([Bench.block("fast", "Fast", 1), *slow], Retries=10, Depth=1)

    def answer(label: str) -> float:
        if label == "slow0":
            raise NoAnswer("silent")
        return 1.0

    async def slowly(block: Block) -> np.ndarray:
        bench.script.log.append(f"read {block.label}")
        await asyncio.sleep(0.006)
        return np.full(len(block.index), answer(block.label))

    bench.script.ask = slowly  # type: ignore[method-assign]
    await bench.until(lambda: "read slow1" in bench.script.log)
    first, last = (bench.script.log.index(f"read slow{i}") for i in (0, 1))
    assert bench.script.log[first:last].count("read slow0") == 11
    assert bench.script.log[first:last].count("read fast") >= 3


async def test_a_hole_in_a_slow_class_is_searched_in_small_batches() -> None:
    everything = Bench.block("slow", "Slow", *([2] * 40))
    bench = Bench([Bench.block("fast", "Fast", 1), everything], Depth=2)

    def answer(label: str) -> float:
        if label == "slow":
            raise Refused("illegal data address", code=2, permanent=True)
        return 1.0

    async def slowly(block: Block) -> np.ndarray:
        bench.script.log.append(f"read {block.label}")
        await asyncio.sleep(0.004)
        return np.full(len(block.index), answer(block.label))

    bench.script.ask = slowly  # type: ignore[method-assign]
    await bench.until(lambda: bench.script.log.count("read slow.2") >= 40)
    log = bench.script.log
    first = log.index("read slow.2")
    assert log[first : first + 40].count("read fast") >= 3


async def test_labels_of_one_poll_are_told_together() -> None:
    told: list[list[str]] = []
    plan = [Bench.block(f"b{i}", "Fast", i, i + 1) for i in (1, 2)]
    bench = Bench(plan)
    bench.heard.on_refused = lambda name, labels: told.append(list(labels))  # type: ignore[method-assign]

    def answer(label: str) -> float:
        if "." not in label:
            raise Refused("illegal data address", code=2, permanent=True)
        return 1.0

    bench.script.answer = answer
    await bench.until(lambda: bench.poller.statistics.polls > 8)
    assert told == [["b1", "b2"]]


async def test_a_driver_that_leaves_blocks_out_is_a_reported_defect() -> None:
    bench = Bench([Bench.block(f"b{i}", "Fast", i) for i in (1, 2, 3)])

    def forgetful(cycle: Cycle) -> AsyncIterator[Part]:
        return one_by_one(Cycle(cycle.blocks[:2]), bench.script.ask, SystemClock())

    bench.script.read = forgetful  # type: ignore[method-assign]
    await bench.until(
        lambda: (False, "defect in the driver: no part for b3") in bench.heard.devices
    )


# ---------------------------------------------------------------- devices that send


PUSHED = (Bench.block("sent", "Fast", 1, 2, pushed=True),)


async def test_a_stream_that_always_ends_at_once_is_begun_ever_more_rarely() -> None:
    bench = Bench(PUSHED)

    async def ends() -> AsyncIterator[Update]:
        yield Update(np.array([1], dtype=np.int32), np.array([1.0]))
        raise NotConnected("the broker ended the session")

    bench.script.updates = ends  # type: ignore[method-assign]
    await bench.until(lambda: bench.poller.backoff_s >= 1.0)
    assert bench.script.open_count <= 4


async def test_a_defect_in_a_stream_is_reported_and_the_connection_closed() -> None:
    bench = Bench(PUSHED)
    closed = 0

    async def close() -> None:
        nonlocal closed
        closed += 1

    async def ends() -> AsyncIterator[Update]:
        yield Update(np.array([1], dtype=np.int32), np.array([1.0]))
        raise ZeroDivisionError("oops")

    bench.script.updates, bench.script.close = ends, close  # type: ignore[method-assign]
    await bench.until(lambda: bench.script.open_count >= 3)
    assert "oops" in bench.heard.devices[-1][1] or "oops" in bench.heard.devices[-2][1]
    assert closed >= 2


async def test_no_number_is_bad_although_the_device_calls_it_uncertain() -> None:
    bench = Bench(PUSHED)
    codes = np.array([status.UNCERTAIN_LAST_USABLE, status.BAD_DEVICE_FAILURE], dtype=np.uint32)
    index = np.array([1, 2], dtype=np.int32)
    values = np.array([np.nan, np.nan])
    bench.script.pushed.put_nowait(Update(index, values, codes, reason="sensor unplugged"))
    await bench.until(lambda: bench.poller.statistics.updates == 1)
    assert bench.status(1) == status.BAD_SENSOR_FAILURE
    assert bench.status(2) == status.BAD_DEVICE_FAILURE
    assert bench.poller.statistics.last_error == "sensor unplugged"
