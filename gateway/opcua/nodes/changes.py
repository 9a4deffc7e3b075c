"""What another configuration changed in the address space, and the events that say so.

Source: OPC 10000-3, 5.2.5.5 (NodeVersion) and 9.32 to 9.35 (model and semantic change events).
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from asyncua import ua

from gateway.core.clock import Clock
from gateway.opcua.event import UaEvent
from gateway.opcua.names import standard_id
from gateway.opcua.nodes.builder import (
    HAS_PROPERTY,
    HAS_TYPE,
    SEMANTIC_CHANGE,
    Node,
    Nodes,
)

LISTED_MAX: Final = 500  # changes that an event names; of more it says only that there are some
ADDED: Final = 1  # ModelChangeStructureVerbMask
DELETED: Final = 2
REFERENCE_ADDED: Final = 4
REFERENCE_DELETED: Final = 8
DATA_TYPE_CHANGED: Final = 16
SEVERITY: Final = 100
_SERVER: Final = standard_id(ua.ObjectIds.Server)
_STRING: Final = standard_id(ua.ObjectIds.String)
_IDS: Final = ua.AttributeIds


@dataclass(frozen=True, slots=True)
class Changes:
    """What changed.

    model     (node, its type, verbs) of each; NodeIds of properties are left out
    meanings  nodes one of whose properties says something else now, e.g. the unit, or came or went;
              and their types
    """

    model: tuple[tuple[ua.NodeId, ua.NodeId, int], ...]
    meanings: tuple[tuple[ua.NodeId, ua.NodeId], ...]


NONE: Final = Changes((), ())


def _targets(node: Node, kind: ua.NodeId) -> list[ua.NodeId]:
    return [r.NodeId for r in node.references if r.IsForward and r.ReferenceTypeId == kind]


def type_of(node: Any) -> ua.NodeId:
    """The type definition of a node; the null NodeId where it has none."""
    found = [r.NodeId for r in node.references if r.IsForward and r.ReferenceTypeId == HAS_TYPE]
    return found[0] if found else ua.NodeId()


def version(node: Node) -> str:
    """A name for a node's references: the same references have the same name."""
    known = sorted(
        f"{r.IsForward}{r.ReferenceTypeId.to_string()} {r.NodeId.to_string()}"
        for r in node.references
    )
    return f"{zlib.crc32(' '.join(known).encode()):08x}"


def add_versions(nodes: Nodes, containers: Collection[ua.NodeId]) -> None:
    """Give nodes whose references a configuration changes a NodeVersion."""
    for container in containers:
        node: Any = nodes.space[container]
        shown = ua.Variant(version(node), ua.VariantType.String)
        place = None
        if not isinstance(container.Identifier, str):
            place = ua.NodeId(ua.String(f"//{container.Identifier!r}/NodeVersion"), ua.Int16(2))
        nodes.property(container, "NodeVersion", shown, _STRING, node=place)


def compare(
    old: Mapping[ua.NodeId, Any], new: Mapping[ua.NodeId, Any], containers: Collection[ua.NodeId]
) -> Changes:
    """What `new` has other than `old`; both are our own nodes by NodeId.

    containers  the nodes of `new` that have a NodeVersion
    """
    model: list[tuple[ua.NodeId, ua.NodeId, int]] = []
    gone = [node for node in old if node not in new]
    model += [(node, type_of(old[node]), DELETED) for node in gone if not _is_property(old[node])]
    # A point that got its first unit, or lost it, means something else, too.
    owners = [old[node].references[0].NodeId for node in gone if _meaning(old[node]) is not None]
    for node, made in new.items():
        before = old.get(node)
        if before is None:
            if not _is_property(made):
                model.append((node, type_of(made), ADDED))
            elif _meaning(made) is not None:
                owners.append(made.references[0].NodeId)
        elif _data_type(before) != _data_type(made):
            model.append((node, type_of(made), DATA_TYPE_CHANGED))
        elif _meaning(before) != _meaning(made):
            owners.append(made.references[0].NodeId)
    told = {node for node, _, _ in model}  # that it is there, or of another data type, says more
    meant = [owner for owner in owners if owner in new and owner not in told]
    meanings = {owner: type_of(new[owner]) for owner in meant}
    for container in containers:
        if container in old and container in new:
            verbs = _reference_verbs(old[container], new[container])
            if verbs:
                model.append((container, type_of(new[container]), verbs))
    return Changes(tuple(model), tuple(meanings.items()))


def _is_property(node: Node) -> bool:
    return bool(node.references) and node.references[0].ReferenceTypeId == HAS_PROPERTY


def _data_type(node: Node) -> Any:
    held = node.shared.get(_IDS.DataType)
    return None if held is None or held.value is None else held.value.Value


def _meaning(node: Node) -> Any:
    """What a property with the bit SemanticChange says; None of all other nodes."""
    level = node.shared.get(_IDS.AccessLevel)
    if level is None or level.value is None or level.value.Value is None or node.value is None:
        return None
    if not level.value.Value.Value & SEMANTIC_CHANGE or node.value.value is None:
        return None
    return node.value.value.Value


def _reference_verbs(old: Node, new: Node) -> int:
    before = {(r.ReferenceTypeId, r.NodeId) for r in old.references if r.IsForward}
    after = {(r.ReferenceTypeId, r.NodeId) for r in new.references if r.IsForward}
    added = REFERENCE_ADDED if after - before else 0
    return added | (REFERENCE_DELETED if before - after else 0)


def events(changes: Changes, clock: Clock) -> list[UaEvent]:
    """The events that tell clients of the changes; none where nothing changed."""
    made: list[UaEvent] = []
    if changes.model:
        listed = [
            ua.ModelChangeStructureDataType(node, kind, ua.Byte(verbs))
            for node, kind, verbs in changes.model
        ]
        made.append(_model_event(listed, clock))
    if changes.meanings:
        meant = [ua.SemanticChangeStructureDataType(node, of) for node, of in changes.meanings]
        for start in range(0, len(meant), LISTED_MAX):
            text = "units, ranges or names of states are others now"
            kind = ua.ObjectIds.SemanticChangeEventType
            made.append(_event(kind, text, meant[start : start + LISTED_MAX], clock))
    return made


def _model_event(listed: list[Any], clock: Clock) -> UaEvent:
    if len(listed) > LISTED_MAX:  # the base type says: something changed, look again
        text = f"the configuration changed {len(listed)} nodes"
        return _event(ua.ObjectIds.BaseModelChangeEventType, text, None, clock)
    kind = ua.ObjectIds.GeneralModelChangeEventType
    return _event(kind, "the configuration changed", listed, clock)


def _event(kind: int, text: str, listed: list[Any] | None, clock: Clock) -> UaEvent:
    now_ns = clock.utc_ns()
    fields = {}
    if listed is not None:
        fields["Changes"] = ua.Variant(listed, ua.VariantType.ExtensionObject)
    return UaEvent(
        type_id=standard_id(kind),
        event_id=bytes.fromhex(clock.new_id()),
        source=_SERVER,
        source_name="Server",
        notifiers=(_SERVER,),
        utc_ns=now_ns,
        received_ns=now_ns,
        severity=SEVERITY,
        message=text,
        fields=fields,
    )
