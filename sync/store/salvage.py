"""Reads what can be read of a damaged store. The damaged file itself is never changed."""

from __future__ import annotations

import contextlib
import sqlite3
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gateway.core.files import sync_folder
from gateway.core.records import Batch
from sync import wire
from sync.errors import StoreReadOnly
from sync.store import pages
from sync.store.database import ID_BITS, PAGE_BYTES
from sync.store.links import Ranges

_ASIDE_MAX: Final = 10_000
_BITS: Final = {12: ID_BITS, 3: 0}  # of an id, by the columns of a table with bodies
_PARKED: Final = ".salvaging"
# A journal lies there for a moment while a file is made; left behind, SQLite would roll back with
# it whatever database gets its name.
_COMPANIONS: Final = ("-journal", "-wal", "-shm")


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
    """What a damaged file still tells. `frames` reads the frames one by one.

    done  name of a link -> places in the order of frames that it is done with
    """

    path: Path
    births: dict[str, bytes] = field(default_factory=dict)
    cursors: list[tuple[int, int]] = field(default_factory=list)
    done: dict[str, Ranges] = field(default_factory=dict)

    def frames(self) -> Iterator[tuple[int, Batch]]:
        """Every frame whose checksum and contents are right: its place, in order, and contents."""
        for place, crc, body in _bodies(self.path):
            if isinstance(body, bytes) and zlib.crc32(body) == crc:
                with contextlib.suppress(wire.WireError):
                    yield place, wire.decode_body(body)


def park(path: Path) -> Path:
    """Renames a damaged database while a new one is filled from it; returns the new path.

    Where the salvage is cut short, `unpark` undoes it at the next start.
    """
    parked = _beside(path, _PARKED)
    with _renaming(path):
        for suffix in _COMPANIONS:
            _beside(parked, suffix).unlink(missing_ok=True)
        rename_database(path, parked)
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
            for suffix in (*_COMPANIONS, ""):
                _beside(path, suffix).unlink(missing_ok=True)
        for suffix in (*_COMPANIONS, ""):
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
        rename_database(parked, aside)
    return aside


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def rename_database(old: Path, new: Path) -> None:
    """Renames a database that nobody has open, with what SQLite keeps beside it, durably.

    The database file first: what is cut short behind it can be told from what never began.
    """
    for suffix in ("", *_COMPANIONS):
        if _beside(old, suffix).exists():
            _beside(old, suffix).rename(_beside(new, suffix))
    # Else a power cut could undo it later, and what the new file has taken meanwhile would go.
    sync_folder(new.parent)


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
    if not found.births:
        for _, columns in pages.records(path, PAGE_BYTES):
            match columns:
                case [None, str(name), bytes(body)]:
                    found.births[name] = body
    for epoch, seq in _select(path, "SELECT epoch, seq FROM cursors ORDER BY turn"):
        if isinstance(epoch, int) and isinstance(seq, int):
            found.cursors.append((epoch, seq))
    for name, first, last in _select(path, "SELECT name, first, last FROM links"):
        if isinstance(name, str) and isinstance(first, int) and isinstance(last, int):
            found.done.setdefault(name, Ranges()).add(first, last)
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


def _tables(path: Path) -> list[tuple[str, int]]:
    """Where bodies stand, the oldest first, and by how many bits an id there is finer than a place.

    In a file of schema 1 they have a table of their own; one that was on its way from there has
    both, since migrations may be what finds the damage.
    """
    tables = []
    found = _select(path, "SELECT name, sql FROM sqlite_master WHERE type = 'table'")
    if any(name == "frames" and "body" in str(sql) for name, sql in found):
        tables = [("frames", ID_BITS)]
    return [*tables, ("bodies", 0)] if any(name == "bodies" for name, _ in found) else tables


def _bodies(path: Path) -> Iterator[tuple[int, object, object]]:
    """Places, checksums and bodies in order; behind a damaged page without the tree it was in."""
    last = -1
    tables = _tables(path)
    with contextlib.closing(_connect(path)) as conn:
        try:
            for table, bits in tables:
                for number, crc, body in conn.execute(f"SELECT id, crc, body FROM {table}"):
                    last = number >> bits
                    yield last, crc, body
            sound = bool(tables)
        except sqlite3.Error:
            sound = False
    if not sound:
        yield from _in_pages(path, last)


def _in_pages(path: Path, last: int) -> Iterator[tuple[int, object, object]]:
    """As `_bodies`, behind a place. A table is told by the number and kind of its columns."""
    for number, columns in pages.records(path, PAGE_BYTES):
        bits = _BITS.get(len(columns))
        if bits is not None and number >> bits > last and isinstance(columns[-1], bytes):
            yield number >> bits, columns[-2], columns[-1]
