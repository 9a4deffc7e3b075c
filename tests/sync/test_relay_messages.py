"""The seed's messages, byte for byte, and requests that are none."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.bus import relay_messages as relay
from sync.bus.relay_messages import BadRequest, Reading, parse_request

NS = 1_760_442_704_900_000_000  # 2025-10-14 11:51:44.9 UTC


def test_values_have_the_form_of_the_seeds_servers() -> None:
    made = relay.data("Opto", {"Cell_Temperature": Reading(751.3, NS, {})})
    assert (
        made == b'{"Opto": {"Cell_Temperature": {"Value": 751.3, "Time": "2025-10-14 11:51:44"}}}'
    )
    assert relay.data("Opto", {}) == b'{"Opto": {}}'


def test_detail_stands_behind_the_seeds_two_names() -> None:
    detail = {"Quality": "Good", "Units": "degC", "UTC": relay.stamp_exact(NS)}
    value = json.loads(relay.data("Opto", {"T": Reading(1, NS, detail)}))["Opto"]["T"]
    assert list(value) == ["Value", "Time", "Quality", "Units", "UTC"]
    assert value["UTC"] == "2025-10-14T11:51:44.900Z"


def test_other_messages_have_the_seeds_form_too() -> None:
    assert relay.alive("Opto") == b'{"success?": "totally", "Instrument": "Opto"}'
    assert relay.ALIVE == "Relay/Alive/"
    found = json.loads(relay.bad_request("no JSON"))
    assert found == "[Received bad message or instrument comms: no JSON]"
    named = json.loads(relay.channel_issue("Opto", "Write", "Control_Valve", "expired"))
    assert named == "Issue with Opto Write Control_Valve: expired"
    assert len(relay.issue("x" * 10_000)) < 1000


def test_the_seeds_requests_are_read() -> None:
    read = parse_request(b'{"Read/Write":"R","Channels":{"Cell_Temperature":""}}')
    assert (read.write, dict(read.channels)) == (False, {"Cell_Temperature": ""})
    write = parse_request(b'{"Read/Write":"W","Channels":{"Control_Valve":"OFF"}}')
    assert (write.write, dict(write.channels)) == (True, {"Control_Valve": "OFF"})


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"Read/Write":"X","Channels":{"a":1}}',
        b'{"Read/Write":"R","Channels":["a"]}',
        b'{"Read/Write":"W","Channels":{}}',
        b'{"Read/Write":"W","Channels":{"a":NaN}}',
        b'{"Read/Write":"W","Channels":{"a":Infinity}}',
        b"[" * 100_000,
        b'{"Read/Write":"R","Channels":{' + b'"a":1,' * 20_000 + b'"b":1}}',
        json.dumps({"Read/Write": "R", "Channels": dict.fromkeys(map(str, range(501)))}).encode(),
    ],
)
def test_what_asks_for_nothing_is_refused_with_a_reason(payload: bytes) -> None:
    with pytest.raises(BadRequest, match=r"\w"):
        parse_request(payload)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "no JSON at line 1, column 1: Expecting value"),
        (b"rubbish", "no JSON at line 1, column 1: Expecting value"),
        (b'{"Read/Write": "R",\n oops}', "no JSON at line 2, column 2: Expecting property name"),
        (b'{"a": "\xff"}', "no text in utf-8 at byte 8"),
        (b"[" * 60_000, "no JSON: nested too deeply"),
        (b"9" * 5_000, "a number has too many digits"),
    ],
)
def test_rubbish_is_told_in_words_with_its_place(payload: bytes, reason: str) -> None:
    with pytest.raises(BadRequest) as refused:
        parse_request(payload)
    assert str(refused.value).startswith(reason)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_refused(payload: bytes) -> None:
    with contextlib.suppress(BadRequest):
        assert parse_request(payload).channels


def point(kind: str = "analog", *states: str) -> dict[str, Any]:
    return {"kind": kind, "states": list(states)}


@pytest.mark.parametrize(
    ("definition", "value", "expected"),
    [
        (point(), 12.5, 12.5),
        (point(), " 12.5 ", 12.5),
        (point("discrete"), True, 1.0),
        (point("discrete"), "OFF", 0.0),  # the seed's own rules write so
        (point("discrete"), "on", 1.0),
        (point("discrete"), False, 0.0),
        (point("discrete", "closed", "open"), "OPEN", 1.0),
        (point("discrete", "ON", "OFF"), "off", 1.0),
    ],
)
def test_a_value_becomes_the_points_number(
    definition: dict[str, Any], value: Any, expected: float
) -> None:
    assert relay.number_of(definition, value) == expected


@pytest.mark.parametrize(
    ("definition", "value"),
    [
        (point(), "OFF"),  # the seed's int("OFF") raised, and the valve did not move
        (point("discrete", "closed", "open"), "ajar"),
        (point(), None),
        (point(), {}),
        (point(), 10**400),
        (point(), "inf"),
        (point(), "nan"),
        (point(), ""),
        (point(), True),  # a setpoint of 1.0 that nobody meant
        (point(), "1_5"),
    ],
)
def test_what_is_no_value_of_the_point_is_refused(definition: dict[str, Any], value: Any) -> None:
    with pytest.raises(BadRequest, match=r"\w"):
        relay.number_of(definition, value)
