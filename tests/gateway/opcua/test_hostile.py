"""Hostile clients: one at a time, and all at once while a good one works on.

The attackers are those of `bench.opcua_hostile`, which measures what this only proves.
"""

from __future__ import annotations

import asyncio
import json
import os
import struct
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.ua_binary import nodeid_to_binary, struct_from_binary, struct_to_binary

from bench import _opcua_raw as attackers
from bench._opcua_raw import Raw, Refused, read_request
from gateway.opcua import OpcUaServer
from gateway.opcua.transport import limits
from gateway.opcua.transport.shares import Shares
from tests.gateway.opcua_case import started, until

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[OpcUaServer]:
    made = await started(tmp_path_factory.mktemp("hostile"))
    yield made
    await made.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def place(server: OpcUaServer) -> str:
    return server.url.split("/")[2]


@pytest_asyncio.fixture(loop_scope="module")
async def raw(place: str) -> AsyncIterator[Raw]:
    """A client with a session."""
    made = await Raw.connect(place)
    await made.session()
    yield made
    made.close()


async def code_of(work: Any) -> int:
    with pytest.raises(Refused) as caught:
        async with asyncio.timeout(20):
            await work
    return caught.value.code


async def sent(raw: Raw, data: bytes) -> int:
    """What the server says to a message that stands behind a header of its own."""
    raw.writer.write(data)
    return await code_of(raw.answer())


# -- bombs of the decoder ----------------------------------------------------------------------


def write_head(raw: Raw) -> bytes:
    return raw.encoded(ua.WriteRequest())[:-4]


def number(value: int) -> bytes:
    return struct.pack("<i", value)


BOMBS: dict[str, Callable[[Raw], bytes]] = {
    "an array of two thousand million nothings": lambda raw: (
        write_head(raw) + number(1) + attackers._node() + b"\x01\x80" + number(2**31 - 1)
    ),
    "a million empty values": lambda raw: write_head(raw) + number(10**6) + bytes(2_000_000),
    "variants in variants": lambda raw: (
        write_head(raw) + number(1) + attackers._node() + b"\x01\x98" + attackers._nested(5_000)
    ),
    "dimensions of a million": lambda raw: (
        write_head(raw)
        + number(1)
        + attackers._node()
        + (b"\x01\xc1" + number(1) + b"\1" + number(1) + number(10**6))
    ),
    "a string that begins before itself": lambda raw: (
        write_head(raw) + number(1) + b"\x03\x02\x00" + number(-12) + bytes(50)
    ),
    "an array longer than the message": lambda raw: write_head(raw) + number(2**31 - 1),
}


@pytest.mark.parametrize("bomb", BOMBS)
async def test_a_message_that_announces_more_than_it_is_is_refused_and_the_session_lives(
    raw: Raw, bomb: str
) -> None:
    code = await sent(raw, raw.message(BOMBS[bomb](raw)))
    assert code in (
        ua.StatusCodes.BadDecodingError,
        ua.StatusCodes.BadEncodingLimitsExceeded,
        ua.StatusCodes.BadTooManyOperations,
    )
    await raw.ask(read_request(1))


async def test_methods_of_a_request_are_on_the_account_of_the_client(
    raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts: list[Any] = []
    metered = Shares.metered

    def seen(shares: Shares, work: Any, account: Any) -> Any:
        accounts.append(account)
        return metered(shares, work, account)

    monkeypatch.setattr(Shares, "metered", seen)
    one = ua.CallMethodRequest()
    one.ObjectId = ua.NodeId(ua.Int32(ua.ObjectIds.Server))
    one.MethodId = ua.NodeId(ua.Int32(ua.ObjectIds.Server_ResendData))
    one.InputArguments = [ua.Variant(0, ua.VariantType.UInt32)]
    request = ua.CallRequest()
    request.Parameters.MethodsToCall = [one] * 10
    await raw.ask(request)
    assert len(accounts) == 11  # the request, and each of its methods
    assert len(set(map(id, accounts))) == 1


def bombed_head(raw: Raw) -> bytes:
    """A Read with variants in variants where its header has room for what nobody knows."""
    literal = ua.NodeId(ua.Int32(ua.ObjectIds.LiteralOperand_Encoding_DefaultBinary))
    bomb = b"\x98" + attackers._nested(400)
    request = raw.encoded(read_request(1))
    at = len(nodeid_to_binary(ua.NodeId(ua.Int32(631)))) + len(nodeid_to_binary(raw.token)) + 24
    extra = nodeid_to_binary(literal) + b"\1" + number(len(bomb)) + bomb
    assert request[at : at + 3] == bytes(3)
    return request[:at] + extra + request[at + 3 :]


async def test_what_stands_in_a_header_s_extension_is_not_looked_at(place: str, raw: Raw) -> None:
    raw.writer.write(raw.message(bombed_head(raw)))
    await raw.answer()
    stranger = await Raw.connect(place)
    assert await sent(stranger, stranger.message(bombed_head(stranger))) == (
        ua.StatusCodes.BadSessionIdInvalid
    )
    stranger.close()
    await raw.ask(read_request(1))


async def test_a_fault_of_ours_costs_one_connection(
    server: OpcUaServer, place: str, raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = await Raw.connect(place)
    with monkeypatch.context() as patched:
        patched.setattr("gateway.opcua.transport.requests.Requests.start", None)
        assert await code_of(other.ask(read_request(1))) == 0
    async with asyncio.timeout(20):
        await raw.ask(read_request(1))
    other.close()


async def flood(raw: Raw, part: bytes, parts: int) -> None:
    """Send it again and again until the server has enough. Raises Refused, ConnectionError."""
    for _ in range(parts):
        raw.number += 1
        head = struct.pack("<IIII", raw.channel, 1, raw.number, 7)
        raw.writer.write(attackers.chunk(b"MSG", head + part, b"C"))
        await raw.writer.drain()
    await raw.receive()
    raise Refused(0)


async def test_a_message_that_never_ends_closes_the_connection(
    server: OpcUaServer, place: str
) -> None:
    raw = await Raw.connect(place)
    await raw.session()
    with pytest.raises((Refused, ConnectionError)):
        await flood(raw, bytes(60_000), 10 * limits.MESSAGE_BYTES_MAX // 60_000)
    raw.close()
    await until(lambda: server.clients == 0)


async def test_a_stranger_may_send_little(place: str) -> None:
    raw = await Raw.connect(place)
    raw.writer.write(raw.message(raw.encoded(read_request(5_000))))
    code = await code_of(raw.receive())
    assert code == ua.StatusCodes.BadTcpMessageTooLarge
    raw.close()


# -- the rules of the channel ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", ua.StatusCodes.BadTcpMessageTypeInvalid),
        (attackers.chunk(b"MSG", bytes(64)), ua.StatusCodes.BadTcpMessageTypeInvalid),
        (struct.pack("<3scI", b"HEL", b"F", 2**31), ua.StatusCodes.BadTcpMessageTooLarge),
        (struct.pack("<3scI", b"HEL", b"F", 3), ua.StatusCodes.BadTcpInternalError),
        (attackers.hello() * 2, ua.StatusCodes.BadTcpMessageTypeInvalid),
        (
            attackers.hello() + attackers.chunk(b"MSG", bytes(64)),
            ua.StatusCodes.BadTcpSecureChannelUnknown,
        ),
        (
            attackers.hello() + attackers.chunk(b"OPN", bytes(64)),
            ua.StatusCodes.BadSecurityChecksFailed,
        ),
        (
            attackers.hello() + attackers.chunk(b"OPN", bytes(4) + number(2**31 - 1) + bytes(99)),
            ua.StatusCodes.BadSecurityChecksFailed,
        ),
    ],
)
async def test_who_does_not_keep_the_rules_is_told_so_and_cut_off(
    place: str, data: bytes, code: int
) -> None:
    host, _, port = place.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    raw = Raw(reader, writer)
    writer.write(data)
    if data.startswith(b"HELF") and len(data) > 40:
        assert (await raw.receive())[:3] == b"ACK"
    assert await code_of(raw.receive()) == code
    assert await reader.read() == b""
    raw.close()


@pytest.mark.parametrize("step", [0, 2, 100])
async def test_a_sequence_number_that_is_not_the_next_closes_the_connection(
    place: str, step: int
) -> None:
    raw = await Raw.connect(place)
    await raw.session()
    raw.number += step - 1
    raw.writer.write(raw.message(raw.encoded(read_request(1))))
    assert await code_of(raw.receive()) == ua.StatusCodes.BadSequenceNumberInvalid
    raw.close()


async def test_a_token_of_another_s_session_is_worth_nothing(raw: Raw, place: str) -> None:
    thief = await Raw.connect(place)
    thief.token = raw.token
    assert await code_of(thief.ask(read_request(1))) == ua.StatusCodes.BadSecureChannelIdInvalid
    thief.token = ua.NodeId(ua.ByteString(os.urandom(32)))
    assert await code_of(thief.ask(read_request(1))) == ua.StatusCodes.BadSessionIdInvalid
    thief.token = ua.NodeId()
    assert await code_of(thief.ask(read_request(1))) == ua.StatusCodes.BadSessionIdInvalid
    await raw.ask(read_request(1))
    thief.close()


# -- all at once -------------------------------------------------------------------------------


async def test_a_good_client_is_served_while_all_others_attack(
    server: OpcUaServer, place: str
) -> None:
    good = await Raw.connect(place)
    await good.session()
    attack = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench._opcua_raw", place, "2"),
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    output = asyncio.create_task(attack.communicate())
    served = 0
    while not output.done():
        async with asyncio.timeout(20):
            await good.ask(read_request(3))
        served += 1
        await asyncio.sleep(0.02)
    hits = json.loads((await output)[0])
    assert set(hits) >= {"half_open", "noise", "wrong_certificate"}
    assert served > 10
    await good.ask(read_request(3))
    good.close()
    await until(lambda: server.clients == 0)


async def test_connections_without_a_session_are_bounded_and_a_newcomer_gets_in(
    server: OpcUaServer, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.opcua.transport.listener.STRANGERS_MAX", 5)
    host, _, port = place.rpartition(":")
    idle = [await asyncio.open_connection(host, int(port)) for _ in range(20)]
    await until(lambda: server.clients <= 6)
    raw = await Raw.connect(place)
    await raw.session()
    await raw.ask(read_request(1))
    raw.close()
    for _, writer in idle:
        writer.transport.abort()
    await until(lambda: server.clients == 0)


async def test_who_takes_too_long_for_a_session_is_cut_off(
    server: OpcUaServer, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.opcua.transport.connection.ACTIVATION_S_MAX", 0.3)
    monkeypatch.setattr("gateway.opcua.transport.connection.HELLO_S_MAX", 0.3)
    raw = await Raw.connect(place)
    assert await code_of(raw.receive()) == 0
    host, _, port = place.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    async with asyncio.timeout(20):
        assert await reader.read() == b""
    writer.close()
    raw.close()


async def deaf(raw: Raw) -> None:
    """Ask without reading, until the connection is cut. Raises ConnectionError."""
    body = struct_to_binary(ua.GetEndpointsRequest())  # short, and its answer is long
    while not raw.writer.is_closing():
        raw.writer.write(b"".join(raw.message(body) for _ in range(10)))
        await raw.writer.drain()
        await asyncio.sleep(0.002)
    raise ConnectionResetError


async def test_a_client_that_never_reads_is_cut_off(
    server: OpcUaServer, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.opcua.transport.connection.UNREAD_S_MAX", 0.3)
    monkeypatch.setattr("gateway.opcua.transport.connection.OUTPUT_BYTES_HIGH", 4_096)
    raw = await Raw.connect(place)
    await raw.session()
    raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
    with pytest.raises(ConnectionError):
        async with asyncio.timeout(50):
            await deaf(raw)
    raw.close()
    await until(lambda: server.clients == 0)


async def test_a_stop_is_told_before_connections_are_closed(tmp_path: Path) -> None:
    server = await started(tmp_path)
    raw = await Raw.connect(server.url.split("/")[2])
    await raw.session()
    stopping = asyncio.create_task(server.stop())
    await asyncio.sleep(0)
    state, left_s, reason = await shown(raw, 2259, 2992, 2993)
    assert state == ua.ServerState.Shutdown
    assert left_s == 1
    assert reason.Text == "the gateway stops"
    (whole,) = await shown(raw, 2256)
    assert (whole.State, whole.SecondsTillShutdown) == (ua.ServerState.Shutdown, 1)
    await stopping
    assert await code_of(raw.receive()) == 0
    raw.close()


async def shown(raw: Raw, *numbers: int) -> list[Any]:
    """Values of nodes of the standard."""
    request = ua.ReadRequest()
    request.Parameters.NodesToRead = [
        ua.ReadValueId(ua.NodeId(ua.Int32(number)), ua.AttributeIds.Value) for number in numbers
    ]
    answer = struct_from_binary(ua.ReadResponse, Buffer(await raw.ask(request)))
    return [result.Value.Value for result in answer.Results]
