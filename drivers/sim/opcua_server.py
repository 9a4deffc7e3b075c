"""A simulated OPC UA server: variables with values, units, ranges and status, on asyncua's server.

Building OPC UA's own 6000 nodes takes a second or two; they are built once a process, and every
further server begins with a copy of those that say something about a server or a variable.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from asyncua import Server, ua
from asyncua.common.callback import CallbackType, ServerItemCallback
from asyncua.common.utils import ServiceError
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server.address_space import AttributeValue, NodeData
from asyncua.server.internal_server import InternalServer
from asyncua.server.user_managers import UserManager

from drivers.opcua.session import quiet

NAMESPACE: Final = "urn:gatepost:simulator"
# NodeIds of the standard: folders, basic types and references; the server object; its limits.
_KEPT: Final = (range(1, 900), range(2253, 3100), range(11702, 11720), range(15957, 15970))


@dataclass(frozen=True, slots=True)
class SimNode:
    """One variable, under the NodeId ``ns=2;s=<name>``; a dot in the name makes a folder.

    kind       built-in type
    units      unit of engineering; empty = none
    low, high  range of engineering units; None = none
    states     names of 0, 1, 2, ...: the property EnumStrings
    """

    name: str
    value: Any
    kind: ua.VariantType = ua.VariantType.Double
    writable: bool = False
    units: str = ""
    low: float | None = None
    high: float | None = None
    states: Sequence[str] = ()


class _Users(UserManager):
    """One named user, or anybody where none is declared."""

    def __init__(self, user: str | None, password: str | None) -> None:
        self._wanted = (user, password)

    def get_user(
        self,
        iserver: InternalServer,
        username: str | None = None,
        password: str | None = None,
        certificate: Any = None,
    ) -> User | None:
        """The user of a session; None refuses it."""
        if self._wanted[0] is not None and (username, password) != self._wanted:
            return None
        return User(role=UserRole.User)


class _Internal(InternalServer):
    """asyncua's internal server that starts from a copy of the standard's nodes."""

    standard: dict[Any, NodeData] = {}

    async def load_standard_address_space(self, shelf_file: Path | None = None) -> None:
        """Build once, copy from then on: servers write into these nodes and add references."""
        if not _Internal.standard:
            await super().load_standard_address_space(shelf_file)
            for key in self.aspace.keys():  # noqa: SIM118 - it is no dictionary
                if any(key.Identifier in kept for kept in _KEPT):
                    _Internal.standard[key] = self.aspace[key]
            self.aspace.clear()
        for key, node in _Internal.standard.items():
            self.aspace[key] = _copy(node)


def _copy(node: NodeData) -> NodeData:
    made = NodeData(node.nodeid)
    made.attributes = {
        key: AttributeValue(a.value) for key, a in node.attributes.items() if a.value is not None
    }
    made.references = list(node.references)
    return made


@dataclass(slots=True)
class ServerFaults:
    """How the server misbehaves.

    no_subscriptions  it refuses every subscription
    unmonitored       names that it refuses to monitor
    keep_alive_count  it answers a quiet subscription only every so many intervals; 0 = as asked
    interval_ms       interval at which it says that it publishes; 0 = as it does
    sampling_ms       interval at which it samples all nodes; 0 = as asked
    """

    no_subscriptions: bool = False
    unmonitored: set[str] = field(default_factory=set)
    keep_alive_count: int = 0
    interval_ms: float = 0.0
    sampling_ms: float = 0.0


class OpcUaSimulator:
    """A server of variables. After `stop`, `start` listens on the same port with the same values.

    writes   how many values clients have written since the first start
    """

    def __init__(
        self,
        nodes: Sequence[SimNode],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        user: str | None = None,
        password: str | None = None,
        certificate: Path | None = None,
        key: Path | None = None,
    ) -> None:
        self.nodes = {node.name: node for node in nodes}
        self.values: dict[str, ua.DataValue] = {}
        self.host = host
        self.port = port
        self.writes = 0
        self.faults = ServerFaults()
        self.server: Server | None = None
        self._user, self._password = user, password
        self._certificate, self._key = certificate, key
        self._pending: set[asyncio.Task[Any]] = set()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"opc.tcp://{self.host}:{self.port}"

    @property
    def sessions(self) -> Sequence[Any]:
        """Open connections."""
        listening = self.server.bserver if self.server is not None else None
        return [] if listening is None else list(listening.clients)

    def node_id(self, name: str) -> ua.NodeId:
        """The NodeId of a variable."""
        return _node_id(name)

    async def start(self) -> int:
        """Listen; returns the port."""
        quiet()
        logging.getLogger("asyncua.server").setLevel(logging.CRITICAL)
        internal = _Internal(user_manager=_Users(self._user, self._password))
        internal.disabled_clock = True  # it would hold `stop` up to the next full second
        server = Server(iserver=internal)
        await server.init()
        server.set_endpoint(f"{self.url}/simulator")
        server.set_server_name("Gatepost simulator")
        await self._secure(server)
        index = await server.register_namespace(NAMESPACE)
        assert index == 2
        await self._add_nodes(server)
        self._misbehave(internal)
        listen: Any = internal.callback_service.addListener
        listen(CallbackType.PostWrite, self._written)
        await server.start()
        assert server.bserver is not None
        self.port = int(server.bserver.port)
        self.server = server
        return self.port

    async def _secure(self, server: Server) -> None:
        if self._certificate is None or self._key is None:
            server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
            return
        await server.load_certificate(str(self._certificate))
        await server.load_private_key(str(self._key))
        policies = [
            ua.SecurityPolicyType.NoSecurity,
            ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt,
            ua.SecurityPolicyType.Aes128Sha256RsaOaep_SignAndEncrypt,
            ua.SecurityPolicyType.Aes256Sha256RsaPss_SignAndEncrypt,
        ]
        server.set_security_policy(policies)

    async def _add_nodes(self, server: Server) -> None:
        folders: dict[str, Any] = {"": server.nodes.objects}
        for node in self.nodes.values():
            folder, _, short = node.name.rpartition(".")
            if folder not in folders:
                folders[folder] = await server.nodes.objects.add_object(
                    _node_id(folder), ua.QualifiedName(folder, 2)
                )
            variant = ua.Variant(node.value, node.kind)
            added = await folders[folder].add_variable(
                self.node_id(node.name), ua.QualifiedName(short, 2), variant
            )
            if node.writable:
                await added.set_writable()
            if node.units:
                await added.add_property(0, "EngineeringUnits", _units(node.units))
            if node.low is not None and node.high is not None:
                limits = ua.Range(Low=ua.Double(node.low), High=ua.Double(node.high))
                await added.add_property(0, "EURange", limits)
            if node.states:
                texts = [ua.LocalizedText(text) for text in node.states]
                await added.add_property(0, "EnumStrings", texts)
            if node.name in self.values:
                await server.write_attribute_value(self.node_id(node.name), self.values[node.name])

    def _misbehave(self, internal: InternalServer) -> None:
        service = internal.subscription_service
        create, monitor = service.create_subscription, service.create_monitored_items
        faults = self.faults

        async def create_subscription(params: Any, *given: Any, **named: Any) -> Any:
            if faults.no_subscriptions:
                raise ServiceError(ua.StatusCodes.BadServiceUnsupported)
            if faults.keep_alive_count:
                params.RequestedMaxKeepAliveCount = faults.keep_alive_count
            result = await create(params, *given, **named)
            result.RevisedPublishingInterval = (
                faults.interval_ms or result.RevisedPublishingInterval
            )
            return result

        async def create_monitored_items(params: Any) -> Any:
            results = await monitor(params)
            for item, result in zip(params.ItemsToCreate, results, strict=True):
                if item.ItemToMonitor.NodeId.Identifier in faults.unmonitored:
                    code = ua.UInt32(ua.StatusCodes.BadTooManyMonitoredItems)
                    result.StatusCode = ua.StatusCode(code)
                result.RevisedSamplingInterval = (
                    faults.sampling_ms or result.RevisedSamplingInterval
                )
            return results

        service.create_subscription = create_subscription  # type: ignore[method-assign]
        service.create_monitored_items = create_monitored_items  # type: ignore[method-assign]

    def _written(self, event: ServerItemCallback, dispatcher: Any) -> None:
        if event.is_external:
            self.writes += len(event.request_params.NodesToWrite)

    async def stop(self) -> None:
        """End all sessions and stop listening; may be called twice."""
        server, self.server = self.server, None
        if server is None:
            return
        await asyncio.gather(*self._pending, return_exceptions=True)
        for name in self.nodes:
            self.values[name] = server.iserver.aspace.read_attribute_value(
                self.node_id(name), ua.AttributeIds.Value
            )
        for session in list(server.iserver._external_sessions.values()):
            await session.close_session(True)  # its tasks would outlive the server
        await server.stop()

    def set(self, name: str, value: Any, code: int = 0, stamp: Any = None) -> None:
        """A variable has another value from now on; `code` is a status code, 0 = good."""
        kind: Any = self.nodes[name].kind
        if value is None or isinstance(value, (str, list)):
            kind = None  # the library finds it: a node may change its type
        made = ua.DataValue(
            ua.Variant(value, kind), ua.StatusCode(ua.UInt32(code)), SourceTimestamp=stamp
        )
        self.values[name] = made
        if self.server is not None:
            task = asyncio.get_running_loop().create_task(self._write(self.server, name, made))
            self._pending.add(task)
            task.add_done_callback(self._pending.discard)

    async def _write(self, server: Server, name: str, value: ua.DataValue) -> None:
        shown = server.iserver.aspace[self.node_id(name)].attributes[ua.AttributeIds.Value]
        old, new = shown.value and shown.value.Value, value.Value
        if old and new and old.VariantType != new.VariantType:
            shown.value = None  # else the library keeps the type that a node had first
        await server.write_attribute_value(self.node_id(name), value)

    def get(self, name: str) -> Any:
        """What a variable has now."""
        assert self.server is not None, "not started"
        shown = self.server.iserver.aspace.read_attribute_value(
            self.node_id(name), ua.AttributeIds.Value
        )
        return shown.Value.Value if shown.Value is not None else None


def _node_id(name: str) -> ua.NodeId:
    return ua.NodeId(ua.String(name), ua.Int16(2))


def _units(text: str) -> ua.EUInformation:
    made = ua.EUInformation()
    made.DisplayName = ua.LocalizedText(text)
    made.Description = ua.LocalizedText(text)
    return made
