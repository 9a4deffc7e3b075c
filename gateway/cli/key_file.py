"""``keys.json`` as the command line changes it: read whole, replaced whole, one at a time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from config.command_keys import KEYS_FILE, KEYS_MAX, KeyEntry, KeysFile, parse_keys
from config.findings import SiteError
from config.read import Files
from gateway.cli.output import CommandFailed, printable
from gateway.core.files import replace_file

LOCK_FILE: Final = ".keys.lock"


def read_entries(folder: Path) -> list[KeyEntry]:
    """The entries of a site's keys.json; none where it isn't there. Raises SiteError."""
    files = Files(folder)
    if not files.stands(KEYS_FILE):
        return []
    value = files.json(KEYS_FILE)
    if value is None:
        raise SiteError(files.findings)
    _, findings = parse_keys(value)
    if findings:
        raise SiteError(findings)
    return list(KeysFile.model_validate(value).Keys)


@contextlib.contextmanager
def changing(folder: Path) -> Iterator[list[KeyEntry]]:
    """The entries, to be changed in place; they are written at the end of the block.

    Nobody else changes them meanwhile, so that no revocation is lost. Raises SiteError, OSError,
    CommandFailed.
    """
    # A file of its own: the folder itself is locked by the gateway that runs.
    descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            text = f"another `gatepost keys` is changing {KEYS_FILE} now: try again"
            raise CommandFailed(text) from None
        entries = read_entries(folder)
        yield entries
        if len(entries) > KEYS_MAX:
            raise CommandFailed(f"{KEYS_FILE} holds {KEYS_MAX} keys at most; remove revoked ones")
        content = {"Keys": [entry.model_dump(exclude_none=True) for entry in entries]}
        _, findings = parse_keys(content)
        if findings:
            raise SiteError(findings)
        replace_file(folder / KEYS_FILE, json.dumps(content, indent=2) + "\n")
    finally:
        os.close(descriptor)


def position_of(entries: list[KeyEntry], name: str) -> int:
    """Where the key of this name stands. Raises CommandFailed."""
    for position, entry in enumerate(entries):
        if entry.Name == name:
            return position
    known = ", ".join(entry.Name for entry in entries) or "none"
    raise CommandFailed(f"{KEYS_FILE} has no key {printable(name)!r}. There are: {known}")


def outside(path: Path, folder: Path) -> Path:
    """`path` where it lies outside of a site folder. Raises CommandFailed."""
    if path.resolve().is_relative_to(folder.resolve()):
        raise CommandFailed(
            f"{path}: site folders are copied and versioned; keep the private key elsewhere"
        )
    return path
