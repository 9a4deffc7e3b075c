"""What a lane does with single messages, without brokers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from config.bridges import lines_of
from config.link import BridgeEntry, BridgeTopic, BrokerConnection
from gateway.core.clock import ManualClock
from sync.bridge import bridge_lane
from sync.bridge.bridge_guard import REPEATS_MAX, SPAN_NS, TRACES_MAX, LoopGuard, digest_of
from sync.bridge.bridge_lane import Lane
from sync.bridge.bridge_session import MARK, Arrival, Attributes, BridgeSession, MessageRefused
from sync.errors import LinkError, LinkLost
from tests.sync.support import cancelled, eventually

SECOND_NS = 1_000_000_000


@dataclass
class FakeSession:
    """Takes what a lane sends and acknowledges; `trouble` is raised in place of taking."""

    alive: bool = True
    acked: list[int] = field(default_factory=list)
    sent: list[tuple[str, bytes, Attributes]] = field(default_factory=list)
    trouble: Callable[[str], Exception | None] = lambda topic: None
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def acknowledge(self, mid: int, qos: int) -> None:
        if qos and self.alive:
            self.acked.append(mid)

    async def send(
        self, topic: str, payload: bytes, qos: int, retain: bool, attributes: Attributes
    ) -> None:
        await asyncio.sleep(0)
        error = self.trouble(topic)
        if error is not None:
            raise error
        self.sent.append((topic, payload, attributes))

    async def over(self) -> LinkError:
        await self.ended.wait()
        return LinkLost("over")

    def break_off(self, reason: str) -> None:
        self.alive = False
        self.ended.set()

    @property
    def payloads(self) -> list[bytes]:
        return [payload for _, payload, _ in self.sent]


class Bench:
    """A lane with a source and a destination that a test plays."""

    def __init__(self) -> None:
        entry = BridgeEntry(
            Local=BrokerConnection(),
            Remote=BrokerConnection(URL="mqtt://far"),
            Topics=[BridgeTopic(From="a/#", To="b/")],
        )
        lines = list(zip(lines_of("x", entry), entry.Topics, strict=True))
        self.clock = ManualClock()
        self.source, self.destination = FakeSession(), FakeSession()
        self.open = asyncio.Event()
        self.lane = Lane("x in", lines, "lab/x", self.clock, self._destination)
        self._mid = 0

    async def _destination(self) -> BridgeSession:
        await self.open.wait()
        if not self.destination.alive:
            trouble = self.destination.trouble
            self.destination = FakeSession(sent=self.destination.sent, trouble=trouble)
        return cast(BridgeSession, self.destination)

    def come(self, payload: bytes, topic: str = "a/x", **more: Any) -> int:
        self._mid += 1
        fields = {"qos": 1, "retain": False, "mid": self._mid} | more
        self.lane.take(cast(BridgeSession, self.source), Arrival(topic, payload, **fields))
        return fields["mid"]

    def new_source(self, *, kept: bool = True) -> None:
        self.source.alive = False
        self.source = FakeSession()
        self.lane.source_begun(kept)

    def count(self, name: str) -> int:
        return int(self.lane.status()[name])


@asynccontextmanager
async def bench(*, is_open: bool = True) -> AsyncIterator[Bench]:
    made = Bench()
    if is_open:
        made.open.set()
    task = asyncio.create_task(made.lane.run())
    try:
        yield made
    finally:
        await cancelled(task)


async def test_a_message_is_acknowledged_when_the_destination_has_it_and_not_before() -> None:
    async with bench(is_open=False) as made:
        made.come(b"1")
        await asyncio.sleep(0.01)
        assert made.source.acked == []
        made.open.set()
        await eventually(lambda: made.source.acked == [1])
        assert made.destination.sent[0][:2] == ("b/x", b"1")
        assert made.destination.sent[0][2].user == ((MARK, "lab/x"),)


async def test_a_message_that_bears_our_mark_is_taken_out() -> None:
    async with bench() as made:
        made.come(b"1", attributes=Attributes(user=((MARK, "lab/other"), (MARK, "lab/x"))))
        made.come(b"2", attributes=Attributes(user=((MARK, "lab/other"),)))
        await eventually(lambda: made.source.acked == [1, 2])
        assert made.destination.payloads == [b"2"]
        assert made.count("looped") == 1


async def test_a_message_whose_life_is_over_is_not_sent() -> None:
    async with bench(is_open=False) as made:
        made.come(b"short", attributes=Attributes(expires_s=5))
        made.come(b"long", attributes=Attributes(expires_s=60))
        made.clock.advance(10 * SECOND_NS)
        made.open.set()
        await eventually(lambda: made.source.acked == [1, 2])
        assert made.destination.payloads == [b"long"]
        assert made.destination.sent[0][2].expires_s == 50
        assert made.count("expired") == 1


async def test_what_a_broker_repeats_in_a_session_is_held_once() -> None:
    async with bench(is_open=False) as made:
        made.come(b"1")
        made.come(b"1", mid=1, dup=True)
        made.open.set()
        await eventually(lambda: made.source.acked == [1])
        assert made.destination.payloads == [b"1"]
        assert made.count("repeated") == 1


async def test_what_a_broker_repeats_before_it_hears_of_the_acknowledgement_is_not_sent_again() -> (
    None
):
    async with bench() as made:
        made.come(b"1")
        await eventually(lambda: made.source.acked == [1])
        made.come(b"1", mid=1, dup=True)
        await eventually(lambda: made.source.acked == [1, 1])
        made.come(b"1", mid=1)  # another message, on a number that is free again
        await eventually(lambda: made.source.acked == [1, 1, 1])
        made.new_source()
        made.come(b"1", mid=1, dup=True)  # of another session: nobody knows which one it was
        await eventually(lambda: made.source.acked == [1])
        assert made.destination.payloads == [b"1", b"1", b"1"]
        assert made.count("repeated") == 1


async def test_what_a_new_session_repeats_is_acknowledged_there_and_sent_once() -> None:
    async with bench(is_open=False) as made:
        made.come(b"1")
        made.come(b"2")
        made.new_source()
        made.come(b"1", dup=True)
        made.open.set()
        await eventually(lambda: made.source.acked == [3])
        await eventually(lambda: made.destination.payloads == [b"1", b"2"])
        made.come(b"2", dup=True)  # was sent while nobody could be told
        await eventually(lambda: made.source.acked == [3, 4])
        assert made.destination.payloads == [b"1", b"2"]
        made.come(b"2", dup=True)  # another one of the same content
        await eventually(lambda: made.destination.payloads == [b"1", b"2", b"2"])


async def test_a_broker_that_lost_our_session_repeats_nothing() -> None:
    async with bench(is_open=False) as made:
        made.come(b"1")
        made.source.alive = False
        made.open.set()
        await eventually(lambda: made.destination.payloads == [b"1"])
        made.new_source(kept=False)
        made.come(b"1", dup=True)
        await eventually(lambda: made.destination.payloads == [b"1", b"1"])


async def test_nothing_is_left_out_where_the_destination_breaks() -> None:
    async with bench() as made:
        trouble = [LinkLost("lost"), LinkLost("lost again")]
        made.destination.trouble = lambda t: trouble.pop() if t == "b/5" and trouble else None
        for number in range(10):
            made.come(b"%d" % number, topic=f"a/{number}")
        await eventually(lambda: len(made.source.acked) == 10)
        assert not trouble
        assert set(made.destination.payloads) == {b"%d" % n for n in range(10)}
        assert made.source.acked == list(range(1, 11))


async def test_a_message_that_ends_every_session_is_given_up_late_and_its_like_at_once() -> None:
    tries = 0

    def trouble(topic: str) -> Exception | None:
        nonlocal tries
        tries += topic == "b/bad"
        made.clock.advance(10 * SECOND_NS)
        return LinkLost("closed") if topic == "b/bad" else None

    async with bench() as made:
        made.destination.trouble = trouble
        made.come(b"1", topic="a/bad")
        made.come(b"2", topic="a/good")
        await eventually(lambda: made.count("refused") == 1)
        assert tries >= bridge_lane.GIVE_UP_TRIES
        await eventually(lambda: made.source.acked == [1, 2])
        before = tries
        made.come(b"3", topic="a/bad")
        await eventually(lambda: made.count("refused") == 2)
        assert tries - before <= 3


async def test_a_refusal_that_may_pass_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge_lane, "REFUSED_WAIT_S", 0.01)
    forbidden = {"b/x"}
    async with bench() as made:
        made.destination.trouble = lambda t: (
            MessageRefused("forbidden", permanent=False) if t in forbidden else None
        )
        made.come(b"1")
        await eventually(lambda: made.lane.problem == "forbidden")
        assert made.source.acked == []
        forbidden.clear()
        await eventually(lambda: made.source.acked == [1])
        assert made.lane.problem == ""


async def test_room_is_bounded_in_messages_and_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge_lane, "HELD_MAX", 10)
    async with bench(is_open=False) as made:
        for number in range(12):
            made.come(b"%d" % number)
        assert not made.source.alive
        assert (made.count("held"), made.count("returned")) == (10, 2)
        assert not made.lane.roomy
    monkeypatch.setattr(bridge_lane, "HELD_BYTES_MAX", 100)
    async with bench(is_open=False) as made:
        made.come(b"x" * 500)  # alone it may be as large as it likes
        made.come(b"x")
        assert (made.count("held"), made.count("returned")) == (1, 1)
        made.source = FakeSession()
        made.come(b"x", qos=0)
        assert made.count("dropped") == 1
        assert made.source.alive


async def test_a_topic_that_grew_too_deep_or_too_long_is_refused() -> None:
    async with bench() as made:
        made.come(b"1", topic="a/" + "/".join("x" * 64))
        made.come(b"2", topic="a/" + "x" * 1100)
        made.come(b"3", topic="a/+/c")  # no broker may send it; the library would raise
        made.come(b"4", topic="a/b#")
        assert made.source.acked == [1, 2, 3, 4]
        assert made.count("refused") == 4


async def test_many_that_repeat_themselves_do_not_hold_up_the_lane(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bridge_lane, "WATCH_S", 0.05)
    watched: list[bytes] = []
    acquit = LoopGuard.acquit

    def count(guard: LoopGuard, digest: bytes, now_ns: int) -> None:
        watched.append(digest)
        acquit(guard, digest, now_ns)

    monkeypatch.setattr(LoopGuard, "acquit", count)
    async with bench() as made:
        for _ in range(REPEATS_MAX):
            for device in range(5):
                made.come(b"on", topic=f"a/{device}")
        await eventually(lambda: made.count("held") > 0)
        made.come(b"on", topic="a/0")  # while it is held back
        await eventually(lambda: made.count("held") == 0)
        assert made.count("forwarded") == 5 * REPEATS_MAX + 1
        assert len(watched) == 1


async def test_an_unknown_topic_is_acknowledged_and_counted() -> None:
    async with bench() as made:
        made.come(b"1", topic="old/x")
        assert made.source.acked == [1]
        assert made.count("unknown") == 1


# ---------------------------------------------------------------- the guard


def test_only_what_comes_very_often_is_suspected() -> None:
    guard, digest = LoopGuard(), digest_of("a", b"1")
    slow = [guard.suspects(digest, n * SPAN_NS // 50) for n in range(1000)]
    assert not any(slow)
    fast = [guard.suspects(digest, 10**15 + n) for n in range(REPEATS_MAX)]
    assert fast == [False] * (REPEATS_MAX - 1) + [True]
    guard.acquit(digest, 10**15)
    assert not guard.suspects(digest, 10**15 + REPEATS_MAX)


def test_messages_are_told_apart_by_topic_and_payload() -> None:
    assert len({digest_of("a", b"b"), digest_of("ab", b""), digest_of("a", b"c")}) == 3


def test_the_guard_remembers_a_bounded_number() -> None:
    guard = LoopGuard()
    for number in range(TRACES_MAX + 100):
        guard.suspects(digest_of("a", b"%d" % number), number)
    assert len(guard._traces) == TRACES_MAX
