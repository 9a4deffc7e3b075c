"""Monitored items: sampling, queues, filters, modes, triggers, events, limits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from asyncua import ua

from config import status
from gateway.opcua.monitoring import limits
from gateway.opcua.monitoring.encoding import OVERFLOW
from gateway.opcua.monitoring.item_services import is_range
from gateway.opcua.names import own_id
from gateway.opcua.values import data_value
from tests.gateway.monitoring_case import (
    SERVER,
    Bench,
    Client,
    bad,
    came,
    item,
    monitored,
    notifier,
)
from tests.gateway.opcua_case import NOW_NS, SITE
from tests.gateway.points import point

CODES = ua.StatusCodes
WAITING = status.BAD_WAITING_FOR_INITIAL_DATA
VOLTAGE = own_id("Stack.Voltage")


@pytest.fixture
def bench() -> Bench:
    made = Bench()
    made.change((1, 0.0, 0), (2, 0.0, 0), (3, 0.0, 0), (4, 0.0, 0), (5, 0.0, 0))
    return made


@pytest.fixture
def client(bench: Bench) -> Client:
    return Client(bench)


# -- sampling ----------------------------------------------------------------------------------


async def test_a_point_reports_once_per_sampling_interval(bench: Bench, client: Client) -> None:
    slow = item("Stack.Voltage", 1, SamplingInterval=500, QueueSize=10)
    fast = item("Stack.Temperature", 2, SamplingInterval=0, QueueSize=10)
    await monitored(client, slow, fast)
    seen = []
    for turn in range(1, 11):
        bench.change((1, turn, 0), (2, turn, 0))
        seen += await came(client)
    assert [value for handle, value, _ in seen if handle == 2] == list(range(1, 11))
    assert [value for handle, value, _ in seen if handle == 1] == [5, 10]


async def test_what_is_sampled_goes_with_the_message_of_the_same_moment(
    bench: Bench, client: Client
) -> None:
    await monitored(client, item("Stack.Voltage", SamplingInterval=-1))
    bench.change((2, 3.0, 0))
    assert await came(client) == [(1, 3.0, 0)]


@pytest.mark.parametrize(
    ("asked_ms", "given_ms"),
    [(0.0, 0.0), (10.0, 50.0), (-1.0, 250.0), (-7.0, 250.0), (1e12, 3_600_000.0), (333.4, 334.0)],
)
async def test_sampling_intervals_as_given(
    client: Client, asked_ms: float, given_ms: float
) -> None:
    made = await client.subscribe(250)
    (result,) = await client.monitor(
        made.SubscriptionId, item("Stack.Voltage", SamplingInterval=asked_ms)
    )
    assert result.RevisedSamplingInterval == given_ms


async def test_other_attributes_are_read_again_and_again(bench: Bench, client: Client) -> None:
    name = ua.AttributeIds.DisplayName
    shown = data_value(ua.VariantType.Double, 0, 0, 0, NOW_NS)
    shown.Value = ua.Variant(ua.LocalizedText("old"))
    bench.reader.shown[VOLTAGE, name] = shown
    await monitored(client, item(VOLTAGE, attribute=name, SamplingInterval=0))
    assert await came(client) == []
    other = data_value(ua.VariantType.Double, 0, 0, 0, NOW_NS)
    other.Value = ua.Variant(ua.LocalizedText("new"))
    bench.reader.shown[VOLTAGE, name] = other
    bench.run(200)
    assert [value.Text for _, value, _ in client.values()] == ["new"]
    bench.reader.shown[VOLTAGE, name] = bad(CODES.BadNodeIdUnknown)
    assert await came(client) == [(1, None, CODES.BadNodeIdUnknown)]


async def test_the_more_items_must_be_read_the_seldomer_they_are(
    bench: Bench, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "READS_PER_S_MAX", 10)
    made = await client.subscribe(100)
    bench.reader.shown[VOLTAGE, 4] = data_value(ua.VariantType.Double, 0, 0, 0, NOW_NS)
    wanted = [item(VOLTAGE, attribute=4, SamplingInterval=0) for _ in range(4)]
    results = await client.monitor(made.SubscriptionId, *wanted)
    assert [one.RevisedSamplingInterval for one in results] == [100, 200, 300, 400]


async def test_a_rebuild_ends_an_item_once_and_it_lives_again(bench: Bench, client: Client) -> None:
    number = await monitored(client, item("Fan.Running"), item("Stack.Voltage", 2))
    bench.values.replace([point(1, "Stack.Voltage")])
    assert await came(client) == [(1, None, CODES.BadNodeIdUnknown)]
    bench.change((1, 4.0, 0))
    assert await came(client) == [(2, 4.0, 0)]
    bench.values.replace(SITE)
    assert await came(client) == [(1, None, WAITING)]
    bench.change((3, 1.0, 0))
    assert await came(client) == [(1, True, 0)]
    assert number


async def test_a_change_that_nobody_monitors_leaves_items_alone(
    bench: Bench, client: Client
) -> None:
    await monitored(client, item("Stack.Voltage"))
    bench.change((1, 9.0, 0), (5, 1.0, 0))
    assert await came(client) == []


# -- queues ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("queue", "oldest_goes", "expected"),
    [
        (1, True, [(5.0, 0)]),
        (1, False, [(5.0, 0)]),
        (3, True, [(3.0, OVERFLOW), (4.0, 0), (5.0, 0)]),
        (3, False, [(1.0, 0), (2.0, 0), (5.0, OVERFLOW)]),
        (10, True, [(1.0, 0), (2.0, 0), (3.0, 0), (4.0, 0), (5.0, 0)]),
    ],
)
async def test_a_full_queue_drops_and_marks(
    bench: Bench, client: Client, queue: int, oldest_goes: bool, expected: list[tuple[float, int]]
) -> None:
    await monitored(client, item("Stack.Voltage", QueueSize=queue, DiscardOldest=oldest_goes))
    for value in range(1, 6):
        bench.change((2, value, 0))
    assert [(value, code) for _, value, code in await came(client)] == expected
    bench.change((2, 9.0, 0))
    assert await came(client) == [(1, 9.0, 0)]


async def test_a_limit_within_a_queue_keeps_the_order(bench: Bench, client: Client) -> None:
    tags = ("Stack.Temperature", "Stack.Voltage")
    wanted = [item(tag, n, QueueSize=5) for n, tag in enumerate(tags)]
    await monitored(client, *wanted, MaxNotificationsPerPublish=2)
    await came(client)
    for value in range(1, 5):
        bench.change((1, value, 0), (2, 10 + value, 0))
    seen = []
    for _ in range(6):
        seen += await came(client)
    assert [value for handle, value, _ in seen if handle == 0] == [1, 2, 3, 4]
    assert [value for handle, value, _ in seen if handle == 1] == [11, 12, 13, 14]


async def test_without_room_in_the_server_the_newest_stays_and_is_marked(
    bench: Bench, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "QUEUED_BYTES_MAX", 2 * limits.ENTRY_BYTES)
    await monitored(client, item("Stack.Voltage", QueueSize=100))
    for value in range(1, 8):
        bench.change((2, value, 0))
    seen = [(value, code) for _, value, code in await came(client)]
    assert seen == [(5.0, OVERFLOW), (6.0, 0), (7.0, 0)]


async def test_what_is_dropped_gives_its_room_back(bench: Bench, client: Client) -> None:
    number = await monitored(client, *(item("Stack.Voltage", n, QueueSize=50) for n in range(5)))
    subscription = bench.subscriptions.get(number)
    assert subscription is not None
    for value in range(20):
        bench.change((2, value, 0))
    used = limits.QUEUED_BYTES_MAX - subscription.budget.left_bytes
    assert used >= 90 * limits.ENTRY_BYTES
    ids = list(subscription.items)
    await client.ask("DeleteMonitoredItems", ua.DeleteMonitoredItemsParameters(number, ids[:2]))
    await client.ask(
        "SetMonitoringMode",
        ua.SetMonitoringModeParameters(number, ua.MonitoringMode.Disabled, [ids[2]]),
    )
    await came(client)
    assert subscription.budget.left_bytes == limits.QUEUED_BYTES_MAX
    for value in range(20):
        bench.change((2, value, 0))
    shared = bench.subscriptions._shared
    await client.ask("DeleteSubscriptions", ua.DeleteSubscriptionsParameters([number]))
    assert shared.queued.left_bytes == limits.QUEUED_ALL_BYTES_MAX
    assert shared.retained.left_bytes == limits.RETAINED_ALL_BYTES_MAX
    assert bench.subscriptions.items == 0


# -- filters, modes, triggers ------------------------------------------------------------------


async def test_percent_deadbands_are_of_the_range(bench: Bench, client: Client) -> None:
    wanted = ua.DataChangeFilter(ua.DataChangeTrigger.StatusValue, ua.DeadbandType.Percent, 1.0)
    await monitored(client, item("Stack.Temperature", QueueSize=10, Filter=wanted))
    for value in (5.0, 9.0, 9.5, 15.0, 18.6):
        bench.change((1, value, 0))
    assert [value for _, value, _ in await came(client)] == [9.5, 18.6]


async def test_modify_changes_filter_queue_handle_and_sampling(
    bench: Bench, client: Client
) -> None:
    number = await monitored(client, item("Stack.Voltage", QueueSize=10))
    wanted = ua.DataChangeFilter(ua.DataChangeTrigger.StatusValue, ua.DeadbandType.Absolute, 2.0)
    parameters = ua.MonitoringParameters(9, 200, wanted, 3, True)
    asked = ua.ModifyMonitoredItemsParameters(
        number,
        ua.TimestampsToReturn.Neither,
        [ua.MonitoredItemModifyRequest(one, parameters) for one in (1, 55)],
    )
    response = await client.ask("ModifyMonitoredItems", asked)
    good, wrong = response.Results
    assert (good.RevisedSamplingInterval, good.RevisedQueueSize) == (200, 3)
    assert wrong.StatusCode.value == CODES.BadMonitoredItemIdInvalid
    bench.change((2, 1.0, 0))
    assert await came(client, 200) == []
    bench.change((2, 3.0, 0))
    bench.run(200)
    shown = client.answers[0].Parameters.NotificationMessage.NotificationData[0].MonitoredItems[0]
    assert (shown.ClientHandle, shown.Value.Value.Value) == (9, 3.0)
    assert shown.Value.SourceTimestamp is None
    assert shown.Value.ServerTimestamp is None


async def test_a_smaller_queue_drops_the_oldest(bench: Bench, client: Client) -> None:
    number = await monitored(client, item("Stack.Voltage", QueueSize=10))
    for value in range(1, 6):
        bench.change((2, value, 0))
    asked = ua.ModifyMonitoredItemsParameters(
        number,
        ua.TimestampsToReturn.Both,
        [ua.MonitoredItemModifyRequest(1, ua.MonitoringParameters(1, 0, None, 2, True))],
    )
    await client.ask("ModifyMonitoredItems", asked)
    assert [value for _, value, _ in await came(client)] == [4.0, 5.0]


async def test_modes_disabled_sampling_and_reporting(bench: Bench, client: Client) -> None:
    number = await monitored(client, item("Stack.Voltage", QueueSize=10, mode=0))

    async def switch(mode: ua.MonitoringMode) -> list[int]:
        asked = ua.SetMonitoringModeParameters(number, mode, [1, 77])
        response = await client.ask("SetMonitoringMode", asked)
        return [result.value for result in response.Parameters.Results]

    bench.change((2, 1.0, 0))
    assert await came(client) == []
    assert await switch(ua.MonitoringMode.Sampling) == [0, CODES.BadMonitoredItemIdInvalid]
    bench.change((2, 2.0, 0))
    bench.run(200)
    assert client.values() == []
    await switch(ua.MonitoringMode.Reporting)
    bench.run(100)
    assert client.values() == [(1, 1.0, 0), (1, 2.0, 0)]
    bench.change((2, 3.0, 0))
    await switch(ua.MonitoringMode.Disabled)
    assert await came(client) == []
    await switch(ua.MonitoringMode.Reporting)
    bench.run(100)
    assert client.values() == [(1, 3.0, 0)]


async def test_a_triggering_item_lets_others_report(bench: Bench, client: Client) -> None:
    number = await monitored(
        client, item("Fan.Running", 1), item("Stack.Voltage", 2, mode=1, QueueSize=10)
    )
    asked = ua.SetTriggeringParameters(number, 1, [2, 88], [])
    result = (await client.ask("SetTriggering", asked)).Parameters
    assert [one.value for one in result.AddResults] == [0, CODES.BadMonitoredItemIdInvalid]
    bench.change((2, 1.0, 0))
    assert await came(client) == []
    bench.change((2, 2.0, 0), (3, 1.0, 0))
    bench.run(100)
    assert sorted(client.values()) == [(1, True, 0), (2, 0.0, 0), (2, 1.0, 0), (2, 2.0, 0)]
    bench.change((2, 3.0, 0))
    assert await came(client) == []
    asked = ua.SetTriggeringParameters(number, 1, [], [2, 2])
    result = (await client.ask("SetTriggering", asked)).Parameters
    assert [one.value for one in result.RemoveResults] == [0, CODES.BadMonitoredItemIdInvalid]
    bench.change((3, 0.0, 0))
    bench.run(100)
    assert client.values() == [(1, False, 0)]
    asked = ua.SetTriggeringParameters(number, 99, [2], [])
    assert await client.refused("SetTriggering", asked) == CODES.BadMonitoredItemIdInvalid


async def test_links_are_bounded_and_counted(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LINKS_MAX", 2)
    number = await monitored(client, *(item("Stack.Voltage", n) for n in range(4)))
    subscription = client.bench.subscriptions.get(number)
    assert subscription is not None
    asked = ua.SetTriggeringParameters(number, 1, [2, 2, 3, 4], [])
    result = (await client.ask("SetTriggering", asked)).Parameters
    assert [one.value for one in result.AddResults] == [0, 0, 0, CODES.BadTooManyOperations]
    asked = ua.SetTriggeringParameters(number, 1, [4], [2])
    result = (await client.ask("SetTriggering", asked)).Parameters
    assert [one.value for one in result.AddResults] == [0]
    assert subscription.links == 2
    await client.ask("DeleteMonitoredItems", ua.DeleteMonitoredItemsParameters(number, [1]))
    assert subscription.links == 0


# -- rights ------------------------------------------------------------------------------------


# -- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        (item("No.Such"), CODES.BadNodeIdUnknown),
        (item("Stack.Voltage", attribute=3), CODES.BadAttributeIdInvalid),
        (item("Stack.Voltage", IndexRange="5:2"), CODES.BadIndexRangeInvalid),
        (
            item("Stack.Voltage", DataEncoding=ua.QualifiedName("Default XML", 0)),
            CODES.BadDataEncodingUnsupported,
        ),
        (
            item("Stack.Voltage", attribute=4, DataEncoding=ua.QualifiedName("Default Binary", 0)),
            CODES.BadDataEncodingInvalid,
        ),
        (item("Stack.Voltage", Filter=ua.EventFilter()), CODES.BadFilterNotAllowed),
        (item(SERVER, attribute=12, Filter=ua.EventFilter()), CODES.BadEventFilterInvalid),
    ],
)
async def test_items_that_can_t_be(bench: Bench, client: Client, wanted: Any, code: int) -> None:
    bench.reader.shown[SERVER, 12] = notifier(1)
    number = (await client.subscribe(100)).SubscriptionId
    (result,) = await client.monitor(number, wanted)
    assert result.StatusCode.value == code
    assert bench.subscriptions.items == 0


async def test_an_index_range_of_a_number_has_no_data(bench: Bench, client: Client) -> None:
    number = (await client.subscribe(100)).SubscriptionId
    (result,) = await client.monitor(number, item("Stack.Voltage", IndexRange="1:2"))
    assert result.StatusCode.value == 0
    assert await came(client) == [(1, None, CODES.BadIndexRangeNoData)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", True), ("1:3", True), ("1:2,0", True), ("3:3", False), ("a", False), ("1:", False)],
)
def test_index_ranges(text: str, expected: bool) -> None:
    assert is_range(text) is expected


async def test_requests_that_can_t_be(client: Client) -> None:
    number = (await client.subscribe(100)).SubscriptionId
    both = ua.TimestampsToReturn.Both
    refusals = [
        (
            "CreateMonitoredItems",
            ua.CreateMonitoredItemsParameters(number, both, []),
            "NothingToDo",
        ),
        (
            "CreateMonitoredItems",
            ua.CreateMonitoredItemsParameters(number, ua.TimestampsToReturn.Invalid, []),
            "TimestampsToReturnInvalid",
        ),
        (
            "CreateMonitoredItems",
            ua.CreateMonitoredItemsParameters(99, both, []),
            "SubscriptionIdInvalid",
        ),
        ("DeleteMonitoredItems", ua.DeleteMonitoredItemsParameters(number, []), "NothingToDo"),
        ("SetTriggering", ua.SetTriggeringParameters(number, 1, [], []), "NothingToDo"),
        (
            "DeleteMonitoredItems",
            ua.DeleteMonitoredItemsParameters(number, [1] * (limits.OPERATIONS_MAX + 1)),
            "TooManyOperations",
        ),
    ]
    for name, parameters, code in refusals:
        assert await client.refused(name, parameters) == getattr(CODES, f"Bad{code}")


@pytest.mark.parametrize("name", ["SUBSCRIPTION_ITEMS_MAX", "SESSION_ITEMS_MAX", "ITEMS_MAX"])
async def test_items_are_bounded(
    client: Client, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(limits, name, 2)
    number = (await client.subscribe(100)).SubscriptionId
    results = await client.monitor(number, *(item("Stack.Voltage", n) for n in range(3)))
    found = [result.StatusCode.value for result in results]
    assert found == [0, 0, CODES.BadTooManyMonitoredItems]


# -- the cost of what nobody wants -------------------------------------------------------------


async def test_points_that_change_twice_in_a_batch_are_told_twice(
    bench: Bench, client: Client
) -> None:
    await monitored(client, item("Stack.Voltage", QueueSize=10))
    bench.change(*((2, value, 0) for value in range(1, 6)))
    assert [value for _, value, _ in await came(client)] == [1, 2, 3, 4, 5]
    # Of a flood the first ones and the last; a batch can't hold the process up.
    bench.change(*((2, value, 0) for value in range(10, 1000)), (1, 4.0, 0))
    assert [value for _, value, _ in await came(client)] == [*range(10, 19), 999]
    assert (bench.subscriptions._at == -1).all()


async def test_a_thousand_items_are_sampled_in_a_few_calls(bench: Bench, client: Client) -> None:
    many = [point(n + 1, f"A.p{n}") for n in range(300)]
    bench.values.replace(many)
    number = (await client.subscribe(100)).SubscriptionId
    await client.monitor(number, *(item(given.tag, given.index) for given in many))
    await came(client)
    bench.change(*((n + 1, float(n), 0) for n in range(300)))
    reads = bench.reader.reads
    seen = await came(client)
    assert sorted(seen) == [(n + 1, float(n), 0) for n in range(300)]
    assert bench.reader.reads == reads
    assert np.count_nonzero(bench.subscriptions._eager) == 300
