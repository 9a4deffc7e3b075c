"""The address space of a site: built in a thread, shown in one step, the same NodeIds each time.

Other parts that have nodes of their own add a function to `Space.builders`; it is called in every
build, behind the points, and must leave alone what is shown meanwhile.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from asyncua import ua
from asyncua.server.address_space import AddressSpace
from numpy.typing import NDArray

from config.points import NO_POINT, PointDef
from gateway.core.clock import Clock
from gateway.core.garbage import collection_paused
from gateway.opcua.event import UaEvent
from gateway.opcua.model import SiteModel
from gateway.opcua.names import NAMESPACE
from gateway.opcua.nodes import changes, di
from gateway.opcua.nodes.builder import Nodes, compact
from gateway.opcua.nodes.changes import Changes
from gateway.opcua.nodes.corrections import correct
from gateway.opcua.nodes.devices import Equipment
from gateway.opcua.nodes.diagnostics import Diagnostics
from gateway.opcua.nodes.machines import Machines
from gateway.opcua.nodes.points import add_point
from gateway.opcua.nodes.shown import time_of
from gateway.opcua.nodes.stage import Stage
from gateway.opcua.values import Values

# Adds nodes of a part; raises ValueError where a NodeId is taken. Called in a thread.
Build = Callable[[Nodes, SiteModel, Sequence[PointDef]], None]
_PREFIX: Final = "/"  # of NodeIds that are no point's


@dataclass(frozen=True, slots=True)
class Prepared:
    """An address space that is ready to be shown."""

    nodes: Nodes
    model: SiteModel
    points: tuple[PointDef, ...]
    changes: Changes


class Space:
    """The nodes of a server's site in an address space that has the standard's.

    `aspace` holds OPC UA's own namespace, as gateway/opcua/library.py loads it.
    """

    def __init__(
        self, aspace: AddressSpace, values: Values, clock: Clock, diagnostics: Diagnostics
    ) -> None:
        self.aspace = aspace
        self.values = values
        self.machines = Machines(values)
        self.diagnostics = diagnostics
        self.builders: list[Build] = []
        self.model = SiteModel(site="", hash="")
        self.generation = 0  # changes with each configuration that is shown
        self.since: Any = None  # when the present one was first shown; the library's time
        self._clock = clock
        self._nodes = Nodes(aspace)
        self._dressed = False
        self._left: dict[ua.NodeId, Any] = {}  # nodes of the configuration before

    def point_of(self, node: ua.NodeId) -> int:
        """Index of the point that a NodeId names; 0 where it names none."""
        if node.NamespaceIndex != NAMESPACE:
            return NO_POINT
        return self.values.index.get(node.Identifier, NO_POINT)  # type: ignore[arg-type]

    def tag_of(self, node: ua.NodeId) -> str:
        """The point whose rights count at a node: its own, or that which the node belongs to.

        "" where it belongs to none.
        """
        name = node.Identifier
        if node.NamespaceIndex != NAMESPACE or not isinstance(name, str):
            return ""
        tag = name if name in self.values.index else name.partition(_PREFIX)[0]
        return tag if tag in self.values.index else ""

    def build(self, model: SiteModel, points: Sequence[PointDef]) -> list[UaEvent]:
        """Prepare and show at once. Raises ValueError; then everything is as it was."""
        return self.take_over(self.prepare(model, points))

    def prepare(self, model: SiteModel, points: Sequence[PointDef]) -> Prepared:
        """Build another configuration beside the one that is shown; for a thread.

        Raises ValueError where two nodes would have one NodeId.
        """
        with collection_paused():
            if not self._dressed:
                self.diagnostics.dress(self.aspace)
                correct(self.aspace)
                compact(self.aspace)
                self._dressed = True
            old = self._nodes
            stage = Stage(self.aspace, set(old.own))
            old.leave(stage)
            nodes = Nodes(stage)
            containers = self._fill(nodes, model, points)
            found = changes.NONE
            if self.generation:
                before: dict[ua.NodeId, Any] = {node: self.aspace[node] for node in old.own}
                after: dict[ua.NodeId, Any] = {node: stage[node] for node in nodes.own}
                found = changes.compare(before, after, containers)
            # Nodes have no cycles. To look through 200,000 new objects three times would hold up
            # the event loop, thread or not, for longer than to build them.
            gc.freeze()
        return Prepared(nodes, model, tuple(points), found)

    def take_over(self, prepared: Prepared) -> list[UaEvent]:
        """Show what was prepared, in one step, and say what changed.

        `values` must have the same points then: `Values.replace` comes before, with nothing that
        waits between the two.
        """
        self._left = self.aspace._nodes
        prepared.nodes.take_over(self.aspace)
        self._nodes = prepared.nodes
        self.model = prepared.model
        self.generation += 1
        self.since = time_of(self._clock.utc_ns())
        self.machines.take_over(prepared.model, prepared.points)
        return changes.events(prepared.changes, self._clock)

    def forget(self) -> None:
        """Give back the nodes of the configuration before; for a thread.

        One by one: to free 30,000 nodes at once would hold up the event loop, thread or not.
        """
        left, self._left = self._left, {}
        while left:
            left.popitem()

    def update(self, records: NDArray[np.void]) -> None:
        """Take changes that `values` has taken: (N,) RECORD rows."""
        self.machines.update(records)

    def _fill(
        self, nodes: Nodes, model: SiteModel, points: Sequence[PointDef]
    ) -> Sequence[ua.NodeId]:
        """Add all nodes; returns those whose references a configuration changes."""
        history = self.diagnostics.history
        di.build_types(nodes)
        self.diagnostics.build(nodes)
        equipment = Equipment(nodes, self.values, model, points, history=history)
        equipment.build()
        for point in points:
            add_point(nodes, point, model, history=history)
        equipment.group_gateway()
        self.machines.build(nodes, model, points)
        for build in self.builders:
            build(nodes, model, points)
        changes.add_versions(nodes, equipment.containers)
        return equipment.containers
