"""Condition objects as clients browse and read them, and which type a rule is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from asyncua import ua

from config.load import load_site
from config.model import AlarmRule
from gateway.opcua.conditions.classify import kind_of
from gateway.opcua.names import own_id, standard_id
from gateway.opcua.nodes.builder import HAS_COMPONENT, HAS_PROPERTY, HAS_RULE, HAS_TYPE
from safety.compile import require_program
from tests.gateway.opcua.conditions_case import RULES, Stand, body, points, row

I = ua.ObjectIds  # noqa: E741
A = ua.AttributeIds
SUBTYPE = standard_id(I.HasSubtype)
MANDATORY = standard_id(I.ModellingRule_Mandatory)
HOT = own_id("Alarms.Hot/Condition")

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stand() -> Stand:
    made = Stand()
    made.desk.rows = [row(tag, "normal") for tag in RULES]
    await made.settle()
    return made


def content(stand: Stand, node: ua.NodeId, attribute: A) -> Any:
    value = stand.aspace[node].attributes[attribute].value
    assert value is not None
    assert value.Value is not None
    return value.Value.Value


def children(stand: Stand, node: ua.NodeId) -> Iterator[tuple[str, ua.NodeId]]:
    for reference in stand.aspace[node].references:
        if reference.IsForward and reference.ReferenceTypeId in (HAS_COMPONENT, HAS_PROPERTY):
            name = content(stand, reference.NodeId, A.BrowseName)
            assert name.NamespaceIndex == 0
            yield name.Name, reference.NodeId


def mandatory(stand: Stand, node: ua.NodeId, before: str = "") -> Iterator[tuple[str, ua.NodeId]]:
    """What a type and those above it ask of each instance: path and declaration."""
    for reference in stand.aspace[node].references:
        if not reference.IsForward and reference.ReferenceTypeId == SUBTYPE:
            yield from mandatory(stand, reference.NodeId, before)
    for name, child in children(stand, node):
        rules = [r.NodeId for r in stand.aspace[child].references if r.ReferenceTypeId == HAS_RULE]
        if MANDATORY in rules:
            yield f"{before}{name}", child
            yield from mandatory(stand, child, f"{before}{name}/")


def tree(stand: Stand, node: ua.NodeId, before: str = "") -> Iterator[tuple[str, ua.NodeId]]:
    for name, child in children(stand, node):
        yield f"{before}{name}", child
        if content(stand, child, A.NodeClass) != ua.NodeClass.Method:
            yield from tree(stand, child, f"{before}{name}/")


def read(stand: Stand, path: str, tag: str = "Alarms.Hot") -> Any:
    node = own_id(f"{tag}/Condition/{path}")
    value = stand.aspace[node].attributes[A.Value]
    assert value.value_callback is not None
    return value.value_callback(node, A.Value)


@pytest.mark.parametrize("tag", RULES)
async def test_a_condition_has_what_its_type_asks_for(stand: Stand, tag: str) -> None:
    condition = own_id(f"{tag}/Condition")
    (type_id,) = (
        r.NodeId for r in stand.aspace[condition].references if r.ReferenceTypeId == HAS_TYPE
    )
    shown = dict(tree(stand, condition))
    asked = {path for path, _ in mandatory(stand, type_id) if not path.endswith("Arguments")}
    assert asked <= set(shown), asked - set(shown)
    for path, node in shown.items():
        if content(stand, node, A.NodeClass) == ua.NodeClass.Variable:
            assert node == own_id(f"{tag}/Condition/{path}")
            kind = content(stand, node, A.DataType)
            value = read(stand, path, tag)
            if value.Value is not None and kind.Identifier <= 25:
                assert value.Value.VariantType.value == kind.Identifier, path
            assert content(stand, node, A.AccessLevel) == 1


async def test_the_parts_lead_back_to_the_condition(stand: Stand) -> None:
    for path in ("AckedState", "AckedState/Id", "ShelvingState/CurrentState/Id"):
        node = own_id(f"Alarms.Hot/Condition/{path}")
        back = [r for r in stand.aspace[node].references if not r.IsForward]
        above = f"Alarms.Hot/Condition/{path}".rpartition("/")[0]
        assert [r.NodeId for r in back] == [own_id(above)]


@pytest.mark.parametrize(
    "name", ["Alarms.Hot/Condition/No", "Alarms.None/Condition/AckedState", "Alarms.Hot/Condition/"]
)
async def test_what_is_not_there_is_not_made(stand: Stand, name: str) -> None:
    node = own_id(name)
    assert node not in stand.aspace
    assert stand.aspace.get(node) is None
    with pytest.raises(KeyError):
        stand.aspace[node]


async def test_events_are_found_from_the_server_down(stand: Stand) -> None:
    def targets(node: ua.NodeId, kind: int) -> list[ua.NodeId]:
        references = stand.aspace[node].references
        wanted = standard_id(kind)
        return [r.NodeId for r in references if r.IsForward and r.ReferenceTypeId == wanted]

    site, oven = own_id("/"), own_id("/Oven")
    assert targets(standard_id(I.Server), I.HasNotifier) == [site]
    assert targets(site, I.HasNotifier).count(oven) == 1
    assert own_id("Oven.Temperature") in targets(oven, I.HasEventSource)
    assert HOT in targets(own_id("Oven.Temperature"), I.HasCondition)
    # It reads points of two equipments, so it is the site's.
    assert own_id("Alarms.Differ/Condition") in targets(site, I.HasCondition)
    assert own_id("Alarms.Both/Condition") in targets(oven, I.HasCondition)


async def test_values_are_those_of_the_last_event(stand: Stand) -> None:
    inactive = read(stand, "LimitState/CurrentState")
    assert inactive.Value is None
    assert inactive.StatusCode.value == ua.StatusCodes.BadStateNotActive
    until_ns = stand.clock.utc_ns() + 60_000_000_000
    stand.hear(body("unacknowledged"))
    await stand.settle()
    assert read(stand, "ActiveState/Id").Value == ua.Variant(True)
    assert read(stand, "LimitState/CurrentState").Value.Value.Text == "High"
    assert read(stand, "EventId").Value.Value == stand.told[-1].event_id
    stand.hear(body("shelved", "shelved", until_utc_ns=until_ns))
    await stand.settle()
    left_ms = read(stand, "ShelvingState/UnshelveTime").Value.Value
    assert 0 < left_ms <= 60_000


# -- types -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "type_id", "limits", "states"),
    [
        ({"When": "Oven.Temperature >= 900"}, 9482, {"High": 900}, {"Alarm": "High"}),
        ({"When": "Oven.Temperature < -5"}, 9482, {"Low": -5}, {"Alarm": "Low"}),
        ({"When": "1173.15 [K] <= Oven.Temperature"}, 9482, {"High": 900}, {"Alarm": "High"}),
        (
            {
                "Rule": {"if": [{"<": [{"var": "t"}, 5]}, "LL", {"<": [{"var": "t"}, 9]}, "L"]},
                "Data": {"t": "$LiveData/Oven/Temperature"},
            },
            9482,
            {"LowLow": 5, "Low": 9},
            {"LL": "LowLow", "L": "Low"},
        ),
        ({"When": "Oven.Temperature >= 900 [kW]"}, 2915, {}, {}),
        ({"When": "Oven.Temperature == 900"}, 2915, {}, {}),
        ({"When": "rate(Oven.Temperature, 10s) > 5"}, 2915, {}, {}),
        ({"When": "Oven.Temperature > Tank.Temperature"}, 2915, {}, {}),
        ({"When": "quality(Oven.Temperature) == 2"}, 2915, {}, {}),
        ({"When": "Oven.Door"}, 10637, {}, {}),
        ({"When": "Oven.Temperature > 0"}, 9482, {"High": 0}, {"Alarm": "High"}),
        (
            {"When": "t > 5 for 5s", "Data": {"t": "$LiveData/Oven/Temperature"}},
            9482,
            {"High": 5},
            {"Alarm": "High"},
        ),
        ({"When": "(Oven.Temperature < 1e2) for 0.5 min"}, 9482, {"Low": 100}, {"Alarm": "Low"}),
        ({"When": "not Oven.Door"}, 2915, {}, {}),
        ({"Rule": {"==": [{"var": "d"}, 1]}, "Data": {"d": "$LiveData/Oven/Door"}}, 10637, {}, {}),
        ({"When": "(Oven.Door == 'Open') for 5s"}, 10637, {}, {}),
        ({"When": "Oven.Valve == 'Stuck'"}, 10523, {}, {}),
        ({"When": "Oven.Door == 'Open' and Oven.Door == 'Open'"}, 2915, {}, {}),
        ({"When": "this is no rule"}, 2915, {}, {}),
    ],
)
async def test_the_type_of_an_alarm_is_read_off_its_rule(
    rule: dict[str, Any], type_id: int, limits: dict[str, float], states: dict[str, str]
) -> None:
    kind = kind_of(AlarmRule(**rule), {point.tag: point for point in points()})
    assert kind.type_id == type_id
    assert kind.limits == pytest.approx(limits)
    assert kind.states == states


async def test_inputs_are_those_that_the_compiler_finds() -> None:
    """The link process has no parser of rules; what it recognises must not differ."""
    site, _ = load_site(Path(__file__).parents[3] / "config" / "sites" / "soec-lab")
    assert site is not None
    program = require_program(site)
    by_tag = {point.tag: point for point in site.points}
    rules = site.personality.alarms
    assert rules
    for info in program.info:
        if info.kind == "alarm":
            kind = kind_of(rules[info.name], by_tag)
            known = {tag for tag in kind.inputs if tag in by_tag}
            read = {site.points[index - 1].tag for index in info.inputs}
            assert known == read, info.name


@pytest.mark.parametrize(
    ("when", "inputs"),
    [
        ("Oven.Temperature >= 900 hysteresis 10 [K] for 5s", ["Oven.Temperature"]),
        (
            "`Oven`.Temperature > 5 and `Tank.Temperature` > 6",
            ["Oven.Temperature", "Tank.Temperature"],
        ),
        (
            "max($LiveData/Oven/Temperature, t) > 5.5 [kW/min]",
            ["Oven.Temperature", "Tank.Temperature"],
        ),
        ("Oven.Door == 'Tank.Temperature'", ["Oven.Door"]),
        ("alarm(Hot)", []),
    ],
)
async def test_the_points_of_a_rule(when: str, inputs: list[str]) -> None:
    rule = AlarmRule(When=when, Data={"t": "$LiveData/Tank/Temperature"})
    kind = kind_of(rule, {point.tag: point for point in points()})
    assert list(kind.inputs) == inputs
