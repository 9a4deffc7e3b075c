"""Numbers that must have one unit: written ones are converted, everything else is checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce
from typing import Final

from config import units
from config.units import Unit
from safety import layout, measures
from safety.measures import PLAIN, UNKNOWN, Measure, describe
from safety.pieces import Piece, Scope
from safety.terms import Arithmetic, Number, Term, show, show_number, show_quantity

TermReport = Callable[[str, str, Term], None]  # rule of the finding, message, where
SHOWN_CHARS_MAX: Final = 60
ZERO_SHIFTS: Final = (273.15, 459.67)  # an engineer who adds one of these converts a temperature


class Fit:
    """Checks the units of one rule; reports once for each mistake."""

    def __init__(self, scope: Scope, report: TermReport) -> None:
        self._scope = scope
        self._report = report

    def alike(
        self, pieces: Sequence[Piece], terms: Sequence[Term], op: str = ""
    ) -> tuple[list[Piece], Measure]:
        """The pieces in one unit, and what they measure together.

        `op` is the operator that joins two of them; empty for comparisons, `min` and the like.
        """
        known = [piece for piece in pieces if piece.measure.unit is not None]
        if not known:
            plain = all(piece.measure.plain for piece in pieces)
            return list(pieces), PLAIN if plain else UNKNOWN
        if len(known) == 1 and known[0].literal is None:
            shifted = op in ("+", "-") and any(_is_zero_shift(term) for term in terms)
            measure = measures.moved(known[0].measure) if op else known[0].measure
            return list(pieces), UNKNOWN if shifted else measure
        lead = _lead(pieces)
        to, whose = pieces[lead].measure, terms[lead]
        fitted = [
            piece if at == lead else self._converted(piece, to, whose, op)
            for at, piece in enumerate(pieces)
        ]
        for at in range(len(fitted)):
            sides = (at, lead) if at < lead else (lead, at)
            left, right = (fitted[side] for side in sides)
            fault = measures.clash(left.measure, right.measure, op)
            if at != lead and fault:
                self._clash(fault, left, right, terms[sides[0]], terms[sides[1]])
                return fitted, PLAIN  # nothing more is said about what is wrong already
        found = [piece.measure for piece in fitted]
        return fitted, reduce(lambda left, right: measures.joined(left, right, op), found)

    def constants(
        self,
        values: Sequence[float],
        unit: str,
        to: Measure,
        whose: Term,
        difference: bool = False,
    ) -> list[float]:
        """Written numbers that belong to the term `whose`, in the unit of `to`."""
        if not unit or to.plain:
            return list(values)
        made = units.unit_of(unit) or Unit(unit)
        converted = [measures.convert(value, made, to, difference) for value in values]
        found = [value for value in converted if value is not None]
        if len(found) < len(values):
            self._refuse(Number(values[0], unit), made, to, whose, whose)
            return list(values)
        return found

    def result(self, piece: Piece, term: Term, symbol: str) -> Piece:
        """A rule's number for a point in the units `symbol`."""
        to = measures.measure_of(symbol)
        if to.unit is None:
            return piece
        piece = self._converted(piece, to, term, "")
        fault = measures.clash(piece.measure, to)
        if fault:
            remedy = _remedy(term, piece.measure, to) if fault == "scale" else ""
            self._report(
                "unit-mismatch",
                f"{_short(term)} is in {describe(piece.measure)}, and its result belongs in "
                f"{symbol}{remedy}.",
                term,
            )
        return piece

    def _converted(self, piece: Piece, to: Measure, whose: Term, op: str) -> Piece:
        """A written number in the unit `to` of the term `whose`; other pieces as they are."""
        number = piece.literal
        if number is None or piece.measure.unit is None:
            return piece
        unit = piece.measure.unit
        if to.unit is not None and unit.symbol == to.unit.symbol and not to.converted:
            return replace(piece, measure=to) if to.difference else piece
        step = bool(op) and to.zero != 0.0 and unit.zero == 0.0
        if op and unit.zero != to.zero and unit.zero != 0.0 and not to.difference:
            text = f"{show(number)} can be a temperature or a difference; write it in K."
            self._report("unit-mismatch", text, number)
            return replace(piece, measure=PLAIN)
        value = measures.convert(number.value, unit, to, step)
        if value is None:
            self._refuse(number, unit, to, whose, number)
            return replace(piece, measure=PLAIN)
        code = [layout.OP_CONST, self._scope.const_id(value)]
        measure = replace(to, difference=to.difference or step)
        return replace(piece, code=code, measure=measure)

    def _refuse(self, number: Number, unit: Unit, to: Measure, whose: Term, where: Term) -> None:
        text, other = show(number), _short(whose)
        plain = show_number(number.value)
        if to.unit is None:
            rule = "unit-unknown"
            unknown = _unknown(unit) if unit.dimension is None else ""
            message = (
                f"{other} has no known unit, so {text} can't be converted; give its channel "
                f"Units, or write {plain} without a unit. {unknown}"
            ).rstrip()
        elif to.converted:
            rule = "unit-mismatch"
            message = (
                f"{other} is multiplied by a plain number that may have changed its unit; "
                f"write {plain} without a unit."
            )
        elif to.moved and unit.dimension == to.unit.dimension:
            rule = "unit-mismatch"
            message = (
                f"{other} is in {describe(to)} and reckoned with plain numbers, which may be "
                f"temperatures or differences; write {text} in {to.unit.symbol}."
            )
        elif unit.dimension is None or to.unit.dimension is None:
            rule = "unit-unknown"
            strange = unit if unit.dimension is None else to.unit
            message = (
                f"{text} can't be converted to {to.unit.symbol}, the unit of {other}: "
                f"{_unknown(strange)}"
            )
        else:
            rule = "unit-mismatch"
            message = f"{other} is in {describe(to)}; {text} measures something else."
        self._report(rule, message, where)

    def _clash(self, fault: str, left: Piece, right: Piece, a: Term, b: Term) -> None:
        head = (
            f"{_short(a)} is in {describe(left.measure)} and {_short(b)} in "
            f"{describe(right.measure)}"
        )
        if fault == "dimension":
            self._report("unit-mismatch", f"{head}: they measure different things.", a)
            return
        assert left.measure.unit is not None and right.measure.unit is not None
        if left.measure.unit.scale >= right.measure.unit.scale:
            remedy = _remedy(a, left.measure, right.measure)
        else:
            remedy = _remedy(b, right.measure, left.measure)
        self._report("unit-mismatch", head + remedy + ".", a)


def _unknown(unit: Unit) -> str:
    """That a unit is none of the table, and which one it probably is."""
    meant = units.meant(unit.symbol)
    return f'"{unit.symbol}" is no known unit' + (f"; did you mean {meant}?" if meant else ".")


def _is_zero_shift(term: Term) -> bool:
    return isinstance(term, Number) and not term.unit and abs(term.value) in ZERO_SHIFTS


def _lead(pieces: Sequence[Piece]) -> int:
    """The piece whose unit the others take: the first that is not a written number, if any."""
    known = [at for at, piece in enumerate(pieces) if piece.measure.unit is not None]
    free = [at for at, piece in enumerate(pieces) if piece.literal is None]
    fixed = [at for at in known if at in free]
    if fixed:
        return fixed[0]
    # A unit is written, but nothing that it could be checked against has one.
    unchecked = [at for at in free if not pieces[at].measure.plain and pieces[at].kind != "any"]
    return (unchecked or known)[0]


def _remedy(term: Term, measure: Measure, to: Measure) -> str:
    """How a number gets into another scale of the same unit."""
    assert measure.unit is not None and to.unit is not None
    spare = _spare_factor(term, measure.unit, to.unit)
    if spare is not None:
        return f"; leave out {spare}"
    factor = float(f"{measure.unit.scale / to.unit.scale:.12g}")
    if measure.zero != to.zero or factor == 1.0 or " " in measure.unit.symbol + to.unit.symbol:
        return "; let Scalar and Offset of a channel bring both to one scale"
    inverted = measure.unit.symbol.translate({ord("*"): "/", ord("/"): "*"})
    step = show_quantity(factor, f"{to.unit.symbol}/{inverted}")
    text = _short(term)
    if isinstance(term, Arithmetic) and term.op in "+-%":
        text = f"({text})"
    return f"; write {text} * {step}, or bring both channels to one unit"


def _spare_factor(term: Term, unit: Unit, to: Unit) -> str | None:
    """The written factor without which a product is in the unit `to`; None where there is none."""
    if not isinstance(term, Arithmetic) or term.op not in ("*", "/"):
        return None
    factor = term.right
    made = units.unit_of(factor.unit) if isinstance(factor, Number) else None
    if made is None or made.dimension != units.NUMBER:
        return None
    without = unit.scale / made.scale if term.op == "*" else unit.scale * made.scale
    return f"{term.op} {show(factor)}" if math.isclose(without, to.scale) else None


def _short(term: Term) -> str:
    text = show(term)
    return text if len(text) <= SHOWN_CHARS_MAX else f"{text[: SHOWN_CHARS_MAX - 1]}…"
