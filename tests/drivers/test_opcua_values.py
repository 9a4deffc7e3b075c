"""OPC UA data values to numbers, and back."""

from __future__ import annotations

import contextlib
import math
from datetime import UTC, datetime
from typing import Any

import pytest
from asyncua import ua
from asyncua.ua.ua_binary import struct_from_binary, struct_to_binary
from hypothesis import given
from hypothesis import strategies as st

from config import status
from config.model import Channel
from drivers.errors import Garbled, OutOfRange, Refused
from drivers.opcua.decoding import bind_decoder
from drivers.opcua.session import typed_errors
from drivers.opcua.values import reading_of, stamp_ns, variant_of, variant_type_of

T = ua.VariantType


def value(content: Any, kind: Any = None, code: int = 0, **keys: Any) -> ua.DataValue:
    return ua.DataValue(ua.Variant(content, kind), ua.StatusCode(ua.UInt32(code)), **keys)


@pytest.mark.parametrize(
    ("content", "kind", "number"),
    [
        (1.5, T.Double, 1.5),
        (-3, T.Int16, -3.0),
        (2**63, T.UInt64, 2.0**63),
        (True, T.Boolean, 1.0),
        ("run", T.String, 1.0),
        ("12.5", T.String, 12.5),
        (ua.LocalizedText("Run"), T.LocalizedText, 1.0),
        (ua.ServerState.Suspended, T.Int32, 3.0),
    ],
)
def test_numbers_switches_and_states_are_read(content: Any, kind: Any, number: float) -> None:
    assert reading_of(value(content, kind), None, ("stop", "run")) == (number, status.GOOD, None)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ("sideways", T.String),
        (b"\x01", T.ByteString),
        (datetime(2026, 1, 1, tzinfo=UTC), T.DateTime),
        ([1.0, 2.0], T.Double),
        (ua.NodeId(ua.Int32(5)), T.NodeId),
    ],
)
def test_what_is_no_number_has_a_bad_status(content: Any, kind: Any) -> None:
    reading = reading_of(value(content, kind), None, ("stop", "run"))
    assert reading.code == status.BAD_DECODING_ERROR
    assert math.isnan(reading.raw)


def test_an_item_of_an_array_is_read() -> None:
    assert reading_of(value([1.0, 2.0], T.Double), 1, ()).raw == 2.0
    assert reading_of(value([1.0, 2.0], T.Double), 2, ()).code == status.BAD_DECODING_ERROR
    assert reading_of(value([], T.Double), 0, ()).code == status.BAD_DECODING_ERROR


def test_the_servers_status_is_passed_on_without_its_information_bits() -> None:
    assert reading_of(value(1.0, T.Double, 0x408F0000), None, ()) == (1.0, 0x408F0000, None)
    assert reading_of(value(1.0, T.Double, 0x00000480), None, ()).code == status.GOOD
    assert reading_of(value(1.0, T.Double, 0x00960000), None, ()).code == 0x00960000
    bad = reading_of(value(1.0, T.Double, 0x80340000), None, ())
    assert bad.code == 0x80340000
    assert math.isnan(bad.raw)  # whatever a bad value shows, it is none
    assert math.isnan(reading_of(ua.DataValue(ua.Variant(None)), None, ()).raw)


def test_stamps_are_utc_and_absurd_ones_are_left_out() -> None:
    stamp = datetime(2026, 9, 21, 1, 2, 3, 456789, tzinfo=UTC)
    assert stamp_ns(stamp) == 1_789_952_523_456_789_000
    for absurd in (None, ua.get_win_epoch(), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)):
        assert stamp_ns(absurd) is None


# ---------------------------------------------------------------- writing


def channel(**keys: Any) -> Channel:
    return Channel.model_validate({"ReadWrite": "RW"} | keys)


@pytest.mark.parametrize(
    ("kind", "wanted", "content"),
    [
        (T.Double, 1.25, 1.25),
        (T.Float, 1.25, 1.25),
        (T.Int16, -7.0, -7),
        (T.Byte, 255.0, 255),
        (T.UInt64, 2.0**63, 2**63),
        (T.Boolean, 1.0, True),
        (T.String, 1.0, "run"),
    ],
)
def test_a_value_is_written_in_the_nodes_type(kind: Any, wanted: float, content: Any) -> None:
    made = variant_of(channel(States=["stop", "run"]), kind, wanted)
    assert (made.Value, made.VariantType) == (content, kind)
    assert type(made.Value) is type(content)


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        (T.Double, math.nan),
        (T.Double, math.inf),
        (T.Float, 1e300),
        (T.Int16, 32768.0),
        (T.Byte, -1.0),
        (T.UInt64, 2.0**64),
        (T.Boolean, 2.0),
        (T.String, 2.0),
    ],
)
def test_a_value_that_does_not_fit_is_refused(kind: Any, wanted: float) -> None:
    with pytest.raises(OutOfRange):
        variant_of(channel(States=["stop", "run"]), kind, wanted)


def test_scaling_is_undone_and_array_items_are_lists() -> None:
    assert variant_of(channel(Scalar=0.1), T.Int32, 12.3).Value == 123
    assert variant_of(channel(ArrayPos=2), T.Int32, 5.0).Value == [5]


def test_types_come_from_the_node_or_from_its_value() -> None:
    def node(number: int) -> ua.NodeId:
        return ua.NodeId(ua.Int32(number))

    assert variant_type_of(node(10), None) == T.Float
    assert variant_type_of(node(ua.ObjectIds.Enumeration), None) == T.Int32
    assert variant_type_of(node(ua.ObjectIds.Duration), None) == T.Double
    own = ua.NodeId(ua.Int32(3002), ua.Int16(2))
    assert variant_type_of(own, value(3, T.UInt16)) == T.UInt16
    assert variant_type_of(own, None) is None
    assert variant_type_of(node(15), value(b"", T.ByteString)) is None
    with pytest.raises(Refused):
        variant_of(channel(), None, 1.0)


# ---------------------------------------------------------------- hostile bytes


_VALUES = st.one_of(
    st.tuples(st.floats(), st.just(T.Double)),
    st.tuples(st.integers(0, 2**32 - 1), st.just(T.UInt32)),
    st.tuples(st.text(max_size=5), st.just(T.String)),
    st.tuples(st.lists(st.floats(width=32), max_size=3), st.just(T.Float)),
    st.tuples(st.binary(max_size=5), st.just(T.ByteString)),
)


@given(_VALUES, st.integers(0, 2**32 - 1), st.none() | st.integers(0, 4))
def test_any_value_is_a_reading(given_value: Any, code: int, array_pos: int | None) -> None:
    content, kind = given_value
    reading = reading_of(value(content, kind, code), array_pos, ("a", "b"))
    assert isinstance(reading.raw, float)
    assert 0 <= reading.code < 2**32


def test_an_array_that_announces_more_values_than_bytes_is_garbled() -> None:
    """Each nothing takes no bytes: the library would make two thousand million of them."""
    bind_decoder()
    data = bytes([1, 0x80]) + (2**31 - 1).to_bytes(4, "little") + bytes(40)
    with pytest.raises(Garbled), typed_errors("read", 1.0):
        struct_from_binary(ua.DataValue, ua.utils.Buffer(data))


@given(st.binary(max_size=80), st.integers(0, 40), st.integers(0, 255))
def test_spoiled_bytes_end_in_a_reading_or_typed(tail: bytes, at: int, byte: int) -> None:
    bind_decoder()
    stamp = datetime(2026, 9, 21, tzinfo=UTC)
    data = bytearray(struct_to_binary(value([1.0, 2.0], T.Double, 5, SourceTimestamp=stamp)))
    data[at % len(data)] = byte
    for spoiled in (bytes(data) + tail, tail, bytes(data[:at])):
        with contextlib.suppress(Garbled, Refused), typed_errors("read", 1.0):
            made = struct_from_binary(ua.DataValue, ua.utils.Buffer(spoiled))
            reading_of(made, 0, ())
