"""The enrolment service and its clients against hostile neighbours and damaged files."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cloud import listener
from cloud.authority import Authority, AuthorityError, read_request
from cloud.enrol_book import CERTIFICATES_MAX
from cloud.listener import PER_ADDRESS_MAX, Listener, listen
from gateway.core.clock import SystemClock
from sync import enrol_client, enrolment
from sync.enrol_client import join, renew
from sync.enrolment import EnrolmentError, Identity
from tests.cloud.test_enrol import HOUR_NS, Cloud


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[Cloud]:
    """A service that listens."""
    made = Cloud(tmp_path / "authority")
    await made.start()
    yield made
    await made.service.stop()


# ---------------------------------------------------------------- floods


class Echo(asyncio.Protocol):
    """Says back what it hears."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


@contextlib.asynccontextmanager
async def served(folder: Path, connection_s: float) -> AsyncIterator[tuple[int, ssl.SSLContext]]:
    """An echo behind a Listener: its port, and who to believe."""
    authority = Authority.create(folder, ["127.0.0.1"], SystemClock().utc_ns())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.server_file, authority.server_key_file)
    listening = listen("127.0.0.1", 0)
    port = listening.getsockname()[1]
    task = asyncio.create_task(Listener(Echo, context, connection_s=connection_s).run(listening))
    try:
        yield port, ssl.create_default_context(cafile=authority.file)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert listening.fileno() == -1


async def echoed(port: int, context: ssl.SSLContext) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        writer.write(b"hello")
        return await reader.read(100)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def test_who_says_nothing_gets_few_places_and_loses_them_again(tmp_path: Path) -> None:
    async with served(tmp_path, 0.5) as (port, context):
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(PER_ADDRESS_MAX)]
        with contextlib.suppress(OSError):
            assert await echoed(port, context) == b""
        for reader, writer in silent:
            with contextlib.suppress(OSError):
                assert await reader.read() == b""
            writer.close()
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(OSError):
                    if await echoed(port, context) == b"hello":
                        break
                await asyncio.sleep(0.05)


async def test_who_speaks_on_and_on_is_cut_off_too(tmp_path: Path) -> None:
    async with served(tmp_path, 0.5) as (port, context), asyncio.timeout(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        with contextlib.suppress(OSError):
            while not reader.at_eof():
                writer.write(b"x")
                await reader.read(1)
        writer.close()


async def test_places_are_bounded_whoever_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "CONNECTIONS_MAX", 2)
    async with served(tmp_path, 60.0) as (port, context), asyncio.timeout(20):
        held = [
            await asyncio.open_connection("127.0.0.1", port, ssl=context, local_addr=(host, 0))
            for host in ("127.0.0.2", "127.0.0.3")
        ]
        waiting = asyncio.create_task(echoed(port, context))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        held[0][1].close()
        assert await waiting == b"hello"
        held[1][1].close()


def test_an_address_that_is_taken_is_an_error_and_leaves_no_socket() -> None:
    with listen("127.0.0.1", 0) as first, pytest.raises(OSError, match="in use"):
        listen("127.0.0.1", first.getsockname()[1])
    if socket.has_ipv6:
        listen("::1", 0).close()


@pytest.mark.parametrize(
    "said",
    [
        b"\x00" * 5000,
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n",
        b"POST /v1/join HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/join HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1/join HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\nx",
        b"POST /v1/join HTTP/1.1\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\nabcd",
        b"POST /v1/join HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
        b"GET /v1/authority HTTP/1.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
    ],
)
async def test_hostile_http_takes_nothing_from_the_next_one(
    cloud: Cloud, tmp_path: Path, said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    context = ssl.create_default_context(cafile=cloud.authority.file)
    reader, writer = await asyncio.open_connection("127.0.0.1", cloud.service.port, ssl=context)
    with contextlib.suppress(OSError):
        writer.write(said)
        writer.write_eof() if writer.can_write_eof() else None
        async with asyncio.timeout(1):
            answer = await reader.read(100)
            assert b" 200 " not in answer and b" 500 " not in answer
    writer.close()
    await join(cloud.token(), Identity(tmp_path / "tls"))
    assert "Traceback" not in caplog.text


def test_a_request_of_a_version_that_nobody_knows_is_none() -> None:
    request = x509.load_pem_x509_csr(enrolment.request_for("lab", enrolment.new_key()))
    der = request.public_bytes(Encoding.DER).replace(b"\x02\x01\x00", b"\x02\x01\x07", 1)
    with pytest.raises(AuthorityError, match="no certificate request"):
        read_request(armoured(der, "CERTIFICATE REQUEST"))


def armoured(der: bytes, kind: str) -> bytes:
    body = base64.encodebytes(der).decode()
    return f"-----BEGIN {kind}-----\n{body}-----END {kind}-----\n".encode()


async def test_a_gateway_that_renews_again_and_again_fills_no_book(
    cloud: Cloud, tmp_path: Path
) -> None:
    identity = Identity(tmp_path / "tls")
    await join(cloud.token(), identity)
    for _ in range(CERTIFICATES_MAX - 1):
        await renew(identity)
    with pytest.raises(EnrolmentError, match="count already"):
        await renew(identity)
    assert len(cloud.book.entries()) == CERTIFICATES_MAX
    cloud.clock.ahead_ns = 91 * 24 * HOUR_NS
    cloud.book.revoke("lab", cloud.clock.utc_ns())
    await join(cloud.token(), Identity(tmp_path / "new"))


async def test_an_answer_to_a_renewal_that_was_lost_is_given_again(
    cloud: Cloud, tmp_path: Path
) -> None:
    identity = Identity(tmp_path / "tls")
    await join(cloud.token(), identity)
    body = json.dumps({"request": enrolment.request_for("lab", enrolment.new_key()).decode()})
    first, second = [await cloud.post("/v1/renew", body.encode(), identity.pair) for _ in range(2)]
    assert first == second
    assert first[0] == 200
    assert len(cloud.book.entries()) == 2


# ---------------------------------------------------------------- a service that is hostile


@contextlib.asynccontextmanager
async def impostor(cloud: Cloud, body: bytes) -> AsyncIterator[str]:
    """A service with the true certificate whose answers to everything are `body`."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            said = await reader.readuntil(b"\r\n\r\n")
            if b"authority" in said:
                pem = cloud.authority.pem
                length = str(len(pem)).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: " + length + b"\r\n\r\n")
                for at in range(0, len(pem), 100):  # in pieces
                    writer.write(pem[at : at + 100])
                    await writer.drain()
                    await asyncio.sleep(0.01)
                said = await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
            await reader.read()
        writer.close()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cloud.authority.server_file, cloud.authority.server_key_file)
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"x" * (enrol_client.ANSWER_BYTES_MAX + 1), "too long"),
        (b"[" * 30_000, "https://"),
        (b'{"certificate": 5}', "no certificate"),
        (b'{"certificate": "nonsense"}', "no certificate"),
        (b"\xff", "https://"),
        (b"[]", "no answer of a service"),
    ],
)
async def test_answers_that_are_none_are_named(
    cloud: Cloud, tmp_path: Path, body: bytes, reason: str
) -> None:
    async with impostor(cloud, body) as url:
        with pytest.raises(EnrolmentError, match=reason):
            await join(cloud.token(url=url), Identity(tmp_path / "tls"))


# ---------------------------------------------------------------- damaged files


async def test_damaged_files_of_a_gateway_are_named_and_a_pending_key_is_made_anew(
    cloud: Cloud, tmp_path: Path
) -> None:
    identity = Identity(tmp_path / "tls")
    await join(cloud.token(), identity)
    identity.pending.write_bytes(b"")
    await renew(identity)
    for damage in (b"nonsense", b"\xff\xfe"):
        identity.authority.write_bytes(damage)
        with pytest.raises(EnrolmentError, match="can't be read"):
            await renew(identity)


@pytest.mark.parametrize(
    "host", ["", " ", "a b", "-", "a..b", "x" * 64, ("a" * 60 + ".") * 5 + "b"]
)
def test_a_host_that_can_not_be_leaves_no_half_of_an_authority(tmp_path: Path, host: str) -> None:
    with pytest.raises(AuthorityError, match="expected a name"):
        Authority.create(tmp_path / "a", ["good.example", host], SystemClock().utc_ns())
    assert not (tmp_path / "a").exists()


def test_the_name_of_a_host_may_be_long(tmp_path: Path) -> None:
    host = "internal-" + "a" * 50 + ".eu-central-1.elb.amazonaws.com"
    authority = Authority.create(tmp_path, [host], SystemClock().utc_ns())
    server = enrolment.read_certificate(authority.server_file.read_bytes())
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in names] == [host]
