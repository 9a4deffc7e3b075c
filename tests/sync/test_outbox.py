"""The order of publications, and when a frame is delivered, with a session that the test plays."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from sync.errors import LinkLost
from sync.forms.forms import Publication
from sync.link.outbox import PUBLISH_MAX, SLOW_BYTES_PER_S, Outbox
from tests.sync import support


class Played:
    """A broker that answers when it is told to."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, int]] = []
        self.patience_s: list[float | None] = []
        self.answers: dict[str, asyncio.Event] = {}
        self.fences: list[int] = []  # publications in front of each
        self.fenced = asyncio.Event()
        self.fault: LinkLost | None = None

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        timeout_s: float | None = None,
    ) -> None:
        if self.fault is not None:
            raise self.fault
        self.sent.append((topic, qos))
        self.patience_s.append(timeout_s)
        if qos:
            await self.answers.setdefault(topic, asyncio.Event()).wait()

    async def fence(self, *, timeout_s: float | None = None) -> None:
        self.fences.append(len(self.sent))
        await self.fenced.wait()

    def answer(self, *topics: str) -> None:
        for topic in topics:
            self.answers.setdefault(topic, asyncio.Event()).set()


def parcel(*topics: str, qos: int = 1, size: int = 1) -> list[Publication]:
    return [Publication(topic, bytes(size), qos) for topic in topics]  # type: ignore[arg-type]


@asynccontextmanager
async def posting() -> AsyncIterator[tuple[Outbox, Played, list[str]]]:
    played = Played()
    outbox = Outbox(played, 5.0)  # type: ignore[arg-type]
    async with support.running(outbox.run()):
        yield outbox, played, []


async def test_publications_keep_their_order_and_a_parcel_its_last_answer() -> None:
    async with posting() as (outbox, played, done):
        outbox.put(parcel("a", "b"), lambda: done.append("first"))
        outbox.put(parcel("c"), lambda: done.append("second"))
        await support.eventually(lambda: len(played.sent) == 3)
        assert [topic for topic, _ in played.sent] == ["a", "b", "c"]
        played.answer("c", "a")
        await support.eventually(lambda: done == ["second"])
        played.answer("b")
        await support.eventually(lambda: done == ["second", "first"])


async def test_a_parcel_without_publications_is_delivered_at_once() -> None:
    async with posting() as (outbox, _, done):
        outbox.put([], lambda: done.append("empty"))
        assert done == ["empty"]


async def test_only_so_many_wait_for_an_answer_and_room_is_told() -> None:
    async with posting() as (outbox, played, done):
        names = [str(number) for number in range(PUBLISH_MAX + 10)]
        outbox.put(parcel(*names), lambda: done.append("all"))
        await support.eventually(lambda: len(played.sent) == PUBLISH_MAX)
        room = asyncio.create_task(outbox.room(5))
        await asyncio.sleep(0.01)
        assert not room.done()
        played.answer(*names[:5])
        await room
        played.answer(*names)
        await support.eventually(lambda: done == ["all"])


async def test_what_goes_with_qos_0_is_delivered_by_the_next_fence() -> None:
    async with posting() as (outbox, played, done):
        outbox.put(parcel("a", "b", qos=0), lambda: done.append("first"))
        await support.eventually(lambda: played.fences)
        outbox.put(parcel("c", qos=0), lambda: done.append("second"))
        await support.eventually(lambda: len(played.sent) == 3)
        behind = 3 - played.fences[0]
        assert not done
        played.fenced.set()
        await support.eventually(lambda: done == ["first", "second"])
        assert len(played.fences) >= (2 if behind else 1)


async def test_an_answer_to_something_later_stands_for_qos_0_too() -> None:
    async with posting() as (outbox, played, done):
        outbox.put(parcel("a", qos=0), lambda: done.append("loose"))
        outbox.put(parcel("b"), lambda: done.append("answered"))
        outbox.put(parcel("c", qos=0), lambda: done.append("later"))
        await support.eventually(lambda: len(played.sent) == 3)
        played.answer("b")
        await support.eventually(lambda: done == ["loose", "answered"])


async def test_an_answer_may_take_as_long_as_a_slow_line_needs() -> None:
    async with posting() as (outbox, played, done):
        outbox.put(parcel("a", "b", size=10 * SLOW_BYTES_PER_S))
        await support.eventually(lambda: len(played.sent) == 2)
        assert played.patience_s == [15.0, 25.0]
        played.answer("a", "b")


async def test_a_broken_session_ends_it_and_delivers_nothing() -> None:
    played, done = Played(), []
    played.fault = LinkLost("cut")
    outbox = Outbox(played, 5.0)  # type: ignore[arg-type]
    outbox.put(parcel("a"), lambda: done.append("never"))
    with pytest.raises(ExceptionGroup) as caught:
        await outbox.run()
    assert caught.group_contains(LinkLost)
    assert not done
