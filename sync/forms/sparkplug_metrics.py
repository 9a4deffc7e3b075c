"""Values as Sparkplug metrics: their types, qualities and properties, and messages of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from config import status
from sync.forms import sparkplug_payload as sp
from sync.link.tables import Point, split_tag

METRICS_MAX: Final = 1000  # of one data message; about 30 kB
TEXT_BYTES_MAX: Final = 250_000  # of the texts in one; a longer text goes by itself
_WHOLE_MAX: Final = 2.0**63

Value = bool | int | float | str | None


@dataclass(frozen=True, slots=True)
class Sample:
    """A value of a metric; `value` None = null."""

    alias: int
    timestamp_ms: int
    value: Value
    historical: bool
    code: int = status.GOOD


def quality_of(code: int) -> int:
    """Sparkplug's quality of an OPC UA status code: what is uncertain is not to look good."""
    if code >= status.BAD:
        return sp.QUALITY_BAD
    return sp.QUALITY_STALE if code >> 30 else sp.QUALITY_GOOD


def metric_name(tag: str) -> str:
    """``Equipment/Channel``; hosts make a folder of each equipment."""
    equipment, channel = split_tag(tag)
    return f"{equipment}/{channel}" if equipment else channel


def put_value(metric: Any, value: Value) -> None:
    """Sets a metric's value, or that it is null."""
    if value is None:
        metric.is_null = True
    elif isinstance(value, bool):
        metric.boolean_value = value
    elif isinstance(value, str):
        metric.string_value = value
    elif isinstance(value, int):
        metric.long_value = value & 0xFFFFFFFFFFFFFFFF  # negative ones in two's complement
    else:
        metric.double_value = value


def value_of(value: float, discrete: bool) -> float | int | None:
    """A point's value in the type of its metric: Double, or Int64 for a discrete point.

    None where there is none: NaN, or a discrete point's value that is no whole number.
    """
    if math.isnan(value):
        return None
    if not discrete:
        return value
    return int(value) if value.is_integer() and -_WHOLE_MAX <= value < _WHOLE_MAX else None


def messages(samples: Iterable[Sample]) -> list[list[Sample]]:
    """Samples in the order of their time, parted into messages of bounded size.

    A message has a metric and time once, and no value of a metric comes before an older one of it,
    so that the last one that a host gets is the newest.
    """
    parts: list[list[Sample]] = []
    texts: list[int] = []  # bytes of the texts in each part
    last: dict[int, tuple[int, int]] = {}  # alias -> time of its newest sample, and its part
    for sample in samples:
        size = len(sample.value.encode()) if isinstance(sample.value, str) else 0
        timestamp_ms, at = last.get(sample.alias, (-1, 0))
        if timestamp_ms == sample.timestamp_ms:
            at += 1
        while at < len(parts) and (
            len(parts[at]) == METRICS_MAX or (size and texts[at] + size > TEXT_BYTES_MAX)
        ):
            at += 1
        if at == len(parts):
            parts.append([])
            texts.append(0)
        parts[at].append(sample)
        texts[at] += size
        last[sample.alias] = (sample.timestamp_ms, at)
    return parts


def put_quality(metric: Any, code: int) -> None:
    """Quality and OPC UA status of a metric, as its properties."""
    sp.add_property(metric, "Quality", sp.INT32, quality_of(code))
    sp.add_property(metric, "StatusCode", sp.INT64, code)


def describe(metric: Any, point: Point, code: int) -> None:
    """Quality, and what the definition says, as properties of a metric in a birth."""
    put_quality(metric, code)
    for key, text in (("engUnit", point.units), ("documentation", point.description)):
        if text:
            sp.add_property(metric, key, sp.STRING, text)
    for key, limit in (("engLow", point.value_min), ("engHigh", point.value_max)):
        if math.isfinite(limit):
            sp.add_property(metric, key, sp.DOUBLE, limit)
    if point.states:
        sp.add_property(metric, "states", sp.STRING, json.dumps(point.states))
