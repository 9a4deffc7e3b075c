"""The part of OPC 10000-100 (Devices) that is used here, in the standard's own namespace.

Numbers, names, data types and modelling rules: OPCFoundation/UA-Nodeset, DI/Opc.Ua.Di.NodeIds.csv
and Opc.Ua.Di.NodeSet2.xml of version 1.04.0 (2022-11-03). Left out: locking, transfer, software
update, networks, blocks and lifetimes, of which this server has none.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from asyncua import ua

from gateway.opcua.names import DI_NAMESPACE, di_id, own_id, standard_id
from gateway.opcua.nodes.builder import MANDATORY, OPTIONAL, ORGANIZES, Nodes

DEVICE_SET: Final = di_id(5001)
DEVICE_TYPE: Final = di_id(1002)
FUNCTIONAL_GROUP: Final = di_id(1005)
HEALTH_TYPE: Final = di_id(6244)
INSTRUMENT_TYPE: Final = own_id("//InstrumentType")
GATEWAY_TYPE: Final = own_id("//GatewayType")
VERSION: Final = "1.04.0"
PUBLISHED_NS: Final = 1_667_433_600_000_000_000  # 2022-11-03

_TOPOLOGY_ELEMENT: Final = di_id(1001)
_COMPONENT: Final = di_id(15063)
_VENDOR: Final = di_id(15035)
_TAG: Final = di_id(15048)
_HEALTH: Final = di_id(15051)
_BASE_OBJECT: Final = standard_id(ua.ObjectIds.BaseObjectType)
_BASE_INTERFACE: Final = standard_id(ua.ObjectIds.BaseInterfaceType)
_HAS_INTERFACE: Final = standard_id(ua.ObjectIds.HasInterface)
_TEXT: Final = ua.VariantType.LocalizedText
_STRING: Final = ua.VariantType.String
_INT: Final = ua.VariantType.Int32

# Name and type of the nameplate's properties, and their numbers in IVendorNameplateType,
# ComponentType and DeviceType. What DeviceType makes mandatory stands below.
_NAMEPLATE: Final[tuple[tuple[str, ua.VariantType, int, int, int], ...]] = (
    ("Manufacturer", _TEXT, 15036, 15086, 6003),
    ("ManufacturerUri", _STRING, 15037, 15087, 15100),
    ("Model", _TEXT, 15038, 15088, 6004),
    ("HardwareRevision", _STRING, 15039, 15089, 6008),
    ("SoftwareRevision", _STRING, 15040, 15090, 6007),
    ("DeviceRevision", _STRING, 15041, 15091, 6006),
    ("ProductCode", _STRING, 15042, 15092, 15101),
    ("DeviceManual", _STRING, 15043, 15093, 6005),
    ("DeviceClass", _STRING, 15044, 15094, 6470),
    ("SerialNumber", _STRING, 15045, 15095, 6001),
    ("ProductInstanceUri", _STRING, 15046, 15096, 15102),
    ("RevisionCounter", _INT, 15047, 15097, 6002),
)
MANDATORY_NAMES: Final = (
    *("Manufacturer", "Model", "HardwareRevision", "SoftwareRevision", "DeviceRevision"),
    *("DeviceManual", "SerialNumber", "RevisionCounter"),
)
NAMEPLATE_TYPES: Final = {name: kind for name, kind, *_ in _NAMEPLATE} | {"ComponentName": _TEXT}


class Health(IntEnum):
    """DeviceHealthEnumeration, after NAMUR NE 107 (OPC 10000-100, 4.5.4)."""

    NORMAL = 0
    FAILURE = 1
    CHECK_FUNCTION = 2
    OFF_SPEC = 3
    MAINTENANCE_REQUIRED = 4


def _type(nodes: Nodes, number: int, name: str, parent: ua.NodeId, *, abstract: bool) -> ua.NodeId:
    return nodes.object_type(di_id(number), name, parent, abstract=abstract, namespace=DI_NAMESPACE)


def _empty(kind: ua.VariantType) -> ua.Variant:
    """What the standard asks for where a nameplate's entry is not known."""
    if kind == _TEXT:
        return ua.Variant(ua.LocalizedText(""), kind)
    return ua.Variant(-1, kind) if kind == _INT else ua.Variant("", kind)


def nameplate_value(name: str, text: str) -> ua.Variant:
    """A nameplate's entry in its type; `text` "" where it is not known."""
    kind = NAMEPLATE_TYPES[name]
    if kind == _TEXT:
        return ua.Variant(ua.LocalizedText(text), kind)
    return ua.Variant(text, kind) if text and kind == _STRING else _empty(kind)


def nameplate_property(nodes: Nodes, device: ua.NodeId, name: str, shown: ua.Variant) -> None:
    """An entry of a device's nameplate."""
    kind = standard_id(NAMEPLATE_TYPES[name].value)
    nodes.property(device, name, shown, kind, namespace=DI_NAMESPACE)


def _entry(
    nodes: Nodes, owner: ua.NodeId, number: int, name: str, kind: ua.VariantType, rule: ua.NodeId
) -> None:
    node, data_type = di_id(number), standard_id(kind.value)
    nodes.property(owner, name, _empty(kind), data_type, namespace=DI_NAMESPACE, node=node)
    nodes.rule(node, rule)


def _health_variable(nodes: Nodes, owner: ua.NodeId, number: int) -> None:
    node = di_id(number)
    nodes.variable(
        node,
        "DeviceHealth",
        owner,
        ua.Variant(Health.NORMAL.value, ua.VariantType.Int32),
        data_type=HEALTH_TYPE,
        type_id=standard_id(ua.ObjectIds.BaseDataVariableType),
        namespace=DI_NAMESPACE,
    )
    nodes.rule(node, OPTIONAL)


def _data_types(nodes: Nodes) -> None:
    fields = [
        ua.EnumField(Value=one.value, DisplayName=ua.LocalizedText(one.name), Name=one.name)
        for one in Health
    ]
    nodes.data_type(
        HEALTH_TYPE,
        "DeviceHealthEnumeration",
        standard_id(ua.ObjectIds.Enumeration),
        ua.EnumDefinition(Fields=fields),
        namespace=DI_NAMESPACE,
    )
    names = [ua.LocalizedText(one.name) for one in Health]
    text = standard_id(ua.ObjectIds.LocalizedText)
    nodes.property(HEALTH_TYPE, "EnumStrings", ua.Variant(names), text, node=di_id(6450))


def _interfaces(nodes: Nodes) -> None:
    _type(nodes, 15035, "IVendorNameplateType", _BASE_INTERFACE, abstract=True)
    for name, kind, number, _, _ in _NAMEPLATE:
        _entry(nodes, _VENDOR, number, name, kind, OPTIONAL)
    _type(nodes, 15048, "ITagNameplateType", _BASE_INTERFACE, abstract=True)
    _entry(nodes, _TAG, 15049, "AssetId", _STRING, OPTIONAL)
    _entry(nodes, _TAG, 15050, "ComponentName", _TEXT, OPTIONAL)
    _type(nodes, 15051, "IDeviceHealthType", _BASE_INTERFACE, abstract=True)
    _health_variable(nodes, _HEALTH, 15052)


def build_types(nodes: Nodes) -> None:
    """Add the types, the object DeviceSet, and our two concrete types of devices."""
    _data_types(nodes)
    _interfaces(nodes)
    folder = standard_id(ua.ObjectIds.FolderType)
    _type(nodes, 1005, "FunctionalGroupType", folder, abstract=False)
    _type(nodes, 1001, "TopologyElementType", _BASE_OBJECT, abstract=True)
    _type(nodes, 15063, "ComponentType", _TOPOLOGY_ELEMENT, abstract=True)
    _type(nodes, 1002, "DeviceType", _COMPONENT, abstract=True)
    for name, kind, _, number, _ in _NAMEPLATE:
        _entry(nodes, _COMPONENT, number, name, kind, OPTIONAL)
    _entry(nodes, _COMPONENT, 15098, "AssetId", _STRING, OPTIONAL)
    _entry(nodes, _COMPONENT, 15099, "ComponentName", _TEXT, OPTIONAL)
    for name, kind, _, _, number in _NAMEPLATE:
        rule = MANDATORY if name in MANDATORY_NAMES else OPTIONAL
        _entry(nodes, DEVICE_TYPE, number, name, kind, rule)
    _health_variable(nodes, DEVICE_TYPE, 6208)
    nodes.refer(_COMPONENT, _HAS_INTERFACE, _VENDOR)
    nodes.refer(_COMPONENT, _HAS_INTERFACE, _TAG)
    nodes.refer(DEVICE_TYPE, _HAS_INTERFACE, _HEALTH)
    about = "an instrument of the site"
    nodes.object_type(INSTRUMENT_TYPE, "InstrumentType", DEVICE_TYPE, description=about)
    about = "the gateway itself"
    nodes.object_type(GATEWAY_TYPE, "GatewayType", DEVICE_TYPE, description=about)
    objects = standard_id(ua.ObjectIds.ObjectsFolder)
    nodes.object(
        DEVICE_SET,
        "DeviceSet",
        objects,
        _BASE_OBJECT,
        reference=ORGANIZES,
        description="all devices, wherever they stand",
        namespace=DI_NAMESPACE,
    )
