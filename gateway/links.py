"""All links of the link process: one forwarder each, so that one that fails holds up no other."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Final

from config.link import CLOUD, LinkFile
from gateway.core.clock import Clock
from sync.errors import StoreError
from sync.forms.formats import form_of
from sync.link.forward import BACKLOG_LOOK_S, Forwarder
from sync.link.latest import Latest
from sync.link.mqtt import MqttSession
from sync.link.session import Handler
from sync.store.async_store import AsyncStore

RESTART_S: Final = 10.0  # a forwarder that failed by a mistake of ours begins anew after this

log = logging.getLogger("gatepost.link")

_NO_LINK: Final[Mapping[str, Any]] = {
    "connected": False,
    "url": "",
    "acknowledged": (0, 0),
    "last_error": "",
}


class Links:
    """The forwarders of a site."""

    def __init__(
        self,
        config: LinkFile,
        site: str,
        store: AsyncStore,
        clock: Clock,
        *,
        latest: Latest,
        folder: Path,
        incoming: Mapping[str, Handler] | None = None,
        connect: Callable[..., MqttSession] = MqttSession,
    ) -> None:
        """One forwarder for each active link of `config`.

        latest    what is known of all points, for forms that send it with a birth
        folder    the state folder
        incoming  channel -> who gets what comes in on it, from the cloud only
        connect   makes sessions with brokers

        Raises ValueError where `site` can't stand in a topic.
        """
        self._store = store
        self._backlog = 0
        self._forwarders = {
            name: Forwarder(
                store,
                name,
                entry,
                site,
                clock,
                form=form_of(name, entry, site, clock, latest, folder),
                records_per_s=config.Store.BacklogRecordsPerSecond,
                incoming=incoming if name == CLOUD else None,
                connect=connect,
            )
            for name, entry in config.links().items()
        }

    def notify_appended(self) -> None:
        """Something new stands in the store, or the field process came or went."""
        for forwarder in self._forwarders.values():
            forwarder.notify_appended()

    def say(self, channel: str, payload: bytes) -> None:
        """Publish a message to the cloud as soon as it can be reached; see `Forwarder.say`."""
        cloud = self._forwarders.get(CLOUD)
        if cloud is not None:
            cloud.say(channel, payload)

    @property
    def connected(self) -> bool:
        """True while any link holds a session."""
        return any(each["connected"] for each in self.statuses().values())

    def statuses(self) -> dict[str, dict[str, Any]]:
        """The status of each link by its name."""
        return {name: each.status() for name, each in self._forwarders.items()}

    def status(self) -> dict[str, Any]:
        """That of the cloud, or of the first link without one; and `links`, those of all.

        `backlog` counts the records that any of them still needs.
        """
        every = self.statuses()
        first = next(iter(every.values()), _NO_LINK)
        return {**first, "backlog": self._backlog, "links": every}

    async def run(self) -> None:
        """Forwards on every link, for ever."""
        async with asyncio.TaskGroup() as group:
            for forwarder in self._forwarders.values():
                name = f"link {forwarder.name}"
                group.create_task(keep(name, forwarder.run), name=name)
            group.create_task(self._look())

    async def _look(self) -> None:
        while True:
            with contextlib.suppress(StoreError):
                self._backlog = (await self._store.backlog()).records
            await asyncio.sleep(BACKLOG_LOOK_S)


async def keep(name: str, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Runs it for ever: a mistake in the form of one consumer must not take the others along."""
    while True:
        task = asyncio.create_task(run())
        try:
            await asyncio.wait((task,))
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        error = task.exception() if not task.cancelled() else None
        log.critical("%s: stopped by %r", name, error, exc_info=error)
        await asyncio.sleep(RESTART_S)
