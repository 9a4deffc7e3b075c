"""docs/cli.md and docs/demo.md against the command line and the report."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from drivers.sim.plant import SCENARIOS, TIME_SCALE
from gateway.cli.app import app
from gateway.cli.demo_report import Report

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def section(command: str) -> str:
    """The section of docs/cli.md on one command."""
    text = Path("docs/cli.md").read_text()
    found = re.search(rf"^## {command}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"docs/cli.md has no section on {command}"
    return found[1]


def options_of(command: Any) -> set[str]:
    """Every option of a command, or of all commands of a group."""
    options = {
        option
        for parameter in command.params
        for option in parameter.opts
        if option.startswith("--")
    }
    for part in getattr(command, "commands", {}).values():
        options |= options_of(part)
    return options


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_option_is_documented_and_no_other(name: str) -> None:
    options = options_of(COMMANDS[name]) - {"--help"}
    documented = set(re.findall(r"^\| `(--[a-z-]+)", section(name), re.MULTILINE))
    assert documented == options


def test_every_key_of_the_report_is_documented_and_no_other() -> None:
    text = Path("docs/demo.md").read_text()
    table = text[text.index("| key | meaning |") :].split("\n\n")[0]
    assert re.findall(r"^\| `(\w+)`", table, re.MULTILINE) == list(Report("x").figures())


def test_scenarios_and_time_scale_of_the_plant_are_those_of_the_page() -> None:
    text = Path("docs/demo.md").read_text()
    assert f"run {TIME_SCALE:g} times faster" in text
    assert all(f"`{name}`" in text for name in SCENARIOS)
