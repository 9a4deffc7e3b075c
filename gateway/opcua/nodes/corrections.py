"""Attributes of the standard's types that the library's generated code has wrong.

Where OPC 10000-5 leaves `IsAbstract` or `Symmetric` out, which means false, asyncua 2.1.0 sets
true: clients then refuse to take a point for an instance of AnalogUnitType. Which types are
abstract or symmetric: OPCFoundation/UA-Nodeset, Schema/Opc.Ua.NodeSet2.xml of 1.05.
"""

from __future__ import annotations

from typing import Any, Final

from asyncua import ua
from asyncua.server.address_space import AddressSpace, AttributeValue

_IDS: Final = ua.AttributeIds
_CLASS: Final = ua.NodeClass
# BaseVariableType, ServerVendorCapabilityType, DiscreteItemType, ArrayItemType, BitFieldType.
_ABSTRACT_VARIABLE_TYPES: Final = frozenset((62, 2137, 2372, 12021, 32431))
# References, NonHierarchical-, Hierarchical-, HasChild, Aggregates.
_ABSTRACT_REFERENCE_TYPES: Final = frozenset((31, 32, 33, 34, 44))
# References, NonHierarchicalReferences, AssociatedWith, and physical identity.
_SYMMETRIC: Final = frozenset((31, 32, 24137, 25257, 25258, 25259, 25260))
# ConditionClassType's and history's types, and others that can have instances.
_CONCRETE_OBJECT_TYPES: Final = frozenset(
    (2999, 3006, 3012, 3014, 3019, 3022, 19095, 23926, 32758, 32803)
)


def correct(space: AddressSpace) -> None:
    """Set them right in a space that has OPC UA's own namespace."""
    held = {flag: _flag(value=flag) for flag in (False, True)}
    for node, data in space._nodes.items():
        if node.NamespaceIndex != 0:
            continue
        number = node.Identifier
        attributes: Any = data.attributes
        kind = attributes[_IDS.NodeClass].value.Value.Value
        if kind == _CLASS.VariableType:
            attributes[_IDS.IsAbstract] = held[number in _ABSTRACT_VARIABLE_TYPES]
        elif kind == _CLASS.ReferenceType:
            attributes[_IDS.IsAbstract] = held[number in _ABSTRACT_REFERENCE_TYPES]
            attributes[_IDS.Symmetric] = held[number in _SYMMETRIC]
        elif kind == _CLASS.ObjectType and number in _CONCRETE_OBJECT_TYPES:
            attributes[_IDS.IsAbstract] = held[False]


def _flag(*, value: bool) -> AttributeValue:
    return AttributeValue(ua.DataValue(ua.Variant(value, ua.VariantType.Boolean)))
