"""The Modbus TCP client against peers that answer byte by byte as a test wants it."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from drivers.errors import Garbled, NoAnswer, NotConnected, Refused
from drivers.modbus import link as modbus_link
from drivers.modbus.link import ModbusLink, open_link
from drivers.sim.modbus_server import ModbusServer, RegisterBank
from gateway.core.clock import SystemClock

Answer = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]
Connect = Callable[..., Awaitable[ModbusLink]]


class Peer:
    """Reads whole frames and hands each to `answer`."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.frames: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readexactly(6)
                frame = head + await reader.readexactly(int.from_bytes(head[4:], "big"))
                self.frames.append(frame)
                await self.answer(frame, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Call it with an answer function for a link to a peer that answers so."""
    ends: list[Callable[[], Awaitable[None]]] = []

    async def start(answer: Answer, *, timeout_s: float = 5.0, depth: int = 1) -> ModbusLink:
        server = await asyncio.start_server(Peer(answer).serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        link = await open_link("127.0.0.1", port, timeout_s, depth, SystemClock())

        async def end() -> None:
            link.close()
            server.close()
            await server.wait_closed()
            await asyncio.sleep(0.01)

        ends.append(end)
        return link

    yield start
    for end in ends:
        await end()


def registers(frame: bytes, *values: int, number: int | None = None, unit: int = 1) -> bytes:
    """A well-formed answer to a read of holding registers."""
    body = struct.pack(f">BBB{len(values)}H", unit, 3, 2 * len(values), *values)
    number = int.from_bytes(frame[:2], "big") if number is None else number
    return struct.pack(">HHH", number, 0, len(body)) + body


async def ask(link: ModbusLink, first: int = 0, count: int = 1) -> tuple[int, ...]:
    pdu = struct.pack(">BHH", 3, first, count)
    answer = await link.ask(1, pdu, 2 + 2 * count, bytes((3, 2 * count)))
    return struct.unpack(f">{count}H", answer[2:])


def first_of(frame: bytes) -> int:
    return int.from_bytes(frame[8:10], "big")


# ---------------------------------------------------------------- framing


async def test_an_answer_may_come_in_single_bytes(connect: Connect) -> None:
    async def answer(frame: bytes, writer: asyncio.StreamWriter) -> None:
        for byte in registers(frame, 7, 8):
            writer.write(bytes((byte,)))
            await writer.drain()
            await asyncio.sleep(0)

    link = await connect(answer)
    assert await ask(link, 0, 2) == (7, 8)
    assert await ask(link, 0, 2) == (7, 8)


async def test_many_answers_may_come_in_one_piece_and_out_of_order(connect: Connect) -> None:
    held: list[bytes] = []

    async def answer(frame: bytes, writer: asyncio.StreamWriter) -> None:
        held.append(registers(frame, first_of(frame)))
        if len(held) == 8:
            writer.write(b"".join(reversed(held)))

    link = await connect(answer, depth=8)
    answers = await asyncio.gather(*(ask(link, first) for first in range(8)))
    assert answers == [(first,) for first in range(8)]


async def test_an_answer_cut_across_two_pieces_with_its_neighbour(connect: Connect) -> None:
    held: list[bytes] = []

    async def answer(frame: bytes, writer: asyncio.StreamWriter) -> None:
        held.append(registers(frame, first_of(frame)))
        if len(held) == 2:
            data = b"".join(held)
            writer.write(data[:14])
            await writer.drain()
            await asyncio.sleep(0.02)
            writer.write(data[14:])

    link = await connect(answer, depth=2)
    assert await asyncio.gather(ask(link, 1), ask(link, 2)) == [(1,), (2,)]


@pytest.mark.parametrize("depth", [1, 4])
async def test_no_more_requests_are_in_flight_than_depth_allows(
    connect: Connect, depth: int
) -> None:
    open_now, most = 0, 0

    async def answer(frame: bytes, writer: asyncio.StreamWriter) -> None:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)

        def reply() -> None:
            nonlocal open_now
            open_now -= 1
            writer.write(registers(frame, 0))

        asyncio.get_running_loop().call_later(0.01, reply)

    link = await connect(answer, depth=depth, timeout_s=2.0)
    await asyncio.gather(*(ask(link) for _ in range(12)))
    assert most == depth


# ---------------------------------------------------------------- broken answers


def spoiled(what: str, frame: bytes) -> bytes:
    good = registers(frame, 7)
    body = good[6:]
    return {
        "protocol": good[:2] + b"\x00\x01" + good[4:],
        "length zero": good[:4] + b"\x00\x00" + body,
        "length of two": good[:4] + b"\x00\x02" + body,
        "length too large": good[:4] + b"\x01\x04" + body,
        "unit": registers(frame, 7, unit=2),
        "transaction": registers(frame, 7, number=0x7777),
        "function": good[:7] + b"\x04" + good[8:],
        "byte count": good[:8] + b"\x04" + good[9:],
        "registers too many": registers(frame, 7, 8),
        "registers too few": good[:4] + b"\x00\x03" + body[:3],
        "long exception": good[:4] + b"\x00\x04" + body[:1] + b"\x83\x02\x00",
        "text": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    }[what]


@pytest.mark.parametrize(
    "what",
    [
        "protocol",
        "length zero",
        "length of two",
        "length too large",
        "unit",
        "transaction",
        "function",
        "byte count",
        "registers too many",
        "registers too few",
        "long exception",
        "text",
    ],
)
async def test_an_answer_that_breaks_the_protocol_ends_the_connection(
    connect: Connect, what: str
) -> None:
    async def answer(frame: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(spoiled(what, frame))

    link = await connect(answer)
    with pytest.raises(Garbled):
        await ask(link)
    assert not link.connected
    with pytest.raises(NotConnected):
        await ask(link)


async def test_bytes_that_nobody_asked_for_end_the_connection(connect: Connect) -> None:
    async def answer(frame: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(registers(frame, 7) + registers(frame, 7))  # the second copy is too much

    link = await connect(answer)
    assert await ask(link) == (7,)
    with pytest.raises(NotConnected, match="nobody asked"):
        await ask(link)


async def test_the_other_side_may_die_in_the_middle_of_a_frame(connect: Connect) -> None:
    async def answer(frame: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(registers(frame, 7)[:5])
        writer.close()

    link = await connect(answer)
    with pytest.raises(NotConnected, match="closed"):
        await ask(link)


# ---------------------------------------------------------------- exceptions


@pytest.mark.parametrize(
    ("code", "permanent", "words"),
    [
        (1, True, "illegal function"),
        (2, True, "illegal data address"),
        (3, True, "illegal data value"),
        (4, False, "device failure"),
        (6, False, "busy"),
        (11, False, "gateway target"),
        (99, False, "unknown"),
    ],
)
async def test_an_exception_is_the_devices_refusal(connect, code, permanent, words) -> None:
    async def answer(frame: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(frame[:4] + b"\x00\x03\x01" + bytes((0x83, code)))

    link = await connect(answer)
    with pytest.raises(Refused, match=words) as refusal:
        await ask(link)
    assert (refusal.value.code, refusal.value.permanent) == (code, permanent)
    assert link.connected


# ---------------------------------------------------------------- late answers


async def test_the_late_answer_of_a_timed_out_transaction_is_dropped(connect: Connect) -> None:
    held: list[bytes] = []

    async def answer(frame: bytes, writer: asyncio.StreamWriter) -> None:
        if not held:
            held.append(registers(frame, 111))
            return
        writer.write(held[0] + registers(frame, 222))

    link = await connect(answer, timeout_s=0.4)
    with pytest.raises(NoAnswer):
        await ask(link)
    assert await ask(link) == (222,)
    assert link.late_dropped == 1
    assert link.connected


async def test_a_late_answer_is_dropped_once_and_its_copy_is_unasked(connect: Connect) -> None:
    held: list[bytes] = []

    async def answer(frame: bytes, writer: asyncio.StreamWriter) -> None:
        if not held:
            held.append(registers(frame, 111))
            return
        writer.write(held[0] + held[0])

    link = await connect(answer, timeout_s=0.4)
    with pytest.raises(NoAnswer):
        await ask(link)
    with pytest.raises(Garbled):
        await ask(link)


async def test_a_peer_that_never_answers_is_given_up(connect: Connect) -> None:
    async def answer(frame: bytes, writer: asyncio.StreamWriter) -> None:
        pass

    link = await connect(answer, timeout_s=0.05)
    for _ in range(modbus_link.SILENT_MAX):
        assert link.connected
        with pytest.raises(NoAnswer):
            await ask(link)
    with pytest.raises(NotConnected, match="given up"):
        await ask(link)


async def test_cancelled_requests_without_an_answer_are_bounded(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modbus_link, "LATE_MAX", 5)

    async def answer(frame: bytes, writer: asyncio.StreamWriter) -> None:
        pass

    link = await connect(answer)
    for _ in range(6):
        assert link.connected
        waiting = asyncio.create_task(ask(link))
        await asyncio.sleep(0.005)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert not link.connected


async def test_transaction_numbers_wrap_and_skip_the_ones_still_owed() -> None:
    bank = RegisterBank()
    server = ModbusServer(bank)
    port = await server.start()
    link = await open_link("127.0.0.1", port, 0.4, 1, SystemClock())
    try:
        link._number = 0xFFFD
        server.faults.silent = True
        with pytest.raises(NoAnswer):
            await ask(link)  # number 0xFFFE is owed from now on
        server.faults.clear()
        for number in (0xFFFF, 0x0000, 0x0001):
            await ask(link)
            assert link._number == number
        link._number = 0xFFFD
        await ask(link)
        assert link._number == 0xFFFF
    finally:
        link.close()
        await server.stop()


async def test_a_name_that_is_no_name_is_no_connection() -> None:
    for host in ("\x00", "a" * 70 + ".example", "no such host", "256.256.256.256"):
        with pytest.raises(NotConnected):
            await open_link(host, 502, 2.0, 1, SystemClock())
