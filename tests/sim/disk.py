"""Disks of the simulated processes: real files, faults in what is written, and kills.

SQLite works on real files. A killed process leaves them as they are: the database and its log are
set back to what they were before the connection was closed, because closing would tidy up.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, Final
from unittest import mock

from gateway.core import files
from tests.sim.loop import OWNER, Process

FAULTS: Final = ("full", "read-only", "slow")
SLOW_S: Final = (0.05, 3.0)
QUICK_S: Final = (0.0002, 0.002)
_CODES: Final = {
    "full": (sqlite3.SQLITE_FULL, "database or disk is full"),
    "read-only": (sqlite3.SQLITE_READONLY, "attempt to write a readonly database"),
}
_ROOM: Final = SimpleNamespace(f_bavail=2**20, f_frsize=4096)
_WRITING: Final = ("INSERT", "UPDATE", "REPLACE", "CREATE")
_CHANGING: Final = (*_WRITING, "DELETE", "BEGIN IMMEDIATE", "COMMIT")


class Killed(BaseException):
    """The process was killed inside a call; nothing of it may go on."""


class Disk:
    """What a process has open, and how its disk does.

    fault   one of `FAULTS`, or "" where all is well
    fuse    the process is killed at this writing statement from now; 0 = never
    """

    def __init__(self, process: Process, seed: str) -> None:
        self.process = process
        self.fault = ""
        self.fuse = 0
        self.blown: Callable[[], None] = lambda: None
        self.writes = 0
        self._random = Random(seed)
        self._connections: list[sqlite3.Connection] = []
        self._locks: list[Any] = []
        self._paths: dict[Path, None] = {}

    def set_fault(self, fault: str) -> None:
        """From now on the disk is full, read-only, slow or well."""
        self.fault = fault
        self.process.job_delay_s = SLOW_S if fault == "slow" else QUICK_S

    def opened(self, path: Path, connection: sqlite3.Connection) -> None:
        """Remember a database that the process opened."""
        self._connections.append(connection)
        self._paths[path] = None

    def locked(self, file: Any) -> None:
        """Remember a file that the process holds locked."""
        self._locks.append(file)

    def statement(self, connection: sqlite3.Connection, sql: str) -> None:
        """A statement is about to run. Raises what the disk makes of it."""
        if not self.process.alive:
            raise Killed
        word = sql.lstrip().upper()
        if not word.startswith(_CHANGING):
            return
        self.writes += 1
        if self.fuse:
            self.fuse -= 1
            if self.fuse == 0:
                self.process.alive = False
                self.blown()
                raise Killed
        code, text = _CODES.get(self.fault, (0, ""))
        late = word.startswith("COMMIT") and connection.in_transaction
        if self.fault == "full" and not word.startswith(_WRITING):
            code = code if late and self._random.random() < 0.3 else 0
        if code:
            error = sqlite3.OperationalError(text)
            error.sqlite_errorcode = code
            raise error

    def file(self) -> None:
        """A small file is about to be replaced. Raises OSError."""
        if not self.process.alive:
            raise Killed
        if self.fault in ("full", "read-only"):
            raise OSError(28 if self.fault == "full" else 30, f"the disk is {self.fault}")

    def release(self) -> None:
        """The process was killed: close what it had open, and leave its files as they are."""
        kept = []
        for path in self._paths:
            for name in (path, path.with_name(path.name + "-wal")):
                if name.exists():
                    beside = name.with_name(name.name + ".kept")
                    shutil.copyfile(name, beside)
                    kept.append((beside, name))
        for connection in self._connections:
            connection.close()
        for beside, name in kept:
            beside.replace(name)
        for path in self._paths:
            path.with_name(path.name + "-shm").unlink(missing_ok=True)
        for file in self._locks:
            if not file.closed:
                fcntl.flock(file, fcntl.LOCK_UN)
                file.close()
        self._connections, self._locks, self._paths = [], [], {}


_disks: dict[Process, Disk] = {}


def disk_of(process: Process) -> Disk | None:
    """The disk of a process, where it has one."""
    return _disks.get(process)


def give_disk(process: Process, seed: str) -> Disk:
    """A disk for a process."""
    disk = _disks[process] = Disk(process, seed)
    return disk


def _here() -> Disk | None:
    process = OWNER.get(None)
    return None if process is None else _disks.get(process)


class _Connection(sqlite3.Connection):
    """A connection whose disk may refuse."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._disk = _here()
        if self._disk is not None:
            self._disk.opened(Path(arguments[0]), self)

    def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
        if self._disk is not None:
            self._disk.statement(self, sql)
        return super().execute(sql, *arguments)

    def executemany(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
        if self._disk is not None:
            self._disk.statement(self, sql)
        return super().executemany(sql, *arguments)


def _locked(file: Any, operation: int) -> None:
    _flock(file, operation)
    disk = _here()
    if disk is not None and operation & fcntl.LOCK_EX:
        disk.locked(file)


def _replace_file(path: Path, content: str | bytes) -> None:
    disk = _here()
    if disk is not None:
        disk.file()
    files.replace_file(path, content)


_connect = sqlite3.connect
_flock = fcntl.flock


@contextlib.contextmanager
def simulated() -> Iterator[None]:
    """Everything that asks the machine asks the simulation, until the end of the context."""

    def connect(path: Any, *arguments: Any, **options: Any) -> sqlite3.Connection:
        options.setdefault("factory", _Connection)
        return _connect(path, *arguments, **options)

    collected = gc.isenabled()
    with contextlib.ExitStack() as stack:
        for target, replacement in (
            ("sqlite3.connect", connect),
            ("fcntl.flock", _locked),
            ("gateway.retain.replace_file", _replace_file),
            ("gateway.learned.replace_file", _replace_file),
            ("gateway.schedule_files.replace_file", _replace_file),
            ("gateway.process.give_back_memory", lambda: None),
            # What the machine's own disk has left would depend on who else writes to it.
            ("gateway.store_health.os", SimpleNamespace(statvfs=lambda _: _ROOM)),
            ("sync.store.store.written_bytes", lambda: 0),
            # A process of its own freezes what its start made; here it would never go.
            ("gateway.field.gc", SimpleNamespace(freeze=lambda: None)),
        ):
            stack.enter_context(mock.patch(target, replacement))
        gc.disable()  # what it finishes, and when, would depend on everything that ran before
        try:
            yield
        finally:
            _disks.clear()
            if collected:
                gc.enable()
