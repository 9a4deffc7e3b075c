"""What is made of a message that counts: an entry, and commands or a schedule. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from config.command_keys import CommandKey
from gateway.core.records import Command
from gateway.core.schedule import checked, pack_schedule, schedule_of
from sync.remote import signed
from sync.remote.handled import REFUSED, TAKEN, Entry
from sync.remote.judge import Verdict
from sync.remote.signed import Envelope


@dataclass(slots=True)
class New:
    """A message on its way through the inbox."""

    verdict: Verdict
    refusal: str = ""
    quiet: bool = False  # its refusal is only counted
    orders: dict[str, Mapping[str, Any]] = field(default_factory=dict)  # by their receipts' id

    @property
    def envelope(self) -> Envelope:
        """What it says."""
        assert self.verdict.envelope is not None, "a current message is readable"
        return self.verdict.envelope

    @property
    def key(self) -> CommandKey:
        """Who has signed it."""
        assert self.verdict.proven is not None, "a current message is proven"
        return self.verdict.proven

    def entry(self, now_ns: int) -> Entry:
        """What is to be remembered of it; `now_ns` is when it came, UTC."""
        envelope, key = self.envelope, self.key
        writes = len(self.orders) if envelope.type == signed.COMMAND else 0
        state = REFUSED if self.refusal else TAKEN
        return Entry(
            envelope.id,
            key.identity,
            key.name,
            envelope.type,
            writes,
            envelope.expires_ns,
            now_ns,
            state,
            self.refusal,
        )


def orders_of(envelope: Envelope, key: CommandKey) -> dict[str, Mapping[str, Any]]:
    """Messages of the local stream by the id that their receipts carry.

    The envelope is judged and signed by `key`. A service's schedules have its name in front, so
    that none ends another one's. Raises ScheduleError.
    """
    source = f"{key.name}: {envelope.source}"
    if envelope.type == signed.COMMAND:
        commands = [
            Command(
                id=f"{envelope.id}/{number}",
                origin="remote",
                expires_ns=envelope.expires_ns,
                source=source,
                **asdict(write),
            )
            for number, write in enumerate(signed.writes_of(envelope), 1)
        ]
        return {one.id: {"type": "command", "command": asdict(one)} for one in commands}
    schedule = schedule_of(envelope.id, envelope.time_ns, source, envelope.payload)
    schedule = checked(replace(schedule, name=f"{key.service}/{schedule.name}"))
    return {envelope.id: {"type": "schedule", "schedule": pack_schedule(schedule)}}
