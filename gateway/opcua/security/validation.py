"""Whether a certificate counts: the steps of OPC 10000-4, 6.1.3 in their order. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from gateway.opcua.security.certificates import (
    CHAIN_MAX,
    KEY_BITS_MAX,
    KEY_BITS_MIN,
    begins_ns,
    der_of,
    ends_ns,
    is_self_signed,
    thumbprint,
    uris_of,
)
from gateway.opcua.security.codes import Code
from gateway.opcua.security.trust import TrustList

# OPC 10000-7: the signature of a certificate is made with SHA-2 of 256 bits and more.
_HASHES: Final = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
EXPONENT_END: Final = 2**32  # of public exponents; everybody's is 65537
_BROKEN: Final = (ValueError, TypeError, UnsupportedAlgorithm)


def judge(
    sent: Sequence[x509.Certificate], known: TrustList, now_ns: int, uri: str | None = None
) -> Code:
    """Whether the application that shows `sent` (its own certificate first) is trusted.

    uri  what the application calls itself; None where it has not said it yet
    """
    code = _judge_chain(sent, known, now_ns)
    if code:
        return code
    if uri is not None and uri not in uris_of(sent[0]):
        return Code.CERTIFICATE_URI_INVALID
    if not _application_use(sent[0]):
        return Code.CERTIFICATE_USE_NOT_ALLOWED
    return _judge_revocation(_chain_of(sent, known), known, now_ns)


def judge_own(sent: Sequence[x509.Certificate], known: TrustList, now_ns: int, uri: str) -> Code:
    """Whether a certificate can be ours: `sent` is it, with those that issued it behind."""
    code = is_sound(sent, known, now_ns)
    if code:
        return code
    if uri not in uris_of(sent[0]):
        return Code.CERTIFICATE_URI_INVALID
    if not _application_use(sent[0], ExtendedKeyUsageOID.SERVER_AUTH):
        return Code.CERTIFICATE_USE_NOT_ALLOWED
    code = _judge_revocation(_chain_of(sent, known), known, now_ns)
    revoked = code in (Code.CERTIFICATE_REVOKED, Code.CERTIFICATE_ISSUER_REVOKED)
    return code if revoked else Code.GOOD  # whether it was taken back is for the clients to know


def is_sound(sent: Sequence[x509.Certificate], known: TrustList, now_ns: int) -> Code:
    """Whether a certificate and those that issued it are right, whoever trusts them.

    sent  itself, perhaps with issuers behind it; `known` has more of them
    """
    itself = {thumbprint(der_of(one)): one for one in sent}
    return _judge_chain(sent, TrustList({**known.trusted, **known.issuers, **itself}), now_ns)


def judge_user(sent: Sequence[x509.Certificate], known: TrustList, now_ns: int) -> Code:
    """Whether a user's certificate is trusted. He signs with it, and has no application's URI."""
    code = _judge_chain(sent, known, now_ns)
    if code:
        return code
    usage = _usage(sent[0])
    if usage is not None and not usage.digital_signature:
        return Code.CERTIFICATE_USE_NOT_ALLOWED
    return _judge_revocation(_chain_of(sent, known), known, now_ns)


def _judge_chain(sent: Sequence[x509.Certificate], known: TrustList, now_ns: int) -> Code:
    """Structure, chain, signatures, keys, trust and times."""
    if not sent:
        return Code.CERTIFICATE_INVALID
    if not is_strong(sent[0]):  # before anything is computed with its key
        return Code.CERTIFICATE_POLICY_CHECK_FAILED
    chain = _chain_of(sent, known)
    if not is_self_signed(chain[-1]):
        return Code.CERTIFICATE_CHAIN_INCOMPLETE
    if not _signed_by(chain[-1], chain[-1]):
        return Code.CERTIFICATE_INVALID
    if not all(is_strong(one) for one in chain):
        return Code.CERTIFICATE_POLICY_CHECK_FAILED
    if not any(thumbprint(der_of(one)) in known.trusted for one in chain):
        return Code.CERTIFICATE_UNTRUSTED
    for depth, one in enumerate(chain):
        if not begins_ns(one) <= now_ns < ends_ns(one):
            issuer = Code.CERTIFICATE_ISSUER_TIME_INVALID
            return issuer if depth else Code.CERTIFICATE_TIME_INVALID
    for depth, one in enumerate(chain[1:]):
        if not may_issue(one, depth):
            return Code.CERTIFICATE_ISSUER_USE_NOT_ALLOWED
    return Code.GOOD


def _chain_of(sent: Sequence[x509.Certificate], known: TrustList) -> list[x509.Certificate]:
    """From the holder up to the last issuer that is known; each is signed by the one behind it."""
    candidates = [*known.trusted.values(), *known.issuers.values(), *sent[1:CHAIN_MAX]]
    chain = [sent[0]]
    while not is_self_signed(chain[-1]) and len(chain) < CHAIN_MAX:
        last = chain[-1]
        issuer = next(
            (one for one in candidates if one.subject == last.issuer and _signed_by(last, one)),
            None,
        )
        if issuer is None or issuer in chain:
            break
        chain.append(issuer)
    return chain


def _signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    if not _is_bearable(issuer):
        return False
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, *_BROKEN):
        return False
    return True


def _is_bearable(certificate: x509.Certificate) -> bool:
    """False for keys that a stranger made so large that to verify with them takes long."""
    try:
        key = certificate.public_key()
    except _BROKEN:
        return False
    if not isinstance(key, rsa.RSAPublicKey):
        return True  # curves are quick
    return key.key_size <= KEY_BITS_MAX and key.public_numbers().e < EXPONENT_END


def is_strong(certificate: x509.Certificate) -> bool:
    """True where key and signature are what the three security policies ask for."""
    try:
        key = certificate.public_key()
        hashed = certificate.signature_hash_algorithm
    except _BROKEN:
        return False
    if not isinstance(key, rsa.RSAPublicKey):
        return False  # the three policies are RSA's
    if not _is_bearable(certificate) or key.key_size < KEY_BITS_MIN:
        return False
    return isinstance(hashed, _HASHES)


def _usage(certificate: x509.Certificate) -> x509.KeyUsage | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return None


def _application_use(
    certificate: x509.Certificate, purpose: x509.ObjectIdentifier = ExtendedKeyUsageOID.CLIENT_AUTH
) -> bool:
    """The uses that OPC 10000-6, 6.2.2 asks of an application that connects, or is connected to."""
    usage = _usage(certificate)
    if usage is None or not (
        usage.digital_signature
        and usage.content_commitment
        and usage.key_encipherment
        and usage.data_encipherment
    ):
        return False
    try:
        uses = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True  # without it a certificate is for every use (RFC 5280, 4.2.1.12)
    allowed = (purpose, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)
    return any(use in allowed for use in uses)


def may_issue(issuer: x509.Certificate, below: int = 0) -> bool:
    """True for an authority; `below`: how many others stand between it and the holder."""
    try:
        basic = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        return False
    usage = _usage(issuer)
    if not basic.ca or (usage is not None and not usage.key_cert_sign):
        return False
    return basic.path_length is None or below <= basic.path_length


def _judge_revocation(chain: Sequence[x509.Certificate], known: TrustList, now_ns: int) -> Code:
    """Every certificate but the root needs its issuer's list, and must not stand in it."""
    for depth, (one, issuer) in enumerate(pairwise(chain)):
        lists = [crl for crl in known.revoked if is_list_of(crl, issuer)]
        if any(crl.get_revoked_certificate_by_serial_number(one.serial_number) for crl in lists):
            return Code.CERTIFICATE_ISSUER_REVOKED if depth else Code.CERTIFICATE_REVOKED
        if not any(_is_current(crl, now_ns) for crl in lists):
            issuers = Code.CERTIFICATE_ISSUER_REVOCATION_UNKNOWN
            return issuers if depth else Code.CERTIFICATE_REVOCATION_UNKNOWN
    return Code.GOOD


def is_list_of(crl: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    """True where an authority signed a list of revoked certificates."""
    if crl.issuer != issuer.subject:
        return False
    key = issuer.public_key()
    try:
        return isinstance(key, rsa.RSAPublicKey) and crl.is_signature_valid(key)
    except _BROKEN:
        return False


def _is_current(crl: x509.CertificateRevocationList, now_ns: int) -> bool:
    ends = crl.next_update_utc
    return ends is None or now_ns < int(ends.timestamp()) * 1_000_000_000
