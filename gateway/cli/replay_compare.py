"""What two sites did over the same history: which events belong together, and how they differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.cli.replay_events import Occurrence
from gateway.cli.times import duration_text, iso_utc

DIFFERENCES: Final = ("only here", "only there", "moved", "part there", "part here")
_CALLED: Final = {"machine": "state", "output": "demand"}
_DAY: Final = len("2026-03-01T")


@dataclass(frozen=True, slots=True)
class Pair:
    """One occurrence here and there; None = not there at all.

    difference  one of DIFFERENCES. ``part there``: what happened here is part of a longer
                occurrence there, or overlaps several
    """

    here: Occurrence | None
    there: Occurrence | None
    difference: str

    @property
    def shown(self) -> Occurrence:
        """The occurrence that the difference is about."""
        first, second = self.here, self.there
        if self.difference in ("only there", "part here"):
            first, second = second, first
        found = first or second
        assert found is not None
        return found

    @property
    def start_ns(self) -> int:
        """When it began; of a move: when the first of them did."""
        if self.difference != "moved" or self.here is None or self.there is None:
            return self.shown.start_ns
        return min(self.here.start_ns, self.there.start_ns)

    def in_words(self, last_ns: int) -> str:
        """The difference for people; a move says by how much."""
        here, there = self.here, self.there
        if here is None or there is None:
            return f"{self.difference}, for {duration_text(self.shown.length_ns(last_ns))}"
        if self.difference == "part there":
            return f"there: part of {_span(there, here)}"
        if self.difference == "part here":
            return f"here: part of {_span(here, there)}"
        parts = [
            _moved("begins", there.start_ns - here.start_ns),
            _moved("ends", (there.end_ns or last_ns) - (here.end_ns or last_ns)),
            f"goes to {there.to or there.what}" if there.to != here.to else "",
        ]
        return f"there it {' and '.join(filter(None, parts))}"


def _moved(what: str, ns: int) -> str:
    if not ns:
        return ""
    return f"{what} {duration_text(abs(ns))} {'later' if ns > 0 else 'earlier'}"


def _span(whole: Occurrence, part: Occurrence) -> str:
    """An occurrence with its times; the day only where it is another one."""
    texts = [iso_utc(ns)[:23].removesuffix(".000") for ns in (whole.start_ns, whole.end_ns)]
    day = iso_utc(part.start_ns)[:_DAY]
    first, last = (text.removeprefix(day) for text in texts)
    called = _CALLED.get(whole.kind, whole.kind)
    return f"the {called} {first}-{last if whole.end_ns else 'end of the data'}"


def compare(here: Sequence[Occurrence], there: Sequence[Occurrence]) -> list[Pair]:
    """What one site did and another over the same history, without what both did alike.

    Occurrences of the same kind, name and level belong together where their times overlap.
    """
    sides: dict[tuple[str, str, str], tuple[list[Occurrence], list[Occurrence]]] = {}
    for at, occurrences in enumerate((here, there)):
        for one in occurrences:
            sides.setdefault((one.kind, one.name, one.what), ([], []))[at].append(one)
    pairs = [pair for both in sides.values() for pair in _compared(*both)]
    return sorted(pairs, key=lambda pair: pair.start_ns)


def _compared(here: Sequence[Occurrence], there: Sequence[Occurrence]) -> Iterator[Pair]:
    """The differences of one kind, name and level."""
    of_here: list[list[int]] = [[] for _ in here]
    of_there: list[list[int]] = [[] for _ in there]
    for i, j in _overlaps(here, there):
        of_here[i].append(j)
        of_there[j].append(i)
    yield from (Pair(here[i], None, "only here") for i, met in enumerate(of_here) if not met)
    yield from (Pair(None, there[j], "only there") for j, met in enumerate(of_there) if not met)
    parts: list[tuple[int, int, str]] = []
    for i, met in enumerate(of_here):
        if len(met) == 1 and len(of_there[met[0]]) == 1:
            one, other = here[i], there[met[0]]
            spans = [(o.start_ns, o.end_ns, o.to) for o in (one, other)]
            if spans[0] != spans[1]:
                yield Pair(one, other, "moved")
        elif len(met) == 1:
            parts.append((i, met[0], "part there"))
    for j, met in enumerate(of_there):
        if len(met) == 1 and len(of_here[met[0]]) > 1:
            parts.append((met[0], j, "part here"))
    # Those that overlap several, each of which overlaps several: named once as well.
    named = {i for i, _, _ in parts}
    for i, met in enumerate(of_here):
        if len(met) > 1 and i not in named:
            parts.append((i, max(met, key=lambda j: _common_ns(here[i], there[j])), "part there"))
    named = {j for _, j, _ in parts}
    for j, met in enumerate(of_there):
        if len(met) > 1 and j not in named:
            parts.append((max(met, key=lambda i: _common_ns(here[i], there[j])), j, "part here"))
    yield from (Pair(here[i], there[j], how) for i, j, how in parts)


_FOREVER_NS: Final = 2**63


def _end_ns(one: Occurrence) -> int:
    return one.end_ns or _FOREVER_NS


def _common_ns(one: Occurrence, other: Occurrence) -> int:
    """For how long both were the case."""
    return min(_end_ns(one), _end_ns(other)) - max(one.start_ns, other.start_ns)


def _overlaps(here: Sequence[Occurrence], there: Sequence[Occurrence]) -> Iterator[tuple[int, int]]:
    """Positions of those that were the case at the same time; of each side one ends first."""
    i = j = 0
    while i < len(here) and j < len(there):
        one, other = here[i], there[j]
        if _common_ns(one, other) > 0 or one.start_ns == other.start_ns:
            yield i, j
        ends = _end_ns(one), _end_ns(other)
        i += ends[0] <= ends[1]
        j += ends[1] <= ends[0]
