"""Commands and schedules from outside on their way through the link process.

The forwarder brings the messages of the topics, the inbox (sync/remote/inbox.py) decides, the local
stream takes what counts to the field process, and receipts go back both ways.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from config.site import Site
from gateway.core.clock import Clock
from gateway.core.paths import StatePaths
from gateway.core.records import Batch
from gateway.local import LocalClient, LocalError
from sync.link.session import Handler
from sync.plain import WireError
from sync.remote import receipts
from sync.remote.inbox import Inbox, NotPassedOn
from sync.remote.judge import CHANNELS

HELD_MAX: Final = 1_000  # receipts that wait for a field process

Say = Callable[[str, bytes], None]


class Remote:
    """The inbox of the link process, and its ways to the field process and to the broker."""

    def __init__(self, site: Site, paths: StatePaths, clock: Clock) -> None:
        """`say` is set before `run`: it puts a message on a channel of the site's topics."""
        self.say: Say = lambda channel, payload: None
        expires_ns = int(site.link.Commands.ExpiresMax * 1e9)
        self._inbox = Inbox(site.name, site.folder, paths.inbox, expires_ns, clock, self)
        self._client: LocalClient | None = None
        self._held: deque[Mapping[str, Any]] = deque(maxlen=HELD_MAX)
        self._lost = 0  # receipts that fell out of it

    def incoming(self) -> dict[str, Handler]:
        """Who takes the messages of which channel."""
        return {channel: self._taker(channel) for channel in CHANNELS}

    def _taker(self, channel: str) -> Handler:
        async def take(payload: bytes) -> None:
            self._inbox.put(channel, payload)

        return take

    async def run(self) -> None:
        """Work until cancelled."""
        await self._inbox.run()

    def status(self) -> dict[str, Any]:
        """See Inbox.status."""
        return self._inbox.status()

    @property
    def remembers(self) -> bool:
        """True while ids can be kept, so that commands can be taken."""
        return self._inbox.remembers

    # ------------------------------------------------------------ the field process

    async def joined(self, client: LocalClient) -> None:
        """A field process is there: it journals what waited for it. Raises LocalError."""
        if self._lost:
            reason = f"{self._lost} receipts were lost while no field process was there"
            body = receipts.body_of({"key": "", "source": ""}, "failed", reason)
            await client.send({"type": "receipt", "receipt": body})
            self._lost = 0
        while self._held:  # nothing waits between the last of them and `_client`
            first = self._held[0]
            await client.send({"type": "receipt", "receipt": first})
            if self._held and self._held[0] is first:  # it may have fallen out meanwhile
                self._held.popleft()
        self._client = client

    def left(self) -> None:
        """The field process is gone."""
        self._client = None

    def heard(self, batch: Batch) -> None:
        """Records of the field process: receipts among them may answer a message."""
        for event in batch.events:
            if event.kind == "receipt":
                self._inbox.heard(event)

    # ------------------------------------------------------------ the ways out (Door)

    @property
    def ready(self) -> bool:
        """True while a field process is there."""
        return self._client is not None

    async def pass_on(self, message: Mapping[str, Any]) -> None:
        """Send a message to the field process. Raises NotPassedOn."""
        if self._client is None:
            raise NotPassedOn("not passed on: the field process ended")
        try:
            await self._client.send(message)
        except LocalError as error:
            raise NotPassedOn(f"perhaps not passed on: {error}") from error

    async def journal(self, body: Mapping[str, Any]) -> None:
        """Let the field process journal a receipt; it waits where there is none."""
        body = receipts.plain_body(body)
        if self._client is not None and not self._held:
            try:
                await self._client.send({"type": "receipt", "receipt": body})
                return
            except LocalError:
                pass  # it is journaled by the next one, perhaps twice
        self._lost += len(self._held) == HELD_MAX
        self._held.append(body)

    def publish(self, body: Mapping[str, Any], utc_ns: int) -> None:
        """Put a receipt on its topic; what can't travel is in the frames all the same."""
        try:
            self.say("receipts", receipts.encode(body, utc_ns))
        except WireError:
            pass
