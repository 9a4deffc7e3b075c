"""What the checks say is true of the running program: random sites, random inputs."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest

from config.findings import Finding
from safety import reference
from safety.compile import compile_site
from tests.safety.sites import MS, Plant, make_site
from tests.safety.test_checks import CHANNELS, CLOSE, STOP

INPUTS = {"Stack.T": range(6), "Stack.P": range(6), "Stack.Door": range(2)}


def guard(chance: random.Random) -> str:
    """A limit or a condition, often the same subject."""
    if chance.random() < 0.2:
        return chance.choice(["Stack.Door", "Stack.Door and Stack.T > 2", "not Stack.Door"])
    op = chance.choice([">", ">=", "<"])
    tail = chance.choice(["", "", "", " hysteresis 1", " for 200ms", " for 500ms"])
    return f"Stack.{chance.choice('TTP')} {op} {chance.randrange(5)}{tail}"


def play(plant: Plant, chance: random.Random) -> None:
    """Change an input now and then, lose it seldom, scan."""
    for tag, values in INPUTS.items():
        if chance.random() < 0.4:
            plant.set(tag, float(chance.choice(values)))
        elif chance.random() < 0.03:
            plant.worsen(tag)
    plant.scan(100 * MS, reset=chance.random() < 0.3)


@pytest.mark.parametrize("seed", range(12))
def test_a_shadowed_rule_is_never_active_alone(seed: int) -> None:
    chance = random.Random(seed)
    controls = {}
    for at in range(14):
        controls[f"C{at}"] = {
            "When": guard(chance),
            "Effects": CLOSE,
            "Kind": chance.choice(["Trip", "Trip", "Interlock"]),
            "Latch": chance.random() < 0.5,
            "OnDelay": chance.choice([0.0, 0.0, 0.3]),
            "OffDelay": chance.choice([0.0, 0.0, 0.3]),
            "OnBad": chance.choice(["trip", "hold", "ignore"]),
        }
    site = make_site(CHANNELS, controls={**STOP, **controls})
    _, found = compile_site(site)
    pairs = [
        (finding.key.split(".")[1], covering(finding))
        for finding in found
        if finding.rule == "rule-shadowed"
    ]
    plant = Plant(site, reference.evaluate)
    for _ in range(150):
        play(plant, chance)
        for shadowed, first in pairs:
            if plant.level(shadowed):
                assert plant.level(first), f"{shadowed} without {first}"


def covering(finding: Finding) -> str:
    """The rule that a finding says is active too."""
    match = re.search(r"active, (\w+) is too", finding.message)
    assert match
    return match[1]


@pytest.mark.parametrize("seed", range(20))
def test_a_shadowed_transition_is_never_taken_and_an_unreachable_state_never_entered(
    seed: int,
) -> None:
    chance = random.Random(seed)
    names = ["A", "B", "C", "D"]
    transitions: list[dict[str, Any]] = []
    for _ in range(10):
        target = chance.choice(names)
        others = [name for name in names if name != target]
        by = chance.choice([["automatic"], ["operator"], ["remote"], ["operator", "automatic"]])
        transitions.append(
            {
                "From": chance.choice(["*", *others, chance.sample(others, 2)]),
                "To": target,
                "When": guard(chance) if chance.random() < 0.8 else None,
                "By": by,
                "Urgent": chance.random() < 0.3,
            }
        )
    states = {name: {"MinTime": chance.choice([0.0, 0.4])} for name in names}
    machine = {"Initial": "A", "States": states, "Transitions": transitions}
    site = make_site(CHANNELS, controls=STOP, machines={"M": machine})
    _, found = compile_site(site)
    plant = Plant(site, reference.evaluate)
    (info,) = plant.program.machine_info
    rows = [
        (at, origin)
        for at, declared in enumerate(transitions)
        for origin in _origins(declared["From"])
    ]
    assert len(rows) == len(info.transitions)
    never = {
        (int(match[1]), match[2])
        for finding in found
        if finding.rule == "transition-shadowed"
        and (match := re.search(r"Transitions\[(\d+)\] From (.*) it is never", _line(finding)))
    }
    closed = {f.key.rpartition(".")[2] for f in found if f.rule == "state-unreachable"}
    for _ in range(200):
        asker = chance.choice(["operator", "remote", "schedule"])
        plant.engine.request(0, chance.randrange(4), asker)
        play(plant, chance)
        now = plant.engine.machine_now[0]
        if now["changed"] and now["by"] >= 0:
            assert rows[int(now["by"])] not in never
        assert plant.engine.mode(0) not in closed


def _origins(declared: str | list[str]) -> list[str]:
    names = [declared] if isinstance(declared, str) else declared
    return ["any state" if name == "*" else name for name in names]


def _line(finding: Finding) -> str:
    return f"{finding.key} {finding.message}"
