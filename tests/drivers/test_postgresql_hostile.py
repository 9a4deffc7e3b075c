"""The PostgreSQL driver against servers that talk nonsense, after the login and in it."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.errors import DriverError, Garbled, NotConnected, Refused
from drivers.postgresql.guard import ANSWER_BYTES_MAX
from drivers.postgresql.values import number_of
from drivers.sim.postgres_server import PostgresServer, SqlError, data_row, message
from tests.drivers.postgres_case import Session, database
from tests.drivers.postgres_cluster import PASSWORD


@pytest.fixture
def password_file(tmp_path: Path) -> str:
    file = tmp_path / "password"
    file.write_text(PASSWORD + "\n")
    return str(file)


async def answered(raw: bytes, timeout_s: float = 0.15) -> list[float]:
    """What becomes of an answer of these bytes, from a server that begins well."""
    server = PostgresServer(lambda query: (1.0,))
    server.raw_answer = raw
    port = await server.start()
    tags = {"Server": f"postgresql://rig@127.0.0.1:{port}/rig", "Timeout": 20.0}
    session = Session(database({"Value": "SELECT 1"}, port, **tags))
    try:
        await session.driver.connect()
        session.driver._timeout_s = timeout_s
        return await session.read()
    finally:
        await session.driver.close()
        await server.stop()


ROW = data_row((1.0,))
HOSTILE = st.one_of(
    st.binary(max_size=200),
    st.builds(
        lambda kind, size, body: bytes((kind,)) + struct.pack(">I", size) + body,
        st.sampled_from(b"123ACDEGHIKNRSTVWZcdnstvQ"),
        st.one_of(st.integers(0, 80), st.sampled_from([ANSWER_BYTES_MAX, 2**31 - 1, 2**32 - 1])),
        st.binary(max_size=80),
    ),
    st.builds(
        lambda kind, body: message(kind, body) + message("Z", b"T"),
        st.sampled_from("123ACDEGHIKNRSTVWZcdnstv"),
        st.binary(max_size=80),
    ),
    st.builds(
        lambda at, byte: ROW[:at] + bytes((byte,)) + ROW[at + 1 :] + message("Z", b"T"),
        st.integers(0, len(ROW) - 1),
        st.integers(0, 255),
    ),
)


@settings(max_examples=60, deadline=None)
@given(HOSTILE)
def test_no_answer_raises_anything_but_driver_errors(raw: bytes) -> None:
    try:
        values = asyncio.run(answered(raw))
    except DriverError:
        return
    assert len(values) == 1


async def test_what_is_no_message_is_garbled_at_once() -> None:
    with pytest.raises(Garbled, match="no message of PostgreSQL"):
        await answered(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(Garbled, match="no message of PostgreSQL"):
        await answered(b"D" + struct.pack(">I", 2**31 - 1) + bytes(100))
    for size in (-2, 9, 2**31 - 1):  # of the one field in a row
        row = struct.pack(">hi", 1, size) + bytes(8)
        with pytest.raises(Garbled, match="breaks the protocol"):
            await answered(message("D", row) + message("Z", b"T"))
    with pytest.raises(Garbled, match="more than"):
        await answered(message("N", b"SNOTICE\0\0") * 100_000, timeout_s=20.0)


def told(name: bytes, value: bytes) -> bytes:
    return message("S", name + b"\0" + value + b"\0")


LOGIN = message("R", bytes(4)) + told(b"server_version", b"15.3") + message("K", bytes(8))
ENDLESS = struct.pack(">I", 2**31 - 1) + bytes(1000)


async def login(*answers: bytes, password_file: str | None = None, timeout_s: float = 0.3) -> str:
    """Why a session fails with a server that refuses TLS and answers the rest so, then waits."""
    closed = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.readexactly(8)
            writer.write(b"N")
            for answer in answers:
                await reader.read(1000)
                writer.write(answer)
            await reader.read()  # until the driver has closed
        writer.close()
        closed.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    tags = {"PasswordFile": password_file} if password_file else {}
    session = Session(database({"Value": "SELECT 1"}, port, **tags, Timeout=timeout_s))
    try:
        with pytest.raises(NotConnected) as error:
            await session.driver.connect()
        async with asyncio.timeout(20):
            await closed.wait()
        return str(error.value)
    finally:
        await session.driver.close()
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "took no session within 0.3 s"),
        (LOGIN, "took no session"),  # and is never ready
        (b"R" + ENDLESS, "no message of PostgreSQL"),
        (message("R", bytes(4)) + b"S" + ENDLESS, "no message of PostgreSQL"),
        (message("Z", b"I"), "breaks the protocol"),  # ready before anything else
        (message("R", bytes(4)) + told(b"server_version", b"new") + message("Z", b"I"), "breaks"),
        (message("R", struct.pack(">i", 5)), "authentication"),
        (message("D", bytes(2)), "no message of PostgreSQL"),
        (LOGIN + told(b"a", b"b") * 1001, "breaks the protocol"),
        (LOGIN + message("N", b"SNOTICE\0\0") * 100_000, "more than"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "no message of PostgreSQL"),
    ],
)
async def test_a_hostile_login_is_no_connection_and_leaves_no_socket(
    answer: bytes, reason: str
) -> None:
    # A megabyte of notices takes a busy machine more than the time that silence is given.
    timeout_s = 0.3 if reason.startswith("took") else 10.0
    assert reason in await login(answer, timeout_s=timeout_s)


async def test_a_server_that_says_the_password_is_not_quoted(password_file: str) -> None:
    wants = message("R", struct.pack(">i", 3))
    refuses = message("E", b"SFATAL\0C28P01\0Mnot " + PASSWORD.encode() + b"\0\0")
    text = await login(wants, refuses, password_file=password_file)
    assert "not ***" in text
    assert PASSWORD not in text


@settings(max_examples=40, deadline=None)
@given(HOSTILE)
def test_no_login_raises_anything_but_driver_errors(raw: bytes) -> None:
    asyncio.run(login(raw + b"\0\0\0\0\0"))  # which are no message


async def test_an_error_in_the_middle_of_nowhere_ends_in_a_refusal() -> None:
    def refuse(query: str) -> None:
        raise SqlError("57P01", "terminating connection due to administrator command")

    server = PostgresServer(refuse)
    port = await server.start()
    made = database({"A": "SELECT 1"}, port, Server=f"postgresql://rig@127.0.0.1:{port}/rig")
    session = Session(made)
    try:
        await session.driver.connect()
        with pytest.raises(NotConnected, match="57P01"):
            await session.read()
    finally:
        await session.driver.close()
        await server.stop()


@given(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(),
        st.decimals(),
        st.text(),
        st.binary(),
        st.lists(st.integers()),
        st.dates(),
    ),
    st.lists(st.text(max_size=5), max_size=3),
)
def test_every_value_is_a_number_or_refused(value: Any, states: list[str]) -> None:
    try:
        number = number_of(value, states, 0)
    except Refused:
        assert not isinstance(value, (bool, int, float, Decimal, str, type(None)))
        return
    assert isinstance(number, float)
