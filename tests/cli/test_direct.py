"""``read --direct`` and ``write --direct``: devices without a gateway."""

from __future__ import annotations

import asyncio
import fcntl
import io
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from config import status as codes_of
from config.site import Instrument
from drivers.contract import Block, DriverProtocol, Surroundings, Update
from gateway.cli import direct
from gateway.core.paths import StatePaths
from gateway.supervisor import StateLock, SupervisorError
from tests.cli.devices import Devices, Meter, Supply, devices, meter_file, supply_file, write_site

Gatepost = Callable[..., Any]


class Bench:
    """Two devices, their site, and one that is not there."""

    def __init__(self, folder: Path, running: Devices) -> None:
        self.supply = Supply()
        self.meter = Meter()
        self.state = folder / "state"
        self.site = write_site(
            folder / "site",
            PSU=supply_file(running.start(self.supply.server)),
            Meter=meter_file(running.start(self.meter.server)),
        )

    def words(self, command: str, *more: object) -> list[object]:
        return [command, self.site, *more, "--direct", "--state", self.state]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with devices() as running:
        yield Bench(tmp_path, running)


def test_all_points_of_all_devices_are_read(gatepost: Gatepost, bench: Bench) -> None:
    said = gatepost(*bench.words("read", "--json"))
    assert (said.status, said.err) == (0, "")
    rows = {row["tag"]: (row["value"], row["status_name"]) for row in json.loads(said.out)}
    assert rows == {
        "PSU.Voltage": (47.9, "Good"),
        "PSU.Setpoint": (48.0, "Good"),
        "Meter.First": (1000.0, "Good"),
        "Meter.Last": (1019.0, "Good"),
        "Meter.On": (0.0, "Good"),
    }


def test_some_points_and_a_whole_device_for_people(gatepost: Gatepost, bench: Bench) -> None:
    said = gatepost(*bench.words("read", "Meter", "PSU.Setpoint"))
    lines = [line.split() for line in said.out.splitlines()]
    assert [line[:2] for line in lines[1:]] == [
        ["Meter.First", "1000"],
        ["Meter.Last", "1019"],
        ["Meter.On", "Off"],
        ["PSU.Setpoint", "48"],
    ]
    assert bench.supply.heard == ["VOLT?"]  # and nothing that nobody wanted to know


def test_a_device_that_is_not_there_is_named_and_the_others_are_read(
    gatepost: Gatepost, bench: Bench
) -> None:
    write_site(
        bench.site,
        PSU=json.loads((bench.site / "PSU.json").read_text()),
        Gone=supply_file(1, EquipmentName="Gone"),
    )
    said = gatepost(*bench.words("read", "--json"))
    rows = {row["tag"]: (row["value"], row["status_name"]) for row in json.loads(said.out)}
    assert said.status == 1
    assert said.err.startswith("Gone: 127.0.0.1:1: ")
    assert rows["PSU.Setpoint"] == (48.0, "Good")
    assert rows["Gone.Setpoint"] == (None, "BadNotConnected")


def test_what_a_device_does_not_answer_is_bad_with_the_reason(
    gatepost: Gatepost, bench: Bench
) -> None:
    del bench.supply.answers["MEAS:VOLT?"]
    bench.meter.bank.allow_only("holding", [(100, 5)])
    said = gatepost(*bench.words("read", "--json"))
    rows = {row["tag"]: row["status_name"] for row in json.loads(said.out)}
    assert said.status == 1
    assert "illegal data address" in said.err.lower()
    assert rows["PSU.Voltage"] == "BadTimeout"
    assert rows["PSU.Setpoint"] == "Good"
    assert rows["Meter.First"] == "Good"
    assert rows["Meter.Last"] == "BadConfigurationError"
    assert "PSU, MEAS:VOLT? (Fast): no answer" in said.err
    assert bench.supply.heard.count("MEAS:VOLT?") == 2  # asked again once


@pytest.mark.parametrize("tag", ["PSU.Nothing", "Nothing", "Gateway.E_Stop"])
def test_a_point_that_no_device_has(gatepost: Gatepost, bench: Bench, tag: str) -> None:
    said = gatepost(*bench.words("read", tag))
    assert (said.status, said.out) == (2, "")
    assert tag in said.err


class Sender:
    """A device that sends by itself, and says why one of its points is bad."""

    async def connect(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing to do."""

    async def updates(self) -> AsyncIterator[Update]:
        """One good value, and one bad one with its reason."""
        yield Update(self.index[:1], np.array([7.0]))
        codes = np.array([codes_of.BAD_CONFIGURATION_ERROR], dtype=np.uint32)
        yield Update(self.index[1:], np.array([np.nan]), codes, reason="no signal PHASE\x1b[2J")
        await asyncio.sleep(30)

    def __init__(self, instrument: Instrument, surroundings: Surroundings) -> None:
        self.index = np.array([p.index for p in instrument.points.values()], dtype=np.int32)


def sender_blocks(instrument: Instrument) -> list[Block]:
    """All points in one block that is never asked for."""
    index = np.array([p.index for p in instrument.points.values()], dtype=np.int32)
    return [Block(index, "Fast", None, "all", pushed=True)]


@pytest.fixture
def sender(monkeypatch: pytest.MonkeyPatch) -> None:
    """The supply is one that sends by itself."""
    made = DriverProtocol(("SCPI",), sender_blocks, lambda _: [], cast(Any, Sender), pushes=True)
    monkeypatch.setattr(direct, "protocol_of", lambda name: made)


@pytest.mark.usefixtures("sender")
def test_why_a_device_that_sends_has_no_value_is_said(gatepost: Gatepost, bench: Bench) -> None:
    said = gatepost(*bench.words("read", "PSU", "--json"))
    rows = {row["tag"]: (row["value"], row["status_name"]) for row in json.loads(said.out)}
    assert rows == {"PSU.Voltage": (7.0, "Good"), "PSU.Setpoint": (None, "BadConfigurationError")}
    assert (said.status, said.err) == (1, "PSU: no signal PHASE\\x1b[2J\n")
    assert gatepost(*bench.words("read", "PSU.Voltage")).status == 0


@pytest.mark.usefixtures("sender")
def test_a_trace_says_it_once_too(gatepost: Gatepost, bench: Bench) -> None:
    said = gatepost(
        "trace", "PSU", "--site", bench.site, "--state", bench.state, "--seconds", "0.5"
    )
    assert said.status == 0
    assert said.out.count("! no signal PHASE\\x1b[2J") == 1


# ---------------------------------------------------------------- write


def test_a_value_is_written_and_read_back(gatepost: Gatepost, bench: Bench) -> None:
    said = gatepost(*bench.words("write", "PSU.Setpoint", "12.5", "--yes"))
    assert said.status == 0
    assert said.out.splitlines()[0] == "written: PSU.Setpoint = 12.5 V"
    assert said.out.splitlines()[2].split()[:2] == ["PSU.Setpoint", "12.5"]
    assert bench.supply.heard == ["VOLT 12.5", "VOLT?"]


def test_a_state_is_written_by_its_name(gatepost: Gatepost, bench: Bench) -> None:
    said = gatepost(*bench.words("write", "Meter.On", "on", "--yes", "--json"))
    assert said.status == 0
    assert [row["value"] for row in json.loads(said.out)] == [1.0]
    assert bench.meter.bank.coils[0]


@pytest.mark.parametrize(
    ("tag", "value", "status", "reason"),
    [
        ("PSU.Setpoint", "61", 1, "the range is 0 to 60 V"),
        ("PSU.Setpoint", "nan", 1, "refused"),
        ("PSU.Setpoint", "lots", 2, "'lots' is no number"),
        ("PSU.Voltage", "1", 1, "can only be read"),
        ("PSU.Nothing", "1", 2, "no point PSU.Nothing"),
        ("Gateway.Reset", "1", 2, "no point of a device"),
        ("Meter.On", "7", 1, "refused"),
    ],
)
def test_what_can_not_be_written_is_refused_before_the_wire(
    gatepost: Gatepost, bench: Bench, tag: str, value: str, status: int, reason: str
) -> None:
    said = gatepost(*bench.words("write", tag, value, "--yes"))
    assert (said.status, said.out) == (status, "")
    assert reason in said.err
    assert bench.supply.heard == []
    assert bench.meter.server.requests == 0


def test_a_refusal_of_the_device_is_the_answer(gatepost: Gatepost, bench: Bench) -> None:
    bench.meter.bank.allow_only("coils", [])
    said = gatepost(*bench.words("write", "Meter.On", "1", "--yes"))
    assert said.status == 1
    assert "refused: Meter.On = 1: " in said.err


def test_what_a_device_says_is_no_command_to_the_terminal(gatepost: Gatepost, bench: Bench) -> None:
    content = json.loads((bench.site / "PSU.json").read_text())
    content["Channels"]["Setpoint"]["WriteText"] = "VOLT {value};:SYST:ERR?"
    (bench.site / "PSU.json").write_text(json.dumps(content))
    bench.supply.answers["SYST:ERR?"] = '-222,"\x1b]0;mine\x07 \x1b[2J"'
    said = gatepost(*bench.words("write", "PSU.Setpoint", "5", "--yes"))
    assert said.status == 1
    assert r"error -222: \x1b]0;mine\x07 \x1b[2J" in said.err


class Terminal(io.StringIO):
    """Standard input with a person at it."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("typed", "status"), [("y\n", 0), ("n\n", 1), ("\n", 1)])
def test_a_person_is_asked_first(
    gatepost: Gatepost,
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    typed: str,
    status: int,
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(typed))
    said = gatepost(*bench.words("write", "PSU.Setpoint", "5"))
    assert said.status == status
    assert "no interlock, trip or safe value stands behind this" in said.err
    assert ("VOLT 5" in bench.supply.heard) == (status == 0)


def test_where_nobody_can_be_asked_nothing_is_written(
    gatepost: Gatepost, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    said = gatepost(*bench.words("write", "PSU.Setpoint", "5"))
    assert said.status == 2
    assert "--yes" in said.err
    assert bench.supply.heard == []


@pytest.mark.parametrize(
    "more", [["PSU.Setpoint", "--release"], ["PSU.Setpoint", "5", "--lease", "3"]]
)
def test_leases_and_releases_are_the_gateways(
    gatepost: Gatepost, bench: Bench, more: list[str]
) -> None:
    said = gatepost(*bench.words("write", *more))
    assert said.status == 2
    assert "--direct" in said.err


# ---------------------------------------------------------------- beside a gateway


@pytest.fixture
def running_gateway(bench: Bench) -> Iterator[None]:
    """The lock that a gateway of the site holds."""
    paths = StatePaths(bench.state)
    paths.make()
    paths.lock.write_text(json.dumps({"supervisor": os.getpid()}))
    with paths.lock.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@pytest.mark.usefixtures("running_gateway")
@pytest.mark.parametrize("more", [["read"], ["write", "PSU.Setpoint", "5", "--yes"]])
def test_beside_a_running_gateway_nothing_is_touched(
    gatepost: Gatepost, bench: Bench, more: list[str]
) -> None:
    said = gatepost(*bench.words(*more))
    assert said.status == 2
    assert f"a gateway of bench runs on this machine (pid {os.getpid()})" in said.err
    assert bench.supply.heard == []


def test_the_lock_is_free_again_afterwards(gatepost: Gatepost, bench: Bench) -> None:
    for _ in range(2):
        assert gatepost(*bench.words("read", "PSU.Setpoint")).status == 0


def test_a_site_with_errors_is_no_site(gatepost: Gatepost, bench: Bench) -> None:
    (bench.site / "PSU.json").write_text("{")
    said = gatepost(*bench.words("read"))
    assert said.status == 2
    assert "gatepost check" in said.err


def test_another_state_folder_is_no_way_around_a_running_gateway(tmp_path: Path) -> None:
    first = StateLock(StatePaths(tmp_path / "one"), tmp_path)
    second = StateLock(StatePaths(tmp_path / "two"), tmp_path)
    assert first.take()
    with pytest.raises(SupervisorError, match="another state folder"):
        second.take()
    first.release()
    assert second.take()
    second.release()
