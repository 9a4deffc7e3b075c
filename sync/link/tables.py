"""Point tables of births as a form needs them: which points go out, and under which name."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from config.points import fits
from gateway.core.records import Event
from sync import wire

TABLES_MAX: Final = 8  # births that are remembered; 20,000 points take 4 MB


def split_tag(tag: str) -> tuple[str, str]:
    """Equipment and channel of a tag; what has no dot is a channel without equipment."""
    equipment, dot, channel = tag.partition(".")
    return (equipment, channel) if dot else ("", tag)


@dataclass(frozen=True, slots=True)
class Point:
    """What a form says of a point; see `config.points.PointDef`. NaN: no limit is declared."""

    tag: str
    discrete: bool
    units: str
    description: str
    states: tuple[str, ...]
    value_min: float
    value_max: float


@dataclass(frozen=True, slots=True)
class PointTable:
    """The chosen points of one birth, by their index; `name` is the hash, `utc_ns` its time."""

    name: str
    points: Mapping[int, Point]
    utc_ns: int = 0


class Tables:
    """The tables that a form has learned: the one in force, and those that were used last."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self.patterns = list(patterns)
        self.current: PointTable | None = None
        self._by_name: dict[str, PointTable] = {}

    def learn(self, name: str, body: bytes, *, current: bool) -> PointTable:
        """A birth as it stands in the store. Raises WireError."""
        table = self.get(name)
        if table is None:
            birth = wire.decode_birth(body)
            chosen = (p for p in birth.points if fits(p["tag"], self.patterns))
            points = {point["index"]: _point(point) for point in chosen}
            table = PointTable(birth.hash, points, birth.utc_ns)
            self._by_name[name] = table
        if current:
            self.current = table
        while len(self._by_name) > TABLES_MAX:
            others = (key for key, known in self._by_name.items() if known is not self.current)
            del self._by_name[next(others)]
        return table

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def get(self, name: str) -> PointTable | None:
        """The table of a birth; None where it was never learned, or is lost."""
        table = self._by_name.pop(name, None)
        if table is not None:
            self._by_name[name] = table
        return table

    def all(self) -> list[PointTable]:
        """Every table that is remembered, the one in force first, then the last one used."""
        current = [] if self.current is None else [self.current]
        return current + [t for t in reversed(self._by_name.values()) if t is not self.current]

    def wants(self, event: Event) -> bool:
        """False for an event of a point that is not chosen."""
        tag = event.body.get("tag")
        return not isinstance(tag, str) or fits(tag, self.patterns)

    def read(self, frame: bytes) -> tuple[wire.Frame, PointTable | None]:
        """A stored frame and the table of its rows (None where it is lost). Raises WireError."""
        decoded = wire.decode_frame(frame)
        return decoded, self.get(decoded.batch.birth)


def _point(point: Mapping[str, Any]) -> Point:
    """A point of a birth; keys that another version leaves out have their defaults."""
    return Point(
        tag=sys.intern(point["tag"]),
        discrete=point.get("kind") == "discrete",
        units=sys.intern(str(point.get("units", ""))),
        description=sys.intern(str(point.get("description", ""))),
        states=tuple(str(state) for state in point.get("states") or ()),
        value_min=_number(point.get("value_min")),
        value_max=_number(point.get("value_max")),
    )


def _number(limit: object) -> float:
    return float(limit) if isinstance(limit, (int, float)) else math.nan
