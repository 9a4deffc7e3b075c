"""SunSpec against pysunspec2, the Alliance's own library, on both sides, over every model."""

from __future__ import annotations

import asyncio
import json
import math
import random
from importlib.resources import files
from typing import Any

import numpy as np
import pytest
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice
from sunspec2.device import Model as PeerModel
from sunspec2.modbus.client import SunSpecModbusClientDeviceTCP
from sunspec2.modbus.modbus import ModbusClientException

from config.site import Instrument
from drivers.contract import Surroundings, read_block
from drivers.sim.sunspec_server import CODES, SimModel, SunSpecServer
from drivers.sunspec.driver import PROTOCOL
from drivers.sunspec.models import BIT_FIELDS, NUMBER_TYPES, model_ids, model_of
from gateway.core.clock import SystemClock
from tests.drivers.instruments import sunspec

GROUPS = 2  # of each repeated group


def counted(number: int) -> SimModel:
    """A model with two of each repeated group, whatever counts them."""
    model = model_of(number)
    assert model is not None
    return SimModel(number, counts=dict.fromkeys(model.counts, GROUPS))


def is_number(path: str, kind: str) -> bool:
    return kind in NUMBER_TYPES and path.rpartition(".")[2] not in ("ID", "L")


def fill(server: SunSpecServer, models: list[SimModel], chance: random.Random) -> None:
    """Some number in every point, "not implemented" in a few."""
    counts = {f"{m.id}.{name}" for m in models for name in m.counts}
    for path, item in server.items.items():
        if not is_number(path, item.type) or path in counts:
            continue
        if item.type == "sunssf":
            server.put_raw(path, chance.choice([-3, -2, -1, 0, 1, 2, 3]))
        elif chance.random() < 0.1:
            server.put(path, math.nan)
        elif CODES[item.type] in "fd":
            server.put_raw(path, chance.uniform(-1e6, 1e6))
        else:
            kind = NUMBER_TYPES[item.type]
            low, high = max(kind.low, -(2**50)), min(kind.high, 2**50)
            server.put_raw(path, chance.randint(int(low), int(high)))


def peer_numbers(peer: SunSpecModbusClientDeviceTCP) -> dict[str, float | None]:
    """What pysunspec2 decodes, by our names."""
    numbers: dict[str, float | None] = {}

    def take(group: Any, path: str) -> None:
        for name, point in group.points.items():
            if is_number(name, point.pdef["type"]):
                numbers[f"{path}.{name}"] = point.cvalue
        for name, inner in group.groups.items():
            if isinstance(inner, list):
                for index, one in enumerate(inner, start=1):
                    take(one, f"{path}.{name}[{index}]")
            else:
                take(inner, f"{path}.{name}")

    for model in peer.model_list:
        assert model.error_info == "", model.model_id
        take(model, str(model.model_id))
    return numbers


def peer_scan(port: int) -> SunSpecModbusClientDeviceTCP:
    peer = SunSpecModbusClientDeviceTCP(slave_id=1, ipaddr="127.0.0.1", ipport=port, timeout=10)
    try:
        peer.connect()
        peer.scan(connect=False)
    finally:
        peer.disconnect()
    return peer


async def our_numbers(device: Instrument) -> dict[str, float]:
    """Every channel's value, by its IOPoint, in one connection."""
    driver = PROTOCOL.open(device, Surroundings(SystemClock()))
    numbers: dict[str, float] = {}
    names = {p.index: device.channels[name].IOPoint for name, p in device.points.items()}
    try:
        await driver.connect()
        for block in PROTOCOL.plan(device):
            values = await read_block(PROTOCOL, driver, block)
            for row, value in zip(block.index.tolist(), values.tolist(), strict=True):
                numbers[str(names[row])] = value
    finally:
        await driver.close()
    return numbers


async def test_every_model_reads_as_pysunspec2_reads_it() -> None:
    models = [counted(number) for number in model_ids()]
    assert len(models) >= 112
    server = SunSpecServer(models, base=0)
    fill(server, models, random.Random(3))
    port = await server.start()
    try:
        theirs = peer_numbers(await asyncio.to_thread(peer_scan, port))
        points = [path for path, item in server.items.items() if is_number(path, item.type)]
        channels = {f"P{i}": {"IOPoint": path} for i, path in enumerate(points)}
        device = sunspec(channels, port)
        assert PROTOCOL.check(device) == []
        ours = await our_numbers(device)
    finally:
        await server.stop()
    assert set(ours) == set(theirs) == set(points)
    assert len(ours) > 3_500
    for path, value in theirs.items():
        if value is None:
            assert math.isnan(ours[path]), path
        else:
            assert ours[path] == pytest.approx(value, rel=1e-12), path
    assert sum(math.isnan(value) for value in ours.values()) > 100


def encoded(number: int, values: dict[str, Any]) -> bytes:
    """A model as pysunspec2 puts it into registers."""
    model = PeerModel(number, data=values)
    model.set_dict(values, computed=False)
    return model.get_mb()


async def test_a_pymodbus_device_that_pysunspec2_encoded_is_read() -> None:
    data = b"SunS"
    data += encoded(1, {"ID": 1, "Mn": "Peer", "Md": "Inverter", "SN": "7", "DA": 1})
    inverter = {"ID": 103, "W": -1234, "W_SF": 1, "Hz": 4998, "Hz_SF": -2, "A": 17, "WH": 90_000}
    data += encoded(103, inverter | {"WH_SF": 0, "Evt1": 5, "St": 4})
    modules = [{"ID": 1, "DCA": 100, "DCV": 6000}, {"ID": 2, "DCA": 250, "DCV": 6100}]
    strings = {"ID": 160, "DCA_SF": -2, "DCV_SF": -1, "N": 2, "module": modules}
    data += encoded(160, strings) + b"\xff\xff\x00\x00"
    words = np.frombuffer(data, dtype=">u2").astype(int).tolist()
    registers = SimData(40_000, values=words, datatype=DataType.REGISTERS)
    peer = ModbusTcpServer([SimDevice(id=1, simdata=[registers])], address=("127.0.0.1", 0))
    await peer.serve_forever(background=True)
    try:
        port = peer.transport.sockets[0].getsockname()[1]
        names = ["103.W", "103.Hz", "103.A", "103.WH", "103.St", "103.VA", "160.module[2].DCA"]
        channels: dict[str, dict[str, Any]] = {n.replace(".", "_"): {"IOPoint": n} for n in names}
        channels["Fault"] = {"IOPoint": "103.Evt1.AC_DISCONNECT", "DataType": "bit"}
        channels["Ok"] = {"IOPoint": "103.Evt1.DC_OVER_VOLT", "DataType": "bit"}
        ours = await our_numbers(sunspec(channels, port))
    finally:
        await peer.shutdown()
    assert ours == pytest.approx(
        {
            "103.W": -12340.0,
            "103.Hz": 49.98,
            "103.A": math.nan,  # its scale factor is not implemented
            "103.WH": 90_000.0,
            "103.St": 4.0,
            "103.VA": math.nan,
            "160.module[2].DCA": 2.5,
            "103.Evt1.AC_DISCONNECT": 1.0,
            "103.Evt1.DC_OVER_VOLT": 0.0,
        },
        nan_ok=True,
    )


async def test_pysunspec2_writes_to_the_simulated_device_and_is_refused_what_is_read_only() -> None:
    server = SunSpecServer([SimModel(1), SimModel(704)])
    server.put_raw("704.WMaxLimPct_SF", -1)
    port = await server.start()

    def write() -> list[str]:
        peer = SunSpecModbusClientDeviceTCP(ipaddr="127.0.0.1", ipport=port, timeout=10)
        refused = []
        try:
            peer.connect()
            peer.scan(connect=False)
            model = peer.models[704][0]
            model.WMaxLimPct.cvalue = 62.5
            model.write()
            model.WMaxLimPct_SF.value = 3
            try:
                model.write()
            except ModbusClientException as error:
                refused.append(str(error))
        finally:
            peer.disconnect()
        return refused

    try:
        refused = await asyncio.to_thread(write)
    finally:
        await server.stop()
    assert server.get("704.WMaxLimPct") == 62.5
    assert len(refused) == 1
    assert server.raw("704.WMaxLimPct_SF") == -1


def test_the_types_here_are_all_numeric_types_of_the_definitions() -> None:
    """A new release of pysunspec2 with a type that we don't know fails here."""
    text = {"string", "pad", "ipaddr", "ipv6addr", "eui48"}
    found: set[str] = set()

    def take(group: dict[str, Any]) -> None:
        found.update(point["type"] for point in group["points"])
        for inner in group.get("groups", ()):
            take(inner)

    folder = files("sunspec2") / "models" / "json"
    for number in model_ids():
        take(json.loads((folder / f"model_{number}.json").read_text(encoding="utf-8"))["group"])
    assert found <= set(NUMBER_TYPES) | text
    assert set(BIT_FIELDS) <= found
