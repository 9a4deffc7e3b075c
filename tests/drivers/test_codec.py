"""The codec against vectors worked out by hand from IEEE 754 and two's complement."""

from __future__ import annotations

import math
import struct
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.model import Channel
from drivers.codec import (
    NUMBERS,
    Coding,
    coding_of,
    encode,
    field_masks,
    insert_bits,
    register_bits,
    words_of,
)
from drivers.errors import Garbled, OutOfRange
from drivers.modbus.decoder import BitDecoder, RegisterDecoder

ORDERS = list(product(("Big", "Little"), repeat=2))
INTEGERS = [name for name in NUMBERS if "int" in name]


def decode(coding: Coding, *registers: int) -> float:
    data = struct.pack(f">{len(registers)}H", *registers)
    (value,) = RegisterDecoder([coding], [0], len(registers))(data)
    return float(value)


# 1.0 is sign 0, exponent bias, mantissa 0; -2.5 is -1.25 * 2^1; 0.1 is the nearest binary fraction.
VECTORS = [
    ("float16", (0x3C00,), 1.0),
    ("float16", (0xC100,), -2.5),
    ("float16", (0x7BFF,), 65504.0),  # the largest half
    ("float16", (0x0001,), 2.0**-24),  # the smallest subnormal half
    ("float32", (0x3F80, 0x0000), 1.0),
    ("float32", (0xC020, 0x0000), -2.5),
    ("float32", (0x3DCC, 0xCCCD), 0.10000000149011612),
    ("float32", (0x7F7F, 0xFFFF), 3.4028234663852886e38),
    ("float64", (0x3FF0, 0, 0, 0), 1.0),
    ("float64", (0xC004, 0, 0, 0), -2.5),
    ("float64", (0x3FB9, 0x9999, 0x9999, 0x999A), 0.1),
    ("int16", (0xFFFF,), -1.0),
    ("int16", (0x8000,), -32768.0),
    ("uint16", (0xFFFF,), 65535.0),
    ("int32", (0xFFFF, 0xFFFE), -2.0),
    ("int32", (0x0001, 0x0000), 65536.0),
    ("uint32", (0xFFFF, 0xFFFF), 4294967295.0),
    ("int64", (0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF), -1.0),
    ("int64", (0x0000, 0x0001, 0x0000, 0x0000), 4294967296.0),
    ("uint64", (0x0020, 0x0000, 0x0000, 0x0000), 2.0**53),
]


@pytest.mark.parametrize(("data_type", "registers", "value"), VECTORS)
def test_a_value_has_the_registers_of_its_standard(
    data_type: str, registers: tuple[int, ...], value: float
) -> None:
    coding = Coding(data_type, len(registers))
    assert decode(coding, *registers) == value
    assert encode(coding, value) == registers


# 0x12345678 in the four orders; ABCD, CDAB, BADC, DCBA in data sheets.
@pytest.mark.parametrize(
    ("byte_order", "word_order", "registers"),
    [
        ("Big", "Big", (0x1234, 0x5678)),
        ("Big", "Little", (0x5678, 0x1234)),
        ("Little", "Big", (0x3412, 0x7856)),
        ("Little", "Little", (0x7856, 0x3412)),
    ],
)
def test_the_four_orders_of_a_32_bit_number(byte_order, word_order, registers) -> None:
    coding = Coding("uint32", 2, byte_order, word_order)
    assert decode(coding, *registers) == 0x12345678
    assert encode(coding, 0x12345678) == registers


def test_four_registers_in_little_word_order_are_reversed_whole() -> None:
    coding = Coding("uint64", 4, "Big", "Little")
    assert encode(coding, 0x0001_0002_0003_0004) == (4, 3, 2, 1)


def test_hex_of_three_registers_is_one_unsigned_number() -> None:
    assert decode(Coding("hex", 3), 0x0001, 0x0000, 0x0002) == 2**32 + 2
    assert encode(Coding("hex", 3), 2**32 + 2) == (1, 0, 2)


def test_a_bool_is_any_register_that_is_not_zero() -> None:
    assert decode(Coding("bool", 1), 0x0000) == 0
    assert decode(Coding("bool", 1), 0x0100) == 1
    assert decode(Coding("bool", 2), 0x0000, 0x8000) == 1
    assert encode(Coding("bool", 2), 1.0) == (0, 1)


@pytest.mark.parametrize(
    ("start", "end", "registers", "value"),
    [
        (0, 0, (0x0001,), 1),
        (15, 15, (0x8000,), 1),
        (4, 7, (0x00A0,), 10),
        (0, 15, (0xBEEF,), 0xBEEF),
        (16, 16, (0x0001, 0x0000), 1),
        (12, 19, (0x000A, 0xB000), 0xAB),
    ],
)
def test_a_bit_field_counts_from_the_lowest_bit(start, end, registers, value) -> None:
    coding = Coding("bit", len(registers), bit_start=start, bit_end=end)
    assert decode(coding, *registers) == value
    assert insert_bits(coding, (0,) * len(registers), value) == registers


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 0xFFFF), min_size=1, max_size=4),
    st.sampled_from(ORDERS),
    st.data(),
)
def test_writing_a_bit_field_changes_no_other_bit(registers, orders, data) -> None:
    bits = 16 * len(registers)
    start = data.draw(st.integers(0, bits - 1))
    end = data.draw(st.integers(start, min(bits - 1, start + 30)))
    value = data.draw(st.integers(0, (1 << end - start + 1) - 1))
    coding = Coding("bit", len(registers), *orders, bit_start=start, bit_end=end)
    written = insert_bits(coding, registers, value)
    assert decode(coding, *written) == value
    mask = set(register_bits(coding))
    assert len(mask) == end - start + 1
    for place, (old, new) in enumerate(zip(registers, written, strict=True)):
        changed = {16 * place + bit for bit in range(16) if (old ^ new) >> bit & 1}
        assert changed <= mask


@settings(deadline=None)
@given(st.integers(0, 0xFFFF), st.sampled_from(("Big", "Little")), st.data())
def test_a_mask_write_does_what_read_change_write_does(register, byte_order, data) -> None:
    start = data.draw(st.integers(0, 15))
    end = data.draw(st.integers(start, 15))
    value = data.draw(st.integers(0, (1 << end - start + 1) - 1))
    coding = Coding("bit", 1, byte_order, bit_start=start, bit_end=end)
    keep, put = field_masks(coding, value)
    # The formula of function 22: (current AND keep) OR (put AND (NOT keep)).
    assert ((register & keep) | (put & ~keep & 0xFFFF),) == insert_bits(coding, (register,), value)


# ---------------------------------------------------------------- round trips


@pytest.mark.parametrize("orders", ORDERS)
@pytest.mark.parametrize("data_type", INTEGERS)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_every_integer_comes_back_as_written(data_type, orders, data) -> None:
    words = NUMBERS[data_type][1]
    bits = min(16 * words, 53)  # a float64 holds every whole number up to 2^53
    low = -(1 << bits - 1) if data_type.startswith("int") else 0
    value = float(data.draw(st.integers(low, low + (1 << bits) - 1)))
    coding = Coding(data_type, words, *orders)
    assert decode(coding, *encode(coding, value)) == value


@pytest.mark.parametrize("orders", ORDERS)
@pytest.mark.parametrize(
    ("data_type", "width"), [("float16", 16), ("float32", 32), ("float64", 64)]
)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_every_float_comes_back_as_written(data_type, width, orders, data) -> None:
    value = data.draw(st.floats(width=width, allow_nan=False, allow_infinity=False))
    coding = Coding(data_type, width // 16, *orders)
    assert decode(coding, *encode(coding, value)) == value


@settings(deadline=None)
@given(
    st.integers(-32768, 32767),
    st.sampled_from((1.0, 0.1, 0.01, 0.001, 2.0, -0.5, 3.7)),
    st.sampled_from((0.0, 10.0, -273.15, 0.5)),
)
def test_a_scaled_register_is_written_back_as_it_was_read(raw, scalar, offset) -> None:
    coding = Coding("int16", 1, scalar=scalar, offset=offset)
    value = decode(coding, raw & 0xFFFF)
    assert value == (raw + offset) * scalar
    assert encode(coding, value) == (raw & 0xFFFF,)


# ---------------------------------------------------------------- scaling


def test_the_offset_is_added_before_the_scalar_multiplies() -> None:
    assert decode(Coding("int16", 1, scalar=0.1, offset=5.0), 100) == pytest.approx(10.5)


@settings(deadline=None)
@given(st.floats(-1e9, 1e9, width=32), st.integers(0, 6))
def test_decimal_rounds_like_python_to_within_the_half_way_case(value, decimal) -> None:
    coding = Coding("float32", 2, decimal=decimal)
    rounded = decode(coding, *encode(coding, value))
    assert abs(rounded - value) <= 0.5 * 10.0**-decimal + 1e-9 * abs(value)
    assert rounded == pytest.approx(round(value, decimal), abs=1.001 * 10.0**-decimal)
    assert round(rounded, decimal) == rounded


def test_no_decimal_means_no_rounding_and_zero_means_whole_numbers() -> None:
    registers = encode(Coding("float32", 2), 2.75)
    assert decode(Coding("float32", 2), *registers) == 2.75
    assert decode(Coding("float32", 2, decimal=0), *registers) == 3.0


def test_a_number_too_large_to_round_stays_as_it_is() -> None:
    coding = Coding("float64", 4, decimal=15)
    assert decode(coding, *encode(coding, 1e300)) == 1e300


def test_hex_bool_and_bit_are_never_scaled_and_int32_is() -> None:
    loud = {"scalar": 10.0, "offset": 5.0, "decimal": 0}
    assert decode(Coding("hex", 1, **loud), 7) == 7
    assert decode(Coding("bool", 1, **loud), 7) == 1
    assert decode(Coding("bit", 1, bit_start=0, bit_end=2, **loud), 7) == 7
    assert decode(Coding("int32", 2, **loud), 0, 7) == 120
    assert encode(Coding("hex", 1, **loud), 7) == (7,)


def test_an_infinite_product_is_no_value() -> None:
    assert math.isnan(decode(Coding("float32", 2, scalar=1e300), 0x7F7F, 0xFFFF))


# ---------------------------------------------------------------- no value


@pytest.mark.parametrize(
    ("data_type", "registers"),
    [
        ("float32", (0x7FC0, 0x0000)),  # quiet NaN
        ("float32", (0x7F80, 0x0001)),  # signalling NaN
        ("float32", (0x7F80, 0x0000)),  # infinity
        ("float32", (0xFF80, 0x0000)),
        ("float16", (0x7E00,)),
        ("float64", (0x7FF0, 0, 0, 0)),
    ],
)
def test_nan_and_infinity_of_the_device_are_no_value(data_type, registers) -> None:
    assert math.isnan(decode(Coding(data_type, len(registers)), *registers))


@pytest.mark.parametrize(
    ("data_type", "sentinel", "registers"),
    [
        ("int16", -32768.0, (0x8000,)),
        ("int16", 32768.0, (0x8000,)),  # the same register as data sheets print it
        ("uint16", 65535.0, (0xFFFF,)),
        ("int32", 2147483648.0, (0x8000, 0x0000)),
        ("uint32", 4294967295.0, (0xFFFF, 0xFFFF)),
        ("float32", -999.9, (0xC479, 0xF99A)),  # no float64 -999.9, but the nearest float32
        ("hex", 65535.0, (0xFFFF,)),
        ("int64", -9223372036854775808.0, (0x8000, 0, 0, 0)),
    ],
)
def test_a_sentinel_is_no_value_whatever_the_scaling_is(data_type, sentinel, registers) -> None:
    scaled = {"scalar": 0.1, "offset": 3.0, "decimal": 1}
    coding = Coding(data_type, len(registers), sentinels=(7.0, sentinel), **scaled)
    assert math.isnan(decode(coding, *registers))
    assert not math.isnan(decode(coding, *[0] * len(registers)))


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("coding", "value"),
    [
        (Coding("int16", 1), 32768.0),
        (Coding("int16", 1), -32769.0),
        (Coding("uint16", 1), -1.0),
        (Coding("uint16", 1), 65536.0),
        (Coding("int16", 1, scalar=0.01), 327.68),
        (Coding("uint32", 2), 2.0**32),
        (Coding("int64", 4), 2.0**63),
        (Coding("uint64", 4), 2.0**64),
        (Coding("float16", 1), 65520.0),  # rounds to infinity
        (Coding("float32", 2), 3.5e38),
        (Coding("float64", 4, scalar=1e-300), 1e300),
        (Coding("int16", 1, scalar=0.0), 1.0),
        (Coding("bool", 1), 2.0),
        (Coding("bool", 1), 0.5),
        (Coding("hex", 1), 65536.0),
        (Coding("hex", 1), 1.5),
        (Coding("hex", 1), -1.0),
        *[(Coding(t, NUMBERS[t][1]), bad) for t in NUMBERS for bad in (math.nan, math.inf)],
        (Coding("bool", 1), math.nan),
        (Coding("hex", 1), math.inf),
    ],
)
def test_what_does_not_fit_is_refused_and_never_wraps(coding, value) -> None:
    with pytest.raises(OutOfRange):
        encode(coding, value)


@pytest.mark.parametrize("value", [4.0, -1.0, 0.5, math.nan, math.inf])
def test_what_does_not_fit_a_bit_field_is_refused(value) -> None:
    coding = Coding("bit", 1, bit_start=3, bit_end=4)
    with pytest.raises(OutOfRange):
        insert_bits(coding, (0,), value)
    with pytest.raises(OutOfRange):
        field_masks(coding, value)


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x00" * 3, b"\x00" * 5, b"\x00" * 6])
def test_an_answer_of_another_length_is_garbled(data) -> None:
    with pytest.raises(Garbled):
        RegisterDecoder([Coding("float32", 2)], [0], 2)(data)


def test_bits_of_another_length_are_garbled() -> None:
    with pytest.raises(Garbled):
        BitDecoder([0], 9)(b"\x01")


@pytest.mark.parametrize("mark", [65535.0, -1.0])
@pytest.mark.parametrize("data_type", ["int16", "uint16", "hex"])
def test_a_sentinel_may_be_written_with_or_without_sign(data_type, mark) -> None:
    decoded = decode(Coding(data_type, 1, sentinels=(mark,)), 0xFFFF)
    assert math.isnan(decoded)


# ---------------------------------------------------------------- whole blocks


@settings(deadline=None)
@given(st.data())
def test_a_block_decodes_each_value_as_if_it_stood_alone(data) -> None:
    codings, registers, places = [], [], []
    for _ in range(data.draw(st.integers(1, 12))):
        data_type = data.draw(st.sampled_from((*NUMBERS, "hex", "bool", "bit")))
        words = NUMBERS[data_type][1] if data_type in NUMBERS else data.draw(st.integers(1, 4))
        start = data.draw(st.integers(0, 16 * words - 1))
        codings.append(
            Coding(
                data_type,
                words,
                data.draw(st.sampled_from(("Big", "Little"))),
                data.draw(st.sampled_from(("Big", "Little"))),
                bit_start=start,
                bit_end=data.draw(st.integers(start, 16 * words - 1)),
                scalar=data.draw(st.sampled_from((1.0, 0.1, -3.0))),
                offset=data.draw(st.sampled_from((0.0, 12.5))),
                decimal=data.draw(st.sampled_from((None, 0, 2))),
                sentinels=data.draw(st.sampled_from(((), (0.0,), (65535.0,)))),
            )
        )
        registers += [0] * data.draw(st.integers(0, 2))  # a gap
        places.append(len(registers))
        registers += data.draw(st.lists(st.integers(0, 0xFFFF), min_size=words, max_size=words))
    packed = struct.pack(f">{len(registers)}H", *registers)
    together = RegisterDecoder(codings, places, len(registers))(packed)
    assert not np.isinf(together).any()
    alone = [
        decode(coding, *registers[place : place + coding.words])
        for coding, place in zip(codings, places, strict=True)
    ]
    np.testing.assert_array_equal(together, alone)


def test_bits_are_taken_from_their_places() -> None:
    # 0b00000101, 0b00000010: bits 0, 2 and 9 are set
    np.testing.assert_array_equal(BitDecoder([9, 0, 1, 2], 10)(b"\x05\x02"), [1, 1, 0, 1])


# ---------------------------------------------------------------- from the configuration


def test_a_channel_says_its_registers_or_its_type_does() -> None:
    assert words_of(Channel(DataType="float32")) == 2
    assert words_of(Channel(DataType="HEX")) == 1
    assert words_of(Channel(DataType="HEX", Registers=2)) == 2
    assert words_of(Channel(DataType="bit", BitStart=3, BitEnd=18)) == 2
    assert words_of(Channel(DataType="bit", BitStart=17)) == 2
    assert words_of(Channel(DataType="text")) is None


def test_a_channel_overrides_the_orders_of_its_instrument() -> None:
    coding = coding_of(Channel(DataType="float32", WordOrder="Little"), "Little", "Big")
    assert (coding.byte_order, coding.word_order) == ("Little", "Little")
    assert coding_of(Channel(DataType="bit", BitStart=4), "Big", "Big").bit_end == 4
