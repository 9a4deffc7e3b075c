"""A whole site and its cloud in one world, from the first second to the last check."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Final

from gateway.core.paths import StatePaths
from gateway.field import Field
from tests.sim import disk, market, planner
from tests.sim.broker import CUSTOMER, HOST, IN_FLIGHT_MAX, QUEUE_MAX, SimBroker, connector
from tests.sim.checks import TASKS_MAX, UNDER_WAY_BYTES_MAX, Checks
from tests.sim.customer import FORMATS, Customer
from tests.sim.faults import Chaos
from tests.sim.loop import Overflow, Process, SimLoop
from tests.sim.network import Network
from tests.sim.operator import Operator
from tests.sim.plant import Plant
from tests.sim.processes import GATEWAY, FieldNode, IngestNode, LinkNode, Node, SimClock
from tests.sim.trace import Trace

LOOK_S: Final = 1.0
SMALL_QUOTA_BYTES: Final = 350_000  # of which about 20 kB are for frames: two minutes
QUOTA_BYTES_MIN: Final = 1_000_000  # of a site, see config/link.py
THINNABLE_BYTES: Final = 2_000  # the newest frames; no more than that is left to thin
REFUSING: Final = ("full", "read-only")
CALM_S: Final = 20.0  # at the end of the faults, before the delivery is waited for
SETTLE_S: Final = 900.0  # after healing, all is delivered within this
OWED_MAX: Final = 100  # numbers of the last moments, which are on their way
BURIAL_S: Final = 60.0


@dataclass(frozen=True)
class Outcome:
    """What a run found.

    digest  over every step, every line of the trace, and what the historian holds
    seen    how often there was something to check: a run in which nothing happens proves nothing
    """

    seed: int
    violations: tuple[str, ...]
    digest: str
    lines: tuple[str, ...]
    virtual_s: float
    steps: int
    records: int
    lives: int
    kinds: tuple[str, ...]
    seen: Counter[str]


class World:
    """One run."""

    def __init__(
        self,
        seed: int,
        folder: Path,
        show: Callable[[str], None] | None = None,
        kinds: Sequence[str] = (),
    ) -> None:
        self.seed = seed
        self.loop = SimLoop(seed)
        self.network = Network(self.loop, seed)
        self.trace = Trace(lambda: self.loop.now_ns, show)
        self.plant = Plant(self.loop, self.network, seed)
        self.broker = SimBroker(self.loop, self.network, seed)
        self.customer_broker = SimBroker(self.loop, self.network, seed, CUSTOMER)
        self.customer = Customer()
        self.customer_broker.heard = self.customer.heard
        self.gateway_clock = SimClock(self.loop, f"{seed}:gateway")
        cloud_clock = self.cloud_clock = SimClock(self.loop, f"{seed}:cloud")
        gateway = (self.loop, self.network, folder / "state", self.gateway_clock)
        self.field = FieldNode(*gateway)
        self.link = LinkNode(*gateway)
        draw = Random(f"{seed}:world")
        self.link.format = draw.choice(FORMATS)
        self.late = draw.choice((None, HOST, CUSTOMER))  # stays dead until the others have all
        self.ingest = IngestNode(self.loop, self.network, folder / "cloud", cloud_clock)
        self.nodes: tuple[Node, ...] = (self.field, self.link, self.ingest)
        self.checks = Checks(self.loop, self.plant, self.gateway_clock)
        self.chaos = Chaos(self, seed, kinds)
        if "outage" in self.chaos.kinds:
            self.link.quota_bytes = SMALL_QUOTA_BYTES
        self._disturbed = 0
        self._folder = folder
        self._said: dict[str, Any] = {}
        self._helpers: list[asyncio.Task[Any]] = []
        self.field.born = self._born
        self.field.on_death = lambda node: self._field_died()

    def disturb(self, more: int) -> None:
        """One fault more, or less, stands between the gateway and its rig."""
        self._disturbed += more
        self.checks.unreachable_ns = self.loop.now_ns

    def _born(self, made: Field) -> None:
        self.trace("field", f"epoch {made.epoch}")
        if self.field.fault in REFUSING:
            self.checks.disk_refused_ns = self.loop.now_ns
        self.checks.born(made, StatePaths(self.field.folder).schedules)

    def _field_died(self) -> None:
        if self.field.field is not None:
            self.checks.died(self.field.field)

    # ------------------------------------------------------------ the run

    async def run(self, seconds: float, settle_s: float) -> None:
        """Faults for so long, then healing, then everything must arrive."""
        self.trace("world", f"kinds: {', '.join(self.chaos.kinds)}")
        self.trace("world", f"customer: {self.link.format}, late: {self.late}")
        self.broker.start()
        self.customer_broker.start()
        self._helper("plant", "world", self.plant.run())
        for node in self.nodes:
            node.start()
        looking = self._helper("checks", "world", self._look_on())
        socket = StatePaths(self.field.folder).field_socket
        people = Operator(socket, self.gateway_clock, self.checks, self.trace, self.seed)
        self._helper("operator", GATEWAY, people.run())
        market.write_keys(self._folder / "site")
        connect = connector(self.network)
        service = market.Market(connect, self.cloud_clock, self.checks, self.trace, self.seed)
        self._helper("market", market.HOST, service.run())
        clocks = (self.cloud_clock, self.gateway_clock)
        plans = self.checks.schedules
        sends = planner.Planner(connect, socket, clocks, plans, self.trace, self.seed)
        self._helper("planner", planner.HOST, sends.run(at_site=False))
        self._helper("scheduler", GATEWAY, sends.run(at_site=True))
        chaos = self._helper("chaos", "world", self.chaos.run())
        await self._until(lambda: False, seconds, looking)
        chaos.cancel()
        await asyncio.gather(chaos, return_exceptions=True)
        await self._heal()
        await self._until(lambda: False, CALM_S, looking)
        if self.late:
            await self._deliver(looking, settle_s, but=self.late)
            self.trace("world", f"{self.late} can be reached")
            self._cut(self.late, mend=True)
        await self._deliver(looking, settle_s)
        looking.cancel()
        self.trace("world", f"checked; {self._where()}")
        if not self.checks.violations:
            await self._end()

    def _helper(self, name: str, host: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = Process(self.loop, name, host).spawn(work)
        self._helpers.append(task)
        return task

    async def _until(
        self, reached: Callable[[], bool], seconds: float, looking: asyncio.Task[None]
    ) -> bool:
        """Let the time pass until something is reached, or a check fails."""
        until_ns = self.loop.now_ns + round(seconds * 1e9)
        while self.loop.now_ns < until_ns:
            if self.checks.violations:
                return True
            if looking.done():
                looking.result()
            if reached():
                return True
            await asyncio.sleep(LOOK_S)
        return False

    async def _deliver(self, looking: asyncio.Task[None], settle_s: float, but: str = "") -> None:
        """Wait until every link has brought everything, `but` the one to this broker."""
        for host, arrived in ((HOST, self._arrived), (CUSTOMER, self._brought)):
            if host != but and not await self._until(arrived, settle_s, looking):
                self.checks.fail(
                    f"{host}: not all was delivered within {settle_s:g} s: {self._where()}"
                )

    def _cut(self, host: str, *, mend: bool = False) -> None:
        change = self.network.mend if mend else self.network.cut
        change(GATEWAY, host)
        change(host, GATEWAY)

    async def _heal(self) -> None:
        """Everything works again, and nothing gets hot."""
        self.trace("world", "healed")
        self.plant.calm = True
        self.network.heal()
        if self.late:
            self._cut(self.late)
        for host in sorted(self.network.dark):
            self.network.host_came(host)
        for process in self.loop.processes:
            process.frozen = False
        for server in (self.broker, self.customer_broker):
            if server.process is None:
                server.start()
        for node in self.nodes:
            node.set_fault("")
            if node.disk is not None:
                node.disk.fuse = 0
            if node.stopping:  # whoever asked for its stop is gone
                node.kill()
            if node.process is None:
                node.start()
        rig = self.plant.devices["Rig"]
        if not rig.process.alive:
            rig.power_on()
        self._disturbed = 0

    async def _end(self) -> None:
        """An orderly stop, after which not one number may be owed."""
        for node in self.nodes[:2]:
            await node.stop()
        await asyncio.sleep(CALM_S)
        await self.ingest.stop()
        self.checks.delivered(self.ingest.path)
        self.checks.brought(self.customer)

    # ------------------------------------------------------------ looking on

    async def _look_on(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            for node in self.nodes:
                node.look()
                for text in node.ended_itself:
                    self.checks.fail(text)
            for text in self.loop.problems:
                self.checks.fail(f"nobody caught: {text}")
            if self.trace.alarming:
                self.checks.fail(f"critical: {self.trace.alarming}")
            if self.field.fault in REFUSING:
                self.checks.disk_refused_ns = self.loop.now_ns
            made = self.field.field if self.field.up else None
            if made is not None:
                self.checks.look(made, steady=not self._disturbed)
            else:
                self.checks.look(None, steady=False)
            self.checks.bounds(self._figures())
            self._say()

    def _figures(self) -> dict[str, tuple[float, float]]:
        """Everything that could grow."""
        processes = [p for p in self.loop.processes if p.alive]
        ends = [end for pair in self.network.connections for end in pair]
        figures: dict[str, tuple[float, float]] = {
            "tasks of a process": (max(len(p.tasks) for p in processes), TASKS_MAX),
            "bytes under way": (max((e.pending for e in ends), default=0), UNDER_WAY_BYTES_MAX),
            "messages of a session": (self.broker.queued_max, QUEUE_MAX + IN_FLIGHT_MAX),
        }
        store = self.link.store
        # Events and counters stay, whatever the quota: it holds while something else is there.
        if store is not None and sum(store._store._table.thinnable) > THINNABLE_BYTES:
            size = sum(p.stat().st_size for p in self.link.folder.glob("link.sqlite*"))
            # The hundredth is promised of the quotas that a site may have; some here are smaller,
            # so that they fill within minutes, and a page or two is more than a hundredth of them.
            over = max(self.link.quota_bytes, QUOTA_BYTES_MIN) // 100
            figures["bytes of the store"] = (size, self.link.quota_bytes + over)
        return figures

    def _say(self) -> None:
        """What changed in what the world shows, into the trace."""
        made = self.field.field
        shown = self.plant.devices["Rig"].shown("Setpoint")
        now: dict[str, Any] = {"trips": tuple(self.checks.latched), "setpoint": shown}
        if made is not None:
            names = ("Link_Connected", "Broker_Connected", "Store_Ok")
            rows, index = made.table.rows, made.table.index
            now |= {n: float(rows["value"][index[f"Gateway.{n}"]]) for n in names}
        changed = {name: value for name, value in now.items() if self._said.get(name) != value}
        if changed:
            self.trace("world", ", ".join(f"{name} {value}" for name, value in changed.items()))
        self._said = now

    # ------------------------------------------------------------ delivery

    def _arrived(self) -> bool:
        """True where the historian holds all but what was numbered in the last moments."""
        historian, made = self.ingest.historian, self.field.field
        if historian is None or made is None or self.ingest.process is None:
            return False
        held = historian.contiguous("sim", made.epoch)
        if not held or made.journal.last - held > OWED_MAX:
            return False
        return all(
            historian.contiguous("sim", epoch) >= min(life.taken, life.seen)
            for epoch, life in self.checks.lives.items()
            if epoch != made.epoch
        )

    def _brought(self) -> bool:
        """The same of the second link."""
        made = self.field.field
        if made is None or made.journal.last - self.customer.contiguous(made.epoch) > OWED_MAX:
            return False
        return all(
            self.customer.contiguous(epoch) >= min(life.taken, life.seen)
            for epoch, life in self.checks.lives.items()
            if epoch != made.epoch
        )

    def _where(self) -> str:
        historian = self.ingest.historian
        if historian is None:
            return "no historian"
        held = {e: historian.contiguous("sim", e) for e in self.checks.lives}
        brought = {e: self.customer.contiguous(e) for e in self.checks.lives}
        held_by = f"held {held}, brought {brought}"
        return f"{held_by}, seen { {e: (x.seen, x.taken) for e, x in self.checks.lives.items()} }"

    # ------------------------------------------------------------ burial

    def bury(self) -> None:
        """End what is left: the dead are cancelled, so that no finaliser speaks up later."""
        loop = self.loop
        for node in self.nodes:
            node.kill()
        for server in (self.broker, self.customer_broker):
            if server.process is not None:
                server.kill(keep=False)
        loop.problems.clear()
        for process in loop.processes:
            process.alive, process.frozen = True, False
            for task in list(process.tasks):
                task.cancel()

        async def rest() -> None:
            tasks = [t for p in loop.processes for t in p.tasks if t is not asyncio.current_task()]
            if tasks:
                await asyncio.wait(tasks, timeout=BURIAL_S)

        loop.run_until_complete(rest())
        self.network.forget()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()

    def outcome(self) -> Outcome:
        """What was found."""
        lives = self.checks.lives.values()
        digest = f"{self.loop.digest:08x}-{self.trace.digest}"
        return Outcome(
            seed=self.seed,
            violations=tuple(self.checks.violations),
            digest=digest,
            lines=tuple(self.trace.lines),
            virtual_s=self.loop.time(),
            steps=self.loop.steps,
            records=sum(life.seen for life in lives),
            lives=sum(node.lives for node in self.nodes),
            kinds=tuple(self.chaos.kinds),
            seen=self.checks.seen,
        )


def run(
    seed: int,
    seconds: float,
    *,
    kinds: Sequence[str] = (),
    show: Callable[[str], None] | None = None,
    settle_s: float = SETTLE_S,
) -> Outcome:
    """One run of a seed: faults for `seconds` of virtual time, then healing and the last checks.

    kinds     of faults, see tests/sim/faults.py; by default those that the seed draws
    show      gets every line of the trace
    settle_s  within which all must be delivered after healing
    """
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="gatepost-", dir=memory if memory.is_dir() else None))
    try:
        with disk.simulated():
            world = World(seed, folder, show, kinds)
            with world.trace.logs(str(folder)):
                try:
                    world.loop.run_until_complete(world.run(seconds, settle_s))
                except Overflow as overflow:
                    world.checks.fail(f"bound: {overflow}")
                finally:
                    found = world.outcome()
                    world.bury()
        return found
    finally:
        shutil.rmtree(folder, ignore_errors=True)
