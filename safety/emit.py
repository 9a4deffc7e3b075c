"""From a term to code: types are checked here, and names become numbers.

Types: a ``number``; a ``boolean``; a ``name`` (level, state, method or null); a ``switch``, which
is a discrete point and serves as number and as boolean. ``any`` stands where a mistake was
already reported, so that one mistake isn't reported twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from config.points import PointDef
from safety import layout
from safety.terms import (
    Age,
    Arithmetic,
    Call,
    Choice,
    Compare,
    Delay,
    Junction,
    Name,
    Negative,
    Not,
    Null,
    Number,
    Point,
    Quality,
    Ref,
    Term,
    Text,
    Truth,
    Vote,
    show,
)

Kind = Literal["number", "boolean", "name", "switch", "any"]
Report = Callable[[str, str], None]  # rule of the finding, message

_WHICH: Final = {
    "<": layout.COMPARE_LT,
    "<=": layout.COMPARE_LE,
    ">": layout.COMPARE_GT,
    ">=": layout.COMPARE_GE,
    "==": layout.COMPARE_EQ,
    "!=": layout.COMPARE_NE,
}
_MIRRORED: Final = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}
_ARITHMETIC: Final = {
    "+": layout.OP_ADD,
    "-": layout.OP_SUB,
    "*": layout.OP_MUL,
    "/": layout.OP_DIV,
    "%": layout.OP_MOD,
}
_KIND_WORDS: Final = {
    "number": "a number",
    "boolean": "true or false",
    "name": "a name",
    "switch": "a discrete point",
    "any": "unknown",
}


@dataclass(frozen=True, slots=True)
class Target:
    """What a reference to a rule leads to.

    row      row of the rule in the program
    kind     what its level can be used as
    levels   the names it can return; None where the rule itself can't be read or doesn't exist
    exists   levels of all rules of its kind are listed in `levels` where it doesn't
    """

    row: int
    kind: Kind
    levels: tuple[str, ...]
    exists: bool = True


class Scope(Protocol):
    """What the emitter asks the compiler for."""

    def point(self, tag: str) -> PointDef | Target | None:
        """The point of a tag, or the rule whose point it is; None reports are the scope's."""

    def target(self, ref: Ref) -> Target | None:
        """The rule that a reference leads to; None where nothing is known (reported)."""

    def text_id(self, name: str) -> int:
        """The id of a name, interned."""

    def const_id(self, value: float) -> int:
        """The index of a number, interned."""

    def new_slot(self) -> int:
        """A state slot nobody else uses."""


@dataclass(slots=True)
class Piece:
    """Code that leaves one cell on the stack, and what is known of that cell."""

    kind: Kind
    code: list[int]
    depth: int = 1
    levels: tuple[str, ...] = ()
    target: Target | None = None
    point: PointDef | None = None
    states: tuple[str, ...] = field(default=())


class Emitter:
    """Emits one rule's code."""

    def __init__(self, scope: Scope, report: Report, on_bad: int) -> None:
        """`on_bad` decides what a bad channel counts in a vote."""
        self._scope = scope
        self._report = report
        self._degrade = int(on_bad == layout.ON_BAD_TRIP)

    def emit(self, term: Term) -> Piece:
        """The code of a term."""
        match term:
            case Number(value):
                return self._const(value)
            case Truth(value):
                return Piece("boolean", self._const(float(value)).code)
            case Text(value):
                code = self._const(float(self._scope.text_id(value))).code
                return Piece("name", code, levels=(value,))
            case Null():
                return Piece("name", self._const(0.0).code)
            case Point(tag):
                return self._point(tag)
            case Ref():
                return self._level(self._scope.target(term))
            case Not(inner):
                piece = self._condition(inner)
                return Piece("boolean", [*piece.code, layout.OP_NOT], piece.depth)
            case Junction(op, terms):
                joint = layout.OP_AND if op == "and" else layout.OP_OR
                return self._chain("boolean", [self._condition(t) for t in terms], joint)
            case Compare():
                return self._compare(term)
            case Choice():
                return self._choice(term)
            case Delay(inner, delay_ns):
                piece = self._condition(inner)
                tail = [layout.OP_DELAY, self._scope.new_slot(), self._const_id(float(delay_ns))]
                return Piece("boolean", piece.code + tail, piece.depth)
            case Vote(needed, terms):
                return self._vote(needed, [self._condition(t) for t in terms])
            case _:
                return self._numeric(term)

    def _numeric(self, term: Term) -> Piece:
        match term:
            case Negative(inner):
                piece = self._number(inner)
                return Piece("number", [*piece.code, layout.OP_NEG], piece.depth)
            case Arithmetic(op, left, right):
                pieces = [self._number(left), self._number(right)]
                return self._chain("number", pieces, _ARITHMETIC[op])
            case Call(function, terms):
                return self._call(function, [self._number(t) for t in terms])
            case Quality(inner):
                piece = self.emit(inner)
                return Piece("number", [*piece.code, layout.OP_QUALITY], piece.depth)
            case Age(Point(tag)):
                piece = self._point(tag)
                if piece.kind != "any" and piece.point is None:
                    self._report("rule-type", f"age() takes a point of a device, not {tag}.")
                elif piece.point is not None and piece.point.source == "virtual":
                    text = f"{tag} is calculated anew in every scan; ask for the age of its inputs."
                    self._report("rule-type", text)
                index = piece.point.index if piece.point else 0
                return Piece("number", [layout.OP_AGE, index])
            case Age() | Name():
                # The compiler put references in the place of names; what is left isn't known.
                self._report("reference-undefined", _undefined_name(term))
                return Piece("any", self._const(0.0).code)
        raise AssertionError(f"no term: {term!r}")

    # ------------------------------------------------------------ leaves

    def _const_id(self, value: float) -> int:
        return self._scope.const_id(value)

    def _const(self, value: float) -> Piece:
        return Piece("number", [layout.OP_CONST, self._const_id(value)])

    def _point(self, tag: str) -> Piece:
        found = self._scope.point(tag)
        if isinstance(found, Target):
            return self._level(found)
        if found is None:
            return Piece("any", self._const(0.0).code)
        kind: Kind = "switch" if found.kind == "discrete" else "number"
        return Piece(kind, [layout.OP_POINT, found.index], point=found, states=found.states)

    def _level(self, target: Target | None) -> Piece:
        if target is None:
            return Piece("any", self._const(0.0).code)
        code = [layout.OP_LEVEL, target.row]
        return Piece(target.kind, code, levels=target.levels, target=target)

    # ------------------------------------------------------------ what a place expects

    def _condition(self, term: Term) -> Piece:
        piece = self.emit(term)
        # The level of a rule is true while the rule is active; other names are no condition.
        if piece.kind in ("boolean", "switch", "any") or piece.target is not None:
            return piece
        self._report(
            "rule-type",
            f"{show(term)} is {_KIND_WORDS[piece.kind]} and can't be a condition; compare it, "
            f"e.g. {show(term)} {'== 1' if piece.kind == 'number' else 'with a level'}.",
        )
        return Piece("any", piece.code, piece.depth)

    def _number(self, term: Term) -> Piece:
        piece = self.emit(term)
        if piece.kind in ("number", "switch", "any"):
            return piece
        self._report(
            "rule-type",
            f"{show(term)} is {_KIND_WORDS[piece.kind]} where a number is needed; "
            "use if(condition, 1, 0) to count conditions.",
        )
        return Piece("any", piece.code, piece.depth)

    # ------------------------------------------------------------ joints

    def _chain(self, kind: Kind, pieces: list[Piece], op: int) -> Piece:
        code = list(pieces[0].code)
        depth = pieces[0].depth
        for piece in pieces[1:]:
            code += [*piece.code, op]
            depth = max(depth, 1 + piece.depth)
        return Piece(kind, code, depth)

    def _call(self, function: str, pieces: list[Piece]) -> Piece:
        if function == "abs":
            return Piece("number", [*pieces[0].code, layout.OP_ABS], pieces[0].depth)
        if function == "avg":
            total = self._chain("number", pieces, layout.OP_ADD)
            return self._chain("number", [total, self._const(float(len(pieces)))], layout.OP_DIV)
        op = layout.OP_MIN if function == "min" else layout.OP_MAX
        return self._chain("number", pieces, op)

    def _vote(self, needed: int, pieces: list[Piece]) -> Piece:
        code: list[int] = []
        depth = 0
        for at, piece in enumerate(pieces):
            code += piece.code
            depth = max(depth, at + piece.depth)
        code += [layout.OP_VOTE, needed, len(pieces), self._degrade]
        return Piece("boolean", code, depth)

    def _choice(self, term: Choice) -> Piece:
        condition = self._condition(term.condition)
        value, other = self.emit(term.value), self.emit(term.other)
        kinds = {value.kind, other.kind}
        levels: tuple[str, ...] = ()
        kind: Kind = "any"
        if kinds == {"name"}:
            kind = "name"
            levels = tuple(dict.fromkeys(value.levels + other.levels))
        elif kinds == {"number"} or kinds == {"number", "switch"} or kinds == {"switch"}:
            kind = "number"
        elif kinds == {"boolean"} or kinds == {"boolean", "switch"}:
            kind = "boolean"
            value, other = _as_truth(value), _as_truth(other)
        elif "any" not in kinds:
            self._report(
                "rule-type",
                f"the two values of {show(term)} are {_KIND_WORDS[value.kind]} and "
                f"{_KIND_WORDS[other.kind]}; both must be of one type.",
            )
        code = condition.code + value.code + other.code + [layout.OP_SELECT]
        depth = max(condition.depth, 1 + value.depth, 2 + other.depth)
        return Piece(kind, code, depth, levels)

    # ------------------------------------------------------------ comparisons

    def _compare(self, term: Compare) -> Piece:
        left, right = self.emit(term.left), self.emit(term.right)
        kinds = {left.kind, right.kind}
        if isinstance(term.right, Text) and left.states:
            right = self._state_number(term, left, term.right.value)
        elif isinstance(term.left, Text) and right.states:
            left = self._state_number(term, right, term.left.value)
        elif kinds == {"name"}:
            self._check_levels(term, left, right)
        elif kinds == {"boolean", "switch"} and term.op in ("==", "!="):
            left, right = _as_truth(left), _as_truth(right)
        elif kinds == {"boolean"} and term.op in ("==", "!="):
            pass
        elif "any" not in kinds and not kinds <= {"number", "switch"}:
            self._report("rule-type", _cannot_compare(term, left, right))
        return self._compare_code(term, left, right)

    def _compare_code(self, term: Compare, left: Piece, right: Piece) -> Piece:
        which = _WHICH[term.op]
        tail: list[int] = []
        if term.hysteresis is not None:
            tail = [self._scope.new_slot(), self._const_id(term.hysteresis)]
        if _is_one(left, layout.OP_POINT) and _is_one(right, layout.OP_CONST):
            op = layout.OP_LIMIT_HYST if tail else layout.OP_LIMIT
            return Piece("boolean", [op, which, left.code[1], right.code[1], *tail])
        if _is_one(left, layout.OP_CONST) and _is_one(right, layout.OP_POINT) and not tail:
            mirrored = _WHICH[_MIRRORED[term.op]]
            return Piece("boolean", [layout.OP_LIMIT, mirrored, right.code[1], left.code[1]])
        op = layout.OP_HYST if tail else layout.OP_COMPARE
        code = [*left.code, *right.code, op, which, *tail]
        return Piece("boolean", code, max(left.depth, 1 + right.depth))

    def _state_number(self, term: Compare, switch: Piece, name: str) -> Piece:
        assert switch.point is not None
        if term.op not in ("==", "!="):
            self._report("rule-type", f"{show(term)}: states have no order; use == or !=.")
        if name in switch.states:
            return self._const(float(switch.states.index(name)))
        self._report(
            "level-unreachable",
            f"{switch.point.tag} never is '{name}'; it can be: {_names(switch.states)}.",
        )
        return Piece("any", self._const(-1.0).code)

    def _check_levels(self, term: Compare, left: Piece, right: Piece) -> None:
        if term.op not in ("==", "!="):
            self._report("rule-type", f"{show(term)}: names have no order; use == or !=.")
        for literal, piece in ((term.right, left), (term.left, right)):
            if not isinstance(literal, Text) or piece.target is None:
                continue
            name, target = literal.value, piece.target
            if name in target.levels:
                continue
            other = term.left if literal is term.right else term.right
            if target.exists:
                message = (
                    f"it never returns '{name}', so {show(term)} never changes; "
                    f"levels that it returns: {_names(target.levels)}."
                )
            else:
                kind = other.kind if isinstance(other, Ref) else "other"
                message = (
                    f"'{name}' is produced by no {kind} rule; "
                    f"levels that exist: {_names(target.levels)}."
                )
            self._report("level-unreachable", f"{show(other)}: {message}")


def _is_one(piece: Piece, op: int) -> bool:
    return len(piece.code) == 2 and piece.code[0] == op


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(names) or "none"


def _as_truth(piece: Piece) -> Piece:
    if piece.kind != "switch":
        return piece
    return Piece("boolean", [*piece.code, layout.OP_TRUTH], piece.depth)


def _undefined_name(term: Term) -> str:
    inner = term.point if isinstance(term, Age) else term
    return (
        f'"{show(inner)}" is no entry of Data; a point is written Equipment.Channel, '
        "a level stands in quotes."
    )


def _cannot_compare(term: Compare, left: Piece, right: Piece) -> str:
    if isinstance(term.left, Null) or isinstance(term.right, Null):
        return (
            f"{show(term)}: only alarms and states can be null; what a missing value means says "
            "OnBad, and quality(x) == 2 asks for it."
        )
    return (
        f"{show(term)} compares {_KIND_WORDS[left.kind]} with {_KIND_WORDS[right.kind]}; "
        "both sides must be of one type."
    )
