"""Fixtures of the OPC UA tests: one server a module, because each takes a second to start."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio
from asyncua import Client

from gateway.core.clock import ManualClock
from gateway.opcua import OpcUaServer
from tests.gateway.opcua_case import ANY_PORT, NOW_NS, SITE


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def opcua_started() -> AsyncIterator[OpcUaServer]:
    made = OpcUaServer(ANY_PORT, "Lab", ManualClock(NOW_NS + 1_000_000))
    await made.start(SITE)
    yield made
    await made.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def opcua(opcua_started: OpcUaServer) -> OpcUaServer:
    """A module's server, with the points of `SITE`, none of them read."""
    await opcua_started.rebuild(())
    await opcua_started.rebuild(SITE)
    return opcua_started


@pytest_asyncio.fixture(loop_scope="module")
async def scada(opcua: OpcUaServer) -> AsyncIterator[Client]:
    """A client of `opcua`."""
    made = Client(opcua.url)
    async with made:
        yield made
