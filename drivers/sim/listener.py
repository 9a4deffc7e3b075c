"""What the simulated devices share: listening, one connection after another, late answers."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, cast

from drivers.sim.faults import Faults

CONNECTIONS_MAX: Final = 256
PENDING_MAX: Final = 4096  # answers that wait for their delay, a connection


class Listener:
    """A TCP server of a simulated device.

    After `stop`, `start` listens on the same port again, as a device does after a power cut.
    """

    def __init__(self, *, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self.faults = Faults()
        self.requests = 0  # understood requests since the first start
        self.connected = 0  # connections accepted since the first start
        self.sessions: set[Session] = set()
        self._server: asyncio.Server | None = None

    def session(self) -> Session:
        """The protocol object of a new connection."""
        return Session(self)

    async def start(self) -> int:
        """Listen; returns the port. Raises OSError where the port is taken."""
        assert self._server is None, "already listening"
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self.session, self.host, self.port)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self.port

    async def stop(self) -> None:
        """Close the port and every connection; may be called twice."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for session in list(self.sessions):
            session.drop()
        if server is not None:
            await server.wait_closed()
        while self.sessions:  # connection_lost of the dropped ones comes in the next turn
            await asyncio.sleep(0)


class Session(asyncio.Protocol):
    """One connection; subclasses cut the bytes into requests and call `answer`."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.transport: asyncio.Transport | None = None
        self.buffer = bytearray()
        self._late: deque[bytes] = deque(maxlen=PENDING_MAX)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accept, unless there are too many already."""
        # uvloop's transports don't derive from asyncio's, whatever they do.
        self.transport = transport = cast(asyncio.Transport, transport)
        self.listener.sessions.add(self)
        self.listener.connected += 1
        if len(self.listener.sessions) > CONNECTIONS_MAX:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection and what it was still owed."""
        self.transport = None
        self._late.clear()
        self.listener.sessions.discard(self)

    def drop(self) -> None:
        """End the connection at once."""
        if self.transport is not None:
            self.transport.abort()

    def answer(self, data: bytes) -> None:
        """Send now or, with `delay_s`, later; always in the order of the calls."""
        faults = self.listener.faults
        if faults.delay_s <= 0 and not self._late:
            self._send(data)
        elif len(self._late) >= PENDING_MAX:
            self.drop()
        else:
            self._late.append(data)
            asyncio.get_running_loop().call_later(max(0.0, faults.delay_s), self._send_oldest)

    def _send_oldest(self) -> None:
        if self._late:
            self._send(self._late.popleft())

    def _send(self, data: bytes) -> None:
        if self.transport is None or self.transport.is_closing():
            return
        self.transport.write(self.listener.faults.spoil(data))
        if self.listener.faults.closes_now():
            self.transport.close()
