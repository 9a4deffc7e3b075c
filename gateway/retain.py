"""What the field process keeps over a restart: its epoch, latched trips, how it ended.

One small JSON file, replaced whole: written beside, synced, renamed, the folder synced. A
checksum tells a torn or altered file from a good one. A damaged file is moved aside and the
gateway comes up with every latching rule latched: an operator looks first.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gateway.core.files import replace_file

RETAIN_BYTES_MAX = 16_000_000  # of 50,000 latched rules with long names


@dataclass(frozen=True, slots=True)
class Retained:
    """The kept state.

    epoch    of the life that wrote it; 0 = the file never was
    last     last journal number of that life where it ended orderly, else 0
    latched  rule name -> what safety/engine.py needs to latch it again
    """

    epoch: int = 0
    last: int = 0
    latched: dict[str, dict[str, Any]] = field(default_factory=dict)


class RetainError(Exception):
    """The retain file can't be read or written; the message names it and says why."""


def load(path: Path) -> Retained:
    """Read the file. No file is a first start; raises RetainError where it is damaged."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Retained()
    except OSError as error:
        raise RetainError(f"{path}: {error.strerror}") from error
    try:
        outer = json.loads(data[:RETAIN_BYTES_MAX])
        body = outer["body"]
        if outer["sha256"] != hashlib.sha256(body.encode()).hexdigest():
            raise RetainError(f"{path}: checksum does not match")
        return Retained(**json.loads(body))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise RetainError(f"{path}: not a retain file ({error})") from error


def save(path: Path, retained: Retained) -> None:
    """Replace the file durably. Raises RetainError; the old file is whole in any case."""
    body = json.dumps(asdict(retained), sort_keys=True)
    text = json.dumps({"sha256": hashlib.sha256(body.encode()).hexdigest(), "body": body})
    try:
        replace_file(path, text)
    except OSError as error:
        raise RetainError(f"{path}: {error.strerror}") from error


def set_aside(path: Path) -> Path:
    """Move a damaged file away so that it can be looked at; returns where it went."""
    aside = path.with_suffix(".damaged")
    try:
        path.replace(aside)
    except OSError as error:
        raise RetainError(f"{path}: {error.strerror}") from error
    return aside
