"""Commands of OPC UA clients: what is passed on, and what its answers mean."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Iterable, Iterator

import pytest

from gateway.core.clock import SystemClock
from gateway.core.refusals import REFUSALS, CommandRefused
from gateway.local import LocalError, command_of, receipt_of
from gateway.opcua.orders import orders as module
from gateway.opcua.orders.orders import Orders
from gateway.opcua.orders.outcomes import OF_REFUSAL, Outcome
from safety.alarm_records import AlarmRefused
from safety.engine import BypassRefused
from tests.gateway.opcua.orders_case import FakeDesk, made_session, name_of, site_values, steps
from tests.tidy.repository import ROOT

SOURCES = (
    *("gateway/commands.py", "gateway/requests.py", "gateway/alarms.py"),
    *("safety/alarms.py", "safety/engine.py"),
)
REFUSING = ("CommandRefused", "AlarmRefused", "BypassRefused")
# Codes that another refusal or the table of alarm states gives.
PASSED_ON = ("refused.code", "error.code", "self._code(alarm, what)")


@pytest.fixture
def desk() -> FakeDesk:
    made = FakeDesk()
    made.orders = Orders(made, SystemClock(), site_values())
    return made


async def asked(desk: FakeDesk, tag: str = "Rig.Setpoint", value: float = 5.0) -> Outcome:
    assert desk.orders is not None
    session = made_session()
    return await desk.orders.submit(session, desk.orders.new(session, tag, value))


# ------------------------------------------------------------ every refusal has its code


def test_every_refusal_has_a_status_code_and_no_code_is_left_over() -> None:
    assert set(OF_REFUSAL) == set(REFUSALS)


def constants(nodes: Iterable[ast.AST]) -> set[str]:
    """The texts among expressions and what they choose between."""
    inner = [part for node in nodes for part in ast.walk(node)]
    return {n.value for n in inner if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def calls_in(path: str) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            yield (node.func.id if isinstance(node.func, ast.Name) else name), node


@pytest.mark.parametrize("path", SOURCES)
def test_every_refusal_in_the_source_has_a_known_code(path: str) -> None:
    found = [call for name, call in calls_in(path) if name in REFUSING]
    assert found
    for call in found:
        word, reason = call.args  # each has both
        assert isinstance(word, ast.Constant) or ast.unparse(word) in PASSED_ON, ast.unparse(call)
        assert constants([word]) <= set(REFUSALS) or ast.unparse(word) in PASSED_ON


def test_what_fails_later_has_a_known_code_too() -> None:
    words: set[str] = set()
    for path in SOURCES:
        for name, call in calls_in(path):
            given = [k.value for k in call.keywords if k.arg == "code"]
            steps = constants([a for a in call.args if not isinstance(a, ast.Call)])
            if name in ("report", "_once") and "failed" in steps:
                given += call.args[3:4]
                assert given, ast.unparse(call)
            words |= constants(given)
    assert {"overtaken", "device", "read-back"} <= words <= set(REFUSALS)


def test_refusals_say_their_code() -> None:
    for kind in (CommandRefused, AlarmRefused, BypassRefused):
        refused = kind("range", "outside 0 to 1")
        assert (refused.code, str(refused)) == ("range", "outside 0 to 1")


# ------------------------------------------------------------ what is passed on


async def test_a_command_says_who_asks_and_expires_when_its_client_gave_up(desk: FakeDesk) -> None:
    await asked(desk)
    command = command_of({"command": desk.commands[0]})
    assert command.source == "opcua:anna@panel 10.0.0.9"
    assert command.origin == "operator"
    late_ns = command.expires_ns - SystemClock().utc_ns()
    assert 0 < late_ns <= module.ANSWER_S * 1e9


async def test_an_emergency_stop_never_expires(desk: FakeDesk) -> None:
    await asked(desk, "Gateway.E_Stop", 1.0)
    await asked(desk, "Gateway.E_Stop", 0.0)
    assert [bool(c["expires_ns"]) for c in desk.commands] == [False, True]


async def test_a_long_name_of_a_client_still_fits_the_local_stream(desk: FakeDesk) -> None:
    assert desk.orders is not None
    session = made_session(name="x" * 400)
    command = desk.orders.new(session, "Rig.Setpoint", 1.0, comment="y" * 2000)
    await desk.orders.order(command)
    try:
        command_of({"command": desk.commands[0]})
    except LocalError as error:
        pytest.fail(str(error))


# ------------------------------------------------------------ what the answers mean


@pytest.mark.parametrize(
    ("receipts", "code"),
    [
        (steps("accepted", "driven", "verified"), "Good"),
        (steps("accepted", "limited"), "GoodClamped"),
        (steps("accepted", "limited", "driven", "verified"), "GoodClamped"),
        (steps("accepted"), "GoodCompletesAsynchronously"),
        (steps("accepted", "driven"), "GoodCompletesAsynchronously"),
        (steps("accepted", "released"), "Good"),
        (steps("accepted", "released", code="held"), "BadInvalidState"),
        (steps("accepted", "failed", code="device"), "Uncertain"),
        (steps("accepted", "failed", code="read-back"), "Uncertain"),
        (steps("refused", code="range"), "BadOutOfRange"),
        (steps("refused", code="no such word"), "BadInvalidState"),
        (steps("refused"), "BadInvalidState"),
    ],
)
async def test_receipts_become_status_codes(
    desk: FakeDesk, receipts: list[dict[str, object]], code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "READ_BACK_S", 0.05)
    desk.says = lambda command: receipts
    assert name_of((await asked(desk)).code) == code


async def test_an_output_without_a_read_back_is_done_when_it_is_driven(desk: FakeDesk) -> None:
    desk.says = lambda command: steps("accepted", "driven")
    assert name_of((await asked(desk, "Rig.Blind")).code) == "Good"


async def test_the_reason_of_the_first_receipt_stays_where_a_later_one_says_nothing(
    desk: FakeDesk,
) -> None:
    first = steps("accepted", reason="the watchdog drives it")
    desk.says = lambda command: first + steps("verified")
    assert (await asked(desk)).text == "verified: the watchdog drives it"


async def test_without_a_field_process_nothing_is_passed_on(desk: FakeDesk) -> None:
    desk.ready = False
    outcome = await asked(desk)
    assert name_of(outcome.code) == "BadNoCommunication"
    assert outcome.here
    assert not desk.commands


@pytest.mark.parametrize("fails", ["", "perhaps not passed on: the socket closed"])
async def test_no_answer_is_a_timeout_that_says_perhaps_and_is_journaled(
    desk: FakeDesk, fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ANSWER_S", 0.05)
    desk.fails, desk.says = fails, lambda command: []
    outcome = await asked(desk)
    assert name_of(outcome.code) == "BadTimeout"
    assert "perhaps" in outcome.reason
    (body,) = desk.journaled
    assert receipt_of({"receipt": dict(body)})["step"] == "failed"
    assert body["source"] == "opcua:anna@panel 10.0.0.9"


async def test_receipts_of_others_change_nothing(desk: FakeDesk) -> None:
    desk.says = lambda command: []
    waiting = asyncio.create_task(asked(desk))
    await asyncio.sleep(0)
    desk.tell({"command": "another", "step": "verified", "reason": ""})
    desk.tell({"tag": "Rig.Setpoint", "step": "driven", "cause": "trip"})
    while not desk.commands:
        await asyncio.sleep(0)
    desk.tell(
        {"command": desk.commands[0]["id"], "step": "refused", "reason": "no", "code": "held"}
    )
    assert (await waiting).text == "refused: no"


# ------------------------------------------------------------ bounds


async def test_a_user_cannot_flood_the_field_but_can_always_stop(desk: FakeDesk) -> None:
    outcomes = [await asked(desk) for _ in range(int(module.PACE.burst) + 20)]
    codes = [name_of(outcome.code) for outcome in outcomes]
    assert codes[: int(module.PACE.burst)] == ["Good"] * int(module.PACE.burst)
    assert "BadResourceUnavailable" in codes
    assert name_of((await asked(desk, "Gateway.E_Stop", 1.0)).code) == "Good"
    assert desk.orders is not None
    session = made_session()
    alarms = [desk.orders.new(session, "Alarms.Hot", action="acknowledge") for _ in range(300)]
    assert not any([(await desk.orders.submit(session, alarm)).bad for alarm in alarms])


async def test_only_so_many_commands_wait(desk: FakeDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PENDING_MAX", 2)
    monkeypatch.setattr(module, "ANSWER_S", 0.2)
    desk.says = lambda command: []
    outcomes = await asyncio.gather(*(asked(desk) for _ in range(3)))
    assert [name_of(o.code) for o in outcomes] == ["BadTimeout"] * 2 + ["BadResourceUnavailable"]
    waiting = [asyncio.create_task(asked(desk)) for _ in range(2)]
    await asyncio.sleep(0)
    desk.says = lambda command: steps("accepted", "verified")
    assert name_of((await asked(desk, "Gateway.E_Stop", 1.0)).code) == "Good"
    await asyncio.gather(*waiting)
