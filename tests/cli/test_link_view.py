"""The links in ``gatepost status``."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from gateway.cli.link_view import links_view
from gateway.cli.operate import waits

UP: dict[str, Any] = {
    "connected": True,
    "url": "mqtts://broker.example",
    "backlog_records": 12_000,
    "empty_in_s": 90.0,
    "held_back": "",
    "last_error": "",
}
DOWN = {**UP, "connected": False, "last_error": "broker mqtts://scada: refused", "empty_in_s": None}


def shown(links: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=200, color_system=None)
    for part in links_view({"link": {"links": links}}):
        console.print(part)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_each_link_has_a_line_with_its_state_its_backlog_and_why_it_waits() -> None:
    held = {**UP, "held_back": "a backlog waits for BacklogHours"}
    lines = shown({"cloud": UP, "scada": DOWN, "night": held}).splitlines()
    cloud, scada, night = lines[-3:]
    assert "up" in cloud
    assert "1 min 30 s" in cloud
    assert "down" in scada
    assert "refused" in scada
    assert "BacklogHours" in night


@pytest.mark.parametrize("links", [{}, {"cloud": UP}, {"cloud": DOWN}])
def test_a_cloud_alone_needs_no_table(links: dict[str, Any]) -> None:
    assert shown(links) == ""
    assert links_view({"link": None}) == []


def test_a_cloud_alone_that_holds_something_back_says_so() -> None:
    assert "BacklogHours" in shown({"cloud": {**UP, "held_back": "waits for BacklogHours"}})


def test_what_is_held_back_by_intent_is_no_stalled_ingest() -> None:
    old = {"connected": True, "backlog": 3, "backlog_oldest_utc_ns": 1}
    assert waits({"link": old}, 10**19)
    assert not waits({"link": {**old, "held_back": "a backlog waits"}}, 10**19)
