"""Tables of bridges: where lines lead, and that a loop is found exactly where there is one."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.bridges import Line, Tangled, lines_of, loops, overlaps
from config.broker import broker_of
from config.filters import levels_of, matches
from config.link import BridgeEntry, BridgeTopic, BrokerConnection

NEAR, FAR = "mqtt://127.0.0.1:1883", "mqtts://bal.example.org"
TOPICS = [
    "/".join(levels) for depth in (1, 2, 3, 4) for levels in product(("a", "b"), repeat=depth)
]


def table(*topics: dict[str, Any], near: str = NEAR, far: str = FAR, name: str = "b") -> list[Line]:
    entry = BridgeEntry(
        Local=BrokerConnection(URL=near),
        Remote=BrokerConnection(URL=far),
        Topics=[BridgeTopic(**topic) for topic in topics],
    )
    return lines_of(name, entry)


def lead(line: Line, topic: str) -> str | None:
    if not matches(line.taken, levels_of(topic)):
        return None
    return "/".join(line.image(levels_of(topic)))


@pytest.mark.parametrize(
    ("taken", "to", "topic", "expected"),
    [
        ("platone/dsotp/#", "/bal/", "platone/dsotp/pmu/1", "/bal/pmu/1"),  # the seed's example
        ("platone/dsotp/#", "bal", "platone/dsotp/pmu/1", "bal/pmu/1"),
        ("platone/dsotp/#", "bal/", "platone/dsotp", "bal"),
        ("platone/#", "", "platone/x", "platone/x"),
        ("a/+/c", "x/y/", "a/b/c", "x/y/b/c"),
        ("a/b", "x/y", "a/b", "x/y"),
        ("a/b", "x/", "a/b", "x/"),
        ("#", "all/", "a/b", "all/a/b"),
        ("a/b", "x", "a/c", None),
    ],
)
def test_a_line_replaces_what_stands_in_front_of_its_first_wildcard(
    taken: str, to: str, topic: str, expected: str | None
) -> None:
    (line,) = table({"From": taken, "To": to})
    assert lead(line, topic) == expected


def test_a_loop_names_both_lines_and_a_topic() -> None:
    lines = table(
        {"From": "platone/#", "To": "bal/"},
        {"From": "bal/cmd/#", "To": "platone/", "Direction": "out"},
    )
    (loop,) = loops(lines)
    assert loop.first.place == "Bridges.b.Topics[0]"
    assert loop.last.place == "Bridges.b.Topics[1]"
    assert loop.topic == "platone"


def test_both_directions_of_one_tree_are_a_loop_and_of_two_are_none() -> None:
    both = table({"From": "x/#"}, {"From": "x/#", "Direction": "out"})
    assert loops(both)
    apart = table({"From": "down/#"}, {"From": "up/#", "Direction": "out"})
    assert not loops(apart)


def test_two_bridges_can_close_a_ring_that_none_has_alone() -> None:
    third = "mqtt://third"
    lines = [
        *table({"From": "a/#", "To": "b/"}, name="one"),
        *table({"From": "b/#", "To": "c/", "Direction": "out"}, far=third, name="two"),
    ]
    assert not loops(lines)
    lines += table({"From": "c/#", "To": "a/", "Direction": "out"}, near=third, name="three")
    assert loops(lines)


def test_a_broker_bridged_to_itself_is_one_broker() -> None:
    near, far = "mqtt://localhost", "mqtt://127.0.0.1:1883"
    assert not loops(table({"From": "a/#", "To": "b/"}, near=near, far=far))
    (loop,) = loops(table({"From": "a/#", "To": "a/more/"}, near=near, far=far))
    assert loop.first == loop.last
    assert broker_of("mqtt://[::1]:1883") == broker_of(near)
    assert broker_of("mqtts://x") != broker_of("mqtt://x")
    assert broker_of("mqtt://x:no")  # another check's


def test_lines_that_take_the_same_topic_are_found() -> None:
    lines = table({"From": "a/+/c"}, {"From": "a/b/#"}, {"From": "a/b/#", "Direction": "out"})
    ((one, other, topic),) = overlaps(lines)
    assert (one, other) == (lines[0], lines[1])
    assert topic == "a/b/c"


def test_tables_beyond_proof_are_refused() -> None:
    lines = [
        Line(f"{depth}.{number}", (str(depth), 1), (str(depth + 1), 1), ("#",), 0, ())
        for depth in range(12)
        for number in range(4)
    ]
    with pytest.raises(Tangled):
        loops(lines)


LEVELS = st.lists(st.sampled_from(("a", "b", "+")), min_size=1, max_size=2)
ROWS = st.fixed_dictionaries(
    {
        "From": st.builds(
            lambda levels, rest: "/".join((*levels, "#") if rest else levels), LEVELS, st.booleans()
        ),
        "To": st.sampled_from(("", "a", "b", "a/b", "a/a")),
        "Direction": st.sampled_from(("in", "out")),
    }
)


def comes_back(lines: list[Line], topic: str, broker: Any, passed: tuple[Line, ...]) -> bool:
    """Whether a message can pass a line twice, by sending it."""
    for line in lines:
        there = lead(line, topic) if line.source == broker else None
        if there is None:
            continue
        if line in passed or comes_back(lines, there, line.destination, (*passed, line)):
            return True
    return False


@settings(max_examples=300)
@given(st.lists(ROWS, min_size=1, max_size=4), st.booleans())
def test_a_table_without_a_finding_lets_no_message_come_back(
    rows: list[dict[str, str]], one_broker: bool
) -> None:
    lines = table(*rows, far=NEAR if one_broker else FAR)
    found = loops(lines)
    sent = [(t, b) for t in TOPICS for b in {line.source for line in lines}]
    going_round = [t for t, broker in sent if comes_back(lines, t, broker, ())]
    assert bool(going_round) == bool(found), (rows, going_round)
