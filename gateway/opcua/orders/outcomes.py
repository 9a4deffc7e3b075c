"""What a control room is told of a command: one table from receipts to OPC UA status codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from asyncua import ua

from gateway.opcua.methods import MethodFault

_CODES: Final = ua.StatusCodes

# Words of the field's receipts (gateway/core/refusals.py). Sources: the result codes of Write and
# Call in OPC 10000-4, 5.11.4 and 5.12.2, of the condition methods in OPC 10000-9, 5.5 to 5.8.
OF_REFUSAL: Final[Mapping[str, int]] = {
    "repeated": _CODES.BadInvalidState,
    "expired": _CODES.BadTimeout,
    "no-point": _CODES.BadNodeIdUnknown,
    "read-only": _CODES.BadNotWritable,
    "not-yours": _CODES.BadUserAccessDenied,
    "action": _CODES.BadNotSupported,
    "range": _CODES.BadOutOfRange,
    "rate": _CODES.BadOutOfRange,
    "lease": _CODES.BadOutOfRange,
    "comment": _CODES.BadInvalidArgument,
    "duration": _CODES.BadOutOfRange,
    "shelve-time": _CODES.BadShelvingTimeOutOfRange,
    "no-effect": _CODES.BadNotSupported,
    "nothing": _CODES.BadNothingToDo,
    "held": _CODES.BadInvalidState,
    "reserved": _CODES.BadNotWritable,
    "permissive": _CODES.BadInvalidState,
    "state": _CODES.BadInvalidState,
    "rank": _CODES.BadInvalidState,
    "not-bypassable": _CODES.BadNotSupported,
    "acknowledged": _CODES.BadConditionBranchAlreadyAcked,
    "announced": _CODES.BadEventIdUnknown,
    "not-shelvable": _CODES.BadNotSupported,
    "not-shelved": _CODES.BadConditionNotShelved,
    "alarm-state": _CODES.BadInvalidState,
    "busy": _CODES.BadResourceUnavailable,
    "still-active": _CODES.BadInvalidState,
    "overtaken": _CODES.BadInvalidState,
    # The setpoint stands and the write is repeated: it may yet come about.
    "device": _CODES.Uncertain,
    "read-back": _CODES.Uncertain,
}
# Words of our own, for what never came to the field process, or of which it said nothing.
OF_SILENCE: Final[Mapping[str, int]] = {
    "no-field": _CODES.BadNoCommunication,  # certainly not carried out
    "no-answer": _CODES.BadTimeout,  # perhaps carried out
    "crowded": _CODES.BadResourceUnavailable,
    "too-fast": _CODES.BadResourceUnavailable,
    "no-right": _CODES.BadUserAccessDenied,
    "no-security": _CODES.BadSecurityModeInsufficient,
}
_GOOD: Final[Mapping[str, int]] = {
    "accepted": _CODES.GoodCompletesAsynchronously,
    "driven": _CODES.GoodCompletesAsynchronously,
    "limited": _CODES.GoodClamped,
    "verified": _CODES.Good,
    "done": _CODES.Good,  # accepted or driven, where nothing more can be said
    "released": _CODES.Good,  # a newer command took its place; a trip has a word
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a command, as far as it was known in time.

    step    of its last receipt; ``done`` where that is the last there can be
    reason  in words, "" where there is nothing to say
    word    why not, one of REFUSALS or of OF_SILENCE; "" where it was carried out
    here    it never came to the field process, which has no receipt of it
    """

    step: str
    reason: str = ""
    word: str = ""
    here: bool = False

    @property
    def code(self) -> int:
        """The OPC UA status code."""
        if not self.word:
            return _GOOD.get(self.step, _CODES.BadUnexpectedError)
        known = OF_REFUSAL.get(self.word)
        return OF_SILENCE.get(self.word, _CODES.BadInvalidState) if known is None else known

    @property
    def bad(self) -> bool:
        """True where the client is told that it was not done."""
        return self.code >= _CODES.Bad

    @property
    def text(self) -> str:
        """For people: step and reason."""
        return f"{self.step}: {self.reason}" if self.reason else self.step


class OutcomeFault(MethodFault):
    """A method's command was not simply done: its outcome, and outputs where it is not bad."""

    def __init__(self, outcome: Outcome, outputs: Sequence[ua.Variant] = ()) -> None:
        super().__init__(outcome.code, outcome.text)
        self.outcome = outcome
        self.outputs = tuple(outputs) if not outcome.bad else ()


def refused_here(word: str, reason: str) -> Outcome:
    """The outcome of what was never passed on."""
    return Outcome("refused", reason, word, here=True)
