"""Keys and certificates of OPC UA applications (OPC 10000-6, 6.2.2). Pure.

A certificate travels as DER, perhaps with those of its issuers behind it.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, urlsplit

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from config.opcua import OpcUaEntry
from gateway.core.clock import UTC_PLAUSIBLE_NS, utc_datetime

KEY_BITS: Final = 2048  # what every security policy of the server and every client takes
KEY_BITS_MIN: Final = 2048
KEY_BITS_MAX: Final = 4096  # OPC 10000-7: limit of all three policies
VALID_DAYS: Final = 1826  # five years
NAME_CHARS_MAX: Final = 64  # of a common name (X.520)
CHAIN_MAX: Final = 8  # certificates of one chain
CERTIFICATE_BYTES_MAX: Final = 16_384
CHAIN_BYTES_MAX: Final = 65_536
DAY_NS: Final = 86_400_000_000_000


class CertificateError(Exception):
    """No usable certificate or key; the message says why."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What our certificate says of us: the application's URI and name, and where it is reached."""

    uri: str
    name: str
    hosts: tuple[str, ...]


def application_uri(host: str, site: str) -> str:
    """The URI of a gateway's server; the same as long as machine and site keep their names."""
    return f"urn:{quote(host, safe='')}:gatepost:{quote(site, safe='')}"


def thumbprint(der: bytes) -> str:
    """SHA-1 of a certificate, 40 capital hexadecimal digits: how OPC UA names certificates."""
    return hashlib.sha1(der, usedforsecurity=False).hexdigest().upper()


def new_key(bits: int = KEY_BITS) -> rsa.RSAPrivateKey:
    """A new RSA key; takes a tenth of a second and more."""
    return rsa.generate_private_key(public_exponent=65_537, key_size=bits)


def key_pem(key: rsa.RSAPrivateKey) -> bytes:
    """A key as PEM with PKCS8, without a password."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def read_key(data: bytes) -> rsa.RSAPrivateKey:
    """A key from PEM or DER. Raises CertificateError."""
    load = load_pem_private_key if data.lstrip().startswith(b"-----") else load_der_private_key
    try:
        key = load(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # TypeError: it has a password
        raise CertificateError("it holds no private key in PEM or DER without a password") from None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise CertificateError("the key is no RSA key; the security policies ask for one")
    if not KEY_BITS_MIN <= key.key_size <= KEY_BITS_MAX:
        raise CertificateError(f"the key has {key.key_size} bits; 2048 to 4096 are allowed")
    return key


def read_chain(data: bytes) -> list[x509.Certificate]:
    """One certificate or a chain, the holder's first, from DER or PEM. Raises CertificateError."""
    if len(data) > CHAIN_BYTES_MAX:
        raise CertificateError(f"{len(data)} bytes are more than a certificate has")
    try:
        if data.lstrip().startswith(b"-----"):
            chain = x509.load_pem_x509_certificates(data)
        else:
            chain = [x509.load_der_x509_certificate(part) for part in split(data)]
        for one in chain:
            _ = one.extensions, one.subject, one.issuer  # parsed only when they are asked for
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise CertificateError(f"no X.509 certificate in DER or PEM: {error}") from None
    except (x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise CertificateError(f"no usable certificate: {error}") from None
    return chain


def split(data: bytes) -> list[bytes]:
    """The certificates that stand behind one another in DER. Raises CertificateError."""
    parts: list[bytes] = []
    while data:
        if len(data) < 4 or data[0] != 0x30 or len(parts) == CHAIN_MAX:
            raise CertificateError("no X.509 certificate in DER")
        head, size = 2, data[1]
        if size >= 0x80:
            head += size & 0x7F
            size = int.from_bytes(data[2:head])
        if head > 5 or head + size > len(data):
            raise CertificateError("no X.509 certificate in DER: it is cut off")
        parts.append(data[: head + size])
        data = data[head + size :]
    if not parts:
        raise CertificateError("no certificate")
    return parts


def der_of(certificate: x509.Certificate) -> bytes:
    """A certificate in DER."""
    return certificate.public_bytes(Encoding.DER)


def uris_of(certificate: x509.Certificate) -> list[str]:
    """The URIs that a certificate is made out to; an application's has exactly one."""
    names = _alternatives(certificate)
    return names.get_values_for_type(x509.UniformResourceIdentifier) if names else []


def hosts_of(certificate: x509.Certificate) -> list[str]:
    """The DNS names and addresses that a certificate is made out to."""
    names = _alternatives(certificate)
    if names is None:
        return []
    addresses = [str(one) for one in names.get_values_for_type(x509.IPAddress)]
    return names.get_values_for_type(x509.DNSName) + addresses


def _alternatives(certificate: x509.Certificate) -> x509.SubjectAlternativeName | None:
    try:
        extensions = certificate.extensions
        return extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None


def common_name(certificate: x509.Certificate) -> str:
    """The common name of the holder; "" where there is none."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def is_self_signed(certificate: x509.Certificate) -> bool:
    """True where holder and issuer have one name; the signature is not looked at."""
    return certificate.subject == certificate.issuer


def begins_ns(certificate: x509.Certificate) -> int:
    """UTC from when on it counts."""
    return int(certificate.not_valid_before_utc.timestamp()) * 1_000_000_000


def ends_ns(certificate: x509.Certificate) -> int:
    """UTC from when on it does not count any more."""
    return int(certificate.not_valid_after_utc.timestamp()) * 1_000_000_000


def fits_key(certificate: x509.Certificate, key: rsa.RSAPrivateKey) -> bool:
    """True where the certificate is of this key."""
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    try:
        return certificate.public_key().public_bytes(*form) == key.public_key().public_bytes(*form)
    except (ValueError, UnsupportedAlgorithm):
        return False


def self_signed(
    key: rsa.RSAPrivateKey, subject: Subject, now_ns: int, begins_ns: int | None = None
) -> x509.Certificate:
    """An application's certificate that it signs itself.

    begins_ns  UTC from when on it counts; default a day ago, because clients' clocks differ

    A clock that can't be right makes one that counts from the first plausible time on.
    """
    now_ns = max(now_ns, UTC_PLAUSIBLE_NS)
    begins_ns = now_ns - DAY_NS if begins_ns is None else min(begins_ns, now_ns)
    name = _name_of(subject)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(utc_datetime(begins_ns))
        .not_valid_after(utc_datetime(now_ns + VALID_DAYS * DAY_NS))
        .add_extension(_alternatives_of(subject), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(self_signed=True), critical=True)
        .add_extension(_EXTENDED, critical=False)
    )
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    made = made.add_extension(identifier, critical=False).add_extension(issuer, critical=False)
    return made.sign(key, hashes.SHA256())


def request(key: rsa.RSAPrivateKey, subject: Subject, name: x509.Name | None = None) -> bytes:
    """A certificate request (PKCS #10) in PEM, with everything that the certificate needs.

    name  of the holder, where it is another one than the subject's
    """
    made = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(_name_of(subject) if name is None else name)
        .add_extension(_alternatives_of(subject), critical=False)
        .add_extension(_usage(self_signed=False), critical=True)
        .add_extension(_EXTENDED, critical=False)
    )
    return made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def _name_of(subject: Subject) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Gatepost"),
            x509.NameAttribute(NameOID.COMMON_NAME, subject.name[:NAME_CHARS_MAX]),
        ]
    )


def _alternatives_of(subject: Subject) -> x509.SubjectAlternativeName:
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(subject.uri)]
    for host in dict.fromkeys(subject.hosts):
        with contextlib.suppress(UnicodeError):  # a machine may have a name that DNS can't hold
            names.append(_host_name(host))
    return x509.SubjectAlternativeName(names)


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        return x509.DNSName(host.encode("idna").decode("ascii") if not host.isascii() else host)


def _usage(*, self_signed: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=True,
        key_encipherment=True,
        data_encipherment=True,
        key_agreement=False,
        key_cert_sign=self_signed,  # a self-signed one signs itself
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


_EXTENDED: Final = x509.ExtendedKeyUsage(
    [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
)


def subject_of(settings: OpcUaEntry, site: str, machine: str) -> Subject:
    """What our certificate says: URI, name, and the names and addresses that clients use.

    machine  the host name of this machine
    """
    try:
        endpoint = urlsplit(settings.Endpoint).hostname or ""
    except ValueError:
        endpoint = ""
    hosts = [machine, *settings.Hosts]
    if endpoint not in ("0.0.0.0", "::", ""):
        hosts.insert(1, endpoint)
    return Subject(application_uri(machine, site), f"Gatepost {site}", tuple(dict.fromkeys(hosts)))
