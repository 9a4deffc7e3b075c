"""What the store and the link to the broker may raise, and nothing else.

StoreError
├── StoreFull       no room on the disk; committed frames are safe, the new one isn't stored
├── StoreReadOnly   the file or its folder can't be written
├── StoreLocked     another process holds the file
├── StoreDamaged    the file is no sound SQLite database any more: `recover`
└── StoreFailed     anything else that SQLite or the disk reports

LinkError
├── LinkAddress     the URL or the password file makes no sense: mend the configuration
├── LinkRefused     nobody listens there, or the name is unknown
├── LinkAuth        the broker refuses this client
├── LinkLost        the session broke
└── LinkTimeout     connected, but the other side did not answer in time
"""

from __future__ import annotations

import sqlite3
from pathlib import Path


class StoreError(Exception):
    """The store could not do what it was asked to; nothing that was committed is lost."""


class StoreFull(StoreError):
    """No room on the disk."""


class StoreReadOnly(StoreError):
    """The file or its folder can't be written."""


class StoreLocked(StoreError):
    """Another process holds the file."""


class StoreDamaged(StoreError):
    """The file is no sound SQLite database any more."""


class StoreFailed(StoreError):
    """SQLite or the disk reports something else."""


class LinkError(Exception):
    """The link to the broker failed."""


class LinkAddress(LinkError):
    """The URL or the password file makes no sense."""


class LinkRefused(LinkError):
    """Nobody listens at the address, or its name is unknown."""


class LinkAuth(LinkError):
    """The broker refuses this client."""


class LinkLost(LinkError):
    """The session broke."""


class LinkTimeout(LinkError):
    """The other side did not answer in time."""


# SQLite's primary result codes, https://www.sqlite.org/rescode.html
_BY_CODE: dict[int, tuple[type[StoreError], str]] = {
    sqlite3.SQLITE_FULL: (StoreFull, "the disk is full: free space; nothing stored is lost"),
    sqlite3.SQLITE_READONLY: (StoreReadOnly, "it is read-only: check owner and mount options"),
    sqlite3.SQLITE_CANTOPEN: (StoreReadOnly, "it can't be opened: check the folder and its owner"),
    sqlite3.SQLITE_PERM: (StoreReadOnly, "access is denied: check owner and mode"),
    sqlite3.SQLITE_BUSY: (StoreLocked, "another process holds it: stop that one"),
    sqlite3.SQLITE_LOCKED: (StoreLocked, "another process holds it: stop that one"),
    sqlite3.SQLITE_CORRUPT: (StoreDamaged, "it is damaged"),
    sqlite3.SQLITE_NOTADB: (StoreDamaged, "it is no database"),
}


def store_error(path: Path, error: sqlite3.Error) -> StoreError:
    """The typed error of what SQLite raised, naming file, cause and remedy."""
    code = getattr(error, "sqlite_errorcode", None)
    kind, text = _BY_CODE.get((code or 0) & 0xFF, (StoreFailed, "it failed"))
    return kind(f"store {path}: {text} ({error})")
