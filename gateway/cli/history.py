"""Recorded history for a replay: which column is which point, and blocks in the order of time.

The readers of the single formats stand in history_csv.py, history_parquet.py and
history_records.py. Each yields pieces of bounded size; nothing here holds a whole file.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from config import status, units
from config.points import PointDef, state_number
from gateway.cli.output import CommandFailed
from safety.replay import Block

SAMPLES_MAX: Final = 500_000  # of one piece, but for a single time
NAMES_MAX: Final = 200_000  # names of points in one history that are remembered
LISTED_MAX: Final = 8  # names that a message lists

# What a cell may say in place of a number, in any case. An empty cell is no sample at all.
BAD_WORDS: Final = frozenset(("nan", "null", "none", "n/a", "na", "bad", "#n/a", "-nan"))
TRUE_WORDS: Final = {"true": 1.0, "on": 1.0, "false": 0.0, "off": 0.0}
TIME_NAMES: Final = (
    *("time", "timestamp", "datetime", "date_time", "utc", "time_utc", "utc_ns", "date", "ts"),
    *("measured_on", "__index_level_0__", "index", ""),
)
TAG_NAMES: Final = ("tag", "point", "name", "channel", "signal")
VALUE_NAMES: Final = ("value", "val", "reading")
STATUS_NAMES: Final = ("status", "quality", "statuscode")

_WITH_UNIT: Final = re.compile(r"(?P<name>.*\S)\s*[\[(](?P<unit>[^\[\]()]*)[\])]")


@dataclass(frozen=True, slots=True)
class Column:
    """How the numbers of one column become values of a point: ``value * scale + offset``."""

    name: str
    tag: str
    scale: float = 1.0
    offset: float = 0.0
    states: tuple[str, ...] = ()

    @property
    def as_it_is(self) -> bool:
        """True where the numbers are the point's own."""
        return self.scale == 1.0 and self.offset == 0.0

    def scaled(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N,) numbers of the column -> (N,) values of the point."""
        return values if self.as_it_is else values * self.scale + self.offset

    def number(self, text: str) -> float:
        """A cell that is no plain number: a state, a word for a bad value. Raises ValueError."""
        word = text.strip()
        if word.lower() in BAD_WORDS:
            return math.nan
        found = state_number(self.states, word)
        if found is not None:
            return float(found)
        if word.lower() in TRUE_WORDS:
            return TRUE_WORDS[word.lower()]
        return float(word)


class History(Protocol):
    """One recorded history.

    columns       what the columns of its pieces are
    by_exception  it holds changes and heartbeats, not every sample
    warnings      what is odd about it, in words; complete after the last piece
    """

    columns: Sequence[Column]
    by_exception: bool
    warnings: list[str]

    def pieces(self) -> Iterator[Block]:
        """Blocks whose times don't go back, but may repeat. Raises CommandFailed."""


# ---------------------------------------------------------------- columns to points


class Columns:
    """Which point a column's name means, for one or two sites."""

    def __init__(self, points: Sequence[PointDef], given: Mapping[str, Any], source: str) -> None:
        """`given` is what a map file holds: name of a column -> tag, or tag with its scaling."""
        self._points = {point.tag: point for point in points}
        self._given = given
        self._source = source
        self.unknown: list[str] = []
        self.calculated: list[str] = []
        self._seen: set[str] = set()  # names of `given` that the data have
        for name, entry in given.items():
            self._check(name, entry)

    def _check(self, name: str, entry: Any) -> None:
        tag = entry.get("Tag") if isinstance(entry, Mapping) else entry
        if tag is None and not isinstance(entry, Mapping):
            return
        if not isinstance(tag, str):
            wanted = 'a tag, null, or {"Tag": ..., "Unit": ..., "Scalar": ..., "Offset": ...}'
            raise CommandFailed(f"{self._source}: {name}: {wanted}")
        if tag not in self._points:
            raise CommandFailed(f"{self._source}: {name}: the site has no point {tag}")
        if isinstance(entry, Mapping):
            odd = set(entry) - {"Tag", "Unit", "Scalar", "Offset"}
            numbers = [entry.get(key, 0.0) for key in ("Scalar", "Offset")]
            wrong = [n for n in numbers if isinstance(n, bool) or not isinstance(n, int | float)]
            if odd or wrong or not isinstance(entry.get("Unit", ""), str):
                what = f"unknown key {min(odd)}" if odd else "a wrong type"
                raise CommandFailed(f"{self._source}: {name}: {what}")

    @property
    def absent(self) -> str:
        """Which columns of the map the data don't have, in words; complete after the last piece."""
        names = [n for n, entry in self._given.items() if entry is not None and n not in self._seen]
        return f"{self._source} maps columns that the data lack: {listed(names)}" if names else ""

    def find(self, name: str, unit: str = "") -> Column | None:
        """The column of a name; None where it is no point, or one that the replay calculates.

        unit  what the file says that its numbers are in; a unit in brackets behind the name too
        Raises CommandFailed where the unit can't be the point's.
        """
        entry: Any = None
        plain = name.strip()
        if plain in self._given:
            entry = self._given[plain]
            self._seen.add(plain)
            if entry is None:
                return None
        elif plain not in self._points:
            with_unit = _WITH_UNIT.fullmatch(plain)
            if with_unit:
                plain, unit = with_unit["name"], with_unit["unit"] or unit
            entry = self._given.get(plain)
            self._seen.add(plain)
        scaling = entry if isinstance(entry, Mapping) else {}
        tag = scaling.get("Tag", entry or plain)
        point = self._points.get(tag)
        if point is None:
            self.unknown.append(name)
            return None
        if not _can_be_given(point):
            self.calculated.append(tag)
            return None
        return self._in_units(Column(name, tag, states=point.states), point, scaling, unit)

    def every(self) -> tuple[Column, ...]:
        """A column for every point that a history can give: for formats that name points by row."""
        points = filter(_can_be_given, self._points.values())
        return tuple(Column(point.tag, point.tag, states=point.states) for point in points)

    def _in_units(
        self, column: Column, point: PointDef, scaling: Mapping[str, Any], unit: str
    ) -> Column:
        if "Scalar" in scaling or "Offset" in scaling:
            # As in the files of a site: value = (raw + Offset) * Scalar.
            scale = float(scaling.get("Scalar", 1.0))
            return replace(column, scale=scale, offset=float(scaling.get("Offset", 0.0)) * scale)
        have, want = units.unit_of(scaling.get("Unit", unit)), units.unit_of(point.units)
        if have is None or want is None or have.symbol == want.symbol:
            return column
        if have.dimension is None or have.dimension != want.dimension:
            raise CommandFailed(
                f"{column.name}: its unit {have.symbol} can't become {want.symbol} of {point.tag}; "
                "correct the unit, or give Scalar and Offset with --map"
            )
        scale = have.scale / want.scale
        return replace(column, scale=scale, offset=(have.zero - want.zero) / want.scale)


def _can_be_given(point: PointDef) -> bool:
    """Not what the rules calculate; the point of a machine of control states asks for states."""
    return point.source in ("device", "gateway") or (point.source == "rule" and point.writable)


class Names:
    """Names of points as they come row by row -> position in `Columns.every`, and the scaling."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self.every = columns.every()
        self._at = {column.tag: at for at, column in enumerate(self.every)}
        self._known: dict[str, tuple[int, Column | None]] = {}

    def find(self, name: str) -> tuple[int, Column | None]:
        """(position, column); (-1, None) where the name is no point."""
        found = self._known.get(name)
        if found is None:
            column = self._columns.find(name)
            found = (-1, None) if column is None else (self._at[column.tag], column)
            if len(self._known) < NAMES_MAX:
                self._known[name] = found
        return found


def read_map(file: Path | None) -> Mapping[str, Any]:
    """A map file: one JSON object, name of a column -> tag. Raises CommandFailed."""
    if file is None:
        return {}
    try:
        data = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise CommandFailed(f"{file}: {error.strerror}") from error
    except ValueError as error:
        raise CommandFailed(f"{file}: no JSON: {error}") from error
    if not isinstance(data, dict):
        raise CommandFailed(f'{file}: one object, such as {{"T_stack": "Stack.Temperature"}}')
    return data


def need_columns(where: Path, columns: Sequence[Column], known: Columns) -> None:
    """Raises CommandFailed where no column is a point, or two are the same."""
    if not columns:
        names = listed(known.unknown) or "none"
        raise CommandFailed(
            f"{where}: no column is a point of the site (columns: {names}); "
            'map them with --map FILE, e.g. {"T_stack": "Stack.Temperature"}'
            + (f"; {known.absent}" if known.absent else "")
        )
    first: dict[str, str] = {}
    for column in columns:
        if column.tag in first:
            raise CommandFailed(
                f"{where}: {first[column.tag]} and {column.name} are both {column.tag}; "
                "leave one out with --map: null in place of a tag"
            )
        first[column.tag] = column.name


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - LISTED_MAX
    return ", ".join(names[:LISTED_MAX]) + (f" and {more} more" if more > 0 else "")


# ---------------------------------------------------------------- blocks


class TimeOrder:
    """Sees that times don't go back from piece to piece, and counts those that stand twice."""

    def __init__(self) -> None:
        self.repeated = 0
        self._last_ns: int | None = None

    def goes_back(self, times: NDArray[np.int64]) -> int | None:
        """Position of the first time that is before the one above it; None where all is well."""
        before = times[0] - 1 if self._last_ns is None else self._last_ns
        steps = np.diff(times, prepend=before)
        if (steps < 0).any():
            return int(np.flatnonzero(steps < 0)[0])
        self.repeated += int(np.count_nonzero(steps == 0))
        self._last_ns = int(times[-1])
        return None


class Grid:
    """Makes blocks of columns that have a value at every time; keeps what all blocks share."""

    def __init__(self) -> None:
        self._ids: NDArray[np.int32] = np.zeros(0, dtype=np.int32)
        self._codes: NDArray[np.uint32] = np.zeros(0, dtype=np.uint32)
        self._matrix: NDArray[np.float64] = np.empty((0, 0))
        self._width = -1

    def block(
        self,
        times: NDArray[np.int64],
        values: Sequence[NDArray[np.float64]],
        missing: Sequence[NDArray[np.bool_] | None],
        done: float,
    ) -> Block:
        """Columns of (T,) values side by side; `missing` has (T,) bool where some aren't there."""
        height, width = len(times), len(values)
        size = height * width
        if len(self._ids) < size or self._width != width:
            self._ids = np.tile(np.arange(width, dtype=np.int32), height)
            self._codes = np.zeros(size, dtype=np.uint32)
            self._width = width
        samples = self._interleaved(values, height)
        starts = np.arange(0, size + 1, width, dtype=np.int64)
        ids, codes = self._ids[:size], self._codes[:size]
        if any(gone is not None for gone in missing):
            present = np.ones((height, width), dtype=np.bool_)
            for at, gone in enumerate(missing):
                if gone is not None:
                    present[:, at] = ~gone
            flat = present.reshape(-1)
            samples, ids, codes = samples[flat], ids[flat], codes[flat]
            starts = np.concatenate(([0], np.cumsum(present.sum(axis=1), dtype=np.int64)))
        return Block(times, starts, ids, samples, codes, done)

    def _interleaved(
        self, values: Sequence[NDArray[np.float64]], height: int
    ) -> NDArray[np.float64]:
        """Columns of (T,) -> (T * C,), time after time."""
        if self._matrix.shape[0] != len(values) or self._matrix.shape[1] < height:
            # Rows a power of two apart would all fall on the same lines of the cache.
            self._matrix = np.empty((len(values), height + 8))
        for row, column in zip(self._matrix, values, strict=True):
            row[:height] = column
        return np.ascontiguousarray(self._matrix[:, :height].T).reshape(-1)


def in_order(history: History, to_ns: int | None) -> Iterator[Block]:
    """The blocks of a history with each time once, up to and with `to_ns`."""
    kept: Block | None = None
    for piece in history.pieces():
        if not len(piece.times):
            continue
        piece = _each_time_once(piece)
        if kept is not None:
            if piece.times[0] == kept.times[-1]:
                kept, piece = _moved(kept, piece)
            if len(kept.times):
                yield kept
        if to_ns is not None and piece.times[-1] > to_ns:
            count = int(np.searchsorted(piece.times, to_ns, side="right"))
            kept = None
            if count:
                yield replace(piece, times=piece.times[:count], starts=piece.starts[: count + 1])
            return
        kept = piece
    if kept is not None:
        yield kept


def _each_time_once(piece: Block) -> Block:
    new = np.ones(len(piece.times), dtype=np.bool_)
    new[1:] = piece.times[1:] != piece.times[:-1]
    if new.all():
        return piece
    starts = np.concatenate((piece.starts[:-1][new], piece.starts[-1:]))
    return replace(piece, times=piece.times[new], starts=starts)


def _moved(left: Block, right: Block) -> tuple[Block, Block]:
    """The last time of the left block to the right one, which begins with the same."""
    at = int(left.starts[-2])
    count = int(left.starts[-1]) - at
    starts = right.starts + count
    starts[0] = 0
    joined = replace(
        right,
        starts=starts,
        columns=np.concatenate((left.columns[at : at + count], right.columns)),
        values=np.concatenate((left.values[at : at + count], right.values)),
        codes=np.concatenate((left.codes[at : at + count], right.codes)),
    )
    return replace(left, times=left.times[:-1], starts=left.starts[:-1]), joined


def status_code(text: str) -> int:
    """A status as files write it: OPC UA's name, a number, good, uncertain or bad.

    Raises ValueError.
    """
    word = text.strip()
    if not word:
        return status.GOOD
    known = {row.name.lower(): row.code for row in status.STATUS_ROWS}
    known |= {"uncertain": status.UNCERTAIN_LAST_USABLE}
    if word.lower() in known:
        return known[word.lower()]
    code = int(word, 16) if word.lower().startswith("0x") else int(word)
    if not 0 <= code < 2**32:
        raise ValueError(word)
    return code
