"""A machine of control states as a picture: Mermaid for Markdown, SVG for HTML.

Edges carry the number of their row in the table of transitions beneath, and who takes them;
guards are too long for a picture and stand in the table.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gateway.cli.docs_document import plain_line

STATES_MAX: Final = 30  # more make a picture that nobody reads: the tables remain
LABEL_CHARS_MAX: Final = 40

# What may stand in a Mermaid label as it is. Everything else is written as its number, which
# Mermaid reads back, so that no name can end a label or start a directive.
_MERMAID_PLAIN: Final = re.compile(r"[A-Za-z0-9_ .,=+/()*]")

BOX_WIDTH: Final = 170
BOX_HEIGHT: Final = 38
MARGIN: Final = 60  # room for ways that lead back to their own state
CHAR_WIDTH: Final = 8.0  # of the picture's font
BEND: Final = 22.0  # how far a way leaves the straight line
LABEL_AT: Final = 0.32  # of the way: numbers near the middle would meet one another


@dataclass(frozen=True, slots=True)
class Edge:
    """A way between two states; -1 is any state."""

    origin: int
    target: int
    label: str


@dataclass(frozen=True, slots=True)
class Diagram:
    """States by name, the first one to be entered, and the ways between them."""

    states: tuple[str, ...]
    initial: int
    edges: tuple[Edge, ...]

    def mermaid(self) -> str:
        """A ``stateDiagram-v2``."""
        lines = ["stateDiagram-v2"]
        lines += [f'    state "{_encoded(n)}" as s{at}' for at, n in enumerate(self.states)]
        if any(edge.origin < 0 for edge in self.edges):
            lines.append('    state "any state" as any')
        lines.append(f"    [*] --> s{self.initial}")
        for edge in self.edges:
            origin = "any" if edge.origin < 0 else f"s{edge.origin}"
            lines.append(f"    {origin} --> s{edge.target} : {_encoded(edge.label)}")
        return "\n".join(lines)

    def svg(self) -> str:
        """States on an ellipse, clockwise from the left, so that no way runs behind a box."""
        return _Picture(self).svg()


def _encoded(text: str) -> str:
    line = plain_line(text) or "?"
    return "".join(c if _MERMAID_PLAIN.match(c) else f"#{ord(c)};" for c in line)


def clipped(text: str, chars_max: int = LABEL_CHARS_MAX) -> str:
    """Text of a label: at most so many characters."""
    line = plain_line(text)
    return line if len(line) <= chars_max else line[: chars_max - 1] + "…"


# ---------------------------------------------------------------- SVG


@dataclass(frozen=True, slots=True)
class _Box:
    x: float
    y: float

    @property
    def middle_x(self) -> float:
        return self.x + BOX_WIDTH / 2

    @property
    def middle_y(self) -> float:
        return self.y + BOX_HEIGHT / 2

    def edge_towards(self, x: float, y: float) -> tuple[float, float]:
        """Where the line from the middle to a place outside leaves the box."""
        dx, dy = x - self.middle_x, y - self.middle_y
        part = min(
            BOX_WIDTH / 2 / abs(dx) if dx else math.inf,
            BOX_HEIGHT / 2 / abs(dy) if dy else math.inf,
            1.0,
        )
        return self.middle_x + dx * part, self.middle_y + dy * part


class _Picture:
    def __init__(self, diagram: Diagram) -> None:
        self._diagram = diagram
        names = [*diagram.states]
        self._any = len(names)
        if any(edge.origin < 0 for edge in diagram.edges):
            names.append("any state")
        self._names = names
        self._boxes = _placed(len(names))

    def _ways(self) -> list[tuple[int, int]]:
        """(from, to) of every edge; any state is the last box."""
        return [
            (self._any if edge.origin < 0 else edge.origin, edge.target)
            for edge in self._diagram.edges
        ]

    def svg(self) -> str:
        bends = _bends(self._ways())
        drawn = [
            self._edge(number, way, bend, self._diagram.edges[number].label)
            for number, (way, bend) in enumerate(zip(self._ways(), bends, strict=True))
        ]
        width = max(box.x for box in self._boxes) + BOX_WIDTH + MARGIN
        height = max(box.y for box in self._boxes) + BOX_HEIGHT + MARGIN
        boxes = [self._box(at) for at in range(len(self._names))]
        return "\n".join(
            [
                f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" '
                'role="img" xmlns="http://www.w3.org/2000/svg">',
                '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
                'markerHeight="7" orient="auto-start-reverse"><path d="M0 0L10 5L0 10z"/>'
                "</marker></defs>",
                *[path for path, _ in drawn],
                *boxes,
                *[label for _, label in drawn],
                "</svg>",
            ]
        )

    def _box(self, at: int) -> str:
        box = self._boxes[at]
        kind = "any" if at == self._any else "initial" if at == self._diagram.initial else "state"
        name = self._names[at]
        title = html.escape(plain_line(name))
        text = html.escape(clipped(name, int(BOX_WIDTH / CHAR_WIDTH) - 1))
        return (
            f'<g class="{kind}"><title>{title}</title><rect x="{box.x:.1f}" y="{box.y:.1f}" '
            f'width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="7"/><text x="{box.middle_x:.1f}" '
            f'y="{box.middle_y + 5:.1f}" text-anchor="middle">{text}</text></g>'
        )

    def _edge(self, number: int, way: tuple[int, int], bend: float, label: str) -> tuple[str, str]:
        """The line and the label of an edge."""
        start, end = self._boxes[way[0]], self._boxes[way[1]]
        if way[0] == way[1]:
            x, y = start.x + BOX_WIDTH, start.middle_y
            curve = f"M{x:.1f} {y - 8:.1f}c45 -22 45 38 0 16"
            place = (x + 38, y)
        else:
            dx, dy = end.middle_x - start.middle_x, end.middle_y - start.middle_y
            length = max(math.hypot(dx, dy), 1.0)
            mx = (start.middle_x + end.middle_x) / 2 - dy / length * bend
            my = (start.middle_y + end.middle_y) / 2 + dx / length * bend
            x1, y1 = start.edge_towards(mx, my)
            x2, y2 = end.edge_towards(mx, my)
            curve = f"M{x1:.1f} {y1:.1f}Q{mx:.1f} {my:.1f} {x2:.1f} {y2:.1f}"
            place = (_bezier(LABEL_AT, x1, mx, x2), _bezier(LABEL_AT, y1, my, y2))
        full = html.escape(plain_line(label))
        shown = html.escape(str(number + 1))
        line = f'<path class="way" d="{curve}" marker-end="url(#tip)"><title>{full}</title></path>'
        text = (
            f'<text class="number" x="{place[0]:.1f}" y="{place[1] + 4:.1f}" text-anchor="middle">'
            f"<title>{full}</title>{shown}</text>"
        )
        return line, text


def _placed(count: int) -> list[_Box]:
    """Boxes on an ellipse that is large enough for them, clockwise from the left."""
    wide, high = max(250.0, 62.0 * count), max(110.0, 36.0 * count)
    boxes = []
    for at in range(count):
        angle = math.pi + 2 * math.pi * at / count
        boxes.append(
            _Box(
                MARGIN + wide * (1 + math.cos(angle)),
                MARGIN + high * (1 + math.sin(angle)),
            )
        )
    return boxes


def _bezier(part: float, start: float, middle: float, end: float) -> float:
    """A coordinate on a curve of three points, so far along it."""
    rest = 1 - part
    return rest * rest * start + 2 * rest * part * middle + part * part * end


def _bends(ways: Sequence[tuple[int, int]]) -> list[float]:
    """How far each way leaves the straight line, so that ways between two boxes stay apart."""
    seen: dict[tuple[int, int], int] = {}
    bends = []
    for way in ways:
        before = seen.get(way, 0)
        seen[way] = before + 1
        bends.append(BEND * (1 + 2 * before))
    return bends
