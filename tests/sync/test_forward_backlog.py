"""What of a backlog goes when: events first, the newest or the oldest, in hours, in few bytes."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from gateway.core.clock import UTC_PLAUSIBLE_NS, ManualClock
from sync import wire
from sync.link.mqtt import MqttSession
from sync.store.async_store import AsyncStore
from sync.store.quota import JOIN_FRAMES
from sync.store.store import Store
from tests.sync import support
from tests.sync.far_side import PATIENT, FarSide, fill, forwarder

S = 10**9
HOUR = 3600 * S
NIGHT = ["22:00-06:00"]
AT_ONCE = {"records_per_s": 10**12}  # where the clock stands still, no time passes by itself


async def test_frames_with_events_go_first_and_none_goes_twice(
    far: FarSide, store: AsyncStore
) -> None:
    await fill(store, 10, events=(41, 81))
    made = forwarder(store, far, PATIENT)
    async with support.running(made.run()):
        await support.eventually(lambda: len(far.frames) == 10)
        assert far.firsts() == [41, 81, 1, 11, 21, 31, 51, 61, 71, 91]
        await far.ack(0, support.EPOCH, (41, 50), (81, 90))
        await support.eventually(lambda: made.status()["in_flight"] == 8)
        await far.ack(100)
        await support.eventually(lambda: made.status()["backlog_frames"] == 0)
    assert len(far.frames) == 10


async def test_the_newest_of_a_backlog_goes_first_where_the_link_says_so(
    far: FarSide, store: AsyncStore
) -> None:
    await fill(store, 6, events=(21,))
    made = forwarder(store, far, replace(PATIENT, window=2), Drain="newest")
    async with support.running(made.run()):
        await support.eventually(lambda: len(far.frames) == 2)
        for first in (21, 51, 41, 31, 11, 1):
            await support.eventually(lambda n=first: n in far.firsts())
            await far.ack(0, support.EPOCH, (first, first + 9))
        await support.eventually(lambda: made.status()["backlog_frames"] == 0)
    assert far.firsts() == [21, 51, 41, 31, 11, 1]


async def test_what_is_held_beyond_a_hole_leaves_the_store_and_the_hole_does_not(
    far: FarSide, store: AsyncStore
) -> None:
    await fill(store, 5)
    made = forwarder(store, far, PATIENT)
    async with support.running(made.run()):
        await support.eventually(lambda: len(far.frames) == 5)
        await far.ack(10, support.EPOCH, (31, 50))
        await support.eventually(lambda: made.status()["backlog_frames"] == 2)
        held = [frame.first for frame in await store.pending("cloud", 0, 10)]
        assert held == [11, 21]
        # A span that covers half of a frame says nothing of the other half.
        await far.ack(10, support.EPOCH, (15, 29))
        await far.ack(20)
        await support.eventually(lambda: made.status()["backlog_frames"] == 1)


async def test_an_ingest_that_confirms_no_single_frames_gets_the_backlog_in_order(
    far: FarSide, store: AsyncStore
) -> None:
    await fill(store, 8, events=(61,))
    made = forwarder(store, far, replace(PATIENT, window=3, window_start=1), Drain="newest")
    async with support.running(made.run()):
        await support.eventually(lambda: far.firsts() == [61])
        await far.say(wire.encode_ack(wire.Ack({support.EPOCH: 0})))
        for last in range(10, 81, 10):
            await support.eventually(lambda n=last: n - 9 in far.firsts())
            await far.say(wire.encode_ack(wire.Ack({support.EPOCH: last})))
        await support.eventually(lambda: made.status()["backlog_frames"] == 0)
    assert far.firsts() == [61, 1, 11, 21, 31, 41, 51, 61, 71]


async def test_a_backlog_waits_for_its_hours_and_live_data_and_events_do_not(
    far: FarSide, store: AsyncStore
) -> None:
    noon = UTC_PLAUSIBLE_NS + 12 * HOUR
    clock = ManualClock(noon - noon % (24 * HOUR) + 12 * HOUR)
    await fill(store, 6, events=(31,))
    made = forwarder(store, far, PATIENT, clock=clock, options=AT_ONCE, BacklogHours=NIGHT)
    async with support.running(made.run()):
        await support.eventually(lambda: far.firsts() == [31])
        await fill(store, 2, first=61)
        made.notify_appended()
        await support.eventually(lambda: far.firsts("frames") == [61, 71])
        await far.ack(0, support.EPOCH, (31, 40), (61, 80))
        await support.eventually(lambda: made.status()["backlog_frames"] == 5)
        assert "BacklogHours" in made.status()["held_back"]
        await asyncio.sleep(0.3)
        assert len(far.frames) == 3
        clock.advance(10 * HOUR)
        await support.eventually(lambda: far.firsts("backlog") == [31, 1, 11, 21, 41, 51])
        await support.eventually(lambda: not made.status()["held_back"])
        assert made.status()["reconnects"] == 0


async def test_no_more_bytes_go_than_may(far: FarSide, store: AsyncStore) -> None:
    clock = ManualClock()
    await fill(store, 40)
    made = forwarder(store, far, PATIENT, clock=clock, options=AT_ONCE, BytesPerSecondMax=2000)
    size = 0

    def arrived() -> int:
        return sum(len(wire.encode_frame(f.batch, base=f.base)) for _, f in far.frames)

    async with support.running(made.run()):
        for second in range(1, 6):
            before = len(far.frames)
            await support.eventually(lambda n=before: len(far.frames) > n)
            await asyncio.sleep(0.2)
            size = arrived()
            assert size <= 2000 * second
            clock.advance(S)
    assert size > 2000


async def test_live_data_that_may_not_all_go_is_current_and_the_rest_is_backlog(
    far: FarSide, store: AsyncStore
) -> None:
    clock = ManualClock()
    made = forwarder(store, far, PATIENT, clock=clock, options=AT_ONCE, BytesPerSecondMax=1000)
    async with support.running(made.run()):
        await support.eventually(lambda: made.status()["connected"])
        await fill(store, 200)
        made.notify_appended()
        await support.eventually(lambda: "BytesPerSecondMax" in made.status()["held_back"])
        for _ in range(10):  # a debt of one birth and a few frames
            clock.advance(S)
            await asyncio.sleep(0.02)
        await fill(store, 1, first=2001)
        made.notify_appended()
        await support.eventually(lambda: 2001 in far.firsts("frames"))
        assert len(far.frames) < 100


async def test_a_backlog_that_gets_no_answer_from_the_broker_holds_up_no_live_frame(
    far: FarSide, store: AsyncStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish, going = MqttSession.publish, asyncio.Event()

    async def hangs(self: MqttSession, topic: str, payload: bytes, **options: Any) -> None:
        if topic.endswith("/backlog"):
            await going.wait()
        await publish(self, topic, payload, **options)

    monkeypatch.setattr(MqttSession, "publish", hangs)
    await fill(store, 100)
    made = forwarder(store, far, PATIENT)
    async with support.running(made.run()):
        await support.eventually(lambda: made.status()["in_flight"] > 30)
        await fill(store, 5, first=1001)
        made.notify_appended()
        await support.eventually(lambda: far.firsts() == [1001, 1011, 1021, 1031, 1041])
        going.set()
        # The store may join small frames.
        await support.eventually(lambda: sum(len(f.batch.records) for _, f in far.frames) == 1050)


async def test_the_time_until_a_backlog_is_gone_is_told(
    far: FarSide, store: AsyncStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sync.link.forward.BACKLOG_LOOK_S", 0.02)
    await fill(store, 100)
    options = {"records_per_s": 2000}
    made = forwarder(store, far, support.QUICK, options=options)

    async def acknowledge() -> None:
        while True:
            await asyncio.sleep(0.02)
            await far.ack(max((f.batch.last for _, f in far.frames), default=0))

    async with support.running(made.run(), acknowledge()):
        await support.eventually(lambda: (made.status()["empty_in_s"] or 99) < 3)
        await support.eventually(lambda: made.status()["empty_in_s"] is None)


def whole(far: FarSide) -> int:
    """The number up to which all has come."""
    reached = 0
    for _, frame in sorted(far.frames, key=lambda found: found[1].batch.first):
        if frame.batch.first <= reached + 1:
            reached = max(reached, frame.batch.last)
    return reached


async def test_what_became_one_frame_while_it_waited_for_its_hours_goes_in_them(
    far: FarSide, store: AsyncStore
) -> None:
    noon = UTC_PLAUSIBLE_NS + 12 * HOUR
    clock = ManualClock(noon - noon % (24 * HOUR) + 12 * HOUR)
    await fill(store, 30, events=(1,))
    made = forwarder(store, far, PATIENT, clock=clock, options=AT_ONCE, BacklogHours=NIGHT)
    async with support.running(made.run()):
        await support.eventually(lambda: far.firsts() == [1])
        for number in range(301, 301 + 10 * JOIN_FRAMES, 10):
            await fill(store, 1, first=number)
            made.notify_appended()
            await support.eventually(lambda n=number: n in far.firsts("frames"))
            await far.ack(10, support.EPOCH, (301, number + 9))
        assert (await store.backlog("cloud")).frames < 30  # they are one now
        await asyncio.sleep(0.3)
        assert far.firsts("backlog") == [1]
        clock.advance(10 * HOUR)
        await support.eventually(lambda: whole(far) == 300 + 10 * JOIN_FRAMES)
        assert made.status()["reconnects"] == 0


@pytest.mark.parametrize("order", ["oldest", "newest"])
async def test_frames_that_become_one_behind_a_walk_go_all_the_same(
    far: FarSide, store: AsyncStore, order: str
) -> None:
    await fill(store, 20)
    made = forwarder(store, far, replace(PATIENT, window_start=2), Drain=order)
    async with support.running(made.run()):
        await support.eventually(lambda: len(far.frames) == 2)
        await fill(store, 1, first=201)
        made.notify_appended()
        await support.eventually(lambda: 201 in far.firsts("frames"))
        await store._call(join, store._store)
        assert (await store.backlog("cloud")).frames < 10

        def all_came() -> bool:
            return whole(far) == 210

        async def confirm() -> None:
            while True:
                for _, frame in [*far.frames]:
                    await far.ack(0, support.EPOCH, (frame.batch.first, frame.batch.last))
                await asyncio.sleep(0.05)

        async with support.running(confirm()):
            await support.eventually(all_came)
            await support.eventually(lambda: made.status()["backlog_frames"] == 0)
        assert made.status()["reconnects"] == 0


def join(store: Store) -> None:
    """All frames but for the newest become one, whoever has been handed one, as in want of room."""
    rows = store._table.from_id(0, 1000)[:-1]
    batch = store._quota._read(rows)
    assert batch is not None
    store._quota._write(rows, batch, wire.encode_body(batch), 0)
