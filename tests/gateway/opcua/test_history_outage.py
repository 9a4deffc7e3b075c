"""HistoryRead equals the historian's rows, value for value, over an outage of the broker."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from asyncua import Client, ua

from cloud.historian_sqlite import SqliteHistorian
from config import status as codes
from gateway.core.clock import SystemClock
from gateway.opcua.names import own_id
from tests.crash.town import Town

pytestmark = [pytest.mark.slow, pytest.mark.timeout(150)]

OPCUA = {"Endpoint": "opc.tcp://127.0.0.1:0/gatepost", "NoSecurity": True}
NS = 1_000_000_000
Rows = list[tuple[datetime, float | None, int]]


async def test_history_is_what_the_historian_has(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    town = Town(tmp_path, free_port())
    town.link = {"OpcUa": OPCUA, "History": {"Interval": 1}}
    try:
        await town.start()
        await town.until(lambda s: s["link"]["connected"] and s["link"]["opcua"])
        begin_ns = SystemClock().utc_ns() - 60 * NS
        town.broker.kill()
        await town.until(lambda s: not s["link"]["connected"])
        before = (await town.until(lambda s: True))["seq"]
        await town.until(lambda s: s["seq"] > before + 40)
        during = await shown(town, begin_ns, SystemClock().utc_ns())
        town.broker.start()
        await town.broker.wait_ready()
        # What was measured until now has its number once the field has gone on for a while, and is
        # in the historian once that is acknowledged.
        end_ns = SystemClock().utc_ns() // 1000 * 1000
        now = (await town.until(lambda s: True))["seq"]
        await town.until(lambda s: s["seq"] > now + 40)
        await town.arrived()
        found = await shown(town, begin_ns, end_ns)
        held = historian(town, begin_ns, end_ns)
    finally:
        await town.end()
    assert found == held
    assert len(found["Rig.Temperature"]) > 40
    # The client need not wait for the broker: all of it was there in the outage.
    for tag, rows in during.items():
        assert rows == [row for row in held[tag] if row in rows]
    assert len(during["Rig.Temperature"]) > 20


def moment(utc_ns: int) -> datetime:
    """A time as the library has it."""
    whole = datetime.fromtimestamp(utc_ns // NS, UTC)
    return whole.replace(microsecond=utc_ns % NS // 1000)


async def shown(town: Town, begin_ns: int, end_ns: int) -> dict[str, Rows]:
    """What a client reads of all points, as time, value and code."""
    status = await town.until(lambda s: s["link"] and s["link"]["opcua"])
    found: dict[str, Rows] = {}
    span = [moment(begin_ns), moment(end_ns)]
    async with Client(status["link"]["opcua"], timeout=20) as client:
        for tag in await tags(client):
            details = ua.ReadRawModifiedDetails(False, *span, 7, False)
            rows: Rows = []
            mark = None
            while True:
                result = await client.get_node(own_id(tag)).history_read(details, mark)
                result.StatusCode.check()
                for one in result.HistoryData.DataValues:
                    content = one.Value.Value if one.Value is not None else None
                    value = None if content is None else float(content)
                    time = one.SourceTimestamp.replace(tzinfo=UTC)
                    rows.append((time, value, one.StatusCode.value))
                mark = result.ContinuationPoint
                if mark is None:
                    break
            if rows:
                found[tag] = rows
    return found


async def tags(client: Client) -> list[str]:
    """All points of the site."""
    found = []
    waiting = [client.get_node(own_id("/"))]
    while waiting:
        node = waiting.pop()
        below = await node.get_children(nodeclassmask=ua.NodeClass.Object)
        waiting += [child for child in below if str(child.nodeid.Identifier).startswith("/")]
        for child in await node.get_children(nodeclassmask=ua.NodeClass.Variable):
            name = str(child.nodeid.Identifier)
            if child.nodeid.NamespaceIndex == 2 and not name.startswith("/") and "/" not in name:
                found.append(name)
    return sorted(set(found))


def historian(town: Town, begin_ns: int, end_ns: int) -> dict[str, Rows]:
    """What the historian has, as OPC UA shows it."""
    found: dict[str, Rows] = {}
    with contextlib.closing(SqliteHistorian(town.historian_file, read_only=True)) as held:
        samples = sorted(held.query(limit=10**6), key=lambda sample: sample.utc_ns)
    for sample in samples:
        if begin_ns <= sample.utc_ns < end_ns:
            value = None if codes.is_bad(sample.status) else sample.value
            row = (moment(sample.utc_ns), value, sample.status)
            found.setdefault(sample.tag, []).append(row)
    return found
