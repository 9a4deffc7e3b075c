"""Explanations: part by part, with the values of the scan, and without touching it."""

from __future__ import annotations

from typing import Any

import pytest

from safety.explain import (
    MISSING_MAX,
    PARTS_MAX,
    RULES_MAX,
    Explainer,
    Part,
    missing,
    nearest,
    reasons,
)
from tests.safety.sites import MS, Plant, S, make_site

CHANNELS: dict[str, dict[str, Any]] = {
    "A.a": {},
    "A.b": {},
    "A.c": {},
    "D.x": {"Type": "Digital", "States": ["Closed", "Open"]},
    "O.p": {"ReadWrite": "RW", "SafeValue": 0},
}
METHODS = {"Off": [{"Topic": "Relay/Request/O", "Payload": {"Channels": {"p": 0}}}]}


def plant_of(when: str, alarms: dict[str, Any] | None = None, **keys: Any) -> Plant:
    plant = Plant(
        make_site(
            CHANNELS,
            alarms=alarms,
            controls={"Control/T": {"When": when, "Method": "Off", **keys}},
            methods=METHODS,
        )
    )
    for tag in ("A.a", "A.b", "A.c", "D.x"):
        plant.set(tag, 0.0)
    return plant


def explained(plant: Plant, name: str = "Control/T") -> Part:
    part = Explainer(plant.engine, plant.site.points).rule(plant.rule(name), plant.rows)
    assert part is not None
    return part


def shown(part: Part) -> list[tuple[int, str, str]]:
    return [(depth, one.text, one.shown) for depth, one in part.flat()]


def test_every_part_shows_its_value() -> None:
    plant = plant_of("A.a > 5 and (D.x == 'Open' or max(A.b, A.c) + 1 >= 3)")
    plant.set("A.a", 7)
    plant.set("D.x", 1)
    plant.worsen("A.c")
    plant.scan()
    assert shown(explained(plant)) == [
        (0, "A.a > 5 and (D.x == 'Open' or max(A.b, A.c) + 1 >= 3)", "true"),
        (1, "A.a > 5", "true"),
        (2, "A.a", "7"),
        (1, "D.x == 'Open' or max(A.b, A.c) + 1 >= 3", "true"),
        (2, "D.x == 'Open'", "true"),
        (3, "D.x", "Open"),
        (2, "max(A.b, A.c) + 1 >= 3", "bad"),
        (3, "max(A.b, A.c) + 1", "bad"),
        (4, "max(A.b, A.c)", "bad"),
        (5, "A.b", "0"),
        (5, "A.c", "bad"),
    ]


def test_explaining_disturbs_nothing_and_repeats_itself() -> None:
    plant = plant_of(
        "(A.a >= 10 hysteresis 5 for 1s) or rate(A.b, 1s) > 100 or filter(A.c, 5s) > 50"
    )
    plant.set("A.a", 20)
    for step in range(25):
        plant.set("A.b", 3.0 * step)
        plant.set("A.c", 40.0)
        plant.scan(100 * MS)
    before = plant.engine.snapshot()
    first = shown(explained(plant))
    assert shown(explained(plant)) == first
    assert plant.engine.snapshot() == before
    values = {text: value for _, text, value in first}
    assert values["rate(A.b, 1s)"] == "30"
    assert float(values["filter(A.c, 5s)"]) == pytest.approx(40.0)


def test_a_part_is_what_the_scan_computed() -> None:
    """The root of the explanation is the result that the kernel gave."""
    plant = plant_of("vote(2, A.a > 1, A.b > 1, A.c > 1) for 500ms", Latch=False)
    history = [("A.a", 2.0), ("A.b", 2.0), ("A.c", 0.0), ("A.b", 0.0), ("A.c", 5.0)]
    for tag, value in history:
        plant.set(tag, value)
        for step_ms in (100, 300, 200):
            plant.scan(step_ms * MS)
            part = explained(plant)
            active = bool(plant.engine.active[plant.rule("Control/T")])
            assert part.is_true == active


def test_a_delay_says_how_long_it_still_takes() -> None:
    plant = plant_of("A.a > 5 for 10s")
    plant.set("A.a", 6)
    plant.scan()
    plant.scan(4 * S)
    assert explained(plant).note == "6 s of 10s are left"
    assert missing(explained(plant), True) == ["A.a > 5 for 10s: 6 s of 10s are left"]
    plant.scan(7 * S)
    assert explained(plant).note == ""


def test_a_reference_goes_on_into_its_rule() -> None:
    alarms = {"Alarms/Hot": {"When": "A.a > 5", "Level": "High", "Latch": True}}
    plant = plant_of("alarm('Alarms/Hot') == 'High'", alarms)
    plant.set("A.a", 9)
    plant.scan()
    assert shown(explained(plant)) == [
        (0, "alarm('Alarms/Hot') == 'High'", "true"),
        (1, "alarm('Alarms/Hot')", "High"),
        (2, "A.a > 5", "true"),
        (3, "A.a", "9"),
    ]
    lines = missing(explained(plant), False)
    assert (
        lines[0] == "alarm('Alarms/Hot') == 'High' is true: alarm('Alarms/Hot') is High (latched)"
    )
    assert lines[1].startswith("A.a > 5 is true: A.a is 9 (Good")


@pytest.mark.parametrize(
    ("when", "wanted", "expected"),
    [
        ("A.a > 5", True, ["A.a > 5 is false: A.a is 0"]),
        ("A.a > 5 and A.b > 5", True, ["A.a > 5 is false", "A.b > 5 is false"]),
        ("A.a > 5 or A.b > 5", True, ["one of:", "  - A.a > 5 is false"]),
        ("A.a < 5 and A.b < 5", False, ["one of:", "  - A.a < 5 is true"]),
        ("A.a < 5 or A.b < 5", False, ["A.a < 5 is true", "A.b < 5 is true"]),
        ("not (A.a < 5)", True, ["A.a < 5 is true"]),
        ("A.a < 5", True, []),
        ("vote(2, A.a > 5, A.b > 5, A.c < 5)", True, ["1 of 3 vote for it, 2 are needed"]),
    ],
)
def test_what_is_missing(when: str, wanted: bool, expected: list[str]) -> None:
    plant = plant_of(when)
    plant.scan()
    lines = missing(explained(plant), wanted)
    assert all(line.startswith(want) for line, want in zip(lines, expected, strict=False)), lines
    assert bool(lines) == bool(expected)


def test_a_trip_in_a_guard_is_explained_once() -> None:
    way = {"From": "Off", "To": "Run", "When": "A.a > 5 or A.a < 3 or Controls.T"}
    machine = {"Initial": "Off", "States": {"Off": {}, "Run": {}}, "Transitions": [way]}
    control = {"Control/T": {"When": "A.b > 5", "Method": "Off"}}
    site = make_site(CHANNELS, controls=control, methods=METHODS, machines={"M": machine})
    plant = Plant(site)
    for tag in ("A.a", "A.b"):
        plant.set(tag, 0.0)
    plant.scan()
    guard = next(i.name for i in plant.engine.program.info if i.kind == "guard")
    part = explained(plant, guard)
    assert part.is_true and reasons(part) == ["A.a < 3"]
    plant.set("A.a", 4.0)
    plant.scan()
    assert missing(explained(plant, guard), True)[-1] == "  - Controls.T active"


def test_each_alternative_begins_a_line() -> None:
    plant = plant_of("A.a > 5 or (A.a > 6 and A.b > 5)")
    plant.scan()
    lines = missing(explained(plant), True)
    assert [line.split(" is ")[0] for line in lines] == [
        "one of:",
        "  - A.a > 5",
        "  - A.a > 6",
        "    A.b > 5",
    ]


def test_a_latched_rule_misses_a_reset() -> None:
    alarms = {"Alarms/Hot": {"When": "A.a > 5", "Level": "High", "Latch": True}}
    plant = plant_of("Alarms.Hot", alarms)
    plant.set("A.a", 9)
    plant.scan()
    plant.set("A.a", 0)
    plant.scan()
    assert missing(explained(plant), False) == [
        "Alarms.Hot is High (latched)",
        "Alarms.Hot: a reset, Gateway.Reset, once its cause is gone",
    ]


def test_a_lost_point_is_named_and_not_what_is_computed_from_it() -> None:
    plant = plant_of("max(A.a, A.b) * 2 > 5")
    plant.worsen("A.b")
    plant.scan()
    (line,) = missing(explained(plant), False)
    assert line.startswith("A.b is bad (BadNoCommunication")


def test_an_explanation_is_bounded() -> None:
    when = " or ".join(f"(A.a > {n} and A.b > {n})" for n in range(60))
    plant = plant_of(when)
    plant.scan()
    part = explained(plant)
    kept = nearest(part)
    assert len(kept) == PARTS_MAX
    # What is left out is the deepest: all 60 alternatives are there.
    assert sum(depth == 1 for depth, _ in kept) == 60
    lines = missing(part, True)
    assert len(lines) == MISSING_MAX + 1
    assert lines[-1] == f"and {1 + 2 * 60 - MISSING_MAX} more"


def test_rules_inside_one_another_are_bounded() -> None:
    """A trip is explained within a scan, whatever it refers to."""
    hot = {f"Alarms/X{n}": {"When": f"A.a > {n}", "Level": "High"} for n in range(40)}
    anyone = " or ".join(f"alarm('{name}')" for name in hot)
    for n in range(40):
        hot[f"Alarms/Y{n}"] = {"When": anyone, "Level": "High"}
    plant = plant_of(" or ".join(f"alarm('Alarms/Y{n}')" for n in range(40)), hot)
    plant.set("A.a", 50)
    plant.scan()
    part = explained(plant)
    assert len(part.parts) == 40
    assert sum(one.rule >= 0 and bool(one.parts) for _, one in part.flat()) == RULES_MAX
