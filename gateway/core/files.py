"""Small files, written whole and durably."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def replace_file(path: Path, content: str | bytes, mode: int = 0o666) -> None:
    """Replace a file durably: written beside, synced, renamed, the folder synced.

    mode  of the new file from its first moment on, less the umask

    Raises OSError; the old file is whole in any case.
    """
    beside = path.with_suffix(".new")
    beside.unlink(missing_ok=True)  # a crash left it, with a mode of its own
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:  # a full disk, say: then half of a file does not stay on it
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
    sync_folder(path.parent)


def create_file(path: Path, content: bytes, mode: int) -> None:
    """Write a new file durably; its mode holds from the first moment on, less the umask.

    Raises OSError, FileExistsError among them; nothing half-written stays.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make what was created, renamed or removed in a folder durable. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
