"""What the tests of the way up share: batches, births, brokers, waiting."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from cloud.broker import HOST, Broker
from gateway.core.records import RECORD, Batch, Birth, Event, Gap
from sync import wire
from sync.link.lanes import Timing

EPOCH = 7
BIRTH = "0123456789abcdef"
QUICK = Timing(
    timeout_s=1.5,
    resend_s=0.5,
    silence_s=3.0,
    settle_s=0.02,
    backoff_s_min=0.05,
    backoff_s_max=0.2,
)


def batch(
    first: int,
    count: int,
    *,
    epoch: int = EPOCH,
    birth: str = BIRTH,
    events: tuple[int, ...] = (),
    gaps: tuple[Gap, ...] = (),
) -> Batch:
    """`count` numbers from `first` on; the value of each row is its number."""
    last = first + count - 1
    taken = set(events)
    for gap in gaps:
        taken |= set(range(gap.first, (gap.last or gap.first) + 1))
    numbers = [n for n in range(first, last + 1) if n not in taken]
    rows = np.zeros(len(numbers), dtype=RECORD)
    rows["seq"] = numbers
    rows["point"] = [1 + n % 10 for n in numbers]
    rows["value"] = numbers
    rows["utc_ns"] = [1_763_700_000_000_000_000 + n * 1_000_000 for n in numbers]
    made = tuple(Event(n, 1_763_700_000_000_000_000 + n, "gateway", {"number": n}) for n in events)
    return Batch(epoch, first, last, birth, rows, made, gaps)


def birth(name: str = BIRTH, *, site: str = "lab", epoch: int = EPOCH, points: int = 10) -> Birth:
    """A point table of `points` points, Device.Channel_1 and up."""
    return Birth(
        gateway=site,
        epoch=epoch,
        seq=0,
        hash=name,
        config_hash="c0ffee",
        utc_ns=1_763_700_000_000_000_000,
        points=tuple(
            {"index": n, "tag": f"Device.Channel_{n}", "units": "K", "kind": "analog"}
            for n in range(1, points + 1)
        ),
    )


def fill(conn: sqlite3.Connection) -> None:
    """Leaves no page of a database free, and lets it have no further one."""
    conn.execute("CREATE TABLE filler (content)")
    pages = conn.execute("PRAGMA page_count").fetchone()[0]
    conn.execute(f"PRAGMA max_page_count = {pages}")
    with contextlib.suppress(sqlite3.OperationalError):
        while True:
            conn.execute("INSERT INTO filler VALUES (zeroblob(100))")


def birth_bytes(name: str = BIRTH) -> bytes:
    return wire.encode_birth(birth(name))


async def eventually(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    """Waits until the condition holds; fails with its last value where it never does."""
    value: object = None
    try:
        async with asyncio.timeout(timeout_s):
            while not (value := condition()):
                await asyncio.sleep(0.02)
    except TimeoutError:
        pytest.fail(f"never came true within {timeout_s} s: {value!r}")


async def freeze(pid: int) -> None:
    """Stops a process; a thread that runs at this moment stops a little later than the signal."""
    os.kill(pid, signal.SIGSTOP)

    def stopped() -> bool:
        stats = Path(f"/proc/{pid}/task").glob("*/stat")
        return all(stat.read_text().rpartition(")")[2].split()[0] == "T" for stat in stats)

    await eventually(stopped)


async def cancelled(task: asyncio.Task[object]) -> None:
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        return


@asynccontextmanager
async def running(*coroutines: object) -> AsyncIterator[None]:
    """Runs coroutines beside the body, cancels them at its end, and shows what they raised."""
    tasks = [asyncio.create_task(c) for c in coroutines]  # type: ignore[arg-type]
    try:
        yield
    finally:
        for task in tasks:
            await cancelled(task)


class Mosquitto:
    """An independent broker, with the interface of `cloud.broker.Broker`."""

    def __init__(self, port: int, directory: Path, *, persistent: bool, extra: str = "") -> None:
        program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
        if program is None:
            pytest.fail("mosquitto is missing: apt-get install mosquitto")
        self.program = program
        self.port = port
        self.url = f"mqtt://{HOST}:{port}"
        self.directory = directory
        self.persistent = persistent
        self.extra = extra
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        lines = [f"listener {self.port} {HOST}", "max_queued_messages 10000", "user root"]
        lines.append(self.extra or "allow_anonymous true")
        if self.persistent:
            lines += ["persistence true", f"persistence_location {self.directory}/"]
            lines.append("autosave_interval 1\nautosave_on_changes true")
        config = self.directory / "mosquitto.conf"
        config.write_text("\n".join(lines) + "\n")
        self._process = subprocess.Popen(
            [self.program, "-c", str(config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    async def wait_ready(self) -> None:
        def answers() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex((HOST, self.port)) == 0

        await eventually(answers)

    def stop(self) -> None:
        self._end(kill=False)

    def kill(self) -> None:
        self._end(kill=True)

    def _end(self, *, kill: bool) -> None:
        process, self._process = self._process, None
        if process is not None:
            if kill:
                process.kill()
            else:
                process.terminate()
            process.wait(10)


AnyBroker = Broker | Mosquitto


def make_broker(kind: str, port: int, directory: Path, *, persistent: bool = True) -> AnyBroker:
    if kind == "nats":
        return Broker(port, directory)
    return Mosquitto(port, directory, persistent=persistent)
