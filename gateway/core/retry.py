"""Trying again: how long to wait, and when not to."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

T = TypeVar("T")

DOUBLINGS_MAX: Final = 30


def pause_s(failures: int, shortest_s: float, longest_s: float, chance: float) -> float:
    """How long to wait before the next try; doubles with each failure in a row.

    `chance` in [0, 1) takes away up to a half: many gateways lose their broker at one moment and
    must not come back at one.
    """
    doubled_s = shortest_s * 2.0 ** min(failures, DOUBLINGS_MAX)
    return min(longest_s, doubled_s) * (0.5 + 0.5 * chance)


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error in a group that is no group itself."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def apart(work: Coroutine[Any, Any, T]) -> T:
    """Awaits `work` in a task of its own; raises what it raises, for an ``except*`` around it.

    Before Python 3.13 a task group that fails at the moment in which its task is cancelled keeps
    the cancellation to itself, and one that fails leaves its task marked as cancelled. Whoever
    tries again must tell the one from the other, so the group gets a task that ends with it.
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.wait((task,))
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return task.result()
