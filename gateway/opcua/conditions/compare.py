"""Values of event filters: compared and converted (OPC 10000-4, tables 123 and 126).

Here they are plain: numbers, texts, bytes, times, NodeIds, identifiers, and lists of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum
from typing import Any, Final

from asyncua import ua

TEXT_CHARS_MAX: Final = 100  # of what is read as a number or NodeId
_INTEGERS: Final = {
    ua.ObjectIds.SByte: (-(2**7), 2**7 - 1),
    ua.ObjectIds.Byte: (0, 2**8 - 1),
    ua.ObjectIds.Int16: (-(2**15), 2**15 - 1),
    ua.ObjectIds.UInt16: (0, 2**16 - 1),
    ua.ObjectIds.Int32: (-(2**31), 2**31 - 1),
    ua.ObjectIds.UInt32: (0, 2**32 - 1),
    ua.ObjectIds.Int64: (-(2**63), 2**63 - 1),
    ua.ObjectIds.UInt64: (0, 2**64 - 1),
}
_TRUTHS: Final = {"true": True, "1": True, "false": False, "0": False}


def content(value: ua.Variant) -> Any:
    """What a variant holds, plain."""
    found = value.Value
    return [_plain(one) for one in found] if isinstance(found, list) else _plain(found)


def _plain(value: Any) -> Any:
    if isinstance(value, ua.LocalizedText):
        return value.Text
    if isinstance(value, ua.QualifiedName):
        return value.Name
    if isinstance(value, ua.StatusCode):
        return value.value
    if isinstance(value, ua.Variant):
        return content(value)
    return value.value if isinstance(value, Enum) else value


def compared(first: Any, second: Any) -> int | None:
    """-1, 0 or 1 as the first is below, equal to or above the second; None where neither is so.

    A text beside a number or a NodeId is read as one.
    """
    if isinstance(first, str) != isinstance(second, str):
        first, second = _read_like(first, second), _read_like(second, first)
    if isinstance(first, int | float) and isinstance(second, int | float):
        if math.isnan(first) or math.isnan(second):
            return None
        return (first > second) - (first < second)
    if isinstance(first, ua.NodeId) and isinstance(second, ua.NodeId):
        return 0 if first == second else None
    if isinstance(first, list) and isinstance(second, list):
        same = len(first) == len(second) and all(map(_same, first, second))
        return 0 if same else None
    return _ordered(first, second)


def _ordered(first: Any, second: Any) -> int | None:
    """Two texts, byte strings, times or identifiers."""
    if type(first) is not type(second):
        return None
    try:
        return int(first > second) - int(first < second)
    except TypeError:
        return None  # such as structures: they have no order


def _same(first: Any, second: Any) -> bool:
    return compared(first, second) == 0


def _read_like(value: Any, other: Any) -> Any:
    """A text as what the other value is; None where it can't be read so."""
    if not isinstance(value, str):
        return value
    if len(value) > TEXT_CHARS_MAX:
        return None
    if isinstance(other, bool):
        return _TRUTHS.get(value.strip().lower())
    if isinstance(other, int | float):
        return _number(value)
    if isinstance(other, ua.NodeId):
        try:
            return ua.NodeId.from_string(value)
        except ua.UaError:
            return None
    return None


def _number(text: str) -> float | int | None:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return None


def bits(first: Any, second: Any, *, both: bool) -> int | None:
    """The bits that both whole numbers have, or one of them; None for anything else."""
    if type(first) is not int or type(second) is not int:
        return None
    return first & second if both else first | second


def cast(value: Any, data_type: ua.NodeId) -> Any:
    """A value in another type; None where it can't be. NotImplemented: the type isn't known."""
    kind = data_type.Identifier if data_type.NamespaceIndex == 0 else None
    if not isinstance(kind, int):
        return NotImplemented
    if kind in _INTEGERS:
        return _whole(value, *_INTEGERS[kind])
    ways: dict[int, Callable[[Any], Any]] = {
        ua.ObjectIds.Boolean: _boolean,
        ua.ObjectIds.Float: _real,
        ua.ObjectIds.Double: _real,
        ua.ObjectIds.String: _text,
    }
    return ways[kind](value) if kind in ways else NotImplemented


def _whole(value: Any, low: int, high: int) -> int | None:
    number = _read_like(value, 0)
    if not isinstance(number, int | float) or not math.isfinite(number):
        return None
    rounded = math.floor(number + 0.5) if isinstance(number, float) else int(number)
    return rounded if low <= rounded <= high else None


def _real(value: Any) -> float | None:
    number = _read_like(value, 0)
    try:
        return float(number) if isinstance(number, int | float) else None
    except OverflowError:
        return None


def _boolean(value: Any) -> bool | None:
    truth = _read_like(value, False)
    return bool(truth) if isinstance(truth, int | float) else None


def _text(value: Any) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, ua.NodeId):
        return value.to_string()
    return str(value) if isinstance(value, int | float | str) else None
