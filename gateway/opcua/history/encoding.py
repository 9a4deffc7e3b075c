"""HistoryData and HistoryReadResult as bytes (OPC 10000-6, 5.2; OPC 10000-11, 6.6).

A day of a point that changes every second is 86,400 values: as objects of the library they would
take seconds, as arrays some milliseconds.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

import numpy as np
from asyncua import ua
from numpy.typing import NDArray

from config import status as codes
from gateway.opcua.values import EPOCH_TICKS

_VALUE, _STATUS, _SOURCE = 0x01, 0x02, 0x04  # fields of a DataValue that are there
_TYPES: Final = {
    ua.VariantType.Boolean: np.dtype("u1"),
    ua.VariantType.Int32: np.dtype("<i4"),
    ua.VariantType.UInt32: np.dtype("<u4"),
    ua.VariantType.Int64: np.dtype("<i8"),
    ua.VariantType.Double: np.dtype("<f8"),
}
_LIMITS: Final = {
    ua.VariantType.Boolean: (0.0, 1.0),
    ua.VariantType.Int32: (-(2.0**31), 2.0**31 - 1),
    ua.VariantType.UInt32: (0.0, 2.0**32 - 1),
    ua.VariantType.Int64: (-(2.0**63), 2.0**63 - 1024),
}
_BARE: Final = np.dtype([("mask", "u1"), ("status", "<u4"), ("time", "<i8")])
VALUE_BYTES_MAX: Final = 22  # of a value: mask, type, eight bytes, code, time
HISTORY_DATA: Final = ua.ObjectIds.HistoryData_Encoding_DefaultBinary
HISTORY_EVENT: Final = ua.ObjectIds.HistoryEvent_Encoding_DefaultBinary
_NOTHING: Final = b"\x00\x00\x00"  # an ExtensionObject without type and body


def ticks_of(utc_ns: int) -> int:
    """A time as it travels: 100 ns since 1601."""
    return utc_ns // 100 + EPOCH_TICKS


def _fits(value: NDArray[np.float64], kind: ua.VariantType) -> NDArray[np.bool_]:
    low, high = _LIMITS[kind]
    fits: NDArray[np.bool_] = (value >= low) & (value <= high) & (value == np.floor(value))
    return fits


def data_values(
    time_ns: NDArray[np.int64],
    value: NDArray[np.float64],
    status: NDArray[np.uint32],
    kind: ua.VariantType,
) -> bytes:
    """(n,) values with code and source time as an encoded array of DataValue.

    A bad one has no value; one that `kind` can't hold is BadOutOfRange, as in a Read.
    """
    has = status < codes.BAD
    if kind != ua.VariantType.Double:
        fits = _fits(value, kind)
        status = np.where(has & ~fits, codes.BAD_OUT_OF_RANGE, status).astype(np.uint32)
        has = has & fits
    ticks = time_ns // 100 + EPOCH_TICKS
    content = np.dtype(
        [
            ("mask", "u1"),
            ("type", "u1"),
            ("value", _TYPES[kind]),
            ("status", "<u4"),
            ("time", "<i8"),
        ]
    )
    full = np.empty(int(has.sum()), dtype=content)
    full["mask"], full["type"] = _VALUE | _STATUS | _SOURCE, kind.value
    full["value"], full["status"], full["time"] = value[has], status[has], ticks[has]
    head = struct.pack("<i", len(status))
    if len(full) == len(status):
        return head + full.tobytes()
    bare = np.empty(len(status) - len(full), dtype=_BARE)
    bare["mask"] = _STATUS | _SOURCE
    bare["status"], bare["time"] = status[~has], ticks[~has]
    if not len(full):
        return head + bare.tobytes()
    sizes = np.where(has, content.itemsize, _BARE.itemsize)
    places = np.cumsum(sizes) - sizes
    whole = np.empty(int(sizes.sum()), dtype=np.uint8)
    for some, rows in ((has, full), (~has, bare)):
        size = rows.dtype.itemsize
        whole[places[some][:, None] + np.arange(size)] = rows.view(np.uint8).reshape(-1, size)
    return head + whole.tobytes()


def events(field_lists: Sequence[bytes]) -> bytes:
    """Encoded lists of event fields as an encoded array."""
    return struct.pack("<i", len(field_lists)) + b"".join(field_lists)


def result(status: int, point: bytes = b"", body: bytes | None = None, of: int = 0) -> bytes:
    """A HistoryReadResult: its code, where to go on (empty = no more), and its data.

    of  number of the encoding of the data, e.g. HISTORY_DATA
    """
    mark = struct.pack("<i", len(point)) + point if point else b"\xff\xff\xff\xff"
    if body is None:
        return struct.pack("<I", status) + mark + _NOTHING
    head = struct.pack("<BBHBi", 1, 0, of, 1, len(body))
    return b"".join((struct.pack("<I", status), mark, head, body))
