"""Parquet files as history: a column a point, or a row a value.

Files are read on one core, batch by batch; the columns that no rule can use are never decoded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gateway.cli import history
from gateway.cli.history import Column, Columns, Grid, Names, TimeOrder, status_code
from gateway.cli.output import CommandFailed, counted
from gateway.cli.times import TimeError, TimeReader, epoch_ns, epoch_unit
from safety.replay import Block

ROWS_MAX: Final = 8_192  # of one piece
_UNIT_KEYS: Final = (b"unit", b"units", b"Units")


class ParquetHistory:
    """One Parquet file."""

    by_exception = False

    def __init__(self, path: Path, known: Columns) -> None:
        """Reads the schema. Raises CommandFailed."""
        self.path = path
        self.warnings: list[str] = []
        self._known = known
        self._arrow = _arrow(path)
        self._order = TimeOrder()
        self._texts = TimeReader()
        self._epoch: tuple[str, int] | None = None
        with self._open() as file:
            schema = file.schema_arrow
            self._time = self._time_name(schema)
            low = {name.strip().lower(): name for name in schema.names}
            places = [
                next((low[n] for n in names if n in low), "")
                for names in (history.TAG_NAMES, history.VALUE_NAMES, history.STATUS_NAMES)
            ]
            self._tag, self._value, self._status = places
            self.is_long = bool(self._tag and self._value)
            self._names = Names(known) if self.is_long else None
            self.columns: Sequence[Column] = (
                self._names.every if self._names else self._find_columns(schema)
            )

    def _wrong(self, what: str) -> CommandFailed:
        return CommandFailed(f"{self.path}: {what}")

    def _open(self) -> Any:
        try:
            return self._arrow.parquet.ParquetFile(self.path)
        except OSError as error:
            raise self._wrong(error.strerror or str(error)) from error
        except self._arrow.lib.ArrowInvalid as error:
            raise self._wrong(f"no Parquet file: {error}") from error

    def _time_name(self, schema: Any) -> str:
        low = {name.strip().lower(): name for name in schema.names}
        found = [low[name] for name in history.TIME_NAMES if name in low]
        found += [str(f.name) for f in schema if self._arrow.types.is_timestamp(f.type)]
        if not found:
            raise self._wrong(f"no column of times; call it {history.TIME_NAMES[0]}")
        if schema.names.count(found[0]) > 1:
            raise self._wrong(f"{found[0]}: two columns have this name")
        return found[0]

    def _find_columns(self, schema: Any) -> list[Column]:
        found = []
        for field in schema:
            if field.name != self._time:
                about = field.metadata or {}
                unit = next((about[key].decode() for key in _UNIT_KEYS if key in about), "")
                column = self._known.find(field.name, unit)
                if column is not None:
                    found.append(column)
        history.need_columns(self.path, found, self._known)
        return found

    def pieces(self) -> Iterator[Block]:
        """Blocks of bounded size. Raises CommandFailed, with the row."""
        if self._names is None:
            names = [self._time, *(column.name for column in self.columns)]
        else:
            names = [n for n in (self._time, self._tag, self._value, self._status) if n]
        count = min(ROWS_MAX, max(1, 4 * history.SAMPLES_MAX // len(names)))
        self._order = TimeOrder()
        grid = Grid()
        row = 0
        with self._open() as file:
            total = max(1, file.metadata.num_rows)
            try:
                for batch in file.iter_batches(count, columns=names, use_threads=False):
                    if not batch.num_rows:
                        continue
                    times = self._times(batch.column(self._time), row)
                    row += batch.num_rows
                    if self._names is None:
                        yield self._wide(grid, times, batch, row / total)
                    else:
                        yield self._long(self._names, times, batch, row / total)
            except (OSError, self._arrow.lib.ArrowException) as error:
                raise self._wrong(f"behind row {row}: {error}") from error
        if self._order.repeated and not self.is_long:
            self.warnings.append(
                f"{counted(self._order.repeated, 'time')} stood there before; the later row counts"
            )
        if self._epoch:
            self.warnings.append(f"times are read as {self._epoch[0]} since 1970")

    # ------------------------------------------------------------ times

    def _times(self, array: Any, row: int) -> NDArray[np.int64]:
        if array.null_count:
            at = row + int(np.flatnonzero(array.is_null().to_numpy(zero_copy_only=False))[0])
            raise self._wrong(f"row {at + 1}: no time")
        times = self._as_ns(array, row)
        late = self._order.goes_back(times)
        if late is not None:
            raise self._wrong(f"row {row + late + 1}: time goes back; sort the file by time")
        return times

    def _as_ns(self, array: Any, row: int) -> NDArray[np.int64]:
        types = self._arrow.types
        array = self._plain(array)
        kind = array.type
        if types.is_timestamp(kind) or types.is_date(kind):
            nanoseconds = self._arrow.timestamp("ns")
            if types.is_timestamp(kind):
                array = array.cast(self._arrow.timestamp(kind.unit))  # the zone only names it
            return _numbers(array.cast(nanoseconds)).astype(np.int64)
        if types.is_integer(kind) or types.is_floating(kind):
            numbers = _numbers(array)
            try:
                self._epoch = self._epoch or epoch_unit(float(numbers[0]))
                return epoch_ns(numbers, self._epoch[1])
            except TimeError as error:
                raise self._wrong(f"row {row + error.at + 1}: {self._time}: {error}") from error
            except ValueError as error:
                raise self._wrong(f"row {row + 1}: {self._time}: {error}") from error
        if types.is_string(kind):
            try:
                return self._texts.read(array.to_pylist())
            except TimeError as error:
                raise self._wrong(f"row {row + error.at + 1}: {self._time}: {error}") from error
        raise self._wrong(f"{self._time}: {kind} is no time")

    # ------------------------------------------------------------ values

    def _wide(self, grid: Grid, times: NDArray[np.int64], batch: Any, done: float) -> Block:
        values: list[NDArray[np.float64]] = []
        missing: list[NDArray[np.bool_] | None] = []
        for at, column in enumerate(self.columns, 1):
            array = batch.column(at)
            gone = array.is_null().to_numpy(zero_copy_only=False) if array.null_count else None
            values.append(column.scaled(self._floats(column, array)))
            missing.append(gone)
        return grid.block(times, values, missing, done)

    def _plain(self, array: Any) -> Any:
        """An array without a dictionary, and with one kind of texts."""
        types = self._arrow.types
        if types.is_dictionary(array.type):
            array = array.cast(array.type.value_type)
        texts = types.is_large_string(array.type) or types.is_string_view(array.type)
        return array.cast(self._arrow.string()) if texts else array

    def _floats(self, column: Column, array: Any) -> NDArray[np.float64]:
        """The numbers of one column; NaN where there is none."""
        types = self._arrow.types
        array = self._plain(array)
        kind = array.type
        if types.is_null(kind):
            return np.full(len(array), np.nan)
        if types.is_floating(kind) or types.is_integer(kind) or types.is_boolean(kind):
            if types.is_boolean(kind):
                array = array.cast(self._arrow.int8())
            return _numbers(array).astype(np.float64, copy=False)
        if types.is_decimal(kind):
            return _numbers(array.cast(self._arrow.float64()))
        if not types.is_string(kind):
            raise self._wrong(f"{column.name}: {kind} is no number")
        texts = array.to_pylist()
        numbers = {text: self._number(column, text) for text in set(texts)}
        return np.array([numbers[text] for text in texts])

    def _number(self, column: Column, text: str | None) -> float:
        if text is None or not text.strip():
            return float("nan")
        try:
            return column.number(text)
        except ValueError:
            raise self._wrong(f"{column.name}: {text!r} is no number, no state") from None

    def _long(self, names: Names, times: NDArray[np.int64], batch: Any, done: float) -> Block:
        tags = batch.column(self._tag).to_pylist()
        found = [names.find(str(tag)) for tag in tags]
        ids = np.array([at for at, _ in found], dtype=np.int32)
        array = batch.column(self._value)
        values = self._floats(Column(self._value, ""), array)
        scales = np.array([c.scale if c else 1.0 for _, c in found])
        offsets = np.array([c.offset if c else 0.0 for _, c in found])
        values = values * scales + offsets
        keep = ids >= 0
        codes = np.zeros(len(ids), dtype=np.uint32)
        if self._status:
            texts = [str(code if code is not None else 0) for code in self._codes(batch)]
            known = {text: self._code(text) for text in set(texts)}
            codes = np.array([known[text] for text in texts], dtype=np.uint32)
        elif array.null_count:
            keep &= array.is_valid().to_numpy(zero_copy_only=False)
        starts = np.arange(int(np.count_nonzero(keep)) + 1, dtype=np.int64)
        return Block(times[keep], starts, ids[keep], values[keep], codes[keep], done)

    def _codes(self, batch: Any) -> list[Any]:
        codes: list[Any] = batch.column(self._status).to_pylist()
        return codes

    def _code(self, text: str) -> int:
        try:
            return status_code(text)
        except ValueError:
            raise self._wrong(f"{self._status}: {text!r} is no OPC UA status") from None


def _numbers(array: Any) -> NDArray[Any]:
    """An Arrow array of numbers as numpy's; without a copy where nothing is missing."""
    found: NDArray[Any] = array.to_numpy(zero_copy_only=False)
    return found


def _arrow(path: Path) -> Any:
    """pyarrow, held to one core. Raises CommandFailed where it isn't installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise CommandFailed(
            f"{path}: reading Parquet needs the package pyarrow, which is not installed here; "
            "install it, or convert the file to CSV"
        ) from error
    pyarrow.set_cpu_count(1)
    pyarrow.set_io_thread_count(1)
    return pyarrow
