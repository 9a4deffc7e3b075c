"""The OPC UA client driver against node-opcua's server, which shares no code with it."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from config import status
from drivers.errors import Refused
from drivers.opcua.browse import browse_server
from tests.drivers.opcua_case import client, connected
from tests.sync import support

SCRIPT = Path(__file__).parents[1] / "node" / "opcua_server.js"


class Peer:
    """The other server's process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.url = ""

    async def line(self, key: str) -> Any:
        """The next thing that it says under a key."""
        assert self.process.stdout is not None
        async with asyncio.timeout(40):
            while line := await self.process.stdout.readline():
                if line.startswith(b"{") and key in (said := json.loads(line)):
                    return said[key]
        raise AssertionError("the server ended")

    def tell(self, **command: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command).encode() + b"\n")


@asynccontextmanager
async def node_opcua(folder: Path) -> AsyncIterator[Peer]:
    node = shutil.which("node")
    if node is None or not (SCRIPT.parent / "node_modules" / "node-opcua-server").is_dir():
        pytest.fail("node-opcua is missing: make node-peers")
    process = await asyncio.create_subprocess_exec(
        *(node, str(SCRIPT), str(folder)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        peer = Peer(process)
        peer.url = f"opc.tcp://127.0.0.1:{await peer.line('port')}"
        yield peer
    finally:
        with suppress(ProcessLookupError):  # the test has ended it
            process.kill()
        await process.wait()


async def test_another_makers_server_is_browsed_read_and_written(tmp_path: Path) -> None:
    async with node_opcua(tmp_path) as peer:
        found = (await browse_server(peer.url, timeout_s=20))["Channels"]
        assert {"Pump_Flow", "Pump_Setpoint", "Pump_Fixed"} <= set(found)
        assert (found["Pump_Flow"]["Minimum"], found["Pump_Flow"]["Maximum"]) == (0.0, 10.0)
        assert found["Pump_Setpoint"]["DataType"] == "int16"
        channels = {
            "Flow": found["Pump_Flow"],
            "Setpoint": found["Pump_Setpoint"],
            "Fixed": found["Pump_Fixed"] | {"ReadWrite": "RW"},
        }
        made = client(peer.url, channels, Timeout=20.0)
        # This server has no subscription shorter than 50 ms, and answers a quiet one every second
        # interval: it is asked for half the period.
        made = replace(made, periods_ns={"Fast": 200_000_000})
        async with connected(made) as (driver, taken):
            await support.eventually(lambda: len(taken.values) == 3)
            assert taken.values["Flow"] == (1.5, 0)
            (group,) = driver._classes
            assert (len(group.monitored), group.longest_ns) == (3, 200_000_000)
            peer.tell(set=2.5)
            await support.eventually(lambda: taken.values["Flow"] == (2.5, 0))
            count = taken.count["Flow"]
            await support.eventually(lambda: taken.count["Flow"] > count + 2)  # keep-alives
            peer.tell(set=3.5, status="UncertainSensorNotAccurate")
            told = (3.5, status.UNCERTAIN_SENSOR_NOT_ACCURATE)
            await support.eventually(lambda: taken.values["Flow"] == told)
            peer.tell(set=0, status="BadSensorFailure")
            await support.eventually(lambda: taken.values["Flow"][1] == status.BAD_SENSOR_FAILURE)
            await driver.write(made.points["Setpoint"], -12.0)
            assert await peer.line("written") == -12
            await support.eventually(lambda: taken.values["Setpoint"] == (-12.0, 0))
            with pytest.raises(Refused, match="Bad"):
                await driver.write(made.points["Fixed"], 1.0)
            peer.process.kill()
            await support.eventually(lambda: taken.ended)
