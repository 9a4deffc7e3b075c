"""``kill -9`` of field and link while an OPC UA client writes: what it is told is true."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from functools import cache
from pathlib import Path

import pytest
from asyncua import Client, ua

from cloud.historian_sqlite import SqliteHistorian
from tests.crash.town import Town
from tests.gateway.opcua import secure_case
from tests.gateway.opcua.scada_case import written
from tests.gateway.opcua.security_case import Holder, holder
from tests.gateway.outside import SITE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]

KILLS = ("field", "link", "field")
AT_ONCE = 5
LOST = "lost"


@cache
def panel() -> Holder:
    """The client's certificate and key."""
    return holder("panel")


@pytest.fixture
async def scada(tmp_path: Path, free_port: Callable[[], int]) -> AsyncIterator[Town]:
    """A town with an OPC UA server; clients are certified by `panel`."""
    made = Town(tmp_path, free_port())
    made.link = {"OpcUa": {"Endpoint": "opc.tcp://127.0.0.1:0/gatepost"}}
    made.rig.state.mkdir(parents=True, exist_ok=True)
    secure_case.prepared(made.rig.state, panel())
    try:
        await made.start()
        yield made
    finally:
        await made.end()


async def connected(town: Town) -> Client:
    """An operator's client, once everything is up."""
    while True:
        status = await town.until(
            lambda s: not s["startup"] and (s["link"] or {}).get("opcua") and s["link"]["connected"]
        )
        # Of a link that was killed just now the field still tells where it listened.
        with contextlib.suppress(ConnectionRefusedError):
            client = await secure_case.client(status["link"]["opcua"], panel(), "otto")
            await client.connect()
            return client
        await asyncio.sleep(0.1)


async def write(client: Client, value: float) -> str:
    """The name of the result, or LOST."""
    try:
        async with asyncio.timeout(15):
            return await written(client, "Rig.Setpoint", value, ua.VariantType.Double)
    except (TimeoutError, ConnectionError, OSError, ua.UaError, asyncio.CancelledError):
        return LOST


def told(town: Town) -> dict[float, list[str]]:
    """Steps of the receipts of clients' commands, by the value that was written."""
    values: dict[str, float] = {}
    steps: defaultdict[float, list[str]] = defaultdict(list)
    historian = SqliteHistorian(town.historian_file, read_only=True)
    with contextlib.closing(historian):
        for event in historian.events(gateway=SITE, kind="receipt", limit=10_000):
            command = str(event.body.get("command", ""))
            if str(event.body.get("source", "")).startswith("opcua:otto@"):
                values[command] = float(event.body["value"])
            if command in values:
                steps[values[command]].append(str(event.body["step"]))
    return steps


async def test_what_a_client_is_told_of_its_writes_is_what_happened(scada: Town) -> None:
    town, numbers = scada, itertools.count()
    results: dict[float, str] = {}
    client = await connected(town)

    async def one() -> str:
        value = 10 + next(numbers) * 0.25
        results[value] = await write(client, value)
        return results[value]

    for turn, name in enumerate(KILLS):
        async with asyncio.timeout(30):
            while await one() not in ("Good", "GoodCompletesAsynchronously"):
                await asyncio.sleep(0.1)
        coming = [asyncio.create_task(one()) for _ in range(AT_ONCE)]
        await asyncio.sleep(0.004 * turn)  # before, while and after they pass through
        town.kill(name)
        await asyncio.gather(*coming)
        await asyncio.gather(*(one() for _ in range(AT_ONCE)))
        with contextlib.suppress(TimeoutError, ConnectionError, OSError, ua.UaError):
            await client.disconnect()
        client = await connected(town)
    assert await one() in ("Good", "GoodCompletesAsynchronously")
    await client.disconnect()
    await town.arrived()
    steps = told(town)
    assert len(results) > len(KILLS) * 2 * AT_ONCE
    for value, result in results.items():
        accepted = steps[value].count("accepted")
        assert accepted <= 1, (value, result, steps[value])
        if result.startswith(("Good", "Uncertain")):
            assert accepted == 1, (value, result, steps[value])
        elif result == "BadNoCommunication":
            assert not accepted, (value, result, steps[value])
        else:  # nobody knows, and no client was told that it was done
            assert result in (LOST, "BadTimeout", "BadInvalidState"), (value, result, steps[value])
