"""A small OPC UA client without security, and clients that mean harm; for `bench.opcua_hostile`.

    python -m bench._opcua_raw HOST:PORT SECONDS KIND ...

runs attackers of these kinds, each in so many connections as ATTACKERS says, and prints how often
each of them was at it as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import struct
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any, Final

from asyncua import ua
from asyncua.ua.ua_binary import nodeid_to_binary, struct_to_binary

from gateway.opcua.names import standard_id

_IDS: Final = ua.ObjectIds
_NONE: Final = b"http://opcfoundation.org/UA/SecurityPolicy#None"
_BASIC: Final = b"http://opcfoundation.org/UA/SecurityPolicy#Basic256Sha256"
_ROUND_S: Final = 0.01  # each attacker rests so long behind a blow: one core must do for all


def chunk(kind: bytes, body: bytes, flag: bytes = b"F") -> bytes:
    """A chunk with its header."""
    return struct.pack("<3scI", kind, flag, len(body) + 8) + body


def hello(url: bytes = b"opc.tcp://x") -> bytes:
    """A Hello."""
    return chunk(b"HEL", struct.pack("<IIIIIi", 0, 65535, 65535, 0, 0, len(url)) + url)


def text(data: bytes | None) -> bytes:
    """A string or byte string."""
    return struct.pack("<i", -1) if data is None else struct.pack("<i", len(data)) + data


class Refused(Exception):
    """The server closed the connection, or answered with a fault: its status code."""

    def __init__(self, code: int) -> None:
        super().__init__(hex(code))
        self.code = code


class Raw:
    """A connection without security, with a session; requests one after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.channel = 0
        self.token = ua.NodeId()
        self.number = 0

    @classmethod
    async def connect(cls, place: str) -> Raw:
        """Connect and open a channel. Raises OSError, Refused."""
        host, _, port = place.rpartition(":")
        made = cls(*await asyncio.open_connection(host, int(port)))
        made.writer.write(hello())
        await made.receive()
        made.channel = await made._open()
        return made

    async def session(self) -> None:
        """Create and activate one. Raises Refused."""
        create = ua.CreateSessionRequest()
        create.Parameters.ClientDescription.ApplicationUri = "urn:bench:raw"
        create.Parameters.RequestedSessionTimeout = 60_000.0
        body = await self.ask(create)
        token_at = 4 + 24 + len(nodeid_to_binary(_at(body, 28)))
        self.token = _at(body, token_at)
        activate = ua.ActivateSessionRequest()
        activate.Parameters.UserIdentityToken = ua.AnonymousIdentityToken(PolicyId="anonymous")
        await self.ask(activate)

    async def _open(self) -> int:
        request = ua.OpenSecureChannelRequest()
        request.Parameters.SecurityMode = ua.MessageSecurityMode.None_
        request.Parameters.RequestedLifetime = 600_000
        self.number += 1
        plain = struct.pack("<II", self.number, self.number) + struct_to_binary(request)
        body = struct.pack("<I", 0) + text(_NONE) + text(None) + text(None) + plain
        self.writer.write(chunk(b"OPN", body))
        answer = await self.receive()
        return int(struct.unpack_from("<I", answer, 8)[0])

    def framed(self, body: bytes, flag: bytes = b"F") -> bytes:
        """A message of one chunk."""
        self.number += 1
        head = struct.pack("<IIII", self.channel, 1, self.number, self.number)
        return chunk(b"MSG", head + body, flag)

    def message(self, body: bytes) -> bytes:
        """A message in as many chunks as it takes."""
        self.number += 1
        request, parts = self.number, []
        for start in range(0, len(body), 65_000):
            flag = b"F" if start + 65_000 >= len(body) else b"C"
            head = struct.pack("<IIII", self.channel, 1, self.number, request)
            parts.append(chunk(b"MSG", head + body[start : start + 65_000], flag))
            self.number += flag == b"C"
        return b"".join(parts)

    def encoded(self, request: Any) -> bytes:
        """A request with our token."""
        request.RequestHeader.AuthenticationToken = self.token
        request.RequestHeader.TimeoutHint = 60_000
        return struct_to_binary(request)

    async def ask(self, request: Any) -> bytes:
        """Send a request and take the next answer. Raises Refused."""
        self.writer.write(self.message(self.encoded(request)))
        return await self.answer()

    async def answer(self) -> bytes:
        """The next answer's body. Raises Refused."""
        parts = []
        while True:
            data = await self.receive()
            parts.append(data[24:])
            if data[3:4] == b"F":
                break
        body = b"".join(parts)
        code = struct.unpack_from("<I", body, 4 + 12)[0]
        if code >> 31:
            raise Refused(code)
        return body

    async def receive(self) -> bytes:
        """The next chunk. Raises Refused."""
        try:
            head = await self.reader.readexactly(8)
            body = await self.reader.readexactly(struct.unpack_from("<I", head, 4)[0] - 8)
        except (asyncio.IncompleteReadError, ConnectionError):
            raise Refused(0) from None
        if head[:3] == b"ERR":
            raise Refused(struct.unpack_from("<I", body)[0])
        return head + body

    def close(self) -> None:
        """Cut the connection."""
        self.writer.transport.abort()


def _at(body: bytes, at: int) -> Any:
    from asyncua.common.utils import Buffer
    from asyncua.ua.ua_binary import nodeid_from_binary

    return nodeid_from_binary(Buffer(body, at))


@lru_cache
def read_request(nodes: int) -> Any:
    """A Read of the server's state, many times over."""
    one = ua.ReadValueId()
    one.NodeId = standard_id(_IDS.Server_ServerStatus_State)
    one.AttributeId = ua.AttributeIds.Value
    request = ua.ReadRequest()
    request.Parameters.NodesToRead = [one] * nodes
    return request


@lru_cache
def _read_parameters(nodes: int) -> bytes:
    return struct_to_binary(read_request(nodes).Parameters)


@lru_cache
def _items_parameters(items: int) -> bytes:
    wanted = ua.CreateMonitoredItemsParameters()
    wanted.ItemsToCreate = [_item(n) for n in range(items)]
    return struct_to_binary(wanted)[4:]


def read_many(raw: Raw, nodes: int) -> bytes:
    """An encoded Read, which costs its sender little."""
    empty = len(struct_to_binary(ua.ReadParameters()))
    return raw.encoded(ua.ReadRequest())[:-empty] + _read_parameters(nodes)


def items_many(raw: Raw, subscription: int, items: int) -> bytes:
    """An encoded CreateMonitoredItems."""
    empty = len(struct_to_binary(ua.CreateMonitoredItemsParameters()))
    head = raw.encoded(ua.CreateMonitoredItemsRequest())[:-empty]
    return head + struct.pack("<I", subscription) + _items_parameters(items)


# -- attackers -------------------------------------------------------------------------------


async def half_open(place: str, hits: Counter[str]) -> None:
    """Connects, says half a word, and waits until it is cut off."""
    host, _, port = place.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    hits["half_open"] += 1
    try:
        writer.write(random.choice((b"", b"HEL", hello(), hello()[:20])))
        await reader.read()
        while await reader.read(65_536):
            pass
    finally:
        writer.transport.abort()


async def noise(place: str, hits: Counter[str]) -> None:
    """Random bytes, some of them behind a head that looks right."""
    host, _, port = place.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        kind = random.choice((b"HEL", b"OPN", b"MSG", b"CLO", os.urandom(3)))
        if random.random() < 0.7:
            writer.write(hello())
        for _ in range(20):
            hits["noise"] += 1
            size = random.choice((0, 1, 16, 24, 200, 5_000, 65_000, 2**31))
            writer.write(struct.pack("<3scI", kind, random.choice((b"F", b"C")), size))
            writer.write(os.urandom(min(size, 65_000)))
            await writer.drain()
            await asyncio.sleep(_ROUND_S)
    finally:
        writer.transport.abort()


async def wrong_certificate(place: str, hits: Counter[str]) -> None:
    """Opens channels with certificates that nobody trusts, or that are none."""
    host, _, port = place.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        hits["wrong_certificate"] += 1
        certificate = random.choice((CERTIFICATE, os.urandom(900), b"\x30\x82\x03\x00" * 200))
        head = struct.pack("<I", 0) + text(_BASIC) + text(certificate) + text(os.urandom(20))
        writer.write(hello() + chunk(b"OPN", head + os.urandom(512)))
        await asyncio.wait_for(reader.read(1_000), 5)
        await asyncio.wait_for(reader.read(1_000), 5)
        await asyncio.sleep(_ROUND_S)
    finally:
        writer.transport.abort()


async def greedy(place: str, hits: Counter[str]) -> None:
    """A session that asks for subscriptions and items without end."""
    raw = await Raw.connect(place)
    try:
        await raw.session()
        while True:
            hits["greedy"] += 1
            with contextlib.suppress(Refused):
                create = ua.CreateSubscriptionRequest()
                create.Parameters.RequestedPublishingInterval = 0.0
                create.Parameters.RequestedLifetimeCount = 2**32 - 1
                create.Parameters.RequestedMaxKeepAliveCount = 2**32 - 1
                body = await raw.ask(create)
                (number,) = struct.unpack_from("<I", body, 28)
                raw.writer.write(raw.message(items_many(raw, number, 500)))
                await raw.answer()
            await asyncio.sleep(_ROUND_S)
            if raw.reader.at_eof():
                return
    finally:
        raw.close()


def _item(number: int) -> ua.MonitoredItemCreateRequest:
    wanted = ua.MonitoredItemCreateRequest()
    wanted.ItemToMonitor.NodeId = standard_id(_IDS.Server_ServerStatus_CurrentTime)
    wanted.ItemToMonitor.AttributeId = ua.AttributeIds.Value
    wanted.MonitoringMode = ua.MonitoringMode.Reporting
    wanted.RequestedParameters.ClientHandle = number
    wanted.RequestedParameters.SamplingInterval = 0.0
    wanted.RequestedParameters.QueueSize = 2**32 - 1
    return wanted


async def huge(place: str, hits: Counter[str]) -> None:
    """A session that sends what costs most to take apart, and what costs most to answer."""
    raw = await Raw.connect(place)
    try:
        await raw.session()
        head = raw.encoded(ua.WriteRequest())[:-4]
        bombs = (
            read_many(raw, 10_000),
            read_many(raw, 30_000),
            head + struct.pack("<i", 1_000_000) + bytes(2_000_000),
            head + struct.pack("<i", 1) + _node() + b"\x01\x80" + struct.pack("<i", 2**31 - 1),
            head + struct.pack("<i", 1) + _node() + b"\x01\x98" + _nested(5_000),
            head + struct.pack("<i", 2**31 - 1) + bytes(100),
            os.urandom(200_000),
        )
        while True:
            hits["huge"] += 1
            raw.writer.write(raw.message(random.choice(bombs)))
            with contextlib.suppress(Refused):
                await asyncio.wait_for(raw.answer(), 10)
            if raw.reader.at_eof():
                return
            await asyncio.sleep(_ROUND_S)
    finally:
        raw.close()


def _node() -> bytes:
    """NodeId, attribute and index range of a WriteValue."""
    node = nodeid_to_binary(standard_id(_IDS.Server_ServerStatus_State))
    return node + struct.pack("<I", 13) + text(None)


def _nested(depth: int) -> bytes:
    """Variants in variants."""
    return (struct.pack("<i", 1) + b"\x98") * depth + struct.pack("<i", 0)


async def deaf(place: str, hits: Counter[str]) -> None:
    """A session that asks for much and never reads what it gets."""
    raw = await Raw.connect(place)
    try:
        await raw.session()
        body = read_many(raw, 2_000)
        while True:
            hits["deaf"] += 1
            raw.writer.write(raw.message(body))
            await asyncio.wait_for(raw.writer.drain(), 30)
            await asyncio.sleep(_ROUND_S)
            if raw.writer.is_closing():
                return
    finally:
        raw.close()


async def endless(place: str, hits: Counter[str]) -> None:
    """A message that has no last chunk."""
    raw = await Raw.connect(place)
    try:
        await raw.session()
        while not raw.writer.is_closing():
            hits["endless"] += 1
            head = struct.pack("<IIII", raw.channel, 1, raw.number + 1, 7)
            raw.number += 1
            raw.writer.write(chunk(b"MSG", head + bytes(60_000), b"C"))
            await asyncio.wait_for(raw.writer.drain(), 30)
            await asyncio.sleep(_ROUND_S)
    finally:
        raw.close()


Attacker = Callable[[str, Counter[str]], Awaitable[None]]
# Kind -> the attacker, and in how many connections at a time.
ATTACKERS: Final[dict[str, tuple[Attacker, int]]] = {
    "half_open": (half_open, 20),
    "noise": (noise, 10),
    "wrong_certificate": (wrong_certificate, 10),
    "greedy": (greedy, 35),
    "huge": (huge, 10),
    "deaf": (deaf, 10),
    "endless": (endless, 5),
}
CERTIFICATE: bytes = b""


def stranger() -> bytes:
    """A certificate that is good in everything but that nobody trusts it."""
    from asyncua.crypto.cert_gen import generate_private_key, generate_self_signed_app_certificate
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509.oid import ExtendedKeyUsageOID

    made = generate_self_signed_app_certificate(
        generate_private_key(),
        "stranger",
        {"countryName": "XX"},
        [],
        extended=[ExtendedKeyUsageOID.CLIENT_AUTH],
    )
    return made.public_bytes(Encoding.DER)


async def attack(place: str, seconds: float, kinds: list[str], share: float = 1.0) -> Counter[str]:
    """Attack for a while; `share` of the connections of each kind, at least one."""
    global CERTIFICATE
    CERTIFICATE = CERTIFICATE or stranger()
    hits: Counter[str] = Counter()
    ends = time.monotonic() + seconds

    async def again(attacker: Attacker) -> None:
        while time.monotonic() < ends:
            with contextlib.suppress(OSError, Refused, TimeoutError, struct.error):
                await attacker(place, hits)
            hits["connections"] += 1
            await asyncio.sleep(_ROUND_S)

    tasks = [
        asyncio.create_task(again(attacker))
        for kind in kinds
        for attacker, count in [ATTACKERS[kind]]
        for _ in range(max(1, round(count * share)))
    ]
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return hits


if __name__ == "__main__":
    _, _place, _seconds, *_kinds = sys.argv
    print(json.dumps(asyncio.run(attack(_place, float(_seconds), _kinds or list(ATTACKERS)))))
