"""What the mains of both processes share: arguments, signals, the end of the parent."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import gc
import logging
import logging.handlers
import os
import queue
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import uvloop

from config.findings import SiteError
from gateway.core.paths import StatePaths

EXIT_CONFIGURATION: Final = 2  # the supervisor does not restart after this
BEAT_PERIOD_S: Final = 1.0
ALIVE: Final = b"."  # the loop runs
HEALTHY: Final = b"+"  # and what it is there for is done in time
LOG_LINES_MAX: Final = 1_000  # lines that wait for the console; what comes beyond is left out

_signs_wanted = False  # standard output goes to a supervisor


class StateFolderError(Exception):
    """The state folder can't be used; the message names it and the remedy."""


def main(name: str, run: Callable[[Path, Path, asyncio.Event], Coroutine[Any, Any, None]]) -> int:
    """Parse `SITE --state DIR`, run until a signal or the parent's end; the exit status.

    Standard input is the parent's pipe where ``--parent-pipe`` is given: its end means that the
    supervisor is gone, and the process stops in order. On standard output it then gives signs of
    life: `ALIVE` every second, field `HEALTHY` too. A site with errors or a state folder that can't
    be used is a matter of configuration: status 2, which the supervisor takes as final.
    """
    parser = argparse.ArgumentParser(prog=f"gateway.{name}")
    parser.add_argument("site", type=Path)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--parent-pipe", action="store_true")
    arguments = parser.parse_args()
    listener = _log_to_console(name)
    try:
        uvloop.run(_run(run, arguments.site, arguments.state, arguments.parent_pipe))
    except SiteError as error:
        for finding in error.findings:
            print(finding, file=sys.stderr)
        return EXIT_CONFIGURATION
    except StateFolderError as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIGURATION
    finally:
        with contextlib.suppress(queue.Full):
            listener.stop()
    return 0


class _Lines(logging.handlers.QueueHandler):
    def enqueue(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(queue.Full):
            self.queue.put_nowait(record)


def _log_to_console(name: str) -> logging.handlers.QueueListener:
    """Log to standard error in a thread: a stopped terminal or a full pipe holds up no loop."""
    console = logging.StreamHandler(sys.stderr)
    console.setFormatter(logging.Formatter(f"%(asctime)s {name}: %(levelname)s: %(message)s"))
    lines: queue.Queue[Any] = queue.Queue(LOG_LINES_MAX)
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    root.addHandler(_Lines(lines))
    listener = logging.handlers.QueueListener(lines, console)
    listener.start()
    return listener


def open_state(folder: Path) -> StatePaths:
    """The state folder, made where it was not there. Raises StateFolderError."""
    paths = StatePaths(folder)
    try:
        paths.make()
    except OSError as error:
        raise StateFolderError(state_refused(paths, error)) from error
    return paths


def give_back_memory() -> None:
    """After the start: what it took and nobody holds any more goes back to the system.

    Without it, the C library keeps freed memory below whatever was allocated last.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def state_refused(paths: StatePaths, error: OSError) -> str:
    """Why a state folder can't be used, and the remedy."""
    return (
        f"the state folder {paths.folder} can't be used: {error.strerror}. "
        "Make it writable, or choose another with --state or GATEPOST_STATE"
    )


async def _run(
    run: Callable[[Path, Path, asyncio.Event], Coroutine[Any, Any, None]],
    site: Path,
    state: Path,
    parent_pipe: bool,
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    loop.set_exception_handler(_say_exception)
    beating = None
    if parent_pipe:
        global _signs_wanted
        os.set_blocking(sys.stdout.fileno(), False)
        _signs_wanted = True
        loop.add_reader(sys.stdin.fileno(), _parent_wrote, stop)
        beating = asyncio.create_task(_beat())  # from the first wait of `run` on
    try:
        await run(site, state, stop)
    finally:
        if beating is not None:
            beating.cancel()


async def _beat() -> None:
    """Signs of life for the supervisor: a process whose loop hangs sends none."""
    while True:
        give_sign(ALIVE)
        await asyncio.sleep(BEAT_PERIOD_S)


def give_sign(sign: bytes) -> None:
    """Give the supervisor a sign; nothing where there is none. It never waits."""
    if _signs_wanted:
        with contextlib.suppress(OSError):  # nobody reads, or the supervisor is gone
            os.write(sys.stdout.fileno(), sign)


def _say_exception(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A callback of a library failed: one line, not a page."""
    error = context.get("exception")
    what = f"{type(error).__name__}: {error}" if error is not None else ""
    logging.getLogger("gatepost").error("%s %s", context.get("message", ""), what)


def _parent_wrote(stop: asyncio.Event) -> None:
    """The parent never writes: readable means end of file, the parent is gone."""
    asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
    stop.set()
