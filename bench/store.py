"""The store: values made durable per second, bytes per value against JSON, and the drain.

The values are a random walk of 500 points with two decimals and one time stamp per scan, in
frames of half a second (500 values) and in large ones (5000). JSON says the same records in the
form of the usual telemetry interfaces, one object a value, plain and zlib-compressed.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench._report import Report, arguments, say
from cloud.broker import Broker
from cloud.historian_sqlite import SqliteHistorian
from cloud.ingest import Ingest
from config.model import LinkFile
from gateway.core.clock import SystemClock
from gateway.core.records import RECORD, Batch, Birth
from sync import wire
from sync.async_store import AsyncStore
from sync.forward import Forwarder
from sync.store import Store

POINTS = 500
EPOCH = 1
HASH = "0123456789abcdef"


def batches(size: int, count: int) -> list[Batch]:
    """`count` batches of `size` values each, numbered from 1."""
    chance = np.random.default_rng(1)
    scans = -(-size * count // POINTS)
    walk = chance.uniform(0, 900, POINTS) + np.cumsum(chance.normal(0, 0.2, (scans, POINTS)), 0)
    total = size * count
    rows = np.zeros(total, dtype=RECORD)
    rows["seq"] = np.arange(1, total + 1)
    rows["point"] = np.tile(np.arange(1, POINTS + 1), scans)[:total]
    rows["value"] = np.round(walk.reshape(-1)[:total], 2)
    stamps = 1_763_700_000_000_000_000 + np.arange(scans) * 500_000_000
    stamps += chance.integers(0, 2_000_000, scans)
    rows["utc_ns"] = np.repeat(stamps, POINTS)[:total]
    return [
        Batch(EPOCH, first + 1, first + size, HASH, rows[first : first + size])
        for first in range(0, total, size)
    ]


def birth() -> Birth:
    """The table that the batches refer to."""
    points = tuple(
        {"index": n, "tag": f"Stack.Temperature_{n}", "units": "degC"} for n in range(1, POINTS + 1)
    )
    return Birth("bench", EPOCH, 0, HASH, "", 1_763_700_000_000_000_000, points)


def as_json(batch: Batch) -> bytes:
    """The batch as JSON, one object a value."""
    return json.dumps(
        [
            {
                "tag": f"Stack.Temperature_{row['point']}",
                "ts": int(row["utc_ns"]) // 1_000_000,
                "value": float(row["value"]),
                "status": int(row["status"]),
            }
            for row in batch.records
        ],
        separators=(",", ":"),
    ).encode()


def written_bytes() -> int:
    """What this process has handed to the block layer."""
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("write_bytes:"):
            return int(line.split()[1])
    return 0


def append(report: Report, folder: Path, size: int, count: int) -> None:
    """Appends, one durable commit a frame."""
    name = f"frames_of_{size}"
    work = batches(size, count)
    store = Store(folder / f"{name}.db", quota_bytes=10**10)
    store.put_birth(HASH, wire.encode_birth(birth()))
    before = written_bytes()
    took: list[float] = []
    start = time.perf_counter()
    for batch in work:
        at = time.perf_counter()
        store.append(batch)
        took.append(time.perf_counter() - at)
    seconds = time.perf_counter() - start
    values = size * count
    report.figure(f"{name}_append_values_per_s", values / seconds)
    report.figure(f"{name}_commit_p50_ms", float(np.percentile(took, 50)) * 1e3)
    report.figure(f"{name}_commit_p99_ms", float(np.percentile(took, 99)) * 1e3)
    report.figure(f"{name}_disk_bytes_per_value", (written_bytes() - before) / values)
    start = time.perf_counter()
    after = 0
    while frames := store.pending(after, 64):
        after = frames[-1].id
        store.acknowledge(EPOCH, frames[-1].last)
    report.figure(f"{name}_drain_values_per_s", values / (time.perf_counter() - start))
    store.close()
    report.check(f"{name}_left_in_store", store_left(folder / f"{name}.db"), "<=", 0)


def store_left(path: Path) -> int:
    """Frames that a store holds after a restart."""
    store = Store(path, quota_bytes=10**10)
    frames = store.backlog().frames
    store.close()
    return frames


def sizes(report: Report, size: int) -> None:
    """Bytes of a value on the wire, beside JSON."""
    batch = batches(size, 1)[0]
    frame = len(wire.encode_frame(batch, base=1)) / size
    plain = as_json(batch)
    report.figure(f"frames_of_{size}_bytes_per_value", frame)
    report.figure(f"frames_of_{size}_json_bytes_per_value", len(plain) / size)
    report.figure(
        f"frames_of_{size}_json_zlib_bytes_per_value", len(zlib.compress(plain, 6)) / size
    )
    report.figure(f"frames_of_{size}_json_ratio", len(plain) / size / frame)


def ports() -> Iterator[int]:
    """Free loopback ports."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        yield port


async def drain(report: Report, folder: Path, count: int) -> None:
    """From a full store over nats-server into the SQLite historian, until all is acknowledged."""
    store = await AsyncStore.open(folder / "edge.db", quota_bytes=10**10)
    await store.put_birth(HASH, wire.encode_birth(birth()))
    for batch in batches(5000, count):
        await store.append(batch)
    broker = Broker(next(ports()), folder / "broker")
    broker.start()
    historian = SqliteHistorian(folder / "historian.db")
    try:
        await broker.wait_ready()
        config = LinkFile.model_validate(
            {"Broker": {"URL": broker.url}, "Store": {"BacklogRecordsPerSecond": 100_000_000}}
        )
        ingest = Ingest(historian, broker.url, SystemClock())
        forwarder = Forwarder(store, config, "bench", SystemClock())
        tasks = [asyncio.create_task(ingest.run())]
        await ingest.wait_ready()
        start = time.perf_counter()
        tasks.append(asyncio.create_task(forwarder.run()))
        while (await store.backlog()).frames:
            await asyncio.sleep(0.01)
        seconds = time.perf_counter() - start
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        audit = historian.audit("bench")
        report.figure("end_to_end_drain_values_per_s", audit.rows / seconds)
        report.check("end_to_end_missing", 5000 * count - audit.rows, "<=", 0)
        report.check("end_to_end_duplicates", audit.duplicates, "<=", 0)
    finally:
        broker.stop()
        historian.close()
        await store.close()


def main() -> int:
    """Runs everything."""
    options = arguments(__doc__)
    report = Report("store")
    scale = 1 if options.quick else 5
    with tempfile.TemporaryDirectory(prefix="gatepost-bench-") as name:
        folder = Path(name)
        for size, count in ((500, 400 * scale), (5000, 100 * scale)):
            say(f"appending {count} frames of {size} values")
            append(report, folder, size, count)
            sizes(report, size)
        say("draining over a broker")
        asyncio.run(drain(report, folder, 60 * scale))
    return report.print(options.json)


if __name__ == "__main__":
    sys.exit(main())
