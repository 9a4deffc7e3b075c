"""A running OPC UA server: asyncua's, with our address space and a copy of the point table."""

from __future__ import annotations

import asyncio
import math
import socket
from collections.abc import Sequence
from importlib import metadata
from typing import Final
from urllib.parse import quote

import numpy as np
from asyncua import Server, ua
from asyncua.server.address_space import AttributeValue
from numpy.typing import NDArray

from config import status as codes
from config.points import NO_POINT, PointDef
from gateway.core.clock import Clock
from gateway.core.garbage import collection_paused
from gateway.core.records import RECORD
from gateway.opcua import Endpoint, site_namespace
from gateway.opcua.library import MESSAGE_BYTES_MAX, LeanServer, Listener, quiet
from gateway.opcua.space import NAMESPACE, SiteSpace, data_type, data_value, deleted, standard_id

# So many notifications are queued before other tasks of the process get their turn.
NOTIFICATIONS_AT_ONCE_MAX: Final = 200
_CHUNK_BYTES: Final = 65_535


class Running:
    """One life of the server, from start to stop."""

    def __init__(self, endpoint: Endpoint, site: str, clock: Clock) -> None:
        self._endpoint = endpoint
        self._site = site
        self._clock = clock
        quiet()
        self._lean = LeanServer()
        self._server = Server(iserver=self._lean)
        self._space = SiteSpace(self._lean.aspace, site)
        self._points: tuple[PointDef, ...] = ()
        self._rows = np.zeros(0, dtype=RECORD)
        self._types: list[ua.VariantType] = []
        self._values: list[AttributeValue] = []  # position = index of the point, as in _types
        self._index: dict[str, int] = {}
        self._order = asyncio.Lock()
        self.url = ""

    @property
    def variables(self) -> int:
        """How many points are shown."""
        return len(self._points)

    @property
    def clients(self) -> int:
        """How many connections are open."""
        listener = self._server.bserver
        return len(listener.clients) if listener is not None else 0

    async def start(self, points: Sequence[PointDef]) -> None:
        """Build everything and listen. Raises OSError, and ValueError for two equal NodeIds."""
        server = self._server
        server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
        server.set_endpoint(self._endpoint.url(self._endpoint.port))
        server.set_server_name(f"Gatepost {self._site}")
        server.product_uri = "urn:gatepost"
        server.manufacturer_name = "Gatepost"
        server.application_type = ua.ApplicationType.Server
        host = quote(socket.gethostname(), safe="")
        server._application_uri = f"urn:{host}:gatepost:{quote(self._site, safe='')}"
        server.limits.max_message_size = MESSAGE_BYTES_MAX
        server.limits.max_chunk_count = math.ceil(MESSAGE_BYTES_MAX / _CHUNK_BYTES)
        await server.init()
        await self._show_version()
        number = await server.register_namespace(site_namespace(self._site))
        assert number == NAMESPACE
        self._build(points)
        await self._listen()

    async def _listen(self) -> None:
        """What the library's own start does, with our listener."""
        server = self._server
        await server._setup_server_nodes()
        await self._lean.start()
        listener = Listener(self._lean, self._endpoint.host, self._endpoint.port, server.limits)
        listener.set_policies(server._policies)
        try:
            await listener.start()
        except OSError:
            await self._lean.stop()
            raise
        server.bserver = listener
        self.url = self._endpoint.url(listener.port)
        for description in self._lean.endpoints:
            description.EndpointUrl = self.url
            description.Server.DiscoveryUrls = [self.url]

    async def _show_version(self) -> None:
        version = metadata.version("gatepost")
        node = self._server.get_node(
            standard_id(ua.ObjectIds.Server_ServerStatus_BuildInfo_SoftwareVersion)
        )
        await node.write_value(version)

    def _build(self, points: Sequence[PointDef]) -> None:
        """Nodes, copy of the table and the way from one to the other."""
        assert [p.index for p in points] == list(range(1, len(points) + 1))
        with collection_paused():
            values = self._space.build(points)
        self._points = tuple(points)
        self._rows = np.zeros(len(points) + 1, dtype=RECORD)
        self._rows["point"] = np.arange(len(points) + 1)
        self._rows["status"] = codes.BAD_WAITING_FOR_INITIAL_DATA
        self._rows["value"] = np.nan
        self._types = [ua.VariantType.Null, *(data_type(point) for point in points)]
        self._values = [AttributeValue(ua.DataValue()), *values]
        self._index = {point.tag: point.index for point in points}
        for value in values:
            value.value = None
            value.value_callback = self._read

    def _read(self, node: ua.NodeId, attribute: ua.AttributeIds) -> ua.DataValue:
        """Answers a client's read, and the first notification of a monitored item."""
        index = self._index.get(str(node.Identifier), NO_POINT)
        row = self._rows[index]
        return data_value(
            self._types[index],
            float(row["value"]),
            int(row["status"]),
            int(row["utc_ns"]),
            self._clock.utc_ns(),
        )

    async def update(self, records: NDArray[np.void]) -> None:
        """Take changes into the copy, then notify those who monitor them."""
        async with self._order:
            index = records["point"]
            known = (index > NO_POINT) & (index < len(self._rows))
            if not known.all():
                records = records[known]
                index = records["point"]
            self._rows[index] = records
            await self._notify(records)

    async def mark_all(self, status: int, utc_ns: int) -> None:
        """One status for all points, in the copy and for those who monitor."""
        async with self._order:
            self._rows["status"] = status
            self._rows["utc_ns"] = utc_ns
            await self._notify(self._rows[1:].copy())

    async def _notify(self, records: NDArray[np.void]) -> None:
        server_ns = self._clock.utc_ns()
        queued = 0
        for _, index, status, value, utc_ns in records.tolist():
            callbacks = self._values[index].datachange_callbacks
            if not callbacks:
                continue
            shown = data_value(self._types[index], value, status, utc_ns, server_ns)
            for handle, callback in list(callbacks.items()):
                await callback(handle, shown)
                queued += 1
            if queued >= NOTIFICATIONS_AT_ONCE_MAX:
                queued = 0
                await asyncio.sleep(0)

    async def rebuild(self, points: Sequence[PointDef]) -> None:
        """Other points, in one step: no client sees half of them.

        Where the new table can't be built, the old one is put back and ValueError raised.
        """
        async with self._order:
            old, rows, values = self._points, self._rows, self._values
            self._space.clear()
            try:
                self._build(points)
            except ValueError:
                self._space.clear()
                self._build(old)
                self._carry(old, rows, values)
                raise
            await self._tell_deleted(self._carry(old, rows, values))

    def _carry(
        self,
        old: Sequence[PointDef],
        rows: NDArray[np.void],
        values: Sequence[AttributeValue],
    ) -> list[AttributeValue]:
        """Take values and monitored items over by tag; returns what has no point any more."""
        gone = []
        for point in old:
            index = self._index.get(point.tag)
            if index is None:
                gone.append(values[point.index])
                continue
            self._rows[index] = rows[point.index]
            self._rows[index]["point"] = index
            self._values[index].datachange_callbacks = values[point.index].datachange_callbacks
        return gone

    async def _tell_deleted(self, gone: Sequence[AttributeValue]) -> None:
        last = deleted()
        handles = self._lean.aspace._handle_to_attribute_map
        for value in gone:
            for handle, callback in list(value.datachange_callbacks.items()):
                await callback(handle, last)
                handles.pop(handle, None)

    async def stop(self) -> None:
        """Close all connections and the listener."""
        await self._server.stop()
