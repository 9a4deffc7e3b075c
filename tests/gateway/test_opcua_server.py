"""The OPC UA server as a program: rights, limits, start and stop, and a client that is not ours."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from asyncua import Client, ua
from asyncua.server.internal_server import InternalServer

from config import status
from config.opcua import OpcUaEntry
from gateway.opcua import OpcUaError, OpcUaServer, parse_endpoint, point_of
from gateway.opcua.library import standard_space
from gateway.opcua.transport.limits import CHUNK_BYTES
from tests.gateway.opcua_case import (
    ANY_PORT,
    MODEL,
    NOW_NS,
    SITE,
    Seen,
    lost,
    read,
    rows,
    server,
    until,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).parents[2]


# -- who may what ------------------------------------------------------------------------------


async def test_writes_and_changes_of_the_address_space_are_refused(
    opcua: OpcUaServer, scada: Client
) -> None:
    await opcua.update(rows((3, 0.0, 0)))
    fan = scada.get_node("ns=2;s=Fan.Running")
    with pytest.raises(ua.uaerrors.BadSecurityModeInsufficient):
        await fan.write_value(True)
    with pytest.raises(ua.UaError):
        await fan.write_attribute(
            ua.AttributeIds.AccessLevel, ua.DataValue(ua.Variant(3, ua.VariantType.Byte))
        )
    with pytest.raises(ua.UaError):
        await scada.nodes.objects.add_folder(2, "mine")
    with pytest.raises(ua.UaError):
        await scada.delete_nodes([fan])
    assert (await read(scada, "Fan.Running")).Value.Value is False
    assert await fan.read_attribute(ua.AttributeIds.AccessLevel) is not None


async def test_nobody_is_an_administrator_by_saying_so(opcua: OpcUaServer) -> None:
    scada = Client(opcua.url)
    scada.set_user("admin")
    scada.set_password("admin")
    with pytest.raises(ua.UaError):
        await scada.connect()


async def test_no_other_server_can_be_registered(opcua: OpcUaServer, scada: Client) -> None:
    description = ua.RegisteredServer()
    description.ServerUri = "urn:stranger"
    description.ServerNames = [ua.LocalizedText("stranger")]
    with pytest.raises(ua.UaError):
        await scada.uaclient.register_server(description)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"HELF\x08\x00\x00\x00",
        b"HELF\x00\x00\x00\x00" + bytes(32),
        b"MSGF\xff\xff\xff\x7f" + bytes(64),
        b"OPNF\x20\x00\x00\x00" + bytes(24),
        bytes(range(256)) * 20,
        b"",
    ],
)
async def test_garbage_on_the_port_disturbs_nobody(
    opcua: OpcUaServer, scada: Client, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    address = parse_endpoint(opcua.url)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(data)
    await writer.drain()
    await opcua.update(rows((2, 8.0, 0)))
    assert (await read(scada, "Stack.Voltage")).Value.Value == 8.0
    writer.close()
    await reader.read()
    await until(lambda: opcua.clients == 1)
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


async def test_a_message_without_end_is_cut_off(opcua: OpcUaServer, scada: Client) -> None:
    address = parse_endpoint(opcua.url)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(b"MSGF\xff\xff\xff\x7f")
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < 100 * CHUNK_BYTES and not reader.at_eof():
            writer.write(bytes(CHUNK_BYTES))
            await writer.drain()
            await asyncio.sleep(0.01)
            sent += CHUNK_BYTES
    assert sent < 100 * CHUNK_BYTES
    writer.close()
    await until(lambda: opcua.clients == 1)


# -- start and stop ----------------------------------------------------------------------------


async def test_a_port_in_use_is_told_with_the_remedy_and_can_be_tried_again(
    tmp_path: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        endpoint = f"opc.tcp://127.0.0.1:{port}/gatepost"
        opcua = server(tmp_path, OpcUaEntry(Endpoint=endpoint, NoSecurity=True))
        with pytest.raises(OpcUaError) as caught:
            await opcua.start(MODEL, SITE)
    assert f"127.0.0.1:{port}/gatepost" in str(caught.value)
    assert "in use" in str(caught.value)
    assert "OpcUa.Endpoint in link.json" in str(caught.value)
    await opcua.start(MODEL, SITE)
    try:
        assert opcua.url == f"opc.tcp://127.0.0.1:{port}/gatepost"
        async with Client(opcua.url):
            assert opcua.clients == 1
    finally:
        await opcua.stop()


async def test_a_started_server_stops_without_a_trace_and_stops_twice(tmp_path: Path) -> None:
    before = asyncio.all_tasks()
    opcua = server(tmp_path)
    await opcua.update(rows((1, 1.0, 0)))
    await opcua.update(lost(len(SITE), NOW_NS))
    await opcua.rebuild(MODEL, SITE)
    assert (opcua.url, opcua.variables, opcua.clients) == (ANY_PORT, 0, 0)

    await opcua.start(MODEL, [dataclasses.asdict(given) for given in SITE])
    url = opcua.url
    async with Client(url) as scada:
        subscription = await scada.create_subscription(50, Seen())
        await subscription.subscribe_data_change(scada.get_node("ns=2;s=Stack.Voltage"))
        assert (await read(scada, "Stack.Voltage")).Value.Value is None
    await opcua.stop()
    await opcua.stop()
    with pytest.raises(OSError):
        await Client(url, timeout=1).connect()
    await until(lambda: not asyncio.all_tasks() - before)


@pytest.mark.parametrize(
    ("endpoint", "why"),
    [
        ("http://127.0.0.1:4840", "opc.tcp"),
        ("127.0.0.1:4840", "opc.tcp"),
        ("", "opc.tcp"),
        ("opc.tcp://:4840/x", "no host"),
        ("opc.tcp://127.0.0.1:99999", "[Pp]ort"),
        ("opc.tcp://127.0.0.1:abc", "[Pp]ort"),
        ("opc.tcp://[::1:4840", "IPv6"),
        ("opc.tcp://host.invalid:4840", "known|resolution|address"),
        ("opc.tcp://192.0.2.1:4840", "assign"),
    ],
)
async def test_an_endpoint_that_can_t_be_used_names_itself_and_the_key(
    endpoint: str, why: str, tmp_path: Path
) -> None:
    settings = OpcUaEntry(Endpoint=endpoint, NoSecurity=True)
    with pytest.raises(OpcUaError, match=why) as caught:
        await server(tmp_path, settings).start(MODEL, SITE)
    assert repr(endpoint) in str(caught.value)
    assert "link.json" in str(caught.value)


async def test_an_endpoint_without_a_port_has_the_registered_one() -> None:
    assert parse_endpoint("opc.tcp://localhost/x").port == 4840
    assert parse_endpoint("opc.tcp://[::1]:0/x").url(99) == "opc.tcp://[::1]:99/x"


async def test_a_birth_s_mapping_becomes_a_point_and_other_mappings_are_refused() -> None:
    data = json.loads(json.dumps(dataclasses.asdict(SITE[2])))
    taken = point_of(data)
    assert (taken.tag, taken.kind, taken.states) == ("Fan.Running", "discrete", SITE[2].states)
    assert point_of(SITE[2]) is SITE[2]
    assert point_of(data | {"from_a_newer_field": 1}).tag == "Fan.Running"
    with pytest.raises(OpcUaError, match="not a point definition"):
        point_of({"tag": "A.B"})


# -- what is left of the library's own namespace -----------------------------------------------


def references(nodes: Any, kept: Any) -> dict[str, set[tuple[str, str, bool]]]:
    """Node -> its references to nodes of `kept`."""
    return {
        str(number): {
            (str(r.ReferenceTypeId), str(r.NodeId), r.IsForward)
            for r in nodes[number].references
            if r.NodeId in kept
        }
        for number in kept
    }


async def test_the_standard_s_nodes_that_stay_are_as_the_library_makes_them() -> None:
    full = InternalServer()
    await full.init()
    ours, theirs = standard_space()._nodes, full.aspace._nodes
    assert not [r for node in ours.values() for r in node.references if r.NodeId not in ours]
    assert references(ours, ours) == references(theirs, ours)
    for number, node in ours.items():
        assert node.attributes.keys() == theirs[number].attributes.keys()
        for attribute, content in node.attributes.items():
            if attribute != ua.AttributeIds.Value:
                assert content.value.Value == theirs[number].attributes[attribute].value.Value
    # Half of the nodes are left out; all of them would mean that the library's own way was taken.
    assert 1_500 < len(ours) < 4_000
    ids = ua.ObjectIds
    for needed in (
        *(ids.Server_ServerStatus_State, ids.Server_ServiceLevel, ids.Server_NamespaceArray),
        *(ids.AnalogUnitRangeType, ids.TwoStateDiscreteType, ids.MultiStateDiscreteType),
        *(ids.EUInformation_Encoding_DefaultBinary, ids.Range_Encoding_DefaultBinary),
        *(ids.AlarmConditionType, ids.FiniteStateMachineType, ids.AuditEventType),
        ids.Server_ServerCapabilities_OperationLimits_MaxNodesPerRead,
    ):
        assert ua.NodeId(needed) in ours
    assert ua.NodeId(ids.PublishSubscribe) not in ours
    await full.stop()


# -- a client that is not ours -----------------------------------------------------------------


@pytest.mark.timeout(240)
async def test_node_opcua_reads_monitors_and_is_refused_to_write(opcua: OpcUaServer) -> None:
    installed = await asyncio.to_thread(
        subprocess.run, [ROOT / "tools" / "node-peers"], capture_output=True, text=True
    )
    assert installed.returncode == 0, installed.stderr
    await opcua.update(rows((1, 712.5, 0), (3, 0.0, 0)))
    node = await asyncio.create_subprocess_exec(
        *("node", str(ROOT / "tests" / "node" / "opcua_client.js"), opcua.url),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert node.stdout is not None
    try:
        async with asyncio.timeout(60):
            line = b""
            while not line.startswith(b'{"ready"'):
                line = await node.stdout.readline()
                assert line, (await node.communicate())[1].decode()
            await opcua.update(rows((1, 713.0, 0)))  # inside the deadband of 1
            await opcua.update(rows((1, 714.0, 0), (3, 1.0, 0), utc_ns=NOW_NS + 1_000_000_000))
            await opcua.update(lost(len(SITE), NOW_NS + 2_000_000_000))
            output, problem = await node.communicate()
    finally:
        if node.returncode is None:
            node.kill()
            await node.communicate()
    assert node.returncode == 0, problem.decode()
    check_what_node_saw(json.loads(output.splitlines()[-1]), opcua.url)


def check_what_node_saw(seen: dict[str, Any], url: str) -> None:
    assert set(seen["endpoints"]) == {url}
    assert "Lab" in seen["objects"]
    assert {"Stack", "Fan", "Alarms", "Gateway"} <= set(seen["equipment"])
    assert {"Temperature", "Voltage"} <= set(seen["channels"])
    assert seen["namespaces"][2] == "urn:gatepost:Lab"
    assert seen["analog"] == {
        "status": 0,
        "type": "Double",
        "value": 712.5,
        "source": "2026-09-21T14:13:20.123Z",
        "server": "2026-09-21T14:13:20.124Z",
    }
    assert (seen["switch"]["type"], seen["switch"]["value"]) == ("Boolean", False)
    assert seen["units"]["id"] == 4408652
    assert seen["units"]["uri"] == "http://www.opcfoundation.org/UA/units/un/cefact"
    assert seen["units"]["name"] == "°C"
    assert seen["range"] == [0, 900]
    assert seen["states"] == ["stopped", "running"]
    assert seen["description"] == "hottest cell"
    changes = {"ns=2;s=Stack.Temperature": [], "ns=2;s=Fan.Running": []}
    for change in seen["changes"]:
        row = (change["value"], change["status"], change["source"][17:])
        changes[change["nodeId"]].append(row)
    bad = (None, status.BAD_NO_COMMUNICATION, "22.123Z")
    assert changes == {
        "ns=2;s=Stack.Temperature": [(712.5, 0, "20.123Z"), (714, 0, "21.123Z"), bad],
        "ns=2;s=Fan.Running": [(False, 0, "20.123Z"), (True, 0, "21.123Z"), bad],
    }
    assert seen["refusals"] == ["BadNotWritable", "BadNotWritable"]
    assert seen["administrator"] == "refused"
