"""What clients do with conditions: the methods of OPC 10000-9 as commands to the field process.

A method is called by its type's NodeId with the condition as object, or with the condition's
ShelvingState for those of shelving. What the field process refuses is refused with the same
reason.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final, Protocol

from asyncua import ua

from gateway.core.clock import Clock
from gateway.opcua.conditions.audits import condition_of
from gateway.opcua.conditions.condition import Condition
from gateway.opcua.conditions.conditions import Conditions
from gateway.opcua.desk import Desk, NotPassedOn
from gateway.opcua.event import UaEvent
from gateway.opcua.methods import Method, MethodFault, Methods
from gateway.opcua.names import standard_id
from gateway.opcua.orders.orders import COMMENT_CHARS_MAX, Orders, source_of
from gateway.opcua.orders.outcomes import OutcomeFault
from gateway.opcua.transport.session import Session
from gateway.opcua.users import Role

# What stands in the receipt where a method has no comment: the field process wants one.
NO_REASON: Final = "no reason given: OPC UA {name} has none"
_CODES: Final = ua.StatusCodes
_IDS: Final = ua.ObjectIds

_Act = Callable[[Session, Condition, Sequence[ua.Variant]], Awaitable[None]]


class Refresher(Protocol):
    """Puts conditions into subscriptions: gateway/opcua/monitoring/subscriptions.py."""

    def refresh(
        self,
        session: Session,
        subscription_id: int,
        item_id: int | None,
        conditions: Callable[[], Iterator[UaEvent]],
    ) -> None:
        """Tell the events between RefreshStart and RefreshEnd. Raises MethodFault."""


def _argument(name: str, data_type: int, text: str) -> ua.Argument:
    made = ua.Argument()
    made.Name, made.DataType, made.ValueRank = name, standard_id(data_type), ua.Int32(-1)
    made.Description = ua.LocalizedText(text)
    return made


_EVENT: Final = _argument("EventId", _IDS.ByteString, "of an event of the condition")
_COMMENT: Final = _argument("Comment", _IDS.LocalizedText, "why")
_TIME: Final = _argument("ShelvingTime", _IDS.Duration, "in ms; not longer than MaxTimeShelved")
_SUBSCRIPTION: Final = _argument("SubscriptionId", _IDS.IntegerId, "one of the session's")
_ITEM: Final = _argument("MonitoredItemId", _IDS.IntegerId, "one of the subscription's")


class ConditionMethods:
    """The methods of conditions."""

    def __init__(
        self,
        conditions: Conditions,
        orders: Orders,
        refresher: Refresher,
        desk: Desk,
        clock: Clock,
    ) -> None:
        self._conditions = conditions
        self._orders = orders
        self._refresher = refresher
        self._desk = desk
        self._clock = clock

    def register(self, methods: Methods) -> None:
        """Let the methods be called, by the NodeIds of the types that declare them."""
        refresh = (_SUBSCRIPTION,)
        self._add_refresh(methods, "ConditionRefresh", 3875, refresh)
        self._add_refresh(methods, "ConditionRefresh2", 12912, (*refresh, _ITEM))
        add = self._add
        told = (_EVENT, _COMMENT)
        add(methods, "Acknowledge", (9111,), told, self._acknowledge)
        add(methods, "AddComment", (9029,), told, self._comment)
        add(methods, "TimedShelve", (9213, 2949), (_TIME,), self._shelve)
        add(methods, "TimedShelve2", (24738, 24756), (_TIME, _COMMENT), self._shelve)
        for name, action, role, numbers in _ACTIONS:
            inputs = (_COMMENT,) if name.endswith("2") else ()
            add(methods, name, numbers, inputs, self._action(name, action), role)
        for what, their_numbers, their_inputs, code, reason in _REFUSED:
            add(methods, what, their_numbers, their_inputs, _refuse(code, reason))

    def _add(
        self,
        methods: Methods,
        name: str,
        numbers: Sequence[int],
        inputs: tuple[ua.Argument, ...],
        act: _Act,
        role: Role = Role.OPERATOR,
    ) -> None:
        async def run(
            session: Session, node: ua.NodeId, given: Sequence[ua.Variant]
        ) -> Sequence[ua.Variant]:
            await act(session, self._condition(node, name), given)
            return ()

        def tag(node: ua.NodeId) -> str:
            return self._condition(node, name).facts.tag

        for number in numbers:
            methods.add(standard_id(number), Method(name, inputs, (), role, tag, run))

    def _add_refresh(
        self, methods: Methods, name: str, number: int, inputs: tuple[ua.Argument, ...]
    ) -> None:
        def tag(node: ua.NodeId) -> str:
            # The standard's object is the ConditionType itself; some clients name the server.
            if node not in (standard_id(_IDS.ConditionType), standard_id(_IDS.Server)):
                raise MethodFault(_CODES.BadMethodInvalid, f"{name} is one of ConditionType")
            return ""

        method = Method(name, inputs, (), Role.OBSERVER, tag, self._refresh)
        methods.add(standard_id(number), method)

    def _condition(self, node: ua.NodeId, name: str) -> Condition:
        """The condition that a call means. Raises MethodFault."""
        found = self._conditions.condition(node)
        if found is None and "helve" in name:
            found = self._conditions.condition(condition_of(node))
        if found is None:
            is_type = node.NamespaceIndex == 0
            code = _CODES.BadNodeIdInvalid if is_type else _CODES.BadMethodInvalid
            raise MethodFault(code, f"{name} is called on a condition")
        return found

    # ------------------------------------------------------------ what they do

    async def _acknowledge(
        self, session: Session, condition: Condition, given: Sequence[ua.Variant]
    ) -> None:
        event_id, comment = given
        self._check_event(condition, event_id)
        if condition.acked:
            reason = f"nothing to acknowledge: the alarm is {condition.life.state}"
            raise MethodFault(_CODES.BadConditionBranchAlreadyAcked, reason)
        seen_utc_ns = condition.announced_ns
        await self._order(session, condition, "acknowledge", _text(comment), 0, seen_utc_ns)

    def _check_event(self, condition: Condition, event_id: ua.Variant) -> None:
        if not condition.names(event_id.Value or b""):
            reason = "no event of the alarm as it is now: it came anew, or changed its level"
            raise MethodFault(_CODES.BadEventIdUnknown, reason)

    async def _comment(
        self, session: Session, condition: Condition, given: Sequence[ua.Variant]
    ) -> None:
        event_id, comment = given
        self._check_event(condition, event_id)
        refused = self._orders.may_note(session)
        if refused is not None:
            raise OutcomeFault(refused)
        text, by = _text(comment), source_of(session)
        body = {
            "command": self._clock.new_id(),
            "tag": condition.facts.tag,
            "step": "taken",
            "reason": f"comment: {text}"[:COMMENT_CHARS_MAX],
            "origin": "operator",
            "source": by,
        }
        if not self._desk.ready:
            raise MethodFault(_CODES.BadNoCommunication, "no field process journals the comment")
        try:
            await self._desk.journal(body)
        except NotPassedOn as error:
            raise MethodFault(_CODES.BadNoCommunication, str(error)) from error
        self._conditions.comment(condition, by, text)

    async def _shelve(
        self, session: Session, condition: Condition, given: Sequence[ua.Variant]
    ) -> None:
        time_ms = float(given[0].Value)
        longest_s = condition.facts.rule.ShelveMax
        if not 0 < time_ms <= longest_s * 1e3 or math.isnan(time_ms):
            reason = f"{time_ms:g} ms are not between 0 and MaxTimeShelved, {longest_s * 1e3:g} ms"
            raise MethodFault(_CODES.BadShelvingTimeOutOfRange, reason)
        comment = _text(given[1]) if len(given) > 1 else ""
        comment = comment or NO_REASON.format(name="TimedShelve")
        await self._order(session, condition, "shelve", comment, round(time_ms * 1e6))

    def _action(self, name: str, action: str) -> _Act:
        async def act(session: Session, condition: Condition, given: Sequence[ua.Variant]) -> None:
            comment = _text(given[0]) if given else ""
            if action == "out-of-service":
                comment = comment or NO_REASON.format(name=name)
            await self._order(session, condition, action, comment)

        return act

    async def _order(
        self,
        session: Session,
        condition: Condition,
        action: str,
        comment: str,
        lease_ns: int = 0,
        seen_utc_ns: int = 0,
    ) -> None:
        command = self._orders.new(
            session,
            condition.facts.tag,
            action=action,
            lease_ns=lease_ns,
            comment=comment,
            seen_utc_ns=seen_utc_ns,
        )
        outcome = await self._orders.submit(session, command)
        if outcome.bad:
            raise OutcomeFault(outcome)

    async def _refresh(
        self, session: Session, node: ua.NodeId, given: Sequence[ua.Variant]
    ) -> Sequence[ua.Variant]:
        subscription = int(given[0].Value)
        item = int(given[1].Value) if len(given) > 1 else None
        self._refresher.refresh(session, subscription, item, self._conditions.retained)
        return ()


def _text(comment: ua.Variant) -> str:
    """A comment's words; empty where there are none."""
    shown = comment.Value
    return (shown.Text or "").strip() if isinstance(shown, ua.LocalizedText) else ""


def _refuse(code: int, reason: str) -> _Act:
    async def act(session: Session, condition: Condition, given: Sequence[ua.Variant]) -> None:
        raise MethodFault(code, reason)

    return act


# Name, action of the command, least role, NodeIds. Those with a 2 have a comment.
_ACTIONS: Final[tuple[tuple[str, str, Role, tuple[int, ...]], ...]] = (
    ("Unshelve", "unshelve", Role.OPERATOR, (9211, 2947)),
    ("Unshelve2", "unshelve", Role.OPERATOR, (24740, 24758)),
    ("RemoveFromService", "out-of-service", Role.ENGINEER, (17869,)),
    ("RemoveFromService2", "out-of-service", Role.ENGINEER, (24320,)),
    ("PlaceInService", "in-service", Role.ENGINEER, (17870,)),
    ("PlaceInService2", "in-service", Role.ENGINEER, (24322,)),
)
# What this server's conditions don't do, with the reason that audit and diagnostics get.
_REFUSED: Final[tuple[tuple[str, tuple[int, ...], tuple[ua.Argument, ...], int, str], ...]] = (
    (
        *("Confirm", (9113,), (_EVENT, _COMMENT), _CODES.BadMethodInvalid),
        "an alarm is done with when it is acknowledged and gone; nothing is to be confirmed",
    ),
    (
        *("Enable", (9027,), (), _CODES.BadConditionAlreadyEnabled),
        "all alarms of the configuration are enabled",
    ),
    (
        *("Disable", (9028,), (), _CODES.BadNotSupported),
        "an alarm is not switched off: shelve it, or take it out of service",
    ),
    (
        *("OneShotShelve", (9212, 2948), (), _CODES.BadNotSupported),
        "an alarm is shelved for a time only: TimedShelve",
    ),
    (
        *("OneShotShelve2", (24742, 24760), (_COMMENT,), _CODES.BadNotSupported),
        "an alarm is shelved for a time only: TimedShelve2",
    ),
    *(
        (name, (number,), inputs, _CODES.BadMethodInvalid, "only SuppressWhen suppresses alarms")
        for name, number, inputs in (
            ("Suppress", 16403, ()),
            ("Suppress2", 24316, (_COMMENT,)),
            ("Unsuppress", 17868, ()),
            ("Unsuppress2", 24318, (_COMMENT,)),
        )
    ),
    *(
        (
            *(name, (number,), inputs, _CODES.BadMethodInvalid),
            "latches of alarms and trips are reset together: ResetTrips of the gateway",
        )
        for name, number, inputs in (("Reset", 18199, ()), ("Reset2", 24324, (_COMMENT,)))
    ),
)
