"""From a term to code: types are checked here, and names become numbers.

Types: a ``number``; a ``boolean``; a ``name`` (level, state, method or null); a ``switch``, which
is a discrete point and serves as number and as boolean. ``any`` stands where a mistake was
already reported, so that one mistake isn't reported twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from safety import emit_faults, layout, measures
from safety.emit_fit import Fit
from safety.measures import PLAIN, SECONDS, UNKNOWN, Measure
from safety.pieces import (
    KIND_WORDS,
    QUALITY_LOST,
    Kind,
    Piece,
    Scope,
    Target,
    active_or_lost,
    as_truth,
    chained,
    stacked,
)
from safety.terms import (
    Age,
    Arithmetic,
    Call,
    Choice,
    Compare,
    Curve,
    Delay,
    Filter,
    Junction,
    Name,
    Negative,
    Not,
    Null,
    Number,
    Point,
    Quality,
    Rate,
    Ref,
    Slew,
    Term,
    Text,
    Truth,
    Vote,
    placed,
    show,
    show_duration,
)

Report = Callable[[str, str], None]  # rule of the finding, message

RATE_PERIODS_MIN: Final = 2

# Whether a true condition makes its rule active, or inactive where it stands behind a `not`.
_ACTIVE: Final = 1
_UNKNOWN: Final = 0

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


class Emitter:
    """Emits one rule's code."""

    def __init__(self, scope: Scope, report: Report, on_bad: int) -> None:
        """`on_bad` of the rule; in one that trips, a bad channel votes for the trip."""
        self._scope = scope
        self._tell = report
        self._trips = on_bad == layout.ON_BAD_TRIP
        self._sense = _ACTIVE  # what a true condition does, where the emitter is in the rule
        self._fit = Fit(scope, self._report)

    def emit(self, term: Term) -> Piece:
        """The code of a term."""
        sense = self._sense
        if isinstance(term, Not):
            self._sense = -sense
        elif not isinstance(term, Junction | Delay | Vote | Choice):
            self._sense = _UNKNOWN
        piece = self._emit(term)
        self._sense = sense
        if not isinstance(term, Number | Truth | Text | Null):
            piece.spans.append((len(piece.code), term))
        return piece

    def condition(self, piece: Piece) -> Piece:
        """The level of a rule as a condition: true while the rule is active."""
        stands = piece.target is not None and piece.target.stands
        return active_or_lost(piece, self._const(QUALITY_LOST)) if stands else piece

    def result(self, piece: Piece, term: Term, units: str) -> Piece:
        """The piece as a number for a point in `units`: checked, or converted where written."""
        return self._fit.result(piece, term, units)

    def _report(self, rule: str, message: str, term: Term) -> None:
        """Say what is wrong with a term, and where it stands where that is known."""
        self._tell(rule, placed(message, term))

    def _emit(self, term: Term) -> Piece:
        match term:
            case Number(value, unit):
                return self._literal(term, value, unit)
            case Truth(value):
                return Piece("boolean", self._const(float(value)).code)
            case Text(value):
                code = self._const(float(self._scope.text_id(value))).code
                return Piece("name", code, levels=(value,))
            case Null():
                return Piece("name", self._const(0.0).code)
            case Point():
                return self._point(term)
            case Ref():
                return self._level(self._scope.target(term))
            case Not(inner):
                return stacked("boolean", [self._condition(inner)], [layout.OP_NOT])
            case Junction(op, terms):
                joint = layout.OP_AND if op == "and" else layout.OP_OR
                return chained("boolean", [self._condition(each) for each in terms], joint)
            case Compare():
                return self._compare(term)
            case Choice():
                return self._choice(term)
            case Delay(inner, delay_ns):
                tail = [layout.OP_DELAY, self._scope.new_slots(), self._const_id(float(delay_ns))]
                return stacked("boolean", [self._condition(inner)], tail)
            case Vote():
                return self._vote(term)
            case _:
                return self._numeric(term)

    def _numeric(self, term: Term) -> Piece:
        match term:
            case Negative(inner):
                return self._turned(self._number(inner), layout.OP_NEG)
            case Arithmetic():
                return self._arithmetic(term)
            case Call():
                return self._call(term)
            case Quality(inner):
                piece = stacked("number", [self.emit(inner)], [layout.OP_QUALITY])
                piece.measure = PLAIN
                return piece
            case Age(Point() as point):
                return self._age(term, point)
            case Rate():
                return self._rate(term)
            case Filter(inner, constant_ns):
                kept = [self._scope.new_slots(), self._scope.new_floats()]
                tail = [layout.OP_FILTER, *kept, self._const_id(float(constant_ns))]
                return self._kept(self._number(inner), tail)
            case Slew():
                return self._slew(term)
            case Curve():
                return self._curve(term)
            case Age() | Name():
                # The compiler put references in the place of names; what is left isn't known.
                self._report("reference-undefined", emit_faults.undefined_name(term), term)
                return Piece("any", self._const(0.0).code)
        raise AssertionError(f"no term: {term!r}")

    # ------------------------------------------------------------ leaves

    def _const_id(self, value: float) -> int:
        return self._scope.const_id(value)

    def _const(self, value: float) -> Piece:
        return Piece("number", [layout.OP_CONST, self._const_id(value)], measure=PLAIN)

    def _literal(self, number: Number, value: float, unit: str) -> Piece:
        piece = self._const(value)
        piece.literal = number
        if unit:
            piece.measure = measures.measure_of(unit)
        return piece

    def _point(self, term: Point) -> Piece:
        found = self._scope.point(term)
        if isinstance(found, Target):
            return self._level(found)
        if found is None:
            return Piece("any", self._const(0.0).code)
        kind: Kind = "switch" if found.kind == "discrete" else "number"
        measure = measures.measure_of(found.units)
        if kind == "switch" and measure.unit is None:
            measure = PLAIN
        return Piece(
            kind,
            [layout.OP_POINT, found.index],
            point=found,
            states=found.states,
            measure=measure,
            period_ns=self._scope.period_ns(found),
        )

    def _level(self, target: Target | None) -> Piece:
        if target is None:
            return Piece("any", self._const(0.0).code)
        is_machine = target.machine >= 0
        code = [layout.OP_MACHINE, target.machine] if is_machine else [layout.OP_LEVEL, target.row]
        return Piece(target.kind, code, levels=target.levels, target=target)

    def _age(self, term: Age, point: Point) -> Piece:
        piece, tag = self._point(point), point.tag
        if piece.kind != "any" and piece.point is None:
            self._report("rule-type", f"age() takes a point of a device, not {tag}.", term)
        elif piece.point is not None and piece.point.source == "virtual":
            text = f"{tag} is calculated anew in every scan; ask for the age of its inputs."
            self._report("rule-type", text, term)
        index = piece.point.index if piece.point else 0
        return Piece("number", [layout.OP_AGE, index], measure=SECONDS)

    # ------------------------------------------------------------ what a place expects

    def _condition(self, term: Term) -> Piece:
        piece = self.emit(term)
        if piece.kind in ("boolean", "switch", "any"):
            return piece
        # The level of a rule is true while the rule is active; other names are no condition.
        if piece.target is not None and piece.target.machine < 0:
            return self.condition(piece)
        if piece.target is not None:
            with_what = f"== '{piece.levels[0]}'" if piece.levels else "with a state"
        else:
            with_what = "== 1" if piece.kind == "number" else "with a level"
        self._report(
            "rule-type",
            f"{show(term)} is {KIND_WORDS[piece.kind]} and can't be a condition; compare it, "
            f"e.g. {show(term)} {with_what}.",
            term,
        )
        return Piece("any", piece.code, piece.depth)

    def _number(self, term: Term) -> Piece:
        piece = self.emit(term)
        if piece.kind in ("number", "switch", "any"):
            return piece
        self._report(
            "rule-type",
            f"{show(term)} is {KIND_WORDS[piece.kind]} where a number is needed; "
            "use if(condition, 1, 0) to count conditions.",
            term,
        )
        return Piece("any", piece.code, piece.depth)

    # ------------------------------------------------------------ numbers

    def _kept(self, piece: Piece, tail: list[int]) -> Piece:
        """A number of another value and of the same unit."""
        result = stacked("number", [piece], tail)
        result.measure = piece.measure
        return result

    def _turned(self, piece: Piece, op: int) -> Piece:
        """A number with another sign."""
        result = self._kept(piece, [op])
        result.measure = measures.moved(piece.measure)
        return result

    def _arithmetic(self, term: Arithmetic) -> Piece:
        sides = (term.left, term.right)
        pieces = [self._number(side) for side in sides]
        if term.op in ("*", "/"):
            measure = _product(pieces[0], pieces[1], term.op)
        else:
            pieces, measure = self._fit.alike(pieces, sides, term.op)
        result = chained("number", pieces, _ARITHMETIC[term.op])
        result.measure = measure
        return result

    def _call(self, term: Call) -> Piece:
        pieces = [self._number(each) for each in term.terms]
        if term.function == "abs":
            return self._turned(pieces[0], layout.OP_ABS)
        pieces, measure = self._fit.alike(pieces, term.terms)
        if term.function == "avg":
            total = chained("number", pieces, layout.OP_ADD)
            result = chained("number", [total, self._const(float(len(pieces)))], layout.OP_DIV)
        else:
            op = layout.OP_MIN if term.function == "min" else layout.OP_MAX
            result = chained("number", pieces, op)
        result.measure = measure
        return result

    def _rate(self, term: Rate) -> Piece:
        inner = self._number(term.term)
        if term.window_ns < RATE_PERIODS_MIN * inner.period_ns:
            period = show_duration(inner.period_ns)
            self._report(
                "rate-window-short",
                f"{show(term)} looks back {show_duration(term.window_ns)}, but an input is read "
                f"every {period} only; take at least {RATE_PERIODS_MIN} of its periods, better "
                "five, or the rate jumps.",
                term,
            )
        slots = self._scope.new_slots(layout.RATE_SLOTS)
        floats = self._scope.new_floats(layout.RATE_FLOATS)
        tail = [layout.OP_RATE, slots, floats, self._const_id(float(term.window_ns))]
        piece = stacked("number", [inner], tail)
        piece.measure = measures.per_second(inner.measure)
        return piece

    def _slew(self, term: Slew) -> Piece:
        inner = self._number(term.term)
        to = measures.per_second(inner.measure)
        rates = self._fit.constants((term.up, term.down), term.unit, to, term, difference=True)
        kept = [self._scope.new_slots(), self._scope.new_floats()]
        return self._kept(inner, [layout.OP_RAMP, *kept, *map(self._const_id, rates)])

    def _curve(self, term: Curve) -> Piece:
        inner = self._number(term.term)
        tail = [layout.OP_CURVE, len(term.points)]
        places = [x for x, _ in term.points]
        places = self._fit.constants(places, term.x_unit, inner.measure, term.term)
        for x, (_, y) in zip(places, term.points, strict=True):
            tail += [self._const_id(x), self._const_id(y)]
        piece = stacked("number", [inner], tail)
        piece.measure = measures.measure_of(term.y_unit)
        return piece

    # ------------------------------------------------------------ votes and choices

    def _vote(self, term: Vote) -> Piece:
        pieces = [self._condition(each) for each in term.terms]
        # Where a vote keeps a trip away, a bad channel must not be a vote: the rule's own policy
        # decides then.
        trips = self._trips and self._sense == _ACTIVE
        degrade = layout.DEGRADE_TRIP if trips else layout.DEGRADE_NONE
        if term.degrade is not None:
            degrade = layout.DEGRADE_NAMES.index(term.degrade)
        return stacked("boolean", pieces, [layout.OP_VOTE, term.needed, len(pieces), degrade])

    def _choice(self, term: Choice) -> Piece:
        sense = self._sense
        self._sense = sense if isinstance(term.value, Text) else _UNKNOWN
        condition = self._condition(term.condition)
        self._sense = sense
        value, other = self.emit(term.value), self.emit(term.other)
        kinds = {value.kind, other.kind}
        levels: tuple[str, ...] = ()
        kind: Kind = "any"
        measure = UNKNOWN
        if kinds == {"name"}:
            kind = "name"
            levels = tuple(dict.fromkeys(value.levels + other.levels))
        elif kinds == {"number"} or kinds == {"number", "switch"} or kinds == {"switch"}:
            kind = "number"
            (value, other), measure = self._fit.alike((value, other), (term.value, term.other))
        elif kinds == {"boolean"} or kinds == {"boolean", "switch"}:
            kind = "boolean"
            value, other = as_truth(value), as_truth(other)
        elif "any" not in kinds:
            self._report(
                "rule-type",
                f"the two values of {show(term)} are {KIND_WORDS[value.kind]} and "
                f"{KIND_WORDS[other.kind]}; both must be of one type.",
                term,
            )
        piece = stacked(kind, [condition, value, other], [layout.OP_SELECT])
        piece.levels, piece.measure = levels, measure
        return piece

    # ------------------------------------------------------------ comparisons

    def _compare(self, term: Compare) -> Piece:
        sides = (term.left, term.right)
        left, right = (self.emit(side) for side in sides)
        kinds = {left.kind, right.kind}
        measure = UNKNOWN
        if isinstance(term.right, Text) and left.states:
            right = self._state_number(term, left, term.right.value)
        elif isinstance(term.left, Text) and right.states:
            left = self._state_number(term, right, term.left.value)
        elif kinds == {"name"}:
            self._check_levels(term, left, right)
        elif kinds == {"boolean", "switch"} and term.op in ("==", "!="):
            left, right = as_truth(left), as_truth(right)
        elif kinds == {"boolean"} and term.op in ("==", "!="):
            pass
        elif kinds <= {"number", "switch"}:
            (left, right), measure = self._fit.alike((left, right), sides)
        elif "any" not in kinds:
            self._report("rule-type", emit_faults.cannot_compare(term, left.kind, right.kind), term)
        return self._compare_code(term, left, right, measure)

    def _compare_code(self, term: Compare, left: Piece, right: Piece, measure: Measure) -> Piece:
        which = _WHICH[term.op]
        tail: list[int] = []
        if term.hysteresis is not None:
            whose = term.right if isinstance(term.left, Number) else term.left
            band = self._fit.constants(
                [term.hysteresis], term.hysteresis_unit, measure, whose, difference=True
            )
            tail = [self._scope.new_slots(), self._const_id(band[0])]
        if _is_one(left, layout.OP_POINT) and _is_one(right, layout.OP_CONST):
            op = layout.OP_LIMIT_HYST if tail else layout.OP_LIMIT
            code = [op, which, left.code[1], right.code[1], *tail]
            return Piece("boolean", code, period_ns=left.period_ns)
        if _is_one(left, layout.OP_CONST) and _is_one(right, layout.OP_POINT) and not tail:
            mirrored = _WHICH[_MIRRORED[term.op]]
            code = [layout.OP_LIMIT, mirrored, right.code[1], left.code[1]]
            return Piece("boolean", code, period_ns=right.period_ns)
        op = layout.OP_HYST if tail else layout.OP_COMPARE
        return stacked("boolean", [left, right], [op, which, *tail])

    def _state_number(self, term: Compare, switch: Piece, name: str) -> Piece:
        assert switch.point is not None
        if term.op not in ("==", "!="):
            self._report("rule-type", f"{show(term)}: states have no order; use == or !=.", term)
        if name in switch.states:
            return self._const(float(switch.states.index(name)))
        self._report(
            "level-unreachable",
            f"{switch.point.tag} never is '{name}'; it can be: {emit_faults.names(switch.states)}.",
            term,
        )
        return Piece("any", self._const(-1.0).code)

    def _check_levels(self, term: Compare, left: Piece, right: Piece) -> None:
        if term.op not in ("==", "!="):
            self._report("rule-type", f"{show(term)}: names have no order; use == or !=.", term)
        for literal, piece in ((term.right, left), (term.left, right)):
            if piece.target is None:
                continue
            name = literal.value if isinstance(literal, Text) else None
            other = term.left if literal is term.right else term.right
            message = ""
            if piece.target.machine >= 0:
                message = emit_faults.never_in(piece.target, name, isinstance(literal, Null))
            elif name is not None and name not in piece.target.levels:
                message = emit_faults.never_returned(piece.target, name, term, other)
            if message:
                self._report("level-unreachable", f"{show(other)}: {message}", term)


def _product(left: Piece, right: Piece, op: str) -> Measure:
    """The measure of a product; a plain number may be there to convert a unit."""
    measure = measures.product(left.measure, right.measure, op)
    for piece in (left, right):
        factor = piece.literal
        if factor is not None and not factor.unit and factor.value and not left.measure.plain:
            value = 1 / factor.value if op == "/" else factor.value
            return measures.scaled(measure, value)
    return measure


def _is_one(piece: Piece, op: int) -> bool:
    return len(piece.code) == 2 and piece.code[0] == op
