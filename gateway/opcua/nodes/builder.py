"""Puts nodes into the address space: objects, variables, methods, references, types.

Straight there: the library's service looks through all children of a parent for each new one, which
takes half a minute for 10,000 points. What is equal is one object, and attributes that nodes of a
kind have in common are kept once, which saves 4 kB a point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, Final, cast

from asyncua import ua
from asyncua.server.address_space import AddressSpace, AttributeValue, NodeData

from gateway.opcua.names import NAMESPACE, standard_id
from gateway.opcua.nodes.stage import Stage

ORGANIZES: Final = standard_id(ua.ObjectIds.Organizes)
HAS_COMPONENT: Final = standard_id(ua.ObjectIds.HasComponent)
HAS_PROPERTY: Final = standard_id(ua.ObjectIds.HasProperty)
HAS_TYPE: Final = standard_id(ua.ObjectIds.HasTypeDefinition)
HAS_SUBTYPE: Final = standard_id(ua.ObjectIds.HasSubtype)
HAS_RULE: Final = standard_id(ua.ObjectIds.HasModellingRule)
MANDATORY: Final = standard_id(ua.ObjectIds.ModellingRule_Mandatory)
OPTIONAL: Final = standard_id(ua.ObjectIds.ModellingRule_Optional)
# Bits of AccessLevel (OPC 10000-3, 8.57).
READ: Final = 1
WRITE: Final = 2
HISTORY_READ: Final = 4
SEMANTIC_CHANGE: Final = 16  # the value says what other values mean, e.g. their unit
_IDS: Final = ua.AttributeIds
_NOBODY: Final = ua.NodeId()

# What a variable shows: a constant, or a function that is asked at each read.
Shown = ua.Variant | Callable[[], ua.DataValue]
Attributes = dict[ua.AttributeIds, AttributeValue]


class Reference:
    """A reference of a node; what stands at its target is looked up there."""

    __slots__ = ("IsForward", "NodeId", "ReferenceTypeId")

    def __init__(self, kind: ua.NodeId, target: ua.NodeId, *, is_forward: bool) -> None:
        self.ReferenceTypeId = kind
        self.NodeId = target
        self.IsForward = is_forward


class Node:
    """A node as the library's NodeData has it, in a tenth of the room.

    shared  attributes that many nodes have in common; never written
    value   its value attribute; None where it has none, or where it is a point's
    """

    __slots__ = ("call", "name", "nodeid", "references", "shared", "text", "value")

    def __init__(
        self,
        node: ua.NodeId,
        name: tuple[str, int],
        text: str,
        shared: Attributes,
        value: AttributeValue | None,
        references: list[Reference],
    ) -> None:
        self.nodeid = node
        self.name = name
        self.text = text
        self.shared = shared
        self.value = value
        self.references = references
        self.call = None

    def get(self, number: int) -> AttributeValue | None:
        """One attribute; None where the node has it not."""
        if number == _IDS.Value:
            return self.value
        if number == _IDS.BrowseName:
            return _browse_name(*self.name)
        if number == _IDS.DisplayName:
            return _text(self.name[0])
        if number == _IDS.Description:
            return _text(self.text)
        if number == _IDS.NodeId:
            nodeid = ua.DataValue(ua.Variant(self.nodeid, ua.VariantType.NodeId))
            return AttributeValue(nodeid)
        return self.shared.get(number)  # type: ignore[call-overload]

    @property
    def attributes(self) -> Attributes:
        """All attributes, made anew at each call."""
        nodeid = ua.DataValue(ua.Variant(self.nodeid, ua.VariantType.NodeId))
        made = {
            **self.shared,
            _IDS.NodeId: AttributeValue(nodeid),
            _IDS.BrowseName: _browse_name(*self.name),
            _IDS.DisplayName: _text(self.name[0]),
            _IDS.Description: _text(self.text),
        }
        if self.value is not None:
            made[_IDS.Value] = self.value
        return made


@lru_cache(maxsize=1024)
def _constant(content: Any, kind: ua.VariantType) -> AttributeValue:
    return AttributeValue(ua.DataValue(ua.Variant(content, kind)))


# Names and texts are given as strings: the library's own types have no hash.
@lru_cache(maxsize=1024)
def _text(text: str) -> AttributeValue:
    content = ua.LocalizedText(text)
    return AttributeValue(ua.DataValue(ua.Variant(content, ua.VariantType.LocalizedText)))


@lru_cache(maxsize=1024)
def _browse_name(name: str, namespace: int) -> AttributeValue:
    content = ua.QualifiedName(name, namespace)
    return AttributeValue(ua.DataValue(ua.Variant(content, ua.VariantType.QualifiedName)))


@lru_cache(maxsize=64)
def _common(kind: ua.NodeClass, *given: tuple[int, Any, ua.VariantType]) -> Attributes:
    """Attributes that nodes of one kind share: number, content and type of each."""
    shared = {
        _IDS.NodeClass: _constant(kind, ua.VariantType.Int32),
        _IDS.WriteMask: _constant(0, ua.VariantType.UInt32),
        _IDS.UserWriteMask: _constant(0, ua.VariantType.UInt32),
    }
    for number, content, variant in given:
        shared[ua.AttributeIds(number)] = _constant(content, variant)
    return shared


@lru_cache(maxsize=4096)
def _shared_reference(kind: ua.NodeId, target: ua.NodeId, is_forward: bool) -> Reference:
    return Reference(kind, target, is_forward=is_forward)


def _variable_attributes(
    data_type: ua.NodeId, rank: int, access: int, historizing: bool, kind: ua.NodeClass
) -> Attributes:
    given: tuple[tuple[int, Any, ua.VariantType], ...] = (
        (_IDS.DataType, data_type, ua.VariantType.NodeId),
        (_IDS.ValueRank, int(rank), ua.VariantType.Int32),
    )
    if kind == ua.NodeClass.VariableType:
        return _common(kind, *given, (_IDS.IsAbstract, False, ua.VariantType.Boolean))
    return _common(
        kind,
        *given,
        (_IDS.AccessLevel, access, ua.VariantType.Byte),
        (_IDS.UserAccessLevel, access, ua.VariantType.Byte),
        (_IDS.AccessLevelEx, access, ua.VariantType.UInt32),
        (_IDS.MinimumSamplingInterval, 0.0, ua.VariantType.Double),
        (_IDS.Historizing, historizing, ua.VariantType.Boolean),
    )


class Nodes:
    """Adds nodes, and removes what it added. Raises ValueError where a NodeId is taken."""

    def __init__(self, space: AddressSpace) -> None:
        self.space = space
        self._own: dict[ua.NodeId, None] = {}
        self._foreign: set[ua.NodeId] = set()  # whose references got one of ours
        self._added: set[int] = set()  # those references, by their identity

    def __contains__(self, node: ua.NodeId) -> bool:
        return node in self.space

    @property
    def own(self) -> Iterable[ua.NodeId]:
        """The nodes that were added, in their order."""
        return self._own.keys()

    def object(
        self,
        node: ua.NodeId,
        name: str,
        parent: ua.NodeId,
        type_id: ua.NodeId,
        *,
        reference: ua.NodeId = HAS_COMPONENT,
        notifies: bool = False,
        history: bool = False,
        description: str = "",
        namespace: int = NAMESPACE,
    ) -> ua.NodeId:
        """An object; `notifies`: clients can subscribe to its events. Returns `node`.

        history  its events can be read back
        """
        notifier = 0
        if notifies:
            notifier |= ua.EventNotifier.SubscribeToEvents.mask
        if history:
            notifier |= ua.EventNotifier.HistoryRead.mask
        common = _common(ua.NodeClass.Object, (_IDS.EventNotifier, notifier, ua.VariantType.Byte))
        self._add(node, (name, namespace), description, common, None, parent, reference, type_id)
        return node

    def variable(
        self,
        node: ua.NodeId,
        name: str,
        parent: ua.NodeId,
        shown: Shown,
        *,
        data_type: ua.NodeId,
        type_id: ua.NodeId,
        rank: ua.ValueRank = ua.ValueRank.Scalar,
        reference: ua.NodeId = HAS_COMPONENT,
        access: int = READ,
        historizing: bool = False,
        description: str = "",
        namespace: int = NAMESPACE,
    ) -> AttributeValue:
        """A variable; returns its value attribute. `access` is an AccessLevel mask."""
        value = value_of(shown)
        common = _variable_attributes(data_type, rank, access, historizing, ua.NodeClass.Variable)
        self._add(node, (name, namespace), description, common, value, parent, reference, type_id)
        return value

    def point(
        self,
        node: ua.NodeId,
        name: str,
        parent: ua.NodeId,
        *,
        data_type: ua.NodeId,
        type_id: ua.NodeId,
        access: int,
        historizing: bool,
        description: str,
    ) -> None:
        """A point's variable: its value is none of the node's, see gateway/opcua/values.py."""
        kind, rank = ua.NodeClass.Variable, ua.ValueRank.Scalar
        common = _variable_attributes(data_type, rank, access, historizing, kind)
        names = (name, NAMESPACE)
        self._add(node, names, description, common, None, parent, HAS_COMPONENT, type_id)

    def property(
        self,
        owner: ua.NodeId,
        name: str,
        shown: Shown | AttributeValue,
        data_type: ua.NodeId,
        *,
        namespace: int = 0,
        access: int = READ,
        node: ua.NodeId | None = None,
    ) -> AttributeValue:
        """A property ``<owner>/<name>``; names of properties are mostly the standard's.

        shown  as of a variable, or a value attribute that several properties share
        node   its NodeId where that is another one
        """
        is_array = isinstance(shown, ua.Variant) and bool(shown.is_array)
        if isinstance(shown, AttributeValue):
            value = shown
            held = value.value.Value if value.value is not None else None
            is_array = held is not None and bool(held.is_array)
        else:
            value = value_of(shown)
        rank = ua.ValueRank.OneDimension if is_array else ua.ValueRank.Scalar
        common = _variable_attributes(data_type, rank, access, False, ua.NodeClass.Variable)
        kind = standard_id(ua.ObjectIds.PropertyType)
        if node is None:
            node = child_id(owner, name)
        self._add(node, (name, namespace), "", common, value, owner, HAS_PROPERTY, kind)
        return value

    def method(
        self,
        node: ua.NodeId,
        name: str,
        parent: ua.NodeId,
        inputs: Sequence[ua.Argument] = (),
        outputs: Sequence[ua.Argument] = (),
        *,
        description: str = "",
        namespace: int = NAMESPACE,
    ) -> ua.NodeId:
        """A method node with its arguments; who carries it out stands in Methods."""
        common = _common(
            ua.NodeClass.Method,
            (_IDS.Executable, True, ua.VariantType.Boolean),
            (_IDS.UserExecutable, True, ua.VariantType.Boolean),
        )
        names = (name, namespace)
        self._add(node, names, description, common, None, parent, HAS_COMPONENT, _NOBODY)
        argument = standard_id(ua.ObjectIds.Argument)
        for what, arguments in (("InputArguments", inputs), ("OutputArguments", outputs)):
            if arguments:
                self.property(node, what, ua.Variant(list(arguments)), argument)
        return node

    def object_type(
        self,
        node: ua.NodeId,
        name: str,
        parent: ua.NodeId,
        *,
        abstract: bool = False,
        description: str = "",
        namespace: int = NAMESPACE,
    ) -> ua.NodeId:
        """A subtype of the object type `parent`. Returns `node`."""
        common = _common(
            ua.NodeClass.ObjectType, (_IDS.IsAbstract, abstract, ua.VariantType.Boolean)
        )
        names = (name, namespace)
        self._add(node, names, description, common, None, parent, HAS_SUBTYPE, _NOBODY)
        return node

    def data_type(
        self, node: ua.NodeId, name: str, parent: ua.NodeId, definition: Any, *, namespace: int
    ) -> ua.NodeId:
        """A subtype of the data type `parent`, with its definition. Returns `node`."""
        common = {
            **_common(ua.NodeClass.DataType, (_IDS.IsAbstract, False, ua.VariantType.Boolean)),
            _IDS.DataTypeDefinition: AttributeValue(
                ua.DataValue(ua.Variant(definition, ua.VariantType.ExtensionObject))
            ),
        }
        self._add(node, (name, namespace), "", common, None, parent, HAS_SUBTYPE, _NOBODY)
        return node

    def rule(self, node: ua.NodeId, rule: ua.NodeId) -> None:
        """Say of a type's child whether its instances have it; in one direction, as usual."""
        self._link(node, _shared_reference(HAS_RULE, rule, True))

    def refer(self, source: ua.NodeId, reference: ua.NodeId, target: ua.NodeId) -> None:
        """A reference between two nodes that are there, in both directions."""
        if source not in self.space or target not in self.space:
            raise ValueError(f"no node for a reference {source.to_string()} {target.to_string()}")
        self._link(source, Reference(reference, target, is_forward=True))
        self._link(target, Reference(reference, source, is_forward=False))

    def attach(self, source: ua.NodeId, reference: ua.NodeId, target: ua.NodeId) -> None:
        """A reference in one direction, for a target that thousands of nodes have in common."""
        self._link(source, _shared_reference(reference, target, True))

    def clear(self) -> None:
        """Remove all nodes that were added, and what refers to them."""
        for node in self._foreign:
            data = self.space.get(node)
            if data is not None:
                data.references = [r for r in data.references if id(r) not in self._added]
        for node in self._own:
            del self.space[node]
        self._own, self._foreign, self._added = {}, set(), set()

    def leave(self, stage: Stage) -> None:
        """Prepare a stage that leaves these nodes out for what they left behind at others."""
        for node in self._foreign:
            if node in stage:
                stage.opened(node)

    def take_over(self, base: AddressSpace) -> None:
        """Show the nodes that were built on a stage in `base`, in one step."""
        assert isinstance(self.space, Stage)
        self.space.take_over(base)
        self.space = base

    def _link(self, node: ua.NodeId, reference: Reference) -> None:
        if node in self._own:
            data = self.space[node]
        else:
            data = self.space.opened(node) if isinstance(self.space, Stage) else self.space[node]
            self._foreign.add(node)
            self._added.add(id(reference))
        data.references.append(cast("ua.ReferenceDescription", reference))

    def _add(
        self,
        node: ua.NodeId,
        name: tuple[str, int],
        text: str,
        shared: Attributes,
        value: AttributeValue | None,
        parent: ua.NodeId,
        reference: ua.NodeId,
        type_id: ua.NodeId,
    ) -> None:
        if node in self.space:
            raise ValueError(f"two nodes would be called {node.to_string()}")
        if parent not in self.space:
            raise ValueError(f"no node {parent.to_string()} for {node.to_string()}")
        references = [_shared_reference(reference, parent, False)]
        if not type_id.is_null():
            references.append(_shared_reference(HAS_TYPE, type_id, True))
        made = Node(node, name, text, shared, value, references)
        self.space[node] = cast("NodeData", made)
        self._own[node] = None
        self._link(parent, Reference(reference, node, is_forward=True))


def child_id(owner: ua.NodeId, name: str) -> ua.NodeId:
    """The NodeId of what belongs to a node: the owner's with ``/name`` behind it."""
    assert isinstance(owner.Identifier, str)
    return ua.NodeId(ua.String(f"{owner.Identifier}/{name}"), owner.NamespaceIndex)


def value_of(shown: Shown) -> AttributeValue:
    """The value attribute of what a variable shows."""
    if isinstance(shown, ua.Variant):
        return AttributeValue(ua.DataValue(shown))
    value = AttributeValue(ua.DataValue())
    value.value = None
    value.value_callback = lambda node, attribute, ask=shown: ask()
    return value


def compact(space: AddressSpace) -> None:
    """Keep the references of the standard's nodes in a third of their room."""
    kinds: dict[ua.NodeId, ua.NodeId] = {}
    for data in space._nodes.values():
        data.references = [
            cast(
                "ua.ReferenceDescription",
                Reference(
                    kinds.setdefault(r.ReferenceTypeId, r.ReferenceTypeId),
                    r.NodeId if (held := space.get(r.NodeId)) is None else held.nodeid,
                    is_forward=r.IsForward,
                ),
            )
            for r in data.references
        ]
