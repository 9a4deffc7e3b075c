"""The authority of a cloud: a key that signs certificates of gateways, services and the broker.

A folder of PEM files: ``authority.pem`` and ``authority-key.pem`` (0600), ``server.pem`` and
``server-key.pem`` (0600) of the enrolment service and the broker. A gateway's certificate says who
it is by its common name, the site, and what it is by its organisational unit.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from cloud.key_files import OTHERS
from gateway.core.files import create_file, replace_file

GATEWAY: Final = "gateway"
SERVICE: Final = "service"
AUTHORITY_DAYS: Final = 3650
SERVER_DAYS: Final = 825
GATEWAY_DAYS: Final = 365
RSA_BITS_MIN: Final = 2048
BACKDATED: Final = timedelta(minutes=10)  # the other side's clock may be a little behind
NAME: Final = "Gatepost authority"
_LABEL: Final = "[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST: Final = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*")


class AuthorityError(Exception):
    """The authority can't be used, or a request is none; the message says why."""


class Authority:
    """Signs requests with the key of a folder."""

    def __init__(self, folder: Path) -> None:
        """Loads an authority that `create` made. Raises AuthorityError."""
        self.folder = folder
        self.file = folder / "authority.pem"
        self.server_file = folder / "server.pem"
        self.server_key_file = folder / "server-key.pem"
        try:
            self.pem = self.file.read_bytes()
            self.certificate = x509.load_pem_x509_certificate(self.pem)
            key_file = folder / "authority-key.pem"
            if key_file.stat().st_mode & OTHERS:
                raise AuthorityError(f"{key_file}: others may read this key; run chmod 600 on it")
            key = load_pem_private_key(key_file.read_bytes(), None)
        except OSError as error:
            raise AuthorityError(f"{error.filename}: {error.strerror}") from None
        except (ValueError, TypeError) as error:
            raise AuthorityError(f"{folder}: no authority's files: {error}") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise AuthorityError(f"{folder}: the authority's key is no EC key")
        self._key = key

    @classmethod
    def create(cls, folder: Path, hosts: Sequence[str], now_ns: int) -> Authority:
        """Make the files of a new authority, and a server's certificate for `hosts`.

        Raises AuthorityError, also where there is one already.
        """
        _host_names(hosts)  # no half of an authority
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            key = ec.generate_private_key(ec.SECP256R1())
            public = key.public_key()
            name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
            made = _begun(name, name, public, now_ns, AUTHORITY_DAYS)
            made = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            made = made.add_extension(_usage(ca=True), critical=True)
            identifier = x509.SubjectKeyIdentifier.from_public_key(public)
            signed = made.add_extension(identifier, critical=False).sign(key, hashes.SHA256())
            create_file(folder / "authority-key.pem", _key_pem(key), 0o600)
            create_file(folder / "authority.pem", signed.public_bytes(Encoding.PEM), 0o644)
        except FileExistsError as error:
            raise AuthorityError(f"{error.filename}: there is an authority already") from None
        except OSError as error:
            raise AuthorityError(f"{error.filename}: {error.strerror}") from None
        authority = cls(folder)
        authority.renew_server(hosts, now_ns)
        return authority

    def renew_server(self, hosts: Sequence[str], now_ns: int) -> None:
        """A new key and certificate for the enrolment service and the broker on `hosts`.

        Raises AuthorityError.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName(_host_names(hosts))
        # A common name has 64 characters at most, a host's name 253; clients look at the others.
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])])
        made = self._leaf(subject, key.public_key(), now_ns, SERVER_DAYS)
        made = made.add_extension(names, critical=False)
        use = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
        signed = made.add_extension(use, critical=False).sign(self._key, hashes.SHA256())
        try:
            replace_file(self.server_key_file, _key_pem(key), 0o600)
            replace_file(self.server_file, signed.public_bytes(Encoding.PEM), 0o644)
        except OSError as error:
            raise AuthorityError(f"{error.filename}: {error.strerror}") from None

    def issue(
        self, public: Any, name: str, role: str, now_ns: int, days: int, turn: int = 0
    ) -> x509.Certificate:
        """A client's certificate: common name `name`, organisational unit `role`.

        turn  how often the name was revoked; so that an older certificate has another subject
        """
        fields = [
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
        if turn:
            fields.insert(0, x509.NameAttribute(NameOID.SERIAL_NUMBER, f"{turn}"))
        subject = x509.Name(fields)
        made = self._leaf(subject, public, now_ns, days)
        use = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
        return made.add_extension(use, critical=False).sign(self._key, hashes.SHA256())

    def _leaf(
        self, subject: x509.Name, public: Any, now_ns: int, days: int
    ) -> x509.CertificateBuilder:
        made = _begun(subject, self.certificate.subject, public, now_ns, days)
        made = made.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        made = made.add_extension(_usage(ca=False), critical=True)
        by = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return made.add_extension(by, critical=False)


def read_request(pem: bytes) -> Any:
    """The public key of a certificate request that its owner signed. Raises AuthorityError.

    What the request says of names and uses is not looked at: the authority decides these.
    """
    try:
        request = x509.load_pem_x509_csr(pem)
        valid, public = request.is_signature_valid, request.public_key()
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise AuthorityError(f"no certificate request: {error}") from None
    if not valid:
        raise AuthorityError("the request is not signed by its own key")
    strong = (
        (isinstance(public, ec.EllipticCurvePublicKey) and public.curve.key_size >= 256)
        or isinstance(public, ed25519.Ed25519PublicKey)
        or (isinstance(public, rsa.RSAPublicKey) and public.key_size >= RSA_BITS_MIN)
    )
    if not strong:
        raise AuthorityError("the key is too weak: EC of 256 bits, Ed25519 or RSA of 2048 bits")
    return public


def distinguished_name(name: str, role: str, turn: int) -> str:
    """The subject of a certificate that `Authority.issue` made, as RFC 4514 writes it."""
    return f"CN={name},OU={role}" + (f",SERIALNUMBER={turn}" if turn else "")


def new_client(
    authority: Authority, name: str, role: str, now_ns: int, days: int, turn: int = 0
) -> bytes:
    """A key and a certificate for it, both PEM in one: for a service beside the authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = authority.issue(key.public_key(), name, role, now_ns, days, turn)
    return _key_pem(key) + certificate.public_bytes(Encoding.PEM)


def _begun(
    subject: x509.Name, issuer: x509.Name, public: Any, now_ns: int, days: int
) -> x509.CertificateBuilder:
    now = datetime.fromtimestamp(now_ns // 1_000_000_000, UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        key_cert_sign=ca,
        crl_sign=ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _host_names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    found: list[x509.GeneralName] = []
    for host in hosts:
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            if not _HOST.fullmatch(host):
                raise AuthorityError(f"host {host!r}: expected a name or an address") from None
            found.append(x509.DNSName(host))
    return found


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
