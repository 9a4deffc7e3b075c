"""New channels cost milliseconds of arithmetic each: how many there may be, and where they run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from asyncua import ua

from gateway.core.clock import Clock
from gateway.opcua.transport.limits import (
    ADDRESS_OPENINGS_BURST,
    ADDRESS_OPENINGS_PER_S,
    ADDRESSES_MAX,
    OPENING_WAITS_S_MAX,
    OPENINGS_BURST,
    OPENINGS_PER_S,
    OPENINGS_WAITING_MAX,
)
from gateway.opcua.transport.wire import TransportFault

_T = TypeVar("_T")


class _Bucket:
    """Grows with time, up to a limit; below zero the next one waits."""

    def __init__(self, per_s: float, burst: float, now_ns: int) -> None:
        self._per_s, self._burst = per_s, burst
        self._level, self._at_ns = burst, now_ns

    def take(self, now_ns: int) -> float:
        """Take one; gives the seconds to wait for it."""
        self._level += (now_ns - self._at_ns) * self._per_s / 1e9
        self._level = max(min(self._level, self._burst) - 1.0, -self._per_s * OPENING_WAITS_S_MAX)
        self._at_ns = now_ns
        return max(-self._level / self._per_s, 0.0)

    def is_full(self, now_ns: int) -> bool:
        """True where nothing was taken for long."""
        return self._level + (now_ns - self._at_ns) * self._per_s / 1e9 >= self._burst


class Openings:
    """One thread for the arithmetic of channels, and turns for those who want it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="opcua channel")
        self._all = _Bucket(OPENINGS_PER_S, OPENINGS_BURST, clock.monotonic_ns())
        self._addresses: dict[str, _Bucket] = {}
        self._waiting = 0

    async def turn(self, address: str) -> None:
        """Wait until `address` may open one more. Raises TransportFault where too many wait."""
        now_ns = self._clock.monotonic_ns()
        if address not in self._addresses:
            if len(self._addresses) >= ADDRESSES_MAX:
                left = {a: b for a, b in self._addresses.items() if not b.is_full(now_ns)}
                self._addresses = left
            if len(self._addresses) >= ADDRESSES_MAX:
                raise TransportFault(ua.StatusCodes.BadTcpNotEnoughResources, "too many clients")
            self._addresses[address] = _Bucket(
                ADDRESS_OPENINGS_PER_S, ADDRESS_OPENINGS_BURST, now_ns
            )
        if self._waiting >= OPENINGS_WAITING_MAX:
            raise TransportFault(ua.StatusCodes.BadTcpNotEnoughResources, "too many channels")
        self._waiting += 1
        try:
            pause_s = self._addresses[address].take(now_ns)
            await asyncio.sleep(max(pause_s, self._all.take(now_ns)))
        finally:
            self._waiting -= 1

    async def compute(self, work: Callable[..., _T], *arguments: object) -> _T:
        """Run `work` in the thread, one at a time."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, work, *arguments)

    def stop(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)
