"""JsonLogic as the seed's rules use it, beside an independent implementation."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from json_logic import jsonLogic

from safety import infix, jsonlogic
from safety.terms import NESTING_MAX, TERMS_MAX, RuleSyntaxError, show
from tests.safety.sites import Plant, make_site

DATA = {"x": "$LiveData/A/x", "y": "$LiveData/A/y", "fire": "$AlarmState/Alarms/Fire"}

number = st.one_of(
    st.sampled_from([{"var": "x"}, {"var": "y"}, {"var": ["x"]}]),
    st.integers(-5, 5),
    st.sampled_from([0.5, 900, -2.25]),
)


def numbers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Numbers one level deeper."""
    some = st.lists(inner, min_size=1, max_size=3)
    two = st.lists(inner, min_size=2, max_size=2)
    return st.one_of(
        st.builds(lambda a: {"+": a}, some),
        st.builds(lambda a: {"*": a}, st.lists(inner, min_size=2, max_size=3)),
        st.builds(lambda a: {"-": a}, st.lists(inner, min_size=1, max_size=2)),
        st.builds(lambda a: {"min": a}, some),
        st.builds(lambda a: {"max": a}, some),
        st.builds(lambda c, a: {"if": [c, *a]}, conditions_over(inner), two),
    )


def conditions_over(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Comparisons of numbers."""
    two = st.lists(inner, min_size=2, max_size=2)
    three = st.lists(inner, min_size=3, max_size=3)
    equal = st.sampled_from(["==", "!=", "===", "!=="])
    order = st.sampled_from(["<", "<=", ">", ">="])
    # The library knows the forms with three arguments for < and <= only.
    between = st.sampled_from(["<", "<="])
    return st.one_of(
        st.builds(lambda op, a: {op: a}, equal, two),
        st.builds(lambda op, a: {op: a}, order, two),
        st.builds(lambda op, a: {op: a}, between, three),
        st.builds(lambda a, choices: {"in": [a, choices]}, inner, st.lists(inner, max_size=3)),
    )


def junctions(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Conditions one level deeper."""
    some = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        st.builds(lambda op, a: {op: a}, st.sampled_from(["and", "or"]), some),
        st.builds(lambda op, a: {op: [a]}, st.sampled_from(["!", "!!"]), inner),
        st.builds(lambda a: {"!": a}, inner),
        st.builds(lambda op, a, b, c: {op: [a, b, c]}, st.sampled_from(["if", "?:"]), *[inner] * 3),
    )


conditions = st.recursive(
    conditions_over(st.recursive(number, numbers, max_leaves=5)), junctions, max_leaves=5
)


@settings(max_examples=150, deadline=None)
@given(conditions, conditions, st.integers(-3, 3), st.sampled_from([-2.25, 0.0, 0.5, 900.0]))
def test_good_values_give_what_the_library_gives(first: Any, second: Any, x: int, y: float) -> None:
    rule = {"if": [first, "High", second, "Low", None]}
    plant = Plant(
        make_site({"A.x": {}, "A.y": {}}, {"Alarms/Q": {"Rule": rule, "Data": {
            name: DATA[name] for name in "xy"}}})
    )  # fmt: skip
    plant.set("A.x", float(x))
    plant.set("A.y", y)
    plant.scan()
    assert plant.level("Alarms/Q") == jsonLogic(rule, {"x": float(x), "y": y})


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ({"if": [{">=": [{"var": "x"}, 900]}, "Hot", None]}, "if(A.x >= 900, 'Hot', null)"),
        ({"if": [{"var": "fire"}, "Off"]}, "if(alarm('Alarms/Fire'), 'Off', null)"),
        ({"<": [1, {"var": "x"}, 3]}, "1 < A.x and A.x < 3"),
        ({"!!": [{"var": "x"}]}, "not not A.x"),
        ({"-": [{"var": "x"}]}, "-A.x"),
        ({"%": [{"var": "x"}, 2]}, "A.x % 2"),
        ({"abs": [{"-": [{"var": "x"}, {"var": "y"}]}]}, "abs(A.x - A.y)"),
        ({"==": [{"var": "$LiveData/B/z"}, True]}, "B.z == true"),
        (
            {"in": [{"var": "fire"}, ["High", "HH"]]},
            "alarm('Alarms/Fire') == 'High' or alarm('Alarms/Fire') == 'HH'",
        ),
        ({"in": [{"var": "x"}, [1, {"var": "y"}]]}, "A.x == 1 or A.x == A.y"),
        ({"in": [{"var": "x"}, [7]]}, "A.x == 7"),
        ({"in": [{"var": "x"}, []]}, "false"),
        ({"missing": "x"}, "quality(A.x) == 2"),
        ({"missing": ["x", "fire"]}, "quality(A.x) == 2 or quality(alarm('Alarms/Fire')) == 2"),
        ({"missing_some": [1, ["x", "y"]]}, "not vote(1, quality(A.x) < 2, quality(A.y) < 2)"),
        ({"if": [{"!": {"missing": ["x"]}}, "Seen"]}, "if(not quality(A.x) == 2, 'Seen', null)"),
    ],
)
def test_a_rule_can_be_read_as_infix(rule: Any, text: str) -> None:
    assert show(jsonlogic.parse(rule, DATA)) == text


def deep(levels: int) -> Any:
    """A rule of so many negations."""
    rule: Any = True
    for _ in range(levels):
        rule = {"!": [rule]}
    return rule


def repeated(levels: int) -> Any:
    """A small rule that is large as a term: every level stands in the next one twice."""
    rule: Any = {"var": "x"}
    for _ in range(levels):
        rule = {"<": [1, rule, 3]}
    return rule


def minus(levels: int) -> Any:
    """A rule of so many signs."""
    rule: Any = {"var": "x"}
    for _ in range(levels):
        rule = {"-": [rule]}
    return rule


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"==": [{"var": "x"}, 10**400]}, "too large"),
        (deep(NESTING_MAX + 1), "nested more than"),
        (repeated(20), f"more than {TERMS_MAX} parts"),
        (minus(NESTING_MAX), "can't be shown as text: more than"),
        ({"in": [{"var": "x"}, list(range(65))]}, "a list of at most 64"),
        ({"missing": ["x"] * 65}, "takes 1 to 64 names, not 65"),
        ({"x" * 1_000_000: 1}, f'the operator "{"x" * 40}" is not supported'),
    ],
)
def test_a_rule_that_is_too_much_is_refused(rule: Any, message: str) -> None:
    with pytest.raises(RuleSyntaxError) as caught:
        jsonlogic.parse(rule, DATA)
    assert message in str(caught.value)


def test_a_deep_rule_within_the_limit_is_read() -> None:
    jsonlogic.parse(deep(NESTING_MAX), DATA)


def test_the_longest_chain_of_if_reads_as_the_same_rule() -> None:
    levels = [each for at in range(31) for each in ({">": [{"var": "x"}, 31 - at]}, f"L{at}")]
    term = jsonlogic.parse({"if": [*levels, {"var": "fire"}]}, DATA)
    assert infix.parse(show(term)) == term


JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(["x", "", "$"])
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                ["if", "var", "in", "missing", "missing_some", "==", "<", "-", "!", "q"]
            ),
            inner,
            max_size=2,
        ),
    ),
    max_leaves=8,
)


@settings(max_examples=400, deadline=None)
@given(JSON)
def test_any_json_is_read_or_refused(rule: Any) -> None:
    message = ""
    try:
        term = jsonlogic.parse(rule, DATA)
    except RuleSyntaxError as error:
        message = error.message
    assert message or infix.parse(show(term)) == term
