"""Sparkplug B payloads: bytes to metrics and back.

Sources: Sparkplug 3.0.0 (Eclipse Foundation, 2022) chapter 6 and the message definition of Eclipse
Tahu, `sparkplug_b.proto` (package org.eclipse.tahu.protobuf, protocol buffers "proto2"). Numbers in
comments are that file's field numbers. What a gateway has no use for (data sets, templates, meta
data, files) is skipped over; nothing else of a payload is lost. Everything here is pure.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from drivers.errors import Garbled, OutOfRange
from drivers.inbox import whole_in

NAMESPACE: Final = "spBv1.0"
REBIRTH: Final = "Node Control/Rebirth"
BD_SEQ: Final = "bdSeq"
QUALITY: Final = "Quality"
SEQ_MODULO: Final = 256

METRICS_MAX: Final = 20_000  # of one payload
NAME_BYTES_MAX: Final = 4_096
TEXT_BYTES_MAX: Final = 65_536
_VARINT_BYTES_MAX: Final = 10
_UINT64: Final = (1 << 64) - 1


class DataType(IntEnum):
    """The numbers of `datatype`; arrays, which no point can show, have none here."""

    UNKNOWN = 0
    INT8 = 1
    INT16 = 2
    INT32 = 3
    INT64 = 4
    UINT8 = 5
    UINT16 = 6
    UINT32 = 7
    UINT64 = 8
    FLOAT = 9
    DOUBLE = 10
    BOOLEAN = 11
    STRING = 12
    DATE_TIME = 13
    TEXT = 14
    UUID = 15
    DATA_SET = 16
    BYTES = 17
    FILE = 18
    TEMPLATE = 19


# Whole numbers: bits, and whether negative numbers are held in two's complement.
WHOLE: Final[dict[int, tuple[int, bool]]] = {
    DataType.INT8: (8, True),
    DataType.INT16: (16, True),
    DataType.INT32: (32, True),
    DataType.INT64: (64, True),
    DataType.UINT8: (8, False),
    DataType.UINT16: (16, False),
    DataType.UINT32: (32, False),
    DataType.UINT64: (64, False),
    DataType.DATE_TIME: (64, False),
}
NUMBERS: Final = frozenset((*WHOLE, DataType.FLOAT, DataType.DOUBLE, DataType.BOOLEAN))
TEXTS: Final = frozenset((DataType.STRING, DataType.TEXT, DataType.UUID))

Value = bool | int | float | str | bytes
UNREADABLE: Final = b""  # stands for a table, a template, a number that its type can't have


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric of a payload.

    name, alias    at least one is there; an alias stands for the name that a birth gave it
    datatype       a number of `DataType`; 0 = not said, the birth's counts
    value          None = null; bytes = a file, or something else that no point can show. Of a
                   whole number without `datatype` the sign is not known: see `number_of`
    timestamp_ms   of the value, UTC since 1970; None = the payload's counts
    historical     an old value, sent behind time: never the current one
    quality        0 = bad, 192 = good, 500 = stale; None = not said
    wide           a whole number of 32 bits or less stands in `long_value`, as some encoders have
                   it for UInt32
    """

    name: str = ""
    alias: int | None = None
    datatype: int = 0
    value: Value | None = None
    timestamp_ms: int | None = None
    historical: bool = False
    quality: int | None = None
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Payload:
    """A payload; `seq` is None in deaths and commands."""

    metrics: tuple[Metric, ...] = ()
    timestamp_ms: int | None = None
    seq: int | None = None


@dataclass(frozen=True, slots=True)
class Topic:
    """``spBv1.0/<group>/<kind>/<node>[/<device>]``; `device` is empty for the node itself."""

    group: str
    kind: str
    node: str
    device: str = ""

    def __str__(self) -> str:
        parts = [NAMESPACE, self.group, self.kind, self.node]
        return "/".join([*parts, self.device] if self.device else parts)


def parse_topic(text: str) -> Topic | None:
    """A topic, or a filter with `+` for the kind, taken apart; None where it is none."""
    parts = text.split("/")
    if parts[0] != NAMESPACE or len(parts) not in (4, 5) or not all(parts):
        return None
    return Topic(*parts[1:])


# ---------------------------------------------------------------- the wire format


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number that begins at `at`, and where the next thing begins."""
    number = shift = 0
    for place in range(at, min(at + _VARINT_BYTES_MAX, len(data))):
        byte = data[place]
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number & _UINT64, place + 1
        shift += 7
    raise Garbled("Sparkplug: a number without end")


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field number and content: a whole number, the bits of a float, or bytes."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, form = key >> 3, key & 7
        if number == 0:
            raise Garbled("Sparkplug: a field with the number 0")
        if form == 0:
            whole, at = _varint(data, at)
            yield number, whole
            continue
        if form == 2:
            size, at = _varint(data, at)
        elif form in (1, 5):
            size = 8 if form == 1 else 4
        else:
            raise Garbled(f"Sparkplug: a field of the unknown form {form}")
        if size > len(data) - at:
            raise Garbled(f"Sparkplug: {size} bytes announced, {len(data) - at} there")
        content = data[at : at + size]
        at += size
        yield number, content


def _whole(content: int | bytes) -> int:
    if isinstance(content, bytes):
        raise Garbled("Sparkplug: bytes in place of a number")
    return content


def _bytes(content: int | bytes, size_max: int) -> bytes:
    if isinstance(content, int):
        raise Garbled("Sparkplug: a number in place of bytes")
    if len(content) > size_max:
        raise Garbled(f"Sparkplug: a text of {len(content)} bytes")
    return content


def _text(content: int | bytes, size_max: int = TEXT_BYTES_MAX) -> str:
    try:
        return _bytes(content, size_max).decode()
    except UnicodeDecodeError:
        raise Garbled("Sparkplug: a text that is not UTF-8") from None


def _float(content: int | bytes, size: int) -> float:
    data = _bytes(content, TEXT_BYTES_MAX)
    if len(data) != size:
        raise Garbled(f"Sparkplug: a float of {len(data)} bytes")
    return float(struct.unpack("<f" if size == 4 else "<d", data)[0])


# ---------------------------------------------------------------- decoding


def decode(data: bytes) -> Payload:
    """A payload out of its bytes. Raises Garbled, and nothing else."""
    metrics: list[Metric] = []
    timestamp_ms = seq = None
    for number, content in _fields(data):
        if number == 1:
            timestamp_ms = _whole(content)
        elif number == 2:
            if len(metrics) == METRICS_MAX:
                raise Garbled(f"Sparkplug: more than {METRICS_MAX} metrics in one payload")
            metrics.append(_metric(_bytes(content, len(data))))
        elif number == 3:
            seq = _whole(content)
    return Payload(tuple(metrics), timestamp_ms, seq)


def _metric(data: bytes) -> Metric:
    name, alias, timestamp_ms, quality = "", None, None, None
    datatype, historical, null = 0, False, False
    value: Value | None = None
    wide = False
    for number, content in _fields(data):
        if number == 1:
            name = _text(content, NAME_BYTES_MAX)
        elif number == 2:
            alias = _whole(content)
        elif number == 3:
            timestamp_ms = _whole(content)
        elif number == 4:
            datatype = _whole(content)
        elif number == 5:
            historical = bool(_whole(content))
        elif number == 7:
            null = bool(_whole(content))
        elif number == 9:
            quality = _quality(_bytes(content, len(data)))
        elif 10 <= number <= 19:
            value, wide = _value(number, content), number == 11
    if not name and alias is None:
        raise Garbled("Sparkplug: a metric without name and alias")
    shown = None if null else _signed(value, datatype)
    wide = wide and datatype in WHOLE and WHOLE[datatype][0] <= 32
    return Metric(name, alias, datatype, shown, timestamp_ms, historical, quality, wide)


def _value(number: int, content: int | bytes) -> Value:
    if number == 10:
        return _whole(content) & 0xFFFFFFFF  # uint32: some encoders extend the sign to 64 bits
    if number == 11:
        return _whole(content)
    if number in (12, 13):
        return _float(content, 4 if number == 12 else 8)
    if number == 14:
        return bool(_whole(content))
    if number == 15:
        return _text(content)
    if number == 16:
        return _bytes(content, TEXT_BYTES_MAX)
    return UNREADABLE


def _signed(value: Value | None, datatype: int) -> Value | None:
    """A whole number in the sign of its type; others as they are.

    Negative numbers come in the size of their type, or extended to 32 or 64 bits. Any other number
    that its type can't have is unreadable: cut to size it would look like a good one.
    """
    if datatype not in WHOLE or isinstance(value, bool) or not isinstance(value, int):
        return value
    bits, signed = WHOLE[datatype]
    if value < 0:
        return value  # signed already
    if value < 1 << bits:
        return value - (1 << bits) if signed and value >> bits - 1 else value
    for size in (32, 64):
        if signed and -(1 << bits - 1) <= value - (1 << size) < 0:
            return value - (1 << size)
    return UNREADABLE


def _quality(data: bytes) -> int | None:
    """The property `Quality` of a property set: `keys` (1) and `values` (2) in the same order."""
    keys: list[str] = []
    values: list[bytes] = []
    for number, content in _fields(data):
        if number == 1:
            keys.append(_text(content, NAME_BYTES_MAX))
        elif number == 2:
            values.append(_bytes(content, len(data)))
    for key, value in zip(keys, values, strict=False):
        if key == QUALITY:
            for number, content in _fields(value):
                if number in (3, 4):  # int_value, long_value
                    return _whole(content)
    return None


def number_of(value: Value | None, datatype: int) -> float | None:
    """A metric's value as a number, in the type that its birth declared.

    NaN for null; None where it is no number of that type. Of a whole number in place of a float
    nobody knows the sign.
    """
    value = _signed(value, datatype)
    if value is None:
        return math.nan
    if isinstance(value, (str, bytes)) or datatype not in NUMBERS:
        return None
    if isinstance(value, int) and not isinstance(value, bool) and datatype not in WHOLE:
        return float(value) if datatype == DataType.BOOLEAN and value in (0, 1) else None
    return float(value)


# ---------------------------------------------------------------- encoding


def _put_varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _put_whole(field: int, number: int) -> bytes:
    return _put_varint(field << 3) + _put_varint(number)


def _put_bytes(field: int, data: bytes) -> bytes:
    return _put_varint(field << 3 | 2) + _put_varint(len(data)) + data


def encode(payload: Payload) -> bytes:
    """The bytes of a payload. Raises OutOfRange where a value does not fit its `datatype`."""
    parts = []
    if payload.timestamp_ms is not None:
        parts.append(_put_whole(1, payload.timestamp_ms))
    parts += [_put_bytes(2, _put_metric(metric)) for metric in payload.metrics]
    if payload.seq is not None:
        parts.append(_put_whole(3, payload.seq))
    return b"".join(parts)


def _put_metric(metric: Metric) -> bytes:
    parts = []
    if metric.name:
        parts.append(_put_bytes(1, metric.name.encode()))
    if metric.alias is not None:
        parts.append(_put_whole(2, metric.alias))
    if metric.timestamp_ms is not None:
        parts.append(_put_whole(3, metric.timestamp_ms))
    if metric.datatype:
        parts.append(_put_whole(4, metric.datatype))
    if metric.historical:
        parts.append(_put_whole(5, 1))
    if metric.value is None:
        parts.append(_put_whole(7, 1))
    if metric.quality is not None:
        parts.append(_put_bytes(9, _put_quality(metric.quality)))
    if metric.value is not None:
        parts.append(_put_value(metric.datatype, metric.value, metric.wide))
    return b"".join(parts)


def _put_quality(quality: int) -> bytes:
    value = _put_whole(1, DataType.INT32) + _put_whole(3, quality)
    return _put_bytes(1, QUALITY.encode()) + _put_bytes(2, value)


def _put_value(datatype: int, value: Value, wide: bool) -> bytes:
    if datatype in WHOLE and isinstance(value, (int, float)):
        bits, signed = WHOLE[datatype]
        number = whole_in(value, bits, signed)
        return _put_whole(11 if wide or bits > 32 else 10, number & (1 << bits) - 1)
    if datatype == DataType.BOOLEAN and value in (0, 1):
        return _put_whole(14, int(value))
    if datatype == DataType.FLOAT and isinstance(value, (int, float)):
        try:
            return _put_varint(12 << 3 | 5) + struct.pack("<f", value)
        except OverflowError:
            raise OutOfRange(f"{value:g} is too large for a Float") from None
    if datatype == DataType.DOUBLE and isinstance(value, (int, float)):
        return _put_varint(13 << 3 | 1) + struct.pack("<d", value)
    if datatype in TEXTS and isinstance(value, str):
        return _put_bytes(15, value.encode())
    if datatype == DataType.BYTES and isinstance(value, bytes):
        return _put_bytes(16, value)
    raise OutOfRange(f"{value!r} can't be sent as Sparkplug data type {datatype}")
