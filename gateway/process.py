"""What the mains of both processes share: arguments, signals, the end of the parent."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import uvloop

from config.findings import SiteError
from gateway.core.paths import StatePaths

EXIT_CONFIGURATION: Final = 2  # the supervisor does not restart after this


class StateFolderError(Exception):
    """The state folder can't be used; the message names it and the remedy."""


def main(name: str, run: Callable[[Path, Path, asyncio.Event], Coroutine[Any, Any, None]]) -> int:
    """Parse `SITE --state DIR`, run until a signal or the parent's end; the exit status.

    Standard input is the parent's pipe where ``--parent-pipe`` is given: its end means that the
    supervisor is gone, and the process stops in order. A site with errors or a state folder that
    can't be used is a matter of configuration: status 2, which the supervisor takes as final.
    """
    parser = argparse.ArgumentParser(prog=f"gateway.{name}")
    parser.add_argument("site", type=Path)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--parent-pipe", action="store_true")
    arguments = parser.parse_args()
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format=f"{name}: %(levelname)s: %(message)s"
    )
    try:
        uvloop.run(_run(run, arguments.site, arguments.state, arguments.parent_pipe))
    except SiteError as error:
        for finding in error.findings:
            print(finding, file=sys.stderr)
        return EXIT_CONFIGURATION
    except StateFolderError as error:
        print(error, file=sys.stderr)
        return EXIT_CONFIGURATION
    return 0


def open_state(folder: Path) -> StatePaths:
    """The state folder, made where it was not there. Raises StateFolderError."""
    paths = StatePaths(folder)
    try:
        paths.make()
    except OSError as error:
        raise StateFolderError(
            f"the state folder {paths.folder} can't be used: {error.strerror}. "
            "Make it writable, or choose another with --state or GATEPOST_STATE"
        ) from error
    return paths


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
    if parent_pipe:
        loop.add_reader(sys.stdin.fileno(), _parent_wrote, stop)
    await run(site, state, stop)


def _parent_wrote(stop: asyncio.Event) -> None:
    """The parent never writes: readable means end of file, the parent is gone."""
    asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
    stop.set()
