"""What the simulator processes share: telling that they are ready, and ending when asked to.

A simulator ends on SIGTERM, on SIGINT, and (with ``--with-parent``) when its standard input
closes, which the kernel does when the process that started it is gone, however that one ended.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, NoReturn

READY: Final = "ready"  # first word of the one line on standard output, once it listens


def ready(what: str) -> None:
    """Tell the starter that this simulator listens."""
    print(f"{READY} {what}", flush=True)


def fail(message: str, status: int = 1) -> NoReturn:
    """End with a message for people on standard error."""
    print(message, file=sys.stderr, flush=True)
    raise SystemExit(status)


class _WatchInput(asyncio.Protocol):
    def __init__(self, ended: asyncio.Event) -> None:
        self._ended = ended

    def data_received(self, data: bytes) -> None:
        """Nothing is said on standard input; only its end counts."""

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended.set()


async def run_until_ended(
    work: Callable[[], Coroutine[Any, Any, None]],
    *,
    with_parent: bool,
    stop: Callable[[], Awaitable[None]],
) -> None:
    """Run `work` until it returns or the process is asked to end; then await `stop`.

    An error that ends `work` is raised here, behind `stop`.
    """
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    transport: asyncio.BaseTransport | None = None
    if with_parent:
        transport, _ = await loop.connect_read_pipe(lambda: _WatchInput(ended), sys.stdin)
    task = asyncio.create_task(work())
    waiting = asyncio.create_task(ended.wait())
    try:
        await asyncio.wait((task, waiting), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in (task, waiting):
            each.cancel()
        results = await asyncio.gather(task, waiting, return_exceptions=True)
        await stop()
        if transport is not None:
            transport.close()
    error = results[0]
    if isinstance(error, BaseException) and not isinstance(error, asyncio.CancelledError):
        raise error
