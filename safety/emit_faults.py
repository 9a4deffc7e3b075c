"""What the emitter says of a mistake in a rule, where one line is not enough."""

from __future__ import annotations

from collections.abc import Sequence

from safety.pieces import KIND_WORDS, Kind, Target
from safety.terms import Age, Compare, Null, Ref, Term, show


def never_in(target: Target, name: str | None, is_null: bool) -> str:
    """Why a comparison with the state of a machine never changes; '' where it does."""
    states = f"its states: {names(target.levels)}."
    if is_null:
        return f"it always is in a state, so it never is null; {states}"
    if name is None or name in target.levels:
        return ""
    return f"it has no state '{name}'; {states}"


def never_returned(target: Target, name: str, term: Compare, other: Term) -> str:
    """Why a comparison with the level of a rule never changes."""
    if target.exists:
        return (
            f"it never returns '{name}', so {show(term)} never changes; "
            f"levels that it returns: {names(target.levels)}."
        )
    kind = other.kind if isinstance(other, Ref) else "other"
    return f"'{name}' is produced by no {kind} rule; levels that exist: {names(target.levels)}."


def names(given: Sequence[str]) -> str:
    """Names behind one another."""
    return ", ".join(given) or "none"


def undefined_name(term: Term) -> str:
    """A bare name that stands for nothing."""
    inner = term.point if isinstance(term, Age) else term
    return (
        f'"{show(inner)}" is no entry of Data; a point is written Equipment.Channel, '
        "a level stands in quotes."
    )


def cannot_compare(term: Compare, left: Kind, right: Kind) -> str:
    """The sides of a comparison are of two types."""
    if isinstance(term.left, Null) or isinstance(term.right, Null):
        return (
            f"{show(term)}: only alarms and states can be null; what a missing value means says "
            "OnBad, and quality(x) == 2 asks for it."
        )
    return (
        f"{show(term)} compares {KIND_WORDS[left]} with {KIND_WORDS[right]}; "
        "both sides must be of one type."
    )
