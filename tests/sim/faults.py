"""What goes wrong: the seed draws which kinds of faults a run has, when they come and how long.

As in a swarm: a run that draws few kinds finds what many kinds together would hide.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import TYPE_CHECKING, Final

from tests.sim import broker
from tests.sim.broker import SimBroker
from tests.sim.disk import FAULTS
from tests.sim.processes import GATEWAY, INGEST, Node

if TYPE_CHECKING:
    from tests.sim.world import World

INTERVAL_S: Final = (2.0, 25.0)  # between two faults, drawn a run
CHOSEN_INTERVAL_S: Final = 6.0  # where the kinds are chosen
SHARE: Final = 0.5  # of the kinds, in a run
SLOW_S: Final = (0.05, 0.9)
OUTAGE_S: Final = (60, 600)
STEP_S: Final = 7200.0  # a clock steps by up to this
LOST_NS: Final = 1_000_000_000_000_000_000  # back to before 2025
LOST_SHARE: Final = 0.25  # of the steps

Fault = Callable[[], Awaitable[None]]


class Chaos:
    """Faults upon a world, until they are to end."""

    def __init__(self, world: World, seed: int, kinds: Sequence[str] = ()) -> None:
        """`kinds` to choose from; by default those that the seed draws."""
        self._world = world
        self._random = Random(f"{seed}:chaos")
        self._tell = world.trace
        every: dict[str, Fault] = {
            "partition": self.partition,
            "outage": self.outage,
            "half-open": self.half_open,
            "flapping": self.flapping,
            "reset": self.reset,
            "slow cable": self.slow_cable,
            "broker restart": self.broker_restart,
            "broker forgets": self.broker_forgets,
            "customer": self.customer,
            "kill link": lambda: self.kill(world.link),
            "kill field": lambda: self.kill(world.field),
            "kill ingest": lambda: self.kill(world.ingest),
            "kill in a write": self.kill_in_write,
            "kill site": self.kill_site,
            "stop": self.stop,
            "freeze": self.freeze,
            "power cut": self.power_cut,
            "disk": self.disk,
            "clock": self.clock,
            "rig": self.rig,
            "rig power": self.rig_power,
        }
        self.kinds = {k: f for k, f in every.items() if self._random.random() < SHARE}
        if not self.kinds:
            self.kinds = {"kill link": every["kill link"]}
        self._interval_s = self._random.uniform(*INTERVAL_S)
        if kinds:
            self.kinds = {kind: every[kind] for kind in kinds}
            self._interval_s = CHOSEN_INTERVAL_S

    async def run(self) -> None:
        """Faults one after the other, some at the same time, until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                await asyncio.sleep(self._random.expovariate(1 / self._interval_s))
                kind = self._random.choice(list(self.kinds))
                group.create_task(self._one(kind))

    async def _one(self, kind: str) -> None:
        await self.kinds[kind]()

    async def _for(self, low_s: float, high_s: float) -> float:
        """Let a fault last; returns how long."""
        lasted_s = low_s + (high_s - low_s) * self._random.random() ** 2
        await asyncio.sleep(lasted_s)
        return lasted_s

    def _two(self) -> tuple[str, str]:
        return self._random.choice(((GATEWAY, broker.HOST), (INGEST, broker.HOST)))

    # ------------------------------------------------------------ network

    async def partition(self) -> None:
        """Nothing passes, either way."""
        one, other = self._two()
        network = self._world.network
        self._tell("chaos", f"partition of {one} and {other}")
        network.cut(one, other)
        network.cut(other, one)
        await self._for(1, 90)
        network.mend(one, other)
        network.mend(other, one)
        self._tell("chaos", f"{one} and {other} are joined")

    async def outage(self) -> None:
        """Nothing passes to a broker for so long that a small store must thin."""
        ends = (GATEWAY, self._random.choice((broker.HOST, broker.CUSTOMER)))
        self._tell("chaos", f"outage of {ends[1]}")
        self._world.network.cut(*ends)
        self._world.network.cut(*ends[::-1])
        await self._for(*OUTAGE_S)
        self._world.network.mend(*ends)
        self._world.network.mend(*ends[::-1])
        self._tell("chaos", f"outage of {ends[1]} is over")

    async def half_open(self) -> None:
        """Nothing passes one way."""
        ends = list(self._two())
        self._random.shuffle(ends)
        self._tell("chaos", f"nothing passes from {ends[0]} to {ends[1]}")
        self._world.network.cut(*ends)
        await self._for(1, 90)
        self._world.network.mend(*ends)
        self._tell("chaos", f"it passes again from {ends[0]} to {ends[1]}")

    async def flapping(self) -> None:
        """Short partitions, one behind the other."""
        one, other = self._two()
        network = self._world.network
        self._tell("chaos", f"{one} and {other} flap")
        for _ in range(self._random.randrange(3, 10)):
            network.cut(one, other)
            network.cut(other, one)
            await self._for(0.1, 3)
            network.mend(one, other)
            network.mend(other, one)
            await self._for(0.1, 3)

    async def reset(self) -> None:
        """Connections break; of each, both ends hear of it, or one."""
        one, other = self._two()
        self._tell("chaos", f"connections of {one} and {other} are reset")
        for pair in self._world.network.between(one, other):
            for end in pair if self._random.random() < 0.5 else pair[:1]:
                self._world.network.reset(end)

    async def slow_cable(self) -> None:
        """Everything takes long."""
        one, other = self._two()
        cable = self._world.network.cable(one, other)
        self._tell("chaos", f"slow between {one} and {other}")
        before, cable.delay_s = cable.delay_s, SLOW_S
        await self._for(5, 60)
        cable.delay_s = (0.0002, 0.002) if before == SLOW_S else before

    # ------------------------------------------------------------ broker

    async def broker_restart(self) -> None:
        """It comes back with what it saved last."""
        await self._broker(self._world.broker, keep=True)

    async def broker_forgets(self) -> None:
        """It comes back empty."""
        await self._broker(self._world.broker, keep=False)

    async def customer(self) -> None:
        """The broker of the second link can't be reached, or ends."""
        if self._random.random() < 0.5:
            await self._broker(self._world.customer_broker, keep=False)
            return
        network, ends = self._world.network, (GATEWAY, broker.CUSTOMER)
        self._tell("chaos", "partition of gateway and customer")
        network.cut(*ends)
        if both := self._random.random() < 0.5:
            network.cut(*ends[::-1])
        await self._for(1, 90)
        network.mend(*ends)
        if both:
            network.mend(*ends[::-1])
        self._tell("chaos", "gateway and customer are joined")

    async def _broker(self, server: SimBroker, *, keep: bool) -> None:
        if server.process is None:
            return
        self._tell("chaos", f"{server.host} killed, {'keeps' if keep else 'forgets'}")
        server.kill(keep=keep)
        await self._for(0.2, 40)
        server.start()
        self._tell("chaos", f"{server.host} started")

    # ------------------------------------------------------------ processes

    async def kill(self, *nodes: Node) -> None:
        """kill -9, and back after a while."""
        nodes = tuple(node for node in nodes if node.process is not None)
        for node in nodes:
            self._tell("chaos", f"kill {node.name}")
            node.kill()
        await self._for(0.1, 15)
        for node in nodes:
            self.start(node)

    def start(self, node: Node) -> None:
        """Back, where nobody was faster."""
        if node.process is None:
            node.start()
            self._tell("chaos", f"{node.name} started")

    def _any(self) -> Node:
        world = self._world
        return self._random.choice((world.link, world.field, world.ingest))

    async def kill_in_write(self) -> None:
        """kill -9 in the middle of a transaction."""
        node = self._random.choice((self._world.link, self._world.ingest))
        if node.disk is None:
            return
        self._tell("chaos", f"kill {node.name} in a write")
        node.disk.fuse = self._random.randrange(1, 30)
        while node.disk is not None and node.disk.fuse:
            await asyncio.sleep(0.2)
        await self._for(0.1, 10)
        self.start(node)

    async def kill_site(self) -> None:
        """Field and link end at the same moment."""
        await self.kill(self._world.link, self._world.field)

    async def stop(self) -> None:
        """An orderly end, and back."""
        node = self._any()
        self._tell("chaos", f"stop {node.name}")
        await node.stop()
        self._tell("chaos", f"{node.name} stopped")
        await self._for(0.1, 10)
        self.start(node)

    async def freeze(self) -> None:
        """SIGSTOP, and SIGCONT later, or kill -9."""
        process = self._any().process
        if process is None:
            return
        self._tell("chaos", f"freeze {process.name}")
        process.frozen = True
        await self._for(0.5, 40)
        process.frozen = False
        self._tell("chaos", f"{process.name} goes on")

    async def power_cut(self) -> None:
        """The gateway's machine loses its power: nobody hears a word."""
        world = self._world
        self._tell("chaos", "power cut")
        world.network.host_died(GATEWAY)
        nodes = [n for n in (world.link, world.field) if n.process is not None]
        for node in nodes:
            node.kill()
        await self._for(1, 60)
        world.network.host_came(GATEWAY)
        for node in nodes:
            self.start(node)

    # ------------------------------------------------------------ disks, clocks, devices

    async def disk(self) -> None:
        """A disk is full, read-only or slow."""
        node, fault = self._any(), self._random.choice(FAULTS)
        self._tell("chaos", f"disk of {node.name} is {fault}")
        node.set_fault(fault)
        await self._for(1, 60)
        node.set_fault("")
        self._tell("chaos", f"disk of {node.name} is well")

    async def clock(self) -> None:
        """The gateway's wall clock steps, or is lost for a while, as without a battery."""
        world = self._world
        if self._random.random() < LOST_SHARE:
            self._tell("chaos", "the clock is lost")
            world.gateway_clock.step_ns -= LOST_NS
            await self._for(1, 40)
            world.gateway_clock.step_ns += LOST_NS
            self._tell("chaos", "the clock is set")
            return
        step_s = self._random.choice((-1, 1)) * STEP_S * self._random.random() ** 3
        self._tell("chaos", f"the clock steps by {step_s:.3f} s")
        world.gateway_clock.step_ns += round(step_s * 1e9)

    async def rig(self) -> None:
        """The rig can't be reached, or is slow, or loses its connection."""
        network, device = self._world.network, self._world.plant.devices["Rig"]
        kind = self._random.choice(("cut", "one way", "slow", "reset"))
        self._tell("chaos", f"rig: {kind}")
        self._world.disturb(1)
        ways = [(GATEWAY, device.host), (device.host, GATEWAY)]
        if kind == "reset":
            for pair in network.between(*ways[0]):
                network.reset(pair[0])
        elif kind == "slow":
            cable = network.cable(*ways[0])
            cable.delay_s = SLOW_S
            await self._for(2, 30)
            cable.delay_s = (0.0002, 0.002)
        else:
            chosen = ways if kind == "cut" else [self._random.choice(ways)]
            for way in chosen:
                network.cut(*way)
            await self._for(1, 40)
            for way in chosen:
                network.mend(*way)
        self._world.disturb(-1)

    async def rig_power(self) -> None:
        """The rig loses its power."""
        device = self._world.plant.devices["Rig"]
        if not device.process.alive:
            return
        self._tell("chaos", "rig: power off")
        self._world.disturb(1)
        device.power_off()
        await self._for(1, 30)
        device.power_on()
        self._world.disturb(-1)
