"""Reading whole cycles: what is sent when, what is handed over, and in whose name."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from drivers.errors import Garbled, NoAnswer, NotConnected, Refused
from drivers.modbus import cycle as modbus_cycle
from drivers.modbus import link as modbus_link
from tests.drivers.modbus_wire import Reader, Wire, answer, blocks_of, exception, first_of


async def done(reader: Reader) -> None:
    async with asyncio.timeout(10):
        await reader.task


async def parts(reader: Reader, count: int) -> None:
    async with asyncio.timeout(10):
        while len(reader.parts) < count:
            await asyncio.sleep(0.001)


# ---------------------------------------------------------------- the plain way


@pytest.mark.parametrize("depth", [1, 3, 16])
async def test_answers_in_order_become_values_in_order(depth: int) -> None:
    wire = Wire(depth)
    cycle = blocks_of(20, (1, 3, 2))
    for _ in range(3):
        reader = Reader(wire.link, cycle)
        while not reader.task.done():
            await wire.settle()
            assert len(wire.requests) <= depth
            wire.push(*(answer(request) for request in wire.requests[:depth]))
            del wire.requests[:depth]
        assert reader.values == [
            1000.0 + 100 * b + i for b in range(20) for i in range((1, 3, 2)[b % 3])
        ]
        assert reader.spans[-1][1] == 20
    assert wire.sent == 60


async def test_the_next_request_leaves_with_the_answer_that_makes_room() -> None:
    wire = Wire(4)
    Reader(wire.link, blocks_of(10))
    await wire.settle()
    assert [first_of(r) for r in wire.requests] == [0, 100, 200, 300]
    wire.push(answer(wire.requests[0]), answer(wire.requests[1]))
    assert [first_of(r) for r in wire.requests[4:]] == [400, 500]
    wire.link.close()


async def test_what_came_together_is_one_part_asked_when_its_oldest_was_sent() -> None:
    wire = Wire(4)
    reader = Reader(wire.link, blocks_of(6))
    await wire.settle()
    asked_ns = wire.clock.monotonic_ns()
    wire.clock.advance(1000)
    wire.push(*map(answer, wire.requests))  # the last two leave now
    wire.clock.advance(1000)
    wire.push(*map(answer, wire.requests[4:]))
    await done(reader)
    assert reader.spans == [(0, 6)]
    assert reader.parts[0].asked_ns == asked_ns


async def test_what_came_is_handed_over_although_more_is_awaited() -> None:
    wire = Wire(4)
    reader = Reader(wire.link, blocks_of(6))
    await wire.settle()
    wire.push(answer(wire.requests[0]))
    await parts(reader, 1)
    assert (reader.values, reader.spans) == ([1000.0], [(0, 1)])
    wire.clock.advance(7)
    wire.push(answer(wire.requests[2]), answer(wire.requests[1]))
    await parts(reader, 2)
    assert reader.spans == [(0, 1), (1, 3)]
    wire.link.close()


async def test_a_cycle_longer_than_a_sheet_goes_on_with_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(modbus_cycle, "SHEET_MAX", 3)
    wire = Wire(4)
    reader = Reader(wire.link, blocks_of(8))
    while not reader.task.done():
        await wire.settle()
        wire.push(*map(answer, wire.requests))
        wire.requests.clear()
    assert reader.values == [1000.0 + 100 * b for b in range(8)]
    assert reader.spans[-1] == (6, 8)


async def test_an_empty_cycle_has_no_parts() -> None:
    wire = Wire(4)
    reader = Reader(wire.link, blocks_of(0))
    await done(reader)
    assert (reader.parts, reader.end, wire.sent) == ([], None, 0)


# ---------------------------------------------------------------- however it comes


async def test_answers_may_come_in_any_order_and_any_pieces() -> None:
    wire = Wire(8)
    reader = Reader(wire.link, blocks_of(8, (2, 1)))
    await wire.settle()
    order = (0, 1, 5, 3, 2, 7, 4, 6)
    stream = b"".join(answer(wire.requests[at]) for at in order)
    for size in (5, 13, 1, 40):
        wire.push(stream[:size])
        stream = stream[size:]
    wire.push(stream)
    await done(reader)
    assert reader.values == [1000, 1001, 1100, 1200, 1201, 1300, 1400, 1401, 1500, 1600, 1601, 1700]


async def test_a_refusal_is_the_part_of_its_block_and_the_rest_is_read() -> None:
    wire = Wire(4)
    reader = Reader(wire.link, blocks_of(4))
    await wire.settle()
    one, two, three, four = wire.requests
    wire.push(answer(one), exception(two, 2), answer(three), answer(four))
    await done(reader)
    assert reader.spans == [(0, 1), (1, 2), (2, 4)]
    error = reader.parts[1].error
    assert isinstance(error, Refused)
    assert error.permanent
    assert str(error).startswith("unit 1, holding registers 100: ")
    assert reader.values == [1000.0, 1200.0, 1300.0]


async def test_silence_is_the_part_of_its_block_and_its_late_answer_is_dropped() -> None:
    wire = Wire(2)
    reader = Reader(wire.link, blocks_of(3))
    await wire.settle()
    one, two = wire.requests
    wire.pass_time(0.5)
    wire.push(answer(two))  # the third leaves
    await wire.settle()
    assert reader.parts == []
    wire.pass_time(0.6)
    await parts(reader, 2)
    assert isinstance(reader.parts[0].error, NoAnswer)
    assert reader.spans == [(0, 1), (1, 2)]
    wire.push(answer(one), answer(wire.requests[2]))
    await done(reader)
    assert reader.values == [1100.0, 1200.0]
    assert wire.link.late_dropped == 1


async def test_each_request_has_its_own_timeout() -> None:
    wire = Wire(2)
    reader = Reader(wire.link, blocks_of(4))
    await wire.settle()
    wire.pass_time(0.9)
    wire.push(answer(wire.requests[0]))  # the third leaves now
    wire.pass_time(0.2)
    await parts(reader, 2)
    assert reader.spans == [(0, 1), (1, 2)]
    assert isinstance(reader.parts[1].error, NoAnswer)
    assert [first_of(r) for r in wire.requests] == [0, 100, 200, 300]
    wire.push(answer(wire.requests[3]), answer(wire.requests[2]))
    await done(reader)
    assert reader.values == [1000.0, 1200.0, 1300.0]


async def test_many_silent_requests_end_the_connection_behind_their_parts() -> None:
    wire = Wire(2)
    reader = Reader(wire.link, blocks_of(8))
    for _ in range(2):
        await wire.settle()
        wire.pass_time(1.1)
    await done(reader)
    assert reader.spans == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert all(isinstance(part.error, NoAnswer) for part in reader.parts)
    assert isinstance(reader.end, NotConnected)
    assert wire.sent == 4


async def test_half_a_frame_that_stalls_is_garbled_and_one_that_moves_is_not() -> None:
    wire = Wire(2)
    reader = Reader(wire.link, blocks_of(3))
    await wire.settle()
    whole = answer(wire.requests[1])
    wire.pass_time(0.9)
    wire.push(whole[:8])
    wire.pass_time(0.2)  # the frame came lately: the requests are late, the stream is sound
    wire.push(whole[8:])
    await parts(reader, 2)
    assert all(isinstance(part.error, NoAnswer) for part in reader.parts)
    wire.push(answer(wire.requests[2])[:8])
    wire.pass_time(1.1)
    await done(reader)
    assert isinstance(reader.end, Garbled)
    assert "half a frame" in str(reader.end)


async def test_what_came_before_garbage_is_handed_over() -> None:
    wire = Wire(4)
    reader = Reader(wire.link, blocks_of(4))
    await wire.settle()
    wire.push(answer(wire.requests[0]), b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await done(reader)
    assert reader.values == [1000.0]
    assert isinstance(reader.end, Garbled)


@pytest.mark.parametrize("place", [2, 4, 6, 7, 8])
async def test_a_head_that_differs_in_one_byte_is_never_a_value(place: int) -> None:
    wire = Wire(2)
    reader = Reader(wire.link, blocks_of(2))
    await wire.settle()
    frame = bytearray(answer(wire.requests[0]))
    frame[place] ^= 1
    wire.push(bytes(frame), answer(wire.requests[1]))
    await done(reader)
    assert reader.values == []
    assert isinstance(reader.end, Garbled)


@pytest.mark.parametrize("code", [2, 11])
async def test_a_refusal_is_seen_at_once_where_a_long_answer_was_due(code: int) -> None:
    wire = Wire(2)
    reader = Reader(wire.link, blocks_of(3, (60, 1)))
    await wire.settle()
    frame = exception(wire.requests[0], code)
    wire.push(frame[:8])
    wire.push(frame[8:])
    await parts(reader, 1)
    assert isinstance(reader.parts[0].error, Refused)
    wire.link.close()


async def test_a_short_answer_ahead_of_a_long_one_counts_when_it_comes() -> None:
    wire = Wire(2)
    reader = Reader(wire.link, blocks_of(2, (60, 1)))
    await wire.settle()
    wire.push(answer(wire.requests[1]))
    wire.pass_time(1.1)
    await done(reader)
    assert isinstance(reader.parts[0].error, NoAnswer)
    assert reader.parts[1].values.tolist() == [1100.0]


async def test_the_echo_of_a_write_ahead_of_a_long_answer_counts_when_it_comes() -> None:
    wire = Wire(2)
    reader = Reader(wire.link, blocks_of(1, (60,)))
    await wire.settle()
    wire.push(answer(wire.requests[0])[:5])  # on its way when the write leaves
    pdu = bytes.fromhex("06 0005 0007")
    writing = asyncio.create_task(wire.link.ask(1, pdu, len(pdu), pdu))
    await wire.settle()
    wire.push(answer(wire.requests[0])[5:70])
    wire.push(answer(wire.requests[0])[70:] + wire.requests[1])
    assert await writing == pdu
    await done(reader)
    writing = asyncio.create_task(wire.link.ask(1, pdu, len(pdu), pdu))
    reader = Reader(wire.link, blocks_of(1, (60,)))
    await wire.settle()
    wire.push(wire.requests[2])
    assert await writing == pdu
    wire.push(answer(wire.requests[3]))
    await done(reader)
    assert len(reader.values) == 60


async def test_an_answer_to_what_was_not_sent_yet_is_garbled() -> None:
    wire = Wire(1)
    reader = Reader(wire.link, blocks_of(2))
    await wire.settle()
    ahead = bytearray(answer(wire.requests[0]))
    ahead[1] += 1
    wire.push(answer(wire.requests[0]) + bytes(ahead))
    await done(reader)
    assert isinstance(reader.end, Garbled)


async def test_the_copy_of_an_answer_is_garbled() -> None:
    wire = Wire(4)
    reader = Reader(wire.link, blocks_of(4))
    await wire.settle()
    wire.push(answer(wire.requests[2]), answer(wire.requests[2]))
    await done(reader)
    assert isinstance(reader.end, Garbled)


async def test_behind_a_disorder_the_stream_is_taken_in_order_again() -> None:
    wire = Wire(4)
    reader = Reader(wire.link, blocks_of(8))
    await wire.settle()
    one, two, three, four = map(answer, wire.requests)
    wire.push(two + one + three[:4])
    assert not wire.link._buffer
    wire.push(three[4:] + four)
    wire.push(*map(answer, wire.requests[4:]))
    await done(reader)
    assert reader.values == [1000.0 + 100 * b for b in range(8)]


async def test_the_timer_ends_what_was_sent_last() -> None:
    wire = Wire(2, timeout_s=0.1)
    reader = Reader(wire.link, blocks_of(3))
    await asyncio.sleep(0.03)
    wire.push(answer(wire.requests[0]))  # the third leaves, and nothing else after it
    await parts(reader, 2)
    timer = wire.link._timer
    assert timer is not None
    assert timer.when() - asyncio.get_running_loop().time() < 0.09  # of its own 0.1 s
    await done(reader)
    assert [type(part.error) for part in reader.parts] == [type(None), NoAnswer, NoAnswer]


# ---------------------------------------------------------------- beside each other


async def test_a_single_request_goes_ahead_and_its_answer_comes_between() -> None:
    wire = Wire(2)
    reader = Reader(wire.link, blocks_of(4))
    await wire.settle()
    pdu = bytes.fromhex("06 0005 0007")
    writing = asyncio.create_task(wire.link.ask(1, pdu, len(pdu), pdu))
    await wire.settle()
    assert len(wire.requests) == 2
    wire.push(answer(wire.requests[0])[:5])
    wire.push(answer(wire.requests[0])[5:])
    assert [r[7] for r in wire.requests] == [3, 3, 6]
    echo = wire.requests[2]
    wire.push(answer(wire.requests[1]) + echo[:4])
    wire.push(echo[4:])
    assert await writing == pdu
    wire.push(answer(wire.requests[3]), answer(wire.requests[4]))
    await done(reader)
    assert reader.values == [1000.0, 1100.0, 1200.0, 1300.0]


async def test_a_reading_inside_a_reading_goes_first() -> None:
    wire = Wire(2)
    cycle = blocks_of(5)
    outer = Reader(wire.link, cycle)
    await wire.settle()
    inner = Reader(wire.link, cycle)  # the same one: it gets a buffer of its own
    await wire.settle()
    assert [first_of(r) for r in wire.requests] == [0, 100]
    answered = 0
    asked: list[int] = []
    while not (inner.task.done() and outer.task.done()):
        due = wire.requests[answered:]
        asked += map(first_of, due)
        wire.push(*(answer(request, answered + at) for at, request in enumerate(due)))
        answered += len(due)
        await asyncio.sleep(0.001)
    assert asked == [0, 100, 0, 100, 200, 300, 400, 200, 300, 400]
    assert inner.values == [2, 3, 4, 5, 6]
    assert outer.values == [0, 1, 7, 8, 9]


async def test_an_answer_that_began_before_another_reading_is_still_taken() -> None:
    wire = Wire(4)
    outer = Reader(wire.link, blocks_of(1))
    await wire.settle()
    frame = answer(wire.requests[0])
    wire.push(frame[:7])
    inner = Reader(wire.link, blocks_of(1))
    await wire.settle()
    wire.push(frame[7:], answer(wire.requests[1], 5))
    await done(outer)
    await done(inner)
    assert (outer.values, inner.values) == ([1000.0], [5.0])


async def test_a_cycle_that_is_left_owes_its_answers_and_frees_its_buffer() -> None:
    wire = Wire(4)
    cycle = blocks_of(8)
    async with aclosing(wire.link.read(cycle)) as reading:
        first = asyncio.create_task(anext(reading))
        await wire.settle()
        wire.push(answer(wire.requests[0]), answer(wire.requests[1])[:6])
        assert (await first).values.tolist() == [1000.0]
    assert not cycle.sheets[0].in_use
    left = wire.requests[1:]
    again = Reader(wire.link, cycle)
    await wire.settle()
    fresh = wire.requests[len(left) + 1 :]
    assert [first_of(r) for r in fresh] == [0, 100, 200, 300]
    assert not {r[:2] for r in left} & {r[:2] for r in fresh}
    wire.push(answer(left[0])[6:], *(answer(r, 7) for r in left[1:]))
    assert wire.link.late_dropped == 4
    wire.push(*map(answer, fresh))
    wire.push(*map(answer, wire.requests[len(left) + 5 :]))
    await done(again)
    assert again.values == [1000.0 + 100 * b for b in range(8)]


async def test_numbers_go_round_and_never_meet_one_that_is_owed() -> None:
    wire = Wire(4)
    wire.link._number = 0xFFFE
    wire.link._late = {0: None, 2: None}
    reader = Reader(wire.link, blocks_of(4))
    await wire.settle()
    assert [int.from_bytes(r[:2], "big") for r in wire.requests] == [0xFFFF, 1, 3, 4]
    waiting = asyncio.create_task(wire.link.ask(1, b"\x03\x00\x00\x00\x01", 4, b"\x03\x02"))
    await wire.settle()
    wire.link._number = 0xFFFF
    wire.push(answer(wire.requests[0]))
    assert int.from_bytes(wire.requests[4][:2], "big") == 5
    wire.link.close()
    await done(reader)
    with pytest.raises(NotConnected):
        await waiting


async def test_no_more_single_requests_are_kept_than_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(modbus_link, "WAITING_MAX", 1)
    wire = Wire(1)
    reader = Reader(wire.link, blocks_of(2))
    await wire.settle()
    waiting = asyncio.create_task(wire.link.ask(1, b"\x03\x00\x00\x00\x01", 4, b"\x03\x02"))
    await wire.settle()
    with pytest.raises(Refused, match="waiting"):
        await wire.link.ask(1, b"\x03\x00\x00\x00\x01", 4, b"\x03\x02")
    wire.link.close()
    with pytest.raises(NotConnected):
        await waiting
    await done(reader)
