"""The latest values of all points that the link knows, for forms that send them with a birth."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gateway.core.records import RECORD, Batch, Birth


class Latest:
    """One for all links. The link process fills it, forms read it."""

    def __init__(self) -> None:
        self.birth: Birth | None = None
        self.rows: NDArray[np.void] = np.zeros(0, dtype=RECORD)  # (P,) in the order of the birth
        self.known = False  # False: the field process is gone, nothing of this is current
        self.changes = 0  # grows with each `born` and `lost`
        self.utc_ns = 0  # when the field process was lost
        self._place: NDArray[np.int64] = np.zeros(0, dtype=np.int64)  # of each index in `rows`

    def born(self, birth: Birth, table: NDArray[np.void]) -> None:
        """Take a whole table: (P + 1,) rows of `config.points.POINT`, row 0 reserved."""
        rows = np.zeros(len(birth.points), dtype=RECORD)
        index = np.array([point["index"] for point in birth.points], dtype=np.int64)
        rows["point"] = index
        for column in ("seq", "status", "value", "utc_ns"):
            rows[column] = table[column][index]
        self._place = np.zeros(len(table), dtype=np.int64)
        self._place[index] = np.arange(len(index))
        self.birth, self.rows, self.known = birth, rows, True
        self.changes += 1

    def appended(self, batch: Batch) -> None:
        """Take what became durable; rows that are older than what is here change nothing."""
        if self.birth is None or batch.birth != self.birth.hash or batch.epoch != self.birth.epoch:
            return
        at = self._place[batch.records["point"]]
        newer = batch.records["seq"] > self.rows["seq"][at]
        self.rows[at[newer]] = batch.records[newer]  # where a point comes twice, the last one stays

    def lost(self, utc_ns: int) -> None:
        """The field process is gone: nothing may look current any more."""
        if self.known:
            self.known, self.utc_ns = False, utc_ns
            self.changes += 1
