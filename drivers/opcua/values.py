"""OPC UA data values to numbers, and numbers to variants. Pure.

Source: OPC 10000-4 (status codes), OPC 10000-6 section 5.1.2 (built-in types).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from asyncua import ua
from asyncua.ua.uatypes import EPOCH_AS_FILETIME

from config import status
from config.model import Channel
from drivers.errors import OutOfRange, Refused
from drivers.inbox import plausible_utc_ns, text_number, unscaled_value, whole_in

# The lower half of a code says how the value was sampled (overflow of a queue and the like).
_CODE_MASK: Final = 0xFFFF0000

_WHOLE: Final = {
    ua.VariantType.SByte: (8, True),
    ua.VariantType.Int16: (16, True),
    ua.VariantType.Int32: (32, True),
    ua.VariantType.Int64: (64, True),
    ua.VariantType.Byte: (8, False),
    ua.VariantType.UInt16: (16, False),
    ua.VariantType.UInt32: (32, False),
    ua.VariantType.UInt64: (64, False),
}
WRITABLE: Final = frozenset(
    (
        *_WHOLE,
        ua.VariantType.Boolean,
        ua.VariantType.Float,
        ua.VariantType.Double,
        ua.VariantType.String,
    )
)
# Abstract types and subtypes that the standard itself defines (OPC 10000-6, NodeIds).
_KNOWN_TYPES: Final = {
    ua.ObjectIds.Enumeration: ua.VariantType.Int32,
    ua.ObjectIds.Duration: ua.VariantType.Double,
    ua.ObjectIds.Number: ua.VariantType.Double,
    ua.ObjectIds.Integer: ua.VariantType.Int64,
    ua.ObjectIds.UInteger: ua.VariantType.UInt64,
}


class Reading(NamedTuple):
    """A raw number, the server's status code, and the source's own stamp."""

    raw: float
    code: int
    utc_ns: int | None


def reading_of(value: ua.DataValue, array_pos: int | None, states: Sequence[str]) -> Reading:
    """What a data value says. A value that is no number has the code BadDecodingError."""
    code = (value.StatusCode.value if value.StatusCode is not None else 0) & _CODE_MASK
    utc_ns = stamp_ns(value.SourceTimestamp)
    if status.is_bad(code):
        return Reading(math.nan, code, utc_ns)
    content: Any = value.Value.Value if value.Value is not None else None
    if isinstance(content, list):
        at = 0 if array_pos is None else array_pos
        if array_pos is None or at >= len(content):
            return Reading(math.nan, status.BAD_DECODING_ERROR, utc_ns)
        content = content[at]
    if content is None:
        return Reading(math.nan, code, utc_ns)  # null: the server has no value
    number = _number(content, states)
    if number is None:
        return Reading(math.nan, status.BAD_DECODING_ERROR, utc_ns)
    return Reading(number, code, utc_ns)


def _number(content: Any, states: Sequence[str]) -> float | None:
    if isinstance(content, ua.Variant):  # an array of variants
        content = content.Value
    if isinstance(content, ua.LocalizedText):
        content = content.Text
    if isinstance(content, (bool, int, float)):
        return float(content)
    if isinstance(content, str):
        return text_number(content, states)
    return None


def stamp_ns(stamp: Any) -> int | None:
    """UTC nanoseconds of a time stamp; None where there is none, or one before 1970."""
    if stamp is None:
        return None
    return plausible_utc_ns((ua.datetime_to_win_epoch(stamp) - EPOCH_AS_FILETIME) * 100)


def variant_type_of(data_type: Any, value: ua.DataValue | None) -> ua.VariantType | None:
    """The built-in type that a node takes: by its DataType, else by the value that it has now."""
    if isinstance(data_type, ua.NodeId) and data_type.NamespaceIndex == 0:
        number: Any = data_type.Identifier
        if number in _KNOWN_TYPES:
            return _KNOWN_TYPES[number]
        for kind in WRITABLE:
            if kind.value == number:
                return kind
    kind_now = value.Value.VariantType if value is not None and value.Value is not None else None
    return kind_now if kind_now in WRITABLE else None


def variant_of(channel: Channel, kind: ua.VariantType | None, value: float) -> ua.Variant:
    """What is written for a value in engineering units. Raises OutOfRange, Refused."""
    if kind is None:
        raise Refused("the node's data type can't be written as a number", permanent=True)
    raw = unscaled_value(channel, value, text=kind == ua.VariantType.String)
    content: Any = raw
    if kind in _WHOLE and not isinstance(raw, str):
        content = whole_in(raw, *_WHOLE[kind])
    elif kind == ua.VariantType.Boolean:
        if raw not in (0.0, 1.0):
            raise OutOfRange(f"{value:g} is neither 0 nor 1 (Boolean)")
        content = bool(raw)
    elif kind == ua.VariantType.Float:
        try:
            struct.pack("<f", raw)
        except OverflowError:
            raise OutOfRange(f"{value:g} is too large for a Float") from None
    if channel.ArrayPos is not None:
        content = [content]
    return ua.Variant(content, kind)
