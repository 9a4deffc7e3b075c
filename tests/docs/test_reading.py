"""The document reader finds what is wrong: planted faults for tests/docs/test_commands.py."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
import typer

from tests.docs import reading


@pytest.fixture(scope="module")
def command_line() -> Any:
    app = typer.Typer()
    store = typer.Typer()
    app.add_typer(store, name="store")

    @app.callback()
    def main(verbose: Annotated[bool, typer.Option("--verbose")] = False) -> None: ...

    @app.command()
    def check(site: str, json: Annotated[bool, typer.Option("--json")] = False) -> None: ...

    @store.command()
    def show(limit: Annotated[int, typer.Option("--limit", "-n")] = 3) -> None: ...

    @app.command(hidden=True)
    def inner() -> None: ...

    return typer.main.get_command(app)


def words_of(text: str) -> list[tuple[str, ...]]:
    return [line.words for line in reading.commands("a.md", text)]


def test_commands_of_blocks_and_spans() -> None:
    text = (
        "Run `make lint` first.\n\n```sh\n$ gatepost check \\\n    site --json | jq . > out\n```\n"
    )
    assert words_of(text) == [("gatepost", "check", "site", "--json"), ("make", "lint")]


def test_commands_in_lists_and_behind_assignments() -> None:
    text = '```\ncd a && make demo ARGS="--json"; A=1 sudo .venv/bin/gatepost check x  # why\n```\n'
    assert words_of(text) == [("make", "demo", "ARGS=--json"), ("gatepost", "check", "x")]


def test_other_languages_and_prose_are_no_commands() -> None:
    assert words_of("make it so\n\n```python\nmake = 1\n```\n\n```\nit doesn't make a\n```\n") == []


def test_output_in_a_console_is_no_command() -> None:
    assert words_of("```console\n$ make a\ngatepost 0.1\n```\n") == [("make", "a")]


def test_line_numbers() -> None:
    (line,) = reading.commands("a.md", "one\n\n```\ntwo\nmake x\n```\n")
    assert str(line) == "a.md:5: make x"


def test_make_faults() -> None:
    targets = reading.make_targets("demo: venv ## a\n\t@b\nvenv:\n\t@c\n")
    assert targets == {"demo"}
    assert reading.make_fault(("make", "demo", "ARGS=-x", "-s"), targets) == ""
    assert reading.make_fault(("make", "dmeo"), targets)


@pytest.mark.parametrize(
    "good",
    [
        "gatepost",
        "gatepost --verbose check site",
        "gatepost check site --json",
        "gatepost check --help",
        "gatepost store show -n 5",
        "gatepost store show --limit=5",
    ],
)
def test_good_commands(command_line: Any, good: str) -> None:
    assert reading.command_fault(tuple(good.split()), command_line, complete=True) == ""


@pytest.mark.parametrize(
    "bad",
    [
        "gatepost chekc site",
        "gatepost --quiet check site",
        "gatepost check site --jsn",
        "gatepost check site other",
        "gatepost check --json",
        "gatepost store list",
        "gatepost store show --limit",
    ],
)
def test_planted_commands(command_line: Any, bad: str) -> None:
    assert reading.command_fault(tuple(bad.split()), command_line, complete=True)


def test_prose_may_leave_arguments_out(command_line: Any) -> None:
    words = ("gatepost", "check", "--json")
    assert reading.command_fault(words, command_line, complete=True)
    assert reading.command_fault(words, command_line, complete=False) == ""
    inline, fenced = reading.commands("a.md", "```\nmake a\n```\n`make b`\n")[::-1]
    assert (inline.fenced, fenced.fenced) == (False, True)


def test_command_names(command_line: Any) -> None:
    assert sorted(reading.command_names(command_line)) == ["gatepost check", "gatepost store show"]


def test_anchors() -> None:
    text = "# A `b` c-d!\n## Two\n## Two\n```\n# no\n```\n"
    assert reading.anchors(text) == {"a-b-c-d", "two", "two-1"}
