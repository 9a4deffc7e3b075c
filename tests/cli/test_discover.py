"""``discover``: instrument files of devices that nobody has described yet."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from config.load import load_site
from drivers.registry import check_instruments
from drivers.sim.opcua_server import OpcUaSimulator, SimNode
from drivers.sim.sunspec_server import SimModel, SunSpecServer
from gateway.cli.discover import numbers
from gateway.cli.output import CommandFailed
from tests.cli.devices import Devices, Meter, Supply, devices, write_site

Gatepost = Callable[..., Any]


@pytest.fixture
def running() -> Iterator[Devices]:
    with devices() as made:
        yield made


def quick(url: str, *more: object) -> list[object]:
    place = ["--units", "1-4", "--registers", "0-255", "--timeout", "0.15"]
    return ["discover", url, "--tag", "Fast", *place, *more]


def checked(folder: Path, file: Path) -> Any:
    """The site with that instrument; it loads, and its check finds nothing."""
    content = json.loads(file.read_text())
    name = content["EquipmentTags"]["EquipmentName"]
    site, findings = load_site(write_site(folder, **{name: content}))
    assert site is not None, findings
    assert [f for f in findings if f.severity == "error"] == []
    assert [f for f in check_instruments(site) if f.severity == "error"] == []
    return site.instruments[next(iter(site.instruments))]


def test_a_modbus_device_becomes_a_file_that_a_site_takes(
    gatepost: Gatepost, running: Devices, tmp_path: Path
) -> None:
    port = running.start(Meter().server)
    out = tmp_path / "New.json"
    said = gatepost(*quick(f"modbus://127.0.0.1:{port}", "--out", out, "--name", "New"))
    assert said.status == 0
    assert said.out == ""
    assert "unit 3 answers" in said.err
    assert "25 channels" in said.err
    instrument = checked(tmp_path / "site", out)
    assert list(instrument.channels) == [
        *(f"Holding_{a}" for a in range(100, 120)),
        *(f"Coil_{a}" for a in range(5)),
    ]
    assert instrument.tags.Connection.Unit == 3
    state = tmp_path / "state"
    read = gatepost("read", tmp_path / "site", "--direct", "--state", state, "--json")
    values = {row["tag"]: row["value"] for row in json.loads(read.out)}
    assert values["New.Holding_100"] == 1000
    assert values["New.Holding_119"] == 1019


def test_an_scpi_instrument_becomes_a_file_that_a_site_takes(
    gatepost: Gatepost, running: Devices, tmp_path: Path
) -> None:
    supply = Supply()
    port = running.start(supply.server)
    said = gatepost(*quick(f"scpi://127.0.0.1:{port}"))
    assert said.status == 0
    out = tmp_path / "PSU_100.json"
    out.write_text(said.out)
    assert json.loads(said.out)["EquipmentTags"]["EquipmentName"] == "PSU_100"
    assert "maker ACME, model PSU 100, serial number SN7" in said.err
    instrument = checked(tmp_path / "site", out)
    texts = {name: c.RequestText for name, c in instrument.channels.items()}
    assert texts == {"Voltage_Setpoint": "VOLT?", "Voltage": "MEAS:VOLT?"}
    assert all(message.endswith("?") for message in supply.heard)  # nothing was set


def test_a_file_is_overwritten_only_where_that_is_said(
    gatepost: Gatepost, running: Devices, tmp_path: Path
) -> None:
    supply = Supply()
    url = f"scpi://127.0.0.1:{running.start(supply.server)}"
    out = tmp_path / "mine.json"
    out.write_text("mine")
    said = gatepost(*quick(url, "--out", out))
    assert said.status == 2
    assert "--force" in said.err
    assert (out.read_text(), supply.heard) == ("mine", [])
    assert gatepost(*quick(url, "--out", out, "--force")).status == 0
    assert json.loads(out.read_text())["EquipmentTags"]["Communication"] == "SCPI"
    assert list(tmp_path.iterdir()) == [out]


def test_where_nothing_answers_no_file_is_written(
    gatepost: Gatepost, running: Devices, tmp_path: Path
) -> None:
    silent = Meter(unit=9)
    silent.server.faults.silent = True
    out = tmp_path / "New.json"
    port = running.start(silent.server)
    said = gatepost(*quick(f"modbus://127.0.0.1:{port}", "--out", out))
    assert (said.status, out.exists()) == (1, False)
    assert "nothing answered" in said.err
    assert gatepost(*quick(f"modbus://127.0.0.1:{port}")).out == ""  # no empty file in a pipe
    mute = Supply()
    mute.answers.clear()
    port = running.start(mute.server)
    said = gatepost(*quick(f"scpi://127.0.0.1:{port}", "--out", out))
    assert (said.status, out.exists()) == (1, False)
    assert "no answer to '*IDN?'" in said.err


def test_a_sunspec_device_becomes_a_file_that_a_site_takes(
    gatepost: Gatepost, running: Devices, tmp_path: Path
) -> None:
    server = SunSpecServer([SimModel(1), SimModel(103), SimModel(704)])
    server.put_raw("103.W_SF", -1)
    server.put("103.W", 1234.5)
    server.put_raw("704.WSet_SF", 0)
    server.put("704.WSet", 500)
    url = f"sunspec://127.0.0.1:{running.start(server)}"
    out = tmp_path / "New.json"
    said = gatepost("discover", url, "--tag", "Fast", "--out", out)
    assert said.status == 0
    assert "models 1, 103, 704" in said.err
    instrument = checked(tmp_path / "site", out)
    points = {channel.IOPoint: channel.ReadWrite for channel in instrument.channels.values()}
    assert points["103.W"] == points["704.WSet"] == "R"
    said = gatepost("discover", url, "--tag", "Fast", "--out", out, "--force", "--writable")
    assert said.status == 0
    channels = json.loads(out.read_text())["Channels"].values()
    assert [c["ReadWrite"] for c in channels if c["IOPoint"] == "704.WSet"] == ["RW"]
    assert gatepost("discover", url, "--units", "1,2").status == 2
    assert gatepost("discover", "sunspec://127.0.0.1:1").status == 1


def test_an_opc_ua_server_becomes_a_file_that_a_site_takes(
    gatepost: Gatepost, running: Devices, tmp_path: Path
) -> None:
    nodes = [SimNode("Tank.Level", 4.5, units="m"), SimNode("Tank.Pump", 1.0, writable=True)]
    server = OpcUaSimulator(nodes)
    out = tmp_path / "New.json"
    url = f"opc.tcp://127.0.0.1:{running.run(server.start())}"
    try:
        said = gatepost("discover", url, "--tag", "Fast", "--name", "Tank", "--out", out)
    finally:
        running.run(server.stop())
    assert said.status == 0
    assert "1 variable can be written and stand as R" in said.err
    instrument = checked(tmp_path / "site", out)
    assert [c.ReadWrite for c in instrument.channels.values()] == ["R", "R"]
    assert instrument.tags.Server == url


@pytest.mark.parametrize(
    ("url", "status", "text"),
    [
        ("modbus://127.0.0.1:1", 1, "127.0.0.1:1"),
        ("scpi://127.0.0.1:1", 1, "127.0.0.1:1"),
        ("opc.tcp://127.0.0.1:1", 1, "127.0.0.1:1"),
        ("http://127.0.0.1", 2, "use modbus://host:502"),
        ("127.0.0.1:502", 2, "use modbus://host:502"),
        ("modbus://", 2, "the host is missing"),
        ("modbus://127.0.0.1:99999", 2, "ort"),
        ("modbus://[::1", 2, "IPv6"),
        ("modbus-rtu:///dev/ttyNOPE", 1, "/dev/ttyNOPE"),
        ("modbus-rtu://", 2, "modbus-rtu:///dev/ttyUSB0?"),
        ("modbus-rtu:///dev/ttyUSB0?speed=9600", 2, "baudrate"),
        ("modbus-rtu:///dev/ttyUSB0?parity=X", 2, "parity is N, E or O"),
        ("modbus-rtu:///dev/ttyUSB0?baudrate=fast", 2, "fast"),
        ("modbus-rtu:///dev/ttyUSB0?baudrate=", 2, "are numbers"),
        ("modbus-rtu:///dev/ttyUSB0?baudrate=0", 2, "a baudrate is 50 to"),
        ("modbus-rtu:///dev/ttyUSB0?baudrate=123456789012", 2, "a baudrate is 50 to"),
        ("modbus-rtu:///dev/ttyUSB0?parity=NE", 2, "parity is N, E or O"),
        ("modbus-rtu:///dev/ttyUSB0?parity=", 2, "parity is N, E or O"),
        ("modbus-rtu:///dev/ttyUSB0?bytesize=7", 2, "bytesize 8"),
        ("modbus-rtu://dev/ttyUSB0", 2, "modbus-rtu:///dev/ttyUSB0?"),
        ("modbus-rtu:///dev/null", 1, "can't be opened"),
        ("modbus://127.0.0.1:0", 2, "1 to 65535"),
        ("modbus://127.0.0.1:1", 1, "Connection refused"),
        ("modbus://nosuch.invalid", 1, "nosuch.invalid:502: "),
        ("modbus://127.0.0.1:1/unit/3", 2, "only host and port"),
        ("scpi://me@127.0.0.1:1", 2, "only host and port"),
        ("scpi://127.0.0.1:1?unit=3", 2, "only host and port"),
        ("opc.tcp://", 2, "the host is missing"),
    ],
)
def test_a_url_that_leads_nowhere(gatepost: Gatepost, url: str, status: int, text: str) -> None:
    said = gatepost(*quick(url))
    assert (said.status, said.out) == (status, "")
    assert text in said.err


@pytest.mark.parametrize("name", ["a/b", 'a"b', "", "  ", "a\x1b[31m", "x" * 64])
def test_a_name_that_no_site_takes_is_refused_first(
    gatepost: Gatepost, running: Devices, name: str
) -> None:
    supply = Supply()
    said = gatepost(*quick(f"scpi://127.0.0.1:{running.start(supply.server)}", "--name", name))
    assert (said.status, said.out, supply.heard) == (2, "", [])
    assert "--name" in said.err
    assert "\x1b" not in said.err


def test_where_a_file_can_not_be_written_is_said_first(
    gatepost: Gatepost, running: Devices, tmp_path: Path
) -> None:
    supply = Supply()
    url = f"scpi://127.0.0.1:{running.start(supply.server)}"
    (tmp_path / "link.json").symlink_to(tmp_path / "nowhere" / "x.json")
    os.mkfifo(tmp_path / "pipe")
    for out, force, text in (
        (tmp_path / "nowhere" / "x.json", False, "there is no folder"),
        (tmp_path / "link.json", False, "exists"),
        (tmp_path / "link.json", True, "there is no folder"),
        (tmp_path, True, "no file"),
        (tmp_path / "pipe", True, "no file"),
    ):
        said = gatepost(*quick(url, "--out", out, *["--force"] * force))
        assert (said.status, said.out, supply.heard) == (2, "", [])
        assert text in said.err
    assert (tmp_path / "pipe").is_fifo()


def test_a_link_is_written_through(gatepost: Gatepost, running: Devices, tmp_path: Path) -> None:
    url = f"scpi://127.0.0.1:{running.start(Supply().server)}"
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to("real.json")
    assert gatepost(*quick(url, "--out", tmp_path / "link.json", "--force")).status == 0
    assert (tmp_path / "link.json").is_symlink()
    assert json.loads((tmp_path / "real.json").read_text())["Channels"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["link.json", "real.json"]


def test_what_was_found_before_a_device_dies_is_kept(
    gatepost: Gatepost, running: Devices, tmp_path: Path
) -> None:
    supply = Supply()
    answer = supply.server.handler

    def dies(message: str) -> str | None:
        if message == "MEAS:VOLT?":
            for session in list(supply.server.sessions):
                session.drop()
        return answer(message)

    supply.server.handler = dies
    out = tmp_path / "New.json"
    said = gatepost(*quick(f"scpi://127.0.0.1:{running.start(supply.server)}", "--out", out))
    assert said.status == 1
    assert "something may be missing" in said.err
    assert list(json.loads(out.read_text())["Channels"]) == ["Voltage_Setpoint"]


def test_an_answer_that_is_no_text_is_not_called_silence(
    gatepost: Gatepost, running: Devices
) -> None:
    supply = Supply()
    supply.answers["*IDN?"] = "A" * 70_000
    said = gatepost(*quick(f"scpi://127.0.0.1:{running.start(supply.server)}"))
    assert said.status == 1
    assert "answers *IDN? with no line of text: an answer of more than 65536 bytes" in said.err


def test_setpoints_of_a_supply_can_be_listed_as_outputs(
    gatepost: Gatepost, running: Devices, tmp_path: Path
) -> None:
    supply = Supply()
    url = f"scpi://127.0.0.1:{running.start(supply.server)}"
    out = tmp_path / "New.json"
    assert gatepost(*quick(url, "--out", out, "--writable")).status == 0
    instrument = checked(tmp_path / "site", out)
    assert instrument.channels["Voltage_Setpoint"].WriteText == "VOLT {value}"
    assert instrument.channels["Voltage"].ReadWrite == "R"


def test_ctrl_c_leaves_no_file_and_no_traceback(running: Devices, tmp_path: Path) -> None:
    silent = Meter()
    silent.server.faults.silent = True
    words = quick(f"modbus://127.0.0.1:{running.start(silent.server)}", "--out", tmp_path / "x")
    words[words.index("--timeout") + 1] = "30"
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway.cli.app", *map(str, words)],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while not silent.server.connected:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, err) == (2, "gatepost: interrupted; nothing was written\n")
    assert list(tmp_path.iterdir()) == []


def test_numbers_of_units() -> None:
    assert numbers("1-3,40,2", "--units", 247) == [1, 2, 3, 40]
    for wrong in ("", "a", "3-1", "0-248", "1-2-3", "-4"):
        with pytest.raises(CommandFailed, match="--units"):
            numbers(wrong, "--units", 247)


def test_a_serial_line_is_scanned(tmp_path: Path) -> None:
    """The meter of serial_meter.py at the other end of a pseudo-terminal."""
    master, slave = os.openpty()
    name = os.ttyname(slave)
    try:
        with subprocess.Popen(
            [sys.executable, "-m", "tests.cli.serial_meter", str(master)], pass_fds=(master,)
        ) as server:
            url = f"modbus-rtu://{name}?baudrate=115200"
            words = quick(url, "--out", tmp_path / "New.json", "--units", "2-3")
            done = subprocess.run(
                [sys.executable, "-m", "gateway.cli.app", *map(str, words)],
                check=False, capture_output=True, text=True, timeout=60,
            )  # fmt: skip
            server.kill()
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
    finally:
        os.close(master)
        os.close(slave)
    content = json.loads((tmp_path / "New.json").read_text())
    assert content["EquipmentTags"]["Communication"] == "ModbusRTU"
    assert content["EquipmentTags"]["Connection"] == {
        "Port": name, "Baudrate": 115200, "Parity": "N", "Stopbits": 1, "Bytesize": 8, "Unit": 3,
    }  # fmt: skip
    assert list(content["Channels"]) == [f"Holding_{a}" for a in range(10, 14)]
