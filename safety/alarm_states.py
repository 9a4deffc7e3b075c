"""The life of an alarm after ISA-18.2, as data: nine states, what happens, what follows.

`TABLE` is the whole state table. It follows the alarm state transition diagram of
ANSI/ISA-18.2-2016 (IEC 62682), whose letters stand in `LETTERS`; safety/alarms.py applies it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

NORMAL: Final = 0
UNACKNOWLEDGED: Final = 1
ACKNOWLEDGED: Final = 2
RETURNED: Final = 3
LATCHED_UNACKNOWLEDGED: Final = 4
LATCHED_ACKNOWLEDGED: Final = 5
SHELVED: Final = 6
SUPPRESSED: Final = 7
OUT_OF_SERVICE: Final = 8
STATES: Final = (
    "normal",
    "unacknowledged",
    "acknowledged",
    "returned unacknowledged",
    "latched unacknowledged",
    "latched acknowledged",
    "shelved",
    "suppressed by design",
    "out of service",
)
UNACKNOWLEDGED_STATES: Final = (UNACKNOWLEDGED, RETURNED, LATCHED_UNACKNOWLEDGED)
STANDING_STATES: Final = (
    UNACKNOWLEDGED,
    ACKNOWLEDGED,
    LATCHED_UNACKNOWLEDGED,
    LATCHED_ACKNOWLEDGED,
)
OPERATOR_STATES: Final = (ACKNOWLEDGED, LATCHED_ACKNOWLEDGED, SHELVED, OUT_OF_SERVICE)
LETTERS: Final = "ABCDEFGHI"  # of the states in the standard's diagram

# What the rule and its suppression say of an alarm; where a way out of shelving leads.
CLEAR: Final = "clear"
ACTIVE: Final = "active"
LATCHED: Final = "latched"  # the cause is gone, the latch of the rule holds
DESIGN: Final = "suppressed"  # SuppressWhen is true, whatever the rule says
SITUATIONS: Final = (CLEAR, ACTIVE, LATCHED, DESIGN)

# What happens to an alarm. The value is the `what` of its event.
ACTIVATES: Final = "activated"
RESUMES: Final = "active again after a restart"  # with the level that was acknowledged before it
STEPS: Final = "level changed"
LATCHES: Final = "cause gone"  # and the latch holds
CLEARS: Final = "cleared"
RESETS: Final = "reset"
ACKNOWLEDGES: Final = "acknowledged"
SHELVES: Final = "shelved"
UNSHELVES: Final = "unshelved"
EXPIRES: Final = "shelving expired"
SUPPRESSES: Final = "suppressed by design"
RELEASES: Final = "suppression ended"
REMOVES: Final = "out of service"
RETURNS: Final = "in service"
# No transitions:
RESTORED: Final = "restored"  # the state as the last life left it
HOLDS: Final = "latched"  # the latch was set behind the activation: the input was never read before


class Transition(NamedTuple):
    """One row of the state table.

    origin     state before
    event      what happens
    when       the alarm's situation that the row is for; empty = any
    target     state after
    announced  the operator is called: the alarm is new to him
    """

    origin: int
    event: str
    when: str
    target: int
    announced: bool = False


def _way_out(origin: int, events: Iterable[str]) -> tuple[Transition, ...]:
    """Behind shelving, suppression and service an alarm is what its rule says, and new."""
    return tuple(
        Transition(origin, event, when, target, announced)
        for event in events
        for when, target, announced in (
            (CLEAR, NORMAL, False),
            (ACTIVE, UNACKNOWLEDGED, True),
            (LATCHED, LATCHED_UNACKNOWLEDGED, False),
            (DESIGN, SUPPRESSED, False),
        )
        if (origin, when) != (SUPPRESSED, DESIGN)
    )


def _silent(origin: int, *more: str) -> tuple[Transition, ...]:
    """What the rule does meanwhile is recorded and announced to nobody."""
    events = (ACTIVATES, STEPS, LATCHES, CLEARS, RESETS, *more)
    return tuple(Transition(origin, event, "", origin) for event in events)


_SHOWN: Final = (
    NORMAL,
    UNACKNOWLEDGED,
    ACKNOWLEDGED,
    RETURNED,
    LATCHED_UNACKNOWLEDGED,
    LATCHED_ACKNOWLEDGED,
)

TABLE: Final[tuple[Transition, ...]] = (
    Transition(NORMAL, ACTIVATES, "", UNACKNOWLEDGED, True),
    Transition(NORMAL, RESUMES, "", ACKNOWLEDGED),
    Transition(UNACKNOWLEDGED, STEPS, "", UNACKNOWLEDGED, True),
    Transition(UNACKNOWLEDGED, ACKNOWLEDGES, "", ACKNOWLEDGED),
    Transition(UNACKNOWLEDGED, CLEARS, "", RETURNED),
    Transition(UNACKNOWLEDGED, LATCHES, "", LATCHED_UNACKNOWLEDGED),
    Transition(ACKNOWLEDGED, STEPS, "", UNACKNOWLEDGED, True),
    Transition(ACKNOWLEDGED, CLEARS, "", NORMAL),
    Transition(ACKNOWLEDGED, LATCHES, "", LATCHED_ACKNOWLEDGED),
    Transition(RETURNED, ACTIVATES, "", UNACKNOWLEDGED, True),
    Transition(RETURNED, ACKNOWLEDGES, "", NORMAL),
    Transition(LATCHED_UNACKNOWLEDGED, ACTIVATES, "", UNACKNOWLEDGED, True),
    Transition(LATCHED_UNACKNOWLEDGED, ACKNOWLEDGES, "", LATCHED_ACKNOWLEDGED),
    Transition(LATCHED_UNACKNOWLEDGED, RESETS, "", RETURNED),
    Transition(LATCHED_ACKNOWLEDGED, ACTIVATES, "", UNACKNOWLEDGED, True),
    Transition(LATCHED_ACKNOWLEDGED, RESUMES, "", ACKNOWLEDGED),
    Transition(LATCHED_ACKNOWLEDGED, RESETS, "", NORMAL),
    *(Transition(state, SHELVES, "", SHELVED) for state in (*_SHOWN, SHELVED, SUPPRESSED)),
    *_silent(SHELVED),
    *_way_out(SHELVED, (UNSHELVES, EXPIRES)),
    *(Transition(state, SUPPRESSES, "", SUPPRESSED) for state in _SHOWN),
    *_silent(SUPPRESSED, RESUMES),
    *_way_out(SUPPRESSED, (RELEASES,)),
    *(Transition(s, REMOVES, "", OUT_OF_SERVICE) for s in (*_SHOWN, SHELVED, SUPPRESSED)),
    *_silent(OUT_OF_SERVICE),
    *_way_out(OUT_OF_SERVICE, (RETURNS,)),
)
_NEXT: Final = {
    (row.origin, row.event, when): row
    for row in TABLE
    for when in ((row.when,) if row.when else SITUATIONS)
}


def transition(state: int, event: str, situation: str) -> Transition | None:
    """The row of the table that applies; None where the event changes nothing in this state."""
    return _NEXT.get((state, event, situation))
