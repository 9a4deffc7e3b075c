"""A field process on the test's own loop."""

from __future__ import annotations

import asyncio
from typing import Any

from gateway import kernel_cache
from gateway.core.clock import SystemClock
from gateway.core.paths import StatePaths
from gateway.core.records import Command
from gateway.field import Field, prepare
from safety.engine import Engine
from tests.gateway.sites import Rig, eventually


class Running:
    """A field process on the test's loop."""

    def __init__(self, rig: Rig) -> None:
        paths = StatePaths(rig.state)
        paths.make()
        site, program = prepare(rig.folder)
        engine = Engine(program, kernel_cache.load(paths.folder))
        self.field = Field(site, engine, paths, SystemClock())
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(self.field.run(self._stop))

    async def end(self) -> None:
        """Stop in order."""
        self._stop.set()
        await self._task

    async def finished(self) -> None:
        """Until it ends by itself; raises what ended it."""
        async with asyncio.timeout(10):
            await self._task

    async def crash(self) -> None:
        """End as a kill would: nothing is said, no output is touched."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def send(self, tag: str, value: float) -> bool:
        """A local operator's command."""
        clock = SystemClock()
        command = Command(clock.new_id(), tag, value)
        return self.field.commands.submit(command, clock.monotonic_ns(), clock.utc_ns())

    def status(self, tag: str) -> int:
        return int(self.field.table.rows["status"][self.field.table.index[tag]])

    def value(self, tag: str) -> float:
        return float(self.field.table.rows["value"][self.field.table.index[tag]])

    def events(self, kind: str, **wanted: Any) -> list[dict[str, Any]]:
        batch = self.field.journal.after(0, 10**6)
        assert batch is not None
        return [
            dict(e.body)
            for e in batch.events
            if e.kind == kind and all(e.body.get(k) == v for k, v in wanted.items())
        ]

    async def ready(self) -> None:
        """Until the start-up trip is released."""
        await eventually(lambda: not self.field.engine.startup)
