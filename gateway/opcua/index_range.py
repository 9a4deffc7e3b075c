"""Parts of arrays and texts that an index range names (OPC 10000-4, 7.27)."""

from __future__ import annotations

import re
from typing import Any, Final

from asyncua import ua

_RANGE: Final = re.compile(r"(\d{1,10})(?::(\d{1,10}))?", re.ASCII)
_INVALID: Final = int(ua.StatusCodes.BadIndexRangeInvalid)
_NO_DATA: Final = int(ua.StatusCodes.BadIndexRangeNoData)
_DIMENSIONS_MAX: Final = 8
_TEXTS: Final = (ua.VariantType.String, ua.VariantType.ByteString)


def _spans(index_range: str) -> list[tuple[int, int]] | None:
    """First and last index of each dimension; None where the text is no index range."""
    spans = []
    pieces = index_range.split(",")
    if len(pieces) > _DIMENSIONS_MAX:
        return None
    for piece in pieces:
        match = _RANGE.fullmatch(piece)
        if match is None:
            return None
        first = int(match[1])
        last = first if match[2] is None else int(match[2])
        if match[2] is not None and last <= first:
            return None
        spans.append((first, last))
    return spans


def cut(value: ua.Variant, index_range: str) -> ua.Variant | int:
    """The part of a value that an index range names; a status code where there is none."""
    spans = _spans(index_range)
    if spans is None:
        return _INVALID
    kind, content = value.VariantType, value.Value
    if not value.is_array:
        if kind not in _TEXTS or len(spans) != 1 or content is None:
            return _NO_DATA
        part = _part(content, spans[0])
        return _NO_DATA if part is None else ua.Variant(part, kind, is_array=False)
    part = _part(content or [], spans[0])
    if part is None or len(spans) > 2:
        return _NO_DATA
    if len(spans) == 2:  # the second names a part of each text
        if kind not in _TEXTS:
            return _NO_DATA
        part = [_part(one, spans[1]) for one in part]
        if None in part:
            return _NO_DATA
    return ua.Variant(part, kind, is_array=True)


def _part(content: Any, span: tuple[int, int]) -> Any:
    """The elements from the first to the last, as far as there are any; None where none are."""
    first, last = span
    return content[first : last + 1] if content is not None and first < len(content) else None
