"""JsonLogic, as the seed's rules use it: a JSON value to a term.

`var` names an entry of the rule's `Data`. Operators that are not listed here are refused by
name. Language: https://jsonlogic.com/operations.html. Where JsonLogic coerces between types at
run time, safety/emit.py refuses the rule before the start. `missing` and `missing_some`, which
give lists of names there, are conditions here: true where such a list would not be empty. Missing
is what can't be used: a point that is bad or was never read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any, Final

from safety import infix
from safety.terms import (
    ARGUMENTS_MAX,
    NESTING_MAX,
    Arithmetic,
    Call,
    Choice,
    Compare,
    Junction,
    Negative,
    Not,
    Null,
    Number,
    Quality,
    RuleSyntaxError,
    Term,
    Text,
    Truth,
    Vote,
    check_depth,
    reference,
    show,
)

SHOWN_CHARS_MAX: Final = 40

_EQUAL: Final = {"==": "==", "===": "==", "!=": "!=", "!==": "!="}
_BETWEEN: Final = ("<", "<=")  # others have no third operand: jsonlogic.com leaves it unread


def parse(rule: Any, data: Mapping[str, str]) -> Term:
    """The term of a JsonLogic rule; `data` maps names of `var` to references.

    Raises RuleSyntaxError, with the path in the rule, on anything that is not understood, and where
    the rule is too large to be written as infix.
    """
    term = check_depth(_term(rule, data, 0, ""))
    try:
        infix.parse(show(term))
    except RuleSyntaxError as error:
        raise RuleSyntaxError(f"the rule can't be shown as text: {error.message}") from None
    return term


def _term(rule: Any, data: Mapping[str, str], depth: int, path: str) -> Term:
    try:
        return _read(rule, data, depth, path)
    except RuleSyntaxError as error:
        if error.path or not path:
            raise
        raise RuleSyntaxError(error.message, path=path) from None


def _read(rule: Any, data: Mapping[str, str], depth: int, path: str) -> Term:
    if depth > NESTING_MAX:
        raise RuleSyntaxError(f"the rule is nested more than {NESTING_MAX} levels deep")
    if rule is None:
        return Null()
    if isinstance(rule, bool):
        return Truth(rule)
    if isinstance(rule, int | float):
        return Number(_finite(rule))
    if isinstance(rule, str):
        return Text(rule)
    if isinstance(rule, dict) and len(rule) == 1:
        operator, arguments = next(iter(rule.items()))
        if not isinstance(arguments, list):
            arguments = [arguments]  # {"!": x} is short for {"!": [x]}
        special = _SPECIAL.get(operator)
        if special is not None:
            return special(arguments, data)
        inner = f"{path}.{operator}" if path else str(operator)
        if operator == "in":
            return _in(arguments, data, depth, inner)
        _check_operator(operator)
        terms = [_term(a, data, depth + 1, f"{inner}[{at}]") for at, a in enumerate(arguments)]
        return _operation(operator, terms)
    if isinstance(rule, dict):
        raise RuleSyntaxError(
            f"an operation has one key, this has {len(rule)}: {', '.join(map(str, rule))[:80]}"
        )
    raise RuleSyntaxError("a list can stand only as the arguments of an operator")


def _finite(number: float) -> float:
    try:
        value = float(number)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        raise RuleSyntaxError("a number of the rule is too large")
    return value


def _var(arguments: list[Any], data: Mapping[str, str]) -> Term:
    if len(arguments) > 1:
        raise RuleSyntaxError(
            "var takes no default here; say with OnBad what a missing value means"
        )
    return _entry("var", arguments[0] if arguments else None, data)


def _entry(operator: str, name: Any, data: Mapping[str, str]) -> Term:
    if not isinstance(name, str):
        raise RuleSyntaxError(f"{operator} takes one name in quotes")
    target = name if name.startswith("$") else data.get(name)
    if target is None:
        known = ", ".join(data) or "none"
        raise RuleSyntaxError(f'{operator} "{name}" is no entry of Data (there are: {known})')
    return reference(target)


def _missing(names: list[Any], data: Mapping[str, str]) -> Term:
    _check_names("missing", names)
    bad = tuple(
        Compare("==", Quality(_entry("missing", name, data)), Number(2.0)) for name in names
    )
    return bad[0] if len(bad) == 1 else Junction("or", bad)


def _missing_some(arguments: list[Any], data: Mapping[str, str]) -> Term:
    if len(arguments) != 2 or not isinstance(arguments[1], list):
        raise RuleSyntaxError('"missing_some" takes how many are needed, and a list of names')
    needed, names = arguments
    _check_names("missing_some", names)
    if isinstance(needed, bool) or not isinstance(needed, int) or not 1 <= needed <= len(names):
        raise RuleSyntaxError(
            f'"missing_some" of {len(names)} needs a whole number from 1 to {len(names)}'
        )
    usable = (Compare("<", Quality(_entry("missing_some", n, data)), Number(2.0)) for n in names)
    return Not(Vote(needed, tuple(usable)))


def _check_names(operator: str, names: list[Any]) -> None:
    if not 1 <= len(names) <= ARGUMENTS_MAX:
        raise RuleSyntaxError(f'"{operator}" takes 1 to {ARGUMENTS_MAX} names, not {len(names)}')


def _in(arguments: list[Any], data: Mapping[str, str], depth: int, path: str) -> Term:
    if len(arguments) != 2:
        raise RuleSyntaxError(f'"in" takes 2 arguments, not {len(arguments)}')
    sought, choices = arguments
    if not isinstance(choices, list):
        raise RuleSyntaxError(
            '"in" looks for a number or a name in a list that the rule writes out, e.g. '
            '{"in": [{"var": "mode"}, ["Run", "Purge"]]}'
        )
    if len(choices) > ARGUMENTS_MAX:
        raise RuleSyntaxError(f'"in" takes a list of at most {ARGUMENTS_MAX}')
    term = _term(sought, data, depth + 1, f"{path}[0]")
    equal = tuple(
        Compare("==", term, _term(choice, data, depth + 2, f"{path}[1][{at}]"))
        for at, choice in enumerate(choices)
    )
    if not equal:
        return Truth(False)
    return equal[0] if len(equal) == 1 else Junction("or", equal)


def _check_operator(operator: str) -> None:
    if operator in _REFUSED:
        raise RuleSyntaxError(f'the operator "{operator}" is not supported: {_REFUSED[operator]}')
    if operator not in _OPERATORS:
        known = ", ".join((*_OPERATORS, *_SPECIAL, "in"))
        shown = operator[:SHOWN_CHARS_MAX]
        raise RuleSyntaxError(f'the operator "{shown}" is not supported; there are: {known}')


def _operation(operator: str, terms: list[Term]) -> Term:
    least, most, build = _OPERATORS[operator]
    if not least <= len(terms) <= most:
        wanted = str(least) if least == most else f"{least} to {most}"
        raise RuleSyntaxError(f'"{operator}" takes {wanted} arguments, not {len(terms)}')
    return build(operator, terms)


def _if(_: str, terms: list[Term]) -> Term:
    if len(terms) == 1:
        raise RuleSyntaxError('"if" takes a condition and a value')
    other: Term = Null()
    if len(terms) % 2:
        other = terms[-1]
        terms = terms[:-1]
    for at in range(len(terms) - 2, -1, -2):
        other = Choice(terms[at], terms[at + 1], other)
    return other


def _equal(operator: str, terms: list[Term]) -> Term:
    return Compare(_EQUAL[operator], terms[0], terms[1])


def _order(operator: str, terms: list[Term]) -> Term:
    first = Compare(operator, terms[0], terms[1])
    if len(terms) == 2:
        return first
    return Junction("and", (first, Compare(operator, terms[1], terms[2])))


def _junction(operator: str, terms: list[Term]) -> Term:
    if len(terms) == 1:
        return terms[0]
    return Junction("and" if operator == "and" else "or", tuple(terms))


def _not(_: str, terms: list[Term]) -> Term:
    return Not(terms[0])


def _truth(_: str, terms: list[Term]) -> Term:
    return Not(Not(terms[0]))


def _arithmetic(operator: str, terms: list[Term]) -> Term:
    if len(terms) == 1 and operator == "-":
        return Negative(terms[0])
    return reduce(lambda left, right: Arithmetic(operator, left, right), terms)  # type: ignore[arg-type]


def _call(operator: str, terms: list[Term]) -> Term:
    return Call(operator, tuple(terms))  # type: ignore[arg-type]


# operator -> fewest and most arguments, and what it becomes
_OPERATORS: Final[dict[str, tuple[int, int, Callable[[str, list[Term]], Term]]]] = {
    "if": (1, ARGUMENTS_MAX, _if),
    "?:": (3, 3, _if),
    **dict.fromkeys(_EQUAL, (2, 2, _equal)),
    **dict.fromkeys(_BETWEEN, (2, 3, _order)),
    **dict.fromkeys((">", ">="), (2, 2, _order)),
    "and": (1, ARGUMENTS_MAX, _junction),
    "or": (1, ARGUMENTS_MAX, _junction),
    "!": (1, 1, _not),
    "!!": (1, 1, _truth),
    "+": (1, ARGUMENTS_MAX, _arithmetic),
    "-": (1, 2, _arithmetic),
    "*": (1, ARGUMENTS_MAX, _arithmetic),
    "/": (2, 2, _arithmetic),
    "%": (2, 2, _arithmetic),
    "min": (1, ARGUMENTS_MAX, _call),
    "max": (1, ARGUMENTS_MAX, _call),
    "abs": (1, 1, _call),
}
_SPECIAL: Final[dict[str, Callable[[list[Any], Mapping[str, str]], Term]]] = {
    "var": _var,
    "missing": _missing,
    "missing_some": _missing_some,
}
_LISTS: Final = "a rule has numbers, conditions and names, but no lists"
# Operators of JsonLogic that make no sense here, and why.
_REFUSED: Final = {
    "map": f"{_LISTS}; write out each operation",
    "reduce": f"{_LISTS}; use +, min, max or a vote",
    "filter": f"{_LISTS}; the lag of a number is filter(x, 5s) in infix",
    "all": f"{_LISTS}; join the conditions with and",
    "some": f"{_LISTS}; join the conditions with or",
    "none": f"{_LISTS}; join the conditions with or, and negate",
    "merge": _LISTS,
    "cat": "a rule makes no texts; a level is one fixed name",
    "substr": "a rule makes no texts; a level is one fixed name",
    "log": "a rule prints nothing; gatepost explain shows what it sees",
    "method": "a rule can't call into the program",
}
