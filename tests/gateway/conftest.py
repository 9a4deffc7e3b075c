"""Fixtures of the gateway's tests: a device with its field process, and OPC UA servers.

There is one OPC UA server a module, because each takes a second to start.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from asyncua import Client

from gateway.opcua import OpcUaServer
from tests.gateway.opcua_case import MODEL, SITE, started
from tests.gateway.running import Running
from tests.gateway.sites import Rig


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """A device that answers, and its site folder."""
    made = Rig(tmp_path)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def running(rig: Rig) -> AsyncIterator[Running]:
    """A field process whose start-up trip is released."""
    made = Running(rig)
    await made.ready()
    yield made
    await made.end()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def opcua_started(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OpcUaServer]:
    made = await started(tmp_path_factory.mktemp("opcua"))
    yield made
    await made.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def opcua(opcua_started: OpcUaServer) -> OpcUaServer:
    """A module's server, with the points of `SITE`, none of them read."""
    await opcua_started.rebuild(MODEL, ())
    await opcua_started.rebuild(MODEL, SITE)
    return opcua_started


@pytest_asyncio.fixture(loop_scope="module")
async def scada(opcua: OpcUaServer) -> AsyncIterator[Client]:
    """A client of `opcua`."""
    made = Client(opcua.url)
    async with made:
        yield made
