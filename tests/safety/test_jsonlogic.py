"""JsonLogic as the seed's rules use it, beside an independent implementation."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from json_logic import jsonLogic

from safety import jsonlogic
from safety.terms import NESTING_MAX, RuleSyntaxError, show
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


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"map": [1, 2]}, 'the operator "map" is not supported'),
        ({"in": ["a", "b"]}, 'the operator "in" is not supported'),
        ({"": 1}, 'the operator "" is not supported'),
        ({"var": "z"}, 'var "z" is no entry of Data (there are: x, y, fire)'),
        ({"var": ["x", 5]}, "var takes no default"),
        ({"var": 1}, "var takes one name"),
        ({"var": []}, "var takes one name"),
        ({"var": ""}, 'var "" is no entry'),
        ({"var": "$Live/A"}, "is no reference"),
        ({"==": [1]}, '"==" takes 2 arguments, not 1'),
        ({"<": [1, 2, 3, 4]}, '"<" takes 2 to 3 arguments, not 4'),
        ({"/": [1, 2, 3]}, '"/" takes 2 arguments, not 3'),
        ({"!": []}, '"!" takes 1 arguments, not 0'),
        ({"if": [True]}, "takes a condition and a value"),
        ({"a": 1, "b": 2}, "an operation has one key, this has 2: a, b"),
        ({}, "an operation has one key"),
        ([1, 2], "a list can stand only"),
        ({"==": [{"var": "x"}, [1]]}, "a list can stand only"),
        ({"==": [{"var": "x"}, 10**400]}, "too large"),
        (deep(NESTING_MAX + 1), "nested more than"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(rule: Any, message: str) -> None:
    with pytest.raises(RuleSyntaxError) as caught:
        jsonlogic.parse(rule, DATA)
    assert message in str(caught.value)


def test_a_deep_rule_within_the_limit_is_read() -> None:
    jsonlogic.parse(deep(NESTING_MAX), DATA)
