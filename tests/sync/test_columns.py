"""The columns of a frame: few bytes, every bit, and nothing but WireError on foreign bytes."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gateway.core.records import RECORD
from sync import columns
from sync.plain import WireError

POINTS = 40
SCANS = 25


def rows_of(values: NDArray[np.float64], points: int = POINTS) -> NDArray[np.void]:
    """Rows of scans that report every point."""
    rows = np.zeros(len(values), dtype=RECORD)
    rows["point"] = np.arange(len(values)) % points + 1
    rows["utc_ns"] = 1_763_700_000_000_000_000 + np.arange(len(values)) // points * 500_000_000
    rows["value"] = values
    return rows


def round_trip(rows: NDArray[np.void], constant: int | None = 0) -> bytes:
    """Encode and decode; the bytes in between."""
    block = columns.encode(rows, constant)
    back = np.zeros(len(rows), dtype=RECORD)
    back["seq"] = rows["seq"]
    columns.decode(block, back, constant)
    assert back.tobytes() == rows.tobytes()
    return block


def walk(decimals: int | None, seed: int = 1) -> NDArray[np.float64]:
    """A random walk of all points, rounded to some decimals or not at all."""
    chance = np.random.default_rng(seed)
    steps = np.cumsum(chance.normal(0, 0.2, (SCANS, POINTS)), 0)
    found = (chance.uniform(0, 900, POINTS) + steps).reshape(-1)
    return found if decimals is None else np.round(found, decimals)


@pytest.mark.parametrize(("decimals", "bytes_max"), [(0, 0.7), (1, 1.0), (2, 1.5), (3, 2.0)])
def test_values_of_few_decimals_take_few_bytes(decimals: int, bytes_max: float) -> None:
    assert len(round_trip(rows_of(walk(decimals)))) <= bytes_max * SCANS * POINTS


def test_float32_and_float64_noise_take_no_more_than_they_hold() -> None:
    noise = walk(None)
    assert len(round_trip(rows_of(noise))) <= 8.2 * len(noise)
    assert len(round_trip(rows_of(noise.astype(np.float32).astype(np.float64)))) <= 4.2 * len(noise)


def test_constant_columns_cost_next_to_nothing() -> None:
    assert len(round_trip(rows_of(np.full(SCANS * POINTS, 21.5)))) < 300


def test_one_odd_value_spoils_its_own_point_only() -> None:
    values = walk(2)
    plain = len(round_trip(rows_of(values)))
    values[POINTS * 3 + 7] = np.pi
    assert len(round_trip(rows_of(values))) < plain + 8 * SCANS


@pytest.mark.parametrize(
    "value",
    [
        *(0.0, -0.0, np.nan, np.inf, -np.inf, 5e-324, 1.7976931348623157e308, 2.0**53, -(2.0**53)),
        *(0.1 + 0.2, 1e-9, 1e-10, 123456789.123456789, 9007199254740991.0, -1.005),
        struct.unpack("<d", struct.pack("<Q", 0x7FF8_DEAD_BEEF_0001))[0],
    ],
)
def test_every_value_comes_back_bit_by_bit(value: float) -> None:
    round_trip(rows_of(np.array([value, 20.25, value, value, 1e300, 3.0]), points=3))
    round_trip(rows_of(np.array([value])))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 2**32 - 1) | st.integers(1, 4),
            st.integers(0, 2**32 - 1),
            st.floats(width=64)
            | st.floats(width=32)
            | st.decimals(-1000, 1000, places=3).map(float),
            st.integers(-(2**63), 2**63 - 1),
        ),
        min_size=1,
        max_size=60,
    )
)
def test_any_rows_come_back(items: list[tuple[int, int, float, int]]) -> None:
    rows = np.zeros(len(items), dtype=RECORD)
    for row, (point, code, value, utc_ns) in zip(rows, items, strict=True):
        row["point"], row["status"], row["value"], row["utc_ns"] = point, code, value, utc_ns
    round_trip(rows, None)


def test_times_in_whole_milliseconds_take_less_and_come_back() -> None:
    rows = rows_of(walk(50))
    rows["utc_ns"] += np.random.default_rng(7).integers(0, 10**9, len(rows))
    fine = columns.encode(rows, 0)
    rows["utc_ns"] = rows["utc_ns"] // 10**6 * 10**6
    coarse = columns.encode(rows, 0)
    assert len(fine) - len(coarse) > 2 * len(rows)
    round_trip(rows)
    rows["utc_ns"] = -(2**63)
    round_trip(rows)


def test_a_value_that_is_missing_does_not_spoil_its_neighbours() -> None:
    rows = rows_of(walk(200))
    whole = len(columns.encode(rows, 0))
    rows["value"][:POINTS] = np.nan
    assert len(columns.encode(rows, 0)) < whole + 100
    round_trip(rows)
    rows["value"] = np.nan
    round_trip(rows)
    # A NaN of other bits is a value like any other.
    rows["value"].view(np.uint64)[3] = 0x7FF8_0000_0000_0001
    round_trip(rows)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80), st.integers(1, 40), st.booleans())
def test_foreign_bytes_are_refused_or_decoded(data: bytes, count: int, constant: bool) -> None:
    rows = np.zeros(count, dtype=RECORD)
    try:
        columns.decode(data, rows, 0 if constant else None)
    except WireError:
        return


GOOD = columns.encode(rows_of(walk(2)), 0)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_an_altered_byte_ends_in_rows_or_an_error(at: int, change: int) -> None:
    data = bytearray(GOOD)
    data[at] ^= change
    rows = np.zeros(SCANS * POINTS, dtype=RECORD)
    try:
        columns.decode(bytes(data), rows, 0)
    except WireError:
        return


# Two rows of point 1, time 0; both have a value.
POINT = struct.pack("<Q", 1) + b"\0"
HEAD = POINT + b"\0" + struct.pack("<Q", 0) + b"\0" + b"\0\0"
BOMB = zlib.compressobj(9, zlib.DEFLATED, -15)
BOMB_DATA = BOMB.compress(bytes(50_000_000)) + BOMB.flush()


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (b"", "too short"),
        (struct.pack("<Q", 1) + b"\x09", "wider than 8 bytes"),
        (struct.pack("<Q", 1) + b"\x01\x07", "unknown form 7"),
        (struct.pack("<Q", 2**32) + b"\0", "point is out of range"),
        (struct.pack("<Q", 2**64 - 1) + b"\0", "point is out of range"),
        (POINT + b"\x0a" + struct.pack("<Q", 0) + b"\0", "end with 10 zeros"),
        (POINT + b"\0" + struct.pack("<Q", 0) + b"\0\0\x02", "neither 0 nor 1"),
        (HEAD + b"\x01\x00\x0a", "more than 9 decimals"),
        (HEAD + b"\0\0\0\0tail", "too long"),
        (HEAD + b"\x01\x02" + struct.pack("<I", 2**31) + b"x", "too short"),
        (HEAD + b"\x01\x02" + struct.pack("<I", len(BOMB_DATA)) + BOMB_DATA, "size is not the one"),
    ],
)
def test_hostile_columns_are_refused_with_a_reason(block: bytes, message: str) -> None:
    columns.decode(HEAD + b"\0\0\0\0", np.zeros(2, dtype=RECORD), 0)  # two zeros of point 1
    with pytest.raises(WireError, match=message):
        columns.decode(block, np.zeros(2, dtype=RECORD), 0)
