"""An event as clients of the server get it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from asyncua import ua
from asyncua.ua.ua_binary import variant_to_binary

from gateway.opcua.values import EPOCH_TICKS

NULL: Final = ua.Variant()
CONDITION_PATH: Final = ""  # of the condition's NodeId among an event's values


class EventValues(dict[str, ua.Variant]):
    """An event's values by browse path, joined by "/"; what it has not is null."""

    def __missing__(self, path: str) -> ua.Variant:
        return NULL


class EncodedValues(dict[str, bytes]):
    """The same, each encoded once (OPC 10000-6, 5.2.2.16), however many items want it."""

    def __init__(self, values: EventValues) -> None:
        self._values = values

    def __missing__(self, path: str) -> bytes:
        encoded = self[path] = encoding(self._values[path])
        return encoded


# Encodings of variants that many events have in common, by identity; each holds its variant, so
# that no other one gets its identity.
_KNOWN: Final[dict[int, tuple[ua.Variant, bytes]]] = {}
_KNOWN_MAX: Final = 4096
_SHARED: Final = frozenset(
    (
        *(ua.VariantType.Boolean, ua.VariantType.NodeId, ua.VariantType.LocalizedText),
        *(ua.VariantType.StatusCode, ua.VariantType.UInt16, ua.VariantType.Null),
    )
)


def encoding(value: ua.Variant) -> bytes:
    """A variant as it travels."""
    known = _KNOWN.get(id(value))
    if known is not None:
        return known[1]
    encoded: bytes = variant_to_binary(value)
    if value.VariantType in _SHARED:
        if len(_KNOWN) >= _KNOWN_MAX:
            _KNOWN.clear()
        _KNOWN[id(value)] = (value, encoded)
    return encoded


@dataclass(frozen=True, slots=True, eq=False)
class UaEvent:
    """One event (OPC 10000-3, 4.7). Times are UTC in ns.

    type_id    its event type, e.g. standard_id(ua.ObjectIds.AuditWriteUpdateEventType)
    event_id   unique; what Acknowledge names
    source     node that it comes from, and its name
    notifiers  nodes whose EventNotifier shows it: the server object, the site, the equipment
    severity   1 to 1000
    fields     what the type has beyond BaseEventType: browse path, joined by "/", to value;
               ``AckedState/Id`` e.g.; all of namespace 0
    condition  NodeId of the condition; None where it is no condition's event
    """

    type_id: ua.NodeId
    event_id: bytes
    source: ua.NodeId
    source_name: str
    notifiers: tuple[ua.NodeId, ...]
    utc_ns: int
    received_ns: int
    severity: int
    message: str
    fields: Mapping[str, ua.Variant]
    condition: ua.NodeId | None = None
    _made: list[EventValues | EncodedValues] = field(default_factory=list, init=False, repr=False)

    def values(self) -> EventValues:
        """All its values, those of BaseEventType too; made once."""
        if not self._made:
            values = self._values()
            self._made.extend((values, EncodedValues(values)))
        made = self._made[0]
        assert isinstance(made, EventValues)
        return made

    def encoded(self) -> EncodedValues:
        """All its values, each encoded when it is first asked for."""
        self.values()
        made = self._made[1]
        assert isinstance(made, EncodedValues)
        return made

    def _values(self) -> EventValues:
        kinds = ua.VariantType
        values = EventValues(self.fields)
        values["EventId"] = _variant(self.event_id, kinds.ByteString)
        values["EventType"] = _node(self.type_id)
        values["SourceNode"] = _node(self.source)
        values["SourceName"] = _variant(self.source_name, kinds.String)
        values["Time"] = _time(self.utc_ns)
        values["ReceiveTime"] = _time(self.received_ns)
        values["Message"] = _variant(ua.LocalizedText(self.message), kinds.LocalizedText)
        values["Severity"] = _variant(min(max(self.severity, 1), 1000), kinds.UInt16)
        if self.condition is not None:
            values[CONDITION_PATH] = _node(self.condition)
        return values


def _variant(content: object, kind: ua.VariantType) -> ua.Variant:
    return ua.Variant(content, kind, None, False)


@lru_cache(maxsize=4096)
def _node(node: ua.NodeId) -> ua.Variant:
    return _variant(node, ua.VariantType.NodeId)


def _time(utc_ns: int) -> ua.Variant:
    return _variant(ua.win_epoch_to_datetime(utc_ns // 100 + EPOCH_TICKS), ua.VariantType.DateTime)
