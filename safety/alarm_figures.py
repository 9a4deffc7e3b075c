"""How the alarm system does: the figures of EEMUA 191 and ISA-18.2 (clause 16), counted.

All memory is bounded: announcements are counted in bins of ten seconds over a day, and each alarm
keeps the times of its last three.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

PRIORITIES: Final = ("urgent", "high", "medium", "low")
BIN_NS: Final = 10_000_000_000
BINS: Final = 8_640  # a day
RATE_BINS: Final = 60  # ten minutes
FLOOD_MORE_THAN: Final = 10  # announced in ten minutes to one operator (ISA-18.2, EEMUA 191)
CHATTER_TIMES: Final = 3  # a minute (ISA-18.2)
CHATTER_NS: Final = 60_000_000_000
STALE_NS: Final = 86_400_000_000_000  # a day (EEMUA 191)
FREQUENT_MAX: Final = 10
_LONG_AGO_NS: Final = -(2**62)


@dataclass(frozen=True, slots=True)
class AlarmFigures:
    """The figures of this moment; alarms are positions in `AlarmTable.infos`.

    active            whose rule's condition holds, shelved ones included
    standing          in the alarm list: active or latched, and not set aside
    unacknowledged    that wait for an acknowledgement
    shelved, suppressed, out_of_service  set aside, by why
    rate              announced in the last ten minutes
    flood             `rate` is above FLOOD_MORE_THAN
    chattering        that came CHATTER_TIMES in the last minute
    stale             that stand for more than 24 h
    bad_input         whose condition can't be told, because an input is bad
    """

    active: int
    standing: int
    unacknowledged: int
    shelved: int
    suppressed: int
    out_of_service: int
    rate: int
    flood: bool
    chattering: tuple[int, ...]
    stale: tuple[int, ...]
    bad_input: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AlarmDay:
    """The figures of the last 24 h, or of the time since the start where that is shorter.

    announced    alarms announced
    rate_peak    the largest number of any ten minutes
    flood_share  of the time in which the rate was above FLOOD_MORE_THAN, 0 to 1
    priorities   name -> announced
    frequent     (alarm, announced since the start), the most frequent first
    """

    announced: int
    rate_peak: int
    flood_share: float
    priorities: dict[str, int]
    frequent: tuple[tuple[int, int], ...]


class AlarmCounts:
    """Counts announcements; times are monotonic."""

    def __init__(self, priorities: Sequence[str]) -> None:
        """`priorities` has one of PRIORITIES an alarm."""
        self._priority = [PRIORITIES.index(name) for name in priorities]
        self._bins = np.zeros((len(PRIORITIES), BINS), dtype=np.int32)
        self._first: int | None = None  # number of the bin in which counting began
        self._newest = 0
        self._last_ns = np.full((len(priorities), CHATTER_TIMES), _LONG_AGO_NS, dtype=np.int64)
        self._total = np.zeros(len(priorities), dtype=np.int64)

    def announce(self, alarm: int, now_ns: int) -> None:
        """Count one announcement."""
        self._move(now_ns)
        self._bins[self._priority[alarm], self._newest % BINS] += 1
        self._last_ns[alarm] = (*self._last_ns[alarm, 1:], now_ns)
        self._total[alarm] += 1

    def _move(self, now_ns: int) -> None:
        """Empty the bins of the time in which nothing came; time never goes back."""
        number = now_ns // BIN_NS
        if self._first is None:
            self._first = self._newest = number
        passed = min(number - self._newest, BINS)
        if passed > 0:
            self._bins[:, np.arange(number - passed + 1, number + 1) % BINS] = 0
            self._newest = number

    def rate(self, now_ns: int) -> int:
        """Announced in the last ten minutes, to within BIN_NS."""
        self._move(now_ns)
        newest = np.arange(self._newest - RATE_BINS + 1, self._newest + 1) % BINS
        return int(self._bins[:, newest].sum())

    def day(self, now_ns: int) -> AlarmDay:
        """The figures of the last 24 h."""
        rates, by_priority = self._rates(now_ns), self._bins.sum(axis=1).tolist()
        return AlarmDay(
            announced=sum(by_priority),
            rate_peak=int(rates.max()),
            flood_share=float(np.mean(rates > FLOOD_MORE_THAN)),
            priorities=dict(zip(PRIORITIES, by_priority, strict=True)),
            frequent=self._frequent(),
        )

    def _rates(self, now_ns: int) -> NDArray[np.int64]:
        """Announced in the ten minutes up to each bin of the last 24 h since the start."""
        self._move(now_ns)
        assert self._first is not None
        seen = min(self._newest - self._first + 1, BINS)
        oldest = (self._newest + 1) % BINS
        sums = np.concatenate(([0], np.cumsum(np.roll(self._bins.sum(axis=0), -oldest))))
        begins = np.maximum(np.arange(1, BINS + 1) - RATE_BINS, 0)
        rates: NDArray[np.int64] = sums[1:] - sums[begins]
        return rates[BINS - seen :]

    def chattering(self, now_ns: int) -> NDArray[np.intp]:
        """Alarms that were announced CHATTER_TIMES in the last minute."""
        return np.flatnonzero(now_ns - self._last_ns[:, 0] <= CHATTER_NS)

    def _frequent(self) -> tuple[tuple[int, int], ...]:
        order = np.argsort(-self._total, kind="stable")[:FREQUENT_MAX].tolist()
        return tuple((at, int(self._total[at])) for at in order if self._total[at])
