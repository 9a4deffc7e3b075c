"""Aggregates against the examples of OPC 10000-13 and against plain arithmetic."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.opcua.history.aggregates import AGGREGATES, Found, Intervals
from gateway.opcua.history.series import Configuration, Series
from tests.gateway.opcua.history_oracle import Oracle, Rules
from tests.gateway.opcua.part13_case import END_S, HISTORIANS, NOON_NS, TABLES, S, expected
from tests.gateway.opcua.part13_case import rows as rows_of

BY_NAME = {one.name: one for one in AGGREGATES.values()}


def edges_of(interval_s: int) -> np.ndarray:
    begins = [*range(0, END_S, interval_s), END_S]
    return NOON_NS + np.array(begins, dtype=np.int64) * S


def computed(aggregate: str, historian: int, interval_s: int) -> Found:
    one = HISTORIANS[historian]
    series = Series(one.rows, one.configuration)
    return BY_NAME[aggregate].run(Intervals(series, edges_of(interval_s)))


@pytest.mark.parametrize(("aggregate", "historian", "interval_s"), TABLES, ids=str)
def test_an_aggregate_gives_the_standards_examples(
    aggregate: str, historian: int, interval_s: int
) -> None:
    found = computed(aggregate, historian, interval_s)
    wanted = expected(aggregate, historian, interval_s)
    assert [hex(code) for code in found.status] == [hex(one.status) for one in wanted]
    assert (found.time - NOON_NS).tolist() == [one.time_ns - NOON_NS for one in wanted]
    for at, one in enumerate(wanted):
        if one.value is not None:
            assert found.value[at] == pytest.approx(one.value, abs=0.0006)


_RULES = st.builds(
    Rules,
    uncertain_is_bad=st.booleans(),
    percent_bad=st.sampled_from((100, 50, 80)),
    percent_good=st.sampled_from((100, 50, 60)),
    sloped=st.booleans(),
    stepped=st.booleans(),
)
_CODES = st.sampled_from((0, 0, 0, 0x00960000, 0x40000000, 0x40900000, 0x80000000, 0x80310000))
_ROWS = st.lists(
    st.tuples(st.integers(0, 60), st.integers(-4, 4).map(lambda n: n / 2), _CODES), max_size=14
)


@pytest.mark.parametrize("name", BY_NAME)
@settings(max_examples=25, deadline=None)
@given(
    rows=_ROWS,
    rules=_RULES,
    low=st.integers(-5, 40),
    length=st.integers(1, 20),
    count=st.integers(1, 6),
    rest=st.integers(0, 3),
    backward=st.booleans(),
)
def test_an_aggregate_is_what_the_standards_text_says(
    name: str,
    rows: list,
    rules: Rules,
    low: int,
    length: int,
    count: int,
    rest: int,
    backward: bool,
) -> None:
    """Against an oracle that goes through one interval at a time, with fractions."""
    rows = sorted(rows, key=lambda row: row[0])
    made = rows_of([at for at, _, _ in rows], [v for _, v, _ in rows], [c for _, _, c in rows])
    edges = [low + step * length for step in range(count + 1)]
    if rest:
        edges.append(edges[-1] + rest)
    times = NOON_NS + np.array(edges, dtype=np.int64) * S
    how = Configuration(
        rules.uncertain_is_bad,
        rules.percent_bad,
        rules.percent_good,
        rules.sloped,
        rules.stepped,
    )
    found = BY_NAME[name].run(Intervals(Series(made, how), times, backward=backward))
    oracle = Oracle([(NOON_NS + at * S, value, code) for at, value, code in rows], rules)
    for at, (one, other) in enumerate(pairwise(times.tolist())):
        time, value, code = oracle.run(name, one, other, backward)
        assert (hex(found.status[at]), found.time[at] - NOON_NS) == (hex(code), time - NOON_NS)
        if value is not None:
            assert found.value[at] == pytest.approx(float(value), rel=1e-9, abs=1e-9)
