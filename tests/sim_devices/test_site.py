"""The simulated devices of a site, read and written by a real field process and real drivers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from config import status
from config.load import require_site
from drivers.contract import Cycle, Driver, DriverProtocol, Surroundings
from drivers.registry import protocol_of
from drivers.sim.site import SimulatedSite, SimulationError
from gateway.core.clock import SystemClock
from tests.cli.devices import meter_file, supply_file, write_site
from tests.gateway.running import Running
from tests.gateway.sites import CHANNELS, Rig, eventually

PRESSURE = CHANNELS["Temperature"] | {"IOPoint": 2, "Minimum": 0, "Maximum": 16, "Units": "bar"}
ALIKE = PRESSURE | {"IOPoint": 4}
WORD = CHANNELS["Temperature"] | {"IOPoint": 6, "DataType": "int16", "Scalar": 0.1}
DOOR = {"Type": "DiscreteInputs", "DataType": "bool", "IOPoint": 3, "States": ["shut", "open"]}
DOOR |= {"Tags": ["Fast"]}
PUMP = CHANNELS["Valve"] | {"IOPoint": 1, "ReadWrite": "W", "States": ["off", "on"]}
PUMP |= {"ReadBack": "Running"}
RUNS = DOOR | {"IOPoint": 4, "States": ["off", "on"]}
MORE = {"Pressure": PRESSURE, "Pressure_2": ALIKE, "Word": WORD, "Door": DOOR}
MORE |= {"Pump": PUMP, "Running": RUNS}


class Bench:
    """A site whose device is simulated, and what the simulator said."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.said: list[str] = []
        self.site = SimulatedSite(self.said.append)
        instrument = require_site(rig.folder).instruments["Rig"]
        self.site.add(rig.folder, instrument, ("127.0.0.1", rig.port))


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    rig = Rig(tmp_path)
    await rig.start()
    await rig.stop()  # its port is free now
    rig.write(channels=MORE)
    made = Bench(rig)
    await made.site.start()
    yield made
    await made.site.stop()


@pytest.fixture
async def running(bench: Bench) -> AsyncIterator[Running]:
    made = Running(bench.rig)
    await made.ready()
    yield made
    await made.end()


async def test_a_gateway_reads_what_is_typed(bench: Bench, running: Running) -> None:
    assert running.value("Rig.Pressure") == 4.0  # a quarter of its range
    assert running.value("Rig.Pressure_2") == 4.0
    assert running.value("Rig.Door") == 0
    assert running.value("Rig.Word") >= 0
    await bench.site.obey("Rig.Pressure 7.5\n")
    await bench.site.obey("Rig.Door open")
    await bench.site.obey("Rig.Word -12.34")
    await eventually(lambda: running.value("Rig.Pressure") == 7.5)
    await eventually(lambda: running.value("Rig.Door") == 1)
    await eventually(lambda: running.value("Rig.Word") == pytest.approx(-12.3))
    shown = ["Rig.Pressure = 7.5 bar", "Rig.Door = 1 (open)", "Rig.Word = -12.3 degC"]
    assert [line for line in bench.said if "written" not in line] == shown


async def test_a_bad_channel_is_refused_alone_and_comes_back(
    bench: Bench, running: Running
) -> None:
    await bench.site.obey("Rig.Pressure bad")
    await eventually(lambda: status.is_bad(running.status("Rig.Pressure")))
    await bench.site.obey("Rig.Temperature 33")
    await eventually(lambda: running.value("Rig.Temperature") == 33)
    assert running.status("Rig.Temperature") == status.GOOD
    await bench.site.obey("Rig.Pressure good")
    await eventually(lambda: running.status("Rig.Pressure") == status.GOOD)
    await bench.site.obey("Rig.Pressure bad")
    await eventually(lambda: status.is_bad(running.status("Rig.Pressure")))
    await bench.site.obey("Rig.Pressure 9")  # a value ends it too
    await eventually(lambda: running.status("Rig.Pressure") == status.GOOD)
    assert running.value("Rig.Pressure") == 9
    assert bench.said[-2:] == ["Rig.Pressure is bad", "Rig.Pressure = 9 bar"]


async def test_what_the_gateway_writes_is_told_once_and_shown_where_it_is_read_back(
    bench: Bench, running: Running
) -> None:
    assert running.send("Rig.Pump", 1)
    await eventually(lambda: "Rig.Pump = 1 (on), written" in bench.said)
    await eventually(lambda: running.value("Rig.Running") == 1)
    await eventually(lambda: bool(running.events("receipt", step="verified", tag="Rig.Pump")))
    assert bench.said.count("Rig.Pump = 1 (on), written") == 1
    await bench.site.obey("Rig.Valve open")  # at the device's own panel
    await eventually(lambda: "Rig.Valve = 1 (open)" in bench.said)


async def test_a_trip_is_seen_in_the_device(bench: Bench, running: Running) -> None:
    assert running.send("Rig.Valve", 1)
    await eventually(lambda: "Rig.Valve = 1 (open), written" in bench.said)
    await bench.site.obey("Rig.Temperature 950")
    await eventually(lambda: bench.said[-1] == "Rig.Valve = 0 (closed), written")


async def test_a_device_that_is_off_is_lost_and_comes_back(bench: Bench, running: Running) -> None:
    await bench.site.obey("Rig off")
    await eventually(lambda: status.is_bad(running.status("Rig.Temperature")))
    await bench.site.obey("Rig off")
    await bench.site.obey("Rig.Temperature 44")
    await bench.site.obey("Rig on")
    await eventually(lambda: running.status("Rig.Temperature") == status.GOOD)
    await eventually(lambda: running.value("Rig.Temperature") == 44)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("Rig.Presure 3", 'nothing here is called Rig.Presure. Did you mean "Rig.Pressure"?'),
        ("Rgi off", 'nothing here is called Rgi. Did you mean "Rig"?'),
        ("Rig.Pressure much", "Rig.Pressure: much is no number"),
        ("Rig.Door opne", 'Rig.Door: opne is no number or state of it. Did you mean "open"?'),
        ("Rig.Pressure inf", "Rig.Pressure: its data type has no inf"),
        ("Rig.Word nan", "Rig.Word: its data type has no nan"),
        ("Rig.Pressure 1e39", "Rig.Pressure: 1e+39 does not fit its data type"),
        ("Rig.Pressure", "Rig.Pressure: what shall it be?"),
        ("Rig slow", "Rig: a device is switched on or off"),
    ],
)
async def test_what_makes_no_sense_is_said(bench: Bench, line: str, said: str) -> None:
    with pytest.raises(SimulationError) as refused:
        await bench.site.obey(line)
    assert str(refused.value).startswith(said)
    await bench.site.obey("  ")


async def test_all_values_are_listed(bench: Bench) -> None:
    await bench.site.obey("Rig.Door bad")
    bench.said.clear()
    await bench.site.obey("list")
    assert len(bench.said) == len(CHANNELS) + len(MORE)
    assert "Rig.Setpoint = 5 degC" in bench.said  # its safe value
    assert "Rig.Door is bad" in bench.said


async def test_a_taken_port_is_said(bench: Bench) -> None:
    with pytest.raises(SimulationError, match=f"can't listen on 127.0.0.1:{bench.rig.port}: "):
        await Bench(bench.rig).site.start()


# ---------------------------------------------------------------- several devices


class Read:
    """A device as its driver reads it."""

    def __init__(self, folder: Path, name: str) -> None:
        self.instrument = require_site(folder).instruments[name]
        protocol = protocol_of(self.instrument.tags.Communication)
        assert protocol is not None
        self.protocol: DriverProtocol = protocol
        self.driver: Driver = protocol.open(self.instrument, Surroundings(SystemClock()))

    async def values(self) -> dict[str, float]:
        """Channels that are answered."""
        cycle: Cycle = self.protocol.cycle(self.protocol.plan(self.instrument))
        names = {point.index: name for name, point in self.instrument.points.items()}
        found: dict[str, float] = {}
        async for part in self.driver.read(cycle):
            if part.error is None:
                rows = cycle.index[cycle.starts[part.first] : cycle.starts[part.last]]
                for row, value in zip(rows, part.values, strict=True):
                    found[names[int(row)]] = float(value)
        return found


async def simulated(folder: Path, said: list[str], **files: dict[str, Any]) -> SimulatedSite:
    """A started site; each device at the port of its file."""
    write_site(folder, **files)
    made = SimulatedSite(said.append)
    for name, instrument in require_site(folder).instruments.items():
        tags = files[name]["EquipmentTags"]
        port = tags.get("PortNum") or int(tags["VISA_address"].split("::")[2])
        made.add(folder, instrument, ("127.0.0.1", port))
    await made.start()
    return made


def unit(port: int, name: str, number: int) -> dict[str, Any]:
    content = json.loads(json.dumps(meter_file(port)))
    content["EquipmentTags"] |= {"EquipmentName": name}
    content["EquipmentTags"]["Connection"]["Unit"] = number
    loaded: dict[str, Any] = content
    return loaded


async def test_units_behind_one_address_have_registers_of_their_own(
    tmp_path: Path, unused_tcp_port: int
) -> None:
    files = {"A": unit(unused_tcp_port, "A", 1), "B": unit(unused_tcp_port, "B", 2)}
    said: list[str] = []
    site = await simulated(tmp_path / "site", said, **files)
    a, b = Read(tmp_path / "site", "A"), Read(tmp_path / "site", "B")
    try:
        await site.obey("A.First 11")
        await site.obey("B.First 22")
        await a.driver.connect()
        await b.driver.connect()
        assert (await a.values())["First"] == 11
        assert (await b.values())["First"] == 22
        await b.driver.write(b.instrument.points["On"], 1.0)
        assert said[-1] == "B.On = 1 (On), written"
        assert (await a.values())["On"] == 0
        await site.obey("B off")
        assert await b.values() == {}
        assert (await a.values())["First"] == 11
        await site.obey("B on")
        assert (await b.values())["First"] == 22
    finally:
        await a.driver.close()
        await b.driver.close()
        await site.stop()


async def test_the_same_unit_twice_is_refused(tmp_path: Path, unused_tcp_port: int) -> None:
    files = {"A": unit(unused_tcp_port, "A", 1), "B": unit(unused_tcp_port, "B", 1)}
    with pytest.raises(SimulationError, match=r"B: another device has .*, unit 1; name one"):
        await simulated(tmp_path / "site", [], **files)


async def test_an_scpi_instrument_is_read_written_and_refuses(
    tmp_path: Path, unused_tcp_port: int
) -> None:
    said: list[str] = []
    site = await simulated(tmp_path / "site", said, PSU=supply_file(unused_tcp_port))
    psu = Read(tmp_path / "site", "PSU")
    try:
        await site.obey("PSU.Voltage 47.5")
        await psu.driver.connect()
        assert await psu.values() == {"Voltage": 47.5, "Setpoint": 0}
        await psu.driver.write(psu.instrument.points["Setpoint"], 12.0)
        assert (await psu.values())["Setpoint"] == 12
        assert said[-1] == "PSU.Setpoint = 12 V, written"
        await site.obey("PSU.Voltage bad")
        assert await psu.values() == {"Setpoint": 12}
    finally:
        await psu.driver.close()
        await site.stop()
