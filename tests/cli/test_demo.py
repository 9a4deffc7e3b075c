"""The demonstration itself: a real broker, real protocols, a real outage, a real trip."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

END_S = 50.0


class Running:
    """A demonstration in a process of its own; its progress is read line by line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self.family: set[psutil.Process] = set()

    def meet(self) -> None:
        """Remember its processes: when it has ended, nobody can tell any more whose they were."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self.family.update(psutil.Process(self.process.pid).children(recursive=True))

    async def until(self, words: str) -> None:
        """Read progress up to a line that holds `words`."""
        assert self.process.stderr is not None
        while line := (await self.process.stderr.readline()).decode():
            self.lines.append(line.rstrip())
            self.meet()
            if words in line:
                return
        pytest.fail(f"no line with {words!r} in:\n" + "\n".join(self.lines))

    async def end(self) -> tuple[int, str]:
        """Exit status and standard output."""
        self.meet()
        out, err = await self.process.communicate()
        self.lines += err.decode().splitlines()
        assert self.process.returncode is not None
        return self.process.returncode, out.decode()

    @property
    def progress(self) -> str:
        """All that was said on standard error."""
        return "\n".join(self.lines)


@contextlib.asynccontextmanager
async def demo(*words: str, environment: Mapping[str, str] | None = None) -> AsyncIterator[Running]:
    """Start ``gatepost demo``; whatever the test does, no process of it is left."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway.cli.app",
        "demo",
        *words,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **(environment or {})},
    )
    running = Running(process)
    try:
        async with asyncio.timeout(END_S):
            yield running
        _, left = await asyncio.to_thread(psutil.wait_procs, running.family, 5.0)
        assert not left, f"still running: {left}\n{running.progress}"
    finally:
        running.meet()
        for member in running.family:
            with contextlib.suppress(psutil.Error):
                member.kill()
        if process.returncode is None:
            process.kill()
            await process.communicate()


async def gatepost(*words: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway.cli.app",
        *words,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode()


def check_form(figures: dict[str, Any]) -> None:
    """The form that docs/demo.md promises, key by key."""
    assert list(figures) == [
        *("site", "seconds", "devices", "points", "records", "stored", "acknowledged"),
        *("historian", "missing", "duplicates", "gaps", "outages", "scan", "trips", "opcua"),
        "broker",
    ]
    for device in figures["devices"].values():
        assert set(device) == {"protocol", "points", "polls", "errors"}
    for outage in figures["outages"]:
        assert set(outage) == {"seconds", "backlog_max_records", "drain_s"}
    for trip in figures["trips"]:
        assert set(trip) == {"cause", "output", "verified", "reaction_ms"}
    assert set(figures["scan"]) == {"period_ms", "count", "overruns", "lateness_p99_ms"}
    assert set(figures["opcua"]) == {"url", "variables"}
    assert set(figures["broker"]) == {"url"}


@pytest.mark.slow
async def test_outage_and_trip_are_shown_and_nothing_is_lost(tmp_path: Path) -> None:
    state = tmp_path / "state"
    options = ("--for", "10", "--outage", "3", "--trip", "--json", "--state", str(state))
    async with demo(*options) as running:
        await running.until("the laboratory runs")
        site = (str(state / "site"), "--state", str(state))
        status, text = await gatepost("read", site[0], "PSU.Current_Setpoint", *site[1:], "--json")
        assert (status, json.loads(text)[0]["value"]) == (0, 30.0)
        status, text = await gatepost("write", site[0], "Gas.Air_Setpoint", "60", *site[1:])
        assert status == 0, text
        assert "verified: Gas.Air_Setpoint = 60 SLPM" in text
        status, text = await gatepost("write", site[0], "Stack.Cell_Temperature", "20", *site[1:])
        assert status == 1
        assert "read only" in text
        code, out = await running.end()

    assert code == 0, running.progress
    assert len(running.family) >= 11  # broker, ingest, plant, six devices, field, link
    figures = json.loads(out)
    check_form(figures)
    assert figures["site"] == "soec-lab"
    assert len(figures["devices"]) >= 4
    assert {d["protocol"] for d in figures["devices"].values()} >= {"ModbusTcpGeneric", "SCPI"}
    assert all(d["polls"] > 0 for d in figures["devices"].values())
    assert (figures["missing"], figures["duplicates"], figures["gaps"]) == (0, 0, [])
    assert figures["records"] == figures["historian"] == figures["stored"] > 100
    assert figures["acknowledged"] == figures["records"]
    (outage,) = figures["outages"]
    assert outage["seconds"] >= 3.0
    assert outage["backlog_max_records"] > 0
    assert outage["drain_s"] is not None
    heater = [t for t in figures["trips"] if t["output"] == "Stack.Heater_Enable"]
    assert [t["verified"] for t in heater] == [True]
    assert "OverTemp" in heater[0]["cause"]
    assert figures["opcua"]["variables"] == figures["points"]
    assert figures["opcua"]["url"].startswith("opc.tcp://127.0.0.1:")
    status, text = await gatepost("query", str(state / "historian.sqlite"), "--events")
    assert (status, "Gas.Air_Setpoint" in text) == (0, True)


@pytest.mark.slow
async def test_ctrl_c_ends_in_order_with_a_report() -> None:
    async with demo("--json") as running:
        await running.until("the laboratory runs")
        running.process.send_signal(signal.SIGINT)
        code, out = await running.end()
    assert code == 0, running.progress
    figures = json.loads(out)
    assert figures["missing"] == 0
    assert figures["records"] > 0
    assert "Traceback" not in running.progress


@pytest.mark.slow
@pytest.mark.parametrize("words", ["starting broker", "field started"])
async def test_ctrl_c_while_it_starts_leaves_nothing_behind(words: str) -> None:
    async with demo("--json") as running:
        await running.until(words)
        running.process.send_signal(signal.SIGINT)
        code, out = await running.end()
    assert code == 1
    assert json.loads(out)["seconds"] == 0.0
    assert "Traceback" not in running.progress


@pytest.mark.slow
async def test_ctrl_c_during_the_outage_brings_the_broker_back_and_loses_nothing() -> None:
    async with demo("--json", "--for", "60", "--outage", "55") as running:
        await running.until("the broker is stopped")
        await asyncio.sleep(1.0)
        running.process.send_signal(signal.SIGINT)
        _, out = await running.end()
    figures = json.loads(out)
    assert (figures["missing"], figures["duplicates"]) == (0, 0), running.progress


@pytest.mark.slow
async def test_a_second_ctrl_c_kills_and_says_so() -> None:
    async with demo("--json") as running:
        await running.until("the laboratory runs")
        running.process.send_signal(signal.SIGINT)
        await running.until("ending in order")
        running.process.send_signal(signal.SIGINT)
        code, out = await running.end()
    assert (code, out) == (1, "")
    assert "ended without waiting" in running.progress
    assert "Traceback" not in running.progress


async def test_without_the_measured_data_it_says_how_to_get_them(tmp_path: Path) -> None:
    # Found before the installed wheel, and without a single file.
    info = tmp_path / "pvanalytics-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pvanalytics\nVersion: 0\n")
    (info / "RECORD").write_text("")
    async with demo("--for", "5", environment={"PYTHONPATH": str(tmp_path)}) as running:
        await running.until("starting broker")
        code, _ = await running.end()
    assert code == 1
    assert "requirements-demo.lock" in running.progress
    assert "Traceback" not in running.progress
