"""Reads what can be read of a damaged store. The damaged file itself is never changed."""

from __future__ import annotations

import contextlib
import sqlite3
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gateway.core.records import Batch
from sync import wire
from sync.errors import StoreReadOnly

SALVAGE_TRIES_MAX: Final = 200_000  # single look-ups behind damaged pages
_ASIDE_MAX: Final = 10_000
_PARKED: Final = ".salvaging"


@dataclass(frozen=True, slots=True)
class SalvageReport:
    """What became of a damaged file; it is kept under `moved_to`.

    `lost` are (epoch, first, last) declared as gaps; `complete` is false where the salvage had to
    stop, for example because the disk is full.
    """

    moved_to: Path
    problem: str
    frames: int
    records: int
    births: int
    lost: tuple[tuple[int, int, int], ...]
    complete: bool


@dataclass
class Found:
    """What a damaged file still tells. `bodies` reads the frames one by one."""

    path: Path
    births: dict[str, bytes] = field(default_factory=dict)
    cursors: list[tuple[int, int]] = field(default_factory=list)

    def bodies(self) -> Iterator[Batch]:
        """Every frame whose checksum and contents are right, in the order of their ids."""
        for crc, body in _bodies(self.path):
            if isinstance(body, bytes) and zlib.crc32(body) == crc:
                with contextlib.suppress(wire.WireError):
                    yield wire.decode_body(body)


def park(path: Path) -> Path:
    """Renames a damaged database while a new one is filled from it; returns the new path.

    Where the salvage is cut short, `unpark` undoes it at the next start.
    """
    parked = _beside(path, _PARKED)
    with _renaming(path):
        for suffix in ("-wal", "-shm"):
            _beside(parked, suffix).unlink(missing_ok=True)
        _rename(path, parked)
    return parked


def unpark(path: Path) -> None:
    """Puts back what a salvage that was cut short had parked; what it had filled goes.

    The parked database file itself is renamed last: as long as it stands there, this may be cut
    short as well.
    """
    parked = _beside(path, _PARKED)
    if not parked.exists():
        return
    with _renaming(path):
        if path.exists():
            for suffix in ("-wal", "-shm", ""):
                _beside(path, suffix).unlink(missing_ok=True)
        for suffix in ("-wal", "-shm", ""):
            if _beside(parked, suffix).exists():
                _beside(parked, suffix).rename(_beside(path, suffix))


def move_aside(path: Path, parked: Path) -> Path:
    """Renames the parked database to ``<name>.damaged-N`` for good; returns the new path."""
    for number in range(1, _ASIDE_MAX):
        aside = _beside(path, f".damaged-{number}")
        if not aside.exists():
            break
    else:
        raise StoreReadOnly(f"store {path}: {_ASIDE_MAX} damaged files lie beside it; remove some")
    with _renaming(path):
        _rename(parked, aside)
    return aside


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _rename(old: Path, new: Path) -> None:
    """The database file first: what is cut short behind it can be told from what never began."""
    for suffix in ("", "-wal", "-shm"):
        if _beside(old, suffix).exists():
            _beside(old, suffix).rename(_beside(new, suffix))


@contextlib.contextmanager
def _renaming(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreReadOnly(f"store {path}: can't be moved aside ({error})") from None


def read_damaged(path: Path) -> Found:
    """Births and cursors of a damaged file; frames are read when they are asked for."""
    found = Found(path)
    for name, body in _select(path, "SELECT hash, body FROM births ORDER BY turn"):
        if isinstance(name, str) and isinstance(body, bytes):
            found.births[name] = body
    for epoch, seq in _select(path, "SELECT epoch, seq FROM cursors ORDER BY turn"):
        if isinstance(epoch, int) and isinstance(seq, int):
            found.cursors.append((epoch, seq))
    return found


def _connect(path: Path) -> sqlite3.Connection:
    # A copy of the WAL may hold the newest frames, so the file is opened as usual; nothing but
    # SELECT is ever asked of it.
    conn = sqlite3.connect(path, isolation_level=None)
    conn.text_factory = lambda data: data.decode("utf-8", "replace")
    return conn


def _select(path: Path, sql: str) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    with contextlib.closing(_connect(path)) as conn, contextlib.suppress(sqlite3.Error):
        # One by one: what stands before a damaged page is kept.
        for row in conn.execute(sql):
            rows += [row]
    return rows


def _bodies(path: Path) -> Iterator[tuple[object, object]]:
    """Walks the ids upwards; at a damaged page it goes on behind it, look-up by look-up."""
    with contextlib.closing(_connect(path)) as conn:
        at, tries = 0, 0
        end = _last_id(conn)
        while True:
            try:
                for number, crc, body in conn.execute(
                    "SELECT id, crc, body FROM bodies WHERE id > ? ORDER BY id", (at,)
                ):
                    at = number
                    yield crc, body
                return
            except sqlite3.Error:
                at += 1
                tries += 1
                if at >= end or tries > SALVAGE_TRIES_MAX:
                    return


def _last_id(conn: sqlite3.Connection) -> int:
    last = 0
    for sql in (
        "SELECT seq FROM sqlite_sequence WHERE name = 'frames'",
        "SELECT max(id) FROM bodies",
        "SELECT max(id) FROM frames",
    ):
        with contextlib.suppress(sqlite3.Error):
            row = conn.execute(sql).fetchone()
            last = max(last, row[0] or 0) if row and isinstance(row[0], int | None) else last
    return last
