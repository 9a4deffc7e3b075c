"""The inbox: at most once over restarts and kills; refusals, floods, clocks, disks."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.core.clock import ManualClock
from gateway.core.schedule import unpack_schedule
from sync.errors import StoreDamaged, StoreFull
from sync.remote import inbox as module
from sync.remote import signed
from sync.remote.handled import IDS_PER_KEY_MAX, Handled
from sync.remote.inbox import NotPassedOn
from sync.remote.judge import DOUBT_NS
from sync.remote.orders import New
from tests.sync.commanding import (
    KEY,
    NOW,
    OTHER,
    PRIVATE,
    SITE,
    WRITE,
    Desk,
    entry,
    envelope,
    message,
    write_keys,
)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    made = Desk(tmp_path)
    await made.start()
    yield made
    await made.kill()


# ---------------------------------------------------------------- the good way


async def test_a_command_is_taken_and_passed_on_once(desk: Desk) -> None:
    await desk.put(message("c1"))
    (passed,) = desk.door.passed
    assert passed["type"] == "command"
    assert passed["command"] == {
        "id": "c1/1",
        "tag": "Battery.Power",
        "value": 5.0,
        "origin": "remote",
        "lease_ns": 60 * 10**9,
        "expires_ns": NOW + 60 * 10**9,
        "release": False,
        "source": "market: bidding",
        "action": "write",
        "comment": "",
        "seen_utc_ns": 0,
    }
    (taken,) = desk.door.journaled
    assert taken == desk.door.published[0]
    wanted = {"command": "c1", "step": "taken", "key": KEY, "source": "bidding", "by": "inbox"}
    assert wanted.items() <= taken.items()
    assert (taken["tag"], taken["value"], taken["type"]) == ("Battery.Power", 5.0, "command")


async def test_several_writes_have_an_id_each(desk: Desk) -> None:
    writes = [dict(WRITE, value=n) for n in range(3)]
    await desk.put(message("c1", payload=writes))
    assert [m["command"]["id"] for m in desk.door.passed] == ["c1/1", "c1/2", "c1/3"]
    assert desk.door.journaled[0]["tags"] == ["Battery.Power"] * 3


async def test_a_schedule_belongs_to_the_service_of_its_key(desk: Desk) -> None:
    slots = {"Battery.Power": [[NOW, 1.0], [NOW + 900 * 10**9, 2.0]]}
    payload: dict[str, Any] = {"schedule": "day", "kind": "day-ahead", "points": slots}
    payload["end_utc_ns"] = NOW + 1800 * 10**9
    await desk.put(message("s1", type="schedule", payload=payload), channel="schedule")
    (passed,) = desk.door.passed
    schedule = unpack_schedule(passed["schedule"])
    assert (schedule.id, schedule.name, schedule.source) == ("s1", "market/day", "market: bidding")
    assert list(schedule.points["Battery.Power"].values) == [1.0, 2.0]
    await desk.answer("s1", "accepted")
    assert desk.door.published[-1]["step"] == "accepted"


async def test_receipts_of_the_field_process_are_published_at_once(desk: Desk) -> None:
    await desk.put(message("c1"))
    for step in ("accepted", "driven", "verified"):
        await desk.answer("c1/1", step)
    assert [b["step"] for b in desk.door.published] == ["taken", "accepted", "driven", "verified"]
    await desk.answer("somebody-elses/1", "verified")
    assert len(desk.door.published) == 4


# ---------------------------------------------------------------- at most once


async def test_a_duplicate_is_refused_and_says_what_became_of_the_first(desk: Desk) -> None:
    await desk.put(message("c1"))
    await desk.answer("c1/1")
    await desk.put(message("c1"), message("c1", source="somebody else"))
    assert len(desk.door.passed) == 1
    assert desk.door.steps("c1") == ["taken", "refused", "refused"]
    repetition = desk.door.journaled[-1]
    assert repetition["repeated"]
    assert repetition["reason"] == "a repetition: its id was passed 0 s ago (accepted)"


async def test_two_of_a_kind_in_one_batch_run_once(desk: Desk) -> None:
    await desk.put(message("c1"), message("c1"))
    assert len(desk.door.passed) == 1


async def test_a_restart_forgets_nothing(desk: Desk) -> None:
    await desk.put(message("c1"))
    await desk.answer("c1/1")
    await desk.kill()
    await desk.start()
    await desk.put(message("c1"))
    assert len(desk.door.passed) == 1
    assert desk.door.steps("c1") == ["taken", "refused"]


async def test_the_id_is_durable_before_anything_is_passed_on(desk: Desk) -> None:
    held: list[list[Any]] = []
    passing = desk.door.pass_on

    async def look(sent: Any) -> None:
        with sqlite3.connect(desk.folder / "inbox.sqlite") as other:
            held.append(other.execute("SELECT id, state FROM ids").fetchall())
        other.close()
        await passing(sent)

    desk.door.pass_on = look  # type: ignore[method-assign]
    await desk.put(message("c1"))
    assert held == [[("c1", "taken")]]


async def test_a_kill_between_taking_and_passing_on_is_told_and_never_made_good(desk: Desk) -> None:
    passing = desk.door.pass_on

    async def hang(sent: Any) -> None:
        await asyncio.Event().wait()

    desk.door.pass_on = hang  # type: ignore[method-assign]
    desk.inbox.put("commands", message("c1"))
    async with asyncio.timeout(10):
        while not desk.door.journaled:
            await asyncio.sleep(0.001)
    await desk.kill()
    desk.door.pass_on = passing  # type: ignore[method-assign]
    await desk.start()
    await desk.tick(module.RESTART_ANSWER_NS / 1e9 + 1)
    assert desk.door.steps("c1") == ["taken", "failed"]
    assert "perhaps it was passed on, and it is not sent again" in desk.door.reasons("failed")[0]
    await desk.put(message("c1", desk.clock.utc_ns() - 10**9))
    assert desk.door.passed == []


async def test_what_the_resumed_stream_answers_is_no_failure(desk: Desk) -> None:
    await desk.put(message("c1"))
    await desk.kill()
    await desk.start()
    await desk.answer("c1/1")
    await desk.tick(module.RESTART_ANSWER_NS / 1e9 + 1)
    assert desk.door.steps("c1") == ["taken"]


async def test_no_field_process_no_command(desk: Desk) -> None:
    desk.door.ready = False
    await desk.put(message("c1"))
    desk.door.ready = True
    await desk.put(message("c1"))
    assert desk.door.passed == []
    assert desk.door.reasons()[0] == "the field process is not running"
    assert "a repetition" in desk.door.reasons()[1]


async def test_a_stream_that_breaks_is_told(desk: Desk) -> None:
    desk.door.fault = NotPassedOn("perhaps not passed on: the field process closed")
    await desk.put(message("c1"))
    assert desk.door.steps("c1") == ["taken", "failed"]
    assert desk.door.journaled[-1]["command"] == "c1/1"
    desk.door.fault = None
    await desk.put(message("c1"))
    assert desk.door.passed == []


async def test_no_answer_of_the_field_process_is_told(desk: Desk) -> None:
    await desk.put(message("c1", payload=[dict(WRITE), dict(WRITE)]))
    await desk.answer("c1/2")
    await desk.tick(module.ANSWER_NS / 1e9 + 1)
    assert [b["command"] for b in desk.door.journaled] == ["c1", "c1/1"]
    assert "the field process did not answer" in desk.door.reasons("failed")[0]


# ---------------------------------------------------------------- refusals

FORGED = {
    "not msgpack": (b"\xc1", "no signed message"),
    "unknown key": (message(key="nobody"), "keys.json has no key 'nobody'"),
    "signed by another": (message(private=OTHER), "the signature is not that of the key 'market'"),
    "altered": (message().replace(b"Power", b"Brake"), "the signature is not that of the key"),
    "cut off": (message()[:-1], "no signed message"),
    "a body that is none": (signed.sign(b"", "nobody", PRIVATE), "keys.json has no key"),
}


@pytest.mark.parametrize("name", FORGED)
async def test_what_nobody_has_signed_is_refused(desk: Desk, name: str) -> None:
    payload, reason = FORGED[name]
    await desk.put(payload)
    (receipt,) = desk.door.journaled
    assert desk.door.published == [receipt]
    assert reason in receipt["reason"]
    assert receipt["step"] == "refused"
    assert receipt["command"] == ""  # nobody may take it for the receipt of his command
    assert desk.door.passed == []
    await desk.put(message())  # and his id is not spoilt
    assert len(desk.door.passed) == 1


LATER = NOW + 3600 * 10**9
SIGNED: dict[str, tuple[dict[str, Any], str]] = {
    "another site": ({"destination": "harbour"}, "addressed to 'harbour'"),
    "expired": ({"now_ns": NOW - 61 * 10**9}, "expired 1 s ago"),
    "too long a life": ({"expires_ns": LATER}, "it lives 3600 s; Commands.ExpiresMax is 600 s"),
    "the future": ({"now_ns": NOW + 61 * 10**9}, "issued 61 s ahead of this gateway's clock"),
    "wrong topic": ({"type": "schedule"}, "a schedule does not come on the topic 'commands'"),
    "foreign point": ({"payload": dict(WRITE, tag="Feeder.Breaker")}, "may not set Feeder.Breaker"),
    "no payload": ({"payload": None}, "a write is a map"),
}


@pytest.mark.parametrize("name", SIGNED)
async def test_what_may_not_be_is_refused(desk: Desk, name: str) -> None:
    other, reason = SIGNED[name]
    await desk.put(message("c1", **other))
    (receipt,) = desk.door.journaled
    assert receipt["command"] == "c1" and receipt["step"] == "refused"
    assert reason in receipt["reason"]
    assert receipt["key"] == KEY and receipt["source"] == "bidding"
    assert desk.door.passed == []


async def test_a_type_that_the_key_may_not_send(desk: Desk) -> None:
    write_keys(desk.folder / "site", entry(Types=["schedule"]))
    await desk.put(message("c1"))
    assert desk.door.reasons() == ["the key 'market' may not send a command"]


async def test_what_was_refused_does_not_run_when_it_is_repeated(desk: Desk) -> None:
    write_keys(desk.folder / "site", entry(Points=[]))
    await desk.put(message("c1"))
    write_keys(desk.folder / "site", entry())
    await desk.kill()
    await desk.start()
    await desk.put(message("c1"))
    assert desk.door.passed == []


async def test_a_revocation_needs_no_restart(desk: Desk) -> None:
    await desk.put(message("c1"))
    write_keys(desk.folder / "site", entry(Revoked="2026-01-01T00:00:00Z"))
    await desk.put(message("c2"))
    assert len(desk.door.passed) == 1
    assert desk.door.reasons() == ["the key was revoked 2026-01-01T00:00:00Z"]


async def test_a_rotation_has_an_overlap(desk: Desk) -> None:
    first = entry(NotAfter="2026-02-06T00:00:00Z")  # a day after NOW
    second = entry(OTHER, "market-2", Service="market", NotBefore="2026-02-01T00:00:00Z")
    write_keys(desk.folder / "site", first, second)
    await desk.put(message("c1"), message("c2", key="market-2", private=OTHER))
    assert len(desk.door.passed) == 2
    desk.clock.advance(2 * 86_400 * 10**9)
    now = desk.clock.utc_ns()
    await desk.put(message("c3", now), message("c4", now, key="market-2", private=OTHER))
    assert [m["command"]["id"] for m in desk.door.passed] == ["c1/1", "c2/1", "c4/1"]
    assert desk.door.reasons() == ["the key has ended 2026-02-06T00:00:00Z"]


async def test_a_damaged_key_file_lets_nobody_in(desk: Desk) -> None:
    (desk.folder / "site" / "keys.json").write_text('{"Keys": [', encoding="utf-8")
    await desk.put(message("c1"))
    assert desk.door.passed == []
    assert "keys.json can't be used, so no key counts" in desk.door.reasons()[0]
    assert "keys.json" in desk.inbox.status()["fault"]


# ---------------------------------------------------------------- clocks


async def test_an_unset_clock_takes_nothing(tmp_path: Path) -> None:
    desk = Desk(tmp_path, ManualClock(10**9))
    desk.clock.advance(0)
    site = desk.folder / "site"
    desk.inbox = module.Inbox(SITE, site, tmp_path / "i", 600 * 10**9, desk.clock, desk.door)
    task = asyncio.create_task(desk.inbox.run())
    await desk.put(message("c1"))
    assert "this gateway's clock is not set" in desk.door.reasons()[0]
    assert not desk.inbox.remembers
    desk.clock.advance(NOW - 10**9 - desk.clock.utc_ns())
    await desk.tick(1)
    await desk.put(message("c2"))
    assert [m["command"]["id"] for m in desk.door.passed] == ["c2/1"]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


class Stepping(ManualClock):
    """A clock whose wall time can be set."""

    def set(self, utc_ns: int) -> None:
        self._utc_ns = utc_ns


async def test_a_clock_that_steps_back_revives_nothing(tmp_path: Path) -> None:
    clock = Stepping(NOW - 10**9)
    desk = Desk(tmp_path, clock)
    await desk.start()
    held_back = message("late")
    await desk.tick(70)
    clock.set(NOW + 10 * 10**9)  # a minute back; by this clock it has not expired
    await desk.put(held_back)
    assert "expired" in desk.door.reasons()[0]
    await desk.tick(DOUBT_NS / 1e9 + 1)
    assert desk.door.passed == []
    fresh = message("fresh", clock.utc_ns())
    await desk.put(fresh)
    assert len(desk.door.passed) == 1
    await desk.kill()


async def test_a_signed_time_bounds_the_clock_over_a_restart(tmp_path: Path) -> None:
    clock = Stepping(NOW - 10**9)
    desk = Desk(tmp_path, clock)
    await desk.start()
    held_back = message("late")
    await desk.tick(120)
    await desk.put(message("c1", clock.utc_ns()))
    await desk.kill()
    clock.set(NOW + 10**9)
    await desk.start()
    await desk.put(held_back)
    assert "expired" in desk.door.reasons()[-1]
    assert len(desk.door.passed) == 1
    await desk.kill()


async def test_ids_that_went_make_no_room_for_a_replay(tmp_path: Path) -> None:
    clock = Stepping(NOW - 10**9)
    desk = Desk(tmp_path, clock)
    await desk.start()
    recorded = message("c1")
    await desk.put(recorded)
    await desk.answer("c1/1")
    clock.set(NOW + 30 * 86_400 * 10**9)  # a month ahead, by mistake
    await desk.put(message("c2", clock.utc_ns()))  # whoever sends then purges what is old
    await desk.kill()
    book = Handled(tmp_path / "inbox.sqlite")
    assert book.find(["c1"]) == {}
    book.close()
    clock.set(NOW + 5 * 10**9)
    await desk.start()
    await desk.put(recorded)
    assert [m["command"]["id"] for m in desk.door.passed] == ["c1/1", "c2/1"]
    await desk.kill()


# ---------------------------------------------------------------- disks


async def test_a_full_disk_refuses_with_a_receipt(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Handled, *arguments: Any) -> None:
        raise StoreFull("inbox: the disk is full: free space")

    with monkeypatch.context() as patch:
        patch.setattr(Handled, "admit", full)
        await desk.put(message("c1"))
    assert desk.door.passed == []
    assert "its id can't be kept, so it is not carried out" in desk.door.reasons()[0]
    assert "the disk is full" in desk.inbox.status()["fault"]
    await desk.put(message("c1"))  # room again: what was refused stays refused
    assert desk.door.passed == []
    await desk.put(message("c2"))
    assert len(desk.door.passed) == 1
    assert desk.inbox.status()["fault"] == ""


async def test_a_damaged_file_is_set_aside_and_nothing_older_runs(desk: Desk) -> None:
    await desk.put(message("c1"))
    await desk.answer("c1/1")
    await desk.kill()
    path = desk.folder / "inbox.sqlite"
    path.write_bytes(b"not a database" * 1000)
    for end in ("-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)
    await desk.start()
    await desk.put(message("c1"))
    assert len(desk.door.passed) == 1
    assert desk.door.reasons()[-1] == "issued before this gateway began to remember ids"
    assert path.with_name("inbox.sqlite.damaged-1").exists()
    await desk.tick(61)
    await desk.put(message("c2", desk.clock.utc_ns()))
    assert len(desk.door.passed) == 2


async def test_a_file_that_can_not_grow_refuses_and_goes_on_when_it_can(desk: Desk) -> None:
    """SQLite's own full disk, not a staged one."""
    await desk.put(message("first"))
    assert desk.inbox._book is not None and desk.inbox._book._conn is not None
    conn = desk.inbox._book._conn
    (pages,) = conn.execute("PRAGMA page_count").fetchone()
    conn.execute(f"PRAGMA max_page_count = {pages}")
    for number in range(45):
        await desk.put(message(f"{'c' * 60}{number}"))
    full = [reason for reason in desk.door.reasons() if "the disk is full" in reason]
    assert full and len(desk.door.passed) == 46 - len(full)
    conn.execute("PRAGMA max_page_count = 1000000")
    await desk.put(message("again"))
    assert desk.door.passed[-1]["command"]["id"] == "again/1"
    await desk.put(message(f"{'c' * 60}44"))
    assert len(desk.door.passed) == 47 - len(full)  # what was refused stays refused


async def test_damage_under_way_is_noticed_and_nothing_older_runs(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.put(message("c1"))

    def damaged(self: Handled, *arguments: Any) -> None:
        for end in ("", "-wal", "-shm"):  # the open ones would be written back at the closing
            self.path.with_name(self.path.name + end).unlink()
        self.path.write_bytes(b"not a database" * 1000)
        raise StoreDamaged("inbox: it is damaged")

    with monkeypatch.context() as patch:
        patch.setattr(Handled, "admit", damaged)
        await desk.put(message("c2"))
    await desk.tick(module.OPEN_RETRY_NS / 1e9)
    await desk.put(message("c1"), message("c2"), message("c3"))
    assert [m["command"]["id"] for m in desk.door.passed] == ["c1/1"]
    await desk.tick(61)
    await desk.put(message("c4", desk.clock.utc_ns()))
    assert [m["command"]["id"] for m in desk.door.passed] == ["c1/1", "c4/1"]


async def test_the_file_is_bounded(tmp_path: Path) -> None:
    book = Handled(tmp_path / "inbox.sqlite")
    entries = [_one(n).entry(NOW) for n in range(IDS_PER_KEY_MAX + 10)]
    found = book.admit(entries, NOW, NOW)
    assert [a.new for a in found].count(False) == 10
    later = NOW + 120 * 10**9
    (again,) = book.admit([_one(IDS_PER_KEY_MAX + 11, later).entry(later)], later, later)
    assert again.new
    assert book.floor_ns == NOW + 60 * 10**9
    book.close()


def _one(number: int, now_ns: int = NOW) -> Any:
    key = module.judge.Verdict(
        KEY, envelope(f"c{number}", now_ns), _KEY, "", ("Battery.Power",), current=True
    )
    return New(key, "refused, so that it may go")


def _command_key() -> Any:
    from config.command_keys import parse_keys

    return parse_keys({"Keys": [entry(PRIVATE)]})[0][KEY]


_KEY = _command_key()


# ---------------------------------------------------------------- questions


async def test_a_query_tells_what_became_of_messages(desk: Desk) -> None:
    await desk.put(message("c1"))
    await desk.answer("c1/1", "refused", "outside 0 to 100 kW")
    ask = {"commands": ["c1", "never-came"]}
    await desk.put(message("q1", type=signed.QUERY, payload=ask))
    told = {b["command"]: b for b in desk.door.published if b.get("answers") == "q1"}
    assert told["c1"]["step"] == "passed"
    assert told["c1"]["reason"] == "refused outside 0 to 100 kW"
    assert told["never-came"]["step"] == "unknown"
    assert len(desk.door.journaled) == 1  # the answers are no events
