"""Tables and messages: nothing is cut off, and text from elsewhere is shown as it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, Group, RenderableType

from gateway.cli import output
from gateway.cli.output import console, counted, printable, table, typed, typed_command
from gateway.cli.view import small_view, status_view
from tests.cli.test_operate import STATUS


def drawn(what: RenderableType, width: int) -> str:
    """What a terminal of that width shows."""
    screen = Console(width=width, markup=False, emoji=False, highlight=False)
    with screen.capture() as captured:
        screen.print(what)
    return captured.get()


def test_a_number_is_never_cut_on_a_narrow_terminal() -> None:
    shown = table("POINT", "VALUE", "UNITS", "STATUS", "AGE ms", right=("VALUE", "AGE ms"))
    status = "UncertainNoCommunicationLastUsableValue"
    shown.add_row("Stack.Hydrogen_Valve_Position", "Closed (0)", "degC", status, "120000")
    shown.add_row("Stack.Cell_Temperature", "801.234", "degC", "Good", "120")
    text = drawn(shown, 80)
    for word in ("801.234", "120000", "Closed (0)", "AGE ms"):
        assert word in text
    assert max(map(len, text.splitlines())) <= 80
    # What folds goes on in the next line of its column.
    assert "".join(line[42:75].strip() for line in text.splitlines()).count("UsableValue") == 1


def status_with(**device: Any) -> dict[str, Any]:
    one = STATUS["devices"]["Stack"]
    devices = {"Stack": one | {"polls": 123456, "errors": 12345}, "Gas": one | device}
    return {**STATUS, "devices": devices}


def test_the_status_of_devices_fits_80_columns_with_their_errors() -> None:
    error = "127.0.0.1:40165: [Errno 111] Connect call failed ('127.0.0.1', 40165)"
    lines = drawn(status_view(status_with(last_error=error, connected=False)), 80).splitlines()
    head = next(line for line in lines if line.startswith("DEVICE"))
    assert head.rstrip().endswith("POLL ms")
    assert any("123456" in line and "12345 " in line for line in lines)
    assert f"Gas: {error}" in [line.rstrip() for line in lines]


@pytest.mark.parametrize("text", ["[bar]", "[/bar]", "m3 [i]h[/i]", ":key:", "a:+1:b"])
def test_text_from_a_site_is_no_markup(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = table("POINT", "UNITS")
    shown.add_row("Stack.P", text)
    console().print(shown)
    assert text in capsys.readouterr().out


def test_the_small_view_fits_the_lines_it_is_given_and_shows_trips_first() -> None:
    states = [{"name": f"S{n}", "kind": "state", "level": "x", "latched": False} for n in range(9)]
    status = {**STATUS, "rules": [*states, *STATUS["rules"]]}
    lines = drawn(Group(*small_view(status, 9)), 80).splitlines()
    assert len(lines) == 9
    assert lines[5].startswith("trip Control/Hot: HeatOff, latched")
    assert lines[8].strip() == "and 7 more active rules"
    assert "more" not in drawn(Group(*small_view(status, 15)), 80)


def test_both_views_show_the_control_states() -> None:
    status = {**STATUS, "machines": [{"name": "Stack/Operation", "state": "Heat_Up"}]}
    lines = drawn(Group(*small_view(status, 9)), 80).splitlines()
    assert any(line.rstrip() == "control states  Stack/Operation: Heat_Up" for line in lines)
    assert any(
        line.split() == ["Stack/Operation", "Heat_Up"]
        for line in drawn(status_view(status), 80).splitlines()
    )


def test_a_long_error_takes_one_line_of_the_small_view() -> None:
    status = status_with(last_error="x" * 200)
    lines = drawn(Group(*small_view(status, 20)), 80).splitlines()
    assert len(lines) == 7
    assert "123456   12345" in lines[2]
    assert "xxx" in lines[3]


def link_with(**changes: Any) -> dict[str, Any]:
    link = {"connected": True, "url": "mqtt://b:1883", "opcua": "opc.tcp://h:4840/g", "backlog": 0}
    return {**STATUS, "link": {**link, **changes}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ["connected, mqtt://b:1883", "opc.tcp://h:4840/g"]),
        (
            {"connected": False, "last_error": "mqtt://b:1883: refused"},
            ["not connected, mqtt://b:1883: refused"],
        ),
        ({"opcua": "", "reason": "port in use"}, ["not listening: port in use"]),
        ({"opcua": "", "opcua_starts": True}, ["starting"]),
        ({"opcua": "", "reason": "refused", "last_error": "refused"}, ["OPC UA", "not listening"]),
    ],
)
def test_the_status_says_where_the_link_is_and_why_not(
    changes: dict[str, Any], words: list[str]
) -> None:
    text = drawn(status_view(link_with(**changes)), 100)
    for word in words:
        assert word in text
    assert "listening: refused" not in text


def test_the_start_up_trip_names_what_it_waits_for() -> None:
    tags = [f"Stack.T{n}" for n in range(7)]
    text = drawn(status_view({**STATUS, "startup": True, "waiting_for": tags}), 200)
    assert "until these are good: Stack.T0, Stack.T1," in text
    assert "Stack.T4 and 2 more" in text
    assert "START-UP TRIP" in drawn(status_view({**STATUS, "startup": True}), 200)


def test_counts_have_a_plural() -> None:
    assert [counted(n, "error") for n in (0, 1, 2)] == ["0 errors", "1 error", "2 errors"]


def test_a_command_is_shown_as_it_can_be_typed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(output.shutil, "which", lambda _: None)
    for argument, shown in (
        (".venv/bin/gatepost", ".venv/bin/gatepost"),
        (str(tmp_path / "bin" / "gatepost"), "bin/gatepost"),
        ("/opt/my tools/gatepost", "'/opt/my tools/gatepost'"),
        ("gatepost", "gatepost"),
        ("/x/gateway/cli/app.py", f"{typed(Path(sys.executable))} -m gateway.cli.app"),
    ):
        monkeypatch.setattr(sys, "argv", [argument])
        assert typed_command() == shown
    monkeypatch.setattr(output.shutil, "which", lambda _: "/opt/bin/gatepost")
    monkeypatch.setattr(sys, "argv", ["/opt/bin/gatepost"])
    assert typed_command() == "gatepost"


def test_what_a_terminal_would_obey_is_spelled_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert printable("Größe 5 °C\tok\n") == "Größe 5 °C\tok\n"
    assert printable("a\x1b[2J\r\x9bm\u202e\u2028b") == r"a\x1b[2J\r\x9bm\u202e\u2028b"
    assert printable("two\nlines", "") == r"two\nlines"
    console().print("a\x1b[2Jb")
    shown = table("A")
    shown.add_row("c\x1b]0;d\x07")
    console().print(shown)
    console(stderr=True).print(status_view(status_with(last_error="\x1b[2J\ngone")))
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err
    assert r"a\x1b[2Jb" in said.out
    assert r"c\x1b]0;d\x07" in said.out
    assert r"\x1b[2J\ngone" in said.err


def test_without_an_output_there_is_no_traceback() -> None:
    command = f"{sys.executable} -m gateway.cli.app templates >&-"
    done = subprocess.run(["sh", "-c", command], check=False, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_reader_that_has_had_enough_gets_no_traceback() -> None:
    # `head -c 1` would do the same, but a pipe may hold the whole table before head has read.
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "gateway.cli.app", "templates"]
    done = subprocess.run(command, check=False, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert (done.returncode, done.stderr) == (2, "")
