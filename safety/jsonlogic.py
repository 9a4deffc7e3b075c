"""JsonLogic, as the seed's rules use it: a JSON value to a term.

`var` names an entry of the rule's `Data`. Operators that are not listed here are refused by
name. Language: https://jsonlogic.com/operations.html. Where JsonLogic coerces between types at
run time, safety/emit.py refuses the rule before the start.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any, Final

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
    RuleSyntaxError,
    Term,
    Text,
    Truth,
    check_depth,
    reference,
)

_EQUAL: Final = {"==": "==", "===": "==", "!=": "!=", "!==": "!="}
_ORDER: Final = ("<", "<=", ">", ">=")


def parse(rule: Any, data: Mapping[str, str]) -> Term:
    """The term of a JsonLogic rule; `data` maps names of `var` to references.

    Raises RuleSyntaxError (without a position) on anything that is not understood.
    """
    return check_depth(_term(rule, data, 0))


def _term(rule: Any, data: Mapping[str, str], depth: int) -> Term:
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
        if operator == "var":
            return _var(arguments, data)
        if not isinstance(arguments, list):
            arguments = [arguments]  # {"!": x} is short for {"!": [x]}
        return _operation(operator, [_term(a, data, depth + 1) for a in arguments])
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


def _var(arguments: Any, data: Mapping[str, str]) -> Term:
    if isinstance(arguments, list):
        if len(arguments) > 1:
            raise RuleSyntaxError(
                "var takes no default here; say with OnBad what a missing value means"
            )
        arguments = arguments[0] if arguments else None
    if not isinstance(arguments, str):
        raise RuleSyntaxError("var takes one name in quotes")
    target = arguments if arguments.startswith("$") else data.get(arguments)
    if target is None:
        known = ", ".join(data) or "none"
        raise RuleSyntaxError(f'var "{arguments}" is no entry of Data (there are: {known})')
    return reference(target)


def _operation(operator: str, terms: list[Term]) -> Term:
    if operator not in _OPERATORS:
        raise RuleSyntaxError(
            f'the operator "{operator}" is not supported; there are: {", ".join(_OPERATORS)}'
        )
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
    **dict.fromkeys(_ORDER, (2, 3, _order)),
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
