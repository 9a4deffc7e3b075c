"""What counts as a change for a monitored item, one by one and for many at once."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from asyncua import ua
from asyncua.ua.uaprotocol_auto import AggregateFilter
from hypothesis import given
from hypothesis import strategies as st

from config import status
from gateway.opcua.monitoring.deadband import Wanted, forms, is_reportable, reportable, wanted_of
from gateway.opcua.monitoring.encoding import ENTRY
from gateway.opcua.monitoring.points import WHOLE_LIMITS
from gateway.opcua.values import data_value
from tests.gateway.opcua_case import NOW_NS
from tests.gateway.points import point

VALUE = ua.AttributeIds.Value
CODES = ua.StatusCodes
S = ua.DataChangeTrigger.Status.value
SV = ua.DataChangeTrigger.StatusValue.value
SVT = ua.DataChangeTrigger.StatusValueTimestamp.value


@pytest.mark.parametrize(
    ("before", "after", "wanted", "expected"),
    [
        ((1.0, 0, 0), (1.0, 0, 1), Wanted(), False),
        ((1.0, 0, 0), (2.0, 0, 1), Wanted(), True),
        ((1.0, 0, 0), (1.0, status.UNCERTAIN_LAST_USABLE, 1), Wanted(), True),
        ((1.0, 0, 0), (2.0, 0, 1), Wanted(S), False),
        ((1.0, 0, 0), (1.0, status.BAD_TIMEOUT, 1), Wanted(S), True),
        ((1.0, 0, 0), (1.0, 0, 9), Wanted(SVT), True),
        ((1.0, 0, 0), (1.5, 0, 1), Wanted(SV, 1.0), False),
        ((1.0, 0, 0), (2.5, 0, 1), Wanted(SV, 1.0), True),
        ((1.0, 0, 0), (2.5, status.BAD_TIMEOUT, 1), Wanted(SV, 9.0), True),
        ((1.0, 0, 0), (math.nan, 0, 1), Wanted(SV, 1.0), True),
        ((math.nan, 0, 0), (math.nan, 0, 1), Wanted(SV, 1.0), False),
        ((math.nan, 0, 0), (math.nan, 0, 1), Wanted(), False),
    ],
)
def test_what_counts_as_a_change(
    before: tuple[float, int, int], after: tuple[float, int, int], wanted: Wanted, expected: bool
) -> None:
    old, new = (
        data_value(ua.VariantType.Double, value, code, NOW_NS + second * 1_000_000_000, NOW_NS)
        for value, code, second in (before, after)
    )
    assert is_reportable(None, new, wanted)
    assert is_reportable(old, new, wanted) is expected


samples = st.tuples(
    st.one_of(
        st.sampled_from([0.0, 1.0, 1.5, 2.0, math.nan, math.inf, -math.inf]), st.floats(-3, 3)
    ),
    st.sampled_from([0, status.UNCERTAIN_LAST_USABLE, status.BAD_TIMEOUT]),
    st.sampled_from([NOW_NS, NOW_NS + 1_000]),
)
filters = st.builds(Wanted, st.sampled_from([S, SV, SVT]), st.sampled_from([0.0, 0.5, 1.0]))
kinds = st.sampled_from([ua.VariantType.Double, ua.VariantType.Boolean, ua.VariantType.Int64])


@given(st.lists(st.tuples(kinds, samples, samples, filters), min_size=1, max_size=30))
def test_many_at_once_are_judged_as_one_by_one(rows: list[Any]) -> None:
    numbers = np.array([kind.value for kind, *_ in rows], dtype=np.uint8)
    old, new = np.zeros(len(rows), dtype=ENTRY), np.zeros(len(rows), dtype=ENTRY)
    for place, made in ((1, old), (2, new)):
        for entry, row in zip(made, rows, strict=True):
            entry["value"], entry["status"], entry["utc_ns"] = row[place]
        forms(numbers, made, WHOLE_LIMITS)
    trigger = np.array([row[3].trigger for row in rows], dtype=np.uint8)
    deadband = np.array([row[3].deadband for row in rows])
    expected = [
        is_reportable(data_value(kind, *before, NOW_NS), data_value(kind, *after, NOW_NS), wanted)
        for kind, before, after, wanted in rows
    ]
    assert reportable(old, new, trigger, deadband).tolist() == expected


def test_a_value_of_another_type_is_a_change() -> None:
    old, new = np.zeros(1, dtype=ENTRY), np.zeros(1, dtype=ENTRY)
    old["form"], new["form"] = 1, 8
    assert reportable(old, new, np.array([SV]), np.zeros(1)).all()


ANALOG = point(1, "A.B", value_min=-50, value_max=150)


def asked(kind: ua.DeadbandType, size: float) -> ua.DataChangeFilter:
    return ua.DataChangeFilter(ua.DataChangeTrigger.StatusValue, kind, size)


def test_a_percent_deadband_is_one_of_the_range_as_it_is_now() -> None:
    wanted, code = wanted_of(
        asked(ua.DeadbandType.Percent, 5.0), VALUE, ua.VariantType.Double, ANALOG
    )
    assert code == 0
    assert wanted.on(ANALOG) == 10.0
    assert wanted.on(point(1, "A.B", value_min=0, value_max=20)) == 1.0
    assert wanted.on(point(1, "A.B")) == 0.0
    assert wanted.on(None) == 0.0


@pytest.mark.parametrize(
    ("given_filter", "attribute", "kind", "on", "code"),
    [
        (None, VALUE, ua.VariantType.Double, ANALOG, 0),
        (ua.ExtensionObject(), VALUE, ua.VariantType.Double, ANALOG, 0),
        (asked(ua.DeadbandType.None_, 5), VALUE, ua.VariantType.Boolean, ANALOG, 0),
        (asked(ua.DeadbandType.Absolute, 5), VALUE, ua.VariantType.Double, None, 0),
        (ua.EventFilter(), VALUE, ua.VariantType.Double, ANALOG, CODES.BadFilterNotAllowed),
        (
            asked(ua.DeadbandType.Absolute, 5),
            ua.AttributeIds.DisplayName,
            ua.VariantType.LocalizedText,
            None,
            CODES.BadFilterNotAllowed,
        ),
        (
            asked(ua.DeadbandType.Absolute, 1),
            VALUE,
            ua.VariantType.Boolean,
            ANALOG,
            CODES.BadFilterNotAllowed,
        ),
        (
            AggregateFilter(),
            VALUE,
            ua.VariantType.Double,
            ANALOG,
            CODES.BadMonitoredItemFilterUnsupported,
        ),
        (
            asked(ua.DeadbandType.Percent, 5),
            VALUE,
            ua.VariantType.Double,
            point(1, "A.B"),
            CODES.BadMonitoredItemFilterUnsupported,
        ),
        *(
            (
                asked(kind, size),
                VALUE,
                ua.VariantType.Double,
                ANALOG,
                CODES.BadDeadbandFilterInvalid,
            )
            for kind in (ua.DeadbandType.Absolute, ua.DeadbandType.Percent)
            for size in (-1.0, math.nan, math.inf)
        ),
        (
            asked(ua.DeadbandType.Percent, 100.5),
            VALUE,
            ua.VariantType.Double,
            ANALOG,
            CODES.BadDeadbandFilterInvalid,
        ),
        (
            ua.DataChangeFilter(ua.DataChangeTrigger.Status, 7, 1.0),
            VALUE,
            ua.VariantType.Double,
            ANALOG,
            CODES.BadDeadbandFilterInvalid,
        ),
    ],
)
def test_filters_that_can_and_can_t_be_served(
    given_filter: Any, attribute: int, kind: ua.VariantType, on: Any, code: int
) -> None:
    assert wanted_of(given_filter, attribute, kind, on)[1] == code
