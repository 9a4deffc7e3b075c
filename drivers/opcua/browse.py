"""What variables an OPC UA server has, as an instrument file.

Source: OPC 10000-3 (references, value rank, access levels), OPC 10000-8 (EURange,
EngineeringUnits, EnumStrings).
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from asyncua import ua

from config.model import EquipmentTags
from drivers.errors import NotConnected, Refused
from drivers.opcua.driver import PORT, SCHEME
from drivers.opcua.session import Session
from drivers.server_url import parse_server, server_faults

NODES_MAX: Final = 50_000  # seen altogether
VARIABLES_MAX: Final = 10_000  # in the file
DEPTH_MAX: Final = 16
ARRAY_MAX: Final = 32  # elements of an array that become channels
NAME_MAX: Final = 63  # characters that a channel's name may have
TIMEOUT_S: Final = 5.0

_READ: Final = 1  # bits of an access level
_WRITE: Final = 2
_DATA_TYPES: Final = {
    ua.VariantType.Boolean: "bool",
    ua.VariantType.SByte: "int16",
    ua.VariantType.Byte: "uint16",
    ua.VariantType.Int16: "int16",
    ua.VariantType.UInt16: "uint16",
    ua.VariantType.Int32: "int32",
    ua.VariantType.UInt32: "uint32",
    ua.VariantType.Int64: "int64",
    ua.VariantType.UInt64: "uint64",
    ua.VariantType.Float: "float32",
    ua.VariantType.Double: "float64",
    ua.VariantType.String: "string",
}


@dataclass(slots=True)
class _Variable:
    node: ua.NodeId
    path: tuple[str, ...]
    properties: dict[str, ua.NodeId] = field(default_factory=dict)


async def browse_server(
    url: str,
    name: str = "OpcUa",
    *,
    tags: Sequence[str] = (),
    timeout_s: float = TIMEOUT_S,
    **security: Any,
) -> dict[str, Any]:
    """The variables of a server that are numbers, as the content of an instrument file.

    url       ``opc.tcp://[user@]host:port[/path]``
    name      `EquipmentName` of the file
    tags      `Tags` of every channel
    security  further keys of `EquipmentTags`: PasswordFile, Security, CertificateFile, ...

    Raises NotConnected for a URL that is none and for a server that can't be reached, and any
    DriverError for one that misbehaves.
    """
    keys = {"EquipmentName": name, "Communication": "OpcUa", "Server": url, **security}
    equipment = EquipmentTags(**keys, Timeout=timeout_s)
    faults = server_faults(equipment, SCHEME, None, PORT)
    server = parse_server(url, SCHEME, PORT)
    if faults or server is None:  # a password in the URL would stand in the file
        raise NotConnected(faults[0].message if faults else "the URL is none of opc.tcp")
    session = Session(server, equipment, lambda: None)
    try:
        await session.connect()
        variables = await _walk(session)
        channels = await _channels(session, variables, list(tags))
    finally:
        await session.close()
    return {"EquipmentTags": keys, "Channels": channels}


async def _walk(session: Session) -> list[_Variable]:
    """Breadth first below the objects folder, without the server's own diagnostics."""
    root = ua.NodeId(ua.Int32(ua.ObjectIds.ObjectsFolder))
    seen: set[Any] = {root, ua.NodeId(ua.Int32(ua.ObjectIds.Server))}
    waiting: deque[tuple[ua.NodeId, tuple[str, ...], _Variable | None]] = deque(maxlen=NODES_MAX)
    waiting.append((root, (), None))
    variables: list[_Variable] = []
    while waiting and len(variables) < VARIABLES_MAX:
        node, path, parent = waiting.popleft()
        async for reference in session.browse(node):
            child = ua.NodeId(
                reference.NodeId.Identifier,
                reference.NodeId.NamespaceIndex,
                reference.NodeId.NodeIdType,
            )
            label = str(reference.BrowseName.Name or "")
            if reference.ReferenceTypeId.Identifier == ua.ObjectIds.HasProperty:
                if parent is not None:
                    parent.properties[label] = child
                continue
            if child in seen or len(seen) >= NODES_MAX or len(path) >= DEPTH_MAX:
                continue
            seen.add(child)
            below = (*path, str(reference.DisplayName.Text or label))
            variable = None
            if reference.NodeClass == ua.NodeClass.Variable:
                variable = _Variable(child, below)
                variables.append(variable)
            if reference.NodeClass in (ua.NodeClass.Variable, ua.NodeClass.Object):
                waiting.append((child, below, variable))
    return variables[:VARIABLES_MAX]


async def _channels(
    session: Session, variables: Sequence[_Variable], tags: list[str]
) -> dict[str, dict[str, Any]]:
    nodes = [variable.node for variable in variables]
    columns = [
        await session.read(nodes, attribute)
        for attribute in (ua.AttributeIds.Value, ua.AttributeIds.UserAccessLevel)
    ]
    channels: dict[str, dict[str, Any]] = {}
    for variable, value, access in zip(variables, *columns, strict=True):
        content = value.Value.Value if value.Value is not None else None
        kind = value.Value.VariantType if value.Value is not None else None
        data_type = _DATA_TYPES.get(kind) if kind is not None else None
        if data_type is None or len(channels) >= VARIABLES_MAX:
            continue
        keys = await _keys(session, variable, data_type, _content(access))
        if data_type == "string" and "States" not in keys:
            continue  # a text without a list of its states is no number
        keys["Tags"] = tags
        label = _name("_".join(variable.path))
        if not isinstance(content, list):
            channels[_unused(channels, label)] = keys
            continue
        for place in range(min(len(content), ARRAY_MAX)):
            channels[_unused(channels, f"{label}_{place}")] = keys | {"ArrayPos": place}
    return channels


async def _keys(
    session: Session, variable: _Variable, data_type: str, access: Any
) -> dict[str, Any]:
    level = access if isinstance(access, int) else _READ
    modes = {_READ: "R", _WRITE: "W", _READ | _WRITE: "RW"}
    keys: dict[str, Any] = {
        "IOPoint": session.name_of(variable.node),
        "DataType": data_type,
        "ReadWrite": modes.get(level & (_READ | _WRITE), "R"),
        "Description": variable.path[-1],
    }
    wanted = [
        (label, node)
        for label, node in variable.properties.items()
        if label in ("EngineeringUnits", "EURange", "EnumStrings")
    ]
    try:
        values = await session.read([node for _, node in wanted]) if wanted else []
    except Refused:
        values = []
    for (label, _), value in zip(wanted, values, strict=False):
        content = _content(value)
        if label == "EngineeringUnits" and isinstance(content, ua.EUInformation):
            keys["Units"] = str(content.DisplayName.Text or "")
        elif label == "EURange" and isinstance(content, ua.Range) and content.Low < content.High:
            keys |= {"Minimum": float(content.Low), "Maximum": float(content.High)}
        elif label == "EnumStrings" and isinstance(content, list):
            texts = [str(getattr(text, "Text", text) or "") for text in content]
            if len(set(texts)) == len(texts):
                keys["States"] = texts
    return keys


def _content(value: ua.DataValue) -> Any:
    return value.Value.Value if value.Value is not None else None


def _name(text: str) -> str:
    """A channel's name: letters, digits, underscores and hyphens."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_")[:NAME_MAX] or "Variable"


def _unused(channels: dict[str, dict[str, Any]], name: str) -> str:
    number, made = 1, name[:NAME_MAX]
    while made in channels:
        number += 1
        tail = f"_{number}"
        made = name[: NAME_MAX - len(tail)] + tail
    return made
