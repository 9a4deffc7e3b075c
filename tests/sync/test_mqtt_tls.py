"""TLS between gateway, broker and ingest; the broker is mosquitto, with certificates."""

from __future__ import annotations

import asyncio
import ipaddress
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from cloud.historian_sqlite import SqliteHistorian
from cloud.ingest import Ingest
from config.link import BrokerEntry
from gateway.core.clock import SystemClock
from sync.errors import LinkAddress, LinkError
from sync.link.forward import Forwarder
from sync.link.mqtt import MqttSession, TlsFiles, parse_url
from sync.store.async_store import AsyncStore
from tests.certificates import Authority, tls_broker
from tests.sync import support

ASKING = "require_certificate true\nuse_identity_as_username true"
URL = "mqtts://127.0.0.1"
# TLS 1.3 refuses a client behind the handshake; where the broker's reset comes first, its reason
# is lost on the way.
REFUSED = r"(?i)alert.unknown.ca|certificate.required|without an answer"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("certificates"), "plant-ca")
    made.issue("broker", x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    made.issue("elsewhere", x509.DNSName("broker.example"))
    made.issue("edge", x509.DNSName("edge"))
    Authority(made.folder, "stranger")
    return made


def files_of(authority: Authority, *, own: str = "edge", by: str = "plant-ca") -> TlsFiles:
    folder = authority.folder
    return TlsFiles(str(folder / f"{by}.pem"), f"{folder}/{own}.pem", f"{folder}/{own}-key.pem")


def session_of(port: int, tls: TlsFiles) -> MqttSession:
    return MqttSession(parse_url(f"{URL}:{port}", None, tls), client_id="edge", timeout_s=10.0)


async def test_both_sides_show_their_certificates(
    authority: Authority, tmp_path: Path, free_port: Any
) -> None:
    async with tls_broker(authority, tmp_path, free_port(), "broker", ASKING) as port:
        async with session_of(port, files_of(authority)) as session:
            await session.subscribe(["a/b"])
            big = b"x" * 200_000  # more than one record of TLS
            await session.publish("a/b", big)
            async with asyncio.timeout(10):
                assert (await anext(session.messages())).payload == big
        assert session._address.url == f"mqtts://127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("shown", "files", "reason"),
    [
        ("broker", {"by": "stranger"}, r"(?i)certificate.verify.failed"),
        ("elsewhere", {}, r"(?i)not valid for"),
        ("broker", {"own": "stranger"}, REFUSED),
    ],
)
async def test_who_can_not_be_trusted_gets_no_session(
    authority: Authority,
    tmp_path: Path,
    free_port: Any,
    shown: str,
    files: dict[str, str],
    reason: str,
) -> None:
    async with tls_broker(authority, tmp_path, free_port(), shown, ASKING) as port:
        with pytest.raises(LinkError, match=reason):
            async with session_of(port, files_of(authority, **files)) as session:
                await session.publish("a/b", b"")


async def test_a_gateway_without_a_certificate_gets_no_session(
    authority: Authority, tmp_path: Path, free_port: Any
) -> None:
    async with tls_broker(authority, tmp_path, free_port(), "broker", ASKING) as port:
        with pytest.raises(LinkError, match=REFUSED):
            async with session_of(port, TlsFiles(str(authority.file))) as session:
                await session.publish("a/b", b"")


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (TlsFiles("/nowhere/ca.pem"), r"AuthorityFile /nowhere/ca\.pem: No such file"),
        (
            TlsFiles(None, "/nowhere/a.pem", "/nowhere/b.pem"),
            r"CertificateFile /nowhere/a\.pem with",
        ),
        (TlsFiles(__file__), "AuthorityFile"),
    ],
)
async def test_a_file_that_can_not_be_used_is_named(files: TlsFiles, reason: str) -> None:
    with pytest.raises(LinkAddress, match=reason):
        async with session_of(1, files):
            pass


def test_files_for_tls_need_an_address_with_tls() -> None:
    with pytest.raises(LinkAddress, match="write mqtts://"):
        parse_url("mqtt://127.0.0.1", None, TlsFiles("/etc/ca.pem"))
    assert parse_url("mqtts://broker").port == 8883


async def test_frames_go_over_tls_into_the_historian(
    authority: Authority, tmp_path: Path, free_port: Any
) -> None:
    tls = files_of(authority)
    names = dict(zip(("AuthorityFile", "CertificateFile", "KeyFile"), astuple(tls), strict=True))
    async with tls_broker(authority, tmp_path, free_port(), "broker", ASKING) as port:
        url = f"{URL}:{port}"
        historian = SqliteHistorian(tmp_path / "historian.db")
        store = await AsyncStore.open(tmp_path / "edge.db", quota_bytes=10**9)
        await store.put_birth(support.BIRTH, support.birth_bytes())
        await store.append(support.batch(1, 500))
        entry = BrokerEntry(URL=url, **names)
        ingest = Ingest(historian, url, SystemClock(), tls=tls)
        forwarder = Forwarder(store, "cloud", entry, "lab", SystemClock())
        tasks = [asyncio.create_task(work.run()) for work in (ingest, forwarder)]
        try:
            await eventually_empty(store)
        finally:
            for task in tasks:
                await support.cancelled(task)
            await store.close()
        assert historian.audit("lab").rows == 500
        historian.close()


async def eventually_empty(store: AsyncStore) -> None:
    async with asyncio.timeout(20):
        while (await store.backlog()).frames:
            await asyncio.sleep(0.02)


def astuple(files: TlsFiles) -> tuple[str | None, ...]:
    return files.authority, files.certificate, files.key
