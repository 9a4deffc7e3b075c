"""From the local stream to the disk to the scan: a schedule is accepted when it is durable.

Files are written on a thread, one schedule behind the other; the scan goes on meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, Final

from gateway import schedule_files
from gateway.core.clock import Clock
from gateway.core.schedule import TEXT_CHARS_MAX, Schedule, ScheduleError, unpack_schedule
from gateway.schedule_files import ScheduleFileError
from gateway.schedules import NAMED_MAX, ORIGIN, ScheduleRefused, Schedules, Taken, Tell

log = logging.getLogger("gatepost.field")

WAITING_MAX: Final = 16  # schedules that came while the disk is busy


class ScheduleKeeper:
    """Takes schedules for `Schedules` and keeps them in a folder."""

    def __init__(
        self, schedules: Schedules, folder: Path, disk: Executor, event: Tell, clock: Clock
    ) -> None:
        """Goes on with what the folder holds; `disk` is where files are written."""
        self._schedules = schedules
        self._folder = folder
        self._disk = disk
        self._event = event
        self._clock = clock
        self._waiting: asyncio.Queue[Any] = asyncio.Queue(WAITING_MAX)
        kept, problems = schedule_files.load(folder)
        for problem in problems:
            log.error("schedule: %s", problem)
            self._event("gateway", {"what": "schedule lost", "reason": problem})
        if lost := schedules.restore(kept):
            body = {"what": "schedule for points that are no outputs", "points": len(lost)}
            self._event("gateway", body | {"tags": lost[:NAMED_MAX]})

    def take(self, packed: Any) -> None:
        """A schedule came, in columns; what becomes of it is told by a receipt."""
        try:
            self._waiting.put_nowait(packed)
        except asyncio.QueueFull:
            self._receipt(packed, "refused", "too many schedules wait for the disk")

    async def run(self) -> None:
        """Take what comes, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            packed = await self._waiting.get()
            now_utc_ns = self._clock.utc_ns()
            try:
                taken = await loop.run_in_executor(self._disk, self._keep, packed, now_utc_ns)
            except (ScheduleError, ScheduleRefused, ScheduleFileError) as refusal:
                self._receipt(packed, "refused", str(refusal))
                continue
            if taken is None:
                self._receipt(packed, "accepted", "it is here already")
                continue
            self._schedules.put(taken)
            self._receipt(packed, "accepted", "")
            for past in self._schedules.forget_past(now_utc_ns):
                await loop.run_in_executor(self._disk, self._forget, past)

    def _keep(self, packed: Any, now_utc_ns: int) -> Taken | None:
        """On the thread: from columns to a file that is synced; None where it is here already.

        Raises ScheduleError, ScheduleRefused or ScheduleFileError; nothing has changed then.
        """
        taken = self._schedules.judge(unpack_schedule(packed), now_utc_ns)
        if taken is not None:
            schedule_files.save(self._folder, taken.schedule)
        return taken

    def _forget(self, schedule: Schedule) -> None:
        try:
            schedule_files.delete(self._folder, schedule)
        except ScheduleFileError as error:  # it is read again and forgotten again
            log.warning("schedule: %s", error)

    def _receipt(self, packed: Any, step: str, reason: str) -> None:
        told = packed if isinstance(packed, Mapping) else {}
        message, name, source = (
            str(told.get(key, ""))[:TEXT_CHARS_MAX] for key in ("id", "schedule", "source")
        )
        body = {"command": message, "schedule": name, "tag": "", "value": 0.0, "origin": ORIGIN}
        self._event("receipt", body | {"source": source, "step": step, "reason": reason})
