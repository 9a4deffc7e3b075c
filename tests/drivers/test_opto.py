"""Opto instruments: findings, blocks, and the exchanges with a simulated controller."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.findings import SiteError
from config.site import Instrument
from drivers.contract import Surroundings, read_block
from drivers.errors import DriverError, NotConnected, OutOfRange, Refused
from drivers.opto.driver import PROTOCOL, Decoder, OptoDriver, Request, address_of, plan, split
from drivers.registry import check_instrument
from drivers.sim.opto_server import INVALID_ADDRESS, OptoServer
from gateway.core.clock import SystemClock
from tests.drivers.instruments import REPOSITORY, instrument, opto

Keys = dict[str, Any]


def analog(module: int, channel: int, **keys: Any) -> Keys:
    return {"Type": "Analog", "Module": module, "Channel": channel} | keys


def digital(module: int, channel: int, **keys: Any) -> Keys:
    return {"Type": "Digital", "DataType": "bool", "Module": module, "Channel": channel} | keys


# ---------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("keys", "read", "write"),
    [
        (analog(0, 0), 0xF0260000, 0xF02A0000),
        (analog(1, 2, ReadWrite="RW"), 0xF0261080, 0xF02A1080),
        (analog(63, 63), 0xF029FFC0, 0xF02DFFC0),
        (digital(2, 1), 0xF01E2040, 0xF0222040),
        ({"Type": "Feature", "Module": 2, "Channel": 1}, 0xF01E2050, 0),
        ({"Type": "ScratchPadFloat", "IOPoint": 0}, 0xF0D82000, 0xF0D82000),
        ({"Type": "ScratchPadFloat", "IOPoint": "1023"}, 0xF0D82FFC, 0xF0D82FFC),
        ({"Type": "ScratchPadFloat", "IOPoint": 1024}, 0xF0DC0000, 0xF0DC0000),
        ({"Type": "ScratchPadInteger", "IOPoint": 3071}, 0xF0DA1FFC, 0xF0DA1FFC),
        ({"Type": "ScratchPadInteger", "IOPoint": 3072}, 0xF0DA2000, 0xF0DA2000),
        ({"Type": "ScratchPadInteger", "IOPoint": 10239}, 0xF0DA8FFC, 0xF0DA8FFC),
    ],
)
def test_each_channel_has_its_place_in_the_memory_map(keys: Keys, read: int, write: int) -> None:
    device = opto({"X": keys})
    assert check_instrument(device) == []
    address = address_of(device.channels["X"])
    assert (address.read, address.write) == (read, write)


@pytest.mark.parametrize(
    ("keys", "key", "rule"),
    [
        ({"Type": "Analogue", "Module": 0, "Channel": 0}, "Type", "type-unknown"),
        ({"Module": 0, "Channel": 0}, "Type", "type-unknown"),
        ({"Type": "Analog", "Channel": 0}, "Module", "address-missing"),
        ({"Type": "Digital", "Module": 0}, "Channel", "address-missing"),
        (analog(64, 0), "Module", "address-range"),
        (analog(0, -1), "Channel", "address-range"),
        (analog(0, 0, DataType="int16"), "DataType", "datatype-unknown"),
        (analog(0, 0, Scalar=0), "Scalar", "scalar-zero"),
        (
            {"Type": "Feature", "Module": 0, "Channel": 0, "ReadWrite": "RW"},
            "ReadWrite",
            "type-read-only",
        ),
        ({"Type": "ScratchPadFloat"}, "IOPoint", "address-missing"),
        ({"Type": "ScratchPadFloat", "IOPoint": 10240}, "IOPoint", "address-range"),
        (digital(0, 0, ReadWrite="RW", SafeValue=2), "SafeValue", "value-range"),
        (analog(0, 0, ReadWrite="RW", SafeValue=1e39), "SafeValue", "value-range"),
        (
            {"Type": "ScratchPadInteger", "IOPoint": 1, "ReadWrite": "RW", "SafeValue": 2**31},
            "SafeValue",
            "value-range",
        ),
    ],
)
def test_a_wrong_key_is_a_finding(keys: Keys, key: str, rule: str) -> None:
    device = opto({"X": keys})
    (finding,) = check_instrument(device)
    assert (finding.key, finding.rule) == (f"Channels.X.{key}", rule)
    with pytest.raises(SiteError):
        plan(device)


def test_channels_on_one_place_are_one_finding() -> None:
    pad = {"Type": "ScratchPadFloat", "IOPoint": 5}
    device = opto({"A": analog(0, 0), "B": analog(0, 0), "C": pad, "D": pad})
    assert [f.rule for f in check_instrument(device)] == ["address-shared", "address-shared"]


def spans(device: Instrument) -> list[tuple[int, int, int]]:
    requests: list[tuple[Request, int]] = [(b.request, len(b.index)) for b in plan(device)]
    return [(r.first, r.size, members) for r, members in requests]


def test_channels_of_one_module_share_a_request_and_modules_do_not() -> None:
    channels = {f"A{m}_{c}": analog(m, c) for m in (0, 1) for c in (0, 1, 5)}
    assert spans(opto(channels)) == [(0xF0260000, 0x144, 3), (0xF0261000, 0x144, 3)]


def test_gap_and_block_limits_cut_requests() -> None:
    channels = {f"A{c}": analog(0, c) for c in (0, 1, 3)}
    assert spans(opto(channels, GapMax=0)) == [(0xF0260000, 0x44, 2), (0xF02600C0, 4, 1)]
    assert spans(opto(channels, GapMax=1)) == [(0xF0260000, 0xC4, 3)]
    assert len(spans(opto(channels, BlockMax=100))) == 2
    assert len(spans(opto(channels, SingleRequests=True))) == 3
    many = {f"A{c}": analog(0, c) for c in range(32)}
    assert [size for _, size, _ in spans(opto(many))] == [964, 964]


def test_areas_that_touch_do_not_share_a_request() -> None:
    last = {"Type": "ScratchPadInteger", "IOPoint": 1023, "DataType": "int32"}
    first = {"Type": "ScratchPadFloat", "IOPoint": 0}
    assert len(spans(opto({"I": last, "F": first}))) == 2


def test_state_and_feature_of_a_digital_channel_share_a_request() -> None:
    feature = {"Type": "Feature", "Module": 0, "Channel": 0}
    assert spans(opto({"S": digital(0, 0), "F": feature})) == [(0xF01E0000, 0x14, 2)]


def test_a_block_splits_until_each_channel_is_alone() -> None:
    device = opto({f"A{c}": analog(0, c) for c in range(4)})
    (block,) = plan(device)
    parts = split(block)
    assert [part.index.tolist() for part in parts] == [[1], [2], [3], [4]]
    assert len({part.label for part in [block, *parts]}) == 5
    assert split(parts[0]) == []


def test_the_cost_of_a_block_is_its_bytes_on_the_wire() -> None:
    device = opto({"A": analog(0, 0), "B": analog(1, 0), "C": analog(1, 1)})
    assert PROTOCOL.cost is not None
    one, two = (PROTOCOL.cost(device, block) for block in plan(device))
    assert (one.request_bytes, one.answer_bytes) == (12, 16)
    assert (two.request_bytes, two.answer_bytes) == (16, 16 + 68)


def test_the_example_of_the_documentation_has_no_finding() -> None:
    text = (REPOSITORY / "docs" / "drivers" / "opto.md").read_text(encoding="utf-8")
    (example,) = [json.loads(part.split("```")[0]) for part in text.split("```json")[1:]]
    device = instrument(example["Channels"], **example["EquipmentTags"] | {"EquipmentName": "Dev"})
    assert check_instrument(device) == []
    assert len(plan(device)) == 3


# ---------------------------------------------------------------- exchanges


class Device:
    """A simulated controller and a driver that is connected to it."""

    def __init__(self) -> None:
        self.server = OptoServer({0: "analog", 1: "digital"})
        self.driver: OptoDriver | None = None
        self.instrument: Instrument | None = None

    async def connect(self, channels: dict[str, Keys], **tags: Any) -> None:
        port = await self.server.start()
        self.instrument = opto(channels, port, **tags)
        self.driver = OptoDriver(self.instrument, Surroundings(SystemClock()))
        await self.driver.connect()

    async def values(self) -> dict[str, float]:
        assert self.driver
        assert self.instrument
        names = list(self.instrument.points)
        found: dict[str, float] = {}
        for block in plan(self.instrument):
            values = await read_block(PROTOCOL, self.driver, block)
            rows = [names[row - 1] for row in block.index.tolist()]
            found |= dict(zip(rows, values.tolist(), strict=True))
        return found

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


async def test_every_type_is_read(device: Device) -> None:
    server = device.server
    server.set_analog(0, 0, 21.5)
    server.set_analog(0, 1, math.nan)
    server.set_digital(1, 3, 1, feature=1234.5)
    server.write(0xF0380000, struct.pack(">I", 1))
    server.write(0xF0D82014, struct.pack(">f", -7.25))
    server.write(0xF0D81008, struct.pack(">i", -5))
    scaled = {"Scalar": 1.8, "Offset": 10, "Decimal": 1}
    await device.connect(
        {
            "T": analog(0, 0),
            "Scaled": analog(0, 2, **scaled),
            "Open": analog(0, 1),
            "On": digital(1, 3),
            "Off": digital(1, 4),
            "Count": {"Type": "Feature", "Module": 1, "Channel": 3},
            "Float": {"Type": "ScratchPadFloat", "IOPoint": 5},
            "Int": {"Type": "ScratchPadInteger", "IOPoint": 2, "DataType": "int32"},
        }
    )
    assert await device.values() == pytest.approx(
        {
            "T": 21.5,
            "Scaled": 18.0,
            "Open": math.nan,
            "On": 1.0,
            "Off": 0.0,
            "Count": 1234.5,
            "Float": -7.25,
            "Int": -5.0,
        },
        nan_ok=True,
    )


async def test_every_output_is_written_and_reads_back(device: Device) -> None:
    outputs = {
        "Valve": analog(0, 7, ReadWrite="RW", Scalar=2.0),
        "Pump": digital(1, 0, ReadWrite="RW"),
        "Float": {"Type": "ScratchPadFloat", "IOPoint": 9, "ReadWrite": "RW"},
        "Int": {
            "Type": "ScratchPadInteger",
            "IOPoint": 9,
            "DataType": "int32",
            "ReadWrite": "RW",
        },
        "Switch": analog(0, 8, ReadWrite="RW", DataType="bool"),
    }
    await device.connect(outputs)
    wanted = {"Valve": 33.0, "Pump": 1.0, "Float": 0.5, "Int": -70_000.0, "Switch": 1.0}
    for name, value in wanted.items():
        await device.write(name, value)
    assert await device.values() == wanted
    assert device.server.analog(0, 7) == 16.5
    assert device.server.writes[0] == (0xF02A01C0, bytes.fromhex("41840000"))
    assert device.server.writes[1] == (0xF0221000, bytes.fromhex("00000001"))
    await device.write("Pump", 0.0)
    assert device.server.digital(1, 0) == 0


async def test_what_does_not_fit_and_what_is_read_only_is_refused_unsent(device: Device) -> None:
    await device.connect(
        {
            "In": analog(0, 0),
            "Pump": digital(1, 0, ReadWrite="RW"),
            "Valve": analog(0, 1, ReadWrite="RW"),
        }
    )
    asked = device.server.requests
    with pytest.raises(Refused, match="only be read") as refusal:
        await device.write("In", 1.0)
    assert refusal.value.permanent
    for channel, value in (("Pump", 2.0), ("Pump", 0.5), ("Valve", 1e39), ("Valve", math.nan)):
        with pytest.raises(OutOfRange):
            await device.write(channel, value)
    assert device.server.requests == asked


async def test_the_power_up_flag_is_cleared_before_anything_else(device: Device) -> None:
    await device.connect({"T": analog(0, 0)})
    assert device.server.cleared
    assert device.server.requests == 2
    assert device.driver
    await device.driver.connect()
    assert device.server.requests == 3, "a controller that kept its power is left alone"


async def test_a_controller_that_lost_its_power_is_begun_anew(device: Device) -> None:
    device.server.set_analog(0, 0, 3.5)
    await device.connect({"T": analog(0, 0)})
    device.server._put(0xF0300004, b"\0\0\0\1")  # its connections outlived it
    with pytest.raises(NotConnected, match="power-up clear"):
        await device.values()
    assert device.driver
    await device.driver.connect()
    assert await device.values() == {"T": 3.5}


async def test_an_address_that_is_not_there_is_refused_for_good(device: Device) -> None:
    channels = {"There": analog(0, 0), "Gone": analog(5, 0)}
    await device.connect(channels)
    assert device.driver
    assert device.instrument
    there, gone = plan(device.instrument)
    assert len(await read_block(PROTOCOL, device.driver, there)) == 1
    with pytest.raises(Refused, match="invalid memory address") as refusal:
        await read_block(PROTOCOL, device.driver, gone)
    assert refusal.value.permanent
    assert refusal.value.code == INVALID_ADDRESS
    assert "F0265000" in str(refusal.value)
    assert len(await read_block(PROTOCOL, device.driver, there)) == 1, "the session goes on"


@pytest.mark.parametrize(("error", "permanent"), [(0xE008, False), (0xE002, True), (0x1234, False)])
async def test_the_last_error_says_whether_asking_again_helps(
    device: Device, error: int, permanent: bool
) -> None:
    await device.connect({"T": analog(0, 0)})
    device.server.faults.exception_code = error
    with pytest.raises(Refused, match=f"{error:04X}") as refusal:
        await device.values()
    assert refusal.value.permanent is permanent


def test_without_an_address_it_is_the_machine_it_runs_on() -> None:
    device = opto({"T": analog(0, 0)}, port=50013)
    driver = OptoDriver(device, Surroundings(SystemClock()))
    assert (driver._host, driver._port) == ("127.0.0.1", 50013)
    elsewhere = opto({"T": analog(0, 0)}, PortNum=None, Connection={"IP": "10.0.0.9"})
    driver = OptoDriver(elsewhere, Surroundings(SystemClock()))
    assert (driver._host, driver._port) == ("10.0.0.9", 2001)


BLOCK = Request(
    0xF01E0000,
    0x54,
    tuple(
        address_of(c)
        for c in opto(
            {
                "S": digital(0, 0),
                "F": {"Type": "Feature", "Module": 0, "Channel": 0},
                "S1": digital(0, 1),
            }
        ).channels.values()
    ),
)


@given(data=st.one_of(st.binary(max_size=100), st.binary(min_size=0x54, max_size=0x54)))
def test_no_answer_ends_in_anything_but_numbers_or_a_typed_error(data: bytes) -> None:
    try:
        values = Decoder(BLOCK)(data)
    except DriverError:
        assert len(data) != 0x54
        return
    assert len(values) == 3
    assert values[0] in (0.0, 1.0)
    assert not math.isinf(values[1])


@pytest.mark.parametrize("raw", ["7f800000", "ff800000", "7fc00000"])
@pytest.mark.parametrize("data_type", ["bool", "float32"])
def test_what_is_no_number_is_no_value(raw: str, data_type: str) -> None:
    channels = {"A": {"Type": "Analog", "Module": 0, "Channel": 0, "DataType": data_type}}
    (block,) = plan(opto(channels))
    assert math.isnan(block.request.decode(bytes.fromhex(raw))[0])
