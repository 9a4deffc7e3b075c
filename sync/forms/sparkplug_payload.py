"""Sparkplug B payloads as protocol buffers.

Source: Sparkplug 3.0.0 (Eclipse Foundation, 2022) section 6.4.1: the message definition there is
"proto2", and the numbers below are its field numbers. What a gateway doesn't send or hear (data
sets, templates, meta data, files) is left out; protocol buffers skip what they don't know.
"""

from __future__ import annotations

from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

NAMESPACE: Final = "spBv1.0"
REBIRTH: Final = "Node Control/Rebirth"
BD_SEQ: Final = "bdSeq"

# Values of `datatype` and of a property's `type`.
INT32: Final = 3
INT64: Final = 4
DOUBLE: Final = 10
BOOLEAN: Final = 11
STRING: Final = 12

# Values of the property `Quality`.
QUALITY_BAD: Final = 0
QUALITY_GOOD: Final = 192
QUALITY_STALE: Final = 500

PAYLOAD_BYTES_MAX: Final = 65_536  # of what comes in: commands are small

_Kind = descriptor_pb2.FieldDescriptorProto
_MESSAGES: Final[dict[str, tuple[tuple[str, int, Any], ...]]] = {
    "PropertyValue": (
        ("type", 1, _Kind.TYPE_UINT32),
        ("is_null", 2, _Kind.TYPE_BOOL),
        ("int_value", 3, _Kind.TYPE_UINT32),
        ("long_value", 4, _Kind.TYPE_UINT64),
        ("double_value", 6, _Kind.TYPE_DOUBLE),
        ("boolean_value", 7, _Kind.TYPE_BOOL),
        ("string_value", 8, _Kind.TYPE_STRING),
    ),
    "PropertySet": (("keys", 1, [_Kind.TYPE_STRING]), ("values", 2, ["PropertyValue"])),
    "Metric": (
        ("name", 1, _Kind.TYPE_STRING),
        ("alias", 2, _Kind.TYPE_UINT64),
        ("timestamp", 3, _Kind.TYPE_UINT64),
        ("datatype", 4, _Kind.TYPE_UINT32),
        ("is_historical", 5, _Kind.TYPE_BOOL),
        ("is_null", 7, _Kind.TYPE_BOOL),
        ("properties", 9, "PropertySet"),
        ("int_value", 10, _Kind.TYPE_UINT32),
        ("long_value", 11, _Kind.TYPE_UINT64),
        ("float_value", 12, _Kind.TYPE_FLOAT),
        ("double_value", 13, _Kind.TYPE_DOUBLE),
        ("boolean_value", 14, _Kind.TYPE_BOOL),
        ("string_value", 15, _Kind.TYPE_STRING),
    ),
    "Payload": (
        ("timestamp", 1, _Kind.TYPE_UINT64),
        ("metrics", 2, ["Metric"]),
        ("seq", 3, _Kind.TYPE_UINT64),
    ),
}
_PACKAGE: Final = "gatepost.sparkplug"


def _payload_class() -> Any:
    """The class of `Payload`; a list stands for a repeated field, a text for a message."""
    file = descriptor_pb2.FileDescriptorProto(
        name="gatepost/sparkplug.proto", package=_PACKAGE, syntax="proto2"
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            repeated = isinstance(kind, list)
            of = kind[0] if repeated else kind
            entry = message.field.add(
                name=field,
                number=number,
                label=_Kind.LABEL_REPEATED if repeated else _Kind.LABEL_OPTIONAL,
                type=_Kind.TYPE_MESSAGE if isinstance(of, str) else of,
            )
            if isinstance(of, str):
                entry.type_name = f".{_PACKAGE}.{of}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.Payload"))


Payload: Final[Any] = _payload_class()


def parse(data: bytes) -> Message | None:
    """A payload that came in; None where it is none."""
    if len(data) > PAYLOAD_BYTES_MAX:
        return None
    payload: Message = Payload()
    try:
        payload.ParseFromString(data)
    except DecodeError:
        return None
    return payload


def add_property(metric: Any, key: str, kind: int, value: float | int | str) -> None:
    """Adds a property of the type Int32, Int64, Double or String; whole numbers from 0 on."""
    metric.properties.keys.append(key)
    entry = metric.properties.values.add(type=kind)
    if kind == STRING:
        entry.string_value = str(value)
    elif kind == DOUBLE:
        entry.double_value = value
    elif kind == INT64:
        entry.long_value = int(value)
    else:
        entry.int_value = int(value)
