"""What the site bus knows of the points: definitions and newest values, by equipment. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from config import status
from gateway.core.records import RECORD, Birth
from sync.bus.relay_messages import Reading, stamp_exact

NO_READ_BACK: Final = 0


class RelayTable:
    """Values of the equipment that the bus serves; everything is bad until a birth brings them."""

    def __init__(self, equipment: Collection[str], *, detail: bool) -> None:
        self._served = tuple(equipment)
        self._detail = detail
        self._rows = np.zeros(1, dtype=RECORD)  # row = index of the point; row 0 is bad
        self._points: dict[str, dict[str, Mapping[str, Any]]] = {}
        self.lost()

    @property
    def equipment(self) -> list[str]:
        """Names that are served, of those that the birth has."""
        return list(self._points)

    def born(self, birth: Birth, rows: NDArray[np.void]) -> None:
        """Take a whole table: (P,) POINT rows, row 0 reserved."""
        self._rows = np.zeros(len(rows), dtype=RECORD)
        for column in ("seq", "status", "value", "utc_ns"):
            self._rows[column] = rows[column]
        self._points = {name: {} for name in self._served}
        for point in birth.points:
            if point["equipment"] in self._points:
                self._points[point["equipment"]][point["channel"]] = point
        self._points = {name: points for name, points in self._points.items() if points}

    def update(self, records: NDArray[np.void]) -> None:
        """Take changes; rows from before the birth, or of points that it doesn't have, are not."""
        records = records[records["point"] < len(self._rows)]
        index = records["point"].astype(np.int64)
        newer = records["seq"] > self._rows["seq"][index]
        self._rows[index[newer]] = records[newer]

    def lost(self) -> None:
        """Nobody knows any more what the values are."""
        self._rows["status"] = status.BAD_NO_COMMUNICATION

    def point(self, equipment: str, channel: str) -> Mapping[str, Any] | None:
        """A point's definition; None where the bus does not serve it."""
        return self._points.get(equipment, {}).get(channel)

    def readable(self, equipment: str) -> list[str]:
        """Channels of an equipment that have a value."""
        return [name for name, p in self._points.get(equipment, {}).items() if p["readable"]]

    def reading(self, point: Mapping[str, Any], shown: int = NO_READ_BACK) -> Reading | str:
        """The newest value of a point, or of the point `shown`; else why there is none.

        The seed's form has no place for a quality, so what is not good is left out there; with the
        detail an uncertain value stands beside its quality.
        """
        row = self._rows[shown or point["index"]]
        code, value = int(row["status"]), float(row["value"])
        if status.is_bad(code) or not (self._detail or status.is_good(code)):
            return status.name_of(code)
        if not math.isfinite(value):
            return "no value"
        whole = point["kind"] == "discrete"
        utc_ns = int(row["utc_ns"])
        detail = {}
        if self._detail:
            quality = "Good" if status.is_good(code) else "Uncertain"
            utc = stamp_exact(utc_ns)
            detail = {"Quality": quality, "Units": str(point["units"]), "UTC": utc}
        return Reading(int(value) if whole else value, utc_ns, detail)
