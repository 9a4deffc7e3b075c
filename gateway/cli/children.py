"""Processes that a command starts, and ends again whatever happens.

Each has a session of its own, so that Ctrl-C in the terminal reaches the command alone, which
then ends them in order. Their standard input is a pipe that nobody writes to: when this process is
gone, however that happened, the kernel closes it, and those that watch it end by themselves. What
they print on standard error goes to a log file.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.cli.output import EXIT_BAD, CommandFailed

READY: Final = b"ready"
READY_S: Final = 30.0
END_S: Final = 15.0
LOG_LINES_SHOWN_MAX: Final = 5


@dataclass(slots=True)
class Child:
    """One running process and its log."""

    name: str
    process: asyncio.subprocess.Process
    log: Path


class Children:
    """All processes of a command, in the order of their start."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._running: dict[str, Child] = {}

    async def start(self, name: str, *command: str, ready: bool) -> Child:
        """Start ``python -m command...``; with `ready` wait until it says that it listens.

        Raises CommandFailed with the end of its log where it ends before that.
        """
        assert name not in self._running, f"{name} runs already"
        log = self._logs / f"{name}.log"
        with log.open("ab") as stderr:
            making = asyncio.ensure_future(
                asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    *command,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE if ready else stderr,
                    stderr=stderr,
                    start_new_session=True,
                )
            )
            try:
                await asyncio.shield(making)
            finally:
                # Cancelled half-way, the process may exist: it is known before anything else.
                child = self._running[name] = Child(name, await making, log)
        if ready:
            await self._wait_ready(child)
        return child

    async def _wait_ready(self, child: Child) -> None:
        assert child.process.stdout is not None
        line = b""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READY_S):
                line = await child.process.stdout.readline()
        if not line.startswith(READY):
            raise CommandFailed(f"{child.name} did not start{self._last_words(child)}", EXIT_BAD)

    def _last_words(self, child: Child) -> str:
        try:
            lines = child.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        except OSError:
            lines = []
        shown = "\n  ".join(lines[-LOG_LINES_SHOWN_MAX:])
        return f":\n  {shown}" if shown else f" within {READY_S:g} s"

    def ended(self) -> list[str]:
        """Names and last words of processes that ended by themselves."""
        return [
            f"{child.name} ended with status {child.process.returncode}{self._last_words(child)}"
            for child in self._running.values()
            if child.process.returncode is not None
        ]

    async def end(self, name: str, seconds: float = END_S) -> int | None:
        """Ask one to end, wait, and kill it where it does not; its exit status.

        None where it isn't running. Safe to cancel: then it is killed at once.
        """
        child = self._running.get(name)
        if child is None:
            return None
        process = child.process
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await process.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await process.wait()
        del self._running[name]
        if process.stdin is not None:
            process.stdin.close()
        return process.returncode

    async def end_all(self) -> None:
        """End what still runs, the last started first."""
        for name in reversed(list(self._running)):
            await self.end(name)
