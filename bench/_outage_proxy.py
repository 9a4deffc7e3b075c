"""A TCP proxy that can freeze, cut and refuse: the network between a gateway and its broker."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

HOST: Final = "127.0.0.1"
CHUNK_BYTES: Final = 65_536


class Proxy:
    """Listens for good on one port, so that a gateway's configuration never changes.

    While it refuses, connections are closed as soon as they are made. While it is frozen, nothing
    moves and nothing is closed: the half-open link.
    """

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self._target_port = target_port
        self._refuses = False
        self._moving = asyncio.Event()
        self._moving.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._client, HOST, 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close everything."""
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def freeze(self) -> None:
        """From now on nothing moves."""
        self._moving.clear()

    def thaw(self) -> None:
        """Move what waited, and what comes."""
        self._moving.set()

    def cut(self) -> None:
        """Reset every connection."""
        for writer in tuple(self._writers):
            writer.transport.abort()
        self._writers.clear()

    def refuse(self) -> None:
        """Cut, and let nobody in."""
        self._refuses = True
        self.cut()

    def accept(self) -> None:
        """Let everybody in again."""
        self._refuses = False
        self.thaw()

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refuses:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection(HOST, self._target_port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, far_writer}
        pumps = [
            asyncio.create_task(self._pump(reader, far_writer)),
            asyncio.create_task(self._pump(far_reader, writer)),
        ]
        self._tasks |= set(pumps)
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        self._tasks -= set(pumps)
        for side in (writer, far_writer):
            side.transport.abort()
            self._writers.discard(side)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while True:
                data = await reader.read(CHUNK_BYTES)
                await self._moving.wait()
                if not data:
                    return
                writer.write(data)
                await writer.drain()
