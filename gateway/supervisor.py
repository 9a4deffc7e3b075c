"""Starts the field and the link process of a site, and starts them again when they end.

Both run in sessions of their own, so that Ctrl-C in a terminal reaches the supervisor alone, and
both hold the read end of a pipe whose end means that the supervisor is gone. The supervisor holds
a lock on the state folder and hands it down: it is free only when the last process has ended, so
two field processes can never drive the same outputs.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gateway.core.clock import Clock, SystemClock
from gateway.core.paths import StatePaths
from gateway.notify import Notifier
from gateway.process import EXIT_CONFIGURATION, HEALTHY, state_refused

DELAY_S_MAX: Final = 10.0
_DELAY_S: Final = 1.0  # before the second restart in a row; the first is made at once
_JITTER: Final = 0.2
HEALTHY_NS: Final = 60_000_000_000  # after such a life the next end counts as the first again

# Longer than the field needs to make outputs safe and hand over its last records, and than the
# link needs to drain (gateway/field.py, gateway/link.py). Then they are killed.
FIELD_STOP_S: Final = 10.0
LINK_STOP_S: Final = 10.0

# A process says every second that its loop runs (gateway/process.py).
HANG_S: Final = 10.0
WATCHDOG_US_MIN: Final = 2_000_000  # of the service manager; the field speaks twice a second

# The processes of a supervisor that was killed need this long to end by themselves.
LOCK_WAIT_S: Final = FIELD_STOP_S + LINK_STOP_S
_LOCK_RETRY_S: Final = 0.1

Say = Callable[[str], None]


class SupervisorError(Exception):
    """The site can't be supervised; the message names the folder and the remedy."""


@dataclass(frozen=True, slots=True)
class Command:
    """How a process is started, and how long it may take to stop."""

    name: str
    arguments: tuple[str, ...]
    stop_s: float


def site_commands(site: Path, state: Path) -> tuple[Command, Command]:
    """Field and link of the site folder `site`, in the order in which they are stopped."""

    def command(name: str, stop_s: float) -> Command:
        module = f"gateway.{name}"
        options = ("--state", str(state), "--parent-pipe")
        return Command(name, (sys.executable, "-m", module, str(site), *options), stop_s)

    return command("field", FIELD_STOP_S), command("link", LINK_STOP_S)


def backoff_s(failures: int, chance: float) -> float:
    """How long to wait before a restart: 0, then 1, 2, 4, 8 and at most 10 s, each +-20 %.

    `failures` counts the ends in a row before this one; `chance` is a number in [0, 1).
    """
    if failures <= 0:
        return 0.0
    delay_s = _DELAY_S * 2.0 ** min(failures - 1, 10)
    return min(delay_s * (1 - _JITTER + 2 * _JITTER * chance), DELAY_S_MAX)


def how_it_ended(code: int) -> str:
    """An exit status in words."""
    if code >= 0:
        return f"ended with exit status {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def _without_notify(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a child: the service manager hears the supervisor, its main process."""
    own = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
    return {name: value for name, value in environment.items() if name not in own}


def say(line: str) -> None:
    """One line on standard error."""
    print(f"gatepost: {line}", file=sys.stderr, flush=True)


class StateLock:
    """The single-instance lock of a state folder, and of a site folder.

    Two gateways of one site would both drive the plant, whatever their state folders are. The
    folder itself is locked (flock of its descriptor), so nothing is written to it.
    """

    def __init__(self, paths: StatePaths, site: Path) -> None:
        self._paths = paths
        self._site = site
        self.descriptor = -1
        self.descriptors: tuple[int, ...] = ()  # to be handed down to the processes

    def take(self) -> bool:
        """Take the lock; False where another process holds the state folder.

        Raises SupervisorError where a folder can't be used, and where a gateway with another
        state folder runs the site.
        """
        try:
            self._paths.make()
            descriptor = os.open(self._paths.lock, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise SupervisorError(state_refused(self._paths, error)) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self.descriptor = descriptor
        self.descriptors = (descriptor,)
        try:
            self._take_site()
        except SupervisorError:
            self.release()
            raise
        return True

    def _take_site(self) -> None:
        try:
            folder = os.open(self._site, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:  # the processes say what is wrong with the site
            return
        self.descriptors += (folder,)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise SupervisorError(
                f"a gateway of {self._site} runs on this machine with another state folder, and "
                "has its devices. Stop that one first"
            ) from error

    def write(self, holders: dict[str, int]) -> None:
        """Write who holds it: name of the process -> pid. For people and messages only."""
        data = json.dumps(holders).encode()
        with contextlib.suppress(OSError):  # a full disk must not stop the plant's supervision
            os.ftruncate(self.descriptor, 0)
            os.pwrite(self.descriptor, data, 0)

    def holders(self) -> dict[str, int]:
        """What the holder wrote; empty where that can't be read."""
        try:
            data = json.loads(self._paths.lock.read_text())
            return {str(name): int(pid) for name, pid in data.items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def release(self) -> None:
        """Let go. The file stays: removing it would let two processes lock two files."""
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptor, self.descriptors = -1, ()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class _Child:
    """One supervised process over all its lives."""

    def __init__(self, command: Command, lock: StateLock, clock: Clock, tell: Say, output: int):
        self.command = command
        self.restarts = 0
        self._lock = lock
        self._clock = clock
        self._tell = tell
        self._output = output
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self.changed: Callable[[], None] = lambda: None
        self.healthy: Callable[[], None] = lambda: None  # it said that its scans are on time

    @property
    def pid(self) -> int | None:
        """The process id; None while it does not run."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def run(self) -> int:
        """Keep the process alive until `stop`: 0, or the status of a configuration error."""
        name, failures = self.command.name, 0
        while not self._stopping.is_set():
            begin_ns = self._clock.monotonic_ns()
            ended = await self._live()
            if self._stopping.is_set():
                break
            if ended == EXIT_CONFIGURATION:
                self._tell(f"{name} refuses its configuration (see above); not started again")
                return EXIT_CONFIGURATION
            if self._clock.monotonic_ns() - begin_ns >= HEALTHY_NS:
                failures = 0
            delay_s = backoff_s(failures, self._clock.random())
            failures += 1
            self.restarts += 1
            what = "could not be started" if ended is None else how_it_ended(ended)
            when = f"in {delay_s:.1f} s" if delay_s else "at once"
            self._tell(f"{name} {what}; starting it again {when} (restart {self.restarts})")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay_s):
                    await self._stopping.wait()
        return 0

    async def _live(self) -> int | None:
        """One life; returns its exit status, None where there was none."""
        try:
            process = await asyncio.create_subprocess_exec(
                *self.command.arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,  # signs of life
                stderr=self._output,
                start_new_session=True,
                pass_fds=self._lock.descriptors,
                env=_without_notify(os.environ),
            )
        except OSError as error:
            self._tell(f"{self.command.name}: {error}")
            return None
        self._process = process
        self.changed()
        self._tell(f"{self.command.name} started (pid {process.pid})")
        exited = asyncio.create_task(process.wait())
        asked = asyncio.create_task(self._stopping.wait())
        watched = asyncio.create_task(self._watch(process))
        try:
            await asyncio.wait({exited, asked}, return_when=asyncio.FIRST_COMPLETED)
            if not exited.done():
                await self._end(process, exited)
            return await exited
        finally:
            self.kill()
            asked.cancel()
            watched.cancel()
            await asyncio.gather(asked, watched, exited, return_exceptions=True)

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """End a process that gave signs of life and gives none any more: it hangs."""
        assert process.stdout is not None
        patience_s: float | None = None  # compiling at the first start takes as long as it takes
        while True:
            try:
                async with asyncio.timeout(patience_s):
                    signs = await process.stdout.read(1024)
                    if not signs:
                        return
            except TimeoutError:
                silent = f"no sign of life for {HANG_S:g} s"
                self._tell(f"{self.command.name} hangs: {silent}; killing it")
                self.kill()
                return
            patience_s = HANG_S
            if HEALTHY in signs:
                self.healthy()

    async def _end(self, process: asyncio.subprocess.Process, exited: asyncio.Task[int]) -> None:
        """Ask the process to end, kill it where it does not in time."""
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        done, _ = await asyncio.wait({exited}, timeout=self.command.stop_s)
        if not done:
            bound = f"{self.command.stop_s:g} s"
            self._tell(f"{self.command.name} did not end within {bound}; killing it")
            self.kill()

    def stop(self) -> None:
        """Let `run` end the process and return."""
        self._stopping.set()

    def kill(self) -> None:
        """End the process and what it started, at once."""
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)


class Supervisor:
    """Supervises the processes of one site."""

    def __init__(
        self,
        site: Path,
        state: Path,
        *,
        commands: Sequence[Command] | None = None,
        clock: Clock | None = None,
        tell: Say = say,
        output: int = 2,
        notifier: Notifier | None = None,
    ) -> None:
        """`commands` are stopped in their order. `output` is the descriptor that the processes
        write their messages to; their standard output carries signs of life only. `notifier` hears
        that the field scans in time; by default the service manager of this process.
        """
        paths = StatePaths(state)
        self._paths = paths
        self._tell = tell
        self._lock = StateLock(paths, site)
        given = site_commands(site, paths.folder) if commands is None else commands
        self._children = [
            _Child(command, self._lock, clock or SystemClock(), tell, output) for command in given
        ]
        self._notifier = notifier or Notifier.from_environment(os.environ)
        self._ready = False
        for child in self._children:
            child.changed = self._write_lock
            child.healthy = self._healthy

    def _healthy(self) -> None:
        """Pass on that scans are on time. Without the link the plant is protected all the same."""
        self._notifier.tell(*([] if self._ready else ["READY=1"]), "WATCHDOG=1")
        self._ready = True

    def status(self) -> dict[str, dict[str, Any]]:
        """Name of the process -> ``pid`` (None while it does not run) and ``restarts``."""
        return {c.command.name: {"pid": c.pid, "restarts": c.restarts} for c in self._children}

    def _check_watchdog(self) -> None:
        """Say where the service manager would lose patience before a healthy field speaks."""
        text = os.environ.get("WATCHDOG_USEC", "")
        if text.isdecimal() and int(text) < WATCHDOG_US_MIN:
            self._tell(
                f"WatchdogSec {int(text) / 1e6:g} s is too short: the field gives a sign once a "
                f"scan, at most twice a second. Set it to {HANG_S * 3:g} s"
            )

    async def run(self, stop: asyncio.Event) -> int:
        """Supervise until `stop` is set: 0, or 2 where a process refuses its configuration.

        Raises SupervisorError where the state folder can't be used or is in use.
        """
        self._check_watchdog()
        await self._take_lock(stop)
        tasks = [asyncio.create_task(c.run(), name=c.command.name) for c in self._children]
        stopped = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
            self._notifier.tell("STOPPING=1")
            for child, task in zip(self._children, tasks, strict=True):
                # The link is kept alive until the field has handed over its last records.
                child.stop()
                await task
            return max((task.result() for task in tasks), default=0)
        finally:
            self.kill()
            for task in (stopped, *tasks):
                task.cancel()
            await asyncio.gather(stopped, *tasks, return_exceptions=True)
            self._notifier.close()
            self._lock.release()

    def kill(self) -> None:
        """End both processes at once; for a second Ctrl-C."""
        for child in self._children:
            child.kill()

    async def _take_lock(self, stop: asyncio.Event) -> None:
        waited_s = 0.0
        while not self._lock.take():
            holders = self._lock.holders()
            owner = holders.get("supervisor", 0)
            if owner and _is_alive(owner):
                raise SupervisorError(
                    f"the state folder {self._paths.folder} is in use by another gatepost "
                    f"(pid {owner}). Stop that one first, or choose another folder with --state"
                )
            if waited_s >= LOCK_WAIT_S or stop.is_set():
                left = ", ".join(f"{n} pid {p}" for n, p in holders.items() if _is_alive(p))
                raise SupervisorError(
                    f"the state folder {self._paths.folder} is held by processes of a gatepost "
                    f"that is gone ({left or 'unknown'}). End them, then start again"
                )
            if not waited_s:
                self._tell("waiting for the processes of a gatepost that was killed")
            waited_s += _LOCK_RETRY_S
            await asyncio.sleep(_LOCK_RETRY_S)
        self._write_lock()

    def _write_lock(self) -> None:
        holders = {"supervisor": os.getpid()}
        for child in self._children:
            if child.pid is not None:
                holders[child.command.name] = child.pid
        self._lock.write(holders)


async def run(supervisor: Supervisor) -> int:
    """Run until SIGINT or SIGTERM; the second one kills. Raises SupervisorError."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def asked() -> None:
        if stop.is_set():
            supervisor.kill()
        stop.set()

    numbers = (signal.SIGINT, signal.SIGTERM)
    for number in numbers:
        loop.add_signal_handler(number, asked)
    try:
        return await supervisor.run(stop)
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def main(site: Path, state: Path) -> int:
    """``gatepost run``: the exit status."""
    try:
        return asyncio.run(run(Supervisor(site, state)))
    except SupervisorError as error:
        say(str(error))
        return 1
