"""The site that the tests of the OPC UA server show, and how they look at it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from asyncua import Client, ua
from asyncua.common.node import Node
from numpy.typing import NDArray

from config import status
from config.opcua import OpcUaEntry
from config.points import PointDef
from gateway.core.clock import SystemClock
from gateway.core.records import RECORD
from gateway.opcua import OpcUaServer
from gateway.opcua.desk import NotPassedOn
from gateway.opcua.model import SiteModel
from tests.gateway.points import point

ANY_PORT = "opc.tcp://127.0.0.1:0/gatepost"
NO_SECURITY = OpcUaEntry(Endpoint=ANY_PORT, NoSecurity=True)
MODEL = SiteModel("Lab", "hash")
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


class StoppedClock(SystemClock):
    """The wall clock stands still; what is measured in seconds goes on."""

    def utc_ns(self) -> int:
        return NOW_NS + 1_000_000


class NoDesk:
    """No field process; what it would have got."""

    def __init__(self) -> None:
        self.ready = False
        self.journaled: list[Mapping[str, Any]] = []

    async def pass_on(self, message: Mapping[str, Any]) -> None:
        raise NotPassedOn("no field process in this test")

    async def journal(self, body: Mapping[str, Any]) -> None:
        self.journaled.append(body)

    async def ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        raise NotPassedOn("no field process in this test")


def server(folder: Path, settings: OpcUaEntry = NO_SECURITY, desk: Any = None) -> OpcUaServer:
    """A server that is not started, without security if nothing else is said.

    With security it has the real clock, because certificates have their time.
    """
    clock = StoppedClock() if settings.NoSecurity else SystemClock()
    return OpcUaServer(settings, "Lab", folder, clock, desk or NoDesk())


async def started(
    folder: Path,
    settings: OpcUaEntry = NO_SECURITY,
    points: Sequence[PointDef] = (),
    model: SiteModel = MODEL,
    desk: Any = None,
    archive: Any = None,
) -> OpcUaServer:
    """A running server; `points` are those of SITE if none are given."""
    made = server(folder, settings, desk)
    await made.start(model, points or SITE, archive)
    return made


def rows(*given: tuple[int, float, int], utc_ns: int = NOW_NS) -> NDArray[np.void]:
    """(point, value, status) as records."""
    made = np.zeros(len(given), dtype=RECORD)
    for row, (index, value, code) in zip(made, given, strict=True):
        row["point"], row["value"], row["status"], row["utc_ns"] = index, value, code, utc_ns
    return made


def lost(count: int, utc_ns: int) -> NDArray[np.void]:
    """What a link shows of `count` points whose field process is gone."""
    gone = [(index, 0.0, status.BAD_NO_COMMUNICATION) for index in range(1, count + 1)]
    return rows(*gone, utc_ns=utc_ns)


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
    """A point's value with both its times."""
    wanted = ua.ReadValueId()
    wanted.NodeId = scada.get_node(f"ns=2;s={tag}").nodeid
    wanted.AttributeId = ua.AttributeIds.Value
    asked = ua.ReadParameters()
    asked.TimestampsToReturn = ua.TimestampsToReturn.Both
    asked.NodesToRead = [wanted]
    (shown,) = await scada.uaclient.read(asked)
    return shown


async def names(node: Node) -> list[str]:
    return [(await child.read_browse_name()).Name for child in await node.get_children()]
