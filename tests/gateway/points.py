"""Points and tables that the gateway's tests share."""

from __future__ import annotations

from typing import Any

import numpy as np

from config import status
from config.points import PointDef
from gateway.core.table import PointTable


def point(index: int = 1, tag: str = "Dev.Value", **more: Any) -> PointDef:
    """A device point with sensible defaults."""
    equipment, channel = tag.split(".")
    return PointDef(index=index, tag=tag, equipment=equipment, channel=channel, **more)


def output(index: int = 1, tag: str = "Dev.Out", **more: Any) -> PointDef:
    """An output that is its own read-back, safe at 0."""
    more = {"safe_value": 0.0, "fallback": 0.0, "tolerance": 0.01, "read_back": index} | more
    return point(index, tag, writable=True, **more)


def land(table: PointTable, index: int, value: float, now_ns: int) -> None:
    """A poll of one point at `now_ns`, on both clocks."""
    table.put(
        np.array([index], dtype=np.int32),
        np.array([value]),
        np.array([status.GOOD], dtype=np.uint32),
        now_ns,
        now_ns,
    )
