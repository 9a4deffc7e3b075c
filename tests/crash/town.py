"""A whole site in real processes: device, field, link, broker, ingest, historian."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

from cloud.broker import Broker
from cloud.historian import AuditReport
from cloud.historian_sqlite import SqliteHistorian
from gateway.core.paths import StatePaths
from gateway.local import LocalClient, LocalError
from gateway.supervisor import Supervisor
from tests.gateway.sites import Rig

PATIENCE_S = 40.0


class Town:
    """Everything between a register and a historian's row."""

    def __init__(self, folder: Path, broker_port: int) -> None:
        self.rig = Rig(folder)
        self.broker = Broker(broker_port, folder / "broker")
        self.historian_file = folder / "historian.sqlite"
        self.paths = StatePaths(self.rig.state)
        self.supervisor = Supervisor(self.rig.folder, self.rig.state, tell=lambda line: None)
        self.link: dict[str, Any] = {}  # what else stands in link.json
        self._stop = asyncio.Event()
        self._gateway: asyncio.Task[int] | None = None
        self._moving: asyncio.Task[None] | None = None
        self._ingest: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start everything; the device's temperature moves all the time."""
        await self.rig.start()
        self.rig.write(
            link={
                "Broker": {"URL": self.broker.url, "KeepAlive": 2},
                "OpcUa": {"Active": False},
                "Store": {"FrameInterval": 0.1},
                **self.link,
            }
        )
        self.broker.start()
        await self.broker.wait_ready()
        await self.start_ingest()
        self._gateway = asyncio.create_task(self.supervisor.run(self._stop))
        self._moving = asyncio.create_task(self._move())
        await self.until(lambda s: not s["startup"] and bool(s["link"]))

    async def _move(self) -> None:
        step = 0
        while True:
            step += 1
            self.rig.temperature(20.0 + step % 500)
            await asyncio.sleep(0.02)

    async def start_ingest(self) -> None:
        """Start the ingest process."""
        options = ("--broker", self.broker.url, "--historian", str(self.historian_file))
        self._ingest = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "cloud.ingest", *options, stderr=asyncio.subprocess.DEVNULL
        )

    async def kill_ingest(self) -> None:
        """``kill -9`` of the ingest process."""
        assert self._ingest is not None
        self._ingest.kill()
        await self._ingest.wait()

    def kill(self, name: str) -> None:
        """``kill -9`` of field or link."""
        pid = self.supervisor.status()[name]["pid"]
        assert pid is not None
        os.kill(pid, signal.SIGKILL)

    async def status(self) -> dict[str, Any] | None:
        """What the field process says; None where it does not run."""
        client = LocalClient(self.paths.field_socket)
        try:
            await client.connect()
            shown: dict[str, Any] = (await client.request({"type": "status"}))["status"]
            return shown
        except LocalError:
            return None
        finally:
            await client.close()

    async def until(self, condition: Any) -> dict[str, Any]:
        """Wait until a status fulfils a condition."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                shown = await self.status()
                if shown is not None and condition(shown):
                    return shown
                await asyncio.sleep(0.05)

    async def arrived(self, seq: int | None = None) -> None:
        """Wait until the historian acknowledged what the journal holds now (or number `seq`)."""
        now = await self.until(lambda s: True)
        epoch, wanted = now["epoch"], seq or now["seq"]

        def there(shown: dict[str, Any]) -> bool:
            acknowledged = (shown["link"] or {}).get("acknowledged", (0, 0))
            return acknowledged[0] == epoch and acknowledged[1] >= wanted

        await self.until(there)

    def audit(self) -> AuditReport:
        """What the historian holds."""
        historian = SqliteHistorian(self.historian_file, read_only=True)
        with contextlib.closing(historian):
            return historian.audit(historian.gateways()[0])

    async def end(self) -> None:
        """End everything, in order."""
        if self._moving is not None:
            self._moving.cancel()
        self._stop.set()
        if self._gateway is not None:
            await self._gateway
        if self._ingest is not None and self._ingest.returncode is None:
            await self.kill_ingest()
        self.broker.stop()
        await self.rig.stop()
