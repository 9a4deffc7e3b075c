"""The nine states of ISA-18.2 as the flags of OPC 10000-9, in one table.

Sources: OPC 10000-9, 5.8.2 (AlarmConditionType) and its annex E (IEC 62682), and the state table
in safety/alarm_states.py, whose words these are; a test compares.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Flags(NamedTuple):
    """What a condition in a state shows.

    active  ActiveState; None: as the rule says, for an alarm that was set aside
    acked   AckedState. What is set aside asks nobody for anything: where it comes back active, it
            is announced anew.
    retain  a client that just came must see it: it is there, or an operator set it aside, or is
            to be told that it was there; None: as the rule says
    """

    active: bool | None
    acked: bool
    retain: bool | None
    shelved: bool = False
    suppressed: bool = False
    out_of_service: bool = False


FLAGS: Final[dict[str, Flags]] = {
    "normal": Flags(active=False, acked=True, retain=False),
    "unacknowledged": Flags(active=True, acked=False, retain=True),
    "acknowledged": Flags(active=True, acked=True, retain=True),
    "returned unacknowledged": Flags(active=False, acked=False, retain=True),
    # The cause is gone and only the latch holds: OPC 10000-9, 5.8.5 lets only an inactive alarm
    # be reset.
    "latched unacknowledged": Flags(active=False, acked=False, retain=True),
    "latched acknowledged": Flags(active=False, acked=True, retain=True),
    "shelved": Flags(active=None, acked=True, retain=True, shelved=True),
    "suppressed by design": Flags(active=None, acked=True, retain=None, suppressed=True),
    "out of service": Flags(active=None, acked=True, retain=True, out_of_service=True),
}


class Life(NamedTuple):
    """An alarm at one moment, as an event or a row of the field's table tells it.

    state            one of FLAGS
    level            what the rule shows; empty = inactive
    active, latched  of its rule
    quality          of its inputs: good, uncertain or bad
    what             what happened; "" in a row
    until_utc_ns     end of its shelving, 0 = not shelved or not known
    """

    state: str
    level: str
    active: bool
    latched: bool
    quality: str
    what: str = ""
    by: str = ""
    comment: str = ""
    until_utc_ns: int = 0

    @property
    def is_active(self) -> bool:
        """ActiveState."""
        found = FLAGS[self.state].active
        return self.active if found is None else found

    @property
    def is_acked(self) -> bool:
        """AckedState."""
        return FLAGS[self.state].acked

    @property
    def is_retained(self) -> bool:
        """Retain."""
        found = FLAGS[self.state].retain
        return self.active if found is None else found


NORMAL: Final = Life("normal", "", False, False, "good")


def life_of(body: object) -> Life | None:
    """The `Life` in the body of an alarm's event or in a row; None where it has another form."""
    if not isinstance(body, dict) or body.get("state") not in FLAGS:
        return None
    until = body.get("until_utc_ns", body.get("shelved_until_utc_ns", 0))
    return Life(
        state=body["state"],
        level=str(body.get("level", "")),
        active=bool(body.get("active")),
        latched=bool(body.get("latched")),
        quality=str(body.get("quality", "good")),
        what=str(body.get("what", "")),
        by=str(body.get("by", "")),
        comment=str(body.get("comment", "")),
        until_utc_ns=until if isinstance(until, int) else 0,
    )
