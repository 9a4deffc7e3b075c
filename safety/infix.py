"""The infix form of rules: text to a term.

    rule        = conjunction { "or" conjunction }
    conjunction = negation { "and" negation }
    negation    = "not" negation | delayed
    delayed     = comparison { "for" duration }
    comparison  = sum [ ( "<" | "<=" | ">" | ">=" | "==" | "!=" ) sum [ "hysteresis" quantity ] ]
    sum         = product { ( "+" | "-" ) product }
    product     = sign { ( "*" | "/" | "%" ) sign }
    sign        = "-" sign | atom
    atom        = quantity | 'name' | "true" | "false" | "null" | point | call | "(" rule ")"
    call        = if(rule, rule, rule) | min|max|avg(rule, …) | abs(rule)
                | vote(m, rule, …) [ "degrade" ( "none" | "trip" | "drop" ) ]
                | quality(rule) | age(point) | alarm(name) | state(name)
                | rate(rule, duration) | filter(rule, duration)
                | ramp(rule, constant, constant) | curve(rule, constant, constant, …)
    constant    = [ "-" ] quantity
    quantity    = number [ "[" unit "]" ]
    point       = Equipment.Channel | `Equipment.Channel` | $LiveData/Equipment/Channel
    duration    = number ( "ms" | "s" | "min" | "h" )

Words of the language may be written in capitals. Errors carry the index of the character. What
the grammar would read and a reader might take for something else is refused: a `for` behind the
last of several conditions, or behind a `not`, and a comma that could be a decimal one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Literal, NamedTuple

from config import units
from safety.layout import DELAY_S_MAX
from safety.terms import (
    ARGUMENTS_MAX,
    COMPARISONS,
    CURVE_POINTS_MAX,
    NESTING_MAX,
    UNIT_CHARS_MAX,
    WORDS,
    Age,
    Arithmetic,
    Call,
    Choice,
    Compare,
    Curve,
    Degrade,
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
    RuleSyntaxError,
    Slew,
    Term,
    Text,
    Truth,
    Vote,
    check_depth,
    curve_fault,
    reference,
)
from safety.tokens import Reader, Token, unquoted

_DURATIONS_NS: Final = {
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "min": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_COUNTS: Final = {"if": 3, "abs": 1, "quality": 1, "age": 1}
_TAKES: Final = {
    "rate": "a number and the time it is measured over, e.g. rate(Tank.Level, 10s)",
    "filter": "a number and a time constant, e.g. filter(Tank.Level, 5s)",
    "ramp": "a number and how much a second it may rise and fall, e.g. ramp(Site.Power, 5, 10)",
    "curve": "a number and points x, y, e.g. curve(Grid.Hz, 49.5, 100, 50, 0)",
}
_DEGRADES: Final[dict[str, Degrade]] = {"none": "none", "trip": "trip", "drop": "drop"}


class _Quantity(NamedTuple):
    """A number with a sign and perhaps a unit, as an argument that must be constant."""

    value: float
    unit: str
    token: Token


def parse(text: str) -> Term:
    """The term of an infix text. Raises RuleSyntaxError, with the place, on anything else."""
    return check_depth(_Parser(text).rule_to_end(), text)


class _Parser(Reader):
    """Recursive descent; one method a line of the grammar above."""

    def _expect_op(self, op: str, after: str) -> None:
        if not self._is_op(op):
            self._fail(self._leftover() or f'expected "{op}" {after}')
        self._at += 1

    # ------------------------------------------------------------ grammar

    def rule_to_end(self) -> Term:
        if self._next.kind == "end":
            self._fail("the rule is empty")
        term = self._rule()
        if self._next.kind != "end":
            self._fail(self._leftover() or "expected an operator or the end of the rule")
        return term

    def _leftover(self) -> str:
        """What is wrong with a token that stands where a term has ended; '' = nothing special."""
        if self._is_op(*COMPARISONS):
            return 'comparisons can\'t be chained; write "a < x and x < b"'
        if self._is_op(","):
            return "a comma only separates arguments; decimals are written 5.5"
        if self._next.kind == "unit":
            return "only a number has a unit in brackets; a point has that of its channel"
        if self._is_word("degrade"):
            return "degrade stands behind vote(...)"
        before = self._tokens[self._at - 1]
        if before.kind == "number" and self._next.text in units.UNITS:
            return f"a unit stands in brackets: {before.text} [{self._next.text}]"
        return ""

    def _rule(self) -> Term:
        self._nesting += 1
        if self._nesting > NESTING_MAX:
            self._fail(f"more than {NESTING_MAX} levels of parentheses")
        term = self._junction("or", self._conjunction)
        self._nesting -= 1
        return term

    def _conjunction(self) -> Term:
        return self._junction("and", self._negation)

    def _junction(self, op: str, part: Callable[[], Term]) -> Term:
        terms = [part()]
        each_delayed = self._ends_in_for(terms[0])
        while self._accept_word(op):
            terms.append(part())
            delayed = self._ends_in_for(terms[-1])
            if delayed and not each_delayed:
                self._fail(
                    f'"for" could belong to the last condition or to all of them; write '
                    f'"a {op} (b for 5s)", or "(a {op} b) for 5s"',
                    self._tokens[self._at - 3],
                )
            each_delayed = each_delayed and delayed
        if len(terms) == 1:
            return terms[0]
        if len(terms) > ARGUMENTS_MAX:
            self._fail(f"at most {ARGUMENTS_MAX} conditions can be joined in a row")
        return Junction("and" if op == "and" else "or", tuple(terms), position=terms[0].position)

    def _negation(self) -> Term:
        negations = []
        while self._is_word("not"):
            negations.append(self._take().position)
        term = self._delayed()
        if negations and self._ends_in_for(term):
            self._fail(
                'write "not (a for 5s)", or "(not a) for 5s" for what was false that long',
                self._tokens[self._at - 3],
            )
        for position in reversed(negations):
            term = Not(term, position=position)
        return term

    def _delayed(self) -> Term:
        term = self._comparison()
        while self._accept_word("for"):
            term = Delay(term, self._duration_ns("for"), position=term.position)
        return term

    def _ends_in_for(self, term: Term) -> bool:
        """Whether the term read last ends in ``for 5s``, without parentheses around it."""
        return isinstance(term, Delay) and not self._is_closed()

    def _duration_ns(self, after: str) -> int:
        start = self._next
        number = self._number(after)
        unit = self._take()
        if unit.kind != "word" or unit.text.lower() not in _DURATIONS_NS:
            self._fail("expected a unit of time: ms, s, min or h", unit)
        unit_ns = _DURATIONS_NS[unit.text.lower()]
        if number * unit_ns > DELAY_S_MAX * 1e9:
            self._fail(f"a duration is at most {DELAY_S_MAX} s", start)
        return round(number * unit_ns)

    def _number(self, after: str) -> float:
        token = self._take()
        if token.kind != "number":
            self._fail(f'expected a number after "{after}"', token)
        return self._value(token)

    def _unit(self) -> str:
        """The unit behind a number; '' where there is none."""
        if self._next.kind != "unit":
            return ""
        token = self._take()
        unit = token.text[1:-1].strip()
        if not unit:
            self._fail("a unit is missing in the brackets, e.g. [kW]", token)
        if len(unit) > UNIT_CHARS_MAX:
            self._fail(f"a unit has at most {UNIT_CHARS_MAX} characters", token)
        return unit

    def _constant(self, word: str) -> _Quantity:
        """An argument that must be a number as it stands."""
        start = self._next
        sign = 1.0
        if self._is_op("-"):
            self._at += 1
            sign = -1.0
        token = self._take()
        if token.kind != "number":
            self._fail(f"{word}() takes a plain number here", token)
        found = _Quantity(sign * self._value(token), self._unit(), start)
        if self._next.kind == "op" and not self._is_op(",", ")"):
            self._fail(f"{word}() takes a plain number here", start)
        if not self._is_op(","):
            self._expect_op(")", f'or "," in {word}()')
            self._at -= 1
        return found

    def _value(self, token: Token) -> float:
        value = float(token.text)
        if not math.isfinite(value):
            self._fail("the number is too large", token)
        return value

    def _comparison(self) -> Term:
        left = self._sum()
        if not self._is_op(*COMPARISONS):
            if self._is_word("hysteresis"):
                self._fail("hysteresis stands behind a comparison with <, <=, > or >=")
            return left
        op = self._take().text
        right = self._sum()
        if not self._is_word("hysteresis"):
            return Compare(op, left, right, position=left.position)
        if op in ("==", "!="):
            self._fail(f'"{op}" can\'t have a hysteresis')
        self._at += 1
        hysteresis = self._number("hysteresis")
        return Compare(op, left, right, hysteresis, self._unit(), position=left.position)

    def _sum(self) -> Term:
        term = self._product()
        while self._is_op("+", "-"):
            op: Literal["+", "-"] = "+" if self._take().text == "+" else "-"
            term = Arithmetic(op, term, self._product(), position=term.position)
        return term

    def _product(self) -> Term:
        term = self._sign()
        while self._is_op("*", "/", "%"):
            sign = self._take()
            if sign.text == "%" and self._ends_value():
                self._fail("% is the rest of a division; a percentage is written 20 [%]", sign)
            op = sign.text
            term = Arithmetic(op, term, self._sign(), position=term.position)  # type: ignore[arg-type]
        return term

    def _sign(self) -> Term:
        if not self._is_op("-"):
            return self._atom()
        start = self._take().position
        if self._next.kind == "number":
            return Number(-self._value(self._take()), self._unit(), position=start)
        self._nesting += 1
        if self._nesting > NESTING_MAX:
            self._fail("too many signs")
        term = self._sign()
        self._nesting -= 1
        return Negative(term, position=start)

    def _atom(self) -> Term:
        token = self._take()
        if token.kind == "number":
            return Number(self._value(token), self._unit(), position=token.position)
        if token.kind == "text":
            return Text(unquoted(token.text), position=token.position)
        if token.kind == "tick":
            return self._backquoted(token)
        if token.kind == "dollar":
            return self._dollar(token)
        if token.kind == "word":
            return self._word(token)
        if token.kind != "op" or token.text != "(":
            self._fail("expected a value, a point or a parenthesis", token)
        term = self._rule()
        self._expect_op(")", "to close the parenthesis")
        return term

    # ------------------------------------------------------------ names

    def _dollar(self, token: Token) -> Term:
        try:
            return replace(reference(token.text), position=token.position)
        except RuleSyntaxError as error:
            self._fail(error.message, token)

    def _backquoted(self, token: Token) -> Term:
        name = unquoted(token.text)
        if not name:
            self._fail("the name is empty", token)
        if self._is_op("."):
            return self._channel(name, token.position)
        made = Point if "." in name else Name
        return made(name, position=token.position)

    def _channel(self, equipment: str, start: int) -> Term:
        self._expect_op(".", "behind the equipment")
        token = self._take()
        if token.kind == "tick":
            if not unquoted(token.text):
                self._fail("the name is empty", token)
            return Point(f"{equipment}.{unquoted(token.text)}", position=start)
        if token.kind != "word":
            self._fail(
                'expected the name of a channel behind "."; a name that starts with a digit '
                "stands in backquotes",
                token,
            )
        return Point(f"{equipment}.{token.text}", position=start)

    def _word(self, token: Token) -> Term:
        word = token.text.lower()
        if self._is_op("."):
            return self._channel(token.text, token.position)
        if word in ("true", "false"):
            return Truth(word == "true", position=token.position)
        if word == "null":
            return Null(position=token.position)
        if self._is_op("("):
            return self._call(word, token)
        if word in WORDS:
            self._fail(f'"{token.text}" can\'t stand here', token)
        return Name(token.text, position=token.position)

    # ------------------------------------------------------------ calls

    def _call(self, word: str, token: Token) -> Term:
        self._at += 1
        if word in ("alarm", "state"):
            return self._ref(word, token)
        if word == "vote":
            return self._vote(token)
        if word in _TAKES:
            return self._shaped(word, token)
        if word not in ("if", "min", "max", "avg", "abs", "quality", "age"):
            self._fail(
                f'there is no function "{token.text}"; there are if, min, max, abs, avg, vote, '
                "rate, filter, ramp, curve, quality, age, alarm and state",
                token,
            )
        terms = self._arguments(word)
        if len(terms) != _COUNTS.get(word, len(terms)):
            self._fail(f"{word}() takes {_COUNTS[word]}, not {len(terms)} arguments", token)
        if word == "if":
            return Choice(*terms, position=token.position)
        if word == "quality":
            return Quality(terms[0], position=token.position)
        if word == "age":
            if not isinstance(terms[0], Point | Name):
                self._fail("age() takes one point", token)
            return Age(terms[0], position=token.position)
        return Call(word, terms, position=token.position)  # type: ignore[arg-type]

    def _arguments(self, word: str) -> tuple[Term, ...]:
        terms = [self._rule()]
        commas = []
        while self._is_op(","):
            commas.append(self._at)
            self._at += 1
            terms.append(self._rule())
        self._expect_op(")", f'or "," in {word}()')
        self._check_commas(word, commas)
        if len(terms) > ARGUMENTS_MAX:
            self._fail(f"{word}() takes at most {ARGUMENTS_MAX} arguments")
        return tuple(terms)

    def _vote(self, call: Token) -> Term:
        start = self._next
        needed = self._number("vote(")
        self._expect_op(",", "behind the number of votes")
        terms = self._arguments("vote")
        if needed != int(needed) or not 1 <= needed <= len(terms):
            self._fail(f"a vote of {len(terms)} needs a whole number from 1 to {len(terms)}", start)
        degrade: Degrade | None = None
        if self._accept_word("degrade"):
            word = self._take()
            degrade = _DEGRADES.get(word.text.lower()) if word.kind == "word" else None
            if degrade is None:
                self._fail("degrade takes trip, drop or none", word)
        return Vote(int(needed), terms, degrade, position=call.position)

    def _ref(self, word: str, call: Token) -> Term:
        token = self._take()
        if token.kind in ("text", "tick"):
            name = unquoted(token.text)
        elif token.kind == "word":
            name = token.text
        else:
            name = ""
        if not name:
            self._fail(f"{word}() takes the name of one {word}", token)
        self._expect_op(")", f"behind the name in {word}()")
        return Ref("alarm" if word == "alarm" else "state", name, position=call.position)

    def _shaped(self, word: str, call: Token) -> Term:
        """rate(), filter(), ramp() and curve(): a number, then constants."""
        inner = self._rule()
        if not self._is_op(","):
            self._fail(self._leftover() or f"{word}() takes {_TAKES[word]}")
        first = self._at
        self._at += 1
        if word in ("rate", "filter"):
            start = self._next
            duration_ns = self._duration_ns(",")
            if duration_ns <= 0:
                self._fail(f"the time in {word}() is above 0", start)
            self._expect_op(")", f"behind the time in {word}()")
            made = Rate if word == "rate" else Filter
            return made(inner, duration_ns, position=call.position)
        constants = [self._constant(word)]
        commas = []
        while self._is_op(","):
            commas.append(self._at)
            self._at += 1
            constants.append(self._constant(word))
            if len(constants) > 2 * CURVE_POINTS_MAX:
                self._fail(f"a curve has at most {CURVE_POINTS_MAX} points", constants[-1].token)
        self._at += 1  # _constant() saw the parenthesis
        self._check_commas(word, [first, *commas])
        build = self._slew if word == "ramp" else self._curve
        return build(inner, constants, call)

    def _slew(self, inner: Term, rates: list[_Quantity], call: Token) -> Term:
        if len(rates) != 2:
            self._fail(f"ramp() takes {_TAKES['ramp']}", call)
        for rate in rates:
            if rate.value <= 0:
                self._fail("a ramp needs rates above 0", rate.token)
        unit = self._common_unit(rates, "both rates of a ramp")
        return Slew(inner, rates[0].value, rates[1].value, unit, position=call.position)

    def _curve(self, inner: Term, numbers: list[_Quantity], call: Token) -> Term:
        if len(numbers) % 2:
            self._fail("the last x of the curve has no y", numbers[-1].token)
        points = tuple(
            (numbers[at].value, numbers[at + 1].value) for at in range(0, len(numbers), 2)
        )
        fault = curve_fault(points)
        if fault is not None:
            self._fail(fault[1], numbers[2 * fault[0]].token)
        x_unit = self._common_unit(numbers[::2], "every x of a curve")
        y_unit = self._common_unit(numbers[1::2], "every y of a curve")
        return Curve(inner, points, x_unit, y_unit, position=call.position)

    def _common_unit(self, numbers: list[_Quantity], what: str) -> str:
        for number in numbers:
            if number.unit != numbers[0].unit:
                self._fail(f"{what} must have the same unit, or none", number.token)
        return numbers[0].unit
