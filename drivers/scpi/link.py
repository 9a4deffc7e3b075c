"""The raw socket of an SCPI instrument: one connection, one question at a time.

A line carries no number that would tie an answer to its question. So a session in which an answer
is overdue, incomplete or unasked is never used again.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol, cast

from drivers.contract import Tap
from drivers.errors import DriverError, Garbled, NoAnswer, NotConnected

ANSWER_BYTES_MAX: Final = 65536
_NOTHING: Final = b"\r\n\x00 "  # the rest of a longer terminator harms nobody


class Session(Protocol):
    """What the driver asks of a connection; texts are lines without their terminators."""

    lost: DriverError | None  # why it can't be used any more

    async def send(self, text: str) -> None:
        """Send a command. Raises NotConnected, or what ended the session."""

    async def ask(self, text: str) -> str:
        """Send and wait for one line; any other end than an answer ends the session.

        Raises NoAnswer, NotConnected, Garbled.
        """

    def end(self, reason: DriverError) -> None:
        """End it without waiting; whoever waits gets `reason`."""

    async def close(self) -> None:
        """Wait, in bounds, until what `end` began is done. Never raises."""


def text_of(line: bytes) -> str:
    """A line as text. Raises Garbled where it is none."""
    if not line.isascii():
        raise Garbled(f"no text: {line[:40]!r}")
    return line.decode("ascii")


class LineSession(asyncio.Protocol):
    """A session on a raw TCP socket."""

    def __init__(self, read_end: str, write_end: str, timeout_s: float, tap: Tap | None) -> None:
        self._read_end = read_end.encode()
        self._write_end = write_end.encode()
        self._timeout_s = timeout_s
        self._tap = tap
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._answer: asyncio.Future[str] | None = None
        self._question = ""
        self.lost: DriverError | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        # uvloop's transports don't derive from asyncio's, whatever they do.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        reason = f" ({exc})" if exc else ""
        self.end(NotConnected(f"the instrument closed the connection{reason}"))

    def data_received(self, data: bytes) -> None:
        """Cut a line off; what is more than a line ends the session."""
        if self._answer is None:
            self._show(False, data, "unasked")
            if data.strip(_NOTHING):
                self.end(Garbled(f"unasked: {data[:40]!r}"))
            return
        self._buffer += data
        if len(self._buffer) > ANSWER_BYTES_MAX:
            self.end(Garbled(f"an answer of more than {ANSWER_BYTES_MAX} bytes"))
            return
        end = self._buffer.find(self._read_end)
        if end < 0:
            return
        whole = bytes(self._buffer)
        self._buffer.clear()
        self._show(False, whole, f"answer to {self._question}")
        line, rest = whole[:end], whole[end + len(self._read_end) :]
        if rest.strip(_NOTHING):
            self.end(Garbled(f"more than was asked for: {rest[:40]!r}"))
            return
        try:
            text = text_of(line)
        except Garbled as error:
            self.end(error)
            return
        answer, self._answer = self._answer, None
        if not answer.done():
            answer.set_result(text)

    async def send(self, text: str) -> None:
        """See Session."""
        self._send(text, "command")

    def _send(self, text: str, what: str) -> None:
        if self._transport is None:
            raise self.lost or NotConnected("not connected")
        line = text.encode() + self._write_end
        self._show(True, line, f"{what} {text}")
        self._transport.write(line)

    async def ask(self, text: str) -> str:
        """See Session."""
        self._answer = asyncio.get_running_loop().create_future()
        waiting, self._question = self._answer, text
        try:
            self._send(text, "query")
            async with asyncio.timeout(self._timeout_s):
                return await waiting
        except TimeoutError:
            if self._buffer:
                head = bytes(self._buffer[:40])
                raise Garbled(f"half an answer to {text!r} and then nothing: {head!r}") from None
            raise NoAnswer(f"no answer to {text!r} within {self._timeout_s:g} s") from None
        finally:
            if self._answer is waiting:  # timed out or cancelled: the answer may still come
                self._answer = None
                self.end(NoAnswer("the session had an answer overdue"))

    def end(self, reason: DriverError) -> None:
        """See Session."""
        transport, self._transport = self._transport, None
        if transport is None:
            return
        self.lost = reason
        if self._buffer:
            self._show(False, bytes(self._buffer), "half an answer")
        if transport.get_write_buffer_size():
            transport.abort()
        else:
            transport.close()
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_exception(type(reason)(str(reason)))

    async def close(self) -> None:
        """See Session."""
        await asyncio.sleep(0)  # lets the transport end its socket

    def _show(self, sent: bool, data: bytes, meaning: str) -> None:
        if self._tap is not None:
            self._tap.frame(sent, data, meaning)


async def open_line_session(
    place: tuple[str, int], ends: tuple[str, str], timeout_s: float, tap: Tap | None
) -> LineSession:
    """Connect to (host, port). `ends` are the terminators of answers and of queries.

    Raises NotConnected.
    """
    loop = asyncio.get_running_loop()
    where = f"{place[0]}:{place[1]}"
    try:
        async with asyncio.timeout(timeout_s):
            _, session = await loop.create_connection(
                lambda: LineSession(*ends, timeout_s, tap), *place
            )
    except TimeoutError:
        text = f"{where} did not take a connection in {timeout_s:g} s"
        raise NotConnected(text) from None
    except (OSError, ValueError) as error:  # ValueError: a host name that is none
        raise NotConnected(f"{where}: {error}") from error
    return session
