"""Machines of control states as finite state machines (OPC 10000-16).

A machine's type has its states and transitions and stands at ``<tag>/StateMachineType``; the
machine itself at ``<tag>/StateMachine`` below the equipment ``States``. What it shows follows the
machine's point, whose value is 0 for no state yet, else 1 + the position of the state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from asyncua import ua
from numpy.typing import NDArray

from config import status as codes
from config.points import PointDef
from config.states import StateMachine
from gateway.opcua.model import SiteModel
from gateway.opcua.names import MACHINE, member_id, own_id, standard_id
from gateway.opcua.nodes.builder import Nodes, child_id
from gateway.opcua.nodes.shown import bad_value, code, time_of
from gateway.opcua.values import Values

MACHINE_TYPE: Final = "StateMachineType"  # of a machine's point: the type of its machine
_ANY: Final = "*"
_NUMBERS: Final = 1_000  # the number of a transition is 1000 x that of its state + that of the next
_NODE_ID: Final = standard_id(ua.ObjectIds.NodeId)
_UINT: Final = standard_id(ua.ObjectIds.UInt32)
_TIME: Final = standard_id(ua.ObjectIds.UtcTime)
_TEXT: Final = standard_id(ua.ObjectIds.LocalizedText)
_VARIABLE: Final = standard_id(ua.ObjectIds.BaseDataVariableType)
_FROM: Final = standard_id(ua.ObjectIds.FromState)
_TO: Final = standard_id(ua.ObjectIds.ToState)
_EFFECT: Final = standard_id(ua.ObjectIds.HasEffect)
_TRANSITION_EVENT: Final = standard_id(ua.ObjectIds.TransitionEventType)


@dataclass(frozen=True, slots=True)
class _Move:
    """A machine changed its state.

    transition  node of the transition; the null NodeId where none leads from one to the other
    """

    name: str
    transition: ua.NodeId
    number: int
    utc_ns: int


@dataclass(slots=True)
class _Machine:
    """One machine: names of its states by number, 0 = none, and its transitions."""

    tag: str
    index: int
    states: tuple[str, ...]
    transitions: Mapping[tuple[int, int], str]
    number: int = 0
    last: _Move | None = field(default=None)

    def state_id(self, number: int) -> ua.NodeId:
        """The node of a state."""
        return member_id(self.tag, MACHINE_TYPE, self.states[number])

    def transition_id(self, name: str) -> ua.NodeId:
        """The node of a transition."""
        return member_id(self.tag, MACHINE_TYPE, name)


def transition_name(before: str, state: str) -> str:
    """The browse name of a transition, as the standard forms them."""
    return f"{before}To{state}"


def transitions_of(machine: StateMachine) -> dict[tuple[int, int], str]:
    """Numbers of the states that a way leads between (from 1 on) -> name of the transition."""
    states = list(machine.States)
    ways: list[tuple[str, str]] = []
    for way in machine.Transitions:
        sources = [way.From] if isinstance(way.From, str) else list(way.From)
        sources = states if _ANY in sources else sources
        ways += [(source, way.To) for source in sources]
    ways += [(name, one.OnTimeout) for name, one in machine.States.items() if one.OnTimeout]
    number = {name: position + 1 for position, name in enumerate(states)}
    found = {}
    for source, target in ways:
        if source != target and source in number and target in number:
            name = transition_name(source, target)
            while name in number:  # a state may be called so
                name += "_"
            found[number[source], number[target]] = name
    return found


class Machines:
    """All machines of the site; their events come from gateway/opcua/conditions/."""

    def __init__(self, values: Values) -> None:
        self._values = values
        self._machines: dict[str, _Machine] = {}
        self._by_index: dict[int, _Machine] = {}
        self._mask = np.zeros(1, dtype=np.bool_)

    def build(self, nodes: Nodes, model: SiteModel, points: Sequence[PointDef]) -> None:
        """Add types and machines. Changes nothing that is shown until `take_over`."""
        taken = {point.channel for point in points if point.equipment == "States"}
        for point in points:
            declared = model.machines.get(point.tag)
            if declared is None:
                continue
            _build_type(nodes, point, declared)
            name = f"{point.channel}_{MACHINE}"
            while name in taken:
                name += "_"
            taken.add(name)
            self._build_machine(nodes, point, declared, name)

    def take_over(self, model: SiteModel, points: Sequence[PointDef]) -> None:
        """Follow the points of another table; machines that stay keep their last transition."""
        old, self._machines = self._machines, {}
        for point in points:
            declared = model.machines.get(point.tag)
            if declared is not None:
                states = ("", *declared.States)
                machine = _Machine(point.tag, point.index, states, transitions_of(declared))
                before = old.get(point.tag)
                if before is not None and before.states == states:
                    machine.number, machine.last = before.number, before.last
                self._machines[point.tag] = machine
        self._by_index = {machine.index: machine for machine in self._machines.values()}
        self._mask = np.zeros(len(points) + 1, dtype=np.bool_)
        self._mask[list(self._by_index)] = True

    def update(self, records: NDArray[np.void]) -> None:
        """Take changes: (N,) RECORD rows that `Values.update` has taken."""
        if not self._by_index:
            return
        index = records["point"]
        known = index < len(self._mask)
        for row in records[known][self._mask[index[known]]]:
            machine = self._by_index[int(row["point"])]
            status = int(row["status"])
            if codes.is_good(status):
                self._enter(machine, int(row["value"]), int(row["utc_ns"]))
            elif status == codes.BAD_NO_COMMUNICATION:
                # The field process went; where it starts anew, its first state is no transition.
                machine.number, machine.last = 0, None

    def _enter(self, machine: _Machine, number: int, utc_ns: int) -> None:
        before = machine.number
        if number == before or not 0 < number < len(machine.states):
            return
        machine.number = number
        if before == 0:
            return  # the first value that is known; whether it moved is not
        way = machine.transitions.get((before, number))
        machine.last = _Move(
            transition_name(machine.states[before], machine.states[number]),
            ua.NodeId() if way is None else machine.transition_id(way),
            before * _NUMBERS + number,
            utc_ns,
        )

    # ------------------------------------------------------------ what is shown

    def _shown(
        self, tag: str, content: Callable[[_Machine, int], Any], kind: ua.VariantType
    ) -> ua.DataValue:
        """Something about the present state, with the status and time of the point."""
        machine = self._machines.get(tag)
        if machine is None:
            return bad_value(codes.BAD_WAITING_FOR_INITIAL_DATA)
        row = self._values.rows[machine.index]
        status, utc_ns = int(row["status"]), int(row["utc_ns"])
        if codes.is_bad(status):
            return bad_value(status, utc_ns)
        number = int(row["value"])
        if not 0 < number < len(machine.states):
            return bad_value(codes.BAD_WAITING_FOR_INITIAL_DATA, utc_ns)
        return ua.DataValue(
            ua.Variant(content(machine, number), kind),
            StatusCode=code(status),
            SourceTimestamp=time_of(utc_ns),
        )

    def _last(
        self, tag: str, content: Callable[[_Move], Any], kind: ua.VariantType
    ) -> ua.DataValue:
        """Something about the last transition that was seen here."""
        machine = self._machines.get(tag)
        if machine is None or machine.last is None:
            return bad_value(codes.BAD_WAITING_FOR_INITIAL_DATA)
        move = machine.last
        return ua.DataValue(ua.Variant(content(move), kind), SourceTimestamp=time_of(move.utc_ns))

    def _build_machine(
        self, nodes: Nodes, point: PointDef, declared: StateMachine, name: str
    ) -> None:
        tag, machine = point.tag, member_id(point.tag, MACHINE)
        kind = member_id(tag, MACHINE_TYPE)
        parent = own_id(f"/{point.equipment}")
        about = declared.Description
        nodes.object(machine, name, parent, kind, notifies=True, description=about)
        text, node_id = ua.VariantType.LocalizedText, ua.VariantType.NodeId
        uint, time = ua.VariantType.UInt32, ua.VariantType.DateTime

        current, last = child_id(machine, "CurrentState"), child_id(machine, "LastTransition")
        nodes.variable(
            current,
            "CurrentState",
            machine,
            lambda: self._shown(tag, lambda m, k: ua.LocalizedText(m.states[k]), text),
            data_type=_TEXT,
            type_id=standard_id(ua.ObjectIds.FiniteStateVariableType),
            namespace=0,
        )
        state_id = lambda: self._shown(tag, _Machine.state_id, node_id)  # noqa: E731
        nodes.property(current, "Id", state_id, _NODE_ID)
        nodes.property(current, "Number", lambda: self._shown(tag, lambda m, k: k, uint), _UINT)
        nodes.variable(
            last,
            "LastTransition",
            machine,
            lambda: self._last(tag, lambda move: ua.LocalizedText(move.name), text),
            data_type=_TEXT,
            type_id=standard_id(ua.ObjectIds.FiniteTransitionVariableType),
            namespace=0,
        )
        way_id = lambda: self._last(tag, lambda m: m.transition, node_id)  # noqa: E731
        nodes.property(last, "Id", way_id, _NODE_ID)
        way_number = lambda: self._last(tag, lambda m: m.number, uint)  # noqa: E731
        nodes.property(last, "Number", way_number, _UINT)
        way_time = lambda: self._last(tag, lambda m: time_of(m.utc_ns), time)  # noqa: E731
        nodes.property(last, "TransitionTime", way_time, _TIME)
        ways = transitions_of(declared).values()
        for what, names in (("AvailableStates", declared.States), ("AvailableTransitions", ways)):
            nodes.variable(
                child_id(machine, what),
                what,
                machine,
                ua.Variant([member_id(tag, MACHINE_TYPE, one) for one in names], node_id),
                data_type=_NODE_ID,
                type_id=_VARIABLE,
                rank=ua.ValueRank.OneDimension,
                namespace=0,
            )


def _build_type(nodes: Nodes, point: PointDef, declared: StateMachine) -> None:
    """The type of a machine with its states and transitions."""
    tag = point.tag
    kind = member_id(tag, MACHINE_TYPE)
    base = standard_id(ua.ObjectIds.FiniteStateMachineType)
    nodes.object_type(kind, f"{point.channel}{MACHINE_TYPE}", base)
    for position, (name, state) in enumerate(declared.States.items()):
        first = name == declared.Initial
        number = ua.ObjectIds.InitialStateType if first else ua.ObjectIds.StateType
        node = member_id(tag, MACHINE_TYPE, name)
        nodes.object(node, name, kind, standard_id(number), description=state.Description)
        shown = ua.Variant(position + 1, ua.VariantType.UInt32)
        nodes.property(node, "StateNumber", shown, _UINT)
    names = ("", *declared.States)
    for (before, after), name in transitions_of(declared).items():
        node = member_id(tag, MACHINE_TYPE, name)
        nodes.object(node, name, kind, standard_id(ua.ObjectIds.TransitionType))
        shown = ua.Variant(before * _NUMBERS + after, ua.VariantType.UInt32)
        nodes.property(node, "TransitionNumber", shown, _UINT)
        nodes.refer(node, _FROM, member_id(tag, MACHINE_TYPE, names[before]))
        nodes.refer(node, _TO, member_id(tag, MACHINE_TYPE, names[after]))
        nodes.refer(node, _EFFECT, _TRANSITION_EVENT)
