"""Every command that the documents show can be run, and every command is shown."""

from __future__ import annotations

import shlex
from typing import Any

import pytest
import typer

from tests.docs import reading
from tests.tidy import repository


def documents() -> list[tuple[str, str]]:
    """README.md and docs/*.md."""
    return [
        (path, text)
        for path, text in repository.texts(".md")
        if path == "README.md" or (path.startswith("docs/") and path.count("/") == 1)
    ]


def shown() -> list[reading.Line]:
    return [line for path, text in documents() for line in reading.commands(path, text)]


@pytest.fixture(scope="module")
def command_line() -> Any:
    from gateway.cli.app import app

    return typer.main.get_command(app)


@pytest.fixture(scope="module")
def targets() -> set[str]:
    return reading.make_targets(repository.text("Makefile") or "")


def command_of(line: reading.Line) -> tuple[str, ...]:
    """The words of the `gatepost` command that a line runs; `make demo` runs one as well."""
    if line.words[:2] != ("make", "demo"):
        return line.words
    given = " ".join(word[5:] for word in line.words if word.startswith("ARGS="))
    return ("gatepost", "demo", *shlex.split(given))


def test_documents_show_commands() -> None:
    assert {line.words[0] for line in shown()} == {"make", "gatepost"}


def test_make_commands(targets: set[str]) -> None:
    faults = [
        f"{line}: {fault}"
        for line in shown()
        if line.words[0] == "make" and (fault := reading.make_fault(line.words, targets))
    ]
    assert not faults, "\n" + "\n".join(faults)


def test_gatepost_commands(command_line: Any) -> None:
    faults = []
    for line in shown():
        words = command_of(line)
        if words[0] == "gatepost":
            fault = reading.command_fault(words, command_line, complete=line.fenced)
            faults += [f"{line}: {fault}"] if fault else []
    assert not faults, "\n" + "\n".join(faults)


def test_every_command_is_shown(command_line: Any) -> None:
    said = {" ".join(command_of(line)) + " " for line in shown()}
    silent = [
        name
        for name in reading.command_names(command_line)
        if not any(line.startswith(name + " ") for line in said)
    ]
    assert not silent, f"no document shows {silent}"


def test_every_target_is_shown(targets: set[str]) -> None:
    said = {word for line in shown() if line.words[0] == "make" for word in line.words[1:]}
    assert not targets - said - {"help"}, "make targets that no document shows"
