"""A limit that the library's decoder lacks: no array has more values than its message has bytes.

An array of nothings has no bytes, so that a length of two thousand million is believed, and the
loop stands still for minutes.
"""

from __future__ import annotations

from typing import IO, Any, Final

from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua import ua_binary
from asyncua.ua.ua_binary import Primitives
from asyncua.ua.uaerrors import UaError

_UNPACK: Final = ua_binary.unpack_uatype_array


def _unpack_array(vtype: ua.VariantType, data: Buffer | IO[Any]) -> list[Any] | None:
    """What the library's function does. Raises UaError for a length that can't be true."""
    assert isinstance(data, Buffer), "messages are taken apart from the memory"
    length = Primitives.Int32.unpack(data.copy(4))
    if length > len(data):
        raise UaError(f"an array of {length} values in {len(data)} bytes")
    return _UNPACK(vtype, data)


def bind_decoder() -> None:
    """Let the library's decoder refuse such arrays. May be called again."""
    ua_binary.unpack_uatype_array = _unpack_array
