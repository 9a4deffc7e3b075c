"""What the first version of the historian's file held: a record a value."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from cloud.chunks import CHUNK_ROWS_MAX
from gateway.core.records import RECORD


def samples_of_version_1(
    conn: sqlite3.Connection,
) -> Iterator[tuple[tuple[int, int], NDArray[np.void]]]:
    """((gateway, epoch), rows) in chunks, ascending; `point` is the historian's own."""
    of = "FROM samples WHERE gateway = ? AND epoch = ? ORDER BY seq"
    for key in conn.execute("SELECT DISTINCT gateway, epoch FROM samples").fetchall():
        samples = conn.execute(f"SELECT seq, point, status, utc_ns, value {of}", key)
        while found := samples.fetchmany(CHUNK_ROWS_MAX):
            rows = np.zeros(len(found), dtype=RECORD)
            *whole, values = zip(*found, strict=True)
            for name, column in zip(("seq", "point", "status", "utc_ns"), whole, strict=True):
                rows[name] = column
            rows["value"] = [math.nan if value is None else value for value in values]
            yield key, rows
