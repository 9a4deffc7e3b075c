"""The address space keeps to OPC 10000-3: references, types, and names that are unique."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gateway.opcua.nodes.space import Space
from tests.gateway.opcua.conformance_case import CHECKS, assert_whole, own
from tests.gateway.opcua.nodes_case import (
    DEVICES,
    MODEL,
    RULES,
    SITE,
    gateway_points,
    made_space,
    points_of,
    show,
)


@pytest.fixture(scope="module")
def space() -> Space:
    return made_space()


@pytest.mark.parametrize("check", CHECKS)
def test_the_space_keeps_to_the_standard(space: Space, check: Callable[[Space], None]) -> None:
    check(space)


@pytest.mark.parametrize(
    "points",
    [
        (),
        SITE[:3],
        points_of(*gateway_points()),
        points_of(*RULES, *DEVICES),
        points_of(*DEVICES[::2], *gateway_points(), *RULES[::2]),
        SITE,
    ],
)
def test_another_configuration_leaves_nothing_dangling(points: Any) -> None:
    space = made_space()
    foreign = len(space.aspace._nodes) - len(own(space))
    show(space, MODEL, points)
    assert_whole(space)
    assert len(space.aspace._nodes) - len(own(space)) == foreign
    show(space, MODEL, SITE)
    assert_whole(space)
    again = {node.to_string() for node in own(space)}
    assert again == {node.to_string() for node in own(made_space())}
