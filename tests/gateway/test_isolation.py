"""Sick devices beside well ones, over real sockets: the well ones notice nothing."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np

from config.points import PointDef
from config.site import Instrument, ScanClass
from drivers.contract import Surroundings
from drivers.registry import protocol_of
from drivers.sim.modbus_server import ModbusServer, RegisterBank
from gateway.core.clock import SystemClock
from gateway.core.table import PointTable
from gateway.poll import DevicePoller
from tests.drivers.instruments import modbus
from tests.gateway.poll_bench import Heard

DEVICES = 9
SILENT, GARBLING, HANGING_UP = 0, 1, 2


def renumbered(instrument: Instrument, first: int) -> tuple[Instrument, list[PointDef]]:
    """The instrument with points from `first` on: several share one table."""
    points = {
        name: replace(point, index=first + at, tag=f"D{first}.{name}")
        for at, (name, point) in enumerate(instrument.points.items())
    }
    return replace(instrument, name=f"D{first}", points=points), list(points.values())


async def test_a_silent_a_garbling_and_a_vanishing_device_cost_the_others_nothing() -> None:
    keys = {"Type": "HRegister", "DataType": "float32"}
    servers = [ModbusServer(RegisterBank()) for _ in range(DEVICES)]
    instruments, points = [], []
    for server in servers:
        port = await server.start()
        channels = {"A": keys | {"IOPoint": 0}, "B": keys | {"IOPoint": 1000}}
        instrument, own = renumbered(modbus(channels, port, Timeout=0.3), len(points) + 1)
        instruments.append(instrument)
        points += own
    servers[SILENT].faults.silent = True
    servers[GARBLING].faults.garbage = True
    protocol = protocol_of("ModbusTcp")
    assert protocol is not None
    table, heard = PointTable(points), Heard()
    nothing = np.zeros(len(points) + 1, dtype=np.bool_)
    classes = {"Fast": ScanClass("Fast", 20_000_000)}
    around = Surroundings(SystemClock())
    pollers = [
        DevicePoller(i, protocol, classes, table, nothing, heard, around) for i in instruments
    ]
    tasks = [asyncio.create_task(poller.run()) for poller in pollers]
    try:
        async with asyncio.timeout(30):
            while min(p.statistics.polls for p in pollers[3:]) < 60:
                servers[HANGING_UP].faults.close_after = 1
                await asyncio.sleep(0.01)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for server in servers:
            await server.stop()
    assert [p.statistics.errors for p in pollers[3:]] == [0] * (DEVICES - 3)
    assert [p.statistics.reconnects for p in pollers[3:]] == [1] * (DEVICES - 3)
    assert pollers[SILENT].statistics.polls == 0
    assert pollers[GARBLING].statistics.polls == 0
    # A sick device is not asked without pause: the pauses before its connections grow.
    assert servers[SILENT].requests < 20
    assert servers[GARBLING].requests < 20
