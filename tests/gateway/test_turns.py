"""What tools ask for must not hold up scans, polls and writes: they share one loop."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest

from gateway import local, local_server, turns
from gateway.commands import Commands
from gateway.core.clock import ManualClock
from gateway.core.records import Birth
from gateway.core.table import PointTable
from gateway.journal import Journal
from gateway.local import HINTS_MAX, LocalClient, nearest_point
from gateway.local_server import LocalServer
from gateway.turns import DEBT_NS_MAX, REST_PER_WORK, Turns
from tests.gateway.points import output, point

POINTS = 40
CROWD = 60  # questions in one piece


class Crowded:
    """A local server, and how often it answered."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "field.sock"
        self.answers = 0
        self.clock = ManualClock()
        made = [output(1), *(point(number, f"Dev.In{number}") for number in range(2, POINTS))]
        journal = Journal(made, 5, "h" * 16)
        birth = Birth("site", 5, 0, "h" * 16, "c" * 16, 1, ())
        self.table = PointTable(made)
        self.server = LocalServer(
            self.path,
            birth,
            (),
            self.table,
            journal,
            Commands(made, self._receipt),
            self._status,
            self.clock,
        )
        self._journal = journal

    def _receipt(self, body: Any) -> None:
        self.answers += 1
        self._journal.event("receipt", body, 1)

    def _status(self, scans: int) -> dict[str, Any]:
        self.answers += 1
        return {}


@pytest.fixture
async def crowded(tmp_path: Path) -> AsyncIterator[Crowded]:
    made = Crowded(tmp_path)
    await made.server.start()
    yield made
    await made.server.stop()


def framed(message: dict[str, Any]) -> bytes:
    data = msgpack.packb(message)
    return struct.pack(">I", len(data)) + data


async def most_at_once(crowded: Crowded, message: Callable[[int], dict[str, Any]]) -> int:
    """The most answers between two turns of the loop, while a client asks for all at once."""
    _, writer = await asyncio.open_unix_connection(str(crowded.path))
    writer.write(b"".join(framed(message(at)) for at in range(CROWD)))
    most = before = 0
    async with asyncio.timeout(20):
        while crowded.answers < CROWD:
            await asyncio.sleep(0)
            most, before = max(most, crowded.answers - before), crowded.answers
    writer.close()
    await writer.wait_closed()
    return most


async def test_between_two_answers_the_loop_has_a_turn(crowded: Crowded) -> None:
    assert await most_at_once(crowded, lambda at: {"type": "status"}) == 1


async def test_between_two_commands_the_loop_has_a_turn(crowded: Crowded) -> None:
    def command(at: int) -> dict[str, Any]:
        return {"type": "command", "command": {"id": f"c{at}", "tag": "Dev.No", "value": 1.0}}

    assert await most_at_once(crowded, command) == 1


async def test_a_long_answer_is_made_in_pieces_of_one_moment(
    crowded: Crowded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_server, "READ_AT_ONCE", 1)
    crowded.table.rows["value"] = 0.0
    client = LocalClient(crowded.path)
    await client.connect()
    asked = asyncio.create_task(client.request({"type": "read", "tags": []}))
    looks = 0
    while not asked.done():
        await asyncio.sleep(0)
        looks += 1
        crowded.table.rows["value"] += 1.0
    values = [shown["value"] for shown in asked.result()["points"]]
    assert len(values) == len(crowded.table.index) and len(set(values)) == 1
    assert looks > len(values)
    await client.close()


async def test_after_a_stretch_of_work_the_others_have_twice_its_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rests: list[float] = []

    async def sleep(seconds: float) -> None:
        rests.append(seconds)

    monkeypatch.setattr(turns.asyncio, "sleep", sleep)
    clock = ManualClock()
    line = Turns(clock)
    for work_ns in (DEBT_NS_MAX // 2, DEBT_NS_MAX, 0):
        async with line:
            clock.advance(work_ns)
    assert rests == [0.0, 1.5 * DEBT_NS_MAX * REST_PER_WORK / 1e9, 0.0]


async def test_an_answer_that_fails_rests_too_and_lets_the_next_one_in() -> None:
    line = Turns(ManualClock())
    with pytest.raises(ValueError, match="no"):
        async with line:
            raise ValueError("no")
    async with asyncio.timeout(5), line:
        pass


@pytest.mark.parametrize(
    ("asked", "remedy"),
    [
        ("D7.Tempreature_0", 'Did you mean "D7.Temperature_0"?'),
        ("d7.temperature_0", 'Did you mean "D7.Temperature_0"?'),
        ("D7x.Temperature_3", 'Did you mean "D7.Temperature_3"?'),
        ("Nowhere.Temperature", "There are: D0, D1, D2, D3, D4, D5, D6, D7."),
        ("", "There are: D0, D1, D2, D3, D4, D5, D6, D7."),
    ],
)
def test_a_mistyped_tag_of_a_large_site_has_a_remedy_in_bounded_time(
    monkeypatch: pytest.MonkeyPatch, asked: str, remedy: str
) -> None:
    tags = [
        f"D{n}.{c}_{k}" for n in range(10) for c in ("Power", "Temperature") for k in range(500)
    ]
    compared: list[int] = []

    def nearest(name: str, names: Any) -> str:
        there = list(names)
        compared.append(len(there))
        return real(name, there)

    real = local.nearest
    monkeypatch.setattr(local, "nearest", nearest)
    assert nearest_point(asked, tags) == remedy
    assert compared[0] <= HINTS_MAX
