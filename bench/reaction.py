"""From a register changing in a device to the trip's write on the wire, for polls of 10 and 100 ms.

The field process runs as always; the device is a Modbus TCP simulator in a process of its own,
which changes the register at a random moment of the poll period and sees the write arrive. Both
moments are taken from its one clock.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import uvloop

from bench._report import Report, arguments, say
from drivers.sim.modbus_server import ModbusServer, RegisterBank

PERIODS_MS: Final = (10, 100)
LEVEL: Final = 0  # address of the input register
VALVE: Final = 100  # address of the output's holding register
HIGH: Final = 1000
PATIENCE_S: Final = 20.0
START_S: Final = 60.0


class Device:
    """One Modbus device that measures how fast somebody reacts to it."""

    def __init__(self) -> None:
        self.bank = RegisterBank()
        self._closed = asyncio.Event()
        self._opened = asyncio.Event()
        self._seen_s = 0.0
        self.server = ModbusServer(self.bank, on_write=self._written)

    def _written(self, kind: str, first: int, values: list[int]) -> None:
        if kind != "holding" or first != VALVE:
            return
        self._seen_s = time.perf_counter()
        (self._opened if values[0] else self._closed).set()

    async def ready(self) -> None:
        """Wait until the gateway has opened the valve: it is past its start-up."""
        async with asyncio.timeout(START_S):
            await self._opened.wait()

    async def trip(self, wait_s: float) -> float:
        """Seconds from the register's change to the write that closes the valve."""
        self._opened.clear()
        self._closed.clear()
        await asyncio.sleep(wait_s)
        began_s = time.perf_counter()
        self.bank.inputs[LEVEL] = HIGH
        async with asyncio.timeout(PATIENCE_S):
            await self._closed.wait()
        reaction_s = self._seen_s - began_s
        self.bank.inputs[LEVEL] = 0
        async with asyncio.timeout(PATIENCE_S):
            await self._opened.wait()
        return reaction_s


async def serve(period_ms: int, rounds: int) -> None:
    """The device: prints its port, then the reaction times as JSON."""
    device = Device()
    print(await device.server.start(), flush=True)
    await device.ready()
    chance = random.Random(1)
    waits_s = [chance.uniform(3, 4) * period_ms / 1000 + 0.02 for _ in range(rounds)]
    print(json.dumps([await device.trip(wait_s) for wait_s in waits_s]), flush=True)
    await device.server.stop()


def write_site(folder: Path, port: int, period_ms: int) -> None:
    """A site with one trip: level high, valve closed."""
    common = {"DataType": "uint16", "Minimum": 0}
    files: dict[str, Any] = {
        "Bench-Config.json": {
            "SystemTags": {"SystemName": "Reaction", "Personality": "Personality.json"},
            "Equipment": {"Tank": {"Config": "Tank.json"}},
            "DataSampling": {
                "Fast": {"FilterKey": "Fast", "Rate": period_ms, "Unit": "ms"},
                "Slow": {"FilterKey": "Slow", "Rate": 1},
            },
        },
        "Tank.json": {
            "EquipmentTags": {
                "EquipmentName": "Tank",
                "Communication": "ModbusTcp",
                "Connection": {"IP": "127.0.0.1"},
                "PortNum": port,
            },
            "Channels": {
                "Level": {**common, "Type": "IRegister", "IOPoint": LEVEL, "Tags": ["Fast"]},
                "Valve": {
                    **common,
                    "Type": "HRegister",
                    "IOPoint": VALVE,
                    "ReadWrite": "RW",
                    "Maximum": 1,
                    "SafeValue": 0,
                    "Fallback": 1,
                    "Tags": ["Slow"],
                },
            },
        },
        "Personality.json": {"Components": {"ControlStates": "Controls.json"}},
        "Controls.json": {
            "Automatic_Controls": {
                "Control/Level_High": {
                    "When": f"Tank.Level >= {HIGH}",
                    "Effects": {"Tank.Valve": 0},
                    "Latch": False,
                }
            }
        },
    }
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")


def measure(period_ms: int, rounds: int) -> list[float]:
    """Reaction times in seconds, with the field process as it is run anywhere."""
    root = Path(__file__).parents[1]
    command = [sys.executable, "-m", "bench.reaction", "--serve", str(period_ms), str(rounds)]
    with (
        tempfile.TemporaryDirectory(prefix="gatepost-reaction-") as name,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as device,
    ):
        assert device.stdout is not None
        folder = Path(name)
        write_site(folder / "site", int(device.stdout.readline()), period_ms)
        words = (str(folder / "site"), "--state", str(folder / "state"))
        with (folder / "output.log").open("wb") as log:
            field = subprocess.Popen(
                [sys.executable, "-m", "gateway.field", *words], stderr=log, cwd=root
            )
        try:
            line = device.stdout.readline()
        finally:
            field.terminate()
            field.wait()
        if not line:
            raise SystemExit((folder / "output.log").read_text(encoding="utf-8")[-2000:])
        times_s: list[float] = json.loads(line)
        return times_s


def main() -> int:
    """Measure and print."""
    options = arguments(__doc__)
    rounds = 60 if options.quick else 500
    report = Report("reaction")
    report.figure("trips_of_each_period", rounds)
    for period_ms in PERIODS_MS:
        say(f"{rounds} trips at a poll period of {period_ms} ms")
        times_ms = np.array(measure(period_ms, rounds)) * 1000
        report.figure(f"reaction_p99_at_{period_ms}_ms", float(np.percentile(times_ms, 99)))
        report.figure(f"reaction_max_at_{period_ms}_ms", float(times_ms.max()))
        median_ms = float(np.median(times_ms))
        report.check(f"reaction_median_at_{period_ms}_ms", median_ms, "<=", period_ms + 10)
    return report.print(options.json)


if __name__ == "__main__":
    if "--serve" in sys.argv:
        uvloop.run(serve(int(sys.argv[-2]), int(sys.argv[-1])))
        sys.exit(0)
    sys.exit(main())
