"""A database that speaks PostgreSQL's protocol 3.0, as far as a reader needs it.

Its content is a function: the SQL of a query in, its first row out. It trusts every user, knows
no SQL of its own but BEGIN, SET and ROLLBACK, and sends rows in binary form.

Source: PostgreSQL documentation, "Frontend/Backend Protocol".
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Final

from drivers.sim.listener import Listener, Session

MESSAGE_BYTES_MAX: Final = 1 << 20

_STARTUP: Final = 196608
_CANCEL: Final = 80877102
_ENCRYPTION: Final = (80877103, 80877104)  # TLS and GSSAPI: neither is offered
_PARAMETERS: Final = {
    "server_version": "15.0",
    "server_encoding": "UTF8",
    "client_encoding": "UTF8",
    "integer_datetimes": "on",
    "standard_conforming_strings": "on",
}

Field = float | bool | str | None
Handler = Callable[[str], Sequence[Field] | None]


class SqlError(Exception):
    """What a handler raises to refuse a query: SQLSTATE and message."""

    def __init__(self, state: str, message: str) -> None:
        self.state = state
        super().__init__(message)


class PostgresServer(Listener):
    """The database. The faults of the listener concern the answers to queries."""

    def __init__(self, handler: Handler, *, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(host=host, port=port)
        self.handler = handler
        self.raw_answer: bytes | None = None  # sent in place of every answer to a query

    def session(self) -> Session:
        """The protocol object of a new connection."""
        return _PostgresSession(self)


def message(kind: str, body: bytes = b"") -> bytes:
    """A message: its type, its length, its body."""
    return kind.encode() + struct.pack(">I", len(body) + 4) + body


def _text(*texts: str) -> bytes:
    return b"".join(text.encode() + b"\0" for text in texts)


def _type_of(field: Field) -> tuple[int, int]:
    """OID and size of a column's type."""
    if isinstance(field, bool):
        return 16, 1
    if isinstance(field, int):
        return 20, 8
    return (25, -1) if isinstance(field, str) else (701, 8)


def _binary(field: Field) -> bytes:
    if field is None:
        return struct.pack(">i", -1)
    if isinstance(field, bool):
        data = bytes((field,))
    elif isinstance(field, int):
        data = struct.pack(">q", field)
    else:
        data = field.encode() if isinstance(field, str) else struct.pack(">d", field)
    return struct.pack(">i", len(data)) + data


def row_description(row: Sequence[Field]) -> bytes:
    """What the columns are."""
    columns = [
        _text(f"column{n}") + struct.pack(">IhIhih", 0, 0, *_type_of(field), -1, 1)
        for n, field in enumerate(row, start=1)
    ]
    return message("T", struct.pack(">h", len(row)) + b"".join(columns))


def data_row(row: Sequence[Field]) -> bytes:
    """The values."""
    return message("D", struct.pack(">h", len(row)) + b"".join(_binary(field) for field in row))


class _PostgresSession(Session):
    """One client: start-up, then messages; answers leave with Sync or Flush."""

    def __init__(self, server: PostgresServer) -> None:
        super().__init__(server)
        self.server = server
        self._started = False
        self._state = "I"  # idle, T in a transaction, E in a failed one
        self._out = bytearray()
        self._executed = False
        self._failed = False  # everything up to Sync is skipped
        self._row: Sequence[Field] | None = None

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while self.transport is not None and self._take_one():
            pass
        if len(self.buffer) > MESSAGE_BYTES_MAX:
            self.drop()

    def _take_one(self) -> bool:
        """Take one whole message off the buffer; false where there is none."""
        head = 1 if self._started else 0
        if len(self.buffer) < head + 4:
            return False
        size = int.from_bytes(self.buffer[head : head + 4], "big")
        if size < 4 or size > MESSAGE_BYTES_MAX:
            self.drop()
            return False
        if len(self.buffer) < head + size:
            return False
        kind, body = chr(self.buffer[0]), bytes(self.buffer[head + 4 : head + size])
        del self.buffer[: head + size]
        if self._started:
            self._take(kind, body)
        else:
            self._start(body)
        return True

    def _start(self, body: bytes) -> None:
        code = int.from_bytes(body[:4], "big")
        if code in _ENCRYPTION:
            self._now(b"N")
        elif code != _STARTUP:
            self.drop()
        elif not self.server.faults.silent:
            self._started = True
            told = b"".join(message("S", _text(k, v)) for k, v in _PARAMETERS.items())
            key = message("K", struct.pack(">II", 1, 1))
            self._now(message("R", bytes(4)) + told + key + self._ready())

    def _take(self, kind: str, body: bytes) -> None:
        if kind == "X":
            self.drop()
        elif kind == "Q":
            self._simple(body.rstrip(b"\0").decode("utf-8", "replace"))
        elif kind in "SH":
            if kind == "S":
                self._out += self._ready()
                self._failed = False
            self._flush()
        elif not self._failed:
            self._extended(kind, body)

    def _simple(self, sql: str) -> None:
        begins = "BEGIN" in sql.upper()
        self.server.requests += begins
        self._state = "T" if begins else "I"
        for statement in filter(None, (part.strip() for part in sql.split(";"))):
            self._out += message("C", _text(statement.split()[0].upper()))
        self._out += self._ready()
        self._flush()

    def _extended(self, kind: str, body: bytes) -> None:
        if kind == "P":
            sql = body.split(b"\0")[1].decode("utf-8", "replace")
            try:
                self._row = self.server.handler(sql)
            except SqlError as error:
                self._fail(error)
                return
            self._out += message("1")
        elif kind == "D":
            self._out += message("t", bytes(2)) if body[:1] == b"S" else b""
            self._out += message("n") if self._row is None else row_description(self._row)
        elif kind == "B":
            self._out += message("2")
        elif kind == "E":
            self._executed = True
            rows = 0 if self._row is None else 1
            self._out += b"" if self._row is None else data_row(self._row)
            self._out += message("C", _text(f"SELECT {rows}"))
        elif kind == "C":
            self._out += message("3")

    def _fail(self, error: SqlError) -> None:
        fields = _text("SERROR", "VERROR", f"C{error.state}", f"M{error}")
        self._out += message("E", fields + b"\0")
        self._failed = True
        self._state = "E" if self._state != "I" else "I"

    def _ready(self) -> bytes:
        return message("Z", self._state.encode())

    def _flush(self) -> None:
        """Send what was collected; only the answers to queries are late or spoilt."""
        data, self._out = bytes(self._out), bytearray()
        if self.server.faults.silent or not data:
            return
        if self._executed:
            self._executed = False
            raw = self.server.raw_answer
            self.answer(data if raw is None else raw)
        else:
            self._now(data)

    def _now(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)
