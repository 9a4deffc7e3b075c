"""Condition objects in the address space.

An alarm has some fifty nodes, most of which nobody ever reads. So only the condition object itself
is kept; what is below it is made when somebody asks for it, out of its type's declarations and the
condition's last event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from asyncua import ua
from asyncua.server.address_space import AddressSpace, AttributeValue, NodeData

from gateway.core.clock import Clock
from gateway.opcua.conditions.condition import Condition
from gateway.opcua.event import CONDITION_PATH, NULL
from gateway.opcua.names import CONDITION, own_id, standard_id
from gateway.opcua.nodes.builder import HAS_COMPONENT, HAS_PROPERTY, HAS_TYPE, Node, Reference

_IDS: Final = ua.AttributeIds
_SUBTYPE: Final = standard_id(ua.ObjectIds.HasSubtype)
_INFIX: Final = f"/{CONDITION}/"
_UNSHELVE_TIME: Final = "ShelvingState/UnshelveTime"
_LIMIT: Final = "LimitState/"
_NAMES: Final = (_IDS.NodeId, _IDS.BrowseName, _IDS.DisplayName, _IDS.Description, _IDS.Value)
# Methods that a condition shows, by where they stand below its type (docs/opcua/alarms.md).
METHODS: Final = frozenset(
    (
        *("Enable", "Disable", "AddComment", "Acknowledge"),
        *("RemoveFromService", "RemoveFromService2", "PlaceInService", "PlaceInService2"),
        *("ShelvingState/TimedShelve", "ShelvingState/TimedShelve2"),
        *("ShelvingState/Unshelve", "ShelvingState/Unshelve2", "ShelvingState/OneShotShelve"),
    )
)


@dataclass(frozen=True, slots=True)
class Part:
    """A node below the conditions of one type.

    node    its declaration at the type
    shared  its attributes but for those that each instance has of its own
    below   paths of its own parts
    """

    name: str
    node: ua.NodeId
    kind: ua.NodeClass
    reference: ua.NodeId
    type_id: ua.NodeId
    shared: dict[ua.AttributeIds, AttributeValue]
    below: list[str]


Form = Mapping[str, Part]  # path below the condition -> part; "" is the condition itself


class Forms:
    """The parts of each type of condition, with the fields that its alarms have."""

    def __init__(self, space: AddressSpace) -> None:
        self._space = space
        self._made: dict[tuple[ua.NodeId, bool, tuple[str, ...]], Form] = {}

    def of(self, condition: Condition) -> Form:
        """The form of a condition."""
        facts = condition.facts
        key = (facts.type_id, facts.rule.Latch, tuple(facts.kind.limits))
        if key not in self._made:
            self._made[key] = self._form(facts.type_id, frozenset(condition.event().values()))
        return self._made[key]

    def _form(self, type_id: ua.NodeId, fields: frozenset[str]) -> Form:
        top = Part("", type_id, ua.NodeClass.Object, HAS_COMPONENT, type_id, {}, [])
        form: dict[str, Part] = {"": top}
        # What a type declares anew goes before what the types above it declare.
        for node in self._lineage(type_id):
            self._add(form, node, "", fields)
        return form

    def _lineage(self, type_id: ua.NodeId) -> Iterator[ua.NodeId]:
        yield type_id
        for reference in self._space[type_id].references:
            if not reference.IsForward and reference.ReferenceTypeId == _SUBTYPE:
                yield from self._lineage(reference.NodeId)

    def _add(
        self, form: dict[str, Part], node: ua.NodeId, before: str, fields: frozenset[str]
    ) -> None:
        for reference in self._space[node].references:
            kind = reference.ReferenceTypeId
            if not reference.IsForward or kind not in (HAS_COMPONENT, HAS_PROPERTY):
                continue
            declared = self._space[reference.NodeId]
            name = str(_content(declared, _IDS.BrowseName).Name)
            path = f"{before}/{name}" if before else name
            wanted = path in fields or path in METHODS
            if not wanted and not any(field.startswith(f"{path}/") for field in fields):
                continue
            if path not in form:
                form[path] = self._part(declared, name, kind)
                form[before].below.append(path)
            if form[path].kind != ua.NodeClass.Method:
                self._add(form, reference.NodeId, path, fields)

    def _part(self, declared: NodeData, name: str, reference: ua.NodeId) -> Part:
        kind = ua.NodeClass(_content(declared, _IDS.NodeClass))
        shared: dict[ua.AttributeIds, AttributeValue] = {
            n: value for n, value in declared.attributes.items() if n not in _NAMES
        }
        if kind == ua.NodeClass.Variable:
            shared |= _READ_ONLY
        types = [r.NodeId for r in declared.references if r.ReferenceTypeId == HAS_TYPE]
        type_id = types[0] if types else ua.NodeId()
        return Part(name, declared.nodeid, kind, reference, type_id, shared, [])


def _content(node: NodeData, attribute: ua.AttributeIds) -> Any:
    value = node.attributes[attribute].value
    assert value is not None
    assert value.Value is not None
    return value.Value.Value


def _constant(content: Any, kind: ua.VariantType) -> AttributeValue:
    return AttributeValue(ua.DataValue(ua.Variant(content, kind)))


_READ_ONLY: Final = {
    _IDS.AccessLevel: _constant(1, ua.VariantType.Byte),
    _IDS.UserAccessLevel: _constant(1, ua.VariantType.Byte),
    _IDS.AccessLevelEx: _constant(1, ua.VariantType.UInt32),
    _IDS.MinimumSamplingInterval: _constant(0.0, ua.VariantType.Double),
    _IDS.Historizing: _constant(False, ua.VariantType.Boolean),
}


class ConditionNode(Node):
    """A condition object; the references to its parts are made when they are asked for.

    own  references to nodes outside
    """

    __slots__ = ("_below", "own")

    def __init__(self, made: Node, below: Callable[[], list[Reference]]) -> None:
        self._below = below
        super().__init__(made.nodeid, made.name, made.text, made.shared, None, made.references)

    @property
    def references(self) -> list[Reference]:
        """All references of the node; what is appended here is lost."""
        return [*self.own, *self._below()]

    @references.setter
    def references(self, given: list[Reference]) -> None:
        self.own = given


class VirtualSpace(AddressSpace):
    """An address space some of whose nodes are made when they are asked for."""

    find: Callable[[ua.NodeId], NodeData | None]

    def __getitem__(self, nodeid: ua.NodeId) -> NodeData:
        """A node; raises KeyError."""
        found = self.get(nodeid)
        if found is None:
            raise KeyError(nodeid)
        return found

    def get(self, nodeid: ua.NodeId) -> NodeData | None:
        """A node; None where there is none."""
        found = self._nodes.get(nodeid)
        return found if found is not None else self.find(nodeid)

    def __contains__(self, nodeid: ua.NodeId) -> bool:
        """True where there is such a node."""
        return nodeid in self._nodes or self.find(nodeid) is not None


def install(space: AddressSpace, find: Callable[[ua.NodeId], NodeData | None]) -> None:
    """Let an address space ask `find` for nodes that it does not have."""
    cast("Any", space).__class__ = VirtualSpace
    cast("VirtualSpace", space).find = find


class Parts:
    """Makes the nodes below conditions."""

    def __init__(self, forms: Forms, clock: Clock) -> None:
        self._forms = forms
        self._clock = clock
        self.conditions: Mapping[str, Condition] = {}

    def find(self, node: ua.NodeId) -> NodeData | None:
        """The node of a part; None for all others."""
        identifier = node.Identifier
        if not isinstance(identifier, str) or node.NamespaceIndex != 2:
            return None
        tag, _, path = identifier.partition(_INFIX)
        condition = self.conditions.get(tag) if path else None
        part = self._forms.of(condition).get(path) if condition is not None else None
        if condition is None or part is None or part.kind == ua.NodeClass.Method:
            return None
        parent, _, _ = identifier.rpartition("/")
        references = [Reference(part.reference, own_id(parent), is_forward=False)]
        references.append(Reference(HAS_TYPE, part.type_id, is_forward=True))
        references += self._below(condition, path)
        value = self._value(condition, path) if part.kind == ua.NodeClass.Variable else None
        made = Node(own_id(identifier), (part.name, 0), "", part.shared, value, references)
        return cast("NodeData", made)

    def below(self, condition: Condition) -> list[Reference]:
        """The references of a condition object to its parts."""
        return self._below(condition, "")

    def _below(self, condition: Condition, path: str) -> list[Reference]:
        form, top = self._forms.of(condition), str(condition.facts.condition.Identifier)
        found = []
        for one in form[path].below:
            part = form[one]
            # A method is the type's own: one node for all conditions (OPC 10000-3, 5.7).
            is_method = part.kind == ua.NodeClass.Method
            target = part.node if is_method else own_id(f"{top}/{one}")
            found.append(Reference(part.reference, target, is_forward=True))
        return found

    def _value(self, condition: Condition, path: str) -> AttributeValue:
        value = AttributeValue(ua.DataValue())
        value.value = None
        value.value_callback = lambda node, attribute: self.read(condition, path)
        return value

    def read(self, condition: Condition, path: str) -> ua.DataValue:
        """What a variable of a condition shows."""
        assert path != CONDITION_PATH
        if path == _UNSHELVE_TIME:
            left_ns = condition.life.until_utc_ns - self._clock.utc_ns()
            left_ms = max(0, left_ns) / 1e6
            return ua.DataValue(ua.Variant(left_ms, ua.VariantType.Double))
        event = condition.event()
        shown = event.values()[path]
        if shown is NULL and path.startswith(_LIMIT):  # no limit is exceeded (OPC 10000-16, 4.4.2)
            code = ua.StatusCode(ua.UInt32(ua.StatusCodes.BadStateNotActive))
            empty = ua.DataValue(StatusCode=code)
            empty.Value = None
            return empty
        return ua.DataValue(shown, SourceTimestamp=event.values()["Time"].Value)
