"""PostgreSQL as an instrument: SQL queries whose first row holds numbers.

A query begins with a word that reads, and runs in a read-only transaction of its own that is rolled
back, with a time limit that the server keeps and one that we keep. Only the first row is fetched.
Nothing is ever written.

This part knows the configuration; drivers/postgresql/session.py speaks to servers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import numpy as np

from config.findings import Finding
from config.model import Channel
from config.site import Instrument
from drivers.addresses import (
    Fault,
    channel_findings,
    refuse,
    scalar_faults,
    shared_addresses,
    tag_findings,
)
from drivers.codec import Scaling
from drivers.contract import Block, Driver, DriverProtocol, Surroundings
from drivers.inbox import coding_of
from drivers.postgresql.values import NUMBER_TYPES
from drivers.server_url import ServerUrl, parse_server, server_faults

SCHEME: Final = "postgresql"
PORT: Final = 5432

# What a statement that only reads begins with. A read-only transaction doesn't stop all others:
# COPY writes files of the server, PREPARE and LISTEN outlive it, COMMIT ends it.
READING: Final = ("SELECT", "SHOW", "TABLE", "VALUES", "WITH")
_FIRST_WORD: Final = re.compile(r"(?:\s|\(|--[^\n]*(?:\n|$)|/\*.*?\*/)*+(\w*)", re.DOTALL)


# ---------------------------------------------------------------- configuration


def server_of(instrument: Instrument) -> ServerUrl | None:
    """`Server` taken apart; None where it is missing or in another form."""
    server = parse_server(instrument.tags.Server or "", SCHEME, PORT)
    return server if server is not None and server.path.count("/") <= 1 else None


def _tag_faults(instrument: Instrument) -> list[Fault]:
    tags = instrument.tags
    faults = server_faults(tags, SCHEME, None, PORT)
    if not faults:
        server = server_of(instrument)
        if server is None or server.user is None:
            text = f"User or database are not clear. Write {SCHEME}://user@host:{PORT}/database."
            faults.append(Fault("Server", "user-missing", text))
    return faults


def query_of(channel: Channel) -> str:
    """The SQL of a channel; empty where there is none."""
    return (channel.QueryText or "").strip()


def _channel_faults(channel: Channel) -> list[Fault]:
    faults = scalar_faults(channel)
    if channel.ReadWrite != "R":
        text = "Nothing is written to a database. Set ReadWrite to R."
        faults.append(Fault("ReadWrite", "protocol-read-only", text))
    if not query_of(channel):
        text = "The query is missing. Give QueryText, e.g. 'SELECT value FROM prices LIMIT 1'."
        faults.append(Fault("QueryText", "address-missing", text))
    elif "\0" in query_of(channel):
        faults.append(Fault("QueryText", "text-invalid", "SQL can't hold a NUL. Take it out."))
    elif not _only_reads(query_of(channel)):
        text = f"The statement does more than read. Begin it with one of {', '.join(READING)}."
        faults.append(Fault("QueryText", "protocol-read-only", text))
    if channel.DataType.lower() not in NUMBER_TYPES:
        text = f"'{channel.DataType}' is unknown. Use one of {', '.join(NUMBER_TYPES)}."
        faults.append(Fault("DataType", "datatype-unknown", text))
    return faults


def _only_reads(query: str) -> bool:
    """Judged by the first word; the server judges the rest."""
    found = _FIRST_WORD.match(query)
    return found is not None and found[1].upper() in READING


def check(instrument: Instrument) -> list[Finding]:
    """All findings about server, queries and types."""
    findings = tag_findings(instrument, _tag_faults(instrument))
    slots: dict[str, list[tuple[str, int]]] = {}
    for name, channel in instrument.channels.items():
        faults = _channel_faults(channel)
        findings += channel_findings(instrument, name, faults)
        if not faults:
            slots[name] = [(query_of(channel), channel.ArrayPos or 0)]
    return findings + shared_addresses(
        instrument, slots, lambda name: f"column {slots[name][0][1]} of {slots[name][0][0]}"
    )


@dataclass(frozen=True, slots=True)
class Request:
    """One query, and which of its columns are wanted by channels with which state names."""

    query: str
    columns: tuple[int, ...]
    states: tuple[tuple[str, ...], ...]
    scaling: Scaling


def plan(instrument: Instrument) -> list[Block]:
    """One block a query and scan class. Raises SiteError where `check` finds an error."""
    refuse(check(instrument))
    shared: dict[tuple[str, str], list[str]] = {}
    for name, channel in instrument.channels.items():
        scan_class = instrument.points[name].scan_class
        if scan_class:
            shared.setdefault((scan_class, query_of(channel)), []).append(name)
    return [_block(instrument, *key, names) for key, names in shared.items()]


def _block(instrument: Instrument, scan_class: str, query: str, names: list[str]) -> Block:
    channels = [instrument.channels[name] for name in names]
    request = Request(
        query,
        tuple(channel.ArrayPos or 0 for channel in channels),
        tuple(tuple(channel.States) for channel in channels),
        Scaling([coding_of(channel) for channel in channels]),
    )
    index = np.array([instrument.points[name].index for name in names], dtype=np.int32)
    return Block(index, scan_class, request, f"{scan_class}: {query}")


def open_driver(instrument: Instrument, surroundings: Surroundings) -> Driver:
    """A driver, not yet connected."""
    from drivers.postgresql.session import PostgresDriver

    return PostgresDriver(instrument, surroundings)


PROTOCOL: Final = DriverProtocol(
    names=("PostgreSql", "PostGreSQL"),
    plan=plan,
    check=check,
    open=open_driver,
    keys=frozenset(
        (
            "Server",
            "PasswordFile",
            "CertificateFile",
            "KeyFile",
            "ServerCertificateFile",
        )
    ),
)
