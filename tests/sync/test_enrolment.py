"""Tokens and certificate requests: what is damaged, forged or for somebody else is refused."""

from __future__ import annotations

import base64
import random
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from cloud.authority import GATEWAY, Authority, AuthorityError, new_client, read_request
from gateway.core.clock import UTC_PLAUSIBLE_NS, ManualClock
from sync import enrolment
from sync.enrolment import EnrolmentError, Token

NOW_NS = ManualClock().utc_ns()
TOKEN = Token("lab", "https://cloud.example:8884", b"f" * 32, b"s" * 32)


def test_a_token_is_one_word_that_is_read_as_it_was_made() -> None:
    text = TOKEN.text()
    assert Token.read(f"  {text}\n") == TOKEN
    assert text.isascii()
    assert len(text.split()) == 1


def test_a_token_that_was_cut_or_mistyped_is_refused() -> None:
    text = TOKEN.text()
    chance = random.Random(3)
    refused = 0
    for _ in range(500):
        at = chance.randrange(len(text))
        other = text[:at] + chance.choice("abcXYZ019-_. é\n") + text[at + 1 :]
        for damaged in (other, text[:at]):
            try:
                assert Token.read(damaged) == TOKEN or damaged == other
            except EnrolmentError:
                refused += 1
    assert refused > 500


@pytest.mark.parametrize(
    "token",
    [
        Token("a/b", TOKEN.url, TOKEN.fingerprint, TOKEN.secret),
        Token("lab", "http://cloud.example", TOKEN.fingerprint, TOKEN.secret),
        Token("lab", TOKEN.url, b"short", TOKEN.secret),
        Token("lab", TOKEN.url, TOKEN.fingerprint, b"short"),
        Token("lab", "https://" + "x" * 400, TOKEN.fingerprint, TOKEN.secret),
    ],
)
def test_a_token_of_nonsense_is_refused(token: Token) -> None:
    with pytest.raises(EnrolmentError):
        Token.read(token.text())


def test_deep_nesting_in_a_token_is_refused_and_nothing_else_is_raised() -> None:
    deep = base64.urlsafe_b64encode(b"[" * 1400).decode().rstrip("=")
    with pytest.raises(EnrolmentError):
        Token.read(enrolment.TOKEN_PREFIX + deep)


def test_only_a_certificate_for_our_key_and_name_by_the_authority_is_taken(tmp_path: Path) -> None:
    ours = Authority.create(tmp_path / "ours", ["127.0.0.1"], NOW_NS)
    other = Authority.create(tmp_path / "other", ["127.0.0.1"], NOW_NS)
    key, foreign = enrolment.new_key(), enrolment.new_key()
    public = read_request(enrolment.request_for("lab", key))

    def issued(by: Authority, name: str) -> bytes:
        made = by.issue(public, name, GATEWAY, NOW_NS, 10)
        return made.public_bytes(Encoding.PEM)

    enrolment.check_issued(issued(ours, "lab"), key, "lab", ours.certificate)
    for pem, used, reason in (
        (issued(ours, "lab"), foreign, "another key"),
        (issued(ours, "park"), key, "for 'park'"),
        (issued(other, "lab"), key, "another authority"),
        (b"nonsense", key, "no certificate"),
    ):
        with pytest.raises(EnrolmentError, match=reason):
            enrolment.check_issued(pem, used, "lab", ours.certificate)
    assert enrolment.check_authority(ours.pem, enrolment.fingerprint(ours.certificate))
    with pytest.raises(EnrolmentError, match="another authority"):
        enrolment.check_authority(other.pem, enrolment.fingerprint(ours.certificate))


def test_the_life_of_a_certificate_is_a_share(tmp_path: Path) -> None:
    authority = Authority.create(tmp_path, ["127.0.0.1"], NOW_NS)
    pair = new_client(authority, "lab", GATEWAY, NOW_NS, 100)
    certificate = enrolment.read_certificate(pair)  # behind the key in one file
    assert enrolment.name_of(certificate) == "lab"
    day_ns = 86_400_000_000_000
    assert enrolment.life_left(certificate, NOW_NS) == pytest.approx(1, abs=1e-3)
    assert enrolment.life_left(certificate, NOW_NS + 75 * day_ns) == pytest.approx(0.25, abs=1e-3)
    assert enrolment.life_left(certificate, NOW_NS + 101 * day_ns) < 0
    assert UTC_PLAUSIBLE_NS <= NOW_NS


def test_a_request_that_is_none_weak_or_not_signed_by_its_key_is_refused() -> None:
    good = enrolment.request_for("lab", enrolment.new_key())
    read_request(good)
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    weak = [
        builder.sign(rsa.generate_private_key(65537, 1024), hashes.SHA256()),
        builder.sign(ec.generate_private_key(ec.SECP192R1()), hashes.SHA256()),
    ]
    for request in weak:
        with pytest.raises(AuthorityError, match="too weak"):
            read_request(request.public_bytes(Encoding.PEM))
    der = bytearray(x509.load_pem_x509_csr(good).public_bytes(Encoding.DER))
    der[-3] ^= 1
    body = base64.encodebytes(bytes(der)).decode()
    mark = "CERTIFICATE REQUEST-----\n"
    forged = f"-----BEGIN {mark}{body}-----END {mark}".encode()
    for nonsense in (forged, b"", b"nonsense", good[:100]):
        with pytest.raises(AuthorityError):
            read_request(nonsense)
