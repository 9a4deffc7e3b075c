"""Chunks of the connection protocol: headers, Hello, Acknowledge, Error (OPC 10000-6, 6.7 and 7.1).

Nothing here waits or knows a socket.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from asyncua import ua

from gateway.opcua.transport.limits import (
    CHUNK_BYTES,
    CHUNK_BYTES_MIN,
    CHUNKS_MAX,
    MESSAGE_BYTES_MAX,
    URL_BYTES_MAX,
)

HELLO: Final = b"HEL"
OPEN: Final = b"OPN"
MESSAGE: Final = b"MSG"
CLOSE: Final = b"CLO"
_HEAD: Final = struct.Struct("<3scI")
_HELLO: Final = struct.Struct("<IIIIIi")
_ACKNOWLEDGE: Final = struct.Struct("<IIIII")
_ERROR: Final = struct.Struct("<Ii")
HEAD_BYTES: Final = _HEAD.size
SECURE_HEAD_BYTES: Final = HEAD_BYTES + 4  # with the channel's number
_TYPES: Final = (HELLO, OPEN, MESSAGE, CLOSE)


class TransportFault(Exception):
    """The connection must be closed, with this status code in an Error message."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True, slots=True)
class Limits:
    """What the client's Hello left of our limits; 0 = no limit."""

    send_bytes: int = CHUNK_BYTES_MIN  # of a chunk to the client
    message_bytes_max: int = 0  # of a message to the client
    chunks_max: int = 0


class Splitter:
    """Cuts the input into chunks."""

    def __init__(self) -> None:
        self._input = bytearray()

    def __len__(self) -> int:
        """Bytes of an unfinished chunk."""
        return len(self._input)

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes, give the chunks that are whole. Raises TransportFault."""
        self._input += data
        chunks, start = [], 0
        while len(self._input) - start >= HEAD_BYTES:
            kind, _, size = _HEAD.unpack_from(self._input, start)
            if kind not in _TYPES:
                raise TransportFault(ua.StatusCodes.BadTcpMessageTypeInvalid, "no OPC UA message")
            if size > CHUNK_BYTES:
                raise TransportFault(ua.StatusCodes.BadTcpMessageTooLarge, f"{size} bytes")
            if size < HEAD_BYTES + 8:
                raise TransportFault(ua.StatusCodes.BadTcpInternalError, f"{size} bytes")
            if len(self._input) - start < size:
                break
            chunks.append(bytes(self._input[start : start + size]))
            start += size
        del self._input[:start]
        return chunks


def hello(chunk: bytes) -> tuple[Limits, str, bytes]:
    """The client's limits, the address that it used, and our Acknowledge. Raises TransportFault."""
    try:
        _, receives, sends, message_bytes_max, chunks_max, length = _HELLO.unpack_from(
            chunk, HEAD_BYTES
        )
    except struct.error as error:
        raise TransportFault(ua.StatusCodes.BadDecodingError, str(error)) from error
    address = chunk[HEAD_BYTES + _HELLO.size :]
    if length > URL_BYTES_MAX or max(length, 0) != len(address):
        raise TransportFault(ua.StatusCodes.BadTcpEndpointUrlInvalid, "address of the endpoint")
    if min(receives, sends) < CHUNK_BYTES_MIN:
        raise TransportFault(ua.StatusCodes.BadTcpInternalError, "buffers below 8192 bytes")
    limits = Limits(min(receives, CHUNK_BYTES), message_bytes_max, chunks_max)
    body = _ACKNOWLEDGE.pack(
        0, min(sends, CHUNK_BYTES), limits.send_bytes, MESSAGE_BYTES_MAX, CHUNKS_MAX
    )
    answer = _HEAD.pack(b"ACK", b"F", HEAD_BYTES + len(body)) + body
    return limits, address.decode("utf-8", "replace"), answer


def error(code: int, reason: str) -> bytes:
    """An Error message, the last that a client gets."""
    text = reason.encode("utf-8", "replace")[:200]
    body = _ERROR.pack(code, len(text)) + text
    return _HEAD.pack(b"ERR", b"F", HEAD_BYTES + len(body)) + body
