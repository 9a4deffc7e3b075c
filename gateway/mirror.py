"""The link's copy of the point table, and the OPC UA server that shows it.

The copy exists so that the server, which takes seconds to start, never holds up the store: what
changed meanwhile is shown when it is ready.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from config import status
from config.site import Site
from gateway.core.records import RECORD, Birth
from gateway.opcua import OpcUaError, OpcUaServer

log = logging.getLogger("gatepost.link")

SHOW_PERIOD_S: Final = 0.05
RETRY_S: Final = 5.0


class Mirror:
    """Values of all points as the link last heard them, served over OPC UA."""

    def __init__(self, site: Site) -> None:
        self.error = ""
        self._active = site.link.OpcUa.Active
        self._server = OpcUaServer(site.link.OpcUa.Endpoint, site.name)
        self._birth: Birth | None = None
        self._shown: str | None = None  # hash of the point table that the server has
        self._records = np.zeros(0, dtype=RECORD)  # row i = point i + 1
        self._changed = np.zeros(0, dtype=np.bool_)
        self._wake = asyncio.Event()

    def born(self, birth: Birth, rows: NDArray[np.void]) -> None:
        """Take a whole table: (P,) POINT rows, row 0 reserved."""
        if not self._active:
            return
        self._birth = birth
        self._records = np.zeros(len(rows) - 1, dtype=RECORD)
        self._records["point"] = np.arange(1, len(rows))
        for column in ("seq", "status", "value", "utc_ns"):
            self._records[column] = rows[column][1:]
        self._changed = np.ones(len(self._records), dtype=np.bool_)
        self._wake.set()

    def update(self, records: NDArray[np.void]) -> None:
        """Take changes; where a point changed twice, the later row wins.

        Rows from before the birth, which a link that was away gets behind it, change nothing.
        """
        if not self._active:
            return
        index = records["point"].astype(np.int64) - 1
        newer = records["seq"] > self._records["seq"][index]
        records, index = records[newer], index[newer]
        self._records[index] = records
        self._changed[index] = True
        self._wake.set()

    def lost(self, utc_ns: int) -> None:
        """The field process is gone: nothing that a client sees may look good any more."""
        if self._birth is None or not len(self._records):
            return
        self._records["status"] = status.BAD_NO_COMMUNICATION
        self._records["utc_ns"] = utc_ns
        self._changed[:] = True
        self._wake.set()

    def status(self) -> dict[str, Any]:
        """Address and size of the server, for the link's health."""
        up = self._shown is not None
        return {
            "opcua": self._server.url if up else "",
            "opcua_variables": self._server.variables if up else 0,
        }

    async def run(self) -> None:
        """Show changes until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            birth = self._birth
            if birth is None:
                continue
            if birth.hash != self._shown and not await self._serve(birth):
                await asyncio.sleep(RETRY_S)
                self._wake.set()
                continue
            index = np.flatnonzero(self._changed)
            if len(index):
                self._changed[index] = False
                await self._server.update(self._records[index])
            await asyncio.sleep(SHOW_PERIOD_S)

    async def _serve(self, birth: Birth) -> bool:
        """Start the server, or give it the new point table. False where it can't."""
        try:
            if self._shown is None:
                await self._server.start(birth.points)
                # A full collection over the address space would hold the loop up for long.
                gc.collect()
                gc.freeze()
            else:
                await self._server.rebuild(birth.points)
        except OpcUaError as error:
            if str(error) != self.error:
                log.error("OPC UA: %s", error)
            self.error = str(error)
            return False
        self.error = ""
        self._shown = birth.hash
        self._changed[:] = True
        return True

    async def stop(self) -> None:
        """Close the server."""
        if self._shown is not None:
            await self._server.stop()
