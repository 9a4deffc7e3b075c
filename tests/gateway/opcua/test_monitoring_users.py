"""What a subscription shows to whom: rights of its user, and another user on its session."""

from __future__ import annotations

import pytest
from asyncua import ua

from gateway.opcua.names import own_id
from gateway.opcua.users import Role, User
from tests.gateway.monitoring_case import (
    SERVER,
    Bench,
    Client,
    bad,
    came,
    event,
    item,
    monitored,
    notifier,
)

CODES = ua.StatusCodes
VOLTAGE = own_id("Stack.Voltage")
OTTO = User("otto", Role.OBSERVER)


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def client(bench: Bench) -> Client:
    return Client(bench)


async def test_what_a_user_may_not_read_is_a_bad_status_and_no_value(
    bench: Bench, client: Client
) -> None:
    bench.reader.denied.add(("olga", VOLTAGE))
    number = (await client.subscribe(100)).SubscriptionId
    (result,) = await client.monitor(number, item("Stack.Voltage"))
    assert result.StatusCode.value == 0
    assert await came(client) == [(1, None, CODES.BadUserAccessDenied)]
    bench.change((2, 5.0, 0))
    assert await came(client, 300) == []


async def test_another_user_of_the_session_sees_what_he_may(bench: Bench, client: Client) -> None:
    await monitored(client, item("Stack.Voltage"), item("Stack.Temperature", 2))
    bench.reader.denied.add(("otto", VOLTAGE))
    client.session.user = User("otto", Role.OBSERVER)
    bench.change((1, 1.0, 0), (2, 5.0, 0))
    await client.publish()
    bench.run(300)
    seen = client.values()
    assert (1, None, CODES.BadUserAccessDenied) in seen
    assert (2, 1.0, 0) in seen
    bench.change((2, 6.0, 0))
    assert await came(client, 300) == []


async def test_what_was_queued_for_a_user_is_not_for_the_next(bench: Bench, client: Client) -> None:
    """The session is activated anew while a message waits for its Publish request."""
    bench.reader.shown[VOLTAGE, 4] = bench.values.value(1)
    number = await monitored(client, item("Stack.Voltage", QueueSize=10), item(VOLTAGE, 2, 2, 4))
    bench.change((2, 5.0, 0))
    bench.run(200)
    bench.change((2, 6.0, 0))
    bench.run(200)  # it is late
    bench.reader.denied.add(("otto", VOLTAGE))
    bench.reader.shown[VOLTAGE, 4] = bad(CODES.BadUserAccessDenied)
    client.session.user = OTTO
    for _ in range(4):
        await client.publish()
        bench.run(200)
    seen = client.values()
    assert {value for _, value, _ in seen} == {None}
    assert (1, None, CODES.BadUserAccessDenied) in seen
    await client.publish()
    again = ua.RepublishParameters(number, 1)
    assert await client.refused("Republish", again) == CODES.BadMessageNotAvailable


async def test_events_that_waited_for_a_user_are_not_for_the_next(
    bench: Bench, client: Client
) -> None:
    bench.reader.shown[SERVER, 12] = notifier(1)
    bench.subscriptions.may_see = lambda user, told: user.name != "otto"
    wanted = ua.EventFilter(SelectClauses=[ua.SimpleAttributeOperand()])
    await monitored(client, item(SERVER, 4, attribute=12, Filter=wanted))
    await client.publish()
    bench.subscriptions.offer(event("secret"))
    client.session.user = OTTO
    bench.run(300)
    # He is told that there were some, as where a queue was full.
    told = client.messages()
    assert told[0] == (4, "Events were lost: the queue of the item was full")
    assert (4, "secret") not in told


async def test_the_same_user_with_another_role_gets_his_values_again(
    bench: Bench, client: Client
) -> None:
    bench.change((2, 5.0, 0))
    await monitored(client, item("Stack.Voltage"))
    client.session.user = User("olga", Role.ENGINEER)
    assert await came(client, 300) == [(1, 5.0, 0)]
