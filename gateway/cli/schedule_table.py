"""A schedule as a table in a file: a row a slot, a column a point."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from config.findings import Suggestions
from config.points import PointDef
from gateway.cli.operate import parse_value
from gateway.cli.output import CommandFailed
from gateway.cli.times import time_ns
from gateway.commands import check_value
from gateway.core.refusals import CommandRefused
from gateway.core.schedule import SLOTS_MAX

TIME: Final = "time"
FILE_BYTES_MAX: Final = 50_000_000
FAULTS_MAX: Final = 50  # that are told in words
Pairs = list[list[int | float | None]]


class _Faults:
    """What is wrong with a table, line by line; the first ones are told, the rest is counted."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._told: list[str] = []
        self._count = 0

    def add(self, line: int, text: str) -> None:
        """One more, in the order of the lines."""
        self._count += 1
        if len(self._told) < FAULTS_MAX:
            self._told.append(f"{self._path}:{line}: {text}")

    def end(self) -> None:
        """Raise CommandFailed with all of them, where there are any."""
        if self._count > len(self._told):
            self._told.append(f"and {self._count - len(self._told)} more faults")
        if self._told:
            raise CommandFailed("\n".join(self._told))


def read_table(
    path: Path, known: Mapping[str, PointDef], end_ns: int | None
) -> tuple[dict[str, Pairs], int]:
    """Slots of each tag, and the end of the last one.

    Raises CommandFailed with file and line of every fault.

    The first line names the columns: ``time``, then tags. A row holds the start of a slot (ISO
    8601, UTC where it says no offset) and a value a point: a number, a state's name, or nothing
    where the schedule says nothing. A last row without any value is the end; else the last slot
    is as long as the one before.

    known   tag -> point, of those that there are
    end_ns  the end, where the caller knows it
    """
    rows = _rows(path)
    header = [name.strip() for name in rows[0]] if rows else []
    if len(header) < 2 or header[0].lower() != TIME or not all(header):
        raise CommandFailed(f"{path}: the first line is `{TIME},TAG,...`: the points' tags")
    if len(set(header)) < len(header):
        raise CommandFailed(f"{path}: a point has two columns")
    faults = _Faults(path)
    columns = _columns(header[1:], known, faults)
    starts: list[int] = []
    points: dict[str, Pairs] = {tag: [] for tag in header[1:]}
    for line, row in enumerate(rows[1:], 2):
        cells = [cell.strip() for cell in row]
        if not any(cells):
            continue
        if len(cells) != len(header):
            faults.add(line, f"{len(cells)} cells, the header has {len(header)}")
            continue
        try:
            start_ns = time_ns(cells[0])
            if starts and start_ns <= starts[-1]:
                faults.add(line, "not later than the line before")
            starts.append(start_ns)
        except ValueError as error:
            faults.add(line, f"{cells[0]!r} is {error}")
        if len(starts) * len(points) > SLOTS_MAX:
            raise CommandFailed(f"{path}: more than {SLOTS_MAX} slots; use several schedules")
        for point, cell in zip(columns, cells[1:], strict=True):
            if point is not None:
                value = _value(point, cell, line, faults)
                points[point.tag].append([starts[-1] if starts else 0, value])
    faults.end()
    return _ended(path, starts, points, end_ns)


def _columns(
    tags: Sequence[str], known: Mapping[str, PointDef], faults: _Faults
) -> list[PointDef | None]:
    """The point of each column; None where no value of it can be taken."""
    suggestions, columns = Suggestions(), []
    for tag in tags:
        point = known.get(tag)
        if point is None:
            faults.add(1, f"{tag}: no such point. {suggestions.nearest(tag, known)}")
        elif not point.is_output:
            faults.add(1, f"{tag}: not an output")
        columns.append(point if point is not None and point.is_output else None)
    return columns


def _value(point: PointDef, cell: str, line: int, faults: _Faults) -> float | None:
    if not cell:
        return None
    try:
        value = parse_value(cell, point.states, point.tag)
        check_value(point, value)
    except CommandFailed as error:
        faults.add(line, f"{point.tag}: {error.message}")
        return None
    except CommandRefused as refusal:
        faults.add(line, f"{point.tag}: {cell}: {refusal}")
        return None
    return value


def _rows(path: Path) -> list[list[str]]:
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise CommandFailed(f"{path}: more than {FILE_BYTES_MAX} bytes")
        with path.open(newline="", encoding="utf-8-sig") as file:
            return list(csv.reader(file))
    except OSError as error:
        raise CommandFailed(f"{path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise CommandFailed(f"{path}: no CSV file: {error}") from None


def _ended(
    path: Path, starts: Sequence[int], points: dict[str, Pairs], end_ns: int | None
) -> tuple[dict[str, Pairs], int]:
    """The end: what was given, the last row where it has no value, or one more slot."""
    if len(starts) > 1 and all(pairs[-1][1] is None for pairs in points.values()):
        points = {tag: pairs[:-1] for tag, pairs in points.items()}
        return points, starts[-1] if end_ns is None else end_ns
    if end_ns is None and len(starts) < 2:
        raise CommandFailed(f"{path}: one slot has no length of its own: say --end")
    return points, end_ns if end_ns is not None else 2 * starts[-1] - starts[-2]
