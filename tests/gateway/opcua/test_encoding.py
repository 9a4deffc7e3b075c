"""Notifications as bytes: the same that the library's encoder writes."""

from __future__ import annotations

import math

import numpy as np
import pytest
from asyncua import ua
from asyncua.ua.ua_binary import struct_to_binary
from hypothesis import given
from hypothesis import strategies as st

from config import status
from gateway.opcua.monitoring import encoding
from gateway.opcua.monitoring.deadband import forms
from gateway.opcua.monitoring.encoding import (
    BOOLEAN,
    DOUBLE,
    ENTRY,
    INT64,
    NO_FORM,
    OVERFLOW,
    UINT32,
    message,
    notification,
    notification_of,
    notifications,
    publish_response,
    republish_response,
    status_message,
)
from gateway.opcua.monitoring.points import WHOLE_LIMITS
from gateway.opcua.values import data_value
from tests.gateway.opcua_case import NOW_NS

CODES = [0, status.UNCERTAIN_LAST_USABLE, status.BAD_TIMEOUT, status.GOOD_LOCAL_OVERRIDE]
KINDS = [BOOLEAN, UINT32, INT64, DOUBLE]
times = st.one_of(st.just(0), st.integers(1, 4 * 10**18).map(lambda ns: ns // 1000 * 1000))
numbers = st.one_of(
    st.floats(),
    st.integers(-(2**53), 2**53).map(float),
    st.sampled_from([0.0, 1.0, 2.0, -1.0, 2.0**32 - 1, 2.0**32, 2.0**63, -(2.0**63), math.nan]),
)
points = st.tuples(
    st.integers(0, 2**32 - 1),
    st.integers(0, 3),
    st.sampled_from(KINDS),
    numbers,
    st.sampled_from(CODES),
    times,
    times,
)
Point = tuple[int, int, int, float, int, int, int]


def library(handle: int, stamps: int, shown: ua.DataValue) -> bytes:
    """What the library writes; a good status and times that are not asked for are left out."""
    if shown.StatusCode.value == 0:
        shown.StatusCode = None
    if stamps not in (0, 2):
        shown.SourceTimestamp = None
    if stamps not in (1, 2):
        shown.ServerTimestamp = None
    return bytes(struct_to_binary(ua.MonitoredItemNotification(handle, shown)))


def entries_of(given: list[Point]) -> np.ndarray:
    made = np.zeros(len(given), dtype=ENTRY)
    for row, (_, _, _, value, code, utc_ns, server_ns) in zip(made, given, strict=True):
        row["value"], row["status"] = value, code
        row["utc_ns"], row["server_ns"] = utc_ns, server_ns
    forms(np.array([one[2] for one in given], dtype=np.uint8), made, WHOLE_LIMITS)
    return made


def expected(one: Point) -> bytes:
    handle, stamps, kind, value, code, utc_ns, server_ns = one
    shown = data_value(ua.VariantType(kind), value, code, utc_ns, server_ns)
    return library(handle, stamps, shown)


@given(points)
def test_a_point_is_written_as_the_library_does(one: Point) -> None:
    entries = entries_of([one])
    assert notification(one[0], one[1], entries[0].item()) == expected(one)


@given(st.lists(points, min_size=1, max_size=20))
def test_many_points_are_written_as_one_by_one(many: list[Point]) -> None:
    handle = np.array([one[0] for one in many], dtype=np.uint32)
    stamps = np.array([one[1] for one in many], dtype=np.uint8)
    one_by_one = sorted(map(expected, many), key=_shape)
    assert notifications(handle, stamps, entries_of(many)) == b"".join(one_by_one)


def _shape(body: bytes) -> int:
    """What numpy sorts by: the type of the value and the mask."""
    form = body[5] if body[4] & 1 else NO_FORM
    return form * 16 + body[4]


@pytest.mark.parametrize("stamps", [0, 1, 2, 3])
@pytest.mark.parametrize(
    "content", [ua.Variant("text"), ua.Variant([1.5, 2.5]), ua.Variant(ua.LocalizedText("a")), None]
)
def test_any_other_value_is_written_as_the_library_does(
    stamps: int, content: ua.Variant | None
) -> None:
    shown = data_value(ua.VariantType.Double, 1.0, 0, NOW_NS, NOW_NS)
    shown.Value = content
    body = notification_of(9, stamps, shown, 0)
    assert body == library(9, stamps, shown)
    shown.StatusCode = ua.StatusCode(ua.UInt32(OVERFLOW))
    assert notification_of(9, stamps, shown, OVERFLOW) == library(9, stamps, shown)


def test_messages_are_written_as_the_library_does() -> None:
    shown = ua.MonitoredItemNotification(5, data_value(ua.VariantType.Double, 1.5, 5, NOW_NS, 0))
    event = ua.EventFieldList(6, [ua.Variant("hot"), ua.Variant(700, ua.VariantType.UInt16)])
    time = data_value(ua.VariantType.Double, 0, 0, NOW_NS, NOW_NS).SourceTimestamp
    changes = ua.DataChangeNotification([shown], [])
    wanted = ua.NotificationMessage(7, time, [changes, ua.EventNotificationList([event])])
    data, events = bytes(struct_to_binary(shown)), encoding.event_fields(6, event.EventFields)
    content = message(7, NOW_NS, [data], 1, [events])
    assert content == struct_to_binary(wanted)

    answer = ua.PublishResponse()
    answer.ResponseHeader.RequestHandle = 12
    answer.ResponseHeader.Timestamp = time
    good, unknown = ua.StatusCode(), ua.StatusCode(ua.UInt32(ua.StatusCodes.BadTimeout))
    answer.Parameters = ua.PublishResult(3, [6, 7], True, wanted, [good, unknown], [])
    written = publish_response(
        12, NOW_NS, 3, (6, 7), content, (0, ua.StatusCodes.BadTimeout), more=True
    )
    assert written == struct_to_binary(answer)

    again = ua.RepublishResponse()
    again.ResponseHeader = answer.ResponseHeader
    again.NotificationMessage = wanted
    assert republish_response(12, NOW_NS, content) == struct_to_binary(again)


def test_a_status_change_is_written_as_the_library_does() -> None:
    time = data_value(ua.VariantType.Double, 0, 0, NOW_NS, NOW_NS).SourceTimestamp
    ended = ua.StatusChangeNotification(ua.StatusCode(ua.UInt32(ua.StatusCodes.BadTimeout)))
    wanted = ua.NotificationMessage(2, time, [ended])
    assert status_message(2, NOW_NS, ua.StatusCodes.BadTimeout) == struct_to_binary(wanted)
    assert message(2, NOW_NS, (), 0, ()) == struct_to_binary(ua.NotificationMessage(2, time, []))


def test_a_bad_status_has_no_form() -> None:
    entries = entries_of([(1, 2, DOUBLE, 1.0, status.BAD_TIMEOUT, 0, 0)])
    assert entries["form"][0] == NO_FORM
