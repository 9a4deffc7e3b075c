"""The event types of the address space: which is a kind of which, and what fields they have."""

from __future__ import annotations

from typing import Any, Final

from asyncua import ua
from asyncua.server.address_space import AddressSpace

from gateway.opcua.names import standard_id

BASE: Final = standard_id(ua.ObjectIds.BaseEventType)
CONDITION: Final = standard_id(ua.ObjectIds.ConditionType)
_SUBTYPE: Final = standard_id(ua.ObjectIds.HasSubtype)
_PARTS: Final = frozenset((ua.ObjectIds.HasProperty, ua.ObjectIds.HasComponent))
_CLASS: Final = ua.AttributeIds.NodeClass
_PATH_PARTS_MAX: Final = 5  # ShelvingState/CurrentState/EffectiveDisplayName has three


class EventTypes:
    """Event types as they stand in the address space; looked up once."""

    def __init__(self, space: AddressSpace) -> None:
        self._space = space
        self._above: dict[ua.NodeId, frozenset[ua.NodeId]] = {}
        self._paths: dict[ua.NodeId, dict[str, ua.NodeClass]] = {}
        self._collect(BASE, frozenset())

    def _collect(self, node: ua.NodeId, above: frozenset[ua.NodeId]) -> None:
        self._above[node] = above = above | {node}
        for reference in self._space[node].references:
            if reference.IsForward and reference.ReferenceTypeId == _SUBTYPE:
                self._collect(reference.NodeId, above)

    def __contains__(self, node: ua.NodeId) -> bool:
        """True for BaseEventType and what comes below it."""
        return node in self._above

    def kinds(self, wanted: ua.NodeId) -> frozenset[ua.NodeId]:
        """A type and all below it."""
        return frozenset(node for node, above in self._above.items() if wanted in above)

    def paths(self, wanted: ua.NodeId) -> dict[str, ua.NodeClass]:
        """What events of a type, or of one below it, can have: joined browse path to class.

        Objects, variables and methods; the names of namespace 0 only.
        """
        if wanted not in self._paths:
            found: dict[str, ua.NodeClass] = {}
            for above in self._above.values():
                if wanted in above:
                    for one in above:
                        self._own_paths(one, "", found, 0)
            self._paths[wanted] = found
        return self._paths[wanted]

    def _own_paths(
        self, node: ua.NodeId, before: str, found: dict[str, ua.NodeClass], depth: int
    ) -> None:
        if depth == _PATH_PARTS_MAX:
            return
        for reference in self._space[node].references:
            if not reference.IsForward or reference.ReferenceTypeId.Identifier not in _PARTS:
                continue
            name = self._content(reference.NodeId, ua.AttributeIds.BrowseName)
            if name.NamespaceIndex:
                continue
            path, kind = before + str(name.Name), self._content(reference.NodeId, _CLASS)
            if path not in found:
                found[path] = ua.NodeClass(kind)
                if kind != ua.NodeClass.Method:
                    self._own_paths(reference.NodeId, f"{path}/", found, depth + 1)

    def _content(self, node: ua.NodeId, attribute: ua.AttributeIds) -> Any:
        # The reference may not have it: gateway/opcua/nodes/builder.py keeps it once.
        value = self._space[node].attributes[attribute].value
        assert value is not None
        assert value.Value is not None
        return value.Value.Value
