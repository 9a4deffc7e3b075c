"""A gateway's certificate: the one-time token, our key and request, and what came back. Pure.

Both sides of an enrolment share this module; docs/enrolment.md describes the way. The private key
is made here and never leaves the machine: what travels is a certificate request (PKCS #10).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from sync.topics import check_site

TOKEN_PREFIX: Final = "gatepost-enrol-1."
TOKEN_CHARS_MAX: Final = 2_000
SECRET_BYTES: Final = 32
URL_CHARS_MAX: Final = 300
PEM_BYTES_MAX: Final = 20_000
AUTHORITY_PATH: Final = "/v1/authority"
JOIN_PATH: Final = "/v1/join"
RENEW_PATH: Final = "/v1/renew"


class EnrolmentError(Exception):
    """An enrolment can't go on; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Token:
    """What a new gateway is given, once.

    site         the name that its certificate will have
    url          ``https://host:port`` of the enrolment service
    fingerprint  SHA-256 of the authority's certificate, 32 bytes: whom to believe
    secret       32 bytes; the service knows only their hash
    """

    site: str
    url: str
    fingerprint: bytes
    secret: bytes

    def text(self) -> str:
        """As it is handed over: one word of letters, digits, '-', '_' and '.'."""
        fields = [self.site, self.url, self.fingerprint.hex(), self.secret.hex()]
        data = base64.urlsafe_b64encode(json.dumps(fields).encode()).decode().rstrip("=")
        return TOKEN_PREFIX + data

    @classmethod
    def read(cls, text: str) -> Token:
        """The inverse of `text`. Raises EnrolmentError."""
        word = text.strip()
        if not word.startswith(TOKEN_PREFIX) or len(word) > TOKEN_CHARS_MAX:
            raise EnrolmentError(f"this is no enrolment token: one begins with {TOKEN_PREFIX}")
        data = word.removeprefix(TOKEN_PREFIX)
        try:
            site, url, fingerprint, secret = json.loads(
                base64.b64decode(data + "=" * (-len(data) % 4), altchars=b"-_", validate=True)
            )
            token = cls(check_site(site), str(url), bytes.fromhex(fingerprint), _secret(secret))
        except (ValueError, TypeError, binascii.Error, RecursionError):
            raise EnrolmentError("the enrolment token is damaged: copy all of it") from None
        if not token.url.startswith("https://") or len(token.url) > URL_CHARS_MAX:
            raise EnrolmentError("the enrolment token names no https:// service")
        if len(token.fingerprint) != hashes.SHA256.digest_size:
            raise EnrolmentError("the enrolment token is damaged: copy all of it")
        return token


@dataclass(frozen=True, slots=True)
class Identity:
    """The files of a gateway's identity in a folder.

    pair       key and certificate, PEM, 0600: for CertificateFile and for KeyFile
    authority  who issued it and the broker's certificate: for AuthorityFile
    pending    a key whose certificate did not come yet
    service    URL of the enrolment service, for the renewal
    """

    folder: Path

    @property
    def pair(self) -> Path:
        """Key and certificate in one file."""
        return self.folder / "gateway.pem"

    @property
    def authority(self) -> Path:
        """The authority's certificate."""
        return self.folder / "authority.pem"

    @property
    def pending(self) -> Path:
        """A key without a certificate."""
        return self.folder / "pending-key.pem"

    @property
    def service(self) -> Path:
        """Where to ask for the next certificate."""
        return self.folder / "service.url"


def _secret(text: str) -> bytes:
    secret = bytes.fromhex(text)
    if len(secret) != SECRET_BYTES:
        raise ValueError("a secret of another length")
    return secret


def secret_hash(secret: bytes) -> bytes:
    """What the service keeps of a token: 32 bytes that give nothing away of it."""
    return hashlib.sha256(b"gatepost enrolment token\0" + secret).digest()


def fingerprint(certificate: x509.Certificate) -> bytes:
    """SHA-256 of a certificate in DER form, 32 bytes."""
    return certificate.fingerprint(hashes.SHA256())


def key_hash(public: Any) -> bytes:
    """SHA-256 of a public key's SubjectPublicKeyInfo, 32 bytes."""
    data = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(data).digest()


def new_key() -> bytes:
    """A private key in PEM form (PKCS #8): ECDSA on P-256, which every TLS library knows."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _load_key(key: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        loaded = load_pem_private_key(key, None)
    except (ValueError, TypeError) as error:
        raise EnrolmentError(f"the private key can't be read: {error}") from None
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise EnrolmentError("the private key is none of this gateway: it is no EC key")
    return loaded


def request_for(site: str, key: bytes) -> bytes:
    """A certificate request in PEM form, signed by `key` (PEM). Raises EnrolmentError."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, site)])
    made = x509.CertificateSigningRequestBuilder().subject_name(name)
    return made.sign(_load_key(key), hashes.SHA256()).public_bytes(Encoding.PEM)


def read_certificate(pem: bytes) -> x509.Certificate:
    """The first certificate of a PEM file. Raises EnrolmentError."""
    try:
        return x509.load_pem_x509_certificate(pem)
    except (ValueError, x509.InvalidVersion) as error:
        raise EnrolmentError(f"this is no certificate: {error}") from None


def name_of(certificate: x509.Certificate) -> str:
    """The common name of a certificate's subject; empty where it has none."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def check_authority(pem: bytes, expected: bytes) -> x509.Certificate:
    """The authority's certificate where it is the one of the token. Raises EnrolmentError."""
    certificate = read_certificate(pem)
    if fingerprint(certificate) != expected:
        raise EnrolmentError(
            "the service shows another authority than the token names: somebody stands between, "
            "or the token is one of another service. Nothing was sent"
        )
    return certificate


def check_issued(pem: bytes, key: bytes, site: str, authority: x509.Certificate) -> None:
    """Raise EnrolmentError unless `pem` is a certificate of `site` for `key` by `authority`."""
    certificate = read_certificate(pem)
    if key_hash(certificate.public_key()) != key_hash(_load_key(key).public_key()):
        raise EnrolmentError("the service sent a certificate for another key")
    if name_of(certificate) != site:
        raise EnrolmentError(f"the service sent a certificate for {name_of(certificate)!r}")
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        raise EnrolmentError("the service sent a certificate of another authority") from None


def life_left(certificate: x509.Certificate, now_ns: int) -> float:
    """The share of a certificate's life that is left: 1 when it was issued, 0 and less behind."""
    begin_s = certificate.not_valid_before_utc.timestamp()
    end_s = certificate.not_valid_after_utc.timestamp()
    return (end_s - now_ns / 1e9) / (end_s - begin_s)
