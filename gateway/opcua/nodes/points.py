"""Points as variables of OPC 10000-8 (Data Access), with what is known of them as properties.

Whatever is not declared is left out: a range that was made up misleads whoever scales by it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Final

from asyncua import ua
from asyncua.server.address_space import AttributeValue

from config.points import PointDef
from gateway.opcua.model import EquipmentModel, SiteModel
from gateway.opcua.names import own_id, standard_id
from gateway.opcua.nodes.builder import (
    HISTORY_READ,
    READ,
    SEMANTIC_CHANGE,
    WRITE,
    Nodes,
    value_of,
)
from gateway.opcua.units import unit_of
from gateway.opcua.values import data_type

_TEXT: Final = standard_id(ua.ObjectIds.LocalizedText)
_STRING: Final = standard_id(ua.ObjectIds.String)
_DOUBLE: Final = standard_id(ua.ObjectIds.Double)
_RANGE: Final = standard_id(ua.ObjectIds.Range)
_UNIT: Final = standard_id(ua.ObjectIds.EUInformation)
_MEANING: Final = READ | SEMANTIC_CHANGE  # of properties that say what a value means

Property = tuple[str, AttributeValue, ua.NodeId, int]


def has_range(point: PointDef) -> bool:
    """True where the point's engineering range is declared whole."""
    low, high = point.value_min, point.value_max
    return math.isfinite(low) and math.isfinite(high) and low < high


def type_definition(point: PointDef) -> int:
    """Number of the variable type."""
    kind = data_type(point)
    if kind == ua.VariantType.Boolean:
        return ua.ObjectIds.TwoStateDiscreteType
    if kind == ua.VariantType.UInt32:
        return ua.ObjectIds.MultiStateDiscreteType
    if kind == ua.VariantType.Int64:
        return ua.ObjectIds.BaseDataVariableType
    has_units = unit_of(point.units) is not None
    if has_range(point):
        return ua.ObjectIds.AnalogUnitRangeType if has_units else ua.ObjectIds.AnalogItemType
    return ua.ObjectIds.AnalogUnitType if has_units else ua.ObjectIds.BaseAnalogType


def access_level(point: PointDef, *, history: bool) -> int:
    """What anybody at all may do with the value; rights of users come on top."""
    level = READ
    if point.writable:
        level |= WRITE
    return level | HISTORY_READ if history else level


def state_names(point: PointDef) -> tuple[str, ...]:
    """Names of a discrete point's states; a rule's 0 has none of its own."""
    names = list(point.states) or ["inactive", "active"]
    return tuple(
        name or ("inactive" if number == 0 else str(number)) for number, name in enumerate(names)
    )


# Many points share their unit, range or names: each is one object then. Nobody writes them.


@lru_cache(maxsize=512)
def _unit(text: str) -> AttributeValue | None:
    unit = unit_of(text)
    if unit is None:
        return None
    symbol, name = ua.LocalizedText(unit.symbol), ua.LocalizedText(unit.name)
    return value_of(ua.Variant(ua.EUInformation(unit.namespace, unit.number, symbol, name)))


@lru_cache(maxsize=4096)
def _range(low: float, high: float) -> AttributeValue:
    return value_of(ua.Variant(ua.Range(Low=low, High=high)))


@lru_cache(maxsize=512)
def _texts(names: tuple[str, ...]) -> AttributeValue:
    return value_of(ua.Variant([ua.LocalizedText(name) for name in names]))


@lru_cache(maxsize=512)
def _text(name: str) -> AttributeValue:
    return value_of(ua.Variant(ua.LocalizedText(name)))


@lru_cache(maxsize=16)
def _precision(digits: int) -> AttributeValue:
    return value_of(ua.Variant(float(digits), ua.VariantType.Double))


def _properties(point: PointDef, equipment: EquipmentModel | None) -> Iterator[Property]:
    """Name, value, data type and access of a point's properties."""
    kind = data_type(point)
    if kind == ua.VariantType.Boolean:
        for which, state in zip(("FalseState", "TrueState"), state_names(point), strict=True):
            yield which, _text(state), _TEXT, _MEANING
    elif kind == ua.VariantType.UInt32:
        yield "EnumStrings", _texts(state_names(point)), _TEXT, _MEANING
    elif kind == ua.VariantType.Double:
        unit = _unit(point.units)
        if unit is not None:
            yield "EngineeringUnits", unit, _UNIT, _MEANING
        if has_range(point):
            span = _range(float(point.value_min), float(point.value_max))
            yield "EURange", span, _RANGE, _MEANING
    if equipment is None:
        return
    digits = equipment.decimals.get(point.channel)
    if digits is not None and kind == ua.VariantType.Double:
        yield "ValuePrecision", _precision(digits), _DOUBLE, READ
    expression = equipment.definitions.get(point.channel)
    if expression is not None and kind != ua.VariantType.Int64:  # BaseDataVariableType has none
        yield "Definition", value_of(ua.Variant(expression)), _STRING, READ


def add_point(nodes: Nodes, point: PointDef, model: SiteModel, *, history: bool) -> None:
    """A point's variable below its equipment, with its properties.

    history  its values are kept for HistoryRead
    """
    node, parent = own_id(point.tag), own_id(f"/{point.equipment}")
    nodes.point(
        node,
        point.channel,
        parent,
        # MultiStateDiscreteType asks for UInteger; UInt32 is one of its subtypes.
        data_type=standard_id(data_type(point).value),
        type_id=standard_id(type_definition(point)),
        access=access_level(point, history=history),
        historizing=history,
        description=point.description,
    )
    for name, value, kind, access in _properties(point, model.equipment.get(point.equipment)):
        nodes.property(node, name, value, kind, access=access)
