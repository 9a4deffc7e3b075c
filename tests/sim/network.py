"""Hosts, cables between them, and connections over those, as TCP behaves.

What is sent arrives in order, whole and after a delay, or never. A cable can be cut in one
direction or in both: what is under way then waits, as TCP would send it again, and arrives late
when the cable is whole. Both ends hear of a reset, or only one of them, and the other one learns
when it sends. The sockets of a killed process are closed by its system; those of a host without
power just fall silent.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any, Final
from weakref import WeakSet

from tests.sim.loop import Process, SimLoop

WINDOW_BYTES: Final = 262_144  # on the way or not yet taken; beyond it the sender is told to pause
UNDER_WAY_MAX: Final = 50_000  # items of one direction
DELAY_S: Final = (0.0002, 0.002)
NEAR_S: Final = (0.00001, 0.00005)  # inside one host
RETRY_S: Final = (0.2, 2.0)  # what waited for a cable arrives so long behind its mending


class Cable:
    """The way between two hosts.

    delay_s  shortest and longest time of an item
    cut      (from, to) of the directions that carry nothing now
    """

    def __init__(self) -> None:
        self.delay_s = DELAY_S
        self.cut: set[tuple[str, str]] = set()


class End:
    """One end of a connection: takes items of its peer in order."""

    def __init__(self, network: Network, process: Process, cable: Cable) -> None:
        self.network = network
        self.process = process
        self.cable = cable
        self.peer: End
        self.taken: Callable[[Any], None] = lambda item: None
        self.ended: Callable[[Exception | None], None] = lambda error: None
        self.room: Callable[[], None] = lambda: None  # the peer took something
        self.open = True
        self.silent = False  # its host lost its power: nothing leaves it, nobody answers
        self.paused = False  # reads nothing for now
        self.pending = 0  # bytes that this end sent and its peer has not taken
        self._way: deque[tuple[Any, int]] = deque(maxlen=UNDER_WAY_MAX + 1)  # towards the peer
        self._stalled = 0  # items that arrived at a cut, or at a peer that reads nothing
        self._last_ns = 0

    @property
    def direction(self) -> tuple[str, str]:
        """From which host to which this end sends."""
        return self.process.host, self.peer.process.host

    def send(self, item: Any, size: int) -> None:
        """Put an item on the way; where the connection is gone, nothing happens."""
        if not self.open or self.silent:
            return
        assert len(self._way) < UNDER_WAY_MAX, f"{self.direction}: too much is under way"
        self._way.append((item, size))
        self.pending += size
        self._travel(*self.cable.delay_s)

    def _travel(self, low_s: float, high_s: float) -> None:
        """The oldest item on the way arrives after a delay, behind those that were sent before."""
        loop = self.network.loop
        arrival_ns = loop.now_ns + round(self.network.draw(low_s, high_s) * 1e9)
        arrival_ns = self._last_ns = max(arrival_ns, self._last_ns + 1)
        # The network carries it; whoever takes it does so in a turn of his own.
        loop.at_ns(arrival_ns, loop.world, self._arrive)

    def _arrive(self) -> None:
        peer = self.peer
        if not self._way or peer.silent:
            return
        if self.direction in self.cable.cut or peer.paused:
            self._stalled += 1
            return
        item, size = self._way.popleft()
        if peer.open:
            peer.process.run(peer._take, item, size)
        elif item is not None:  # the system of the other host answers: nobody is there
            self.network.reset(self)

    def _take(self, item: Any, size: int) -> None:
        self.peer.pending -= size
        if self.open:
            self.taken(item)
        peer = self.peer
        if peer.open and not peer.silent:
            peer.process.run(peer._make_room)

    def _make_room(self) -> None:
        if self.open:
            self.room()

    def mended(self) -> None:
        """The cable carries again; what waited is sent again after a while."""
        stalled, self._stalled = self._stalled, 0
        for _ in range(stalled):
            self._travel(*RETRY_S)

    def resume(self) -> None:
        """Read on."""
        self.paused = False
        peer = self.peer
        stalled, peer._stalled = peer._stalled, 0
        for _ in range(stalled):
            peer._travel(0.0, 0.0)

    def close(self, *, say: bool = True) -> None:
        """No more from this end; what is under way still arrives, and behind it the end."""
        if not self.open:
            return
        if say:
            self.send(None, 0)
        self.open = False

    def fail(self, error: Exception | None) -> None:
        """The connection broke, and this end hears of it."""
        if self.open:
            self.open = False
            self._way.clear()
            self.process.run(self.ended, error)


class Network:
    """All hosts, who listens, and every connection."""

    def __init__(self, loop: SimLoop, seed: int) -> None:
        self.loop = loop
        self._random = Random(f"{seed}:network")
        self._cables: dict[tuple[str, str], Cable] = {}
        self._listeners: dict[tuple[str, Any], tuple[Callable[[End], None], Process]] = {}
        self.connections: list[tuple[End, End]] = []
        self.connected = 0
        self.dark: set[str] = set()  # hosts without power
        self.transports: WeakSet[Transport] = WeakSet()
        loop.network = self

    def draw(self, low: float, high: float) -> float:
        """Somewhere between, more often low."""
        return low + (high - low) * self._random.random() ** 2

    def cable(self, one: str, other: str) -> Cable:
        """The cable between two hosts."""
        key = (min(one, other), max(one, other))
        if key not in self._cables:
            self._cables[key] = Cable()
            if one == other:
                self._cables[key].delay_s = NEAR_S
        return self._cables[key]

    # ------------------------------------------------------------ faults

    def cut(self, source: str, target: str) -> None:
        """Let nothing pass from one host to another."""
        self.cable(source, target).cut.add((source, target))

    def mend(self, source: str, target: str) -> None:
        """Let everything pass again."""
        cable = self.cable(source, target)
        if (source, target) in cable.cut:
            cable.cut.remove((source, target))
            for pair in self.between(source, target):
                for end in pair:
                    end.mended()

    def heal(self) -> None:
        """Every cable is whole and quick."""
        for (one, other), cable in self._cables.items():
            cable.delay_s = DELAY_S if one != other else NEAR_S
            self.mend(one, other)
            self.mend(other, one)

    def between(self, one: str, other: str) -> list[tuple[End, End]]:
        """The connections of two hosts."""
        wanted = sorted((one, other))
        return [p for p in self.connections if sorted(p[0].direction) == wanted]

    def reset(self, end: End) -> None:
        """One end hears that its connection is gone; the other one learns when it sends."""
        end.fail(ConnectionResetError("connection reset by peer"))
        self._tidy()

    def process_died(self, process: Process) -> None:
        """Its system closes what it had open, and listens no more for it."""
        for key, (_, owner) in list(self._listeners.items()):
            if owner is process:
                del self._listeners[key]
        for pair in self.connections:
            for end in pair:
                if end.process is process and end.open:
                    end.close()
        self._tidy()

    def host_died(self, host: str) -> None:
        """Without power: nobody hears of it."""
        self.dark.add(host)
        for key in [key for key in self._listeners if key[0] == host]:
            del self._listeners[key]
        for pair in self.connections:
            for end in pair:
                if end.process.host == host:
                    end.silent = True

    def host_came(self, host: str) -> None:
        """Its system knows nothing of old connections, and says so to whoever sends on one."""
        self.dark.discard(host)
        for pair in self.connections:
            for end in pair:
                if end.silent and end.process.host == host:
                    end.silent, end.open = False, False
        self._tidy()

    def _tidy(self) -> None:
        self.connections = [p for p in self.connections if p[0].open or p[1].open]

    def forget(self) -> None:
        """The world ends: nobody is to complain that a connection was not closed."""
        for transport in self.transports:
            transport.over()

    # ------------------------------------------------------------ connecting

    def listen(self, factory: Any, port: Any) -> Server:
        """As loop.create_server: take connections on a port or path of the caller's host."""
        return self.accept(lambda end: Transport(end).begin(factory()), port)

    def accept(self, taken: Callable[[End], None], port: Any) -> Server:
        """Call `taken` with our end of every connection to a port of the caller's host."""
        process = self.loop.owner()
        key = (process.host, port)
        if key in self._listeners:
            raise OSError(98, f"address {key} is in use")
        self._listeners[key] = (taken, process)
        return Server(self, key)

    def unlisten(self, key: tuple[str, Any]) -> None:
        """Take no more connections; may be called twice."""
        self._listeners.pop(key, None)

    async def connect(self, factory: Any, host: str, port: Any) -> tuple[Any, Any]:
        """As loop.create_connection: transport and protocol. Raises OSError."""
        transport = Transport(await self.reach(host, port))
        protocol = factory()
        transport.begin(protocol)
        return transport, protocol

    async def reach(self, host: str, port: Any) -> End:
        """Our end of a new connection. Raises OSError."""
        process = self.loop.owner()
        cable = self.cable(process.host, host)
        await asyncio.sleep(self.draw(*cable.delay_s))
        while {(process.host, host), (host, process.host)} & cable.cut or host in self.dark:
            await asyncio.sleep(self.draw(*RETRY_S))  # it is asked for again; callers have limits
        found = self._listeners.get((host, port))
        if found is None:
            kind = FileNotFoundError if isinstance(port, str) else ConnectionRefusedError
            raise kind(111, f"nobody listens at {host}:{port}")
        taken, listener = found
        near, far = End(self, process, cable), End(self, listener, cable)
        near.peer, far.peer = far, near
        self.connected += 1
        self.connections.append((near, far))
        if len(self.connections) % 16 == 0:
            self._tidy()
        listener.run(taken, far)
        await asyncio.sleep(self.draw(*cable.delay_s))
        return near


class Server:
    """What create_server returns."""

    def __init__(self, network: Network, key: tuple[str, Any]) -> None:
        self._network = network
        self._key = key
        self.sockets = (self,)

    def getsockname(self) -> tuple[str, Any]:
        """Host and port."""
        return self._key

    def close(self) -> None:
        """Take no more connections."""
        self._network.unlisten(self._key)

    async def wait_closed(self) -> None:
        """Nothing is left to wait for."""


class Transport(asyncio.Transport):
    """Bytes over one end of a connection."""

    def __init__(self, end: End) -> None:
        super().__init__(
            {"peername": (end.peer.process.host, 0), "sockname": (end.process.host, 0)}
        )
        self._end = end
        self._protocol: Any = None
        self._closing = False
        self._told = False  # connection_lost was called
        self._held = False  # pause_writing was called
        self._high = 65_536
        end.taken, end.ended, end.room = self._received, self._broke, self._eased
        end.network.transports.add(self)

    def begin(self, protocol: Any) -> None:
        """Join it with its protocol."""
        self._protocol = protocol
        protocol.connection_made(self)

    def _received(self, data: bytes | None) -> None:
        if self._told:
            return
        if data is not None:
            if not self._closing:
                self._protocol.data_received(data)
        elif not self._protocol.eof_received():
            self.close()

    def _broke(self, error: Exception | None) -> None:
        self._closing = True
        if not self._told:
            self._told = True
            self._protocol.connection_lost(error)

    def _eased(self) -> None:
        if self._held and self._end.pending <= self._high // 4:
            self._held = False
            self._protocol.resume_writing()

    def write(self, data: Any) -> None:
        """Send; the protocol is told to pause where too much is under way."""
        if self._closing or not data:
            return
        self._end.send(bytes(data), len(data))
        if not self._held and self._end.pending > WINDOW_BYTES + self._high:
            self._held = True
            self._protocol.pause_writing()

    def writelines(self, parts: Any) -> None:
        """Send all of them as one."""
        self.write(b"".join(parts))

    def close(self) -> None:
        """What was written still goes out."""
        if not self._closing:
            self._closing = True
            self._end.close()
            self._end.process.loop.call_soon(self._broke, None)

    def abort(self) -> None:
        """End at once; the peer hears of a reset."""
        if not self._closing:
            self._closing = True
            end, network = self._end, self._end.network
            end.open = False
            if not end.silent and end.direction not in end.cable.cut:
                loop = network.loop
                loop.at_ns(loop.now_ns + 1, loop.world, network.reset, end.peer)
            end.process.loop.call_soon(self._broke, None)

    def over(self) -> None:
        """The world ends."""
        self._closing = self._told = True

    def is_closing(self) -> bool:
        """True once it is closed or broken."""
        return self._closing

    def can_write_eof(self) -> bool:
        """Half a connection is nothing that our protocols use."""
        return False

    def get_write_buffer_size(self) -> int:
        """Bytes that the system has not taken from us."""
        return max(0, self._end.pending - WINDOW_BYTES)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """When to tell the protocol to pause."""
        self._high = 65_536 if high is None else high

    def pause_reading(self) -> None:
        """Take nothing for now."""
        self._end.paused = True

    def resume_reading(self) -> None:
        """Take on."""
        self._end.resume()

    def is_reading(self) -> bool:
        """True unless paused."""
        return not self._end.paused

    def set_protocol(self, protocol: Any) -> None:
        """Another protocol takes over."""
        self._protocol = protocol

    def get_protocol(self) -> Any:
        """Who is told."""
        return self._protocol
