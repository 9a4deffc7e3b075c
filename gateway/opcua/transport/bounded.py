"""A buffer for the library's decoder that no message can keep busy or fill the memory with.

The decoder believes every length that it reads: an array of two thousand million nothings, a
string of length -4 that is read again for ever, dimensions that announce a million elements. What
costs it is reading, so reads are counted.
"""

from __future__ import annotations

from typing import Any

from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua import ua_binary
from asyncua.ua.ua_binary import Primitives, nodeid_from_binary

from gateway.opcua.service import Fault
from gateway.opcua.transport.limits import DIMENSIONS_MAX


class Bounded(Buffer):
    """A Buffer with a limit on how many values are read; its copies share the limit.

    Raises Fault(BadEncodingLimitsExceeded) beyond it, Fault(BadDecodingError) for lengths below 0
    and at the message's end.
    """

    def __init__(self, data: bytes, reads_max: int) -> None:
        super().__init__(data)
        self._reads_max = reads_max
        self._left = [reads_max]

    def afresh(self) -> None:
        """Count anew, for a service that takes a message apart in pieces and rests in between."""
        self._left[0] = self._reads_max

    def read(self, size: int) -> bytes:
        """The next bytes."""
        self.count()
        if size < 0:
            raise Fault(ua.StatusCodes.BadDecodingError)
        try:
            return super().read(size)
        except ua.UaError as error:
            raise Fault(ua.StatusCodes.BadDecodingError) from error

    def skip(self, size: int) -> None:
        """Leave bytes out."""
        if size < 0:
            raise Fault(ua.StatusCodes.BadDecodingError)
        try:
            super().skip(size)
        except ua.UaError as error:
            raise Fault(ua.StatusCodes.BadDecodingError) from error

    def copy(self, size: int = -1) -> Bounded:
        """The same bytes again, or their first `size`."""
        size = self._size if size < 0 else min(size, self._size)
        made = Bounded(self._data, 0)
        made._cur_pos, made._size, made._left = self._cur_pos, size, self._left
        return made

    def count(self) -> None:
        """One value more."""
        self._left[0] -= 1
        if self._left[0] < 0:
            raise Fault(ua.StatusCodes.BadEncodingLimitsExceeded)


def request_header(data: Bounded) -> ua.RequestHeader:
    """What stands in front of each request (OPC 10000-4, 7.33). Raises Fault(BadDecodingError).

    Its additional header is left out: nothing uses it, and the library's decoder would take apart
    whatever a stranger puts in there.
    """
    header = ua.RequestHeader()
    try:
        header.AuthenticationToken = nodeid_from_binary(data)
        header.Timestamp = Primitives.DateTime.unpack(data)
        header.RequestHandle = Primitives.UInt32.unpack(data)
        header.ReturnDiagnostics = Primitives.UInt32.unpack(data)
        header.AuditEntryId = Primitives.String.unpack(data)
        header.TimeoutHint = Primitives.UInt32.unpack(data)
        nodeid_from_binary(data)
        if Primitives.Byte.unpack(data):
            Primitives.Bytes.unpack(data)
    except (ua.UaError, ValueError, ArithmeticError) as error:
        raise Fault(ua.StatusCodes.BadDecodingError) from error
    return header


class _CountedNull(ua_binary._Null):
    """Nothings have no bytes, but an array can have as many as it likes."""

    @staticmethod
    def unpack(data: Any) -> None:
        if isinstance(data, Bounded):
            data.count()


def bind_decoder() -> None:
    """Set the limits that the library keeps in variables of its own. May be called again."""
    ua_binary.Primitives.Null = _CountedNull()
    ua_binary._create_uatype_deserializer.cache_clear()
    ua_binary._create_uatype_array_deserializer.cache_clear()
    ua_binary.MAX_RESHAPE_ELEMENTS = DIMENSIONS_MAX
