"""The server's copy of the point table, and values as OPC UA shows them (OPC 10000-8).

Reads are answered from here. A change costs nothing until somebody monitors its point: then
`Values.changed` is told.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
from asyncua import ua
from numpy.typing import NDArray

from config import status as codes
from config.points import NO_POINT, PointDef
from gateway.core.clock import Clock
from gateway.core.records import RECORD

# 1601-01-01 to 1970-01-01 in steps of 100 ns: what OPC UA counts from (OPC 10000-6, 5.2.2.5).
EPOCH_TICKS: Final = 116_444_736_000_000_000
_INT64_MAX: Final = 2**63 - 1
_UINT32_MAX: Final = 2**32 - 1


@lru_cache(maxsize=256)
def _code(status: int) -> ua.StatusCode:
    return ua.StatusCode(ua.UInt32(status))


def _time(utc_ns: int) -> Any:
    """The library's time; None where no time is known."""
    return ua.win_epoch_to_datetime(utc_ns // 100 + EPOCH_TICKS) if utc_ns > 0 else None


def data_type(point: PointDef) -> ua.VariantType:
    """How a point's value travels.

    Analog points are Double. A device's point with two names is Boolean (two-state); any other
    with names is UInt32 (multi-state), and so is every rule, because a level more in its file must
    not turn a Boolean that SCADA knows into a number. Whole numbers without names are Int64.
    """
    if point.kind == "analog":
        return ua.VariantType.Double
    if point.source != "rule" and len(point.states) == 2:
        return ua.VariantType.Boolean
    if point.states or point.source == "rule":
        return ua.VariantType.UInt32
    return ua.VariantType.Int64


def _whole(value: float, kind: ua.VariantType) -> int | bool | None:
    """A discrete value in its type; None where the type can't hold it."""
    if not math.isfinite(value) or value != math.floor(value):
        return None
    number = int(value)
    if kind == ua.VariantType.Boolean:
        return bool(number) if number in (0, 1) else None
    if kind == ua.VariantType.UInt32:
        return number if 0 <= number <= _UINT32_MAX else None
    return number if -_INT64_MAX <= number <= _INT64_MAX else None


def data_value(
    kind: ua.VariantType, value: float, status: int, utc_ns: int, server_ns: int
) -> ua.DataValue:
    """A value with its status code, source time and server time.

    A bad status has no value (OPC 10000-4, 7.11). A value that the type can't hold is bad.
    """
    content: float | int | bool | None = None
    if not codes.is_bad(status):
        content = value if kind == ua.VariantType.Double else _whole(value, kind)
        if content is None:
            status = codes.BAD_OUT_OF_RANGE
    shown = ua.DataValue(
        None if content is None else ua.Variant(content, kind, is_array=False),
        StatusCode=_code(status),
        SourceTimestamp=_time(utc_ns),
        ServerTimestamp=_time(server_ns),
    )
    if content is None:
        # The constructor made a null variant; without it the field is not sent at all.
        shown.Value = None
    return shown


def deleted() -> ua.DataValue:
    """What a monitored item gets last when its point vanishes from the configuration."""
    gone = ua.DataValue(StatusCode=_code(ua.StatusCodes.BadNodeIdUnknown))
    gone.Value = None
    return gone


class Values:
    """Values of all points as the link last heard them; row 0 is nobody's.

    rows     RECORD by index of the point
    types    how the value of each point travels, by index
    kinds    the same as numbers of built-in types (OPC 10000-6, 5.1.2), in an array
    index    tag -> index
    changed  told which points changed: (N,) RECORD rows in the order they came, known points only
    replaced told that there is another table; tags of what has no point any more
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.points: tuple[PointDef, ...] = ()
        self.rows = np.zeros(1, dtype=RECORD)
        self.types: list[ua.VariantType] = [ua.VariantType.Null]
        self.kinds: NDArray[np.uint8] = np.zeros(1, dtype=np.uint8)
        self.index: dict[str, int] = {}
        self.changed: Callable[[NDArray[np.void]], None] = lambda records: None
        self.replaced: Callable[[Sequence[str]], None] = lambda gone: None

    def replace(self, points: Sequence[PointDef]) -> None:
        """Take another table; values of tags that stay are kept."""
        assert [p.index for p in points] == list(range(1, len(points) + 1))
        rows = np.zeros(len(points) + 1, dtype=RECORD)
        rows["point"] = np.arange(len(points) + 1)
        rows["status"] = codes.BAD_WAITING_FOR_INITIAL_DATA
        rows["value"] = np.nan
        index = {point.tag: point.index for point in points}
        for tag, old in self.index.items():
            if tag in index:
                rows[index[tag]] = self.rows[old]
                rows[index[tag]]["point"] = index[tag]
        gone = [tag for tag in self.index if tag not in index]
        self.points, self.rows, self.index = tuple(points), rows, index
        self.types = [ua.VariantType.Null, *(data_type(point) for point in points)]
        self.kinds = np.array([kind.value for kind in self.types], dtype=np.uint8)
        self.replaced(gone)

    def update(self, records: NDArray[np.void]) -> None:
        """Take changes: (N,) RECORD rows; of a point's rows the last stays."""
        index = records["point"]
        known = (index > NO_POINT) & (index < len(self.rows))
        if not known.all():
            records = records[known]
            index = records["point"]
        self.rows[index] = records
        self.changed(records)

    def value(self, index: int) -> ua.DataValue:
        """A point's value as a client reads it."""
        row = self.rows[index]
        return data_value(
            self.types[index],
            float(row["value"]),
            int(row["status"]),
            int(row["utc_ns"]),
            self._clock.utc_ns(),
        )
