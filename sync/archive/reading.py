"""How values of a point are found in the blocks of a file and in what is not yet written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sync.archive.file import ArchiveFile, Head
from sync.archive.tail import Piece

VALUE: Final = np.dtype([("utc_ns", "i8"), ("value", "f8"), ("status", "u4")])
FAN: Final = 16  # blocks of a level that become one of the next
FAN_MIN: Final = 4  # where more would be too large
LEVEL_MAX: Final = 4
LOOK_BLOCKS: Final = 400  # the newest ones; older ones stay as they are


@dataclass(frozen=True, slots=True)
class Wish:
    """Values of a point with start <= time < end, see `AsyncArchive.read`."""

    point: int
    start_ns: int
    end_ns: int
    limit: int
    skip: int
    reverse: bool


def read(file: ArchiveFile, wish: Wish, tail: Sequence[Piece]) -> NDArray:
    """(n,) VALUE rows; `tail` is what may not be written yet."""
    start_ns, end_ns = wish.start_ns, wish.end_ns
    found = []
    fresh = [piece.rows for piece in tail if piece.number > file.turn and len(piece.rows)]
    if fresh:
        rows = np.concatenate(fresh)
        rows = rows[rows["point"] == wish.point]
        found.append((file.turn + 1, 0, _between(rows, start_ns, end_ns)))
    order = "utc_max DESC" if wish.reverse else "utc_min"
    heads = file.heads(f"WHERE utc_max >= ? AND utc_min < ? ORDER BY {order}", (start_ns, end_ns))
    need = wish.limit + wish.skip if wish.limit else 0
    for head in heads:
        if need and _enough(found, head, need, reverse=wish.reverse):
            break
        directory = file.directory(head.id)
        for at in directory.parts_of(wish.point, start_ns, end_ns) if directory else ():
            rows = file.part(head.id, at)
            rows = rows[rows["point"] == wish.point]
            found.append((head.id, at, _between(rows, start_ns, end_ns)))
    found.sort(key=lambda entry: entry[:2])  # equal times stand as they came
    parts = [rows for _, _, rows in found if len(rows)]
    if not parts:
        return np.zeros(0, dtype=VALUE)
    whole = np.concatenate(parts)
    whole = whole[np.argsort(whole["utc_ns"], kind="stable")]
    whole = whole[::-1] if wish.reverse else whole
    whole = whole[wish.skip : need or None]
    values = np.empty(len(whole), dtype=VALUE)
    for name in VALUE.names or ():
        values[name] = whole[name]
    return values


def _between(rows: NDArray[np.void], start_ns: int, end_ns: int) -> NDArray[np.void]:
    found: NDArray[np.void] = rows[(rows["utc_ns"] >= start_ns) & (rows["utc_ns"] < end_ns)]
    return found


def _enough(
    found: Sequence[tuple[int, int, NDArray[np.void]]], head: Head, need: int, *, reverse: bool
) -> bool:
    """True where nothing of this block or of those behind it can be among the first `need`."""
    if sum(len(rows) for _, _, rows in found) < need:
        return False
    count = 0
    for _, _, rows in found:
        times = rows["utc_ns"]
        sure = times > head.utc_max if reverse else times < head.utc_min
        count += int(np.count_nonzero(sure))
    return count >= need


def to_merge(heads: Sequence[Head], rows_max: int) -> list[Head]:
    """The first run of neighbours that shall become one block; empty where there is none.

    heads  in the order of their ids
    """
    run: list[Head] = []
    for head in heads:
        if run and head.level == run[0].level < LEVEL_MAX:
            if sum(one.rows for one in run) + head.rows <= rows_max:
                run.append(head)
                if len(run) == FAN:
                    return run
                continue
            if len(run) >= FAN_MIN:
                return run
        run = [head]
    return []
