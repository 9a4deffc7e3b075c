"""What Gatepost changes in asyncua's server: its size, its limits, who may do what.

The library builds all 6174 nodes of OPC UA's own namespace (54 MB, 1.4 s). Here the nodes of
parts that this server does not implement are left out while the rest is built, and equal
attribute values are kept once: a third of the memory, half the time. Limits bound what clients can
make the server hold. Everybody is anonymous and may read.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from asyncua import ua
from asyncua.common.utils import ServiceError
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server.address_space import AddressSpace, AttributeValue, NodeManagementService
from asyncua.server.binary_server_asyncio import BinaryServer, OPCUAProtocol
from asyncua.server.internal_server import InternalServer
from asyncua.server.monitored_item_service import MonitoredItemService
from asyncua.server.subscription_service import SubscriptionService
from asyncua.server.user_managers import UserManager

# `ua.DataChangeFilter` is a subclass that the library's decoder does not make.
from asyncua.ua.uaprotocol_auto import DataChangeFilter

CONNECTIONS_MAX: Final = 50
SUBSCRIPTIONS_MAX: Final = 200
MONITORED_ITEMS_MAX: Final = 10_000  # of one subscription
ITEM_QUEUE_MAX: Final = 100
UNACKNOWLEDGED_MAX: Final = 100
MESSAGES_PENDING_MAX: Final = 200
LIFETIME_COUNT_MAX: Final = 1_200
KEEP_ALIVE_COUNT_MAX: Final = 400
MESSAGE_BYTES_MAX: Final = 16 * 1024 * 1024
BUFFER_BYTES_MAX: Final = 256 * 1024  # of one connection; a chunk of a message has 64 KiB
PUBLISHING_INTERVAL_MS_MIN: Final = 50.0
PUBLISHING_INTERVAL_MS_MAX: Final = 60_000.0
ACTIVATION_S_MAX: Final = 10.0

# Types of parts that this server has none of: PubSub (OPC 10000-14), certificate and key services
# (12), alias names (17), user management (18), files (20), base network (22), programs (10),
# logs (26), quantities and serialisation (5), geometry and media.
_FOREIGN_TYPES: Final = (
    *("PubSub", "PublishSubscribe", "Published", "Writer", "Reader", "DataSet", "Json", "Uadp"),
    *("Datagram", "Broker", "Dtls", "SecurityGroup", "SubscribedDataSet", "StandaloneSubscribed"),
    *("CertificateGroup", "ServerConfiguration", "TrustList", "KeyCredential"),
    *("AuthorizationService", "Provisionable", "ApplicationConfiguration", "Alias"),
    *("UserManagement", "Program", "Lldp", "Priority", "Qos", "Tsn", "NetworkAddress"),
    *("IIeee", "IIetf", "IBase", "IVlan", "ISrClass"),
    *("FileType", "FileDirectory", "FileTransfer", "TemporaryFile", "AddressSpaceFile"),
    *("ConfigurationFile", "UABinaryFile", "LogObject", "LogRecord", "BaseLog", "LogOverflow"),
    *("Quantity", "ServerUnit", "AlternativeUnit", "Serialization", "DictionaryFolder"),
    *("3D", "Frame", "Cartesian", "Vector", "Orientation", "Audio", "Image", "Ecc", "Https", "Tls"),
)
# Structures of the services' messages: no variable has them.
_MESSAGE_TYPES: Final = ("Request", "Response")
_FOREIGN_OBJECTS: Final = frozenset(
    (
        ua.ObjectIds.PublishSubscribe,
        ua.ObjectIds.ServerConfiguration,
        ua.ObjectIds.Server_ServerCapabilities_RoleSet,
        ua.ObjectIds.OpcUa_BinarySchema,
        ua.ObjectIds.OpcUa_XmlSchema,
    )
)
# Messages here are binary; these objects would promise other encodings.
_FOREIGN_ENCODINGS: Final = ("Default XML", "Default JSON")
_TYPE_CLASSES: Final = (ua.NodeClass.ObjectType, ua.NodeClass.VariableType, ua.NodeClass.DataType)

# Attributes of the standard's nodes that neither the library nor anybody else ever writes.
_FIXED: Final = frozenset(
    (
        *(ua.AttributeIds.NodeClass, ua.AttributeIds.BrowseName, ua.AttributeIds.DisplayName),
        *(ua.AttributeIds.Description, ua.AttributeIds.WriteMask, ua.AttributeIds.UserWriteMask),
        *(ua.AttributeIds.DataType, ua.AttributeIds.ValueRank, ua.AttributeIds.IsAbstract),
        *(ua.AttributeIds.Symmetric, ua.AttributeIds.InverseName),
    )
)

_PACKAGE: Final = "asyncua.server.standard_address_space"
_PART: Final = re.compile(r"standard_address_space_services_(\d+)\.py")


def quiet() -> None:
    """Keep what clients provoke out of our log; a level set by hand stays."""
    logger = logging.getLogger("asyncua")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.CRITICAL)


class _Builder:
    """Takes the generated code's nodes and references, and leaves out what we have none of."""

    def __init__(self, space: AddressSpace, service: NodeManagementService) -> None:
        self._space = space
        self._service = service
        self._left_out: set[Any] = set()
        self._nodes_later: list[ua.AddNodesItem] = []
        self._references_later: list[ua.AddReferencesItem] = []
        self._values: dict[Any, ua.DataValue] = {}
        self._fixed: dict[Any, AttributeValue] = {}

    def add_nodes(self, items: Iterable[ua.AddNodesItem]) -> None:
        """Called by the generated code."""
        wanted = [item for item in items if self._is_wanted(item)]
        self._nodes_later += self._service.try_add_nodes(wanted, check=False)
        self._share(wanted)

    def add_references(self, items: Iterable[ua.AddReferencesItem]) -> None:
        """Called by the generated code."""
        wanted = [item for item in items if not self._is_cut(item)]
        self._references_later += self._service.try_add_references(wanted)

    def finish(self) -> None:
        """Add what had to wait for its parent, type or target."""
        waiting = [item for item in self._nodes_later if self._is_wanted(item)]
        while waiting:
            left = list(self._service.try_add_nodes(waiting, check=False))
            self._share(waiting)
            if len(left) == len(waiting):
                break
            waiting = [item for item in left if self._is_wanted(item)]
        self._left_out.update(item.RequestedNewNodeId.Identifier for item in waiting)
        wanted = [item for item in self._references_later if not self._is_cut(item)]
        # Whatever fails now points to a node that was left out.
        list(self._service.try_add_references(wanted))

    def _is_wanted(self, item: ua.AddNodesItem) -> bool:
        number, name = item.RequestedNewNodeId.Identifier, item.BrowseName.Name
        foreign = (
            number in _FOREIGN_OBJECTS
            or name in _FOREIGN_ENCODINGS
            or item.ParentNodeId.Identifier in self._left_out
            or item.TypeDefinition.Identifier in self._left_out
            or (item.NodeClass in _TYPE_CLASSES and name.startswith(_FOREIGN_TYPES))
            or (item.NodeClass == ua.NodeClass.DataType and name.endswith(_MESSAGE_TYPES))
        )
        if foreign:
            self._left_out.add(number)
        return not foreign

    def _is_cut(self, item: ua.AddReferencesItem) -> bool:
        ends = (item.SourceNodeId.Identifier, item.TargetNodeId.Identifier)
        return not self._left_out.isdisjoint(ends)

    def _share(self, items: Iterable[ua.AddNodesItem]) -> None:
        """Keep equal attribute values once. A write replaces a value, it never changes one."""
        for item in items:
            node = self._space.get(item.RequestedNewNodeId)
            if node is None:
                continue
            for number, attribute in list(node.attributes.items()):
                value = attribute.value
                if value is None or value.Value is None:
                    continue
                content = value.Value.Value
                key = (value.Value.VariantType, type(content), _hashable(content))
                with contextlib.suppress(TypeError):  # lists and structures stay as they are
                    if number in _FIXED:
                        node.attributes[number] = self._fixed.setdefault(key, attribute)
                    else:
                        attribute.value = self._values.setdefault(key, value)


def _hashable(content: Any) -> Any:
    """Names and texts have no hash of their own."""
    if isinstance(content, ua.LocalizedText):
        return (content.Locale, content.Text)
    if isinstance(content, ua.QualifiedName):
        return (content.NamespaceIndex, content.Name)
    return content


def _parts() -> list[Path]:
    """The library's generated files, in order. Empty where its layout is another one."""
    spec = importlib.util.find_spec(_PACKAGE)
    places = spec.submodule_search_locations if spec is not None else None
    found = []
    for place in places or ():
        for path in Path(place).iterdir():
            match = _PART.fullmatch(path.name)
            if match:
                found.append((int(match[1]), path))
    return [path for _, path in sorted(found)]


def _run_part(path: Path, builder: _Builder) -> None:
    """Run one generated file outside `sys.modules`, so that its code is freed behind it."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    number = path.stem.rpartition("_")[2]
    getattr(module, f"create_standard_address_space_Services_{number}")(builder)
    # A module and its functions hold each other; cut, they are freed now and not some time later.
    module.__dict__.clear()


class _Anonymous(UserManager):
    """Nobody has a name here, so nobody may more than read."""

    def get_user(
        self,
        iserver: InternalServer,
        username: str | None = None,
        password: str | None = None,
        certificate: Any = None,
    ) -> User | None:
        """The one user there is."""
        return User(role=UserRole.User)


def _filter_fault(parameters: ua.MonitoringParameters) -> int:
    """Why a filter can't be served: a status code, 0 where it can."""
    wanted = parameters.Filter
    if wanted is None or (isinstance(wanted, ua.ExtensionObject) and wanted.TypeId.is_null()):
        return 0
    if not isinstance(wanted, DataChangeFilter):
        return ua.StatusCodes.BadFilterNotAllowed
    if wanted.DeadbandType == ua.DeadbandType.None_:
        return 0
    if wanted.DeadbandType != ua.DeadbandType.Absolute:
        return ua.StatusCodes.BadMonitoredItemFilterUnsupported
    return 0 if wanted.DeadbandValue >= 0 else ua.StatusCodes.BadDeadbandFilterInvalid


def is_reportable(old: ua.DataValue | None, new: ua.DataValue, wanted: Any) -> bool:
    """True where `new` differs enough from the value that the client has (OPC 10000-4 7.22.2).

    The library compares with the last value seen instead, so that a value which creeps by less
    than the deadband is never reported; and it fails where a bad value has no number.
    """
    if old is None or old.StatusCode != new.StatusCode:
        return True
    trigger, deadband = ua.DataChangeTrigger.StatusValue, 0.0
    if isinstance(wanted, DataChangeFilter):
        trigger = wanted.Trigger
        if wanted.DeadbandType == ua.DeadbandType.Absolute:
            deadband = wanted.DeadbandValue
    if trigger == ua.DataChangeTrigger.Status:
        return False
    timed = trigger == ua.DataChangeTrigger.StatusValueTimestamp
    if timed and old.SourceTimestamp != new.SourceTimestamp:
        return True
    if old.Value is None or new.Value is None:
        return old.Value != new.Value
    before, after = old.Value.Value, new.Value.Value
    if deadband > 0 and isinstance(before, int | float) and isinstance(after, int | float):
        if math.isnan(before) or math.isnan(after):
            return math.isnan(before) != math.isnan(after)
        return abs(after - before) > deadband
    return bool(before != after)


class _MonitoredItems(MonitoredItemService):
    """Monitored items of one subscription: bounded, and measured against what was reported."""

    async def datachange_callback(
        self, handle: int, value: ua.DataValue, error: ua.StatusCode | None = None
    ) -> None:
        """Queue a notification where the client's item asks for this change."""
        item = self._monitored_items.get(self._monitored_datachange.get(handle, 0))
        if item is None or item.monitored_item_id is None:
            return
        if item.mode == ua.MonitoringMode.Disabled:
            return
        if not is_reportable(item.mvalue.current_dvalue, value, item.filter):
            return
        item.mvalue.current_dvalue = value
        notification = ua.MonitoredItemNotification()
        notification.ClientHandle = item.client_handle
        notification.Value = value
        await self.isub.enqueue_datachange_event(
            item.monitored_item_id, notification, item.queue_size
        )

    async def _create_data_change_monitored_item(
        self, params: ua.MonitoredItemCreateRequest
    ) -> ua.MonitoredItemCreateResult:
        fault = _filter_fault(params.RequestedParameters)
        if len(self._monitored_items) >= MONITORED_ITEMS_MAX:
            fault = ua.StatusCodes.BadTooManyMonitoredItems
        if fault:
            return ua.MonitoredItemCreateResult(StatusCode=ua.StatusCode(ua.UInt32(fault)))
        return await super()._create_data_change_monitored_item(params)


class _Subscriptions(SubscriptionService):
    """Subscriptions whose publishing interval is bounded; the library takes any, down to 0."""

    async def create_subscription(
        self,
        params: ua.CreateSubscriptionParameters,
        callback: Callable[..., Any],
        session_id: ua.NodeId,
        request_callback: Callable[..., Any] | None = None,
    ) -> ua.CreateSubscriptionResult:
        """Create one; the interval in the answer is the one that holds."""
        wanted = params.RequestedPublishingInterval
        if not wanted >= PUBLISHING_INTERVAL_MS_MIN:  # true for NaN, too
            wanted = PUBLISHING_INTERVAL_MS_MIN
        params.RequestedPublishingInterval = min(wanted, PUBLISHING_INTERVAL_MS_MAX)
        result = await super().create_subscription(params, callback, session_id, request_callback)
        subscription = self.subscriptions[result.SubscriptionId]
        subscription.monitored_item_srv = _MonitoredItems(subscription, self.aspace)
        return result


class _Connection(OPCUAProtocol):
    """A connection that may not announce gigabytes and make us wait for them."""

    def data_received(self, data: bytes) -> None:
        """Take bytes; what is left over after all whole chunks must be small."""
        super().data_received(data)
        if len(self._buffer) > BUFFER_BYTES_MAX and self.transport is not None:
            self._buffer = b""
            self.transport.abort()


class Listener(BinaryServer):
    """The library's listener with bounded connections."""

    def _make_protocol(self) -> OPCUAProtocol:
        return _Connection(
            iserver=self.iserver,
            policies=self._policies,
            clients=self.clients,
            closing_tasks=self.closing_tasks,
            limits=self.limits,
        )


class LeanServer(InternalServer):
    """asyncua's internal server with Gatepost's size, limits and rights."""

    def __init__(self) -> None:
        super().__init__(user_manager=_Anonymous())
        self.allow_remote_admin = False
        self.supported_tokens = (ua.AnonymousIdentityToken,)  # type: ignore[assignment]
        self.max_connections = CONNECTIONS_MAX
        self.max_subscriptions = SUBSCRIPTIONS_MAX
        self.max_monitored_item_queue_size = ITEM_QUEUE_MAX
        self.max_unacked_messages_per_subscription = UNACKNOWLEDGED_MAX
        self.max_pending_messages_per_connection = MESSAGES_PENDING_MAX
        self.max_lifetime_count = LIFETIME_COUNT_MAX
        self.max_keep_alive_count = KEEP_ALIVE_COUNT_MAX
        self.max_pending_activation_seconds = ACTIVATION_S_MAX
        self.subscription_service = _Subscriptions(self.aspace, iserver=self)
        self.isession.subscription_service = self.subscription_service

    async def load_standard_address_space(self, shelf_file: Path | None = None) -> None:
        """Build OPC UA's own namespace, in a thread: half a second of computing."""
        parts = _parts()
        if not parts:
            await super().load_standard_address_space(shelf_file)
            return
        await asyncio.to_thread(self._load, parts)

    def _load(self, parts: list[Path]) -> None:
        builder = _Builder(self.aspace, self.node_mgt_service)
        for path in parts:
            _run_part(path, builder)
        builder.finish()

    def register_server(self, server: Any, conf: Any = None) -> None:
        """This is no discovery server: the library would keep every name that it is told."""
        raise ServiceError(ua.StatusCodes.BadServiceUnsupported)

    async def stop(self) -> None:
        """Stop at once; the library waits for the next full second of its clock."""
        if self.time_task is not None:
            self.time_task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self.time_task
            self.time_task = None
        await super().stop()
