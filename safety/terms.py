"""Terms: what a rule's text or JsonLogic becomes before it is compiled, and back to text.

Both forms of a rule end here. `show` writes a term as infix that parses to the same term, so
that a JsonLogic rule can be read in an event or on a screen.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

NESTING_MAX: Final = 40  # parentheses and calls inside one another
DEPTH_MAX: Final = 150  # operators inside one another; `a + b + c` is two deep
TERMS_MAX: Final = 20_000  # JsonLogic's `in` and `<` of three repeat what is inside them
ARGUMENTS_MAX: Final = 64
TEXT_CHARS_MAX: Final = 20_000
UNIT_CHARS_MAX: Final = 24
CURVE_POINTS_MIN: Final = 2
CURVE_POINTS_MAX: Final = 32

RefKind = Literal["alarm", "state"]
Degrade = Literal["none", "trip", "drop"]

COMPARISONS: Final = ("<", "<=", ">", ">=", "==", "!=")
# Words of the language; a name that equals one stands in backquotes.
WORDS: Final = frozenset(
    "and or not true false null for hysteresis degrade if min max abs avg vote quality age alarm "
    "state rate filter ramp curve ms s min h".split()
)


class RuleSyntaxError(Exception):
    """A rule can't be read.

    position  index of the character in the text where it goes wrong (infix), or -1
    message   what is wrong and what was expected
    path      where it goes wrong in JsonLogic, e.g. ``if[0].>=[1]``
    """

    def __init__(self, message: str, position: int = -1, text: str = "", path: str = "") -> None:
        self.message = message
        self.position = position
        self.text = text
        self.path = path
        super().__init__(message)

    def __str__(self) -> str:
        """One line: the message, the place, and what stands there."""
        if self.path:
            return f"{self.message} (at {self.path})"
        if self.position < 0:
            return self.message
        rest = self.text[self.position : self.position + 20]
        where = f'at character {self.position + 1}, before "{rest}"' if rest else "at the end"
        return f"{self.message} ({where})"


@dataclass(frozen=True, slots=True)
class Placed:
    """What every term has: where it starts in its text, -1 where it comes from no text."""

    position: int = field(default=-1, compare=False, repr=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Number(Placed):
    """A number; always finite. `unit` is as written in brackets, e.g. ``degC``."""

    value: float
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Text(Placed):
    """A name in quotes: a level, a state, a method."""

    value: str


@dataclass(frozen=True, slots=True)
class Truth(Placed):
    """`true` or `false`."""

    value: bool


@dataclass(frozen=True, slots=True)
class Null(Placed):
    """`null`: inactive."""


@dataclass(frozen=True, slots=True)
class Point(Placed):
    """A point by its tag, ``Equipment.Channel``."""

    tag: str


@dataclass(frozen=True, slots=True)
class Name(Placed):
    """A bare name; stands for an entry of the rule's `Data`."""

    name: str


@dataclass(frozen=True, slots=True)
class Ref(Placed):
    """The level of an alarm or the name of a state, null where the rule is inactive."""

    kind: RefKind
    name: str


@dataclass(frozen=True, slots=True)
class Not(Placed):
    """Negation of a condition."""

    term: Term


@dataclass(frozen=True, slots=True)
class Junction(Placed):
    """`and` or `or` of two and more conditions."""

    op: Literal["and", "or"]
    terms: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class Compare(Placed):
    """A comparison; `hysteresis` is 0 or more, None where there is none."""

    op: str
    left: Term
    right: Term
    hysteresis: float | None = None
    hysteresis_unit: str = ""


@dataclass(frozen=True, slots=True)
class Negative(Placed):
    """A number with its sign changed."""

    term: Term


@dataclass(frozen=True, slots=True)
class Arithmetic(Placed):
    """`+`, `-`, `*`, `/` or `%` of two numbers; `%` has the sign of the left one."""

    op: Literal["+", "-", "*", "/", "%"]
    left: Term
    right: Term


@dataclass(frozen=True, slots=True)
class Call(Placed):
    """`min`, `max`, `avg` (one and more numbers) or `abs` (one)."""

    function: Literal["min", "max", "avg", "abs"]
    terms: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class Choice(Placed):
    """`if(condition, value, other)`."""

    condition: Term
    value: Term
    other: Term


@dataclass(frozen=True, slots=True)
class Vote(Placed):
    """At least `needed` of the conditions (MooN).

    `degrade` says what a bad one is (layout.DEGRADE_NAMES); None: the rule's `OnBad` decides.
    """

    needed: int
    terms: tuple[Term, ...]
    degrade: Degrade | None = None


@dataclass(frozen=True, slots=True)
class Delay(Placed):
    """True once the condition was true without a break for `delay_ns`."""

    term: Term
    delay_ns: int


@dataclass(frozen=True, slots=True)
class Quality(Placed):
    """0 where the term is good, 1 uncertain, 2 bad; itself always good."""

    term: Term


@dataclass(frozen=True, slots=True)
class Age(Placed):
    """Seconds since a point's value was taken."""

    point: Term


@dataclass(frozen=True, slots=True)
class Rate(Placed):
    """Change of a number per second, over the last `window_ns`."""

    term: Term
    window_ns: int


@dataclass(frozen=True, slots=True)
class Filter(Placed):
    """A number through a first-order lag with the time constant `constant_ns`."""

    term: Term
    constant_ns: int


@dataclass(frozen=True, slots=True)
class Slew(Placed):
    """`ramp`: follows a number by at most `up` and `down` a second, both above 0.

    `unit` is that of both, e.g. ``kW/min``; empty: units of the number a second.
    """

    term: Term
    up: float
    down: float
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Curve(Placed):
    """Straight lines between points (x, y), level before the first and behind the last.

    x rises from point to point; there are CURVE_POINTS_MIN to CURVE_POINTS_MAX (`curve_fault`).
    `x_unit` is that of every x, `y_unit` that of every y.
    """

    term: Term
    points: tuple[tuple[float, float], ...]
    x_unit: str = ""
    y_unit: str = ""


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
    | Rate
    | Filter
    | Slew
    | Curve
)


def placed(message: str, term: Term) -> str:
    """The message, with the place of the term that it is about where that is known."""
    return f"At character {term.position + 1}: {message}" if term.position >= 0 else message


def children(term: Term) -> tuple[Term, ...]:
    """The terms directly inside a term, from left to right."""
    match term:
        case Junction(_, terms) | Call(_, terms) | Vote(_, terms):
            return terms
        case Compare(_, left, right, _) | Arithmetic(_, left, right):
            return (left, right)
        case Choice(condition, value, other):
            return (condition, value, other)
        case Not(inner) | Negative(inner) | Delay(inner) | Quality(inner) | Age(inner):
            return (inner,)
        case Rate(inner) | Filter(inner) | Slew(inner) | Curve(inner):
            return (inner,)
    return ()


def rebuilt(term: Term, inner: tuple[Term, ...]) -> Term:
    """The term with `inner` in the place of its children; everything else stays."""
    match term:
        case Junction() | Call() | Vote():
            return replace(term, terms=inner)
        case Compare() | Arithmetic():
            return replace(term, left=inner[0], right=inner[1])
        case Choice():
            return replace(term, condition=inner[0], value=inner[1], other=inner[2])
        case Age():
            return replace(term, point=inner[0])
        case Not() | Negative() | Delay() | Quality() | Rate() | Filter() | Slew() | Curve():
            return replace(term, term=inner[0])
    return term


def curve_fault(points: Sequence[tuple[float, float]]) -> tuple[int, str] | None:
    """What is wrong with the points of a curve: position of the point and a message."""
    if not CURVE_POINTS_MIN <= len(points) <= CURVE_POINTS_MAX:
        return 0, f"a curve has {CURVE_POINTS_MIN} to {CURVE_POINTS_MAX} points, not {len(points)}"
    for at in range(1, len(points)):
        if points[at][0] <= points[at - 1][0]:
            last, x = show_number(points[at - 1][0]), show_number(points[at][0])
            return at, f"x of a curve rises from point to point; {x} comes behind {last}"
    return None


def check_depth(term: Term, text: str = "") -> Term:
    """The term itself, or RuleSyntaxError where it is deeper than DEPTH_MAX or beyond TERMS_MAX."""
    level: tuple[Term, ...] = (term,)
    count, place = 1, 0 if text else -1
    for _ in range(DEPTH_MAX):
        level = tuple(inner for outer in level for inner in children(outer))
        if not level:
            return term
        count += len(level)
        if count > TERMS_MAX:
            raise RuleSyntaxError(f"the rule has more than {TERMS_MAX} parts", place, text)
    raise RuleSyntaxError(
        f"the rule is nested more than {DEPTH_MAX} operators deep; make two rules of it",
        place,
        text,
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
    whole, rest = divmod(duration_ns, 1_000_000)
    return f"{whole}.{rest:06}".rstrip("0").rstrip(".") + "ms"


def show_number(value: float) -> str:
    """The shortest text that reads back as the same number."""
    text = repr(float(value))
    return text.removesuffix(".0")


def show_quantity(value: float, unit: str) -> str:
    """A number with its unit in brackets, where it has one."""
    return f"{show_number(value)} [{unit}]" if unit else show_number(value)


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


def _held(term: Term, binding: int) -> int:
    """The binding that is needed in a `not`, `and` or `or`: a `for` stands in parentheses there."""
    return _COMPARE if isinstance(term, Delay) else binding


def _list(terms: tuple[Term, ...]) -> str:
    return ", ".join(show(term) for term in terms)


def _show(term: Term) -> tuple[str, int]:
    match term:
        case Number(value, unit):
            text = show_quantity(value, unit)
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
        case Vote(needed, terms, degrade):
            text = f"vote({needed}, {_list(terms)})"
            return f"{text} degrade {degrade}" if degrade else text, _ATOM
        case Quality(inner_term):
            return f"quality({show(inner_term)})", _ATOM
        case Age(point):
            return f"age({show(point)})", _ATOM
        case Rate() | Filter() | Slew() | Curve():
            return _show_shaped(term), _ATOM
        case _:
            return _show_operator(term)


def _show_shaped(term: Rate | Filter | Slew | Curve) -> str:
    match term:
        case Rate(inner, window_ns):
            return f"rate({show(inner)}, {show_duration(window_ns)})"
        case Filter(inner, constant_ns):
            return f"filter({show(inner)}, {show_duration(constant_ns)})"
        case Slew(inner, up, down, unit):
            return f"ramp({show(inner)}, {show_quantity(up, unit)}, {show_quantity(down, unit)})"
        case Curve(inner, points, x_unit, y_unit):
            pairs = (f"{show_quantity(x, x_unit)}, {show_quantity(y, y_unit)}" for x, y in points)
            return f"curve({', '.join((show(inner), *pairs))})"


def _show_operator(term: Term) -> tuple[str, int]:
    match term:
        case Not(inner):
            return f"not {_inside(inner, _held(inner, _NOT))}", _NOT
        case Junction(op, terms):
            own = _AND if op == "and" else _OR
            return f" {op} ".join(_inside(part, _held(part, own + 1)) for part in terms), own
        case Delay(inner, delay_ns):
            return f"{_inside(inner, _DELAY)} for {show_duration(delay_ns)}", _DELAY
        case Compare(op, left, right, hysteresis, unit):
            text = f"{_inside(left, _SUM)} {op} {_inside(right, _SUM)}"
            if hysteresis is not None:
                text += f" hysteresis {show_quantity(hysteresis, unit)}"
            return text, _COMPARE
        case Arithmetic(op, left, right):
            own = _SUM if op in "+-" else _PRODUCT
            return f"{_inside(left, own)} {op} {_inside(right, own + 1)}", own
        case Negative(inner):
            # A number keeps its own sign, so the sign of a term stands before a parenthesis.
            text = show(inner) if isinstance(inner, Number) else _inside(inner, _ATOM)
            return f"-({text})" if isinstance(inner, Number) else f"-{text}", _SIGN
    raise AssertionError(f"no term: {term!r}")
