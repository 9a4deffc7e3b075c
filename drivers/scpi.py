"""SCPI over a raw socket: one question at a time, in text.

A line carries no number that would tie an answer to its question. So a session in which an answer
is overdue, incomplete or unasked is never used again: the next exchange opens a new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

import numpy as np

from config.findings import Finding
from config.model import Channel
from config.points import PointDef
from config.site import Instrument
from drivers.addresses import (
    Fault,
    channel_findings,
    refuse,
    scalar_faults,
    shared_addresses,
    tag_findings,
    value_faults,
)
from drivers.contract import Block, DriverProtocol
from drivers.errors import DriverError, Garbled, NoAnswer, NotConnected
from drivers.scpi_text import (
    DATA_TYPES,
    TYPES,
    VALUE,
    AnswerDecoder,
    command_of,
    first_query_of,
    host_and_port,
    judge_confirmation,
    number_text,
    query_of,
    terminator,
)

ANSWER_BYTES_MAX: Final = 65536


# ---------------------------------------------------------------- configuration


def _tag_faults(instrument: Instrument) -> list[Fault]:
    tags = instrument.tags
    faults = []
    if host_and_port(tags) is None:
        if tags.VISA_address is not None:
            text = (
                f"'{tags.VISA_address}' is not spoken here. "
                "Use the form TCPIP::<host>::<port>::SOCKET."
            )
            faults.append(Fault("VISA_address", "connection-missing", text))
        else:
            text = "The address is missing. Give VISA_address, or Connection.IP and PortNum."
            faults.append(Fault("VISA_address", "connection-missing", text))
    for key in ("ReadTerminalChar", "WriteTerminalChar"):
        if terminator(getattr(tags, key)) is None:
            text = "A terminator is a line feed, a carriage return or both. Leave it out for \\n."
            faults.append(Fault(key, "terminator-unknown", text))
    return faults


def _channel_faults(channel: Channel) -> list[Fault]:
    faults = scalar_faults(channel)
    if channel.DataType.lower() not in TYPES:
        text = f"'{channel.DataType}' is unknown. Use one of {', '.join(DATA_TYPES)}."
        faults.append(Fault("DataType", "datatype-unknown", text))
    if channel.ReadWrite != "W" and query_of(channel) is None:
        text = "The query is missing. Give RequestText, for example 'MEAS:VOLT?'."
        faults.append(Fault("RequestText", "address-missing", text))
    if channel.ReadWrite != "R" and command_of(channel) is None:
        text = f"The command is missing. Give WriteText with {VALUE}, e.g. 'VOLT {VALUE}'."
        faults.append(Fault("WriteText", "address-missing", text))
    for key in ("RequestText", "WriteText", "Init_Text", "IOPoint"):
        text = str(getattr(channel, key) or "")
        if not text.isascii() or "\n" in text or "\r" in text:
            message = "Commands are one line of ASCII; the terminator is added."
            faults.append(Fault(key, "text-invalid", message))
    if not faults:
        faults = value_faults(channel, lambda value: number_text(channel, value))
    return faults


def check(instrument: Instrument) -> list[Finding]:
    """All findings about addresses, texts, types and missing keys."""
    findings = tag_findings(instrument, _tag_faults(instrument))
    slots: dict[str, list[tuple[str, str, int]]] = {}
    for name, channel in instrument.channels.items():
        faults = _channel_faults(channel)
        findings += channel_findings(instrument, name, faults)
        if not any(fault.severity == "error" for fault in faults):
            slots[name] = _slots(channel)
    return findings + shared_addresses(
        instrument, slots, lambda name: ", ".join(text for _, text, _ in slots[name])
    )


def _slots(channel: Channel) -> list[tuple[str, str, int]]:
    slots = []
    query, command = query_of(channel), command_of(channel)
    if channel.ReadWrite != "W" and query is not None:
        slots.append(("read", query.text.upper(), query.item))
    if channel.ReadWrite != "R" and command is not None:
        slots.append(("write", command.upper(), 0))
    return slots


@dataclass(frozen=True, slots=True)
class Request:
    """One query and what decodes it."""

    text: str
    decode: AnswerDecoder


def plan(instrument: Instrument) -> list[Block]:
    """One block a query and scan class. Raises SiteError where `check` finds an error."""
    refuse(check(instrument))
    shared: dict[tuple[str, str], list[tuple[PointDef, Channel, int]]] = {}
    begun: set[str] = set()  # scan classes whose pass already begins with an Init_Text
    for name, channel in instrument.channels.items():
        point, query = instrument.points[name], query_of(channel)
        if channel.ReadWrite == "W" or query is None or not point.scan_class:
            continue
        text = query.text
        first = first_query_of(channel)
        if first is not None and point.scan_class not in begun:
            begun.add(point.scan_class)
            text = first
        shared.setdefault((point.scan_class, text), []).append((point, channel, query.item))
    return [_block(scan_class, text, rows) for (scan_class, text), rows in shared.items()]


def _block(scan_class: str, text: str, rows: Sequence[tuple[PointDef, Channel, int]]) -> Block:
    decode = AnswerDecoder([channel for _, channel, _ in rows], [item for _, _, item in rows])
    return Block(
        index=np.array([point.index for point, _, _ in rows], dtype=np.int32),
        scan_class=scan_class,
        request=Request(text, decode),
        decode=decode,
        label=text,
    )


# ---------------------------------------------------------------- the session


class _Session(asyncio.Protocol):
    """One connection, one question at a time."""

    def __init__(self, end: bytes) -> None:
        self._end = end
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._answer: asyncio.Future[str] | None = None
        self.lost: DriverError | None = None  # why it can't be used any more

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports don't derive from asyncio's, whatever they do.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        reason = f" ({exc})" if exc else ""
        self.close(NotConnected(f"the instrument closed the connection{reason}"))

    def data_received(self, data: bytes) -> None:
        if self._answer is None:
            if data.strip(b"\r\n\x00 "):  # the rest of a longer terminator harms nobody
                self.close(Garbled(f"unasked: {data[:40]!r}"))
            return
        self._buffer += data
        if len(self._buffer) > ANSWER_BYTES_MAX:
            self.close(Garbled(f"an answer of more than {ANSWER_BYTES_MAX} bytes"))
            return
        end = self._buffer.find(self._end)
        if end < 0:
            return
        line, rest = bytes(self._buffer[:end]), bytes(self._buffer[end + len(self._end) :])
        self._buffer.clear()
        if rest.strip(b"\r\n\x00 "):
            self.close(Garbled(f"more than was asked for: {rest[:40]!r}"))
        elif not line.isascii():
            self.close(Garbled(f"no text: {line[:40]!r}"))
        else:
            answer, self._answer = self._answer, None
            if not answer.done():
                answer.set_result(line.decode("ascii"))

    def send(self, line: bytes) -> None:
        """Send without waiting for anything. Raises what ended the session."""
        if self._transport is None:
            raise self.lost or NotConnected("not connected")
        self._transport.write(line)

    async def ask(self, line: bytes, timeout_s: float) -> str:
        """Send and wait for one line; any other end than an answer closes the session."""
        self._answer = asyncio.get_running_loop().create_future()
        waiting = self._answer
        try:
            self.send(line)
            async with asyncio.timeout(timeout_s):
                return await waiting
        except TimeoutError:
            text = line.decode("ascii", "replace").strip()
            if self._buffer:
                head = bytes(self._buffer[:40])
                raise Garbled(f"half an answer to {text!r} and then nothing: {head!r}") from None
            raise NoAnswer(f"no answer to {text!r} within {timeout_s:g} s") from None
        finally:
            if self._answer is waiting:  # timed out or cancelled: the answer may still come
                self._answer = None
                self.close(NoAnswer("the session had an answer overdue"))

    def close(self, reason: DriverError) -> None:
        """End it; whoever waits gets `reason`."""
        transport, self._transport = self._transport, None
        if transport is None:
            return
        self.lost = reason
        if transport.get_write_buffer_size():
            transport.abort()
        else:
            transport.close()
        answer, self._answer = self._answer, None
        if answer is not None and not answer.done():
            answer.set_exception(type(reason)(str(reason)))


class ScpiDriver:
    """An instrument on a raw socket; the contract is drivers.contract."""

    def __init__(self, instrument: Instrument) -> None:
        tags = instrument.tags
        place = host_and_port(tags)
        assert place is not None
        self._host, self._port = place
        self._timeout_s = tags.Timeout
        self._instrument = instrument
        self._read_end = (terminator(tags.ReadTerminalChar) or "\n").encode()
        self._write_end = (terminator(tags.WriteTerminalChar) or "\n").encode()
        channels = instrument.channels.values()
        texts = [c.Init_Text.strip() for c in channels if c.Init_Text and not first_query_of(c)]
        self._init = tuple(dict.fromkeys(text for text in texts if text))
        self._turn = asyncio.Lock()
        self._session: _Session | None = None

    async def connect(self) -> None:
        """Connect and send the Init_Texts. Raises NotConnected, or NoAnswer to an Init_Text."""
        async with self._turn:
            await self._connect()

    async def close(self) -> None:
        """Close; may be called twice."""
        session, self._session = self._session, None
        if session is not None:
            session.close(NotConnected("the connection was closed"))
            await asyncio.sleep(0)  # lets the transport end its socket

    async def read(self, block: Block) -> str:
        """The answer to one query, without its terminator; proven to decode.

        Raises Garbled, and ends the session, where it does not: a text that is no number may be
        the answer to another question.
        """
        request: Request = block.request
        async with self._turn:
            session = await self._usable()
            answer = await session.ask(request.text.encode() + self._write_end, self._timeout_s)
            try:
                request.decode(answer)
            except Garbled as error:
                session.close(error)
                raise
        return answer

    async def write(self, point: PointDef, value: float) -> None:
        """Send the command of a channel.

        A command alone is not confirmed by SCPI: it is written when it is sent. Where the text
        asks a question too (``VOLT {value};:SYST:ERR?``), its answer decides.
        """
        channel = self._instrument.channels[point.channel]
        command = command_of(channel)
        assert command is not None
        text = command.replace(VALUE, number_text(channel, value))
        async with self._turn:
            session = await self._usable()
            line = text.encode() + self._write_end
            if "?" not in text:
                session.send(line)
                return
            answer = await session.ask(line, self._timeout_s)
            try:
                judge_confirmation(answer)
            except Garbled as error:
                session.close(error)
                raise

    async def _usable(self) -> _Session:
        """The session, or a new one where ours had to be ended; one try."""
        if self._session is None:
            raise NotConnected("not connected")
        lost = self._session.lost
        if isinstance(lost, NotConnected):
            raise NotConnected(str(lost))
        if lost is not None:
            await self._connect()
        return self._session

    async def _connect(self) -> None:
        await self.close()
        loop = asyncio.get_running_loop()
        where = f"{self._host}:{self._port}"
        try:
            async with asyncio.timeout(self._timeout_s):
                _, session = await loop.create_connection(
                    lambda: _Session(self._read_end), self._host, self._port
                )
        except TimeoutError:
            text = f"{where} did not take a connection in {self._timeout_s:g} s"
            raise NotConnected(text) from None
        except (OSError, ValueError) as error:  # ValueError: a host name that is none
            raise NotConnected(f"{where}: {error}") from error
        self._session = session
        for text in self._init:
            line = text.encode() + self._write_end
            if "?" in text:
                await session.ask(line, self._timeout_s)
            else:
                session.send(line)


PROTOCOL: Final = DriverProtocol(names=("SCPI",), plan=plan, check=check, open=ScpiDriver)
