"""The point table: what a PLC calls the process image.

One row a point, in the layout of `config.points.POINT`. Device rows are written by
`gateway.poll` only; rule and gateway rows by `gateway.scan` only. Both run on one event loop
and neither awaits while it writes, so a scan always sees whole blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from config import status
from config.points import NO_POINT, POINT, PointDef


class PointTable:
    """Values, status and stamps of all points of a site."""

    def __init__(self, points: Sequence[PointDef]) -> None:
        """`points` must be numbered 1, 2, 3, ... in order; row 0 is the reserved bad point."""
        assert [p.index for p in points] == list(range(1, len(points) + 1))
        self.points = tuple(points)
        self.rows = np.zeros(len(points) + 1, dtype=POINT)
        self.rows["status"] = status.BAD_WAITING_FOR_INITIAL_DATA
        self.rows["status"][NO_POINT] = status.BAD_CONFIGURATION_ERROR
        self.rows["value"] = np.nan
        self.age_ns_max = np.array([0] + [p.age_ns_max for p in points], dtype=np.int64)
        self.index = {p.tag: p.index for p in points}

    def put(
        self,
        index: NDArray[np.int32] | slice,
        values: NDArray[np.float64],
        codes: NDArray[np.uint32] | int,
        utc_ns: NDArray[np.int64] | int,
        mono_ns: int,
    ) -> None:
        """Write rows: (N,) indexes, (N,) values, status codes and stamps, each (N,) or one."""
        self.rows["value"][index] = values
        self.rows["status"][index] = codes
        self.rows["utc_ns"][index] = utc_ns
        self.rows["mono_ns"][index] = mono_ns

    def put_one(self, index: int, value: float, code: int, utc_ns: int, mono_ns: int) -> None:
        """Write one row."""
        row = self.rows[index]
        row["value"] = value
        row["status"] = code
        row["utc_ns"] = utc_ns
        row["mono_ns"] = mono_ns

    def set_status(self, index: NDArray[np.int32], code: int, utc_ns: int) -> None:
        """Worsen rows without a new value: the value and its monotonic stamp stay.

        A row that was never read stays `BadWaitingForInitialData` whatever the reason is.
        """
        rows = index[self.rows["status"][index] != status.BAD_WAITING_FOR_INITIAL_DATA]
        self.rows["status"][rows] = code
        self.rows["utc_ns"][rows] = utc_ns

    def age(self, now_mono_ns: int, now_utc_ns: int) -> int:
        """Mark as bad what is older than its age limit; returns how many rows changed.

        A row that is bad already keeps its more exact reason.
        """
        rows = self.rows
        stale = (
            (self.age_ns_max > 0)
            & (now_mono_ns - rows["mono_ns"] > self.age_ns_max)
            & (rows["status"] < status.BAD)
        )
        count = int(np.count_nonzero(stale))
        if count:
            rows["status"][stale] = status.BAD_NO_COMMUNICATION
            rows["utc_ns"][stale] = now_utc_ns
        return count
