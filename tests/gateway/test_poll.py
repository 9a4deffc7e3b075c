"""Polling: grid, isolation, errors to status, writes ahead of reads."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from config import status
from drivers.contract import (
    Block,
    DriverProtocol,
)
from drivers.errors import DriverError, Garbled, NoAnswer, NotConnected, Refused
from gateway.commands import Write
from gateway.poll import WRITES_MAX
from tests.gateway.points import output
from tests.gateway.poll_bench import Bench


async def test_values_land_good_with_stamps_and_the_fast_class_is_read_more_often() -> None:
    bench = Bench()
    count = bench.script.log.count
    await bench.until(lambda: count("read slow") >= 3 and count("read fast") > count("read slow"))
    assert bench.status(1) == status.GOOD
    assert bench.table.rows["mono_ns"][1] > 0


async def test_only_blocks_with_protective_points_ask_for_a_scan_at_once() -> None:
    bench = Bench()
    await bench.until(lambda: True in bench.heard.blocks and False in bench.heard.blocks)


async def test_a_value_outside_its_range_is_uncertain_and_a_sentinel_is_bad() -> None:
    bench = Bench()
    bench.script.answer = lambda label: 51.0 if label == "fast" else float("nan")
    await bench.until(lambda: bench.status(2) != status.BAD_WAITING_FOR_INITIAL_DATA)
    assert bench.status(1) == status.UNCERTAIN_UNITS_EXCEEDED
    assert bench.status(2) == status.BAD_SENSOR_FAILURE


async def test_silence_keeps_the_last_value_as_uncertain_and_the_age_limit_ends_it() -> None:
    bench = Bench(Retries=0)
    await bench.until(lambda: bench.status(1) == status.GOOD)

    def silent(label: str) -> float:
        raise NoAnswer("silent")

    bench.script.answer = silent
    await bench.until(lambda: bench.status(1) != status.GOOD)
    assert bench.status(1) == status.UNCERTAIN_NO_COMMUNICATION
    assert bench.table.rows["value"][1] == 1.0


async def test_a_request_without_an_answer_is_tried_again_as_often_as_declared() -> None:
    bench = Bench(Retries=2)
    answers = iter([NoAnswer(), NoAnswer()])

    def answer(label: str) -> float:
        for error in answers:
            raise error
        return 4.0

    bench.script.answer = answer
    await bench.until(lambda: bench.status(1) == status.GOOD)
    assert bench.script.log[:3] == ["read fast"] * 3


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Refused("illegal address", code=2, permanent=True), status.BAD_CONFIGURATION_ERROR),
        (Refused("busy", code=6), status.BAD_DEVICE_FAILURE),
    ],
)
async def test_a_refusal_spoils_its_own_block_only(error: DriverError, code: int) -> None:
    bench = Bench()
    await bench.until(lambda: bench.status(2) == status.GOOD)

    def answer(label: str) -> float:
        if label == "slow":
            raise error
        return 1.0

    bench.script.answer = answer
    await bench.until(lambda: bench.status(2) != status.GOOD)
    assert bench.status(2) == code
    assert bench.status(1) == status.GOOD
    assert bench.script.open_count == 2  # one a run: the connection was kept


async def test_garbage_is_bad_at_once_and_the_connection_is_made_anew() -> None:
    bench = Bench()
    await bench.until(lambda: bench.status(1) == status.GOOD)

    def answer(label: str) -> float:
        raise Garbled("half a frame")

    bench.script.answer = answer
    await bench.until(lambda: bench.status(1) == status.BAD_DECODING_ERROR)
    await bench.until(lambda: bench.script.open_count >= 4)


async def test_an_outage_is_told_once_and_the_return_once() -> None:
    bench = Bench()
    down = True

    def connects() -> None:
        if down:
            raise NotConnected("refused")

    bench.script.connects = connects
    await bench.until(lambda: bench.script.open_count >= 3)
    assert bench.heard.devices == [(False, "refused")]
    down = False
    await bench.until(lambda: bench.status(1) == status.GOOD)
    assert bench.heard.devices == [(False, "refused"), (True, "")]


async def test_a_defect_in_a_driver_is_reported_and_does_not_end_the_task() -> None:
    bench = Bench()

    def answer(label: str) -> float:
        raise ZeroDivisionError("oops")

    bench.script.answer = answer
    await bench.until(lambda: bench.script.open_count >= 2)
    assert [up for up, _ in bench.heard.devices] == [False]
    assert "ZeroDivisionError: oops" in bench.heard.devices[0][1]


async def test_a_write_goes_ahead_of_reads_and_its_read_back_follows_at_once() -> None:
    bench = Bench()
    bench.poller.enqueue(Write(bench.points["Out"], 7.0))
    await bench.until(lambda: bool(bench.heard.written))
    at = bench.script.log.index("write 7")
    assert at == 0
    await bench.until(lambda: len(bench.script.log) > at + 1)
    assert bench.script.log[at + 1] == "read out"


async def test_on_a_shared_line_a_write_hurries_the_read_that_waits() -> None:
    bench = Bench()
    log = bench.script.log
    bench.script.hurry = lambda: log.append("hurry")  # type: ignore[attr-defined]
    write = Write(bench.points["Out"], 7.0)

    def answer(label: str) -> float:
        if not bench.heard.written:
            bench.poller.enqueue(write)  # while a read is under way
            return 1.0
        raise NotConnected("pulled")

    bench.script.answer = answer
    await bench.until(lambda: bool(bench.heard.devices) and not bench.heard.devices[-1][0])
    assert log[log.index("hurry") + 1] == "write 7"
    log.clear()
    bench.poller.enqueue(write)  # nothing is under way
    assert log == []


async def test_a_refused_write_is_told_and_polling_goes_on() -> None:
    bench = Bench()

    def takes(value: float) -> None:
        raise Refused("read only register", code=2)

    bench.script.takes = takes
    bench.poller.enqueue(Write(bench.points["Out"], 7.0))
    await bench.until(lambda: bool(bench.heard.failed) and bench.status(1) == status.GOOD)
    assert bench.heard.failed == ["read only register"]
    assert bench.script.open_count == 1


async def test_writes_to_a_lost_device_fail_instead_of_waiting_for_another_time() -> None:
    bench = Bench()

    def connects() -> None:
        raise NotConnected("refused")

    bench.script.connects = connects
    bench.poller.enqueue(Write(bench.points["Out"], 7.0))
    await bench.until(lambda: bool(bench.heard.failed))
    assert bench.script.log == []


def test_a_full_queue_of_writes_refuses_and_forgets_nothing() -> None:
    bench = Bench()
    for index in range(1, WRITES_MAX + 2):
        bench.poller.enqueue(Write(output(index), 1.0))
    assert len(bench.heard.failed) == 1


async def test_overdue_polls_are_skipped_and_counted() -> None:
    bench = Bench()
    release = asyncio.Event()

    async def slow(block: Block) -> NDArray[np.float64]:
        await release.wait()
        return np.ones(1)

    bench.script.ask = slow  # type: ignore[method-assign]
    asyncio.get_running_loop().call_later(0.1, release.set)
    await bench.until(lambda: bench.poller.statistics.skipped > 3)


async def test_a_device_that_only_takes_connections_is_not_back() -> None:
    bench = Bench(Retries=0)
    await bench.until(lambda: bench.status(1) == status.GOOD)
    taken = bench.script.open_count

    def answer(label: str) -> float:
        raise NotConnected("closed by the device")

    bench.script.answer = answer
    await bench.until(lambda: bench.script.open_count >= taken + 4)
    assert bench.heard.devices == [(True, ""), (False, "closed by the device")]
    bench.script.answer = lambda label: 2.0
    await bench.until(lambda: bench.heard.devices[-1] == (True, ""))


async def test_the_newest_write_of_an_output_replaces_the_one_that_waits() -> None:
    bench = Bench()
    bench.poller.enqueue(Write(bench.points["Out"], 50.0))
    bench.poller.enqueue(Write(bench.points["Out"], 0.0, urgent=True))
    await bench.until(lambda: bench.script.log.count("read fast") > 3)
    assert bench.heard.written == [0.0]


async def test_an_urgent_write_goes_ahead_of_those_that_wait() -> None:
    bench = Bench()
    for index in (11, 12, 13):
        bench.poller.enqueue(Write(output(index), float(index)))
    bench.poller.enqueue(Write(bench.points["Out"], 0.0, urgent=True))
    await bench.until(lambda: len(bench.heard.written) == 4)
    assert bench.heard.written == [0.0, 11.0, 12.0, 13.0]


async def test_a_waiting_write_ends_the_retries_of_a_read() -> None:
    bench = Bench(Retries=10)

    def answer(label: str) -> float:
        if label == "fast" and not bench.heard.written:
            if len(bench.script.log) == 3:
                bench.poller.enqueue(Write(bench.points["Out"], 0.0, urgent=True))
            raise NoAnswer("silent")
        return 1.0

    bench.script.answer = answer
    await bench.until(lambda: bool(bench.heard.written))
    assert bench.script.log.index("write 0") == 3


async def test_writes_without_end_do_not_starve_the_reads() -> None:
    bench = Bench()

    def takes(value: float) -> None:
        bench.poller.enqueue(Write(bench.points["Out"], value + 1))

    bench.script.takes = takes
    bench.poller.enqueue(Write(bench.points["Out"], 1.0))
    await bench.until(lambda: bench.status(1) == bench.status(2) == status.GOOD)


async def test_a_defect_in_a_driver_s_write_is_told_to_the_output() -> None:
    bench = Bench()

    def takes(value: float) -> None:
        raise ZeroDivisionError("oops")

    bench.script.takes = takes
    bench.poller.enqueue(Write(bench.points["Out"], 7.0))
    await bench.until(lambda: bench.script.open_count >= 2)
    assert ["oops" in reason for reason in bench.heard.failed] == [True]


@pytest.mark.parametrize("name", ["open", "close"])
async def test_a_driver_that_cannot_even_be_opened_or_closed_does_not_end_the_task(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench()
    tries = 0

    def fails(*_: Any) -> None:
        nonlocal tries
        tries += 1
        raise ZeroDivisionError("oops")

    def lost(label: str) -> float:
        raise NotConnected("gone")

    if name == "close":
        bench.script.answer = lost
        monkeypatch.setattr(bench.script, "close", fails)
    else:
        monkeypatch.setattr(bench.poller, "_protocol", DriverProtocol((), *([fails] * 3)))
    await bench.until(lambda: tries > 1)
    assert "oops" in bench.heard.devices[-1][1]


async def test_an_urgent_write_cuts_the_pause_before_the_next_connection_short() -> None:
    bench = Bench()
    down = True

    def connects() -> None:
        if down:
            raise NotConnected("refused")

    bench.script.connects = connects
    bench.poller.backoff_s = 1e6  # as if it had been away for long
    task = asyncio.create_task(bench.poller.run())
    await asyncio.sleep(0.01)
    assert bench.script.open_count == 0
    down = False
    bench.poller.enqueue(Write(bench.points["Out"], 0.0, urgent=True))
    async with asyncio.timeout(10):
        while not bench.heard.written:
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_an_infinite_value_is_bad() -> None:
    bench = Bench()
    bench.script.answer = lambda label: float("-inf")
    await bench.until(lambda: bench.status(1) == status.BAD_SENSOR_FAILURE)
