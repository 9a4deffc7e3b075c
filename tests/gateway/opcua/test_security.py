"""Real clients at a real server: whom it lets in, with which policy, and as whom."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from asyncua import Client, ua
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from config import status
from config.opcua import OpcUaEntry, OpcUaRight
from gateway.opcua import OpcUaServer
from gateway.opcua.security.certificates import DAY_NS
from gateway.opcua.security.trust import TrustFolder
from gateway.opcua.security.user_file import Entry
from tests.gateway.opcua import secure_case
from tests.gateway.opcua import security_case as case
from tests.gateway.opcua_case import ANY_PORT, rows, started, until
from tests.tidy.repository import ROOT

pytestmark = pytest.mark.asyncio(loop_scope="module")

Mode = ua.MessageSecurityMode
SETTINGS = OpcUaEntry(
    Endpoint=ANY_PORT,
    SignOnly=True,
    Rights=[OpcUaRight(Points=["Stack.Voltage"], Read="engineer", Write="engineer")],
)
SCADA = case.holder("scada")
ROBOT = case.holder("robot", uri=None)


class Server:
    def __init__(self, opcua: OpcUaServer, state: Path) -> None:
        self.opcua = opcua
        self.folder = state / "opcua"

    async def client(self, user: str = "otto", one: Any = SCADA, **given: Any) -> Client:
        return await secure_case.client(self.opcua.url, one, user, **given)

    async def refusal(self, client: Client) -> str:
        """Why a client can't connect."""
        with pytest.raises((ua.UaStatusCodeError, ConnectionError, TimeoutError)) as caught:
            async with client:
                pass
        error = caught.value
        return error.__class__.__name__

    def rejected(self, folder: str = "") -> list[str]:
        return [kept.thumbprint for kept in TrustFolder(self.folder / folder).kept("rejected")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    state = tmp_path_factory.mktemp("state")
    secure_case.prepared(state, SCADA)
    opcua = await started(state, SETTINGS)
    await opcua.update(rows((1, 712.5, status.GOOD), (2, 1.25, status.GOOD)))
    yield Server(opcua, state)
    await opcua.stop()


async def seen(client: Client, tag: str) -> tuple[Any, str]:
    node = client.get_node(f"ns=2;s={tag}")
    shown = await node.read_data_value(raise_on_bad_status=False)
    return (shown.Value.Value if shown.Value else None), shown.StatusCode.name


# -- policies ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [Mode.SignAndEncrypt, Mode.Sign])
@pytest.mark.parametrize("policy", case.ALL)
async def test_each_policy_and_mode(running: Server, policy: Any, mode: Any) -> None:
    async with await running.client("otto", policy=policy, mode=mode) as client:
        assert await seen(client, "Stack.Temperature") == (712.5, "Good")


async def test_a_renewed_channel_goes_on(running: Server) -> None:
    async with await running.client("otto") as client:
        for _ in range(3):
            await client.open_secure_channel(renew=True)
            assert await seen(client, "Stack.Temperature") == (712.5, "Good")


async def test_without_security_a_client_finds_the_endpoints_and_no_session(
    running: Server,
) -> None:
    found = await Client(running.opcua.url).connect_and_get_server_endpoints()
    assert len(found) == 6
    assert Mode.None_ not in {one.SecurityMode for one in found}
    assert {one.Server.ApplicationUri for one in found} == {found[0].Server.ApplicationUri}
    client = Client(running.opcua.url)
    # What asyncua's client checks by itself is not asked here.
    client.find_endpoint = lambda endpoints, *_: endpoints[0]  # type: ignore[method-assign]
    assert await running.refusal(client) == "BadSecurityModeInsufficient"


# -- certificates ------------------------------------------------------------------------------


async def test_a_client_that_nobody_trusts_is_kept_and_may_come_when_it_is_trusted(
    running: Server,
) -> None:
    one = case.holder("newcomer")
    assert await running.refusal(await running.client("otto", one)) == "BadSecurityChecksFailed"
    assert one.thumbprint in running.rejected()
    path = next(
        path
        for path in (running.folder / "rejected" / "certs").iterdir()
        if one.thumbprint in path.name
    )
    path.rename(running.folder / "trusted" / "certs" / path.name)
    async with await running.client("otto", one) as client:
        assert await seen(client, "Stack.Temperature") == (712.5, "Good")
        # And out again, with the session that it has.
        TrustFolder(running.folder).take_out("trusted", one.thumbprint)
        sessions = running.opcua._running._hub.sessions  # type: ignore[union-attr]
        before = len(list(sessions))
        await until(lambda: len(list(sessions)) < before)
        with pytest.raises((ua.UaStatusCodeError, ConnectionError)):
            await seen(client, "Stack.Temperature")


@pytest.mark.parametrize(
    "given",
    [
        {"ends_ns": case.NOW_NS - DAY_NS, "begins_ns": case.NOW_NS - 2 * DAY_NS},
        {"begins_ns": case.NOW_NS + 2 * DAY_NS},
        {"usage": {"digital_signature": False}},
    ],
    ids=["expired", "not yet", "use"],
)
async def test_a_trusted_certificate_that_does_not_count(running: Server, given: Any) -> None:
    one = case.holder("bad", **given)
    TrustFolder(running.folder).put("trusted", one.certificate)
    assert await running.refusal(await running.client("otto", one)) == "BadSecurityChecksFailed"


async def test_a_client_with_another_name_than_its_certificates(running: Server) -> None:
    one = case.holder("other", uri="urn:other")
    TrustFolder(running.folder).put("trusted", one.certificate)
    refused = await running.refusal(await running.client("otto", one))
    assert refused == "BadCertificateUriInvalid"


async def test_an_authoritys_clients_come_until_it_revokes_them(running: Server) -> None:
    root = case.authority()
    one = case.holder("issued", by=root)
    folder = TrustFolder(running.folder)
    folder.put("trusted", root.certificate)
    refused = await running.refusal(await running.client("otto", one))
    assert refused == "BadSecurityChecksFailed"  # no list of revoked ones yet
    crl = folder.crls[0] / "root.crl"
    crl.write_bytes(case.revocations(root).public_bytes(Encoding.DER))
    async with await running.client("otto", one) as client:
        assert await seen(client, "Stack.Temperature") == (712.5, "Good")
    fresh = crl.with_suffix(".new")
    fresh.write_bytes(case.revocations(root, one).public_bytes(Encoding.DER))
    fresh.rename(crl)
    refused = await running.refusal(await running.client("otto", one))
    assert refused == "BadSecurityChecksFailed"


async def test_a_certificate_without_its_key_is_worth_nothing(running: Server) -> None:
    """The thief has the file that everybody may see."""
    thief = case.Holder(SCADA.certificate, case.key("thief"))
    refused = await running.refusal(await running.client("otto", thief))
    assert refused == "BadSecurityChecksFailed"


# -- users -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "password"), [("otto", "wrong"), ("nobody", case.PASSWORD), ("otto", "")]
)
async def test_wrong_passwords_and_names(running: Server, user: str, password: str) -> None:
    refused = await running.refusal(await running.client(user, password=password))
    assert refused in ("BadUserAccessDenied", "BadIdentityTokenInvalid")


async def test_nobody_is_anonymous(running: Server) -> None:
    client = await running.client("")
    client.server_policy = lambda kind: ua.UserTokenPolicy(  # type: ignore[method-assign]
        PolicyId="anonymous", TokenType=kind
    )
    assert await running.refusal(client) == "BadIdentityTokenRejected"


async def test_a_password_that_was_overheard_is_worth_nothing_later(running: Server) -> None:
    heard: list[ua.ActivateSessionParameters] = []
    first, second = await running.client("otto"), await running.client("otto")
    for client in (first, second):
        await client.connect_socket()
        await client.send_hello()
        await client.open_secure_channel()
        await client.create_session()
    send = first.uaclient.activate_session

    async def overheard(params: ua.ActivateSessionParameters) -> Any:
        heard.append(params)
        return await send(params)

    first.uaclient.activate_session = overheard  # type: ignore[method-assign]
    await first.activate_session("otto", case.PASSWORD)

    async def replayed(params: ua.ActivateSessionParameters) -> Any:
        params.UserIdentityToken = heard[0].UserIdentityToken
        return await send_second(params)

    send_second = second.uaclient.activate_session
    second.uaclient.activate_session = replayed  # type: ignore[method-assign]
    with pytest.raises(ua.UaStatusCodeError) as caught:
        await second.activate_session("otto", case.PASSWORD)
    assert caught.value.__class__.__name__ == "BadUserAccessDenied"
    for client in (first, second):
        client.disconnect_socket()


async def test_a_user_with_a_certificate(running: Server) -> None:
    client = await running.client("")
    client.user_certificate, client.user_private_key = ROBOT.certificate, ROBOT.key
    assert await running.refusal(client) == "BadIdentityTokenRejected"
    assert ROBOT.thumbprint in running.rejected("users")
    keep_robot(running)
    client = await running.client("")
    client.user_certificate, client.user_private_key = ROBOT.certificate, ROBOT.key
    async with client:
        assert await seen(client, "Stack.Voltage") == (1.25, "Good")  # for engineers only


def keep_robot(running: Server) -> None:
    TrustFolder(running.folder / "users").put("trusted", ROBOT.certificate)
    everybody = [case.user(name, role) for name, role in secure_case.USERS.items()]
    robot = Entry("robot", "engineer", certificates=(ROBOT.thumbprint,))
    case.keep(running.folder, *everybody, robot)


async def test_an_independent_client_with_each_policy_and_kind_of_user(
    running: Server, tmp_path: Path
) -> None:
    keep_robot(running)
    settings = {"url": running.opcua.url, "folder": f"{tmp_path}/pki", "password": case.PASSWORD}
    for name, one in (("", SCADA), ("user", ROBOT)):
        certificate, key = (tmp_path / f"{name}.{kind}" for kind in ("pem", "key"))
        certificate.write_bytes(one.certificate.public_bytes(Encoding.PEM))
        form = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        key.write_bytes(one.key.private_bytes(*form))
        settings |= {
            f"{name}Certificate" if name else "certificate": f"{certificate}",
            f"{name}Key" if name else "key": f"{key}",
        }
    peer = await asyncio.create_subprocess_exec(
        "node",
        str(ROOT / "tests" / "node" / "policy_peer.js"),
        json.dumps(settings),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await peer.communicate()
    assert peer.returncode == 0, err.decode()
    seen = json.loads(out.splitlines()[-1])
    assert len(seen) == 6
    for policy, found in seen.items():
        assert (policy, found["name"], found["certificate"]) == (policy, 712.5, 712.5)
        for name in {"wrong", "long"} & set(found):
            assert "BadUserAccessDenied" in found[name]


# -- roles -------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", secure_case.USERS)
async def test_what_a_role_may_see(running: Server, user: str) -> None:
    async with await running.client(user) as client:
        assert await seen(client, "Stack.Temperature") == (712.5, "Good")
        value = await seen(client, "Stack.Voltage")
        engineers = user in ("ella", "anna")
        assert value == ((1.25, "Good") if engineers else (None, "BadUserAccessDenied"))


class Values:
    def __init__(self) -> None:
        self.values: list[tuple[Any, str]] = []

    def datachange_notification(self, node: Any, value: Any, data: Any) -> None:
        shown = data.monitored_item.Value
        content = shown.Value.Value if shown.Value else None
        self.values.append((content, shown.StatusCode.name))


@pytest.mark.parametrize("user", ["olga", "ella"])
async def test_who_may_not_read_a_point_can_not_monitor_it(running: Server, user: str) -> None:
    heard = Values()
    async with await running.client(user) as client:
        subscription = await client.create_subscription(50, heard)
        node = client.get_node("ns=2;s=Stack.Voltage")
        with contextlib.suppress(ua.uaerrors.BadUserAccessDenied):
            await subscription.subscribe_data_change(node)
        await running.opcua.update(rows((2, 2.5, status.GOOD)))
        await running.opcua.update(rows((2, 1.25, status.GOOD)))
        marker = client.get_node("ns=2;s=Stack.Temperature")
        await subscription.subscribe_data_change(marker)
        await until(lambda: (712.5, "Good") in heard.values)
    seen_values = {value for value, _ in heard.values if value is not None} - {712.5}
    assert seen_values == (set() if user == "olga" else {1.25} | seen_values)


async def test_a_subscription_is_not_handed_to_another_user(running: Server) -> None:
    async with await running.client("ella") as ella, await running.client("olga") as olga:
        subscription = await ella.create_subscription(50, Values())
        await subscription.subscribe_data_change(ella.get_node("ns=2;s=Stack.Voltage"))
        wanted = ua.TransferSubscriptionsParameters()
        wanted.SubscriptionIds = [subscription.subscription_id]
        wanted.SendInitialValues = True
        (result,) = await olga.uaclient.transfer_subscriptions(wanted)
        assert result.StatusCode.name == "BadUserAccessDenied"


class Heard:
    def __init__(self) -> None:
        self.events: list[Any] = []

    def event_notification(self, event: Any) -> None:
        self.events.append(event)

    def of(self, kind: int) -> list[Any]:
        return [event for event in self.events if event.EventType.Identifier == kind]


async def test_an_observer_writes_nothing_and_it_is_audited(running: Server) -> None:
    engineer, observer = Heard(), Heard()
    async with await running.client("ella") as ella, await running.client("olga") as olga:
        for client, heard in ((ella, engineer), (olga, observer)):
            subscription = await client.create_subscription(100, heard)
            await subscription.subscribe_events(
                evtypes=[
                    ua.ObjectIds.AuditActivateSessionEventType,
                    ua.ObjectIds.AuditWriteUpdateEventType,
                ]
            )
        came = ua.ObjectIds.AuditActivateSessionEventType
        async with asyncio.timeout(20):
            while not engineer.of(came):  # strangers before this one may have used up what is told
                await asyncio.sleep(0.3)
                refused = await running.refusal(await running.client("otto", password="guessed"))
                assert refused == "BadUserAccessDenied"
        node = olga.get_node("ns=2;s=Fan.Running")
        with pytest.raises(ua.UaStatusCodeError) as caught:
            await node.write_value(ua.Variant(True, ua.VariantType.Boolean))
        assert caught.value.__class__.__name__ == "BadUserAccessDenied"
        written = ua.ObjectIds.AuditWriteUpdateEventType
        await until(lambda: engineer.of(written) and observer.of(written))
    (event,) = engineer.of(written)
    assert (event.ClientUserId, event.Status, event.NewValue) == ("olga", False, True)
    assert "otto" in {event.ClientUserId for event in engineer.of(came) if not event.Status}
    # Who logs on, and who fails to, is not for everybody.
    assert not observer.of(came)


# -- without security --------------------------------------------------------------------------


async def test_no_security_is_anonymous_and_sets_nothing(tmp_path: Path) -> None:
    opcua = await started(tmp_path, OpcUaEntry(Endpoint=ANY_PORT, NoSecurity=True))
    try:
        await opcua.update(rows((1, 712.5, status.GOOD)))
        async with Client(opcua.url) as client:
            assert await seen(client, "Stack.Temperature") == (712.5, "Good")
            node = client.get_node("ns=2;s=Fan.Running")
            with pytest.raises(ua.UaStatusCodeError):
                await node.write_value(ua.Variant(True, ua.VariantType.Boolean))
        named = Client(opcua.url)
        named.set_user("otto")
        named.set_password(case.PASSWORD)
        with pytest.raises(ua.UaError):
            await named.connect()
        named.disconnect_socket()
    finally:
        await opcua.stop()
