"""Sparkplug B payloads: vectors of another encoder, round trips, and hostile bytes."""

from __future__ import annotations

import math
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.errors import Garbled, OutOfRange
from drivers.mqtt import sparkplug
from drivers.mqtt.sparkplug import DataType, Metric, Payload, Topic

# Encoded by google.protobuf 7.36 with the message classes of pysparkplug 0.6.1, which are compiled
# from Eclipse Tahu's sparkplug_b.proto.
NBIRTH: Final = bytes.fromhex(
    "08fb8ad9a5aa3312120a05626453657118fb8ad9a5aa3320045803121a0a144e6f646520436f6e74726f6c2f52656269"
    "727468200b700012420a0b54656d7065726174757265100118e48ad9a5aa3320094a230a075175616c6974790a07656e"
    "67556e69741205080318c0011208080c4204646567436500d03b4412120a06436f756e74731002200350f6ffffff0f12"
    "170a06456e6572677910032008588580808080808080800112170a064f66667365741004200458f9ffffffffffffffff"
    "0112140a054c6576656c1005200a69000000000000f8bf12120a0553746174651006200c7a0572756ec3a9120e0a0553"
    "6d616c6c1007200150fe01120c0a04476f6e65100820093801120f0a04426c6f6210092011820102000112190a035365"
    "74100a20108a010d0801120161180322040a0208051800"
)
NDATA: Final = bytes.fromhex(
    "08e891d9a5aa33120e100118de91d9a5aa336500203c44120f10021880c881f6a933200328015007120810067a047374"
    "6f701801"
)
NDEATH: Final = bytes.fromhex("08808ad9a5aa33120b0a05626453657120045803")
NCMD: Final = bytes.fromhex(
    "08d099d9a5aa3312210a144e6f646520436f6e74726f6c2f5265626972746818d099d9a5aa33200b7001"
)
DCMD: Final = bytes.fromhex("08d099d9a5aa3312170a06436f756e747318d099d9a5aa33200350ecffffff0f")


def test_a_birth_of_another_encoder_is_read() -> None:
    payload = sparkplug.decode(NBIRTH)
    assert (payload.timestamp_ms, payload.seq) == (1763700000123, 0)
    metrics = {metric.name: metric for metric in payload.metrics}
    assert metrics["bdSeq"].value == 3
    assert metrics[sparkplug.REBIRTH].value is False
    assert metrics["Temperature"] == Metric(
        "Temperature", 1, DataType.FLOAT, 751.25, 1763700000100, quality=192
    )
    shown = {name: metric.value for name, metric in metrics.items() if metric.alias}
    assert shown == {
        "Temperature": 751.25,
        "Counts": -10,
        "Energy": 2**63 + 5,
        "Offset": -7,
        "Level": -1.5,
        "State": "runé",
        "Small": -2,
        "Gone": None,
        "Blob": b"\x00\x01",
        "Set": sparkplug.UNREADABLE,
    }


def test_data_of_another_encoder_is_read() -> None:
    payload = sparkplug.decode(NDATA)
    assert payload.seq == 1
    current, old, text = payload.metrics
    assert current == Metric("", 1, 0, 752.5, 1763700000990)
    assert old.historical
    assert old.value == 7
    assert (text.alias, text.value, text.timestamp_ms) == (6, "stop", None)


@pytest.mark.parametrize(
    ("expected", "payload"),
    [
        (NCMD, Payload((Metric(sparkplug.REBIRTH, None, DataType.BOOLEAN, True, 1763700002000),))),
        (DCMD, Payload((Metric("Counts", None, DataType.INT32, -20, 1763700002000),))),
    ],
)
def test_commands_have_the_bytes_of_another_encoder(expected: bytes, payload: Payload) -> None:
    assert sparkplug.encode(Payload(payload.metrics, 1763700002000)) == expected


def test_a_death_has_no_sequence() -> None:
    assert sparkplug.decode(NDEATH).seq is None


def test_what_is_encoded_is_decoded_alike() -> None:
    metrics = (
        Metric("a", 1, DataType.INT8, -128, 5, quality=0),
        Metric("b", None, DataType.UINT64, 2**64 - 1),
        Metric("", 7, DataType.FLOAT, 0.5, historical=True),
        Metric("d", None, DataType.DOUBLE, math.pi, quality=500),
        Metric("e", None, DataType.STRING, "°"),
        Metric("f", None, DataType.BOOLEAN, True),
        Metric("g", None, DataType.INT32, None),
        Metric("h", None, DataType.BYTES, b"\xff"),
    )
    payload = Payload(metrics, 1763700002000, 255)
    assert sparkplug.decode(sparkplug.encode(payload)) == payload


@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        (DataType.INT8, 128),
        (DataType.UINT16, -1),
        (DataType.INT64, 2.0**63),
        (DataType.INT32, math.nan),
        (DataType.FLOAT, 1e300),
        (DataType.BOOLEAN, 2),
        (DataType.DOUBLE, "text"),
        (DataType.STRING, 5.0),
        (DataType.TEMPLATE, 1),
        (0, 1.0),
    ],
)
def test_a_value_that_its_type_can_not_hold_is_refused(datatype: int, value: float | str) -> None:
    with pytest.raises(OutOfRange):
        sparkplug.encode(Payload((Metric("x", None, datatype, value),)))


def test_the_sign_of_a_number_without_type_comes_from_the_birth() -> None:
    assert sparkplug.number_of(0xFFFFFFF6, DataType.INT32) == -10
    assert sparkplug.number_of(0xFFFFFFF6, DataType.UINT32) == 0xFFFFFFF6
    assert sparkplug.number_of(0xFFFFFFFE, DataType.INT8) == -2  # sign extended to 32 bits
    assert sparkplug.number_of("7", DataType.STRING) is None


def test_topics_come_apart_and_together() -> None:
    assert sparkplug.parse_topic("spBv1.0/G/DDATA/N/D") == Topic("G", "DDATA", "N", "D")
    assert sparkplug.parse_topic("spBv1.0/G/+/N") == Topic("G", "+", "N")
    assert str(Topic("G", "NCMD", "N")) == "spBv1.0/G/NCMD/N"
    for text in ("", "spBv1.0/G/NDATA", "spAv1.0/G/NDATA/N", "spBv1.0//NDATA/N", "a/b/c/d/e/f"):
        assert sparkplug.parse_topic(text) is None


@pytest.mark.parametrize(
    "data",
    [
        b"\x12\xff\xff\xff\xff\x0f",  # a metric of 4 GB
        b"\x08" + b"\xff" * 11,  # a number without end
        b"\x12\x04\x0a\x02\xff\xfe",  # a name that is not UTF-8
        b"\x12\x02\x08\x05",  # a number in place of a name
        b"\x12\x03\x65\x00\x00",  # half a float
        b"\x12\x02\x18\x05",  # neither name nor alias
        b"\x2a\x05ab",  # a body of five bytes, two there
        b"\x0b",  # a group
        b"\x00\x00",  # field 0
        b"\x0a\x00",  # bytes in place of the time stamp
        b"\x12\x00" * (sparkplug.METRICS_MAX + 1),
        b"\x12\x02\x10\x01" * (sparkplug.METRICS_MAX + 1),
    ],
)
def test_bytes_that_are_no_payload_are_garbled(data: bytes) -> None:
    with pytest.raises(Garbled):
        sparkplug.decode(data)


@given(st.binary(max_size=300))
def test_random_bytes_end_in_a_payload_or_in_garbled(data: bytes) -> None:
    try:
        sparkplug.decode(data)
    except Garbled:
        pass


@given(
    st.integers(0, len(NBIRTH) - 1),
    st.integers(0, 255),
    st.integers(0, len(NBIRTH)),
    st.binary(max_size=20),
)
def test_spoiled_births_end_in_a_payload_or_in_garbled(
    at: int, byte: int, length: int, tail: bytes
) -> None:
    data = bytearray(NBIRTH)
    data[at] = byte
    try:
        payload = sparkplug.decode(bytes(data[:length]) + tail)
    except Garbled:
        return
    for metric in payload.metrics:
        sparkplug.number_of(metric.value, metric.datatype)
