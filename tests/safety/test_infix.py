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
    Curve,
    Delay,
    Filter,
    Junction,
    Name,
    Negative,
    Not,
    Null,
    Number,
    Point,
    Quality,
    Rate,
    Ref,
    RuleSyntaxError,
    Slew,
    Term,
    Text,
    Truth,
    Vote,
    children,
    show,
)

names = st.one_of(
    st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True),
    st.sampled_from(["and", "H2", "for", "Wärme", "min", "4_20mA", "PV-1", "a b", "it's", "x`y"]),
    st.text(st.characters(exclude_characters="."), min_size=1, max_size=6),
)
numbers = st.floats(allow_nan=False, allow_infinity=False)
units = st.one_of(
    st.sampled_from(["", "kW", "degC", "%", "km/h/m*s", "A / cm2", "of my own"]),
    st.text(st.characters(exclude_characters="[]"), max_size=8).map(str.strip),
)
finite = st.builds(Number, numbers, units)
tags = st.tuples(names, names).map(lambda pair: Point(".".join(pair)))


def deeper(inner: st.SearchStrategy[Term]) -> st.SearchStrategy[Term]:
    """Terms one level deeper."""
    many = st.lists(inner, min_size=2, max_size=4).map(tuple)
    some = st.lists(inner, min_size=1, max_size=3).map(tuple)
    band = st.floats(0, 1e6).map(abs)
    degrade = st.sampled_from([None, "none", "trip", "drop"])
    duration = st.integers(1, 31 * 86_400 * 10**9)
    rate = st.floats(1e-300, 1e300)
    places = st.lists(numbers, min_size=2, max_size=5, unique=True).map(sorted)
    points = places.flatmap(lambda xs: st.tuples(*(st.tuples(st.just(x), numbers) for x in xs)))
    return st.one_of(
        st.builds(Not, inner),
        st.builds(Junction, st.sampled_from(["and", "or"]), many),
        st.builds(Compare, st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), inner, inner),
        st.builds(Compare, st.sampled_from(["<", "<=", ">", ">="]), inner, inner, band, units),
        st.builds(Negative, inner),
        st.builds(Arithmetic, st.sampled_from(list("+-*/%")), inner, inner),
        st.builds(Call, st.sampled_from(["min", "max", "avg"]), some),
        st.builds(Call, st.just("abs"), st.tuples(inner)),
        st.builds(Choice, inner, inner, inner),
        some.flatmap(
            lambda terms: st.builds(Vote, st.integers(1, len(terms)), st.just(terms), degrade)
        ),
        st.builds(Delay, inner, st.one_of(st.just(0), duration)),
        st.builds(Quality, inner),
        st.builds(Rate, inner, duration),
        st.builds(Filter, inner, duration),
        st.builds(Slew, inner, rate, rate, units),
        st.builds(Curve, inner, points, units, units),
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


WORDS = [
    *"and or not true null for hysteresis degrade trip drop if min avg vote quality age".split(),
    *"alarm state rate filter ramp curve A.a Temp 5 0 1e9 5s 10 ms h ( ) , + - * / %".split(),
    *"< >= == ( ) , 'x' `a b` [kW] [] [ ] . $LiveData/A/b $ = ; ☃".split(),
]


@settings(max_examples=600, deadline=None)
@given(
    st.one_of(
        st.text(max_size=40),
        terms.map(show).map(lambda text: text[1:]),
        st.lists(st.sampled_from(WORDS), max_size=14).map(" ".join),
        st.tuples(terms.map(show), st.integers(0, 80), st.sampled_from(WORDS)).map(
            lambda drawn: drawn[0][: drawn[1]] + drawn[2] + drawn[0][drawn[1] :]
        ),
    )
)
def test_any_text_is_read_or_refused_with_a_place(text: str) -> None:
    refusal: RuleSyntaxError | None = None
    try:
        term = parse(text)
    except RuleSyntaxError as error:
        refusal = error
    if refusal is not None:
        assert 0 <= refusal.position <= len(text)
        assert refusal.message
    else:
        assert parse(show(term)) == term


A, B, C = Point("A.a"), Point("B.b"), Point("C.c")


@pytest.mark.parametrize(
    ("text", "term"),
    [
        ("A.a >= 900 for 5s", Delay(Compare(">=", A, Number(900)), 5 * 10**9)),
        ("A.a >= 900 hysteresis 5 for 1 min", Delay(Compare(">=", A, Number(900), 5), 60 * 10**9)),
        ("A.a or B.b and C.c", Junction("or", (A, Junction("and", (B, C))))),
        ("not A.a and B.b", Junction("and", (Not(A), B))),
        ("not (A.a for 2h)", Not(Delay(A, 7200 * 10**9))),
        ("(not A.a) for 2h", Delay(Not(A), 7200 * 10**9)),
        ("A.a for 1s and B.b", Junction("and", (Delay(A, 10**9), B))),
        ("A.a for 1s or B.b for 1s", Junction("or", (Delay(A, 10**9), Delay(B, 10**9)))),
        ("A.a and (B.b for 1s)", Junction("and", (A, Delay(B, 10**9)))),
        ("max(A.a, 0, 5)", None),
        ("curve(A.a,0,5,1,2)", Curve(A, ((0, 5), (1, 2)))),
        ("A.a % 5 > 1", Compare(">", Arithmetic("%", A, Number(5)), Number(1))),
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
        ("A.a > 900 [ degC ]", Compare(">", A, Number(900, "degC"))),
        ("A.a > -5 [K] hysteresis 1 [K]", Compare(">", A, Number(-5, "K"), 1, "K")),
        ("rate(A.a, 10s) > 1", Compare(">", Rate(A, 10 * 10**9), Number(1))),
        ("RATE(A.a - B.b, 0.5min) > 1", None),
        ("filter(A.a, 5s)", Filter(A, 5 * 10**9)),
        ("ramp(A.a, 5, 2.5)", Slew(A, 5, 2.5)),
        ("ramp(A.a, 5 [kW/s], 2 [kW/s])", Slew(A, 5, 2, "kW/s")),
        ("curve(A.a, -1, 0, 1, -5)", Curve(A, ((-1, 0), (1, -5)))),
        ("curve(A.a, 1 [Hz], 0 [W], 2 [Hz], 3 [W])", Curve(A, ((1, 0), (2, 3)), "Hz", "W")),
        ("vote(1, A.a, B.b) degrade DROP", Vote(1, (A, B), "drop")),
        ("vote(1, A.a) degrade none for 1s", Delay(Vote(1, (A,), "none"), 10**9)),
        ("`rate` > 1", Compare(">", Name("rate"), Number(1))),
        ("rate.ramp > 1", Compare(">", Point("rate.ramp"), Number(1))),
        ("A.a for 2678399.999999999s", Delay(A, 2_678_399_999_999_999)),
    ],
)
def test_the_grammar(text: str, term: Any) -> None:
    if term is not None:
        assert parse(text) == term
    assert parse(show(parse(text))) == parse(text)


@pytest.mark.parametrize(
    ("text", "position", "message"),
    [
        ("(" * (NESTING_MAX + 1) + "A.a" + ")" * (NESTING_MAX + 1), NESTING_MAX, "parentheses"),
        ("-" * 500 + "A.a", NESTING_MAX, "too many signs"),
        ("+".join(["A.a"] * 500), 0, "nested more than"),
        ("not " * 500 + "A.a", 0, "nested more than"),
        (" or ".join(["A.a"] * (ARGUMENTS_MAX + 1)), 64 * 7 + 3, "at most"),
        ("A.a > 5" + " " * TEXT_CHARS_MAX, 0, "at most"),
        ("curve(A.a" + ", 1" * 66 + ")", 9 + 65 * 3 - 1, "at most 32 points"),
        ("A.a for 1e-99999999999999999999h for 1e400h", 37, "too large"),
    ],
)
def test_a_rule_that_is_too_much_is_refused(text: str, position: int, message: str) -> None:
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


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("(A.a > 1) and not B.b", {"A.a > 1 and not B.b": 1, "A.a": 1, "not B.b": 14, "B.b": 18}),
        ("rate(A.a, 1s) > -5", {"rate(A.a, 1s)": 0, "A.a": 5, "-5": 16}),
        ("vote(1, alarm(x), `B.b`) for 1s", {"alarm(x)": 8, "B.b": 18}),
        ("  if(true, 'x', null)", {"if(true, 'x', null)": 2, "true": 5, "'x'": 11, "null": 16}),
        ("-A.a * (2 + temp)", {"-A.a": 0, "2 + temp": 8, "temp": 12}),
    ],
)
def test_every_term_knows_where_it_stands(text: str, places: dict[str, int]) -> None:
    found = {show(term): term.position for term in _all(parse(text))}
    assert places.items() <= found.items()


def _all(term: Term) -> list[Term]:
    return [term, *(below for inner in children(term) for below in _all(inner))]
