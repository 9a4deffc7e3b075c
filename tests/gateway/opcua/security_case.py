"""Applications, people and authorities with certificates, good and bad, for the tests of security.

Keys are made once for a name, and shared where nothing else is said: a key of RSA costs a tenth of
a second.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from asyncua import ua
from asyncua.crypto import security_policies, uacrypto
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from config.opcua import OpcUaEntry
from gateway.core.clock import ManualClock, SystemClock, utc_datetime
from gateway.opcua.event import UaEvent
from gateway.opcua.security import passwords
from gateway.opcua.security.audit import Audit
from gateway.opcua.security.certificates import DAY_NS, der_of, thumbprint
from gateway.opcua.security.guard import Guard
from gateway.opcua.security.user_file import Entry, write_users

NOW_NS = SystemClock().utc_ns()
URI = "urn:test:scada"
ADDRESS = "192.0.2.7"
COST = 16  # of scrypt: the tests don't pay for what an attacker must
PASSWORD = "correct horse"
BASIC = security_policies.SecurityPolicyBasic256Sha256
AES128 = security_policies.SecurityPolicyAes128Sha256RsaOaep
AES256 = security_policies.SecurityPolicyAes256Sha256RsaPss
ALL = (BASIC, AES128, AES256)


@cache
def key(name: str = "client", bits: int = 2048) -> rsa.RSAPrivateKey:
    """A key; the same for the same name."""
    return rsa.generate_private_key(65_537, bits)


@cache
def curve() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def long_key(exponent: int = 65_537, bits: int = 4104) -> rsa.RSAPublicKey:
    """A public key that nobody has the private half of."""
    return rsa.RSAPublicNumbers(exponent, (1 << (bits - 1)) | 1).public_key()


@dataclass(frozen=True)
class Holder:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: Any

    @property
    def der(self) -> bytes:
        return der_of(self.certificate)

    @property
    def thumbprint(self) -> str:
        return thumbprint(self.der)


USAGE = {
    "digital_signature": True,
    "content_commitment": True,
    "key_encipherment": True,
    "data_encipherment": True,
    "key_agreement": False,
    "key_cert_sign": False,
    "crl_sign": False,
    "encipher_only": False,
    "decipher_only": False,
}


def holder(
    name: str = "client",
    *,
    uri: str | None = URI,
    by: Holder | None = None,
    private: Any = None,
    public: Any = None,
    begins_ns: int = NOW_NS - DAY_NS,
    ends_ns: int = NOW_NS + 100 * DAY_NS,
    usage: dict[str, bool] | None = None,
    extended: x509.ObjectIdentifier | None = ExtendedKeyUsageOID.CLIENT_AUTH,
    ca: bool = False,
    path_length: int | None = None,
    hashed: Any = None,
) -> Holder:
    """A certificate with everything as it should be, but for what is given."""
    private = private or key("authority" if ca else "client")
    title = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder()
        .subject_name(title)
        .issuer_name(by.certificate.subject if by else title)
        .public_key(public or private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(utc_datetime(begins_ns))
        .not_valid_after(utc_datetime(ends_ns))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=path_length), critical=True)
    )
    if usage != {}:
        flags = USAGE | ({"key_cert_sign": True, "crl_sign": True} if ca else {}) | (usage or {})
        made = made.add_extension(x509.KeyUsage(**flags), critical=True)
    if uri is not None:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
        made = made.add_extension(names, critical=False)
    if extended is not None and not ca:
        made = made.add_extension(x509.ExtendedKeyUsage([extended]), critical=False)
    signed = made.sign(by.key if by else private, hashed or hashes.SHA256())
    return Holder(signed, private)


def authority(name: str = "authority", **given: Any) -> Holder:
    return holder(name, uri=None, ca=True, **given)


def revocations(
    by: Holder, *revoked: Holder, ends_ns: int = NOW_NS + 10 * DAY_NS
) -> x509.CertificateRevocationList:
    """What an authority revoked."""
    made = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(by.certificate.subject)
        .last_update(utc_datetime(NOW_NS - 20 * DAY_NS))
        .next_update(utc_datetime(ends_ns))
    )
    for one in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(one.certificate.serial_number)
        made = made.add_revoked_certificate(
            entry.revocation_date(utc_datetime(NOW_NS - DAY_NS)).build()
        )
    return made.sign(by.key, hashes.SHA256())


@dataclass
class Channel:
    """What a guard sees of a channel."""

    policy: Any = BASIC
    peer: str = ADDRESS
    own_certificate: bytes = b""


@dataclass
class Told:
    """A guard, its clock, and the events that it caused."""

    guard: Guard
    folder: Path
    clock: ManualClock
    audit: Audit
    events: list[UaEvent] = field(default_factory=list)

    @property
    def kinds(self) -> list[int]:
        return [int(event.type_id.Identifier) for event in self.events]

    def trust(self, one: Holder, folder: str = "trusted") -> None:
        (self.folder / folder / "certs" / f"{one.thumbprint}.der").write_bytes(one.der)


async def opened(folder: Path, settings: OpcUaEntry | None = None) -> Told:
    """A guard of an empty folder, opened; its own key is not made anew each time."""
    from gateway.opcua.security import certificates

    clock = ManualClock(utc_ns=NOW_NS)
    events: list[UaEvent] = []
    audit = Audit(events.append, None, clock)
    real = certificates.new_key
    certificates.new_key = lambda bits=2048: key("server")
    try:
        guard = Guard(settings or OpcUaEntry(), folder, "Lab", clock, audit)
        await guard.open()
    finally:
        certificates.new_key = real
    return Told(guard, folder, clock, audit, events)


def user(name: str = "anna", role: str = "operator", **given: Any) -> Entry:
    """A user with the password PASSWORD, cheaply hashed."""
    return Entry(name, role, **{"password": passwords.hashed(PASSWORD, COST, 1)} | given)


def keep(folder: Path, *users: Entry) -> None:
    write_users(folder / "users.json", {one.name.casefold(): one for one in users})


def name_token(
    guard: Guard,
    name: str,
    password: str,
    nonce: bytes,
    policy: Any = BASIC,
    **given: Any,
) -> ua.UserNameIdentityToken:
    """A token as a client makes it, with as many blocks as the password needs."""
    public = uacrypto.x509_from_der(guard.certificate).public_key()
    plain = password.encode() + nonce
    plain = len(plain).to_bytes(4, "little") + plain
    step = public.key_size // 8 - (66 if policy is AES256 else 42)
    parts = [plain[at : at + step] for at in range(0, len(plain), step)]
    token = ua.UserNameIdentityToken()
    token.PolicyId = f"username-{NAMES[policy]}"
    token.UserName = name
    token.Password = b"".join(policy.encrypt_asymmetric(public, part) for part in parts)
    token.EncryptionAlgorithm = policy.AsymmetricEncryptionURI
    for field_name, value in given.items():
        setattr(token, field_name, value)
    return token


def certificate_token(
    guard: Guard, one: Holder, nonce: bytes, policy: Any = BASIC
) -> tuple[ua.X509IdentityToken, ua.SignatureData]:
    """A token and its signature, as a client makes them."""
    token = ua.X509IdentityToken()
    token.PolicyId = f"certificate-{NAMES[policy]}"
    token.CertificateData = one.der
    signature = ua.SignatureData()
    signature.Algorithm = policy.AsymmetricSignatureURI
    signature.Signature = policy.sign_asymmetric(one.key, guard.certificate + nonce)
    return token, signature


NAMES = {BASIC: "Basic256Sha256", AES128: "Aes128_Sha256_RsaOaep", AES256: "Aes256_Sha256_RsaPss"}
