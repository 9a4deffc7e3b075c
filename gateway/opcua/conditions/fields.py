"""One field of an event, as filters name it (OPC 10000-4, 7.7.4.5)."""

from __future__ import annotations

import re
from typing import Final

from asyncua import ua

from gateway.opcua.conditions.types import BASE, EventTypes
from gateway.opcua.event import CONDITION_PATH, NULL, UaEvent
from gateway.opcua.names import own_id

PATH_PARTS_MAX: Final = 10
NAME_CHARS_MAX: Final = 512  # OPC 10000-3, 8.3
_NODE_ID: Final = ua.AttributeIds.NodeId
_VALUE: Final = ua.AttributeIds.Value
_ATTRIBUTES: Final = range(_NODE_ID, ua.AttributeIds.AccessLevelEx + 1)
_SPAN: Final = re.compile(r"(\d{1,9})(?::(\d{1,9}))?")
_CODES: Final = ua.StatusCodes


class FieldFault(Exception):
    """No event will ever have the field; the code says why."""

    def __init__(self, code: int) -> None:
        super().__init__(ua.StatusCode(ua.UInt32(code)).name)
        self.code = code


class Field:
    """A field that events may have.

    path   key of the event's values
    plain  nothing but the look-up by `path` is to be done
    """

    __slots__ = ("_kinds", "_of_part", "_span", "path", "plain")

    def __init__(self, operand: ua.SimpleAttributeOperand, types: EventTypes) -> None:
        """Raises FieldFault."""
        wanted, attribute = operand.TypeDefinitionId, operand.AttributeId
        names = list(operand.BrowsePath or ())
        if wanted not in types:
            raise FieldFault(_CODES.BadTypeDefinitionInvalid)
        if any(not name.Name or len(name.Name) > NAME_CHARS_MAX for name in names):
            raise FieldFault(_CODES.BadBrowseNameInvalid)
        if attribute not in _ATTRIBUTES:
            raise FieldFault(_CODES.BadAttributeIdInvalid)
        if len(names) > PATH_PARTS_MAX or any(name.NamespaceIndex for name in names):
            raise FieldFault(_CODES.BadNodeIdUnknown)
        self.path = "/".join(str(name.Name) for name in names)
        if self.path == CONDITION_PATH:
            # The event itself has one attribute only: its condition's NodeId, the ConditionId
            # (OPC 10000-9, 5.5.2.13).
            if attribute != _NODE_ID:
                raise FieldFault(_CODES.BadAttributeIdInvalid)
        else:
            _check(types.paths(wanted).get(self.path), attribute)
        self._of_part = attribute == _NODE_ID and self.path != CONDITION_PATH
        self._span = _span(operand.IndexRange)
        self._kinds = None if wanted == BASE else types.kinds(wanted)
        self.plain = self._kinds is None and self._span is None and not self._of_part

    def value(self, event: UaEvent) -> ua.Variant:
        """What the event has there; null where it has nothing."""
        if self._kinds is not None and event.type_id not in self._kinds:
            return NULL
        if self._of_part:
            if event.condition is None:
                return NULL
            part = own_id(f"{event.condition.Identifier!s}/{self.path}")
            return ua.Variant(part, ua.VariantType.NodeId)
        found = event.values()[self.path]
        return found if self._span is None else _cut(found, self._span)


def _check(found: ua.NodeClass | None, attribute: int) -> None:
    if found is None or found == ua.NodeClass.Method:  # a path leads to objects and variables
        raise FieldFault(_CODES.BadNodeIdUnknown)
    is_value = attribute == _VALUE and found == ua.NodeClass.Variable
    if not is_value and attribute != _NODE_ID:
        raise FieldFault(_CODES.BadAttributeIdInvalid)


def _span(text: str | None) -> slice | None:
    """An index range of one dimension (OPC 10000-4, 7.27)."""
    if not text:
        return None
    match = _SPAN.fullmatch(text)
    if match is None:
        raise FieldFault(_CODES.BadIndexRangeInvalid)
    first, last = int(match[1]), int(match[2] or match[1])
    if match[2] and first >= last:
        raise FieldFault(_CODES.BadIndexRangeInvalid)
    return slice(first, last + 1)


def _cut(value: ua.Variant, span: slice) -> ua.Variant:
    """A part of an array, of a text or of bytes; null where it has none."""
    content = value.Value
    part = content[span] if isinstance(content, list | str | bytes) else None
    return ua.Variant(part, value.VariantType, None, value.is_array) if part else NULL
