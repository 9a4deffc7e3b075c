"""The server's own key and certificate: made, kept, renewed."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509

from gateway.opcua.security import certificates
from gateway.opcua.security.certificates import DAY_NS, VALID_DAYS
from gateway.opcua.security.guard import GuardError
from tests.gateway.opcua.security_case import NOW_NS, Told, key, opened


@pytest.fixture
async def told(tmp_path: Path) -> Told:
    return await opened(tmp_path)


async def test_the_first_start_makes_a_key_and_a_certificate_that_only_we_read(told: Told) -> None:
    file = told.folder / "own" / "server.pem"
    assert file.stat().st_mode & 0o777 == 0o600
    own = certificates.read_chain(told.guard.certificate)[0]
    assert certificates.uris_of(own) == [told.guard.application_uri]
    assert told.guard.application_uri.endswith(":gatepost:Lab")
    assert "127.0.0.1" in certificates.hosts_of(own)
    assert (told.folder / "own" / "server.der").read_bytes() == told.guard.certificate
    usage = own.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature and usage.content_commitment and usage.key_cert_sign
    assert usage.key_encipherment and usage.data_encipherment and not usage.crl_sign
    assert certificates.ends_ns(own) > NOW_NS + (VALID_DAYS - 2) * DAY_NS


async def test_a_second_start_keeps_them(told: Told) -> None:
    again = await opened(told.folder)
    assert again.guard.certificate == told.guard.certificate


async def test_a_key_that_others_may_read_stops_the_start_with_the_remedy(told: Told) -> None:
    (told.folder / "own" / "server.pem").chmod(0o644)
    with pytest.raises(GuardError, match=r"server\.pem: others may read this key; run chmod 600"):
        await opened(told.folder)


async def test_a_broken_key_file_stops_the_start_with_the_remedy(told: Told) -> None:
    (told.folder / "own" / "server.pem").write_bytes(b"nonsense")
    with pytest.raises(GuardError, match="gatepost certs renew"):
        await opened(told.folder)


async def test_a_certificate_that_we_signed_is_renewed_before_its_end(told: Told) -> None:
    before = told.guard.certificate
    told.clock.advance((VALID_DAYS - 20) * DAY_NS)
    told.guard.changed()
    after = told.guard.certificate
    assert after != before
    old, new = (certificates.read_chain(der)[0] for der in (before, after))
    assert old.public_key() == new.public_key()
    assert certificates.uris_of(old) == certificates.uris_of(new)
    assert certificates.ends_ns(new) > told.clock.utc_ns() + DAY_NS


async def test_a_clock_that_runs_years_ahead_makes_no_certificate_of_the_future(
    told: Told,
) -> None:
    told.clock.advance(20 * VALID_DAYS * DAY_NS)
    told.guard.changed()
    renewed = certificates.read_chain(told.guard.certificate)[0]
    assert certificates.begins_ns(renewed) < NOW_NS < certificates.ends_ns(renewed)


async def test_a_machines_name_that_dns_cant_hold_is_left_out() -> None:
    subject = certificates.Subject("urn:a", "a", ("ü" * 80, "b"))
    made = certificates.self_signed(key("server"), subject, NOW_NS)
    assert certificates.hosts_of(made) == ["b"]


async def test_a_clock_that_cant_be_right_makes_a_certificate_that_counts_later() -> None:
    subject = certificates.Subject("urn:a", "a", ("a",))
    made = certificates.self_signed(key("server"), subject, 0)
    assert certificates.begins_ns(made) < NOW_NS < certificates.ends_ns(made)
