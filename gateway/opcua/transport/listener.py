"""The listening socket and all connections: how many there may be, and for how long."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from itertools import count
from typing import Final

from gateway.core.clock import secret
from gateway.opcua.transport.connection import Connection
from gateway.opcua.transport.limits import STRANGERS_MAX
from gateway.opcua.transport.requests import Hub

_LOOK_S: Final = 0.5
_BACKLOG: Final = 100
_FAREWELL_S: Final = 1.0


class Listener:
    """Accepts connections, and ends those whose time is over."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._server: asyncio.AbstractServer | None = None
        self._connections: set[Connection] = set()
        self._tasks: list[asyncio.Task[None]] = []
        # A channel of an earlier life of the server must not be mistaken for one of this.
        self._numbers = count(int.from_bytes(secret(3), "little") + 1)

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    async def start(self, host: str, port: int) -> int:
        """Listen; gives the port. Raises OSError."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._made, host, port, backlog=_BACKLOG)
        self._tasks = [
            loop.create_task(self._hub.shares.run(), name="OPC UA turns"),
            loop.create_task(self._look(), name="OPC UA connections"),
        ]
        return int(self._server.sockets[0].getsockname()[1])

    def _made(self) -> Connection:
        return Connection(self._hub, next(self._numbers), self._connections.discard, self._met)

    def _met(self, newcomer: Connection) -> None:
        """Where too many have no session yet, one of those that show least of one makes room."""
        strangers = [one for one in self._connections if not one.is_admitted]
        if len(strangers) >= STRANGERS_MAX:
            of_address = Counter(one.address for one in strangers)
            worst = min(
                strangers,
                key=lambda one: (one.channel.is_open, -of_address[one.address], one.made_ns),
            )
            self._connections.discard(worst)
            worst.cut()
        self._connections.add(newcomer)

    async def _look(self) -> None:
        """End what is over, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S)
            self._hub.sessions.reap()
            now_ns = self._hub.clock.monotonic_ns()
            at_work = {entry.channel for entry in self._hub.sessions if entry.active}
            for connection in list(self._connections):
                if connection.is_admitted and connection.channel not in at_work:
                    connection.demoted()
                if connection.overdue(now_ns):
                    connection.cut()

    async def stop(self) -> None:
        """Close all connections and the socket."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server is not None:
            self._server.close()
        self._hub.sessions.stop()
        for connection in list(self._connections):
            connection.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL_S):
                while self._connections:
                    await asyncio.sleep(0.01)
        for connection in list(self._connections):  # those that don't read
            connection.cut()
        self._hub.openings.stop()
        if self._server is not None:
            await self._server.wait_closed()
