"""An MQTT broker and its clients on the simulated network; QoS 1, sessions, retained, wills.

It does what a broker may do: it delivers twice, it reorders between topics, it saves its state
once a second and loses what came since when it is killed, it drops what a slow session's queue
can't hold, and it acknowledges a publication that it loses later.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import itertools
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, Self

from sync.errors import LinkLost, LinkRefused, LinkTimeout
from sync.link.mqtt import INCOMING_MAX, Message
from tests.sim.loop import Process, SimLoop
from tests.sim.network import End, Network

HOST: Final = "broker"
CUSTOMER: Final = "customer"
PORT: Final = 1883
HOSTS: Final = {PORT: HOST, PORT + 1: CUSTOMER}  # by the port of a URL
QUEUE_MAX: Final = 2_000  # messages that wait for one session; the broker drops what comes beyond
IN_FLIGHT_MAX: Final = 20  # sent to one session and not acknowledged
SAVE_S: Final = 1.0
HEADER_BYTES: Final = 30

Item = tuple[str, bytes, bool]  # topic, payload, retained


@dataclass
class _Session:
    """What the broker keeps of a client."""

    client: str
    clean: bool
    filters: list[str] = field(default_factory=list)
    queues: dict[str, deque[Item]] = field(default_factory=dict)  # by topic: order within one
    in_flight: dict[int, Item] = field(default_factory=dict)
    waiting: int = 0

    def copy(self) -> _Session:
        """As it is now; messages themselves never change."""
        queues = {topic: copy.copy(queue) for topic, queue in self.queues.items() if queue}
        return _Session(
            self.client, self.clean, [*self.filters], queues, {**self.in_flight}, self.waiting
        )


class _Line:
    """A connection that the broker holds."""

    def __init__(self, end: End) -> None:
        self.end = end
        self.session: _Session | None = None
        self.will: Any = None
        self.keepalive_s = 0
        self.heard_ns = 0


class SimBroker:
    """A broker. `duplicate` is how often it delivers a message twice, 0 to 1."""

    def __init__(self, loop: SimLoop, network: Network, seed: int, host: str = HOST) -> None:
        self.host = host
        self.heard: Callable[[str, bytes], None] = lambda topic, payload: None
        self._loop = loop
        self._network = network
        self._random = Random(f"{seed}:{host}")
        self.duplicate = 0.02
        self.process: Process | None = None
        self._sessions: dict[str, _Session] = {}
        self._retained: dict[str, bytes] = {}
        self._lines: list[_Line] = []
        self._numbers = itertools.count(1)
        self._saved: tuple[dict[str, _Session], dict[str, bytes]] = ({}, {})
        self.published = 0
        self.dropped = 0
        self.queued_max = 0

    def start(self) -> None:
        """Listen, with what was saved."""
        self._sessions, self._retained = _copied(*self._saved)
        self._lines = []
        self.process = Process(self._loop, self.host, self.host)
        self.process.spawn(self._run())

    def kill(self, *, keep: bool) -> None:
        """End at once; with `keep`, what was saved last comes back at the next start."""
        assert self.process is not None
        process, self.process = self.process, None
        process.kill()
        self._network.process_died(process)
        if not keep:
            self._saved = ({}, {})

    async def _run(self) -> None:
        self._network.accept(self._accepted, PORT)
        while True:
            await asyncio.sleep(SAVE_S)
            kept = {name: s for name, s in self._sessions.items() if not s.clean}
            self._saved = _copied(kept, self._retained)
            for line in list(self._lines):
                if self._loop.now_ns - line.heard_ns > 1.5e9 * max(line.keepalive_s, 1):
                    line.end.close()
                    self._ended(line)

    # ------------------------------------------------------------ one connection

    def _accepted(self, end: End) -> None:
        line = _Line(end)
        line.heard_ns = self._loop.now_ns
        line.keepalive_s = 10
        end.taken = lambda item: self._take(line, item)
        end.ended = lambda error: self._ended(line)
        self._lines.append(line)

    def _ended(self, line: _Line) -> None:
        if line not in self._lines:
            return
        self._lines.remove(line)
        session = line.session
        if line.will is not None:
            self._route(line.will.topic, line.will.payload, getattr(line.will, "retain", True))
        if session is not None and session.clean:
            self._sessions.pop(session.client, None)

    def _take(self, line: _Line, packet: tuple[Any, ...] | None) -> None:
        line.heard_ns = self._loop.now_ns
        if packet is None:
            line.end.close()
            self._ended(line)
            return
        kind, *rest = packet
        if kind == "connect":
            self._connect(line, *rest)
        elif line.session is None or line not in self._lines:
            return
        elif kind == "publish":
            number, topic, payload, retain, qos = rest
            self.published += 1
            self.heard(topic, payload)
            self._route(topic, payload, retain)
            if qos:
                line.end.send(("puback", number), 4)
        elif kind == "subscribe":
            number, filters = rest
            session = line.session
            session.filters += [f for f in filters if f not in session.filters]
            line.end.send(("suback", number), 4)
            for topic, payload in list(self._retained.items()):
                if any(matches(f, topic) for f in filters):
                    self._queue(session, (topic, payload, True))
        elif kind == "puback":
            line.session.in_flight.pop(rest[0], None)
            self._feed(line)
        elif kind == "ping":
            line.end.send(("pong",), 2)
        elif kind == "disconnect":
            line.will = None
            line.end.close()
            self._ended(line)

    def _connect(self, line: _Line, client: str, clean: bool, keepalive_s: int, will: Any) -> None:
        for other in list(self._lines):
            if other.session is not None and other.session.client == client:
                other.end.close()  # a newer connection of the same client takes over
                self._ended(other)
        session = self._sessions.get(client)
        if clean or session is None:
            session = self._sessions[client] = _Session(client, clean)
        session.clean = clean
        line.session, line.will, line.keepalive_s = session, will, keepalive_s
        line.end.send(("connack",), 4)
        for number, item in list(session.in_flight.items()):
            line.end.send(("publish", number, *item), len(item[1]) + HEADER_BYTES)
        self._feed(line)

    # ------------------------------------------------------------ messages

    def _route(self, topic: str, payload: bytes, retain: bool) -> None:
        if retain:
            self._retained[topic] = payload
        for session in list(self._sessions.values()):
            if any(matches(f, topic) for f in session.filters):
                self._queue(session, (topic, payload, False))
                if self._random.random() < self.duplicate:
                    self._queue(session, (topic, payload, False))

    def _queue(self, session: _Session, item: Item) -> None:
        if session.waiting >= QUEUE_MAX:
            self.dropped += 1
            return
        session.queues.setdefault(item[0], deque(maxlen=QUEUE_MAX)).append(item)
        session.waiting += 1
        self.queued_max = max(self.queued_max, session.waiting)
        for line in self._lines:
            if line.session is session:
                self._feed(line)

    def _feed(self, line: _Line) -> None:
        session = line.session
        assert session is not None
        while session.waiting and len(session.in_flight) < IN_FLIGHT_MAX:
            names = [name for name, queue in session.queues.items() if queue]
            item = session.queues[self._random.choice(names)].popleft()
            session.waiting -= 1
            number = next(self._numbers)
            session.in_flight[number] = item
            line.end.send(("publish", number, *item), len(item[1]) + HEADER_BYTES)


def _copied(
    sessions: dict[str, _Session], retained: dict[str, bytes]
) -> tuple[dict[str, _Session], dict[str, bytes]]:
    return {name: session.copy() for name, session in sessions.items()}, {**retained}


def matches(filter_: str, topic: str) -> bool:
    """True where a topic filter of MQTT covers a topic."""
    wanted, parts = filter_.split("/"), topic.split("/")
    for at, want in enumerate(wanted):
        if want == "#":
            return True
        if at >= len(parts) or want not in ("+", parts[at]):
            return False
    return len(wanted) == len(parts)


class SimSession:
    """A client's session, in the place of sync.link.mqtt.MqttSession."""

    def __init__(
        self,
        network: Network,
        address: Any,
        *,
        client_id: str,
        keepalive_s: int = 10,
        timeout_s: float = 5.0,
        will: Any = None,
        persistent: bool = False,
    ) -> None:
        self._network = network
        self._url = address.url
        self._host = HOSTS[address.port]
        self._hello = ("connect", client_id, not persistent, keepalive_s, will)
        self._keepalive_s = keepalive_s
        self._timeout_s = timeout_s
        self._end: End | None = None
        self._numbers = itertools.count(1)
        self._answers: dict[Any, asyncio.Future[None]] = {}
        self._messages: asyncio.Queue[Message | None] = asyncio.Queue(INCOMING_MAX + 1)
        self._lost = False
        self._heard_ns = 0
        self._pinging: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        try:
            async with asyncio.timeout(self._timeout_s):
                self._end = end = await self._network.reach(self._host, PORT)
                end.taken, end.ended = self._take, lambda error: self._break()
                await self._ask("connack", self._hello)
        except TimeoutError:
            self._close()
            raise LinkTimeout(f"broker {self._url}: no answer in {self._timeout_s:g} s") from None
        except OSError as error:
            raise LinkRefused(f"broker {self._url}: {error}") from None
        self._pinging = asyncio.create_task(self._ping())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._pinging is not None:
            self._pinging.cancel()
        if self._end is not None and not self._lost:
            self._end.send(("disconnect",), 2)
        self._close()
        await asyncio.sleep(0)

    def _close(self) -> None:
        if self._end is not None:
            self._end.close(say=True)
        self._break()

    def _break(self) -> None:
        if self._lost:
            return
        self._lost = True
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(LinkLost(f"broker {self._url}: session lost"))
                answer.exception()  # whoever waits hears of it; nobody need
        with contextlib.suppress(asyncio.QueueFull):
            self._messages.put_nowait(None)

    def _take(self, packet: tuple[Any, ...] | None) -> None:
        self._heard_ns = self._network.loop.now_ns
        if packet is None:
            self._break()
            return
        kind, *rest = packet
        if kind == "publish":
            number, topic, payload, retained = rest
            assert self._end is not None
            self._end.send(("puback", number), 4)
            if self._messages.qsize() < INCOMING_MAX:  # the real one drops beyond that, too
                self._messages.put_nowait(Message(topic, payload, retained))
            return
        answer = self._answers.pop((kind, *rest), None)
        if answer is not None and not answer.done():
            answer.set_result(None)

    async def _ping(self) -> None:
        """As paho: a ping where nothing was said, and the end where it is not answered."""
        while True:
            await asyncio.sleep(self._keepalive_s)
            asked_ns = self._network.loop.now_ns
            assert self._end is not None
            self._end.send(("ping",), 2)
            await asyncio.sleep(self._keepalive_s / 2)
            if self._heard_ns < asked_ns:
                self._end.close(say=False)
                self._break()
                return

    async def _ask(self, answer: str, packet: tuple[Any, ...], number: int | None = None) -> None:
        """Send a packet and wait for its answer. Raises LinkLost."""
        if self._lost or self._end is None:
            raise LinkLost(f"broker {self._url}: session lost")
        key = (answer,) if number is None else (answer, number)
        future = self._answers[key] = self._network.loop.create_future()
        self._end.send(packet, len(packet[3]) + HEADER_BYTES if answer == "puback" else 20)
        try:
            await future
        finally:
            self._answers.pop(key, None)

    async def _answered(
        self, answer: str, packet: tuple[Any, ...], number: int, timeout_s: float | None
    ) -> None:
        try:
            async with asyncio.timeout(timeout_s or self._timeout_s):
                await self._ask(answer, packet, number)
        except TimeoutError:
            raise LinkTimeout(f"broker {self._url}: no {answer}") from None

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        timeout_s: float | None = None,
    ) -> None:
        """See MqttSession."""
        number = next(self._numbers)
        packet = ("publish", number, topic, payload, retain, qos)
        if qos:
            await self._answered("puback", packet, number, timeout_s)
        elif self._lost or self._end is None:
            raise LinkLost(f"broker {self._url}: session lost")
        else:
            self._end.send(packet, len(payload) + HEADER_BYTES)

    async def subscribe(self, topics: Iterable[str], *, qos: int = 1) -> None:
        """See MqttSession; the simulated broker delivers all with QoS 1."""
        number = next(self._numbers)
        await self._answered("suback", ("subscribe", number, tuple(topics)), number, None)

    async def fence(self, *, timeout_s: float | None = None) -> None:
        """See MqttSession."""
        number = next(self._numbers)
        await self._answered("suback", ("subscribe", number, ()), number, timeout_s)

    @property
    def waiting(self) -> int:
        """See MqttSession."""
        return self._messages.qsize()

    async def messages(self) -> AsyncIterator[Message]:
        """See MqttSession."""
        while True:
            message = await self._messages.get()
            if message is None:
                raise LinkLost(f"broker {self._url}: session lost (message)")
            yield message


def connector(network: Network) -> Callable[..., Any]:
    """What takes the place of the class MqttSession."""

    def connect(address: Any, **options: Any) -> SimSession:
        return SimSession(network, address, **options)

    return connect
