"""Aggregates in plain Python, one interval at a time, from the text of OPC 10000-13.

Nothing of gateway/opcua/history is used but its constants: what numpy does there over all
intervals at once is done here with loops and fractions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

CALCULATED, INTERPOLATED, PARTIAL, MULTIPLE = 0x401, 0x402, 0x404, 0x410
NO_DATA, SUB_NORMAL, BAD = 0x809B0000, 0x40A40000, 0x80000000
Row = tuple[int, float, int]  # time in ns, value, code
Result = tuple[int, Fraction | None, int]


@dataclass(frozen=True)
class Rules:
    uncertain_is_bad: bool
    percent_bad: int
    percent_good: int
    sloped: bool
    stepped: bool


def is_good(row: Row) -> bool:
    return row[2] >> 30 == 0


def is_bad(row: Row) -> bool:
    return row[2] >> 30 >= 2


class Oracle:
    """All rows of a point, in time order, and how they are treated."""

    def __init__(self, rows: list[Row], rules: Rules) -> None:
        self.rows = rows
        self.rules = rules
        self.usable = [
            at
            for at, row in enumerate(rows)
            if not is_bad(row) and (is_good(row) or not rules.uncertain_is_bad)
        ]

    # ------------------------------------------------------------ one interval

    def inside(self, low: int, high: int, backward: bool) -> list[Row]:
        if backward:
            return [row for row in self.rows if low < row[0] <= high]
        return [row for row in self.rows if low <= row[0] < high]

    def outside(self, low: int, high: int, backward: bool) -> bool:
        if not self.rows:
            return True
        first, last = self.rows[0][0], self.rows[-1][0]
        if backward:
            return first > high or last <= low
        return first >= high or last < low

    def partial(self, low: int, high: int) -> int:
        cut = self.rows[0][0] > low or self.rows[-1][0] < high
        return PARTIAL if cut else 0

    def run(self, name: str, low: int, high: int, backward: bool) -> Result:
        stamp = high if backward else low
        if name == "Interpolative":
            return (stamp, *self.interpolated(stamp))
        if self.outside(low, high, backward):
            return stamp, None, NO_DATA
        time, value, code = getattr(self, name.lower())(low, high, backward, stamp)
        return (stamp, None, NO_DATA) if code == NO_DATA else (time, value, code)

    # ------------------------------------------------------------ counts and extremes

    def by_values(self, rows: list[Row]) -> int:
        if not rows:
            return CALCULATED
        poor = sum(1 for row in rows if is_bad(row))
        uncertain = sum(1 for row in rows if not is_bad(row) and not is_good(row))
        if self.rules.uncertain_is_bad:
            poor += uncertain
        total = len(rows)
        if (total - poor) * 100 >= self.rules.percent_good * total:
            if uncertain and not self.rules.uncertain_is_bad:
                return SUB_NORMAL | CALCULATED
            return CALCULATED
        if poor * 100 >= self.rules.percent_bad * total:
            return BAD
        return SUB_NORMAL | CALCULATED

    def average(self, low: int, high: int, backward: bool, stamp: int) -> Result:
        rows = self.inside(low, high, backward)
        good = [Fraction(row[1]) for row in rows if is_good(row)]
        if not good:
            return stamp, None, NO_DATA
        code = self.by_values(rows)
        return stamp, None if code == BAD else sum(good) / len(good), code

    def count(self, low: int, high: int, backward: bool, stamp: int) -> Result:
        rows = self.inside(low, high, backward)
        code = self.by_values(rows)
        if code == BAD:
            return stamp, None, BAD
        return stamp, Fraction(sum(map(is_good, rows))), code | self.partial(low, high)

    def _extreme(self, rows: list[Row], sign: int) -> tuple[float, list[int], bool] | None:
        good = [row for row in rows if is_good(row)]
        if not good:
            return None
        best = max(row[1] * sign for row in good) * sign
        times = [row[0] for row in good if row[1] == best]
        poor = any(is_bad(row) for row in rows)
        for row in rows:
            if not is_bad(row) and not is_good(row):
                poor |= self.rules.uncertain_is_bad or row[1] * sign > best * sign
        return best, times, poor

    def _of_interval(self, low: int, high: int, backward: bool, stamp: int, sign: int) -> Result:
        found = self._extreme(self.inside(low, high, backward), sign)
        if found is None:
            return stamp, None, NO_DATA
        best, times, poor = found
        code = self.partial(low, high)
        if poor:
            code |= SUB_NORMAL | CALCULATED
        if times[0] != stamp:
            code |= CALCULATED
        if len(times) > 1:
            code |= MULTIPLE
        return stamp, Fraction(best), code

    def minimum(self, low: int, high: int, backward: bool, stamp: int) -> Result:
        return self._of_interval(low, high, backward, stamp, -1)

    def maximum(self, low: int, high: int, backward: bool, stamp: int) -> Result:
        return self._of_interval(low, high, backward, stamp, 1)

    def _of_time(self, low: int, high: int, backward: bool, stamp: int, sign: int) -> Result:
        found = self._extreme(self.inside(low, high, backward), sign)
        if found is None:
            return stamp, None, NO_DATA
        best, times, poor = found
        code = self.partial(low, high) | (SUB_NORMAL if poor else 0)
        return times[0], Fraction(best), code | (MULTIPLE if len(times) > 1 else 0)

    def minimumactualtime(self, low: int, high: int, backward: bool, stamp: int) -> Result:
        return self._of_time(low, high, backward, stamp, -1)

    def maximumactualtime(self, low: int, high: int, backward: bool, stamp: int) -> Result:
        return self._of_time(low, high, backward, stamp, 1)

    def range(self, low: int, high: int, backward: bool, stamp: int) -> Result:
        rows = self.inside(low, high, backward)
        least, most = self._extreme(rows, -1), self._extreme(rows, 1)
        if least is None or most is None:
            return stamp, None, NO_DATA
        code = CALCULATED | self.partial(low, high)
        code |= SUB_NORMAL if least[2] or most[2] else 0
        return stamp, Fraction(most[0]) - Fraction(least[0]), code

    def delta(self, low: int, high: int, backward: bool, stamp: int) -> Result:
        rows = self.inside(low, high, backward)
        good = [row for row in rows if is_good(row)]
        if not good:
            return stamp, None, NO_DATA
        skipped = not is_good(rows[0]) or not is_good(rows[-1])
        code = CALCULATED | self.partial(low, high) | (SUB_NORMAL if skipped else 0)
        return stamp, Fraction(good[-1][1]) - Fraction(good[0][1]), code

    def start(self, low: int, high: int, backward: bool, stamp: int) -> Result:
        return self._raw(self.inside(low, high, backward)[:1], low, high)

    def end(self, low: int, high: int, backward: bool, stamp: int) -> Result:
        return self._raw(self.inside(low, high, backward)[-1:], low, high)

    def _raw(self, rows: list[Row], low: int, high: int) -> Result:
        if not rows:
            return 0, None, NO_DATA
        ((time, value, code),) = rows
        return time, None if code >= BAD else Fraction(value), code | self.partial(low, high)

    # ------------------------------------------------------------ values at a time

    def interpolated(self, at: int) -> tuple[Fraction | None, int]:
        before = [one for one in self.usable if self.rows[one][0] <= at]
        if not before:
            return None, NO_DATA
        one = before[-1]
        time, value, code = self.rows[one]
        if time == at:
            return Fraction(value), code
        found, sound = self._beyond(one, at)
        return found, INTERPOLATED | (0 if sound else SUB_NORMAL)

    def _beyond(self, one: int, at: int) -> tuple[Fraction, bool]:
        """The value at a time behind usable row `one` and before the next, and if it is sound."""
        time, value, _ = self.rows[one]
        after = [other for other in self.usable if other > one]
        good = is_good(self.rows[one])
        if self.rules.stepped:
            later = [other for other in range(one + 1, len(self.rows)) if self.rows[other][0] <= at]
            if all(row[0] <= at for row in self.rows):
                return self._extrapolated(at), False
            return Fraction(value), good and not later
        if not after:
            return self._extrapolated(at), False
        next_time, next_value, _ = self.rows[after[0]]
        part = Fraction(at - time, next_time - time)
        found = Fraction(value) + (Fraction(next_value) - Fraction(value)) * part
        return found, good and is_good(self.rows[after[0]]) and after[0] == one + 1

    def _extrapolated(self, at: int) -> Fraction:
        time, value, _ = self.rows[self.usable[-1]]
        if not self.rules.sloped or len(self.usable) < 2:
            return Fraction(value)
        time0, value0, _ = self.rows[self.usable[-2]]
        if time == time0:
            return Fraction(value)
        rise = (Fraction(value) - Fraction(value0)) / (time - time0)
        return Fraction(value) + rise * (at - time)

    # ------------------------------------------------------------ by time

    def timeaverage(self, low: int, high: int, backward: bool, stamp: int) -> Result:
        found = self._area(low, high)
        if found is None:
            return stamp, None, NO_DATA
        area, covered, sound = found
        code = CALCULATED | self.partial(low, high) | (0 if sound else SUB_NORMAL)
        return stamp, area / covered, code

    def total(self, low: int, high: int, backward: bool, stamp: int) -> Result:
        _, value, code = self.timeaverage(low, high, backward, stamp)
        return stamp, None if value is None else value * Fraction(high - low, 10**9), code

    def _area(self, low: int, high: int) -> tuple[Fraction, int, bool] | None:
        area, covered, sound = Fraction(0), 0, True
        for at, one in enumerate(self.usable):
            time, value, _ = self.rows[one]
            begin = max(time, low)
            if at + 1 < len(self.usable):
                other = self.usable[at + 1]
                next_time, next_value, _ = self.rows[other]
                end = min(next_time, high)
                good = is_good(self.rows[one]) and is_good(self.rows[other]) and other == one + 1
                width = max(next_time - time, 1)
                slope = (Fraction(next_value) - Fraction(value)) / width
            else:
                end, good = high, False
                slope = self._extrapolated(time + 1) - Fraction(value)
            if end <= begin:
                continue
            middle = Fraction(value) + slope * (Fraction(begin + end, 2) - time)
            area += middle * (end - begin)
            covered += end - begin
            sound &= good
        return (area, covered, sound and covered == high - low) if covered else None

    def _held(self, low: int, high: int, counts: Callable[[float, int], bool]) -> Fraction:
        """ms in which values with their codes count."""
        total = 0
        later = [row for row in self.rows if row[0] >= low]
        earlier = [at for at, row in enumerate(self.rows) if row[0] <= low]
        last = self.rows[-1][0]
        if earlier and self.rows[earlier[-1]][0] < low:
            end = min(later[0][0] if later else last, high)
            if counts(*self._simple(earlier[-1], low)):
                total += max(end - low, 0)
        for at, row in enumerate(self.rows):
            if low <= row[0] < high and at + 1 < len(self.rows) and counts(row[1], row[2]):
                total += min(self.rows[at + 1][0], high) - row[0]
        return Fraction(total, 10**6)

    def _simple(self, before: int, at: int) -> tuple[float, int]:
        """A simple bound between a row and the next one, at the time of neither."""
        row = self.rows[before]
        if is_bad(row):
            return 0.0, NO_DATA
        if before + 1 == len(self.rows):
            return row[1], SUB_NORMAL
        if self.rules.stepped:
            return row[1], 0 if is_good(row) else SUB_NORMAL
        after = self.rows[before + 1]
        good = is_good(row) and is_good(after)
        if is_bad(after):
            return row[1], SUB_NORMAL
        value = row[1] + (after[1] - row[1]) * (at - row[0]) / (after[0] - row[0])
        return value, 0 if good else SUB_NORMAL

    def _duration(self, low: int, high: int, bad: bool, share: bool, stamp: int) -> Result:
        value = self._held(low, high, lambda _, code: code >> 30 >= 2 if bad else code >> 30 == 0)
        if share:
            value = value * 100 / Fraction(high - low, 10**6)
        return stamp, value, CALCULATED | self.partial(low, high)

    def _in_state(self, low: int, high: int, zero: bool, stamp: int) -> Result:
        def usable(value: float, code: int) -> bool:
            return code >> 30 == 0 or (code >> 30 == 1 and not self.rules.uncertain_is_bad)

        length = Fraction(high - low, 10**6)
        good = self._held(low, high, usable)
        doubt = self._held(low, high, lambda _, code: code >> 30 == 1)
        value = self._held(low, high, lambda v, code: usable(v, code) and (v == 0) == zero)
        code = CALCULATED | self.partial(low, high)
        if good * 100 >= self.rules.percent_good * length:
            doubtful = doubt > 0 and not self.rules.uncertain_is_bad
            return stamp, value, code | (SUB_NORMAL if doubtful else 0)
        if (length - good) * 100 >= self.rules.percent_bad * length:
            return stamp, None, BAD
        return stamp, value, code | SUB_NORMAL

    def durationinstatezero(self, low: int, high: int, backward: bool, stamp: int) -> Result:
        return self._in_state(low, high, True, stamp)

    def durationinstatenonzero(self, low: int, high: int, backward: bool, stamp: int) -> Result:
        return self._in_state(low, high, False, stamp)

    def durationgood(self, low: int, high: int, backward: bool, stamp: int) -> Result:
        return self._duration(low, high, False, False, stamp)

    def durationbad(self, low: int, high: int, backward: bool, stamp: int) -> Result:
        return self._duration(low, high, True, False, stamp)

    def percentgood(self, low: int, high: int, backward: bool, stamp: int) -> Result:
        return self._duration(low, high, False, True, stamp)

    def percentbad(self, low: int, high: int, backward: bool, stamp: int) -> Result:
        return self._duration(low, high, True, True, stamp)
