"""The forwarder against a far side that the test plays itself, over a real broker."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from config.link import BrokerEntry
from gateway.core.clock import ManualClock, SystemClock
from sync import wire
from sync.errors import LinkLost, StoreDamaged
from sync.link.forward import Forwarder
from sync.link.mqtt import MqttSession
from sync.store.async_store import AsyncStore
from tests.sync import support
from tests.sync.far_side import PATIENT, FarSide, fill, forwarder


async def test_the_birth_comes_first_and_frames_in_order(far: FarSide, store: AsyncStore) -> None:
    await fill(store, 5)
    made = forwarder(store, far, PATIENT)
    async with support.running(made.run()):
        await support.eventually(lambda: len(far.frames) == 5)
        assert [p.hash for p in far.presence if isinstance(p, wire.Birth)] == [support.BIRTH]
        assert far.firsts("backlog") == [1, 11, 21, 31, 41]
        await store.append(support.batch(51, 10))
        made.notify_appended()
        await support.eventually(lambda: far.firsts("frames") == [51])
    await support.eventually(lambda: isinstance(far.presence[-1], wire.Death))


async def test_without_an_acknowledgement_the_window_holds(far: FarSide, store: AsyncStore) -> None:
    await fill(store, 40)
    made = forwarder(store, far, replace(PATIENT, window=10))
    async with support.running(made.run()):
        await support.eventually(lambda: len(far.frames) >= 10)
        await asyncio.sleep(0.2)
        assert far.firsts() == [1 + 10 * n for n in range(10)]
        assert made.status()["in_flight"] == 10
        assert (await store.backlog()).frames == 40
        await far.ack(50)
        await support.eventually(lambda: len(far.frames) == 15)
        assert (await store.backlog()).frames == 35


async def test_what_is_not_acknowledged_is_sent_again_gently(
    far: FarSide, store: AsyncStore
) -> None:
    await fill(store, 6)
    made = forwarder(store, far, replace(PATIENT, resend_s=0.3))
    async with support.running(made.run()):
        await support.eventually(lambda: len(far.frames) == 8)
        # The oldest frame, alone, and after a longer pause alone again.
        assert far.firsts()[6:] == [1, 1]
        await far.ack(30)
        await support.eventually(lambda: far.firsts()[-1] == 31)
        await far.ack(40)
        await support.eventually(lambda: 51 in far.firsts()[6:])
        assert not {11, 21} & set(far.firsts()[6:]), "an acknowledged frame was sent again"
        await far.ack(60)
        await support.eventually(lambda: made.status()["backlog_frames"] == 0)
        assert made.status()["resends"] >= 2


async def test_a_silent_far_side_ends_the_session(far: FarSide, store: AsyncStore) -> None:
    await fill(store, 1)
    made = forwarder(store, far, replace(support.QUICK, resend_s=60, silence_s=0.5))
    async with support.running(made.run()):
        await support.eventually(lambda: made.status()["reconnects"] >= 2)
        assert "no acknowledgement for 0.5 s" in made.status()["last_error"]
    assert len(far.frames) >= 2


async def test_nothing_outstanding_is_no_silence(far: FarSide, store: AsyncStore) -> None:
    made = forwarder(store, far, replace(support.QUICK, silence_s=0.3))
    async with support.running(made.run()):
        await support.eventually(lambda: made.status()["connected"])
        await asyncio.sleep(0.8)
        assert made.status()["reconnects"] == 0


async def test_a_birth_that_the_far_side_lacks_is_published_again(
    far: FarSide, store: AsyncStore
) -> None:
    made = forwarder(store, far, PATIENT)
    async with support.running(made.run()):
        await support.eventually(lambda: len(far.presence) == 1)
        await far.say(wire.encode_ack(wire.Ack({}, (support.BIRTH,), ())))
        await support.eventually(lambda: len(far.presence) == 2)


async def test_frames_that_came_without_their_birth_follow_it_at_once(
    far: FarSide, store: AsyncStore
) -> None:
    await fill(store, 3)
    made = forwarder(store, far, PATIENT)
    async with support.running(made.run()):
        await support.eventually(lambda: len(far.frames) == 3)
        await far.say(wire.encode_ack(wire.Ack({}, (support.BIRTH,), ())))
        await support.eventually(lambda: len(far.presence) == 2)
        await support.eventually(lambda: far.firsts() == [1, 11, 21, 1])
        await far.ack(30)
        await support.eventually(lambda: made.status()["backlog_frames"] == 0)


async def test_a_wish_for_a_birth_that_no_frame_needs_changes_nothing(
    far: FarSide, store: AsyncStore
) -> None:
    await fill(store, 3)
    made = forwarder(store, far, PATIENT)
    async with support.running(made.run()):
        await support.eventually(lambda: len(far.frames) == 3)
        await far.say(wire.encode_ack(wire.Ack({}, ("of-another-time",), ())))
        await far.ack(10)
        await support.eventually(lambda: made.status()["in_flight"] == 2)
    assert len(far.frames) == 3


async def test_rows_whose_table_the_store_lost_are_kept_unless_the_far_side_lacks_it(
    far: FarSide, store: AsyncStore
) -> None:
    await store.append(support.batch(1, 10, birth="lost-here"))
    await store.append(support.batch(11, 10))
    made = forwarder(store, far, replace(PATIENT, resend_s=0.3))
    async with support.running(made.run()):
        await support.eventually(lambda: far.firsts().count(1) >= 3)
        assert {len(f.batch.records) for _, f in far.frames} == {10}
        await far.say(wire.encode_ack(wire.Ack({}, ("lost-here",), ())))
        await support.eventually(lambda: far.frames[-1][1].batch.gaps)
        await far.ack(20)
        await support.eventually(lambda: made.status()["backlog_frames"] == 0)


async def test_a_store_that_is_salvaged_in_use_is_forwarded_on(
    far: FarSide, store: AsyncStore
) -> None:
    await fill(store, 20)
    made = forwarder(store, far, PATIENT)

    def damaged(times: list[int]) -> None:
        if times:
            times.clear()
            raise StoreDamaged("torn")

    async with support.running(made.run()):
        await support.eventually(lambda: len(far.frames) == 20)
        await far.ack(200)
        await support.eventually(lambda: made.status()["acknowledged"][1] == 200)
        await store._call(damaged, [1])
        assert store.salvages == 1
        await store.append(support.batch(201, 10))
        made.notify_appended()
        await support.eventually(lambda: far.firsts()[-1] == 201)
        await far.ack(210)
        await support.eventually(lambda: made.status()["backlog_frames"] == 0)
        assert made.status()["reconnects"] == 0


async def test_a_session_that_breaks_leaves_the_next_one_all_its_publications(
    far: FarSide, store: AsyncStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(store, 40)
    made = forwarder(store, far, PATIENT)
    publish = MqttSession.publish

    async def break_first(self: MqttSession, topic: str, payload: bytes, **options: Any) -> None:
        if topic.endswith("backlog") and made._sessions <= 20:
            await asyncio.sleep(0.01)  # until the sender waits for room
            raise LinkLost("cut")
        await publish(self, topic, payload, **options)

    monkeypatch.setattr(MqttSession, "publish", break_first)
    async with support.running(made.run()):
        await support.eventually(lambda: set(far.firsts()) >= set(range(1, 301, 10)))


async def test_a_new_birth_is_published_without_a_frame(far: FarSide, store: AsyncStore) -> None:
    made = forwarder(store, far, PATIENT)
    async with support.running(made.run()):
        await support.eventually(lambda: len(far.presence) == 1)
        await store.put_birth("second", support.birth_bytes("second"))
        made.notify_appended()
        await support.eventually(lambda: len(far.presence) == 2)


async def test_acknowledgements_that_make_no_sense_delete_nothing(
    far: FarSide, store: AsyncStore
) -> None:
    await fill(store, 3)
    made = forwarder(store, far, PATIENT)
    async with support.running(made.run()):
        await support.eventually(lambda: len(far.frames) == 3)
        for payload in (b"", b"rubbish", wire.encode_ack(wire.Ack()), wire.encode_death("lab")):
            await far.say(payload)
        await far.ack(2**62, epoch=99)
        await far.ack(9)
        await far.ack(10)
        await support.eventually(lambda: made.status()["acknowledged"][1] >= 10)
        await asyncio.sleep(0.1)
        assert (await store.backlog()).frames == 2
        assert made.status()["connected"]


@pytest.mark.parametrize(
    ("broker", "word"),
    [
        ({"URL": "http://nonsense"}, "mqtts://"),
        ({"URL": "mqtt://me@127.0.0.1", "PasswordFile": "/no/such/file"}, "PasswordFile"),
        ({"URL": "mqtt://127.0.0.1:1"}, "refused"),
    ],
)
async def test_an_unusable_broker_is_told_and_tried_again(
    store: AsyncStore, broker: dict[str, str], word: str
) -> None:
    entry = BrokerEntry(**broker)
    made = Forwarder(store, "cloud", entry, "lab", SystemClock(), timing=support.QUICK)
    await fill(store, 2)
    async with support.running(made.run()):
        await support.eventually(lambda: word in made.status()["last_error"])
        await support.eventually(lambda: made.status()["backlog_frames"] == 2)
        assert not made.status()["connected"]


async def test_a_site_that_can_not_stand_in_a_topic_is_refused(store: AsyncStore) -> None:
    with pytest.raises(ValueError, match="Site"):
        Forwarder(store, "cloud", BrokerEntry(), "my site", ManualClock())
