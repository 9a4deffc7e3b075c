"""What the transport asks of security: who may come in. gateway/opcua/security implements it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from asyncua import ua

from gateway.opcua.transport.channel import Channel
from gateway.opcua.users import User


class Gate(Protocol):
    """Certificates, policies and users."""

    @property
    def application_uri(self) -> str:
        """The server's own."""

    @property
    def certificate(self) -> bytes:
        """The server's own, in DER."""

    def changed(self) -> None:
        """Look whether trust lists or users have changed."""

    def policies(self) -> Sequence[Any]:
        """Factories of the security policies that are offered."""

    def endpoints(self, url: str) -> list[ua.EndpointDescription]:
        """What is offered, at this address."""

    def check_channel(self, certificate: bytes | None, policy_uri: str, peer: str) -> int:
        """0, or why a client at the address `peer` may open no channel."""

    def check_session(self, certificate: bytes | None, application_uri: str, peer: str) -> int:
        """0, or why a client may create no session."""

    def may_stay(self, user: User, certificate: bytes | None, application_uri: str) -> bool:
        """False where a session must end."""

    async def user_of(
        self, token: Any, signature: ua.SignatureData, server_nonce: bytes, channel: Channel
    ) -> User:
        """Who logs in. Raises Fault."""


class Book(Protocol):
    """Where it is written down who came and went."""

    def session(
        self,
        what: str,
        client: str,
        user: str,
        code: int,
        session: ua.NodeId | None = None,
        certificate: bytes | None = None,
    ) -> None:
        """A session was made, activated or closed ("create", "activate", "close"), or was not.

        code  0, or why not
        """
