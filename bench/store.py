"""The store: values made durable per second, bytes per value beside JSON, wear, and the drain.

Throughput takes a random walk of 500 points with two decimals. Bytes and wear take ten minutes
recorded on the demonstration's site (tests/cases/demo_site), repeated with later times; no frame is
long enough to hold two repetitions. JSON says the same records as usual telemetry interfaces do,
one object a value. The drain runs as it does in the field: edge, broker and ingest are processes of
their own, and live values go on; a live value's age is that from its source time to its commit in
the historian, with frames of half a second.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

import msgpack
import numpy as np
from numpy.typing import NDArray

from bench._report import Report, arguments, say
from bench._store_far import LIVE_EPOCH
from cloud.broker import Broker
from cloud.historian_sqlite import SqliteHistorian
from config.link import CLOUD, BrokerEntry
from gateway.core.clock import SystemClock
from gateway.core.records import RECORD, Batch, Birth
from sync import wire
from sync.link.forward import Forwarder
from sync.store.async_store import AsyncStore
from sync.store.store import Store

POINTS: Final = 500
EPOCH: Final = 1
HASH: Final = "0123456789abcdef"
CASE: Final = Path(__file__).parents[1] / "tests" / "cases" / "demo_site" / "frames.msgpack"
LIVE_PERIOD_S: Final = 0.05
IDLE_S: Final = 8.0
DAY_S: Final = 86_400
QUOTA_BYTES: Final = 10**10


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


def append(report: Report, folder: Path, size: int, count: int) -> None:
    """Appends, one durable commit a frame."""
    name = f"frames_of_{size}"
    work = batches(size, count)
    store = Store(folder / f"{name}.db", quota_bytes=QUOTA_BYTES)
    store.put_birth(HASH, wire.encode_birth(birth()))
    took: list[float] = []
    start = time.perf_counter()
    for batch in work:
        at = time.perf_counter()
        store.append(batch)
        took.append(time.perf_counter() - at)
    rate = size * count / (time.perf_counter() - start)
    if size == 5000:
        report.check(f"{name}_append_values_per_s", rate, ">=", 1_000_000)
    else:
        report.figure(f"{name}_append_values_per_s", rate)
    report.figure(f"{name}_commit_p50_ms", float(np.percentile(took, 50)) * 1e3)
    report.figure(f"{name}_commit_p99_ms", float(np.percentile(took, 99)) * 1e3)
    start = time.perf_counter()
    after = 0
    while frames := store.pending(CLOUD, after, 64):
        after = frames[-1].id
        store.acknowledge(CLOUD, EPOCH, frames[-1].last)
    report.figure(f"{name}_read_values_per_s", size * count / (time.perf_counter() - start))
    store.close()
    again = Store(folder / f"{name}.db", quota_bytes=QUOTA_BYTES)
    report.check(f"{name}_left_in_store", again.backlog().frames, "<=", 0)
    again.close()


# ---------------------------------------------------------------- the demonstration's site


class Recorded:
    """What the demonstration's site recorded, over and over."""

    def __init__(self) -> None:
        case = msgpack.unpackb(CASE.read_bytes())
        self.birth = case["birth"]
        self.table = wire.decode_birth(self.birth)
        frames = [wire.decode_frame(data).batch for data in case["frames"]]
        self.rows: NDArray[np.void] = np.concatenate([batch.records for batch in frames])
        times = self.rows["utc_ns"]
        self.length_ns = int(times.max() - times.min()) + 1_000_000

    def repeated(self, times: int) -> NDArray[np.void]:
        """The rows so many times, each time later."""
        parts = []
        for at in range(times):
            part = self.rows.copy()
            part["seq"] += np.uint64(at * len(part))
            part["utc_ns"] += at * self.length_ns
            parts.append(part)
        return np.concatenate(parts)

    def frames(self, rows: NDArray[np.void], breaks: NDArray[np.intp]) -> list[Batch]:
        """Batches of the rows, cut in front of the `breaks`."""
        return [
            Batch(EPOCH, int(part["seq"][0]), int(part["seq"][-1]), self.table.hash, part)
            for part in np.split(rows, breaks)
            if len(part)
        ]

    def as_json(self, rows: NDArray[np.void]) -> bytes:
        """Rows as JSON, one object a value."""
        tags = {point["index"]: point["tag"] for point in self.table.points}
        found = [
            {
                "tag": tags[int(row["point"])],
                "ts": int(row["utc_ns"]) // 1_000_000,
                "value": None if np.isnan(row["value"]) else float(row["value"]),
                "status": int(row["status"]),
            }
            for row in rows
        ]
        return json.dumps(found, separators=(",", ":")).encode()


def payload_bytes(store: Store) -> int:
    """Bytes of everything that the store would publish."""
    after = size = 0
    while frames := store.pending(CLOUD, after, 64):
        after = frames[-1].id
        size += sum(len(frame.payload) for frame in frames)
    return size


def outage(report: Report, folder: Path, times: int, interval_s: float) -> None:
    """The demonstration's site without a link: bytes per value on disk and on the wire."""
    recorded = Recorded()
    rows = recorded.repeated(times)
    breaks = np.flatnonzero(np.diff(rows["utc_ns"] // round(interval_s * 1e9))) + 1
    work = recorded.frames(rows, breaks)
    store = Store(folder / "outage.db", quota_bytes=QUOTA_BYTES)
    store.put_birth(recorded.table.hash, recorded.birth)
    live = 0
    before = store.usage().written_bytes
    for batch in work:
        live += len(wire.encode_frame(batch, base=1))
        store.append(batch)
    written = store.usage().written_bytes - before
    values = len(rows)
    seconds = times * recorded.length_ns / 1e9
    one = recorded.as_json(recorded.rows)
    report.figure("demo_site_values_per_s", values / seconds)
    report.figure("demo_site_json_bytes_per_value", len(one) / len(recorded.rows))
    packed = len(zlib.compress(one, 6))
    report.figure("demo_site_json_zlib_bytes_per_value", packed / len(recorded.rows))
    report.check("demo_site_disk_bytes_per_value", store.usage().data_bytes / values, "<=", 3.0)
    report.check("demo_site_wire_bytes_per_value", payload_bytes(store) / values, "<=", 3.0)
    # What half a second holds is ten values: a frame's header is most of it.
    report.figure("demo_site_frame_interval_s", interval_s)
    report.figure("demo_site_live_wire_bytes_per_value", live / values)
    report.figure("demo_site_written_mb_per_day", written / seconds * DAY_S / 1e6)
    report.figure("demo_site_written_bytes_per_frame", written / len(work))
    store.close()


def wear(report: Report, folder: Path, times: int) -> None:
    """Bytes handed to the disk against bytes of frames of 5,000 values, the largest by default."""
    recorded = Recorded()
    rows = recorded.repeated(times)
    work = recorded.frames(rows, np.arange(5000, len(rows), 5000))
    size = sum(len(wire.encode_body(batch)) for batch in work)
    for name in ("outage", "connected"):
        store = Store(folder / f"wear_{name}.db", quota_bytes=QUOTA_BYTES)
        store.put_birth(recorded.table.hash, recorded.birth)
        before = store.usage().written_bytes
        for batch in work:
            store.append(batch)
            if name == "connected":
                store.acknowledge(CLOUD, EPOCH, batch.last)
        store.checkpoint()
        written = store.usage().written_bytes - before
        report.check(f"write_amplification_{name}", written / size, "<=", 3.0)
        store.close()


# ---------------------------------------------------------------- the drain


def ports() -> Iterator[int]:
    """Free loopback ports."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        yield port


async def live(store: AsyncStore, forwarder: Forwarder, stop: asyncio.Event, seq: int = 0) -> int:
    """Ten values every 50 ms, in frames of half a second; returns the last number."""
    while not stop.is_set():
        parts = []
        for _ in range(10):
            await asyncio.sleep(LIVE_PERIOD_S)
            rows = np.zeros(10, dtype=RECORD)
            rows["seq"] = np.arange(seq + 1, seq + 11)
            rows["point"] = np.arange(1, 11)
            rows["value"] = np.round(np.sin(rows["seq"]), 2)
            rows["utc_ns"] = time.time_ns()
            parts.append(rows)
            seq += 10
        joined = np.concatenate(parts)
        await store.append(Batch(LIVE_EPOCH, int(joined["seq"][0]), seq, HASH, joined))
        forwarder.notify_appended()
    return seq


async def left(store: AsyncStore, records: int) -> None:
    """Waits until no more than so many records are not acknowledged."""
    while (await store.backlog(CLOUD)).records > records:
        await asyncio.sleep(0.01)


async def drain(report: Report, folder: Path, count: int) -> None:
    """From a full store over nats-server into the SQLite historian, with live values beside it."""
    store = await AsyncStore.open(folder / "edge.db", quota_bytes=QUOTA_BYTES)
    await store.put_birth(HASH, wire.encode_birth(birth()))
    broker = Broker(next(ports()), folder / "broker")
    broker.start()
    far = None
    try:
        await broker.wait_ready()
        words = (broker.url, str(folder / "historian.db"), str(folder / "ages.json"))
        far = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bench._store_far", *words, stdout=asyncio.subprocess.PIPE
        )
        assert far.stdout is not None
        await far.stdout.readline()
        entry = BrokerEntry(URL=broker.url)
        make = partial(Forwarder, store, CLOUD, entry, "bench", SystemClock())
        stop, forwarder = asyncio.Event(), make()
        tasks = [asyncio.create_task(forwarder.run())]
        living = asyncio.create_task(live(store, forwarder, stop))
        say("idle")
        await asyncio.sleep(IDLE_S)
        stop.set()
        before = await living
        await left(store, 0)
        tasks[0].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        say(f"draining {count * 5000} values")
        for batch in batches(5000, count):
            await store.append(batch)
        start_ns = time.time_ns()
        stop, forwarder = asyncio.Event(), make(records_per_s=100_000_000)
        tasks = [asyncio.create_task(forwarder.run())]
        living = asyncio.create_task(live(store, forwarder, stop, before))
        start = time.perf_counter()
        await left(store, 500)  # live ones, at most
        seconds = time.perf_counter() - start
        end_ns = time.time_ns()
        stop.set()
        last = await living
        await left(store, 0)
        tasks[0].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        far.send_signal(signal.SIGTERM)
        await far.wait()
    finally:
        if far is not None and far.returncode is None:
            far.kill()
            await far.wait()
        broker.stop()
        await store.close()
    judge(report, folder, 5000 * count, last, seconds, (start_ns, end_ns))


def judge(
    report: Report,
    folder: Path,
    values: int,
    last: int,
    seconds: float,
    window_ns: tuple[int, int],
) -> None:
    """Rate, ages and completeness of a drain of `values`, with live values up to number `last`."""
    historian = SqliteHistorian(folder / "historian.db", read_only=True)
    audit = historian.audit("bench")
    historian.close()
    report.check("drain_values_per_s", values / seconds, ">=", 500_000)
    ages = np.array(json.loads((folder / "ages.json").read_text()), dtype=np.int64)
    during = (ages[:, 0] >= window_ns[0]) & (ages[:, 0] <= window_ns[1])
    idle = float(np.percentile(ages[ages[:, 0] < window_ns[0], 1], 99)) / 1e6
    busy = float(np.percentile(ages[during, 1], 99)) / 1e6
    report.figure("live_age_idle_p99_ms", idle)
    report.figure("live_age_draining_p99_ms", busy)
    report.figure("live_values_while_draining", int(during.sum()))
    report.check("live_age_ratio", busy / idle, "<=", 1.2)
    report.check("missing", values + last - audit.rows, "<=", 0)
    report.check("duplicates", audit.duplicates, "<=", 0)


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
        say("an outage of the demonstration's site")
        if options.quick:  # as many commits, of longer frames
            outage(report, folder, 16, 4.0)
        else:
            outage(report, folder, 20, 0.5)
        say("writing frames of 5,000 values")
        wear(report, folder, 20 * scale)
        asyncio.run(drain(report, folder, 600 if options.quick else 4000))
    return report.print(options.json)


if __name__ == "__main__":
    sys.exit(main())
