"""The bridge between real brokers: nothing is lost, whatever ends; nothing goes round."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from sync.bridge import bridge_guard, bridge_lane, bridge_session
from tests.sync import support
from tests.sync.bridging import Pair, bridge_of, listening, pair, put
from tests.sync.support import eventually

FreePort = Callable[[], int]


def numbered(count: int, first: int = 0) -> list[bytes]:
    return [str(number).encode() for number in range(first, first + count)]


@pytest.mark.parametrize("kinds", [("mosquitto", "mosquitto"), ("nats", "mosquitto")])
async def test_both_directions_are_remapped_in_order(
    tmp_path: Path, free_port: FreePort, kinds: tuple[str, str]
) -> None:
    async with (
        pair(tmp_path, free_port, kinds) as made,
        listening(made.local.port, "a", "bal/#") as near,
        listening(made.remote.port, "b", "dso/#") as far,
    ):
        await asyncio.gather(
            put(made.remote.url, "platone/dsotp/pmu/1", *numbered(300)),
            put(made.local.url, "site/power", *numbered(300)),
            put(made.remote.url, "other/x", b"stays"),
        )
        await eventually(lambda: len(near.numbers()) == len(far.numbers()) == 300)
        await eventually(lambda: made.status("in")["held"] == made.status("out")["held"] == 0)
        for heard, topic in ((near, "bal/pmu/1"), (far, "dso/site/power")):
            assert heard.lines == [(topic, str(n), False) for n in range(300)]


async def unrest(made: Pair) -> None:
    """Everything between two publishers ends and begins anew."""
    for _ in range(2):
        for broker in (made.remote, made.local):
            await asyncio.sleep(0.2)
            broker.stop()
            await asyncio.sleep(0.2)
            broker.start()
            await broker.wait_ready()
        await asyncio.sleep(0.1)
        await made.end()
        await made.start()


@pytest.mark.parametrize("kinds", [("mosquitto", "mosquitto"), ("mosquitto", "quick nats")])
async def test_restarts_of_everything_lose_nothing_in_either_direction(
    tmp_path: Path, free_port: FreePort, kinds: tuple[str, str]
) -> None:
    async with (
        pair(tmp_path, free_port, kinds) as made,
        listening(made.local.port, "a", "bal/#") as near,
        listening(made.remote.port, "b", "dso/#") as far,
    ):
        await asyncio.gather(
            put(made.remote.url, "platone/dsotp/x", *numbered(400), timeout_s=1.0),
            put(made.local.url, "site/x", *numbered(400), timeout_s=1.0),
            unrest(made),
        )
        await eventually(lambda: len(near.numbers()) == 400 and len(far.numbers()) == 400)
        if kinds[1] == "mosquitto":  # NATS itself sends again behind what is newer
            assert near.numbers() == list(range(400))
        assert far.numbers() == list(range(400))


async def test_what_the_destination_has_not_taken_stays_with_the_source(
    tmp_path: Path, free_port: FreePort
) -> None:
    async with pair(tmp_path, free_port) as made:
        async with listening(made.local.port, "a", "bal/#"):
            pass  # its session stays
        made.local.stop()
        await put(made.remote.url, "platone/dsotp/x", *numbered(50))
        await eventually(lambda: made.status("in")["held"] == 50)
        assert made.status("in")["oldest_ms"] > 0
        await made.end()  # what it held is gone with it, and still at the source
        made.local.start()
        await made.local.wait_ready()
        await made.start()
        async with listening(made.local.port, "a", "bal/#") as near:
            await eventually(lambda: len(near.numbers()) >= 50)
            assert near.numbers() == list(range(50))


async def test_a_destination_that_hangs_is_left_and_nothing_is_lost(
    tmp_path: Path, free_port: FreePort
) -> None:
    async with (
        pair(tmp_path, free_port, hurried=True) as made,
        listening(made.local.port, "a", "bal/#") as near,
    ):
        assert isinstance(made.local, support.Mosquitto)
        await support.freeze(made.local.pid)
        await put(made.remote.url, "platone/dsotp/x", *numbered(20))
        await eventually(lambda: not made.status("local")["connected"])
        os.kill(made.local.pid, signal.SIGCONT)
        await eventually(lambda: len(near.numbers()) == 20)
        assert near.numbers() == list(range(20))
        assert made.status("local")["sessions"] >= 2


async def test_a_source_that_hangs_is_noticed_without_any_message(
    tmp_path: Path, free_port: FreePort
) -> None:
    async with (
        pair(tmp_path, free_port, hurried=True) as made,
        listening(made.local.port, "a", "bal/#") as near,
    ):
        assert isinstance(made.remote, support.Mosquitto)
        await support.freeze(made.remote.pid)
        await eventually(lambda: not made.status("remote")["connected"])
        os.kill(made.remote.pid, signal.SIGCONT)
        await put(made.remote.url, "platone/dsotp/x", b"1")
        await eventually(lambda: near.numbers() == [1])


async def test_more_than_there_is_room_for_waits_at_the_source(
    tmp_path: Path, free_port: FreePort, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge_lane, "HELD_MAX", 40)
    async with pair(tmp_path, free_port, extra="max_inflight_messages 0") as made:
        async with listening(made.local.port, "a", "bal/#"):
            pass
        made.local.stop()
        await eventually(lambda: not made.status("local")["connected"])
        await put(made.remote.url, "platone/dsotp/x", *numbered(300))
        await eventually(lambda: made.status("in")["returned"] > 0)
        assert made.status("in")["held"] == 40
        await eventually(lambda: not made.status("remote")["connected"])
        made.local.start()
        await made.local.wait_ready()
        async with listening(made.local.port, "a", "bal/#") as near:
            await eventually(lambda: len(near.numbers()) == 300)
            assert near.numbers() == list(range(300))


async def test_retained_messages_stay_retained_and_their_end_too(
    tmp_path: Path, free_port: FreePort
) -> None:
    topics = (
        {"From": "keep/#", "To": "l/"},
        {"From": "always/#", "To": "l/", "Retain": "always"},
        {"From": "never/#", "To": "l/", "Retain": "never"},
    )
    async with pair(tmp_path, free_port, topics=topics) as made:
        for front, retain in (("keep", True), ("always", False), ("never", True)):
            await put(made.remote.url, f"{front}/{front}", b"state", retain=retain)
        await put(made.remote.url, "keep/live", b"event")
        await eventually(lambda: made.status("in")["forwarded"] == 4)
        async with listening(made.local.port, "a", "l/#") as near:
            assert sorted(near.lines) == [("l/always", "state", True), ("l/keep", "state", True)]
        await put(made.remote.url, "keep/keep", b"", retain=True)
        await eventually(lambda: made.status("in")["forwarded"] == 5)
        async with listening(made.local.port, "b", "l/#") as near:
            assert near.lines == [("l/always", "state", True)]


async def test_qos_0_goes_through_and_waits_for_nobody(tmp_path: Path, free_port: FreePort) -> None:
    topics = ({"From": "fast/#", "QoS": 0},)
    async with (
        pair(tmp_path, free_port, topics=topics) as made,
        listening(made.local.port, "a", "fast/#") as near,
    ):
        await put(made.remote.url, "fast/x", b"1")
        await eventually(lambda: near.numbers() == [1])


@pytest.mark.parametrize("limit", ["max_packet_size 5000", "message_size_limit 5000"])
async def test_a_message_that_the_destination_never_takes_is_given_up_and_counted(
    tmp_path: Path, free_port: FreePort, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    """The first limit is told when a session begins, the other one ends the session."""
    monkeypatch.setattr(bridge_lane, "GIVE_UP_NS", 0)
    monkeypatch.setattr(bridge_lane, "GIVE_UP_TRIES", 3)
    topics = ({"From": "site/#", "Direction": "out"},)
    async with (
        pair(tmp_path, free_port, topics=topics, extra=limit) as made,
        listening(made.remote.port, "a", "site/#") as far,
    ):
        await put(made.local.url, "site/x", b"1", b"x" * 6000, b"2", b"x" * 6000, b"3")
        await eventually(lambda: list(dict.fromkeys(far.payloads)) == ["1", "2", "3"])
        await eventually(lambda: made.status("out")["refused"] == 2)


async def test_a_message_that_would_take_all_memory_is_left_out(
    tmp_path: Path, free_port: FreePort, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge_session, "PACKET_BYTES_MAX", 10_000)
    async with (
        pair(tmp_path, free_port) as made,
        listening(made.local.port, "a", "bal/#") as near,
    ):
        await put(made.remote.url, "platone/dsotp/x", b"1", *[b"x" * 20_000] * 30, b"2")
        await eventually(lambda: near.payloads == ["1", "2"])
        assert made.status("remote")["sessions"] == 1


async def test_a_message_that_may_not_pass_yet_waits_and_says_why(
    tmp_path: Path, free_port: FreePort, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge_lane, "REFUSED_WAIT_S", 0.1)
    rights = tmp_path / "rights"
    rights.write_text("topic read #\n")
    rights.chmod(0o600)
    topics = ({"From": "site/#", "Direction": "out"},)
    async with pair(tmp_path, free_port, topics=topics, extra=f"acl_file {rights}") as made:
        await put(made.local.url, "site/x", b"1")
        await eventually(lambda: "0x87" in made.status("out")["problem"])
        assert made.status("out")["held"] == 1
        rights.write_text("topic readwrite #\n")
        assert isinstance(made.remote, support.Mosquitto)
        os.kill(made.remote.pid, signal.SIGHUP)
        await eventually(lambda: made.status("out")["forwarded"] == 1)
        assert made.status("out")["problem"] == ""


async def test_a_line_that_was_removed_brings_nothing_any_more(
    tmp_path: Path, free_port: FreePort
) -> None:
    topics = ({"From": "old/#", "To": "l/"}, {"From": "new/#", "To": "l/"})
    async with (
        pair(tmp_path, free_port, topics=topics) as made,
        listening(made.local.port, "a", "l/#") as near,
    ):
        await made.end()
        await put(made.remote.url, "old/x", b"1")
        made.topics = topics[1:]
        await made.start()
        await put(made.remote.url, "new/x", b"2")
        await eventually(lambda: made.status("in")["unknown"] == 1)
        await eventually(lambda: near.payloads == ["2"])


# ---------------------------------------------------------------- rings that no table shows


async def test_a_ring_of_two_bridges_is_cut_at_the_first_round(
    tmp_path: Path, free_port: FreePort
) -> None:
    topics = ({"From": "a/#", "To": "b/"},)
    async with (
        pair(tmp_path, free_port, topics=topics) as made,
        listening(made.local.port, "a", "b/#") as near,
    ):
        back = bridge_of(
            made.local.url,
            made.remote.url,
            {"From": "b/#", "To": "a/", "Direction": "out"},
            name="back",
        )
        async with support.running(back.run()):
            await eventually(lambda: back.status()["remote"]["connected"])
            await eventually(lambda: back.status()["local"]["connected"])
            await put(made.remote.url, "a/x", *numbered(5))
            await eventually(lambda: made.status("in")["looped"] == 5)
            assert near.numbers() == list(range(5))
            assert len(near.lines) == 5


async def test_a_ring_through_somebody_elses_bridge_is_found_and_emptied(
    tmp_path: Path, free_port: FreePort, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge_lane, "WATCH_S", 0.4)
    monkeypatch.setattr(bridge_guard, "REPEATS_MAX", 30)
    topics = ({"From": "a/#", "To": "b/"},)
    async with pair(tmp_path, free_port, topics=topics) as made:
        # mosquitto's own bridge brings b/ of the local broker back to a/ of the remote one.
        port = free_port()
        other = support.Mosquitto(port, tmp_path / "third", persistent=False)
        other.extra = (
            "allow_anonymous true\n"
            f"connection near\naddress 127.0.0.1:{made.local.port}\n"
            "topic # in 1 t/ b/\ncleansession false\nstart_type automatic\n"
            f"connection far\naddress 127.0.0.1:{made.remote.port}\n"
            "topic # out 1 t/ a/\ncleansession false\nstart_type automatic"
        )
        other.start()
        try:
            await other.wait_ready()
            async with listening(port, "a", "t/#") as third:
                while not third.lines:  # mosquitto connects its bridges when it likes
                    await put(made.remote.url, "a/ring", b"once")
                    await asyncio.sleep(0.2)
                await eventually(lambda: made.status("in")["looped"] >= 1)
                assert "went round" in made.status("in")["problem"]
                await asyncio.sleep(0.3)
                still = made.status("in")["received"]
                await asyncio.sleep(0.5)
                assert made.status("in")["received"] == still
                await put(made.remote.url, "a/fresh", b"2")
                await eventually(lambda: ("t/fresh", "2", False) in third.lines)
        finally:
            other.kill()


async def test_a_device_that_repeats_itself_fast_is_let_through(
    tmp_path: Path, free_port: FreePort, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge_lane, "WATCH_S", 0.2)
    monkeypatch.setattr(bridge_guard, "REPEATS_MAX", 20)
    topics = ({"From": "a/#", "To": "b/"},)
    async with (
        pair(tmp_path, free_port, topics=topics) as made,
        listening(made.local.port, "a", "b/#") as near,
    ):
        sent = 0

        async def repeat() -> None:
            nonlocal sent
            for _ in range(60):
                await put(made.remote.url, "a/x", b"1")
                sent += 1

        await repeat()
        await eventually(lambda: len(near.lines) >= sent)
        assert made.status("in")["looped"] == 0
