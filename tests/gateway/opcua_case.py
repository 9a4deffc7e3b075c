"""The site that the tests of the OPC UA server show, and how they look at it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
from asyncua import Client, ua
from asyncua.common.node import Node
from numpy.typing import NDArray

from gateway.core.records import RECORD
from tests.gateway.points import point

ANY_PORT = "opc.tcp://127.0.0.1:0/gatepost"
NOW_NS = 1_790_000_000_123_456_000  # 2026-09-21, with microseconds
SITE = (
    point(
        1, "Stack.Temperature", units="degC", description="hottest cell", value_min=0, value_max=900
    ),
    point(2, "Stack.Voltage", units="V"),
    point(3, "Fan.Running", kind="discrete", states=("stopped", "running"), writable=True),
    point(
        4, "Alarms.Over_Temperature", kind="discrete", source="rule", states=("", "HIGH", "TRIP")
    ),
    point(5, "Gateway.Overruns", kind="discrete", source="gateway"),
)


def rows(*given: tuple[int, float, int], utc_ns: int = NOW_NS) -> NDArray[np.void]:
    """(point, value, status) as records."""
    made = np.zeros(len(given), dtype=RECORD)
    for row, (index, value, code) in zip(made, given, strict=True):
        row["point"], row["value"], row["status"], row["utc_ns"] = index, value, code, utc_ns
    return made


async def until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.02)


class Seen:
    """Collects what a subscription delivers."""

    def __init__(self) -> None:
        self.values: list[tuple[Any, int]] = []

    def datachange_notification(self, node: Node, value: Any, data: Any) -> None:
        shown = data.monitored_item.Value
        content = shown.Value.Value if shown.Value is not None else None
        self.values.append((content, shown.StatusCode.value))


async def read(scada: Client, tag: str) -> ua.DataValue:
    node = scada.get_node(f"ns=2;s={tag}")
    return await node.read_data_value(raise_on_bad_status=False)


async def names(node: Node) -> list[str]:
    return [(await child.read_browse_name()).Name for child in await node.get_children()]
