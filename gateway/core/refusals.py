"""Why commands are refused or fail: the words of a receipt's `code`, for programs.

The reason of a receipt says it to people, with names and numbers. Its code is one of these, stays
the same over versions, and is what a control room's protocol turns into its own status codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

REFUSALS: Final[Mapping[str, str]] = {
    # What was asked for.
    "repeated": "a command with this id was handled before",
    "expired": "it came too late",
    "no-point": "there is no such point",
    "read-only": "nobody can write the point",
    "not-yours": "the point or the action is not for this origin",
    "action": "the point knows no such action",
    "range": "the value is outside the point's range, or is none of its values",
    "rate": "a larger step than RateMax allows",
    "lease": "the lease is missing, or longer than the point allows",
    "comment": "a comment is needed",
    "duration": "a bypass has no duration, or one that is too long",
    "shelve-time": "a shelving has no duration, or one that is too long",
    "no-effect": "no rule of the site reads the point",
    "nothing": "there is nothing to release or to end",
    # What the plant says to it now.
    "held": "a trip, an interlock or a control state holds the output",
    "reserved": "something else drives the output",
    "permissive": "a permissive is missing",
    "state": "the machine can't go there now, or went elsewhere",
    "rank": "somebody of a higher rank asked for something else at the same time",
    "not-bypassable": "the cause can't be bypassed",
    "acknowledged": "the alarm waits for no acknowledgement",
    "announced": "the alarm was announced again since it was seen",
    "not-shelvable": "the alarm can't be shelved",
    "not-shelved": "the alarm is not shelved",
    "alarm-state": "the action does not fit the alarm's state",
    "busy": "too many wait for the scan",
    # What became of it later.
    "still-active": "the causes of latched trips are still there",
    "overtaken": "another command came behind or before it",
    "device": "the device did not take the value",
    "read-back": "the device shows another value, or none in time",
}


class CommandRefused(Exception):
    """A command was not accepted; the message is the reason that its origin is told.

    code  one of REFUSALS
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
