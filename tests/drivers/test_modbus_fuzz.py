"""The Modbus TCP client against a peer that sends anything, cut anywhere, in any order."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.errors import DriverError, Garbled, NoAnswer, NotConnected, Refused
from drivers.modbus.link import LATE_MAX
from tests.drivers.modbus_wire import Reader, Wire, answer, blocks_of, exception, first_of

BLOCKS = 12
REGISTERS = (1, 4, 60, 2)
CYCLE = blocks_of(BLOCKS, REGISTERS)


def other_number(frame: bytes) -> bytes:
    return bytes((frame[0] ^ 0x55,)) + frame[1:]


def other_unit(frame: bytes) -> bytes:
    return frame[:6] + bytes((frame[6] ^ 1,)) + frame[7:]


def longer(frame: bytes) -> bytes:
    return frame[:4] + struct.pack(">H", len(frame) - 4) + frame[6:] + b"\x00\x01"


def shorter(frame: bytes) -> bytes:
    return frame[:4] + struct.pack(">H", max(0, len(frame) - 8)) + frame[6:-2]


def hostile_length(frame: bytes) -> bytes:
    return frame[:4] + b"\xff\xff" + frame[6:]


SPOILERS: dict[str, Callable[[bytes], bytes]] = {
    "number": other_number,
    "unit": other_unit,
    "longer": longer,
    "shorter": shorter,
    "length": hostile_length,
}

# (what happens, which of the requests that wait, bytes)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("answer"), st.integers(0, 15), st.just(b"")),
        st.tuples(st.just("answer"), st.just(0), st.just(b"")),
        st.tuples(st.just("next"), st.integers(0, 15), st.just(b"")),
        st.tuples(st.just("refuse"), st.integers(0, 15), st.just(b"")),
        st.tuples(st.just("forget"), st.integers(0, 15), st.just(b"")),
        st.tuples(st.just("time"), st.just(0), st.just(b"")),
        st.tuples(st.just("again"), st.integers(0, 15), st.just(b"")),
        st.tuples(st.just("ask"), st.just(0), st.just(b"")),
        st.tuples(st.sampled_from(sorted(SPOILERS)), st.integers(0, 15), st.just(b"")),
        st.tuples(st.just("hold"), st.integers(0, 30), st.just(b"")),
        st.tuples(st.just("bytes"), st.just(0), st.binary(max_size=40)),
    ),
    max_size=30,
)
TAME = st.lists(
    st.tuples(
        st.sampled_from(("answer", "next", "next", "refuse", "forget", "time", "ask", "hold")),
        st.integers(0, 15),
        st.just(b""),
    ),
    max_size=40,
)


class Peer:
    """Does what a list of steps says, and remembers what it did to whom."""

    def __init__(self, wire: Wire, cuts: list[int]) -> None:
        self.wire = wire
        self.refused: set[int] = set()
        self.answered: list[bytes] = []
        self.asked: list[asyncio.Task[bytes]] = []
        self._cuts = cuts
        self._cut = 0
        self._held = b""
        self._hold = 0  # so many bytes of what is sent next stay back until something follows

    def step(self, what: str, which: int, data: bytes) -> None:
        wire = self.wire
        if what == "time":
            wire.pass_time(0.6)
        elif what == "hold":
            self._hold = which
        elif what == "ask":
            pdu = b"\x06\x00\x07" + len(self.asked).to_bytes(2, "big")
            ask = wire.link.ask(1, pdu, len(pdu), pdu)
            self.asked.append(asyncio.get_running_loop().create_task(ask))
        elif what == "bytes":
            self.push(data)
        elif what == "again" and self.answered:
            self.push(self.answered[which % len(self.answered)])
        elif what != "again" and wire.requests:
            request = wire.requests.pop(0 if what == "next" else which % len(wire.requests))
            if what == "refuse":
                self.refused.add(first_of(request))
                self.push(exception(request, 2))
            elif what != "forget":
                frame = request if request[7] == 6 else answer(request)
                self.answered.append(frame)
                self.push(SPOILERS[what](frame) if what in SPOILERS else frame)

    def push(self, data: bytes) -> None:
        """Send in pieces, of the sizes in `cuts`; 0 = what is left."""
        data, self._held = self._held + data, b""
        if self._hold:
            data, self._held = data[: -self._hold], data[-self._hold :]
            self._hold = 0
        while data:
            size = self._cuts[self._cut % len(self._cuts)] or len(data)
            self._cut += 1
            self.wire.push(data[:size])
            data = data[size:]


async def play(depth: int, steps: list[tuple[str, int, bytes]], cuts: list[int]) -> dict[str, Any]:
    wire = Wire(depth)
    peer = Peer(wire, cuts)
    reader = Reader(wire.link, CYCLE)
    for step in steps:
        await wire.settle()
        peer.step(*step)
        assert len(wire.link._buffer) < 260
        assert len(wire.link._late) <= LATE_MAX
        assert wire.link._in_flight <= depth
    await wire.settle()
    ended = not wire.link.connected
    wire.link.close()
    async with asyncio.timeout(10):
        await reader.task
        await asyncio.gather(*peer.asked, return_exceptions=True)
    return {"reader": reader, "peer": peer, "ended": ended}


def judge(reader: Reader, peer: Peer) -> None:
    """Each block is at most once in a part, in order, and only with what was sent in its name."""
    block = 0
    for part in reader.parts:
        assert part.first == block < part.last
        block = part.last
        if part.error is not None:
            assert part.last == part.first + 1
            assert len(part.values) == 0
            assert isinstance(part.error, Refused | NoAnswer)
            assert isinstance(part.error, NoAnswer) or 100 * part.first in peer.refused
            continue
        expected = []
        for at in range(part.first, part.last):
            count = REGISTERS[at % len(REGISTERS)]
            expected += [1000.0 + 100 * at + i for i in range(count)]
        assert part.values.tolist() == expected
    assert block == BLOCKS or isinstance(reader.end, NotConnected | Garbled)


def judge_asked(asked: list[asyncio.Task[bytes]]) -> list[BaseException]:
    """Single requests end with their own echo or a DriverError; returns the errors."""
    errors = []
    for number, task in enumerate(asked):
        error = task.exception()
        if error is None:
            assert task.result() == b"\x06\x00\x07" + number.to_bytes(2, "big")
        else:
            assert isinstance(error, DriverError)
            errors.append(error)
    return errors


CUTS = st.lists(st.integers(0, 30), min_size=1, max_size=5)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from((1, 4, 16)), STEPS, CUTS)
def test_each_request_ends_as_itself_whatever_a_peer_sends(depth, steps, cuts) -> None:
    played = asyncio.run(play(depth, steps, cuts))
    judge(played["reader"], played["peer"])
    judge_asked(played["peer"].asked)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from((1, 4, 16)), TAME, CUTS)
def test_a_peer_that_keeps_the_protocol_is_never_accused(depth, steps, cuts) -> None:
    """Out of order, late, refusing and silent is within it; silence or half a frame may end it."""
    played = asyncio.run(play(depth, steps, cuts))
    reader, peer = played["reader"], played["peer"]
    judge(reader, peer)
    stalled = "half a frame" in str(reader.end)
    assert not isinstance(reader.end, Garbled) or stalled
    if played["ended"]:
        assert stalled or "given up" in str(reader.end or "given up")
    errors = judge_asked(peer.asked)
    assert stalled or not any(isinstance(error, Garbled) for error in errors)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.binary(max_size=300), max_size=6))
def test_random_bytes_end_the_connection_or_wait(pieces) -> None:
    played = asyncio.run(play(4, [("bytes", 0, piece) for piece in pieces], [0]))
    reader = played["reader"]
    judge(reader, played["peer"])
    assert reader.parts == []
