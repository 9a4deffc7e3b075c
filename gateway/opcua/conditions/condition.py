"""One alarm's condition while the server runs."""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

from gateway.opcua.conditions.alarm_event import alarm_event
from gateway.opcua.conditions.facts import AlarmFacts
from gateway.opcua.conditions.states import NORMAL, Life
from gateway.opcua.event import UaEvent

IDS_MAX: Final = 16  # of events that an acknowledgement may name


class Condition:
    """How an alarm stands, as it was heard last.

    life     the alarm's state
    utc_ns   when it came into it; 0 = nothing was heard yet
    lost     the field process is gone
    active_ns, acked_ns  when ActiveState and AckedState changed last, as far as it was heard
    announced_ns  when the operator was called last, as the field says it; 0 = not heard yet
    """

    __slots__ = (
        *("_event", "_ids", "acked_ns", "active_ns", "announced_ns", "event_id", "facts", "life"),
        *("lost", "received_ns", "utc_ns"),
    )

    def __init__(self, facts: AlarmFacts) -> None:
        self.facts = facts
        self.life = NORMAL
        self.event_id = own_event_id(facts.tag, NORMAL, 0)
        self.utc_ns = self.received_ns = self.active_ns = self.acked_ns = self.announced_ns = 0
        self.lost = False
        self._ids: tuple[bytes, ...] = ()
        self._event: UaEvent | None = None

    @property
    def retained(self) -> bool:
        """A client that just came must see it."""
        return self.life.is_retained

    @property
    def acked(self) -> bool:
        """Nothing is to be acknowledged."""
        return self.life.is_acked

    def take(
        self, life: Life, event_id: bytes, utc_ns: int, received_ns: int, announced_ns: int = 0
    ) -> None:
        """Something was heard of it.

        announced_ns  when the operator was called, where he was: ids of events before this one
                      no longer name what he would acknowledge
        """
        if not life.by and life.state == self.life.state:
            # Who put it into its state, and why, is true for as long as it stays there.
            life = life._replace(by=self.life.by, comment=self.life.comment)
        if not life.until_utc_ns and life.state == self.life.state:
            life = life._replace(until_utc_ns=self.life.until_utc_ns)
        if life.is_active != self.life.is_active:
            self.active_ns = utc_ns
        if life.is_acked != self.life.is_acked:
            self.acked_ns = utc_ns
        self.life, self.event_id = life, event_id
        self.utc_ns, self.received_ns = utc_ns, received_ns
        before = () if announced_ns else self._ids
        self.announced_ns = announced_ns or self.announced_ns
        self._ids = (*before, event_id)[-IDS_MAX:]
        self._event = None

    def follow(self, old: Condition) -> None:
        """Take over what was heard under another configuration."""
        self.life, self.lost, self._ids = old.life, old.lost, old._ids
        self.event_id, self.utc_ns, self.received_ns = old.event_id, old.utc_ns, old.received_ns
        self.active_ns, self.acked_ns = old.active_ns, old.acked_ns
        self.announced_ns = old.announced_ns

    def lose(self, utc_ns: int) -> None:
        """The field process is gone."""
        self.lost = True
        sign = self.event_id + utc_ns.to_bytes(8, "big", signed=True)
        event_id = blake2b(sign, digest_size=16).digest()
        self.take(self.life, event_id, utc_ns, utc_ns)

    def names(self, event_id: bytes) -> bool:
        """True for the id of an event that tells of the alarm as it is now."""
        return event_id in self._ids

    def event(self) -> UaEvent:
        """Its last event: what a refresh gives and what its nodes show."""
        if self._event is not None:
            return self._event
        event = alarm_event(
            self.facts,
            self.life,
            self.event_id,
            self.utc_ns,
            self.received_ns,
            lost=self.lost,
            active_ns=self.active_ns,
            acked_ns=self.acked_ns,
        )
        # It takes 6 kB; of thousands of alarms that are normal nobody asks for it again.
        self._event = event if self.retained else None
        return event


def own_event_id(tag: str, life: Life, utc_ns: int) -> bytes:
    """The EventId of a state that was read from the field's table: no number of an event is known.

    The same state has the same id, so that two clients may speak of it.
    """
    told = f"{tag}\n{life.state}\n{life.level}\n{life.active}\n{life.latched}\n{life.quality}"
    return blake2b(f"{told}\n{utc_ns}".encode(), digest_size=16).digest()
