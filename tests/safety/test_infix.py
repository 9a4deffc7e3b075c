"""The infix form: what is read, how it is shown, and where mistakes are pointed at."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safety.infix import parse
from safety.terms import (
    ARGUMENTS_MAX,
    NESTING_MAX,
    TEXT_CHARS_MAX,
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
    show,
)

names = st.one_of(
    st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True),
    st.sampled_from(["and", "H2", "for", "Wärme", "min", "4_20mA", "PV-1", "a b", "it's", "x`y"]),
    st.text(st.characters(exclude_characters="."), min_size=1, max_size=6),
)
finite = st.floats(allow_nan=False, allow_infinity=False).map(Number)
tags = st.tuples(names, names).map(lambda pair: Point(".".join(pair)))


def deeper(inner: st.SearchStrategy[Term]) -> st.SearchStrategy[Term]:
    """Terms one level deeper."""
    many = st.lists(inner, min_size=2, max_size=4).map(tuple)
    some = st.lists(inner, min_size=1, max_size=3).map(tuple)
    band = st.floats(0, 1e6).map(abs)
    return st.one_of(
        st.builds(Not, inner),
        st.builds(Junction, st.sampled_from(["and", "or"]), many),
        st.builds(Compare, st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), inner, inner),
        st.builds(Compare, st.sampled_from(["<", "<=", ">", ">="]), inner, inner, band),
        st.builds(Negative, inner),
        st.builds(Arithmetic, st.sampled_from(list("+-*/%")), inner, inner),
        st.builds(Call, st.sampled_from(["min", "max", "avg"]), some),
        st.builds(Call, st.just("abs"), st.tuples(inner)),
        st.builds(Choice, inner, inner, inner),
        some.flatmap(lambda terms: st.builds(Vote, st.integers(1, len(terms)), st.just(terms))),
        st.builds(
            Delay, inner, st.integers(0, 31 * 86_400 * 10**9 // 1000).map(lambda n: n * 1000)
        ),
        st.builds(Quality, inner),
    )


leaves = st.one_of(
    finite,
    st.builds(Text, st.text(max_size=8)),
    st.builds(Truth, st.booleans()),
    st.just(Null()),
    tags,
    st.builds(Name, names),
    st.builds(Ref, st.sampled_from(["alarm", "state"]), st.one_of(names, st.just("Alarms/Hot"))),
    st.builds(Age, tags),
)
terms = st.recursive(leaves, deeper, max_leaves=12)


@settings(max_examples=400, deadline=None)
@given(terms)
def test_what_is_shown_reads_back_as_the_same_term(term: Term) -> None:
    assert parse(show(term)) == term


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=40), terms.map(show).map(lambda text: text[1:])))
def test_any_text_is_read_or_refused_with_a_place(text: str) -> None:
    refusal: RuleSyntaxError | None = None
    try:
        parse(text)
    except RuleSyntaxError as error:
        refusal = error
    if refusal is not None:
        assert 0 <= refusal.position <= len(text)
        assert refusal.message


A, B, C = Point("A.a"), Point("B.b"), Point("C.c")


@pytest.mark.parametrize(
    ("text", "term"),
    [
        ("A.a >= 900 for 5s", Delay(Compare(">=", A, Number(900)), 5 * 10**9)),
        ("A.a >= 900 hysteresis 5 for 1 min", Delay(Compare(">=", A, Number(900), 5), 60 * 10**9)),
        ("A.a or B.b and C.c", Junction("or", (A, Junction("and", (B, C))))),
        ("not A.a and B.b", Junction("and", (Not(A), B))),
        ("not A.a for 2h", Not(Delay(A, 7200 * 10**9))),
        ("A.a - B.b - C.c", Arithmetic("-", Arithmetic("-", A, B), C)),
        ("A.a + B.b * -2", Arithmetic("+", A, Arithmetic("*", B, Number(-2)))),
        ("-A.a * 2", Arithmetic("*", Negative(A), Number(2))),
        ("A.a == 'it''s'", Compare("==", A, Text("it's"))),
        ('A.a == "on"', Compare("==", A, Text("on"))),
        ("$LiveData/PV-1/Power_AC > 0.5", Compare(">", Point("PV-1.Power_AC"), Number(0.5))),
        ("$AlarmState/Alarms/Fire", Ref("alarm", "Alarms/Fire")),
        ("`PV 1`.Power > 1e3", Compare(">", Point("PV 1.Power"), Number(1000))),
        ("`PV-1.4_20` > 0", Compare(">", Point("PV-1.4_20"), Number(0))),
        ("ALARM(Fire) AND TRUE", Junction("and", (Ref("alarm", "Fire"), Truth(True)))),
        ("state('a/b') != null", Compare("!=", Ref("state", "a/b"), Null())),
        ("if(A.a, 'x', null)", Choice(A, Text("x"), Null())),
        ("vote(2, A.a, B.b, C.c) for 500ms", Delay(Vote(2, (A, B, C)), 500_000_000)),
        ("min.max > 1", Compare(">", Point("min.max"), Number(1))),
        ("Temp > 3", Compare(">", Name("Temp"), Number(3))),
        ("age(A.a) > 3 or quality(A.a + B.b) == 2", None),
    ],
)
def test_the_grammar(text: str, term: Any) -> None:
    if term is not None:
        assert parse(text) == term
    assert parse(show(parse(text))) == parse(text)


@pytest.mark.parametrize(
    ("text", "position", "message"),
    [
        ("", 0, "the rule is empty"),
        ("   ", 3, "the rule is empty"),
        ("A.a = 5", 4, "a comparison is written =="),
        ("A.a => 5", 4, "a comparison is written >="),
        ("A.a =< 5", 4, "a comparison is written <="),
        ("!A.a", 0, "a negation is written not"),
        ("A.a && B.b", 4, "write and"),
        ("A.a || B.b", 4, "write or"),
        ("A.a > 'x", 6, "never closed"),
        ("`A.a > 1", 0, "never closed"),
        ("A.a > ", 6, "expected a value"),
        ("A.a > 5 6", 8, "expected an operator"),
        ("1 < A.a < 3", 8, "can't be chained"),
        ("(A.a > 5", 8, 'expected ")"'),
        ("A.a > 5)", 7, "expected an operator"),
        ("A.a > 5 for", 11, 'expected a number after "for"'),
        ("A.a > 5 for 5", 13, "expected a unit of time"),
        ("A.a > 5 for 5 days", 14, "expected a unit of time"),
        ("A.a > 5 for 99999h", 12, "at most"),
        ("A.a == 5 hysteresis 1", 9, "can't have a hysteresis"),
        ("A.a hysteresis 1", 4, "stands behind a comparison"),
        ("A.a > 5 hysteresis B.b", 19, 'expected a number after "hysteresis"'),
        ("A.a > 5 hysteresis -1", 19, 'expected a number after "hysteresis"'),
        ("A. > 5", 3, "expected the name of a channel"),
        ("A.4_20 > 5", 2, "backquotes"),
        ("vote(4, A.a, B.b)", 5, "needs a whole number from 1 to 2"),
        ("vote(1.5, A.a, B.b)", 5, "needs a whole number"),
        ("vote(0, A.a)", 5, "needs a whole number"),
        ("vote(A.a, B.b)", 5, "expected a number"),
        ("if(A.a, 1)", 0, "takes 3, not 2"),
        ("abs(1, 2)", 0, "takes 1, not 2"),
        ("min()", 4, "expected a value"),
        ("age(A.a + 1)", 0, "takes one point"),
        ("alarm(5)", 6, "takes the name of one alarm"),
        ("alarm(A.a)", 7, 'expected ")"'),
        ("sqrt(A.a)", 0, 'no function "sqrt"'),
        ("for > 1", 0, "can't stand here"),
        ("$Live/A/b > 1", 0, "is no reference"),
        ("$LiveData/A > 1", 0, "is no reference"),
        ("1e999 > A.a", 0, "too large"),
        ("A.a > 5 # hot", 8, "has no meaning"),
        ("(" * (NESTING_MAX + 1) + "A.a" + ")" * (NESTING_MAX + 1), NESTING_MAX, "parentheses"),
        ("-" * 500 + "A.a", NESTING_MAX, "too many signs"),
        ("+".join(["A.a"] * 500), 0, "nested more than"),
        ("not " * 500 + "A.a", 0, "nested more than"),
        (" or ".join(["A.a"] * (ARGUMENTS_MAX + 1)), 64 * 7 + 3, "at most"),
        ("A.a > 5" + " " * TEXT_CHARS_MAX, 0, "at most"),
    ],
)
def test_a_mistake_is_pointed_at(text: str, position: int, message: str) -> None:
    with pytest.raises(RuleSyntaxError) as caught:
        parse(text)
    assert message in caught.value.message
    assert caught.value.position == position


def test_the_message_shows_the_place() -> None:
    with pytest.raises(RuleSyntaxError) as caught:
        parse("Stack.T > 900 fro 5s")
    assert str(caught.value) == (
        'expected an operator or the end of the rule (at character 15, before "fro 5s")'
    )
