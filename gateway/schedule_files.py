"""Schedules in the state folder: a file each, replaced whole, so that a restart goes on with them.

A checksum tells a torn or altered file from a good one; a damaged file is moved aside, and the
schedules in the others go on.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import msgpack

from gateway.core.files import replace_file
from gateway.core.schedule import Schedule, ScheduleError, pack_schedule, unpack_schedule

FILE_BYTES_MAX: Final = 4_000_000
SUFFIX: Final = ".schedule"


class ScheduleFileError(Exception):
    """A schedule can't be kept; the message names the file and says why."""


def path_of(folder: Path, kind: str, name: str) -> Path:
    """The file of a schedule: every version of it has the same."""
    digest = hashlib.sha256(f"{kind}\n{name}".encode()).hexdigest()[:16]
    return folder / f"{kind}-{digest}{SUFFIX}"


def save(folder: Path, schedule: Schedule) -> None:
    """Keep a schedule durably in place of its older version. Raises ScheduleFileError."""
    path = path_of(folder, schedule.kind, schedule.name)
    try:
        body = msgpack.packb(pack_schedule(schedule))
        data = msgpack.packb({"sha256": hashlib.sha256(body).hexdigest(), "body": body})
        folder.mkdir(mode=0o700, exist_ok=True)
        replace_file(path, data)
    except ScheduleError as error:
        raise ScheduleFileError(f"{path}: {error}") from error
    except OSError as error:
        raise ScheduleFileError(f"{path}: {error.strerror}") from error


def delete(folder: Path, schedule: Schedule) -> None:
    """Forget a schedule that is over. Raises ScheduleFileError."""
    path = path_of(folder, schedule.kind, schedule.name)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise ScheduleFileError(f"{path}: {error.strerror}") from error


def load(folder: Path) -> tuple[list[Schedule], list[str]]:
    """Every schedule that is kept, and what is wrong with the files that can't be used."""
    found, problems = [], []
    try:
        paths = sorted(folder.glob(f"*{SUFFIX}"))
    except OSError as error:
        return [], [f"{folder}: {error.strerror}"]
    for path in paths:
        try:
            found.append(_read(path))
        except ScheduleFileError as error:
            problems.append(str(error))
        except ScheduleError as error:
            problems.append(f"{path}: {error}; {_set_aside(path)}")
    return found, problems


def _read(path: Path) -> Schedule:
    """Raises ScheduleFileError where the disk refuses, ScheduleError where it is damaged."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ScheduleFileError(f"{path}: {error.strerror}") from error
    try:
        outer = msgpack.unpackb(data)
        body = outer["body"]
        if outer["sha256"] != hashlib.sha256(body).hexdigest():
            raise ScheduleError("checksum does not match")
        packed = msgpack.unpackb(body)
    except ScheduleError:
        raise
    except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
        raise ScheduleError(f"not a kept schedule ({type(error).__name__})") from error
    return unpack_schedule(packed)


def _set_aside(path: Path) -> str:
    aside = path.with_suffix(".damaged")
    try:
        path.replace(aside)
    except OSError as error:
        return f"it could not be moved away: {error.strerror}"
    return f"it was moved to {aside}"
