"""Trying again: pauses with jitter, and cancellations that no task group swallows."""

from __future__ import annotations

import asyncio

import pytest

from gateway.core.retry import apart, first_of, pause_s


@pytest.mark.parametrize(
    ("failures", "chance", "pause"),
    [(0, 0.0, 0.25), (0, 1.0, 0.5), (1, 1.0, 1.0), (3, 0.0, 2.0), (99, 1.0, 5.0)],
)
def test_a_pause_doubles_up_to_its_limit_and_chance_takes_up_to_half(
    failures: int, chance: float, pause: float
) -> None:
    assert pause_s(failures, 0.5, 5.0, chance) == pause


def test_the_first_error_of_groups_in_groups() -> None:
    first = OSError("first")
    inner = ExceptionGroup("inner", [first, ValueError("second")])
    assert first_of(ExceptionGroup("outer", [inner, TypeError("third")])) is first


async def failing(delay_s: float) -> None:
    async def fail() -> None:
        await asyncio.sleep(delay_s)
        raise OSError("broken")

    async with asyncio.TaskGroup() as group:
        group.create_task(fail())


async def test_what_the_work_raises_comes_out_as_often_as_it_is_tried() -> None:
    for _ in range(3):
        with pytest.raises(ExceptionGroup) as caught:
            await apart(failing(0))
        assert caught.group_contains(OSError)

    async def well() -> int:
        return 7

    assert await apart(well()) == 7


async def test_a_cancellation_at_the_moment_of_a_failure_is_not_lost() -> None:
    """However the two fall together, the task ends and tries no more."""
    for turns in range(12):
        tries = 0

        async def again() -> None:
            nonlocal tries
            while True:
                tries += 1
                try:
                    await apart(failing(0))
                except* OSError:
                    pass
                assert tries < 50

        task = asyncio.create_task(again())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_cancellation_waits_for_the_end_of_the_work() -> None:
    ended = asyncio.Event()

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            ended.set()

    task = asyncio.create_task(apart(work()))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
