"""A site's address space: ``Objects/<Site>/<Equipment>/<Channel>``, and values as it shows them.

NodeIds are strings in namespace 2 and depend on names only: ``ns=2;s=Equipment.Channel`` of a
point, ``ns=2;s=/`` of the site, ``ns=2;s=/Equipment`` of an equipment, and a point's own followed
by ``/EURange`` (or another property's name) of its properties. Source: OPC 10000-8 (DataAccess).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Final

from asyncua import ua
from asyncua.server.address_space import AddressSpace, AttributeValue, NodeData

from config import status as codes
from config.points import PointDef
from gateway.opcua.units import unit_of

NAMESPACE: Final = 2
# 1601-01-01 to 1970-01-01 in steps of 100 ns: what OPC UA counts from (OPC 10000-6, 5.2.2.5).
_EPOCH_TICKS: Final = 116_444_736_000_000_000
_INT64_MAX: Final = 2**63 - 1
_UINT32_MAX: Final = 2**32 - 1


def standard_id(number: int) -> ua.NodeId:
    """The NodeId of a node that the standard defines."""
    return ua.NodeId(ua.Int32(number))


def own_id(name: str) -> ua.NodeId:
    """The NodeId of a node of the site."""
    return ua.NodeId(ua.String(name), ua.Int16(NAMESPACE))


_ORGANIZES: Final = standard_id(ua.ObjectIds.Organizes)
_HAS_COMPONENT: Final = standard_id(ua.ObjectIds.HasComponent)
_HAS_PROPERTY: Final = standard_id(ua.ObjectIds.HasProperty)
_HAS_TYPE: Final = standard_id(ua.ObjectIds.HasTypeDefinition)
_IDS: Final = ua.AttributeIds


@lru_cache(maxsize=256)
def _code(status: int) -> ua.StatusCode:
    return ua.StatusCode(ua.UInt32(status))


def _time(utc_ns: int) -> Any:
    """The library's time; None where no time is known."""
    return ua.win_epoch_to_datetime(utc_ns // 100 + _EPOCH_TICKS) if utc_ns > 0 else None


def data_type(point: PointDef) -> ua.VariantType:
    """How a point's value travels.

    Analog points are Double. A device's point with two names is Boolean (two-state); any other
    with names is UInt32 (multi-state), and so is every rule, because a level more in its file must
    not turn a Boolean that SCADA knows into a number. Whole numbers without names are Int64.
    """
    if point.kind == "analog":
        return ua.VariantType.Double
    if point.source != "rule" and len(point.states) == 2:
        return ua.VariantType.Boolean
    if point.states or point.source == "rule":
        return ua.VariantType.UInt32
    return ua.VariantType.Int64


def _whole(value: float, kind: ua.VariantType) -> int | bool | None:
    """A discrete value in its type; None where the type can't hold it."""
    if not math.isfinite(value) or value != math.floor(value):
        return None
    number = int(value)
    if kind == ua.VariantType.Boolean:
        return bool(number) if number in (0, 1) else None
    if kind == ua.VariantType.UInt32:
        return number if 0 <= number <= _UINT32_MAX else None
    return number if -_INT64_MAX <= number <= _INT64_MAX else None


def data_value(
    kind: ua.VariantType, value: float, status: int, utc_ns: int, server_ns: int
) -> ua.DataValue:
    """A value with its status code, source time and server time.

    A bad status has no value (OPC 10000-4, 7.11). A value that the type can't hold is bad.
    """
    content: float | int | bool | None = None
    if not codes.is_bad(status):
        content = value if kind == ua.VariantType.Double else _whole(value, kind)
        if content is None:
            status = codes.BAD_OUT_OF_RANGE
    shown = ua.DataValue(
        None if content is None else ua.Variant(content, kind, is_array=False),
        StatusCode=_code(status),
        SourceTimestamp=_time(utc_ns),
        ServerTimestamp=_time(server_ns),
    )
    if content is None:
        # The constructor made a null variant; without it the field is not sent at all.
        shown.Value = None
    return shown


def deleted() -> ua.DataValue:
    """What a monitored item gets last when its point vanishes from the configuration."""
    gone = ua.DataValue(StatusCode=_code(ua.StatusCodes.BadNodeIdUnknown))
    gone.Value = None
    return gone


@lru_cache(maxsize=1024)
def _constant(content: Any, kind: ua.VariantType) -> AttributeValue:
    """An attribute that nobody writes; equal ones are one object, which saves 2 kB a point."""
    return AttributeValue(ua.DataValue(ua.Variant(content, kind)))


# Names and texts are given as strings: the library's own types have no hash.
@lru_cache(maxsize=1024)
def _text(text: str) -> AttributeValue:
    content = ua.LocalizedText(text)
    return AttributeValue(ua.DataValue(ua.Variant(content, ua.VariantType.LocalizedText)))


@lru_cache(maxsize=1024)
def _browse_name(name: str, namespace: int) -> AttributeValue:
    content = ua.QualifiedName(name, namespace)
    return AttributeValue(ua.DataValue(ua.Variant(content, ua.VariantType.QualifiedName)))


def _object_attributes() -> dict[ua.AttributeIds, AttributeValue]:
    return {_IDS.EventNotifier: _constant(0, ua.VariantType.Byte)}


def _variable_attributes(
    value: AttributeValue, type_id: int, rank: ua.ValueRank, description: str = ""
) -> dict[ua.AttributeIds, AttributeValue]:
    read_only = _constant(ua.AccessLevel.CurrentRead.mask, ua.VariantType.Byte)
    return {
        _IDS.Description: _text(description),
        _IDS.Value: value,
        _IDS.DataType: _constant(standard_id(type_id), ua.VariantType.NodeId),
        _IDS.ValueRank: _constant(rank, ua.VariantType.Int32),
        _IDS.AccessLevel: read_only,
        _IDS.UserAccessLevel: read_only,
        _IDS.MinimumSamplingInterval: _constant(0.0, ua.VariantType.Double),
        _IDS.Historizing: _constant(False, ua.VariantType.Boolean),
    }


def _has_range(point: PointDef) -> bool:
    low, high = point.value_min, point.value_max
    return math.isfinite(low) and math.isfinite(high) and low < high


def _type_definition(point: PointDef) -> int:
    kind = data_type(point)
    if kind == ua.VariantType.Boolean:
        return ua.ObjectIds.TwoStateDiscreteType
    if kind == ua.VariantType.UInt32:
        return ua.ObjectIds.MultiStateDiscreteType
    if kind == ua.VariantType.Int64:
        return ua.ObjectIds.BaseDataVariableType
    has_units = unit_of(point.units) is not None
    if _has_range(point):
        return ua.ObjectIds.AnalogUnitRangeType if has_units else ua.ObjectIds.AnalogItemType
    return ua.ObjectIds.AnalogUnitType if has_units else ua.ObjectIds.BaseAnalogType


def _names(point: PointDef) -> list[str]:
    """Names of the states; a rule's 0 has none of its own."""
    names = list(point.states) or ["inactive", "active"]
    return [
        name or ("inactive" if number == 0 else str(number)) for number, name in enumerate(names)
    ]


def _properties(point: PointDef) -> Iterator[tuple[str, ua.Variant, int]]:
    """Name, value and data type of a point's properties."""
    kind = data_type(point)
    text = ua.ObjectIds.LocalizedText
    if kind == ua.VariantType.Boolean:
        for which, state in zip(("FalseState", "TrueState"), _names(point), strict=True):
            yield which, ua.Variant(ua.LocalizedText(state)), text
    elif kind == ua.VariantType.UInt32:
        yield "EnumStrings", ua.Variant([ua.LocalizedText(n) for n in _names(point)]), text
    elif kind == ua.VariantType.Double:
        unit = unit_of(point.units)
        if unit is not None:
            symbol, name = ua.LocalizedText(unit.symbol), ua.LocalizedText(unit.name)
            shown = ua.EUInformation(unit.namespace, unit.number, symbol, name)
            yield "EngineeringUnits", ua.Variant(shown), ua.ObjectIds.EUInformation
        if _has_range(point):
            span = ua.Range(Low=float(point.value_min), High=float(point.value_max))
            yield "EURange", ua.Variant(span), ua.ObjectIds.Range


class SiteSpace:
    """The nodes of one site in a server's address space.

    They are put there directly: the library's service looks through all children of a parent for
    each new one, which takes half a minute for 10,000 points.
    """

    def __init__(self, space: AddressSpace, site: str) -> None:
        self._space = space
        self._site = site
        self._own: list[ua.NodeId] = []

    def build(self, points: Sequence[PointDef]) -> list[AttributeValue]:
        """Add all nodes; returns the value attribute of each point, in their order.

        Raises ValueError where two nodes would have one NodeId.
        """
        site, objects = own_id("/"), standard_id(ua.ObjectIds.ObjectsFolder)
        folder, plain = ua.ObjectIds.FolderType, ua.ObjectIds.BaseObjectType
        self._add(site, self._site, _object_attributes(), objects, _ORGANIZES, folder)
        for name in dict.fromkeys(point.equipment for point in points):
            node = own_id(f"/{name}")
            self._add(node, name, _object_attributes(), site, _HAS_COMPONENT, plain)
        return [self._add_point(point) for point in points]

    def clear(self) -> None:
        """Remove all nodes of the site."""
        own = set(self._own)
        for node in self._own:
            del self._space[node]
        parent = self._space[standard_id(ua.ObjectIds.ObjectsFolder)]
        parent.references = [r for r in parent.references if r.NodeId not in own]
        self._own = []

    def _add_point(self, point: PointDef) -> AttributeValue:
        node, parent = own_id(point.tag), own_id(f"/{point.equipment}")
        value = AttributeValue(ua.DataValue())
        # MultiStateDiscreteType asks for UInteger; UInt32 is one of its subtypes.
        attributes = _variable_attributes(
            value, data_type(point).value, ua.ValueRank.Scalar, point.description
        )
        definition = _type_definition(point)
        self._add(node, point.channel, attributes, parent, _HAS_COMPONENT, definition)
        for name, content, type_id in _properties(point):
            rank = ua.ValueRank.OneDimension if content.is_array else ua.ValueRank.Scalar
            attributes = _variable_attributes(AttributeValue(ua.DataValue(content)), type_id, rank)
            kind = ua.ObjectIds.PropertyType
            self._add(own_id(f"{point.tag}/{name}"), name, attributes, node, _HAS_PROPERTY, kind)
        return value

    def _add(
        self,
        node: ua.NodeId,
        name: str,
        attributes: dict[ua.AttributeIds, AttributeValue],
        parent: ua.NodeId,
        reference: ua.NodeId,
        type_id: int,
    ) -> None:
        if node in self._space:
            raise ValueError(f"two nodes would be called {node.to_string()}")
        is_variable = _IDS.Value in attributes
        node_class = ua.NodeClass.Variable if is_variable else ua.NodeClass.Object
        # Names of properties are the standard's (namespace 0), all others are the site's.
        namespace = 0 if reference is _HAS_PROPERTY else NAMESPACE
        made = NodeData(node)
        made.attributes = {
            _IDS.NodeId: AttributeValue(ua.DataValue(ua.Variant(node, ua.VariantType.NodeId))),
            _IDS.NodeClass: _constant(node_class, ua.VariantType.Int32),
            _IDS.BrowseName: _browse_name(name, namespace),
            _IDS.DisplayName: _text(name),
            _IDS.WriteMask: _constant(0, ua.VariantType.UInt32),
            _IDS.UserWriteMask: _constant(0, ua.VariantType.UInt32),
            **attributes,
        }
        made.references = [
            self._reference(parent, reference, is_forward=False),
            self._reference(standard_id(type_id), _HAS_TYPE, is_forward=True),
        ]
        self._space[node] = made
        self._own.append(node)
        child = self._reference(node, reference, is_forward=True)
        child.TypeDefinition = standard_id(type_id)
        self._space[parent].references.append(child)

    def _reference(
        self, target: ua.NodeId, kind: ua.NodeId, *, is_forward: bool
    ) -> ua.ReferenceDescription:
        """How a node refers to `target`, which is there already."""
        attributes = self._space[target].attributes

        def content(attribute: ua.AttributeIds) -> Any:
            value = attributes[attribute].value
            assert value is not None
            assert value.Value is not None
            return value.Value.Value

        return ua.ReferenceDescription(
            ReferenceTypeId=kind,
            IsForward=is_forward,
            NodeId=target,
            BrowseName=content(_IDS.BrowseName),
            DisplayName=content(_IDS.DisplayName),
            NodeClass=content(_IDS.NodeClass),
        )
