"""A copy of an address space in which another configuration is built while the first is shown.

Nodes are the same objects in both, but for those whose references change: these are copied first.
So a space of 30,000 nodes is prepared in a thread, taken over in one step, and simply forgotten
where it can't be built.
"""

from __future__ import annotations

import copy
from collections.abc import Set as AbstractSet

from asyncua import ua
from asyncua.server.address_space import AddressSpace, NodeData


class Stage(AddressSpace):
    """All nodes of `base` but those in `without`."""

    def __init__(self, base: AddressSpace, without: AbstractSet[ua.NodeId]) -> None:
        super().__init__()
        self._nodes = {node: data for node, data in base._nodes.items() if node not in without}
        self._opened: set[ua.NodeId] = set()
        self._without = without

    def opened(self, node: ua.NodeId) -> NodeData:
        """A node whose references may be changed; those to nodes that were left out are gone."""
        data = self._nodes[node]
        if node not in self._opened:
            self._opened.add(node)
            data = copy.copy(data)
            gone = self._without
            data.references = [r for r in data.references if r.NodeId not in gone]
            self._nodes[node] = data
        return data

    def take_over(self, base: AddressSpace) -> None:
        """Show these nodes in `base`, in one step. The stage is used up."""
        base._nodes = self._nodes
