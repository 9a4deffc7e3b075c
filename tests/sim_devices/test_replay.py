"""Replay of measured data: the real files, and files that aren't what they should be."""

from __future__ import annotations

import math
from importlib import metadata

import pytest

from drivers.sim import replay
from drivers.sim.replay import ReplayMissing, Series, load_replay, read_power, read_weather

HEADER = "," + ",".join(replay.WEATHER_COLUMNS)


def test_the_measured_day_rises_and_sets() -> None:
    day = load_replay()
    assert day.at(12 * 60)["pv_power_w"] > 3000.0
    assert day.at(5 * 60)["pv_power_w"] < 0.0  # the inverter's own need at night
    assert day.at(12 * 60)["global_horizontal_w_per_m2"] > 400.0
    assert all(math.isfinite(value) for value in day.at(9 * 60).values())


def test_a_value_stands_until_the_next_one_was_measured() -> None:
    series = read_power(
        ["t,p", "2022-03-18 04:33:00-07:00,1.5", "2022-03-18 04:35:00-07:00,2.5"], "2022-03-18"
    )
    assert [series.at(m) for m in (273.0, 274.9, 275.0)] == [1.5, 1.5, 2.5]


def test_before_the_first_measurement_there_is_no_value() -> None:
    assert math.isnan(Series((10,), (1.0,)).at(9.0))


def test_a_field_that_was_not_measured_is_no_number() -> None:
    series = read_power(["t,p", "2022-03-18 04:33:00-07:00,"], "2022-03-18")
    assert math.isnan(series.at(273))


def test_the_day_repeats() -> None:
    series = Series((0, 60), (1.0, 2.0))
    assert series.at(24 * 60 + 61) == 2.0


def test_rows_of_other_days_are_left_out() -> None:
    lines = [HEADER, "1/2/2022 0:05" + ",1" * 9, "1/12/2022 0:10" + ",2" * 9]
    assert read_weather(lines, "1/2/2022")["wind_speed_m_per_s"].values == (1.0,)


def test_a_wheel_that_is_not_installed_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def files(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(replay.metadata, "files", files)
    with pytest.raises(ReplayMissing, match=r"requirements-demo\.lock"):
        load_replay()


def test_a_wheel_without_the_file_says_which() -> None:
    with pytest.raises(ReplayMissing, match=r"no data file nothing\.csv"):
        replay.data_file("nothing.csv")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["t,p", "2022-03-18 04:33:00-07:00"], "a row of 1 columns"),
        (["t,p", "2022-03-18 04:33:00-07:00,much"], "could not convert"),
        (["t,p", "2022-03-17 04:33:00-07:00,1"], "no row of the day"),
        ([], "no row of the day"),
    ],
)
def test_a_damaged_power_file_is_refused(lines: list[str], message: str) -> None:
    with pytest.raises(ReplayMissing, match=message):
        read_power(lines, "2022-03-18")


def test_a_weather_file_without_a_column_names_it() -> None:
    with pytest.raises(ReplayMissing, match="Wind Speed"):
        read_weather([HEADER.replace(",Wind Speed", "")], "1/2/2022")
