"""What the alarm table takes and gives: infos, events, notes, the moment, what is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

NEVER_NS: Final = 2**62


class AlarmRefused(Exception):
    """An operator's action does not fit the alarm's state; the message is the reason.

    code  one of gateway.core.refusals.REFUSALS
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Moment(NamedTuple):
    """Now, on both clocks: the monotonic one measures, the wall clock is shown and kept."""

    mono_ns: int
    utc_ns: int


@dataclass(frozen=True, slots=True)
class AlarmInfo:
    """What an alarm is; `rule` and `suppress` are rows of the program, -1 = none."""

    name: str
    point: int
    rule: int
    suppress: int
    priority: str
    latch: bool
    on_delay_ns: int
    shelve_max_ns: int


class AlarmEvent(NamedTuple):
    """Something that happened to one alarm.

    alarm         position in `AlarmTable.infos`
    what          one of the words of safety/alarm_states.py
    state         the alarm's state after it
    level         what the rule shows, empty = inactive
    active        the rule is active, as trips and other rules see it
    quality       of the rule's last result; "bad" while active: the level is held
    announced     the operator is called
    until_utc_ns  of a shelving: its end by the wall clock, else 0
    """

    alarm: int
    what: str
    state: str
    level: str
    active: bool
    latched: bool
    quality: str
    announced: bool
    by: str = ""
    comment: str = ""
    until_utc_ns: int = 0


@dataclass(frozen=True, slots=True)
class Note:
    """Who put an alarm into its state, when and why."""

    by: str
    comment: str
    utc_ns: int


class Entry:
    """A mapping of a file that may hold anything."""

    def __init__(self, values: Mapping[Any, Any]) -> None:
        self._values = values

    def text(self, name: str) -> str:
        """A text; empty where there is none."""
        value = self._values.get(name)
        return value if isinstance(value, str) else ""

    def number(self, name: str) -> int:
        """A time or duration in nanoseconds; 0 where there is none that can be true."""
        value = self._values.get(name)
        return value if isinstance(value, int) and 0 <= value < NEVER_NS else 0
