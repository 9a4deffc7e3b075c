"""What the OPC UA server shows: values, nodes, notifications, other point tables."""

from __future__ import annotations

import math
from typing import Any

import pytest
from asyncua import Client, ua

from config import status
from config.points import PointDef
from gateway.opcua import OpcUaError, OpcUaServer
from gateway.opcua.monitoring import limits
from gateway.opcua.monitoring.limits import (
    PUBLISHING_INTERVAL_MS_MAX,
    PUBLISHING_INTERVAL_MS_MIN,
)
from gateway.opcua.units import NO_CODE, code_number, unit_of
from gateway.opcua.values import data_type, data_value
from tests.gateway.opcua_case import MODEL, NOW_NS, SITE, Seen, lost, names, read, rows, until
from tests.gateway.points import point

pytestmark = pytest.mark.asyncio(loop_scope="module")


# -- values ------------------------------------------------------------------------------------


async def test_a_good_value_comes_with_status_source_time_and_server_time(
    opcua: OpcUaServer, scada: Client
) -> None:
    await opcua.update(rows((1, 712.5, status.GOOD)))
    shown = await read(scada, "Stack.Temperature")
    assert shown.Value == ua.Variant(712.5, ua.VariantType.Double)
    assert shown.StatusCode.value == status.GOOD
    assert shown.SourceTimestamp.isoformat() == "2026-09-21T14:13:20.123456+00:00"
    assert shown.ServerTimestamp.isoformat() == "2026-09-21T14:13:20.124456+00:00"


async def test_an_uncertain_value_keeps_its_number(opcua: OpcUaServer, scada: Client) -> None:
    await opcua.update(rows((1, 3.0, status.UNCERTAIN_NO_COMMUNICATION)))
    shown = await read(scada, "Stack.Temperature")
    assert (shown.Value.Value, shown.StatusCode.value) == (3.0, status.UNCERTAIN_NO_COMMUNICATION)


@pytest.mark.parametrize("code", [row.code for row in status.STATUS_ROWS if row.code >> 31])
async def test_a_bad_value_has_no_number_but_its_code_and_time(
    opcua: OpcUaServer, scada: Client, code: int
) -> None:
    await opcua.update(rows((1, 3.0, status.GOOD)))
    await opcua.update(rows((1, 3.0, code), utc_ns=NOW_NS + 1_000_000_000))
    shown = await read(scada, "Stack.Temperature")
    assert (shown.Value.Value, shown.StatusCode.value) == (None, code)
    assert shown.SourceTimestamp.isoformat() == "2026-09-21T14:13:21.123456+00:00"


async def test_a_point_that_was_never_read_says_so_and_has_no_source_time(
    opcua: OpcUaServer, scada: Client
) -> None:
    shown = await read(scada, "Stack.Voltage")
    assert shown.StatusCode.value == status.BAD_WAITING_FOR_INITIAL_DATA
    assert shown.SourceTimestamp is None


async def test_a_field_that_is_lost_makes_every_point_bad_at_once(
    opcua: OpcUaServer, scada: Client
) -> None:
    await opcua.update(rows((1, 1.0, status.GOOD), (2, 1.0, status.GOOD), (3, 1.0, status.GOOD)))
    await opcua.update(lost(len(SITE), NOW_NS + 5_000_000_000))
    for given in SITE:
        shown = await read(scada, given.tag)
        assert shown.StatusCode.value == status.BAD_NO_COMMUNICATION
        assert shown.SourceTimestamp.isoformat() == "2026-09-21T14:13:25.123456+00:00"


async def test_rows_of_points_that_the_table_does_not_have_are_left_out(
    opcua: OpcUaServer, scada: Client
) -> None:
    await opcua.update(rows((0, 9.0, 0), (99, 9.0, 0), (2, 1.5, 0)))
    assert (await read(scada, "Stack.Voltage")).Value.Value == 1.5
    await opcua.update(rows())


@pytest.mark.parametrize(
    ("definition", "expected"),
    [
        (point(), ua.VariantType.Double),
        (point(kind="discrete", states=("a", "b")), ua.VariantType.Boolean),
        (point(kind="discrete", states=("a", "b", "c")), ua.VariantType.UInt32),
        (point(kind="discrete", source="rule", states=("", "HIGH")), ua.VariantType.UInt32),
        (point(kind="discrete", source="rule"), ua.VariantType.UInt32),
        (point(kind="discrete"), ua.VariantType.Int64),
    ],
)
async def test_the_data_type_follows_the_kind_of_the_point(
    definition: PointDef, expected: ua.VariantType
) -> None:
    assert data_type(definition) == expected


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (ua.VariantType.Boolean, 2.0),
        (ua.VariantType.Boolean, 0.5),
        (ua.VariantType.UInt32, -1.0),
        (ua.VariantType.UInt32, 2.0**32),
        (ua.VariantType.Int64, 1e19),
        (ua.VariantType.Int64, math.nan),
        (ua.VariantType.Int64, math.inf),
    ],
)
async def test_a_value_that_its_type_can_t_hold_is_bad(kind: ua.VariantType, value: float) -> None:
    shown = data_value(kind, value, status.GOOD, NOW_NS, NOW_NS)
    assert shown.StatusCode.value == status.BAD_OUT_OF_RANGE
    assert shown.Value is None


async def test_whole_numbers_travel_in_their_type(opcua: OpcUaServer, scada: Client) -> None:
    await opcua.update(rows((3, 1.0, 0), (4, 2.0, 0), (5, -7.0, 0)))
    assert (await read(scada, "Fan.Running")).Value == ua.Variant(True)
    shown = await read(scada, "Alarms.Over_Temperature")
    assert shown.Value == ua.Variant(2, ua.VariantType.UInt32)
    shown = await read(scada, "Gateway.Overruns")
    assert shown.Value == ua.Variant(-7, ua.VariantType.Int64)


# -- address space -----------------------------------------------------------------------------


async def test_a_client_finds_site_equipment_and_channels(
    opcua: OpcUaServer, scada: Client
) -> None:
    site = await scada.nodes.objects.get_child("2:Lab")
    assert {"Stack", "Fan", "Alarms", "Gateway"} <= set(await names(site))
    stack = await site.get_child("2:Stack")
    assert {"Temperature", "Voltage"} <= set(await names(stack))
    found = await stack.get_child("2:Temperature")
    assert found.nodeid.to_string() == "ns=2;s=Stack.Temperature"
    assert (await found.read_description()).Text == "hottest cell"
    assert (await scada.get_namespace_array())[2] == "urn:gatepost:Lab"
    assert opcua.variables == 5


@pytest.mark.parametrize(
    ("more", "expected", "properties"),
    [
        ({}, "BaseAnalogType", []),
        ({"units": "NA"}, "BaseAnalogType", []),
        ({"units": "V"}, "AnalogUnitType", ["EngineeringUnits"]),
        ({"value_min": 0, "value_max": 5}, "AnalogItemType", ["EURange"]),
        (
            {"units": "V", "value_min": 0, "value_max": 5},
            "AnalogUnitRangeType",
            ["EngineeringUnits", "EURange"],
        ),
        ({"value_min": 0, "value_max": math.inf}, "BaseAnalogType", []),
        ({"kind": "discrete"}, "BaseDataVariableType", []),
        ({"kind": "discrete", "states": ("a", "b")}, "TwoStateDiscreteType", None),
        ({"kind": "discrete", "states": ("a", "b", "c")}, "MultiStateDiscreteType", None),
    ],
)
async def test_the_type_of_a_variable_follows_what_its_point_declares(
    opcua: OpcUaServer,
    scada: Client,
    more: dict[str, Any],
    expected: str,
    properties: list[str] | None,
) -> None:
    await opcua.rebuild(MODEL, [point(1, "A.B", **more)])
    node = scada.get_node("ns=2;s=A.B")
    assert await node.read_type_definition() == ua.NodeId(getattr(ua.ObjectIds, expected))
    if properties is not None:
        assert await names(node) == properties


async def test_states_are_named_and_a_rule_s_zero_is_inactive(
    opcua: OpcUaServer, scada: Client
) -> None:
    alarm = scada.get_node("ns=2;s=Alarms.Over_Temperature/EnumStrings")
    assert [text.Text for text in await alarm.read_value()] == ["inactive", "HIGH", "TRIP"]
    fan = scada.get_node("ns=2;s=Fan.Running/TrueState")
    assert (await fan.read_value()).Text == "running"


@pytest.mark.parametrize(
    ("text", "number", "symbol"),
    [("degC", 4408652, "°C"), ("kW", 4937556, "kW"), ("%", 20529, "%"), ("m3/h", 5067080, "m³/h")],
)
async def test_units_have_the_numbers_of_their_unece_codes(
    text: str, number: int, symbol: str
) -> None:
    unit = unit_of(text)
    assert unit is not None
    assert (unit.number, unit.symbol) == (number, symbol)
    assert unit.namespace.endswith("/un/cefact")


async def test_a_unit_without_a_code_keeps_its_spelling() -> None:
    unit = unit_of(" SLPM ")
    assert unit is not None
    assert (unit.number, unit.symbol) == (NO_CODE, "SLPM")
    assert "cefact" not in unit.namespace
    assert [unit_of(text) for text in ("", "NA", "n/a", "-")] == [None] * 4
    assert code_number("C26") == 4403766


# -- monitored items ---------------------------------------------------------------------------


async def test_every_row_of_a_monitored_point_arrives_in_order(
    opcua: OpcUaServer, scada: Client
) -> None:
    seen = Seen()
    subscription = await scada.create_subscription(50, seen)
    node = scada.get_node("ns=2;s=Stack.Voltage")
    await subscription.subscribe_data_change(node, queuesize=10)
    await opcua.update(rows((2, 1.0, 0), (1, 7.0, 0), (2, 2.0, 0), (2, 3.0, status.BAD_TIMEOUT)))
    await opcua.update(rows((2, 4.0, 0)))
    await until(lambda: len(seen.values) == 5)
    waiting = (None, status.BAD_WAITING_FOR_INITIAL_DATA)
    assert seen.values == [waiting, (1.0, 0), (2.0, 0), (None, status.BAD_TIMEOUT), (4.0, 0)]


async def test_a_creeping_value_is_reported_when_it_left_the_deadband(
    opcua: OpcUaServer, scada: Client
) -> None:
    await opcua.update(rows((2, 0.0, 0)))
    seen = Seen()
    subscription = await scada.create_subscription(50, seen)
    await subscription.deadband_monitor(scada.get_node("ns=2;s=Stack.Voltage"), 1.0, queuesize=50)
    for step in range(1, 13):
        await opcua.update(rows((2, step * 0.4, 0)))
    # A bad value has no number to compare, and is reported all the same; so is its end.
    await opcua.update(rows((2, 4.8, status.BAD_NOT_CONNECTED)))
    await opcua.update(rows((2, 4.8, 0)))
    await until(lambda: len(seen.values) >= 7)
    values = [(None if value is None else round(value, 6), code) for value, code in seen.values]
    bad = (None, status.BAD_NOT_CONNECTED)
    assert values == [(0.0, 0), (1.2, 0), (2.4, 0), (3.6, 0), (4.8, 0), bad, (4.8, 0)]


def changed(trigger: ua.DataChangeTrigger, deadband: float = 0.0) -> ua.DataChangeFilter:
    kind = ua.DeadbandType.Absolute if deadband else ua.DeadbandType.None_
    return ua.DataChangeFilter(trigger, kind, deadband)


@pytest.mark.parametrize(
    ("wanted", "code"),
    [
        (ua.EventFilter(), ua.StatusCodes.BadFilterNotAllowed),
        (
            ua.DataChangeFilter(DeadbandType=ua.DeadbandType.Percent, DeadbandValue=1),
            ua.StatusCodes.BadMonitoredItemFilterUnsupported,
        ),
        (changed(ua.DataChangeTrigger.StatusValue, -1.0), ua.StatusCodes.BadDeadbandFilterInvalid),
        (
            changed(ua.DataChangeTrigger.StatusValue, math.nan),
            ua.StatusCodes.BadDeadbandFilterInvalid,
        ),
    ],
)
async def test_a_filter_that_can_t_be_served_is_refused(
    opcua: OpcUaServer, scada: Client, wanted: Any, code: int
) -> None:
    subscription = await scada.create_subscription(50, Seen())
    request = ua.MonitoredItemCreateRequest()
    request.ItemToMonitor.NodeId = ua.NodeId("Stack.Voltage", 2)
    request.ItemToMonitor.AttributeId = ua.AttributeIds.Value
    request.MonitoringMode = ua.MonitoringMode.Reporting
    request.RequestedParameters.Filter = wanted
    (result,) = await subscription.create_monitored_items([request])
    refused = result.value if isinstance(result, ua.StatusCode) else result
    assert refused == code


@pytest.mark.parametrize(
    ("asked_ms", "given_ms"),
    [
        (0.0, PUBLISHING_INTERVAL_MS_MIN),
        (-1.0, PUBLISHING_INTERVAL_MS_MIN),
        (math.nan, PUBLISHING_INTERVAL_MS_MIN),
        (250.0, 250.0),
        (1e12, PUBLISHING_INTERVAL_MS_MAX),
    ],
)
async def test_no_client_can_ask_for_an_endless_or_a_busy_subscription(
    scada: Client, asked_ms: float, given_ms: float
) -> None:
    subscription = await scada.create_subscription(100, Seen())
    parameters = ua.CreateSubscriptionParameters()
    parameters.RequestedPublishingInterval = asked_ms
    parameters.RequestedLifetimeCount = 2**32 - 1
    parameters.RequestedMaxKeepAliveCount = 2**32 - 1
    result = await scada.uaclient.create_subscription(parameters, lambda _: None)
    assert result.RevisedPublishingInterval == given_ms
    assert result.RevisedLifetimeCount < 10_000
    await scada.uaclient.delete_subscriptions([result.SubscriptionId])
    await subscription.delete()


async def test_a_subscription_takes_a_bounded_number_of_items(
    scada: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert limits.SUBSCRIPTION_ITEMS_MAX <= 10_000
    monkeypatch.setattr(limits, "SUBSCRIPTION_ITEMS_MAX", 2)
    subscription = await scada.create_subscription(100, Seen())
    nodes = [scada.get_node(f"ns=2;s={given.tag}") for given in SITE[:3]]
    results = await subscription.subscribe_data_change(nodes)
    assert [isinstance(result, int) for result in results] == [True, True, False]
    assert results[2].value == ua.StatusCodes.BadTooManyMonitoredItems


# -- another point table -----------------------------------------------------------------------


async def test_a_rebuild_keeps_what_stays_and_ends_what_goes(
    opcua: OpcUaServer, scada: Client
) -> None:
    await opcua.update(rows((1, 1.0, 0), (2, 2.0, 0), (3, 1.0, 0)))
    stays, goes = Seen(), Seen()
    for seen, tag in ((stays, "Stack.Voltage"), (goes, "Fan.Running")):
        subscription = await scada.create_subscription(50, seen)
        await subscription.subscribe_data_change(scada.get_node(f"ns=2;s={tag}"), queuesize=10)
    await until(lambda: stays.values and goes.values)

    # The voltage has another place in the table, other units, and its old value.
    await opcua.rebuild(MODEL, [point(1, "Stack.Pressure"), point(2, "Stack.Voltage", units="kV")])
    assert (await read(scada, "Stack.Voltage")).Value.Value == 2.0
    pressure = await read(scada, "Stack.Pressure")
    assert pressure.StatusCode.value == status.BAD_WAITING_FOR_INITIAL_DATA
    unit = await scada.get_node("ns=2;s=Stack.Voltage/EngineeringUnits").read_value()
    assert unit.DisplayName.Text == "kV"
    gone = await read(scada, "Fan.Running")
    assert gone.StatusCode.value == ua.StatusCodes.BadNodeIdUnknown
    site = await scada.nodes.objects.get_child("2:Lab")
    found = await names(site)
    assert "Stack" in found
    assert "Fan" not in found

    await opcua.update(rows((1, 5.0, 0), (2, 6.0, 0)))
    await until(lambda: len(stays.values) == 2 and len(goes.values) == 2)
    assert stays.values == [(2.0, 0), (6.0, 0)]
    assert goes.values == [(True, 0), (None, ua.StatusCodes.BadNodeIdUnknown)]
    assert opcua.variables == 2


async def test_a_point_that_changes_its_type_keeps_its_node_id(
    opcua: OpcUaServer, scada: Client
) -> None:
    await opcua.rebuild(MODEL, [point(1, "Stack.Voltage", kind="discrete")])
    await opcua.update(rows((1, 3.0, 0)))
    shown = await read(scada, "Stack.Voltage")
    assert shown.Value == ua.Variant(3, ua.VariantType.Int64)


async def test_a_table_that_can_t_be_built_leaves_the_old_one(
    opcua: OpcUaServer, scada: Client
) -> None:
    await opcua.update(rows((1, 1.0, 0)))
    twice = [point(1, "A.B"), point(2, "A.B")]
    with pytest.raises(OpcUaError, match=r"A\.B"):
        await opcua.rebuild(MODEL, twice)
    assert (await read(scada, "Stack.Temperature")).Value.Value == 1.0
    assert opcua.variables == 5


async def test_an_equipment_called_like_a_tag_or_the_site_is_no_conflict(
    opcua: OpcUaServer, scada: Client
) -> None:
    odd = PointDef(index=2, tag="A.B.C", equipment="A.B", channel="C")
    await opcua.rebuild(MODEL, [point(1, "A.B"), odd, point(3, "Lab.Lab")])
    await opcua.update(rows((1, 1.0, 0), (2, 2.0, 0), (3, 3.0, 0)))
    for tag, value in (("A.B", 1.0), ("A.B.C", 2.0), ("Lab.Lab", 3.0)):
        assert (await read(scada, tag)).Value.Value == value
