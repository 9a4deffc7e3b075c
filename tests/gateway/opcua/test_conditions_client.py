"""Conditions over the wire: a client of asyncua subscribes, refreshes, reads and is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from asyncua import Client, ua

from gateway.core.records import RECORD, Batch, Event
from gateway.opcua import OpcUaServer
from gateway.opcua.names import standard_id
from tests.gateway.opcua.conditions_case import PlayedDesk, body, model, points, row
from tests.gateway.opcua_case import NO_SECURITY, started, until

pytestmark = pytest.mark.asyncio(loop_scope="module")
HOT = "ns=2;s=Alarms.Hot/Condition"


class Heard:
    """Collects events."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def event_notification(self, event: Any) -> None:
        self.events.append(event)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OpcUaServer]:
    desk = PlayedDesk()
    desk.rows = [row("Alarms.Hot", "normal"), row("Alarms.Door", "acknowledged", latched=True)]
    folder: Path = tmp_path_factory.mktemp("state")
    made = await started(folder, NO_SECURITY, points(), model(), desk)
    yield made
    await made.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(server: OpcUaServer) -> AsyncIterator[Client]:
    made = Client(server.url)
    async with made:
        yield made


def names(heard: Heard) -> list[Any]:
    return [getattr(event, "ConditionName", None) for event in heard.events]


def hear(server: OpcUaServer, seq: int, told: dict[str, Any]) -> None:
    none = np.zeros(0, dtype=RECORD)
    event = Event(seq, 1_790_000_000_000_000_000, "alarm", told)
    server.heard(Batch(5, seq, seq, "b", none, (event,)))


async def test_a_client_gets_refreshes_and_events(server: OpcUaServer, client: Client) -> None:
    heard = Heard()
    subscription = await client.create_subscription(50, heard)
    types = [ua.ObjectIds.AlarmConditionType, ua.ObjectIds.RefreshStartEventType]
    await subscription.subscribe_alarms_and_conditions(evtypes=types)
    condition_type = client.get_node(ua.ObjectIds.ConditionType)
    refresh = standard_id(ua.ObjectIds.ConditionType_ConditionRefresh)
    number = ua.Variant(subscription.subscription_id, ua.VariantType.UInt32)
    await condition_type.call_method(refresh, number)
    await until(lambda: "Door" in names(heard))
    hear(server, 9, body("unacknowledged"))
    await until(lambda: names(heard)[-1] == "Hot")
    came = heard.events[-1]
    assert getattr(came, "AckedState/Id") is False
    assert getattr(came, "ActiveState/Id") is True
    assert came.Severity == 700
    assert came.Time.year == 2026
    assert came.EventId == (5).to_bytes(8, "big") + (9).to_bytes(8, "big")
    await subscription.delete()


async def test_a_client_browses_and_reads_a_condition(server: OpcUaServer, client: Client) -> None:
    hot = client.get_node(HOT)
    names = {(await child.read_browse_name()).Name for child in await hot.get_children()}
    assert {"AckedState", "Acknowledge", "ShelvingState", "LimitState", "HighLimit"} <= names
    acked = await hot.get_child(["0:AckedState", "0:Id"])
    assert await acked.read_value() in (True, False)
    limit = await hot.get_child(["0:HighLimit"])
    assert await limit.read_value() == 900.0
    shelved = await hot.get_child(["0:ShelvingState", "0:CurrentState"])
    assert (await shelved.read_value()).Text == "Unshelved"
    assert await hot.read_type_definition() == standard_id(ua.ObjectIds.ExclusiveLevelAlarmType)


async def test_without_security_nobody_acknowledges(server: OpcUaServer, client: Client) -> None:
    """And the call is told as the audit event that Part 9 has for it."""
    heard, hot = Heard(), client.get_node(HOT)
    subscription = await client.create_subscription(50, heard)
    audits = ua.ObjectIds.AuditConditionAcknowledgeEventType
    await subscription.subscribe_events(ua.ObjectIds.Server, [audits])
    event_id = ua.Variant(b"x", ua.VariantType.ByteString)
    with pytest.raises(ua.UaStatusCodeError) as raised:
        await hot.call_method(
            standard_id(ua.ObjectIds.AcknowledgeableConditionType_Acknowledge),
            event_id,
            ua.Variant(ua.LocalizedText("seen")),
        )
    assert raised.value.code == ua.StatusCodes.BadSecurityModeInsufficient
    await until(lambda: bool(heard.events))
    told = heard.events[0]
    assert (told.EventType, told.SourceNode) == (standard_id(audits), hot.nodeid)
    assert (told.SourceName, told.Status) == ("Method/Acknowledge", False)
    assert (told.ConditionEventId, told.Comment.Text) == (b"x", "seen")
    await subscription.delete()


async def test_a_field_that_goes_is_told(server: OpcUaServer, client: Client) -> None:
    hear(server, 10, body("unacknowledged"))
    quality = client.get_node(f"{HOT}/Quality")

    async def read() -> int:
        return int((await quality.read_value()).value)

    async with asyncio.timeout(20):
        server.field(there=False)
        while await read() != ua.StatusCodes.BadNoCommunication:
            await asyncio.sleep(0.02)
        server.field(there=True)
        while await read() != ua.StatusCodes.Good:
            await asyncio.sleep(0.02)
