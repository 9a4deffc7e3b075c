"""The limits that a condition shows, against what the compiled rule does.

The link process reads limits off the rules by itself (gateway/opcua/conditions/classify.py). Here
the field's own compiler and engine judge it: where a limit is shown, the rule has that level on the
far side of it and not on the near side, whatever is around the comparison.
"""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from config.units import unit_of
from gateway.opcua.conditions.classify import Kind, kind_of
from safety.compile import compile_site
from tests.safety.sites import Plant, make_site

S = 1_000_000_000
TAG = "Oven.Temperature"
NAME = "Alarms/Hot"
# Far from 0 in no unit, so that a unit that is overlooked shows.
UNITS = ("degC", "K", "degF", "kW", "W", "%", "1", "bar", "Pa", "", "SLPM")
NEAR = 1e-3  # of a limit, relative: closer than this the rounding of a conversion counts
RULES = 500


def unit(random: Random, units: str) -> str:
    """A unit to write beside a constant, or none."""
    known = unit_of(units)
    fits = [name for name in UNITS if name and _same_dimension(known, unit_of(name))]
    return f" [{random.choice(fits)}]" if fits and random.random() < 0.4 else ""


def _same_dimension(one: Any, other: Any) -> bool:
    return one is not None and other is not None and one.dimension == other.dimension


def number(random: Random) -> str:
    return random.choice(("900", "12.5", "-40", "- 3", "1e2", "0", "2.5e-1", "37.", "-0", "450.25"))


def comparison(random: Random, units: str) -> str:
    op = random.choice(("<", "<=", ">", ">=", "==", "!=", "<", ">"))
    constant = number(random) + unit(random, units)
    point = random.choice(
        (TAG, "`Oven`.Temperature", "`Oven.Temperature`", "t", "$LiveData/Oven/Temperature")
    )
    sides = [point, constant]
    random.shuffle(sides)
    text = f" {op} ".join(sides) if random.random() < 0.8 else f"{sides[0]}{op} {sides[1]}"
    if op not in ("==", "!=") and random.random() < 0.4:
        text += f" {random.choice(('hysteresis', 'HYSTERESIS'))} {random.choice(('0.01', '1e-2'))}"
    return text


def infix(random: Random, units: str) -> dict[str, Any]:
    text = comparison(random, units)
    way = random.randrange(12)
    if way == 0:
        text = f"not ({text})"
    elif way == 1:
        text = f"not {text}"
    elif way == 2:
        text = f"vote(1, {text}, {comparison(random, units)}) degrade drop"
    elif way == 3:
        text = f"({text}) {random.choice(('and', 'or'))} ({comparison(random, units)})"
    elif way == 4:
        text = f"if({text}, true, false)"
    elif way == 5:
        text = f"({text}) == {random.choice(('true', 'false'))}"
    elif way == 6:
        text = f"-{text}"
    elif way == 7:
        text = f"2 * {text}"
    elif way == 8:
        text = f"filter({TAG}, 1s) > {number(random)}"
    if random.random() < 0.3:
        text = f"({text})"
    if random.random() < 0.4:
        text += f" {random.choice(('for', 'FOR'))} {random.choice(('5s', '0.5 min', '20 ms'))}"
    level = {"Level": random.choice(("High", "L"))} if random.random() < 0.5 else {}
    return {"When": text, "Data": {"t": "$LiveData/Oven/Temperature"}, **level}


def json_comparison(random: Random) -> Any:
    op = random.choice(("<", "<=", ">", ">=", ">", "<", "==", "!=="))
    constant = random.choice((5, 9, 20, 40, -3, 2.5))
    point = random.choice(
        ({"var": "t"}, {"var": ["t"]}, {"var": "t"}, {"var": "$LiveData/Oven/Temperature"})
    )
    sides: list[Any] = [point, constant]
    random.shuffle(sides)
    way = random.randrange(16)
    if way == 0:
        return {"!": [{op: sides}]}
    if way == 1:
        return {"and": [{op: sides}, {">": [{"var": "t"}, 9]}]}
    if way == 2:
        return {"<": [5, {"var": "t"}, 20]}
    if way == 3:
        return {op: [{"+": [point, 1]}, constant]}
    return {op: sides}


def json(random: Random) -> dict[str, Any]:
    count = random.randrange(5)
    if not count:
        rule = json_comparison(random)
    else:
        levels = ("HH", "H", "L", "LL", "H", None, "")
        parts = [
            one for _ in range(count) for one in (json_comparison(random), random.choice(levels))
        ]
        last = random.choice(([], [None], [None], ["L"], [{"if": [json_comparison(random), "H"]}]))
        rule = {random.choice(("if", "if", "?:")): [*parts, *last]}
    keys = random.choice(({}, {"Level": "H"}))
    return {"Rule": rule, "Data": {"t": "$LiveData/Oven/Temperature"}, **keys}


def in_force(kind: Kind, value: float) -> str:
    """The limit that a value exceeds by what the condition shows; "" = none."""
    limits = kind.limits
    for name in ("HighHigh", "High"):
        if name in limits and value > limits[name]:
            return name
    for name in ("LowLow", "Low"):
        if name in limits and value < limits[name]:
            return name
    return ""


@pytest.mark.parametrize("form", [infix, json])
def test_a_limit_that_is_shown_is_the_rules(form: Any) -> None:
    random = Random(9)
    shown = 0
    for _ in range(RULES):
        units = random.choice(UNITS)
        rule = form(random, units) if form is infix else form(random)
        shown += _judged(rule, units, random)
    assert shown > RULES / 10


def _judged(rule: dict[str, Any], units: str, random: Random) -> bool:
    try:
        site = make_site({TAG: {"Units": units}}, {NAME: rule})
    except ValueError:
        return False  # no form of a rule: its site is not loaded
    known = site.personality.alarms[NAME]
    kind = kind_of(known, {point.tag: point for point in site.points})
    if not kind.limits:
        return False
    if compile_site(site)[0] is None:
        return False
    limits = sorted(kind.limits.values())
    lows = [kind.limits[name] for name in ("Low", "LowLow") if name in kind.limits]
    highs = [kind.limits[name] for name in ("High", "HighHigh") if name in kind.limits]
    assert not lows or not highs or max(lows) <= min(highs), rule
    steps = [max(abs(limit) * NEAR, NEAR) * 20 for limit in limits]
    values = [
        limit + way * step for limit, step in zip(limits, steps, strict=True) for way in (-1, 1)
    ]
    for value in values:
        plant = Plant(site)
        for _ in range(2):
            plant.set(TAG, value)
            plant.scan(60 * S)
        name, level = in_force(kind, value), plant.level(NAME)
        found = kind.states.get(level, "none of them") if level else ""
        assert found == name, (rule, units, kind, value, level)
    return True
