"""Every shipped template: loads, passes the checks, and is polled and written by the real driver.

The simulator is made from the same file, but without the gateway's own decoding
(drivers/sim/registers.py), so a mistake in the codec is not made twice.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from config import template
from config.check import check_site
from config.load import load_site, require_site
from config.site import Instrument
from drivers.contract import Cycle, Driver, DriverProtocol, Surroundings
from drivers.errors import OutOfRange
from drivers.registry import check_instruments, protocol_of
from drivers.sim.device import Front, ModbusFront, make_front
from drivers.sim.plausible import plausible_values
from drivers.sim.registers import get, load_device
from gateway.core.clock import SystemClock
from tests.drivers.instruments import REPOSITORY

NAMES = template.shipped_names()
TEMPLATES_MIN = 20
CHANNELS_MIN = 5
KINDS = {"power meter", "PV inverter", "battery inverter", "hybrid inverter", "heat pump"} | {
    "variable-frequency drive",
    "mass flow controller",
    "programmable load",
    "programmable supply",
    "electrolyser",
    "EV charger",
}
PORT_UNUSED = 1


def content(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(
        (template.SHIPPED / f"{name}.json").read_text(encoding="utf-8")
    )
    return loaded


def outputs_of(name: str) -> list[str]:
    return [k for k, c in content(name)["Channels"].items() if "W" in c["ReadWrite"]]


def write_site(folder: Path, name: str, port: int, *, outputs: bool = True) -> Path:
    """A site of one device; every output is switched on and has a safe value."""
    tags: dict[str, Any] = {
        "EquipmentName": "Device",
        "Template": name,
        "PortNum": port,
        "Connection": {"IP": "127.0.0.1"},
        "Timeout": 5.0,
    }
    if content(name)["EquipmentTags"]["Communication"] == "ModbusRTU":
        tags["Communication"] = "ModbusTcp"  # as behind a gateway; the registers are the same
    channels = {
        key: {"Active": True, "SafeValue": channel["Minimum"]}
        for key, channel in content(name)["Channels"].items()
        if outputs and "W" in channel["ReadWrite"]
    }
    folder.mkdir(exist_ok=True)
    files = {
        "One-Config.json": {
            "SystemTags": {"SystemName": "One"},
            "Equipment": {"Device": {"Config": "Device.json"}},
            "DataSampling": {
                "HighSpeed": {"FilterKey": "HighSpeed", "Rate": 1},
                "MediumSpeed": {"FilterKey": "MediumSpeed", "Rate": 5},
                "LowSpeed": {"FilterKey": "LowSpeed", "Rate": 30},
            },
        },
        "Device.json": {"EquipmentTags": tags, "Channels": channels},
    }
    for file, value in files.items():
        (folder / file).write_text(json.dumps(value), encoding="utf-8")
    return folder


class Bench:
    """A template's device: its simulator, and the driver connected to it."""

    def __init__(
        self, front: Front, instrument: Instrument, protocol: DriverProtocol, driver: Driver
    ) -> None:
        self.front = front
        self.instrument = instrument
        self.protocol = protocol
        self.driver = driver

    async def poll(self) -> dict[str, float]:
        """All readable channels, by name."""
        cycle: Cycle = self.protocol.cycle(self.protocol.plan(self.instrument))
        channels = {point.index: name for name, point in self.instrument.points.items()}
        read: dict[str, float] = {}
        async for part in self.driver.read(cycle):
            assert part.error is None, f"{cycle.blocks[part.first].label}: {part.error}"
            rows = cycle.index[cycle.starts[part.first] : cycle.starts[part.last]]
            pairs = zip(rows, part.values, strict=True)
            read |= {channels[int(row)]: float(value) for row, value in pairs}
        return read

    def shown(self, channel: str) -> float:
        """What stands in the device, read without the gateway's codec."""
        if isinstance(self.front, ModbusFront):
            return get(self.front.bank, self.front.slots[channel])
        return self.front.instrument.values[channel]  # type: ignore[attr-defined]


@asynccontextmanager
async def bench(folder: Path, name: str) -> AsyncIterator[Bench]:
    device = load_device(write_site(folder, name, PORT_UNUSED), "Device")
    front = make_front(replace(device, port=0))
    port = await front.start()
    try:
        site = require_site(write_site(folder, name, port))
        instrument = site.instruments["Device"]
        protocol = protocol_of(instrument.tags.Communication)
        assert protocol is not None
        driver = protocol.open(instrument, Surroundings(SystemClock()))
        await driver.connect()
        try:
            yield Bench(front, instrument, protocol, driver)
        finally:
            await driver.close()
    finally:
        await front.stop()


def test_the_folder_holds_what_energy_sites_have() -> None:
    assert len(NAMES) >= TEMPLATES_MIN
    assert {content(name)["TemplateTags"]["Kind"] for name in NAMES} >= KINDS


@pytest.mark.parametrize("name", NAMES)
def test_a_template_says_what_it_is_and_where_it_is_from(name: str) -> None:
    tags = content(name)["TemplateTags"]
    assert name == name.lower()
    assert all(len(source) > 15 for source in tags["Source"])
    assert tags["Source"]
    assert tags["Manual"]
    assert tags["Notes"]
    assert len(content(name)["Channels"]) >= CHANNELS_MIN


@pytest.mark.parametrize("name", NAMES)
def test_outputs_of_a_template_are_off_and_have_a_range(name: str) -> None:
    for key, channel in content(name)["Channels"].items():
        if "W" in channel["ReadWrite"]:
            assert channel["Active"] is False, f"{key}: the site decides what is written"
            assert channel["Minimum"] < channel["Maximum"], key
            assert "SafeValue" not in channel, f"{key}: only the site knows what is safe"
        else:
            assert "Active" not in channel, key


def test_the_page_lists_every_template() -> None:
    page = (REPOSITORY / "docs" / "templates.md").read_text(encoding="utf-8")
    expected = []
    for name in NAMES:
        tags, channels = content(name)["TemplateTags"], content(name)["Channels"].values()
        outputs = sum("W" in channel["ReadWrite"] for channel in channels)
        expected.append(
            f"| `{name}` | {tags['Manufacturer']} {tags['Model']} | {tags['Kind']} "
            f"| {content(name)['EquipmentTags']['Communication']} | {len(channels)} | {outputs} |"
        )
    assert [line for line in page.splitlines() if line.startswith("| `")] == expected


def test_the_examples_of_the_page_load(tmp_path: Path) -> None:
    page = (REPOSITORY / "docs" / "templates.md").read_text(encoding="utf-8")
    plain, changed, own = (json.loads(t) for t in re.findall(r"```json\n(.*?)```", page, re.DOTALL))
    write_site(tmp_path, "abb-b23", 502)
    for instrument in (plain, changed):
        instrument["EquipmentTags"]["EquipmentName"] = "Device"
        (tmp_path / "Device.json").write_text(json.dumps(instrument), encoding="utf-8")
        site = require_site(tmp_path)
        assert not check_instruments(site)
    assert site.instruments["Device"].channels["Battery_Power_Setpoint"].Maximum == 5000
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "acme-p1.json").write_text(json.dumps(own), encoding="utf-8")
    plain["EquipmentTags"]["Template"] = "acme-p1"
    (tmp_path / "Device.json").write_text(json.dumps(plain), encoding="utf-8")
    assert list(require_site(tmp_path).instruments["Device"].channels) == ["Power"]


@pytest.mark.parametrize("outputs", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_template_passes_the_checks(name: str, outputs: bool, tmp_path: Path) -> None:
    site, findings = load_site(write_site(tmp_path, name, 502, outputs=outputs))
    assert site is not None, findings
    assert not findings
    findings = check_site(site) + check_instruments(site)
    # A write-only register and an address of five digits are warnings, and true ones.
    serious = {f.rule for f in findings} - {"output-unverifiable", "address-notation"}
    assert not serious, findings


@pytest.mark.parametrize("name", NAMES)
async def test_every_value_comes_back_as_it_was_put(name: str, tmp_path: Path) -> None:
    async with bench(tmp_path, name) as b:
        device = load_device(tmp_path, "Device")
        for variant in (0, 1):
            put = plausible_values(device, variant)
            for channel, value in put.items():
                b.front.show(channel, value)
            readable = {n for n, p in b.instrument.points.items() if p.readable}
            expected = {channel: put[channel] for channel in readable}
            assert await b.poll() == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", [name for name in NAMES if outputs_of(name)])
async def test_every_output_is_written_and_read_back(name: str, tmp_path: Path) -> None:
    outputs = outputs_of(name)
    async with bench(tmp_path, name) as b:
        device = load_device(tmp_path, "Device")
        for variant in (2, 3):
            wanted = {n: v for n, v in plausible_values(device, variant).items() if n in outputs}
            for channel, value in wanted.items():
                await b.driver.write(b.instrument.points[channel], value)
            read = await b.poll()  # also waits until the device has taken the last command
            for channel, value in wanted.items():
                assert b.shown(channel) == pytest.approx(value, rel=1e-6, abs=1e-9), channel
                if b.instrument.points[channel].readable:
                    assert read[channel] == pytest.approx(value, rel=1e-6, abs=1e-9), channel
        for channel in outputs:
            with pytest.raises(OutOfRange):
                await b.driver.write(b.instrument.points[channel], float("nan"))


def test_sources_are_titles_and_no_bare_addresses_of_machines() -> None:
    for name in NAMES:
        tags = content(name)["TemplateTags"]
        for source in tags["Source"]:
            assert not re.match(r"(https?://)?\d+\.\d+\.\d+\.\d+", source), (name, source)


@pytest.mark.parametrize("name", NAMES)
def test_the_simulators_values_fit_and_differ(name: str, tmp_path: Path) -> None:
    device = load_device(write_site(tmp_path, name, PORT_UNUSED), "Device")
    first, second = plausible_values(device, 0), plausible_values(device, 1)
    for channel, value in first.items():
        keys = device.channels[channel]
        assert keys.get("Minimum", value) <= value <= keys.get("Maximum", value)
    assert all(first[channel] != second[channel] for channel in first)
