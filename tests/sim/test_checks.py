"""The checks and the healing themselves: scenes in which nothing is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.commands import E_STOP
from gateway.field import Field
from tests.sim import disk
from tests.sim.checks import is_latched
from tests.sim.world import World

# The first run of a machine may compile the safety kernel.
pytestmark = pytest.mark.timeout(180)

TRIP = "Control/E_Stop"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with disk.simulated():
        made = World(1, tmp_path)
        yield made
        made.bury()


async def _begin(world: World) -> Field:
    """Plant and field, without faults and without people."""
    world._helper("plant", "world", world.plant.run())
    world.field.start()
    await asyncio.sleep(3)
    return _field(world)


def _field(world: World) -> Field:
    assert world.field.field is not None
    return world.field.field


def test_what_is_asked_to_end_while_it_is_frozen_comes_back_with_the_healing(world: World) -> None:
    async def scene() -> None:
        before = await _begin(world)
        assert world.field.process is not None
        world.field.process.frozen = True
        asking = asyncio.create_task(world.field.stop())
        await asyncio.sleep(2)
        asking.cancel()
        world.nodes = (world.field,)
        await world._heal()
        await asyncio.sleep(3)
        assert _field(world).epoch > before.epoch
        count = _field(world).statistics.count
        await asyncio.sleep(3)
        assert _field(world).statistics.count > count

    world.loop.run_until_complete(scene())


def test_a_latch_that_no_disk_took_before_the_power_went_is_not_asked_for(world: World) -> None:
    """However long the power is away: what counts is how long it was latched before."""

    async def scene() -> None:
        made = await _begin(world)
        world.field.set_fault("full")
        world.checks.disk_refused_ns = world.loop.now_ns
        made.scan.set_gateway_point(E_STOP, 1.0)
        await asyncio.sleep(0.6)
        world.field.set_fault("")
        world.checks.look(made, steady=True)
        assert TRIP in world.checks.latched
        world.field.kill()
        await asyncio.sleep(30)
        world.field.start()
        await asyncio.sleep(1)
        assert not is_latched(_field(world), TRIP)

    world.loop.run_until_complete(scene())
    assert not world.checks.violations


def test_a_latch_of_a_frozen_field_is_not_asked_for(world: World) -> None:
    """It stood long enough, and could not be written."""

    async def scene() -> None:
        made = await _begin(world)
        made.engine.latched[:] = True  # what a scan found, and nobody has written yet
        world.checks.look(made, steady=True)
        assert world.field.process is not None
        world.field.process.frozen = True
        for _ in range(20):
            await asyncio.sleep(1)
            world.checks.look(None, steady=False)
        world.field.kill()
        await asyncio.sleep(1)
        world.field.start()
        await asyncio.sleep(1)

    world.loop.run_until_complete(scene())
    assert not world.checks.violations


@pytest.mark.parametrize(("wait_s", "told"), [(0, False), (5, True)])
def test_what_a_frozen_field_shows_is_judged_when_it_goes_on(
    world: World, wait_s: int, told: bool
) -> None:
    """Not in the moment of its thawing (seed 910103), but soon."""

    async def scene() -> None:
        made = await _begin(world)
        assert world.field.process is not None
        world.field.process.frozen = True
        for _ in range(20):
            await asyncio.sleep(1)
            world.checks.look(None, steady=False)
        await asyncio.sleep(wait_s)  # 0: thawed in this moment; else a field that never scans again
        world.checks.look(made, steady=True)

    world.loop.run_until_complete(scene())
    assert any("is shown as good" in text for text in world.checks.violations) == told


def test_a_latch_that_stood_long_enough_is_asked_for(world: World) -> None:
    async def scene() -> None:
        made = await _begin(world)
        made.scan.set_gateway_point(E_STOP, 1.0)
        for _ in range(12):
            await asyncio.sleep(1)
            world.checks.look(made, steady=True)
        world.field.kill()
        (world.field.folder / "retain.json").unlink()
        world.field.start()
        await asyncio.sleep(1)

    world.loop.run_until_complete(scene())
    assert any(TRIP in text for text in world.checks.violations)
