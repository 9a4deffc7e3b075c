"""What a certificate manager asks to be signed, and what it sends back; for a thread."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from asyncua import ua
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, pkcs12
from cryptography.x509.oid import NameOID

from gateway.opcua.methods import MethodFault
from gateway.opcua.push.lists import certificate_of, name_of
from gateway.opcua.security.certificates import (
    CHAIN_MAX,
    CertificateError,
    Subject,
    fits_key,
    key_pem,
    read_key,
)
from gateway.opcua.security.own import OwnError, OwnFiles
from gateway.opcua.security.trust import TrustList
from gateway.opcua.security.validation import judge_own

KEY_FORMATS: Final = ("PEM", "PFX")
KEY_BYTES_MAX: Final = 65_536
NONCE_BYTES_MIN: Final = 32
NAME_CHARS_MAX: Final = 400
_CODES: Final = ua.StatusCodes
_NAMES: Final = {
    "CN": NameOID.COMMON_NAME,
    "O": NameOID.ORGANIZATION_NAME,
    "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "L": NameOID.LOCALITY_NAME,
    "S": NameOID.STATE_OR_PROVINCE_NAME,
    "ST": NameOID.STATE_OR_PROVINCE_NAME,
    "C": NameOID.COUNTRY_NAME,
    "DC": NameOID.DOMAIN_COMPONENT,
}


def signing_request(
    files: OwnFiles, subject: Subject, name: str, nonce: bytes, *, new_key: bool
) -> bytes:
    """A PKCS #10 request in DER. Raises MethodFault, OwnError.

    name   of the holder, e.g. ``CN=Gateway/O=Plant``; "" = that of the present certificate
    nonce  has to be there with a new key; the system's own randomness makes the key
    """
    if new_key and len(nonce) < NONCE_BYTES_MIN:
        raise MethodFault(_CODES.BadInvalidArgument, f"a nonce has {NONCE_BYTES_MIN} bytes or more")
    own = files.load()
    held = None if own is None else own.certificate.subject
    try:
        pem = files.request(subject, new_key=new_key, name=_name_of(name) if name else held)
    except ValueError:  # not every letter can stand in every part of a name
        raise _bad_name(name) from None
    return x509.load_pem_x509_csr(pem).public_bytes(Encoding.DER)


def _name_of(text: str) -> x509.Name:
    """A name as OPC 10000-12 writes it, its parts behind ``/`` or ``,``. Raises MethodFault."""
    parts = [part.strip() for part in re.split(r"[/,]", text) if part.strip()]
    made = []
    try:
        for part in parts:
            kind, _, content = part.partition("=")
            made.append(x509.NameAttribute(_NAMES[kind.strip().upper()], content.strip()))
    except (KeyError, ValueError):
        raise _bad_name(text) from None
    if not made or len(text) > NAME_CHARS_MAX:
        raise _bad_name(text)
    return x509.Name(made)


def _bad_name(text: str) -> MethodFault:
    return MethodFault(_CODES.BadInvalidArgument, f"no subject name: {text[:80]}")


def accepted(
    files: OwnFiles,
    sent: tuple[bytes, Sequence[bytes]],
    private: tuple[str, bytes],
    known: TrustList,
    uri: str,
    now_ns: int,
) -> tuple[rsa.RSAPrivateKey, x509.Certificate]:
    """A certificate that can be ours, and its key. Raises MethodFault.

    sent     it, and those that issued it, in DER
    private  format and content of a key that was made elsewhere; ("", b"") where it is ours
    known    more issuers
    uri      what it must be made out to
    """
    if len(sent[1]) > CHAIN_MAX:
        raise MethodFault(_CODES.BadInvalidArgument, f"more than {CHAIN_MAX} issuers")
    chain = [certificate_of(data) for data in (sent[0], *sent[1])]
    certificate = chain[0]
    if private[1]:
        key = _key_of(*private)
        if not fits_key(certificate, key):
            raise _failed(certificate, "it is of another key than the one sent with it")
    else:
        try:
            key = files.key_of(certificate)
        except OwnError:
            raise _failed(certificate, "it is of another key than ours") from None
    code = judge_own(chain, known, now_ns, uri)
    if code:
        raise _failed(certificate, code.text)
    return key, certificate


def _key_of(form: str, data: bytes) -> rsa.RSAPrivateKey:
    if form.upper() not in KEY_FORMATS or len(data) > KEY_BYTES_MAX:
        reason = f"a private key is {' or '.join(KEY_FORMATS)} here"
        raise MethodFault(_CODES.BadNotSupported, reason)
    try:
        if form.upper() == "PFX":
            held = pkcs12.load_pkcs12(data, None).key
            if not isinstance(held, rsa.RSAPrivateKey):
                raise CertificateError("it holds no RSA key")
            data = key_pem(held)
        return read_key(data)
    except (CertificateError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise MethodFault(_CODES.BadNotSupported, f"the private key: {error}") from None


def _failed(certificate: x509.Certificate, reason: str) -> MethodFault:
    return MethodFault(_CODES.BadSecurityChecksFailed, f"{name_of(certificate)}: {reason}")
