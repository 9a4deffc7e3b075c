"""The OPC UA client driver and certificates, users and passwords."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from asyncua.crypto.cert_gen import setup_self_signed_certificate
from cryptography.x509.oid import ExtendedKeyUsageOID

from drivers.contract import read_block
from drivers.errors import NotConnected
from drivers.opcua.driver import PROTOCOL
from drivers.sim.opcua_server import OpcUaSimulator
from tests.drivers.opcua_case import FLOW, NODES, client, open_driver


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")

    async def make() -> None:
        for name, use in (
            ("client", ExtendedKeyUsageOID.CLIENT_AUTH),
            ("server", ExtendedKeyUsageOID.SERVER_AUTH),
            ("other", ExtendedKeyUsageOID.SERVER_AUTH),
        ):
            uri = "urn:freeopcua:python:server" if name == "server" else f"urn:test:{name}"
            await setup_self_signed_certificate(
                folder / f"{name}.pem", folder / f"{name}.der", uri, "localhost", [use], {}
            )

    asyncio.run(make())
    return folder


async def secured(folder: Path, **tags: Any) -> None:
    """Connect to a server that asks for a user, and read."""
    sim = OpcUaSimulator(
        NODES,
        user="me",
        password="right",
        certificate=folder / "server.der",
        key=folder / "server.pem",
    )
    await sim.start()
    try:
        keys = {
            "Server": f"opc.tcp://me@127.0.0.1:{sim.port}",
            "Security": "Basic256Sha256",
            "CertificateFile": str(folder / "client.der"),
            "KeyFile": str(folder / "client.pem"),
            "ServerCertificateFile": str(folder / "server.der"),
            "PasswordFile": str(folder / "password"),
        }
        made = client(sim.url, {"Flow": FLOW}, **keys | tags)
        driver = open_driver(made)
        try:
            await driver.connect()
            values = await read_block(PROTOCOL, driver, PROTOCOL.plan(made)[0])
            assert values.tolist() == [1.5]
        finally:
            await driver.close()
    finally:
        await sim.stop()


@pytest.mark.parametrize("policy", ["Basic256Sha256", "Aes128Sha256RsaOaep", "Aes256Sha256RsaPss"])
async def test_a_secured_session_reads(certificates: Path, policy: str) -> None:
    (certificates / "password").write_text("right\n")
    await secured(certificates, Security=policy)


async def test_only_the_certificate_that_is_named_is_taken(certificates: Path) -> None:
    (certificates / "password").write_text("right")
    with pytest.raises(NotConnected):
        await secured(
            certificates, ServerCertificateFile=str(certificates / "other.der"), Timeout=1.0
        )


async def test_a_wrong_password_is_refused_and_not_shown(certificates: Path) -> None:
    (certificates / "password").write_text("wrong")
    with pytest.raises(NotConnected, match=r"BadUserAccessDenied|BadIdentityToken") as refusal:
        await secured(certificates)
    assert "wrong" not in str(refusal.value)


@pytest.mark.parametrize("key", ["CertificateFile", "KeyFile", "ServerCertificateFile"])
async def test_a_file_that_is_missing_is_named(certificates: Path, key: str) -> None:
    (certificates / "password").write_text("right")
    with pytest.raises(NotConnected, match="nothing"):
        await secured(certificates, **{key: str(certificates / "nothing.der")})


async def test_a_password_is_never_sent_in_the_clear(tmp_path: Path) -> None:
    sim = OpcUaSimulator(NODES, user="me", password="right")
    await sim.start()
    (tmp_path / "password").write_text("right")
    try:
        made = client(
            sim.url,
            {"Flow": FLOW},
            Server=f"opc.tcp://me@127.0.0.1:{sim.port}",
            PasswordFile=str(tmp_path / "password"),
        )
        driver = open_driver(made)
        with pytest.raises(NotConnected, match="in the clear"):
            await driver.connect()
        await driver.close()
    finally:
        await sim.stop()
