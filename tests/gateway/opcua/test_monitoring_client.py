"""Monitored items as a client over a real connection sees them."""

from __future__ import annotations

import pytest
from asyncua import Client, ua

from config import status
from gateway.opcua import OpcUaServer
from gateway.opcua.names import standard_id
from tests.gateway.opcua_case import MODEL, SITE, Seen, rows, until
from tests.gateway.points import point

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_rebuild_keeps_items_that_stay_and_ends_those_that_go(
    opcua: OpcUaServer, scada: Client
) -> None:
    await opcua.update(rows((1, 1.0, 0), (2, 2.0, 0), (3, 1.0, 0)))
    stays, goes = Seen(), Seen()
    for seen, tag in ((stays, "Stack.Voltage"), (goes, "Fan.Running")):
        subscription = await scada.create_subscription(50, seen)
        await subscription.subscribe_data_change(scada.get_node(f"ns=2;s={tag}"), queuesize=10)
    await until(lambda: stays.values and goes.values)

    await opcua.rebuild(MODEL, [point(1, "Stack.Pressure"), point(2, "Stack.Voltage", units="kV")])
    await opcua.update(rows((1, 5.0, 0), (2, 6.0, 0)))
    await until(lambda: len(stays.values) == 2 and len(goes.values) == 2)
    assert stays.values == [(2.0, 0), (6.0, 0)]
    assert goes.values == [(True, 0), (None, ua.StatusCodes.BadNodeIdUnknown)]

    await opcua.rebuild(MODEL, SITE)
    await opcua.update(rows((3, 1.0, 0)))
    await until(lambda: len(goes.values) == 4)
    waiting = (None, status.BAD_WAITING_FOR_INITIAL_DATA)
    assert goes.values[2:] == [waiting, (True, 0)]


async def test_every_change_of_a_moment_is_told_where_the_queue_has_room(
    opcua: OpcUaServer, scada: Client
) -> None:
    await opcua.update(rows((2, 0.0, 0)))
    every, newest = Seen(), Seen()
    for seen, size in ((every, 10), (newest, 1)):
        subscription = await scada.create_subscription(50, seen)
        node = scada.get_node("ns=2;s=Stack.Voltage")
        await subscription.subscribe_data_change(node, queuesize=size, sampling_interval=0)
    await until(lambda: every.values and newest.values)
    await opcua.update(rows(*((2, float(n), 0) for n in range(1, 6))))
    await until(lambda: len(every.values) == 6 and len(newest.values) == 2)
    assert every.values == [(float(n), 0) for n in range(6)]
    assert newest.values == [(0.0, 0), (5.0, 0)]


async def test_methods_of_the_server_list_items_and_send_values_again(
    opcua: OpcUaServer, scada: Client
) -> None:
    await opcua.update(rows((2, 2.0, 0)))
    seen = Seen()
    subscription = await scada.create_subscription(50, seen)
    node = scada.get_node("ns=2;s=Stack.Voltage")
    item = await subscription.subscribe_data_change(node)
    await until(lambda: len(seen.values) == 1)
    server = scada.get_node(standard_id(ua.ObjectIds.Server))
    number = ua.Variant(subscription.subscription_id, ua.VariantType.UInt32)
    found = await server.call_method(standard_id(ua.ObjectIds.Server_GetMonitoredItems), number)
    assert found[0] == [item]
    assert len(found[1]) == 1
    await server.call_method(standard_id(ua.ObjectIds.Server_ResendData), number)
    await until(lambda: len(seen.values) == 2)
    assert seen.values == [(2.0, 0), (2.0, 0)]
    strange = ua.Variant(99_999, ua.VariantType.UInt32)
    with pytest.raises(ua.UaStatusCodeError) as caught:
        await server.call_method(standard_id(ua.ObjectIds.Server_ResendData), strange)
    assert caught.value.code == ua.StatusCodes.BadSubscriptionIdInvalid


async def test_the_limits_are_shown(opcua: OpcUaServer, scada: Client) -> None:
    shown = scada.get_node("i=11714")
    assert await shown.read_value() > 0
