"""Who may read and write which point: the roles of `OpcUa.Rights` and the points of a user."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from config.opcua import OpcUaRight
from config.points import fits
from gateway.opcua.users import Role, User

KNOWN_MAX: Final = 200_000  # tags whose roles are kept; a site has fewer points
READ_DEFAULT: Final = Role.OBSERVER
WRITE_DEFAULT: Final = Role.OPERATOR


class Rights:
    """The roles that each point asks for; the first entry with a pattern that fits it counts.

    A tag "" is a node that belongs to no point: everybody with a role may read it.
    """

    def __init__(self, entries: Sequence[OpcUaRight] = ()) -> None:
        self._entries = [
            (tuple(entry.Points), Role[entry.Read.upper()], Role[entry.Write.upper()])
            for entry in entries
        ]
        self._known: dict[str, tuple[Role, Role]] = {}

    def roles(self, tag: str) -> tuple[Role, Role]:
        """The least roles that may read and write a point."""
        known = self._known.get(tag)
        if known is None:
            known = self._find(tag)
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            self._known[tag] = known
        return known

    def _find(self, tag: str) -> tuple[Role, Role]:
        if tag:
            for patterns, read, write in self._entries:
                if fits(tag, patterns):
                    return read, max(read, write)  # what may not be seen may not be set
        return READ_DEFAULT, WRITE_DEFAULT

    def may_read(self, user: User, tag: str) -> bool:
        """True where the user may see the point's value and history."""
        return user.role >= self.roles(tag)[0]

    def may_write(self, user: User, tag: str) -> bool:
        """True where the user may set the point."""
        return self.may(user, Role.OPERATOR, tag)

    def may(self, user: User, role: Role, tag: str) -> bool:
        """True where the user has `role`, the point's role to write, and the point among his."""
        if user.role < role:
            return False
        return not tag or (user.role >= self.roles(tag)[1] and user.may_set(tag))
