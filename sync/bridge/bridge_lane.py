"""One direction of a bridge: messages held from their arrival until the destination has them.

A message of QoS 1 is acknowledged to its source only then, in the order in which they came. So
nothing that the source's broker keeps is lost, whatever ends in between, and the source's broker
stops sending where the destination doesn't take (it has a bound for what is unacknowledged).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final

from config.bridges import Line
from config.filters import LEVELS_MAX, TOPIC_BYTES_MAX, levels_of, matches
from config.link import BridgeTopic
from gateway.core.clock import Clock
from sync.bridge.bridge_guard import LoopGuard, digest_of
from sync.bridge.bridge_session import (
    MARK,
    NO_ATTRIBUTES,
    Arrival,
    Attributes,
    BridgeSession,
    MessageRefused,
)
from sync.errors import LinkError, LinkLost

log = logging.getLogger(__name__)

HELD_MAX: Final = 2000  # NATS sends 1024 before we acknowledge one, mosquitto 20
HELD_BYTES_MAX: Final = 32_000_000
WINDOW: Final = 100  # publications under way
REFUSED_WAIT_S: Final = 5.0  # before a message goes again that the destination refused
GIVE_UP_TRIES: Final = 10  # sessions that the destination ended when it got a message ...
GIVE_UP_NS: Final = 60_000_000_000  # ... over at least this time: then the message is the reason
UNWELCOME_MAX: Final = 1000  # topics of such messages; others of them are given up at once
WATCH_S: Final = 1.0  # a message that may go round is held back so long, for each proof
PROOFS: Final = 3
CALM_NS: Final = 10_000_000_000  # after a message that was watched for nothing: let all pass
OWED_MAX: Final = 10_000  # acknowledgements that the source's broker could not be given
DONE_MAX: Final = 10_000  # acknowledged ones, in case the broker repeats one before it hears of it

# What is counted; all of them are in the status.
COUNTS: Final = (
    "received",
    "forwarded",
    "returned",  # to the source's broker for want of room: it sends them again
    "repeated",  # by the source's broker, and known: not forwarded again
    "looped",  # went round: taken out
    "expired",  # its life was over before the destination took it
    "refused",  # the destination does not take it, or it would have no topic there
    "dropped",  # QoS 0, and no room
    "unknown",  # of a line that the table no longer has
)


@dataclass(eq=False, slots=True)
class Held:
    """A message on its way."""

    source: BridgeSession
    arrival: Arrival
    topic: str  # at the destination
    qos: int
    retain: bool
    digest: bytes
    came_ns: int
    tries: int = 0
    first_try_ns: int = 0

    @property
    def size(self) -> int:
        """Bytes that it takes, about."""
        return len(self.arrival.payload) + len(self.topic) + len(self.arrival.topic)


class Lane:
    """Takes messages from one session and gives them to another."""

    def __init__(
        self,
        name: str,
        lines: Sequence[tuple[Line, BridgeTopic]],
        mark: str,
        clock: Clock,
        destination: Callable[[], Awaitable[BridgeSession]],
    ) -> None:
        """`mark` is this bridge's own; `destination` waits for a session and returns it."""
        self.name = name
        self.problem = ""
        self._lines = list(lines)
        self._mark = mark
        self._clock = clock
        self._destination = destination
        self._held: deque[Held] = deque(maxlen=HELD_MAX)  # `take` never lets it overflow
        self._bytes = 0
        self._in_flight = 0  # of `_held`, from the left: sent in the session that is
        self._careful = False  # one at a time, until the first one arrived
        self._bell = asyncio.Event()
        self._guard = LoopGuard()
        self._calm_ns = 0  # until then nothing is watched
        self._unwelcome: OrderedDict[str, None] = OrderedDict()
        self._owed: Counter[bytes] = Counter()  # digests of what will come again, though forwarded
        self._done: OrderedDict[int, bytes] = OrderedDict()  # mid -> digest, of this session
        self._counts: Counter[str] = Counter()

    @property
    def filters(self) -> list[tuple[str, int]]:
        """What the source is asked for: (filter, QoS)."""
        return [(topic.From, topic.QoS) for _, topic in self._lines]

    @property
    def roomy(self) -> bool:
        """True where a source may be connected that was sent away for want of room."""
        return len(self._held) <= HELD_MAX // 2 and self._bytes <= HELD_BYTES_MAX // 2

    def status(self) -> dict[str, Any]:
        """Counts since the start, and what is held; msgpack-able."""
        oldest_ns = self._held[0].came_ns if self._held else 0
        waits_ms = (self._clock.monotonic_ns() - oldest_ns) / 1e6 if oldest_ns else 0.0
        return {
            **{name: self._counts[name] for name in COUNTS},
            "held": len(self._held),
            "held_bytes": self._bytes,
            "oldest_ms": waits_ms,
            "problem": self.problem,
        }

    # ------------------------------------------------------------ from the source

    def source_begun(self, kept: bool) -> None:
        """A new session with the source. Where its broker lost the old one, nothing comes again."""
        self._done.clear()
        if not kept:
            self._owed.clear()

    def take(self, source: BridgeSession, arrival: Arrival) -> None:
        """A message came in. It is never dropped silently: the counts say what became of it."""
        self._counts["received"] += 1
        if not source.alive:  # behind one that had no room: both come again, in their order
            self._counts["returned"] += 1
            return
        digest = digest_of(arrival.topic, arrival.payload)
        if arrival.dup and self._is_known(source, arrival, digest):
            return
        self._done.pop(arrival.mid, None)  # the broker uses the number for another one
        line = next((pair for pair in self._lines if _takes(pair[0], arrival.topic)), None)
        if line is None:
            self._settle(source, arrival, "unknown")
            return
        if self._mark in arrival.attributes.marks:
            self._looped(source, arrival, "it bears our mark")
            return
        topic = "/".join(line[0].image(levels_of(arrival.topic)))
        if not _is_topic(topic):
            log.error("bridge %s: %r has no topic at the destination", self.name, arrival.topic)
            self._settle(source, arrival, "refused")
            return
        held = self._made(source, arrival, line[1], topic, digest)
        full = len(self._held) >= HELD_MAX
        if full or (self._held and self._bytes + held.size > HELD_BYTES_MAX):
            if held.arrival.qos:  # it comes again: it was not acknowledged
                self._counts["returned"] += 1
                source.break_off("the destination takes nothing, and there is no more room")
            else:
                self._counts["dropped"] += 1
            return
        self._held.append(held)
        self._bytes += held.size
        self._bell.set()

    def _made(
        self,
        source: BridgeSession,
        arrival: Arrival,
        line: BridgeTopic,
        topic: str,
        digest: bytes,
    ) -> Held:
        retain = arrival.retain if line.Retain == "keep" else line.Retain == "always"
        qos, now_ns = min(arrival.qos, line.QoS), self._clock.monotonic_ns()
        return Held(source, arrival, topic, qos, retain, digest, now_ns)

    def _is_known(self, source: BridgeSession, arrival: Arrival, digest: bytes) -> bool:
        """True for a repetition by the source's broker of what we hold, or forwarded already.

        A broker repeats what was not acknowledged: in a new session, and some (NATS) in the same.
        """
        if self._done.get(arrival.mid) == digest:  # our acknowledgement was still on its way
            self._settle(source, arrival, "repeated")
            return True
        if self._owed.get(digest):
            self._owed[digest] -= 1
            self._settle(source, arrival, "repeated")
            return True
        for held in self._held:
            same = held.source is source and held.arrival.mid == arrival.mid
            if same or (not held.source.alive and held.digest == digest and held.arrival.qos):
                held.source, held.arrival = source, arrival
                self._counts["repeated"] += 1
                return True
        return False

    def _settle(self, source: BridgeSession, arrival: Arrival, count: str) -> None:
        self._counts[count] += 1
        source.acknowledge(arrival.mid, arrival.qos)
        if arrival.qos and source.alive:
            self._done[arrival.mid] = digest_of(arrival.topic, arrival.payload)
            if len(self._done) > DONE_MAX:
                self._done.popitem(last=False)

    def _looped(self, source: BridgeSession, arrival: Arrival, why: str) -> None:
        self.problem = f"a message on {arrival.topic} went round ({why}) and was taken out"
        if not self._counts["looped"]:
            log.error("bridge %s: %s", self.name, self.problem)
        self._settle(source, arrival, "looped")

    # ------------------------------------------------------------ to the destination

    async def run(self) -> None:
        """Forward until cancelled."""
        while True:
            session = await self._destination()
            try:
                await self._forward(session)
            except MessageRefused as refusal:
                if self._refused(refusal):
                    continue
                await asyncio.sleep(REFUSED_WAIT_S)
            except LinkError as error:
                self._broke(error)
                session.break_off(str(error))

    async def _forward(self, session: BridgeSession) -> None:
        """Keep a window of publications under way. Raises LinkError, MessageRefused."""
        sent: deque[asyncio.Task[None]] = deque(maxlen=WINDOW)
        bell: asyncio.Task[Any] = asyncio.create_task(self._bell.wait())
        ended = asyncio.create_task(session.over())
        try:
            while True:
                await self._fill(session, sent)
                await asyncio.wait(
                    {bell, ended, *islice(sent, 1)}, return_when=asyncio.FIRST_COMPLETED
                )
                while sent and sent[0].done():
                    sent[0].result()
                    sent.popleft()
                    self._arrived()
                if ended.done():
                    raise ended.result()
                if bell.done():
                    self._bell.clear()
                    bell = asyncio.create_task(self._bell.wait())
        finally:
            self._in_flight = 0
            for task in (*sent, bell, ended):
                task.cancel()
            await asyncio.gather(*sent, bell, ended, return_exceptions=True)

    async def _fill(self, session: BridgeSession, sent: deque[asyncio.Task[None]]) -> None:
        window = 1 if self._careful else WINDOW
        while len(sent) < min(window, len(self._held)):
            held = self._held[len(sent)]
            now_ns = self._clock.monotonic_ns()
            often = not held.tries and self._guard.suspects(held.digest, now_ns)
            if often and now_ns >= self._calm_ns:
                if sent:
                    return  # first what is under way
                await self._watch(session, held.digest)
                continue
            attributes = self._attributes(held, now_ns)
            if attributes is None:
                if sent:
                    return
                self._leave(held, "expired")
                continue
            sent.append(asyncio.create_task(self._send(session, held, attributes)))
            self._in_flight = len(sent)

    async def _send(self, session: BridgeSession, held: Held, attributes: Attributes) -> None:
        held.tries += 1
        await session.send(held.topic, held.arrival.payload, held.qos, held.retain, attributes)

    def _attributes(self, held: Held, now_ns: int) -> Attributes | None:
        """What the message carries on, with our mark; None where its life is over."""
        came = held.arrival.attributes
        left_s = came.expires_s
        if left_s is not None:
            left_s -= (now_ns - held.came_ns) // 1_000_000_000
            if left_s <= 0:
                return None
        return replace(
            came or NO_ATTRIBUTES, user=(*came.user, (MARK, self._mark)), expires_s=left_s
        )

    def _arrived(self) -> None:
        """The first of those under way is safe at the destination."""
        self._in_flight -= 1
        self._careful = False
        self.problem = ""
        self._leave(self._held[0], "forwarded")

    def _leave(self, held: Held, count: str) -> None:
        """A message goes out of our hands."""
        self._drop(held)
        if held.arrival.qos and not held.source.alive and self._owed.total() < OWED_MAX:
            self._owed[held.digest] += 1
        self._settle(held.source, held.arrival, count)

    def _drop(self, held: Held) -> None:
        self._held.remove(held)  # the first one, mostly
        self._bytes -= held.size

    # ------------------------------------------------------------ trouble

    def _refused(self, refusal: MessageRefused) -> bool:
        """True where the first message is given up, because no repetition helps."""
        self._careful = True
        if refusal.permanent:
            log.error("bridge %s: given up: %s", self.name, refusal)
            self._leave(self._held[0], "refused")
            return True
        if str(refusal) != self.problem:
            log.error("bridge %s: %s; it is tried again", self.name, refusal)
        self.problem = str(refusal)
        return False

    def _broke(self, error: LinkError) -> None:
        """The destination's session ended. Some brokers answer so to a message they don't want."""
        alone = self._careful
        self._careful = True
        if not self._held or not alone or not isinstance(error, LinkLost):
            return
        first, now_ns = self._held[0], self._clock.monotonic_ns()
        first.first_try_ns = first.first_try_ns or now_ns
        long = first.tries >= GIVE_UP_TRIES and now_ns - first.first_try_ns >= GIVE_UP_NS
        if long or (first.tries > 1 and first.topic in self._unwelcome):
            size = len(first.arrival.payload)
            log.error(
                "bridge %s: given up: %s, %d bytes: the destination ends the session over it",
                *(self.name, first.topic, size),
            )
            self._unwelcome[first.topic] = None
            if len(self._unwelcome) > UNWELCOME_MAX:
                self._unwelcome.popitem(last=False)
            self._leave(first, "refused")

    async def _watch(self, session: BridgeSession, digest: bytes) -> None:
        """Find out whether the first message, which came very often, goes round; then it is out.

        What goes round comes as often as it is let through: never while it is held back, and once
        for each that goes on. What somebody repeats comes when he likes. Raises LinkError,
        MessageRefused.
        """
        for _ in range(PROOFS):
            there = self._alike(digest)
            await asyncio.sleep(WATCH_S)
            if self._alike(digest) != there:
                break
            held = next(one for one in self._held if one.digest == digest)
            attributes = self._attributes(held, self._clock.monotonic_ns())
            await self._send(session, held, attributes or NO_ATTRIBUTES)
            self._leave(held, "forwarded")
            await asyncio.sleep(WATCH_S)
            if self._alike(digest) != there:
                break
        else:
            self._guard.convict(digest)
            for held in [one for one in self._held if one.digest == digest]:
                self._drop(held)
                self._looped(held.source, held.arrival, "it comes only when it is let through")
            return
        now_ns = self._clock.monotonic_ns()
        self._calm_ns = now_ns + CALM_NS  # many that repeat themselves must not hold up the lane
        self._guard.acquit(digest, now_ns)

    def _alike(self, digest: bytes) -> int:
        return sum(held.digest == digest for held in self._held)


def _is_topic(topic: str) -> bool:
    """False for what the library or a broker takes for an error of ours."""
    sound = topic and not any(sign in topic for sign in "+#\x00")
    return bool(sound) and len(topic.encode()) <= TOPIC_BYTES_MAX and topic.count("/") < LEVELS_MAX


def _takes(line: Line, topic: str) -> bool:
    return matches(line.taken, levels_of(topic))
