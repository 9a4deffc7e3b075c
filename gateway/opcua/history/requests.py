"""What a HistoryRead asks for (OPC 10000-4, 5.11.3; OPC 10000-11, 6.5).

Decoded here instead of by the library, because its times have no more than microseconds.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import nodeid_from_binary, struct_from_binary
from numpy.typing import NDArray

from gateway.opcua.history.series import Configuration
from gateway.opcua.service import Fault
from gateway.opcua.values import EPOCH_TICKS

NODES_MAX: Final = 1000
TIMES_MAX: Final = 10_000  # of one ReadAtTime
POINT_BYTES: Final = 16
_CODES: Final = ua.StatusCodes
_IDS: Final = ua.ObjectIds
# Times beyond these are as good as none; they leave room for sums in 64 bits.
_LATEST_NS: Final = 2**62
_EARLIEST_NS: Final = -(2**62)


@dataclass(frozen=True, slots=True)
class RawDetails:
    """ReadRawModifiedDetails; a time is None where it is not specified, a limit 0."""

    modified: bool
    start_ns: int | None
    end_ns: int | None
    limit: int
    bounds: bool


@dataclass(frozen=True, slots=True)
class ProcessedDetails:
    """ReadProcessedDetails; `configuration` None = the server's defaults."""

    start_ns: int | None
    end_ns: int | None
    interval_ms: float
    aggregates: tuple[ua.NodeId, ...]
    configuration: Configuration | None


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class AtTimeDetails:
    """ReadAtTimeDetails; (n,) times as they were asked for."""

    times_ns: NDArray[np.int64]
    simple_bounds: bool


@dataclass(frozen=True, slots=True)
class EventDetails:
    """ReadEventDetails."""

    limit: int
    start_ns: int | None
    end_ns: int | None
    filter: ua.EventFilter


Details = RawDetails | ProcessedDetails | AtTimeDetails | EventDetails


@dataclass(frozen=True, slots=True)
class Wanted:
    """One node of a request; `point` empty = from the beginning."""

    node: ua.NodeId
    index_range: str
    encoding: str
    point: bytes


@dataclass(frozen=True, slots=True)
class HistoryRequest:
    """A HistoryRead."""

    details: Details
    timestamps: int
    release: bool
    wanted: tuple[Wanted, ...]


def _unpack(body: Buffer, form: str) -> Any:
    return struct.unpack(form, body.read(struct.calcsize(form)))


def time_ns(ticks: int) -> int | None:
    """A time from the wire, ns UTC; None for the value that stands for no time."""
    if ticks <= 0:
        return None
    return max(_EARLIEST_NS, min((ticks - EPOCH_TICKS) * 100, _LATEST_NS))


def _time(body: Buffer) -> int | None:
    return time_ns(int(_unpack(body, "<q")[0]))


def _count(body: Buffer, most: int, code: int) -> int:
    count = max(int(_unpack(body, "<i")[0]), 0)
    if count > most:
        raise Fault(code)
    return count


def _bytes(body: Buffer) -> bytes:
    size = int(_unpack(body, "<i")[0])
    return body.read(size) if size > 0 else b""


def _raw(body: Buffer) -> RawDetails:
    modified = bool(_unpack(body, "<B")[0])
    start, end = _time(body), _time(body)
    limit, bounds = _unpack(body, "<IB")
    return RawDetails(modified, start, end, int(limit), bool(bounds))


def _processed(body: Buffer) -> ProcessedDetails:
    start, end = _time(body), _time(body)
    interval_ms = float(_unpack(body, "<d")[0])
    count = _count(body, NODES_MAX, _CODES.BadTooManyOperations)
    aggregates = tuple(nodeid_from_binary(body) for _ in range(count))
    default, uncertain, bad, good, sloped = _unpack(body, "<5B")
    configuration = None
    if not default:
        configuration = Configuration(bool(uncertain), float(bad), float(good), bool(sloped))
    return ProcessedDetails(start, end, interval_ms, aggregates, configuration)


def _at_time(body: Buffer) -> AtTimeDetails:
    count = _count(body, TIMES_MAX, _CODES.BadTooManyOperations)
    ticks = np.array(_unpack(body, f"<{count}q"), dtype=np.int64)
    earliest, latest = (ns // 100 + EPOCH_TICKS for ns in (_EARLIEST_NS, _LATEST_NS))
    times = (np.clip(ticks, earliest, latest) - EPOCH_TICKS) * 100
    return AtTimeDetails(times, bool(_unpack(body, "<B")[0]))


def _events(body: Buffer) -> EventDetails:
    (limit,) = _unpack(body, "<I")
    start, end = _time(body), _time(body)
    return EventDetails(int(limit), start, end, struct_from_binary(ua.EventFilter, body))


_READERS: Final[dict[int, Callable[[Buffer], Details]]] = {
    _IDS.ReadRawModifiedDetails_Encoding_DefaultBinary: _raw,
    _IDS.ReadProcessedDetails_Encoding_DefaultBinary: _processed,
    _IDS.ReadAtTimeDetails_Encoding_DefaultBinary: _at_time,
    _IDS.ReadEventDetails_Encoding_DefaultBinary: _events,
}


def _details(body: Buffer) -> Details:
    """The ExtensionObject that says what is to be read."""
    kind = nodeid_from_binary(body)
    has_body = _unpack(body, "<B")[0] == 1
    reader = None
    if kind.NamespaceIndex == 0 and isinstance(kind.Identifier, int):
        reader = _READERS.get(kind.Identifier)
    if reader is None or not has_body:
        raise Fault(_CODES.BadHistoryOperationInvalid)
    size = int(_unpack(body, "<i")[0])
    content = body.copy(max(size, 0))
    body.skip(size)
    return reader(content)


def _wanted(body: Buffer) -> Wanted:
    node = nodeid_from_binary(body)
    index_range = _bytes(body).decode("utf-8", "replace")
    body.skip(2)  # namespace of the encoding's name
    encoding = _bytes(body).decode("utf-8", "replace")
    return Wanted(node, index_range, encoding, _bytes(body))


def decode(body: Buffer) -> HistoryRequest:
    """What stands behind the RequestHeader. Raises Fault."""
    try:
        details = _details(body)
        timestamps, release = _unpack(body, "<IB")
        count = _count(body, NODES_MAX, _CODES.BadTooManyOperations)
        wanted = tuple(_wanted(body) for _ in range(count))
    except Fault:
        raise
    except (struct.error, ValueError, TypeError, ua.UaError) as error:
        raise Fault(_CODES.BadDecodingError) from error
    if not wanted:
        raise Fault(_CODES.BadNothingToDo)
    if timestamps > 2 and not isinstance(details, EventDetails):
        raise Fault(_CODES.BadTimestampsToReturnInvalid)
    return HistoryRequest(details, int(timestamps), bool(release), wanted)


def configuration_fault(configuration: Configuration | None) -> int:
    """Why an AggregateConfiguration can't be used, 0 where it can (OPC 10000-13, 4.2.1.2)."""
    if configuration is None:
        return 0
    bad, good = configuration.percent_bad, configuration.percent_good
    legal = bad <= 100 and good <= 100 and good >= 100 - bad
    return 0 if legal else int(_CODES.BadAggregateConfigurationRejected)


def interval_ns(details: ProcessedDetails, span_ns: int) -> int:
    """The length of an interval in ns, at most the whole span. Raises Fault where it is none."""
    if not math.isfinite(details.interval_ms) or details.interval_ms < 0:
        raise Fault(_CODES.BadInvalidArgument)
    if details.interval_ms == 0 or details.interval_ms * 1e6 >= span_ns:
        return span_ns
    # Whole steps of 100 ns, because times have no finer ones.
    length = round(details.interval_ms * 1e4) * 100
    if length <= 0:
        raise Fault(_CODES.BadInvalidArgument)
    return min(length, span_ns)
