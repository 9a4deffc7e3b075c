"""The tables of bridges: where each line leads, and whether a message can go round. Pure.

A line takes topics that its filter matches and puts others in front: ``platone/dsotp/#`` to
``bal/`` makes ``bal/a/b`` of ``platone/dsotp/a/b``. A filter's image under a line is a filter
again, and so is what two filters share (config/filters.py); following images from broker to broker
therefore tells exactly which lines one message can pass. A table is loop-free where no message
can come back to a line that it passed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from config.broker import Broker, broker_of
from config.filters import Levels, common, example, is_wild, levels_of
from config.link import BridgeEntry, BridgeTopic

STEPS_MAX: Final = 300_000  # of the search for loops, less than a second
LOOPS_MAX: Final = 20  # that are told


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a table.

    place         key in link.json, e.g. ``Bridges.bal.Topics[0]``
    source        the broker that it takes messages from
    destination   the broker that it gives them to
    taken         levels of `From`
    kept          how many levels of it stand in front of the first wildcard
    front         levels that take their place
    """

    place: str
    source: Broker
    destination: Broker
    taken: Levels
    kept: int
    front: Levels

    def image(self, levels: Levels) -> Levels:
        """Where topics lead that `taken` matches; `levels` may be a filter of some of them."""
        return self.front + levels[self.kept :]


@dataclass(frozen=True, slots=True)
class Loop:
    """`last` puts a message on `topic` of the broker from which `first`, which had it, takes it."""

    first: Line
    last: Line
    topic: str


class Tangled(Exception):
    """There are so many ways through the tables that they can't be followed."""


def front_of(topic: BridgeTopic) -> tuple[int, Levels]:
    """How many levels of `From` stand in front of its first wildcard, and what replaces them."""
    taken = levels_of(topic.From)
    kept = next((n for n, level in enumerate(taken) if is_wild((level,))), len(taken))
    if not topic.To:
        return kept, taken[:kept]
    to = topic.To.removesuffix("/") if is_wild(taken) else topic.To
    return kept, levels_of(to)


def lines_of(name: str, entry: BridgeEntry) -> list[Line]:
    """The lines of one bridge, in order."""
    local, remote = broker_of(entry.Local.URL), broker_of(entry.Remote.URL)
    lines = []
    for position, topic in enumerate(entry.Topics):
        source, destination = (remote, local) if topic.Direction == "in" else (local, remote)
        kept, front = front_of(topic)
        place = f"Bridges.{name}.Topics[{position}]"
        lines.append(Line(place, source, destination, levels_of(topic.From), kept, front))
    return lines


def loops(lines: Sequence[Line]) -> list[Loop]:
    """Every way on which a message comes back to a line, one a pair of lines.

    Empty: it is proven that none does, as far as brokers are told apart by their addresses.
    Raises Tangled.
    """
    found: dict[tuple[Line, Line], Loop] = {}
    steps = 0
    ways: list[tuple[tuple[Line, ...], Levels]]
    ways = [((line,), line.taken) for line in reversed(lines)]
    while ways and len(found) < LOOPS_MAX:
        passed, levels = ways.pop()
        last = passed[-1]
        there = last.image(levels)
        for line in lines:
            steps += 1
            if steps > STEPS_MAX:
                raise Tangled
            shared = common(there, line.taken) if line.source == last.destination else None
            if shared is None:
                continue
            if line in passed:
                # Told from the line it comes back to; the same round from another one is the same.
                pair = (line, last)
                if frozenset(pair) not in {frozenset(known) for known in found}:
                    found[pair] = Loop(line, last, example(shared))
            else:
                ways.append(((*passed, line), shared))
    return list(found.values())


def overlaps(lines: Iterable[Line]) -> list[tuple[Line, Line, str]]:
    """Pairs of lines of one direction that take the same topic, with that topic."""
    every = list(lines)
    return [
        (one, other, example(shared))
        for position, one in enumerate(every)
        for other in every[position + 1 :]
        if one.source == other.source
        and one.destination == other.destination
        and (shared := common(one.taken, other.taken)) is not None
    ]
