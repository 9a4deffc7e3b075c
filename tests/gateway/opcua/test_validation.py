"""Certificates, good and bad, and the status code of each (OPC 10000-4, 6.1.3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
from asyncua import ua
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID

from gateway.opcua.security.certificates import DAY_NS
from gateway.opcua.security.codes import Code
from gateway.opcua.security.trust import TrustList
from gateway.opcua.security.validation import judge, judge_user
from tests.gateway.opcua.security_case import (
    NOW_NS,
    URI,
    Holder,
    authority,
    curve,
    holder,
    key,
    long_key,
    revocations,
)


def known(
    *trusted: Holder,
    issuers: Sequence[Holder] = (),
    revoked: Sequence[x509.CertificateRevocationList] = (),
) -> TrustList:
    return TrustList(
        {one.thumbprint: one.certificate for one in trusted},
        {one.thumbprint: one.certificate for one in issuers},
        tuple(revoked),
    )


@dataclass(frozen=True)
class Case:
    code: Code
    sent: Sequence[Holder]
    known: TrustList
    uri: str | None = URI


def alone(code: Code, one: Holder, uri: str | None = URI) -> Case:
    """A certificate that signed itself and is trusted."""
    return Case(code, [one], known(one), uri)


def issued(code: Code, **given: object) -> Case:
    """A certificate of an authority that is trusted and revoked nothing."""
    root = authority()
    one = holder(by=root, **given)  # type: ignore[arg-type]
    return Case(code, [one], known(root, revoked=[revocations(root)]))


def changed(one: Holder) -> Holder:
    """The same with a bit of its signature turned."""
    der = one.der[:-1] + bytes([one.der[-1] ^ 1])
    return Holder(x509.load_der_x509_certificate(der), one.key)


def two_floors(
    *, lists: bool = True, path_length: int | None = None, revoke: bool = False, sent: bool = False
) -> Case:
    root = authority("root", path_length=path_length)
    middle = authority("middle", by=root)
    one = holder(by=middle)
    code = Code.GOOD if lists else Code.CERTIFICATE_ISSUER_REVOCATION_UNKNOWN
    if path_length is not None:
        code = Code.CERTIFICATE_ISSUER_USE_NOT_ALLOWED
    if revoke:
        code = Code.CERTIFICATE_ISSUER_REVOKED
    crls = [revocations(middle), *([revocations(root, *([middle] * revoke))] if lists else [])]
    issuers = [] if sent else [middle]
    shown = [one, middle] if sent else [one]
    return Case(code, shown, known(root, issuers=issuers, revoked=crls))


def revoked_one() -> Case:
    root = authority()
    one = holder(by=root)
    # It is trusted by name, and its authority took it back all the same.
    crl = revocations(root, one)
    return Case(Code.CERTIFICATE_REVOKED, [one], known(root, one, revoked=[crl]))


def list_of_another() -> Case:
    root, other = authority(), authority(private=key("other"))
    one = holder(by=root)
    crl = revocations(other)  # the same name, another key
    return Case(Code.CERTIFICATE_REVOCATION_UNKNOWN, [one], known(root, revoked=[crl]))


def old_list() -> Case:
    root = authority()
    crl = revocations(root, ends_ns=NOW_NS - DAY_NS)
    return Case(Code.CERTIFICATE_REVOCATION_UNKNOWN, [holder(by=root)], known(root, revoked=[crl]))


def no_authority() -> Case:
    """A trusted application's certificate vouches for nobody."""
    other = holder("other")
    one = holder(by=other)
    crl = revocations(other)
    return Case(Code.CERTIFICATE_ISSUER_USE_NOT_ALLOWED, [one], known(other, revoked=[crl]))


def sent_root() -> Case:
    """Whoever sends his own authority along is not trusted for that."""
    root = authority()
    return Case(Code.CERTIFICATE_UNTRUSTED, [holder(by=root), root], known())


def forged() -> Case:
    """The name of a trusted authority, and another key."""
    root, other = authority(), authority(private=key("other"))
    one = holder(by=other)
    return Case(Code.CERTIFICATE_CHAIN_INCOMPLETE, [one], known(root, revoked=[revocations(root)]))


def old_root() -> Case:
    root = authority(ends_ns=NOW_NS - 1)
    crl = revocations(root)
    code = Code.CERTIFICATE_ISSUER_TIME_INVALID
    return Case(code, [holder(by=root)], known(root, revoked=[crl]))


def long_root() -> Case:
    """It was sent by a stranger; nothing is computed with it."""
    root = authority(public=long_key())
    return Case(Code.CERTIFICATE_CHAIN_INCOMPLETE, [holder(by=root), root], known(root))


CASES: dict[str, Callable[[], Case]] = {
    "self-signed": lambda: alone(Code.GOOD, holder()),
    "no uri asked yet": lambda: alone(Code.GOOD, holder(uri="urn:other"), None),
    "untrusted": lambda: Case(Code.CERTIFICATE_UNTRUSTED, [holder()], known(holder("other"))),
    "same name, same key, other certificate": lambda: Case(
        Code.CERTIFICATE_UNTRUSTED, [holder()], known(holder())
    ),
    "nothing": lambda: Case(Code.CERTIFICATE_INVALID, [], known()),
    "signature changed": lambda: alone(Code.CERTIFICATE_INVALID, changed(holder())),
    "expired": lambda: alone(Code.CERTIFICATE_TIME_INVALID, holder(ends_ns=NOW_NS - 1)),
    "not yet": lambda: alone(Code.CERTIFICATE_TIME_INVALID, holder(begins_ns=NOW_NS + 2 * DAY_NS)),
    "wrong uri": lambda: alone(Code.CERTIFICATE_URI_INVALID, holder(uri="urn:other")),
    "no uri": lambda: alone(Code.CERTIFICATE_URI_INVALID, holder(uri=None)),
    "no key usage": lambda: alone(Code.CERTIFICATE_USE_NOT_ALLOWED, holder(usage={})),
    "no signing": lambda: alone(
        Code.CERTIFICATE_USE_NOT_ALLOWED, holder(usage={"digital_signature": False})
    ),
    "no enciphering": lambda: alone(
        Code.CERTIFICATE_USE_NOT_ALLOWED, holder(usage={"data_encipherment": False})
    ),
    "a server's": lambda: alone(
        Code.CERTIFICATE_USE_NOT_ALLOWED, holder(extended=ExtendedKeyUsageOID.SERVER_AUTH)
    ),
    "for every use": lambda: alone(Code.GOOD, holder(extended=None)),
    "1024 bits": lambda: alone(
        Code.CERTIFICATE_POLICY_CHECK_FAILED, holder(private=key("short", 1024))
    ),
    "no RSA": lambda: alone(Code.CERTIFICATE_POLICY_CHECK_FAILED, holder(private=curve())),
    "key of a stranger that takes long": lambda: alone(
        Code.CERTIFICATE_POLICY_CHECK_FAILED, holder(public=long_key())
    ),
    "long exponent of a stranger": lambda: alone(
        Code.CERTIFICATE_POLICY_CHECK_FAILED, holder(public=long_key(2**1024 + 1, 2048))
    ),
    "authority whose key takes long": long_root,
    "SHA-224": lambda: alone(Code.CERTIFICATE_POLICY_CHECK_FAILED, holder(hashed=hashes.SHA224())),
    "issued": lambda: issued(Code.GOOD),
    "issued, expired": lambda: issued(Code.CERTIFICATE_TIME_INVALID, ends_ns=NOW_NS - 1),
    "issued, wrong uri": lambda: issued(Code.CERTIFICATE_URI_INVALID, uri="urn:other"),
    "no list": lambda: Case(
        Code.CERTIFICATE_REVOCATION_UNKNOWN, [holder(by=authority())], known(authority())
    ),
    "list of another": list_of_another,
    "old list": old_list,
    "revoked": revoked_one,
    "no such issuer": lambda: Case(
        Code.CERTIFICATE_CHAIN_INCOMPLETE, [holder(by=authority())], known(holder("other"))
    ),
    "forged": forged,
    "no authority": no_authority,
    "root sent along": sent_root,
    "old root": old_root,
    "two floors": two_floors,
    "two floors, the middle sent": lambda: two_floors(sent=True),
    "two floors, root without list": lambda: two_floors(lists=False),
    "two floors, one allowed": lambda: two_floors(path_length=0),
    "two floors, middle revoked": lambda: two_floors(revoke=True),
}


@pytest.mark.parametrize("name", CASES)
def test_each_certificate_has_its_status_code(name: str) -> None:
    # "no list" makes its authority twice: the trusted one has the key that signed, and that counts.
    case = CASES[name]()
    sent = [one.certificate for one in case.sent]
    assert judge(sent, case.known, NOW_NS, case.uri).text == case.code.text


def test_a_persons_certificate_needs_no_uri_and_only_to_sign() -> None:
    anna = holder("anna", uri=None, usage={"data_encipherment": False}, extended=None)
    assert judge_user([anna.certificate], known(anna), NOW_NS) is Code.GOOD
    assert judge_user([anna.certificate], known(), NOW_NS) is Code.CERTIFICATE_UNTRUSTED


def test_a_persons_certificate_that_may_not_sign_is_refused() -> None:
    anna = holder("anna", usage={"digital_signature": False})
    assert judge_user([anna.certificate], known(anna), NOW_NS) is Code.CERTIFICATE_USE_NOT_ALLOWED


def test_a_persons_revoked_certificate_is_refused() -> None:
    root = authority()
    anna = holder("anna", by=root)
    lists = [revocations(root, anna)]
    code = judge_user([anna.certificate], known(root, revoked=lists), NOW_NS)
    assert code is Code.CERTIFICATE_REVOKED


@pytest.mark.parametrize("code", list(Code))
def test_the_codes_are_those_of_the_standard(code: Code) -> None:
    assert ua.StatusCode(ua.UInt32(code)).name == code.text
