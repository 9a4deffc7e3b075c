"""What hangs on the link process beside its links: the site bus, and bridges between brokers.

Each runs for itself; neither the store nor the forwarders wait for them.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from config.site import Site
from gateway.core.clock import Clock
from gateway.core.records import Batch, Birth, Command
from gateway.links import keep
from sync.bridge.bridge import Bridge
from sync.bus.relay import SiteBus
from sync.remote.inbox import NotPassedOn


class Outside:
    """The site bus and the bridges of a site; none of them where link.json has none."""

    def __init__(
        self,
        site: Site,
        on_bus: Sequence[str],
        clock: Clock,
        pass_on: Callable[[Mapping[str, Any]], Awaitable[None]],
        journal: Callable[[Mapping[str, Any]], Awaitable[None]],
    ) -> None:
        """on_bus   equipment that the bus serves, see config.site_bus.served
        pass_on  sends a message to the field process; raises NotPassedOn
        journal  lets the field process record a receipt
        """
        entry = site.link.SiteBus
        self._pass_on = pass_on
        self._bus = (
            SiteBus(entry, site.name, on_bus, clock, self._submit, journal)
            if entry is not None
            else None
        )
        self._bridges = {
            name: Bridge(name, bridge, site.name, clock)
            for name, bridge in site.link.Bridges.items()
        }

    def born(self, birth: Birth, rows: NDArray[np.void]) -> None:
        """The field's whole table: (P,) POINT rows, row 0 reserved."""
        if self._bus is not None:
            self._bus.born(birth, rows)

    def heard(self, batch: Batch) -> None:
        """Records and events of the field process."""
        if self._bus is not None:
            self._bus.update(batch.records)
            for event in batch.events:
                self._bus.event(event)

    def lost(self) -> None:
        """The field process is gone."""
        if self._bus is not None:
            self._bus.lost()

    async def run(self) -> None:
        """Speak on the bus and forward on the bridges, for ever."""
        async with asyncio.TaskGroup() as group:
            if self._bus is not None:
                group.create_task(keep("site bus", self._bus.run))
            for name, bridge in self._bridges.items():
                group.create_task(keep(f"bridge {name}", bridge.run))
            await asyncio.Event().wait()  # also where a site has neither

    async def _submit(self, command: Command) -> str:
        try:
            await self._pass_on({"type": "command", "command": dataclasses.asdict(command)})
        except NotPassedOn as error:
            return str(error)
        return ""

    def status(self) -> dict[str, Any]:
        """For the link's health; msgpack-able."""
        return {
            "site_bus": self._bus.status() if self._bus is not None else {},
            "bridges": {name: bridge.status() for name, bridge in self._bridges.items()},
        }
