"""Terms: what a rule's text or JsonLogic becomes before it is compiled, and back to text.

Both forms of a rule end here. `show` writes a term as infix that parses to the same term, so
that a JsonLogic rule can be read in an event or on a screen.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

NESTING_MAX: Final = 30  # parentheses and calls inside one another
DEPTH_MAX: Final = 150  # operators inside one another; `a + b + c` is two deep
ARGUMENTS_MAX: Final = 64
TEXT_CHARS_MAX: Final = 20_000

RefKind = Literal["alarm", "state"]

COMPARISONS: Final = ("<", "<=", ">", ">=", "==", "!=")
# Words of the language; a name that equals one stands in backquotes.
WORDS: Final = frozenset(
    "and or not true false null for hysteresis if min max abs avg vote quality age alarm state "
    "ms s min h".split()
)


class RuleSyntaxError(Exception):
    """A rule can't be read.

    position  index of the character in the text where it goes wrong (infix), or -1
    message   what is wrong and what was expected
    """

    def __init__(self, message: str, position: int = -1, text: str = "") -> None:
        self.message = message
        self.position = position
        self.text = text
        super().__init__(message)

    def __str__(self) -> str:
        """One line: the message, the place, and what stands there."""
        if self.position < 0:
            return self.message
        rest = self.text[self.position : self.position + 20]
        where = f'at character {self.position + 1}, before "{rest}"' if rest else "at the end"
        return f"{self.message} ({where})"


@dataclass(frozen=True, slots=True)
class Number:
    """A number; always finite."""

    value: float


@dataclass(frozen=True, slots=True)
class Text:
    """A name in quotes: a level, a state, a method."""

    value: str


@dataclass(frozen=True, slots=True)
class Truth:
    """`true` or `false`."""

    value: bool


@dataclass(frozen=True, slots=True)
class Null:
    """`null`: inactive."""


@dataclass(frozen=True, slots=True)
class Point:
    """A point by its tag, ``Equipment.Channel``."""

    tag: str


@dataclass(frozen=True, slots=True)
class Name:
    """A bare name; stands for an entry of the rule's `Data`."""

    name: str


@dataclass(frozen=True, slots=True)
class Ref:
    """The level of an alarm or the name of a state, null where the rule is inactive."""

    kind: RefKind
    name: str


@dataclass(frozen=True, slots=True)
class Not:
    """Negation of a condition."""

    term: Term


@dataclass(frozen=True, slots=True)
class Junction:
    """`and` or `or` of two and more conditions."""

    op: Literal["and", "or"]
    terms: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class Compare:
    """A comparison; `hysteresis` is 0 or more, None where there is none."""

    op: str
    left: Term
    right: Term
    hysteresis: float | None = None


@dataclass(frozen=True, slots=True)
class Negative:
    """A number with its sign changed."""

    term: Term


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """`+`, `-`, `*`, `/` or `%` of two numbers; `%` has the sign of the left one."""

    op: Literal["+", "-", "*", "/", "%"]
    left: Term
    right: Term


@dataclass(frozen=True, slots=True)
class Call:
    """`min`, `max`, `avg` (one and more numbers) or `abs` (one)."""

    function: Literal["min", "max", "avg", "abs"]
    terms: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """`if(condition, value, other)`."""

    condition: Term
    value: Term
    other: Term


@dataclass(frozen=True, slots=True)
class Vote:
    """At least `needed` of the conditions (MooN)."""

    needed: int
    terms: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class Delay:
    """True once the condition was true without a break for `delay_ns`."""

    term: Term
    delay_ns: int


@dataclass(frozen=True, slots=True)
class Quality:
    """0 where the term is good, 1 uncertain, 2 bad; itself always good."""

    term: Term


@dataclass(frozen=True, slots=True)
class Age:
    """Seconds since a point's value was taken."""

    point: Term


Term = (
    Number
    | Text
    | Truth
    | Null
    | Point
    | Name
    | Ref
    | Not
    | Junction
    | Compare
    | Negative
    | Arithmetic
    | Call
    | Choice
    | Vote
    | Delay
    | Quality
    | Age
)


def children(term: Term) -> tuple[Term, ...]:
    """The terms directly inside a term, from left to right."""
    match term:
        case Junction(_, terms) | Call(_, terms) | Vote(_, terms):
            return terms
        case Compare(_, left, right, _) | Arithmetic(_, left, right):
            return (left, right)
        case Choice(condition, value, other):
            return (condition, value, other)
        case Not(inner) | Negative(inner) | Delay(inner, _) | Quality(inner) | Age(inner):
            return (inner,)
    return ()


def check_depth(term: Term, text: str = "") -> Term:
    """The term itself, or RuleSyntaxError where it is deeper than DEPTH_MAX."""
    level: tuple[Term, ...] = (term,)
    for _ in range(DEPTH_MAX):
        level = tuple(inner for outer in level for inner in children(outer))
        if not level:
            return term
    raise RuleSyntaxError(
        f"the rule is nested more than {DEPTH_MAX} operators deep; make two rules of it", 0, text
    )


REF_PREFIXES: Final[dict[str, RefKind]] = {"$AlarmState/": "alarm", "$SystemState/": "state"}
LIVE_PREFIX: Final = "$LiveData/"


def reference(text: str) -> Point | Ref:
    """The term of ``$LiveData/Equipment/Channel``, ``$AlarmState/<name>`` or ``$SystemState/…``.

    Raises RuleSyntaxError on any other text.
    """
    if text.startswith(LIVE_PREFIX):
        equipment, slash, channel = text.removeprefix(LIVE_PREFIX).partition("/")
        if equipment and channel:
            return Point(f"{equipment}.{channel}")
    for prefix, kind in REF_PREFIXES.items():
        if text.startswith(prefix) and len(text) > len(prefix):
            return Ref(kind, text.removeprefix(prefix))
    raise RuleSyntaxError(
        f'"{text}" is no reference; write $LiveData/<Equipment>/<Channel>, '
        "$AlarmState/<alarm> or $SystemState/<state>"
    )


# ---------------------------------------------------------------- back to text

_WORD: Final = re.compile(r"[^\W\d]\w*")
_UNITS_NS: Final = (("h", 3_600_000_000_000), ("min", 60_000_000_000), ("s", 1_000_000_000))

# How tightly a term binds, as the parser has it (safety/infix.py).
_LOOSE, _OR, _AND, _NOT, _DELAY, _COMPARE, _SUM, _PRODUCT, _SIGN, _ATOM = range(10)


def show_duration(duration_ns: int) -> str:
    """A duration in the largest unit that makes it a whole number, e.g. ``5s``."""
    for unit, unit_ns in _UNITS_NS:
        if duration_ns >= unit_ns and duration_ns % unit_ns == 0:
            return f"{duration_ns // unit_ns}{unit}"
    return f"{show_number(duration_ns / 1e6)}ms"


def show_number(value: float) -> str:
    """The shortest text that reads back as the same number."""
    text = repr(float(value))
    return text.removesuffix(".0")


def _quoted(text: str, mark: str) -> str:
    return mark + text.replace(mark, mark + mark) + mark


def _is_plain(word: str) -> bool:
    return bool(_WORD.fullmatch(word)) and word.lower() not in WORDS


def _show_tag(tag: str) -> str:
    parts = tag.split(".")
    if len(parts) == 2 and all(_is_plain(part) for part in parts):
        return tag
    return _quoted(tag, "`")


def show(term: Term) -> str:
    """The term as infix text; parses back to an equal term."""
    return _show(term)[0]


def _inside(term: Term, binding: int) -> str:
    """The text of a term where at least `binding` is needed, in parentheses where it is less."""
    text, own = _show(term)
    return text if own >= binding else f"({text})"


def _list(terms: tuple[Term, ...]) -> str:
    return ", ".join(show(term) for term in terms)


def _show(term: Term) -> tuple[str, int]:
    match term:
        case Number(value):
            text = show_number(value)
            return text, _SIGN if text.startswith("-") else _ATOM
        case Text(value):
            return _quoted(value, "'"), _ATOM
        case Truth(value):
            return "true" if value else "false", _ATOM
        case Null():
            return "null", _ATOM
        case Point(tag):
            return _show_tag(tag), _ATOM
        case Name(name):
            return name if _is_plain(name) else _quoted(name, "`"), _ATOM
        case Ref(kind, name):
            inner = name if _is_plain(name) else _quoted(name, "'")
            return f"{kind}({inner})", _ATOM
        case Call(function, terms):
            return f"{function}({_list(terms)})", _ATOM
        case Choice(condition, value, other):
            return f"if({_list((condition, value, other))})", _ATOM
        case Vote(needed, terms):
            return f"vote({needed}, {_list(terms)})", _ATOM
        case Quality(inner_term):
            return f"quality({show(inner_term)})", _ATOM
        case Age(point):
            return f"age({show(point)})", _ATOM
        case _:
            return _show_operator(term)


def _show_operator(term: Term) -> tuple[str, int]:
    match term:
        case Not(inner):
            return f"not {_inside(inner, _NOT)}", _NOT
        case Junction(op, terms):
            own = _AND if op == "and" else _OR
            return f" {op} ".join(_inside(part, own + 1) for part in terms), own
        case Delay(inner, delay_ns):
            return f"{_inside(inner, _DELAY)} for {show_duration(delay_ns)}", _DELAY
        case Compare(op, left, right, hysteresis):
            text = f"{_inside(left, _SUM)} {op} {_inside(right, _SUM)}"
            if hysteresis is not None:
                text += f" hysteresis {show_number(hysteresis)}"
            return text, _COMPARE
        case Arithmetic(op, left, right):
            own = _SUM if op in "+-" else _PRODUCT
            return f"{_inside(left, own)} {op} {_inside(right, own + 1)}", own
        case Negative(inner):
            # A number keeps its own sign, so the sign of a term stands before a parenthesis.
            text = show(inner) if isinstance(inner, Number) else _inside(inner, _ATOM)
            return f"-({text})" if isinstance(inner, Number) else f"-{text}", _SIGN
    raise AssertionError(f"no term: {term!r}")
