"""A bridge: messages between two brokers by a table of topics (Platone's MQTT bridge).

Each end keeps a session with its broker, which holds for us what we have not acknowledged, also
while this process is away. A message is acknowledged when the other broker has it
(sync/bridge/bridge_lane.py): at least once, in order, and in bounded memory.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from config.bridges import lines_of
from config.link import BridgeEntry, BrokerConnection
from gateway.core.clock import Clock
from gateway.core.retry import pause_s
from sync.bridge.bridge_lane import Lane
from sync.bridge.bridge_session import Arrival, BridgeSession
from sync.errors import LinkError, LinkRefused
from sync.link.mqtt import address_of
from sync.topics import client_id

log = logging.getLogger(__name__)

MQTT_5: Final = 5
MQTT_3_1_1: Final = 4
STEADY_S: Final = 10.0  # a session that lasted so long was no failure
ROOM_S: Final = 0.2  # between two looks whether there is room again


@dataclass(frozen=True, slots=True)
class BridgeTiming:
    """How long is waited, in seconds.

    timeout_s      for the answer to a connection, a subscription and a publication
    backoff_*_s    pause between two tries to connect; doubles, with jitter
    """

    timeout_s: float = 5.0
    backoff_s_min: float = 0.5
    backoff_s_max: float = 10.0


class _End:
    """One broker: a session as long as there can be one."""

    def __init__(
        self, name: str, entry: BrokerConnection, client_id: str, clock: Clock, timing: BridgeTiming
    ) -> None:
        self.name = name
        self.last_error = ""
        self.sessions = 0
        self._entry = entry
        self._client_id = client_id
        self._clock = clock
        self._timing = timing
        self._lane: Lane | None = None  # of which this is the source
        self._session: BridgeSession | None = None
        self._changed = asyncio.Event()
        self._version = MQTT_5

    def feed(self, lane: Lane) -> None:
        """What comes in goes into `lane`."""
        self._lane = lane

    @property
    def connected(self) -> bool:
        """True while there is a session."""
        return self._session is not None

    async def session(self) -> BridgeSession:
        """Waits for a session."""
        while self._session is None or not self._session.alive:
            self._changed.clear()
            await self._changed.wait()
        return self._session

    async def run(self) -> None:
        """Connect, again and again, until cancelled."""
        failures = 0
        while True:
            began_ns = self._clock.monotonic_ns()
            try:
                error = await self._live()
            except LinkError as refusal:
                error = refusal
            if str(error) != self.last_error:
                log.warning("bridge %s: %s", self.name, error)
            self.last_error = str(error)
            steady = self._clock.monotonic_ns() - began_ns > STEADY_S * 1e9
            failures = 0 if steady else failures + 1
            shortest_s, longest_s = self._timing.backoff_s_min, self._timing.backoff_s_max
            chance = self._clock.random()
            await asyncio.sleep(pause_s(failures, shortest_s, longest_s, chance))
            while self._lane is not None and not self._lane.roomy:
                await asyncio.sleep(ROOM_S)

    async def _live(self) -> LinkError:
        """One session, in MQTT 5 where the broker speaks it; returns why it ended."""
        try:
            return await self._speak(self._version)
        except LinkRefused as refusal:
            if self._version != MQTT_5:
                raise
            # One that listens and does not speak MQTT 5 says so, or closes the connection.
            if "protocol version" in str(refusal):
                self._version = MQTT_3_1_1
            return await self._speak(MQTT_3_1_1)

    async def _speak(self, version: int) -> LinkError:
        lane = self._lane
        filters = lane.filters if lane is not None else []
        session: BridgeSession
        session = BridgeSession(
            address_of(self._entry),
            client_id=self._client_id,
            keepalive_s=self._entry.KeepAlive,
            timeout_s=self._timing.timeout_s,
            version=version,
            persistent=bool(filters),
            begun=lambda kept: lane.source_begun(kept) if lane is not None else None,
            take=lambda arrival: self._take(session, arrival),
        )
        async with session:
            await session.listen(filters)
            self._session = session
            self.sessions += 1
            self.last_error = ""
            self._changed.set()
            log.info("bridge %s: connected, MQTT %s", self.name, "5" if version == 5 else "3.1.1")
            try:
                return await session.over()
            finally:
                self._session = None

    def _take(self, session: BridgeSession, arrival: Arrival) -> None:
        if self._lane is not None:
            self._lane.take(session, arrival)


class Bridge:
    """One bridge of link.json. `run` it once."""

    def __init__(
        self,
        name: str,
        entry: BridgeEntry,
        site: str,
        clock: Clock,
        *,
        timing: BridgeTiming | None = None,
    ) -> None:
        """Keeps the order of the table; its lines were checked when the site was loaded."""
        timing = timing or BridgeTiming()
        mark = f"{site}/{name}"
        make = partial(_End, clock=clock, timing=timing)
        local = make(f"{name} local", entry.Local, client_id(site, name, "local"))
        remote = make(f"{name} remote", entry.Remote, client_id(site, name, "remote"))
        lines = list(zip(lines_of(name, entry), entry.Topics, strict=True))
        self._ends = {"local": local, "remote": remote}
        self._lanes: dict[str, Lane] = {}
        for direction, source, destination in (("in", remote, local), ("out", local, remote)):
            chosen = [pair for pair in lines if pair[1].Direction == direction]
            if chosen:
                lane = Lane(f"{name} {direction}", chosen, mark, clock, destination.session)
                source.feed(lane)
                self._lanes[direction] = lane

    async def run(self) -> None:
        """Forward until cancelled."""
        async with asyncio.TaskGroup() as group:
            for end in self._ends.values():
                group.create_task(end.run())
            for lane in self._lanes.values():
                group.create_task(lane.run())

    def status(self) -> dict[str, Any]:
        """Both ends and both directions; msgpack-able."""
        ends = {
            side: {"connected": end.connected, "sessions": end.sessions, "error": end.last_error}
            for side, end in self._ends.items()
        }
        return ends | {direction: lane.status() for direction, lane in self._lanes.items()}
