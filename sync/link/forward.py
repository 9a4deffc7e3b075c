"""The forwarder: brings what the store holds to one broker, and lets it go only when it arrived.

One for each link, with a place of its own in the store; what one link can't send holds up no other.
`Ack` says whose word counts: the historian's, by sequence numbers, or the broker's. A session is
session.py, what it may send and when lanes.py and pace.py, the form of it `sync.forms`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from config.link import CLOUD, BrokerEntry
from gateway.core.clock import Clock
from gateway.core.retry import apart, first_of, pause_s
from sync import topics
from sync.errors import LinkError, StoreError
from sync.forms.forms import Form
from sync.forms.gatepost_form import GatepostForm
from sync.link.lanes import Timing
from sync.link.ledger import Ledger
from sync.link.mqtt import MqttSession, Will, address_of
from sync.link.pace import Pace
from sync.link.session import Handler, Session, SessionOver, Terms
from sync.store.async_store import AsyncStore
from sync.store.store import Backlog

BACKLOG_LOOK_S: Final = 0.25
BACKLOG_RECORDS_PER_S: Final = 50_000
LOOKS_MAX: Final = 20  # of the backlog; its trend is that of so many looks
REFUSALS_TOLD: Final = 2  # sessions that broke at one message as another one had before
SETTLE_RETRY_S: Final = 1.0
SETTLE_LAST_S: Final = 1.0  # at the end, for what arrived and the store holds still

log = logging.getLogger(__name__)


class Forwarder:
    """Forwards the frames of one store over one link, for ever."""

    def __init__(
        self,
        store: AsyncStore,
        name: str,
        entry: BrokerEntry,
        site: str,
        clock: Clock,
        *,
        form: Form | None = None,
        records_per_s: int = BACKLOG_RECORDS_PER_S,
        timing: Timing | None = None,
        connect: Callable[..., MqttSession] = MqttSession,
        incoming: Mapping[str, Handler] | None = None,
    ) -> None:
        """A link `name` of the store's links, to the broker of `entry`.

        form           None = frames as they stand in the store
        records_per_s  of a backlog
        connect        makes a session, with the arguments of `MqttSession`
        incoming       channel -> who gets the payloads that come in on it

        Raises ValueError where `site` can't stand in a topic, or for hours that are none.
        """
        topics.check_site(site)
        if form is None:
            client_id = topics.client_id(site, *(() if name == CLOUD else (name,)))
            form = GatepostForm(site, client_id=client_id, acknowledged=entry.Ack == "historian")
        pace = Pace(entry.BytesPerSecondMax, records_per_s, entry.BacklogHours)
        self._terms = Terms(
            store, name, entry, site, clock, timing or Timing(), form, pace, dict(incoming or {})
        )
        self._connect = connect
        self._ledger = Ledger()
        self._session: Session | None = None
        self._sessions = 0
        self._backlog = Backlog(0, 0, 0, 0)
        self._looks: deque[tuple[int, int]] = deque(maxlen=LOOKS_MAX)  # time in ns, records

    # ------------------------------------------------------------ for the link process

    @property
    def name(self) -> str:
        """The link's name in the store and in the configuration."""
        return self._terms.name

    def notify_appended(self) -> None:
        """Something new stands in the store (a frame or a birth). Call it on the loop's thread."""
        if self._session is not None:
            self._session.ring()

    def say(self, channel: str, payload: bytes) -> None:
        """Publish a message as soon as there is a session; of many the oldest are dropped.

        For what is durable elsewhere, and only sooner known in this way.
        """
        assert channel in topics.CHANNELS, channel
        self._ledger.said.append((channel, payload))
        self.notify_appended()

    def status(self) -> dict[str, Any]:
        """What an operator wants to know, as plain values."""
        session, entry = self._session, self._terms.entry
        lanes = session.lanes if session is not None else None
        return {
            "connected": session is not None,
            "url": entry.URL,
            "acknowledged": self._ledger.newest,
            "in_flight": lanes.in_flight if lanes is not None else 0,
            "draining": lanes is not None and lanes.draining,
            "backlog_frames": self._backlog.frames,
            "backlog_records": self._backlog.records,
            "backlog_bytes": self._backlog.bytes,
            "backlog_oldest_utc_ns": self._backlog.oldest_utc_ns,
            "empty_in_s": self._empty_in_s(),
            "held_back": session.held_back() if session is not None else "",
            "reconnects": max(0, self._sessions - 1),
            "resends": self._ledger.resends,
            "last_error": self._ledger.last_error,
        }

    def _empty_in_s(self) -> float | None:
        """How long the backlog will take at its present trend; None where it doesn't shrink."""
        if len(self._looks) < 2 or not self._backlog.records:
            return None
        (then_ns, then), (now_ns, now) = self._looks[0], self._looks[-1]
        return now * (now_ns - then_ns) / 1e9 / (then - now) if then > now else None

    async def run(self) -> None:
        """Connects, forwards, and connects again; ends only when it is cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._look())
                group.create_task(self._settle())
                group.create_task(self._reconnect())
        finally:
            with contextlib.suppress(StoreError, TimeoutError):
                async with asyncio.timeout(SETTLE_LAST_S):
                    await self._settle_now()

    # ------------------------------------------------------------ the store

    async def _look(self) -> None:
        terms = self._terms
        while True:
            with contextlib.suppress(StoreError):
                self._backlog = await terms.store.backlog(terms.name)
                self._looks.append((terms.clock.monotonic_ns(), self._backlog.records))
            await asyncio.sleep(BACKLOG_LOOK_S)

    async def _settle(self) -> None:
        """Tells the store what arrived, not oftener than `settle_s`: each time is a commit."""
        while True:
            await self._ledger.settle.wait()
            self._ledger.settle.clear()
            try:
                await self._settle_now()
            except StoreError as error:
                self._note(error)
                self._ledger.settle.set()
                await asyncio.sleep(SETTLE_RETRY_S)
            await asyncio.sleep(self._terms.timing.settle_s)

    async def _settle_now(self) -> None:
        ledger, terms = self._ledger, self._terms
        for epoch, seq in [*ledger.unsettled.items()]:
            await terms.store.acknowledge(terms.name, epoch, seq)
            if ledger.unsettled.get(epoch) == seq:
                del ledger.unsettled[epoch]
        if ids := [*ledger.done]:
            await terms.store.discard(terms.name, ids)
            for number in ids:
                ledger.done.pop(number, None)

    # ------------------------------------------------------------ sessions

    async def _reconnect(self) -> None:
        timing, failures = self._terms.timing, 0
        while True:
            sessions = self._sessions
            try:
                await apart(self._run_session())
            except* (LinkError, StoreError) as group:
                self._note(first_of(group), self._suspect())
            except* SessionOver:
                log.info("link %s: a new session begins", self.name)
            well = self._sessions > sessions and not self._ledger.refusals
            failures = 0 if well else failures + 1
            chance = self._terms.clock.random()
            await asyncio.sleep(
                pause_s(failures, timing.backoff_s_min, timing.backoff_s_max, chance)
            )

    def _suspect(self) -> str:
        """What a broker may not like, where sessions break at the same message again and again."""
        size, topic = self._ledger.refused
        if self._ledger.refusals < REFUSALS_TOLD:
            return ""
        return f"; each time at {size} bytes on {topic}: is that more than this broker takes?"

    def _note(self, error: BaseException, suspect: str = "") -> None:
        text = f"{error}{suspect}"
        if text != self._ledger.last_error:  # an outage is one line in the log, not one a second
            log.warning("link %s: %s", self.name, text)
        self._ledger.last_error = text

    async def _run_session(self) -> None:
        terms = self._terms
        entry, opening = terms.entry, terms.form.opening()
        address = address_of(entry)
        will = opening.will
        connection = self._connect(
            address,
            client_id=opening.client_id,
            keepalive_s=entry.KeepAlive,
            timeout_s=terms.timing.timeout_s,
            will=will and Will(will.topic, will.payload, will.qos, will.retain),
        )
        async with connection:
            wanted = [*opening.subscriptions]
            wanted += [topics.topic(terms.site, channel) for channel in terms.incoming]
            if wanted:
                await connection.subscribe(wanted)
            session = Session(terms, self._ledger, connection)
            try:
                await session.run(lambda: self._begun(session, address.url))
            finally:
                self._session = None

    def _begun(self, session: Session, url: str) -> None:
        self._session = session
        self._sessions += 1
        log.info("link %s: connected to %s", self.name, url)
