"""The simulation itself: time, order, connections, kills, and that a seed replays."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.sim.loop import Overflow, Process, SimLoop
from tests.sim.network import Network

Body = Callable[[SimLoop, Network], Awaitable[None]]


def play(body: Body, seed: int = 1) -> SimLoop:
    """Run something on a world of its own."""
    loop = SimLoop(seed)
    network = Network(loop, seed)
    try:
        loop.run_until_complete(body(loop, network))
    finally:
        network.forget()
        for process in loop.processes:
            process.alive = True
            for task in list(process.tasks):
                task.cancel()
        loop.run_until_complete(asyncio.sleep(1))
        loop.close()
    return loop


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1000):
        writer.write(data)
        await writer.drain()
    writer.close()


def serve(loop: SimLoop, host: str = "there") -> Process:
    """A process that echoes on port 7."""
    process = Process(loop, "server", host)
    process.spawn(asyncio.start_server(echo, "", 7))
    return process


def test_time_jumps_to_the_next_timer() -> None:
    async def body(loop: SimLoop, network: Network) -> None:
        began_s = loop.time()
        await asyncio.sleep(86_400)
        assert 86_400 <= loop.time() - began_s < 86_400.001

    assert play(body).steps < 100


def test_a_world_that_waits_for_nothing_is_found() -> None:
    async def body(loop: SimLoop, network: Network) -> None:
        await loop.create_future()

    loop = SimLoop(1)
    with pytest.raises(Overflow):
        loop.run_until_complete(body(loop, Network(loop, 1)))
    for task in list(loop.world.tasks):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


def test_bytes_arrive_in_order_and_the_end_behind_them() -> None:
    async def body(loop: SimLoop, network: Network) -> None:
        serve(loop)
        await asyncio.sleep(1)
        reader, writer = await asyncio.open_connection("there", 7)
        for number in range(50):
            writer.write(b"%02d" % number)
        assert await reader.readexactly(100) == b"".join(b"%02d" % n for n in range(50))
        writer.close()
        assert await reader.read() == b""

    play(body)


def test_a_cut_cable_holds_back_and_a_mended_one_delivers() -> None:
    async def body(loop: SimLoop, network: Network) -> None:
        serve(loop)
        await asyncio.sleep(1)
        reader, writer = await asyncio.open_connection("there", 7)
        network.cut("world", "there")
        writer.write(b"late")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await reader.readexactly(4)
        network.mend("world", "there")
        assert await reader.readexactly(4) == b"late"
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("there", 8)
        writer.close()

    play(body)


def test_a_killed_process_says_nothing_more_and_its_system_closes() -> None:
    said: list[str] = []

    async def talk() -> None:
        try:
            while True:
                await asyncio.sleep(1)
                said.append("alive")
        finally:
            said.append("cleaned up")

    async def body(loop: SimLoop, network: Network) -> None:
        process = serve(loop)
        process.spawn(talk())
        await asyncio.sleep(3.5)
        reader, writer = await asyncio.open_connection("there", 7)
        process.kill()
        network.process_died(process)
        assert await reader.read() == b""
        await asyncio.sleep(10)
        assert said == ["alive"] * 3
        writer.close()

    play(body)


def test_a_frozen_process_does_nothing_and_then_everything() -> None:
    async def body(loop: SimLoop, network: Network) -> None:
        process = serve(loop)
        await asyncio.sleep(1)
        reader, writer = await asyncio.open_connection("there", 7)
        process.frozen = True
        writer.write(b"wait")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30):
                await reader.readexactly(4)
        process.frozen = False
        assert await reader.readexactly(4) == b"wait"
        writer.close()

    play(body)


def test_a_host_without_power_is_silent_and_refuses_old_connections_later() -> None:
    async def body(loop: SimLoop, network: Network) -> None:
        process = serve(loop)
        await asyncio.sleep(1)
        _, writer = await asyncio.open_connection("there", 7)
        process.kill()
        network.host_died("there")
        writer.write(b"?")
        await asyncio.sleep(100)
        assert not writer.transport.is_closing()
        network.host_came("there")
        writer.write(b"?")
        await asyncio.sleep(5)
        assert writer.transport.is_closing()

    play(body)


def test_jobs_of_an_executor_run_in_order_and_raise_to_their_caller() -> None:
    done: list[int] = []

    async def body(loop: SimLoop, network: Network) -> None:
        jobs = [loop.run_in_executor(None, done.append, number) for number in range(20)]
        await asyncio.gather(*jobs)
        assert done == list(range(20))
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(None, lambda: 1 // 0)

    play(body)


def test_processes_interleave_as_the_seed_says() -> None:
    def order(seed: int) -> str:
        said: list[str] = []

        async def work(name: str) -> None:
            for _ in range(8):
                said.append(name)
                await asyncio.sleep(0)

        async def body(loop: SimLoop, network: Network) -> None:
            both = [Process(loop, name, name).spawn(work(name)) for name in "ab"]
            await asyncio.gather(*both)

        play(body, seed)
        return "".join(said)

    assert order(3) == order(3)
    assert len({order(seed) for seed in range(6)}) > 3
