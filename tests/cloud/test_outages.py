"""From the store over a real broker to the historian, through every outage: none missing, none
twice, order kept. Each test runs against nats-server and against mosquitto."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from cloud.historian_sqlite import SqliteHistorian
from cloud.ingest import Ingest
from config.link import LinkFile
from gateway.core.clock import SystemClock
from sync.link.forward import Forwarder
from sync.store.async_store import AsyncStore
from tests.sync import support

FreePort = Callable[[], int]
ROOT = Path(__file__).parents[2]
SITE = "lab"


class Chain:
    """Store, forwarder, broker, ingest and historian; the parts can be stopped and started."""

    def __init__(self, broker: support.AnyBroker, folder: Path) -> None:
        self.broker = broker
        self.folder = folder
        self.next = 1
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.store: AsyncStore
        self.forwarder: Forwarder
        self.historian: SqliteHistorian
        self.ingest: Ingest

    async def start(self, **store_options: object) -> None:
        self.broker.start()
        await self.broker.wait_ready()
        self.store = await AsyncStore.open(self.folder / "store.db", quota_bytes=10**9)
        await self.store.put_birth(support.BIRTH, support.birth_bytes())
        await self.start_ingest("historian.db")
        self.start_forwarder(**store_options)

    def start_forwarder(self, ack: str = "historian", **store_options: object) -> None:
        config = LinkFile.model_validate(
            {"Broker": {"URL": self.broker.url, "KeepAlive": 2, "Ack": ack}, "Store": store_options}
        )
        self.forwarder = Forwarder(
            self.store,
            "cloud",
            config.Broker,
            SITE,
            SystemClock(),
            records_per_s=config.Store.BacklogRecordsPerSecond,
            timing=support.QUICK,
        )
        self.tasks["forwarder"] = asyncio.create_task(self.forwarder.run())

    async def start_ingest(self, name: str) -> None:
        self.historian = SqliteHistorian(self.folder / name)
        self.ingest = Ingest(
            self.historian, self.broker.url, SystemClock(), keepalive_s=2, backoff_s_max=0.3
        )
        self.tasks["ingest"] = asyncio.create_task(self.ingest.run())
        await asyncio.wait_for(self.ingest.wait_ready(), 20)

    async def stop(self, name: str) -> None:
        await support.cancelled(self.tasks.pop(name))
        if name == "ingest":
            self.historian.close()

    async def append(self, batches: int, size: int = 20) -> None:
        """Appends numbered batches at a brisk pace, each with one event."""
        for _ in range(batches):
            await self.store.append(support.batch(self.next, size, events=(self.next,)))
            self.next += size
            self.forwarder.notify_appended()
            await asyncio.sleep(0.002)

    async def drained(self) -> None:
        async def empty() -> bool:
            return (await self.store.backlog()).frames == 0

        async with asyncio.timeout(25):
            while not await empty():
                await asyncio.sleep(0.02)

    def held(self, first: int = 1) -> None:
        """Asserts that the historian holds every number from `first` on, once, as appended."""
        assert_held(self.historian, first, self.next - 1)

    async def close(self) -> None:
        for name in [*self.tasks]:
            await self.stop(name)
        await self.store.close()
        self.broker.kill()


def assert_held(historian: SqliteHistorian, first: int, last: int) -> None:
    report = historian.audit(SITE)
    assert report.missing == 0
    assert report.duplicates == 0
    assert sum(epoch.contiguous for epoch in report.epochs) == last
    events = [event.seq for event in historian.events(limit=10**6) if event.seq >= first]
    rows = [(s.seq, s.value) for s in historian.query(limit=10**6) if s.seq >= first]
    assert sorted([*events, *(seq for seq, _ in rows)]) == list(range(first, last + 1))
    assert all(seq == value for seq, value in rows)
    # In the order of time, which is that of the numbers here, nothing has changed places.
    assert [seq for seq, _ in rows] == sorted(seq for seq, _ in rows)


@pytest.fixture(params=["nats", "mosquitto"])
async def chain(
    request: pytest.FixtureRequest, tmp_path: Path, free_port: FreePort
) -> AsyncIterator[Chain]:
    broker = support.make_broker(request.param, free_port(), tmp_path / "broker")
    made = Chain(broker, tmp_path)
    await made.start()
    try:
        yield made
    finally:
        await made.close()


async def test_without_an_outage_everything_arrives(chain: Chain) -> None:
    await chain.append(50)
    await chain.drained()
    chain.held()
    status = chain.forwarder.status()
    assert status["acknowledged"] == (support.EPOCH, chain.next - 1)
    assert (status["connected"], status["reconnects"], status["in_flight"]) == (True, 0, 0)
    assert chain.ingest.status()["malformed"] == 0


async def test_a_clean_outage_of_the_broker(chain: Chain) -> None:
    await chain.append(20)
    chain.broker.stop()
    await support.eventually(lambda: not chain.forwarder.status()["connected"])
    await chain.append(40)
    assert "127.0.0.1" in chain.forwarder.status()["last_error"]
    chain.broker.start()
    await chain.append(20)
    await chain.drained()
    chain.held()
    assert chain.forwarder.status()["reconnects"] >= 1


async def test_a_broker_that_is_killed_and_forgets_everything(chain: Chain) -> None:
    await chain.append(20)
    for _ in range(2):
        chain.broker.kill()
        await chain.append(10)
        for name in ("jetstream", "mosquitto.db"):
            path = chain.broker.directory / name
            if path.exists():
                path.rename(path.with_name(f"{name}-{chain.next}"))
        chain.broker.start()
        await chain.append(10)
    await chain.drained()
    chain.held()


async def test_a_broker_that_freezes_and_is_killed(chain: Chain) -> None:
    await chain.append(20)
    pid = chain.broker.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    await chain.append(5)  # the patience grows with the bytes under way
    await support.eventually(lambda: not chain.forwarder.status()["connected"])
    await chain.append(65)
    os.kill(pid, signal.SIGKILL)
    chain.broker.kill()
    chain.broker.start()
    await chain.append(20)
    await chain.drained()
    chain.held()


async def test_a_broker_that_freezes_and_wakes_up(chain: Chain) -> None:
    await chain.append(20)
    pid = chain.broker.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    await chain.append(30)
    await asyncio.sleep(1.0)
    os.kill(pid, signal.SIGCONT)
    await chain.append(20)
    await chain.drained()
    chain.held()


async def test_ingest_is_away_and_comes_back(chain: Chain) -> None:
    await chain.append(20)
    await chain.stop("ingest")
    await chain.append(100)
    await asyncio.sleep(0.8)
    held = await chain.store.backlog()
    assert held.frames >= 100, "frames were deleted without an acknowledgement"
    await chain.start_ingest("historian.db")
    await chain.append(20)
    await chain.drained()
    chain.held()


async def test_a_fresh_historian_starts_where_the_old_one_ended(chain: Chain) -> None:
    await chain.append(20)
    await chain.drained()
    await chain.stop("ingest")
    old = chain.next
    await chain.append(20)
    await chain.start_ingest("fresh.db")
    await chain.append(20)
    await chain.drained()
    chain.held(first=old)
    (epoch,) = chain.historian.audit(SITE).epochs
    assert [(gap.first, gap.last) for gap in epoch.gaps] == [(1, old - 1)]


async def test_a_locked_historian_acknowledges_nothing_until_it_is_free(chain: Chain) -> None:
    await chain.append(20)
    await chain.drained()
    before = chain.forwarder.status()["acknowledged"]
    other = sqlite3.connect(chain.historian.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    await chain.append(30)
    await support.eventually(lambda: chain.ingest.counts["failures"] > 0)
    assert chain.forwarder.status()["acknowledged"] == before
    assert (await chain.store.backlog()).frames >= 30
    other.execute("ROLLBACK")
    other.close()
    await chain.drained()
    chain.held()


async def test_a_full_historian_acknowledges_nothing_until_there_is_room(chain: Chain) -> None:
    conn = chain.historian._conn
    await chain.ingest._blocking(support.fill, conn)
    await chain.append(300)
    await support.eventually(lambda: chain.ingest.counts["failures"] > 0)
    assert (await chain.store.backlog()).frames > 0
    await chain.ingest._blocking(conn.execute, "PRAGMA max_page_count = 1000000")
    await chain.drained()
    chain.held()


async def test_frames_of_several_point_tables_and_epochs(chain: Chain) -> None:
    chain.broker.stop()
    await support.eventually(lambda: not chain.forwarder.status()["connected"])
    await chain.append(5)
    await chain.store.put_birth("second", support.birth_bytes("second"))
    for first in (1, 21):
        await chain.store.append(support.batch(first, 20, epoch=8, birth="second"))
    chain.broker.start()
    await chain.drained()
    assert [e.contiguous for e in chain.historian.audit(SITE).epochs] == [100, 40]
    assert chain.historian.audit(SITE).missing == 0
    assert chain.forwarder.status()["acknowledged"] == (8, 40)


async def test_live_values_do_not_wait_for_the_backlog(chain: Chain) -> None:
    await chain.stop("forwarder")
    for _ in range(100):
        await chain.store.append(support.batch(chain.next, 50))
        chain.next += 50
    backlog_end = chain.next - 1
    chain.start_forwarder(BacklogRecordsPerSecond=2000)  # over two seconds for the backlog
    await support.eventually(lambda: chain.forwarder.status()["connected"])
    await chain.append(5)

    def live_is_there() -> bool:
        newest = chain.historian.query(limit=1, newest_first=True)
        return bool(newest) and newest[0].seq == chain.next - 1

    await support.eventually(live_is_there)
    assert chain.historian.contiguous(SITE, support.EPOCH) < backlog_end
    assert chain.forwarder.status()["draining"]
    await chain.drained()
    chain.held()
    assert chain.forwarder.status()["resends"] == 0, "a drain in progress is no stall"


async def test_with_ack_broker_the_puback_deletes(chain: Chain) -> None:
    await chain.stop("forwarder")
    chain.start_forwarder(ack="broker")
    await chain.append(30)
    await chain.drained()
    await support.eventually(
        lambda: chain.historian.contiguous(SITE, support.EPOCH) == chain.next - 1
    )
    chain.held()


async def test_a_frame_whose_table_is_lost_does_not_hold_up_the_rest(chain: Chain) -> None:
    await chain.stop("forwarder")
    await chain.store.append(support.batch(1, 20, birth="nobody-has-it", events=(5,)))
    chain.next = 21
    chain.start_forwarder()
    await chain.append(10)
    await chain.drained()
    (epoch,) = chain.historian.audit(SITE).epochs
    assert epoch.missing == ()
    assert [event.seq for event in chain.historian.events(limit=1)] == [5]
    assert {gap.reason for gap in epoch.gaps} == {"its point table is lost"}


async def test_a_clean_end_says_death_and_a_start_says_birth(chain: Chain) -> None:
    await chain.append(1)
    await chain.drained()

    def online() -> int:
        row = chain.historian._rows("SELECT online FROM gateways WHERE name = 'lab'")
        return row[0][0] if row else -1

    await support.eventually(lambda: online() == 1)
    await chain.stop("forwarder")
    await support.eventually(lambda: online() == 0)
    chain.start_forwarder()
    await support.eventually(lambda: online() == 1)


@pytest.mark.parametrize("kind", ["nats", "mosquitto"])
async def test_kill_9_of_the_edge_process(kind: str, tmp_path: Path, free_port: FreePort) -> None:
    broker = support.make_broker(kind, free_port(), tmp_path / "broker")
    broker.start()
    historian = SqliteHistorian(tmp_path / "historian.db")
    ingest = Ingest(historian, broker.url, SystemClock(), keepalive_s=2)
    total = 2400
    command = [sys.executable, "-m", "tests.cloud.edge_process"]
    command += [str(tmp_path / "store.db"), broker.url, str(total)]
    try:
        await broker.wait_ready()
        async with support.running(ingest.run()):
            for lines in (5, 40, None):
                edge = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
                assert edge.stdout is not None
                try:
                    if lines is None:
                        await support.eventually(
                            lambda: historian.contiguous(SITE, support.EPOCH) == total
                        )
                    else:
                        for _ in range(lines):
                            await asyncio.to_thread(edge.stdout.readline)
                finally:
                    edge.kill()
                    edge.wait()
                    edge.stdout.close()
        assert_held(historian, 1, total)
    finally:
        historian.close()
        broker.kill()
