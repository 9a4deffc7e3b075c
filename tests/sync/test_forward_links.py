"""Several links at once, what goes beside the frames, and forms that ask for more than frames."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from config.link import BrokerEntry
from gateway.core.clock import SystemClock
from sync.errors import LinkTimeout, StoreFull
from sync.forms.forms import Opening, Publication, Reply
from sync.link.forward import Forwarder
from sync.link.ledger import SAY_MAX
from sync.link.mqtt import MqttSession
from sync.link.session import HEARD_MAX
from sync.store.async_store import AsyncStore
from sync.store.store import StoredFrame
from tests.sync import support
from tests.sync.far_side import PATIENT, FarSide, fill, forwarder


@pytest.fixture
async def both(tmp_path: Path) -> AsyncIterator[AsyncStore]:
    """A store that two links need."""
    path = tmp_path / "both.db"
    made = await AsyncStore.open(path, quota_bytes=10**9, links=("cloud", "other"))
    await made.put_birth(support.BIRTH, support.birth_bytes())
    yield made
    await made.close()


class Played:
    """A form that the test plays."""

    problem = ""

    def __init__(self) -> None:
        self.ready = True
        self.calls: list[str] = []

    def opening(self) -> Opening:
        self.calls.append("opening")
        return Opening("played", None, ("lab/host",))

    def begun(self) -> Sequence[Publication]:
        self.calls.append("begun")
        return (Publication("gatepost/lab/receipts", b"begun"),)

    def born(self, name: str, body: bytes, *, current: bool) -> Sequence[Publication]:
        self.calls.append(f"born {name}")
        return ()

    def knows(self, name: str) -> bool:
        return True

    def due(self) -> Sequence[Publication]:
        return ()

    def frame(self, frame: StoredFrame, *, live: bool) -> Sequence[Publication]:
        self.calls.append(f"frame {frame.first}")
        topic = f"gatepost/lab/{'frames' if live else 'backlog'}"
        return (Publication(topic, frame.payload, 0),) if frame.first != 11 else ()

    def received(self, topic: str, payload: bytes) -> Reply | None:
        self.calls.append(f"received {payload.decode()}")
        if payload == b"on":
            self.ready = True
        return Reply((Publication("gatepost/lab/receipts", b"heard"),), end=payload == b"over")

    def farewell(self) -> Sequence[Publication]:
        return (Publication("gatepost/lab/receipts", b"farewell"),)


def played(store: AsyncStore, far: FarSide, form: Played) -> Forwarder:
    return forwarder(store, far, PATIENT, options={"form": form}, Ack="broker")


async def empty(store: AsyncStore, link: str | None) -> None:
    async with asyncio.timeout(20):
        while (await store.backlog(link)).frames:
            await asyncio.sleep(0.02)


# ---------------------------------------------------------------- several links


async def test_a_link_that_fails_holds_up_no_other_and_lets_go_of_nothing(
    far: FarSide, both: AsyncStore
) -> None:
    await fill(both, 5)
    dead = BrokerEntry(URL="mqtt://127.0.0.1:1", Ack="broker")
    broken = Forwarder(both, "other", dead, "lab", SystemClock(), timing=support.QUICK)
    cloud = forwarder(both, far, PATIENT)
    async with support.running(cloud.run(), broken.run()):
        await support.eventually(lambda: len(far.frames) == 5)
        await far.ack(50)
        await empty(both, "cloud")
        await support.eventually(lambda: broken.status()["backlog_frames"] == 5)
        await support.eventually(lambda: cloud.status()["backlog_frames"] == 0)
        assert "refused" in broken.status()["last_error"]
        assert (await both.backlog()).frames == 5
    late = forwarder(both, far, PATIENT, name="other", Ack="broker")
    async with support.running(late.run()):
        await empty(both, None)
    assert far.firsts() == [1, 11, 21, 31, 41] * 2


async def test_links_to_one_broker_are_clients_of_their_own(far: FarSide, both: AsyncStore) -> None:
    cloud = forwarder(both, far, PATIENT)
    other = forwarder(both, far, PATIENT, name="other", Ack="broker")
    async with support.running(cloud.run(), other.run()):
        await support.eventually(lambda: cloud.status()["connected"])
        await support.eventually(lambda: other.status()["connected"])
        await fill(both, 3)
        cloud.notify_appended()
        other.notify_appended()
        await support.eventually(lambda: len(far.frames) == 6)
        assert (cloud.status()["reconnects"], other.status()["reconnects"]) == (0, 0)


async def test_a_store_that_can_not_let_go_is_asked_again(
    far: FarSide, store: AsyncStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(store, 3)
    discard, refused = AsyncStore.discard, []

    async def full(self: AsyncStore, link: str, ids: Sequence[int]) -> int:
        if not refused:
            refused.append(ids)
            raise StoreFull("no room")
        return await discard(self, link, ids)

    monkeypatch.setattr(AsyncStore, "discard", full)
    made = forwarder(store, far, PATIENT, Ack="broker")
    async with support.running(made.run()):
        await empty(store, "cloud")
    assert refused
    assert len(far.frames) == 3, "what arrived is not sent again meanwhile"


async def test_what_only_the_broker_has_is_not_declared_over(
    far: FarSide, store: AsyncStore
) -> None:
    """A later frame may reach the historian first, and must not shut out those in front of it."""
    made = forwarder(store, far, PATIENT, Ack="broker")
    async with support.running(made.run()):
        for first in (1, 11, 21):
            await fill(store, 1, first=first)
            made.notify_appended()
            await support.eventually(lambda n=first: n in far.firsts())
            await empty(store, "cloud")
    assert {frame.base for _, frame in far.frames} == {1}


async def test_what_arrived_is_settled_before_a_clean_end(far: FarSide, store: AsyncStore) -> None:
    await fill(store, 3)
    slow = forwarder(store, far, replace(PATIENT, settle_s=600), Ack="broker")
    async with support.running(slow.run()):
        await support.eventually(lambda: len(far.frames) == 3)
        await support.eventually(lambda: slow.status()["in_flight"] == 0)
    assert (await store.backlog("cloud")).frames == 0


# ---------------------------------------------------------------- beside the frames


async def test_what_is_said_goes_when_there_is_a_session_and_the_oldest_is_dropped(
    far: FarSide, store: AsyncStore
) -> None:
    await far.session.subscribe(["gatepost/lab/receipts"])
    made = forwarder(store, far, PATIENT)
    for number in range(SAY_MAX + 5):
        made.say("receipts", b"%d" % number)
    async with support.running(made.run()):
        await support.eventually(lambda: len(far.heard) == SAY_MAX)
        made.say("receipts", b"at once")
        await support.eventually(lambda: far.heard[-1] == b"at once")
    assert far.heard[:2] == [b"5", b"6"]


async def test_what_comes_in_goes_to_its_handler_and_holds_up_no_acknowledgement(
    far: FarSide, store: AsyncStore
) -> None:
    taken: list[bytes] = []
    going = asyncio.Event()

    async def slow(payload: bytes) -> None:
        taken.append(payload)
        await going.wait()

    await fill(store, 2)
    made = forwarder(store, far, PATIENT, options={"incoming": {"commands": slow}})
    async with support.running(made.run()):
        await support.eventually(lambda: len(far.frames) == 2)
        for number in range(HEARD_MAX + 10):
            await far.session.publish("gatepost/lab/commands", b"%d" % number)
        await support.eventually(lambda: taken == [b"0"])
        await far.ack(20)
        await empty(store, "cloud")
        await support.eventually(lambda: made._ledger.unheard > 0)
        going.set()
        await support.eventually(lambda: len(taken) == HEARD_MAX + 1)
    assert taken == [b"%d" % number for number in range(HEARD_MAX + 1)]


# ---------------------------------------------------------------- forms


async def test_a_form_without_acknowledgements_lets_go_behind_the_broker_s_fence(
    far: FarSide, store: AsyncStore
) -> None:
    await fill(store, 4)
    form = Played()
    made = played(store, far, form)
    async with support.running(made.run()):
        await empty(store, "cloud")
        assert made.status()["acknowledged"] == (support.EPOCH, 40)
    assert form.calls[:3] == ["opening", "begun", f"born {support.BIRTH}"]
    assert far.firsts() == [1, 21, 31], "a frame without publications is delivered at once"


async def test_while_the_form_is_not_ready_everything_waits_and_becomes_backlog(
    far: FarSide, store: AsyncStore
) -> None:
    await fill(store, 2)
    form = Played()
    form.ready = False
    form.problem = "the host is away"
    made = played(store, far, form)
    async with support.running(made.run()):
        await support.eventually(lambda: made.status()["held_back"] == "the host is away")
        await fill(store, 2, first=21)
        made.notify_appended()
        await asyncio.sleep(0.1)
        assert form.calls == ["opening", "begun"]
        assert (await store.backlog("cloud")).frames == 4
        await far.session.publish("lab/host", b"on")
        await empty(store, "cloud")
    assert far.firsts("backlog") == [1, 21, 31]


async def test_a_form_that_wants_a_new_session_gets_one_without_a_farewell(
    far: FarSide, store: AsyncStore
) -> None:
    await far.session.subscribe(["gatepost/lab/receipts"])
    form = Played()
    made = played(store, far, form)
    async with support.running(made.run()):
        await support.eventually(lambda: far.heard == [b"begun"])
        await far.session.publish("lab/host", b"over")
        await support.eventually(lambda: far.heard.count(b"begun") == 2)
        assert b"farewell" not in far.heard
        assert made.status()["last_error"] == ""
    await support.eventually(lambda: far.heard[-1] == b"farewell")


async def test_a_session_that_breaks_before_the_fence_sends_again(
    far: FarSide, store: AsyncStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fence: Callable[..., Any] = MqttSession.fence
    broken: list[int] = []

    async def fails_first(self: MqttSession, **options: Any) -> None:
        if not broken:
            broken.append(1)
            raise LinkTimeout("half-open")
        await fence(self, **options)

    monkeypatch.setattr(MqttSession, "fence", fails_first)
    await fill(store, 1)
    made = played(store, far, Played())
    async with support.running(made.run()):
        await empty(store, "cloud")
        assert made.status()["reconnects"] == 1
    assert far.firsts() == [1, 1]
