"""OptoMMP packets: byte vectors, streams that come in pieces, and hostile ones.

No other client serves as the peer here: PyPI's `optommp` 0.7 can neither write floats nor check
an answer. The vectors follow from the packet layouts of the protocol's guide.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drivers.errors import DriverError, Garbled, NoAnswer, NotConnected, Refused
from drivers.opto.link import BLOCK_BYTES_MAX, OptoLink, open_link, packet_size

TIMEOUT_S = 5.0


class Wire(asyncio.Transport):
    """A transport that keeps what was sent and answers by a function of it."""

    def __init__(self, link: OptoLink, reply: Callable[[bytes], list[bytes]]) -> None:
        super().__init__()
        self.link = link
        self.reply = reply
        self.sent: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent.append(bytes(data))
        for piece in self.reply(bytes(data)):
            asyncio.get_running_loop().call_soon(self.link.data_received, piece)

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True


class Frames:
    """What `gatepost trace` sees."""

    def __init__(self) -> None:
        self.seen: list[tuple[bool, bytes, str]] = []

    def frame(self, sent: bool, data: bytes, meaning: str) -> None:
        self.seen.append((sent, data, meaning))


def wired(reply: Callable[[bytes], list[bytes]], timeout_s: float = TIMEOUT_S) -> Wire:
    link = OptoLink(timeout_s, None)
    wire = Wire(link, reply)
    link.connection_made(wire)
    return wire


def answers(*texts: str) -> Callable[[bytes], list[bytes]]:
    """The given answers, one a request."""
    waiting = [bytes.fromhex(text) for text in texts]
    return lambda _: [waiting.pop(0)]


# ---------------------------------------------------------------- vectors


async def test_a_quadlet_is_read() -> None:
    wire = wired(answers("0000 04 60 0000 00 0000000000 41ac0000"))
    assert await wire.link.read(0xF0260040, 4) == bytes.fromhex("41ac0000")
    assert wire.sent == [bytes.fromhex("0000 04 40 0000 ffff f0260040")]


async def test_a_block_is_read() -> None:
    wire = wired(answers("0000 04 70 0000 00 0000000000 0006 0000 010203040506"))
    assert await wire.link.read(0xF0260000, 6) == bytes.fromhex("010203040506")
    assert wire.sent == [bytes.fromhex("0000 04 50 0000 ffff f0260000 0006 0000")]


async def test_a_quadlet_is_written() -> None:
    wire = wired(answers("0000 04 20 0000 00 0000000000"))
    await wire.link.write(0xF0380000, bytes.fromhex("00000001"))
    assert wire.sent == [bytes.fromhex("0000 04 00 0000 ffff f0380000 00000001")]


async def test_a_block_is_written() -> None:
    wire = wired(answers("0000 04 20 0000 00 0000000000"))
    await wire.link.write(0xF0D82000, bytes.fromhex("3f80000040000000"))
    sent = bytes.fromhex("0000 04 10 0000 ffff f0d82000 0008 0000 3f80000040000000")
    assert wire.sent == [sent]


async def test_labels_count_and_begin_again() -> None:
    def reply(packet: bytes) -> list[bytes]:
        return [bytes((0, 0, packet[2], 0x20)) + bytes(8)]

    wire = wired(reply)
    for _ in range(130):
        await wire.link.write(0xF0D82000, bytes(4))
    labels = [packet[2] >> 2 for packet in wire.sent]
    assert labels == [(n + 1) % 64 for n in range(130)]


async def test_a_refusal_fetches_the_last_error() -> None:
    wire = wired(
        answers("0000 04 70 0000 70 0000000000 0000 0000", "0000 08 60 0000 00 0000000000 0000e005")
    )
    with pytest.raises(Refused, match="invalid memory address") as refusal:
        await wire.link.read(0xF0F00000, 64)
    assert refusal.value.permanent
    assert wire.sent[1] == bytes.fromhex("0000 08 40 0000 ffff f030000c")


async def test_a_refusal_that_can_not_be_explained_is_one_all_the_same() -> None:
    nak = "0000 {} 20 0000 70 0000000000"
    wire = wired(answers(nak.format("04"), "0000 08 60 0000 70 0000000000 00000000"))
    with pytest.raises(Refused, match="code 7") as refusal:
        await wire.link.write(0xF02A0000, bytes(4))
    assert not refusal.value.permanent


async def test_the_tap_sees_both_ways() -> None:
    frames = Frames()
    link = OptoLink(TIMEOUT_S, frames)
    wire = Wire(link, answers("0000 04 60 0000 00 0000000000 00000001"))
    link.connection_made(wire)
    await link.read(0xF0300004, 4)
    assert [(sent, len(data)) for sent, data, _ in frames.seen] == [(True, 12), (False, 16)]
    assert "read 4 bytes at F0300004" in frames.seen[0][2]


# ---------------------------------------------------------------- streams


@pytest.mark.parametrize("size", [1, 3, 11, 13, 17])
async def test_an_answer_may_come_in_pieces(size: int) -> None:
    packet = bytes.fromhex("0000 04 70 0000 00 0000000000 0006 0000 010203040506")
    pieces = [packet[i : i + size] for i in range(0, len(packet), size)]
    wire = wired(lambda _: pieces)
    assert (await wire.link.read(0xF0260000, 6)).hex() == "010203040506"


async def test_the_late_answer_of_a_request_is_dropped() -> None:
    late = bytes.fromhex("0000 04 60 0000 00 0000000000 00000001")
    good = bytes.fromhex("0000 08 60 0000 00 0000000000 00000002")
    replies = [[], [late + good]]
    wire = wired(lambda _: replies.pop(0), timeout_s=0.05)
    with pytest.raises(NoAnswer, match=r"within 0\.05 s"):
        await wire.link.read(0xF0260000, 4)
    assert await wire.link.read(0xF0260040, 4) == b"\0\0\0\2"


async def test_three_requests_without_an_answer_end_the_connection() -> None:
    wire = wired(lambda _: [], timeout_s=0.02)
    for _ in range(3):
        with pytest.raises(NoAnswer):
            await wire.link.read(0xF0260000, 4)
    assert wire.closed
    with pytest.raises(NotConnected, match="3 requests without an answer"):
        await wire.link.read(0xF0260000, 4)


async def test_cancelled_requests_are_remembered_up_to_a_limit() -> None:
    wire = wired(lambda _: [])
    for _ in range(40):
        task = asyncio.create_task(wire.link.read(0xF0260000, 4))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises((asyncio.CancelledError, NotConnected)):
            await task
    assert wire.closed


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("0000 08 60 0000 00 0000000000 00000000", "label 2"),
        ("0000 04 20 0000 00 0000000000", "code 2 in place of 6"),
        ("0000 04 90 0000 00 0000000000", "no OptoMMP answer"),
        ("0000 04 40 0000 ffff f0260000", "no OptoMMP answer"),
        ("0000 04 70 0000 00 0000000000 ffff 0000", "65535 bytes"),
    ],
)
async def test_what_is_no_answer_ends_the_connection(answer: str, text: str) -> None:
    wire = wired(answers(answer))
    with pytest.raises(Garbled, match=text):
        await wire.link.read(0xF0260000, 4)
    assert wire.closed


async def test_a_block_of_another_length_ends_the_connection() -> None:
    wire = wired(answers("0000 04 70 0000 00 0000000000 0004 0000 01020304"))
    with pytest.raises(Garbled, match="4 bytes in place of 8"):
        await wire.link.read(0xF0260000, 8)


@given(data=st.binary(min_size=12, max_size=64))
def test_the_size_of_a_packet_is_bounded(data: bytes) -> None:
    try:
        size = packet_size(data)
    except Garbled:
        return
    assert size is None or 12 <= size <= 16 + BLOCK_BYTES_MAX


def spoiled(packet: bytes, cut: int, flip: int, mask: int) -> bytes:
    data = bytearray(packet)
    data[flip % len(data)] ^= mask
    return bytes(data[: cut % (len(data) + 8)])


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    streams=st.lists(st.one_of(st.binary(max_size=80), st.none()), min_size=1, max_size=4),
    cut=st.integers(0, 30),
    flip=st.integers(0, 30),
    mask=st.integers(0, 255),
)
def test_no_stream_ends_in_anything_but_a_typed_error(
    streams: list[bytes | None], cut: int, flip: int, mask: int
) -> None:
    packet = bytes.fromhex("0000 04 70 0000 00 0000000000 0006 0000 010203040506")

    async def exchange() -> None:
        pieces = [spoiled(packet, cut, flip, mask) if s is None else s for s in streams]
        wire = wired(lambda _: pieces, timeout_s=0.001)
        for _ in range(2):
            try:
                data = await wire.link.read(0xF0260000, 6)
            except DriverError:
                pass
            else:
                assert len(data) == 6
            assert len(wire.link._buffer) <= 16 + BLOCK_BYTES_MAX
        wire.link.close()

    asyncio.run(exchange())


@pytest.fixture
async def deaf() -> AsyncIterator[int]:
    """A peer that takes connections and floods them."""

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                writer.write(b"\0\0\0\x70" + b"\xff" * 4096)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(flood, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


async def test_a_flood_is_garbled_at_once(deaf: int) -> None:
    link = await open_link("127.0.0.1", deaf, TIMEOUT_S)
    try:
        with pytest.raises((Garbled, NotConnected)):
            await link.read(0xF0260000, 4)
    finally:
        link.close()
        await asyncio.sleep(0)


@pytest.mark.parametrize("host", ["", "no such host", "a" * 300])
async def test_a_host_that_is_none_is_no_connection(host: str) -> None:
    with pytest.raises(NotConnected):
        await open_link(host or "256.1.1.1", 2001, 2.0)
