"""Enrolment over real TLS: one token, one gateway, nobody between, keys that stay."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import ssl
import stat
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509

from cloud.authority import GATEWAY, SERVICE, Authority, AuthorityError, new_client, read_request
from cloud.enrol import BODY_BYTES_MAX, EnrolmentService
from cloud.enrol_book import Book, BookError, Entitled, TokenRefused
from gateway.core.clock import SystemClock
from sync import enrolment
from sync.enrol_client import join, renew
from sync.enrolment import EnrolmentError, Identity, Token

BROKER = "mqtts://cloud.example:8883"
HOUR_NS = 3_600_000_000_000


class Setter(SystemClock):
    """The machine's clock, set forward."""

    def __init__(self) -> None:
        self.ahead_ns = 0

    def utc_ns(self) -> int:
        return super().utc_ns() + self.ahead_ns


class Cloud:
    """An authority, its book and its service."""

    def __init__(self, folder: Path) -> None:
        self.clock = Setter()
        self.authority = Authority.create(folder, ["127.0.0.1"], self.clock.utc_ns())
        self.book = Book(folder)
        self.service = EnrolmentService(
            self.authority, self.book, self.clock, broker=BROKER, days=90
        )

    async def start(self) -> None:
        await self.service.start("127.0.0.1", 0)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.service.port}"

    def token(self, site: str = "lab", *, life_ns: int = HOUR_NS, **more: Any) -> Token:
        secret = self.book.new_secret(site, self.clock.utc_ns() + life_ns, self.clock)
        fingerprint = enrolment.fingerprint(self.authority.certificate)
        fields = {"site": site, "url": self.url, "fingerprint": fingerprint, "secret": secret}
        return Token(**(fields | more))

    async def post(
        self, path: str, body: bytes, pair: Path | None = None
    ) -> tuple[int, dict[str, Any]]:
        """A request as anybody can make it."""
        context = ssl.create_default_context(cafile=self.authority.file)
        if pair is not None:
            context.load_cert_chain(pair)
        async with (
            aiohttp.ClientSession() as session,
            session.post(self.url + path, data=body, ssl=context) as response,
        ):
            return response.status, await response.json(content_type=None)


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[Cloud]:
    """A service that listens."""
    made = Cloud(tmp_path / "authority")
    await made.start()
    yield made
    await made.service.stop()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_a_token_brings_a_certificate_for_a_key_that_was_made_here(
    cloud: Cloud, tmp_path: Path
) -> None:
    identity = Identity(tmp_path / "tls")
    assert await join(cloud.token(), identity) == BROKER
    certificate = enrolment.read_certificate(identity.pair.read_bytes())
    assert enrolment.name_of(certificate) == "lab"
    certificate.verify_directly_issued_by(cloud.authority.certificate)
    context = ssl.create_default_context(cafile=identity.authority)
    context.load_cert_chain(identity.pair, identity.pair)
    assert (mode(identity.pair), mode(identity.authority)) == (0o600, 0o644)
    assert mode(identity.folder) == 0o700
    assert not identity.pending.exists()
    key = identity.pair.read_bytes().partition(b"-----BEGIN CERTIFICATE")[0]
    assert b"PRIVATE KEY" in key
    for file in cloud.authority.folder.iterdir():
        assert key.splitlines()[1] not in file.read_bytes()


async def test_the_book_keeps_no_secret_of_a_token(cloud: Cloud) -> None:
    token = cloud.token()
    data = b"".join(p.read_bytes() for p in cloud.authority.folder.glob("enrolment.sqlite*"))
    assert token.secret not in data
    assert token.secret.hex().encode() not in data
    assert mode(cloud.authority.folder / "enrolment.sqlite") == 0o600
    assert mode(cloud.authority.folder / "authority-key.pem") == 0o600


async def test_a_token_counts_once_for_its_site_and_until_it_expires(
    cloud: Cloud, tmp_path: Path
) -> None:
    token = cloud.token()
    await join(token, Identity(tmp_path / "first"))
    with pytest.raises(EnrolmentError, match="used already"):
        await join(token, Identity(tmp_path / "second"))
    late = cloud.token("park")
    cloud.clock.ahead_ns = HOUR_NS + 1
    with pytest.raises(EnrolmentError, match="has expired"):
        await join(late, Identity(tmp_path / "late"))
    cloud.clock.ahead_ns = 0
    # Another site's name in the token: the service knows for whom it was.
    forged = dataclasses.replace(cloud.token("park"), site="lab")
    with pytest.raises(EnrolmentError, match="for 'park'"):
        await join(forged, Identity(tmp_path / "forged"))
    unknown = cloud.token(secret=b"x" * 32)
    with pytest.raises(EnrolmentError, match="unknown here"):
        await join(unknown, Identity(tmp_path / "unknown"))


async def test_an_answer_that_got_lost_is_asked_for_again_with_the_same_key(
    cloud: Cloud, tmp_path: Path
) -> None:
    identity, token = Identity(tmp_path / "tls"), cloud.token()
    identity.folder.mkdir()
    identity.pending.write_bytes(enrolment.new_key())
    asked = {
        "secret": token.secret.hex(),
        "request": enrolment.request_for("lab", identity.pending.read_bytes()).decode(),
    }
    status, lost = await cloud.post("/v1/join", json.dumps(asked).encode())
    assert status == 200
    await join(token, identity)
    assert lost["certificate"].encode() in identity.pair.read_bytes()
    assert len(cloud.book.entries()) == 1


def test_of_many_gateways_that_show_one_token_at_once_one_gets_it(tmp_path: Path) -> None:
    clock = SystemClock()
    authority = Authority.create(tmp_path, ["127.0.0.1"], clock.utc_ns())
    secret = Book(tmp_path).new_secret("lab", clock.utc_ns() + HOUR_NS, clock)
    count = 12
    ready = threading.Barrier(count)

    def ask(_: int) -> bool:
        public = read_request(enrolment.request_for("lab", enrolment.new_key()))
        book = Book(tmp_path)  # as another process would have it

        def issue(who: Entitled) -> x509.Certificate:
            return authority.issue(public, who.name, GATEWAY, clock.utc_ns(), 10)

        ready.wait(20)
        try:
            book.redeem(secret, public, clock.utc_ns(), issue, GATEWAY)
        except TokenRefused:
            return False
        return True

    with ThreadPoolExecutor(count) as pool:
        assert sum(pool.map(ask, range(count))) == 1
    assert len(Book(tmp_path).entries()) == 1


async def test_nobody_between_gets_the_secret(cloud: Cloud, tmp_path: Path) -> None:
    (tmp_path / "between").mkdir()
    between = Cloud(tmp_path / "between" / "authority")
    seen: list[bytes] = []
    real = between.book.redeem

    def redeem(secret: bytes, *more: Any) -> bytes:
        seen.append(secret)
        return real(secret, *more)

    between.book.redeem = redeem  # type: ignore[method-assign]
    await between.start()
    try:
        with pytest.raises(EnrolmentError, match="another authority"):
            await join(cloud.token(url=between.url), Identity(tmp_path / "tls"))
        assert seen == []
        assert not Identity(tmp_path / "tls").pair.exists()
        # The right authority's certificate over a connection of somebody else's.
        between.authority.pem = cloud.authority.pem
        with pytest.raises(EnrolmentError, match="certificate verify failed"):
            await join(cloud.token(url=between.url), Identity(tmp_path / "tls"))
        assert seen == []
    finally:
        await between.service.stop()


async def test_a_service_under_another_name_is_refused(cloud: Cloud, tmp_path: Path) -> None:
    token = cloud.token(url=cloud.url.replace("127.0.0.1", "localhost"))
    with pytest.raises(EnrolmentError, match="localhost"):
        await join(token, Identity(tmp_path / "tls"))


async def test_a_certificate_is_renewed_with_a_new_key_and_the_old_one_shown(
    cloud: Cloud, tmp_path: Path
) -> None:
    identity = Identity(tmp_path / "tls")
    await join(cloud.token(), identity)
    before = identity.pair.read_bytes()
    cloud.clock.ahead_ns = 1_000_000_000
    await renew(identity)
    after = identity.pair.read_bytes()
    old, new = map(enrolment.read_certificate, (before, after))
    assert enrolment.name_of(new) == "lab"
    assert enrolment.key_hash(new.public_key()) != enrolment.key_hash(old.public_key())
    assert mode(identity.pair) == 0o600
    assert cloud.book.entitled(cloud.clock.utc_ns()) == {("lab", GATEWAY, 0)}
    await renew(identity)
    assert len(cloud.book.entries()) == 3


async def test_a_renewal_needs_a_certificate_that_counts(cloud: Cloud, tmp_path: Path) -> None:
    identity = Identity(tmp_path / "tls")
    with pytest.raises(EnrolmentError, match="is this gateway enrolled"):
        await renew(identity)
    await join(cloud.token(), identity)
    asked = {"request": enrolment.request_for("lab", enrolment.new_key()).decode()}
    body = json.dumps(asked).encode()
    assert (await cloud.post("/v1/renew", body))[0] == 403
    unbooked = tmp_path / "unbooked.pem"
    unbooked.write_bytes(new_client(cloud.authority, "lab", GATEWAY, cloud.clock.utc_ns(), 9))
    assert (await cloud.post("/v1/renew", body, unbooked))[0] == 403
    over = tmp_path / "over.pem"
    over.write_bytes(new_client(cloud.authority, "lab", GATEWAY, cloud.clock.utc_ns(), 0))
    with pytest.raises(aiohttp.ClientError):
        await cloud.post("/v1/renew", body, over)
    before = identity.pair.read_bytes()
    assert cloud.book.revoke("lab", cloud.clock.utc_ns()) == 1
    with pytest.raises(EnrolmentError, match="revoked"):
        await renew(identity)
    assert identity.pair.read_bytes() == before
    assert cloud.book.entitled(cloud.clock.utc_ns()) == set()


async def test_a_revoked_name_needs_a_new_token_and_old_ones_are_gone(
    cloud: Cloud, tmp_path: Path
) -> None:
    used, unused = cloud.token(), cloud.token()
    first = Identity(tmp_path / "first")
    await join(used, first)
    cloud.book.revoke("lab", cloud.clock.utc_ns())
    for token in (used, unused):
        with pytest.raises(EnrolmentError, match="refuses"):
            await join(token, first)
    await join(cloud.token(), Identity(tmp_path / "second"))
    assert cloud.book.entitled(cloud.clock.utc_ns()) == {("lab", GATEWAY, 1)}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"secret": 5}',
        b'{"secret": "zz", "request": ""}',
        b'{"secret": "", "request": "nonsense"}',
        b'{"request": {"a": 1}}',
        b"[" * 5000,
    ],
)
async def test_what_is_no_request_is_answered_with_400_and_changes_nothing(
    cloud: Cloud, body: bytes
) -> None:
    for path in ("/v1/join", "/v1/renew"):
        status, answer = await cloud.post(path, body)
        assert status in (400, 403)
        assert "reason" in answer
    assert cloud.book.entries() == []


async def test_a_body_that_is_too_long_is_refused(cloud: Cloud) -> None:
    context = ssl.create_default_context(cafile=cloud.authority.file)
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            f"{cloud.url}/v1/join", data=b"x" * (BODY_BYTES_MAX + 1), ssl=context
        ) as response,
    ):
        assert response.status == 413


async def test_a_book_that_can_not_be_written_is_answered_with_503(
    cloud: Cloud, tmp_path: Path
) -> None:
    token = cloud.token()
    (cloud.authority.folder / "enrolment.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(EnrolmentError, match="can't keep its book"):
        await join(token, Identity(tmp_path / "tls"))


async def test_a_service_that_is_not_there_or_is_none_is_named(
    cloud: Cloud, tmp_path: Path
) -> None:
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(EnrolmentError, match=f"https://127.0.0.1:{port}"):
        await join(cloud.token(url=f"https://127.0.0.1:{port}"), Identity(tmp_path / "tls"))
    server.close()
    await server.wait_closed()
    with pytest.raises(EnrolmentError, match="status 404"):
        await join(cloud.token(url=cloud.url + "/elsewhere"), Identity(tmp_path / "tls"))


def test_an_authority_whose_key_others_may_read_is_none(tmp_path: Path) -> None:
    Authority.create(tmp_path / "authority", ["localhost"], SystemClock().utc_ns())
    (tmp_path / "authority" / "authority-key.pem").chmod(0o640)
    with pytest.raises(AuthorityError, match="chmod 600"):
        Authority(tmp_path / "authority")


def test_an_authority_is_made_once_and_its_damage_is_named(tmp_path: Path) -> None:
    now_ns = SystemClock().utc_ns()
    Authority.create(tmp_path, ["cloud.example", "10.0.0.1", "::1"], now_ns)
    with pytest.raises(AuthorityError, match="there is an authority already"):
        Authority.create(tmp_path, ["cloud.example"], now_ns)
    server = enrolment.read_certificate((tmp_path / "server.pem").read_bytes())
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(name.value) for name in names] == ["cloud.example", "10.0.0.1", "::1"]
    (tmp_path / "authority-key.pem").write_text("nonsense", encoding="utf-8")
    with pytest.raises(AuthorityError, match="no authority's files"):
        Authority(tmp_path)
    with pytest.raises(AuthorityError, match=r"authority\.pem: No such file"):
        Authority(tmp_path / "none")
    with pytest.raises(BookError):
        Book(tmp_path / "none")
    with pytest.raises(AuthorityError, match="expected a name"):
        Authority.create(tmp_path / "new", ["höst\n"], now_ns)


def test_services_are_in_the_book_as_such(tmp_path: Path) -> None:
    now_ns = SystemClock().utc_ns()
    authority, book = Authority.create(tmp_path, ["h"], now_ns), Book(tmp_path)
    certificate = enrolment.read_certificate(new_client(authority, "ingest", SERVICE, now_ns, 1))
    book.note(certificate, "ingest", SERVICE, now_ns)
    assert book.entitled(now_ns) == {("ingest", SERVICE, 0)}
    assert book.entitled(now_ns + 25 * HOUR_NS) == set()
    with pytest.raises(BookError):
        book.note(certificate, "ingest", SERVICE, now_ns)
