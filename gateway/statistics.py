"""How punctual the scan is: counts, lateness and duration of the periodic scans."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

SAMPLES_MAX: Final = 65_536  # the newest are kept: two hours at 100 ms
_PERCENTS: Final = {"p50": 50.0, "p99": 99.0, "p999": 99.9}


class Recent(NamedTuple):
    """The scans since the last look, in ms.

    jitter  the largest lateness less the smallest: how far the grid of the scans is off
    """

    lateness: float = 0.0
    jitter: float = 0.0
    duration: float = 0.0


class ScanStatistics:
    """Counts and times of the periodic scans; the newest samples are kept.

    lateness  from the grid to the begin of the scan
    duration  from the begin of the scan to its end
    """

    def __init__(self) -> None:
        self.count = 0  # periodic scans
        self.extra = 0  # scans at the landing of a protective block
        self.overruns = 0  # periods that were skipped because the scan before was late
        self._samples_ns = np.zeros((2, SAMPLES_MAX), dtype=np.int64)
        self._looked = 0  # `count` at the last look

    def add(self, lateness_ns: int, duration_ns: int) -> None:
        """Note one periodic scan."""
        at = self.count % SAMPLES_MAX
        self._samples_ns[0, at] = lateness_ns
        self._samples_ns[1, at] = duration_ns
        self.count += 1

    def take_recent(self) -> Recent:
        """The scans since the last call; zeros where there were none."""
        first = max(self._looked, self.count - SAMPLES_MAX)
        self._looked = self.count
        if first == self.count:
            return Recent()
        places = np.arange(first, self.count) % SAMPLES_MAX
        lateness, duration = self._samples_ns[:, places] / 1e6
        low, high = float(lateness.min()), float(lateness.max())
        return Recent(high, high - low, float(duration.max()))

    def percentiles_ms(self, scans: int = SAMPLES_MAX) -> dict[str, float]:
        """``lateness_p50_ms`` ... ``duration_p999_ms`` of the newest scans; 0 before the first."""
        last = max(self.count, 1)
        places = np.arange(max(0, last - min(scans, SAMPLES_MAX)), last) % SAMPLES_MAX
        found = np.percentile(self._samples_ns[:, places], list(_PERCENTS.values()), axis=1) / 1e6
        return {
            f"{what}_{name}_ms": round(float(value), 3)
            for what, column in zip(("lateness", "duration"), found.T, strict=True)
            for name, value in zip(_PERCENTS, column, strict=True)
        }

    def plain(self, scans: int = 0) -> dict[str, Any]:
        """Everything for the status; times of the newest `scans`, 0 = of all that are kept."""
        return {
            "count": self.count,
            "extra": self.extra,
            "overruns": self.overruns,
            **self.percentiles_ms(scans or SAMPLES_MAX),
        }
