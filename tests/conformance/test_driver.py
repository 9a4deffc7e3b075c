"""What every driver does, over real sockets: the contract of drivers/contract.py as a suite."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from config.site import Instrument
from drivers.contract import Block, Driver
from drivers.errors import DriverError, Garbled, NoAnswer, NotConnected, OutOfRange
from drivers.registry import PROTOCOLS, protocol_of
from tests.conformance.rigs import RIGS, TIMEOUT_S, Rig


class Bench:
    """A device, its driver and its blocks."""

    def __init__(self, rig: Rig, instrument: Instrument) -> None:
        self.rig = rig
        self.instrument = instrument
        protocol = protocol_of(rig.communication)
        assert protocol is not None
        assert protocol.check(instrument) == []
        self.driver: Driver = protocol.open(instrument)
        self.blocks: dict[str, Block] = {}
        for block in protocol.plan(instrument):
            for index in block.index:
                self.blocks[list(instrument.points)[int(index) - 1]] = block

    async def value(self, channel: str) -> float:
        block = self.blocks[channel]
        values = block.decode(await self.driver.read(block))
        row = list(block.index).index(self.instrument.points[channel].index)
        return float(values[row])

    async def value_again(self, channel: str) -> float:
        """As the poll engine does it: where the connection is gone, a new one."""
        try:
            return await self.value(channel)
        except NotConnected:
            await self.driver.connect()
            return await self.value(channel)

    async def write(self, value: float) -> None:
        await self.driver.write(self.instrument.points["Out"], value)


@pytest.fixture(params=RIGS, ids=lambda rig: rig.communication)
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
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


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


# ---------------------------------------------------------------- the plain way


async def test_it_reads_what_the_device_measures(bench: Bench) -> None:
    await bench.driver.connect()
    assert await bench.value("First") == 11.5
    assert await bench.value("Second") == 22.25
    bench.rig.set(-1.25, 0.0)
    assert await bench.value("First") == -1.25


async def test_what_is_written_arrives_and_reads_back(bench: Bench) -> None:
    await bench.driver.connect()
    await bench.write(48.5)
    assert await bench.value("Out") == 48.5
    assert bench.rig.output() == 48.5


async def test_many_reads_at_once_each_get_their_own_answer(bench: Bench) -> None:
    await bench.driver.connect()
    values = await asyncio.gather(*(bench.value(c) for c in ("First", "Second") * 20))
    assert values == [11.5, 22.25] * 20


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
    with pytest.raises(OutOfRange) as refusal:
        await bench.write(value)
    assert refusal.value.permanent
    assert bench.rig.server.requests == 0


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
    assert await bench.value("First") == 11.5
    await bench.rig.server.stop()
    with pytest.raises(NotConnected):
        await bench.value("First")
    with pytest.raises(NotConnected):
        await bench.value("First")
    await bench.rig.server.start()
    await bench.driver.connect()
    assert await bench.value("First") == 11.5


async def test_a_device_that_vanishes_during_the_wait_is_noticed_at_once(bench: Bench) -> None:
    await bench.driver.connect()
    bench.rig.server.faults.silent = True
    waiting = asyncio.create_task(bench.value("First"))
    await until(lambda: bench.rig.server.requests == 1)
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
    waiting = asyncio.create_task(bench.value("First"))
    await until(lambda: bench.rig.server.requests == 1)
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
    waiting = asyncio.create_task(bench.value("First"))
    await until(lambda: bench.rig.server.requests == 1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await bench.value_again("Second") == 22.25
    assert await bench.value_again("First") == 11.5


async def test_a_read_that_is_cancelled_in_the_queue_sends_nothing(bench: Bench) -> None:
    await bench.driver.connect()
    bench.rig.server.faults.delay_s = TIMEOUT_S * 0.4
    first = asyncio.create_task(bench.value("First"))
    await until(lambda: bench.rig.server.requests == 1)
    second = asyncio.create_task(bench.value("Second"))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    assert await first == 11.5
    assert bench.rig.server.requests == 1


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
