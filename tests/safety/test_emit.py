"""What the emitter makes of terms: spans, machines, votes, and the new operators over time."""

from __future__ import annotations

import math
from typing import Any

import pytest

from safety import layout
from safety.compile import compile_site
from safety.layout import RuleInfo
from safety.terms import show
from tests.safety.sites import EVALUATORS, Plant, S, make_site

CHANNELS: dict[str, dict[str, Any]] = {
    "A.x": {},
    "A.y": {},
    "A.door": {"Type": "Digital", "States": ["Closed", "Open"]},
    "O.p": {"ReadWrite": "RW", "SafeValue": 0},
}
MACHINE = {
    "Operation": {
        "Initial": "Off",
        "States": {"Off": {}, "Run": {}},
        "Transitions": [
            {"From": "Off", "To": "Run", "When": "A.x > 5"},
            {"From": "Run", "To": "Off", "When": "A.x < 1"},
        ],
    }
}


def info_of(condition: str) -> tuple[RuleInfo, list[int]]:
    """What is kept of an alarm with this condition, and its code."""
    alarms = {"Hot": {"When": "A.x > 9", "Level": "High"}, "A": {"When": condition, "Level": "L"}}
    program, findings = compile_site(make_site(CHANNELS, alarms))
    assert program is not None, findings
    row = next(at for at, info in enumerate(program.info) if info.name == "A")
    start, stop = program.rules[row]["start"], program.rules[row]["stop"]
    return program.info[row], program.code[start:stop].tolist()


def spans_of(condition: str) -> list[str]:
    """The spans of a condition as text; each must end behind a whole operation."""
    info, code = info_of(condition)
    assert info.spans[-1] == (len(code), info.term)
    stops = [stop for stop, _ in info.spans]
    assert stops == sorted(stops)
    return [show(term) for _, term in info.spans]


@pytest.mark.parametrize(
    ("condition", "spans"),
    [
        ("A.x > 5", ["A.x > 5"]),
        ("5 < A.x", ["5 < A.x"]),
        ("A.x > 5 hysteresis 1", ["A.x > 5 hysteresis 1"]),
        ("A.door == 'Open'", ["A.door == 'Open'"]),
        ("A.x > A.y", ["A.x", "A.y", "A.x > A.y"]),
        ("A.x + 1 > 5", ["A.x", "A.x + 1", "A.x + 1 > 5"]),
        (
            "A.x > 5 and not (A.y < 1 for 3s)",
            ["A.x > 5", "A.y < 1", "A.y < 1 for 3s", "not (A.y < 1 for 3s)"],
        ),
        (
            "vote(1, A.x > 1, alarm(Hot) == 'High', A.y > 1)",
            ["A.x > 1", "alarm(Hot)", "alarm(Hot) == 'High'", "A.y > 1"],
        ),
        ("if(A.door, A.x, A.y) > 2", ["A.door", "A.x", "A.y", "if(A.door, A.x, A.y)"]),
        ("rate(A.x - A.y, 9s) > 2", ["A.x", "A.y", "A.x - A.y", "rate(A.x - A.y, 9s)"]),
    ],
)
def test_what_can_be_explained_is_recorded_in_order(condition: str, spans: list[str]) -> None:
    whole = show(info_of(condition)[0].term)  # type: ignore[arg-type]
    assert spans_of(condition) == (spans if spans[-1] == whole else [*spans, whole])


@pytest.mark.parametrize(
    ("condition", "op", "length"),
    [
        ("A.x > 1 and vote(1, A.x > 2, A.y > 3)", layout.OP_VOTE, 4),
        ("A.x > 1 and quality(A.x) > A.y", layout.OP_COMPARE, 2),
        ("A.x > 1 and A.x + 1 > A.y hysteresis 2", layout.OP_HYST, 4),
        ("A.x > 1 and if(A.door, A.x, A.y) > 1", layout.OP_COMPARE, 2),
        ("A.door or curve(A.x, 1, 2, 3, 4) > 1", layout.OP_COMPARE, 2),
    ],
)
def test_a_span_ends_behind_the_word_that_decides(condition: str, op: int, length: int) -> None:
    info, code = info_of(condition)
    whole = info.term
    assert whole is not None
    right = whole.terms[1]  # type: ignore[union-attr]
    stop = next(stop for stop, term in info.spans if term is right)
    assert code[stop - length] == op
    assert stop == len(code) - 1  # `and` and `or` are one word


@pytest.mark.parametrize(
    ("on_bad", "text", "degrade"),
    [
        ("trip", "", layout.DEGRADE_TRIP),
        ("hold", "", layout.DEGRADE_NONE),
        ("ignore", "", layout.DEGRADE_NONE),
        ("trip", " degrade none", layout.DEGRADE_NONE),
        ("hold", " degrade trip", layout.DEGRADE_TRIP),
        ("trip", " degrade drop", layout.DEGRADE_DROP),
    ],
)
def test_a_vote_degrades_as_it_says_or_as_its_rule_does(
    on_bad: str, text: str, degrade: int
) -> None:
    alarm = {"When": f"vote(1, A.x > 1, A.y > 1){text}", "Level": "L", "OnBad": on_bad}
    program, _ = compile_site(make_site(CHANNELS, {"A": alarm}))
    assert program is not None
    assert program.code[-4:].tolist() == [layout.OP_VOTE, 1, 2, degrade]


def test_every_state_of_a_term_has_room_of_its_own() -> None:
    condition = "rate(A.x, 9s) + filter(A.x, 1s) + ramp(A.x, 1, 1) + rate(A.y, 9s) > 1 for 1s"
    program, _ = compile_site(make_site(CHANNELS, {"A": {"When": condition, "Level": "L"}}))
    assert program is not None
    assert program.slots == 2 * layout.RATE_SLOTS + 3
    assert program.floats == 2 * layout.RATE_FLOATS + 2


@pytest.mark.parametrize("evaluator", ["kernel", "reference"])
def test_the_state_of_a_machine_can_be_read(evaluator: str) -> None:
    alarms = {"Running": {"When": "state(Operation) == 'Run'", "Level": "Yes"}}
    plant = Plant(make_site(CHANNELS, alarms, machines=MACHINE), EVALUATORS[evaluator])
    assert layout.OP_MACHINE in plant.program.code.tolist()
    for tag in CHANNELS:
        plant.set(tag, 0.0)
    plant.scan()
    plant.scan()
    assert plant.level("Running") is None
    plant.set("A.x", 6.0)
    plant.scan()
    plant.scan()
    assert plant.level("Running") == "Yes"


def over_time(expression: str, values: list[float], evaluator: str) -> list[float]:
    """What an expression gives while A.x takes one value a second; NaN is bad."""
    plant = Plant(make_site({**CHANNELS, "R.r": {"Expression": expression}}), EVALUATORS[evaluator])
    found = []
    for value in values:
        plant.set("A.x", value)
        plant.scan(S)
        row = plant.rows[plant.site.index["R.r"]]
        found.append(math.nan if row["status"] >> 31 else float(row["value"]))
    return found


NAN = math.nan


@pytest.mark.parametrize("evaluator", ["kernel", "reference"])
@pytest.mark.parametrize(
    ("expression", "values", "results"),
    [
        ("rate(A.x, 2s)", [0, 3, 6, 9, 9, 9], [NAN, NAN, 3, 3, 1.5, 0]),
        ("rate(A.x, 2s)", [0, 3, 6, NAN, 9, 9, 9], [NAN, NAN, 3, NAN, NAN, NAN, 0]),
        ("filter(A.x, 1s)", [0, 8, 8, 0], [0, 4, 6, 3]),
        ("filter(A.x, 1s)", [0, NAN, 8], [0, NAN, 8]),
        ("ramp(A.x, 2, 5)", [0, 3, 3, -9, -9], [0, 2, 3, -2, -7]),
        ("ramp(A.x, 2, 5)", [0, NAN, 9], [0, NAN, 9]),
    ],
)
def test_operators_with_a_memory_follow_their_input(
    evaluator: str, expression: str, values: list[float], results: list[float]
) -> None:
    found = over_time(expression, values, evaluator)
    assert found == pytest.approx(results, nan_ok=True)


def test_a_short_window_is_a_warning_and_the_program_is_whole() -> None:
    alarm = {"When": "rate(A.x, 1500ms) > 1", "Level": "L"}
    program, findings = compile_site(make_site(CHANNELS, {"A": alarm}))
    assert program is not None
    [finding] = [each for each in findings if each.rule == "rate-window-short"]
    assert finding.severity == "warning"
    assert "every 1s only" in finding.message


@pytest.mark.parametrize(
    ("expression", "rule"),
    [
        ("A.w / 1000", ""),
        ("A.w * 0.001 [kW/W]", ""),
        ("5000 [W]", ""),
        ("A.free * 2", ""),
        ("A.w > 5", ""),
        ("A.w", "unit-mismatch"),
        ("A.t", "unit-mismatch"),
        ("5 [degC]", "unit-mismatch"),
        ("5 [furlong]", "unit-unknown"),
    ],
)
def test_a_calculated_point_gets_its_own_unit(expression: str, rule: str) -> None:
    channels = {
        "A.w": {"Units": "W"},
        "A.t": {"Units": "degC"},
        "A.free": {},
        "R.r": {"Units": "kW", "Expression": expression},
    }
    program, findings = compile_site(make_site(channels))
    assert [finding.rule for finding in findings] == ([rule] if rule else [])
    if expression == "5000 [W]":
        assert program is not None
        assert program.consts[program.code[1]] == 5.0
