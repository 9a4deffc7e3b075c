"""The state table in docs/alarms.md is the one that the program works with."""

from __future__ import annotations

import json
import re

from safety import alarm_states as s
from safety.compile import compile_site
from tests.safety.sites import make_site
from tests.tidy import repository

PAGE = repository.text("docs/alarms.md") or ""


def rows() -> list[list[str]]:
    """The cells of every table row of the page."""
    return [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in PAGE.splitlines()
        if line.startswith("|")
    ]


def test_the_letters_name_the_states() -> None:
    named = {row[0]: row[1] for row in rows() if len(row) == 3 and row[0] in set(s.LETTERS)}
    assert named == dict(zip(s.LETTERS, s.STATES, strict=True))


def test_every_cell_is_the_table_s() -> None:
    (events,) = (row[1:] for row in rows() if row[1] == s.ACTIVATES)
    assert set(events) == {row.event for row in s.TABLE}
    shown = {row[0]: row[1:] for row in rows() if len(row) == len(events) + 1}
    for origin, letter in enumerate(s.LETTERS):
        for event, cell in zip(events, shown[letter], strict=True):
            assert cell == wanted(origin, event), f"{letter}: {event}"


def wanted(origin: int, event: str) -> str:
    found = [row for row in s.TABLE if (row.origin, row.event) == (origin, event)]
    if not found:
        return ""
    if found[0].when:
        return "rule"
    (row,) = found
    return s.LETTERS[row.target] + ("!" if row.announced else "")


def test_the_example_is_a_site_without_findings() -> None:
    (example,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    parts = json.loads(example)
    site = make_site(
        {"Oven.Temperature": {}, "Oven.Running": {"Type": "Digital"}}, parts["AlarmStates"]
    )
    program, findings = compile_site(site)
    assert findings == []
    assert program is not None
    assert program.info[0].suppress >= 0


def test_what_rule_means_is_the_table_s() -> None:
    for row in s.TABLE:
        if row.when:
            targets = {s.CLEAR: "A", s.ACTIVE: "B", s.LATCHED: "E", s.DESIGN: "H"}
            assert s.LETTERS[row.target] == targets[row.when]
            assert row.announced == (row.when == s.ACTIVE)


def test_the_arrows_of_the_diagram_are_transitions() -> None:
    arrows = re.findall(r"^ +([A-F]) --> ([A-F]): (.+)$", PAGE, re.MULTILINE)
    table = {(s.LETTERS[row.origin], s.LETTERS[row.target], row.event) for row in s.TABLE}
    drawn = {(origin, target, text.partition(",")[0]) for origin, target, text in arrows}
    assert drawn <= table
    moves = {(o, t) for o, t, event in table if o in "ABCDEF" and t in "ABCDEF" and o != t}
    assert {(o, t) for o, t, _ in drawn} == moves - {("A", "C"), ("F", "C")}  # restarts
