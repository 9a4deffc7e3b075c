"""The making of one long answer: others get their turn meanwhile, and it does not grow for ever.

A session has one such answer under way. Without that, the requests that a client may have open at
once would each hold a part of an answer: 16 x 16 MB a connection, on a machine with 2 GB.
"""

from __future__ import annotations

import asyncio
from typing import Final, Self

from asyncua import ua

from gateway.core.clock import Clock
from gateway.opcua.service import Call, Fault
from gateway.opcua.transport.limits import MESSAGE_BYTES_MAX

STEPS_AT_ONCE: Final = 2_000  # before others get their turn
TURN_NS: Final = 5_000_000  # the same in time, for steps that cost more
_KEPT: Final = "work"


class Work:
    """One answer; a context that ends with it.

    done   steps since the last turn
    given  what the maker counts, e.g. references
    """

    def __init__(self, call: Call, clock: Clock) -> None:
        self.done = 0
        self.given = 0
        self._bytes_left = min(call.bytes_max or MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX)
        self._clock = clock
        self._until_ns = clock.monotonic_ns() + TURN_NS
        self._only: asyncio.Lock = call.session.kept.setdefault(_KEPT, asyncio.Lock())
        self._has_it = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._has_it:
            self._only.release()

    def take(self, part: bytes) -> bytes:
        """Count a part of the answer. Raises Fault where all of it is too large for a message."""
        self._bytes_left -= len(part)
        if self._bytes_left < 0:
            raise Fault(ua.StatusCodes.BadResponseTooLarge)
        return part

    @property
    def is_long(self) -> bool:
        """True where it is somebody else's turn."""
        return self.done >= STEPS_AT_ONCE or self._clock.monotonic_ns() >= self._until_ns

    async def turn(self) -> None:
        """Let others work where enough was done; from then on it is the session's only one."""
        if not self.is_long:
            return
        if not self._has_it:
            await self._only.acquire()
            self._has_it = True
        await asyncio.sleep(0)
        self.done = 0
        self._until_ns = self._clock.monotonic_ns() + TURN_NS
