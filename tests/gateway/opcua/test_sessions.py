"""Sessions and channels with security: who may take a session over, and who gets the last place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from asyncua import Client, ua

from gateway.opcua import OpcUaServer
from gateway.opcua.transport.discovery import reachable
from tests.gateway.opcua import security_case as security
from tests.gateway.opcua.secure_case import SECURED, client, prepared
from tests.gateway.opcua_case import started, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

ME = security.holder()
OTHER = security.holder("other")
STATE = ua.NodeId(ua.Int32(ua.ObjectIds.Server_ServerStatus_State))
SMALL = SECURED.model_copy(update={"ConnectionsMax": 3})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("sessions")
    prepared(made, ME, OTHER)
    return made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(state: Path) -> AsyncIterator[OpcUaServer]:
    made = await started(state, SMALL)
    yield made
    await made.stop()


async def opened(url: str, one: security.Holder, user: str = "otto") -> Client:
    """A client with a channel and no session."""
    made = await client(url, one, user)
    await made.connect_socket()
    await made.send_hello()
    await made.open_secure_channel()
    return made


async def taken_over(first: Client, second: Client) -> None:
    """Let the second client go on with the first one's session."""
    assert first.uaclient.protocol is not None
    assert second.uaclient.protocol is not None
    second.uaclient.protocol.authentication_token = first.uaclient.protocol.authentication_token
    second._server_nonce = first._server_nonce
    second._policy_ids = first._policy_ids
    await second.activate_session(username=second._username, password=second._password)


async def read(one: Client) -> int:
    return int(await one.get_node(STATE).read_value())


async def cut(one: Client) -> None:
    """End a connection without a word."""
    assert one.uaclient.protocol is not None
    assert one.uaclient.protocol.transport is not None
    one.uaclient.protocol.transport.abort()


async def test_a_session_outlives_its_connection_for_the_same_certificate_and_user(
    server: OpcUaServer,
) -> None:
    first = await opened(server.url, ME)
    await first.create_session()
    await first.activate_session(username="otto", password=security.PASSWORD)
    assert await read(first) == 0
    await cut(first)
    await until(lambda: server.clients == 0)

    thief = await opened(server.url, OTHER)
    with pytest.raises(ua.uaerrors.BadSecurityChecksFailed):
        await taken_over(first, thief)
    await cut(thief)
    other_user = await opened(server.url, ME, "anna")
    with pytest.raises(ua.uaerrors.BadIdentityTokenRejected):
        await taken_over(first, other_user)
    await cut(other_user)

    second = await opened(server.url, ME)
    await taken_over(first, second)
    assert await read(second) == 0
    await second.close_session()
    await cut(second)
    await until(lambda: server.clients == 0)


async def test_what_waits_on_the_old_connection_is_answered_when_a_session_moves(
    server: OpcUaServer,
) -> None:
    first = await opened(server.url, ME)
    await first.create_session()
    await first.activate_session(username="otto", password=security.PASSWORD)
    protocol = first.uaclient.protocol
    assert protocol is not None
    asked = ua.CreateSubscriptionRequest()
    asked.Parameters.RequestedPublishingInterval = 60_000.0
    asked.Parameters.RequestedMaxKeepAliveCount = 100
    await protocol.send_request(asked)
    waits = asyncio.create_task(protocol.send_request(ua.PublishRequest(), timeout=20))
    assert await read(first) == 0
    second = await opened(server.url, ME)
    await taken_over(first, second)
    with pytest.raises(ua.uaerrors.BadSecureChannelIdInvalid):
        await waits
    assert await read(second) == 0
    await second.close_session()
    for one in (first, second):
        await cut(one)


async def test_nobody_ends_a_session_with_logons_from_another_channel(server: OpcUaServer) -> None:
    async with await client(server.url, ME, "otto") as mine:
        for _ in range(6):
            thief = await opened(server.url, OTHER)
            with pytest.raises(ua.uaerrors.BadSecurityChecksFailed):
                await taken_over(mine, thief)
            await cut(thief)
        assert await read(mine) == 0


async def test_a_channel_is_renewed_under_way(server: OpcUaServer) -> None:
    one = await client(server.url, ME, "olga")
    async with one:
        for _ in range(2):
            await asyncio.gather(one.open_secure_channel(renew=True), read(one), read(one))
            assert await read(one) == 0


async def test_a_padding_that_is_none_costs_its_own_connection(
    server: OpcUaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = await client(server.url, ME, "olga"), await client(server.url, ME, "otto")
    async with other:
        await one.connect()
        assert one.uaclient.protocol is not None
        crypto = one.uaclient.protocol._connection.security_policy.symmetric_cryptography
        monkeypatch.setattr(crypto, "padding", lambda size: b"\xff" * (16 - size % 16))
        with pytest.raises((ua.UaError, ConnectionError, TimeoutError)):
            await asyncio.wait_for(read(one), 20)
        assert await read(other) == 0


async def test_the_last_place_is_an_administrator_s(server: OpcUaServer) -> None:
    guests = [await client(server.url, ME, name) for name in ("olga", "otto")]
    for guest in guests:
        await guest.connect()
    third = await opened(server.url, ME, "ella")
    await third.create_session()
    with pytest.raises(ua.uaerrors.BadTooManySessions):
        await third.activate_session(username="ella", password=security.PASSWORD)
    await cut(third)
    async with await client(server.url, ME, "anna") as administrator:
        assert await read(administrator) == 0
    for guest in guests:
        await guest.disconnect()


async def test_a_session_ends_when_its_certificate_is_not_trusted_any_more(
    server: OpcUaServer, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.opcua.transport.sessions._LOOK_NS", 0)
    monkeypatch.setattr("gateway.opcua.security.guard.KNOWN_NS", 0)
    one = await client(server.url, OTHER, "olga")
    await one.connect()
    trusted = state / "opcua" / "trusted" / "certs" / f"{OTHER.thumbprint}.der"
    trusted.unlink()
    running = server._running
    assert running is not None
    await until(lambda: not running._hub.sessions.counts()["CurrentSessionCount"])
    with pytest.raises((ua.UaError, ConnectionError)):
        await read(one)
    await cut(one)


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ("opc.tcp://gateway.plant:14840/x", "opc.tcp://gateway.plant:14840/gatepost"),
        ("opc.tcp://[::1]:4840", "opc.tcp://[::1]:4840/gatepost"),
        ("", "opc.tcp://0.0.0.0:4840/gatepost"),
        (None, "opc.tcp://0.0.0.0:4840/gatepost"),
        ("http://a", "opc.tcp://0.0.0.0:4840/gatepost"),
        ("opc.tcp://a b", "opc.tcp://0.0.0.0:4840/gatepost"),
        ("opc.tcp://user@host:1", "opc.tcp://0.0.0.0:4840/gatepost"),
        ("opc.tcp://[::1", "opc.tcp://0.0.0.0:4840/gatepost"),
        ("opc.tcp://h:99999", "opc.tcp://0.0.0.0:4840/gatepost"),
    ],
)
async def test_endpoints_have_the_address_that_the_client_knows(
    asked: str | None, shown: str
) -> None:
    assert reachable("opc.tcp://0.0.0.0:4840/gatepost", asked) == shown
