"""Isolation: 1,000 points over 50 Modbus devices, three of them sick; the others lose no poll.

One device is black-holed, one resets every connection, one answers each request 0.9 period late.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

import numpy as np
import uvloop

from bench._report import Report, arguments, say
from config.build import PointBuilder
from config.model import InstrumentFile, SamplingEntry
from config.site import Instrument, ScanClass
from drivers.contract import Surroundings
from drivers.registry import protocol_of
from drivers.sim.modbus_server import ModbusServer, RegisterBank
from gateway.commands import Write
from gateway.core.clock import SystemClock
from gateway.core.table import PointTable
from gateway.poll import DevicePoller

DEVICES: Final = 50
POINTS: Final = 20
PERIOD_S: Final = 0.1
SICK: Final = ("black-holed", "resetting", "late")


class Nobody:
    """A listener that needs to hear nothing."""

    def on_block(self, protective: bool) -> None:
        """See gateway.poll.Listener."""

    def on_written(self, write: Write, now_mono_ns: int) -> None:
        """See gateway.poll.Listener."""

    def on_write_failed(self, write: Write, reason: str) -> None:
        """See gateway.poll.Listener."""

    def on_device(self, name: str, up: bool, reason: str) -> None:
        """See gateway.poll.Listener."""

    def on_refused(self, name: str, labels: Collection[str]) -> None:
        """See gateway.poll.Listener."""


async def serve_resets() -> tuple[asyncio.Server, int]:
    """A port that takes connections and resets each."""

    def reset(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raw: socket.socket = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    server = await asyncio.start_server(reset, "127.0.0.1", 0)
    return server, int(server.sockets[0].getsockname()[1])


async def serve() -> None:
    """The devices, in a process of their own: prints their ports and serves until its end."""
    ports = []
    keep: list[Any] = []
    for number in range(DEVICES):
        if number == SICK.index("resetting"):
            reset, port = await serve_resets()
            keep.append(reset)
        else:
            server = ModbusServer(RegisterBank())
            port = await server.start()
            server.faults.silent = number == SICK.index("black-holed")
            if number == SICK.index("late"):
                server.faults.delay_s = 0.9 * PERIOD_S
            keep.append(server)
        ports.append(port)
    print(*ports, flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # until the bench ends


def instruments(ports: list[int]) -> tuple[list[Instrument], PointTable]:
    """One instrument a port, 20 float32 points each."""
    sampling = {"Fast": SamplingEntry(FilterKey="Fast", Rate=PERIOD_S)}
    builder = PointBuilder(sampling, {"Fast": ScanClass("Fast", round(PERIOD_S * 1e9))})
    made = []
    for number, port in enumerate(ports):
        channel = {"Type": "HRegister", "DataType": "float32", "Tags": ["Fast"]}
        file = InstrumentFile.model_validate(
            {
                "EquipmentTags": {
                    "EquipmentName": f"D{number}",
                    "Communication": "ModbusTcp",
                    "Connection": {"IP": "127.0.0.1"},
                    "PortNum": port,
                },
                "Channels": {f"C{i}": {**channel, "IOPoint": 2 * i} for i in range(POINTS)},
            }
        )
        made.append(builder.instrument(f"D{number}.json", file))
    return made, PointTable(builder.points)


async def measure(ports: list[int], seconds: float) -> list[DevicePoller]:
    """Poll all devices for a while; returns their pollers."""
    devices, table = instruments(ports)
    protocol = protocol_of("ModbusTcp")
    assert protocol is not None
    nothing = np.zeros(len(table.rows), dtype=np.bool_)
    classes = {"Fast": ScanClass("Fast", round(PERIOD_S * 1e9))}
    surroundings = Surroundings(SystemClock())
    pollers = [
        DevicePoller(d, protocol, classes, table, nothing, Nobody(), surroundings) for d in devices
    ]
    tasks = [asyncio.create_task(p.run()) for p in pollers]
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return pollers


def main() -> int:
    """Measure and print."""
    options = arguments(__doc__)
    seconds = 10.0 if options.quick else 60.0
    command = [sys.executable, "-m", "bench.isolation", "--serve"]
    root = Path(__file__).parents[1]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root
    ) as devices:
        assert devices.stdin is not None
        assert devices.stdout is not None
        ports = [int(port) for port in devices.stdout.readline().split()]
        say(f"polling {DEVICES} devices every {PERIOD_S * 1000:g} ms for {seconds:g} s")
        pollers = uvloop.run(measure(ports, seconds))
        devices.stdin.close()
    well = [p.statistics for p in pollers[len(SICK) :]]
    expected = round(seconds / PERIOD_S)
    report = Report("isolation")
    report.figure("points", DEVICES * POINTS)
    report.figure("well_devices", len(well))
    report.check("polls_skipped_of_well_devices", sum(s.skipped for s in well), "<=", 0)
    report.check("errors_of_well_devices", sum(s.errors for s in well), "<=", 0)
    report.check("polls_least_of_a_well_device", min(s.polls for s in well), ">=", expected - 2)
    report.figure("late_ms_max_of_well_devices", max(s.late_ms_max for s in well))
    for name, poller in zip(SICK, pollers, strict=False):
        statistics = poller.statistics
        report.figure(f"{name}_polls", statistics.polls)
        report.figure(f"{name}_reconnects", statistics.reconnects)
    late = pollers[SICK.index("late")].statistics
    report.check("polls_of_the_late_device", late.polls, ">=", 0.9 * expected)
    return report.print(options.json)


if __name__ == "__main__":
    if "--serve" in sys.argv:
        uvloop.run(serve())
        sys.exit(0)
    sys.exit(main())
