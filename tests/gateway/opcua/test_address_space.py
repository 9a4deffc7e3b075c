"""The address space as clients see it: asyncua's and node-opcua's, over a socket."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from asyncua import Client, ua

from config import status
from gateway.core.records import RECORD
from gateway.opcua import OpcUaError, OpcUaServer
from tests.gateway.opcua.conformance_case import CHECKS
from tests.gateway.opcua.nodes_case import DEVICES, MODEL, RULES, gateway_points, points_of
from tests.gateway.opcua_case import Seen, read, rows, started, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).parents[3]
BIG = tuple({"tag": f"Big.C{number}"} for number in range(1_500))
POINTS = points_of(*DEVICES, *gateway_points(), *RULES, *BIG)
INDEX = {point.tag: point.index for point in POINTS}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OpcUaServer]:
    made = await started(tmp_path_factory.mktemp("opcua"), points=POINTS, model=MODEL)
    yield made
    await made.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def client(server: OpcUaServer) -> AsyncIterator[Client]:
    await server.rebuild(MODEL, POINTS)
    await server.update(everything_good())
    made = Client(server.url)
    async with made:
        yield made


def everything_good() -> np.ndarray[Any, Any]:
    return rows(*((point.index, 1.0, status.GOOD) for point in POINTS))


class Events:
    """Collects the events of a subscription."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def event_notification(self, event: Any) -> None:
        self.seen.append(event)


@pytest.mark.timeout(120)
async def test_node_opcua_walks_through_all_nodes(server: OpcUaServer, client: Client) -> None:
    installed = await asyncio.to_thread(
        subprocess.run, [ROOT / "tools" / "node-peers"], capture_output=True, text=True
    )
    assert installed.returncode == 0, installed.stderr
    node = await asyncio.create_subprocess_exec(
        *("node", str(ROOT / "tests" / "node" / "opcua_browse.js"), server.url),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, problem = await asyncio.wait_for(node.communicate(), 90)
    assert node.returncode == 0, problem.decode()
    # The library prints warnings of its own between.
    seen = json.loads(next(one for one in output.splitlines() if one.startswith(b'{"nodes"')))
    assert seen["problems"] == []
    assert seen["nodes"] > 1_800
    assert seen["big"] == 1_500
    assert seen["device"] == ["ns=2;s=/Stack/DeviceHealth"]
    assert (seen["health"], seen["state"], seen["unit"]) == (0, "Off", "°C")
    assert seen["stack"] == "ns=2;s=//InstrumentType"
    assert seen["temperature"] == f"ns=0;i={ua.ObjectIds.AnalogUnitRangeType}"
    assert seen["machine"] == "ns=2;s=States.Plant/StateMachineType"


@pytest.mark.parametrize("check", CHECKS)
async def test_the_nodes_of_all_parts_keep_to_the_standard(
    server: OpcUaServer, check: Callable[[Any], None]
) -> None:
    assert server._running is not None
    check(server._running.parts.space)


async def test_asyncua_finds_points_by_path_and_by_browsing(client: Client) -> None:
    node = await client.nodes.objects.get_child(["2:Lab", "2:ByType", "2:Electrolyser", "2:Stack"])
    assert node.nodeid.to_string() == "ns=2;s=/Stack"
    children = await client.get_node("ns=2;s=/Big").get_children()
    names = {child.nodeid.to_string() for child in children}
    assert {f"ns=2;s=Big.C{number}" for number in range(1_500)} < names
    assert {"ns=2;s=/Big/SerialNumber", "ns=2;s=/Big/NodeVersion"} < names


async def test_asyncua_reads_a_thousand_values_at_once(client: Client) -> None:
    nodes = [client.get_node(f"ns=2;s=Big.C{number}") for number in range(1_000)]
    assert await client.read_values(nodes) == [1.0] * 1_000


async def test_limits_are_published_and_kept(client: Client) -> None:
    number = ua.ObjectIds.Server_ServerCapabilities_OperationLimits_MaxNodesPerBrowse
    most = await client.get_node(ua.NodeId(number)).read_value()
    request = ua.BrowseParameters()
    one = ua.BrowseDescription()
    one.NodeId = ua.NodeId(85)
    one.NodeClassMask = ua.NodeClass.Method
    request.NodesToBrowse = [one] * most
    assert len(await client.uaclient.browse(request)) == most
    request.NodesToBrowse.append(one)
    with pytest.raises(ua.uaerrors.BadTooManyOperations):
        await client.uaclient.browse(request)


async def test_another_configuration_is_told_and_items_that_stay_go_on(
    server: OpcUaServer, client: Client
) -> None:
    values, events = Seen(), Events()
    subscription = await client.create_subscription(50, values)
    await subscription.subscribe_data_change(client.get_node("ns=2;s=Fan.Ratio"))
    told = await client.create_subscription(50, events)
    await told.subscribe_events(evtypes=ua.ObjectIds.GeneralModelChangeEventType)
    await until(lambda: values.values)
    left = [one for one in DEVICES if one["tag"] != "Fan.Mode"]
    fewer = points_of(*left, *gateway_points(), *RULES, *BIG)
    await server.rebuild(MODEL, fewer)
    await until(lambda: events.seen)
    named = {change.Affected.to_string() for change in events.seen[0].Changes}
    assert {"ns=2;s=Fan.Mode", "ns=2;s=/Fan"} <= named
    assert (await read(client, "Fan.Mode")).StatusCode.value == ua.StatusCodes.BadNodeIdUnknown
    record = np.zeros(1, dtype=RECORD)
    record["point"] = next(one.index for one in fewer if one.tag == "Fan.Ratio")
    record["value"], record["utc_ns"] = 7.5, 1_790_000_001_000_000_000
    await server.update(record)
    await until(lambda: values.values[-1] == (7.5, status.GOOD))
    await server.rebuild(MODEL, POINTS)
    assert (await read(client, "Fan.Ratio")).Value.Value == 7.5


async def test_a_configuration_that_can_not_be_built_leaves_the_old_one(
    server: OpcUaServer, client: Client
) -> None:
    with pytest.raises(OpcUaError, match="two nodes would be called"):
        await server.rebuild(MODEL, points_of(*DEVICES, DEVICES[0]))
    assert (await read(client, "Big.C7")).Value.Value == 1.0
    assert server.variables == len(POINTS)
