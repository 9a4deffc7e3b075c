"""The chain of models: where it begins, where it ends, and hostile ones."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from drivers.contract import Surroundings
from drivers.errors import DriverError, Garbled, NoAnswer, Refused
from drivers.sim.sunspec_server import SimModel, SunSpecServer
from drivers.sunspec.chain import CHAIN_MAX, Found, read_counts, walk
from drivers.sunspec.driver import SunSpecDriver
from drivers.sunspec.models import model_ids, model_of
from gateway.core.clock import SystemClock
from tests.drivers.instruments import sunspec

REQUESTS_MAX = 3 + 2 * CHAIN_MAX + 2


class Registers:
    """A register map in memory; what is not in it is refused."""

    def __init__(self, base: int, words: list[int]) -> None:
        self.words = {base + place: word & 0xFFFF for place, word in enumerate(words)}
        self.requests = 0

    async def read(self, first: int, count: int) -> bytes:
        self.requests += 1
        assert self.requests <= REQUESTS_MAX, "the walk does not end"
        assert 1 <= count <= 125
        assert first + count <= 65536
        if any(place not in self.words for place in range(first, first + count)):
            raise Refused("illegal data address", code=2, permanent=True)
        data = [self.words[place] for place in range(first, first + count)]
        return b"".join(word.to_bytes(2, "big") for word in data)


SUNS = [0x5375, 0x6E53]


def chain(base: int, words: list[int]) -> list[tuple[int, int, int]]:
    found = asyncio.run(walk(Registers(base, SUNS + words).read))
    return [(f.model, f.address - base, f.length) for f in found.models.values()]


ONE = [1, 2, 7, 7]


@pytest.mark.parametrize("base", [40_000, 50_000, 0])
def test_the_map_is_found_at_each_base(base: int) -> None:
    assert chain(base, [*ONE, 103, 1, 5, 0xFFFF, 0]) == [(1, 2, 2), (103, 6, 1)]


def test_an_end_without_a_length_and_no_end_at_all_end_the_chain() -> None:
    assert chain(40_000, [*ONE, 0xFFFF]) == [(1, 2, 2)]
    assert chain(40_000, ONE) == [(1, 2, 2)]
    assert chain(40_000, [*ONE, 0, 0, 103, 1, 5]) == [(1, 2, 2)], "zeros are an end too"
    assert chain(40_000, []) == []


def test_a_chain_may_end_with_the_last_register() -> None:
    length = 65_536 - 40_000 - 4
    assert chain(40_000, [1, length, *([0] * length)]) == [(1, 2, length)]
    assert chain(40_000, [1, length - 1, *([0] * (length - 1)), 0xFFFF]) == [(1, 2, length - 1)]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([1, 0], "model 1 at register 40002 has 0 registers"),
        ([0, 1, 7, 5, 0], "model 5 at register 40005 has 0 registers"),
        ([1, 65_000], "has 65000 registers"),
        ([1, 65_533], "has 65533 registers"),
        ([7, 1, 0] * (CHAIN_MAX + 5), "more than 256 models"),
        ([103], "has no length"),
    ],
)
def test_a_broken_chain_is_garbled(words: list[int], text: str) -> None:
    with pytest.raises(Garbled, match=text):
        chain(40_000, words)


def test_a_device_without_a_map_is_garbled_with_the_places_that_were_tried() -> None:
    with pytest.raises(Garbled, match="40000, 50000, 0"):
        asyncio.run(walk(Registers(40_000, [1, 2, 3]).read))


@pytest.mark.parametrize(("code", "permanent"), [(6, False), (11, False)])
def test_a_device_that_is_busy_or_behind_a_gateway_is_no_device_without_a_map(
    code: int, permanent: bool
) -> None:
    async def read(first: int, count: int) -> bytes:
        raise Refused("later", code=code, permanent=permanent)

    with pytest.raises(Refused, match="later"):
        asyncio.run(walk(read))


def test_any_refusal_for_good_ends_the_chain() -> None:
    """Some devices call a register that is not there an illegal value."""
    registers = Registers(40_000, [*SUNS, *ONE])

    async def read(first: int, count: int) -> bytes:
        try:
            return await registers.read(first, count)
        except Refused as refusal:
            raise Refused("illegal data value", code=3, permanent=True) from refusal

    assert list(asyncio.run(walk(read)).models) == [(1, 1)]


def test_the_walk_ends_with_the_last_model_that_is_wanted() -> None:
    registers = Registers(40_000, [*SUNS, *ONE, 103, 1, 5, 103, 1, 5, 64_001, 0])
    found = asyncio.run(walk(registers.read, {(103, 2)})).models
    assert list(found) == [(1, 1), (103, 1), (103, 2)]
    assert registers.requests == 4, "the broken model behind them is never looked at"


@given(words=st.lists(st.one_of(st.sampled_from([0, 1, 2, 103, 0xFFFF]), st.integers(0, 0xFFFF))))
@example(words=[1, 1, 0] * 300)
def test_no_chain_ends_in_anything_but_a_typed_error(words: list[int]) -> None:
    with contextlib.suppress(DriverError):
        for model, place, length in chain(40_000, words):
            assert model != 0xFFFF
            assert place + 2 + length <= 65_536 - 40_000


@settings(max_examples=60)
@given(
    number=st.sampled_from([n for n in model_ids() if model_of(n).counts]),  # type: ignore[union-attr]
    length=st.integers(1, 65_533),
    words=st.lists(st.integers(0, 0xFFFF), max_size=40),
)
def test_no_count_of_a_device_is_more_than_a_number(
    number: int, length: int, words: list[int]
) -> None:
    model = model_of(number)
    assert model is not None
    registers = Registers(0, [number, length, *words])
    with contextlib.suppress(DriverError):
        counts = asyncio.run(read_counts(registers.read, model, Found(number, 1, 0, length)))
        assert set(counts) == set(model.counts)
        assert all(0 <= count <= 65_535 for count in counts.values())


async def test_a_silent_device_gets_one_question_a_connection() -> None:
    server = SunSpecServer([SimModel(1)])
    server.faults.silent = True
    port = await server.start()
    driver = SunSpecDriver(
        sunspec({"A": {"IOPoint": "103.W"}}, port, Timeout=0.1), Surroundings(SystemClock())
    )
    try:
        with pytest.raises(NoAnswer):
            await driver.connect()
        assert server.requests == 1
    finally:
        await driver.close()
        await server.stop()
