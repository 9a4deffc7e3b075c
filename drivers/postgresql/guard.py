"""What stands between a connection and asyncpg, so that no server can harm us.

asyncpg collects a message however long it says that it is (900 MB in the 2 s of a login), trusts
the lengths inside it, and ends in errors of Python over messages in a wrong order. The guard passes
on whole messages whose form it has checked, and counts what comes for one query. It has to be there
from the first byte on, and asyncpg has no place for it; so asyncpg gets a loop that makes
connections with a guard.

Source: PostgreSQL documentation, "Frontend/Backend Protocol", chapter "Message Formats".
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any, Final

from asyncpg.connect_utils import TLSUpgradeProto

ANSWER_BYTES_MAX: Final = 1 << 20  # what the server may send for one query, or for the login
PARAMETERS_MAX: Final = 1000  # that it may tell in a session; asyncpg keeps them all
HEAD_BYTES: Final = 5  # type and length

# The bodies of the messages that a server sends to a reader; rows and their description are
# looked at in detail. Copying, functions and replication are not among them.
_TEXT: Final = rb"[^\0]*\0"
_FORMS: Final = {
    kind: re.compile(form, re.DOTALL)
    for kind, form in {
        "1": b"",  # parsed
        "2": b"",  # bound
        "3": b"",  # closed
        "A": rb".{4}" + _TEXT + _TEXT,  # notification
        "C": _TEXT,  # done
        "E": rb"([^\0]" + _TEXT + rb")*\0",  # error
        "I": b"",  # nothing to do
        "K": rb".{8}",  # key
        "N": rb"([^\0]" + _TEXT + rb")*\0",  # notice
        "S": _TEXT + _TEXT,  # parameter
        "Z": rb"[ITE]",  # ready
        "R": rb".{4,}",  # what it wants for the login
        "n": b"",  # no row
        "s": b"",  # more rows
        "v": rb".{8,}",  # an older protocol
    }.items()
}
_LOGIN: Final = "RKSZENv"
_VERSION: Final = re.compile(rb"server_version\0\D*\d[^\0]*\0")


def is_sound(kind: str, body: bytes) -> bool:
    """True where a message has the form of its kind."""
    if kind == "D":
        return _is_row(body)
    if kind == "T":
        return _is_description(body)
    if kind == "t":  # parameters of a query: a count, and as many types
        return len(body) == 2 + 4 * int.from_bytes(body[:2], "big")
    form = _FORMS.get(kind)
    return form is not None and form.fullmatch(body) is not None


def _is_row(body: bytes) -> bool:
    """A count, and as many fields: a length, -1 for null, and so many bytes."""
    at = 2
    for _ in range(int.from_bytes(body[:2], "big")):
        size = int.from_bytes(body[at : at + 4], "big", signed=True)
        if size < -1 or at + 4 > len(body):
            return False
        at += 4 + max(0, size)
    return at == len(body)


def _is_description(body: bytes) -> bool:
    """A count, and as many columns: a name and 18 bytes."""
    at = 2
    for _ in range(int.from_bytes(body[:2], "big")):
        end = body.find(b"\0", at)
        if end < 0:
            return False
        at = end + 19
    return at == len(body)


class Guard(asyncio.Protocol):
    """Passes on what is well formed and not too much, and ends the connection over the rest.

    `fault` says why it did; `unfinished` is true in the middle of a message.
    """

    def __init__(self, inner: Any, transport: Any = None) -> None:
        """`inner` is asyncpg's protocol, `transport` the connection where it is made already."""
        self._transport = transport
        self._inner = inner
        self._left = ANSWER_BYTES_MAX
        self._buffer = bytearray()
        self._login = True
        self._version_told = False
        self._parameters = 0
        self.fault = ""

    @property
    def unfinished(self) -> bool:
        """True where a message has begun and not ended."""
        return bool(self._buffer)

    def reset(self) -> None:
        """Another query begins."""
        self._left = ANSWER_BYTES_MAX

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Pass on."""
        self._transport = transport
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Pass on whole messages, or end the connection."""
        if self.fault:
            return
        self._left -= len(data)
        self._buffer += data
        whole = self._whole_messages()
        if self._left < 0:
            self.fault = f"more than {ANSWER_BYTES_MAX} bytes for one query"
        if self.fault:
            self._buffer.clear()
            self._transport.abort()
        elif whole:
            messages = bytes(self._buffer[:whole])
            del self._buffer[:whole]
            self._inner.data_received(messages)

    def _whole_messages(self) -> int:
        """Bytes of the whole messages that came; sets `fault` where one is none."""
        buffer, at = self._buffer, 0
        while len(buffer) - at >= HEAD_BYTES:
            kind, size = chr(buffer[at]), int.from_bytes(buffer[at + 1 : at + 5], "big")
            known = kind in (_LOGIN if self._login else "DTt123ACEIKNSZns")
            end = at + 1 + size
            if not known or not 4 <= size <= ANSWER_BYTES_MAX:
                self.fault = f"no message of PostgreSQL: {bytes(buffer[at : at + 16]).hex(' ')}"
                break
            if end > len(buffer):
                break
            body = bytes(buffer[at + HEAD_BYTES : end])
            if not is_sound(kind, body) or not self._is_in_order(kind, body):
                self.fault = f"a message {kind!r} that breaks the protocol of PostgreSQL"
                break
            at = end
        return at

    def _is_in_order(self, kind: str, body: bytes) -> bool:
        """False for a login that ends without the server's version, and too many parameters."""
        if kind == "S":
            self._parameters += 1
            self._version_told |= _VERSION.fullmatch(body) is not None
        elif kind == "Z":
            self._login = False
        return self._parameters <= PARAMETERS_MAX and (self._login or self._version_told)

    def eof_received(self) -> bool | None:
        """Pass on."""
        keep: bool | None = self._inner.eof_received()
        return keep

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass on."""
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        """Pass on."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Pass on."""
        self._inner.resume_writing()


class GuardedLoop:
    """The running loop as asyncpg gets it: `guard` is the newest connection's.

    Connections have a guard, whether they are made plainly or by TLS on top of one that was there;
    all else goes to the loop itself.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self.guard: Guard | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)

    async def create_connection(
        self, factory: Callable[[], Any], *args: Any, **keys: Any
    ) -> tuple[Any, Any]:
        """As the loop has it; asyncpg sees its own protocol."""
        inner: Any = None

        def guarded() -> Any:
            nonlocal inner
            inner = factory()
            # This one waits for a single byte, drops all others, and gives way to the real one.
            return inner if isinstance(inner, TLSUpgradeProto) else self._new_guard(inner)

        transport, _ = await self._loop.create_connection(guarded, *args, **keys)
        self._transport = transport
        return _Transport(transport, self), inner

    async def start_tls(self, transport: Any, *args: Any, **keys: Any) -> Any:
        """As the loop has it."""
        upgraded = await self._loop.start_tls(transport.plain, *args, **keys)
        if upgraded is None:
            return None
        self._transport = upgraded
        return _Transport(upgraded, self)

    def abort(self) -> None:
        """End a connection that asyncpg could not use and may have forgotten to close."""
        if self._transport is not None:
            self._transport.abort()

    def _new_guard(self, inner: Any, transport: Any = None) -> Guard:
        self.guard = Guard(inner, transport)
        return self.guard


class _Transport:
    """A transport that puts a guard before the protocol that it gets."""

    def __init__(self, plain: Any, loop: GuardedLoop) -> None:
        self.plain = plain
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self.plain, name)

    def set_protocol(self, protocol: Any) -> None:
        """As the transport has it."""
        self.plain.set_protocol(self._loop._new_guard(protocol, self.plain))
