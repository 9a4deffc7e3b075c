"""Numbers in JSON documents and plain texts."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config import status
from config.model import Channel
from drivers.errors import DriverError, Garbled, OutOfRange
from drivers.mqtt.text import (
    MISSING,
    PAYLOAD_BYTES_MAX,
    Reading,
    command,
    follow,
    load,
    parse_path,
    parse_time,
    read_json,
    read_plain,
)

SEED = {"Opto": {"Cell_Temperature": {"Value": 751.3, "Time": "2025-10-14 11:51:44"}}}
SOGNO = {
    "device": "device1",
    "timestamp": "2020-05-20T10:27:57.980802+00:00",
    "readings": [
        {"component": "BUS1", "measurand": "voltmagnitude", "phase": "A", "data": 123},
        {"component": "BUS1", "measurand": "voltmagnitude", "phase": "B", "data": 124.5},
    ],
}


def read(document: Any, path: str, *states: str) -> tuple[float, int, int | None] | None:
    steps = parse_path(path)
    assert steps is not None, path
    return read_json(document, steps, states)


@pytest.mark.parametrize(
    ("path", "steps"),
    [
        ("power", ("power",)),
        ("a.b[0].c", ("a", "b", 0, "c")),
        ("[2][3]", (2, 3)),
        ('a["x.y"].z', ("a", "x.y", "z")),
        ("r[m=volt,phase=A].data", ("r", (("m", "volt"), ("phase", "A")), "data")),
        ("a b/c-d", ("a b/c-d",)),
    ],
)
def test_a_path_has_steps(path: str, steps: tuple[object, ...]) -> None:
    assert parse_path(path) == steps


@pytest.mark.parametrize(
    "path", ["", ".", "a.", ".a", "a..b", "a[", "a[x]", "a[-1]", "a[0]b", 'a"']
)
def test_what_is_no_path_is_none(path: str) -> None:
    assert parse_path(path) is None


def test_a_path_leads_to_its_value_or_to_nothing() -> None:
    document = {"a": {"b": [{"c": 5}]}, "x.y": 1}
    assert follow(document, parse_path("a.b[0].c") or ()) == 5
    assert follow(document, parse_path('["x.y"]') or ()) == 1
    for path in ("a.c", "a.b[1].c", "a.b.c", "a[0]", "b"):
        assert follow(document, parse_path(path) or ()) is MISSING, path
    assert follow([1], ("a",)) is MISSING
    assert follow(5, (0,)) is MISSING


def test_the_seeds_servers_are_read() -> None:
    # Their time is local and without a zone: it says nothing.
    assert read(SEED, "Opto.Cell_Temperature") == (751.3, status.GOOD, None)
    zoned = {"T": {"Value": 1, "Time": "2025-10-14 11:51:44Z"}}
    assert read(zoned, "T") == (1.0, status.GOOD, 1_760_442_704_000_000_000)


def test_sogno_readings_are_read_with_their_stamp() -> None:
    path = "readings[measurand=voltmagnitude,phase=B].data"
    assert read(SOGNO, path) == (124.5, status.GOOD, 1_589_970_477_980_802_000)
    assert read(SOGNO, "readings[phase=C].data") is None


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (7, 7.0),
        (True, 1.0),
        ("12.5", 12.5),
        ("off", 0.0),
        ("Run", 1.0),
        ("run", 1.0),
        (None, math.nan),
        ("", math.nan),
        (10**400, math.inf),
    ],
)
def test_what_means_a_number_is_one(value: Any, number: float) -> None:
    reading = read({"x": value}, "x", "Stop", "Run")
    assert reading is not None
    assert reading[1] == status.GOOD
    assert reading[0] == number or (math.isnan(reading[0]) and math.isnan(number))


@pytest.mark.parametrize("value", ["fast", [], {}, {"value": 1}, "1_000", "1" * 80])
def test_what_means_no_number_has_a_bad_status(value: Any) -> None:
    reading = read({"x": value}, "x", "Stop", "Run")
    assert reading is not None
    assert math.isnan(reading[0])
    assert reading[1] == status.BAD_DECODING_ERROR


def test_plain_texts_are_numbers_or_bad() -> None:
    assert read_plain(b" 12.5\n", ()) == (12.5, status.GOOD, None)
    assert read_plain(b"ON", ())[0] == 1.0
    for payload in (b"\xff", b"12,5", b"1" * (PAYLOAD_BYTES_MAX + 1)):
        assert read_plain(payload, ())[1] == status.BAD_DECODING_ERROR


@pytest.mark.parametrize(
    ("stamp", "utc_ns"),
    [
        ("1970-01-01T00:00:01Z", None),
        ("2025-11-21 05:40:00+01:00", 1_763_700_000_000_000_000),
        ("2025-11-21T05:10:01.5+0030", 1_763_700_001_500_000_000),
        ("2025-11-21T04:40:00.000000001Z", 1_763_700_000_000_000_001),
        (1_763_700_000, 1_763_700_000_000_000_000),
        (1_763_700_000_123, 1_763_700_000_123_000_000),
        ("2025-10-14 11:51:44", None),
        ("2025-02-31T00:00:00Z", None),
        ("9999-01-01T00:00:00Z", None),
        ("1960-01-01T00:00:00Z", None),
        (-5, None),
        (1e300, None),
        (math.nan, None),
        (True, None),
        (None, None),
        ([], None),
    ],
)
def test_stamps_are_read_where_they_say_when(stamp: Any, utc_ns: int | None) -> None:
    assert parse_time(stamp) == utc_ns


@pytest.mark.parametrize(
    "payload",
    [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"1" * 10_000, b'"' + b"x" * PAYLOAD_BYTES_MAX + b'"'],
)
def test_what_is_no_document_is_garbled(payload: bytes) -> None:
    with pytest.raises(Garbled):
        load(payload)


@given(st.binary(max_size=200))
def test_random_bytes_end_typed(payload: bytes) -> None:
    read_plain(payload, ("a", "b"))
    try:
        load(payload)
    except DriverError:
        pass


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["a", "b", "Value", "Time", "timestamp"]), inner)
    ),
    max_leaves=12,
)


@given(_JSON, st.sampled_from(["a", "a.b", "a[0]", "[1].Value", "a[b=1].a", "Value"]))
def test_any_document_ends_in_a_reading_or_in_none(document: Any, path: str) -> None:
    reading = read_json(load(json.dumps(document).encode()), parse_path(path) or (), ("a", "b"))
    assert reading is None or isinstance(reading.raw, float)


@given(st.text(max_size=40))
def test_any_text_is_a_path_or_none(text: str) -> None:
    steps = parse_path(text)
    assert steps is None or steps


# ---------------------------------------------------------------- writing


def sent(keys: dict[str, Any], value: float, topic: str = "t", plain: bool = False) -> bytes:
    channel = Channel.model_validate({"ReadWrite": "RW"} | keys)
    return command(channel, "Valve", topic, plain, value)


def test_commands_have_the_form_that_is_declared() -> None:
    assert json.loads(sent({}, 2.5)) == {"Valve": 2.5}
    assert sent({}, 2.5, plain=True) == b"2.5"
    seed = {"Read/Write": "W", "Channels": {"Valve": 2.5}}
    assert json.loads(sent({}, 2.5, "Relay/Request/Opto")) == seed
    text = {"WriteText": '{"method":"set","params":[{value}]}'}
    assert json.loads(sent(text, 2.5)) == {"method": "set", "params": [2.5]}


def test_commands_have_the_type_that_is_declared() -> None:
    assert sent({"DataType": "int16", "Scalar": 0.1}, 12.3) == b'{"Valve": 123}'
    assert sent({"DataType": "bool"}, 1.0) == b'{"Valve": true}'
    assert sent({"DataType": "float64", "Scalar": 0.1, "Offset": 1.0}, 12.3) == b'{"Valve": 122.0}'
    named = {"DataType": "string", "States": ["Shut", "Öffnen"]}
    assert json.loads(sent(named, 1.0)) == {"Valve": "Öffnen"}
    assert sent(named | {"WriteText": "cmd {value}"}, 0.0) == b"cmd Shut"


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        ({}, math.nan),
        ({}, 1e300),
        ({"DataType": "int16"}, 40_000.0),
        ({"DataType": "bool"}, 2.0),
        ({"DataType": "string", "States": ["a"]}, 1.0),
        ({"DataType": "string", "States": ["a"]}, 0.5),
        ({"DataType": "string", "States": ["a"]}, math.inf),
    ],
)
def test_a_value_that_does_not_fit_is_refused(keys: dict[str, Any], value: float) -> None:
    with pytest.raises(OutOfRange):
        sent(keys, value)


def test_an_item_is_searched_by_plain_values_only() -> None:
    """A value that is nested as deeply as can be read can't be written as a text again."""
    for depth in range(1, 1200, 7):
        nested = b'[{"k": ' + b"[" * depth + b"]" * depth + b'}, {"k": true, "v": 5}]'
        try:
            document = load(nested)
        except Garbled:
            break
        assert read_json(document, parse_path("[k=true].v") or (), ()) == Reading(5.0, 0, None)
    assert depth > 100
