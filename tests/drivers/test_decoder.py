"""Decoding many answers at once gives what a plain decoder of one value gives, bit by bit."""

from __future__ import annotations

import math
import random
import struct

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.codec import NUMBERS, Coding
from drivers.modbus.cycle import HEAD_BYTES, ModbusCycle
from drivers.modbus.decoder import Decoder, Field
from drivers.modbus.tcp import plan
from tests.drivers.instruments import modbus


def plain(coding: Coding, data: bytes) -> float:
    """One value by struct and Python's own arithmetic; `data` are its registers as sent."""
    words = [data[i : i + 2] for i in range(0, len(data), 2)]
    if coding.byte_order == "Little":
        words = [word[::-1] for word in words]
    if coding.word_order == "Little":
        words.reverse()
    whole = b"".join(words)
    if coding.data_type in NUMBERS:
        raw = float(struct.unpack(">" + NUMBERS[coding.data_type][0], whole)[0])
    else:
        number = int.from_bytes(whole, "big")
        if coding.data_type == "bit":
            number = number >> coding.bit_start & (1 << coding.bit_end - coding.bit_start + 1) - 1
        raw = float(bool(number) if coding.data_type == "bool" else number)
        return math.nan if raw in coding.sentinels else raw
    value = (raw + coding.offset) * coding.scalar
    if coding.decimal is not None and abs(value) < 2.0**52 / 10.0**coding.decimal:
        power = 10.0**coding.decimal
        value = math.copysign(float(round(value * power)), value * power) / power
    return value if math.isfinite(value) and raw not in coding.sentinels else math.nan


def same(one: float, other: float) -> bool:
    """Equal in every bit, NaN apart."""
    if math.isnan(one) or math.isnan(other):
        return math.isnan(one) and math.isnan(other)
    return struct.pack("d", one) == struct.pack("d", other)


def codings() -> st.SearchStrategy[Coding]:
    def make(data_type: str, words: int, start: int, width: int, **rest: object) -> Coding:
        words = NUMBERS[data_type][1] if data_type in NUMBERS else words
        start = min(start, 16 * words - 1)
        end = min(start + width, 16 * words - 1)
        return Coding(data_type, words, bit_start=start, bit_end=end, **rest)  # type: ignore[arg-type]

    return st.builds(
        make,
        st.sampled_from((*NUMBERS, "hex", "bool", "bit")),
        st.integers(1, 4),
        st.integers(0, 63),
        st.integers(0, 20),
        byte_order=st.sampled_from(("Big", "Little")),
        word_order=st.sampled_from(("Big", "Little")),
        scalar=st.sampled_from((1.0, 0.1, -0.5, 1e-3, 1e300)),
        offset=st.sampled_from((0.0, 5.0, -273.15)),
        decimal=st.sampled_from((None, 0, 1, 3, 15)),
        sentinels=st.sampled_from(((), (0.0,), (1.0, 255.0))),
    )


@settings(deadline=None, max_examples=150)
@given(
    template=st.lists(codings(), min_size=1, max_size=6),
    repeats=st.integers(1, 4),
    rest=st.lists(codings(), max_size=4),
    gaps=st.lists(st.sampled_from((0, 0, 0, 3, 4)), min_size=5, max_size=5),
    overlap=st.sampled_from((0, 0, 2, 4)),
    seed=st.integers(0, 2**32),
    zeros=st.booleans(),
)
def test_any_part_of_any_layout_is_decoded_as_its_values_alone(
    template, repeats, rest, gaps, overlap, seed, zeros
) -> None:
    blocks = [template] * repeats + ([rest] if rest else [])
    fields: list[Field] = []
    starts, byte = [0], 7
    for block, gap in zip(blocks, gaps, strict=False):
        for at, coding in enumerate(block):
            # A bit field may lie in a register that another value has too.
            fields.append(Field(coding, byte - overlap if at % 2 else byte))
            byte += 0 if overlap and at % 2 else 2 * coding.words
        byte += gap + 8
        starts.append(len(fields))
    chance = random.Random(seed)
    data = bytes(
        chance.choice((0, 0, 1, 255)) if zeros else chance.randrange(256) for _ in range(byte)
    )
    decoder = Decoder(fields, starts, np.frombuffer(data + b"\0", dtype=np.uint8))
    expected = [plain(f.coding, data[f.byte : f.byte + 2 * f.coding.words]) for f in fields]
    for first in range(len(blocks)):
        for last in range(first + 1, len(blocks) + 1):
            values = decoder(first, last).tolist()
            alone = expected[starts[first] : starts[last]]
            assert len(values) == len(alone)
            for value, other, field in zip(values, alone, fields[starts[first] :], strict=False):
                assert same(value, other), field


def test_alike_blocks_are_read_as_a_table_and_others_are_not() -> None:
    real, number = Coding("float32", 2), Coding("uint16", 1)
    swapped = Coding("float32", 2, word_order="Little")
    buffer = np.zeros(1000, dtype=np.uint8)

    def tables(*blocks: list[Coding], gap: int = 1) -> list[bool]:
        fields, starts, byte = [], [0], 0
        for block in blocks:
            for coding in block:
                fields.append(Field(coding, byte))
                byte += 2 * coding.words
            starts.append(len(fields))
            byte += gap
        return [group.table is not None for group in Decoder(fields, starts, buffer)._groups]

    assert tables([real, real, number], [real, real, number]) == [True, True]
    assert tables([real, number, real], [real, number, real]) == [False, True]
    assert tables([real, real]) == [False]  # one block alone gains nothing
    assert tables([real, real], [real]) == [False]
    assert tables([swapped, swapped], [swapped, swapped]) == [False]


def test_blocks_at_other_distances_are_not_alike() -> None:
    real = Coding("float32", 2)
    data = struct.pack(">fxfxxf", 1.0, 2.0, 3.0) + b"\0"
    decoder = Decoder(
        [Field(real, at) for at in (0, 5, 11)], [0, 1, 2, 3], np.frombuffer(data, "u1")
    )
    assert decoder(0, 3).tolist() == [1.0, 2.0, 3.0]


def test_a_bit_between_two_floats_parts_their_run() -> None:
    real, bit = Coding("float32", 2), Coding("bit", 1)
    fields = [Field(c, 8 * b + at) for b in (0, 1) for c, at in ((real, 0), (bit, 2), (real, 4))]
    data = struct.pack(">4f", 1.0, 2.0, 3.0, 4.0) + b"\0"
    decoder = Decoder(fields, [0, 3, 6], np.frombuffer(data, "u1"))
    assert decoder(0, 2).tolist() == [1.0, 0.0, 2.0, 3.0, 0.0, 4.0]


def test_a_negative_zero_is_a_plain_one() -> None:
    fields = [Field(Coding("float32", 2), 0), Field(Coding("int16", 1, scalar=0.5), 0)]
    values = Decoder(fields[:1], [0, 1], np.frombuffer(b"\x80\0\0\0\0", "u1"))(0, 1)
    assert same(float(values[0]), 0.0)


def test_a_cycle_of_registers_and_bits_is_decoded_from_its_buffer() -> None:
    keys = {"Type": "HRegister", "DataType": "int16"}
    channels = {f"R{i}": keys | {"IOPoint": 10 * i} for i in range(3)}
    channels |= {f"C{i}": {"Type": "Coil", "IOPoint": i} for i in (0, 9, 10)}
    (sheet,) = ModbusCycle(plan(modbus(channels, GapMax=8))).sheets
    assert [r.size for r in sheet.requests] == [2, 2, 2, 2]
    for at, payload in enumerate((b"\xff\xff", b"\0\x07", b"\x01\0", b"\x01\x04")):
        place = sheet.places[at] + HEAD_BYTES
        sheet.buffer[place : place + 2] = payload
    assert sheet.decode(0, 4).tolist() == [-1.0, 7.0, 256.0, 1.0, 0.0, 1.0]
    assert sheet.decode(1, 3).tolist() == [7.0, 256.0]
    assert sheet.decode(3, 4).tolist() == [1.0, 0.0, 1.0]
