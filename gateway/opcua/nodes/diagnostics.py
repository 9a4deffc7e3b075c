"""What the server tells of itself: state, limits, counts, namespaces (OPC 10000-5).

The standard's own nodes are there already; here they get values that are true of this server, and
those that nothing stands behind are taken away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from importlib import metadata
from typing import Any, Final

from asyncua import ua
from asyncua.server.address_space import AddressSpace

from gateway.core.clock import Clock
from gateway.opcua.names import DI_URI, di_id, own_id, standard_id
from gateway.opcua.nodes import di
from gateway.opcua.nodes.builder import Nodes, Shown, value_of
from gateway.opcua.nodes.devices import away
from gateway.opcua.nodes.shown import bad_value, time_of
from gateway.opcua.values import Values

UA_URI: Final = "http://opcfoundation.org/UA/"
SERVICE_LEVEL_WELL: Final = 255  # OPC 10000-4, 6.6.2.4.2
SERVICE_LEVEL_NO_DATA: Final = 1  # the field process is away: nothing here is good
PROFILES: Final = (
    "http://opcfoundation.org/UA-Profile/Transport/uatcp-uasc-uabinary",
    "http://opcfoundation.org/UA-Profile/Server/EmbeddedUA2017",
    "http://opcfoundation.org/UA-Profile/Server/DataAccess",
    "http://opcfoundation.org/UA-Profile/Server/Methods",
)
_NAMESPACES: Final = standard_id(ua.ObjectIds.Server_Namespaces)
# No variable of this server counts per session or subscription.
_NOT_COUNTED: Final = (2290, 3707, 3708)
# Methods, folders and properties of the server object that nothing stands behind; with all below.
_UNUSED: Final = (
    ua.ObjectIds.Server_SetSubscriptionDurable,
    ua.ObjectIds.Server_RequestServerStateChange,
    ua.ObjectIds.Server_EstimatedReturnTime,
    ua.ObjectIds.Server_LocalTime,
    ua.ObjectIds.Server_UrisVersion,
    ua.ObjectIds.Server_ServerDiagnostics_SamplingIntervalDiagnosticsArray,
    ua.ObjectIds.Server_ServerCapabilities_ConformanceUnits,
    ua.ObjectIds.Quantities,
    ua.ObjectIds.Resources,
    ua.ObjectIds.Locations,
    ua.ObjectIds.Server_ServerRedundancy_RedundantServerArray,
)
_WALKED: Final = (
    standard_id(ua.ObjectIds.HasComponent),
    standard_id(ua.ObjectIds.HasProperty),
    standard_id(ua.ObjectIds.Organizes),
)
_TOKENS: Final = ua.VariantType


@dataclass(frozen=True, slots=True)
class Limits:
    """What clients may ask for; 0 = the service has no limit of its own, or is not there."""

    MaxSessions: int = 0
    MaxSubscriptions: int = 0
    MaxMonitoredItems: int = 0
    MaxSubscriptionsPerSession: int = 0
    MaxMonitoredItemsPerSubscription: int = 0
    MaxMonitoredItemsQueueSize: int = 0
    MaxSelectClauseParameters: int = 0
    MaxWhereClauseParameters: int = 0
    MaxNodesPerRead: int = 0
    MaxNodesPerWrite: int = 0
    MaxNodesPerMethodCall: int = 0
    MaxNodesPerBrowse: int = 0
    MaxNodesPerRegisterNodes: int = 0
    MaxNodesPerTranslateBrowsePathsToNodeIds: int = 0
    MaxNodesPerHistoryReadData: int = 0
    MaxNodesPerHistoryReadEvents: int = 0
    MaxMonitoredItemsPerCall: int = 0
    MaxBrowseContinuationPoints: int = 0  # of one session
    MaxHistoryContinuationPoints: int = 0
    MaxArrayLength: int = 0
    MaxStringLength: int = 0
    MaxByteStringLength: int = 0
    sampling_ms_min: float = 0.0


# Numbers of the nodes that show them (OPCFoundation/UA-Nodeset, Schema/NodeIds.csv).
_LIMIT_NODES: Final = {
    "MaxSessions": 24095,
    "MaxSubscriptions": 24096,
    "MaxMonitoredItems": 24097,
    "MaxSubscriptionsPerSession": 24098,
    "MaxMonitoredItemsPerSubscription": 24104,
    "MaxMonitoredItemsQueueSize": 31916,
    "MaxSelectClauseParameters": 24099,
    "MaxWhereClauseParameters": 24100,
    "MaxNodesPerRead": 11705,
    "MaxNodesPerWrite": 11707,
    "MaxNodesPerMethodCall": 11709,
    "MaxNodesPerBrowse": 11710,
    "MaxNodesPerRegisterNodes": 11711,
    "MaxNodesPerTranslateBrowsePathsToNodeIds": 11712,
    "MaxNodesPerHistoryReadData": 12165,
    "MaxNodesPerHistoryReadEvents": 12166,
    "MaxMonitoredItemsPerCall": 11714,
    "MaxBrowseContinuationPoints": 2735,
    "MaxHistoryContinuationPoints": 2737,
    "MaxArrayLength": 11702,
    "MaxStringLength": 11703,
    "MaxByteStringLength": 12911,
}
_SHORT_LIMITS: Final = ("MaxBrowseContinuationPoints", "MaxHistoryContinuationPoints")


@dataclass(slots=True)
class Counts:
    """Counts of ServerDiagnosticsSummaryDataType (OPC 10000-5, 12.9), since the start."""

    CurrentSessionCount: int = 0
    CumulatedSessionCount: int = 0
    SecurityRejectedSessionCount: int = 0
    RejectedSessionCount: int = 0
    SessionTimeoutCount: int = 0
    SessionAbortCount: int = 0
    CurrentSubscriptionCount: int = 0
    CumulatedSubscriptionCount: int = 0
    PublishingIntervalCount: int = 0
    SecurityRejectedRequestsCount: int = 0
    RejectedRequestsCount: int = 0


_COUNT_NODES: Final = {
    "CurrentSessionCount": 2277,
    "CumulatedSessionCount": 2278,
    "SecurityRejectedSessionCount": 2279,
    "RejectedSessionCount": 3705,
    "SessionTimeoutCount": 2281,
    "SessionAbortCount": 2282,
    "CurrentSubscriptionCount": 2285,
    "CumulatedSubscriptionCount": 2286,
    "PublishingIntervalCount": 2284,
    "SecurityRejectedRequestsCount": 2287,
    "RejectedRequestsCount": 2288,
}


@dataclass(slots=True)
class Diagnostics:
    """The server's own values.

    uri      of the application: namespace 1
    site     URI of the site's namespace: 2
    limits   true once the parts of the server are put together
    counts   asked at each read
    ends_ns  at a stop: when connections are closed (monotonic); None while the server goes on
    """

    clock: Clock
    values: Values
    uri: str
    site: str
    limits: Limits = field(default_factory=Limits)
    counts: Callable[[], Counts] = Counts
    history: bool = False
    ends_ns: int | None = None
    _start_ns: int = 0
    _build: Any = None

    def dress(self, space: AddressSpace) -> None:
        """Give the standard's nodes their values; before the site is built."""
        self._start_ns = self.clock.utc_ns()
        remove(space, [standard_id(number) for number in _UNUSED])
        self._show_status(space)
        self._show_counts(space)
        self._show_limits(space)
        text, number = ua.VariantType.String, ua.VariantType.Byte
        uris = [UA_URI, self.uri, self.site, DI_URI]
        _show(space, 2255, ua.Variant(uris, text))
        _show(space, 2254, ua.Variant([self.uri], text))
        _show(space, 2267, lambda: ua.DataValue(ua.Variant(self.service_level, number)))
        _show(space, 2994, ua.Variant(True, ua.VariantType.Boolean))  # Auditing
        _show(space, 2269, ua.Variant(list(PROFILES), text))
        _show(space, 2271, ua.Variant(["en"], text))
        shown = ua.Variant(ua.RedundancySupport.None_.value, ua.VariantType.Int32)
        _show(space, 3709, shown)
        server = space[standard_id(ua.ObjectIds.Server)]
        notifier = ua.EventNotifier.SubscribeToEvents.mask
        if self.history:
            notifier |= ua.EventNotifier.HistoryRead.mask
        shown = ua.Variant(notifier, ua.VariantType.Byte)
        server.attributes[ua.AttributeIds.EventNotifier] = value_of(shown)
        _show(space, 15961, ua.Variant(True, ua.VariantType.Boolean))  # the namespace is trimmed

    @property
    def service_level(self) -> int:
        """How much a client can rely on this server, 0 to 255."""
        return SERVICE_LEVEL_NO_DATA if away(self.values) else SERVICE_LEVEL_WELL

    def build(self, nodes: Nodes) -> None:
        """Metadata of the namespaces that are not OPC UA's own; with the site's nodes."""
        about = self.clock.utc_ns()
        for number, uri in ((1, self.uri), (2, self.site)):
            node = own_id(f"//Namespaces/{number}")
            _metadata(nodes, node, uri, (_version(), time_of(about)), own=True)
        _metadata(nodes, di_id(15001), DI_URI, (di.VERSION, time_of(di.PUBLISHED_NS)), own=False)

    # ------------------------------------------------------------ ServerStatus

    def _show_status(self, space: AddressSpace) -> None:
        """State, times and build, as one structure and one by one."""
        version = _version()
        name, maker, product = "Gatepost", "Gatepost", "urn:gatepost"
        never = time_of(1)
        self._build = ua.BuildInfo(
            ProductUri=product,
            ManufacturerName=maker,
            ProductName=name,
            SoftwareVersion=version,
            BuildNumber=version,
            BuildDate=never,
        )
        text = ua.VariantType.String
        time = ua.VariantType.DateTime
        _show(space, 2260, ua.Variant(self._build, ua.VariantType.ExtensionObject))
        parts = ((2262, product), (2263, maker), (2261, name), (2264, version), (2265, version))
        for number, shown in parts:
            _show(space, number, ua.Variant(shown, text))
        _show(space, 2266, ua.Variant(never, time))
        _show(space, 2257, ua.Variant(time_of(self._start_ns), time))
        _show(space, 2258, lambda: ua.DataValue(ua.Variant(self._now(), time)))
        uint, number = ua.VariantType.UInt32, ua.VariantType.Int32
        _show(space, 2259, lambda: ua.DataValue(ua.Variant(self._state[0].value, number)))
        _show(space, 2992, lambda: ua.DataValue(ua.Variant(self._state[1], uint)))
        _show(space, 2993, lambda: ua.DataValue(ua.Variant(self._state[2])))
        _show(space, 2256, self._status)

    def _now(self) -> Any:
        return time_of(self.clock.utc_ns())

    @property
    def _state(self) -> tuple[Any, int, ua.LocalizedText]:
        """State, SecondsTillShutdown, ShutdownReason."""
        if self.ends_ns is None:
            return ua.ServerState.Running, 0, ua.LocalizedText("")
        left_ns = max(self.ends_ns - self.clock.monotonic_ns(), 0)
        return ua.ServerState.Shutdown, -(-left_ns // 10**9), ua.LocalizedText("the gateway stops")

    def _status(self) -> ua.DataValue:
        state, seconds, reason = self._state
        status = ua.ServerStatusDataType(
            StartTime=time_of(self._start_ns),
            CurrentTime=self._now(),
            State=state,
            BuildInfo=self._build,
            SecondsTillShutdown=ua.UInt32(seconds),
            ShutdownReason=reason,
        )
        return ua.DataValue(ua.Variant(status, ua.VariantType.ExtensionObject))

    # ------------------------------------------------------------ counts and limits

    def _show_counts(self, space: AddressSpace) -> None:
        uint = ua.VariantType.UInt32
        for name, number in _COUNT_NODES.items():
            _show(space, number, partial(self._count, name))
        _show(space, 2276, ua.Variant(0, uint))  # ServerViewCount
        _show(space, 2275, self._summary)
        _show(space, 2294, ua.Variant(True, ua.VariantType.Boolean))
        for number in _NOT_COUNTED:
            _show(space, number, lambda: bad_value(ua.StatusCodes.BadNotReadable))

    def _count(self, name: str) -> ua.DataValue:
        return ua.DataValue(ua.Variant(getattr(self.counts(), name), ua.VariantType.UInt32))

    def _limit(self, name: str, kind: ua.VariantType) -> ua.DataValue:
        return ua.DataValue(ua.Variant(getattr(self.limits, name), kind))

    def _summary(self) -> ua.DataValue:
        counts = self.counts()
        summary = ua.ServerDiagnosticsSummaryDataType(ServerViewCount=ua.UInt32(0))
        for one in fields(counts):
            setattr(summary, one.name, getattr(counts, one.name))
        return ua.DataValue(ua.Variant(summary, ua.VariantType.ExtensionObject))

    def _show_limits(self, space: AddressSpace) -> None:
        for name, number in _LIMIT_NODES.items():
            short = name in _SHORT_LIMITS
            kind = ua.VariantType.UInt16 if short else ua.VariantType.UInt32
            _show(space, number, partial(self._limit, name, kind))
        uint, double = ua.VariantType.UInt32, ua.VariantType.Double
        for absent in (12167, 12168, 11713):  # updates of history, management of nodes
            _show(space, absent, ua.Variant(0, uint))
        _show(space, 2736, ua.Variant(0, ua.VariantType.UInt16))  # queries
        _show(space, 2272, lambda: ua.DataValue(ua.Variant(self.limits.sampling_ms_min, double)))


def _version() -> str:
    return metadata.version("gatepost")


def _show(space: AddressSpace, number: int, shown: Shown) -> None:
    """Give a node of the standard a value; where the namespace was trimmed of it, do nothing."""
    node = space.get(standard_id(number))
    if node is not None:
        node.attributes[ua.AttributeIds.Value] = value_of(shown)


def remove(space: AddressSpace, nodes: Iterable[ua.NodeId]) -> None:
    """Take nodes away with all below them, and what refers to them."""
    gone = {node for node in nodes if node in space}
    waiting = list(gone)
    while waiting:
        for one in space[waiting.pop()].references:
            below = one.IsForward and one.ReferenceTypeId in _WALKED
            if below and one.NodeId not in gone and one.NodeId in space:
                gone.add(one.NodeId)
                waiting.append(one.NodeId)
    for node in gone:
        del space[node]
    for data in space._nodes.values():
        if any(r.NodeId in gone for r in data.references):
            data.references = [r for r in data.references if r.NodeId not in gone]


def _metadata(
    nodes: Nodes, node: ua.NodeId, uri: str, version: Sequence[Any], *, own: bool
) -> None:
    """An object of NamespaceMetadataType; `version` is its text and when it was published.

    own  its NodeIds are strings that last; else the standard's numbers, of which some are shown
    """
    kind = standard_id(ua.ObjectIds.NamespaceMetadataType)
    nodes.object(node, uri, _NAMESPACES, kind, namespace=node.NamespaceIndex)
    id_type, numbers = ua.ObjectIds.IdType, ua.ObjectIds.NumericRange
    static = [ua.IdType.String if own else ua.IdType.Numeric]
    shown: tuple[tuple[str, ua.Variant, int], ...] = (
        ("NamespaceUri", ua.Variant(uri, _TOKENS.String), ua.ObjectIds.String),
        ("NamespaceVersion", ua.Variant(version[0], _TOKENS.String), ua.ObjectIds.String),
        (
            "NamespacePublicationDate",
            ua.Variant(version[1], _TOKENS.DateTime),
            ua.ObjectIds.DateTime,
        ),
        ("IsNamespaceSubset", ua.Variant(not own, _TOKENS.Boolean), ua.ObjectIds.Boolean),
        (
            "StaticNodeIdTypes",
            ua.Variant([one.value for one in static], _TOKENS.Int32, is_array=True),
            id_type,
        ),
        (
            "StaticNumericNodeIdRange",
            ua.Variant([], _TOKENS.String, is_array=True),
            numbers,
        ),
        ("StaticStringNodeIdPattern", ua.Variant("", _TOKENS.String), ua.ObjectIds.String),
    )
    for position, (name, value, data_type) in enumerate(shown):
        place = None if own else di_id(15002 + position)
        nodes.property(node, name, value, standard_id(data_type), node=place)
