"""Messages that nobody should take, by the thousand: drawn from a seed, sent fast."""

from __future__ import annotations

import asyncio
import json
import random
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgpack
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from sync.remote import signed

CASES = Path(__file__).parents[1] / "cases" / "wire"
THIEF = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
STOLEN = 300
BOMBS = (
    b"\x91" * 3000,  # lists in lists
    b"\x81\xa1a" * 3000,
    b"\xdd\xff\xff\xff\xff",  # a list of 2^32 - 1
    b"\xdf\xff\xff\xff\xff\xa1v\x01",
    b"\xc6\xff\xff\xff\xff",
    b"\xc7\x08\x05" + bytes(8),  # an extension type
    b"\xd6\xff" + bytes(4),  # a timestamp
    b"\x82\xa1v\x01\xa1v\x01",  # a key twice
    b"",
    b"{}",
)


def vectors() -> list[bytes]:
    """Every message that the documents show."""
    cases = [json.loads(path.read_text()) for path in sorted(CASES.rglob("*.json"))]
    return [bytes.fromhex(case.get("hex") or case["message"]) for case in cases]


def _mutated(chance: random.Random, good: bytes) -> bytes:
    made = bytearray(good)
    for _ in range(chance.randint(1, 5)):
        at = chance.randrange(len(made) + 1)
        match chance.randrange(4):
            case 0 if at < len(made):
                made[at] ^= 1 << chance.randrange(8)
            case 1:
                del made[at : at + chance.randint(1, 20)]
            case 2:
                made[at:at] = chance.randbytes(chance.randint(1, 20))
            case _:
                made[at:at] = made[chance.randrange(len(made) + 1) :][: chance.randint(1, 40)]
    return bytes(made)


def _plain(chance: random.Random, depth: int) -> Any:
    kinds = [None, True, -1, 2**63, 1.5, float("nan"), "v", "tag", b"\x00", "\n" * 5, "\ud7ff"]
    if depth == 0 or chance.random() < 0.4:
        return chance.choice([*kinds, chance.getrandbits(63), chance.random()])
    if chance.random() < 0.5:
        return [_plain(chance, depth - 1) for _ in range(chance.randrange(5))]
    names = ["v", "key", "signature", "body", "id", "ack", "want", "points", "events", "x", 7]
    return {chance.choice(names): _plain(chance, depth - 1) for _ in range(chance.randrange(6))}


def _stolen(chance: random.Random, site: str, utc_ns: int) -> bytes:
    """An envelope as it should be, under the signature of somebody else or of nobody."""
    write = {"tag": "Rig.Setpoint", "value": chance.uniform(0, 100), "lease_ns": 60 * 10**9}
    kind = chance.choice(signed.TYPES)
    end_ns = utc_ns + 60 * 10**9
    name = f"{chance.getrandbits(64):x}"
    body = signed.encode(
        signed.Envelope(name, utc_ns, "thief", site, kind, end_ns, chance.choice([write, [write]]))
    )
    if chance.random() < 0.5:
        return signed.sign(body, chance.choice(["market", "thief"]), THIEF)
    outer = {"v": 1, "key": "market", "signature": chance.randbytes(64), "body": body}
    return bytes(msgpack.packb(outer))


def messages(seed: int, count: int, site: str, utc_ns: int) -> Iterator[bytes]:
    """`count` messages, the same for the same seed."""
    chance = random.Random(seed)
    good = vectors()
    stolen = [_stolen(chance, site, utc_ns) for _ in range(STOLEN)]
    for _ in range(count):
        drawn = chance.random()
        if drawn < 0.15:
            yield chance.randbytes(chance.randrange(300))
        elif drawn < 0.6:
            yield _mutated(chance, chance.choice(good))
        elif drawn < 0.75:
            yield bytes(msgpack.packb(_plain(chance, 4)))
        elif drawn < 0.9:
            yield chance.choice(stolen)
        elif drawn < 0.97:
            yield _mutated(chance, chance.choice(stolen))
        else:
            yield chance.choice(BOMBS)


class Hose:
    """A bare MQTT 3.1.1 client that publishes with QoS 0 as fast as the broker reads."""

    async def open(self, port: int) -> None:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", port)
        self._writer.write(b"\x10\x10\x00\x04MQTT\x04\x02\x02\x58\x00\x04hose")
        assert await self._reader.readexactly(4) == b"\x20\x02\x00\x00"

    async def pour(self, topic: str, payloads: Sequence[bytes]) -> None:
        name = topic.encode()
        for payload in payloads:
            rest = struct.pack(">H", len(name)) + name + payload
            size, length = len(rest), bytearray()
            while True:
                size, low = divmod(size, 128)
                length.append(low | (0x80 if size else 0))
                if not size:
                    break
            self._writer.write(b"\x30" + bytes(length) + rest)
        await self._writer.drain()

    async def close(self) -> None:
        self._writer.write(b"\xe0\x00")
        self._writer.close()
        await self._writer.wait_closed()
