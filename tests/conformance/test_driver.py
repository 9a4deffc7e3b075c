"""What every driver does, over real sockets: the contract of drivers/contract.py as a suite."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import numpy as np
import pytest

from config.site import Instrument
from drivers.contract import Block, Driver, Part, PushDriver, Surroundings, read_block
from drivers.errors import DriverError, Garbled, NoAnswer, NotConnected, OutOfRange
from drivers.registry import PROTOCOLS, protocol_of
from gateway.core.clock import SystemClock
from tests.conformance.rigs import RIGS, TIMEOUT_S, Rig


class Bench:
    """A device, its driver and its blocks."""

    def __init__(self, rig: Rig, instrument: Instrument) -> None:
        self.rig = rig
        self.instrument = instrument
        protocol = protocol_of(rig.communication)
        assert protocol is not None
        assert [f for f in protocol.check(instrument) if f.severity == "error"] == []
        self.protocol = protocol
        self.surroundings = Surroundings(SystemClock())
        self.driver: Driver = protocol.open(instrument, self.surroundings)
        self.plan: list[Block] = protocol.plan(instrument)
        self.blocks: dict[str, Block] = {}
        for block in self.plan:
            for index in block.index:
                self.blocks[list(instrument.points)[int(index) - 1]] = block

    async def value(self, channel: str) -> float:
        """The next value: asked for, or the next one that the device sends."""
        block, index = self.blocks[channel], self.instrument.points[channel].index
        if block.pushed:
            driver: PushDriver = self.driver  # type: ignore[assignment]
            async for update in driver.updates():
                for row, number in zip(update.index, update.values, strict=True):
                    if row == index:
                        return float(number)
            raise AssertionError("updates() ended without an error")
        values = await read_block(self.protocol, self.driver, block)
        return float(values[list(block.index).index(index)])

    async def shows(self, channel: str, value: float) -> None:
        """The channel has this value: at once where it is asked, soon where the device sends."""
        if not self.blocks[channel].pushed:
            assert await self.value(channel) == value
            return
        async with asyncio.timeout(10):
            while await self.value(channel) != value:
                pass

    async def value_again(self, channel: str) -> float:
        """As the poll engine does it: where the connection is gone, a new one."""
        try:
            return await self.value(channel)
        except NotConnected:
            await self.driver.connect()
            return await self.value(channel)

    async def write(self, value: float) -> None:
        await self.driver.write(self.instrument.points["Out"], value)


@pytest.fixture(params=RIGS, ids=lambda rig: rig.__name__.removesuffix("Rig"))
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    name = getattr(request.node, "originalname", request.node.name)
    if name in request.param.exempt:
        pytest.skip(f"{request.param.communication}: {request.param.exempt[name]}")
    rig = request.param()
    port = await rig.server.start()
    rig.set(11.5, 22.25)
    bench = Bench(rig, rig.instrument(port))
    try:
        yield bench
    finally:
        await bench.driver.close()
        await rig.server.stop()


def test_every_registered_driver_is_in_this_suite() -> None:
    tried = {protocol_of(rig.communication) for rig in RIGS}
    assert tried == set(PROTOCOLS)


def test_what_a_rig_exempts_is_a_test_here() -> None:
    for rig in RIGS:
        assert set(rig.exempt) <= set(globals()), rig


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


# ---------------------------------------------------------------- the plain way


async def test_it_reads_what_the_device_measures(bench: Bench) -> None:
    await bench.driver.connect()
    await bench.shows("First", 11.5)
    await bench.shows("Second", 22.25)
    bench.rig.set(-1.25, 0.0)
    await bench.shows("First", -1.25)


async def test_what_is_written_arrives_and_reads_back(bench: Bench) -> None:
    await bench.driver.connect()
    await bench.write(48.5)
    await bench.shows("Out", 48.5)
    assert bench.rig.output() == 48.5


async def test_a_cycle_reads_every_block_once_and_in_order(bench: Bench) -> None:
    await bench.driver.connect()
    cycle = bench.protocol.cycle(bench.plan)
    for _ in range(20):
        parts: list[Part] = [part async for part in bench.driver.read(cycle)]
        assert [p.first for p in parts] == [0, *(p.last for p in parts[:-1])]
        assert parts[-1].last == len(bench.plan)
        values = np.concatenate([p.values for p in parts])
        by_row = dict(zip(cycle.index.tolist(), values.tolist(), strict=True))
        assert by_row[bench.instrument.points["First"].index] == 11.5
        assert by_row[bench.instrument.points["Second"].index] == 22.25


async def test_a_write_between_two_parts_goes_ahead_of_what_was_not_sent(bench: Bench) -> None:
    await bench.driver.connect()
    # When the first part is there, the second question may be on its way; the third is not.
    cycle = bench.protocol.cycle([bench.blocks[name] for name in ("First", "Second", "Out")])
    values: list[float] = []
    async for part in bench.driver.read(cycle):
        if not values:
            await bench.write(48.5)
        values += part.values.tolist()
    assert values == [11.5, 22.25, 48.5]


async def test_a_cycle_that_is_left_early_leaves_nothing_behind(bench: Bench) -> None:
    await bench.driver.connect()
    cycle = bench.protocol.cycle(bench.plan)
    for _ in range(5):
        parts = bench.driver.read(cycle)
        async for _part in parts:
            break
        await parts.aclose()  # type: ignore[attr-defined]
        assert await bench.value("Second") == 22.25


async def test_silence_of_one_block_is_its_part_and_the_others_follow(bench: Bench) -> None:
    await bench.driver.connect()
    bench.rig.server.faults.silent = True
    cycle = bench.protocol.cycle([bench.blocks["First"]])
    try:
        parts = [part async for part in bench.driver.read(cycle)]
    except NotConnected:  # a session that has to be ended over it says so with the next request
        raise AssertionError("silence of one request is no lost connection") from None
    assert isinstance(parts[0].error, NoAnswer)
    assert len(parts[0].values) == 0


async def test_closing_twice_and_closing_unconnected_is_harmless(bench: Bench) -> None:
    await bench.driver.close()
    await bench.driver.connect()
    await bench.driver.close()
    await bench.driver.close()
    with pytest.raises(NotConnected):
        await bench.value("First")


async def test_connecting_again_leaves_one_connection(bench: Bench) -> None:
    await bench.driver.connect()
    await bench.driver.connect()
    assert await bench.value("First") == 11.5
    await until(lambda: len(bench.rig.server.sessions) == 1)


async def test_without_a_connection_nothing_is_read_or_written(bench: Bench) -> None:
    with pytest.raises(NotConnected):
        await bench.value("First")
    with pytest.raises(NotConnected):
        await bench.write(1.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
async def test_a_value_that_does_not_fit_is_refused_unsent(bench: Bench, value: float) -> None:
    await bench.driver.connect()
    asked = bench.rig.server.requests  # some drivers ask something when they connect
    with pytest.raises(OutOfRange) as refusal:
        await bench.write(value)
    assert refusal.value.permanent
    assert bench.rig.server.requests == asked


# ---------------------------------------------------------------- lost connections


async def test_a_refused_connection_is_no_connection(bench: Bench) -> None:
    await bench.rig.server.stop()
    with pytest.raises(NotConnected):
        await bench.driver.connect()


async def test_a_peer_that_accepts_no_connection_is_no_connection(bench: Bench) -> None:
    await bench.rig.server.stop()
    place = ("127.0.0.1", bench.rig.server.port)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen(0)
        fillers = []
        try:
            for _ in range(4):  # the queue of a listener that never accepts takes one or two
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(place)
                fillers.append(filler)
            with pytest.raises(NotConnected):
                await bench.driver.connect()
        finally:
            for filler in fillers:
                filler.close()


async def test_a_restarted_device_is_read_again_after_connecting(bench: Bench) -> None:
    await bench.driver.connect()
    await bench.shows("First", 11.5)
    await bench.rig.server.stop()
    with pytest.raises(NotConnected):
        await bench.value("First")
    with pytest.raises(NotConnected):
        await bench.value("First")
    await bench.rig.server.start()
    await bench.driver.connect()
    await bench.shows("First", 11.5)


async def test_a_device_that_vanishes_during_the_wait_is_noticed_at_once(bench: Bench) -> None:
    await bench.driver.connect()
    bench.rig.server.faults.silent = True
    asked = bench.rig.server.requests
    waiting = asyncio.create_task(bench.value("First"))
    await until(lambda: bench.rig.server.requests == asked + 1)
    await bench.rig.server.stop()
    with pytest.raises(NotConnected):  # and not NoAnswer, which the timeout would give
        await waiting


async def test_a_device_that_hangs_up_behind_each_answer_is_reached_again(bench: Bench) -> None:
    await bench.driver.connect()
    for _ in range(3):
        bench.rig.server.faults.close_after = 1
        assert await bench.value_again("First") == 11.5
        await until(lambda: not bench.rig.server.sessions)
        bench.rig.server.faults.clear()
        assert await bench.value_again("Second") == 22.25


async def test_closing_ends_a_read_that_waits(bench: Bench) -> None:
    await bench.driver.connect()
    bench.rig.server.faults.silent = True
    asked = bench.rig.server.requests
    waiting = asyncio.create_task(bench.value("First"))
    await until(lambda: bench.rig.server.requests == asked + 1)
    await bench.driver.close()
    with pytest.raises(NotConnected):
        await waiting


# ---------------------------------------------------------------- faults of the device


async def test_silence_is_no_answer_and_passes(bench: Bench) -> None:
    await bench.driver.connect()
    bench.rig.server.faults.silent = True
    with pytest.raises(NoAnswer):
        await bench.value("First")
    bench.rig.server.faults.clear()
    assert await bench.value_again("First") == 11.5


async def test_a_late_answer_never_becomes_the_answer_to_the_next_question(bench: Bench) -> None:
    await bench.driver.connect()
    faults = bench.rig.server.faults
    for _ in range(2):
        faults.delay_s = TIMEOUT_S * 1.3
        with pytest.raises(NoAnswer):
            await bench.value("First")
        faults.clear()
        assert await bench.value_again("Second") == 22.25
        assert await bench.value_again("First") == 11.5


async def test_an_answer_just_in_time_counts(bench: Bench) -> None:
    await bench.driver.connect()
    bench.rig.server.faults.delay_s = TIMEOUT_S * 0.2
    assert await bench.value("First") == 11.5


async def test_a_cancelled_read_leaves_nothing_behind(bench: Bench) -> None:
    await bench.driver.connect()
    bench.rig.server.faults.delay_s = TIMEOUT_S * 0.4
    asked = bench.rig.server.requests
    waiting = asyncio.create_task(bench.value("First"))
    await until(lambda: bench.rig.server.requests == asked + 1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await bench.value_again("Second") == 22.25
    assert await bench.value_again("First") == 11.5


async def garbled(read: Callable[[], Awaitable[float]]) -> None:
    with pytest.raises(Garbled):
        await read()


@pytest.mark.parametrize("fault", ["garbage", "half_frame"])
async def test_what_breaks_the_protocol_is_garbled_and_never_a_value(
    bench: Bench, fault: str
) -> None:
    await bench.driver.connect()
    setattr(bench.rig.server.faults, fault, True)
    await garbled(lambda: bench.value("First"))
    bench.rig.server.faults.clear()
    assert await bench.value_again("Second") == 22.25
    assert await bench.value_again("First") == 11.5


async def test_errors_say_what_happened(bench: Bench) -> None:
    await bench.driver.connect()
    bench.rig.server.faults.silent = True
    with pytest.raises(DriverError, match=f"within {TIMEOUT_S:g} s"):
        await bench.value("First")
    await bench.rig.server.stop()
    await bench.driver.close()
    with pytest.raises(DriverError, match=str(bench.rig.server.port)):
        await bench.driver.connect()
