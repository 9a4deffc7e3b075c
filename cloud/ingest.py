"""Ingest: takes frames from the broker, commits them to the historian, and acknowledges.

An acknowledgement goes out only after the commit, and says what the historian holds, not what
this process has seen; so it may be killed at any moment. A frame whose point table is unknown
waits with its sender, who is asked for the table.

What is new overtakes what an outage left: it waits for one commit of a backlog at most, which is
small, has a commit of its own, and is acknowledged at once.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from cloud import spans
from cloud.historian import Historian, HistorianError
from cloud.historian_sqlite import SqliteHistorian
from gateway.core.clock import Clock, SystemClock
from gateway.core.retry import apart, first_of, pause_s
from sync import topics, wire
from sync.errors import LinkError
from sync.link.mqtt import INCOMING_MAX, Message, MqttSession, TlsFiles, parse_url

T = TypeVar("T")

ACK_INTERVAL_S: Final = 0.05  # of a backlog; live frames are acknowledged when they are durable
ACKS_AT_ONCE_MAX: Final = 64  # that wait for the broker: its answer may take as long as a commit
ASKED_MAX: Final = 10_000  # births that were asked for within a minute
WANT_INTERVAL_S: Final = 1.0  # a birth is asked for once in this time, not once a frame
COMMIT_MESSAGES_MAX: Final = 64  # messages of one commit: one flush of the disk for all of them
BACKLOG_RECORDS_MAX: Final = 16_384  # a commit of a backlog ends with the frame that reaches it
ORPHANS_MAX: Final = 32  # frames that wait for their table; others come again
TOLD_MAX: Final = 256  # senders and channels of bad payloads, with a line in the log for each
RETRY_S_MIN: Final = 0.1
RETRY_S_MAX: Final = 5.0
BACKOFF_S_MIN: Final = 0.2
BACKOFF_S_MAX: Final = 5.0

log = logging.getLogger(__name__)


class Ingest:
    """One historian behind one broker. One ingest a broker and historian: acknowledgements of two
    historians on one broker would contradict each other."""

    def __init__(
        self,
        historian: Historian,
        broker_url: str,
        clock: Clock,
        *,
        client_id: str = "gatepost-ingest",
        password_file: str | None = None,
        tls: TlsFiles | None = None,
        keepalive_s: int = 10,
        backoff_s_max: float = BACKOFF_S_MAX,
        connect: Callable[..., MqttSession] = MqttSession,
    ) -> None:
        """`connect` makes sessions. Raises LinkAddress where the URL makes no sense."""
        self._historian = historian
        self._address = parse_url(broker_url, password_file, tls)
        self._clock = clock
        self._client_id = client_id
        self._keepalive_s = keepalive_s
        self._backoff_s_max = backoff_s_max
        self._connect = connect
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="historian")
        self._live: asyncio.Queue[Message] = asyncio.Queue(maxsize=INCOMING_MAX)
        self._backlog: asyncio.Queue[Message] = asyncio.Queue(maxsize=INCOMING_MAX)
        self._came = asyncio.Event()
        # gateway -> epoch -> what was committed and not acknowledged yet, and up to where the
        # epoch stood without a hole then
        self._orphans: deque[tuple[str, wire.Frame]] = deque(maxlen=ORPHANS_MAX)
        self._due: dict[str, dict[int, tuple[int, list[spans.Span]]]] = {}
        self._want: dict[str, set[str]] = {}
        self._asked_ns: dict[tuple[str, str], int] = {}
        self._due_event = asyncio.Event()
        self._due_now = asyncio.Event()
        self._ready = asyncio.Event()
        self.counts: Counter[str] = Counter()
        self._told: set[str] = set()

    def status(self) -> dict[str, Any]:
        """What an operator wants to know, as plain values."""
        return {
            "connected": self._ready.is_set(),
            "url": self._address.url,
            **{
                name: self.counts[name]
                for name in (
                    "frames",
                    "records",
                    "births",
                    "acks",
                    "malformed",
                    "discarded",
                    "failures",
                    "wants",
                )
            },
        }

    async def wait_ready(self) -> None:
        """Returns when the subscriptions are in force."""
        await self._ready.wait()

    async def run(self) -> None:
        """Takes and acknowledges for ever; ends only when it is cancelled."""
        failures = 0
        try:
            while True:
                connected = False
                try:
                    connected = await apart(self._session())
                except* LinkError as group:
                    connected = self._ready.is_set()
                    self._tell("link", f"ingest: {first_of(group)}")
                self._ready.clear()
                failures = 0 if connected else failures + 1
                chance = self._clock.random()
                await asyncio.sleep(pause_s(failures, BACKOFF_S_MIN, self._backoff_s_max, chance))
        finally:
            self._pool.shutdown(wait=True)

    async def _session(self) -> bool:
        session = self._connect(
            self._address,
            client_id=self._client_id,
            keepalive_s=self._keepalive_s,
            persistent=True,
        )
        async with session, asyncio.TaskGroup() as group:
            # The broker may deliver from the moment of the subscription on.
            group.create_task(self._receive(session))
            await session.subscribe(
                topics.everywhere(channel) for channel in ("birth", "frames", "backlog")
            )
            self._ready.set()
            self._told.discard("link")
            log.info("ingest: connected to %s", self._address.url)
            group.create_task(self._commit())
            group.create_task(self._acknowledge(session))
        return True

    def _tell(self, kind: str, text: str) -> None:
        """Logs the first of a kind; a thousand bad payloads are one line and a count."""
        if kind not in self._told:
            self._told.add(kind)
            log.warning("%s", text)

    async def _blocking(self, work: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work, *args)

    # ------------------------------------------------------------ in

    async def _receive(self, session: MqttSession) -> None:
        async for message in session.messages():
            if message.topic.endswith("/backlog"):
                try:
                    self._backlog.put_nowait(message)
                except asyncio.QueueFull:  # nothing new may wait behind it; it comes again
                    self.counts["discarded"] += 1
            else:
                await self._live.put(message)
            self._came.set()
        raise LinkError("the broker ended the session")

    async def _commit(self) -> None:
        while True:
            if self._live.empty() and self._backlog.empty():
                self._came.clear()
                await self._came.wait()
            # A table is sent in front of the frames that need it. So of the backlog only what was
            # there before all of this live lane goes behind it.
            waiting, left = self._backlog.qsize(), self._live.qsize()
            while left:
                part = min(left, COMMIT_MESSAGES_MAX)
                await self._commit_live(part)
                left -= part
            await self._commit_backlog(min(waiting, COMMIT_MESSAGES_MAX))

    async def _commit_live(self, count: int) -> None:
        """Births in their place between the frames."""
        frames: list[tuple[str, wire.Frame]] = []
        for _ in range(count):
            message = self._live.get_nowait()
            found = topics.parse(message.topic)
            if found is not None and found[1] == "birth":
                await self._commit_frames(frames, live=True)
                frames = []
                with self._malformed(*found):
                    await self._birth(found[0], message.payload)
            else:
                frames += self._decoded(message)
        await self._commit_frames(frames, live=True)

    async def _commit_backlog(self, count: int) -> None:
        frames: list[tuple[str, wire.Frame]] = []
        records = 0
        for _ in range(count):
            frames += (came := self._decoded(self._backlog.get_nowait()))
            records += sum(_records(frame) for _, frame in came)
            if records >= BACKLOG_RECORDS_MAX:
                break
        await self._commit_frames(frames, live=False)

    def _decoded(self, message: Message) -> list[tuple[str, wire.Frame]]:
        """A frame with its gateway; nothing where the message is none."""
        found = topics.parse(message.topic)
        if found is not None:
            with self._malformed(*found):
                return [(found[0], wire.decode_frame(message.payload))]
        return []

    @contextlib.contextmanager
    def _malformed(self, site: str, channel: str) -> Iterator[None]:
        try:
            yield
        except wire.WireError as error:
            self.counts["malformed"] += 1
            if len(self._told) < TOLD_MAX:  # whoever sends them may invent names of sites, too
                self._tell(f"{site}/{channel}", f"ingest: bad {channel} of {site}: {error}")

    async def _birth(self, site: str, payload: bytes) -> None:
        if not payload:
            return  # a retained message was removed
        presence = wire.decode_presence(payload)
        if isinstance(presence, wire.Death):
            await self._persist(self._historian.set_online, site, False)
            return
        await self._persist(self._historian.store_birth, site, presence)
        await self._persist(self._historian.set_online, site, True)
        self._want.get(site, set()).discard(presence.hash)
        self.counts["births"] += 1
        await self._adopt(site, presence.hash)

    async def _adopt(self, site: str, name: str) -> None:
        """Some brokers bring a frame before the table that was sent in front of it."""
        waited = [item for item in self._orphans if (item[0], item[1].batch.birth) == (site, name)]
        if waited:
            kept = [item for item in self._orphans if not any(item is one for one in waited)]
            self._orphans = deque(kept, maxlen=ORPHANS_MAX)
            await self._commit_frames(waited, live=False)

    async def _commit_frames(self, frames: Sequence[tuple[str, wire.Frame]], *, live: bool) -> None:
        """Commits those whose birth is known, and asks for the others."""
        if not frames:
            return
        ends = await self._persist(self._take, frames)
        for (site, frame), end in zip(frames, ends, strict=True):
            batch = frame.batch
            if end is None:
                self._ask(site, batch.birth)
                self._orphans.append((site, frame))
                continue
            self._owe(site, batch.epoch, end, [(batch.first, batch.last)])
            self.counts["frames"] += 1
            self.counts["records"] += _records(frame)
        if any(end is not None for end in ends):
            self._due_event.set()
            if live:
                self._due_now.set()

    def _take(self, frames: Sequence[tuple[str, wire.Frame]]) -> list[int | None]:
        """On the historian's thread: up to where the epoch of each frame stands without a hole.

        None of a frame whose birth is not known.
        """
        historian, births = self._historian, {(site, frame.batch.birth) for site, frame in frames}
        lacking = {pair for pair in births if not historian.knows_birth(*pair)}
        refused = [
            len(frame.batch.records) > 0 and (site, frame.batch.birth) in lacking
            for site, frame in frames
        ]
        known = [item for item, is_refused in zip(frames, refused, strict=True) if not is_refused]
        if known:
            historian.commit_frames(known)
        ends = {
            key: historian.contiguous(*key)
            for key in {(site, frame.batch.epoch) for site, frame in known}
        }
        return [
            None if is_refused else ends[site, frame.batch.epoch]
            for (site, frame), is_refused in zip(frames, refused, strict=True)
        ]

    def _ask(self, site: str, name: str) -> None:
        now_ns = self._clock.monotonic_ns()
        if now_ns - self._asked_ns.get((site, name), -(2**62)) < WANT_INTERVAL_S * 1e9:
            return
        self._asked_ns = {
            key: asked for key, asked in self._asked_ns.items() if now_ns - asked < 60 * 10**9
        }
        if len(self._asked_ns) >= ASKED_MAX:
            return  # who sends so many tables of so many sites is asked when it sends again
        self._asked_ns[site, name] = now_ns
        wanted = self._want.setdefault(site, set())
        if len(wanted) < wire.ACK_WANT_MAX:
            wanted.add(name)
        self.counts["wants"] += 1
        self._due_event.set()

    async def _persist(self, work: Callable[..., T], *args: Any) -> T:
        """Asks the historian until it can; meanwhile nothing is acknowledged, and senders wait."""
        wait_s = RETRY_S_MIN
        while True:
            try:
                result = await self._blocking(work, *args)
            except HistorianError as error:
                self.counts["failures"] += 1
                self._tell("historian", f"ingest: {error}; nothing is acknowledged meanwhile")
                await asyncio.sleep(wait_s)
                wait_s = min(RETRY_S_MAX, wait_s * 2)
            else:
                if "historian" in self._told:
                    self._told.discard("historian")
                    log.info("ingest: the historian works again")
                return result

    # ------------------------------------------------------------ out

    async def _acknowledge(self, session: MqttSession) -> None:
        while True:
            await self._due_event.wait()
            self._due_event.clear()
            self._due_now.clear()
            sites = [*{*self._due, *self._want}]
            for at in range(0, len(sites), ACKS_AT_ONCE_MAX):
                async with asyncio.TaskGroup() as group:
                    for site in sites[at : at + ACKS_AT_ONCE_MAX]:
                        group.create_task(self._acknowledge_site(session, site))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ACK_INTERVAL_S):
                    await self._due_now.wait()

    def _owe(self, site: str, epoch: int, end: int, committed: Sequence[spans.Span]) -> None:
        due = self._due.setdefault(site, {})
        before, more = due.get(epoch, (0, []))
        due[epoch] = max(end, before), spans.union([*more, *committed])

    async def _acknowledge_site(self, session: MqttSession, site: str) -> None:
        # Taken off first: what is committed while this waits is due once more.
        due = self._due.pop(site, {})
        want = tuple(sorted(self._want.pop(site, set())))
        sent = False
        try:
            contiguous = {epoch: due[epoch][0] for epoch in sorted(due)[-wire.ACK_EPOCHS_MAX :]}
            held = [
                (epoch, first, last)
                for epoch, end in contiguous.items()
                for first, last in due[epoch][1]
                if last > end
            ]
            ack = wire.Ack(contiguous, want, tuple(held[: wire.ACK_HELD_MAX]))
            await session.publish(topics.topic(site, "ack"), wire.encode_ack(ack))
            sent = True
        finally:
            # What found no room; all of it where the session broke: the next one says it.
            over = held[wire.ACK_HELD_MAX :] if sent else []
            for epoch, (end, committed) in due.items():
                if not sent or epoch not in contiguous:
                    self._owe(site, epoch, end, committed)
            for epoch, first, last in over:
                self._owe(site, epoch, contiguous[epoch], [(first, last)])
            if over or site in self._due:
                self._due_event.set()
            if want and not sent:
                self._want.setdefault(site, set()).update(want)
                self._due_event.set()
        self.counts["acks"] += 1


def _records(frame: wire.Frame) -> int:
    return len(frame.batch.records) + len(frame.batch.events)


# ---------------------------------------------------------------- as a process


async def _serve(ingest: Ingest, ready_file: Path | None, *, with_parent: bool) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    if with_parent:
        loop.add_reader(sys.stdin.fileno(), _parent_gone, loop, stop)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(ingest.run())
        ready = group.create_task(_tell_ready(ingest, ready_file))
        await stop.wait()
        running.cancel()
        ready.cancel()


def _parent_gone(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """The parent never writes: readable means that it is gone."""
    loop.remove_reader(sys.stdin.fileno())
    stop.set()


async def _tell_ready(ingest: Ingest, ready_file: Path | None) -> None:
    await ingest.wait_ready()
    if ready_file is not None:
        await asyncio.to_thread(ready_file.write_text, "ready\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """``python -m cloud.ingest``: exit status 0 after SIGTERM, 2 where it can't start."""
    parser = argparse.ArgumentParser(prog="python -m cloud.ingest", description=__doc__)
    parser.add_argument("--broker", required=True, help="mqtts://[user@]host:port, or mqtt://")
    parser.add_argument("--historian", required=True, type=Path, help="SQLite file")
    parser.add_argument("--password-file", help="file with the broker's password")
    parser.add_argument("--authority-file", help="who issued the broker's certificate (PEM)")
    parser.add_argument("--certificate-file", help="certificate of this ingest (PEM)")
    parser.add_argument("--key-file", help="its key (PEM)")
    parser.add_argument("--ready-file", type=Path, help="written when the subscriptions are up")
    parser.add_argument("--with-parent", action="store_true", help="end when stdin closes")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        historian = SqliteHistorian(options.historian)
    except HistorianError as error:
        print(error, file=sys.stderr)
        return 2
    with contextlib.closing(historian):
        try:
            asyncio.run(_start(historian, options))
        except LinkError as error:
            print(error, file=sys.stderr)
            return 2
    return 0


async def _start(historian: Historian, options: argparse.Namespace) -> None:
    ingest = Ingest(
        historian,
        options.broker,
        SystemClock(),
        password_file=options.password_file,
        tls=TlsFiles(options.authority_file, options.certificate_file, options.key_file),
    )
    await _serve(ingest, options.ready_file, with_parent=options.with_parent)


if __name__ == "__main__":
    sys.exit(main())
