"""A session with a PostgreSQL server; what is asked comes from drivers/postgresql/driver.py.

The library is asyncpg. A session in which an answer is overdue, or that was left during a
query, is never used again.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from typing import Any, Final

import asyncpg
import numpy as np
from asyncpg.exceptions import InterfaceError, InternalClientError, PostgresError
from asyncpg.pgproto.pgproto import BufferError
from numpy.typing import NDArray

from config.points import PointDef
from config.site import Instrument
from drivers.contract import Block, Cycle, Part, Surroundings, Tap, one_by_one
from drivers.errors import DriverError, Garbled, NoAnswer, NotConnected, Refused
from drivers.postgresql.driver import Request, server_of
from drivers.postgresql.guard import Guard, GuardedLoop
from drivers.postgresql.values import number_of
from drivers.server_url import password_of

CLOSE_S: Final = 0.5
# SQLSTATE, or its class, of refusals that asking again can't mend: the query is wrong, or it
# may not do what it wants. All others depend on the data, the load or a lock.
PERMANENT: Final = ("0A", "25001", "25006", "26", "2F", "38", "3D", "3F", "42")
# The session is over, or the server takes none.
LOST: Final = ("08", "57P")
# What asyncpg raises over messages that are well formed and yet make no sense to it.
UNREADABLE: Final = (
    InternalClientError,
    BufferError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
CANCELLED: Final = "57014"  # the time limit, or an administrator


class PostgresDriver:
    """A session with a server; the contract is drivers.contract."""

    def __init__(self, instrument: Instrument, surroundings: Surroundings) -> None:
        server = server_of(instrument)
        assert server is not None
        self._server = server
        self._tags = instrument.tags
        self._timeout_s = instrument.tags.Timeout
        self._clock = surroundings.clock
        self._tap: Tap | None = surroundings.tap
        self._turn = asyncio.Lock()
        self._connection: Any = None  # asyncpg.Connection
        self._guard: Guard | None = None

    async def connect(self) -> None:
        """Connect and authenticate. Raises NotConnected, or NoAnswer from a silent server."""
        await self.close()
        password = password_of(self._tags) or ""  # "" keeps ~/.pgpass and PGPASSWORD out
        server, timeout_s, loop = self._server, self._timeout_s, GuardedLoop()
        connection = None
        try:
            connection = await asyncpg.connect(
                loop=loop,
                host=server.host,
                port=server.port,
                user=server.user,
                password=password,
                database=server.path.strip("/") or server.user,
                ssl=self._encryption(),
                timeout=timeout_s,
                command_timeout=timeout_s,
                statement_cache_size=0,  # nothing to go stale when a table changes
                server_settings={"application_name": "gatepost"},
            )
        except TimeoutError:
            raise NotConnected(f"{server} took no session within {timeout_s:g} s") from None
        except (PostgresError, InterfaceError) as error:
            # Nobody can tell what a server does with the password; it may be in its words.
            text = _text(error).replace(password, "***") if password else _text(error)
            fault = loop.guard.fault if loop.guard is not None else ""
            raise NotConnected(f"{server}: {fault or text}") from None
        except (*UNREADABLE, OSError) as error:
            raise NotConnected(f"{server}: {error}") from None
        finally:
            if connection is None:
                loop.abort()
        self._connection, self._guard = connection, loop.guard

    def _encryption(self) -> ssl.SSLContext | str:
        """TLS with the one certificate that the server may show, or where the server offers it."""
        tags = self._tags
        if tags.ServerCertificateFile is None:
            return "prefer"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # the certificate is pinned, whatever name it bears
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # and whoever signed it
        try:
            context.load_verify_locations(cafile=tags.ServerCertificateFile)
            if tags.CertificateFile is not None:
                # Without a word for it OpenSSL would ask the terminal for that of the key.
                context.load_cert_chain(tags.CertificateFile, tags.KeyFile, password="")
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise NotConnected(f"{self._server}: certificate files: {error}") from None
        return context

    async def close(self) -> None:
        """End the session, politely where nothing is under way; may be called twice."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if self._turn.locked() or connection.is_closed():
            connection.terminate()
            await asyncio.sleep(0)  # lets the transport end its socket
            return
        try:
            await connection.close(timeout=CLOSE_S)
        except (PostgresError, InterfaceError, InternalClientError, OSError):  # TimeoutError too
            connection.terminate()

    def read(self, cycle: Cycle) -> AsyncIterator[Part]:
        """One query a block, one after the other."""
        return one_by_one(cycle, self._ask, self._clock)

    async def write(self, point: PointDef, value: float) -> None:
        """Refused: nothing is written to a database."""
        raise Refused("nothing is written to a database", permanent=True)

    async def _ask(self, block: Block) -> NDArray[np.float64]:
        request: Request = block.request
        async with self._turn:
            connection = self._connection
            if connection is None or connection.is_closed():
                raise NotConnected(f"{self._server}: not connected")
            row = await self._first_row(connection, request.query)
        return values_of(request, row)

    async def _first_row(self, connection: Any, query: str) -> tuple[Any, ...] | None:
        """The first row, None where there is none. Raises DriverError.

        The session is ended by everything but an answer of the server that leaves it usable.
        """
        guard = self._guard
        assert guard is not None
        guard.reset()
        usable = False
        try:
            async with asyncio.timeout(self._timeout_s):
                row, refusal = await self._transaction(connection, query)
            usable = True
        except TimeoutError:
            text = f"no answer to a query within {self._timeout_s:g} s"
            if guard.unfinished:
                raise Garbled(f"{text}, but half of one") from None
            raise NoAnswer(text) from None
        except (PostgresError, InterfaceError, OSError) as error:  # the connection, not the query
            if guard.fault:
                raise Garbled(guard.fault) from None
            reason = str(error) if isinstance(error, OSError) else _text(error)
            raise NotConnected(f"{self._server}: {reason}") from None
        except UNREADABLE as error:
            raise Garbled(f"an answer that asyncpg can't read: {error}") from None
        finally:
            if not usable:
                connection.terminate()
        if refusal is not None:
            raise Garbled(guard.fault) if guard.fault else self._refused(connection, refusal)
        return row

    async def _transaction(
        self, connection: Any, query: str
    ) -> tuple[tuple[Any, ...] | None, Exception | None]:
        """The first row, or what the server has against the query."""
        limit_ms = max(1, int(self._timeout_s * 1000))
        if self._tap is not None:
            self._tap.frame(True, query.encode(), "query")
        await connection.execute(f"BEGIN READ ONLY; SET LOCAL statement_timeout = {limit_ms}")
        record: Any = None
        refusal: Exception | None = None
        try:
            record = await connection.fetchrow(query)
        except PostgresError as error:
            refusal = error
        except InterfaceError as error:  # asyncpg's own word, for example to a query with $1
            if connection.is_closed():
                raise
            refusal = error
        if refusal is None or not _ends_session(refusal):
            try:
                await connection.execute("ROLLBACK")
            except (PostgresError, InterfaceError, OSError):
                connection.terminate()  # the answer that we have is good; the session is not
        row = None if record is None else tuple(record)
        if self._tap is not None:
            text = repr(row) if refusal is None else _text(refusal)
            self._tap.frame(False, text.encode(), "first row" if refusal is None else "error")
        return row, refusal

    def _refused(self, connection: Any, refusal: Exception) -> DriverError:
        """The server's word as one of our errors."""
        state, text = _state(refusal), _text(refusal)
        if _ends_session(refusal):
            connection.terminate()
            return NotConnected(f"{self._server}: {text}")
        if state == CANCELLED:
            return NoAnswer(f"no answer to a query within {self._timeout_s:g} s: {text}")
        permanent = isinstance(refusal, InterfaceError) or state.startswith(PERMANENT)
        return Refused(text, permanent=permanent)


def _state(error: Exception) -> str:
    return str(getattr(error, "sqlstate", None) or "")


def _text(error: Exception) -> str:
    """The server's message and SQLSTATE on one line."""
    message = " ".join(str(getattr(error, "message", None) or error).split())
    return f"{message[:500]} (SQLSTATE {_state(error)})" if _state(error) else message[:500]


def _ends_session(error: Exception) -> bool:
    severity = str(getattr(error, "severity", None) or "")
    return severity in ("FATAL", "PANIC") or _state(error).startswith(LOST)


def values_of(request: Request, row: tuple[Any, ...] | None) -> NDArray[np.float64]:
    """A first row -> (N,) engineering units; NaN for no row, null and text that is no number.

    Raises Refused where the query has no such column, or the column is of a type without numbers.
    """
    raw = np.full(len(request.columns), np.nan)
    if row is not None:
        for at, (column, states) in enumerate(zip(request.columns, request.states, strict=True)):
            if column >= len(row):
                text = f"the query has {len(row)} columns, and ArrayPos asks for column {column}"
                raise Refused(text, permanent=True)
            raw[at] = number_of(row[column], states, column)
    return request.scaling(raw)
