"""Monitored items on events: filters, queues, refresh, limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from asyncua import ua

from gateway.opcua.event import UaEvent
from gateway.opcua.methods import MethodFault
from gateway.opcua.monitoring import limits
from gateway.opcua.names import own_id, standard_id
from tests.gateway.monitoring_case import SERVER, Bench, Client, event, item, monitored, notifier

CODES = ua.StatusCodes
VOLTAGE = own_id("Stack.Voltage")
WANTED = ua.EventFilter(SelectClauses=[ua.SimpleAttributeOperand()])


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def client(bench: Bench) -> Client:
    return Client(bench)


async def listening(bench: Bench, client: Client, wanted: Any = WANTED, **more: Any) -> int:
    bench.reader.shown[SERVER, 12] = notifier(1)
    wanted = item(SERVER, 4, attribute=12, Filter=wanted, **more)
    number = (await client.subscribe(100, RequestedMaxKeepAliveCount=100)).SubscriptionId
    (result,) = await client.monitor(number, wanted)
    assert result.StatusCode.value == 0
    assert isinstance(result.FilterResult, ua.EventFilterResult)
    await client.publish()
    bench.run(100)
    client.answers.clear()
    return int(number)


async def test_events_come_where_the_filter_and_the_rights_let_them(
    bench: Bench, client: Client
) -> None:
    await listening(bench, client)
    bench.subscriptions.may_see = lambda user, one: one.message != "secret"
    for message in ("one", "unwanted", "secret", "two"):
        bench.subscriptions.offer(event(message))
    await client.publish()
    bench.run(100)
    assert client.messages() == [(4, "one"), (4, "two")]


@pytest.mark.parametrize("oldest_goes", [True, False])
async def test_events_that_had_no_room_are_told(
    bench: Bench, client: Client, monkeypatch: pytest.MonkeyPatch, oldest_goes: bool
) -> None:
    monkeypatch.setattr(limits, "EVENT_QUEUE_MIN", 2)
    await listening(bench, client, QueueSize=2, DiscardOldest=oldest_goes)
    for n in range(4):
        bench.subscriptions.offer(event(str(n)))
    await client.publish()
    bench.run(100)
    lost, seen = "Events were lost: the queue of the item was full", client.messages()
    kept = [lost, "2", "3"] if oldest_goes else ["0", "1", lost]
    # Perhaps conditions were among them (OPC 10000-9, 5.11.4).
    assert seen == [(4, text) for text in (*kept, "Conditions may have changed unheard")]


@pytest.mark.parametrize("name", ["SUBSCRIPTION_EVENT_ITEMS_MAX", "EVENT_ITEMS_MAX"])
async def test_items_for_events_are_bounded(
    bench: Bench, client: Client, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(limits, name, 1)
    number = await listening(bench, client)
    (result,) = await client.monitor(number, item(SERVER, attribute=12, Filter=WANTED))
    assert result.StatusCode.value == CODES.BadTooManyMonitoredItems


async def test_a_node_without_events_refuses_event_items(bench: Bench, client: Client) -> None:
    bench.reader.shown[VOLTAGE, 12] = notifier(0)
    number = (await client.subscribe(100)).SubscriptionId
    (result,) = await client.monitor(number, item(VOLTAGE, attribute=12, Filter=WANTED))
    assert result.StatusCode.value == CODES.BadAttributeIdInvalid


async def test_a_deleted_item_hears_nothing_more(bench: Bench, client: Client) -> None:
    number = await listening(bench, client)
    await client.ask("DeleteMonitoredItems", ua.DeleteMonitoredItemsParameters(number, [1]))
    bench.subscriptions.offer(event("late"))
    assert not bench.subscriptions._listeners


def told(*messages: str) -> Callable[[], Iterator[UaEvent]]:
    """What a refresh tells."""
    return lambda: iter([event(message) for message in messages])


async def test_a_refresh_stands_between_its_two_events(bench: Bench, client: Client) -> None:
    number = await listening(bench, client)
    bench.subscriptions.refresh(client.session, number, None, told("hot", "unwanted"))
    await client.publish()
    bench.run(100)
    assert [text for _, text in client.messages()] == ["Refresh begins", "hot", "Refresh ends"]
    for session, one, item_id, code in (
        (client.session, 99, None, CODES.BadSubscriptionIdInvalid),
        (client.session, number, 99, CODES.BadMonitoredItemIdInvalid),
        (Client(bench).session, number, None, CODES.BadUserAccessDenied),
    ):
        with pytest.raises(MethodFault) as caught:
            bench.subscriptions.refresh(session, one, item_id, told())
        assert caught.value.code == code


async def test_no_where_clause_hides_that_a_refresh_is_required(
    bench: Bench, client: Client
) -> None:
    only = ua.ContentFilter([ua.ContentFilterElement()])
    await listening(bench, client, ua.EventFilter([ua.SimpleAttributeOperand()], only))
    kind = standard_id(ua.ObjectIds.RefreshRequiredEventType)
    bench.subscriptions.offer(replace(event("refresh"), type_id=kind))
    bench.subscriptions.offer(event("cold"))
    await client.publish()
    bench.run(100)
    assert client.messages() == [(4, "refresh")]


async def test_a_refresh_of_more_than_a_queue_holds_loses_nothing(
    bench: Bench, client: Client
) -> None:
    number = await listening(bench, client)
    names = [str(n) for n in range(3 * limits.EVENT_QUEUE_MAX)]

    def conditions() -> Iterator[UaEvent]:
        for name in names:
            bench.clock.advance(10_000)
            yield event(name)

    bench.subscriptions.refresh(client.session, number, None, conditions)
    seen: list[str] = []
    while seen[-1:] != ["Refresh ends"]:
        await client.publish()
        bench.run(100)
        (answer,) = client.answers
        piece = [text for _, text in client.messages()]
        assert 0 < len(piece) <= 202  # no stretch of work is long
        seen += piece
        # What is left goes with the next answer: it does not wait for an interval.
        assert answer.Parameters.MoreNotifications == (seen[-1] != "Refresh ends")
    assert seen == ["Refresh begins", *names, "Refresh ends"]


async def test_what_happens_during_a_refresh_is_never_told_before_it_happened(
    bench: Bench, client: Client
) -> None:
    """A condition's refresh comes behind its events that were told: it can't turn time back."""
    number = await listening(bench, client)
    now = {"hot": "hot 1"}
    refresh = lambda: (event(now[name]) for name in ("hot",))  # noqa: E731
    bench.subscriptions.refresh(client.session, number, None, refresh)
    now["hot"] = "hot 2"
    bench.subscriptions.offer(event("hot 2"))
    await client.publish()
    bench.run(100)
    texts = [text for _, text in client.messages()]
    assert texts == ["hot 2", "Refresh begins", "hot 2", "Refresh ends"]


async def test_a_refresh_goes_on_once_and_needs_an_item(bench: Bench, client: Client) -> None:
    number = await listening(bench, client)

    def refresh(number: int) -> int:
        with pytest.raises(MethodFault) as caught:
            bench.subscriptions.refresh(client.session, number, None, told())
        return caught.value.code

    bench.subscriptions.refresh(client.session, number, None, told("hot"))
    assert refresh(number) == CODES.BadRefreshInProgress
    await client.publish()
    bench.run(100)
    assert len(client.messages()) == 3
    bench.subscriptions.refresh(client.session, number, None, told("hot"))
    empty = (await client.subscribe(100)).SubscriptionId
    assert refresh(empty) == CODES.BadNothingToDo


async def test_a_refresh_that_wants_little_holds_nobody_up(bench: Bench, client: Client) -> None:
    number = await listening(bench, client)
    looked = []

    def conditions() -> Iterator[UaEvent]:
        for n in range(5_000):
            looked.append(n)
            bench.clock.advance(5_000)
            yield event("unwanted")

    bench.subscriptions.refresh(client.session, number, None, conditions)
    await client.publish()
    bench.run(100)
    assert 0 < len(looked) <= 402
    seen = client.messages()
    for _ in range(3):
        await client.publish()
        bench.run(100)
        seen += client.messages()
    assert [text for _, text in seen] == ["Refresh begins", "Refresh ends"]


async def test_a_where_clause_does_not_hide_the_bounds_of_a_refresh(
    bench: Bench, client: Client
) -> None:
    only = ua.ContentFilter([ua.ContentFilterElement()])
    wanted = ua.EventFilter([ua.SimpleAttributeOperand()], only)
    number = await listening(bench, client, wanted)
    bench.subscriptions.refresh(client.session, number, 1, told("hot", "cold"))
    await client.publish()
    bench.run(100)
    assert [text for _, text in client.messages()] == ["Refresh begins", "hot", "Refresh ends"]


async def test_events_and_values_share_a_limited_message(bench: Bench, client: Client) -> None:
    bench.reader.shown[SERVER, 12] = notifier(1)
    number = await monitored(
        client,
        item("Stack.Voltage", 1),
        item(SERVER, 4, attribute=12, Filter=WANTED),
        MaxNotificationsPerPublish=2,
    )
    for n in range(3):
        bench.subscriptions.offer(event(str(n)))
    bench.change((2, 1.0, 0))
    await client.publish()
    bench.run(100)
    parts = client.answers[0].Parameters.NotificationMessage.NotificationData
    assert [type(part).__name__ for part in parts] == [
        "DataChangeNotification",
        "EventNotificationList",
    ]
    assert number
