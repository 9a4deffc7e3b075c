"""Certificates and trust lists, pushed by a real client over SignAndEncrypt."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from asyncua import Client, ua
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, pkcs12

from gateway.opcua import OpcUaServer
from gateway.opcua.names import standard_id
from gateway.opcua.push.files import SESSION_FILES_MAX
from gateway.opcua.push.lists import LIST_BYTES_MAX
from gateway.opcua.security import certificates
from gateway.opcua.security.changes import FILE, carry_out, finish
from gateway.opcua.security.own import OwnFiles
from gateway.opcua.security.trust import TrustFolder
from tests.gateway.opcua import secure_case
from tests.gateway.opcua import security_case as case
from tests.gateway.opcua.push_case import (
    AUTHORITY,
    CONFIGURATION,
    GROUP,
    IDS,
    LIST,
    MANAGER,
    RSA,
    USERS,
    Heard,
    Manager,
    asking,
    flag,
    int32,
    listed,
    octets,
    signed,
    text,
    uint,
    updating,
)
from tests.gateway.opcua_case import started, until

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Server:
    def __init__(self, opcua: OpcUaServer, state: Path) -> None:
        self.opcua = opcua
        self.folder = state / "opcua"

    async def client(self, user: str = "anna", one: Any = MANAGER, **given: Any) -> Client:
        return await secure_case.client(self.opcua.url, one, user, **given)

    def trusted(self, kind: str = "trusted") -> set[bytes]:
        return {certificates.der_of(k.certificate) for k in TrustFolder(self.folder).kept(kind)}

    async def shown(self) -> bytes:
        """The certificate that a new client gets."""
        found = await Client(self.opcua.url).connect_and_get_server_endpoints()
        return bytes(found[0].ServerCertificate)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    state = tmp_path_factory.mktemp("state")
    secure_case.prepared(state, MANAGER)
    opcua = await started(state, secure_case.SECURED)
    yield Server(opcua, state)
    await opcua.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def manager(server: Server) -> AsyncIterator[Manager]:
    async with await server.client() as client:
        yield Manager(client)


# -- what is shown -----------------------------------------------------------------------------


async def test_the_object_says_what_it_can(manager: Manager, server: Server) -> None:
    async def value(name: str) -> Any:
        number = getattr(IDS, f"ServerConfiguration_{name}")
        return await manager.client.get_node(standard_id(number)).read_value()

    group = "CertificateGroups_DefaultApplicationGroup"
    assert await value("ServerCapabilities") == ["DA", "AC"]
    assert await value("SupportedPrivateKeyFormats") == ["PEM", "PFX"]
    assert await value("MaxTrustListSize") == LIST_BYTES_MAX
    assert await value("MulticastDnsEnabled") is False
    assert (await value("ApplicationUri")).startswith("urn:")
    assert await value(f"{group}_CertificateTypes") == [RSA]
    assert await value(f"{group}_TrustList_Writable") is True
    assert await value(f"{group}_TrustList_OpenCount") == 0
    before = await value(f"{group}_TrustList_LastUpdateTime")
    one = case.holder("new")
    await manager.call("AddCertificate", octets(one.der), flag(True), of=LIST)
    assert await value(f"{group}_TrustList_LastUpdateTime") >= before
    await manager.call("RemoveCertificate", text(one.thumbprint), flag(True), of=LIST)
    node = manager.client.get_node(LIST)
    names = {(await child.read_browse_name()).Name for child in await node.get_children()}
    assert names >= {"Open", "OpenWithMasks", "CloseAndUpdate", "AddCertificate", "Size"}
    parent = manager.client.get_node(CONFIGURATION)
    names = {(await child.read_browse_name()).Name for child in await parent.get_children()}
    assert "ResetToServerDefaults" not in names
    assert "CancelChanges" in names


# -- who may -----------------------------------------------------------------------------------


@pytest.mark.parametrize("user", ["olga", "ella"])
async def test_only_administrators(server: Server, user: str) -> None:
    async with await server.client(user) as client:
        other = Manager(client)
        assert await other.refusal("ApplyChanges") == "BadUserAccessDenied"
        assert await other.refusal("GetRejectedList") == "BadUserAccessDenied"
        assert await other.refusal("CreateSigningRequest", *asking()) == "BadUserAccessDenied"
        assert await other.refusal("UpdateCertificate", *updating(b"x")) == "BadUserAccessDenied"
        assert await other.refusal("OpenWithMasks", uint(15), of=LIST) == "BadUserAccessDenied"
        gone = (text(MANAGER.thumbprint), flag(True))
        assert await other.refusal("RemoveCertificate", *gone, of=LIST) == "BadUserAccessDenied"


async def test_only_over_an_encrypted_channel(server: Server) -> None:
    async with await server.client(mode=ua.MessageSecurityMode.Sign) as client:
        other = Manager(client)
        for name, of in (("GetRejectedList", CONFIGURATION), ("ApplyChanges", CONFIGURATION)):
            assert await other.refusal(name, of=of) == "BadSecurityModeInsufficient"
        code = await other.refusal("OpenWithMasks", uint(15), of=LIST)
        assert code == "BadSecurityModeInsufficient"


# -- our own certificate -----------------------------------------------------------------------


async def test_a_request_is_signed_and_its_certificate_is_what_new_clients_see(
    manager: Manager, server: Server
) -> None:
    before = await server.shown()
    uri = certificates.uris_of(x509.load_der_x509_certificate(before))
    request = await manager.call("CreateSigningRequest", *asking(new_key=True))
    made = signed(request)
    heard = Heard()
    subscription = await manager.client.create_subscription(50, heard)
    kind = standard_id(IDS.CertificateUpdatedAuditEventType)
    await subscription.subscribe_events(IDS.Server, kind)
    assert await manager.update(made, AUTHORITY.der) is True
    assert await server.shown() == before, "it waits for ApplyChanges"
    await manager.call("ApplyChanges")
    assert await server.shown() == made
    own = OwnFiles(server.folder / "own")
    kept = own.load()
    assert kept is not None
    assert kept.der == made == own.public_file.read_bytes()
    assert [kept.uri] == uri
    assert own.file.stat().st_mode & 0o777 == 0o600
    assert not own.next_key_file.exists()
    async with await server.client("olga") as again:
        assert await again.get_node(IDS.Server_ServerStatus_State).read_value() == 0
    # The manager's own connection goes on, with the certificate that it began with.
    await manager.client.open_secure_channel(renew=True)
    await until(lambda: heard.events)
    assert heard.events[0].CertificateGroup == GROUP
    assert heard.events[0].CertificateType == RSA
    await subscription.delete()


async def test_a_request_with_the_present_key_and_another_name(manager: Manager) -> None:
    request = await manager.call("CreateSigningRequest", *asking("CN=Gate 7/O=Plant/C=DE"))
    asked = x509.load_der_x509_csr(request)
    assert [part.value for part in asked.subject] == ["Gate 7", "Plant", "DE"]
    assert await manager.update(signed(request), AUTHORITY.der) is True
    await manager.call("CancelChanges")
    assert await manager.refusal("ApplyChanges") == "BadNothingToDo"
    assert await manager.refusal("CancelChanges") == "BadNothingToDo"


@pytest.mark.parametrize("form", ["PEM", "PFX"])
async def test_a_key_that_was_made_elsewhere(manager: Manager, server: Server, form: str) -> None:
    key = case.key("elsewhere")
    uri = OwnFiles(server.folder / "own").load().uri  # type: ignore[union-attr]
    made = certificates.self_signed(key, certificates.Subject(uri, "Gate", ()), case.NOW_NS)
    private = certificates.key_pem(key)
    if form == "PFX":
        private = pkcs12.serialize_key_and_certificates(b"", key, made, None, NoEncryption())
    heard = Heard()
    subscription = await manager.client.create_subscription(50, heard)
    await subscription.subscribe_events(IDS.Server, standard_id(IDS.AuditUpdateMethodEventType))
    await manager.update(certificates.der_of(made), form=form, private=private)
    await manager.call("ApplyChanges")
    assert await server.shown() == certificates.der_of(made)
    await until(lambda: len(heard.events) >= 3)
    assert not any(private in str(event.InputArguments).encode() for event in heard.events)
    assert all(not event.InputArguments for event in heard.events), "the key stays out of it"
    await subscription.delete()


async def test_certificates_that_can_not_be_ours(manager: Manager, server: Server) -> None:
    request = await manager.call("CreateSigningRequest", *asking())

    async def refused(certificate: bytes, *issuers: bytes, **given: Any) -> str:
        return await manager.refusal("UpdateCertificate", *updating(certificate, *issuers, **given))

    failed = "BadSecurityChecksFailed"
    assert await refused(b"") == "BadCertificateInvalid"
    assert await refused(b"garbage") == "BadCertificateInvalid"
    assert await refused(signed(request)[:-1], AUTHORITY.der) == "BadCertificateInvalid"
    assert await refused(b"\0" * 100_000) == "BadCertificateInvalid"
    assert await refused(signed(request)) == failed, "nobody knows its authority"
    assert await refused(signed(request), b"garbage") == "BadCertificateInvalid"
    assert await refused(signed(request, days=-1), AUTHORITY.der) == failed
    assert await refused(signed(request, uri="urn:other"), AUTHORITY.der) == failed
    assert await refused(signed(request, server=False), AUTHORITY.der) == failed
    stranger = case.holder("stranger", private=case.key("stranger"))
    assert await refused(stranger.der) == failed
    key = certificates.key_pem(case.key("other"))
    assert await refused(signed(request), AUTHORITY.der, form="PEM", private=key) == failed
    assert await refused(stranger.der, form="PEM", private=b"garbage") == "BadNotSupported"
    assert await refused(stranger.der, form="PFX", private=b"garbage") == "BadNotSupported"
    assert await refused(stranger.der, form="JKS", private=key) == "BadNotSupported"
    assert await manager.refusal("ApplyChanges") == "BadNothingToDo"


async def test_bad_requests(manager: Manager) -> None:
    ask = "CreateSigningRequest"
    bad = "BadInvalidArgument"
    assert await manager.refusal(ask, *asking(new_key=True, nonce=b"short")) == bad
    for name in ("nonsense", "X=1", "CN=", "C=Germany", "CN=" + "a" * 500):
        assert await manager.refusal(ask, *asking(name)) == bad
    given = asking()
    given[0] = ua.Variant(USERS)
    assert await manager.refusal(ask, *given) == bad
    given = asking()
    given[1] = ua.Variant(standard_id(IDS.RsaMinApplicationCertificateType))
    assert await manager.refusal(ask, *given) == bad
    # A method of a trust list on another object, and the other way round.
    methods: tuple[tuple[ua.NodeId, int, list[ua.Variant]], ...] = (
        (CONFIGURATION, IDS.FileType_GetPosition, [uint(1)]),
        (LIST, IDS.ServerConfiguration_ApplyChanges, []),
        (GROUP, IDS.TrustListType_OpenWithMasks, [uint(1)]),
    )
    for node, method, more in methods:
        with pytest.raises(ua.UaStatusCodeError) as caught:
            await manager.client.get_node(node).call_method(standard_id(method), *more)
        assert type(caught.value).__name__ == "BadMethodInvalid"
    # The type's methods do as well as the object's own.
    handle = await manager.client.get_node(LIST).call_method(
        standard_id(IDS.TrustListType_OpenWithMasks), uint(1)
    )
    await manager.client.get_node(LIST).call_method(standard_id(IDS.FileType_Close), uint(handle))


async def test_the_rejected_ones(manager: Manager, server: Server) -> None:
    stranger = case.holder("turned away")
    with pytest.raises((ua.UaStatusCodeError, ConnectionError)):
        await (await server.client("olga", stranger)).connect()
    assert stranger.der in await manager.call("GetRejectedList")


# -- trust lists -------------------------------------------------------------------------------


async def test_the_list_is_read_replaced_and_read_again(manager: Manager, server: Server) -> None:
    crl = case.revocations(AUTHORITY).public_bytes(Encoding.DER)
    old = await manager.read()
    assert old.TrustedCertificates == [MANAGER.der]
    assert (old.SpecifiedLists, old.IssuerCrls) == (15, [])
    heard = Heard()
    subscription = await manager.client.create_subscription(50, heard)
    await subscription.subscribe_events(IDS.Server, standard_id(IDS.TrustListUpdatedAuditEventType))
    issuers = {"IssuerCertificates": [AUTHORITY.der], "IssuerCrls": [crl]}
    assert await manager.replace(LIST, TrustedCertificates=[MANAGER.der], **issuers) is True
    assert (await manager.read()).IssuerCertificates == [], "it waits for ApplyChanges"
    # Later ones of the same transaction count for the fields that they name.
    other = case.holder("other client")
    assert await manager.replace(TrustedCertificates=[MANAGER.der, other.der]) is True
    await manager.call("ApplyChanges")
    now = await manager.read()
    assert set(now.TrustedCertificates) == {MANAGER.der, other.der} == server.trusted()
    assert (now.IssuerCertificates, now.IssuerCrls) == ([AUTHORITY.der], [crl])
    part = await manager.read(8)
    assert (part.SpecifiedLists, part.TrustedCertificates, part.IssuerCrls) == (8, [], [crl])
    await until(lambda: heard.events)
    assert heard.events[0].TrustListId == LIST
    await subscription.delete()
    # Without its authority a certificate that it issued would count no more.
    issued = case.holder("issued", by=AUTHORITY)
    await manager.call("AddCertificate", octets(issued.der), flag(True), of=LIST)
    gone = (text(AUTHORITY.thumbprint), flag(False))
    code = await manager.refusal("RemoveCertificate", *gone, of=LIST)
    assert code == "BadCertificateChainIncomplete"
    await manager.call("RemoveCertificate", text(issued.thumbprint), flag(True), of=LIST)
    await manager.call("RemoveCertificate", *gone, of=LIST)
    now = await manager.read()
    assert (now.IssuerCertificates, now.IssuerCrls) == ([], []), "its lists go with it"
    await manager.call("RemoveCertificate", text(other.thumbprint.lower()), flag(True), of=LIST)
    assert server.trusted() == {MANAGER.der}


async def test_a_client_that_is_taken_out_must_leave(manager: Manager, server: Server) -> None:
    scada = case.holder("scada", private=case.key("scada"))
    assert "Bad" in await refusal_of(await server.client("otto", scada))
    await manager.call("AddCertificate", octets(scada.der), flag(True), of=LIST)
    async with await server.client("otto", scada) as client:
        state = client.get_node(IDS.Server_ServerStatus_State)
        assert await state.read_value() == 0
        await manager.call("RemoveCertificate", text(scada.thumbprint), flag(True), of=LIST)
        assert "Bad" in await refusal_of(await server.client("otto", scada))
        sessions = server.opcua._running._hub.sessions  # type: ignore[union-attr]
        await until(lambda: len(list(sessions)) == 1)
        with pytest.raises((ua.UaStatusCodeError, ConnectionError)):
            await state.read_value()


async def refusal_of(client: Client) -> str:
    with pytest.raises((ua.UaStatusCodeError, ConnectionError)) as caught:
        async with client:
            pass
    return type(caught.value).__name__


async def test_the_users_list_is_another_one(manager: Manager, server: Server) -> None:
    person = case.holder("person", uri=None)
    await manager.replace(USERS, TrustedCertificates=[person.der])
    await manager.call("ApplyChanges")
    assert (await manager.read(of=USERS)).TrustedCertificates == [person.der]
    assert person.der not in server.trusted()


async def test_lists_that_can_not_be(manager: Manager, server: Server) -> None:
    before = server.trusted()

    async def refused(data: bytes) -> str:
        handle = await manager.write(data)
        code = await manager.refusal("CloseAndUpdate", handle, of=LIST)
        again = await manager.refusal("CloseAndUpdate", handle, of=LIST)
        assert again == "BadInvalidArgument", "it is closed"
        return code

    invalid = "BadCertificateInvalid"
    crl = case.revocations(AUTHORITY).public_bytes(Encoding.DER)
    assert await refused(b"") == invalid
    assert await refused(b"garbage") == invalid
    assert await refused(struct.pack("<ii", 15, 2**31 - 1)) == invalid
    assert await refused(struct.pack("<iii", 15, 1, -5)) == invalid
    assert await refused(listed(TrustedCertificates=[MANAGER.der]) + b"more") == invalid
    assert await refused(listed(TrustedCertificates=[b"garbage"])) == invalid
    assert await refused(listed(TrustedCrls=[crl])) == invalid, "nobody in the list issued it"
    issued = case.holder("issued", by=AUTHORITY)
    code = await refused(listed(TrustedCertificates=[issued.der]))
    assert code == "BadCertificateChainIncomplete"
    many = b"".join(struct.pack("<i", 1) + b"x" for _ in range(5_000))
    assert (await refused(struct.pack("<ii", 1, 5_000) + many)).startswith("Bad")
    add = "AddCertificate"
    assert await manager.refusal(add, octets(b"garbage"), flag(True), of=LIST) == invalid
    assert await manager.refusal(add, octets(MANAGER.der), flag(False), of=LIST) == invalid
    gone = (text("00" * 20), flag(True))
    assert await manager.refusal("RemoveCertificate", *gone, of=LIST) == "BadInvalidArgument"
    assert await manager.refusal("ApplyChanges") == "BadNothingToDo"
    assert server.trusted() == before


async def test_too_large_a_list(manager: Manager) -> None:
    handle = await manager.open(6)
    part = octets(b"x" * (LIST_BYTES_MAX - 10))
    await manager.call("Write", handle, part, of=LIST)
    code = await manager.refusal("Write", handle, octets(b"x" * 11), of=LIST)
    assert code == "BadRequestTooLarge"
    await manager.call("Close", handle, of=LIST)


async def test_handles(manager: Manager, server: Server) -> None:
    bad = "BadInvalidArgument"
    for name, more in (("Read", [int32(9)]), ("Close", []), ("GetPosition", [])):
        assert await manager.refusal(name, uint(99_999), *more, of=LIST) == bad
    assert await manager.refusal("Open", ua.Variant(2, ua.VariantType.Byte), of=LIST) == (
        "BadNotSupported"
    )
    reading = await manager.open(1)
    assert await manager.refusal("Read", reading, int32(-1), of=LIST) == bad
    assert await manager.refusal("Read", reading, int32(1), of=USERS) == bad
    code = await manager.refusal("Write", reading, octets(b"x"), of=LIST)
    assert code == "BadInvalidState"
    code = await manager.refusal("CloseAndUpdate", reading, of=LIST)
    assert code == "BadInvalidState"
    whole = await manager.call("Read", reading, int32(65_525), of=LIST)
    assert await manager.call("GetPosition", reading, of=LIST) == len(whole)
    await manager.call("SetPosition", reading, ua.Variant(4, ua.VariantType.UInt64), of=LIST)
    assert await manager.call("Read", reading, int32(10), of=LIST) == whole[4:14]
    async with await server.client() as client:
        other = Manager(client)
        assert await other.refusal("Read", reading, int32(1), of=LIST) == bad
        for _ in range(SESSION_FILES_MAX):
            await other.open(1)
        code = await other.refusal("OpenWithMasks", uint(15), of=LIST)
        assert code == "BadResourceUnavailable"
    # They are closed with their session.
    count = manager.client.get_node(LIST).get_child("0:OpenCount")
    assert await (await count).read_value() == 1
    await manager.call("Close", reading, of=LIST)


async def test_one_changes_things_at_a_time(manager: Manager, server: Server) -> None:
    async with await server.client() as client:
        other = Manager(client)
        handle = await other.open(6)
        assert await other.refusal("Open", ua.Variant(6, ua.VariantType.Byte), of=LIST) == (
            "BadNotWritable"
        )
        assert await other.refusal("ApplyChanges") == "BadInvalidState"
        pending = "BadTransactionPending"
        one = (octets(MANAGER.der), flag(True))
        assert await other.refusal("AddCertificate", *one, of=LIST) == "BadInvalidState"
        mode = ua.Variant(6, ua.VariantType.Byte)
        assert await manager.refusal("Open", mode, of=LIST) == pending
        assert await manager.refusal("Open", mode, of=USERS) == pending
        assert await manager.refusal("AddCertificate", *one, of=USERS) == pending
        assert await manager.refusal("ApplyChanges") == pending
        assert await manager.refusal("CancelChanges") == pending
        update = updating(MANAGER.der)
        assert await manager.refusal("UpdateCertificate", *update) == pending
        assert (await manager.read()).TrustedCertificates == [MANAGER.der], "all may read"
        await other.call("Write", handle, octets(listed(TrustedCertificates=[])), of=LIST)
        await other.call("CloseAndUpdate", handle, of=LIST)
    # What he did not apply is gone with him.
    assert await manager.refusal("ApplyChanges") == "BadNothingToDo"
    assert server.trusted() == {MANAGER.der}


async def test_calls_side_by_side_have_one_writer(manager: Manager) -> None:
    mode = ua.Variant(6, ua.VariantType.Byte)
    calls = [manager.call("Open", mode, of=LIST) for _ in range(5)]
    found = await asyncio.gather(*calls, return_exceptions=True)
    handles = [one for one in found if isinstance(one, int)]
    assert len(handles) == 1
    await manager.call("Close", uint(handles[0]), of=LIST)


async def test_who_does_nothing_for_a_minute_makes_room(
    manager: Manager, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with await server.client() as client:
        other = Manager(client)
        handle = await other.open(6)
        monkeypatch.setattr("gateway.opcua.push.push.IDLE_NS", 0)
        mine = await manager.open(6)
        assert await other.refusal("Close", handle, of=LIST) == "BadInvalidArgument"
        monkeypatch.undo()
    await manager.call("Close", mine, of=LIST)


# -- the disk ----------------------------------------------------------------------------------


async def test_what_a_power_cut_interrupted_is_finished(tmp_path: Path) -> None:
    old = tmp_path / "trusted" / "old.der"
    carry_out(tmp_path, {old: b"old"}, [])
    assert old.read_bytes() == b"old"
    assert old.stat().st_mode & 0o777 == 0o600
    blocked = tmp_path / "own" / "server.der"
    blocked.mkdir(parents=True)  # it can't be replaced by a file
    new = tmp_path / "trusted" / "new.der"
    with pytest.raises(OSError, match="directory"):
        carry_out(tmp_path, {new: b"new", blocked: b"own"}, [old])
    assert (tmp_path / FILE).exists()
    assert old.exists()
    blocked.rmdir()
    finish(tmp_path)
    assert (new.read_bytes(), blocked.read_bytes(), old.exists()) == (b"new", b"own", False)
    assert blocked.stat().st_mode & 0o777 == 0o644
    assert not (tmp_path / FILE).exists()
    finish(tmp_path)
    (tmp_path / FILE).write_text("not ours")
    finish(tmp_path)
    assert not (tmp_path / FILE).exists()
