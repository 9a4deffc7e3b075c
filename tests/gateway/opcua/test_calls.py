"""The Call service and our own methods: who may, which arguments, what is passed on."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest
from asyncua import ua

from gateway.core.clock import ManualClock, SystemClock
from gateway.opcua.methods import Method, MethodFault, Methods
from gateway.opcua.model import CauseModel, SiteModel
from gateway.opcua.names import own_id, standard_id
from gateway.opcua.orders import calls as module
from gateway.opcua.orders.calls import Calls
from gateway.opcua.orders.diagnostics import MORE
from gateway.opcua.orders.orders import Orders
from gateway.opcua.orders.own import OwnMethods, argument
from gateway.opcua.service import Fault
from gateway.opcua.transport.session import Session
from gateway.opcua.transport.shares import Shares
from gateway.opcua.users import Role
from tests.gateway.opcua.orders_case import (
    POINTS,
    FakeDesk,
    Heard,
    attributes_of,
    call_of,
    made_session,
    name_of,
    rights,
    site_values,
    steps,
)

KIND = ua.VariantType
MACHINES: Any = {"States.Plant": None}
MODEL = SiteModel(
    "Small",
    "hash",
    machines=MACHINES,
    causes={"Controls.Hot": CauseModel("Control/Hot", "Trip", "too hot", 3600.0)},
)
ENGINEER = made_session(Role.ENGINEER, "eva")


class Server:
    """The Call service with our own methods."""

    def __init__(self) -> None:
        self.desk, values, self.audit = FakeDesk(), site_values(), Heard()
        orders = self.desk.orders = Orders(self.desk, SystemClock(), values)
        self.methods = Methods()
        self.own = OwnMethods(orders, values, rights(), self.methods)
        self.own.take_over(MODEL, POINTS)
        audit: Any = self.audit
        self.calls = Calls(self.methods, rights(), audit, attributes_of)

    async def ask(
        self, *calls: ua.CallMethodRequest, session: Session | None = None, diagnostics: int = 0
    ) -> ua.CallResponse:
        (service,) = self.calls.services().values()
        parameters = ua.CallParameters(list(calls))
        response = await service(call_of(session or made_session(), parameters, diagnostics))
        assert isinstance(response, ua.CallResponse)
        return response

    async def call(
        self, node: str, name: str, *inputs: ua.Variant, session: Session | None = None
    ) -> str:
        response = await self.ask(request(node, name, *inputs), session=session)
        return name_of(response.Results[0].StatusCode.value)


def request(node: str, name: str, *inputs: ua.Variant) -> ua.CallMethodRequest:
    made = ua.CallMethodRequest()
    made.ObjectId, made.MethodId = own_id(node), own_id(f"{node}/{name}")
    made.InputArguments = list(inputs)
    return made


def text(content: str) -> ua.Variant:
    return ua.Variant(content, KIND.String)


def number(content: float, kind: ua.VariantType = KIND.Double) -> ua.Variant:
    return ua.Variant(content, kind)


def comment(content: str) -> ua.Variant:
    return ua.Variant(ua.LocalizedText(content), KIND.LocalizedText)


@pytest.fixture
def server() -> Server:
    return Server()


# ------------------------------------------------------------ our own methods


@pytest.mark.parametrize(
    ("node", "name", "inputs", "sent"),
    [
        ("/Gateway", "ResetTrips", [], {"tag": "Gateway.Reset", "value": 1.0}),
        ("/Gateway", "EmergencyStop", [], {"tag": "Gateway.E_Stop", "value": 1.0}),
        ("/Gateway", "ReleaseEmergencyStop", [], {"tag": "Gateway.E_Stop", "value": 0.0}),
        (
            "States.Plant/StateMachine",
            "RequestState",
            [text("B")],
            {"tag": "States.Plant", "value": 2.0, "action": "write"},
        ),
        (
            "Controls.Hot/Cause",
            "Bypass",
            [number(60_000.0), comment("sensor is being changed")],
            {
                "tag": "Controls.Hot",
                "action": "bypass",
                "lease_ns": 60 * 10**9,
                "comment": "sensor is being changed",
            },
        ),
        ("Controls.Hot/Cause", "EndBypass", [], {"tag": "Controls.Hot", "action": "end-bypass"}),
        ("/Rig", "Release", [text("Setpoint")], {"tag": "Rig.Setpoint", "release": True}),
        (
            "/Rig",
            "WriteWithLease",
            [text("Setpoint"), number(5, KIND.Int32), number(1500, KIND.UInt16)],
            {"tag": "Rig.Setpoint", "value": 5.0, "lease_ns": 1_500_000_000},
        ),
        (
            "/PSU",
            "WriteWithLease",
            [text("Current"), number(5.0), number(0.0)],
            {"tag": "PSU.Current", "value": 5.0, "lease_ns": 0},
        ),
    ],
)
async def test_methods_become_commands(
    server: Server, node: str, name: str, inputs: list[ua.Variant], sent: dict[str, Any]
) -> None:
    server.desk.says = lambda command: steps("accepted", "verified")
    assert await server.call(node, name, *inputs, session=ENGINEER) == "Good"
    (command,) = server.desk.commands
    assert command["source"] == "opcua:eva@panel 10.0.0.9"
    assert {key: command[key] for key in sent} == sent


async def test_what_became_of_it_comes_back_in_words(server: Server) -> None:
    said = steps("accepted", "verified", reason="released: Control/Hot")
    server.desk.says = lambda command: said
    response = await server.ask(request("/Gateway", "ResetTrips"))
    assert [v.Value for v in response.Results[0].OutputArguments] == [
        "verified: released: Control/Hot"
    ]


async def test_a_setpoint_that_is_on_its_way_has_its_words_too(server: Server) -> None:
    server.desk.says = lambda command: steps("accepted", "limited", reason="held to 4 by Grid")
    inputs = text("Setpoint"), number(5.0), number(0.0)
    (result,) = (await server.ask(request("/Rig", "WriteWithLease", *inputs))).Results
    assert name_of(result.StatusCode.value) == "GoodClamped"
    assert result.OutputArguments[0].Value == "limited: held to 4 by Grid"


async def test_a_refusal_has_its_code_its_words_and_no_outputs(server: Server) -> None:
    said = steps("accepted", "failed", code="still-active", reason="still active: Control/Hot")
    server.desk.says = lambda command: said
    response = await server.ask(request("/Gateway", "ResetTrips"), diagnostics=MORE)
    (result,) = response.Results
    assert name_of(result.StatusCode.value) == "BadInvalidState"
    assert not result.OutputArguments
    assert response.DiagnosticInfos[0].AdditionalInfo == "failed: still active: Control/Hot"
    assert server.audit.calls == [
        ("/Gateway/ResetTrips", result.StatusCode.value, "failed: still active: Control/Hot", False)
    ]


# ------------------------------------------------------------ who may


@pytest.mark.parametrize(
    ("session", "node", "name", "code"),
    [
        (made_session(Role.OBSERVER), "/Gateway", "EmergencyStop", "BadUserAccessDenied"),
        (made_session(Role.OPERATOR), "/Gateway", "EmergencyStop", "Good"),
        (made_session(Role.OPERATOR), "Controls.Hot/Cause", "EndBypass", "BadUserAccessDenied"),
        (made_session(Role.ENGINEER), "Controls.Hot/Cause", "EndBypass", "Good"),
        (made_session(points=["Rig.*"]), "/Gateway", "ResetTrips", "BadUserAccessDenied"),
        (made_session(secured=False), "/Gateway", "ResetTrips", "BadSecurityModeInsufficient"),
        (made_session(), "/Nowhere", "ResetTrips", "BadNodeIdUnknown"),
        (made_session(), "/Gateway", "Nonsense", "BadNotExecutable"),
        (made_session(), "/Gateway", "Nowhere", "BadMethodInvalid"),
    ],
)
async def test_roles_and_points_decide_who_may_call(
    server: Server, session: Session, node: str, name: str, code: str
) -> None:
    server.desk.says = lambda command: steps("accepted", "verified")
    assert await server.call(node, name, session=session) == code
    assert bool(server.desk.commands) == (code == "Good")


async def test_the_rights_of_the_output_count_for_its_equipment(server: Server) -> None:
    assert await server.call("/PSU", "Release", text("Current")) == "BadUserAccessDenied"
    assert not server.desk.commands


async def test_a_method_is_called_on_its_own_object_only(server: Server) -> None:
    wrong = request("/Gateway", "ResetTrips")
    wrong.ObjectId = own_id("/Rig")
    (result,) = (await server.ask(wrong)).Results
    assert name_of(result.StatusCode.value) == "BadMethodInvalid"


async def test_methods_follow_the_configuration(server: Server) -> None:
    server.own.take_over(SiteModel("Small", "other"), POINTS[:5])
    assert await server.call("/Gateway", "EmergencyStop") == "BadNotExecutable"
    assert await server.call("/Rig", "Release", text("Setpoint")) == "Good"


# ------------------------------------------------------------ arguments


@pytest.mark.parametrize(
    ("node", "name", "inputs", "code", "results"),
    [
        ("/Rig", "Release", [], "BadArgumentsMissing", []),
        ("/Rig", "Release", [text("a"), text("b")], "BadTooManyArguments", []),
        ("/Rig", "Release", [number(1.0)], "BadInvalidArgument", ["BadTypeMismatch"]),
        ("/Rig", "Release", [text("Nonsense")], "BadInvalidArgument", ["BadOutOfRange"]),
        (
            "/Rig",
            "WriteWithLease",
            [text("Setpoint"), text("5"), number(0.0)],
            "BadInvalidArgument",
            ["Good", "BadTypeMismatch", "Good"],
        ),
        (
            "/Rig",
            "WriteWithLease",
            [text("Setpoint"), number(5.0), number(-1.0)],
            "BadInvalidArgument",
            ["Good", "Good", "BadOutOfRange"],
        ),
        (
            "/Rig",
            "WriteWithLease",
            [text("Setpoint"), number(5.0), text("1 s")],
            "BadInvalidArgument",
            ["Good", "Good", "BadTypeMismatch"],
        ),
        (
            "States.Plant/StateMachine",
            "RequestState",
            [text("C")],
            "BadInvalidArgument",
            ["BadOutOfRange"],
        ),
        (
            "States.Plant/StateMachine",
            "RequestState",
            [text("")],
            "BadInvalidArgument",
            ["BadOutOfRange"],
        ),
        (
            "States.Plant/StateMachine",
            "RequestState",
            [ua.Variant(["A"], KIND.String)],
            "BadInvalidArgument",
            ["BadTypeMismatch"],
        ),
        (
            "Controls.Hot/Cause",
            "Bypass",
            [number(float("nan")), comment("why not")],
            "BadInvalidArgument",
            ["BadOutOfRange", "Good"],
        ),
        (
            "Controls.Hot/Cause",
            "Bypass",
            [number(1.0), text("no localized text")],
            "BadInvalidArgument",
            ["Good", "BadTypeMismatch"],
        ),
    ],
)
async def test_arguments_are_checked_one_by_one(
    server: Server, node: str, name: str, inputs: list[ua.Variant], code: str, results: list[str]
) -> None:
    response = await server.ask(request(node, name, *inputs), session=ENGINEER, diagnostics=MORE)
    (result,) = response.Results
    assert name_of(result.StatusCode.value) == code
    assert [name_of(status.value) for status in result.InputArgumentResults] == results
    assert [bool(info.AdditionalInfo) for info in result.InputArgumentDiagnosticInfos] == [
        status != "Good" for status in results
    ]
    assert not server.desk.commands


async def test_what_a_call_sets_is_told_to_those_who_may_read_it(server: Server) -> None:
    inputs = (text("Setpoint"), number(5.0), number(0.0))
    await server.call("/Rig", "WriteWithLease", *inputs)
    await server.call("/Rig", "WriteWithLease", *inputs, session=made_session(Role.OBSERVER))
    await server.call("/Rig", "Release", text("Setpoint"))
    await server.call("/Rig", "Release", text("Nonsense"))
    await server.call("/Rig", "Release", number(1.0))
    await server.call("/Rig", "Release")
    await server.call("/Gateway", "ResetTrips")
    assert server.audit.about == [*["Rig.Setpoint"] * 3, "", "", "", ""]


# ------------------------------------------------------------ others' methods, bounds


def other(run: Any, role: Role = Role.OBSERVER, rank: int = -1) -> Method:
    given = argument("Ids", ua.ObjectIds.UInt32, "")
    given.ValueRank = ua.Int32(rank)
    return Method("Other", (given,), (), role, lambda node: "", run)


async def test_a_method_can_be_called_by_the_id_of_its_type(server: Server) -> None:
    seen: list[Any] = []

    async def run(session: Session, node: ua.NodeId, inputs: Any) -> list[ua.Variant]:
        seen.append((node, inputs[0].Value))
        return [ua.Variant(7, KIND.UInt32)]

    of_type = standard_id(ua.ObjectIds.ConditionType_ConditionRefresh)
    server.methods.add(of_type, other(run))
    call = request("/Rig", "Other", number(3, KIND.Int64))
    call.MethodId = of_type
    observer = made_session(Role.OBSERVER, secured=False)
    (result,) = (await server.ask(call, session=observer)).Results
    assert (name_of(result.StatusCode.value), result.OutputArguments[0].Value) == ("Good", 7)
    assert seen == [(own_id("/Rig"), 3)]
    assert server.audit.calls[0][-1]  # done here: told in bounds, whoever calls it all day


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (ua.Variant([1, 2], KIND.UInt32), "Good"),
        (ua.Variant([], KIND.UInt32), "Good"),
        (ua.Variant([1.0], KIND.Double), "BadInvalidArgument"),
        (ua.Variant(1, KIND.UInt32), "BadInvalidArgument"),
    ],
)
async def test_arrays_are_arguments_too(server: Server, given: ua.Variant, code: str) -> None:
    async def run(*_: Any) -> list[ua.Variant]:
        return []

    server.methods.add(own_id("/Rig/Other"), other(run, rank=1))
    assert await server.call("/Rig", "Other", given) == code


async def test_methods_of_a_request_run_side_by_side(server: Server) -> None:
    both = asyncio.Barrier(2)

    async def run(*_: Any) -> list[ua.Variant]:
        async with asyncio.timeout(5):
            await both.wait()
        return []

    server.methods.add(own_id("/Rig/Other"), other(run))
    calls = [request("/Rig", "Other", number(1, KIND.UInt32))] * 2
    response = await server.ask(*calls)
    assert [name_of(r.StatusCode.value) for r in response.Results] == ["Good", "Good"]


async def test_methods_are_on_the_account_of_their_client() -> None:
    """A hundred of them in one request are no way round the turns that all clients share."""
    server, clock = Server(), ManualClock()
    shares = Shares(clock, clock.monotonic_ns)
    account = shares.account()
    turns = asyncio.create_task(shares.run())

    async def run(*_: Any) -> list[ua.Variant]:
        for _ in range(3):
            clock.advance(1_000_000)
            await asyncio.sleep(0)
        return []

    server.methods.add(own_id("/Rig/Other"), other(run))
    calls = [request("/Rig", "Other", number(1, KIND.UInt32))] * 10
    call = call_of(made_session(Role.OBSERVER), ua.CallParameters(calls))
    call.meter = partial(shares.metered, account=account)
    (service,) = server.calls.services().values()
    response = await service(call)
    assert [name_of(r.StatusCode.value) for r in response.Results] == ["Good"] * 10
    assert account.used_ns >= 30_000_000
    turns.cancel()


async def test_a_method_that_never_ends_is_given_up(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "METHOD_S", 0.05)

    async def run(*_: Any) -> list[ua.Variant]:
        await asyncio.Event().wait()
        return []

    server.methods.add(own_id("/Rig/Other"), other(run))
    assert await server.call("/Rig", "Other", number(1, KIND.UInt32)) == "BadTimeout"


async def test_a_fault_of_a_method_is_its_result(server: Server) -> None:
    async def run(*_: Any) -> list[ua.Variant]:
        raise MethodFault(ua.StatusCodes.BadEventIdUnknown, "no such event")

    server.methods.add(own_id("/Rig/Other"), other(run))
    assert await server.call("/Rig", "Other", number(1, KIND.UInt32)) == "BadEventIdUnknown"
    assert server.audit.calls[0][2:] == ("no such event", True)


async def test_requests_are_bounded(server: Server) -> None:
    with pytest.raises(Fault) as nothing:
        await server.ask()
    assert name_of(nothing.value.code) == "BadNothingToDo"
    with pytest.raises(Fault) as many:
        await server.ask(*[request("/Gateway", "ResetTrips")] * (module.CALLS_MAX + 1))
    assert name_of(many.value.code) == "BadTooManyOperations"
