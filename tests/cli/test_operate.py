"""``status``, ``read`` and ``write`` against a scripted field process, and against none."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from config.load import require_site
from config.status import BAD_TIMEOUT
from gateway import local
from gateway.cli.operate import parse_value
from gateway.cli.output import CommandFailed
from gateway.core.paths import StatePaths

LAB = Path("config/sites/soec-lab")
Gatepost = Callable[..., Any]

STATUS: dict[str, Any] = {
    "site": "soec-lab",
    "epoch": 7,
    "config_hash": "0" * 16,
    "points": 3,
    "seq": 40,
    "taken": 38,
    "startup": False,
    "devices": {
        "Stack": {
            "protocol": "ModbusTcpGeneric",
            "points": 2,
            "polls": 12,
            "errors": 1,
            "skipped": 0,
            "writes": 3,
            "reconnects": 0,
            "connected": True,
            "last_error": "",
            "poll_ms": 1.25,
        }
    },
    "scan": {
        "period_ms": 50.0,
        "count": 100,
        "extra": 3,
        "overruns": 0,
        "lateness_p50_ms": 0.1,
        "lateness_p99_ms": 1.0,
    },
    "rules": [
        {"name": "Control/Hot", "kind": "trip", "level": "HeatOff", "latched": True},
    ],
    "backlog": 2.0,
    "link": {"connected": False, "backlog": 2, "store_ok": False, "reason": "the disk is full"},
}
POINTS: dict[str, dict[str, Any]] = {
    "Stack.Temperature": {"value": 801.25, "units": "degC", "states": [], "status": 0},
    "Stack.Heater": {"value": 1.0, "units": "", "states": ["Off", "On"], "status": 0},
    "Stack.Lost": {"value": float("nan"), "units": "V", "states": [], "status": BAD_TIMEOUT},
}


class ScriptedField:
    """Speaks the field's side of the local stream; remembers the commands."""

    def __init__(self) -> None:
        self.commands: list[Mapping[str, Any]] = []
        self.steps: list[dict[str, Any]] = []
        self.close_early = False
        self.status = STATUS

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (message := await local.receive(reader)) is not None:
            if self.close_early:
                break
            for answer in self.answers(message):
                await local.send(writer, answer)
        writer.close()

    def answers(self, message: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if message["type"] == "status":
            yield {"type": "status", "status": self.status}
        elif message["type"] == "read":
            tags = message["tags"] or list(POINTS)
            unknown = [tag for tag in tags if tag not in POINTS]
            if unknown:
                yield {"type": "error", "reason": f"no such point: {', '.join(unknown)}"}
                return
            stamps = {"utc_ns": 5, "age_ms": 12.0}
            yield {"type": "read", "points": [{"tag": t, **POINTS[t], **stamps} for t in tags]}
        else:
            command = message["command"]
            self.commands.append(command)
            for step in self.steps:
                body = {"tag": command["tag"], "value": command["value"], "reason": "", **step}
                yield {"type": "receipt", "receipt": body}
            yield {"type": "end"}


@pytest.fixture
def field(tmp_path: Path) -> Iterator[ScriptedField]:
    """A scripted field process behind the socket of the state folder `tmp_path`."""
    scripted = ScriptedField()
    loop = asyncio.new_event_loop()
    path = str(StatePaths(tmp_path).field_socket)
    server = loop.run_until_complete(asyncio.start_unix_server(scripted.serve, path))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield scripted

    async def close() -> None:
        server.close()
        await asyncio.sleep(0.05)  # the sessions see the end of their clients

    asyncio.run_coroutine_threadsafe(close(), loop).result(5)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)
    loop.close()


def test_status_shows_devices_rules_and_what_is_wrong(
    gatepost: Gatepost, field: ScriptedField, tmp_path: Path
) -> None:
    done = gatepost("status", LAB, "--state", tmp_path)
    assert done.status == 0
    for words in (
        "soec-lab",
        "Stack",
        "ModbusTcpGeneric",
        "Control/Hot",
        "latched",
        "disk is full",
    ):
        assert words in done.out


def test_status_as_json_is_what_the_field_said(
    gatepost: Gatepost, field: ScriptedField, tmp_path: Path
) -> None:
    assert json.loads(gatepost("status", LAB, "--state", tmp_path, "--json").out) == STATUS


def test_read_shows_values_states_and_status(
    gatepost: Gatepost, field: ScriptedField, tmp_path: Path
) -> None:
    done = gatepost("read", LAB, "Stack.Temperature", "Stack.Heater", "--state", tmp_path)
    assert done.status == 0
    assert "801.25" in done.out
    assert "On (1)" in done.out
    assert "Stack.Lost" not in done.out


def test_read_without_a_point_shows_all_and_json_has_null_for_no_value(
    gatepost: Gatepost, field: ScriptedField, tmp_path: Path
) -> None:
    rows = json.loads(gatepost("read", LAB, "--state", tmp_path, "--json").out)
    assert [row["tag"] for row in rows] == list(POINTS)
    assert rows[2]["value"] is None
    assert rows[2]["status_name"] == "BadTimeout"


def test_a_devices_name_stands_for_its_points(
    gatepost: Gatepost, field: ScriptedField, tmp_path: Path
) -> None:
    rows = json.loads(gatepost("read", LAB, "Stack", "--state", tmp_path, "--json").out)
    assert [row["tag"] for row in rows] == [tag for tag in POINTS if tag.startswith("Stack.")]
    done = gatepost("read", LAB, "Stack", "Sta", "Stack.No", "--state", tmp_path)
    assert (done.status, done.out) == (2, "")
    assert done.err == ('gatepost: no such point or device: Sta, Stack.No. Did you mean "Stack"?\n')


def test_an_unknown_point_is_named(
    gatepost: Gatepost, field: ScriptedField, tmp_path: Path
) -> None:
    for words in (("read", LAB, "Stack.Nothing"), ("write", LAB, "Stack.Nothing", "1")):
        done = gatepost(*words, "--state", tmp_path)
        assert (done.status, done.out) == (2, "")
        assert done.err == "gatepost: no such point: Stack.Nothing\n"
    assert field.commands == []


def test_write_prints_every_receipt_and_ends_well_when_verified(
    gatepost: Gatepost, field: ScriptedField, tmp_path: Path
) -> None:
    field.steps = [
        {"step": "accepted"},
        {"step": "driven", "reaction_ms": 4.2},
        {"step": "verified"},
    ]
    done = gatepost("write", LAB, "Stack.Heater", "on", "--lease", "2.5", "--state", tmp_path)
    assert done.status == 0
    assert [line.split(":")[0] for line in done.out.splitlines()] == [
        "accepted",
        "driven",
        "verified",
    ]
    assert "after 4 ms" in done.out
    (command,) = field.commands
    assert command["value"] == 1.0
    assert command["lease_ns"] == 2_500_000_000
    assert command["origin"] == "operator"
    assert len(command["id"]) == 32


def test_a_negative_value_is_a_value_and_no_option(
    gatepost: Gatepost, field: ScriptedField, tmp_path: Path
) -> None:
    field.steps = [{"step": "verified"}]
    assert gatepost("write", LAB, "Stack.Temperature", "-5.5", "--state", tmp_path).status == 0
    assert field.commands[0]["value"] == -5.5


@pytest.mark.parametrize(
    "steps",
    [
        [{"step": "refused", "reason": "held by trip Control/Hot"}],
        [{"step": "accepted"}, {"step": "failed", "reason": "read-back 0, driven 1"}],
    ],
)
def test_a_refused_or_failed_write_ends_with_its_reason_and_status_1(
    gatepost: Gatepost, field: ScriptedField, tmp_path: Path, steps: list[dict[str, Any]]
) -> None:
    field.steps = steps
    done = gatepost("write", LAB, "Stack.Heater", "1", "--state", tmp_path)
    assert done.status == 1
    assert steps[-1]["reason"] in done.out
    as_json = gatepost("write", LAB, "Stack.Heater", "1", "--state", tmp_path, "--json")
    assert as_json.status == 1
    assert [step["step"] for step in json.loads(as_json.out)] == [s["step"] for s in steps]


def test_a_write_without_any_receipt_is_no_success(
    gatepost: Gatepost, field: ScriptedField, tmp_path: Path
) -> None:
    assert gatepost("write", LAB, "Stack.Heater", "1", "--state", tmp_path).status == 1


def test_release_sends_no_value(gatepost: Gatepost, field: ScriptedField, tmp_path: Path) -> None:
    field.steps = [{"step": "released"}]
    assert gatepost("write", LAB, "Stack.Heater", "--release", "--state", tmp_path).status == 0
    assert field.commands[0]["release"] is True


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("Stack.Temperature", "warm"), "'warm' is no number"),
        (("Stack.Heater", "Half"), "no state of Stack.Heater (Off, On)"),
        (("Stack.Heater",), "give either a VALUE or --release"),
        (("Stack.Heater", "1", "--release"), "give either a VALUE or --release"),
        (("Stack.Heater", "1", "--lease", "0"), "--lease 0: more than 0"),
        (("Stack.Heater", "1", "--lease", "1e12"), "--lease 1e+12: more than 0"),
    ],
)
def test_what_can_not_be_commanded_is_said_and_not_sent(
    gatepost: Gatepost, field: ScriptedField, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    done = gatepost("write", LAB, *words, "--state", tmp_path)
    assert done.status == 2
    assert message in done.err
    assert field.commands == []


def test_a_field_process_that_goes_away_is_said(
    gatepost: Gatepost, field: ScriptedField, tmp_path: Path
) -> None:
    field.close_early = True
    done = gatepost("status", LAB, "--state", tmp_path)
    assert done.status == 2
    assert "closed the local stream" in done.err


@pytest.mark.parametrize(
    "words", [("status",), ("read", "Stack.Heater"), ("write", "Stack.Heater", "1")]
)
def test_without_a_running_gateway_the_message_says_so(
    gatepost: Gatepost, tmp_path: Path, words: tuple[str, ...]
) -> None:
    done = gatepost(words[0], LAB, *words[1:], "--state", tmp_path)
    assert (done.status, done.out) == (2, "")
    assert "no gateway is running here" in done.err
    assert str(tmp_path) in done.err


def test_without_a_state_option_the_sites_own_folder_is_used(
    gatepost: Gatepost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEPOST_STATE", str(tmp_path))
    assert str(tmp_path) in gatepost("status", LAB).err


@pytest.mark.parametrize(
    "words",
    [("status",), ("read", "Stack.Heater"), ("write", "Stack.Heater", "1"), ("status", "--json")],
)
def test_the_gateway_of_another_site_is_refused_by_both_names(
    gatepost: Gatepost, field: ScriptedField, tmp_path: Path, words: tuple[str, ...]
) -> None:
    field.status = {**STATUS, "site": "pump-house"}
    done = gatepost(words[0], LAB, *words[1:], "--state", tmp_path)
    assert (done.status, done.out) == (2, "")
    for word in ("pump-house", "soec-lab", "--state", "GATEPOST_STATE"):
        assert word in done.err
    assert field.commands == []


def test_a_site_folder_that_does_not_load_is_no_reason_not_to_ask_its_gateway(
    gatepost: Gatepost, field: ScriptedField, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "x-Config.json").write_text("{")
    assert gatepost("status", broken, "--state", tmp_path).status == 0


def test_without_a_gateway_the_message_names_the_way_to_another_state_folder(
    gatepost: Gatepost, tmp_path: Path
) -> None:
    lock = StatePaths(tmp_path).lock
    for content in (None, "", "[]", '{"supervisor": "x"}', '{"supervisor": 4194999}'):
        if content is not None:
            lock.write_text(content)
        err = gatepost("status", LAB, "--state", tmp_path).err
        assert "no gateway is running here" in err
        assert "--state or GATEPOST_STATE" in err


def test_while_a_supervisor_lives_its_field_process_is_being_restarted(
    gatepost: Gatepost, tmp_path: Path
) -> None:
    lock = StatePaths(tmp_path).lock
    lock.write_text(json.dumps({"supervisor": os.getpid()}))
    with lock.open("rb") as file:
        # A process of that number that doesn't hold the lock is another one.
        assert "no gateway is running here" in gatepost("status", LAB, "--state", tmp_path).err
        fcntl.flock(file, fcntl.LOCK_EX)
        done = gatepost("status", LAB, "--state", tmp_path)
    assert done.status == 2
    assert f"(pid {os.getpid()}) is starting or being restarted" in done.err


def test_receipts_name_states_and_the_reason_of_a_verified_reset(
    gatepost: Gatepost, field: ScriptedField, tmp_path: Path
) -> None:
    field.steps = [{"step": "accepted"}, {"step": "verified", "reason": "released: Control/Hot"}]
    done = gatepost("write", LAB, "Stack.Heater", "1", "--state", tmp_path)
    assert done.out.splitlines() == [
        "accepted: Stack.Heater = On (1)",
        "verified: Stack.Heater = On (1): released: Control/Hot",
    ]


@pytest.mark.parametrize(
    ("tag", "same", "words"),
    [
        ("Stack.Heater_Enable", True, "falls back to Off (0)"),
        ("Stack.Furnace_Setpoint", True, "falls back to 25 degC"),
        ("Stack.Furnace_Setpoint", False, "as the running gateway has them"),
        ("Stack.Unknown_Here", True, "as the running gateway has them"),
    ],
)
def test_release_says_what_the_output_falls_back_to(
    gatepost: Gatepost,
    field: ScriptedField,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tag: str,
    same: bool,
    words: str,
) -> None:
    monkeypatch.setitem(POINTS, tag, POINTS["Stack.Temperature"])
    field.status = {**STATUS, "config_hash": require_site(LAB).hash if same else "0"}
    field.steps = [{"step": "accepted"}]
    done = gatepost("write", LAB, tag, "--release", "--state", tmp_path)
    assert done.out.splitlines()[0] == f"accepted: {tag}"
    assert words in done.out.splitlines()[1]


@pytest.mark.parametrize(
    ("link", "hint"),
    [
        ({"connected": True, "backlog": 2, "backlog_oldest_utc_ns": 1}, True),
        ({"connected": False, "backlog": 2, "backlog_oldest_utc_ns": 1}, False),
        ({"connected": True, "backlog": 0, "backlog_oldest_utc_ns": 0}, False),
        ({"connected": True, "backlog": 2, "backlog_oldest_utc_ns": 2**62}, False),
    ],
)
def test_a_backlog_that_nobody_acknowledges_is_said(
    gatepost: Gatepost,
    field: ScriptedField,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    link: dict[str, Any],
    hint: bool,
) -> None:
    monkeypatch.setattr("gateway.cli.operate.STALLED_S", 0.01)
    field.status = {**STATUS, "link": {**link, "acknowledged": (7, 30)}}
    done = gatepost("status", LAB, "--state", tmp_path)
    assert done.status == 0
    assert ("does ingest run" in done.out) is hint


def test_the_version_is_that_of_the_package(gatepost: Gatepost) -> None:
    done = gatepost("--version")
    assert (done.status, done.out) == (0, f"gatepost {metadata.version('gatepost')}\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize("words", [("--version",), ("check", "tests/cases/inl", "--json")])
def test_an_output_that_takes_nothing_ends_in_one_line(words: tuple[str, ...]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "gateway.cli.app", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr == "gatepost: output: No space left on device\n"


@pytest.mark.parametrize("command", ["status", "read", "run", "check"])
def test_a_site_folder_that_is_not_there_is_said(
    gatepost: Gatepost, tmp_path: Path, command: str
) -> None:
    done = gatepost(command, tmp_path / "none")
    assert done.status == 2
    assert "no such site folder" in done.err


def test_a_site_that_does_not_load_shows_its_findings(gatepost: Gatepost, tmp_path: Path) -> None:
    (tmp_path / "x-Config.json").write_text("{}")
    for command in ("status", "run"):
        done = gatepost(command, tmp_path)
        assert done.status == 2
        assert "x-Config.json" in done.err
        assert "gatepost check" in done.err


@pytest.mark.parametrize(
    "words", [("fly",), ("check",), ("check", "--fast", "x"), ("write", LAB, "T", "1", "2")]
)
def test_wrong_words_end_with_usage_and_status_2(
    gatepost: Gatepost, words: tuple[object, ...]
) -> None:
    done = gatepost(*words)
    assert done.status == 2
    assert "Usage: gatepost" in done.err


@pytest.mark.parametrize(
    ("text", "states", "value"),
    [
        ("on", [], 1.0),
        ("OFF", [], 0.0),
        ("true", ["closed", "open"], 1.0),
        ("off", ["ON", "OFF"], 1.0),
    ],
)
def test_on_and_off_go_to_every_discrete_point(text: str, states: list[str], value: float) -> None:
    assert parse_value(text, states, "V", discrete=True) == value
    if text.lower() not in [state.lower() for state in states]:
        with pytest.raises(CommandFailed):
            parse_value(text, states, "V")


def test_a_machine_takes_no_on() -> None:
    with pytest.raises(CommandFailed):
        parse_value("on", ["", "Off", "Heat_Up"], "States.M", discrete=True)


def test_a_state_name_is_found_in_any_case_and_an_empty_one_is_none() -> None:
    assert parse_value("open", ["Closed", "Open"], "V") == 1.0
    assert parse_value("2", ["", "Alarm"], "V") == 2.0
    with pytest.raises(CommandFailed):
        parse_value("", ["", "Alarm"], "V")
