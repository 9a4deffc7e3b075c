"""The plant of `bench.outage`: device, broker behind a proxy, gateway, ingest; all as processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from bench._outage_proxy import HOST, Proxy
from bench._outage_readings import Found, of_historian, of_stream
from bench._peers_gateways import Gatepost, Gateway, Load
from bench._peers_run import Helper, RunFailed, free_port
from cloud.historian import AuditReport
from cloud.historian_sqlite import SqliteHistorian
from gateway.core.paths import StatePaths
from gateway.local import LocalClient, LocalError

REGISTERS: Final = 10
PERIOD_MS: Final = 500.0  # scans come every 100 ms: some may be late, no reading is overwritten
LOAD: Final = Load(1, REGISTERS, PERIOD_MS)
START_S: Final = 60.0
ROWS_MAX: Final = 1_000_000
FAKETIME: Final = ("/usr/lib/*/faketime/libfaketime.so.1", "/usr/lib/faketime/libfaketime.so.1")


def faketime_library() -> Path | None:
    """libfaketime, which shows a process another wall clock; None where it is not installed."""
    for pattern in FAKETIME:
        for found in Path("/").glob(pattern.lstrip("/")):
            return found
    return None


def _started(*command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class Plant(ABC):
    """What every gateway of the comparison has: a device that counts, a broker, a network."""

    def __init__(self, kind: type[Gateway], folder: Path) -> None:
        self.folder = folder
        self.gateway = kind(folder / "gateway")
        self.broker_port = free_port()
        self.proxy = Proxy(self.broker_port)
        self._device = Helper("bench._modbus_fast", "--count")
        self._broker: subprocess.Popen[bytes] | None = None
        self._device_port = int(self._device.read().split()[0])

    def answered(self) -> int:
        """How many answers the device gave."""
        return int(self._device.ask(""))

    # ------------------------------------------------------------ broker

    async def start_broker(self) -> None:
        """mosquitto without persistence; returns when it listens."""
        program = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
        if program is None:
            raise RunFailed("mosquitto is missing: tools/system-packages installs it")
        config = self.folder / "mosquitto.conf"
        config.write_text(
            f"listener {self.broker_port} {HOST}\nallow_anonymous true\npersistence false\n"
            "set_tcp_nodelay true\nmax_queued_messages 0\nlog_type error\n",
            encoding="utf-8",
        )
        self._broker = _started(program, "-c", str(config))
        async with asyncio.timeout(START_S):
            while True:
                try:
                    _, writer = await asyncio.open_connection(HOST, self.broker_port)
                except OSError:
                    await asyncio.sleep(0.02)
                    continue
                writer.close()
                return

    def signal_broker(self, number: signal.Signals) -> None:
        """SIGTERM, SIGSTOP, SIGKILL; behind an end, its connections at the proxy are gone."""
        assert self._broker is not None
        self._broker.send_signal(number)
        if number in (signal.SIGTERM, signal.SIGKILL):
            self._broker.wait()

    # ------------------------------------------------------------ life

    async def start(self, environment: Mapping[str, str] | None = None) -> None:
        """Start everything and wait until the first reading has arrived."""
        await self.start_broker()
        await self.proxy.start()
        await self.start_far_side()
        os.environ.update(environment or {})
        try:
            self.gateway.start(LOAD, [self._device_port], self.proxy.port)
        finally:
            for name in environment or {}:
                del os.environ[name]
        try:
            async with asyncio.timeout(START_S):
                await self.settled()
        except TimeoutError:
            raise RunFailed(f"{self.gateway.name}: {self.gateway.log_end()}") from None

    @abstractmethod
    async def start_far_side(self) -> None:
        """What takes the messages on the broker's other side."""

    @abstractmethod
    async def settled(self) -> None:
        """Wait until everything that was read has arrived, or nothing more comes."""

    async def stop(self) -> None:
        """End everything."""
        self.gateway.end()
        await self.proxy.stop()
        if self._broker is not None and self._broker.poll() is None:
            self._broker.kill()
            self._broker.wait()
        self._device.end()


class OurPlant(Plant):
    """Gatepost with its ingest and a historian of SQLite."""

    def __init__(self, folder: Path) -> None:
        super().__init__(Gatepost, folder)
        self.historian = folder / "historian.sqlite"
        self.clock_file = folder / "clock"
        self._paths = StatePaths(self.gateway.folder / "state")
        self._ingest: subprocess.Popen[bytes] | None = None

    async def start_far_side(self) -> None:
        """The ingest, beside the broker: the proxy is the gateway's network."""
        url = f"mqtt://{HOST}:{self.broker_port}"
        words = ("--broker", url, "--historian", str(self.historian))
        self._ingest = _started(sys.executable, "-m", "cloud.ingest", *words)

    def kill_ingest(self) -> None:
        """``kill -9``."""
        assert self._ingest is not None
        self._ingest.kill()
        self._ingest.wait()

    def kill_process(self, name: str) -> None:
        """``kill -9`` of ``field`` or ``link``; the supervisor starts it again."""
        for process in self.gateway.processes():
            if f"gateway.{name}" in process.cmdline():
                process.kill()

    @contextlib.contextmanager
    def locked_historian(self) -> Any:
        """The database is there and lets nobody write."""
        conn = sqlite3.connect(self.historian, isolation_level=None, timeout=10)
        try:
            conn.execute("BEGIN IMMEDIATE")
            yield
            conn.execute("ROLLBACK")
        finally:
            conn.close()

    def step_clock(self, seconds: float) -> None:
        """Move the gateway's wall clock; its monotonic clock goes on."""
        self.clock_file.write_text(f"{seconds:+.0f}s\n", encoding="utf-8")

    async def status(self) -> dict[str, Any] | None:
        """What the field process says; None where it does not run."""
        client = LocalClient(self._paths.field_socket)
        try:
            await client.connect()
            answer = await client.request({"type": "status"})
        except LocalError:
            return None
        finally:
            await client.close()
        shown: dict[str, Any] = answer["status"]
        return shown

    async def settled(self) -> None:
        """Until the historian acknowledged what the journal holds now."""
        wanted: tuple[int, int] | None = None
        while True:
            shown = await self.status()
            if shown is not None and not shown["startup"]:
                if wanted is None or wanted[0] != shown["epoch"]:
                    wanted = (shown["epoch"], shown["seq"])
                acknowledged = (shown["link"] or {}).get("acknowledged", (0, 0))
                if acknowledged[0] == wanted[0] and acknowledged[1] >= wanted[1] > 0:
                    return
            await asyncio.sleep(0.05)

    def audit(self) -> tuple[AuditReport, list[Found]]:
        """Numbers that are missing or doubled, and the readings of every point."""
        historian = SqliteHistorian(self.historian, read_only=True)
        with contextlib.closing(historian):
            report = historian.audit("bench")
            found = []
            for register in range(REGISTERS):
                rows = historian.query([f"Dev0.r{register}"], limit=ROWS_MAX)
                rows.sort(key=lambda row: (row.epoch, row.seq))
                found.append(of_historian(rows, report.epochs))
        return report, found

    async def stop(self) -> None:
        """See Plant."""
        await super().stop()
        if self._ingest is not None:
            self.kill_ingest()


class PeerPlant(Plant):
    """Another gateway, with a subscriber that keeps every reading; it subscribes before the
    network opens, so that the broker has somebody to give each message to."""

    QUIET_S: Final = 4.0

    def __init__(self, kind: type[Gateway], folder: Path) -> None:
        super().__init__(kind, folder)
        self._watch: Helper | None = None
        self._values: list[int] = []

    async def start_far_side(self) -> None:
        """A new subscriber; what the last one kept stays counted."""
        self.take()
        self._watch = Helper("bench._peers_watch", str(self.broker_port), self.gateway.name)
        self._watch.ask("begin")

    def take(self) -> None:
        """Bring home what the subscriber kept."""
        if self._watch is not None:
            self._values += json.loads(self._watch.ask("values"))["values"]
            self._watch.end()
            self._watch = None

    async def settled(self) -> None:
        """Until readings come, and then until no more than one a period comes."""
        assert self._watch is not None
        before, since = -1, 0.0
        while since < self.QUIET_S:
            seen = json.loads(self._watch.ask("seen"))["messages"]
            steady = before >= 0 and 0 < seen - before <= 2 * 1000 / PERIOD_MS
            since = since + 1.0 if steady else 0.0
            before = seen
            await asyncio.sleep(1.0)

    async def found(self) -> Found:
        """Everything that the device has answered by now, some seconds later."""
        answered = self.answered()
        await asyncio.sleep(self.QUIET_S)
        self.take()
        return of_stream(self._values, answered)

    async def stop(self) -> None:
        """See Plant."""
        self.take()
        await super().stop()
