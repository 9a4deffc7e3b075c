"""Devices that are not what they were: swapped, updated, rescaled while the connection stays."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from drivers.contract import Surroundings, read_block
from drivers.errors import NoAnswer, NotConnected, Refused
from drivers.sim.sunspec_server import SimModel, SunSpecServer
from drivers.sunspec.device import FACTOR_NS, LAYOUT_NS
from drivers.sunspec.driver import PROTOCOL, SunSpecDriver, plan
from gateway.core.clock import ManualClock, SystemClock
from tests.drivers.instruments import sunspec

STILL_S = 5.0  # `Timeout` where nothing times out
INVERTER = (SimModel(1), SimModel(103), SimModel(160, counts={"": 12}))


class Bench:
    """A driver that is connected to a device behind a gateway; its clock stands still."""

    def __init__(self, models: Sequence[SimModel]) -> None:
        self.server = SunSpecServer(models)
        self.clock = ManualClock()

    async def connect(self, *points: str, timeout_s: float = STILL_S, **keys: Any) -> None:
        port = await self.server.start()
        channels = {point: {"IOPoint": point} | keys for point in points}
        self.instrument = sunspec(channels, port, Timeout=timeout_s)
        clock = self.clock if timeout_s == STILL_S else SystemClock()  # time-outs need a real one
        self.driver = SunSpecDriver(self.instrument, Surroundings(clock))
        self.blocks = plan(self.instrument) if keys.get("ReadWrite") != "W" else []
        await self.driver.connect()

    async def read(self) -> list[float]:
        """The values of all blocks."""
        values: list[float] = []
        for block in self.blocks:
            values += (await read_block(PROTOCOL, self.driver, block)).tolist()
        return values

    def swap(self, *models: SimModel) -> SunSpecServer:
        """Another device answers now; the connection stays."""
        other = SunSpecServer(models)
        self.server.bank.holding[:] = other.bank.holding
        self.server.bank.allow_only("holding", [(40_000, 20_000)])
        return other


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench(INVERTER)
    bench.server.put_raw("103.W_SF", 0)
    bench.server.put_raw("103.W", 7)
    bench.server.put_raw("160.DCA_SF", -1)
    bench.server.put_raw("160.module[12].DCA", 50)
    try:
        yield bench
    finally:
        await bench.driver.close()
        await bench.server.stop()


async def test_a_swapped_device_is_found_out(bench: Bench) -> None:
    await bench.connect("103.W")
    assert await bench.read() == [7.0]
    bench.swap(SimModel(1), SimModel(203), SimModel(103))
    bench.clock.advance(LAYOUT_NS)
    with pytest.raises(NotConnected, match="model 103 is no longer at register"):
        await bench.read()


@pytest.mark.parametrize("code", [11, 4])
async def test_after_a_refusal_the_layout_is_looked_at_at_once(bench: Bench, code: int) -> None:
    """A gateway says that the device behind it is silent while that one is swapped."""
    await bench.connect("103.W")
    bench.server.faults.exception_code = code
    with pytest.raises(Refused):
        await bench.read()
    bench.server.faults.exception_code = 0
    bench.swap(SimModel(1), SimModel(203), SimModel(103))
    with pytest.raises(NotConnected, match="another device"):
        await bench.read()


async def test_a_layout_that_stays_costs_one_question_in_ten_seconds(bench: Bench) -> None:
    await bench.connect("103.W")
    asked = bench.server.requests
    for _ in range(3):
        assert await bench.read() == [7.0]
    assert bench.server.requests == asked + 3
    bench.clock.advance(LAYOUT_NS)
    for _ in range(3):
        assert await bench.read() == [7.0]
    assert bench.server.requests == asked + 7


async def test_what_is_written_goes_to_no_swapped_device(bench: Bench) -> None:
    bench.server = SunSpecServer([SimModel(1), SimModel(704)])
    await bench.connect("704.WMaxLimPctEna", ReadWrite="W")
    bench.swap(SimModel(1), SimModel(705), SimModel(704))
    bench.clock.advance(LAYOUT_NS)
    before = bench.server.bank.holding.copy()
    with pytest.raises(NotConnected, match="another device"):
        await bench.driver.write(bench.instrument.points["704.WMaxLimPctEna"], 1.0)
    assert (bench.server.bank.holding == before).all()


async def test_a_model_that_comes_later_is_found(bench: Bench) -> None:
    """A device that was still starting: its chain ended early."""
    bench.server = SunSpecServer([SimModel(1)])
    await bench.connect("103.W")
    asked = bench.server.requests
    for _ in range(2):
        with pytest.raises(Refused, match=r"it has 1$"):
            await bench.read()
    assert bench.server.requests == asked
    bench.swap(*INVERTER)
    bench.clock.advance(LAYOUT_NS)
    with pytest.raises(NotConnected, match="more models than before"):
        await bench.read()


async def test_groups_that_come_and_go_move_what_is_behind_them(bench: Bench) -> None:
    bench.server = SunSpecServer([SimModel(1), SimModel(705, counts={"NCrv": 2, "NPt": 8})])
    bench.server.put_raw("705.V_SF", 0)
    bench.server.put_raw("705.Crv[2].Pt[1].V", 111)
    await bench.connect("705.Crv[2].Pt[1].V")
    assert await bench.read() == [111.0]
    few = SunSpecServer([SimModel(1), SimModel(705, counts={"NCrv": 2, "NPt": 4})])
    place = few.items["705.Crv[2].Pt[1].V"].register
    bench.server.put_raw("705.NPt", 4)
    bench.server.bank.holding[place] = 222
    bench.clock.advance(LAYOUT_NS)
    assert await bench.read() == [222.0]
    bench.server.put_raw("705.NCrv", 1)
    bench.clock.advance(LAYOUT_NS)
    with pytest.raises(Refused, match="the device has 1 of that group"):
        await bench.read()


async def test_a_factor_out_of_reach_is_never_old(bench: Bench) -> None:
    await bench.connect("160.module[12].DCA")
    asked = bench.server.requests
    assert [await bench.read(), await bench.read()] == [[5.0], [5.0]]
    assert bench.server.requests == asked + 3, "two readings and, once, the factor"
    bench.server.put_raw("160.DCA_SF", -2)
    bench.clock.advance(FACTOR_NS)
    assert await bench.read() == [0.5]


async def test_a_factor_out_of_reach_is_that_of_a_block_that_has_it(bench: Bench) -> None:
    await bench.connect("160.module[1].DCA", "160.module[12].DCA")
    bench.server.put_raw("160.module[1].DCA", 50)
    asked = bench.server.requests
    assert await bench.read() == [5.0, 5.0]
    assert bench.server.requests == asked + 2
    bench.server.put_raw("160.DCA_SF", -2)
    assert await bench.read() == [0.5, 0.5]


async def test_a_write_is_scaled_by_the_factor_of_this_moment(bench: Bench) -> None:
    bench.server = SunSpecServer([SimModel(1), SimModel(704)])
    bench.server.put_raw("704.WMaxLimPct_SF", -1)
    bench.server.put_raw("704.WMaxLimPct", 0)
    await bench.connect("704.WMaxLimPct", ReadWrite="RW")
    assert await bench.read() == [0.0]
    for factor, raw in ((-1, 500), (0, 50), (1, 5)):
        bench.server.put_raw("704.WMaxLimPct_SF", factor)
        await bench.driver.write(bench.instrument.points["704.WMaxLimPct"], 50.0)
        assert bench.server.raw("704.WMaxLimPct") == raw


async def test_a_factor_behind_a_shorter_model_says_nothing_about_the_next_one(
    bench: Bench,
) -> None:
    """What would be the short model's factor is a register of the next model, with its factor."""
    short = SunSpecServer([SimModel(1), SimModel(802), SimModel(160, counts={"": 12})])
    wanted = short.items["802.SoC_SF"].register - short.items["802.ID"].register
    inner = short.items["160.DCA_SF"].register - short.items["160.ID"].register
    length = short.items["160.ID"].register - short.items["802.ID"].register
    models = [SimModel(1), SimModel(802, shorter=length - wanted + inner), SimModel(160, {"": 12})]
    bench.server = SunSpecServer(models)
    assert bench.server.items["160.DCA_SF"].register == (
        bench.server.items["802.ID"].register + wanted
    )
    bench.server.put_raw("160.DCA_SF", -1)
    bench.server.put_raw("160.module[12].DCA", 50)
    await bench.connect("802.SoC", "160.module[12].DCA")
    values = await bench.read()
    assert math.isnan(values[0])
    assert values[1] == 5.0


async def test_a_slow_search_for_models_can_be_given_up_at_any_time(bench: Bench) -> None:
    """Each of its questions may take a `Timeout`; nobody has to wait for the end."""
    bench.server = SunSpecServer([SimModel(1), *[SimModel(103)] * 200, SimModel(203)])
    await bench.connect("203.W")
    bench.server.faults.delay_s = 0.02
    asked = bench.server.requests
    searching = asyncio.create_task(bench.driver.connect())
    while bench.server.requests < asked + 5:
        await asyncio.sleep(0.005)
    searching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await searching
    await bench.driver.close()
    while bench.server.sessions:
        await asyncio.sleep(0.005)
    assert bench.server.requests <= asked + 7


async def test_a_device_that_dies_during_the_search_ends_it(bench: Bench) -> None:
    bench.server = SunSpecServer([SimModel(1), *[SimModel(103)] * 50, SimModel(203)])
    await bench.connect("203.W", timeout_s=0.3)
    asked = bench.server.requests
    bench.server.faults.delay_s = 0.01
    searching = asyncio.create_task(bench.driver.connect())
    while bench.server.requests < asked + 5:
        await asyncio.sleep(0.002)
    bench.server.faults.silent = True
    with pytest.raises(NoAnswer):
        await searching
