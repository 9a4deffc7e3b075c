"""How punctual the scan is, in numbers."""

from __future__ import annotations

import pytest

from gateway.statistics import SAMPLES_MAX, Recent, ScanStatistics

MS = 1_000_000


def test_before_the_first_scan_everything_is_zero() -> None:
    statistics = ScanStatistics()
    assert statistics.take_recent() == Recent(0.0, 0.0, 0.0)
    assert set(statistics.percentiles_ms().values()) == {0.0}


def test_the_recent_scans_are_those_since_the_last_look() -> None:
    statistics = ScanStatistics()
    for lateness_ms, duration_ms in ((1, 4), (5, 2), (3, 3)):
        statistics.add(lateness_ms * MS, duration_ms * MS)
    assert statistics.take_recent() == Recent(lateness=5.0, jitter=4.0, duration=4.0)
    assert statistics.take_recent() == Recent(0.0, 0.0, 0.0)
    statistics.add(2 * MS, 1 * MS)
    assert statistics.take_recent() == Recent(2.0, 0.0, 1.0)


def test_percentiles_are_those_of_the_newest_scans() -> None:
    statistics = ScanStatistics()
    for number in range(1, 1001):
        statistics.add(number * MS, 2 * number * MS)
    shown = statistics.percentiles_ms()
    assert shown["lateness_p50_ms"] == pytest.approx(500.5)
    assert shown["lateness_p99_ms"] == pytest.approx(990.01)
    assert shown["lateness_p999_ms"] == pytest.approx(999.001)
    assert shown["duration_p50_ms"] == pytest.approx(1001.0)
    assert statistics.percentiles_ms(10)["lateness_p50_ms"] == pytest.approx(995.5)


def test_old_scans_are_forgotten() -> None:
    statistics = ScanStatistics()
    for number in range(SAMPLES_MAX + 100):
        statistics.add(1000 * MS if number < 100 else MS, MS)
    assert statistics.percentiles_ms()["lateness_p999_ms"] == 1.0
    assert statistics.take_recent().lateness == 1.0
    assert statistics.plain(5)["count"] == SAMPLES_MAX + 100
