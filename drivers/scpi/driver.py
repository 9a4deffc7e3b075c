"""SCPI: one question at a time, in text, over a raw socket (drivers/scpi/link.py) or VISA
(drivers/scpi/visa.py).

A session in which an answer is overdue, incomplete or unasked is never used again: the next
exchange opens a new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

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
from drivers.contract import Block, Cycle, DriverProtocol, Part, Surroundings, one_by_one
from drivers.errors import Garbled, NotConnected, Refused
from drivers.scpi.link import Session, open_line_session
from drivers.scpi.text import (
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
from drivers.scpi.visa import FORMS, VisaSessions, line_faults, place_of

# ---------------------------------------------------------------- configuration


def _tag_faults(instrument: Instrument) -> list[Fault]:
    tags = instrument.tags
    faults = []
    if host_and_port(tags) is None:
        if tags.VISA_address is not None and place_of(tags) is not None:
            faults += line_faults(tags)
        elif tags.VISA_address is not None:
            text = f"'{tags.VISA_address}' is not spoken here. Use one of {FORMS}."
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
        label=f"{text} ({scan_class})",
    )


class ScpiDriver:
    """An instrument that is asked in text; the contract is drivers.contract."""

    def __init__(self, instrument: Instrument, surroundings: Surroundings) -> None:
        tags = instrument.tags
        self._instrument = instrument
        self._surroundings = surroundings
        self._ends = (terminator(tags.ReadTerminalChar), terminator(tags.WriteTerminalChar))
        channels = instrument.channels.values()
        texts = [c.Init_Text.strip() for c in channels if c.Init_Text and not first_query_of(c)]
        self._init = tuple(dict.fromkeys(text for text in texts if text))
        self._turn = asyncio.Lock()
        self._socket = host_and_port(tags)
        place = None if self._socket else place_of(tags)
        self._visa = VisaSessions(place, surroundings) if place else None
        self._session: Session | None = None

    async def connect(self) -> None:
        """Connect and send the Init_Texts. Raises NotConnected, or NoAnswer to an Init_Text."""
        async with self._turn:
            await self._connect()

    async def close(self) -> None:
        """Close; may be called twice."""
        session, self._session = self._session, None
        if session is not None:
            session.end(NotConnected("the connection was closed"))
            await session.close()

    def read(self, cycle: Cycle) -> AsyncIterator[Part]:
        """See drivers.contract.Driver."""
        return one_by_one(cycle, self._ask, self._surroundings.clock)

    async def _ask(self, block: Block) -> NDArray[np.float64]:
        """The values of one query.

        Raises Garbled, and ends the session, where the answer does not decode: a text that is no
        number may be the answer to another question.
        """
        request: Request = block.request
        async with self._turn:
            session = await self._usable()
            answer = await session.ask(request.text)
            try:
                return request.decode(answer)
            except Garbled as error:
                session.end(error)
                raise

    async def write(self, point: PointDef, value: float) -> None:
        """Send the command of a channel.

        A command alone is not confirmed by SCPI: it is written when it is sent. Where the text
        asks a question too (``VOLT {value};:SYST:ERR?``), its answer decides.
        """
        channel = self._instrument.channels[point.channel]
        command = command_of(channel)
        if channel.ReadWrite == "R" or command is None:
            raise Refused(f"{point.tag} can only be read", permanent=True)
        text = command.replace(VALUE, number_text(channel, value))
        async with self._turn:
            session = await self._usable()
            if "?" not in text:
                await session.send(text)
                return
            answer = await session.ask(text)
            try:
                judge_confirmation(answer)
            except Garbled as error:
                session.end(error)
                raise

    async def _usable(self) -> Session:
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
        tags, tap = self._instrument.tags, self._surroundings.tap
        ends = (self._ends[0] or "\n", self._ends[1] or "\n")
        session: Session
        if self._visa is not None:
            session = await self._visa.open(ends, tags.Timeout)
        else:
            assert self._socket is not None
            session = await open_line_session(self._socket, ends, tags.Timeout, tap)
        self._session = session
        for text in self._init:
            if "?" in text:
                await session.ask(text)
            else:
                await session.send(text)


PROTOCOL: Final = DriverProtocol(
    names=("SCPI",),
    plan=plan,
    check=check,
    open=ScpiDriver,
    keys=frozenset(
        (
            "Connection",
            "PortNum",
            "VISA_address",
            "ReadTerminalChar",
            "WriteTerminalChar",
        )
    ),
)
