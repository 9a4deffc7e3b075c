"""The infix form of rules: text to a term.

    rule        = conjunction { "or" conjunction }
    conjunction = negation { "and" negation }
    negation    = "not" negation | delayed
    delayed     = comparison { "for" duration }
    comparison  = sum [ ( "<" | "<=" | ">" | ">=" | "==" | "!=" ) sum [ "hysteresis" number ] ]
    sum         = product { ( "+" | "-" ) product }
    product     = sign { ( "*" | "/" | "%" ) sign }
    sign        = "-" sign | atom
    atom        = number | 'name' | "true" | "false" | "null" | point | call | "(" rule ")"
    call        = if(rule, rule, rule) | min|max|avg(rule, …) | abs(rule) | vote(m, rule, …)
                | quality(rule) | age(point) | alarm(name) | state(name)
    point       = Equipment.Channel | `Equipment.Channel` | $LiveData/Equipment/Channel
    duration    = number ( "ms" | "s" | "min" | "h" )

Words of the language may be written in capitals. Errors carry the index of the character.
"""

from __future__ import annotations

import math
import re
from typing import Final, NamedTuple, NoReturn

from safety.layout import DELAY_S_MAX
from safety.terms import (
    ARGUMENTS_MAX,
    COMPARISONS,
    NESTING_MAX,
    TEXT_CHARS_MAX,
    WORDS,
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
    RuleSyntaxError,
    Term,
    Text,
    Truth,
    Vote,
    check_depth,
    reference,
)

_TOKEN: Final = re.compile(
    r"""\s*(?:
        (?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)
      | (?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")
      | (?P<tick>`(?:[^`]|``)*`)
      | (?P<dollar>\$[\w/-]*)
      | (?P<word>[^\W\d]\w*)
      | (?P<op><=|>=|==|!=|[<>+\-*/%(),.])
      | (?P<end>$)
    )""",
    re.VERBOSE,
)
_DURATIONS_NS: Final = {"ms": 1e6, "s": 1e9, "min": 60e9, "h": 3600e9}


class _Token(NamedTuple):
    kind: str
    text: str  # as written; words of the language in lower case
    position: int


def parse(text: str) -> Term:
    """The term of an infix text. Raises RuleSyntaxError, with the place, on anything else."""
    return check_depth(_Parser(text).rule_to_end(), text)


def _tokens(text: str) -> list[_Token]:
    if len(text) > TEXT_CHARS_MAX:
        raise RuleSyntaxError(f"a rule has at most {TEXT_CHARS_MAX} characters", 0, text)
    found: list[_Token] = []
    position = 0
    while not found or found[-1].kind != "end":
        match = _TOKEN.match(text, position)
        if match is None or match.lastgroup is None:
            _bad_character(text, position)
        start, position = match.span(match.lastgroup)
        found.append(_Token(match.lastgroup, match[match.lastgroup], start))
    return found


def _bad_character(text: str, position: int) -> NoReturn:
    position += len(text[position:]) - len(text[position:].lstrip())
    character = text[position]
    hints = {
        "'": "the quote is never closed",
        '"': "the quote is never closed",
        "`": "the backquote is never closed",
        "=": "a comparison is written ==",
        "!": "a negation is written not, unequal is written !=",
        "&": "write and",
        "|": "write or",
    }
    swapped = {"=>": ">=", "=<": "<="}.get(text[position : position + 2])
    message = hints.get(character, f'"{character}" has no meaning here')
    if swapped is not None:
        message = f"a comparison is written {swapped}"
    raise RuleSyntaxError(message, position, text)


class _Parser:
    """Recursive descent; one method a line of the grammar above."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = _tokens(text)
        self._at = 0
        self._nesting = 0

    # ------------------------------------------------------------ tokens

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _take(self) -> _Token:
        token = self._tokens[self._at]
        self._at += 1
        return token

    def _is_word(self, word: str) -> bool:
        return self._next.kind == "word" and self._next.text.lower() == word

    def _is_op(self, *ops: str) -> bool:
        return self._next.kind == "op" and self._next.text in ops

    def _accept_word(self, word: str) -> bool:
        if self._is_word(word):
            self._at += 1
            return True
        return False

    def _expect_op(self, op: str, after: str) -> None:
        if not self._is_op(op):
            self._fail(f'expected "{op}" {after}')
        self._at += 1

    def _fail(self, message: str, token: _Token | None = None) -> NoReturn:
        raise RuleSyntaxError(message, (token or self._next).position, self._text)

    # ------------------------------------------------------------ grammar

    def rule_to_end(self) -> Term:
        if self._next.kind == "end":
            self._fail("the rule is empty")
        term = self._rule()
        if self._is_op(*COMPARISONS):
            self._fail('comparisons can\'t be chained; write "a < x and x < b"')
        if self._next.kind != "end":
            self._fail("expected an operator or the end of the rule")
        return term

    def _rule(self) -> Term:
        self._nesting += 1
        if self._nesting > NESTING_MAX:
            self._fail(f"more than {NESTING_MAX} levels of parentheses")
        terms = [self._conjunction()]
        while self._accept_word("or"):
            terms.append(self._conjunction())
        self._nesting -= 1
        return self._junction("or", terms)

    def _conjunction(self) -> Term:
        terms = [self._negation()]
        while self._accept_word("and"):
            terms.append(self._negation())
        return self._junction("and", terms)

    def _junction(self, op: str, terms: list[Term]) -> Term:
        if len(terms) == 1:
            return terms[0]
        if len(terms) > ARGUMENTS_MAX:
            self._fail(f"at most {ARGUMENTS_MAX} conditions can be joined in a row")
        return Junction("and" if op == "and" else "or", tuple(terms))

    def _negation(self) -> Term:
        negations = 0
        while self._is_word("not"):
            self._at += 1
            negations += 1
        term = self._delayed()
        for _ in range(negations):
            term = Not(term)
        return term

    def _delayed(self) -> Term:
        term = self._comparison()
        while self._accept_word("for"):
            term = Delay(term, self._duration_ns())
        return term

    def _duration_ns(self) -> int:
        start = self._next
        number = self._number("for")
        unit = self._take()
        if unit.kind != "word" or unit.text.lower() not in _DURATIONS_NS:
            self._fail("expected a unit of time: ms, s, min or h", unit)
        duration_ns = number * _DURATIONS_NS[unit.text.lower()]
        if duration_ns > DELAY_S_MAX * 1e9:
            self._fail(f"a delay lasts at most {DELAY_S_MAX} s", start)
        return round(duration_ns)

    def _number(self, after: str) -> float:
        token = self._take()
        if token.kind != "number":
            self._fail(f'expected a number after "{after}"', token)
        return self._value(token)

    def _value(self, token: _Token) -> float:
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
        hysteresis = None
        if self._is_word("hysteresis"):
            if op in ("==", "!="):
                self._fail(f'"{op}" can\'t have a hysteresis')
            self._at += 1
            hysteresis = self._number("hysteresis")
        return Compare(op, left, right, hysteresis)

    def _sum(self) -> Term:
        term = self._product()
        while self._is_op("+", "-"):
            op = "+" if self._take().text == "+" else "-"
            term = Arithmetic(op, term, self._product())  # type: ignore[arg-type]
        return term

    def _product(self) -> Term:
        term = self._sign()
        while self._is_op("*", "/", "%"):
            op = self._take().text
            term = Arithmetic(op, term, self._sign())  # type: ignore[arg-type]
        return term

    def _sign(self) -> Term:
        if not self._is_op("-"):
            return self._atom()
        self._at += 1
        if self._next.kind == "number":
            return Number(-self._value(self._take()))
        self._nesting += 1
        if self._nesting > NESTING_MAX:
            self._fail("too many signs")
        term = self._sign()
        self._nesting -= 1
        return Negative(term)

    def _atom(self) -> Term:
        token = self._take()
        if token.kind == "number":
            return Number(self._value(token))
        if token.kind == "text":
            return Text(_unquoted(token.text))
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

    def _dollar(self, token: _Token) -> Term:
        try:
            return reference(token.text)
        except RuleSyntaxError as error:
            self._fail(error.message, token)

    def _backquoted(self, token: _Token) -> Term:
        name = _unquoted(token.text)
        if self._is_op("."):
            return self._channel(name)
        if not name:
            self._fail("the name is empty", token)
        return Point(name) if "." in name else Name(name)

    def _channel(self, equipment: str) -> Term:
        self._expect_op(".", "behind the equipment")
        token = self._take()
        if token.kind == "tick":
            return Point(f"{equipment}.{_unquoted(token.text)}")
        if token.kind != "word":
            self._fail(
                'expected the name of a channel behind "."; a name that starts with a digit '
                "stands in backquotes",
                token,
            )
        return Point(f"{equipment}.{token.text}")

    def _word(self, token: _Token) -> Term:
        word = token.text.lower()
        if self._is_op("."):
            return self._channel(token.text)
        if word in ("true", "false"):
            return Truth(word == "true")
        if word == "null":
            return Null()
        if self._is_op("("):
            return self._call(word, token)
        if word in WORDS:
            self._fail(f'"{token.text}" can\'t stand here', token)
        return Name(token.text)

    # ------------------------------------------------------------ calls

    def _call(self, word: str, token: _Token) -> Term:
        self._at += 1
        if word in ("alarm", "state"):
            return self._ref(word)
        if word == "vote":
            return self._vote()
        if word not in ("if", "min", "max", "avg", "abs", "quality", "age"):
            self._fail(
                f'there is no function "{token.text}"; there are if, min, max, abs, avg, vote, '
                "quality, age, alarm and state",
                token,
            )
        terms = self._arguments(word)
        counts = {"if": 3, "abs": 1, "quality": 1, "age": 1}
        if len(terms) != counts.get(word, len(terms)):
            self._fail(f"{word}() takes {counts[word]}, not {len(terms)} arguments", token)
        if word == "if":
            return Choice(*terms)
        if word == "quality":
            return Quality(terms[0])
        if word == "age":
            if not isinstance(terms[0], Point | Name):
                self._fail("age() takes one point", token)
            return Age(terms[0])
        return Call(word, terms)  # type: ignore[arg-type]

    def _arguments(self, word: str) -> tuple[Term, ...]:
        terms = [self._rule()]
        while self._is_op(","):
            self._at += 1
            terms.append(self._rule())
        self._expect_op(")", f'or "," in {word}()')
        if len(terms) > ARGUMENTS_MAX:
            self._fail(f"{word}() takes at most {ARGUMENTS_MAX} arguments")
        return tuple(terms)

    def _vote(self) -> Term:
        start = self._next
        needed = self._number("vote(")
        self._expect_op(",", "behind the number of votes")
        terms = self._arguments("vote")
        if needed != int(needed) or not 1 <= needed <= len(terms):
            self._fail(f"a vote of {len(terms)} needs a whole number from 1 to {len(terms)}", start)
        return Vote(int(needed), terms)

    def _ref(self, word: str) -> Term:
        token = self._take()
        if token.kind in ("text", "tick"):
            name = _unquoted(token.text)
        elif token.kind == "word":
            name = token.text
        else:
            name = ""
        if not name:
            self._fail(f"{word}() takes the name of one {word}", token)
        self._expect_op(")", f"behind the name in {word}()")
        return Ref("alarm" if word == "alarm" else "state", name)


def _unquoted(text: str) -> str:
    mark = text[0]
    return text[1:-1].replace(mark * 2, mark)
