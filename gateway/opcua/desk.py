"""The way from the OPC UA server to the field process: commands down, questions, receipts back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class NotPassedOn(Exception):
    """The field process is not there, or did not answer in time; the message says which."""


class Desk(Protocol):
    """What the link process offers; gateway/mirror.py implements it on the local stream."""

    @property
    def ready(self) -> bool:
        """True while a field process listens."""

    async def pass_on(self, message: Mapping[str, Any]) -> None:
        """Send a message to the field process, e.g. a command. Raises NotPassedOn."""

    async def journal(self, body: Mapping[str, Any]) -> None:
        """Let the field process journal a receipt, e.g. of a write that was refused here."""

    async def ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """A question like a tool's, e.g. ``{"type": "alarms", "all": True}``, and its answer.

        Raises NotPassedOn.
        """
