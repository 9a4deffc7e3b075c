"""Kernel and reference over random programs and random histories: every bit is the same."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from config import status
from safety import reference
from safety.engine import Engine
from tests.safety.programs import check_finite
from tests.safety.sites import EVALUATORS, MS, Plant, S, make_site

ANALOG = ["A.a", "A.b", "A.c"]
DISCRETE = ["D.x", "D.y"]
CHANNELS: dict[str, dict[str, Any]] = {
    **{tag: {} for tag in ANALOG},
    "D.x": {"Type": "Digital", "States": ["Closed", "Open"]},
    "D.y": {"Type": "Digital"},
    "O.p": {"ReadWrite": "RW", "SafeValue": 1.5},
    "O.q": {"ReadWrite": "W"},
    "O.r": {"ReadWrite": "RW", "Type": "Digital", "SafeValue": 0},
    "O.s": {"ReadWrite": "RW", "Fallback": 1},
}
METHODS = {
    "Low": [{"Topic": "Relay/Request/O", "Payload": {"Channels": {"p": 0, "q": 7}}}],
    "High": [{"Topic": "Relay/Request/O", "Payload": {"Channels": {"p": 9, "r": "ON"}}}],
}

literals = st.sampled_from(["0", "1", "2.5", "-3", "900", "1e-3"])
durations = st.sampled_from(["100ms", "0s", "0.25s", "1min"])
times = st.sampled_from(["100ms", "0.25s", "1min"])
rates = st.sampled_from(["0.5", "10", "1e307"])
degrades = st.sampled_from(["", " degrade none", " degrade trip", " degrade drop"])
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
        join("{}({}, {})", st.sampled_from(["rate", "filter"]), number, times),
        join("ramp({}, {}, {})", number, rates, rates),
        join("curve({}, -3, 0.5, 2.5, 900, 1e308, -1)", number),
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
        join("vote({}, {}, {}, {}){}", st.integers(1, 3).map(str), *[condition] * 3, degrades),
        join("if({}, {}, {})", condition, condition, condition),
        join("({} {} {})", condition, st.sampled_from(["==", "!="]), condition),
    )


def texts(
    depth: int, refs: list[str], points: list[str] = ANALOG
) -> tuple[st.SearchStrategy[str], st.SearchStrategy[str]]:
    """Strategies of number texts and condition texts."""
    # A curve without units takes the seconds off an age: random sums would mix them up.
    ages = [f"curve(age({tag}), 0, 0, 1e10, 1e10)" for tag in ANALOG]
    number: st.SearchStrategy[str] = st.one_of(
        literals, st.sampled_from(points), st.sampled_from(ages)
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


def machines(condition: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    """A machine of three states, one of them with a ramp."""
    fixed = st.fixed_dictionaries
    maybe = st.one_of(st.none(), condition)
    seconds = st.sampled_from([0.0, 0.1, 0.3])
    to = st.sampled_from([0.0, 7.0, -1e308])
    segments = st.lists(
        fixed({"To": to, "Rate": st.sampled_from([None, 5.0, 1e308]), "Hold": seconds}),
        min_size=1,
        max_size=3,
    )
    ramp = fixed({"Segments": segments, "PauseWhen": maybe, "Held": st.booleans()})
    who = st.sampled_from([["automatic"], ["operator"], ["remote", "schedule", "automatic"]])
    way = {"By": who, "When": maybe, "Urgent": st.booleans()}
    return fixed(
        {
            "Initial": st.sampled_from(["Off", "Up"]),
            "States": fixed(
                {
                    "Off": fixed({"Hold": st.just({"O.p": 2, "O.r": 0}), "MinTime": seconds}),
                    "Up": fixed(
                        {
                            "Ramps": fixed({"O.s": ramp}),
                            "MinTime": seconds,
                            "MaxTime": st.sampled_from([0.35, 5.0]),
                            "OnTimeout": st.just("Off"),
                        }
                    ),
                    "On": fixed({"Set": st.just({"O.s": 3, "O.q": 4})}),
                }
            ),
            "Transitions": st.tuples(
                fixed({"From": st.just("Off"), "To": st.just("Up"), **way}),
                fixed({"From": st.just("Up"), "To": st.just("On"), **way}),
                fixed({"To": st.just("Off"), **way}),
            ).map(list),
        }
    )


def functions(
    number: st.SearchStrategy[str], condition: st.SearchStrategy[str]
) -> st.SearchStrategy[dict[str, Any]]:
    """Functions of every role for one output."""
    common = {
        "Output": st.just("O.s"),
        "Value": number,
        "When": st.one_of(st.none(), condition),
        "BadValue": st.just(6.0),
    }
    roles = ("Setpoint", "Maximum", "Minimum", "Offset")
    return st.fixed_dictionaries(
        {f"F{n}": st.fixed_dictionaries({"Role": st.just(role), **common})
         for n, role in enumerate((*roles, "Setpoint"))}
    )  # fmt: skip


def control(name: str, condition: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    """A trip or an interlock; all but the emergency stop may be bypassed."""
    return st.fixed_dictionaries(
        {
            "When": condition,
            "Method": st.sampled_from(["Low", "High"]),
            "Kind": st.sampled_from(["Trip", "Interlock"]),
            "Latch": st.booleans(),
            "BypassMax": st.just(0.0 if name.endswith("E_Stop") else 60.0),
            **common(),
        }
    )


@st.composite
def programs(draw: st.DrawFn) -> dict[str, dict[str, Any]]:
    """Rules of a site: alarms, a state, controls, a machine and functions that use them."""
    _, plain = texts(2, [])
    refs = ["(alarm(A1) == 'Alarm')", "(alarm(A2) != null)", "(state(S1) == 'Two')",
            "(state(M) == 'Up')"]  # fmt: skip
    calculated = [*ANALOG, "V.first", "V.second"]
    number, referring = texts(1, [*refs, "(quality(alarm(A1)) == 2)"], calculated)
    _, simple = texts(0, refs)
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
    permissive = {"When": referring, "Kind": st.just("Permissive"), "Permits": st.just(["O.p"])}
    return {
        "channels": CHANNELS | expressions,
        "alarms": {
            "Alarms/A1": draw(fixed({"When": plain, "Latch": latch, **common()})),
            "Alarms/A2": draw(fixed({"When": levels, "Latch": latch, **common()})),
        },
        "states": {"S1": draw(fixed({"State": names, **common()}))},
        "controls": {
            name: draw(control(name, st.one_of(referring, levels)))
            for name in ("Control/E_Stop", "Control/C1", "Control/C2")
        }
        | {"Control/P": draw(fixed(permissive))},
        "machines": {"M": draw(machines(simple))},
        "functions": draw(functions(number, simple)),
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
    st.sampled_from(["", "", "", "bypass", "end", "Off", "Up", "On"]),
)


def ask(engine: Engine, what: str) -> None:
    """What people do between two scans."""
    if what in ("bypass", "end"):
        for rule, info in enumerate(engine.program.info):
            if info.bypass_ns_max and what == "bypass":
                engine.bypass(rule, 250 * MS)
            elif info.bypass_ns_max:
                engine.end_bypass(rule)
    elif what:
        for machine, info in enumerate(engine.program.machine_info):
            position = info.states.index(what)
            for asker in ("remote", "operator"):
                if not engine.refusal(machine, position, asker):
                    engine.request(machine, position, asker)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs(), st.lists(steps, min_size=1, max_size=14))
@example(
    {"controls": {"C": {"When": "A.a % A.b > 1", "Method": "Low"}}},
    [(0, False, [("A.a", -7.5, 0), ("A.b", 2.0, 0)], ""), (0, False, [("A.b", 0.0, 0)], "")],
)
def test_kernel_and_reference_agree_in_every_bit(
    rules: dict[str, dict[str, Any]],
    history: list[tuple[int, bool, list[tuple[str, float, int]], str]],
) -> None:
    plant = Plant(make_site(**{"channels": CHANNELS, "methods": METHODS} | rules))
    oracle = Engine(plant.program, reference.evaluate)
    linked = Engine(plant.program, EVALUATORS["native"])
    theirs = {engine: plant.rows.copy() for engine in (oracle, linked)}
    for step_ns, reset, writes, asked in history:
        for tag, value, code in writes:
            plant.set(tag, value, code)
            at = plant.site.index[tag]
            for rows in theirs.values():
                rows[at] = plant.rows[at]
        now_ns = min(max(plant.now_ns + step_ns, 0), 2**62)
        plant.now_ns = now_ns
        for engine in (plant.engine, *theirs):
            ask(engine, asked)
        changed = plant.engine.scan(plant.rows, now_ns, reset).tolist()
        for engine, rows in theirs.items():
            assert changed == engine.scan(rows, now_ns, reset).tolist()
            assert plant.rows.tobytes() == rows.tobytes()
        assert plant.engine.snapshot() == oracle.snapshot() == linked.snapshot()
        check_finite(plant.engine)


def _number(bits: int) -> float:
    return float(np.array(bits, dtype=np.uint64).view(np.float64))


ODD = (
    *(0.0, -0.0, 5e-324, -1e-320, 2.2250738585072014e-308, 0.1, 0.3, 1.0, -1.0, 2.0, -2.0, 7.5),
    *(-7.5, 1e16, 1e308, -1e308, 1.7976931348623157e308, np.inf, -np.inf),
    *(np.nan, -np.nan, _number(0x7FF0000000000001), _number(0xFFF8DEAD00000001)),
)
FORMULAS = (
    *("A.a + A.b", "A.a - A.b", "A.a * A.b", "A.a / A.b", "A.a % A.b", "A.a % 0.1", "-A.a"),
    *("min(A.a, A.b)", "max(A.a, A.b)", "avg(A.a, A.b)", "min(-A.a, abs(A.b), 0)", "-(A.a * 0)"),
    *("if(A.b > 0, A.a, A.b)", "filter(A.a, 1s)", "ramp(A.a, 1, 2)", "rate(A.a, 100ms)"),
    *("curve(A.a, -7.5, -0.0, 0, 1e308, 1e308, -1e308)", "A.a == A.b", "A.a != A.b", "A.a < A.b"),
    *("A.a > A.b hysteresis 1e308", "A.a <= 2 hysteresis 0.5", "true and D.x", "quality(A.a)"),
)


def test_kernel_and_reference_agree_on_every_pair_of_odd_numbers() -> None:
    """Signs of zero, the smallest and largest numbers, infinities, and every kind of NaN."""
    formulas = {f"V.f{at}": {"Expression": text} for at, text in enumerate(FORMULAS)}
    site = make_site({**CHANNELS, **formulas})
    plants = [Plant(site, evaluate) for evaluate in EVALUATORS.values()]
    for number, (left, right) in enumerate((a, b) for a in ODD for b in ODD):
        for plant in plants:
            plant.set("A.a", left, (number % 4) << 30)
            plant.set("A.b", right)
            plant.set("D.x", left)
            plant.scan(100 * MS if number % 7 else 3_600_000 * S)
        first, *others = plants
        for other in others:
            assert other.rows.tobytes() == first.rows.tobytes(), (left, right)
            assert other.engine.snapshot() == first.engine.snapshot(), (left, right)
