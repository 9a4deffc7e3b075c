"""Notifications as bytes (OPC 10000-6, 5.2), without the library's objects.

Values of points come as columns of numbers: all notifications of one shape are written by numpy in
one go, which takes a tenth of a microsecond each; the library takes fifty. Every shape is compared
with the library's encoder by a test.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
from asyncua import ua
from asyncua.ua.ua_binary import struct_to_binary, variant_to_binary
from numpy.typing import NDArray

from gateway.opcua.service import response_head
from gateway.opcua.values import EPOCH_TICKS

# Bits of a DataValue's encoding mask (OPC 10000-6, 5.2.2.17).
_VALUE: Final = 1
_STATUS: Final = 2
_SOURCE: Final = 4
_SERVER: Final = 8

# StatusCode: info type "data value" and the overflow bit (OPC 10000-4, 7.39.1).
OVERFLOW: Final = 0x0480

NO_FORM: Final = 0  # no value, only a status
BOOLEAN: Final = ua.VariantType.Boolean.value
UINT32: Final = ua.VariantType.UInt32.value
INT64: Final = ua.VariantType.Int64.value
DOUBLE: Final = ua.VariantType.Double.value

_NUMPY: Final = {BOOLEAN: "u1", UINT32: "<u4", INT64: "<i8", DOUBLE: "<f8"}
_STRUCT: Final = {BOOLEAN: "?", UINT32: "I", INT64: "q", DOUBLE: "d"}

# One queued value of a point. `form` is the built-in type that it travels as, NO_FORM where there
# is no value; `server_ns` 0 = there is no server time. Whole numbers are exact up to 2**53.
ENTRY: Final = np.dtype(
    [
        ("value", "f8"),
        ("status", "u4"),
        ("utc_ns", "i8"),
        ("server_ns", "i8"),
        ("form", "u1"),
    ]
)

_SOURCE_TIMES: Final = (ua.TimestampsToReturn.Source.value, ua.TimestampsToReturn.Both.value)
_SERVER_TIMES: Final = (ua.TimestampsToReturn.Server.value, ua.TimestampsToReturn.Both.value)
# By TimestampsToReturn: source 0, server 1, both 2, neither 3.
_HAS_SOURCE: Final = np.array([n in _SOURCE_TIMES for n in range(4)])
_HAS_SERVER: Final = np.array([n in _SERVER_TIMES for n in range(4)])
_DATA: Final = ua.ObjectIds.DataChangeNotification_Encoding_DefaultBinary
_EVENTS: Final = ua.ObjectIds.EventNotificationList_Encoding_DefaultBinary
_STATUS_CHANGE: Final = ua.ObjectIds.StatusChangeNotification_Encoding_DefaultBinary
_PUBLISH: Final = ua.ObjectIds.PublishResponse_Encoding_DefaultBinary
_REPUBLISH: Final = ua.ObjectIds.RepublishResponse_Encoding_DefaultBinary
_NO_ENTRIES: Final = struct.pack("<i", 0)


def ticks_of(utc_ns: int) -> int:
    """OPC UA's time: steps of 100 ns since 1601, as Read and HistoryRead give it, too."""
    return utc_ns // 100 + EPOCH_TICKS


@lru_cache(maxsize=128)
def _block_type(form: int, mask: int) -> np.dtype[np.void]:
    """The layout of a MonitoredItemNotification of one shape."""
    fields = [("handle", "<u4"), ("mask", "u1")]
    if mask & _VALUE:
        fields += [("form", "u1"), ("value", _NUMPY[form])]
    if mask & _STATUS:
        fields.append(("status", "<u4"))
    if mask & _SOURCE:
        fields.append(("source", "<i8"))
    if mask & _SERVER:
        fields.append(("server", "<i8"))
    return np.dtype(fields)


def _block(form: int, mask: int, handle: NDArray[np.uint32], entries: NDArray[np.void]) -> bytes:
    made = np.empty(len(handle), dtype=_block_type(form, mask))
    made["handle"] = handle
    made["mask"] = mask
    if mask & _VALUE:
        made["form"] = form
        made["value"] = entries["value"]
    if mask & _STATUS:
        made["status"] = entries["status"]
    if mask & _SOURCE:
        made["source"] = entries["utc_ns"] // 100 + EPOCH_TICKS
    if mask & _SERVER:
        made["server"] = entries["server_ns"] // 100 + EPOCH_TICKS
    return made.tobytes()


def notifications(
    handle: NDArray[np.uint32], stamps: NDArray[np.uint8], entries: NDArray[np.void]
) -> bytes:
    """MonitoredItemNotifications, one an item, one behind the other; any order among items.

    handle   (N,) client handles
    stamps   (N,) TimestampsToReturn
    entries  (N,) ENTRY
    """
    form, status = entries["form"], entries["status"]
    mask = (form != NO_FORM).astype(np.uint8)
    mask |= (status != 0).astype(np.uint8) * np.uint8(_STATUS)
    mask |= (_HAS_SOURCE[stamps] & (entries["utc_ns"] > 0)).astype(np.uint8) * np.uint8(_SOURCE)
    mask |= (_HAS_SERVER[stamps] & (entries["server_ns"] > 0)).astype(np.uint8) * np.uint8(_SERVER)
    shape = form * np.uint8(16) + mask
    first = int(shape[0])
    if (shape == first).all():
        return _block(first >> 4, first & 15, handle, entries)
    blocks = []
    for one in np.unique(shape).tolist():
        chosen = np.flatnonzero(shape == one)
        blocks.append(_block(one >> 4, one & 15, handle[chosen], entries[chosen]))
    return b"".join(blocks)


@lru_cache(maxsize=128)
def _packer(form: int, mask: int) -> struct.Struct:
    text = "<IB"
    if mask & _VALUE:
        text += "B" + _STRUCT[form]
    if mask & _STATUS:
        text += "I"
    if mask & _SOURCE:
        text += "q"
    if mask & _SERVER:
        text += "q"
    return struct.Struct(text)


def notification(handle: int, stamps: int, entry: Sequence[Any]) -> bytes:
    """One MonitoredItemNotification; `entry` has the fields of ENTRY."""
    value, status, utc_ns, server_ns, form = entry
    content: list[Any] = []
    mask = 0
    if form != NO_FORM:
        mask |= _VALUE
        content += (form, value if form == DOUBLE else int(value))
    if status:
        mask |= _STATUS
        content.append(status)
    if utc_ns > 0 and stamps in _SOURCE_TIMES:
        mask |= _SOURCE
        content.append(ticks_of(utc_ns))
    if server_ns > 0 and stamps in _SERVER_TIMES:
        mask |= _SERVER
        content.append(ticks_of(server_ns))
    return _packer(form, mask).pack(handle, mask, *content)


def notification_of(handle: int, stamps: int, shown: ua.DataValue, overflow: int) -> bytes:
    """One MonitoredItemNotification of any value; `overflow` is OVERFLOW or 0."""
    status = (shown.StatusCode.value if shown.StatusCode is not None else 0) | overflow
    made = ua.DataValue(
        StatusCode=ua.StatusCode(ua.UInt32(status)) if status else None,
        SourceTimestamp=shown.SourceTimestamp if stamps in _SOURCE_TIMES else None,
        ServerTimestamp=shown.ServerTimestamp if stamps in _SERVER_TIMES else None,
    )
    made.Value = shown.Value
    return struct.pack("<I", handle) + struct_to_binary(made)


def event_fields(handle: int, fields: Sequence[ua.Variant]) -> bytes:
    """An EventFieldList."""
    return struct.pack("<Ii", handle, len(fields)) + b"".join(
        [variant_to_binary(one) for one in fields]
    )


def _part(encoding: int, body: bytes) -> bytes:
    """An ExtensionObject with a binary body."""
    return struct.pack("<BBHBi", 1, 0, encoding, 1, len(body)) + body


def message(
    number: int, utc_ns: int, data: Sequence[bytes], data_count: int, events: Sequence[bytes]
) -> bytes:
    """A NotificationMessage; `data` are encoded notifications, `data_count` of them in all.

    Without either it is a keep-alive.
    """
    parts = []
    if data_count:
        body = b"".join((struct.pack("<i", data_count), *data, _NO_ENTRIES))
        parts.append(_part(_DATA, body))
    if events:
        parts.append(_part(_EVENTS, struct.pack("<i", len(events)) + b"".join(events)))
    head = struct.pack("<Iqi", number, ticks_of(utc_ns), len(parts))
    return b"".join((head, *parts))


def status_message(number: int, utc_ns: int, code: int) -> bytes:
    """A NotificationMessage with a StatusChangeNotification."""
    body = struct.pack("<IB", code, 0)
    return struct.pack("<Iqi", number, ticks_of(utc_ns), 1) + _part(_STATUS_CHANGE, body)


def publish_response(
    handle: int,
    utc_ns: int,
    subscription_id: int,
    available: Iterable[int],
    content: bytes,
    results: Sequence[int],
    *,
    more: bool,
) -> bytes:
    """An encoded PublishResponse; `handle` is the request's, `results` of acknowledgements."""
    numbers = list(available)
    return b"".join(
        (
            response_head(_PUBLISH, handle, ticks_of(utc_ns)),
            struct.pack(f"<Ii{len(numbers)}I?", subscription_id, len(numbers), *numbers, more),
            content,
            struct.pack(f"<i{len(results)}Ii", len(results), *results, 0),
        )
    )


def republish_response(handle: int, utc_ns: int, content: bytes) -> bytes:
    """An encoded RepublishResponse."""
    return response_head(_REPUBLISH, handle, ticks_of(utc_ns)) + content
