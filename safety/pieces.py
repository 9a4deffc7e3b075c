"""Pieces of code on their way into a program, and what the emitter asks the compiler for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from config.points import PointDef
from safety import layout
from safety.measures import UNKNOWN, Measure
from safety.terms import Number, Point, Ref, Term

QUALITY_LOST: Final = 2.0  # what quality() says of a bad value

Kind = Literal["number", "boolean", "name", "switch", "any"]
Span = tuple[int, Term]  # the word behind the code of a term

KIND_WORDS: Final[dict[Kind, str]] = {
    "number": "a number",
    "boolean": "true or false",
    "name": "a name",
    "switch": "a discrete point",
    "any": "unknown",
}


@dataclass(frozen=True, slots=True)
class Target:
    """What a reference to a rule, or to a machine of control states, leads to.

    row      row of the rule in the program
    kind     what its level can be used as
    levels   the names it can return
    exists   False where there is no such rule: `levels` are those of all rules of its kind
    machine  row of the machine; -1 = it is a rule
    stands   as a condition it is true also while its own result is bad
    """

    row: int
    kind: Kind
    levels: tuple[str, ...]
    exists: bool = True
    machine: int = -1
    stands: bool = False


class Scope(Protocol):
    """What the emitter asks the compiler for."""

    def point(self, term: Point) -> PointDef | Target | None:
        """The point, or the rule whose point it is; None reports are the scope's."""

    def target(self, ref: Ref) -> Target | None:
        """The rule that a reference leads to; None where nothing is known (reported)."""

    def text_id(self, name: str) -> int:
        """The id of a name, interned."""

    def const_id(self, value: float) -> int:
        """The index of a number, interned."""

    def new_slots(self, count: int = 1) -> int:
        """The first of so many state slots that nobody else uses."""

    def new_floats(self, count: int = 1) -> int:
        """The first of so many kept numbers that nobody else uses."""

    def period_ns(self, point: PointDef) -> int:
        """How often a point is read; of a calculated one the slowest input; 0 = not known."""


@dataclass(slots=True)
class Piece:
    """Code that leaves one cell on the stack, and what is known of that cell.

    measure    what a number measures
    literal    the number as written, where the piece is nothing else
    period_ns  how often the slowest point in it is read, 0 = not known
    spans      the terms inside that are worth explaining, in the order of evaluation
    """

    kind: Kind
    code: list[int]
    depth: int = 1
    levels: tuple[str, ...] = ()
    target: Target | None = None
    point: PointDef | None = None
    states: tuple[str, ...] = ()
    measure: Measure = UNKNOWN
    literal: Number | None = None
    period_ns: int = 0
    spans: list[Span] = field(default_factory=list)


def stacked(kind: Kind, pieces: Sequence[Piece], tail: list[int]) -> Piece:
    """The pieces' cells above one another, and `tail` that takes them together."""
    code: list[int] = []
    spans: list[Span] = []
    depth = 1
    for at, piece in enumerate(pieces):
        spans += _moved(piece.spans, len(code))
        code += piece.code
        depth = max(depth, at + piece.depth)
    code += tail
    return Piece(kind, code, depth, period_ns=_slowest(pieces), spans=spans)


def chained(kind: Kind, pieces: Sequence[Piece], op: int) -> Piece:
    """The pieces joined by an operator of two, from left to right: never deep on the stack."""
    result = Piece(kind, list(pieces[0].code), pieces[0].depth, spans=list(pieces[0].spans))
    for piece in pieces[1:]:
        result.spans += _moved(piece.spans, len(result.code))
        result.code += [*piece.code, op]
        result.depth = max(result.depth, 1 + piece.depth)
    result.period_ns = _slowest(pieces)
    return result


def as_truth(piece: Piece) -> Piece:
    """A discrete point as true or false; any other piece as it is."""
    if piece.kind != "switch":
        return piece
    return stacked("boolean", [piece], [layout.OP_TRUTH])


def active_or_lost(piece: Piece, lost: Piece) -> Piece:
    """The level of a rule as a condition that is true while its own result is bad too; `lost` is
    the number QUALITY_LOST."""
    quality = stacked("number", [piece], [layout.OP_QUALITY])
    quality.spans = []  # the level stands there twice, and is explained once
    is_lost = stacked("boolean", [quality, lost], [layout.OP_COMPARE, layout.COMPARE_EQ])
    return chained("boolean", [piece, is_lost], layout.OP_OR)


def _moved(spans: list[Span], by: int) -> list[Span]:
    return [(stop + by, term) for stop, term in spans] if by else spans


def _slowest(pieces: Sequence[Piece]) -> int:
    return max(piece.period_ns for piece in pieces)
