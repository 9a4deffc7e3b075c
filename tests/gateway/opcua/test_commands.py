"""Writes and methods of OPC UA clients down to a real device, and their receipts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from asyncua import Client, ua
from asyncua.ua.ua_binary import struct_from_binary

from gateway.opcua.names import own_id
from gateway.opcua.orders import orders
from tests.gateway.opcua.scada_case import Gateway, called, written
from tests.gateway.sites import eventually

DOUBLE = ua.VariantType.Double
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    made = Gateway(Path(tmp_path_factory.mktemp("scada")))
    try:
        await made.start()
        yield made
    finally:
        await made.end()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def operator(gateway: Gateway) -> Client:
    return await gateway.client("otto")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engineer(gateway: Gateway) -> Client:
    return await gateway.client("ella")


async def test_a_setpoint_reaches_the_device_and_is_read_back(
    gateway: Gateway, operator: Client
) -> None:
    assert await written(operator, "Rig.Setpoint", 42.0, DOUBLE) == "Good"
    assert gateway.field.value("Rig.Setpoint") == 42
    accepted, *_, last = gateway.receipts("Rig.Setpoint")
    assert accepted["source"].startswith("opcua:otto@")
    assert (accepted["step"], last["step"]) == ("accepted", "verified")
    setpoint = gateway.field.field.commands.outputs[gateway.field.field.table.index["Rig.Setpoint"]]
    assert setpoint.setpoints["operator"].until_ns  # a lease, as link.json says


async def test_who_hears_that_his_write_is_good_reads_the_new_value(
    gateway: Gateway, operator: Client
) -> None:
    node = operator.get_node("ns=2;s=Rig.Setpoint")
    for value in range(20, 32):
        assert await written(operator, "Rig.Setpoint", float(value), DOUBLE) == "Good"
        assert await node.read_value() == value


async def test_what_is_out_of_range_is_refused_with_its_receipt(
    gateway: Gateway, operator: Client
) -> None:
    assert await written(operator, "Rig.Setpoint", 101.0, DOUBLE) == "BadOutOfRange"
    refused = gateway.field.events("receipt", step="refused", tag="Rig.Setpoint")[-1]
    assert (refused["code"], refused["reason"]) == ("range", "outside 0 to 100 degC")
    assert refused["source"].startswith("opcua:otto@")


async def test_an_observer_and_a_role_below_are_refused_and_it_is_journaled(
    gateway: Gateway, operator: Client
) -> None:
    observer = await gateway.client("olga")
    assert await written(observer, "Rig.Setpoint", 1.0, DOUBLE) == "BadUserAccessDenied"
    closed = ua.VariantType.Boolean
    assert await written(operator, "Rig.Valve", True, closed) == "BadUserAccessDenied"
    assert await called(observer, "/Gateway", "EmergencyStop") == ("BadUserAccessDenied", None)
    sources = ("opcua:olga@", "opcua:otto@")

    def journaled() -> bool:
        told = gateway.field.events("receipt", step="refused", by="opcua")
        return all(any(r["source"].startswith(s) for r in told) for s in sources)

    await eventually(journaled)
    assert not gateway.rig.valve


async def test_the_output_is_given_back(gateway: Gateway, operator: Client) -> None:
    text = ua.Variant("Setpoint", ua.VariantType.String)
    lease = ua.Variant(60_000.0, DOUBLE)
    code, message = await called(
        operator, "/Rig", "WriteWithLease", text, ua.Variant(30.0, DOUBLE), lease
    )
    assert (code, message) == ("Good", "verified")
    assert await called(operator, "/Rig", "Release", text) == ("Good", "done")
    await eventually(lambda: gateway.field.value("Rig.Setpoint") == 5)
    assert (await called(operator, "/Rig", "Release", text))[0] == "BadNothingToDo"


async def test_a_trip_is_reset_when_its_cause_is_gone(gateway: Gateway, operator: Client) -> None:
    gateway.rig.temperature(950)
    await eventually(lambda: gateway.field.value("Controls.OverTemp"))
    code, _ = await called(operator, "/Gateway", "ResetTrips")
    assert code == "BadInvalidState"  # the cause is still there
    gateway.rig.temperature(20)
    await eventually(lambda: gateway.field.value("Rig.Temperature") == 20)
    code, message = await called(operator, "/Gateway", "ResetTrips")
    assert (code, message) == ("Good", "verified: released: Control/OverTemp")
    assert "failed" in gateway.steps("Gateway.Reset")
    assert gateway.steps("Gateway.Reset")[-1] == "verified"


async def test_a_state_is_asked_for_by_name(gateway: Gateway, operator: Client) -> None:
    def state(name: str) -> ua.Variant:
        return ua.Variant(name, ua.VariantType.String)

    machine = "States.Plant/StateMachine"
    assert await called(operator, machine, "RequestState", state("Warm")) == ("Good", "verified")
    assert gateway.field.value("States.Plant") == 2
    assert (await called(operator, machine, "RequestState", state("Run")))[0] == "BadInvalidState"
    assert await written(operator, "States.Plant", 1, ua.VariantType.UInt32) == "Good"
    assert "verified" in gateway.steps("States.Plant")


async def test_an_engineer_bypasses_a_cause_and_ends_that(
    gateway: Gateway, operator: Client, engineer: Client
) -> None:
    cause = "Controls.OverTemp/Cause"
    duration = ua.Variant(60_000.0, DOUBLE)
    why = ua.Variant(ua.LocalizedText("sensor is changed"), ua.VariantType.LocalizedText)
    assert (await called(operator, cause, "Bypass", duration, why))[0] == "BadUserAccessDenied"
    short = ua.Variant(ua.LocalizedText(""), ua.VariantType.LocalizedText)
    assert (await called(engineer, cause, "Bypass", duration, short))[0] == "BadInvalidArgument"
    assert await called(engineer, cause, "Bypass", duration, why) == ("Good", "verified")
    (begun,) = gateway.field.events("bypass", what="begin")
    assert (begun["comment"], begun["duration_s"]) == ("sensor is changed", 60)
    assert await called(engineer, cause, "EndBypass") == ("Good", "verified")
    assert gateway.steps("Controls.OverTemp")[-1] == "verified"


async def test_the_emergency_stop_is_set_and_taken_back(gateway: Gateway, operator: Client) -> None:
    assert await called(operator, "/Gateway", "EmergencyStop") == ("Good", "verified")
    await eventually(lambda: gateway.field.value("Controls.E_Stop"))
    assert (await called(operator, "/Gateway", "ReleaseEmergencyStop"))[0] == "Good"
    assert (await called(operator, "/Gateway", "ResetTrips"))[0] == "Good"


async def test_many_writes_of_one_request_are_carried_out_in_order(
    gateway: Gateway, operator: Client
) -> None:
    node, count = operator.get_node("ns=2;s=Rig.Setpoint"), 50
    values = [ua.DataValue(ua.Variant(float(10 + n), DOUBLE)) for n in range(count)]
    results = await operator.uaclient.write_attributes([node.nodeid] * count, values)
    assert all(result.is_good() for result in results)
    accepted = [r for r in gateway.receipts("Rig.Setpoint") if r["step"] == "accepted"]
    assert [r["value"] for r in accepted[-count:]] == [float(10 + n) for n in range(count)]
    await eventually(lambda: gateway.field.value("Rig.Setpoint") == 10 + count - 1)


async def test_the_reason_comes_with_the_diagnostics(operator: Client) -> None:
    write = ua.WriteValue()
    write.NodeId, write.AttributeId = own_id("Rig.Setpoint"), ua.AttributeIds.Value
    write.Value = ua.DataValue(ua.Variant(500.0, DOUBLE))
    request = ua.WriteRequest()
    request.Parameters.NodesToWrite = [write]
    request.RequestHeader.ReturnDiagnostics = ua.UInt32(0x80)
    protocol = operator.uaclient.protocol
    assert protocol is not None
    data = await protocol.send_request(request)
    response = struct_from_binary(ua.WriteResponse, data)
    assert response.Results[0].name == "BadOutOfRange"
    reason = response.DiagnosticInfos[0].AdditionalInfo
    assert reason == "refused: outside 0 to 100 degC"


class Events:
    """Collects what an event subscription delivers."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def event_notification(self, event: Any) -> None:
        self.seen.append(event)


async def test_every_write_and_call_is_an_audit_event_with_its_reason(
    gateway: Gateway, operator: Client
) -> None:
    administrator = await gateway.client("anna")
    events = Events()
    subscription = await administrator.create_subscription(50, events)
    await subscription.subscribe_events(
        ua.ObjectIds.Server, [ua.ObjectIds.AuditWriteUpdateEventType]
    )
    await subscription.subscribe_events(
        ua.ObjectIds.Server, [ua.ObjectIds.AuditUpdateMethodEventType]
    )
    await written(operator, "Rig.Setpoint", 102.0, DOUBLE)
    await called(operator, "/Gateway", "ResetTrips")

    def told(user: str, *words: str) -> bool:
        mine = [e for e in events.seen if e.ClientUserId == user]
        return any(all(word in e.Message.Text for word in words) for e in mine)

    await eventually(lambda: told("otto", "Rig.Setpoint", "outside 0 to 100 degC"))
    (refused,) = [e for e in events.seen if getattr(e, "AttributeId", None) == 13]
    node = operator.get_node("ns=2;s=Rig.Setpoint")
    assert (refused.NewValue, refused.OldValue) == (102.0, await node.read_value())
    await eventually(lambda: told("otto", "ResetTrips"))


async def test_methods_can_be_browsed_with_their_arguments(operator: Client) -> None:
    node = operator.get_node("ns=2;s=/Rig")
    found = {(await m.read_browse_name()).Name for m in await node.get_methods()}
    assert {"Release", "WriteWithLease"} <= found
    arguments = await operator.get_node("ns=2;s=/Rig/WriteWithLease/InputArguments").read_value()
    assert [a.Name for a in arguments] == ["Channel", "Value", "Lease"]
    description = await operator.get_node("ns=2;s=/Rig/Release").read_description()
    assert "give" in (description.Text or "")


async def test_what_the_server_does_not_offer_is_unsupported(operator: Client) -> None:
    protocol = operator.uaclient.protocol
    assert protocol is not None
    for request in (ua.AddNodesRequest(), ua.DeleteNodesRequest(), ua.QueryFirstRequest()):
        with pytest.raises(ua.UaStatusCodeError) as refused:
            await protocol.send_request(request)
        assert refused.value.code == ua.StatusCodes.BadServiceUnsupported


async def test_a_field_process_that_hangs_is_a_timeout_and_what_it_held_is_not_done_later(
    gateway: Gateway, operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orders, "ANSWER_S", 0.3)
    before = gateway.field.value("Rig.Setpoint")
    async with gateway.field.field.server._orders:  # no command gets its turn
        assert await written(operator, "Rig.Setpoint", 99.0, DOUBLE) == "BadTimeout"

    def told() -> bool:
        steps = [(r["step"], r.get("code", "")) for r in gateway.receipts("Rig.Setpoint")]
        return {("failed", ""), ("refused", "expired")} == set(steps[-2:])

    await eventually(told)
    assert gateway.field.value("Rig.Setpoint") == before


async def test_a_field_process_that_dies_meanwhile_is_a_timeout_too(
    gateway: Gateway, operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orders, "ANSWER_S", 0.5)
    async with gateway.field.field.server._orders:
        waiting = asyncio.create_task(written(operator, "Rig.Setpoint", 98.0, DOUBLE))
        await asyncio.sleep(0.1)
        await gateway.field.crash()
        assert await waiting in ("BadTimeout", "BadNoCommunication")
    await gateway.start_field()
    await eventually(lambda: gateway.link.link.remote.ready)
    await eventually(lambda: gateway.field.events("receipt", by=orders.BY, value=98.0))


async def test_without_a_field_process_nothing_is_promised(
    gateway: Gateway, operator: Client
) -> None:
    await gateway.field.crash()
    await eventually(lambda: not gateway.link.link.remote.ready)
    assert await written(operator, "Rig.Setpoint", 7.0, DOUBLE) == "BadNoCommunication"
    await gateway.start_field()
    await eventually(lambda: gateway.link.link.remote.ready)
    told = "no field process is there"
    await eventually(
        lambda: any(told in r["reason"] for r in gateway.field.events("receipt", by=orders.BY))
    )
    assert await written(operator, "Rig.Setpoint", 8.0, DOUBLE) in (
        "Good",
        "GoodCompletesAsynchronously",
    )
