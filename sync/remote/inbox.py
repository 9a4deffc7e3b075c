"""The inbox: commands and schedules from outside, each carried out at most once.

A message goes this way, and each step has a receipt:

1. judge.py decides whether it counts. What doesn't is ``refused``.
2. Its id becomes durable (handled.py), also where it is refused for what it asks: ``taken``.
   From here on it can't be carried out a second time, whatever happens.
3. It is passed on to the field process, which accepts or refuses it, and tells the further steps.
4. Where that can't be, or no answer comes: ``failed``, and why. It is never sent again.

Receipts are published at once, and journaled by the field process as events: so they are
numbered, durable and part of the audit. A flood of messages that anybody can make or repeat
becomes a few events and then a count of the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from gateway.core.clock import UTC_PLAUSIBLE_NS, Clock
from gateway.core.records import Event
from gateway.core.schedule import ScheduleError
from sync.errors import StoreDamaged, StoreError
from sync.remote import judge, signed
from sync.remote.floods import Floods, Pace
from sync.remote.handled import FAILED, PASSED, Admission, Handled
from sync.remote.judge import Rules, Verdict, Wall
from sync.remote.keyring import KeyRing
from sync.remote.orders import New, orders_of
from sync.remote.receipts import INBOX, base_of, body_of

QUEUE_MAX: Final = 256  # messages that wait; further ones are refused
QUEUE_BYTES_MAX: Final = 16_000_000  # and of all of them
BATCH_MAX: Final = 64  # whose ids become durable together
LONG_BYTES: Final = 16_384
JUDGED_HERE_BYTES_MAX: Final = 65_536
TICK_S: Final = 1.0
TICK_NS: Final = 10**9
ANSWER_NS: Final = 5 * 10**9  # how long the field process has to answer
RESTART_ANSWER_NS: Final = 15 * 10**9  # the same behind a restart: the stream is resumed first
OPEN_RETRY_NS: Final = 5 * 10**9
SUMMARY_NS: Final = 10 * 10**9  # between two counts of what was refused without a receipt
REFUSALS: Final = Pace(30, 0.2)  # receipts of refusals that anybody can cause
ONE_KEY: Final = Pace(50, 10.0)  # messages of one key
TOO_FAST: Final = f"more than {ONE_KEY.per_second:g} messages a second of one key"
STRANGERS: Final = "/strangers"  # no name of a key: those who sent what nobody has signed
REPEATERS: Final = "/repeaters"  # and those who sent again what was signed for once
ASKING: Final = "/asking "  # and a key that asks what became of messages
KNOWN_MAX: Final = 10_000  # ids whose receipts are published at once, and of refused ones
WAITED_MAX: Final = 10_000  # answers of the field process that are waited for
REASON_CHARS_MAX: Final = 300
T = TypeVar("T")

log = logging.getLogger(__name__)


class NotPassedOn(Exception):
    """A message did not get to the field process, or perhaps not; the text says which."""


class Door(Protocol):
    """The ways out of the inbox; gateway/remote.py has them."""

    @property
    def ready(self) -> bool:
        """True while a field process is there."""

    async def pass_on(self, message: Mapping[str, Any]) -> None:
        """Send a message of the local stream. Raises NotPassedOn."""

    async def journal(self, body: Mapping[str, Any]) -> None:
        """Let the field process journal a receipt; kept for it while it is not there."""

    def publish(self, body: Mapping[str, Any], utc_ns: int) -> None:
        """Put a receipt on the topic of receipts; it may be dropped."""


@dataclass(slots=True)
class _Waited:
    """A message that was passed on and whose answers are waited for."""

    base: Mapping[str, Any]  # what its receipts have in common
    left: dict[str, None]
    deadline_ns: int
    late: str  # why it failed where no answer comes
    answers: list[str] = field(default_factory=list)


class Inbox:
    """The inbox of one site. `run` carries out what `put` takes."""

    def __init__(
        self, site: str, folder: Path, path: Path, expires_max_ns: int, clock: Clock, door: Door
    ) -> None:
        """`folder` is the site's, with keys.json; `path` is the file of handled ids."""
        self.taken = self.refused = 0
        self._site = site
        self._expires_max_ns = expires_max_ns
        self._path = path
        self._clock = clock
        self._door = door
        self._ring = KeyRing(folder)
        self._wall = Wall()
        self._book: Handled | None = None
        self._book_fault = ""
        self._open_ns = 0  # when to try to open the book again
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="inbox")
        self._queue: deque[tuple[str, bytes]] = deque(maxlen=QUEUE_MAX)
        self._long: deque[tuple[str, bytes]] = deque(maxlen=QUEUE_MAX)  # behind the others
        self._queued_bytes = 0
        self._filled = asyncio.Event()
        self._idle = asyncio.Event()
        self._known: OrderedDict[str, None] = OrderedDict()
        # ids that are in the book, or on their way
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._burned: OrderedDict[str, None] = OrderedDict()  # refused, and not durably so
        self._waited: dict[str, _Waited] = {}
        self._settled: list[tuple[str, str, str]] = []  # as WAITED_MAX bounds it
        self._floods = Floods()
        self._summary_ns = 0

    # ------------------------------------------------------------ what comes

    def put(self, channel: str, payload: bytes) -> None:
        """Take a message of one of `judge.CHANNELS`; it never waits."""
        payload = payload[: signed.MESSAGE_BYTES_MAX + 1]  # a longer one is refused as well
        size = self._queued_bytes + len(payload)
        queue = self._long if len(payload) > LONG_BYTES else self._queue
        if len(queue) >= QUEUE_MAX or size > QUEUE_BYTES_MAX:
            self._hold(STRANGERS, "more messages at once than can wait")
        else:
            queue.append((channel, payload))
            self._queued_bytes = size
        self.wake()

    def heard(self, event: Event) -> None:
        """A receipt came from the field process."""
        body = event.body
        name, step = str(body.get("command", "")), body.get("step")
        base = name.partition("/")[0]
        if base not in self._known or body.get("by") == INBOX:
            return
        self._door.publish(body, event.utc_ns)
        waited = self._waited.get(base)
        if waited is not None and step in ("accepted", "refused") and name in waited.left:
            del waited.left[name]
            waited.answers.append(f"{step} {body.get('reason', '')}".rstrip())
            if not waited.left:
                del self._waited[base]
                self._settled.append((base, PASSED, "; ".join(waited.answers)))
                self.wake()

    @property
    def remembers(self) -> bool:
        """True while ids can be made durable, so that messages can be taken."""
        return self._begun and not self._book_fault

    @property
    def _begun(self) -> bool:
        """True where it is known, and on the disk, from when on ids are remembered."""
        return self._book is not None and bool(self._book.since_ns) and not self._book.lost

    def status(self) -> dict[str, Any]:
        """For `gatepost status`: how many messages, how many keys, and what is wrong."""
        fault = self._book_fault or self._ring.damage
        keys = len(self._ring.keys)
        return {"taken": self.taken, "refused": self.refused, "keys": keys, "fault": fault}

    def wake(self) -> None:
        """Look at clock and keys now, and not only with the next second."""
        self._idle.clear()
        self._filled.set()

    async def idle(self) -> None:
        """Until everything that was put by now has been worked off."""
        await self._idle.wait()

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(TICK_S):
                        await self._filled.wait()
                self._filled.clear()
                await self._prepare()
                until_ns = self._clock.monotonic_ns() + TICK_NS
                while self._clock.monotonic_ns() < until_ns and (batch := self._batch()):
                    await self._handle(batch)
                await self._look_after()
                # A flood must not keep us from the keys, nor from the counts.
                if self._queue or self._long:
                    self._filled.set()
                elif not self._filled.is_set():
                    self._idle.set()
        finally:
            self._pool.shutdown(wait=True)
            if self._book is not None:
                with contextlib.suppress(StoreError):
                    self._book.settle(self._settled)
                self._book.close()

    def _batch(self) -> list[tuple[str, bytes]]:
        """The next messages; a long one, which takes its time, keeps no short one waiting."""
        queue, most = (self._queue, BATCH_MAX) if self._queue else (self._long, 1)
        batch = [queue.popleft() for _ in range(min(most, len(queue)))]
        self._queued_bytes -= sum(len(payload) for _, payload in batch)
        return batch

    async def _in_thread(self, call: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, call, *arguments)

    # ------------------------------------------------------------ before and after

    def _now_ns(self) -> int:
        return self._wall.now_ns(self._clock.utc_ns(), self._clock.monotonic_ns())

    async def _prepare(self) -> None:
        """The keys as they are now, the book open, and its beginning set once the clock is."""
        await self._in_thread(self._ring.refresh)
        mono_ns = self._clock.monotonic_ns()
        if self._book is None and mono_ns >= self._open_ns:
            self._open_ns = mono_ns + OPEN_RETRY_NS
            await self._open()
        now_ns, book = self._now_ns(), self._book
        if book is None or now_ns < UTC_PLAUSIBLE_NS or self._begun:
            return
        since_ns = now_ns + (judge.SKEW_NS if book.lost else 0)
        try:
            await self._in_thread(book.set_since, since_ns)
            self._book_fault = ""
        except StoreError as error:
            self._book_refused(error)

    async def _open(self) -> None:
        try:
            book = await self._in_thread(Handled, self._path)
        except StoreError as error:
            self._book_refused(error)
            return
        try:
            open_entries = await self._in_thread(book.unsettled)
            names = await self._in_thread(book.recent, KNOWN_MAX)
        except StoreError as error:
            self._book_refused(error)
            book.close()
            return
        self._book, self._book_fault = book, ""
        self._wall.learn(book.newest_ns)
        self._known.update(dict.fromkeys(names))
        deadline_ns = self._clock.monotonic_ns() + RESTART_ANSWER_NS
        for entry in open_entries[:WAITED_MAX]:
            writes = (f"{entry.id}/{n}" for n in range(1, entry.writes + 1))
            base = {"key": entry.name, "source": "", "type": entry.type}
            self._waited[entry.id] = _Waited(
                base,
                dict.fromkeys(writes if entry.writes else (entry.id,)),
                deadline_ns,
                "the link process ended before it heard an answer: perhaps it was passed on, and "
                "it is not sent again. Receipts of its steps, if any, stand before this one",
            )

    def _book_refused(self, error: StoreError) -> None:
        if str(error) != self._book_fault:
            log.error("commands: %s", error)
        self._book_fault = str(error)
        if isinstance(error, StoreDamaged) and self._book is not None:
            self._book.close()  # the next one sets it aside, and begins anew
            self._book = None

    async def _look_after(self) -> None:
        """Note answers, tell what got none, and count what was refused in silence."""
        mono_ns = self._clock.monotonic_ns()
        for name, waited in list(self._waited.items()):
            if mono_ns >= waited.deadline_ns:
                del self._waited[name]
                for part in waited.left:
                    await self._tell(waited.base, "failed", waited.late, command=part)
                self._settled.append((name, FAILED, waited.late))
        if self._settled and self._book is not None:
            settled, self._settled = self._settled, []
            try:
                await self._in_thread(self._book.settle, settled)
            except StoreError as error:
                self._book_refused(error)
                self._settled = (settled + self._settled)[-WAITED_MAX:]
        if mono_ns - self._summary_ns >= SUMMARY_NS:
            self._summary_ns = mono_ns
            await self._sum_up()

    async def _sum_up(self) -> None:
        for who, count, reasons in list(self._floods.counts()):
            key = {"key": "" if who.startswith("/") else who, "source": ""}
            await self._tell(key, "refused", f"and {count} more: {reasons}", count=count)

    # ------------------------------------------------------------ a batch

    async def _handle(self, batch: Sequence[tuple[str, bytes]]) -> None:
        now_ns, mono_ns = self._now_ns(), self._clock.monotonic_ns()
        since_ns = self._book.since_ns if self._book is not None else 0
        floor_ns = self._book.floor_ns if self._book is not None else 0
        ring, life_ns = self._ring, self._expires_max_ns
        rules = Rules(self._site, ring.keys, ring.fault, life_ns, since_ns, floor_ns)
        new: list[New] = []
        for verdict in await self._judged(batch, rules, now_ns):
            if not verdict.current:
                await self._refuse_stranger(verdict, mono_ns)
            elif verdict.envelope is not None and verdict.envelope.id in self._burned:
                await self._refuse_repeated(verdict, "it was refused before", mono_ns)
            elif verdict.envelope is not None:
                self._wall.learn(verdict.envelope.time_ns)
                if verdict.envelope.type == signed.QUERY and not verdict.refusal:
                    await self._answer(New(verdict), mono_ns)
                else:
                    new.append(await self._made(verdict, mono_ns))
        if new:
            await self._admit(new, now_ns, mono_ns)

    async def _judged(
        self, batch: Sequence[tuple[str, bytes]], rules: Rules, now_ns: int
    ) -> list[Verdict]:
        """On the thread where it may take long: who may sign may send what is slow to read."""
        work = partial(_judged, batch, rules, now_ns)
        long = sum(len(payload) for _, payload in batch) > JUDGED_HERE_BYTES_MAX
        return await self._in_thread(work) if long else work()

    async def _made(self, verdict: Verdict, mono_ns: int) -> New:
        """What is to be sent to the field process, or why nothing is."""
        made = New(verdict, verdict.refusal)
        envelope, key = made.envelope, made.key
        repeated = envelope.id in self._seen or envelope.id in self._known
        _remember(self._seen, envelope.id)
        if repeated:  # anybody can do that: it takes nothing of what the key is allowed
            made.refusal = "a repetition"
        elif not self._floods.let(key.name, ONE_KEY, mono_ns):
            made.refusal, made.quiet = TOO_FAST, True
        elif not made.refusal and not self._door.ready:
            made.refusal = "the field process is not running"
        elif not made.refusal and len(self._waited) >= WAITED_MAX:
            made.refusal = "too many commands wait for an answer"
        if not made.refusal:
            try:
                work = partial(orders_of, envelope, key)
                short = envelope.type == signed.COMMAND
                made.orders = work() if short else await self._in_thread(work)
            except ScheduleError as error:
                made.refusal = str(error)[:REASON_CHARS_MAX]
        return made

    async def _admit(self, new: Sequence[New], now_ns: int, mono_ns: int) -> None:
        """Make the ids durable, then carry out what is new."""
        entries = [one.entry(now_ns) for one in new]
        if self._book is None or not self._begun:
            admissions, fault = [Admission(new=False)] * len(new), self._book_fault
        else:
            try:
                newest_ns = self._wall.newest_ns
                admissions = await self._in_thread(self._book.admit, entries, newest_ns, now_ns)
                self._book_fault, fault = "", "too many of this key's messages have not expired yet"
            except StoreError as error:
                self._book_refused(error)
                admissions, fault = [Admission(new=False)] * len(new), str(error)
        for one, admission in zip(new, admissions, strict=True):
            if admission.earlier is not None:
                why = admission.earlier.outcome(now_ns)
                await self._refuse_repeated(one.verdict, why, mono_ns)
            elif not admission.new:
                _remember(self._burned, one.envelope.id)
                reason = f"its id can't be kept, so it is not carried out: {fault}"
                await self._refuse(one, one.refusal or reason)
            elif one.refusal:
                await self._refuse(one, one.refusal)
            else:
                await self._carry_out(one)

    async def _carry_out(self, one: New) -> None:
        """Pass a message on whose id is durable."""
        self.taken += 1
        base = base_of(one.verdict)
        _remember(self._known, one.envelope.id)
        await self._tell(base, "taken", "")
        late = "the field process did not answer: perhaps it has it, and it is not sent again"
        deadline_ns = self._clock.monotonic_ns() + ANSWER_NS
        waited = _Waited(base, dict.fromkeys(one.orders), deadline_ns, late)
        self._waited[one.envelope.id] = waited
        slow = one.envelope.expires_ns <= self._now_ns()
        for name, message in one.orders.items():
            try:
                if slow:
                    raise NotPassedOn("it expired while its id was made durable")
                await self._door.pass_on(message)
            except NotPassedOn as error:
                waited.left.pop(name, None)
                waited.answers.append(f"failed {error}")
                await self._tell(base, "failed", f"{error}; it is not sent again", command=name)
        if not waited.left and self._waited.pop(one.envelope.id, None) is not None:
            self._settled.append((one.envelope.id, FAILED, "; ".join(waited.answers)))

    async def _answer(self, query: New, mono_ns: int) -> None:
        """Tell what became of the messages that a query names; nothing is journaled."""
        envelope, key = query.envelope, query.key
        if not self._floods.let(f"{ASKING}{key.name}", ONE_KEY, mono_ns):
            self._hold(key.name, TOO_FAST)  # a question may be repeated by anybody
            return
        names = signed.asked_of(envelope)
        try:
            found = await self._in_thread(self._book.find, names) if self._book else {}
        except StoreError as error:
            self._book_refused(error)
            found = {}
        for name in names:
            entry = found.get(name)
            step = "unknown" if entry is None else entry.state
            reason = "" if entry is None else entry.reason
            body = {"command": name, "answers": envelope.id, "step": step, "reason": reason}
            self._door.publish({**body, "by": INBOX}, self._clock.utc_ns())

    # ------------------------------------------------------------ refusals and receipts

    def _hold(self, who: str, reason: str) -> None:
        self.refused += 1
        self._floods.hold(who, reason, self._clock.monotonic_ns())

    async def _refuse_stranger(self, verdict: Verdict, mono_ns: int) -> None:
        """Refuse what anybody could have sent: forged, altered, late, or for another site."""
        mine = verdict.envelope is not None and verdict.envelope.destination == self._site
        if verdict.proven is not None and verdict.envelope is not None and mine:
            _remember(self._burned, verdict.envelope.id)  # it might be in time by another clock
        who = STRANGERS if verdict.proven is None else REPEATERS
        await self._refuse_gated(who, base_of(verdict), verdict.refusal, mono_ns)

    async def _refuse_repeated(self, verdict: Verdict, why: str, mono_ns: int) -> None:
        """Refuse what came before: brokers deliver twice, and anybody may record and repeat."""
        base = {**base_of(verdict), "repeated": True}
        await self._refuse_gated(REPEATERS, base, f"a repetition: {why}", mono_ns)

    async def _refuse_gated(
        self, who: str, base: Mapping[str, Any], reason: str, mono_ns: int
    ) -> None:
        if not self._floods.let(who, REFUSALS, mono_ns):
            self._hold(who, reason)
            return
        self.refused += 1
        await self._tell(base, "refused", reason)

    async def _refuse(self, one: New, reason: str) -> None:
        if one.quiet:
            self._hold(one.key.name, reason)
            return
        self.refused += 1
        await self._tell(base_of(one.verdict), "refused", reason)

    async def _tell(self, base: Mapping[str, Any], step: str, reason: str, **more: Any) -> None:
        """A receipt: at once on the topic, and into the journal."""
        body = body_of(base, step, reason, **more)
        self._door.publish(body, self._clock.utc_ns())
        await self._door.journal(body)


def _judged(batch: Sequence[tuple[str, bytes]], rules: Rules, now_ns: int) -> list[Verdict]:
    return [judge.judge(payload, channel, rules, now_ns) for channel, payload in batch]


def _remember(names: OrderedDict[str, None], name: str) -> None:
    names[name] = None
    names.move_to_end(name)
    if len(names) > KNOWN_MAX:
        names.popitem(last=False)
