"""History as a client over a real connection reads it, out of a real archive."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pytest
import pytest_asyncio
from asyncua import Client, ua

from gateway.core.records import RECORD, Batch, Event
from gateway.opcua.names import own_id, standard_id
from sync.archive.archive import AsyncArchive
from tests.gateway.opcua_case import NOW_NS, SITE, started
from tests.gateway.points import point

pytestmark = pytest.mark.asyncio(loop_scope="module")

NS = 1_000_000_000
DAY_S = 86_400
START_NS = NOW_NS - NOW_NS % NS - DAY_S * NS
START = datetime.fromtimestamp(START_NS // NS, UTC)
IDS = ua.ObjectIds
POINTS = (*SITE, point(6, "Stack.Current_Set", writable=True))


def day() -> Batch:
    """A day of a temperature every second, a fan that toggles each minute, and two events."""
    rows = np.zeros(DAY_S + DAY_S // 60, dtype=RECORD)
    seconds = np.arange(DAY_S)
    rows["point"][:DAY_S] = 1
    rows["value"][:DAY_S] = seconds % 100 / 8
    rows["utc_ns"][:DAY_S] = START_NS + seconds * NS
    minutes = np.arange(DAY_S // 60)
    rows["point"][DAY_S:] = 3
    rows["value"][DAY_S:] = minutes % 2
    rows["utc_ns"][DAY_S:] = START_NS + minutes * 60 * NS
    rows["status"][DAY_S + 5] = 0x800A0000
    rows = rows[np.argsort(rows["utc_ns"], kind="stable")]
    rows["seq"] = np.arange(1, len(rows) + 1)
    events = tuple(
        Event(
            len(rows) + number, START_NS + number * 3600 * NS, "gateway", {"what": f"no {number}"}
        )
        for number in (1, 2)
    )
    return Batch(7, 1, len(rows) + 2, "birth", rows, events)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scada(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Client]:
    folder = tmp_path_factory.mktemp("history")
    archive = await AsyncArchive.open(folder / "history.sqlite", quota_bytes=100_000_000)
    await archive.learn("birth", lambda: [dataclasses.asdict(one) for one in SITE])
    await archive.add([day()])
    server = await started(folder, points=POINTS, archive=archive)
    async with Client(server.url, timeout=30) as client:
        yield client
    await server.stop()
    await archive.close()


async def test_a_day_comes_value_for_value(scada: Client) -> None:
    node = scada.get_node(own_id("Stack.Temperature"))
    found = await node.read_raw_history(START, START + timedelta(days=1), 0, return_bounds=False)
    assert [one.Value.Value for one in found] == [at % 100 / 8 for at in range(DAY_S)]
    times = [one.SourceTimestamp for one in found]
    assert (times[0].replace(tzinfo=UTC), len(times)) == (START, DAY_S)
    assert all(later - one == timedelta(seconds=1) for one, later in pairwise(times))


async def test_the_librarys_client_goes_on_over_continuation_points(scada: Client) -> None:
    details = ua.ReadRawModifiedDetails(False, START, START + timedelta(hours=1), 1000, False)
    node = scada.get_node(own_id("Stack.Temperature"))
    found: list[float] = []
    mark = None
    while True:
        result = await node.history_read(details, mark)
        found += [one.Value.Value for one in result.HistoryData.DataValues]
        mark = result.ContinuationPoint
        if mark is None:
            break
    assert found == [at % 100 / 8 for at in range(3600)]


async def test_the_newest_values_backwards_with_their_codes(scada: Client) -> None:
    node = scada.get_node(own_id("Fan.Running"))
    end = START + timedelta(minutes=6)
    found = await node.read_raw_history(None, end, 3, return_bounds=False)
    shown = [(one.Value and one.Value.Value, one.StatusCode.value) for one in found]
    assert shown == [(False, 0), (None, 0x800A0000), (False, 0)]
    nothing = await node.read_raw_history(
        START - timedelta(days=9), START - timedelta(days=8), 0, return_bounds=False
    )
    assert nothing == []


async def processed(scada: Client, name: str, tag: str, hours: int) -> list[ua.DataValue]:
    details = ua.ReadProcessedDetails(
        START,
        START + timedelta(hours=hours),
        3_600_000.0,
        [standard_id(getattr(IDS, f"AggregateFunction_{name}"))],
    )
    wanted = ua.HistoryReadParameters(
        details, ua.TimestampsToReturn.Both, False, [ua.HistoryReadValueId(own_id(tag))]
    )
    (result,) = await scada.uaclient.history_read(wanted)
    result.StatusCode.check()
    found: list[ua.DataValue] = result.HistoryData.DataValues
    return found


async def test_hours_of_aggregates(scada: Client) -> None:
    average = await processed(scada, "Average", "Stack.Temperature", 24)
    assert [one.Value.Value for one in average] == [pytest.approx(99 / 16)] * 24
    assert {one.StatusCode.value for one in average} == {0x401}
    count = await processed(scada, "Count", "Fan.Running", 2)
    assert [one.Value.Value for one in count] == [59, 60]
    share = await processed(scada, "PercentGood", "Fan.Running", 2)
    assert [one.Value.Value for one in share] == [pytest.approx(100 * 59 / 60), 100.0]


async def test_events_are_read_back_through_a_filter(scada: Client) -> None:
    clause = ua.SimpleAttributeOperand(
        standard_id(IDS.BaseEventType), [ua.QualifiedName("Message")], ua.AttributeIds.Value
    )
    wanted = ua.EventFilter([clause])
    for node in (standard_id(IDS.Server), own_id("/")):
        found = await _events(scada, node, wanted)
        assert [text.split("; ")[0] for text in found] == ["gateway: no 1", "gateway: no 2"]


async def _events(scada: Client, node: ua.NodeId, wanted: ua.EventFilter) -> list[str]:
    details = ua.ReadEventDetails(0, START, START + timedelta(days=1), wanted)
    request = ua.HistoryReadParameters(
        details, ua.TimestampsToReturn.Source, False, [ua.HistoryReadValueId(node)]
    )
    (result,) = await scada.uaclient.history_read(request)
    result.StatusCode.check()
    return [one.EventFields[0].Value.Text for one in result.HistoryData.Events]


async def test_the_address_space_says_what_history_can(scada: Client) -> None:
    async def value(number: int) -> object:
        return await scada.get_node(standard_id(number)).read_value()

    assert await value(IDS.HistoryServerCapabilities_AccessHistoryDataCapability) is True
    assert await value(IDS.HistoryServerCapabilities_AccessHistoryEventsCapability) is True
    assert await value(IDS.HistoryServerCapabilities_UpdateDataCapability) is False
    assert await value(IDS.HistoryServerCapabilities_ServerTimestampSupported) is False
    assert await value(IDS.HistoryServerCapabilities_MaxReturnDataValues) == 100_000
    folder = scada.get_node(standard_id(IDS.HistoryServerCapabilities_AggregateFunctions))
    names = {(await child.read_browse_name()).Name for child in await folder.get_children()}
    assert {"Average", "Interpolative", "PercentGood", "TimeAverage", "Total"} <= names
    assert "TimeAverage2" not in names
    server = await scada.get_node(standard_id(IDS.Server)).get_children()
    assert standard_id(IDS.DefaultHAConfiguration) not in {child.nodeid for child in server}
    for tag, stepped in (
        ("Stack.Temperature", False),
        ("Fan.Running", True),
        ("Stack.Current_Set", True),
    ):
        node = scada.get_node(own_id(tag))
        level = await node.read_attribute(ua.AttributeIds.UserAccessLevel)
        assert level.Value.Value & 4
        assert (await node.read_attribute(ua.AttributeIds.Historizing)).Value.Value is True
        (how,) = await node.get_referenced_nodes(IDS.HasHistoricalConfiguration)
        assert (await how.read_browse_name()).to_string() == "0:HA Configuration"
        assert await (await how.get_child("0:Stepped")).read_value() is stepped
        path = ["0:AggregateConfiguration", "0:TreatUncertainAsBad"]
        assert await (await how.get_child(path)).read_value() is True
        path = ["0:AggregateConfiguration", "0:PercentDataGood"]
        assert await (await how.get_child(path)).read_value() == 100
    for node in (standard_id(IDS.Server), own_id("/")):
        notifier = await scada.get_node(node).read_attribute(ua.AttributeIds.EventNotifier)
        assert notifier.Value.Value & 4


async def test_nobody_updates_history(scada: Client) -> None:
    details = ua.DeleteRawModifiedDetails(own_id("Stack.Temperature"), False, START, START)
    (result,) = await scada.uaclient.history_update(ua.HistoryUpdateParameters([details]))
    assert result.StatusCode.value == ua.StatusCodes.BadHistoryOperationUnsupported
