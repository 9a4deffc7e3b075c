"""Who may open a channel or a session, and as whom."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path
from typing import Any

import pytest
from asyncua import ua
from asyncua.crypto import uacrypto
from asyncua.crypto.security_policies import SecurityPolicyNone

from config.opcua import OpcUaEntry
from gateway.opcua.security import guard as module
from gateway.opcua.security import trust
from gateway.opcua.security.attempts import FREE, WAIT_NS_MAX
from gateway.opcua.security.codes import Code
from gateway.opcua.security.trust import TrustFolder
from gateway.opcua.security.user_file import Entry
from gateway.opcua.service import Fault
from gateway.opcua.users import ANONYMOUS, Role
from tests.gateway.opcua.security_case import (
    AES256,
    ALL,
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
    key,
    name_token,
    opened,
    user,
)

NONCE = bytes(range(32))
OPEN = Channel(SecurityPolicyNone)
S_NS = 1_000_000_000


@pytest.fixture
async def told(tmp_path: Path) -> Told:
    keep(tmp_path, user(), user("boss", "administrator"))
    return await opened(tmp_path)


async def refused(told: Told, token: Any, signature: Any = None, **given: Any) -> str:
    """The name of the code that a logon is refused with."""
    nonce = given.pop("nonce", NONCE)
    channel = given.pop("channel", Channel())
    with pytest.raises(Fault) as caught:
        await told.guard.user_of(token, signature, nonce, channel)
    return Code(caught.value.code).text


# -- what is offered ---------------------------------------------------------------------------


async def test_endpoints_are_signed_and_encrypted_and_ask_for_a_user(told: Told) -> None:
    shown = told.guard.endpoints("opc.tcp://here:4840/x")
    assert [one.SecurityPolicyUri for one in shown] == [
        AES256.URI,
        BASIC.URI,
        "http://opcfoundation.org/UA/SecurityPolicy#Aes128_Sha256_RsaOaep",
    ]
    assert {one.SecurityMode for one in shown} == {ua.MessageSecurityMode.SignAndEncrypt}
    for one in shown:
        kinds = [token.TokenType for token in one.UserIdentityTokens]
        assert kinds == [ua.UserTokenType.UserName, ua.UserTokenType.Certificate]
        # A password is encrypted wherever it goes.
        assert {token.SecurityPolicyUri for token in one.UserIdentityTokens} == {
            one.SecurityPolicyUri
        }
    levels = [one.SecurityLevel for one in shown]
    assert levels == sorted(levels, reverse=True)


async def test_none_is_offered_to_anonymous_only_and_where_the_site_says_so(tmp_path: Path) -> None:
    told = await opened(tmp_path, OpcUaEntry(NoSecurity=True, SignOnly=True))
    shown = told.guard.endpoints("opc.tcp://here:4840/x")
    assert len(shown) == 7
    last = shown[-1]
    assert (last.SecurityMode, last.SecurityLevel) == (ua.MessageSecurityMode.None_, 0)
    assert [token.TokenType for token in last.UserIdentityTokens] == [ua.UserTokenType.Anonymous]
    assert told.guard.check_session(None, "") == 0


async def test_without_security_there_is_discovery_only(told: Told) -> None:
    assert told.guard.check_channel(None, SecurityPolicyNone.URI) == 0
    assert told.guard.check_session(None, "") == Code.SECURITY_POLICY_REJECTED


async def test_a_policy_that_the_site_does_not_offer_is_refused(tmp_path: Path) -> None:
    told = await opened(tmp_path, OpcUaEntry(Policies=["Aes256_Sha256_RsaPss"]))
    assert told.guard.check_channel(holder().der, BASIC.URI) == Code.SECURITY_POLICY_REJECTED
    factories = told.guard.policies()
    assert [one.URI for one in factories] == [AES256.URI, SecurityPolicyNone.URI]


# -- clients' certificates ---------------------------------------------------------------------


async def test_a_trusted_client_may_come(told: Told) -> None:
    one = holder()
    told.trust(one)
    assert told.guard.check_channel(one.der, BASIC.URI) == 0
    assert told.guard.check_session(one.der, URI) == 0
    assert told.events == []


async def test_what_a_stranger_calls_himself_obeys_no_terminal(told: Told) -> None:
    told.guard.check_channel(holder("x\n\x1b[2Jtrusted").der, BASIC.URI)
    assert told.events[-1].message.isprintable()


async def test_a_client_that_calls_itself_otherwise_than_its_certificate_is_refused(
    told: Told,
) -> None:
    one = holder()
    told.trust(one)
    assert told.guard.check_session(one.der, "urn:other") == Code.CERTIFICATE_URI_INVALID
    assert told.kinds == [ua.ObjectIds.AuditCertificateDataMismatchEventType]


async def test_an_unknown_client_is_kept_as_rejected_and_told(told: Told) -> None:
    one = holder()
    assert told.guard.check_channel(one.der, BASIC.URI, "192.0.2.9") == Code.CERTIFICATE_UNTRUSTED
    (kept,) = TrustFolder(told.folder).kept("rejected")
    assert kept.thumbprint == one.thumbprint
    assert told.kinds == [ua.ObjectIds.AuditCertificateUntrustedEventType]
    assert "192.0.2.9" in told.events[0].message
    # The next tries cost and tell nothing more for a while.
    assert told.guard.check_channel(one.der, BASIC.URI) == Code.CERTIFICATE_UNTRUSTED
    assert len(told.events) == 1


async def test_what_an_administrator_moves_counts_at_once(told: Told) -> None:
    one = holder()
    assert told.guard.check_channel(one.der, BASIC.URI) == Code.CERTIFICATE_UNTRUSTED
    rejected = next((told.folder / "rejected" / "certs").iterdir())
    rejected.rename(told.folder / "trusted" / "certs" / rejected.name)
    assert told.guard.check_channel(one.der, BASIC.URI) == 0
    (told.folder / "trusted" / "certs" / rejected.name).unlink()
    assert told.guard.check_channel(one.der, BASIC.URI) == Code.CERTIFICATE_UNTRUSTED


async def test_rejected_certificates_are_bounded_and_the_newest_stay(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust, "REJECTED_MAX", 5)
    # Signed by nobody's key but their own: whoever sends them needs no secret of ours.
    folder = TrustFolder(told.folder)
    for number in range(8):
        one = holder(f"flood {number}")
        folder.reject(one.certificate)
        path = next(
            p for p in folder.certificates("rejected").iterdir() if one.thumbprint in p.name
        )
        os.utime(path, ns=(NOW_NS + number, NOW_NS + number))
    names = sorted(path.name for path in folder.certificates("rejected").iterdir())
    assert [name.split(" [")[0] for name in names] == [f"flood {n}" for n in range(3, 8)]


async def test_a_flood_of_unknown_certificates_writes_few_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REJECTIONS", 3)
    told = await opened(tmp_path)
    for number in range(8):
        told.guard.check_channel(holder(f"f{number}").der, BASIC.URI)
    assert len(TrustFolder(told.folder).kept("rejected")) == 3
    assert len(told.events) == 8


@pytest.mark.parametrize("data", [b"", b"\x30", b"\x30\x82\xff\xff", b"nonsense", os.urandom(2000)])
async def test_random_bytes_are_no_certificate(told: Told, data: bytes) -> None:
    assert told.guard.check_channel(data, BASIC.URI) == Code.CERTIFICATE_INVALID


@pytest.mark.filterwarnings("ignore")  # of a library that goes on all the same
async def test_whatever_is_changed_in_a_certificate_has_a_code(told: Told) -> None:
    chance = random.Random(7)
    root = authority()
    told.trust(root)
    whole = holder(by=root).der + root.der
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(chance.choice((1, 2, 5))):
            data[chance.randrange(len(data))] = chance.randrange(256)
        code = told.guard.check_session(bytes(data), URI)
        assert Code(code).text.startswith("BadCertificate")


async def test_a_name_full_of_signs_names_a_file_in_its_folder(told: Told) -> None:
    one = holder("../../../etc/passwd\n")
    told.guard.check_channel(one.der, BASIC.URI)
    (path,) = (told.folder / "rejected" / "certs").iterdir()
    assert path.parent == told.folder / "rejected" / "certs"


# -- users with passwords ----------------------------------------------------------------------


@pytest.mark.parametrize("policy", ALL)
async def test_the_right_password_gives_user_and_role(told: Told, policy: Any) -> None:
    token = name_token(told.guard, "Anna", PASSWORD, NONCE, policy)
    found = await told.guard.user_of(token, None, NONCE, Channel(policy))
    assert (found.name, found.role) == ("anna", Role.OPERATOR)


@pytest.mark.parametrize(
    "token",
    [
        lambda g: name_token(g, "anna", "wrong", NONCE),
        lambda g: name_token(g, "nobody", PASSWORD, NONCE),
        lambda g: name_token(g, "anna", "", NONCE),
        lambda g: name_token(g, "anna", PASSWORD, bytes(32)),  # of another session
        lambda g: name_token(g, "anna", PASSWORD, b""),
        lambda g: name_token(g, "anna", PASSWORD, NONCE, Password=os.urandom(256)),
        lambda g: name_token(g, "anna", PASSWORD, NONCE, Password=os.urandom(255)),
        lambda g: name_token(g, "anna", PASSWORD, NONCE, Password=None),
        lambda g: name_token(g, "anna", "x" * 600, NONCE),
    ],
)
async def test_whatever_is_wrong_with_a_password_is_told_in_one_way(told: Told, token: Any) -> None:
    assert await refused(told, token(told.guard)) == "BadUserAccessDenied"


async def test_a_password_that_is_not_encrypted_is_refused(told: Told) -> None:
    plain = name_token(told.guard, "anna", PASSWORD, NONCE)
    plain.Password, plain.EncryptionAlgorithm = PASSWORD.encode(), None
    assert await refused(told, plain) == "BadIdentityTokenInvalid"
    # And not over a channel without security either, encrypted or not.
    good = name_token(told.guard, "anna", PASSWORD, NONCE)
    assert await refused(told, good, channel=OPEN) == "BadIdentityTokenRejected"


async def test_a_token_of_an_unknown_policy_or_the_wrong_algorithm_is_refused(told: Told) -> None:
    token = name_token(told.guard, "anna", PASSWORD, NONCE, PolicyId="username-None")
    assert await refused(told, token) == "BadIdentityTokenInvalid"
    old = "http://www.w3.org/2001/04/xmlenc#rsa-1_5"
    token = name_token(told.guard, "anna", PASSWORD, NONCE, EncryptionAlgorithm=old)
    assert await refused(told, token) == "BadIdentityTokenInvalid"


async def test_guessing_must_wait_and_locks_out_nobody_else(told: Told) -> None:
    wrong = name_token(told.guard, "anna", "wrong", NONCE)
    right = name_token(told.guard, "anna", PASSWORD, NONCE)
    for _ in range(FREE):
        assert await refused(told, wrong) == "BadUserAccessDenied"
    # The right one is not looked at now, from this address.
    assert await refused(told, right) == "BadUserAccessDenied"
    elsewhere = await told.guard.user_of(right, None, NONCE, Channel(peer="192.0.2.8"))
    assert elsewhere.name == "anna"
    boss = name_token(told.guard, "boss", PASSWORD, NONCE)
    assert (await told.guard.user_of(boss, None, NONCE, Channel())).role == Role.ADMINISTRATOR
    told.clock.advance(WAIT_NS_MAX)
    assert (await told.guard.user_of(right, None, NONCE, Channel())).name == "anna"


async def test_unknown_names_cost_as_much_as_known_ones(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    real = module.passwords.matches
    monkeypatch.setattr(
        module.passwords, "matches", lambda p, text: asked.append(text) or real(p, text)
    )
    for name in ("anna", "nobody"):
        await refused(told, name_token(told.guard, name, "wrong", NONCE))
    broken = name_token(told.guard, "anna", "", NONCE, Password=bytes(256))
    await refused(told, broken)
    assert len(asked) == 3
    assert {text.split("$")[1] for text in asked} == {"16"}


async def test_many_at_once_are_hashed_one_by_one_and_no_more_wait_than_allowed(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(password: str, text: str) -> bool:
        asyncio.run_coroutine_threadsafe(gate.wait(), loop).result(20)
        return False

    monkeypatch.setattr(module.passwords, "matches", slow)
    token = name_token(told.guard, "anna", "wrong", NONCE)
    tries = [
        asyncio.create_task(refused(told, token, channel=Channel(peer=f"192.0.2.{number}")))
        for number in [*range(module.WAITING_MAX - 3), 0, 0, 0, 0, 99, 99]
    ]
    await asyncio.sleep(0)
    done = [task.result() for task in tries if task.done()]
    while len(done) < 3:
        await asyncio.sleep(0.01)
        done = [task.result() for task in tries if task.done()]
    gate.set()
    codes = await asyncio.gather(*tries)
    assert codes.count("BadTooManyOperations") == 3
    assert codes.count("BadUserAccessDenied") == module.WAITING_MAX


# -- anonymous, and users with certificates ----------------------------------------------------


async def test_anonymous_is_for_sites_that_say_so(told: Told, tmp_path: Path) -> None:
    token = ua.AnonymousIdentityToken()
    assert await refused(told, token) == "BadIdentityTokenRejected"
    assert await refused(told, None, channel=OPEN) == "BadIdentityTokenRejected"
    settings = OpcUaEntry(NoSecurity=True, Anonymous=True)
    other = await opened(tmp_path / "other", settings)
    for channel in (Channel(), OPEN):
        assert await other.guard.user_of(token, None, NONCE, channel) is ANONYMOUS
    empty = ua.ExtensionObject()
    assert await other.guard.user_of(empty, None, NONCE, OPEN) is ANONYMOUS


async def test_issued_tokens_are_refused(told: Told) -> None:
    assert await refused(told, ua.IssuedIdentityToken()) == "BadIdentityTokenRejected"


@pytest.mark.parametrize("policy", ALL)
async def test_a_user_with_a_certificate(told: Told, policy: Any) -> None:
    one = holder("anna", uri=None)
    told.trust(one, "users/trusted")
    keep(told.folder, Entry("anna", "engineer", certificates=(one.thumbprint,)))
    token, signature = certificate_token(told.guard, one, NONCE, policy)
    found = await told.guard.user_of(token, signature, NONCE, Channel(policy))
    assert (found.name, found.role) == ("anna", Role.ENGINEER)


async def test_a_channel_opened_before_a_renewal_goes_on_with_the_old_certificate(
    told: Told,
) -> None:
    one = holder("anna", uri=None)
    told.trust(one, "users/trusted")
    keep(told.folder, Entry("anna", "engineer", certificates=(one.thumbprint,)))
    token, signature = certificate_token(told.guard, one, NONCE)
    before = told.guard.certificate
    told.guard._own_files.renew(told.guard.subject(), told.clock.utc_ns())
    told.clock.advance(S_NS)
    told.guard.changed()
    assert told.guard.certificate != before
    found = await told.guard.user_of(token, signature, NONCE, Channel(own_certificate=before))
    assert found.name == "anna"


async def test_a_certificate_alone_proves_nothing(told: Told) -> None:
    one = holder("anna", uri=None)
    told.trust(one, "users/trusted")
    keep(told.folder, Entry("anna", "engineer", certificates=(one.thumbprint,)))
    token, signature = certificate_token(told.guard, one, NONCE)
    replayed = await refused(told, token, signature, nonce=bytes(32))
    assert replayed == "BadUserSignatureInvalid"
    assert await refused(told, token, ua.SignatureData()) == "BadUserSignatureInvalid"
    other = holder("anna", uri=None, private=key("thief"))
    _, signed = certificate_token(told.guard, other, NONCE)
    assert await refused(told, token, signed) == "BadUserSignatureInvalid"
    signature.Algorithm = "http://www.w3.org/2000/09/xmldsig#rsa-sha1"
    assert await refused(told, token, signature) == "BadUserSignatureInvalid"


async def test_a_persons_certificate_needs_a_list_and_a_user_of_its_own(told: Told) -> None:
    one = holder("anna", uri=None)
    told.trust(one)  # as an application, which says nothing of people
    keep(told.folder, Entry("anna", "engineer", certificates=(one.thumbprint,)))
    token, signature = certificate_token(told.guard, one, NONCE)
    assert await refused(told, token, signature) == "BadIdentityTokenRejected"
    assert [kept.thumbprint for kept in TrustFolder(told.folder / "users").kept("rejected")] == [
        one.thumbprint
    ]
    told.trust(one, "users/trusted")
    keep(told.folder, Entry("anna", "engineer"))
    assert await refused(told, token, signature) == "BadUserAccessDenied"


# -- the policies ------------------------------------------------------------------------------


@pytest.mark.parametrize("nonce", [b"", bytes(31), bytes(33), None])
async def test_a_nonce_of_the_wrong_length_makes_no_key(told: Told, nonce: bytes | None) -> None:
    policy = told.guard.policies()[0].create(holder().der)
    with pytest.raises(Fault) as caught:
        policy.make_local_symmetric_key(nonce, bytes(32))
    assert caught.value.code == Code.NONCE_INVALID


async def test_a_message_with_another_signature_or_padding_is_refused(told: Told) -> None:
    for factory in told.guard.policies()[:3]:
        policy = factory.create(holder().der)
        policy.make_local_symmetric_key(bytes(32), bytes(32))
        policy.make_remote_symmetric_key(bytes(32), bytes(32), 60_000)
        crypto = policy.symmetric_cryptography
        crypto.verify(b"text", crypto.signature(b"text"))
        with pytest.raises(uacrypto.InvalidSignature):
            crypto.verify(b"text", crypto.signature(b"tex") + b"")
        padded = b"x" * 40 + crypto.padding(40)
        assert crypto.remove_padding(padded) == b"x" * 40
        with pytest.raises(Fault):
            crypto.remove_padding(b"xx\xff")


async def test_a_forged_signature_of_a_long_lived_key_is_the_librarys_own_error(told: Told) -> None:
    for factory in told.guard.policies()[:3]:
        policy = factory.create(holder().der)
        with pytest.raises(uacrypto.InvalidSignature):
            policy.asymmetric_cryptography.verify(b"text", bytes(256))


async def test_keys_that_are_not_rsa_make_no_channel(told: Told) -> None:
    from tests.gateway.opcua.security_case import curve

    for data in (holder(private=curve()).der, b"nonsense", None):
        with pytest.raises(Fault):
            told.guard.policies()[0].create(data)
