"""Connections to the enrolment service: a bounded number of them, each for a bounded time.

Anybody can reach the service. Who opens connections and says nothing, or a byte a minute, gets
one of a few places and loses it again; files and memory for the broker beside remain.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from typing import Final

CONNECTIONS_MAX: Final = 100
PER_ADDRESS_MAX: Final = 20  # gateways of a site may share one address
CONNECTION_S: Final = 20.0  # life of a connection, from its first packet to its last
PAUSE_S: Final = 1.0  # where the system has no more files for us
POLL_S: Final = 0.05


class Listener:
    """Accepts TLS connections on one address. `run` works until cancelled."""

    def __init__(
        self,
        make: Callable[[], asyncio.BaseProtocol],
        context: ssl.SSLContext,
        *,
        connection_s: float = CONNECTION_S,
    ) -> None:
        """`make` makes the protocol of a connection; it ends after `connection_s` at the latest."""
        self._make = make
        self._context = context
        self._connection_s = connection_s
        self._places = asyncio.Semaphore(CONNECTIONS_MAX)
        self._addresses: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, listening: socket.socket) -> None:
        """Serve what connects to a socket that listens without blocking, and close it."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self._places.acquire()
                try:
                    connection, address = await loop.sock_accept(listening)
                except OSError:  # who connected has gone, or there are no more files
                    self._places.release()
                    await asyncio.sleep(PAUSE_S)
                    continue
                except asyncio.CancelledError:
                    self._places.release()
                    raise
                task = loop.create_task(self._serve(connection, str(address[0])))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        finally:
            listening.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, connection: socket.socket, address: str) -> None:
        self._addresses[address] += 1
        try:
            if self._addresses[address] <= PER_ADDRESS_MAX:
                await self._converse(connection)
        finally:
            connection.close()
            self._addresses[address] -= 1
            if not self._addresses[address]:
                del self._addresses[address]
            self._places.release()

    async def _converse(self, connection: socket.socket) -> None:
        transport: asyncio.BaseTransport | None = None
        with contextlib.suppress(OSError, TimeoutError):  # ssl.SSLError is an OSError
            try:
                async with asyncio.timeout(self._connection_s):
                    transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
                        self._make,
                        connection,
                        ssl=self._context,
                        ssl_handshake_timeout=self._connection_s,
                        ssl_shutdown_timeout=self._connection_s,
                    )
                    while connection.fileno() >= 0:  # the transport closes it when all is sent
                        await asyncio.sleep(POLL_S)
            finally:
                if isinstance(transport, asyncio.Transport):
                    transport.abort()


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on one address; port 0 takes a free one. Raises OSError."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(CONNECTIONS_MAX)
        made.setblocking(False)
    except OSError:
        made.close()
        raise
    return made
