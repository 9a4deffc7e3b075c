"""What arrived of a device that numbers its answers: holes, doubles, order; see `bench.outage`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from cloud.historian import EpochAudit, Sample
from gateway.core.records import Gap

WRAP: Final = 65_536

Hole = tuple[tuple[int, int], tuple[int, int], int]


@dataclass(frozen=True, slots=True)
class Found:
    """Counted readings.

    undeclared  numbers that the device gave and that are in no row and behind no declared gap
    declared    numbers that are not there because a gap says so
    at_stop     answers that were on their way when the gateway was told to stop, one a stop
    doubled     numbers that stand in two rows
    disordered  rows of a point whose number is smaller than that of the row before
    holes       where the undeclared ones are: (epoch, seq) of the rows around them, and how many
    """

    arrived: int
    undeclared: int
    declared: int
    doubled: int
    disordered: int
    holes: tuple[Hole, ...] = ()
    at_stop: int = 0


def numbers_of(values: Iterable[float]) -> list[int]:
    """The device's counts, unwrapped: 65535, 0 becomes 65535, 65536."""
    found: list[int] = []
    turn, before = 0, 0
    for value in values:
        count = int(value)
        if count - before < -WRAP // 2:
            turn += WRAP
        elif count - before > WRAP // 2 and turn:
            turn -= WRAP
        before = count
        found.append(turn + count)
    return found


def of_historian(samples: Sequence[Sample], epochs: Sequence[EpochAudit]) -> Found:
    """The readings of one point, good ones, in the order of epoch and sequence."""
    rows = [s for s in samples if s.status == 0]
    numbers = numbers_of(s.value for s in rows)
    gaps = {e.epoch: e.gaps for e in epochs}
    declared = doubled = disordered = at_stop = 0
    holes: list[Hole] = []
    for at in range(1, len(rows)):
        step = numbers[at] - numbers[at - 1]
        doubled += step == 0
        disordered += step < 0
        if step > 1 and _gap_between(rows[at - 1], rows[at], gaps):
            declared += step - 1
        elif step == 2 and rows[at].epoch != rows[at - 1].epoch:
            at_stop += 1
        elif step > 1:
            around = [(row.epoch, row.seq) for row in rows[at - 1 : at + 1]]
            holes.append((around[0], around[1], step - 1))
    undeclared = sum(hole[2] for hole in holes)
    return Found(
        len(set(numbers)), undeclared, declared, doubled, disordered, tuple(holes), at_stop
    )


def _gap_between(before: Sample, after: Sample, gaps: Mapping[int, Sequence[Gap]]) -> bool:
    """Whether a gap is declared behind one row and in front of the other."""
    for epoch in {before.epoch, after.epoch}:
        for gap in gaps.get(epoch, ()):
            behind = epoch > before.epoch or gap.last == 0 or gap.last > before.seq
            in_front = epoch < after.epoch or gap.first < after.seq
            if behind and in_front:
                return True
    return False


def of_stream(values: Sequence[int], answered: int) -> Found:
    """The readings of a gateway that declares nothing, in the order in which they came.

    answered  how many answers the device had given; what came behind them does not count
    """
    numbers = [number for number in numbers_of(values) if number <= answered]
    distinct = set(numbers)
    behind = sum(two < one for one, two in pairwise(numbers))
    missing = max(0, answered - len(distinct))
    return Found(len(distinct), missing, 0, len(numbers) - len(distinct), behind)
