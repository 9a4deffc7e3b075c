"""What the store takes, writes and gives up, for the gateway's own points (docs/operation.md)."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path
from typing import Any, Final

from gateway.core.clock import Clock
from sync.errors import StoreError
from sync.store.async_store import AsyncStore

LOOK_NS: Final = 2_000_000_000  # between two looks at the store
DAY_NS: Final = 86_400_000_000_000
SAMPLE_NS: Final = DAY_NS // 96  # a quarter of an hour
SAMPLES_MAX: Final = 97  # a day of them
SETTLED_NS: Final = 60_000_000_000  # the first writings of a start say nothing of a day


class Wear:
    """Bytes written a day, over the last day or since the start."""

    def __init__(self) -> None:
        self._samples: deque[tuple[int, int]] = deque(maxlen=SAMPLES_MAX)

    def add(self, now_ns: int, written_bytes: int) -> float | None:
        """How many bytes a day; None in the first minute. `written_bytes` counts up."""
        if self._samples and written_bytes < self._samples[-1][1]:
            self._samples.clear()  # the count began anew
        if not self._samples or now_ns - self._samples[-1][0] >= SAMPLE_NS:
            self._samples.append((now_ns, written_bytes))
        since_ns, before = self._samples[0]
        if now_ns - since_ns < SETTLED_NS:
            return None
        return (written_bytes - before) * DAY_NS / (now_ns - since_ns)


class StoreHealth:
    """Looks at the store every two seconds; between two looks the last one holds.

    used_percent    of the quota, what a new frame can't take the place of
    written_mb_day  MB a day handed to the disk, which wears flash memory; None in the first minute
    thinned         values given up for want of room or because of their age, since the start
    free_mb         MB that are free on the store's disk
    """

    def __init__(self, store: AsyncStore, path: Path, clock: Clock) -> None:
        self._store = store
        self._folder = path.parent
        self._clock = clock
        self._wear = Wear()
        self._looked_ns = 0
        self._found: dict[str, Any] = {}

    async def look(self) -> dict[str, Any]:
        """The figures for the health report; empty where the store refuses to tell."""
        now_ns = self._clock.monotonic_ns()
        if self._looked_ns and now_ns - self._looked_ns < LOOK_NS:
            return self._found
        self._looked_ns = now_ns
        try:
            usage = await self._store.usage()
            disk = os.statvfs(self._folder)
        except (StoreError, OSError):
            self._found = {}
            return self._found
        per_day = self._wear.add(now_ns, usage.written_bytes)
        self._found = {
            "used_percent": 100.0 * usage.data_bytes / usage.quota_bytes,
            "written_mb_day": None if per_day is None else per_day / 1e6,
            "thinned": usage.thinned + usage.aged,
            "free_mb": disk.f_bavail * disk.f_frsize / 1e6,
        }
        return self._found
