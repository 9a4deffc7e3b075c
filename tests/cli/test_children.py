"""Processes of a command: ended in order, and killed where that is broken off."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
import pytest

from gateway.cli.children import Children
from gateway.cli.demo_run import _together
from gateway.cli.output import CommandFailed

# A module of the standard library that runs a line of Python: here, one that won't end.
DEAF = "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True)"
COMMAND = ("timeit", "-n", "1", "-r", "1", f"{DEAF}; time.sleep(600)")


async def test_a_process_that_does_not_end_is_killed(tmp_path: Path) -> None:
    children = Children(tmp_path)
    child = await children.start("deaf", *COMMAND, ready=True)
    assert await children.end("deaf", seconds=0.2) == -9
    assert not psutil.pid_exists(child.process.pid)
    assert await children.end("deaf") is None


async def test_a_broken_off_end_kills_at_once(tmp_path: Path) -> None:
    children = Children(tmp_path)
    child = await children.start("deaf", *COMMAND, ready=True)
    ending = asyncio.create_task(children.end("deaf", seconds=600.0))
    await asyncio.sleep(0.1)
    assert child.process.returncode is None
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    async with asyncio.timeout(10):
        assert await child.process.wait() == -9
    await children.end_all()


async def test_what_runs_beside_a_failed_part_ends_with_it() -> None:
    ended = asyncio.Event()

    async def fails() -> None:
        raise CommandFailed("the plant does not answer")

    async def lasts() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with asyncio.timeout(10):
        with pytest.raises(CommandFailed):
            await _together(lasts(), fails())
    assert ended.is_set()
