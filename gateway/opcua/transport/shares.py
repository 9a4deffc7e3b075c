"""Whose turn it is: computing time is shared among clients, whatever they ask for.

Each client has an account of the time that its requests took. Who has used least is served next,
so a hundred greedy connections cost a modest client no more than the one request that is under way.
All together get a share of the loop, because the link has other work, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from collections.abc import Callable, Coroutine, Generator
from itertools import count
from typing import Any, Final, Protocol

from gateway.core.clock import Clock, thread_ns
from gateway.opcua.transport.limits import BURST_S, SHARE

_CREDIT_NS: Final = 5_000_000  # of who was idle
# What it costs to take a connection. Without it newcomers, one behind another, would all stand in
# front of those who are here.
_ENTRY_NS: Final = 500_000


class Account:
    """What the requests of one client took, in ns on the common scale."""

    def __init__(self, used_ns: int = 0) -> None:
        self.used_ns = used_ns


class Member(Protocol):
    """A connection that has something to do."""

    account: Account

    def step(self) -> bool:
        """Do one thing. True where there is more to do now."""


class Shares:
    """Gives turns.

    spent_ns  the processor time that is put on accounts: on a machine that has other work, or
              that stood still, nobody owes what he did not get
    """

    def __init__(self, clock: Clock, spent_ns: Callable[[], int] = thread_ns) -> None:
        self._clock = clock
        self._spent_ns = spent_ns
        self._heap: list[tuple[int, int, Member]] = []
        self._there: set[Member] = set()
        self._order = count()
        self._floor_ns = 0  # what the last one served had used
        self._wake = asyncio.Event()
        self._modest = asyncio.Event()  # somebody asks who has used less than the others
        self._budget_ns = BURST_S * 1e9
        self._filled_ns = clock.monotonic_ns()

    def account(self) -> Account:
        """An account of a newcomer."""
        return Account(self._floor_ns + _ENTRY_NS)

    def ask(self, member: Member) -> None:
        """Let it be `member`'s turn once more."""
        if member not in self._there:
            self._there.add(member)
            account = member.account
            account.used_ns = max(account.used_ns, self._floor_ns - _CREDIT_NS)
            if account.used_ns < self._floor_ns:
                self._modest.set()
            heapq.heappush(self._heap, (account.used_ns, next(self._order), member))
            self._wake.set()

    def metered(self, work: Coroutine[Any, Any, Any], account: Account) -> Coroutine[Any, Any, Any]:
        """`work` with its computing time on an account.

        Where it gives way (``asyncio.sleep(0)``), it goes on when it is its account's turn.
        """
        return _Metered(work, self, account, self._spent_ns)

    async def run(self) -> None:
        """Give turns until cancelled."""
        while True:
            while not self._heap:
                self._wake.clear()
                await self._wake.wait()
            used_ns, _, member = heapq.heappop(self._heap)
            self._there.discard(member)
            account = member.account
            self._floor_ns = max(self._floor_ns, used_ns)
            start_ns = self._spent_ns()
            more = member.step()
            self.charge(account, self._spent_ns() - start_ns)
            # Behind this the request's own task has had its first turn, which is charged, too.
            await asyncio.sleep(0)
            if more:
                self.ask(member)
            await self._rest()

    async def _rest(self) -> None:
        """Where all together had more than their share, only the modest are served for a while."""
        pause_s = self._pause_s()
        if pause_s > 0:
            self._modest.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._modest.wait()

    def charge(self, account: Account, ns: int) -> None:
        """Put computing time on an account."""
        account.used_ns += ns
        self._budget_ns -= ns

    def _pause_s(self) -> float:
        now_ns = self._clock.monotonic_ns()
        self._budget_ns += (now_ns - self._filled_ns) * SHARE
        self._budget_ns = min(self._budget_ns, BURST_S * 1e9)
        self._filled_ns = now_ns
        return max(-self._budget_ns / SHARE / 1e9, 0.0)


class _Pause:
    """A request that gave way and waits for its turn."""

    def __init__(self, account: Account, future: asyncio.Future[None]) -> None:
        self.account = account
        self._future = future

    def step(self) -> bool:
        """Let it go on."""
        if not self._future.done():
            self._future.set_result(None)
        return False


class _Metered(Coroutine[Any, Any, Any]):
    """Passes everything on to a coroutine, and tells how long each stretch of it took."""

    def __init__(
        self,
        inner: Coroutine[Any, Any, Any],
        shares: Shares,
        account: Account,
        spent_ns: Callable[[], int],
    ) -> None:
        self._inner = inner
        self._shares = shares
        self._account = account
        self._spent_ns = spent_ns

    def send(self, value: Any) -> Any:
        start_ns = self._spent_ns()
        try:
            waits = self._inner.send(value)
        finally:
            self._shares.charge(self._account, self._spent_ns() - start_ns)
        return self._turn() if waits is None else waits

    def _turn(self) -> Any:
        """What the task waits for instead of the loop's next round."""
        future = asyncio.get_running_loop().create_future()
        self._shares.ask(_Pause(self._account, future))
        future._asyncio_future_blocking = True  # as a future says it that is awaited
        return future

    def throw(self, *error: Any) -> Any:
        start_ns = self._spent_ns()
        try:
            return self._inner.throw(*error)
        finally:
            self._shares.charge(self._account, self._spent_ns() - start_ns)

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._inner.__await__()
