"""The infix form of rules: text to words, numbers and signs, and what a parser asks of them."""

from __future__ import annotations

import re
from typing import Final, NamedTuple, NoReturn

from safety.terms import COMPARISONS, TEXT_CHARS_MAX, RuleSyntaxError

_TOKEN: Final = re.compile(
    r"""\s*(?:
        (?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)
      | (?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")
      | (?P<tick>`(?:[^`]|``)*`)
      | (?P<dollar>\$[\w/-]*)
      | (?P<word>[^\W\d]\w*)
      | (?P<unit>\[[^\[\]]*\])
      | (?P<op><=|>=|==|!=|[<>+\-*/%(),.])
      | (?P<end>$)
    )""",
    re.VERBOSE,
)
_HINTS: Final = {
    "'": "the quote is never closed",
    '"': "the quote is never closed",
    "`": "the backquote is never closed",
    "[": "the unit is never closed with ]",
    "]": "no unit begins before this ]",
    "=": "a comparison is written ==",
    "!": "a negation is written not, unequal is written !=",
    "&": "write and",
    "|": "write or",
    "^": "there is no power; multiply",
    ";": "arguments are separated by commas",
}
_BEHIND_VALUES: Final = ("and", "or", "for", "hysteresis")


class Token(NamedTuple):
    """One token; `position` is the index of its first character."""

    kind: str  # number, text, tick, dollar, word, unit, op or end
    text: str  # as written
    position: int


def tokens(text: str) -> list[Token]:
    """The tokens of a text, `end` last. Raises RuleSyntaxError, with the place."""
    if len(text) > TEXT_CHARS_MAX:
        raise RuleSyntaxError(f"a rule has at most {TEXT_CHARS_MAX} characters", 0, text)
    found: list[Token] = []
    position = 0
    while not found or found[-1].kind != "end":
        match = _TOKEN.match(text, position)
        if match is None or match.lastgroup is None:
            _bad_character(text, position)
        start, position = match.span(match.lastgroup)
        found.append(Token(match.lastgroup, match[match.lastgroup], start))
    return found


def _bad_character(text: str, position: int) -> NoReturn:
    position += len(text[position:]) - len(text[position:].lstrip())
    character = text[position]
    message = _HINTS.get(character, f'"{character}" has no meaning here')
    swapped = {"=>": ">=", "=<": "<="}.get(text[position : position + 2])
    if swapped is not None:
        message = f"a comparison is written {swapped}"
    raise RuleSyntaxError(message, position, text)


def unquoted(text: str) -> str:
    """What stands in quotes or backquotes; doubled ones inside are one."""
    mark = text[0]
    return text[1:-1].replace(mark * 2, mark)


class Reader:
    """The tokens of one text, taken one by one."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = tokens(text)
        self._at = 0
        self._nesting = 0

    @property
    def _next(self) -> Token:
        return self._tokens[self._at]

    def _take(self) -> Token:
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

    def _fail(self, message: str, token: Token | None = None) -> NoReturn:
        raise RuleSyntaxError(message, (token or self._next).position, self._text)

    def _is_closed(self) -> bool:
        """Whether the last token is a closing parenthesis."""
        last = self._tokens[self._at - 1]
        return last.kind == "op" and last.text == ")"

    def _ends_value(self) -> bool:
        """Whether what comes next can't begin a number."""
        return self._next.kind == "end" or (
            self._is_op(*COMPARISONS, ")", ",")
            or (self._next.kind == "word" and self._next.text.lower() in _BEHIND_VALUES)
        )

    def _check_commas(self, word: str, commas: list[int]) -> None:
        """Refuse `max(x, 0,5)`: somebody may mean 0.5."""
        behind = [self._tokens[at + 1].position - self._tokens[at].position for at in commas]
        for at, step in zip(commas, behind, strict=True):
            left, comma, right = self._tokens[at - 1 : at + 2]
            joined = step == 1 and left.position + len(left.text) == comma.position
            spaced = word in ("min", "max", "avg") or max(behind) > 1
            if joined and spaced and left.kind == right.kind == "number":
                self._fail(
                    f"write {left.text}.{right.text}, or put a space behind the comma: it only "
                    "separates arguments",
                    comma,
                )
