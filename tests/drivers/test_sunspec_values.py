"""SunSpec values: properties of reading and writing, and a fuzz of the decoder."""

from __future__ import annotations

import math
import struct

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from config.model import Channel
from drivers.errors import DriverError, Garbled, OutOfRange
from drivers.sunspec.models import (
    NUMBER_TYPES,
    Address,
    ModelPoint,
    Offset,
    UnknownPoint,
    address_of,
    model_ids,
)
from drivers.sunspec.values import BlockDecoder, check_writable, encode, factor_of, scaled

PLAIN = Channel()


def address(kind: str, scale: int | Offset | None = None, place: int = 0) -> Address:
    point = ModelPoint("P", kind, place, NUMBER_TYPES[kind].words, None, True, "", "", {})
    return Address(1, 1, "1.P", point, Offset(place), scale, ())


def decode(kind: str, data: bytes, scale: int | None = None) -> float:
    words = NUMBER_TYPES[kind].words
    decoder = BlockDecoder([address(kind, scale)], [PLAIN], Offset(0), words)
    return float(decoder(data, {}).values[0])


WHOLE = [kind for kind, number in NUMBER_TYPES.items() if number.code not in "fd"]


@given(kind=st.sampled_from(WHOLE), power=st.integers(-10, 10), data=st.data())
def test_what_is_written_is_what_is_read(kind: str, power: int, data: st.DataObject) -> None:
    number = NUMBER_TYPES[kind]
    high = min(int(number.high), 2**50)
    raw = data.draw(st.integers(max(int(number.low), -high), high))
    value = scaled(float(raw), power)
    if kind.startswith(("enum", "bitfield")):
        assume(power == 0)
    assert encode(address(kind), PLAIN, value, power) == struct.pack(">" + number.code, raw)
    assert decode(kind, encode(address(kind), PLAIN, value, power), power) == value


@given(kind=st.sampled_from(["float32", "float64"]), value=st.floats(width=32, allow_nan=False))
def test_floats_pass_through(kind: str, value: float) -> None:
    assume(math.isfinite(value))
    assert decode(kind, encode(address(kind), PLAIN, value, 0)) == value


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("int16", "8000"),
        ("uint16", "ffff"),
        ("acc16", "0000"),
        ("enum16", "ffff"),
        ("bitfield16", "ffff"),
        ("bitfield16", "8000"),
        ("int32", "80000000"),
        ("uint32", "ffffffff"),
        ("acc32", "00000000"),
        ("enum32", "ffffffff"),
        ("bitfield32", "ffffffff"),
        ("bitfield32", "80000001"),
        ("int64", "8000000000000000"),
        ("uint64", "ffffffffffffffff"),
        ("acc64", "0000000000000000"),
        ("float32", "7fc00000"),
        ("float32", "7f800000"),
        ("float64", "7ff8000000000000"),
        ("sunssf", "8000"),
        ("count", "ffff"),
    ],
)
def test_not_implemented_is_no_value(kind: str, data: str) -> None:
    assert math.isnan(decode(kind, bytes.fromhex(data)))


def test_every_numeric_type_has_its_mark_of_no_value_tested_above() -> None:
    (mark,) = test_not_implemented_is_no_value.pytestmark  # type: ignore[attr-defined]
    assert {kind for kind, _ in mark.args[1]} == set(NUMBER_TYPES)


@given(raw=st.integers(-32767, 32767), power=st.integers(-10, -1))
def test_decimals_are_those_that_people_expect(raw: int, power: int) -> None:
    assert scaled(float(raw), power) == float(f"{raw}e{power}")


@given(
    kind=st.sampled_from(sorted(NUMBER_TYPES)),
    value=st.floats(),
    scalar=st.floats(-1e9, 1e9).filter(lambda x: x != 0),
    offset=st.floats(-1e9, 1e9),
    power=st.integers(-10, 10),
)
def test_a_value_is_encoded_as_a_value_or_refused(
    kind: str, value: float, scalar: float, offset: float, power: int
) -> None:
    channel = Channel(Scalar=scalar, Offset=offset)
    try:
        data = encode(address(kind), channel, value, power)
    except OutOfRange:
        return
    assert not math.isnan(decode(kind, data)), "no write marks a point as not implemented"
    check_writable(address(kind, Offset(9)), channel, value)


BLOCK = [address("int16", Offset(2)), address("uint32", Offset(5), 3), address("float64", None, 6)]


@given(data=st.binary(max_size=40), power=st.one_of(st.floats(-10, 10), st.just(math.nan)))
def test_no_answer_ends_in_anything_but_values_or_a_typed_error(data: bytes, power: float) -> None:
    decoder = BlockDecoder(BLOCK, [PLAIN] * 3, Offset(0), 10)
    assert decoder.far == ()
    try:
        values, factors = decoder(data, {})
    except DriverError:
        assert len(data) != 20
        return
    assert len(values) == 3
    assert factors.keys() == {2, 5}
    assert all(math.isnan(f) or -10 <= f <= 10 for f in factors.values())
    assert not any(math.isinf(value) for value in values)


@given(data=st.binary(max_size=4))
def test_a_factor_is_a_power_of_ten_or_none(data: bytes) -> None:
    try:
        power = factor_of(data)
    except Garbled:
        assert len(data) != 2
        return
    assert math.isnan(power) or -10 <= power <= 10


@given(
    text=st.one_of(
        st.text(max_size=40),
        st.from_regex(r"[0-9]{1,5}(\[[0-9]{1,3}\])?(\.[A-Za-z]{1,8}(\[[0-9]{1,3}\])?){0,3}"),
        st.builds(
            "{}.{}".format,
            st.sampled_from(model_ids()),
            st.sampled_from(["W", "Crv[1].Pt[2].V", "module[9999].DCA", "Evt1.X", "ID", "Mn"]),
        ),
    )
)
def test_a_name_is_an_address_or_an_unknown_point(text: str) -> None:
    try:
        found = address_of(text)
    except UnknownPoint:
        return
    assert found.text == text
    assert found.at.fixed >= 0


def test_a_raw_number_beyond_all_numbers_is_out_of_range() -> None:
    with pytest.raises(OutOfRange, match="no finite raw number"):
        encode(address_of("704.WMaxLimPct"), Channel(ReadWrite="RW"), 1e300, -10)
