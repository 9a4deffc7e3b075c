"""Methods of conditions: which command each is, and what is refused before there is one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import pytest_asyncio
from asyncua import ua

from gateway.opcua.conditions.audits import AUDITS
from gateway.opcua.conditions.methods import ConditionMethods
from gateway.opcua.event import UaEvent
from gateway.opcua.methods import Method, MethodFault, Methods
from gateway.opcua.names import own_id, standard_id
from gateway.opcua.orders.orders import PACE, Orders
from gateway.opcua.orders.outcomes import Outcome
from gateway.opcua.users import Role
from tests.gateway.opcua.conditions_case import NOW_NS, RULES, Stand, body, row, session

C = ua.StatusCodes
HOT = own_id("Alarms.Hot/Condition")
SHELVING = own_id("Alarms.Hot/Condition/ShelvingState")
KIND_OF = {
    ua.ObjectIds.ByteString: ua.VariantType.ByteString,
    ua.ObjectIds.LocalizedText: ua.VariantType.LocalizedText,
    ua.ObjectIds.Duration: ua.VariantType.Double,
}

pytestmark = pytest.mark.asyncio(loop_scope="module")


class PlayedOrders(Orders):
    """Keeps the commands; the field process answers with `outcome`."""

    def __init__(self, stand: Stand) -> None:
        super().__init__(stand.desk, stand.clock)
        self.commands: list[Any] = []
        self.outcome = Outcome("verified")

    async def submit(self, session: Any, command: Any) -> Outcome:
        self.commands.append(command)
        return self.outcome


class Bench:
    """Conditions with their methods."""

    def __init__(self) -> None:
        self.stand = Stand()
        self.orders = PlayedOrders(self.stand)
        self.methods = Methods()
        self.refreshed: list[tuple[int, int | None, Sequence[UaEvent]]] = []
        stand = self.stand
        ConditionMethods(stand.conditions, self.orders, self, stand.desk, stand.clock).register(
            self.methods
        )

    def refresh(
        self,
        session: Any,
        subscription_id: int,
        item_id: int | None,
        conditions: Callable[[], Iterator[UaEvent]],
    ) -> None:
        self.refreshed.append((subscription_id, item_id, list(conditions())))

    def method(self, number: int) -> Method:
        found = self.methods.get(standard_id(number))
        assert found is not None
        return found

    async def call(self, number: int, node: ua.NodeId, *given: Any) -> None:
        method = self.method(number)
        assert len(given) == len(method.inputs)
        method.tag(node)
        variants = [one if isinstance(one, ua.Variant) else ua.Variant(one) for one in given]
        await method.run(session(), node, variants)

    async def fault(self, number: int, node: ua.NodeId, *given: Any) -> int:
        with pytest.raises(MethodFault) as raised:
            await self.call(number, node, *given)
        assert str(raised.value)
        return raised.value.code


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def made() -> Bench:
    return Bench()


@pytest_asyncio.fixture(loop_scope="module")
async def bench(made: Bench) -> Bench:
    """The alarm is there and nobody acknowledged it."""
    made.stand.desk.rows = [row(tag, "normal") for tag in RULES]
    made.stand.show({})
    made.stand.show(RULES)
    made.stand.desk.ready = True
    await made.stand.settle()
    made.stand.hear(body("unacknowledged"))
    await made.stand.settle()
    made.orders.commands.clear()
    made.orders.outcome = Outcome("verified")
    made.refreshed.clear()
    made.stand.desk.journaled.clear()
    return made


def last_id(bench: Bench) -> bytes:
    return next(e.event_id for e in reversed(bench.stand.told) if e.condition == HOT)


def text(words: str) -> ua.LocalizedText:
    return ua.LocalizedText(words)


async def test_acknowledge_is_a_command(bench: Bench) -> None:
    await bench.call(9111, HOT, last_id(bench), text("seen"))
    (command,) = bench.orders.commands
    assert (command.tag, command.action, command.comment) == ("Alarms.Hot", "acknowledge", "seen")
    assert command.source == "opcua:shift@test"
    assert command.origin == "operator"
    assert command.seen_utc_ns == NOW_NS + bench.stand.seq  # when the alarm was announced


async def test_an_acknowledgement_names_the_announcement_that_was_seen(bench: Bench) -> None:
    """What returned is acknowledged by the field only where it did not come again meanwhile."""
    announced_ns = NOW_NS + bench.stand.seq
    bench.stand.hear(body("returned unacknowledged", "cleared", announced=False))
    await bench.stand.settle()
    await bench.call(9111, HOT, last_id(bench), text("seen"))
    assert bench.orders.commands[-1].seen_utc_ns == announced_ns
    bench.orders.outcome = Outcome("refused", "came again", "announced")
    assert await bench.fault(9111, HOT, last_id(bench), text("seen")) == C.BadEventIdUnknown


@pytest.mark.parametrize("event_id", [b"", b"x" * 16, ua.Variant(None, ua.VariantType.ByteString)])
async def test_an_unknown_event_is_not_acknowledged(bench: Bench, event_id: Any) -> None:
    assert await bench.fault(9111, HOT, event_id, text("")) == C.BadEventIdUnknown
    assert not bench.orders.commands


async def test_an_event_of_before_is_not_acknowledged_for_what_came_since(bench: Bench) -> None:
    """The operator saw another alarm than the one that stands there now."""
    before = last_id(bench)
    bench.stand.hear(
        body("returned unacknowledged", "cleared"), body("unacknowledged"), body("unacknowledged")
    )
    await bench.stand.settle()
    assert await bench.fault(9111, HOT, before, text("")) == C.BadEventIdUnknown
    await bench.call(9111, HOT, last_id(bench), text(""))


async def test_what_returned_is_acknowledged_by_the_event_that_announced_it(bench: Bench) -> None:
    came = last_id(bench)
    bench.stand.hear(body("returned unacknowledged", "cleared"))
    await bench.stand.settle()
    await bench.call(9111, HOT, came, text(""))


async def test_a_state_that_was_read_can_be_acknowledged(bench: Bench) -> None:
    bench.stand.desk.rows = [row("Alarms.Hot", "unacknowledged")]
    bench.stand.show({})
    bench.stand.show(RULES)
    await bench.stand.settle()
    await bench.call(9111, HOT, last_id(bench), text(""))


async def test_the_second_acknowledgement_is_told_so(bench: Bench) -> None:
    came = last_id(bench)
    bench.stand.hear(body("acknowledged", "acknowledged", by="ann"))
    await bench.stand.settle()
    assert await bench.fault(9111, HOT, came, text("")) == C.BadConditionBranchAlreadyAcked


async def test_what_the_field_refuses_is_refused(bench: Bench) -> None:
    bench.orders.outcome = Outcome("refused", "the alarm is normal", "acknowledged")
    code = await bench.fault(9111, HOT, last_id(bench), text(""))
    assert code == C.BadConditionBranchAlreadyAcked
    bench.orders.outcome = Outcome("refused", "nobody", "no-field", here=True)
    assert await bench.fault(9111, HOT, last_id(bench), text("")) == C.BadNoCommunication


@pytest.mark.parametrize("node", [HOT, SHELVING])
@pytest.mark.parametrize("number", [9213, 2949])
async def test_timed_shelve(bench: Bench, node: ua.NodeId, number: int) -> None:
    await bench.call(number, node, 60_000.0)
    (command,) = bench.orders.commands
    assert (command.action, command.lease_ns) == ("shelve", 60_000_000_000)
    assert command.comment == "no reason given: OPC UA TimedShelve has none"


async def test_timed_shelve_with_a_comment(bench: Bench) -> None:
    await bench.call(24738, SHELVING, 1.5, text("sensor"))
    (command,) = bench.orders.commands
    assert (command.comment, command.lease_ns) == ("sensor", 1_500_000)


@pytest.mark.parametrize("time_ms", [0.0, -1.0, float("nan"), float("inf"), 3_600_001.0])
async def test_no_shelving_for_another_time(bench: Bench, time_ms: float) -> None:
    assert await bench.fault(9213, HOT, time_ms) == C.BadShelvingTimeOutOfRange
    assert not bench.orders.commands


@pytest.mark.parametrize(
    ("number", "action", "given", "role"),
    [
        (9211, "unshelve", (), Role.OPERATOR),
        (24740, "unshelve", ("why",), Role.OPERATOR),
        (17869, "out-of-service", (), Role.ENGINEER),
        (24320, "out-of-service", ("why",), Role.ENGINEER),
        (17870, "in-service", (), Role.ENGINEER),
        (24322, "in-service", ("why",), Role.ENGINEER),
    ],
)
async def test_other_actions(
    bench: Bench, number: int, action: str, given: tuple[str, ...], role: Role
) -> None:
    assert bench.method(number).role == role
    assert bench.method(number).tag(HOT) == "Alarms.Hot"
    await bench.call(number, HOT, *(text(one) for one in given))
    (command,) = bench.orders.commands
    assert command.action == action
    if given:
        assert command.comment == "why"


@pytest.mark.parametrize(
    ("number", "given", "code"),
    [
        (9113, (b"", text("")), C.BadMethodInvalid),
        (9027, (), C.BadConditionAlreadyEnabled),
        (9028, (), C.BadNotSupported),
        (9212, (), C.BadNotSupported),
        (16403, (), C.BadMethodInvalid),
        (17868, (), C.BadMethodInvalid),
        (18199, (), C.BadMethodInvalid),
    ],
)
async def test_what_there_is_not_says_so(
    bench: Bench, number: int, given: tuple[Any, ...], code: int
) -> None:
    assert await bench.fault(number, HOT, *given) == code
    assert not bench.orders.commands


@pytest.mark.parametrize(
    ("number", "node", "code"),
    [
        (9111, own_id("Oven.Temperature"), C.BadMethodInvalid),
        (9111, SHELVING, C.BadMethodInvalid),
        (9111, standard_id(2881), C.BadNodeIdInvalid),
        (9213, own_id("Alarms.Nothing/Condition/ShelvingState"), C.BadMethodInvalid),
        (3875, HOT, C.BadMethodInvalid),
    ],
)
async def test_methods_belong_to_conditions(
    bench: Bench, number: int, node: ua.NodeId, code: int
) -> None:
    with pytest.raises(MethodFault) as raised:
        bench.method(number).tag(node)
    assert raised.value.code == code


async def test_a_comment_is_journaled_and_told(bench: Bench) -> None:
    await bench.call(9029, HOT, last_id(bench), text("a look is due"))
    (receipt,) = bench.stand.desk.journaled
    assert receipt["reason"] == "comment: a look is due"
    assert receipt["source"] == "opcua:shift@test"
    told = bench.stand.told[-1].values()
    assert told["Comment"].Value.Text == "a look is due"
    assert told["AckedState/Id"].Value is False
    await bench.call(9111, HOT, last_id(bench), text(""))


async def test_a_comment_that_nobody_journals_is_refused(bench: Bench) -> None:
    bench.stand.desk.ready = False
    assert await bench.fault(9029, HOT, last_id(bench), text("x")) == C.BadNoCommunication


async def test_a_refresh_gives_what_a_client_must_see(bench: Bench) -> None:
    await bench.call(3875, standard_id(2782), ua.Variant(7, ua.VariantType.UInt32))
    await bench.call(12912, standard_id(2782), ua.Variant(7), ua.Variant(8))
    (first, second) = bench.refreshed
    assert first[:2] == (7, None)
    assert second[:2] == (7, 8)
    assert [event.condition for event in first[2]] == [HOT]
    assert first[2][0].event_id == last_id(bench)


async def test_every_method_of_a_condition_has_its_audit_event(bench: Bench) -> None:
    mine = {node.Identifier: method.name for node, method in bench.methods._methods.items()}
    refreshes = {3875: "ConditionRefresh", 12912: "ConditionRefresh2"}
    assert mine == {number: one.name for number, one in AUDITS.items()} | refreshes
    for number, one in AUDITS.items():
        method = bench.method(number)
        assert set(one.fields) <= {
            (given.Name, KIND_OF[given.DataType.Identifier]) for given in method.inputs
        } | {("ConditionEventId", ua.VariantType.ByteString)}


async def test_comments_have_the_pace_of_commands(bench: Bench) -> None:
    """Each is a receipt in the journal, which nobody may fill up. The last that comments here."""

    async def write_on() -> None:
        for _ in range(2 * int(PACE.burst)):
            await bench.call(9029, HOT, last_id(bench), text("x"))

    with pytest.raises(MethodFault) as raised:
        await write_on()
    assert raised.value.code == C.BadResourceUnavailable
