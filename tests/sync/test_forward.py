"""The forwarder against a far side that the test plays itself, over a real broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from config.model import LinkFile
from gateway.core.clock import ManualClock, SystemClock
from sync import wire
from sync.async_store import AsyncStore
from sync.errors import LinkLost, StoreDamaged
from sync.forward import Forwarder, _Lanes
from sync.mqtt import MqttSession, parse_url
from sync.store import StoredFrame
from tests.sync import support

FreePort = Callable[[], int]
PATIENT = replace(support.QUICK, resend_s=60.0, silence_s=600.0)


class FarSide:
    """Collects what a forwarder publishes, and acknowledges what the test says."""

    def __init__(self, url: str) -> None:
        self.session = MqttSession(parse_url(url), client_id="far-side", timeout_s=10)
        self.frames: list[tuple[str, wire.Frame]] = []
        self.presence: list[wire.Birth | wire.Death] = []

    async def read(self) -> None:
        async for message in self.session.messages():
            channel = message.topic.rpartition("/")[2]
            if channel == "birth":
                self.presence.append(wire.decode_presence(message.payload))
            else:
                self.frames.append((channel, wire.decode_frame(message.payload)))

    def firsts(self, channel: str | None = None) -> list[int]:
        return [f.batch.first for c, f in self.frames if channel in (None, c)]

    async def ack(self, seq: int, epoch: int = support.EPOCH, want: tuple[str, ...] = ()) -> None:
        await self.say(wire.encode_ack(wire.Ack({epoch: seq}, want)))

    async def say(self, payload: bytes) -> None:
        await self.session.publish("gatepost/lab/ack", payload)


@pytest.fixture
async def far(tmp_path: Path, free_port: FreePort) -> AsyncIterator[FarSide]:
    broker = support.Mosquitto(free_port(), tmp_path / "broker", persistent=False)
    broker.start()
    try:
        await broker.wait_ready()
        side = FarSide(broker.url)
        async with side.session:
            await side.session.subscribe(
                [f"gatepost/lab/{name}" for name in ("birth", "frames", "backlog")]
            )
            async with support.running(side.read()):
                yield side
    finally:
        broker.kill()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[AsyncStore]:
    made = await AsyncStore.open(tmp_path / "store.db", quota_bytes=10**9)
    await made.put_birth(support.BIRTH, support.birth_bytes())
    yield made
    await made.close()


def forwarder(store: AsyncStore, far: FarSide, timing: object = support.QUICK) -> Forwarder:
    config = LinkFile.model_validate({"Broker": {"URL": far.session._address.url}})
    return Forwarder(store, config, "lab", SystemClock(), timing=timing)  # type: ignore[arg-type]


async def fill(store: AsyncStore, count: int, first: int = 1) -> None:
    for number in range(count):
        await store.append(support.batch(first + number * 10, 10))


async def test_the_birth_comes_first_and_frames_in_order(far: FarSide, store: AsyncStore) -> None:
    await fill(store, 5)
    made = forwarder(store, far)
    async with support.running(made.run()):
        await support.eventually(lambda: len(far.frames) == 5)
        assert [p.hash for p in far.presence if isinstance(p, wire.Birth)] == [support.BIRTH]
        assert far.firsts("backlog") == [1, 11, 21, 31, 41]
        await store.append(support.batch(51, 10))
        made.notify_appended()
        await support.eventually(lambda: far.firsts("frames") == [51])
    await support.eventually(lambda: isinstance(far.presence[-1], wire.Death))


async def test_without_an_acknowledgement_the_window_holds(far: FarSide, store: AsyncStore) -> None:
    await fill(store, 100)
    made = forwarder(store, far, replace(PATIENT, window=10))
    async with support.running(made.run()):
        await support.eventually(lambda: len(far.frames) >= 10)
        await asyncio.sleep(0.2)
        assert far.firsts() == [1 + 10 * n for n in range(10)]
        assert made.status()["in_flight"] == 10
        assert (await store.backlog()).frames == 100
        await far.ack(50)
        await support.eventually(lambda: len(far.frames) == 15)
        assert (await store.backlog()).frames == 95


async def test_what_is_not_acknowledged_is_sent_again_gently(
    far: FarSide, store: AsyncStore
) -> None:
    await fill(store, 6)
    made = forwarder(store, far, replace(support.QUICK, resend_s=0.3, silence_s=600))
    async with support.running(made.run()):
        await support.eventually(lambda: len(far.frames) == 8)
        # The oldest frame, alone, and after a longer pause alone again.
        assert far.firsts()[6:] == [1, 1]
        await far.ack(30)
        await support.eventually(lambda: far.firsts()[-2:] == [31, 41])
        await far.ack(50)
        await support.eventually(lambda: 51 in far.firsts()[6:])
        assert 11 not in far.firsts()[6:], "an acknowledged frame was sent again"
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
        await far.say(wire.encode_ack(wire.Ack({}, (support.BIRTH,))))
        await support.eventually(lambda: len(far.presence) == 2)


async def test_a_wish_for_a_birth_that_no_frame_needs_changes_nothing(
    far: FarSide, store: AsyncStore
) -> None:
    await fill(store, 3)
    made = forwarder(store, far, PATIENT)
    async with support.running(made.run()):
        await support.eventually(lambda: len(far.frames) == 3)
        await far.say(wire.encode_ack(wire.Ack({}, ("of-another-time", support.BIRTH))))
        await support.eventually(lambda: len(far.presence) == 2)
        assert made.status()["in_flight"] == 3
    assert len(far.frames) == 3


async def test_rows_whose_table_the_store_lost_are_kept_unless_the_far_side_lacks_it(
    far: FarSide, store: AsyncStore
) -> None:
    await store.append(support.batch(1, 10, birth="lost-here"))
    await store.append(support.batch(11, 10))
    made = forwarder(store, far, replace(support.QUICK, resend_s=0.3, silence_s=600))
    async with support.running(made.run()):
        await support.eventually(lambda: far.firsts().count(1) >= 3)
        assert {len(f.batch.records) for _, f in far.frames} == {10}
        await far.say(wire.encode_ack(wire.Ack({}, ("lost-here",))))
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
    made = forwarder(store, far, replace(support.QUICK, resend_s=60, silence_s=600))
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
    config = LinkFile.model_validate({"Broker": broker})
    made = Forwarder(store, config, "lab", SystemClock(), timing=support.QUICK)
    await fill(store, 2)
    async with support.running(made.run()):
        await support.eventually(lambda: word in made.status()["last_error"])
        await support.eventually(lambda: made.status()["backlog_frames"] == 2)
        assert not made.status()["connected"]


async def test_a_site_that_can_not_stand_in_a_topic_is_refused(store: AsyncStore) -> None:
    with pytest.raises(ValueError, match="Site"):
        Forwarder(store, LinkFile(), "my site", ManualClock())


def frame(number: int) -> StoredFrame:
    return StoredFrame(number, 7, number, number, 1, "h", b"")


def test_behind_a_moving_backlog_the_live_lane_stays_open() -> None:
    lanes = _Lanes(newest=100, timing=replace(PATIENT, window=4), now_ns=0)
    for number in range(101, 150):
        assert lanes.live_room(0) > 0
        lanes.sent(frame(number), True, 0)
    late = int(61e9)
    assert lanes.live_room(late) == 0, "no progress: what is new waits with the backlog"
    lanes.arrived(lambda entry: True, late)
    assert lanes.live_room(late) > 0


def test_a_frame_lost_of_an_ended_epoch_is_sent_again_although_the_new_one_moves() -> None:
    lanes = _Lanes(newest=0, timing=PATIENT, now_ns=0)
    lost = StoredFrame(1, 6, 1, 30, 1, "h", b"")
    lanes.sent(lost, True, 0)
    now = 0
    for number in range(2, 100):
        now += int(2e9)
        lanes.sent(frame(number), True, now)
        if lanes.stalled(now):
            break
        lanes.arrived(lambda entry: entry[1] == 6, now)
    assert lanes.stalled(now)
    assert now <= 62e9


def test_while_a_backlog_drains_the_live_lane_behind_it_is_no_stall() -> None:
    lanes = _Lanes(newest=100, timing=PATIENT, now_ns=0)
    lanes.sent(frame(101), True, 0)
    now = 0
    for number in range(1, 101):
        now += int(2e9)
        old = StoredFrame(number, 6, number, number, 1, "h", b"")
        lanes.sent(old, False, now)
        lanes.arrived(lambda entry: entry[1] != 6, now)
        assert not lanes.stalled(now)
    assert not lanes.draining
    assert not lanes.stalled(now + int(59e9))
    assert lanes.stalled(now + int(61e9))


def test_a_stall_goes_back_and_slows_down_and_progress_speeds_up() -> None:
    lanes = _Lanes(newest=10, timing=replace(PATIENT, window=8), now_ns=0)
    now = 0
    for _ in range(10):
        lanes.sent(frame(1), False, now)
        wait = lanes.resend_ns
        assert not lanes.stalled(now + wait)
        now += wait + 1
        assert lanes.stalled(now)
        lanes.go_back(now)
        assert (lanes.back, lanes.window) == (0, 1)
    assert lanes.resend_ns == 64 * int(60e9), "the wait doubles, up to a limit"
    for window in (2, 4, 8, 8):
        lanes.arrived(lambda entry: True, now)
        assert lanes.window == window
    assert lanes.resend_ns == int(60e9)
