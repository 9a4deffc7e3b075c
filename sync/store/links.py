"""What each link has let go of: ranges of places in the store. Pure.

A frame leaves the store when every link has let it go. With one link nothing has to be kept of
that; with several, the frames that a link is done with and another one still needs are a few
ranges a link, however many they are.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Final

# The place of the archive (`sync.archive`). No link can have this name; a frame that waits for the
# archive only is no backlog.
HISTORY: Final = "~history"
RANGES_MAX: Final = 1000  # of a link; what is forgotten beyond them is sent again


class Ranges:
    """Places as disjoint, sorted, non-adjacent ranges, both ends included."""

    def __init__(self, pairs: Iterable[tuple[int, int]] = ()) -> None:
        """Any pairs (first, last); what overlaps or touches becomes one."""
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for first, last in sorted(pairs):
            self.add(first, last)

    def __contains__(self, place: int) -> bool:
        at = bisect_right(self._firsts, place) - 1
        return at >= 0 and place <= self._lasts[at]

    def pairs(self) -> list[tuple[int, int]]:
        """The ranges in order."""
        return list(zip(self._firsts, self._lasts, strict=True))

    def add(self, first: int, last: int) -> None:
        """Takes in a range."""
        low = bisect_right(self._firsts, first) - 1
        if low >= 0 and self._lasts[low] >= first - 1:
            first = self._firsts[low]
            last = max(last, self._lasts[low])
        else:
            low += 1
        high = max(bisect_right(self._firsts, last + 1), low)
        if high > low:
            last = max(last, self._lasts[high - 1])
        self._firsts[low:high] = [first]
        self._lasts[low:high] = [last]

    def excess(self) -> tuple[int, int] | None:
        """The smallest range, the oldest of these, where there are more than RANGES_MAX."""
        if len(self._firsts) <= RANGES_MAX:
            return None
        return min(self.pairs(), key=lambda pair: pair[1] - pair[0])

    def forget(self, span: tuple[int, int]) -> None:
        """Drops a range, as it stands here."""
        at = self._firsts.index(span[0])
        del self._firsts[at], self._lasts[at]

    def forget_below(self, place: int) -> None:
        """Drops ranges that end below a place: no frame stands there any more."""
        while self._lasts and self._lasts[0] < place:
            del self._firsts[0], self._lasts[0]

    def outside(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """The parts of `first` to `last` that are in no range, in order."""
        at = bisect_right(self._firsts, first) - 1
        if at >= 0:
            first = max(first, self._lasts[at] + 1)
        for low, high in self.pairs()[at + 1 :]:
            if low > last:
                break
            if first < low:
                yield first, low - 1
            first = high + 1
        if first <= last:
            yield first, last

    def inside(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """The parts of `first` to `last` that are in a range, in order."""
        at = max(bisect_right(self._firsts, first) - 1, 0)
        for low, high in self.pairs()[at:]:
            if low > last:
                return
            if high >= first:
                yield max(low, first), min(high, last)


def common(every: Iterable[Ranges]) -> list[tuple[int, int]]:
    """What is in all of them."""
    first, *others = every
    found = first.pairs()
    for ranges in others:
        found = [part for pair in found for part in ranges.inside(*pair)]
    return found
