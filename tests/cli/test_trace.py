"""``trace`` and ``simulate``: frames as they go, recorded, and played as a device."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from drivers.sim.recording import RecordingServer, load_recording
from gateway.cli import tracing
from gateway.cli.tracing import Trace
from gateway.core.clock import SystemClock
from gateway.core.paths import StatePaths
from gateway.core.table import PointTable
from tests.cli.devices import Devices, Meter, Supply, devices, meter_file, supply_file, write_site
from tests.drivers.instruments import modbus

Gatepost = Callable[..., Any]


class Bench:
    """Two devices and their site."""

    def __init__(self, folder: Path, running: Devices) -> None:
        self.running = running
        self.supply = Supply()
        self.meter = Meter()
        self.state = folder / "state"
        self.file = folder / "frames.jsonl"
        self.site = folder / "site"
        self.write(running.start(self.supply.server), running.start(self.meter.server))

    def write(self, supply_port: int, meter_port: int) -> None:
        write_site(self.site, PSU=supply_file(supply_port), Meter=meter_file(meter_port))

    def words(self, device: str, *more: object) -> list[object]:
        place: list[object] = ["--site", self.site, "--state", self.state, "--seconds", "0.6"]
        return ["trace", device, *place, *more]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with devices() as running:
        yield Bench(tmp_path, running)


def test_frames_and_values_are_shown_as_they_go(gatepost: Gatepost, bench: Bench) -> None:
    said = gatepost(*bench.words("PSU"))
    assert (said.status, said.err) == (0, "")
    lines = [line.partition(" ms ")[2].strip() for line in said.out.splitlines()]
    assert lines[:3] == [
        "-> query MEAS:VOLT?: 'MEAS:VOLT?\\n'",
        "<- answer to MEAS:VOLT?: '47.9\\n'",
        "PSU answers",
    ]
    assert "Setpoint = 48 V" in lines
    assert lines.count("-> query VOLT?: 'VOLT?\\n'") >= 2  # again and again, by the scan class


def test_bytes_that_are_no_text_are_shown_in_hex(gatepost: Gatepost, bench: Bench) -> None:
    said = gatepost(*bench.words("Meter"))
    assert said.status == 0
    assert " 03 00 64 00 14" in said.out  # holding registers 100 to 119
    assert "First = 1000, Last = 1019" in said.out


def test_a_device_that_does_not_answer_is_said_and_is_status_1(
    gatepost: Gatepost, bench: Bench
) -> None:
    bench.running.run(bench.supply.server.stop())
    said = gatepost(*bench.words("PSU"))
    assert said.status == 1
    assert "PSU is lost: 127.0.0.1:" in said.out


def test_silence_is_said_where_it_was(gatepost: Gatepost, bench: Bench) -> None:
    del bench.supply.answers["MEAS:VOLT?"]
    said = gatepost(*bench.words("PSU", "--seconds", "1.5"))
    assert "! no answer to 'MEAS:VOLT?' within 0.5 s" in said.out


@pytest.mark.parametrize("device", ["PSU", "Meter"])
def test_a_recording_plays_as_the_device(gatepost: Gatepost, bench: Bench, device: str) -> None:
    assert gatepost(*bench.words(device, "--record", bench.file)).status == 0
    wanted = gatepost("read", bench.site, device, "--direct", "--state", bench.state, "--json")
    port = bench.running.start(RecordingServer(load_recording(bench.file)))
    bench.write(port, port)
    found = gatepost("read", bench.site, device, "--direct", "--state", bench.state, "--json")
    assert found.status == wanted.status == 0
    shown = [(row["tag"], row["value"], row["status"]) for row in json.loads(found.out)]
    assert shown == [(row["tag"], row["value"], row["status"]) for row in json.loads(wanted.out)]


def test_a_recording_is_never_overwritten(gatepost: Gatepost, bench: Bench) -> None:
    bench.file.write_text("mine")
    said = gatepost(*bench.words("PSU", "--record", bench.file))
    assert said.status == 2
    assert "exists" in said.err
    assert bench.file.read_text() == "mine"
    assert bench.supply.heard == []


def test_an_unknown_device_names_the_known_ones(gatepost: Gatepost, bench: Bench) -> None:
    said = gatepost(*bench.words("PSU_2"))
    assert said.status == 2
    assert "no active device PSU_2; it has PSU, Meter" in said.err


def test_beside_a_running_gateway_nothing_is_traced(gatepost: Gatepost, bench: Bench) -> None:
    paths = StatePaths(bench.state)
    paths.make()
    paths.lock.write_text(json.dumps({"supervisor": os.getpid()}))
    with paths.lock.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        said = gatepost(*bench.words("PSU"))
    assert said.status == 2
    assert "a gateway of bench runs on this machine" in said.err
    assert bench.supply.heard == []


def test_what_a_frame_means_stays_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    clock = SystemClock()
    trace = Trace(modbus({}), PointTable([]), clock, None)
    trace.frame(False, b"", "topic a\x1b[2J\nb")
    trace.on_device("Meter", False, "gone\r\x07")
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" ms ")[2].strip() for line in lines] == [
        r"<- topic a\x1b[2J\nb",
        r"! Meter is lost: gone\r\x07",
    ]


def test_a_recording_ends_where_no_simulator_would_take_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tracing, "FILE_BYTES_MAX", 2000)
    path = tmp_path / "frames.jsonl"
    with path.open("x", encoding="ascii") as file:
        trace = Trace(modbus({}), PointTable([]), SystemClock(), file)
        for _ in range(100):
            trace.frame(True, b"VOLT?\n", "query")
    assert 1500 < path.stat().st_size <= 2000
    assert 10 < len(load_recording(path).frames) < 100
    assert capsys.readouterr().out.count("the recording is full, 2000 bytes") == 1


# ---------------------------------------------------------------- simulate


def test_a_damaged_recording_is_refused_with_the_line(gatepost: Gatepost, bench: Bench) -> None:
    assert gatepost(*bench.words("PSU", "--record", bench.file)).status == 0
    text = bench.file.read_text()
    bench.file.write_text(text[: len(text) // 2].rstrip("\n}"))
    said = gatepost("simulate", bench.file)
    assert said.status == 2
    count = len(bench.file.read_text().splitlines())
    assert f"{bench.file}:{count}: this is no JSON" in said.err
    assert "cut off here" in said.err
    said = gatepost("simulate", bench.site / "PSU.json")
    assert said.status == 2
    assert "this is no recording" in said.err


def test_a_simulator_runs_until_it_is_asked_to_end(gatepost: Gatepost, bench: Bench) -> None:
    assert gatepost(*bench.words("PSU", "--record", bench.file)).status == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway.cli.app", "simulate", bench.file],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout
        said = process.stdout.readline()
        assert said.startswith("PSU (SCPI) on 127.0.0.1:")
        bench.write(int(said.rpartition(":")[2]), 1)
        read = gatepost("read", bench.site, "PSU", "--direct", "--state", bench.state)
        assert read.status == 0
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0
    assert err == "2 requests, 0 of them not in the recording\n"
