"""The contents of a store as CSV or Parquet: a row a value, or a row an event.

What is written can be read again by `gatepost replay`. It is written beside and renamed at the
end, so that a file of the name is always whole.
"""

from __future__ import annotations

import contextlib
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TextIO

import numpy as np
from numpy.typing import NDArray

from config import status
from gateway.cli.output import CommandFailed, counted
from gateway.core.records import Batch

if TYPE_CHECKING:
    from sync.store.reader import StoreReader

ROWS_MAX: Final = 200_000  # of one piece that is written
VALUE_COLUMNS: Final = ("time", "tag", "value", "status", "units", "epoch", "seq")
EVENT_COLUMNS: Final = ("time", "kind", "body", "epoch", "seq")
_SUFFIXES: Final = (".csv", ".parquet")


@dataclass(frozen=True, slots=True)
class Selected:
    """Which values: of some tags or of all, `from_ns` <= time < `to_ns`."""

    tags: frozenset[str]
    from_ns: int | None
    to_ns: int | None

    def times(self, utc_ns: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(n,) times -> which of them are chosen."""
        low = -(2**63) if self.from_ns is None else self.from_ns
        high = 2**63 - 1 if self.to_ns is None else self.to_ns - 1
        chosen: NDArray[np.bool_] = (utc_ns >= low) & (utc_ns <= high)
        return chosen


@dataclass
class Told:
    """What was written, and what should be known of it."""

    rows: int = 0
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Columns:
    """Rows to be written, column by column, in the order of VALUE_COLUMNS or EVENT_COLUMNS.

    times  (n,) i8, nanoseconds since 1970 in UTC
    """

    times: NDArray[np.int64]
    others: Sequence[Any]


class Writer(Protocol):
    """A file under way."""

    def write(self, piece: Columns) -> None:
        """Append rows."""

    def close(self) -> None:
        """Write the end."""


def exported(reader: StoreReader, out: Path | None, selected: Selected, *, events: bool) -> Told:
    """Write what is selected to a file, or as CSV to standard output. Raises CommandFailed."""
    _need_known(reader, selected.tags)
    told = Told()
    pieces = _events(reader, selected, told) if events else _values(reader, selected, told)
    names = EVENT_COLUMNS if events else VALUE_COLUMNS
    if out is None:
        _write(_CsvWriter(sys.stdout, names), pieces, told)
        return told
    if out.suffix.lower() not in _SUFFIXES:
        raise CommandFailed(f"{out}: name it *.csv or *.parquet")
    part = out.with_name(f".{out.name}.part")
    done = False
    try:
        with contextlib.ExitStack() as stack:
            if out.suffix.lower() == ".parquet":
                writer: Writer = _ParquetWriter(part, names)
            else:
                file = stack.enter_context(part.open("w", encoding="utf-8", newline=""))
                writer = _CsvWriter(file, names)
            _write(writer, pieces, told)
        part.replace(out)
        done = True
    except OSError as error:
        raise CommandFailed(f"{out}: {error.strerror or error}") from error
    finally:
        if not done:
            part.unlink(missing_ok=True)
    return told


def _need_known(reader: StoreReader, tags: frozenset[str]) -> None:
    """Raises CommandFailed for a tag that no point table of the store has."""
    from gateway.local import nearest_point
    from sync.wire import WireError

    known: set[str] = set()
    for body in reader.births().values() if tags else ():
        with contextlib.suppress(WireError):
            known.update(_table(body)[0].tolist())
    known.discard("?")
    for tag in sorted(tags - known) if known else ():  # of lost tables there is a warning
        remedy = nearest_point(tag, sorted(known))
        raise CommandFailed(f"--tag {tag}: the store knows no such point. {remedy}")


def _write(writer: Writer, pieces: Iterator[Columns], told: Told) -> None:
    with contextlib.closing(writer):
        for piece in pieces:
            if len(piece.times):
                writer.write(piece)
                told.rows += len(piece.times)


# ---------------------------------------------------------------- rows


def _batches(reader: StoreReader, told: Told) -> Iterator[Batch]:
    """What can be read; what can't, and what is declared as lost, is counted."""
    from sync.errors import StoreDamaged

    lost = frames = 0
    expected = 0
    with contextlib.suppress(StoreDamaged):
        expected = 0 if reader.in_use else reader.left().frames
    for batch in reader.readable():
        frames += 1
        lost += sum((gap.last or gap.first) - gap.first + 1 for gap in batch.gaps)
        yield batch
    if lost:
        told.warnings.append(f"{counted(lost, 'number')} of the stream are declared as lost")
    if reader.damaged:
        told.warnings.append(f"{reader.damaged}: what can be read is written, the rest is left out")
    elif frames < expected:
        told.warnings.append(f"{counted(expected - frames, 'frame')} can't be read: damaged")


def _values(reader: StoreReader, selected: Selected, told: Told) -> Iterator[Columns]:
    from sync.wire import WireError

    tables: dict[str, tuple[NDArray[Any], NDArray[Any]]] = {}
    known = reader.births()
    homeless = 0
    for batch in _batches(reader, told):
        rows = batch.records
        if not len(rows):
            continue
        if batch.birth not in tables and batch.birth in known:
            with contextlib.suppress(WireError):
                tables[batch.birth] = _table(known[batch.birth])
        if batch.birth not in tables:
            homeless += len(rows)
            continue
        tags, units = tables[batch.birth]
        at = np.minimum(rows["point"], len(tags) - 1)
        keep = selected.times(rows["utc_ns"])
        if selected.tags:
            keep &= np.isin(tags[at], list(selected.tags))
        rows, at = rows[keep], at[keep]
        codes = [status.name_of(int(code)) for code in rows["status"]]
        epochs = [batch.epoch] * len(rows)
        others = (tags[at], rows["value"], codes, units[at], epochs, rows["seq"])
        yield Columns(rows["utc_ns"], others)
    if homeless:
        told.warnings.append(f"{counted(homeless, 'value')} left out: their point table is lost")


def _table(body: bytes) -> tuple[NDArray[Any], NDArray[Any]]:
    """Tags and units by the number of a point; a number that is in no table has none."""
    from sync.wire import decode_birth

    points = decode_birth(body).points
    size = max((int(p["index"]) for p in points), default=0) + 2
    tags, units = np.full(size, "?", dtype=object), np.full(size, "", dtype=object)
    for point in points:
        tags[point["index"]] = str(point["tag"])
        units[point["index"]] = str(point.get("units", ""))
    return tags, units


def _events(reader: StoreReader, selected: Selected, told: Told) -> Iterator[Columns]:
    """Events, and the gaps as events without a time of their own: that of what is beside them."""
    for batch in _batches(reader, told):
        rows: list[tuple[int, str, str, int, int]] = []
        for event in batch.events:
            body = json.dumps(dict(event.body), ensure_ascii=False, default=str)
            rows.append((event.utc_ns, event.kind, body, batch.epoch, event.seq))
        times = [int(n) for n in batch.records["utc_ns"][:1]] + [row[0] for row in rows]
        for gap in batch.gaps:
            body = json.dumps({"last": gap.last or None, "reason": gap.reason})
            rows.append((min(times, default=0), "gap", body, batch.epoch, gap.first))
        rows.sort(key=lambda row: row[4])
        utc_ns = np.array([row[0] for row in rows], dtype=np.int64)
        keep = np.flatnonzero(selected.times(utc_ns)).tolist()
        others = [[rows[at][column] for at in keep] for column in range(1, 5)]
        yield Columns(utc_ns[keep], others)


# ---------------------------------------------------------------- files


class _CsvWriter:
    """CSV with a header; no number is an empty field, a float keeps all its digits."""

    def __init__(self, file: TextIO, names: Sequence[str]) -> None:
        self._rows = csv.writer(file)
        self._rows.writerow(names)

    def write(self, piece: Columns) -> None:
        """See `Writer`."""
        times = np.datetime_as_string(piece.times.astype("datetime64[ns]"), timezone="UTC")
        columns = [[_cell(cell) for cell in _plain(column)] for column in piece.others]
        self._rows.writerows(zip(times.tolist(), *columns, strict=True))

    def close(self) -> None:
        """See `Writer`."""


def _plain(column: Any) -> Any:
    return column.tolist() if isinstance(column, np.ndarray) else column


def _cell(cell: Any) -> Any:
    if isinstance(cell, float):
        return repr(cell) if cell == cell else ""
    return cell


class _ParquetWriter:
    """Parquet with times of a nanosecond in UTC; no number is null."""

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        import pyarrow
        import pyarrow.parquet

        self._arrow = pyarrow
        word = pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
        kinds = {
            "time": pyarrow.timestamp("ns", tz="UTC"),
            "tag": word,
            "value": pyarrow.float64(),
            "status": word,
            "units": word,
            "kind": word,
            "body": pyarrow.string(),
            "epoch": pyarrow.int64(),
            "seq": pyarrow.int64(),
        }
        self._schema = pyarrow.schema([(name, kinds[name]) for name in names])
        self._file = pyarrow.parquet.ParquetWriter(path, self._schema, compression="zstd")
        self._waiting: list[Any] = []
        self._count = 0

    def write(self, piece: Columns) -> None:
        """See `Writer`. Rows wait until they make a group of some size."""
        columns = [self._arrow.array(piece.times, self._schema[0].type)]
        for column, kind in zip(piece.others, self._schema.types[1:], strict=True):
            plain = kind.value_type if self._arrow.types.is_dictionary(kind) else kind
            made = self._arrow.array(column, plain, from_pandas=True)
            columns.append(made.dictionary_encode() if plain is not kind else made)
        self._waiting.append(self._arrow.table(columns, schema=self._schema))
        self._count += len(piece.times)
        if self._count >= ROWS_MAX:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._file.write_table(self._arrow.concat_tables(self._waiting).unify_dictionaries())
        self._waiting, self._count = [], 0

    def close(self) -> None:
        """See `Writer`."""
        self._flush()
        self._file.close()
