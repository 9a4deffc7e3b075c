"""``gatepost simulate SITE``: as a person runs it, with another command that reads the devices."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from tests.cli.devices import meter_file, supply_file, write_site

Gatepost = Callable[..., Any]


@pytest.fixture
def site(tmp_path: Path, unused_tcp_port_factory: Callable[[], int]) -> Path:
    meter, supply = meter_file(unused_tcp_port_factory()), supply_file(unused_tcp_port_factory())
    return write_site(tmp_path / "site", Meter=meter, PSU=supply)


def moved(site: Path, name: str, **tags: Any) -> None:
    """Change tags of an instrument file."""
    file = site / f"{name}.json"
    content = json.loads(file.read_text())
    content["EquipmentTags"] |= tags
    file.write_text(json.dumps(content))


class Simulator:
    """The process, and what it says."""

    def __init__(self, *words: object, stdin: int | IO[str] = subprocess.PIPE) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gateway.cli.app", "simulate", *map(str, words)],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said: list[str] = []
        self.until("ready; ")

    def until(self, start: str) -> str:
        """The next line that begins so."""
        assert self.process.stdout
        for line in self.process.stdout:
            self.said.append(line.rstrip("\n"))
            if line.startswith(start):
                return self.said[-1]
        raise AssertionError(f"it ended and said {self.said} {self.process.communicate()}")

    def type(self, line: str) -> None:
        """A line of standard input."""
        assert self.process.stdin
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def end(self) -> tuple[int, str]:
        """Ctrl-C; exit status and standard error."""
        self.process.send_signal(signal.SIGINT)
        _, err = self.process.communicate(timeout=20)
        return self.process.returncode, err


@contextmanager
def simulator(*words: object, stdin: int | IO[str] = subprocess.PIPE) -> Iterator[Simulator]:
    made = Simulator(*words, stdin=stdin)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.communicate()


def read(gatepost: Gatepost, site: Path, *tags: str) -> dict[str, float]:
    said = gatepost("read", site, *tags, "--direct", "--state", site.parent / "state", "--json")
    return {row["tag"]: row["value"] for row in json.loads(said.out)}


def test_values_are_set_typed_read_and_written(gatepost: Gatepost, site: Path) -> None:
    with simulator(site, "--set", "Meter.First=7", "--set", "PSU.Voltage=31.5") as running:
        assert [line.split(" on ")[0] for line in running.said[2:4]] == [
            "Meter (ModbusTcpGeneric)",
            "PSU (SCPI)",
        ]
        assert read(gatepost, site, "Meter.First", "PSU.Voltage") == {
            "Meter.First": 7,
            "PSU.Voltage": 31.5,
        }
        running.type("Meter.Frist 8")
        running.type("Meter.First 9")
        assert running.until("Meter.First = 9") == "Meter.First = 9"
        assert read(gatepost, site, "Meter.First") == {"Meter.First": 9}
        words = ["PSU.Setpoint", "12", "--direct", "--yes", "--state", site.parent / "state"]
        assert gatepost("write", site, *words).status == 0
        assert running.until("PSU.Setpoint") == "PSU.Setpoint = 12 V, written"
        status, err = running.end()
    assert status == 0
    assert err == 'nothing here is called Meter.Frist. Did you mean "Meter.First"?\n'


def test_lines_of_a_file_are_obeyed_and_its_end_is_not_the_end(
    gatepost: Gatepost, site: Path, tmp_path: Path
) -> None:
    (tmp_path / "lines").write_text("Meter.First 5\nMeter.On On\n")
    with (tmp_path / "lines").open() as file, simulator(site, "Meter", stdin=file) as running:
        assert running.until("Meter.On") == "Meter.On = 1 (On)"
        assert read(gatepost, site, "Meter.First") == {"Meter.First": 5}
        assert running.end() == (0, "")


def test_a_device_that_is_no_socket_is_named_and_left_out(site: Path) -> None:
    moved(site, "PSU", VISA_address="TCPIP::127.0.0.1::inst0::INSTR")
    with simulator(site, stdin=subprocess.DEVNULL) as running:
        status, err = running.end()
    assert status == 0
    assert err == "left out, only Modbus TCP and SCPI sockets are simulated: PSU (SCPI)\n"


def test_a_device_elsewhere_is_refused_but_for_host(gatepost: Gatepost, site: Path) -> None:
    moved(site, "Meter", Connection={"IP": "192.0.2.7", "Unit": 3})
    said = gatepost("simulate", site)
    assert said.status == 2
    assert "not on this machine: Meter at 192.0.2.7:" in said.err
    with simulator(site, "--host", "127.0.0.1", stdin=subprocess.DEVNULL) as running:
        assert any(line.startswith("Meter") and " on 127.0.0.1:" in line for line in running.said)
    with simulator(site, "PSU", stdin=subprocess.DEVNULL) as running:
        assert not any(line.startswith("Meter") for line in running.said)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["Metre"], 'the site has no active device Metre. Did you mean "Meter"?'),
        (["--set", "Meter.First"], "--set Meter.First: this has to be TAG=VALUE"),
        (["--set", "Meter.Firts=1"], 'called Meter.Firts. Did you mean "Meter.First"?'),
        (["--set", "Meter.First=x"], "Meter.First: x is no number"),
        (["--port", "5020"], "--port and --timing are for recordings"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_listens(
    gatepost: Gatepost, site: Path, words: list[str], said: str
) -> None:
    ended = gatepost("simulate", site, *words)
    assert ended.status == 2
    assert said in ended.err


def test_no_folder_and_no_recording(gatepost: Gatepost, tmp_path: Path) -> None:
    ended = gatepost("simulate", tmp_path / "nothing", "--set", "A.B=1")
    assert ended.status == 2
    assert "no such site folder" in ended.err


def test_a_taken_port_is_refused(gatepost: Gatepost, site: Path) -> None:
    with simulator(site, stdin=subprocess.DEVNULL):
        ended = gatepost("simulate", site)
    assert ended.status == 2
    assert "can't listen on 127.0.0.1:" in ended.err
