"""The scan for units and registers, against our simulator; pymodbus is the client."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from drivers.discovery import clean, name_of
from drivers.errors import NotConnected
from drivers.modbus import discover as modbus_scan
from drivers.modbus.discover import CHANNELS_MAX, Unit, described, discover_modbus
from drivers.sim.modbus_server import ModbusServer, RegisterBank

Start = Callable[..., Awaitable["Line"]]


class Line:
    """One device, and what was said about it."""

    def __init__(self, server: ModbusServer, bank: RegisterBank) -> None:
        self.server = server
        self.bank = bank
        self.said: list[str] = []

    async def scan(
        self,
        units: Sequence[int] = range(1, 5),
        addresses: Sequence[int] = range(301),
        answer_s: float = 0.15,
    ) -> list[str]:
        found = await discover_modbus(
            ("127.0.0.1", self.server.port),
            self.said.append,
            units=units,
            addresses=addresses,
            answer_s=answer_s,
        )
        self.found = found
        return list(found.channels)


@pytest.fixture
async def line() -> AsyncIterator[Start]:
    servers: list[ModbusServer] = []

    async def start(unit: int | None = 3, **tables: list[tuple[int, int]]) -> Line:
        bank = RegisterBank()
        bank.holding[:] = np.arange(65536, dtype=np.uint16)
        for table in ("holding", "inputs", "coils", "discretes"):
            bank.allow_only(table, tables.get(table, []))
        server = ModbusServer(bank, unit=unit or 1)
        for other in range(1, 248) if unit is None else ():
            server.add_unit(other, bank)
        servers.append(server)
        await server.start()
        return Line(server, bank)

    yield start
    for server in servers:
        await server.stop()


async def test_areas_are_found_in_each_table_to_the_register(line: Start) -> None:
    made = await line(holding=[(10, 7), (60, 10), (200, 100)], coils=[(0, 3)], inputs=[(0, 1)])
    wanted = [
        *(f"Holding_{a}" for a in (*range(10, 17), *range(60, 70), *range(200, 300))),
        "Input_0",
        *(f"Coil_{a}" for a in range(3)),
    ]
    assert await made.scan() == wanted
    assert made.found.tags["Connection"] == {"IP": "127.0.0.1", "Unit": 3}
    assert "unit 3: 117 readable in HRegister" in made.said


async def test_only_the_wanted_addresses_are_asked_for(line: Start) -> None:
    made = await line(holding=[(0, 65536)])
    names = await made.scan(addresses=[5, 6, 7, 30_000, 30_001])
    assert names == [f"Holding_{a}" for a in (5, 6, 7, 30_000, 30_001)]


async def test_a_device_that_answers_to_every_number_is_one_device(line: Start) -> None:
    made = await line(unit=None, holding=[(0, 4)])
    names = await made.scan(units=range(1, 248))
    assert names == [f"Holding_{a}" for a in range(4)]
    assert any("answers to every number" in text for text in made.said)
    assert made.server.requests < 1000


async def test_silence_is_no_device(line: Start) -> None:
    made = await line()
    made.server.faults.silent = True
    assert await made.scan(answer_s=0.02) == []
    assert made.found.notes == []


async def test_a_gateways_word_for_a_missing_unit_is_no_device(line: Start) -> None:
    made = await line(unit=None)
    for code, units in ((10, 0), (11, 0), (4, 1)):
        made.server.faults.exception_code = code
        made.said.clear()
        await made.scan(units=[1])
        assert len([text for text in made.said if "answers" in text]) == units


async def test_a_sunspec_map_is_noticed(line: Start) -> None:
    made = await line(holding=[(40000, 4)])
    made.bank.holding[40000:40002] = (0x5375, 0x6E53)
    await made.scan(addresses=range(64))
    assert made.found.notes[0].startswith("unit 3 speaks SunSpec (at 40000)")


@pytest.mark.parametrize("fault", ["garbage", "half_frame", "wrong_unit", "wrong_transaction"])
async def test_what_breaks_the_protocol_is_no_device(line: Start, fault: str) -> None:
    made = await line(holding=[(0, 4)])
    setattr(made.server.faults, fault, True)
    assert await made.scan(answer_s=0.02) == []


async def test_nobody_there_is_no_connection(line: Start) -> None:
    made = await line()
    await made.server.stop()
    with pytest.raises(NotConnected, match=str(made.server.port)):
        await made.scan()


async def test_what_was_found_before_a_device_goes_away_is_kept(line: Start) -> None:
    made = await line(holding=[(0, 65536)])

    def tell(text: str) -> None:
        made.said.append(text)
        if text == "unit 3: 301 readable in HRegister":  # after the first table
            made.server.faults.close_after = 1
            asyncio.get_running_loop().create_task(made.server.stop())

    found = await discover_modbus(
        ("127.0.0.1", made.server.port), tell, units=[3], addresses=range(301), answer_s=0.15
    )
    assert len(found.channels) == 301
    assert str(made.server.port) in found.broken
    assert "refused" in found.broken


async def test_a_device_that_falls_silent_is_told_from_one_that_ends_there(line: Start) -> None:
    made = await line(holding=[(0, 65536)])

    def tell(text: str) -> None:
        made.server.faults.silent |= text.endswith("HRegister")

    found = await discover_modbus(
        ("127.0.0.1", made.server.port), tell, units=[3], addresses=range(301), answer_s=0.05
    )
    assert len(found.channels) == 301
    assert found.notes == [
        f"unit 3: {kind} up to 191: 3 questions without an answer; nothing behind it was tried"
        for kind in ("IRegister", "Coil", "DiscreteInputs")
    ]


async def test_a_long_scan_says_where_it_is(line: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modbus_scan, "PROGRESS_S", 1e-9)
    made = await line(holding=[(0, 4)])
    await made.scan()
    assert "trying unit 2, up to 4" in made.said
    assert "unit 3: HRegister 128, up to 300" in made.said


async def test_why_there_is_no_connection_is_said(
    line: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = await line()
    await made.server.stop()
    with pytest.raises(NotConnected, match="Connection refused"):
        await made.scan()
    (tmp_path / "tty").write_bytes(b"")
    serial = modbus_scan.Serial(str(tmp_path / "tty"))
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(NotConnected, match="no right to use the port"):
        await discover_modbus(serial, made.said.append)


def test_several_units_share_a_file_and_a_large_one_is_cut() -> None:
    units = [Unit(2, {"maker": "ACME Inc.", "product": "M-1"}, {3: [(0, 600)]})]
    units.append(Unit(7, {}, {3: [(0, 600)], 1: [(5, 1)]}))
    found = described(("10.0.0.7", 502), units)
    assert len(found.channels) == CHANNELS_MAX
    assert found.channels["U7_Holding_0"]["Unit"] == 7
    assert found.tags["EquipmentName"] == "ACME_Inc_M_1"
    assert found.notes[0] == "unit 2: maker ACME Inc., product M-1"
    assert "201 more registers answer" in found.notes[-1]


def test_names_out_of_what_devices_say() -> None:
    assert name_of("  Ünit #4 (north)", "") == "nit_4_north"
    assert name_of("", "---") == "Device"
    assert name_of("Gateway") == "Gateway_device"  # a site has a Gateway of its own
    assert len(name_of("x" * 500)) == 40
    assert clean(b"AB\x00\x1b[31m\xff") == "AB[31m\ufffd"
