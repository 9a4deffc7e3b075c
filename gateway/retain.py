"""What the field process keeps over a restart: its epoch, latched trips, alarms, how it ended.

One small JSON file, replaced whole: written beside, synced, renamed, the folder synced. A
checksum tells a torn or altered file from a good one. A damaged file is moved aside and the
gateway comes up with every latching rule latched: an operator looks first.

The file has two parts, each with a checksum. `body` is what every release knows: a release that
finds a key in it that it doesn't know takes the file for damaged. Everything that came later is in
`more`, of which a release takes what it knows: an older file loads here, and an older release
finds its latches in a newer file.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from gateway.core.files import replace_file

LIVES_MAX: Final = 32  # fewer than the epochs whose end the store remembers
RETAIN_BYTES_MAX: Final = 64_000_000  # of 50,000 latched rules and alarms with long names
_BODY: Final = ("epoch", "last", "latched")  # the keys of `body`: never add one


@dataclass(frozen=True, slots=True)
class Retained:
    """The kept state.

    epoch    of the life that wrote it; 0 = the file never was
    last     last journal number of that life where it ended orderly, else 0
    latched  rule name -> what safety/engine.py needs to latch it again
    alarms   alarm name -> what safety/alarms.py needs to go on: acknowledged, shelved, ...
    stop     an emergency stop is asked for at the gateway
    lives    [epoch, last] of the lives before that one, oldest first
    """

    epoch: int = 0
    last: int = 0
    latched: dict[str, dict[str, Any]] = field(default_factory=dict)
    alarms: dict[str, dict[str, Any]] = field(default_factory=dict)
    stop: bool = False
    lives: list[list[int]] = field(default_factory=list)

    def past(self) -> list[list[int]]:
        """[epoch, last] of the newest lives, that which wrote the file included."""
        wrote = [[self.epoch, self.last]] if self.epoch else []
        return [*self.lives, *wrote][-LIVES_MAX:]


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
        kept = _checked(path, outer, "body")
        if "more" in outer or "more_sha256" in outer:
            known = {f.name for f in fields(Retained)} - set(_BODY)
            more = _checked(path, outer, "more")
            kept |= {name: value for name, value in more.items() if name in known}
        return Retained(**kept)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise RetainError(f"{path}: not a retain file ({error})") from error


def _checked(path: Path, outer: dict[str, str], name: str) -> dict[str, Any]:
    """One part of the file. Raises RetainError or what a wrong form raises."""
    text = outer[name]
    checksum = outer["sha256" if name == "body" else f"{name}_sha256"]
    if checksum != _checksum(text):
        raise RetainError(f"{path}: checksum does not match")
    part: dict[str, Any] = json.loads(text)
    return part


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def save(path: Path, retained: Retained) -> None:
    """Replace the file durably. Raises RetainError; the old file is whole in any case."""
    everything = asdict(retained)
    body = json.dumps({name: everything.pop(name) for name in _BODY}, sort_keys=True)
    more = json.dumps(everything, sort_keys=True)
    text = json.dumps(
        {
            "sha256": _checksum(body),
            "body": body,
            "more_sha256": _checksum(more),
            "more": more,
        }
    )
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
