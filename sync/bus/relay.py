"""The site bus of the seeds: ``Relay/...`` on an MQTT broker, spoken as its instrument servers do.

It carries the present: values at a period and on request, and requests to write. What the bus
misses while its broker is away is not sent later, because its readers take every message for now;
links with a place in the store are for data without gaps.

Requests are not signed. They reach only tags that `SiteBus.Writes` names, as leases with the origin
``remote``, through the field's one way for commands; the field refuses what it refuses to anybody.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from config.link import SiteBusEntry
from config.points import fits
from gateway.core.clock import Clock
from gateway.core.records import Birth, Command, Event
from gateway.core.retry import apart, first_of, pause_s
from sync.bus import relay_messages as relay
from sync.bus.relay_messages import BadRequest, Reading
from sync.bus.relay_table import NO_READ_BACK, RelayTable
from sync.errors import LinkError
from sync.link.mqtt import Message, MqttSession, address_of
from sync.remote.floods import Floods, Pace
from sync.topics import client_id

log = logging.getLogger(__name__)

SOURCE: Final = "site bus"
EXPIRES_S: Final = 5.0  # a write that the field does not get by then is not executed
WRITE_WAIT_S: Final = 10.0  # for the last receipt of a write
SETTLE_S: Final = 0.1  # behind it, until the read-back of the same scan is here too
WRITES_OPEN_MAX: Final = 64  # channels whose write waits for its receipts
WRITES_PER_S: Final = 20  # commands and refusals that are recorded, on average
WRITES_BURST: Final = 100
REQUESTS_PER_S: Final = 50  # messages to the bus that are read at all, on average
REQUESTS_BURST: Final = 200
ISSUES_MAX: Final = 10  # messages about channels without a value, for one equipment at a time
SAY_MAX: Final = 500  # messages that wait for the session
RETRY_S_MIN: Final = 0.5
RETRY_S_MAX: Final = 30.0
_LAST_STEPS: Final = ("verified", "driven", "refused", "failed", "released")
_TOO_MANY: Final = "too many writes at once; ask again later"

# Passes a command on to the field; what is wrong, or empty.
Submit = Callable[[Command], Awaitable[str]]
# Lets the field record a refusal: the body of a receipt event.
Report = Callable[[Mapping[str, Any]], Awaitable[None]]


@dataclass(slots=True)
class _Write:
    """A request to write, on its way: the channels whose last receipt is still missing."""

    equipment: str
    open: dict[str, str] = field(default_factory=dict)  # id of the command -> channel
    accepted: set[str] = field(default_factory=set)  # of the channels
    taken: dict[str, int] = field(default_factory=dict)  # channel -> point that shows it
    values: dict[str, tuple[float, int]] = field(default_factory=dict)  # what no point shows
    done: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(slots=True)
class _Counts:
    """What happened since the start."""

    published: int = 0
    requests: int = 0
    commands: int = 0
    refused: int = 0
    pills: int = 0
    dropped: int = 0  # messages that found no room, or were too many


class SiteBus:
    """One site's equipment on its bus. `run` it once; the rest may be called at any time."""

    def __init__(
        self,
        entry: SiteBusEntry,
        site: str,
        equipment: Collection[str],
        clock: Clock,
        submit: Submit,
        report: Report,
        *,
        connect: Callable[..., MqttSession] = MqttSession,
    ) -> None:
        """`equipment` are the names that config.site_bus.served gives."""
        self._entry = entry
        self._site = site
        self._clock = clock
        self._submit = submit
        self._report = report
        self._connect = connect
        self._table = RelayTable(equipment, detail=entry.Detail)
        self._stopped: set[str] = set()  # by a poison pill
        self._missing: dict[str, frozenset[str]] = {}  # equipment -> channels without a value
        self._alive = False  # the field is there
        self._said: deque[tuple[str, bytes]] = deque(maxlen=SAY_MAX)
        self._ring = asyncio.Event()
        self._changed = asyncio.Event()  # other equipment than the session serves
        self._writes: dict[str, _Write] = {}  # id of a command -> the request that it is of
        self._answers: set[asyncio.Task[None]] = set()
        self._floods = Floods()
        self._counts = _Counts()
        self._connected = False
        self._last_error = ""

    # ------------------------------------------------------------ from the field

    def born(self, birth: Birth, rows: NDArray[np.void]) -> None:
        """The field's whole table: (P,) POINT rows, row 0 reserved."""
        before = self._table.equipment
        self._table.born(birth, rows)
        self._alive = True
        if self._table.equipment != before:
            self._changed.set()

    def update(self, records: NDArray[np.void]) -> None:
        """Changes, as (N,) RECORD rows."""
        self._table.update(records)

    def event(self, event: Event) -> None:
        """An event of the field's stream; receipts of the bus's own commands are waited for."""
        if event.kind == "receipt" and event.body.get("command") in self._writes:
            self._receipt(event.body)

    def lost(self) -> None:
        """The field is gone: the bus says so once, and shows no value until it is back."""
        self._table.lost()
        if self._alive:
            self._tell_gone()
        self._alive = False

    def _tell_gone(self) -> None:
        for name in self._speaking():
            text = "[The gateway's field process is gone: no values]"
            self._say(relay.SERVER_ISSUE + name, relay.issue(text))

    def status(self) -> dict[str, Any]:
        """Figures for the link's health; msgpack-able."""
        counts = self._counts
        return {
            "connected": self._connected,
            "last_error": self._last_error,
            "equipment": len(self._speaking()),
            "published": counts.published,
            "requests": counts.requests,
            "commands": counts.commands,
            "refused": counts.refused,
            "pills": counts.pills,
            "dropped": counts.dropped,
        }

    def _speaking(self) -> list[str]:
        return [name for name in self._table.equipment if name not in self._stopped]

    # ------------------------------------------------------------ the session

    async def run(self) -> None:
        """Speak on the bus until cancelled; connects again and again."""
        failures = 0
        try:
            while True:
                began_ns = self._clock.monotonic_ns()
                try:
                    await apart(self._session())
                    continue  # other equipment: at once
                except* LinkError as group:
                    self._note(group)
                finally:
                    self._connected = False
                lasted_s = (self._clock.monotonic_ns() - began_ns) / 1e9
                failures = failures + 1 if lasted_s < RETRY_S_MAX else 0
                chance = self._clock.random()
                await asyncio.sleep(pause_s(failures, RETRY_S_MIN, RETRY_S_MAX, chance))
        finally:
            for task in self._answers:
                task.cancel()
            await asyncio.gather(*self._answers, return_exceptions=True)

    def _note(self, group: BaseExceptionGroup[LinkError]) -> None:
        error = first_of(group)
        if str(error) != self._last_error:
            log.warning("site bus: %s", error)
        self._last_error = str(error)

    async def _session(self) -> None:
        """One session; returns when other equipment is to be served."""
        self._changed.clear()
        session = self._connect(
            address_of(self._entry),
            client_id=client_id(self._site, "site", "bus"),
            keepalive_s=self._entry.KeepAlive,
        )
        async with session:
            fronts, names = (relay.REQUEST, relay.POISON_PILL), self._table.equipment
            if names:
                # QoS 0: a request that the broker repeats must not be executed twice.
                await session.subscribe((f + name for name in names for f in fronts), qos=0)
            self._connected, self._last_error = True, ""
            log.info("site bus: connected, %d equipment", len(names))
            self._counts.dropped += len(self._said)
            self._said.clear()  # values and troubles of another moment
            self._missing.clear()
            if not self._alive:  # it was said to a session that is over
                self._tell_gone()
            tasks = [
                asyncio.create_task(self._speak(session)),
                asyncio.create_task(self._publish_values()),
                asyncio.create_task(self._listen(session)),
                asyncio.create_task(self._changed.wait()),
            ]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                ended = await asyncio.gather(*tasks, return_exceptions=True)
            errors = [error for error in ended if isinstance(error, Exception)]
            if errors:
                raise ExceptionGroup("site bus", errors)

    def _say(self, topic: str, payload: bytes) -> None:
        if len(self._said) == SAY_MAX:
            self._counts.dropped += 1
        self._said.append((topic, payload))
        self._ring.set()

    async def _speak(self, session: MqttSession) -> None:
        """Send what is said. The fence finds a half-open session, and bounds what is on the way."""
        for name in self._speaking():
            await session.publish(relay.ALIVE, relay.alive(name), qos=0)
        while True:
            await self._ring.wait()
            self._ring.clear()
            while self._said:
                topic, payload = self._said.popleft()
                await session.publish(topic, payload, qos=0)
                self._counts.published += 1
            await session.fence()

    # ------------------------------------------------------------ values

    async def _publish_values(self) -> None:
        """All values of each equipment at the period's grid; what was missed is left out."""
        period_ns = int(self._entry.Period * 1e9)
        due_ns = self._clock.monotonic_ns()
        while True:
            for name in self._speaking() if self._alive else ():
                while len(self._said) > SAY_MAX // 2:  # the broker does not keep up
                    await asyncio.sleep(SETTLE_S)
                self._publish(name)
            self._ring.set()
            now_ns = self._clock.monotonic_ns()
            due_ns += (1 + max(0, now_ns - due_ns) // period_ns) * period_ns
            await asyncio.sleep((due_ns - now_ns) / 1e9)

    def _publish(self, equipment: str) -> None:
        readings, missing = self._readings(equipment, self._table.readable(equipment))
        known = self._missing.get(equipment, frozenset())
        self._missing[equipment] = frozenset(missing)
        self._tell_missing(equipment, {n: why for n, why in missing.items() if n not in known})
        self._say(relay.DATA + equipment, relay.data(equipment, readings))

    def _readings(
        self, equipment: str, channels: Collection[str]
    ) -> tuple[dict[str, Reading], dict[str, str]]:
        """Values, and why the others have none."""
        readings, missing = {}, {}
        for channel in channels:
            point = self._table.point(equipment, channel)
            if point is None:
                missing[channel] = "there is no such channel"
                continue
            reading = self._table.reading(point)
            if isinstance(reading, Reading):
                readings[channel] = reading
            else:
                missing[channel] = reading
        return readings, missing

    def _tell_missing(self, equipment: str, missing: Mapping[str, str]) -> None:
        topic = relay.COMM_ISSUE + equipment
        for channel, why in list(missing.items())[:ISSUES_MAX]:
            self._say(topic, relay.channel_issue(equipment, "Read", channel, why))
        if len(missing) > ISSUES_MAX:
            more = f"and {len(missing) - ISSUES_MAX} more channels have no value"
            self._say(topic, relay.issue(f"Issue with {equipment} Read: {more}"))

    # ------------------------------------------------------------ requests

    async def _listen(self, session: MqttSession) -> None:
        async for message in session.messages():
            await self._take(message)

    async def _take(self, message: Message) -> None:
        for front in (relay.REQUEST, relay.POISON_PILL):
            equipment = message.topic.removeprefix(front)
            if not message.topic.startswith(front) or equipment not in self._speaking():
                continue
            pace = Pace(REQUESTS_BURST, REQUESTS_PER_S)
            if not self._floods.let("requests", pace, self._clock.monotonic_ns()):
                self._counts.dropped += 1  # the process has links to serve
                continue
            if message.retained:  # old: whoever left it there may be long gone
                reason = "a retained message is not executed"
                self._say(relay.SERVER_ISSUE + equipment, relay.bad_request(reason))
            elif front == relay.POISON_PILL:
                await self._swallow(equipment)
            else:
                await self._request(equipment, message.payload)

    async def _swallow(self, equipment: str) -> None:
        """A poison pill. It never stops a plant: at most our own voice for one equipment."""
        self._counts.pills += 1
        allowed = self._entry.PoisonPill
        text = "Poison pill arrived - server shutting down"
        if not allowed:
            text = "Poison pill arrived - ignored: this gateway runs the plant"
        self._say(relay.SERVER_ISSUE + equipment, relay.issue(text))
        log.warning("site bus: %s: %s", equipment, text)
        if allowed:
            self._stopped.add(equipment)
        step = "taken" if allowed else "refused"
        if self._afford():
            await self._record(equipment, step, "poison pill")

    async def _request(self, equipment: str, payload: bytes) -> None:
        self._counts.requests += 1
        try:
            request = relay.parse_request(payload)
        except BadRequest as error:
            self._say(relay.SERVER_ISSUE + equipment, relay.bad_request(str(error)))
            return
        if request.write:
            await self._write(equipment, request.channels)
            return
        readings, missing = self._readings(equipment, request.channels)
        self._tell_missing(equipment, missing)
        self._say(relay.DATA + equipment, relay.data(equipment, readings))

    # ------------------------------------------------------------ writes

    async def _write(self, equipment: str, channels: Mapping[str, Any]) -> None:
        write = _Write(equipment)
        for channel, value in channels.items():
            reason = await self._command(write, channel, value)
            if reason:
                await self._refuse(equipment, channel, reason)
        task = asyncio.create_task(self._answer(write))
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    async def _command(self, write: _Write, channel: str, value: Any) -> str:
        """Passes one channel's write on to the field; why not, or empty."""
        if not self._afford() or len(self._writes) >= WRITES_OPEN_MAX:
            return _TOO_MANY
        point = self._table.point(write.equipment, channel)
        if point is None:
            return "there is no such channel"
        if not fits(point["tag"], self._entry.Writes):
            return "the bus may not write it (SiteBus.Writes)"
        try:
            number = relay.number_of(point, value)
        except BadRequest as error:
            return str(error)
        lease_ns = int(self._entry.Lease * 1e9)
        command = Command(
            id=self._clock.new_id(),
            tag=point["tag"],
            value=number,
            origin="remote",
            lease_ns=min(lease_ns, point["lease_ns"] or lease_ns),
            expires_ns=self._clock.utc_ns() + int(EXPIRES_S * 1e9),
            source=SOURCE,
        )
        self._writes[command.id] = write
        write.open[command.id] = channel
        self._counts.commands += 1
        reason = await self._submit(command)
        if reason:
            self._close(command.id)
        return reason

    def _afford(self) -> bool:
        """Commands and refusals are recorded for good, so they have a rate."""
        pace = Pace(WRITES_BURST, WRITES_PER_S)
        return self._floods.let("writes", pace, self._clock.monotonic_ns())

    async def _refuse(self, equipment: str, channel: str, reason: str) -> None:
        self._counts.refused += 1
        self._tell_write(equipment, channel, reason)
        if reason != _TOO_MANY:
            tag = f"{equipment}.{channel}"
            await self._record(tag, "refused", reason)

    async def _record(self, tag: str, step: str, reason: str) -> None:
        """A receipt event of something that never became a command of the field."""
        await self._report(
            {
                "command": self._clock.new_id(),
                "tag": tag,
                "origin": "remote",
                "source": SOURCE,
                "step": step,
                "reason": reason,
            }
        )

    def _close(self, command: str) -> str:
        """The write of a channel is over; returns the channel."""
        write = self._writes.pop(command)
        channel = write.open.pop(command)
        if not write.open:
            write.done.set()
        return channel

    def _receipt(self, body: Mapping[str, Any]) -> None:
        """A step of one of our commands. What is wrong is said at once, with its channel."""
        command, step, reason = body["command"], body["step"], str(body.get("reason", ""))
        write = self._writes[command]
        channel = write.open[command]
        point = self._table.point(write.equipment, channel)
        shown = point["read_back"] if point is not None else NO_READ_BACK
        if step == "limited":
            self._tell_write(write.equipment, channel, reason)
        if step == "accepted":
            write.accepted.add(channel)
            if reason:  # it is not in force: nothing is driven or verified for it
                self._close(command)
                write.taken[channel] = shown
                self._tell_write(write.equipment, channel, f"accepted, but {reason}")
        if step not in _LAST_STEPS or (step == "driven" and shown != NO_READ_BACK):
            return
        self._close(command)
        if step == "verified":
            write.taken[channel] = shown
        elif step == "driven":  # nothing shows it: the device has taken it, and that is all
            write.values[channel] = (float(body["value"]), self._clock.utc_ns())
        else:
            write.taken |= {} if step == "refused" else {channel: shown}
            self._counts.refused += step == "refused"
            ended = "ended: " if step == "released" else ""
            self._tell_write(write.equipment, channel, ended + reason)

    def _tell_write(self, equipment: str, channel: str, reason: str) -> None:
        text = relay.channel_issue(equipment, "Write", channel, reason)
        self._say(relay.COMM_ISSUE + equipment, text)

    def _late(self, write: _Write, command: str) -> None:
        channel = self._close(command)
        text = f"no receipt within {WRITE_WAIT_S:g} s"
        if channel in write.accepted:  # it moves on a ramp, or somebody else took the output
            text = f"accepted, but not confirmed within {WRITE_WAIT_S:g} s"
            point = self._table.point(write.equipment, channel)
            write.taken[channel] = point["read_back"] if point is not None else NO_READ_BACK
        self._tell_write(write.equipment, channel, text)

    async def _answer(self, write: _Write) -> None:
        """The read-back, when every channel's write is over."""
        try:
            async with asyncio.timeout(WRITE_WAIT_S):
                while write.open:
                    write.done.clear()
                    await write.done.wait()
        except TimeoutError:
            for command in list(write.open):
                self._late(write, command)
        finally:
            for command in list(write.open):
                self._close(command)
        await asyncio.sleep(SETTLE_S)
        readings = {c: Reading(v, utc_ns, {}) for c, (v, utc_ns) in write.values.items()}
        for channel, shown in write.taken.items():
            point = self._table.point(write.equipment, channel)
            reading = "gone" if point is None else self._table.reading(point, shown)
            if isinstance(reading, Reading):
                readings[channel] = reading
        self._say(relay.DATA + write.equipment, relay.data(write.equipment, readings))
