"""A session: who it belongs to and what must end with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from asyncua import ua

from gateway.opcua.users import NOBODY, User


class Session:
    """One session of a client (OPC 10000-4, 5.6). Made by the transport, never by services.

    id        its NodeId, shown in diagnostics
    token     secret that every request carries
    user      NOBODY until it is activated
    secured   the channel signs its messages; without that nothing can be written
    encrypted  and nobody can read along
    client    application name, address and certificate for audit and receipts
    kept      what services keep for the session, by their own keys; gone with it
    """

    def __init__(
        self,
        identity: ua.NodeId,
        token: ua.NodeId,
        client: str,
        *,
        secured: bool,
        encrypted: bool = False,
    ) -> None:
        self.id = identity
        self.token = token
        self.client = client
        self.secured = secured
        self.encrypted = encrypted
        self.user: User = NOBODY
        self.closed = False
        self.kept: dict[str, Any] = {}
        self._endings: list[Callable[[bool], None]] = []

    def at_end(self, ending: Callable[[bool], None]) -> None:
        """Call `ending` once when the session ends; its argument: the subscriptions go too."""
        self._endings.append(ending)

    def end(self, delete_subscriptions: bool) -> None:
        """End it; a second call does nothing."""
        if self.closed:
            return
        self.closed = True
        for ending in self._endings:
            ending(delete_subscriptions)
        self._endings.clear()
        self.kept.clear()
