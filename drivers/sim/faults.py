"""Faults of a simulated device, switched on and off while it runs."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

# Neither a Modbus header nor a number; ends with a newline so that a text protocol sees a line.
GARBAGE: Final = b"\xff\x00\xfe\x17\x99garbage\xf0\x9f\n"


@dataclass(slots=True)
class Faults:
    """How a device misbehaves; every field at its default means that it behaves.

    delay_s            each answer leaves this late; answers stay in the order of their requests
    silent             requests are read and never answered (and never executed)
    garbage            answers bytes that are not of the protocol
    half_frame         sends the first half of each answer and stops there
    wrong_unit         Modbus: answers in the name of another unit
    wrong_transaction  Modbus: answers under another transaction number
    exception_code     Modbus: refuses every request with this code; SCPI: executes and answers
                       nothing, which is how an instrument refuses a query
    close_after        closes the connection after that many further answers; 0 = never
    """

    delay_s: float = 0.0
    silent: bool = False
    garbage: bool = False
    half_frame: bool = False
    wrong_unit: bool = False
    wrong_transaction: bool = False
    exception_code: int = 0
    close_after: int = 0

    def clear(self) -> None:
        """Behave again."""
        for field in fields(self):
            setattr(self, field.name, field.default)

    def spoil(self, answer: bytes) -> bytes:
        """What is sent in place of a well-formed answer."""
        if self.garbage:
            return GARBAGE
        if self.half_frame:
            return answer[: len(answer) // 2]
        return answer

    def closes_now(self) -> bool:
        """Counts one answer; true where the connection ends behind it."""
        if self.close_after == 0:
            return False
        self.close_after -= 1
        return self.close_after == 0
