"""What `gatepost plan` predicts beside what is then measured: over TCP, and on a serial line.

The simulated devices run in processes of their own: a Modbus TCP device that takes 40 ms to
answer, and three units on a pty throttled to 19,200 baud, whose periods drift through each other.
The poll engine runs here, on uvloop as in the field process. Requests, bytes and the load of the
line are counted by the simulators; the load of the TCP device is the time between the frames; the
worst age is looked at whenever a value is replaced. The first seconds, in which everybody connects
at once, don't count.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import sys
from collections.abc import Sequence
from dataclasses import asdict
from multiprocessing.connection import Connection
from typing import Any, Final

import numpy as np
import uvloop

from bench._report import Report, arguments, say
from config.model import InstrumentFile
from config.points import PointDef
from config.site import Instrument, ScanClass
from drivers.contract import Surroundings
from drivers.registry import protocol_of
from drivers.sim.modbus_server import ModbusServer, RegisterBank
from drivers.sim.rtu_server import RtuServer
from gateway.core.clock import SystemClock
from gateway.core.table import PointTable
from gateway.plan import SitePlan, plan_instruments
from gateway.poll import DevicePoller

REPLY_S: Final = 0.04
BAUDRATE: Final = 19_200
SETTLE_S: Final = 3.0
PERIODS_MS: Final = {"Fast": 230, "Slow": 1000, "U1": 370, "U2": 730, "U3": 1000}


class CountingServer(ModbusServer):
    """A Modbus TCP device that counts bytes."""

    request_bytes = 0
    answer_bytes = 0

    def execute(self, unit: int, pdu: bytes) -> bytes:
        """See drivers.sim.modbus_server."""
        answer = super().execute(unit, pdu)
        self.request_bytes += 7 + len(pdu)
        self.answer_bytes += 7 + len(answer)
        return answer


def serve_tcp(pipe: Connection) -> None:
    """The device on TCP: tells its port, then its account whenever it is asked."""

    async def run() -> None:
        server = CountingServer(RegisterBank())
        server.faults.delay_s = REPLY_S
        pipe.send(await server.start())
        while await asyncio.to_thread(pipe.recv):
            counted = (server.requests, server.request_bytes, server.answer_bytes)
            names = ("requests", "request_bytes", "answer_bytes")
            pipe.send(dict(zip(names, counted, strict=True)))
        await server.stop()

    asyncio.run(run())


def serve_line(pipe: Connection) -> None:
    """The units on the line, likewise."""

    async def run() -> None:
        server = RtuServer(RegisterBank(), baudrate=BAUDRATE, bits=10)
        server.banks.update({2: RegisterBank(), 3: RegisterBank()})
        pipe.send(await server.start())
        while await asyncio.to_thread(pipe.recv):
            pipe.send(asdict(server.line.account))
        await server.stop()

    asyncio.run(run())


def instrument(name: str, first: int, channels: dict[str, Any], **tags: Any) -> Instrument:
    """An instrument whose points begin at row `first`; a channel's tag is its scan class."""
    file = InstrumentFile.model_validate(
        {"EquipmentTags": {"EquipmentName": name, "Timeout": 2} | tags, "Channels": channels}
    )
    points = {
        channel: PointDef(first + at, f"{name}.{channel}", name, channel, scan_class=keys.Tags[0])
        for at, (channel, keys) in enumerate(file.Channels.items())
    }
    return Instrument(name, f"{name}.json", file.EquipmentTags, file.Channels, points)


def blocks(scan_class: str, count: int, registers: int, base: int) -> dict[str, Any]:
    """Channels that are read in `count` blocks."""
    return {
        f"{scan_class}_{at}_{register}": {
            "Type": "HRegister",
            "DataType": "uint16",
            "IOPoint": base + 200 * at + register,
            "Tags": [scan_class],
        }
        for at in range(count)
        for register in range(registers)
    }


def site(tcp_port: int, tty: str) -> tuple[list[Instrument], list[Instrument]]:
    """The device on TCP, and the units on the line."""
    channels = blocks("Fast", 2, 60, 0) | blocks("Slow", 6, 60, 5000)
    place = {"Connection": {"IP": "127.0.0.1"}, "PortNum": tcp_port}
    network = [
        instrument("Net", 1, channels, Communication="ModbusTcp", ReplyDelay=REPLY_S, **place)
    ]
    first = 1 + len(channels)
    units = []
    for unit in (1, 2, 3):
        channels = blocks(f"U{unit}", 2, 40, 0)
        settings = {"Port": tty, "Baudrate": BAUDRATE, "Parity": "N", "Unit": unit}
        units.append(
            instrument(
                f"Unit{unit}", first, channels, Communication="ModbusRTU", Connection=settings
            )
        )
        first += len(channels)
    return network, units


class Watch:
    """Listener of a poller: how old values were when they were replaced; tap: time of exchanges."""

    def __init__(self, table: PointTable, rows: Sequence[int]) -> None:
        self.worst_ns = 0
        self.open_ns = 0
        self._table = table
        self._rows = np.array(rows)
        self._stamps = np.zeros(len(rows), dtype=np.int64)
        self._clock = SystemClock()
        self._asked_ns = 0

    def reset(self) -> None:
        """Count from now on."""
        self.worst_ns = self.open_ns = 0

    def on_block(self, protective: bool) -> None:
        """See gateway.poll.Listener."""
        stamps = self._table.rows["mono_ns"][self._rows]
        fresh = (stamps != self._stamps) & (self._stamps > 0)
        if fresh.any():
            age_ns = self._clock.monotonic_ns() - int(self._stamps[fresh].min())
            self.worst_ns = max(self.worst_ns, age_ns)
        self._stamps = stamps.copy()

    def frame(self, sent: bool, data: bytes, meaning: str) -> None:
        """See drivers.contract.Tap."""
        now_ns = self._clock.monotonic_ns()
        if sent:
            self._asked_ns = now_ns
        else:
            self.open_ns += now_ns - self._asked_ns

    def on_written(self, *_: Any) -> None:
        """Nothing is written here."""

    on_write_failed = on_refused = on_written

    def on_device(self, name: str, up: bool, reason: str) -> None:
        """See gateway.poll.Listener."""
        if not up:
            say(f"{name}: {reason}")


async def ask(pipes: Sequence[Connection]) -> list[dict[str, float]]:
    """The accounts of the simulators."""
    for pipe in pipes:
        pipe.send(True)
    return [await asyncio.to_thread(pipe.recv) for pipe in pipes]


async def measure(pipes: Sequence[Connection], seconds: float) -> dict[str, Any]:
    """Poll for that long; everything predicted and measured, by transport."""
    groups = dict(zip(("tcp", "serial"), site(*(pipe.recv() for pipe in pipes)), strict=True))
    everything = [i for group in groups.values() for i in group]
    table = PointTable([p for i in everything for p in i.points.values()])
    classes = {name: ScanClass(name, ms * 1_000_000) for name, ms in PERIODS_MS.items()}
    protective = np.zeros(len(table.rows), dtype=np.bool_)
    watches, tasks = {}, []
    for name, group in groups.items():
        rows = [p.index for i in group for p in i.points.values()]
        watches[name] = watch = Watch(table, rows)
        around = Surroundings(SystemClock(), tap=watch if name == "tcp" else None)
        for device in group:
            protocol = protocol_of(device.tags.Communication)
            assert protocol is not None
            poller = DevicePoller(device, protocol, classes, table, protective, watch, around)
            tasks.append(asyncio.create_task(poller.run()))
    await asyncio.sleep(SETTLE_S)
    clock = SystemClock()
    begin, begin_ns = await ask(pipes), clock.monotonic_ns()
    for watch in watches.values():
        watch.reset()
    say(f"measuring for {seconds:g} s")
    await asyncio.sleep(seconds)
    end, passed_s = await ask(pipes), (clock.monotonic_ns() - begin_ns) / 1e9
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for pipe in pipes:
        pipe.send(False)
    found = {}
    periods_s = {name: ms / 1000 for name, ms in PERIODS_MS.items()}
    for at, name in enumerate(groups):
        rates = {key: (end[at][key] - begin[at][key]) / passed_s for key in begin[at]}
        watch = watches[name]
        found[name] = (
            predicted(plan_instruments(groups[name], periods_s)),
            {
                "requests_per_s": rates["requests"],
                "request_bytes_per_s": rates["request_bytes"],
                "answer_bytes_per_s": rates["answer_bytes"],
                "load": rates["busy_s"] if "busy_s" in rates else watch.open_ns / 1e9 / passed_s,
                "worst_age_s": watch.worst_ns / 1e9,
            },
        )
    return found


def predicted(plan: SitePlan) -> dict[str, float]:
    """The plan's figures of one transport."""
    classes = [c for device in plan.devices for c in device.classes]
    return {
        "requests_per_s": sum(c.requests_per_s for c in classes),
        "request_bytes_per_s": sum(c.request_bytes_per_s for c in classes),
        "answer_bytes_per_s": sum(c.answer_bytes_per_s for c in classes),
        "load": plan.lines[0].load if plan.lines else plan.devices[0].load,
        "worst_age_s": max(c.worst_age_s or 0.0 for c in classes),
    }


def main() -> int:
    """Run and print."""
    given = arguments(__doc__)
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for serve in (serve_tcp, serve_line):
        pipe, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs,))
        process.start()
        theirs.close()
        pipes.append(pipe)
        processes.append(process)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            found = runner.run(measure(pipes, 30 if given.quick else 120))
    finally:
        for pipe, process in zip(pipes, processes, strict=True):
            pipe.close()
            process.join(10)
            if process.is_alive():
                process.kill()
    report = Report("plan")
    for name, (said, seen) in found.items():
        for key, value in said.items():
            report.figure(f"{name}_{key}_predicted", value)
            report.figure(f"{name}_{key}_measured", seen[key])
            off = abs(value / seen[key] - 1) if seen[key] else 1.0
            report.check(f"{name}_{key}_off_ratio", off, "<=", 0.1)
    return report.print(given.json)


if __name__ == "__main__":
    sys.exit(main())
