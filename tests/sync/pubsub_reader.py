"""A reader of OPC UA JSON that knows the types from the standard's NodeSet, as asyncua has them.

It builds what it reads, so that a name, a type or an enumeration that is not the standard's fails.
The forms are those of OPC 10000-6, 5.4 (version 1.05).
"""

from __future__ import annotations

import re
import uuid
from datetime import datetime
from enum import Enum
from typing import Any

from asyncua import ua

_ISO = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,7})?Z")


def read(value: Any, kind: str) -> Any:
    """A value of a type by its name, such as ``Double`` or ``DataSetMetaDataType``."""
    if kind in ("String", "CharArray", "LocaleId", "QualifiedName"):
        assert isinstance(value, str)
        return value
    if kind == "Boolean":
        assert isinstance(value, bool)
        return value
    if kind in ("Byte", "UInt16", "UInt32", "Int32", "VersionTime"):
        assert isinstance(value, int) and not isinstance(value, bool)
        assert kind == "Int32" or value >= 0
        return value
    if kind in ("Double", "Duration"):
        assert isinstance(value, (int, float)) or value in ("NaN", "Infinity", "-Infinity")
        return float(value)
    if kind == "Guid":
        return uuid.UUID(value)
    if kind in ("DateTime", "UtcTime"):
        assert _ISO.fullmatch(value), value
        return datetime.fromisoformat(f"{value[:19]}+00:00")
    if kind == "NodeId":
        return ua.NodeId.from_string(value)
    if kind == "LocalizedText":
        assert value.keys() <= {"Locale", "Text"}
        return ua.LocalizedText(value["Text"])
    if kind == "StatusCode":
        assert value.keys() <= {"Code", "Symbol"}
        found = ua.StatusCode(value["Code"])
        if "Symbol" in value:
            assert found.name == value["Symbol"]
        return found
    if kind == "Variant":
        return variant(value)
    return structure(value, getattr(ua, kind))


def variant(value: dict[str, Any]) -> Any:
    """What a Variant or an ExtensionObject in one holds."""
    assert value.keys() == {"UaType", "Value"}
    kind = ua.VariantType(value["UaType"])
    if kind is ua.VariantType.ExtensionObject:
        return extension(value["Value"])
    if isinstance(value["Value"], list):
        return [read(one, kind.name) for one in value["Value"]]
    return read(value["Value"], kind.name)


def extension(value: dict[str, Any]) -> Any:
    """A structure that names its own type."""
    number = ua.NodeId.from_string(value["UaTypeId"]).Identifier
    (name,) = (n for n, i in vars(ua.ObjectIds).items() if i == number)
    return structure({k: v for k, v in value.items() if k != "UaTypeId"}, getattr(ua, name))


def structure(value: Any, kind: type) -> Any:
    """A structure or enumeration of the standard; what is left out has its default."""
    if issubclass(kind, Enum):
        return kind(value)
    types = {name: str(text).replace("ua.", "").strip("'") for name, text in _types(kind).items()}
    assert value.keys() <= types.keys(), value.keys() - types.keys()
    made = kind()
    for name, one in value.items():
        many = re.fullmatch(r"list\[(\w+)\]", types[name])
        abstract = re.fullmatch(r"type\[(\w+)\]", types[name])
        if many:
            setattr(made, name, [read(item, many[1]) for item in one])
        elif abstract:
            setattr(made, name, extension(one))
        else:
            setattr(made, name, read(one, types[name]))
    return made


def _types(kind: type) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one in reversed(kind.__mro__):
        found |= vars(one).get("__annotations__", {})
    return found
