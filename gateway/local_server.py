"""The field's side of the local stream: serves one link and any number of tools."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from gateway.commands import Commands
from gateway.core.clock import Clock
from gateway.core.records import Birth, Event, pack_batch
from gateway.core.table import PointTable
from gateway.journal import Journal
from gateway.local import CLIENTS_MAX, RECEIPTS_MAX, LocalError, command_of, receive, send

STATUS_PERIOD_S: Final = 1.0
DATA_PERIOD_S: Final = 0.02  # how long new records wait for company
RECEIPT_WAIT_S: Final = 10.0
_LAST_STEPS: Final = ("refused", "verified", "failed", "released")


class LocalServer:
    """Serves the local stream of one field process."""

    def __init__(
        self,
        path: Path,
        birth: Birth,
        previous: tuple[int, int],
        table: PointTable,
        journal: Journal,
        commands: Commands,
        status: Callable[[], dict[str, Any]],
        clock: Clock,
    ) -> None:
        """`previous` is (epoch, last number) of the life before; last 0 = it said no farewell."""
        self.taken = 0  # the newest number that a link holds durably
        self.health: Mapping[str, Any] = {}  # what the link last said of itself
        self._path = path
        self._birth = birth
        self._previous = previous
        self._table = table
        self._journal = journal
        self._commands = commands
        self._status = status
        self._clock = clock
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self._link: asyncio.Task[None] | None = None

    @property
    def link_connected(self) -> bool:
        """True while a link process listens."""
        return self._link is not None and not self._link.done()

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
            message = await receive(reader)
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

    # ------------------------------------------------------------ link

    async def _serve_link(
        self,
        task: asyncio.Task[None],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        hello: Mapping[str, Any],
    ) -> None:
        """A newer link replaces an older one: the older is hung or about to end."""
        if self._link is not None:
            self._link.cancel()
        self._link = task
        epoch, seq = hello.get("cursor") or (0, 0)
        cursor = seq if epoch == self._journal.epoch else 0
        self.taken = cursor
        await send(
            writer,
            {
                "type": "birth",
                "birth": asdict(self._birth),
                "previous": list(self._previous),
                "rows": self._table.rows.tobytes(),
            },
        )
        listener = asyncio.create_task(self._listen_to_link(reader))
        try:
            await self._feed(writer, cursor, listener)
        finally:
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)

    async def _feed(
        self, writer: asyncio.StreamWriter, cursor: int, listener: asyncio.Task[None]
    ) -> None:
        status_ns = 0
        while not listener.done():
            batch = self._journal.after(cursor)
            if batch is not None:
                await send(writer, {"type": "data", "batch": pack_batch(batch)})
                cursor = batch.last
            now_ns = self._clock.monotonic_ns()
            if now_ns >= status_ns:
                await send(writer, {"type": "status", "status": self._status()})
                status_ns = now_ns + int(STATUS_PERIOD_S * 1e9)
            if batch is None or batch.last == self._journal.last:
                await asyncio.sleep(DATA_PERIOD_S)
        listener.result()

    async def _listen_to_link(self, reader: asyncio.StreamReader) -> None:
        while (message := await receive(reader)) is not None:
            if message["type"] == "taken" and message.get("epoch") == self._journal.epoch:
                self.taken = max(self.taken, int(message["seq"]))
            elif message["type"] == "health":
                self.health = message
            elif message["type"] == "command":
                self._submit(command_of(message["command"]))

    def _submit(self, command: Any) -> bool:
        return self._commands.submit(command, self._clock.monotonic_ns(), self._clock.utc_ns())

    # ------------------------------------------------------------ tools

    async def _serve_tool(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        message: dict[str, Any] | None,
    ) -> None:
        while message is not None:
            if message["type"] == "status":
                await send(writer, {"type": "status", "status": self._status()})
            elif message["type"] == "read":
                await send(writer, self._read(message.get("tags", [])))
            elif message["type"] == "command":
                await self._run_command(writer, message.get("command", {}))
            else:
                raise LocalError(f"unknown message type {message['type']!r}")
            message = await receive(reader)

    def _read(self, tags: list[str]) -> dict[str, Any]:
        """Values of some points; all where none is named. Unknown tags are an error."""
        unknown = [tag for tag in tags if tag not in self._table.index]
        if unknown:
            raise LocalError(f"no such point: {', '.join(unknown)}")
        points = []
        for tag in tags or list(self._table.index):
            index = self._table.index[tag]
            point, row = self._table.points[index - 1], self._table.rows[index]
            points.append(
                {
                    "tag": tag,
                    "value": float(row["value"]),
                    "units": point.units,
                    "states": list(point.states),
                    "status": int(row["status"]),
                    "utc_ns": int(row["utc_ns"]),
                    "age_ms": (self._clock.monotonic_ns() - int(row["mono_ns"])) / 1e6,
                }
            )
        return {"type": "read", "points": points}

    async def _run_command(self, writer: asyncio.StreamWriter, data: Mapping[str, Any]) -> None:
        """Submit, then pass on every receipt of this command until its life is over."""
        command = command_of(data)
        receipts: asyncio.Queue[Mapping[str, Any]] = asyncio.Queue(RECEIPTS_MAX)

        def listener(event: Event) -> None:
            if event.kind == "receipt" and event.body.get("command") == command.id:
                with contextlib.suppress(asyncio.QueueFull):
                    receipts.put_nowait(event.body)

        self._journal.listen(listener)
        try:
            self._submit(command)
            output = self._commands.points.get(command.tag)
            wait = output is not None and output.is_output and not command.release
            async with asyncio.timeout(RECEIPT_WAIT_S):
                while True:
                    receipt = await receipts.get()
                    await send(writer, {"type": "receipt", "receipt": dict(receipt)})
                    step = receipt["step"]
                    final = step in _LAST_STEPS or (step == "driven" and not output.read_back)  # type: ignore[union-attr]
                    if final or (step == "accepted" and not wait):
                        break
        except TimeoutError:
            pass  # the steps so far were sent; the rest goes the way of all events
        finally:
            self._journal.unlisten(listener)
        await send(writer, {"type": "end"})
