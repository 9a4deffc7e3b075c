"""Subscriptions of clients whose connection is cut."""

from __future__ import annotations

import asyncio
import json
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from asyncua import Client, ua

from config.opcua import OpcUaEntry
from gateway.opcua import OpcUaServer
from tests.gateway.opcua import security_case as security
from tests.gateway.opcua.secure_case import client, prepared
from tests.gateway.opcua_case import ANY_PORT, NOW_NS, Seen, rows, started, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).parents[3]
ME = security.holder(begins_ns=NOW_NS)  # a server without security has a clock that stands
OPEN = OpcUaEntry(Endpoint=ANY_PORT, NoSecurity=True, Anonymous=True)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OpcUaServer]:
    state = tmp_path_factory.mktemp("reconnect")
    prepared(state, ME)
    made = await started(state, OPEN)
    yield made
    await made.stop()


async def transferred(server: OpcUaServer, first: Client, second: Client) -> tuple[str, Seen]:
    """A subscription whose client is cut off and comes with another connection and session."""
    seen = Seen()
    await first.connect()
    subscription = await first.create_subscription(50, seen)
    await subscription.subscribe_data_change(first.get_node("ns=2;s=Stack.Voltage"), queuesize=10)
    await until(lambda: seen.values)
    assert first.uaclient.protocol is not None
    assert first.uaclient.protocol.transport is not None
    first.uaclient.protocol.transport.abort()
    await until(lambda: first.uaclient.protocol is None or not first.uaclient.protocol.transport)
    await server.update(rows((2, 8.0, 0)))
    async with second:
        wanted = ua.TransferSubscriptionsParameters([subscription.subscription_id], False)
        (result,) = await second.uaclient.transfer_subscriptions(wanted)
        return result.StatusCode.name, seen


async def test_who_has_no_name_gets_his_subscription_back_on_a_signed_channel(
    server: OpcUaServer,
) -> None:
    """His port is another one; his certificate and address are the same."""
    given, _ = await transferred(server, await client(server.url, ME), await client(server.url, ME))
    assert given == "Good"


async def test_without_security_nobody_is_known_again(server: OpcUaServer) -> None:
    given, _ = await transferred(server, Client(server.url), Client(server.url))
    assert given == "BadUserAccessDenied"


class Proxy:
    """Passes bytes on, and cuts."""

    def __init__(self, port: int) -> None:
        self.cuts = 0
        self._port = port
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._met, "127.0.0.1", 0)
        return f"opc.tcp://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/gatepost"

    async def _met(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers += (writer, back)
        for one, other in ((reader, back), (there, writer)):
            task = asyncio.create_task(self._pass(one, other))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass(self, one: asyncio.StreamReader, other: asyncio.StreamWriter) -> None:
        try:
            while data := await one.read(65_536):
                other.write(data)
        except OSError:
            pass
        finally:
            other.transport.abort()

    def cut(self) -> None:
        self.cuts += 1
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def stop(self) -> None:
        self._server.close()
        self.cut()
        await self._server.wait_closed()


async def test_node_opcua_misses_nothing_where_its_connection_is_cut(server: OpcUaServer) -> None:
    """It takes its session to another connection, and asks again for messages that it missed."""
    proxy = Proxy(int(server.url.split(":")[2].split("/")[0]))
    url = await proxy.start()
    script = ROOT / "tests" / "node" / "opcua_reconnect.js"
    process = await asyncio.create_subprocess_exec(
        "node", str(script), url, stdin=PIPE, stdout=PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    told: list[dict[str, Any]] = []
    messages: dict[int, list[float]] = {}

    async def listen(stream: asyncio.StreamReader) -> None:
        while line := await stream.readline():
            if line.startswith(b"{"):
                told.append(json.loads(line))
                number, values = told[-1]["number"], told[-1]["values"]
                # Sent anew, it is the same message.
                assert messages.setdefault(number, values) == values

    def came() -> list[float]:
        return [value for number in sorted(messages) for value in messages[number]]

    listening = asyncio.create_task(listen(process.stdout))
    try:
        await server.update(rows((2, 0.0, 0)))
        await until(came, 60.0)
        value = 0.0
        for _ in range(2):
            for _ in range(5):
                value += 1
                await server.update(rows((2, value, 0)))
                await asyncio.sleep(0.02)
            proxy.cut()
            value += 1
            await server.update(rows((2, value, 0)))
            await until(lambda: value in came(), 60.0)  # noqa: B023
        assert came() == [float(n) for n in range(int(value) + 1)]
        assert len({one["id"] for one in told}) == 1
    finally:
        process.stdin.close()
        await process.wait()
        await listening
        await proxy.stop()
