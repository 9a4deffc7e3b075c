"""The field's side of the local stream: serves one link and any number of tools."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgpack
import numpy as np
from numpy.typing import NDArray

from gateway.commands import Commands
from gateway.core.clock import Clock
from gateway.core.records import EVENT_KINDS, Birth, Command, Event, pack_batch
from gateway.core.table import PointTable
from gateway.journal import Journal
from gateway.local import (
    CLIENTS_MAX,
    EVENTS_ANSWER_MAX,
    RECEIPTS_MAX,
    REQUEST_BYTES_MAX,
    TEXT_CHARS_MAX,
    LocalError,
    command_of,
    nearest_point,
    packed_map,
    receipt_of,
    receive,
    send,
    send_parts,
    whole_number,
)
from gateway.turns import Turns

ALIVE_PERIOD_S: Final = 1.0  # a link hears from the field at least so often
DATA_PERIOD_S: Final = 0.005  # at least, from one batch to the next: later records get company
RECEIPT_WAIT_S: Final = 10.0
LINK_SILENT_S: Final = 10.0  # a link speaks twice a second; silent for this long, it hangs
FIRST_WORD_S: Final = 5.0  # how long a client that says nothing keeps its place
READ_AT_ONCE: Final = 500  # points that one turn reads: each takes 2 µs of the loop
UNKNOWN_SHOWN_MAX: Final = 10  # tags in one error
_LAST_STEPS: Final = ("refused", "verified", "failed", "released")

Answer = Callable[[Mapping[str, Any]], Mapping[str, Any]]


class LocalServer:
    """Serves the local stream of one field process."""

    def __init__(
        self,
        path: Path,
        birth: Birth,
        past: Sequence[Sequence[int]],
        table: PointTable,
        journal: Journal,
        commands: Commands,
        status: Callable[[int], dict[str, Any]],
        clock: Clock,
    ) -> None:
        """`past` is (epoch, last number) of the lives before; last 0 = one said no farewell.

        `status` takes how many of the newest scans its times are to cover, 0 = all.
        """
        self.taken = 0  # the newest number that a link holds durably
        self._health: Mapping[str, Any] = {}
        self._heard_ns = 0
        self._path = path
        # Packed: as Python objects, ten thousand points take ten times the memory.
        self._birth = msgpack.packb({name: getattr(birth, name) for name in Birth.__slots__})
        self._past = past
        self._table = table
        self._journal = journal
        self._commands = commands
        self._status = status
        self._clock = clock
        self.take_schedule: Callable[[Any], None] = lambda packed: None
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self._link: asyncio.Task[None] | None = None
        self._answers: dict[str, Answer] = {"status": self._tell_status, "events": self._events}
        # Commands have turns of their own: a stop does not stand in a queue of questions.
        self._questions, self._orders = Turns(clock), Turns(clock)

    def answer(self, kind: str, answer: Answer) -> None:
        """Let `answer` reply to messages of a tool that have this type; it may raise LocalError."""
        self._answers[kind] = answer

    @property
    def link_connected(self) -> bool:
        """True while a link process listens, and does not hang."""
        if self._link is None or self._link.done():
            return False
        return self._clock.monotonic_ns() - self._heard_ns < LINK_SILENT_S * 1e9

    @property
    def link_seen(self) -> bool:
        """True where a link listened at any time: it may be on its way back."""
        return self._link is not None

    @property
    def health(self) -> Mapping[str, Any]:
        """What the link last said of itself; empty where nobody knows how it does now."""
        return self._health if self.link_connected else {}

    async def start(self) -> None:
        """Listen. The caller holds the lock of the state folder, so an old socket is a leftover."""
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        umask = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(self._client, str(self._path))
        finally:
            os.umask(umask)

    async def stop(self) -> None:
        """Close every connection and the socket."""
        if self._server is not None:
            self._server.close()
        for task in tuple(self._clients):
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._clients) >= CLIENTS_MAX:
            writer.close()
            return
        self._clients.add(task)
        try:
            message = await self._first_word(reader)
            if message is not None and message["type"] == "hello":
                await self._serve_link(task, reader, writer, message)
            else:
                await self._serve_tool(reader, writer, message)
        except LocalError as error:
            with contextlib.suppress(ConnectionError):
                await send(writer, {"type": "error", "reason": str(error)})
        except (ConnectionError, asyncio.CancelledError):
            pass  # the client went, or the field process stops: nothing is left to say
        finally:
            self._clients.discard(task)
            writer.close()

    async def _first_word(self, reader: asyncio.StreamReader) -> dict[str, Any] | None:
        try:
            async with asyncio.timeout(FIRST_WORD_S):
                return await receive(reader, REQUEST_BYTES_MAX)
        except TimeoutError:
            raise LocalError(f"nothing was asked for {FIRST_WORD_S:g} s") from None

    # ------------------------------------------------------------ link

    async def _serve_link(
        self,
        task: asyncio.Task[None],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        hello: Mapping[str, Any],
    ) -> None:
        """A newer link replaces an older one: the older is hung or about to end."""
        cursor = self._cursor(hello)
        if self._link is not None:
            self._link.cancel()
        self._link = task
        self._health = {}
        self._heard_ns = self._clock.monotonic_ns()
        self.taken = cursor
        birth = {
            "type": [msgpack.packb("birth")],
            "birth": [self._birth],
            "past": [msgpack.packb(self._past)],
            "rows": [msgpack.packb(self._table.rows.tobytes())],
        }
        await send_parts(writer, packed_map(birth))
        listener = asyncio.create_task(self._listen_to_link(reader))
        try:
            await self._feed(writer, cursor, listener)
        finally:
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)

    def _cursor(self, hello: Mapping[str, Any]) -> int:
        """The number behind which a link goes on; 0 where it knows nothing of this epoch."""
        cursor = hello.get("cursor") or (0, 0)
        if not isinstance(cursor, list | tuple) or len(cursor) != 2:
            raise LocalError("a cursor is an epoch and a number")
        asked = dict(zip(("epoch", "seq"), cursor, strict=True))
        epoch, seq = whole_number(asked, "epoch"), whole_number(asked, "seq")
        if epoch != self._journal.epoch:
            return 0
        if seq > self._journal.last:
            raise LocalError(
                f"cursor {seq} is ahead of the journal, which is at its {self._journal.last}"
            )
        return seq

    async def _feed(
        self, writer: asyncio.StreamWriter, cursor: int, listener: asyncio.Task[None]
    ) -> None:
        grown = asyncio.Event()
        listener.add_done_callback(lambda _: grown.set())
        self._journal.watch(grown.set)
        alive_ns = 0
        try:
            while not listener.done():
                grown.clear()
                began_ns = self._clock.monotonic_ns()
                batch = self._journal.after(cursor)
                if batch is not None:
                    await send(writer, {"type": "data", "batch": pack_batch(batch)})
                    cursor = batch.last
                if began_ns >= alive_ns:
                    await send(writer, {"type": "alive"})
                    alive_ns = began_ns + int(ALIVE_PERIOD_S * 1e9)
                if batch is None or batch.last == self._journal.last:
                    await self._wait_for_more(grown, began_ns, alive_ns)
        finally:
            self._journal.unwatch(grown.set)
        listener.result()

    async def _wait_for_more(self, grown: asyncio.Event, began_ns: int, alive_ns: int) -> None:
        """Until something is new or a sign of life is due, then what is left of the period."""
        now_ns = self._clock.monotonic_ns()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0, alive_ns - now_ns) / 1e9):
                await grown.wait()
        left_ns = began_ns + DATA_PERIOD_S * 1e9 - self._clock.monotonic_ns()
        if left_ns > 0:
            await asyncio.sleep(left_ns / 1e9)

    async def _listen_to_link(self, reader: asyncio.StreamReader) -> None:
        while (message := await receive(reader, REQUEST_BYTES_MAX)) is not None:
            self._heard_ns = self._clock.monotonic_ns()
            if message["type"] == "taken" and message.get("epoch") == self._journal.epoch:
                self.taken = max(self.taken, whole_number(message, "seq"))
            elif message["type"] == "health":
                whole_number({"backlog": 0, **message}, "backlog")
                self._health = message
            elif message["type"] == "command":
                await self._submit(command_of(message))
            elif message["type"] == "schedule":
                self.take_schedule(message.get("schedule"))
            elif message["type"] == "receipt":
                self._journal.event("receipt", receipt_of(message), self._clock.utc_ns())

    async def _submit(self, command: Command) -> None:
        async with self._orders:
            self._commands.submit(command, self._clock.monotonic_ns(), self._clock.utc_ns())

    # ------------------------------------------------------------ tools

    async def _serve_tool(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        message: dict[str, Any] | None,
    ) -> None:
        while message is not None:
            if message["type"] == "command":
                await self._run_command(writer, message)
            elif message["type"] == "schedule":
                await self._run_schedule(writer, message)
            elif message["type"] == "read":
                await send_parts(writer, await self._read(message.get("tags", [])))
            elif message["type"] in self._answers:
                async with self._questions:
                    answer = msgpack.packb(self._answers[message["type"]](message))
                await send_parts(writer, [answer])
            else:
                raise LocalError(f"unknown message type {message['type']!r}")
            message = await receive(reader, REQUEST_BYTES_MAX)

    def _tell_status(self, message: Mapping[str, Any]) -> dict[str, Any]:
        scans = whole_number({"scans": 0, **message}, "scans")
        return {"type": "status", "status": self._status(scans)}

    async def _read(self, tags: Any) -> list[bytes]:
        """Values of some points, of one moment; all where none is named. Unknown tags are an error.

        Ten thousand points take 20 ms: so they are packed in turns.
        """
        async with self._questions:
            index = self._indexes(tags)
            rows, now_ns = self._table.rows[index], self._clock.monotonic_ns()
        points = [msgpack.Packer().pack_array_header(len(index))]
        for first in range(0, len(index), READ_AT_ONCE):
            async with self._questions:
                some = slice(first, first + READ_AT_ONCE)
                points.append(self._pack_points(index[some], rows[some], now_ns))
        return packed_map({"type": [msgpack.packb("read")], "points": points})

    def _indexes(self, tags: Any) -> list[int]:
        if not isinstance(tags, list) or len(tags) > len(self._table.index):
            raise LocalError("tags are a list, and not longer than that of the points")
        if not tags:
            return list(self._table.index.values())
        known = self._table.index
        unknown = [str(t) for t in tags if not isinstance(t, str) or t not in known]
        if unknown:
            shown = ", ".join(tag[:TEXT_CHARS_MAX] for tag in unknown[:UNKNOWN_SHOWN_MAX])
            hint = nearest_point(unknown[0][:TEXT_CHARS_MAX], known)
            raise LocalError(f"no such point: {shown}. {hint}")
        return [known[tag] for tag in tags]

    def _pack_points(self, index: list[int], rows: NDArray[np.void], now_ns: int) -> bytes:
        pack = msgpack.Packer().pack
        names = ("value", "status", "utc_ns", "mono_ns")
        columns = [rows[name].tolist() for name in names]  # one by one takes thrice the time
        packed = []
        for number, value, code, utc_ns, mono_ns in zip(index, *columns, strict=True):
            point = self._table.points[number - 1]
            packed.append(
                pack(
                    {
                        "tag": point.tag,
                        "value": value,
                        "kind": point.kind,
                        "units": point.units,
                        "states": point.states,
                        "status": code,
                        "utc_ns": utc_ns,
                        "age_ms": (now_ns - mono_ns) / 1e6,
                    }
                )
            )
        return b"".join(packed)

    def _events(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Events that the journal still holds, of a kind or of all: the newest, oldest first.

        With ``after``, a number, the first ones behind it, so that a client that follows misses
        none.
        """
        kind = message.get("kind", "")
        if not isinstance(kind, str) or (kind and kind not in EVENT_KINDS):
            raise LocalError(f"no such kind of event: {kind!r}; there are {', '.join(EVENT_KINDS)}")
        asked = whole_number({"count": EVENTS_ANSWER_MAX, **message}, "count")
        after = whole_number({"after": 0, **message}, "after")
        found = self._journal.events(after, kind)
        count = min(asked, EVENTS_ANSWER_MAX)
        chosen = found[:count] if after else found[max(0, len(found) - count) :]
        last = self._journal.last
        if after and len(found) > count:
            last = chosen[-1].seq if chosen else after
        return {
            "type": "events",
            "epoch": self._journal.epoch,
            "last": last,
            "first_kept": self._journal.first_event_kept,
            "events": [[e.seq, e.utc_ns, e.kind, dict(e.body)] for e in chosen],
        }

    async def _run_command(self, writer: asyncio.StreamWriter, message: Mapping[str, Any]) -> None:
        """Submit, then pass on every receipt of this command until its life is over."""
        command = command_of(message)
        point = self._commands.points.get(command.tag)
        last_steps = set(_LAST_STEPS)
        if command.release:
            last_steps.add("accepted")
        elif point is not None and point.is_output and not point.read_back:
            last_steps.add("driven")  # nothing can verify it
        async with self._receipts(writer, command.id, last_steps):
            await self._submit(command)

    async def _run_schedule(self, writer: asyncio.StreamWriter, message: Mapping[str, Any]) -> None:
        """Take a schedule, then pass on whether it was accepted."""
        packed = message.get("schedule")
        if not isinstance(packed, dict) or not isinstance(packed.get("id"), str):
            raise LocalError("a schedule is a map with an id")
        async with self._receipts(writer, packed["id"], {"accepted", "refused"}):
            self.take_schedule(packed)

    @contextlib.asynccontextmanager
    async def _receipts(
        self, writer: asyncio.StreamWriter, command: str, last_steps: Collection[str]
    ) -> AsyncIterator[None]:
        """What is asked for inside is followed by its receipts until one of `last_steps`."""
        receipts: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue(RECEIPTS_MAX)

        def listener(event: Event) -> None:
            if event.kind == "receipt" and event.body.get("command") == command:
                with contextlib.suppress(asyncio.QueueFull):
                    receipts.put_nowait(event.body)

        self._journal.listen(listener)
        try:
            yield
            step = ""
            async with asyncio.timeout(RECEIPT_WAIT_S):
                while step not in last_steps:
                    receipt = await receipts.get()
                    await send(writer, {"type": "receipt", "receipt": dict(receipt)})
                    step = receipt["step"]
        except TimeoutError:
            pass  # the steps so far were sent; the rest goes the way of all events
        finally:
            self._journal.unlisten(listener)
        await send(writer, {"type": "end"})
