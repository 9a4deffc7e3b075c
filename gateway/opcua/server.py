"""A running OPC UA server: its parts, and how they are joined."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from asyncua import ua
from asyncua.server.address_space import AddressSpace
from numpy.typing import NDArray

from config.opcua import OpcUaEntry
from config.points import PointDef
from gateway.core.clock import Clock
from gateway.core.records import Batch
from gateway.opcua import Endpoint, site_namespace
from gateway.opcua.attributes import READS_MAX, Attributes
from gateway.opcua.conditions.conditions import Conditions
from gateway.opcua.conditions.events import event_of
from gateway.opcua.conditions.filters import SELECT_CLAUSES_MAX, EventFilter
from gateway.opcua.conditions.methods import ConditionMethods
from gateway.opcua.conditions.types import EventTypes
from gateway.opcua.conditions.where import ELEMENTS_MAX
from gateway.opcua.desk import Desk
from gateway.opcua.event import UaEvent
from gateway.opcua.history import nodes as history_nodes
from gateway.opcua.history import requests as history_requests
from gateway.opcua.history import service as history
from gateway.opcua.library import quiet, standard_space
from gateway.opcua.methods import Methods
from gateway.opcua.model import SiteModel
from gateway.opcua.monitoring import limits as monitoring
from gateway.opcua.monitoring.subscriptions import Subscriptions
from gateway.opcua.names import own_id, standard_id
from gateway.opcua.nodes.diagnostics import Counts, Diagnostics, Limits
from gateway.opcua.nodes.space import Space
from gateway.opcua.orders.calls import CALLS_MAX, Calls
from gateway.opcua.orders.orders import Orders
from gateway.opcua.orders.own import OwnMethods
from gateway.opcua.orders.writes import WRITES_MAX, Writes
from gateway.opcua.push import nodes as push_nodes
from gateway.opcua.push import push
from gateway.opcua.security.audit import Audit, is_confidential
from gateway.opcua.security.guard import Guard
from gateway.opcua.security.rights import Rights
from gateway.opcua.service import Service
from gateway.opcua.transport.bounded import bind_decoder
from gateway.opcua.transport.limits import CHUNK_BYTES, MESSAGE_BYTES_MAX
from gateway.opcua.transport.listener import Listener
from gateway.opcua.transport.openings import Openings
from gateway.opcua.transport.requests import Hub
from gateway.opcua.transport.sessions import Sessions
from gateway.opcua.users import Role, User
from gateway.opcua.values import Values
from gateway.opcua.views import (
    BROWSES_MAX,
    CONTINUATIONS_MAX,
    PATHS_MAX,
    REGISTRATIONS_MAX,
    Views,
)

if TYPE_CHECKING:
    from sync.archive.archive import AsyncArchive

log = logging.getLogger("gatepost.link")

FAREWELL_S: Final = 1.0  # a stop shows in ServerStatus so long before connections are closed


class Parts:
    """What serves clients of one address space."""

    def __init__(
        self, running: Running, aspace: AddressSpace, archive: AsyncArchive | None
    ) -> None:
        clock, desk, values = running.clock, running.desk, running.values
        rights, audit, settings = running.rights, running.audit, running.settings
        uri = running.guard.application_uri
        diagnostics = Diagnostics(clock, values, uri, site_namespace(running.site))
        self.diagnostics = diagnostics
        diagnostics.limits = _limits(settings)
        diagnostics.counts = running.counts
        diagnostics.history = archive is not None
        self.space = space = Space(aspace, values, clock, diagnostics)
        methods = Methods()
        self.attributes = attributes = Attributes(space, values, rights, clock, methods)
        self.views = Views(space, clock)
        types = EventTypes(aspace)
        self.subscriptions = Subscriptions(
            values, attributes, lambda wanted: EventFilter.parse(wanted, types), clock
        )
        self.subscriptions.may_see = self._may_see
        self.subscriptions.add_methods(methods)
        self._rights = rights
        self.orders = Orders(desk, clock, values)
        self.own = OwnMethods(self.orders, values, rights, methods)
        self.conditions = Conditions(aspace, desk, clock)
        self.conditions.emit = self.subscriptions.offer
        told = ConditionMethods(self.conditions, self.orders, self.subscriptions, desk, clock)
        told.register(methods)
        pushed = push.Push(running.guard, audit, clock)
        push_nodes.add(aspace, methods, pushed, history=archive is not None)
        space.builders += [self.own.build, self.conditions.build]
        history_nodes.dress(aspace, active=archive is not None)
        if archive is not None:
            space.builders.append(history_nodes.build)
        shown = attributes.attributes_of
        self.writes = Writes(self.orders, values, rights, audit, shown, settings.Lease)
        self.calls = Calls(methods, rights, audit, shown)
        self.history = history.History(
            archive,
            values,
            rights.may_read,
            aspace.__contains__,
            clock,
            history.Events(
                types,
                frozenset((standard_id(ua.ObjectIds.Server), own_id("/"))),
                lambda kept: event_of(kept.event, kept.epoch, self.conditions.facts),
                self._may_see,
            ),
        )

    def _may_see(self, user: User, event: UaEvent) -> bool:
        """Events of what belongs to a point are for those who may read the point."""
        if is_confidential(event) and user.role < Role.ENGINEER:
            return False
        return self._rights.may_read(user, self.space.tag_of(event.condition or event.source))

    def services(self) -> dict[int, Service]:
        """Who serves which request."""
        return {
            **self.attributes.services(),
            **self.views.services(),
            **self.subscriptions.services(),
            **self.writes.services(),
            **self.calls.services(),
            **self.history.services(),
        }


def _limits(settings: OpcUaEntry) -> Limits:
    """What clients may ask for."""
    return Limits(
        MaxSessions=settings.ConnectionsMax,
        MaxSubscriptions=monitoring.SUBSCRIPTIONS_MAX,
        MaxMonitoredItems=monitoring.ITEMS_MAX,
        MaxSubscriptionsPerSession=monitoring.SESSION_SUBSCRIPTIONS_MAX,
        MaxMonitoredItemsPerSubscription=monitoring.SUBSCRIPTION_ITEMS_MAX,
        MaxMonitoredItemsQueueSize=monitoring.ITEM_QUEUE_MAX,
        MaxSelectClauseParameters=SELECT_CLAUSES_MAX,
        MaxWhereClauseParameters=ELEMENTS_MAX,
        MaxNodesPerRead=READS_MAX,
        MaxNodesPerWrite=WRITES_MAX,
        MaxNodesPerMethodCall=CALLS_MAX,
        MaxNodesPerBrowse=BROWSES_MAX,
        MaxNodesPerRegisterNodes=REGISTRATIONS_MAX,
        MaxNodesPerTranslateBrowsePathsToNodeIds=PATHS_MAX,
        MaxNodesPerHistoryReadData=history_requests.NODES_MAX,
        MaxNodesPerHistoryReadEvents=history_requests.NODES_MAX,
        MaxMonitoredItemsPerCall=monitoring.OPERATIONS_MAX,
        MaxBrowseContinuationPoints=CONTINUATIONS_MAX,
        MaxHistoryContinuationPoints=1000,
        MaxArrayLength=CHUNK_BYTES,
        MaxStringLength=CHUNK_BYTES,
        MaxByteStringLength=MESSAGE_BYTES_MAX,
        sampling_ms_min=monitoring.SAMPLING_INTERVAL_MS_MIN,
    )


class Running:
    """One life of the server, from start to stop."""

    def __init__(
        self,
        endpoint: Endpoint,
        settings: OpcUaEntry,
        site: str,
        folder: Path,
        clock: Clock,
        desk: Desk,
        archive: AsyncArchive | None,
    ) -> None:
        quiet()
        bind_decoder()
        self.settings = settings
        self.site = site
        self.clock = clock
        self.desk = desk
        self.url = ""
        self._endpoint = endpoint
        self._archive = archive
        self._tasks: list[asyncio.Task[None]] = []
        self._order = asyncio.Lock()
        self._parts: Parts | None = None
        self.audit = Audit(self._emit, desk, clock)
        self.guard = Guard(settings, folder, site, clock, self.audit)
        self.rights = Rights(settings.Rights)
        self.values = Values(clock)
        openings = Openings(clock)
        sessions = Sessions(settings, self.guard, self.audit, openings, clock)
        self._hub = Hub(self.guard, sessions, openings, clock)
        self._listener = Listener(self._hub)

    @property
    def variables(self) -> int:
        """How many points are shown."""
        return len(self.values.points)

    @property
    def clients(self) -> int:
        """How many connections are open."""
        return self._listener.connections

    @property
    def parts(self) -> Parts:
        """What serves clients; there from `start` on."""
        assert self._parts is not None, "start first"
        return self._parts

    def counts(self) -> Counts:
        """What the server's diagnostics show."""
        return Counts(**self._hub.sessions.counts(), **self.parts.subscriptions.counts())

    def _emit(self, event: UaEvent) -> None:
        """Offer an event to those who monitor events."""
        if self._parts is not None:
            self._parts.subscriptions.offer(event)

    # ------------------------------------------------------------ start and stop

    async def start(self, model: SiteModel, points: Sequence[PointDef]) -> None:
        """Build everything and listen.

        Raises OSError, OpcUaError, and ValueError for two equal NodeIds.
        """
        await self.guard.open()
        aspace = await asyncio.to_thread(standard_space)
        parts = self._parts = Parts(self, aspace, self._archive)
        await self._show(model, points)
        self._hub.services = parts.services()
        port = await self._listener.start(self._endpoint.host, self._endpoint.port)
        self.url = self._hub.url = self._endpoint.url(port)
        self._run("OPC UA audit", self.audit.run())
        self._run("OPC UA subscriptions", parts.subscriptions.run())
        self._run("OPC UA conditions", parts.conditions.run())

    def _run(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Run a part's own task until the server stops."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        task.add_done_callback(_tell)
        self._tasks.append(task)

    async def stop(self) -> None:
        """Tell clients, then close all connections and the listener."""
        if self._parts is not None and self._hub.sessions.counts()["CurrentSessionCount"]:
            now_ns = self.clock.monotonic_ns()
            self._parts.diagnostics.ends_ns = now_ns + int(FAREWELL_S * 1e9)
            await asyncio.sleep(FAREWELL_S)
        await self._listener.stop()
        self.guard.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # ------------------------------------------------------------ what is shown

    async def _show(self, model: SiteModel, points: Sequence[PointDef]) -> None:
        """Build a configuration in a thread, and show it in one step. Raises ValueError."""
        parts = self.parts
        prepared = await asyncio.to_thread(parts.space.prepare, model, points)
        self.values.replace(points)
        events = parts.space.take_over(prepared)
        parts.own.take_over(model, points)
        parts.conditions.take_over()
        for event in events:
            self._emit(event)
        await asyncio.to_thread(parts.space.forget)

    async def update(self, records: NDArray[np.void]) -> None:
        """Take changes: (N,) RECORD rows."""
        async with self._order:
            self._update(records)

    @property
    def busy(self) -> bool:
        """True while another configuration is being built."""
        return self._order.locked()

    def update_now(self, records: NDArray[np.void]) -> None:
        """`update` for who can't wait; never while the server is busy."""
        assert not self.busy, "another configuration is being built"
        self._update(records)

    def _update(self, records: NDArray[np.void]) -> None:
        self.values.update(records)
        self.parts.space.update(records)

    async def rebuild(self, model: SiteModel, points: Sequence[PointDef]) -> None:
        """Another configuration, in one step. Raises ValueError; then the old one is shown on."""
        async with self._order:
            await self._show(model, points)

    # ------------------------------------------------------------ the field process

    def heard(self, batch: Batch) -> None:
        """Records of the field process: receipts, alarms, states."""
        self.parts.orders.heard(batch)
        self.parts.conditions.heard(batch)

    def field(self, *, there: bool) -> None:
        """A field process came, or went."""
        conditions = self.parts.conditions
        if there:
            conditions.field_there()
        else:
            conditions.field_lost()


def _tell(task: asyncio.Task[None]) -> None:
    """A part that ended by itself is a fault of ours: it must not go unseen."""
    if not task.cancelled() and task.exception() is not None:
        log.error("%s ended", task.get_name(), exc_info=task.exception())
