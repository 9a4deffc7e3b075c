"""What a query of the historian keeps while it reads chunk after chunk. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gateway.core.records import RECORD

_FOUND: Final = np.dtype([("epoch", "i8"), ("row", RECORD)])
_SLACK: Final = 65_536  # rows beyond the limit that are kept before they are cut


class Selection:
    """The first (or last) rows of some points in the order of time, epoch and number."""

    def __init__(
        self,
        points: NDArray[np.uint32],
        from_ns: int | None,
        to_ns: int | None,
        limit: int,
        newest_first: bool,
    ) -> None:
        """`points` are the wanted ones, ascending; `from_ns` <= time < `to_ns`."""
        self._points = points
        self._from_ns, self._to_ns = from_ns, to_ns
        self._limit = limit
        self._newest_first = newest_first
        self._parts: list[NDArray[np.void]] = []
        self._count = 0
        self._bound_ns: int | None = None  # no row behind it can be among the first `limit`

    def is_done(self, utc_min: int, utc_max: int) -> bool:
        """True where neither this chunk nor one behind it can add anything.

        Chunks come in the order of `utc_min`, or from the last `utc_max` on.
        """
        if self._limit == 0:
            return True
        if self._count >= self._limit:
            self._cut()
        if self._bound_ns is None:
            return False
        return utc_max < self._bound_ns if self._newest_first else utc_min > self._bound_ns

    def add(self, epoch: int, rows: NDArray[np.void]) -> None:
        """Take what fits of a chunk."""
        at = np.searchsorted(self._points, rows["point"])
        wanted = self._points[np.minimum(at, len(self._points) - 1)] == rows["point"]
        if self._from_ns is not None:
            wanted &= rows["utc_ns"] >= self._from_ns
        if self._to_ns is not None:
            wanted &= rows["utc_ns"] < self._to_ns
        chosen = rows[wanted]
        if not len(chosen):
            return
        found = np.zeros(len(chosen), dtype=_FOUND)
        found["epoch"], found["row"] = epoch, chosen
        self._parts.append(found)
        self._count += len(found)
        if self._count > self._limit + _SLACK:
            self._cut()

    def _cut(self) -> None:
        """Keep the first `limit` rows."""
        found = np.concatenate(self._parts)
        order = np.lexsort((found["row"]["seq"], found["epoch"], found["row"]["utc_ns"]))
        if self._newest_first:
            order = order[::-1]
        kept = found[order[: self._limit]]
        self._parts, self._count = [kept], len(kept)
        if self._count >= self._limit:
            self._bound_ns = int(kept["row"]["utc_ns"][-1])

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """(point, epoch, seq, value, status, utc_ns) of each row, in order."""
        if not self._parts:
            return iter(())
        self._cut()
        kept = self._parts[0]
        names = ("point", "seq", "value", "status", "utc_ns")
        point, *rest = (kept["row"][name].tolist() for name in names)
        return zip(point, kept["epoch"].tolist(), *rest, strict=True)
