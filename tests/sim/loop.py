"""An event loop on which a whole site runs in virtual time, and the same way again for a seed.

Time stands still while anything is ready and then jumps to the next timer. Every simulated
process has its own queue of ready callbacks, run first in, first out, as one real event loop does;
which process takes the next step is drawn from the seed, as the operating system would draw it. So
is the order of timers that are due at the same instant. Nothing else is left to chance: tasks and
futures hash by their number, because sets of them (TaskGroup, asyncio.wait) are walked in the order
of their hashes, and those would be addresses of the memory.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
import zlib
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tests.sim.network import Network

STEP_NS: Final = 1_000  # each callback takes this long, so that no busy loop stops the time
READY_MAX: Final = 100_000  # callbacks of one process; more of them are a defect
JOBS_MAX: Final = 1_000  # jobs that wait for one executor

OWNER: contextvars.ContextVar[Process] = contextvars.ContextVar("OWNER")


class Overflow(Exception):
    """A queue of the simulation grew without a bound."""


class Process:
    """Something that runs by itself: its callbacks, and whether it lives.

    job_delay_s  shortest and longest time that a job of its executors takes
    """

    def __init__(self, loop: SimLoop, name: str, host: str) -> None:
        self.loop = loop
        self.name = name
        self.host = host
        self.alive = True
        self.frozen = False
        self.ready: deque[asyncio.Handle] = deque(maxlen=READY_MAX + 1)
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self.job_delay_s = (0.0002, 0.002)
        self.number = len(loop.processes)
        loop.processes.append(self)

    def spawn(self, work: Coroutine[Any, Any, Any], name: str = "") -> asyncio.Task[Any]:
        """Start a task that belongs to this process."""
        context = contextvars.copy_context()
        context.run(OWNER.set, self)
        return self.loop.create_task(work, name=name or self.name, context=context)

    def run(self, work: Callable[..., Any], *args: Any) -> None:
        """Call something in this process, in its next turn."""
        context = contextvars.copy_context()
        context.run(OWNER.set, self)
        self.loop.call_soon(work, *args, context=context)

    def kill(self) -> None:
        """End as kill -9 does: not one more instruction runs. Its objects lie still."""
        self.alive = False


class SimTask(asyncio.Task[Any]):
    """A task that hashes by its number."""

    def __init__(
        self, coro: Any, *, loop: SimLoop, name: str | None = None, context: Any = None
    ) -> None:
        self.number = next(loop.numbers)  # before the base class puts it into a set
        super().__init__(coro, loop=loop, name=name, context=context)
        process = loop.owner(context)
        process.tasks[self] = None
        self.add_done_callback(process.tasks.pop, context=loop.context)

    def __hash__(self) -> int:
        return self.number


class SimFuture(asyncio.Future[Any]):
    """A future that hashes by its number."""

    def __init__(self, *, loop: SimLoop) -> None:
        self.number = next(loop.numbers)
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self.number


class _Lane:
    """One executor: its jobs run in order, one at a time."""

    def __init__(self) -> None:
        self.free_ns = 0
        self.waiting = 0


class SimLoop(asyncio.BaseEventLoop):
    """The loop. `network` and `owner` make connections and say whose a callback is."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.numbers = itertools.count(1)
        self.now_ns = 1_000_000_000
        self.digest = 0  # of every step that was taken: who, when
        self.steps = 0
        self.problems: list[str] = []  # exceptions that nobody caught
        self.network: Network
        self.processes: list[Process] = []
        self._random = Random(f"{seed}:loop")
        self._timers: list[tuple[int, float, int, asyncio.Handle, Process]] = []
        self._lanes: dict[int, _Lane] = {}
        self._kept: list[Executor] = []  # an executor that is gone must not lend its id
        self.world = Process(self, "world", "world")
        self.context = contextvars.copy_context()
        self.context.run(OWNER.set, self.world)
        self.set_task_factory(_make_task)
        self.set_exception_handler(_note_problem)

    def owner(self, context: contextvars.Context | None = None) -> Process:
        """Whose a context is; of the running callback where none is given."""
        found = OWNER.get(None) if context is None else context.get(OWNER)
        return self.world if found is None else found

    # ------------------------------------------------------------ what asyncio asks of a loop

    def time(self) -> float:
        """Virtual seconds."""
        return self.now_ns / 1e9

    def create_future(self) -> asyncio.Future[Any]:
        """See SimFuture."""
        return SimFuture(loop=self)

    def _call_soon(
        self, callback: Any, args: Any, context: contextvars.Context | None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._make_ready(self.owner(context), handle)
        return handle

    def _make_ready(self, process: Process, handle: asyncio.Handle) -> None:
        if not process.alive:
            return
        if len(process.ready) >= READY_MAX:
            raise Overflow(f"{process.name}: {READY_MAX} callbacks are ready")
        process.ready.append(handle)

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """There are no threads: jobs of executors run on the loop."""
        return self.call_soon(callback, *args, context=context)

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        """See `call_at`."""
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        """A timer of the process that asks for it."""
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        when_ns = -int(-when * 1e9 // 1)  # rounded up: a timer never comes too early
        self._push(when_ns, handle, self.owner(context))
        return handle

    def _push(self, when_ns: int, handle: asyncio.Handle, process: Process) -> None:
        draw, number = self._random.random(), next(self.numbers)
        heapq.heappush(self._timers, (when_ns, draw, number, handle, process))

    def at_ns(self, when_ns: int, process: Process, callback: Any, *args: Any) -> asyncio.Handle:
        """Call something in a process at a virtual time; for the parts of the simulation."""
        context = contextvars.copy_context()
        context.run(OWNER.set, process)
        handle = asyncio.Handle(callback, args, self, context)
        self._push(when_ns, handle, process)
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is skipped when its time comes."""

    def _process_events(self, event_list: Any) -> None:
        """There is no selector."""

    def _write_to_self(self) -> None:
        """There is no selector to wake."""

    # ------------------------------------------------------------ the turn of the loop

    def _run_once(self) -> None:
        self._take_due()
        able = [p for p in self.processes if p.ready and p.alive and not p.frozen]
        if not able:
            if not self._timers:
                raise Overflow("the simulation waits for nothing")
            self.now_ns = max(self.now_ns, self._timers[0][0])
            return
        process = able[0] if len(able) == 1 else able[int(self._random.random() * len(able))]
        handle = process.ready.popleft()
        if handle.cancelled():
            return
        self.now_ns += STEP_NS
        self.steps += 1
        step = process.number.to_bytes(4, "little") + self.now_ns.to_bytes(8, "little")
        self.digest = zlib.crc32(step, self.digest)
        handle._run()

    def _take_due(self) -> None:
        timers = self._timers
        while timers and timers[0][0] <= self.now_ns:
            _, _, _, handle, process = heapq.heappop(timers)
            if not handle.cancelled():
                self._make_ready(process, handle)

    @property
    def timers(self) -> int:
        """Timers that will still run."""
        return sum(not handle.cancelled() for _, _, _, handle, _ in self._timers)

    # ------------------------------------------------------------ jobs of executors

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Any, *args: Any
    ) -> asyncio.Future[Any]:
        """Run a job on the loop, in the order of its executor, after a virtual time.

        Its effect comes at a moment of that time that the seed draws, its result at the end: a
        process that is killed in between has done it and never heard of it.
        """
        if getattr(executor, "_shutdown", False):
            raise RuntimeError("cannot schedule new futures after shutdown")
        future, process = self.create_future(), self.owner()
        key = id(executor) if executor is not None else -process.number
        if key not in self._lanes:
            self._lanes[key] = _Lane()
            self._kept.append(executor)
        lane = self._lanes[key]
        lane.waiting += 1
        if lane.waiting > JOBS_MAX:
            raise Overflow(f"{process.name}: {JOBS_MAX} jobs wait for an executor")
        low_s, high_s = process.job_delay_s
        began_ns = max(self.now_ns, lane.free_ns)
        took_ns = round((low_s + (high_s - low_s) * self._random.random() ** 3) * 1e9)
        lane.free_ns = began_ns + took_ns + 1
        effect_ns = began_ns + round(took_ns * self._random.random())
        job = _Job(future, lane, partial(func, *args))
        self.at_ns(effect_ns, process, job.run)
        self.at_ns(lane.free_ns, process, job.end)
        return future

    # ------------------------------------------------------------ connections

    async def create_connection(  # type: ignore[override]
        self, protocol_factory: Any, host: str, port: int, **_: Any
    ) -> tuple[Any, Any]:
        """Over the simulated network."""
        return await self.network.connect(protocol_factory, host, port)

    async def create_unix_connection(  # type: ignore[override]
        self, protocol_factory: Any, path: str, **_: Any
    ) -> tuple[Any, Any]:
        """Inside one host."""
        return await self.network.connect(protocol_factory, self.owner().host, path)

    async def create_server(  # type: ignore[override]
        self, protocol_factory: Any, host: str, port: int, **_: Any
    ) -> Any:
        """Listen on the host of the process that asks, whatever address it names."""
        return self.network.listen(protocol_factory, port)

    async def create_unix_server(  # type: ignore[override]
        self, protocol_factory: Any, path: str, **_: Any
    ) -> Any:
        """Listen on a path of the host of the process that asks."""
        return self.network.listen(protocol_factory, path)


def _make_task(
    loop: asyncio.AbstractEventLoop, coro: Any, *, context: Any = None, name: str | None = None
) -> SimTask:
    assert isinstance(loop, SimLoop)
    context = context or contextvars.copy_context()
    return SimTask(coro, loop=loop, name=name, context=context)


def _note_problem(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    assert isinstance(loop, SimLoop)
    error = context.get("exception")
    text = f"{type(error).__name__}: {error}" if error is not None else ""
    loop.problems.append(f"{context.get('message', '')} {text}".strip())


class _Job:
    """A job of an executor. As a context it takes what the job raises, whatever that is."""

    def __init__(self, future: asyncio.Future[Any], lane: _Lane, work: Callable[[], Any]) -> None:
        self._future = future
        self._lane = lane
        self._work = work
        self._result: Any = None
        self._error: BaseException | None = None

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        self._error = error
        return not isinstance(error, KeyboardInterrupt | SystemExit | Overflow)

    def run(self) -> None:
        """Its effect. One that nobody waits for any more is not begun."""
        if not self._future.cancelled():
            with self:
                self._result = self._work()

    def end(self) -> None:
        """Its result."""
        self._lane.waiting -= 1
        if self._future.done():
            return
        if self._error is not None:
            self._future.set_exception(self._error)
        else:
            self._future.set_result(self._result)
