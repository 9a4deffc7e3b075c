"""Subscriptions: what is sent when, and what a client may make the server hold."""

from __future__ import annotations

from typing import Any

import pytest
from asyncua import ua

from gateway.opcua.monitoring import limits
from gateway.opcua.monitoring.limits import Budget
from gateway.opcua.service import Fault
from gateway.opcua.users import ANONYMOUS, Role, User
from tests.gateway.monitoring_case import Bench, Client, item

CODES = ua.StatusCodes


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def client(bench: Bench) -> Client:
    return Client(bench)


def numbers(client: Client) -> list[tuple[int, int]]:
    """(subscription, sequence number) of all answers, keep-alives negative; then forgotten."""
    found = []
    for answer in client.answers:
        message = answer.Parameters.NotificationMessage
        sign = 1 if message.NotificationData else -1
        found.append((answer.Parameters.SubscriptionId, sign * message.SequenceNumber))
    client.answers.clear()
    return found


def status_of(client: Client) -> list[tuple[int, int]]:
    """(subscription, code) of all status changes; then forgotten."""
    found = []
    for answer in client.answers:
        parts = answer.Parameters.NotificationMessage.NotificationData
        changes = [one for one in parts if isinstance(one, ua.StatusChangeNotification)]
        found += [(answer.Parameters.SubscriptionId, one.Status.value) for one in changes]
    client.answers.clear()
    return found


async def test_the_first_message_comes_after_one_interval_then_keep_alives(
    bench: Bench, client: Client
) -> None:
    made = await client.subscribe(100, RequestedMaxKeepAliveCount=3)
    for _ in range(4):
        await client.publish()
    bench.run(90)
    assert numbers(client) == []
    bench.run(10)
    assert numbers(client) == [(made.SubscriptionId, -1)]
    bench.run(390)
    assert numbers(client) == []  # into KeepAlive, then three intervals (5.14.1.2, row 9 and 16)
    bench.run(10)
    assert numbers(client) == [(made.SubscriptionId, -1)]
    bench.run(300)
    assert numbers(client) == [(made.SubscriptionId, -1)]


async def test_a_keep_alive_has_the_number_of_the_message_that_comes_next(
    bench: Bench, client: Client
) -> None:
    made = await client.subscribe(100, RequestedMaxKeepAliveCount=1)
    await client.monitor(made.SubscriptionId, item("Stack.Voltage"))
    for _ in range(4):
        await client.publish()
    bench.run(100)
    assert numbers(client) == [(made.SubscriptionId, 1)]
    bench.run(200)
    assert numbers(client) == [(made.SubscriptionId, -2)]
    bench.change((2, 1.0, 0))
    bench.run(100)
    assert numbers(client) == [(made.SubscriptionId, 2)]


async def test_a_late_publish_request_is_answered_at_once(bench: Bench, client: Client) -> None:
    made = await client.subscribe(100)
    await client.monitor(made.SubscriptionId, item("Stack.Voltage", QueueSize=3))
    bench.run(250)
    await client.publish()
    assert numbers(client) == [(made.SubscriptionId, 1)]
    bench.change((2, 1.0, 0))
    bench.run(100)
    assert numbers(client) == []
    await client.publish()
    assert client.values() == [(1, 1.0, 0)]


async def test_among_late_ones_the_highest_priority_is_first_then_who_waits_longest(
    bench: Bench, client: Client
) -> None:
    ids = []
    for priority in (1, 9, 9):
        ids.append((await client.subscribe(100, Priority=priority)).SubscriptionId)
        bench.run(10)
    bench.run(200)
    for _ in range(3):
        await client.publish()
    assert [one for one, _ in numbers(client)] == [ids[1], ids[2], ids[0]]


async def test_without_a_client_it_ends_and_says_so(bench: Bench, client: Client) -> None:
    made = await client.subscribe(100, RequestedLifetimeCount=60)
    bench.run(59 * 100)
    assert bench.subscriptions.count == 1
    bench.run(200)
    assert bench.subscriptions.count == 0
    await client.publish()
    assert status_of(client) == [(made.SubscriptionId, CODES.BadTimeout)]
    assert await client.refused("Publish", ua.PublishParameters()) == CODES.BadNoSubscription


async def test_a_client_that_asks_keeps_it_alive(bench: Bench, client: Client) -> None:
    made = await client.subscribe(100, RequestedLifetimeCount=60)
    for _ in range(5):
        bench.run(40 * 100)
        await client.ask(
            "SetPublishingMode", ua.SetPublishingModeParameters(True, [made.SubscriptionId])
        )
    assert bench.subscriptions.count == 1


async def test_acknowledgements_have_results_and_what_is_not_acknowledged_comes_again(
    bench: Bench, client: Client
) -> None:
    made = await client.subscribe(100)
    number = made.SubscriptionId
    await client.monitor(number, item("Stack.Voltage"))
    for value in (1.0, 2.0):
        await client.publish()
        bench.run(100)
        bench.change((2, value, 0))
    first = client.answers[0]
    client.answers.clear()
    await client.publish((number, 1), (number, 9), (99, 1))
    bench.run(100)
    parameters = client.answers.pop().Parameters
    found = [result.value for result in parameters.Results]
    assert found == [0, CODES.BadSequenceNumberUnknown, CODES.BadSubscriptionIdInvalid]
    assert parameters.AvailableSequenceNumbers == [2, 3]
    again = await client.ask("Republish", ua.RepublishParameters(number, 2))
    assert again.NotificationMessage.SequenceNumber == 2
    assert first.Parameters.NotificationMessage.SequenceNumber == 1
    gone = ua.RepublishParameters(number, 1)
    assert await client.refused("Republish", gone) == CODES.BadMessageNotAvailable


async def test_messages_that_nobody_acknowledges_are_bounded(
    bench: Bench, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "RETAINED_MESSAGES_MAX", 3)
    made = await client.subscribe(100)
    await client.monitor(made.SubscriptionId, item("Stack.Voltage"))
    for value in range(6):
        await client.publish()
        bench.change((2, value, 0))
        bench.run(100)
    assert client.answers[-1].Parameters.AvailableSequenceNumbers == [4, 5, 6]


async def test_a_limit_of_notifications_splits_messages_and_starves_nobody(
    bench: Bench, client: Client
) -> None:
    made = await client.subscribe(100, MaxNotificationsPerPublish=2)
    tags = ["Stack.Temperature", "Stack.Voltage", "Gateway.Overruns"]
    wanted = [item(tag, handle) for handle, tag in enumerate(tags)]
    await client.monitor(made.SubscriptionId, *wanted)
    await client.publish()
    await client.publish()
    bench.run(100)
    assert [answer.Parameters.MoreNotifications for answer in client.answers] == [True, False]
    assert [handle for handle, _, _ in client.values()] == [0, 1, 2]
    seen = []
    for turn in range(1, 7):
        bench.change((1, turn, 0), (2, turn, 0), (5, turn, 0))
        await client.publish()
        bench.run(100)
        seen += [handle for handle, _, _ in client.values()]
    assert {handle: seen.count(handle) for handle in range(3)} == {0: 4, 1: 4, 2: 4}


async def test_with_more_to_send_the_next_request_is_answered_at_once(
    bench: Bench, client: Client
) -> None:
    made = await client.subscribe(100, MaxNotificationsPerPublish=1)
    wanted = [item(tag) for tag in ("Stack.Voltage", "Fan.Running")]
    await client.monitor(made.SubscriptionId, *wanted)
    await client.publish()
    bench.run(100)
    assert len(client.values()) == 1
    await client.publish()
    assert len(client.values()) == 1


async def test_disabled_publishing_sends_keep_alives_and_keeps_what_is_queued(
    bench: Bench, client: Client
) -> None:
    made = await client.subscribe(100, PublishingEnabled=False)
    await client.monitor(made.SubscriptionId, item("Stack.Voltage"))
    for _ in range(3):
        await client.publish()
    bench.run(100)
    assert numbers(client) == [(made.SubscriptionId, -1)]
    response = await client.ask(
        "SetPublishingMode", ua.SetPublishingModeParameters(True, [made.SubscriptionId, 77])
    )
    found = [result.value for result in response.Parameters.Results]
    assert found == [0, CODES.BadSubscriptionIdInvalid]
    bench.run(100)
    assert len(client.values()) == 1


async def test_publish_requests_are_bounded_and_the_oldest_goes(
    bench: Bench, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "PUBLISH_REQUESTS_MAX", 2)
    await client.subscribe(100)
    for _ in range(3):
        await client.publish()
    assert client.faults == [CODES.BadTooManyPublishRequests]
    bench.run(100)
    assert client.answers[0].ResponseHeader.RequestHandle == 3


async def test_a_request_whose_client_waits_no_longer_is_not_answered(
    bench: Bench, client: Client
) -> None:
    made = await client.subscribe(100)
    await client.publish(hint_ms=50)
    await client.publish()
    bench.run(100)
    assert client.faults == [CODES.BadTimeout]
    assert numbers(client) == [(made.SubscriptionId, -1)]


async def test_a_request_of_a_connection_that_broke_swallows_nothing(
    bench: Bench, client: Client
) -> None:
    made = await client.subscribe(100)
    await client.monitor(made.SubscriptionId, item("Stack.Voltage"))
    number = ua.ObjectIds.PublishRequest_Encoding_DefaultBinary
    broken = client.call(ua.PublishParameters())
    await bench.services[number](broken)
    broken.done = True
    await client.publish()
    bench.run(100)
    assert numbers(client) == [(made.SubscriptionId, 1)]


async def test_without_a_subscription_waiting_requests_are_refused(
    bench: Bench, client: Client
) -> None:
    assert await client.refused("Publish", ua.PublishParameters()) == CODES.BadNoSubscription
    made = await client.subscribe(100)
    await client.publish()
    await client.ask("DeleteSubscriptions", ua.DeleteSubscriptionsParameters([made.SubscriptionId]))
    assert client.faults == [CODES.BadNoSubscription]


async def test_modify_gives_other_terms(bench: Bench, client: Client) -> None:
    made = await client.subscribe(1_000)
    asked = ua.ModifySubscriptionParameters(made.SubscriptionId, 100, 60, 5, 0, 0)
    response = await client.ask("ModifySubscription", asked)
    assert response.Parameters.RevisedPublishingInterval == 100
    assert response.Parameters.RevisedMaxKeepAliveCount == 5
    await client.publish()
    bench.run(100)
    assert len(numbers(client)) == 1
    asked.SubscriptionId = 99
    refused = await client.refused("ModifySubscription", asked)
    assert refused == CODES.BadSubscriptionIdInvalid


async def test_a_shorter_keep_alive_counts_from_its_modification(
    bench: Bench, client: Client
) -> None:
    made = await client.subscribe(100, RequestedMaxKeepAliveCount=400)
    for _ in range(3):
        await client.publish()
    bench.run(500)
    client.answers.clear()
    asked = ua.ModifySubscriptionParameters(made.SubscriptionId, 100, 60, 3, 0, 0)
    await client.ask("ModifySubscription", asked)
    bench.run(300)
    assert len(client.answers) == 1


async def test_another_session_s_subscription_is_none_of_ours(bench: Bench, client: Client) -> None:
    made = await client.subscribe(100)
    other = Client(bench)
    deleted = ua.DeleteSubscriptionsParameters([made.SubscriptionId])
    response = await other.ask("DeleteSubscriptions", deleted)
    assert response.Results[0].value == CODES.BadSubscriptionIdInvalid
    assert bench.subscriptions.count == 1


async def test_subscriptions_are_bounded_for_a_session_and_for_all(
    bench: Bench, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SESSION_SUBSCRIPTIONS_MAX", 2)
    monkeypatch.setattr(limits, "SUBSCRIPTIONS_MAX", 3)
    await client.subscribe(100)
    await client.subscribe(100)
    with pytest.raises(Fault) as caught:
        await client.subscribe(100)
    assert caught.value.code == CODES.BadTooManySubscriptions
    other = Client(bench)
    await other.subscribe(100)
    with pytest.raises(Fault):
        await other.subscribe(100)
    client.session.end(True)
    await other.subscribe(100)


async def test_one_user_leaves_room_for_others(
    bench: Bench, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SUBSCRIPTIONS_MAX", 5)
    monkeypatch.setattr(limits, "ITEMS_MAX", 5)
    made = [await client.subscribe(100) for _ in range(4)]
    with pytest.raises(Fault) as caught:
        await client.subscribe(100)
    assert caught.value.code == CODES.BadTooManySubscriptions
    wanted = [item("Stack.Voltage", handle) for handle in range(5)]
    results = await client.monitor(made[0].SubscriptionId, *wanted)
    assert [one.StatusCode.is_good() for one in results] == [True] * 4 + [False]
    other = Client(bench)
    other.session.user = User("other", Role.OBSERVER)
    number = (await other.subscribe(100)).SubscriptionId
    (result,) = await other.monitor(number, item("Stack.Voltage"))
    assert result.StatusCode.is_good()


async def test_subscriptions_that_no_session_has_make_room(
    bench: Bench, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SUBSCRIPTIONS_MAX", 3)
    first, *_ = [(await client.subscribe(100)).SubscriptionId for _ in range(3)]
    client.session.end(False)
    other = Client(bench)
    await other.subscribe(100)
    assert bench.subscriptions.count == 3
    assert bench.subscriptions.get(first) is None


# -- transfer ----------------------------------------------------------------------------------


async def transfer(client: Client, number: int, again: bool = True) -> Any:
    asked = ua.TransferSubscriptionsParameters([number], again)
    response = await client.ask("TransferSubscriptions", asked)
    return response.Parameters.Results[0]


async def test_a_subscription_moves_to_another_session_of_its_user(
    bench: Bench, client: Client
) -> None:
    made = await client.subscribe(100)
    await client.monitor(made.SubscriptionId, item("Stack.Voltage", 7))
    await client.publish()
    bench.run(100)
    client.answers.clear()
    await client.publish()
    other = Client(bench)
    result = await transfer(other, made.SubscriptionId)
    assert (result.StatusCode.value, result.AvailableSequenceNumbers) == (0, [1])
    assert status_of(client) == [(made.SubscriptionId, CODES.GoodSubscriptionTransferred)]
    await other.publish()
    bench.run(100)
    assert [handle for handle, _, _ in other.values()] == [7]
    missing = await transfer(other, 99)
    assert missing.StatusCode.value == CODES.BadSubscriptionIdInvalid


async def test_a_subscription_outlives_its_session_where_the_client_wants_it(
    bench: Bench, client: Client
) -> None:
    made = await client.subscribe(100)
    await client.publish()
    client.session.end(False)
    assert client.faults == [CODES.BadSessionClosed]
    bench.run(1_000)
    other = Client(bench)
    assert (await transfer(other, made.SubscriptionId)).StatusCode.value == 0
    other.session.end(True)
    assert bench.subscriptions.count == 0


@pytest.mark.parametrize(
    ("user", "address", "code"),
    [
        (User("otto", Role.ADMINISTRATOR), "test", CODES.BadUserAccessDenied),
        (ANONYMOUS, "test", CODES.BadUserAccessDenied),
    ],
)
async def test_nobody_takes_another_user_s_subscription(
    bench: Bench, client: Client, user: User, address: str, code: int
) -> None:
    made = await client.subscribe(100)
    other = Client(bench, user, address)
    assert (await transfer(other, made.SubscriptionId)).StatusCode.value == code


async def test_who_has_no_name_is_known_by_his_client(bench: Bench) -> None:
    first = Client(bench, ANONYMOUS, "here")
    made = await first.subscribe(100)
    denied = await transfer(Client(bench, ANONYMOUS, "there"), made.SubscriptionId)
    assert denied.StatusCode.value == CODES.BadUserAccessDenied
    taken = await transfer(Client(bench, ANONYMOUS, "here"), made.SubscriptionId)
    assert taken.StatusCode.value == 0


async def test_a_late_subscription_is_late_for_its_new_session_too(
    bench: Bench, client: Client
) -> None:
    made = await client.subscribe(100)
    other_made = Client(bench)
    await other_made.subscribe(60_000)
    await other_made.publish()
    bench.run(250)
    assert (await transfer(other_made, made.SubscriptionId)).StatusCode.value == 0
    assert numbers(other_made) == [(made.SubscriptionId, -1)]


# -- faults of ours ----------------------------------------------------------------------------


async def test_a_fault_of_ours_ends_one_subscription_and_tells_its_client(
    bench: Bench, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    made, other = await client.subscribe(100), await client.subscribe(100)
    broken = bench.subscriptions.get(made.SubscriptionId)
    assert broken is not None
    broken.table = None  # type: ignore[assignment]
    await client.publish()
    await client.publish()
    bench.run(100)
    assert [(one, code) for one, code in status_of(client)] == [
        (made.SubscriptionId, CODES.BadInternalError)
    ]
    assert bench.subscriptions.count == 1
    assert bench.subscriptions.get(other.SubscriptionId) is not None
    assert "a subscription of test ended" in caplog.text


# -- limits ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval_ms", "lifetime", "keep_alive", "expected"),
    [
        (1_000.0, 0, 0, (5, 1)),
        (1_000.0, 60, 10, (60, 10)),
        (1_000.0, 10, 10, (30, 10)),
        (1_000.0, 2**32 - 1, 2**32 - 1, (1_200, 400)),
        (60_000.0, 2**32 - 1, 2**32 - 1, (60, 20)),
        (50.0, 1, 1, (100, 1)),
    ],
)
def test_the_lifetime_is_three_keep_alives_at_least_and_an_hour_at_most(
    interval_ms: float, lifetime: int, keep_alive: int, expected: tuple[int, int]
) -> None:
    assert limits.counts(interval_ms, lifetime, keep_alive) == expected


def test_a_budget_is_part_of_another() -> None:
    whole = Budget(10)
    first, second = Budget(8, whole), Budget(8, whole)
    assert first.take(8)
    assert not first.take(1)
    assert not second.take(3)
    assert second.take(2)
    first.give(8)
    assert second.take(6)


async def test_the_timer_forgets_what_was_scheduled_otherwise(bench: Bench, client: Client) -> None:
    made = await client.subscribe(1_000)
    for turn in range(500):
        asked = ua.ModifySubscriptionParameters(made.SubscriptionId, 1_000 + turn, 60, 5, 0, 0)
        await client.ask("ModifySubscription", asked)
    assert len(bench.subscriptions._heap) < 100
