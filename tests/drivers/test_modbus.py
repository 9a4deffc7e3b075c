"""The Modbus driver's exchanges with the simulated device."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from itertools import product
from typing import Any

import pytest

from config.site import Instrument
from drivers.contract import Block, Surroundings, read_block
from drivers.errors import Garbled, NoAnswer, OutOfRange, Refused
from drivers.modbus.cycle import ModbusCycle
from drivers.modbus.tcp import PROTOCOL, ModbusDriver, plan, split
from drivers.sim.modbus_server import ModbusServer, RegisterBank, Rejected
from gateway.core.clock import SystemClock
from tests.drivers.instruments import modbus

HOLDING = {"Type": "HRegister", "ReadWrite": "RW"}


# ---------------------------------------------------------------- exchanges


class Device:
    """The simulated device and a driver that is connected to it."""

    def __init__(self) -> None:
        self.bank = RegisterBank()
        self.writes: list[tuple[str, int, list[int]]] = []
        self.server = ModbusServer(self.bank, on_write=self.note)
        self.refused_code = 0
        self.driver: ModbusDriver | None = None
        self.instrument: Instrument | None = None

    def note(self, kind: str, first: int, values: list[int]) -> None:
        if self.refused_code:
            raise Rejected(self.refused_code)
        self.writes.append((kind, first, values))

    async def connect(self, channels: dict[str, dict[str, Any]], **tags: Any) -> None:
        port = await self.server.start()
        self.instrument = modbus(channels, port, **tags)
        self.driver = ModbusDriver(self.instrument, Surroundings(SystemClock()))
        await self.driver.connect()

    async def values(self) -> dict[str, float]:
        assert self.driver
        assert self.instrument
        names = list(self.instrument.points)
        found = {}
        for block in plan(self.instrument):
            values = await self.read(block)
            found |= dict(zip([names[i - 1] for i in block.index], map(float, values), strict=True))
        return found

    async def read(self, block: Block) -> list[float]:
        assert self.driver
        return list(map(float, await read_block(PROTOCOL, self.driver, block)))

    async def write(self, channel: str, value: float) -> None:
        assert self.driver
        assert self.instrument
        await self.driver.write(self.instrument.points[channel], value)


@pytest.fixture
async def device() -> AsyncIterator[Device]:
    device = Device()
    try:
        yield device
    finally:
        if device.driver:
            await device.driver.close()
        await device.server.stop()


NUMBERS = {
    "int16": -1234.0,
    "uint16": 60000.0,
    "float16": -0.5,
    "int32": -70000.0,
    "uint32": 4e9,
    "float32": 1.25e-3,
    "int64": -(2.0**40),
    "uint64": 2.0**52,
    "float64": math.pi,
}


@pytest.mark.parametrize("orders", list(product(("Big", "Little"), repeat=2)))
async def test_every_type_is_read_and_written_in_every_order(device: Device, orders) -> None:
    byte_order, word_order = orders
    channels = {
        name: HOLDING | {"DataType": name, "IOPoint": 10 * i}
        for i, name in enumerate(NUMBERS, start=1)
    }
    inputs = {
        f"{name}_in": {"Type": "IRegister", "DataType": name, "IOPoint": 10 * i}
        for i, name in enumerate(NUMBERS, start=1)
    }
    for i, name in enumerate(NUMBERS, start=1):
        for kind in ("holding", "inputs"):
            number = 0.001220703125 if name == "float32" else NUMBERS[name]
            device.bank.put(kind, 10 * i, number, name, byte_order, word_order)
    await device.connect(channels | inputs, ByteOrder=byte_order, WordOrder=word_order)
    expected = NUMBERS | {"float32": 0.001220703125}
    expected |= {f"{name}_in": value for name, value in expected.items()}
    assert await device.values() == expected
    for i, name in enumerate(NUMBERS, start=1):
        await device.write(name, NUMBERS[name] / 2)
        stored = device.bank.get("holding", 10 * i, name, byte_order, word_order)
        assert stored == pytest.approx(NUMBERS[name] / 2, rel=1e-7)
    assert len(device.writes) == len(NUMBERS)  # one request each: no value is ever half written


async def test_the_vfd_of_the_seed_reads_and_writes(device: Device) -> None:
    channels = {
        "RUN_STOP": {
            "Active": True,
            "Type": "HRegister",
            "Registers": 1,
            "DataType": "bool",
            "ReadWrite": "RW",
            "IOPoint": 8192,
            "Scalar": 1,
            "Offset": 0,
            "Decimal": 1,
        },
        "FREQUENCY_SETPT": {
            "Active": True,
            "Type": "HRegister",
            "Registers": 1,
            "DataType": "int16",
            "ReadWrite": "RW",
            "IOPoint": 8193,
            "Scalar": 0.01,  # no Offset, no Decimal: the seed's own driver failed on this
        },
    }
    await device.connect(channels)
    await device.write("FREQUENCY_SETPT", 48.53)
    await device.write("RUN_STOP", 1)
    assert [int(x) for x in device.bank.holding[8192:8194]] == [1, 4853]
    assert await device.values() == {"RUN_STOP": 1.0, "FREQUENCY_SETPT": 48.53}
    assert device.server.requests == 3  # two writes, one block


async def test_coils_and_discrete_inputs(device: Device) -> None:
    device.bank.discretes[[3, 11]] = True
    await device.connect(
        {f"D{i}": {"Type": "DiscreteInputs", "IOPoint": i} for i in range(12)}
        | {"C": {"Type": "Coil", "IOPoint": 65535, "ReadWrite": "RW"}}
    )
    values = await device.values()
    assert [name for name, value in values.items() if value] == ["D3", "D11"]
    await device.write("C", 1)
    assert (await device.values())["C"] == 1
    await device.write("C", 0)
    assert device.writes == [("coils", 65535, [1]), ("coils", 65535, [0])]
    with pytest.raises(OutOfRange):
        await device.write("C", 0.5)


async def test_units_behind_one_gateway_are_told_apart(device: Device) -> None:
    other = RegisterBank()
    device.server.add_unit(7, other)
    device.bank.put("holding", 0, 1, "uint16")
    other.put("holding", 0, 7, "uint16")
    keys = HOLDING | {"DataType": "uint16", "IOPoint": 0}
    await device.connect({"One": keys, "Seven": keys | {"Unit": "7"}, "None": keys | {"Unit": 9}})
    assert device.instrument
    one, seven, absent = plan(device.instrument)
    assert await device.read(one) == [1.0]
    assert await device.read(seven) == [7.0]
    with pytest.raises(Refused, match=r"unit 9, holding registers 0: .*code 11"):
        await device.read(absent)
    await device.write("Seven", 70)
    assert (int(device.bank.holding[0]), int(other.holding[0])) == (1, 70)


async def test_a_block_with_a_gap_that_does_not_exist_is_read_in_its_parts(device: Device) -> None:
    device.bank.allow_only("holding", [(0, 2), (5, 1)])
    device.bank.put_float32("holding", 0, 2.5)
    device.bank.put("holding", 5, 7, "int16")
    device.bank.allow_only("coils", [(0, 9), (12, 1)])
    device.bank.coils[[8, 12]] = True
    await device.connect(
        {
            "A": {"Type": "HRegister", "IOPoint": 0},
            "B": {"Type": "HRegister", "IOPoint": 5, "DataType": "int16"},
            "C": {"Type": "Coil", "IOPoint": 0},
            "D": {"Type": "Coil", "IOPoint": 8},
            "E": {"Type": "Coil", "IOPoint": 12},
        }
    )
    assert device.instrument
    found = {}
    for block in plan(device.instrument):
        with pytest.raises(Refused) as refusal:
            await device.read(block)
        assert refusal.value.permanent
        for part in split(block):
            found |= dict(zip(part.index.tolist(), await device.read(part), strict=True))
    # The coils 0 and 8 have a gap between them too.
    assert found == {1: 2.5, 2: 7.0, 3: 0.0, 4: 1.0, 5: 1.0}


async def test_an_address_that_does_not_exist_is_refused_and_named(device: Device) -> None:
    device.bank.allow_only("holding", [(0, 10)])
    await device.connect({"X": {"Type": "HRegister", "IOPoint": 9}})
    with pytest.raises(Refused, match=r"holding registers 9 to 10.*address") as refusal:
        await device.values()
    assert refusal.value.permanent
    device.bank.allow_only("holding", [(0, 11)])
    assert await device.values() == {"X": 0.0}


async def test_a_bit_field_is_written_by_mask_and_its_neighbours_stay(device: Device) -> None:
    device.bank.holding[4] = 0xF00F
    field = HOLDING | {"DataType": "bit", "IOPoint": 4}
    await device.connect({"Mode": field | {"BitStart": 4, "BitEnd": 6}})
    await device.write("Mode", 5)
    assert int(device.bank.holding[4]) == 0xF05F
    assert device.server.requests == 1
    assert await device.values() == {"Mode": 5.0}


@pytest.mark.parametrize("byte_order", ["Big", "Little"])
async def test_without_mask_writes_a_bit_field_is_read_changed_and_written(
    device: Device, byte_order: str
) -> None:
    device.server.functions_off = {22}
    device.bank.holding[4] = 0xF00F
    field = HOLDING | {"DataType": "bit", "IOPoint": 4}
    await device.connect({"Mode": field | {"BitStart": 4, "BitEnd": 6}}, ByteOrder=byte_order)
    await device.write("Mode", 5)
    await device.write("Mode", 2)
    # With swapped bytes the register means 0x0FF0; its bits 4 to 6 become 010: 0x0FA0.
    assert int(device.bank.holding[4]) == (0xF02F if byte_order == "Big" else 0xA00F)
    assert device.server.requests == 1 + 2 + 2  # the mask write is tried once
    assert await device.values() == {"Mode": 2.0}


async def test_a_device_that_ignores_mask_writes_gets_another_kind_the_next_time(
    device: Device,
) -> None:
    field = HOLDING | {"DataType": "bit", "IOPoint": 4, "BitStart": 4}
    await device.connect({"Flag": field}, Timeout=0.4)
    device.server.faults.silent = True
    with pytest.raises(NoAnswer):
        await device.write("Flag", 1)
    device.server.faults.clear()
    device.server.functions_off = {22}
    await device.write("Flag", 1)
    assert device.server.requests == 3
    assert int(device.bank.holding[4]) == 0x10


async def test_a_bit_field_across_two_registers_is_written_in_one_request(device: Device) -> None:
    device.bank.holding[4:6] = (0xFFFF, 0x0FFF)
    field = HOLDING | {"DataType": "bit", "IOPoint": 4, "BitStart": 12, "BitEnd": 19}
    await device.connect({"Wide": field})
    await device.write("Wide", 0xAB)
    assert [int(x) for x in device.bank.holding[4:6]] == [0xFFFA, 0xBFFF]
    assert device.writes == [("holding", 4, [0xFFFA, 0xBFFF])]


async def test_writes_to_one_register_at_once_lose_no_bit(device: Device) -> None:
    device.server.functions_off = {22}
    device.server.faults.delay_s = 0.002
    field = HOLDING | {"DataType": "bit", "IOPoint": 4}
    channels = {f"B{i}": field | {"BitStart": i} for i in range(16)}
    await device.connect(channels, Depth=8, Timeout=2)
    await asyncio.gather(*(device.write(name, 1) for name in channels))
    assert int(device.bank.holding[4]) == 0xFFFF


async def test_without_single_writes_a_register_goes_by_function_16(device: Device) -> None:
    device.server.functions_off = {6}
    await device.connect({"X": HOLDING | {"DataType": "uint16", "IOPoint": 4}})
    await device.write("X", 5)
    await device.write("X", 6)
    assert device.writes == [("holding", 4, [5]), ("holding", 4, [6])]
    assert device.server.requests == 3


@pytest.mark.parametrize(("code", "permanent"), [(2, True), (3, True), (4, False), (6, False)])
async def test_a_refused_write_says_so_and_changes_nothing(
    device: Device, code: int, permanent: bool
) -> None:
    device.refused_code = code
    await device.connect({"X": HOLDING | {"DataType": "uint16", "IOPoint": 4}})
    with pytest.raises(Refused) as refusal:
        await device.write("X", 5)
    assert (refusal.value.code, refusal.value.permanent) == (code, permanent)
    assert int(device.bank.holding[4]) == 0


async def test_nan_of_the_device_and_sentinels_are_nan(device: Device) -> None:
    device.bank.holding[0:2] = (0x7FC0, 0)
    device.bank.holding[2] = 0x8000
    await device.connect(
        {
            "A": {"Type": "HRegister", "IOPoint": 0},
            "B": {"Type": "HRegister", "IOPoint": 2, "DataType": "int16", "Sentinels": [32768]},
            "C": {"Type": "HRegister", "IOPoint": 3, "DataType": "int16", "Sentinels": [32768]},
        }
    )
    values = await device.values()
    assert math.isnan(values["A"])
    assert math.isnan(values["B"])
    assert values["C"] == 0


@pytest.mark.parametrize("depth", [1, 16])
async def test_a_cycle_of_many_blocks_is_read_in_order(device: Device, depth: int) -> None:
    channels = {
        f"X{i}": {"Type": "HRegister", "DataType": "uint16", "IOPoint": 100 * i} for i in range(99)
    }
    for i in range(99):
        device.bank.holding[100 * i] = i
    await device.connect(channels, Depth=depth)
    assert device.driver
    assert device.instrument
    cycle = ModbusCycle(plan(device.instrument))
    for _ in range(3):
        values = [v async for part in device.driver.read(cycle) for v in part.values.tolist()]
        assert values == list(range(99))


async def test_a_write_during_a_cycle_goes_ahead_of_what_was_not_sent(device: Device) -> None:
    keys = {"Type": "HRegister", "DataType": "uint16", "ReadWrite": "RW"}
    await device.connect({f"X{i}": keys | {"IOPoint": 100 * i} for i in range(40)}, Depth=16)
    assert device.driver
    assert device.instrument
    device.server.faults.delay_s = 0.02
    values: list[float] = []
    async for part in device.driver.read(ModbusCycle(plan(device.instrument))):
        if not values:
            await device.write("X39", 7)
        values += part.values.tolist()
    assert values == [0.0] * 39 + [7.0]


async def test_what_can_only_be_read_is_refused_unsent(device: Device) -> None:
    keys = {"Type": "IRegister", "DataType": "uint16", "IOPoint": 4}
    await device.connect({"In": keys, "Out": keys | {"Type": "HRegister"}})
    for channel in ("In", "Out"):
        with pytest.raises(Refused, match="can only be read") as refusal:
            await device.write(channel, 1)
        assert refusal.value.permanent
    assert device.server.requests == 0


async def test_every_frame_is_shown_to_who_taps(device: Device) -> None:
    class Tapped:
        def __init__(self) -> None:
            self.frames: list[tuple[bool, bytes, str]] = []

        def frame(self, sent: bool, data: bytes, meaning: str) -> None:
            self.frames.append((sent, data, meaning))

    tap = Tapped()
    await device.connect({"X": HOLDING | {"DataType": "uint16", "IOPoint": 4}})
    assert device.instrument
    device.driver = ModbusDriver(device.instrument, Surroundings(SystemClock(), tap=tap))
    await device.driver.connect()
    await device.write("X", 5)
    assert await device.values() == {"X": 5.0}
    assert [(sent, data.hex(" ", 2), meaning) for sent, data, meaning in tap.frames] == [
        (True, "0001 0000 0006 0106 0004 0005", "unit 1: write register 4, 5"),
        (False, "0001 0000 0006 0106 0004 0005", "unit 1: write register 4, 5 done"),
        (True, "0002 0000 0006 0103 0004 0001", "unit 1: read holding registers 4"),
        (False, "00 0200 0000 0501 0302 0005", "unit 1: read holding registers, 2 bytes"),
    ]


@pytest.mark.parametrize("fault", ["wrong_unit", "wrong_transaction"])
async def test_an_answer_in_another_name_is_not_taken(device: Device, fault: str) -> None:
    await device.connect({"X": {"Type": "HRegister", "IOPoint": 0}})
    setattr(device.server.faults, fault, True)
    with pytest.raises(Garbled):
        await device.values()
    device.server.faults.clear()
    assert device.driver
    await device.driver.connect()
    assert await device.values() == {"X": 0.0}
