"""What an OPC UA publisher says of itself: data sets, writers, connection (OPC 10000-14). Pure.

A data set is an equipment, its fields are the equipment's channels. Each has a writer in two
groups: one for what is live, one for what an outage left behind, so that whoever follows the first
never sees a value go back.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from sync.forms.json_form import level
from sync.link.tables import Point, PointTable, split_tag

PREFIX: Final = "opcua"
WRITER_IDS: Final = 0x7FFF  # live writers have 1 to this; those of the backlog as many behind it
BACKLOG: Final = "-backlog"  # behind the name of the group
EPOCH_2000_S: Final = 946_684_800  # VersionTime counts from there (OPC 10000-4, 7.44)

DOUBLE: Final = 11  # built-in types, OPC 10000-6, table 1
_STRING: Final = 12
_LOCALIZED_TEXT: Final = 21
_EXTENSION_OBJECT: Final = 22
_RANGE: Final = "i=884"
_EU_INFORMATION: Final = "i=887"
_ANY_RANK_SCALAR: Final = -1

# DataSetFieldContentMask: StatusCode, SourceTimestamp, SourcePicoSeconds.
FIELD_MASK: Final = 1 | 2 | 8
# JsonNetworkMessageContentMask: header, headers of messages, PublisherId, WriterGroupName.
NETWORK_MASK: Final = 1 | 2 | 8 | 64
# JsonDataSetMessageContentMask: DataSetWriterId, MetaDataVersion, SequenceNumber, Timestamp,
# MessageType, DataSetWriterName, FieldEncoding2 (VerboseEncoding).
MESSAGE_MASK: Final = 1 | 2 | 4 | 8 | 32 | 64 | 2048
_AT_LEAST_ONCE: Final = 2  # BrokerTransportQualityOfService

MqttMessage = Literal["data", "metadata", "status", "connection"]


@dataclass(frozen=True, slots=True)
class Writer:
    """A DataSetWriter: an equipment in one of the two groups."""

    id: int
    name: str
    group: str
    equipment: str


def topic(kind: MqttMessage, publisher: str, *levels: str) -> str:
    """A topic of the standard's tree (OPC 10000-14, 7.3.4.7)."""
    return "/".join((PREFIX, "json", kind, level(publisher), *(level(name) for name in levels)))


def writers_of(equipment: Sequence[str], group: str) -> dict[tuple[str, bool], Writer]:
    """Both writers of each equipment, by its name and whether it is the live one.

    The number comes from the name, so that it stays while others come and go; only where two names
    give the same does the later one in the alphabet move on.
    """
    taken: set[int] = set()
    found = {}
    for name in sorted(equipment)[: WRITER_IDS - 1]:
        number = zlib.crc32(name.encode()) % WRITER_IDS
        while number in taken:
            number = (number + 1) % WRITER_IDS
        taken.add(number)
        label = name or "_"
        found[name, True] = Writer(1 + number, label, group, name)
        found[name, False] = Writer(1 + number + WRITER_IDS, label, group + BACKLOG, name)
    return found


def version_document(version: int) -> dict[str, int]:
    """A ConfigurationVersionDataType; any change of a table is a major one."""
    return {"MajorVersion": version, "MinorVersion": version}


def equipment_of(table: PointTable) -> dict[str, list[Point]]:
    """The chosen points of a table by their equipment."""
    found: dict[str, list[Point]] = {}
    for point in table.points.values():
        found.setdefault(split_tag(point.tag)[0], []).append(point)
    return found


# ---------------------------------------------------------------- metadata


def meta_data(
    publisher: str, equipment: str, points: Sequence[Point], version: int
) -> dict[str, Any]:
    """A DataSetMetaDataType in the CompactEncoding."""
    return {
        "Name": equipment or "_",
        "Fields": [_field(publisher, point) for point in points],
        "ConfigurationVersion": version_document(version),
    }


def _field(publisher: str, point: Point) -> dict[str, Any]:
    field: dict[str, Any] = {"Name": split_tag(point.tag)[1]}
    if point.description:
        field["Description"] = {"Text": point.description}
    field |= {
        "FieldFlags": 0,
        "BuiltInType": DOUBLE,
        "DataType": f"i={DOUBLE}",
        "ValueRank": _ANY_RANK_SCALAR,
        "MaxStringLength": 0,
        "DataSetFieldId": field_id(publisher, point.tag),
    }
    if properties := list(_properties(point)):
        field["Properties"] = properties
    return field


def field_id(publisher: str, tag: str) -> str:
    """The Guid of a field: that of its name, of version 8 (RFC 9562, 5.8)."""
    text = hashlib.sha256(f"{publisher}/{tag}".encode()).hexdigest()
    return f"{text[:8]}-{text[8:12]}-8{text[13:16]}-a{text[17:20]}-{text[20:32]}"


def _properties(point: Point) -> list[dict[str, Any]]:
    found = []
    if point.units:
        units = {"UaTypeId": _EU_INFORMATION, "UnitId": -1, "DisplayName": {"Text": point.units}}
        found.append(_property("EngineeringUnits", _EXTENSION_OBJECT, units))
    if math.isfinite(point.value_min) and math.isfinite(point.value_max):
        limits = {"UaTypeId": _RANGE, "Low": point.value_min, "High": point.value_max}
        found.append(_property("EURange", _EXTENSION_OBJECT, limits))
    if point.states:
        names = [{"Text": name} for name in point.states]
        found.append(_property("EnumStrings", _LOCALIZED_TEXT, names))
    return found


def _property(key: str, kind: int, value: Any) -> dict[str, Any]:
    """A KeyValuePair; what the CompactEncoding makes of its Variant (OPC 10000-6, 5.4.2.17)."""
    return {"Key": key, "Value": {"UaType": kind, "Value": value}}


# ---------------------------------------------------------------- connection


def connection(publisher: str, writers: Sequence[Writer]) -> dict[str, Any]:
    """A PubSubConnectionDataType in the CompactEncoding, without addresses and properties."""
    groups: dict[str, list[Writer]] = {}
    for writer in writers:
        groups.setdefault(writer.group, []).append(writer)
    return {
        "Name": publisher,
        "Enabled": True,
        "PublisherId": {"UaType": _STRING, "Value": publisher},
        "TransportProfileUri": "http://opcfoundation.org/UA-Profile/Transport/pubsub-mqtt-json",
        "WriterGroups": [
            _group(publisher, number, name, members)
            for number, (name, members) in enumerate(groups.items(), 1)
        ],
    }


def _group(publisher: str, number: int, name: str, writers: Sequence[Writer]) -> dict[str, Any]:
    return {
        "Name": name,
        "Enabled": True,
        "SecurityMode": 1,
        "WriterGroupId": number,
        "MessageSettings": {"UaTypeId": "i=15657", "NetworkMessageContentMask": NETWORK_MASK},
        "DataSetWriters": [_writer(publisher, writer) for writer in writers],
    }


def _writer(publisher: str, writer: Writer) -> dict[str, Any]:
    levels = (publisher, writer.group, writer.name)
    return {
        "Name": writer.name,
        "Enabled": True,
        "DataSetWriterId": writer.id,
        "DataSetFieldContentMask": FIELD_MASK,
        "KeyFrameCount": 2**32 - 1,  # one at the beginning, then changes
        "DataSetName": writer.name,
        "TransportSettings": {
            "UaTypeId": "i=15669",
            "QueueName": topic("data", *levels),
            "RequestedDeliveryGuarantee": _AT_LEAST_ONCE,
            "MetaDataQueueName": topic("metadata", *levels),
        },
        "MessageSettings": {"UaTypeId": "i=15664", "DataSetMessageContentMask": MESSAGE_MASK},
    }


def version_of(name: str, utc_ns: int, known: Mapping[str, int]) -> int:
    """The VersionTime of a table: when it came into force, and no other table's."""
    if name in known:
        return known[name]
    version = min(max(utc_ns // 10**9 - EPOCH_2000_S, 1), 2**32 - 1)
    while version in known.values():
        version += 1
    return version
