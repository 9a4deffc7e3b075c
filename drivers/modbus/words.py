"""What Modbus frames say, in words: refusals, and what `gatepost trace` shows.

Source: MODBUS Application Protocol Specification V1.1b3, sections 6 and 7.
"""

from __future__ import annotations

import struct
from typing import Final

from drivers.errors import Refused

FUNCTIONS: Final = {
    1: "read coils",
    2: "read discrete inputs",
    3: "read holding registers",
    4: "read input registers",
    5: "write coil",
    6: "write register",
    15: "write coils",
    16: "write registers",
    22: "mask register",
    23: "write and read registers",
    43: "read identification",
}
READS: Final = (1, 2, 3, 4)
RANGES: Final = (*READS, 15, 16)  # a first address and a count follow

EXCEPTIONS: Final[dict[int, tuple[str, bool]]] = {
    # code: (name, permanent)
    1: ("illegal function", True),
    2: ("illegal data address", True),
    3: ("illegal data value", True),
    4: ("device failure", False),
    5: ("acknowledged, still working", False),
    6: ("device busy", False),
    8: ("memory parity error", False),
    10: ("gateway path unavailable", False),
    11: ("gateway target did not respond", False),
}


def refusal(function: int, code: int) -> Refused:
    """An exception answer as the error that it is."""
    name, permanent = EXCEPTIONS.get(code, ("unknown exception", False))
    text = f"function {function} refused: {name} (code {code})"
    return Refused(text, code=code, permanent=permanent)


def request_words(unit: int, pdu: bytes) -> str:
    """A request; any bytes."""
    if not pdu:
        return f"unit {unit}: nothing"
    name = FUNCTIONS.get(pdu[0], f"function {pdu[0]}")
    if len(pdu) < 5:
        return f"unit {unit}: {name}"
    first, second = struct.unpack_from(">HH", pdu, 1)
    if pdu[0] in RANGES:
        last = f" to {first + second - 1}" if second > 1 else ""
        return f"unit {unit}: {name} {first}{last}"
    return f"unit {unit}: {name} {first}, {second}"


def answer_words(unit: int, pdu: bytes) -> str:
    """An answer; any bytes."""
    if len(pdu) == 2 and pdu[0] & 0x80:
        name, _ = EXCEPTIONS.get(pdu[1], ("unknown exception", False))
        function = FUNCTIONS.get(pdu[0] & 0x7F, f"function {pdu[0] & 0x7F}")
        return f"unit {unit}: {function} refused, {name} (code {pdu[1]})"
    if pdu and pdu[0] in READS:
        return f"unit {unit}: {FUNCTIONS[pdu[0]]}, {max(0, len(pdu) - 2)} bytes"
    return request_words(unit, pdu) + " done"
