"""The far side of a demonstration: a broker of its own, ingest, and the historian's file."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cloud.broker import Broker, BrokerError
from cloud.historian import AuditReport
from cloud.historian_sqlite import SqliteHistorian
from gateway.cli.children import Children
from gateway.cli.output import EXIT_BAD, CommandFailed

READY_S: Final = 30.0
EVENTS_MAX: Final = 1_000_000
INGEST: Final = "ingest"


@dataclass(frozen=True, slots=True)
class Held:
    """What the historian holds of one gateway; `receipts` are bodies of receipt events."""

    audit: AuditReport
    receipts: list[dict[str, Any]]


class FarSide:
    """Starts, stops and looks into the far side."""

    def __init__(self, folder: Path, broker_port: int, children: Children) -> None:
        self.historian_file = folder / "historian.sqlite"
        self.broker = Broker(broker_port, folder / "broker")
        self._ready_file = folder / "ingest.ready"
        self._children = children

    async def start(self) -> None:
        """Broker, then ingest; raises CommandFailed where one of them can't."""
        await self.start_broker()
        command = ("cloud.ingest", "--with-parent", "--broker", self.broker.url)
        files = ("--historian", str(self.historian_file), "--ready-file", str(self._ready_file))
        await self._children.start(INGEST, *command, *files, ready=False)
        try:
            async with asyncio.timeout(READY_S):
                while not self._ready_file.exists():
                    ended = self._children.ended()
                    if ended:
                        raise CommandFailed(ended[0], EXIT_BAD)
                    await asyncio.sleep(0.05)
        except TimeoutError as error:
            raise CommandFailed(f"ingest did not connect within {READY_S:g} s", EXIT_BAD) from error

    async def start_broker(self) -> None:
        """Start the broker, again on the same port; raises CommandFailed."""
        try:
            self.broker.start()
            await self.broker.wait_ready()
        except BrokerError as error:
            raise CommandFailed(str(error), EXIT_BAD) from error

    async def stop_broker(self) -> None:
        """End the broker's process; connections break."""
        await asyncio.to_thread(self.broker.stop)

    async def stop(self) -> None:
        """Ingest first: it commits what it took."""
        await self._children.end(INGEST)
        await self.stop_broker()

    def held(self, site: str | None = None) -> Held:
        """Audit of the rows, and the receipts. Raises HistorianError."""
        historian = SqliteHistorian(self.historian_file, read_only=True)
        with contextlib.closing(historian):
            names = historian.gateways()
            name = site or (names[0] if names else "")
            events = historian.events(gateway=name, kind="receipt", limit=EVENTS_MAX)
            return Held(historian.audit(name), [event.body for event in events])
