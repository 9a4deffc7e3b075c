"""Reads and writes OPC UA binary (OPC 10000-6, 5.2) where the library's way costs too much.

A thousand NodeIds or references take the library a tenth of a second, and all others wait.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Any, Final

from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import Primitives, nodeid_to_binary

from gateway.opcua.service import Fault

_U8: Final = struct.Struct("<B")
_U16: Final = struct.Struct("<H")
_U32: Final = struct.Struct("<I")
_I32: Final = struct.Struct("<i")
_F64: Final = struct.Struct("<d")
_I64: Final = struct.Struct("<q")
_TWO: Final = struct.Struct("<BB")
_FOUR: Final = struct.Struct("<BBH")
_NUMERIC: Final = struct.Struct("<BHI")
_STRING: Final = struct.Struct("<BHi")
_NAME: Final = struct.Struct("<Hi")
NO_STRING: Final = b"\xff\xff\xff\xff"


# Behind a NodeId in a ReadValueId: the attribute Value, no index range, no encoding. Strings that
# are empty and strings that are null say the same.
_VALUE_TAILS: Final = frozenset(
    b"\x0d\0\0\0" + span + b"\0\0" + name
    for span in (NO_STRING, b"\0\0\0\0")
    for name in (NO_STRING, b"\0\0\0\0")
)
_TAIL_BYTES: Final = 14


class Reader:
    """Takes values from the front of a message. Raises Fault(BadDecodingError) at its end."""

    def __init__(self, body: Buffer) -> None:
        self._data = bytes(body.read(len(body)))
        self._at = 0

    def _take(self, form: struct.Struct) -> tuple[int, ...]:
        try:
            content = form.unpack_from(self._data, self._at)
        except struct.error as error:
            raise Fault(ua.StatusCodes.BadDecodingError) from error
        self._at += form.size
        return content

    def u8(self) -> int:
        """A Byte."""
        return self._take(_U8)[0]

    def u16(self) -> int:
        """A UInt16."""
        return self._take(_U16)[0]

    def u32(self) -> int:
        """A UInt32."""
        return self._take(_U32)[0]

    def f64(self) -> float:
        """A Double."""
        return self._take(_F64)[0]

    def i64(self) -> int:
        """An Int64 or a DateTime."""
        return self._take(_I64)[0]

    def flag(self) -> bool:
        """A Boolean."""
        return self.u8() != 0

    def count(self, bytes_min: int) -> int:
        """How many elements an array has; each has `bytes_min` bytes or more."""
        (number,) = self._take(_I32)
        if number * bytes_min > len(self._data) - self._at:
            raise Fault(ua.StatusCodes.BadDecodingError)
        return max(number, 0)

    def octets(self) -> bytes | None:
        """A ByteString."""
        (size,) = self._take(_I32)
        if size < 0:
            return None
        end = self._at + size
        if end > len(self._data):
            raise Fault(ua.StatusCodes.BadDecodingError)
        content = self._data[self._at : end]
        self._at = end
        return content

    def string(self) -> str | None:
        """A String."""
        content = self.octets()
        try:
            return None if content is None else content.decode()
        except UnicodeDecodeError as error:
            raise Fault(ua.StatusCodes.BadDecodingError) from error

    def value_of(self, namespace: int) -> str | None:
        """The string of the NodeId in a ReadValueId that asks for nothing but a value.

        None where it asks for more, or its NodeId is another one; then nothing was taken.
        """
        data, at = self._data, self._at
        if len(data) - at < _STRING.size:
            return None
        form, index, size = _STRING.unpack_from(data, at)
        if form != 3 or index != namespace or size < 0:
            return None
        start = at + _STRING.size
        end = start + size
        if data[end : end + _TAIL_BYTES] not in _VALUE_TAILS:
            return None
        self._at = end + _TAIL_BYTES
        try:
            return data[start:end].decode()
        except UnicodeDecodeError as error:
            raise Fault(ua.StatusCodes.BadDecodingError) from error

    def qualified_name(self) -> tuple[int, str]:
        """A QualifiedName: namespace and name, "" where it is null."""
        return self.u16(), self.string() or ""

    def node_id(self) -> tuple[int, Any]:
        """A NodeId: namespace and identifier."""
        form = self.u8()
        if form == 3:
            return self.u16(), self.string() or ""
        if form == 0:
            return 0, self.u8()
        if form == 1:
            return self.u8(), self.u16()
        if form == 2:
            return self.u16(), self.u32()
        if form == 4:
            namespace, at = self.u16(), self._at
            self._at += 16
            if self._at > len(self._data):
                raise Fault(ua.StatusCodes.BadDecodingError)
            return namespace, Primitives.Guid.unpack(Buffer(self._data[at : self._at]))
        if form == 5:
            return self.u16(), self.octets() or b""
        raise Fault(ua.StatusCodes.BadDecodingError)


def made_node(node: tuple[int, Any]) -> ua.NodeId:
    """The library's NodeId; `Reader.node_id` gives its parts."""
    namespace, identifier = node
    return ua.NodeId(identifier, ua.Int16(namespace))


def string(text: str) -> bytes:
    """A String."""
    content = text.encode()
    return _I32.pack(len(content)) + content


@lru_cache(maxsize=4096)
def _numeric(namespace: int, number: int) -> bytes:
    if namespace == 0 and number <= 0xFF:
        return _TWO.pack(0, number)
    if namespace <= 0xFF and number <= 0xFFFF:
        return _FOUR.pack(1, namespace, number)
    return _NUMERIC.pack(2, namespace, number)


def node_id(node: ua.NodeId) -> bytes:
    """A NodeId; an ExpandedNodeId on this server looks the same."""
    identifier = node.Identifier
    if isinstance(identifier, int):
        return _numeric(int(node.NamespaceIndex), int(identifier))
    if isinstance(identifier, str):
        content = identifier.encode()
        return _STRING.pack(3, node.NamespaceIndex, len(content)) + content
    encoded: bytes = nodeid_to_binary(node)
    return encoded


def qualified_name(name: str, namespace: int) -> bytes:
    """A QualifiedName."""
    content = name.encode()
    return _NAME.pack(namespace, len(content)) + content


def localized_text(text: str) -> bytes:
    """A LocalizedText without a locale."""
    return b"\x02" + string(text)


def u32(number: int) -> bytes:
    """A UInt32, an enumeration, or the length of an array."""
    return _U32.pack(number)
