"""An authority that issues certificates, and a broker that shows one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.sync import support


class Authority:
    """Issues certificates."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name
        self.key, self.file = self._issue(name, [], None)

    def issue(self, name: str, *names: x509.GeneralName) -> Path:
        """A certificate and its key as <name>.pem and <name>-key.pem; returns the first."""
        return self._issue(name, list(names), self)[1]

    def _issue(
        self, name: str, names: list[x509.GeneralName], by: Authority | None
    ) -> tuple[ec.EllipticCurvePrivateKey, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        title = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        made = (
            x509.CertificateBuilder()
            .subject_name(title)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=by is None, path_length=None), critical=True)
        )
        if names:
            made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
        signed = made.sign(key if by is None else by.key, hashes.SHA256())
        file = self.folder / f"{name}.pem"
        file.write_bytes(signed.public_bytes(Encoding.PEM))
        (self.folder / f"{name}.der").write_bytes(signed.public_bytes(Encoding.DER))
        (self.folder / f"{name}-key.pem").write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        )
        return key, file


@asynccontextmanager
async def tls_broker(
    authority: Authority, folder: Path, port: int, name: str, extra: str = ""
) -> AsyncIterator[int]:
    files = f"certfile {authority.folder}/{name}.pem\nkeyfile {authority.folder}/{name}-key.pem"
    text = f"{files}\ncafile {authority.file}\n{extra or 'allow_anonymous true'}"
    broker = support.Mosquitto(port, folder / "broker", persistent=False, extra=text)
    broker.start()
    try:
        await broker.wait_ready()
        yield port
    finally:
        broker.kill()
