"""Discovery: a device becomes an instrument file that loads, checks and reads."""

from __future__ import annotations

import math

import pytest

from config.model import InstrumentFile
from drivers.contract import Surroundings, read_block
from drivers.errors import Garbled, NotConnected
from drivers.sim.modbus_server import ModbusServer, RegisterBank
from drivers.sim.sunspec_server import SimModel, SunSpecServer
from drivers.sunspec.discover import Discovery, discover_device
from drivers.sunspec.driver import PROTOCOL
from drivers.sunspec.models import model_ids, model_of
from gateway.core.clock import SystemClock
from tests.drivers.instruments import instrument

NAMEPLATE = {"Mn": "Acme", "Md": "PV 30/3", "SN": "00-17", "Vr": "2.1"}


def inverter() -> SunSpecServer:
    models = [
        SimModel(1, texts=NAMEPLATE),
        SimModel(103),
        SimModel(160, counts={"": 2}),
        SimModel(704),
        SimModel(203),
        SimModel(203),
    ]
    server = SunSpecServer(models)
    server.put_raw("103.W_SF", 1)
    server.put("103.W", 12_340)
    server.put_raw("103.St", 4)
    server.put_raw("160.DCA_SF", -2)
    server.put("160.module[2].DCA", 2.5)
    server.put_raw("704.WMaxLimPct_SF", -1)
    server.put("704.WMaxLimPct", 62.5)
    server.put_raw("203[2].Hz_SF", 0)
    server.put("203[2].Hz", 50)
    return server


async def discover(server: ModbusServer, **keys: object) -> Discovery:
    port = await server.start()
    try:
        return await discover_device("127.0.0.1", port, 1, SystemClock(), **keys)  # type: ignore[arg-type]
    finally:
        await server.stop()


async def test_what_the_device_implements_becomes_channels() -> None:
    found = await discover(inverter(), tags=("Slow",))
    assert [model.model for model in found.models] == [1, 103, 160, 704, 203, 203]
    assert found.identity == {
        "manufacturer": "Acme",
        "model": "PV 30/3",
        "version": "2.1",
        "serial": "00-17",
    }
    tags, channels = found.instrument["EquipmentTags"], found.instrument["Channels"]
    assert tags["EquipmentName"] == "PV_30_3"
    assert tags["EquipmentType"] == "Acme PV 30/3"
    power = {"IOPoint": "103.W", "ReadWrite": "R", "Units": "W", "Description": "Watts"}
    assert channels["inverter_three_phase_W"] == power | {"Tags": ["Slow"]}
    state = channels["inverter_three_phase_St"]
    assert state["States"][:5] == ["0", "OFF", "SLEEPING", "STARTING", "MPPT"]
    points = {keys["IOPoint"] for keys in channels.values()}
    assert points == {"103.W", "103.St", "160.module[2].DCA", "704.WMaxLimPct", "203[2].Hz"}
    assert channels["DERCtlAC_WMaxLimPct"]["ReadWrite"] == "R"
    assert "can be written" in channels["DERCtlAC_WMaxLimPct"]["Description"]


async def test_controls_are_outputs_where_that_is_asked_for() -> None:
    found = await discover(inverter(), writable=True, name="PV")
    limit = found.instrument["Channels"]["DERCtlAC_WMaxLimPct"]
    assert (limit["ReadWrite"], limit["Tolerance"]) == ("RW", pytest.approx(0.1))
    assert found.instrument["EquipmentTags"]["EquipmentName"] == "PV"


async def test_the_file_loads_and_its_channels_read_what_the_device_shows() -> None:
    server = inverter()
    found = await discover(server, writable=True)
    InstrumentFile.model_validate(found.instrument)
    port = await server.start()
    tags = found.instrument["EquipmentTags"] | {"PortNum": port, "EquipmentName": "Dev"}
    channels = {name: dict(keys) for name, keys in found.instrument["Channels"].items()}
    device = instrument(channels, **tags)
    assert PROTOCOL.check(device) == []
    driver = PROTOCOL.open(device, Surroundings(SystemClock()))
    values: dict[str, float] = {}
    try:
        await driver.connect()
        for block in PROTOCOL.plan(device):
            numbers = await read_block(PROTOCOL, driver, block)
            rows = [list(device.points)[row - 1] for row in block.index.tolist()]
            values |= dict(zip(rows, numbers.tolist(), strict=True))
    finally:
        await driver.close()
        await server.stop()
    assert values == {
        "inverter_three_phase_W": 12_340.0,
        "inverter_three_phase_St": 4.0,
        "mppt_module_2_DCA": 2.5,
        "DERCtlAC_WMaxLimPct": 62.5,
        "ac_meter_abcn_2_Hz": 50.0,
    }


async def test_every_model_gives_channels_whose_names_load() -> None:
    models = []
    for number in model_ids():
        model = model_of(number)
        assert model is not None
        models.append(SimModel(number, counts=dict.fromkeys(model.counts, 2)))
    server = SunSpecServer(models, base=0)
    counts = {f"{m.id}.{name}" for m in models for name in m.counts}
    for path, item in server.items.items():
        if item.type == "sunssf":
            server.put_raw(path, 0)
        elif path.rpartition(".")[2] not in ("ID", "L") and path not in counts:
            kinds = ("string", "pad", "ipaddr", "ipv6addr", "eui48")
            if item.type not in kinds:
                server.put_raw(path, 1)
    found = await discover(server)
    assert found.unknown == ()
    assert found.notes == ()
    file = InstrumentFile.model_validate(found.instrument)
    assert len(file.Channels) > 3_300
    assert max(len(name) for name in file.Channels) <= 63
    tags = file.EquipmentTags.model_dump(exclude_unset=True) | {"EquipmentName": "Dev"}
    device = instrument({n: dict(k) for n, k in found.instrument["Channels"].items()}, **tags)
    assert PROTOCOL.check(device) == []


async def test_unknown_models_and_unreadable_ones_are_told() -> None:
    server = SunSpecServer([SimModel(1, texts=NAMEPLATE), SimModel(103)])
    server.put_raw("103.ID", 65_000)
    found = await discover(server)
    assert found.unknown == (65_000,)
    server = SunSpecServer([SimModel(1, texts=NAMEPLATE), SimModel(103)])
    server.bank.allow_only("holding", [(40_000, 74)])  # of model 103 its head alone
    found = await discover(server)
    assert found.identity["serial"] == "00-17"
    (note,) = found.notes
    assert note.startswith("model 103 could not be read")


async def test_hostile_counts_cost_no_more_than_the_device_s_registers() -> None:
    server = SunSpecServer([SimModel(1), SimModel(705, counts={"NCrv": 1, "NPt": 1})])
    server.put_raw("705.NCrv", 65_534)
    server.put_raw("705.NPt", 65_534)
    found = await discover(server)
    assert len(found.instrument["Channels"]) < 10


async def test_no_device_and_no_map_are_errors() -> None:
    with pytest.raises(Garbled, match="no SunSpec device"):
        await discover(ModbusServer(RegisterBank()))
    server = SunSpecServer([SimModel(1)])
    port = await server.start()
    await server.stop()
    with pytest.raises(NotConnected):
        await discover_device("127.0.0.1", port, 1, SystemClock(), timeout_s=2.0)


def test_a_value_that_is_not_implemented_is_no_number() -> None:
    """The simulated device's own marks, which the tests above rely on."""
    server = SunSpecServer([SimModel(103)])
    assert server.raw("103.W") == -32768
    server.put_raw("103.W_SF", 0)
    server.put("103.W", 5)
    server.put("103.W", math.nan)
    assert server.raw("103.W") == -32768
