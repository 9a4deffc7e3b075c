"""Turns: what tools ask for is answered one by one, in a bounded share of the loop's time.

Scans, polls and writes share the loop with the answers. Whatever a tool asks and however many
there are, what becomes due meanwhile waits for one piece of an answer at the most.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final, Self

from gateway.core.clock import Clock

DEBT_NS_MAX: Final = 1_000_000  # work that is done before a rest; timers are no finer than that
REST_PER_WORK: Final = 2  # the others have at least two thirds of the time


class Turns:
    """``async with turns:`` around work that does not wait; it should take 2 ms at the most."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = asyncio.Lock()
        self._began_ns = 0
        self._debt_ns = 0

    async def __aenter__(self) -> Self:
        await self._lock.acquire()
        self._began_ns = self._clock.monotonic_ns()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._debt_ns += self._clock.monotonic_ns() - self._began_ns
        rest_ns = 0
        if self._debt_ns >= DEBT_NS_MAX:
            rest_ns, self._debt_ns = self._debt_ns * REST_PER_WORK, 0
        try:
            await asyncio.sleep(rest_ns / 1e9)
        finally:
            self._lock.release()
