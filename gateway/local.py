"""The local stream: what crosses the Unix socket between field, link and the command line.

A message is a msgpack map behind its length (4 bytes, big endian). Two kinds of clients:

    link   hello(cursor) -> birth, then data ... and alive once a second; taken, health back
    tool   status | read | ... -> one answer; those to a command or schedule are its receipts

Both send commands and schedules. A link also sends the receipts of its inbox, which the field
process journals.

The socket's file mode (0600) decides who may connect; it never leaves the machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgpack

from config.findings import nearest
from gateway.core.records import Command

MESSAGE_BYTES_MAX: Final = 64_000_000
BUFFER_BYTES: Final = 500_000  # a client reads many thousand records without a pause
REQUEST_BYTES_MAX: Final = 1_000_000  # of what the field takes: its loop must not be kept busy
TEXT_CHARS_MAX: Final = 256  # id, tag, origin, source and action of a command
COMMENT_CHARS_MAX: Final = 1_000
RECEIPTS_MAX: Final = 64
RECEIPT_KEYS_MAX: Final = 32  # of a receipt of the inbox, and values of one
INBOX_STEPS: Final = ("taken", "refused", "failed")
EVENTS_ANSWER_MAX: Final = 1_000
CLIENTS_MAX: Final = 32
HINTS_MAX: Final = 200  # names that a mistyped one is compared with: each takes 10 µs of the loop
_LENGTH: Final = struct.Struct(">I")


class LocalError(Exception):
    """The other side of the local stream is not there, or does not keep to the form."""


async def send(writer: asyncio.StreamWriter, message: Mapping[str, Any]) -> None:
    """Send one message and wait until the socket took it. Raises ConnectionError."""
    await send_parts(writer, [msgpack.packb(message)])


async def send_parts(writer: asyncio.StreamWriter, parts: Sequence[bytes]) -> None:
    """`send` for a message that msgpack packed already, whole or in parts."""
    if writer.is_closing():  # where asyncio drops what is written, uvloop raises RuntimeError
        raise ConnectionResetError("the other side closed the local stream")
    writer.writelines((_LENGTH.pack(sum(map(len, parts))), *parts))
    await writer.drain()


def packed_map(message: Mapping[str, Sequence[bytes]]) -> list[bytes]:
    """The parts of a message whose values are packed already, each in parts of its own."""
    packer = msgpack.Packer()
    parts = [packer.pack_map_header(len(message))]
    for name, value in message.items():
        parts += (packer.pack(name), *value)
    return parts


def nearest_point(tag: str, tags: Iterable[str]) -> str:
    """A remedy for a mistyped tag, in a bounded time: of its device, or a device."""
    there = list(tags)
    devices = dict.fromkeys(known.partition(".")[0] for known in there)
    device, _, channel = tag.lower().partition(".")
    close = get_close_matches(device, [d.lower() for d in islice(devices, HINTS_MAX)], n=1)
    if not close:
        return nearest(tag, islice(devices, HINTS_MAX))
    of_device = [known for known in there if known.partition(".")[0].lower() == close[0]]
    of_device.sort(key=lambda known: not known.partition(".")[2].lower().startswith(channel[:2]))
    return nearest(tag, of_device[:HINTS_MAX])


async def receive(
    reader: asyncio.StreamReader, bytes_max: int = MESSAGE_BYTES_MAX
) -> dict[str, Any] | None:
    """The next message; None where the other side closed. Raises LocalError on a bad form."""
    try:
        size = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))[0]
        if size > bytes_max:
            raise LocalError(f"a message of {size} bytes is longer than {bytes_max}")
        message = msgpack.unpackb(await reader.readexactly(size))
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise LocalError("the stream ended inside a message") from error
        return None
    except ConnectionError:
        return None
    except (ValueError, msgpack.UnpackException) as error:
        raise LocalError(f"not msgpack: {error}") from error
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise LocalError("a message is a map with a type")
    return message


def whole_number(message: Mapping[str, Any], name: str) -> int:
    """A whole number of a message, 0 or more. Raises LocalError."""
    value = message.get(name)
    if not isinstance(value, int) or value < 0:
        raise LocalError(f"{name}: {value!r} is no whole number")
    return value


def command_of(message: Mapping[str, Any]) -> Command:
    """The command of a message. Raises LocalError where keys, types or sizes don't fit."""
    try:
        command = Command(**message.get("command", {}))
        if not isinstance(command.action, str) or not isinstance(command.comment, str):
            raise TypeError("action and comment are texts")
        command = Command(
            id=str(command.id),
            tag=str(command.tag),
            value=float(command.value),
            origin=str(command.origin),
            lease_ns=int(command.lease_ns),
            expires_ns=int(command.expires_ns),
            release=bool(command.release),
            source=str(command.source),
            action=command.action,
            comment=command.comment,
            seen_utc_ns=int(command.seen_utc_ns),
        )
    except (TypeError, ValueError, OverflowError) as error:
        raise LocalError(f"not a command: {error}") from error
    texts = (command.id, command.tag, command.origin, command.source, command.action)
    if any(len(text) > TEXT_CHARS_MAX for text in texts):
        raise LocalError(f"not a command: a text is longer than {TEXT_CHARS_MAX} characters")
    if len(command.comment) > COMMENT_CHARS_MAX:
        raise LocalError(f"not a command: its comment has more than {COMMENT_CHARS_MAX} characters")
    return command


def receipt_of(message: Mapping[str, Any]) -> dict[str, Any]:
    """A receipt of the link's inbox. Raises LocalError where keys, types or sizes don't fit."""
    body = message.get("receipt")
    if not isinstance(body, dict) or len(body) > RECEIPT_KEYS_MAX:
        raise LocalError(f"a receipt is a map of at most {RECEIPT_KEYS_MAX} keys")
    if body.get("step") not in INBOX_STEPS:
        raise LocalError(f"a receipt of the inbox is one of {', '.join(INBOX_STEPS)}")
    for name, value in body.items():
        parts = value if isinstance(value, list) else [value]
        if not isinstance(name, str) or len(parts) > RECEIPT_KEYS_MAX:
            raise LocalError("a receipt has names and plain values")
        for part in parts:
            if not isinstance(part, bool | int | float | str):
                raise LocalError(f"a receipt: {name} holds {type(part).__name__}")
            if isinstance(part, str) and len(part) > COMMENT_CHARS_MAX:
                raise LocalError(f"a receipt: {name} has more than {COMMENT_CHARS_MAX} characters")
    return {"tag": "", "value": 0.0, "reason": "", **body}


class LocalClient:
    """One connection to a field process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def connect(self) -> None:
        """Connect; raises LocalError where no field process listens."""
        try:
            self._reader, self._writer = await asyncio.open_unix_connection(
                str(self._path), limit=BUFFER_BYTES
            )
        except OSError as error:
            raise LocalError(
                f"no gateway is running here ({self._path}: {error.strerror or error})"
            ) from error

    async def send(self, message: Mapping[str, Any]) -> None:
        """Send one message.

        Raises LocalError where the field process is gone, or the message holds what msgpack can't:
        text that is no Unicode, a number beyond 64 bits.
        """
        assert self._writer is not None, "connect first"
        try:
            await send(self._writer, message)
        except ConnectionError as error:
            raise LocalError("the field process closed the local stream") from error
        except (UnicodeEncodeError, OverflowError) as error:
            raise LocalError(f"this can't be sent: {error}") from error

    async def receive(self) -> dict[str, Any]:
        """The next message; raises LocalError where the field process is gone."""
        assert self._reader is not None, "connect first"
        message = await receive(self._reader)
        if message is None:
            raise LocalError("the field process closed the local stream")
        return message

    async def request(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Send and wait for one answer; an answer of type ``error`` raises LocalError."""
        await self.send(message)
        answer = await self.receive()
        if answer["type"] == "error":
            raise LocalError(str(answer["reason"]))
        return answer

    async def command(self, command: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Send a command; yields its receipts until it is refused, verified or failed.

        `command` has the fields of gateway.core.records.Command as a mapping.
        """
        async for receipt in self._receipts({"type": "command", "command": dict(command)}):
            yield receipt

    async def schedule(self, packed: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Send a schedule; yields the receipt that says whether it was accepted.

        `packed` is what gateway.core.schedule.pack_schedule makes.
        """
        async for receipt in self._receipts({"type": "schedule", "schedule": dict(packed)}):
            yield receipt

    async def _receipts(self, message: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
        await self.send(message)
        while True:
            answer = await self.receive()
            if answer["type"] == "error":
                raise LocalError(str(answer["reason"]))
            if answer["type"] == "end":
                return
            yield answer["receipt"]

    async def close(self) -> None:
        """Close; may be called twice."""
        if self._writer is not None:
            self._writer.close()
            with contextlib.suppress(ConnectionError):
                await self._writer.wait_closed()
            self._writer = None
