"""What changes in the folder while the guard is on duty, and whose session ends by it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.opcua.security.codes import Code
from gateway.opcua.security.guard import GuardError
from gateway.opcua.security.trust import TrustFolder
from gateway.opcua.security.user_file import Entry, with_password
from gateway.opcua.service import Fault
from gateway.opcua.users import ANONYMOUS, Role
from tests.gateway.opcua.security_case import (
    BASIC,
    NOW_NS,
    PASSWORD,
    URI,
    Channel,
    Told,
    authority,
    certificate_token,
    holder,
    keep,
    name_token,
    opened,
    revocations,
    user,
)

NONCE = bytes(range(32))
S_NS = 1_000_000_000


@pytest.fixture
async def told(tmp_path: Path) -> Told:
    keep(tmp_path, user(), user("boss", "administrator"))
    return await opened(tmp_path)


async def test_users_are_taken_up_at_once(told: Told) -> None:
    keep(told.folder, user("eve", "observer"))
    token = name_token(told.guard, "eve", PASSWORD, NONCE)
    found = await told.guard.user_of(token, None, NONCE, Channel())
    assert found.role == Role.OBSERVER
    gone = name_token(told.guard, "anna", PASSWORD, NONCE)
    with pytest.raises(Fault) as caught:
        await told.guard.user_of(gone, None, NONCE, Channel())
    assert caught.value.code == Code.USER_ACCESS_DENIED


async def test_what_stands_still_is_not_read_again(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    told.clock.advance(3_600 * S_NS)
    one = holder()
    assert told.guard.check_channel(one.der, BASIC.URI) == Code.CERTIFICATE_UNTRUSTED
    reads: list[object] = []
    real = TrustFolder.load
    monkeypatch.setattr(TrustFolder, "load", lambda self: reads.append(self) or real(self))
    for _ in range(5):
        told.guard.changed()
        told.clock.advance(S_NS)
    assert reads == []
    told.trust(one)
    assert told.guard.check_channel(one.der, BASIC.URI) == 0
    assert len(reads) == 2  # clients and people, once


async def test_a_list_of_revoked_ones_may_be_written_over(told: Told) -> None:
    root = authority()
    one = holder(by=root)
    told.trust(root)
    path = told.folder / "trusted" / "crl" / "root.crl"
    path.write_bytes(revocations(root).public_bytes(Encoding.DER))
    assert told.guard.check_channel(one.der, BASIC.URI) == 0
    folder = path.parent.stat()
    path.write_bytes(revocations(root, one).public_bytes(Encoding.DER))
    os.utime(path, ns=(NOW_NS, path.stat().st_mtime_ns + S_NS))
    assert path.parent.stat().st_mtime_ns == folder.st_mtime_ns
    assert told.guard.check_channel(one.der, BASIC.URI) == Code.CERTIFICATE_REVOKED


async def test_a_broken_file_of_users_leaves_what_counted(told: Told, caplog: Any) -> None:
    (told.folder / "users.json").write_text("{")
    token = name_token(told.guard, "anna", PASSWORD, NONCE)
    assert (await told.guard.user_of(token, None, NONCE, Channel())).name == "anna"
    assert "what counted before goes on" in caplog.text
    with pytest.raises(GuardError, match=r"users\.json"):
        await opened(told.folder)


async def test_a_broken_file_does_not_hold_up_what_others_say(told: Told, caplog: Any) -> None:
    one = holder()
    told.trust(one)
    assert told.guard.check_channel(one.der, BASIC.URI) == 0
    (told.folder / "users.json").write_text("{")
    (told.folder / "own" / "server.pem").write_text("no key")
    TrustFolder(told.folder).take_out("trusted", one.thumbprint)
    assert told.guard.check_channel(one.der, BASIC.URI) == Code.CERTIFICATE_UNTRUSTED
    assert "users.json" in caplog.text
    assert "server.pem" in caplog.text
    keep(told.folder, user("new"))
    token = name_token(told.guard, "new", PASSWORD, NONCE)
    assert (await told.guard.user_of(token, None, NONCE, Channel())).name == "new"


async def test_a_session_ends_when_its_user_or_its_certificate_goes(told: Told) -> None:
    one = holder()
    told.trust(one)
    entry = user()
    keep(told.folder, entry)
    token = name_token(told.guard, "anna", PASSWORD, NONCE)
    anna = await told.guard.user_of(token, None, NONCE, Channel())
    assert told.guard.may_stay(anna, one.der, URI)
    keep(told.folder, replace(entry, role="observer"))
    assert not told.guard.may_stay(anna, one.der, URI)
    keep(told.folder, entry)
    assert told.guard.may_stay(anna, one.der, URI)
    keep(told.folder, with_password(entry, "another horse"))  # the old one was found out
    assert not told.guard.may_stay(anna, one.der, URI)
    keep(told.folder, entry)
    TrustFolder(told.folder).take_out("trusted", one.thumbprint)
    assert not told.guard.may_stay(anna, one.der, URI)
    assert told.guard.may_stay(ANONYMOUS, None)


async def test_a_session_ends_when_the_certificate_of_its_user_goes(told: Told) -> None:
    one = holder("anna", uri=None)
    told.trust(one, "users/trusted")
    keep(told.folder, Entry("anna", "engineer", certificates=(one.thumbprint,)))
    token, signature = certificate_token(told.guard, one, NONCE)
    anna = await told.guard.user_of(token, signature, NONCE, Channel())
    assert told.guard.may_stay(anna, None)
    TrustFolder(told.folder / "users").take_out("trusted", one.thumbprint)
    assert not told.guard.may_stay(anna, None)


async def test_each_session_hangs_on_what_it_was_opened_with(told: Told) -> None:
    """A password beside it, or a second certificate, keeps no session of a stolen one alive."""
    one, two = holder("anna", uri=None), holder("anna too", uri=None)
    entry = user(certificates=(one.thumbprint, two.thumbprint))
    keep(told.folder, entry)
    found = []
    for each in (one, two):
        told.trust(each, "users/trusted")
        token, signature = certificate_token(told.guard, each, NONCE)
        found.append(await told.guard.user_of(token, signature, NONCE, Channel()))
    named = name_token(told.guard, "anna", PASSWORD, NONCE)
    found.append(await told.guard.user_of(named, None, NONCE, Channel()))
    TrustFolder(told.folder / "users").take_out("trusted", one.thumbprint)
    assert [told.guard.may_stay(anna, None) for anna in found] == [False, True, True]
    keep(told.folder, replace(entry, certificates=(one.thumbprint,)))
    assert [told.guard.may_stay(anna, None) for anna in found] == [False, False, True]
