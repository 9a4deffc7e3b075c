"""The far side of bench/store.py as a process of its own: ingest into a SQLite historian.

Arguments: the broker's URL, the historian's file, the file for the ages. SIGTERM ends it; then the
ages of all live values, from their source time to their commit, are written as a JSON array of
[commit time in ns, age in ns].
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cloud.historian_sqlite import SqliteHistorian
from cloud.ingest import Ingest
from gateway.core.clock import SystemClock
from sync.wire import Frame

LIVE_EPOCH = 2


class Timed(SqliteHistorian):
    """Notes when live values were committed."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.ages: list[tuple[int, int]] = []

    def commit_frames(self, frames: Sequence[tuple[str, Frame]]) -> None:
        """See `SqliteHistorian.commit_frames`."""
        super().commit_frames(frames)
        now_ns = time.time_ns()
        for _, frame in frames:
            if frame.batch.epoch == LIVE_EPOCH:
                self.ages += [(now_ns, now_ns - int(t)) for t in frame.batch.records["utc_ns"]]


async def main() -> list[tuple[int, int]]:
    """Ingests until SIGTERM; returns the ages."""
    url, path = sys.argv[1], Path(sys.argv[2])
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    historian = Timed(path)
    ingest = Ingest(historian, url, SystemClock())
    task = asyncio.create_task(ingest.run())
    await ingest.wait_ready()
    print("ready", flush=True)
    await stop.wait()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    historian.close()
    return historian.ages


if __name__ == "__main__":
    found = asyncio.run(main())
    Path(sys.argv[3]).write_text(json.dumps(found), encoding="utf-8")
