"""Numbers of clients in the type that a point or an argument has, without loss.

Part 4 lets a server refuse every type but the declared one. Control rooms write what their own
variables hold, so whole numbers and floating-point ones stand for each other where the value stays
the same. A Boolean and a number do so for 0 and 1. Texts and arrays never stand for a number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from asyncua import ua

_KINDS: Final = ua.VariantType
_WHOLE: Final[Mapping[ua.VariantType, tuple[int, int]]] = {
    _KINDS.SByte: (-(2**7), 2**7 - 1),
    _KINDS.Byte: (0, 2**8 - 1),
    _KINDS.Int16: (-(2**15), 2**15 - 1),
    _KINDS.UInt16: (0, 2**16 - 1),
    _KINDS.Int32: (-(2**31), 2**31 - 1),
    _KINDS.UInt32: (0, 2**32 - 1),
    _KINDS.Int64: (-(2**63), 2**63 - 1),
    _KINDS.UInt64: (0, 2**64 - 1),
}
_FLOATS: Final = (_KINDS.Float, _KINDS.Double)
_FLOAT_MAX: Final = 3.4028234663852886e38
NUMBERS: Final = frozenset((*_WHOLE, *_FLOATS))


class Mismatch(Exception):
    """A value does not fit a type: a status code, and the reason in words."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def scalar(variant: ua.Variant | None) -> ua.Variant:
    """A variant that holds one value. Raises Mismatch."""
    if variant is None or variant.Value is None or variant.VariantType == _KINDS.Null:
        raise Mismatch(ua.StatusCodes.BadTypeMismatch, "there is no value")
    if variant.is_array or isinstance(variant.Value, list):
        raise Mismatch(ua.StatusCodes.BadTypeMismatch, "an array; one value is needed")
    return variant


def converted(variant: ua.Variant | None, kind: ua.VariantType) -> Any:
    """The value of a scalar as another number type, or Boolean, holds it.

    Raises Mismatch: BadTypeMismatch where the types don't stand for each other, BadOutOfRange
    where the value would change.
    """
    variant = scalar(variant)
    value, given = variant.Value, variant.VariantType
    if given == kind:
        return value
    name = getattr(given, "name", "no number")
    if given not in NUMBERS and given != _KINDS.Boolean:
        raise Mismatch(ua.StatusCodes.BadTypeMismatch, f"{name} is given, {kind.name} is needed")
    made: Any = None
    if kind in _FLOATS:
        made = _as_float(value, kind)
    elif kind == _KINDS.Boolean:
        made = bool(value) if value in (0, 1) else None
    elif kind in _WHOLE:
        made = _as_whole(value, *_WHOLE[kind])
    else:
        raise Mismatch(ua.StatusCodes.BadTypeMismatch, f"{name} is given, {kind.name} is needed")
    if made is None:
        raise Mismatch(ua.StatusCodes.BadOutOfRange, f"{kind.name} can't hold {value!r}")
    return made


def _as_float(value: float | bool, kind: ua.VariantType) -> float | None:
    made = float(value)
    if isinstance(value, int) and int(made) != value:
        return None  # beyond 2^53
    if kind == _KINDS.Float and math.isfinite(made) and abs(made) > _FLOAT_MAX:
        return None
    return made


def _as_whole(value: float | bool, low: int, high: int) -> int | None:
    if not math.isfinite(value) or value != math.floor(value):
        return None
    return int(value) if low <= int(value) <= high else None


def point_value(variant: ua.Variant | None, kind: ua.VariantType) -> float:
    """A written value as the point table keeps it. Raises Mismatch.

    kind  how the point's value travels, see gateway/opcua/values.py
    """
    value = converted(variant, kind)
    made = float(value)
    if isinstance(value, int) and int(made) != value:
        raise Mismatch(ua.StatusCodes.BadOutOfRange, f"{value} has more than 53 bits")
    return made
