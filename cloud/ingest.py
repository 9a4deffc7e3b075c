"""Ingest: takes frames from the broker, commits them to the historian, and acknowledges.

An acknowledgement goes out only after the commit, and says what the historian holds, not what
this process has seen; so it may be killed at any moment. A frame whose point table is unknown
waits with its sender, who is asked for the table.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import signal
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

from cloud.historian import Historian, HistorianError, UnknownBirth
from cloud.historian_sqlite import SqliteHistorian
from gateway.core.clock import Clock, SystemClock
from sync import topics, wire
from sync.errors import LinkError
from sync.mqtt import INCOMING_MAX, Message, MqttSession, TlsFiles, parse_url

T = TypeVar("T")

ACK_INTERVAL_S: Final = 0.05
WANT_INTERVAL_S: Final = 1.0  # a birth is asked for once in this time, not once a frame
COMMIT_MESSAGES_MAX: Final = 64  # messages of one commit: one flush of the disk for all of them
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
    ) -> None:
        """Raises LinkAddress where the URL makes no sense."""
        self._historian = historian
        self._address = parse_url(broker_url, password_file, tls)
        self._clock = clock
        self._client_id = client_id
        self._keepalive_s = keepalive_s
        self._backoff_s_max = backoff_s_max
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="historian")
        self._inbox: asyncio.Queue[Message] = asyncio.Queue(maxsize=INCOMING_MAX)
        self._due: dict[str, set[int]] = {}  # gateway -> epochs to acknowledge
        self._want: dict[str, set[str]] = {}
        self._asked_ns: dict[tuple[str, str], int] = {}
        self._due_event = asyncio.Event()
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
                    connected = await self._session()
                except* LinkError as group:
                    connected = self._ready.is_set()
                    self._tell("link", f"ingest: {_first(group)}")
                self._ready.clear()
                failures = 0 if connected else failures + 1
                pause_s = min(self._backoff_s_max, BACKOFF_S_MIN * 2**failures)
                await asyncio.sleep(pause_s * (0.5 + 0.5 * self._clock.random()))
        finally:
            self._pool.shutdown(wait=True)

    async def _session(self) -> bool:
        session = MqttSession(
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
            await self._inbox.put(message)
        raise LinkError("the broker ended the session")

    async def _commit(self) -> None:
        while True:
            messages = [await self._inbox.get()]
            while len(messages) < COMMIT_MESSAGES_MAX and not self._inbox.empty():
                messages.append(self._inbox.get_nowait())
            frames: list[tuple[str, wire.Frame]] = []
            for message in messages:
                found = topics.parse(message.topic)
                if found is None:
                    continue
                site, channel = found
                try:
                    if channel == "birth":
                        await self._commit_frames(frames)
                        frames = []
                        await self._birth(site, message.payload)
                    else:
                        frames.append((site, wire.decode_frame(message.payload)))
                except wire.WireError as error:
                    self.counts["malformed"] += 1
                    self._tell(f"{site}/{channel}", f"ingest: bad {channel} of {site}: {error}")
            await self._commit_frames(frames)

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

    async def _commit_frames(self, frames: list[tuple[str, wire.Frame]]) -> None:
        known = [item for item in frames if await self._is_known(*item)]
        if not known:
            return
        try:
            await self._persist(self._historian.commit_frames, known)
        except UnknownBirth as error:
            self._ask(error.gateway, error.name)
            return
        for site, frame in known:
            self._due.setdefault(site, set()).add(frame.batch.epoch)
            self.counts["frames"] += 1
            self.counts["records"] += len(frame.batch.records) + len(frame.batch.events)
        self._due_event.set()

    async def _is_known(self, site: str, frame: wire.Frame) -> bool:
        name = frame.batch.birth
        if not len(frame.batch.records):
            return True
        if await self._persist(self._historian.knows_birth, site, name):
            return True
        self._ask(site, name)
        return False

    def _ask(self, site: str, name: str) -> None:
        now_ns = self._clock.monotonic_ns()
        if now_ns - self._asked_ns.get((site, name), -(2**62)) < WANT_INTERVAL_S * 1e9:
            return
        self._asked_ns = {
            key: asked for key, asked in self._asked_ns.items() if now_ns - asked < 60 * 10**9
        }
        self._asked_ns[site, name] = now_ns
        wanted = self._want.setdefault(site, set())
        if len(wanted) < wire.ACK_WANT_MAX:
            wanted.add(name)
        self.counts["wants"] += 1
        self._due_event.set()

    async def _persist(self, work: Callable[..., T], *args: Any) -> T:
        """Asks the historian until it can; meanwhile nothing is acknowledged, and senders wait."""
        pause_s = RETRY_S_MIN
        while True:
            try:
                result = await self._blocking(work, *args)
            except HistorianError as error:
                self.counts["failures"] += 1
                self._tell("historian", f"ingest: {error}; nothing is acknowledged meanwhile")
                await asyncio.sleep(pause_s)
                pause_s = min(RETRY_S_MAX, pause_s * 2)
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
            for site in {*self._due, *self._want}:
                await self._acknowledge_site(session, site)
            await asyncio.sleep(ACK_INTERVAL_S)

    async def _acknowledge_site(self, session: MqttSession, site: str) -> None:
        epochs = sorted(self._due.get(site, set()))[-wire.ACK_EPOCHS_MAX :]
        want = tuple(sorted(self._want.get(site, set())))
        # Taken off first: what is committed while this waits is due once more.
        self._due.pop(site, None)
        self._want.pop(site, None)
        sent = False
        try:
            contiguous = {
                epoch: await self._persist(self._historian.contiguous, site, epoch)
                for epoch in epochs
            }
            ack = wire.encode_ack(wire.Ack(contiguous, want))
            await session.publish(topics.topic(site, "ack"), ack)
            sent = True
        finally:
            if not sent:  # the session broke: the next one says it
                self._due.setdefault(site, set()).update(epochs)
                self._due_event.set()
        self.counts["acks"] += 1


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


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
