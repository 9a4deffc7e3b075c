"""Turns: who has used least is served next, and what gives way waits for its turn."""

from __future__ import annotations

import asyncio

from gateway.core.clock import ManualClock
from gateway.opcua.transport.shares import Account, Shares


class Client:
    """Asks for so many steps, each of so many ms."""

    def __init__(self, shares: Shares, clock: ManualClock, order: list[str], name: str) -> None:
        self.account: Account = shares.account()
        self._clock, self._order, self._name = clock, order, name
        self._left, self._ms = (1, 0) if name == "modest" else (10, 3)

    def step(self) -> bool:
        self._clock.advance(self._ms * 1_000_000)
        self._order.append(self._name)
        self._left -= 1
        return self._left > 0


async def test_a_modest_client_is_served_between_two_steps_of_greedy_ones() -> None:
    clock, order = ManualClock(), list[str]()
    shares = Shares(clock, clock.monotonic_ns)
    modest = Client(shares, clock, order, "modest")
    greedy = [Client(shares, clock, order, f"greedy {n}") for n in range(5)]
    for one in greedy:
        shares.ask(one)
    work = asyncio.create_task(shares.run())
    while len(order) < 12:
        await asyncio.sleep(0)
    shares.ask(modest)
    before = len(order)
    while "modest" not in order:
        await asyncio.sleep(0)
    assert order.index("modest") <= before + 1
    async with asyncio.timeout(20):
        while len(order) < 51:
            await asyncio.sleep(0.01)
    # Greedy ones have had the same: none is ahead of another by more than a step or two.
    counts = [order[:26].count(f"greedy {n}") for n in range(5)]
    assert max(counts) - min(counts) <= 2
    work.cancel()


class Newcomer:
    """Does one thing, and when its turn comes there is another one behind it."""

    def __init__(self, shares: Shares, clock: ManualClock, served: list[str]) -> None:
        self.account = shares.account()
        self._shares, self._clock, self._served = shares, clock, served

    def step(self) -> bool:
        self._clock.advance(100_000)
        self._served.append("newcomer")
        self._shares.ask(Newcomer(self._shares, self._clock, self._served))
        return False


async def test_an_endless_row_of_newcomers_does_not_keep_others_waiting() -> None:
    clock, order = ManualClock(), list[str]()
    shares = Shares(clock, clock.monotonic_ns)
    modest = Client(shares, clock, order, "modest")
    modest.account.used_ns += 10_000_000  # what it asked for before they came
    for _ in range(20):
        shares.ask(Newcomer(shares, clock, order))
    shares.ask(modest)
    work = asyncio.create_task(shares.run())
    async with asyncio.timeout(20):
        while "modest" not in order and len(order) < 1_000:
            await asyncio.sleep(0.001)
    work.cancel()
    assert "modest" in order[:500]


async def test_work_that_gives_way_goes_on_in_turn_and_is_charged() -> None:
    clock = ManualClock()
    shares = Shares(clock, clock.monotonic_ns)
    run = asyncio.create_task(shares.run())
    done: list[str] = []

    async def work(name: str, rounds: int) -> str:
        for _ in range(rounds):
            clock.advance(1_000_000)
            await asyncio.sleep(0)
            done.append(name)
        await asyncio.sleep(0.001)
        return name

    heavy, light = shares.account(), shares.account()
    tasks = [asyncio.create_task(shares.metered(work("heavy", 40), heavy)) for _ in range(4)]
    while len(done) < 12:
        await asyncio.sleep(0)
    tasks.append(asyncio.create_task(shares.metered(work("light", 3), light)))
    async with asyncio.timeout(20):
        found = await asyncio.gather(*tasks)
    assert found == ["heavy"] * 4 + ["light"]
    assert heavy.used_ns >= 160e6
    assert max(i for i, name in enumerate(done) if name == "light") < len(done) // 2
    run.cancel()


async def test_work_that_waits_for_its_turn_can_be_cancelled() -> None:
    shares = Shares(ManualClock())  # nobody gives turns

    async def work() -> None:
        await asyncio.sleep(0)

    task = asyncio.create_task(shares.metered(work(), shares.account()))
    await asyncio.sleep(0.01)
    assert not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
