"""A device poller on a scripted driver: what the tests of polling share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from config.model import Channel, EquipmentTags
from config.site import Instrument, ScanClass
from drivers.contract import (
    Block,
    Cycle,
    DriverProtocol,
    Part,
    Surroundings,
    Update,
    one_by_one,
)
from gateway.commands import Write
from gateway.core.clock import SystemClock
from gateway.core.table import PointTable
from gateway.poll import DevicePoller
from tests.gateway.points import output, point

FAST = {"Fast": ScanClass("Fast", 10_000_000), "Slow": ScanClass("Slow", 30_000_000)}


class Script:
    """A driver that does what the test says, and writes down what it was asked."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.answer: Callable[[str], float] = lambda label: 1.0
        self.connects: Callable[[], None] = lambda: None
        self.takes: Callable[[float], None] = lambda value: None
        self.open_count = 0
        self.pushed: asyncio.Queue[Update] = asyncio.Queue(10)

    async def connect(self) -> None:
        self.open_count += 1
        await asyncio.sleep(0)
        self.connects()

    def read(self, cycle: Cycle) -> AsyncIterator[Part]:
        return one_by_one(cycle, self.ask, SystemClock())

    async def ask(self, block: Block) -> NDArray[np.float64]:
        self.log.append(f"read {block.label}")
        await asyncio.sleep(0.001)
        return np.full(len(block.index), self.answer(block.label))

    async def updates(self) -> AsyncIterator[Update]:
        while True:
            yield await self.pushed.get()

    async def write(self, to: Any, value: float) -> None:
        self.log.append(f"write {value:g}")
        await asyncio.sleep(0)
        self.takes(value)

    async def close(self) -> None:
        await asyncio.sleep(0)


class Heard:
    """What the poller told the field process."""

    def __init__(self) -> None:
        self.blocks: list[bool] = []
        self.written: list[float] = []
        self.failed: list[str] = []
        self.devices: list[tuple[bool, str]] = []
        self.refused: list[str] = []

    def on_block(self, protective: bool) -> None:
        self.blocks.append(protective)

    def on_written(self, write: Write, now_mono_ns: int) -> None:
        self.written.append(write.value)

    def on_write_failed(self, write: Write, reason: str) -> None:
        self.failed.append(reason)

    def on_device(self, name: str, up: bool, reason: str) -> None:
        self.devices.append((up, reason))

    def on_refused(self, name: str, labels: Collection[str]) -> None:
        self.refused += labels


class Bench:
    """One device with a fast input, a slow input and an output, on a scripted driver."""

    def __init__(
        self, plan: Sequence[Block] = (), refused: Collection[str] = (), **tags: Any
    ) -> None:
        points = {
            "Fast": point(1, "Dev.Fast", value_max=50.0),
            "Slow": point(2, "Dev.Slow"),
            "Out": output(3),
        }
        self.points = points
        self.table = PointTable(list(points.values()))
        self.script, self.heard = Script(), Heard()
        instrument = Instrument(
            name="Dev",
            file="Dev.json",
            tags=EquipmentTags(EquipmentName="Dev", Communication="Script", **tags),
            channels={name: Channel() for name in points},
            points=points,
        )
        blocks = [
            self.block("fast", "Fast", 1),
            self.block("slow", "Slow", 2),
            self.block("out", "Slow", 3),
        ]
        protocol = DriverProtocol(
            names=("Script",),
            plan=lambda _: plan or blocks,
            check=lambda _: [],
            open=lambda *_: self.script,
            split=lambda block: (
                [self.block(f"{block.label}.{i}", block.scan_class, i) for i in block.index]
                if len(block.index) > 1
                else []
            ),
            pushes=any(b.pushed for b in plan),
        )
        protective = np.array([False, True, False, False])
        self.poller = DevicePoller(
            instrument,
            protocol,
            FAST,
            self.table,
            protective,
            self.heard,
            Surroundings(SystemClock()),
            refused,
        )

    @staticmethod
    def block(label: str, scan_class: str, *index: int, pushed: bool = False) -> Block:
        return Block(np.array(index, dtype=np.int32), scan_class, None, label, pushed)

    @classmethod
    def split(cls, block: Block) -> list[Block]:
        if len(block.index) == 1:
            return []
        return [cls.block(f"{block.label}.{i}", block.scan_class, i) for i in block.index]

    def status(self, index: int) -> int:
        return int(self.table.rows["status"][index])

    async def until(self, condition: Callable[[], bool]) -> None:
        """Poll until a condition holds; a test that waits ten seconds has failed."""
        task = asyncio.create_task(self.poller.run())
        try:
            async with asyncio.timeout(10):
                while not condition():
                    await asyncio.sleep(0.002)
                    if task.done():
                        task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
