"""A historian's values in the order in which the gateway recorded them, for a replay."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cloud import chunks
from cloud.historian_sqlite import SqliteHistorian
from gateway.core.records import RECORD


class HistorianStream(SqliteHistorian):
    """Reads a historian's file from end to end as it is now; never holds it as a whole."""

    def __init__(self, path: Path) -> None:
        """Opens the file, which must exist. Raises HistorianError."""
        super().__init__(path, read_only=True)
        with self._errors():
            # Ingest may be at work, and it joins chunks: what was read must not move meanwhile.
            self._conn.execute("BEGIN")

    def tags(self, gateway: str) -> dict[int, str]:
        """Number of each point of a gateway -> tag."""
        sql = "SELECT id, tag FROM points WHERE gateway = ?"
        return dict(self._rows(sql, (self._number_of(gateway),)))

    def rows(self, gateway: str, from_ns: int | None) -> Iterator[tuple[NDArray[np.void], float]]:
        """(N,) RECORD rows, chunk by chunk, and how much is done then, 0 to 1.

        `point` is a number of `tags`. Chunks that end before `from_ns` are left out. Raises
        HistorianError.
        """
        found = self._rows(
            "SELECT id, epoch, first FROM chunks WHERE gateway = ? AND utc_max >= ?"
            " ORDER BY epoch, first",
            (self._number_of(gateway), -(2**63) if from_ns is None else from_ns),
        )
        ahead = np.zeros(0, dtype=RECORD)
        for at, (number, epoch, _) in enumerate(found, 1):
            sql = "SELECT rows, status, body, codec FROM chunks WHERE id = ?"
            for packed in self._rows(sql, (number,)):
                ahead = chunks.joined(ahead, self._unpack(*packed))
            # What came live during an outage's backlog may share a chunk with what was before it.
            ends = at == len(found) or found[at][1] != epoch
            cut = len(ahead) if ends else int(np.searchsorted(ahead["seq"], found[at][2]))
            if cut:
                yield ahead[:cut], at / len(found)
            ahead = ahead[cut:]
