"""The inbox against one who owns the broker, and one who stole a service's key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sync.errors import StoreFailed
from sync.remote import inbox as module
from sync.remote import signed
from sync.remote.handled import Handled
from sync.remote.judge import SKEW_NS
from sync.store import salvage
from tests.sync.commanding import KEY, NOW, OTHER, Desk, S, entry, message, write_keys
from tests.sync.test_inbox import Stepping


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    made = Desk(tmp_path)
    await made.start()
    yield made
    await made.kill()


# ---------------------------------------------------------------- the stolen key


async def test_a_stolen_key_can_not_make_the_messages_of_others_late(desk: Desk) -> None:
    """It signs with the latest time that is taken, again and again, each a step ahead."""
    thief = entry(OTHER, "thief", Points=["Nothing.*"])
    write_keys(desk.folder / "site", entry(), thief)
    for number in range(1, 100):
        ahead = desk.clock.utc_ns() + SKEW_NS * number
        await desk.put(message(f"t{number}", ahead, key="thief", private=OTHER))
    await desk.put(message("c1", desk.clock.utc_ns()))
    assert desk.door.steps("c1") == ["taken"]
    await desk.kill()
    await desk.start()
    await desk.put(message("c2", desk.clock.utc_ns()))
    assert desk.door.steps("c2") == ["taken"]


async def test_a_stolen_key_that_hurries_leaves_the_others_their_turn(desk: Desk) -> None:
    write_keys(desk.folder / "site", entry(), entry(OTHER, "thief"))
    flood = [message(f"t{n}", key="thief", private=OTHER) for n in range(200)]
    await desk.put(*flood[:100], message("c1"), *flood[100:])
    assert desk.door.steps("c1") == ["taken"]


# ---------------------------------------------------------------- the broker


async def test_repetitions_take_nothing_of_what_a_key_is_allowed(desk: Desk) -> None:
    write_keys(desk.folder / "site", entry())
    first = message("c1")
    await desk.put(*[first] * 200)
    write_keys(desk.folder / "site", entry(Points=[]))
    refused = message("c2")
    await desk.put(*[refused] * 200)
    write_keys(desk.folder / "site", entry())
    await desk.put(*[message(f"new{n}") for n in range(int(module.ONE_KEY.burst) - 2)])
    assert len(desk.door.passed) == 1 + module.ONE_KEY.burst - 2


async def test_repeated_questions_keep_no_command_out(desk: Desk) -> None:
    question = message("q1", type=signed.QUERY, payload={"commands": []})
    await desk.put(*[question] * 200)
    await desk.put(message("c1"))
    assert desk.door.steps("c1") == ["taken"]


async def test_a_flood_that_never_ends_keeps_no_revocation_out(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = desk.inbox._handle
    rounds = 0

    async def flooded(batch: Sequence[tuple[str, bytes]]) -> None:
        nonlocal rounds
        rounds += 1
        await handle(batch)
        desk.clock.advance(S // 10)
        if rounds == 5:
            write_keys(desk.folder / "site", entry(Revoked="2026-01-01T00:00:00Z"))
        if rounds in (2, 30):
            desk.inbox.put("commands", message(f"c{rounds}", desk.clock.utc_ns()))
        if rounds < 40:
            desk.inbox.put("commands", b"nonsense")

    monkeypatch.setattr(desk.inbox, "_handle", flooded)
    desk.inbox.put("commands", b"nonsense")
    await desk.inbox.idle()
    assert [m["command"]["id"] for m in desk.door.passed] == ["c2/1"]


async def test_what_waits_is_bounded_in_bytes(desk: Desk) -> None:
    for _ in range(100):
        desk.inbox.put("commands", bytes(5_000_000))
    assert desk.inbox._queued_bytes <= module.QUEUE_BYTES_MAX
    assert sum(len(data) for _, data in desk.inbox._long) == desk.inbox._queued_bytes
    await desk.inbox.idle()
    assert desk.inbox._queued_bytes == 0
    assert desk.inbox.status()["refused"] == 100
    assert "786432 are allowed" in desk.door.reasons()[0]


async def test_long_messages_keep_no_short_one_waiting(desk: Desk) -> None:
    long = [message(f"s{n}", source="x", payload=["y" * 100_000]) for n in range(20)]
    await desk.put(*long, message("c1"))
    assert [b["command"] for b in desk.door.journaled][:2] == ["c1", "s0"]


async def test_a_schedule_without_a_name_is_refused(desk: Desk) -> None:
    slots = {"Battery.Power": [[NOW, 1.0]]}
    for number, name in enumerate((None, 5, "", ["day"])):
        payload: dict[str, Any] = {"kind": "day-ahead", "points": slots}
        payload |= {"schedule": name, "end_utc_ns": NOW + 900 * S}
        sent = message(f"s{number}", type="schedule", payload=payload)
        await desk.put(sent, channel="schedule")
    assert desk.door.passed == []
    assert len(desk.door.reasons()) == 4


# ---------------------------------------------------------------- floods


async def test_a_flood_of_forged_messages_is_a_few_events_and_a_count(desk: Desk) -> None:
    for number in range(40):
        await desk.put(*[message(f"f{number}-{n}", private=OTHER) for n in range(50)])
        await desk.tick(0.5)
    await desk.tick(20)
    told = desk.door.journaled
    assert len(told) < 45  # of 2,000 in 20 s
    counted = sum(body.get("count", 1) for body in told)
    assert counted == 2_000 == desk.inbox.status()["refused"]
    assert "x the signature is not that of the key 'market'" in told[-1]["reason"]
    await desk.put(message("c1", desk.clock.utc_ns()))  # an honest one is not kept out
    assert len(desk.door.passed) == 1
    assert desk.door.published == desk.door.journaled


async def test_more_than_can_wait_is_refused(desk: Desk) -> None:
    await desk.put(*[b"x"] * (module.QUEUE_MAX + 10))
    await desk.tick(11)
    assert "10 x more messages at once than can wait" in desk.door.reasons()[-1]


async def test_a_key_that_hurries_is_held_back(desk: Desk) -> None:
    await desk.put(*[message(f"c{n}") for n in range(200)])
    assert len(desk.door.passed) == module.ONE_KEY.burst
    await desk.tick(11)
    late = desk.door.journaled[-1]
    assert (late["key"], late["count"]) == (KEY, 150)


# ---------------------------------------------------------------- clocks


async def test_a_clock_that_a_restart_has_lost_takes_nothing(tmp_path: Path) -> None:
    """What was held back would be in time for ever, for the newest signed time stands still."""
    clock = Stepping(NOW - S)
    desk = Desk(tmp_path, clock)
    await desk.start()
    await desk.put(message("c1"))
    held_back = message("late")
    await desk.kill()
    clock.set(10**9)
    site = desk.folder / "site"
    desk.inbox = module.Inbox("lab", site, tmp_path / "inbox.sqlite", 600 * S, clock, desk.door)
    desk._task = asyncio.create_task(desk.inbox.run())
    await desk.put(held_back)
    assert "this gateway's clock is not set" in desk.door.reasons()[-1]
    await desk.kill()
    assert len(desk.door.passed) == 1


# ---------------------------------------------------------------- the file of ids


async def test_nothing_runs_before_it_is_on_the_disk_from_when_on_ids_are_kept(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.put(message("c1"))
    await desk.kill()
    damage(desk.folder)

    def refused(self: Handled, since_ns: int) -> None:
        raise StoreFailed("inbox: the disk does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(Handled, "set_since", refused)
        await desk.start()
        await desk.put(message("c1"))
        assert not desk.inbox.remembers
    assert [m["command"]["id"] for m in desk.door.passed] == ["c1/1"]
    await desk.tick(1)
    assert desk.inbox.remembers


def test_a_file_that_was_set_aside_is_known_in_the_next_life(tmp_path: Path) -> None:
    path = tmp_path / "inbox.sqlite"
    Handled(path).close()
    damage(tmp_path)
    book = Handled(path)
    assert book.lost
    book.close()  # killed before anybody has set its beginning
    book = Handled(path)
    assert book.lost
    book.set_since(NOW)
    book.close()
    assert not Handled(path).lost


def test_what_is_set_aside_stays_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a power cut brings the damaged file back, and what was taken meanwhile is forgotten."""
    path = tmp_path / "inbox.sqlite"
    Handled(path).close()
    damage(tmp_path)
    synced: list[Path] = []
    monkeypatch.setattr(salvage, "sync_folder", synced.append)
    Handled(path).close()
    assert synced == [tmp_path]


def damage(folder: Path) -> None:
    path = folder / "inbox.sqlite"
    path.write_bytes(b"not a database" * 1000)
    for end in ("-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)
