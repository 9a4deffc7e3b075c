"""The local stream over a real Unix socket: birth, resume, gaps, tools, bad clients."""

from __future__ import annotations

import asyncio
import contextlib
import math
import struct
from collections.abc import AsyncIterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgpack
import pytest
import uvloop

from gateway import local_server
from gateway.commands import Commands
from gateway.core.clock import SystemClock
from gateway.core.records import Birth, Command, unpack_batch
from gateway.core.table import PointTable
from gateway.journal import Journal
from gateway.local import REQUEST_BYTES_MAX, LocalClient, LocalError, packed_map, send, send_parts
from gateway.local_server import LINK_SILENT_S, LocalServer
from tests.gateway.points import land, output, point
from tests.gateway.sites import eventually


class LeapClock(SystemClock):
    """The machine's clock, and a hand that moves it on."""

    leap_ns = 0

    def monotonic_ns(self) -> int:
        return super().monotonic_ns() + self.leap_ns


class World:
    """A journal behind a local server, and a clock hand that makes records."""

    def __init__(self, folder: Path) -> None:
        self.clock = LeapClock()
        self.points = (point(1), output(2))
        self.table = PointTable(self.points)
        self.journal = Journal(self.points, 5, "h" * 16, ring_records_max=1000)
        self.commands = Commands(self.points, self._event)
        self.path = folder / "field.sock"
        birth = Birth("site", 5, 0, "h" * 16, "c" * 16, 1, tuple(asdict(p) for p in self.points))
        self.server = LocalServer(
            self.path,
            birth,
            [[3, 0], [4, 77]],
            self.table,
            self.journal,
            self.commands,
            lambda scans: {"site": "site"},
            self.clock,
        )
        self.step = 0

    def _event(self, body: Any) -> None:
        self.journal.event("receipt", body, 1)

    def record(self, count: int = 1) -> None:
        for _ in range(count):
            self.step += 1
            land(self.table, 1, float(self.step), self.step)
            self.journal.report(self.table, self.step)

    async def link(self, cursor: list[int] | None) -> LocalClient:
        client = LocalClient(self.path)
        await client.connect()
        await client.send({"type": "hello", "role": "link", "cursor": cursor})
        return client


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A world whose server runs."""
    made = World(tmp_path)
    await made.server.start()
    yield made
    await made.server.stop()


async def numbers(client: LocalClient, last: int) -> list[int]:
    """Every number up to `last` that the client gets, gaps included."""
    seen: list[int] = []
    async with asyncio.timeout(10):
        while not seen or max(seen) < last:
            message = await client.receive()
            if message["type"] == "data":
                batch = unpack_batch(message["batch"])
                seen += [int(s) for s in batch.records["seq"]] + [e.seq for e in batch.events]
                for gap in batch.gaps:
                    seen += range(gap.first, gap.last + 1)
    return sorted(seen)


def framed(message: dict[str, Any]) -> bytes:
    """A message as it crosses the socket."""
    data = msgpack.packb(message)
    return struct.pack(">I", len(data)) + data


async def until_closed(client: LocalClient) -> None:
    """Read until the other side ends it."""
    async with asyncio.timeout(10):
        while True:
            await client.receive()


async def test_a_new_link_gets_the_birth_and_everything_from_the_start(world: World) -> None:
    world.record(20)
    client = await world.link(None)
    message = await client.receive()
    assert message["type"] == "birth"
    assert message["past"] == [[3, 0], [4, 77]]
    assert len(message["birth"]["points"]) == 2
    assert await numbers(client, world.journal.last) == list(range(1, world.journal.last + 1))
    await client.close()


async def test_a_link_resumes_behind_its_cursor(world: World) -> None:
    world.record(20)
    client = await world.link([5, 15])
    assert await numbers(client, world.journal.last) == list(range(16, world.journal.last + 1))
    await client.close()


async def test_a_cursor_of_another_epoch_counts_for_nothing(world: World) -> None:
    world.record(3)
    client = await world.link([4, 2])
    assert (await numbers(client, world.journal.last))[0] == 1
    await client.close()


async def test_records_made_while_connected_follow_without_a_hole(world: World) -> None:
    client = await world.link(None)
    seen: list[int] = []
    for _ in range(5):
        world.record(10)
        seen += await numbers(client, world.journal.last)
    assert seen == list(range(1, world.journal.last + 1))
    await client.close()


async def test_a_link_that_was_away_too_long_gets_a_declared_gap(world: World) -> None:
    world.record(3000)
    client = await world.link([5, 10])
    assert await numbers(client, world.journal.last) == list(range(11, world.journal.last + 1))
    await client.close()


async def test_a_newer_link_replaces_an_older_one(world: World) -> None:
    old = await world.link(None)
    await old.receive()
    new = await world.link(None)
    with pytest.raises(LocalError):
        await until_closed(old)
    assert (await new.receive())["type"] == "birth"
    assert world.server.link_connected
    await old.close()
    await new.close()


async def test_what_the_link_holds_durably_is_known(world: World) -> None:
    world.record(5)
    client = await world.link(None)
    await client.receive()
    await client.send({"type": "taken", "epoch": 5, "seq": 4})
    await client.send({"type": "taken", "epoch": 4, "seq": 99})  # another life: ignored
    await client.send({"type": "health", "backlog": 3})
    async with asyncio.timeout(10):
        while not world.server.health:
            await asyncio.sleep(0.005)
    assert world.server.taken == 4
    await client.close()


async def test_a_tool_reads_points_and_is_told_about_unknown_ones(world: World) -> None:
    world.record()
    client = LocalClient(world.path)
    await client.connect()
    answer = await client.request({"type": "read", "tags": ["Dev.Value"]})
    assert answer["points"][0]["value"] == 1.0
    assert len((await client.request({"type": "read", "tags": []}))["points"]) == 2
    with pytest.raises(LocalError, match=r"no such point: Dev\.Nothing"):
        await client.request({"type": "read", "tags": ["Dev.Nothing"]})
    await client.close()


async def test_no_events_behind_a_number_end_there(world: World) -> None:
    for step in ("accepted", "verified"):
        world.journal.event("receipt", {"step": step}, 1)
    client = LocalClient(world.path)
    await client.connect()
    answer = await client.request({"type": "events", "after": 1, "count": 0})
    assert (answer["events"], answer["last"]) == ([], 1)
    await client.close()


async def test_a_refused_command_is_answered_with_its_reason(world: World) -> None:
    client = LocalClient(world.path)
    await client.connect()
    command = asdict(Command("id-1", "Dev.Value", 3.0))
    receipts = [r async for r in client.command(command)]
    assert [(r["step"], r["reason"]) for r in receipts] == [
        ("refused", "the point is read only (ReadWrite)")
    ]
    await client.close()


async def test_a_commands_receipts_come_until_it_is_verified(world: World) -> None:
    client = LocalClient(world.path)
    await client.connect()

    async def field() -> None:
        """What scan and poll do, for one output."""
        while True:
            await asyncio.sleep(0.005)
            now_ns = SystemClock().monotonic_ns()
            for write in world.commands.arbitrate({}, world.table.rows, now_ns):
                world.commands.written(2, write.value, now_ns)
                land(world.table, 2, write.value, now_ns)

    task = asyncio.create_task(field())
    receipts = [r async for r in client.command(asdict(Command("id-1", "Dev.Out", 3.0)))]
    task.cancel()
    assert [r["step"] for r in receipts] == ["accepted", "driven", "verified"]
    await client.close()


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x00\x00\x05hello",
        b"\xff\xff\xff\xff",
        struct.pack(">I", 1) + b"\x90",
        framed({"type": "dance"}),
        struct.pack(">I", 200) + b"short",
        b"\x00",
        framed({"type": "read", "tags": 5}),
        framed({"type": "read", "tags": [[]]}),
        framed({"type": "events", "kind": ["trip"]}),
        framed({"type": "events", "kind": {}}),
        framed({"type": "events", "count": "all"}),
        framed({"type": "status", "scans": -1}),
        framed({"type": "status", "scans": "all"}),
        framed({"type": "status", "scans": 1.5}),
        framed({"type": "hello", "cursor": 5}),
        framed({"type": "hello", "cursor": ["a", "b"]}),
        framed({"type": "hello", "cursor": [5, -1]}),
        framed({"type": "hello", "cursor": [5, 10**6]}),
        framed({"type": "hello"}) + framed({"type": "taken", "epoch": 5}),
        framed({"type": "hello"}) + framed({"type": "health", "backlog": "much"}),
        framed({"type": "hello"}) + framed({"type": "command"}),
    ],
)
async def test_a_client_that_breaks_the_form_is_sent_away_and_others_are_served(
    world: World, data: bytes
) -> None:
    reader, writer = await asyncio.open_unix_connection(str(world.path))
    writer.write(data)
    writer.write_eof()
    async with asyncio.timeout(10):
        said = await reader.read()
    writer.close()
    if data != b"\x00":
        assert b"\xa5error" in said  # msgpack of "error"
    client = LocalClient(world.path)
    await client.connect()
    assert (await client.request({"type": "status"}))["status"] == {"site": "site"}
    await client.close()


async def test_a_command_of_the_wrong_form_is_an_error_not_a_crash(world: World) -> None:
    whole = {"id": "x", "tag": "Dev.Out", "value": 1.0}
    for bad in (
        {},
        {"id": "x"},
        {"nothing": 1},
        whole | {"value": "hot"},
        whole | {"lease_ns": math.inf},
        whole | {"source": "x" * 10_000},
        whole | {"action": "x" * 10_000},
        whole | {"comment": "x" * 10_000},
        whole | {"action": 5},
        whole | {"action": None},
        whole | {"comment": ["why"]},
        whole | {"comment": {}},
    ):
        client = LocalClient(world.path)
        await client.connect()
        with pytest.raises(LocalError, match="not a command"):
            await anext(client.command(bad))
        await client.close()


async def test_an_action_that_nobody_knows_is_refused(world: World) -> None:
    client = LocalClient(world.path)
    await client.connect()
    command = asdict(Command("id-1", "Dev.Out", 1.0, action="dance", comment="why not"))
    receipts = [r async for r in client.command(command)]
    assert [(r["step"], r["reason"]) for r in receipts] == [
        ("refused", "Dev.Out knows no action 'dance'")
    ]
    await client.close()


async def test_nobody_listening_is_said_clearly(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="no gateway is running"):
        await LocalClient(tmp_path / "nothing.sock").connect()


async def test_only_the_own_user_may_connect(world: World) -> None:
    assert world.path.stat().st_mode & 0o777 == 0o600


async def test_a_message_that_would_keep_the_loop_busy_is_refused_unread(world: World) -> None:
    reader, writer = await asyncio.open_unix_connection(str(world.path))
    writer.write(struct.pack(">I", REQUEST_BYTES_MAX + 1))
    async with asyncio.timeout(10):
        assert b"longer than" in await reader.read()
    writer.close()


async def test_a_client_that_says_nothing_does_not_keep_its_place(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_server, "FIRST_WORD_S", 0.05)
    reader, writer = await asyncio.open_unix_connection(str(world.path))
    async with asyncio.timeout(10):
        assert b"nothing was asked" in await reader.read()
    writer.close()


async def test_the_health_of_a_link_ends_with_it(world: World) -> None:
    client = await world.link(None)
    await client.receive()
    await client.send({"type": "health", "backlog": 3})
    await eventually(lambda: world.server.health.get("backlog") == 3)
    await client.close()
    await eventually(lambda: not world.server.health)
    assert not world.server.link_connected
    again = await world.link(None)
    await again.receive()
    assert world.server.link_connected
    assert not world.server.health  # what the link before it said does not count
    await again.close()


async def test_a_link_that_hangs_is_not_connected_and_its_health_is_not_known(
    world: World,
) -> None:
    client = await world.link(None)
    await client.receive()
    await client.send({"type": "health", "backlog": 3})
    await eventually(lambda: bool(world.server.health))
    world.clock.leap_ns = int((LINK_SILENT_S + 1) * 1e9)
    assert not world.server.link_connected
    assert not world.server.health
    await client.send({"type": "health", "backlog": 4})
    await eventually(lambda: world.server.health.get("backlog") == 4)
    await client.close()


def test_a_peer_that_is_gone_is_the_same_error_on_uvloop(tmp_path: Path) -> None:
    async def scene() -> None:
        server = await asyncio.start_unix_server(lambda _, w: w.close(), str(tmp_path / "s"))
        client = LocalClient(tmp_path / "s")
        await client.connect()
        try:
            for _ in range(4):  # the first one may still be taken
                with contextlib.suppress(LocalError):
                    await client.send({"type": "health"})
                await asyncio.sleep(0.02)
            with pytest.raises(LocalError):
                await client.send({"type": "health"})
        finally:
            server.close()
            await client.close()

    uvloop.run(scene())


async def test_a_message_of_packed_values_is_that_of_the_values(tmp_path: Path) -> None:
    message = {"type": "birth", "birth": {"points": [1, None, 2.5]}, "rows": b"x" * 300_000}
    path = tmp_path / "s"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await send(writer, message)
        parts = {name: [msgpack.packb(value)] for name, value in message.items()}
        await send_parts(writer, packed_map(parts))
        writer.close()

    server = await asyncio.start_unix_server(serve, str(path))
    client = LocalClient(path)
    await client.connect()
    assert await client.receive() == await client.receive() == message
    await client.close()
    server.close()
    await server.wait_closed()
