"""From the command line's DATA to a history: which format it has, and folders of files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from gateway.cli.history import Column, Columns, History, TimeOrder
from gateway.cli.history_csv import CsvHistory
from gateway.cli.history_parquet import ParquetHistory
from gateway.cli.history_records import HistorianHistory, StoreHistory, kind_of
from gateway.cli.output import CommandFailed
from gateway.core.paths import StatePaths
from safety.replay import Block

_SUFFIXES: Final = (".csv", ".csv.gz", ".parquet", ".pq")
_SQLITE: Final = b"SQLite format 3\x00"
_PARQUET: Final = b"PAR1"
_PARQUET_SUFFIXES: Final = (".parquet", ".pq")


def open_history(path: Path, known: Columns, gateway: str, from_ns: int | None) -> History:
    """The history in a file or folder.

    gateway  whose values, where a historian has several
    from_ns  what lies well before needs no reading
    Raises CommandFailed.
    """
    if path.is_dir():
        store = StatePaths(path).store
        if store.is_file():
            return StoreHistory(store, known)
        files = sorted(f for f in path.iterdir() if f.name.lower().endswith(_SUFFIXES))
        if not files:
            told = "no store (link.sqlite) and no file *.csv, *.csv.gz or *.parquet in it"
            raise CommandFailed(f"{path}: {told}")
        return _Files([_open_file(file, known, gateway, from_ns) for file in files], files)
    return _open_file(path, known, gateway, from_ns)


def _open_file(path: Path, known: Columns, gateway: str, from_ns: int | None) -> History:
    try:
        with path.open("rb") as file:
            head = file.read(len(_SQLITE))
    except OSError as error:
        raise CommandFailed(f"{path}: {error.strerror}") from error
    if head.startswith(_PARQUET):
        return ParquetHistory(path, known)
    if path.name.lower().endswith(_PARQUET_SUFFIXES):
        raise CommandFailed(
            f"{path}: no Parquet file: it does not begin with PAR1; it is damaged, or something "
            "else, which needs its own ending, such as .csv"
        )
    if head != _SQLITE:
        return CsvHistory(path, known)
    kind = kind_of(path)
    if kind == "store":
        return StoreHistory(path, known)
    if kind == "historian":
        return HistorianHistory(path, known, gateway, from_ns)
    raise CommandFailed(f"{path}: an SQLite file, but neither a gateway's store nor a historian's")


class _Files:
    """Files whose histories follow one another, in the order of their names."""

    by_exception = False

    def __init__(self, parts: Sequence[History], files: Sequence[Path]) -> None:
        self.warnings: list[str] = []
        self._parts = parts
        self._files = files
        tags: dict[str, Column] = {}
        for part in parts:
            for column in part.columns:
                tags.setdefault(column.tag, column)
        self.columns: Sequence[Column] = tuple(tags.values())
        self._at = {tag: at for at, tag in enumerate(tags)}

    def pieces(self) -> Iterator[Block]:
        """The blocks of all files. Raises CommandFailed where two of them overlap."""
        order = TimeOrder()
        count = len(self._parts)
        for number, (part, file) in enumerate(zip(self._parts, self._files, strict=True)):
            at = np.array([self._at[column.tag] for column in part.columns], dtype=np.int32)
            for block in part.pieces():
                if len(block.times) and order.goes_back(block.times[:1]) is not None:
                    raise CommandFailed(
                        f"{file}: begins before {self._files[number - 1].name} ends; name the "
                        "files so that their order is that of time"
                    )
                if len(block.times):
                    order.goes_back(block.times[-1:])
                yield replace(block, columns=at[block.columns], done=(number + block.done) / count)
            self.warnings += [f"{file.name}: {warning}" for warning in part.warnings]
