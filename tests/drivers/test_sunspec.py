"""SunSpec instruments: names of points, findings, blocks, and the exchanges with a device."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from typing import Any

import pytest

from config.findings import SiteError
from config.site import Instrument
from drivers.contract import Surroundings, read_block
from drivers.errors import OutOfRange, Refused
from drivers.registry import check_instrument
from drivers.sim.sunspec_server import SimModel, SunSpecServer
from drivers.sunspec.driver import PROTOCOL, Request, SunSpecDriver, plan, split
from gateway.core.clock import SystemClock
from tests.drivers.instruments import REPOSITORY, instrument, sunspec

Keys = dict[str, Any]


def named(*points: str, **keys: Any) -> dict[str, Keys]:
    """Channels of these points, named after them."""
    return {point: {"IOPoint": point} | keys for point in points}


def findings(**keys: Any) -> dict[str, str]:
    """The findings of one channel: key -> rule and message."""
    found = check_instrument(sunspec({"X": keys}))
    return {f.key.removeprefix("Channels.X."): f"{f.rule}: {f.message}" for f in found}


# ---------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    "point",
    ["103.W", "203[2].W", "160.module[2].DCA", "704.PFWInj.PF", "707.Crv[2].MayTrip.Pt[9].V"],
)
def test_a_point_of_any_depth_is_accepted(point: str) -> None:
    assert findings(IOPoint=point) == {}


@pytest.mark.parametrize(
    ("point", "rule", "hint"),
    [
        ("103.w", "address-unknown", "Do you mean W?"),
        ("103.PhVpA", "address-unknown", "PhVphA"),
        ("1003.W", "address-unknown", "103"),
        ("704.PFInj.PF", "address-unknown", "PFWInj"),
        ("160.module.DCA", "address-unknown", "module[1]"),
        ("160.module[0].DCA", "address-unknown", "counts from 1"),
        ("704.PFWInj[1].PF", "address-unknown", "one PFWInj only"),
        ("103.W[1]", "address-unknown", "has no index"),
        ("103[0].W", "address-unknown", "count from 1"),
        ("704.PFWInj", "address-unknown", "is a group"),
        ("1.SN", "address-unknown", "string"),
        ("103.St.MPPT", "address-unknown", "nothing in it"),
        ("103.Evt1.GROUND", "address-unknown", "GROUND_FAULT"),
        ("W", "address-unknown", "for example 103.W"),
        (40083, "address-unknown", "for example 103.W"),
        (None, "address-missing", "103.W"),
    ],
)
def test_what_names_no_number_is_a_finding_with_a_hint(
    point: str | int | None, rule: str, hint: str
) -> None:
    (found,) = (findings(IOPoint=point) if point is not None else findings()).items()
    assert found[0] == "IOPoint"
    assert found[1].startswith(f"{rule}: ")
    assert hint in found[1]


@pytest.mark.parametrize(
    ("keys", "key", "rule"),
    [
        ({"IOPoint": "103.W", "ReadWrite": "RW"}, "ReadWrite", "type-read-only"),
        ({"IOPoint": "103.W", "DataType": "uint16"}, "DataType", "datatype-type"),
        ({"IOPoint": "103.W", "DataType": "bit"}, "DataType", "datatype-type"),
        ({"IOPoint": "103.Evt1", "DataType": "bit"}, "BitStart", "bit-range"),
        ({"IOPoint": "103.Evt1.GROUND_FAULT"}, "DataType", "datatype-type"),
        ({"IOPoint": "103.Evt1", "BitStart": 2}, "DataType", "datatype-type"),
        ({"IOPoint": "103.Evt1", "DataType": "bit", "BitStart": 31}, "BitEnd", "bit-range"),
        (
            {"IOPoint": "103.Evt1", "DataType": "bit", "BitStart": 4, "BitEnd": 3},
            "BitEnd",
            "bit-range",
        ),
        ({"IOPoint": "103.W", "Scalar": 0}, "Scalar", "scalar-zero"),
        (
            {"IOPoint": "704.WMaxLimPctEna", "ReadWrite": "RW", "SafeValue": 0.5},
            "SafeValue",
            "value-range",
        ),
        (
            {"IOPoint": "704.WMaxLimPct", "ReadWrite": "RW", "SafeValue": -1e30},
            "SafeValue",
            "value-range",
        ),
    ],
)
def test_what_a_point_can_not_do_is_a_finding(keys: Keys, key: str, rule: str) -> None:
    found = findings(**keys)
    assert found.keys() == {key}
    assert found[key].startswith(f"{rule}: ")


def test_faults_of_the_instrument_are_findings_and_nothing_is_planned() -> None:
    device = sunspec(named("103.W", "103.WH"), Connection={"Unit": 256}, BlockMax=1)
    rules = {f.key: f.rule for f in check_instrument(device)}
    assert rules == {
        "EquipmentTags.Connection.IP": "connection-missing",
        "EquipmentTags.Connection.Unit": "unit-invalid",
        "Channels.103.WH.IOPoint": "block-too-small",
    }
    with pytest.raises(SiteError):
        plan(device)


def test_channels_on_one_point_are_a_finding_and_bits_of_a_field_are_none() -> None:
    channels = named("103.Evt1.GROUND_FAULT", "103.Evt1.DC_OVER_VOLT", DataType="bit")
    assert check_instrument(sunspec(channels | named("103.Evt1"))) == []
    twice = {"A": {"IOPoint": "103.W"}, "B": {"IOPoint": "103.W"}}
    (finding,) = check_instrument(sunspec(twice))
    assert (finding.rule, finding.severity) == ("address-shared", "warning")


def test_the_example_of_the_documentation_has_no_finding() -> None:
    text = (REPOSITORY / "docs" / "drivers" / "sunspec.md").read_text(encoding="utf-8")
    (example,) = [json.loads(part.split("```")[0]) for part in text.split("```json")[1:]]
    device = instrument(example["Channels"], **example["EquipmentTags"] | {"EquipmentName": "Dev"})
    assert check_instrument(device) == []
    assert len(plan(device)) == 4


# ---------------------------------------------------------------- plan


def spans(device: Instrument) -> list[tuple[str, int, int]]:
    """Of each block: label, first register in its model (the fixed part), registers."""
    requests: list[tuple[str, Request]] = [(b.label, b.request) for b in plan(device)]
    return [(label, r.first.fixed, r.count) for label, r in requests]


def test_points_of_one_model_share_a_request_with_their_scale_factors() -> None:
    device = sunspec(named("103.W", "103.Hz", "103.St", "203.W"))
    assert spans(device) == [("103.W to 103.St (Fast)", 14, 25), ("203.W (Fast)", 18, 5)]


def test_a_large_model_is_cut_between_points_and_never_through_one() -> None:
    points = [f"160.module[{i}].{name}" for i in range(1, 21) for name in ("DCA", "DCV", "DCWH")]
    found = spans(sunspec(named(*points)))
    assert all(count <= 125 for _, _, count in found)
    assert found[0][1] == 2, "the scale factors at the beginning come with the first modules"
    limited = plan(sunspec(named(*points), BlockMax=30))
    for block in limited:
        request: Request = block.request
        assert request.count <= 30
        for address in request.members:
            place = address.at.fixed - request.first.fixed
            assert 0 <= place <= request.count - address.point.words
    assert sorted(row for b in limited for row in b.index.tolist()) == list(range(1, 61))


def test_what_depends_on_how_many_groups_a_device_has_is_read_apart() -> None:
    device = sunspec(named("705.Crv[1].Pt[1].V", "705.Crv[1].Pt[2].V", "705.Crv[2].Pt[1].V"))
    assert [len(block.index) for block in plan(device)] == [2, 1]


def test_single_requests_read_one_point_each() -> None:
    device = sunspec(named("103.W", "103.Hz", "103.WH"), SingleRequests=True)
    assert [(first, count) for _, first, count in spans(device)] == [(14, 1), (16, 1), (24, 2)]


def test_scan_classes_do_not_share_requests_and_labels_tell_them_apart() -> None:
    channels = {"A": {"IOPoint": "103.W"}, "B": {"IOPoint": "103.W", "Class": "Slow"}}
    assert [block.label for block in plan(sunspec(channels))] == ["103.W (Fast)", "103.W (Slow)"]


def test_a_block_splits_until_each_point_is_alone() -> None:
    flags = named("103.Evt1.GROUND_FAULT", "103.Evt1.DC_OVER_VOLT", DataType="bit")
    device = sunspec(named("103.W", "103.Hz", "103.VA") | flags)
    (whole,) = plan(device)
    labels = {whole.label}
    ends, blocks = [], [whole]
    while blocks:
        block = blocks.pop()
        parts = split(block)
        if not parts:
            ends.append(block)
        for part in parts:
            assert part.label not in labels
            labels.add(part.label)
        blocks += parts
    assert sorted(block.index.tolist() for block in ends) == [[1], [2], [3], [4, 5]]


def test_the_cost_of_a_block_is_its_bytes_on_the_wire() -> None:
    device = sunspec(named("103.W", "103.Hz"))
    (block,) = plan(device)
    assert PROTOCOL.cost is not None
    cost = PROTOCOL.cost(device, block)
    assert (cost.request_bytes, cost.answer_bytes) == (12, 9 + 2 * block.request.count)


# ---------------------------------------------------------------- exchanges


class Device:
    """A simulated device and a driver that is connected to it."""

    def __init__(self, *models: SimModel) -> None:
        self.server = SunSpecServer([SimModel(1), *models])
        self.driver: SunSpecDriver | None = None
        self.instrument: Instrument | None = None

    async def connect(self, channels: dict[str, Keys], **tags: Any) -> None:
        port = await self.server.start()
        self.instrument = sunspec(channels, port, **tags)
        self.driver = SunSpecDriver(self.instrument, Surroundings(SystemClock()))
        await self.driver.connect()

    async def values(self) -> dict[str, float | str]:
        """Every channel's value, or why it has none."""
        assert self.driver
        assert self.instrument
        names = list(self.instrument.points)
        found: dict[str, float | str] = {}
        for block in plan(self.instrument):
            channels = [names[row - 1] for row in block.index.tolist()]
            try:
                values = await read_block(PROTOCOL, self.driver, block)
            except Refused as error:
                found |= dict.fromkeys(channels, str(error) if error.permanent else "busy")
            else:
                found |= dict(zip(channels, values.tolist(), strict=True))
        return found

    async def write(self, channel: str, value: float) -> None:
        assert self.driver
        assert self.instrument
        await self.driver.write(self.instrument.points[channel], value)


@pytest.fixture
async def devices() -> AsyncIterator[list[Device]]:
    devices: list[Device] = []
    try:
        yield devices
    finally:
        for device in devices:
            if device.driver:
                await device.driver.close()
            await device.server.stop()


@pytest.fixture
def device(devices: list[Device]) -> Device:
    devices.append(Device(SimModel(103), SimModel(704)))
    return devices[0]


async def test_a_scale_factor_that_moves_moves_with_its_number(device: Device) -> None:
    """Some inverters change them while they run, so they are read together."""
    device.server.put_raw("103.W_SF", 1)
    device.server.put_raw("103.W", 1234)
    await device.connect(named("103.W"))
    assert await device.values() == {"103.W": 12340.0}
    device.server.put_raw("103.W_SF", -1)
    assert await device.values() == {"103.W": 123.4}


@pytest.mark.parametrize("factor", [-32768, 11, -11, 32767])
async def test_without_a_scale_factor_there_is_no_value(device: Device, factor: int) -> None:
    device.server.put_raw("103.W_SF", factor)
    device.server.put_raw("103.W", 1)
    await device.connect(named("103.W"))
    assert math.isnan(float((await device.values())["103.W"]))


async def test_the_channel_s_own_scaling_applies_behind_the_scale_factor(device: Device) -> None:
    device.server.put_raw("103.W_SF", 1)
    device.server.put_raw("103.W", 1234)
    power = {"IOPoint": "103.W", "Scalar": 0.001, "Offset": 10, "Decimal": 1, "Units": "kW"}
    await device.connect({"kW": power})
    assert await device.values() == {"kW": 12.4}


async def test_bits_are_read_by_symbol_and_by_number(device: Device) -> None:
    device.server.put_raw("103.Evt1", 0b0110_0001)
    channels = named("103.Evt1.GROUND_FAULT", "103.Evt1.DC_OVER_VOLT", DataType="bit")
    field = {"IOPoint": "103.Evt1", "DataType": "bit", "BitStart": 5, "BitEnd": 7}
    await device.connect(channels | {"Field": field, "Whole": {"IOPoint": "103.Evt1"}})
    values = list((await device.values()).values())
    assert values == [1.0, 0.0, 3.0, 97.0]
    device.server.put_raw("103.Evt1", 0x8000_0001)  # the standard: then all bits mean nothing
    assert all(math.isnan(float(value)) for value in (await device.values()).values())


async def test_a_model_that_the_device_lacks_costs_the_others_nothing(device: Device) -> None:
    device.server.put_raw("103.Hz_SF", 0)
    device.server.put_raw("103.Hz", 50)
    await device.connect(named("103.Hz", "203.Hz", "103[2].Hz"))
    asked = device.server.requests
    values = await device.values()
    assert values["103.Hz"] == 50.0
    assert values["203.Hz"] == "the device has no model 203; it has 1, 103, 704"
    assert "no model 103[2]" in str(values["103[2].Hz"])
    assert device.server.requests == asked + 1, "what is missing is not asked for"


async def test_several_models_of_one_kind_are_told_apart(devices: list[Device]) -> None:
    device = Device(SimModel(203), SimModel(203))
    devices.append(device)
    for path, value in (("203", 10), ("203[2]", 20)):
        device.server.put_raw(f"{path}.W_SF", 0)
        device.server.put_raw(f"{path}.W", value)
    await device.connect(named("203.W", "203[2].W"))
    assert await device.values() == {"203.W": 10.0, "203[2].W": 20.0}


async def test_groups_are_found_where_the_device_s_counts_put_them(devices: list[Device]) -> None:
    device = Device(SimModel(705, counts={"NCrv": 3, "NPt": 4}), SimModel(160, counts={"": 2}))
    devices.append(device)
    server = device.server
    server.put_raw("705.V_SF", -1)
    server.put_raw("705.DeptRef_SF", -2)
    server.put_raw("160.DCA_SF", -2)
    for crv in (1, 2, 3):
        for pt in (1, 2, 3, 4):
            server.put_raw(f"705.Crv[{crv}].Pt[{pt}].V", 100 * crv + pt)
    server.put_raw("160.module[2].DCA", 125)
    far = ("705.Crv[4].Pt[1].V", "705.Crv[1].Pt[5].V", "160.module[3].DCA")
    await device.connect(
        named("705.Crv[1].Pt[1].V", "705.Crv[3].Pt[4].V", "160.module[2].DCA", *far)
        | {"Write": {"IOPoint": "705.Crv[2].Pt[3].V", "ReadWrite": "W"}}
    )
    assert device.instrument
    assert device.driver
    values: dict[str, float | str] = {}
    names = list(device.instrument.points)
    for whole in plan(device.instrument):
        blocks = [whole]
        while blocks:  # as the poll engine does it
            block = blocks.pop()
            try:
                numbers = await read_block(PROTOCOL, device.driver, block)
            except Refused as error:
                blocks += split(block)
                if not split(block):
                    values[names[int(block.index[0]) - 1]] = str(error)
            else:
                rows = [names[row - 1] for row in block.index.tolist()]
                values |= dict(zip(rows, numbers.tolist(), strict=True))
    assert values["705.Crv[1].Pt[1].V"] == 10.1
    assert values["705.Crv[3].Pt[4].V"] == 30.4
    assert values["160.module[2].DCA"] == 1.25
    assert all("the device has" in str(values[point]) for point in far)
    await device.write("Write", 12.5)
    assert server.raw("705.Crv[2].Pt[3].V") == 125


async def test_a_shorter_model_has_the_points_that_it_reaches(devices: list[Device]) -> None:
    """Devices with an older definition; what would lie behind belongs to the next model."""
    device = Device(SimModel(103, shorter=12), SimModel(203))
    devices.append(device)
    device.server.put_raw("103.W_SF", 0)
    device.server.put_raw("103.W", 7)
    await device.connect(named("103.W", "103.EvtVnd4"), SingleRequests=False)
    values = await device.values()
    assert "ends before it" in str(values["103.W"])
    assert device.instrument
    assert device.driver
    (block,) = plan(device.instrument)
    first, second = split(block)
    assert (await read_block(PROTOCOL, device.driver, first)).tolist() == [7.0]
    with pytest.raises(Refused, match="ends before it"):
        await read_block(PROTOCOL, device.driver, second)


@pytest.mark.parametrize("block_max", [125, 4])
async def test_a_scale_factor_behind_the_end_of_the_model_is_none(
    devices: list[Device], block_max: int
) -> None:
    """In its own request and read alone: what stands there is the next model's."""
    device = Device(SimModel(802, shorter=14), SimModel(103))
    devices.append(device)
    device.server.put_raw("802.SoC", 50)
    await device.connect(named("802.SoC"), BlockMax=block_max)
    place = device.server.items["802.SoC_SF"].register
    device.server.bank.holding[place] = 0
    assert math.isnan(float((await device.values())["802.SoC"]))


async def test_groups_that_the_device_does_not_count_fill_their_model(
    devices: list[Device],
) -> None:
    device = Device(SimModel(714, counts={"NPrt": 2}))
    devices.append(device)
    device.server.put_raw("714.DCV_SF", 0)
    device.server.put_raw("714.Prt[2].DCV", 400)
    device.server.put_raw("714.NPrt", 0xFFFF)
    await device.connect(named("714.Prt[2].DCV", "714.Prt[9].DCV"))
    values = await device.values()
    assert values["714.Prt[2].DCV"] == 400.0
    assert "the device has 2" in str(values["714.Prt[9].DCV"])


# ---------------------------------------------------------------- writing


async def test_a_write_is_scaled_rounded_and_reads_back(device: Device) -> None:
    device.server.put_raw("704.WMaxLimPct_SF", -1)
    device.server.put_raw("704.PF_SF", -3)
    limit = {"IOPoint": "704.WMaxLimPct", "ReadWrite": "RW"}
    share = {"IOPoint": "704.PFWInj.PF", "ReadWrite": "RW", "Scalar": 100.0}
    await device.connect({"Limit": limit, "Share": share})
    await device.write("Limit", 62.47)
    await device.write("Share", 95.5)
    assert device.server.raw("704.WMaxLimPct") == 625
    assert device.server.raw("704.PFWInj.PF") == 955
    assert await device.values() == {"Limit": 62.5, "Share": 95.5}


@pytest.mark.parametrize("value", [-0.1, 6553.5, 1e9, math.nan, math.inf, 1e300])
async def test_what_the_register_can_not_hold_is_never_written(
    device: Device, value: float
) -> None:
    device.server.put_raw("704.WMaxLimPct_SF", -1)
    device.server.put_raw("704.WMaxLimPct", 77)
    await device.connect(named("704.WMaxLimPct", ReadWrite="RW"))
    with pytest.raises(OutOfRange):
        await device.write("704.WMaxLimPct", value)
    assert device.server.raw("704.WMaxLimPct") == 77


@pytest.mark.parametrize("value", [0.5, 65535.0, -1.0])
async def test_an_enumeration_takes_whole_numbers_only(device: Device, value: float) -> None:
    device.server.put_raw("704.WMaxLimPctEna", 0)
    await device.connect(named("704.WMaxLimPctEna", ReadWrite="RW"))
    with pytest.raises(OutOfRange):
        await device.write("704.WMaxLimPctEna", value)
    await device.write("704.WMaxLimPctEna", 1.0)
    assert device.server.raw("704.WMaxLimPctEna") == 1


async def test_what_can_only_be_read_and_what_has_no_factor_is_refused(device: Device) -> None:
    channels = named("704.WMaxLimPct", "704.WSet", ReadWrite="RW")
    await device.connect(channels | named("103.W", "704.VarSet"))
    for point in ("103.W", "704.VarSet"):  # read-only in the model; read-only in the file
        with pytest.raises(Refused, match="only be read"):
            await device.write(point, 1.0)
    with pytest.raises(Refused, match="no scale factor") as refusal:
        await device.write("704.WMaxLimPct", 50.0)
    assert refusal.value.permanent


async def test_a_write_that_the_device_refuses_says_so(device: Device) -> None:
    device.server.put_raw("704.WMaxLimPct_SF", 0)
    await device.connect(named("704.WMaxLimPct", ReadWrite="RW"))
    await device.values()  # so that the scale factor is known
    device.server.faults.exception_code = 3
    with pytest.raises(Refused) as refusal:
        await device.write("704.WMaxLimPct", 50.0)
    assert refusal.value.code == 3
