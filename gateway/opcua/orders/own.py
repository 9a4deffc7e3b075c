"""Methods of our own: what is done with the gateway, machines, causes and outputs of equipment.

Each is a component of its object, with the NodeId ``<object>/<Name>``: ``/Gateway/ResetTrips``,
``States.Plant/StateMachine/RequestState``, ``Controls.Hot/Cause/Bypass``, ``/Rig/Release``. A cause
has an object for it, because only objects have methods (OPC 10000-3, 7.7).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from asyncua import ua

from config.points import GATEWAY_EQUIPMENT, PointDef, rule_tag, state_number
from gateway.opcua.methods import Method, MethodFault, Methods, Run
from gateway.opcua.model import SiteModel
from gateway.opcua.names import MACHINE, member_id, own_id, standard_id
from gateway.opcua.nodes.builder import Nodes
from gateway.opcua.orders.arguments import ArgumentsRefused
from gateway.opcua.orders.conversion import Mismatch, point_value
from gateway.opcua.orders.orders import STOP_TAG, Orders
from gateway.opcua.orders.outcomes import OF_SILENCE, Outcome, OutcomeFault
from gateway.opcua.security.rights import Rights
from gateway.opcua.transport.session import Session
from gateway.opcua.users import Role
from gateway.opcua.values import Values

CAUSE: Final = "Cause"  # of a trip's or interlock's point: the object with its methods
RESET_TAG: Final = f"{GATEWAY_EQUIPMENT}.Reset"
DURATION_MS_MAX: Final = 1e12  # 31 years; a number of nanoseconds has 64 bits
_CODES: Final = ua.StatusCodes
_CONTROLS: Final = rule_tag("control", "").partition(".")[0]


def argument(name: str, number: int, text: str) -> ua.Argument:
    """A scalar argument of a type of the standard."""
    made = ua.Argument()
    made.Name, made.DataType, made.ValueRank = name, standard_id(number), ua.Int32(-1)
    made.Description = ua.LocalizedText(text)
    return made


_MESSAGE: Final = (argument("Message", ua.ObjectIds.String, "what became of it, in words"),)
_STATE: Final = argument("State", ua.ObjectIds.String, "name of the state")
_DURATION: Final = argument("Duration", ua.ObjectIds.Duration, "in ms; not longer than BypassMax")
_COMMENT: Final = argument("Comment", ua.ObjectIds.LocalizedText, "why")
_CHANNEL: Final = argument("Channel", ua.ObjectIds.String, "name of an output of this equipment")
_VALUE: Final = argument("Value", ua.ObjectIds.BaseDataType, "in the units of the channel")
_LEASE: Final = argument("Lease", ua.ObjectIds.Duration, "in ms; 0 = until it is given back")


@dataclass(frozen=True, slots=True)
class _Node:
    """A method's node."""

    parent: ua.NodeId
    text: str
    method: Method

    @property
    def id(self) -> ua.NodeId:
        return member_id(str(self.parent.Identifier), self.method.name)


class OwnMethods:
    """The methods of a site; they follow its configuration."""

    def __init__(self, orders: Orders, values: Values, rights: Rights, methods: Methods) -> None:
        self._orders = orders
        self._values = values
        self._rights = rights
        self._methods = methods
        self._added: list[ua.NodeId] = []

    def build(self, nodes: Nodes, model: SiteModel, points: Sequence[PointDef]) -> None:
        """Add the nodes, behind those of equipment and machines. Nothing can be called yet."""
        taken = {point.channel for point in points if point.equipment == _CONTROLS}
        for point in _causes(model, points):
            name = f"{point.channel}_{CAUSE}"
            while name in taken:
                name += "_"
            taken.add(name)
            text = model.causes[point.tag].description
            kind = standard_id(ua.ObjectIds.BaseObjectType)
            home = own_id(f"/{point.equipment}")
            nodes.object(member_id(point.tag, CAUSE), name, home, kind, description=text)
        for one in self._nodes(model, points):
            method = one.method
            nodes.method(
                one.id,
                method.name,
                one.parent,
                method.inputs,
                method.outputs,
                description=one.text,
            )

    def take_over(self, model: SiteModel, points: Sequence[PointDef]) -> None:
        """Let the methods of another configuration be called, and no others."""
        for node in self._added:
            self._methods.remove(node)
        made = list(self._nodes(model, points))
        for one in made:
            self._methods.add(one.id, one.method)
        self._added = [one.id for one in made]

    # ------------------------------------------------------------ which there are

    def _nodes(self, model: SiteModel, points: Sequence[PointDef]) -> Iterator[_Node]:
        tags = {point.tag for point in points}
        home = own_id(f"/{GATEWAY_EQUIPMENT}")
        if RESET_TAG in tags:
            run = partial(self._set, RESET_TAG, 1.0)
            yield _node(
                home, "ResetTrips", "reset latched trips whose causes are gone", run, RESET_TAG
            )
        if STOP_TAG in tags:
            run, free = partial(self._set, STOP_TAG, 1.0), partial(self._set, STOP_TAG, 0.0)
            yield _node(home, "EmergencyStop", "ask for the emergency stop", run, STOP_TAG)
            text = "take the emergency stop back; latched trips stay until they are reset"
            yield _node(home, "ReleaseEmergencyStop", text, free, STOP_TAG)
        for point in points:
            if point.writable and point.tag in model.machines:
                run = partial(self._request, point)
                text = "ask the machine for a state"
                parent = member_id(point.tag, MACHINE)
                yield _node(parent, "RequestState", text, run, point.tag, (_STATE,))
        for point in _causes(model, points):
            yield from self._of_cause(point)
        for name in dict.fromkeys(point.equipment for point in points if point.is_output):
            yield from self._of_equipment(name)

    def _of_cause(self, point: PointDef) -> Iterator[_Node]:
        parent, role = member_id(point.tag, CAUSE), Role.ENGINEER
        run, end = partial(self._bypass, point.tag), partial(self._end_bypass, point.tag)
        inputs = (_DURATION, _COMMENT)
        text = "take the cause for gone for some time"
        yield _node(parent, "Bypass", text, run, point.tag, inputs, role)
        yield _node(parent, "EndBypass", "end a bypass", end, point.tag, (), role)

    def _of_equipment(self, name: str) -> Iterator[_Node]:
        parent = own_id(f"/{name}")
        text = "give an operator's setpoint back: what ranks below it follows"
        release, about = partial(self._release, name), partial(self._about, name)
        yield _node(parent, "Release", text, release, "", (_CHANNEL,), about=about)
        run, inputs = partial(self._lease, name), (_CHANNEL, _VALUE, _LEASE)
        text = "write an output; the setpoint ends by itself"
        yield _node(parent, "WriteWithLease", text, run, "", inputs, about=about)

    def _about(self, equipment: str, inputs: Sequence[ua.Variant]) -> str:
        """The output that a call names, where it is one."""
        tag = f"{equipment}.{inputs[0].Value}" if inputs else ""
        return tag if tag in self._values.index else ""

    # ------------------------------------------------------------ what they do

    def _told(self, outcome: Outcome) -> Sequence[ua.Variant]:
        """Output arguments of what was done; raises OutcomeFault for all but a plain Good."""
        outputs = (ua.Variant(outcome.text, ua.VariantType.String),)
        if outcome.code != _CODES.Good:
            raise OutcomeFault(outcome, outputs)
        return outputs

    async def _set(
        self, tag: str, value: float, session: Session, _: ua.NodeId, __: Sequence[ua.Variant]
    ) -> Sequence[ua.Variant]:
        command = self._orders.new(session, tag, value)
        return self._told(await self._orders.submit(session, command))

    async def _request(
        self, point: PointDef, session: Session, _: ua.NodeId, inputs: Sequence[ua.Variant]
    ) -> Sequence[ua.Variant]:
        number = state_number(point.states, str(inputs[0].Value or ""))
        if not number:
            names = ", ".join(name for name in point.states if name)
            raise _wrong(0, 1, f"{point.tag} has no such state; there are: {names}")
        return await self._set(point.tag, float(number), session, _, inputs)

    async def _bypass(
        self, tag: str, session: Session, _: ua.NodeId, inputs: Sequence[ua.Variant]
    ) -> Sequence[ua.Variant]:
        lease_ns = _duration_ns(inputs[0], 0, 2)
        comment = getattr(inputs[1].Value, "Text", None) or ""
        command = self._orders.new(
            session, tag, action="bypass", lease_ns=lease_ns, comment=comment
        )
        return self._told(await self._orders.submit(session, command))

    async def _end_bypass(
        self, tag: str, session: Session, _: ua.NodeId, __: Sequence[ua.Variant]
    ) -> Sequence[ua.Variant]:
        command = self._orders.new(session, tag, action="end-bypass")
        return self._told(await self._orders.submit(session, command))

    async def _release(
        self, equipment: str, session: Session, _: ua.NodeId, inputs: Sequence[ua.Variant]
    ) -> Sequence[ua.Variant]:
        point = self._output(session, equipment, inputs)
        command = self._orders.new(session, point.tag, release=True)
        return self._told(await self._orders.submit(session, command))

    async def _lease(
        self, equipment: str, session: Session, _: ua.NodeId, inputs: Sequence[ua.Variant]
    ) -> Sequence[ua.Variant]:
        point = self._output(session, equipment, inputs)
        try:
            value = point_value(inputs[1], self._values.types[point.index])
        except Mismatch as mismatch:
            raise _wrong(1, 3, f"Value: {mismatch}", mismatch.code) from mismatch
        lease_ns = _duration_ns(inputs[2], 2, 3)
        command = self._orders.new(session, point.tag, value, lease_ns=lease_ns)
        return self._told(await self._orders.submit(session, command))

    def _output(self, session: Session, equipment: str, inputs: Sequence[ua.Variant]) -> PointDef:
        """The output that the first argument names. Raises MethodFault."""
        tag = f"{equipment}.{inputs[0].Value}"
        index = self._values.index.get(tag)
        point = None if index is None else self._values.points[index - 1]
        if point is None or not point.is_output:
            raise _wrong(0, len(inputs), f"{equipment} has no output of this name")
        if not self._rights.may_write(session.user, tag):
            who = session.user.name or "anonymous"
            raise MethodFault(OF_SILENCE["no-right"], f"{who} may not write {tag}")
        return point


def _causes(model: SiteModel, points: Sequence[PointDef]) -> Iterator[PointDef]:
    """Points of causes that can be bypassed."""
    for point in points:
        cause = model.causes.get(point.tag)
        if cause is not None and cause.bypass_max_s > 0:
            yield point


def _node(
    parent: ua.NodeId,
    name: str,
    text: str,
    run: Run,
    tag: str,
    inputs: tuple[ua.Argument, ...] = (),
    role: Role = Role.OPERATOR,
    about: Callable[[Sequence[ua.Variant]], str] = lambda _: "",
) -> _Node:
    tag_of = partial(_tag_of, parent, tag)
    return _Node(parent, text, Method(name, inputs, _MESSAGE, role, tag_of, run, about))


def _tag_of(parent: ua.NodeId, tag: str, node: ua.NodeId) -> str:
    """The point whose rights count; raises MethodFault where the method is another object's."""
    if node != parent:
        raise MethodFault(_CODES.BadMethodInvalid, "the method is not one of this object's")
    return tag


def _wrong(at: int, count: int, reason: str, code: int = _CODES.BadOutOfRange) -> ArgumentsRefused:
    """One of `count` arguments has a value that can't be."""
    results = [(_CODES.Good, "")] * count
    results[at] = (code, reason)
    return ArgumentsRefused(_CODES.BadInvalidArgument, reason, results)


def _duration_ns(given: ua.Variant, at: int, count: int) -> int:
    """A duration of an argument, given in ms. Raises ArgumentsRefused."""
    duration_ms = float(given.Value)
    if not math.isfinite(duration_ms) or not 0 <= duration_ms <= DURATION_MS_MAX:
        raise _wrong(at, count, "a duration is a number of ms, 0 or more")
    return round(duration_ms * 1e6)
