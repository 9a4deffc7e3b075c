"""Clients that pause, ask seldom or acknowledge late: nothing stands still for good behind it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from gateway.core.clock import ManualClock
from gateway.opcua.monitoring import limits
from gateway.opcua.transport.shares import Account, Shares
from tests.gateway.monitoring_case import MS, Bench, Client, item
from tests.gateway.points import point

STEP_MS = 10
ITEMS = 20


@dataclass(frozen=True)
class Manner:
    """How a client asks.

    requests       Publish requests that it keeps at the server
    trip_ms        from an answer to the next request
    awake, asleep  it pauses for so many ms behind each so many; 0 = never
    behind         so many messages it acknowledges at once; 0 = never
    """

    requests: int = 4
    trip_ms: int = 0
    awake: int = 0
    asleep: int = 0
    behind: int = 1


class Asker:
    """A client with one subscription on all points, and what it got."""

    def __init__(self, bench: Bench, manner: Manner) -> None:
        self.client = Client(bench)
        self.manner = manner
        self.values: dict[int, float] = {}
        self.numbers: list[int] = []
        self.notified = 0
        self._subscription = 0
        self._unacknowledged: list[tuple[int, int]] = []
        self._back: deque[int] = deque()  # when it asks again, ms
        self._taken = 0

    async def start(self, interval_ms: float, now_ms: int) -> None:
        made = await self.client.subscribe(interval_ms, RequestedLifetimeCount=60)
        self._subscription = made.SubscriptionId
        wanted = [item(f"Dev.p{n}", n, SamplingInterval=interval_ms) for n in range(1, ITEMS + 1)]
        await self.client.monitor(self._subscription, *wanted)
        self._back.extend([now_ms] * self.manner.requests)

    async def tick(self, now_ms: int) -> None:
        manner = self.manner
        if manner.asleep and now_ms % (manner.awake + manner.asleep) >= manner.awake:
            return
        assert not self.client.faults
        for answer in self.client.answers[self._taken :]:
            self._read(answer.Parameters)
            self._back.append(now_ms + manner.trip_ms)
        self._taken = len(self.client.answers)
        while self._back and self._back[0] <= now_ms:
            self._back.popleft()
            given: Sequence[tuple[int, int]] = ()
            if manner.behind and len(self._unacknowledged) >= manner.behind:
                given, self._unacknowledged = self._unacknowledged, []
            await self.client.publish(*given)

    def _read(self, result: Any) -> None:
        message = result.NotificationMessage
        for data in message.NotificationData:
            for one in data.MonitoredItems:
                self.values[one.ClientHandle] = one.Value.Value.Value
                self.notified += 1
        if message.NotificationData:
            self.numbers.append(message.SequenceNumber)
            self._unacknowledged.append((self._subscription, message.SequenceNumber))


async def lived(bench: Bench, askers: Sequence[Asker], seconds: int, interval_ms: int) -> float:
    """All points change once an interval, for so long; the last value that they had."""
    value = 0.0
    for one in askers:
        await one.start(interval_ms, 0)
    for now_ms in range(0, seconds * 1000, STEP_MS):
        if now_ms % interval_ms == interval_ms // 2 and now_ms < (seconds - 20) * 1000:
            value += 1
            bench.change(*((n, value, 0) for n in range(1, ITEMS + 1)))
        bench.clock.advance(STEP_MS * MS)
        while bench.subscriptions.step() == 0:
            pass
        for one in askers:
            await one.tick(now_ms)
    return value


@pytest.mark.parametrize(
    ("manner", "share"),
    [
        (Manner(), 1.0),
        (Manner(requests=1), 1.0),
        (Manner(requests=1, trip_ms=700), 1.0),
        (Manner(requests=1, trip_ms=3000), 0.33),
        (Manner(requests=50, behind=30), 1.0),
        (Manner(behind=0), 1.0),
        # Four messages wait for it when it wakes, and the fifth comes at once.
        (Manner(requests=4, awake=5000, asleep=5000), 0.95),
        (Manner(requests=1, awake=5000, asleep=5000), 0.6),
        (Manner(requests=1, awake=1000, asleep=9000, behind=3), 0.19),
    ],
)
async def test_a_client_gets_as_many_messages_as_it_asks_for(manner: Manner, share: float) -> None:
    bench = Bench([point(n, f"Dev.p{n}") for n in range(1, ITEMS + 1)])
    bench.change(*((n, 0.0, 0) for n in range(1, ITEMS + 1)))
    asker = Asker(bench, manner)
    last = await lived(bench, [asker], 80, 1000)
    assert asker.numbers == list(range(1, len(asker.numbers) + 1))
    assert asker.values == dict.fromkeys(range(1, ITEMS + 1), last)
    assert asker.notified >= share * last * ITEMS


async def test_slow_clients_hold_nobody_else_up() -> None:
    bench = Bench([point(n, f"Dev.p{n}") for n in range(1, ITEMS + 1)])
    bench.change(*((n, 0.0, 0) for n in range(1, ITEMS + 1)))
    slow = [Asker(bench, Manner(requests=1, awake=1000, asleep=9000, behind=0)) for _ in range(30)]
    prompt = [Asker(bench, Manner(requests=2)) for _ in range(20)]
    last = await lived(bench, [*slow, *prompt], 50, 1000)
    for one in prompt:
        assert one.notified == last * ITEMS
    for one in slow:
        assert one.values == dict.fromkeys(range(1, ITEMS + 1), last)
    assert bench.subscriptions.count == 50


async def test_two_subscriptions_share_one_request() -> None:
    bench = Bench([point(n, f"Dev.p{n}") for n in range(1, ITEMS + 1)])
    client, got = Client(bench), list[int]()
    for _ in range(2):
        made = await client.subscribe(100)
        await client.monitor(made.SubscriptionId, item("Dev.p1"))
    await client.publish()
    for turn in range(100):
        bench.change((1, float(turn), 0))
        bench.clock.advance(100 * MS)
        while bench.subscriptions.step() == 0:
            pass
        while client.answers:
            got.append(client.answers.pop().Parameters.SubscriptionId)
            await client.publish()
    assert got.count(1) == got.count(2) == 100


@pytest.mark.parametrize("frozen_s", [30, 86_400])
async def test_a_process_that_stood_still_goes_on(frozen_s: int) -> None:
    """Its clients could not ask meanwhile: that is not held against them."""
    bench = Bench([point(n, f"Dev.p{n}") for n in range(1, ITEMS + 1)])
    asker = Asker(bench, Manner())
    await asker.start(1000, 0)
    bench.change(*((n, 1.0, 0) for n in range(1, ITEMS + 1)))
    bench.run(1000)
    await asker.tick(0)
    bench.clock.advance(frozen_s * 1_000 * MS)
    bench.change(*((n, 2.0, 0) for n in range(1, ITEMS + 1)))
    for _ in range(3):
        bench.run(1000)
        await asker.tick(0)
    assert asker.values == dict.fromkeys(range(1, ITEMS + 1), 2.0)
    assert bench.subscriptions.count == 1


async def test_messages_that_are_kept_are_bounded_where_a_client_acknowledges_late() -> None:
    bench = Bench([point(n, f"Dev.p{n}") for n in range(1, ITEMS + 1)])
    asker = Asker(bench, Manner(behind=60))
    await lived(bench, [asker], 90, 1000)
    results = [code for one in asker.client.answers for code in one.Parameters.Results]
    codes = [code.value for code in results]
    # Of sixty at once the oldest were gone, which is told; the rest was there.
    assert codes.count(0) == limits.RETAINED_MESSAGES_MAX
    assert len(codes) == 60


class Sleeper:
    """Its turn is where the process stood still."""

    def __init__(self, shares: Shares, clock: ManualClock, stood_s: int) -> None:
        self.account: Account = shares.account()
        self.served = asyncio.Event()
        self._clock, self._stood_s = clock, stood_s

    def step(self) -> bool:
        self._clock.advance(self._stood_s * 1_000 * MS)
        self.served.set()
        return False


async def test_nobody_owes_the_time_that_the_process_stood_still() -> None:
    """With a debt of minutes no Publish request would be taken for minutes."""
    clock = ManualClock()
    shares = Shares(clock)
    turns = asyncio.create_task(shares.run())
    async with asyncio.timeout(5):
        for stood_s in (600, 0, 0):
            one = Sleeper(shares, clock, stood_s)
            shares.ask(one)
            await one.served.wait()
    turns.cancel()
