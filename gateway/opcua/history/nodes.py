"""What the address space says of history: capabilities, aggregates, how points are treated.

OPC 10000-11, 5.2 and 5.4; OPC 10000-13, 4.2 and 4.4. All points share two configurations, one for
values that hold until the next and one for those that lie on lines: 10,000 points with fifteen
nodes each would take 100 MB.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from asyncua import ua
from asyncua.server.address_space import AddressSpace

from config.points import PointDef
from gateway.opcua.history.aggregates import AGGREGATES
from gateway.opcua.history.series import Configuration
from gateway.opcua.history.service import EVENTS_MAX, VALUES_MAX, stepped
from gateway.opcua.model import SiteModel
from gateway.opcua.names import own_id, standard_id
from gateway.opcua.nodes.builder import ORGANIZES, Nodes, Reference, child_id, value_of
from gateway.opcua.nodes.diagnostics import remove

_IDS: Final = ua.ObjectIds
_CAPABILITIES: Final = standard_id(_IDS.HistoryServerCapabilities)
_FOLDERS: Final = (
    standard_id(_IDS.HistoryServerCapabilities_AggregateFunctions),
    standard_id(_IDS.Server_ServerCapabilities_AggregateFunctions),
)
_BOOLEAN: Final = standard_id(_IDS.Boolean)
_BYTE: Final = standard_id(_IDS.Byte)
# Points have configurations of their own, and events have none.
_UNUSED: Final = (_IDS.HAConfiguration, _IDS.DefaultHAConfiguration, _IDS.DefaultHEConfiguration)
_CHANGES: Final = (
    *("InsertData", "ReplaceData", "UpdateData", "DeleteRaw", "DeleteAtTime"),
    *("InsertEvent", "ReplaceEvent", "UpdateEvent", "DeleteEvent", "InsertAnnotation"),
)
CONFIGURATIONS: Final = {is_stepped: own_id(f"//History/{is_stepped:d}") for is_stepped in (0, 1)}


def _flag(*, value: bool) -> ua.Variant:
    return ua.Variant(value, ua.VariantType.Boolean)


def dress(space: AddressSpace, *, active: bool) -> None:
    """Give HistoryServerCapabilities its values; before the site is built.

    active  there is an archive; without it no capability is told, and no aggregate
    """
    remove(space, [standard_id(number) for number in _UNUSED])
    shown = {
        "AccessHistoryDataCapability": _flag(value=active),
        "AccessHistoryEventsCapability": _flag(value=active),
        "ServerTimestampSupported": _flag(value=False),
        "MaxReturnDataValues": ua.Variant(VALUES_MAX, ua.VariantType.UInt32),
        "MaxReturnEventValues": ua.Variant(EVENTS_MAX, ua.VariantType.UInt32),
        **{f"{name}Capability": _flag(value=False) for name in _CHANGES},
    }
    for name, variant in shown.items():
        node = space.get(standard_id(getattr(_IDS, f"HistoryServerCapabilities_{name}")))
        if node is not None:
            node.attributes[ua.AttributeIds.Value] = value_of(variant)
    for folder in _FOLDERS:
        for number in AGGREGATES if active else ():
            function = standard_id(number)
            if function in space and folder in space:
                _refer(space, folder, function, forward=True)
                _refer(space, function, folder, forward=False)


def _refer(space: AddressSpace, node: ua.NodeId, other: ua.NodeId, *, forward: bool) -> None:
    made = Reference(ORGANIZES, other, is_forward=forward)
    space[node].references.append(made)  # type: ignore[arg-type]


def build(nodes: Nodes, model: SiteModel, points: Sequence[PointDef]) -> None:
    """The two configurations, and which of them each point has."""
    for is_stepped, node in CONFIGURATIONS.items():
        _configuration(nodes, node, Configuration(stepped=bool(is_stepped)))
    reference = standard_id(_IDS.HasHistoricalConfiguration)
    for point in points:
        nodes.attach(own_id(point.tag), reference, CONFIGURATIONS[int(stepped(point))])


def _configuration(nodes: Nodes, node: ua.NodeId, how: Configuration) -> None:
    kind = standard_id(_IDS.HistoricalDataConfigurationType)
    nodes.object(node, "HA Configuration", _CAPABILITIES, kind, namespace=0)
    nodes.property(node, "Stepped", _flag(value=how.stepped), _BOOLEAN)
    nodes.property(node, "ServerTimestampSupported", _flag(value=False), _BOOLEAN)
    aggregates = child_id(node, "AggregateConfiguration")
    kind = standard_id(_IDS.AggregateConfigurationType)
    nodes.object(aggregates, "AggregateConfiguration", node, kind, namespace=0)
    for name, percent in (
        ("PercentDataBad", how.percent_bad),
        ("PercentDataGood", how.percent_good),
    ):
        shown = ua.Variant(int(percent), ua.VariantType.Byte)
        nodes.property(aggregates, name, shown, _BYTE)
    for name, value in (
        ("TreatUncertainAsBad", how.treat_uncertain_as_bad),
        ("UseSlopedExtrapolation", how.sloped_extrapolation),
    ):
        nodes.property(aggregates, name, _flag(value=value), _BOOLEAN)
