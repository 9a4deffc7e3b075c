"""What a client of HistoryRead can make the server hold and do."""

from __future__ import annotations

from typing import Any

from asyncua import ua

from gateway.core.clock import ManualClock
from tests.gateway.opcua.history_case import T0, Client, FakeArchive, moment, new_history, raw


async def test_a_session_keeps_few_long_lists_of_times() -> None:
    """Each continuation point of ReadAtTime keeps the times of its request."""
    archive = FakeArchive()
    archive.put("Stack.Temperature", (0, 1.0, 0), (10_000, 2.0, 0))
    client = Client(new_history(archive))
    client.bytes_max = 8192
    asked = ua.ReadAtTimeDetails([moment(n) for n in range(10_000)], True)
    marks = []
    for _ in range(16):
        (result,) = await client.read(asked, "Stack.Temperature")
        marks.append(result.ContinuationPoint)
    assert all(marks)
    (result,) = await client.read(asked, "Stack.Temperature")
    assert result.StatusCode.value == ua.StatusCodes.BadNoContinuationPoints
    (result,) = await client.read(asked, "Stack.Temperature", points=marks[:1])
    assert result.ContinuationPoint and result.HistoryData.DataValues, "the others go on"
    await client.read(asked, *["Stack.Temperature"] * 15, points=marks[1:], release=True)
    shared = await client.read(asked, *["Stack.Temperature"] * 20)
    assert all(one.ContinuationPoint for one in shared), "nodes of a request share its times"


async def test_a_request_takes_so_long_and_the_next_goes_on() -> None:
    """However little it finds: where much has to be looked through, rows are no measure."""
    archive, clock = FakeArchive(), ManualClock(T0)
    archive.put("Stack.Temperature", (0, 1.0, 0))
    read = archive.read

    async def slow(*args: Any, **kwargs: Any) -> Any:
        clock.advance(700_000_000)
        return await read(*args, **kwargs)

    archive.read = slow  # type: ignore[method-assign]
    client = Client(new_history(archive, clock=clock))
    nodes = ["Stack.Temperature"] * 9
    results = await client.read(raw(-1, 10), *nodes)
    marks = [one.ContinuationPoint for one in results]
    assert [bool(mark) for mark in marks] == [False] * 3 + [True] * 6
    results = await client.read(raw(-1, 10), *nodes[3:], points=marks[3:])
    assert [len(one.HistoryData.DataValues) for one in results] == [1, 1, 1, 0, 0, 0]
