"""SCPI over VISA: HiSLIP, VXI-11, a serial line, PyVISA's simulator, a library that hangs."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.util
import os
import subprocess
import sys
import threading
import tty
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pyvisa

from config.site import Instrument
from drivers.contract import Driver, Surroundings, read_block
from drivers.errors import DriverError, Garbled, NoAnswer, NotConnected
from drivers.scpi import visa as scpi_visa
from drivers.scpi.driver import PROTOCOL, check, plan
from drivers.sim.hislip_server import HislipServer
from drivers.sim.listener import Listener
from drivers.sim.vxi11_server import Vxi11Server
from gateway.core.clock import SystemClock
from tests.drivers.instruments import scpi

VOLT = {"V": {"RequestText": "VOLT?", "WriteText": "VOLT {value}", "ReadWrite": "RW"}}


class Bench:
    """A driver on some VISA address, and what the tap saw."""

    def __init__(self) -> None:
        self.frames: list[tuple[bool, bytes, str]] = []
        self.surroundings = Surroundings(SystemClock(), tap=self)
        self.driver: Driver | None = None
        self.instrument: Instrument | None = None

    def frame(self, sent: bool, data: bytes, meaning: str) -> None:
        self.frames.append((sent, data, meaning))

    async def connect(self, address: str, **keys: Any) -> None:
        self.instrument = scpi(VOLT, VISA_address=address, **{"Timeout": 0.4} | keys)
        assert check(self.instrument) == []
        self.driver = PROTOCOL.open(self.instrument, self.surroundings)
        await self.driver.connect()

    async def value(self) -> float:
        assert self.driver
        assert self.instrument
        (value,) = await read_block(PROTOCOL, self.driver, plan(self.instrument)[0])
        return float(value)

    async def write(self, value: float) -> None:
        assert self.driver
        assert self.instrument
        await self.driver.write(self.instrument.points["V"], value)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    try:
        yield bench
    finally:
        if bench.driver is not None:
            async with asyncio.timeout(10):  # whatever hangs, close does not
                await bench.driver.close()


# ---------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("TCPIP::10.0.0.7::INSTR", "network"),
        ("TCPIP0::10.0.0.7::inst0::INSTR", "network"),
        ("TCPIP::psu.lab::hislip0::INSTR", "network"),
        ("USB0::0x0AAD::0x0197::1329.6004k15-101::INSTR", "usb"),
        ("ASRL/dev/ttyUSB0::INSTR", "serial"),
        ("GPIB0::12::INSTR", None),
        ("USB0::1::INSTR", None),
        ("", None),
        ("nonsense", None),
    ],
)
def test_the_kind_of_an_address(address: str, kind: str | None) -> None:
    place = scpi_visa.place_of(scpi({}, VISA_address=address).tags)
    assert (place.kind if place else None) == kind
    findings = check(scpi(VOLT, VISA_address=address))
    assert [f.rule for f in findings] == ([] if kind else ["connection-missing"])


@pytest.mark.parametrize(
    ("key", "value"), [("Parity", "X"), ("Stopbits", 3), ("Bytesize", 9), ("Baudrate", -1)]
)
def test_a_serial_setting_that_no_line_has_is_a_finding(key: str, value: Any) -> None:
    device = scpi(VOLT, VISA_address="ASRL/dev/ttyUSB0::INSTR", Connection={key: value})
    assert [(f.key, f.rule) for f in check(device)] == [
        (f"EquipmentTags.Connection.{key}", "serial-setting")
    ]


# ---------------------------------------------------------------- the network


class Supply:
    """One number, asked for and set."""

    def __init__(self) -> None:
        self.volt = "5.5"

    def handle(self, message: str) -> str | None:
        if message.startswith("VOLT "):
            self.volt = message.split()[1]
        return {"VOLT?": self.volt, "*IDN?": "ACME,PSU,1,1.0"}.get(message)


ADDRESSES = {
    HislipServer: "TCPIP::127.0.0.1::hislip0,{port}::INSTR",
    Vxi11Server: "TCPIP::127.0.0.1,{port}::inst0::INSTR",
}


@pytest.fixture(params=list(ADDRESSES), ids=lambda kind: kind.__name__)
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Listener]:
    server = request.param(Supply().handle)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def address(server: Listener) -> str:
    return ADDRESSES[type(server)].format(port=server.port)


async def test_it_reads_and_writes_over_the_network(server: Listener, bench: Bench) -> None:
    await bench.connect(address(server))
    assert await bench.value() == 5.5
    await bench.write(7.25)
    assert await bench.value() == 7.25
    assert bench.frames == [
        (True, b"VOLT?\n", "query VOLT?"),
        (False, b"5.5\n", "answer to VOLT?"),
        (True, b"VOLT 7.25\n", "command VOLT 7.25"),
        (True, b"VOLT?\n", "query VOLT?"),
        (False, b"7.25\n", "answer to VOLT?"),
    ]


async def test_after_silence_and_late_answers_a_new_session_asks(
    server: Listener, bench: Bench
) -> None:
    await bench.connect(address(server))
    for fault, value in (("silent", True), ("delay_s", 0.6)):
        setattr(server.faults, fault, value)
        with pytest.raises(NoAnswer, match=r"within 0\.4 s"):
            await bench.value()
        server.faults.clear()
        assert await bench.value() == 5.5
    assert len(server.sessions) == 1


async def test_bytes_of_no_protocol_never_become_a_value(server: Listener, bench: Bench) -> None:
    await bench.connect(address(server))
    for fault in ("garbage", "half_frame"):
        setattr(server.faults, fault, True)
        with pytest.raises(DriverError):
            await bench.value()
        server.faults.clear()
        with contextlib.suppress(NotConnected):
            assert await bench.value() == 5.5
        assert bench.driver
        await bench.driver.connect()


# PyVISA leaves the sockets of a failed connection to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
async def test_an_instrument_that_is_not_there_is_no_connection(
    server: Listener, bench: Bench
) -> None:
    await bench.connect(address(server))
    await server.stop()
    with pytest.raises(NotConnected):
        await bench.value()
    assert bench.driver
    with pytest.raises(NotConnected, match=str(server.port)):
        await bench.driver.connect()
    await server.start()
    await bench.driver.connect()
    assert await bench.value() == 5.5
    gc.collect()


# ---------------------------------------------------------------- a serial line


class Line:
    """An instrument at the other end of a pseudo-terminal."""

    def __init__(self) -> None:
        self.master, slave = os.openpty()
        tty.setraw(slave)
        self.name = os.ttyname(slave)
        self.slave = slave
        self.late: list[bytes] = []  # wrong answers to give late, ahead of those that follow
        self._free_at = 0.0
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self.master, self._read)
        self._buffer = b""
        self.heard: list[bytes] = []

    def _read(self) -> None:
        self._buffer += os.read(self.master, 4096)
        while b"\n" in self._buffer:
            line, _, self._buffer = self._buffer.partition(b"\n")
            self.heard.append(line)
            if line == b"VOLT?":
                now = self._loop.time()
                self._free_at = max(self._free_at, now + 0.6 if self.late else now)
                answer = self.late.pop() if self.late else b"5.5\n"
                self._loop.call_at(self._free_at, os.write, self.master, answer)

    def close(self) -> None:
        self._loop.remove_reader(self.master)
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    line = Line()
    try:
        yield line
    finally:
        line.close()


async def test_a_serial_instrument_is_read_and_written(bench: Bench, line: Line) -> None:
    settings = {"Baudrate": 19200, "Parity": "N", "Stopbits": 1, "Bytesize": 8}
    await bench.connect(f"ASRL{line.name}::INSTR", Connection=settings)
    assert await bench.value() == 5.5
    await bench.write(3)
    assert await bench.value() == 5.5
    assert line.heard == [b"VOLT?", b"VOLT 3", b"VOLT?"]


async def test_a_late_answer_on_a_serial_line_is_dropped(bench: Bench, line: Line) -> None:
    await bench.connect(f"ASRL{line.name}::INSTR")
    line.late = [b"99\n"]
    with pytest.raises(NoAnswer):
        await bench.value()
    assert await bench.value() == 5.5  # asked when the line was quiet
    assert await bench.value() == 5.5
    assert line.heard == [b"VOLT?"] * 3


async def test_unasked_bytes_on_a_serial_line_end_the_session(bench: Bench, line: Line) -> None:
    await bench.connect(f"ASRL{line.name}::INSTR")
    assert await bench.value() == 5.5
    os.write(line.master, b"42\n")
    await asyncio.sleep(0.05)
    with pytest.raises(Garbled, match="unasked"):
        await bench.value()
    assert await bench.value() == 5.5


async def test_a_port_that_is_not_there_is_no_connection(bench: Bench) -> None:
    with pytest.raises(NotConnected, match="/dev/ttyNOPE"):
        await bench.connect("ASRL/dev/ttyNOPE::INSTR")


# ---------------------------------------------------------------- PyVISA's simulator

SIMULATED = """
spec: "1.1"
devices:
  supply:
    eom:
      USB INSTR: {q: "\\n", r: "\\n"}
    dialogues:
      - {q: "*IDN?", r: "ACME,PSU,1,1.0"}
    properties:
      volt:
        default: 5.5
        getter: {q: "VOLT?", r: "{:.3f}"}
        setter: {q: "VOLT {:.3f}"}
        specs: {min: 0, max: 60, type: float}
resources:
  USB0::0x1111::0x2222::0x1234::0::INSTR: {device: supply}
"""


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[pyvisa.ResourceManager]:
    file = tmp_path / "supply.yaml"
    file.write_text(SIMULATED)
    manager = pyvisa.ResourceManager(f"{file}@sim")
    yield manager
    manager.close()


async def test_a_usb_instrument_of_pyvisas_simulator(
    bench: Bench, manager: pyvisa.ResourceManager
) -> None:
    bench.surroundings.shared[scpi_visa.MANAGER] = manager
    await bench.connect("USB0::0x1111::0x2222::0x1234::0::INSTR")
    assert await bench.value() == 5.5
    await bench.write(12.5)
    assert await bench.value() == 12.5


@pytest.mark.skipif(importlib.util.find_spec("usb") is not None, reason="pyusb is installed")
async def test_usb_without_its_package_says_what_is_missing(bench: Bench) -> None:
    with pytest.raises(NotConnected, match="PyUSB") as error:
        await bench.connect("USB0::0x1111::0x2222::0x1234::0::INSTR")
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------- a library that hangs


class Hanging:
    """A resource manager whose instruments hang in their first write."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.opened = self.closed = 0

    def open_resource(self, address: str) -> Any:
        self.opened += 1
        return self

    def write_raw(self, line: bytes) -> None:
        self.go_on.wait()

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    hanging = Hanging()
    yield hanging
    hanging.go_on.set()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def test_a_library_that_hangs_holds_up_nothing_and_is_not_called_for_ever(
    bench: Bench, hanging: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scpi_visa, "GRACE_S", 0.05)
    bench.surroundings.shared[scpi_visa.MANAGER] = hanging
    await bench.connect("USB0::1::2::3::INSTR", Timeout=0.05)
    for _ in range(scpi_visa.HUNG_MAX):
        with pytest.raises(NoAnswer, match="does not return"):
            await bench.value()
    with pytest.raises(NotConnected, match="3 calls of the VISA library did not return"):
        await bench.value()
    assert hanging.opened == scpi_visa.HUNG_MAX
    hanging.go_on.set()
    await until(lambda: hanging.closed == scpi_visa.HUNG_MAX)
    assert bench.driver
    await bench.driver.connect()


HANGS = """
import asyncio, time
from drivers.scpi import visa as scpi_visa
from tests.drivers.test_scpi_visa import Bench, Hanging
async def main():
    bench = Bench()
    bench.surroundings.shared[scpi_visa.MANAGER] = Hanging()
    await bench.connect("USB0::1::2::3::INSTR", Timeout=60)
    asyncio.ensure_future(bench.value())
    while not bench.frames:
        await asyncio.sleep(0.01)
asyncio.run(main())
"""


def test_a_library_that_hangs_does_not_keep_the_process() -> None:
    subprocess.run([sys.executable, "-c", HANGS], timeout=30, check=True)


async def test_closing_ends_a_wait_for_a_library_that_hangs(
    bench: Bench, hanging: Hanging, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scpi_visa, "GRACE_S", 0.05)
    bench.surroundings.shared[scpi_visa.MANAGER] = hanging
    await bench.connect("USB0::1::2::3::INSTR", Timeout=5)
    waiting = asyncio.create_task(bench.value())
    await until(lambda: bool(bench.frames))
    assert bench.driver
    closing = asyncio.create_task(bench.driver.close())
    with pytest.raises(NotConnected):
        await waiting
    hanging.go_on.set()
    await closing
