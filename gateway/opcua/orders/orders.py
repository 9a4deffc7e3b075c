"""Commands of OPC UA clients on their way to the field process, and what it said of them.

A client waits for the first receipt that decides, and a moment longer for the read-back. Commands
expire when their client is told that no answer came: what is reported as lost is not begun later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from config.points import PointDef
from gateway.core.clock import Clock
from gateway.core.records import Batch, Command
from gateway.opcua.desk import Desk, NotPassedOn
from gateway.opcua.orders.outcomes import Outcome, refused_here
from gateway.opcua.transport.session import Session
from gateway.opcua.values import Values
from sync.remote.floods import Floods, Pace

ANSWER_S: Final = 3.0  # for "accepted" or "refused"; a common client waits 4 s for a response
READ_BACK_S: Final = 0.5  # behind "accepted", for the read-back of an output
ACTION_S: Final = 2.0  # the same for what the next scan decides: states, alarms, bypasses
PENDING_MAX: Final = 1_000  # commands that wait for an answer, of all clients
SOURCE_CHARS_MAX: Final = 256
COMMENT_CHARS_MAX: Final = 1_000
PACE: Final = Pace(200, 50.0)  # commands of one user
STOPS: Final = Pace(20, 5.0)  # emergency stops, which wait behind no other command of his
ACKNOWLEDGED: Final = Pace(1_000, 200.0)  # alarms: a flood of them is acknowledged at once
BY: Final = "opcua"  # under `by` of a receipt that does not come from the field process
STOP_TAG: Final = "Gateway.E_Stop"
_ENDS: Final = ("refused", "verified", "failed", "released")
_TOO_FAST: Final = f"more than {PACE.per_second:g} commands a second of one user"


@dataclass(slots=True, eq=False)
class _Waiting:
    """A command that was passed on, and the steps that were heard of it."""

    heard: asyncio.Event = field(default_factory=asyncio.Event)
    steps: list[Mapping[str, Any]] = field(default_factory=list)

    def take(self, body: Mapping[str, Any]) -> None:
        """One more receipt."""
        self.steps.append(body)
        self.heard.set()


class Orders:
    """Passes commands on and answers with what became of them. Bounded; nothing is repeated."""

    def __init__(self, desk: Desk, clock: Clock, values: Values | None = None) -> None:
        """`values` has the points, which say whether an output has a read-back."""
        self._desk = desk
        self._clock = clock
        self._values = values
        self._waiting: dict[str, _Waiting] = {}
        self._floods = Floods()

    def new(
        self,
        session: Session,
        tag: str,
        value: float = 0.0,
        *,
        action: str = "write",
        lease_ns: int = 0,
        release: bool = False,
        comment: str = "",
        seen_utc_ns: int = 0,
    ) -> Command:
        """A command of a session's user. An emergency stop never expires; all others do."""
        stop = tag == STOP_TAG and bool(value)
        return Command(
            id=self._clock.new_id(),
            tag=tag,
            value=value,
            lease_ns=lease_ns,
            expires_ns=0 if stop else self._clock.utc_ns() + int(ANSWER_S * 1e9),
            release=release,
            source=source_of(session),
            action=action,
            comment=comment[:COMMENT_CHARS_MAX],
            seen_utc_ns=seen_utc_ns,
        )

    def _let(self, session: Session, command: Command) -> bool:
        """True where one more command of the session's user may pass; counts it."""
        now_ns, name = self._clock.monotonic_ns(), session.user.name
        if not command.expires_ns:
            return self._floods.let(f"stop/{name}", STOPS, now_ns)
        if command.action == "acknowledge":
            return self._floods.let(f"acknowledge/{name}", ACKNOWLEDGED, now_ns)
        return self._floods.let(name, PACE, now_ns)

    def may_note(self, session: Session) -> Outcome | None:
        """Why nothing more is journaled for the session's user, as `admit` says it of commands.

        For what is no command and has a receipt all the same; it has the same pace.
        """
        if self._floods.let(session.user.name, PACE, self._clock.monotonic_ns()):
            return None
        return refused_here("too-fast", _TOO_FAST)

    def admit(self, session: Session, command: Command) -> Outcome | None:
        """Why a command is not passed on; None where it may be. It counts as one of the user's."""
        if not self._let(session, command):
            return refused_here("too-fast", _TOO_FAST)
        if not self._desk.ready:
            return refused_here("no-field", "no field process is there: nothing was passed on")
        if len(self._waiting) >= PENDING_MAX and command.expires_ns:
            return refused_here("crowded", f"{PENDING_MAX} commands wait for an answer")
        return None

    async def submit(self, session: Session, command: Command) -> Outcome:
        """`admit`, then `order`."""
        return self.admit(session, command) or await self.order(command)

    async def order(self, command: Command) -> Outcome:
        """Pass on a command that was admitted, and wait for what decides it. Raises nothing.

        It is handed to the local stream before this waits for anything, so that commands that are
        ordered one after the other keep their order.
        """
        waiting = self._waiting[command.id] = _Waiting()
        try:
            return await self._carried(command, waiting)
        finally:
            del self._waiting[command.id]

    def heard(self, batch: Batch) -> None:
        """Records of the field process: receipts among them may answer a command."""
        if not self._waiting:
            return
        for event in batch.events:
            if event.kind == "receipt":
                waiting = self._waiting.get(event.body.get("command", ""))
                if waiting is not None:
                    waiting.take(event.body)

    # ------------------------------------------------------------ one command

    async def _carried(self, command: Command, waiting: _Waiting) -> Outcome:
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._desk.pass_on({"type": "command", "command": asdict(command)})
                await self._until(waiting, (*_ENDS, "accepted"))
        except NotPassedOn as error:
            return await self._unanswered(command, str(error))
        except TimeoutError:
            return await self._unanswered(command, "the field process did not answer")
        ends, wait_s = self._ends(command)
        try:
            async with asyncio.timeout(wait_s):
                await self._until(waiting, ends)
        except TimeoutError:
            pass  # accepted, and the rest comes later
        return _outcome(waiting.steps, ends)

    async def _until(self, waiting: _Waiting, steps: tuple[str, ...]) -> None:
        while not any(body.get("step") in steps for body in waiting.steps):
            waiting.heard.clear()
            await waiting.heard.wait()

    def _ends(self, command: Command) -> tuple[tuple[str, ...], float]:
        """The steps behind which nothing more comes in time, and how long to wait for one."""
        if command.release:
            return (*_ENDS, "accepted"), READ_BACK_S
        point = self._point(command.tag)
        if point is None or not point.is_output:
            return _ENDS, ACTION_S
        return (_ENDS if point.read_back else (*_ENDS, "driven")), READ_BACK_S

    def _point(self, tag: str) -> PointDef | None:
        if self._values is None:
            return None
        index = self._values.index.get(tag)
        return None if index is None else self._values.points[index - 1]

    async def _unanswered(self, command: Command, why: str) -> Outcome:
        """Perhaps the field process has it: its client is told so, and the journal."""
        late = "" if not command.expires_ns else f"; not begun later than {ANSWER_S:g} s behind it"
        reason = f"{why}: perhaps it is carried out{late}"
        body = {
            "command": command.id,
            "tag": command.tag,
            "value": command.value,
            "origin": command.origin,
            "source": command.source,
            "step": "failed",
            "reason": reason,
            "by": BY,
        }
        await self._desk.journal(body)
        return Outcome("failed", reason, "no-answer")


def _outcome(steps: list[Mapping[str, Any]], ends: tuple[str, ...]) -> Outcome:
    """What the receipts say, taken together: the last one counts, a limit stays a limit."""
    last = next((body for body in reversed(steps) if body["step"] in ends), steps[-1])
    step, reason = str(last["step"]), str(last.get("reason", ""))
    word = str(last.get("code", ""))
    if step in ("refused", "failed"):
        return Outcome(step, reason, word or "state")
    if word:
        return Outcome(step, reason, word)
    limits = [str(body["reason"]) for body in steps if body["step"] == "limited"]
    if limits:
        return Outcome("limited", limits[-1])
    accepted = "" if reason else next((str(b.get("reason", "")) for b in steps), "")
    done = step in ("accepted", "driven") and step in ends
    return Outcome("done" if done else step, reason or accepted)


def source_of(session: Session) -> str:
    """Who asks, for receipts and alarms: the user and his client."""
    return f"opcua:{session.user.name}@{session.client}"[:SOURCE_CHARS_MAX]
