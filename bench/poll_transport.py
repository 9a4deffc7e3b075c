"""How many Modbus TCP requests a second one connection carries, beside pymodbus's client.

Requests of 125 registers to a server in a process of its own, decoded to 62 float32 channels by
ours and handed over as a list of registers by pymodbus. The sides take turns, round by round, so
that a busy machine burdens both; the figures are medians over the rounds. `cpu_us` is the
client's own processor time for one request.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import sys
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from statistics import median
from time import perf_counter, process_time

from pymodbus.client import AsyncModbusTcpClient

from bench._report import Report, arguments, say
from config.model import InstrumentFile
from config.points import PointDef
from config.site import Instrument
from drivers.modbus import ModbusDriver, plan
from drivers.sim.modbus_server import ModbusServer, RegisterBank

DEPTHS = (1, 8, 16)
CHANNELS = 62  # 124 registers, one block
Batch = Callable[[int], Awaitable[None]]


def serve(pipe: Connection) -> None:
    """The device: tells its port, and ends when the pipe does."""

    async def run() -> None:
        bank = RegisterBank()
        for channel in range(CHANNELS):
            bank.put_float32("holding", 2 * channel, channel / 2)
        server = ModbusServer(bank)
        pipe.send(await server.start())
        await asyncio.to_thread(pipe.poll, None)
        await server.stop()

    asyncio.run(run())


def instrument(port: int, depth: int) -> Instrument:
    """A device of one full block."""
    file = InstrumentFile.model_validate(
        {
            "EquipmentTags": {
                "EquipmentName": "Dev",
                "Communication": "ModbusTcp",
                "Connection": {"IP": "127.0.0.1"},
                "PortNum": port,
                "Depth": depth,
                "Timeout": 5,
            },
            "Channels": {
                f"c{at}": {"Type": "HRegister", "IOPoint": 2 * at, "Decimal": 3}
                for at in range(CHANNELS)
            },
        }
    )
    points = {
        name: PointDef(at + 1, f"Dev.{name}", "Dev", name, scan_class="Fast")
        for at, name in enumerate(file.Channels)
    }
    return Instrument("Dev", "Dev.json", file.EquipmentTags, file.Channels, points)


async def ours(port: int, depth: int) -> tuple[Batch, ModbusDriver]:
    """Our driver with `depth` tasks on one connection."""
    device = instrument(port, depth)
    driver = ModbusDriver(device)
    await driver.connect()
    (block,) = plan(device)

    async def reads(count: int) -> None:
        for _ in range(count):
            values = block.decode(await driver.read(block))
        assert values[7] == 3.5

    async def batch(count: int) -> None:
        await asyncio.gather(*(reads(count // depth) for _ in range(depth)))

    return batch, driver


async def pymodbus(port: int) -> tuple[Batch, AsyncModbusTcpClient]:
    """pymodbus's client; it allows one request at a time on a connection."""
    client = AsyncModbusTcpClient("127.0.0.1", port=port, timeout=5)
    await client.connect()

    async def batch(count: int) -> None:
        for _ in range(count):
            answer = await client.read_holding_registers(0, count=2 * CHANNELS, device_id=1)
        assert len(answer.registers) == 2 * CHANNELS

    return batch, client


async def measure(port: int, rounds: int, requests: int) -> dict[str, tuple[float, float]]:
    """Name -> requests a second and processor microseconds a request, medians of the rounds."""
    ends = []
    batches: dict[str, Batch] = {}
    for depth in DEPTHS:
        batches[f"ours_depth_{depth}"], driver = await ours(port, depth)
        ends.append(driver)
    batches["pymodbus"], client = await pymodbus(port)
    rates: dict[str, list[float]] = {name: [] for name in batches}
    costs: dict[str, list[float]] = {name: [] for name in batches}
    for number in range(rounds + 1):
        for name, batch in batches.items():
            start, cpu = perf_counter(), process_time()
            await batch(requests)
            if number:  # the first round warms up
                rates[name].append(requests / (perf_counter() - start))
                costs[name].append((process_time() - cpu) / requests * 1e6)
        say(f"round {number} of {rounds}")
    for driver in ends:
        await driver.close()
    client.close()
    return {name: (median(rates[name]), median(costs[name])) for name in batches}


def main() -> int:
    """Run and report."""
    given = arguments(__doc__)
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    device = context.Process(target=serve, args=(theirs,))
    device.start()
    theirs.close()
    try:
        port = pipe.recv()
        figures = asyncio.run(measure(port, *((5, 800) if given.quick else (9, 4000))))
    finally:
        pipe.close()
        device.join(10)
        if device.is_alive():
            device.kill()
    report = Report("poll_transport")
    for name, (rate, cost_us) in figures.items():
        report.figure(f"{name}_requests_per_s", rate)
        report.figure(f"{name}_registers_per_s", rate * 2 * CHANNELS)
        report.figure(f"{name}_cpu_us", cost_us)
    for depth in DEPTHS:
        ratio = figures[f"ours_depth_{depth}"][0] / figures["pymodbus"][0]
        report.figure(f"ratio_depth_{depth}_to_pymodbus", ratio)
    return report.print(given.json)


if __name__ == "__main__":
    sys.exit(main())
