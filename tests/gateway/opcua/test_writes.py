"""The Write service: what becomes a command, what is refused and with which code."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from asyncua import ua

from gateway.core.clock import SystemClock
from gateway.opcua.orders import orders as orders_module
from gateway.opcua.orders import writes as module
from gateway.opcua.orders.conversion import Mismatch, converted, point_value
from gateway.opcua.orders.diagnostics import MORE, SYMBOL, TEXT
from gateway.opcua.orders.orders import Orders
from gateway.opcua.orders.writes import Writes
from gateway.opcua.service import Fault
from gateway.opcua.transport.session import Session
from gateway.opcua.users import Role
from tests.gateway.opcua.orders_case import (
    FakeDesk,
    Heard,
    attributes_of,
    call_of,
    made_session,
    name_of,
    plain,
    rights,
    site_values,
    steps,
    write_of,
)

KIND = ua.VariantType


class Server:
    """The Write service on a field process that says what it is told to."""

    def __init__(self, lease_s: float = 0.0) -> None:
        self.desk, values, self.audit = FakeDesk(), site_values(), Heard()
        self.desk.orders = Orders(self.desk, SystemClock(), values)
        audit: Any = self.audit
        self.writes = Writes(self.desk.orders, values, rights(), audit, attributes_of, lease_s)

    async def ask(
        self, *writes: ua.WriteValue, session: Session | None = None, diagnostics: int = 0
    ) -> ua.WriteResponse:
        parameters = ua.WriteParameters(list(writes))
        (service,) = self.writes.services().values()
        response = await service(call_of(session or made_session(), parameters, diagnostics))
        assert isinstance(response, ua.WriteResponse)
        return response

    async def write(self, tag: str, value: ua.DataValue, **more: Any) -> str:
        """The name of the result's code."""
        session = more.pop("session", None)
        response = await self.ask(write_of(tag, value, **more), session=session)
        return name_of(response.Results[0].value)


@pytest.fixture
def server() -> Server:
    return Server()


# ------------------------------------------------------------ what passes


async def test_a_written_value_becomes_a_command(server: Server) -> None:
    assert await server.write("Rig.Setpoint", plain(42.0)) == "Good"
    (command,) = server.desk.commands
    assert (command["tag"], command["value"], command["lease_ns"]) == ("Rig.Setpoint", 42.0, 0)
    assert server.audit.writes == [("Rig.Setpoint", 0, "", False)]


@pytest.mark.parametrize(
    ("tag", "content", "kind", "sent"),
    [
        ("Rig.Setpoint", 4, KIND.Int32, 4.0),
        ("Rig.Setpoint", 0.5, KIND.Float, 0.5),
        ("Rig.Setpoint", 2**53, KIND.UInt64, 2.0**53),
        ("Rig.Setpoint", True, KIND.Boolean, 1.0),
        ("Rig.Valve", True, KIND.Boolean, 1.0),
        ("Rig.Valve", 0, KIND.Byte, 0.0),
        ("Rig.Valve", 1.0, KIND.Double, 1.0),
        ("Rig.Steps", 7, KIND.Int64, 7.0),
        ("Rig.Steps", 7.0, KIND.Float, 7.0),
        ("States.Plant", 2, KIND.UInt32, 2.0),
        ("States.Plant", 2, KIND.Int16, 2.0),
        ("Gateway.E_Stop", 1, KIND.Int64, 1.0),
    ],
)
async def test_numbers_stand_for_each_other_without_loss(
    server: Server, tag: str, content: Any, kind: ua.VariantType, sent: float
) -> None:
    assert await server.write(tag, plain(content, kind)) == "Good"
    assert server.desk.commands[0]["value"] == sent


async def test_many_writes_are_on_their_way_before_the_first_answer(server: Server) -> None:
    answers: list[Callable[[], None]] = []

    def keep(command: Any) -> list[dict[str, Any]]:
        body = {"command": command["id"], "step": "refused", "reason": "no", "code": "held"}
        answers.append(lambda: server.desk.tell(body))
        return []

    server.desk.says = keep
    writes = [write_of("Rig.Setpoint", plain(float(number))) for number in range(module.WRITES_MAX)]
    waiting = asyncio.create_task(server.ask(*writes))
    while len(answers) < module.WRITES_MAX:
        await asyncio.sleep(0)
    assert [c["value"] for c in server.desk.commands] == [float(n) for n in range(100)]
    for answer in reversed(answers):
        answer()
    response = await waiting
    assert {name_of(result.value) for result in response.Results} == {"BadInvalidState"}


async def test_each_write_has_a_result_of_its_own_in_order(server: Server) -> None:
    response = await server.ask(
        write_of("Rig.Setpoint", plain(1.0)),
        write_of("Rig.Temperature", plain(1.0)),
        write_of("Rig.Nowhere", plain(1.0)),
        write_of("Rig.Valve", plain(True, KIND.Boolean)),
    )
    names = [name_of(result.value) for result in response.Results]
    assert names == ["Good", "BadNotWritable", "BadNodeIdUnknown", "Good"]
    assert not response.DiagnosticInfos


@pytest.mark.parametrize(("lease_s", "sent_s"), [(0.0, 0), (60.0, 60), (3600.0, 900)])
async def test_a_setpoint_is_a_lease_and_not_longer_than_the_point_allows(
    lease_s: float, sent_s: int
) -> None:
    server = Server(lease_s)
    await server.write("Rig.Setpoint", plain(1.0))
    await server.write("Gateway.Reset", plain(1, KIND.Int64))
    assert [c["lease_ns"] for c in server.desk.commands] == [sent_s * 10**9, 0]


async def test_writing_again_renews_the_lease(server: Server) -> None:
    for _ in range(2):
        assert await server.write("Rig.Setpoint", plain(5.0)) == "Good"
    first, second = server.desk.commands
    assert first["id"] != second["id"]


# ------------------------------------------------------------ what does not


@pytest.mark.parametrize(
    ("tag", "content", "kind", "code"),
    [
        ("Rig.Setpoint", "5", KIND.String, "BadTypeMismatch"),
        ("Rig.Setpoint", None, KIND.Null, "BadTypeMismatch"),
        ("Rig.Setpoint", [1.0, 2.0], KIND.Double, "BadTypeMismatch"),
        ("Rig.Setpoint", b"5", KIND.ByteString, "BadTypeMismatch"),
        ("Rig.Setpoint", 2**53 + 1, KIND.Int64, "BadOutOfRange"),
        ("Rig.Valve", 2, KIND.Int32, "BadOutOfRange"),
        ("Rig.Valve", 0.5, KIND.Double, "BadOutOfRange"),
        ("Rig.Steps", 0.5, KIND.Double, "BadOutOfRange"),
        ("Rig.Steps", float("nan"), KIND.Double, "BadOutOfRange"),
        ("Rig.Steps", 2**53 + 1, KIND.Int64, "BadOutOfRange"),
        ("States.Plant", -1, KIND.Int32, "BadOutOfRange"),
    ],
)
async def test_what_has_another_type_or_would_change_is_refused(
    server: Server, tag: str, content: Any, kind: ua.VariantType, code: str
) -> None:
    assert await server.write(tag, plain(content, kind)) == code
    assert not server.desk.commands


def dated() -> ua.DataValue:
    value = plain(1.0)
    stamp: Any = ua.win_epoch_to_datetime(131_000_000_000_000_000)
    value.SourceTimestamp = stamp
    return value


def judged(code: int) -> ua.DataValue:
    value = plain(1.0)
    value.StatusCode = ua.StatusCode(ua.UInt32(code))
    return value


async def test_only_a_plain_value_can_be_written(server: Server) -> None:
    assert await server.write("Rig.Setpoint", dated()) == "BadWriteNotSupported"
    uncertain = judged(ua.StatusCodes.UncertainLastUsableValue)
    assert await server.write("Rig.Setpoint", uncertain) == "BadWriteNotSupported"
    assert not server.desk.commands
    assert await server.write("Rig.Setpoint", judged(0)) == "Good"


@pytest.mark.parametrize(
    ("attribute", "index_range", "code"),
    [
        (13, "0", "BadWriteNotSupported"),
        (13, "1:3,0", "BadWriteNotSupported"),
        (13, "a", "BadIndexRangeInvalid"),
        (13, "1:", "BadIndexRangeInvalid"),
        (4, None, "BadNotWritable"),
        (17, None, "BadNotWritable"),
        (99, None, "BadAttributeIdInvalid"),
        (0, None, "BadAttributeIdInvalid"),
    ],
)
async def test_only_whole_values_can_be_written(
    server: Server, attribute: int, index_range: str | None, code: str
) -> None:
    given = plain(1.0)
    found = await server.write("Rig.Setpoint", given, attribute=attribute, index_range=index_range)
    assert found == code
    assert not server.desk.commands


@pytest.mark.parametrize(
    ("session", "tag", "code"),
    [
        (made_session(Role.OBSERVER), "Rig.Setpoint", "BadUserAccessDenied"),
        (made_session(Role.NOBODY, ""), "Rig.Setpoint", "BadUserAccessDenied"),
        (made_session(Role.OPERATOR), "PSU.Current", "BadUserAccessDenied"),
        (made_session(Role.ENGINEER), "PSU.Current", "Good"),
        (made_session(points=["PSU.*"]), "Rig.Setpoint", "BadUserAccessDenied"),
        (made_session(points=["Rig.*"]), "Rig.Setpoint", "Good"),
        (made_session(Role.ENGINEER, secured=False), "Rig.Setpoint", "BadSecurityModeInsufficient"),
    ],
)
async def test_roles_patterns_and_the_channel_decide_who_may_write(
    server: Server, session: Session, tag: str, code: str
) -> None:
    assert await server.write(tag, plain(1.0), session=session) == code
    assert bool(server.desk.commands) == (code == "Good")
    assert server.audit.writes[0][3] == (code != "Good")  # refused here: the audit journals it


async def test_requests_are_bounded(server: Server) -> None:
    with pytest.raises(Fault) as nothing:
        await server.ask()
    assert name_of(nothing.value.code) == "BadNothingToDo"
    with pytest.raises(Fault) as many:
        await server.ask(*[write_of("Rig.Setpoint", plain(1.0))] * (module.WRITES_MAX + 1))
    assert name_of(many.value.code) == "BadTooManyOperations"
    assert not server.desk.commands


async def test_the_reason_comes_in_words_to_who_asks_for_it(server: Server) -> None:
    server.desk.says = lambda command: steps("refused", code="range", reason="outside 0 to 100")
    writes = write_of("Rig.Setpoint", plain(500.0)), write_of("Rig.Temperature", plain(1.0))
    response = await server.ask(*writes, diagnostics=SYMBOL | TEXT | MORE)
    first, second = response.DiagnosticInfos
    table = response.ResponseHeader.StringTable
    assert first.AdditionalInfo == "refused: outside 0 to 100"
    assert table[first.Locale] == "refused: outside 0 to 100"
    assert table[first.SymbolicId] == "BadOutOfRange"
    assert table[second.SymbolicId] == "BadNotWritable"
    assert "writable" in second.AdditionalInfo
    assert not (await server.ask(*writes)).DiagnosticInfos


async def test_a_client_that_goes_away_does_not_take_the_audit_with_it(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orders_module, "ANSWER_S", 0.1)
    server.desk.says = lambda command: []
    waiting = asyncio.create_task(server.ask(write_of("Rig.Setpoint", plain(1.0))))
    while not server.desk.commands:
        await asyncio.sleep(0)
    waiting.cancel()
    async with asyncio.timeout(5):
        while not server.audit.writes:
            await asyncio.sleep(0.01)
    assert name_of(server.audit.writes[0][1]) == "BadTimeout"
    assert server.desk.journaled


# ------------------------------------------------------------ conversions


def test_every_pair_of_number_types_keeps_the_value_or_refuses() -> None:
    values: list[tuple[Any, ua.VariantType]] = [
        (value, kind)
        for kind in KIND
        if kind.name.startswith(("Int", "UInt", "SByte", "Byte")) and kind.name != "ByteString"
        for value in (0, 1, 100)
    ]
    values += [(0.0, KIND.Double), (1.0, KIND.Float), (100.0, KIND.Double)]
    for value, kind in values:
        for other in {kind for _, kind in values}:
            made = converted(ua.Variant(value, kind), other)
            assert made == value
            assert isinstance(made, float) == (other in (KIND.Double, KIND.Float))


@pytest.mark.parametrize(
    ("value", "kind", "needed"),
    [
        (300, KIND.Int32, KIND.Byte),
        (-1, KIND.Int32, KIND.UInt64),
        (2**63, KIND.UInt64, KIND.Int64),
        (1e39, KIND.Double, KIND.Float),
        (float("inf"), KIND.Double, KIND.Int64),
    ],
)
def test_what_does_not_fit_is_out_of_range(
    value: Any, kind: ua.VariantType, needed: ua.VariantType
) -> None:
    with pytest.raises(Mismatch) as mismatch:
        converted(ua.Variant(value, kind), needed)
    assert name_of(mismatch.value.code) == "BadOutOfRange"


def test_no_value_at_all_is_no_number() -> None:
    for variant in (None, ua.Variant(), ua.Variant(None, KIND.String)):
        with pytest.raises(Mismatch):
            point_value(variant, KIND.Double)
