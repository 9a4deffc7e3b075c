"""The link's copy of the point table, and the OPC UA server that shows it.

The copy exists so that the server, which takes seconds to start, never holds up the store: what
changed meanwhile is shown when it is ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from config import status
from config.findings import SiteError
from config.load import require_site
from config.site import Site
from gateway.core.clock import Clock
from gateway.core.paths import StatePaths
from gateway.core.records import RECORD, Batch, Birth
from gateway.local import LocalClient, LocalError
from gateway.opcua import OpcUaError, OpcUaServer
from gateway.opcua.desk import NotPassedOn
from gateway.opcua.model import SiteModel, model_of
from sync.remote import inbox

if TYPE_CHECKING:
    from sync.archive.archive import AsyncArchive

log = logging.getLogger("gatepost.link")

SHOW_PERIOD_S: Final = 0.05
NEWS_ROWS_MAX: Final = 20_000  # that wait to be shown; of more, each point's newest is
RETRY_S: Final = 5.0
ANSWER_S: Final = 2.0  # of the field process to a question
QUESTIONS_MAX: Final = 50  # that wait for their turn

Send = Callable[[Mapping[str, Any]], Awaitable[None]]


class FieldDesk:
    """The OPC UA server's way to the field process: commands on the link's own stream, and a
    connection of its own for questions, one at a time."""

    def __init__(
        self, socket: Path, ready: Callable[[], bool], pass_on: Send, journal: Send
    ) -> None:
        self._socket = socket
        self._ready = ready
        self._pass_on = pass_on
        self._journal = journal
        self._client: LocalClient | None = None
        self._turn = asyncio.Lock()
        self._waiting = 0

    @property
    def ready(self) -> bool:
        """True while a field process listens."""
        return self._ready()

    async def pass_on(self, message: Mapping[str, Any]) -> None:
        """Send a message to the field process. Raises NotPassedOn."""
        try:
            await self._pass_on(message)
        except inbox.NotPassedOn as error:
            raise NotPassedOn(str(error)) from error

    async def journal(self, body: Mapping[str, Any]) -> None:
        """Let the field process journal a receipt."""
        await self._journal(body)

    async def ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """A question like a tool's, and its answer. Raises NotPassedOn."""
        if self._waiting >= QUESTIONS_MAX:
            raise NotPassedOn(f"{QUESTIONS_MAX} questions wait for the field process")
        self._waiting += 1
        try:
            async with self._turn, asyncio.timeout(ANSWER_S):
                return await self._asked(message)
        except TimeoutError:
            raise NotPassedOn(f"the field process did not answer within {ANSWER_S:g} s") from None
        except LocalError as error:
            raise NotPassedOn(str(error)) from error
        finally:
            self._waiting -= 1

    async def _asked(self, message: Mapping[str, Any]) -> dict[str, Any]:
        client, self._client = self._client, None
        fresh = client is None
        if client is None:
            client = LocalClient(self._socket)
            await client.connect()
        answered = False
        try:
            await client.send(message)
            answer = await client.receive()
            answered = True
        except LocalError:
            if fresh:
                raise
        finally:
            if answered:
                self._client = client
            else:  # what it would answer now belongs to no question
                await client.close()
        if not answered:  # a connection that a field process before this one had
            return await self._asked(message)
        if answer["type"] == "error":
            raise NotPassedOn(str(answer["reason"]))
        return answer

    async def close(self) -> None:
        """End the connection."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()


class Mirror:
    """Values of all points as the link last heard them, served over OPC UA."""

    def __init__(
        self,
        site: Site,
        model: SiteModel,
        paths: StatePaths,
        clock: Clock,
        desk: FieldDesk,
        archive: Callable[[], Awaitable[AsyncArchive | None]],
    ) -> None:
        """`model` is taken while `site` still has its instruments; `archive` waits for it."""
        self.error = ""
        self._active = site.link.OpcUa.Active
        self._folder = site.folder
        self._model = model
        self._archive = archive
        self._desk = desk
        self._server = OpcUaServer(site.link.OpcUa, site.name, paths.folder, clock, desk)
        self._birth: Birth | None = None
        self._shown: tuple[str, str] | None = None  # hashes of the table and of its configuration
        self._records = np.zeros(0, dtype=RECORD)  # row i = point i + 1
        self._changed = np.zeros(0, dtype=np.bool_)
        # What came since the last showing, in its order; None = `_changed` must do.
        self._news: list[NDArray[np.void]] | None = None
        self._news_rows = 0
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
        self._news = None
        self._server.field(there=True)
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
        self._news_rows += len(records)
        if self._news_rows > NEWS_ROWS_MAX:
            self._news = None
        elif self._news is not None and len(records):
            self._news.append(records)
        self._wake.set()

    def heard(self, batch: Batch) -> None:
        """Take a batch: its values, and its receipts and alarms for those who wait for them."""
        self.update(batch.records)
        # Behind the store's work, and so that no fault in there can stop it.
        asyncio.get_running_loop().call_soon(self._tell, batch)

    def _tell(self, batch: Batch) -> None:
        """Values first where a receipt comes with them: who hears that his write is verified must
        not read the value before it."""
        birth = self._birth
        shown = birth is not None and (birth.hash, birth.config_hash) == self._shown
        if shown and not self._server.busy and any(e.kind == "receipt" for e in batch.events):
            self._server.update_now(self._taken())
        self._server.heard(batch)

    def lost(self, utc_ns: int) -> None:
        """The field process is gone: nothing that a client sees may look good any more."""
        if self._birth is None or not len(self._records):
            return
        self._server.field(there=False)
        self._records["status"] = status.BAD_NO_COMMUNICATION
        self._records["utc_ns"] = utc_ns
        self._show_all()
        self._wake.set()

    def failed(self, error: Exception) -> None:
        """A fault of ours: nothing is shown any more, and the link goes on."""
        self.error = f"OPC UA has a fault, see the log: {type(error).__name__}: {error}"
        log.error("OPC UA: a fault of ours", exc_info=error)

    def status(self) -> dict[str, Any]:
        """Address and size of the server, and how many are connected, for the link's health."""
        up = self._shown is not None
        return {
            "opcua": self._server.url if up else "",
            "opcua_starts": self._active and not up and not self.error,
            "opcua_variables": self._server.variables if up else 0,
            "opcua_clients": self._server.clients if up else 0,
        }

    async def run(self) -> None:
        """Show changes until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            birth = self._birth
            if birth is None:
                continue
            if (birth.hash, birth.config_hash) != self._shown and not await self._serve(birth):
                await asyncio.sleep(RETRY_S)
                self._wake.set()
                continue
            records = self._taken()
            if len(records):
                await self._server.update(records)
                self.error = ""  # a fault before is over
            await asyncio.sleep(SHOW_PERIOD_S)

    def _show_all(self) -> None:
        self._changed[:] = True
        self._news = None

    def _taken(self) -> NDArray[np.void]:
        """What is to be shown now: every row that came since the last time, in its order; the
        newest of each point where all of them changed at once, or where it would be too many."""
        index = np.flatnonzero(self._changed)
        self._changed[index] = False
        news, self._news, self._news_rows = self._news, [], 0
        return np.concatenate(news) if news else self._records[index]

    async def _serve(self, birth: Birth) -> bool:
        """Start the server, or give it the new configuration. False where it can't."""
        if birth.config_hash != self._model.hash:
            self._model = await self._loaded(birth)
        try:
            if self._shown is None:
                await self._server.start(self._model, birth.points, await self._archive())
            else:
                await self._server.rebuild(self._model, birth.points)
        except OpcUaError as error:
            if str(error) != self.error:
                log.error("OPC UA: %s", error)
            self.error = str(error)
            return False
        # Later, a full collection over the address space would hold the loop up for long.
        gc.collect()
        gc.freeze()
        self.error = ""
        self._shown = (birth.hash, birth.config_hash)
        self._show_all()
        return True

    async def _loaded(self, birth: Birth) -> SiteModel:
        """The site folder's model, where the field process runs by it.

        Where the folder has gone on meanwhile, or has mistakes now, what is known stays: its points
        are the birth's all the same.
        """
        with contextlib.suppress(SiteError):
            model = await asyncio.to_thread(_load, self._folder)
            if model.hash == birth.config_hash:
                return model
        log.warning("OPC UA: the site folder is not what the field process runs by")
        return self._model

    async def stop(self) -> None:
        """Close the server."""
        if self._shown is not None:
            await self._server.stop()
        await self._desk.close()


def _load(folder: Path) -> SiteModel:
    return model_of(require_site(folder))
