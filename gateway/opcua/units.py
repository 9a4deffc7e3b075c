"""Engineering units as OPC UA shows them: UNECE common codes for the units that sites write.

The number of a code is its letters as big-endian bytes (OPC 10000-8 section 5.6.4.3); the codes
stand in config/units.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from config import units

UNECE_NAMESPACE: Final = "http://www.opcfoundation.org/UA/units/un/cefact"
OWN_NAMESPACE: Final = "urn:gatepost:units"
NO_CODE: Final = -1


@dataclass(frozen=True, slots=True)
class Unit:
    """An engineering unit: who numbers it, its number there, its symbol and its name."""

    namespace: str
    number: int
    symbol: str
    name: str


def code_number(code: str) -> int:
    """The number of a UNECE common code: its letters as big-endian bytes."""
    return int.from_bytes(code.encode("ascii"), "big")


def unit_of(text: str) -> Unit | None:
    """The unit that a site's file calls `text`; None where it says that there is none.

    A unit without a UNECE code keeps its spelling and has no number.
    """
    unit = units.unit_of(text)
    if unit is None:
        return None
    if not unit.code:
        return Unit(OWN_NAMESPACE, NO_CODE, unit.symbol, unit.symbol)
    return Unit(UNECE_NAMESPACE, code_number(unit.code), unit.printed, unit.name)
