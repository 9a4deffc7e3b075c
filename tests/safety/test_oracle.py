"""Kernel and reference over random programs and random histories: every bit is the same."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from config import status
from safety import reference
from safety.engine import Engine
from tests.safety.sites import EVALUATORS, MS, Plant, make_site

ANALOG = ["A.a", "A.b", "A.c"]
DISCRETE = ["D.x", "D.y"]
CHANNELS: dict[str, dict[str, Any]] = {
    **{tag: {} for tag in ANALOG},
    "D.x": {"Type": "Digital", "States": ["Closed", "Open"]},
    "D.y": {"Type": "Digital"},
    "O.p": {"ReadWrite": "RW", "SafeValue": 1.5},
    "O.q": {"ReadWrite": "W"},
    "O.r": {"ReadWrite": "RW", "Type": "Digital", "SafeValue": 0},
}
METHODS = {
    "Low": [{"Topic": "Relay/Request/O", "Payload": {"Channels": {"p": 0, "q": 7}}}],
    "High": [{"Topic": "Relay/Request/O", "Payload": {"Channels": {"p": 9, "r": "ON"}}}],
}

literals = st.sampled_from(["0", "1", "2.5", "-3", "900", "1e-3"])
durations = st.sampled_from(["100ms", "0s", "0.25s", "1min"])
op_compare = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
op_order = st.sampled_from(["<", "<=", ">", ">="])


def join(template: str, *parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Text of a template with drawn parts."""
    return st.tuples(*parts).map(lambda drawn: template.format(*drawn))


def extend_number(
    number: st.SearchStrategy[str], condition: st.SearchStrategy[str]
) -> st.SearchStrategy[str]:
    """Numbers one level deeper."""
    op = st.sampled_from(["+", "-", "*", "/", "%"])
    call = st.sampled_from(["min", "max", "avg"])
    return st.one_of(
        join("({} {} {})", number, op, number),
        join("{}({}, {}, {})", call, number, number, number),
        join("abs({})", number),
        join("-({})", number),
        join("quality({})", st.one_of(number, condition)),
        join("if({}, {}, {})", condition, number, number),
    )


def extend_condition(
    number: st.SearchStrategy[str], condition: st.SearchStrategy[str]
) -> st.SearchStrategy[str]:
    """Conditions one level deeper."""
    return st.one_of(
        join("({} {} {})", number, op_compare, number),
        join("({} {} {} hysteresis {})", number, op_order, number, st.sampled_from(["0", "5"])),
        join("({} {} {})", condition, st.sampled_from(["and", "or"]), condition),
        join("(not {})", condition),
        join("({} for {})", condition, durations),
        join("vote({}, {}, {}, {})", st.integers(1, 3).map(str), *[condition] * 3),
        join("if({}, {}, {})", condition, condition, condition),
        join("({} {} {})", condition, st.sampled_from(["==", "!="]), condition),
    )


def texts(
    depth: int, refs: list[str], points: list[str] = ANALOG
) -> tuple[st.SearchStrategy[str], st.SearchStrategy[str]]:
    """Strategies of number texts and condition texts."""
    number: st.SearchStrategy[str] = st.one_of(
        literals, st.sampled_from(points), st.sampled_from([f"age({t})" for t in ANALOG])
    )
    condition: st.SearchStrategy[str] = st.one_of(
        join("({} {} {})", st.sampled_from(ANALOG), op_compare, literals),
        join("({} {} {} hysteresis 5)", st.sampled_from(ANALOG), op_order, literals),
        join("vote({}, A.a > {}, A.b > 1, A.c >= 2.5)", st.integers(1, 3).map(str), literals),
        st.sampled_from(["(D.x == 'Open')", "(D.y == true)", "(true and D.y)", "false", *refs]),
    )
    for _ in range(depth):
        number, condition = (
            st.one_of(number, extend_number(number, condition)),
            st.one_of(condition, extend_condition(number, condition)),
        )
    return number, condition


def common() -> dict[str, st.SearchStrategy[Any]]:
    """Keys that every rule has."""
    delay = st.sampled_from([0.0, 0.1, 0.25])
    return {
        "OnDelay": delay,
        "OffDelay": delay,
        "OnBad": st.sampled_from([None, "trip", "hold", "ignore"]),
    }


@st.composite
def programs(draw: st.DrawFn) -> dict[str, dict[str, Any]]:
    """Rules of a site: two alarms, a state, three controls that may use them."""
    _, plain = texts(2, [])
    refs = ["(alarm(A1) == 'Alarm')", "(alarm(A2) != null)", "(state(S1) == 'Two')"]
    calculated = [*ANALOG, "V.first", "V.second"]
    _, referring = texts(1, [*refs, "(quality(alarm(A1)) == 2)"], calculated)
    latch = st.booleans()
    levels = join("if({}, 'High', if({}, 'Low', null))", plain, plain)
    first, _ = texts(2, [])
    second, condition = texts(1, ["(alarm(A1) == 'Alarm')"], [*ANALOG, "V.first"])
    names = join("if({}, 'One', if({}, 'Two', 'Three'))", plain, plain)
    fixed = st.fixed_dictionaries
    expressions = {
        "V.second": {"Expression": draw(st.one_of(second, condition))},
        "V.first": {"Expression": draw(first)},
    }
    return {
        "channels": CHANNELS | expressions,
        "alarms": {
            "Alarms/A1": draw(fixed({"When": plain, "Latch": latch, **common()})),
            "Alarms/A2": draw(fixed({"When": levels, "Latch": latch, **common()})),
        },
        "states": {"S1": draw(fixed({"State": names, **common()}))},
        "controls": {
            name: draw(
                fixed(
                    {
                        "When": st.one_of(referring, levels),
                        "Method": st.sampled_from(["Low", "High"]),
                        "Kind": st.sampled_from(["Trip", "Interlock"]),
                        "Latch": latch,
                        **common(),
                    }
                )
            )
            for name in ("Control/E_Stop", "Control/C1", "Control/C2")
        },
    }


values = st.sampled_from(
    [0.0, -0.0, 1.0, 2.5, 3.0, 895.0, 899.9, 900.0, 905.0, -4.0, np.nan, np.inf, -np.inf, 1e308]
)
codes = st.sampled_from(
    [status.GOOD] * 6
    + [
        status.UNCERTAIN_LAST_USABLE,
        status.BAD_NO_COMMUNICATION,
        status.BAD_WAITING_FOR_INITIAL_DATA,
        0xC0000000,
    ]
)
steps = st.tuples(
    st.sampled_from([0, 50 * MS, 100 * MS, 100 * MS, 300 * MS, -400 * MS, 2**61]),
    st.booleans(),
    st.lists(st.tuples(st.sampled_from(ANALOG + DISCRETE), values, codes), max_size=5),
)


def state_of(engine: Engine) -> list[bytes]:
    """Everything an engine knows, as bytes."""
    parts = (engine._state, engine._slots, engine._memory, engine._outputs)
    return [part.tobytes() for part in parts]


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs(), st.lists(steps, min_size=1, max_size=14))
@example(
    {"controls": {"C": {"When": "A.a % A.b > 1", "Method": "Low"}}},
    [(0, False, [("A.a", -7.5, 0), ("A.b", 2.0, 0)]), (0, False, [("A.b", 0.0, 0)])],
)
def test_kernel_and_reference_agree_in_every_bit(
    rules: dict[str, dict[str, Any]], history: list[tuple[int, bool, list[tuple[str, float, int]]]]
) -> None:
    plant = Plant(make_site(**{"channels": CHANNELS, "methods": METHODS} | rules))
    oracle = Engine(plant.program, reference.evaluate)
    linked = Engine(plant.program, EVALUATORS["machine"])
    theirs = {engine: plant.rows.copy() for engine in (oracle, linked)}
    for step_ns, reset, writes in history:
        for tag, value, code in writes:
            plant.set(tag, value, code)
            at = plant.site.index[tag]
            for rows in theirs.values():
                rows[at] = plant.rows[at]
        now_ns = min(max(plant.now_ns + step_ns, 0), 2**62)
        plant.now_ns = now_ns
        changed = plant.engine.scan(plant.rows, now_ns, reset).tolist()
        for engine, rows in theirs.items():
            assert changed == engine.scan(rows, now_ns, reset).tolist()
            assert plant.rows.tobytes() == rows.tobytes()
        assert state_of(plant.engine) == state_of(oracle) == state_of(linked)
