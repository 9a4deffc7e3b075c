"""What counts as a change for a monitored item (OPC 10000-4, 7.22.2; OPC 10000-8, 6.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from asyncua import ua

# `ua.DataChangeFilter` is a subclass that the library's decoder does not make.
from asyncua.ua.uaprotocol_auto import DataChangeFilter
from numpy.typing import NDArray

from config.points import PointDef
from gateway.opcua.monitoring.encoding import DOUBLE, NO_FORM

STATUS: Final = ua.DataChangeTrigger.Status.value
STATUS_VALUE: Final = ua.DataChangeTrigger.StatusValue.value
STATUS_VALUE_TIMESTAMP: Final = ua.DataChangeTrigger.StatusValueTimestamp.value
_CODES: Final = ua.StatusCodes
# SByte to Double; a deadband on anything else means nothing.
_NUMBERS: Final = range(ua.VariantType.SByte.value, ua.VariantType.Double.value + 1)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Trigger and deadband of an item.

    deadband  absolute, in the value's units; 0 = none
    percent   of the point's range, which may change with the configuration; 0 = none
    """

    trigger: int = STATUS_VALUE
    deadband: float = 0.0
    percent: float = 0.0

    def on(self, point: PointDef | None) -> float:
        """The absolute deadband on a point as it is configured now; 0 without a range."""
        if not self.percent:
            return self.deadband
        return self.percent / 100.0 * _span(point)


def _span(point: PointDef | None) -> float:
    """The width of a point's EURange; 0 where it has none."""
    if point is None:
        return 0.0
    span = point.value_max - point.value_min
    return span if math.isfinite(span) and span > 0 else 0.0


def no_filter(given: Any) -> bool:
    """True where a client gave no filter."""
    return given is None or (isinstance(given, ua.ExtensionObject) and given.TypeId.is_null())


def wanted_of(
    given: Any, attribute: int, kind: ua.VariantType | None, point: PointDef | None
) -> tuple[Wanted, int]:
    """A client's filter for an attribute, and a status code where it can't be served, else 0.

    kind   type of the value, None where it is not known
    point  None where the node is no point
    """
    plain = Wanted()
    if no_filter(given):
        return plain, 0
    if isinstance(given, ua.AggregateFilter):
        return plain, _CODES.BadMonitoredItemFilterUnsupported
    if not isinstance(given, DataChangeFilter) or attribute != ua.AttributeIds.Value:
        return plain, _CODES.BadFilterNotAllowed
    trigger, size = int(given.Trigger), given.DeadbandValue
    if given.DeadbandType == ua.DeadbandType.None_:
        return Wanted(trigger), 0
    if given.DeadbandType not in (ua.DeadbandType.Absolute, ua.DeadbandType.Percent):
        return plain, _CODES.BadDeadbandFilterInvalid
    if not size >= 0 or math.isinf(size):
        return plain, _CODES.BadDeadbandFilterInvalid
    if given.DeadbandType == ua.DeadbandType.Absolute:
        if kind is not None and kind.value not in _NUMBERS:
            return plain, _CODES.BadFilterNotAllowed
        return Wanted(trigger, deadband=float(size)), 0
    if not _span(point) or kind != ua.VariantType.Double:
        return plain, _CODES.BadMonitoredItemFilterUnsupported
    if size > 100:
        return plain, _CODES.BadDeadbandFilterInvalid
    return Wanted(trigger, percent=float(size)), 0


def is_reportable(old: ua.DataValue | None, new: ua.DataValue, wanted: Wanted) -> bool:
    """True where `new` differs enough from the value that the client has.

    Measured against the last value that was reported, not the last one that was seen, so that a
    value which creeps by less than the deadband is reported once it has left it.
    """
    if old is None or old.StatusCode != new.StatusCode:
        return True
    if wanted.trigger == STATUS:
        return False
    timed = wanted.trigger == STATUS_VALUE_TIMESTAMP
    if timed and old.SourceTimestamp != new.SourceTimestamp:
        return True
    if old.Value is None or new.Value is None:
        return old.Value != new.Value
    before, after = old.Value.Value, new.Value.Value
    if isinstance(before, int | float) and isinstance(after, int | float):
        if math.isnan(before) or math.isnan(after):
            return math.isnan(before) != math.isnan(after)
        if wanted.deadband > 0:
            return abs(after - before) > wanted.deadband
    return bool(old.Value != new.Value)


def reportable(
    old: NDArray[np.void],
    new: NDArray[np.void],
    trigger: NDArray[np.uint8],
    deadband: NDArray[np.float64],
) -> NDArray[np.bool_]:
    """`is_reportable` of points: (N,) ENTRY rows, what the client has and what came."""
    before, after = old["value"], new["value"]
    with np.errstate(invalid="ignore"):
        moved = np.abs(after - before) > deadband
    # Equal infinities differ by NaN; what is NaN on one side only differs, too.
    odd = ~np.isfinite(before) | ~np.isfinite(after)
    if odd.any():
        same = (before == after) | (np.isnan(before) & np.isnan(after))
        moved[odd] = ~same[odd]
    has_value = new["form"] != NO_FORM
    moved &= has_value
    moved |= old["form"] != new["form"]
    if (trigger != STATUS_VALUE).any():
        moved |= (trigger == STATUS_VALUE_TIMESTAMP) & (old["utc_ns"] != new["utc_ns"])
        moved &= trigger != STATUS
    moved |= old["status"] != new["status"]
    return moved


def forms(
    kinds: NDArray[np.uint8], entries: NDArray[np.void], whole_limits: NDArray[np.float64]
) -> None:
    """Fill in `form` of (N,) ENTRY rows; what a type can't hold becomes BadOutOfRange.

    A bad status has no value (OPC 10000-4, 7.11).

    kinds         (N,) built-in types of the points
    whole_limits  by built-in type: smallest and largest number that it holds, (26, 2)
    """
    status = entries["status"]
    entries["form"] = kinds
    whole = kinds != DOUBLE
    bad = (status >> np.uint32(30)) >= 2
    if whole.any():
        value = entries["value"]
        with np.errstate(invalid="ignore"):
            fits = (value >= whole_limits[kinds, 0]) & (value <= whole_limits[kinds, 1])
            fits &= value == np.floor(value)
        wrong = whole & ~fits & ~bad
        if wrong.any():
            status[wrong] = _CODES.BadOutOfRange
            bad |= wrong
    if bad.any():
        entries["form"][bad] = NO_FORM
        entries["value"][bad] = np.nan
