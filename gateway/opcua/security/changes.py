"""Several files of the folder changed as one: after a power cut all of it is done, or nothing.

What is to be done is written down first, in one file. Whoever opens the folder next finishes it.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from gateway.core.files import replace_file, sync_folder

log = logging.getLogger("gatepost.opcua")

FILE: Final = "changes.json"
_PUBLIC: Final = ("own/server.der",)  # everything else is for its owner only


def carry_out(folder: Path, puts: Mapping[Path, bytes], removes: Collection[Path]) -> None:
    """Write and remove files below `folder`, all of them. Raises OSError.

    What is written comes before what is removed, so that a reader never misses what stays.
    """
    finish(folder)
    body = {
        "put": {
            path.relative_to(folder).as_posix(): base64.b64encode(data).decode()
            for path, data in puts.items()
        },
        "remove": [path.relative_to(folder).as_posix() for path in removes],
    }
    replace_file(folder / FILE, json.dumps(body), 0o600)
    finish(folder)


def finish(folder: Path) -> None:
    """Do what was written down and not done; nothing where nothing was. Raises OSError."""
    file = folder / FILE
    try:
        body = json.loads(file.read_bytes())
        puts, removes = body["put"], body["remove"]
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError):
        log.error("opcua: %s can't be read; what it asked for is not done", file)
        file.unlink(missing_ok=True)
        return
    changed = [folder / name for name in puts]
    for name, data in puts.items():
        path = folder / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _put(path, base64.b64decode(data), 0o644 if name in _PUBLIC else 0o600)
    for name in removes:
        with contextlib.suppress(FileNotFoundError):
            (folder / name).unlink()
    # Synced at the end only: until then all of it can be done again. A thousand files one by one
    # would take a card a minute.
    parents = {(folder / name).parent for name in (*puts, *removes)}
    for path in (*changed, *(parent for parent in parents if parent.is_dir())):
        _sync(path)
    file.unlink(missing_ok=True)
    sync_folder(folder)


def _put(path: Path, data: bytes, mode: int) -> None:
    """Replace a file; it is whole for all who read it, but not on the disk yet."""
    beside = path.with_suffix(".new")
    beside.unlink(missing_ok=True)
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    beside.replace(path)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
