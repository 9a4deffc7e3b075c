"""msgpack, distrusted: packing and unpacking that end in a `WireError` or in what was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgpack


class WireError(Exception):
    """The bytes are no message of this format, or the message can't be put into bytes."""


def check_plain(value: object, depth: int) -> None:
    """Raises WireError for anything that isn't nil, bool, int, float, str, bin, array or map."""
    if depth < 0:
        raise WireError("nested too deeply")
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return
    if isinstance(value, dict):
        for name, inner in value.items():
            if not isinstance(name, str):
                raise WireError("the keys of a map are text")
            check_plain(inner, depth - 1)
    elif isinstance(value, list | tuple):
        for inner in value:
            check_plain(inner, depth - 1)
    else:
        raise WireError(f"{type(value).__name__} is none of the types of this format")


def pack(value: object) -> bytes:
    """msgpack of a value. Raises WireError."""
    try:
        return msgpack.packb(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise WireError(f"can't be put into msgpack: {error}") from None


def _no_extension(code: int, data: bytes) -> object:
    raise ValueError(f"extension type {code}")


def unpack(data: bytes, what: str) -> object:
    """The value of one msgpack object; extension types are refused. Raises WireError."""
    try:
        return msgpack.unpackb(data, ext_hook=_no_extension)
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise WireError(f"{what}: no msgpack: {error}") from None


def unpack_map(data: bytes, what: str) -> dict[Any, Any]:
    """The same where it is a map. Raises WireError."""
    value = unpack(data, what)
    if not isinstance(value, dict):
        raise WireError(f"{what}: not a map")
    return value


def integer(data: Mapping[str, Any], name: str, low: int, high: int) -> int:
    """A whole number of `low` to `high` under a key. Raises WireError."""
    value = data.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise WireError(f"{name}: {value!r} is no whole number of {low} to {high}")
    return value


def text(data: Mapping[str, Any], name: str, chars_max: int) -> str:
    """A text under a key. Raises WireError."""
    value = data.get(name)
    if not isinstance(value, str) or len(value) > chars_max:
        raise WireError(f"{name}: no text of at most {chars_max} characters")
    return value


def binary(data: Mapping[str, Any], name: str) -> bytes:
    """Bytes under a key. Raises WireError."""
    value = data.get(name)
    if not isinstance(value, bytes):
        raise WireError(f"{name}: no bytes")
    return value


def array(data: Mapping[str, Any], name: str, length_max: int) -> list[Any]:
    """A list under a key. Raises WireError."""
    value = data.get(name)
    if not isinstance(value, list) or len(value) > length_max:
        raise WireError(f"{name}: no list of at most {length_max}")
    return value
