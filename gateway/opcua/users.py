"""Who a session belongs to, and what a role is."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from config.points import fits


class Role(IntEnum):
    """The roles, each with the rights of those before it.

    They are the well-known roles Observer, Operator, Engineer and ConfigureAdmin with SecurityAdmin
    of OPC 10000-3, 4.9.2.
    """

    NOBODY = 0
    OBSERVER = 1  # reads, monitors, reads history
    OPERATOR = 2  # writes, asks for states, acknowledges and shelves
    ENGINEER = 3  # bypasses causes, takes alarms out of service
    ADMINISTRATOR = 4  # certificates and users


@dataclass(frozen=True, slots=True)
class User:
    """A session's user.

    name    as it stands in receipts and audit events; "" = anonymous
    points  tags or patterns of what he may write; reading is up to the rights of the points
    proof   what he logged on with: the hash of his password, or his certificate's thumbprint
    """

    name: str
    role: Role
    points: tuple[str, ...] = ("*",)
    proof: str = field(default="", repr=False, compare=False)

    def may_set(self, tag: str) -> bool:
        """True where one of the user's patterns covers the point."""
        return fits(tag, self.points)


NOBODY: Final = User("", Role.NOBODY, ())
ANONYMOUS: Final = User("", Role.OBSERVER, ())
