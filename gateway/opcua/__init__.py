"""The OPC UA server of the link process: all points of a site, for control rooms.

Reads are answered from a copy of the point table, and a change costs nothing until a client
monitors its point. The library behind it is loaded when the server starts, not before: a site
without OPC UA has neither its 30 MB nor its half second.
"""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

import numpy as np
from numpy.typing import NDArray

from config.opcua import OpcUaEntry
from config.points import PointDef
from gateway.core.clock import Clock
from gateway.core.records import Batch
from gateway.opcua.desk import Desk

if TYPE_CHECKING:
    from gateway.opcua.model import SiteModel
    from gateway.opcua.server import Running
    from sync.archive.archive import AsyncArchive

DEFAULT_PORT: Final = 4840  # registered with IANA for opc.tcp
_FIELDS: Final = frozenset(f.name for f in dataclasses.fields(PointDef))


class OpcUaError(Exception):
    """The OPC UA server can't be started or rebuilt; the message says what to change."""


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server listens. Port 0 takes a free one."""

    host: str
    port: int
    path: str

    def url(self, port: int) -> str:
        """The address for clients, with the real port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"opc.tcp://{host}:{port}{self.path}"


def parse_endpoint(text: str) -> Endpoint:
    """``opc.tcp://host:port/path`` taken apart. Raises OpcUaError."""
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise OpcUaError(_endpoint_fault(text, str(error))) from error
    if parts.scheme != "opc.tcp":
        raise OpcUaError(_endpoint_fault(text, "it does not begin with opc.tcp://"))
    if not host:
        raise OpcUaError(_endpoint_fault(text, "it names no host"))
    return Endpoint(host, DEFAULT_PORT if port is None else port, parts.path)


def _endpoint_fault(text: str, why: str) -> str:
    return (
        f"OPC UA endpoint {text!r} can't be used: {why}. "
        "Change OpcUa.Endpoint in link.json of the site folder (make the file where there is "
        "none), for example to opc.tcp://127.0.0.1:4841/gatepost"
    )


def point_of(point: PointDef | Mapping[str, Any]) -> PointDef:
    """A point definition, or the mapping of its fields that a birth carries. Raises OpcUaError."""
    if isinstance(point, PointDef):
        return point
    fields = {key: value for key, value in point.items() if key in _FIELDS}
    fields["states"] = tuple(fields.get("states", ()))
    try:
        return PointDef(**fields)
    except TypeError as error:
        raise OpcUaError(f"not a point definition: {error}") from error


class OpcUaServer:
    """The server as the link process uses it. All methods must be called on one event loop."""

    def __init__(
        self,
        settings: OpcUaEntry,
        site: str,
        state: Path,
        clock: Clock,
        desk: Desk,
    ) -> None:
        """`state` is the site's state folder."""
        self._settings = settings
        self._site = site
        self._state = state
        self._clock = clock
        self._desk = desk
        self._running: Running | None = None

    @property
    def url(self) -> str:
        """The address for clients; the configured one until the server has started."""
        return self._running.url if self._running else self._settings.Endpoint

    @property
    def variables(self) -> int:
        """How many points are shown."""
        return self._running.variables if self._running else 0

    @property
    def clients(self) -> int:
        """How many connections are open."""
        return self._running.clients if self._running else 0

    async def start(
        self,
        model: SiteModel,
        points: Sequence[PointDef | Mapping[str, Any]],
        archive: AsyncArchive | None = None,
    ) -> None:
        """Build the address space and listen; about a second of computing, most in a thread.

        `points` are numbered 1, 2, 3, ... in order; all are ``BadWaitingForInitialData`` until
        `update` brings their values. `archive` is what HistoryRead reads. Raises OpcUaError; may
        be called again after that.
        """
        assert self._running is None, "the server runs already"
        endpoint = parse_endpoint(self._settings.Endpoint)
        definitions = [point_of(point) for point in points]
        running: Running | None = None
        try:
            # Asked before a second is spent on the address space, and asked again by the listener.
            await asyncio.to_thread(_probe, endpoint)
            module = await asyncio.to_thread(_load_library)
            running = module.Running(
                endpoint,
                self._settings,
                self._site,
                self._state / "opcua",
                self._clock,
                self._desk,
                archive,
            )
            await running.start(model, definitions)
        except OSError as error:
            why = error.strerror or str(error)
            raise OpcUaError(_endpoint_fault(self._settings.Endpoint, why)) from error
        except ValueError as error:
            raise OpcUaError(f"OPC UA address space: {error}") from error
        finally:
            if running is not None and not running.url:
                await running.stop()
        self._running = running

    async def update(self, records: NDArray[np.void]) -> None:
        """Show changes: (N,) RECORD rows, `point` from 1 on; of a point's rows the last stays.

        Clients that monitor a point get each of its rows. Rows of points that the table does
        not have are left out.
        """
        if self._running is not None and len(records):
            await self._running.update(records)

    @property
    def busy(self) -> bool:
        """True while another configuration is being built; changes must wait for `update`."""
        return self._running is None or self._running.busy

    def update_now(self, records: NDArray[np.void]) -> None:
        """`update` without waiting; only while the server is not busy."""
        if self._running is not None and len(records):
            self._running.update_now(records)

    def heard(self, batch: Batch) -> None:
        """Records of the field process: receipts and alarms among them concern clients."""
        if self._running is not None:
            self._running.heard(batch)

    def field(self, *, there: bool) -> None:
        """A field process came, or went: conditions are asked for, or lost."""
        if self._running is not None:
            self._running.field(there=there)

    async def rebuild(
        self, model: SiteModel, points: Sequence[PointDef | Mapping[str, Any]]
    ) -> None:
        """Show another configuration. Points that stay keep NodeId, value and monitored items.

        Monitored items of points that vanish get ``BadNodeIdUnknown``. Raises OpcUaError.
        """
        definitions = [point_of(point) for point in points]
        if self._running is not None:
            try:
                await self._running.rebuild(model, definitions)
            except ValueError as error:
                raise OpcUaError(f"OPC UA address space: {error}") from error

    async def stop(self) -> None:
        """Close all connections and the listener. May be called twice."""
        running, self._running = self._running, None
        if running is not None:
            await running.stop()


def _probe(endpoint: Endpoint) -> None:
    """Raises OSError where nothing can listen at `endpoint`."""
    if endpoint.port == 0:
        return
    family, kind, protocol, _, address = socket.getaddrinfo(
        endpoint.host, endpoint.port, type=socket.SOCK_STREAM
    )[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
        probe.listen()


def _load_library() -> Any:
    import gateway.opcua.server

    return gateway.opcua.server


def site_namespace(site: str) -> str:
    """The namespace URI of a site's nodes."""
    return f"urn:gatepost:{quote(site, safe='')}"
