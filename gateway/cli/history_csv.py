"""CSV files as history: a column a point, or a row a value."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gateway.cli import history
from gateway.cli.history import Column, Columns, Grid, Names, TimeOrder, status_code
from gateway.cli.output import CommandFailed, counted
from gateway.cli.times import TimeError, TimeReader
from safety.replay import Block

CELLS_MAX: Final = 200_000  # of one piece: text takes more memory than numbers
CHARACTERS_MAX: Final = 16_000_000  # of one line, and about of one piece
_GZIP: Final = b"\x1f\x8b"
_DELIMITERS: Final = ",;\t|"


class CsvHistory:
    """One CSV file, plain or gzip.

    Wide: a column of times and a column a point; an empty cell is no sample. Long: columns for
    time, tag and value, and maybe status. The first line names the columns.
    """

    by_exception = False

    def __init__(self, path: Path, known: Columns) -> None:
        """Reads the header. Raises CommandFailed."""
        self.path = path
        self.warnings: list[str] = []
        self._known = known
        self._times = TimeReader()
        self._order = TimeOrder()
        with _Lines(path) as lines:
            self._header = lines.header
        low = [name.strip().lower() for name in self._header]
        self._time_at = next((low.index(n) for n in history.TIME_NAMES if n in low), 0)
        places = [
            next((low.index(n) for n in names if n in low), -1)
            for names in (history.TAG_NAMES, history.VALUE_NAMES, history.STATUS_NAMES)
        ]
        self._tag_at, self._value_at, self._status_at = places
        self.is_long = min(self._tag_at, self._value_at) >= 0
        self._names = Names(known) if self.is_long else None
        self._used: list[tuple[int, Column]] = []
        if self._names is None:
            self._find_columns()
        else:
            self.columns: Sequence[Column] = self._names.every

    def _find_columns(self) -> None:
        for at, name in enumerate(self._header):
            column = self._known.find(name) if at != self._time_at else None
            if column is not None:
                self._used.append((at, column))
        self.columns = [column for _, column in self._used]
        history.need_columns(self.path, self.columns, self._known)

    def pieces(self) -> Iterator[Block]:
        """Blocks of bounded size. Raises CommandFailed, with the line."""
        self._order = TimeOrder()
        count = max(1, CELLS_MAX // len(self._header))
        grid = Grid()
        with _Lines(self.path) as lines:
            while True:
                numbers, rows = lines.take(count)
                if not rows:
                    break
                columns: list[Any] = list(zip(*rows, strict=True))
                times = self._read_times(columns[self._time_at], numbers)
                if self._names is None:
                    yield self._wide(grid, times, columns, numbers, lines.done)
                else:
                    yield self._long(self._names, times, columns, numbers, lines.done)
        if self._times.epoch_unit:
            self.warnings.append(f"times are read as {self._times.epoch_unit} since 1970")
        if self._order.repeated and not self.is_long:
            told = counted(self._order.repeated, "time")
            self.warnings.append(f"{told} stood there before; the later line counts")

    def _wrong(self, line: int, what: str) -> CommandFailed:
        return CommandFailed(f"{self.path}, line {line}: {what}")

    def _read_times(self, texts: Sequence[str], numbers: Sequence[int]) -> NDArray[np.int64]:
        try:
            times = self._times.read(texts)
        except TimeError as error:
            name = self._header[self._time_at] or "the first column"
            raise self._wrong(numbers[error.at], f"{name}: {error}") from error
        at = self._order.goes_back(times)
        if at is not None:
            remedy = (
                "sort the file by time; local times go back at the end of summer time, so give "
                "them in UTC or with their offset"
            )
            raise self._wrong(numbers[at], f"{texts[at]} is before the time above it: {remedy}")
        return times

    def _wide(
        self,
        grid: Grid,
        times: NDArray[np.int64],
        columns: Sequence[Sequence[str]],
        numbers: Sequence[int],
        done: float,
    ) -> Block:
        values: list[NDArray[np.float64]] = []
        missing: list[NDArray[np.bool_] | None] = []
        for at, column in self._used:
            texts = columns[at]
            gone = None
            try:
                found = np.array(texts, dtype=np.float64)
            except ValueError:
                gone = np.array([not text or text.isspace() for text in texts])
                found = np.full(len(texts), np.nan)
                for row in np.flatnonzero(~gone).tolist():
                    found[row] = self._number(column, texts[row], numbers[row])
            values.append(column.scaled(found))
            missing.append(gone if gone is not None and gone.any() else None)
        return grid.block(times, values, missing, done)

    def _number(self, column: Column, text: str, line: int) -> float:
        try:
            return column.number(text)
        except ValueError:
            states = f", nor one of its states {history.listed(column.states)}"
            comma = "; write numbers with a decimal point" if "," in text else ""
            what = f"{text!r} is no number{states if column.states else ''}{comma}"
            raise self._wrong(line, f"{column.name}: {what}") from None

    def _long(
        self,
        names: Names,
        times: NDArray[np.int64],
        columns: Sequence[Sequence[str]],
        numbers: Sequence[int],
        done: float,
    ) -> Block:
        found = [names.find(name) for name in columns[self._tag_at]]
        ids = np.array([at for at, _ in found], dtype=np.int32)
        texts = columns[self._value_at]
        values = np.full(len(texts), np.nan)
        there = np.ones(len(texts), dtype=np.bool_)
        codes = np.zeros(len(texts), dtype=np.uint32)
        for row, (_, column) in enumerate(found):
            if column is None:
                there[row] = False
                continue
            text = texts[row]
            if self._status_at >= 0:
                codes[row] = self._status(columns[self._status_at][row], numbers[row])
            if text and not text.isspace():
                number = self._number(column, text, numbers[row])
                values[row] = number * column.scale + column.offset
            elif self._status_at < 0:
                there[row] = False
        keep = there
        starts = np.arange(int(np.count_nonzero(keep)) + 1, dtype=np.int64)
        return Block(times[keep], starts, ids[keep], values[keep], codes[keep], done)

    def _status(self, text: str, line: int) -> int:
        try:
            return status_code(text)
        except ValueError:
            raise self._wrong(line, f"{text!r} is no OPC UA status") from None


class _Lines:
    """The rows of a CSV file in portions, with their line numbers."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> _Lines:
        try:
            self._size = max(1, self._path.stat().st_size)
            self._raw = self._path.open("rb")
        except OSError as error:
            raise CommandFailed(f"{self._path}: {error.strerror}") from error
        self._characters = 0
        self._text = io.TextIOWrapper(self._bytes(), encoding="utf-8-sig", newline="")
        first = self._first_line()
        delimiter = max(_DELIMITERS, key=first.count)
        lines = itertools.chain([first], self._lines())
        self._reader = csv.reader(lines, delimiter=delimiter, strict=True)
        self.header = self._next_row()
        if len(self.header) < 2:
            raise self._wrong(1, "one column only; times and values need one each")
        if all(_is_number(name) for name in self.header):
            raise self._wrong(1, "no names of columns; the first line must have them")
        return self

    def __exit__(self, *_: object) -> None:
        self._text.close()
        self._raw.close()

    def _wrong(self, line: int, what: str) -> CommandFailed:
        self.__exit__()
        return CommandFailed(f"{self._path}, line {line}: {what}")

    def _no_text(self, error: UnicodeDecodeError) -> CommandFailed:
        """Bytes are decoded well ahead of the line that is read, so the line has to be found."""
        self._raw.seek(0)
        lines = enumerate(self._bytes(), 1)
        number = next((n for n, line in lines if not _is_text(line)), 1)
        return self._wrong(number, f"no text in UTF-8: {error.reason}; save the file as UTF-8")

    def _bytes(self) -> Any:
        packed = self._raw.read(len(_GZIP)) == _GZIP
        self._raw.seek(0)
        return gzip.GzipFile(fileobj=self._raw) if packed else self._raw

    def _lines(self) -> Iterator[str]:
        """The lines; a packed file can hold one that no memory takes."""
        while line := self._text.readline(CHARACTERS_MAX):
            if len(line) == CHARACTERS_MAX:
                told = f"longer than {CHARACTERS_MAX} characters"
                raise self._wrong(self._reader.line_num + 1, told)
            self._characters += len(line)
            yield line

    def _first_line(self) -> str:
        try:
            line = self._text.readline(CHARACTERS_MAX)
        except UnicodeDecodeError as error:
            raise self._no_text(error) from error
        except (OSError, EOFError) as error:
            raise self._wrong(1, f"can't be read: {error}") from error
        if len(line) == CHARACTERS_MAX:
            raise self._wrong(1, f"longer than {CHARACTERS_MAX} characters")
        if not line.strip():
            raise self._wrong(1, "it is empty; the first line must name the columns")
        return line

    def _next_row(self) -> list[str]:
        """One row, empty lines left out; [] at the end."""
        try:
            for row in self._reader:
                if row:
                    return row
        except csv.Error as error:
            raise self._wrong(self._reader.line_num, str(error)) from error
        except UnicodeDecodeError as error:
            raise self._no_text(error) from error
        except (OSError, EOFError) as error:
            raise self._wrong(self._reader.line_num + 1, f"can't be read: {error}") from error
        return []

    @property
    def done(self) -> float:
        """How much of the file has been read, 0 to 1."""
        return min(1.0, self._raw.tell() / self._size)

    def take(self, count: int) -> tuple[list[int], list[list[str]]]:
        """Up to `count` rows, each as wide as the header, and the lines that they end on."""
        numbers: list[int] = []
        rows: list[list[str]] = []
        width = len(self.header)
        enough = self._characters + CHARACTERS_MAX
        while len(rows) < count and self._characters < enough and (row := self._next_row()):
            if len(row) != width:
                what = f"{len(row)} cells in place of the header's {width}"
                raise self._wrong(self._reader.line_num, what)
            rows.append(row)
            numbers.append(self._reader.line_num)
        return numbers, rows


def _is_text(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
