"""Work on one request that goes on when its connection is gone: it must be told and journaled."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, Generic, TypeVar

from gateway.opcua.service import Meter

T = TypeVar("T")


class Together(Generic[T]):
    """Runs what is left of the parts of requests side by side."""

    def __init__(self) -> None:
        self._under_way: set[asyncio.Future[list[T]]] = set()

    async def run(self, parts: Iterable[T | Coroutine[Any, Any, T]], meter: Meter) -> list[T]:
        """Results in the order of `parts`: such as are there, and of coroutines, begun in order.

        Who waits for them may be cancelled; they are not. Their computing time is metered as the
        request's own is, so that many methods in one request are no way round its turns.
        """
        found: list[Any] = list(parts)
        left = {at: part for at, part in enumerate(found) if asyncio.iscoroutine(part)}
        if left:
            made = asyncio.gather(*map(meter, left.values()))
            self._under_way.add(made)
            made.add_done_callback(self._under_way.discard)
            for at, result in zip(left, await asyncio.shield(made), strict=True):
                found[at] = result
        return found
