"""Modbus RTU frames: the answer among what a line brings, questions that can't be mistaken."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pymodbus.framer import FramerRTU

from drivers.modbus.rtu_frame import Expected, LineSettings, crc16, frame, guard_of


def test_the_checksum_is_that_of_the_specification() -> None:
    assert frame(1, bytes.fromhex("0300 0000 0a")) == bytes.fromhex("0103 0000 000a c5cd")


@given(st.binary(max_size=300))
def test_the_checksum_is_that_of_pymodbus(data: bytes) -> None:
    assert crc16(data) == FramerRTU.compute_CRC(data).to_bytes(2, "big")


@pytest.mark.parametrize(
    ("settings", "character_ms", "silence_ms"),
    [
        (LineSettings("a", 19_200, "E", 1), 11 / 19.2, 3.5 * 11 / 19.2),
        (LineSettings("a", 9_600, "N", 1), 10 / 9.6, 3.5 * 10 / 9.6),
        (LineSettings("a", 1_200, "O", 2), 12 / 1.2, 3.5 * 12 / 1.2),
        (LineSettings("a", 115_200, "N", 1), 10 / 115.2, 1.75),
    ],
)
def test_a_byte_and_a_silence_take_their_time(
    settings: LineSettings, character_ms: float, silence_ms: float
) -> None:
    assert settings.character_s * 1000 == pytest.approx(character_ms)
    assert settings.silence_s * 1000 == pytest.approx(silence_ms)


@given(
    before=st.binary(max_size=40),
    data=st.binary(min_size=4, max_size=4),
    behind=st.binary(max_size=8),
)
def test_the_answer_is_found_among_noise(before: bytes, data: bytes, behind: bytes) -> None:
    expected = Expected(7, 6, b"\x03\x04")
    answer = frame(7, b"\x03\x04" + data)
    found = expected.find(before + answer + behind)
    # Noise may hold a frame by itself, one time in 2^40.
    assert found in (answer, expected.find(before + answer[:-1]))
    assert found


@given(st.binary(max_size=600))
@example(frame(7, b"\x03\x02\x00\x01"))  # another length
@example(frame(8, b"\x03\x04\x00\x01\x00\x02"))  # another unit
@example(frame(7, b"\x04\x04\x00\x01\x00\x02"))  # another function
@example(frame(7, b"\x04\x81"))  # the refusal of another function
@example(frame(7, b"\x03\x04\x00\x01\x00\x02")[:-1] + b"\x00")  # another checksum
@example(frame(7, b"\x03\xff" + bytes(255)))  # a hostile length
def test_nothing_else_is_an_answer(data: bytes) -> None:
    found = Expected(7, 6, b"\x03\x04").find(data)
    assert found == b"" or (found[0] == 7 and crc16(found[:-2]) == found[-2:])
    assert len(found) in (0, 5, 9)
    if len(found) == 9:
        assert found[1:3] == b"\x03\x04"
    elif found:
        assert found[1] == 0x83


def test_a_refusal_is_found() -> None:
    refusal = frame(7, b"\x83\x02")
    assert Expected(7, 6, b"\x03\x04").find(b"\x00" + refusal) == refusal


def test_an_answer_in_parts_is_found_when_it_is_whole() -> None:
    expected, answer = Expected(1, 6, b"\x03\x04"), frame(1, b"\x03\x04abcd")
    found = [expected.find(answer[:end]) for end in range(len(answer) + 1)]
    assert found == [b""] * len(answer) + [answer]


@given(
    function=st.integers(1, 4),
    first=st.integers(0, 65_535),
    count=st.integers(1, 125),
    owed=st.lists(st.integers(1, 250), max_size=16),
)
def test_a_guard_has_an_answer_of_its_own(
    function: int, first: int, count: int, owed: list[int]
) -> None:
    count = min(count, 65_536 - first)
    size = (count + 7) // 8 if function < 3 else 2 * count
    missing = {bytes((function, size)), *(bytes((function, other)) for other in owed)}
    guard = guard_of(struct.pack(">BHH", function, first, count), missing)
    if guard is None:
        assert first > 65_000  # nowhere else is there no room
        return
    pdu, opening = guard
    asked, at, other = struct.unpack(">BHH", pdu)
    assert (asked, at) == (function, first)
    assert at + other <= 65_536
    assert 1 <= other <= (2000 if function < 3 else 125)
    assert opening == bytes((function, (other + 7) // 8 if function < 3 else 2 * other))
    assert opening not in missing


@pytest.mark.parametrize("function", [5, 6, 16, 22])
def test_a_write_has_no_guard(function: int) -> None:
    assert guard_of(bytes((function, 0, 1, 0, 2)), ()) is None
