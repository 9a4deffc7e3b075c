"""The forwarder: brings what the store holds to the historian, and lets it go only then.

Two lanes share a session. The live lane carries new frames as they are appended; the backlog
lane carries what an outage left, oldest first, at a bounded rate. The acknowledgement is the
highest contiguous sequence that the historian holds, so frames of the live lane stay in the
store until the backlog in front of them has arrived.

The store is the only truth about what is outstanding. When acknowledgements stop moving, the
forwarder goes back to the oldest frame in the store and sends again, one frame at first, more
with each acknowledgement; whatever the historian has by then is gone from the store and skipped.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from dataclasses import dataclass
from typing import Any, Final

from config.model import LinkFile
from gateway.core.clock import Clock
from sync import topics, wire
from sync.async_store import AsyncStore
from sync.errors import LinkError, LinkTimeout, StoreError
from sync.mqtt import MqttSession, TlsFiles, Will, parse_url
from sync.store import Backlog, StoredFrame

PUBLISH_MAX: Final = 16  # publications that wait for the broker's PUBACK
IN_FLIGHT_MAX: Final = 4096  # frames of one lane that are remembered as sent
CHUNK_FRAMES: Final = 8
EPOCHS_MAX: Final = wire.ACK_EPOCHS_MAX
STALLS_MAX: Final = 6  # the wait before sending again doubles this often
BACKLOG_LOOK_S: Final = 0.25

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Timing:
    """Patience, in seconds, and the window in frames.

    timeout_s      connection, subscription, PUBACK
    resend_s       no progress for this long: send again; doubles with every try
    silence_s      frames outstanding and not one acknowledgement for this long: connect anew
    backoff_*_s    pause between two tries to connect; doubles, with jitter
    window         frames of a lane that may be sent and not acknowledged
    """

    timeout_s: float = 5.0
    resend_s: float = 5.0
    silence_s: float = 60.0
    backoff_s_min: float = 0.5
    backoff_s_max: float = 5.0
    window: int = 32


class _Lanes:
    """What has been sent in this session, as ids of the store; decides, never waits."""

    def __init__(self, newest: int, timing: Timing, now_ns: int) -> None:
        self.timing = timing
        self.live = newest  # the last frame that went out on the live lane
        self.mark = newest  # the backlog ends here
        self.back = 0  # the last frame that went out on the backlog lane
        self.window = timing.window
        self.stalls = 0
        self.progress_ns = now_ns
        self.heard_ns = now_ns
        # Epochs in flight -> when an acknowledgement last moved it, or its first frame went out.
        self.moved_ns: dict[int, int] = {}
        self.back_ns = now_ns  # when the backlog lane last sent
        self.live_sent: deque[tuple[int, int, int]] = deque(maxlen=IN_FLIGHT_MAX)
        self.back_sent: deque[tuple[int, int, int]] = deque(maxlen=IN_FLIGHT_MAX)

    @property
    def in_flight(self) -> int:
        return len(self.live_sent) + len(self.back_sent)

    @property
    def draining(self) -> bool:
        return self.back < self.mark

    def sent(self, frame: StoredFrame, live: bool, now_ns: int) -> None:
        if not self.in_flight:
            self.progress_ns = self.heard_ns = now_ns
        self.moved_ns.setdefault(frame.epoch, now_ns)
        entry = (frame.id, frame.epoch, frame.last)
        if live:
            self.live = frame.id
            self.live_sent.append(entry)
        else:
            self.back = frame.id
            self.back_ns = now_ns
            self.back_sent.append(entry)

    def live_room(self, now_ns: int) -> int:
        """Frames that may go out on the live lane now.

        Behind a backlog no live frame can be acknowledged, so there the lane stays open for as
        long as the backlog makes progress.
        """
        if self.draining and not self.stalls and now_ns - self.progress_ns < self.resend_ns:
            return CHUNK_FRAMES
        return max(0, self.window - len(self.live_sent))

    def back_room(self) -> int:
        return max(0, self.window - len(self.back_sent)) if self.draining else 0

    @property
    def resend_ns(self) -> int:
        return int(self.timing.resend_s * 1e9) << min(self.stalls, STALLS_MAX)

    def arrived(self, keep: Any, now_ns: int) -> None:
        """Forget what `keep(entry)` denies: it was acknowledged."""
        gone = {e[1] for lane in (self.live_sent, self.back_sent) for e in lane if not keep(e)}
        self.live_sent = deque(filter(keep, self.live_sent), maxlen=IN_FLIGHT_MAX)
        self.back_sent = deque(filter(keep, self.back_sent), maxlen=IN_FLIGHT_MAX)
        left = {e[1] for lane in (self.live_sent, self.back_sent) for e in lane}
        self.moved_ns = {e: now_ns if e in gone else self.moved_ns[e] for e in left}
        self.progress_ns = now_ns
        self.stalls = 0
        self.window = min(self.timing.window, self.window * 2)

    def stalled(self, now_ns: int) -> bool:
        """True where frames of an epoch are outstanding and its acknowledgement does not move.

        Each epoch counts for itself: the progress of a new one must not hide what was lost of
        an old one. While a backlog drains, nothing is expected of the live lane behind it.
        """
        epochs = {entry[1] for entry in self.back_sent} if self.draining else self.moved_ns.keys()
        since_ns = (max(self.moved_ns[epoch], self.back_ns) for epoch in epochs)
        return any(now_ns - ns > self.resend_ns for ns in since_ns)

    def go_back(self, now_ns: int) -> None:
        """Send everything that the store still holds again, gently."""
        self.back, self.mark = 0, self.live
        self.live_sent.clear()
        self.back_sent.clear()
        self.moved_ns.clear()
        self.window = 1
        self.stalls += 1
        self.progress_ns = self.back_ns = now_ns


class Forwarder:
    """Forwards the frames of one store to one broker, for ever."""

    def __init__(
        self,
        store: AsyncStore,
        config: LinkFile,
        site: str,
        clock: Clock,
        *,
        timing: Timing | None = None,
    ) -> None:
        """Raises ValueError where `site` can't stand in a topic."""
        self._store = store
        self._config = config
        self._site = topics.check_site(site)
        self._clock = clock
        self._timing = timing or Timing()
        self._wake = asyncio.Event()
        self._publishing = asyncio.Semaphore(PUBLISH_MAX)
        self._lanes = _Lanes(0, self._timing, 0)
        self._salvages = 0  # of the store, when the lanes began
        self._births: set[str] = set()  # published in this session
        self._births_put = -1  # of the store, when the one in force was last looked up
        self._more = True  # the store may hold frames behind the live lane
        self._acked: dict[int, int] = {}
        self._next_backlog_ns = 0
        self._connected = False
        self._sessions = 0
        self._resends = 0
        self._last_error = ""
        self._backlog = Backlog(0, 0, 0, 0)

    # ------------------------------------------------------------ for the link process

    def notify_appended(self) -> None:
        """Something new stands in the store (a frame or a birth). Call it on the loop's thread."""
        self._more = True
        self._wake.set()

    def status(self) -> dict[str, Any]:
        """What an operator wants to know, as plain values."""
        epoch = max(self._acked, default=0)
        return {
            "connected": self._connected,
            "url": self._config.Broker.URL,
            "acknowledged": (epoch, self._acked.get(epoch, 0)),
            "in_flight": self._lanes.in_flight,
            "draining": self._connected and self._lanes.draining,
            "backlog_frames": self._backlog.frames,
            "backlog_records": self._backlog.records,
            "backlog_bytes": self._backlog.bytes,
            "backlog_oldest_utc_ns": self._backlog.oldest_utc_ns,
            "reconnects": max(0, self._sessions - 1),
            "resends": self._resends,
            "last_error": self._last_error,
        }

    async def run(self) -> None:
        """Connects, forwards, and connects again; ends only when it is cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._look())
            group.create_task(self._reconnect())

    async def _look(self) -> None:
        while True:
            with contextlib.suppress(StoreError):
                self._backlog = await self._store.backlog()
            await asyncio.sleep(BACKLOG_LOOK_S)

    async def _reconnect(self) -> None:
        failures = 0
        while True:
            sessions = self._sessions
            try:
                await self._session()
            except* (LinkError, StoreError) as group:
                self._note(group)
            failures = 0 if self._sessions > sessions else failures + 1
            pause_s = min(self._timing.backoff_s_max, self._timing.backoff_s_min * 2**failures)
            await asyncio.sleep(pause_s * (0.5 + 0.5 * self._clock.random()))

    def _note(self, group: BaseExceptionGroup[BaseException]) -> None:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        text = str(error)
        if text != self._last_error:  # an outage is one line in the log, not one a second
            log.warning("link: %s", text)
        self._last_error = text

    # ------------------------------------------------------------ a session

    async def _session(self) -> None:
        broker = self._config.Broker
        files = TlsFiles(broker.AuthorityFile, broker.CertificateFile, broker.KeyFile)
        address = parse_url(broker.URL, broker.PasswordFile, files)
        death = wire.encode_death(self._site)
        session = MqttSession(
            address,
            client_id=f"gatepost-{self._site}",
            keepalive_s=broker.KeepAlive,
            timeout_s=self._timing.timeout_s,
            will=Will(topics.topic(self._site, "birth"), death),
        )
        async with session:
            if broker.Ack == "historian":
                await session.subscribe([topics.topic(self._site, "ack")])
            await self._begin_lanes()
            # A new one for each session: a task that is cancelled before it began gives its
            # place back to nobody.
            self._publishing = asyncio.Semaphore(PUBLISH_MAX)
            self._births.clear()
            self._births_put = -1
            self._next_backlog_ns = 0
            await self._publish_current_birth(session)
            self._sessions += 1
            self._connected = True
            log.info("link: connected to %s", address.url)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._receive(session))
                    group.create_task(self._send(session, group))
            except asyncio.CancelledError:
                await self._farewell(session, death)
                raise
            finally:
                self._connected = False

    async def _begin_lanes(self) -> None:
        self._salvages = self._store.salvages
        self._more = True
        newest = await self._store.newest()
        self._lanes = _Lanes(newest, self._timing, self._clock.monotonic_ns())

    async def _farewell(self, session: MqttSession, death: bytes) -> None:
        """A clean end cancels the last will, so the death is published by hand."""
        with contextlib.suppress(LinkError, TimeoutError):
            async with asyncio.timeout(1.0):
                await session.publish(topics.topic(self._site, "birth"), death, retain=True)

    async def _send(self, session: MqttSession, group: asyncio.TaskGroup) -> None:
        while True:
            self._wake.clear()
            if self._salvages != self._store.salvages:
                await self._begin_lanes()  # the frames have new ids
            now_ns = self._clock.monotonic_ns()
            lanes = self._lanes
            if lanes.in_flight and now_ns - lanes.heard_ns > self._timing.silence_s * 1e9:
                raise LinkTimeout(
                    f"no acknowledgement for {self._timing.silence_s:g} s with "
                    f"{lanes.in_flight} frames outstanding: is the ingest running?"
                )
            if lanes.stalled(now_ns):
                self._resends += 1
                lanes.go_back(now_ns)
            await self._publish_current_birth(session)
            sent = await self._send_live(session, group)
            sent = await self._send_backlog(session, group) or sent
            if not sent:
                await self._pause()

    async def _pause(self) -> None:
        until_ns = self._next_backlog_ns - self._clock.monotonic_ns()
        wait_s = min(self._timing.resend_s, self._timing.silence_s) / 4
        if self._lanes.back_room() and until_ns > 0:
            wait_s = min(wait_s, until_ns / 1e9)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._wake.wait()
                return
        self._more = True  # whoever appended may have told nobody

    async def _send_live(self, session: MqttSession, group: asyncio.TaskGroup) -> bool:
        room = min(self._lanes.live_room(self._clock.monotonic_ns()), CHUNK_FRAMES)
        if room == 0 or not self._more:
            return False
        self._more = False
        frames = await self._store.pending(self._lanes.live, room)
        self._more = self._more or len(frames) == room
        for frame in frames:
            await self._publish(session, group, frame, live=True)
        return bool(frames)

    async def _send_backlog(self, session: MqttSession, group: asyncio.TaskGroup) -> bool:
        lanes = self._lanes
        now_ns = self._clock.monotonic_ns()
        room = min(lanes.back_room(), CHUNK_FRAMES)
        if room == 0 or now_ns < self._next_backlog_ns:
            return False
        frames = await self._store.pending(lanes.back, room)
        frames = [frame for frame in frames if frame.id <= lanes.mark]
        if not frames:
            lanes.back = lanes.mark
            return False
        for frame in frames:
            await self._publish(session, group, frame, live=False)
        records = sum(frame.records for frame in frames)
        rate = self._config.Store.BacklogRecordsPerSecond
        self._next_backlog_ns = max(now_ns, self._next_backlog_ns) + records * 10**9 // rate
        return True

    async def _publish(
        self, session: MqttSession, group: asyncio.TaskGroup, frame: StoredFrame, *, live: bool
    ) -> None:
        if frame.birth and frame.birth not in self._births:
            await self._publish_birth(session, frame.birth)
        await self._publishing.acquire()
        self._lanes.sent(frame, live, self._clock.monotonic_ns())
        # The tasks start in the order in which they are made, and so do their publications.
        group.create_task(self._deliver(session, frame, "frames" if live else "backlog"))

    async def _deliver(self, session: MqttSession, frame: StoredFrame, channel: str) -> None:
        try:
            await session.publish(topics.topic(self._site, channel), frame.payload)
        finally:
            self._publishing.release()
        if self._config.Broker.Ack == "broker":
            await self._store.discard([frame.id])
            self._acked[frame.epoch] = max(frame.last, self._acked.get(frame.epoch, 0))
            now_ns = self._clock.monotonic_ns()
            self._lanes.heard_ns = now_ns
            self._lanes.arrived(lambda entry: entry[0] != frame.id, now_ns)
            self._wake.set()

    # ------------------------------------------------------------ births

    async def _publish_current_birth(self, session: MqttSession) -> None:
        if self._births_put == self._store.births:
            return
        self._births_put = self._store.births
        current = await self._store.current_birth()
        if current is not None and current not in self._births:
            await self._publish_birth(session, current)

    async def _publish_birth(
        self, session: MqttSession, name: str, *, wanted: bool = False
    ) -> None:
        """Publishes a birth, retained where it is the one in force.

        Where the far side wants a birth that is neither in the store nor in force, it won't come
        back: its rows are declared lost, so that everything behind them can go on.
        """
        body = await self._store.birth(name)
        current = await self._store.current_birth()
        if body is not None:
            topic = topics.topic(self._site, "birth")
            await session.publish(topic, body, retain=name == current)
        elif wanted and current not in (None, name):
            rows = await self._store.declare_birth_lost(name)
            if rows:
                log.error("link: the point table %s is lost, and %d rows with it", name, rows)
                self._lanes.go_back(self._clock.monotonic_ns())
        self._births.add(name)

    # ------------------------------------------------------------ acknowledgements

    async def _receive(self, session: MqttSession) -> None:
        async for message in session.messages():
            try:
                ack = wire.decode_ack(message.payload)
            except wire.WireError as error:
                log.warning("link: an acknowledgement makes no sense: %s", error)
                continue
            self._lanes.heard_ns = self._clock.monotonic_ns()
            for epoch, seq in ack.contiguous.items():
                await self._acknowledged(epoch, seq)
            for name in ack.want:
                await self._publish_birth(session, name, wanted=True)
            self._wake.set()
        raise LinkError("the broker ended the session")

    async def _acknowledged(self, epoch: int, seq: int) -> None:
        if seq <= self._acked.get(epoch, 0) and self._backlog.frames == 0:
            return
        await self._store.acknowledge(epoch, seq)
        lanes = self._lanes
        before = lanes.in_flight
        waiting = [*lanes.live_sent, *lanes.back_sent]
        if any(entry[1] == epoch and entry[2] <= seq for entry in waiting):
            lanes.arrived(
                lambda entry: entry[1] != epoch or entry[2] > seq, self._clock.monotonic_ns()
            )
        if before and not lanes.in_flight:
            self._last_error = ""
        self._acked[epoch] = max(seq, self._acked.get(epoch, 0))
        while len(self._acked) > EPOCHS_MAX:
            del self._acked[min(self._acked)]
