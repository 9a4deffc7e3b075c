"""One session of a link: from the connection to its end, and nothing that outlives it.

Tasks of their own carry the live lane, the backlog lane, what comes in and what is said; they meet
in the outbox, which keeps the order, and in the lanes, which decide. A lane waits for its own room
only, so a backlog never holds up what is new.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from config.link import BrokerEntry
from gateway.core.clock import Clock
from sync import topics, wire
from sync.errors import LinkError, LinkTimeout
from sync.forms.forms import Form, Publication
from sync.link.lanes import CHUNK_FRAMES, Lanes, Sent, Timing
from sync.link.ledger import Ledger
from sync.link.mqtt import MqttSession
from sync.link.outbox import PUBLISH_MAX, Outbox, size_of
from sync.link.pace import Pace
from sync.store.async_store import AsyncStore
from sync.store.frame_table import last_id
from sync.store.store import StoredFrame

Handler = Callable[[bytes], Awaitable[None]]

HEARD_MAX: Final = 64  # messages that wait for their handler
LIVE_WAITING_MAX: Final = 64  # publications in front of which a live frame waits
BACKLOG_HANDED_MAX: Final = PUBLISH_MAX // 2  # the rest is for live frames
LIVE_LAG_FRAMES: Final = 32  # a live lane that is further behind hands them to the backlog
LOOK_S: Final = 1.0  # how often a lane looks by itself whether it may go on
FAREWELL_S: Final = 1.0

log = logging.getLogger(__name__)


class SessionOver(Exception):
    """The form wants a new session; nothing has failed."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What stays the same over the sessions of a link."""

    store: AsyncStore
    name: str
    entry: BrokerEntry
    site: str
    clock: Clock
    timing: Timing
    form: Form
    pace: Pace
    incoming: Mapping[str, Handler]


class Session:
    """Use it once: `run` it with a connection."""

    def __init__(self, terms: Terms, ledger: Ledger, connection: MqttSession) -> None:
        self._terms = terms
        self._ledger = ledger
        self._connection = connection
        self._by_broker = terms.entry.Ack == "broker"
        self._outbox = Outbox(connection, terms.timing.timeout_s)
        self._appended = asyncio.Event()
        self._freed = asyncio.Event()
        self._talk = asyncio.Event()
        self._heard: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue(HEARD_MAX)
        self._births: set[str] = set()  # that went out in this session
        self._birth = ""  # the last of them that went out as the one in force
        self._births_put = -1  # of the store, when the one in force was last looked up
        self._birth_lock = asyncio.Lock()
        self._salvages = terms.store.salvages
        self._renumbered = terms.store.renumbered
        self._more = True  # the store may hold frames behind the live lane
        self._ready = False  # the form was, when the live lane last asked
        self._too_much = False  # live data alone is more than may be sent
        self._last_words: Sequence[Publication] = ()
        self.lanes = Lanes(0, terms.timing, self._now_ns)

    @property
    def _now_ns(self) -> int:
        return self._terms.clock.monotonic_ns()

    def ring(self) -> None:
        """Something new stands in the store, or waits to be said."""
        self._more = True
        self._appended.set()
        self._talk.set()

    def held_back(self) -> str:
        """Why something waits in the store that could go, in words; empty where nothing does."""
        if not self._terms.form.ready:
            return self._terms.form.problem or "the consumer is away"
        if self._too_much:
            return "live data alone is more than BytesPerSecondMax"
        if not self.lanes.hours_open:
            return "a backlog waits for BacklogHours"
        return self._terms.form.problem

    async def run(self, begun: Callable[[], None]) -> None:
        """Forwards until the session breaks; calls `begun` when it can.

        Raises LinkError, StoreError and SessionOver in exception groups.
        """
        await self._begin_lanes()
        self._put(self._terms.form.begun())
        begun()
        try:
            async with asyncio.TaskGroup() as group:
                for work in (
                    self._outbox.run(),
                    self._receive(),
                    self._handle(),
                    self._say(),
                    self._watch(),
                    self._send_live(),
                    self._send_backlog(),
                ):
                    group.create_task(work)
        except asyncio.CancelledError:
            await self._part(self._terms.form.farewell())
            raise
        except BaseExceptionGroup as group:
            # The end of the connection is in order, so the broker withholds the last will.
            over = group.subgroup(SessionOver) is not None
            self._ledger.broke((0, "") if over else self._outbox.largest_unread())
            await self._part(self._last_words if over else self._terms.form.farewell())
            raise

    async def _part(self, last_words: Sequence[Publication]) -> None:
        """Publishes what is to be the last of the session, behind all that is under way."""
        with contextlib.suppress(LinkError, TimeoutError):
            async with asyncio.timeout(FAREWELL_S):
                for last in last_words:
                    await self._connection.publish(
                        last.topic, last.payload, qos=last.qos, retain=last.retain
                    )

    async def _begin_lanes(self) -> None:
        store = self._terms.store
        if self._ledger.salvages != store.salvages:
            self._ledger.forget()
        self._salvages = self._ledger.salvages = store.salvages
        self._renumbered = store.renumbered  # before the ids are looked at
        newest = last_id(await store.newest())
        self._more = True
        self.lanes = Lanes(
            newest,
            self._terms.timing,
            self._now_ns,
            selective=self._by_broker or self._ledger.selective,
            newest_first=self._terms.entry.Drain == "newest",
            hours_open=self._hours_open(),
        )
        self._freed.set()

    def _hours_open(self) -> bool:
        return not self._terms.pace.opens_in_ns(self._terms.clock.utc_ns())

    def _put(
        self,
        publications: Sequence[Publication],
        delivered: Callable[[], None] | None = None,
        *,
        live: bool = True,
        records: int = 0,
    ) -> None:
        self._terms.pace.spend(size_of(publications), records, self._now_ns, live=live)
        self._outbox.put(publications, delivered)

    # ------------------------------------------------------------ watching

    async def _watch(self) -> None:
        """Raises LinkTimeout where the far side is silent; goes back where it lacks something."""
        timing = self._terms.timing
        while True:
            await asyncio.sleep(min(timing.resend_s, timing.silence_s, 4 * LOOK_S) / 4)
            if self._salvages != self._terms.store.salvages:
                await self._begin_lanes()  # the frames have new ids
            if self._renumbered != self._terms.store.renumbered:
                self._renumbered = self._terms.store.renumbered
                self.lanes.renumbered()
            now_ns, lanes = self._now_ns, self.lanes
            if lanes.in_flight and now_ns - lanes.heard_ns > timing.silence_s * 1e9:
                question = "is it alive" if self._by_broker else "is the ingest running"
                raise LinkTimeout(
                    f"no acknowledgement for {timing.silence_s:g} s with {lanes.in_flight} frames "
                    f"outstanding: {question}?"
                )
            if lanes.stalled(now_ns):
                self._ledger.resends += 1
                lanes.go_back(await self._terms.store.newest(), now_ns)
            lanes.open_hours(self._hours_open())
            self._more = True  # whoever appended may have told nobody
            self._wake()

    def _wake(self) -> None:
        self._appended.set()
        self._freed.set()

    # ------------------------------------------------------------ the live lane

    async def _send_live(self) -> None:
        while True:
            if not (await self._may_send() and await self._send_new()):
                await _ring_or_look(self._appended)

    async def _may_send(self) -> bool:
        """True where frames may go; the birth in force has gone then."""
        form = self._terms.form
        if not form.ready:
            self._ready = False
            return False
        if not self._ready:  # what gathered meanwhile is a backlog
            self._births.clear()
            self._birth = ""
            self._births_put = -1
            await self._begin_lanes()
            self._ready = True
        await self._put_current_birth()
        self._put(form.due())
        return form.ready

    async def _send_new(self) -> bool:
        """Sends what was appended; False where there is nothing, or no room."""
        terms, lanes = self._terms, self.lanes
        room = min(lanes.live_room(self._now_ns), CHUNK_FRAMES)
        if room == 0 or not self._more:
            return False
        self._more = False
        frames = await terms.store.pending(terms.name, lanes.live, room)
        if len(frames) == room:
            self._more = True
            if await self._lags(lanes, frames[-1].id):
                return True
        for frame in frames:
            while wait_ns := terms.pace.live_wait_ns(self._now_ns):
                await asyncio.sleep(wait_ns / 1e9)
            if not await self._ship(frame, lanes, lanes.turn, live=True):
                break
        return bool(frames)

    async def _lags(self, lanes: Lanes, at: int) -> bool:
        """Live data that comes faster than it may go becomes backlog: what is sent stays live."""
        newest = await self._terms.store.newest()
        self._too_much = self._terms.pace.capped and newest - at > LIVE_LAG_FRAMES
        if self._too_much and lanes is self.lanes:
            lanes.pass_over(newest)
            self._freed.set()
        return self._too_much

    async def _ship(self, frame: StoredFrame, lanes: Lanes, turn: int, *, live: bool) -> bool:
        """Sends a frame; False where meanwhile the lanes went elsewhere."""
        if live:
            await self._outbox.room(LIVE_WAITING_MAX)
        else:
            await self._outbox.room(0, BACKLOG_HANDED_MAX)
        if frame.birth and not self._has_told(frame.birth):
            await self._put_birth(frame.birth)
        if lanes is not self.lanes or turn != lanes.turn or not self._terms.form.ready:
            return False
        publications = self._terms.form.frame(frame, live=live)
        lanes.sent(frame, size_of(publications), self._now_ns, live=live)
        delivered = partial(self._delivered, frame) if self._by_broker else None
        self._put(publications, delivered, live=live, records=frame.records)
        return True

    # ------------------------------------------------------------ the backlog lane

    async def _send_backlog(self) -> None:
        while True:
            if not (self._ready and await self._send_old()):
                await _ring_or_look(self._freed)

    async def _send_old(self) -> bool:
        """Sends a part of a sweep; False where none is left, or no room."""
        terms, lanes = self._terms, self.lanes
        if not lanes.sweeps or not lanes.back_room():
            return False
        sweep, turn = lanes.sweeps[0], lanes.turn
        frames = await terms.store.pending(
            terms.name,
            sweep.after,
            CHUNK_FRAMES,
            before_id=sweep.before,
            newest_first=sweep.newest_first,
            events=sweep.events,
        )
        if lanes is not self.lanes or turn != lanes.turn:
            return True
        if not frames:
            lanes.sweeps.remove(sweep)
        for frame in frames:
            if not await self._send_again(frame, lanes, turn):
                break
            sweep.passed(frame.id)
        return True

    async def _send_again(self, frame: StoredFrame, lanes: Lanes, turn: int) -> bool:
        """Sends a frame of the backlog unless it is under way; False where the lanes moved on."""
        pace = self._terms.pace
        while not (lanes.is_sent(frame.id) or self._ledger.is_done(frame)):
            if turn != lanes.turn or lanes is not self.lanes:
                return False
            if not lanes.back_room():
                await _ring_or_look(self._freed)
            elif wait_ns := pace.backlog_wait_ns(len(frame.payload), self._now_ns):
                await asyncio.sleep(min(wait_ns / 1e9, LOOK_S))
            else:
                return await self._ship(frame, lanes, turn, live=False)
        return True

    # ------------------------------------------------------------ births

    async def _put_current_birth(self) -> None:
        store = self._terms.store
        if self._births_put != store.births:
            self._births_put = store.births
            current = await store.current_birth()
            if current is not None:
                await self._put_birth(current)

    def _has_told(self, name: str) -> bool:
        return name in self._births and self._terms.form.knows(name)

    async def _put_birth(self, name: str, *, wanted: bool = False) -> None:
        """Sends a birth that this session has not sent.

        Where the far side wants a birth that is neither in the store nor in force, it won't come
        back: its rows are declared lost, so that everything behind them can go on.
        """
        store = self._terms.store
        async with self._birth_lock:  # the other lane may be about to send it
            current = await store.current_birth()
            told = self._has_told(name) and (name != current or name == self._birth)
            if told and not wanted:
                return
            body = await store.birth(name)
            if name == current:
                self._birth = name
            if body is not None:
                self._put(self._terms.form.born(name, body, current=name == current))
                if wanted and self.lanes.needs(name):  # what came without it was left alone
                    self.lanes.go_back(await store.newest(), self._now_ns)
            elif wanted and current not in (None, name):
                rows = await store.declare_birth_lost(name)
                if rows:
                    where = f"link {self._terms.name}"
                    log.error("%s: point table %s is lost, and %d rows with it", where, name, rows)
                    self.lanes.go_back(await store.newest(), self._now_ns)
            self._births.add(name)

    # ------------------------------------------------------------ what comes in

    async def _receive(self) -> None:
        channels = {topics.topic(self._terms.site, name): name for name in self._terms.incoming}
        acks = None if self._by_broker else topics.topic(self._terms.site, "ack")
        async for message in self._connection.messages():
            if message.topic == acks:
                await self._acknowledged(message.payload)
            elif message.topic in channels:
                self._hear(channels[message.topic], message.payload)
            elif (reply := self._terms.form.received(message.topic, message.payload)) is not None:
                if reply.end:
                    self._last_words = reply.publications
                    raise SessionOver
                self._put(reply.publications)
            self._wake()
        raise LinkError("the broker ended the session")

    def _hear(self, channel: str, payload: bytes) -> None:
        try:
            self._heard.put_nowait((channel, payload))
        except asyncio.QueueFull:  # its sender gets no receipt, and asks again
            self._ledger.unheard += 1
            if self._ledger.unheard == 1:
                log.warning("link %s: messages come faster than they are read", self._terms.name)

    async def _handle(self) -> None:
        while True:
            channel, payload = await self._heard.get()
            await self._terms.incoming[channel](payload)

    async def _acknowledged(self, payload: bytes) -> None:
        try:
            ack = wire.decode_ack(payload)
        except wire.WireError as error:
            self._ledger.malformed += 1
            if self._ledger.malformed == 1:  # anybody at the broker can send thousands
                name = self._terms.name
                log.warning("link %s: an acknowledgement makes no sense: %s", name, error)
            return
        ledger, lanes, now_ns = self._ledger, self.lanes, self._now_ns
        lanes.heard_ns = now_ns
        if ack.held is None and ledger.selective:
            ledger.selective = False
            lanes.confirm_without_holes_only()
        for epoch, seq in ack.contiguous.items():
            ledger.contiguous(epoch, seq)
        held = ack.held or ()

        def gone(entry: Sent) -> bool:
            return entry.last <= ack.contiguous.get(entry.epoch, 0) or any(
                entry.epoch == epoch and first <= entry.first and entry.last <= last
                for epoch, first, last in held
            )

        outstanding = lanes.in_flight
        ledger.arrived(lanes.confirm(gone, now_ns))
        if outstanding and not lanes.in_flight:
            ledger.last_error = ""
        for name in ack.want:
            await self._put_birth(name, wanted=True)

    def _delivered(self, frame: StoredFrame) -> None:
        """The broker has a frame, and its word counts."""
        ledger, now_ns = self._ledger, self._now_ns
        self.lanes.heard_ns = now_ns
        self.lanes.confirm(lambda entry: entry.id == frame.id, now_ns)
        ledger.arrived([frame.id])
        ledger.newest = max(ledger.newest, (frame.epoch, frame.last))
        ledger.last_error = ""
        self._wake()

    # ------------------------------------------------------------ what is said

    async def _say(self) -> None:
        said = self._ledger.said
        while True:
            while said:
                await self._outbox.room(LIVE_WAITING_MAX)
                channel, payload = said.popleft()
                self._put([Publication(topics.topic(self._terms.site, channel), payload)])
            await _ring_or_look(self._talk)


async def _ring_or_look(bell: asyncio.Event) -> None:
    """Waits for the bell, and not longer than for a look."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LOOK_S):
            await bell.wait()
    bell.clear()
