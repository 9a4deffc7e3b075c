"""What fails in `bench.outage`, one function a fault: it begins, lasts, and is mended."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from bench._outage_plant import OurPlant, PeerPlant, Plant
from bench._peers_run import RunFailed

CLOCK_STEPS_S: Final = (-86_400.0, -3_600.0, -5.0, 5.0, 3_600.0, 86_400.0)
FAKED_CLOCK_READ_S: Final = 1.5  # libfaketime looks at its file once a second


async def broker_stopped(plant: Plant, chance: random.Random) -> None:
    """An orderly stop, some seconds, a start."""
    plant.signal_broker(signal.SIGTERM)
    plant.proxy.refuse()
    await _broker_back(plant, chance.uniform(0.5, 4.0))


async def broker_frozen_then_killed(plant: Plant, chance: random.Random) -> None:
    """The half-open link: everything hangs and nothing is closed; then it is gone."""
    plant.signal_broker(signal.SIGSTOP)
    await asyncio.sleep(chance.uniform(1.0, 6.0))
    plant.signal_broker(signal.SIGKILL)
    plant.proxy.refuse()
    await _broker_back(plant, chance.uniform(0.0, 1.0))


async def broker_restarted(plant: Plant, chance: random.Random) -> None:
    """Killed and started at once, with nothing kept."""
    plant.signal_broker(signal.SIGKILL)
    plant.proxy.refuse()
    await _broker_back(plant, 0.0)


async def _broker_back(plant: Plant, after_s: float) -> None:
    await asyncio.sleep(after_s)
    await plant.start_broker()
    if isinstance(plant, PeerPlant):
        await plant.start_far_side()
    plant.proxy.accept()


async def network_flapping(plant: Plant, chance: random.Random) -> None:
    """Connections are cut again and again."""
    for _ in range(chance.randint(3, 8)):
        plant.proxy.cut()
        await asyncio.sleep(chance.uniform(0.05, 0.8))


async def network_half_open(plant: Plant, chance: random.Random) -> None:
    """Nothing moves between gateway and broker, then all of it does, or nothing ever does."""
    plant.proxy.freeze()
    await asyncio.sleep(chance.uniform(1.0, 6.0))
    if chance.random() < 0.5:
        plant.proxy.cut()
    plant.proxy.thaw()


async def gateway_killed(plant: Plant, chance: random.Random) -> None:
    """``kill -9`` of everything that is the gateway."""
    plant.gateway.kill()
    await asyncio.sleep(chance.uniform(0.0, 1.0))
    plant.gateway.start_again()


async def gateway_restarted(plant: Plant, chance: random.Random) -> None:
    """An orderly stop, and a start."""
    await asyncio.to_thread(plant.gateway.end)
    await asyncio.sleep(chance.uniform(0.0, 1.0))
    plant.gateway.start_again()


async def ingest_killed(plant: OurPlant, chance: random.Random) -> None:
    """``kill -9`` of the ingest, and a start some seconds later."""
    plant.kill_ingest()
    await asyncio.sleep(chance.uniform(0.0, 3.0))
    await plant.start_far_side()


async def database_locked(plant: OurPlant, chance: random.Random) -> None:
    """The historian can't write."""
    with plant.locked_historian():
        await asyncio.sleep(chance.uniform(1.0, 5.0))


async def field_killed(plant: OurPlant, chance: random.Random) -> None:
    """``kill -9`` of the field process."""
    plant.kill_process("field")


async def link_killed(plant: OurPlant, chance: random.Random) -> None:
    """``kill -9`` of the link process, sometimes while a backlog stands in the store."""
    if chance.random() < 0.5:
        plant.proxy.refuse()
        await asyncio.sleep(chance.uniform(0.5, 2.0))
    plant.kill_process("link")
    await asyncio.sleep(chance.uniform(0.0, 1.0))
    plant.proxy.accept()


async def clock_stepped(plant: OurPlant, chance: random.Random) -> None:
    """The gateway's wall clock jumps, and later jumps back."""
    if not plant.clock_file.exists():
        raise RunFailed("libfaketime is missing: install Debian's package libfaketime")
    for seconds in (chance.choice(CLOCK_STEPS_S), 0.0):
        plant.step_clock(seconds)
        await asyncio.sleep(FAKED_CLOCK_READ_S)


OURS: Final[Mapping[str, Callable[[OurPlant, random.Random], Awaitable[None]]]] = {
    "broker_stopped": broker_stopped,
    "broker_frozen_then_killed": broker_frozen_then_killed,
    "broker_restarted": broker_restarted,
    "ingest_killed": ingest_killed,
    "database_locked": database_locked,
    "link_killed": link_killed,
    "network_flapping": network_flapping,
    "field_killed": field_killed,
    "network_half_open": network_half_open,
    "clock_stepped": clock_stepped,
    "gateway_killed": gateway_killed,
    "gateway_restarted": gateway_restarted,
}
QUICK: Final = ("broker_frozen_then_killed", "ingest_killed", "link_killed", "field_killed")
PEERS: Final[Mapping[str, Callable[[PeerPlant, random.Random], Awaitable[None]]]] = {
    "broker_stopped": broker_stopped,
    "broker_frozen_then_killed": broker_frozen_then_killed,
    "network_half_open": network_half_open,
    "gateway_killed": gateway_killed,
}
