"""One connection: bytes in, turns, bytes out, and an end to those who do not keep the rules."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

from asyncua import ua

from gateway.opcua.transport import wire
from gateway.opcua.transport.channel import NO_SECURITY, Channel, read_open
from gateway.opcua.transport.limits import (
    ACTIVATION_S_MAX,
    CHUNK_BYTES,
    HELLO_S_MAX,
    INPUT_BYTES_MAX,
    MESSAGE_BYTES_MAX,
    OUTPUT_BYTES_HIGH,
    OUTPUT_BYTES_MAX,
    RENEWAL_S_MIN,
    STRANGER_BYTES_MAX,
    UNREAD_S_MAX,
)
from gateway.opcua.transport.requests import Hub, Requests
from gateway.opcua.transport.session import Session
from gateway.opcua.transport.shares import Account
from gateway.opcua.transport.wire import Splitter, TransportFault

_CHUNKS_WAITING_MAX: Final = 65_536  # more than the limit of the input's bytes lets in


class Connection(asyncio.Protocol):
    """A client's TCP connection with its channel and its requests."""

    def __init__(
        self, hub: Hub, number: int, gone: Callable[[Connection], None], met: Callable[..., None]
    ) -> None:
        """`met` is told when the connection is made, `gone` told when it is lost."""
        self._hub = hub
        self._number = number
        self._gone = gone
        self._met = met
        self._splitter = Splitter()
        self._chunks: deque[bytes] = deque(maxlen=_CHUNKS_WAITING_MAX)
        self._waiting_bytes = 0
        self._greeted = False
        self._opening: asyncio.Task[None] | None = None
        self._opened_ns = 0
        self._held: list[tuple[int, bytes]] = []  # answers while the channel gets new keys
        self._paused = False  # the socket is not read
        self._full_ns = 0  # since when the client does not read
        self._closed = False
        self._transport: asyncio.Transport
        self._requests = Requests(hub, self)
        self.account: Account = hub.shares.account()
        self.is_admitted = False
        self.made_ns = hub.clock.monotonic_ns()
        self.address = ""
        self.channel: Channel

    # ------------------------------------------------------------ asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, or not."""
        # uvloop's transports are none of asyncio's classes.
        self._transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername") or ("",)
        self.address = str(peer[0])
        self.channel = Channel(self._number, self.address, self._hub.clock)
        self._transport.set_write_buffer_limits(high=OUTPUT_BYTES_HIGH)
        self._met(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone: its requests end, its sessions wait for another connection."""
        self._closed = True
        self._chunks.clear()
        if self._opening is not None:
            self._opening.cancel()
        self._requests.stop()
        self._hub.sessions.channel_gone(self.channel)
        self._gone(self)

    def data_received(self, data: bytes) -> None:
        """Cut into chunks, which wait for their turn."""
        if self._closed:
            return
        try:
            chunks = self._splitter.feed(data)
        except TransportFault as fault:
            self.refuse(fault)
            return
        self._chunks.extend(chunks)
        self._waiting_bytes += sum(map(len, chunks))
        limit = INPUT_BYTES_MAX if self.is_admitted else STRANGER_BYTES_MAX
        if self._waiting_bytes > limit and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self.again()

    def pause_writing(self) -> None:
        """The client does not read what it asked for."""
        self._full_ns = self._hub.clock.monotonic_ns()

    def resume_writing(self) -> None:
        """It reads again."""
        self._full_ns = 0
        self.again()

    # ------------------------------------------------------------ turns

    @property
    def _is_ready(self) -> bool:
        idle = self._opening is None and not self._full_ns and not self._closed
        return idle and bool(self._chunks) and self._requests.has_room

    def again(self) -> None:
        """Ask for a turn where there is something to do."""
        if self._is_ready:
            self._hub.shares.ask(self)

    def step(self) -> bool:
        """Take one chunk. True where there is more to do."""
        if not self._is_ready:
            return False
        chunk = self._chunks.popleft()
        self._waiting_bytes -= len(chunk)
        if self._paused and self._waiting_bytes <= CHUNK_BYTES // 2:
            self._paused = False
            self._transport.resume_reading()
        try:
            self._take(chunk)
        except TransportFault as fault:
            self.refuse(fault)
        except Exception as error:  # the supervisor of a connection: it ends, and no other does
            self._hub.log_fault(0, error)
            self.cut()
        return self._is_ready

    def _take(self, chunk: bytes) -> None:
        kind = chunk[:3]
        if (kind == wire.HELLO) == self._greeted:
            raise TransportFault(ua.StatusCodes.BadTcpMessageTypeInvalid, "Hello comes first, once")
        if kind == wire.HELLO:
            self._greeted = True
            self.channel.limits, _, answer = wire.hello(chunk)
            self._transport.write(answer)
        elif kind == wire.OPEN:
            self._opening = asyncio.get_running_loop().create_task(self._open(chunk))
        else:
            bytes_max = MESSAGE_BYTES_MAX if self.is_admitted else STRANGER_BYTES_MAX
            whole = self.channel.receive(chunk, bytes_max)
            if kind == wire.CLOSE:
                self.close()
            elif whole is not None:
                self._requests.start(*whole)

    async def _open(self, chunk: bytes) -> None:
        """New keys, for a new channel or for this one."""
        hub, channel = self._hub, self.channel
        try:
            request = read_open(chunk)
            if channel.is_open:
                soon_ns = self._opened_ns + int(RENEWAL_S_MIN * 1e9) - hub.clock.monotonic_ns()
                await asyncio.sleep(max(soon_ns / 1e9, 0))
            else:
                await hub.openings.turn(self.address)
            self._opened_ns = hub.clock.monotonic_ns()
            hub.gate.changed()
            certificate = request.certificate if request.policy_uri != NO_SECURITY else None
            if hub.gate.check_channel(certificate, request.policy_uri, self.address):
                # What exactly is wrong with a certificate is told to the site, not to strangers.
                raise TransportFault(
                    ua.StatusCodes.BadSecurityChecksFailed, "this client is not trusted"
                )
            policies = hub.gate.policies()
            answer = await hub.openings.compute(channel.open, chunk, request, policies)
            self._write((answer,))
        except TransportFault as fault:
            self.refuse(fault)
        finally:
            self._opening = None
        held, self._held = self._held, []
        for request_id, body in held:
            self.send(request_id, body)
        self.again()

    # ------------------------------------------------------------ out

    def admitted(self) -> None:
        """A session is active: the limits of strangers are over."""
        self.is_admitted = True

    def left(self, session: Session) -> None:
        """A session goes on on another connection: what waits for it here is answered."""
        self._requests.left(session)

    def demoted(self) -> None:
        """No session is active any more."""
        self.is_admitted = False
        self.made_ns = self._hub.clock.monotonic_ns()

    def send(self, request_id: int, body: bytes) -> None:
        """Send an answer. It waits while the channel's keys change: numbers must be in order."""
        if self._opening is not None:
            self._held.append((request_id, body))
        elif not self._closed:
            self._write(self.channel.send(request_id, body))

    def _write(self, chunks: Any) -> None:
        if self._closed or self._transport.is_closing():
            return
        for chunk in chunks:
            self._transport.write(chunk)
        if self._transport.get_write_buffer_size() > OUTPUT_BYTES_MAX:
            self.cut()

    def refuse(self, fault: TransportFault) -> None:
        """Tell why, and close."""
        self._write((wire.error(fault.code, str(fault)),))
        self.close()

    def close(self) -> None:
        """Close once everything is sent."""
        self._closed = True
        self._chunks.clear()
        self._transport.close()

    def cut(self) -> None:
        """Close at once."""
        self._closed = True
        self._chunks.clear()
        self._transport.abort()

    def overdue(self, now_ns: int) -> bool:
        """True where it took longer than it may, with whatever it is at."""
        age_s = (now_ns - self.made_ns) / 1e9
        if self._full_ns and now_ns - self._full_ns > UNREAD_S_MAX * 1e9:
            return True
        if self._closed and self._transport.is_closing():
            return age_s > UNREAD_S_MAX and not self.is_admitted
        if not self.channel.is_open and age_s > HELLO_S_MAX:
            return True
        if not self.is_admitted and age_s > ACTIVATION_S_MAX:
            return True
        return self.channel.expired(now_ns)
